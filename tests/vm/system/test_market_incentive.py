"""How many check a task: from what is at risk, by the inequality, and what each party exposes of its bond."""

import re

import pytest
from market_world import COST, MODEL, POSTER, World

from consensus.work import incentive
from consensus.work.slashing import exposure_max
from primitives.params import COIN
from primitives.task import Kind, Status, price_of
from vm.system import abi, ledger, market, market_parties, market_state

POST_ALL = 2 * COIN
"""Wei sent with posts whose escrow is not what the test is about; the rest comes back."""


@pytest.fixture
def world() -> World:
    world = World(canaries_per_validator=0)
    world.block()
    return world


def quoted(world: World, at_risk: int = 0, assurance: int = 0) -> int:
    """k of a task with so much at risk."""
    answer = world.ctx.call(market.HANDLERS, abi.QUOTE, 0, MODEL, 8, 8, assurance, at_risk, 0, 0, sender=POSTER)
    return answer[3]


def least(world: World, at_risk: int) -> int | None:
    """k by the pure rule over the whole set."""
    cost, price = COST.execution(Kind.GENERATE, 8, 8), ledger.base_price(world.ctx)
    seen = market_parties.look(world.ctx, MODEL)
    fee = price_of(cost, price)
    odds = market_parties.odds(world.ctx, seen.weight, seen.parties, world.delay)
    return incentive.least_auditors(odds, incentive.stakes_of(world.params, fee, fee), at_risk, len(seen.parties) - 1)


def accepted(text: str) -> int:
    found = re.search(r"at most (\d+) wei may be at risk", text)
    assert found is not None, text
    return int(found.group(1))


def test_more_at_risk_is_checked_by_more_until_nothing_is_enough(world):
    most = accepted(world.refused(value_at_risk=10 * COIN, value=POST_ALL)[1])
    assert COIN // 2 < most < COIN
    seen = [quoted(world, at_risk) for at_risk in (0, most // 2, most)]
    assert seen == sorted(seen) and seen[0] == 2
    assert [max(2, least(world, at_risk) or 0) for at_risk in (0, most // 2, most)] == seen
    assert least(world, most + 1) is None
    assert world.refused(value_at_risk=most + 1, value=POST_ALL)[0] == "value_at_risk"
    task = world.post(value_at_risk=most, value=POST_ALL)
    world.finish(task)
    (receipt,) = world.of(abi.RECEIPT, task)
    assert len(receipt["verifiers"]) == seen[-1] == world.of(abi.TASK_AGREED, task)[0]["verifiers"].__len__()


def test_whoever_asks_for_three_gets_three_and_pays_three():
    world = World(validators=5, canaries_per_validator=0)
    world.block()
    before, task = world.ctx.balance(POSTER), world.post(assurance=3)
    locked = world.task(task).escrow
    assert locked == before - world.ctx.balance(POSTER) == world.escrow(auditors=3)
    world.finish(task)
    (receipt,) = world.of(abi.RECEIPT, task)
    assert len(receipt["verifiers"]) == 3
    assert sum(e["role"] == abi.ROLE_AUDIT and e["amount"] > 0 for e in world.of(abi.PAID, task)) == 6  # fee and gas


def test_when_a_third_of_all_bond_can_be_everyone_who_serves_only_an_unchecked_answer_is_sold():
    world = World(validators=8, serving=2, canaries_per_validator=0)
    world.block()
    code, text = world.refused(assurance=1, value=POST_ALL)
    assert code == "value_at_risk" and "post with assurance 0 and nothing at risk" in text
    world.post(assurance=0)


def test_what_changed_until_the_draw_so_that_it_is_not_safe_any_more_is_refunded_whole(world):
    most = accepted(world.refused(value_at_risk=10 * COIN, value=POST_ALL)[1])
    before = world.ctx.balance(POSTER)
    task = world.post(value_at_risk=most, value=POST_ALL)
    world.block()
    executor = world.task(task).slots[0]
    world.block()
    assert world.submit(executor, task) == []
    stored = market_state.TASKS.get(world.ctx, task)
    stored.delay += 4  # a set in which a third holds longer runs of proposers
    market_state.TASKS.put(world.ctx, stored, task)
    world.block(world.delay)
    assert world.status(task) == Status.REFUNDED
    assert world.ctx.balance(POSTER) == before
    assert "no longer make" in world.of(abi.TASK_REFUNDED, task)[0]["reason"]


def test_a_value_at_risk_that_fewer_can_check_than_was_promised_is_refunded(world):
    task = world.post(value_at_risk=COIN // 2, assurance=3, value=POST_ALL)
    world.block()
    executor = world.task(task).slots[0]
    world.block()
    assert world.submit(executor, task) == []
    others = [v.operator for v in world.spec.validators if v.operator != executor]
    for operator in others[:2]:
        market_state.EXPOSED.set(world.ctx, 200 * COIN, operator)  # nothing of their bonds is free
    world.block(world.delay)
    assert world.status(task) == Status.REFUNDED
    for operator in others[:2]:
        market_state.EXPOSED.set(world.ctx, 0, operator)


def exposed(world: World) -> dict[bytes, int]:
    return {v.operator: market_state.EXPOSED.get(world.ctx, v.operator) for v in world.spec.validators}


def test_every_party_of_an_open_task_exposes_its_worth_and_nothing_is_left_of_it_in_the_end(world):
    tasks = [world.post(tip=10**13), world.post()]
    gains = [market_state.TASKS.get(world.ctx, task).gain for task in tasks]
    assert gains[0] - gains[1] == price_of(COST.execution(Kind.GENERATE, 8, 8), 10**13)
    world.block()
    assert sum(exposed(world).values()) == sum(gains)
    seen = 0
    for _ in range(30):
        world.block()
        world.everyone_works()
        if world.status(tasks[0]) == Status.DRAWN == world.status(tasks[1]):
            assert sum(exposed(world).values()) == 3 * sum(gains)
            seen += 1
    assert seen
    assert not any(exposed(world).values())


@pytest.mark.parametrize("answers", [0, 1])
def test_misses_and_lost_seats_end_their_exposure_too(answers):
    world = World(validators=3, canaries_per_validator=0)
    world.block()
    task = world.post(deadline=12)
    world.block()
    if answers:
        executor = world.task(task).slots[0]
        world.block()
        world.submit(executor, task)
    world.block(60)  # nobody says anything more
    assert world.task(task).done_block
    assert not any(exposed(world).values())


def test_a_bond_of_which_a_sixty_fourth_is_open_takes_no_more():
    world = World(validators=2, bond=1_000 * COIN, canaries_per_validator=0)
    world.block()
    room = exposure_max(world.params, 1_000 * COIN)
    for validator in world.spec.validators:
        market_state.EXPOSED.set(world.ctx, room, validator.operator)
    task = world.post()
    world.block()
    assert world.status(task) == Status.POSTED
    assert world.of(abi.DEAL_DELAYED, task)
    for validator in world.spec.validators:
        market_state.EXPOSED.set(world.ctx, 0, validator.operator)
    world.block(2)
    assert world.status(task) == Status.DEALT


def test_a_task_that_pays_more_than_any_bond_covers_is_refused_with_what_is_covered():
    world = World(validators=4, bond=1_000 * COIN, canaries_per_validator=0)
    world.block()
    world.ctx.balances[POSTER] = 10**30
    code, text = world.refused(tip=10**23, value=10**29)
    assert code == "exposure" and str(exposure_max(world.params, 1_000 * COIN)) in text
