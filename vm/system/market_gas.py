"""Gas of the Market: the most that each of its items may cost, in the reads, writes and logs of vm.system.gas.

The amounts bound what one post can cause: `post` charges all of it. A task ends once, so the pruning and paying of its
end is charged apart from the windows and draws that may lead to it.
"""

from consensus.work.deal import EXECUTOR_SLOTS, RETRY_BLOCKS_MAX
from consensus.work.fees import WorkGas
from primitives.params import ChainParams
from vm.system.gas import LOG, READ, WRITE
from vm.system.market_state import FRESH_MAX

TASK = 21
"""Words of a task's record."""
QUEUED = 3
"""Words that an entry of a queue takes: itself, its bucket's length, the count; the same when it is taken out."""
HEAP_LEVELS = FRESH_MAX.bit_length()
PUSHED = HEAP_LEVELS * (READ + WRITE)
POPPED = HEAP_LEVELS * (2 * READ + WRITE)
"""A word into a heap of tasks by tip, and the first one out."""
DUTY = 3
"""Words that an operator's duty takes, in and out."""
SEAT = 2
"""Words of a verifier's seat."""

MISHAP = 3 * READ + 3 * WRITE
"""A miss or a refusal in its operator's ring."""

MEMBER = 8 * READ
"""A member of the current set that a deal, a draw or a check of assurance looks at: its bond, its service."""
POST = 20 * READ + 18 * WRITE + LOG + PUSHED
POST_BYTE = 4
"""On top of POST: a byte of the prompt (hashed once, logged once)."""
CANCEL = TASK * READ
FILL_FUND = 2 * READ + 2 * WRITE + LOG

WORK = 3 * READ
"""A batch, without its items."""
SUBMIT = (TASK + 12) * READ + (9 + QUEUED) * WRITE + LOG
SUBMIT_TOKEN = 12
VERDICT = (TASK + 2 * SEAT) * READ + (3 + QUEUED) * WRITE + 2 * LOG
REVEAL = (TASK + 2 * SEAT) * READ + (6 + QUEUED) * WRITE + 2 * LOG

LOOK = 3 * READ + 2 * WRITE + POPPED
"""An entry of a queue that turns out stale."""
CLOSE = (TASK + 2 * SEAT) * READ + (4 + 2 * QUEUED) * WRITE + 2 * (MISHAP + LOG)
"""A window that ended: misses, the next one's opening. What it may lead to (REFUND, DRAW) is apart."""
DRAW = (TASK + 2 * SEAT) * READ + (2 + 2 * QUEUED + 2 * (SEAT + DUTY)) * WRITE + LOG
TRY = (TASK + 6) * READ + (1 + 2 * QUEUED) * WRITE + LOG
"""A deal that finds nobody, apart from the members it looks at."""
DEAL = TRY + POPPED + (9 + EXECUTOR_SLOTS * DUTY) * WRITE
CANARY = 10 * READ + (8 + 2 * QUEUED) * WRITE + LOG
PRUNE = (TASK + 2 * SEAT + (EXECUTOR_SLOTS + 2) * DUTY) * WRITE + 10 * READ
"""A task's words, those of two seats and five duties, and what is left of it."""
REFUND = PRUNE + 4 * (READ + WRITE) + LOG
SETTLE = TASK * READ + QUEUED * WRITE + PRUNE + 30 * READ + 24 * WRITE + 8 * LOG

TASK_WORDS = 48
"""Words that a view of one task reads: its own and its seats'."""

MESSAGE = 25_000
"""A transaction that carries one work item: intrinsic gas, calldata, dispatch."""
TOKEN_CALLDATA = 64
ELEMENT_CALLDATA_FLOOR = 160
"""An element of a vector: four bytes that are seldom zero, at the floor of EIP-7623, which a long vector pays."""
WORK_PAID = WorkGas(
    submit=MESSAGE + WORK + SUBMIT,
    submit_token=SUBMIT_TOKEN + TOKEN_CALLDATA,
    submit_element=ELEMENT_CALLDATA_FLOOR,
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

    The deal and its retries after 1, 2, 4 .. 32 blocks until the deadline, draws (the first and the redraws), the ends
    of its windows (posted, three slots, each draw's verdicts, the reveals), and one end: SETTLE is more than REFUND.
    """
    retries = RETRY_BLOCKS_MAX.bit_length() + deadline // RETRY_BLOCKS_MAX
    draws = 1 + params.redraws_max
    ends = 1 + EXECUTOR_SLOTS + draws + 1
    return deal(members) + retries * (TRY + MEMBER * members) + draws * draw(members) + ends * CLOSE + SETTLE


assert SETTLE > REFUND
