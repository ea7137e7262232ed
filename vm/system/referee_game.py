"""The moves of a running dispute: what is shown, what is chosen, what is opened (docs/formats.md, Disputes).

Owns what each move must prove, and where the game goes on. Everything from a sender is hostile: counts and hashes are
checked against what the program and the last move leave, before anything else is believed.
"""

from inference import opening as openings
from inference.ops import TILE, Op, payload_bytes
from inference.program import PIECE_BYTES
from inference.referee import InvalidOpening
from primitives import merkle
from primitives.address import REFEREE
from primitives.hashing import ZERO_HASH, keccak
from vm.system import abi, referee_end, second_referee, staking
from vm.system import referee_gas as gas
from vm.system.context import Call, Refused, SystemContext
from vm.system.market_state import SEAT_OPENED, TASKS, Task, seats_of
from vm.system.referee_state import (
    AUTHOR_ACCUSED,
    AUTHOR_ANYONE,
    AUTHOR_DRAWN,
    Dispute,
)
from vm.system.referee_turns import Case, ask_for_list, begin_turn, end_turn, require_turn, set_place, set_tree

BOND_MAX = 2**96 - 1


def show(ctx: SystemContext, call: Call, number: int, data: bytes) -> None:
    """Referee.show: the page, or the tile, that is due. Anybody may; who posts the root of a list stands for it."""
    executed = gas.SHOW + gas.SHOW_BYTE * len(data)
    ctx.charge(executed, "show")
    dispute = require_turn(ctx, number, abi.TURN_DEFENDER)
    task = _task_of(ctx, dispute)
    state, level, index = dispute.state, dispute.level, dispute.index
    bonded = False
    if state == abi.DISPUTE_TILE:
        _tile(dispute, data)
    elif state == abi.DISPUTE_LIST and dispute.operations == ZERO_HASH:
        _first_of_list(ctx, call, number, dispute, task, data)
        bonded = dispute.author_kind == AUTHOR_ANYONE
    else:
        _page(ctx, dispute, task, data)
    if call.value and not bonded:
        raise Refused("not_payable", "this move takes no value")
    end_turn(ctx, dispute, gas.message(data, executed), call.sender, number)
    begin_turn(ctx, number, dispute, abi.TURN_CHALLENGER)
    abi.emit(ctx, abi.SHOWN, number, dispute.task, call.sender, state, level, index, data, dispute.due)


def choose(ctx: SystemContext, call: Call, number: int, index: int, child: bytes, path: list[bytes]) -> None:
    """Referee.choose: the hash of the page that the challenger goes on with."""
    ctx.charge(gas.CHOOSE, "choose")
    dispute = _challengers(ctx, call, number)
    task = _task_of(ctx, dispute)
    state = dispute.state
    if state not in (abi.DISPUTE_TRACE, abi.DISPUTE_LIST, abi.DISPUTE_OP):
        raise Refused("stage", f"dispute {number} waits for an opening")
    case = Case(ctx, task)
    if state == abi.DISPUTE_LIST and index == abi.NO_OP:
        turn = _all_agree(dispute, case, child, path)
    else:
        hash_ = openings.sha256 if _is_sha256(dispute, case) else keccak
        lowest = dispute.level <= openings.PAGE_LEVELS
        hashed = merkle.digest(child) if state == abi.DISPUTE_LIST and lowest else child
        try:
            root = openings.root_by_path(hashed, index, dispute.count, path, hash_)
        except InvalidOpening as error:
            raise Refused("bad_path", str(error)) from error
        if root != dispute.node:
            raise Refused("bad_path", f"hash {index} of the page is another: the path does not lead to its node")
        turn = _go_to(dispute, case, *openings.child_place(dispute.level, dispute.index, index), child)
    end_turn(ctx, dispute, gas.message(b"\x01" * 32 * len(path), gas.CHOOSE), call.sender, number)
    begin_turn(ctx, number, dispute, turn)
    abi.emit(ctx, abi.CHOSEN, number, dispute.task, state, index, child, dispute.state, turn, dispute.due)


def open_(ctx: SystemContext, call: Call, number: int, element: int, opening: bytes) -> None:
    """Referee.open: one element of the op, recomputed from what it reads, of some rules by two referees. It decides,
    unless they disagree."""
    ctx.charge(gas.OPEN, "open")
    dispute = _challengers(ctx, call, number)
    if dispute.state != abi.DISPUTE_OPEN:
        raise Refused("stage", f"dispute {number} is not to be opened yet")
    task = _task_of(ctx, dispute)
    case = Case(ctx, task)
    leaf = case.leaf(dispute.leaf)
    op = case.ops(dispute.leaf)[dispute.op]
    part = element if op.rule == "leaf" else element // TILE
    if part != dispute.index and not (op.rule == "leaf" and not dispute.size):
        raise Refused("element", f"element {element} of {op.name} lies in {part}, what was shown is {dispute.index}")
    try:
        judged = openings.examine(case.statement, dispute.operations, leaf, dispute.op, element, opening)
    except InvalidOpening as error:
        raise Refused("invalid_opening", f"the opening proves nothing: {error}") from error
    words = case.asked.answer(case.program.shape)
    second = second_referee.differs(
        ctx, case.statement, words, dispute.operations, judged, dispute.op, element, opening
    )
    ctx.charge(referee_end.gas_of_end(task), "end of a dispute")
    executed = gas.OPEN + second_referee.GAS + referee_end.gas_of_end(task)
    end_turn(ctx, dispute, gas.message(opening, executed), call.sender, number)
    holds, rule = judged.holds, judged.op.rule
    abi.emit(ctx, abi.JUDGED, number, dispute.task, dispute.leaf, op.name, rule, element, holds)
    if second is not None:
        held = referee_end.diverged(ctx, number, dispute)
        abi.emit(
            ctx, abi.REFEREES_DIVERGED, number, dispute.task, task.model, dispute.accused, dispute.leaf, op.name, rule,
            element, holds, second, held,
        )  # fmt: skip
    elif holds:
        referee_end.end(ctx, number, dispute, abi.ENDED_HELD)
    elif dispute.author_kind == AUTHOR_ACCUSED:
        referee_end.end(ctx, number, dispute, abi.ENDED_REFUTED)
    else:
        referee_end.list_lost(ctx, number, dispute, abi.ENDED_LIST_REFUTED)


def stand_in_bond(ctx: SystemContext, dispute: Dispute, task: Task, author: bytes) -> tuple[int, int]:
    """(wei, abi author kind) of whoever would post the list from this account. Raises Refused("list_full")."""
    operator = staking.operator_by_hot(ctx, author)
    if dispute.accused in (author, operator):
        return 0, AUTHOR_ACCUSED
    bond = min(referee_end.bond_of(ctx, task), BOND_MAX)
    if operator is not None and _vouching_seat(ctx, dispute, task, operator) is not None:
        return bond, AUTHOR_DRAWN
    return bond << dispute.stand_ins, AUTHOR_ANYONE


def _challengers(ctx: SystemContext, call: Call, number: int) -> Dispute:
    dispute = require_turn(ctx, number, abi.TURN_CHALLENGER)
    if call.sender != dispute.challenger:
        raise Refused("not_challenger", f"only its challenger 0x{dispute.challenger.hex()} moves in dispute {number}")
    return dispute


def _task_of(ctx: SystemContext, dispute: Dispute) -> Task:
    task = TASKS.get(ctx, dispute.task)
    assert task is not None and task.attempt == dispute.attempt, "a running dispute holds its task"
    return task


# What is shown


def _page(ctx: SystemContext, dispute: Dispute, task: Task, data: bytes) -> None:
    """A page of the trace, of the list or of an op's tree, whose root is the node that it shows."""
    hashes = _hashes(dispute, data)
    case = Case(ctx, task)
    if dispute.state == abi.DISPUTE_LIST and dispute.level <= openings.PAGE_LEVELS:
        hashes = [merkle.digest(root) for root in hashes]
    root = openings.page_root(hashes, openings.sha256 if _is_sha256(dispute, case) else keccak)
    if dispute.state == abi.DISPUTE_OP and dispute.node == ZERO_HASH:
        # The root over the leaf's pieces: known by the leaf that it makes.
        leaf = case.leaf(dispute.leaf)
        if openings.leaf_hash(case.key, leaf, root) != dispute.leaf_hash:
            raise Refused("bad_page", "the pieces are not those of the disputed leaf")
        dispute.node = root
    if root != dispute.node:
        raise Refused("bad_page", f"the page's root is 0x{root.hex()}, that of another node")


def _first_of_list(
    ctx: SystemContext, call: Call, number: int, dispute: Dispute, task: Task, data: bytes
) -> None:
    """The page under the root of a list, which nothing binds: its author stands for it."""
    hashes = _hashes(dispute, data)
    if dispute.level <= openings.PAGE_LEVELS:
        hashes = [merkle.digest(root) for root in hashes]
    dispute.operations = dispute.node = openings.page_root(hashes)
    bond, kind = stand_in_bond(ctx, dispute, task, call.sender)
    dispute.author_kind, dispute.author_bond = kind, bond if kind != AUTHOR_ACCUSED else 0
    dispute.author = call.sender
    if kind == AUTHOR_ANYONE:
        if bond > BOND_MAX:
            raise Refused("bond_too_high", f"after {dispute.stand_ins} lost lists nobody may bond for another")
        if call.value < bond:
            raise Refused("bond_too_low", f"a list in somebody's defence bonds {bond} wei, {call.value} were sent")
        ctx.transfer(REFEREE, call.sender, call.value - bond)
        return
    operator = dispute.accused if kind == AUTHOR_ACCUSED else staking.operator_by_hot(ctx, call.sender)
    assert operator is not None
    dispute.author = operator
    if kind == AUTHOR_DRAWN:
        seat = _vouching_seat(ctx, dispute, task, operator)
        assert seat is not None
        if dispute.stood >> seat & 1:
            raise Refused("stood", "one list a dispute: yours was lost")
        dispute.stood |= 1 << seat
        staking.bind(ctx, operator)


def _vouching_seat(ctx: SystemContext, dispute: Dispute, task: Task, operator: bytes) -> int | None:
    """The seat of a drawn verifier whose verdict opened to the accused root."""
    for index, seat in enumerate(seats_of(ctx, dispute.task, task)):
        if seat.verifier == operator and seat.state == SEAT_OPENED:
            return index
    return None


def _tile(dispute: Dispute, data: bytes) -> None:
    if len(data) != dispute.count:
        raise Refused("bad_tile", f"a tile of {len(data)} bytes; this one has {dispute.count}")
    if merkle.digest(data) != dispute.node:
        raise Refused("bad_tile", "the elements are not those of the tile's hash")
    dispute.state = abi.DISPUTE_OPEN


def _hashes(dispute: Dispute, data: bytes) -> list[bytes]:
    if len(data) != 32 * dispute.count:
        raise Refused("bad_page", f"a page of {len(data)} bytes; this one has {dispute.count} hashes of 32")
    return openings.cut(data, 32)


# What is gone on with


def _go_to(dispute: Dispute, case: Case, level: int, index: int, child: bytes) -> int:
    """The node that was chosen: another page, or what it is the leaf of. Whose turn is next."""
    if level:
        set_place(dispute, level, index, child)
        return abi.TURN_DEFENDER
    match dispute.state:
        case abi.DISPUTE_TRACE:
            dispute.leaf, dispute.leaf_hash, dispute.found = index, child, 1
            ask_for_list(dispute, case)
        case abi.DISPUTE_LIST:
            _go_into(dispute, case.ops(dispute.leaf)[index], index, child)
        case _:
            op = case.ops(dispute.leaf)[dispute.op]
            if op.rule == "leaf":
                dispute.state, dispute.index = abi.DISPUTE_OPEN, index
                return abi.TURN_CHALLENGER
            _go_to_tile(dispute, op, index, child)
    return abi.TURN_DEFENDER


def _go_into(dispute: Dispute, op: Op, number: int, root: bytes) -> None:
    """An op of the list: its tree, or the one tile that it is."""
    dispute.op = number
    tiles = -(-op.length // TILE)
    if tiles == 1:
        _go_to_tile(dispute, op, 0, root)
    else:
        dispute.state = abi.DISPUTE_OP
        set_tree(dispute, tiles, root)


def _go_to_tile(dispute: Dispute, op: Op, index: int, node: bytes) -> None:
    dispute.state, dispute.level, dispute.index, dispute.node = abi.DISPUTE_TILE, 0, index, node
    dispute.count = op.width * min(TILE, op.length - index * TILE)


def _all_agree(dispute: Dispute, case: Case, child: bytes, path: list[bytes]) -> int:
    """The list is as the challenger has it: the last op, the leaf itself, is false. Whose turn is next."""
    if dispute.node != dispute.operations or child != ZERO_HASH or path:
        raise Refused("bad_choice", "all ops agree: said of the first page, without a hash or a path")
    leaf = case.leaf(dispute.leaf)
    dispute.op = len(case.ops(dispute.leaf)) - 1
    pieces = -(-payload_bytes(case.program.shape, case.asked, leaf) // PIECE_BYTES)
    if dispute.found and pieces > 1:
        dispute.state = abi.DISPUTE_OP
        set_tree(dispute, pieces, ZERO_HASH)
        return abi.TURN_DEFENDER
    dispute.state, dispute.size, dispute.level, dispute.index = abi.DISPUTE_OPEN, 0, 0, 0
    return abi.TURN_CHALLENGER


def _is_sha256(dispute: Dispute, case: Case) -> bool:
    """Trees of the trace are of SHA-256: its leaves, and the pieces of one."""
    if dispute.state != abi.DISPUTE_OP:
        return dispute.state == abi.DISPUTE_TRACE
    return case.ops(dispute.leaf)[dispute.op].rule == "leaf"
