"""A task of the tolerant lane, told from the chain's logs alone and marked as such: nothing in it was verified."""

from collections.abc import Iterable
from typing import Any

from inference.tolerant import text_of
from primitives.task import Status, decode_texts
from rpc.codec import data
from rpc.task_story import PlacedLog, as_json, told
from vm.system import abi

_BLOCK_OF = {
    "TolerantAsked": "postedBlock",
    "TolerantAnswered": "answeredBlock",
    "TolerantAccepted": "acceptedBlock",
    "TolerantPaid": "settledBlock",
    "TolerantRefused": "refundedBlock",
    "TolerantUnanswered": "refundedBlock",
}
_STATUS_OF = {
    "TolerantAsked": Status.POSTED,
    "TolerantAnswered": Status.ANSWERED,
    "TolerantPaid": Status.SETTLED,
    "TolerantRefused": Status.REFUNDED,
    "TolerantUnanswered": Status.REFUNDED,
}


def tell(task: bytes, logs: Iterable[PlacedLog]) -> dict[str, Any]:
    """The task as labora_task shows it. end: accepted, unopposed (the asker said nothing), refused or unanswered; texts
    are what their authors wrote, wei decimal strings."""
    story: dict[str, Any] = {
        "taskId": data(task),
        "lane": "tolerant",
        "verified": False,
        "status": None,
        "end": None,
        "kind": "generate",
        "output": None,
        "tokens": None,
        "executor": None,
        "verifiers": [],
        "feeWei": None,
        "cwu": None,
        "receiptId": None,
        **dict.fromkeys(_BLOCK_OF.values()),
        "agreedBlock": None,
        "paid": [],
        "events": [],
    }
    for placed in logs:
        event = abi.event_of(placed.log)
        if event is None:
            continue
        shown = _shown(event, event.decode(placed.log.topics, placed.log.data))
        _fold(story, event.name, shown, placed.number)
        story["events"].append(told(placed, event, shown))
    return story


def _shown(event: abi.Event, values: dict[str, Any]) -> dict[str, Any]:
    """A log as JSON; an answer's tokens are texts."""
    if event is not abi.TOLERANT_ANSWERED:
        return as_json(event, values)
    tokens = decode_texts(values.pop("tokens"))
    return {**as_json(event, values), "tokens": list(tokens)}


def _fold(story: dict[str, Any], name: str, values: dict[str, Any], number: int) -> None:
    story[_BLOCK_OF[name]] = number
    if name in _STATUS_OF:
        story["status"] = _STATUS_OF[name].name.lower()
    match name:
        case "TolerantAsked":
            story["poster"] = values["asker"]
            story["escrowWei"] = values["escrow"]
            same = ("executor", "model", "prompt", "maxTokens", "temperatureQ16", "topK", "seed", "lastBlock",
                    "weiPerPromptByte", "weiPerToken")  # fmt: skip
            story |= {key: values[key] for key in same}
        case "TolerantAnswered":
            story["tokens"], story["output"] = values["tokens"], text_of(values["tokens"])
            story["feeWei"], story["lastBlock"] = values["fee"], values["lastBlock"]
            story["selfReported"] = {"queueMs": values["queueMs"], "totalMs": values["totalMs"]}
        case "TolerantPaid":
            story["end"] = "accepted" if values["accepted"] else "unopposed"
            story["receiptId"] = values["receipt"]
            paid = {"operator": values["executor"], "to": values["to"], "role": abi.ROLE_EXECUTE}
            story["paid"].append({**paid, "wei": values["executorWei"]})
        case "TolerantRefused":
            story["end"], story["reason"] = "refused", values["reason"]
        case "TolerantUnanswered":
            story["end"] = "unanswered"
