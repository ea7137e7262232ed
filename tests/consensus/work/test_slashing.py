"""What a lie costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.work.slashing import (
    bounty_of,
    exposure_max,
    first_offence,
    gain_of,
    repeated_offence,
)
from primitives.params import COIN, CWU, DISPUTE_WORST_GAS, ChainParams

PARAMS = ChainParams()
wei = st.integers(0, 2**96 - 1)


def test_what_a_task_is_worth_is_its_fee_or_its_work():
    assert gain_of(fee=0, macs=3 * CWU, base_price=7) == 21  # a canary
    assert gain_of(fee=50, macs=3 * CWU, base_price=7) == 50


@pytest.mark.parametrize(
    ("gain", "base_fee", "expected"),
    [
        (0, 0, COIN),  # a thousandth of the bond minimum
        (COIN, 0, 64 * COIN),
        (0, 10**12, 2 * DISPUTE_WORST_GAS * 10**12),
    ],
)
def test_a_first_offence_costs_the_largest_of_three_amounts(gain: int, base_fee: int, expected: int):
    assert first_offence(PARAMS, gain, base_fee) == expected


def test_a_repeat_costs_a_tenth_of_the_bond_or_what_the_first_cost():
    assert repeated_offence(PARAMS, 0, 0, 1_000 * COIN) == 100 * COIN
    assert repeated_offence(PARAMS, 10 * COIN, 0, 1_000 * COIN) == 640 * COIN


@given(wei, st.integers(0, 2**64), st.integers(1_000 * COIN, 2**110))
def test_a_slash_covers_what_it_must_and_a_bounty_is_at_most_a_tenth(gain: int, base_fee: int, bond: int):
    first, again = first_offence(PARAMS, gain, base_fee), repeated_offence(PARAMS, gain, base_fee, bond)
    assert first >= 64 * gain and first * 1_000 >= PARAMS.bond_min
    assert again >= first and again * 10 >= bond - 10
    assert 0 <= bounty_of(PARAMS, first) * 10 <= first


@given(st.integers(1_000 * COIN, 2**110))
def test_within_the_exposure_limit_a_first_offence_in_everything_open_is_covered(bond: int):
    assert PARAMS.slash_first_fees * exposure_max(PARAMS, bond) <= bond
