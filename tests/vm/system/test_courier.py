"""The queue of callbacks: its order, its lane, who waits how long, and whose coins they are."""

import pytest
from market_world import POSTER, World

from primitives.address import COURIER
from primitives.hashing import keccak
from primitives.task import Status
from vm.system import abi, courier, market_gas, market_state
from vm.system.context import Refused
from vm.system.courier import Callback

GAS = 50_000


@pytest.fixture
def world() -> World:
    world = World(canaries_per_validator=0)
    world.block()
    return world


def target(i: int) -> bytes:
    return keccak(b"consumer %d" % i)[12:]


def waiting(world: World, sequence: int, tip: int, used: int = GAS, gas: int = GAS) -> bytes:
    """A callback in the queue, without the task that it is of: its id."""
    courier.reserve(world.ctx)
    task = market_state.task_id(world.params.chain_id, sequence)
    prepaid = 2 * gas * world.ctx.base_fee
    market_state.ESCROWED.add(world.ctx, 0)
    world.ctx.contracts[target(sequence)] = (True, used)
    world.ctx.transfer(POSTER, market_state.MARKET, prepaid)
    courier.enqueue(world.ctx, task, sequence, tip, Callback(target(sequence), gas, Status.SETTLED, prepaid))
    return task


def called(world: World) -> list[bytes]:
    return [event["task"] for event in world.events(abi.CALLED_BACK)]


def test_who_tips_more_is_called_first_then_whose_task_is_older(world):
    tasks = [waiting(world, i, tip, gas=1_000, used=1_000) for i, tip in enumerate((0, 7, 7, 3))]
    world.block()
    assert called(world) == [tasks[i] for i in (1, 2, 3, 0)]
    assert [call[0] for call in world.ctx.calls] == [COURIER] * 4


def test_a_block_calls_as_many_as_its_lane_has_gas_for_and_the_rest_waits(world):
    lane = world.params.block_gas_limit // courier.LANE_DIV
    each = market_gas.CALLBACK + GAS
    tasks = [waiting(world, i, 0) for i in range(12)]
    world.block()
    assert called(world) == tasks[: lane // each]
    world.block(12)
    assert called(world) == tasks
    assert courier.prepaid(world.ctx) == 0


def test_gas_that_was_asked_for_and_not_used_leaves_room_in_the_lane(world):
    tasks = [waiting(world, i, 0, gas=200_000, used=10_000) for i in range(3)]
    world.block()
    assert called(world) == tasks


def test_used_gas_is_burned_at_the_blocks_base_fee_and_never_more_than_was_paid(world):
    before = world.ctx.balance(target(0)), world.ctx.balance(target(1))
    waiting(world, 0, 0, used=GAS // 2)
    world.ctx.base_fee *= 5  # it rose since the post
    waiting(world, 1, 0)
    world.ctx.base_fee *= 3
    world.block()
    first, second = world.events(abi.CALLED_BACK)
    assert first["burnedWei"] == 2 * GAS * 10**9 and first["refundedWei"] == 0
    assert second["burnedWei"] == 2 * GAS * 5 * 10**9 and second["refundedWei"] == 0
    assert (world.ctx.balance(target(0)), world.ctx.balance(target(1))) == before


def test_a_flood_of_tips_keeps_nobody_waiting_for_more_than_so_many_blocks(world):
    patient = waiting(world, 0, 0)
    queued, sequence = world.height, 1
    while patient not in called(world):
        for _ in range(6):  # more than a block calls
            if courier._OPEN.get(world.ctx) < courier.OPEN_MAX:
                waiting(world, sequence, 1_000)
                sequence += 1
        world.block()
        assert world.height <= queued + courier.WAIT_BLOCKS_MAX + 1
    assert world.height == queued + courier.WAIT_BLOCKS_MAX
    assert len(called(world)) > courier.WAIT_BLOCKS_MAX


def test_no_more_tasks_may_wait_to_be_called_back_than_the_queue_holds(world, monkeypatch):
    monkeypatch.setattr(courier, "OPEN_MAX", 2)
    tasks = [world.post(callback_gas=GAS) for _ in range(2)]
    assert world.refused(callback_gas=GAS) == ("backlog", "2 tasks are to be called back already; try again later")
    world.post()
    world.cancel(tasks[0])
    assert world.refused(callback_gas=GAS)[0] == "backlog"
    world.block()
    assert called(world) == [tasks[0]]
    world.post(callback_gas=GAS)


def test_places_left_behind_by_those_called_out_of_turn_never_keep_a_task_from_its_end(world, monkeypatch):
    """Low tips that waited too long are called before their turn; as long as higher tips come, the order keeps their
    places. A task that may be called back finds one all the same when it ends."""
    monkeypatch.setattr(courier, "OPEN_MAX", 8)
    monkeypatch.setattr(courier, "WAIT_BLOCKS_MAX", 3)
    monkeypatch.setattr(courier, "_BY_TIP", market_state.ByTip(COURIER, "by_tip", 8))
    last = world.post(callback_gas=GAS)
    refused = sequence = 0
    for _ in range(40):
        for tip in (0, 9, 9):
            sequence += 1
            try:
                waiting(world, sequence, tip, gas=200_000, used=200_000)  # a block's lane carries one
            except Refused as refusal:
                assert refusal.code == "backlog"
                refused += 1
        world.block()
        world.everyone_works()
    assert refused and world.task(last).done_block and last in called(world)
    assert not world.events(abi.ITEM_FAILED)
    world.block(16)
    assert world.ctx.call(courier.HANDLERS, abi.PENDING, sender=POSTER) == (0, 0, 0), "all places are free again"


def test_every_end_of_a_task_calls_back_once_with_its_status(world):
    settled, cancelled = world.post(callback_gas=GAS), world.post(callback_gas=GAS)
    assert world.task(settled).escrow == world.escrow(callback_gas=GAS)
    world.cancel(cancelled)
    world.finish(settled)
    world.block(3)
    silent = world.post(callback_gas=GAS)
    world.block(40)
    found = {event["task"]: event["status"] for event in world.events(abi.CALLED_BACK)}
    assert found == {settled: Status.SETTLED, cancelled: Status.REFUNDED, silent: Status.REFUNDED}
    assert len(called(world)) == 3
    by_task = {call[2][4:36]: call[2] for call in world.ctx.calls}
    for task, status in found.items():
        output, receipt = world.task(task).output_hash, world.task(task).receipt
        sent = abi.CALLBACK.decode_arguments(by_task[task][4:])
        assert sent[:2] == (task, status) and sent[3] == receipt
        if status == Status.SETTLED:
            assert any(sent[2]) and not any(output)  # the state forgot it, the callback said it
    assert by_task[settled][:4] == keccak(b"onLaboraTask(bytes32,uint8,bytes32,bytes32)")[:4]


def test_the_expiry_charge_is_not_taken_of_a_callbacks_gas(world):
    silent = world.post(callback_gas=GAS)
    escrow = world.task(silent).escrow - 2 * GAS * world.ctx.base_fee
    world.block(40)
    (refunded,) = world.of(abi.TASK_REFUNDED, silent)
    assert (refunded["burnedWei"], refunded["amount"]) == (escrow // 100, escrow - escrow // 100)
