"""Sample(logits, seed, position): one token from integer logits, the same on every machine. Both executors and every
checker use this one function; the referee's arithmetic is the same few lines.

Source of randomness: Philox4x32-10 (Salmon et al., SC 2011). Owns no state and reads no clock.
"""

from typing import Any

import numpy as np

from inference.program import EXP2_INDEX_BITS, LOG2E_Q32

SEED_BYTES = 32
DIFFERENCE_MAX = 1 << 28  # 4,096 nats in Q16: nothing that far below the maximum is ever drawn unless it is hot
MASS_BITS = 31  # total mass is shifted below 2^31, so that u32 * mass fits 63 bits
_MASK = 0xFFFFFFFF


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


def draw(seed: bytes, position: int) -> int:
    """The u32 of a position: word 0 of Philox with the seed's little-endian words s0..s7 as key (s0, s1) and counter
    (position, s2, s3, s4). s5..s7 take no part: 160 bits of a hash are enough."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"seed of {len(seed)} bytes, must be {SEED_BYTES}")
    words = [int.from_bytes(seed[i : i + 4], "little") for i in range(0, 20, 4)]
    return philox((position & _MASK, words[2], words[3], words[4]), (words[0], words[1]))[0]


def philox(counter: tuple[Any, int, int, int], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10: four u32 from a counter of four u32 and a key of two. The first counter word may be a uint64
    array, for a stream of draws."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & _MASK, (low >> 32) ^ c3 ^ k1, low & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3
