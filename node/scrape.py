"""Where Prometheus scrapes: one page over HTTP/1.1 (h11), one request a connection. Knows no metric.

A port of its own, so that it may be opened to who collects metrics while JSON-RPC stays closed, or the other way round.
"""

import errno
from collections.abc import Awaitable, Callable
from functools import partial

import h11
import trio

from node.exits import PORT_IN_USE, Fatal

CONNECTIONS_MAX = 16
SECONDS_MAX = 10.0
"""For a whole request and its answer."""
READ_BYTES = 16 * 1024
PATH = "/metrics"

Page = Callable[[str], Awaitable[tuple[bytes, str]]]
"""(body, content type) for the types that a request accepts."""


async def serve(address: str, page: Page, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Listen on host:port until cancelled; reports the address. Raises Fatal."""
    host, _, port = address.rpartition(":")
    try:
        listeners = await trio.open_tcp_listeners(int(port), host=host.strip("[]"))
    except OSError as error:
        why = error.strerror or "cannot listen there"
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            why = f"{why} ({error})"
        raise Fatal(PORT_IN_USE, f"metrics on {address}: {why}; choose another --metrics") from error
    limiter = trio.CapacityLimiter(CONNECTIONS_MAX)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, partial(_connection, page, limiter), listeners))
        task_status.started(f"{host}:{listeners[0].socket.getsockname()[1]}")


async def _connection(page: Page, limiter: trio.CapacityLimiter, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            limiter.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            return
        try:
            with trio.move_on_after(SECONDS_MAX):
                await _answer(page, stream)
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass  # it went away, or does not speak HTTP
        finally:
            limiter.release_on_behalf_of(stream)


async def _answer(page: Page, stream: trio.SocketStream) -> None:
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=READ_BYTES)
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await stream.receive_some(READ_BYTES))
    if not isinstance(event, h11.Request):
        return
    path = event.target.split(b"?")[0].decode("ascii")
    if event.method not in (b"GET", b"HEAD"):
        status, body, content_type = 405, b"GET it\n", "text/plain"
    elif path != PATH:
        status, body, content_type = 404, f"the page is {PATH}\n".encode(), "text/plain"
    else:
        status = 200
        body, content_type = await page(dict(event.headers).get(b"accept", b"").decode("latin-1"))
    headers = [("content-type", content_type), ("content-length", str(len(body))), ("connection", "close")]
    await stream.send_all(
        (http.send(h11.Response(status_code=status, headers=headers)) or b"")
        + (http.send(h11.Data(data=body)) or b"" if event.method != b"HEAD" else b"")
    )
