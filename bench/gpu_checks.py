"""One kernel after the other against the reference, on random extents and on values at the edges of what may come: rows
of zeros, of one value, of residuals at 10^5 and at the limit, scales that saturate everything. gpu.py runs them on a
device, tests under Triton's interpreter.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from inference import cuda_engine
from inference import program as cip
from inference import triton_kernels as kernels
from inference.cuda_engine import lanes, power_of_two, stages, tile_of, warps_of
from inference.kv import PAGE
from inference.model import gain_limit
from inference.reference import hadamard, over_rms, quantise
from inference.torch_engine import is_exact

ACC_MAX = (1 << 17) * 127 * 127
WIDTHS = (1, 3, 24, 64, 130, 520)
EPSILONS = (1, 42950, cip.EPSILON_MAX)


class Difference(Exception):
    """A kernel's result is not the reference's; says of which operation, where, and both values."""


def compare(operation: str, what: str, expected: np.ndarray, found: torch.Tensor, about: object) -> None:
    """Raises Difference at the first element that differs."""
    found_values, expected_values = found.cpu().numpy().astype(np.int64), expected.astype(np.int64)
    assert found_values.shape == expected_values.shape, (operation, what, found_values.shape, expected_values.shape)
    wrong = np.argwhere(found_values != expected_values)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise Difference(f"{operation}: {what}{list(at)} is {found_values[at]}, the reference gives "
                         f"{expected_values[at]} ({len(wrong)} of {found_values.size} differ; {about})")  # fmt: skip


# ------------------------------------------------------------------ inputs


def wide_rows(dice: np.random.Generator, rows: int, width: int, limit: int) -> np.ndarray:
    """int64 rows in -limit .. limit of very different magnitude."""
    made = np.empty((rows, width), np.int64)
    for row in made:
        style, size = dice.integers(0, 6), min(int(limit), 1 << int(dice.integers(0, 54)))
        row[:] = dice.integers(-size, size + 1, width)
        if style == 0:
            row[:] = 0
        elif style == 1:
            row[:] = limit * dice.choice([-1, 1], width)
        elif style == 2:
            row[:] = 0
            row[dice.integers(0, width)] = dice.choice([-limit, limit, 1, -1])
        elif style == 3:
            row[:] = np.clip(row, -9, 9)
            row[dice.integers(0, width)] = min(104_061 << cip.RESIDUAL_BITS, limit)
    return made


def scales_of(dice: np.random.Generator, extent: tuple[int, ...], bits_max: int = 53) -> np.ndarray:
    """top + 2^16 * bits as quantising makes them, those of rows of zeros among them."""
    top, bits = dice.integers((1 << 14) + 1, (1 << 15) + 1, extent), dice.integers(0, bits_max + 1, extent)
    zeros = dice.random(extent) < 0.1
    return np.where(zeros, 1, top + (bits << 16)).astype(np.int32)


class Outputs:
    """A product's int32 result with all that becomes Q16 of it, and the Q16 values by the page's formula."""

    def __init__(self, dice: np.random.Generator, rows: int, outputs: int, fraction_bits: int) -> None:
        self.terms, self.outputs = int(dice.integers(1, 3)), outputs
        columns = -(-self.terms * outputs // 8) * 8
        self.acc = np.clip(wide_rows(dice, rows, columns, ACC_MAX), -ACC_MAX, ACC_MAX).astype(np.int32)
        self.scale = dice.integers(0, 1 << 16, outputs).astype(np.int32)
        self.bias = dice.integers(-(1 << 31), 1 << 31, outputs).astype(np.int32) if dice.random() < 0.5 else None
        self.row_scale = scales_of(dice, (rows,))
        self.base = fraction_bits + int(dice.integers(0, cip.EXPONENT_MAX + 1)) - 1
        product = self.acc[:, :outputs].astype(np.int64)
        if self.terms == 2:
            product = (product * 128 + self.acc[:, outputs : 2 * outputs]) >> 7
        top, bits = (self.row_scale.astype(np.int64) & 0xFFFF)[:, None], (self.row_scale >> 16)[:, None]
        self.values = saturated((product * (top * self.scale)) >> np.clip(self.base - bits, 0, 63))
        if self.bias is not None:
            self.values = saturated(self.values + self.bias)

    def arguments(self, device: str) -> tuple[Any, ...]:
        """Of a kernel."""
        scale = on(self.scale, device)
        return (on(self.acc, device), self.acc.shape[1], scale, scale if self.bias is None else on(self.bias, device),
                on(self.row_scale, device), self.outputs, self.base)  # fmt: skip

    @property
    def form(self) -> dict[str, Any]:
        """What a kernel is compiled for."""
        return {"TERMS": self.terms, "BIAS": self.bias is not None}


def saturated(values: np.ndarray) -> np.ndarray:
    """Clamped as a residual is."""
    return np.clip(values, -cip.RESIDUAL_MAX, cip.RESIDUAL_MAX)


def on(array: np.ndarray, device: str) -> torch.Tensor:
    """On the device, in its own type."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def rotated(rows: np.ndarray, block: int) -> np.ndarray:
    """Blocks of each row times the +-1 Hadamard matrix."""
    return (rows.reshape(-1, block) @ hadamard(block).astype(np.int64)).reshape(rows.shape)


def quantised(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(q, scale) of rows of the last axis."""
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    q, top, bits = quantise(flat)
    scale = (np.asarray(top).astype(np.int64) + (np.asarray(bits).astype(np.int64) << 16)).reshape(rows.shape[:-1])
    return q.astype(np.int64).reshape(rows.shape), scale


def normed(rows: np.ndarray, gain: np.ndarray, epsilon: int) -> np.ndarray:
    """Q26 of rows [rows, width]."""
    return over_rms(rows.astype(np.float64), epsilon).astype(np.int64) * gain


def gain_of(dice: np.random.Generator, width: int) -> np.ndarray:
    """At most what a manifest may hold."""
    limit = gain_limit(width) if dice.random() < 0.3 else 1 << 13
    return dice.integers(-limit, limit + 1, width).astype(np.int32)


def columns_of(width: int) -> int:
    """What a product takes of rows of this width."""
    return -(-width // 16) * 16


# ------------------------------------------------------------------ checks


def check_embed(dice: np.random.Generator, device: str) -> None:
    """Rows of the embedding."""
    width, exponent, vocabulary = int(dice.choice(WIDTHS)), int(dice.integers(0, 64)), 7
    tokens = dice.integers(0, vocabulary, 3).astype(np.int32)
    weight = dice.integers(-127, 128, (vocabulary, width)).astype(np.int8)
    scale = dice.integers(0, 1 << 16, vocabulary).astype(np.int32)
    x = torch.empty((3, width), dtype=torch.int64, device=device)
    tile = tile_of(width)
    kernels.embed_kernel[(3, -(-width // tile))](
        on(tokens, device), on(weight, device), on(scale, device), x, width, exponent, N=tile
    )
    value = (weight[tokens].astype(np.int64) * scale[tokens].astype(np.int64)[:, None]) << cip.RESIDUAL_BITS
    compare("embed", "x", value >> exponent, x, f"width {width}, exponent {exponent}")


def check_norm(dice: np.random.Generator, device: str) -> None:
    """Norm, rotation and quantisation of some rows."""
    width, epsilon = int(dice.choice(WIDTHS)), int(dice.choice(EPSILONS))
    block, rows, columns = cip.rotation_block(width), 4, columns_of(width)
    x, gain = wide_rows(dice, rows, width, cip.RESIDUAL_MAX), gain_of(dice, width)
    picks = dice.permutation(rows)[:2].astype(np.int32)
    q = torch.full((2, columns), 77, dtype=torch.int8, device=device)
    scale = torch.empty(2, dtype=torch.int32, device=device)
    kernels.norm_kernel[(2,)](
        on(x, device), on(picks, device), on(gain, device), q, scale, width, columns, epsilon, N=lanes(width),
        STAGES=stages(block), num_warps=warps_of(width),
    )  # fmt: skip
    expected, scales = quantised(rotated(normed(x[picks], gain, epsilon), block))
    about = f"width {width}, epsilon {epsilon}"
    compare("norm", "q", padded(expected, columns), q, about)
    compare("norm", "scale", scales, scale, about)


def check_merge(dice: np.random.Generator, device: str) -> None:
    """Rescaling, saturation, a sandwich norm, the residual, and what the next product reads."""
    width, epsilon, rows = int(dice.choice(WIDTHS)), int(dice.choice(EPSILONS)), 3
    post, block, columns = bool(dice.integers(0, 2)), cip.rotation_block(width), columns_of(width)
    outputs = Outputs(dice, rows, width, cip.RESIDUAL_BITS)
    x, post_gain, gain = wide_rows(dice, rows, width, cip.RESIDUAL_MAX), gain_of(dice, width), gain_of(dice, width)
    out = torch.empty((rows, width), dtype=torch.int64, device=device)
    q = torch.empty((rows, columns), dtype=torch.int8, device=device)
    scale = torch.empty(rows, dtype=torch.int32, device=device)
    kernels.merge_kernel[(rows,)](
        on(x, device), out, *outputs.arguments(device), on(post_gain, device), on(gain, device), q, scale, width,
        columns, epsilon, N=lanes(width), STAGES=stages(block), POST=post, NEXT=True, num_warps=warps_of(width),
        **outputs.form,
    )  # fmt: skip
    update = normed(outputs.values, post_gain, epsilon) >> cip.HEAD_NORM_SHIFT if post else outputs.values
    total = saturated(x + update)
    expected, scales = quantised(rotated(normed(total, gain, epsilon), block))
    about = f"width {width}, epsilon {epsilon}, post norm {post}, {outputs.form}, shift base {outputs.base}"
    compare("merge", "residual", total, out, about)
    compare("merge", "q", padded(expected, columns), q, about)
    compare("merge", "scale", scales, scale, about)


def check_logits(dice: np.random.Generator, device: str) -> None:
    """Rescaling and saturation alone."""
    width, rows = int(dice.choice((*WIDTHS, 1041))), 2
    outputs = Outputs(dice, rows, width, cuda_engine.NORMED_BITS)
    out, tile = torch.empty((rows, width), dtype=torch.int64, device=device), tile_of(width)
    kernels.logits_kernel[(rows, -(-width // tile))](*outputs.arguments(device), out, width, N=tile, **outputs.form)
    compare("logits", "out", outputs.values, out, f"{width} outputs, {outputs.form}, shift base {outputs.base}")


def check_gate(dice: np.random.Generator, device: str) -> None:
    """The activation, its product, rotation, and quantisation over several tiles."""
    hidden, rows, step = int(dice.choice((1, 7, 40, 1041, 2112))), 2, int(dice.choice((6, 7)))
    block, columns, tile = cip.rotation_block(hidden), columns_of(hidden), tile_of(hidden)
    outputs = Outputs(dice, rows, 2 * hidden, cuda_engine.NORMED_BITS)
    gate = np.sort(dice.integers(0, (1 << 16) + 1, 1 << cip.SIGMOID_INDEX_BITS)).astype(np.int32)
    gate[0], gate[-1] = 0, 1 << 16
    tiles = -(-hidden // tile)
    wide = torch.empty((rows, hidden), dtype=torch.int64, device=device)
    largest = torch.empty((rows, tiles), dtype=torch.int64, device=device)
    kernels.gate_kernel[(rows, tiles)](
        *outputs.arguments(device), on(gate, device), step, wide, largest, hidden, N=tile, STAGES=stages(block),
        **outputs.form,
    )  # fmt: skip
    value, up = outputs.values[:, :hidden], outputs.values[:, hidden:]
    place = np.clip((value >> step) + (1 << 13), 0, (1 << 14) - 1)
    passed = np.clip((value * gate[place]) >> cip.SIGMOID_VALUE_BITS, -cip.GATE_MAX, cip.GATE_MAX)
    mixed = (passed * np.clip(up, -cip.GATE_MAX, cip.GATE_MAX)) >> cip.RESIDUAL_BITS
    about = f"hidden {hidden}, step {step}, {outputs.form}, shift base {outputs.base}"
    compare("gate", "wide", rotated(mixed, block), wide, about)
    q = torch.empty((rows, columns), dtype=torch.int8, device=device)
    scale = torch.empty(rows, dtype=torch.int32, device=device)
    kernels.quantise_kernel[(rows, -(-columns // tile))](
        wide, largest, tiles, q, scale, hidden, columns, N=tile, TILES=power_of_two(tiles)
    )
    expected, scales = quantised(rotated(mixed, block))
    compare("quantise", "q", padded(expected, columns), q, about)
    compare("quantise", "scale", scales, scale, about)


def check_heads(dice: np.random.Generator, device: str) -> None:
    """Heads of query, key and value: norm, turn, rotation, quantisation, and their places in the pool."""
    heads, kv_heads, width = int(dice.integers(1, 4)), int(dice.integers(1, 3)), int(dice.choice((1, 6, 12, 33, 64)))
    rows, context, pages, norm = 2, 150, 3, bool(dice.integers(0, 2))
    half, epsilon, block = int(dice.integers(0, width // 2 + 1)), int(dice.choice(EPSILONS)), cip.rotation_block(width)
    outputs = Outputs(dice, rows, (heads + 2 * kv_heads) * width, cuda_engine.NORMED_BITS)
    positions, where = dice.integers(0, context, rows).astype(np.int32), dice.permutation(pages)[:rows].astype(np.int32)
    cosines, sines = (dice.integers(-(1 << 14), (1 << 14) + 1, (context, max(half, 1))).astype(np.int16)
                      for _ in range(2))  # fmt: skip
    gains = [gain_of(dice, width) for _ in range(2)]
    q = torch.empty((rows, heads, width), dtype=torch.int8, device=device)
    q_scale = torch.empty((rows, heads), dtype=torch.int32, device=device)
    store = torch.zeros((pages, 2 * kv_heads, PAGE, width), dtype=torch.int8, device=device)
    store_scale = torch.zeros((pages, 2 * kv_heads, PAGE), dtype=torch.int32, device=device)
    kv = torch.empty((rows, 2 * kv_heads, width), dtype=torch.int8, device=device)
    kv_scale = torch.empty((rows, 2 * kv_heads), dtype=torch.int32, device=device)
    kernels.heads_kernel[(rows, heads + 2 * kv_heads)](
        *outputs.arguments(device), *(on(gain, device) for gain in gains), epsilon, on(positions, device),
        on(cosines, device), on(sines, device), on(where, device), q, q_scale, store, store_scale, kv, kv_scale, heads,
        kv_heads, width, half, N=lanes(width), STAGES=stages(block), NORM=norm, TURN=half > 0, num_warps=1,
        **outputs.form,
    )  # fmt: skip
    turned = outputs.values.reshape(rows, -1, width).copy()
    for first, end, gain in ((0, heads, gains[0]), (heads, heads + kv_heads, gains[1])):
        part = turned[:, first:end]
        if norm:
            part = (normed(part.reshape(-1, width), gain, epsilon) >> cip.HEAD_NORM_SHIFT).reshape(part.shape)
        if half:
            cos, sin = (table[positions].astype(np.int64)[:, None] for table in (cosines, sines))
            a, b = part[..., :half], part[..., half : 2 * half]
            part = np.concatenate([(a * cos - b * sin) >> cip.ROPE_BITS, (b * cos + a * sin) >> cip.ROPE_BITS,
                                   part[..., 2 * half :]], axis=2)  # fmt: skip
        turned[:, first:end] = rotated(part, block)
    expected, scales = quantised(turned)
    about = f"{heads} + {kv_heads} heads of {width}, norm {norm}, half {half}, {outputs.form}, base {outputs.base}"
    compare("heads", "q", expected[:, :heads], q, about)
    compare("heads", "q scale", scales[:, :heads], q_scale, about)
    compare("heads", "key and value", expected[:, heads:], kv, about)
    compare("heads", "key and value scale", scales[:, heads:], kv_scale, about)
    at = torch.from_numpy(where).long(), torch.from_numpy(positions % PAGE).long()
    compare("heads", "pool", expected[:, heads:], store.cpu()[at[0], :, at[1]], about)
    compare("heads", "pool scale", scales[:, heads:], store_scale.cpu()[at[0], :, at[1]], about)


def check_attention(dice: np.random.Generator, device: str) -> None:
    """Three looks at the keys and the close, keys shared out or not, windows, ends of pages, a company of sequences."""
    kv_heads, shared, width = int(dice.integers(1, 3)), int(dice.integers(1, 4)), int(dice.choice((1, 6, 33, 64)))
    heads, window = kv_heads * shared, int(dice.choice((5, 70, cuda_engine.EVERYTHING)))
    splits, item_rows, counts = int(dice.choice((1, 4))), int(dice.choice((1, 4))), dice.integers(1, 6, 2)
    starts, rows, divisor = dice.integers(0, 150, 2), int(counts.sum()), int(dice.choice((0, 300)))
    exp2 = (1 << 30) - np.sort(dice.integers(0, 1 << 29, 1 << cip.EXP2_INDEX_BITS)).astype(np.int32)
    exp2[0] = 1 << 30
    pages, table_width = 9, 4
    store = dice.integers(-127, 128, (pages, 2 * kv_heads, PAGE, width)).astype(np.int8)
    bits_max = int(dice.choice((0, 20, 53)))
    store_scale = scales_of(dice, (pages, 2 * kv_heads, PAGE), bits_max)
    q = dice.integers(-127, 128, (rows, heads, width)).astype(np.int8)
    if dice.random() < 0.3:
        q[:], store[:] = 127, dice.choice([-127, 127])
    q_scale = scales_of(dice, (rows, heads), bits_max)
    tables = dice.permutation(pages)[: 2 * table_width].reshape(2, table_width).astype(np.int32)
    positions = np.concatenate([np.arange(s, s + c) for s, c in zip(starts, counts, strict=True)]).astype(np.int32)
    items = [(row + (0 if n == 0 else int(counts[0])), min(item_rows, int(counts[n]) - row), n)
             for n in range(2) for row in range(0, int(counts[n]), item_rows)]  # fmt: skip
    mantissa, exponent = cip.score_scale(width, divisor)

    def new(*extent: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.empty(extent, dtype=dtype, device=device)

    highest, mass, heaviest = (new(splits, rows, heads) for _ in range(3))
    bits, total = new(splits, rows, heads, dtype=torch.int32), new(splits, rows, heads, width)
    seen = (on(np.array(items, np.int32), device), on(positions, device), on(q, device), on(q_scale, device),
            on(store, device), on(store_scale, device), on(tables, device), table_width)  # fmt: skip
    how = (rows * heads, heads, kv_heads, width, mantissa, 38 + exponent, window)
    extents = {"ROWS": item_rows, "M": max(16, power_of_two(item_rows * shared)), "WIDE": max(32, power_of_two(width)),
               "SPLITS": splits, "num_warps": 8}  # fmt: skip
    grid, powers = (len(items), kv_heads, splits), on(exp2, device)
    kernels.highest_kernel[grid](*seen, highest, bits, *how, **extents)
    kernels.mass_kernel[grid](*seen, powers, highest, bits, mass, heaviest, *how, **extents)
    kernels.mix_kernel[grid](*seen, powers, highest, bits, heaviest, total, *how, **extents)
    across, tile = heads * width, tile_of(heads * width)
    block, tiles = cip.rotation_block(across), -(-across // tile)
    wide, largest = new(rows, across), new(rows, tiles)
    kernels.close_kernel[(rows, tiles)](
        total, mass, heaviest, bits, rows * heads, wide, largest, heads, width, N=tile, STAGES=stages(block),
        SPLITS=splits, num_warps=8,
    )  # fmt: skip
    expected = np.empty((rows, heads, width), np.int64)
    for row in range(rows):
        sequence, position = int(row >= counts[0]), int(positions[row])
        keys = np.arange(max(0, position - window + 1), position + 1)
        at = tables[sequence, keys // PAGE], keys % PAGE
        for head in range(heads):
            k, v = (store[at[0], side * kv_heads + head // shared, at[1]].astype(np.int64) for side in range(2))
            k_scale, v_scale = (store_scale[at[0], side * kv_heads + head // shared, at[1]].astype(np.int64)
                                for side in range(2))  # fmt: skip
            own = int(q_scale[row, head])
            expected[row, head] = attended(q[row, head].astype(np.int64), own & 0xFFFF, own >> 16, k, k_scale, v,
                                           v_scale, exp2.astype(np.int64), mantissa, exponent)  # fmt: skip
    about = (f"{kv_heads} x {shared} heads of {width}, window {window}, {splits} shares, items of {item_rows}, from "
             f"{starts.tolist()}, bits to {bits_max}")  # fmt: skip
    compare("attention", "wide", rotated(expected.reshape(rows, -1), block), wide, about)
    compare("attention", "largest", np.abs(rotated(expected.reshape(rows, -1), block)).max(1, keepdims=True), largest,
            about)  # fmt: skip


def attended(
    q: np.ndarray, q_top: int, q_bits: int, k: np.ndarray, k_scale: np.ndarray, v: np.ndarray, v_scale: np.ndarray,
    exp2: np.ndarray, mantissa: int, exponent: int,
) -> np.ndarray:  # fmt: skip
    """docs/inference.md, Attention, of one query head: the four steps by their letters."""
    shift = np.clip(38 + exponent - q_bits - (k_scale >> 16), 0, 63)
    score = ((k @ q) * (k_scale & 0xFFFF) * ((q_top * mantissa) >> 8)) >> shift
    below = score.max() - score
    power = exp2[(below & 0xFFFF) >> 4] >> np.minimum(below >> 16, 31)
    v_bits = v_scale >> 16
    weight = (power * (v_scale & 0xFFFF)) >> np.clip(v_bits.max() - v_bits, 0, 63)
    narrow = max(0, int(weight.max()).bit_length() - 15)
    total, mass = (weight >> narrow) @ v, int(power.sum())
    mass_bits = mass.bit_length()
    reciprocal = (1 << 43) // (mass >> (mass_bits - 22))
    return (total * reciprocal) >> min(max(38 + mass_bits - narrow - int(v_bits.max()), 0), 63)


def check_product(dice: np.random.Generator, device: str) -> None:
    """Every product that is used here, on extents that fill no tile."""
    rows, outputs, inputs = int(dice.integers(1, 140)), 8 * int(dice.integers(1, 40)), 16 * int(dice.integers(1, 40))
    q, weight = (dice.integers(-127, 128, (n, inputs)).astype(np.int8) for n in (rows, outputs))
    if dice.random() < 0.3:
        q[:], weight[:] = dice.choice([-127, 127]), dice.choice([-127, 127])
    room = np.full((max(rows, cuda_engine.PRODUCT_ROWS), inputs), -128, np.int8)
    room[:rows] = q
    for product in exact_products(device):
        found = product.multiply(on(room, device), on(weight, device), rows)[:rows]
        compare("product", product.name, q.astype(np.int64) @ weight.T.astype(np.int64), found,
                f"{rows} x {inputs} x {outputs}")  # fmt: skip


@cache
def exact_products(device: str) -> list[cuda_engine.Product]:
    """Those that the executor would choose from."""
    return [product for product in cuda_engine.PRODUCTS if is_exact(product.backend, device)]


def padded(q: np.ndarray, columns: int) -> np.ndarray:
    """Zeros up to what a product takes."""
    return np.pad(q, ((0, 0), (0, columns - q.shape[1])))


CHECKS: dict[str, Callable[[np.random.Generator, str], None]] = {
    "embed": check_embed,
    "norm": check_norm,
    "merge": check_merge,
    "logits": check_logits,
    "gate, quantise": check_gate,
    "heads": check_heads,
    "attention": check_attention,
    "product": check_product,
}
