"""What the executor of CUDA devices computes, by Triton's interpreter: run by test_cuda_engine.py in a process of its
own, whose environment tells Triton to interpret before anything imports it. A token takes seconds: all is tiny.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from bench import gpu_checks
from inference import cuda_engine, torch_engine
from inference import program as cip
from inference.build import random_model, request, with_known_answers
from inference.cuda_engine import CudaExecutor
from inference.engine import Engine
from inference.kv import PAGE, Segment
from inference.model import Model
from inference.reference import NumpyExecutor

FEW = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
FLOAT64 = cuda_engine.PRODUCTS[-1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are exact or not used, whichever they are: here one that needs no interpreting. No keys are shared
    out, and recordings are filled up to fewer rows."""
    monkeypatch.setattr(cuda_engine, "RECORDED_ROWS_LEAST", 1)
    monkeypatch.setattr(cuda_engine, "PRODUCTS", (FLOAT64,))
    monkeypatch.setattr(cuda_engine, "SPLITS", ())


def shape_of(kind: str, **changes: int) -> cip.Shape:
    plain = cip.Shape(11, 20, 24, 2, 2, 1, 12, 12, 40, 42950, 1, kind)
    if cip.KINDS[kind].windows:
        plain = dataclasses.replace(plain, window=3, window_pattern=2, score_divisor=9)
    return dataclasses.replace(plain, **changes)


def run(executor: Any, chunks: list[list[int]]) -> tuple[bytes, list[bytes]]:
    """Bytes of all logits and of each group's payloads, fed chunk by chunk."""
    sequence, logits, payloads = executor.new_sequence(), [], []
    for chunk in chunks:
        [(rows, states)] = executor.feed([Segment(sequence, chunk, 0)])
        logits.append(rows)
        payloads.append(states)
    sequence.free()
    groups = zip(*payloads, strict=True)
    return np.concatenate(logits).tobytes(), [np.concatenate(group).tobytes() for group in groups]


def assert_same(model: Model, chunks: list[list[int]]) -> None:
    """Fed in pieces, the bits are those of the reference fed whole."""
    whole = run(NumpyExecutor(model), [[token for chunk in chunks for token in chunk]])
    assert run(CudaExecutor(model, "cpu"), chunks) == whole, (model.manifest.shape, chunks)


@pytest.mark.parametrize(("kind", "spread"), [("llama", 0), ("qwen2", 20), ("qwen3", 0), ("gemma3", 20)])
def test_programs_of_every_kind_with_an_order(kind: str, spread: int) -> None:
    """Ordinary ones, and some that saturate everywhere: a pass of two rows, then a step."""
    assert_same(random_model(shape_of(kind), 5, terms=2, spread=spread), [[3, 1, 4], [1]])


@st.composite
def shapes(draw: Any) -> cip.Shape:
    """Widths past a tile, odd heads, partial rotation, grouped queries, layers in incomplete groups."""
    kv_heads, head_width = draw(st.integers(1, 2)), draw(st.sampled_from([1, 5, 6, 8, 33, 64]))
    kind = draw(st.sampled_from(["llama", "qwen2", "qwen3", "gemma3"]))
    return shape_of(
        kind, width=draw(st.sampled_from([1, 3, 50, 64, 130])), layers=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 3)), kv_heads=kv_heads, head_width=head_width,
        rotary=2 * draw(st.integers(0, head_width // 2)), hidden=draw(st.sampled_from([1, 7, 40, 1041, 2050])),
        norm_epsilon_q32=draw(st.sampled_from([1, 42950, cip.EPSILON_MAX])), layers_per_group=draw(st.integers(1, 2)),
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in gpu_checks.CHECKS if name != "product"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_kernels_are_the_references_operations(name: str, seed: int) -> None:
    """Random extents and extreme values of each; products are below."""
    gpu_checks.CHECKS[name](np.random.default_rng(seed), "cpu")


def test_a_difference_names_operation_and_element() -> None:
    expected = np.array([[1, 2], [3, 4]])
    gpu_checks.compare("norm", "q", expected, torch.tensor([[1, 2], [3, 4]]), "width 2")
    with pytest.raises(gpu_checks.Difference, match=r"norm: q\[1, 0\] is 7, the reference gives 3"):
        gpu_checks.compare("norm", "q", expected, torch.tensor([[1, 2], [7, 4]]), "width 2")


@given(shape=shapes(), seed=st.integers(0, 2**32), spread=st.sampled_from([-6, 0, 8, 14, 30]),
       bound=st.sampled_from([127, 63, 1]))  # fmt: skip
@FEW
def test_programs_of_random_shapes(shape: cip.Shape, seed: int, spread: int, bound: int) -> None:
    note(str(shape))
    assert_same(random_model(shape, seed, bound=bound, spread=spread), [[2, 7], [1]])


def test_more_pages_than_one_shared_out_among_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past two pages keys are shared out, in a pass and in a step; a window begins in the middle of a page. What is
    before lies in the pool already, as the reference says."""
    monkeypatch.setattr(cuda_engine, "SPLITS", ((16, 4),))
    shape = shape_of("gemma3", context=140, window=70, width=8, hidden=8, head_width=4, rotary=4)
    model = random_model(shape, 3)
    tokens, known = [(7 * i * i + 3) % 11 for i in range(2 * PAGE + 2)], 2 * PAGE - 1
    logits, payloads = run(NumpyExecutor(model), [tokens])
    executor = CudaExecutor(model, "cpu")
    sequence = executor.new_sequence()
    sequence.extend(known)
    for layer, payload in enumerate(payloads):
        rows = np.frombuffer(payload, np.uint8).reshape(len(tokens), -1)
        values, scales = rows[:, 64 : 64 + 8], rows[:, 64 + 8 :]
        for position in range(known):
            at = layer, sequence.pages[position // PAGE], slice(None), position % PAGE
            executor._store.values[at] = torch.from_numpy(values[position].copy().view(np.int8).reshape(2, 4))
            executor._store.scales[at] = torch.from_numpy(scales[position].copy().view(np.int32))
    found = [executor.feed([Segment(sequence, part, 0)])[0] for part in (tokens[known:-1], tokens[-1:])]
    assert np.concatenate([fed.logits for fed in found]).tobytes() == logits[-3 * 8 * 11 :]
    for layer, payload in enumerate(payloads):
        ends = np.concatenate([fed.payloads[layer] for fed in found]).tobytes()
        assert ends == payload[-len(ends) :]


def test_a_recorded_step_gives_what_a_pass_gives_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's static inputs, its rows that fill up and what an earlier run left in them change nothing: three
    sequences of different lengths that come and go in buckets of two and four, against a pass without steps."""
    model = random_model(shape_of("llama", layers=1), 9)
    stepped, reference = CudaExecutor(model, "cpu", pages=4), NumpyExecutor(model, pages=4)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    ours, theirs = ([executor.new_sequence() for _ in prompts] for executor in (stepped, reference))

    def feed(executor: Any, sequences: list[Any], who: list[int], tokens: list[list[int]]) -> list[tuple[bytes, bytes]]:
        fed = executor.feed([Segment(sequences[i], part, 0) for i, part in zip(who, tokens, strict=True)])
        return [(logits.tobytes(), payloads[0].tobytes()) for logits, payloads in fed]

    assert feed(stepped, ours, [0, 1, 2], prompts) == feed(reference, theirs, [0, 1, 2], prompts)
    for who in ([2, 0], [1], [0, 1, 2]):
        tokens = [[(3 * i + len(who)) % 11] for i in who]
        assert feed(stepped, ours, who, tokens) == feed(reference, theirs, who, tokens)
    assert sorted(form.rows for form in stepped._recordings) == [1, 2, 4, 8]
    monkeypatch.setattr(cuda_engine, "RECORDED_ROWS_MAX", 0)
    assert feed(stepped, ours, [0, 1, 2], [[1], [2], [3]]) == feed(reference, theirs, [0, 1, 2], [[1], [2], [3]])


def test_a_fork_does_not_see_what_its_original_goes_on_to_write() -> None:
    model = random_model(shape_of("llama", layers=1), 9)
    executor = CudaExecutor(model, "cpu")
    [(expected, _)] = NumpyExecutor(model).feed([Segment(NumpyExecutor(model).new_sequence(), [1, 2, 3], 2)])
    original = executor.new_sequence()
    executor.feed([Segment(original, [1, 2], 2)])
    fork = original.fork(2)
    executor.feed([Segment(original, [9], 1)])
    [(logits, _)] = executor.feed([Segment(fork, [3], 0)])
    assert logits.tobytes() == expected.tobytes()


def test_known_answers_are_given() -> None:
    model = with_known_answers(random_model(shape_of("llama", layers=1), 9), [request([1, 2], 2)])
    Engine(CudaExecutor(model, "cpu")).known_answer_test()


@pytest.mark.parametrize("product", [p for p in cuda_engine.PRODUCTS if p is not FLOAT64], ids=lambda p: p.name)
def test_every_product_is_exact_or_not_used(product: cuda_engine.Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's are exact wherever they run; int8 is where the CPU's instructions do not saturate. Rows, inputs and
    outputs that fill no tile."""
    monkeypatch.setattr(torch_engine, "PROBE_INPUTS", 160)
    exact = torch_engine.is_exact(product.backend, "cpu")
    assert exact or product.name == "int8"
    if exact:
        dice = torch.Generator().manual_seed(5)
        q, weight = (torch.randint(-127, 128, (rows, 208), generator=dice).to(torch.int8) for rows in (33, 72))
        found = product.multiply(q, weight, 33)[:33]
        assert torch.equal(found.long(), q.long() @ weight.t().long())
