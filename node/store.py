"""Models on this node's disk: where they lie, how much room they may take, which are whole and checked.

    models/<id>          whole and checked: served to tasks and to peers
    models/<id>.part     being put together; goes on where it was after a crash

and the models that ship with the program, where they are. Synchronous: the node's fetches and the command line use it
alike, and hold each other off with locks. Where chunks come from is node.travel's business, and a local folder's here.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Self

from inference.chunks import ChunkReader, ChunkWriter, read_manifest, verified_bytes
from inference.model import MANIFEST_NAME
from inference.program import Manifest, ProgramError, decode_manifest
from inference.tokenizer import KIND, TOKENIZER_NAME
from primitives.hashing import keccak

MIB = 1 << 20
FREE_BYTES_MIN = 256 * MIB
"""What models leave free on the disk: the chain needs it."""
FAILED_NAME = "failed"
"""In a .part whose check failed: why. Everything in it is hashed again before it goes on."""
LOCK_NAME = "LOCK"
REASON_CHARS_MAX = 1000


class StoreRefused(Exception):
    """The store does not take or does not have this model; the text says what to do."""


@dataclass(frozen=True)
class Held:
    """A model in the store. state: ready, partial or failed (with the reason)."""

    model: bytes
    state: str
    reason: str
    name: str
    licence: str
    done_bytes: int
    total_bytes: int
    shipped: bool


class ModelStore:
    """The folder of models of one node."""

    def __init__(self, folder: Path, quota_mib: int) -> None:
        self.folder = folder
        self._quota_bytes = quota_mib * MIB
        shipped = Path(str(files("genesis.models")))
        found = [path for path in sorted(shipped.iterdir()) if (path / MANIFEST_NAME).exists()]
        self._shipped = {keccak(read_manifest(path)): path for path in found}

    def folder_of(self, model: bytes) -> Path | None:
        """Where a whole and checked model lies; None when it is not here."""
        path = self.folder / model.hex()
        return path if path.is_dir() else self._shipped.get(model)

    def part_folder(self, model: bytes) -> Path:
        """Where it is put together."""
        return self.folder / f"{model.hex()}.part"

    def unfinished(self) -> list[bytes]:
        """Models that were begun and are not whole; those that failed their check wait for somebody to ask again."""
        parts = [(model, path) for model, path in self._entries() if path.suffix == ".part"]
        return [m for m, path in parts if self.folder_of(m) is None and not (path / FAILED_NAME).exists()]

    def held(self) -> list[Held]:
        """Everything here, those that ship first."""
        found = [self._held(model, path, True) for model, path in self._shipped.items()]
        return found + [self._held(model, path, False) for model, path in self._entries() if model not in self._shipped]

    def used_bytes(self, except_for: bytes | None = None) -> int:
        """Bytes of the folder; what is being put together counts with its full size."""
        return sum(_bytes_in(path) for model, path in self._entries() if model != except_for)

    def open(self, model: bytes) -> "Incoming":
        """Begin to put a model together, or go on; nobody else does while it is open. Raises StoreRefused, OSError."""
        if self.folder_of(model) is not None:
            raise StoreRefused(f"model 0x{model.hex()} is here already")
        return Incoming(self, model)

    def remove(self, model: bytes) -> int:
        """Delete a model, whole or not; the bytes that it took. Raises StoreRefused, OSError."""
        if model in self._shipped:
            raise StoreRefused(f"model 0x{model.hex()} ships with the program")
        paths = [path for found, path in self._entries() if found == model]
        if not paths:
            raise StoreRefused(f"model 0x{model.hex()} is not here")
        freed = 0
        for path in paths:
            with _locked_folder(path):
                freed += _bytes_in(path)
                shutil.rmtree(path)
        return freed

    @contextmanager
    def _room_for(self, model: bytes, needed: int) -> Iterator[None]:
        """Holds the quota's lock. Raises StoreRefused with the bytes that are missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK_NAME).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            left = self._quota_bytes - self.used_bytes(except_for=model)
            if needed > left:
                raise StoreRefused(
                    f"model 0x{model.hex()} needs {needed:,} bytes, {max(left, 0):,} are left of the quota of "
                    f"{self._quota_bytes:,}: `labora model remove` frees some, model_quota_mib raises it"
                )
            missing = needed - _blocks_in(self.part_folder(model))
            free = shutil.disk_usage(self.folder).free - FREE_BYTES_MIN
            if missing > free:
                raise StoreRefused(
                    f"model 0x{model.hex()} needs {missing:,} bytes more, the disk of {self.folder} has "
                    f"{max(free, 0):,} beside the {FREE_BYTES_MIN:,} that stay free"
                )
            yield

    def _entries(self) -> Iterator[tuple[bytes, Path]]:
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.is_dir() and path.suffix in ("", ".part") and len(path.stem) == 64:
                try:
                    yield bytes.fromhex(path.stem), path
                except ValueError:
                    continue  # somebody else's folder

    def _held(self, model: bytes, path: Path, shipped: bool) -> Held:
        state, reason, name, licence, done, total = "ready", "", "", "", 0, 0
        try:
            manifest = decode_manifest(read_manifest(path))
            name, licence = manifest.name, manifest.licence
            total = sum(tensor.size_bytes for tensor in manifest.tensors)
            done = total
            if path.suffix == ".part":
                state, done = "partial", verified_bytes(path, manifest)
        except FileNotFoundError:
            state = "partial"  # its manifest has not come yet
        except (ProgramError, OSError) as error:
            state, reason = "failed", str(error)
        if path.suffix == ".part" and (path / FAILED_NAME).exists():
            state, reason = "failed", (path / FAILED_NAME).read_text(errors="replace")[:REASON_CHARS_MAX]
        return Held(model, state, reason, name, licence, done, total, shipped)


class Incoming(AbstractContextManager["Incoming"]):
    """A model that is being put together. Not shared between threads."""

    def __init__(self, store: ModelStore, model: bytes) -> None:
        self.model = model
        self.folder = store.part_folder(model)
        self.manifest: Manifest | None = None
        self._store = store
        self._writer: ChunkWriter | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        try:
            self._reopen()
        except BaseException:  # whatever it was: the lock is let go, and it passes on
            self.close()
            raise

    @property
    def writer(self) -> ChunkWriter:
        """The chunks; there once the manifest is."""
        assert self._writer is not None
        return self._writer

    @property
    def wants_tokenizer(self) -> bool:
        """Whether the manifest names a tokenizer.json that is not here."""
        assert self.manifest is not None
        return self.manifest.tokenizer != KIND and not (self.folder / TOKENIZER_NAME).exists()

    def put_manifest(self, data: bytes) -> None:
        """Take the manifest, and the room that it asks for. Raises StoreRefused, ProgramError, OSError."""
        if keccak(data) != self.model:
            raise ProgramError(f"the manifest is that of model 0x{keccak(data).hex()}, not 0x{self.model.hex()}")
        manifest = decode_manifest(data)
        needed = sum(tensor.size_bytes for tensor in manifest.tensors)
        with self._store._room_for(self.model, needed + len(data)):
            write_whole(self.folder / MANIFEST_NAME, data)
            self._begin(manifest)

    def is_tokenizer(self, data: bytes) -> bool:
        """Whether this is the tokenizer.json that the manifest names."""
        assert self.manifest is not None
        return hashlib.sha256(data).hexdigest() == self.manifest.tokenizer

    def put_tokenizer(self, data: bytes) -> None:
        """Take it. Raises StoreRefused, OSError."""
        assert self.is_tokenizer(data)
        with self._store._room_for(self.model, _bytes_in(self.folder) + len(data)):
            write_whole(self.folder / TOKENIZER_NAME, data)

    def fail(self, reason: str) -> None:
        """The check of the whole model did not pass; it stays here, and is never served."""
        (self.folder / FAILED_NAME).write_text(reason[:REASON_CHARS_MAX])

    def publish(self) -> Path:
        """The check passed: from now on the model counts. Returns its folder."""
        assert not list(self.writer.missing()) and not self.wants_tokenizer
        self.writer.sync()
        target = self._store.folder / self.model.hex()
        os.rename(self.folder, target)
        _sync_folder(self._store.folder)
        return target

    def close(self) -> None:
        """Let go of it, as far as it came."""
        if self._writer is not None:
            self._writer.__exit__()
            self._writer = None
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _reopen(self) -> None:
        """Go on with what is here; a manifest that is not this model's is of a torn write."""
        try:
            data = read_manifest(self.folder)
        except FileNotFoundError:
            return
        if keccak(data) != self.model:
            (self.folder / MANIFEST_NAME).unlink()
            return
        self._begin(decode_manifest(data))
        if (self.folder / FAILED_NAME).exists():
            self.writer.recheck()
            tokenizer = self.folder / TOKENIZER_NAME
            if tokenizer.exists() and not self.is_tokenizer(tokenizer.read_bytes()):
                tokenizer.unlink()
            (self.folder / FAILED_NAME).unlink()

    def _begin(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._writer = ChunkWriter(self.folder, manifest)


def copy_from(incoming: Incoming, source: Path, progress: Callable[[int, int], None]) -> None:
    """Fill it from a model's folder on this machine, chunk by verified chunk; progress(bytes done, bytes in all).
    Raises StoreRefused, ProgramError, OSError."""
    with ChunkReader(source) as reader:
        if incoming.manifest is None:
            incoming.put_manifest(reader.manifest_bytes)
        if incoming.wants_tokenizer:
            data = (source / TOKENIZER_NAME).read_bytes()
            if not incoming.is_tokenizer(data):
                raise ProgramError(f"{source / TOKENIZER_NAME} is not the one that the manifest names")
            incoming.put_tokenizer(data)
        writer = incoming.writer
        for number in writer.missing():
            writer.put(number, *reader.chunk(number))
            progress(writer.done_bytes, writer.chunks.size_bytes)


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder. Raises StoreRefused when another holds it."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreRefused(f"{folder} is being worked on by another process or fetch") from error
    if not folder.exists() or os.fstat(fd).st_ino != folder.stat().st_ino:
        os.close(fd)  # it was finished or removed between the two lines above
        raise StoreRefused(f"{folder} was finished or removed a moment ago; try again")
    return fd


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    fd = _lock(folder)
    try:
        yield
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes) -> None:
    """A file, whole or not at all."""
    part = path.with_name(path.name + ".new")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bytes_in(folder: Path) -> int:
    """Sizes of its files; a file that another process has just removed counts as nothing."""
    return sum(stat.st_size for stat in _stats(folder))


def _blocks_in(folder: Path) -> int:
    """Bytes that the disk has given to its files: those with holes take less than their size."""
    return sum(stat.st_blocks * 512 for stat in _stats(folder))


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            yield path.stat()
        except FileNotFoundError:
            continue
