"""The tolerant lane of a real node with a real OpenAI-compatible server, as an asker's commands see it: offered as
configured, answered, checked, accepted, refused; and servers that mean harm, which cost nobody but their operator."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from node_of_one import against_a_node, refused
from openai_peer import FloatModel, bfloat16, exact, serving

from genesis.keys import ACCOUNT_KEYS
from genesis.models import folder
from inference.model import load
from inference.tokenizer import open_tokenizer
from node.cli_tolerant import Decision, tolerant_ask
from node.client import Client, from_hex
from node.config import DataFolder
from node.exits import RUNTIME, USAGE
from node.receipts import account_of
from node.tolerant_lane import Judge, Question, ask, decide, judged, offer_lines, offers, wait_for_answer, why_refused
from node.validator import Done, Operator
from primitives.hashing import keccak
from primitives.keys import address_of
from primitives.task import Status
from vm.system import abi

NAME = "a/float-model"
PROMPT = "The sea was calm"
SEED = keccak(b"a seed")
TERMS = {"tolerant_model": NAME, "tolerant_prompt_wei": 10**11, "tolerant_token_wei": 10**13, "tolerant_deadline": 40}
SECONDS = 60.0


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    model = load(folder())
    tokenizer = open_tokenizer(folder(), model.manifest.tokenizer)
    with (
        serving(FloatModel(model, tokenizer, bfloat16)) as rounded,
        serving(FloatModel(model, tokenizer, exact)) as plain,
    ):
        yield {"rounded": rounded, "plain": plain}


def until(what: Callable[[], Any]) -> Any:
    """What another thread makes true."""
    deadline = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, f"after {SECONDS:g} s still not"
        time.sleep(0.05)  # between two questions to the node; nothing is asserted about it
    return found


def asked(asker: Operator, operator: str, **changes: Any) -> tuple[Done, bytes]:
    given = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0.8, "top_k": 20, "seed": SEED, **changes}
    done = ask(asker, operator, Question(**given))
    return done, done.event(abi.TOLERANT_ASKED)["task"]


def test_a_node_answers_what_it_is_asked_and_its_asker_pays_or_refuses(
    tmp_path: Path, servers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def commands(client: Client, _folder: DataFolder) -> None:
        (offer,) = until(lambda: offers(client))
        assert (offer["model"], offer["weiPerToken"], offer["deadlineBlocks"]) == (NAME, str(10**13), 40)
        asker = Operator(client, ACCOUNT_KEYS[0])
        (_, good), (_, bad), (_, greedy) = (
            asked(asker, offer["operator"]), asked(asker, offer["operator"], temperature=0.7),
            asked(asker, offer["operator"], temperature=0.0),
        )  # fmt: skip
        judge = Judge(servers["plain"], "", "")
        for task in (good, greedy):
            story = wait_for_answer(client, task)
            assert story.status is Status.ANSWERED and len(story.told["tokens"]) == 6, story.told
            assert judged(story, judge).within
        story = wait_for_answer(client, bad)
        story.told["seed"] = "0x" + SEED[::-1].hex()  # as if the executor had drawn with another
        report = judged(story, judge)
        assert not report.within
        decide(asker, good, None)
        back = decide(asker, bad, why_refused(report)).event(abi.TOLERANT_REFUSED)
        fee = int(story.told["feeWei"])
        assert (back["burnedWei"], back["refundedWei"]) == (fee // 5, int(story.told["escrowWei"]) - fee // 5)
        until(lambda: wait_for_answer(client, good).status is Status.SETTLED)
        receipt = account_of(client, good).receipt
        assert receipt["lane"] == abi.LANE_TOLERANT and receipt["verification"] == abi.VERIFIED_ACCEPTED
        assert from_hex(receipt["payer"]) == address_of(ACCOUNT_KEYS[0])
        (offer,) = offers(client)
        record = offer["record"]
        assert (record["accepted"], record["refused"], record["unanswered"]) == (1, 1, 0)
        lane = client.call("labora_health")["tolerant"]
        assert lane["offers"] == NAME and lane["answered"] == 3 and lane["open"] == 1 and not lane["failed"]
        (validator,) = client.call("labora_validators")["validators"]
        assert validator["credit"] == "0.000000000" and not validator["slashes"]
        missed = {miss["task"] for miss in validator["misses"]}  # canaries: this node runs no model
        assert not missed & {"0x" + task.hex() for task in (good, bad, greedy)}

        capsys.readouterr()
        common = {"rpc": client.url, "key": "0x" + ACCOUNT_KEYS[0].hex(), "account": None, "data_dir": None}
        tolerant_ask(
            prompt=PROMPT, executor=offer["operator"], max_tokens=4, temperature=0.8, top_k=20, seed=None,
            check_url=servers["plain"], check_model="", api_key="", decision=Decision.CHECK, json=False, **common,
        )  # fmt: skip
        printed = capsys.readouterr().out
        assert "margins of" in printed and "accepted 0x" in printed and "no vote, no credit" in printed
        assert NAME in "\n".join(offer_lines(offers(client)))
        refused(RUNTIME, "offers no model", lambda: asked(asker, "0x" + "11" * 20))
        refused(USAGE, "--top-k", lambda: asked(asker, offer["operator"], top_k=21))
        refused(RUNTIME, "maxTokens is 257", lambda: asked(asker, offer["operator"], max_tokens=257))

    against_a_node(tmp_path, commands, tolerant_url=servers["rounded"], **TERMS)


def test_the_offer_follows_the_configuration_and_goes_with_it(tmp_path: Path, servers: dict[str, str]) -> None:
    def first(client: Client, _folder: DataFolder) -> None:
        (offer,) = until(lambda: offers(client))
        assert offer["tokensMax"] == 256

    def second(client: Client, _folder: DataFolder) -> None:
        until(lambda: [offer["tokensMax"] for offer in offers(client)] == [9])

    def third(client: Client, _folder: DataFolder) -> None:
        until(lambda: not offers(client))

    against_a_node(tmp_path, first, tolerant_url=servers["plain"], **TERMS)
    against_a_node(tmp_path, second, tolerant_url=servers["plain"], tolerant_tokens=9, **TERMS)
    against_a_node(tmp_path, third)


@contextmanager
def raw_server(answer: bytes | None) -> Iterator[str]:
    """Says the same to everybody and closes; None: says nothing and holds on."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                if answer is None:
                    stopped.wait()
                    return
                try:
                    connection.sendall(answer)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        stopped.set()
        with socket.create_connection(listener.getsockname()):
            pass  # so that it does not wait for one
        thread.join()
        listener.close()


def said(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


EMPTY_TOKENS = (
    b'{"choices": [{"finish_reason": "stop", "logprobs": {"tokens": ["", "", "a"], '
    b'"top_logprobs": [{"a": -1}, {"a": -1}, {"a": -1}]}}]}'
)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (said(b"[" * 100_000), "no JSON"),
        (said(EMPTY_TOKENS), "token 0 is empty"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nno\x1b", "answered 500"),
        (b"", "closed"),
    ],
    ids=["deep", "empty tokens", "error", "silence"],
)
def test_a_server_that_means_harm_costs_its_operator_an_unanswered_task_and_no_block(
    tmp_path: Path, answer: bytes, problem: str
) -> None:
    def commands(client: Client, _folder: DataFolder) -> None:
        (offer,) = until(lambda: offers(client))
        asker = Operator(client, ACCOUNT_KEYS[0])
        _, task = asked(asker, offer["operator"], temperature=0.0)
        story = wait_for_answer(client, task)
        assert story.status is Status.REFUNDED and story.told["end"] == "unanswered"
        lane = client.call("labora_health")["tolerant"]
        assert problem in lane["problem"] and lane["failed"] == lane["unanswered"] == 1 and not lane["answered"]
        assert client.number("eth_blockNumber") >= story.told["refundedBlock"]
        (offer,) = offers(client)
        assert offer["record"]["unanswered"] == 1

    with raw_server(answer) as url:
        against_a_node(tmp_path, commands, tolerant_url=url, **{**TERMS, "tolerant_deadline": 10})


def test_a_server_that_never_answers_delays_no_block_and_the_escrow_comes_back(tmp_path: Path) -> None:
    def commands(client: Client, _folder: DataFolder) -> None:
        (offer,) = until(lambda: offers(client))
        asker = Operator(client, ACCOUNT_KEYS[0])
        done, task = asked(asker, offer["operator"])
        story = wait_for_answer(client, task)
        assert story.told["end"] == "unanswered" and story.told["refundedBlock"] == done.block + 11

    with raw_server(None) as url:
        against_a_node(tmp_path, commands, tolerant_url=url, **{**TERMS, "tolerant_deadline": 10})
