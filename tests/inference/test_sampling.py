"""Sampling is integers alone: Philox's known vectors, the inverse CDF against a plain reading of it, ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.philox import draw, philox
from inference.program import LOG2E_Q32
from inference.sampling import sample
from inference.tables import exp2

SEED = bytes(range(32))
ONE = 1 << 16

# Random123 1.09, kat_vectors, philox4x32 10 rounds.
PHILOX = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX)
def test_philox_gives_the_published_words(counter, key, words) -> None:
    assert philox(counter, key) == words


def test_a_stream_of_philox_is_its_single_draws() -> None:
    stream = np.stack(philox((np.arange(5, dtype=np.uint64), 0, 0, 0), (7, 9)), axis=1)
    assert [tuple(map(int, row)) for row in stream] == [philox((i, 0, 0, 0), (7, 9)) for i in range(5)]


def test_each_position_and_each_seed_draws_afresh() -> None:
    draws = {draw(bytes([byte]) + SEED[1:], position) for byte in range(8) for position in range(64)}
    assert len(draws) == 8 * 64
    with pytest.raises(ValueError, match="31"):
        draw(SEED[:31], 0)


@pytest.mark.parametrize(
    ("logits", "temperature", "top_k", "token"),
    [
        ([1, 5, 5, 2], 0, 0, 1),  # greedy, ties to the lowest id
        ([-7, -7, -7], 0, 2, 0),
        ([5, 9, 9, 9], ONE, 1, 1),  # top-k 1 keeps the lowest id of the tie
        ([1 << 40, -(1 << 40), -(1 << 40)], ONE, 0, 0),  # differences at the edge of saturation
        ([0, 1 << 40, 0], 1, 0, 1),  # the lowest temperature above zero is greedy where there is no tie
        ([3], ONE, 0, 0),
    ],
)
def test_table(logits, temperature, top_k, token) -> None:
    assert sample(np.array(logits, np.int64), SEED, 3, temperature, top_k, exp2()) == token


def test_top_k_keeps_the_lowest_ids_of_a_tie() -> None:
    logits = np.array([0, 7, 7, 7, 0, 7], np.int64)
    taken = {sample(logits, SEED, position, ONE, 2, exp2()) for position in range(200)}
    assert taken == {1, 2}


def test_frequencies_follow_the_softmax() -> None:
    logits = np.array([0, ONE, 2 * ONE, 3 * ONE], np.int64)  # 0, 1, 2, 3 nats
    counts = np.bincount([sample(logits, SEED, p, ONE, 0, exp2()) for p in range(20_000)], minlength=4)
    expected = np.exp(np.arange(4.0)) / np.exp(np.arange(4.0)).sum()
    assert np.abs(counts / 20_000 - expected).max() < 0.012


@given(
    logits=st.lists(st.integers(-(1 << 40), 1 << 40) | st.integers(-8 * ONE, 8 * ONE), min_size=1, max_size=40),
    temperature=st.integers(1, 2**32 - 1) | st.integers(ONE // 4, 2 * ONE),
    top_k=st.integers(0, 45),
    position=st.integers(0, 2**20),
)
@settings(max_examples=150, deadline=None)
def test_sampling_is_its_definition_in_big_integers(logits, temperature, top_k, position) -> None:
    table = [int(v) for v in exp2()]
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = sorted(order[:top_k] if top_k else order)
    highest = max(logits[i] for i in kept)
    masses = []
    for i in kept:
        power = (min(highest - logits[i], 1 << 28) * (LOG2E_Q32 // temperature)) >> 16
        masses.append(table[(power & 0xFFFF) >> 4] >> min(power >> 16, 31))
    down = max(0, sum(masses).bit_length() - 31)
    masses = [mass >> down for mass in masses]
    target, passed = draw(SEED, position) * sum(masses) >> 32, 0
    for i, mass in zip(kept, masses, strict=True):
        passed += mass
        if passed > target:
            expected = i
            break
    assert sample(np.array(logits, np.int64), SEED, position, temperature, top_k, exp2()) == expected
