"""Receipts and logs (EIP-658, EIP-2718) and their bloom filter (yellow paper 4.3.1)."""

from collections.abc import Iterable
from dataclasses import dataclass

from primitives import rlp
from primitives.hashing import keccak

BLOOM_BYTES = 256


@dataclass(frozen=True)
class Log:
    """One event: who emitted it, up to four 32-byte topics, data."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True)
class Receipt:
    """What a transaction did. `gas_used` is its own gas (not part of the encoding; kept for JSON-RPC)."""

    type_id: int
    status: int
    cumulative_gas_used: int
    logs_bloom: bytes
    logs: tuple[Log, ...]
    gas_used: int
    contract_address: bytes | None
    """Set by a creation (not part of the encoding)."""

    def encode(self) -> bytes:
        """The EIP-2718 envelope that the receipts root commits to."""
        logs: list[rlp.Item] = [[log.address, list(log.topics), log.data] for log in self.logs]
        counts = [rlp.from_uint(self.status), rlp.from_uint(self.cumulative_gas_used)]
        fields: list[rlp.Item] = [*counts, self.logs_bloom, logs]
        encoded = rlp.encode(fields)
        return encoded if self.type_id == 0 else bytes([self.type_id]) + encoded


def bloom_of(logs: Iterable[Log]) -> bytes:
    """The 2,048-bit bloom filter over the addresses and topics of the logs, 256 bytes."""
    bits = 0
    for log in logs:
        for value in (log.address, *log.topics):
            digest = keccak(value)
            for i in (0, 2, 4):
                bits |= 1 << (int.from_bytes(digest[i : i + 2], "big") & 2047)
    return bits.to_bytes(BLOOM_BYTES, "big")


def bloom_or(blooms: Iterable[bytes]) -> bytes:
    """The union of blooms."""
    bits = 0
    for bloom in blooms:
        bits |= int.from_bytes(bloom, "big")
    return bits.to_bytes(BLOOM_BYTES, "big")


def bloom_bits(value: bytes) -> int:
    """The bits that an address or a topic sets: a block whose bloom lacks one holds no log with it."""
    return int.from_bytes(bloom_of([Log(value, (), b"")]), "big")
