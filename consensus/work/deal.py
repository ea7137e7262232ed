"""Who gets a task: the weighted draw, room and effective rate (docs/formats.md, Bytes and Units; docs/useful-work.md).

Pure integers over frozen values: the caller knows who is a member, serves, is jailed, and what is in flight. Nothing
here knows storage, blocks or money.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from primitives.hashing import keccak

EXECUTOR_SLOTS = 3
"""The executor and two ordered backups."""
RATE_HEADROOM = (5, 4)
"""A validator may hold this much of its best finalised rate."""
RATE_EPOCHS = 8
RETRY_BLOCKS_MAX = 32
HASH_SPAN = 1 << 256


class Purpose(IntEnum):
    """What a draw is for; the `purpose` byte of its hashes."""

    DEAL = 1
    AUDIT = 2
    CANARY_MODEL = 3


@dataclass(frozen=True)
class Candidate:
    """One that may be drawn: an operator address (or a model id) and the bond that it weighs, above 0."""

    key: bytes
    weight: int


def draw(
    mix: bytes, purpose: Purpose, task: bytes, round_: int, candidates: Iterable[Candidate], count: int
) -> tuple[bytes, ...]:
    """Up to `count` keys, weighted, without replacement, in the order drawn.

    x_c = keccak(mix | purpose u8 | task | round u8 | c u32) with c counting every attempt; x >= 2^256 - (2^256 mod W)
    is rejected; x mod W falls into the prefix sums in ascending order of key; the pick is removed.
    """
    left = sorted((c for c in candidates if c.weight > 0), key=lambda c: c.key)
    prefix = mix + bytes([purpose]) + task + bytes([round_])
    total = sum(c.weight for c in left)
    picks: list[bytes] = []
    attempt = 0
    while left and len(picks) < count:
        x = int.from_bytes(keccak(prefix + attempt.to_bytes(4, "big")), "big")
        attempt += 1
        if x >= HASH_SPAN - HASH_SPAN % total:
            continue
        index = _index_of(x % total, left)
        pick = left.pop(index)
        total -= pick.weight
        picks.append(pick.key)
    return tuple(picks)


def _index_of(point: int, candidates: Sequence[Candidate]) -> int:
    """Index of the candidate whose stretch of the prefix sums holds `point`."""
    for index, candidate in enumerate(candidates):
        if point < candidate.weight:
            return index
        point -= candidate.weight
    raise AssertionError("a point beyond the total weight")


def effective_rate(declared: int, floor: int, best: int) -> int:
    """Multiply-adds a block that a validator is trusted with: min(declared, max(floor, 5/4 of its best rate))."""
    return min(declared, max(floor, best * RATE_HEADROOM[0] // RATE_HEADROOM[1]))


def finalised_rate(macs: int, slot_first: int, submitted: int) -> int:
    """Rate that a finished task showed, in multiply-adds a block: macs // (submit block - slot's first block + 1)."""
    assert submitted >= slot_first
    return macs // (submitted - slot_first + 1)


def capacity_floor(devnet: bool, declared: int, bond: int, fleet: Sequence[tuple[int, int]]) -> int:
    """The rate that a validator is trusted with before it has shown any, in multiply-adds a block.

    On a devnet what it declares; on a public chain the lower median of (best rate / bond) over `fleet`, pairs of best
    finalised rate and bond of those that have shown one, times its own bond; 0 while nobody has.
    """
    if devnet:
        return declared
    shown = sorted((rate << 64) // weight for rate, weight in fleet if rate > 0 and weight > 0)
    return bond * shown[(len(shown) - 1) // 2] >> 64 if shown else 0


def has_room(in_flight: int, cost: int, rate: int, step: int) -> bool:
    """Whether a validator may be dealt a task of `cost` beside what it has `in_flight` (multiply-adds, both).

    Always when it has nothing; else when the sum fits its effective rate times a third of the deadline.
    """
    return in_flight == 0 or in_flight + cost <= rate * step


def scaled_after(scale_q16: int, dealt: int, missed: int) -> int:
    """The factor of the effective rate (Q16, 65,536 = whole) after an epoch: halved when more than 1 in 10 were missed.

    Otherwise it regrows by a quarter, up to the whole.
    """
    if missed * 10 > dealt:
        return max(1, scale_q16 // 2)
    return min(1 << 16, scale_q16 + max(1, scale_q16 // 4))


def retry_after(tries: int) -> int:
    """Blocks until a task that nobody could hold is tried again, after that many tries: 1, 2, 4 .. 32."""
    assert tries >= 1
    return min(RETRY_BLOCKS_MAX, 1 << min(tries - 1, 5))
