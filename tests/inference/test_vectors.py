"""What embed and score answer: the same bits from every executor and from the oracle, bound by T, and meaningful."""

import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import engine as engines
from inference import program as cip
from inference.batch import ALONE, RequestError
from inference.build import random_model, request, vector_request, with_known_answers
from inference.engine import Engine, ExactnessError, make_executor
from inference.kv import Segment
from inference.model import Model
from inference.reference import NumpyExecutor
from inference.sampling import log2_likelihood
from inference.tables import exp2
from inference.trace import Trace, root
from tests.inference.oracle import Oracle

KEY = bytes(range(100, 132))
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]
ENGINES = ["numpy", pytest.param("torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="no torch"))]


def model_of(kind: str, context: int = 160) -> Model:
    features = cip.KINDS[kind]
    windows = (5, 2, 9) if features.windows else ()
    rotary, group = (0, 1) if features.encoder else (12, 2)
    return random_model(cip.Shape(11, context, 24, 3, 2, 1, 12, rotary, 8, 42950, group, kind, *windows), 3, terms=2)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", sorted(cip.KINDS))
def test_every_kind_gives_the_oracles_vectors_and_roots(kind: str, engine: str) -> None:
    model = model_of(kind)
    oracle, runs = Oracle(model), Engine(make_executor(engine, model))
    for task in set(model.manifest.shape.tasks()) - {cip.GENERATE}:
        made = runs.embed(TOKENS, KEY) if task == cip.EMBED else runs.score(TOKENS, KEY)
        expected = oracle.embed(TOKENS, KEY) if task == cip.EMBED else oracle.score(TOKENS, KEY)
        assert (made.vector, made.root) == expected
        assert len(made.vector) == (24 if task == cip.EMBED else len(TOKENS) - 1)
        verdict = runs.verify_vector(task, TOKENS, made.vector, KEY)
        assert (verdict.root, verdict.bad) == (made.root, cip.NO_BAD_POSITION)


@pytest.mark.parametrize("kind", ["bert", "gemma3"])
def test_long_prompts_give_one_vector_in_chunks_of_any_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder is fed whole and attends in blocks; the others are fed in chunks."""
    engine = Engine(NumpyExecutor(model_of(kind)))
    tokens = [(7 * i * i + 3) % 11 for i in range(150)]
    made = set()
    for rows in (7, 64):
        monkeypatch.setattr(engines, "ALONE", replace(ALONE, prefill_rows_max=rows))
        monkeypatch.setattr("inference.reference.CHUNK_ROWS", rows)
        made.add(engine.embed(tokens, KEY).root)
    assert len(made) == 1


def test_an_embedding_has_unit_length_and_follows_the_mean_of_the_states() -> None:
    model = model_of("bert")
    vector = np.array(Engine(NumpyExecutor(model)).embed(TOKENS, KEY).vector) / (1 << cip.VECTOR_BITS)
    assert abs(np.linalg.norm(vector) - 1) < 1e-3
    executor = NumpyExecutor(model)
    [fed] = executor.feed([Segment(executor.new_sequence(), TOKENS, len(TOKENS))])
    mean = fed.payloads[-1][:, : 8 * 24].copy().view("<i8").mean(0)
    assert np.abs(vector - mean / np.linalg.norm(mean)).max() < 1e-3


def test_a_state_of_zeros_embeds_as_zeros() -> None:
    model = model_of("llama")
    silent = {n: t * 0 if n in ("embedding.weight", "norm.gain") else t for n, t in model.tensors.items()}
    assert Engine(NumpyExecutor(Model(model.manifest, b"", silent))).embed(TOKENS, KEY).vector == [0] * 24


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_scores_are_the_log_likelihoods_of_the_logits(kind: str) -> None:
    model = model_of(kind)
    vector = Engine(NumpyExecutor(model)).score(TOKENS, KEY).vector
    executor = NumpyExecutor(model)
    [fed] = executor.feed([Segment(executor.new_sequence(), TOKENS, 0)])
    logits = fed.logits[:-1] / (1 << cip.RESIDUAL_BITS)
    shares = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(
        1, keepdims=True
    )
    expected = shares[np.arange(len(logits)), TOKENS[1:]] / math.log(2)
    assert np.abs(np.array(vector) / 65536 - expected).max() < 0.002
    assert all(element <= 0 for element in vector)


@given(
    logits=st.lists(st.integers(-(1 << 40), 1 << 40) | st.integers(-(1 << 19), 1 << 19), min_size=1, max_size=40),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_a_likelihood_lies_within_its_bounds(logits: list[int], data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    found = log2_likelihood(np.array(logits, np.int64), token, exp2())
    assert -(1 << 30) < found <= 0
    nats = [max(-4096.0, (logit - max(logits)) / 65536) for logit in logits]
    exact = (nats[token] - math.log(sum(map(math.exp, nats)))) / math.log(2)
    assert abs(found / 65536 - exact) < 0.003 - exact * 1e-5


def test_one_logit_alone_is_certain() -> None:
    assert log2_likelihood(np.array([-77]), 0, exp2()) == 0
    assert log2_likelihood(np.zeros(1024, np.int64), 5, exp2()) == -10 << 16


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (lambda v: [*v[:2], v[2] + 1, *v[3:]], 2),
        (lambda v: [v[0] - 1, *v[1:-1], 0], 0),
        (lambda v: v[:-1], 23),
        (lambda v: [*v, 0], 24),
        (lambda v: [], 0),
    ],
)
def test_the_first_wrong_element_is_named(change, bad: int) -> None:
    engine = Engine(NumpyExecutor(model_of("bert")))
    made = engine.embed(TOKENS, KEY)
    verdict = engine.verify_vector(cip.EMBED, TOKENS, change(made.vector), KEY)
    assert (verdict.bad, verdict.root) == (bad, made.root)


def test_the_root_binds_the_key_the_task_and_every_state() -> None:
    model = model_of("llama")
    engine = Engine(NumpyExecutor(model))
    roots = {engine.embed(TOKENS, KEY).root, engine.embed(TOKENS, bytes(32)).root, engine.score(TOKENS, KEY).root}
    weight = model.tensors["layers.2.down.weight"].copy()
    weight[0, 0] += 1 if weight[0, 0] < 127 else -1
    other = Model(model.manifest, b"", {**model.tensors, "layers.2.down.weight": weight})
    roots.add(Engine(NumpyExecutor(other)).embed(TOKENS, KEY).root)
    assert len(roots) == 4


def test_leaves_of_an_encoder_lie_stage_by_stage() -> None:
    """So that whatever a leaf depends on comes before it."""
    in_order, by_stage = Trace(KEY, 2), Trace(KEY, 2, causal=False)
    for trace in (in_order, by_stage):
        for group in range(2):
            trace.add_states(group, [b"a%d" % group, b"b%d" % group, b"c%d" % group])
        trace.add_vector(b"v")
    a0, a1, b0, b1, c0, c1, vector = in_order.leaves()
    assert by_stage.leaves() == [a0, b0, c0, a1, b1, c1, vector]
    assert by_stage.root() == root(by_stage.leaves())


@pytest.mark.parametrize(
    ("kind", "task", "tokens", "said"),
    [
        ("bert", "score", TOKENS, "kind bert"),
        ("llama", "generate", TOKENS, "'generate' asks for no vector"),
        ("llama", "embed", [], "0 tokens to embed"),
        ("llama", "score", [1], "1 tokens to score, must be 2 to 160"),
        ("llama", "embed", [1] * 161, "161 tokens"),
        ("llama", "embed", [1, 11], r"prompt\[1\] is 11"),
    ],
)
def test_a_request_out_of_bounds_is_refused_with_its_value(kind: str, task: str, tokens: list[int], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Engine(NumpyExecutor(model_of(kind))).verify_vector(task, tokens, [], KEY)
    with pytest.raises(RequestError, match="trace key of 31"):
        Engine(NumpyExecutor(model_of(kind))).embed(TOKENS, KEY[:31])


def test_an_encoder_generates_nothing() -> None:
    engine = Engine(NumpyExecutor(model_of("bert")))
    for call in (lambda: engine.generate([1], 1, 0, 0, KEY, KEY), lambda: engine.verify([1], [1], 0, 0, KEY, KEY)):
        with pytest.raises(RequestError, match="kind bert"):
            call()


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_known_answers_hold_vectors_too_and_lies_are_refused(kind: str) -> None:
    model = model_of(kind)
    asks = [vector_request(cip.EMBED, TOKENS)]
    if model.manifest.shape.causal:
        asks += [vector_request(cip.SCORE, TOKENS), request(TOKENS, 5)]
    known = with_known_answers(model, asks)
    assert cip.decode_manifest(known.manifest.encode()) == known.manifest
    Engine(NumpyExecutor(known)).known_answer_test()
    scale = known.tensors["layers.0.down.scale"] ^ 1
    broken = Model(known.manifest, b"", {**known.tensors, "layers.0.down.scale": scale})
    with pytest.raises(ExactnessError, match="known answer 0, to embed, gives root"):
        Engine(NumpyExecutor(broken)).known_answer_test()
