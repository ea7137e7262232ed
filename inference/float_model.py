"""The float32 forward pass of a checkpoint, in numpy, one product's weights in memory at a time: what the integer
program is measured against, and what its rounding is calibrated on. Nothing that nodes must agree on imports this file.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from inference.checkpoint import Checkpoint

OnProduct = Callable[[str, np.ndarray], None]
"""Told a product's name and its float32 inputs [rows, width] before it is computed."""
OnLayer = Callable[[int, np.ndarray], None]
"""Told how many layers are done and the residual [rows, width]."""


def forward(
    checkpoint: Checkpoint,
    sequences: Sequence[Sequence[int]],
    on_layer: OnLayer = lambda *_: None,
    on_product: OnProduct = lambda *_: None,
) -> np.ndarray:
    """float32 states [positions of all sequences, width] before the head: normalised, or an encoder's last layer."""
    return _Pass(checkpoint, sequences, on_product).run(on_layer)


def pooled(states: np.ndarray) -> np.ndarray:
    """The embedding of one sequence's states: their mean, of unit length."""
    mean = states.mean(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


class _Pass:
    """One pass over many sequences. Rows are the positions of all of them; only attention tells them apart."""

    def __init__(self, checkpoint: Checkpoint, sequences: Sequence[Sequence[int]], on_product: OnProduct) -> None:
        self._checkpoint, self._shape, self._on_product = checkpoint, checkpoint.shape, on_product
        self._ids = np.concatenate([np.asarray(sequence, np.int64) for sequence in sequences])
        ends = np.cumsum([len(sequence) for sequence in sequences]).tolist()
        self._spans = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        self._turns: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
        if self._shape.causal:
            ropes = {False: checkpoint.rope, True: checkpoint.local_rope}
            self._turns = {local: self._angles(rope.frequencies(self._shape.rotary)) for local, rope in ropes.items()}

    def run(self, on_layer: OnLayer) -> np.ndarray:
        x = self._embed()
        layer = self._encoder_layer if self._shape.features.encoder else self._layer
        for i in range(self._shape.layers):
            x = layer(f"layers.{i}", x, self._shape.local(i))
            on_layer(i + 1, x)
        return self._norm("norm", x) if self._shape.causal else x

    def _embed(self) -> np.ndarray:
        ids, places = np.unique(self._ids, return_inverse=True)
        rows = np.concatenate([self._checkpoint.rows("embedding.weight", int(i), int(i) + 1) for i in ids])
        x = rows[places] * np.float32(self._checkpoint.embedding_scale)
        if not self._shape.features.encoder:
            return x
        longest = max(span.stop - span.start for span in self._spans)
        table = self._checkpoint.rows("position.weight", 0, longest)
        x += self._checkpoint.rows("token_type.weight", 0, 1)
        x += np.concatenate([table[: span.stop - span.start] for span in self._spans])
        return self._norm("embedding_norm", x)

    def _angles(self, frequencies: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
        longest = max(span.stop - span.start for span in self._spans)
        angle = np.arange(longest)[:, None] * np.array([float(str(frequency)) for frequency in frequencies])
        return np.cos(angle).astype(np.float32)[:, None], np.sin(angle).astype(np.float32)[:, None]

    def _layer(self, name: str, x: np.ndarray, local: bool) -> np.ndarray:
        sandwich = self._shape.features.post_norms
        mixed = self._attention(name, self._norm(f"{name}.attention_norm", x), local)
        x = x + (self._norm(f"{name}.post_attention_norm", mixed) if sandwich else mixed)
        normed = self._norm(f"{name}.mlp_norm", x)
        grown = self._mlp(name, normed)
        return x + (self._norm(f"{name}.post_mlp_norm", grown) if sandwich else grown)

    def _encoder_layer(self, name: str, x: np.ndarray, local: bool) -> np.ndarray:
        x = self._norm(f"{name}.attention_norm", x + self._attention(name, x, local))
        return self._norm(f"{name}.mlp_norm", x + self._mlp(name, x))

    def _attention(self, name: str, x: np.ndarray, local: bool) -> np.ndarray:
        shape = self._shape
        qkv = self._product(f"{name}.qkv", x).reshape(len(x), -1, shape.head_width)
        q, k, v = np.split(qkv, [shape.heads, shape.heads + shape.kv_heads], axis=1)
        if shape.qk_norm:
            q, k = (self._norm(f"{name}.{part}_norm", heads) for part, heads in (("q", q), ("k", k)))
        mixed = np.empty((len(x), shape.heads * shape.head_width), np.float32)
        for span in self._spans:
            own_q, own_k = q[span], k[span]
            if self._turns:
                own_q, own_k = (_rotate(heads, *self._turns[local]) for heads in (own_q, own_k))
            mixed[span] = self._attend(own_q, own_k, v[span], local)
        return self._product(f"{name}.out", mixed)

    def _attend(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, local: bool) -> np.ndarray:
        """Attention of one sequence: [positions, heads * width]."""
        count, shared = len(q), q.shape[1] // k.shape[1]
        k, v = (z.repeat(shared, axis=1).transpose(1, 0, 2) for z in (k, v))
        divisor = self._shape.score_divisor or self._shape.head_width
        score = q.transpose(1, 0, 2) @ k.transpose(0, 2, 1) / np.float32(math.sqrt(divisor))
        if self._shape.causal:
            behind = np.arange(count)[:, None] - np.arange(count)
            score[:, (behind < 0) | (local & (behind >= self._shape.window))] = -np.inf
        score = np.exp(score - score.max(-1, keepdims=True))
        mixed = (score / score.sum(-1, keepdims=True)) @ v
        return mixed.transpose(1, 0, 2).reshape(count, -1)

    def _mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = self._shape.hidden
        product = "gate_up" if self._shape.causal else "up"
        self._on_product(f"{name}.{product}", x)
        weight, bias = self._weights(f"{name}.{product}")
        act = np.empty((len(x), hidden), np.float32)
        for span in self._spans:  # a sequence at a time: twice the hidden width of all rows at once is large
            wide = x[span] @ weight.T + bias
            act[span] = self._activate(wide[:, :hidden])
            if self._shape.causal:
                act[span] *= wide[:, hidden:]
        return self._product(f"{name}.down", act)

    def _activate(self, x: np.ndarray) -> np.ndarray:
        table = self._shape.features.gate_table
        if table == "table.gelu":
            return x * _normal(x)
        inner = x if table == "table.sigmoid" else np.float32(2 * math.sqrt(2 / math.pi)) * (x + 0.044715 * x**3)
        with np.errstate(over="ignore"):
            return x / (1 + np.exp(-inner))

    def _product(self, name: str, x: np.ndarray) -> np.ndarray:
        self._on_product(name, x)
        weight, bias = self._weights(name)
        return x @ weight.T + bias

    def _weights(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        weight = self._checkpoint.rows(f"{name}.weight")
        if f"{name}.bias" in self._checkpoint.weights:
            return weight, self._checkpoint.rows(f"{name}.bias")
        return weight, np.zeros((), np.float32)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """RMS norm over the last axis; an encoder's is LayerNorm."""
        bias = np.zeros((), np.float32)
        if self._shape.features.encoder:
            x = x - x.mean(-1, keepdims=True)
            bias = self._checkpoint.rows(f"{name}.bias")
        mean = (x * x).mean(-1, keepdims=True)
        return x / np.sqrt(mean + np.float32(self._checkpoint.epsilon)) * self._checkpoint.rows(f"{name}.gain") + bias


def _rotate(heads: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    a, b = np.split(heads, 2, axis=-1)
    cos, sin = cos[: len(heads)], sin[: len(heads)]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _normal(x: np.ndarray) -> np.ndarray:
    """The normal distribution function, off by less than 1e-8: numpy has no erf."""
    places, values = _normal_table()
    return np.interp(x, places, values).astype(np.float32)


@cache
def _normal_table() -> tuple[np.ndarray, np.ndarray]:
    places = np.linspace(-8, 8, (1 << 16) + 1)
    return places, np.array([math.erfc(-place / math.sqrt(2)) / 2 for place in places.tolist()])
