"""Voting power from bonds and verified work: what holds for every turn of an epoch."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.work.power import (
    Stake,
    growth_limit,
    limit_change,
    next_rho,
    target_of,
    turn,
    weighted_lower_median,
)
from primitives.params import ChainParams

PARAMS = ChainParams(bootstrap_epochs=2)
LATER = 5
"""An epoch after the bootstrap."""
CANARY = 1_000

bonds = st.integers(1, 10**12)
credits_ = st.integers(CANARY, 10**24)


def address(index: int) -> bytes:
    return index.to_bytes(20, "big")


def stakes_of(rows) -> list[Stake]:
    return [Stake(address(index), *row) for index, row in enumerate(rows)]


@st.composite
def fleets(draw, least: int = 1):
    rows = draw(st.lists(st.tuples(bonds, credits_), min_size=least, max_size=12))
    return stakes_of(rows)


@st.composite
def powers(draw):
    return {address(i): draw(st.integers(1, 10**12)) for i in draw(st.sets(st.integers(0, 15), min_size=1))}


@given(fleets())
def test_a_target_is_at_most_the_bond_and_the_sum_reaches_the_floor(fleet):
    rho = next_rho(PARAMS, fleet, 0)
    targets = [target_of(stake, rho) for stake in fleet]
    assert all(target <= stake.bond for target, stake in zip(targets, fleet, strict=True))
    assert 10 * sum(targets) >= 9 * sum(stake.bond for stake in fleet)


@given(fleets(least=2), st.data())
def test_a_coalition_targets_at_most_its_share_of_bond_over_nine_tenths(fleet, data):
    """Whatever befalls the others' work: alpha / 0.9."""
    size = data.draw(st.integers(1, len(fleet) - 1))
    rho = next_rho(PARAMS, fleet, 0)
    held = sum(target_of(stake, rho) for stake in fleet[:size])
    alpha = Fraction(sum(stake.bond for stake in fleet[:size]), sum(stake.bond for stake in fleet))
    assert Fraction(held, sum(target_of(stake, rho) for stake in fleet)) <= alpha / Fraction(9, 10)


@given(bonds, credits_, bonds, credits_, st.integers(1, 2**80))
def test_splitting_an_operator_never_gains(bond, credit, other_bond, other_credit, rho):
    whole = target_of(Stake(b"", bond + other_bond, credit + other_credit), rho)
    assert target_of(Stake(b"", bond, credit), rho) + target_of(Stake(b"", other_bond, other_credit), rho) <= whole


@given(fleets(), st.integers(1, 2**90))
def test_rho_rises_at_most_a_twentieth_a_turn_and_is_never_zero(fleet, previous):
    rho = next_rho(PARAMS, fleet, previous)
    assert 1 <= rho <= max(1, previous + previous // 20)


def test_rho_is_half_of_the_weighted_lower_median_when_that_reaches_the_floor():
    fleet = stakes_of([(100, CANARY * 8), (100, CANARY * 8), (100, CANARY * 8), (100, CANARY * 16)])
    assert next_rho(PARAMS, fleet, 0) == ((CANARY * 8 << 64) // 100) // 2


def test_the_median_is_weighted_and_the_lower_one():
    fleet = stakes_of([(1, 5), (1, 6), (2, 7)])
    assert weighted_lower_median([5, 6, 7], fleet) == 6
    assert weighted_lower_median([7, 7, 5], fleet) == 5


def test_a_thousand_times_the_work_buys_nothing_above_the_bond():
    fleet = stakes_of([(95, CANARY * 100), (5, CANARY * 100_000)])
    turned = turn(PARAMS, LATER, fleet, {address(0): 95, address(1): 5}, 0, CANARY)
    assert turned.targets == {address(0): 95, address(1): 5}


@given(powers(), powers(), st.sets(st.integers(0, 15)))
def test_a_turn_moves_at_most_a_third_of_the_old_power_and_never_past_what_is_wanted(old, wanted, jailed_ids):
    jailed = {address(i) for i in jailed_ids}
    wanted = {operator: power for operator, power in wanted.items() if operator not in jailed}
    new = limit_change(old, wanted, jailed)
    changes = {operator: new.get(operator, 0) - old.get(operator, 0) for operator in old | wanted}
    assert 3 * sum(abs(change) for change in changes.values()) <= sum(old.values())
    for operator in old | wanted:
        low, high = sorted((old.get(operator, 0), wanted.get(operator, 0)))
        assert low <= new.get(operator, 0) <= high
    assert list(new) == sorted(new)
    assert all(new.values())


def test_the_jailed_leave_first_and_the_rest_shares_what_is_left():
    old = {address(i): 90 for i in range(4)}
    new = limit_change(old, {address(1): 0, address(2): 120, address(3): 120}, {address(0)})
    assert new == {address(1): 72, address(2): 96, address(3): 96}
    new = limit_change({address(0): 90, address(1): 30}, {address(1): 60}, {address(0)})
    assert new == {address(0): 50, address(1): 30}


@given(fleets(least=4), st.integers(0, 8))
def test_growth_is_bounded_by_five_quarters_and_a_sixty_fourth_of_the_bond(fleet, epoch):
    old = {stake.operator: max(1, stake.bond // 3) for stake in fleet}
    turned = turn(PARAMS, epoch, fleet, old, 0, CANARY)
    for stake in fleet:
        before, after = old[stake.operator], turned.powers.get(stake.operator, 0)
        assert after <= max(before, growth_limit(PARAMS, before, stake.bond))


def test_before_the_end_of_the_bootstrap_power_is_the_bond_and_rho_does_not_start():
    fleet = stakes_of([(100, 0)] * 4)
    old = {stake.operator: 100 for stake in fleet}
    for epoch in (0, 1):
        turned = turn(PARAMS, epoch, fleet, old, 0, CANARY)
        assert (turned.powers, turned.rho) == (old, 0)


def test_a_newcomer_has_a_foothold_until_its_work_counts():
    """Only members of the set are dealt work: with a target of zero nobody could ever come in."""
    old_ones = stakes_of([(6_400, CANARY * 8)] * 4)
    old = {stake.operator: 6_400 for stake in old_ones}
    for new, power in (
        (Stake(address(9), 6_400, 0, entering=True), 100),
        (Stake(address(9), 6_400, CANARY - 1, entering=True), 100),
        (Stake(address(9), 6_400, 0), 0),
        (Stake(address(9), 6_400, 0, jailed=True, entering=True), 0),
    ):
        turned = turn(PARAMS, LATER, [*old_ones, new], old, 0, CANARY)
        assert turned.powers.get(new.operator, 0) == turned.targets[new.operator] == power, new
        assert all(turned.powers[stake.operator] == 6_400 for stake in old_ones)


def test_a_foothold_is_not_added_to_what_work_gives():
    fleet = stakes_of([(6_400, CANARY * 8)] * 4)
    entering = [replace(stake, entering=True) for stake in fleet]
    old = {stake.operator: 6_400 for stake in fleet}
    assert turn(PARAMS, LATER, entering, old, 0, CANARY) == turn(PARAMS, LATER, fleet, old, 0, CANARY)


def test_when_nobody_has_credit_power_is_the_bond_and_rho_stays():
    fleet = stakes_of([(100, CANARY - 1)] * 4)
    turned = turn(PARAMS, LATER, fleet, {stake.operator: 100 for stake in fleet}, 77, CANARY)
    assert turned.targets == {stake.operator: 100 for stake in fleet}
    assert turned.rho == 77


def test_credit_below_one_canary_counts_as_none():
    fleet = stakes_of([(100, CANARY * 50)] * 4 + [(100, CANARY - 1)])
    turned = turn(PARAMS, LATER, fleet, {stake.operator: 100 for stake in fleet}, 0, CANARY)
    assert turned.targets[address(4)] == 0
    assert address(4) not in turned.powers


def test_a_jailed_operator_targets_nothing():
    fleet = stakes_of([(100, CANARY * 9)] * 5)
    fleet[2] = replace(fleet[2], jailed=True)
    turned = turn(PARAMS, LATER, fleet, {stake.operator: 100 for stake in fleet}, 0, CANARY)
    assert turned.targets[address(2)] == 0
    assert address(2) not in turned.powers
    assert set(turned.powers.values()) == {100}


def test_a_set_that_would_fall_below_four_members_stays_as_it_is():
    fleet = stakes_of([(100, CANARY * 9)] * 3)
    old = {address(i): 1 if i == 3 else 100 for i in range(4)}
    turned = turn(PARAMS, LATER, fleet, old, 0, CANARY)
    assert turned.frozen
    assert turned.powers == old


def test_a_single_operator_votes_with_its_bond():
    turned = turn(PARAMS, LATER, stakes_of([(100, 0)]), {address(0): 100}, 5, CANARY)
    assert turned.powers == {address(0): 100}


def test_bonds_alone_vote_where_genesis_says_so_and_targets_are_shown_all_the_same():
    fleet = stakes_of([(100, CANARY * 9)] * 4 + [(100, 0)])
    params = replace(PARAMS, power_from_credit=0)
    turned = turn(params, LATER, fleet, {stake.operator: 100 for stake in fleet}, 0, CANARY)
    assert set(turned.powers.values()) == {100}
    assert turned.targets[address(4)] == 0


def test_the_set_holds_the_strongest_ties_to_the_lower_address():
    params = replace(PARAMS, validators_max=4)
    fleet = stakes_of([(100, CANARY * 9)] * 6)
    turned = turn(params, LATER, fleet, {stake.operator: 100 for stake in fleet}, 0, CANARY)
    assert list(turned.powers) == [address(i) for i in range(4)]


@pytest.mark.parametrize("idle", [1, 2, 3])
def test_who_loses_its_workers_hands_no_one_a_third_more(idle):
    """Four equal bonds, some idle for 64 epochs: while their credit counts the others stay under alpha / 0.9."""
    credit = [CANARY * 10**6] * 4
    old, rho = {address(i): 100_000 for i in range(4)}, 0
    for epoch in range(LATER, LATER + 64):
        credit = [c * 9 // 10 + (CANARY * 10**5 if i >= idle else 0) for i, c in enumerate(credit)]
        turned = turn(PARAMS, epoch, stakes_of([(100_000, c) for c in credit]), old, rho, CANARY)
        old, rho = turned.powers, turned.rho
        working = sum(power for operator, power in old.items() if operator >= address(idle))
        if min(credit) >= CANARY:
            assert Fraction(working, sum(old.values())) <= Fraction(4 - idle, 4) / Fraction(9, 10)
