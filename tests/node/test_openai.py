"""The tolerant lane over real sockets: a server's answers, their check by a second one, and servers that mean harm."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest
from openai_peer import FloatModel, bfloat16, exact, serving

import node.openai as client
from genesis.models import folder
from inference.model import Model, load
from inference.tokenizer import open_tokenizer
from inference.tolerant import ServerError, check
from node.cli_model import RunEngine, model_run
from node.exits import RUNTIME, USAGE, Fatal
from node.openai import Server, candidates_after, check_url, generate

SEED = bytes(range(32))
PROMPT = "The sea was calm"
TOKENS = 24


def coarser(model: Model) -> Model:
    """The same model with weights of 3 bits: what somebody serves who saves memory and does not say so."""
    rough = {
        name: np.rint(tensor / 42).clip(-3, 3).astype(np.int8) * 42 if tensor.dtype == np.int8 else tensor
        for name, tensor in model.tensors.items()
    }
    return replace(model, tensors=rough)


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, str]]:
    """Addresses of three servers: the model in float, the same rounded to bfloat16, and a cheaper one."""
    model = load(folder())
    tokenizer = open_tokenizer(folder(), model.manifest.tokenizer)

    def peer(which: Model, rounding: Callable[[np.ndarray], np.ndarray]) -> Any:
        return serving(FloatModel(which, tokenizer, rounding))

    with peer(model, exact) as plain, peer(model, bfloat16) as rounded, peer(coarser(model), exact) as cheap:
        yield {"plain": plain, "rounded": rounded, "cheap": cheap}


def report(executor: str, judge: str, temperature: float = 0.8, seed: bytes = SEED, judged: bytes = SEED) -> Any:
    answer = generate(Server(executor, "tiny"), PROMPT, TOKENS, temperature, 20, seed)
    assert len(answer.tokens) == TOKENS
    listed = candidates_after(Server(judge, "tiny"), PROMPT, answer.tokens, 20)
    return check(answer.tokens, listed, temperature, judged)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_model_in_other_floats_passes(served: dict[str, str], temperature: float) -> None:
    found = report(served["rounded"], served["plain"], temperature)
    assert found.within, found
    assert found.unseen == 0


def test_a_servers_own_answer_has_no_margin(served: dict[str, str]) -> None:
    assert report(served["rounded"], served["rounded"]).largest == 0


def test_a_cheaper_model_is_seen(served: dict[str, str]) -> None:
    found = report(served["cheap"], served["plain"])
    assert not found.within
    assert found.mean > 10 * report(served["rounded"], served["plain"]).mean


def test_another_seed_than_the_askers_is_seen(served: dict[str, str]) -> None:
    """An executor that draws until it likes the answer."""
    assert not report(served["plain"], served["plain"], seed=SEED[::-1]).within


def test_the_openai_client_reads_the_same_answer(served: dict[str, str]) -> None:
    """The tests' server speaks as OpenAI's own client expects, so that reading it proves something about others."""
    theirs = openai.OpenAI(base_url=served["plain"], api_key="k", max_retries=0)
    found = theirs.completions.create(model="tiny", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=5)
    ours = Server(served["plain"], "tiny", "k").complete(PROMPT, 6, 5)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.top_logprobs is not None
    assert tuple(logprobs.tokens or ()) == ours.tokens
    assert tuple(logprobs.top_logprobs) == ours.candidates
    assert found.choices[0].text == ours.text


def test_the_command_marks_what_it_prints(served: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    def ask(url: str | None, **changes: Any) -> tuple[str, str]:
        options: dict[str, Any] = {
            "max_tokens": 8, "temperature": 0.8, "top_k": 0, "seed": "07", "engine": RunEngine.OPENAI, "check": None,
            "api_key": "", "json": False,
        }  # fmt: skip
        model_run("tiny", PROMPT, url=url, **{**options, **changes})
        shown = capsys.readouterr()
        return shown.out, shown.err

    out, err = ask(served["rounded"], check=served["plain"])
    assert "tolerant lane" in err and "no proof, no vote, no credit" in err and "checked against" in err
    said = json.loads(ask(served["rounded"], check=served["plain"], json=True)[0])
    assert (said["lane"], said["verified"], said["check"]["within"]) == ("tolerant", False, True)
    assert said["text"] + "\n" == out and said["seed"] == "0x07" + "00" * 31
    with pytest.raises(Fatal, match=r"are not what http.* would have drawn") as caught:
        ask(served["cheap"], check=served["plain"], max_tokens=TOKENS)
    assert caught.value.code == RUNTIME
    for options, said in (
        ({"url": None}, "needs --url"),
        ({"url": "ftp://x/v1"}, "--url 'ftp://x/v1'"),
        ({"url": served["plain"], "check": "x"}, "--check 'x'"),
        ({"url": served["plain"], "top_k": 21}, "at most 20 candidates"),
        ({"url": served["plain"], "engine": RunEngine.NUMPY}, "for --engine openai"),
    ):
        with pytest.raises(Fatal, match=said) as caught:
            ask(**options)
        assert caught.value.code == USAGE


def test_addresses() -> None:
    assert check_url("http://127.0.0.1:8000/v1") is None and check_url("https://host/v1/") is None
    for wrong in ("", "host", "file:///etc/passwd", "http://", "http://h:99999999/v1", "http://h/v1?x=1", "http://[::1/v1"):
        assert check_url(wrong) is not None, wrong


# -------------------------------------------------------------------------------- servers that mean harm


@contextmanager
def hostile(behave: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server whose every connection is handled by `behave`, until the event is set."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def accept() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            request = b""
            while not request.endswith(b"}"):
                request += connection.recv(65_536)
            try:
                behave(connection, over)
            except OSError:
                pass  # the client hung up, as it should

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        over.set()
        thread.join()
        listener.close()


def send(*parts: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def behave(connection: socket.socket, over: threading.Event) -> None:
        for part in parts:
            connection.sendall(part)

    return behave


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def behave(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.is_set():
            connection.sendall(piece)

    return behave


def drip(head: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def behave(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(0.02):
            connection.sendall(b"x")

    return behave


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"y" * 1000 + b"\r\n"), "Receive buffer too long"),
        (endless(OK + b"Content-Length: 1000000000000\r\n\r\n", b"z" * 65_536), "a response of more than 65536 bytes"),
        (endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + b"z" * 0x8000 + b"\r\n"), "more than 65536"),
        (drip(b"HTTP/1.1 200 OK\r\nX-Slow: "), "took longer than 0.3 s"),
        (drip(OK + b"Content-Length: 1000\r\n\r\n"), "took longer than 0.3 s"),
        (lambda _, over: over.wait(10), "took longer than 0.3 s"),
        (send(), "closed without an answer"),
        (send(OK + b"Content-Length: 100\r\n\r\n{"), "without sending complete message body"),
        (send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "illegal status line"),
        (send(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "chunk"),
        (send(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "answered 302"),
        (send(b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nno \xff!"), "answered 500: no"),
        (send(OK + b"Content-Length: 2\r\n\r\n[]"), "no choices"),
    ],
    ids=["head", "body", "chunks", "slow head", "slow body", "silent", "gone", "short", "ssh", "chunk", "redirect",
         "error", "json"],
)  # fmt: skip
def test_a_hostile_server_costs_a_bounded_time_and_memory(
    monkeypatch: pytest.MonkeyPatch, behave: Callable[[socket.socket, threading.Event], None], said: str
) -> None:
    monkeypatch.setattr(client, "BODY_BYTES_MAX", 65_536)
    with hostile(behave) as url, pytest.raises(ServerError, match=said):
        Server(url, "m", seconds_max=0.3 if "longer" in said else 10.0).complete("x", 4, 20)


def test_whoever_asks_may_say_by_when_everything_is_over() -> None:
    with hostile(drip(b"HTTP/1.1 200 OK\r\nX-Slow: ")) as url, pytest.raises(ServerError, match="there was time for"):
        generate(Server(url, "m", until=time.monotonic() + 0.2), "x", 4, 0.8, 20, SEED)
    with pytest.raises(ServerError, match="there was time for"):
        Server("http://127.0.0.1:1/v1", "m", until=time.monotonic() - 1).complete("x", 4, 20)


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match=url):
        Server(url, "m").complete("x", 4, 20)
