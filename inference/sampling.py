"""Sample(logits, seed, position): one token from integer logits, the same on every machine. Both executors and every
checker use this one function; the referee's arithmetic is the same few lines.

Owns no state and reads no clock; the random words are philox.py's.
"""

import numpy as np

from inference.philox import draw
from inference.program import DIFFERENCE_MAX, EXP2_INDEX_BITS, LOG2E_Q32, MASS_BITS


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
    difference = np.minimum(values.max() - values, DIFFERENCE_MAX)
    power = (difference * (LOG2E_Q32 // temperature_q16)) >> 16
    index = (power & 0xFFFF) >> (16 - EXP2_INDEX_BITS)
    mass = exp2_table[index].astype(np.int64) >> np.minimum(power >> 16, 31)
    total = int(mass.sum())
    mass >>= max(0, total.bit_length() - MASS_BITS)
    cumulative = mass.cumsum()
    target = (draw(seed, position) * int(cumulative[-1])) >> 32
    return int(kept[np.searchsorted(cumulative, target, side="right")])
