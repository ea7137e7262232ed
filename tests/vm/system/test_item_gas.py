"""What an item is charged covers the words that it reads and writes and the logs that it makes, whatever happens."""

import random
from collections import Counter
from contextlib import contextmanager

import pytest
from market_world import World
from memory_context import MemoryContext

from primitives.hashing import keccak
from primitives.task import Status
from vm.system import abi, gas, ledger, market_state, staking, terms
from vm.system.layout import WORD, u64

SEED = 20_261_125
STEPS = ("close", "draw", "settle", "deal", "work item")
ALONE = ("deal", "draw", "close")
"""Steps that look at the set, and charge its words once a block."""


class Counting(MemoryContext):
    """Words and logs since the last charge of a step's item, until its frame ends. `wrong`: items that took more."""

    def start(self) -> None:
        self.counted: Counter[str] = Counter()
        self.wrong: list[tuple[str, int, int]] = []
        self.step, self.paid = "", 0
        self.read: set[tuple[bytes, int]] = set()
        self.written: set[tuple[bytes, int]] = set()
        self.logged = 0
        self.looked: set[tuple[str, tuple[bytes, int]]] = set()
        self.of_the_set: set[tuple[bytes, int]] = set()

    def charge(self, amount: int, what: str) -> None:
        super().charge(amount, what)
        if what in STEPS or what in ("canary", "commission"):
            self.step, self.paid = what if what in STEPS else "", amount
            self.read, self.written, self.logged = set(), set(), len(self.logs)
        else:
            self.paid += amount

    @contextmanager
    def frame(self, gas_max: int | None = None):
        with super().frame(gas_max):
            yield
        if gas_max is None and self.step:
            self.end()

    def end(self) -> None:
        words = self.read - {slot for step, slot in self.looked if step == self.step}
        if self.step in ALONE:
            self.looked |= {(self.step, slot) for slot in words & self.of_the_set}
        took = gas.READ * len(words) + gas.WRITE * len(self.written) + gas.LOG * (len(self.logs) - self.logged)
        self.counted[self.step] += 1
        if took > self.paid:
            self.wrong.append((self.step, took, self.paid, len(words), len(self.written), len(self.logs) - self.logged))
        self.step = ""

    def next_block(self, mix: bytes | None = None) -> None:
        super().next_block(mix)
        self.looked = set()

    def get(self, account: bytes, slot: int) -> int:
        self.read.add((account, slot))
        return super().get(account, slot)

    def set(self, account: bytes, slot: int, value: int) -> None:
        self.written.add((account, slot))
        super().set(account, slot, value)


def words_of(ctx, table, *key: bytes, most: int = 1) -> set[tuple[bytes, int]]:
    from vm.system.layout import slot_of

    first = slot_of(table.account, table.name, *key)
    return {(table.account, (first + i) % WORD) for i in range(most)}


def words_of_the_set(world: World) -> set[tuple[bytes, int]]:
    found: set[tuple[bytes, int]] = set()
    for epoch in range(ledger.SETS_KEPT):
        for index in range(len(world.spec.validators)):
            found |= words_of(world.ctx, ledger._MEMBERS, u64(epoch), u64(index))
    for validator in world.spec.validators:
        found |= words_of(world.ctx, staking._OPERATORS, validator.operator)
        found |= words_of(world.ctx, market_state.LOADS, validator.operator)
        for table in (terms._NOW, terms._NEXT):
            found |= words_of(world.ctx, table, validator.operator, most=2)
    return found


def counting(world: World) -> World:
    world.ctx.__class__ = Counting
    world.ctx.start()
    world.ctx.of_the_set = words_of_the_set(world)
    return world


@pytest.mark.parametrize(("seed", "validators"), [(0, 4), (1, 9), (2, 3)])
def test_no_item_takes_more_than_it_is_charged(seed: int, validators: int) -> None:
    print("seed", SEED + seed)
    rng = random.Random(SEED + seed)
    world = counting(World(
        seed=seed, validators=validators, rate=5 * 10**6, block_gas_limit=48_000_000, epoch_blocks=64,
        devnet=1, canaries_per_validator=2,
    ))  # fmt: skip
    for validator in world.spec.validators:
        refused = [keccak(b"another")] * (rng.random() < 0.5)
        with world.ctx.frame(10**9):
            declared = terms._Declared(1 + rng.randrange(4), 0, 0, len(refused), 0, 0, bytes(32))
            terms._NEXT.put(world.ctx, declared, validator.operator)
    tasks: list[bytes] = []
    silent = {validator.operator for validator in world.spec.validators if rng.random() < 0.3}
    for _ in range(130):
        if len(tasks) < 70 and rng.random() < 0.8:
            tasks += [
                world.post(assurance=rng.randrange(2), tip=rng.randrange(4), deadline=rng.choice((12, 24, 40)),
                           tokens=tuple(rng.randrange(2, 200) for _ in range(8)))
                for _ in range(rng.randrange(1, 5))
            ]  # fmt: skip
        world.block()
        for validator in world.spec.validators:
            if validator.operator not in silent or rng.random() < 0.3:
                work(world, validator.operator, rng)
    print(dict(world.ctx.counted))
    assert not world.ctx.wrong
    assert all(world.ctx.counted[step] > 5 for step in ("close", "draw", "settle", "deal", "work item"))
    assert Status.SETTLED in {world.status(task) for task in tasks}


def work(world: World, operator: bytes, rng: random.Random) -> None:
    """What it owes, a tenth of it wrong."""
    for duty in world.duties(operator):
        if duty.first_block > world.height:
            continue
        if duty.role == abi.ROLE_EXECUTE:
            world.submit(operator, duty.task)
        elif duty.role == abi.ROLE_AUDIT:
            wrong = rng.random() < 0.1
            world.verdict(operator, duty.task, root=keccak(b"wrong") if wrong else None)
        elif duty.role == abi.ROLE_REVEAL and world.status(duty.task) == Status.REVEALING:
            world.reveal(operator, duty.task, root=keccak(b"wrong") if rng.random() < 0.1 else None)
