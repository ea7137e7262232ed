"""The tables that a program ships: powers of two, the gate of its activation, cosines and sines, made with decimal
arithmetic so that every importer writes the same bytes. Executors read the shipped tensors and never call this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

from inference.program import (
    EXP2_INDEX_BITS,
    EXP2_VALUE_BITS,
    GELU_STEP_BITS,
    RESIDUAL_BITS,
    ROPE_BITS,
    SIGMOID_INDEX_BITS,
    SIGMOID_STEP_BITS,
    SIGMOID_VALUE_BITS,
    Shape,
)

PRECISION = 40  # decimal digits; decimal's exp, ln and power are correctly rounded
TURN_BITS = 120  # of cosines and sines while they are turned on: 2^17 positions lose 18 of them


PI = Decimal("3.14159265358979323846264338327950288419717")


@dataclass(frozen=True, slots=True)
class Rope:
    """How fast each pair of a head turns. `factor` divides the frequencies: all of them ('linear'), or, by Llama 3's
    rule ('llama3'), those whose wavelength passes original_context / low, blended in down to original_context / high.
    `divisors` has one for each pair ('divided').
    """

    theta: int = 10_000
    kind: str = "default"
    factor: Decimal = Decimal(1)
    low: Decimal = Decimal(1)
    high: Decimal = Decimal(4)
    original_context: int = 8192
    divisors: tuple[Decimal, ...] = ()

    def frequencies(self, rotary: int) -> list[Decimal]:
        """Radians a position of each pair, in [0, 1]."""
        with localcontext(prec=PRECISION):
            plain = [(-Decimal(self.theta).ln() * 2 * i / rotary).exp() for i in range(rotary // 2)]
            if self.kind == "default":
                return plain
            if self.kind == "linear":
                return [frequency / self.factor for frequency in plain]
            if self.kind == "divided":
                return [frequency / divisor for frequency, divisor in zip(plain, self.divisors, strict=True)]
            assert self.kind == "llama3", self.kind
            return [self._blended(frequency) for frequency in plain]

    def _blended(self, frequency: Decimal) -> Decimal:
        turns = self.original_context * frequency / (2 * PI)  # wavelengths that fit the context of the training
        share = min(max((turns - self.low) / (self.high - self.low), Decimal(0)), Decimal(1))
        return share * frequency + (1 - share) * frequency / self.factor


def tables(shape: Shape, how: Rope = Rope(), local: Rope = Rope()) -> dict[str, np.ndarray]:
    """All tables of a program of this shape; `local` turns the layers that see a window."""
    gate = shape.features.gate_table
    made = {"table.exp2": exp2(), gate: GATES[gate]()}
    if shape.causal:
        made["table.cos"], made["table.sin"] = rope(shape.context, shape.rotary, how)
    if shape.features.windows:
        made["table.local_cos"], made["table.local_sin"] = rope(shape.context, shape.rotary, local)
    return made


@cache
def exp2() -> np.ndarray:
    """2^-f in Q30 for f = i / 4096: int32 [4096]; entry 0 is exactly 2^30."""
    count = 1 << EXP2_INDEX_BITS
    with localcontext(prec=PRECISION):
        step = (-Decimal(2).ln() / count).exp()
        value, values = Decimal(1 << EXP2_VALUE_BITS), []
        for _ in range(count):
            values.append(int(value.to_integral_value()))
            value *= step
    return np.array(values, np.int32)


@cache
def sigmoid() -> np.ndarray:
    """Sigmoid in Q16 at the middle of each step of [-16, 16): int32 [16384]."""
    count, step = 1 << SIGMOID_INDEX_BITS, Decimal(1 << SIGMOID_STEP_BITS) / (1 << RESIDUAL_BITS)
    with localcontext(prec=PRECISION):
        low = -step * (count // 2) + step / 2
        ratio, decay = (-step).exp(), (-low).exp()
        values = []
        for _ in range(count):
            values.append(int(((1 << SIGMOID_VALUE_BITS) / (1 + decay)).to_integral_value()))
            decay *= ratio
    return np.array(values, np.int32)


@cache
def gelu() -> np.ndarray:
    """The normal distribution function in Q16 at the middle of each step of [-8, 8): int32 [16384]. Exactly 0 below
    -4.4 and 2^16, which lets everything through, above 4.4."""

    def normal(x: Decimal) -> Decimal:
        """1/2 + density(x) * (x + x^3/3 + x^5/(3*5) + ...), for x > 0."""
        square, n = x * x, 1
        term = total = x
        while term > Decimal(10) ** -30:
            n += 2
            term = term * square / n
            total += term
        return Decimal("0.5") + (-square / 2).exp() / (2 * PI).sqrt() * total

    return _symmetric(normal)


@cache
def gelu_tanh() -> np.ndarray:
    """(1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2 in Q16, places as in gelu: int32 [16384]."""

    def gate(x: Decimal) -> Decimal:
        inner = (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3)
        return 1 / (1 + (-2 * inner).exp())

    return _symmetric(gate)


def _symmetric(gate: Callable[[Decimal], Decimal]) -> np.ndarray:
    """A gate with gate(-x) = 1 - gate(x), given for x > 0, in Q16 at the middle of each step. Beyond 6 it is 1."""
    half, one = 1 << (SIGMOID_INDEX_BITS - 1), 1 << SIGMOID_VALUE_BITS
    values = []
    with localcontext(prec=PRECISION):
        step = Decimal(1 << GELU_STEP_BITS) / (1 << RESIDUAL_BITS)
        for i in range(half):
            x = step * i + step / 2
            values.append(int((gate(x) * one).to_integral_value()) if x < 6 else one)
    return np.array([one - value for value in reversed(values)] + values, np.int32)


GATES = {"table.sigmoid": sigmoid, "table.gelu": gelu, "table.gelu_tanh": gelu_tanh}


def rope(context: int, rotary: int, how: Rope) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines in Q14 of position * frequency: two int16 [context, rotary / 2]."""
    cos, sin = (np.zeros((context, rotary // 2), np.int16) for _ in range(2))
    half = 1 << (TURN_BITS - ROPE_BITS - 1)
    with localcontext(prec=PRECISION):
        turns = [_cos_sin(angle) for angle in how.frequencies(rotary)]
        fixed = [tuple(int((part * (1 << TURN_BITS)).to_integral_value()) for part in turn) for turn in turns]
    for i, (turn_cos, turn_sin) in enumerate(fixed):
        x, y, xs, ys = 1 << TURN_BITS, 0, [], []
        for _ in range(context):
            xs.append((x + half) >> (TURN_BITS - ROPE_BITS))
            ys.append((y + half) >> (TURN_BITS - ROPE_BITS))
            x, y = (x * turn_cos - y * turn_sin) >> TURN_BITS, (x * turn_sin + y * turn_cos) >> TURN_BITS
        cos[:, i], sin[:, i] = xs, ys
    return cos, sin


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Taylor series for an angle in [0, 1]."""
    cos = sin = Decimal(0)
    term = Decimal(1)
    for n in range(60):
        if n % 2 == 0:
            cos += term if n % 4 == 0 else -term
        else:
            sin += term if n % 4 == 1 else -term
        term = term * angle / (n + 1)
    return cos, sin
