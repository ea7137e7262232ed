"""The native precompiles: py-evm's own as the oracle for answers and gas, published vectors, bad input."""

import hashlib
import random
from pathlib import Path
from typing import Any

import eth._utils as eth_utils_package
import pytest
from eth.exceptions import OutOfGas, VMError
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.gas_meter import GasMeter
from py_arkworks_bls12381 import G1Point, G2Point, Scalar
from py_ecc.optimized_bn128 import G1, G2, curve_order, field_modulus, multiply, neg, normalize

from vm.precompiles import KZG_TAU_G2, native_precompiles

BLS_FIELD = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB
GAS = 10**7


class Message:
    def __init__(self, data: bytes) -> None:
        self.data = self.data_as_bytes = data


class Frame:
    """What a precompile touches of a computation: its data, its gas and its output."""

    def __init__(self, data: bytes, gas: int) -> None:
        self.msg = Message(data)
        self.meter = GasMeter(gas)
        self.consume_gas = self.meter.consume_gas
        self.output = b""


def run(function: Any, data: bytes, gas: int = GAS) -> tuple[bytes | None, int]:
    """(output, gas used); (None, all) when the call fails."""
    frame = Frame(data, gas)
    try:
        function(frame)
    except VMError:
        return None, gas
    return frame.output, gas - frame.meter.gas_remaining


def native(number: int, data: bytes, gas: int = GAS) -> tuple[bytes | None, int]:
    return run(native_precompiles()[number.to_bytes(20, "big")], data, gas)


def oracle(number: int, data: bytes, gas: int = GAS) -> tuple[bytes | None, int]:
    return run(PragueComputation.get_precompiles()[number.to_bytes(20, "big")], data, gas)


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(32, "big") for value in values)


def bn_g1(factor: int) -> bytes:
    return words(*(int(c) for c in normalize(multiply(G1, factor)))) if factor % curve_order else bytes(64)


def bn_g2(factor: int) -> bytes:
    x, y = normalize(multiply(G2, factor))
    return words(x.coeffs[1], x.coeffs[0], y.coeffs[1], y.coeffs[0])


def bls_point(point: G1Point | G2Point) -> bytes:
    raw = bytes(point.to_xy_bytes_be())
    return b"".join(bytes(16) + raw[at : at + 48] for at in range(0, len(raw), 48))


def test_bn254_add_and_mul_answer_as_py_evm(rng: random.Random) -> None:
    cases = [b"", bytes(64), bytes(200), bn_g1(1), bn_g1(1) + bytes(63), words(field_modulus, 0), words(1, 3)]
    cases += [bn_g1(rng.randrange(curve_order)) + bn_g1(rng.randrange(curve_order)) for _ in range(10)]
    cases += [bn_g1(5) + words(*(int(c) for c in normalize(neg(multiply(G1, 5))))), words(1, 2, field_modulus + 1, 2)]
    for data in cases:
        assert native(0x06, data) == oracle(0x06, data), data.hex()
    for factor in (0, 1, 2, curve_order - 1, curve_order, 2**256 - 1, rng.randrange(2**256)):
        data = bn_g1(rng.randrange(1, curve_order)) + words(factor)
        assert native(0x07, data) == oracle(0x07, data), data.hex()
        assert native(0x07, data[:70]) == oracle(0x07, data[:70]), data.hex()


def test_bn254_pairing_answers_as_py_evm(rng: random.Random) -> None:
    a, b = rng.randrange(2, 2**64), rng.randrange(2, 2**64)
    true = bn_g1(a) + bn_g2(b) + bn_g1(curve_order - a * b % curve_order) + bn_g2(1)
    flipped = true[:-1] + bytes([true[-1] ^ 1])
    for data in (b"", bytes(192), true[:192], true[:-1], flipped, words(1, 2, 1, 1, 1, 1)):
        assert native(0x08, data) == oracle(0x08, data), data.hex()
    assert native(0x08, true[:192]) == (bytes(32), 45_000 + 34_000)
    assert native(0x08, true) == ((1).to_bytes(32, "big"), 45_000 + 2 * 34_000)


def test_blake2f_is_blake2b_and_answers_as_py_evm(rng: random.Random) -> None:
    initial = (
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    )  # fmt: skip
    state = b"".join((value ^ (0 if i else 0x01010040)).to_bytes(8, "little") for i, value in enumerate(initial))
    whole = (12).to_bytes(4, "big") + state + b"abc".ljust(128, b"\0") + (3).to_bytes(8, "little") + bytes(8) + b"\1"
    assert native(0x09, whole) == (hashlib.blake2b(b"abc").digest(), 12)  # EIP-152, test vector 5
    for rounds in (0, 1, 12, 30):
        data = rounds.to_bytes(4, "big") + rng.randbytes(208) + bytes([rng.randrange(2)])
        assert native(0x09, data) == oracle(0x09, data), data.hex()
    for bad in (whole[:-1], whole + b"\0", whole[:-1] + b"\2", b""):
        assert native(0x09, bad) == (None, GAS) == oracle(0x09, bad)
    with pytest.raises(OutOfGas):
        native_precompiles()[(9).to_bytes(20, "big")](Frame(b"\xff" * 4 + whole[4:], GAS))


@pytest.mark.parametrize("group", ["g1", "g2"])
def test_bls_sums_answer_as_py_evm(group: str, rng: random.Random) -> None:
    kind, add, msm, size = (G1Point, 0x0B, 0x0C, 128) if group == "g1" else (G2Point, 0x0D, 0x0E, 256)
    points = [kind() * Scalar(rng.randrange(1, 2**64)) for _ in range(3)] + [kind.identity()]
    encoded = [bls_point(point) for point in points]
    for left, right in [(0, 1), (0, 0), (0, 3), (3, 3)]:
        data = encoded[left] + encoded[right]
        assert native(add, data) == oracle(add, data), data.hex()
    data = encoded[0] + bls_point(-points[0])
    assert native(add, data)[0] == bytes(size)
    data = b"".join(point + words(rng.choice((0, 1, 2**256 - 1, rng.randrange(2**255)))) for point in encoded)
    assert native(msm, data) == oracle(msm, data), data.hex()
    padded = b"\1" + encoded[0][1:]
    above = (BLS_FIELD + int.from_bytes(encoded[0][:64], "big")).to_bytes(64, "big") + encoded[0][64:]
    off_curve = encoded[0][:-1] + bytes([encoded[0][-1] ^ 1])
    for bad in (padded, above, off_curve):
        assert native(add, bad + encoded[1]) == (None, GAS) == oracle(add, bad + encoded[1])
        assert native(msm, bad + words(1)) == (None, GAS)
    for size_error in (b"", encoded[0], encoded[0] * 2 + b"\0"):
        assert native(add, size_error) == (None, GAS)
        assert native(msm, size_error) == (None, GAS)


def test_bls_maps_answer_as_py_evm(rng: random.Random) -> None:
    for value in (0, 1, BLS_FIELD - 1, rng.randrange(BLS_FIELD)):
        data = value.to_bytes(64, "big")
        assert native(0x10, data) == oracle(0x10, data), value
        double = data + rng.randrange(BLS_FIELD).to_bytes(64, "big")
        assert native(0x11, double) == oracle(0x11, double), double.hex()
    for bad in (b"", bytes(63), BLS_FIELD.to_bytes(64, "big"), b"\1" + bytes(63)):
        assert native(0x10, bad) == (None, GAS)
        assert native(0x11, bad + bytes(64)) == (None, GAS)


def test_bls_pairing_answers_as_py_evm(rng: random.Random) -> None:
    a, b = rng.randrange(1, 2**64), rng.randrange(1, 2**64)
    true = bls_point(G1Point() * Scalar(a)) + bls_point(G2Point() * Scalar(b))
    true += bls_point(-(G1Point() * (Scalar(a) * Scalar(b)))) + bls_point(G2Point())
    assert native(0x0F, true) == ((1).to_bytes(32, "big"), 37_700 + 2 * 32_600)
    assert native(0x0F, true[:384]) == oracle(0x0F, true[:384]) == (bytes(32), 37_700 + 32_600)
    assert native(0x0F, bytes(384)) == ((1).to_bytes(32, "big"), 37_700 + 32_600), "infinities pair to one"
    for bad in (b"", true[:-1], true[:383] + bytes([true[383] ^ 1])):
        assert native(0x0F, bad) == (None, GAS)


def test_bls_refuses_points_outside_the_subgroup() -> None:
    x = next(x for x in range(1, 50) if pow(x**3 + 4, (BLS_FIELD - 1) // 2, BLS_FIELD) == 1)
    y = pow(x**3 + 4, (BLS_FIELD + 1) // 4, BLS_FIELD)
    outside = x.to_bytes(64, "big") + y.to_bytes(64, "big")
    assert native(0x0B, outside + bytes(128))[0] == outside, "addition asks for the curve alone"
    assert native(0x0C, outside + words(1)) == (None, GAS)
    assert native(0x0F, outside + bls_point(G2Point())) == (None, GAS)


def kzg_opening(constant: int, z: int) -> bytes:
    """Input that proves the constant polynomial's value; its proof is infinity whatever tau is."""
    commitment = bytes((G1Point() * Scalar(constant)).to_compressed_bytes())
    infinity = bytes(G1Point.identity().to_compressed_bytes())
    return b"\x01" + hashlib.sha256(commitment).digest()[1:] + words(z, constant) + commitment + infinity


def test_point_evaluation_uses_the_ceremonys_point() -> None:
    path = Path(eth_utils_package.__file__).parent / "kzg_trusted_setup.txt"
    lines = path.read_text().split()
    assert lines[2 + int(lines[0]) + 1].removeprefix("0x") == KZG_TAU_G2.hex()


def test_point_evaluation_of_constants_and_bad_input() -> None:
    good = kzg_opening(77, 5)
    answer = words(4096, int(Scalar(0) - Scalar(1)) + 1)
    assert native(0x0A, good) == (answer, 50_000)
    other_value = good[:64] + words(78) + good[96:]
    other_hash = b"\x02" + good[1:]
    above = good[:32] + words(int.from_bytes(answer[32:], "big")) + good[64:]
    for bad in (other_value, other_hash, above, good[:-1], good + b"\0", good[:144] + b"\xff" * 48):
        assert native(0x0A, bad) == (None, GAS)


def modexp_input(base: bytes, exponent: bytes, modulus: bytes) -> bytes:
    return words(len(base), len(exponent), len(modulus)) + base + exponent + modulus


def test_modexp_is_pythons_pow_and_answers_as_py_evm(rng: random.Random) -> None:
    sizes = (1, 2, 8, 31, 32, 33, 64, 100)
    for _ in range(100):
        base, exponent, modulus = (
            rng.choice([rng.randbytes(size), b"\xff" * size, b"\x80" + bytes(size - 1)])
            for size in (rng.choice(sizes) for _ in range(3))
        )
        data = modexp_input(base, exponent, modulus)
        numbers = [int.from_bytes(part, "big") for part in (base, exponent, modulus)]
        expected = pow(*numbers) if numbers[2] else 0
        assert native(0x05, data)[0] == expected.to_bytes(len(modulus), "big"), data.hex()
        assert native(0x05, data) == oracle(0x05, data), data.hex()
        cut = data[: rng.randrange(len(data))]
        if int.from_bytes(cut[:32].ljust(32, b"\0"), "big"):  # with an empty base py-evm differs: below
            assert native(0x05, cut, 10**9) == oracle(0x05, cut, 10**9), cut.hex()


@pytest.mark.parametrize(
    ("base", "exponent", "modulus", "answer"),
    [
        (b"", b"", b"\x05", 1),  # 0**0 mod 5: py-evm answers 0 when the base is empty
        (b"", b"\x00", b"\x05", 1),
        (b"", b"\x03", b"\x05", 0),
        (b"\x02", b"", b"\x01", 0),
        (b"\x02", b"\x03", b"\x00", 0),
        (b"\x02", b"\x00" * 33, b"\x07", 1),
    ],
)
def test_modexp_of_empty_parts(base: bytes, exponent: bytes, modulus: bytes, answer: int) -> None:
    assert native(0x05, modexp_input(base, exponent, modulus))[0] == answer.to_bytes(len(modulus), "big")


def test_modexp_of_nothing_and_of_absurd_lengths() -> None:
    assert native(0x05, b"") == (b"", 200)
    assert native(0x05, words(0, 2**255, 0)) == (b"", 200)
    assert native(0x05, words(2**200, 1, 1)) == (None, GAS)
    assert native(0x05, words(1, 2**255, 1)) == (None, GAS)
    assert native(0x05, words(0, 0, 2**64)) == (None, GAS)


def test_gas_runs_out_before_anything_is_computed() -> None:
    for number, data, price in [
        (0x06, bytes(128), 150), (0x07, bytes(96), 6_000), (0x08, bytes(192), 79_000), (0x0B, bytes(256), 375),
        (0x0C, bytes(160), 12_000), (0x0D, bytes(512), 600), (0x0E, bytes(288), 22_500), (0x0F, bytes(384), 70_300),
        (0x10, bytes(64), 5_500), (0x11, bytes(128), 23_800),
    ]:  # fmt: skip
        assert native(number, data, price)[1] == price and native(number, data, price)[0] is not None, hex(number)
        assert native(number, data, price - 1) == (None, price - 1), hex(number)
