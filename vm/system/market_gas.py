"""Gas of the Market: the most that each of its items may cost, in the reads, writes and logs of vm.system.gas.

The amounts bound what one post can cause: `post` charges all of it. A task ends once, so the pruning and paying of its
end is charged apart from the windows and draws that may lead to it.
"""

from consensus.work.deal import EXECUTOR_SLOTS, RETRY_BLOCKS_MAX
from consensus.work.fees import WorkGas
from primitives.params import ChainParams
from vm.system.gas import LOG, READ, RECEIPT_LEVELS, WRITE
from vm.system.market_state import FRESH_MAX

TASK = 19
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

DECLARED = 3 * READ
"""What an operator declared ahead."""
MISHAP = 3 * READ + 3 * WRITE
"""A miss or a refusal in its operator's ring."""

LOOKED = 100
"""30 microseconds: what is worked out of a member whose words this block has read."""
SET_MEMBER = 6 * READ
"""A member of the current set, the first time that a step of the prologue looks at the set: what it weighs, its stake,
what it has open, what it declared ahead. A step pays it once a block out of the prologue's budget, however many tasks
wait: like the turn, it is bounded by the set alone."""
MEMBER = READ + LOOKED
"""On top, for each deal, draw and passed slot: a member's service of the model."""
POST_MEMBER = 3 * READ + LOOKED
"""A member that a post or a quote looks at: what it weighs, its stake, its service."""
POST = 20 * READ + 18 * WRITE + LOG + PUSHED
POST_BYTE = 4
"""On top of POST: a byte of the prompt (hashed once, logged once)."""
CANCEL = TASK * READ
FILL_FUND = 2 * READ + 2 * WRITE + LOG

WORK = 3 * READ
"""A batch, without its items."""
EXPOSURE = READ + WRITE
"""What an operator has open in tasks, more or less by one."""
SUBMIT = (TASK + 12) * READ + (9 + QUEUED) * WRITE + 3 * EXPOSURE + LOG
SUBMIT_TOKEN = 12
VERDICT = (TASK + 6) * READ + (4 + QUEUED) * WRITE + 2 * LOG
REVEAL = (TASK + 6) * READ + (8 + QUEUED) * WRITE + 2 * LOG
TRAP = REVEAL + 2 * EXPOSURE + LOG
"""A trap opened; with its seats, and for each that was caught TRAPPED."""
TRAPPED = 24 * READ + 20 * WRITE + MISHAP + 4 * LOG
SEAT_SEEN = SEAT * READ
"""On top of both: a seat of the task, lost ones with them."""

LOOK = 3 * READ + 2 * WRITE + POPPED
"""An entry of a queue that turns out stale."""
CLOSE = TASK * READ + (4 + 2 * QUEUED) * WRITE
CLOSE_SEAT = SEAT * READ + WRITE + EXPOSURE + DECLARED + MISHAP + LOG
"""A window that ended: misses, the next one's opening. What it may lead to (REFUND, DRAW) is apart."""
PASSED = 12 * READ + 6 * WRITE
"""On top, when a slot's own time has passed: what it misses, the model, the next one's turn. Members are apart."""
DRAW = (TASK + 10) * READ + (2 + 2 * QUEUED) * WRITE + LOG
DRAW_SEAT = (SEAT + 2) * READ + (SEAT + DUTY) * WRITE + EXPOSURE
TRY = (TASK + 6) * READ + (1 + 2 * QUEUED) * WRITE + LOG
"""A deal that finds nobody, apart from the members it looks at."""
DEAL = TRY + POPPED + (9 + EXECUTOR_SLOTS * DUTY) * WRITE + EXPOSURE
CANARY = 10 * READ + (8 + 2 * QUEUED) * WRITE + LOG
"""Apart from the members and the models that are looked at."""
LISTED = 5 * READ
"""A listed model, whether it is one and what it is."""
COMMISSION = 48 * READ + 12 * WRITE + QUEUED * WRITE + 2 * LOG
"""A task of a commissioned batch: its prompt, its escrow, apart from the members that are looked at."""
PRUNE = (TASK + EXECUTOR_SLOTS * DUTY + QUEUED) * WRITE + EXPOSURE + 10 * READ
PRUNE_SEAT = SEAT * READ + (SEAT + DUTY) * WRITE + EXPOSURE
"""A task's words, its slots' duties, what is left of it and when that is forgotten; each seat and its duty."""
FORGET = QUEUED * (READ + WRITE) + 3 * WRITE
"""The last of a task: its end, its receipt's id."""
FORGET_PROMPT = QUEUED * (READ + WRITE) + READ + WRITE
"""That a prompt was answered without a seed."""
REFUND = PRUNE + 4 * (READ + WRITE) + LOG
SETTLE = TASK * READ + 2 * QUEUED * WRITE + PRUNE + (30 + RECEIPT_LEVELS) * READ + 23 * WRITE + 5 * LOG
"""With the receipt's place under the root of its epoch: a peak a level at most is read."""
PAY_SEAT = 12 * READ + 8 * WRITE + 3 * LOG
"""A verifier is paid, and its delegators."""

QUEUE_CALLBACK = 5 * READ + 10 * WRITE + PUSHED
CALLBACK = 12 * READ + 14 * WRITE + POPPED + QUEUED * WRITE + LOG
"""A callback into its queue, and made: apart from the gas that it asks for itself."""

TASK_WORDS = 48
"""Words that a view of one task reads: its own and its seats'."""

MESSAGE = 23_500
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
    seat_seen=SEAT_SEEN,
)
"""What the work part of an escrow pays back, in gas."""


def look(members: int) -> int:
    """A step's first look in a block at a set of so many."""
    return SET_MEMBER * members


def deal(members: int) -> int:
    """A deal over a set of so many, which the step has looked at."""
    return DEAL + MEMBER * members


def draw(members: int, auditors: int) -> int:
    """An audit draw of so many over a set of so many, which the step has looked at."""
    return DRAW + DRAW_SEAT * auditors + MEMBER * members


def close(seats: int) -> int:
    """The end of a window of a task with so many seats."""
    return CLOSE + CLOSE_SEAT * max(1, seats)


def pass_slot(members: int) -> int:
    """The end of a slot's own time, over a set of so many, which the step has looked at."""
    return close(0) + PASSED + MEMBER * members


def canary(members: int, listed: int) -> int:
    """A canary: the set, and the service of each of so many listed models."""
    return CANARY + look(members) + (MEMBER * members + LISTED) * listed


def commission(members: int) -> int:
    """A commissioned task: the set, and the service of its model."""
    return COMMISSION + look(members) + MEMBER * members


def settle(auditors: int, seats: int) -> int:
    """The settlement of a task that so many check, with that many seats drawn, the lost ones among them."""
    return SETTLE + PAY_SEAT * auditors + PRUNE_SEAT * seats


def refund(seats: int) -> int:
    """The refund of a task with so many seats."""
    return REFUND + PRUNE_SEAT * seats


def way_back(seats: int, callback: bool) -> int:
    """What must remain beside an item that a refund may end: the refund, and the callback that it hands on."""
    return refund(seats) + (QUEUE_CALLBACK if callback else 0)


def caused_by_post(params: ChainParams, members: int, deadline: int, auditors: int, callback: bool) -> int:
    """The fixed maximum gas of every item of later prologues that one post can cause, checked by so many.

    The deal and its retries after 1, 2, 4 .. 32 blocks until the deadline, draws (the first and the redraws), the ends
    of its windows (posted, three slots, each draw's verdicts, the reveals), one end (SETTLE is more than REFUND), and
    that it and its prompt are forgotten. A look at the set is in the deal's and the first draw's; that of a retry or a
    redraw is in the budget of its block (SET_MEMBER).
    """
    retries = RETRY_BLOCKS_MAX.bit_length() + deadline // RETRY_BLOCKS_MAX
    draws = 1 + params.redraws_max
    tries = look(members) + deal(members) + retries * (TRY + MEMBER * members)
    drawn = look(members) + draws * draw(members, auditors)
    ends = close(0) + EXECUTOR_SLOTS * pass_slot(members) + (draws + 1) * close(auditors)
    end = settle(auditors, auditors * draws) + (QUEUE_CALLBACK + CALLBACK if callback else 0)
    return tries + drawn + ends + end + FORGET + FORGET_PROMPT


assert SETTLE > REFUND
