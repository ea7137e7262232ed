"""The epoch turn, in the last block of an epoch e: credits of e, the set of e + 2, the audit delay of e + 1.

Reads and writes Staking, Models and Ledger; the arithmetic is consensus.work's and consensus.bft.proposer's.
"""

from consensus.bft.proposer import ProposerSchedule, smallest_window
from consensus.work.credit import epoch_work, least_credit, next_credit
from consensus.work.power import ENTRY_EPOCHS, Stake
from consensus.work.power import turn as power_turn
from primitives.params import ChainParams
from primitives.task import ModelCost
from primitives.validators import ValidatorSet
from vm.system import abi, gas, ledger, models, staking
from vm.system.context import ReadContext, SystemContext


def run(ctx: SystemContext) -> None:
    """Turn the epoch that ctx's block ends. Its gas was charged by the prologue."""
    epoch = ctx.params.epoch(ctx.height)
    assert ctx.params.is_epoch_end(ctx.height)
    stakes = _credit_everyone(ctx, epoch)
    ledger.close_receipts(ctx, epoch)
    old = ledger.powers(ctx, epoch + 1)
    active = {stake.operator for stake in stakes}
    for operator in old:
        if operator not in active:
            models.keep_pace(ctx, operator)
    turned = power_turn(ctx.params, epoch, stakes, old, ledger.rho(ctx), least_credit(ctx.params, _listed(ctx)))
    ledger.put_rho(ctx, turned.rho)
    by_operator = {stake.operator: stake for stake in stakes}
    members: list[ledger.Member] = []
    for operator, power in turned.powers.items():
        stake = by_operator.get(operator, Stake(operator, 0, 0))
        members.append(ledger.Member(operator, stake.bond, power, turned.targets.get(operator, 0), stake.credit))
    fixed = ledger.put_set(ctx, epoch + 2, members, ctx.mix)
    ledger.put_capacity(ctx, models.set_capacity(ctx))
    delay = audit_delay(ctx, epoch + 1)
    ledger.put_audit_delay(ctx, epoch + 1, delay)
    for member in members:
        values = (member.power, member.target, member.credit, member.bond)
        abi.emit(ctx, abi.POWER_SET, epoch + 2, member.operator, *values)
    summary = (len(members), fixed.total_power, turned.rho, delay, turned.frozen)
    abi.emit(ctx, abi.EPOCH_TURNED, epoch, epoch + 2, fixed.hash, *summary)


def gas_needed(ctx: ReadContext) -> int:
    """What the turn of ctx's epoch is charged: kept back from the steps before it."""
    epoch = ctx.params.epoch(ctx.height)
    before = len(ledger.members(ctx, epoch + 1))
    return _gas(ctx.params, len(staking.active_operators(ctx)), before)


def gas_most(params: ChainParams) -> int:
    """The most that a turn is ever charged; genesis refuses parameters whose prologue could not pay it."""
    return _gas(params, params.validators_max, params.validators_max)


def audit_delay(ctx: ReadContext, epoch: int) -> int:
    """D of an epoch: the smallest window whose round-0 proposers, over it and the next joined, always hold over W/3."""
    schedule = []
    for each in (epoch, epoch + 1):
        head, fixed = ledger.set_head(ctx, each), ledger.validator_set(ctx, each)
        assert head is not None and fixed is not None
        first = ctx.params.first_height(each)
        schedule += ProposerSchedule(fixed, head.seed_mix, first).round_zero(ctx.params.epoch_blocks)
    return smallest_window(schedule)


def genesis_delay(params: ChainParams, fixed: ValidatorSet, seed_mix: bytes) -> int:
    """D of epochs 0 and 1, whose sets and seeds are the same."""
    schedule = ProposerSchedule(fixed, seed_mix, params.first_height(0)).round_zero(params.epoch_blocks)
    return smallest_window(schedule + schedule)


def _credit_everyone(ctx: SystemContext, epoch: int) -> list[Stake]:
    """Update C and the believed rates of every active operator; what the power rules need of them, in address order."""
    active = staking.active_operators(ctx)
    ledger.keep_credited(ctx, active)
    earning = any(models.counts(ctx, model_id) for model_id in models.listed_ids(ctx))
    stakes: list[Stake] = []
    for operator in active:
        record, standing = staking.operator(ctx, operator), ledger.standing(ctx, operator)
        assert record is not None
        if earning:
            work = epoch_work(standing.executed, standing.audited)
            standing.credit = next_credit(ctx.params, standing.credit, work)
            abi.emit(ctx, abi.CREDITED, epoch, operator, standing.executed, standing.audited, standing.credit)
        standing.executed = standing.audited = 0
        ledger.put_standing(ctx, operator, standing)
        models.turn_epoch(ctx, operator)
        entering = record.entered > 0 and epoch < ctx.params.epoch(record.entered) + ENTRY_EPOCHS
        bond = staking.bond_units(record.stake)
        stakes.append(Stake(operator, bond, standing.credit, bool(record.jailed), entering))
    return stakes


def _listed(ctx: ReadContext) -> list[tuple[ModelCost, int, bool]]:
    found = [models.require(ctx, model_id) for model_id in models.listed_ids(ctx)]
    return [(record.cost, record.context, bool(record.encoder)) for record in found]


def _gas(params: ChainParams, operators: int, before: int) -> int:
    most = min(params.validators_max, operators + before)
    steps = params.epoch_blocks * (before + most)
    return gas.TURN + gas.TURN_OPERATOR * (operators + before) + steps // gas.TURN_STEPS
