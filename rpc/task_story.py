"""A task's whole story, told from the chain's logs alone: who asked, who was dealt it, who checked, who was paid."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from primitives.address import STAKING
from primitives.merkle import unpack_tokens
from primitives.params import CWU
from primitives.receipt import Log
from primitives.task import NO_BAD_POSITION, Kind, Status, trace_key, vector_of
from rpc.codec import address, data
from vm.system import abi

_BLOCK_OF = {
    "TaskPosted": "postedBlock",
    "TaskDealt": "dealtBlock",
    "TaskAnswered": "answeredBlock",
    "AuditDrawn": "drawnBlock",
    "RevealBegan": "revealingBlock",
    "TaskAgreed": "agreedBlock",
    "TaskUnverified": "unverifiedBlock",
    "TaskDisputed": "disputedBlock",
    "TaskSettled": "settledBlock",
    "TaskRefunded": "refundedBlock",
}
STATUS_OF = {
    "TaskPosted": Status.POSTED,
    "TaskDealt": Status.DEALT,
    "TaskAnswered": Status.ANSWERED,
    "AuditDrawn": Status.DRAWN,
    "RevealBegan": Status.REVEALING,
    "TaskAgreed": Status.AGREED,
    "TaskUnverified": Status.UNVERIFIED,
    "TaskDisputed": Status.DISPUTED,
    "TaskRefuted": Status.REFUTED,
    "TaskRefunded": Status.REFUNDED,
}
DISPUTED_NOTE = (
    "Executor and verifier differ. The fee and the executor's credit are frozen until the Referee has recomputed the "
    "one step that decides who is right. The asker may cancel to get the escrow back."
)


OperatorOf = Callable[[bytes], bytes | None]
"""An account -> the operator whose messages it sends; None: nobody's."""


@dataclass(frozen=True)
class PlacedLog:
    """A log and where it stands."""

    number: int
    timestamp: int
    transaction_hash: bytes
    log: Log


def tell(
    task: bytes, logs: Iterable[PlacedLog], operator_of: OperatorOf = lambda _account: None
) -> dict[str, Any]:
    """The task as labora_task shows it: a summary and every event in order. Wei and CWU are decimal strings; output is
    token ids, of kinds embed and score the vector's elements. operator_of: whose messages an account sends."""
    story: dict[str, Any] = {
        "taskId": data(task),
        "lane": "exact",
        "status": None,
        "kind": None,
        "output": None,
        "executor": None,
        "verifiers": [],
        "feeWei": None,
        "cwu": None,
        "receiptId": None,
        **dict.fromkeys(_BLOCK_OF.values()),
        "paid": [],
        "missed": [],
        "slashed": [],
        "events": [],
    }
    for placed in logs:
        event = abi.event_of(placed.log)
        if event is None:
            continue
        values = event.decode(placed.log.topics, placed.log.data)
        more = beside(event, values, operator_of)
        _fold(story, event.name, values | more, placed.number)
        story["events"].append(told(placed, event, as_json(event, values, story["kind"]) | more))
    return story


def told(placed: PlacedLog, event: abi.Event, shown: dict[str, Any]) -> dict[str, Any]:
    """An entry of a story's events: what happened, where, and what the log says beside the task."""
    return {
        "event": event.name,
        "block": placed.number,
        "timestamp": placed.timestamp,
        "transactionHash": data(placed.transaction_hash),
        **{name: value for name, value in shown.items() if name != "task"},
    }


def as_json(event: abi.Event, values: dict[str, Any], kind: str | None = None) -> dict[str, Any]:
    """The values of a log as JSON; kind: of the task, whose answer is shown by it. Of what was shown in a dispute only
    how many bytes there were."""
    if event is abi.SHOWN:
        values = {**values, "data": len(values["data"])}
    return {name: _shown(event, kind, name, value) for name, value in values.items()}


def beside(event: abi.Event, values: dict[str, Any], operator_of: OperatorOf) -> dict[str, Any]:
    """What is known of a log beside its values: what a payment is for (a fee, its delegators' part of one, the gas of
    messages), and the operator of who showed something in a dispute, None of a stranger."""
    if event is abi.PAID:
        to = bytes.fromhex(values["to"][2:])
        if to == STAKING:
            return {"for": "delegators"}
        return {"for": "gas" if operator_of(to) == bytes.fromhex(values["operator"][2:]) else "fee"}
    if event is abi.SHOWN:
        operator = operator_of(bytes.fromhex(values["sender"][2:]))
        return {"operator": None if operator is None else address(operator)}
    return {}


def cwu_text(macs: int) -> str:
    """Canonical work units with nine digits after the point."""
    return f"{macs // CWU}.{macs % CWU:09d}"


def _fold(story: dict[str, Any], name: str, values: dict[str, Any], number: int) -> None:
    if name in _BLOCK_OF:
        story[_BLOCK_OF[name]] = number
    if name in STATUS_OF:
        story["status"] = STATUS_OF[name].name.lower()
    match name:
        case "TaskPosted":
            story["kind"] = Kind(values["kind"]).name.lower()
            story["poster"] = _shown_value(values["poster"])
            story["model"] = data(values["model"])
            story["prompt"] = list(unpack_tokens(values["tokens"]))
            for key in ("maxTokens", "temperatureQ16", "topK", "assurance", "deadlineBlocks", "canary"):
                story[key] = values[key]
            story["escrowWei"] = str(values["escrow"])
        case "TaskDealt":
            story["attempt"] = values["attempt"]
            story["slots"] = [_shown_value(slot) for slot in values["slots"]]
            story["seed"] = data(values["seed"])
            story["traceKey"] = data(values["traceKey"])
        case "TaskAnswered":
            story["executor"] = _shown_value(values["executor"])
            story["output"] = _answer(story["kind"], values["tokens"])
            story["selfReported"] = {
                "queueMs": values["queueMs"],
                "firstTokenMs": values["firstTokenMs"],
                "totalMs": values["totalMs"],
                "device": values["device"].decode("utf-8", "replace"),
            }
        case "AuditDrawn":
            drawn = [_shown_value(verifier) for verifier in values["verifiers"]]
            story["drawn"] = drawn
        case "TaskAgreed":
            story["verifiers"] = [_shown_value(verifier) for verifier in values["verifiers"]]
            story["traceRoot"] = data(values["root"])
        case "TaskDisputed":
            story["note"] = DISPUTED_NOTE
        case "TaskRefuted":
            story["attempt"] = values["attempt"] + 1
            story["output"] = story["executor"] = None
            story["traceKey"] = data(trace_key(bytes.fromhex(story["seed"][2:]), story["attempt"]))
        case "Slashed":
            operator, wei = _shown_value(values["operator"]), str(values["amount"])
            story["slashed"].append({"operator": operator, "wei": wei, "reason": values["reason"], "block": number})
        case "TaskSettled":
            unverified = values["status"] == Status.UNVERIFIED
            story["status"] = (Status.UNVERIFIED if unverified else Status.SETTLED).name.lower()
            story["receiptId"] = data(values["receipt"])
            story["feeWei"] = str(values["fee"])
            story["cwu"] = cwu_text(values["macs"])
        case "Paid":
            story["paid"].append(
                {
                    "operator": _shown_value(values["operator"]),
                    "to": _shown_value(values["to"]),
                    "role": values["role"],
                    "wei": str(values["amount"]),
                    "for": values["for"],
                }
            )
        case "TaskMissed":
            story["missed"].append(
                {
                    "operator": _shown_value(values["operator"]),
                    "role": values["role"],
                    "block": number,
                    "reason": values["code"],
                }
            )


def _answer(kind: str | None, words: bytes) -> list[int]:
    """Token ids, or the elements of a vector."""
    answer = unpack_tokens(words)
    return list(vector_of(answer) if kind is not None and Kind[kind.upper()].is_vector else answer)


def _shown(event: abi.Event, kind_of_task: str | None, name: str, value: Any) -> Any:
    kind = next(param.type for param in event.params if param.name == name)
    if name == "tokens":
        return _answer(kind_of_task, value) if event is abi.TASK_ANSWERED else list(unpack_tokens(value))
    if name == "device":
        return value.decode("utf-8", "replace")
    if kind == "uint256":
        return str(value)
    if kind == "string":
        return value
    if name in ("bad", "executorBad", "verifierBad"):
        return None if value == NO_BAD_POSITION else value
    return _shown_value(value)


def _shown_value(value: Any) -> Any:
    """eth-abi's values as JSON: addresses in EIP-55 text, bytes in hexadecimal, the rest as it is."""
    if isinstance(value, str) and len(value) == 42 and value.startswith("0x"):
        return address(bytes.fromhex(value[2:]))
    if isinstance(value, bytes):
        return data(value)
    if isinstance(value, tuple | list):
        return [_shown_value(entry) for entry in value]
    return value
