"""secp256k1: signatures, public keys and the addresses they make (SEC 1, EIP-2 low s).

Knows bytes only; where private keys live and when they may sign is node's business.
"""

from coincurve import PrivateKey, PublicKey

from primitives.hashing import keccak

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HALF_ORDER = ORDER // 2
SIGNATURE_BYTES = 65


class InvalidSignature(ValueError):
    """A signature that no key could have made, or one in a form that this chain refuses."""


def sign(digest: bytes, private_key: bytes) -> bytes:
    """Recoverable signature over a 32-byte digest: r (32) | s (32, low) | v (1, 0 or 1). Deterministic (RFC 6979)."""
    assert len(digest) == 32
    return PrivateKey(private_key).sign_recoverable(digest, hasher=None)


def recover(digest: bytes, signature: bytes) -> bytes:
    """Address (20 bytes) whose key signed the 32-byte digest. Raises InvalidSignature."""
    if len(signature) != SIGNATURE_BYTES:
        raise InvalidSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    if signature[64] > 1:
        raise InvalidSignature(f"recovery id {signature[64]} is neither 0 nor 1")
    if int.from_bytes(signature[32:64], "big") > HALF_ORDER:
        raise InvalidSignature("s is in the upper half of the group order (EIP-2)")
    try:
        public = PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except ValueError as error:
        raise InvalidSignature(f"no key recovers from this signature: {error}") from error
    return keccak(public.format(compressed=False)[1:])[12:]


def address_of(private_key: bytes) -> bytes:
    """Address (20 bytes) of a 32-byte private key."""
    return keccak(PrivateKey(private_key).public_key.format(compressed=False)[1:])[12:]
