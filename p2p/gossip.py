"""How news spreads: consensus messages and soft answers are flooded, bodies and transactions announced and pulled.

Owns the seen-cache, the inbox of the consensus service, the serve cache of bodies, and who was asked for what. Refuses
to know what is valid: what the host did not accept is never remembered and never passed on.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

import trio

from p2p import framing, messages
from p2p.errors import MisbehavedPeer, shown
from p2p.framing import MIB
from p2p.host import Host
from p2p.peer import BODIES_ASKED_MAX, BoundedSet, Peer, Signal, TxAsked
from p2p.pool import Pool

log = logging.getLogger("labora.p2p")

# Consensus. A height of 128 validators over a few rounds is some thousand messages of 150 bytes.
INBOX_MESSAGES_MAX = 8_192
INBOX_PEER_MESSAGES_MAX = 2_048  # one peer's share, so that a flood crowds out nobody else
INBOX_PEER_BYTES_MAX = 4 * MIB
SEEN_MESSAGES_MAX, SEEN_BYTES_MAX = 16_384, 16 * MIB
HANDED_MESSAGES_MAX, HANDED_BYTES_MAX = 8_192, 8 * MIB
REFLOOD_S = 2.0  # below the rebroadcast timer: each rebroadcast travels the whole network once more

# Soft answers. A busy network of 128 operators makes some thousand messages a second at most; nobody watches them all.
ANSWERS_SEEN_MAX = 4_096
ANSWERS_WAITING_MAX = 256

# Blocks.
BODIES_MAX, BODIES_BYTES_MAX = 16, 8 * MIB
ANNOUNCED_MAX, ANNOUNCERS_MAX = 256, 64
FETCHES_MAX = 64
ASKS_MAX = 8
LOOK_UPS_MAX = 2
ASK_S = 3.0
ASK_AGAIN_S = 0.5

# Transactions.
SOURCES_MAX = 4
PULLS_WAITING_MAX = 2_048  # of each peer, so that nobody uses up the place of others; 50 peers at most
TX_ASKS_MAX = 2
TX_BATCH = 64
TX_REPLY_S = 10.0
TX_TICK_S = 1.0


@dataclass(slots=True)
class _Seen:
    """An accepted consensus message: its bytes, when it was last flooded, and which peers have it."""

    payload: bytes
    flooded_at: float
    has: set[str] = field(default_factory=set)


class ConsensusInbox:
    """Consensus messages from peers for one reader: each peer's in order of arrival, the peers in turn, so that a flood
    delays nobody else's. Bounded in all and per peer; what does not fit is dropped and counted, and may come again."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[bytes]] = OrderedDict()
        self._bytes: Counter[str] = Counter()
        self._count = 0
        # Who sent what waits. The same bytes wait in the queue of each of them, or a flooder could hold back a vote by
        # sending it too; they are given once, what is left of them then is passed over.
        self._waiting: dict[bytes, set[str]] = {}
        self._arrived = Signal()
        self.dropped = 0

    async def receive(self) -> tuple[str, bytes]:
        """The next (peer id, payload)."""
        while (taken := self._next()) is None:
            await self._arrived.wait()
        return taken

    def receive_nowait(self) -> tuple[str, bytes]:
        """The next one if there is one; raises trio.WouldBlock."""
        taken = self._next()
        if taken is None:
            raise trio.WouldBlock
        return taken

    def __aiter__(self) -> ConsensusInbox:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        return await self.receive()

    def __len__(self) -> int:
        """Messages that wait; those that several peers sent count as often."""
        return self._count

    def put(self, peer: str, payload: bytes) -> bool:
        """False when it was dropped."""
        has = self._waiting.get(payload, set())
        if peer in has:
            return True
        if not self._has_room(peer, len(payload)):
            self.dropped += not has
            return bool(has)
        self._queues.setdefault(peer, deque()).append(payload)
        self._bytes[peer] += len(payload)
        self._count += 1
        self._waiting.setdefault(payload, set()).add(peer)
        self._arrived.notify()
        return True

    def _has_room(self, peer: str, size: int) -> bool:
        """Within its share; of a full inbox the longest queue gives way to all others."""
        length = len(self._queues.get(peer, ()))
        if length >= INBOX_PEER_MESSAGES_MAX or self._bytes[peer] + size > INBOX_PEER_BYTES_MAX:
            return False
        if self._count < INBOX_MESSAGES_MAX:
            return True
        longest = max(self._queues, key=lambda other: len(self._queues[other]))
        if len(self._queues[longest]) <= length + 1:
            return False
        payload = self._queues[longest].pop()
        self._left(longest, payload)
        has = self._waiting.get(payload, set())
        has.discard(longest)
        if not has:
            self._waiting.pop(payload, None)
        self.dropped += 1
        return True

    def _next(self) -> tuple[str, bytes] | None:
        while self._queues:
            peer, queue = next(iter(self._queues.items()))
            payload = queue.popleft()
            self._queues.move_to_end(peer)
            self._left(peer, payload)
            has = self._waiting.pop(payload, None)
            if has is not None:
                self.taken(payload, has)
                return peer, payload
        return None

    def _left(self, peer: str, payload: bytes) -> None:
        self._count -= 1
        self._bytes[peer] -= len(payload)
        if not self._queues[peer]:
            del self._queues[peer], self._bytes[peer]

    def taken(self, payload: bytes, has: set[str]) -> None:
        """Told of each message that leaves; the flood listens."""


class Flood(ConsensusInbox):
    """The inbox together with the seen-cache: in from peers, out to those that do not have it."""

    def __init__(self, pool: Pool, host: Host) -> None:
        super().__init__()
        self._pool, self._host = pool, host
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._seen_by_payload: dict[bytes, _Seen] = {}
        self._seen_bytes = 0
        # Who has what the host has taken but not accepted (yet). Only saves sending it back.
        self._handed: OrderedDict[bytes, set[str]] = OrderedDict()
        self._handed_bytes = 0

    def received(self, peer: Peer, payload: bytes) -> None:
        seen = self._seen_by_payload.get(payload)
        if seen is not None:
            # Accepted before: not for the host again. A rebroadcast still has to reach those beyond us who dropped it.
            seen.has.add(peer.id)
            if trio.current_time() - seen.flooded_at >= REFLOOD_S:
                self._send(seen, except_for={peer.id})
            return
        if not self.put(peer.id, payload):
            log.debug("%r: dropped a consensus message of %d bytes, the inbox is full", peer, len(payload))

    def taken(self, payload: bytes, has: set[str]) -> None:
        known = self._handed.pop(payload, None)
        if known is None:
            self._handed_bytes += len(payload)
        self._handed[payload] = has | (known or set())
        while len(self._handed) > HANDED_MESSAGES_MAX or self._handed_bytes > HANDED_BYTES_MAX:
            old, _ = self._handed.popitem(last=False)
            self._handed_bytes -= len(old)

    def relay(self, payload: bytes) -> None:
        """The host accepted this message of a peer: remember it and flood it, once."""
        has = self._handed.pop(payload, None)
        if has is not None:
            self._handed_bytes -= len(payload)
        key = self._host.consensus_key(payload) or payload
        seen = self._seen.get(key)
        if seen is not None:
            return
        seen = self._remember(key, payload)
        seen.has |= has or set()
        self._send(seen, except_for=seen.has)

    def broadcast(self, payload: bytes) -> None:
        """Our own message: to every peer, each time."""
        key = self._host.consensus_key(payload) or payload
        seen = self._seen.get(key)
        if seen is None or seen.payload != payload:
            seen = self._remember(key, payload)
        self._send(seen, except_for=set())

    def forget(self) -> None:
        """What was accepted so far is of no use to anybody any more. A peer that repeats it is not helped to flood the
        whole network with it; the host, who is given it again, knows better."""
        self._seen.clear()
        self._seen_by_payload.clear()
        self._seen_bytes = 0

    def _send(self, seen: _Seen, except_for: set[str]) -> None:
        seen.flooded_at = trio.current_time()
        data = messages.encode(messages.Consensus(seen.payload))
        for peer in list(self._pool.peers.values()):
            if peer.id not in except_for:
                peer.send_encoded(framing.CONSENSUS, data)

    def _remember(self, key: bytes, payload: bytes) -> _Seen:
        self._forget(self._seen.pop(key, None))
        seen = self._seen[key] = _Seen(payload, trio.current_time())
        self._seen_by_payload[payload] = seen
        self._seen_bytes += len(payload)
        while len(self._seen) > SEEN_MESSAGES_MAX or self._seen_bytes > SEEN_BYTES_MAX:
            self._forget(self._seen.popitem(last=False)[1])
        return seen

    def _forget(self, seen: _Seen | None) -> None:
        if seen is not None:
            del self._seen_by_payload[seen.payload]
            self._seen_bytes -= len(seen.payload)


class AnswerFlood:
    """Soft answers from peers for one reader, each once; what the host found good goes on to the other peers. All of it
    may be lost: what does not fit is dropped, and the next of the same answer makes up for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._seen = BoundedSet(ANSWERS_SEEN_MAX)
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._arrived = Signal()

    def __aiter__(self) -> AnswerFlood:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        """The next (peer id, payload)."""
        while not self._waiting:
            await self._arrived.wait()
        return self._waiting.popleft()

    def received(self, peer: Peer, payload: bytes) -> None:
        """From a peer: dropped when it was seen before, when the peer sends too many, or when too many wait."""
        digest = sha256(payload).digest()
        if not peer.answers_budget.take() or digest in self._seen or len(self._waiting) >= ANSWERS_WAITING_MAX:
            return
        self._seen.add(digest)
        self.put(peer.id, payload)

    def put(self, peer: str, payload: bytes) -> None:
        """Give a message to the reader, also one that it had before."""
        if len(self._waiting) < ANSWERS_WAITING_MAX:
            self._waiting.append((peer, payload))
            self._arrived.notify()

    def spread(self, payload: bytes, giver: str | None = None) -> None:
        """To every peer but the one that gave it."""
        self._seen.add(sha256(payload).digest())
        data = messages.encode(messages.SoftAnswer(payload))
        for peer in list(self._pool.peers.values()):
            if peer.id != giver:
                peer.send_encoded(framing.ANSWERS, data, droppable=True)


@dataclass(slots=True)
class _Fetch:
    """One body that somebody waits for."""

    block_hash: bytes
    waiters: int = 0
    body: bytes | None = None
    done: trio.Event = field(default_factory=trio.Event)
    changed: Signal = field(default_factory=Signal)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    offered: deque[tuple[Peer, bytes]] = field(default_factory=deque)
    without: set[Peer] = field(default_factory=set)


@dataclass(slots=True)
class _Announced:
    """Who said that they have a block, and its height as the first of them said."""

    height: int
    by: dict[str, None] = field(default_factory=dict)


class BlockExchange:
    """Whole bodies by hash: keeps a few to serve, fetches those that are missing."""

    def __init__(self, pool: Pool, host: Host) -> None:
        self._pool, self._host = pool, host
        self._bodies: OrderedDict[bytes, bytes] = OrderedDict()
        self._bodies_bytes = 0
        self._announced: OrderedDict[bytes, _Announced] = OrderedDict()
        self._fetches: dict[bytes, _Fetch] = {}
        self._asks = trio.Semaphore(ASKS_MAX)
        self._look_ups = trio.CapacityLimiter(LOOK_UPS_MAX)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def announce(self, block_hash: bytes, height: int, body: bytes) -> None:
        self._keep(block_hash, body)
        announced = self._announced.get(block_hash)
        message = messages.BlockAnnounce(block_hash, height, len(body))
        for peer in list(self._pool.peers.values()):
            if announced is None or peer.id not in announced.by:
                peer.send(message)

    def _keep(self, block_hash: bytes, body: bytes) -> None:
        if block_hash not in self._bodies:
            self._bodies[block_hash] = body
            self._bodies_bytes += len(body)
        self._bodies.move_to_end(block_hash)
        while len(self._bodies) > BODIES_MAX or self._bodies_bytes > BODIES_BYTES_MAX:
            _, old = self._bodies.popitem(last=False)
            self._bodies_bytes -= len(old)

    async def fetch(self, block_hash: bytes) -> bytes:
        body = self._bodies.get(block_hash)
        if body is not None:
            await trio.lowlevel.checkpoint()
            return body
        assert self._nursery is not None, "the network is not running"
        fetch = self._fetches.get(block_hash)
        if fetch is None:
            if len(self._fetches) >= FETCHES_MAX:
                raise RuntimeError(f"{len(self._fetches)} blocks are being fetched already; cancel some")
            fetch = self._fetches[block_hash] = _Fetch(block_hash)
            self._nursery.start_soon(self._pull, fetch)
        fetch.waiters += 1
        try:
            await fetch.done.wait()
        finally:
            fetch.waiters -= 1
            if not fetch.waiters and not fetch.done.is_set():
                fetch.scope.cancel()
                del self._fetches[block_hash]
        assert fetch.body is not None
        return fetch.body

    async def _pull(self, fetch: _Fetch) -> None:
        with fetch.scope:
            asked: set[Peer] = set()
            while True:
                while fetch.offered:
                    peer, body = fetch.offered.popleft()
                    if await self._verified(peer, fetch.block_hash, body):
                        fetch.body = body
                        fetch.done.set()
                        if self._fetches.get(fetch.block_hash) is fetch:  # or nobody waits any more
                            del self._fetches[fetch.block_hash]
                        self._pass_on(fetch.block_hash, body)
                        return
                candidate = self._next_peer(fetch.block_hash, asked)
                if candidate is None:
                    with trio.move_on_after(ASK_AGAIN_S):
                        await fetch.changed.wait()
                    asked.clear()
                    continue
                asked.add(candidate)
                fetch.without.discard(candidate)
                async with self._asks:
                    if candidate.closing or fetch.offered:
                        continue
                    # A peer that still owes an answer is not asked twice, only waited for.
                    if fetch.block_hash not in candidate.bodies_asked:
                        candidate.bodies_asked.add(fetch.block_hash)
                        candidate.send(messages.BlockRequest(fetch.block_hash))
                    with trio.move_on_after(ASK_S):
                        while not (fetch.offered or candidate in fetch.without or candidate.closing):
                            await fetch.changed.wait()

    def _pass_on(self, block_hash: bytes, body: bytes) -> None:
        """Peers that do not know the one we have it from can pull it here."""
        announced = self._announced.get(block_hash)
        if announced is None:
            self._keep(block_hash, body)  # nobody said its height: it is only served
        else:
            self.announce(block_hash, announced.height, body)

    def _next_peer(self, block_hash: bytes, asked: set[Peer]) -> Peer | None:
        """Announcers first, then the rest as they connected; never one that was asked in this turn."""
        announced = self._announced.get(block_hash)
        for peer_id in () if announced is None else announced.by:
            peer = self._pool.peers.get(peer_id)
            if peer is not None and peer not in asked and _can_be_asked(peer):
                return peer
        return next((p for p in self._pool.peers.values() if p not in asked and _can_be_asked(p)), None)

    async def _verified(self, peer: Peer, block_hash: bytes, body: bytes) -> bool:
        try:
            actual = await trio.to_thread.run_sync(self._host.body_hash, body)
        except ValueError as error:
            peer.misbehave(f"a malformed body for block 0x{block_hash.hex()}: {error}")
            return False
        if actual != block_hash:
            peer.misbehave(f"body of block 0x{actual.hex()} where 0x{block_hash.hex()} was asked for")
            return False
        return True

    # -- from peers

    def on_announce(self, peer: Peer, message: messages.BlockAnnounce) -> None:
        announced = self._announced.setdefault(message.block_hash, _Announced(message.height))
        if len(announced.by) < ANNOUNCERS_MAX:
            announced.by[peer.id] = None
        if len(self._announced) > ANNOUNCED_MAX:
            self._announced.popitem(last=False)
        if message.block_hash in self._fetches:
            self._fetches[message.block_hash].changed.notify()

    def on_request(self, peer: Peer, message: messages.BlockRequest) -> None:
        body = self._bodies.get(message.block_hash)
        if body is not None:
            peer.send(messages.BlockBody(message.block_hash, body))
            return
        if peer.bodies_looked_up >= BODIES_ASKED_MAX:
            raise MisbehavedPeer(peer.id, f"more than {BODIES_ASKED_MAX} requests for blocks at once")
        peer.bodies_looked_up += 1
        assert self._nursery is not None, "peers are served while the network runs"
        self._nursery.start_soon(self._look_up, peer, message.block_hash)

    async def _look_up(self, peer: Peer, block_hash: bytes) -> None:
        """From the host's store, away from the event loop."""
        body = await trio.to_thread.run_sync(self._host.get_body, block_hash, limiter=self._look_ups)
        peer.bodies_looked_up -= 1
        peer.send(messages.BlockBody(block_hash, body or b""))

    def on_body(self, peer: Peer, message: messages.BlockBody) -> None:
        if message.block_hash not in peer.bodies_asked:
            raise MisbehavedPeer(peer.id, f"body of block 0x{message.block_hash.hex()}, which we did not ask for")
        peer.bodies_asked.remove(message.block_hash)
        fetch = self._fetches.get(message.block_hash)
        if fetch is None:
            return  # came too late, another peer was faster
        if message.body:
            fetch.offered.append((peer, message.body))
        else:
            fetch.without.add(peer)
        fetch.changed.notify()

    def peers_changed(self) -> None:
        for fetch in self._fetches.values():
            fetch.changed.notify()


def _can_be_asked(peer: Peer) -> bool:
    return not peer.closing and len(peer.bodies_asked) < BODIES_ASKED_MAX


@dataclass(slots=True)
class _Want:
    """A transaction that some peers have and we do not: who else can be asked."""

    sources: deque[str] = field(default_factory=deque)


class TxExchange:
    """Transactions by hash: announces ours, pulls theirs."""

    def __init__(self, pool: Pool, host: Host) -> None:
        self._pool, self._host = pool, host
        self._wanted: OrderedDict[bytes, _Want] = OrderedDict()
        # Its length is bounded by what we asked for: TX_ASKS_MAX replies a peer, counted until the host is done.
        self._replies: deque[tuple[Peer, tuple[bytes, ...]]] = deque()
        self._replied = Signal()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_over)
            nursery.start_soon(self._watch)

    def announce(self, hashes: Iterable[bytes]) -> None:
        hashes = list(hashes)
        for peer in list(self._pool.peers.values()):
            fresh = [h for h in hashes if h not in peer.tx_known]
            for start in range(0, len(fresh), messages.TX_HASHES_MAX):
                chunk = tuple(fresh[start : start + messages.TX_HASHES_MAX])
                if peer.send(messages.TxAnnounce(chunk), droppable=True):
                    for tx_hash in chunk:
                        peer.tx_known.add(tx_hash)

    # -- from peers

    def on_announce(self, peer: Peer, message: messages.TxAnnounce) -> None:
        for tx_hash in message.hashes:
            peer.tx_known.add(tx_hash)
        if not peer.tx_budget.take(len(message.hashes)) or any(asked.given_up for asked in peer.tx_asked):
            return  # a flood, or from one who does not give what it announces
        for tx_hash in message.hashes:
            if self._host.has_tx(tx_hash):
                continue
            want = self._wanted.get(tx_hash)
            if want is not None:
                if len(want.sources) < SOURCES_MAX and peer.id not in want.sources:
                    want.sources.append(peer.id)
            elif len(peer.tx_todo) < PULLS_WAITING_MAX:
                self._wanted[tx_hash] = _Want()
                peer.tx_todo.append(tx_hash)
        self._ask(peer)

    def on_request(self, peer: Peer, message: messages.TxRequest) -> None:
        raws: list[bytes] = []
        size = 0
        for tx_hash in message.hashes:
            raw = self._host.get_tx(tx_hash)
            if raw is None:
                continue
            if size + len(raw) > messages.TRANSACTIONS_BYTES_MAX:
                break
            size += len(raw)
            raws.append(raw)
            peer.tx_known.add(tx_hash)
        peer.send(messages.Transactions(tuple(raws)))

    def on_transactions(self, peer: Peer, message: messages.Transactions) -> None:
        if not peer.tx_asked:
            raise MisbehavedPeer(peer.id, f"{len(message.raws)} transactions that we did not ask for")
        asked = peer.tx_asked.popleft()
        missing = dict.fromkeys(asked.hashes)
        for raw in message.raws:
            tx_hash = self._host.tx_hash(raw)
            if tx_hash not in missing:
                raise MisbehavedPeer(peer.id, f"transaction {shown(tx_hash)}, which we did not ask for")
            del missing[tx_hash]
            self._wanted.pop(tx_hash, None)
        if not asked.given_up:
            if message.raws:  # the rest did not fit, or is gone: the next answer tells
                peer.tx_todo.extendleft(reversed(missing))
            else:
                self._ask_others(missing)
        if message.raws:
            peer.tx_handling += 1
            self._replies.append((peer, message.raws))
            self._replied.notify()
        self._ask(peer)

    def peer_lost(self, peer: Peer) -> None:
        hashes = [h for asked in peer.tx_asked if not asked.given_up for h in asked.hashes]
        self._ask_others([*hashes, *peer.tx_todo])
        peer.tx_asked.clear()
        peer.tx_todo.clear()

    # -- pulling

    def _ask(self, peer: Peer) -> None:
        while peer.tx_todo and not peer.closing and len(peer.tx_asked) + peer.tx_handling < TX_ASKS_MAX:
            batch: list[bytes] = []
            while peer.tx_todo and len(batch) < TX_BATCH:
                tx_hash = peer.tx_todo.popleft()
                if tx_hash not in self._wanted:
                    continue
                if self._host.has_tx(tx_hash):
                    del self._wanted[tx_hash]
                else:
                    batch.append(tx_hash)
            if batch:
                hashes = tuple(batch)
                peer.tx_asked.append(TxAsked(hashes, trio.current_time() + TX_REPLY_S))
                peer.send(messages.TxRequest(hashes))

    def _ask_others(self, hashes: Iterable[bytes]) -> None:
        """Each hash goes to the next peer that announced it; without one it is forgotten until announced again."""
        touched: set[Peer] = set()
        for tx_hash in hashes:
            want = self._wanted.get(tx_hash)
            if want is None:
                continue
            while want.sources:
                other = self._pool.peers.get(want.sources.popleft())
                if other is not None and not other.closing and len(other.tx_todo) < PULLS_WAITING_MAX:
                    other.tx_todo.append(tx_hash)
                    touched.add(other)
                    break
            else:
                del self._wanted[tx_hash]
        for other in touched:
            self._ask(other)

    async def _hand_over(self) -> None:
        while True:
            while not self._replies:
                await self._replied.wait()
            peer, raws = self._replies.popleft()
            await self._host.on_transactions(peer.id, raws)
            peer.tx_handling -= 1
            self._ask(peer)

    async def _watch(self) -> None:
        """Ask others for what a peer does not deliver."""
        while True:
            await trio.sleep(TX_TICK_S)
            now = trio.current_time()
            for peer in list(self._pool.peers.values()):
                for asked in list(peer.tx_asked):
                    if asked.deadline <= now and not asked.given_up:
                        asked.given_up = True
                        hashes = [*asked.hashes, *peer.tx_todo]
                        peer.tx_todo.clear()
                        self._ask_others(hashes)
