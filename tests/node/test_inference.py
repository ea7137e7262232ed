"""Sending a validator's work: one transaction at a time, at fees that it can pay."""

from pathlib import Path
from typing import Any

import pytest
import trio
from cluster_of_nodes import LocalNode, make_cluster

import node.inference as inference
from chain.ledger import Ledger
from node.config import NodeConfig
from node.inference import InferenceService
from primitives.task import Verdict
from primitives.transaction import InvalidTransaction, Transaction, decode


class Consensus:
    """What the service needs of it."""

    def __init__(self) -> None:
        self.on_commit: list[Any] = []
        self.started = trio.Event()


def make_service(node: LocalNode, submit: Any, folder: Path) -> InferenceService:
    node.ledger = Ledger.open(node.kv, node.spec)
    service = InferenceService(node.ledger, Consensus(), submit, node.keys.hot, NodeConfig(), folder)  # type: ignore[arg-type]
    service._operator = node.keys.operator_address
    service._duties_head = node.ledger.head.number
    return service


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
    monkeypatch.setattr(inference, "items_to_send", lambda *_: [Verdict(bytes(32), bytes(32))])
    monkeypatch.setattr(inference, "is_stale", lambda sent, height: True)
    for _ in range(60):
        service._send()
    fees = [each.max_fee_per_gas for each in offered]
    assert max(fees) > 2 * fees[0], "it did raise them"
    assert fees.count(fees[0]) > 1 and service._sent is not None
