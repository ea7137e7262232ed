"""The random words of sampling: Philox4x32-10 (Salmon et al., SC 2011) and the draw of a position. Owns no state, reads
no clock and needs no numpy, so that a referee can draw too.
"""

from typing import Any

SEED_BYTES = 32
_MASK = 0xFFFFFFFF


def draw(seed: bytes, position: int) -> int:
    """The u32 of a position: word 0 of Philox with the seed's little-endian words s0..s7 as key (s0, s1) and counter
    (position, s2, s3, s4). s5..s7 take no part: 160 bits of a hash are enough."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"seed of {len(seed)} bytes, must be {SEED_BYTES}")
    words = [int.from_bytes(seed[i : i + 4], "little") for i in range(0, 20, 4)]
    return int(philox((position & _MASK, words[2], words[3], words[4]), (words[0], words[1]))[0])


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
