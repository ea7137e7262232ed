"""T binds every wide state, logit and token of an execution under its key."""

import dataclasses
import hashlib

import numpy as np
import pytest

from inference import program as cip
from inference.engine import Engine
from inference.kv import Segment
from inference.model import Model
from inference.reference import NumpyExecutor, Wide
from inference.trace import Trace, root

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
PROMPT = [3, 14, 15, 9, 26]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def answer_of(model: Model, key: bytes = KEY) -> tuple[list[int], bytes]:
    answer = Engine(NumpyExecutor(model)).generate(PROMPT, 6, 0, 0, SEED, key)
    return answer.tokens, answer.root


@pytest.mark.parametrize("count", range(1, 10))
def test_the_root_pairs_and_promotes(count: int) -> None:
    def plain(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        split = 1 << (len(leaves) - 1).bit_length() - 1  # promoting odd nodes is RFC 6962's split
        return sha(b"\1" + plain(leaves[:split]) + plain(leaves[split:]))

    leaves = [sha(bytes([i])) for i in range(count)]
    assert root(leaves) == plain(leaves)


def test_leaves_are_the_bytes_of_the_format() -> None:
    trace = Trace(KEY, 2)
    for group in range(2):
        trace.add_states(group, [b"a%d" % group, b"b%d" % group])
    trace.add_output(b"logits", 7)
    leaves = [
        sha(b"\0" + b"labora/state\0\0\0\0" + KEY + index.to_bytes(8, "big") + payload)
        for index, payload in enumerate([b"a0", b"a1", b"b0", b"b1"])
    ]
    leaves.append(sha(b"\0" + b"labora/logits\0\0\0" + KEY + bytes(8) + b"logits"))
    leaves.append(sha(b"\0" + b"labora/token\0\0\0\0" + KEY + bytes(8) + b"\7\0\0\0"))
    assert trace.leaves() == leaves
    assert trace.root() == root(leaves)


def test_a_long_payload_is_hashed_as_the_root_of_its_pieces() -> None:
    payload = bytes(range(256)) * 33
    trace = Trace(KEY, 1)
    trace.add_states(0, [payload])
    first, second, third = (sha(b"\2" + payload[begin : begin + 4096]) for begin in (0, 4096, 8192))
    top = sha(b"\1" + sha(b"\1" + first + second) + third)
    assert trace.leaves() == [sha(b"\0" + b"labora/state\0\0\0\0" + KEY + bytes(8) + top)]


def test_the_reference_hashes_residual_then_keys_and_values(small: Model) -> None:
    """One position's payload of a group: int64 residual, then per layer int8 heads and one scale word a head."""
    executor, shape = NumpyExecutor(small), small.manifest.shape
    [(_, payloads)] = executor.feed([Segment(executor.new_sequence(), PROMPT[:4], 4)])
    per_layer = 2 * shape.kv_heads * (shape.head_width + 4)
    assert [p.shape for p in payloads] == [(4, 8 * shape.width + 2 * per_layer), (4, 8 * shape.width + per_layer)]
    words = payloads[1][:, -8 * shape.kv_heads :].copy().view("<i4")
    assert ((words & 0xFFFF) <= 1 << 15).all()
    assert ((words & 0xFFFF) > 1 << 14).all()
    assert (words >> 16 <= 41).all()


def test_another_key_is_another_root_of_the_same_tokens(small: Model) -> None:
    tokens, first = answer_of(small)
    again, second = answer_of(small, bytes(32))
    assert tokens == again
    assert first != second


@pytest.mark.parametrize("name", ["layers.0.qkv", "layers.1.out", "layers.2.gate_up", "layers.2.down", "head"])
def test_one_weight_changed_by_one_changes_the_root(small: Model, name: str) -> None:
    weight = small.tensors[f"{name}.weight"].copy()
    row, column = np.argwhere(np.abs(weight) < 127)[0]
    weight[row, column] += 1
    forged = dataclasses.replace(small, tensors={**small.tensors, f"{name}.weight": weight})
    assert answer_of(forged)[1] != answer_of(small)[1]


def test_a_skipped_layer_changes_the_root_and_is_told_from_an_honest_answer(small: Model) -> None:
    class Lazy(NumpyExecutor):
        def _mlp(self, x: Wide, layer: int) -> float:
            return x.bound if layer == 1 else super()._mlp(x, layer)

    lazy = Engine(Lazy(small)).generate(PROMPT, 6, 0, 0, SEED, KEY)
    verdict = Engine(NumpyExecutor(small)).verify(PROMPT, lazy.tokens, 0, 0, SEED, KEY)
    assert verdict.root != lazy.root


def test_the_first_wrong_token_is_named_by_its_absolute_position(small: Model) -> None:
    engine = Engine(NumpyExecutor(small))
    for temperature, top_k in ((0, 0), (1 << 16, 7)):
        answer = engine.generate(PROMPT, 8, temperature, top_k, SEED, KEY)
        assert engine.verify(PROMPT, answer.tokens, temperature, top_k, SEED, KEY).bad == cip.NO_BAD_POSITION
        for wrong in range(len(answer.tokens)):
            forged = list(answer.tokens)
            forged[wrong] = (forged[wrong] + 1) % small.manifest.shape.vocabulary
            verdict = engine.verify(PROMPT, forged, temperature, top_k, SEED, KEY)
            assert verdict.bad == len(PROMPT) + wrong
            assert verdict.root != answer.root
