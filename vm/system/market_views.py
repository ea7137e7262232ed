"""What anyone reads of the Market: a task as the state knows it, and what an operator owes now.

Reads only, and needs no EVM: the node that works, the wallet that asks and the view methods of the ABI read the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from consensus.work.audit import Window
from primitives.hashing import ZERO_HASH
from primitives.task import Status, trace_key
from vm.system import abi, ledger, market_contest
from vm.system.context import ReadContext
from vm.system.market_state import (
    DEALT_STAGES,
    DUTIES,
    FINISHED,
    NOBODY,
    SEAT_AGAINST,
    SEAT_DRAWN,
    SEAT_GIVEN,
    TASKS,
    TRAP_ANSWERS,
    Seat,
    Task,
    seats_of,
)

DUTIES_SHOWN_MAX = 256
"""Those whose windows close first; the rest show up as these are done."""


@dataclass(frozen=True)
class TaskView:
    """A task. Of one that is finished only id, status, done_block and receipt are left; the logs hold the rest."""

    task: bytes
    status: int
    kind: int = 0
    attempt: int = 0
    canary: bool = False
    poster: bytes = NOBODY
    model: bytes = ZERO_HASH
    prompt_hash: bytes = ZERO_HASH
    output_hash: bytes = ZERO_HASH
    seed: bytes = ZERO_HASH
    prompt_tokens: int = 0
    output_tokens: int = 0
    max_tokens: int = 0
    temperature_q16: int = 0
    top_k: int = 0
    assurance: int = 0
    auditors: int = 0
    deadline_blocks: int = 0
    posted_block: int = 0
    dealt_block: int = 0
    answered_block: int = 0
    drawn_block: int = 0
    revealing_block: int = 0
    agreed_block: int = 0
    done_block: int = 0
    slots: tuple[bytes, ...] = ()
    executor: bytes = NOBODY
    verifiers: tuple[bytes, ...] = ()
    """Everyone drawn, in order, those who lost their seats with them."""
    executor_root: bytes = ZERO_HASH
    other_root: bytes = ZERO_HASH
    """Of the verdict that contradicts the answer, as its first bad position is `bad`."""
    bad: int = 0
    escrow: int = 0
    price_per_cwu: int = 0
    receipt: bytes = ZERO_HASH
    disputes: int = 0
    """Challenges of the answer that wait or run: they hold its settlement."""

    @property
    def values(self) -> tuple[Any, ...]:
        """The fields in the order of the ABI's struct."""
        return tuple(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Duty:
    """Something an operator may send now or soon: its message is accepted in first_block .. last_block.

    role: abi.ROLE_EXECUTE (slot: 0 the executor, 1 and 2 its backups), ROLE_AUDIT, ROLE_REVEAL or ROLE_CHALLENGE (a
    verdict that contradicts must become a challenge: Referee.challenge), ROLE_DEFEND (an accused is silent in its
    dispute: Referee.show). slot: of ROLE_EXECUTE, or the seat; abi.NO_SLOT where others should act and are silent
    (vm.system.standby), which is nobody's miss. The prompt stands in the log TaskPosted of posted_block, the answer of
    `executor`, bound by `commitment`, in TaskAnswered of answered_block.
    """

    role: int
    kind: int
    task: bytes
    model: bytes
    prompt_hash: bytes
    output_hash: bytes
    seed: bytes
    trace_key: bytes
    max_tokens: int
    temperature_q16: int
    top_k: int
    slot: int
    first_block: int
    last_block: int
    posted_block: int
    answered_block: int
    executor: bytes
    commitment: bytes

    @property
    def values(self) -> tuple[Any, ...]:
        """The fields in the order of the ABI's struct."""
        return tuple(getattr(self, field.name) for field in fields(self))


def task_view(ctx: ReadContext, task_id: bytes) -> TaskView | None:
    """A task; None when it was never posted."""
    task = TASKS.get(ctx, task_id)
    if task is None:
        finished = FINISHED.get(ctx, task_id)
        if finished is None:
            return None
        return TaskView(task_id, finished.status, done_block=finished.done, receipt=ledger.receipt_of(ctx, task_id))
    return TaskView(
        task=task_id,
        status=task.status,
        kind=task.kind,
        attempt=task.attempt,
        canary=bool(task.canary),
        poster=task.poster,
        model=task.model,
        prompt_hash=task.prompt_hash,
        output_hash=task.output_hash,
        seed=task.seed,
        prompt_tokens=task.prompt,
        output_tokens=task.output,
        max_tokens=task.max_tokens,
        temperature_q16=task.temperature_q16,
        top_k=task.top_k,
        assurance=task.assurance,
        auditors=task.auditors,
        deadline_blocks=task.deadline,
        posted_block=task.posted,
        dealt_block=task.dealt,
        answered_block=task.answered,
        drawn_block=task.drawn,
        revealing_block=task.revealing,
        agreed_block=task.agreed,
        slots=task.parties,
        executor=task.executor,
        verifiers=tuple(seat.verifier for seat in seats_of(ctx, task_id, task)),
        executor_root=task.root,
        other_root=task.other_root,
        bad=task.other_bad,
        escrow=task.escrow,
        price_per_cwu=task.price,
        disputes=task.disputes,
    )


def open_tasks(ctx: ReadContext, operator: bytes) -> list[Duty]:
    """What an operator owes in ctx's block (a view's: the next one) or soon, the first to close first; bounded."""
    duties: list[Duty] = []
    for task_id in DUTIES.items(ctx, operator):
        duties += duties_in(ctx, task_id, operator)
    return sorted(duties, key=lambda duty: (duty.last_block, duty.task))[:DUTIES_SHOWN_MAX]


def duties_in(ctx: ReadContext, task_id: bytes, operator: bytes) -> list[Duty]:
    """What an operator owes one task; nothing when there is no such task or it is finished."""
    task = TASKS.get(ctx, task_id)
    owed = [] if task is None else _owed(ctx, task_id, task, operator)
    return [duty_of(task_id, task, *place) for place in owed if task and ctx.height <= place[2].last]


def trap_answers(ctx: ReadContext, operator: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """What an operator may set traps against: answers that are left for it, and (task, trace key) of its answers whose
    roots nobody has revealed."""
    unopened = []
    for task_id in DUTIES.items(ctx, operator):
        task = TASKS.get(ctx, task_id)
        assert task is not None, task_id
        if task.executor == operator and not task.executor_opened:
            unopened.append((task_id, trace_key(task.seed, task.attempt)))
    return TRAP_ANSWERS.get(ctx, operator), unopened


def _owed(ctx: ReadContext, task_id: bytes, task: Task, operator: bytes) -> Iterator[tuple[int, int, Window]]:
    """(role, slot or seat, window) of what an operator owes a task at its stage."""
    if task.status in DEALT_STAGES:
        if operator in task.parties:
            slot = task.parties.index(operator)
            yield abi.ROLE_EXECUTE, slot, task.slot_window(slot)
        return
    seats = seats_of(ctx, task_id, task)
    place = next((index for index, seat in enumerate(seats) if seat.verifier == operator), None)
    seat: Seat | None = None if place is None else seats[place]
    if task.status == Status.DRAWN and place is not None and seat is not None and seat.state == SEAT_DRAWN:
        yield abi.ROLE_AUDIT, place, task.verdict_window(ctx.params)
    if task.status in (Status.REVEALING, Status.DISPUTED):
        accused = operator == task.executor and not task.executor_opened
        if accused and task.status == Status.DISPUTED:
            yield abi.ROLE_REVEAL, 0, task.root_window(ctx.params, operator)
        elif accused or (seat is not None and seat.state == SEAT_GIVEN):
            yield abi.ROLE_REVEAL, place or 0, task.reveal_window(ctx.params, operator)
        elif operator == task.executor and task.revealer != operator and not task.disputes:
            yield abi.ROLE_TRAP, 0, task.reveal_window(ctx.params, operator)
    against = seat is not None and seat.state == SEAT_AGAINST and not seat.abandoned
    if against and place is not None and task.executor_opened:
        yield abi.ROLE_CHALLENGE, place, Window(task.contest_began + 1, market_contest.challenge_last(ctx, task))


def duty_of(task_id: bytes, task: Task, role: int, slot: int, window: Window) -> Duty:
    """Of a task at its stage, for some operator."""
    return Duty(
        role, task.kind, task_id, task.model, task.prompt_hash, task.output_hash, task.seed,
        trace_key(task.seed, task.attempt), task.max_tokens, task.temperature_q16, task.top_k, slot, window.first,
        window.last, task.posted, task.answered, task.executor, task.commitment,
    )  # fmt: skip


assert len(fields(TaskView)) == len(abi.TASK.members)
assert len(fields(Duty)) == len(abi.DUTY.members)
