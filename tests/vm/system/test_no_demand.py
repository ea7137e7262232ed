"""A chain that nobody asks anything of: it goes on, on canaries and on what the fund commissions, and its powers stay
sane."""

import pytest
from market_world import FUND, MODEL, World, operator_of

from primitives.genesis import GenesisBatch
from primitives.task import Kind
from vm.system import abi, ledger, market_state

EPOCHS = 100
pytestmark = pytest.mark.slow
BATCH = GenesisBatch("embeddings", MODEL, Kind.EMBED, tuple((5, 6, 7 + i) for i in range(20)))


@pytest.fixture(scope="module")
def world() -> World:
    """Four equal validators, a hundred epochs of sixteen blocks, each with a canary; everybody does what it owes."""
    world = World(epoch_blocks=16, canaries_per_validator=4, batches=(BATCH,))
    for _ in range(16 * EPOCHS):
        world.block()
        world.everyone_works()
    return world


def test_every_epoch_turned_and_no_set_was_frozen(world):
    turned = world.events(abi.EPOCH_TURNED)
    assert [event["epoch"] for event in turned] == list(range(EPOCHS))
    assert not any(event["frozen"] for event in turned)
    assert not world.events(abi.ITEM_FAILED)


def test_powers_stay_those_of_the_bonds_and_nobody_nears_a_third(world):
    for event in world.events(abi.EPOCH_TURNED):
        assert event["members"] == 4
    for event in world.events(abi.POWER_SET):
        assert event["power"] == event["bond"], "from the first turns on, when credit has hardly begun"
    last = ledger.members(world.ctx, EPOCHS + 1)
    total = sum(member.power for member in last)
    assert all(9 * member.power > 2 * total for member in last), [member.power for member in last]
    assert all(3 * member.power < total for member in last)


def test_credit_flows_from_canaries_alone_and_all_are_worked(world):
    totals = ledger.get_totals(world.ctx)
    assert totals.canaries >= 16 * (EPOCHS - 2)
    assert totals.macs_paid == 0
    assert totals.refunded == 0
    credited = [event["credit"] for event in world.events(abi.CREDITED)[-4:]]
    assert all(credited)
    assert {event["operator"] for event in world.events(abi.CREDITED)[-4:]} == {
        world.text(operator_of(i)) for i in range(4)
    }


def test_the_fund_paid_messages_and_batches_and_the_price_is_at_its_floor(world):
    assert len(world.events(abi.TASK_COMMISSIONED)) == 20
    assert ledger.base_price(world.ctx) == world.params.base_price_floor
    paid = sum(event["amount"] for event in world.events(abi.PAID))
    totals = ledger.get_totals(world.ctx)
    assert market_state.FUND.get(world.ctx) == FUND - paid - totals.burned_fees + totals.minted > FUND * 9 // 10


def test_with_the_fund_empty_too_it_goes_on():
    world = World(epoch_blocks=8, canaries_per_validator=1, fund=0)
    for _ in range(8 * 6):
        world.block()
        world.everyone_works()
    assert len(world.events(abi.EPOCH_TURNED)) == 6
    assert ledger.get_totals(world.ctx).canaries > 8
    assert not world.events(abi.PAID)
