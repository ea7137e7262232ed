"""Gas of the Market: fixed amounts, on the scale of vm.system.gas, about 3 gas a microsecond.

An amount is the most that an item may cost, charged before it begins. A write to a fresh slot is counted at 330 gas
(its part of the state root is most of that), a member of the set that a draw looks at at 500.
"""

from consensus.work.deal import EXECUTOR_SLOTS, RETRY_BLOCKS_MAX
from consensus.work.fees import WorkGas
from primitives.params import ChainParams

POST = 15_000
POST_BYTE = 4
"""On top of POST: a byte of the prompt (hashed once, logged once)."""
CANCEL = 12_000
FILL_FUND = 2_000
MEMBER = 500
"""A member of the current set that a deal, a draw or a check of assurance looks at."""

WORK = 1_500
"""A batch, without its items."""
SUBMIT = 9_000
SUBMIT_TOKEN = 12
VERDICT = 6_000
REVEAL = 9_000

LOOK = 600
"""A queue's entry that turns out stale."""
CLOSE = 12_000
"""A window or deadline that ended: at most a refund, which prunes the task."""
DRAW = 8_000
SETTLE = 22_000
DEAL = 9_000
CANARY = 11_000

TASK_WORDS = 48
"""Words that a view of one task reads: its own and its seats'."""

MESSAGE = 25_000
"""A transaction that carries one work item: intrinsic gas, calldata, dispatch."""
TOKEN_CALLDATA = 64
WORK_PAID = WorkGas(
    submit=MESSAGE + WORK + SUBMIT,
    submit_token=SUBMIT_TOKEN + TOKEN_CALLDATA,
    verdict=MESSAGE + WORK + VERDICT,
    reveal=MESSAGE + WORK + REVEAL,
)
"""What the work part of an escrow pays back, in gas."""


def deal(members: int) -> int:
    """A deal over a set of so many."""
    return DEAL + MEMBER * members


def draw(members: int) -> int:
    """An audit draw over a set of so many."""
    return DRAW + MEMBER * members


def caused_by_post(params: ChainParams, members: int, deadline: int) -> int:
    """The fixed maximum gas of every item of later prologues that one post can cause.

    Deals (the first, and retries after 1, 2, 4 .. 32 blocks until the deadline), draws (the first and the redraws), the
    ends of its windows (posted, three slots, each draw's verdicts, the reveals), one settlement.
    """
    deals = 1 + RETRY_BLOCKS_MAX.bit_length() + deadline // RETRY_BLOCKS_MAX
    draws = 1 + params.redraws_max
    ends = 1 + EXECUTOR_SLOTS + draws + 1
    return deals * deal(members) + draws * draw(members) + ends * CLOSE + SETTLE


assert WORK_PAID.submission(0) > WORK_PAID.verdict
