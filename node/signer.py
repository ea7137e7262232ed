"""The signer: the one place that uses the consensus key, and that never signs two different things for one step.

Owns the key and a state file of what was last signed, synced before a signature leaves. Knows nothing of the core, the
log or the chain; a remote signer can stand behind the same interface (Signer). Steps are ordered by (height, round,
step), a proposal being step 0. The same bytes give the same signature; anything else at or below the last is refused.

The file: two slots of 4 KiB, overwritten in turn, so that a torn write always leaves the other one whole. slot = magic
| counter u64 | length u32 | rlp[height, round, step, sign bytes, signature, log sequence, silent until, abandoned] |
crc32c.
"""

import fcntl
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from crc32c import crc32c

from primitives import rlp
from primitives.keys import address_of, sign
from primitives.vote import (
    Proposal,
    Signable,
    SignContext,
    Signed,
    SignedProposal,
    SignedVote,
    sign_bytes,
    step_of,
)

SLOT_BYTES = 4096
_MAGIC = b"LSIG"
_HEAD = struct.Struct(">4sQI")
_CRC = struct.Struct(">I")


class SignerError(Exception):
    """The signer cannot be used at all; the text says what to do."""


class SignerLocked(SignerError):
    """Another process holds this signer's file."""


class SignerMissing(SignerError):
    """No usable state file although the chain has blocks: what this key signed is not known."""


class RefusedToSign(Exception):
    """This step must not be signed (any more); the node goes on as an observer of it."""


@dataclass(frozen=True)
class SignerState:
    """What was signed last.

    silent_until: sign nothing at or below this height (a new signer on a running chain). abandoned: nor at or below
    this one (the log was lost there, and with it the memory of locks).
    """

    height: int = 0
    round: int = 0
    step: int = 0
    sign_bytes: bytes = b""
    signature: bytes = b""
    log_sequence: int = 0
    silent_until: int = 0
    abandoned: int = 0


class Signer(Protocol):
    """Whatever holds the consensus key: a file here, another machine later."""

    address: bytes

    def sign(self, message: Signable, log_sequence: int) -> Signed:
        """Sign, remembering it for good first. Raises RefusedToSign."""
        ...

    def saw_own_key(self, height: int, validators: int) -> None:
        """The key's signature stands in the certificate of `height`, of a set of so many."""
        ...


class FileSigner:
    """A signer whose state is a local file; create_or_open decides whether it may sign at once."""

    def __init__(self, path: Path, fd: int, private_key: bytes, context: SignContext, state: SignerState) -> None:
        self.address = address_of(private_key)
        self.state = state
        self._path = path
        self._fd = fd
        self._private_key = private_key
        self._context = context
        self._counter = 0

    def sign(self, message: Signable, log_sequence: int) -> Signed:
        """The signed message, after {step, sign bytes, signature, log sequence} is on disk (one fdatasync).

        Raises RefusedToSign (silent, or a regression), OSError (nothing was released).
        """
        last = self.state
        step = (message.height, message.round, step_of(message))
        last_step = (last.height, last.round, last.step)
        digest = sign_bytes(self._context, message)
        if digest == last.sign_bytes:
            return _attach(message, last.signature)
        if message.height <= last.silent_until:
            raise RefusedToSign(f"height {message.height}: a new signer stays silent until {last.silent_until}")
        if message.height <= last.abandoned:
            raise RefusedToSign(f"height {message.height}: the log was lost at height {last.abandoned}")
        if step <= last_step:
            raise RefusedToSign(f"(height, round, step) {step} is not above {last_step}, which is signed")
        signature = sign(digest, self._private_key)
        self._write(
            replace(
                last, height=step[0], round=step[1], step=step[2], sign_bytes=digest, signature=signature,
                log_sequence=log_sequence,
            )
        )  # fmt: skip
        return _attach(message, signature)

    def abandon_height(self) -> None:
        """The log is lost: sign nothing new at or below the height that was signed last, after a restart neither."""
        self._write(replace(self.state, abandoned=self.state.height))

    def saw_own_key(self, height: int, validators: int) -> None:
        """The key signed `height` on another machine, while this signer is silent: wait for 2n heights from there."""
        if height <= self.state.silent_until:
            self._write(replace(self.state, silent_until=height + 2 * validators))

    def close(self) -> None:
        """Release the file and its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, state: SignerState) -> None:
        """Overwrite the older slot; the newer one stays whole whatever happens."""
        counter = self._counter + 1
        os.pwrite(self._fd, _encode(counter, state), counter % 2 * SLOT_BYTES)
        os.fdatasync(self._fd)
        self._counter, self.state = counter, state


def create_or_open(
    path: Path, private_key: bytes, context: SignContext, head: int, validators: int, new_signer: bool = False
) -> FileSigner:
    """The signer of this state file, locked for this process.

    head: height of the node's last block; validators: members of the current set. A present file signs at once, and so
    does a fresh one at head 0. Without a file and with head > 0: SignerMissing, unless new_signer, which
    starts one that stays silent for 2n heights. Raises SignerLocked.
    """
    exists = path.exists()
    if not exists and head > 0 and not new_signer:
        raise SignerMissing(
            f"{path} is missing although the chain is at height {head}: what this key signed is not known. Restore the "
            "file; or, when no other machine runs this key, start once with --new-signer (it stays silent at first)"
        )
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(fd, path)
        signer = FileSigner(path, fd, private_key, context, SignerState())
        found = _read(fd, path)
        if found is not None:
            signer._counter, signer.state = found
        elif head > 0 and not new_signer:
            raise SignerMissing(f"{path} is empty although the chain is at height {head}: restore it, or --new-signer")
        else:
            os.ftruncate(fd, 2 * SLOT_BYTES)
            os.fsync(fd)
            _sync_folder(path.parent)
            signer._write(SignerState(silent_until=head + 2 * validators if head > 0 else 0))
    except BaseException:
        os.close(fd)
        raise
    return signer


def _attach(message: Signable, signature: bytes) -> Signed:
    return SignedProposal(message, signature) if isinstance(message, Proposal) else SignedVote(message, signature)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SignerLocked(f"{path} is in use by another process: one key signs in one place only") from error


def _encode(counter: int, state: SignerState) -> bytes:
    uint = rlp.from_uint
    payload = rlp.encode(
        [
            uint(state.height), uint(state.round), uint(state.step), state.sign_bytes, state.signature,
            uint(state.log_sequence), uint(state.silent_until), uint(state.abandoned),
        ]
    )  # fmt: skip
    slot = _HEAD.pack(_MAGIC, counter, len(payload)) + payload
    slot += _CRC.pack(crc32c(slot))
    return slot.ljust(SLOT_BYTES, b"\x00")


def _read(fd: int, path: Path) -> tuple[int, SignerState] | None:
    """Counter and state of the newer whole slot; None of a file that nothing was ever written to."""
    slots = [os.pread(fd, SLOT_BYTES, at) for at in (0, SLOT_BYTES)]
    whole = [found for slot in slots if (found := _decode(slot)) is not None]
    if not whole and any(any(slot) for slot in slots):
        raise SignerMissing(f"{path} holds no whole slot: restore it; or move it away and start with --new-signer")
    return max(whole, key=lambda slot: slot[0], default=None)


def _decode(slot: bytes) -> tuple[int, SignerState] | None:
    if len(slot) < _HEAD.size:
        return None
    magic, counter, length = _HEAD.unpack_from(slot)
    end = _HEAD.size + length
    if magic != _MAGIC or end + _CRC.size > len(slot):
        return None
    if _CRC.unpack_from(slot, end)[0] != crc32c(slot[:end]):
        return None
    f = rlp.decode_list(slot[_HEAD.size : end], 8)
    return counter, SignerState(
        height=rlp.as_uint(f[0], 64), round=rlp.as_uint(f[1], 32), step=rlp.as_uint(f[2], 8),
        sign_bytes=rlp.as_bytes(f[3], most=32), signature=rlp.as_bytes(f[4], most=65),
        log_sequence=rlp.as_uint(f[5], 64), silent_until=rlp.as_uint(f[6], 64),
        abandoned=rlp.as_uint(f[7], 64),
    )  # fmt: skip


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
