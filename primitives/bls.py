"""BLS12-381 signatures for the beacon: public keys in G1 (48 bytes), signatures in G2 (96 bytes).

RFC 9380 hash to curve with this chain's own domain tags. Decoding is strict: lengths asserted, subgroup checked,
infinity refused, re-encoding must give the input back.
"""

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from primitives.hashing import keccak

PUBLIC_KEY_BYTES = 48
SIGNATURE_BYTES = 96
BEACON_DST = b"LABORA_BEACON_V1_BLS12381G2_XMD:SHA-256_SSWU_RO_"
POSSESSION_DST = b"LABORA_POSSESSION_V1_BLS12381G2_XMD:SHA-256_SSWU_RO_"


class InvalidBLS(ValueError):
    """Bytes that are no key or signature of this scheme."""


def public_key(secret: bytes) -> bytes:
    """G1 public key (48 bytes) of a 32-byte secret (reduced modulo the group order)."""
    return bytes((G1Point() * _scalar(secret)).to_compressed_bytes())


def check_public_key(key: bytes) -> None:
    """Raises InvalidBLS unless the 48 bytes are the one encoding of a point of G1 other than infinity."""
    _g1(key)


def sign(secret: bytes, message: bytes, dst: bytes = BEACON_DST) -> bytes:
    """G2 signature (96 bytes), unique for key and message."""
    return bytes((G2Point.hash_to_curve(message, dst) * _scalar(secret)).to_compressed_bytes())


def verify(key: bytes, message: bytes, signature: bytes, dst: bytes = BEACON_DST) -> bool:
    """Whether the signature is the key's over the message. Raises InvalidBLS when either cannot be decoded."""
    public, signed = _g1(key), _g2(signature)
    hashed = G2Point.hash_to_curve(message, dst)
    return bool(GT.multi_pairing([public, -G1Point()], [hashed, signed]) == GT.one())


def prove_possession(secret: bytes, statement: bytes) -> bytes:
    """Signature over public key | statement under the possession tag."""
    return sign(secret, public_key(secret) + statement, POSSESSION_DST)


def verify_possession(key: bytes, statement: bytes, proof: bytes) -> bool:
    """Whether the proof is that of the key's holder. Raises InvalidBLS."""
    return verify(key, key + statement, proof, POSSESSION_DST)


def beacon_message(genesis_hash: bytes, previous_mix: bytes, height: int) -> bytes:
    """keccak(genesis hash | previous mix | height u64): what the proposer of `height` signs."""
    return keccak(genesis_hash + previous_mix + height.to_bytes(8, "big"))


def next_mix(previous_mix: bytes, beacon_proof: bytes) -> bytes:
    """keccak(previous mix | reveal): the beacon's value after a block; without a reveal of the previous mix alone."""
    return keccak(previous_mix + beacon_proof)


def _scalar(secret: bytes) -> Scalar:
    assert len(secret) == 32
    scalar = Scalar.from_be_bytes_mod_order(secret)
    assert not scalar.is_zero()
    return scalar


def _g1(data: bytes) -> G1Point:
    if len(data) != PUBLIC_KEY_BYTES:
        raise InvalidBLS(f"a BLS public key has {PUBLIC_KEY_BYTES} bytes, not {len(data)}")
    try:
        point = G1Point.from_compressed_bytes(data)
    except ValueError as error:
        raise InvalidBLS(f"not a point of G1: {error}") from error
    if point == G1Point.identity() or bytes(point.to_compressed_bytes()) != data:
        raise InvalidBLS("the point at infinity, or not its only encoding")
    return point


def _g2(data: bytes) -> G2Point:
    if len(data) != SIGNATURE_BYTES:
        raise InvalidBLS(f"a BLS signature has {SIGNATURE_BYTES} bytes, not {len(data)}")
    try:
        point = G2Point.from_compressed_bytes(data)
    except ValueError as error:
        raise InvalidBLS(f"not a point of G2: {error}") from error
    if point == G2Point.identity() or bytes(point.to_compressed_bytes()) != data:
        raise InvalidBLS("the point at infinity, or not its only encoding")
    return point
