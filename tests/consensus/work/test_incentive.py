"""Cheating is a loss: the inequality, exactly, over parameters, sets, models and values at risk."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.work.incentive import (
    AUDITORS_MAX,
    ONE,
    Odds,
    Stakes,
    caught,
    deters,
    least_auditors,
    stakes_of,
    value_at_risk_max,
)
from consensus.work.slashing import bounty_of, first_offence, gain_of
from genesis.spec import devnet_spec, load_spec
from inference.opening import read_shape_record
from primitives.params import COIN, DISPUTE_WORST_GAS, ChainParams
from primitives.task import Kind, ModelCost, price_of

PARAMS = ChainParams()
FOUR = Odds(active_bond=4, serving_bond=4, trailing=1)
bonds = st.integers(1, 2**52)
wei = st.integers(0, 2**96)
odds_of = st.builds(Odds, bonds, bonds, st.integers(0, 9), st.integers(1, 20), st.just(20))
stakes_any = st.builds(Stakes, wei, wei, wei)


def exact(odds: Odds, auditors: int) -> Fraction:
    """q in rationals, as written in docs/useful-work.md."""
    a = min(Fraction(1), Fraction(odds.active_bond, 3 * odds.serving_bond))
    return Fraction(odds.sample_num, odds.sample_den) * (1 - a**auditors) ** (2**odds.trailing)


def test_four_validators_of_whom_a_third_colludes():
    assert exact(FOUR, 2) == Fraction(64, 81)
    assert caught(FOUR, 2) * 81 // ONE == 63  # just below 64/81
    assert exact(Odds(4, 2, 0), 1) == Fraction(1, 3)  # half of the bond serves the model
    assert caught(Odds(4, 1, 0), 16) == 0  # the coalition can be everybody who serves it
    assert caught(FOUR, 0) == 0


@given(odds_of, st.integers(1, 5))
def test_the_chance_of_being_caught_is_the_rational_one_rounded_down(odds: Odds, auditors: int):
    given_, true = Fraction(caught(odds, auditors), ONE), exact(odds, auditors)
    assert given_ <= true < given_ + Fraction(1, 2**100)


@given(odds_of, stakes_any, wei, st.integers(1, 5))
def test_what_deters_satisfies_the_inequality_in_rationals(odds: Odds, stakes: Stakes, risk: int, auditors: int):
    if deters(caught(odds, auditors), stakes, risk):
        q = exact(odds, auditors)
        assert q * (stakes.slash + stakes.gain) > stakes.cost + (1 - q) * risk
        assert risk < max(1, stakes.slash)


@given(odds_of, stakes_any, wei)
def test_the_least_number_deters_and_one_less_does_not(odds: Odds, stakes: Stakes, risk: int):
    least = least_auditors(odds, stakes, risk, AUDITORS_MAX)
    if least is None:
        assert not deters(caught(odds, AUDITORS_MAX), stakes, risk)
    else:
        assert deters(caught(odds, least), stakes, risk)
        assert not deters(caught(odds, least - 1), stakes, risk)


@given(odds_of, stakes_any, st.integers(1, AUDITORS_MAX))
def test_what_a_refusal_says_would_be_accepted_is_and_a_wei_more_is_not(odds: Odds, stakes: Stakes, auditors: int):
    most = value_at_risk_max(odds, stakes, auditors)
    chance = caught(odds, auditors)
    if most is None:
        assert not deters(chance, stakes, 0)
    else:
        assert deters(chance, stakes, most)
        assert not deters(chance, stakes, most + 1)


@given(odds_of, stakes_any, wei, st.integers(1, AUDITORS_MAX))
def test_more_verifiers_and_less_at_risk_never_deter_less(odds: Odds, stakes: Stakes, risk: int, auditors: int):
    assert caught(odds, auditors + 1) >= caught(odds, auditors)
    if deters(caught(odds, auditors), stakes, risk):
        assert deters(caught(odds, auditors), stakes, risk // 2)


PUBLIC = ChainParams(
    devnet=0, power_from_credit=0, epoch_blocks=1800, bootstrap_epochs=24, verdict_window=16, reveal_window=16,
    maturity_blocks=150, watch_blocks=100, silence_blocks=600, dispute_clock_blocks=60, unbonding_blocks=604_800,
    evidence_age_blocks=100_000,
).check()  # fmt: skip


def models() -> list[ModelCost]:
    """Those of the devnet's genesis, and one of eight thousand million parameters."""
    listed = load_spec(devnet_spec(1, 1_700_000_000_000)).models
    costs = [read_shape_record(model.record).cost for model in listed]
    return [*(ModelCost(cost.a, cost.b, cost.c, 1, 4) for cost in costs), ModelCost(8 * 10**9, 2**17, 5 * 10**8, 1, 4)]


@pytest.mark.parametrize("params", [PARAMS, PUBLIC], ids=["devnet", "public"])
@pytest.mark.parametrize("trailing", range(6))
@pytest.mark.parametrize("price", [10**9, 10**12, 10**15])
def test_two_verifiers_make_cheating_a_loss_in_any_task_of_every_model(params: ChainParams, trailing: int, price: int):
    """Net: of the slash, the culprit's friends got the bounty, the asker's G and the gas of the longest dispute."""
    odds = Odds(1, 1, trailing)
    for each in models():
        for kind, prompt, result in ((Kind.GENERATE, 1, 1), (Kind.GENERATE, 400, 600), (Kind.EMBED, 500, 64)):
            macs = each.execution(kind, prompt, result)
            for tip in (0, 10 * price):
                fee = price_of(macs, price) + price_of(macs, tip)
                gain, saved = gain_of(fee, macs, price), price_of(macs, price)
                slash = first_offence(params, gain, params.base_fee_min)
                back = bounty_of(params, slash) + gain + DISPUTE_WORST_GAS * params.base_fee_min
                q = exact(odds, params.auditors)
                assert q * (slash - back + gain) > saved
                assert deters(caught(odds, params.auditors), stakes_of(params, gain, saved), 0)


def test_longer_runs_of_proposers_ask_for_more_verifiers_until_none_are_enough():
    """The beacon's first form serves small sets: docs/useful-work.md says where something is at stake, at most 10."""
    stakes = stakes_of(PARAMS, 10**18, 10**18)
    needed = [least_auditors(Odds(1, 1, trailing), stakes, 0, AUDITORS_MAX) for trailing in (0, 1, 5, 6, 9, 12)]
    assert needed == [1, 1, 2, 3, 5, 7]
    assert least_auditors(Odds(1, 1, 52), stakes, 0, AUDITORS_MAX) is None


def test_a_slash_of_a_coin_covers_nearly_a_coin_at_risk():
    stakes = stakes_of(PARAMS, 0, 0)
    assert stakes.slash > COIN * 8 // 10
    most = value_at_risk_max(FOUR, stakes, 2)
    assert most is not None and COIN // 2 < most < COIN
