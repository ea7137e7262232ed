"""Records on the wire: sealed, bounded, several channels interleaved; sans-IO.

Owns the record and fragment layout and every size check. Refuses to know sockets, priorities and what a message means.

    record    = length u16 big-endian | sealed bytes (at most 65,535, tag included)
    plaintext = channel u8 | flags u8 | [total length u32 big-endian, when FIRST] | bytes of the message

A channel has at most one open message. Its total length stands in its first fragment and is checked against the
channel's bound before a byte of it is kept; memory grows only by what has really arrived.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from p2p.errors import FrameError
from p2p.handshake import TAG_BYTES, CipherState

KIB, MIB = 1024, 1024 * 1024

# Channels, most urgent first. The number is the priority.
CONTROL = 0  # ping, pong, status, goodbye
CONSENSUS = 1  # proposals, votes, certificates
REQUESTS = 2  # small questions and announcements about blocks
BLOCKS = 3  # whole bodies
TRANSACTIONS = 4
SYNC = 5  # ranges of blocks
ANSWERS = 6  # tokens of answers that are being made, for those who watch
MODELS = 7  # parts of models
CHANNELS = range(8)

GOSSIP_MESSAGE_BYTES_MAX = 1 * MIB
SYNC_MESSAGE_BYTES_MAX = 8 * MIB
MODEL_MESSAGE_BYTES_MAX = 264 * KIB  # a chunk of 256 KiB and its path
# The hard bound of each channel. Control and requests are small by nature; consensus messages carry at most a
# certificate of 128 signatures (about 9 KiB).
MESSAGE_BYTES_MAX = {
    CONTROL: 1 * KIB,
    CONSENSUS: 64 * KIB,
    REQUESTS: 1 * KIB,
    BLOCKS: GOSSIP_MESSAGE_BYTES_MAX,
    TRANSACTIONS: GOSSIP_MESSAGE_BYTES_MAX,
    SYNC: SYNC_MESSAGE_BYTES_MAX,
    ANSWERS: 4 * KIB,
    MODELS: MODEL_MESSAGE_BYTES_MAX,
}
assert set(MESSAGE_BYTES_MAX) == set(CHANNELS)
assert max(MESSAGE_BYTES_MAX.values()) < 1 << 32

LENGTH_BYTES = 2
RECORD_BYTES_MAX = 65_535  # a Noise message
HEAD_BYTES = 2
TOTAL_BYTES = 4
FLAG_FIRST, FLAG_LAST = 1, 2
FRAGMENT_BYTES_MAX = RECORD_BYTES_MAX - TAG_BYTES - HEAD_BYTES - TOTAL_BYTES
RECORD_BYTES_MIN = HEAD_BYTES + TAG_BYTES


class FrameWriter:
    """Seals one fragment at a time, so that the caller chooses before each record which channel goes next."""

    def __init__(self, sending: CipherState) -> None:
        self._sending = sending

    def record(self, channel: int, message: bytes, offset: int) -> tuple[bytes, int]:
        """The record with the part of `message` from `offset` on; returns (bytes for the wire, next offset). The
        message is complete when the next offset is its length. Raises NonceExhausted."""
        assert 0 < len(message) <= MESSAGE_BYTES_MAX[channel], (channel, len(message))
        end = min(len(message), offset + FRAGMENT_BYTES_MAX)
        flags = (FLAG_FIRST if offset == 0 else 0) | (FLAG_LAST if end == len(message) else 0)
        total = len(message).to_bytes(TOTAL_BYTES, "big") if offset == 0 else b""
        sealed = self._sending.encrypt(b"", bytes((channel, flags)) + total + message[offset:end])
        return len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed, end


class FrameReader:
    """Opens records and puts messages together again.

    size_max(channel) is asked at each first fragment and may be smaller than MESSAGE_BYTES_MAX: nothing unasked for is
    ever collected.
    """

    def __init__(self, receiving: CipherState, size_max: Callable[[int], int] = MESSAGE_BYTES_MAX.__getitem__) -> None:
        self._receiving = receiving
        self._size_max = size_max
        self._buffer = bytearray()
        self._open: dict[int, tuple[int, bytearray]] = {}

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Bytes from the wire; returns the messages that they complete, as (channel, message), in order.
        Raises FrameError or NonceExhausted, after which the reader must not be used."""
        self._buffer += data
        messages: list[tuple[int, bytes]] = []
        start, buffer = 0, self._buffer
        while len(buffer) - start >= LENGTH_BYTES:
            length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
            if length < RECORD_BYTES_MIN:
                raise FrameError(f"a record of {length} bytes, at least {RECORD_BYTES_MIN}")
            end = start + LENGTH_BYTES + length
            if len(buffer) < end:
                break
            try:
                plain = self._receiving.decrypt(b"", bytes(buffer[start + LENGTH_BYTES : end]))
            except InvalidTag:
                raise FrameError(f"record {self._receiving.nonce - 1} of {length} bytes does not open")
            start = end
            complete = self._fragment(plain)
            if complete is not None:
                messages.append(complete)
        del buffer[:start]
        return messages

    def _fragment(self, plain: bytes) -> tuple[int, bytes] | None:
        channel, flags = plain[0], plain[1]
        if channel not in CHANNELS:
            raise FrameError(f"channel {channel} does not exist")
        if flags & ~(FLAG_FIRST | FLAG_LAST):
            raise FrameError(f"flags {flags:#04x} on channel {channel}")
        body = memoryview(plain)[HEAD_BYTES:]
        if flags & FLAG_FIRST:
            if channel in self._open:
                raise FrameError(f"a second open message on channel {channel}")
            if len(body) < TOTAL_BYTES:
                raise FrameError(f"a first fragment of {len(body)} bytes without its total length")
            total, body = int.from_bytes(body[:TOTAL_BYTES], "big"), body[TOTAL_BYTES:]
            allowed = self._size_max(channel)
            if total > allowed:
                raise FrameError(f"a message of {total} bytes on channel {channel}, at most {allowed} now")
            self._open[channel] = total, bytearray()
        elif channel not in self._open:
            raise FrameError(f"a fragment on channel {channel} without a first one")
        if not body:
            raise FrameError(f"an empty fragment on channel {channel}")
        total, collected = self._open[channel]
        if len(collected) + len(body) > total:
            raise FrameError(f"{len(collected) + len(body)} bytes on channel {channel} for a message of {total}")
        collected += body
        if not flags & FLAG_LAST:
            return None
        if len(collected) != total:
            raise FrameError(f"a message on channel {channel} ends after {len(collected)} of {total} bytes")
        del self._open[channel]
        return channel, bytes(collected)
