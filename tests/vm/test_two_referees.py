"""The referee in Solidity, written from docs/openings.md, finds what the native one finds on every opening of its
rules, honest and false, and it refuses what the native one refuses."""


from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from inference import program as cip
from inference.build import random_model
from inference.opening import Judgement, Working, examine, open_element
from inference.ops import LOGITS, STATE, TOKEN, Leaf, Task
from inference.referee import InvalidOpening
from inference.witness import work
from primitives.hashing import keccak
from tests.inference.test_openings import FEW, SEED, disputable, execute, lie, programs, shape_of, tasks_of
from tests.vm.pure_evm import run
from vm.system import second_referee
from vm.system.second_referee import GAS, RULES

INVALID = keccak(b"InvalidOpening()")[:4]
seen: dict[str, int] = {}


def asked(working: Working, number: int, element: int, opening: bytes, judged: Judgement) -> bool | None:
    """What the second referee says; None when it refuses the opening. Notes the gas that the rule took."""
    statement, root = working.execution.statement, working.list_tree[-1][0]
    words = statement.task.answer(working.execution.manifest.shape)
    data = second_referee.call_data(statement, words, root, judged, number, element, opening)
    succeeded, answer, used = run(second_referee.code(), data, GAS)
    assert used < GAS, "it did not run out"
    if not succeeded:
        assert answer == INVALID, answer.hex()
        return None
    seen[judged.op.rule] = max(seen.get(judged.op.rule, 0), used)
    return bool(int.from_bytes(answer, "big"))


def native(working: Working, number: int, element: int, opening: bytes) -> Judgement | None:
    try:
        return examine(
            working.execution.statement, working.list_tree[-1][0], working.leaf, number, element, opening
        )  # fmt: skip
    except InvalidOpening:
        return None


def both(working: Working, number: int, element: int) -> bool | None:
    """What both say of an opening, which is the same; None when the native one refuses what it holds."""
    opening = open_element(working, number, element)
    judged = native(working, number, element, opening)
    if judged is None:
        return None
    assert asked(working, number, element, opening, judged) == judged.holds, (working.ops[number], element)
    return judged.holds


def places(working: Working) -> list[tuple[int, int]]:
    """An element of every op whose rule is the second referee's."""
    return [(n, (7 * n + 5) % op.length) for n, op in enumerate(working.ops) if op.rule in RULES]


@pytest.mark.parametrize("kind", ["bert", "gemma3", "llama"])
def test_what_is_honest_holds_for_both_and_a_lie_for_neither(kind: str) -> None:
    model = random_model(shape_of(kind), 7)
    shape = model.manifest.shape
    rules, lies = set(), 0
    for task in tasks_of(shape):
        execution, _ = execute(model, task)
        leaves = disputable(shape, task)
        for leaf in dict.fromkeys([leaves[0], *{leaf.domain: leaf for leaf in leaves}.values()]):
            if leaf.domain == STATE and (task.kind != cip.GENERATE or task.temperature_q16) and shape.causal:
                continue  # they do not depend on the task
            ours = work(execution, model, leaf)
            for count, (number, element) in enumerate(places(ours)):
                assert both(ours, number, element) is True
                rules.add(ours.ops[number].rule)
                if count % 6 == 0:
                    lies += 1
                    assert both(lie(execution, model, leaf, number, element), number, element) is False
    missing = {"rank", "ranked", "digit", "choose", "equal", "mass", "scale", "target", "hit", "found", "sums"}
    assert RULES - rules <= (missing if kind == "bert" else set()), RULES - rules
    assert lies > 3


@given(model=programs(), data=st.data())
@FEW
def test_any_program_and_any_lie_in_it(model: Any, data: Any) -> None:
    """Up to saturation, and after a lie everything that follows from it: nonsense that one of them calls invalid the
    native one, which is asked first, calls invalid too."""
    note(str(model.manifest.shape))
    shape = model.manifest.shape
    task = data.draw(st.sampled_from(tasks_of(shape, 3)))
    execution, _ = execute(model, task)
    leaf = data.draw(st.sampled_from(disputable(shape, task)))
    ours = work(execution, model, leaf)
    target = data.draw(st.sampled_from(range(len(ours.ops) - 1)))
    element = data.draw(st.integers(0, ours.ops[target].length - 1))
    theirs = lie(execution, model, leaf, target, element, data.draw(st.sampled_from([1, -77])))
    for number, at in data.draw(st.permutations(places(ours)))[:12]:
        assert both(ours, number, at) is True
        both(theirs, number, at)


@settings(deadline=None)
@given(st.data())
def test_an_opening_that_was_tampered_with_is_refused_by_both(data: Any) -> None:
    working = data.draw(st.sampled_from(_some()))
    number, element = data.draw(st.sampled_from(places(working)))
    opening = open_element(working, number, element)
    judged = native(working, number, element, opening)
    assert judged is not None
    where = data.draw(st.integers(0, len(opening) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    changed = bytearray(opening)
    changed[where] ^= bit
    for bad in (bytes(changed), opening[:where], opening + b"\0", bytes(len(opening))):
        found = native(working, number, element, bad)
        assert found is None or found.holds is False or bad == bytes(changed)
        again = asked(working, number, element, bad, judged)
        assert (again is None) == (found is None), f"byte {where} of {len(opening)}"


_MADE: list[Working] = []


def _some() -> list[Working]:
    if not _MADE:
        model = random_model(shape_of("llama"), 11)
        for temperature, leaves in ((90_000, (Leaf(STATE, 4), Leaf(TOKEN, 1))), (0, (Leaf(TOKEN, 0), Leaf(LOGITS, 1)))):
            execution, _ = execute(model, Task(cip.GENERATE, 4, 2, SEED, temperature, 5 if temperature else 0))
            _MADE.extend(work(execution, model, leaf) for leaf in leaves)
    return _MADE


@pytest.mark.slow
def test_whole_tiles_take_less_gas_than_a_message_allows() -> None:
    """Rows of several tiles, so that every slice has its 256 elements; the figures stand in docs/openings.md."""
    shape = shape_of("llama", width=600, hidden=520, vocabulary=600, layers=1, head_width=300, heads=1, rotary=2)
    model = random_model(shape, 3)
    for temperature, k in ((90_000, 300), (0, 0)):
        execution, _ = execute(model, Task(cip.GENERATE, 2, 1, SEED, temperature, k))
        leaves = [Leaf(TOKEN, 0)] if not temperature else [Leaf(STATE, 1), Leaf(LOGITS, 0), Leaf(TOKEN, 0)]
        for leaf in leaves:
            ours = work(execution, model, leaf)
            for number, element in places(ours):
                op = ours.ops[number]
                assert both(ours, number, min(511, op.length - 1) if leaf.domain == TOKEN else element) is True
    print(dict(sorted(seen.items())))
    assert set(seen) == RULES and max(seen.values()) < GAS * 4 // 5
