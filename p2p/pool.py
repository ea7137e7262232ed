"""Who we are connected to: listener, dials, admission, reconnection.

Owns the set of peers, the limits on their number, and the scores. Refuses to know what peers talk about: `handle` and
`serve` are passed to every `Peer.run`.
"""

from __future__ import annotations

import ipaddress
import logging
import random
import socket
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

from p2p import handshake, messages
from p2p.errors import HandshakeError
from p2p.framing import KIB
from p2p.handshake import Handshake, Session
from p2p.host import NetworkConfig, PeerAddress
from p2p.messages import Message
from p2p.peer import Peer, Signal, TokenBucket

log = logging.getLogger("labora.p2p")

HANDSHAKE_S = 5.0
LINGER_S = 1.0
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.2, 20.0
YIELD_S = 0.3  # the larger id lets the smaller dial first, whose connection would stay anyway
STABLE_S = 10.0  # a connection that lasted this long starts the reconnection delay afresh
INBOUND_MAX = 40
OUTBOUND_MAX = 10
PEERS_MAX = INBOUND_MAX + OUTBOUND_MAX
PER_ADDRESS_MAX = 5
HANDSHAKES_MAX = 40  # inbound ones in progress
ACCEPTS_PER_S, ACCEPTS_BURST = 20, 60  # before any cryptography
NOTSENT_LOWAT_BYTES = 128 * KIB
# Linux's number, for a Python that does not name it. Elsewhere the kernel's buffer is as it is.
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)
SCORES_MAX = 4_096
SCORE_MISBEHAVED = -20


class Backoff:
    """How long to wait before each next dial: doubling from RECONNECT_MIN_S to RECONNECT_MAX_S, with jitter, so that
    two nodes that lost each other do not dial in step."""

    def __init__(self) -> None:
        self._delay = RECONNECT_MIN_S

    def restart(self) -> None:
        self._delay = RECONNECT_MIN_S

    def next_s(self) -> float:
        delay, self._delay = self._delay, min(RECONNECT_MAX_S, self._delay * 2)
        return max(RECONNECT_MIN_S, delay * random.uniform(0.5, 1.0))


class Pool:
    """All connections of one node."""

    def __init__(
        self,
        config: NetworkConfig,
        *,
        handle: Callable[[Peer, Message], None],
        serve: Callable[[Peer], Awaitable[None]],
        connected: Callable[[Peer], None],
        lost: Callable[[Peer], None],
    ) -> None:
        self.own_id = handshake.node_id(config.node_key)
        self.peers: dict[str, Peer] = {}
        self.changed = Signal()
        self.listen_port = 0
        self._config = config
        self._hello = handshake.encode_hello(config.chain_id, config.genesis_hash)
        self._persistent = {a.id: a for a in map(PeerAddress.parse, config.persistent_peers) if a.id != self.own_id}
        self._handle, self._serve, self._connected, self._lost = handle, serve, connected, lost
        self._scores: OrderedDict[str, int] = OrderedDict()
        self._inbound_by_ip: dict[str, int] = {}
        self._handshakes = 0
        self._nursery: trio.Nursery | None = None

    async def listen(self) -> list[trio.SocketListener]:
        """Bind the port. Raises OSError."""
        listeners = await trio.open_tcp_listeners(self._config.listen_port, host=self._config.listen_host)
        self.listen_port = listeners[0].socket.getsockname()[1]
        return listeners

    async def run(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept and dial until cancelled."""
        self._accepts = TokenBucket(ACCEPTS_PER_S, ACCEPTS_BURST)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(trio.serve_listeners, self._accept, listeners)
            for address in self._persistent.values():
                nursery.start_soon(self._keep_dialling, address)
            task_status.started()

    async def dial(self, address: PeerAddress) -> None:
        """One attempt; returns once connected. Raises OSError, HandshakeError (limits too) or trio.TooSlowError."""
        outbound = sum(not p.inbound and p.id not in self._persistent for p in self.peers.values())
        if outbound >= OUTBOUND_MAX:
            raise HandshakeError(f"{outbound} outbound peers, at most {OUTBOUND_MAX}")
        assert self._nursery is not None, "the pool is not running"
        await self._nursery.start(self._dial_once, address)

    def score(self, peer_id: str) -> int:
        return self._scores.get(peer_id, 0)

    def penalise(self, peer_id: str, points: int = SCORE_MISBEHAVED) -> None:
        self._scores[peer_id] = self.score(peer_id) + points
        self._scores.move_to_end(peer_id)
        if len(self._scores) > SCORES_MAX:
            self._scores.popitem(last=False)

    # -- inbound

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            ip, port = stream.socket.getpeername()[:2]
        except OSError:  # it reset before we looked
            await trio.aclose_forcefully(stream)
            return
        if not self._accepts.take() or self._handshakes >= HANDSHAKES_MAX:
            log.info("refused %s:%s: too many connections at once", ip, port)
            await trio.aclose_forcefully(stream)
            return
        exempt = is_exempt_address(ip) or any(a.host == ip for a in self._persistent.values())
        refuse = handshake.VERDICT_OK
        if not exempt and self._inbound_by_ip.get(ip, 0) >= PER_ADDRESS_MAX:
            refuse = handshake.REFUSED_ADDRESS
        self._inbound_by_ip[ip] = self._inbound_by_ip.get(ip, 0) + 1
        self._handshakes += 1
        try:
            session = None
            try:
                session = await self._shake(stream, initiator=False, refuse=refuse)
            except (HandshakeError, trio.TooSlowError) as error:
                log.info("no connection with %s:%s: %s", ip, port, _text(error))
            finally:
                self._handshakes -= 1
            if session is not None:
                await self._run_peer(Peer(stream, session, f"{ip}:{port}", ip, inbound=True))
        finally:
            self._inbound_by_ip[ip] -= 1
            if not self._inbound_by_ip[ip]:
                del self._inbound_by_ip[ip]

    # -- outbound

    async def _keep_dialling(self, address: PeerAddress) -> None:
        """Stay connected to one persistent peer, for ever."""
        backoff = Backoff()
        while True:
            while address.id in self.peers:
                await self.changed.wait()
            if self.own_id > address.id:
                with trio.move_on_after(YIELD_S):
                    while address.id not in self.peers:
                        await self.changed.wait()
                    continue
            began = trio.current_time()
            try:
                await self._dial_once(address)
            except (HandshakeError, trio.TooSlowError, OSError) as error:
                log.debug("no connection to %s: %s", address, _text(error))
            if trio.current_time() - began >= STABLE_S:
                backoff.restart()
            await trio.sleep(backoff.next_s())

    async def _dial_once(
        self, address: PeerAddress, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and live as that connection; the errors of `dial` pass until it is admitted."""
        with trio.fail_after(HANDSHAKE_S):
            stream = await trio.open_tcp_stream(address.host, address.port)
        session = await self._shake(stream, initiator=True, expected_id=address.id)
        ip = address.host
        peer = Peer(stream, session, f"{address.host}:{address.port}", ip, inbound=False)
        await self._run_peer(peer, task_status)

    # -- both

    async def _shake(
        self,
        stream: trio.SocketStream,
        *,
        initiator: bool,
        expected_id: str | None = None,
        refuse: int = handshake.VERDICT_OK,
    ) -> Session:
        """The handshake over a stream, which is closed unless this returns."""
        shake = Handshake(
            self._config.node_key, self._hello, initiator=initiator, expected_id=expected_id, refuse=refuse
        )
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if TCP_NOTSENT_LOWAT is not None:
                stream.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
            with trio.fail_after(HANDSHAKE_S):
                await stream.send_all(shake.start())
                while shake.session is None:
                    data = await stream.receive_some(KIB)
                    if not data:
                        raise HandshakeError("the other side closed during the handshake")
                    answer = shake.receive(data)
                    if answer:
                        await stream.send_all(answer)
            return shake.session
        except HandshakeError as error:
            await _refuse(stream, error.farewell)
            raise
        except (trio.BrokenResourceError, OSError) as error:
            await trio.aclose_forcefully(stream)
            raise HandshakeError(f"connection lost during the handshake: {error}")
        except BaseException:  # closed whatever happens, cancellation included, and passed on
            await trio.aclose_forcefully(stream)
            raise

    async def _run_peer(self, peer: Peer, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        code = self._refusal(peer)
        if code is not None:
            await peer.dismiss(code, messages.GOODBYE_REASONS[code])
            if not peer.inbound:
                raise HandshakeError(f"{peer!r}: {messages.GOODBYE_REASONS[code]}")
            return
        old = self.peers.get(peer.id)
        if old is not None:
            old.retire()
        self.peers[peer.id] = peer
        log.info("%r connected", peer)
        try:
            self._connected(peer)
            self.changed.notify()
            task_status.started()
            await peer.run(self._handle, self._serve)
        finally:
            if peer.misbehaved:
                self.penalise(peer.id)
            if self.peers.get(peer.id) is peer:
                del self.peers[peer.id]
            self._lost(peer)
            self.changed.notify()

    def _refusal(self, peer: Peer) -> int | None:
        """The Goodbye code for a connection that may not stay, None if it may."""
        old = self.peers.get(peer.id)
        if old is not None:
            # Both dialled: the connection dialled by the smaller id stays, which both sides see alike. Two in the same
            # direction: the dialler has lost the older one, or would not have dialled again.
            if old.inbound == peer.inbound:
                return None
            dialler = peer.id if peer.inbound else self.own_id
            return None if dialler == min(peer.id, self.own_id) else messages.GOODBYE_DUPLICATE
        if not peer.inbound or peer.id in self._persistent:
            return None
        inbound = sum(p.inbound and p.id not in self._persistent for p in self.peers.values())
        return messages.GOODBYE_FULL if inbound >= INBOUND_MAX else None


def is_exempt_address(ip: str) -> bool:
    """Whether any number of connections may come from here: every node of a devnet is on loopback."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


async def _refuse(stream: trio.SocketStream, farewell: bytes) -> None:
    """Send the reason and close so that it arrives: closing over unread bytes would reset the connection and could
    destroy the reason on its way. What still comes in is read for a moment and thrown away."""
    with trio.CancelScope(shield=True), trio.move_on_after(LINGER_S):
        try:
            if farewell:
                await stream.send_all(farewell)
            await stream.send_eof()
            for _ in range(64):
                if not await stream.receive_some(KIB):
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has gone already
    await trio.aclose_forcefully(stream)


def _text(error: BaseException) -> str:
    return "too slow" if isinstance(error, trio.TooSlowError) else (str(error) or type(error).__name__)
