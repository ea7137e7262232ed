"""Block 0 and its state: a pure function of a GenesisSpec, the same bytes on every node."""

from dataclasses import dataclass

from genesis.spec import InvalidSpec
from primitives.address import ZERO_ADDRESS
from primitives.block import EMPTY_EVIDENCE_ROOT, EMPTY_LAST_COMMIT, Block
from primitives.genesis import GenesisSpec
from primitives.hashing import EMPTY_TRIE_ROOT, ZERO_HASH, keccak
from primitives.header import Header, Sidecar
from primitives.params import STAKE_UNIT
from primitives.receipt import BLOOM_BYTES
from primitives.validators import Validator, ValidatorSet
from vm.genesis import build_state
from vm.system.genesis import InvalidGenesis


@dataclass(frozen=True)
class GenesisState:
    """What a new chain starts with."""

    block: Block
    nodes: dict[bytes, bytes]
    """Trie nodes and code of its state, by keccak."""
    sets: tuple[ValidatorSet, ...]
    """The sets that block 0's sidecar names: set(0), which is also set(1)."""


def build_genesis(spec: GenesisSpec) -> GenesisState:
    """Block 0. Its sidecar names no proposer, carries no proof, and its mix is the hash of the specification.

    Raises InvalidSpec for a specification that reads well and that no chain can start from.
    """
    try:
        state_root, nodes = build_state(spec)
    except InvalidGenesis as error:
        raise InvalidSpec(str(error)) from error
    members = first_set(spec)
    sidecar = Sidecar(
        epoch=0,
        proposer=ZERO_ADDRESS,
        validator_set_hash=members.hash,
        next_validator_set_hash=members.hash,
        params_hash=spec.params.hash,
        last_commit_hash=keccak(EMPTY_LAST_COMMIT),
        evidence_root=EMPTY_EVIDENCE_ROOT,
        time_ms=spec.genesis_time_ms,
        beacon_proof=b"",
    )
    header = Header(
        parent_hash=ZERO_HASH,
        coinbase=ZERO_ADDRESS,
        state_root=state_root,
        transactions_root=EMPTY_TRIE_ROOT,
        receipts_root=EMPTY_TRIE_ROOT,
        logs_bloom=bytes(BLOOM_BYTES),
        number=0,
        gas_limit=spec.params.block_gas_limit,
        gas_used=0,
        timestamp=spec.genesis_time_ms // 1000,
        extra_data=sidecar.hash,
        mix_hash=spec.spec_hash,
        base_fee_per_gas=spec.params.base_fee_initial,
    )
    return GenesisState(Block(header, sidecar, (), EMPTY_LAST_COMMIT), nodes, (members,))


def first_set(spec: GenesisSpec) -> ValidatorSet:
    """set(0) = set(1): power is the bond, in units of 10^15 wei."""
    return ValidatorSet.of(
        Validator(own.operator, own.consensus_address, own.bond // STAKE_UNIT, own.beacon_key)
        for own in spec.validators
    )
