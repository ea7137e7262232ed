"""Sending a validator's work: as soon as it is ready, once, at fees that it can pay."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cluster_of_nodes import LocalNode, make_cluster

import node.inference as inference
import node.outbox as outbox
from chain.ledger import Ledger
from node.config import NodeConfig
from node.duties import Result
from node.inference import InferenceService
from node.outbox import Outbox
from node.store import ModelStore
from node.worker import TooLate
from primitives.merkle import tokens_root
from primitives.task import Verdict, decode_batch, sequence_of
from primitives.transaction import InvalidTransaction, Transaction, decode
from vm.system import abi
from vm.system.market_views import Duty


class Consensus:
    """What the service needs of it."""

    def __init__(self) -> None:
        self.on_commit: list[Any] = []
        self.started = trio.Event()


def make_service(node: LocalNode, submit: Any, folder: Path) -> InferenceService:
    node.ledger = Ledger.open(node.kv, node.spec)
    models = ModelStore(folder / "models", 0)
    service = InferenceService(
        node.ledger, Consensus(), Outbox(node.ledger, submit, node.keys.hot), node.keys.hot, NodeConfig(), folder,
        models, None,
    )  # type: ignore[arg-type]  # fmt: skip
    service._operator = node.keys.operator_address
    service._duties_head = node.ledger.head.number
    return service


def owed(number: int) -> Duty:
    """An audit that block 1 accepts."""
    task = number.to_bytes(32, "big")
    return Duty(abi.ROLE_AUDIT, 0, task, *[bytes(32)] * 4, b"k" * 32, 16, 0, 0, 0, 1, 9, 0, 0, bytes(20), bytes(32))


def has_result(service: InferenceService, number: int) -> None:
    result = Result(number.to_bytes(32, "big"), b"k" * 32, b"r" * 32)
    service._results[result.key] = result


def tasks_in(transaction: Transaction) -> list[int]:
    (batch,) = abi.WORK.decode_arguments(transaction.data[4:])
    return [sequence_of(item.task) for item in decode_batch(batch, 31337)]


def test_what_is_ready_later_does_not_wait_for_the_block_of_what_was_sent(tmp_path: Path) -> None:
    offered: list[Transaction] = []
    (node,) = make_cluster(tmp_path, 1)
    service = make_service(node, lambda raw: offered.append(decode(raw)), tmp_path / "journal")
    service._duties = [owed(number) for number in range(1, 9)]
    for number in range(1, 9):
        has_result(service, number)
        service._outbox.flush()
        service._outbox.flush()  # nothing new: nothing is sent
    assert [tasks_in(each) for each in offered] == [[1], [2], [3], [4]], "four at once, the others wait"
    assert [each.nonce for each in offered] == [0, 1, 2, 3]


def test_only_the_oldest_is_made_again_and_repeats_nothing_that_others_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Transaction] = []
    (node,) = make_cluster(tmp_path, 1)
    service = make_service(node, lambda raw: offered.append(decode(raw)), tmp_path / "journal")
    service._duties = [owed(number) for number in (1, 2, 3)]
    has_result(service, 1)
    service._outbox.flush()
    has_result(service, 2)
    service._outbox.flush()
    has_result(service, 3)
    monkeypatch.setattr(outbox, "is_stale", lambda sent, height: sent.transaction.nonce == 0)
    service._outbox.flush()
    assert [tasks_in(each) for each in offered] == [[1], [2], [1, 3]]
    assert [each.nonce for each in offered] == [0, 1, 0]
    assert offered[2].max_fee_per_gas * 10 >= offered[0].max_fee_per_gas * 11, "a pool takes it for the first"
    service._refused = {(number.to_bytes(32, "big"), 2) for number in (1, 3)}
    service._outbox.flush()
    assert tasks_in(offered[3]) == [2] and offered[3].nonce == 0, "those behind it wait for its nonce"


def test_a_refused_replacement_begins_again_at_todays_fees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that missed many blocks is made again at ever higher fees. Once they are more than the hot account
    has, and the one before is gone, only lower fees can get the work through."""
    offered: list[Transaction] = []
    balance = 10**15

    def submit(raw: bytes) -> None:
        offered.append(decode(raw))
        if offered[-1].gas * offered[-1].max_fee_per_gas > balance:
            raise InvalidTransaction("insufficient funds for gas * price + value")

    (node,) = make_cluster(tmp_path, 1)
    service = make_service(node, submit, tmp_path / "journal")
    item = Verdict(bytes(32), bytes(32))
    monkeypatch.setattr(inference, "items_to_send", lambda *asked: [] if asked[3] else [item])
    monkeypatch.setattr(outbox, "is_stale", lambda sent, height: True)
    for _ in range(60):
        service._outbox.flush()
    fees = [each.max_fee_per_gas for each in offered]
    assert max(fees) > 2 * fees[0], "it did raise them"
    assert fees.count(fees[0]) > 1 and service._outbox._sent


def test_a_check_of_an_answer_that_was_replaced_meanwhile_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A duty is read at one head, the texts at a later one: in between the answer may be refuted and made anew."""
    (node,) = make_cluster(tmp_path, 1)
    service = make_service(node, None, tmp_path)
    duty = replace(owed(1), prompt_hash=tokens_root((1, 2)), output_hash=tokens_root((3,)))
    monkeypatch.setattr(service, "texts", lambda _task: ((1, 2), (4,)))
    with pytest.raises(TooLate, match="another is there"):
        trio.run(service._ask, duty, None)
