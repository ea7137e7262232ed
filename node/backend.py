"""What JSON-RPC may ask of the node: one small object, so that rpc knows neither peers nor consensus."""

import os
import platform
from typing import Any

import trio

from chain.ledger import Ledger
from chain.mempool import Mempool
from inference.chunks import read_manifest
from inference.tokenizer import TOKENIZER_NAME
from node.answers import SoftAnswers
from node.clock import now_ms
from node.consensus import Consensus
from node.disputes import DisputeService
from node.host import NodeHost
from node.inference import InferenceService
from node.store import Held, ModelStore, StoreRefused
from node.sync import Sync
from node.tolerant_service import TolerantService
from node.travel import Fetches
from p2p.network import Network
from primitives.transaction import Transaction
from rpc.context import SyncStatus
from rpc.errors import SERVER_ERROR, RpcError

BEHIND_SECONDS = 30.0
"""Without a commit for so long (and ten block intervals) the node says that it is down."""
TOKENIZER_PIECE_BYTES = 1 << 20
"""Of a tokenizer.json that an asker has read from here, in one answer."""


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
        disputes: DisputeService,
        tolerant: TolerantService,
        store: ModelStore,
        fetches: Fetches,
        answers: SoftAnswers,
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
        self._disputes = disputes
        self._tolerant = tolerant
        self._store = store
        self._fetches = fetches
        self._answers = answers
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
            "disputes": self._disputes.status(),
            "tolerant": self._tolerant.status(),
        }

    def local_models(self) -> list[dict[str, Any]]:
        """state: ready (whole, checked, and nothing said against it here since), asking, fetching, checking, waiting,
        partial, refused or failed."""
        rows = {held.model: _held_json(held) for held in self._store.held()}
        for model in {*rows, *self._fetches.models()}:
            fetch = self._fetches.of(model)
            if fetch is not None and self._store.folder_of(model) is None:
                row = rows.setdefault(model, _held_json(Held(model, "", "", "", "", 0, 0, False)))
                row |= {"state": fetch.state, "reason": fetch.reason}
                if fetch.total_bytes:
                    row |= {"bytes": fetch.done_bytes, "totalBytes": fetch.total_bytes}
                row["bytesPerSecond"] = round(fetch.bytes_per_s)
            elif reason := self._inference.why_not(model):
                rows[model] |= {"state": "failed", "reason": reason}
        return list(rows.values())

    def model_manifest(self, model: bytes) -> str | None:
        folder = self._store.folder_of(model)
        return None if folder is None else read_manifest(folder).decode("ascii")

    def model_tokenizer(self, model: bytes, start: int) -> tuple[int, bytes] | None:
        folder = self._store.folder_of(model)
        if folder is None or not (path := folder / TOKENIZER_NAME).exists():
            return None
        with path.open("rb") as file:
            file.seek(start)
            return os.fstat(file.fileno()).st_size, file.read(TOKENIZER_PIECE_BYTES)

    def fetch_model(self, model: bytes, peer: str | None) -> None:
        try:
            self._fetches.fetch(model, peer)
        except StoreRefused as error:
            raise RpcError(SERVER_ERROR, str(error)) from error

    async def remove_model(self, model: bytes) -> int:
        try:
            return await self._fetches.remove(model)
        except StoreRefused as error:
            raise RpcError(SERVER_ERROR, str(error)) from error

    def soft_answers(self, task: bytes, start: int) -> list[dict[str, Any]]:
        return self._answers.shown(task, start)

    def _status(self) -> str:
        if self._sync.catching_up:
            return "syncing"
        patience = max(BEHIND_SECONDS, self.ledger.params.block_interval_ms / 100)
        return "ok" if trio.current_time() - self._last_commit_at < patience else "stalled"

    def _on_commit(self, _committed: object) -> None:
        self._last_commit_at = trio.current_time()


def _held_json(held: Held) -> dict[str, Any]:
    return {
        "model": "0x" + held.model.hex(), "name": held.name, "state": held.state, "reason": held.reason,
        "licence": held.licence, "bytes": held.done_bytes, "totalBytes": held.total_bytes, "bytesPerSecond": 0,
        "shipped": held.shipped,
    }  # fmt: skip
