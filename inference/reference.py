"""The numpy executor: every operation of the canonical integer program in the plainest form that is still quick. This
file is the specification in code; docs/inference.md explains each line's widths.

All values are int64 with arithmetic right shifts and floor division. Floats appear only as carriers of integers that
are proven exact: float32 products of at most 2^24, the float64 rotation below 2^53. Knows no sampling, no trace keys
and no clock.
"""

import math
from collections.abc import Mapping
from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np

from inference import program as cip
from inference.kv import PAGE, Fed, Pool, Segment, Sequence, default_pages, extend_all
from inference.model import Model

CHUNK_ROWS = 64  # positions of a sequence fed at once: bounds the scores' memory to heads * 64 * context
_MASKED = -(1 << 62)  # below every score, and far enough from the int64 edge to subtract


class NumpyExecutor:
    """Runs one model over a pool of `pages` pages of keys and values. Many sequences go in one pass."""

    name = "numpy"

    def __init__(self, model: Model, pages: int | None = None) -> None:
        self.model, self.shape = model, model.manifest.shape
        tensors = model.tensors
        self._products = {linear.name: _Product(linear, tensors) for linear in model.manifest.linears}
        self._gains = {n: t.astype(np.int64) for n, t in tensors.items() if n.endswith(".gain")}
        self._norm_biases = {n: t.astype(np.int64) for n, t in tensors.items() if n.endswith("norm.bias")}
        normed_layers = self.shape.layers if self.shape.qk_norm else 0
        self._head_gains = [self._gains_of_heads(layer) for layer in range(normed_layers)]
        self._embedding = tensors["embedding.weight"]
        self._embedding_scale = tensors["embedding.scale"].astype(np.int64)
        self._exp2 = tensors["table.exp2"].astype(np.int64)
        self._gate = tensors[self.shape.features.gate_table].astype(np.int64)
        # int16, widened where they meet int64.
        self._turns, self._local_turns = (
            (tensors.get(f"table.{where}cos"), tensors.get(f"table.{where}sin")) for where in ("", "local_")
        )
        self._head_rotation = _blocks(hadamard(cip.rotation_block(self.shape.head_width)), self.shape.head_width)
        self._score_scale = cip.score_scale(self.shape.head_width, self.shape.score_divisor)
        self._store = _Store(self.shape, default_pages(self.shape) if pages is None else pages)
        self.pool = Pool(self._store.pages, self._store.copy_page)

    def new_sequence(self, capacity: int = 0) -> Sequence:
        """An empty sequence; pages for `capacity` positions are taken at once, more as it grows. Raises
        PoolExhausted."""
        return Sequence(self.pool, capacity)

    def feed(self, segments: Items[Segment]) -> list[Fed]:
        """Append tokens to sequences, all in one pass. Raises PoolExhausted before anything is changed."""
        s, starts = self.shape, extend_all(self.pool, segments)
        batch = _Batch.of(segments, starts)
        ids = np.concatenate([np.asarray(segment.tokens, np.int64) for segment in segments])
        x = self._embed(ids, batch.positions)
        payloads = []
        for first in range(0, s.layers, s.layers_per_group):
            entering, tiles = x, list[np.ndarray]()
            for layer in range(first, min(first + s.layers_per_group, s.layers)):
                x = self._attention(x, layer, batch, tiles)
                x = self._mlp(x, layer)
            payloads.append(np.concatenate([_octets(x if s.causal else entering), *tiles], axis=1))
        if not s.causal:
            assert not any(starts), "a sequence without order is fed whole"
            payloads.append(_octets(x))
            return [Fed(np.zeros((0, s.vocabulary), np.int64), [payload[rows] for payload in payloads])
                    for rows in batch.rows]  # fmt: skip
        wanted = [rows.start + segment.logits_from for rows, segment in zip(batch.rows, segments, strict=True)]
        picked = np.concatenate([np.arange(first, rows.stop) for first, rows in zip(wanted, batch.rows, strict=True)])
        logits = np.zeros((0, s.vocabulary), np.int64)
        if len(picked):
            logits = self._products["head"](self._norm(x[picked], "norm.gain"), cip.NORM_BITS + cip.GAIN_BITS)
        fed, begin = [], 0
        for first, rows in zip(wanted, batch.rows, strict=True):
            end = begin + rows.stop - first
            fed.append(Fed(logits[begin:end], [payload[rows] for payload in payloads]))
            begin = end
        return fed

    def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
        """(computed, expected) of one product with every operand at its bound, for the startup test."""
        product = self._products[name]
        q = np.full((1, product.inputs), input_sign * cip.ACTIVATION_MAX, np.float32)
        w = np.full((1, product.inputs), weight_sign * product.bound, np.float32)
        exact = weight_sign * input_sign * cip.ACTIVATION_MAX * product.bound * product.inputs
        return int(exact_product(q, w, product.tile)[0, 0]), exact

    def _embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        scaled = self._embedding[ids].astype(np.int64) * self._embedding_scale[ids][:, None]
        x = (scaled << cip.RESIDUAL_BITS) >> self.model.manifest.embedding_exponent
        if self.shape.causal:
            return x
        return self._layer_norm(x + self.model.tensors["position.embedding"][positions], "embedding_norm")

    def _norm(self, x: np.ndarray, gain: str) -> np.ndarray:
        """RMS norm of Q16 rows, then the gain: Q26."""
        return (self._rms_row(x) if len(x) == 1 else self._rms(x)) * self._gains[gain]

    def _wide_norm(self, x: np.ndarray, gain: str) -> np.ndarray:
        """The norm back in Q16."""
        return self._norm(x, gain) >> cip.HEAD_NORM_SHIFT

    def _layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """LayerNorm of Q16 rows, in Q16."""
        mean = x.sum(axis=1, keepdims=True) // x.shape[1]
        return self._wide_norm(x - mean, f"{name}.gain") + self._norm_biases[f"{name}.bias"]

    def _sublayer_input(self, x: np.ndarray, norm: str) -> tuple[np.ndarray, int]:
        """What a sub-layer's first product reads, and its fraction bits. An encoder's residual is normed already."""
        if not self.shape.causal:
            return x, cip.RESIDUAL_BITS
        return self._norm(x, f"{norm}.gain"), cip.NORM_BITS + cip.GAIN_BITS

    def _add(self, x: np.ndarray, update: np.ndarray, layer: int, part: str) -> np.ndarray:
        """The residual with what a sub-layer ('attention' or 'mlp') gave."""
        if not self.shape.causal:
            return self._layer_norm(saturate(x + update), f"layers.{layer}.{part}_norm")
        if self.shape.features.post_norms:
            update = self._wide_norm(update, f"layers.{layer}.post_{part}_norm.gain")
        return saturate(x + update)

    def _rms(self, x: np.ndarray) -> np.ndarray:
        """Q16 rows over their root mean square: Q14. The root is over normalised rows, so no square passes 2^44."""
        y, bits = normalise(x)
        mean = np.einsum("ij,ij->i", y, y) // x.shape[1]
        epsilon = np.int64(self.shape.norm_epsilon_q32)
        exponent = 2 * (cip.WINDOW_BITS - bits)
        mean += (epsilon << np.maximum(exponent, 0)) >> np.maximum(-exponent, 0)
        reciprocal = (1 << 40) // np.maximum(integer_sqrt(mean), 1)
        return (y * reciprocal[:, None]) >> (40 - cip.NORM_BITS)

    def _rms_row(self, x: np.ndarray) -> np.ndarray:
        """_rms of one row, its scale in Python's integers: a third of decoding's time was numpy calls on scalars."""
        left = cip.WINDOW_BITS - int(np.abs(x).max()).bit_length()
        y = x << left if left >= 0 else x >> -left
        mean = int(np.dot(y[0], y[0])) // x.shape[1]
        epsilon = self.shape.norm_epsilon_q32
        mean += epsilon << 2 * left if left >= 0 else epsilon >> -2 * left
        reciprocal = (1 << 40) // max(math.isqrt(mean), 1)
        return (y * reciprocal) >> (40 - cip.NORM_BITS)

    def _gains_of_heads(self, layer: int) -> np.ndarray:
        """Gains of the query heads, then of the key heads: [heads + key heads, head width]."""
        q, k = (self._gains[f"layers.{layer}.{part}_norm.gain"] for part in "qk")
        return np.stack([q] * self.shape.heads + [k] * self.shape.kv_heads)

    def _norm_heads(self, heads: np.ndarray, layer: int) -> np.ndarray:
        """The norm over each query and key head, back in Q16."""
        unit = self._rms(heads.reshape(-1, self.shape.head_width)).reshape(heads.shape)
        return (unit * self._head_gains[layer]) >> cip.HEAD_NORM_SHIFT

    def _attention(self, x: np.ndarray, layer: int, batch: "_Batch", tiles: list[np.ndarray]) -> np.ndarray:
        s, rows = self.shape, len(x)
        qkv = self._products[f"layers.{layer}.qkv"](*self._sublayer_input(x, f"layers.{layer}.attention_norm"))
        qkv = qkv.reshape(rows, s.heads + 2 * s.kv_heads, s.head_width)
        turned = qkv[:, : s.heads + s.kv_heads]
        if s.qk_norm:
            turned = self._norm_heads(turned, layer)
        if s.rotary:
            turned = self._rope(turned, batch.positions, self._local_turns if s.local(layer) else self._turns)
        turned = (turned.astype(np.float64) @ self._head_rotation).astype(np.int64)
        q, top, bits = quantise(np.concatenate([turned, qkv[:, s.heads + s.kv_heads :]], axis=1))
        own, stored = slice(s.heads), slice(s.heads, None)
        tiles.append(_octets(q[:, stored].astype("<i1")))
        tiles.append(_octets((top[:, stored] + (bits[:, stored] << 16)).astype("<i4")))
        self._store.write(layer, batch, q[:, stored], top[:, stored], bits[:, stored])
        wide = np.empty((rows, s.heads * s.head_width), np.int64)
        for segment, start, sequence in zip(batch.rows, batch.starts, batch.sequences, strict=True):
            kv = self._store.read(layer, sequence)
            for first in range(segment.start, segment.stop, CHUNK_ROWS):
                block = slice(first, min(first + CHUNK_ROWS, segment.stop))
                own_rows = (q[block, own], top[block, own], bits[block, own])
                wide[block] = self._mix(*own_rows, kv, start + first - segment.start, s.local(layer))
        update = self._products[f"layers.{layer}.out"](wide, cip.ATTENTION_BITS)
        return self._add(x, update, layer, "attention")

    def _rope(self, heads: np.ndarray, positions: np.ndarray, turns: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Rotate pairs (i, i + rotary / 2) of each head by the position's angle; the rest of the head passes."""
        half = self.shape.rotary // 2
        cos, sin = (table[positions][:, None] for table in turns)
        a, b = heads[..., :half], heads[..., half : 2 * half]
        turned = heads.copy()
        turned[..., :half] = (a * cos - b * sin) >> cip.ROPE_BITS
        turned[..., half : 2 * half] = (b * cos + a * sin) >> cip.ROPE_BITS
        return turned

    def _mix(self, q: np.ndarray, q_top: np.ndarray, q_bits: np.ndarray, kv: "View", start: int,
             local: bool) -> np.ndarray:  # fmt: skip
        """Softmax attention of int8 queries, from position `start` on, over int8 keys and values: 127 * output in Q14,
        [rows, heads * width]."""
        s, rows = self.shape, len(q)
        begin = max(0, start - s.window + 1) if local else 0
        end = start + rows if s.causal else kv.k.shape[1]
        kv = kv.between(begin, end)
        shared = s.heads // s.kv_heads

        def by_kv_head(z: np.ndarray) -> np.ndarray:  # [rows, heads, ...] -> [kv heads, rows * shared, ...]
            grouped = z.reshape(rows, s.kv_heads, shared, -1).transpose(1, 0, 2, 3)
            return grouped.reshape(s.kv_heads, rows * shared, -1)

        mantissa, exponent = self._score_scale
        dot = (by_kv_head(q) @ kv.k.transpose(0, 2, 1)).astype(np.int64)
        scale = (by_kv_head(q_top) * mantissa) >> 8
        shift = (38 + exponent) - by_kv_head(q_bits) - kv.k_bits
        score = (dot * (kv.k_top * scale)) >> np.minimum(np.maximum(shift, 0), 63)
        hidden = self._hidden(np.arange(start, start + rows), np.arange(begin, end), local)
        if hidden is not None:
            score[:, hidden.repeat(shared, axis=0)] = _MASKED
        below = score.max(axis=2, keepdims=True) - score
        e = self._exp2[(below & 0xFFFF) >> (16 - cip.EXP2_INDEX_BITS)] >> np.minimum(below >> 16, 31)
        if hidden is not None:
            v_bits_max = np.where(hidden, 0, kv.v_bits).max(axis=2, keepdims=True).repeat(shared, axis=1)
        else:
            v_bits_max = kv.v_bits.max(axis=2, keepdims=True)
        weight = (e * kv.v_top) >> np.minimum(np.maximum(v_bits_max - kv.v_bits, 0), 63)
        weight_shift = np.maximum(bit_length(weight.max(axis=2, keepdims=True)) - 15, 0)
        weight >>= weight_shift
        total = np.zeros((s.kv_heads, rows * shared, s.head_width), np.int64)
        for first in range(0, end - begin, cip.PV_TILE_KEYS):
            part = weight[:, :, first : first + cip.PV_TILE_KEYS]
            v = kv.v[:, first : first + cip.PV_TILE_KEYS]
            total += ((part >> 7).astype(np.float32) @ v).astype(np.int64) << 7
            total += ((part & 127).astype(np.float32) @ v).astype(np.int64)
        mass = e.sum(axis=2, keepdims=True)
        mass_bits = bit_length(mass)
        reciprocal = (1 << 43) // (mass >> (mass_bits - cip.WINDOW_BITS))
        shift = (52 - cip.ATTENTION_BITS) + mass_bits - weight_shift - v_bits_max
        wide = (total * reciprocal) >> np.minimum(np.maximum(shift, 0), 63)
        return wide.reshape(s.kv_heads, rows, shared, -1).transpose(1, 0, 2, 3).reshape(rows, -1)

    def _hidden(self, positions: np.ndarray, keys: np.ndarray, local: bool) -> np.ndarray | None:
        """Which keys [rows, keys] a row does not see; None where every row sees all."""
        if not self.shape.causal or len(positions) == 1:
            return None
        hidden = keys > positions[:, None]
        return hidden | (keys <= positions[:, None] - self.shape.window) if local else hidden

    def _mlp(self, x: np.ndarray, layer: int) -> np.ndarray:
        inputs = self._sublayer_input(x, f"layers.{layer}.mlp_norm")
        if self.shape.causal:
            both = self._products[f"layers.{layer}.gate_up"](*inputs)
            gate, up = both[:, : self.shape.hidden], both[:, self.shape.hidden :]
            wide = (self._activate(gate) * saturate(up, cip.GATE_MAX)) >> cip.RESIDUAL_BITS
        else:
            wide = self._activate(self._products[f"layers.{layer}.up"](*inputs))
        return self._add(x, self._products[f"layers.{layer}.down"](wide, cip.RESIDUAL_BITS), layer, "mlp")

    def _activate(self, value: np.ndarray) -> np.ndarray:
        """Each value times the share that its gate lets through, Q16."""
        index = (value >> self.shape.features.gate_step_bits) + (1 << (cip.SIGMOID_INDEX_BITS - 1))
        share = self._gate[np.minimum(np.maximum(index, 0), (1 << cip.SIGMOID_INDEX_BITS) - 1)]
        return saturate((value * share) >> cip.SIGMOID_VALUE_BITS, cip.GATE_MAX)


class _Batch(NamedTuple):
    """Where the rows of a pass lie: each segment's rows, first position and sequence; each row's position and page."""

    rows: list[slice]
    starts: list[int]
    sequences: list[Sequence]
    positions: np.ndarray
    pages: np.ndarray

    @classmethod
    def of(cls, segments: Items[Segment], starts: list[int]) -> "_Batch":
        rows, positions, pages, begin = [], [], [], 0
        for segment, start in zip(segments, starts, strict=True):
            rows.append(slice(begin, begin + len(segment.tokens)))
            begin = rows[-1].stop
            positions.append(np.arange(start, start + len(segment.tokens)))
            pages.append(np.array(segment.sequence.pages)[positions[-1] // PAGE])
        return cls(rows, starts, [s.sequence for s in segments], np.concatenate(positions), np.concatenate(pages))


class _Store:
    """The bytes of a pool: int8 key heads, then value heads, with their scales, by layer and page."""

    def __init__(self, shape: cip.Shape, pages: int) -> None:
        self.pages, self._kv_heads = pages, shape.kv_heads
        extent = (shape.layers, pages, 2 * shape.kv_heads, PAGE)
        self._values = np.zeros((*extent, shape.head_width), np.int8)
        self._top, self._bits = np.zeros(extent, np.uint16), np.zeros(extent, np.uint8)

    def copy_page(self, source: int, target: int, positions: int) -> None:
        """Copy a page's first positions."""
        for array in (self._values, self._top, self._bits):
            array[:, target, :, :positions] = array[:, source, :, :positions]

    def write(self, layer: int, batch: _Batch, values: np.ndarray, top: np.ndarray, bits: np.ndarray) -> None:
        """Write one layer's rows [rows, key heads + value heads, ...] where the batch says."""
        offsets = batch.positions % PAGE
        self._values[layer][batch.pages, :, offsets] = values
        self._top[layer][batch.pages, :, offsets] = top[..., 0]
        self._bits[layer][batch.pages, :, offsets] = bits[..., 0]

    def read(self, layer: int, sequence: Sequence) -> "View":
        """One layer of a sequence, widened."""
        pages, n, length = sequence.pages, self._kv_heads, sequence.length

        def heads(array: np.ndarray, dtype: type) -> np.ndarray:  # [2 * kv heads, keys, ...]
            gathered = array[layer][pages].swapaxes(0, 1)
            return gathered.reshape(2 * n, len(pages) * PAGE, *gathered.shape[3:])[:, :length].astype(dtype)

        values = heads(self._values, np.float32)
        top, bits = heads(self._top, np.int64)[:, None], heads(self._bits, np.int64)[:, None]
        return View(values[:n], values[n:], top[:n], bits[:n], top[n:], bits[n:])


class View(NamedTuple):
    """One layer's cache: k, v [kv heads, keys, width]; scales [kv heads, 1, keys]."""

    k: np.ndarray
    v: np.ndarray
    k_top: np.ndarray
    k_bits: np.ndarray
    v_top: np.ndarray
    v_bits: np.ndarray

    def between(self, begin: int, end: int) -> "View":
        """The keys and values of positions begin .. end - 1."""
        rows, columns = np.s_[:, begin:end], np.s_[..., begin:end]
        return View(self.k[rows], self.v[rows], *(scale[columns] for scale in self[2:]))


class _Product:
    """One linear: rotate the wide input, quantise it, multiply exactly, rescale to Q16."""

    def __init__(self, linear: cip.Linear, tensors: Mapping[str, np.ndarray]) -> None:
        self.inputs, self.bound, self.exponent = linear.inputs, linear.bound, linear.exponent
        self.tile = tile_width(linear.bound)
        self._weight = tensors[f"{linear.name}.weight"].astype(np.float32)
        self._second = tensors[f"{linear.name}.weight2"].astype(np.float32) if linear.terms == 2 else None
        self._bias = tensors.get(f"{linear.name}.bias")
        self._scale = tensors[f"{linear.name}.scale"].astype(np.int64)
        self._rotation = None if linear.block == 1 else hadamard(linear.block)

    def __call__(self, wide: np.ndarray, fraction_bits: int) -> np.ndarray:
        """Q16 rows of Q`fraction_bits` rows."""
        out = self._unbiased(wide, fraction_bits)
        return out if self._bias is None else saturate(out + self._bias)

    def _multiply(self, q: np.ndarray) -> np.ndarray:
        """Exact product with the weights, in units of the first term."""
        first = exact_product(q, self._weight, self.tile)
        if self._second is None:
            return first
        return ((first << cip.TERM_BITS) + exact_product(q, self._second, self.tile)) >> cip.TERM_BITS

    def _unbiased(self, wide: np.ndarray, fraction_bits: int) -> np.ndarray:
        if self._rotation is not None:
            block = len(self._rotation)
            rotated = wide.astype(np.float64).reshape(-1, block) @ self._rotation
            wide = rotated.reshape(wide.shape).astype(np.int64)
        if len(wide) == 1:
            row, row_top, row_bits = quantise_row(wide)
            right = min(max(fraction_bits + self.exponent - 1 - row_bits, 0), 63)
            return saturate((self._multiply(row) * (row_top * self._scale)) >> right)
        q, top, bits = quantise(wide)
        scaled = self._multiply(q) * (top * self._scale)
        shift = (fraction_bits + self.exponent - 1) - bits
        return saturate(scaled >> np.minimum(np.maximum(shift, 0), 63))


def normalise(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (last axis) shifted so that the largest magnitude has 22 bits, and its bit length before [..., no axis]."""
    bits = bit_length(np.abs(wide).max(axis=-1))
    up = cip.WINDOW_BITS - bits[..., None]
    return (wide << np.maximum(up, 0)) >> np.maximum(-up, 0), bits


def quantise(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 of each row in float32, its scale's mantissa (2^14 < top <= 2^15, or 1 for a row of zeros) and bit length:
    wide ~ q * top * 2^(bits - 15) / 127. The last two keep the last axis, of extent 1."""
    largest = np.abs(wide).max(axis=-1, keepdims=True)
    bits = bit_length(largest)
    up = cip.WINDOW_BITS - bits
    left, right = np.maximum(up, 0), np.maximum(-up, 0)
    top = (((largest << left) >> right) >> 7) + 1
    reciprocal = (cip.ACTIVATION_MAX << 23) // top
    q = (((wide << left) >> right) * reciprocal + (1 << 29)) >> 30
    return q.astype(np.float32), top, bits


def quantise_row(wide: np.ndarray) -> tuple[np.ndarray, int, int]:
    """quantise of a single row [1, n], with Python's integers for its scale."""
    largest = int(np.abs(wide).max())
    bits = largest.bit_length()
    left = cip.WINDOW_BITS - bits
    top = ((largest << left if left >= 0 else largest >> -left) >> 7) + 1
    y = wide << left if left >= 0 else wide >> -left
    q = (y * ((cip.ACTIVATION_MAX << 23) // top) + (1 << 29)) >> 30
    return q.astype(np.float32), top, bits


def bit_length(values: np.ndarray) -> np.ndarray:
    """Bit length of non-negative integers below 2^53, by float64's exponent (exact there)."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def integer_sqrt(values: np.ndarray) -> np.ndarray:
    """Floor of the square root of 0 <= values < 2^62: a float64 guess is off by at most one, then corrected."""
    root = np.sqrt(values.astype(np.float64)).astype(np.int64)
    root -= root * root > values
    root += (root + 1) * (root + 1) <= values
    return root


def saturate(values: np.ndarray, limit: int = cip.RESIDUAL_MAX) -> np.ndarray:
    """Clamp to [-limit, limit]."""
    return np.minimum(np.maximum(values, -limit), limit)


def exact_product(q: np.ndarray, weight: np.ndarray, tile: int) -> np.ndarray:
    """q [rows, K] times weight [N, K] transposed as int64: float32 tiles of K that stay below 2^24."""
    if q.shape[1] <= tile:
        return (q @ weight.T).astype(np.int64)
    parts = (q[:, i : i + tile] @ weight[:, i : i + tile].T for i in range(0, q.shape[1], tile))
    return sum((part.astype(np.int64) for part in parts), np.zeros((), np.int64))


def tile_width(bound: int) -> int:
    """Largest K with K * 127 * bound < 2^24."""
    return (cip.EXACT_FLOAT32 - 1) // (cip.ACTIVATION_MAX * bound)


def hadamard(block: int) -> np.ndarray:
    """The +-1 Sylvester-Hadamard matrix in float64, unnormalised and symmetric."""
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _blocks(rotation: np.ndarray, width: int) -> np.ndarray:
    """Block-diagonal matrix of a rotation over a whole head."""
    return np.kron(np.eye(width // len(rotation)), rotation)


def _octets(array: np.ndarray) -> np.ndarray:
    """Little-endian bytes of each row, uint8 [rows, bytes]."""
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return little.reshape(len(array), -1).view(np.uint8)
