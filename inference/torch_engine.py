"""The torch executor, CPU and CUDA: the one file that imports torch (optional extra). Written from docs/inference.md
beside reference.py, not from it, so that the two check each other; bit-identical, and refused at start where it is not.

Every tensor is int64 except the carriers of exact integers: float32 operands of a product (sums below 2^24, TF32
off) and the float64 rotation (below 2^53). So no order of summation, thread count or device can change a bit.
"""

import math
from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np
import torch

from inference import program as cip
from inference.engine import EngineUnavailable
from inference.kv import PAGE, Fed, Pool, Segment, Sequence, default_pages, extend_all
from inference.model import Model

QUERY_ROWS = 64  # rows that attend at once: bounds the scores' memory to heads * 64 * keys


class TorchExecutor:
    """Runs one model on one device over a pool of `pages` pages of keys and values. Sets torch's thread count for the
    process. Raises EngineUnavailable."""

    name = "torch"

    def __init__(
        self, model: Model, threads: int = 1, device: str = "cpu", pages: int | None = None
    ) -> None:
        if device != "cpu" and not torch.cuda.is_available():
            raise EngineUnavailable(f"device {device!r} asked for, but torch {torch.__version__} sees no CUDA device")
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        self.model, self.shape = model, model.manifest.shape
        self._device = torch.device(device)
        self._scalar = self._device.type == "cpu"  # a single row's scale in Python: cheap where no device waits
        s = self.shape
        self._embedding_scale = self._wide("embedding.scale")
        self._embedding = self._narrow("embedding.weight")
        self._exp2, self._gate = self._wide("table.exp2"), self._wide(s.features.gate_table)
        # Cosines and sines of the layers that see everything, and of those that see a window; an encoder has neither.
        self._angles = {local: [self._narrow(f"table.{prefix}{name}") for name in ("cos", "sin")]
                        for local, prefix in ((False, ""), (True, "local_"))
                        if f"table.{prefix}cos" in model.tensors}  # fmt: skip
        self._places = None if s.causal else self._narrow("position.embedding")
        self._vectors = {name: self._wide(name) for name in model.tensors if name.endswith((".gain", ".bias"))}
        self._linears = {linear.name: linear for linear in model.manifest.linears}
        self._weights: dict[str, list[torch.Tensor]] = {}
        self._scales: dict[str, torch.Tensor] = {}
        self._rotations: dict[int, torch.Tensor] = {}
        for name, linear in self._linears.items():
            terms = [model.tensors[f"{name}.weight{suffix}"] for suffix in ("", "2")[: linear.terms]]
            # A second term lies below the first: one product gives both.
            weight = torch.from_numpy(np.concatenate(terms).astype(np.float32)).to(self._device)
            tile = self._tile(linear)
            self._weights[name] = [part.t() for part in weight.split(tile, dim=1)]
            self._scales[name] = self._wide(f"{name}.scale")
            self._rotation(linear.block)
        self._head_block = cip.rotation_block(s.head_width)
        self._rotation(self._head_block)
        self._score_mantissa, self._score_exponent = cip.score_scale(s.head_width, s.score_divisor)
        self._store = _Store(s, default_pages(s) if pages is None else pages, self._device)
        self.pool = Pool(self._store.pages, self._store.copy_page)

    def new_sequence(self, capacity: int = 0) -> Sequence:
        """An empty sequence with pages for `capacity` positions. Raises PoolExhausted."""
        return Sequence(self.pool, capacity)

    @torch.inference_mode()
    def feed(self, segments: Items[Segment]) -> list[Fed]:
        """Append tokens to sequences, all in one pass. Raises PoolExhausted before anything is changed."""
        s, starts = self.shape, extend_all(self.pool, segments)
        batch = self._place(segments, starts)
        ids = torch.tensor([token for segment in segments for token in segment.tokens], device=self._device)
        x = self._embedding[ids].long() * self._embedding_scale[ids].unsqueeze(1)
        x = (x << cip.RESIDUAL_BITS) >> self.model.manifest.embedding_exponent
        if self._places is not None:
            return self._encode(self._layer_norm(x + self._places[batch.positions], "embedding_norm"), batch)
        payloads: list[np.ndarray] = []
        tiles: list[np.ndarray] = []
        for layer in range(s.layers):
            x = self._attention(x, layer, batch, tiles)
            x = self._mlp(x, layer)
            if (layer + 1) % s.layers_per_group == 0 or layer + 1 == s.layers:
                parts = [_octets(x.cpu().numpy(), "<i8"), *tiles]
                payloads.append(np.concatenate(parts, axis=1))
                tiles = []
        wanted = [list(range(begin + segment.logits_from, end))
                  for segment, (begin, end) in zip(segments, batch.rows, strict=True)]  # fmt: skip
        logits = np.zeros((0, s.vocabulary), np.int64)
        if rows := [row for each in wanted for row in each]:
            picked = x if len(rows) == x.shape[0] else x[torch.tensor(rows, device=self._device)]
            head = self._linear("head", self._norm(picked, "norm.gain"), cip.NORM_BITS + cip.GAIN_BITS)
            logits = head.cpu().numpy()
        parts = np.split(logits, np.cumsum([len(each) for each in wanted[:-1]]))
        return [Fed(part, [payload[begin:end] for payload in payloads])
                for part, (begin, end) in zip(parts, batch.rows, strict=True)]  # fmt: skip

    def _encode(self, x: torch.Tensor, batch: "_Batch") -> list[Fed]:
        """All layers of sequences without order: a state before each layer, and one after the last."""
        assert all(length == end - begin for (begin, end), length in zip(batch.rows, batch.lengths, strict=True))
        states = []
        for layer in range(self.shape.layers):
            tiles = [_octets(x.cpu().numpy(), "<i8")]
            x = self._attention(x, layer, batch, tiles)
            x = self._mlp(x, layer)
            states.append(np.concatenate(tiles, axis=1))
        states.append(_octets(x.cpu().numpy(), "<i8"))
        none = np.zeros((0, self.shape.vocabulary), np.int64)
        return [Fed(none, [state[begin:end] for state in states]) for begin, end in batch.rows]

    def _place(self, segments: Items[Segment], starts: list[int]) -> "_Batch":
        rows, positions, pages = [], [], []
        for segment, start in zip(segments, starts, strict=True):
            rows.append((len(positions), len(positions) + len(segment.tokens)))
            for position in range(start, start + len(segment.tokens)):
                positions.append(position)
                pages.append(segment.sequence.pages[position // PAGE])
        held = [torch.tensor(segment.sequence.pages, device=self._device) for segment in segments]
        lengths = [segment.sequence.length for segment in segments]
        where = torch.tensor([positions, pages], device=self._device)
        return _Batch(rows, held, lengths, where[0], where[1])

    @torch.inference_mode()
    def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
        """(computed, expected) of one product with every operand at its bound, for the startup test."""
        linear = self._linears[name]
        q = torch.full((1, linear.inputs), float(input_sign * cip.ACTIVATION_MAX), device=self._device)
        w = torch.full((linear.inputs, 1), float(weight_sign * linear.bound), device=self._device)
        found = self._multiply(q, list(w.split(self._tile(linear))))
        return int(found[0, 0]), weight_sign * input_sign * cip.ACTIVATION_MAX * linear.bound * linear.inputs

    def _wide(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.model.tensors[name].astype(np.int64)).to(self._device)

    def _narrow(self, name: str) -> torch.Tensor:
        """A large tensor in its own type; what is taken from it is widened where it is used."""
        return torch.from_numpy(self.model.tensors[name].copy()).to(self._device)

    def _tile(self, linear: cip.Linear) -> int:
        return (cip.EXACT_FLOAT32 - 1) // (cip.ACTIVATION_MAX * linear.bound)

    def _rotation(self, block: int) -> torch.Tensor:
        if block not in self._rotations:
            matrix = torch.ones((1, 1), dtype=torch.float64)
            while matrix.shape[0] < block:
                matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
            self._rotations[block] = matrix.to(self._device)
        return self._rotations[block]

    def _rotate(self, wide: torch.Tensor, block: int) -> torch.Tensor:
        if block == 1:
            return wide
        blocks = wide.double().view(-1, block)
        return torch.mm(blocks, self._rotations[block]).long().view(wide.shape)

    def _weigh(self, name: str, q: torch.Tensor) -> torch.Tensor:
        """Exact product with the weights of one or two terms, in units of the first."""
        product = self._multiply(q, self._weights[name])
        if self._linears[name].terms == 1:
            return product
        first, second = product.chunk(2, 1)
        return ((first << cip.TERM_BITS) + second) >> cip.TERM_BITS

    def _multiply(self, q: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        """Exact product over tiles of K, each below 2^24."""
        if len(weights) == 1:
            return torch.mm(q, weights[0]).long()
        total, begin = None, 0
        for weight in weights:
            part = (q[:, begin : begin + weight.shape[0]] @ weight).long()
            total = part if total is None else total.add_(part)
            begin += weight.shape[0]
        assert total is not None
        return total

    def _linear(self, name: str, wide: torch.Tensor, fraction_bits: int) -> torch.Tensor:
        """Rotate, quantise, multiply, rescale to Q16, saturate; then the bias of those that have one."""
        out = self._rescaled_product(name, wide, fraction_bits)
        bias = self._vectors.get(f"{name}.bias")
        return out if bias is None else out.add_(bias).clamp_(-cip.RESIDUAL_MAX, cip.RESIDUAL_MAX)

    def _rescaled_product(self, name: str, wide: torch.Tensor, fraction_bits: int) -> torch.Tensor:
        linear = self._linears[name]
        wide = self._rotate(wide, linear.block)
        if self._scalar and wide.shape[0] == 1:
            q, row_top, row_bits = _quantise_row(wide)
            scaled = self._weigh(name, q).mul_(self._scales[name] * row_top)
            scaled >>= min(max(fraction_bits + linear.exponent - 1 - row_bits, 0), 63)
            return scaled.clamp_(-cip.RESIDUAL_MAX, cip.RESIDUAL_MAX)
        q, top, bits = _quantise(wide)
        scaled = self._weigh(name, q).mul_(top * self._scales[name])
        shift = (fraction_bits + linear.exponent - 1 - bits).clamp_(0, 63)
        return (scaled >> shift).clamp_(-cip.RESIDUAL_MAX, cip.RESIDUAL_MAX)

    def _norm(self, x: torch.Tensor, gain: str) -> torch.Tensor:
        return self._over_rms(x).mul_(self._vectors[gain])

    def _norm_to_residual(self, x: torch.Tensor, gain: str) -> torch.Tensor:
        """A norm that goes on wide, in Q16."""
        return self._norm(x, gain) >> cip.HEAD_NORM_SHIFT

    def _layer_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean = x.sum(1, keepdim=True).div(x.shape[1], rounding_mode="floor")
        return self._norm_to_residual(x - mean, f"{name}.gain").add_(self._vectors[f"{name}.bias"])

    def _merge(self, x: torch.Tensor, update: torch.Tensor, layer: int, part: str) -> torch.Tensor:
        """The residual after attention or the MLP."""
        if self.shape.features.post_norms:
            update = self._norm_to_residual(update, f"layers.{layer}.post_{part}_norm.gain")
        total = (x + update).clamp_(-cip.RESIDUAL_MAX, cip.RESIDUAL_MAX)
        return total if self.shape.causal else self._layer_norm(total, f"layers.{layer}.{part}_norm")

    def _over_rms(self, x: torch.Tensor) -> torch.Tensor:
        """Q16 rows over their root mean square: Q14."""
        if self._scalar and x.shape[0] == 1:
            left = cip.WINDOW_BITS - int(x.abs().max()).bit_length()
            y = x << left if left >= 0 else x >> -left
            square = int((y * y).sum()) // x.shape[1]
            square += self.shape.norm_epsilon_q32 << 2 * left if left >= 0 else self.shape.norm_epsilon_q32 >> -2 * left
            y *= (1 << 40) // max(math.isqrt(square), 1)
            return y.bitwise_right_shift_(40 - cip.NORM_BITS)
        bits = _bit_length(x.abs().amax(1, keepdim=True))
        y = _shift(x, cip.WINDOW_BITS - bits)
        mean = (y * y).sum(1, keepdim=True) // x.shape[1]
        epsilon = torch.full_like(bits, self.shape.norm_epsilon_q32)
        mean += _shift(epsilon, 2 * (cip.WINDOW_BITS - bits))
        root = mean.double().sqrt().long()
        root -= (root * root > mean).long()
        root += ((root + 1) * (root + 1) <= mean).long()
        reciprocal = (1 << 40) // root.clamp_(min=1)
        return (y * reciprocal) >> (40 - cip.NORM_BITS)

    def _attention(self, x: torch.Tensor, layer: int, batch: "_Batch", tiles: list[np.ndarray]) -> torch.Tensor:
        s, rows = self.shape, x.shape[0]
        if s.causal:
            normed = self._norm(x, f"layers.{layer}.attention_norm.gain")
            qkv = self._linear(f"layers.{layer}.qkv", normed, cip.NORM_BITS + cip.GAIN_BITS)
        else:
            qkv = self._linear(f"layers.{layer}.qkv", x, cip.RESIDUAL_BITS)
        q, k, v = qkv.view(rows, -1, s.head_width).split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        if s.qk_norm:
            q, k = self._norm_head(q, f"layers.{layer}.q_norm.gain"), self._norm_head(k, f"layers.{layer}.k_norm.gain")
        local = s.local(layer)
        turned = torch.cat([q, k], 1)
        if self._angles:
            turned = self._rope(turned, batch.positions, *self._angles[local])
        turned = self._rotate(turned, self._head_block)
        every = torch.cat([turned, v], 1)  # rows are quantised each by itself
        all_q, all_top, all_bits = _quantise_few(every) if self._scalar and rows == 1 else _quantise(every)
        kv, kv_top, kv_bits = all_q[:, s.heads :], all_top[:, s.heads :], all_bits[:, s.heads :]
        tiles.append(_octets(kv.cpu().numpy(), "<i1"))
        tiles.append(_octets((kv_top + (kv_bits << 16)).cpu().numpy(), "<i4"))
        self._store.write(layer, batch, kv, kv_top, kv_bits)
        mixed = []
        for (begin, end), pages, length in zip(batch.rows, batch.held, batch.lengths, strict=True):
            past = self._store.read(layer, pages, length)
            for row in range(begin, end, QUERY_ROWS):
                query = [part[row : min(row + QUERY_ROWS, end), : s.heads] for part in (all_q, all_top, all_bits)]
                mixed.append(self._mix(*query, past, length - end + row, local))
        wide = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        return self._merge(x, self._linear(f"layers.{layer}.out", wide, cip.ATTENTION_BITS), layer, "attention")

    def _norm_head(self, heads: torch.Tensor, gain: str) -> torch.Tensor:
        """The norm over each head, in Q16."""
        return (self._norm(heads.flatten(0, 1), gain) >> cip.HEAD_NORM_SHIFT).view(heads.shape)

    def _rope(
        self, heads: torch.Tensor, positions: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> torch.Tensor:
        half = self.shape.rotary // 2
        cos, sin = cosines[positions].unsqueeze(1), sines[positions].unsqueeze(1)
        a, b, rest = heads.split([half, half, self.shape.head_width - 2 * half], dim=2)
        first = (a * cos - b * sin) >> cip.ROPE_BITS
        second = (b * cos + a * sin) >> cip.ROPE_BITS
        return torch.cat([first, second, rest], 2)

    def _mix(
        self, q: torch.Tensor, q_top: torch.Tensor, q_bits: torch.Tensor, past: tuple[torch.Tensor, ...], start: int,
        local: bool,
    ) -> torch.Tensor:  # fmt: skip
        """Softmax attention of rows from position `start` on: 127 * output in Q14. Inside, axes are [kv head, row *
        shared head, key], and keys are those that some row sees."""
        s, rows = self.shape, q.shape[0]
        first_key = max(start + 1 - s.window, 0) if local else 0
        keys = torch.arange(first_key, start + rows if s.causal else past[0].shape[1], device=self._device)
        length = len(keys)
        k, v = (part.narrow(1, first_key, length) for part in past[:2])
        k_top, k_bits, v_top, v_bits = (part.narrow(2, first_key, length) for part in past[2:])
        shared = s.heads // s.kv_heads

        def fold(z: torch.Tensor) -> torch.Tensor:
            if rows == 1:
                return z.reshape(s.kv_heads, shared, -1)
            return z.reshape(rows, s.kv_heads, shared, -1).transpose(0, 1).reshape(s.kv_heads, rows * shared, -1)

        dot = torch.bmm(fold(q), k.transpose(1, 2)).long()
        scale = (fold(q_top) * self._score_mantissa) >> 8
        shift = (38 + self._score_exponent - fold(q_bits) - k_bits).clamp_(0, 63)
        score = dot.mul_(k_top * scale) >> shift
        masked = rows > 1 and s.causal
        if masked:
            ages = torch.arange(start, start + rows, device=self._device).unsqueeze(1) - keys
            outside = (ages < 0) | (ages >= s.window) if local else ages < 0
            score.masked_fill_(outside.repeat_interleave(shared, 0), -(1 << 62))
        below = score.amax(2, keepdim=True) - score
        e = self._exp2.take((below & 0xFFFF) >> (16 - cip.EXP2_INDEX_BITS)) >> (below >> 16).clamp_(max=31)
        if masked:
            seen = v_bits.masked_fill(outside, 0)
            highest = seen.amax(2, keepdim=True).repeat_interleave(shared, 1)
        else:
            highest = v_bits.amax(2, keepdim=True)
        weight = (e * v_top) >> (highest - v_bits).clamp_(0, 63)
        narrow = (_bit_length(weight.amax(2, keepdim=True)) - 15).clamp_(min=0)
        weight >>= narrow
        halves = torch.cat((weight >> 7, weight & 127), 1).float()  # each below 2^8: exact products in one pass
        total: torch.Tensor | None = None
        for first in range(0, length, cip.PV_TILE_KEYS):
            values = v[:, first : first + cip.PV_TILE_KEYS]
            high, low = torch.bmm(halves[:, :, first : first + cip.PV_TILE_KEYS], values).long().chunk(2, 1)
            part = (high << 7).add_(low)
            total = part if total is None else total.add_(part)
        assert total is not None
        mass = e.sum(2, keepdim=True)
        mass_bits = _bit_length(mass)
        reciprocal = (1 << 43) // (mass >> (mass_bits - cip.WINDOW_BITS))
        shift = (52 - cip.ATTENTION_BITS + mass_bits - narrow - highest).clamp_(0, 63)
        wide = total.mul_(reciprocal) >> shift
        if rows == 1:
            return wide.view(1, -1)
        return wide.view(s.kv_heads, rows, shared, -1).transpose(0, 1).reshape(rows, -1)

    def _mlp(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        if self.shape.causal:
            normed = self._norm(x, f"layers.{layer}.mlp_norm.gain")
            gate, up = self._linear(f"layers.{layer}.gate_up", normed, cip.NORM_BITS + cip.GAIN_BITS).chunk(2, 1)
            wide = (self._gated(gate) * up.clamp(-cip.GATE_MAX, cip.GATE_MAX)) >> cip.RESIDUAL_BITS
        else:
            wide = self._gated(self._linear(f"layers.{layer}.up", x, cip.RESIDUAL_BITS))
        return self._merge(x, self._linear(f"layers.{layer}.down", wide, cip.RESIDUAL_BITS), layer, "mlp")

    def _gated(self, values: torch.Tensor) -> torch.Tensor:
        """What the activation lets through of each value."""
        half = 1 << (cip.SIGMOID_INDEX_BITS - 1)
        place = (values >> self.shape.features.gate_step_bits).add_(half).clamp_(0, 2 * half - 1)
        return ((values * self._gate.take(place)) >> cip.SIGMOID_VALUE_BITS).clamp_(-cip.GATE_MAX, cip.GATE_MAX)


class _Batch(NamedTuple):
    """Where a pass's rows lie: (first, end) row, pages and length of each segment; position and page of each row."""

    rows: list[tuple[int, int]]
    held: list[torch.Tensor]
    lengths: list[int]
    positions: torch.Tensor
    pages: torch.Tensor


class _Store:
    """A pool's bytes on the device: by layer and page, int8 heads (keys', then values'), mantissas and bit lengths."""

    def __init__(self, shape: cip.Shape, pages: int, device: torch.device) -> None:
        self.pages, self._heads = pages, shape.kv_heads
        extent = (shape.layers, pages, 2 * shape.kv_heads, PAGE)
        self._q = torch.empty((*extent, shape.head_width), dtype=torch.int8, device=device)
        # Mantissas reach 2^15, which int16 holds as -2^15; uint16 has few operations.
        self._top = torch.empty(extent, dtype=torch.int16, device=device)
        self._bits = torch.empty(extent, dtype=torch.int8, device=device)

    def copy_page(self, source: int, target: int, positions: int) -> None:
        """Copy a page's first positions."""
        for part in (self._q, self._top, self._bits):
            part[:, target, :, :positions] = part[:, source, :, :positions]

    def write(self, layer: int, batch: _Batch, q: torch.Tensor, top: torch.Tensor, bits: torch.Tensor) -> None:
        """Write rows [rows, key heads + value heads, ...] where the batch says."""
        where = (batch.pages, slice(None), batch.positions % PAGE)
        self._q[layer][where] = q.to(torch.int8)
        self._top[layer][where] = top[:, :, 0].to(torch.int16)
        self._bits[layer][where] = bits[:, :, 0].to(torch.int8)

    def read(self, layer: int, pages: torch.Tensor, length: int) -> tuple[torch.Tensor, ...]:
        """k, v [heads, keys, width] in float32; k top, k bits, v top, v bits [heads, 1, keys] in int64."""
        h = self._heads

        def join(part: torch.Tensor) -> torch.Tensor:
            return part[layer][pages].transpose(0, 1).flatten(1, 2)[:, :length]

        q, top, bits = join(self._q).float(), join(self._top).long() & 0xFFFF, join(self._bits).long()
        top, bits = top.unsqueeze(1), bits.unsqueeze(1)
        return q[:h], q[h:], top[:h], bits[:h], top[h:], bits[h:]


def _bit_length(values: torch.Tensor) -> torch.Tensor:
    """Bit length of non-negative integers below 2^53."""
    return torch.frexp(values.double()).exponent.long()


def _shift(values: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """values * 2^left, floored where left is negative."""
    return (values << left.clamp(min=0)) >> (-left).clamp(min=0)


def _quantise(wide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """int8 in float32, mantissa and bit length of each row (last axis)."""
    largest = wide.abs().amax(-1, keepdim=True)
    bits = _bit_length(largest)
    left = cip.WINDOW_BITS - bits
    top = (_shift(largest, left) >> 7) + 1
    reciprocal = (cip.ACTIVATION_MAX << 23) // top
    return ((_shift(wide, left) * reciprocal + (1 << 29)) >> 30).float(), top, bits


def _quantise_row(wide: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """_quantise of a single row [1, n]."""
    largest = int(wide.abs().max())
    bits = largest.bit_length()
    left = cip.WINDOW_BITS - bits
    top = ((largest << left if left >= 0 else largest >> -left) >> 7) + 1
    y = wide << left if left >= 0 else wide >> -left
    y *= (cip.ACTIVATION_MAX << 23) // top
    y += 1 << 29
    y >>= 30
    return y.float(), top, bits


def _quantise_few(wide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """_quantise of few rows [1, n, m] on a CPU: their scales in Python."""
    largest = wide.abs().amax(-1)[0].tolist()
    bits = [value.bit_length() for value in largest]
    if max(bits) > cip.WINDOW_BITS:
        return _quantise(wide)
    left = [cip.WINDOW_BITS - each for each in bits]
    top = [((value << by) >> 7) + 1 for value, by in zip(largest, left, strict=True)]
    # (x << left) * reciprocal = x * (reciprocal << left), below 2^39 in magnitude.
    factor = [((cip.ACTIVATION_MAX << 23) // each) << by for each, by in zip(top, left, strict=True)]
    made = torch.tensor([factor, top, bits]).unsqueeze(2)
    q = (wide * made[0]).add_(1 << 29)
    q >>= 30
    return q.float(), made[1:2], made[2:3]


def _octets(array: np.ndarray, dtype: str) -> np.ndarray:
    """Little-endian bytes of each row."""
    return np.ascontiguousarray(array.astype(dtype)).reshape(len(array), -1).view(np.uint8)
