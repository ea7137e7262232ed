"""The write-ahead log: what happened to the agreement core, in order, so that a killed node remembers what it knew.

Owns segments of records in one folder, their checks and their pruning. Knows no consensus: a record is a kind (one
byte) and a payload. record = magic | length | sequence | crc(header) | kind | payload | crc, crc32c, big-endian.

Only a torn tail (the write that a crash interrupted) is cut off. A bad record with a good one after it, a gap, or a
last sequence below the one that the signer knows is a LostLog: something that was synced is gone, and the height at
which the signer stands must not be signed again.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

MAGIC = b"LWAL"
_HEADER = struct.Struct(">4sIQ")
_CRC = struct.Struct(">I")
HEADER_BYTES = _HEADER.size + _CRC.size
PAYLOAD_BYTES_MAX = 2 * 1024 * 1024
"""A block's wire body (at most 1 MiB) is the largest thing that is logged."""
SEGMENT_BYTES_MAX = 64 * 1024 * 1024
"""A height that lasts long enough to log this much goes on in a further segment."""
_SUFFIX = ".wal"


class LostLog(Exception):
    """Records that were synced are missing or damaged; the text says which."""


@dataclass(frozen=True, slots=True)
class Record:
    """One logged event."""

    sequence: int
    kind: int
    payload: bytes


class WriteAheadLog:
    """Appends records; one owner. Opened by open_log, which reads what is there first."""

    def __init__(self, folder: Path, next_sequence: int, segment: Path | None) -> None:
        self.folder = folder
        self._next_sequence = next_sequence
        self._obsolete: list[Path] = []
        self._folder_dirty = False
        self._written = 0
        self._fd = -1
        if segment is None:
            self._begin_segment()
        else:
            self._fd = os.open(segment, os.O_WRONLY | os.O_APPEND)
            self._written = os.fstat(self._fd).st_size

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record appended (0: none ever)."""
        return self._next_sequence - 1

    def append(self, kind: int, payload: bytes) -> int:
        """Add a record and return its sequence. It survives a crash once sync has returned. Raises OSError."""
        assert 0 <= kind < 256 and len(payload) <= PAYLOAD_BYTES_MAX
        if self._written >= SEGMENT_BYTES_MAX:
            self.sync()
            self._begin_segment()
        sequence = self._next_sequence
        record = encode_record(Record(sequence, kind, payload))
        view = memoryview(record)
        while view:
            view = view[os.write(self._fd, view) :]
        self._written += len(record)
        self._next_sequence += 1
        return sequence

    def sync(self) -> None:
        """Force everything appended to the disk (one fdatasync). Raises OSError."""
        os.fdatasync(self._fd)
        if self._folder_dirty:
            _sync_folder(self.folder)
            self._folder_dirty = False
        while self._obsolete:
            self._obsolete.pop().unlink(missing_ok=True)

    def rotate(self) -> None:
        """Go on in a new segment; those before it are deleted at the next sync, when the new one is safe."""
        previous = segments(self.folder)
        self._begin_segment()
        self._obsolete = [path for path in previous if path != self._segment]

    def close(self) -> None:
        """Release the file. What was appended and not synced may be lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _begin_segment(self) -> None:
        if self._fd >= 0:
            os.fdatasync(self._fd)
            os.close(self._fd)
        self._segment = self.folder / f"{self._next_sequence:016x}{_SUFFIX}"
        self._fd = os.open(self._segment, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._written = os.fstat(self._fd).st_size
        self._folder_dirty = True


def open_log(folder: Path, signer_sequence: int) -> tuple[WriteAheadLog, list[Record]]:
    """The log in `folder` ready to append, and every record that it holds, oldest first.

    signer_sequence: of the last record that was synced before the signer released something (0: none). Raises LostLog.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = segments(folder)
    records: list[Record] = []
    for index, path in enumerate(paths):
        data = path.read_bytes()
        good_bytes = 0
        for record, end in _scan(data):
            if records and record.sequence != records[-1].sequence + 1:
                raise LostLog(f"{path.name}: record {record.sequence} follows {records[-1].sequence}")
            if not records and record.sequence != _first_sequence(path):
                raise LostLog(f"{path.name} begins with record {record.sequence}")
            records.append(record)
            good_bytes = end
        if good_bytes < len(data):
            if index < len(paths) - 1 and any(_scan(later.read_bytes()) for later in paths[index + 1 :]):
                raise LostLog(f"{path.name} is damaged at byte {good_bytes} and later segments hold records")
            if _has_record_after(data, good_bytes):
                raise LostLog(f"{path.name} is damaged at byte {good_bytes} and good records follow")
            with path.open("r+b") as file:
                file.truncate(good_bytes)
                file.flush()
                os.fsync(file.fileno())
    if paths and not records:
        last = max(_first_sequence(path) for path in paths) - 1
    else:
        last = records[-1].sequence if records else 0
    if last < signer_sequence:
        raise LostLog(f"the last record is {last}, but the signer released something after record {signer_sequence}")
    log = WriteAheadLog(folder, last + 1, paths[-1] if paths else None)
    return log, records


def set_aside(folder: Path) -> Path:
    """Move a lost log out of the way, for whoever investigates, and return where it went."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.lost-{number}")).exists():
        number += 1
    folder.rename(target)
    _sync_folder(folder.parent)
    return target


def begin_log(folder: Path, first_sequence: int) -> WriteAheadLog:
    """An empty log whose first record has this sequence (above all that the signer knows, after a loss)."""
    folder.mkdir(parents=True, exist_ok=True)
    assert not segments(folder)
    return WriteAheadLog(folder, first_sequence, None)


def encode_record(record: Record) -> bytes:
    """magic | length of kind and payload | sequence | crc(header) | kind | payload | crc."""
    header = _HEADER.pack(MAGIC, 1 + len(record.payload), record.sequence)
    body = bytes([record.kind]) + record.payload
    return b"".join([header, _CRC.pack(crc32c(header)), body, _CRC.pack(crc32c(body))])


def segments(folder: Path) -> list[Path]:
    """Segment files, oldest first."""
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if len(path.stem) == 16)


def _first_sequence(path: Path) -> int:
    try:
        return int(path.stem, 16)
    except ValueError as error:
        raise LostLog(f"{path.name} is no segment of a log") from error


def _scan(data: bytes) -> list[tuple[Record, int]]:
    """Good records from the beginning up to the first bad one, each with the offset where it ends."""
    found = []
    offset = 0
    while (step := _record_at(data, offset)) is not None:
        record, offset = step
        found.append((record, offset))
    return found


def _has_record_after(data: bytes, offset: int) -> bool:
    return any(_record_at(data, start) is not None for start in _magics(data, offset + 1))


def _magics(data: bytes, offset: int) -> Iterator[int]:
    while (offset := data.find(MAGIC, offset)) >= 0:
        yield offset
        offset += 1


def _record_at(data: bytes, offset: int) -> tuple[Record, int] | None:
    """The good record at `offset` and where it ends; None for anything else."""
    body_at = offset + HEADER_BYTES
    if body_at > len(data):
        return None
    magic, length, sequence = _HEADER.unpack_from(data, offset)
    (header_crc,) = _CRC.unpack_from(data, offset + _HEADER.size)
    if magic != MAGIC or crc32c(data[offset : offset + _HEADER.size]) != header_crc:
        return None
    end = body_at + length + _CRC.size
    if not 1 <= length <= 1 + PAYLOAD_BYTES_MAX or end > len(data):
        return None
    body = data[body_at : body_at + length]
    (body_crc,) = _CRC.unpack_from(data, body_at + length)
    if crc32c(body) != body_crc:
        return None
    return Record(sequence, body[0], body[1:]), end


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
