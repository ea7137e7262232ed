"""The base price of work on the chain: what moves it, what does not, and whose tasks pay which price."""

from market_world import COST, MODEL, POSTER, World

from primitives.task import Kind
from vm.system import abi, ledger, market, models


def price(world: World) -> int:
    return world.ctx.call(ledger.HANDLERS, abi.BASE_PRICE, sender=POSTER)


def cost() -> int:
    return COST.execution(Kind.GENERATE, 8, 8)


def test_an_idle_chain_sinks_to_the_floor_and_canaries_do_not_hold_it_up():
    world = World(canaries_per_validator=4)
    start = price(world)
    world.block()
    assert price(world) == start - start // 8
    for _ in range(70):
        world.block()
        world.everyone_works()
    assert price(world) == world.params.base_price_floor
    assert world.events(abi.TASK_SETTLED)  # canaries were worked meanwhile
    assert ledger.backlog(world.ctx) == 0


def test_capacity_is_the_sum_of_what_each_member_may_hold_and_is_fixed_at_the_turn():
    world = World(validators=4, rate=10**7, serving=3, canaries_per_validator=0)
    assert world.ctx.call(ledger.HANDLERS, abi.LOAD, sender=POSTER) == (0, 3 * 10**7)
    world.block()
    models.put_serving(world.ctx, world.spec.validators[0].operator, MODEL, 4 * 10**7)
    assert ledger.capacity(world.ctx) == 3 * 10**7
    world.block_until(32)
    assert ledger.capacity(world.ctx) == 6 * 10**7


def test_a_member_of_two_models_counts_once():
    world = World(validators=4, rate=10**7, encoder=True, canaries_per_validator=0)
    assert ledger.capacity(world.ctx) == 4 * 10**7


def test_dealt_work_is_load_until_capacity_has_worked_it_off():
    world = World(validators=4, rate=2 * 10**6, canaries_per_validator=0)  # 8M a block together; a task is 15.4M
    world.block()
    world.post()
    before = price(world)
    world.block()
    assert ledger.backlog(world.ctx) == cost()
    assert price(world) == before - before // 8  # of the block before
    prices = []
    for _ in range(3):
        before = price(world)
        world.block()
        prices.append(price(world) > before)
    assert prices == [True, True, False]  # 8M and 7.4M of a target of 4M, then nothing
    assert ledger.backlog(world.ctx) == 0


def test_a_task_pays_the_price_of_its_post_whatever_comes_later():
    world = World(canaries_per_validator=0)
    world.block()
    at_post = price(world)
    task = world.post()
    escrow, *_ = world.ctx.call(market.HANDLERS, abi.QUOTE, 0, MODEL, 8, 8, 0, 0, 0, 0, sender=POSTER)
    assert world.task(task).price_per_cwu == at_post
    assert escrow == world.task(task).escrow
    world.finish(task)
    assert price(world) < at_post
    (receipt,) = world.of(abi.RECEIPT, task)
    assert receipt["fee"] == -(-cost() * at_post // 10**9)


def test_a_full_set_makes_work_dearer_block_by_block():
    world = World(validators=2, rate=10**6, canaries_per_validator=0)
    world.block()
    before = price(world)
    for _ in range(12):
        if world.height % 4 == 1:
            world.post()
        world.block()
        world.everyone_works()
    assert price(world) > 2 * before
