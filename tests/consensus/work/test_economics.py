"""Cheating is a loss for every model whose numbers docs/economics.md shows, under whatever parameters a genesis has."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bench import economics
from consensus.work.incentive import AUDITORS_MAX, Odds, least_auditors, stakes_of
from consensus.work.slashing import bounty_of, first_offence, gain_of, repeated_offence
from primitives.params import COIN, ChainParams
from primitives.task import price_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "economics.md"
MODELS = list(economics.models().values())
params_of = st.builds(
    lambda fees, div, bounty, repeat, bond, base: replace(
        ChainParams(), slash_first_fees=fees, slash_bond_div=div, slash_bounty_percent=bounty,
        slash_repeat_percent=repeat, bond_min=bond, base_fee_min=base, base_fee_initial=base,
    ),
    st.integers(1, 256), st.integers(1, 10_000), st.integers(0, 50), st.integers(0, 50),
    st.integers(COIN, 10**5 * COIN), st.integers(1, 10**12),
)  # fmt: skip
odds_of = st.builds(Odds, st.integers(1, 12), st.integers(1, 12), st.integers(0, 6), st.integers(1, 20), st.just(20))


def test_the_page_is_what_the_chains_own_functions_give() -> None:
    """Writing it asserts that in every task that is accepted cheating is a loss, at a first offence and a repeated."""
    title, *rest = economics.lines()
    assert PAGE.read_text(encoding="utf-8") == "\n".join(["# " + title, *rest]) + "\n"


@given(params_of, st.sampled_from(MODELS), st.integers(1, 512), st.integers(9, 18), st.integers(0, 2**90), odds_of,
       st.integers(1, 10_000))  # fmt: skip
def test_what_a_post_accepts_is_a_loss_to_cheat_in_whatever_the_base_fee_is_then(
    params: ChainParams, model: tuple, length: int, price: int, at_risk: int, odds: Odds, risen: int
) -> None:
    """q (Sigma + G) > c + (1 - q) X in rationals. Sigma: the slash, less the bounty and the asker's G, which may go to
    the culprit's friends. (What a dispute's gas costs comes back to who spent it.) The base fee has risen since the
    post."""
    cost, kind = model
    macs = cost.execution(kind, length, length)
    saved = price_of(macs, 10**price)
    gain = gain_of(saved, macs, 10**price)
    auditors = least_auditors(odds, stakes_of(params, gain, saved), at_risk, AUDITORS_MAX)
    if auditors is None:
        return  # refused
    alike = min(Fraction(1), Fraction(odds.active_bond, 3 * odds.serving_bond))
    caught = Fraction(odds.sample_num, odds.sample_den) * (1 - alike**auditors) ** (2**odds.trailing)
    for slash in (
        first_offence(params, gain, params.base_fee_min * risen),
        repeated_offence(params, gain, params.base_fee_min * risen, params.bond_min),
    ):
        lost = slash - bounty_of(params, slash) - gain
        assert caught * (lost + gain) > saved + (1 - caught) * at_risk
        assert at_risk < slash


def test_the_shipped_parameters_accept_a_task_of_every_model() -> None:
    """Or the inequality would hold for want of tasks."""
    for cost, kind in MODELS:
        macs = cost.execution(kind, 64, 64)
        saved = price_of(macs, ChainParams().base_price_start)
        stakes = stakes_of(ChainParams(), gain_of(saved, macs, ChainParams().base_price_start), saved)
        assert least_auditors(Odds(4, 4, 2), stakes, 16 * saved, ChainParams().auditors) is not None
