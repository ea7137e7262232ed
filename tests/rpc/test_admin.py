"""admin_ methods ask for a token of the node's secret; nothing else opens them."""

import base64
import json
import time
from typing import Any

import orjson
import pytest
import trio

from rpc.errors import UNAUTHORIZED
from rpc.token import AGE_SECONDS_MAX, is_authorised, make_token
from tests.rpc.conftest import serving

SECRET = b"s" * 32
NOW = 1_700_000_000
MODEL = "0x" + "ab" * 32


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


@pytest.mark.parametrize("age", [0, AGE_SECONDS_MAX, -AGE_SECONDS_MAX])
def test_a_fresh_token_of_the_secret_is_good(age: int) -> None:
    assert is_authorised(SECRET, bearer(make_token(SECRET, NOW - age)), NOW)


def test_everything_else_is_not() -> None:
    good = make_token(SECRET, NOW)
    header, claims, mac = good.split(".")
    none = f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{claims}."
    later = f"{header}.{encoded({'iat': NOW + 5})}.{mac}"
    for bad in (
        make_token(b"t" * 32, NOW), make_token(SECRET, NOW - AGE_SECONDS_MAX - 1), make_token(SECRET, NOW + 61), "",
        "..", "a.b.c", good[:-1], good + "A", f"{header}.{claims}", none, later, "é" * 10, good * 100,
    ):  # fmt: skip
        assert not is_authorised(SECRET, bearer(bad), NOW), bad
    for bad_header in (b"", b"Basic " + good.encode(), good.encode(), b"Bearer"):
        assert not is_authorised(SECRET, bad_header, NOW)


async def call(port: int, method: str, params: list[Any], token: str) -> dict[str, Any]:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(head.encode() + b"\r\n" + body)
    answer = b""
    while data := await stream.receive_some(65_536):
        answer += data
    return dict(orjson.loads(answer.partition(b"\r\n\r\n")[2]))


def test_only_a_request_with_a_token_reaches_them(host: Any) -> None:
    async def scenario() -> None:
        token = make_token(SECRET, int(time.time()))
        async with serving(host, secret=SECRET) as port:
            for wrong in ("", "a.b.c", make_token(b"t" * 32, int(time.time()))):
                for method in ("admin_fetchModel", "admin_removeModel"):
                    answer = await call(port, method, [MODEL], wrong)
                    assert answer["error"]["code"] == UNAUTHORIZED
            assert not host.fetched
            peer = f"{'cd' * 32}@127.0.0.1:1"
            assert (await call(port, "admin_fetchModel", [MODEL, peer], token))["result"] is True
            assert host.fetched == {bytes.fromhex("ab" * 32): peer}
            found = await call(port, "labora_localModels", [], "")
            assert found["result"] == [{"model": MODEL, "state": "fetching"}]
            for params in (["0x12"], [MODEL, 7], [MODEL, "x" * 513]):
                assert (await call(port, "admin_fetchModel", params, token))["error"]["code"] == -32602
            assert (await call(port, "admin_removeModel", [MODEL], token))["result"] == len(peer)
            assert not host.fetched
        async with serving(host) as port:  # without a secret nobody may
            empty = make_token(b"", int(time.time()))
            assert (await call(port, "admin_fetchModel", [MODEL], empty))["error"]["code"] == UNAUTHORIZED

    trio.run(scenario)
