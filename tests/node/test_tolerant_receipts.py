"""Receipts of the tolerant lane: listed, marked, recomputed, billed and proven beside the exact ones; and its tasks'
stories over JSON-RPC."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eth_abi
import jsonschema
import pytest
from receipt_chain import ReceiptChain

from node import focus
from node.client import from_hex, to_hex
from node.config import NodeConfig
from node.receipts import account_of, accounts, as_json, line
from node.recount import RECEIPT_TYPES, Difference, verify
from node.story import read_story
from node.tolerant_service import _answer_message, _offer_message
from primitives.hashing import keccak
from primitives.task import encode_texts
from vm.system import abi
from vm.system.tolerant_state import OFFERS
from vm.system.views import ViewContext

NAME, PROMPT, ANSWER = "somebody/A-Model", "The sea, café", (" was", " calm", "</s>")
BYTE_WEI, TOKEN_WEI = 10**11, 10**13
FEE = len(PROMPT.encode()) * BYTE_WEI + len(ANSWER) * TOKEN_WEI
SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "receipt.schema.json").read_text())


class Lane(ReceiptChain):
    """Exact tasks, and one of each end of the tolerant lane."""

    def __init__(self) -> None:
        super().__init__(epoch_blocks=16, acceptance_window=8, canaries_per_validator=1)
        self.offer(NAME, BYTE_WEI, TOKEN_WEI)
        self.block()
        self.post()
        self.ends = dict(zip(("accepted", "refused", "unopposed", "unanswered"), self.asked(), strict=True))
        for end in ("accepted", "refused", "unopposed"):
            self.answer(self.ends[end], ANSWER)
        self.run(1)
        self.decide(abi.ACCEPT, self.ends["accepted"])
        self.decide(abi.REFUSE, self.ends["refused"], "another seed")
        self.run(28)

    def asked(self) -> list[bytes]:
        found = []
        for _ in range(4):
            found.append(self.ask(NAME, PROMPT, 8, 10**15))
            self.block()
        return found


@pytest.fixture(scope="module")
def lane() -> Lane:
    return Lane()


def test_every_end_of_the_lane_has_its_story(lane: Lane) -> None:
    for end, task in lane.ends.items():
        story = read_story(lane, task)  # type: ignore[arg-type]
        assert story.is_tolerant and story.told["end"] == end, story.told
        assert story.told["verified"] is False and story.prompt == PROMPT
        assert (story.output, bool(story.receipt)) == (
            "" if end == "unanswered" else " was calm", end in ("accepted", "unopposed"),
        )  # fmt: skip


def test_its_receipts_follow_from_the_chain_beside_the_exact_ones(lane: Lane) -> None:
    found = verify(lane, 0, None)  # type: ignore[arg-type]
    whole = {account.task: account for account in accounts(lane, 0, lane.height)}  # type: ignore[arg-type]
    assert found.receipts == len(whole) and found.epochs == lane.height // 16
    tolerant = {task for task, account in whole.items() if account.is_tolerant}
    assert tolerant == {lane.ends["accepted"], lane.ends["unopposed"]} and len(whole) > 4
    late = whole[lane.ends["unopposed"]].block
    assert verify(lane, late, late).receipts >= 1  # type: ignore[arg-type]
    for task in tolerant:
        shown = as_json(whole[task])
        jsonschema.validate(shown, SCHEMA)
        assert shown["lane"] == "tolerant" and shown["verifiers"] == [] and shown["macs"]["decode"] == "0"
        assert shown["verification"]["outcome"] == "unverified" and "tolerant" in line(whole[task])
        assert as_json(account_of(lane, task)) == shown  # type: ignore[arg-type]
    methods = {end: as_json(whole[lane.ends[end]])["verification"]["method"] for end in ("accepted", "unopposed")}
    assert methods == {"accepted": "accepted", "unopposed": "none"}


def test_its_bill_says_the_lane_and_counts_tokens(lane: Lane) -> None:
    file = io.StringIO()
    focus.write(((account, 0) for account in accounts(lane, 0, lane.height)), "c", file)  # type: ignore[arg-type]
    rows = [row for row in csv.DictReader(io.StringIO(file.getvalue())) if row["x_Lane"] == "tolerant"]
    assert len(rows) == 2
    for row in rows:
        assert int(row["BilledCost"].replace(".", "")) == int(row["ListCost"].replace(".", "")) == FEE
        consumed = row["ConsumedQuantity"], row["ConsumedUnit"], row["ServiceName"]
        assert consumed == ("3", "Tokens", "Tolerant inference")


class Changed:
    """A node that lies in one log of the lane."""

    url = "a liar"

    def __init__(self, chain: ReceiptChain, event: abi.Event, change: Callable[[dict[str, Any]], None]) -> None:
        self._chain, self._event, self._change = chain, event, change

    def call(self, method: str, *params: Any) -> Any:
        answer = self._chain.call(method, *params)
        if method == "eth_getLogs":
            for log in answer:
                topics = [from_hex(topic) for topic in log["topics"]]
                if topics[0] != self._event.topic:
                    continue
                values = self._event.decode(topics, from_hex(log["data"]))
                if self._event is abi.RECEIPT and values["lane"] != abi.LANE_TOLERANT:
                    continue
                self._change(values)
                encoded, data = self._event.encode(*values.values())
                log["topics"] = ["0x" + topic.to_bytes(32, "big").hex() for topic in encoded]
                log["data"] = to_hex(data)
                break
        return answer

    def number(self, method: str, *params: Any) -> int:
        return int(self.call(method, *params), 16)


def made_anew(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values.update(changes)
        fields = [value for name, value in values.items() if name != "receipt"]
        values["receipt"] = keccak(eth_abi.encode(RECEIPT_TYPES, fields))

    return change


LIES = {
    "the exact lane": (abi.RECEIPT, made_anew(lane=0), "lane"),
    "work": (abi.RECEIPT, made_anew(decodeMacs=10**12), "decodeMacs"),
    "a check": (abi.RECEIPT, made_anew(verification=1), "verification"),
    "an outcome": (abi.RECEIPT, made_anew(outcome=1), "outcome"),
    "verifiers": (abi.RECEIPT, made_anew(verifiers=("0x" + "11" * 20,)), "verifiers"),
    "a fee": (abi.RECEIPT, made_anew(fee=FEE + 1), "fee"),
    "another payer": (abi.RECEIPT, made_anew(payer="0x" + "11" * 20), "payer"),
    "another prompt": (abi.TOLERANT_ASKED, lambda v: v.update(prompt="?"), "promptHash"),
    "another answer": (abi.TOLERANT_ANSWERED, lambda v: v.update(tokens=encode_texts((" x", "y", "z"))), "outputHash"),
    "a lower price": (abi.TOLERANT_ASKED, lambda v: v.update(weiPerToken=1), "fee"),
    "less burned": (abi.TOLERANT_PAID, lambda v: v.update(burnedWei=v["burnedWei"] - 1), "burned"),
    "an acceptance": (abi.TOLERANT_PAID, lambda v: v.update(accepted=not v["accepted"]), "accepted"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_it_is_found_and_named(lane: Lane, lie: str) -> None:
    event, change, what = LIES[lie]
    with pytest.raises(Difference) as found:
        verify(Changed(lane, event, change), 0, None)  # type: ignore[arg-type]
    assert found.value.what.startswith(what), found.value


@pytest.mark.parametrize("size", [0, 1, 250])
def test_a_nodes_answer_and_offer_carry_the_gas_that_they_need(size: int) -> None:
    """At the table's prices, and at the floor of calldata, which a long answer pays."""
    chain = ReceiptChain(canaries_per_validator=0)
    config = NodeConfig(tolerant_url="http://h/v1", tolerant_model="m" * 96, tolerant_tokens=64)
    offer = _offer_message(config, None, True)
    assert offer is not None
    chain._send(chain.keys[0].hot, offer.data, 0, offer.gas, to=offer.to)
    chain.block()
    task = chain.ask("m" * 96, "x" * 8_192, 64, 10**18)
    chain.block()
    answer = _answer_message(task, encode_texts(["\u00e9" * size] * 64 if size else ()), 1, 2)
    chain._send(chain.keys[0].hot, answer.data, 0, answer.gas, to=answer.to)
    chain.block()
    assert [receipt["status"] for receipt in chain.call("eth_getBlockReceipts", "latest")] == ["0x1", "0x1"]
    ctx = ViewContext(chain.ledger.reader(), chain.ledger.params, chain.height + 1)
    assert _offer_message(config, OFFERS.get(ctx, chain.keys[0].operator_address), True) is None, "it is as configured"
    gone = _offer_message(NodeConfig(), OFFERS.get(ctx, chain.keys[0].operator_address), True)
    assert gone is not None
    chain._send(chain.keys[0].hot, gone.data, 0, gone.gas, to=gone.to)
    chain.block()
    assert chain.call("eth_getBlockReceipts", "latest")[-1]["status"] == "0x1"
