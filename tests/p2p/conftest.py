"""What the p2p tests share: a host in memory, and a stranger that speaks the protocol by hand over a real socket."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2p import framing, messages
from p2p.handshake import Handshake, encode_hello, node_id
from p2p.messages import Message
from p2p.network import ModelPiece, Network, NetworkConfig
from p2p.peer import Signal

CHAIN_ID = 31337
GENESIS = hashlib.sha256(b"genesis").digest()
HELLO = encode_hello(CHAIN_ID, GENESIS)


LIMIT_S = 30


def run(main: Callable[[], Awaitable[None]], clock: MockClock | None = None) -> None:
    """Run an async test; with a mock clock no time passes except by its jumps."""

    async def limited() -> None:
        if clock is None:
            with trio.fail_after(LIMIT_S):
                await main()
        else:
            await main()

    trio.run(limited, clock=clock)


async def connected(net: Network, count: int) -> None:
    """Returns once it has so many peers."""
    while len(net.peers()) != count:
        await net.wait_peers_changed()


def key(seed: int) -> bytes:
    return hashlib.sha256(b"node key %d" % seed).digest()


def block(height: int) -> tuple[bytes, bytes]:
    """(body, certificate) of a chain in which the certificate is the hash of the body."""
    body = b"block %d " % height + bytes(height * 37 % 5_000)
    return body, hashlib.sha256(body).digest()


class MemoryHost:
    """A host whose hash is sha256 and whose consensus messages are `name:signature`, the same when the name is."""

    def __init__(self, blocks: int = 0) -> None:
        self.blocks = [block(height) for height in range(1, blocks + 1)]
        self.bodies: dict[bytes, bytes] = {}
        self.transactions: dict[bytes, bytes] = {}
        self.peers_seen: list[str] = []
        self.handed: list[tuple[str, Sequence[bytes]]] = []
        self.ranges_asked: list[tuple[int, int]] = []
        self.models: dict[bytes, dict[tuple[int, int], ModelPiece]] = {}
        self.pieces_asked: list[tuple[int, int]] = []
        self.changed = Signal()

    def consensus_key(self, payload: bytes) -> bytes | None:
        name, colon, _ = payload.partition(b":")
        return name if colon else None

    def on_peer_connected(self, peer: str) -> None:
        self.peers_seen.append(peer)
        self.changed.notify()

    def get_body(self, block_hash: bytes) -> bytes | None:
        return self.bodies.get(block_hash)

    def body_hash(self, body: bytes) -> bytes:
        if body.startswith(b"malformed"):
            raise ValueError("starts with malformed")
        return hashlib.sha256(body).digest()

    def tx_hash(self, raw: bytes) -> bytes:
        return hashlib.sha256(raw).digest()

    def has_tx(self, tx_hash: bytes) -> bool:
        return tx_hash in self.transactions

    def get_tx(self, tx_hash: bytes) -> bytes | None:
        return self.transactions.get(tx_hash)

    async def on_transactions(self, peer: str, raws: Sequence[bytes]) -> None:
        self.handed.append((peer, raws))
        self.transactions |= {self.tx_hash(raw): raw for raw in raws}
        self.changed.notify()

    async def get_range(self, from_height: int, count: int, max_bytes: int) -> Sequence[tuple[bytes, bytes]]:
        self.ranges_asked.append((from_height, count))
        return self.blocks[from_height - 1 : from_height - 1 + count]

    def holds_model(self, model: bytes) -> bool:
        return model in self.models

    async def get_model_piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
        self.pieces_asked.append((part, number))
        self.changed.notify()
        return self.models.get(model, {}).get((part, number))

    async def until(self, predicate: object) -> None:
        while not predicate():  # type: ignore[operator]
            await self.changed.wait()


OPENED: list[trio.SocketStream] = []  # by a test, closed behind it


async def raw(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    OPENED.append(stream)
    return stream


class Stranger:
    """One authenticated connection driven by the test."""

    def __init__(self, stream: trio.SocketStream, session: object) -> None:
        self.stream = stream
        self.writer = framing.FrameWriter(session.sending)  # type: ignore[attr-defined]
        self.reader = framing.FrameReader(session.receiving)  # type: ignore[attr-defined]
        self.arrived = [
            messages.decode(*m)
            for m in self.reader.feed(session.trailing)  # type: ignore[attr-defined]
        ]

    @classmethod
    async def dial(cls, port: int, seed: int = 99, **handshake: object) -> Stranger:
        stream = await raw(port)
        return await cls.shake(stream, seed, initiator=True, **handshake)

    @classmethod
    async def shake(
        cls, stream: trio.SocketStream, seed: int, *, initiator: bool, hello: bytes = HELLO, **more: object
    ) -> Stranger:
        OPENED.append(stream)
        handshake = Handshake(key(seed), hello, initiator=initiator, **more)  # type: ignore[arg-type]
        await stream.send_all(handshake.start())
        while handshake.session is None:
            data = await stream.receive_some(1000)
            assert data, "closed during the handshake"
            await stream.send_all(handshake.receive(data))
        return cls(stream, handshake.session)

    async def send(self, *what: Message) -> None:
        for message in what:
            await self.send_bytes(messages.channel_of(message), messages.encode(message))

    async def send_bytes(self, channel: int, data: bytes) -> None:
        offset = 0
        while offset < len(data):
            record, offset = self.writer.record(channel, data, offset)
            await self.stream.send_all(record)

    async def read(self, count: int = 65_536) -> bool:
        """Take what there is on the wire; False at its end."""
        try:
            data = await self.stream.receive_some(count)
        except trio.BrokenResourceError:
            return False
        self.arrived += [messages.decode(*m) for m in self.reader.feed(data)]
        return bool(data)

    async def receive(self, *kinds: type) -> Message:
        """The next message of these kinds (any, if none is named), or None at the end of the connection."""
        while True:
            for index, message in enumerate(self.arrived):
                if not kinds or isinstance(message, kinds):
                    del self.arrived[: index + 1]
                    return message
            if not await self.read():
                raise EOFError(f"the connection ended; had {self.arrived}")

    async def goodbye(self) -> int:
        """The code with which the other side ended the connection."""
        message = await self.receive(messages.Goodbye)
        assert isinstance(message, messages.Goodbye)
        return message.code


def config(seed: int, *peers: str, **more: object) -> NetworkConfig:
    return NetworkConfig(
        **{"node_key": key(seed), "chain_id": CHAIN_ID, "genesis_hash": GENESIS, "persistent_peers": peers, **more}
    )


@asynccontextmanager
async def running(*nodes: Network) -> AsyncIterator[trio.Nursery]:
    """The networks run inside; cancelled at the end."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        yield nursery
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def mesh(count: int, hosts: Sequence[MemoryHost] | None = None) -> AsyncIterator[list[SimpleNamespace]]:
    """`count` nodes, each connected to each; ends them at the end."""
    hosts = hosts or [MemoryHost() for _ in range(count)]
    async with trio.open_nursery() as nursery:
        nodes: list[SimpleNamespace] = []
        for seed in range(count):
            others = (f"{n.net.id}@127.0.0.1:{n.net.listen_port}" for n in nodes)
            net = Network(config(seed, *others), hosts[seed])
            if hosts[seed].blocks:
                net.set_head(len(hosts[seed].blocks), 1)
            await nursery.start(net.run)
            nodes.append(SimpleNamespace(net=net, host=hosts[seed]))
        for node in nodes:
            while len(node.net.peers()) < count - 1:
                await node.net.wait_peers_changed()
        yield nodes
        nursery.cancel_scope.cancel()


@pytest.fixture
def lab() -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(
        GENESIS=GENESIS,
        HELLO=HELLO,
        CHAIN_ID=CHAIN_ID,
        MemoryHost=MemoryHost,
        Stranger=Stranger,
        block=block,
        config=config,
        key=key,
        mesh=mesh,
        node_id=node_id,
        raw=raw,
        running=running,
    )
    for stream in OPENED:
        fd = stream.socket.detach()
        if fd >= 0:
            os.close(fd)
    OPENED.clear()
