"""Compute receipts: their written form, their recount from a chain's data alone, and the bill."""

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import eth_abi
import jsonschema
import pytest
from receipt_chain import ReceiptChain

from genesis.keys import ACCOUNT_ADDRESSES
from node import focus
from node.client import from_hex, to_hex
from node.exits import Fatal
from node.receipts import account_of, accounts, as_json, line, time_of
from node.recount import RECEIPT_TYPES, Difference, verify
from primitives import merkle
from primitives.address import LEDGER, MARKET
from primitives.hashing import keccak
from primitives.params import COIN
from vm.system import abi
from vm.system.ledger import ComputeReceipt

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMA = json.loads((DOCS / "receipt.schema.json").read_text())


@pytest.fixture(scope="module")
def chain() -> ReceiptChain:
    """Two epochs and a bit: canaries, what the fund commissions, paid tasks, one whose executor never answers, one that
    nobody checks."""
    made = ReceiptChain(epoch_blocks=16, canaries_per_validator=2)
    made.block()
    made.post()
    made.run(5)
    made.post(most=3, assurance=2)
    made.post(prompt=tuple(range(300)))
    made.run(10)
    made.lazy = {made.keys[0].operator_address}
    made.post()
    made.run(30)
    return made


def test_the_receipt_of_a_refuted_task_is_that_of_the_attempt_which_settled() -> None:
    """The executor lies and does not defend itself: silence convicts it, a backup answers, both stand in the logs."""
    chain = ReceiptChain(epoch_blocks=16, silence_blocks=8, canaries_per_validator=0)
    chain.block()
    chain.post(assurance=1)
    chain.block(2)
    asker = "0x" + ACCOUNT_ADDRESSES[0].rjust(32, b"\x00").hex()
    posted = {"fromBlock": "0x2", "topics": [to_hex(abi.TASK_POSTED.topic), None, asker]}
    [task] = {log["topics"][1] for log in chain.call("eth_getLogs", posted)}
    chain.liars = {from_hex(chain.call("labora_task", task)["slots"][0])}
    for _ in range(60):
        chain.run(1)
        story = chain.call("labora_task", task)
        if story["status"] in ("settled", "refunded"):
            break
    assert story["status"] == "settled", story["events"]
    assert "TaskRefuted" in [event["event"] for event in story["events"]]
    found = verify(chain, 0, None)  # type: ignore[arg-type]
    everyone = list(accounts(chain, 0, chain.height))  # type: ignore[arg-type]
    assert found.receipts == len(everyone)
    [account] = [account for account in everyone if to_hex(account.task) == task]
    assert from_hex(account.receipt["executor"]) not in chain.liars
    assert account.receipt["root"] == keccak(b"trace" + account.task)
    [liar] = [row for row in chain.call("labora_validators")["validators"] if row["slashes"]]
    assert from_hex(liar["operator"]) in chain.liars and task in [slash["task"] for slash in liar["slashes"]]


class Changed:
    """A node that lies in one answer."""

    url = "a liar"

    def __init__(self, chain: ReceiptChain, method: str, change: Callable[[Any], Any]) -> None:
        self._chain, self._method, self._change = chain, method, change

    def call(self, method: str, *params: Any) -> Any:
        answer = self._chain.call(method, *params)
        return self._change(answer) if method == self._method else answer

    def number(self, method: str, *params: Any) -> int:
        return int(self.call(method, *params), 16)


def relogged(event: abi.Event, change: Callable[[dict[str, Any]], None]) -> Callable[[Any], Any]:
    """Changes the first log of an event that belongs to a paid task."""

    def within(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        paid = {
            log["topics"][1] for log in logs
            if log["topics"][0] == to_hex(abi.TASK_POSTED.topic)
            and not abi.TASK_POSTED.decode([from_hex(t) for t in log["topics"]], from_hex(log["data"]))["canary"]
        }  # fmt: skip
        for log in logs:
            place = 2 if event is abi.RECEIPT else 1
            if log["topics"][0] == to_hex(event.topic) and log["topics"][place] in paid:
                values = event.decode([from_hex(topic) for topic in log["topics"]], from_hex(log["data"]))
                change(values)
                topics, data = event.encode(*values.values())
                log["topics"] = ["0x" + topic.to_bytes(32, "big").hex() for topic in topics]
                log["data"] = to_hex(data)
                break
        return logs

    return within


def reidentified(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """A receipt changed by somebody who computes the id anew."""

    def both(values: dict[str, Any]) -> None:
        change(values)
        fields = [value for name, value in values.items() if name != "receipt"]
        values["receipt"] = keccak(eth_abi.encode(RECEIPT_TYPES, fields))

    return both


def test_every_receipt_of_a_whole_history_follows_from_the_chain(chain: ReceiptChain) -> None:
    told: list[tuple[int, int]] = []
    found = verify(chain, 0, None, lambda done, total: told.append((done, total)))  # type: ignore[arg-type]
    assert found.receipts > 12 and found.epochs == chain.height // 16 and found.macs > 0 and found.fees_wei > 0
    assert told[-1][0] == told[-1][1] == chain.height + 1
    classes = {account.receipt["class"] for account in accounts(chain, 0, chain.height)}  # type: ignore[arg-type]
    assert classes == {abi.CLASS_PAID, abi.CLASS_COMMISSIONED, abi.CLASS_CANARY}


def test_a_part_of_the_history_finds_posts_before_it(chain: ReceiptChain) -> None:
    whole = [account.block for account in accounts(chain, 0, chain.height)]  # type: ignore[arg-type]
    part = verify(chain, whole[3], whole[-2])  # type: ignore[arg-type]
    assert part.receipts == sum(whole[3] <= block <= whole[-2] for block in whole)


LIES = {
    "fee": (abi.RECEIPT, lambda v: v.update(fee=v["fee"] + 1), "receipt"),
    "fee, id made anew": (abi.RECEIPT, reidentified(lambda v: v.update(fee=v["fee"] + 1)), "fee"),
    "more work": (abi.RECEIPT, reidentified(lambda v: v.update(decodeMacs=v["decodeMacs"] * 2)), "decodeMacs"),
    "more bytes": (abi.RECEIPT, reidentified(lambda v: v.update(prefillBytes=1)), "prefillBytes"),
    "another seed": (abi.RECEIPT, reidentified(lambda v: v.update(seed=bytes(32))), "seed"),
    "another root": (abi.RECEIPT, reidentified(lambda v: v.update(root=bytes(32))), "executor's commitment"),
    "a verifier less": (abi.RECEIPT, reidentified(lambda v: v.update(verifiers=v["verifiers"][:1])), "verifiers"),
    "another payer": (abi.RECEIPT, reidentified(lambda v: v.update(payer="0x" + "11" * 20)), "payer"),
    "another class": (abi.RECEIPT, reidentified(lambda v: v.update({"class": 2})), "class"),
    "another prompt": (abi.TASK_POSTED, lambda v: v.update(tokens=bytes(4) + v["tokens"][4:]), "promptHash"),
    "another output": (abi.TASK_ANSWERED, lambda v: v.update(tokens=bytes(4) + v["tokens"][4:]), "outputHash"),
    "other times": (abi.TASK_ANSWERED, lambda v: v.update(totalMs=9), "totalMs (self-reported)"),
    "a lower price": (abi.TASK_POSTED, lambda v: v.update(pricePerCwu=1), "pricePerCwu"),
    "a verdict of another": (abi.VERDICT_COMMITTED, lambda v: v.update(commitment=bytes(32)), "verdict of"),
    "nobody drawn": (abi.AUDIT_DRAWN, lambda v: v.update(verifiers=()), "verifier"),
    "more burned": (abi.TASK_SETTLED, lambda v: v.update(burnedWei=v["burnedWei"] + 1), "burned"),
    "more back": (abi.TASK_SETTLED, lambda v: v.update(refundedWei=v["refundedWei"] + 1), "back to the payer"),
    "a payment": (abi.PAID, lambda v: v.update(amount=v["amount"] + 1), "sum of payments"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_and_named(chain: ReceiptChain, lie: str) -> None:
    event, change, what = LIES[lie]
    liar = Changed(chain, "eth_getLogs", relogged(event, change))
    with pytest.raises(Difference) as found:
        verify(liar, 0, None)  # type: ignore[arg-type]
    assert found.value.what.startswith(what), found.value
    assert found.value.code == 1 and found.value.as_json()["claimed"]


def test_a_receipt_that_is_kept_back_is_missed(chain: ReceiptChain) -> None:
    """Task and receipt whole, from post to payment: the root of its epoch tells."""
    victim = account_of_nth(chain, 4).task

    def without(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [log for log in logs if to_hex(victim) not in log["topics"]]

    with pytest.raises(Difference, match="number of receipts"):
        verify(Changed(chain, "eth_getLogs", without), 0, None)  # type: ignore[arg-type]


def test_parameters_are_those_that_the_headers_commit_to(chain: ReceiptChain) -> None:
    def cheaper(told: dict[str, Any]) -> dict[str, Any]:
        return {**told, "parameters": {**told["parameters"], "fee_burn_percent": "1"}}

    with pytest.raises(Difference, match="parameters"):
        verify(Changed(chain, "labora_parameters", cheaper), 0, None)  # type: ignore[arg-type]


def account_of_nth(chain: ReceiptChain, number: int) -> Any:
    return list(accounts(chain, 0, chain.height))[number]  # type: ignore[arg-type]


def test_one_receipt_by_its_task(chain: ReceiptChain) -> None:
    wanted = account_of_nth(chain, 2)
    assert as_json(account_of(chain, wanted.task)) == as_json(wanted)  # type: ignore[arg-type]
    assert to_hex(wanted.task) in line(wanted)
    with pytest.raises(Fatal, match="knows no task"):
        account_of(chain, bytes(32))  # type: ignore[arg-type]


def test_the_json_form_is_that_of_the_schema(chain: ReceiptChain) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for account in accounts(chain, 0, chain.height):  # type: ignore[arg-type]
        jsonschema.validate(as_json(account), SCHEMA)
    good = as_json(account_of_nth(chain, 0))
    for name, bad in (("class", "free"), ("receipt", "0x00"), ("payer", None), ("macs", {"prefill": "1"}), ("x", 1)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, name: bad}, SCHEMA)


def test_the_bill_has_the_columns_of_focus_and_adds_up(chain: ReceiptChain) -> None:
    file = io.StringIO()
    whole = list(accounts(chain, 0, chain.height))  # type: ignore[arg-type]
    timed = ((account, time_of(chain, account.block)) for account in whole)  # type: ignore[arg-type]
    assert focus.write(timed, "eip155:31337", file) == len(whole)
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    wanted = {
        "BilledCost", "EffectiveCost", "ListCost", "ContractedCost", "ConsumedQuantity", "ConsumedUnit",
        "ChargePeriodStart", "ServiceCategory", "ServiceSubcategory", "ProviderName", "InvoiceIssuerName",
    }  # fmt: skip
    assert wanted <= rows[0].keys()
    assert all(name.startswith("x_") or name[0].isupper() for name in rows[0])
    billed = sum(int(row["BilledCost"].replace(".", "")) for row in rows)
    paid = [account for account in whole if account.receipt["class"] != abi.CLASS_CANARY]
    left = sum(
        account.events[0].values["escrow"] - account.all(abi.TASK_SETTLED)[0].values["refundedWei"] for account in paid
    )
    assert billed == left > 0 and billed < COIN
    for row in rows:
        start, end = (datetime.fromisoformat(row[name]) for name in ("ChargePeriodStart", "ChargePeriodEnd"))
        assert start < end and row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["BillingPeriodEnd"]


def test_no_cell_of_the_bill_is_a_formula(chain: ReceiptChain) -> None:
    account = account_of_nth(chain, 0)
    account.receipt["device"] = b"=cmd()"
    assert focus.row(account, 0, "c")["x_SelfReportedDevice"] == "'=cmd()"


def test_a_log_that_cannot_be_read_is_named(chain: ReceiptChain) -> None:
    def cut(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**log, "data": log["data"][:66]} for log in logs]

    with pytest.raises(Fatal, match="cannot be read"):
        verify(Changed(chain, "eth_getLogs", cut), 0, None)  # type: ignore[arg-type]


# The vectors on file: for whoever writes a receipt without this code.


def vectors() -> dict[str, Any]:
    """docs/vectors/receipts.json, from the code. `python tests/node/test_receipts.py` writes it."""
    from primitives.task import Kind, ModelCost

    def made(**changes: Any) -> ComputeReceipt:
        values: dict[str, Any] = {
            "task": keccak(b"task"), "executor": keccak(b"executor")[12:], "kind_of_payer": 0, "lane": 0, "kind": 0,
            "model": keccak(b"model"), "prompt_hash": merkle.tokens_root([1, 2, 3]),
            "output_hash": merkle.tokens_root(range(300)), "seed": keccak(b"seed"), "prompt_tokens": 3,
            "output_tokens": 300, "prefill_macs": 3_060, "decode_macs": 2_000_000, "prefill_bytes": 1_030,
            "decode_bytes": 900_000, "verifiers": (keccak(b"v1")[12:], keccak(b"v2")[12:]), "verification": 1,
            "outcome": 1, "root": keccak(b"T"), "price": 10**12, "fee": 2_003_060_000, "payer": keccak(b"payer")[12:],
            "queue_ms": 1, "first_token_ms": 20, "total_ms": 3_000, "device": b"numpy/cpu",
        }  # fmt: skip
        return ComputeReceipt(**{**values, **changes})

    cases = {
        "checked by two": made(),
        "checked by nobody": made(verifiers=(), verification=0, outcome=0, root=bytes(32), device=b""),
        "a canary's embedding": made(kind_of_payer=2, kind=1, price=0, fee=0, payer=bytes(20), output_tokens=64,
                                     decode_macs=0, decode_bytes=0),
        "largest numbers": made(prefill_macs=2**256 - 1, total_ms=2**32 - 1, device=b"\xff" * 32),
    }  # fmt: skip
    names = [param.name for param in abi.RECEIPT.params if param.name != "receipt"]

    def shown(value: Any) -> Any:
        if isinstance(value, bytes):
            return to_hex(value)
        return [shown(each) for each in value] if isinstance(value, tuple) else str(value)

    cost = ModelCost(1_000, 10, 300, 1, 4)
    work = [
        {"kind": kind.name.lower(), "p": p, "m": m, "prefillMacs": str(cost.prefill(p)),
         "decodeMacs": str(cost.decode(kind, p, m)), "prefillBytes": str(cost.prefill_bytes(p)),
         "decodeBytes": str(cost.decode_bytes(kind, p, m))}
        for kind, p, m in ((Kind.GENERATE, 3, 1), (Kind.GENERATE, 3, 300), (Kind.EMBED, 40, 64), (Kind.SCORE, 40, 39))
    ]  # fmt: skip
    ids = [case.id for case in cases.values()]
    tree = merkle.levels([merkle.digest(identity) for identity in ids[:3]])
    return {
        "types": [param.canonical for param in abi.RECEIPT.params if param.name != "receipt"],
        "names": names,
        "receipts": [
            {"name": name, "fields": [shown(value) for value in case.values],
             "encoding": to_hex(eth_abi.encode(RECEIPT_TYPES, case.values)), "receipt": to_hex(case.id)}
            for name, case in cases.items()
        ],
        "work": {"a": 1_000, "b": 10, "c": 300, "cases": work},
        "tokenHashes": [
            {"tokens": f"0 .. {count - 1}", "count": count, "hash": to_hex(merkle.tokens_root(range(count)))}
            for count in (1, 256, 257, 1_000)
        ],
        "epoch": {
            "receipts": [to_hex(identity) for identity in ids[:3]], "root": to_hex(tree[-1][0]),
            "paths": [[to_hex(node) for node in merkle.path(tree, index)] for index in range(3)],
        },
    }  # fmt: skip


VECTORS = DOCS / "vectors" / "receipts.json"


def test_the_vectors_on_file_are_what_the_code_gives() -> None:
    assert json.loads(VECTORS.read_text()) == vectors(), "run: python tests/node/test_receipts.py"


def test_the_vectors_can_be_followed_without_this_code() -> None:
    on_file = json.loads(VECTORS.read_text())
    for case in on_file["receipts"]:
        values = [_typed(kind, value) for kind, value in zip(on_file["types"], case["fields"], strict=True)]
        assert to_hex(eth_abi.encode(on_file["types"], values)) == case["encoding"]
        assert to_hex(keccak(from_hex(case["encoding"]))) == case["receipt"]
    epoch = on_file["epoch"]
    for index, (identity, path) in enumerate(zip(epoch["receipts"], epoch["paths"], strict=True)):
        leaf = merkle.digest(from_hex(identity))
        root = merkle.root_by_path(leaf, index, 3, [from_hex(node) for node in path])
        assert to_hex(root or b"") == epoch["root"]


def test_the_page_names_every_field_in_its_order() -> None:
    page = (DOCS / "receipts.md").read_text()
    names = ", ".join(param.name for param in abi.RECEIPT.params if param.name != "receipt")
    assert names in page.replace("\n", " ")


def _typed(kind: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_typed(kind.removesuffix("[]"), each) for each in value]
    return int(value) if kind.startswith("uint") else from_hex(value)


def test_no_other_account_can_pretend_a_receipt(chain: ReceiptChain) -> None:
    def elsewhere(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        moved = {to_hex(LEDGER): to_hex(MARKET)}
        return [{**log, "address": moved.get(log["address"], log["address"])} for log in logs]

    with pytest.raises(Fatal, match="no event of this release"):
        verify(Changed(chain, "eth_getLogs", elsewhere), 0, None)  # type: ignore[arg-type]


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
