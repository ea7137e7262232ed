"""A GGUF file, read without trust: its metadata, where each tensor lies, and rows of a tensor as float32. Every count,
length, type and offset is checked against the file before anything is allocated for it; the layout is ggml's
docs/gguf.md, versions 2 and 3, little-endian.

The structure is read here with bounds of our own; only whole blocks of a tensor whose size is known are given to the
`gguf` package, which turns quantised formats into floats. Knows no architecture.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from inference.program import ProgramError

SUFFIX = ".gguf"
MAGIC, VERSIONS = b"GGUF", (2, 3)
HEADER_BYTES_MAX = 128 << 20  # metadata and the list of tensors: vocabularies take some 10 MB
KEYS_MAX, TENSORS_MAX, DIMENSIONS_MAX = 4096, 1 << 16, 4
NAME_BYTES_MAX, STRING_BYTES_MAX = 1024, 8 << 20  # a chat template takes some KB
ARRAY_ITEMS_MAX = 1 << 22
ALIGNMENT_DEFAULT, ALIGNMENT_MAX = 32, 1 << 16

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
BOOL, STRING, ARRAY = 7, 8, 9
# Tensor types: name, values in a block, bytes of a block. The first four are read here, the rest by the package.
PLAIN = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 28: ("F64", 1, 8), 30: ("BF16", 1, 2),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136),
}  # fmt: skip


class FormatUnavailable(RuntimeError):
    """The package that reads a quantised format is not installed."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies. `shape` has its longest stride first, as numpy has: (outputs, inputs) for a weight."""

    path: Path
    name: str
    type_id: int
    shape: tuple[int, ...]
    begin: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (of the whole tensor when it has one dimension)."""
        _, block, block_bytes = TYPES[self.type_id]
        return self.shape[-1] // block * block_bytes

    def rows(self, begin: int, end: int) -> np.ndarray:
        """float32 rows [begin, end); values [begin, end) of a tensor with one dimension."""
        whole = self.shape if len(self.shape) > 1 else (1, *self.shape)
        first, last = (begin, end) if len(self.shape) > 1 else (0, 1)
        row_bytes = self.row_bytes * math.prod(whole[1:-1])
        with self.path.open("rb") as file:
            file.seek(self.begin + first * row_bytes)
            data = file.read((last - first) * row_bytes)
        if len(data) != (last - first) * row_bytes:
            raise ProgramError(f"{self.path} shrank while it was read")
        values = _floats(data, self.type_id, self.row_bytes).reshape(last - first, *whole[1:])
        return values if len(self.shape) > 1 else values[0, begin:end]


@dataclass(frozen=True, slots=True)
class Gguf:
    """A file that holds what it promises. Metadata values are int, float, bool, str, list of str, or a numpy array."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path) -> Gguf:
    """Metadata and tensor list. Raises ProgramError (what is wrong with the file), FormatUnavailable or OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        cursor = _Cursor(file, path, min(size, HEADER_BYTES_MAX))
        if (magic := cursor.take(4, "the magic")) != MAGIC:
            raise ProgramError(f"{path} begins with {magic!r}, a GGUF file with {MAGIC!r}")
        if (version := cursor.number("<I", "the version")) not in VERSIONS:
            raise ProgramError(f"{path} has GGUF version {version}, supported are {VERSIONS} (little-endian)")
        tensor_count = cursor.count(TENSORS_MAX, 24, "tensors")
        key_count = cursor.count(KEYS_MAX, 13, "metadata keys")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = cursor.text(NAME_BYTES_MAX, "a metadata key")
            if key in metadata:
                raise ProgramError(f"{path} has the metadata key {key[:200]!r} twice")
            metadata[key] = cursor.value(cursor.number("<I", key[:200]), key[:200])
        alignment = metadata.get("general.alignment", ALIGNMENT_DEFAULT)
        if type(alignment) is not int or not 1 <= alignment <= ALIGNMENT_MAX or alignment & (alignment - 1):
            raise ProgramError(f"{path}: general.alignment is {str(alignment)[:80]}, must be a power of two "
                               f"of at most {ALIGNMENT_MAX}")  # fmt: skip
        found = [_tensor_info(cursor) for _ in range(tensor_count)]
        data = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, type_id, offset in found:
        if name in tensors:
            raise ProgramError(f"{path} has the tensor {name!r} twice")
        tensors[name] = _tensor(path, size, data, name, shape, type_id, offset)
    return Gguf(path, metadata, tensors)


def _tensor_info(cursor: "_Cursor") -> tuple[str, list[int], int, int]:
    name = cursor.text(NAME_BYTES_MAX, "a tensor's name")
    dimensions = cursor.number("<I", name)
    if not 1 <= dimensions <= DIMENSIONS_MAX:
        raise ProgramError(f"{cursor.path}: {name} has {dimensions} dimensions, allowed 1..{DIMENSIONS_MAX}")
    shape = [cursor.number("<Q", name) for _ in range(dimensions)]
    return name, shape, cursor.number("<I", name), cursor.number("<Q", name)


def _tensor(path: Path, size: int, data: int, name: str, shape: list[int], type_id: int, offset: int) -> GgufTensor:
    """A tensor that lies inside the file, in whole blocks. The file gives the shortest stride first."""
    if type_id not in TYPES:
        supported = ", ".join(known for known, _, _ in TYPES.values())
        raise ProgramError(f"{path}: {name} has ggml type {type_id}, supported are {supported}")
    kind, block, block_bytes = TYPES[type_id]
    if any(not 1 <= extent <= size * block for extent in shape) or shape[0] % block:
        raise ProgramError(f"{path}: {name} has shape {shape}; a row of {kind} is a multiple of {block} values")
    needed = math.prod(shape) // block * block_bytes
    if data + offset + needed > size:
        raise ProgramError(f"{path}: {name} needs {needed} bytes at {data + offset}, the file has {size}")
    if kind not in PLAIN and find_spec("gguf") is None:
        raise FormatUnavailable(f"{path}: {name} is {kind}, which needs the package 'gguf' (pip install gguf)")
    return GgufTensor(path, name, type_id, tuple(reversed(shape)), data + offset)


def _floats(data: bytes, type_id: int, row_bytes: int) -> np.ndarray:
    """float32 of whole rows."""
    kind = TYPES[type_id][0]
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if kind in PLAIN:
        with np.errstate(over="ignore"):
            return np.frombuffer(data, PLAIN[kind]).astype(np.float32)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    octets = np.frombuffer(data, np.uint8).reshape(-1, row_bytes)
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is not finite
        return np.asarray(dequantize(octets, GGMLQuantizationType(type_id)), np.float32)


class _Cursor:
    """Reads the header front to back and never past `end`."""

    def __init__(self, file: BinaryIO, path: Path, end: int) -> None:
        self.path, self.position, self._file, self._end = path, 0, file, end

    def take(self, count: int, what: str) -> bytes:
        """The next bytes. Raises ProgramError where they would end past the header's bound or the file."""
        if count > self._end - self.position:
            raise ProgramError(f"{self.path}: {what} needs {count} bytes at {self.position}, there are "
                               f"{self._end - self.position}")  # fmt: skip
        data = self._file.read(count)
        if len(data) != count:
            raise ProgramError(f"{self.path} shrank while it was read")
        self.position += count
        return data

    def number(self, form: str, what: str) -> Any:
        """One little-endian number."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, limit: int, least_bytes: int, what: str) -> int:
        """How many things follow, each of at least `least_bytes`."""
        count = self.number("<Q", what)
        if count > min(limit, (self._end - self.position) // least_bytes):
            raise ProgramError(f"{self.path} promises {count} {what}, allowed {limit} within the file's "
                               f"{self._end} bytes")  # fmt: skip
        return int(count)

    def text(self, limit: int, what: str) -> str:
        """A string of at most `limit` bytes."""
        length = self.number("<Q", what)
        if length > limit:
            raise ProgramError(f"{self.path}: {what} has {length} bytes, allowed {limit}")
        data = self.take(length, what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ProgramError(f"{self.path}: {what} is no UTF-8: {data[:40]!r}") from error

    def value(self, type_id: int, what: str) -> Any:
        """One metadata value."""
        if type_id == STRING:
            return self.text(STRING_BYTES_MAX, what)
        if type_id == BOOL:
            return self._bool(self.take(1, what)[0], what)
        if type_id in SCALARS:
            return self.number(SCALARS[type_id], what)
        if type_id != ARRAY:
            raise ProgramError(f"{self.path}: {what} has metadata type {type_id}, GGUF has 0..12")
        item = self.number("<I", what)
        if item == STRING:
            return [self.text(STRING_BYTES_MAX, what) for _ in range(self.count(ARRAY_ITEMS_MAX, 8, what))]
        if item == BOOL:
            items = np.frombuffer(self.take(self.count(ARRAY_ITEMS_MAX, 1, what), what), np.uint8)
            if items.size and items.max() > 1:
                self._bool(int(items.max()), what)
            return items.astype(bool)
        if item not in SCALARS:
            raise ProgramError(f"{self.path}: {what} is an array of metadata type {item}, which is not supported")
        dtype = np.dtype(SCALARS[item])
        count = self.count(ARRAY_ITEMS_MAX, dtype.itemsize, what)
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)

    def _bool(self, value: int, what: str) -> bool:
        if value > 1:
            raise ProgramError(f"{self.path}: {what} is {value}, a bool is 0 or 1")
        return bool(value)
