"""A trap for verifiers who copy a root instead of computing it (docs/useful-work.md, Traps).

An executor may commit to T* = H("trap" | salt | T), let T* be known, and open it when the reveals begin, before any
contradiction is read. Whoever committed to T* has computed nothing: it pays 256 times an audit, half of it to the
executor, the rest to those who committed to T, up to another audit's pay each; what is left burns.
"""

from consensus.work.verdict import Outcome
from primitives.address import REFEREE
from primitives.reasons import Reason
from primitives.task import (
    NO_BAD_POSITION,
    Kind,
    Status,
    TrapOpening,
    execution_commitment,
    price_of,
    trap_root,
    verdict_commitment,
)
from vm.system import abi, ledger, market_contest, mishaps, models, staking
from vm.system import market_gas as gas
from vm.system.context import Refused, SystemContext
from vm.system.ledger import Burn
from vm.system.market_state import (
    CONTESTED,
    SEAT_AGAINST,
    SEAT_GIVEN,
    SEAT_MISSED,
    SEAT_OPENED,
    TASKS,
    TRAP_ANSWERS,
    Seat,
    Task,
    put_seat,
    schedule,
    seats_of,
    unexpose,
)
from vm.system.market_verdict import agree, outcome_of

TRAP_EVERY = 16
"""So many answers of an operator allow it a trap."""
TRAP_ANSWERS_MAX = 4 * TRAP_EVERY
"""Answers that count for later traps: more than one trap takes, or anybody could read that the next ones are none."""
TRAP_AUDITS = 256
"""What a copied root costs, in audits of the task."""


def note_answer(ctx: SystemContext, operator: bytes) -> None:
    """An operator has answered: a part of a trap that it may open."""
    answers = TRAP_ANSWERS.get(ctx, operator)
    if answers < TRAP_ANSWERS_MAX:
        TRAP_ANSWERS.set(ctx, answers + 1, operator)


def spring(ctx: SystemContext, operator: bytes, task: Task, item: TrapOpening) -> None:
    """Open the executor's trap: its commitment is from here on that to T. The caller has checked stage and window.

    Others may have revealed T before it, and so contradicted what was hidden: from here on they agree with it. Or they
    have revealed T* itself, which nobody challenges before the executor's own time is over: it did not open that.
    """
    if operator != task.executor:
        raise Refused("not_dealt", "only its executor opens a task's trap")
    star = trap_root(item.salt, item.root)
    closed = not task.executor_opened or (task.revealer != operator and not task.disputes)
    if not closed or execution_commitment(item.task, operator, star) != task.commitment:
        raise Refused("opens_nothing", "no commitment that is still closed opens to this trap")
    answers = TRAP_ANSWERS.get(ctx, operator)
    if answers < TRAP_EVERY:
        raise Refused("trap_allowance", f"{answers} answers are left for traps; each takes {TRAP_EVERY}")
    TRAP_ANSWERS.set(ctx, answers - TRAP_EVERY, operator)
    ctx.charge(gas.SEAT_SEEN * task.seats, "seats")
    task.commitment = execution_commitment(item.task, operator, item.root)
    task.executor_opened, task.root, task.revealer = 1, item.root, operator
    market_contest.note_ground(ctx, task)  # whoever contradicts T too has its time from here on
    if task.status == Status.DISPUTED and ctx.height > task.reveal_window(ctx.params, operator).last:
        schedule(ctx, CONTESTED, item.task, task, ctx.height + 1)
    TASKS.put(ctx, task, item.task)
    seats = seats_of(ctx, item.task, task)
    honest: list[Seat] = []
    caught: list[Seat] = []
    for index, seat in enumerate(seats):
        if _says(seat, item.task, item.root):
            seat.state, seat.commitment, seat.bad = SEAT_OPENED, item.root, NO_BAD_POSITION
            honest.append(seat)
        elif _says(seat, item.task, star):
            seat.state = SEAT_MISSED
            unexpose(ctx, task, seat.verifier)
            caught.append(seat)
        else:
            continue
        put_seat(ctx, item.task, index, seat)
    parties = [operator, *(seat.verifier for seat in honest)]
    abi.emit(ctx, abi.TRAP_SPRUNG, item.task, operator, item.salt, star, [seat.verifier for seat in caught])
    abi.emit(ctx, abi.REVEALED, item.task, operator, item.root, NO_BAD_POSITION, parties)
    if caught:
        _punish(ctx, item.task, task, caught, honest)
    if task.status == Status.REVEALING and outcome_of(task, seats, closed=False) is Outcome.AGREED:
        agree(ctx, item.task, task, seats)


def _says(seat: Seat, task_id: bytes, root: bytes) -> bool:
    """Whether a verdict is that of a root without a bad position, opened or not."""
    if seat.state == SEAT_GIVEN:
        return seat.commitment == verdict_commitment(task_id, seat.verifier, NO_BAD_POSITION, root)
    return seat.state in (SEAT_OPENED, SEAT_AGAINST) and (seat.commitment, seat.bad) == (root, NO_BAD_POSITION)


def _punish(ctx: SystemContext, task_id: bytes, task: Task, caught: list[Seat], honest: list[Seat]) -> None:
    """Take it from who copied, with this epoch's credit; pay the executor and those who did compute."""
    cost = models.require(ctx, task.model).cost
    audit = price_of(cost.audit(Kind(task.kind), task.prompt, task.output), task.price or ledger.base_price(ctx))
    taken = 0
    for seat in caught:
        ctx.charge(gas.TRAPPED, "trap")
        taken += staking.slash(ctx, seat.verifier, TRAP_AUDITS * audit, task_id, Reason.COPIED_ROOT)
        ledger.forget_epoch(ctx, seat.verifier)
        mishaps.note_miss(ctx, seat.verifier, task_id, Reason.TRAPPED, abi.ROLE_AUDIT, True)
    left = taken
    payments = [(task.executor, abi.ROLE_EXECUTE, taken // 2)]
    payments += [(seat.verifier, abi.ROLE_AUDIT, audit) for seat in honest]
    for operator, role, wei in payments:
        paid = min(wei, left)
        left -= paid
        target = staking.payout_of(ctx, operator)
        if paid:
            ctx.transfer(REFEREE, target, paid)
            abi.emit(ctx, abi.TRAP_PAID, task_id, operator, target, role, paid)
    ledger.burn(ctx, REFEREE, left, Burn.SLASH)
