"""Hundreds of open tasks do not slow a block: what a prologue reads, writes and is charged is that of what is due."""

from market_world import POSTER, World

from primitives.params import COIN
from primitives.task import Status

MANY = 240


class Counted:
    """A world whose storage accesses are counted."""

    def __init__(self, tasks: int) -> None:
        self.world = world = World(canaries_per_validator=0, epoch_blocks=1_000, validators_max=16, rate=10**10)
        world.ctx.balances[POSTER] = 10**6 * COIN
        world.recount()
        world.block()
        self.tasks = [world.post(deadline=600, temperature_q16=1 << 16) for _ in range(tasks)]
        while any(world.status(task) == Status.POSTED for task in self.tasks):
            world.block()
        world.block_until(60)
        assert all(world.status(task) == Status.DEALT for task in self.tasks)
        self.accesses = 0
        get, put = world.ctx.get, world.ctx.set

        def counted_get(account: bytes, slot: int) -> int:
            self.accesses += 1
            return get(account, slot)

        def counted_set(account: bytes, slot: int, value: int) -> None:
            self.accesses += 1
            put(account, slot, value)

        world.ctx.get, world.ctx.set = counted_get, counted_set  # type: ignore[method-assign]

    def block(self) -> tuple[int, int]:
        """(accesses, gas) of the next block's prologue alone."""
        from primitives.hashing import keccak
        from vm.system import prologue

        ctx = self.world.ctx
        ctx.next_block(keccak(b"block %d" % ctx.height))
        ctx.gas_limit, self.accesses = self.world.params.prologue_gas, 0
        prologue.run(ctx, bytes(32), b"")
        used = self.accesses, ctx.gas_used
        ctx.gas_used, ctx.gas_limit = 0, 10**9
        return used


def test_blocks_with_two_hundred_and_forty_open_tasks_cost_what_blocks_with_four_do() -> None:
    few, many = Counted(4), Counted(MANY)
    for _ in range(5):
        assert few.block() == many.block()


def test_so_does_the_work_on_one_task_among_them() -> None:
    """Answered, drawn, checked, revealed and settled: each block's prologue as if the others were not there."""
    costs = []
    for counted in (Counted(4), Counted(MANY)):
        world, task = counted.world, counted.tasks[3]
        spent = [counted.block()]
        assert world.submit(world.task(task).slots[0], task) == []
        spent += [counted.block() for _ in range(world.delay + 1)]
        for verifier in world.task(task).verifiers:
            assert world.verdict(verifier, task) == []
        spent.append(counted.block())
        assert world.reveal(world.task(task).executor, task) == []
        spent += [counted.block() for _ in range(world.params.maturity_blocks + 1)]
        assert world.status(task) == Status.SETTLED
        costs.append(spent)
    assert [gas for _, gas in costs[0]] == [gas for _, gas in costs[1]]
    assert max(accesses for accesses, _ in costs[1]) <= 2 * max(accesses for accesses, _ in costs[0])
    most = Counted(4).world.params.prologue_gas
    assert max(gas for _, gas in costs[1]) < most // 4


def test_more_than_a_block_can_deal_waits_and_no_prologue_is_above_its_gas() -> None:
    world = World(canaries_per_validator=0, rate=10**10)
    world.ctx.balances[POSTER] = 10**6 * COIN
    world.recount()
    world.block()
    tasks = [world.post(deadline=600, temperature_q16=1 << 16) for _ in range(MANY)]
    dealt, blocks = 0, 0
    while dealt < MANY:
        world.block()  # its gas is bounded by the context: more would be OutOfGas
        now = sum(world.status(task) != Status.POSTED for task in tasks)
        assert dealt < now <= dealt + world.params.prologue_items_max
        dealt, blocks = now, blocks + 1
    assert 4 <= blocks <= 30
