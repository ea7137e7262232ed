"""From what reveals opened to what becomes of a task: agreed, disputed, or still open."""

from collections.abc import Sequence

from consensus.work import audit
from consensus.work.verdict import Opened, Outcome, outcome
from primitives.task import NO_BAD_POSITION, Status
from vm.system import abi
from vm.system.context import SystemContext
from vm.system.market_state import MATURE, SEAT_GIVEN, SEAT_OPENED, TASKS, Seat, Task, schedule


def outcome_of(task: Task, seats: Sequence[Seat], closed: bool) -> Outcome:
    """Where the reveals leave the task."""
    opened = [seat.state == SEAT_OPENED for seat in seats if seat.state in (SEAT_GIVEN, SEAT_OPENED)]
    return outcome(bool(task.executor_opened), opened, bool(task.contradicted), closed)


def agree(ctx: SystemContext, task_id: bytes, task: Task, seats: Sequence[Seat]) -> None:
    """Everything that opened says the same: settled when mature."""
    task.status, task.agreed = Status.AGREED, ctx.height
    settles = audit.matures_at(ctx.height, ctx.params.maturity_blocks, task.delay)
    schedule(ctx, MATURE, task_id, task, settles)
    TASKS.put(ctx, task, task_id)
    opened = [seat.verifier for seat in seats if seat.state == SEAT_OPENED]
    abi.emit(ctx, abi.TASK_AGREED, task_id, task.executor, task.root, opened, settles)


def dispute(ctx: SystemContext, task_id: bytes, task: Task, verifier: bytes, verdict: Opened) -> None:
    """A verdict contradicts the answer: fee and credit stay frozen, both roots on record, until a referee is active.

    Reveals go on to the end of their window, so that every root is known.
    """
    task.status, task.contradicted = Status.DISPUTED, 1
    task.contradictor, task.other_root, task.other_bad = verifier, verdict.root, verdict.bad
    TASKS.put(ctx, task, task_id)
    abi.emit(
        ctx, abi.TASK_DISPUTED, task_id, task.executor, verifier, task.root, verdict.root, NO_BAD_POSITION, verdict.bad
    )
