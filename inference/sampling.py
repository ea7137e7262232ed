"""Sample(logits, seed, position): one token from integer logits, the same on every machine; and the likelihood of a
token under the same masses. All executors and every checker use these functions; the referee's arithmetic is the same
few lines.

Owns no state and reads no clock; the random words are philox.py's.
"""

import numpy as np

from inference.philox import draw
from inference.program import DIFFERENCE_MAX, EXP2_INDEX_BITS, LOG2E_Q32, MASS_BITS
from primitives.task import TEMPERATURE_ONE_Q16


def sample(
    logits: np.ndarray, seed: bytes, position: int, temperature_q16: int, top_k: int, exp2_table: np.ndarray
) -> int:
    """The token at an absolute position of prompt + output, from int64 logits [vocabulary] in Q16.

    Temperature 0 is greedy: the highest logit, ties to the lowest id. Otherwise the top_k highest logits stay (0 or
    more than the vocabulary: all; ties to the lowest id), each weighs 2^-((max - logit) * log2(e) / temperature), and
    the first id, in order of ids, whose cumulative mass exceeds floor(u * mass / 2^32) is taken.
    """
    if temperature_q16 == 0:
        return int(logits.argmax())
    kept = np.arange(len(logits))
    if 0 < top_k < len(logits):
        kept = np.sort(np.argsort(-logits, kind="stable")[:top_k])
    values = logits[kept]
    mass = _masses(_powers(values, temperature_q16), exp2_table)
    total = int(mass.sum())
    mass >>= max(0, total.bit_length() - MASS_BITS)
    cumulative = mass.cumsum()
    target = (draw(seed, position) * int(cumulative[-1])) >> 32
    return int(kept[np.searchsorted(cumulative, target, side="right")])


def log2_likelihood(logits: np.ndarray, token: int, exp2_table: np.ndarray) -> int:
    """log2 of a token's share of the mass that Sample at temperature 1 and top-k 0 draws from, in Q16: at most 0, more
    than -2^30."""
    powers = _powers(logits, TEMPERATURE_ONE_Q16)
    return -int(powers[token]) - _log2(int(_masses(powers, exp2_table).sum()))


def _powers(values: np.ndarray, temperature_q16: int) -> np.ndarray:
    """How many halvings each value lies below the highest, in Q16."""
    difference = np.minimum(values.max() - values, DIFFERENCE_MAX)
    return (difference * (LOG2E_Q32 // temperature_q16)) >> 16


def _masses(powers: np.ndarray, exp2_table: np.ndarray) -> np.ndarray:
    """2^-power in Q30."""
    index = (powers & 0xFFFF) >> (16 - EXP2_INDEX_BITS)
    return exp2_table[index].astype(np.int64) >> np.minimum(powers >> 16, 31)


def _log2(total: int) -> int:
    """log2 of a mass of at least 2^30 over 2^30, in Q16, by repeated squaring: the highest mass of all is 2^30."""
    bits = total.bit_length()
    m, result = total >> (bits - 31), bits - 31
    for _ in range(16):
        m = (m * m) >> 30
        result = 2 * result + (m >> 31)
        m >>= m >> 31
    return result
