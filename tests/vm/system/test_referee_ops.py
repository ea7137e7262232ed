"""A false element of any kind of operation is convicted on the chain, from the root down: every rule of the referee, a
leaf of several pieces, a list of several pages."""

import copy

import pytest
from referee_world import RefereeWorld, forged, hot_of

from inference.opening import trace_leaves
from inference.ops import STATE, Leaf, op_list
from inference.referee import RULES
from vm.system import abi

pytestmark = pytest.mark.slow

GENERATE, EMBED, SCORE = 0, 1, 2
ASKED = {
    ("llama", "sampled"): {"max_tokens": 2, "temperature_q16": 90_000, "top_k": 5},
    ("llama", "greedy"): {"max_tokens": 2, "temperature_q16": 0},
    ("llama", "embed"): {"kind": EMBED, "max_tokens": 0, "temperature_q16": 0},
    ("gemma3", "score"): {"kind": SCORE, "max_tokens": 0, "temperature_q16": 0},
    ("bert", "embed"): {"kind": EMBED, "max_tokens": 0, "temperature_q16": 0},
}
seen: set[str] = set()
played: set[tuple[str, str]] = set()


def convicted(world, task, leaf, target, at=0):
    """The rule of the op that was judged; the whole game is played on the chain. A lie that does not reach the leaf
    leaves a true root: then a watcher names the leaf, and the list that the accused posts is what convicts it."""
    saved = copy.copy(world.ctx.storage), copy.copy(world.ctx.balances), world.height, len(world.ctx.logs)
    case = world.answered(task, forged(world.model, leaf, target, at))
    world.revealed(case, [world.honest_says(case)] * 2)
    if case.claimed.root != case.honest.trace[-1][0]:
        number = world.challenge(task, sender=hot_of(case.verifiers[0]))
    else:
        number = world.challenge(task, case.claimed.leaves.index(leaf))
    world.block()
    view = world.play(number, world.honest_party(case), case.claimed)
    assert view.reason == abi.ENDED_REFUTED, (leaf, target)
    (judged,) = world.of(abi.JUDGED, task)
    world.ctx.storage, world.ctx.balances = saved[:2]
    world.recount()
    world.ctx.height = saved[2]
    del world.ctx.logs[saved[3] :]
    return judged["rule"], judged["op"]


@pytest.mark.parametrize("asked", ASKED, ids="-".join)
def test_a_lie_in_any_kind_of_operation_is_convicted(asked):
    world = RefereeWorld(asked[0])
    task = world.asked(**ASKED[asked])
    case = world.execution(task, world.output(task))
    leaves = trace_leaves(world.model.manifest.shape, case.task)
    states = [leaf for leaf in leaves if leaf.domain == STATE]
    others = [leaf for leaf in leaves if leaf.domain != STATE]
    for leaf in dict.fromkeys([states[0], states[-1], *others[:2], others[-1]]):
        for number, op in enumerate(op_list(case.facts, case.task, leaf)):
            if op.rule not in seen and op.rule != "nothing":
                rule, name = convicted(world, task, leaf, number, op.length - 1 if op.rule != "leaf" else 0)
                assert (rule, name) == (op.rule, op.name)
                seen.add(rule)
    played.add(asked)


def test_every_rule_was_among_them():
    if played != set(ASKED):
        pytest.skip("only when all of them were played")
    assert seen >= set(RULES) - {"nothing"} | {"leaf"}, set(RULES) - seen


def test_a_leaf_of_several_pieces_is_shown_by_its_pieces():
    world = RefereeWorld(extents=(("vocabulary", 700),))
    task = world.asked(max_tokens=1, temperature_q16=0)
    leaf = Leaf("logits", 0)
    ops = op_list(world.execution(task, world.output(task)).facts, world.execution(task, world.output(task)).task, leaf)
    assert ops[-1].length == 2
    assert convicted(world, task, leaf, len(ops) - 1) == ("leaf", "leaf")


def test_a_list_of_more_than_256_operations_is_shown_in_two_pages():
    world = RefereeWorld(extents=(("layers", 6), ("layers_per_group", 6)))
    task = world.asked(max_tokens=1, temperature_q16=0)
    execution = world.execution(task, world.output(task))
    ops = op_list(execution.facts, execution.task, Leaf(STATE, 1))
    assert len(ops) > 257
    for target in (3, 300):
        assert convicted(world, task, Leaf(STATE, 1), target)[1] == ops[target].name
