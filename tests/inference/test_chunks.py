"""A model in chunks: each proves itself, whatever the order, and what was written is never less than verified."""

import random
from pathlib import Path

import pytest

from inference import chunks as module
from inference import program as cip
from inference.chunks import DIGESTS_NAME, ChunkReader, ChunkWriter
from inference.model import TENSORS_NAME, Model, load


def target_of(tmp_path: Path, wide: Model) -> Path:
    folder = tmp_path / "target"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(wide.manifest.encode())
    return folder


def test_a_folder_put_together_in_any_order_is_the_model(source: Path, wide: Model, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    folder = target_of(tmp_path, wide)
    with ChunkReader(source) as reader:
        assert reader.model_id == wide.model_id
        numbers = list(range(reader.chunks.count))
        assert max(len(reader.chunks.numbers(i)) for i in range(len(reader.chunks.tensors))) > 2
        random.Random(seed).shuffle(numbers)
        half = len(numbers) // 2
        with ChunkWriter(folder, wide.manifest) as writer:
            for number in numbers[:half]:
                writer.put(number, *reader.chunk(number))
            done = writer.done_bytes
        with ChunkWriter(folder, wide.manifest) as writer:  # as after kill -9: what was written counts
            assert list(writer.missing()) == sorted(numbers[half:])
            assert (writer.done_bytes, writer.done_chunks) == (done, half)
            for number in numbers[half:]:
                writer.put(number, *reader.chunk(number))
            assert writer.done_bytes == writer.chunks.size_bytes and not list(writer.missing())
    assert load(folder).model_id == wide.model_id
    with ChunkReader(folder) as again, ChunkReader(source) as first:  # one has digests, the other makes them
        assert (folder / DIGESTS_NAME).exists() and not (source / DIGESTS_NAME).exists()
        for number in range(again.chunks.count):
            assert again.chunk(number) == first.chunk(number)


def test_what_is_not_the_manifests_is_refused_and_not_written(source: Path, wide: Model, tmp_path: Path) -> None:
    with ChunkReader(source) as reader, ChunkWriter(target_of(tmp_path, wide), wide.manifest) as writer:
        big = next(i for i in range(len(reader.chunks.tensors)) if len(reader.chunks.numbers(i)) > 2)
        number = reader.chunks.numbers(big)[1]
        data, siblings = reader.chunk(number)
        flipped = bytes([data[0] ^ 1]) + data[1:]
        for bad in ((flipped, siblings), (data, siblings[:-1]), (data, [*siblings, bytes(32)]), (data, []),
                    (data[:-1], siblings), (data + b"\0", siblings), (b"", siblings)):  # fmt: skip
            with pytest.raises(cip.ProgramError):
                writer.put(number, *bad)
        with pytest.raises(cip.ProgramError, match="does not lead to its root"):
            writer.put(number - 1, data, siblings)
        assert writer.done_bytes == 0 and len(list(writer.missing())) == writer.chunks.count


def test_what_the_disk_lost_is_found_and_asked_for_again(source: Path, wide: Model, tmp_path: Path) -> None:
    folder = target_of(tmp_path, wide)
    with ChunkReader(source) as reader, ChunkWriter(folder, wide.manifest) as writer:
        for number in range(writer.chunks.count):
            writer.put(number, *reader.chunk(number))
        path = folder / TENSORS_NAME
        data = bytearray(path.read_bytes())
        data[-1] ^= 1  # of the last tensor in the file, wherever that is in the manifest
        path.write_bytes(data)
        assert writer.recheck() == 1
        (lost,) = writer.missing()
        writer.put(lost, *reader.chunk(lost))
        assert writer.recheck() == 0
    assert load(folder).model_id == wide.model_id


def test_a_damaged_source_gives_nothing(source: Path, wide: Model) -> None:
    path = source / TENSORS_NAME
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with ChunkReader(source) as reader:
        outcomes = []
        for number in range(reader.chunks.count):
            try:
                outcomes.append(bool(reader.chunk(number)))
            except cip.ProgramError:
                outcomes.append(False)
    assert not all(outcomes) and any(outcomes)
    path.write_bytes(data[:-1])
    with pytest.raises(cip.ProgramError, match="bytes, the manifest declares"):
        ChunkReader(source)


def test_a_manifest_is_read_only_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (cip.MANIFEST_BYTES_MAX + 1))
    with pytest.raises(cip.ProgramError, match="more than"):
        module.read_manifest(tmp_path)
