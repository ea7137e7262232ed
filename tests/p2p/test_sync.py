"""Catching up over real sockets: in order, from several peers, past every kind of liar."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2p import framing, messages, peer, sync
from p2p.messages import Goodbye, Ping, Pong, RangeReply, RangeRequest, StatusUpdate
from p2p.network import Network, SyncBlock
from tests.p2p.conftest import run


def good(block: SyncBlock) -> bool:
    """The verification of the tests' chain."""
    own_height = block.body.startswith(b"block %d " % block.height)
    return own_height and block.certificate == hashlib.sha256(block.body).digest()


async def read_all(net: Network, from_height: int) -> tuple[list[SyncBlock], list[SyncBlock]]:
    """(accepted, rejected) until the stream ends."""
    accepted: list[SyncBlock] = []
    rejected: list[SyncBlock] = []
    async with net.sync_blocks(from_height) as stream:
        async for block in stream:
            if good(block):
                accepted.append(block)
            else:
                rejected.append(block)
                stream.reject(block, "the certificate does not fit")
    return accepted, rejected


async def claims(net: Network, height: int, count: int = 1) -> None:
    while sum(p.head_height >= height for p in net.peers()) < count:
        await net.wait_peers_changed()


def test_a_hundred_blocks_from_two_peers_of_whom_one_lies(lab: SimpleNamespace) -> None:
    async def main() -> None:
        honest, liar = lab.MemoryHost(100), lab.MemoryHost(100)
        for height in range(20, 101, 7):
            body, _ = liar.blocks[height - 1]
            liar.blocks[height - 1] = (body, bytes(32))
        async with lab.mesh(3, [honest, liar, lab.MemoryHost()]) as (a, b, late):
            await claims(late.net, 100, 2)
            accepted, rejected = await read_all(late.net, 1)
            assert [block.height for block in accepted] == list(range(1, 101))
            assert [(block.body, block.certificate) for block in accepted] == honest.blocks
            assert {block.peer for block in rejected} == {b.net.id}
            assert b.net.id not in {p.id for p in late.net.peers()}
            assert a.net.id in {p.id for p in late.net.peers()}
            assert all(count <= 16 for _, count in honest.ranges_asked)

    run(main)


def test_work_is_shared_between_honest_peers(lab: SimpleNamespace) -> None:
    async def main() -> None:
        hosts = [lab.MemoryHost(200), lab.MemoryHost(200), lab.MemoryHost()]
        async with lab.mesh(3, hosts) as (_, _, late):
            await claims(late.net, 200, 2)
            accepted, rejected = await read_all(late.net, 51)
            assert [block.height for block in accepted] == list(range(51, 201)) and not rejected
            asked = hosts[0].ranges_asked + hosts[1].ranges_asked
            assert min(start for start, _ in asked) == 51
            assert sum(count for _, count in asked) == 150
            assert hosts[0].ranges_asked and hosts[1].ranges_asked

    run(main)


def test_nobody_ahead_ends_at_once(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(2, [lab.MemoryHost(10), lab.MemoryHost()]) as (_, late):
            await claims(late.net, 10)
            assert await read_all(late.net, 11) == ([], [])
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            assert await read_all(net, 1) == ([], [])

    run(main)


def test_the_readers_error_passes_unwrapped(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(2, [lab.MemoryHost(10), lab.MemoryHost()]) as (_, late):
            await claims(late.net, 10)
            with pytest.raises(ZeroDivisionError):
                async with late.net.sync_blocks(1) as stream:
                    async for _ in stream:
                        raise ZeroDivisionError

    run(main)


def test_at_most_sixty_four_blocks_run_ahead_of_the_reader(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost(500)
        async with lab.mesh(2, [host, lab.MemoryHost()]) as (_, late):
            await claims(late.net, 500)
            async with late.net.sync_blocks(1) as stream:
                for height in range(1, 40):
                    assert (await anext(stream)).height == height
                    asked = max(start + count for start, count in host.ranges_asked)
                    assert asked <= height + 1 + sync.AHEAD_BLOCKS_MAX

    run(main)


def test_a_claim_without_blocks_drops_the_peer_and_blocks_nobody(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(5), lab.MemoryHost())
        async with lab.mesh(1, [lab.MemoryHost(30)]) as (honest,), lab.running(net) as nursery:
            boaster = await lab.Stranger.dial(net.listen_port, 77)
            await boaster.send(StatusUpdate(10**12, 0))
            await claims(net, 10**12)
            await net.dial(f"{honest.net.id}@127.0.0.1:{honest.net.listen_port}")
            await claims(net, 30, 2)
            told: list[int] = []

            async def play() -> None:
                while True:
                    message = await boaster.receive(RangeRequest, Goodbye)
                    if isinstance(message, Goodbye):
                        told.append(message.code)
                        return
                    await boaster.send(RangeReply(message.request_id, ()))

            nursery.start_soon(play)
            accepted, rejected = await read_all(net, 1)
            assert [block.height for block in accepted] == list(range(1, 31)) and not rejected
            assert [p.id for p in net.peers()] == [honest.net.id]
            while not told:
                await trio.lowlevel.checkpoint()
            assert told == [messages.GOODBYE_MISBEHAVED]

    run(main)


def test_a_silent_peer_is_given_up_after_ten_seconds(lab: SimpleNamespace) -> None:
    """Four ranges are asked of it at once; each times out, the honest peer gives them all."""
    clock = MockClock()

    async def main() -> None:
        net = Network(lab.config(5), lab.MemoryHost())
        async with lab.running(net) as nursery:
            silent = await lab.Stranger.dial(net.listen_port, 77)
            await silent.send(StatusUpdate(40, 1))
            await claims(net, 40)
            result: list[tuple[list[SyncBlock], list[SyncBlock]]] = []

            async def read() -> None:
                result.append(await read_all(net, 1))

            nursery.start_soon(read)
            requests = [await silent.receive(RangeRequest) for _ in range(3)]
            assert [(r.from_height, r.count) for r in requests] == [(1, 16), (17, 16), (33, 8)]
            honest = Network(lab.config(6), lab.MemoryHost(40))
            honest.set_head(40, 1)
            async with lab.running(honest):
                await net.dial(f"{honest.id}@127.0.0.1:{honest.listen_port}")
                await claims(net, 40, 2)
                clock.jump(sync.REPLY_S)
                while not result:
                    await trio.lowlevel.checkpoint()
                ((accepted, rejected),) = result
                assert [block.height for block in accepted] == list(range(1, 41)) and not rejected
                assert {block.peer for block in accepted} == {honest.id}
            # Slow is not wrong: it stays, and its late answer is no breach.
            await silent.send(RangeReply(requests[0].request_id, ()), Ping(1))
            assert await silent.receive(Pong, Goodbye) == Pong(1)

    run(main, clock)


def test_a_peer_that_dies_in_the_middle_is_replaced(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(5), lab.MemoryHost())
        async with lab.mesh(1, [lab.MemoryHost(60)]) as (honest,), lab.running(net) as nursery:
            dying = await lab.Stranger.dial(net.listen_port, 77)
            await dying.send(StatusUpdate(60, 1))
            await claims(net, 60)
            await net.dial(f"{honest.net.id}@127.0.0.1:{honest.net.listen_port}")
            await claims(net, 60, 2)

            async def die() -> None:
                await dying.receive(RangeRequest)
                await dying.stream.aclose()

            nursery.start_soon(die)
            accepted, _ = await read_all(net, 1)
            assert [block.height for block in accepted] == list(range(1, 61))

    run(main)


def test_short_answers_are_completed(lab: SimpleNamespace) -> None:
    """A byte cap makes a server give one block at a time."""

    async def main() -> None:
        host = lab.MemoryHost(35)

        async def one_at_a_time(from_height: int, count: int, max_bytes: int) -> list[tuple[bytes, bytes]]:
            host.ranges_asked.append((from_height, count))
            return host.blocks[from_height - 1 : from_height]

        host.get_range = one_at_a_time
        async with lab.mesh(2, [host, lab.MemoryHost()]) as (_, late):
            await claims(late.net, 35)
            accepted, _ = await read_all(late.net, 1)
            assert [block.height for block in accepted] == list(range(1, 36))
            assert len(host.ranges_asked) == 35

    run(main)


@pytest.mark.parametrize(
    "reply",
    [
        lambda request: RangeReply(request.request_id + 1, ((b"b", b"c"),)),
        lambda request: RangeReply(request.request_id, ((b"b", b"c"),) * (request.count + 1)),
        lambda request: RangeReply(request.request_id, ((bytes(900_000), b"c"),) * 5),
    ],
    ids=["not asked", "too many", "too large"],
)
def test_a_reply_that_breaks_the_request_drops_the_peer(lab: SimpleNamespace, reply: Callable[..., RangeReply]) -> None:
    async def main() -> None:
        net = Network(lab.config(5), lab.MemoryHost())
        async with lab.running(net) as nursery:
            stranger = await lab.Stranger.dial(net.listen_port, 77)
            await stranger.send(StatusUpdate(10, 1))
            await claims(net, 10)

            async def play() -> None:
                await stranger.send(reply(await stranger.receive(RangeRequest)))
                assert await stranger.goodbye() == messages.GOODBYE_MISBEHAVED

            nursery.start_soon(play)
            assert await read_all(net, 1) == ([], [])

    run(main)


def test_serving_is_bounded_and_ordered(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost(100)
        net = Network(lab.config(0), host)
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            for number in range(peer.RANGE_REQUESTS_MAX):
                await stranger.send(RangeRequest(number, 1 + 10 * number, 10, 1 << 20))
            for number in range(peer.RANGE_REQUESTS_MAX):
                answer = await stranger.receive(RangeReply)
                assert answer == RangeReply(number, tuple(host.blocks[10 * number : 10 * number + 10]))
            await stranger.send(RangeRequest(9, 101, 1, 1))
            assert await stranger.receive(RangeReply) == RangeReply(9, ())

    run(main)


def test_a_flood_of_range_requests_drops_the_peer(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost(1)
        asked = trio.Event()

        async def never(from_height: int, count: int, max_bytes: int) -> list[tuple[bytes, bytes]]:
            asked.set()
            await trio.sleep_forever()
            return []

        host.get_range = never
        net = Network(lab.config(0), host)
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            for number in range(peer.RANGE_REQUESTS_MAX):
                await stranger.send(RangeRequest(number, 1, 1, 1))
            await stranger.send(Ping(1))
            await stranger.receive(Pong)
            await asked.wait()
            await stranger.send(RangeRequest(9, 1, 1, 1))
            assert await stranger.goodbye() == messages.GOODBYE_MISBEHAVED

    run(main)


def test_numbers_of_the_design() -> None:
    assert (messages.RANGE_BLOCKS_MAX, sync.IN_FLIGHT_MAX, sync.REPLY_S) == (16, 4, 10)
    assert framing.SYNC_MESSAGE_BYTES_MAX == 8 << 20
