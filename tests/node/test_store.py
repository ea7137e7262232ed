"""Models on disk: what is whole and checked counts, what is not goes on where it was, and nothing outgrows its room."""

from pathlib import Path

import pytest

from genesis.models import folder as shipped
from inference import program as cip
from inference.chunks import read_manifest
from inference.model import TENSORS_NAME, Model, load, save
from inference.program import ProgramError
from node.store import FAILED_NAME, ModelStore, StoreRefused, copy_from
from primitives.hashing import keccak


def quiet(_done: int, _total: int) -> None:
    """Nobody looks."""


def publish(store: ModelStore, model: bytes, source: Path) -> Path:
    with store.open(model) as incoming:
        copy_from(incoming, source, quiet)
        return incoming.publish()


def test_a_model_counts_only_once_it_is_published(wide: Model, source: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", 100)
    steps: list[tuple[int, int]] = []
    with store.open(wide.model_id) as incoming:
        copy_from(incoming, source, lambda done, total: steps.append((done, total)))
        assert store.folder_of(wide.model_id) is None and store.unfinished() == [wide.model_id]
        with pytest.raises(StoreRefused, match="worked on by another"):
            store.open(wide.model_id)
        with pytest.raises(StoreRefused, match="worked on by another"):
            store.remove(wide.model_id)
        incoming.publish()
    assert [done for done, _ in steps] == sorted({done for done, _ in steps}) and steps[-1][0] == steps[-1][1]
    found = store.folder_of(wide.model_id)
    assert found is not None and load(found).model_id == wide.model_id
    assert store.unfinished() == []
    with pytest.raises(StoreRefused, match="here already"):
        store.open(wide.model_id)
    (_, held) = store.held()
    assert (held.model, held.state, held.name) == (wide.model_id, "ready", wide.manifest.name)
    assert store.remove(wide.model_id) > held.total_bytes and store.folder_of(wide.model_id) is None
    with pytest.raises(StoreRefused, match="is not here"):
        store.remove(wide.model_id)


def test_models_that_ship_are_here_and_stay(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "none", 0)
    model = keccak(read_manifest(shipped()))
    assert store.folder_of(model) == shipped() and store.used_bytes() == 0
    assert [held.shipped for held in store.held()] == [True]
    with pytest.raises(StoreRefused, match="ships with the program"):
        store.remove(model)


def test_it_goes_on_where_it_was(wide: Model, source: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", 100)
    cut = 3

    class Killed(Exception):
        """kill -9 in the middle: nothing is tidied up but what the system does."""

    def die(done: int, total: int) -> None:
        nonlocal cut
        cut -= 1
        if not cut:
            raise Killed

    with pytest.raises(Killed), store.open(wide.model_id) as incoming:
        copy_from(incoming, source, die)
    (_, held) = store.held()
    assert held.state == "partial" and 0 < held.done_bytes < held.total_bytes
    with store.open(wide.model_id) as incoming:
        assert incoming.writer.done_chunks == 3
        copied: list[int] = []
        copy_from(incoming, source, lambda done, total: copied.append(done))
        assert len(copied) == incoming.writer.chunks.count - 3
        incoming.publish()


def test_the_quota_is_kept_and_says_what_is_missing(wide: Model, source: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", 1)
    with pytest.raises(StoreRefused, match=r"needs 2,[0-9,]+ bytes, 1,048,576 are left of the quota"):
        publish(store, wide.model_id, source)
    assert not (store.part_folder(wide.model_id) / TENSORS_NAME).exists(), "refused before anything is laid out"
    three = ModelStore(tmp_path / "models", 3)
    publish(three, wide.model_id, source)
    renamed = cip.decode_manifest(wide.manifest.encode().replace(b"random-3", b"random-4"))
    other = Model(renamed, renamed.model_id(), wide.tensors)
    save(tmp_path / "other", other.manifest, other.tensors)
    with pytest.raises(StoreRefused, match="`labora model remove` frees some"):
        publish(three, other.model_id, tmp_path / "other")
    three.remove(wide.model_id)
    publish(three, other.model_id, tmp_path / "other")


def test_what_failed_its_check_is_kept_apart_and_hashed_again(wide: Model, source: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", 100)
    with store.open(wide.model_id) as incoming:
        copy_from(incoming, source, quiet)
        incoming.fail("known answer 0 differs")
    (_, held) = store.held()
    assert (held.state, held.reason) == ("failed", "known answer 0 differs")
    assert store.unfinished() == [] and store.folder_of(wide.model_id) is None
    tensors = store.part_folder(wide.model_id) / TENSORS_NAME
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    with store.open(wide.model_id) as incoming:
        assert len(list(incoming.writer.missing())) == 1, "the disk had changed a bit"
        assert not (incoming.folder / FAILED_NAME).exists()
        copy_from(incoming, source, quiet)
        incoming.publish()
    assert load(store.folder_of(wide.model_id)).model_id == wide.model_id  # type: ignore[arg-type]


def test_another_models_manifest_is_refused_and_a_torn_one_is_begun_anew(
    wide: Model, source: Path, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "models", 100)
    with pytest.raises(ProgramError, match="the manifest is that of model"), store.open(bytes(32)) as incoming:
        copy_from(incoming, source, quiet)
    part = store.part_folder(wide.model_id)
    part.mkdir(parents=True)
    (part / "manifest.json").write_bytes(b'{"torn')
    with store.open(wide.model_id) as incoming:
        assert incoming.manifest is None
        copy_from(incoming, source, quiet)
        incoming.publish()


def test_a_source_that_is_damaged_gives_nothing_wrong(wide: Model, source: Path, tmp_path: Path) -> None:
    path = source / TENSORS_NAME
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    store = ModelStore(tmp_path / "models", 100)
    with pytest.raises(ProgramError, match="hashes to"), store.open(wide.model_id) as incoming:
        copy_from(incoming, source, quiet)
    assert store.folder_of(wide.model_id) is None


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models" / "notes").mkdir(parents=True)
    (tmp_path / "models" / ("z" * 64)).mkdir()
    store = ModelStore(tmp_path / "models", 1)
    assert store.unfinished() == [] and store.used_bytes() == 0
    assert [held.shipped for held in store.held()] == [True]
