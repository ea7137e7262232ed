"""A block in its two forms: as Ethereum stores it, and as it travels (with sidecar, last commit and evidence)."""

from dataclasses import dataclass
from functools import cached_property

from primitives import merkle, rlp
from primitives.hashing import EMPTY_LIST_HASH
from primitives.header import Header, Sidecar, decode_header, decode_sidecar
from primitives.transaction import InvalidTransaction, SystemTransaction, Transaction, block_item, decode_block_item

BODY_BYTES_DECODED_MAX = 1024 * 1024
"""No wire body above the largest gossip message is decoded; block_bytes_max (a parameter) is a validity rule."""
EMPTY_LAST_COMMIT = b"\xc0"
"""rlp([]), in blocks 0 and 1."""
EMPTY_EVIDENCE_ROOT = EMPTY_LIST_HASH


class MalformedBlock(ValueError):
    """Bytes that are no block in wire form."""


@dataclass(frozen=True)
class Block:
    """Header, sidecar and contents. transactions[0] is the system prologue in every block but block 0."""

    header: Header
    sidecar: Sidecar
    transactions: tuple[Transaction | SystemTransaction, ...]
    last_commit: bytes
    """RLP of the CommitCertificate for the parent, or rlp([])."""

    @property
    def hash(self) -> bytes:
        return self.header.hash

    @property
    def number(self) -> int:
        return self.header.number

    @cached_property
    def wire_body(self) -> bytes:
        """rlp[header, transactions, [], [], sidecar, last_commit, evidence]: what is proposed, pulled and stored."""
        items = [block_item(transaction) for transaction in self.transactions]
        return rlp.encode([self.header.fields(), items, [], [], self.sidecar.fields(), self.last_commit, []])

    @cached_property
    def stored(self) -> bytes:
        """rlp[header, transactions, [], []], as Ethereum stores it; its length is `size` in JSON-RPC."""
        items = [block_item(transaction) for transaction in self.transactions]
        return rlp.encode([self.header.fields(), items, [], []])

    @cached_property
    def parts_root(self) -> bytes:
        """Merkle root over the 64 KiB parts of the wire body."""
        return merkle.parts_root(self.wire_body)


def decode_block(body: bytes) -> Block:
    """A block from its wire body. Raises MalformedBlock."""
    if len(body) > BODY_BYTES_DECODED_MAX:
        raise MalformedBlock(f"a body of {len(body)} bytes; at most {BODY_BYTES_DECODED_MAX} are read")
    try:
        header, items, uncles, withdrawals, sidecar, last_commit, evidence = rlp.decode_list(body, 7)
        transactions = tuple(decode_block_item(item) for item in rlp.as_list(items))
        if uncles or withdrawals or evidence or isinstance(uncles, bytes) or isinstance(withdrawals, bytes):
            raise rlp.RLPError("uncles, withdrawals and evidence are empty lists on this chain")
        if isinstance(evidence, bytes):
            raise rlp.RLPError("evidence is a list")
        block = Block(decode_header(header), decode_sidecar(sidecar), transactions, rlp.as_bytes(last_commit))
    except (rlp.RLPError, InvalidTransaction) as error:
        raise MalformedBlock(str(error)) from error
    block.__dict__["wire_body"] = body  # the cached property, known already
    return block
