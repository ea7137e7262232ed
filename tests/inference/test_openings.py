"""Every leaf of a trace comes apart into bounded operations that a referee in plain integers recomputes: an honest
prover cannot be convicted of any of them, a lying one is convicted whichever it falsified."""

import dataclasses
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from inference import opening as openings
from inference import program as cip
from inference.build import random_model
from inference.defence import Party, _levels
from inference.engine import Engine, make_executor
from inference.model import Model
from inference.opening import (
    OPENING_BYTES_MAX,
    Execution,
    Working,
    child_place,
    judge,
    open_element,
    opening_sizes,
    page,
    page_extent,
    program_root,
    root_by_path,
    trace_leaves,
    tree_top,
)
from inference.ops import STATE, TOKEN, VECTOR, Leaf, Op, Task, facts_of, leaf_at, leaf_number, op_list
from inference.referee import RULES, InvalidOpening, recompute
from inference.reference import NumpyExecutor
from inference.witness import Worker, record, work
from primitives import merkle
from primitives.hashing import keccak
from primitives.task import words_of
from tests.inference import game

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
ENGINES = ["numpy", pytest.param("torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="no torch"))]
FEW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def shape_of(kind: str, **extents: int) -> cip.Shape:
    """A tiny program: grouped queries, a head that is no power of two, two layers a group."""
    encoder = kind == "bert"
    fields: dict[str, Any] = {
        "vocabulary": 19, "context": 24, "width": 10, "layers": 2, "heads": 2, "kv_heads": 1, "head_width": 6,
        "rotary": 0 if encoder else 4, "hidden": 9, "norm_epsilon_q32": 42950, "layers_per_group": 1 if encoder else 2,
    }  # fmt: skip
    if kind == "gemma3":
        fields |= {"window": 3, "window_pattern": 2, "score_divisor": 7}
    return cip.Shape(**fields | extents, kind=kind)


def tasks_of(shape: cip.Shape, prompt: int = 5) -> list[Task]:
    vectors = [Task(cip.EMBED, prompt)]
    if not shape.causal:
        return vectors
    hot = [Task(cip.GENERATE, prompt, 3, SEED, temperature, k) for temperature, k in ((0, 0), (90_000, 0), (90_000, 5))]
    return [*hot, *vectors, Task(cip.SCORE, prompt)]


def execute(model: Model, task: Task, engine: str = "numpy") -> tuple[Execution, bytes]:
    """What an executor did, and the trace root of the engine that answered."""
    prompt = [(7 * i * i + 3) % model.manifest.shape.vocabulary for i in range(task.prompt)]
    if task.kind == cip.GENERATE:
        answer: Any = Engine(make_executor(engine, model)).generate(
            prompt, task.output, task.temperature_q16, task.top_k, task.seed, KEY
        )
        return record(make_executor(engine, model), task, KEY, prompt, answer.tokens), answer.root
    asked = Engine(make_executor(engine, model))
    answer = asked.embed(prompt, KEY) if task.kind == cip.EMBED else asked.score(prompt, KEY)
    return record(make_executor(engine, model), task, KEY, prompt, words_of(answer.vector)), answer.root


def disputable(shape: cip.Shape, task: Task) -> list[Leaf]:
    """Every list of ops that a task has."""
    states = [leaf for leaf in trace_leaves(shape, task) if leaf.domain == STATE]
    return states + [Leaf(domain, i) for domain, count in task.lists.items() for i in range(count)]


def payload_of(working: Working) -> bytes:
    """What a list of ops says the leaf's payload is."""
    return working.vectors[-1]


class Plain(Worker):
    """Every element by the referee, none by numpy."""

    def result(self, number: int, op: Op) -> list[int]:
        return [self.element(op, e) for e in range(op.length)]


class Liar(Worker):
    """Falsifies one element and goes on from there, consistently."""

    target, at, by = 0, 0, 1

    def result(self, number: int, op: Op) -> list[int]:
        try:
            found = list(super().result(number, op))
        except InvalidOpening:  # what no execution has follows from the lie: anything will do
            found = [0] * op.length
        if number == self.target:
            limit = 1 << (8 * op.width - 1)
            lie = found[self.at] + self.by
            found[self.at] = lie if -limit <= lie < limit else found[self.at] - self.by
        return found


def lie(execution: Execution, model: Model, leaf: Leaf, target: int, at: int, by: int = 1) -> Working:
    """A liar's working and trace. The target one past the last op is the leaf itself."""
    liar = Liar(execution, model, leaf)
    liar.target, liar.at, liar.by = target, at, by
    vectors = liar.run()
    payload = bytearray(payload_of(Working(execution, leaf, vectors)))
    if target == len(liar.ops) - 1:
        payload[0] ^= 1

    def payloads(asked: Leaf) -> bytes:
        return bytes(payload) if asked == leaf else execution.payload(asked)

    e = execution
    forged = Execution(e.manifest, e.tensors, e.task, e.trace_key, e.prompt, e.output, payloads)
    return Working(forged, leaf, vectors)


def play(ours: Working, theirs: Working) -> bool:
    """The whole game, ours being the challenger: whether the defender is convicted. Every other game names the leaf,
    the rest look for it in the trace."""
    parties = [Party(each.execution, Model(each.execution.manifest, b"", {}), lambda *_, each=each: each)
               for each in (ours, theirs)]  # fmt: skip
    differ = parties[0].root != parties[1].root
    number = None if differ else parties[0].leaves.index(ours.leaf)
    return game.play(*parties, number).convicted


# Exactness


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", sorted(cip.KINDS))
def test_op_by_op_gives_every_leaf_of_the_executors_traces(kind: str, engine: str) -> None:
    model = random_model(shape_of(kind), 5)
    rules = set()
    for task in tasks_of(model.manifest.shape):
        execution, root = execute(model, task, engine)
        assert execution.statement.trace == root
        for leaf in disputable(model.manifest.shape, task)[:: 2 if leaf_count(task) > 9 else 1]:
            working = work(execution, model, leaf)
            assert payload_of(working) == execution.payload(leaf), leaf
            rules |= {op.rule for op in working.ops}
    expected = set(RULES) | {"leaf"}
    missing = {"centre"} if kind != "bert" else expected - rules
    assert expected - rules == missing


def leaf_count(task: Task) -> int:
    return task.positions


@st.composite
def programs(draw: Any) -> Model:
    """Random programs of every kind, up to saturation."""
    kind = draw(st.sampled_from(sorted(cip.KINDS)))
    kv_heads, head_width = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 5, 8, 12]))
    extents = {
        "width": draw(st.sampled_from([1, 3, 8, 12])), "hidden": draw(st.sampled_from([1, 7, 16])),
        "heads": kv_heads * draw(st.integers(1, 2)), "kv_heads": kv_heads, "head_width": head_width,
        "layers": draw(st.integers(1, 3)), "vocabulary": draw(st.integers(2, 9)),
    }  # fmt: skip
    if kind != "bert":
        extents |= {"rotary": 2 * draw(st.integers(0, head_width // 2)), "layers_per_group": draw(st.integers(1, 3))}
    spread = draw(st.sampled_from([-6, 0, 0, 8, 14, 20]))
    return random_model(shape_of(kind, **extents), draw(st.integers(0, 2**32)), spread=spread)


@given(model=programs(), data=st.data())
@FEW
def test_any_program_op_by_op_and_any_lie_in_it(model: Model, data: Any) -> None:
    """By the referee alone what the executor computed; a lie anywhere in it is found and convicted."""
    note(str(model.manifest.shape))
    shape = model.manifest.shape
    task = data.draw(st.sampled_from(tasks_of(shape, 3)))
    execution, _ = execute(model, task)
    leaf = data.draw(st.sampled_from(disputable(shape, task)))
    plain = Plain(execution, model, leaf)
    ours = Working(execution, leaf, plain.run())
    assert ours.vectors == work(execution, model, leaf).vectors
    assert payload_of(ours) == execution.payload(leaf)
    target = data.draw(st.sampled_from(range(len(ours.ops) - 1)))
    at = data.draw(st.integers(0, ours.ops[target].length - 1))
    assert play(ours, lie(execution, model, leaf, target, at, data.draw(st.sampled_from([1, -1, 77]))))


# The game


@pytest.mark.parametrize("kind", sorted(cip.KINDS))
def test_a_lie_in_any_op_of_any_leaf_is_convicted_and_honesty_never(kind: str) -> None:
    model = random_model(shape_of(kind), 7)
    shape = model.manifest.shape
    for task in tasks_of(shape):
        execution, _ = execute(model, task)
        chosen = {leaf.domain: leaf for leaf in disputable(shape, task)}
        if task.kind != cip.GENERATE or task.temperature_q16:
            chosen.pop(STATE)  # they do not depend on the task
        for leaf in chosen.values():
            ours = work(execution, model, leaf)
            root = ours.list_tree[-1][0]
            for target, op in enumerate(ours.ops):
                at = (target * 7) % op.length
                opening = open_element(ours, target, at)
                assert judge(execution.statement, root, leaf, target, at, opening), op.name
                if target % 3 == (0 if leaf.domain == STATE else target % 3):
                    theirs = lie(execution, model, leaf, target, at)
                    assert play(ours, theirs), f"{leaf} {op.name} {at}"


@pytest.mark.slow
def test_reduction_trees_of_several_levels_and_payloads_of_several_pieces() -> None:
    """4,200 inputs are 17 tiles, past one fan-in of 16; 600 logits are two pieces; a head of 300 two tiles."""
    shape = shape_of("llama", width=4200, hidden=2, vocabulary=600, layers=1, head_width=300, heads=1, rotary=2)
    model = random_model(shape, 3)
    task = Task(cip.GENERATE, 2, 1, SEED, 90_000, 300)
    execution, root = execute(model, task)
    assert execution.statement.trace == root
    for leaf, some in ((Leaf(STATE, 1), 19), (Leaf("logits", 0), 5), (Leaf(TOKEN, 0), 7)):
        ours = work(execution, model, leaf)
        for target in [*range(1, len(ours.ops) - 1, some), len(ours.ops) - 1]:
            op = ours.ops[target]
            assert play(ours, lie(execution, model, leaf, target, op.length - 1)), op.name


def test_whoever_posts_a_list_that_his_leaf_does_not_follow_from_is_convicted(small: Model) -> None:
    """All ops are true and the leaf is not: the last op is the leaf itself."""
    task = Task(cip.GENERATE, 4, 2, SEED)
    execution, _ = execute(small, task)
    for leaf in (Leaf(STATE, 3), Leaf("logits", 1), Leaf(TOKEN, 1)):
        ours = work(execution, small, leaf)
        assert play(ours, lie(execution, small, leaf, len(ours.ops) - 1, 0))


def test_a_bad_token_is_convicted_although_its_trace_is_true(small: Model) -> None:
    """An output that Sample does not give, forced, with its honest trace: the list of the token's leaf ends in another
    token, and there is no leaf that differs."""
    task = Task(cip.GENERATE, 4, 2, SEED)
    execution, _ = execute(small, task)
    forced = [(execution.output[0] + 1) % 36, execution.output[1]]
    theirs = record(NumpyExecutor(small), task, KEY, execution.prompt, forced)
    honest = work(theirs, small, Leaf(TOKEN, 0))
    assert judge_last(honest) is False
    assert judge_last(work(execution, small, Leaf(TOKEN, 0))) is True


def test_a_true_trace_under_another_answer_is_convicted(small: Model) -> None:
    """T is the honest one; the last token, or an element of the vector, is another in the answer. Nothing comes after
    it that would read it, so no later leaf tells."""
    for task in tasks_of(small.manifest.shape):
        execution, _ = execute(small, task)
        output = list(execution.output)
        if task.kind == cip.GENERATE:
            leaf = Leaf(TOKEN, task.output - 1)
            output[-1] = (output[-1] + 1) % 36
        else:
            leaf = Leaf(VECTOR, 0)
            output[0] ^= 1
        assert judge_last(work(execution, small, leaf)) is True
        e = execution
        theirs = Execution(e.manifest, e.tensors, task, KEY, e.prompt, output, e.payload)
        assert theirs.statement.trace == e.statement.trace
        assert judge_last(work(theirs, small, leaf)) is False


def judge_last(working: Working) -> bool:
    number = len(working.ops) - 1
    opening = open_element(working, number, 0)
    return judge(working.execution.statement, working.list_tree[-1][0], working.leaf, number, 0, opening)


# Hostile openings


def test_no_change_to_an_opening_of_the_truth_convicts(small: Model) -> None:
    task = Task(cip.GENERATE, 4, 2, SEED, 90_000, 5)
    execution, _ = execute(small, task)
    for leaf in (Leaf(STATE, 5), Leaf(TOKEN, 1)):
        working = work(execution, small, leaf)
        root = working.list_tree[-1][0]
        for number, op in enumerate(working.ops):
            opening = open_element(working, number, op.length - 1)
            places = sorted({0, 1, 2, 9, len(opening) - 1, *range(5 + number, len(opening), 97)})
            forged = [opening[:i] + bytes((opening[i] ^ 1 << (i % 8),)) + opening[i + 1 :] for i in places]
            for data in (*forged, opening[:-1], opening + b"\0", b"", bytes(len(opening)), bytes(20_000)):
                assert convicts(execution, root, leaf, number, op.length - 1, data) is not True, (op.name, len(data))


def convicts(execution: Execution, root: bytes, leaf: Leaf, number: int, element: int, data: bytes) -> bool | None:
    """None when the opening is refused."""
    try:
        return not judge(execution.statement, root, leaf, number, element, data)
    except InvalidOpening:
        return None


def test_addresses_that_do_not_exist_are_refused(small: Model) -> None:
    execution, _ = execute(small, Task(cip.GENERATE, 4, 2, SEED))
    leaf = Leaf(STATE, 0)
    working = work(execution, small, leaf)
    opening, root = open_element(working, 0, 0), working.list_tree[-1][0]
    assert judge(execution.statement, root, leaf, 0, 0, opening)
    for number, element in ((-1, 0), (10**6, 0), (0, -1), (0, 24), (0, 2**70)):
        with pytest.raises(InvalidOpening):
            judge(execution.statement, root, leaf, number, element, opening)
    for domain, index in ((STATE, 10), (STATE, -1), (TOKEN, 2), (VECTOR, 0), ("nothing", 0)):
        with pytest.raises(InvalidOpening):
            judge(execution.statement, root, Leaf(domain, index), 0, 0, opening)


@given(data=st.data(), wild=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_referee_is_total(data: Any, wild: bool) -> None:
    """Any integers that a slice can hold, and any at all: bytes of the op's width, or a refusal."""
    kind = data.draw(st.sampled_from(sorted(cip.KINDS)))
    shape = shape_of(kind)
    task = data.draw(st.sampled_from(tasks_of(shape)))
    leaf = data.draw(st.sampled_from(disputable(shape, task)))
    linears = {n: cip.Linear(n, o, i, 127, data.draw(st.integers(0, 63)), 1) for n, (o, i) in
               cip.linear_shapes(shape).items()}  # fmt: skip
    ops = op_list(dataclasses.replace(facts_of(random_model(shape, 1).manifest), linears=linears), task, leaf)
    op = data.draw(st.sampled_from(ops))
    element = data.draw(st.integers(0, op.length - 1))
    numbers = st.integers() if wild else st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)
    values = [data.draw(st.lists(numbers, min_size=n, max_size=n)) for _, _, n in op.reads(element)]
    if op.look is not None:
        values += [[data.draw(numbers)] for _ in op.look(element, values)]
    try:
        made = recompute(op, element, values)
    except InvalidOpening:
        return
    assert len(made) == (len(values[0]) if op.rule == "leaf" else op.width)


# Sizes and records


LARGE = [
    cip.Shape(128_256, 1 << 17, 4096, 32, 32, 8, 128, 128, 14_336, 42950, 4),
    cip.Shape(262_144, 1 << 17, 5376, 62, 32, 16, 168, 168, 21_504, 4295, 6, "gemma3", 1024, 6, 168),
    cip.Shape(151_936, 1 << 17, 8192, 40, 64, 8, 128, 128, 49_152, 4295, 8, "qwen3"),
    cip.Shape(30_522, 512, 384, 6, 12, 12, 32, 0, 1536, 4, 1, "bert"),
    cip.Shape(1 << 20, 1 << 17, 65_535, 3, 63, 21, 1040, 1040, 1 << 17, 42950, 3, "qwen2"),
]


def blank(shape: cip.Shape) -> cip.Manifest:
    """A manifest of this shape whose roots are zeros and whose products all have two terms and blocks of 64."""
    linears = tuple(cip.Linear(n, o, i, 63, 40, cip.rotation_block(i), 2)
                    for n, (o, i) in sorted(cip.linear_shapes(shape).items()))  # fmt: skip
    table = cip.tensor_table(shape, cip.two_term(linears))
    tensors = tuple(cip.Tensor(name, dtype, extent, bytes(32)) for name, (dtype, extent) in table.items())
    return cip.Manifest("blank", shape, "bytes", (), linears, 20, tensors, (), "", {})


@pytest.mark.parametrize("shape", LARGE, ids=lambda shape: f"{shape.kind}-{shape.width}")
def test_every_opening_of_a_large_model_fits_a_message(shape: cip.Shape) -> None:
    """Tiles that straddle, pieces that straddle, the longest paths: at most 16 KB each."""
    manifest, prompt = blank(shape), shape.context - 40
    tasks = tasks_of(shape, prompt)
    largest: dict[str, int] = {}
    for task in tasks:
        groups, positions = shape.groups, task.positions
        leaves = {Leaf(STATE, positions * groups - 1), Leaf(STATE, (positions - 1) * groups)}
        if task.kind != cip.EMBED and task is not tasks[0]:
            leaves = set()
        leaves |= {Leaf(domain, count - 1) for domain, count in task.lists.items()}
        for leaf in sorted(leaves):
            ops = op_list(facts_of(manifest), task, leaf)
            parts = {op.name.removeprefix("layers.").lstrip("0123456789"): number for number, op in enumerate(ops)}
            addresses = [(number, e) for number in parts.values() for e in probes(ops[number])]
            for (number, _), size in zip(addresses, opening_sizes(manifest, task, leaf, addresses), strict=True):
                largest[ops[number].rule] = max(size, largest.get(ops[number].rule, 0))
    assert {rule: size for rule, size in largest.items() if size > OPENING_BYTES_MAX} == {}


def probes(op: Op) -> list[int]:
    """Elements of an op whose slices lie in different ways across tiles and pieces."""
    n = op.length
    return sorted({e for e in (0, 255, 256, n // 2, n // 3, n // 7 * 5, n - 300, n - 1) if 0 <= e < n})


def test_a_program_root_binds_shape_products_and_tensors(small: Model) -> None:
    manifest = small.manifest
    first = manifest.linears[0]
    changed = [
        dataclasses.replace(manifest, embedding_exponent=3),
        dataclasses.replace(manifest, shape=dataclasses.replace(manifest.shape, norm_epsilon_q32=7)),
        dataclasses.replace(manifest, linears=(dataclasses.replace(first, exponent=1), *manifest.linears[1:])),
        dataclasses.replace(manifest, tensors=(dataclasses.replace(manifest.tensors[0], root=bytes(32)),
                                               *manifest.tensors[1:])),
    ]  # fmt: skip
    assert len({program_root(m) for m in (manifest, *changed)}) == 5


def test_leaves_stand_where_the_trace_has_them() -> None:
    for kind in ("llama", "bert"):
        shape = shape_of(kind)
        for task in tasks_of(shape):
            assert [leaf_number(shape, task, leaf) for leaf in trace_leaves(shape, task)] == list(
                range(len(trace_leaves(shape, task)))
            )


def test_names_and_lengths_of_ops_depend_on_no_record_of_a_product() -> None:
    """The chain counts an op's tiles before it has seen one."""
    for kind in sorted(cip.KINDS):
        manifest = random_model(shape_of(kind), 1).manifest
        two = tuple(dataclasses.replace(linear, terms=2, block=1) for linear in manifest.linears)
        known = facts_of(manifest), facts_of(dataclasses.replace(manifest, linears=two)), facts_of(
            dataclasses.replace(manifest, linears=()))  # fmt: skip
        for task in tasks_of(manifest.shape):
            for leaf in disputable(manifest.shape, task)[-3:]:
                lists = [[(op.name, op.length, op.width) for op in op_list(facts, task, leaf)] for facts in known]
                assert lists[0] == lists[1] == lists[2]
                assert all(length for _, length, _ in lists[0])


def test_a_leafs_place_leads_back_to_it() -> None:
    for kind in ("llama", "bert"):
        shape = shape_of(kind)
        for task in tasks_of(shape):
            leaves = trace_leaves(shape, task)
            assert [leaf_at(shape, task, number) for number in range(len(leaves))] == leaves
            for wrong in (-1, len(leaves)):
                with pytest.raises(ValueError, match=f"no leaf {wrong}"):
                    leaf_at(shape, task, wrong)


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 700, 65_537])
def test_the_pages_of_a_tree_follow_from_its_size(size: int) -> None:
    tree = merkle.levels([merkle.digest(bytes([i % 251, i >> 8 & 255])) for i in range(size)])
    assert tree_top(size) == len(tree) - 1
    level, index = tree_top(size), 0
    while level:
        shown = page(tree, level, index)
        assert len(shown) == page_extent(size, level, index)
        for number in {0, len(shown) // 2, len(shown) - 1}:
            below, at = child_place(level, index, number)
            assert tree[below][at] == shown[number]
            path = merkle.path(_levels(shown, keccak), number)
            assert root_by_path(shown[number], number, len(shown), path) == tree[level][index]
            for wrong in ([*path, bytes(32)], path[1:]):
                if len(wrong) != len(path):
                    with pytest.raises(InvalidOpening, match="a path of"):
                        root_by_path(shown[number], number, len(shown), wrong)
        level, index = child_place(level, index, len(shown) - 1)


def test_numpy_takes_no_part_in_what_a_chain_would_run() -> None:
    """ops, referee and opening are importable where numpy is not used, and name no float."""
    import ast
    from pathlib import Path

    for name in ("ops", "referee", "opening"):
        tree = ast.parse((Path(openings.__file__).parent / f"{name}.py").read_text())
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not imported & {"numpy", "torch"}
        assert not any(isinstance(node, ast.Constant) and isinstance(node.value, float) for node in ast.walk(tree))
        assert not any(isinstance(node, ast.Div) for node in ast.walk(tree))


