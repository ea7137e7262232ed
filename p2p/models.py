"""Models from peers: who holds one, its manifest and tokenizer.json from one holder, its chunks from several at once.

Owns which part is asked of whom, how many at a time, and how fast parts are given away. Refuses to know what a manifest
or a chunk means: whoever wants them says which are missing and whether one is good, and a peer that gave a bad one is
dropped. Models travel on the last channel: votes, blocks and sync overtake them.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from p2p import messages
from p2p.errors import MisbehavedPeer
from p2p.framing import MIB
from p2p.host import Host, ModelPiece
from p2p.messages import MODEL_DATA_BYTES_MAX, PART_CHUNK
from p2p.peer import MODEL_REQUESTS_MAX, ModelSlot, Peer, Signal
from p2p.pool import Pool

log = logging.getLogger("labora.p2p")

IN_FLIGHT_MAX = 8  # chunks asked for at once, of all peers together: 2 MiB of memory
IN_FLIGHT_PEER_MAX = 4  # of one peer that has shown that it answers in time; 1 at first
REPLY_S = 10.0
FAILURES_MAX = 2  # in a row, of one peer in one download: after that others are asked
# What is given away, of all models together: to one peer, and to all. It must leave the machine to its chain.
PEER_BYTES_PER_S, ALL_BYTES_PER_S = 32 * MIB, 64 * MIB
BURST_S = 0.25

assert IN_FLIGHT_PEER_MAX <= MODEL_REQUESTS_MAX

NOT_HERE = ModelPiece(0, b"")
Take = Callable[[int, bytes, Sequence[bytes]], Awaitable[None]]


class NobodyHolds(Exception):
    """No connected peer is left that holds the model and gives what it was asked for."""


class Pace:
    """Lets so many bytes a second pass, in the order in which they were announced."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = trio.current_time() - BURST_S

    async def take(self, size: int) -> None:
        """Until it is the turn of these bytes."""
        now = trio.current_time()
        turn = max(self._free_at, now - BURST_S)
        self._free_at = turn + size / self._bytes_per_s
        if turn > now:
            await trio.sleep_until(turn)


class ModelExchange:
    """Both sides of it."""

    def __init__(self, pool: Pool, host: Host) -> None:
        self._pool, self._host = pool, host
        self._ids = itertools.count()
        self._downloads: set[_Download] = set()
        self._answered = Signal()
        self._pace: Pace | None = None

    # -- what this node wants

    async def holders(self, model: bytes) -> list[str]:
        """Ask every peer; the ids of those that say within REPLY_S that they hold the model."""
        self._query(model, again=True)
        with trio.move_on_after(REPLY_S):
            while any(peer.models_held.get(model, False) is None for peer in self._pool.peers.values()):
                await self._answered.wait()
        return [peer.id for peer in self._holders(model)]

    async def blob(self, model: bytes, part: int, size_max: int, check: Callable[[bytes], bool]) -> bytes:
        """The manifest or the tokenizer.json, whole from one holder, so that it is plain who lied when `check` says
        no; then from the next one. At most size_max bytes. Raises NobodyHolds."""
        await self.holders(model)
        tried: set[str] = set()
        while untried := [peer for peer in self._holders(model) if peer.id not in tried]:
            peer = untried[0]
            tried.add(peer.id)
            data = await self._whole(peer, model, part, size_max)
            if data is None:
                continue
            if check(data):
                return data
            peer.misbehave(f"gave {len(data)} bytes as part {part} of model {model.hex()[:16]}, which they are not")
        raise NobodyHolds(f"no connected peer gives part {part} of model {model.hex()[:16]}")

    async def chunks(self, model: bytes, numbers: Iterator[int], take: Take) -> None:
        """Every chunk whose number is given, in any order: `take(number, data, siblings)` raises ValueError when it is
        not the model's, and it is asked of somebody else. Raises NobodyHolds when nobody is left to ask; what `take`
        took before stays taken. Another error of `take` comes out in an exception group."""
        await self.holders(model)
        download = _Download(self, model, numbers, take)
        self._downloads.add(download)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(IN_FLIGHT_MAX):
                    nursery.start_soon(download.fetch)
        finally:
            self._downloads.discard(download)
        if download.unfinished:
            raise NobodyHolds(f"no connected peer gives chunks of model {model.hex()[:16]}")

    def peers_changed(self) -> None:
        """Somebody came or went: who came is asked what it holds."""
        for download in self._downloads:
            self._query(download.model, again=False)
            download.changed.notify()
        self._answered.notify()

    async def ask(self, peer: Peer, model: bytes, part: int, number: int) -> messages.ModelPart | None:
        """One part from one peer; None when it is gone or has not answered within REPLY_S. What it owes us by then it
        may still send."""
        request_id = next(self._ids)
        slot = peer.models_asked[request_id] = ModelSlot()
        peer.send(messages.ModelRequest(request_id, model, part, number))
        with trio.move_on_after(REPLY_S):
            await slot.done.wait()
        return slot.reply

    def _query(self, model: bytes, again: bool) -> None:
        for peer in list(self._pool.peers.values()):
            known = peer.models_held.get(model, False)
            if model not in peer.models_held or (again and known is False):
                peer.models_held[model] = None
                peer.send(messages.ModelQuery(model))

    def _holders(self, model: bytes) -> list[Peer]:
        return [p for p in self._pool.peers.values() if p.models_held.get(model) and not p.closing]

    async def _whole(self, peer: Peer, model: bytes, part: int, size_max: int) -> bytes | None:
        """All pieces from one peer; None when it does not give them. Drops a peer whose pieces do not fit."""
        data = bytearray()
        size: int | None = None
        failures = 0
        while size is None or len(data) < size:
            if len(peer.models_asked) >= MODEL_REQUESTS_MAX:
                return None  # it owes us too much already
            reply = await self.ask(peer, model, part, len(data) // MODEL_DATA_BYTES_MAX)
            if reply is None:
                failures += 1
                if failures >= FAILURES_MAX or peer.closing:
                    return None
                continue
            if not reply.data:
                peer.models_held[model] = False
                return None
            if size is None:
                size = reply.size
            if size > size_max or reply.size != size:
                peer.misbehave(f"part {part} of model {model.hex()[:16]} of {reply.size} bytes, at most {size_max}")
                return None
            if len(reply.data) != min(MODEL_DATA_BYTES_MAX, size - len(data)):
                peer.misbehave(f"{len(reply.data)} bytes at {len(data)} of {size} of model {model.hex()[:16]}")
                return None
            data += reply.data
        return bytes(data)

    # -- from peers

    def on_answer(self, peer: Peer, message: messages.ModelAnswer) -> None:
        if peer.models_held.get(message.model, False) is not None:
            raise MisbehavedPeer(peer.id, f"says what we did not ask of model {message.model.hex()[:16]}")
        peer.models_held[message.model] = bool(message.held)
        self._answered.notify()
        for download in self._downloads:
            download.changed.notify()

    def on_part(self, peer: Peer, message: messages.ModelPart) -> None:
        slot = peer.models_asked.pop(message.request_id, None)
        if slot is None:
            raise MisbehavedPeer(peer.id, f"part of a model {message.request_id}, which we did not ask for")
        slot.reply = message
        slot.done.set()

    def on_query(self, peer: Peer, message: messages.ModelQuery) -> None:
        if peer.model_queries.take():
            peer.send(messages.ModelAnswer(message.model, int(self._host.holds_model(message.model))))

    def on_request(self, peer: Peer, message: messages.ModelRequest) -> None:
        if len(peer.model_requests) >= MODEL_REQUESTS_MAX:
            raise MisbehavedPeer(peer.id, f"more than {MODEL_REQUESTS_MAX} requests for parts of models at once")
        peer.model_requests.append(message)
        peer.model_requested.notify()

    async def serve(self, peer: Peer) -> None:
        """Answer one peer's requests, one at a time, as fast as it reads them and the pace allows."""
        if self._pace is None:
            self._pace = Pace(ALL_BYTES_PER_S)
        own_pace = Pace(PEER_BYTES_PER_S)
        while True:
            while not peer.model_requests:
                await peer.model_requested.wait()
            request = peer.model_requests[0]
            piece = await self._host.get_model_piece(request.model, request.part, request.number) or NOT_HERE
            assert len(piece.data) <= MODEL_DATA_BYTES_MAX, (len(piece.data), request)
            await own_pace.take(len(piece.data))
            await self._pace.take(len(piece.data))
            peer.model_requests.popleft()
            reply = messages.ModelPart(request.request_id, piece.size, piece.data, tuple(piece.siblings))
            await peer.send_waiting(reply)


class _Download:
    """Chunks of one model that somebody waits for."""

    def __init__(self, exchange: ModelExchange, model: bytes, numbers: Iterator[int], take: Take) -> None:
        self.model = model
        self.changed = Signal()
        self.unfinished = False
        """Ended because nobody is left to ask."""
        self._exchange, self._numbers, self._take = exchange, numbers, take
        self._returned: list[int] = []  # heap of those that somebody failed to give
        self._in_flight: Counter[str] = Counter()
        self._window: dict[str, int] = {}
        self._failures: Counter[str] = Counter()
        self._excluded: set[str] = set()

    async def fetch(self) -> None:
        """One of the fetchers: asks for one chunk after the other."""
        while True:
            number = heapq.heappop(self._returned) if self._returned else next(self._numbers, None)
            if number is None:
                if not self._in_flight.total():
                    self.changed.notify()
                    return
                await self.changed.wait()  # what is under way may come back
                continue
            peer = self._choose()
            if peer is None:
                heapq.heappush(self._returned, number)
                if self.unfinished or not (self._in_flight.total() or self._candidates()):
                    self.unfinished = True
                    self.changed.notify()
                    return
                await self.changed.wait()
                continue
            self._in_flight[peer.id] += 1
            try:
                reply = await self._exchange.ask(peer, self.model, PART_CHUNK, number)
                if not await self._settle(peer, number, reply):
                    heapq.heappush(self._returned, number)
            finally:
                self._in_flight[peer.id] -= 1
                self.changed.notify()

    async def _settle(self, peer: Peer, number: int, reply: messages.ModelPart | None) -> bool:
        """Whether the chunk was taken."""
        if reply is None:
            self._window[peer.id] = 1
            self._failures[peer.id] += 1
            if self._failures[peer.id] >= FAILURES_MAX:
                log.info("%r: gave no chunk of model %s in time", peer, self.model.hex()[:16])
                self._excluded.add(peer.id)
            return False
        if not reply.data:
            peer.models_held[self.model] = False
            return False
        try:
            await self._take(number, reply.data, reply.siblings)
        except ValueError as error:
            self._excluded.add(peer.id)
            peer.misbehave(f"model {self.model.hex()[:16]}: {error}")
            return False
        self._failures[peer.id] = 0
        self._window[peer.id] = min(self._window.get(peer.id, 1) + 1, IN_FLIGHT_PEER_MAX)
        return True

    def _candidates(self) -> list[Peer]:
        return [
            peer
            for peer in self._exchange._holders(self.model)
            if peer.id not in self._excluded and len(peer.models_asked) < MODEL_REQUESTS_MAX
        ]

    def _choose(self) -> Peer | None:
        """The one with the fewest under way among those that may be asked for more."""
        able = [p for p in self._candidates() if self._in_flight[p.id] < self._window.get(p.id, 1)]
        return min(able, key=lambda p: (self._in_flight[p.id], self._failures[p.id]), default=None)
