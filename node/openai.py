"""An OpenAI-compatible HTTP server (vLLM, llama.cpp and others), asked for completions with log-probabilities.

Owns the connection and its bounds: the server is a stranger, so that its bytes, its time and its JSON are limited. What
an answer is worth is inference.tolerant's question. One request a connection; redirects are not followed.
"""

import math
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import h11

from inference.tolerant import (
    END_TOKENS,
    Candidates,
    Completion,
    ServerError,
    choose,
    read_completion,
    request_body,
)

HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 16 << 20
"""A position with twenty candidates takes about a kilobyte."""
RECEIVE_BYTES = 64 * 1024
SECONDS_MAX = 120.0
"""Of one request, from connecting to the last byte, however slowly they come."""
PATH = "/completions"


@dataclass(frozen=True)
class Server:
    """Where a model is served. url: up to and with /v1. key: sent as a bearer token when there is one."""

    url: str
    model: str
    key: str = ""
    seconds_max: float = SECONDS_MAX
    until: float = math.inf
    """On the monotonic clock: every request is over by then."""

    def complete(self, prompt: str, max_tokens: int, candidates: int) -> Completion:
        """A greedy continuation in one request. Raises ServerError."""
        return read_completion(_post(self, request_body(self.model, prompt, max_tokens, candidates)), max_tokens)

    def next(self, text: str, candidates: int) -> Candidates:
        """The likeliest tokens after a text. A server that ends there without naming a token: the end, for certain."""
        found = self.complete(text, 1, candidates).candidates
        return found[0] if found else {"": 0.0}


def generate(
    server: Server, prompt: str, max_tokens: int, temperature: float, candidates: int, seed: bytes
) -> Completion:
    """An answer. Greedy in one request; else every token is drawn here from the server's candidates, one request a
    token, so that whoever has the seed can repeat the draw, whatever the server. Raises ServerError."""
    if not temperature:
        return server.complete(prompt, max_tokens, candidates)
    tokens: list[str] = []
    listed: list[Candidates] = []
    while len(tokens) < max_tokens and (not tokens or tokens[-1] not in END_TOKENS):
        listed.append(server.next(prompt + "".join(tokens), candidates))
        tokens.append(choose(listed[-1], temperature, seed, len(tokens)))
    return Completion(tuple(tokens), tuple(listed), tokens[-1] in END_TOKENS)


def candidates_after(server: Server, prompt: str, tokens: Sequence[str], candidates: int) -> list[Candidates]:
    """What another server lists at each position of an answer, after the answer's own beginning. Raises ServerError."""
    return [server.next(prompt + "".join(tokens[:i]), candidates) for i in range(len(tokens))]


def _post(server: Server, body: bytes) -> bytes:
    """The body of a 200 response. Raises ServerError."""
    where = urlsplit(server.url)
    try:
        with _Connection(where, min(server.until, time.monotonic() + server.seconds_max)) as connection:
            head = [
                ("Host", where.netloc.rpartition("@")[2]), ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))), ("Connection", "close"), ("Accept-Encoding", "identity"),
            ]  # fmt: skip
            if server.key:
                head.append(("Authorization", f"Bearer {server.key}"))
            status, answer = connection.exchange(where.path.rstrip("/") + PATH, head, body)
    except TimeoutError as error:
        late = time.monotonic() >= server.until
        limit = "there was time for" if late else f"{server.seconds_max:g} s"
        raise ServerError(f"{server.url} took longer than {limit}") from error
    except (OSError, h11.RemoteProtocolError, ValueError) as error:
        raise ServerError(f"{server.url}: {error}") from error
    if status != 200:
        raise ServerError(f"{server.url} answered {status}: {answer[:200].decode(errors='replace')}")
    return answer


class _Connection:
    """One request over a socket. Every wait ends at the deadline: a server that sends a byte now and then gains
    nothing."""

    def __init__(self, where: SplitResult, deadline: float) -> None:
        self._deadline = deadline
        port = where.port or (443 if where.scheme == "https" else 80)
        self._socket = socket.create_connection((where.hostname or "", port), self._left())
        if where.scheme == "https":
            self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=where.hostname)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchange(self, path: str, head: list[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
        """(status, body) of the response. Raises OSError, h11.RemoteProtocolError, ServerError."""
        request = h11.Request(method="POST", target=path, headers=head)
        parts = [self._http.send(event) for event in (request, h11.Data(data=body), h11.EndOfMessage())]
        self._socket.settimeout(self._left())
        self._socket.sendall(b"".join(part for part in parts if part))
        status, received = 0, bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._socket.settimeout(self._left())
                data = self._socket.recv(RECEIVE_BYTES)
                if not data and not status:
                    raise ConnectionError("the connection was closed without an answer")
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > BODY_BYTES_MAX:
                    raise ServerError(f"a response of more than {BODY_BYTES_MAX} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return status, bytes(received)
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("the connection was closed before the response ended")

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def check_url(url: str) -> str | None:
    """What is wrong with a server's address; None when nothing is."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        return "expected http://HOST[:PORT]/v1 or https://..., without a query"
    return None
