"""The referee's arithmetic: recompute ONE element of one op from the values that it reads. Plain integers, no numpy, no
float, no loop longer than what was opened; docs/openings.md is its table, a second referee can be written from it.

Inputs are hostile. Values that no honest execution can have (past the bounds that docs/inference.md proves) make the
opening invalid, so that no intermediate result passes 2^63 and no shift passes 63. Knows no hash and no address: what
is read from where is ops.py's, that it is what was committed is opening.py's.
"""

import math
from collections.abc import Callable, Sequence

from inference import program as cip
from inference.ops import DIGIT_BITS, DIGITS, ID_BITS, TILE, Op, power
from inference.philox import draw

WIDE_MAX = 1 << 53  # what is rotated, quantised or normalised
WORD_TOP_MAX, WORD_BITS_MAX = 1 << 15, 53  # a scale word: top + 2^16 * bits
INVERSE_MAX = 1 << 40
INT64_MAX = (1 << 63) - 1

Values = Sequence[Sequence[int]]
Constants = tuple[int, ...]


class InvalidOpening(ValueError):
    """An opening that proves nothing: it is malformed, does not lead to what was committed, or holds values that no
    execution has."""


def recompute(op: Op, element: int, values: Values) -> bytes:
    """The element of an op from the values of its slices (op.reads, then op.look), as the bytes that are committed:
    little-endian, `op.width` of them; a leaf's piece as it is hashed. Raises InvalidOpening."""
    if not 0 <= element < op.length:
        raise InvalidOpening(f"{op.name} has {op.length} elements, not {element}")
    if op.rule == "leaf":
        return bytes(byte & 0xFF for byte in values[0])
    result = RULES[op.rule](op.constants, element, values)
    limit = 1 << (8 * op.width - 1)
    if not -limit <= result < limit:
        raise InvalidOpening(f"{op.name}[{element}] would be {result}, past {op.width} bytes")
    return result.to_bytes(op.width, "little", signed=True)


def within(what: str, limit: int, *values: int, low: int | None = None) -> None:
    """Raises InvalidOpening unless every value lies in [-limit, limit], or in [low, limit]."""
    least = -limit if low is None else low
    for value in values:
        if not least <= value <= limit:
            raise InvalidOpening(f"{what} is {value}, allowed {least}..{limit}")


def clamp(value: int, limit: int) -> int:
    """Saturate at +-limit."""
    return min(max(value, -limit), limit)


def shift_count(value: int) -> int:
    """A shift as the program clamps it."""
    return min(max(value, 0), 63)


def window(value: int, bits: int) -> int:
    """A value moved so that the row's largest magnitude, of `bits` bits, has 22."""
    left = cip.WINDOW_BITS - bits
    return value << left if left >= 0 else value >> -left


def scale_of(largest: int) -> tuple[int, int]:
    """(top, bits) of a row by its largest magnitude."""
    bits = largest.bit_length()
    return (window(largest, bits) >> 7) + 1, bits


# Trees and copies


def _copy(_: Constants, __: int, values: Values) -> int:
    return values[0][0]


def _largest(_: Constants, __: int, values: Values) -> int:
    within("a magnitude", WIDE_MAX, *values[0])
    return max(map(abs, values[0]))


def _most(_: Constants, __: int, values: Values) -> int:
    return max(values[0])


def _sum(_: Constants, __: int, values: Values) -> int:
    return sum(values[0])


def _sums(_: Constants, __: int, values: Values) -> int:
    return sum(map(sum, values))


def _dot(_: Constants, __: int, values: Values) -> int:
    left, right = values
    within("a factor", 1 << 15, *left)
    within("a weight", 1 << 7, *right)
    return sum(a * b for a, b in zip(left, right, strict=True))


# Rows: norm, rotation, quantisation, rescaling


def _squares(_: Constants, __: int, values: Values) -> int:
    tile, (largest,) = values
    within("the largest magnitude", WIDE_MAX, largest, low=0)
    within("a magnitude", largest, *tile)
    bits = largest.bit_length()
    return sum(window(value, bits) ** 2 for value in tile)


def _inverse(constants: Constants, _: int, values: Values) -> int:
    extent, epsilon = constants
    (squares,), (largest,) = values
    within("the largest magnitude", WIDE_MAX, largest, low=0)
    within("the sum of squares", extent << (2 * cip.WINDOW_BITS), squares, low=0)
    up = 2 * (cip.WINDOW_BITS - largest.bit_length())
    mean = squares // extent + (epsilon << up if up >= 0 else epsilon >> -up)
    return INVERSE_MAX // max(1, math.isqrt(mean))


def _normed(constants: Constants, _: int, values: Values) -> int:
    (value,), (largest,), (inverse,), (gain,) = values[:4]
    within("the largest magnitude", WIDE_MAX, largest, low=0)
    within("a magnitude", largest, value)
    within("an inverse", INVERSE_MAX, inverse, low=1)
    unit = (window(value, largest.bit_length()) * inverse) >> (40 - cip.NORM_BITS)
    return ((unit * gain) >> constants[0]) + (values[4][0] if len(values) > 4 else 0)


def _centre(constants: Constants, _: int, values: Values) -> int:
    return values[0][0] - values[1][0] // constants[0]


def _rotate(_: Constants, element: int, values: Values) -> int:
    block = values[0]
    within("a magnitude", WIDE_MAX, *block)
    row = element % len(block)
    return sum(-value if (row & i).bit_count() & 1 else value for i, value in enumerate(block))


def _quantise(_: Constants, __: int, values: Values) -> int:
    (value,), (largest,) = values
    within("the largest magnitude", WIDE_MAX, largest, low=0)
    within("a magnitude", largest, value)
    top, bits = scale_of(largest)
    return (window(value, bits) * ((cip.ACTIVATION_MAX << 23) // top) + (1 << 29)) >> 30


def _word(_: Constants, __: int, values: Values) -> int:
    within("the largest magnitude", WIDE_MAX, values[0][0], low=0)
    top, bits = scale_of(values[0][0])
    return top + (bits << 16)


def _rescale(constants: Constants, _: int, values: Values) -> int:
    fraction, exponent, terms, biased = constants
    total = values[0][0] if terms == 1 else ((values[0][0] << cip.TERM_BITS) + values[1][0]) >> cip.TERM_BITS
    (scale,), (largest,) = values[terms : terms + 2]
    within("the largest magnitude", WIDE_MAX, largest, low=0)
    top, bits = scale_of(largest)
    shift = shift_count(fraction + exponent - 1 - bits)
    out = clamp((total * (top * scale)) >> shift, cip.RESIDUAL_MAX)
    return clamp(out + values[terms + 2][0], cip.RESIDUAL_MAX) if biased else out


def _add(_: Constants, __: int, values: Values) -> int:
    return clamp(values[0][0] + values[1][0], cip.RESIDUAL_MAX)


# Attention


def _turn(constants: Constants, element: int, values: Values) -> int:
    width, half = constants
    first, second, cos, sin = values
    if not second:
        return first[0]
    a, b, c, s = first[0], second[0], cos[0], sin[0]
    within("a magnitude", cip.RESIDUAL_MAX, a, b)
    return (a * c - b * s if element % width < half else b * c + a * s) >> cip.ROPE_BITS


def _parts(word: int) -> tuple[int, int]:
    """(top, bits) of a scale word."""
    top, bits = word & 0xFFFF, word >> 16
    within("a scale's mantissa", WORD_TOP_MAX, top, low=1)
    within("a scale's bits", WORD_BITS_MAX, bits, low=0)
    return top, bits


def _score(constants: Constants, _: int, values: Values) -> int:
    mantissa, exponent = constants
    (dot,), (query,), (key,) = values
    within("a product of heads", cip.EXACT_FLOAT32, dot)
    (q_top, q_bits), (k_top, k_bits) = _parts(query), _parts(key)
    return (dot * (k_top * ((q_top * mantissa) >> 8))) >> shift_count(38 + exponent - q_bits - k_bits)


def _exp(_: Constants, __: int, values: Values) -> int:
    (score,), (best,), (entry,) = values
    within("a score", best, score, low=-INT64_MAX)
    return entry >> min((best - score) >> 16, 31)


def _bits(_: Constants, __: int, values: Values) -> int:
    return max(_parts(word)[1] for word in values[0])


def _weigh(_: Constants, __: int, values: Values) -> int:
    (e,), (word,), (highest,) = values
    within("an exponential", 1 << cip.EXP2_VALUE_BITS, e, low=0)
    top, bits = _parts(word)
    within("the highest bits", WORD_BITS_MAX, highest, low=bits)
    return (e * top) >> (highest - bits)


def _narrow(_: Constants, __: int, values: Values) -> int:
    (heavy,), (heaviest,) = values
    within("a weight", heaviest, heavy, low=0)
    return heavy >> max(0, heaviest.bit_length() - 15)


def _attend(_: Constants, __: int, values: Values) -> int:
    (total,), (mass,), (heaviest,), (highest,) = values
    within("a sum of weighted values", 1 << 39, total)
    within("the mass", cip.CONTEXT_MAX << cip.EXP2_VALUE_BITS, mass, low=1 << (cip.WINDOW_BITS - 1))
    within("the heaviest weight", 1 << (cip.EXP2_VALUE_BITS + 15), heaviest, low=0)
    within("the highest bits", WORD_BITS_MAX, highest, low=0)
    bits, narrow = mass.bit_length(), max(0, heaviest.bit_length() - 15)
    inverse = (1 << 43) // (mass >> (bits - cip.WINDOW_BITS))
    return (total * inverse) >> shift_count(52 - cip.ATTENTION_BITS + bits - narrow - highest)


# Embedding and activation


def _embed(constants: Constants, __: int, values: Values) -> int:
    _, (weight,), (scale,) = values
    return ((weight * scale) << cip.RESIDUAL_BITS) >> constants[0]


def _gate(_: Constants, __: int, values: Values) -> int:
    (gate,), (share,) = values[0], values[-1]
    within("a gate", cip.RESIDUAL_MAX, gate)
    act = clamp((gate * share) >> cip.SIGMOID_VALUE_BITS, cip.GATE_MAX)
    if len(values) == 2:
        return act
    within("a gated value", cip.RESIDUAL_MAX, *values[1])
    return (act * clamp(values[1][0], cip.GATE_MAX)) >> cip.RESIDUAL_BITS


# Embeddings and scores


def _mean(constants: Constants, _: int, values: Values) -> int:
    return values[0][0] // constants[0]


def _unit(constants: Constants, _: int, values: Values) -> int:
    (value,), (largest,), (squares,) = values
    within("the largest magnitude", WIDE_MAX, largest, low=0)
    within("a magnitude", largest, value)
    within("the sum of squares", constants[0] << (2 * cip.WINDOW_BITS), squares, low=0)
    return (window(value, largest.bit_length()) << cip.VECTOR_BITS) // max(1, math.isqrt(squares))


def _power(constants: Constants, _: int, values: Values) -> int:
    (logit,), (best,) = values
    within("the best logit", cip.RESIDUAL_MAX, best)
    within("a logit", best, logit, low=-cip.RESIDUAL_MAX)
    return power(logit, best, constants[0])


def _halve(_: Constants, __: int, values: Values) -> int:
    (halvings,), (entry,) = values
    within("halvings", 1 << 30, halvings, low=0)
    return entry >> min(halvings >> 16, 31)


def _likelihood(_: Constants, __: int, values: Values) -> int:
    (total,), (halvings,) = values[0], values[2]
    within("the total mass", cip.VOCABULARY_MAX << cip.EXP2_VALUE_BITS, total, low=1 << cip.EXP2_VALUE_BITS)
    within("halvings", 1 << 30, halvings, low=0)
    bits = total.bit_length()
    m, log2 = total >> (bits - 31), bits - 31
    for _bit in range(16):
        m = (m * m) >> 30
        log2 = 2 * log2 + (m >> 31)
        m >>= m >> 31
    return -halvings - log2


# Sampling


def _rank(_: Constants, element: int, values: Values) -> int:
    """Logit and id in one number: the higher logit, the lower id of a tie."""
    within("a logit", cip.RESIDUAL_MAX, *values[0])
    first = (1 << ID_BITS) - 1 - element * TILE
    return max((logit << ID_BITS) + first - i for i, logit in enumerate(values[0]))


def _ranked(_: Constants, __: int, values: Values) -> int:
    return (1 << ID_BITS) - 1 - (values[0][0] & ((1 << ID_BITS) - 1))


def _prefix(logit: int, digit: int) -> int:
    """A logit's digits down to this one."""
    return (logit + cip.RESIDUAL_MAX) >> (DIGIT_BITS * (DIGITS - 1 - digit))


def _digit(constants: Constants, element: int, values: Values) -> int:
    """How many logits of the tile have the digits so far and then this one."""
    (digit, tiles), logits = constants, values[0]
    within("a logit", cip.RESIDUAL_MAX, *logits)
    before = values[1][0] if digit else 0
    within("the digits so far", 2 * cip.RESIDUAL_MAX, before, low=0)
    wanted = before << DIGIT_BITS | element // tiles
    return sum(_prefix(logit, digit) == wanted for logit in logits)


def _choose(constants: Constants, element: int, values: Values) -> int:
    """The digit of the logit that is the k-th largest, and how many of those that have it stay."""
    digit, top_k = constants
    totals = values[0]
    before, rest = values[1] if digit else (0, top_k)
    within("the digits so far", 2 * cip.RESIDUAL_MAX, before, low=0)
    within("the logits to keep", cip.VOCABULARY_MAX, rest, low=1)
    within("a count of logits", cip.VOCABULARY_MAX, *totals, low=0)
    for chosen in reversed(range(len(totals))):
        if totals[chosen] >= rest:
            return rest if element else before << DIGIT_BITS | chosen
        rest -= totals[chosen]
    raise InvalidOpening(f"{sum(totals)} logits are fewer than the {top_k} to keep")


def _equal(_: Constants, __: int, values: Values) -> int:
    logits, (digits, _rest) = values
    return sum(logit + cip.RESIDUAL_MAX == digits for logit in logits)


def _mass(constants: Constants, _: int, values: Values) -> int:
    temperature, kept = constants
    logits, (best,), entry = values[0], values[1], values[-1][0]
    within("the best logit", cip.RESIDUAL_MAX, best)
    within("a logit", best, *logits, low=-cip.RESIDUAL_MAX)
    if kept:
        (digits, rest), (ties,) = values[2], values[3]
        offsets = [logit + cip.RESIDUAL_MAX for logit in logits]
        if offsets[-1] < digits or (offsets[-1] == digits and ties + offsets[:-1].count(digits) >= rest):
            return 0
    return entry >> min(power(logits[-1], best, temperature) >> 16, 31)


def _scale(_: Constants, __: int, values: Values) -> int:
    (mass,), (total,) = values
    within("the total mass", cip.VOCABULARY_MAX << cip.EXP2_VALUE_BITS, total, low=0)
    within("a mass", total, mass, low=0)
    return mass >> max(0, total.bit_length() - cip.MASS_BITS)


def _target(constants: Constants, _: int, values: Values) -> int:
    position, words = constants[0], constants[1:]
    within("the mass", (1 << cip.MASS_BITS) - 1, values[0][0], low=0)
    seed = b"".join(word.to_bytes(4, "little") for word in words) + bytes(12)
    return (draw(seed, position) * values[0][0]) >> 32


def _hit(_: Constants, element: int, values: Values) -> int:
    """One more than the id at which the cumulative mass of this tile first exceeds the target; 0 where it does not, or
    did before."""
    masses, (before,), (target,) = values
    if before > target:
        return 0
    for i, mass in enumerate(masses):
        before += mass
        if before > target:
            return element * TILE + i + 1
    return 0


def _nothing(_: Constants, __: int, ___: Values) -> int:
    """The sums of a term that a product does not have."""
    return 0


def _found(_: Constants, __: int, values: Values) -> int:
    within("the token that was hit", cip.VOCABULARY_MAX, values[0][0], low=1)
    return values[0][0] - 1


def _byte(constants: Constants, element: int, values: Values) -> int:
    """A byte of the payload, from the value that it is part of."""
    begin, width = next((b, w) for b, w in _spans(constants) if b <= element)
    byte = values[0][0] >> (8 * ((element - begin) % width)) & 0xFF
    return byte - 256 if byte > 127 else byte


def _spans(constants: Constants) -> list[tuple[int, int]]:
    """(first byte, width) of the payload's parts, the last part first."""
    return [(constants[i], constants[i + 1]) for i in range(len(constants) - 2, -1, -2)]


RULES: dict[str, Callable[[Constants, int, Values], int]] = {
    "add": _add, "attend": _attend, "bits": _bits, "byte": _byte, "centre": _centre, "choose": _choose, "copy": _copy,
    "digit": _digit, "dot": _dot, "embed": _embed, "equal": _equal, "exp": _exp, "found": _found,
    "gate": _gate, "halve": _halve, "hit": _hit, "inverse": _inverse, "largest": _largest, "likelihood": _likelihood,
    "mass": _mass, "mean": _mean, "most": _most, "narrow": _narrow, "normed": _normed, "nothing": _nothing,
    "power": _power,
    "quantise": _quantise, "rank": _rank, "ranked": _ranked, "rescale": _rescale, "rotate": _rotate, "scale": _scale,
    "score": _score, "squares": _squares, "sum": _sum, "sums": _sums, "target": _target, "turn": _turn, "unit": _unit,
    "weigh": _weigh, "word": _word,
}  # fmt: skip
