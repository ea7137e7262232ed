"""The errors of this package, by whose fault they are.

`MisbehavedPeer` and `HandshakeError` are the peer's fault or a stranger's; nothing here is ours.
"""

from __future__ import annotations

SHOWN_CHARS_MAX = 120


class ProtocolError(Exception):
    """Bytes from outside that are not our protocol. The text carries the offending value, shortened."""


class FrameError(ProtocolError):
    """A record or a fragment that breaks the framing rules."""


class NonceExhausted(ProtocolError):
    """2**64 - 1 records under one key: the connection must end, a new one has new keys."""


class MessageError(ProtocolError):
    """An envelope that does not decode into exactly one known message."""


class HandshakeError(ProtocolError):
    """The handshake failed. `farewell`: the bytes to send before closing, so that the other side learns why."""

    def __init__(self, reason: str, farewell: bytes = b"") -> None:
        super().__init__(reason)
        self.farewell = farewell


class MisbehavedPeer(ProtocolError):
    """A connected peer broke a rule. Carries who and what."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"peer {peer[:12]}: {reason}")
        self.peer = peer
        self.reason = reason


def shown(value: object) -> str:
    """A value for an error text, cut to a readable length."""
    if isinstance(value, bytes | bytearray | memoryview):
        head = bytes(value[: SHOWN_CHARS_MAX // 4]).hex()
        return f"0x{head}{'...' if len(value) > SHOWN_CHARS_MAX // 4 else ''} ({len(value)} bytes)"
    if isinstance(value, int) and abs(value) >= 1 << 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."
