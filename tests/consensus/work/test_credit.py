"""What finished work counts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.work.credit import (
    Server,
    audit_credit,
    canary_of,
    epoch_work,
    execution_credit,
    fresh_work,
    least_credit,
    model_counts,
    next_credit,
    scaled_by_room,
)
from primitives.params import ChainParams
from primitives.task import Kind, ModelCost, result_length

PARAMS = ChainParams()
amounts = st.integers(0, 10**24)


coefficients = st.integers(1, 10**12), st.integers(0, 10**8), st.integers(0, 10**12)
costs = st.builds(ModelCost, *coefficients, st.just(1), st.just(4))
lengths = st.integers(1, 5_000)


@given(costs, lengths, lengths)
def test_a_long_prompt_counts_at_most_what_was_generated(cost, prompt, generated):
    credit = execution_credit(cost, Kind.GENERATE, prompt, generated, False)
    decode = cost.decode(Kind.GENERATE, prompt, generated)
    assert decode <= credit <= 2 * decode
    assert credit <= cost.execution(Kind.GENERATE, prompt, generated)
    assert audit_credit(cost, Kind.GENERATE, prompt, generated, False) == cost.audit(Kind.GENERATE, prompt, generated)


@given(costs, st.sampled_from([Kind.EMBED, Kind.SCORE]), st.integers(2, 5_000), st.integers(1, 5_000))
def test_a_decoders_vector_counts_at_most_twice_its_last_position(cost, kind, prompt, width):
    """A prompt of the same beginning may have left all before it in a cache."""
    result = result_length(kind, prompt, 0, width)
    last = cost.a + cost.b * prompt + (cost.c if kind is Kind.SCORE else 0)
    assert fresh_work(cost, kind, prompt, result, False) == last
    credit = execution_credit(cost, kind, prompt, result, False)
    assert last <= credit <= min(2 * last, cost.execution(kind, prompt, result))
    assert audit_credit(cost, kind, prompt, result, False) == credit // 4


@given(costs, lengths, st.integers(1, 5_000))
def test_an_encoders_embedding_counts_whole(cost, prompt, width):
    """Attention both ways: one other token changes every position, and nothing is left in any cache."""
    assert execution_credit(cost, Kind.EMBED, prompt, width, True) == cost.prefill(prompt)
    assert audit_credit(cost, Kind.EMBED, prompt, width, True) == cost.audit(Kind.EMBED, prompt, width)


@pytest.mark.parametrize(
    ("kind", "prompt", "most", "length", "macs"),
    [
        (Kind.GENERATE, 5, 4, 4, 100 * 8 + 3 * 36 + 7 * 4),
        (Kind.GENERATE, 1, 1, 1, 100 + 3 + 7),
        (Kind.EMBED, 5, 0, 24, 100 * 5 + 3 * 15),
        (Kind.EMBED, 1, 0, 24, 100 + 3),
        (Kind.SCORE, 5, 0, 4, 100 * 5 + 3 * 15 + 7 * 4),
        (Kind.SCORE, 2, 0, 1, 100 * 2 + 3 * 3 + 7),
    ],
)
def test_what_a_kind_costs_and_how_long_its_answer_is(kind, prompt, most, length, macs):
    cost = ModelCost(100, 3, 7, 1, 4)
    assert result_length(kind, prompt, most, 24) == length
    assert cost.execution(kind, prompt, length) == macs
    assert cost.audit(kind, prompt, length) == macs // 4
    assert cost.decode(kind, prompt, length) == macs - cost.prefill(prompt)


@given(amounts, amounts)
def test_audits_are_at_most_a_quarter_of_what_an_epoch_counts(executed, audited):
    work = epoch_work(executed, audited)
    assert 4 * (work - executed) <= work


@given(amounts)
def test_steady_work_is_its_own_average(work):
    assert next_credit(PARAMS, work, work) == work
    assert next_credit(PARAMS, work, 0) == 9 * work // 10


def served(*bonds: int, of: int) -> list[Server]:
    return [Server(bond, index < of) for index, bond in enumerate(bonds)]


@pytest.mark.parametrize(
    ("members", "devnet", "counts"),
    [
        (served(1, 1, 1, 1, of=4), True, True),
        (served(1, 1, 1, 1, of=3), True, False),
        (served(1, 1, of=2), True, True),
        (served(1, 1, of=2), False, False),
        (served(1, 1, 1, 1, 4, of=4), True, True),
        (served(1, 1, 1, 1, 5, of=4), True, False),
        (served(1, of=1), True, True),
        ([], True, False),
    ],
)
def test_a_model_counts_when_enough_operators_with_half_of_the_bond_serve_it(members, devnet, counts):
    assert model_counts(replace(PARAMS, devnet=int(devnet)), members) is counts


@given(amounts, st.integers(1, 10**24), st.integers(0, 10**24))
def test_credit_shrinks_with_the_share_of_bond_that_had_room(credit, room, without):
    assert scaled_by_room(credit, room, room + without) <= credit
    assert scaled_by_room(credit, room, room) == credit
    assert scaled_by_room(credit, 0, 0) == 0


def test_the_least_credit_that_counts_is_what_a_canary_leaves_the_least_over_the_listed_models():
    small, large = ModelCost(10, 1, 1, 1, 4), ModelCost(1_000, 1, 1, 1, 4)
    tokens = PARAMS.canary_tokens
    least = execution_credit(small, Kind.GENERATE, tokens, tokens, False)
    assert least_credit(PARAMS, [(large, 512, False), (small, 512, False)]) == least // 10
    assert least_credit(PARAMS, [(small, 8, False)]) == execution_credit(small, Kind.GENERATE, 4, 4, False) // 10
    assert least_credit(PARAMS, [(small, 512, True), (large, 512, False)]) == small.prefill(tokens) // 10
    assert least_credit(PARAMS, []) == 1


def test_an_encoders_canary_embeds():
    assert canary_of(PARAMS, 512, encoder=False) == (Kind.GENERATE, 16)
    assert canary_of(PARAMS, 512, encoder=True) == (Kind.EMBED, 16)
    assert canary_of(PARAMS, 9, encoder=True) == (Kind.EMBED, 4)
