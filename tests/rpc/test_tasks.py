"""A task through the interface: what a quote and an estimate promise, the next block holds."""

from collections.abc import Callable
from typing import Any

import pytest

from genesis.keys import ACCOUNT_ADDRESSES
from primitives.address import MARKET, checksum
from primitives.merkle import pack_tokens
from vm.system import abi

Ask = Callable[..., Any]


def post(host: Any, ask: Ask, prompt: bytes = b"The sea", most: int = 8, **changes: Any) -> tuple[Any, bytes]:
    """(estimate or error, calldata) of a post at its quoted escrow."""
    model = changes.pop("model", None) or bytes.fromhex(ask("labora_models")[0]["model"][2:])
    quote = abi.QUOTE.encode_call(0, bytes.fromhex(ask("labora_models")[0]["model"][2:]), 7, 8, 0, 0, 0, 0)
    shown = ask("eth_call", {"to": checksum(MARKET), "data": "0x" + quote.hex()}, "latest")
    escrow, least, *_ = abi.QUOTE.decode_result(bytes.fromhex(shown[2:]))
    data = abi.POST.encode_call(0, model, pack_tokens(list(prompt)), most, 0, 0, 0, 0, 0, least, 0)
    value = changes.pop("value", escrow)
    call = {"from": checksum(ACCOUNT_ADDRESSES[0]), "to": checksum(MARKET), "data": "0x" + data.hex()}
    return ask("eth_estimateGas", {**call, "value": hex(value)}), data


def test_a_post_at_its_quote_and_estimate_succeeds_and_tells_its_story(host: Any, ask: Ask) -> None:
    host.produce()
    quote = abi.QUOTE.encode_call(0, bytes.fromhex(ask("labora_models")[0]["model"][2:]), 7, 8, 0, 0, 0, 0)
    shown = ask("eth_call", {"to": checksum(MARKET), "data": "0x" + quote.hex()}, "latest")
    escrow, *_ = abi.QUOTE.decode_result(bytes.fromhex(shown[2:]))
    estimate, data = post(host, ask)
    sent = host.send(to=MARKET, data=data, value=escrow, gas=int(estimate, 16))
    host.produce()
    receipt = ask("eth_getTransactionReceipt", "0x" + sent.hash.hex())
    assert receipt["status"] == "0x1"
    task = receipt["logs"][0]["topics"][1]
    story = ask("labora_task", task)
    assert story["status"] == "posted" and story["prompt"] == list(b"The sea") and story["postedBlock"] == 2
    host.produce()
    story = ask("labora_task", task)
    assert story["status"] == "dealt" and story["dealtBlock"] == 3
    assert [event["event"] for event in story["events"]] == ["TaskPosted", "TaskDealt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": b"\x01" * 32}, "model"),
        ({"prompt": b"x" * 5_000}, "context"),
        ({"value": 1}, "escrow"),
        ({"most": 0}, "maxTokens"),
    ],
)
def test_a_post_that_cannot_be_is_refused_at_the_estimate_with_the_reason(
    host: Any, ask: Ask, changes: dict[str, Any], said: str
) -> None:
    host.produce()
    refused, _ = post(host, ask, **changes)
    assert refused["code"] == 3 and said in refused["message"], refused
