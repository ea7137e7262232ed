"""The node as the network sees it: answers from ledger, mempool and models, and takes what peers offer.

An adapter; it decides nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import structlog
import trio

from chain.ledger import Ledger
from chain.mempool import Mempool
from node.clock import now_ms
from node.messages import Decoder
from node.travel import Shelf
from p2p.network import ModelPiece
from primitives.block import MalformedBlock, decode_block
from primitives.hashing import keccak
from primitives.transaction import InvalidTransaction, Transaction
from primitives.vote import encode_message
from vm.mpt import ordered_trie_root

REFUSED_MAX = 4096
"""Hashes of transactions that were refused lately, so that they are not pulled again."""

log = structlog.get_logger("host")


class NodeHost:
    """What p2p.host.Host asks for."""

    def __init__(self, ledger: Ledger, mempool: Mempool, decoder: Decoder, shelf: Shelf | None = None) -> None:
        self.announce: Callable[[list[bytes]], None] = _nobody
        """Tells peers that these transactions can be pulled here; set once the network exists."""
        self.on_pending: list[Callable[[Transaction], None]] = []
        """Told of each transaction that is new here."""
        self._ledger = ledger
        self._mempool = mempool
        self._decoder = decoder
        self._shelf = shelf
        self._refused: OrderedDict[bytes, None] = OrderedDict()

    # ------------------------------------------------------------------ p2p.host.Host

    def consensus_key(self, payload: bytes) -> bytes | None:
        return self._decoder.identity(payload)

    def on_peer_connected(self, peer: str) -> None:
        """The network says so in the log; the core's next Status tells the peer where this node stands."""

    def get_body(self, block_hash: bytes) -> bytes | None:
        return self._ledger.body_by_hash(block_hash)

    def body_hash(self, body: bytes) -> bytes:
        """Raises MalformedBlock, also when a part is not the one that the header commits to."""
        block = decode_block(body)
        if ordered_trie_root([item.raw for item in block.transactions]) != block.header.transactions_root:
            raise MalformedBlock(f"the transactions are not those of header {block.hash.hex()}")
        if block.sidecar.hash != block.header.extra_data:
            raise MalformedBlock(f"the sidecar is not that of header {block.hash.hex()}")
        if keccak(block.last_commit) != block.sidecar.last_commit_hash:
            raise MalformedBlock(f"the last commit is not that of header {block.hash.hex()}")
        return block.hash

    def tx_hash(self, raw: bytes) -> bytes:
        return keccak(raw)

    def has_tx(self, tx_hash: bytes) -> bool:
        if tx_hash in self._refused or self._mempool.get(tx_hash) is not None:
            return True
        return self._ledger.has_transaction(tx_hash)

    def get_tx(self, tx_hash: bytes) -> bytes | None:
        transaction = self._mempool.get(tx_hash)
        return None if transaction is None else transaction.raw

    async def on_transactions(self, peer: str, raws: Sequence[bytes]) -> None:
        accepted, refused = await trio.to_thread.run_sync(self._add_all, list(raws))
        for tx_hash, reason in refused:
            log.debug("transaction refused", hash=tx_hash, peer=peer[:16], reason=reason)
            self._refused[tx_hash] = None
            if len(self._refused) > REFUSED_MAX:
                self._refused.popitem(last=False)
        self._tell(accepted)

    async def get_range(self, from_height: int, count: int, max_bytes: int) -> Sequence[tuple[bytes, bytes]]:
        return await trio.to_thread.run_sync(self._range, from_height, count, max_bytes)

    def holds_model(self, model: bytes) -> bool:
        return self._shelf is not None and self._shelf.holds(model)

    async def get_model_piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
        return None if self._shelf is None else await self._shelf.piece(model, part, number)

    # ------------------------------------------------------------------ for the node itself

    def submit(self, raw: bytes) -> Transaction:
        """Add a transaction of this node's own users and tell peers. Raises InvalidTransaction."""
        transaction = self._mempool.add(raw, now_ms())
        self._tell([transaction])
        return transaction

    def _tell(self, transactions: list[Transaction]) -> None:
        if transactions:
            self.announce([transaction.hash for transaction in transactions])
        for transaction in transactions:
            for told in self.on_pending:
                told(transaction)

    def _add_all(self, raws: list[bytes]) -> tuple[list[Transaction], list[tuple[bytes, str]]]:
        accepted: list[Transaction] = []
        refused: list[tuple[bytes, str]] = []
        for raw in raws:
            try:
                accepted.append(self._mempool.add(raw, now_ms()))
            except InvalidTransaction as error:
                refused.append((keccak(raw), str(error)))
        return accepted, refused

    def _range(self, from_height: int, count: int, max_bytes: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        size = 0
        for height in range(max(1, from_height), from_height + count):
            body, certificate = self._ledger.body(height), self._ledger.certificate(height)
            if body is None or certificate is None:
                break
            encoded = encode_message(certificate)
            size += len(body) + len(encoded)
            if found and size > max_bytes:
                break
            found.append((body, encoded))
        return found


def _nobody(_hashes: list[bytes]) -> None:
    """Before the network exists there is nobody to tell."""
