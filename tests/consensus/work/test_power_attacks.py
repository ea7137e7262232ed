"""What a coalition does to voting power with more machines, bursts, idleness and many names: properties over random
fleets, next to what honest work on the same bond gives. `bench/power_networks.py` plays whole networks."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.work.credit import next_credit
from consensus.work.power import Stake, next_rho, target_of, turn
from primitives.params import ChainParams

PARAMS = ChainParams(bootstrap_epochs=2)
LATER = 5
CANARY = 1_000
UNITS = 10**7
"""A bond of 10,000 coins."""
WORK = CANARY * 10**6
"""What one such bond is dealt in an epoch."""

bonds = st.integers(10**6, 10**9)
credits_ = st.integers(CANARY, 10**24)


def address(index: int) -> bytes:
    return index.to_bytes(20, "big")


def ratio(stake: Stake) -> int:
    return (stake.credit << 64) // stake.bond


def quantile(fleet: Sequence[Stake], bond: Fraction) -> int:
    """The least C/S up to which the fleet holds so much bond."""
    reached = 0
    for value, held in sorted((ratio(stake), stake.bond) for stake in fleet):
        reached += held
        if reached >= bond:
            return value
    raise AssertionError((bond, reached))


@st.composite
def contested(draw):
    """(honest, coalition with less than half of all bond)."""
    rows = draw(st.lists(st.tuples(bonds, credits_), min_size=1, max_size=8))
    honest = [Stake(address(index), *row) for index, row in enumerate(rows)]
    held = sum(stake.bond for stake in honest)
    count = draw(st.integers(1, 3))
    parts = draw(st.lists(st.integers(1, (held - 1) // count), min_size=count, max_size=count))
    coalition = [Stake(address(100 + index), bond, draw(credits_)) for index, bond in enumerate(parts)]
    return honest, coalition


@given(contested(), st.integers(0, 2**90))
def test_saturating_the_median_leaves_rho_within_the_honest_quantiles(sides, previous):
    """However much the coalition works or posts: rho is at most half of what honest operators with half of all bond
    reach, and below half of the quantile at 1/2 - alpha only as far as the floor of 9/10 or the pace of a rise says."""
    honest, coalition = sides
    half = Fraction(sum(stake.bond for stake in (*honest, *coalition)), 2)
    rho = next_rho(PARAMS, [*honest, *coalition], previous)
    assert rho <= max(1, quantile(honest, half) // 2)
    low = quantile(honest, max(Fraction(0), half - sum(stake.bond for stake in coalition)))
    bound_by_pace = previous > 0 and rho >= previous + previous // 20
    at_next = sum(target_of(stake, rho + 1) for stake in (*honest, *coalition))
    bound_by_floor = 10 * at_next < 9 * 2 * half
    assert rho >= low // 2 or bound_by_pace or bound_by_floor


@given(contested())
def test_saturating_the_median_takes_nothing_from_who_works_half_as_much_as_the_honest_middle(sides):
    honest, coalition = sides
    half = Fraction(sum(stake.bond for stake in (*honest, *coalition)), 2)
    rho = next_rho(PARAMS, [*honest, *coalition], 0)
    for stake in honest:
        if ratio(stake) >= quantile(honest, half):
            assert target_of(stake, rho) == stake.bond


@given(contested(), st.integers(2, 6), st.data())
def test_splitting_a_bond_and_its_work_changes_nobodys_power(sides, names, data):
    """What is dealt by bond comes in proportion to bond: parts that divide bond and credit alike are as one."""
    honest, coalition = sides
    scaled = [Stake(stake.operator, stake.bond * names, stake.credit * names) for stake in coalition]
    parts = [Stake(address(1000 * stake.operator[-1] + part), stake.bond, stake.credit)
             for stake in coalition for part in range(names)]  # fmt: skip
    previous = data.draw(st.integers(0, 2**90))
    whole, split = next_rho(PARAMS, [*honest, *scaled], previous), next_rho(PARAMS, [*honest, *parts], previous)
    rounding = len(parts)
    # Where the floor lowers rho, a unit of rounding of each part moves it by the last digit.
    assert abs(whole - split) <= max(whole, split) * rounding // 10**6 + 1
    one = sum(target_of(stake, split) for stake in scaled)
    assert sum(target_of(stake, split) for stake in parts) <= one


@given(st.lists(bonds, min_size=3, max_size=10), st.integers(1, 40), st.integers(1, 10**4))
def test_a_burst_after_idleness_grows_no_faster_than_any_newcomer(held, percent, times):
    """No work until now, then `times` as much as the bond's share in one epoch: the next set gives it S/64, six
    turns less than a fifth of its bond, and never more than its bond. Nobody else loses anything."""
    mine = max(64, sum(held) * percent // (100 - percent))
    fleet = {address(index): bond for index, bond in enumerate(held)}
    old, rho = dict(fleet), 0
    credit = {operator: bond * CANARY for operator, bond in fleet.items()}
    burst = next_credit(PARAMS, 0, mine * CANARY * times)
    me = address(99)
    before = 0
    for epoch in range(LATER, LATER + 6):
        stakes = [Stake(operator, bond, credit[operator]) for operator, bond in fleet.items()]
        turned = turn(PARAMS, epoch, [*stakes, Stake(me, mine, burst)], old, rho, CANARY)
        now = turned.powers.get(me, 0)
        assert now <= min(mine, before * 5 // 4 + mine // 64)
        old, rho, before, burst = turned.powers, turned.rho, now, next_credit(PARAMS, burst, 0)
    assert before * 5 < mine
    for operator, bond in fleet.items():
        assert old.get(operator, 0) == bond or len(held) < 4


@pytest.mark.parametrize("together", [2, 8, 32, 64])
def test_work_saved_up_for_one_burst_gives_less_power_over_time_than_the_same_work_steadily(together):
    """P = min(S, C / rho): what is above the bond is lost, and what is below fades. At an epoch's end or not, credit
    counts epochs."""
    rho = (WORK << 64) // UNITS // 2  # of a fleet that works steadily
    bursts, steady = [0, 0], [0, 0]
    for epoch in range(640):
        works = WORK * together if epoch % together == together - 1 else 0, WORK
        for sums, work in zip((bursts, steady), works, strict=True):
            sums[0] = next_credit(PARAMS, sums[0], work)
            sums[1] += target_of(Stake(address(0), UNITS, sums[0]), rho)
    assert bursts[1] < steady[1]
    assert steady[1] > 0.98 * 640 * UNITS


@pytest.mark.parametrize("percent", [1, 5, 9])
def test_idle_stake_fades_while_it_is_under_a_tenth(percent):
    power = idle_share(percent, epochs=200)
    assert power[7] > power[30] > power[60] > 0
    assert power[-1] == 0


@pytest.mark.parametrize("percent", [12, 20, 30])
def test_above_a_tenth_idle_stake_keeps_at_most_the_excess_and_nothing_once_its_credit_counts_no_more(percent):
    power = idle_share(percent, epochs=220)
    excess = Fraction(percent - 10, 90)
    assert all(share <= excess + Fraction(1, 10**4) for share in power[40:])
    assert power[-1] == 0, "below the least that counts it is as if it had none"


def idle_share(percent: int, epochs: int) -> list[Fraction]:
    """Shares of votes of a bond that stops working in the first of these epochs, ten others go on."""
    mine, others = UNITS * percent, [UNITS * (100 - percent) // 10] * 10
    me, fleet = address(99), {address(index): bond for index, bond in enumerate(others)}
    credit = {operator: WORK * bond // UNITS for operator, bond in {**fleet, me: mine}.items()}
    old, rho, shares = {**fleet, me: mine}, 0, []
    for epoch in range(LATER, LATER + epochs):
        credit = {operator: next_credit(PARAMS, had, 0 if operator == me else WORK * fleet[operator] // UNITS)
                  for operator, had in credit.items()}  # fmt: skip
        stakes = [Stake(operator, mine if operator == me else fleet[operator], had)
                  for operator, had in sorted(credit.items())]  # fmt: skip
        turned = turn(PARAMS, epoch, stakes, old, rho, CANARY)
        old, rho = turned.powers, turned.rho
        shares.append(Fraction(old.get(me, 0), sum(old.values())))
    return shares


@given(contested(), st.integers(1, 99))
def test_what_takes_of_everybodys_credit_alike_changes_nobodys_target(sides, percent):
    """Busy bonds, or a model that many refuse, scale what all others' work counts: rho falls with it, at once."""
    fleet = [*sides[0], *sides[1]]
    full = [Stake(stake.operator, stake.bond, stake.credit * 100) for stake in fleet]
    less = [Stake(stake.operator, stake.bond, stake.credit * percent) for stake in fleet]
    before = next_rho(PARAMS, full, 0)
    after = next_rho(PARAMS, less, before)
    for one, other in zip(full, less, strict=True):
        change = abs(target_of(one, before) - target_of(other, after))
        assert change <= 2 + one.bond // 10**5 or after <= 10**6  # rho in whole numbers
