"""Attacks on who is given work and what it counts: declared speed that is not there, checks alone, bonds kept busy,
deadlines that only some can keep, and posts by which the prologue has too much to do."""

import pytest
from market_world import COST, MODEL, POSTER, World, operator_of

from node.duties import jobs
from primitives.hashing import keccak
from primitives.params import COIN
from primitives.task import Kind, Status
from vm.system import abi, ledger, market_state, models, terms
from vm.system.context import Refused
from vm.system.market_state import TASKS

TASK = COST.execution(Kind.GENERATE, 8, 8)
LIAR = operator_of(0)


def serve(world: World, rate: int, operator: bytes = LIAR) -> None:
    world.ctx.call(models.HANDLERS, abi.SERVE, MODEL, rate, sender=operator)


# ---------------------------------------------------------------- fake capacity


class Machines(World):
    """Operators whose machines do so many multiply-adds a block, whatever they declare. They check at once."""

    def __init__(self, rate: int, **spec) -> None:
        super().__init__(rate=rate, canaries_per_validator=0, **spec)
        self.machine, self.done = rate, dict[bytes, int]()
        self.answered = dict[bytes, int]()

    def everyone_works(self) -> None:
        for validator in self.spec.validators:
            operator = validator.operator
            self.done[operator] = self.done.get(operator, 0) + self.machine
            duties = [duty for duty in self.duties(operator) if duty.first_block <= self.height]
            mine = [duty for duty in duties if duty.role == abi.ROLE_EXECUTE]
            if not mine:
                self.done[operator] = 0
            results: dict = {}
            order = jobs(duties, results, self.height, MODEL)
            for duty in order + [duty for duty in duties if duty not in order]:
                if duty.role == abi.ROLE_AUDIT:
                    assert self.verdict(operator, duty.task) == []
                elif duty.role == abi.ROLE_REVEAL and self.status(duty.task) == Status.REVEALING:
                    assert self.reveal(operator, duty.task) == []
                elif duty in mine and self.done[operator] >= TASK:
                    self.done[operator] -= TASK
                    assert self.submit(operator, duty.task) == []
                    self.answered[operator] = self.answered.get(operator, 0) + 1


def test_capacity_that_is_not_there_brings_no_more_work_than_the_machine_does_and_is_halved_away() -> None:
    """A machine like the others' that declares a thousand times as much, while more is asked than all can do: it is
    dealt what nobody else has room for, and misses it. Backups answer, and it is believed half as much every epoch."""
    world = Machines(rate=TASK // 4 + 1, epoch_blocks=16)
    world.block()
    serve(world, 1_000 * world.machine)
    scales = []
    for _ in range(6):
        for _ in range(16):
            world.post(temperature_q16=1 << 16)
            world.block()
            world.everyone_works()
        scales.append(world.serving(LIAR).scale_q16)
    assert [later * 2 for later in scales[2:]] == scales[1:-1], scales
    honest = [count for operator, count in world.answered.items() if operator != LIAR]
    assert len(honest) == 3 and world.answered[LIAR] <= 1.25 * max(honest)
    counted = [event for event in world.events(abi.TASK_MISSED) if event["counted"]]  # a crowded backup's is not
    missed = [event["operator"] for event in counted if event["role"] == abi.ROLE_EXECUTE]
    assert set(missed) == {world.text(LIAR)} and len(missed) > world.answered[LIAR]
    assert all(world.serving(operator_of(i)).scale_q16 == models.SCALE_ONE for i in (1, 2, 3))


def test_a_backup_that_has_no_room_for_what_others_missed_misses_nothing_itself() -> None:
    """A task comes to a backup without a deal. Full as it is, its silence does not count; with room it does."""
    for rate, excused in ((TASK // 5, True), (TASK, False)):
        world = World(validators=2, rate=rate, canaries_per_validator=0)
        world.block()
        for _ in range(4):
            world.post(temperature_q16=1 << 16)
        world.block(22)
        backups = [event["counted"] for event in world.events(abi.TASK_MISSED) if event["slot"] == 1]
        assert backups and (not all(backups)) is excused, (rate, backups)


def test_on_a_public_chain_declaring_more_than_one_has_shown_gains_nothing() -> None:
    world = World(devnet=0, power_from_credit=0, rate=10**8, canaries_per_validator=0)
    world.block()
    for index in range(4):
        models.note_rate(world.ctx, operator_of(index), MODEL, 10**7)
    found = models.effective_rates(world.ctx, models.candidates(world.ctx, MODEL))
    serve(world, 2**64 - 1)
    assert models.effective_rates(world.ctx, models.candidates(world.ctx, MODEL)) == found
    assert found[LIAR] == 10**7 * 5 // 4


# ---------------------------------------------------------------- checks alone


def test_who_refuses_to_execute_and_only_checks_is_paid_its_costs_and_its_credit_fades() -> None:
    world = World(validators=5, epoch_blocks=16, canaries_per_validator=0)
    world.block()
    world.ctx.call(terms.HANDLERS, abi.DECLARE, 0, 0, 0b111, 1, [], sender=LIAR)

    def epochs(count: int) -> None:
        until = world.params.first_height(world.params.epoch(world.height) + count)
        while world.height < until:
            world.post(temperature_q16=1 << 16)
            world.block()
            world.everyone_works()

    epochs(4)
    had = ledger.standing(world.ctx, LIAR).credit
    epochs(2)
    credited = [event for event in world.events(abi.CREDITED) if event["operator"] == world.text(LIAR)][-2:]
    assert all(event["executedMacs"] == 0 and event["auditedMacs"] > 0 for event in credited)
    assert ledger.standing(world.ctx, LIAR).credit == had * 9 // 10 * 9 // 10
    assert ledger.standing(world.ctx, operator_of(1)).credit > had
    assert not [event for event in world.events(abi.TASK_MISSED) if event["operator"] == world.text(LIAR)]


# ---------------------------------------------------------------- busy bonds


def test_a_bond_kept_busy_takes_of_everybodys_credit_alike_and_switches_nothing_off() -> None:
    """A fifth of the bond that declares next to nothing is full with one task. What others do meanwhile counts at four
    fifths, for all of them: C / S of the busy one falls against theirs, and power knows only ratios."""
    world = World(validators=5, canaries_per_validator=0)
    world.block()
    serve(world, 1)
    busy = b""
    while not busy:
        task = world.post(deadline=600, temperature_q16=1 << 16)
        world.block()
        busy = task if world.task(task).slots[0] == LIAR else b""
    tasks = [world.post(temperature_q16=1 << 16) for _ in range(5)]
    world.block()
    assert models.counts(world.ctx, MODEL)
    for task in tasks:
        record = TASKS.get(world.ctx, task)
        assert record is not None and record.room_bond * 5 == record.serving_bond * 4
        assert LIAR not in world.task(task).slots


# ---------------------------------------------------------------- deadlines


def test_a_deadline_below_what_the_reference_rate_needs_is_refused() -> None:
    world = World(canaries_per_validator=0)
    world.block()
    code, text = world.refused(deadline=11)
    assert code == "deadline" and "12 to 612" in text


def test_the_shortest_deadline_costs_a_slow_operator_neither_trust_nor_stake() -> None:
    """It needs 18 blocks and has four: its slot passes, and no miss counts. Who posts so waits for a faster one."""
    world = World(rate=10**6, canaries_per_validator=0)
    bonds = [models.candidates(world.ctx, MODEL)[i].bond for i in range(4)]
    world.block()
    tasks = [world.post(deadline=12, temperature_q16=1 << 16) for _ in range(4)]
    world.block(40)
    missed = world.events(abi.TASK_MISSED)
    assert len(missed) >= 4 and not any(event["counted"] for event in missed)
    assert all(world.status(task) == Status.REFUNDED for task in tasks)
    world.block(30)
    for index in range(4):
        assert world.serving(operator_of(index)).scale_q16 == models.SCALE_ONE
    assert [models.candidates(world.ctx, MODEL)[i].bond for i in range(4)] == bonds


def test_declaring_next_to_nothing_before_ones_time_is_over_excuses_no_miss() -> None:
    """Who picks among what it is dealt and declares itself too slow for the rest misses it all the same."""
    world = World(canaries_per_validator=0)
    world.block()
    task = world.post(temperature_q16=1 << 16)
    world.block()
    first, second, _ = world.task(task).slots
    for picky in (first, second):
        serve(world, 1, picky)
    world.block(22)
    assert [event["counted"] for event in world.of(abi.TASK_MISSED, task)] == [True, True]
    assert [world.serving(picky).missed for picky in (first, second)] == [1, 1]


# ---------------------------------------------------------------- floods of posts


@pytest.mark.parametrize("cancels", [False, True])
def test_a_flood_of_posts_delays_and_harms_nobody_and_is_refused_before_it_is_more_than_blocks_behind(cancels) -> None:
    """Each block full of somebody's posts, as many as its gas holds, for forty blocks. A post pays for the gas of all
    that it causes; while the market is behind further ones are refused, whoever's; no draw waits for gas longer than
    four blocks, no work is missed, and whoever tries on is served."""
    world = World(rate=10**10)
    flooder, user = keccak(b"flooder")[12:], keccak(b"user")[12:]
    for rich in (flooder, user):
        world.ctx.balances[rich] = 10**6 * COIN
    world.recount()
    world.block()
    room = world.params.block_gas_limit - world.params.prologue_gas
    wanted, served, flood, behind = 0, list[tuple[int, bytes]](), 0, 0
    for block in range(40):
        world.block()
        wanted += block % 8 == 0
        used = 0
        for sender in (user,) * wanted + (flooder,) * 16:
            world.ctx.gas_used = 0
            try:
                task = world.post(sender=sender, temperature_q16=1 << 16, tip=10**9)
            except Refused as refusal:
                assert refusal.code == "backlog"
                break
            used += world.ctx.gas_used
            if used > room:
                break
            if sender == user:
                served, wanted = [*served, (world.height, task)], wanted - 1
            else:
                flood += 1
                if cancels:
                    world.cancel(task, sender)
        world.ctx.gas_used = 0
        world.everyone_works()
        behind = max(behind, market_state.DRAWS.behind(world.ctx, world.height))
        assert market_state.WINDOWS.behind(world.ctx, world.height) <= 4
    assert behind <= 4
    assert flood > 40
    for _ in range(30):
        world.block()
        world.everyone_works()
    assert len(served) == 5 and all(world.status(task) == Status.SETTLED for _, task in served)
    assert not world.events(abi.TASK_MISSED) and not world.events(abi.ITEM_FAILED)
    assert POSTER not in (flooder, user)
