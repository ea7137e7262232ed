"""Envelopes: every message comes back as it went, and nothing else decodes."""

from __future__ import annotations

import dataclasses
from typing import get_args

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p import framing, messages
from p2p.errors import MessageError
from p2p.messages import (
    BlockAnnounce,
    BlockBody,
    BlockRequest,
    Consensus,
    Goodbye,
    Message,
    ModelAnswer,
    ModelPart,
    ModelQuery,
    ModelRequest,
    Ping,
    Pong,
    RangeReply,
    RangeRequest,
    SoftAnswer,
    StatusUpdate,
    Transactions,
    TxAnnounce,
    TxRequest,
    channel_of,
    decode,
    encode,
)

HASH = bytes(range(32))

LARGEST: list[Message] = [
    Goodbye(255),
    Ping((1 << 64) - 1),
    Pong((1 << 64) - 1),
    StatusUpdate(messages.HEIGHT_MAX, messages.HEIGHT_MAX),
    Consensus(b"c" * messages.CONSENSUS_BYTES_MAX),
    BlockAnnounce(HASH, messages.HEIGHT_MAX, messages.BODY_BYTES_MAX),
    BlockRequest(HASH),
    BlockBody(HASH, b"b" * messages.BODY_BYTES_MAX),
    TxAnnounce((HASH,) * messages.TX_HASHES_MAX),
    TxRequest((HASH,) * messages.TX_HASHES_MAX),
    Transactions((b"t" * (messages.TRANSACTIONS_BYTES_MAX // 256),) * 256),
    RangeRequest((1 << 64) - 1, messages.HEIGHT_MAX, 16, messages.RANGE_BYTES_MAX),
    RangeReply((1 << 64) - 1, ((b"b" * (messages.RANGE_BYTES_MAX // 16), b"c" * 9_000),) * 16),
    SoftAnswer(b"a" * messages.ANSWER_BYTES_MAX),
    ModelQuery(HASH),
    ModelAnswer(HASH, 1),
    ModelRequest((1 << 64) - 1, HASH, messages.PART_CHUNK, messages.SIZE_MAX),
    ModelPart((1 << 64) - 1, messages.SIZE_MAX, b"d" * (256 << 10), (HASH,) * messages.MODEL_SIBLINGS_MAX),
]
SMALLEST: list[Message] = [
    Goodbye(0),
    Ping(0),
    StatusUpdate(0, 0),
    Consensus(b"c"),
    BlockAnnounce(HASH, 0, 1),
    BlockBody(HASH, b""),
    TxAnnounce((HASH,)),
    Transactions(()),
    RangeRequest(0, 0, 1, 1),
    RangeReply(0, ()),
    RangeReply(0, ((b"b", b""),)),
    SoftAnswer(b"a"),
    ModelAnswer(HASH, 0),
    ModelRequest(0, HASH, 0, 0),
    ModelPart(0, 0, b"", ()),
]


@pytest.mark.parametrize("message", LARGEST + SMALLEST, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    data = encode(message)
    assert len(data) <= framing.MESSAGE_BYTES_MAX[channel_of(message)]
    assert decode(channel_of(message), data) == message


def test_every_kind_is_covered_above() -> None:
    assert {type(m) for m in LARGEST} == set(get_args(Message))


def test_a_full_block_fits() -> None:
    assert messages.BODY_BYTES_MAX > 900 * 1024 + 100 * 1024


@pytest.mark.parametrize(
    ("channel", "envelope", "error"),
    [
        (framing.CONTROL, [90, 1], "message number 90 is unknown"),
        (framing.CONSENSUS, [17, b""], r"message 17 \(HaveVote\) is reserved"),
        (framing.CONTROL, [80], r"message 80 \(PeerExchangeRequest\) is reserved"),
        (framing.SYNC, [16, b"vote"], "Consensus on channel 5, not 1"),
        (framing.CONTROL, [1], "Ping with 0 fields, not 1"),
        (framing.CONTROL, [1, 2, 3], "Ping with 2 fields, not 1"),
        (framing.CONTROL, [1, -1], "Ping.nonce: -1 is not an integer between"),
        (framing.CONTROL, [1, True], "Ping.nonce: True is not an integer"),
        (framing.CONTROL, [1, 1.0], "Ping.nonce: 1.0 is not an integer"),
        (framing.CONTROL, [1, None], "Ping.nonce: None is not an integer"),
        (framing.CONTROL, [1, "1"], "max_str_len"),
        (framing.CONTROL, [1, {}], "Ping.nonce: {} is not an integer"),
        (framing.CONTROL, [1, {1: 2}], "max_map_len"),
        (framing.CONTROL, [1, [[]]], "max_array_len"),
        (framing.CONTROL, [1, msgpack.ExtType(5, b"x")], "max_ext_len"),
        (framing.CONTROL, [3, 1 << 63, 0], "StatusUpdate.head_height"),
        (framing.CONTROL, [b"1", 1], "the message number"),
        (framing.CONSENSUS, [16, b""], "Consensus.payload"),
        (framing.CONSENSUS, [16, 7], "Consensus.payload: 7 is not a byte string"),
        (framing.REQUESTS, [33, b"short"], r"BlockRequest.block_hash: 0x73686f7274 \(5 bytes\), not 32 to 32"),
        (framing.REQUESTS, [64, 0, 1, 17, 1], "RangeRequest.count: 17 is not an integer between 1 and 16"),
        (framing.REQUESTS, [64, 0, 1, 1, 1 << 40], "RangeRequest.max_bytes"),
        (framing.TRANSACTIONS, [48, []], "TxAnnounce.hashes: 0 items, not 1 to 256"),
        (framing.TRANSACTIONS, [48, [HASH] * 257], "TxAnnounce.hashes: 257 items"),
        (framing.TRANSACTIONS, [48, HASH], "TxAnnounce.hashes"),
        (framing.TRANSACTIONS, [50, [b""]], "Transactions.raws"),
        (framing.TRANSACTIONS, [50, [bytes(128 * 1024 + 1)]], "Transactions.raws"),
        (framing.SYNC, [65, 0, [[b"b"]]], "RangeReply.blocks: 1 items, not 2 to 2"),
        (framing.SYNC, [65, 0, [[b"b", b"c"]] * 17], "RangeReply.blocks: 17 items"),
        (framing.REQUESTS, [97, HASH, 2], "ModelAnswer.held: 2 is not an integer between 0 and 1"),
        (framing.REQUESTS, [98, 0, HASH, 3, 0], "ModelRequest.part: 3"),
        (framing.REQUESTS, [98, 0, HASH, 0, -1], "ModelRequest.number"),
        (framing.MODELS, [99, 0, 0, bytes((256 << 10) + 1), []], "ModelPart.data"),
        (framing.MODELS, [99, 0, 0, b"", [HASH] * 65], "ModelPart.siblings: 65 items"),
        (framing.CONTROL, {}, "the envelope"),
        (framing.CONTROL, [], "the envelope: 0 items"),
        (framing.CONTROL, 5, "the envelope"),
    ],
)
def test_anything_else_is_refused_with_its_value(channel: int, envelope: object, error: str) -> None:
    with pytest.raises(MessageError, match=error):
        decode(channel, msgpack.packb(envelope))


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(MessageError, match="Ping: 1 bytes behind its end"):
        decode(framing.CONTROL, encode(Ping(5)) + b"\x00")


@pytest.mark.parametrize("message", SMALLEST, ids=lambda m: type(m).__name__)
def test_every_truncation_is_refused(message: Message) -> None:
    data = encode(message)
    for length in range(len(data)):
        with pytest.raises(MessageError):
            decode(channel_of(message), data[:length])


def test_a_claimed_length_costs_nothing() -> None:
    """Headers that promise 4 GiB in a message of a few bytes."""
    for data in (b"\xdd\xff\xff\xff\xff", b"\x92\x10\xc6\xff\xff\xff\xff", b"\x92\x30\xdd\xff\xff\xff\xff"):
        for channel in framing.CHANNELS:
            with pytest.raises(MessageError):
                decode(channel, data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 9), inner, max_size=2),
    max_leaves=12,
)
numbers = st.sampled_from(sorted(messages._OF_NUMBER)) | st.integers(0, 300)


@settings(max_examples=300)
@given(st.sampled_from(framing.CHANNELS), st.binary(max_size=300))
@example(0, b"\xc1")
@example(0, b"\x91\xd9\x01\xff")
def test_random_bytes_raise_only_our_error(channel: int, data: bytes) -> None:
    try:
        message = decode(channel, data)
    except MessageError:
        return
    assert channel_of(message) == channel


@settings(max_examples=300)
@given(st.sampled_from(framing.CHANNELS), numbers, st.lists(values, max_size=5))
def test_random_envelopes_raise_only_our_error(channel: int, number: int, fields: list[object]) -> None:
    try:
        message = decode(channel, msgpack.packb([number, *fields]))
    except MessageError:
        return
    assert all(type(v) in (int, bytes, tuple) for v in dataclasses.astuple(message))
