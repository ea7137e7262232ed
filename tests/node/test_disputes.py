"""The dispute service: one message a move, made once; a move that is no more, or cannot be made, is let go and said."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cluster_of_nodes import make_cluster
from test_moves import TASK, TRACE

import node.disputes as disputes
from chain.ledger import Committed, Ledger
from genesis.keys import ACCOUNT_KEYS
from node.disputes import TRIES_MAX, DisputeService
from node.duties import Result
from node.inference import NotServed
from node.moves import Me, Move, position
from node.outbox import Outbox
from primitives.address import MARKET, REFEREE
from primitives.block import Block
from primitives.receipt import Log, Receipt
from primitives.transaction import Transaction, decode, sign_transaction
from primitives.vote import CommitCertificate
from vm.system import abi


@dataclass
class Consensus:
    """What the service needs of it."""

    on_commit: list[Any] = field(default_factory=list)
    started: trio.Event = field(default_factory=trio.Event)
    next_unknown_height: int = 1


@dataclass
class Inference:
    """A model's process that answers at once."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    failure: Exception | None = None

    def texts(self, task: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (1, 2, 3, 4), (5, 6)

    def result(self, task: bytes, trace_key: bytes) -> None:
        return None

    async def ask(self, model: bytes, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        return {"root": TASK.executor_root, "operations": b"", "data": b"page"}


@dataclass
class Scene:
    """A service whose moves the test says."""

    service: DisputeService
    inference: Inference
    offered: list[Transaction]
    moves: list[Move]

    def plan(self) -> None:
        """What the service does after a commit, and all that follows from it."""
        trio.run(self._plan)

    async def _plan(self) -> None:
        async with trio.open_nursery() as nursery:
            await self.service._plan(nursery)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    (node,) = make_cluster(tmp_path, 1)
    ledger = Ledger.open(node.kv, node.spec)
    offered: list[Transaction] = []
    outbox = Outbox(ledger, lambda raw: offered.append(decode(raw)), node.keys.hot)  # type: ignore[arg-type, return-value]
    inference, moves = Inference(), list[Move]()
    service = DisputeService(ledger, Consensus(), outbox, node.keys.hot, inference, False)  # type: ignore[arg-type]
    monkeypatch.setattr(disputes, "moves_now", lambda *_: list(moves))
    return Scene(service, inference, offered, moves)


def show(state: Any = TRACE) -> Move:
    return Move(position(state), "show", "it is accused", TASK, state)


def test_a_move_is_made_once_and_sent_once(scene: Scene) -> None:
    scene.moves[:] = [show()]
    scene.plan()
    scene.plan()
    (sent,) = scene.offered
    assert (sent.to, abi.SHOW.decode_arguments(sent.data[4:])) == (REFEREE, (TRACE.dispute, b"page"))
    assert len(scene.inference.asked) == 1
    scene.moves[:] = [show(replace(TRACE, level=0, index=3))]
    scene.plan()
    assert len(scene.inference.asked) == 2 and len(scene.offered) == 2
    scene.moves.clear()
    scene.plan()
    assert not scene.service._ready and scene.service.status()["moves"] == 0


def test_what_cannot_be_made_is_said_and_not_asked_for_again(scene: Scene) -> None:
    scene.inference.failure = NotServed("it is not here")
    scene.moves[:] = [show()]
    scene.plan()
    scene.plan()
    assert len(scene.inference.asked) == 1 and not scene.offered


def test_a_move_that_the_chain_reverts_again_and_again_is_given_up(scene: Scene) -> None:
    scene.moves[:] = [show()]
    scene.plan()
    (sent,) = scene.offered
    key = scene.service._key_of[sent.data]
    for _ in range(TRIES_MAX):
        assert scene.service._next_message(frozenset()) is not None
        scene.service._reverted(key)
    assert scene.service._next_message(frozenset()) is None
    scene.plan()
    assert scene.service._next_message(frozenset()) is None and len(scene.inference.asked) == 1


def test_who_a_node_is() -> None:
    me = Me(b"h" * 20, None)
    assert me.is_(b"h" * 20) and not me.is_(bytes(20))


def test_a_move_is_not_given_up_because_a_stranger_repeats_it_and_is_reverted(scene: Scene) -> None:
    scene.moves[:] = [show()]
    scene.plan()
    (sent,) = scene.offered
    assert sent.chain_id is not None
    others = sign_transaction(
        ACCOUNT_KEYS[0], chain_id=sent.chain_id, nonce=0, gas=sent.gas, to=sent.to, data=sent.data,
        max_fee_per_gas=sent.max_fee_per_gas, max_priority_fee_per_gas=1,
    )  # fmt: skip
    reverted = Receipt(2, 0, 0, bytes(256), (), 0, None)
    head = scene.service._ledger.head

    def commit(transaction: Transaction) -> None:
        block = Block(head.header, head.sidecar, (transaction,), head.last_commit)
        certificate = CommitCertificate(0, 0, head.hash, b"", ())
        scene.service._on_commit(Committed(block, certificate, (reverted,)))

    for _ in range(TRIES_MAX):
        commit(others)
    assert scene.service._next_message(frozenset()) is not None
    for _ in range(TRIES_MAX):
        commit(sent)
    assert scene.service._next_message(frozenset()) is None


def test_what_is_revealed_while_a_watcher_reads_the_state_is_watched_as_well(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = scene.service
    service._watches = True
    first, second = b"\x01" * 32, b"\x02" * 32
    topics, data = abi.REVEALED.encode(second, bytes(20), bytes(32), 0, ())
    revealed = Log(MARKET, tuple(topic.to_bytes(32, "big") for topic in topics), data)
    service._watched[first] = Result(first, bytes(32), bytes(32))

    def meanwhile(_reader: object, _task: bytes) -> None:
        """The next block comes while the thread that plans reads."""
        service._hear(revealed, 2)

    with monkeypatch.context() as patched:
        patched.setattr(disputes.views, "task", meanwhile)
        assert service._read(dict(service._watched)) == []
    assert second in service._watched
