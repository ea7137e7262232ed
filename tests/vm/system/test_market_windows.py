"""The life of a task block by block: every edge of every window, on the real prologue."""

import pytest
from market_world import POSTER, STOP, World

from primitives.reasons import Reason
from primitives.task import NO_BAD_POSITION, Status
from vm.system import abi
from vm.system.market_state import SEATS


def dealt(world: World, **changes) -> tuple[bytes, tuple[bytes, ...]]:
    """Post in the next block, and its deal in the one after: the task and its three parties."""
    world.block()
    task = world.post(**changes)
    world.block()
    assert world.status(task) == Status.DEALT
    return task, world.task(task).slots


def drawn(world: World, **changes) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """As dealt, answered at once, verifiers drawn."""
    task, slots = dealt(world, **changes)
    world.block()
    assert world.submit(slots[0], task) == []
    world.block(world.delay)
    assert world.status(task) == Status.DRAWN
    return task, slots[0], world.task(task).verifiers


def revealing(world: World, **changes) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """As drawn, every verdict in (honest)."""
    task, executor, verifiers = drawn(world, **changes)
    world.block()
    for verifier in verifiers:
        assert world.verdict(verifier, task) == []
    assert world.status(task) == Status.REVEALING
    return task, executor, verifiers


@pytest.fixture
def world() -> World:
    return World(canaries_per_validator=0)


def test_the_timeline_of_an_undisturbed_task(world):
    world.block()
    h = world.height
    task = world.post()
    seen = {}
    for _ in range(10):
        world.block()
        for i in range(4):
            for duty in world.duties(world.spec.validators[i].operator):
                if not duty.first_block <= world.height <= duty.last_block:
                    continue
                operator = world.spec.validators[i].operator
                if duty.role == abi.ROLE_EXECUTE:
                    assert world.submit(operator, task) == []
                elif duty.role == abi.ROLE_AUDIT:
                    assert world.verdict(operator, task) == []
                else:
                    assert world.reveal(operator, task) == []
        seen.setdefault(world.status(task), world.height - h)
    assert world.delay in (2, 3)
    late = world.delay - 2
    assert seen == {
        Status.DEALT: 1, Status.ANSWERED: 2, Status.DRAWN: 4 + late, Status.REVEALING: 5 + late,
        Status.AGREED: 6 + late, Status.SETTLED: 10 + late,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("slot", "after_deal", "code"),
    [
        (0, 0, "too_early"),
        (0, 1, None),
        (0, 10, None),
        (0, 11, None),  # its own time has passed, but nobody else has answered
        (1, 10, "too_early"),
        (1, 11, None),
        (2, 20, "too_early"),
        (2, 21, None),
        (2, 30, None),
        (0, 30, None),
    ],
)
def test_when_a_slot_may_submit(world, slot, after_deal, code):
    task, slots = dealt(world)
    world.block(after_deal)
    assert world.submit(slots[slot], task) == ([code] if code else [])
    assert world.task(task).executor == (bytes(20) if code else slots[slot])


@pytest.mark.parametrize(("blocks", "missed"), [(10, 0), (11, 1), (20, 1), (21, 2), (30, 2)])
def test_a_slot_misses_when_its_own_time_has_passed(blocks, missed):
    world = World(canaries_per_validator=0, epoch_blocks=64)  # no turn begins the counters anew
    world.block()
    task, slots = dealt(world)
    world.block(blocks)
    assert [operator for operator, _, _ in world.misses(task)] == [world.text(slot) for slot in slots[:missed]]
    serving = [world.serving(slot) for slot in slots]
    assert [record.missed for record in serving] == [1] * missed + [0] * (3 - missed)
    assert [record.dealt for record in serving][: missed + 1] == [1] * (missed + 1)


def test_a_backup_takes_over_and_the_first_slots_in_flight_is_free_again(world):
    task, slots = dealt(world)
    assert [world.in_flight(slot) > 0 for slot in slots] == [True, False, False]
    world.block(11)
    assert [world.in_flight(slot) > 0 for slot in slots] == [False, True, False]
    assert world.submit(slots[1], task) == []
    assert not any(world.in_flight(slot) for slot in slots)
    world.finish(task)
    assert world.status(task) == Status.SETTLED
    assert world.task(task).receipt != bytes(32)
    paid = {e["operator"] for e in world.of(abi.PAID, task) if e["role"] == abi.ROLE_EXECUTE}
    assert paid == {world.text(slots[1])}


def test_the_first_valid_answer_wins(world):
    task, slots = dealt(world)
    world.block(21)
    assert world.submit(slots[2], task) == []
    assert world.submit(slots[0], task) == ["stage"]


def test_after_the_last_slot_the_asker_gets_everything_less_one_percent(world):
    task, _ = dealt(world)
    escrow = world.task(task).escrow
    before = world.ctx.balance(POSTER)
    world.block(30)
    assert world.status(task) == Status.DEALT
    world.block()
    assert world.status(task) == Status.REFUNDED
    assert world.ctx.balance(POSTER) - before == escrow - escrow // 100
    assert len(world.misses(task)) == 3
    assert not any(world.duties(v.operator) for v in world.spec.validators)


def test_a_late_answer_after_the_deadline_finds_no_task(world):
    task, slots = dealt(world)
    world.block(31)
    world.roots[task] = bytes(32)
    assert world.verdict(slots[0], task) == ["finished"]


def test_what_a_third_does_not_divide_is_the_last_slots(world):
    task, slots = dealt(world, deadline=32)
    world.block(32)
    assert len(world.misses(task)) == 3
    assert world.submit(slots[2], task) == []


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        ((), "length"),
        (range(2, 11), "length"),  # 9 of 8
        ((2, 3, 256, 4, 5, 6, 7, 8), "token"),
        ((2, STOP, 4, 5, 6, 7, 8, 9), "after_stop"),
        ((2, 3, 4), "incomplete"),
        ((2, 3, STOP), None),
        ((STOP,), None),
        (range(2, 10), None),
        ((2, 3, 4, 5, 6, 7, 8, STOP), None),
    ],
)
def test_which_answers_are_complete(world, tokens, code):
    task, slots = dealt(world)
    world.block()
    assert world.submit(slots[0], task, tokens) == ([code] if code else [])
    assert world.status(task) == (Status.DEALT if code else Status.ANSWERED)


def test_only_those_it_was_dealt_to_may_answer(world):
    task, slots = dealt(world)
    world.block()
    (other,) = [v.operator for v in world.spec.validators if v.operator not in slots]
    assert world.submit(other, task) == ["not_dealt"]


@pytest.mark.parametrize(("after", "code"), [(0, "too_early"), (1, None), (8, None), (9, "too_late")])
def test_when_a_verdict_is_accepted(world, after, code):
    task, _, verifiers = drawn(world, assurance=0)
    world.block(after)
    assert world.verdict(verifiers[0], task) == ([code] if code else [])


def test_verdicts_come_from_the_drawn_once(world):
    task, executor, verifiers = drawn(world)
    world.block()
    assert world.verdict(executor, task) == ["not_drawn"]
    assert world.verdict(verifiers[0], task) == []
    assert world.verdict(verifiers[0], task) == ["given"]


def test_an_empty_seat_is_drawn_again_and_the_given_verdict_stands(world):
    task, executor, verifiers = drawn(world)
    world.block()
    assert world.verdict(verifiers[0], task) == []
    world.block(8)  # the block after the window: the seat is lost and drawn again in the same prologue
    assert world.misses(task) == [(world.text(verifiers[1]), abi.ROLE_AUDIT, "no_verdict")]
    after = world.task(task).verifiers
    assert len(after) == 3
    assert after[2] not in (executor, *verifiers)
    assert world.verdict(verifiers[1], task) == ["too_late"]
    world.block()
    assert world.verdict(after[2], task) == []
    assert world.status(task) == Status.REVEALING
    world.block()
    assert world.reveal(executor, task) == []
    assert world.status(task) == Status.AGREED
    world.finish(task)
    paid = {e["operator"] for e in world.of(abi.PAID, task) if e["role"] == abi.ROLE_AUDIT}
    assert paid == {world.text(verifiers[0]), world.text(after[2])}


def test_with_nobody_left_to_draw_it_goes_on_with_the_verdicts_there_are(world):
    task, executor, verifiers = drawn(world)
    world.block()
    assert world.verdict(verifiers[0], task) == []
    world.block(8)
    world.block(9)  # the third party (of four validators) is silent too
    assert world.status(task) == Status.REVEALING
    world.block()
    assert world.reveal(executor, task) == []
    assert world.status(task) == Status.AGREED


def test_seats_are_redrawn_at_most_three_times():
    world = World(validators=9, canaries_per_validator=0)
    task, _, _ = drawn(world)
    rounds = []
    while world.status(task) == Status.DRAWN:
        rounds.append(len(world.task(task).verifiers))
        world.block()
    assert sorted(set(rounds)) == [2, 4, 6, 8]
    assert world.status(task) == Status.UNVERIFIED
    assert len(world.misses(task)) == 8


@pytest.mark.parametrize(
    ("who", "after", "code"),
    [
        ("executor", 0, "too_early"),
        ("executor", 1, None),
        ("executor", 8, None),
        ("executor", 9, "stage"),  # nobody opened anything: unverified
        ("verifier", 1, "too_early"),
        ("verifier", 2, "too_early"),
        ("verifier", 3, None),
        ("verifier", 8, None),
    ],
)
def test_the_executor_reveals_first_and_anyone_else_two_blocks_later(world, who, after, code):
    task, executor, verifiers = revealing(world)
    world.block(after)
    sender = executor if who == "executor" else verifiers[1]
    assert world.reveal(sender, task) == ([code] if code else [])


def test_a_reveal_that_opens_nothing_is_refused(world):
    task, executor, _ = revealing(world)
    world.block()
    assert world.reveal(executor, task, root=b"\x07" * 32) == ["opens_nothing"]
    assert world.reveal(executor, task) == []


def test_a_copied_commitment_stays_unopened_and_earns_nothing(world):
    task, executor, (honest, copier) = drawn(world)
    world.block()
    assert world.verdict(honest, task) == []
    copied = SEATS.get(world.ctx, task, b"\x00").commitment
    assert world.verdict_raw(copier, task, copied) == []
    world.block()
    assert world.reveal(executor, task) == []
    assert world.status(task) == Status.REVEALING  # one verdict is still closed
    world.block(8)
    assert world.status(task) == Status.AGREED
    assert world.misses(task) == [(world.text(copier), abi.ROLE_AUDIT, "verdict_unopened")]
    world.finish(task)
    assert world.status(task) == Status.SETTLED
    assert world.text(copier) not in {e["operator"] for e in world.of(abi.PAID, task)}
    assert world.credit(copier) == (0, 0)
    assert world.credit(honest)[1] > 0
    assert world.of(abi.RECEIPT, task)[0]["verifiers"] == (world.text(honest),)


@pytest.mark.parametrize("own_reveal", [True, False])
def test_another_root_leaves_the_task_disputed_with_both_roots(world, own_reveal):
    task, executor, (first, second) = drawn(world)
    lie, truth = world.roots[task], b"\x09" * 32
    world.block()
    assert world.verdict(first, task, truth) == []
    assert world.verdict(second, task, truth) == []
    world.block()
    if own_reveal:
        assert world.reveal(executor, task, lie) == []
    world.block(2)
    assert world.reveal(first, task, truth) == []
    view = world.task(task)
    assert view.status == Status.DISPUTED
    assert (view.other_root, view.bad) == (truth, NO_BAD_POSITION)
    assert view.executor_root == (lie if own_reveal else bytes(32))
    if not own_reveal:
        assert world.reveal(executor, task, lie) == []
        assert world.task(task).executor_root == lie
    duty = next(each for each in world.duties(first) if each.role == abi.ROLE_CHALLENGE)
    assert (duty.first_block, duty.last_block) == (world.height + 1, world.height + world.params.silence_blocks)
    world.block_until(duty.last_block)
    assert world.status(task) == Status.DISPUTED
    world.block()
    # Neither became a challenge: both are void, and cost their verifiers what a lost challenge costs.
    assert {e["verifier"] for e in world.of(abi.VERDICT_VOID, task)} == {world.text(first), world.text(second)}
    slashed = world.of(abi.SLASHED, task)
    assert {(e["operator"], e["reason"]) for e in slashed} == {
        (world.text(who), Reason.NO_CHALLENGE) for who in (first, second)
    }
    assert world.status(task) == Status.UNVERIFIED
    world.block(10)
    assert {world.text(executor)} == {e["operator"] for e in world.of(abi.PAID, task) if e["role"] == abi.ROLE_EXECUTE}
    assert world.credit(executor) == (0, 0)


def test_a_bad_position_leaves_the_task_disputed(world):
    task, executor, (first, second) = drawn(world)
    world.block()
    assert world.verdict(first, task, bad=3) == []
    assert world.verdict(second, task, bad=3) == []
    world.block()
    assert world.reveal(executor, task) == []
    assert world.status(task) == Status.REVEALING
    world.block(2)
    assert world.reveal(second, task, bad=3) == []
    view = world.task(task)
    assert (view.status, view.bad, view.other_root) == (Status.DISPUTED, 3, view.executor_root)


@pytest.mark.parametrize("assurance", [0, 1])
def test_when_nobody_opens_the_executors_commitment_nobody_vouches_for_the_answer(world, assurance):
    task, executor, verifiers = revealing(world, assurance=assurance)
    escrow, before = world.task(task).escrow, world.ctx.balance(POSTER)
    world.block(9)
    missed = {operator for operator, _, _ in world.misses(task)}
    if assurance:
        assert world.status(task) == Status.REFUNDED
        assert world.ctx.balance(POSTER) - before == escrow
        assert missed == {world.text(operator) for operator in (executor, *verifiers)}
    else:
        assert world.status(task) == Status.UNVERIFIED
        assert missed == {world.text(verifier) for verifier in verifiers}
        world.block(world.params.maturity_blocks)
        assert world.task(task).done_block
        assert world.credit(executor) == (0, 0)


def test_a_verifier_can_open_for_an_absent_executor(world):
    task, _, verifiers = revealing(world)
    world.block(3)
    assert world.reveal(verifiers[0], task) == []
    assert world.status(task) == Status.AGREED
    world.finish(task)
    reveal = [e for e in world.of(abi.PAID, task) if e["role"] == abi.ROLE_REVEAL]
    assert [e["operator"] for e in reveal] == [world.text(verifiers[0])]


@pytest.mark.parametrize(("validators", "seats"), [(1, 0), (2, 1), (3, 2), (4, 2)])
def test_with_fewer_validators_as_many_check_as_there_are(validators, seats):
    world = World(validators=validators, canaries_per_validator=0)
    task, slots = dealt(world)
    world.block()
    world.submit(slots[0], task)
    world.block(world.delay)
    assert len(world.task(task).verifiers) == seats
    if not seats:
        assert world.status(task) == Status.UNVERIFIED
    world.finish(task)
    assert world.status(task) == (Status.SETTLED if seats else Status.UNVERIFIED)
    executor_paid = [e for e in world.of(abi.PAID, task) if e["role"] == abi.ROLE_EXECUTE]
    assert executor_paid
    assert (world.credit(slots[0])[0] > 0) is bool(seats)


@pytest.mark.parametrize("assurance", [0, 1])
def test_an_answer_that_nobody_checked_is_the_askers_to_take_or_not(assurance):
    world = World(validators=2, canaries_per_validator=0)
    task, executor, _ = drawn(world, assurance=assurance)
    escrow, before = world.task(task).escrow, world.ctx.balance(POSTER)
    world.block(9)  # no verdict, nobody left
    if assurance:
        assert world.status(task) == Status.REFUNDED
        assert world.ctx.balance(POSTER) - before == escrow
        return
    assert world.status(task) == Status.UNVERIFIED
    unverified = world.height
    world.block(world.params.maturity_blocks - 1)
    assert world.task(task).done_block == 0
    world.block()
    assert world.task(task).done_block == unverified + world.params.maturity_blocks
    assert world.of(abi.TASK_SETTLED, task)[0]["status"] == Status.UNVERIFIED
    assert world.credit(executor) == (0, 0)
