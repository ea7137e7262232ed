"""Gas of the Referee: the most that its moves and ends may cost, in the reads, writes and logs of vm.system.gas.

What a message costs its sender is what the EVM charges for it: for a page or an opening that is the floor of its
calldata (EIP-7623), well above these amounts.
"""

from consensus.work.incentive import AUDITORS_MAX
from primitives.params import DISPUTE_WORST_GAS, ChainParams
from vm.system import second_referee
from vm.system.gas import CALL, CALLDATA_BYTE, LOG, READ, WRITE
from vm.system.market_gas import PRUNE_SEAT, QUEUED, TASK, way_back

DISPUTE = 11
"""Words of a dispute."""
RECORD = 6
"""Words of a model's record and root."""
LIST = 12_000
"""The list of operations of a leaf, built to know an operation's length: 4 ms."""

BEGIN = LIST + (DISPUTE + TASK + RECORD) * READ + (DISPUTE + 2 * QUEUED) * WRITE + LOG
END = LIST + (DISPUTE + TASK + 30) * READ + (DISPUTE + TASK + 40) * WRITE + 8 * LOG
"""The end of a dispute: who lost pays, who won is paid, and the task goes on. A refund is apart."""
END_PARTY = 16 * READ + 12 * WRITE + 2 * LOG
"""On top of END: an executor or verifier that may be slashed or paid. Seats are pruned besides."""
MOOT = (DISPUTE + TASK) * READ + (DISPUTE + QUEUED + 14) * WRITE + LOG
LANE = 2 * READ + 2 * WRITE
"""Once a block: whether the lane of the block before was full."""
LATE = (DISPUTE + 4) * READ + (4 + QUEUED) * WRITE
"""A clock that stood for some blocks is set anew; or an entry that means nothing any more."""
FORGET = (DISPUTE + 2 * QUEUED) * READ + (8 + 2 * QUEUED) * WRITE
"""What is left of a dispute that is over leaves the state."""
CHALLENGE = (TASK + RECORD + 20) * READ + (DISPUTE + 3 * QUEUED + 8) * WRITE + LOG + BEGIN + FORGET
"""Filing, the beginning, and that it is forgotten. One end by time, which a prologue pays, is charged with it."""
SHOW = (DISPUTE + TASK + RECORD + 12) * READ + (DISPUTE + 2 * QUEUED + 8) * WRITE + LOG + LIST
SHOW_BYTE = 1
"""On top: hashing and logging, a byte."""
CHOOSE = (DISPUTE + TASK + RECORD) * READ + (DISPUTE + 2 * QUEUED) * WRITE + LOG + 2 * LIST
OPEN = (DISPUTE + TASK + RECORD) * READ + LOG + 3 * LIST
"""The judge builds the list twice. What it leads to, an end, is charged with it."""
DISPUTE_VIEW = DISPUTE + 4

TRANSACTION = 21_000
ENVELOPE = 3_000
"""Of a move's calldata beside its bytes: selector, offsets, lengths, the path of a choice."""
FLOOR_TOKEN = 10
TOKEN = 4
NONZERO_TOKENS = 4


def message(data: bytes, executed: int) -> int:
    """What a message with these bytes costs its sender: EIP-7623's floor, or ordinary calldata and what it executed."""
    zeros = data.count(0)
    tokens = zeros + NONZERO_TOKENS * (len(data) - zeros)
    return TRANSACTION + ENVELOPE + max(FLOOR_TOKEN * tokens, TOKEN * tokens + executed)


def end(auditors: int, seats: int) -> int:
    """The end of a dispute about a task that so many check, with that many seats drawn, the lost ones among them."""
    return END + END_PARTY * (1 + auditors) + PRUNE_SEAT * seats


def challenging(data: bytes, auditors: int, seats: int) -> int:
    """The gas limit for a message `challenge`, with the end by time that it pays for."""
    return message(data, CHALLENGE + end(auditors, seats) + CALL + CALLDATA_BYTE * len(data))


def showing(data: bytes) -> int:
    """The gas limit for a message `show` with this calldata."""
    return message(data, SHOW + (SHOW_BYTE + CALLDATA_BYTE) * len(data) + CALL)


def choosing(data: bytes) -> int:
    """The gas limit for a message `choose` with this calldata."""
    return message(data, CHOOSE + CALL + CALLDATA_BYTE * len(data))


def opening(data: bytes, auditors: int, seats: int) -> int:
    """The gas limit for a message `open` with this calldata: both referees, and the end that it leads to, be it the
    refund of a task that asked for more verifiers than were drawn and for a callback."""
    back = way_back(max(seats, AUDITORS_MAX), callback=True)
    return message(data, OPEN + second_referee.GAS + end(auditors, seats) + back + CALL + CALLDATA_BYTE * len(data))


def running_max(params: ChainParams) -> int:
    """Disputes that may run at once: their worst gas fits the lane over one clock."""
    return params.dispute_lane_gas * params.dispute_clock_blocks // DISPUTE_WORST_GAS
