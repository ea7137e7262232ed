"""A model's folder in chunks: read one by one with the path that proves each, and put together from them in any order.

Owns the numbering of a model's chunks and the file of digests, which is both the journal of what has been verified and
what paths are made from. Which chunk comes from whom, and what a folder is called, is the node's business; what is
hashed is model.py's. Nothing is written that has not been verified.
"""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from inference.model import (
    MANIFEST_NAME,
    TENSORS_NAME,
    chunk_count,
    chunk_digest,
    chunk_span,
    tensor_layout,
    tensor_offsets,
)
from inference.program import MANIFEST_BYTES_MAX, Manifest, ProgramError, Tensor, decode_manifest
from primitives import merkle
from primitives.hashing import HASH_BYTES, ZERO_HASH, keccak

DIGESTS_NAME = "digests"
"""32 bytes a chunk, in their order; zeros: not verified yet."""
TREES_MAX = 4
"""Trees of tensors kept by a reader: the chunks that peers ask for lie together."""
READ_DIGESTS = 4096


class Chunks:
    """The numbers of a manifest's chunks: those of its first tensor, then those of the second, and so on."""

    def __init__(self, manifest: Manifest) -> None:
        self.tensors = manifest.tensors
        self._first: list[int] = []
        self.count = 0
        for tensor in self.tensors:
            self._first.append(self.count)
            self.count += chunk_count(tensor)
        self.size_bytes = sum(tensor.size_bytes for tensor in self.tensors)

    def locate(self, number: int) -> tuple[int, int]:
        """(position of its tensor, index within it) of a chunk."""
        assert 0 <= number < self.count, number
        position = bisect_right(self._first, number) - 1
        return position, number - self._first[position]

    def numbers(self, position: int) -> range:
        """The chunks of one tensor."""
        return range(self._first[position], self._first[position] + chunk_count(self.tensors[position]))

    def length(self, number: int) -> int:
        """Bytes of a chunk."""
        position, index = self.locate(number)
        begin, end = chunk_span(self.tensors[position], index)
        return end - begin

    def verified(self, number: int, data: bytes, siblings: Sequence[bytes]) -> bytes:
        """The chunk's digest. Raises ProgramError unless the data are those of the manifest."""
        position, index = self.locate(number)
        tensor = self.tensors[position]
        if len(data) != self.length(number):
            raise ProgramError(f"chunk {index} of {tensor.name} has {len(data)} bytes, not {self.length(number)}")
        digest = chunk_digest(tensor, index, data)
        if merkle.root_by_path(digest, index, chunk_count(tensor), siblings) != tensor.root:
            raise ProgramError(f"chunk {index} of {tensor.name} does not lead to its root {tensor.root.hex()}")
        return digest


def read_manifest(folder: Path) -> bytes:
    """A manifest's bytes, bounded. Raises ProgramError, OSError."""
    path = folder / MANIFEST_NAME
    with path.open("rb") as file:
        data = file.read(MANIFEST_BYTES_MAX + 1)
    if len(data) > MANIFEST_BYTES_MAX:
        raise ProgramError(f"{path} has more than {MANIFEST_BYTES_MAX} bytes")
    return data


class ChunkReader(AbstractContextManager["ChunkReader"]):
    """A whole folder, from which chunks are read. Raises ProgramError, OSError."""

    def __init__(self, folder: Path) -> None:
        self.manifest_bytes = read_manifest(folder)
        self.model_id = keccak(self.manifest_bytes)
        self.manifest = decode_manifest(self.manifest_bytes)
        self.chunks = Chunks(self.manifest)
        self._path = folder / TENSORS_NAME
        self._digests = _known_digests(folder / DIGESTS_NAME, self.chunks)
        self._trees: OrderedDict[int, list[list[bytes]]] = OrderedDict()
        self._file = self._path.open("rb")
        try:
            self._offsets = tensor_offsets(self._file, self._path, self.manifest)
        except ProgramError:
            self._file.close()
            raise

    def chunk(self, number: int) -> tuple[bytes, list[bytes]]:
        """A chunk's bytes and its path. Raises ProgramError when the file is not what the manifest says."""
        position, index = self.chunks.locate(number)
        return self._read(position, index), merkle.path(self._tree(position), index)

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def _read(self, position: int, index: int) -> bytes:
        tensor = self.chunks.tensors[position]
        begin, end = chunk_span(tensor, index)
        data = os.pread(self._file.fileno(), end - begin, self._offsets[tensor.name] + begin)
        if len(data) != end - begin:
            raise ProgramError(f"{self._path} shrank while it was read")
        return data

    def _tree(self, position: int) -> list[list[bytes]]:
        tree = self._trees.get(position)
        if tree is None:
            tree = self._make_tree(position, self.chunks.tensors[position])
            self._trees[position] = tree
            if len(self._trees) > TREES_MAX:
                self._trees.popitem(last=False)
        else:
            self._trees.move_to_end(position)
        return tree

    def _make_tree(self, position: int, tensor: Tensor) -> list[list[bytes]]:
        """From the file of digests where there is one, else from the tensor."""
        numbers = self.chunks.numbers(position)
        if self._digests is not None:
            slots = self._digests[numbers.start * HASH_BYTES : numbers.stop * HASH_BYTES]
            tree = merkle.levels([slots[i : i + HASH_BYTES] for i in range(0, len(slots), HASH_BYTES)])
            if tree[-1][0] == tensor.root:
                return tree
        tree = merkle.levels([chunk_digest(tensor, i, self._read(position, i)) for i in range(len(numbers))])
        if tree[-1][0] != tensor.root:
            raise ProgramError(f"{self._path}: {tensor.name} hashes to {tree[-1][0].hex()}, not {tensor.root.hex()}")
        return tree


class ChunkWriter(AbstractContextManager["ChunkWriter"]):
    """A folder that is being put together; opened again, it goes on where it was. Raises OSError.

    A chunk's digest is written after its bytes. After a power cut the disk may have kept the one and not the other:
    `recheck` finds out, and so does everybody who loads the model.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.chunks = Chunks(manifest)
        self.done_bytes = 0
        self.done_chunks = 0
        header, self._offsets, size = tensor_layout(manifest.tensors)
        self._tensors = _open_sized(folder / TENSORS_NAME, size)
        try:
            self._digests = _open_sized(folder / DIGESTS_NAME, self.chunks.count * HASH_BYTES)
        except OSError:
            os.close(self._tensors)
            raise
        os.pwrite(self._tensors, header, 0)
        for number, slot in enumerate(self._slots()):
            if slot != ZERO_HASH:
                self._count(number, 1)

    def missing(self) -> Iterator[int]:
        """Numbers of the chunks that are not here, ascending."""
        return (number for number, slot in enumerate(self._slots()) if slot == ZERO_HASH)

    def put(self, number: int, data: bytes, siblings: Sequence[bytes]) -> None:
        """Write a chunk that is missing. Raises ProgramError when it is not the manifest's."""
        digest = self.chunks.verified(number, data, siblings)
        os.pwrite(self._tensors, data, self._offset(number))
        os.pwrite(self._digests, digest, number * HASH_BYTES)
        self._count(number, 1)

    def recheck(self) -> int:
        """Hash everything that counts as verified again and forget what is not what it was; how many chunks."""
        lost = 0
        for number, slot in enumerate(self._slots()):
            if slot == ZERO_HASH:
                continue
            position, index = self.chunks.locate(number)
            data = os.pread(self._tensors, self.chunks.length(number), self._offset(number))
            if chunk_digest(self.chunks.tensors[position], index, data) != slot:
                os.pwrite(self._digests, ZERO_HASH, number * HASH_BYTES)
                self._count(number, -1)
                lost += 1
        return lost

    def sync(self) -> None:
        """On the disk when this returns."""
        os.fsync(self._tensors)
        os.fsync(self._digests)

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._tensors)
        os.close(self._digests)

    def _count(self, number: int, sign: int) -> None:
        self.done_chunks += sign
        self.done_bytes += sign * self.chunks.length(number)

    def _offset(self, number: int) -> int:
        position, index = self.chunks.locate(number)
        tensor = self.chunks.tensors[position]
        return self._offsets[tensor.name] + chunk_span(tensor, index)[0]

    def _slots(self) -> Iterator[bytes]:
        for first in range(0, self.chunks.count, READ_DIGESTS):
            count = min(READ_DIGESTS, self.chunks.count - first)
            slots = os.pread(self._digests, count * HASH_BYTES, first * HASH_BYTES)
            yield from (slots[i : i + HASH_BYTES] for i in range(0, len(slots), HASH_BYTES))


def verified_bytes(folder: Path, manifest: Manifest) -> int:
    """Bytes of the chunks that a folder's journal says are here; changes nothing."""
    chunks = Chunks(manifest)
    digests = _known_digests(folder / DIGESTS_NAME, chunks)
    if digests is None:
        return 0
    here = (n for n in range(chunks.count) if digests[n * HASH_BYTES : (n + 1) * HASH_BYTES] != ZERO_HASH)
    return sum(chunks.length(number) for number in here)


def _known_digests(path: Path, chunks: Chunks) -> bytes | None:
    """What the folder knows of its chunks' digests; None when it knows nothing."""
    try:
        if path.stat().st_size != chunks.count * HASH_BYTES:
            return None
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _open_sized(path: Path, size: int) -> int:
    """A file of exactly this size for reading and writing: as it is, or begun anew, full of holes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(fd).st_size != size:
            os.ftruncate(fd, 0)
            os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd
