"""What block 0 holds, and what nodes read of a state without an EVM."""

from dataclasses import replace

import pytest
from sample import BOND, FUND, MODEL, PEOPLE, RATE, STRANGER, sample_spec

from primitives.address import MARKET, STAKING
from primitives.hashing import keccak
from primitives.params import ChainParams
from vm.genesis import build_state
from vm.state import StateReader
from vm.system import views
from vm.system.genesis import InvalidGenesis, genesis_balances, genesis_storage

SPEC = sample_spec()
PARAMS = SPEC.params


@pytest.fixture(scope="module")
def reader():
    root, nodes = build_state(SPEC)
    return StateReader(nodes, root)


def test_bonds_lie_in_staking_and_the_fund_in_the_market(reader):
    assert genesis_balances(SPEC) == {STAKING: 4 * BOND, MARKET: FUND}
    assert reader.balance(STAKING) == 4 * BOND


def test_the_order_of_the_spec_changes_nothing():
    turned = replace(SPEC, validators=SPEC.validators[::-1])
    assert genesis_storage(turned) == genesis_storage(SPEC)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (replace(SPEC, validators=()), "0 validators"),
        (replace(SPEC, validators=SPEC.validators[:1] * 2), "twice"),
        (replace(SPEC, validators=(replace(SPEC.validators[0], bond=1),)), "below the minimum"),
        (replace(SPEC, validators=(replace(SPEC.validators[0], hot=PEOPLE[1].hot), SPEC.validators[1])), "belongs to"),
        (replace(SPEC, models=SPEC.models * 2), "listed twice"),
        (replace(SPEC, models=()), "not registered"),
        (replace(SPEC, models=(replace(SPEC.models[0], record=b"shape"),)), "record"),
        (replace(SPEC, params=replace(PARAMS, validators_max=3)), "4 validators"),
        (replace(SPEC, params=replace(PARAMS, epoch_blocks=100_000)), "epoch turn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_spec_that_no_chain_can_start_from_is_refused_with_the_reason(spec, reason):
    with pytest.raises(InvalidGenesis, match=reason):
        genesis_storage(spec)


def test_the_set_the_seed_and_the_mix(reader):
    for epoch in (0, 1):
        found = views.validator_set(reader, epoch)
        assert [member.operator for member in found.validators] == sorted(person.operator for person in PEOPLE)
        assert {member.beacon_key for member in found.validators} == {person.beacon_key for person in PEOPLE}
        assert views.seed_mix(reader, epoch) == SPEC.spec_hash
    assert views.mix(reader) == views.mix(reader, 0) == SPEC.spec_hash
    with pytest.raises(views.UnknownEpoch):
        views.validator_set(reader, 2)
    with pytest.raises(views.UnknownEpoch):
        views.seed_mix(reader, 2)
    with pytest.raises(LookupError):
        views.mix(reader, 1)


def test_operators_and_models(reader):
    operators = views.operators(reader, PARAMS, 1)
    assert [view.operator for view in operators] == sorted(person.operator for person in PEOPLE)
    assert operators[0].serves == ((MODEL, RATE, RATE),)
    [model] = views.models(reader, PARAMS, 1)
    assert (model.model_id, model.served_by, model.earns_credit, model.listed) == (MODEL, 4, True, True)
    person = PEOPLE[0]
    assert views.payout(reader, person.operator) == person.payout
    assert views.operator_by_hot(reader, person.hot) == person.operator
    assert views.payout(reader, STRANGER.operator) is None
    assert views.operator_by_hot(reader, STRANGER.hot) is None
    assert views.operator(reader, STRANGER.operator, PARAMS, 1) is None


def test_prices_totals_and_delay(reader):
    assert views.base_price(reader) == ChainParams().base_price_start
    assert views.totals(reader).burned == 0
    assert views.receipt_id(reader, keccak(b"no task")) is None
    assert views.audit_delay(reader, 0) == views.audit_delay(reader, 1) >= 1
    assert len(views.members(reader, 0)) == 4


def test_one_validator_is_a_chain_too():
    spec = sample_spec(people=PEOPLE[:1])
    root, nodes = build_state(spec)
    assert views.audit_delay(StateReader(nodes, root), 0) == 1
