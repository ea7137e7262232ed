"""How news spreads over real sockets: votes flooded, bodies and transactions pulled, liars passed over."""

from __future__ import annotations

import hashlib
import os
import threading
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2p import framing, gossip, messages
from p2p.messages import (
    BlockAnnounce,
    BlockBody,
    BlockRequest,
    Consensus,
    Goodbye,
    Ping,
    Pong,
    Transactions,
    TxAnnounce,
    TxRequest,
)
from p2p.network import Network
from p2p.peer import ANSWERS_BURST, BODIES_ASKED_MAX, QUEUE_BYTES_MAX, TX_ANNOUNCED_BURST
from tests.p2p.conftest import LIMIT_S, connected, run


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# -- votes


def test_four_nodes_flood_four_hundred_votes_to_everybody(lab: SimpleNamespace) -> None:
    """Each of four nodes broadcasts 100 votes; each other node gets each vote exactly once after it accepted it."""

    async def main() -> None:
        async with lab.mesh(4) as nodes, trio.open_nursery() as nursery:
            got: list[list[bytes]] = [[] for _ in nodes]

            async def consume(index: int) -> None:
                accepted: set[bytes] = set()
                while len(got[index]) < 300:
                    _, payload = await nodes[index].net.consensus.receive()
                    if payload not in accepted:
                        accepted.add(payload)
                        got[index].append(payload)
                        nodes[index].net.relay(payload)

            async def vote(index: int) -> None:
                for number in range(100):
                    nodes[index].net.broadcast(b"%d/%d:%s" % (index, number, bytes(150)))
                    await trio.lowlevel.checkpoint()

            for index in range(4):
                nursery.start_soon(consume, index)
                nursery.start_soon(vote, index)
            while any(len(g) < 300 for g in got):
                await trio.lowlevel.checkpoint()
            for index, payloads in enumerate(got):
                expected = {(sender, number) for sender in range(4) for number in range(100) if sender != index}
                assert {tuple(map(int, p.split(b":")[0].split(b"/"))) for p in payloads} == expected
            assert all(len(n.net.peers()) == 3 and n.net.consensus.dropped == 0 for n in nodes)

    run(main)


def test_a_vote_crosses_a_node_that_accepts_it_and_not_one_that_does_not(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            one, two = await lab.Stranger.dial(net.listen_port, 1), await lab.Stranger.dial(net.listen_port, 2)
            await connected(net, 2)
            await one.send(Consensus(b"good:1"), Consensus(b"bad:1"), Consensus(b"also good:1"))
            for accepted in (True, False, True):
                peer, payload = await net.consensus.receive()
                assert peer == lab.node_id(lab.key(1))
                if accepted:
                    net.relay(payload)
            assert await two.receive(Consensus) == Consensus(b"good:1")
            assert await two.receive(Consensus) == Consensus(b"also good:1")
            # It does not come back to who sent it.
            await one.send(Ping(1))
            assert await one.receive(Consensus, Pong) == Pong(1)

    run(main)


def test_what_was_accepted_is_not_handed_over_again_and_what_was_dropped_is(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            one = await lab.Stranger.dial(net.listen_port, 1)
            await one.send(Consensus(b"dropped:1"), Consensus(b"accepted:1"))
            assert (await net.consensus.receive())[1] == b"dropped:1"
            _, accepted = await net.consensus.receive()
            net.relay(accepted)
            await one.send(Consensus(b"accepted:1"), Consensus(b"dropped:1"), Consensus(b"new:1"))
            assert (await net.consensus.receive())[1] == b"dropped:1"
            assert (await net.consensus.receive())[1] == b"new:1"

    run(main)


def test_the_same_vote_under_another_signature_is_flooded_once(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            one, two = await lab.Stranger.dial(net.listen_port, 1), await lab.Stranger.dial(net.listen_port, 2)
            await connected(net, 2)
            await one.send(Consensus(b"vote:first signature"), Consensus(b"vote:second"), Consensus(b"end:1"))
            for _ in range(3):
                net.relay((await net.consensus.receive())[1])
            assert await two.receive(Consensus) == Consensus(b"vote:first signature")
            assert await two.receive(Consensus) == Consensus(b"end:1")

    run(main)


def test_a_rebroadcast_reaches_who_dropped_it_behind_one_who_did_not(lab: SimpleNamespace) -> None:
    """one - net - two: net accepted the vote long ago, two is taken to have dropped it. The second sending passes."""
    clock = MockClock()

    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            one, two = await lab.Stranger.dial(net.listen_port, 1), await lab.Stranger.dial(net.listen_port, 2)
            await connected(net, 2)
            await one.send(Consensus(b"vote:1"))
            net.relay((await net.consensus.receive())[1])
            assert await two.receive(Consensus) == Consensus(b"vote:1")
            await one.send(Consensus(b"vote:1"), Ping(1))  # at once: an echo, not a rebroadcast
            await one.receive(Pong)
            clock.jump(gossip.REFLOOD_S)
            await one.send(Consensus(b"vote:1"), Ping(2))
            await one.receive(Pong)
            net.broadcast(b"end:1")
            assert await two.receive(Consensus) == Consensus(b"vote:1")
            assert await two.receive(Consensus) == Consensus(b"end:1")
            assert len(net.consensus) == 0

    run(main, clock)


def test_our_own_message_goes_out_each_time(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            one = await lab.Stranger.dial(net.listen_port, 1)
            await connected(net, 1)
            for _ in range(3):
                net.broadcast(b"vote:1")
                assert await one.receive(Consensus) == Consensus(b"vote:1")
            assert net.send(lab.node_id(lab.key(1)), b"certificate")
            assert await one.receive(Consensus) == Consensus(b"certificate")
            assert not net.send("ab" * 32, b"certificate")

    run(main)


def test_what_is_over_is_not_flooded_again_when_a_peer_repeats_it(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            one, other = await lab.Stranger.dial(net.listen_port, 1), await lab.Stranger.dial(net.listen_port, 2)
            await connected(net, 2)
            net.broadcast(b"vote:1")
            for peer in (one, other):
                await peer.receive(Consensus)
            for over in (False, True):
                if over:
                    net.forget_consensus()
                await trio.sleep(gossip.REFLOOD_S + 1)
                await one.send(Consensus(b"vote:1"), Ping(7))
                await one.receive(Pong)
                await other.send(Ping(8))
                assert isinstance(await other.receive(Consensus, Pong), Pong if over else Consensus)
            assert (await net.consensus.receive())[1] == b"vote:1"

    run(main, clock=MockClock(autojump_threshold=0.05))


def test_a_flood_of_one_peer_is_cut_and_crowds_out_nobody(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            flooder, other = await lab.Stranger.dial(net.listen_port, 1), await lab.Stranger.dial(net.listen_port, 2)
            excess = 100
            for number in range(gossip.INBOX_PEER_MESSAGES_MAX + excess):
                await flooder.send(Consensus(b"%d:x" % number))
            await flooder.send(Ping(1))
            await flooder.receive(Pong)
            assert len(net.consensus) == gossip.INBOX_PEER_MESSAGES_MAX
            assert net.consensus.dropped == excess
            await other.send(Consensus(b"vote:1"), Ping(1))
            await other.receive(Pong)
            assert b"vote:1" in [(await net.consensus.receive())[1] for _ in range(2)], "peers are heard in turn"
            while len(net.consensus):
                await net.consensus.receive()
            # What was dropped may come again.
            await flooder.send(Consensus(b"%d:x" % (gossip.INBOX_PEER_MESSAGES_MAX + 5)))
            assert (await net.consensus.receive())[1] == b"%d:x" % (gossip.INBOX_PEER_MESSAGES_MAX + 5)

    run(main)


def test_the_inbox_hears_peers_in_turn_and_gives_each_message_once() -> None:
    inbox = gossip.ConsensusInbox()
    for number in range(gossip.INBOX_PEER_MESSAGES_MAX):
        for flooder in ("a", "b", "c", "d"):
            assert inbox.put(flooder, b"%s:%d" % (flooder.encode(), number))
    assert len(inbox) == gossip.INBOX_MESSAGES_MAX
    # The flooders hold the vote back at the end of their queues; who is honest still comes to his turn.
    assert not inbox.put("a", b"vote") and inbox.put("e", b"vote") and inbox.put("f", b"other vote")
    assert {inbox.receive_nowait()[1] for _ in range(6)} >= {b"vote", b"other vote"}
    assert inbox.put("a", b"twice") and inbox.put("e", b"twice") and inbox.put("e", b"twice")
    rest = []
    with pytest.raises(trio.WouldBlock):
        while True:
            rest.append(inbox.receive_nowait()[1])
    assert rest.count(b"twice") == 1 and len(inbox) == 0


# -- blocks


def test_a_stored_body_is_read_in_a_thread_and_a_flood_of_requests_is_cut(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        loop, asked, go_on = threading.get_ident(), threading.Event(), threading.Event()

        def get_body(block_hash: bytes) -> bytes:
            assert threading.get_ident() != loop
            asked.set()
            go_on.wait(20)
            return b"stored body"

        host.get_body = get_body
        net = Network(lab.config(0), host)
        async with lab.running(net):
            one, flooder = await lab.Stranger.dial(net.listen_port, 1), await lab.Stranger.dial(net.listen_port, 2)
            await one.send(BlockRequest(sha(b"stored body")))
            await trio.to_thread.run_sync(asked.wait, 20)
            await flooder.send(*(BlockRequest(sha(b"%d" % number)) for number in range(BODIES_ASKED_MAX + 1)))
            assert await flooder.goodbye() == messages.GOODBYE_MISBEHAVED
            go_on.set()
            assert await one.receive(BlockBody) == BlockBody(sha(b"stored body"), b"stored body")

    run(main)


def test_a_vote_overtakes_a_block(lab: SimpleNamespace) -> None:
    """A 900 KiB body is on its way to a peer that reads slowly; a vote cast then arrives long before its end."""

    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        body = os.urandom(900 * 1024)
        async with lab.running(net):
            net.announce_block(sha(body), 1, body)
            slow = await lab.Stranger.dial(net.listen_port)
            await slow.send(BlockRequest(sha(body)))
            while slow.reader._receiving.nonce < 2:  # the first record of the body has been opened
                assert await slow.read(4_096)
            net.broadcast(b"vote:1")
            assert await slow.receive(Consensus, BlockBody) == Consensus(b"vote:1")
            assert await slow.receive(BlockBody) == BlockBody(sha(body), body)

    run(main)


def test_a_block_is_announced_and_pulled_by_hash(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(4) as nodes:
            body = os.urandom(900 * 1024)
            bodies: list[bytes] = []

            async def fetch(node: SimpleNamespace) -> None:
                bodies.append(await node.net.fetch_block(sha(body)))

            async with trio.open_nursery() as nursery:
                for node in nodes[1:] * 2:
                    nursery.start_soon(fetch, node)
                nodes[0].net.announce_block(sha(body), 5, body)
            assert bodies == [body] * 6

            old = os.urandom(1000)
            nodes[2].host.bodies[sha(old)] = old  # not announced, only stored
            assert await nodes[3].net.fetch_block(sha(old)) == old

    run(main)


def test_two_who_want_one_body_share_one_request(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        body = b"body"
        async with lab.running(net):
            one = await lab.Stranger.dial(net.listen_port, 1)
            await connected(net, 1)
            got: list[bytes] = []

            async def fetch() -> None:
                got.append(await net.fetch_block(sha(body)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch)
                nursery.start_soon(fetch)
                with trio.CancelScope() as given_up:
                    nursery.start_soon(fetch)
                    given_up.cancel()
                assert await one.receive(BlockRequest) == BlockRequest(sha(body))
                await one.send(BlockBody(sha(body), body))
            assert got == [body] * 3
            await one.send(Ping(1))
            assert await one.receive(BlockRequest, Pong) == Pong(1)

    run(main)


@pytest.mark.parametrize("lie", [b"another body", b"malformed"])
def test_a_liar_is_dropped_and_the_next_peer_asked(lab: SimpleNamespace, lie: bytes) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        net = Network(lab.config(0), host)
        body = b"the true body"
        async with lab.running(net):
            liar = await lab.Stranger.dial(net.listen_port, 1)
            await liar.send(BlockAnnounce(sha(body), 1, len(body)), Ping(1))
            await liar.receive(Pong)
            honest = await lab.Stranger.dial(net.listen_port, 2)
            await connected(net, 2)
            async with trio.open_nursery() as nursery:

                async def play() -> None:
                    await liar.receive(BlockRequest)  # who announced is asked first
                    await liar.send(BlockBody(sha(body), lie))
                    assert await liar.goodbye() == messages.GOODBYE_MISBEHAVED
                    assert await honest.receive(BlockRequest) == BlockRequest(sha(body))
                    await honest.send(BlockBody(sha(body), body))

                nursery.start_soon(play)
                assert await net.fetch_block(sha(body)) == body
            # What was fetched is announced and served in turn.
            assert await honest.receive(BlockAnnounce) == BlockAnnounce(sha(body), 1, len(body))
            late = await lab.Stranger.dial(net.listen_port, 3)
            await late.send(BlockRequest(sha(body)))
            assert await late.receive(BlockBody) == BlockBody(sha(body), body)

    run(main)


def test_a_peer_without_the_block_or_without_an_answer_is_passed_over(lab: SimpleNamespace) -> None:
    clock = MockClock()

    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        body = b"body"
        async with lab.running(net):
            strangers = [await lab.Stranger.dial(net.listen_port, seed) for seed in (1, 2, 3)]
            await connected(net, 3)
            async with trio.open_nursery() as nursery:

                async def play() -> None:
                    of_id = {lab.node_id(lab.key(seed)): s for seed, s in enumerate(strangers, 1)}
                    without, mute, has = (of_id[p.id] for p in net.peers())  # asked in this order
                    await without.receive(BlockRequest)
                    await without.send(BlockBody(sha(body), b""))
                    await mute.receive(BlockRequest)
                    clock.jump(gossip.ASK_S)
                    await has.receive(BlockRequest)
                    await has.send(BlockBody(sha(body), body))
                    # Too late, but not wrong: the mute one stays connected.
                    await mute.send(BlockBody(sha(body), body), Ping(1))
                    assert await mute.receive(Pong, Goodbye) == Pong(1)

                nursery.start_soon(play)
                assert await net.fetch_block(sha(body)) == body
            assert len(net.peers()) == 3

    run(main, clock)


def test_a_fetch_waits_for_whoever_comes_and_ends_when_cancelled(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        body = b"body"
        async with lab.running(net) as nursery:
            with trio.CancelScope() as scope:
                scope.cancel()
                await net.fetch_block(sha(b"never"))
            assert scope.cancelled_caught

            async def late() -> None:
                stranger = await lab.Stranger.dial(net.listen_port)
                await stranger.receive(BlockRequest)
                await stranger.send(BlockBody(sha(body), body))

            nursery.start_soon(late)
            assert await net.fetch_block(sha(body)) == body

    run(main)


def test_giving_up_while_a_body_is_being_verified_disturbs_nobody(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        verifying, go_on = threading.Event(), threading.Event()

        def slowly(body: bytes) -> bytes:
            verifying.set()
            assert go_on.wait(LIMIT_S)
            return sha(body)

        host.body_hash = slowly
        net = Network(lab.config(0), host)
        async with lab.running(net) as nursery:
            stranger = await lab.Stranger.dial(net.listen_port)
            scope = trio.CancelScope()

            async def fetch() -> None:
                with scope:
                    await net.fetch_block(sha(b"body"))

            nursery.start_soon(fetch)
            await stranger.receive(BlockRequest)
            await stranger.send(BlockBody(sha(b"body"), b"body"))
            await trio.to_thread.run_sync(verifying.wait)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.001)
            go_on.set()

            async def answer() -> None:
                await stranger.receive(BlockRequest)
                await stranger.send(BlockBody(sha(b"body"), b"body"))

            nursery.start_soon(answer)
            assert await net.fetch_block(sha(b"body")) == b"body"

    run(main)


def test_an_unknown_block_is_answered_with_an_empty_body(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            await stranger.send(BlockRequest(sha(b"?")))
            assert await stranger.receive(BlockBody) == BlockBody(sha(b"?"), b"")

    run(main)


# -- transactions


def test_transactions_are_announced_and_pulled_hop_by_hop(lab: SimpleNamespace) -> None:
    """A line a - b - c: what b accepts it announces to c."""

    async def main() -> None:
        hosts = [lab.MemoryHost() for _ in range(3)]
        a = Network(lab.config(0), hosts[0])
        async with lab.running(a):
            b = Network(lab.config(1, f"{a.id}@127.0.0.1:{a.listen_port}"), hosts[1])
            async with lab.running(b):
                c = Network(lab.config(2, f"{b.id}@127.0.0.1:{b.listen_port}"), hosts[2])
                async with lab.running(c) as nursery:
                    await connected(b, 2)
                    await connected(c, 1)
                    raws = [b"tx %d " % n + bytes(n * 300) for n in range(300)]  # about 13 MiB in all
                    hosts[0].transactions = {sha(r): r for r in raws}

                    async def pass_on() -> None:
                        announced = 0
                        while announced < len(raws):
                            await hosts[1].changed.wait()
                            fresh = list(hosts[1].transactions)[announced:]
                            announced += len(fresh)
                            b.announce_transactions(fresh)

                    nursery.start_soon(pass_on)
                    a.announce_transactions(hosts[0].transactions)
                    await hosts[2].until(lambda: len(hosts[2].transactions) == len(raws))
                    assert hosts[2].transactions == hosts[1].transactions == hosts[0].transactions
                    assert {peer for peer, _ in hosts[2].handed} == {b.id}
                    handed = [raw for _, raws in hosts[2].handed for raw in raws]
                    assert len(handed) == len(set(handed))  # each came once

    run(main)


def test_a_flood_of_announcements_is_not_looked_up_and_takes_nobodys_place(lab: SimpleNamespace) -> None:
    clock = MockClock()

    async def main() -> None:
        host, looked_up = lab.MemoryHost(), []
        host.has_tx = lambda tx_hash: looked_up.append(tx_hash)
        net = Network(lab.config(0), host)
        async with lab.running(net):
            honest = await lab.Stranger.dial(net.listen_port, 1)
            for flooder in [await lab.Stranger.dial(net.listen_port, seed) for seed in range(2, 6)]:
                for number in range(TX_ANNOUNCED_BURST // 256 + 20):
                    hashes = (sha(b"%d %d %d" % (id(flooder), number, each)) for each in range(256))
                    await flooder.send(TxAnnounce(tuple(hashes)))
                await flooder.send(Ping(1))
                await flooder.receive(Pong)
            assert len(set(looked_up)) == 4 * TX_ANNOUNCED_BURST
            await honest.send(TxAnnounce((sha(b"tx"),)))
            assert await honest.receive(TxRequest) == TxRequest((sha(b"tx"),))
            # Who does not give what it announces is not asked for more, and what it holds back is asked of others.
            clock.jump(gossip.TX_REPLY_S + gossip.TX_TICK_S)
            while net._transactions._wanted:
                await trio.lowlevel.checkpoint()

    run(main, clock)


def test_a_known_transaction_is_not_asked_for_nor_announced_back(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        host.transactions = {sha(b"known"): b"known"}
        net = Network(lab.config(0), host)
        async with lab.running(net):
            one = await lab.Stranger.dial(net.listen_port, 1)
            await one.send(TxAnnounce((sha(b"known"), sha(b"new"))))
            assert await one.receive(TxRequest) == TxRequest((sha(b"new"),))
            await one.send(Transactions((b"new",)))
            await host.until(lambda: sha(b"new") in host.transactions)
            net.announce_transactions([sha(b"known"), sha(b"new"), sha(b"ours")])
            assert await one.receive(TxAnnounce) == TxAnnounce((sha(b"ours"),))

    run(main)


def test_a_transaction_not_asked_for_drops_the_peer(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        net = Network(lab.config(0), host)
        async with lab.running(net):
            one = await lab.Stranger.dial(net.listen_port, 1)
            await one.send(TxAnnounce((sha(b"asked"),)))
            await one.receive(TxRequest)
            await one.send(Transactions((b"something else",)))
            assert await one.goodbye() == messages.GOODBYE_MISBEHAVED
            assert host.handed == []

    run(main)


def test_another_announcer_is_asked_when_the_first_fails(lab: SimpleNamespace) -> None:
    """The first has it no more, the second falls silent, the third disconnects, the fourth delivers."""
    clock = MockClock()

    async def main() -> None:
        host = lab.MemoryHost()
        net = Network(lab.config(0), host)
        async with lab.running(net):
            strangers = [await lab.Stranger.dial(net.listen_port, seed) for seed in (1, 2, 3, 4)]
            for stranger in strangers:
                await stranger.send(TxAnnounce((sha(b"tx"),)), Ping(1))
                await stranger.receive(TxRequest if stranger is strangers[0] else Pong)
            await strangers[0].send(Transactions(()))
            assert await strangers[1].receive(TxRequest) == TxRequest((sha(b"tx"),))
            clock.jump(gossip.TX_REPLY_S + gossip.TX_TICK_S)
            assert await strangers[2].receive(TxRequest) == TxRequest((sha(b"tx"),))
            await strangers[2].stream.aclose()
            assert await strangers[3].receive(TxRequest) == TxRequest((sha(b"tx"),))
            await strangers[3].send(Transactions((b"tx",)))
            await host.until(lambda: host.transactions)
            # The silent one's answer comes late and is not wrong.
            await strangers[1].send(Transactions((b"tx",)), Ping(2))
            assert await strangers[1].receive(Pong, Goodbye) == Pong(2)

    run(main, clock)


def test_a_request_for_what_is_gone_gets_what_there_is(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        host.transactions = {sha(b"here"): b"here"}
        net = Network(lab.config(0), host)
        async with lab.running(net):
            one = await lab.Stranger.dial(net.listen_port, 1)
            await one.send(TxRequest((sha(b"gone"), sha(b"here"))), TxRequest((sha(b"gone"),)))
            assert await one.receive(Transactions) == Transactions((b"here",))
            assert await one.receive(Transactions) == Transactions(())

    run(main)


def test_announcements_to_a_peer_that_does_not_read_are_dropped_oldest_first(lab: SimpleNamespace) -> None:
    async def main() -> None:
        net = Network(lab.config(0), lab.MemoryHost())
        async with lab.running(net):
            slow = await lab.Stranger.dial(net.listen_port)
            await connected(net, 1)
            hashes = [sha(b"%d" % n) for n in range(256 * 600)]  # 5 MiB; 4 MiB wait, and the kernel takes some
            for start in range(0, len(hashes), 256):
                net.announce_transactions(hashes[start : start + 256])
            net.broadcast(b"vote:1")
            last = TxAnnounce(tuple(hashes[-256:]))
            seen = 0
            while (message := await slow.receive(TxAnnounce, Consensus)) != last:
                seen += 1
                assert isinstance(message, TxAnnounce | Consensus)
            assert seen < 600
            assert len(net.peers()) == 1

    run(main)


# -- soft answers


def test_a_soft_answer_reaches_everybody_once_if_those_between_pass_it_on(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(3) as nodes:
            one, two, three = (node.net for node in nodes)
            one.answers.spread(b"first words")
            for net in (two, three):
                peer, payload = await anext(net.answers)
                assert (peer, payload) == (one.id, b"first words")
                net.answers.spread(payload, giver=peer)
            one.answers.spread(b"more words")
            for net in (two, three):
                assert (await anext(net.answers))[1] == b"more words", "what was heard before is not given again"

    run(main)


def test_a_flood_of_soft_answers_is_cut_to_a_budget_and_costs_nobody_the_connection(lab: SimpleNamespace) -> None:
    async def main() -> None:
        host = lab.MemoryHost()
        net = Network(lab.config(1), host)
        async with lab.running(net):
            stranger = await lab.Stranger.dial(net.listen_port)
            for number in range(ANSWERS_BURST + 300):
                await stranger.send(messages.SoftAnswer(b"%d" % number))
            await stranger.send(Ping(7))
            await stranger.receive(Pong)
            assert len(net.answers._waiting) == gossip.ANSWERS_WAITING_MAX
            for number in range(gossip.ANSWERS_WAITING_MAX):
                assert await anext(net.answers) == (net.peers()[0].id, b"%d" % number)

    run(main)


def test_a_peer_that_reads_slowly_loses_the_oldest_soft_answers_and_stays(lab: SimpleNamespace) -> None:
    async def main() -> None:
        async with lab.mesh(2) as nodes:
            (peer,) = nodes[0].net._pool.peers.values()
            count = 3 * QUEUE_BYTES_MAX[framing.ANSWERS] // 4_000
            for number in range(count):  # nothing leaves before this task waits
                nodes[0].net.answers.spread(number.to_bytes(4_000, "big"))
            assert peer._queued_bytes[framing.ANSWERS] <= QUEUE_BYTES_MAX[framing.ANSWERS]
            got = []
            while not got or got[-1] != count - 1:
                got.append(int.from_bytes((await anext(nodes[1].net.answers))[1], "big"))
            assert got == sorted(got) and len(got) < count // 2 and len(nodes[0].net.peers()) == 1

    run(main)
