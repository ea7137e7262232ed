"""The network as the node sees it: start it, say what is new, take what peers say.

Owns the wiring of pool, gossip, sync and models, and who may say what to whom. Refuses to know votes, blocks,
transactions and models: the `Host` judges them.

    network = Network(config, host)
    network.set_head(head_height, base_height)
    port = await nursery.start(network.run)         # listens, dials, floods, serves
    async for peer, payload in network.consensus:   # one task of the host
        if accepted: network.relay(payload)
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

import trio

from p2p import messages
from p2p.errors import (
    FrameError,
    HandshakeError,
    MessageError,
    MisbehavedPeer,
    ProtocolError,
)
from p2p.gossip import AnswerFlood, BlockExchange, ConsensusInbox, Flood, TxExchange
from p2p.handshake import node_id
from p2p.host import AddressError, Host, ModelPiece, NetworkConfig, PeerAddress, PeerInfo
from p2p.messages import PART_CHUNK, PART_MANIFEST, PART_TOKENIZER, Message
from p2p.models import ModelExchange, NobodyHolds
from p2p.peer import Peer
from p2p.pool import Pool
from p2p.sync import BlockSync, SyncBlock, SyncStream

__all__ = [
    "PART_CHUNK",
    "PART_MANIFEST",
    "PART_TOKENIZER",
    "AddressError",
    "AnswerFlood",
    "ConsensusInbox",
    "FrameError",
    "HandshakeError",
    "Host",
    "MessageError",
    "MisbehavedPeer",
    "ModelExchange",
    "ModelPiece",
    "Network",
    "NetworkConfig",
    "NobodyHolds",
    "PeerAddress",
    "PeerInfo",
    "ProtocolError",
    "SyncBlock",
    "SyncStream",
    "node_id",
]


class Network:
    """One node's connections and everything that flows over them. All methods belong to the trio thread."""

    def __init__(self, config: NetworkConfig, host: Host) -> None:
        self._host = host
        self._pool = Pool(
            config, handle=self._handle, serve=self._serve, connected=self._connected, lost=self._lost
        )
        self._flood = Flood(self._pool, host)
        self._blocks = BlockExchange(self._pool, host)
        self._transactions = TxExchange(self._pool, host)
        self._sync = BlockSync(self._pool, host)
        self._models = ModelExchange(self._pool, host)
        self._answers = AnswerFlood(self._pool)
        self._head_height = 0
        self._base_height = 0

    # -- life

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until cancelled; reports the port it listens on through `task_status`. Raises OSError when the port
        cannot be bound (in use, or no such address)."""
        listeners = await self._pool.listen()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._blocks.run)
            await nursery.start(self._sync.run)
            nursery.start_soon(self._transactions.run)
            await nursery.start(self._pool.run, listeners)
            task_status.started(self._pool.listen_port)

    @property
    def id(self) -> str:
        """This node's peer id: its Ed25519 public key in hex."""
        return self._pool.own_id

    @property
    def listen_port(self) -> int:
        """The port that `run` listens on; 0 before it does."""
        return self._pool.listen_port

    def peers(self) -> list[PeerInfo]:
        """The connected peers, longest connected first."""
        return [
            PeerInfo(
                id=p.id,
                address=p.address,
                inbound=p.inbound,
                head_height=p.head_height,
                base_height=p.base_height,
                since=p.since,
                bytes_in=p.bytes_in,
                bytes_out=p.bytes_out,
                rtt_ms=p.rtt_ms,
                score=self._pool.score(p.id),
            )
            for p in self._pool.peers.values()
            if not p.closing
        ]

    async def dial(self, address: str) -> None:
        """Connect once to `id@host:port`; returns when connected, and does not reconnect later. Raises AddressError,
        HandshakeError, OSError or trio.TooSlowError."""
        await self._pool.dial(PeerAddress.parse(address))

    async def wait_peers_changed(self) -> None:
        """Until the next time that a peer comes, goes or reports another head."""
        await self._pool.changed.wait()

    def misbehaved(self, peer: str, reason: str) -> None:
        """The host found that a peer sent something no honest node sends (a bad signature, a malformed payload): it is
        disconnected and scored. Nothing happens when it is gone already."""
        connected = self._pool.peers.get(peer)
        if connected is None:
            self._pool.penalise(peer)
        else:
            connected.misbehave(reason)

    # -- consensus

    @property
    def consensus(self) -> ConsensusInbox:
        """Consensus payloads from peers as (peer id, payload), for one reader; bounded, drops what does not fit. The
        same bytes are not given again once they were accepted (`relay`) or while they wait here; what was not
        accepted comes again when a peer sends it again."""
        return self._flood

    def relay(self, payload: bytes) -> None:
        """The host accepted a payload from the inbox: remember it and flood it to the peers that do not have it."""
        self._flood.relay(payload)

    def broadcast(self, payload: bytes) -> None:
        """Send our own consensus payload (1 byte to 64 KiB - 16) to every peer, each time it is called."""
        self._flood.broadcast(payload)

    def forget_consensus(self) -> None:
        """A height is over: nothing that was relayed or broadcast so far is passed on again when a peer repeats it."""
        self._flood.forget()

    def send(self, peer: str, payload: bytes) -> bool:
        """Send a consensus payload to one peer alone (a certificate that it lacks). False: it is gone."""
        connected = self._pool.peers.get(peer)
        return connected is not None and connected.send(messages.Consensus(payload))

    # -- blocks

    def announce_block(self, block_hash: bytes, height: int, body: bytes) -> None:
        """Keep this wire body to be pulled (the latest 16, at most 8 MiB) and tell every peer that we have it."""
        self._blocks.announce(block_hash, height, body)

    async def fetch_block(self, block_hash: bytes) -> bytes:
        """The wire body with this hash, verified by `Host.body_hash`, from those that announced it, then from any
        peer, again and again until it is there: cancel it when the block is no longer wanted. Callers of the same
        hash share one fetch. Liars are dropped. Raises RuntimeError when 64 fetches are open."""
        return await self._blocks.fetch(block_hash)

    # -- transactions

    def announce_transactions(self, hashes: Iterable[bytes]) -> None:
        """Tell the peers that do not have them that these transactions can be pulled here (`Host.get_tx`)."""
        self._transactions.announce(hashes)

    # -- sync

    def set_head(self, head_height: int, base_height: int) -> None:
        """What we can serve from now on: blocks base_height to head_height. Told to every peer; never decreases."""
        assert head_height >= self._head_height and base_height >= self._base_height, (head_height, base_height)
        self._head_height, self._base_height = head_height, base_height
        for peer in list(self._pool.peers.values()):
            peer.send(messages.StatusUpdate(head_height, base_height))

    def best_claimed_height(self) -> int:
        """The highest head that a connected peer claims, 0 without peers. A hint only: claims may be lies."""
        return max((p.head_height for p in self._pool.peers.values() if not p.closing), default=0)

    def sync_blocks(self, from_height: int) -> AbstractAsyncContextManager[SyncStream]:
        """Blocks from a height on, in order, not verified:

        async with network.sync_blocks(head + 1) as stream:
            async for block in stream:
                if bad: stream.reject(block, reason)    # drops its giver, goes on with the same height

        The stream ends when no peer is left that claims the next height and delivers. It never blocks anything but
        its own reader; at most 64 blocks wait for it."""
        return self._sync.open(from_height)

    # -- soft answers

    @property
    def answers(self) -> AnswerFlood:
        """Soft answers from peers as (peer id, payload), for one reader; good ones are passed on with `spread`."""
        return self._answers

    # -- models

    @property
    def models(self) -> ModelExchange:
        """Parts of models from peers that hold them; what is asked of this node is answered by the host."""
        return self._models

    # -- from the pool

    async def _serve(self, peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sync.serve, peer)
            nursery.start_soon(self._models.serve, peer)

    def _connected(self, peer: Peer) -> None:
        peer.send(messages.StatusUpdate(self._head_height, self._base_height))
        self._peers_changed()
        self._host.on_peer_connected(peer.id)

    def _lost(self, peer: Peer) -> None:
        self._transactions.peer_lost(peer)
        self._peers_changed()

    def _peers_changed(self) -> None:
        self._blocks.peers_changed()
        self._sync.peers_changed()
        self._models.peers_changed()

    def _handle(self, peer: Peer, message: Message) -> None:
        match message:
            case messages.Consensus(payload):
                self._flood.received(peer, payload)
            case messages.BlockAnnounce():
                self._blocks.on_announce(peer, message)
            case messages.BlockRequest():
                self._blocks.on_request(peer, message)
            case messages.BlockBody():
                self._blocks.on_body(peer, message)
            case messages.TxAnnounce():
                self._transactions.on_announce(peer, message)
            case messages.TxRequest():
                self._transactions.on_request(peer, message)
            case messages.Transactions():
                self._transactions.on_transactions(peer, message)
            case messages.RangeRequest():
                self._sync.on_request(peer, message)
            case messages.RangeReply():
                self._sync.on_reply(peer, message)
            case messages.SoftAnswer(payload):
                self._answers.received(peer, payload)
            case messages.ModelQuery():
                self._models.on_query(peer, message)
            case messages.ModelAnswer():
                self._models.on_answer(peer, message)
            case messages.ModelRequest():
                self._models.on_request(peer, message)
            case messages.ModelPart():
                self._models.on_part(peer, message)
            case messages.StatusUpdate():
                self._on_status(peer, message)
            case messages.Ping(nonce):
                peer.send(messages.Pong(nonce))
            case messages.Pong(nonce):
                peer.ponged(nonce)
            case messages.Goodbye(messages.GOODBYE_DUPLICATE):
                peer.retire()
            case messages.Goodbye(code):
                peer.close(None, f"they said: {messages.GOODBYE_REASONS.get(code, f'code {code}')}")

    def _on_status(self, peer: Peer, message: messages.StatusUpdate) -> None:
        if message.base_height > message.head_height:
            raise MisbehavedPeer(peer.id, f"serves blocks {message.base_height} to {message.head_height}")
        if message.head_height < peer.head_height or message.base_height < peer.base_height:
            raise MisbehavedPeer(
                peer.id,
                f"claimed blocks {peer.base_height} to {peer.head_height},"
                f" now {message.base_height} to {message.head_height}",
            )
        peer.head_height, peer.base_height = message.head_height, message.base_height
        self._pool.changed.notify()
        self._sync.peers_changed()
