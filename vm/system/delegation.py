"""Delegation: anyone puts stake behind an operator and shares its fees, less a commission, and its slashes.

The methods of it, in Staking's account. Stake that is delegated weighs like the operator's own; what is taken back
leaves through the same queue, and can be slashed until it has left. Arithmetic is consensus.work.delegation's, pools
are vm.system.pools'.
"""

from dataclasses import dataclass
from typing import Any

from consensus.work.delegation import BASIS_POINTS, split_fee
from primitives.address import STAKING
from primitives.params import COIN
from vm.system import abi, gas, pools, staking
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.layout import Table, uint

DELEGATION_MIN = COIN
"""Wei that a delegator has with an operator, at least, unless it has nothing."""
AHEAD_EPOCHS = 2
"""A commission is in force with the set after the next."""


@dataclass
class Commission:
    """What an operator keeps of its delegators' fees, in basis points: now, and from an epoch on."""

    declared: int = uint(8)
    now: int = uint(16)
    later: int = uint(16)
    epoch: int = uint(64)


_COMMISSIONS = Table(STAKING, "commission", Commission)


def commission_of(ctx: ReadContext, operator: bytes) -> int | None:
    """Basis points in force; None while the operator has declared none and takes no delegations."""
    found = _COMMISSIONS.get(ctx, operator)
    if found is None or not found.declared:
        return None
    return found.later if ctx.params.epoch(ctx.height) >= found.epoch else found.now


def share_fee(ctx: SystemContext, operator: bytes, record: staking.Operator, fee: int) -> int:
    """The part of a fee that is an operator's delegators'; the caller moves it to Staking's account."""
    if not record.delegated:
        return 0
    commission = commission_of(ctx, operator)
    _, theirs = split_fee(fee, record.bond, record.delegated, BASIS_POINTS if commission is None else commission)
    if theirs:
        pools.reward(ctx, operator, theirs)
    return theirs


def _declare(ctx: SystemContext, call: Call, basis_points: int) -> None:
    ctx.charge(gas.COMMISSION, "declareCommission")
    staking.require(ctx, call.sender)
    if basis_points > BASIS_POINTS:
        raise Refused("bad_commission", f"a commission of {basis_points} basis points; at most {BASIS_POINTS}")
    now = ctx.params.epoch(ctx.height)
    before = commission_of(ctx, call.sender)
    epoch = now if before is None else now + AHEAD_EPOCHS  # a first one has nobody to surprise
    _COMMISSIONS.put(ctx, Commission(1, basis_points if before is None else before, basis_points, epoch), call.sender)
    abi.emit(ctx, abi.COMMISSION_DECLARED, call.sender, basis_points, epoch)


def _delegate(ctx: SystemContext, call: Call, operator: bytes) -> None:
    ctx.charge(gas.DELEGATE, "delegate")
    record = staking.require(ctx, operator)
    name = f"0x{operator.hex()}"
    if not record.active or record.jailed:
        raise Refused("not_active", f"{name} is no active operator")
    if operator == call.sender:
        raise Refused("own_stake", f"{name} bonds its own stake")
    if commission_of(ctx, operator) is None:
        raise Refused("no_commission", f"{name} takes no delegations: it has declared no commission")
    found = pools.pool(ctx, operator)
    if found.spent:
        raise Refused("pool_spent", f"slashes left nothing of what was delegated to {name}: it takes no more")
    if not call.value:
        raise Refused("nothing", "a delegation of 0 wei")
    have, _ = pools.delegation_of(ctx, call.sender, operator)
    if have + call.value < DELEGATION_MIN:
        raise Refused("too_small", f"{have + call.value} wei would be delegated; at least {DELEGATION_MIN}")
    pools.put_in(ctx, call.sender, operator, call.value)
    staking.move_delegated(ctx, operator, call.value)
    abi.emit(ctx, abi.DELEGATED, call.sender, operator, call.value, record.delegated + call.value)


def _undelegate(ctx: SystemContext, call: Call, operator: bytes, amount: int) -> None:
    ctx.charge(gas.UNDELEGATE, "undelegate")
    staking.require(ctx, operator)
    have, _ = pools.delegation_of(ctx, call.sender, operator)
    if not 0 < amount <= have:
        raise Refused("bad_amount", f"cannot take back {amount} of {have} wei")
    if 0 < have - amount < DELEGATION_MIN:
        raise Refused("too_small", f"{have - amount} wei would stay, below {DELEGATION_MIN}: take back all")
    moved, shares, generation = pools.take_out(ctx, call.sender, operator, amount)
    record = staking.move_delegated(ctx, operator, -moved)
    release = staking.leave(ctx, call.sender, shares, operator, generation)
    abi.emit(ctx, abi.UNDELEGATED, call.sender, operator, moved, record.delegated, release)


def _claim(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.CLAIM, "claim")
    wei = pools.claim(ctx, call.sender, operator)
    if not wei:
        raise Refused("nothing_due", f"0x{operator.hex()} has earned you nothing to claim")
    ctx.transfer(STAKING, call.sender, wei)
    abi.emit(ctx, abi.CLAIMED, call.sender, operator, wei)
    return (wei,)


def _get_delegation(ctx: SystemContext, call: Call, delegator: bytes, operator: bytes) -> tuple[Any, ...]:
    ctx.charge(6 * gas.VIEW_WORD, "getDelegation")
    return pools.delegation_of(ctx, delegator, operator)


def _commission(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "commission")
    found = _COMMISSIONS.get(ctx, operator) or Commission()
    return bool(found.declared), commission_of(ctx, operator) or 0, found.later, found.epoch


HANDLERS = {
    abi.DECLARE_COMMISSION: _declare,
    abi.DELEGATE: _delegate,
    abi.UNDELEGATE: _undelegate,
    abi.CLAIM: _claim,
    abi.GET_DELEGATION: _get_delegation,
    abi.COMMISSION: _commission,
}
