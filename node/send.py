"""One transaction of a command: estimate, sign, send, wait for its receipt, say why it was refused.

Knows JSON-RPC and amounts; what is called, and what it means, is the commands' (post, validator).
"""

import time
from dataclasses import dataclass
from typing import Any

from node.client import Client, RpcFailure, from_hex, to_hex
from node.exits import RUNTIME, Fatal
from node.story import coins
from primitives.keys import address_of
from primitives.transaction import sign_transaction
from vm.system import abi

POLL_SECONDS = 0.25
WAIT_SECONDS_MAX = 600.0
TIP_WEI_PER_GAS = 10**9
GAS_MARGIN_PERCENT = 125


@dataclass(frozen=True)
class Prices:
    """What a call offers for gas: twice the base fee, so that it stays good while blocks fill."""

    max_fee_per_gas: int

    def fields(self) -> dict[str, str]:
        """As eth_call and eth_estimateGas take them."""
        return {"maxFeePerGas": hex(self.max_fee_per_gas), "maxPriorityFeePerGas": hex(TIP_WEI_PER_GAS)}


def current_prices(client: Client) -> Prices:
    """From the latest block's base fee."""
    base_fee = int(client.call("eth_getBlockByNumber", "latest", False)["baseFeePerGas"], 16)
    return Prices(2 * base_fee + TIP_WEI_PER_GAS)


def send(client: Client, key: bytes, prices: Prices, to: bytes, data: bytes, value: int) -> dict[str, Any]:
    """The receipt of the call, which succeeded. Raises RpcFailure (refused before it was sent: the decoded reason is
    in it) or Fatal (not enough coins, in no block, reverted there)."""
    sender = to_hex(address_of(key))
    call = {"from": sender, "to": to_hex(to), "data": to_hex(data), "value": hex(value), **prices.fields()}
    have = client.number("eth_getBalance", sender, "latest")
    if have < value:
        raise Fatal(RUNTIME, short_of(sender, have, value))
    gas = client.number("eth_estimateGas", call) * GAS_MARGIN_PERCENT // 100
    if have < (need := value + gas * prices.max_fee_per_gas):
        raise Fatal(RUNTIME, short_of(sender, have, need))
    signed = sign_transaction(
        key, chain_id=client.number("eth_chainId"), nonce=client.number("eth_getTransactionCount", sender, "pending"),
        gas=gas, to=to, max_fee_per_gas=prices.max_fee_per_gas, max_priority_fee_per_gas=TIP_WEI_PER_GAS,
        value=value, data=data,
    )  # fmt: skip
    transaction = str(client.call("eth_sendRawTransaction", to_hex(signed.raw)))
    receipt = wait_for_receipt(client, transaction)
    if int(receipt["status"], 16) != 1:
        where = f"in block {int(receipt['blockNumber'], 16)} (transaction {transaction})"
        raise Fatal(RUNTIME, f"reverted {where}: {_reason(client, call, receipt)}")
    return receipt


def short_of(account: str, have: int, need: int) -> str:
    """That an account has too little, in coins."""
    more = coins(need - have + 10**6)  # rounded up to what is shown
    return f"{account} has {coins(have)} coins and needs {coins(need)} and gas: send it {more} more"


def wait_for_receipt(client: Client, transaction: str) -> dict[str, Any]:
    """Once it is in a block, which is final. Raises Fatal after ten minutes."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while (receipt := client.call("eth_getTransactionReceipt", transaction)) is None:
        if time.monotonic() > deadline:
            raise Fatal(RUNTIME, f"transaction {transaction} is in no block after {WAIT_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)
    assert isinstance(receipt, dict)
    return receipt


def logged(receipt: dict[str, Any], wanted: abi.Event) -> dict[str, Any]:
    """The values of the event that a command's transaction must have logged. Raises Fatal."""
    for log in receipt["logs"]:
        topics = [from_hex(topic) for topic in log["topics"]]
        if topics and topics[0] == wanted.topic and log["address"].lower() == to_hex(wanted.account):
            return wanted.decode(topics, from_hex(log["data"]))
    raise Fatal(RUNTIME, f"transaction {receipt['transactionHash']} logged no {wanted.name}")


def refusal(failure: RpcFailure) -> str:
    """The reason alone, without the words around it."""
    return failure.message.removeprefix("execution reverted: ")


def _reason(client: Client, call: dict[str, str], receipt: dict[str, Any]) -> str:
    """Why, asked again on the state of its block: others' transactions there came first."""
    try:
        client.call("eth_call", call, receipt["blockNumber"])
    except RpcFailure as failure:
        return refusal(failure)
    return "another transaction of its block came first; send it again"
