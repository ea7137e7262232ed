"""Connections over real loopback sockets: who gets in, who is told why not, who is dropped, who comes back."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p import framing, messages, pool
from p2p.handshake import Handshake, encode_hello
from p2p.messages import Consensus, Goodbye, Ping, Pong, StatusUpdate
from p2p.network import AddressError, HandshakeError, Network, PeerAddress
from tests.p2p.conftest import connected, run


async def rest(stream: trio.SocketStream) -> bytes:
    """Everything until the other side closes."""
    data = bytearray()
    try:
        while chunk := await stream.receive_some(4096):
            data += chunk
    except trio.BrokenResourceError:
        pass  # reset counts as closed
    return bytes(data)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_two_nodes_meet_and_describe_each_other(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(2) as (a, b):
            (of_a,), (of_b,) = a.net.peers(), b.net.peers()
            assert (of_a.id, of_b.id) == (b.net.id, a.net.id)
            assert of_a.inbound and not of_b.inbound
            assert of_b.address == f"127.0.0.1:{a.net.listen_port}"
            assert (of_a.score, of_a.rtt_ms, of_a.head_height) == (0, None, 0)
            assert a.host.peers_seen == [b.net.id] and b.host.peers_seen == [a.net.id]
            a.net.set_head(7, 2)
            while b.net.best_claimed_height() != 7:
                await b.net.wait_peers_changed()
            (of_b,) = b.net.peers()
            assert (of_b.head_height, of_b.base_height) == (7, 2)
            assert of_b.bytes_in > 0 and of_b.bytes_out > 0

    run(main)


def test_a_port_in_use_is_one_plain_oserror(lab: SimpleNamespace) -> None:
    async def main() -> None:
        a = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(a):
            b = Network(lab.config(1, listen_port=a.listen_port), lab.MemoryHost())
            with pytest.raises(OSError):
                await b.run()

    run(main)


def test_garbage_instead_of_a_hello_is_answered_and_closed(lab: SimpleNamespace) -> None:
    async def main() -> None:
        a = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(a):
            stream = await lab.raw(a.listen_port)
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")
            assert await rest(stream) == lab.HELLO + b"\x01"
            assert a.peers() == []

    run(main)


def test_a_stranger_of_another_chain_learns_why(lab: SimpleNamespace) -> None:
    async def main() -> None:
        a = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(a):
            for hello, reason in (
                (encode_hello(lab.CHAIN_ID, bytes(32)), "another genesis block"),
                (encode_hello(5, lab.GENESIS), "another chain id"),
            ):
                # Both sides see the mismatch; here the stranger does not look and waits for the verdict.
                stream = await lab.raw(a.listen_port)
                await stream.send_all(hello)
                told = await rest(stream)
                blind = Handshake(lab.key(9), lab.HELLO, initiator=True)
                with pytest.raises(HandshakeError, match=f"refused by the other side: {reason}"):
                    blind.receive(told)

            b = Network(lab.config(1, genesis_hash=bytes(32)), lab.MemoryHost())
            async with lab.running(b):
                with pytest.raises(HandshakeError, match=f"another genesis block: theirs is 0x{lab.GENESIS.hex()}"):
                    await b.dial(f"{a.id}@127.0.0.1:{a.listen_port}")

    run(main)


def test_a_dialler_refuses_another_identity(lab: SimpleNamespace) -> None:
    async def main() -> None:
        a, b = Network(lab.config(0), lab.MemoryHost()), Network(lab.config(1), lab.MemoryHost())
        async with lab.running(a, b):
            with pytest.raises(HandshakeError, match=f"expected node {'00' * 32}, but {a.id} answered"):
                await b.dial(f"{'00' * 32}@127.0.0.1:{a.listen_port}")
            with pytest.raises(HandshakeError, match="connected to ourselves"):
                await b.dial(f"{b.id}@127.0.0.1:{b.listen_port}")
            with pytest.raises(AddressError, match="'nonsense' is not id@host:port"):
                await b.dial("nonsense")
            assert b.peers() == []

    run(main)


def test_a_slow_loris_is_cut_off_after_five_seconds(lab: SimpleNamespace) -> None:
    clock = MockClock()

    async def main() -> None:
        a = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(a):
            silent = await lab.raw(a.listen_port)
            dribbling = await lab.raw(a.listen_port)
            for stream in (silent, dribbling):
                assert await stream.receive_some(100) == lab.HELLO  # it has been accepted and waits
            await dribbling.send_all(lab.HELLO[:10])
            clock.jump(4.9)
            await dribbling.send_all(lab.HELLO[10:20])
            clock.jump(0.2)
            assert await rest(silent) == b"" and await rest(dribbling) == b""

    run(main, clock)


def test_pings_and_the_death_of_a_silent_peer(lab: SimpleNamespace) -> None:
    clock = MockClock()

    async def main() -> None:
        a = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(a):
            stranger = await lab.Stranger.dial(a.listen_port)
            assert await stranger.receive() == StatusUpdate(0, 0)
            clock.jump(10)
            ping = await stranger.receive()
            assert isinstance(ping, Ping)
            clock.jump(0.25)
            await stranger.send(Pong(ping.nonce), Ping(77))
            assert await stranger.receive() == Pong(77)
            assert a.peers()[0].rtt_ms == pytest.approx(250)
            clock.jump(24.9)
            assert isinstance(await stranger.receive(), Ping)
            clock.jump(0.2)
            assert await stranger.goodbye() == messages.GOODBYE_DEAD
            await connected(a, 0)

    run(main, clock)


BREACHES = {
    "an oversized first fragment": lambda s: (2, bytes(1025)),
    "a body that nobody asked for": lambda s: messages.BlockBody(bytes(32), b"body"),
    "transactions that nobody asked for": lambda s: messages.Transactions((b"tx",)),
    "a range that nobody asked for": lambda s: messages.RangeReply(1, ((b"b", b"c"),)),
    "a part of a model that nobody asked for": lambda s: messages.ModelPart(1, 0, b"data", ()),
    "an answer about a model that nobody asked about": lambda s: messages.ModelAnswer(bytes(32), 1),
    "a pong without its ping": lambda s: Pong(1),
    "a base above the head": lambda s: StatusUpdate(1, 2),
    "an unknown message": lambda s: (framing.CONTROL, b"\x92\x63\x01"),
    "a reserved message": lambda s: (framing.CONSENSUS, b"\x92\x11\xc4\x01x"),
    "not msgpack": lambda s: (framing.CONTROL, b"\xc1"),
    "the right message on the wrong channel": lambda s: (framing.SYNC, messages.encode(Ping(1))),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_peer_that_breaks_the_protocol_is_dropped_and_scored(lab: SimpleNamespace, breach: str) -> None:
    async def main() -> None:
        async with lab.mesh(2) as (a, b):
            stranger = await lab.Stranger.dial(a.net.listen_port)
            await connected(a.net, 2)
            what = BREACHES[breach](stranger)
            if isinstance(what, tuple) and isinstance(what[1], bytes):
                channel, data = what
                total = len(data).to_bytes(4, "big")  # by hand: the writer refuses to break the rules
                record = stranger.writer._sending.encrypt(b"", bytes((channel, 3)) + total + data)
                await stranger.stream.send_all(len(record).to_bytes(2, "big") + record)
            else:
                await stranger.send(what)
            assert await stranger.goodbye() == messages.GOODBYE_MISBEHAVED
            await connected(a.net, 1)
            # Nothing else is disturbed: the other peer stays and hears.
            a.net.broadcast(b"vote:1")
            assert await b.net.consensus.receive() == (a.net.id, b"vote:1")
            again = await lab.Stranger.dial(a.net.listen_port)
            await connected(a.net, 2)
            assert [p.score for p in a.net.peers()] == [0, pool.SCORE_MISBEHAVED]
            await again.stream.aclose()

    run(main)


def test_a_claim_that_decreases_drops_the_peer(lab: SimpleNamespace) -> None:
    async def main() -> None:
        a = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(a):
            for first, second in (((9, 1), (8, 1)), ((9, 5), (9, 4))):
                stranger = await lab.Stranger.dial(a.listen_port)
                await stranger.send(StatusUpdate(*first), StatusUpdate(*second))
                assert await stranger.goodbye() == messages.GOODBYE_MISBEHAVED
                await connected(a, 0)

    run(main)


def test_records_that_do_not_open_end_the_connection(lab: SimpleNamespace) -> None:
    async def main() -> None:
        a = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(a):
            stranger = await lab.Stranger.dial(a.listen_port)
            await connected(a, 1)
            await stranger.stream.send_all(b"\xff\xff" + bytes(65_535))
            assert await stranger.goodbye() == messages.GOODBYE_MISBEHAVED
            await connected(a, 0)

    run(main)


@pytest.mark.parametrize("we_are_smaller", [True, False])
@pytest.mark.parametrize("theirs_first", [True, False])
def test_of_simultaneous_dials_the_smaller_ids_stays(
    lab: SimpleNamespace, we_are_smaller: bool, theirs_first: bool
) -> None:
    """Both connections are authenticated before either is judged, in both orders, seen from both ids."""
    small, large = sorted((1, 2), key=lambda seed: lab.node_id(lab.key(seed)))
    ours, theirs = (small, large) if we_are_smaller else (large, small)

    async def main() -> None:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        address = f"{lab.node_id(lab.key(theirs))}@127.0.0.1:{listener.socket.getsockname()[1]}"
        net = Network(lab.config(ours), lab.MemoryHost())
        async with lab.running(net) as nursery:

            async def dial() -> None:
                try:
                    await net.dial(address)
                except HandshakeError as error:
                    assert "duplicate" in str(error)

            nursery.start_soon(dial)
            stream = await listener.accept()  # our node has dialled and waits for the other side's hello
            if theirs_first:
                from_them = await lab.Stranger.dial(net.listen_port, theirs)
                await connected(net, 1)
                from_us = await lab.Stranger.shake(stream, theirs, initiator=False)
            else:
                from_us = await lab.Stranger.shake(stream, theirs, initiator=False)
                await connected(net, 1)
                from_them = await lab.Stranger.dial(net.listen_port, theirs)
            loser, winner = (from_them, from_us) if we_are_smaller else (from_us, from_them)
            assert await loser.goodbye() == messages.GOODBYE_DUPLICATE
            await winner.send(Ping(5))
            assert await winner.receive(Pong, Goodbye) == Pong(5)
            (peer,) = net.peers()
            assert peer.inbound is not we_are_smaller
            await listener.aclose()

    run(main)


@pytest.mark.parametrize("yield_s", [0.0, pool.YIELD_S], ids=["truly at once", "the larger id yields"])
def test_nodes_that_all_dial_each_other_end_with_one_connection_a_pair(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, yield_s: float
) -> None:
    """As in a devnet: every node lists all (itself too) and all start at once. No vote is lost while of two
    connections one is given up."""
    monkeypatch.setattr(pool, "YIELD_S", yield_s)

    async def main() -> None:
        ports = [free_port() for _ in range(4)]
        addresses = [f"{lab.node_id(lab.key(s))}@127.0.0.1:{ports[s]}" for s in range(4)]
        nets = [Network(lab.config(s, *addresses, listen_port=ports[s]), lab.MemoryHost()) for s in range(4)]
        async with trio.open_nursery() as nursery:
            for net in nets:
                nursery.start_soon(net.run)

            def one_a_pair() -> bool:
                inbound = {(n.id, p.id): p.inbound for n in nets for p in n.peers()}
                return len(inbound) == 12 and all(inbound[a, b] is not inbound[b, a] for a, b in inbound)

            while not one_a_pair():
                await trio.lowlevel.checkpoint()
            for index, net in enumerate(nets):
                net.broadcast(b"%d:vote" % index)
            for index, net in enumerate(nets):
                got = {(await net.consensus.receive())[1] for _ in range(3)}
                assert got == {b"%d:vote" % other for other in range(4) if other != index}
            nursery.cancel_scope.cancel()

    run(main)


def test_a_newer_connection_in_the_same_direction_replaces_the_older(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            first = await lab.Stranger.dial(net.listen_port)
            await connected(net, 1)
            second = await lab.Stranger.dial(net.listen_port)
            assert await first.goodbye() == messages.GOODBYE_DUPLICATE
            await second.send(Ping(1))
            assert await second.receive(Pong) == Pong(1)
            assert len(net.peers()) == 1

    run(main)


def test_a_persistent_peer_is_found_again_after_its_restart(lab: SimpleNamespace) -> None:
    async def main() -> None:
        port = free_port()
        host = lab.MemoryHost()
        b = Network(lab.config(1, f"{lab.node_id(lab.key(0))}@127.0.0.1:{port}"), host)
        async with lab.running(b):
            for generation in (1, 2, 3):
                a = Network(lab.config(0, listen_port=port), lab.MemoryHost())
                async with lab.running(a):
                    await connected(a, 1)
                    await connected(b, 1)
                    b.broadcast(b"%d:vote" % generation)
                    assert await a.consensus.receive() == (b.id, b"%d:vote" % generation)
                await connected(b, 0)
            assert host.peers_seen == [a.id] * 3

    run(main)


def test_the_wait_before_the_next_dial_doubles_to_twenty_seconds() -> None:
    backoff = pool.Backoff()
    for _ in range(2):
        expected = 0.2
        for _ in range(40):
            assert max(0.2, expected / 2) <= backoff.next_s() <= expected
            expected = min(20.0, expected * 2)
        assert expected == 20.0
        backoff.restart()


def test_dialling_never_gives_up(lab: SimpleNamespace) -> None:
    clock = MockClock()

    async def main() -> None:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        address = f"{'ab' * 32}@127.0.0.1:{listener.socket.getsockname()[1]}"
        async with lab.running(Network(lab.config(0, address), lab.MemoryHost())) as nursery:
            dialled = trio.Event()

            async def refuse_all() -> None:
                for _ in range(12):
                    await (await listener.accept()).aclose()
                dialled.set()

            nursery.start_soon(refuse_all)
            while not dialled.is_set():
                await wait_all_tasks_blocked(0.001)
                clock.jump(20)
        await listener.aclose()
        assert trio.current_time() > 60

    run(main, clock)


def test_five_connections_an_address_except_loopback_and_persistent(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback is the only address that a test has: it is taken for a foreign one."""

    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            for seed in range(10, 17):
                await lab.Stranger.dial(net.listen_port, seed)
            await connected(net, 7)
        monkeypatch.setattr(pool, "is_exempt_address", lambda ip: False)
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            for seed in range(10, 15):
                await lab.Stranger.dial(net.listen_port, seed)
            with pytest.raises(HandshakeError, match="too many connections from your address"):
                await lab.Stranger.dial(net.listen_port, 15)
            await connected(net, 5)
        net = Network(lab.config(0, f"{'ab' * 32}@127.0.0.1:{free_port()}"), lab.MemoryHost())
        async with lab.running(net):
            for seed in range(10, 17):
                await lab.Stranger.dial(net.listen_port, seed)
            await connected(net, 7)

    run(main)


def test_forty_inbound_and_persistent_ones_beyond(lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "INBOUND_MAX", 3)

    async def main() -> None:
        friend = lab.node_id(lab.key(50))
        net = Network(lab.config(0, f"{friend}@127.0.0.1:{free_port()}"), lab.MemoryHost())
        async with lab.running(net):
            for seed in (10, 11, 12):
                await lab.Stranger.dial(net.listen_port, seed)
            await connected(net, 3)
            fourth = await lab.Stranger.dial(net.listen_port, 13)
            assert await fourth.goodbye() == messages.GOODBYE_FULL
            await lab.Stranger.dial(net.listen_port, 50)
            await connected(net, 4)
            assert friend in {p.id for p in net.peers()}

    run(main)


def test_numbers_of_the_design() -> None:
    assert (pool.INBOUND_MAX, pool.OUTBOUND_MAX, pool.PER_ADDRESS_MAX) == (40, 10, 5)
    assert (pool.HANDSHAKE_S, pool.RECONNECT_MIN_S, pool.RECONNECT_MAX_S) == (5, 0.2, 20)


def test_accepting_has_a_rate_limit_before_any_cryptography(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ACCEPTS_BURST", 3)
    clock = MockClock()

    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            streams = [await lab.raw(net.listen_port) for _ in range(3)]
            for stream in streams:
                assert await stream.receive_some(100) == lab.HELLO
            fourth = await lab.raw(net.listen_port)
            assert await rest(fourth) == b""
            clock.jump(1 / pool.ACCEPTS_PER_S)
            fifth = await lab.raw(net.listen_port)
            assert await fifth.receive_some(100) == lab.HELLO

    run(main, clock)


def test_a_peer_that_does_not_read_its_votes_is_disconnected(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(2) as (a, b):
            stranger = await lab.Stranger.dial(a.net.listen_port)
            await connected(a.net, 2)
            vote, count = bytes(60_000), 0
            while len(a.net.peers()) == 2:
                a.net.broadcast(b"%d:" % count + vote)
                assert (await b.net.consensus.receive())[1].startswith(b"%d:" % count)
                count += 1
            assert 60_000 * count > 4 << 20
            assert [p.id for p in a.net.peers()] == [b.net.id]
            await stranger.stream.aclose()

    run(main)


def test_the_host_can_end_a_connection(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            await stranger.send(Consensus(b"bad signature:1"))
            peer, _ = await net.consensus.receive()
            net.misbehaved(peer, "a bad signature")
            assert await stranger.goodbye() == messages.GOODBYE_MISBEHAVED
            assert not net.send(peer, b"x")

    run(main)


@pytest.mark.parametrize(
    "text",
    ["", "ab@h:1", "ab" * 32, f"{'ab' * 32}@:1", f"{'ab' * 32}@h:0", f"{'ab' * 32}@h:65536", f"{'AB' * 32}@h:1",
     f"{'ab' * 32}@h:x", f"{'ab' * 32}@h", f"{'ab' * 32}@h:{'9' * 5000}", f"{'ab' * 32}@a..b:1",
     f"{'ab' * 32}@{'a' * 64}.example:1", f"{'ab' * 32}@a\0b:1", f"{'ab' * 32}@[]:1"],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(AddressError):
        PeerAddress.parse(text)


def test_addresses() -> None:
    for text in (f"{'ab' * 32}@node.example:30303", f"{'0f' * 32}@[::1]:1"):
        assert str(PeerAddress.parse(text)) == text
    assert PeerAddress.parse(f"{'0f' * 32}@[::1]:1").host == "::1"
