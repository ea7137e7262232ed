"""The same bits everywhere: two executors written apart, any chunking, decode or teacher-forced, ordinary or absurd
magnitudes. And a third executor in Python's unbounded integers, oracle.py, which shows that nothing overflows."""

import dataclasses
import functools
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from inference import engine as engines
from inference import program as cip
from inference.batch import ALONE
from inference.build import random_model
from inference.engine import Engine, make_executor
from inference.kv import Segment
from inference.model import Model
from inference.reference import NumpyExecutor
from tests.inference import oracle

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
ENGINES = [pytest.param("numpy"), pytest.param("torch", marks=needs_torch)]


@st.composite
def shapes(draw: Any) -> cip.Shape:
    """Small programs of every kind and awkward extent: odd head sizes, partial rotation, grouped queries, K past one
    tile, windows shorter than the sequence."""
    kind = draw(st.sampled_from(sorted(cip.KINDS)))
    encoder, windows = cip.KINDS[kind].encoder, cip.KINDS[kind].windows
    kv_heads, head_width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5, 6, 8, 12, 20, 33, 64, 96, 128]))
    return cip.Shape(
        vocabulary=draw(st.integers(2, 70)),
        context=20,
        width=draw(st.sampled_from([1, 3, 8, 24, 50, 64, 192, 1100])),
        layers=draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_width=head_width,
        rotary=0 if encoder else 2 * draw(st.integers(0, head_width // 2)),
        hidden=draw(st.sampled_from([1, 7, 40, 128, 1041, 1300])),
        norm_epsilon_q32=draw(st.sampled_from([1, 42950, cip.EPSILON_MAX])),
        layers_per_group=1 if encoder else draw(st.integers(1, 3)),
        kind=kind,
        window=draw(st.integers(1, 9)) if windows else 0,
        window_pattern=draw(st.integers(1, 4)) if windows else 0,
        score_divisor=draw(st.integers(1, 300)) if windows else 0,
    )


@st.composite
def models(draw: Any) -> Model:
    """Random programs; a spread of 12 and more drives residuals and products into saturation."""
    shape, seed = draw(shapes()), draw(st.integers(0, 2**32))
    bound, terms = draw(st.sampled_from([(127, 1), (63, 1), (1, 1), (127, 2), (63, 2)]))
    spread = draw(st.sampled_from([-6, 0, 0, 0, 8, 14, 20, 30]))
    return random_model(shape, seed, bound=bound, spread=spread, terms=terms)


MANY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def run(executor: Any, chunks: list[list[int]]) -> tuple[np.ndarray, list[bytes]]:
    """Logits of all rows and each group's payload bytes, fed chunk by chunk."""
    sequence = executor.new_sequence()
    logits, payloads = [], [b""] * executor.model.manifest.shape.groups
    for chunk in chunks:
        [(rows, states)] = executor.feed([Segment(sequence, chunk, 0)])
        logits.append(rows)
        payloads = [old + new.tobytes() for old, new in zip(payloads, states, strict=True)]
    sequence.free()
    return np.concatenate(logits), payloads


def tokens_of(model: Model, count: int = 9) -> list[int]:
    return [(7 * i * i + 3) % model.manifest.shape.vocabulary for i in range(count)]


def assert_same(one: tuple[np.ndarray, list[bytes]], other: tuple[np.ndarray, list[bytes]]) -> None:
    assert np.array_equal(one[0], other[0])
    assert one[1] == other[1]


@needs_torch
@given(model=models())
@MANY
def test_both_executors_agree_and_no_chunking_changes_a_bit(model: Model) -> None:
    note(str(model.manifest.shape))
    tokens = tokens_of(model)
    whole, torch_executor = run(NumpyExecutor(model), [tokens]), make_executor("torch", model)
    assert_same(whole, run(torch_executor, [tokens]))
    if model.manifest.shape.causal:
        assert_same(whole, run(NumpyExecutor(model), [[token] for token in tokens]))
        for chunks in ([[token] for token in tokens], [tokens[:4], tokens[4:5], tokens[5:]]):
            assert_same(whole, run(torch_executor, chunks))


@given(
    shape=shapes(), seed=st.integers(0, 99), spread=st.sampled_from([-6, 0, 10, 20, 30]), terms=st.sampled_from([1, 2])
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_reference_is_its_definition_in_unbounded_integers(
    shape: cip.Shape, seed: int, spread: int, terms: int
) -> None:
    small = {"width": min(shape.width, 24), "hidden": min(shape.hidden, 40), "vocabulary": min(shape.vocabulary, 8)}
    model = random_model(dataclasses.replace(shape, **small), seed, spread=spread, terms=terms)
    tokens = tokens_of(model, 4)
    logits, payloads = run(NumpyExecutor(model), [tokens])
    expected = oracle.run(model, tokens)
    assert logits.tolist() == expected[0]
    assert payloads == expected[1]


def shape_of(kind: str, layers: int = 2) -> cip.Shape:
    """A small shape of a kind, its windows shorter than what tokens_of gives."""
    features = cip.KINDS[kind]
    plain = cip.Shape(11, 20, 24, layers, 2, 1, 12, 0 if features.encoder else 12, 8, 42950, 1, kind)
    return dataclasses.replace(plain, window=5, window_pattern=2, score_divisor=9) if features.windows else plain


@needs_torch
@pytest.mark.parametrize("kind", sorted(cip.KINDS))
def test_every_tensor_takes_part_in_the_bits(kind: str) -> None:
    """Each of them changed is another model: nothing is left out by both executors."""
    model = random_model(shape_of(kind), 3, terms=2)
    tokens = tokens_of(model)
    executors = (NumpyExecutor, functools.partial(make_executor, "torch"))
    whole = run(NumpyExecutor(model), [tokens])
    for name, tensor in model.tensors.items():
        changed = Model(model.manifest, model.model_id, {**model.tensors, name: np.flip(tensor).copy()})
        one, other = (run(make(changed), [tokens]) for make in executors)
        assert_same(one, other)
        assert not np.array_equal(one[0], whole[0]) or one[1] != whole[1], name


@pytest.mark.parametrize("name", ENGINES)
def test_a_window_is_what_the_last_positions_are_alone(name: str) -> None:
    """With one local layer, a position sees the last five: a sequence with another beginning ends in the same bits."""
    model = random_model(shape_of("gemma3", layers=1), 3)
    executor = make_executor(name, model)
    tokens = tokens_of(model, 12)
    logits = run(executor, [tokens])[0]
    assert np.array_equal(run(executor, [[1, *tokens[1:7]], tokens[7:]])[0][5:], logits[5:])
    assert not np.array_equal(run(executor, [[1, *tokens[1:]]])[0][4], logits[4])


@pytest.mark.parametrize("name", ENGINES)
def test_an_encoder_attends_to_what_follows_and_never_to_other_sequences(name: str) -> None:
    model = random_model(dataclasses.replace(shape_of("bert"), context=160), 3)
    executor = make_executor(name, model)
    tokens = tokens_of(model, 150)
    whole = run(executor, [tokens])[1]
    changed = run(executor, [[*tokens[:-1], (tokens[-1] + 1) % 11]])[1]
    first_row = 8 * 24 + 2 * (12 + 4)
    assert whole[0][:first_row] == changed[0][:first_row]
    assert whole[1][:first_row] != changed[1][:first_row]
    one, other = executor.new_sequence(), executor.new_sequence()
    both = executor.feed([Segment(other, tokens[:7], 7), Segment(one, tokens, 150)])
    assert [payload.tobytes() for payload in both[1].payloads] == whole


@pytest.mark.parametrize("kind", ENGINES)
def test_more_keys_than_one_exact_tile(kind: str) -> None:
    """Past 512 keys the weighted values are summed in tiles; decode and prefill still agree."""
    shape = cip.Shape(11, 600, 8, 1, 2, 1, 4, 4, 8, 42950, 1)
    model = random_model(shape, 3)
    tokens = tokens_of(model, 560)
    whole = run(NumpyExecutor(model), [tokens])
    executor = make_executor(kind, model)
    assert_same(whole, run(executor, [tokens[:511], *([token] for token in tokens[511:515]), tokens[515:]]))


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("bound", [127, 63, 1])
def test_every_product_is_exact_with_all_operands_at_their_bounds(kind: str, bound: int) -> None:
    shape = cip.Shape(5, 8, 1040, 1, 1, 1, 8, 8, 4200, 42950, 1)
    executor = make_executor(kind, random_model(shape, 1, bound=bound))
    for name in ("layers.0.qkv", "layers.0.down"):
        for weight_sign in (1, -1):
            for input_sign in (1, -1):
                found, exact = executor.product_extremes(name, weight_sign, input_sign)
                assert found == exact


@pytest.mark.parametrize("kind", ENGINES)
def test_generating_and_verifying_give_one_root(kind: str, small: Model) -> None:
    reference, engine = Engine(NumpyExecutor(small)), Engine(make_executor(kind, small))
    prompt = tokens_of(small, 30)
    for temperature, top_k in ((0, 0), (1 << 16, 0), (45875, 5), (8 << 16, 36)):
        how = (temperature, top_k, SEED, KEY)
        answer, expected = engine.generate(prompt, 40, *how), reference.generate(prompt, 40, *how)
        assert (answer.tokens, answer.root) == (expected.tokens, expected.root)
        verdict = engine.verify(prompt, answer.tokens, *how)
        assert (verdict.root, verdict.bad) == (answer.root, cip.NO_BAD_POSITION)


def test_chunks_of_any_size_give_one_root(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = set()
    for rows in (1, 2, 7, 64):
        monkeypatch.setattr(engines, "ALONE", dataclasses.replace(ALONE, prefill_rows_max=rows))
        roots.add(Engine(NumpyExecutor(small)).verify(tokens_of(small, 30), tokens_of(small, 50), 0, 0, SEED, KEY).root)
    assert len(roots) == 1
