"""One connected peer: its queues, its reader, its writer and its pulse, in one nursery.

Owns the stream of an authenticated connection, what was asked of this peer and not answered yet, and the order in which
messages leave: the most urgent channel first, decided anew for every record. Refuses to know other peers and what the
messages do: each decoded message goes to `handle`.
"""

from __future__ import annotations

import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from p2p import framing, messages
from p2p.errors import FrameError, MessageError, MisbehavedPeer, NonceExhausted
from p2p.framing import (
    ANSWERS,
    BLOCKS,
    CHANNELS,
    CONSENSUS,
    CONTROL,
    KIB,
    MIB,
    MODELS,
    REQUESTS,
    SYNC,
    TRANSACTIONS,
)
from p2p.handshake import Session
from p2p.messages import Message

log = logging.getLogger("labora.p2p")

PING_S = 10.0
DEAD_S = 25.0
FAREWELL_S = 0.5
RETIRE_S = 2.0
READ_BYTES = 64 * KIB
BATCH_BYTES = 16 * KIB  # small records that leave in one call; more would be written ahead of a later vote

# What may wait for a peer that reads slowly. A peer that cannot take its votes is of no use and is disconnected, and so
# is one that asks for more than it takes; of announced transactions and soft answers the oldest go first; sync and
# models wait.
QUEUE_BYTES_MAX = {
    CONTROL: 64 * KIB,
    CONSENSUS: 4 * MIB,
    REQUESTS: 256 * KIB,
    BLOCKS: 9 * MIB,
    TRANSACTIONS: 4 * MIB,
    SYNC: 8 * MIB,
    ANSWERS: 128 * KIB,
    MODELS: 528 * KIB,
}
DROPPING = (TRANSACTIONS, ANSWERS)  # channels on which what is new takes the place of what waits longest
WAITING = (SYNC, MODELS)  # channels on which the sender waits for room
# What a peer may have asked of us and not been answered.
RANGE_REQUESTS_MAX = 4
MODEL_REQUESTS_MAX = 4
BODIES_ASKED_MAX = 8
TX_ANNOUNCE_BYTES_MAX = 16 * KIB
TX_KNOWN_MAX = 8_192
# Hashes that a peer may announce; the rest is not looked up. Each costs a look-up in the store.
TX_ANNOUNCED_PER_S, TX_ANNOUNCED_BURST = 2_000, 8_192
# Questions that a peer may ask about what models are here; the rest is not answered.
MODEL_QUERIES_PER_S, MODEL_QUERIES_BURST = 4, 64
# Soft answers that a peer may pass on; the rest is not looked at. Each costs a signature's check.
ANSWERS_PER_S, ANSWERS_BURST = 200, 400

assert set(QUEUE_BYTES_MAX) == set(CHANNELS)
assert QUEUE_BYTES_MAX[BLOCKS] > BODIES_ASKED_MAX * framing.MESSAGE_BYTES_MAX[BLOCKS]
assert TX_ANNOUNCE_BYTES_MAX > messages.TX_HASHES_MAX * 34 + 16


class Signal:
    """Wakes everybody who waits now; who comes later waits for the next time."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        event, self._event = self._event, trio.Event()
        event.set()

    async def wait(self) -> None:
        await self._event.wait()


class TokenBucket:
    """`per_s` tokens a second, at most `burst` saved up."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._tokens, self._at = burst, trio.current_time()

    def take(self, count: int = 1) -> bool:
        """Whether so many were left; then they are gone."""
        now = trio.current_time()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


class BoundedSet:
    """The latest `size_max` hashes."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._items: OrderedDict[bytes, None] = OrderedDict()

    def add(self, item: bytes) -> None:
        self._items[item] = None
        self._items.move_to_end(item)
        if len(self._items) > self._size_max:
            self._items.popitem(last=False)

    def __contains__(self, item: bytes) -> bool:
        return item in self._items


@dataclass(slots=True)
class RangeSlot:
    """One range that was asked for; `reply` stays None when the peer is gone or answered nonsense."""

    count: int
    max_bytes: int
    done: trio.Event = field(default_factory=trio.Event)
    reply: Sequence[tuple[bytes, bytes]] | None = None


@dataclass(slots=True)
class ModelSlot:
    """One part of a model that was asked for; `reply` stays None when the peer is gone or has not answered."""

    done: trio.Event = field(default_factory=trio.Event)
    reply: messages.ModelPart | None = None


@dataclass(slots=True)
class TxAsked:
    """One TxRequest in flight. given_up: its hashes were asked of others, only the place in the order remains."""

    hashes: tuple[bytes, ...]
    deadline: float
    given_up: bool = False


class Peer:
    """A connection with a proven identity. `run` lives as long as it does; everything else may be called meanwhile."""

    def __init__(self, stream: trio.SocketStream, session: Session, address: str, ip: str, inbound: bool) -> None:
        self.id = session.peer_id
        self.address = address
        self.ip = ip
        self.inbound = inbound
        self.since = time.time()
        self.head_height = 0
        self.base_height = 0
        self.status_seen = False
        self.bytes_in = 0
        self.bytes_out = 0
        self.rtt_ms: float | None = None
        self.closing = False
        self.misbehaved = False
        self._retiring = False
        # What we asked and await: nothing of these kinds is accepted unasked.
        self.bodies_asked: set[bytes] = set()
        self.bodies_looked_up = 0  # what it asked of us and is being read
        self.ranges_asked: dict[int, RangeSlot] = {}
        self.tx_asked: deque[TxAsked] = deque()
        # Transactions: hashes that this peer has, those to ask it for, and replies that the host is still chewing.
        self.tx_known = BoundedSet(TX_KNOWN_MAX)
        self.tx_todo: deque[bytes] = deque()
        self.tx_handling = 0
        self.tx_budget = TokenBucket(TX_ANNOUNCED_PER_S, TX_ANNOUNCED_BURST)
        self.range_requests: deque[messages.RangeRequest] = deque()
        self.range_requested = Signal()
        # Models: what we await, what it said to hold (None: asked), what it asked of us.
        self.models_asked: dict[int, ModelSlot] = {}
        self.models_held: dict[bytes, bool | None] = {}
        self.model_requests: deque[messages.ModelRequest] = deque()
        self.model_requested = Signal()
        self.model_queries = TokenBucket(MODEL_QUERIES_PER_S, MODEL_QUERIES_BURST)
        self.answers_budget = TokenBucket(ANSWERS_PER_S, ANSWERS_BURST)

        self._stream = stream
        self._trailing = session.trailing
        self._reader = framing.FrameReader(session.receiving, self._size_max)
        self._writer = framing.FrameWriter(session.sending)
        self._queues: dict[int, deque[tuple[bytes, bool]]] = {channel: deque() for channel in CHANNELS}
        self._queued_bytes = dict.fromkeys(CHANNELS, 0)
        self._offset = dict.fromkeys(CHANNELS, 0)
        self._wake = Signal()
        self._room = {channel: Signal() for channel in WAITING}
        self._writing = False
        self._said_all = False
        self._scope = trio.CancelScope()
        self._goodbye: int | None = None
        self._heard_at = trio.current_time()
        self._ping: tuple[int, float] | None = None

    def __repr__(self) -> str:
        return f"<peer {self.id[:12]} {'from' if self.inbound else 'to'} {self.address}>"

    # -- sending

    def send(self, message: Message, droppable: bool = False) -> bool:
        """Queue a message; False when it was not taken (the peer is closing, or its queue is full)."""
        return self.send_encoded(messages.channel_of(message), messages.encode(message), droppable)

    def send_encoded(self, channel: int, data: bytes, droppable: bool = False) -> bool:
        """As `send`, for an envelope encoded once and sent to many. droppable: may be thrown away while it waits."""
        if self.closing or self._said_all:
            return False
        if self._queued_bytes[channel] + len(data) > QUEUE_BYTES_MAX[channel]:
            if channel in DROPPING:
                self._drop_oldest(channel, len(data))
            full = self._queued_bytes[channel] + len(data) > QUEUE_BYTES_MAX[channel]
            if full and droppable:
                return False
            if full and channel not in WAITING:  # these wait in send_waiting before they come here
                self.close(messages.GOODBYE_SLOW, f"{self._queued_bytes[channel]} bytes wait on channel {channel}")
                return False
        self._queues[channel].append((data, droppable))
        self._queued_bytes[channel] += len(data)
        self._wake.notify()
        return True

    async def send_waiting(self, message: Message) -> None:
        """Queue a message on the channel of sync or models as soon as it fits (back-pressure)."""
        channel, data = messages.channel_of(message), messages.encode(message)
        while self._queued_bytes[channel] and self._queued_bytes[channel] + len(data) > QUEUE_BYTES_MAX[channel]:
            await self._room[channel].wait()
        self.send_encoded(channel, data)

    def _drop_oldest(self, channel: int, needed: int) -> None:
        """Throw away what may be dropped until `needed` bytes fit; never a message whose first part has left."""
        queue, kept = self._queues[channel], deque[tuple[bytes, bool]]()
        if self._offset[channel]:
            kept.append(queue.popleft())
        while queue and self._queued_bytes[channel] + needed > QUEUE_BYTES_MAX[channel]:
            data, droppable = queue.popleft()
            if droppable:
                self._queued_bytes[channel] -= len(data)
            else:
                kept.append((data, droppable))
        queue.extendleft(reversed(kept))

    # -- the end

    def close(self, code: int | None, reason: str) -> None:
        """End the connection. code: the Goodbye for the other side; None when it is gone or has said its own."""
        if self.closing:
            return
        self.closing = True
        self._goodbye = code
        log.info("%r ends: %s", self, reason)
        self._scope.cancel()

    def retire(self) -> None:
        """Another connection takes over: say what is queued, hear what is under way, then end. So no vote is lost when
        of two connections one is given up."""
        if self.closing or self._retiring:
            return
        self._retiring = True
        log.info("%r ends: %s", self, messages.GOODBYE_REASONS[messages.GOODBYE_DUPLICATE])
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + RETIRE_S)
        self._wake.notify()

    # -- life

    async def run(self, handle: Callable[[Peer, Message], None], serve: Callable[[Peer], Awaitable[None]]) -> None:
        """Until the connection ends, for whatever reason of the peer's; our own bugs pass through."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, handle)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._pulse)
                    nursery.start_soon(serve, self)
        finally:
            self.closing = True
            for slot in (*self.ranges_asked.values(), *self.models_asked.values()):
                slot.done.set()
            with trio.CancelScope(shield=True):
                await self._farewell()

    async def dismiss(self, code: int, reason: str) -> None:
        """End a connection that was never run, telling why."""
        self.close(code, reason)
        with trio.CancelScope(shield=True):
            await self._farewell()

    async def _farewell(self) -> None:
        """Say goodbye when the stream is between two records, then close."""
        if self._goodbye is not None and not self._writing:
            with trio.move_on_after(FAREWELL_S):
                data = messages.encode(messages.Goodbye(self._goodbye))
                try:
                    # A message of another channel may be open; control has at most whole small ones.
                    record, _ = self._writer.record(CONTROL, data, 0)
                    await self._stream.send_all(record)
                    await self._stream.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError, NonceExhausted):
                    pass  # the other side has gone first: nobody is left to be told
        await trio.aclose_forcefully(self._stream)

    async def _read(self, handle: Callable[[Peer, Message], None]) -> None:
        data = self._trailing
        try:
            while not self.closing:
                for channel, message in self._reader.feed(data):
                    handle(self, messages.decode(channel, message))
                    if self.closing:
                        return
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    self.close(None, "the other side closed")
                    return
                self.bytes_in += len(data)
                self._heard_at = trio.current_time()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(None, f"connection lost: {error}")
        except (FrameError, MessageError) as error:
            self.misbehave(str(error))
        except MisbehavedPeer as error:
            self.misbehave(error.reason)
        except NonceExhausted as error:
            self.close(None, str(error))

    def misbehave(self, reason: str) -> None:
        self.misbehaved = True
        self.close(messages.GOODBYE_MISBEHAVED, f"misbehaved: {reason}")

    async def _write(self) -> None:
        try:
            while True:
                batch = self._next_batch()
                if not batch and self._retiring:
                    self._said_all = True
                    goodbye = messages.encode(messages.Goodbye(messages.GOODBYE_DUPLICATE))
                    await self._stream.send_all(self._writer.record(CONTROL, goodbye, 0)[0])
                    await self._stream.send_eof()
                    return  # the reader goes on until the other side has said all, too
                if not batch:
                    await self._wake.wait()
                    continue
                self._writing = True
                await self._stream.send_all(batch)
                self._writing = False
                self.bytes_out += len(batch)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(None, f"connection lost: {error}")
        except NonceExhausted as error:
            self.close(None, str(error))

    def _next_batch(self) -> bytes:
        """The next record, or several small ones; always from the most urgent channel that has something."""
        batch = bytearray()
        while len(batch) < BATCH_BYTES:
            channel = next((c for c in CHANNELS if self._queues[c]), None)
            if channel is None:
                break
            data, _ = self._queues[channel][0]
            record, offset = self._writer.record(channel, data, self._offset[channel])
            batch += record
            self._offset[channel] = offset
            if offset == len(data):
                self._queues[channel].popleft()
                self._queued_bytes[channel] -= len(data)
                self._offset[channel] = 0
                if channel in WAITING:
                    self._room[channel].notify()
        return bytes(batch)

    async def _pulse(self) -> None:
        """A ping every PING_S; DEAD_S without a byte and the peer is dead."""
        ping_at = trio.current_time() + PING_S
        while True:
            await trio.sleep_until(min(ping_at, self._heard_at + DEAD_S))
            now = trio.current_time()
            if now >= self._heard_at + DEAD_S:
                self.close(messages.GOODBYE_DEAD, f"not a byte for {DEAD_S} s")
                return
            if now >= ping_at:
                ping_at = now + PING_S
                if self._ping is None:
                    self._ping = random.getrandbits(64), now
                    self.send(messages.Ping(self._ping[0]))

    def ponged(self, nonce: int) -> None:
        if self._ping is None or self._ping[0] != nonce:
            raise MisbehavedPeer(self.id, f"a pong {nonce} without its ping")
        self.rtt_ms = (trio.current_time() - self._ping[1]) * 1000
        self._ping = None

    def _size_max(self, channel: int) -> int:
        """What this peer may begin to send now: large messages only as answers."""
        if channel == BLOCKS and not self.bodies_asked:
            return 0
        if channel == SYNC and not self.ranges_asked:
            return 0
        if channel == MODELS and not self.models_asked:
            return 0
        if channel == TRANSACTIONS and not self.tx_asked:
            return TX_ANNOUNCE_BYTES_MAX
        return framing.MESSAGE_BYTES_MAX[channel]
