"""Records and fragments: what one side writes the other reads, and every broken rule has its error."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import framing
from p2p.errors import FrameError, NonceExhausted
from p2p.framing import BLOCKS, CHANNELS, CONSENSUS, CONTROL, MESSAGE_BYTES_MAX, SYNC, FrameReader, FrameWriter
from p2p.handshake import NONCE_MAX, CipherState

KEY = bytes(range(32))


def ends() -> tuple[FrameWriter, FrameReader]:
    return FrameWriter(CipherState(KEY)), FrameReader(CipherState(KEY))


def sealed(*plaintexts: bytes) -> bytes:
    """Records with these plaintexts, whatever they say."""
    cipher = CipherState(KEY)
    records = [cipher.encrypt(b"", plain) for plain in plaintexts]
    return b"".join(len(r).to_bytes(2, "big") + r for r in records)


def whole(writer: FrameWriter, channel: int, message: bytes) -> list[bytes]:
    records, offset = [], 0
    while offset < len(message):
        record, offset = writer.record(channel, message, offset)
        records.append(record)
    return records


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_largest_message_of_each_channel_arrives(channel: int) -> None:
    writer, reader = ends()
    message = os.urandom(MESSAGE_BYTES_MAX[channel])
    records = whole(writer, channel, message)
    assert all(len(r) <= 2 + framing.RECORD_BYTES_MAX for r in records)
    assert [m for r in records for m in reader.feed(r)] == [(channel, message)]


def test_bounds_are_those_of_the_design() -> None:
    assert framing.RECORD_BYTES_MAX == 65_535
    assert max(MESSAGE_BYTES_MAX[c] for c in CHANNELS if c != SYNC) == 1 << 20
    assert MESSAGE_BYTES_MAX[SYNC] == 8 << 20


@given(
    st.lists(st.tuples(st.sampled_from([CONTROL, CONSENSUS, BLOCKS]), st.binary(min_size=1, max_size=900)), max_size=8),
    st.integers(1, 700),
)
def test_messages_arrive_whole_in_any_pieces(sent: list[tuple[int, bytes]], piece: int) -> None:
    writer, reader = ends()
    wire = b"".join(r for channel, message in sent for r in whole(writer, channel, message))
    got = [m for i in range(0, len(wire), piece) for m in reader.feed(wire[i : i + piece])]
    assert got == sent


def test_a_vote_between_two_parts_of_a_block() -> None:
    writer, reader = ends()
    body = os.urandom(150_000)
    first, offset = writer.record(BLOCKS, body, 0)
    vote, _ = writer.record(CONSENSUS, b"vote", 0)
    second, offset = writer.record(BLOCKS, body, offset)
    third, offset = writer.record(BLOCKS, body, offset)
    assert offset == len(body)
    assert reader.feed(first + vote + second) == [(CONSENSUS, b"vote")]
    assert reader.feed(third) == [(BLOCKS, body)]


TOTAL_4 = (4).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("plaintexts", "error"),
    [
        ([b"\x09\x03" + TOTAL_4 + b"abcd"], "channel 9 does not exist"),
        ([b"\x01\x07" + TOTAL_4 + b"abcd"], "flags 0x07"),
        ([b"\x01\x01\x00"], "without its total length"),
        ([b"\x01\x02abcd"], "without a first one"),
        ([b"\x01\x01" + TOTAL_4 + b"ab", b"\x01\x01" + TOTAL_4 + b"ab"], "a second open message on channel 1"),
        ([b"\x01\x01" + TOTAL_4], "an empty fragment"),
        ([b"\x01\x01" + TOTAL_4 + b"ab", b"\x01\x00"], "an empty fragment"),
        ([b"\x01\x01" + TOTAL_4 + b"ab", b"\x01\x00abc"], "5 bytes on channel 1 for a message of 4"),
        ([b"\x01\x03" + TOTAL_4 + b"abc"], "ends after 3 of 4 bytes"),
        ([b"\x00\x01" + (1025).to_bytes(4, "big") + b"a"], "a message of 1025 bytes on channel 0, at most 1024"),
        ([b"\x03\x01\xff\xff\xff\xff" + b"a"], "a message of 4294967295 bytes on channel 3, at most 1048576"),
    ],
)
def test_each_broken_rule_has_its_error(plaintexts: list[bytes], error: str) -> None:
    _, reader = ends()
    with pytest.raises(FrameError, match=error):
        reader.feed(sealed(*plaintexts))


def test_a_size_is_refused_before_anything_is_kept() -> None:
    asked: list[int] = []
    reader = FrameReader(CipherState(KEY), lambda channel: asked.append(channel) or 0)  # type: ignore[func-returns-value]
    with pytest.raises(FrameError, match="a message of 4 bytes on channel 3, at most 0 now"):
        reader.feed(sealed(b"\x03\x01" + TOTAL_4 + b"ab"))
    assert asked == [BLOCKS]
    assert not reader._open


def test_a_record_shorter_than_its_tag_is_refused_at_its_length() -> None:
    _, reader = ends()
    with pytest.raises(FrameError, match="a record of 17 bytes, at least 18"):
        reader.feed(b"\x00\x11")


@pytest.mark.parametrize("position", [2, 10, -1])
def test_a_flipped_bit_does_not_open(position: int) -> None:
    writer, reader = ends()
    record = bytearray(writer.record(CONSENSUS, b"vote", 0)[0])
    record[position] ^= 1
    with pytest.raises(FrameError, match="record 0 of 26 bytes does not open"):
        reader.feed(bytes(record))


def test_a_replayed_or_reordered_record_does_not_open() -> None:
    writer, reader = ends()
    first = writer.record(CONSENSUS, b"one", 0)[0]
    assert reader.feed(first) == [(CONSENSUS, b"one")]
    with pytest.raises(FrameError, match="does not open"):
        reader.feed(first)


def test_the_last_nonce_ends_both_directions() -> None:
    sending, receiving = CipherState(KEY), CipherState(KEY)
    sending.nonce = receiving.nonce = NONCE_MAX - 1
    writer, reader = FrameWriter(sending), FrameReader(receiving)
    record, _ = writer.record(CONSENSUS, b"last", 0)
    assert reader.feed(record) == [(CONSENSUS, b"last")]
    with pytest.raises(NonceExhausted):
        writer.record(CONSENSUS, b"one too many", 0)
    with pytest.raises(NonceExhausted):
        reader.feed(record)


@given(st.binary(max_size=400))
def test_random_wire_bytes_raise_only_our_error(data: bytes) -> None:
    _, reader = ends()
    try:
        assert reader.feed(data) == []
    except FrameError:
        pass


@settings(max_examples=300)
@given(st.lists(st.builds(lambda head, rest: head + rest, st.binary(min_size=2, max_size=8), st.binary(max_size=40))))
def test_random_plaintexts_raise_only_our_error_and_stay_bounded(plaintexts: list[bytes]) -> None:
    _, reader = ends()
    try:
        for channel, message in reader.feed(sealed(*plaintexts)):
            assert 0 < len(message) <= MESSAGE_BYTES_MAX[channel]
    except FrameError:
        pass
    assert sum(len(collected) for _, collected in reader._open.values()) <= sum(map(len, plaintexts))
