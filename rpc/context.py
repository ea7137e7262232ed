"""What a method is given: the node's rooms behind one small interface, and how block parameters are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from chain.ledger import Ledger
from chain.mempool import Mempool
from primitives.block import Block
from primitives.transaction import Transaction
from rpc.codec import TAGS_AT_HEAD, read_hash, read_quantity
from rpc.errors import SERVER_ERROR, RpcError, invalid_params
from rpc.events import Session
from rpc.filters import Filters


@dataclass(frozen=True)
class SyncStatus:
    """Heights, while a node catches up."""

    starting: int
    current: int
    highest: int


class Backend(Protocol):
    """What node hands to this room."""

    ledger: Ledger
    mempool: Mempool
    client_version: str

    def submit(self, raw: bytes) -> Transaction:
        """Check a raw transaction, add it to the mempool and gossip it. Raises InvalidTransaction."""

    def peer_count(self) -> int:
        """Connected peers."""

    def syncing(self) -> SyncStatus | None:
        """None when the node follows the head."""

    def health(self) -> dict[str, Any]:
        """What labora_health shows: height, round, peers, engine, tasks, clock offset, and `status`."""

    def soft_answers(self, task: bytes, start: int) -> list[dict[str, Any]]:
        """What labora_softAnswers shows: tokens of answers that are being made, from number `start` on."""

    def local_models(self) -> list[dict[str, Any]]:
        """What labora_localModels shows. Called in a thread."""

    def model_manifest(self, model: bytes) -> str | None:
        """The manifest of a whole model that is here. Called in a thread."""

    def model_tokenizer(self, model: bytes, start: int) -> tuple[int, bytes] | None:
        """(bytes of its tokenizer.json, a bounded piece from byte `start` on). Called in a thread."""

    def fetch_model(self, model: bytes, peer: str | None) -> None:
        """Begin to fetch a model. Raises RpcError."""

    async def remove_model(self, model: bytes) -> int:
        """Delete a model; the bytes freed. Raises RpcError."""

    def now_ms(self) -> int:
        """Wall clock, for expiry of filters."""


@dataclass(frozen=True)
class Context:
    """Given to every method as its first argument."""

    backend: Backend
    filters: Filters
    namespaces: Callable[[], Sequence[str]]
    session: Session | None = field(default=None)
    admin: bool = False
    """The request carries a token of the node's secret."""

    @property
    def ledger(self) -> Ledger:
        return self.backend.ledger

    def for_session(self, session: Session) -> "Context":
        """The context of one WebSocket connection."""
        return replace(self, session=session)

    def for_admin(self) -> "Context":
        """The context of a request with a token."""
        return replace(self, admin=True)

    def number(self, block: Any) -> int:
        """Height that a block parameter names (tag, quantity, or EIP-1898 object). Raises RpcError."""
        if isinstance(block, dict):
            if ("blockHash" in block) == ("blockNumber" in block):
                raise invalid_params("cannot specify both or neither of blockHash and blockNumber")
            if "blockHash" in block:
                return self.block_by_hash(read_hash(block["blockHash"], "blockHash")).number
            block = block["blockNumber"]
        if not isinstance(block, str):
            raise invalid_params(f"invalid block parameter {block!r}")
        head = self.ledger.head.number
        if block in TAGS_AT_HEAD:
            return head
        if block == "earliest":
            return 0
        if len(block) == 66:
            return self.block_by_hash(read_hash(block, "block hash")).number
        number = read_quantity(block, "block number", 64)
        if number > head:
            raise RpcError(SERVER_ERROR, "header not found")
        return number

    def block(self, block: Any) -> Block:
        """The block that a block parameter names. Raises RpcError."""
        return self.block_at(self.number(block))

    def block_at(self, number: int) -> Block:
        """The block at a height that exists."""
        found = self.ledger.block(number)
        assert found is not None
        return found

    def block_by_hash(self, block_hash: bytes) -> Block:
        """Raises RpcError when there is none."""
        found = self.ledger.block_by_hash(block_hash)
        if found is None:
            raise RpcError(SERVER_ERROR, "header not found")
        return found
