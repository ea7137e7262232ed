"""The canonical Ethereum header (Prague's fields) and the sidecar whose hash is its extra_data."""

from dataclasses import dataclass
from functools import cached_property

from primitives import rlp
from primitives.hashing import EMPTY_LIST_HASH, EMPTY_SHA256, EMPTY_TRIE_ROOT, ZERO_HASH, keccak

SIDECAR_VERSION = 1
PROTOCOL_VERSION = 1
BEACON_PROOF_BYTES = 96


@dataclass(frozen=True)
class Header:
    """The fields that vary; the others are constants here (no uncles, no withdrawals, no blobs, no requests)."""

    parent_hash: bytes
    coinbase: bytes
    state_root: bytes
    transactions_root: bytes
    receipts_root: bytes
    logs_bloom: bytes
    number: int
    gas_limit: int
    gas_used: int
    timestamp: int
    """Seconds: sidecar.time_ms // 1000; consecutive blocks may share it."""
    extra_data: bytes
    """Hash of the sidecar."""
    mix_hash: bytes
    """prevRandao: the beacon's mix at this height."""
    base_fee_per_gas: int

    def fields(self) -> list[rlp.Item]:
        """The 21 fields of a Prague header, in order."""
        uint = rlp.from_uint
        return [
            self.parent_hash, EMPTY_LIST_HASH, self.coinbase, self.state_root, self.transactions_root,
            self.receipts_root, self.logs_bloom, b"", uint(self.number), uint(self.gas_limit), uint(self.gas_used),
            uint(self.timestamp), self.extra_data, self.mix_hash, b"\x00" * 8, uint(self.base_fee_per_gas),
            EMPTY_TRIE_ROOT, b"", b"", ZERO_HASH, EMPTY_SHA256,
        ]  # fmt: skip

    @cached_property
    def hash(self) -> bytes:
        """Block hash: keccak(rlp(header))."""
        return keccak(rlp.encode(self.fields()))


def decode_header(item: rlp.Item) -> Header:
    """Raises RLPError, also when a constant field holds anything else."""
    f = rlp.as_list(item, 21)
    header = Header(
        parent_hash=rlp.as_bytes(f[0], 32), coinbase=rlp.as_bytes(f[2], 20), state_root=rlp.as_bytes(f[3], 32),
        transactions_root=rlp.as_bytes(f[4], 32), receipts_root=rlp.as_bytes(f[5], 32),
        logs_bloom=rlp.as_bytes(f[6], 256), number=rlp.as_uint(f[8], 64), gas_limit=rlp.as_uint(f[9], 64),
        gas_used=rlp.as_uint(f[10], 64), timestamp=rlp.as_uint(f[11], 64), extra_data=rlp.as_bytes(f[12], 32),
        mix_hash=rlp.as_bytes(f[13], 32), base_fee_per_gas=rlp.as_uint(f[15], 256),
    )  # fmt: skip
    if header.fields() != f:
        raise rlp.RLPError("a header field that is constant on this chain holds another value")
    return header


@dataclass(frozen=True)
class Sidecar:
    """What consensus adds to a header; extra_data = keccak(rlp of these fields)."""

    epoch: int
    proposer: bytes
    """Operator address of the original author (zero in block 0)."""
    validator_set_hash: bytes
    next_validator_set_hash: bytes
    params_hash: bytes
    last_commit_hash: bytes
    """keccak of the block's last_commit bytes."""
    evidence_root: bytes
    """keccak of the rlp of the evidence list."""
    time_ms: int
    beacon_proof: bytes
    """The proposer's BLS signature, 96 bytes (empty in block 0)."""

    def fields(self) -> list[rlp.Item]:
        """The eleven items of the preimage, in order, versions first."""
        uint = rlp.from_uint
        return [
            uint(SIDECAR_VERSION), uint(PROTOCOL_VERSION), uint(self.epoch), self.proposer, self.validator_set_hash,
            self.next_validator_set_hash, self.params_hash, self.last_commit_hash, self.evidence_root,
            uint(self.time_ms), self.beacon_proof,
        ]  # fmt: skip

    @cached_property
    def hash(self) -> bytes:
        """keccak(rlp(fields))."""
        return keccak(rlp.encode(self.fields()))


def decode_sidecar(item: rlp.Item) -> Sidecar:
    """Raises RLPError, also for another version."""
    f = rlp.as_list(item, 11)
    versions = (rlp.as_uint(f[0], 32), rlp.as_uint(f[1], 32))
    if versions != (SIDECAR_VERSION, PROTOCOL_VERSION):
        raise rlp.RLPError(f"sidecar and protocol versions {versions}; this node speaks {(1, 1)}")
    return Sidecar(
        epoch=rlp.as_uint(f[2], 64), proposer=rlp.as_bytes(f[3], 20), validator_set_hash=rlp.as_bytes(f[4], 32),
        next_validator_set_hash=rlp.as_bytes(f[5], 32), params_hash=rlp.as_bytes(f[6], 32),
        last_commit_hash=rlp.as_bytes(f[7], 32), evidence_root=rlp.as_bytes(f[8], 32), time_ms=rlp.as_uint(f[9], 64),
        beacon_proof=rlp.as_bytes(f[10], most=BEACON_PROOF_BYTES),
    )  # fmt: skip
