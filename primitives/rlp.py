"""Recursive Length Prefix (Ethereum yellow paper, appendix B) over nested lists of bytes.

Decoding is strict: one item, no trailing bytes, the shortest form only, nesting bounded. The C library recurses and
overflows its stack (a crash of the whole process) at some 20,000 nested lists, so anything long enough to nest that
deep is scanned before it is handed over.
"""

from collections.abc import Sequence
from typing import TypeAlias

import rusty_rlp

Item: TypeAlias = "bytes | Sequence[Item]"

DEPTH_MAX = 16
"""Nested lists in any structure of this chain; the deepest is a block of typed access lists."""
UNSCANNED_BYTES_MAX = 4096
"""Shorter data cannot nest deep enough to hurt."""


class RLPError(ValueError):
    """The bytes are not the strict RLP that was asked for."""


def encode(item: Item) -> bytes:
    """RLP of bytes or of nested sequences of bytes."""
    encoded: bytes = rusty_rlp.encode_raw(item)
    return encoded


def decode(data: bytes) -> Item:
    """The item that `data` is the only RLP form of. Raises RLPError."""
    if len(data) > UNSCANNED_BYTES_MAX:
        _check_depth(data)
    try:
        item: Item = rusty_rlp.decode_raw(data, True, False)[0]
    except rusty_rlp.DecodingError as error:
        raise RLPError(f"not RLP: {error}") from error
    if rusty_rlp.encode_raw(item) != data:
        raise RLPError("not the shortest RLP form")
    return item


def decode_list(data: bytes, length: int | None = None) -> list[Item]:
    """As decode, for a list, of `length` items if given. Raises RLPError."""
    return as_list(decode(data), length)


def as_list(item: Item, length: int | None = None) -> list[Item]:
    """`item` as a list of `length` items. Raises RLPError."""
    if isinstance(item, bytes):
        raise RLPError(f"expected a list, found {len(item)} bytes")
    if length is not None and len(item) != length:
        raise RLPError(f"expected a list of {length} items, found {len(item)}")
    return list(item)


def as_bytes(item: Item, length: int | None = None, most: int | None = None) -> bytes:
    """`item` as bytes, exactly `length` or at most `most` of them. Raises RLPError."""
    if not isinstance(item, bytes):
        raise RLPError(f"expected bytes, found a list of {len(item)}")
    if length is not None and len(item) != length:
        raise RLPError(f"expected {length} bytes, found {len(item)}")
    if most is not None and len(item) > most:
        raise RLPError(f"expected at most {most} bytes, found {len(item)}")
    return item


def as_uint(item: Item, bits: int = 256) -> int:
    """`item` as an unsigned integer in its shortest big-endian form, below 2**bits. Raises RLPError."""
    return uint(as_bytes(item, most=bits // 8))


def uint(data: bytes) -> int:
    """The integer whose shortest big-endian form is `data` (zero is empty). Raises RLPError."""
    if data[:1] == b"\x00":
        raise RLPError("an integer with a leading zero byte")
    return int.from_bytes(data, "big")


def from_uint(value: int) -> bytes:
    """Shortest big-endian form of a non-negative integer (zero is empty)."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _check_depth(data: bytes) -> None:
    """Walk list headers only; raises RLPError when lists nest deeper than DEPTH_MAX or overrun their parent."""
    ends = [len(data)]
    at = 0
    while True:
        while at == ends[-1]:
            ends.pop()
            if not ends:
                return
        first = data[at]
        at += 1
        if first < 0x80:
            continue
        base = 0x80 if first < 0xC0 else 0xC0
        size = first - base
        if size > 55:
            width = size - 55
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        if at + size > ends[-1]:
            raise RLPError("an item longer than what holds it")
        if base == 0x80:
            at += size
            continue
        if len(ends) > DEPTH_MAX:
            raise RLPError(f"lists nested deeper than {DEPTH_MAX}")
        ends.append(at + size)
