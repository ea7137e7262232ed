"""Ethereum's precompiles in native code where py-evm's Python is far slower than their gas (bn254, blake2f, BLS12-381).

Gas is charged before anything is computed; bad input fails the call and takes its gas, as the EIPs say. modexp is
here because py-evm's differs from EIP-198 where the base is empty and rounds large lengths in floating point.
"""

from collections.abc import Callable
from typing import Any


def native_precompiles() -> dict[bytes, Callable[[Any], Any]]:
    """Address to function over a py-evm computation."""
    return {(5).to_bytes(20, "big"): modexp}


def modexp(computation: Any) -> None:
    """EIP-198 with the gas of EIP-2565."""
    data = computation.msg.data_as_bytes
    base_bytes, exponent_bytes, modulus_bytes = (_word(data, at) for at in (0, 32, 64))
    head = int.from_bytes(_part(data, 96 + base_bytes, min(exponent_bytes, 32)), "big")
    iterations = max(head.bit_length() - 1, 0) + 8 * max(exponent_bytes - 32, 0)
    words = (max(base_bytes, modulus_bytes) + 7) // 8
    computation.consume_gas(max(200, words * words * max(iterations, 1) // 3), "MODEXP")
    if not modulus_bytes:
        computation.output = b""
        return
    base = int.from_bytes(_part(data, 96, base_bytes), "big")
    exponent = int.from_bytes(_part(data, 96 + base_bytes, exponent_bytes), "big")
    modulus = int.from_bytes(_part(data, 96 + base_bytes + exponent_bytes, modulus_bytes), "big")
    result = pow(base, exponent, modulus) if modulus else 0
    computation.output = result.to_bytes(modulus_bytes, "big")


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(_part(data, at, 32), "big")


def _part(data: bytes, at: int, size: int) -> bytes:
    """data[at:at + size] as if zeros followed for ever."""
    return data[at : at + size].ljust(size, b"\0")
