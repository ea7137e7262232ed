"""What stands behind an operator that is not its own: its pool of delegated stake, and the one that is leaving.

Storage and bookkeeping of consensus.work.delegation's pools; knows neither operators' records nor who may delegate. All
of it lies in Staking's account.
"""

from dataclasses import dataclass

from consensus.work import delegation
from consensus.work.delegation import Pool
from primitives.address import STAKING
from vm.system.context import ReadContext, SystemContext
from vm.system.layout import Scalar, Table, Words, u64, uint


@dataclass
class PoolWords:
    """A Pool in storage."""

    stake: int = uint(96)
    shares: int = uint(160)
    per_share: int = uint(256)
    carry: int = uint(160)


@dataclass
class Delegation:
    """One delegator's part of an operator's pool. owed: rewards counted and not claimed, in wei."""

    shares: int = uint(160)
    owed: int = uint(96)
    since: int = uint(256)


_POOLS = Table(STAKING, "pool", PoolWords)
_LEAVING = Table(STAKING, "pool.leaving", PoolWords)
_GENERATIONS = Words(STAKING, "pool.generation")
"""Of an operator's leaving pool: one that slashes emptied is left behind, and who leaves later begins another."""
_DELEGATIONS = Table(STAKING, "delegation", Delegation)
_REWARDS = Scalar(STAKING, "rewards")


def pool(ctx: ReadContext, operator: bytes) -> Pool:
    """What is delegated to an operator."""
    return _get(ctx, _POOLS, operator)


def delegation_of(ctx: ReadContext, delegator: bytes, operator: bytes) -> tuple[int, int]:
    """(stake, rewards not claimed) of one delegator with one operator, in wei."""
    found, record = pool(ctx, operator), _DELEGATIONS.get(ctx, operator, delegator) or Delegation()
    earned = delegation.earned(found, record.shares, record.since)
    return delegation.worth(found, record.shares), record.owed + earned


def put_in(ctx: SystemContext, delegator: bytes, operator: bytes, wei: int) -> None:
    """Give shares for wei that this account holds."""
    record = _settled(ctx, delegator, operator)
    after, shares = delegation.issue(pool(ctx, operator), wei)
    record.shares += shares
    _put(ctx, _POOLS, after, operator)
    _DELEGATIONS.put(ctx, record, operator, delegator)


def take_out(ctx: SystemContext, delegator: bytes, operator: bytes, wei: int) -> tuple[int, int, int]:
    """Move stake of a delegator into what is leaving: (wei moved, shares of the leaving pool, its generation). Some wei
    more than asked where shares do not divide it; all of it when all is asked for."""
    record, found = _settled(ctx, delegator, operator), pool(ctx, operator)
    everything = wei == delegation.worth(found, record.shares)
    shares = record.shares if everything else min(record.shares, delegation.shares_for(found, wei))
    after, moved = delegation.redeem(found, shares)
    record.shares -= shares
    _put(ctx, _POOLS, after, operator)
    _DELEGATIONS.put(ctx, record, operator, delegator)
    generation = _GENERATIONS.get(ctx, operator)
    if _leaving(ctx, operator, generation).spent:
        generation += 1
        _GENERATIONS.set(ctx, generation, operator)
    leaving_after, left = delegation.issue(_leaving(ctx, operator, generation), moved)
    _put(ctx, _LEAVING, leaving_after, operator, u64(generation))
    return moved, left, generation


def claim(ctx: SystemContext, delegator: bytes, operator: bytes) -> int:
    """The rewards of a delegator so far, which the caller now pays out of this account."""
    record = _settled(ctx, delegator, operator)
    wei, record.owed = record.owed, 0
    _DELEGATIONS.put(ctx, record, operator, delegator)
    _REWARDS.add(ctx, -wei)
    return wei


def reward(ctx: SystemContext, operator: bytes, wei: int) -> None:
    """Share wei that this account was given among an operator's delegators."""
    _put(ctx, _POOLS, delegation.reward(pool(ctx, operator), wei), operator)
    _REWARDS.add(ctx, wei)


def rewards_held(ctx: ReadContext) -> int:
    """Wei of all rewards that nobody claimed, with what roundings left of them."""
    return _REWARDS.get(ctx)


def leaving(ctx: ReadContext, operator: bytes) -> int:
    """Wei that delegators are taking back from an operator: still slashable."""
    return _leaving(ctx, operator, _GENERATIONS.get(ctx, operator)).stake


def all_leaving(ctx: ReadContext, operator: bytes) -> list[Pool]:
    """Every pool that is leaving an operator, those that slashes emptied among them."""
    return [_leaving(ctx, operator, each) for each in range(_GENERATIONS.get(ctx, operator) + 1)]


def worth_leaving(ctx: ReadContext, operator: bytes, generation: int, shares: int) -> int:
    """Wei that shares of what is leaving stand for."""
    return delegation.worth(_leaving(ctx, operator, generation), shares)


def redeem_leaving(ctx: SystemContext, operator: bytes, generation: int, shares: int) -> int:
    """Take shares out of what is leaving: wei that the caller now pays out of this account."""
    after, wei = delegation.redeem(_leaving(ctx, operator, generation), shares)
    _put(ctx, _LEAVING, after, operator, u64(generation))
    return wei


def slash(ctx: SystemContext, operator: bytes, wei: int, wei_leaving: int) -> None:
    """Take stake of all delegators in proportion, and of what is leaving."""
    if wei:
        _put(ctx, _POOLS, delegation.slash(pool(ctx, operator), wei), operator)
    if wei_leaving:
        generation = _GENERATIONS.get(ctx, operator)
        after = delegation.slash(_leaving(ctx, operator, generation), wei_leaving)
        _put(ctx, _LEAVING, after, operator, u64(generation))


def _settled(ctx: ReadContext, delegator: bytes, operator: bytes) -> Delegation:
    """A delegator's record with its rewards counted up to now."""
    found, record = pool(ctx, operator), _DELEGATIONS.get(ctx, operator, delegator) or Delegation()
    record.owed += delegation.earned(found, record.shares, record.since)
    record.since = found.per_share
    return record


def _leaving(ctx: ReadContext, operator: bytes, generation: int) -> Pool:
    return _get(ctx, _LEAVING, operator, u64(generation))


def _get(ctx: ReadContext, table: Table[PoolWords], *key: bytes) -> Pool:
    words = table.get(ctx, *key)
    return Pool() if words is None else Pool(words.stake, words.shares, words.per_share, words.carry)


def _put(ctx: SystemContext, table: Table[PoolWords], found: Pool, *key: bytes) -> None:
    table.put(ctx, PoolWords(found.stake, found.shares, found.per_share, found.carry), *key)
