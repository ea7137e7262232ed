"""Old receipts fold into the root of their epoch, and the state forgets finished tasks, a bounded part a block."""

import random

import pytest
from market_world import MODEL, World
from memory_context import MemoryContext
from referee_world import STRANGER, WATCHER, RefereeWorld, hot_of
from test_ledger import receipt
from test_referee import agreed

from primitives import merkle
from primitives.address import MARKET, REFEREE
from primitives.hashing import keccak
from primitives.merkle import tokens_root
from primitives.params import ChainParams
from primitives.task import Kind
from vm.system import abi, ledger, market_forget, market_gas, market_state, referee_state
from vm.system.context import Refused
from vm.system.gas import READ, WRITE
from vm.system.layout import slot_of, u64
from vm.system.referee_state import COUNT, LINE_ANYONE, STOPPED, STOPPED_AT, STOPPED_KEPT


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 13, 64, 100])
def test_an_epochs_root_is_the_tree_over_its_receipts_in_order(count) -> None:
    ctx = MemoryContext(ChainParams(), height=40)
    ids = [ledger.record_receipt(ctx, receipt(task=keccak(bytes([number])))) for number in range(count)]
    ledger.close_receipts(ctx, 1)
    found = ledger.epoch_receipts(ctx, 1)
    assert found.count == count
    assert found.root == (merkle.root(ids) if ids else bytes(32))
    tree = merkle.levels([merkle.digest(identity) for identity in ids]) if ids else []
    for index, identity in enumerate(ids):
        path = merkle.path(tree, index)
        assert merkle.root_by_path(merkle.digest(identity), index, count, path) == found.root


def test_the_next_epoch_begins_a_tree_of_its_own() -> None:
    ctx = MemoryContext(ChainParams(), height=32)
    first = [ledger.record_receipt(ctx, receipt(task=keccak(bytes([number])))) for number in range(7)]
    ledger.close_receipts(ctx, 0)
    ctx.next_block()
    second = [ledger.record_receipt(ctx, receipt(task=keccak(bytes([number, 1])))) for number in range(3)]
    ledger.close_receipts(ctx, 1)
    assert [ledger.epoch_receipts(ctx, epoch).root for epoch in (0, 1)] == [merkle.root(first), merkle.root(second)]


def test_tasks_are_forgotten_when_their_epochs_time_is_over_and_their_root_stays() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    world = World(seed=seed, epoch_blocks=16, canaries_per_validator=0, receipts_kept_epochs=2)
    rng = random.Random(seed)
    world.block()
    before = dict(world.ctx.storage)
    tasks = []
    while world.height < 36:  # what comes last is done before the first is forgotten
        if rng.randrange(3) == 0:
            tasks.append(world.post(temperature_q16=1 << 16))
        world.block()
        world.everyone_works()
    ends = {event["task"]: event["receipt"] for event in world.events(abi.RECEIPT)}
    assert ends
    while any(not world.task(task).done_block for task in tasks):
        world.block()
        world.everyone_works()
    epochs = {task: world.params.epoch(world.task(task).done_block) for task in tasks}
    last_kept = max(world.task(task).done_block for task in tasks)
    assert all(ledger.receipt_of(world.ctx, task) == ends.get(task) for task in ends)
    assert last_kept < world.params.first_height(4)
    world.block_until(world.params.first_height(min(epochs.values()) + 3) - 1)
    first = [task for task in tasks if epochs[task] == min(epochs.values())]
    assert all(market_state.FINISHED.get(world.ctx, task) for task in first)
    world.block()
    assert not any(market_state.FINISHED.get(world.ctx, task) for task in first)
    assert not any(any(ledger.receipt_of(world.ctx, task)) for task in first)
    world.block_until(world.params.first_height(max(epochs.values()) + 3) + 1)
    ids = [event["receipt"] for event in world.events(abi.RECEIPT)]
    assert sum(ledger.epoch_receipts(world.ctx, epoch).count for epoch in range(5)) == len(ids)
    left = [key for key in world.ctx.storage.keys() - before.keys() if key[0] == MARKET]
    assert left == [(MARKET, market_state.POSTED.slot)], "nothing of tasks that sampled but how many there were"


def test_disputes_that_are_over_are_forgotten_with_the_tasks_that_ended_in_their_epoch() -> None:
    world = RefereeWorld(canaries_per_validator=0, epoch_blocks=16, receipts_kept_epochs=9)
    world.block()
    before = dict(world.ctx.storage)
    case = agreed(world)
    first, second = world.challenge(case.task), world.challenge(case.task, sender=STRANGER)
    ends = []
    for number in (first, second):  # both are abandoned at their first turn
        while world.dispute(number).state == abi.DISPUTE_QUEUED:
            world.block()
        world.show(number, case.claimed, hot_of(case.executor))
        while world.dispute(number).state != abi.DISPUTE_ENDED:
            world.block()
        ends.append(world.height)
    assert world.send(abi.DISPUTES_OF, case.task, sender=WATCHER) == [first, second]
    for number, end in zip((first, second), ends, strict=True):
        world.block_until(world.params.first_height(world.params.epoch(end) + 10) - 1)
        assert world.dispute(number).reason == abi.ENDED_ABANDONED
        world.block()
        with pytest.raises(Refused, match=f"dispute {number} ended more than 9 epochs ago"):
            world.send(abi.GET_DISPUTE, number, sender=WATCHER)
    assert world.send(abi.DISPUTES_OF, case.task, sender=WATCHER) == []
    with pytest.raises(Refused, match="there is no dispute 3"):
        world.send(abi.GET_DISPUTE, 3, sender=WATCHER)
    world.block_until(world.params.first_height(world.params.epoch(world.height) + 10))
    kept = {COUNT.slot, slot_of(REFEREE, "lane"), slot_of(REFEREE, "line", case.executor, bytes([LINE_ANYONE]))}
    kept |= {slot_of(REFEREE, "accused", case.executor) + word for word in (0, 1)}
    kept |= {slot_of(REFEREE, f"{queue}.cursor", part) for queue in ("clocks", "called", "forget", "contested")
             for part in (b"height", b"index")}  # fmt: skip
    kept |= {STOPPED.slot, *(STOPPED_AT.slot(u64(place)) for place in range(STOPPED_KEPT))}
    left = {slot for account, slot in world.ctx.storage.keys() - before.keys() if account == REFEREE}
    assert left <= kept, "counts, a record of the accused, the places of queues, the ring of full lanes"


def test_a_clock_that_is_looked_at_after_its_dispute_was_forgotten_means_nothing() -> None:
    world = RefereeWorld(canaries_per_validator=0)
    world.block()
    referee_state.CLOCKS.push(world.ctx, world.height + 1, referee_state.item_of(7))
    world.block(2)
    assert referee_state.CLOCKS.pending(world.ctx) == 0 and not world.events(abi.ITEM_FAILED)


def test_forgetting_is_bounded_and_goes_on_in_the_next_block() -> None:
    ctx = MemoryContext(ChainParams(receipts_kept_epochs=1, prologue_items_max=5), height=1)
    tasks = [keccak(bytes([number])) for number in range(12)]
    for task in tasks:
        ledger.record_receipt(ctx, receipt(task=task))
        market_state.FORGET.push(ctx, 65, task)
    ctx.height = 64
    assert market_forget.forget_old(ctx)
    assert all(any(ledger.receipt_of(ctx, task)) for task in tasks)
    for left in (7, 2, 0):
        ctx.next_block()
        assert market_forget.forget_old(ctx)
        assert sum(any(ledger.receipt_of(ctx, task)) for task in tasks) == left


def test_a_prompt_that_was_answered_without_a_seed_is_forgotten_when_it_may_earn_again() -> None:
    world = World(epoch_blocks=16, canaries_per_validator=0, receipts_kept_epochs=1)
    world.block()
    world.finish(world.post())
    epoch = world.params.epoch(world.height)
    key = market_state.prompt_key(MODEL, tokens_root(tuple(range(10, 18))), Kind.GENERATE)
    world.block_until(world.params.first_height(epoch + market_state.CREDIT_AGAIN_EPOCHS) - 1)
    assert market_state.CREDITED.get(world.ctx, key) == epoch + 1
    world.block()
    assert market_state.CREDITED.get(world.ctx, key) == 0
    assert market_state.CREDITED_BEFORE.pending(world.ctx) == 0


def test_a_prompt_that_earned_anew_before_its_turn_to_be_forgotten_is_remembered() -> None:
    ctx, key = MemoryContext(ChainParams(), height=1), keccak(b"key")
    again = ctx.params.first_height(market_state.CREDIT_AGAIN_EPOCHS)
    market_state.CREDITED_BEFORE.push(ctx, again, key)
    market_state.CREDITED.set(ctx, market_state.CREDIT_AGAIN_EPOCHS + 1, key)  # of the epoch in which it was due
    ctx.height = again
    assert market_forget.forget_old(ctx)
    assert market_state.CREDITED.get(ctx, key) == market_state.CREDIT_AGAIN_EPOCHS + 1


def test_without_gas_it_waits() -> None:
    ctx = MemoryContext(ChainParams(), height=10)
    tasks = [keccak(bytes([number])) for number in range(3)]
    for task in tasks:
        market_state.FORGET.push(ctx, 5, task)
    ctx.gas_limit = 2 * market_gas.FORGET + READ + WRITE
    assert market_forget.forget_old(ctx) is False
    assert market_state.FORGET.pending(ctx) == 1
