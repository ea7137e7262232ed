"""A referee input made to overflow: an executor commits the largest element that an op can hold (or the least), and an
accomplice has every op that reads it recomputed on chain. Whatever that gives, it is a judgement or a refusal."""

from collections.abc import Iterator

import pytest
from referee_world import RefereeWorld, forged, hot_of
from test_referee import LIE

from inference.defence import Party
from inference.opening import open_element
from inference.ops import Op, leaf_number, op_list
from inference.referee import InvalidOpening
from primitives import merkle
from primitives.task import NO_BAD_POSITION, Status
from vm.system import abi
from vm.system.context import Refused

MOVES_MAX = 12


def readers(ops: list[Op]) -> Iterator[tuple[int, int]]:
    """(op, an op that it reads), the first of every rule."""
    seen = set()
    for number, op in enumerate(ops[:-1]):
        sources = [part.source for part in op.reads(0) if isinstance(part.source, int)]
        if sources and op.rule not in seen:
            seen.add(op.rule)
            yield number, sources[0]


def world_ops(world: RefereeWorld) -> list[Op]:
    task = world.asked()
    execution = world.execution(task, world.output(task))
    return list(op_list(execution.facts, execution.task, LIE))


OPS = world_ops(RefereeWorld())
CASES = list(readers(OPS))


@pytest.mark.parametrize(("target", "source"), CASES, ids=[OPS[target].rule for target, _ in CASES])
def test_what_reads_the_largest_number_there_is_ends_in_a_judgement_or_a_refusal(target: int, source: int) -> None:
    world = RefereeWorld(silence_blocks=8)
    task, width = world.asked(), OPS[source].width
    extreme = ((1 << (8 * width - 1)) - 1) * (-1) ** target
    case = world.answered(task, forged(world.model, LIE, source, by=extreme))
    world.revealed(case, [(case.claimed.root, NO_BAD_POSITION)] * 2)
    assert world.status(task) == Status.AGREED, "all who were drawn are accomplices"
    shape = world.model.manifest.shape
    leaf = leaf_number(shape, case.claimed.execution.task, LIE)
    number = world.challenge(task, leaf)
    world.block()
    descend(world, number, case.claimed, target, hot_of(case.executor))
    assert world.dispute(number).state == abi.DISPUTE_OPEN
    working = case.claimed.working(leaf)
    said = None
    for element in (0, OPS[target].length - 1):
        try:
            opening = open_element(working, target, element)
            world.send(abi.OPEN, number, element, opening, sender=world.dispute(number).challenger)
            said = world.of(abi.JUDGED, task)[0]["holds"]
            break
        except (Refused, InvalidOpening) as refusal:
            assert isinstance(refusal, InvalidOpening) or refusal.code in ("invalid_opening", "element")
    if said is None:
        world.block(world.params.dispute_clock_blocks + 1)
    else:
        world.block()
    assert world.dispute(number).reason == {
        None: abi.ENDED_ABANDONED, True: abi.ENDED_HELD, False: abi.ENDED_REFUTED
    }[said]  # fmt: skip
    world.check()


def test_whoever_recomputes_the_truth_convicts_the_number_where_it_stands() -> None:
    world = RefereeWorld()
    source = CASES[0][1]
    task = world.asked()
    extreme = (1 << (8 * OPS[source].width - 1)) - 1
    case = world.answered(task, forged(world.model, LIE, source, by=extreme))
    world.revealed(case, [world.honest_says(case)] * 2)
    number = world.challenge(task, sender=hot_of(case.verifiers[0]))
    world.block()
    assert world.play(number, world.honest_party(case), case.claimed).reason == abi.ENDED_REFUTED
    assert world.of(abi.JUDGED, task)[0]["op"] == OPS[source].name


def descend(world: RefereeWorld, number: int, party: Party, target: int, accused: bytes) -> None:
    """Both sides lead to that op, until its opening is due."""
    for _ in range(MOVES_MAX):
        view = world.dispute(number)
        if view.turn == abi.TURN_DEFENDER:
            world.show(number, party, accused)
        elif view.state == abi.DISPUTE_OPEN:
            return
        elif view.state == abi.DISPUTE_LIST:
            working = party.working(view.leaf)
            path = merkle.path(working.list_tree, target)
            world.send(abi.CHOOSE, number, target, working.roots[target], path, sender=view.challenger)
        else:
            choice = party.child(world.games(number), 0)
            world.send(abi.CHOOSE, number, 0, choice.child, list(choice.path), sender=view.challenger)
        world.block()
