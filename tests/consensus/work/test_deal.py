"""The weighted draw without replacement, room, and the rate that a validator is trusted with."""

import random

import pytest

from consensus.work.credit import epoch_work
from consensus.work.deal import (
    Candidate,
    Purpose,
    capacity_floor,
    draw,
    effective_rate,
    finalised_rate,
    has_room,
    retry_after,
)
from consensus.work.power import Stake, next_rho, target_of
from primitives.hashing import keccak
from primitives.params import ChainParams

TASK = keccak(b"task")


def candidates(*weights: int) -> list[Candidate]:
    return [Candidate(bytes([i + 1]) * 20, weight) for i, weight in enumerate(weights)]


def test_the_draw_is_the_written_rule_with_prefix_sums_in_address_order():
    mix, weights = keccak(b"mix"), (5, 7, 11)
    x = int.from_bytes(keccak(mix + b"\x01" + TASK + b"\x00" + bytes(4)), "big") % 23
    first = 0 if x < 5 else 1 if x < 12 else 2
    left = [i for i in range(3) if i != first]
    y = int.from_bytes(keccak(mix + b"\x01" + TASK + b"\x00" + bytes(3) + b"\x01"), "big")
    y %= sum(weights[i] for i in left)
    second = left[0] if y < weights[left[0]] else left[1]
    picks = draw(mix, Purpose.DEAL, TASK, 0, candidates(*weights), 2)
    assert picks == (bytes([first + 1]) * 20, bytes([second + 1]) * 20)


def test_the_order_in_which_candidates_are_given_does_not_matter():
    rng = random.Random(1)
    given = candidates(*[rng.randrange(1, 10**24) for _ in range(9)])
    expected = draw(keccak(b"m"), Purpose.AUDIT, TASK, 2, given, 5)
    for _ in range(20):
        rng.shuffle(given)
        assert draw(keccak(b"m"), Purpose.AUDIT, TASK, 2, given, 5) == expected


def test_nobody_is_drawn_twice_and_no_more_than_there_are():
    for count in range(7):
        picks = draw(keccak(b"m"), Purpose.DEAL, TASK, 0, candidates(1, 2, 3, 4), count)
        assert len(picks) == len(set(picks)) == min(count, 4)


def test_nobody_without_weight_is_drawn():
    assert draw(keccak(b"m"), Purpose.DEAL, TASK, 0, candidates(0, 9, 0), 3) == (b"\x02" * 20,)
    assert draw(keccak(b"m"), Purpose.DEAL, TASK, 0, [], 3) == ()


def test_purpose_round_task_and_mix_each_change_the_draw():
    base = (keccak(b"m"), Purpose.DEAL, TASK, 0)
    variants = [
        base,
        (keccak(b"n"), *base[1:]),
        (base[0], Purpose.AUDIT, *base[2:]),
        (*base[:2], keccak(b"other"), 0),
        (*base[:3], 1),
    ]
    crowd = candidates(*[1] * 200)
    assert len({draw(*variant, crowd, 3) for variant in variants}) == len(variants)


def test_picks_come_in_proportion_to_weight():
    weights, draws = (1, 2, 3, 4), 4_000
    counts = [0] * 4
    for i in range(draws):
        (pick,) = draw(keccak(i.to_bytes(8, "big")), Purpose.DEAL, TASK, 0, candidates(*weights), 1)
        counts[pick[0] - 1] += 1
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - draws * weight / 10) < 150, counts


def test_values_in_the_incomplete_last_stretch_are_rejected():
    total = 2**255 + 1  # almost half of all hashes are rejected
    given = [Candidate(b"\x01" * 20, total - 1), Candidate(b"\x02" * 20, 1)]
    rejected = 0
    for i in range(64):
        mix = keccak(i.to_bytes(4, "big"))
        x = int.from_bytes(keccak(mix + b"\x01" + TASK + bytes(5)), "big")
        rejected += x >= total
        assert draw(mix, Purpose.DEAL, TASK, 0, given, 1) == (b"\x01" * 20,)
    assert rejected > 16


@pytest.mark.parametrize(
    ("declared", "floor", "best", "expected"),
    [
        (100, 100, 0, 100),  # a devnet's floor is what one declares
        (100, 10, 0, 10),
        (100, 10, 40, 50),
        (100, 10, 90, 100),
        (100, 200, 0, 100),  # never more than declared
    ],
)
def test_effective_rate(declared, floor, best, expected):
    assert effective_rate(declared, floor, best) == expected


@pytest.mark.parametrize(
    ("in_flight", "cost", "rate", "step", "room"),
    [
        (0, 10**30, 1, 4, True),  # with nothing in flight, one task of any size
        (1, 39, 10, 4, True),
        (1, 40, 10, 4, False),
        (40, 1, 10, 4, False),
    ],
)
def test_room(in_flight, cost, rate, step, room):
    assert has_room(in_flight, cost, rate, step) is room


def test_floor_on_a_public_chain_is_the_lower_median_rate_per_bond():
    assert capacity_floor(True, 77, 5, [(100, 1)]) == 77
    assert capacity_floor(False, 77, 5, []) == 0
    assert capacity_floor(False, 77, 5, [(0, 10), (10, 10), (30, 10), (20, 10)]) == 10
    assert capacity_floor(False, 77, 5, [(10, 10), (30, 10)]) == 5


def test_the_shown_rate_counts_both_ends():
    assert [finalised_rate(100, 7, at) for at in (7, 8, 16)] == [100, 50, 10]


def test_retries_double_up_to_32_blocks():
    assert [retry_after(tries) for tries in range(1, 9)] == [1, 2, 4, 8, 16, 32, 32, 32]


def test_ten_thousand_tasks_are_dealt_in_proportion_to_bond():
    """Pearson's chi-square of the executors drawn against the bonds, eleven degrees of freedom: 31.26 is the 99.9 %
    point. The mix is fixed, so that the test says the same on every machine."""
    weights = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]
    fleet = candidates(*weights)
    drawn = dict.fromkeys((c.key for c in fleet), 0)
    tasks = 10_000
    for number in range(tasks):
        task = keccak(b"fair" + number.to_bytes(4, "big"))
        (executor,) = draw(keccak(b"fairness"), Purpose.DEAL, task, 0, fleet, 1)
        drawn[executor] += 1
    expected = [tasks * weight / sum(weights) for weight in weights]
    chi_square = sum((drawn[c.key] - want) ** 2 / want for c, want in zip(fleet, expected, strict=True))
    print(f"chi-square {chi_square:.2f}, drawn {list(drawn.values())}, expected {[round(want) for want in expected]}")
    assert chi_square < 31.26


def test_splitting_a_bond_in_two_gains_no_tasks():
    whole, halves = candidates(40, 60), candidates(20, 60, 20)
    mine = {b"\x01" * 20, b"\x03" * 20}
    counts = [0, 0]
    for number in range(4_000):
        task = keccak(b"split" + number.to_bytes(4, "big"))
        counts[0] += draw(keccak(b"s"), Purpose.DEAL, task, 0, whole, 1)[0] in mine
        counts[1] += draw(keccak(b"s"), Purpose.DEAL, task, 0, halves, 1)[0] in mine
    # Both are binomial(4000, 0.4), standard deviation 31: their difference stays within four of its own, 4 * 44.
    assert abs(counts[0] - counts[1]) < 176, counts


def test_splitting_a_bond_gains_seats_that_pay_their_cost_and_no_power() -> None:
    """Nobody is drawn twice, so four names of one owner are drawn to check more often than one. A check is paid what it
    costs, checks count at most a third of what one executed, and power is capped by the bond."""

    def worked(mine: tuple[int, ...]) -> tuple[int, int]:
        fleet = candidates(*mine, 15, 15, 15, 15)
        own = {candidate.key for candidate in fleet[: len(mine)]}
        executed = checked = 0
        for number in range(3_000):
            task = keccak(b"seats" + number.to_bytes(4, "big"))
            (executor,) = draw(keccak(b"m"), Purpose.DEAL, task, 0, fleet, 1)
            others = [candidate for candidate in fleet if candidate.key != executor]
            executed += executor in own
            checked += len(own.intersection(draw(keccak(b"m"), Purpose.AUDIT, task, 0, others, 2)))
        return executed, checked

    (whole, seats), (split, more_seats) = worked((40,)), worked((10, 10, 10, 10))
    assert abs(whole - split) < 4 * (3_000 * 0.4 * 0.6 * 2) ** 0.5
    print(f"of 3,000: executed {whole} and {split}, checked {seats} and {more_seats}")
    assert more_seats > 1.4 * seats
    macs = 1_000
    one, four = (epoch_work(macs * done, macs // 4 * checks) for done, checks in ((whole, seats), (split, more_seats)))
    assert four <= one * 1.12, "of credit, which above the bond is worth nothing"
    rho = next_rho(ChainParams(), [Stake(bytes(20), 40, one), Stake(b"\x01" * 20, 60, one * 3 // 2)], 0)
    assert target_of(Stake(bytes(20), 40, one), rho) == target_of(Stake(bytes(20), 40, four), rho) == 40
