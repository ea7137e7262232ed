"""Soft answers: who may speak, about what, when; what a watcher sees of it; and a real network in which the asker reads
along at a node that makes nothing."""

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cluster_of_nodes import LocalNode, make_cluster

from chain.ledger import Committed
from genesis.keys import ACCOUNT_KEYS
from inference.tokenizer import Bytes
from node import answers as answers_module
from node.answers import Book, Judgement, SoftAnswers
from node.client import Client
from node.config import NodeConfig
from node.inference import InferenceService
from node.outbox import Outbox
from node.store import ModelStore
from node.watch import Watcher
from node.words import tokenizer_of
from primitives.address import MARKET, checksum
from primitives.keys import address_of
from primitives.merkle import pack_tokens, unpack_tokens
from primitives.soft import SoftAnswer
from primitives.task import Kind, Status, trace_key
from primitives.transaction import sign_transaction
from vm.system import abi, views
from vm.system.market_views import TaskView

TASK, SEED = b"t" * 32, b"s" * 32
KEY = trace_key(SEED, 0)
FIRST, SECOND, STRANGER = b"\x01" * 20, b"\x02" * 20, b"\x09" * 20
VIEW = TaskView(
    TASK, Status.DEALT, seed=SEED, max_tokens=40, slots=(FIRST, SECOND), dealt_block=10, deadline_blocks=30
)
NOBODY = Client("http://127.0.0.1:9")
PATIENCE_S = 60


def said(first: int, *tokens: int, key: bytes = KEY) -> SoftAnswer:
    return SoftAnswer(TASK, key, first, tokens)


@pytest.mark.parametrize(
    ("answer", "operator", "view", "height", "judgement"),
    [
        (said(0, 1), FIRST, VIEW, 11, Judgement.NEW),
        (said(0, 1), FIRST, None, 11, Judgement.EARLY),
        (said(0, 1), FIRST, replace(VIEW, status=Status.POSTED), 11, Judgement.EARLY),
        (said(0, 1), FIRST, replace(VIEW, status=Status.ANSWERED), 13, Judgement.LATE),
        (said(0, 1), FIRST, replace(VIEW, status=Status.SETTLED), 13, Judgement.LATE),
        (said(0, 1, key=b"x" * 32), FIRST, VIEW, 11, Judgement.LATE),
        (said(0, 1), SECOND, VIEW, 11, Judgement.EARLY),
        (said(0, 1), SECOND, VIEW, 19, Judgement.NEW),
        (said(0, 1), STRANGER, VIEW, 11, Judgement.NOBODY),
        (said(0, 1), None, VIEW, 11, Judgement.NOBODY),
        (said(40, 1), FIRST, VIEW, 11, Judgement.NOBODY),
        (said(2**32 - 1, 1), FIRST, VIEW, 11, Judgement.NOBODY),
        (said(0, 1), FIRST, replace(VIEW, kind=Kind.EMBED), 11, Judgement.NOBODY),
    ],
)
def test_only_the_operator_whose_slot_it_is_may_speak(
    answer: SoftAnswer, operator: bytes | None, view: TaskView | None, height: int, judgement: Judgement
) -> None:
    assert Book().take(answer, operator, view, height) is judgement


def test_tokens_come_together_and_what_was_said_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book()

    def tell(first: int, *tokens: int) -> tuple[bool, int, list[int]]:
        new = book.take(said(first, *tokens), FIRST, VIEW, 11) is Judgement.NEW
        [(_, known)] = book.of(TASK)
        return new, known.first, known.tokens.tolist()

    assert tell(0, 5, 6) == (True, 0, [5, 6])
    assert tell(0, 5, 6) == (False, 0, [5, 6])
    assert tell(1, 6, 7) == (True, 0, [5, 6, 7])
    assert tell(2, 9, 8) == (False, 0, [5, 6, 7]), "it contradicts itself"
    assert tell(0, 5) == (False, 0, [5, 6, 7])
    assert tell(5, 1, 2) == (True, 5, [1, 2]), "some were lost: it goes on from here"
    assert tell(3, 3, 4, 1, 2, 3) == (True, 5, [1, 2, 3])
    assert tell(0, 5, 6) == (False, 5, [1, 2, 3])
    monkeypatch.setattr(answers_module, "TOKENS_KEPT_MAX", 4)
    assert tell(8, 4, 5, 6) == (True, 7, [3, 4, 5, 6])


def test_a_book_forgets_the_oldest_task() -> None:
    book = Book()
    for number in range(answers_module.TASKS_MAX + 5):
        book.add(number.to_bytes(32, "big"), FIRST, 0, KEY, 0, [1])
    assert book.of(bytes(32)) == [] and len(book.of((5).to_bytes(32, "big"))) == 1


class Screen:
    """A node that answers with the given soft answers, one list a question, and what a watcher printed."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers, self.printed = list(answers), ""

    def call(self, method: str, task: str, start: str) -> list[dict[str, Any]]:
        assert method == "labora_softAnswers"
        return self.answers.pop(0)

    def write(self, text: str) -> None:
        self.printed += text


class Told:
    """As much of a story as a watcher reads."""

    def __init__(self, output: list[int] | None) -> None:
        self.told, self.kind, self.words = {"output": output}, Kind.GENERATE, Bytes()
        self.is_tolerant = False
        self.status = Status.DEALT if output is None else Status.ANSWERED


def answer_of(first: int, text: str, operator: bytes = FIRST) -> dict[str, Any]:
    return {"operator": checksum(operator), "slot": 0, "first": first, "tokens": list(text.encode())}


def watch(screen: Screen, output: str) -> str:
    watcher = Watcher(screen.write)
    watcher.story(Told(None))  # type: ignore[arg-type]
    while screen.answers:
        watcher.look(screen, TASK)  # type: ignore[arg-type]
    watcher.line("block 5  done")
    watcher.story(Told(list(output.encode())))  # type: ignore[arg-type]
    return screen.printed


def test_a_watcher_shows_what_comes_and_says_when_the_answer_is_another() -> None:
    shown = "so far, not final, from 0x010101…: The sea"
    parts = ([answer_of(0, "The")], [answer_of(3, " s")], [], [answer_of(5, "ea", SECOND)], [answer_of(3, "x")])
    assert watch(Screen(*parts), "The sea, or") == shown + "\nblock 5  done\n"
    assert watch(Screen(*parts), "The whale") == (
        shown + "\nblock 5  done\nwhat was shown so far is not the answer: it differs from token 5 on\n"
    )
    assert "differs from token 4 on" in watch(Screen(*parts), "The")
    assert watch(Screen([]), "The sea") == "block 5  done\n"


def test_no_model_steers_the_terminal() -> None:
    assert "\x1b" not in watch(Screen([answer_of(0, "\x1b[2J\x07ok\n")]), "ok")


async def serve(nursery: trio.Nursery, node: LocalNode) -> SoftAnswers:
    answers = SoftAnswers(node.ledger, node.network, node.keys.hot)
    node.consensus.on_commit.append(answers.on_commit)
    outbox = Outbox(node.ledger, node.host.submit, node.keys.hot)
    service = InferenceService(
        node.ledger, node.consensus, outbox, node.keys.hot, NodeConfig(engine="numpy"),
        node.folder / "journal", ModelStore(node.folder / "models", 0), answers,
    )  # fmt: skip
    nursery.start_soon(answers.run)
    nursery.start_soon(service.run)
    return answers


def post(node: LocalNode, prompt: str, max_tokens: int) -> None:
    reader, params = node.ledger.reader(), node.ledger.params
    model = views.models(reader, params, 1)[0].model_id
    tokens = tokenizer_of(model, NOBODY).encode(prompt)
    call = abi.POST.encode_call(
        Kind.GENERATE, model, pack_tokens(tokens), max_tokens, 1 << 16, 40, 1, 0, 0, 300, 0
    )
    raw = sign_transaction(
        ACCOUNT_KEYS[0], chain_id=params.chain_id, nonce=reader.nonce(address_of(ACCOUNT_KEYS[0])), gas=3_000_000,
        to=MARKET, value=10**18, max_fee_per_gas=10**11, max_priority_fee_per_gas=10**9, data=call,
    ).raw  # fmt: skip
    node.host.submit(raw)


def test_the_asker_reads_along_at_another_node_before_the_answer_is_in_a_block(tmp_path: Path) -> None:
    """Two validators. Whoever executes, the other one's node shows tokens before it has the block with the answer, and
    they are the answer's. A node that passes on nonsense is disconnected."""

    async def scenario() -> None:
        nodes = make_cluster(tmp_path, 2)
        asker = address_of(ACCOUNT_KEYS[0])
        asked: list[bytes] = []
        answers: dict[bytes, list[int]] = {}

        def follow(committed: Committed) -> None:
            for log in (log for receipt in committed.receipts for log in receipt.logs if log.topics):
                event = abi.EVENTS.get(log.topics[0])
                if event is abi.TASK_POSTED and log.topics[2][12:] == asker:
                    asked.append(log.topics[1])
                if event is abi.TASK_ANSWERED:
                    answers[log.topics[1]] = list(unpack_tokens(event.decode(log.topics, log.data)["tokens"]))

        with trio.fail_after(PATIENCE_S):
            async with AsyncExitStack() as stack:
                for node in nodes:
                    await stack.enter_async_context(node.running())
                    node.consensus.on_commit.append(follow)
                nursery = await stack.enter_async_context(trio.open_nursery())
                books = [await serve(nursery, node) for node in nodes]
                await nodes[0].reach(2)
                post(nodes[0], "The sea", 160)
                seen: list[list[int]] = []
                while not asked or asked[0] not in answers:
                    for node, book in zip(nodes, books, strict=True):
                        own = checksum(node.keys.operator_address)
                        for known in book.shown(asked[0], 0) if asked else ():
                            if known["operator"] != own and asked[0] not in answers:
                                seen.append(known["tokens"])
                    await trio.sleep(0.01)  # a watcher asks again and again
                nodes[0].network.answers.spread(b"nonsense")
                while nodes[1].network._pool.score(nodes[0].network.id) == 0:
                    await nodes[1].network.wait_peers_changed()
                nursery.cancel_scope.cancel()
        assert seen, "the other node showed nothing before the answer"
        for tokens in seen:
            assert tokens == answers[asked[0]][: len(tokens)]

    trio.run(scenario)
