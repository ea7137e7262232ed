"""Frames of the pipe between a node and its model's process: msgpack values, each after its length as u32 big-endian.
Sans-IO; knows no request and no event."""

from collections.abc import Iterator
from typing import Any

import msgpack

FRAME_BYTES_MAX = 8 << 20  # a prompt and an output of 2^17 ids each need 1.3 MB
LENGTH_BYTES = 4


class FrameError(ValueError):
    """The pipe carries something that is no frame; nothing after it can be trusted."""


def encode_frame(value: Any) -> bytes:
    """One value for the pipe."""
    body: bytes = msgpack.packb(value)
    assert len(body) <= FRAME_BYTES_MAX, len(body)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameReader:
    """Values out of bytes in any portions; holds at most one frame and a portion."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The values that these bytes complete. Raises FrameError."""
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            size = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if size > FRAME_BYTES_MAX:
                raise FrameError(f"a frame of {size} bytes (header {self._buffer[:LENGTH_BYTES].hex()}), "
                                 f"allowed {FRAME_BYTES_MAX}")  # fmt: skip
            end = LENGTH_BYTES + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH_BYTES:end])
            del self._buffer[:end]
            yield _unpack(body)

    def end(self) -> None:
        """The stream has ended. Raises FrameError when it did so within a frame."""
        if self._buffer:
            raise FrameError(f"the stream ends {len(self._buffer)} bytes into a frame")


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, strict_map_key=False)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a frame of {len(body)} bytes is no msgpack: {error}") from error
