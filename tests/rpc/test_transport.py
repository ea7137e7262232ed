"""HTTP and WebSocket on one port: keep-alive, pipelining, batches, limits, CORS, hosts, subscriptions, real clients."""

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
import websockets.sync.client
from web3 import Web3

from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS
from primitives.address import checksum
from rpc import eth_state, events
from rpc.dispatch import BATCH_MAX
from rpc.events import LOGS_AT_ONCE, Subscription
from rpc.logs import Criteria
from rpc.server import BODY_BYTES_MAX
from tests.rpc.conftest import serving

CHAIN_ID = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}).encode()


def request(body: bytes = CHAIN_ID, method: str = "POST", path: str = "/", **headers: str) -> bytes:
    fields = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def exchange(port: int, data: bytes, answers: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
    """Send bytes on one connection; (status, headers, body) of each answer."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    found, buffered = [], b""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, stream, data)
            while len(found) < answers:
                while b"\r\n\r\n" not in buffered:
                    part = await stream.receive_some()
                    assert part, f"closed after {len(found)} answers"
                    buffered += part
                head, _, buffered = buffered.partition(b"\r\n\r\n")
                status, *lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines)
                length = int(headers.get("content-length", 0))
                while len(buffered) < length:
                    buffered += await stream.receive_some()
                found.append((int(status.split()[1]), headers, buffered[:length]))
                buffered = buffered[length:]
            nursery.cancel_scope.cancel()
    await stream.aclose()
    return found


async def send(stream: trio.SocketStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the server hung up on an oversized request, as it should


def with_server(host: Any, check: Callable[[int], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with serving(host, **settings) as port:
                await check(port)

    trio.run(main)


def test_one_connection_answers_many_pipelined_requests_in_order(host: Any) -> None:
    bodies = [json.dumps({"jsonrpc": "2.0", "id": i, "method": "eth_chainId"}).encode() for i in range(20)]

    async def check(port: int) -> None:
        answers = await exchange(port, b"".join(request(body) for body in bodies), 20)
        assert [json.loads(body)["id"] for _, _, body in answers] == list(range(20))
        assert all(headers["connection"] == "keep-alive" for _, headers, _ in answers)

    with_server(host, check)


def test_batches_notifications_and_garbage(host: Any) -> None:
    one = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}
    note = {"jsonrpc": "2.0", "method": "eth_chainId"}

    async def check(port: int) -> None:
        async def ask(value: Any) -> tuple[int, Any]:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            ((status, _, answer),) = await exchange(port, request(body))
            return status, json.loads(answer) if answer else None

        status, answers = await ask([one, note, 5, {"id": 3}])
        assert status == 200 and [answer.get("error", {}).get("code") for answer in answers] == [None, -32600, -32600]
        assert await ask(note) == (204, None)
        assert (await ask(b"{"))[1]["error"]["code"] == -32700
        assert (await ask([]))[1]["error"]["code"] == -32600
        assert (await ask([one] * (BATCH_MAX + 1)))[1]["error"]["message"].startswith("batch too large")
        assert (await ask(b'{"id":1,"method":"eth_chainId","params":{"a":1}}'))[1]["error"]["code"] == -32602
        assert (await ask(b"\xff" * 100))[1]["error"]["code"] == -32700

    with_server(host, check)


def test_oversized_and_malformed_http_is_refused(host: Any) -> None:
    async def check(port: int) -> None:
        ((status, _, _),) = await exchange(port, request(b" " * (BODY_BYTES_MAX + 1)))
        assert status == 413
        ((status, _, _),) = await exchange(port, b"POST / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n")
        assert status == 413
        ((status, _, _),) = await exchange(port, b"NONSENSE\r\n\r\n")
        assert status == 400
        ((status, _, _),) = await exchange(port, request(method="DELETE"))
        assert status == 405
        assert (await exchange(port, request()))[0][0] == 200

    with_server(host, check)


def test_pages_hosts_and_origins(host: Any) -> None:
    async def check(port: int) -> None:
        assert (await exchange(port, request(b"", "GET", "/health")))[0][0] == 200
        assert (await exchange(port, request(b"", "GET", "/nothing")))[0][0] == 404
        assert (await exchange(port, request(Host="evil.example")))[0][0] == 403
        ((_, headers, _),) = await exchange(port, request(Origin="https://dapp.example"))
        assert headers["access-control-allow-origin"] == "https://dapp.example"
        ((_, headers, _),) = await exchange(port, request(Origin="https://evil.example"))
        assert "access-control-allow-origin" not in headers
        ((status, headers, _),) = await exchange(port, request(b"", "OPTIONS", Origin="https://dapp.example"))
        assert status == 204 and "content-type" in headers["access-control-allow-headers"]

    with_server(host, check, cors=("https://dapp.example",))


def test_a_port_in_use_is_named(host: Any) -> None:
    from rpc.server import PortInUse

    async def check(port: int) -> None:
        with pytest.RaisesGroup(PortInUse, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                from rpc.dispatch import Dispatcher
                from rpc.registry import registry
                from rpc.server import ServerConfig, serve

                config = ServerConfig(port=port)
                await nursery.start(serve, config, Dispatcher(registry()), host.hub, host.context, lambda path: None)

    with_server(host, check)


def answer_to(socket: websockets.sync.client.ClientConnection, identifier: int) -> dict[str, Any]:
    """The answer, past any notifications that were under way."""
    while True:
        message = json.loads(socket.recv(10))
        if message.get("id") == identifier:
            return message


def test_websocket_subscriptions_tell_heads_logs_and_pending(host: Any) -> None:
    def client(port: int, produce: Callable[[], None]) -> None:
        with websockets.sync.client.connect(f"ws://127.0.0.1:{port}") as socket:
            identifiers = {}
            for kind, options in (("newHeads", []), ("newPendingTransactions", []), ("logs", [{}])):
                socket.send(json.dumps({"id": kind, "method": "eth_subscribe", "params": [kind, *options]}))
                answer = json.loads(socket.recv(10))
                assert answer["id"] == kind
                identifiers[answer["result"]] = kind
            produce()
            seen: dict[str, list[Any]] = {}
            while len(seen.get("newHeads", [])) < 1 or "newPendingTransactions" not in seen:
                params = json.loads(socket.recv(10))["params"]
                seen.setdefault(identifiers[params["subscription"]], []).append(params["result"])
            assert seen["newHeads"][0]["number"] == "0x1"
            heads = next(identifier for identifier, kind in identifiers.items() if kind == "newHeads")
            socket.send(json.dumps({"id": 9, "method": "eth_unsubscribe", "params": [heads]}))
            assert answer_to(socket, 9)["result"] is True
            socket.send(json.dumps({"id": 10, "method": "eth_subscribe", "params": ["nothing"]}))
            assert answer_to(socket, 10)["error"]["code"] == -32602

    def act() -> None:
        host.send()
        host.produce()

    async def check(port: int) -> None:
        await trio.to_thread.run_sync(client, port, lambda: trio.from_thread.run_sync(act))

    with_server(host, check)


def test_the_answers_to_a_batch_are_bounded(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpc.dispatch.BATCH_BYTES_MAX", 100)
    batch = [{"id": i, "method": "eth_getBlockByNumber", "params": ["latest", False]} for i in range(3)]

    async def check(port: int) -> None:
        ((_, _, answer),) = await exchange(port, request(json.dumps(batch).encode()))
        first, *others = json.loads(answer)
        assert first["result"]["number"] == "0x0"
        assert [(other["id"], other["error"]["code"]) for other in others] == [(1, -32003), (2, -32003)]

    with_server(host, check)


def test_the_time_for_a_batch_is_bounded(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [{"id": i, "method": "eth_chainId"} for i in range(2)]

    async def check(port: int) -> None:
        ((_, _, answer),) = await exchange(port, request(json.dumps(batch).encode()))
        assert [each["result"] for each in json.loads(answer)] == ["0x7a69"] * 2
        monkeypatch.setattr("rpc.dispatch.BATCH_SECONDS_MAX", -1.0)
        ((_, _, answer),) = await exchange(port, request(json.dumps(batch).encode()))
        assert [(each["id"], each["error"]["code"]) for each in json.loads(answer)] == [(0, -32002), (1, -32002)]

    with_server(host, check)


def test_nothing_that_reads_the_store_runs_in_the_event_loop(host: Any) -> None:
    """Block, receipts or trie nodes may be slow to fetch and large; votes wait for the loop."""
    sent = host.send()
    host.produce()
    block, transaction = "0x" + host.ledger.head.hash.hex(), "0x" + sent.hash.hex()
    account = "0x" + ACCOUNT_ADDRESSES[0].hex()
    calls = {
        "eth_getBlockByNumber": ["0x1"], "eth_getBlockByHash": [block], "eth_getTransactionByHash": [transaction],
        "eth_getTransactionReceipt": [transaction], "eth_getBlockReceipts": ["0x1"], "eth_getBalance": [account],
        "eth_getTransactionCount": [account], "eth_getCode": [account], "eth_getStorageAt": [account, "0x0"],
        "eth_gasPrice": [], "txpool_content": [], "eth_getLogs": [{}], "labora_validators": [],
    }  # fmt: skip
    here, store = threading.get_ident(), host.ledger._store

    class Watched:
        def __getattr__(self, name: str) -> Any:
            assert threading.get_ident() != here, f"{name} in the event loop"
            return getattr(store, name)

    async def check(port: int) -> None:
        host.ledger._store = Watched()
        batch = [{"id": name, "method": name, "params": params} for name, params in calls.items()]
        ((_, _, answer),) = await exchange(port, request(json.dumps(batch).encode()))
        assert [each for each in json.loads(answer) if "error" in each] == []

    with_server(host, check)


async def open_websocket(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 101")
    return stream


def frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame, the mask being zero."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


SUBSCRIBE = json.dumps({"id": 1, "method": "eth_subscribe", "params": ["newHeads"]}).encode()


def test_a_client_that_resets_its_websocket_harms_nobody_else(host: Any) -> None:
    async def check(port: int) -> None:
        for subscribed in (False, True):
            stream = await open_websocket(port)
            if subscribed:
                await stream.send_all(frame(1, SUBSCRIBE))
                await stream.receive_some(4096)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
            assert (await exchange(port, request()))[0][0] == 200
            host.produce()
            assert (await exchange(port, request()))[0][0] == 200

    with_server(host, check)


def test_a_notification_after_the_clients_farewell_harms_nobody_else(host: Any) -> None:
    async def check(port: int) -> None:
        stream = await open_websocket(port)
        await stream.send_all(frame(1, SUBSCRIBE) * 50)
        told = b""
        while told.count(b'"result"') < 50:
            told += await stream.receive_some()
        await stream.send_all(frame(8, b"\x03\xe8"))
        host.produce()  # before the server has read the farewell
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await exchange(port, request()))[0][0] == 200
        await stream.aclose()

    with_server(host, check)


MANY_LOGS = bytes.fromhex("6103e8" "5b" "5f5fa0" "600190" "03" "80" "6003" "57" "00")
"""Init code: LOG0 of nothing, a thousand times."""


def test_a_block_of_many_logs_is_told_in_slices_between_which_others_have_their_turn(host: Any) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def main() -> None:
        async with host.hub.session() as session, trio.open_nursery() as nursery:
            every, none = Criteria(frozenset(), ()), Criteria(frozenset((b"\x01" * 20,)), ())
            wanted = [session.subscribe(Subscription("logs", which)) for which in (every, every, every, none, none)]
            session.release()
            host.send(to=b"", gas=2_000_000, data=MANY_LOGS)
            host.produce()
            late = session.subscribe(Subscription("logs", every))
            session.release()
            nursery.start_soon(others)
            told: Counter[str] = Counter()
            slices = 0
            while sum(told.values()) < 3 * 1_000:
                batch = await session.next()
                assert batch is not None and len(batch) < LOGS_AT_ONCE + len(wanted)
                told.update(identifier for identifier, _ in batch)
                slices += 1
            assert set(told) == set(wanted[:3]) and late not in told
            assert turns >= slices >= 3 * 1_000 // (LOGS_AT_ONCE + len(wanted))
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_client_that_takes_nothing_is_let_go(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BLOCKS_WAITING_MAX", 2)
    monkeypatch.setattr(events, "TRANSACTIONS_WAITING_MAX", 3)

    async def main() -> None:
        for kind, act, most in (("newHeads", host.produce, 2), ("newPendingTransactions", host.send, 3)):
            async with host.hub.session() as slow, host.hub.session() as other:
                for session in (slow, other):
                    session.subscribe(Subscription(kind))
                    session.release()
                for _ in range(most + 1):
                    act()
                    assert await other.next() is not None
                assert await slow.next() is None and not slow.subscriptions

    trio.run(main)


def test_notifications_for_a_reset_websocket_whose_call_still_runs_harm_nobody(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call in a thread cannot be cancelled: the session outlives its writer by as long as the call takes."""
    monkeypatch.setattr(eth_state, "CALL_SECONDS_MAX", 1)
    loop = {"id": 2, "method": "eth_call", "params": [{"to": "0x" + "ee" * 20}, "latest", {"0x" + "ee" * 20: {
        "code": "0x5b5f56"}}]}  # fmt: skip

    async def check(port: int) -> None:
        stream = await open_websocket(port)
        await stream.send_all(frame(1, SUBSCRIBE))
        await stream.receive_some(4096)
        await stream.send_all(frame(1, json.dumps(loop).encode()))
        await trio.testing.wait_all_tasks_blocked(0.05)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        for _ in range(3):
            host.send()
            host.produce()
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await exchange(port, request()))[0][0] == 200

    with_server(host, check)


def test_a_malformed_websocket_handshake_harms_nobody_else(host: Any) -> None:
    good = request(b"", "GET", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Version="13")
    good = good.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")

    async def check(port: int) -> None:
        without_host, no_ascii = good.replace(b"Host:", b"Most:"), good.replace(b"Upgrade\r", b"Upg\xffrade\r")
        for bad in (without_host, no_ascii):
            ((status, _, _),) = await exchange(port, bad)
            assert status == 400
        assert (await exchange(port, request()))[0][0] == 200

    with_server(host, check)


def test_an_id_that_could_not_be_given_back_is_refused(host: Any) -> None:
    async def check(port: int) -> None:
        nested = b'{"jsonrpc":"2.0","method":"eth_chainId","id":' + b"[" * 300 + b"]" * 300 + b"}"
        ((status, _, answer),) = await exchange(port, request(nested))
        assert status == 200 and json.loads(answer)["error"]["code"] == -32600

    with_server(host, check)


def test_web3_sends_waits_and_reads(host: Any) -> None:
    def client(port: int, produce: Callable[[], None]) -> None:
        web3 = Web3(Web3.HTTPProvider(f"http://127.0.0.1:{port}"))
        assert web3.is_connected() and web3.eth.chain_id == 31337
        account = web3.eth.account.from_key(ACCOUNT_KEYS[0])
        for index, form in enumerate(
            (
                {"gasPrice": web3.eth.gas_price},
                {"gasPrice": web3.eth.gas_price, "accessList": []},
                {"maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9},
            )
        ):
            nonce = web3.eth.get_transaction_count(account.address, "pending")
            fields = {"to": checksum(ACCOUNT_ADDRESSES[1]), "value": 10**18, "gas": 21_000, "nonce": nonce}
            signed = account.sign_transaction({**fields, **form, "chainId": 31337})
            sent = web3.eth.send_raw_transaction(signed.raw_transaction)
            produce()
            receipt = web3.eth.get_transaction_receipt(sent)
            assert receipt["status"] == 1 and receipt["type"] == index
        block = web3.eth.get_block("latest", full_transactions=True)
        assert block["hash"] == web3.eth.get_block(block["number"])["hash"]
        assert web3.eth.fee_history(2, "latest", [50])["reward"]

    async def check(port: int) -> None:
        await trio.to_thread.run_sync(client, port, lambda: trio.from_thread.run_sync(host.produce))

    with_server(host, check)
