"""Models between real networks: a fetch ends with a whole and checked model, or with the reason why not."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

import node.travel as travel
from inference import program as cip
from inference.build import random_model, request, with_known_answers
from inference.model import TENSORS_NAME, Model, load, save
from node.config import NodeConfig
from node.store import ModelStore, StoreRefused, copy_from
from node.travel import CheckFailed, Fetches, Shelf, check_model
from p2p.network import ModelPiece, Network, NetworkConfig

GENESIS = bytes(32)
CONFIG = NodeConfig(engine="numpy")
TOKENIZER = b'{"version": "1.0"}' + b" " * 300_000


@pytest.fixture(scope="module")
def some() -> Model:
    """Of several chunks, with known answers, and a tokenizer.json of two pieces."""
    shape = cip.Shape(
        vocabulary=2000, context=32, width=320, layers=2, heads=2, kv_heads=1, head_width=16, rotary=16, hidden=64,
        norm_epsilon_q32=42950, layers_per_group=1,
    )  # fmt: skip
    plain = random_model(shape, 21)
    answered = with_known_answers(plain, [request((1, 2, 3), 2)])
    tokenizer = b'"tokenizer":"%s"' % hashlib.sha256(TOKENIZER).hexdigest().encode()
    manifest = cip.decode_manifest(answered.manifest.encode().replace(b'"tokenizer":"bytes"', tokenizer))
    return Model(manifest, manifest.model_id(), answered.tensors)


class Host:
    """A node as far as models go."""

    def __init__(self, store: ModelStore) -> None:
        self.shelf = Shelf(store)

    def on_peer_connected(self, peer: str) -> None:
        pass

    def holds_model(self, model: bytes) -> bool:
        return self.shelf.holds(model)

    async def get_model_piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
        return await self.shelf.piece(model, part, number)


class Liar(Host):
    """Changes a byte of every chunk."""

    async def get_model_piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
        piece = await super().get_model_piece(model, part, number)
        if piece is None or part != 2:
            return piece
        return ModelPiece(piece.size, bytes([piece.data[0] ^ 1]) + piece.data[1:], piece.siblings)


async def check(folder: Path) -> None:
    """The whole check but the child process, which test_a_check_is_a_process_of_its_own starts."""
    try:
        await trio.to_thread.run_sync(load, folder)
    except cip.ProgramError as error:
        raise CheckFailed(str(error)) from error


@asynccontextmanager
async def nodes(tmp_path: Path, hosts: list[type[Host]], quota_mib: int = 100) -> AsyncIterator[list[SimpleNamespace]]:
    """Running networks, each connected to those before it; the last one fetches."""
    made: list[SimpleNamespace] = []
    async with trio.open_nursery() as nursery:
        for index, kind in enumerate(hosts):
            store = ModelStore(tmp_path / str(index), quota_mib)
            peers = tuple(f"{n.net.id}@127.0.0.1:{n.net.listen_port}" for n in made)
            key = hashlib.sha256(b"node %d" % index).digest()
            net = Network(NetworkConfig(key, 1, GENESIS, persistent_peers=peers), kind(store))  # type: ignore[arg-type]
            await nursery.start(net.run)
            made.append(SimpleNamespace(net=net, store=store))
        while len(made[-1].net.peers()) < len(hosts) - 1:
            await made[-1].net.wait_peers_changed()
        yield made
        nursery.cancel_scope.cancel()


def holds(store: ModelStore, some: Model, tmp_path: Path) -> None:
    source = tmp_path / "source"
    if not source.exists():
        save(source, some.manifest, some.tensors)
        (source / "tokenizer.json").write_bytes(TOKENIZER)
    with store.open(some.model_id) as incoming:
        copy_from(incoming, source, lambda done, total: None)
        incoming.publish()


@asynccontextmanager
async def fetching(node: SimpleNamespace, checked: object = check) -> AsyncIterator[Fetches]:
    fetches = Fetches(node.net, node.store, checked)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(fetches.run)
        yield fetches
        nursery.cancel_scope.cancel()


async def ended(fetches: Fetches, model: bytes) -> None:
    fetch = fetches.of(model)
    if fetch is not None:
        await fetch.ended.wait()


def run(main: object) -> None:
    async def limited() -> None:
        with trio.fail_after(60):
            await main()  # type: ignore[operator]

    trio.run(limited)


def test_a_model_comes_from_two_holders_past_a_liar_and_can_be_given_on(some: Model, tmp_path: Path) -> None:
    async def main() -> None:
        async with nodes(tmp_path, [Host, Liar, Host, Host]) as (first, liar, second, late):
            for holder in (first, liar, second):
                holds(holder.store, some, tmp_path)
            ready: list[bytes] = []
            async with fetching(late) as fetches:
                fetches.on_ready.append(ready.append)
                fetches.fetch(some.model_id, None)
                await ended(fetches, some.model_id)
                assert ready == [some.model_id] and fetches.of(some.model_id) is None
                folder = late.store.folder_of(some.model_id)
                assert load(folder).model_id == some.model_id
                assert (folder / "tokenizer.json").read_bytes() == TOKENIZER
                with pytest.raises(StoreRefused, match="here already"):
                    fetches.fetch(some.model_id, None)
            piece = await Shelf(late.store).piece(some.model_id, 2, 0)
            assert piece is not None and piece == await Shelf(first.store).piece(some.model_id, 2, 0)
            while late.net._pool.score(liar.net.id) == 0:
                await trio.lowlevel.checkpoint()

    run(main)


def test_only_whole_and_checked_models_are_given_away(some: Model, tmp_path: Path) -> None:
    async def main() -> None:
        store = ModelStore(tmp_path / "store", 100)
        shelf = Shelf(store)
        source = tmp_path / "source"
        save(source, some.manifest, some.tensors)
        (source / "tokenizer.json").write_bytes(TOKENIZER)
        with store.open(some.model_id) as incoming:
            copy_from(incoming, source, lambda done, total: None)
            assert not shelf.holds(some.model_id) and await shelf.piece(some.model_id, 0, 0) is None
            incoming.fail("known answers differ")
        assert not shelf.holds(some.model_id) and await shelf.piece(some.model_id, 2, 0) is None
        with store.open(some.model_id) as incoming:
            incoming.publish()
        assert shelf.holds(some.model_id)
        assert (await shelf.piece(some.model_id, 1, 1)).size == len(TOKENIZER)  # type: ignore[union-attr]
        for part, number in ((0, 5), (1, 2), (2, 10**6), (2, 2**63 - 1)):
            assert await shelf.piece(some.model_id, part, number) is None
        path = store.folder_of(some.model_id) / TENSORS_NAME  # type: ignore[operator]
        assert await shelf.piece(some.model_id, 2, 0) is not None
        path.write_bytes(b"")
        assert await shelf.piece(some.model_id, 2, 0) is None, "a disk that loses data is no reason to fall over"
        store.remove(some.model_id)
        assert not shelf.holds(some.model_id) and await shelf.piece(some.model_id, 0, 0) is None

    run(main)


def test_a_fetch_that_was_cut_goes_on_by_itself(some: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that gives ten chunks and vanishes; a restart; another holder."""
    monkeypatch.setattr(travel, "RETRY_SECONDS", 0.01)
    given: list[int] = []

    class Brief(Host):
        async def get_model_piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
            if part == 2 and len(given) >= 5:
                return None
            given.extend([number] * (part == 2))
            return await super().get_model_piece(model, part, number)

    async def main() -> None:
        async with nodes(tmp_path, [Brief, Host]) as (brief, late):
            holds(brief.store, some, tmp_path)
            async with fetching(late) as fetches:
                fetches.fetch(some.model_id, None)
                while (fetch := fetches.of(some.model_id)) is None or fetch.state != "waiting":
                    await trio.sleep(0.001)
                assert "no connected peer gives chunks" in fetch.reason
            (_, held) = late.store.held()
            assert held.state == "partial" and held.done_bytes > 0
            asked: list[int] = []

            class Counting(Host):
                async def get_model_piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
                    asked.extend([number] * (part == 2))
                    return await super().get_model_piece(model, part, number)

            other = ModelStore(tmp_path / "other", 100)
            holds(other, some, tmp_path)
            net = Network(NetworkConfig(hashlib.sha256(b"other").digest(), 1, GENESIS), Counting(other))  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                await nursery.start(net.run)
                async with fetching(late) as fetches:  # as after a restart: nobody asks for it again
                    fetches.fetch(some.model_id, f"{net.id}@127.0.0.1:{net.listen_port}")
                    await ended(fetches, some.model_id)
                nursery.cancel_scope.cancel()
            assert late.store.folder_of(some.model_id) is not None
            assert not set(given) & set(asked) and set(given) | set(asked) == set(range(len(given) + len(asked)))

    run(main)


def test_a_model_that_is_too_large_or_fails_its_check_is_never_served(some: Model, tmp_path: Path) -> None:
    async def main() -> None:
        async with nodes(tmp_path, [Host, Host], quota_mib=1) as (holder, late):
            holds(ModelStore(holder.store.folder, 100), some, tmp_path)
            async with fetching(late) as fetches:
                fetches.fetch(some.model_id, None)
                await ended(fetches, some.model_id)
                fetch = fetches.of(some.model_id)
                assert fetch is not None and fetch.state == "refused" and "of the quota of 1,048,576" in fetch.reason
                assert not (late.store.part_folder(some.model_id) / TENSORS_NAME).exists()
            late.store = ModelStore(late.store.folder, 100)

            async def fails(folder: Path) -> None:
                assert load(folder).model_id == some.model_id
                raise CheckFailed("known answer 0 differs on this machine")

            async with fetching(late, fails) as fetches:
                fetches.fetch(some.model_id, None)
                await ended(fetches, some.model_id)
                fetch = fetches.of(some.model_id)
                assert fetch is not None and (fetch.state, fetch.reason[:12]) == ("failed", "known answer")
                assert late.store.folder_of(some.model_id) is None
            async with fetching(late) as fetches:
                assert fetches.of(some.model_id) is None, "what failed is not tried again before somebody asks"
                assert await fetches.remove(some.model_id) > 0
            assert [held.shipped for held in late.store.held()] == [True]

    run(main)


def test_removing_ends_a_fetch(some: Model, tmp_path: Path) -> None:
    async def main() -> None:
        async with nodes(tmp_path, [Host, Host]) as (_, late), fetching(late) as fetches:
            fetches.fetch(some.model_id, None)
            while (fetch := fetches.of(some.model_id)) is None or fetch.state != "waiting":
                await trio.sleep(0.001)
            await fetches.remove(some.model_id)
            assert not fetch.active and fetches.of(some.model_id) is None and late.store.unfinished() == []
            for number in range(travel.FETCHES_MAX):
                fetches.fetch(bytes([number]) * 32, None)
            with pytest.raises(StoreRefused, match="on their way already"):
                fetches.fetch(b"\xff" * 32, None)

    run(main)


def test_a_check_is_a_process_of_its_own(some: Model, tmp_path: Path) -> None:
    async def main() -> None:
        save(tmp_path / "good", some.manifest, some.tensors)
        await check_model(tmp_path / "good", CONFIG)
        wrong = some.manifest.encode()
        answer = some.manifest.known_answers[0].root.hex().encode()
        manifest = cip.decode_manifest(wrong.replace(answer, bytes(32).hex().encode()))
        save(tmp_path / "wrong", manifest, some.tensors)
        with pytest.raises(CheckFailed, match="known answer"):
            await check_model(tmp_path / "wrong", CONFIG)

    run(main)
