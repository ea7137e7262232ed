"""The numpy executor: every operation of the canonical integer program in the plainest form that is still quick. This
file is the specification in code; docs/inference.md explains each line's widths.

Wide values are integers in float64, a right shift is a multiplication by a power of two and floor: exact while every
value and product stays below 2^53. Where the page's bound is higher than that, the block's own magnitudes are asked
first, and what is too large for float64 goes through int64: EXACT_FLOAT64 marks every such place. Products are float32
tiles below 2^24. Knows no sampling, no trace keys and no clock.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from typing import Any, NamedTuple

import numpy as np

from inference import program as cip
from inference.kv import PAGE, Fed, Pool, Segment, Sequence, default_pages, extend_all
from inference.model import Model

CHUNK_ROWS = 64  # positions of a sequence fed at once: bounds the scores' memory to heads * 64 * context
BLOCK_ROWS = 128  # rows that the operations between two products take at once: bounds what lies between
TOGETHER_KEYS = 1 << 14  # keys of one layer, fillers among them, over sequences that attend together with one row each
EXACT_FLOAT64 = float(1 << 53)
EXACT_SUM = -(-cip.EXACT_FLOAT32 // cip.ACTIVATION_MAX)  # magnitudes of weights below it: sums below 2^24
POWERS = 31 << cip.EXP2_INDEX_BITS  # 2^-x in steps of 2^-12 down to 2^-31, where it is 0
GATE_EXACT = 2.0**26  # a gate, times what it lets through or times a share in Q16, is below 2^53
WIDE_NORM_MAX, LAYER_NORM_MAX = float(1 << 36), float(1 << 37)
_MASKED = -(1 << 62)  # below every score, and far enough from the int64 edge to subtract


class Wide(NamedTuple):
    """Rows of integers in float64 [rows, n], and a bound of their magnitude."""

    values: np.ndarray
    bound: float


class NumpyExecutor:
    """Runs one model over a pool of `pages` pages of keys and values. Many sequences go in one pass."""

    name = "numpy"

    def __init__(self, model: Model, pages: int | None = None) -> None:
        self.model, self.shape = model, model.manifest.shape
        tensors = model.tensors
        s, tensors = self.shape, model.tensors
        self._products = {linear.name: _Product(linear, tensors) for linear in model.manifest.linears}
        self._vectors = {n: t.astype(np.float64) for n, t in tensors.items() if n.endswith((".gain", "norm.bias"))}
        self._head_gains = [self._gains_of_heads(layer) for layer in range(s.layers if s.qk_norm else 0)]
        self._embedding = tensors["embedding.weight"]
        exponent = model.manifest.embedding_exponent
        self._embedding_scale = np.ldexp(tensors["embedding.scale"].astype(np.float64), cip.RESIDUAL_BITS - exponent)
        self._embedding_bound = 127 * float(self._embedding_scale.max()) if s.causal else LAYER_NORM_MAX
        self._powers = power_table(tensors["table.exp2"])
        self._gate = np.ldexp(tensors[s.features.gate_table].astype(np.float64), -cip.SIGMOID_VALUE_BITS)
        # int16: cosines and sines of the layers that see all (False) and of those that see a window (True).
        turns = {False: ("table.cos", "table.sin"), True: ("table.local_cos", "table.local_sin")}
        self._turns = {local: (tensors[cos], tensors[sin]) for local, (cos, sin) in turns.items() if cos in tensors}
        block = cip.rotation_block(s.head_width)
        self._head_rotation = np.kron(np.eye(s.head_width // block), hadamard(block))
        self._score_scale = cip.score_scale(s.head_width, s.score_divisor)
        self._store = _Store(s, default_pages(s) if pages is None else pages)
        self.pool = Pool(self._store.pages, self._store.copy_page)

    def new_sequence(self, capacity: int = 0) -> Sequence:
        """An empty sequence; pages for `capacity` positions are taken at once, more as it grows. Raises
        PoolExhausted."""
        return Sequence(self.pool, capacity)

    def feed(self, segments: Items[Segment]) -> list[Fed]:
        """Append tokens to sequences, all in one pass. Raises PoolExhausted before anything is changed."""
        s, starts = self.shape, extend_all(self.pool, segments)
        assert s.causal or not any(starts), "a sequence without order is fed whole"
        batch = _Batch.of(segments, starts, s, self._turns)
        ids = np.concatenate([np.asarray(segment.tokens, np.int64) for segment in segments])
        x, bound = self._embed(ids, batch.positions), self._embedding_bound
        payloads = []
        for first in range(0, s.layers, s.layers_per_group):
            tiles = [] if s.causal else [_octets(x, "<i8")]
            for layer in range(first, min(first + s.layers_per_group, s.layers)):
                bound = self._attention(Wide(x, bound), layer, batch, tiles)
                bound = self._mlp(Wide(x, bound), layer)
            payloads.append(np.concatenate([_octets(x, "<i8"), *tiles] if s.causal else tiles, axis=1))
        if not s.causal:
            payloads.append(_octets(x, "<i8"))
            return [Fed(np.zeros((0, s.vocabulary), np.int64), [payload[rows] for payload in payloads])
                    for rows in batch.rows]  # fmt: skip
        firsts = [rows.start + segment.logits_from for rows, segment in zip(batch.rows, segments, strict=True)]
        logits = self._logits(np.concatenate([x[i : rows.stop] for i, rows in zip(firsts, batch.rows, strict=True)]))
        fed, begin = [], 0
        for first, rows in zip(firsts, batch.rows, strict=True):
            end = begin + rows.stop - first
            fed.append(Fed(logits[begin:end], [payload[rows] for payload in payloads]))
            begin = end
        return fed

    def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
        """(computed, expected) of one product with every operand at its bound, for the startup test."""
        product = self._products[name]
        q = np.full((1, product.inputs), input_sign * cip.ACTIVATION_MAX, np.float32)
        tiles = product_tiles(np.full((1, product.inputs), weight_sign * product.bound, np.int8))
        exact = weight_sign * input_sign * cip.ACTIVATION_MAX * product.bound * product.inputs
        return int(exact_product(q, tiles)[0, 0]), exact

    def _embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        x = np.floor(self._embedding[ids] * self._embedding_scale[ids][:, None])
        if self.shape.causal:
            return x
        return self._layer_norm(x + self.model.tensors["position.embedding"][positions], "embedding_norm")

    def _logits(self, x: np.ndarray) -> np.ndarray:
        """int64 [rows, vocabulary] in Q16 of residual rows."""
        logits = np.empty((len(x), self.shape.vocabulary), np.int64)
        blocks = _blocks(len(x))
        inputs = (self._norm(x[block], "norm.gain") for block in blocks)
        outputs = self._product("head", inputs, blocks, cip.NORM_BITS + cip.GAIN_BITS)
        for block, out in zip(blocks, outputs, strict=True):
            logits[block] = out.values
        return logits

    def _product(
        self, name: str, inputs: Iterable[np.ndarray], blocks: Items[slice], fraction_bits: int
    ) -> Iterator[Wide]:
        """One product over all blocks of rows together; what is before and after it goes block by block."""
        if not blocks:
            return
        product = self._products[name]
        q = np.empty((blocks[-1].stop, product.inputs), np.float32)
        scales = [product.quantise(rows, q[block]) for block, rows in zip(blocks, inputs, strict=True)]
        whole = product.multiply(q)
        for block, (top, bits) in zip(blocks, scales, strict=True):
            yield product.rescale(whole[block], top, bits, fraction_bits)

    def _norm(self, x: np.ndarray, gain: str) -> np.ndarray:
        """RMS norm of Q16 rows, then the gain: Q26."""
        unit = over_rms(x, self.shape.norm_epsilon_q32)
        unit *= self._vectors[gain]
        return unit

    def _wide_norm(self, x: np.ndarray, gain: str) -> np.ndarray:
        """The norm back in Q16."""
        return shifted(self._norm(x, gain), -cip.HEAD_NORM_SHIFT)

    def _layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """LayerNorm of Q16 rows, in Q16."""
        mean = x.astype(np.int64).sum(axis=1, keepdims=True) // x.shape[1]
        return self._wide_norm(x - mean, f"{name}.gain") + self._vectors[f"{name}.bias"]

    def _sublayer_input(self, x: np.ndarray, norm: str) -> np.ndarray:
        """What a sub-layer's first product reads. An encoder's residual is normed already."""
        return self._norm(x, f"{norm}.gain") if self.shape.causal else x

    @property
    def _input_bits(self) -> int:
        """Fraction bits of what a sub-layer's first product reads."""
        return cip.NORM_BITS + cip.GAIN_BITS if self.shape.causal else cip.RESIDUAL_BITS

    def _add(self, x: Wide, rows: slice, update: Wide, layer: int, part: str) -> float:
        """Add what a sub-layer ('attention' or 'mlp') gave to rows of the residual; their bound."""
        values, bound = update
        if self.shape.features.post_norms:
            values, bound = self._wide_norm(values, f"layers.{layer}.post_{part}_norm.gain"), WIDE_NORM_MAX
        total = x.values[rows]
        total += values
        bound += x.bound
        if bound > cip.RESIDUAL_MAX:
            bound = float(cip.RESIDUAL_MAX)
            saturate(total, cip.RESIDUAL_MAX)
        if not self.shape.causal:
            total[:] = self._layer_norm(total, f"layers.{layer}.{part}_norm")
            bound = LAYER_NORM_MAX
        return bound

    def _gains_of_heads(self, layer: int) -> np.ndarray:
        """Gains of the query heads, then of the key heads: [heads + key heads, head width]."""
        q, k = (self._vectors[f"layers.{layer}.{part}_norm.gain"] for part in "qk")
        return np.stack([q] * self.shape.heads + [k] * self.shape.kv_heads)

    def _attention(self, x: Wide, layer: int, batch: "_Batch", tiles: list[np.ndarray]) -> float:
        """A layer's attention, added to the residual in place; the residual's bound."""
        s, rows = self.shape, len(x.values)
        q = np.empty((rows, s.heads + 2 * s.kv_heads, s.head_width), np.float32)
        top, bits = (np.empty((*q.shape[:2], 1), np.int64) for _ in range(2))
        blocks, norm = _blocks(rows), f"layers.{layer}.attention_norm"
        inputs = (self._sublayer_input(x.values[block], norm) for block in blocks)
        outputs = self._product(f"layers.{layer}.qkv", inputs, blocks, self._input_bits)
        for block, flat in zip(blocks, outputs, strict=True):
            q[block], top[block], bits[block] = self._heads(flat, layer, batch, block)
        kv = np.s_[:, s.heads :]
        tiles += [_octets(q[kv], "<i1"), _octets(top[kv] + (bits[kv] << 16), "<i4")]
        self._store.write(layer, batch, q[kv], top[kv], bits[kv])
        wide = np.empty((rows, s.heads * s.head_width))
        for reading in batch.readings[s.local(layer)]:
            own = [part[reading.rows, : s.heads] for part in (q, top, bits)]
            wide[reading.rows] = self._mix(*own, self._store.read(layer, reading), reading)
        inputs = (wide[block] for block in blocks)
        outputs = self._product(f"layers.{layer}.out", inputs, blocks, cip.ATTENTION_BITS)
        return max(self._add(x, block, out, layer, "attention") for block, out in zip(blocks, outputs, strict=True))

    def _heads(
        self, flat: Wide, layer: int, batch: "_Batch", block: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query, key and value heads of rows, quantised: [rows, heads, width], and their scales."""
        s, bound = self.shape, flat.bound
        heads = flat.values.reshape(len(flat.values), -1, s.head_width)
        turned = heads[:, : s.heads + s.kv_heads]
        if s.qk_norm:
            unit = over_rms(turned.reshape(-1, s.head_width), s.norm_epsilon_q32).reshape(turned.shape)
            turned, bound = shifted(unit * self._head_gains[layer], -cip.HEAD_NORM_SHIFT), WIDE_NORM_MAX
        if s.rotary:
            turned = self._rope(turned, bound, batch.turns[s.local(layer)], block)
        turned = turned.reshape(-1, s.head_width) @ self._head_rotation
        heads[:, : s.heads + s.kv_heads] = turned.reshape(len(heads), -1, s.head_width)
        return quantise(heads)

    def _rope(self, heads: np.ndarray, bound: float, turns: "_Turns", block: slice) -> np.ndarray:
        """Pairs (i, i + rotary / 2) of each head turned by the position's angle; the rest of it passes."""
        half = self.shape.rotary // 2
        if bound * (2 << cip.ROPE_BITS) >= EXACT_FLOAT64:
            return self._exact_rope(heads.astype(np.int64), turns.cos[block].astype(np.int64), turns.sin[block])
        other = turns.other[block]
        out = heads * turns.same[block]
        swapped = np.empty_like(other)
        np.multiply(heads[..., half : 2 * half], other[..., :half], out=swapped[..., :half])
        np.multiply(heads[..., :half], other[..., half:], out=swapped[..., half:])
        out[..., : 2 * half] += swapped
        return np.floor(out, out=out)

    def _exact_rope(self, heads: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        """_rope in int64."""
        half = self.shape.rotary // 2
        a, b = heads[..., :half], heads[..., half : 2 * half]
        one, other = (a * cos - b * sin) >> cip.ROPE_BITS, (b * cos + a * sin) >> cip.ROPE_BITS
        return np.concatenate([one, other, heads[..., 2 * half :]], axis=2).astype(np.float64)

    def _mix(
        self, q: np.ndarray, q_top: np.ndarray, q_bits: np.ndarray, kv: "View", reading: "_Reading"
    ) -> np.ndarray:
        """Softmax attention of int8 queries over int8 keys and values: 127 * output in Q14, [rows, heads * width]. The
        rows are of one or more sequences, of each as many; inside, axes are [sequence * kv head, row * shared head,
        key]."""
        s, sequences = self.shape, len(kv.k) // self.shape.kv_heads
        rows, shared = len(q) // sequences, s.heads // s.kv_heads

        def fold(z: np.ndarray) -> np.ndarray:
            grouped = z.reshape(sequences, rows, s.kv_heads, shared, -1).swapaxes(1, 2)
            return grouped.reshape(len(kv.k), rows * shared, -1)

        dot = matrix_product(fold(q), kv.k.swapaxes(1, 2)).astype(np.int64)
        score = self._scores(dot, fold(q_top), fold(q_bits), kv)
        highest = kv.v_bits.max(axis=2, keepdims=True)
        if reading.hidden is not None:
            apart = score.reshape(sequences, s.kv_heads, rows, shared, -1)[..., reading.shown :]
            np.copyto(apart, _MASKED, where=reading.hidden)
            highest = reading.highest(kv.v_bits.reshape(sequences, s.kv_heads, 1, -1)).repeat(shared, axis=2)
            highest = highest.reshape(len(kv.k), rows * shared, 1)
        below = np.subtract(score.max(axis=2, keepdims=True), score, out=score)
        below >>= 16 - cip.EXP2_INDEX_BITS
        weight = self._powers.take(below, mode="clip")
        mass = weight.sum(axis=2, keepdims=True)
        weight *= np.ldexp(kv.v_top.astype(np.float64), kv.v_bits)
        heaviest = np.floor(np.ldexp(weight.max(axis=2, keepdims=True), -highest))
        narrow = np.maximum(bit_length(heaviest) - 15, 0)
        weight *= np.ldexp(1.0, -highest - narrow)
        total = matrix_product(np.floor(weight, out=weight), kv.v)
        mass_bits = bit_length(mass)
        reciprocal = (1 << 43) // np.floor(np.ldexp(mass, cip.WINDOW_BITS - mass_bits)).astype(np.int64)
        shift = clamped((52 - cip.ATTENTION_BITS) + mass_bits - narrow - highest)
        wide = scaled(total, reciprocal, shift)
        return wide.reshape(sequences, s.kv_heads, rows, shared, -1).swapaxes(1, 2).reshape(len(q), -1)

    def _scores(self, dot: np.ndarray, q_top: np.ndarray, q_bits: np.ndarray, kv: "View") -> np.ndarray:
        """Scores in Q16 of int64 products of queries and keys, in place of them."""
        mantissa, exponent = self._score_scale
        scale, shift = (q_top * mantissa) >> 8, (38 + exponent) - q_bits
        least, most = extremes(kv.k_bits)
        bits = (self.shape.head_width * cip.ACTIVATION_MAX**2).bit_length() + 15 + 22
        lowest, highest = extremes(shift)
        if bits + most - least <= 62 and lowest >= most and highest - least <= 63:
            # One shift a row instead of one an element: the keys' bits become factors, which floor the same.
            dot *= kv.k_top << (kv.k_bits - least)
            dot *= scale
            dot >>= shift - least
            return dot
        return (dot * (kv.k_top * scale)) >> clamped(shift - kv.k_bits)

    def _mlp(self, x: Wide, layer: int) -> float:
        """A layer's MLP, added to the residual in place; the residual's bound."""
        s, norm = self.shape, f"layers.{layer}.mlp_norm"
        blocks, first = _blocks(len(x.values)), f"layers.{layer}.{'gate_up' if s.causal else 'up'}"
        inputs = (self._sublayer_input(x.values[block], norm) for block in blocks)
        mixed = (self._activate(out) for out in self._product(first, inputs, blocks, self._input_bits))
        outputs = self._product(f"layers.{layer}.down", mixed, blocks, cip.RESIDUAL_BITS)
        return max(self._add(x, block, out, layer, "mlp") for block, out in zip(blocks, outputs, strict=True))

    def _activate(self, wide: Wide) -> np.ndarray:
        """Each gate times the share of it that passes, Q16, times what it lets through."""
        hidden, bound = self.shape.hidden, wide.bound
        if bound >= GATE_EXACT:
            bound = max(float(wide.values.max()), -float(wide.values.min()))
        if bound >= GATE_EXACT:
            return self._exact_activate(wide.values.astype(np.int64))
        value = wide.values[:, :hidden]
        place = value * 2.0**-self.shape.features.gate_step_bits
        place += 1 << (cip.SIGMOID_INDEX_BITS - 1)
        # The conversion truncates, which floors what is not negative; all else is clipped to 0. The bound fits int32.
        out = self._gate.take(place.astype(np.int32), mode="clip", out=place)
        out *= value
        np.floor(out, out=out)
        if self.shape.causal:
            out *= wide.values[:, hidden:]
            shifted(out, -cip.RESIDUAL_BITS)
        return out

    def _exact_activate(self, wide: np.ndarray) -> np.ndarray:
        """_activate in int64, where the values need it."""
        value = wide[:, : self.shape.hidden]
        index = (value >> self.shape.features.gate_step_bits) + (1 << (cip.SIGMOID_INDEX_BITS - 1))
        share = self.model.tensors[self.shape.features.gate_table].astype(np.int64).take(index, mode="clip")
        act = saturate((value * share) >> cip.SIGMOID_VALUE_BITS, cip.GATE_MAX)
        if self.shape.causal:
            act = (act * saturate(wide[:, self.shape.hidden :].copy(), cip.GATE_MAX)) >> cip.RESIDUAL_BITS
        return act.astype(np.float64)


class _Reading(NamedTuple):
    """Rows of a pass that attend together, and what they see: of each sequence as many rows, its pages [sequences,
    pages], which of the pages' keys, and which of those from key `shown` on a row does not see [sequences, 1, rows, 1,
    keys]."""

    rows: Any
    pages: np.ndarray
    keys: slice
    shown: int
    hidden: np.ndarray | None

    def highest(self, bits: np.ndarray) -> np.ndarray:
        """Largest of the keys' bits [sequences, kv heads, 1, keys] among those that a row sees: [.., rows, 1]."""
        assert self.hidden is not None
        seen = np.where(self.hidden[:, :, :, 0], 0, bits[..., self.shown :]).max(axis=3, keepdims=True)
        if self.shown:
            seen = np.maximum(seen, bits[..., : self.shown].max(axis=3, keepdims=True))
        return seen


class _Batch(NamedTuple):
    """Where the rows of a pass lie: each segment's rows; each row's position and page; who reads what, and how far each
    row's heads turn, by whether the layer sees a window alone."""

    rows: list[slice]
    positions: np.ndarray
    pages: np.ndarray
    readings: dict[bool, list[_Reading]]
    turns: dict[bool, "_Turns"]

    @classmethod
    def of(
        cls,
        segments: Items[Segment],
        starts: list[int],
        shape: cip.Shape,
        tables: Mapping[bool, tuple[np.ndarray, np.ndarray]],
    ) -> "_Batch":
        rows, positions, pages, begin = [], [], [], 0
        for segment, start in zip(segments, starts, strict=True):
            rows.append(slice(begin, begin + len(segment.tokens)))
            begin = rows[-1].stop
            positions.append(np.arange(start, start + len(segment.tokens)))
            pages.append(np.array(segment.sequence.pages)[positions[-1] // PAGE])
        readings = {local: list(_readings(segments, starts, rows, shape, local))
                    for local in {shape.local(layer) for layer in range(shape.layers)}}  # fmt: skip
        places = np.concatenate(positions)
        turns = {local: _Turns.of(places, pair, shape) for local, pair in tables.items() if local in readings}
        return cls(rows, places, np.concatenate(pages), readings, turns)


class _Turns(NamedTuple):
    """How far each row's heads turn: cosines and sines in Q14, int16 [rows, 1, rotary / 2]; and the factors of query
    and key heads, of each value [rows, heads, width] and of that in the other half [rows, heads, rotary], so that no
    layer widens or repeats them again."""

    cos: np.ndarray
    sin: np.ndarray
    same: np.ndarray
    other: np.ndarray

    @classmethod
    def of(cls, positions: np.ndarray, tables: tuple[np.ndarray, np.ndarray], shape: cip.Shape) -> "_Turns":
        cos, sin = (table[positions][:, None] for table in tables)
        half, heads = shape.rotary // 2, shape.heads + shape.kv_heads
        same, other = (np.ones((len(positions), heads, width)) for width in (shape.head_width, shape.rotary))
        same[..., :half] = same[..., half : 2 * half] = cos * 2.0**-cip.ROPE_BITS
        other[..., half:] = sin * 2.0**-cip.ROPE_BITS
        np.negative(other[..., half:], out=other[..., :half])
        return cls(cos, sin, same, other)


class _Seen(NamedTuple):
    """Pages of a sequence that some rows of it see, the position of the first of the rows and of the pages, and the
    end of what they see."""

    pages: list[int]
    position: int
    first: int
    end: int


def _seen(sequence: Sequence, position: int, rows: int, shape: cip.Shape, local: bool) -> _Seen:
    begin = max(0, position - shape.window + 1) // PAGE if local else 0
    end = position + rows if shape.causal else sequence.length
    return _Seen(sequence.pages[begin : -(-end // PAGE)], position, begin * PAGE, end)


def _readings(
    segments: Items[Segment], starts: list[int], rows: list[slice], shape: cip.Shape, local: bool
) -> Iterator[_Reading]:
    """Long segments attend CHUNK_ROWS at a time, those of one row together with others of about as many pages."""
    single = []
    for segment, start, place in zip(segments, starts, rows, strict=True):
        if len(segment.tokens) == 1 and shape.causal:
            single.append((_seen(segment.sequence, start, 1, shape, local), place.start))
            continue
        for first in range(place.start, place.stop, CHUNK_ROWS):
            block = slice(first, min(first + CHUNK_ROWS, place.stop))
            count = block.stop - first
            yield _reading(block, [_seen(segment.sequence, start + first - place.start, count, shape, local)],
                           count, shape, local)  # fmt: skip
    single.sort(key=lambda item: len(item[0].pages))
    while single:
        least = len(single[0][0].pages)
        together = [item for item in single[: max(1, TOGETHER_KEYS // (2 * least * PAGE))]
                    if len(item[0].pages) <= 2 * least]  # fmt: skip
        del single[: len(together)]
        places = [place for _, place in together]
        rows_of = slice(places[0], places[0] + 1) if len(places) == 1 else np.array(places)
        yield _reading(rows_of, [seen for seen, _ in together], 1, shape, local)


def _reading(rows: Any, seen: list[_Seen], count: int, shape: cip.Shape, local: bool) -> _Reading:
    widest = max(len(each.pages) for each in seen)
    pages = np.array([each.pages + each.pages[:1] * (widest - len(each.pages)) for each in seen])
    keys = slice(seen[0].end - seen[0].first if len(seen) == 1 else widest * PAGE)
    if not shape.causal:
        return _Reading(rows, pages, keys, 0, None)
    shown = 0 if local else min(each.position for each in seen) + 1
    firsts = np.array([each.first for each in seen])[:, None, None]
    positions = np.array([each.position for each in seen])[:, None, None] + np.arange(count)[:, None]
    places = firsts + np.arange(shown, keys.stop)
    hidden = places > positions
    if local:
        hidden |= places <= positions - shape.window
    return _Reading(rows, pages, keys, shown, hidden[:, None, :, None] if hidden.any() else None)


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

    def read(self, layer: int, reading: _Reading) -> "View":
        """What some rows see of a layer."""
        n, (sequences, pages) = self._kv_heads, reading.pages.shape

        def join(part: np.ndarray, dtype: type) -> np.ndarray:  # [sequences, pages, heads, PAGE, ...]
            whole = np.empty((sequences, part.shape[2], pages, *part.shape[3:]), dtype)
            whole[:] = part.swapaxes(1, 2)
            return whole.reshape(sequences, part.shape[2], pages * PAGE, *part.shape[4:])[:, :, reading.keys]

        def flat(part: np.ndarray) -> np.ndarray:
            return part.reshape(sequences * n, *part.shape[2:])

        values, top, bits = (part[layer][reading.pages] for part in (self._values, self._top, self._bits))
        scales = [join(part, np.int64) for part in (top, bits)]
        k_scales = [flat(scale[:, :n])[:, None] for scale in scales]
        v_scales = [flat(scale[:, n:])[:, None] for scale in scales]
        k, v = flat(join(values[:, :, :n], np.float32)), flat(join(values[:, :, n:], np.float64))
        return View(k, v, *k_scales, *v_scales)


class View(NamedTuple):
    """Keys and values of a layer, widened: k, v [sequences * kv heads, keys, width]; scales [.., 1, keys]."""

    k: np.ndarray
    v: np.ndarray
    k_top: np.ndarray
    k_bits: np.ndarray
    v_top: np.ndarray
    v_bits: np.ndarray


class _Product:
    """One linear: rotate the wide input, quantise it, multiply exactly, rescale to Q16."""

    def __init__(self, linear: cip.Linear, tensors: Mapping[str, np.ndarray]) -> None:
        self.inputs, self.bound, self.exponent = linear.inputs, linear.bound, linear.exponent
        self._weight = product_tiles(tensors[f"{linear.name}.weight"])
        self._second = product_tiles(tensors[f"{linear.name}.weight2"]) if linear.terms == 2 else None
        self._bias = tensors.get(f"{linear.name}.bias")
        self._scale = tensors[f"{linear.name}.scale"].astype(np.float64)
        self._largest = self._largest_output(tensors, linear)
        self._rotation = None if linear.block == 1 else hadamard(linear.block)

    def quantise(self, wide: np.ndarray, out: np.ndarray) -> tuple[Any, Any]:
        """Writes int8 of rotated rows into `out`; their scales' mantissas and bit lengths [rows, 1], plain numbers if
        there is one row."""
        if self._rotation is not None:
            wide = (wide.reshape(-1, len(self._rotation)) @ self._rotation).reshape(wide.shape)
        return quantise_row(wide, out) if len(wide) == 1 else quantise_into(wide, out)

    def _largest_output(self, tensors: Mapping[str, np.ndarray], linear: cip.Linear) -> float:
        """Bound of any output times its scale, whatever the inputs."""
        sums = np.abs(tensors[f"{linear.name}.weight"]).sum(axis=1, dtype=np.float64) * cip.ACTIVATION_MAX
        if linear.terms == 2:
            second = np.abs(tensors[f"{linear.name}.weight2"]).sum(axis=1, dtype=np.float64)
            sums += second * cip.ACTIVATION_MAX * 2.0**-cip.TERM_BITS + 1
        return float((sums * self._scale).max())

    def multiply(self, q: np.ndarray) -> np.ndarray:
        """Exact product with the weights, in units of the first term."""
        first = exact_product(q, self._weight)
        if self._second is None:
            return first
        both = first.astype(np.float64)
        both *= 1 << cip.TERM_BITS
        both += exact_product(q, self._second)
        return shifted(both, -cip.TERM_BITS)

    def rescale(self, product: np.ndarray, top: Any, bits: Any, fraction_bits: int) -> Wide:
        """Q16 rows of products of Q`fraction_bits` rows."""
        shift = (fraction_bits + self.exponent - 1) - bits
        if isinstance(top, int):
            shift = min(max(shift, 0), 63)
            factor: Any = math.ldexp(top, -shift)
            top_max, factor_max = top, factor
        else:
            shift = clamped(shift)
            factor = np.ldexp(top.astype(np.float64), -shift)
            top_max, factor_max = int(top.max()), float(factor.max())
        largest = self._largest
        if largest * top_max >= EXACT_FLOAT64 or largest * factor_max >= cip.RESIDUAL_MAX:
            largest = max(float(product.max()), -float(product.min())) * float(self._scale.max())
        bound = largest * factor_max
        if largest * top_max < EXACT_FLOAT64:
            out = product * self._scale
            out *= factor
            np.floor(out, out=out)
        else:
            scaled = product.astype(np.int64) * (top * self._scale.astype(np.int64))
            out = (scaled >> shift).astype(np.float64)
        if bound >= cip.RESIDUAL_MAX:
            saturate(out, cip.RESIDUAL_MAX)
        if self._bias is not None:
            out += self._bias
            saturate(out, cip.RESIDUAL_MAX)
            bound += 1 << 31
        return Wide(out, min(bound + 1, float(cip.RESIDUAL_MAX)))


def extremes(values: np.ndarray) -> tuple[int, int]:
    """Smallest and largest of some integers."""
    flat = values.reshape(-1)
    return int(flat[flat.argmin()]), int(flat[flat.argmax()])


def clamped(shift: np.ndarray) -> np.ndarray:
    """Within 0 .. 63. (np.clip takes as long as five calls of the like.)"""
    return np.minimum(np.maximum(shift, 0), 63)


def shifted(values: np.ndarray, left: int) -> np.ndarray:
    """values * 2^left, floored, in place."""
    if values.dtype == np.int64:
        return np.right_shift(values, -left, out=values)
    values *= 2.0**left
    return np.floor(values, out=values)


def scaled(values: np.ndarray, factor: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(values * factor) >> shift of float64 rows and int64 factors and shifts [.., 1], in place where float64 can."""
    largest = max(float(values.max()), -float(values.min()))
    if largest * float(factor.max()) < EXACT_FLOAT64:
        values *= np.ldexp(factor.astype(np.float64), -shift)
        return np.floor(values, out=values)
    return ((values.astype(np.int64) * factor) >> shift).astype(np.float64)


def magnitude(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest |x| of each row (last axis, kept with extent 1), and an array like the rows to write into. Of short rows
    numpy finds where the largest is in a third of the time in which it finds the largest."""
    sizes = np.abs(rows)
    flat = sizes.reshape(-1, rows.shape[-1])
    largest = flat[np.arange(len(flat)), flat.argmax(axis=1)]
    return largest.reshape(*rows.shape[:-1], 1), sizes


def magnitude_of_row(row: np.ndarray) -> float:
    """Largest |x| of one row."""
    sizes = np.abs(row.reshape(-1))
    return float(sizes[sizes.argmax()])


def over_rms(x: np.ndarray, epsilon_q32: int) -> np.ndarray:
    """Q16 rows over their root mean square: Q14. The root is over normalised rows, so no square passes 2^44."""
    if len(x) == 1:
        return _row_over_rms(x, epsilon_q32)
    largest, y = magnitude(x)
    up = cip.WINDOW_BITS - bit_length(largest)
    np.multiply(x, np.ldexp(1.0, up), out=y)
    np.floor(y, out=y)
    total = np.vecdot(y, y)[:, None]
    if float(total.max()) >= EXACT_FLOAT64:
        whole = y.astype(np.int64)
        total = np.vecdot(whole, whole)[:, None]
    mean = total.astype(np.int64) // x.shape[1]
    mean += (np.int64(epsilon_q32) << np.maximum(2 * up, 0)) >> np.maximum(-2 * up, 0)
    reciprocal = (1 << 40) // np.maximum(integer_sqrt(mean), 1)
    y *= np.ldexp(reciprocal.astype(np.float64), cip.NORM_BITS - 40)
    return np.floor(y, out=y)


def _row_over_rms(x: np.ndarray, epsilon_q32: int) -> np.ndarray:
    """over_rms of one row, its scale in Python's integers: a third of decoding's time was numpy calls on scalars."""
    left = cip.WINDOW_BITS - int(magnitude_of_row(x)).bit_length()
    y = x * math.ldexp(1.0, left)
    np.floor(y, out=y)
    total = float(np.dot(y[0], y[0]))
    if total >= EXACT_FLOAT64:
        whole = y[0].astype(np.int64)
        total = np.dot(whole, whole)
    mean = int(total) // x.shape[1]
    mean += epsilon_q32 << 2 * left if left >= 0 else epsilon_q32 >> -2 * left
    y *= math.ldexp((1 << 40) // max(math.isqrt(mean), 1), cip.NORM_BITS - 40)
    return np.floor(y, out=y)


def normalise(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (last axis) shifted so that the largest magnitude has 22 bits, and its bit length before [..., no axis]."""
    bits = bit_length(np.abs(wide).max(axis=-1))
    up = cip.WINDOW_BITS - bits[..., None]
    return (wide << np.maximum(up, 0)) >> np.maximum(-up, 0), bits


def quantise(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 of each row in float32, its scale's mantissa (2^14 < top <= 2^15, or 1 for a row of zeros) and bit length:
    wide ~ q * top * 2^(bits - 15) / 127. The last two, int64, keep the last axis, of extent 1."""
    q = np.empty(wide.shape, np.float32)
    return q, *quantise_into(wide, q)


def quantise_into(wide: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """quantise, writing into float32 rows."""
    largest, y = magnitude(wide)
    bits = bit_length(largest)
    up = np.ldexp(1.0, cip.WINDOW_BITS - bits)
    top = (np.floor(largest * up).astype(np.int64) >> 7) + 1
    np.multiply(wide, up, out=y)
    np.floor(y, out=y)
    y *= np.ldexp(((cip.ACTIVATION_MAX << 23) // top).astype(np.float64), -30)
    y += 0.5
    np.floor(y, out=q, casting="same_kind")
    return top, bits


def quantise_row(wide: np.ndarray, q: np.ndarray) -> tuple[int, int]:
    """quantise_into of a single row [1, n], with Python's integers for its scale."""
    largest = int(magnitude_of_row(wide))
    bits = largest.bit_length()
    left = cip.WINDOW_BITS - bits
    top = ((largest << left if left >= 0 else largest >> -left) >> 7) + 1
    y = wide * math.ldexp(1.0, left)
    np.floor(y, out=y)
    y *= math.ldexp((cip.ACTIVATION_MAX << 23) // top, -30)
    y += 0.5
    np.floor(y, out=q, casting="same_kind")
    return top, bits


def bit_length(values: np.ndarray) -> np.ndarray:
    """Bit length of non-negative integers below 2^53, by float64's exponent (exact there)."""
    return np.frexp(values.astype(np.float64, copy=False))[1].astype(np.int64)


def integer_sqrt(values: np.ndarray) -> np.ndarray:
    """Floor of the square root of 0 <= values < 2^62: a float64 guess is off by at most one, then corrected."""
    root = np.sqrt(values.astype(np.float64)).astype(np.int64)
    root -= root * root > values
    root += (root + 1) * (root + 1) <= values
    return root


def saturate(values: np.ndarray, limit: int) -> np.ndarray:
    """Clamp to [-limit, limit], in place."""
    np.maximum(values, -limit, out=values)
    return np.minimum(values, limit, out=values)


def product_tiles(weight: np.ndarray) -> list[np.ndarray]:
    """int8 [N, K] as float32 tiles [part of K, N], as few as keep every sum exact: no sum over a tile, of whatever int8
    inputs and in whatever order, passes 127 times the magnitudes of one output's weights in it."""
    inputs = weight.shape[1]
    for count in range(1, inputs + 1):
        tiles = np.array_split(weight, count, axis=1)
        if all(int(np.abs(tile).sum(axis=1, dtype=np.int64).max()) < EXACT_SUM for tile in tiles):
            break
    return [np.ascontiguousarray(tile.T, np.float32) for tile in tiles]


def exact_product(q: np.ndarray, tiles: list[np.ndarray]) -> np.ndarray:
    """int8 rows times all tiles: float32 if there is one, else float64, the sum of theirs."""
    if len(tiles) == 1:
        return matrix_product(q, tiles[0])
    end = len(tiles[0])
    total = matrix_product(q[:, :end], tiles[0]).astype(np.float64)
    for tile in tiles[1:]:
        total += matrix_product(q[:, end : end + len(tile)], tile)
        end += len(tile)
    return total


def matrix_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of matrices, or stacks of them. BLAS takes longer for two or three rows together than for each alone."""
    if not 1 < a.shape[-2] < 4:
        return a @ b
    return (a[..., :, None, :] @ b[..., None, :, :])[..., 0, :]


def tile_width(bound: int) -> int:
    """Largest K with K * 127 * bound < 2^24."""
    return (cip.EXACT_FLOAT32 - 1) // (cip.ACTIVATION_MAX * bound)


def hadamard(block: int) -> np.ndarray:
    """The +-1 Sylvester-Hadamard matrix in float64, unnormalised and symmetric."""
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def power_table(exp2: np.ndarray) -> np.ndarray:
    """2^-i in Q30 for i in Q12, until it is 0."""
    i = np.arange(POWERS + 1)
    powers = exp2.astype(np.int64)[i & ((1 << cip.EXP2_INDEX_BITS) - 1)] >> (i >> cip.EXP2_INDEX_BITS)
    return powers.astype(np.float64)


def _blocks(rows: int) -> list[slice]:
    return [slice(i, min(i + BLOCK_ROWS, rows)) for i in range(0, rows, BLOCK_ROWS)]


def _octets(array: np.ndarray, dtype: str) -> np.ndarray:
    """Little-endian bytes of each row, uint8 [rows, bytes]."""
    return np.ascontiguousarray(array.astype(dtype)).reshape(len(array), -1).view(np.uint8)
