"""Ordered bytes to bytes, written in atomic synced batches: LevelDB on disk, or memory in tests.

The only file that knows LevelDB. It refuses to know what the keys mean (chain.store does). Both forms may be read from
any thread while one thread writes; a batch becomes visible whole.
"""

import errno
import threading
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import plyvel

CACHE_BYTES = 32 * 1024 * 1024
"""LevelDB's block cache: the upper levels of the state trie stay in memory."""
WRITE_BUFFER_BYTES = 8 * 1024 * 1024
BLOOM_BITS = 10
"""Per key; a look-up of an absent key touches no table (about 1 % false positives)."""

_OPEN: set[Path] = set()
"""Folders open in this process. LevelDB's second open in one process fails, but drops the first one's lock against
other processes on the way (closing any descriptor of a file releases its fcntl locks), so it must not be tried."""
_OPEN_LOCK = threading.Lock()

Batch = Iterable[tuple[bytes, bytes | None]]
"""Keys with their new values; None deletes."""


class KVError(Exception):
    """The store cannot serve: this node's problem, never a peer's. The text names the path and says what to do."""


class KVLocked(KVError):
    """Another process (or this one) holds the store."""


class KVFull(KVError):
    """No space on the disk; what was committed is intact."""


class KVCorrupt(KVError):
    """Bytes on the disk are not what was written."""


class KV(Protocol):
    """What chain.store needs of a store."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. Raises KVCorrupt, KVError."""

    def write(self, batch: Batch, sync: bool = True) -> None:
        """All of the batch or nothing; with `sync` it survives a power cut from then on. Raises KVFull, KVError."""

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key begins with `prefix`, in key order. Raises KVCorrupt, KVError."""

    def close(self) -> None:
        """Give the store back; reading or writing afterwards raises KVError."""


class LevelKV:
    """LevelDB in a folder of its own. Checksums are verified on every read (LevelDB's default is not to)."""

    def __init__(self, path: Path | str) -> None:
        """Open or create. Raises KVLocked, KVFull, KVCorrupt, KVError."""
        self.path = Path(path)
        self._claim()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._db: Any = plyvel.DB(
                str(self.path),
                create_if_missing=True,
                paranoid_checks=True,
                lru_cache_size=CACHE_BYTES,
                write_buffer_size=WRITE_BUFFER_BYTES,
                bloom_filter_bits=BLOOM_BITS,
            )
        except (plyvel.Error, OSError) as error:
            self._release()
            raise self._translated(error) from error

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except (plyvel.Error, OSError, RuntimeError) as error:
            raise self._translated(error) from error
        return value

    def write(self, batch: Batch, sync: bool = True) -> None:
        changes = list(batch)
        try:
            with self._db.write_batch(sync=sync) as writer:
                for key, value in changes:
                    if value is None:
                        writer.delete(key)
                    else:
                        writer.put(key, value)
        except (plyvel.Error, OSError, RuntimeError) as error:
            raise self._translated(error) from error

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._db.iterator(prefix=prefix, verify_checksums=True) as pairs:
                yield from pairs
        except (plyvel.Error, OSError, RuntimeError) as error:
            raise self._translated(error) from error

    def close(self) -> None:
        # Let go of LevelDB now: a cache somewhere may keep this object until the interpreter is half gone.
        self._db.close()
        self._db = _Closed()
        self._release()

    def _claim(self) -> None:
        with _OPEN_LOCK:
            if self.path.resolve() in _OPEN:
                raise KVLocked(f"the database at {self.path} is in use by this process already")
            _OPEN.add(self.path.resolve())

    def _release(self) -> None:
        with _OPEN_LOCK:
            _OPEN.discard(self.path.resolve())

    def _translated(self, error: Exception) -> KVError:
        """What LevelDB reports only in words, as one of our errors."""
        text = str(error)
        if isinstance(error, plyvel.CorruptionError):
            return KVCorrupt(f"the database at {self.path} is damaged: {text}; restore it or let the node sync again")
        if "LOCK" in text and ("already held" in text or "temporarily unavailable" in text):
            return KVLocked(f"the database at {self.path} is in use by another process")
        if "No space left on device" in text or getattr(error, "errno", None) == errno.ENOSPC:
            return KVFull(f"no space left for the database at {self.path}: free some; what was committed is intact")
        if isinstance(error, RuntimeError):
            return KVError(f"the database at {self.path} is closed")
        return KVError(f"the database at {self.path} cannot be used: {text}")


class _Closed:
    """Stands where LevelDB was."""

    def get(self, *_: object, **__: object) -> None:
        raise RuntimeError("closed")

    write_batch = iterator = get

    def close(self) -> None:
        """Closing twice is no mistake."""


class MemoryKV:
    """The same in memory, for tests and throw-away chains."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._lock = threading.Lock()
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._values.get(key)

    def write(self, batch: Batch, sync: bool = True) -> None:
        self._check_open()
        changes = list(batch)
        with self._lock:
            for key, value in changes:
                if value is None:
                    if self._values.pop(key, None) is not None:
                        del self._keys[bisect_left(self._keys, key)]
                    continue
                if key not in self._values:
                    insort(self._keys, key)
                self._values[key] = value

    def iterate(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        with self._lock:
            start = bisect_left(self._keys, prefix)
            found = []
            for key in self._keys[start:]:
                if not key.startswith(prefix):
                    break
                found.append((key, self._values[key]))
        yield from found

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise KVError("the database in memory is closed")
