"""What the commissioned fund pays for: batches listed in genesis, within an epoch's spend, while nobody else asks."""

import pytest
from market_world import COST, ENCODER, FUND, MODEL, POSTER, World

from primitives.genesis import GenesisBatch
from primitives.merkle import pack_tokens
from primitives.params import COIN
from primitives.task import Kind, Status
from vm.system import abi, ledger, market, market_state, models

EVALUATION = GenesisBatch("evaluation", MODEL, Kind.SCORE, tuple((5, 6, 7 + i, 8) for i in range(3)))
EMBEDDINGS = GenesisBatch("embeddings", MODEL, Kind.EMBED, ((9, 10), (11,)))
BOTH = EVALUATION, EMBEDDINGS


@pytest.fixture
def world() -> World:
    return World(batches=BOTH, canaries_per_validator=0)


def commissioned(world: World) -> list[dict]:
    return world.events(abi.TASK_COMMISSIONED)


def fund(world: World) -> int:
    return market_state.FUND.get(world.ctx)


def listed(world: World) -> list[tuple]:
    return world.ctx.call(market.HANDLERS, abi.BATCHES, sender=POSTER)


def test_batches_are_done_in_their_order_one_task_a_block(world):
    world.block(8)
    assert [(e["batch"], e["number"]) for e in commissioned(world)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert listed(world) == [("evaluation", MODEL, Kind.SCORE, 3, 3), ("embeddings", MODEL, Kind.EMBED, 2, 2)]
    prompts = [e["tokens"] for e in world.events(abi.TASK_POSTED)]
    assert prompts == [pack_tokens(prompt) for batch in BOTH for prompt in batch.prompts]


def test_the_work_is_paid_from_the_fund_counted_and_what_is_not_needed_returns(world):
    world.block()
    (event,) = commissioned(world)
    task = event["task"]
    assert fund(world) == FUND - world.task(task).escrow
    world.finish(task)
    (receipt,) = world.of(abi.RECEIPT, task)
    (settled,) = world.of(abi.TASK_SETTLED, task)
    assert receipt["class"] == abi.CLASS_COMMISSIONED and len(receipt["verifiers"]) == 2
    assert receipt["fee"] == -(-COST.execution(Kind.SCORE, 4, 3) * world.params.base_price_start * 7 // 8 // 10**9)
    executor = bytes.fromhex(receipt["executor"][2:])
    assert world.credit(executor)[0] > 0
    world.block(20)
    world.everyone_works()
    for _ in range(12):
        world.block()
        world.everyone_works()
    totals = ledger.get_totals(world.ctx)
    assert totals.macs_commissioned == sum(e["prefillMacs"] + e["decodeMacs"] for e in world.events(abi.RECEIPT))
    assert totals.macs_paid == totals.macs_canary == 0
    paid = sum(e["amount"] for e in world.events(abi.PAID))
    gone = sum(e["burnedWei"] for e in world.events(abi.TASK_REFUNDED))
    assert fund(world) == FUND - paid - totals.burned_fees - gone + totals.minted
    assert settled["refundedWei"] + sum(
        e["amount"] for e in world.of(abi.PAID, task)
    ) + settled["burnedWei"] == world.of(abi.TASK_POSTED, task)[0]["escrow"]  # fmt: skip


def test_an_epoch_spends_at_most_a_sixty_fourth_of_the_fund(world):
    world.block()
    one = FUND - fund(world)
    poor = World(batches=BOTH, canaries_per_validator=0, fund=64 * 2 * one + 63)
    poor.block_until(31)
    assert len(commissioned(poor)) == 2
    poor.block_until(33)
    assert len(commissioned(poor)) > 2
    assert sum(e["escrow"] for e in poor.events(abi.TASK_POSTED)[:2]) <= (64 * 2 * one + 63) // 64


def test_an_empty_fund_commissions_nothing_until_somebody_fills_it():
    world = World(batches=BOTH, canaries_per_validator=0, fund=0)
    world.block(3)
    assert not commissioned(world)
    world.ctx.call(market.HANDLERS, abi.FILL_FUND, sender=POSTER, value=COIN)
    world.block()
    assert len(commissioned(world)) == 1


def test_users_come_first_and_canaries_after():
    world = World(batches=BOTH, canaries_per_validator=4)
    world.block()
    created = [e["canary"] for e in world.events(abi.TASK_POSTED)]
    assert created == [False, True]
    waiting = world.post()
    world.block()
    dealt = [e["task"] for e in world.events(abi.TASK_DEALT)]
    posted = {e["task"]: e for e in world.events(abi.TASK_POSTED)}
    assert dealt[0] == waiting
    assert [posted[task]["canary"] for task in dealt[1:]] == [False, True]


def test_while_a_users_task_waits_for_its_deal_nothing_is_commissioned(world):
    from vm.system import gas, market_gas, prologue

    world.post()
    world.ctx.next_block()
    world.ctx.gas_limit = gas.MIX + gas.PRICE + market_gas.deal(4) // 2
    prologue.run(world.ctx, bytes(32), b"")
    assert not commissioned(world)


def test_commissioned_work_is_no_demand_and_does_not_move_the_price(world):
    world.block(3)
    assert ledger.backlog(world.ctx) == 0


def test_a_commissioned_task_that_nobody_answers_goes_back_into_the_fund_less_the_charge(world):
    world.block()
    task = commissioned(world)[0]["task"]
    escrow = world.task(task).escrow
    world.block(40)
    (refunded,) = world.of(abi.TASK_REFUNDED, task)
    assert world.status(task) == Status.REFUNDED
    assert (refunded["burnedWei"], refunded["amount"]) == (escrow // 100, escrow - escrow // 100)
    gone = sum(e["burnedWei"] for e in world.events(abi.TASK_REFUNDED))
    assert fund(world) == FUND - gone
    assert world.ctx.balance(bytes(20)) == 0


def test_what_nobody_else_could_check_is_not_commissioned():
    world = World(validators=1, batches=BOTH, canaries_per_validator=0)
    world.block(4)
    assert not commissioned(world)


def test_what_canaries_took_of_the_fund_is_promised_to_no_batch():
    """An epoch's budget is fixed at its first task; canaries are paid from the same fund before its second."""
    later = GenesisBatch("later", ENCODER.model_id, Kind.EMBED, (tuple(range(10, 110)),))
    probe = World(batches=(later,), encoder=True, canaries_per_validator=0)
    probe.block()
    needed = probe.task(commissioned(probe)[0]["task"]).escrow
    world = World(batches=(EMBEDDINGS, later), encoder=True, fund=needed + COIN // 1000, fund_spend_div=1)
    away = [validator.operator for validator in world.spec.validators[1:]]
    for operator in away:  # stopServing would count from the epoch after next
        record = models.serving(world.ctx, operator, ENCODER.model_id)
        assert record is not None
        models._stop(world.ctx, operator, ENCODER.model_id, record)
    while fund(world) >= needed:
        world.block()
        world.everyone_works()
    assert len(commissioned(world)) == 2 and ledger.get_totals(world.ctx).canaries
    for operator in away:
        world.ctx.call(models.HANDLERS, abi.SERVE, ENCODER.model_id, 10**9, sender=operator)
    world.block()
    assert world.params.epoch(world.height) == 0, "the budget of one epoch"
    assert len(commissioned(world)) == 2 and not world.events(abi.ITEM_FAILED)
