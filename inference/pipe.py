"""A child process's two ends of a pipe of frames (inference.frames): standard input and output, which carry nothing
else. Knows no request and no event."""

import os
import select
import sys
from typing import Any

from inference.frames import FrameReader, encode_frame

READ_BYTES = 1 << 16


class Pipe:
    """The process's two ends for frames alone: whatever any library prints goes to stderr, at descriptor level."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._reader = FrameReader()

    def send(self, value: Any) -> None:
        """Write a frame; waits for a reader that is slow. Raises BrokenPipeError."""
        self._replies.write(encode_frame(value))
        self._replies.flush()

    def receive(self, wait: bool) -> list[Any] | None:
        """Frames that have come, at least some bytes' worth if told to wait; None at the end of the stream. Raises
        FrameError."""
        if not select.select([0], [], [], None if wait else 0.0)[0]:
            return []
        data = os.read(0, READ_BYTES)
        if not data:
            self._reader.end()
            return None
        return list(self._reader.feed(data))
