"""Validator sets: sorted, distinct, bounded, one encoding; and the bitmaps over them."""

from dataclasses import replace

import pytest

from primitives import rlp
from primitives.hashing import keccak
from primitives.validators import (
    SET_BYTES_MAX,
    TOTAL_POWER_MAX,
    InvalidBitmap,
    InvalidValidatorSet,
    Validator,
    ValidatorSet,
    bitmap_of,
    indexes_of,
)


def member(number: int, power: int = 10) -> Validator:
    return Validator(number.to_bytes(20, "big"), (1000 + number).to_bytes(20, "big"), power, bytes([number % 256]) * 48)


def test_a_set_is_sorted_and_encoded_as_written() -> None:
    chosen = ValidatorSet.of([member(3, 7), member(1, 300)])
    rows = [
        [m.operator, m.consensus_address, power, m.beacon_key]
        for m, power in ((member(1), b"\x01\x2c"), (member(3), b"\x07"))
    ]
    assert chosen.encoded == rlp.encode(rows)
    assert chosen.hash == keccak(chosen.encoded)
    assert ValidatorSet.decode(chosen.encoded) == chosen
    assert chosen.total_power == 307
    assert chosen.index_of(member(3).consensus_address) == 1 and chosen.index_of(b"x" * 20) is None
    assert chosen.by_operator(member(3).operator) == member(3, 7) and chosen.by_operator(b"x" * 20) is None


def test_the_largest_set_fits_its_bound() -> None:
    power = TOTAL_POWER_MAX // 128
    largest = ValidatorSet.of(member(i, power) for i in range(128))
    assert len(largest.encoded) <= SET_BYTES_MAX and ValidatorSet.decode(largest.encoded) == largest


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([], "0 validators"),
        ([member(i) for i in range(129)], "129 validators"),
        ([member(1), member(1)], "does not follow"),
        ([member(1), replace(member(2), consensus_address=member(1).consensus_address)], "share a consensus address"),
        ([member(1, 0)], "power 0"),
        ([member(1, TOTAL_POWER_MAX), member(2, 1)], "total power"),
        ([replace(member(1), beacon_key=b"")], "beacon key"),
        ([replace(member(1), operator=b"short")], "20 bytes"),
    ],
)
def test_what_is_no_set(members: list[Validator], reason: str) -> None:
    with pytest.raises(InvalidValidatorSet, match=reason):
        ValidatorSet.of(members)


@pytest.mark.parametrize(
    "data", [b"", b"\xc0", b"\x80", b"\xc1\xc0", bytes(SET_BYTES_MAX + 1), rlp.encode([[b"", b"", b"", b""]])]
)
def test_what_encodes_no_set(data: bytes) -> None:
    with pytest.raises(InvalidValidatorSet):
        ValidatorSet.decode(data)


def test_an_unsorted_encoding_is_refused() -> None:
    rows = rlp.as_list(rlp.decode(ValidatorSet.of([member(1), member(2)]).encoded))
    with pytest.raises(InvalidValidatorSet, match="does not follow"):
        ValidatorSet.decode(rlp.encode(rows[::-1]))


@pytest.mark.parametrize("total", range(1, 40))
def test_quorum_and_third_are_exact(total: int) -> None:
    """3w > 2W and 3w > W, and nothing between."""
    chosen = ValidatorSet.of([member(1, total)])
    for power in range(total + 1):
        assert chosen.is_quorum(power) == (3 * power > 2 * total)
        assert chosen.is_over_third(power) == (3 * power > total)


def test_bitmaps() -> None:
    """Bit i is bit i % 8, least significant first, of byte i // 8."""
    assert bitmap_of([0, 3, 9], 10) == b"\x09\x02"
    assert indexes_of(b"\x09\x02", 10) == [0, 3, 9]
    for size in (1, 7, 8, 9, 128):
        everyone = list(range(size))
        assert indexes_of(bitmap_of(everyone, size), size) == everyone
        assert indexes_of(bytes((size + 7) // 8), size) == []


@pytest.mark.parametrize(("bitmap", "size"), [(b"\x04", 2), (b"", 1), (b"\x00\x00", 8), (b"\xff\x04", 10)])
def test_a_bitmap_that_names_nobody_is_refused(bitmap: bytes, size: int) -> None:
    with pytest.raises(InvalidBitmap):
        indexes_of(bitmap, size)
