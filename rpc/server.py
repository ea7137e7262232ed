"""HTTP/1.1 and WebSocket on one port, over trio: httptools parses HTTP (in C), wsproto frames WebSocket.

Owns connections and their limits; what a request means is the dispatcher's business. Browsers are held back by the
host list (DNS rebinding) and by CORS.
"""

import errno
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import httptools
import orjson
import structlog
import trio
import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, RejectConnection, TextMessage

from rpc.dispatch import Dispatcher, notification
from rpc.events import Hub, Session
from rpc.token import is_authorised

BODY_BYTES_MAX = 5 * 1024 * 1024
"""A request body or a WebSocket message (geth's limit)."""
HEAD_BYTES_MAX = 16 * 1024
PIPELINED_MAX = 32
CONNECTIONS_MAX = 512
IDLE_SECONDS = 120
WRITE_SECONDS = 30
READ_BYTES = 64 * 1024

log = structlog.get_logger("rpc")


class PortInUse(OSError):
    """Another program listens where this server should."""


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen and whom to answer."""

    host: str = "127.0.0.1"
    port: int = 8545
    cors: tuple[str, ...] = ("*",)
    """Origins that a browser page may call from."""
    vhosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Host names that requests may carry; `*` for any."""
    secret: bytes = b""
    """What tokens for admin_ methods are signed with; empty: nobody may call them."""


Page = Callable[[str], tuple[int, bytes] | None]
"""Answers plain GET requests by path (health checks): status and JSON body."""


async def serve(
    config: ServerConfig,
    dispatcher: Dispatcher,
    hub: Hub,
    context: Any,
    page: Page,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen until cancelled; reports the port. Raises PortInUse."""
    try:
        listeners = await trio.open_tcp_listeners(config.port, host=config.host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE or isinstance(error.__cause__, BaseExceptionGroup):
            raise PortInUse(error.errno, f"JSON-RPC port {config.host}:{config.port} is in use") from error
        raise
    limiter = trio.CapacityLimiter(CONNECTIONS_MAX)
    handle = partial(_connection, config, dispatcher, hub, context, page, limiter)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, handle, listeners))
        task_status.started(port)


async def _connection(
    config: ServerConfig,
    dispatcher: Dispatcher,
    hub: Hub,
    context: Any,
    page: Page,
    limiter: trio.CapacityLimiter,
    stream: trio.SocketStream,
) -> None:
    try:
        limiter.acquire_on_behalf_of_nowait(stream)
    except trio.WouldBlock:
        await stream.aclose()
        return
    try:
        await _Http(config, dispatcher, hub, context, page, stream).run()
    except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass  # the client went away, or reads too slowly; a WebSocket's nursery says so in a group
    except* Exception:  # the edge: what one client sends must not take the node down
        log.exception("connection_failed")
    finally:
        limiter.release_on_behalf_of(stream)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await stream.aclose()


@dataclass
class _Request:
    method: bytes
    path: bytes
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool
    upgrade: bool


class _TooLarge(Exception):
    pass


class _Http:
    """One connection; the parser calls the on_ methods."""

    def __init__(
        self,
        config: ServerConfig,
        dispatcher: Dispatcher,
        hub: Hub,
        context: Any,
        page: Page,
        stream: trio.SocketStream,
    ) -> None:
        self.config, self.dispatcher, self.hub, self.context = config, dispatcher, hub, context
        self.page, self.stream = page, stream
        self.parser = httptools.HttpRequestParser(self)
        self.requests: deque[_Request] = deque()
        self.path, self.headers, self.body = b"", {}, bytearray()
        self.head_bytes = 0

    def on_message_begin(self) -> None:
        self.path, self.headers, self.body, self.head_bytes = b"", {}, bytearray(), 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        self.headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        if len(self.body) + len(data) > BODY_BYTES_MAX:
            raise _TooLarge
        self.body += data

    def on_message_complete(self) -> None:
        if len(self.requests) >= PIPELINED_MAX:
            raise _TooLarge
        method, keep_alive = self.parser.get_method(), self.parser.should_keep_alive()
        upgrade = self.headers.get(b"upgrade", b"").lower() == b"websocket"
        request = _Request(method, self.path, self.headers, bytes(self.body), keep_alive, upgrade)
        self.requests.append(request)

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > HEAD_BYTES_MAX:
            raise _TooLarge

    async def run(self) -> None:
        while True:
            with trio.move_on_after(IDLE_SECONDS) as scope:
                data = await self.stream.receive_some(READ_BYTES)
            if scope.cancelled_caught or not data:
                return
            leftover = b""
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                leftover = data[upgrade.args[0] :]
            except httptools.HttpParserCallbackError:
                await self._respond(413, _error_body("content length too large (5242880)"), {}, keep_alive=False)
                return
            except httptools.HttpParserError as error:
                await self._respond(400, _error_body(f"bad request: {error}"), {}, keep_alive=False)
                return
            while self.requests:
                request = self.requests.popleft()
                if request.upgrade:
                    if self._host_allowed(request):
                        await self._websocket(request, leftover)
                    else:
                        await self._respond(403, _error_body("invalid host specified"), request.headers, False)
                    return
                await self._answer(request)
                if not request.keep_alive:
                    return

    async def _answer(self, request: _Request) -> None:
        if not self._host_allowed(request):
            await self._respond(403, _error_body("invalid host specified"), request.headers, request.keep_alive)
        elif request.method == b"POST":
            context = self.context.for_admin() if self._is_admin(request) else self.context
            body = await self.dispatcher.answer(request.body, context)
            await self._respond(200 if body else 204, body, request.headers, request.keep_alive)
        elif request.method == b"OPTIONS":
            await self._respond(204, b"", request.headers, request.keep_alive)
        elif request.method in (b"GET", b"HEAD"):
            found = self.page(request.path.decode("latin-1").split("?")[0])
            status, body = found or (404, _error_body("POST JSON-RPC here, or GET /health, /livez, /readyz"))
            await self._respond(status, body if request.method == b"GET" else b"", request.headers, request.keep_alive)
        else:
            await self._respond(405, _error_body("method not allowed"), request.headers, request.keep_alive)

    def _host_allowed(self, request: _Request) -> bool:
        if "*" in self.config.vhosts:
            return True
        host = request.headers.get(b"host", b"").decode("latin-1").lower()
        name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.split(":")[0]
        return not host or name in self.config.vhosts or name == self.config.host

    def _is_admin(self, request: _Request) -> bool:
        authorization = request.headers.get(b"authorization", b"")
        return bool(self.config.secret) and is_authorised(self.config.secret, authorization, int(time.time()))

    def _cors(self, headers: dict[bytes, bytes]) -> Sequence[bytes]:
        origin = headers.get(b"origin")
        if origin is None:
            return []
        if "*" in self.config.cors:
            allowed = b"*"
        elif origin.decode("latin-1") in self.config.cors:
            allowed = origin
        else:
            return []
        return [
            b"access-control-allow-origin: " + allowed,
            b"access-control-allow-methods: POST, GET, OPTIONS",
            b"access-control-allow-headers: content-type",
            b"access-control-max-age: 600",
            b"vary: origin",
        ]

    async def _respond(self, status: int, body: bytes, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        lines = [
            b"HTTP/1.1 %d %s" % (status, _REASONS[status]),
            b"content-type: application/json",
            *([b"content-length: %d" % len(body)] if status != 204 else []),
            b"connection: keep-alive" if keep_alive else b"connection: close",
            *self._cors(headers),
        ]
        await self._send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    async def _send(self, data: bytes) -> None:
        with trio.fail_after(WRITE_SECONDS):
            await self.stream.send_all(data)

    async def _websocket(self, request: _Request, leftover: bytes) -> None:
        socket = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        try:
            socket.initiate_upgrade_connection(list(request.headers.items()), request.path)
        except (wsproto.utilities.ProtocolError, h11.ProtocolError, UnicodeDecodeError) as error:
            # The last two come through wsproto: a missing Host, bytes that are no ASCII.
            await self._respond(400, _error_body(f"bad WebSocket handshake: {error}"), request.headers, False)
            return
        origin = request.headers.get(b"origin", b"").decode("latin-1")
        if origin and "*" not in self.config.cors and origin not in self.config.cors:
            await self._send(socket.send(RejectConnection(status_code=403)))
            return
        await self._send(socket.send(AcceptConnection()))
        async with trio.open_nursery() as nursery, self.hub.session() as session:
            writer = _Writer(socket, self._send)
            nursery.start_soon(_forward, session, writer, nursery.cancel_scope)
            await self._websocket_reader(socket, session, writer, leftover)
            nursery.cancel_scope.cancel()

    async def _websocket_reader(
        self, socket: wsproto.WSConnection, session: Session, writer: "_Writer", leftover: bytes
    ) -> None:
        message = bytearray()
        context = self.context.for_session(session)
        data = leftover
        while True:
            if data:
                try:
                    socket.receive_data(data)
                except wsproto.utilities.ProtocolError:
                    return
            for event in socket.events():
                match event:
                    case TextMessage() | BytesMessage():
                        part = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                        if len(message) + len(part) > BODY_BYTES_MAX:
                            await writer.send(CloseConnection(code=1009, reason="message too large"))
                            return
                        message += part
                        if event.message_finished:
                            body, message = bytes(message), bytearray()
                            answer = await self.dispatcher.answer(body, context)
                            if answer:
                                await writer.send(TextMessage(data=answer.decode()))
                            session.release()
                    case Ping():
                        await writer.send(event.response())
                    case CloseConnection():
                        await writer.send(event.response())
                        return
                    case Pong():
                        pass
            data = await self.stream.receive_some(READ_BYTES)
            if not data:
                return


class _Writer:
    """Answers and notifications of one WebSocket, one at a time."""

    def __init__(self, socket: wsproto.WSConnection, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.socket, self.send_bytes = socket, send
        self.lock = trio.Lock()

    async def send(self, event: wsproto.events.Event) -> None:
        """Raises trio.ClosedResourceError once either side has said that it closes."""
        async with self.lock:
            try:
                data = self.socket.send(event)
            except wsproto.utilities.LocalProtocolError as error:
                raise trio.ClosedResourceError(str(error)) from error
            await self.send_bytes(data)


async def _forward(session: Session, writer: _Writer, scope: trio.CancelScope) -> None:
    """Send notifications; a client that falls behind by a whole queue is disconnected."""
    while (batch := await session.next()) is not None:
        for identifier, result in batch:
            if identifier in session.subscriptions:
                await writer.send(TextMessage(data=notification(identifier, result).decode()))
    scope.cancel()


_REASONS = {
    200: b"OK",
    204: b"No Content",
    206: b"Partial Content",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    503: b"Service Unavailable",
}


def _error_body(message: str) -> bytes:
    return orjson.dumps({"error": message})
