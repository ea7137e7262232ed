"""Whose turn it is and how long: clocks of a dispute, and the place that it has come to (docs/formats.md, Disputes).

Each side's first move has silence_blocks, its later ones share dispute_clock_blocks; both stand in blocks whose lane
was full. Knows nothing of what is shown nor of who wins.
"""

from inference import opening as openings
from inference.ops import Leaf, Op, leaf_at, leaf_count, op_list
from inference.ops import Task as Asked
from primitives.hashing import ZERO_HASH
from primitives.params import DISPUTE_MESSAGE_GAS
from primitives.task import Kind, trace_key
from vm.system import abi, models
from vm.system.context import ReadContext, Refused, SystemContext
from vm.system.layout import u64
from vm.system.market_state import Task
from vm.system.referee_state import (
    CLOCKS,
    DISPUTES,
    LANE,
    MOVES,
    STOPPED,
    STOPPED_AT,
    STOPPED_KEPT,
    TURNS_MAX,
    Dispute,
    Lane,
    item_of,
    load,
)

COUNT_BITS = 64
WAITING_STATES = (abi.DISPUTE_QUEUED, abi.DISPUTE_ENDED)


class Case:
    """The task that a dispute is about, as the judge knows it."""

    def __init__(self, ctx: ReadContext, task: Task) -> None:
        model = models.require(ctx, task.model)
        self.program = openings.read_shape_record(models.record_of(ctx, task.model))
        kind = Kind(task.kind)
        self.asked = Asked(
            kind.name.lower(), task.prompt, 0 if kind.is_vector else task.output, task.seed, task.temperature_q16,
            task.top_k,
        )  # fmt: skip
        self.key = trace_key(task.seed, task.attempt)
        self.statement = openings.Statement(
            model.program_root, task.root, self.key, self.asked, task.prompt_hash, task.output_hash
        )

    @property
    def leaves(self) -> int:
        """Leaves of the trace."""
        return leaf_count(self.program.shape, self.asked)


    def leaf(self, number: int) -> Leaf:
        """A leaf of the trace by its place, which is one."""
        return leaf_at(self.program.shape, self.asked, number)

    def ops(self, number: int) -> list[Op]:
        """The ops of a leaf. Products' records are not known: names, order and lengths do not depend on them."""
        return op_list(self.program.facts, self.asked, self.leaf(number))


def require_turn(ctx: SystemContext, number: int, turn: int) -> Dispute:
    """A running dispute in which that side is to move, and in time. Raises Refused."""
    dispute = load(ctx, number)
    if dispute.state in WAITING_STATES:
        what = "waits for its turn" if dispute.state == abi.DISPUTE_QUEUED else "is over"
        raise Refused("not_running", f"dispute {number} {what}")
    if dispute.turn != turn:
        whose = "defence" if dispute.turn == abi.TURN_DEFENDER else "challenger"
        raise Refused("not_your_turn", f"dispute {number} waits for the {whose}")
    catch_up(ctx, dispute)
    if ctx.height > dispute.due:
        raise Refused("too_late", f"dispute {number}: a move was accepted until block {dispute.due}")
    return dispute


def begin_turn(ctx: SystemContext, number: int, dispute: Dispute, turn: int) -> None:
    """That side's clock runs from the next block on. Puts the dispute."""
    left = left_of(ctx, dispute)[turn != abi.TURN_DEFENDER]
    dispute.turn, dispute.turn_began, dispute.due = turn, ctx.height, ctx.height + left
    dispute.stopped, dispute.turn_block = STOPPED.get(ctx), ctx.height
    CLOCKS.push(ctx, dispute.due + 1, item_of(number))
    DISPUTES.put(ctx, dispute, u64(number))


def left_of(ctx: ReadContext, dispute: Dispute) -> tuple[int, int]:
    """Blocks that defence and challenger have: a silence before the first move, then what is left of the clock."""
    silence, clock = ctx.params.silence_blocks, ctx.params.dispute_clock_blocks
    return (
        clock - dispute.defender_used if dispute.defender_spoke else silence,
        clock - dispute.challenger_used if dispute.challenger_spoke else silence,
    )


def end_turn(ctx: SystemContext, dispute: Dispute, gas: int, sender: bytes, number: int) -> None:
    """The side whose turn it was has moved, with a message of so much gas: its clock, its costs, the lane."""
    used, wei = ctx.height - dispute.turn_began, gas * ctx.base_fee
    if dispute.turn == abi.TURN_DEFENDER:
        dispute.defender_used += used if dispute.defender_spoke else 0
        dispute.defender_spoke = 1
        if MOVES.length(ctx, u64(number)) < TURNS_MAX:
            MOVES.append(ctx, int.from_bytes(sender, "big") << 96 | min(wei, 2**96 - 1), u64(number))
    else:
        dispute.challenger_used += used if dispute.challenger_spoke else 0
        dispute.challenger_spoke = 1
        dispute.costs = min(dispute.costs + wei, 2**96 - 1)
    note_message(ctx, gas)


def note_message(ctx: SystemContext, gas: int) -> None:
    """A dispute message in this block."""
    lane = LANE.get(ctx) or Lane()
    if lane.height != ctx.height:
        lane = Lane(ctx.height)
    lane.gas += gas
    LANE.put(ctx, lane)


def note_full_lane(ctx: SystemContext) -> None:
    """In a prologue: clocks stood in the block before, if its lane had no room for another message."""
    lane = LANE.get(ctx)
    full = ctx.params.dispute_lane_gas - DISPUTE_MESSAGE_GAS
    if lane is not None and lane.height == ctx.height - 1 and lane.gas > full:
        STOPPED_AT.set(ctx, lane.height << COUNT_BITS | STOPPED.add(ctx, 1), u64(lane.height % STOPPED_KEPT))


def catch_up(ctx: ReadContext, dispute: Dispute) -> int:
    """Move a turn on by the blocks in which all clocks stood since it was looked at last. How many."""
    stood = stood_still(ctx, dispute)
    dispute.turn_began += stood
    dispute.due += stood
    dispute.stopped = STOPPED.get(ctx)
    return stood


def stood_still(ctx: ReadContext, dispute: Dispute) -> int:
    """Blocks in which all clocks stood since a turn was looked at; not the one in which it began, for its own message
    may be what filled that one's lane."""
    height, count = divmod(STOPPED_AT.get(ctx, u64(dispute.turn_block % STOPPED_KEPT)), 1 << COUNT_BITS)
    known = count if height == dispute.turn_block else 0
    return STOPPED.get(ctx) - max(dispute.stopped, known)


def set_place(dispute: Dispute, level: int, index: int, node: bytes) -> None:
    """A page of this node of the tree is due."""
    dispute.level, dispute.index, dispute.node = level, index, node
    dispute.count = openings.page_extent(dispute.size, level, index)


def ask_for_list(dispute: Dispute, case: Case) -> None:
    """The leaf is known: the first page of its list is due, whose root nothing binds."""
    dispute.state, dispute.op, dispute.operations = abi.DISPUTE_LIST, abi.NO_OP, ZERO_HASH
    set_tree(dispute, len(case.ops(dispute.leaf)) - 1, ZERO_HASH)


def set_tree(dispute: Dispute, size: int, root: bytes) -> None:
    """A page of the root of a tree of so many leaves is due."""
    dispute.size = size
    set_place(dispute, openings.tree_top(size), 0, root)
