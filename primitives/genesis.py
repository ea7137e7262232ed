"""What a chain starts from, as frozen values: block 0 is a pure function of a GenesisSpec (read by genesis.spec)."""

from dataclasses import dataclass

from primitives.params import ChainParams


@dataclass(frozen=True)
class GenesisAccount:
    """An account that exists in block 0; amounts in wei."""

    address: bytes
    balance: int
    nonce: int
    code: bytes


@dataclass(frozen=True)
class GenesisModel:
    """A listed model: what Models keeps in state of a manifest (docs/formats.md, Cost)."""

    model_id: bytes
    """keccak of the manifest's canonical JSON."""
    name: str
    record: bytes
    """Of its shape (docs/openings.md, Program): extents, cost and kinds of task follow from it."""
    program_root: bytes
    """What a dispute opens weights and shapes from."""
    stop_ids: tuple[int, ...]
    reference_macs_per_block: int
    """Multiply-adds a block of the slowest machine that should serve it; sets the least deadline."""


@dataclass(frozen=True)
class GenesisBatch:
    """A public good that the fund pays for: one model asked one kind of vector (embed, score) of many prompts."""

    name: str
    model_id: bytes
    kind: int
    prompts: tuple[tuple[int, ...], ...]
    """Token ids."""


@dataclass(frozen=True)
class GenesisValidator:
    """A member of set(0) and set(1). Its keys are taken as the spec gives them (no proofs of possession in genesis)."""

    operator: bytes
    consensus_address: bytes
    beacon_key: bytes
    """BLS12-381 G1, 48 bytes."""
    node_key: bytes
    """Ed25519, 32 bytes."""
    hot: bytes
    """The account that signs work batches."""
    payout: bytes
    bond: int
    """Wei."""
    serves: tuple[tuple[bytes, int], ...]
    """(model id, declared multiply-adds a block)."""


@dataclass(frozen=True)
class GenesisSpec:
    """The whole beginning of a chain."""

    params: ChainParams
    genesis_time_ms: int
    accounts: tuple[GenesisAccount, ...]
    validators: tuple[GenesisValidator, ...]
    models: tuple[GenesisModel, ...]
    fund: int
    """Wei in the commissioned fund, held by the Market account."""
    spec_hash: bytes
    """keccak of the spec file's canonical JSON; also the beacon's first mix."""
    batches: tuple[GenesisBatch, ...] = ()
    """Commissioned work, in the order in which it is done."""
