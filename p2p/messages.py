"""What nodes say to each other: frozen messages, their msgpack envelopes, and a strict, bounded decoder; sans-IO.

Owns message numbers, fields, bounds and the channel of each message. Refuses to know what a consensus payload, a body
or a transaction means: these are opaque bytes here. An envelope is a msgpack array [number, field, ...]; the decoder
walks the schema of that number, so that no nested structure, map, string or extension is ever built from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import msgpack  # type: ignore[import-untyped]

from p2p import framing
from p2p.errors import MessageError, shown
from p2p.framing import KIB, MIB

HASH_BYTES = 32
HEIGHT_MAX = (1 << 63) - 1
BODY_BYTES_MAX = 1 * MIB - 64  # block_bytes_max is 900 KiB; sidecar, last commit and evidence are small
CONSENSUS_BYTES_MAX = 64 * KIB - 16
TX_BYTES_MAX = 128 * KIB
TX_HASHES_MAX = 256
TRANSACTIONS_MAX = 256
# What a reply holds at most; the envelope's own bytes need the rest of the mebibyte.
TRANSACTIONS_BYTES_MAX = 1 * MIB - 8 * KIB
RANGE_BLOCKS_MAX = 16
RANGE_BYTES_MAX = 4 * MIB
CERTIFICATE_BYTES_MAX = 64 * KIB
ANSWER_BYTES_MAX = 4 * KIB - 16
MODEL_DATA_BYTES_MAX = 256 * KIB
MODEL_SIBLINGS_MAX = 64
SIZE_MAX = (1 << 63) - 1
# What of a model is asked for.
PART_MANIFEST, PART_TOKENIZER, PART_CHUNK = 0, 1, 2
NONCE_MAX = (1 << 64) - 1

# Why a connection is ended, for the other side's log.
GOODBYE_REASONS = {
    0: "shutting down",
    1: "you broke the protocol",
    2: "duplicate connection",
    3: "no room for more peers",
    4: "too many connections from your address",
    5: "you read too slowly",
    6: "no sign of life",
}
GOODBYE_SHUTDOWN, GOODBYE_MISBEHAVED, GOODBYE_DUPLICATE, GOODBYE_FULL, GOODBYE_ADDRESS, GOODBYE_SLOW, GOODBYE_DEAD = (
    GOODBYE_REASONS
)


@dataclass(frozen=True, slots=True)
class Goodbye:
    code: int


@dataclass(frozen=True, slots=True)
class Ping:
    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    nonce: int


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """Blocks that this node can serve: base_height to head_height, both included."""

    head_height: int
    base_height: int


@dataclass(frozen=True, slots=True)
class Consensus:
    """A message of the consensus core in its own encoding."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class BlockAnnounce:
    """This node has the body of that block; `size` in bytes."""

    block_hash: bytes
    height: int
    size: int


@dataclass(frozen=True, slots=True)
class BlockRequest:
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class BlockBody:
    """Answers a BlockRequest; an empty body says that the block is not here."""

    block_hash: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class TxAnnounce:
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TxRequest:
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Transactions:
    """Answers the oldest open TxRequest; those that are gone, or did not fit, are left out."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """Asks for `count` blocks from from_height on, at most max_bytes in all (but at least one block)."""

    request_id: int
    from_height: int
    count: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class RangeReply:
    """(wire body, commit certificate) of consecutive blocks from the height asked for; may be fewer than asked."""

    request_id: int
    blocks: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class SoftAnswer:
    """Some tokens of an answer that is being made, in their own encoding, signed by its maker."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """Is this model held, whole and checked?"""

    model: bytes


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """held: 1 or 0."""

    model: bytes
    held: int


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Asks for a piece of 256 KiB of the manifest or the tokenizer.json by its number, or for a chunk of the tensors by
    its number in the manifest."""

    request_id: int
    model: bytes
    part: int
    number: int


@dataclass(frozen=True, slots=True)
class ModelPart:
    """Answers a ModelRequest. size: bytes of the whole manifest or tokenizer.json, 0 for a chunk. siblings: a chunk's
    path to its tensor's root. Empty data: not here."""

    request_id: int
    size: int
    data: bytes
    siblings: tuple[bytes, ...]


Message = (
    Goodbye
    | Ping
    | Pong
    | StatusUpdate
    | Consensus
    | BlockAnnounce
    | BlockRequest
    | BlockBody
    | TxAnnounce
    | TxRequest
    | Transactions
    | RangeRequest
    | RangeReply
    | SoftAnswer
    | ModelQuery
    | ModelAnswer
    | ModelRequest
    | ModelPart
)


def encode(message: Message) -> bytes:
    """The envelope. The message must be within the bounds of this page: that is the sender's own duty."""
    number, _, _ = _OF_CLASS[type(message)]
    data: bytes = msgpack.packb((number, *astuple(message)), use_bin_type=True)
    assert len(data) <= framing.MESSAGE_BYTES_MAX[channel_of(message)], (type(message).__name__, len(data))
    return data


def channel_of(message: Message) -> int:
    return _OF_CLASS[type(message)][1]


def decode(channel: int, data: bytes) -> Message:
    """The one message in `data`, which came on `channel`. Raises MessageError with the offending value."""
    reader = _Reader(data)
    fields = reader.array("the envelope", 1, _FIELDS_MAX)
    number = reader.integer("the message number", 0, 255)
    if number in RESERVED:
        raise MessageError(f"message {number} ({RESERVED[number]}) is reserved and not spoken yet")
    known = _OF_NUMBER.get(number)
    if known is None:
        raise MessageError(f"message number {number} is unknown")
    cls, expected_channel, schema = known
    name = cls.__name__
    if channel != expected_channel:
        raise MessageError(f"{name} on channel {channel}, not {expected_channel}")
    if fields != len(schema) + 1:
        raise MessageError(f"{name} with {fields - 1} fields, not {len(schema)}")
    build: Callable[..., Message] = cls  # the schema yields what its fields take
    message = build(*(read(reader, name) for read in schema))
    reader.end(name)
    return message


class _Reader:
    """msgpack values one by one, each checked before the next is looked at."""

    def __init__(self, data: bytes) -> None:
        # The unpacker's own limits refuse every container and text; byte strings are bounded by the data itself.
        self._unpacker = msgpack.Unpacker(
            None,
            max_buffer_size=max(len(data), 1),
            max_bin_len=len(data),
            max_str_len=0,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
            strict_map_key=True,
        )
        self._unpacker.feed(data)
        self._length = len(data)

    def array(self, what: str, count_min: int, count_max: int) -> int:
        count = self._next(self._unpacker.read_array_header, what)
        assert type(count) is int
        if not count_min <= count <= count_max:
            raise MessageError(f"{what}: {count} items, not {count_min} to {count_max}")
        return count

    def integer(self, what: str, low: int, high: int) -> int:
        value = self._next(self._unpacker.unpack, what)
        if type(value) is not int or not low <= value <= high:
            raise MessageError(f"{what}: {shown(value)} is not an integer between {low} and {high}")
        return value

    def binary(self, what: str, length_min: int, length_max: int) -> bytes:
        value = self._next(self._unpacker.unpack, what)
        if type(value) is not bytes:
            raise MessageError(f"{what}: {shown(value)} is not a byte string")
        if not length_min <= len(value) <= length_max:
            raise MessageError(f"{what}: {shown(value)}, not {length_min} to {length_max} bytes")
        return value

    def end(self, what: str) -> None:
        if self._unpacker.tell() != self._length:
            raise MessageError(f"{what}: {self._length - self._unpacker.tell()} bytes behind its end")

    @staticmethod
    def _next(read: Callable[[], object], what: str) -> object:
        try:
            return read()
        except msgpack.OutOfData:
            raise MessageError(f"{what}: the data ends too early")
        except ValueError as error:
            raise MessageError(f"{what}: {error}")


_Read = Callable[[_Reader, str], object]


def _integer(field: str, high: int, low: int = 0) -> _Read:
    return lambda reader, name: reader.integer(f"{name}.{field}", low, high)


def _binary(field: str, length_max: int, length_min: int = 0) -> _Read:
    return lambda reader, name: reader.binary(f"{name}.{field}", length_min, length_max)


def _hash(field: str) -> _Read:
    return _binary(field, HASH_BYTES, HASH_BYTES)


def _list(field: str, item: _Read, count_max: int, count_min: int = 0) -> _Read:
    def read(reader: _Reader, name: str) -> tuple[object, ...]:
        count = reader.array(f"{name}.{field}", count_min, count_max)
        return tuple(item(reader, name) for _ in range(count))

    return read


def _range_block(reader: _Reader, name: str) -> tuple[bytes, bytes]:
    reader.array(f"{name}.blocks", 2, 2)
    body = reader.binary(f"{name}.body", 1, BODY_BYTES_MAX)
    return body, reader.binary(f"{name}.certificate", 0, CERTIFICATE_BYTES_MAX)


_HASHES = _list("hashes", _hash("hashes"), TX_HASHES_MAX, 1)
_RAWS = _list("raws", _binary("raws", TX_BYTES_MAX, 1), TRANSACTIONS_MAX)
_BLOCKS = _list("blocks", _range_block, RANGE_BLOCKS_MAX)

# number, message, channel, fields in order. Numbers are for ever.
_TABLE: tuple[tuple[int, type[Message], int, tuple[_Read, ...]], ...] = (
    (0, Goodbye, framing.CONTROL, (_integer("code", 255),)),
    (1, Ping, framing.CONTROL, (_integer("nonce", NONCE_MAX),)),
    (2, Pong, framing.CONTROL, (_integer("nonce", NONCE_MAX),)),
    (
        3,
        StatusUpdate,
        framing.CONTROL,
        (_integer("head_height", HEIGHT_MAX), _integer("base_height", HEIGHT_MAX)),
    ),
    (16, Consensus, framing.CONSENSUS, (_binary("payload", CONSENSUS_BYTES_MAX, 1),)),
    (
        32,
        BlockAnnounce,
        framing.REQUESTS,
        (_hash("block_hash"), _integer("height", HEIGHT_MAX), _integer("size", BODY_BYTES_MAX, 1)),
    ),
    (33, BlockRequest, framing.REQUESTS, (_hash("block_hash"),)),
    (34, BlockBody, framing.BLOCKS, (_hash("block_hash"), _binary("body", BODY_BYTES_MAX))),
    (48, TxAnnounce, framing.TRANSACTIONS, (_HASHES,)),
    (49, TxRequest, framing.TRANSACTIONS, (_HASHES,)),
    (50, Transactions, framing.TRANSACTIONS, (_RAWS,)),
    (
        64,
        RangeRequest,
        framing.REQUESTS,
        (
            _integer("request_id", NONCE_MAX),
            _integer("from_height", HEIGHT_MAX),
            _integer("count", RANGE_BLOCKS_MAX, 1),
            _integer("max_bytes", RANGE_BYTES_MAX, 1),
        ),
    ),
    (65, RangeReply, framing.SYNC, (_integer("request_id", NONCE_MAX), _BLOCKS)),
    (112, SoftAnswer, framing.ANSWERS, (_binary("payload", ANSWER_BYTES_MAX, 1),)),
    (96, ModelQuery, framing.REQUESTS, (_hash("model"),)),
    (97, ModelAnswer, framing.REQUESTS, (_hash("model"), _integer("held", 1))),
    (
        98,
        ModelRequest,
        framing.REQUESTS,
        (
            _integer("request_id", NONCE_MAX),
            _hash("model"),
            _integer("part", PART_CHUNK),
            _integer("number", SIZE_MAX),
        ),
    ),
    (
        99,
        ModelPart,
        framing.MODELS,
        (
            _integer("request_id", NONCE_MAX),
            _integer("size", SIZE_MAX),
            _binary("data", MODEL_DATA_BYTES_MAX),
            _list("siblings", _hash("siblings"), MODEL_SIBLINGS_MAX),
        ),
    ),
)
# Numbers kept for what later versions speak; a node of today refuses them by name.
RESERVED = {
    17: "HaveVote",
    35: "BlockPartRequest",
    36: "BlockPart",
    80: "PeerExchangeRequest",
    81: "PeerExchange",
    82: "AddressAnnounce",
}
_OF_NUMBER = {number: (cls, channel, schema) for number, cls, channel, schema in _TABLE}
_OF_CLASS = {cls: (number, channel, schema) for number, cls, channel, schema in _TABLE}
_FIELDS_MAX = 1 + max(len(schema) for *_, schema in _TABLE)
assert not RESERVED.keys() & _OF_NUMBER.keys()
assert MODEL_DATA_BYTES_MAX + MODEL_SIBLINGS_MAX * (HASH_BYTES + 2) + 64 <= framing.MODEL_MESSAGE_BYTES_MAX
assert RANGE_BYTES_MAX + BODY_BYTES_MAX + 2 * CERTIFICATE_BYTES_MAX <= framing.SYNC_MESSAGE_BYTES_MAX
