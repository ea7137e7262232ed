"""What the Referee keeps in storage: disputes, who waits for which accused, clocks, offences.

Owns the layout and nothing of the rules. Of everything that is shown one hash stays; bytes stand in logs.
"""

from dataclasses import dataclass

from primitives.address import REFEREE
from vm.system.context import ReadContext, Refused
from vm.system.layout import Queue, Scalar, Table, WordList, Words, raw, u64, uint
from vm.system.market_state import Bag

NOBODY = bytes(20)
AUTHOR_ACCUSED, AUTHOR_DRAWN, AUTHOR_ANYONE = 1, 2, 3
"""Who posted the list: the accused; a drawn verifier whose verdict opened to its root; somebody with a bond."""
TURNS_MAX = 64
"""Moves of a defence that are remembered, each with what it cost: more than the longest game has, stand-ins with it."""
LINE_DRAWN, LINE_ANYONE = 0, 1


@dataclass
class Dispute:
    """A dispute. Heights are blocks; sides' clocks are counted in blocks that were used up."""

    state: int = uint(8)
    turn: int = uint(8)
    reason: int = uint(8)
    attempt: int = uint(8)
    from_stake: int = uint(8)
    """1: the challenger is a drawn verifier, whose stake holds the bond."""
    level: int = uint(8)
    author_kind: int = uint(8)
    stand_ins: int = uint(8)
    """Lists of people who were not drawn that were lost: each doubles what the next one bonds."""
    found: int = uint(8)
    """1: the leaf was found in the trace, its hash is known."""
    defender_spoke: int = uint(8)
    challenger_spoke: int = uint(8)
    leaf: int = uint(32)
    op: int = uint(32)
    index: int = uint(32)
    size: int = uint(32)
    """Leaves of the tree that is gone down."""
    count: int = uint(32)
    """Hashes of the page, or bytes of the tile, that is due or was shown."""

    defender_used: int = uint(32)
    challenger_used: int = uint(32)
    filed: int = uint(64)
    begun: int = uint(64)
    due: int = uint(64)
    """Last block for the move that is due."""
    turn_began: int = uint(64)
    stopped: int = uint(64)
    """Blocks in which all clocks stood that are in `turn_began` and `due`, or lie before the turn."""
    turn_block: int = uint(64)
    """Block in which the turn began: clocks run from the next one on."""
    stood: int = uint(64)
    """Bit i: the verifier in seat i has posted a list."""
    task: bytes = raw(32)
    accused: bytes = raw(20)
    bond: int = uint(96)
    challenger: bytes = raw(20)
    """The account that moves."""
    author_bond: int = uint(96)
    operator: bytes = raw(20)
    """Whose verdict it is, if it is a drawn verifier's."""
    costs: int = uint(96)
    """Wei that the challenger's messages cost."""
    author: bytes = raw(20)
    leaf_hash: bytes = raw(32)
    operations: bytes = raw(32)
    node: bytes = raw(32)


@dataclass
class Accused:
    """Who is accused: its running dispute, and how many challenges of it were filed lately by people not drawn."""

    running: int = uint(64)
    waiting: int = uint(32)
    called: int = uint(8)
    """1: it is in the queue of those whose next dispute may begin."""
    filed: int = uint(32)
    filed_epoch: int = uint(64)


@dataclass
class Line:
    """Places of the disputes that wait: first .. first + length - 1."""

    first: int = uint(64)
    length: int = uint(64)


@dataclass
class Offences:
    """Epoch + 1 of the last lie that was proved, and of the last two losses by time."""

    proven: int = uint(64)
    undefended: int = uint(64)
    undefended_before: int = uint(64)


@dataclass
class Lane:
    """Gas of the dispute messages of a block."""

    height: int = uint(64)
    gas: int = uint(64)


DISPUTES = Table(REFEREE, "dispute", Dispute)
COUNT = Scalar(REFEREE, "disputes")
"""Disputes ever filed; the first is number 1."""
OF_TASK = Bag(REFEREE, "of_task")
"""Numbers of the disputes about a task that are not forgotten."""
OPEN = Bag(REFEREE, "open")
"""Numbers of those that wait or run, under the empty key."""
MOVES = WordList(REFEREE, "moves", TURNS_MAX)
"""Of a dispute: who showed what was due, and what the message cost: address << 96 | wei."""
ACCUSED = Table(REFEREE, "accused", Accused)
LINES = Table(REFEREE, "line", Line)
LINE_ITEMS = Words(REFEREE, "line.items")
OFFENCES = Table(REFEREE, "offences", Offences)
LANE = Table(REFEREE, "lane", Lane)
STOPPED = Scalar(REFEREE, "stopped")
"""Blocks so far in which all clocks stood, their lane having been full."""
STOPPED_AT = Words(REFEREE, "stopped_at")
"""Of the last such blocks, by height % STOPPED_KEPT: height << 64 | how many there were with this one."""
STOPPED_KEPT = 1024
RUNNING = Scalar(REFEREE, "running")

HELD = Scalar(REFEREE, "held")
"""Wei of slashes that are kept until governance rules, the referees having disagreed."""

CLOCKS = Queue(REFEREE, "clocks")
"""Step 1: disputes whose move is overdue. An entry is a dispute's number."""
CALLED = Queue(REFEREE, "called")
"""Step 1: accused whose next dispute begins when there is room, first come first served."""
FORGET = Queue(REFEREE, "forget")
"""End of step 5: disputes that are over, due with the tasks that ended in the same epoch."""


def load(ctx: ReadContext, number: int) -> Dispute:
    """A dispute. Raises Refused("unknown_dispute")."""
    dispute = DISPUTES.get(ctx, u64(number)) if number < 2**64 else None
    if dispute is None:
        raise unknown(ctx, number)
    return dispute


def unknown(ctx: ReadContext, number: int) -> Refused:
    """Why there is no dispute of a number."""
    if 0 < number <= COUNT.get(ctx):
        kept = ctx.params.receipts_kept_epochs
        text = f"dispute {number} ended more than {kept} epochs ago: the logs alone know it"
        return Refused("unknown_dispute", text)
    return Refused("unknown_dispute", f"there is no dispute {number}")


def accused_of(ctx: ReadContext, operator: bytes) -> Accused:
    """An operator's record; empty when it was never accused."""
    return ACCUSED.get(ctx, operator) or Accused()


def item_number(item: bytes) -> int:
    """The number in an item."""
    return int.from_bytes(item, "big")


def item_of(number: int) -> bytes:
    """A dispute's number in a bag or a queue."""
    return number.to_bytes(32, "big")
