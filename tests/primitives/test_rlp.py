"""RLP is strict: one form, no trailing bytes, bounded nesting; the public vectors decide."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives import rlp


def as_item(value: Any) -> rlp.Item:
    if isinstance(value, list):
        return [as_item(entry) for entry in value]
    if isinstance(value, int):
        return rlp.from_uint(value)
    if value.startswith("#"):
        return rlp.from_uint(int(value[1:]))
    return value.encode()


def test_public_vectors_encode_and_decode(vectors: Path) -> None:
    cases = json.loads((vectors / "ethereum-tests/RLPTests/rlptest.json").read_text())
    assert cases
    for name, case in cases.items():
        item, encoded = as_item(case["in"]), bytes.fromhex(case["out"].removeprefix("0x"))
        assert rlp.encode(item) == encoded, name
        assert rlp.decode(encoded) == item, name


def test_invalid_public_vectors_are_refused(vectors: Path) -> None:
    cases = json.loads((vectors / "ethereum-tests/RLPTests/invalidRLPTest.json").read_text())
    assert cases
    for case in cases.values():
        with pytest.raises(rlp.RLPError):
            rlp.decode(bytes.fromhex(case["out"].removeprefix("0x")))


@given(st.recursive(st.binary(max_size=80), lambda inner: st.lists(inner, max_size=5), max_leaves=40))
def test_decode_inverts_encode(item: Any) -> None:
    assert rlp.decode(rlp.encode(item)) == item


@given(st.binary(max_size=6000))
def test_any_bytes_decode_to_their_only_form_or_are_refused(data: bytes) -> None:
    try:
        item = rlp.decode(data)
    except rlp.RLPError:
        return
    assert rlp.encode(item) == data


@pytest.mark.parametrize("depth", [rlp.DEPTH_MAX + 2, 30_000, 300_000])
def test_deep_nesting_is_refused_not_a_crash(depth: int) -> None:
    parts, length = [b"\xc0"], 1
    for _ in range(depth):
        if length < 56:
            head = bytes([0xC0 + length])
        else:
            size = rlp.from_uint(length)
            head = bytes([0xF7 + len(size)]) + size
        parts.append(head)
        length += len(head)
    data = b"".join(reversed(parts))
    if len(data) <= rlp.UNSCANNED_BYTES_MAX:
        data = rlp.encode([data, b"\x00" * rlp.UNSCANNED_BYTES_MAX])
        assert rlp.decode(data)
        return
    with pytest.raises(rlp.RLPError, match="nested"):
        rlp.decode(data)


def test_truncations_and_extensions_of_a_long_item_are_refused(rng: random.Random) -> None:
    data = rlp.encode([[rng.randbytes(rng.randrange(200)) for _ in range(30)] for _ in range(8)])
    assert len(data) > rlp.UNSCANNED_BYTES_MAX
    for _ in range(50):
        with pytest.raises(rlp.RLPError):
            rlp.decode(data[: rng.randrange(len(data))])
    with pytest.raises(rlp.RLPError):
        rlp.decode(data + b"\x00")


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x01"])
def test_integers_have_no_leading_zero(data: bytes) -> None:
    with pytest.raises(rlp.RLPError):
        rlp.uint(data)


def test_shape_errors_say_what_was_expected() -> None:
    with pytest.raises(rlp.RLPError, match="expected a list"):
        rlp.as_list(b"x")
    with pytest.raises(rlp.RLPError, match="expected 20 bytes, found 1"):
        rlp.as_bytes(b"x", 20)
    with pytest.raises(rlp.RLPError, match="at most 8 bytes"):
        rlp.as_uint(b"\x01" * 9, 64)
