"""Whose turn it is: shares in proportion to power, no memory of rounds, and the audit delay's window."""

from collections import Counter
from itertools import pairwise

import pytest

from consensus.bft.proposer import ProposerSchedule, proposer, seeds, smallest_window, step
from primitives.hashing import keccak
from primitives.validators import Validator, ValidatorSet

MIX = b"m" * 32


def members(*powers: int) -> ValidatorSet:
    return ValidatorSet.of(
        Validator(bytes([i + 1]) * 20, bytes([i + 101]) * 20, power, bytes(48)) for i, power in enumerate(powers)
    )


def test_seeds_are_as_written() -> None:
    """formats.md: keccak(mix | operator) mod (W + 1) - W // 2."""
    expected = [int.from_bytes(keccak(MIX + bytes([i + 1]) * 20), "big") % 8 - 3 for i in range(3)]
    assert list(seeds(members(1, 2, 4), MIX)) == expected


def test_a_step_by_hand() -> None:
    """Powers 1, 2, 4 from zero: add, the highest is picked, the total goes off it; ties to the lowest operator."""
    priorities = [0, 0, 0]
    picks = [step(members(1, 2, 4), priorities) for _ in range(7)]
    assert picks == [2, 1, 2, 0, 2, 1, 2]
    assert priorities == [0, 0, 0]
    assert step(members(5, 5), [0, 0]) == 0


@pytest.mark.parametrize("powers", [(1,), (10, 10, 10, 10), (1, 2, 4), (1, 1, 1, 97), (7, 11, 13, 17, 19)])
def test_turns_are_in_proportion_to_power(powers: tuple[int, ...]) -> None:
    chosen = members(*powers)
    rounds = 10
    turns = Counter(operator for operator, _, _ in ProposerSchedule(chosen, MIX, 1).round_zero(rounds * sum(powers)))
    for member in chosen.validators:
        assert abs(turns[member.operator] - rounds * member.power) <= 1


def test_equal_members_take_turns_whatever_their_addresses() -> None:
    """From zero, neighbouring addresses would too; the seeds only shuffle the order, nobody proposes twice in four."""
    picks = [operator for operator, _, _ in ProposerSchedule(members(10, 10, 10, 10), MIX, 1).round_zero(40)]
    assert all(len(set(picks[i : i + 4])) == 4 for i in range(0, 36, 4))


def test_round_r_takes_r_further_steps() -> None:
    chosen = members(3, 5, 7, 11)
    schedule = ProposerSchedule(chosen, MIX, 33)
    for height in range(33, 60):
        for round_ in range(6):
            assert schedule.proposer(height, round_) == schedule.proposer(height + round_, 0)
            assert schedule.proposer(height, round_) == proposer(chosen, MIX, 33, height, round_)


def test_going_back_gives_the_same() -> None:
    schedule = ProposerSchedule(members(3, 5, 7, 11), MIX, 1)
    forward = [schedule.priorities(height) for height in range(1, 40)]
    assert [schedule.priorities(height) for height in range(39, 0, -1)] == forward[::-1]
    assert [operator for operator, _, _ in schedule.round_zero(39)] == [schedule.proposer(h, 0) for h in range(1, 40)]


def brute_window(schedule: list[tuple[bytes, int, int]]) -> int:
    shares = {operator: min(p / w for o, p, w in schedule if o == operator) for operator, _, _ in schedule}
    for size in range(1, len(schedule) + 1):
        windows = (schedule[i : i + size] for i in range(len(schedule) - size + 1))
        if all(sum(shares[o] for o in {row[0] for row in window}) > 1 / 3 + 1e-12 for window in windows):
            return size
    return len(schedule) + 1


@pytest.mark.parametrize("powers", [(10, 10, 10, 10), (1, 2, 3, 5, 8, 13), (50, 1, 1, 1), (9, 8, 7, 6, 5, 4, 3, 2, 1)])
@pytest.mark.parametrize("length", [1, 5, 64])
def test_the_smallest_window_is_the_smallest(powers: tuple[int, ...], length: int) -> None:
    schedule = ProposerSchedule(members(*powers), MIX, 1).round_zero(length)
    assert smallest_window(schedule) == brute_window(schedule)


def test_the_smallest_window_over_two_epochs() -> None:
    first = ProposerSchedule(members(10, 20, 30, 40), MIX, 1).round_zero(32)
    second = ProposerSchedule(members(40, 30, 20, 11), b"n" * 32, 33).round_zero(32)
    joined = smallest_window(first + second)
    assert joined == brute_window(first + second) >= max(smallest_window(first), smallest_window(second))


def test_the_smallest_window_for_equal_powers() -> None:
    """More than a third of the members: two of four, six of sixteen, and more where two epochs meet (simulated)."""
    for count, least, most in ((4, 2, 3), (16, 6, 12), (128, 43, 86)):
        chosen = members(*[10] * count)
        for one, two in pairwise(range(6)):
            rows = [
                ProposerSchedule(chosen, bytes([mix]) * 32, first).round_zero(256)
                for mix, first in ((one, 1), (two, 257))
            ]
            assert least <= smallest_window(rows[0] + rows[1]) <= most
