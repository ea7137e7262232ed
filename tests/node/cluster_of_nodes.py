"""A cluster of real nodes in one process: real sockets, logs and signers, ledgers in memory, short block intervals."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from chain.kv import MemoryKV
from chain.ledger import Committed, Ledger
from chain.mempool import Mempool
from genesis.keys import ValidatorKeys, devnet_validator
from genesis.spec import devnet_spec, load_spec
from node.consensus import Consensus
from node.devnet import free_ports
from node.host import NodeHost
from node.messages import Decoder
from node.node import recover_log
from node.signer import create_or_open
from node.sync import Sync
from p2p.network import Network, NetworkConfig
from primitives.genesis import GenesisSpec
from tests.coins import watch

GENESIS_TIME_MS = 1_700_000_000_000
BLOCK_INTERVAL_MS = 100
FAST = {
    "timeout_propose_ms": 1_000,
    "timeout_propose_delta_ms": 250,
    "timeout_vote_ms": 300,
    "timeout_vote_delta_ms": 100,
    "rebroadcast_ms": 500,
}
"""Timeouts that let a test see a missing proposer without waiting long, on a busy machine."""


@dataclass
class LocalNode:
    """One validator without JSON-RPC and models. What survives a crash here: kv and the folder."""

    index: int
    spec: GenesisSpec
    folder: Path
    port: int
    peers: tuple[str, ...]
    kv: MemoryKV = field(default_factory=MemoryKV)

    def __post_init__(self) -> None:
        self.keys: ValidatorKeys = devnet_validator(self.index)
        self.committed: list[Committed] = []
        self.evidence = 0
        self._moved = trio.Event()

    @asynccontextmanager
    async def running(self, votes: bool = True) -> AsyncIterator["LocalNode"]:
        """Start from what is on its disk; leaving the block kills it (nothing is flushed or said goodbye to)."""
        self.ledger = Ledger.open(self.kv, self.spec)
        watch(self.ledger, [validator.operator for validator in self.spec.validators])
        self.mempool = Mempool(self.ledger)
        host = NodeHost(self.ledger, self.mempool, Decoder(self.ledger.sign_context))
        chain_id, genesis_hash = self.ledger.params.chain_id, self.ledger.genesis_hash
        self.network = Network(
            NetworkConfig(self.keys.node, chain_id, genesis_hash, "127.0.0.1", self.port, self.peers), host
        )
        host.announce = self.network.announce_transactions
        self.host = host
        self.folder.mkdir(parents=True, exist_ok=True)
        members = len(self.ledger.validator_set(1))
        self.signer = create_or_open(
            self.folder / "signer", self.keys.consensus, self.ledger.sign_context, self.ledger.head.number, members
        )
        signer, beacon = (self.signer, self.keys.beacon) if votes else (None, None)
        wal, core, recovered = recover_log(self.folder / "wal", self.ledger, signer)
        self.consensus = Consensus(
            self.ledger, self.mempool, self.network, wal, core, recovered, signer, beacon, self.folder
        )
        self.consensus.on_commit.append(self._on_commit)
        sync = self.sync = Sync(self.network, self.consensus, self.ledger)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.network.run)
                nursery.start_soon(self.consensus.run)
                nursery.start_soon(sync.run)
                yield self
                nursery.cancel_scope.cancel()
        finally:
            self.signer.close()

    def _on_commit(self, committed: Committed) -> None:
        self.committed.append(committed)
        self._moved.set()

    @property
    def head(self) -> int:
        return self.ledger.head.number

    async def reach(self, height: int) -> None:
        """Until the node has committed this height."""
        while self.head < height:
            self._moved = trio.Event()
            await self._moved.wait()


def make_cluster(folder: Path, size: int) -> list[LocalNode]:
    """`size` validators of one chain, not running."""
    spec = load_spec(devnet_spec(size, GENESIS_TIME_MS, BLOCK_INTERVAL_MS, params=FAST))
    ports = free_ports(size)
    ids = [devnet_validator(index).node_public.hex() for index in range(size)]
    addresses = [f"{peer}@127.0.0.1:{port}" for peer, port in zip(ids, ports, strict=True)]
    return [
        LocalNode(i, spec, folder / str(i), ports[i], tuple(a for j, a in enumerate(addresses) if j != i))
        for i in range(size)
    ]
