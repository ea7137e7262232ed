"""Where everything of the chain lies in the key-value store, and how a block with all that follows from it gets there.

Keys begin with one byte; numbers are eight bytes big-endian, so that iteration is by height:

    G            version u32 | spec hash | genesis hash
    H            head: number u64 | block hash
    b number     wire body of the block (header, transactions, sidecar, last commit)
    e number     rlp[header, sidecar]: what is read often, without the transactions
    r number     receipts, rlp[[type, status, gas used, contract | empty, [[address, [topics], data] ...]] ...]
    c number     the commit certificate that this node decided or synced by
    h hash       number of the block with that hash
    t hash       number u64 | index u32 of a transaction
    k topic num  log indices u32 in that block: logs of Market and Models whose first indexed topic is that
    n keccak     trie node or contract code
    v hash       encoding of the validator set with that hash

Decides nothing: what is valid is chain.validation's question, when to write is chain.ledger's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chain.kv import KV, Batch, KVCorrupt
from primitives import rlp
from primitives.address import COURIER, MARKET, MODELS, REFEREE, STAKING, TOLERANT
from primitives.block import Block, MalformedBlock, decode_block
from primitives.header import Header, Sidecar, decode_header, decode_sidecar
from primitives.receipt import Log, Receipt, bloom_of
from primitives.validators import InvalidValidatorSet, ValidatorSet
from primitives.vote import CommitCertificate, InvalidMessage, decode_message, encode_message
from vm.trie import Nodes

LAYOUT_VERSION = 1
GENESIS, HEAD = b"G", b"H"
BODY, ENVELOPE, RECEIPTS, CERTIFICATE = b"b", b"e", b"r", b"c"
BY_HASH, TRANSACTION, TASK, NODE, SET = b"h", b"t", b"k", b"n", b"v"


@dataclass(frozen=True)
class Genesis:
    """Which chain a store holds."""

    spec_hash: bytes
    genesis_hash: bytes


@dataclass(frozen=True)
class Location:
    """Where a transaction stands."""

    number: int
    index: int


class StateDB(Mapping[bytes, bytes]):
    """keccak -> trie node or code, as vm wants it; vm hashes what it reads again, so nothing is verified here."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    def __getitem__(self, key: bytes) -> bytes:
        value = self._kv.get(NODE + key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self._kv.get(NODE + key) is not None

    def __iter__(self) -> Iterator[bytes]:
        return (key[1:] for key, _ in self._kv.iterate(NODE))

    def __len__(self) -> int:
        return sum(1 for _ in self._kv.iterate(NODE))


class Store:
    """Typed reads, and the batches that write. Reads are safe from any thread."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self.state = Nodes(StateDB(kv))

    def genesis(self) -> Genesis | None:
        """Which chain this is; None for an empty store. Raises KVCorrupt."""
        value = self._kv.get(GENESIS)
        if value is None:
            return None
        if len(value) != 68 or int.from_bytes(value[:4], "big") != LAYOUT_VERSION:
            raise KVCorrupt(f"the database's layout is {value[:4].hex()}, this version reads {LAYOUT_VERSION:08x}")
        return Genesis(value[4:36], value[36:])

    def head(self) -> tuple[int, bytes]:
        """Number and hash of the last committed block. Raises KVCorrupt."""
        value = self._kv.get(HEAD)
        if value is None or len(value) != 40:
            raise KVCorrupt("the database has no head pointer")
        return int.from_bytes(value[:8], "big"), value[8:]

    def body(self, number: int) -> bytes | None:
        """Wire body of the block at a height."""
        return self._kv.get(BODY + _u64(number))

    def block(self, number: int) -> Block | None:
        """The block at a height. Raises KVCorrupt."""
        body = self.body(number)
        if body is None:
            return None
        try:
            return decode_block(body)
        except MalformedBlock as error:
            raise KVCorrupt(f"stored block {number} cannot be read: {error}") from error

    def envelope(self, number: int) -> tuple[Header, Sidecar] | None:
        """Header and sidecar at a height. Raises KVCorrupt."""
        value = self._kv.get(ENVELOPE + _u64(number))
        if value is None:
            return None
        try:
            header, sidecar = rlp.decode_list(value, 2)
            return decode_header(header), decode_sidecar(sidecar)
        except rlp.RLPError as error:
            raise KVCorrupt(f"stored header {number} cannot be read: {error}") from error

    def receipts(self, number: int) -> tuple[Receipt, ...] | None:
        """Receipts at a height, in the order of the transactions. Raises KVCorrupt."""
        value = self._kv.get(RECEIPTS + _u64(number))
        if value is None:
            return None
        try:
            return _decode_receipts(value)
        except rlp.RLPError as error:
            raise KVCorrupt(f"stored receipts of block {number} cannot be read: {error}") from error

    def certificate(self, number: int) -> CommitCertificate | None:
        """The certificate by which this node committed the block. Raises KVCorrupt."""
        value = self._kv.get(CERTIFICATE + _u64(number))
        if value is None:
            return None
        try:
            certificate = decode_message(value)
        except InvalidMessage as error:
            raise KVCorrupt(f"the stored certificate of block {number} cannot be read: {error}") from error
        if not isinstance(certificate, CommitCertificate):
            raise KVCorrupt(f"the stored certificate of block {number} is a {type(certificate).__name__}")
        return certificate

    def number_of(self, block_hash: bytes) -> int | None:
        """Height of the committed block with that hash."""
        value = self._kv.get(BY_HASH + block_hash)
        return None if value is None else int.from_bytes(value, "big")

    def location(self, transaction_hash: bytes) -> Location | None:
        """Where a committed transaction stands."""
        value = self._kv.get(TRANSACTION + transaction_hash)
        return None if value is None else Location(int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big"))

    def task_logs(self, task: bytes) -> list[tuple[int, tuple[int, ...]]]:
        """(height, indices of logs in that block) of everything that was logged about a task, its disputes and
        slashes, or by Models about a model (what was registered) or an operator (what it serves), ascending."""
        return [
            (int.from_bytes(key[-8:], "big"), tuple(_u32s(value))) for key, value in self._kv.iterate(TASK + task)
        ]

    def validator_set(self, set_hash: bytes) -> ValidatorSet | None:
        """A set that some committed header names. Raises KVCorrupt."""
        value = self._kv.get(SET + set_hash)
        if value is None:
            return None
        try:
            return ValidatorSet.decode(value)
        except InvalidValidatorSet as error:
            raise KVCorrupt(f"the stored validator set {set_hash.hex()} cannot be read: {error}") from error

    def write(self, batch: Batch) -> None:
        """One synced batch. Raises KVFull, KVError."""
        self._kv.write(batch, sync=True)


def genesis_batch(
    spec_hash: bytes, block: Block, nodes: Mapping[bytes, bytes], sets: Iterable[ValidatorSet]
) -> Batch:
    """Everything that a new chain's store begins with."""
    yield from block_batch(block, (), nodes, sets, None)
    yield GENESIS, LAYOUT_VERSION.to_bytes(4, "big") + spec_hash + block.hash


def block_batch(
    block: Block,
    receipts: Sequence[Receipt],
    nodes: Mapping[bytes, bytes],
    sets: Iterable[ValidatorSet],
    certificate: CommitCertificate | None,
) -> Batch:
    """Everything that a committed block adds, the head pointer included."""
    number = _u64(block.number)
    for key, node in nodes.items():
        yield NODE + key, node
    yield BODY + number, block.wire_body
    yield ENVELOPE + number, rlp.encode([block.header.fields(), block.sidecar.fields()])
    yield RECEIPTS + number, _encode_receipts(receipts)
    yield BY_HASH + block.hash, number
    for index, transaction in enumerate(block.transactions):
        yield TRANSACTION + transaction.hash, number + index.to_bytes(4, "big")
    for task, indices in _tasks_in(receipts).items():
        yield TASK + task + number, b"".join(index.to_bytes(4, "big") for index in indices)
    for members in sets:
        yield SET + members.hash, members.encoded
    if certificate is not None:
        yield CERTIFICATE + number, encode_message(certificate)
    yield HEAD, number + block.hash


_TASK_TOPIC = {MARKET: 1, MODELS: 1, COURIER: 1, REFEREE: 2, STAKING: 2, TOLERANT: 1}
"""Which indexed topic of an account's logs is a task, or a model."""


def _tasks_in(receipts: Sequence[Receipt]) -> dict[bytes, list[int]]:
    """What the logs of the system accounts name (_TASK_TOPIC) -> their indices in the block."""
    found: dict[bytes, list[int]] = {}
    index = 0
    for receipt in receipts:
        for log in receipt.logs:
            topic = _TASK_TOPIC.get(log.address, len(log.topics))
            if topic < len(log.topics):
                found.setdefault(log.topics[topic], []).append(index)
            index += 1
    return found


def _encode_receipts(receipts: Sequence[Receipt]) -> bytes:
    uint = rlp.from_uint
    return rlp.encode(
        [
            [
                uint(receipt.type_id),
                uint(receipt.status),
                uint(receipt.gas_used),
                receipt.contract_address or b"",
                [[log.address, list(log.topics), log.data] for log in receipt.logs],
            ]
            for receipt in receipts
        ]
    )


def _decode_receipts(data: bytes) -> tuple[Receipt, ...]:
    """Blooms and cumulative gas follow from the rest. Raises RLPError."""
    receipts = []
    cumulative = 0
    for item in rlp.decode_list(data):
        type_id, status, gas, contract, logs_item = rlp.as_list(item, 5)
        logs = []
        for log in rlp.as_list(logs_item):
            address, topics, log_data = rlp.as_list(log, 3)
            topic_bytes = tuple(rlp.as_bytes(topic, 32) for topic in rlp.as_list(topics))
            logs.append(Log(rlp.as_bytes(address, 20), topic_bytes, rlp.as_bytes(log_data)))
        gas_used = rlp.as_uint(gas, 64)
        cumulative += gas_used
        receipts.append(
            Receipt(
                type_id=rlp.as_uint(type_id, 8),
                status=rlp.as_uint(status, 8),
                cumulative_gas_used=cumulative,
                logs_bloom=bloom_of(logs),
                logs=tuple(logs),
                gas_used=gas_used,
                contract_address=rlp.as_bytes(contract, most=20) or None,
            )
        )
    return tuple(receipts)


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _u32s(data: bytes) -> list[int]:
    bounds = range(0, len(data) + 1, 4)
    return [int.from_bytes(data[start:end], "big") for start, end in pairwise(bounds)]
