"""What a dispute does to its task: contradictions that must become challenges, the settlement that waits, a void
verdict, and the next attempt after a refutation.

Owns the task's side only. Who is right, and who pays, is the Referee's (referee_end).
"""

from collections.abc import Sequence

from consensus.work import audit
from consensus.work.verdict import Opened, Outcome
from primitives.hashing import ZERO_HASH
from primitives.task import NO_BAD_POSITION, Status, trace_key
from vm.system import abi, market_parties, models
from vm.system import market_gas as gas
from vm.system.context import ReadContext, SystemContext
from vm.system.market_refund import call_back, refund
from vm.system.market_state import (
    CONTESTED,
    CONTESTS,
    DUTIES,
    MATURE,
    NOBODY,
    SEAT_AGAINST,
    SEAT_CHALLENGING,
    SEAT_GIVEN,
    SEAT_MISSED,
    SEATS,
    TASKS,
    WINDOWS,
    Seat,
    Task,
    finish,
    hold,
    put_seat,
    schedule,
    seats_of,
    uncover,
    unexpose,
)
from vm.system.market_verdict import agree, outcome_of, unverified
from vm.system.referee_state import STOPPED

REFEREES_DISAGREE = "the two referees disagree about the answer"
REFUNDED_WHOLE = "the answer was refuted, and nobody is left to give another"


def contradicted(ctx: SystemContext, task_id: bytes, task: Task, verifier: bytes, verdict: Opened) -> None:
    """A verdict contradicts the answer: fee and credit stay frozen, and it must become a challenge.

    Reveals go on to the end of their window, so that every root is known.
    """
    task.status, task.contradicted = Status.DISPUTED, 1
    task.contradictor, task.other_root, task.other_bad = verifier, verdict.root, verdict.bad
    schedule(ctx, CONTESTED, task_id, task, task.due)
    TASKS.put(ctx, task, task_id)
    abi.emit(
        ctx, abi.TASK_DISPUTED, task_id, task.executor, verifier, task.root, verdict.root, NO_BAD_POSITION, verdict.bad
    )


def note_ground(ctx: SystemContext, task: Task) -> None:
    """Contradictions have their time to become challenges from this block on."""
    task.contest_began, task.contest_stopped = ctx.height, STOPPED.get(ctx)


def challenge_last(ctx: ReadContext, task: Task) -> int:
    """Last block in which a contradiction may become a challenge, as far as is known: blocks with a full lane add."""
    stood = STOPPED.get(ctx) - task.contest_stopped
    return task.contest_began + max(ctx.params.silence_blocks, task.delay) + stood


def late(ctx: SystemContext, task: Task, seats: Sequence[Seat]) -> list[int]:
    """Seats whose contradiction should be a challenge by now, and is none. While a challenge of the answer waits or
    runs that is open: it may prove them right, whoever filed it."""
    if task.disputes or ctx.height <= challenge_last(ctx, task):
        return []
    return [index for index, seat in enumerate(seats) if seat.state == SEAT_AGAINST]


def look_again(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """The reveals of a disputed task are over, or the contradictions' time is: wait, or go on."""
    seats = seats_of(ctx, task_id, task)
    against = any(seat.state == SEAT_AGAINST for seat in seats)
    if against:
        CONTESTS.add(ctx, task_id, b"")
    task.due = 0
    if against and not task.disputes:
        schedule(ctx, CONTESTED, task_id, task, challenge_last(ctx, task) + 1)
    if against or task.disputes:
        TASKS.put(ctx, task, task_id)
    else:
        _conclude(ctx, task_id, task, seats)


def await_root(ctx: SystemContext, task_id: bytes, task: Task, until: int) -> None:
    """The reveals are over, and nobody has revealed the root of the contradicted answer yet."""
    CONTESTS.add(ctx, task_id, b"")
    schedule(ctx, CONTESTED, task_id, task, until + 1)
    TASKS.put(ctx, task, task_id)


def void(ctx: SystemContext, task_id: bytes, task: Task, index: int, seat: Seat, reason: str) -> None:
    """A contradicting verdict counts as never given."""
    unexpose(ctx, task, seat.verifier)
    seat.state = SEAT_MISSED
    put_seat(ctx, task_id, index, seat)
    DUTIES.remove(ctx, task_id, seat.verifier)
    abi.emit(ctx, abi.VERDICT_VOID, task_id, seat.verifier, reason)


def cleared(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """A challenge of the answer was lost. When it was the last one, the task goes on from where it stood: who still
    contradicts has its time anew, for what was filed was not its own doing."""
    task.disputes -= 1
    if task.disputes or task.due:
        TASKS.put(ctx, task, task_id)  # other disputes, or a window that is still to end
    elif task.status in (Status.AGREED, Status.UNVERIFIED):
        schedule(ctx, MATURE, task_id, task, ctx.height + 1)
        TASKS.put(ctx, task, task_id)
    else:
        note_ground(ctx, task)
        look_again(ctx, task_id, task)


def refuted(ctx: SystemContext, task_id: bytes, task: Task, dispute: int, reason: int) -> None:
    """The answer of this attempt is false, or nobody stood for it: the next backup's turn begins at once; with nobody
    left everything goes back to the asker."""
    executor, attempt, cancelled = task.executor, task.attempt, task.cancelled
    later = () if cancelled or models.is_suspended(ctx, task.model) else task.parties[task.slot + 1 :]
    _dismiss(ctx, task_id, task)
    abi.emit(ctx, abi.TASK_REFUTED, task_id, executor, dispute, attempt, reason, later[0] if later else NOBODY)
    _forget_answer(task)
    task.status = Status.REFUTED
    if later:
        _deal_again(ctx, task_id, task, later)
    else:
        _give_up(ctx, task_id, task, cancelled, Status.REFUTED, REFUNDED_WHOLE)


def undecided(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """The two referees disagree about the answer: everything goes back to the asker, nobody is paid or credited. It is
    called back as refunded, for nothing was refuted."""
    cancelled = task.cancelled
    _dismiss(ctx, task_id, task)
    _forget_answer(task)
    task.status = Status.REFUTED
    _give_up(ctx, task_id, task, cancelled, Status.REFUNDED, REFEREES_DISAGREE)


def _dismiss(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """Nobody has anything to do for this attempt any more."""
    seats = seats_of(ctx, task_id, task)
    CONTESTS.remove(ctx, task_id, b"")
    uncover(ctx, task_id, task)
    for index, seat in enumerate(seats):
        DUTIES.remove(ctx, task_id, seat.verifier)
        SEATS.delete(ctx, task_id, bytes([index]))
    for operator in task.parties:
        DUTIES.remove(ctx, task_id, operator)


def _give_up(
    ctx: SystemContext, task_id: bytes, task: Task, cancelled: bool, calls_back: Status, why: str
) -> None:
    """There is no other attempt: the escrow returns, unless its poster has it already."""
    if cancelled:
        finish(ctx, task_id, task, Status.REFUNDED)
    else:
        call_back(ctx, task_id, task, calls_back, ZERO_HASH)
        refund(ctx, task_id, task, why)


def _deal_again(ctx: SystemContext, task_id: bytes, task: Task, parties: tuple[bytes, ...]) -> None:
    """The slots that are left, a whole new deadline, a new key for the trace; the sampling seed stays, or refuting
    oneself would be a re-roll."""
    task.set_parties(parties)
    task.attempt += 1
    task.dealt = ctx.height
    for operator in parties:
        DUTIES.add(ctx, task_id, operator)
    cost, serving = task.cost(models.require(ctx, task.model)), market_parties.serving(ctx, task.model)
    task.excused = market_parties.excused(serving, parties, task.deadline, cost)
    task.excused |= int(market_parties.crowded(ctx, serving, task, parties[0], cost))
    hold(ctx, task, cost)
    models.note_dealt(ctx, parties[0], task.model)
    schedule(ctx, WINDOWS, task_id, task, audit.slot_missed_at(task.dealt, task.deadline, 0))
    TASKS.put(ctx, task, task_id)
    abi.emit(
        ctx, abi.TASK_DEALT, task_id, parties[0], task.attempt, parties, task.seed, trace_key(task.seed, task.attempt),
        audit.slot_step(task.deadline), task.dealt + task.deadline,
    )  # fmt: skip


def _forget_answer(task: Task) -> None:
    """What an attempt left in the task's record."""
    task.slot = task.passed = task.seats = task.redraws = task.auditors = 0
    task.executor_opened = task.contradicted = task.disputes = task.due = 0
    task.answered = task.drawn = task.revealing = task.agreed = task.delay = 0
    task.contest_began = task.contest_stopped = 0
    task.output = task.queue_ms = task.first_token_ms = task.total_ms = task.device_bytes = task.other_bad = 0
    task.output_hash = task.commitment = task.root = task.other_root = task.device = ZERO_HASH
    task.revealer = task.contradictor = NOBODY


def _conclude(ctx: SystemContext, task_id: bytes, task: Task, seats: Sequence[Seat]) -> None:
    """Nothing is contested any more and the reveals are over: as if the void verdicts never were."""
    assert not any(seat.state in (SEAT_GIVEN, SEAT_AGAINST, SEAT_CHALLENGING) for seat in seats), task_id
    CONTESTS.remove(ctx, task_id, b"")
    if task.cancelled:
        ctx.charge(gas.refund(max(task.paid_auditors, task.seats)), "end of a cancelled task")
        finish(ctx, task_id, task, Status.REFUNDED)
    elif outcome_of(task, seats, closed=True) is Outcome.AGREED:
        agree(ctx, task_id, task, seats)
    else:
        unverified(ctx, task_id, task, "no verdict that stands was opened")
