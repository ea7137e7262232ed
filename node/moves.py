"""What a node does about disputes: which of them it has a part in now, what it asks its model's process for, which
message that becomes. Pure functions over the state's views and the logs of what was shown; node.disputes runs and sends
them.

A node moves for itself: as the accused; as whoever challenged; and for others who are silent (vm.system.standby): for
an accused whose root it found too, and where a contradiction that it finds true became no challenge. It never moves on
a list that is not its own work.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from inference.defence import LIST, OP, TILE, TRACE
from node.duties import Result
from node.outbox import Message
from primitives.hashing import ZERO_HASH
from primitives.params import ChainParams
from primitives.task import NO_BAD_POSITION, Kind, Status, trace_key, vector_of
from vm.system import abi, referee_gas, views
from vm.system.market_views import Duty, TaskView
from vm.system.referee_views import DisputeView

TREES = {abi.DISPUTE_TRACE: TRACE, abi.DISPUTE_LIST: LIST, abi.DISPUTE_OP: OP, abi.DISPUTE_TILE: TILE}
"""State of a dispute -> what is shown in it."""
NOBODY = bytes(20)


@dataclass(frozen=True)
class Me:
    """Who this node is: its hot account, and its operator if it is a validator."""

    hot: bytes
    operator: bytes | None

    def is_(self, address: bytes) -> bool:
        """Whether an address of the chain means this node."""
        return address != NOBODY and address in (self.hot, self.operator)


@dataclass(frozen=True)
class Move:
    """Something to be done now. key: what of, so that it is done once; move: as the model's process knows it; why: in
    words."""

    key: Hashable
    move: str
    why: str
    task: TaskView
    dispute: DisputeView | None = None
    bad: int = NO_BAD_POSITION
    value: int = 0


Bond = Callable[[abi.Function, bytes | int, bytes], int]
"""Wei that a call must bring, by Referee.bondFor(task, account) or standInBond(dispute, account); 0 of a stake."""


def moves_now(
    reader: views.Reader, params: ChainParams, height: int, me: Me, owed: Iterable[Duty],
    result: Callable[[bytes, bytes], Result | None], bond: Bond,
) -> list[Move]:  # fmt: skip
    """Every move that is this node's in block `height`, by the state before it. owed: its duties; none of who is no
    operator. result: what its own work on a task gave, by task and trace key."""
    owed = [duty for duty in owed if duty.role in (abi.ROLE_CHALLENGE, abi.ROLE_DEFEND) and duty.first_block <= height]
    moves = []
    silent = {duty.task for duty in owed if duty.role == abi.ROLE_DEFEND}
    for number in views.open_disputes(reader):
        dispute = views.dispute(reader, number, params, height)
        if dispute is None or not dispute.turn:
            continue  # it waits in its line
        task = views.task(reader, dispute.task)
        if task is None:
            continue
        own = result(task.task, trace_key(task.seed, task.attempt))
        move = move_in(dispute, task, me, None if own is None else own.root, task.task in silent)
        if move is not None and _needs_bond(move, me):
            move = replace(move, value=bond(abi.STAND_IN_BOND, number, me.hot))
        moves += [] if move is None else [move]
    for duty in owed:
        task = views.task(reader, duty.task) if duty.role == abi.ROLE_CHALLENGE else None
        if task is not None:
            move = challenge_of(task, result(duty.task, duty.trace_key))
            if move is not None and duty.slot == abi.NO_SLOT:
                move = replace(move, value=bond(abi.BOND_FOR, duty.task, me.hot))
            moves += [] if move is None else [move]
    return moves


def _needs_bond(move: Move, me: Me) -> bool:
    """The first page of a list binds its author, who stands for it with a bond if the answer is not its own."""
    dispute = move.dispute
    assert dispute is not None
    first = move.move == "show" and dispute.state == abi.DISPUTE_LIST and dispute.operations == ZERO_HASH
    return first and not me.is_(dispute.accused)


def move_in(dispute: DisputeView, task: TaskView, me: Me, own_root: bytes | None, silent: bool) -> Move | None:
    """This node's move in a dispute that runs. own_root: T by this node's own work on the task, None if it did none.
    silent: the defence has said nothing for so long that it is this node's turn to speak for it."""
    key = position(dispute)
    if dispute.turn == abi.TURN_CHALLENGER:
        if not me.is_(dispute.challenger) and not me.is_(dispute.operator):
            return None
        move = "open" if dispute.state == abi.DISPUTE_OPEN else "choose"
        return Move(key, move, "this node challenged", task, dispute)
    if dispute.turn != abi.TURN_DEFENDER:
        return None
    if me.is_(dispute.accused):
        return Move(key, "show", "this node is accused", task, dispute)
    if me.is_(dispute.author):
        return Move(key, "show", "it posted the list of operations", task, dispute)
    if not silent or own_root != task.executor_root:
        return None
    return Move(key, "show", "the accused is silent, and this node found the same root", task, dispute)


def challenge_of(task: TaskView, mine: Result | None, value: int = 0) -> Move | None:
    """The challenge of an answer that this node's own result contradicts. value: the bond of somebody not drawn."""
    if mine is None or task.executor_root == ZERO_HASH:
        return None
    key = ("challenge", task.task, task.attempt)
    if mine.root != task.executor_root:
        return Move(key, "root", "its trace has another root", task, value=value)
    if mine.bad != NO_BAD_POSITION:
        return Move(key, "leaf", f"its answer is false at {mine.bad}", task, bad=mine.bad, value=value)
    return None


def challenge_of_a_watcher(task: TaskView, mine: Result, bond: Callable[[], int]) -> Move | None:
    """The challenge of an answer in which this node had no part. A contradiction among those who were drawn is theirs
    to challenge; what they agree on, or nobody checked, is for who watches."""
    checked = task.status in (Status.AGREED, Status.UNVERIFIED) and not task.done_block and not task.disputes
    if not checked or trace_key(task.seed, task.attempt) != mine.trace_key or challenge_of(task, mine) is None:
        return None
    return challenge_of(task, mine, bond())


def position(dispute: DisputeView) -> Hashable:
    """Where a dispute stands: another value after every move."""
    d = dispute
    return ("dispute", d.dispute, d.state, d.turn, d.author, d.op, d.node, d.level, d.index)


def request_of(
    move: Move, prompt: tuple[int, ...], output: tuple[int, ...], logs: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """What the model's process is asked (inference.worker, argue). logs: the values of the dispute's logs Shown and
    ListRefuted, in order, each with its "event"."""
    task, dispute = move.task, move.dispute
    kind = Kind(task.kind)
    request: dict[str, Any] = {
        "op": "argue", "move": move.move, "kind": kind.name.lower(), "prompt": list(prompt),
        "output": list(vector_of(output) if kind.is_vector else output), "temperature_q16": task.temperature_q16,
        "top_k": task.top_k, "seed": task.seed, "trace_key": trace_key(task.seed, task.attempt),
    }  # fmt: skip
    if move.move == "leaf":
        request["bad"] = move.bad
    if dispute is None:
        return request
    known = dispute.state >= abi.DISPUTE_LIST
    chosen = dispute.state >= abi.DISPUTE_OP
    request |= {"leaf": dispute.leaf if known else None, "list_op": dispute.op if chosen else None}
    if move.move == "show":
        unbound = dispute.state == abi.DISPUTE_LIST and dispute.operations == ZERO_HASH
        place = {"level": None, "index": 0} if unbound else {"level": dispute.level, "index": dispute.index}
        return request | {"tree": TREES[dispute.state], **place}
    return request | {"shown": shown_in(logs)}


def shown_in(logs: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """[tree, level, index, data] of what was shown on the way to where the dispute stands."""
    shown: list[list[Any]] = []
    for log in logs:
        if log["event"] == abi.LIST_REFUTED.name:  # the list is asked for again
            shown = [each for each in shown if each[0] == TRACE]
        else:
            shown.append([TREES[log["state"]], log["level"], log["index"], log["data"]])
    return shown


def message_of(move: Move, reply: dict[str, Any]) -> Message | str:
    """The message that the process's reply becomes, or why there is none."""
    task, dispute = move.task, move.dispute
    if dispute is None:
        if move.move == "root" and reply["root"] == task.executor_root:
            return "computed again, the trace has the root that was revealed"
        leaf = abi.NO_LEAF if move.move == "root" else reply["leaf"]
        seats = task.auditors, len(task.verifiers)
        return _message(move, lambda data: referee_gas.challenging(data, *seats), abi.CHALLENGE, task.task, leaf)
    if move.move == "show":
        if reply["root"] != task.executor_root:
            return f"by this machine's work the root is {reply['root'].hex()[:16]}: there is nothing to show"
        if dispute.operations != ZERO_HASH and reply["operations"] != dispute.operations:
            return "the list of operations is another's and false: whoever posted it must stand for it"
        return _message(move, referee_gas.showing, abi.SHOW, dispute.dispute, reply["data"])
    if move.move == "choose":
        if reply["index"] is None:
            return _message(move, referee_gas.choosing, abi.CHOOSE, dispute.dispute, abi.NO_OP, ZERO_HASH, ())
        path = tuple(reply["path"])
        return _message(
            move, referee_gas.choosing, abi.CHOOSE, dispute.dispute, reply["index"], reply["child"], path
        )
    seats = task.auditors, len(task.verifiers)  # it pays for the end, seat by seat
    return _message(
        move, lambda data: referee_gas.opening(data, *seats), abi.OPEN, dispute.dispute, reply["element"], reply["data"]
    )


def _message(move: Move, gas_of: Callable[[bytes], int], function: abi.Function, *arguments: Any) -> Message:
    data = function.encode_call(*arguments)
    return Message(function.account, data, gas_of(data), frozenset([move.key]), move.value)
