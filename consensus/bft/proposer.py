"""Whose turn it is: weighted round-robin priorities, seeded at an epoch's first block (CometBFT's proposer selection).

Integers only. One step a height whatever round decided; round r takes r further steps on a copy, so that a node that
knows an epoch's set and its seed knows every proposer of the epoch.
"""

import math
from collections import Counter
from collections.abc import Sequence

from primitives.hashing import keccak
from primitives.validators import ValidatorSet


def proposer(validator_set: ValidatorSet, seed_mix: bytes, first_height: int, height: int, round_: int) -> bytes:
    """Operator address of the proposer of (height, round) in the epoch that begins at first_height.

    It is the pick of step height - first_height + 1 + round. seed_mix: mix of the block that fixed this set (genesis
    mix for epochs 0 and 1). Callers that ask for many heights keep a ProposerSchedule.
    """
    return ProposerSchedule(validator_set, seed_mix, first_height).proposer(height, round_)


class ProposerSchedule:
    """The proposers of one epoch; remembers the last height asked for, so that walking up costs a step a height."""

    def __init__(self, validator_set: ValidatorSet, seed_mix: bytes, first_height: int) -> None:
        self.validator_set = validator_set
        self.first_height = first_height
        self._seeds = seeds(validator_set, seed_mix)
        self._height = first_height
        self._priorities = list(self._seeds)

    def priorities(self, height: int) -> tuple[int, ...]:
        """Priorities before the step of (height, round 0), in set order: what StartHeight carries."""
        assert height >= self.first_height
        if height < self._height:
            self._height, self._priorities = self.first_height, list(self._seeds)
        while self._height < height:
            step(self.validator_set, self._priorities)
            self._height += 1
        return tuple(self._priorities)

    def proposer(self, height: int, round_: int) -> bytes:
        """Operator address of the proposer of (height, round)."""
        priorities = list(self.priorities(height))
        for _ in range(round_):
            step(self.validator_set, priorities)
        return self.validator_set.validators[step(self.validator_set, priorities)].operator

    def round_zero(self, length: int) -> list[tuple[bytes, int, int]]:
        """(operator, power, total power) of the round-0 proposers of the epoch's first `length` heights."""
        priorities = list(self._seeds)
        total = self.validator_set.total_power
        picks = [self.validator_set.validators[step(self.validator_set, priorities)] for _ in range(length)]
        return [(member.operator, member.power, total) for member in picks]


def seeds(validator_set: ValidatorSet, seed_mix: bytes) -> tuple[int, ...]:
    """Priorities before the epoch's first step: keccak(mix | operator) mod (W + 1) - W // 2, in set order."""
    total = validator_set.total_power
    return tuple(
        int.from_bytes(keccak(seed_mix + member.operator), "big") % (total + 1) - total // 2
        for member in validator_set.validators
    )


def step(validator_set: ValidatorSet, priorities: list[int]) -> int:
    """One step, in place: add each power, pick the highest, subtract the total from it. Index of the pick.

    Ties go to the lowest operator address, which is the first in set order.
    """
    members = validator_set.validators
    best = 0
    for index, member in enumerate(members):
        priorities[index] += member.power
        if priorities[index] > priorities[best]:
            best = index
    priorities[best] -= validator_set.total_power
    return best


def smallest_window(schedule: Sequence[tuple[bytes, int, int]]) -> int:
    """Audit delay D: the smallest window such that the proposers of ANY D consecutive heights hold more than W/3.

    schedule: (operator, power, total power) a height, as ProposerSchedule.round_zero gives; for the audit delay those
    of this epoch and the next joined. A proposer counts once a window; one with different shares of the two epochs
    counts with the smaller. If even the whole is not enough, its length + 1.
    """
    scale = math.prod({total for _, _, total in schedule})
    shares: dict[bytes, int] = {}
    for operator, power, total in schedule:
        share = power * (scale // total)
        shares[operator] = min(share, shares.get(operator, share))
    held: Counter[bytes] = Counter()
    weight = 0
    start = 0
    longest = 0
    for end, (operator, _, _) in enumerate(schedule):
        weight += shares[operator] if held[operator] == 0 else 0
        held[operator] += 1
        while 3 * weight > scale:
            # The window that begins at `start` needs to reach `end`.
            longest = max(longest, end - start + 1)
            first = schedule[start][0]
            held[first] -= 1
            weight -= shares[first] if held[first] == 0 else 0
            start += 1
    # From `start` on nothing is enough, so no window of D heights may begin there.
    return max(longest, len(schedule) - start + 1)
