"""Disputes decided by recomputing one operation: a false root is convicted of whatever it falsified, an honest one of
nothing; who pays, and what becomes of the task."""

from referee_world import RefereeWorld, forged, hot_of

from inference.ops import Leaf
from primitives.task import Status
from vm.system import abi

LIE = Leaf("state", 2)


def caught(world, leaf=LIE, target=3, **changes):
    """A task answered with one false element; both verifiers say otherwise."""
    task = world.asked(**changes)
    case = world.answered(task, forged(world.model, leaf, target))
    world.revealed(case, [world.honest_says(case)] * 2)
    assert world.status(task) == Status.DISPUTED
    return case


def test_a_false_element_is_found_from_the_root_down_and_the_executor_pays():
    world = RefereeWorld()
    case = caught(world)
    first, second = case.verifiers
    before = {who: world.bond(who) for who in (case.executor, first, second)}
    number = world.challenge(case.task, sender=hot_of(first))
    assert world.task(case.task).disputes == 1
    world.block()
    view = world.play(number, world.honest_party(case), case.claimed)
    assert view.reason == abi.ENDED_REFUTED
    end = world.ended(number)
    assert end["winner"] == world.text(first) and end["loser"] == world.text(case.executor)
    assert before[case.executor] - world.bond(case.executor) == end["lostWei"] == 10**18
    assert world.bond(first) == before[first]
    task = world.task(case.task)
    assert (task.status, task.attempt, task.disputes) == (Status.REFUTED, 1, 0)
    world.block()
    world.check()
