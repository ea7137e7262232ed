"""Who is away, honest and in the right loses nothing while one other honest operator is there."""

import pytest
from referee_world import WATCHER, RefereeWorld, forged, hot_of
from test_referee import LIE, agreed, caught, path_in, slandered

from primitives.task import NO_BAD_POSITION, Status, execution_commitment
from vm.system import abi, referee_turns, standby
from vm.system.market_state import CONTESTS


@pytest.fixture
def world() -> RefereeWorld:
    return RefereeWorld(seed=5)


def duty_for_others(world: RefereeWorld, operator: bytes, role: int):
    """What an operator may do in another's place, if there is such a thing."""
    found = standby.all_duties(world.ctx, operator)
    return next((duty for duty in found if duty.role == role and duty.slot == abi.NO_SLOT), None)


def bystanders(world: RefereeWorld, case) -> list[bytes]:
    return [v.operator for v in world.spec.validators if v.operator not in (case.executor, *case.verifiers)]


def last_for_the_root(world: RefereeWorld, case) -> int:
    params = world.params
    return world.task(case.task).revealing_block + params.reveal_window + params.silence_blocks


def all_bonds(world: RefereeWorld) -> dict[bytes, int]:
    return {v.operator: world.bond(v.operator) for v in world.spec.validators}


def withheld(world: RefereeWorld, lies: bool = False):
    """Contradicted, and nobody has revealed the executor's root. lies: the executor did; else who contradicts."""
    task = world.asked()
    case = world.answered(task, forged(world.model, LIE, 3) if lies else None)
    first, second = case.verifiers
    said = world.honest_says(case) if lies else (b"\x07" * 32, NO_BAD_POSITION)
    assert world.verdict(first, task, *said) == []
    assert world.verdict(second, task, *(said if lies else (b"\x09" * 32, NO_BAD_POSITION))) == []
    world.block(3)
    assert world.reveal(first, task, *said) == []
    assert world.status(task) == Status.DISPUTED
    return case


def test_an_absent_executors_root_is_revealed_by_somebody_who_found_it_too(world):
    case = withheld(world)
    bonds, (other,) = all_bonds(world), bystanders(world, case)
    world.block(world.params.reveal_window)
    while (duty := duty_for_others(world, other, abi.ROLE_REVEAL)) is None:
        world.block()
    assert duty.last_block == last_for_the_root(world, case)
    assert (duty.executor, duty.commitment) == (
        case.executor,
        execution_commitment(case.task, case.executor, case.claimed.root),
    )
    world.block_until(duty.first_block)
    assert world.reveal(other, case.task, case.claimed.root) == []
    assert duty_for_others(world, other, abi.ROLE_REVEAL) is None
    world.block(world.params.silence_blocks + 2)
    assert world.bond(case.executor) == bonds[case.executor]
    assert world.bond(case.verifiers[0]) < bonds[case.verifiers[0]], "its garbage became no challenge"
    assert world.bond(other) == bonds[other]
    assert world.status(case.task) == Status.REFUNDED and world.of(abi.REVEALED, case.task)


def test_a_root_comes_in_time_in_the_last_block_of_the_silence_and_not_later(world):
    for late in (0, 1):
        case = withheld(world, lies=True)
        last = last_for_the_root(world, case)
        (owed,) = [duty for duty in world.duties(case.executor) if duty.task == case.task]
        assert (owed.role, owed.last_block) == (abi.ROLE_REVEAL, last)
        world.block_until(last + late)
        refused = world.reveal(case.executor, case.task, case.claimed.root)
        assert refused == (["stage"] if late else []), refused
        world.block(2)


def test_a_true_contradiction_whose_author_is_away_is_made_good_by_another(world):
    case = caught(world)
    (other,) = bystanders(world, case)
    bonds = all_bonds(world)
    world.block()
    assert duty_for_others(world, case.executor, abi.ROLE_CHALLENGE) is None
    while (duty := duty_for_others(world, other, abi.ROLE_CHALLENGE)) is None:
        world.block()
    began = world.task(case.task).revealing_block
    assert duty.first_block > began + world.params.verdict_window, "first it is their own to challenge"
    world.block_until(duty.first_block)
    number = world.challenge(case.task, sender=hot_of(other))
    assert duty_for_others(world, other, abi.ROLE_CHALLENGE) is None, "one is enough"
    world.block()
    world.play(number, world.honest_party(case), case.claimed)
    assert world.dispute(number).reason == abi.ENDED_REFUTED
    lost = {who for who, bond in bonds.items() if world.bond(who) < bond}
    assert lost == {case.executor}
    assert CONTESTS.count(world.ctx, b"") == 0


def test_while_a_challenge_runs_no_contradiction_is_late_and_afterwards_its_time_begins_anew(world):
    """A liar's friend files a challenge and leaves it to the clock."""
    case = caught(world)
    bonds = all_bonds(world)
    number = world.challenge(case.task)
    world.block()
    world.show(number, case.claimed, hot_of(case.executor))
    world.block(world.params.silence_blocks + 1)
    assert world.dispute(number).reason == abi.ENDED_ABANDONED
    assert (world.status(case.task), all_bonds(world)) == (Status.DISPUTED, bonds)
    (duty,) = [duty for duty in world.duties(case.verifiers[0]) if duty.role == abi.ROLE_CHALLENGE]
    assert duty.last_block == world.height + world.params.silence_blocks
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.block()
    world.play(number, world.honest_party(case), case.claimed)
    assert {who for who, bond in bonds.items() if world.bond(who) < bond} == {case.executor}


def test_who_went_away_in_its_own_challenge_pays_nothing_if_another_proves_it_right(world):
    case = caught(world)
    bonds, (other,) = all_bonds(world), bystanders(world, case)
    first = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.block()
    world.show(first, case.claimed, hot_of(case.executor))
    world.block(world.params.silence_blocks + 1)
    assert world.dispute(first).reason == abi.ENDED_ABANDONED
    assert all_bonds(world) == bonds
    assert not [duty for duty in world.duties(case.verifiers[0]) if duty.role == abi.ROLE_CHALLENGE]
    world.block_until(duty_for_others(world, other, abi.ROLE_CHALLENGE).first_block)
    second = world.challenge(case.task, sender=hot_of(other))
    world.block()
    world.play(second, world.honest_party(case), case.claimed)
    assert world.dispute(second).reason == abi.ENDED_REFUTED
    assert {who for who, bond in bonds.items() if world.bond(who) < bond} == {case.executor}


def test_blocks_with_a_full_lane_are_no_part_of_the_time_for_a_challenge(world):
    case = slandered(world)
    liar = case.verifiers[0]
    (duty,) = [duty for duty in world.duties(liar) if duty.role == abi.ROLE_CHALLENGE]
    before = world.bond(liar)
    for _ in range(5):
        referee_turns.note_message(world.ctx, world.params.dispute_lane_gas)
        world.block()
    world.block_until(duty.last_block + 5)
    assert world.bond(liar) == before
    world.block()
    assert world.bond(liar) < before


def test_a_silent_defence_is_everybodys_who_serves_the_model_in_the_last_third(world):
    case = agreed(world)
    number = world.challenge(case.task, 2)
    world.block()
    view = world.dispute(number)
    (other,) = bystanders(world, case)
    drawn = duty_for_others(world, case.verifiers[0], abi.ROLE_DEFEND)
    anybody = duty_for_others(world, other, abi.ROLE_DEFEND)
    half, third = view.last_block - view.defender_left // 2, view.last_block - view.defender_left // 3
    assert drawn.first_block == half < third <= anybody.first_block < view.last_block == anybody.last_block
    assert duty_for_others(world, case.executor, abi.ROLE_DEFEND) is None
    world.block_until(anybody.first_block)
    party = world.honest_party(case)
    bond, from_stake = world.send(abi.STAND_IN_BOND, number, hot_of(other), sender=hot_of(other))
    assert not from_stake
    world.show(number, party, hot_of(other), bond)
    world.block()
    assert duty_for_others(world, other, abi.ROLE_DEFEND) is None, "the challenger's turn"
    working = party.working(2)
    path = path_in(working.list_tree, 41)
    world.send(abi.CHOOSE, number, 41, bytes(working.roots[41]), path, sender=WATCHER)
    assert duty_for_others(world, other, abi.ROLE_DEFEND).first_block == world.height + 1, "who began goes on at once"
