"""What finished work counts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.work.credit import (
    Server,
    canary_credit,
    epoch_work,
    execution_credit,
    model_counts,
    next_credit,
    scaled_by_room,
)
from primitives.params import ChainParams
from primitives.task import ModelCost

PARAMS = ChainParams()
amounts = st.integers(0, 10**24)


@given(amounts, amounts)
def test_a_long_prompt_counts_at_most_what_was_generated(prefill, decode):
    credit = execution_credit(prefill, decode)
    assert decode <= credit <= 2 * decode
    assert credit <= prefill + decode


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


def test_a_canary_counts_the_least_over_the_listed_models():
    small, large = ModelCost(10, 1, 1, 1, 4), ModelCost(1_000, 1, 1, 1, 4)
    tokens = PARAMS.canary_tokens
    least = execution_credit(small.prefill(tokens), small.decode(tokens, tokens))
    assert canary_credit(PARAMS, [(large, 512), (small, 512)]) == least
    assert canary_credit(PARAMS, [(small, 8)]) == execution_credit(small.prefill(4), small.decode(4, 4))
    assert canary_credit(PARAMS, []) == 1
