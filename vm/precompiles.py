"""Ethereum's precompiles in native code where py-evm's Python is 30 to 700 times slower than their gas.

modexp, bn254 and blake2f run in revm (pyrevm as a pure function), BLS12-381 (EIP-2537) and point evaluation (EIP-4844)
in arkworks; py-evm reads the whole trusted setup again, 2.6 s, at each point evaluation of 50,000 gas. Its modexp also
differs from EIP-198 where the base is empty, rounds large lengths in floating point, and CPython's pow does 1 Mgas/s on
moduli of a word, where revm does 5. Gas is charged before anything is computed; bad input fails the call and takes its
gas, as the EIPs say.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from eth.exceptions import VMError
from eth.precompiles.bls12_381.constants import (
    BLS12_G1_ADD_GAS,
    BLS12_G1_MSM_GAS,
    BLS12_G2_ADD_GAS,
    BLS12_G2_MSM_GAS,
    BLS12_MAP_FP2_G2_GAS,
    BLS12_MAP_FP_G1_GAS,
    G1_MSM_DISCOUNTS,
    G1_MSM_MAX_DISCOUNT,
    G2_MSM_DISCOUNTS,
    G2_MSM_MAX_DISCOUNT,
    MSM_MULTIPLIER,
)
from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar
from pyrevm import EVM

from primitives.hashing import sha256

ECADD_GAS, ECMUL_GAS = 150, 6_000
ECPAIRING_BASE_GAS, ECPAIRING_PAIR_GAS, ECPAIRING_PAIR_BYTES = 45_000, 34_000, 192
"""EIP-1108."""
BLAKE2F_BYTES = 213
"""EIP-152."""
POINT_EVALUATION_GAS, POINT_EVALUATION_BYTES, FIELD_ELEMENTS_PER_BLOB = 50_000, 192, 4_096
KZG_TAU_G2 = bytes.fromhex(
    "b5bfd7dd8cdeb128843bc287230af38926187075cbfbefa81009a2ce615ac53d2914e5870cb452d2afaaab24f3499f72"
    "185cbfee53492714734429b7b38608e23926c911cceceac9a36851477ba4c60b087041de621000edc98edada20c1def2"
)
"""The second G2 point of Ethereum's KZG ceremony: all of the trusted setup that a verification needs."""
BLS_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
BLS_PAIRING_BASE_GAS, BLS_PAIRING_PAIR_GAS = 37_700, 32_600
FP_BYTES, FP_PADDING = 64, 16
"""EIP-2537: a field element is 16 zero bytes and 48 of the number."""
G1_BYTES, G2_BYTES, SCALAR_BYTES = 128, 256, 32
REVM_CALLER = "0x" + "11" * 20
REVM_GAS = 2**50
"""Above any real price: gas is charged here, before revm runs."""
TRUE, FALSE = (1).to_bytes(32, "big"), bytes(32)

Point = TypeVar("Point", G1Point, G2Point)


class InvalidInput(VMError):
    """A precompile's input that the EIP refuses; the call fails and its gas is gone."""


def native_precompiles() -> dict[bytes, Callable[[Any], None]]:
    """Address to function over a py-evm computation."""
    table: dict[int, Callable[[Any], None]] = {
        0x05: modexp,
        0x06: ecadd,
        0x07: ecmul,
        0x08: ecpairing,
        0x09: blake2f,
        0x0A: point_evaluation,
        0x0B: bls_g1_add,
        0x0C: bls_g1_msm,
        0x0D: bls_g2_add,
        0x0E: bls_g2_msm,
        0x0F: bls_pairing,
        0x10: bls_map_fp_to_g1,
        0x11: bls_map_fp2_to_g2,
    }
    return {number.to_bytes(20, "big"): function for number, function in table.items()}


def modexp(computation: Any) -> None:
    """EIP-198 with the gas of EIP-2565."""
    data = computation.msg.data_as_bytes
    base_bytes, exponent_bytes, modulus_bytes = (int.from_bytes(_part(data, at, 32), "big") for at in (0, 32, 64))
    head = int.from_bytes(_part(data, 96 + base_bytes, min(exponent_bytes, 32)), "big")
    iterations = max(head.bit_length() - 1, 0) + 8 * max(exponent_bytes - 32, 0)
    words = (max(base_bytes, modulus_bytes) + 7) // 8
    computation.consume_gas(max(200, words * words * max(iterations, 1) // 3), "MODEXP")
    if not modulus_bytes:
        computation.output = b""
        return
    if int.from_bytes(_part(data, 96 + base_bytes + exponent_bytes, modulus_bytes), "big") <= 1:
        computation.output = bytes(modulus_bytes)
        return
    computation.output = _revm(0x05, data)


def ecadd(computation: Any) -> None:
    """Sum of two points of bn254 (EIP-196)."""
    computation.consume_gas(ECADD_GAS, "ECADD")
    computation.output = _revm(0x06, computation.msg.data_as_bytes)


def ecmul(computation: Any) -> None:
    """Multiple of a point of bn254 (EIP-196)."""
    computation.consume_gas(ECMUL_GAS, "ECMUL")
    computation.output = _revm(0x07, computation.msg.data_as_bytes)


def ecpairing(computation: Any) -> None:
    """Whether a product of bn254 pairings is one (EIP-197)."""
    data = computation.msg.data_as_bytes
    pairs, rest = divmod(len(data), ECPAIRING_PAIR_BYTES)
    if rest:
        raise InvalidInput(f"ECPAIRING: {len(data)} bytes, not a multiple of {ECPAIRING_PAIR_BYTES}")
    computation.consume_gas(ECPAIRING_BASE_GAS + ECPAIRING_PAIR_GAS * pairs, "ECPAIRING")
    computation.output = _revm(0x08, data)


def blake2f(computation: Any) -> None:
    """Rounds of BLAKE2b's compression function (EIP-152); one gas a round."""
    data = computation.msg.data_as_bytes
    if len(data) != BLAKE2F_BYTES or data[-1] > 1:
        raise InvalidInput(f"BLAKE2F: {len(data)} bytes ending in {data[-1:].hex()}")
    computation.consume_gas(int.from_bytes(data[:4], "big"), "BLAKE2F")
    computation.output = _revm(0x09, data)


def point_evaluation(computation: Any) -> None:
    """Whether a KZG commitment opens to y at z (EIP-4844): e(C - y G1, G2) = e(proof, tau G2 - z G2)."""
    data = computation.msg.data_as_bytes
    computation.consume_gas(POINT_EVALUATION_GAS, "POINT_EVALUATION")
    if len(data) != POINT_EVALUATION_BYTES:
        raise InvalidInput(f"POINT_EVALUATION: {len(data)} bytes, not {POINT_EVALUATION_BYTES}")
    versioned_hash, z, y, commitment, proof = data[:32], data[32:64], data[64:96], data[96:144], data[144:]
    if versioned_hash != b"\x01" + sha256(commitment)[1:]:
        raise InvalidInput(f"POINT_EVALUATION: {versioned_hash.hex()} is not the commitment's hash")
    if int.from_bytes(z, "big") >= BLS_ORDER or int.from_bytes(y, "big") >= BLS_ORDER:
        raise InvalidInput(f"POINT_EVALUATION: z {z.hex()} or y {y.hex()} is no canonical scalar")
    left = [_compressed_g1(commitment) - G1Point() * _scalar(y), -_compressed_g1(proof)]
    right = [G2Point(), G2Point.from_compressed_bytes(KZG_TAU_G2) - G2Point() * _scalar(z)]
    if not GT.pairing_check(left, right):
        raise InvalidInput("POINT_EVALUATION: the proof does not hold")
    computation.output = FIELD_ELEMENTS_PER_BLOB.to_bytes(32, "big") + BLS_ORDER.to_bytes(32, "big")


def bls_g1_add(computation: Any) -> None:
    """Sum of two points of G1; no subgroup check."""
    data = _sized(computation, 2 * G1_BYTES)
    computation.consume_gas(BLS12_G1_ADD_GAS, "BLS12_G1ADD")
    computation.output = _encode(_g1(data[:G1_BYTES]) + _g1(data[G1_BYTES:]))


def bls_g2_add(computation: Any) -> None:
    """Sum of two points of G2; no subgroup check."""
    data = _sized(computation, 2 * G2_BYTES)
    computation.consume_gas(BLS12_G2_ADD_GAS, "BLS12_G2ADD")
    computation.output = _encode(_g2(data[:G2_BYTES]) + _g2(data[G2_BYTES:]))


def bls_g1_msm(computation: Any) -> None:
    """Sum of multiples of points of the subgroup of G1."""
    items = _items(computation, G1_BYTES + SCALAR_BYTES)
    discount = G1_MSM_DISCOUNTS[len(items) - 1] if len(items) <= len(G1_MSM_DISCOUNTS) else G1_MSM_MAX_DISCOUNT
    computation.consume_gas(len(items) * BLS12_G1_MSM_GAS * discount // MSM_MULTIPLIER, "BLS12_G1MSM")
    points = [_in_subgroup(_g1(item[:G1_BYTES])) for item in items]
    computation.output = _encode(G1Point.multiexp_unchecked(points, [_scalar(item[G1_BYTES:]) for item in items]))


def bls_g2_msm(computation: Any) -> None:
    """Sum of multiples of points of the subgroup of G2."""
    items = _items(computation, G2_BYTES + SCALAR_BYTES)
    discount = G2_MSM_DISCOUNTS[len(items) - 1] if len(items) <= len(G2_MSM_DISCOUNTS) else G2_MSM_MAX_DISCOUNT
    computation.consume_gas(len(items) * BLS12_G2_MSM_GAS * discount // MSM_MULTIPLIER, "BLS12_G2MSM")
    points = [_in_subgroup(_g2(item[:G2_BYTES])) for item in items]
    computation.output = _encode(G2Point.multiexp_unchecked(points, [_scalar(item[G2_BYTES:]) for item in items]))


def bls_pairing(computation: Any) -> None:
    """Whether a product of pairings is one."""
    items = _items(computation, G1_BYTES + G2_BYTES)
    computation.consume_gas(BLS_PAIRING_BASE_GAS + BLS_PAIRING_PAIR_GAS * len(items), "BLS12_PAIRING_CHECK")
    left = [_in_subgroup(_g1(item[:G1_BYTES])) for item in items]
    right = [_in_subgroup(_g2(item[G1_BYTES:])) for item in items]
    computation.output = TRUE if GT.pairing_check(left, right) else FALSE


def bls_map_fp_to_g1(computation: Any) -> None:
    """A field element to a point of the subgroup of G1."""
    data = _sized(computation, FP_BYTES)
    computation.consume_gas(BLS12_MAP_FP_G1_GAS, "BLS12_MAP_FP_TO_G1")
    computation.output = _encode(_native(G1Point.map_from_fp_be, _unpadded(data)))


def bls_map_fp2_to_g2(computation: Any) -> None:
    """An element of the quadratic extension to a point of the subgroup of G2."""
    data = _sized(computation, 2 * FP_BYTES)
    computation.consume_gas(BLS12_MAP_FP2_G2_GAS, "BLS12_MAP_FP2_TO_G2")
    computation.output = _encode(_native(G2Point.map_from_fp2_be, _unpadded(data)))


def _part(data: bytes, at: int, size: int) -> bytes:
    """data[at:at + size] as if zeros followed for ever."""
    return data[at : at + size].ljust(size, b"\0")


def _revm(number: int, data: bytes) -> bytes:
    """A fresh revm for each call: a pure function, on any thread."""
    try:
        output: bytes = EVM(gas_limit=REVM_GAS).message_call(
            caller=REVM_CALLER, to=f"0x{number:040x}", calldata=data, gas=REVM_GAS, is_static=True
        )
    except RuntimeError as error:
        if "PrecompileError" not in str(error):
            raise
        raise InvalidInput(f"precompile {number:#04x}: {error}") from error
    return output


def _sized(computation: Any, size: int) -> bytes:
    data: bytes = computation.msg.data_as_bytes
    if len(data) != size:
        raise InvalidInput(f"BLS12: {len(data)} bytes, not {size}")
    return data


def _items(computation: Any, size: int) -> list[bytes]:
    data: bytes = computation.msg.data_as_bytes
    if not data or len(data) % size:
        raise InvalidInput(f"BLS12: {len(data)} bytes, not a positive multiple of {size}")
    return [data[at : at + size] for at in range(0, len(data), size)]


def _unpadded(data: bytes) -> bytes:
    """The field elements without their padding. Raises InvalidInput when it is not zero."""
    parts = []
    for at in range(0, len(data), FP_BYTES):
        if any(data[at : at + FP_PADDING]):
            raise InvalidInput(f"BLS12: not a field element: {data[at : at + FP_BYTES].hex()}")
        parts.append(data[at + FP_PADDING : at + FP_BYTES])
    return b"".join(parts)


def _native(function: Callable[[bytes], Point], data: bytes) -> Point:
    try:
        return function(data)
    except ValueError as error:
        raise InvalidInput(f"BLS12: {error}: {data.hex()}") from error


def _compressed_g1(data: bytes) -> G1Point:
    """A point of the subgroup (infinity too) from its only 48-byte encoding."""
    point = _native(G1Point.from_compressed_bytes, data)
    if bytes(point.to_compressed_bytes()) != data:
        raise InvalidInput(f"POINT_EVALUATION: not the only encoding of a point: {data.hex()}")
    return point


def _g1(data: bytes) -> G1Point:
    """A point of the curve ("unchecked" leaves the subgroup alone, not the curve)."""
    return _native(G1Point.from_xy_bytes_unchecked_be, _unpadded(data))


def _g2(data: bytes) -> G2Point:
    return _native(G2Point.from_xy_bytes_unchecked_be, _unpadded(data))


def _in_subgroup(point: Point) -> Point:
    if not point.is_in_subgroup():
        raise InvalidInput("BLS12: a point outside the subgroup")
    return point


def _scalar(data: bytes) -> Scalar:
    return Scalar.from_be_bytes_mod_order(data)


def _encode(point: G1Point | G2Point) -> bytes:
    data = bytes(point.to_xy_bytes_be())
    step = FP_BYTES - FP_PADDING
    return b"".join(bytes(FP_PADDING) + data[at : at + step] for at in range(0, len(data), step))
