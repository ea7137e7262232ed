"""Declared ahead: reserve price, hours, refused models, kinds and sizes. No miss, no way to shape a draw."""

import pytest
from market_world import COST, MODEL, UNLISTED, World
from sample import STRANGER

from consensus.work.terms import Terms
from primitives.hashing import keccak
from primitives.reasons import Reason
from primitives.task import Kind, Status
from vm.system import abi, mishaps, terms
from vm.system.context import Refused
from vm.system.market_state import TASKS

HOUR = 3_600


def declare(world: World, operator: bytes, price=0, hours=0, kinds=0, macs=0, models=()) -> None:
    world.ctx.call(terms.HANDLERS, abi.DECLARE, price, hours, kinds, macs, list(models), sender=operator)


def counting(world: World) -> None:
    """To the first block of the epoch after next."""
    world.block_until(world.params.first_height(world.params.epoch(world.height) + 2) - 1)


@pytest.fixture
def world() -> World:
    made = World(canaries_per_validator=0, epoch_blocks=16)
    made.block()
    return made


def executors(world: World, tasks: int = 12, **asked) -> set[bytes]:
    """Who is dealt any slot of some tasks."""
    posted = [world.post(**asked) for _ in range(tasks)]
    world.block()
    return {slot for task in posted if world.status(task) == Status.DEALT for slot in world.task(task).slots}


@pytest.mark.parametrize(
    ("declared", "asked"),
    [
        ({"price": 10**12 + 1}, {}),
        ({"price": 10**12 + 1}, {"tip": 0}),
        ({"kinds": 1 << Kind.GENERATE}, {}),
        ({"macs": COST.execution(Kind.GENERATE, 8, 8) - 1}, {}),
        ({"models": (MODEL,)}, {}),
        ({"hours": 1 << 5}, {}),
    ],
    ids=str,
)
def test_who_declared_a_refusal_is_dealt_no_such_task_and_misses_none(world, declared, asked) -> None:
    me = world.spec.validators[0].operator
    world.ctx.timestamp = 7 * HOUR
    declare(world, me, **declared)
    assert me in executors(world, **asked), "it does not count yet"
    counting(world)
    assert me not in executors(world, **asked)
    assert world.events(abi.DEAL_DELAYED) == []


@pytest.mark.parametrize(
    ("declared", "asked"),
    [
        ({"price": 10**12 + 1}, {"tip": 10**12}),
        ({"kinds": 1 << Kind.EMBED}, {}),
        ({"macs": COST.execution(Kind.GENERATE, 8, 8)}, {}),
        ({"hours": 1 << 7}, {}),
    ],
    ids=str,
)
def test_what_it_did_not_refuse_it_is_dealt(world, declared, asked) -> None:
    me = world.spec.validators[0].operator
    world.ctx.timestamp = 7 * HOUR + 1
    declare(world, me, **declared)
    counting(world)
    assert me in executors(world, **asked)


def test_a_refusing_operator_still_counts_as_serving_bond(world) -> None:
    me = world.spec.validators[0].operator
    declare(world, me, kinds=1 << Kind.GENERATE)
    counting(world)
    world.post()
    task = world.post()
    world.block()
    record = TASKS.get(world.ctx, task)
    assert record is not None and record.serving_bond * 3 == record.room_bond * 4


def test_who_refuses_everything_checks_all_the_same(world) -> None:
    me = world.spec.validators[0].operator
    declare(world, me, kinds=0b111)
    counting(world)
    drawn: set[bytes] = set()
    for _ in range(8):
        task = world.post(temperature_q16=1 << 16)
        world.finish(task)
        drawn |= {bytes.fromhex(v[2:]) for e in world.of(abi.AUDIT_DRAWN, task) for v in e["verifiers"]}
    assert me in drawn


def test_outside_its_hours_silence_is_no_miss(world) -> None:
    me = world.spec.validators[0].operator
    world.ctx.timestamp = 3 * HOUR
    declare(world, me, hours=1 << 7)
    counting(world)
    for _ in range(6):
        task = world.post(temperature_q16=1 << 16)
        world.block()
        slots = world.task(task).slots
        assert me not in slots
        world.block()
        world.submit(slots[0], task)
        world.block(world.delay)
        if me in world.task(task).verifiers:
            break
        world.block(40)
    assert me in world.task(task).verifiers
    world.block(9)
    missed = [event for event in world.of(abi.TASK_MISSED, task) if event["operator"] == world.text(me)]
    assert [(event["code"], event["counted"]) for event in missed] == [(Reason.DECLARED_AWAY.code, False)]
    assert mishaps.misses(world.ctx, me) == []
    world.ctx.timestamp = 7 * HOUR
    assert not terms.of(world.ctx, me).away(world.ctx.timestamp)


def test_it_counts_from_the_epoch_after_next_and_one_waits_at_a_time(world) -> None:
    me = world.spec.validators[0].operator
    declare(world, me, price=5)
    declare(world, me, price=6)  # of the same epoch: the later one
    world.block_until(17)
    with pytest.raises(Refused) as refused:
        declare(world, me, price=7)
    assert refused.value.code == "declared"
    assert terms.of(world.ctx, me).reserve_price == 0
    world.block_until(33)
    assert terms.of(world.ctx, me).reserve_price == 6
    declare(world, me, price=8)
    world.block_until(64)
    assert terms.of(world.ctx, me).reserve_price == 6
    now, latest, block = world.ctx.call(terms.HANDLERS, abi.GET_TERMS, me, sender=me)
    assert (now[0], latest[0], block) == (6, 8, 65)
    world.block()
    assert terms.of(world.ctx, me).reserve_price == 8
    assert [event["fromBlock"] for event in world.events(abi.TERMS_DECLARED)] == [33, 33, 65]


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ({"price": 2**96}, "bad_terms"),
        ({"hours": 1 << 24}, "bad_terms"),
        ({"kinds": 8}, "bad_terms"),
        ({"macs": 2**64}, "bad_terms"),
        ({"models": (MODEL, MODEL)}, "bad_terms"),
        ({"models": tuple(keccak(bytes([i])) for i in range(5))}, "bad_terms"),
        ({"models": (UNLISTED,)}, "unknown_model"),
    ],
    ids=str,
)
def test_what_cannot_be_declared(world, declared, code) -> None:
    with pytest.raises(Refused) as refused:
        declare(world, world.spec.validators[0].operator, **declared)
    assert refused.value.code == code


def test_a_stranger_declares_nothing(world) -> None:
    with pytest.raises(Refused) as refused:
        declare(world, STRANGER.operator, price=1)
    assert refused.value.code == "unknown_operator"


def test_nobody_refuses_a_canary_by_its_price() -> None:
    terms_ = Terms(reserve_price=10**20)
    assert not terms_.refuses(0, Kind.GENERATE, MODEL, 1, None)
    assert terms_.refuses(0, Kind.GENERATE, MODEL, 1, 10**20 - 1)


def test_hours_go_round_the_day() -> None:
    night = Terms(hours=1 << 23 | 1)
    days = 19_000 * 24 * HOUR
    assert [night.away(days + hour * HOUR + 59) for hour in (22, 23, 24, 25)] == [True, False, False, True]
