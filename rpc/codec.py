"""JSON values of the Ethereum JSON-RPC to Python and back (execution-apis: quantities, data, block tags)."""

from typing import Any

from primitives.address import checksum
from rpc.errors import invalid_params

DATA_BYTES_MAX = 2 * 1024 * 1024
TAGS_AT_HEAD = ("latest", "pending", "safe", "finalized")


def quantity(value: int) -> str:
    """An integer as 0x hexadecimal without leading zeros."""
    return hex(value)


def data(value: bytes) -> str:
    """Bytes as 0x hexadecimal."""
    return "0x" + value.hex()


def address(value: bytes) -> str:
    """An address with its EIP-55 checksum: readers that compare without case and those that check it agree."""
    return checksum(value)


def read_quantity(value: Any, name: str, bits: int = 256) -> int:
    """A quantity below 2**bits. Raises RpcError."""
    if not isinstance(value, str) or not value.startswith("0x") or len(value) < 3:
        raise invalid_params(f"invalid argument {name}: {value!r} is not a 0x quantity")
    if len(value) > 2 + bits // 4:
        raise invalid_params(f"invalid argument {name}: hex number > {bits} bits")
    try:
        return int(value[2:], 16)
    except ValueError:
        raise invalid_params(f"invalid argument {name}: invalid hex string {value!r}") from None


def read_data(value: Any, name: str, length: int | None = None) -> bytes:
    """Bytes, of `length` if given. Raises RpcError."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise invalid_params(f"invalid argument {name}: {value!r} is not 0x data")
    if len(value) > 2 + 2 * DATA_BYTES_MAX:
        raise invalid_params(f"invalid argument {name}: more than {DATA_BYTES_MAX} bytes")
    try:
        raw = bytes.fromhex(value[2:])
    except ValueError:
        raise invalid_params(f"invalid argument {name}: invalid hex string") from None
    if length is not None and len(raw) != length:
        raise invalid_params(f"invalid argument {name}: hex string has {len(raw)} bytes, want {length}")
    return raw


def read_address(value: Any, name: str) -> bytes:
    """Twenty bytes; the checksum is not asked for, as in geth. Raises RpcError."""
    return read_data(value, name, 20)


def read_hash(value: Any, name: str) -> bytes:
    """Thirty-two bytes. Raises RpcError."""
    return read_data(value, name, 32)


def read_bool(value: Any, name: str) -> bool:
    """Raises RpcError."""
    if not isinstance(value, bool):
        raise invalid_params(f"invalid argument {name}: {value!r} is not a boolean")
    return value
