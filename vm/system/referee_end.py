"""How a dispute ends, and who pays whom (docs/formats.md, Disputes, Money).

Owns slashes, bonds and what is paid of them. What becomes of the task is market_contest's question, how much a lie
costs consensus.work.slashing's.
"""

from collections.abc import Sequence

from consensus.work import fees, slashing
from primitives.address import REFEREE
from primitives.params import DISPUTE_DEFENCE_GAS, ChainParams
from primitives.reasons import Reason
from primitives.task import Kind, price_of
from vm.system import abi, ledger, market_contest, market_gas, models, staking
from vm.system import referee_gas as gas
from vm.system.context import ReadContext, SystemContext
from vm.system.layout import u64
from vm.system.ledger import Burn
from vm.system.market_state import (
    SEAT_AGAINST,
    SEAT_CHALLENGING,
    SEAT_OPENED,
    TASKS,
    Seat,
    Task,
    forgotten_from,
    put_seat,
    seats_of,
)
from vm.system.referee_state import (
    ACCUSED,
    AUTHOR_ANYONE,
    AUTHOR_DRAWN,
    CALLED,
    DISPUTES,
    FORGET,
    HELD,
    MOVES,
    NOBODY,
    OFFENCES,
    OPEN,
    RUNNING,
    Dispute,
    Offences,
    accused_of,
    item_of,
)
from vm.system.referee_turns import Case, ask_for_list, begin_turn

BY_TIME = (abi.ENDED_UNDEFENDED, abi.ENDED_WITHHELD)
WEI_BITS = 96


class Purse:
    """What a loser's stake or bond gave, in the Referee's account, and what of it was paid to whom."""

    def __init__(self, ctx: SystemContext, wei: int) -> None:
        self._ctx, self.wei, self.left = ctx, wei, wei
        self.costs = self.asker = self.bounty = self.burned = 0

    def pay(self, target: bytes, wei: int) -> int:
        """As much of it as is left. The wei paid."""
        paid = min(wei, self.left)
        self.left -= paid
        self._ctx.transfer(REFEREE, target, paid)
        return paid

    def burn(self) -> None:
        """All that is left."""
        self.burned = self.left
        ledger.burn(self._ctx, REFEREE, self.left, Burn.SLASH)
        self.left = 0

    @property
    def split(self) -> tuple[int, int, int, int, int]:
        """As DisputeEnded has it."""
        return self.wei, self.costs, self.asker, self.bounty, self.burned


def bond_of(ctx: SystemContext, task: Task) -> int:
    """What a challenge of this task's answer bonds: 4 G and the worst gas of the defence, at twice the base fee."""
    return bond_at(task.gain, ctx.base_fee)


def bond_at(gain: int, base_fee: int) -> int:
    """The same from G and a base fee."""
    return 4 * gain + fees.GAS_PRICE_FACTOR * base_fee * DISPUTE_DEFENCE_GAS


def end(ctx: SystemContext, number: int, dispute: Dispute, reason: int) -> None:
    """The dispute is over for one of abi.ENDED_*, those of a stand-in excepted. The caller has charged its gas."""
    task = TASKS.get(ctx, dispute.task)
    assert task is not None, number
    match reason:
        case abi.ENDED_REFUTED | abi.ENDED_UNDEFENDED:
            _accused_lost(ctx, number, dispute, task, reason)
        case abi.ENDED_HELD | abi.ENDED_ABANDONED:
            _challenger_lost(ctx, number, dispute, task, reason)
        case other:
            raise AssertionError(f"dispute {number} ends for {other}")


def diverged(ctx: SystemContext, number: int, dispute: Dispute) -> int:
    """The two referees disagree: nobody wins. What who posted the opened list would lose at least is held, other bonds
    return, the task's escrow goes back, and nothing more is asked of the model. The wei held."""
    task = TASKS.get(ctx, dispute.task)
    assert task is not None, number
    if dispute.author_kind == AUTHOR_ANYONE:
        wei = dispute.author_bond
    else:
        most = dispute.author_bond or slashing.first_offence(ctx.params, task.gain, ctx.base_fee)
        wei = staking.slash(ctx, dispute.author, most, dispute.task, Reason.REFEREES_DIVERGED)
    if dispute.author_kind == AUTHOR_DRAWN:
        staking.unbind(ctx, dispute.author)
    purse = Purse(ctx, wei)
    HELD.add(ctx, purse.wei)
    _return_bond(ctx, dispute)
    _uncount(ctx, dispute)
    _close(ctx, number, dispute, abi.ENDED_DIVERGED, NOBODY, dispute.author, purse)
    models.suspend(ctx, task.model, number)
    market_contest.undecided(ctx, dispute.task, task)
    return purse.wei


def moot(ctx: SystemContext, number: int, dispute: Dispute) -> None:
    """What it was about is gone: bonds return, nobody pays."""
    _return_bond(ctx, dispute)
    _close(ctx, number, dispute, abi.ENDED_MOOT, NOBODY, NOBODY, Purse(ctx, 0))


def withheld(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """Contradicted, and nobody revealed its root, which whoever can do the work can: as a challenge undefended."""
    seats = seats_of(ctx, task_id, task)
    right = [seat for seat in seats if seat.state == SEAT_AGAINST]
    purse = Purse(ctx, _slash(ctx, task_id, task, seats, abi.ENDED_WITHHELD, Reason.ROOT_WITHHELD))
    purse.costs = _pay_work(ctx, purse, task, right)
    _pay_asker(purse, task)
    purse.burn()
    abi.emit(
        ctx, abi.DISPUTE_ENDED_LOG, 0, task_id, NOBODY, task.executor, abi.ENDED_WITHHELD, *purse.split
    )  # number 0: there was nothing to dispute
    market_contest.refuted(ctx, task_id, task, 0, abi.ENDED_WITHHELD)


def unchallenged(ctx: SystemContext, task_id: bytes, task: Task, index: int, seat: Seat) -> None:
    """A contradiction that became no challenge, or whose challenge was abandoned and taken up by nobody, is void and
    costs a lost challenge."""
    wei = staking.slash(ctx, seat.verifier, bond_of(ctx, task), task_id, Reason.NO_CHALLENGE)
    purse = Purse(ctx, wei)
    left = DISPUTES.get(ctx, u64(seat.abandoned)) if seat.abandoned else None
    if left is not None:
        purse.costs = purse.pay(left.author, left.costs) + _pay_cancelled(ctx, purse, task)
    purse.burn()
    market_contest.void(ctx, task_id, task, index, seat, Reason.NO_CHALLENGE.text)
    abi.emit(
        ctx, abi.DISPUTE_ENDED_LOG, 0, task_id, task.executor, seat.verifier, abi.ENDED_UNCHALLENGED, *purse.split
    )


def list_lost(ctx: SystemContext, number: int, dispute: Dispute, reason: int) -> None:
    """A stand-in's list is refuted, or its time ran out: its bond is gone, and the list is asked for again."""
    author, bond = dispute.author, dispute.author_bond
    if dispute.author_kind == AUTHOR_DRAWN:
        bond = staking.slash(ctx, author, bond, dispute.task, Reason.STAND_IN_LOST)
        staking.unbind(ctx, author)
    else:
        dispute.stand_ins += 1
    purse = Purse(ctx, bond)
    dispute.costs -= purse.pay(dispute.challenger, dispute.costs)
    purse.burn()
    dispute.author, dispute.author_kind, dispute.author_bond = NOBODY, 0, 0
    task = TASKS.get(ctx, dispute.task)
    assert task is not None
    ask_for_list(dispute, Case(ctx, task))
    dispute.defender_spoke = dispute.defender_used = 0
    begin_turn(ctx, number, dispute, abi.TURN_DEFENDER)
    abi.emit(ctx, abi.LIST_REFUTED, number, dispute.task, author, reason, bond, dispute.due)


def offence(ctx: SystemContext, operator: bytes, by_time: bool) -> bool:
    """Note an offence of an operator; whether it counts as a repeated one.

    Proved lies repeat each other; a loss by time is a first offence, unless two others lie within the window.
    """
    record = OFFENCES.get(ctx, operator) or Offences()
    now, window = ctx.params.epoch(ctx.height) + 1, ctx.params.slash_window_epochs

    def lately(epoch: int) -> bool:
        return epoch > 0 and now - epoch < window

    if by_time:
        again = lately(record.undefended) and lately(record.undefended_before)
        record.undefended_before, record.undefended = record.undefended, now
    else:
        again = lately(record.proven)
        record.proven = now
    OFFENCES.put(ctx, record, operator)
    return again


def earlier_challenges(ctx: ReadContext, accused: bytes) -> int:
    """Challenges of an operator by people not drawn, within the window, that did not win: each doubles the bond."""
    record = accused_of(ctx, accused)
    lately = record.filed and ctx.params.epoch(ctx.height) - record.filed_epoch < ctx.params.slash_window_epochs
    return record.filed if lately else 0


def _accused_lost(ctx: SystemContext, number: int, dispute: Dispute, task: Task, reason: int) -> None:
    seats = seats_of(ctx, dispute.task, task)
    against = [seat for seat in seats if seat.state in (SEAT_AGAINST, SEAT_CHALLENGING)]
    own = next((seat for seat in against if seat.verifier == dispute.operator), None)
    same = [seat for seat in against if own is None or (seat.commitment, seat.bad) == (own.commitment, own.bad)]
    why = Reason.WRONG_WORK
    if reason == abi.ENDED_UNDEFENDED:
        why = Reason.DISPUTE_CLOCK if dispute.defender_spoke else Reason.DISPUTE_SILENCE
    taken = _slash(ctx, dispute.task, task, seats, reason, why)
    purse = Purse(ctx, taken)
    purse.costs = purse.pay(dispute.challenger, dispute.costs) + _pay_work(ctx, purse, task, same)
    _pay_asker(purse, task)
    bounty = min(slashing.bounty_of(ctx.params, taken), purse.left)
    targets = [staking.payout_of(ctx, seat.verifier) for seat in same] if own is not None else [dispute.challenger]
    for target in targets:
        purse.bounty += purse.pay(target, bounty // len(targets))
    purse.burn()
    _return_bond(ctx, dispute)
    _uncount(ctx, dispute)
    winner = dispute.operator if own is not None else dispute.challenger
    _close(ctx, number, dispute, reason, winner, dispute.accused, purse)
    market_contest.refuted(ctx, dispute.task, task, number, reason)


def _challenger_lost(ctx: SystemContext, number: int, dispute: Dispute, task: Task, reason: int) -> None:
    if dispute.from_stake and reason == abi.ENDED_ABANDONED:
        _abandoned(ctx, number, dispute, task)
        return
    wei, loser = dispute.bond, dispute.challenger
    if dispute.from_stake:
        loser = dispute.operator
        wei = staking.slash(ctx, loser, wei, dispute.task, Reason.CHALLENGE_LOST)
    purse = Purse(ctx, wei)
    for word in MOVES.all(ctx, u64(number)):
        purse.costs += purse.pay(*_mover_and_wei(word))
    purse.costs += _pay_cancelled(ctx, purse, task)
    purse.burn()
    _return_author_bond(ctx, dispute)
    _close(ctx, number, dispute, reason, dispute.accused, loser, purse)
    if dispute.from_stake:
        index, seat = _challenging(ctx, dispute, task)
        market_contest.void(ctx, dispute.task, task, index, seat, Reason.CHALLENGE_LOST.text)
    market_contest.cleared(ctx, dispute.task, task)


def _abandoned(ctx: SystemContext, number: int, dispute: Dispute, task: Task) -> None:
    """A drawn verifier went silent in its own challenge. It may be right and away: its contradiction stands again, for
    anybody to take up, and pays if nobody does. What the defence cost stays on record, for who began it."""
    moves = [_mover_and_wei(word) for word in MOVES.all(ctx, u64(number))]
    _return_author_bond(ctx, dispute)
    dispute.author = moves[0][0] if moves else NOBODY
    dispute.costs = min(sum(wei for _, wei in moves), (1 << WEI_BITS) - 1)
    _close(ctx, number, dispute, abi.ENDED_ABANDONED, dispute.accused, dispute.operator, Purse(ctx, 0))
    index, seat = _challenging(ctx, dispute, task)
    seat.state, seat.abandoned = SEAT_AGAINST, number
    put_seat(ctx, dispute.task, index, seat)
    market_contest.cleared(ctx, dispute.task, task)


def _challenging(ctx: SystemContext, dispute: Dispute, task: Task) -> tuple[int, Seat]:
    """The seat whose challenge a dispute is."""
    return next(
        (index, seat)
        for index, seat in enumerate(seats_of(ctx, dispute.task, task))
        if seat.verifier == dispute.operator and seat.state == SEAT_CHALLENGING
    )


def _mover_and_wei(word: int) -> tuple[bytes, int]:
    """An entry of MOVES."""
    return (word >> WEI_BITS).to_bytes(20, "big"), word & ((1 << WEI_BITS) - 1)


def _pay_cancelled(ctx: SystemContext, purse: Purse, task: Task) -> int:
    """Of a task that its asker has cancelled, who slandered the answer pays the executor's fee. The wei paid."""
    return purse.pay(staking.payout_of(ctx, task.executor), _executor_fee(ctx, task)) if task.cancelled else 0


def _slash(
    ctx: SystemContext, task_id: bytes, task: Task, seats: Sequence[Seat], reason: int, why: Reason
) -> int:
    """Take what the answer's executor, and every verifier whose verdict equals it, lose. The wei taken.

    By the referee's arithmetic their credit goes too.
    """
    by_time, taken = reason in BY_TIME, 0
    culprits = [(task.executor, why)]
    culprits += [(seat.verifier, Reason.VERDICT_REFUTED) for seat in seats if seat.state == SEAT_OPENED]
    for operator, cause in culprits:
        again = offence(ctx, operator, by_time)
        if again and operator == task.executor:
            cause = Reason.UNDEFENDED_AGAIN if by_time else Reason.WRONG_WORK_AGAIN
        taken += staking.slash(ctx, operator, _amount(ctx, task, operator, again), task_id, cause)
        if not by_time:
            ledger.forget_work(ctx, operator)
    return taken


def _amount(ctx: SystemContext, task: Task, operator: bytes, again: bool) -> int:
    if not again:
        return slashing.first_offence(ctx.params, task.gain, ctx.base_fee)
    record = staking.operator(ctx, operator)
    assert record is not None
    return slashing.repeated_offence(ctx.params, task.gain, ctx.base_fee, record.stake)


def _pay_work(ctx: SystemContext, purse: Purse, task: Task, seats: Sequence[Seat]) -> int:
    """What the verifiers who were right would have been paid at a settlement: their audit, and their message's gas."""
    model = models.require(ctx, task.model)
    audit = price_of(model.cost.audit(Kind(task.kind), task.prompt, task.output), task.price)
    message = market_gas.WORK_PAID.saying(market_gas.WORK_PAID.verdict, task.paid_auditors)
    paid = 0
    for seat in seats:
        record = staking.operator(ctx, seat.verifier)
        assert record is not None
        paid += purse.pay(record.payout, audit)
        paid += purse.pay(record.hot, message * fees.GAS_PRICE_FACTOR * task.base_fee)
    return paid


def _pay_asker(purse: Purse, task: Task) -> None:
    if not task.canary and not task.commissioned:
        purse.asker = purse.pay(task.poster, task.gain)


def _executor_fee(ctx: SystemContext, task: Task) -> int:
    """What the executor of a cancelled task would have earned for an answer that stands after all."""
    macs = models.require(ctx, task.model).cost.execution(Kind(task.kind), task.prompt, task.output)
    fee = price_of(macs, task.price)
    params: ChainParams = ctx.params
    return fee - fee * params.fee_burn_percent // 100 - fee * params.fee_pool_percent // 100


def _return_bond(ctx: SystemContext, dispute: Dispute) -> None:
    if not dispute.from_stake:
        ctx.transfer(REFEREE, dispute.challenger, dispute.bond)


def _return_author_bond(ctx: SystemContext, dispute: Dispute) -> None:
    """A stand-in's list was not refuted."""
    if dispute.author_kind == AUTHOR_ANYONE:
        ctx.transfer(REFEREE, dispute.author, dispute.author_bond)
    elif dispute.author_kind == AUTHOR_DRAWN:
        staking.unbind(ctx, dispute.author)


def _uncount(ctx: SystemContext, dispute: Dispute) -> None:
    """A challenge by somebody not drawn that was not lost doubles no later bond."""
    if not dispute.from_stake:
        record = accused_of(ctx, dispute.accused)
        record.filed = max(0, record.filed - 1)
        ACCUSED.put(ctx, record, dispute.accused)


def _close(
    ctx: SystemContext, number: int, dispute: Dispute, reason: int, winner: bytes, loser: bytes, purse: Purse
) -> None:
    """Count it as over, prune it, and call the accused's next one."""
    was_running = dispute.state != abi.DISPUTE_QUEUED
    staking.unbind(ctx, dispute.accused)
    if dispute.from_stake:
        staking.unbind(ctx, dispute.operator)
    OPEN.remove(ctx, item_of(number), b"")
    FORGET.push(ctx, forgotten_from(ctx), item_of(number))
    MOVES.replace(ctx, [], u64(number))
    DISPUTES.put(
        ctx,
        Dispute(
            state=abi.DISPUTE_ENDED, reason=reason, attempt=dispute.attempt, from_stake=dispute.from_stake,
            leaf=dispute.leaf, op=dispute.op, filed=dispute.filed, begun=dispute.begun, due=ctx.height,
            task=dispute.task, accused=dispute.accused, challenger=dispute.challenger, operator=dispute.operator,
            author=dispute.author, costs=dispute.costs,
        ),
        u64(number),
    )  # fmt: skip
    record = accused_of(ctx, dispute.accused)
    if was_running:
        RUNNING.add(ctx, -1)
        record.running = 0
    if record.waiting and not record.running and not record.called:
        record.called = 1
        CALLED.push(ctx, ctx.height, dispute.accused)
    ACCUSED.put(ctx, record, dispute.accused)
    abi.emit(ctx, abi.DISPUTE_ENDED_LOG, number, dispute.task, winner, loser, reason, *purse.split)


def gas_of_end(task: Task) -> int:
    """The most that the end of a dispute about this task may cost."""
    return gas.end(task.auditors, task.seats)
