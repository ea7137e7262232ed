"""The operations between two products as Triton kernels, on integers of 64 bits, where docs/inference.md proves that
they fit. Owns arithmetic on device memory; inference/cuda_engine.py decides what runs when, on which rows.

Knows no model and no page allocation. Floats: float64 where a bit length is read off its exponent, where a square root
is guessed before integers correct it, and in one quotient whose floor is proved. Nothing mixes rows but attention, and
all sums are of integers, so neither the number of programs nor their order can change a bit. Triton's // truncates;
what is divided here is positive.

Conventions: a row's scale is an int32, top + 2^16 * bits; rows of int8 end in zeros up to what a product takes; a
product's result `acc` is int32, a second term's beside the first's, `second` columns further on.
"""

import triton
import triton.language as tl

from inference import program as cip
from inference.kv import PAGE

RESIDUAL_MAX = tl.constexpr(cip.RESIDUAL_MAX)
GATE_MAX = tl.constexpr(cip.GATE_MAX)
WINDOW_BITS = tl.constexpr(cip.WINDOW_BITS)
NORM_SHIFT = tl.constexpr(40 - cip.NORM_BITS)
HEAD_NORM_SHIFT = tl.constexpr(cip.HEAD_NORM_SHIFT)
TERM_BITS = tl.constexpr(cip.TERM_BITS)
ROPE_BITS = tl.constexpr(cip.ROPE_BITS)
RESIDUAL_BITS = tl.constexpr(cip.RESIDUAL_BITS)
SHARE_BITS = tl.constexpr(cip.SIGMOID_VALUE_BITS)
SHARES = tl.constexpr(1 << cip.SIGMOID_INDEX_BITS)
ACTIVATION_MAX = tl.constexpr(cip.ACTIVATION_MAX)
CLOSE_SHIFT = tl.constexpr(52 - cip.ATTENTION_BITS)
HIDDEN = tl.constexpr(-(1 << 62))  # below every score, and far enough from the int64 edge to subtract
KEYS = tl.constexpr(PAGE)


# ------------------------------------------------------------------ building blocks


@triton.jit
def _bit_length(x):
    """Of integers 0 <= x < 2^53: the exponent of x in float64, which is exact there."""
    return tl.where(x == 0, 0, (x.to(tl.float64).to(tl.int64, bitcast=True) >> 52) - 1022)


@triton.jit
def _saturated(x):
    return tl.minimum(tl.maximum(x, -RESIDUAL_MAX), RESIDUAL_MAX)


@triton.jit
def _clamped_shift(shift):
    return tl.minimum(tl.maximum(shift, 0), 63)


@triton.jit
def _moved(x, left):
    """x << left, or an arithmetic shift right where left is negative."""
    return (x << tl.maximum(left, 0)) >> tl.maximum(-left, 0)


@triton.jit
def _rotated(x, N: tl.constexpr, STAGES: tl.constexpr):
    """Blocks of 2^STAGES of a row [N] times the +-1 Sylvester-Hadamard matrix: sums and differences."""
    for stage in tl.static_range(STAGES):
        pairs = tl.permute(tl.reshape(x, (N // (2 << stage), 2, 1 << stage)), (0, 2, 1))
        a, b = tl.split(pairs)
        x = tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 2, 1)), (N,))
    return x


@triton.jit
def _quantised(x, largest):
    """(q, scale) of rows whose largest magnitude is given."""
    bits = _bit_length(largest)
    left = WINDOW_BITS - bits
    top = (_moved(largest, left) >> 7) + 1
    q = (_moved(x, left) * ((ACTIVATION_MAX << 23) // top) + (1 << 29)) >> 30
    return q.to(tl.int8), (top + (bits << 16)).to(tl.int32)


@triton.jit
def _over_rms(x, width, epsilon):
    """Q16 rows [N], zeros past the width, over their root mean square: Q14."""
    bits = _bit_length(tl.max(tl.abs(x), axis=0))
    left = WINDOW_BITS - bits
    y = _moved(x, left)
    mean = tl.sum(y * y, axis=0) // width + _moved(bits * 0 + epsilon, 2 * left)
    root = tl.sqrt(mean.to(tl.float64)).to(tl.int64)
    for _ in tl.static_range(2):  # the guess is off by one at most; a second step costs nothing
        root = tl.where(root * root > mean, root - 1, root)
    for _ in tl.static_range(2):
        root = tl.where((root + 1) * (root + 1) <= mean, root + 1, root)
    return (y * ((1 << 40) // tl.maximum(root, 1))) >> NORM_SHIFT


@triton.jit
def _linear(acc, scale, bias, cols, inside, second, row_scale, base, TERMS: tl.constexpr, BIAS: tl.constexpr):
    """Q16 outputs `cols` of one row's product; base is fraction bits + exponent - 1."""
    product = tl.load(acc + cols, mask=inside, other=0).to(tl.int64)
    if TERMS == 2:
        product = ((product << TERM_BITS) + tl.load(acc + second + cols, mask=inside, other=0)) >> TERM_BITS
    top = (row_scale & 0xFFFF).to(tl.int64)
    shift = _clamped_shift(base - (row_scale >> 16))
    out = _saturated((product * (top * tl.load(scale + cols, mask=inside, other=0))) >> shift.to(tl.int64))
    if BIAS:
        out = _saturated(out + tl.load(bias + cols, mask=inside, other=0))
    return out


@triton.jit
def _store_quantised(x, q, q_scale, row, columns, N: tl.constexpr):
    """Quantise a whole row [N] and store it, zeros up to `columns`."""
    cols = tl.arange(0, N)
    values, scale = _quantised(x, tl.max(tl.abs(x), axis=0))
    tl.store(q + row * columns + cols, values, mask=cols < columns)
    tl.store(q_scale + row, scale)


# ------------------------------------------------------------------ rows of the residual


@triton.jit
def embed_kernel(tokens, weight, scale, x, width, exponent, N: tl.constexpr):
    """x [rows, width] = the tokens' rows in Q16. Grid (rows, tiles of N)."""
    row, cols = tl.program_id(0).to(tl.int64), tl.program_id(1) * N + tl.arange(0, N)
    token = tl.load(tokens + row).to(tl.int64)
    value = tl.load(weight + token * width + cols, mask=cols < width, other=0).to(tl.int64)
    tl.store(x + row * width + cols, ((value * tl.load(scale + token)) << RESIDUAL_BITS) >> exponent, mask=cols < width)


@triton.jit
def norm_kernel(x, picks, gain, q, q_scale, width, columns, epsilon, N: tl.constexpr, STAGES: tl.constexpr):
    """q = quantise(rotate(norm(x[picks]))). Grid (rows picked,)."""
    row, cols = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    inside = cols < width
    values = tl.load(x + tl.load(picks + row).to(tl.int64) * width + cols, mask=inside, other=0)
    normed = _over_rms(values, width, epsilon) * tl.load(gain + cols, mask=inside, other=0)
    _store_quantised(_rotated(normed, N, STAGES), q, q_scale, row, columns, N)


@triton.jit
def merge_kernel(
    x, out, acc, acc_columns, scale, bias, row_scale, second, base, post_gain, gain, q, q_scale, width, columns,
    epsilon, N: tl.constexpr, STAGES: tl.constexpr, TERMS: tl.constexpr, BIAS: tl.constexpr, POST: tl.constexpr,
    NEXT: tl.constexpr,
):  # fmt: skip
    """out = x + what a sub-layer's product gave (POST: after a norm of its own), then, where NEXT, q =
    quantise(rotate(norm(out))) for the next product. Grid (rows,). x and out may be the same."""
    row, cols = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    inside = cols < width
    update = _linear(acc + row * acc_columns, scale, bias, cols, inside, second, tl.load(row_scale + row), base, TERMS,
                     BIAS)  # fmt: skip
    if POST:
        normed = _over_rms(update, width, epsilon) * tl.load(post_gain + cols, mask=inside, other=0)
        update = normed >> HEAD_NORM_SHIFT
    total = _saturated(tl.load(x + row * width + cols, mask=inside, other=0) + update)
    tl.store(out + row * width + cols, total, mask=inside)
    if NEXT:
        normed = _over_rms(total, width, epsilon) * tl.load(gain + cols, mask=inside, other=0)
        _store_quantised(_rotated(normed, N, STAGES), q, q_scale, row, columns, N)


@triton.jit
def logits_kernel(
    acc, acc_columns, scale, bias, row_scale, second, base, out, outputs, N: tl.constexpr, TERMS: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    """out [rows, outputs] int64 = a product in Q16. Grid (rows, tiles of N)."""
    row, cols = tl.program_id(0).to(tl.int64), tl.program_id(1) * N + tl.arange(0, N)
    inside = cols < outputs
    values = _linear(acc + row * acc_columns, scale, bias, cols, inside, second, tl.load(row_scale + row), base, TERMS,
                     BIAS)  # fmt: skip
    tl.store(out + row * outputs + cols, values, mask=inside)


# ------------------------------------------------------------------ the MLP, and what is quantised in two launches


@triton.jit
def gate_kernel(
    acc, acc_columns, scale, bias, row_scale, second, base, gate, step, wide, largest, hidden, N: tl.constexpr,
    STAGES: tl.constexpr, TERMS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """wide [rows, hidden] = rotate((activate(gate) * up) >> 16), and the largest magnitude of every tile. Grid (rows,
    tiles of N)."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cols = tile * N + tl.arange(0, N)
    inside, scales = cols < hidden, tl.load(row_scale + row)
    acc += row * acc_columns
    value = _linear(acc, scale, bias, cols, inside, second, scales, base, TERMS, BIAS)
    up = _linear(acc, scale, bias, cols + hidden, inside, second, scales, base, TERMS, BIAS)
    place = tl.minimum(tl.maximum((value >> step) + SHARES // 2, 0), SHARES - 1)
    value = (value * tl.load(gate + place)) >> SHARE_BITS
    value = tl.minimum(tl.maximum(value, -GATE_MAX), GATE_MAX)
    up = tl.minimum(tl.maximum(up, -GATE_MAX), GATE_MAX)
    _store_tile(_rotated((value * up) >> RESIDUAL_BITS, N, STAGES), wide, largest, row, tile, cols, hidden)


@triton.jit
def _store_tile(x, wide, largest, row, tile, cols, width):
    tl.store(wide + row * width + cols, x, mask=cols < width)
    tl.store(largest + row * tl.num_programs(1) + tile, tl.max(tl.abs(x), axis=0))


@triton.jit
def quantise_kernel(wide, largest, tiles, q, q_scale, width, columns, N: tl.constexpr, TILES: tl.constexpr):
    """q of rows of which every tile's largest magnitude is known. Grid (rows, tiles of N over `columns`)."""
    row, cols = tl.program_id(0).to(tl.int64), tl.program_id(1) * N + tl.arange(0, N)
    each = tl.arange(0, TILES)
    highest = tl.max(tl.load(largest + row * tiles + each, mask=each < tiles, other=0), axis=0)
    values, scale = _quantised(tl.load(wide + row * width + cols, mask=cols < width, other=0), highest)
    tl.store(q + row * columns + cols, values, mask=cols < columns)
    if tl.program_id(1) == 0:
        tl.store(q_scale + row, scale)


# ------------------------------------------------------------------ heads


@triton.jit
def heads_kernel(
    acc, acc_columns, scale, bias, row_scale, second, base, q_gain, k_gain, epsilon, positions, cosines, sines, pages,
    q, q_scale, store, store_scale, kv, kv_scale, heads, kv_heads, width, half, N: tl.constexpr, STAGES: tl.constexpr,
    TERMS: tl.constexpr, BIAS: tl.constexpr, NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Heads of query, key and value, each quantised: queries to q [rows, heads, width], keys and values to their page
    and position in the store [pages, key and value heads, positions, width] and to kv [rows, key and value heads,
    width]. Queries and keys are normed (NORM), turned by 2 * half elements (TURN) and rotated before. Grid (rows, all
    heads)."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cols = tl.arange(0, N)
    inside, scales = cols < width, tl.load(row_scale + row)
    acc += row * acc_columns
    values = _linear(acc, scale, bias, head * width + cols, inside, second, scales, base, TERMS, BIAS)
    position = tl.load(positions + row).to(tl.int64)
    if head < heads + kv_heads:
        if NORM:
            gain = q_gain if head < heads else k_gain
            values = (_over_rms(values, width, epsilon) * tl.load(gain + cols, mask=inside, other=0)) >> HEAD_NORM_SHIFT
        if TURN:
            values = _turned(values, cols, half, cosines + position * half, sines + position * half, N)
        values = _rotated(values, N, STAGES)
    quantised, own_scale = _quantised(values, tl.max(tl.abs(values), axis=0))
    if head < heads:
        tl.store(q + (row * heads + head) * width + cols, quantised, mask=inside)
        tl.store(q_scale + row * heads + head, own_scale)
    else:
        other = head - heads
        at = (tl.load(pages + row).to(tl.int64) * 2 * kv_heads + other) * KEYS + position % KEYS
        tl.store(store + at * width + cols, quantised, mask=inside)
        tl.store(store_scale + at, own_scale)
        at = row * 2 * kv_heads + other
        tl.store(kv + at * width + cols, quantised, mask=inside)
        tl.store(kv_scale + at, own_scale)


@triton.jit
def _turned(x, cols, half, cosines, sines, N: tl.constexpr):
    """Pairs (i, i + half) of a head turned by the position's angles; what is past them stays."""
    turns, first = cols < 2 * half, cols < half
    i = tl.where(first, cols, cols - half)
    cos = tl.load(cosines + i, mask=turns, other=0).to(tl.int64)
    sin = tl.load(sines + i, mask=turns, other=0).to(tl.int64)
    partner = tl.gather(x, tl.where(turns, tl.where(first, cols + half, cols - half), cols), 0)
    return tl.where(turns, (x * cos + tl.where(first, -partner, partner) * sin) >> ROPE_BITS, x)


# ------------------------------------------------------------------ attention, in three looks at the keys and a close
#
# An item is up to ROWS consecutive positions of one sequence; with the query heads that share a key head they are M
# rows of a product on int8 tensor cores. Each program takes one item, one key head, and one of SPLITS shares of the
# pages that the item sees. A weight depends on the highest score of all keys, and its 15 bits on the largest weight, so
# that shares meet twice before anything is summed.


@triton.jit
def _item(
    items, positions, q, q_scale, heads, shared, width, mantissa, window, split,
    ROWS: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """(queries, their score factors and bits, position of each row, place of each in [rows, heads], which of M are
    there, first and last page of the share, sequence) of this program."""
    item, kv_head = tl.program_id(0), tl.program_id(1)
    first, count, sequence = tl.load(items + 3 * item), tl.load(items + 3 * item + 1), tl.load(items + 3 * item + 2)
    m, cols = tl.arange(0, M), tl.arange(0, WIDE)
    sub = m // shared
    there = (sub < count) & (m < ROWS * shared)
    place = (first + sub).to(tl.int64) * heads + kv_head * shared + m % shared
    inside = there[:, None] & (cols[None, :] < width)
    queries = tl.load(q + place[:, None] * width + cols[None, :], mask=inside, other=0)
    scales = tl.load(q_scale + place, mask=there, other=1)
    start = tl.load(positions + first)
    factor = ((scales & 0xFFFF).to(tl.int64) * mantissa) >> 8
    begin = tl.maximum(start - window + 1, 0) // KEYS
    end = (start + count - 1) // KEYS + 1
    share = (end - begin + SPLITS - 1) // SPLITS
    low = begin + split * share
    return queries, factor, scales >> 16, start + sub, place, there, low, tl.minimum(low + share, end), sequence


@triton.jit
def _page(
    store, store_scale, tables, table_width, sequence, page, kv_heads, queries, factor, q_bits, at, there, width, base,
    window, WIDE: tl.constexpr,
):  # fmt: skip
    """(scores [M, KEYS] in Q16 with HIDDEN where a row does not see a key, which it sees, values' tops and bits,
    where the values begin in the store) of one page."""
    k, cols = tl.arange(0, KEYS), tl.arange(0, WIDE)
    kv_head = tl.program_id(1)
    physical = tl.load(tables + sequence * table_width + page).to(tl.int64)
    own = (physical * 2 * kv_heads + kv_head) * KEYS
    values = own + kv_heads * KEYS
    keys = tl.load(store + (own + k)[:, None] * width + cols[None, :], mask=cols[None, :] < width, other=0)
    scales = tl.load(store_scale + own + k)
    dot = tl.dot(queries, tl.trans(keys)).to(tl.int64)
    shift = _clamped_shift(base - q_bits[:, None] - (scales >> 16)[None, :])
    score = (dot * (scales & 0xFFFF)[None, :] * factor[:, None]) >> shift.to(tl.int64)
    key = k + page * KEYS
    seen = (key[None, :] <= at[:, None]) & (key[None, :] > at[:, None] - window) & there[:, None]
    value_scales = tl.load(store_scale + values + k)
    return tl.where(seen, score, HIDDEN), seen, value_scales, values


@triton.jit
def _weights(score, highest, value_scales, highest_bits, exp2):
    """(powers of two of scores in Q30, times the values' scales) of one page."""
    below = highest[:, None] - score
    power = tl.load(exp2 + ((below & 0xFFFF) >> 4)) >> tl.minimum(below >> 16, 31).to(tl.int32)
    shift = _clamped_shift(highest_bits[:, None] - (value_scales >> 16)[None, :])
    mass = power.to(tl.int64)
    return mass, (mass * (value_scales & 0xFFFF)[None, :]) >> shift.to(tl.int64)


@triton.jit
def _over_shares(part, place, there, stride, SPLITS: tl.constexpr):
    """Largest of what the shares found for each row."""
    most = tl.load(part + place, mask=there, other=0)
    for split in range(1, SPLITS):
        most = tl.maximum(most, tl.load(part + split * stride + place, mask=there, other=0))
    return most


@triton.jit(do_not_specialize=["table_width", "stride"])
def highest_kernel(
    items, positions, q, q_scale, store, store_scale, tables, table_width, highest, highest_bits, stride, heads,
    kv_heads, width, mantissa, base, window,
    ROWS: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """highest [SPLITS, rows, heads] = the highest score of each share, highest_bits the largest bit length of a value
    that is seen. Grid (items, kv heads, SPLITS)."""
    split = tl.program_id(2)
    queries, factor, q_bits, at, place, there, low, high, sequence = _item(
        items, positions, q, q_scale, heads, heads // kv_heads, width, mantissa, window, split, ROWS, M, WIDE, SPLITS
    )
    best = tl.full((M,), HIDDEN, tl.int64)
    most = tl.zeros((M,), tl.int32)
    for page in range(low, high):
        score, seen, value_scales, _ = _page(store, store_scale, tables, table_width, sequence, page, kv_heads, queries,
                                             factor, q_bits, at, there, width, base, window, WIDE)  # fmt: skip
        best = tl.maximum(best, tl.max(score, axis=1))
        most = tl.maximum(most, tl.max(tl.where(seen, (value_scales >> 16)[None, :], 0), axis=1))
    tl.store(highest + split * stride + place, best, mask=there)
    tl.store(highest_bits + split * stride + place, most, mask=there)


@triton.jit(do_not_specialize=["table_width", "stride"])
def mass_kernel(
    items, positions, q, q_scale, store, store_scale, tables, table_width, exp2, highest, highest_bits, mass, heaviest,
    stride, heads, kv_heads, width, mantissa, base, window,
    ROWS: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """mass [SPLITS, rows, heads] = sum of the powers of each share, heaviest its largest weight."""
    split = tl.program_id(2)
    queries, factor, q_bits, at, place, there, low, high, sequence = _item(
        items, positions, q, q_scale, heads, heads // kv_heads, width, mantissa, window, split, ROWS, M, WIDE, SPLITS
    )
    best = _over_shares(highest, place, there, stride, SPLITS)
    bits = _over_shares(highest_bits, place, there, stride, SPLITS)
    total, most = tl.zeros((M,), tl.int64), tl.zeros((M,), tl.int64)
    for page in range(low, high):
        score, _, value_scales, _ = _page(store, store_scale, tables, table_width, sequence, page, kv_heads, queries,
                                          factor, q_bits, at, there, width, base, window, WIDE)  # fmt: skip
        power, weight = _weights(score, best, value_scales, bits, exp2)
        total += tl.sum(power, axis=1)
        most = tl.maximum(most, tl.max(weight, axis=1))
    tl.store(mass + split * stride + place, total, mask=there)
    tl.store(heaviest + split * stride + place, most, mask=there)


@triton.jit(do_not_specialize=["table_width", "stride"])
def mix_kernel(
    items, positions, q, q_scale, store, store_scale, tables, table_width, exp2, highest, highest_bits, heaviest, total,
    stride, heads, kv_heads, width, mantissa, base, window,
    ROWS: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """total [SPLITS, rows, heads, width] = weights of 15 bits times values. Their upper eight bits less 128 and their
    lower seven are int8; 128 times the sum of the values makes up for it. Sums over 2^17 keys stay below 2^31."""
    split = tl.program_id(2)
    queries, factor, q_bits, at, place, there, low, high, sequence = _item(
        items, positions, q, q_scale, heads, heads // kv_heads, width, mantissa, window, split, ROWS, M, WIDE, SPLITS
    )
    best = _over_shares(highest, place, there, stride, SPLITS)
    bits = _over_shares(highest_bits, place, there, stride, SPLITS)
    narrow = tl.maximum(_bit_length(_over_shares(heaviest, place, there, stride, SPLITS)) - 15, 0)
    k, cols = tl.arange(0, KEYS), tl.arange(0, WIDE)
    upper, lower, plain = tl.zeros((M, WIDE), tl.int32), tl.zeros((M, WIDE), tl.int32), tl.zeros((WIDE,), tl.int32)
    for page in range(low, high):
        score, _, value_scales, begin = _page(store, store_scale, tables, table_width, sequence, page, kv_heads,
                                              queries, factor, q_bits, at, there, width, base, window,
                                              WIDE)  # fmt: skip
        _, weight = _weights(score, best, value_scales, bits, exp2)
        weight = weight >> narrow[:, None]
        values = tl.load(store + (begin + k)[:, None] * width + cols[None, :], mask=cols[None, :] < width, other=0)
        upper = tl.dot(((weight >> 7) - 128).to(tl.int8), values, upper)
        lower = tl.dot((weight & 127).to(tl.int8), values, lower)
        plain += tl.sum(values.to(tl.int32), axis=0)
    mixed = ((upper.to(tl.int64) + (plain.to(tl.int64) << 7)[None, :]) << 7) + lower
    where = (split * stride + place)[:, None] * width + cols[None, :]
    tl.store(total + where, mixed, mask=there[:, None] & (cols[None, :] < width))


@triton.jit(do_not_specialize=["stride"])
def close_kernel(
    total, mass, heaviest, highest_bits, stride, wide, largest, heads, width, N: tl.constexpr, STAGES: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """wide [rows, heads * width] = rotate(127 * attention in Q14), and the largest magnitude of every tile. Grid (rows,
    tiles of N)."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    cols = tile * N + tl.arange(0, N)
    inside = cols < heads * width
    place = row * heads + cols // width
    summed = tl.load(total + place * width + cols % width, mask=inside, other=0)
    powers = tl.load(mass + place, mask=inside, other=1 << 30)
    for split in range(1, SPLITS):
        at = split * stride + place
        summed += tl.load(total + at * width + cols % width, mask=inside, other=0)
        powers += tl.load(mass + at, mask=inside, other=0)
    narrow = tl.maximum(_bit_length(_over_shares(heaviest, place, inside, stride, SPLITS)) - 15, 0)
    bits = _over_shares(highest_bits, place, inside, stride, SPLITS).to(tl.int64)
    mass_bits = _bit_length(powers)
    # 2^43 over an integer of 22 bits: the float64 quotient is off by 2^-31 at most, and no quotient that is not whole
    # is nearer than 2^-22 to a whole one. Rows that only fill up have no powers.
    divisor = tl.maximum(_moved(powers, WINDOW_BITS - mass_bits), 1).to(tl.float64)
    reciprocal = (8796093022208.0 / divisor).to(tl.int64)
    out = (summed * reciprocal) >> _clamped_shift(CLOSE_SHIFT + mass_bits - narrow - bits)
    _store_tile(_rotated(out, N, STAGES), wide, largest, row, tile, cols, heads * width)


# ------------------------------------------------------------------ products


@triton.jit(do_not_specialize=["rows"])
def product_kernel(
    q, weight, out, rows, outputs, inputs, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """out [rows, outputs] int32 = q [rows, inputs] times weight [outputs, inputs] transposed, both int8. With PARTS of
    the inputs to different programs, out begins as zeros and each adds its own: integers, in any order. Grid (tiles of
    N outputs, tiles of M rows, PARTS)."""
    n = (tl.program_id(0) * N + tl.arange(0, N)).to(tl.int64)
    m = (tl.program_id(1) * M + tl.arange(0, M)).to(tl.int64)
    acc = tl.zeros((M, N), tl.int32)
    for begin in range(tl.program_id(2) * K, inputs, PARTS * K):
        k = begin + tl.arange(0, K)
        left = tl.load(q + m[:, None] * inputs + k[None, :], mask=(m[:, None] < rows) & (k[None, :] < inputs), other=0)
        right = tl.load(weight + n[None, :] * inputs + k[:, None],
                        mask=(n[None, :] < outputs) & (k[:, None] < inputs), other=0)  # fmt: skip
        acc = tl.dot(left, right, acc)
    where, inside = out + m[:, None] * outputs + n[None, :], (m[:, None] < rows) & (n[None, :] < outputs)
    if PARTS == 1:
        tl.store(where, acc, mask=inside)
    else:
        tl.atomic_add(where, acc, mask=inside, sem="relaxed")
