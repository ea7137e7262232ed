"""Filing a challenge: who may, what it bonds, and where it waits (docs/formats.md, Disputes)."""

from typing import Any

from primitives.address import REFEREE
from primitives.task import Status
from vm.system import abi, market_contest, referee_end, staking
from vm.system import referee_gas as gas
from vm.system.context import Call, Refused, SystemContext
from vm.system.layout import u64
from vm.system.market_state import SEAT_AGAINST, SEAT_CHALLENGING, SEATS, TASKS, Task, put_seat, seats_of
from vm.system.market_state import load as load_task
from vm.system.referee_state import (
    ACCUSED,
    CALLED,
    COUNT,
    DISPUTES,
    LINE_ANYONE,
    LINE_DRAWN,
    LINE_ITEMS,
    LINES,
    NOBODY,
    OF_TASK,
    OPEN,
    Dispute,
    Line,
    accused_of,
    item_of,
)
from vm.system.referee_turns import Case, note_message

ACCUSABLE = (Status.REVEALING, Status.DISPUTED, Status.AGREED, Status.UNVERIFIED)
DISPUTES_AT_ONCE_MAX = 255
"""Of one task: what its record counts."""
BOND_MAX = 2**96 - 1
DOUBLINGS_MAX = 80
"""The bond has passed BOND_MAX long before."""


def challenge(ctx: SystemContext, call: Call, task_id: bytes, leaf: int) -> tuple[Any, ...]:
    """Referee.challenge: the answer of a task is false, in this leaf of its trace or somewhere in it."""
    ctx.charge(gas.CHALLENGE, "challenge")
    task = load_task(ctx, task_id)
    ctx.charge(referee_end.gas_of_end(task), "end of a dispute")
    _require_accusable(ctx, task)
    if task.disputes >= DISPUTES_AT_ONCE_MAX:
        raise Refused("too_many", f"{task.disputes} challenges of this answer wait or run already")
    leaves = Case(ctx, task).leaves
    if leaf != abi.NO_LEAF and leaf >= leaves:
        raise Refused("no_leaf", f"leaf {leaf}: the trace of this answer has {leaves}")
    seat = _seat_of(ctx, task_id, task, call.sender)
    dispute = Dispute(
        state=abi.DISPUTE_QUEUED, attempt=task.attempt, leaf=leaf, op=abi.NO_OP, filed=ctx.height, task=task_id,
        accused=task.executor, challenger=call.sender,
    )  # fmt: skip
    if seat is not None:
        _bond_of_stake(ctx, call, task_id, task, seat, dispute)
    else:
        _bond_of_value(ctx, call, task, dispute)
    spent = gas.message(b"", gas.CHALLENGE + referee_end.gas_of_end(task))
    dispute.costs = min(spent * ctx.base_fee, BOND_MAX)
    note_message(ctx, spent)
    number = COUNT.add(ctx, 1)
    DISPUTES.put(ctx, dispute, u64(number))
    OF_TASK.add(ctx, item_of(number), task_id)
    OPEN.add(ctx, item_of(number), b"")
    staking.bind(ctx, task.executor)
    task.disputes += 1
    TASKS.put(ctx, task, task_id)
    _join(ctx, number, dispute)
    abi.emit(
        ctx, abi.CHALLENGED, number, task_id, dispute.accused, dispute.challenger, dispute.operator, dispute.attempt,
        leaf, dispute.bond,
    )  # fmt: skip
    return (number,)


def quote(ctx: SystemContext, task_id: bytes, challenger: bytes) -> tuple[int, bool]:
    """What a challenge from this account would bond, and whether a drawn verifier's stake holds it."""
    task = load_task(ctx, task_id)
    bond = referee_end.bond_of(ctx, task)
    if _seat_of(ctx, task_id, task, challenger) is not None:
        return bond, True
    return bond << min(referee_end.earlier_challenges(ctx, task.executor), DOUBLINGS_MAX), False


def _require_accusable(ctx: SystemContext, task: Task) -> None:
    if task.status not in ACCUSABLE or not task.executor_opened:
        stage = Status(task.status).name.lower()
        raise Refused("not_accusable", f"the task is {stage}, and an answer is challenged once its root is revealed")
    last = task.reveal_window(ctx.params, task.executor).last
    if task.status in (Status.REVEALING, Status.DISPUTED) and task.revealer != task.executor and ctx.height <= last:
        raise Refused("not_accusable", f"somebody else opened it: until block {last} its executor may say it is a trap")


def _seat_of(ctx: SystemContext, task_id: bytes, task: Task, sender: bytes) -> int | None:
    """The place of the seat whose contradiction this account has to make good; None for anybody else, and for who
    abandoned its own challenge."""
    operator = staking.operator_by_hot(ctx, sender)
    if operator is None:
        return None
    for index, seat in enumerate(seats_of(ctx, task_id, task)):
        if seat.verifier == operator and seat.state == SEAT_CHALLENGING:
            raise Refused("given", "this verdict is a challenge already")
        if seat.verifier == operator and seat.state == SEAT_AGAINST and not seat.abandoned:
            return index
    return None


def _bond_of_stake(
    ctx: SystemContext, call: Call, task_id: bytes, task: Task, index: int, dispute: Dispute
) -> None:
    """A drawn verifier's: its stake answers for it, and its verdict stands from now on with the challenge."""
    seat = SEATS.get(ctx, task_id, bytes([index]))
    assert seat is not None
    if call.value:
        raise Refused("not_payable", "a drawn verifier's bond is held in its stake: send no value")
    last = market_contest.challenge_last(ctx, task)
    if ctx.height > last:
        raise Refused("too_late", f"a contradicting verdict becomes a challenge until block {last}")
    seat.state = SEAT_CHALLENGING
    put_seat(ctx, task_id, index, seat)
    dispute.from_stake, dispute.operator = 1, seat.verifier
    dispute.bond = min(referee_end.bond_of(ctx, task), BOND_MAX)
    staking.bind(ctx, seat.verifier)


def _bond_of_value(ctx: SystemContext, call: Call, task: Task, dispute: Dispute) -> None:
    """Anybody's: doubled for each earlier one of the same accused that did not win."""
    before = referee_end.earlier_challenges(ctx, task.executor)
    bond = referee_end.bond_of(ctx, task) << min(before, DOUBLINGS_MAX)
    if bond > BOND_MAX:
        raise Refused("bond_too_high", f"after {before} challenges of 0x{task.executor.hex()} nobody may bond another")
    if call.value < bond:
        raise Refused("bond_too_low", f"this challenge bonds {bond} wei, {call.value} were sent")
    ctx.transfer(REFEREE, call.sender, call.value - bond)
    dispute.operator, dispute.bond = NOBODY, bond
    record = accused_of(ctx, task.executor)
    record.filed, record.filed_epoch = before + 1, ctx.params.epoch(ctx.height)
    ACCUSED.put(ctx, record, task.executor)


def _join(ctx: SystemContext, number: int, dispute: Dispute) -> None:
    """To the end of its line; its accused is called in the next prologue, if nothing of it runs."""
    key = dispute.accused, bytes([LINE_DRAWN if dispute.from_stake else LINE_ANYONE])
    line = LINES.get(ctx, *key) or Line()
    LINE_ITEMS.set(ctx, number, *key, u64(line.first + line.length))
    line.length += 1
    LINES.put(ctx, line, *key)
    record = accused_of(ctx, dispute.accused)
    record.waiting += 1
    if not record.running and not record.called:
        record.called = 1
        CALLED.push(ctx, ctx.height + 1, dispute.accused)
    ACCUSED.put(ctx, record, dispute.accused)
