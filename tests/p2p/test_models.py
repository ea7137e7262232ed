"""Models over real sockets: chunks from several peers at once, past liars, the silent and the greedy."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2p import framing, messages, models, peer
from p2p.messages import (
    PART_CHUNK,
    PART_MANIFEST,
    PART_TOKENIZER,
    Consensus,
    Goodbye,
    ModelAnswer,
    ModelPart,
    ModelQuery,
    ModelRequest,
    Ping,
    Pong,
)
from p2p.network import ModelPiece, Network, NobodyHolds
from tests.p2p.conftest import connected, run

MODEL = hashlib.sha256(b"model").digest()
PIECE = 256 * 1024


def chunk(number: int) -> bytes:
    return b"chunk %d " % number + bytes(number * 997 % 50_000)


def holder(lab: SimpleNamespace, count: int, manifest: bytes = b"manifest", lies: Sequence[int] = ()) -> object:
    """A host that holds the model, with chunks of which some are not the model's."""
    host = lab.MemoryHost()
    pieces = {(PART_CHUNK, n): ModelPiece(0, chunk(n) + b"!" * (n in lies), (bytes(32),)) for n in range(count)}
    blobs = {PART_MANIFEST: manifest, PART_TOKENIZER: b"t" * (2 * PIECE + 5)}
    for part, data in blobs.items():
        for number, at in enumerate(range(0, len(data), PIECE)):
            pieces[part, number] = ModelPiece(len(data), data[at : at + PIECE])
    host.models[MODEL] = pieces
    return host


class Wanted:
    """The side that knows which chunks are good."""

    def __init__(self) -> None:
        self.taken: dict[int, bytes] = {}

    async def take(self, number: int, data: bytes, siblings: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        assert number not in self.taken, "each once"
        if data != chunk(number):
            raise ValueError(f"chunk {number} is not the model's")
        self.taken[number] = data


async def serve_by_hand(stranger: object, answer: Callable[[ModelRequest], ModelPart | None]) -> None:
    """Says that it holds the model and answers requests until the connection ends."""
    try:
        while True:
            message = await stranger.receive(ModelQuery, ModelRequest)  # type: ignore[attr-defined]
            if isinstance(message, ModelQuery):
                await stranger.send(ModelAnswer(message.model, 1))  # type: ignore[attr-defined]
            elif (reply := answer(message)) is not None:
                await stranger.send(reply)  # type: ignore[attr-defined]
    except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def scored(net: Network, peer_id: str) -> None:
    """Until the peer has been dropped and scored."""
    while net._pool.score(peer_id) == 0:
        await trio.lowlevel.checkpoint()
    assert net._pool.score(peer_id) < 0


def test_two_holders_share_the_work_and_the_third_is_not_asked(lab: SimpleNamespace) -> None:
    async def main() -> None:
        hosts = [holder(lab, 60), holder(lab, 60), lab.MemoryHost(), lab.MemoryHost()]
        async with lab.mesh(4, hosts) as (a, b, without, late):
            assert set(await late.net.models.holders(MODEL)) == {a.net.id, b.net.id}
            wanted = Wanted()
            await late.net.models.chunks(MODEL, iter(range(10, 60)), wanted.take)
            assert wanted.taken == {number: chunk(number) for number in range(10, 60)}
            assert a.host.pieces_asked and b.host.pieces_asked and not without.host.pieces_asked
            assert len(a.host.pieces_asked) + len(b.host.pieces_asked) == 50

    run(main)


def test_a_liar_is_dropped_and_its_chunks_come_from_elsewhere(lab: SimpleNamespace) -> None:
    async def main() -> None:
        hosts = [holder(lab, 40), holder(lab, 40, lies=range(0, 40, 3)), lab.MemoryHost()]
        async with lab.mesh(3, hosts) as (honest, liar, late):
            wanted = Wanted()
            await late.net.models.chunks(MODEL, iter(range(40)), wanted.take)
            assert sorted(wanted.taken) == list(range(40))
            await scored(late.net, liar.net.id)
            assert late.net._pool.score(honest.net.id) == 0
            alone = Wanted()
            hosts[0].models.clear()
            with pytest.raises(NobodyHolds):
                await late.net.models.chunks(MODEL, iter(range(40)), alone.take)

    run(main)


def test_what_was_taken_stays_when_the_last_holder_goes(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(2, [holder(lab, 20), lab.MemoryHost()]) as (a, late):
            wanted = Wanted()
            with pytest.raises(NobodyHolds):
                await late.net.models.chunks(MODEL, iter(range(25)), wanted.take)  # five more than it has
            assert sorted(wanted.taken) == list(range(20))
            assert a.net.id in {p.id for p in late.net.peers()}, "not to have something is no offence"
            with pytest.raises(NobodyHolds):
                await late.net.models.chunks(bytes(32), iter(range(5)), wanted.take)

    run(main)


def test_a_silent_holder_is_given_up_and_one_that_comes_later_is_asked(lab: SimpleNamespace) -> None:
    clock = MockClock()

    async def main() -> None:
        net = Network(lab.config(5), lab.MemoryHost())
        async with lab.running(net) as nursery:
            silent = await lab.Stranger.dial(net.listen_port, 77)
            await connected(net, 1)
            asked: list[ModelRequest] = []
            nursery.start_soon(serve_by_hand, silent, asked.append)
            wanted, done = Wanted(), trio.Event()

            async def download() -> None:
                await net.models.chunks(MODEL, iter(range(30)), wanted.take)
                done.set()

            nursery.start_soon(download)
            while not asked:
                await trio.lowlevel.checkpoint()
            honest = Network(lab.config(6), holder(lab, 30))
            async with lab.running(honest):
                await net.dial(f"{honest.id}@127.0.0.1:{honest.listen_port}")
                while len(wanted.taken) < 29:
                    await trio.lowlevel.checkpoint()
                assert len(asked) == 1, "a stranger is asked for one chunk until it has shown that it answers"
                clock.jump(models.REPLY_S)
                while not done.is_set():
                    await trio.lowlevel.checkpoint()
            assert sorted(wanted.taken) == list(range(30))
            # Slow is not wrong: it stays, and its late answer is no breach.
            await silent.send(ModelPart(asked[0].request_id, 0, b"late", ()), Ping(1))
            while net._pool.peers[lab.node_id(lab.key(77))].models_asked:
                await trio.lowlevel.checkpoint()
            assert lab.node_id(lab.key(77)) in {p.id for p in net.peers()}

    run(main, clock)


def test_a_blob_comes_whole_from_one_holder_and_then_from_the_next(lab: SimpleNamespace) -> None:
    async def main() -> None:
        good, bad = b"m" * (PIECE + 9), b"x" * (PIECE + 9)
        hosts = [holder(lab, 1, bad), holder(lab, 1, good), lab.MemoryHost()]
        async with lab.mesh(3, hosts) as (liar, honest, late):
            found = await late.net.models.blob(MODEL, PART_MANIFEST, 1 << 20, lambda data: data == good)
            assert found == good
            assert late.net._pool.score(honest.net.id) == 0
            if hosts[0].pieces_asked:
                await scored(late.net, liar.net.id)
            tokenizer = await late.net.models.blob(MODEL, PART_TOKENIZER, 1 << 20, lambda data: True)
            assert tokenizer == b"t" * (2 * PIECE + 5)

    run(main)


@pytest.mark.parametrize(
    "reply",
    [
        lambda r: ModelPart(r.request_id, (1 << 20) + 1, bytes(PIECE), ()),
        lambda r: ModelPart(r.request_id, 1 << 62, bytes(PIECE), ()),
        lambda r: ModelPart(r.request_id, 100, bytes(PIECE), ()),
        lambda r: ModelPart(r.request_id, 2 * PIECE, b"short", ()),
        lambda r: ModelPart(r.request_id, 2 * PIECE + r.number, bytes(PIECE), ()),
    ],
    ids=["above the bound", "far above the bound", "longer than it says", "a short piece", "a size that changes"],
)
def test_hostile_sizes_end_the_connection(lab: SimpleNamespace, reply: Callable[[ModelRequest], ModelPart]) -> None:
    async def main() -> None:
        net = Network(lab.config(5), lab.MemoryHost())
        async with lab.running(net) as nursery:
            stranger = await lab.Stranger.dial(net.listen_port, 77)
            await connected(net, 1)
            nursery.start_soon(serve_by_hand, stranger, reply)
            with pytest.raises(NobodyHolds):
                await net.models.blob(MODEL, PART_MANIFEST, 1 << 20, lambda data: True)
            await connected(net, 0)
            await scored(net, lab.node_id(lab.key(77)))

    run(main)


def test_serving_is_bounded_and_what_is_not_here_is_said(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = holder(lab, 3)
        net = Network(lab.config(0), host)
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            await stranger.send(ModelQuery(MODEL), ModelQuery(bytes(32)))
            assert await stranger.receive(ModelAnswer) == ModelAnswer(MODEL, 1)
            assert await stranger.receive(ModelAnswer) == ModelAnswer(bytes(32), 0)
            for number in range(peer.MODEL_REQUESTS_MAX):
                await stranger.send(ModelRequest(number, MODEL, PART_CHUNK, number))
            for number in range(3):
                assert await stranger.receive(ModelPart) == ModelPart(number, 0, chunk(number), (bytes(32),))
            assert await stranger.receive(ModelPart) == ModelPart(3, 0, b"", ())
            await stranger.send(ModelRequest(9, bytes(32), PART_MANIFEST, 0))
            assert await stranger.receive(ModelPart) == ModelPart(9, 0, b"", ())

            async def never(model: bytes, part: int, number: int) -> ModelPiece | None:
                await trio.sleep_forever()

            host.get_model_piece = never
            for number in range(peer.MODEL_REQUESTS_MAX + 1):
                await stranger.send(ModelRequest(number, MODEL, PART_CHUNK, number))
            assert await stranger.goodbye() == messages.GOODBYE_MISBEHAVED

    run(main)


def test_questions_have_a_rate_limit(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            await stranger.send(*[ModelQuery(MODEL)] * (peer.MODEL_QUERIES_BURST + 1), Ping(1))
            await stranger.receive(Pong)
            stranger.arrived.clear()
            answers = 0
            await stranger.send(ModelQuery(MODEL), Ping(2))
            while not isinstance(await stranger.receive(ModelAnswer, Pong, Goodbye), Pong):
                answers += 1
            assert answers == 0

    run(main, MockClock())  # no time passes, so that no token comes back


def test_a_vote_overtakes_a_model(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        host.models[MODEL] = {(PART_CHUNK, n): ModelPiece(0, bytes([n]) * PIECE) for n in range(4)}
        net = Network(lab.config(0), host)
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            stranger.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            for number in range(4):
                await stranger.send(ModelRequest(number, MODEL, PART_CHUNK, number))
            await host.until(lambda: len(host.pieces_asked) >= 3)
            net.broadcast(b"vote:1")
            order = []
            while len(order) < 5:
                message = await stranger.receive(ModelPart, Consensus)
                order.append("vote" if isinstance(message, Consensus) else message.request_id)
            assert order[-1] == 3 and [entry for entry in order if entry != "vote"] == [0, 1, 2, 3]

    run(main)


def test_models_are_given_away_at_a_pace(lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "PEER_BYTES_PER_S", PIECE)
    clock = MockClock()

    async def main() -> None:
        host = lab.MemoryHost()
        host.models[MODEL] = {(PART_CHUNK, n): ModelPiece(0, bytes([n]) * PIECE) for n in range(3)}
        net = Network(lab.config(0), host)
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            for number in range(3):
                await stranger.send(ModelRequest(number, MODEL, PART_CHUNK, number))
            assert (await stranger.receive(ModelPart)).request_id == 0
            await host.until(lambda: len(host.pieces_asked) == 2)
            await stranger.send(Ping(1))
            assert isinstance(await stranger.receive(Pong, ModelPart), Pong), "the second waits for its second"
            clock.jump(1.0)
            assert (await stranger.receive(ModelPart)).request_id == 1

    run(main, clock)


def test_numbers_of_the_design() -> None:
    assert (models.REPLY_S, messages.MODEL_DATA_BYTES_MAX) == (10, 256 * 1024)
    assert max(framing.CHANNELS) == framing.MODELS, "everything overtakes a model"
    assert models.IN_FLIGHT_MAX * messages.MODEL_DATA_BYTES_MAX == 2 << 20
