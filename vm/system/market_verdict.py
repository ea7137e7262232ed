"""From what reveals opened to what becomes of a task: agreed, unverified, disputed, or still open."""

from collections.abc import Sequence

from consensus.work import audit
from consensus.work.verdict import Outcome, outcome
from primitives.task import Status
from vm.system import abi
from vm.system.context import SystemContext
from vm.system.market_refund import refund
from vm.system.market_state import (
    MATURE,
    SEAT_AGAINST,
    SEAT_CHALLENGING,
    SEAT_GIVEN,
    SEAT_OPENED,
    TASKS,
    Seat,
    Task,
    schedule,
)


def outcome_of(task: Task, seats: Sequence[Seat], closed: bool) -> Outcome:
    """Where the reveals leave the task."""
    opened = [seat.state == SEAT_OPENED for seat in seats if seat.state in (SEAT_GIVEN, SEAT_OPENED)]
    contradicted = any(seat.state in (SEAT_AGAINST, SEAT_CHALLENGING) for seat in seats)
    return outcome(bool(task.executor_opened), opened, contradicted, closed)


def agree(ctx: SystemContext, task_id: bytes, task: Task, seats: Sequence[Seat]) -> None:
    """Everything that opened says the same: settled when mature."""
    task.status, task.agreed = Status.AGREED, ctx.height
    settles = audit.matures_at(ctx.height, ctx.params.maturity_blocks, task.delay)
    schedule(ctx, MATURE, task_id, task, settles)
    TASKS.put(ctx, task, task_id)
    opened = [seat.verifier for seat in seats if seat.state == SEAT_OPENED]
    abi.emit(ctx, abi.TASK_AGREED, task_id, task.executor, task.root, opened, settles)


def unverified(ctx: SystemContext, task_id: bytes, task: Task, reason: str) -> None:
    """Nobody vouches for the answer: the asker's to take (assurance 0), else everything goes back."""
    if task.assurance:
        task.status = Status.UNVERIFIED
        refund(ctx, task_id, task, f"{reason}; the asker wanted {task.assurance}")
        return
    task.status, task.agreed = Status.UNVERIFIED, ctx.height
    settles = audit.matures_at(ctx.height, ctx.params.maturity_blocks, task.delay)
    schedule(ctx, MATURE, task_id, task, settles)
    TASKS.put(ctx, task, task_id)
    abi.emit(ctx, abi.TASK_UNVERIFIED, task_id, reason, settles)
