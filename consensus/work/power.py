"""From bonds and verified work to voting power: targets, the growth clamp, the limit on change (docs/formats.md).

Pure integers in units of 10^15 wei; rho is Q64 multiply-adds of credit for one unit of bond. Everything is decided in
address order. Splitting an operator in two never gains: targets are homogeneous and super-additive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from primitives.params import ChainParams

Q64 = 64
ENTRY_EPOCHS = 8
"""Turns in which an operator that came, or declared a rate anew, has a foothold without credit. Only members of the
set are dealt work, and canaries alone bring the first credit that counts in three epochs or so."""


@dataclass(frozen=True)
class Stake:
    """An active operator at an epoch's turn. bond in units, credit in multiply-adds."""

    operator: bytes
    bond: int
    credit: int
    jailed: bool = False
    entering: bool = False
    """It registered or declared a rate within ENTRY_EPOCHS."""


@dataclass(frozen=True)
class Turn:
    """What a turn fixes: the new powers (no zeros), each active operator's target, rho; frozen: the old set stays."""

    powers: dict[bytes, int]
    targets: dict[bytes, int]
    rho: int
    frozen: bool


def turn(
    params: ChainParams,
    epoch: int,
    stakes: Sequence[Stake],
    old: Mapping[bytes, int],
    rho: int,
    least: int,
) -> Turn:
    """The powers of set(epoch + 2), decided in the last block of `epoch`.

    stakes: active operators in address order. old: powers of set(epoch + 1). rho: that of the turn before (0: none
    yet). least: what one canary leaves in C; a smaller C counts as none.
    """
    assert all(a.operator < b.operator for a, b in pairwise(stakes))
    free = [stake for stake in stakes if not stake.jailed]
    counted = [stake for stake in free if stake.bond and stake.credit >= least]
    all_bonds = {stake.operator: 0 if stake.jailed else stake.bond for stake in stakes}
    if epoch < params.bootstrap_epochs or not counted:
        targets = all_bonds
    else:
        rho = next_rho(params, counted, rho)
        credited = {stake.operator: target_of(stake, rho) for stake in counted}
        footholds = {stake.operator: growth_limit(params, 0, stake.bond) for stake in free if stake.entering}
        targets = {
            stake.operator: max(credited.get(stake.operator, 0), footholds.get(stake.operator, 0)) for stake in stakes
        }
        if len(free) == 1:
            targets = all_bonds
    wanted = targets if params.power_from_credit else all_bonds
    bonds = {stake.operator: stake.bond for stake in stakes}
    clamped = {
        operator: min(target, growth_limit(params, old.get(operator, 0), bonds[operator]))
        for operator, target in wanted.items()
    }
    jailed = {stake.operator for stake in stakes if stake.jailed}
    powers = strongest(limit_change(old, clamped, jailed), params.validators_max)
    if len(powers) < min(4, len(old)) or not powers:
        return Turn(dict(old), targets, rho, frozen=True)
    return Turn(powers, targets, rho, frozen=False)


def target_of(stake: Stake, rho: int) -> int:
    """min(S, C / rho)."""
    return min(stake.bond, (stake.credit << Q64) // rho)


def next_rho(params: ChainParams, counted: Sequence[Stake], previous: int) -> int:
    """rho for these operators (each with credit that counts): half of the weighted lower median of C/S, rising at most
    5 % a turn (the first is unclamped), then lowered until the targets' sum is at least 9/10 of the bonds'.

    At least 1.
    """
    median = weighted_lower_median([(stake.credit << Q64) // stake.bond for stake in counted], counted)
    rho = median * params.rho_factor_num // params.rho_factor_den
    if previous:
        rho = min(rho, previous + previous // params.rho_rise_den)
    return _lowered(params, counted, max(1, rho))


def weighted_lower_median(ratios: Sequence[int], stakes: Sequence[Stake]) -> int:
    """The first ratio, in order of (ratio, address), at which at least half of all bond is reached."""
    total = sum(stake.bond for stake in stakes)
    reached = 0
    for ratio, _, bond in sorted((r, s.operator, s.bond) for r, s in zip(ratios, stakes, strict=True)):
        reached += bond
        if 2 * reached >= total:
            return ratio
    raise AssertionError("a median of nobody")


def _lowered(params: ChainParams, counted: Sequence[Stake], rho: int) -> int:
    """The largest value up to rho at which the targets reach the power floor; 1 if none does."""

    def enough(value: int) -> bool:
        reached = sum(target_of(stake, value) for stake in counted)
        return params.power_floor_den * reached >= params.power_floor_num * sum(stake.bond for stake in counted)

    if enough(rho):
        return rho
    low, high = 1, rho
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def growth_limit(params: ChainParams, old: int, bond: int) -> int:
    """5/4 of the old power plus S/64."""
    return old * params.growth_num // params.growth_den + bond // params.growth_stake_div


def limit_change(old: Mapping[bytes, int], wanted: Mapping[bytes, int], jailed: set[bytes]) -> dict[bytes, int]:
    """Powers moved from `old` towards `wanted` (missing: 0) with sum |new - old| <= W_old / 3.

    Removals of the jailed come first; what they leave of the allowance scales all other changes by one rational,
    rounded towards old. Powers of zero are left out.
    """
    allowance = sum(old.values()) // 3
    operators = sorted({*old, *wanted})
    changes = {operator: wanted.get(operator, 0) - old.get(operator, 0) for operator in operators}
    first = [operator for operator in operators if operator in jailed]
    others = [operator for operator in operators if operator not in jailed]
    powers = dict(old)
    for group in (first, others):
        size = sum(abs(changes[operator]) for operator in group)
        part = min(size, allowance)
        for operator in group:
            step = abs(changes[operator]) * part // size if size else 0
            powers[operator] = old.get(operator, 0) + (step if changes[operator] > 0 else -step)
        allowance -= part
    return {operator: power for operator, power in sorted(powers.items()) if power}


def strongest(powers: Mapping[bytes, int], most: int) -> dict[bytes, int]:
    """At most so many operators, those of most power, ties to the lower address; in address order."""
    chosen = sorted(powers.items(), key=lambda item: (-item[1], item[0]))[:most]
    return dict(sorted(chosen))
