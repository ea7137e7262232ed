"""The one home of keccak and sha256, and the hashes of empty things."""

import hashlib

import sha3

HASH_BYTES = 32
ZERO_HASH = b"\x00" * 32


def keccak(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (original padding), 32 bytes."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


EMPTY_KECCAK = keccak(b"")
EMPTY_TRIE_ROOT = keccak(b"\x80")
EMPTY_LIST_HASH = keccak(b"\xc0")
EMPTY_SHA256 = sha256(b"")
