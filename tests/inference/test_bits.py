"""The same bits everywhere: two executors written apart, any chunking, decode or teacher-forced, ordinary or absurd
magnitudes. And a third executor in Python's unbounded integers, which shows that nothing overflows."""

import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from inference import engine as engines
from inference import program as cip
from inference.build import random_model
from inference.engine import Engine, make_executor
from inference.kv import Segment
from inference.model import Model
from inference.reference import NumpyExecutor

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
KINDS = [pytest.param("numpy"), pytest.param("torch", marks=needs_torch)]


@st.composite
def shapes(draw: Any) -> cip.Shape:
    """Small programs of every awkward extent: odd head sizes, partial rotation, grouped queries, K past one tile."""
    kv_heads, head_width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5, 6, 8, 12, 20, 33, 64, 96, 128]))
    return cip.Shape(
        vocabulary=draw(st.integers(2, 70)),
        context=20,
        width=draw(st.sampled_from([1, 3, 8, 24, 50, 64, 192, 1100])),
        layers=draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_width=head_width,
        rotary=2 * draw(st.integers(0, head_width // 2)),
        hidden=draw(st.sampled_from([1, 7, 40, 128, 1041, 1300])),
        norm_epsilon_q32=draw(st.sampled_from([1, 42950, cip.EPSILON_MAX])),
        layers_per_group=draw(st.integers(1, 3)),
        kind=draw(st.sampled_from(["llama", "qwen2", "qwen3"])),
    )


@st.composite
def models(draw: Any) -> Model:
    """Random programs; a spread of 12 and more drives residuals and products into saturation."""
    shape, seed = draw(shapes()), draw(st.integers(0, 2**32))
    bound = draw(st.sampled_from([127, 63, 1]))
    return random_model(shape, seed, bound=bound, spread=draw(st.sampled_from([-6, 0, 0, 0, 8, 14, 20, 30])))


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
    whole = run(NumpyExecutor(model), [tokens])
    assert_same(whole, run(NumpyExecutor(model), [[token] for token in tokens]))
    torch_executor = make_executor("torch", model)
    for chunks in ([tokens], [[token] for token in tokens], [tokens[:4], tokens[4:5], tokens[5:]]):
        assert_same(whole, run(torch_executor, chunks))


@given(shape=shapes(), seed=st.integers(0, 99), spread=st.sampled_from([-6, 0, 10, 20, 30]))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_reference_is_its_definition_in_unbounded_integers(shape: cip.Shape, seed: int, spread: int) -> None:
    small = {"width": min(shape.width, 24), "hidden": min(shape.hidden, 40), "vocabulary": min(shape.vocabulary, 8)}
    fields = {name: getattr(shape, name) for name in cip.Shape.__slots__} | small
    model = random_model(cip.Shape(**fields), seed, spread=spread)
    tokens = tokens_of(model, 4)
    logits, payloads = run(NumpyExecutor(model), [tokens])
    residuals, expected = Unbounded(model).run(tokens)
    assert logits.tolist() == expected
    width = 8 * model.manifest.shape.width
    rows = np.frombuffer(payloads[-1], np.uint8).reshape(len(tokens), -1)[:, :width]
    assert rows.copy().view("<i8").tolist() == residuals


@needs_torch
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("name", [".bias", "k_norm.gain"])
def test_biases_and_head_norms_take_part_in_the_bits(kind: str, name: str) -> None:
    """One of them changed by its smallest visible step is another model: nothing is left out by both executors."""
    model = random_model(cip.Shape(11, 20, 24, 1, 2, 1, 12, 12, 8, 42950, 1, kind), 3)
    tensors = {n: t + 4096 if n.endswith(name) else t for n, t in model.tensors.items()}
    changed = Model(model.manifest, model.model_id, tensors)
    whole, other = (run(NumpyExecutor(m), [tokens_of(m)]) for m in (model, changed))
    assert np.array_equal(whole[0], other[0]) == (not any(n.endswith(name) for n in tensors))
    assert_same(other, run(make_executor("torch", changed), [tokens_of(changed)]))


@pytest.mark.parametrize("kind", KINDS)
def test_more_keys_than_one_exact_tile(kind: str) -> None:
    """Past 512 keys the weighted values are summed in tiles; decode and prefill still agree."""
    shape = cip.Shape(11, 600, 8, 1, 2, 1, 4, 4, 8, 42950, 1)
    model = random_model(shape, 3)
    tokens = tokens_of(model, 560)
    whole = run(NumpyExecutor(model), [tokens])
    executor = make_executor(kind, model)
    assert_same(whole, run(executor, [tokens[:511], *([token] for token in tokens[511:515]), tokens[515:]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", [127, 63, 1])
def test_every_product_is_exact_with_all_operands_at_their_bounds(kind: str, bound: int) -> None:
    shape = cip.Shape(5, 8, 1040, 1, 1, 1, 8, 8, 4200, 42950, 1)
    executor = make_executor(kind, random_model(shape, 1, bound=bound))
    for name in ("layers.0.qkv", "layers.0.down"):
        for weight_sign in (1, -1):
            for input_sign in (1, -1):
                found, exact = executor.product_extremes(name, weight_sign, input_sign)
                assert found == exact


@pytest.mark.parametrize("kind", KINDS)
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
    for rows in (1, 2, 7, 64, 1000):
        monkeypatch.setattr(engines, "CHUNK_ROWS", rows)
        roots.add(Engine(NumpyExecutor(small)).verify(tokens_of(small, 30), tokens_of(small, 50), 0, 0, SEED, KEY).root)
    assert len(roots) == 1


class Unbounded:
    """The program once more, from docs/inference.md, one row and one number at a time, in Python's integers. Every
    product is asserted to fit int64 and every rotated value float64's exact range."""

    def __init__(self, model: Model) -> None:
        self.m, self.s = model.manifest, model.manifest.shape
        self.t = {name: tensor.tolist() for name, tensor in model.tensors.items()}
        self.keys: list[list[Any]] = [[] for _ in range(self.s.layers)]

    def run(self, tokens: list[int]) -> tuple[list[list[int]], list[list[int]]]:
        residuals, logits = [], []
        for position, token in enumerate(tokens):
            scale = self.t["embedding.scale"][token]
            x = [(q * scale << 16) >> self.m.embedding_exponent for q in self.t["embedding.weight"][token]]
            for layer in range(self.s.layers):
                x = self.attention(x, layer, position)
                x = self.mlp(x, layer)
            residuals.append(x)
            logits.append(self.linear("head", self.norm(x, "norm.gain"), 26))
        return residuals, logits

    def norm(self, x: list[int], gain: str) -> list[int]:
        y, bits = window(x)
        mean = sum(fits(v * v) for v in y) // len(x)
        epsilon, up = self.s.norm_epsilon_q32, 2 * (22 - bits)
        mean = fits(mean + (epsilon << up if up >= 0 else epsilon >> -up))
        reciprocal = (1 << 40) // max(1, math.isqrt(mean))
        return [fits((fits(v * reciprocal) >> 26) * g) for v, g in zip(y, self.t[gain], strict=True)]

    def linear(self, name: str, wide: list[int], fraction: int) -> list[int]:
        linear = next(item for item in self.m.linears if item.name == name)
        q, top, bits = quantise(rotate(wide, linear.block))
        shift = min(max(fraction + linear.exponent - 1 - bits, 0), 63)
        rows = zip(self.t[f"{name}.weight"], self.t[f"{name}.scale"], strict=True)
        return [
            clamp(fits(sum(a * w for a, w in zip(q, row, strict=True)) * top * scale) >> shift, 1 << 40)
            for row, scale in rows
        ]

    def rope(self, head: list[int], position: int) -> list[int]:
        half = self.s.rotary // 2
        out = list(head)
        for i in range(half):
            c, s, a, b = self.t["table.cos"][position][i], self.t["table.sin"][position][i], head[i], head[i + half]
            out[i], out[i + half] = fits(a * c - b * s) >> 14, fits(b * c + a * s) >> 14
        return out

    def attention(self, x: list[int], layer: int, position: int) -> list[int]:
        s = self.s
        qkv = self.linear(f"layers.{layer}.qkv", self.norm(x, f"layers.{layer}.attention_norm.gain"), 26)
        if s.qkv_bias:
            qkv = [clamp(a + b, 1 << 40) for a, b in zip(qkv, self.t[f"layers.{layer}.qkv.bias"], strict=True)]
        heads = [qkv[i : i + s.head_width] for i in range(0, len(qkv), s.head_width)]
        if s.qk_norm:
            for h in range(s.heads + s.kv_heads):
                gain = f"layers.{layer}.{'q' if h < s.heads else 'k'}_norm.gain"
                heads[h] = [v >> 10 for v in self.norm(heads[h], gain)]
        block = cip.rotation_block(s.head_width)
        turned = [rotate(self.rope(head, position), block) for head in heads[: s.heads + s.kv_heads]]
        keys, values = turned[s.heads :], heads[s.heads + s.kv_heads :]
        self.keys[layer].append([(quantise(k), quantise(v)) for k, v in zip(keys, values, strict=True)])
        wide: list[int] = []
        for h in range(s.heads):
            past = [entry[h // (s.heads // s.kv_heads)] for entry in self.keys[layer]]
            wide += self.mix(quantise(turned[h]), past)
        out = self.linear(f"layers.{layer}.out", wide, 14)
        return [clamp(a + b, 1 << 40) for a, b in zip(x, out, strict=True)]

    def mix(self, query: Any, past: list[Any]) -> list[int]:
        (q, q_top, q_bits), (mantissa, exponent) = query, cip.score_scale(self.s.head_width)
        scores = []
        for (k, k_top, k_bits), _ in past:
            dot = sum(a * b for a, b in zip(q, k, strict=True))
            shift = min(max(38 + exponent - q_bits - k_bits, 0), 63)
            scores.append(fits(dot * k_top * ((q_top * mantissa) >> 8)) >> shift)
        below = [fits(max(scores) - score) for score in scores]
        e = [self.t["table.exp2"][(b & 0xFFFF) >> 4] >> min(b >> 16, 31) for b in below]
        v_bits_max = max(v_bits for _, (_, _, v_bits) in past)
        weights = [
            fits(p * v_top) >> min(v_bits_max - v_bits, 63) for p, (_, (_, v_top, v_bits)) in zip(e, past, strict=True)
        ]
        narrow = max(max(weights).bit_length() - 15, 0)
        mass = sum(e)
        reciprocal = (1 << 43) // (mass >> (mass.bit_length() - 22))
        shift = min(max(38 + mass.bit_length() - narrow - v_bits_max, 0), 63)
        return [
            fits(sum((w >> narrow) * v[0][i] for w, (_, v) in zip(weights, past, strict=True)) * reciprocal) >> shift
            for i in range(self.s.head_width)
        ]

    def mlp(self, x: list[int], layer: int) -> list[int]:
        both = self.linear(f"layers.{layer}.gate_up", self.norm(x, f"layers.{layer}.mlp_norm.gain"), 26)
        wide = []
        for gate, up in zip(both[: self.s.hidden], both[self.s.hidden :], strict=True):
            sigmoid = self.t["table.sigmoid"][min(max((gate >> 7) + 8192, 0), 16383)]
            act = clamp(fits(gate * sigmoid) >> 16, 1 << 31)
            wide.append(fits(act * clamp(up, 1 << 31)) >> 16)
        out = self.linear(f"layers.{layer}.down", wide, 16)
        return [clamp(a + b, 1 << 40) for a, b in zip(x, out, strict=True)]


def fits(value: int) -> int:
    assert -(2**63) <= value < 2**63, f"{value} overflows int64"
    return value


def clamp(value: int, limit: int) -> int:
    return min(max(value, -limit), limit)


def window(row: list[int]) -> tuple[list[int], int]:
    bits = max(abs(v) for v in row).bit_length()
    assert bits <= 53
    return [fits(v << 22 >> bits) if bits < 22 else v >> (bits - 22) for v in row], bits


def quantise(row: list[int]) -> tuple[list[int], int, int]:
    y, bits = window(row)
    top = (((max(abs(v) for v in row) << 22) >> bits) >> 7) + 1
    q = [(fits(v * ((127 << 23) // top) + (1 << 29))) >> 30 for v in y]
    assert all(-127 <= v <= 127 for v in q)
    return q, top, bits


def rotate(row: list[int], block: int) -> list[int]:
    out = []
    for start in range(0, len(row), block):
        part = row[start : start + block]
        for i in range(block):
            total = sum(-v if (i & j).bit_count() % 2 else v for j, v in enumerate(part))
            assert abs(total) < 2**53
            out.append(total)
    return out
