"""The Market's clock: what happens when a window ends, and the draw of verifiers (steps 1 and 2 of the prologue).

Owns misses and the passage from one stage to the next when nobody speaks. What a message does is market_work's; lengths
of windows are consensus.work.audit's.
"""

from collections.abc import Sequence

from consensus.work import audit, deal, incentive
from consensus.work.verdict import Outcome
from primitives.reasons import Reason
from primitives.task import Status, price_of
from vm.system import abi, market_parties, mishaps, models, terms
from vm.system import market_gas as gas
from vm.system.context import SystemContext
from vm.system.market_items import run_queue
from vm.system.market_refund import refund
from vm.system.market_state import (
    DEALT_STAGES,
    DRAWS,
    DUTIES,
    EXPOSED,
    SEAT_DRAWN,
    SEAT_GIVEN,
    SEAT_MISSED,
    TASKS,
    WINDOWS,
    Seat,
    Task,
    expose,
    hold,
    put_seat,
    release,
    schedule,
    seats_of,
    unexpose,
)
from vm.system.market_verdict import agree, outcome_of, unverified


def close_windows(ctx: SystemContext) -> bool:
    """Step 1: windows and deadlines that ended before this block. False: stopped for want of gas."""
    members = market_parties.set_size(ctx)

    def gas_of(status: int, _: int, seats: int) -> int:
        return gas.pass_slot(members) if status in DEALT_STAGES else gas.close(seats)

    return run_queue(
        ctx, WINDOWS, "close", gas_of, _close, ctx.params.prologue_items_max, look=gas.look(members),
        looks=lambda status: status in DEALT_STAGES,
    )[1]  # fmt: skip


def draw_audits(ctx: SystemContext) -> bool:
    """Step 2: verifiers for answers of D blocks ago, and for empty seats. False: stopped for want of gas."""
    members = market_parties.set_size(ctx)

    def gas_of(status: int, auditors: int, seats: int) -> int:
        return gas.draw(members, auditors)

    most = ctx.params.prologue_items_max
    return run_queue(ctx, DRAWS, "draw", gas_of, _draw, most, look=gas.look(members))[1]


def _close(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    match Status(task.status):
        case Status.POSTED:
            refund(ctx, task_id, task, "nobody could be dealt the task before its deadline", charged=True)
        case Status.DEALT | Status.REFUTED:
            _slot_passed(ctx, task_id, task)
        case Status.DRAWN:
            _verdicts_closed(ctx, task_id, task)
        case Status.REVEALING:
            _reveals_closed(ctx, task_id, task)
        case other:
            raise AssertionError(f"a task that is {other.name} waits for no window")


def _slot_passed(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """A slot's own time is over: its miss, the next one's turn, and after the whole deadline the refund."""
    if task.passed < task.slots:
        operator, cost = task.parties[task.passed], _cost(ctx, task)
        serving = market_parties.serving(ctx, task.model)
        is_here = any(p.operator == operator for p in serving)  # who left misses nothing that counts
        excused = task.excused >> task.passed & 1 or terms.of(ctx, operator).away(ctx.timestamp)
        counted = is_here and not excused
        _miss(ctx, task_id, operator, abi.ROLE_EXECUTE, task.passed, Reason.NO_ANSWER, counted)
        if counted:
            models.note_missed(ctx, operator, task.model)
        release(ctx, task)
        task.passed += 1
        if task.passed < task.slots:
            task.excused |= market_parties.crowded(ctx, serving, task, task.parties[task.passed], cost) << task.passed
            hold(ctx, task, cost)
            models.note_dealt(ctx, task.parties[task.passed], task.model)
    end = task.dealt + task.deadline + 1
    if ctx.height >= end:
        refund(ctx, task_id, task, "no answer before the deadline", charged=not task.attempt)
        return
    missed_at = audit.slot_missed_at(task.dealt, task.deadline, task.passed) if task.passed < task.slots else end
    schedule(ctx, WINDOWS, task_id, task, max(missed_at, ctx.height + 1))
    TASKS.put(ctx, task, task_id)


def _cost(ctx: SystemContext, task: Task) -> int:
    return task.cost(models.require(ctx, task.model))


def _draw(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """Fill the seats that are empty; without anyone to fill them go on with what there is."""
    first = task.status == Status.ANSWERED
    seen = market_parties.look(ctx, task.model)
    seats = seats_of(ctx, task_id, task)
    # Who began to serve after the answer was given may have done so knowing what this draw gives.
    before = [p for p in seen.parties if p.since <= task.answered]
    covering = [p for p in before if p.covers(ctx.params, task.gain, EXPOSED.get(ctx, p.operator))]
    others = market_parties.drawable(covering, {task.executor, *(seat.verifier for seat in seats)})
    if first:
        task.auditors = audit.seats_of(task.paid_auditors, len(others))
        reason = _too_few(ctx, task, seen, len(others))
        if reason:
            refund(ctx, task_id, task, reason)
            return
    round_ = 0 if first else task.redraws + 1
    empty = task.auditors - sum(seat.state == SEAT_GIVEN for seat in seats)
    picks = deal.draw(ctx.mix, deal.Purpose.AUDIT, task_id, round_, others, empty)
    if not picks:
        _go_on(ctx, task_id, task, seats)
        return
    task.status, task.redraws, task.drawn = Status.DRAWN, round_, ctx.height
    for verifier in picks:
        put_seat(ctx, task_id, task.seats, Seat(verifier, SEAT_DRAWN, round_))
        task.seats += 1
        expose(ctx, task, verifier)
        DUTIES.add(ctx, task_id, verifier)
    last = task.verdict_window(ctx.params).last
    schedule(ctx, WINDOWS, task_id, task, last + 1)
    TASKS.put(ctx, task, task_id)
    abi.emit(ctx, abi.AUDIT_DRAWN, task_id, round_, picks, last)


def _too_few(ctx: SystemContext, task: Task, seen: market_parties.Look, others: int) -> str:
    """Why the verifiers that can be drawn are not what the asker was promised; empty when they are."""
    if task.auditors < task.assurance:
        return f"{others} others could check the answer, the asker wanted {task.assurance}"
    if task.value_at_risk:
        chance = incentive.caught(market_parties.odds(ctx, seen.weight, seen.parties, task.delay), task.auditors)
        stakes = incentive.stakes_of(ctx.params, task.gain, price_of(_cost(ctx, task), task.price))
        if not incentive.deters(chance, stakes, task.value_at_risk):
            return f"{task.auditors} verifiers of {others} others no longer make {task.value_at_risk} wei at risk safe"
    return ""


def _verdicts_closed(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """Seats that stayed empty are lost; they are drawn again in this block's step 2, at most so often."""
    seats = seats_of(ctx, task_id, task)
    for index, seat in enumerate(seats):
        if seat.state == SEAT_DRAWN:
            _lose_seat(ctx, task_id, task, index, seat, Reason.NO_VERDICT)
    if audit.may_redraw(task.redraws, ctx.params.redraws_max, revealed=False):
        schedule(ctx, DRAWS, task_id, task, ctx.height)
        TASKS.put(ctx, task, task_id)
    else:
        _go_on(ctx, task_id, task, seats)


def _go_on(ctx: SystemContext, task_id: bytes, task: Task, seats: Sequence[Seat]) -> None:
    """No more verifiers: to the reveals if a verdict is in, else nobody checks this answer."""
    if any(seat.state == SEAT_GIVEN for seat in seats):
        begin_reveals(ctx, task_id, task, seats)
    else:
        unverified(ctx, task_id, task, "nobody gave a verdict" if seats else "nobody else serves the model")


def begin_reveals(ctx: SystemContext, task_id: bytes, task: Task, seats: Sequence[Seat]) -> None:
    """From the next block on T may be told; no verifier is drawn any more."""
    task.status, task.revealing = Status.REVEALING, ctx.height
    last = task.reveal_window(ctx.params, task.executor).last
    schedule(ctx, WINDOWS, task_id, task, last + 1)
    TASKS.put(ctx, task, task_id)
    verdicts = sum(seat.state == SEAT_GIVEN for seat in seats)
    abi.emit(ctx, abi.REVEAL_BEGAN, task_id, verdicts, last)


def _reveals_closed(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """The last window: agreed with whoever opened, else unverified; what nothing opened is its verifier's miss."""
    seats = seats_of(ctx, task_id, task)
    outcome = outcome_of(task, seats, closed=True)
    miss_unopened(ctx, task_id, task, seats)
    if task.disputes:
        task.due = 0  # a watcher's challenge: what becomes of the task is decided when it is over
        TASKS.put(ctx, task, task_id)
        return
    match outcome:
        case Outcome.AGREED:
            agree(ctx, task_id, task, seats)
        case Outcome.UNVERIFIED:
            unverified(ctx, task_id, task, "no verdict was opened")
        case Outcome.UNOPENED:
            if task.assurance:
                _miss(ctx, task_id, task.executor, abi.ROLE_REVEAL, task.slot, Reason.ANSWER_UNOPENED)
            unverified(ctx, task_id, task, Reason.ANSWER_UNOPENED.text)
        case _:
            raise AssertionError(f"reveals closed with {outcome}")


def miss_unopened(ctx: SystemContext, task_id: bytes, task: Task, seats: Sequence[Seat]) -> None:
    """The reveals are over: verdicts that nothing opened are lost."""
    for index, seat in enumerate(seats):
        if seat.state == SEAT_GIVEN:
            _lose_seat(ctx, task_id, task, index, seat, Reason.VERDICT_UNOPENED)


def _lose_seat(
    ctx: SystemContext, task_id: bytes, task: Task, index: int, seat: Seat, reason: Reason
) -> None:
    seat.state = SEAT_MISSED
    unexpose(ctx, task, seat.verifier)
    put_seat(ctx, task_id, index, seat)
    _miss(ctx, task_id, seat.verifier, abi.ROLE_AUDIT, index, reason)


def _miss(
    ctx: SystemContext, task_id: bytes, operator: bytes, role: int, place: int, reason: Reason, counted: bool = True
) -> None:
    """A miss costs the pay and the credit of this task, never stake. Outside one's declared hours it is none."""
    if reason in (Reason.NO_ANSWER, Reason.NO_VERDICT) and terms.of(ctx, operator).away(ctx.timestamp):
        reason, counted = Reason.DECLARED_AWAY, False
    else:
        mishaps.note_miss(ctx, operator, task_id, reason, role, counted)
    abi.emit(ctx, abi.TASK_MISSED, task_id, operator, role, place, counted, reason.code, reason.text)
