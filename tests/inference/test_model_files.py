"""A model folder is hostile until every size, hash and value in it has been checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference import model as files
from inference import program as cip
from inference.build import build_model
from inference.model import Model, load, save
from primitives import merkle


@pytest.fixture
def folder(small: Model, tmp_path: Path) -> Path:
    save(tmp_path, small.manifest, small.tensors)
    return tmp_path


def test_what_was_saved_is_what_is_loaded(small: Model, folder: Path) -> None:
    model = load(folder)
    assert (model.model_id, model.manifest) == (small.model_id, small.manifest)
    assert all(np.array_equal(model.tensors[name], array) for name, array in small.tensors.items())
    assert (folder / "manifest.json").read_bytes() == small.manifest.encode()


def test_the_manifest_is_canonical(small: Model) -> None:
    encoded = small.manifest.encode()
    assert cip.decode_manifest(encoded) == small.manifest
    assert encoded.isascii()
    assert b" " not in encoded
    for other in (encoded + b"\n", b" " + encoded, json.dumps(json.loads(encoded), indent=1).encode(),
                  encoded.replace(b'"context":96', b'"context":96,"context":96')):  # fmt: skip
        with pytest.raises(cip.ProgramError, match="canonical"):
            cip.decode_manifest(other)


def edited(change: Callable[[dict], Any]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return cip.canonical_json(value)

    return edit


def put(*path: Any) -> Callable[[bytes], bytes]:
    """Set the entry at a path of keys to the last argument."""
    *keys, last, value = path

    def change(manifest: dict) -> None:
        for key in keys:
            manifest = manifest[key]
        manifest[last] = value

    return edited(change)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put("format", "labora-cip-2"), "runs 'labora-cip-1'"),
        (put("surprise", 1), "exactly the keys"),
        (edited(lambda m: m.pop("stop")), "exactly the keys"),
        (put("architecture", "kind", "mamba"), "'mamba' is not supported"),
        (put("architecture", "width", 1 << 29), "shape.width"),
        (put("architecture", "width", 2**70), "architecture.width"),
        (put("architecture", "width", True), "architecture.width"),
        (put("architecture", "context", 0), "shape.context"),
        (put("architecture", "heads", 3), "no multiple of kv_heads"),
        (put("architecture", "rotary", 5), "must be even"),
        (put("architecture", "rotary", 8), "at most head_width"),
        (put("architecture", "layers", 2), "linears"),
        (put("architecture", "hidden", 41), "divides 41"),
        (put("architecture", "hidden", 48), "tensors"),
        (put("linears", "head", "bound", 128), "linears.head.bound is 128"),
        (put("linears", "head", "block", 3), "power of two"),
        (put("linears", "head", "block", 16), "divides 24"),
        (put("linears", "head", "exponent", 64), "exponent is 64"),
        (put("tensors", "head.weight", "dtype", "float32"), "head.weight is float32"),
        (put("tensors", "head.weight", "shape", [37, 2**60]), "head.weight is int8"),
        (put("tensors", "head.weight", "root", "00"), "64 lower-case"),
        (put("stop", [37]), r"stop\[0\] is 37"),
        (put("stop", list(range(17))), "stop must be a list of at most 16 token ids, not 17"),
        (put("licence", "\u20ac"), "printable ASCII"),
        (put("quality", {"loss": 2**64}), "quality.loss"),
        (lambda data: data.replace(b'"context":96', b'"context":96.0'), "context is 96.0"),
        (lambda data: data.replace(b'"context":96', b'"context":NaN'), "canonical JSON"),
        (lambda data: data[:-1], "canonical JSON"),
        (lambda _: b"[" * 100_000, "canonical JSON"),
        (lambda _: b"[]", "exactly the keys"),
        (lambda _: b"{}" + b" " * (1 << 20), "bytes exceeds|allowed"),
    ],
)
def test_a_hostile_manifest_is_refused_before_a_tensor_is_read(
    folder: Path, edit: Callable[[bytes], bytes], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "manifest.json"
    path.write_bytes(edit(path.read_bytes()))
    monkeypatch.setattr(files, "_read_tensors", lambda *_: pytest.fail("tensors were read"))
    with pytest.raises(cip.ProgramError, match=said):
        load(folder)


def header_of(data: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_header(change: Callable[[dict], Any]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        header, body = header_of(data)
        change(header)
        encoded = json.dumps(header).encode()
        return len(encoded).to_bytes(8, "little") + encoded + body

    return edit


def entry(name: str, field: str, value: Any) -> Callable[[bytes], bytes]:
    return with_header(lambda header: header[name].__setitem__(field, value))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda data: b"", "header of 0 bytes in a file of 0"),
        (lambda data: data[:7], "in a file of 7"),
        (lambda data: (2**63).to_bytes(8, "little") + data[8:], "header of 9223372036854775808"),
        (lambda data: data + b"\0", "the manifest declares"),
        (lambda data: data[:-1], "the manifest declares"),
        (lambda data: data[:8] + b"[" * int.from_bytes(data[:8], "little") + header_of(data)[1], "no JSON"),
        (with_header(lambda header: header.pop("head.weight")), "differ in tensors"),
        (with_header(lambda header: header.update(extra=header["head.weight"])), "differ in tensors"),
        (entry("head.weight", "dtype", "F32"), "is not int8"),
        (entry("head.weight", "shape", [24, 37]), "has shape"),
        (entry("head.weight", "data_offsets", [0, 2**62]), "lies at"),
        (entry("head.weight", "data_offsets", [-8, 880]), "lies at"),
        (entry("head.weight", "data_offsets", "all"), "has offsets"),
        (entry("head.weight", "data_offsets", [0.0, 888.0]), "has offsets"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "hashes to"),
    ],
)
def test_a_hostile_tensor_file_is_refused(folder: Path, edit: Callable[[bytes], bytes], said: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(cip.ProgramError, match=said):
        load(folder)


def test_a_header_of_a_terabyte_costs_nothing(folder: Path) -> None:
    """A sparse file: only its size is looked at."""
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(cip.ProgramError, match="1099511627776 bytes"):
        load(folder)


def test_the_file_is_plain_safetensors(small: Model, folder: Path) -> None:
    from safetensors.numpy import load_file

    theirs = load_file(folder / "model.safetensors")
    assert set(theirs) == set(small.tensors)
    assert all(theirs[name].dtype == t.dtype and np.array_equal(theirs[name], t) for name, t in small.tensors.items())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("head.weight", -128, "spans -128"),
        ("embedding.weight", -128, "embedding.weight holds -128"),
        ("norm.gain", 2**31 - 1, "norm.gain spans"),
        ("table.exp2", (1 << 30) + 1, "table.exp2 spans"),
        ("table.sigmoid", -1, "table.sigmoid spans"),
        ("table.sigmoid", 65535, "ends with 65535"),
        ("table.cos", (1 << 14) + 1, "table.cos spans"),
    ],
)
def test_values_that_would_break_an_overflow_proof_are_refused(
    small: Model, name: str, value: int, said: str
) -> None:
    tensor = small.tensors[name].copy()
    tensor.reshape(-1)[-1] = value
    with pytest.raises(cip.ProgramError, match=said):
        build_model("x", small.manifest.shape, {**small.tensors, name: tensor}, small.manifest.linears, 22)


def test_a_tensor_root_is_bound_to_name_shape_and_chunk(small: Model) -> None:
    tensor = next(t for t in small.manifest.tensors if t.name == "head.weight")
    array = small.tensors["head.weight"]
    other = cip.Tensor("tail.weight", tensor.dtype, tensor.shape, b"")
    turned = cip.Tensor(tensor.name, tensor.dtype, tensor.shape[::-1], b"")
    assert len({files.tensor_root(t, array) for t in (tensor, other, turned)}) == 3
    big = cip.Tensor("t", "int8", (600_000,), b"")
    zeros = np.zeros(600_000, np.int8)
    ones = zeros.copy()
    ones[-1] = 1
    assert files.tensor_root(big, zeros) != files.tensor_root(big, ones)


def test_a_piece_of_a_tensor_leads_to_its_root(small: Model) -> None:
    """The bytes of the format: pieces of 2 KiB under the chunk's digest, chunks under the root."""
    tensor = cip.Tensor("t", "int8", (300_000,), b"")
    data = bytes(range(256)) * 1171 + bytes(224)
    chunks = [data[: 1 << 18], data[1 << 18 :]]
    pieces = [merkle.digest(chunks[1][begin : begin + 2048]) for begin in range(0, len(chunks[1]), 2048)]
    chunk = merkle.digest(b"labora/tensor|t|int8|300000|" + bytes(7) + b"\1" + merkle.root_of(pieces))
    assert files.chunk_digest(tensor, 1, chunks[1]) == chunk
    root = files.tensor_root(tensor, np.frombuffer(data, np.int8))
    assert merkle.root_by_path(chunk, 1, 2, [files.chunk_digest(tensor, 0, chunks[0])]) == root


def test_cost_follows_from_the_shape() -> None:
    """Counted by hand for width 24, 3 layers, 4 + 2 + 2 heads of 6, hidden 40, vocabulary 37."""
    shape = cip.Shape(37, 96, 24, 3, 4, 2, 6, 6, 40, 1, 2)
    cost = cip.cost(shape)
    assert cost == cip.Cost(a=3 * (24 * 48 + 24 * 24 + 3 * 24 * 40), b=3 * 2 * 24, c=24 * 37)
    assert cost.prefill(10) == 10 * cost.a + 55 * cost.b
    assert cost.execution(10, 5) == cost.prefill(14) + 5 * cost.c
