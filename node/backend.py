"""What JSON-RPC may ask of the node: one small object, so that rpc knows neither peers nor consensus."""

import platform
from typing import Any

import trio

from chain.ledger import Ledger
from chain.mempool import Mempool
from node.clock import now_ms
from node.consensus import Consensus
from node.host import NodeHost
from node.inference import InferenceService
from node.sync import Sync
from p2p.network import Network
from primitives.transaction import Transaction
from rpc.context import SyncStatus

BEHIND_SECONDS = 30.0
"""Without a commit for so long (and ten block intervals) the node says that it is down."""


class NodeBackend:
    """Satisfies rpc.context.Backend."""

    def __init__(
        self,
        version: str,
        ledger: Ledger,
        mempool: Mempool,
        host: NodeHost,
        network: Network,
        consensus: Consensus,
        sync: Sync,
        inference: InferenceService,
    ) -> None:
        self.ledger = ledger
        self.mempool = mempool
        system = f"{platform.system().lower()}-{platform.machine()}"
        self.client_version = f"labora/{version}/{system}/python{platform.python_version()}"
        self._host = host
        self._network = network
        self._consensus = consensus
        self._sync = sync
        self._inference = inference
        self._last_commit_at = trio.current_time()
        consensus.on_commit.append(self._on_commit)

    def submit(self, raw: bytes) -> Transaction:
        return self._host.submit(raw)

    def peer_count(self) -> int:
        return len(self._network.peers())

    def syncing(self) -> SyncStatus | None:
        if not self._sync.catching_up:
            return None
        return SyncStatus(self._sync.starting_height, self.ledger.head.number, self._sync.highest_claimed)

    def now_ms(self) -> int:
        return now_ms()

    def health(self) -> dict[str, Any]:
        """status: ok, syncing, or stalled."""
        consensus, head = self._consensus, self.ledger.head
        figures = consensus.figures
        return {
            "status": self._status(),
            "height": head.number,
            "hash": "0x" + head.hash.hex(),
            "stateRoot": "0x" + head.header.state_root.hex(),
            "round": consensus.core.round,
            "peers": self.peer_count(),
            "pendingTransactions": self.mempool.counts()[0],
            "finalityMs": figures.finality_ms,
            "clockOffsetMs": consensus.clock.offset_ms,
            "evidence": figures.evidence,
            "droppedMessages": figures.dropped,
            "refusedSignatures": figures.refused_signatures,
            "blocksAfterRoundZero": figures.rounds_over_zero,
            "inference": self._inference.status(),
        }

    def _status(self) -> str:
        if self._sync.catching_up:
            return "syncing"
        patience = max(BEHIND_SECONDS, self.ledger.params.block_interval_ms / 100)
        return "ok" if trio.current_time() - self._last_commit_at < patience else "stalled"

    def _on_commit(self, _committed: object) -> None:
        self._last_commit_at = trio.current_time()
