"""A program on disk: one folder with manifest.json and model.safetensors. Owns reading it without trust (every size
is checked against the manifest and the file before anything is allocated, every tensor against its Merkle root) and
writing it.

Knows no executor and no float. A safetensors header is used to find the tensors and never trusted for more.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from inference.program import (
    CHUNK_BYTES,
    DTYPE_BYTES,
    MANIFEST_BYTES_MAX,
    SECOND_TERM_MAX,
    TENSOR_PIECE_BYTES,
    Linear,
    Manifest,
    ProgramError,
    Tensor,
    decode_manifest,
)
from primitives import merkle

MANIFEST_NAME, TENSORS_NAME = "manifest.json", "model.safetensors"
HEADER_BYTES_MAX = 16 << 20  # 400,000 tensors; a header is parsed as JSON and costs ten times its size
SAFETENSORS_DTYPES = {"int8": "I8", "int16": "I16", "uint16": "U16", "int32": "I32"}
TENSOR_DOMAIN = b"labora/tensor"


@dataclass(frozen=True, slots=True)
class Model:
    """A verified program: manifest, id, and read-only little-endian arrays by tensor name."""

    manifest: Manifest
    model_id: bytes
    tensors: Mapping[str, np.ndarray]

    def linear(self, name: str) -> Linear:
        """The declaration of one product."""
        return next(linear for linear in self.manifest.linears if linear.name == name)


def load(folder: Path) -> Model:
    """Read and verify a model folder. Raises ProgramError (what is wrong with it) or OSError (it cannot be read)."""
    folder = Path(folder)
    manifest_path, tensors_path = folder / MANIFEST_NAME, folder / TENSORS_NAME
    if (size := manifest_path.stat().st_size) > MANIFEST_BYTES_MAX:
        raise ProgramError(f"{manifest_path} has {size} bytes, allowed {MANIFEST_BYTES_MAX}")
    encoded = manifest_path.read_bytes()
    manifest = decode_manifest(encoded)
    tensors = _read_tensors(tensors_path, manifest)
    for tensor in manifest.tensors:
        if (found := tensor_root(tensor, tensors[tensor.name])) != tensor.root:
            raise ProgramError(f"{tensors_path}: {tensor.name} hashes to {found.hex()}, not {tensor.root.hex()}")
    model = Model(manifest, manifest.model_id(), tensors)
    check_values(model)
    return model


def check_values(model: Model) -> None:
    """Refuse tensors whose values would break an overflow proof: weights past their bound, tables out of range."""
    tensors = model.tensors
    for linear in model.manifest.linears:
        _check_weight(f"{linear.name}.weight", tensors, linear.bound)
        if linear.terms == 2:
            _check_weight(f"{linear.name}.weight2", tensors, SECOND_TERM_MAX)
    embedding_low = int(tensors["embedding.weight"].min())
    if embedding_low < -127:
        raise ProgramError(f"embedding.weight holds {embedding_low}, allowed -127..127")
    gate = model.manifest.shape.features.gate_table
    limits = {"table.exp2": (0, 1 << 30), gate: (0, 1 << 16)}
    for name, tensor in tensors.items():
        if name.endswith(".gain"):
            limits[name] = (-gain_limit(len(tensor)), gain_limit(len(tensor)))
        elif name.endswith(("cos", "sin")):
            limits[name] = (-(1 << 14), 1 << 14)
    for name, (low, high) in limits.items():
        if tensors[name].size and not (low <= int(tensors[name].min()) and int(tensors[name].max()) <= high):
            raise ProgramError(f"{name} spans {tensors[name].min()}..{tensors[name].max()}, allowed {low}..{high}")
    ends = (int(tensors[gate][0]), int(tensors[gate][-1]))
    if ends != (0, 1 << 16):
        raise ProgramError(f"{gate} begins with {ends[0]} and ends with {ends[1]}, must be 0 and 2^16")
    if int(tensors["table.exp2"][0]) != 1 << 30:
        raise ProgramError(f"table.exp2 starts with {tensors['table.exp2'][0]}, must be 2^30")


def _check_weight(name: str, tensors: Mapping[str, np.ndarray], bound: int) -> None:
    low, high = int(tensors[name].min()), int(tensors[name].max())
    if low < -bound or high > bound:
        raise ProgramError(f"{name} spans {low}..{high}, its bound is {bound}")


def gain_limit(width: int) -> int:
    """Largest norm gain (Q12) over a row of this width for which the rotated row stays below 2^52: a normalised row is
    at most 2 * sqrt(width) * 2^14, a rotation adds up to 64 of them."""
    root_bits = (width.bit_length() + 1) // 2
    return min(2**31 - 1, 1 << (52 - 6 - 15 - root_bits))


def tensor_root(tensor: Tensor, array: np.ndarray) -> bytes:
    """Merkle root over the digests of the tensor's chunks."""
    data = memoryview(np.ascontiguousarray(array)).cast("B") if array.size else memoryview(b"")
    return merkle.root_of([
        chunk_digest(tensor, i, data[slice(*chunk_span(tensor, i))]) for i in range(chunk_count(tensor))
    ])  # fmt: skip


def chunk_count(tensor: Tensor) -> int:
    """Chunks of 256 KiB that a tensor is hashed and sent in; at least one."""
    return max(1, -(-tensor.size_bytes // CHUNK_BYTES))


def chunk_span(tensor: Tensor, index: int) -> tuple[int, int]:
    """Where a chunk begins and ends in the tensor's bytes."""
    return index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, tensor.size_bytes)


def chunk_digest(tensor: Tensor, index: int, data: bytes | memoryview) -> bytes:
    """Hash of one chunk, bound to the tensor's name, dtype and shape and to the chunk's place. Within it the bytes are
    a tree over pieces of 2 KiB, so that one row, or a part of one, can be opened."""
    extent = ",".join(map(str, tensor.shape))
    head = TENSOR_DOMAIN + f"|{tensor.name}|{tensor.dtype}|{extent}|".encode()
    step = TENSOR_PIECE_BYTES
    pieces = merkle.root([bytes(data[begin : begin + step]) for begin in range(0, len(data), step)])
    return merkle.digest(head + index.to_bytes(8, "big") + pieces)


def save(folder: Path, manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> None:
    """Write the folder. The manifest is written last, so that a cut-short write is not a model."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (TENSORS_NAME + ".part")
    with TensorWriter(part, {t.name: (t.dtype, t.shape) for t in manifest.tensors}) as writer:
        for tensor in manifest.tensors:
            writer.put(tensor.name, tensors[tensor.name])
    os.replace(part, folder / TENSORS_NAME)
    (folder / MANIFEST_NAME).write_bytes(manifest.encode())


def tensor_layout(tensors: Iterable[Tensor]) -> tuple[bytes, dict[str, int], int]:
    """The safetensors file that this program writes: (header, where each tensor begins, size of the file)."""
    header: dict[str, dict[str, Any]] = {}
    begin: dict[str, int] = {}
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (-DTYPE_BYTES[tensor.dtype], tensor.name)):
        begin[tensor.name], end = end, end + tensor.size_bytes
        entry = {"dtype": SAFETENSORS_DTYPES[tensor.dtype], "shape": list(tensor.shape)}
        header[tensor.name] = entry | {"data_offsets": [begin[tensor.name], end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    data = 8 + len(encoded)
    offsets = {name: data + first for name, first in begin.items()}
    return len(encoded).to_bytes(8, "little") + encoded, offsets, data + end


class TensorWriter(AbstractContextManager["TensorWriter"]):
    """A safetensors file written in any order, some rows at a time, so that no tensor needs to be whole in memory."""

    def __init__(self, path: Path, table: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self._tensors = {name: Tensor(name, dtype, shape, b"") for name, (dtype, shape) in table.items()}
        header, self._begin, size = tensor_layout(self._tensors.values())
        self._file = path.open("w+b")
        self._file.write(header)
        self._file.truncate(size)

    def put(self, name: str, rows: np.ndarray, first_row: int = 0) -> None:
        """Write rows of a tensor, in its own dtype."""
        tensor = self._tensors[name]
        assert rows.dtype == np.dtype(tensor.dtype) and rows.shape[1:] == tensor.shape[1:], name
        assert first_row + len(rows) <= tensor.shape[0], name
        row_bytes = tensor.size_bytes // tensor.shape[0]
        self._file.seek(self._begin[name] + first_row * row_bytes)
        self._file.write(np.ascontiguousarray(rows, np.dtype(tensor.dtype).newbyteorder("<")).tobytes())

    def root(self, name: str) -> bytes:
        """Merkle root of a tensor as it was written."""
        tensor = self._tensors[name]
        self._file.seek(self._begin[name])
        data = self._file.read(tensor.size_bytes)
        return tensor_root(tensor, np.frombuffer(data, np.uint8))

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


def _read_tensors(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Every tensor of the manifest, read only when the file's size is exactly header + what the manifest declares."""
    declared = sum(tensor.size_bytes for tensor in manifest.tensors)
    with path.open("rb") as file:
        offsets = tensor_offsets(file, path, manifest)
        start = file.tell()
        data = file.read(declared)
    if len(data) != declared:
        raise ProgramError(f"{path} shrank to {len(data)} of {declared} bytes while it was read")
    tensors = {}
    for tensor in manifest.tensors:
        begin, dtype = offsets[tensor.name] - start, np.dtype(tensor.dtype).newbyteorder("<")
        flat = np.frombuffer(data, dtype, tensor.size_bytes // _width(tensor), begin)
        tensors[tensor.name] = flat.reshape(tensor.shape)
    return tensors


def tensor_offsets(file: BinaryIO, path: Path, manifest: Manifest) -> dict[str, int]:
    """Where each tensor of the manifest begins in an open safetensors file, which is left at the first byte behind its
    header. Raises ProgramError unless size and header are what the manifest asks for."""
    declared = sum(tensor.size_bytes for tensor in manifest.tensors)
    size = os.fstat(file.fileno()).st_size
    header_size = int.from_bytes(file.read(8), "little")
    if size < 8 or header_size > min(HEADER_BYTES_MAX, size - 8):
        raise ProgramError(f"{path}: header of {header_size} bytes in a file of {size}")
    if size != 8 + header_size + declared:
        raise ProgramError(f"{path} has {size} bytes, the manifest declares {8 + header_size + declared}")
    header = _header(file.read(header_size), path)
    unknown = set(header) ^ {tensor.name for tensor in manifest.tensors}
    if unknown:
        raise ProgramError(f"{path} and the manifest differ in tensors {sorted(unknown)[:4]}")
    for tensor in manifest.tensors:
        _check_entry(header[tensor.name], tensor, declared, path)
    return {t.name: 8 + header_size + int(header[t.name]["data_offsets"][0]) for t in manifest.tensors}


def _width(tensor: Tensor) -> int:
    return np.dtype(tensor.dtype).itemsize


def _header(data: bytes, path: Path) -> dict[str, dict[str, Any]]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{path}: header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProgramError(f"{path}: header is a {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    return header


def _check_entry(entry: object, tensor: Tensor, declared: int, path: Path) -> None:
    """The entry must name the manifest's dtype and shape, and a range of exactly its size inside the data."""
    if not isinstance(entry, dict) or entry.get("dtype") != SAFETENSORS_DTYPES[tensor.dtype]:
        raise ProgramError(f"{path}: {tensor.name} is not {tensor.dtype}: {str(entry)[:120]}")
    if entry.get("shape") != list(tensor.shape):
        raise ProgramError(f"{path}: {tensor.name} has shape {str(entry.get('shape'))[:80]}, not {tensor.shape}")
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(offset) is not int for offset in offsets):
        raise ProgramError(f"{path}: {tensor.name} has offsets {str(offsets)[:80]}")
    if not 0 <= offsets[0] <= declared or offsets[1] - offsets[0] != tensor.size_bytes or offsets[1] > declared:
        raise ProgramError(f"{path}: {tensor.name} lies at {offsets}, needs {tensor.size_bytes} of {declared} bytes")
