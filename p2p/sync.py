"""Catching up: ranges of blocks with their certificates from peers that claim to have them, in order.

Owns which range is asked of whom, the window ahead of the reader, and the serving of ranges. Refuses to know whether a
block is good: the host says so, and says when one is bad. A claim of height is only a hint whom to ask: a peer that
does not deliver what it claims is dropped, and the stream ends as soon as nobody is left to ask.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2p import messages
from p2p.errors import MisbehavedPeer
from p2p.host import Host
from p2p.messages import RANGE_BLOCKS_MAX, RANGE_BYTES_MAX
from p2p.peer import RANGE_REQUESTS_MAX, Peer, RangeSlot, Signal
from p2p.pool import Pool

log = logging.getLogger("labora.p2p")

IN_FLIGHT_MAX = 4
REPLY_S = 10.0
AHEAD_BLOCKS_MAX = IN_FLIGHT_MAX * RANGE_BLOCKS_MAX  # blocks asked for or waiting beyond the reader
assert IN_FLIGHT_MAX <= RANGE_REQUESTS_MAX
FAILURES_MAX = 2  # of one peer in one stream: after that others are asked


@dataclass(frozen=True, slots=True)
class SyncBlock:
    """One block as a peer gave it, not verified. peer: who gave it."""

    height: int
    body: bytes
    certificate: bytes
    peer: str


class SyncStream:
    """Blocks from a height on, in order: `async for block in stream`. It ends when no peer is left that could give the
    next one. `reject(block)` says that the block just read is bad: its giver is dropped and the stream goes on with
    the same height from somebody else."""

    def __init__(self, sync: BlockSync, pool: Pool, from_height: int) -> None:
        self._sync, self._pool = sync, pool
        self._next = from_height
        self._frontier = from_height
        self._segments: list[tuple[int, int]] = []  # heap of (start, count) to be asked for
        self._in_flight = 0
        self._ready: dict[int, SyncBlock] = {}
        self._failures: Counter[str] = Counter()
        self._excluded: set[str] = set()
        self._closed = False
        self.changed = Signal()

    def close(self) -> None:
        self._closed = True
        self.changed.notify()

    def __aiter__(self) -> SyncStream:
        return self

    async def __anext__(self) -> SyncBlock:
        await trio.lowlevel.checkpoint()
        while True:
            block = self._ready.pop(self._next, None)
            if block is not None:
                self._next += 1
                self.changed.notify()
                return block
            if not self._in_flight and not self._candidates(self._next):
                raise StopAsyncIteration
            await self.changed.wait()

    def reject(self, block: SyncBlock, reason: str) -> None:
        """The block read last does not fit the chain or its certificate. Drops its giver and all it gave."""
        assert block.height == self._next - 1, "only the block read last can be rejected"
        self._next = block.height
        self._exclude(block.peer, f"block {block.height} in sync: {reason}")
        lost = sorted(h for h, b in self._ready.items() if b.peer == block.peer)
        for height in lost:
            del self._ready[height]
        for height in (block.height, *lost):
            heapq.heappush(self._segments, (height, 1))
        self.changed.notify()

    async def fetch(self) -> None:
        """One of the fetchers: asks for one range after the other, until the stream is closed."""
        while not self._closed:
            segment = self._take()
            if segment is None:
                await self.changed.wait()
                continue
            (start, count), peer = segment
            self._in_flight += 1
            try:
                reply = await self._sync.ask(peer, start, count)
            finally:
                self._in_flight -= 1
            self._settle(start, count, peer, reply)
            self.changed.notify()

    def _take(self) -> tuple[tuple[int, int], Peer] | None:
        """The lowest range that somebody can be asked for now."""
        if self._segments:
            start, count = heapq.heappop(self._segments)
            while self._segments and self._segments[0][0] == start + count and count < RANGE_BLOCKS_MAX:
                _, more = heapq.heappop(self._segments)
                count += more
            if count > RANGE_BLOCKS_MAX:
                heapq.heappush(self._segments, (start + RANGE_BLOCKS_MAX, count - RANGE_BLOCKS_MAX))
                count = RANGE_BLOCKS_MAX
        elif self._frontier < self._next + AHEAD_BLOCKS_MAX:
            start = self._frontier
            highest = max((p.head_height for p in self._candidates(start)), default=start - 1)
            count = min(RANGE_BLOCKS_MAX, self._next + AHEAD_BLOCKS_MAX - start, highest - start + 1)
            if count <= 0:
                return None
            self._frontier += count
        else:
            return None
        candidates = self._candidates(start)
        if not candidates:
            heapq.heappush(self._segments, (start, count))
            return None
        return (start, count), min(candidates, key=lambda p: (len(p.ranges_asked), self._failures[p.id]))

    def _settle(self, start: int, count: int, peer: Peer, reply: Sequence[tuple[bytes, bytes]] | None) -> None:
        got = 0
        if reply is None:
            self._failures[peer.id] += 1
            if self._failures[peer.id] >= FAILURES_MAX:
                self._excluded.add(peer.id)
        elif not reply:
            self._exclude(peer.id, f"claims height {peer.head_height} and gives nothing from {start} on")
        elif peer.id not in self._excluded:
            got = len(reply)
            for height, (body, certificate) in enumerate(reply, start):
                self._ready[height] = SyncBlock(height, body, certificate, peer.id)
        if got < count:
            heapq.heappush(self._segments, (start + got, count - got))

    def _candidates(self, height: int) -> list[Peer]:
        return [
            p
            for p in self._pool.peers.values()
            if p.base_height <= height <= p.head_height
            and p.id not in self._excluded
            and not p.closing
            and len(p.ranges_asked) < IN_FLIGHT_MAX
        ]

    def _exclude(self, peer_id: str, reason: str) -> None:
        self._excluded.add(peer_id)
        peer = self._pool.peers.get(peer_id)
        if peer is not None:
            peer.misbehave(reason)


class BlockSync:
    """Both sides of block sync."""

    def __init__(self, pool: Pool, host: Host) -> None:
        self._pool, self._host = pool, host
        self._ids = itertools.count()
        self._streams: set[SyncStream] = set()
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def open(self, from_height: int) -> AsyncIterator[SyncStream]:
        stream = SyncStream(self, self._pool, from_height)
        self._streams.add(stream)
        assert self._nursery is not None, "the network is not running"
        for _ in range(IN_FLIGHT_MAX):
            # In the network's nursery, so that an error of the reader is not wrapped in a group on its way out.
            self._nursery.start_soon(stream.fetch)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            stream.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def peers_changed(self) -> None:
        for stream in self._streams:
            stream.changed.notify()

    async def ask(self, peer: Peer, start: int, count: int) -> Sequence[tuple[bytes, bytes]] | None:
        """One range from one peer; None when it is gone or has not answered within REPLY_S."""
        request_id = next(self._ids)
        slot = peer.ranges_asked[request_id] = RangeSlot(count, RANGE_BYTES_MAX)
        peer.send(messages.RangeRequest(request_id, start, count, RANGE_BYTES_MAX))
        with trio.move_on_after(REPLY_S):
            await slot.done.wait()
        return slot.reply

    # -- from peers

    def on_reply(self, peer: Peer, message: messages.RangeReply) -> None:
        slot = peer.ranges_asked.pop(message.request_id, None)
        if slot is None:
            raise MisbehavedPeer(peer.id, f"range reply {message.request_id}, which we did not ask for")
        slot.done.set()  # whoever waits runs after this function: by then the reply is there, or stays None
        size = sum(len(body) + len(certificate) for body, certificate in message.blocks)
        if len(message.blocks) > slot.count or (len(message.blocks) > 1 and size > slot.max_bytes):
            raise MisbehavedPeer(
                peer.id,
                f"{len(message.blocks)} blocks of {size} bytes where {slot.count} of {slot.max_bytes} were asked for",
            )
        slot.reply = message.blocks

    def on_request(self, peer: Peer, message: messages.RangeRequest) -> None:
        if len(peer.range_requests) >= RANGE_REQUESTS_MAX:
            raise MisbehavedPeer(peer.id, f"more than {RANGE_REQUESTS_MAX} range requests at once")
        peer.range_requests.append(message)
        peer.range_requested.notify()

    async def serve(self, peer: Peer) -> None:
        """Answer one peer's range requests, one at a time, as fast as it reads them."""
        while True:
            while not peer.range_requests:
                await peer.range_requested.wait()
            request = peer.range_requests[0]
            blocks = await self._host.get_range(request.from_height, request.count, request.max_bytes)
            assert len(blocks) <= request.count, (len(blocks), request)
            peer.range_requests.popleft()
            await peer.send_waiting(messages.RangeReply(request.request_id, _within(blocks, request.max_bytes)))


def _within(blocks: Sequence[tuple[bytes, bytes]], max_bytes: int) -> tuple[tuple[bytes, bytes], ...]:
    """As many of the first blocks as fit, at least one: the other side drops who sends it more."""
    size = 0
    fitting: list[tuple[bytes, bytes]] = []
    for body, certificate in blocks:
        size += len(body) + len(certificate)
        if fitting and size > max_bytes:
            break
        fitting.append((body, certificate))
    return tuple(fitting)
