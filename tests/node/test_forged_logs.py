"""Any contract may log what looks like the system's events: a node that believed it could be led astray, or stopped."""

import json
import urllib.request
from pathlib import Path

from node_of_one import against_a_node

from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS
from node.client import Client, to_hex
from node.config import DataFolder
from node.send import current_prices, wait_for_receipt
from primitives.transaction import sign_transaction
from vm.system import abi

GAS = 2_000_000


def logging_everything() -> bytes:
    """Init code of a contract that logs every system event: with its topic alone, and with three of nothing beside."""
    code = b""
    for topic in abi.EVENTS:
        push = b"\x7f" + topic + b"\x60\x00\x60\x00"  # PUSH32 topic, PUSH1 0, PUSH1 0
        code += push + b"\xa1"  # LOG1
        code += b"\x60\x00" * 3 + push + b"\xa4"  # LOG4
    return code + b"\x00"


def test_forged_events_stop_no_node_and_count_nowhere(tmp_path: Path) -> None:
    def commands(client: Client, folder: DataFolder) -> None:
        prices = current_prices(client)
        forged = sign_transaction(
            ACCOUNT_KEYS[0], chain_id=client.number("eth_chainId"),
            nonce=client.number("eth_getTransactionCount", to_hex(ACCOUNT_ADDRESSES[0]), "latest"), gas=GAS, to=b"",
            max_fee_per_gas=prices.max_fee_per_gas, max_priority_fee_per_gas=10**9, value=0, data=logging_everything(),
        )  # fmt: skip
        receipt = wait_for_receipt(client, client.call("eth_sendRawTransaction", to_hex(forged.raw)))
        assert receipt["status"] == "0x1" and len(receipt["logs"]) == 2 * len(abi.EVENTS)
        after = int(receipt["blockNumber"], 16)
        while client.number("eth_blockNumber") < after + 3:
            pass
        health = client.call("labora_health")
        work = health["inference"]
        assert health["status"] == "ok" and not work["missed"] and not work["refused"] and not work["slashed"]
        assert work["tasksSettled"] == 0 and health["disputes"]["challenged"] == 0
        with urllib.request.urlopen(json.loads(folder.endpoints.read_text())["metrics"], timeout=20) as page:
            assert b'labora_work_tasks{status="refuted"} 0.0' in page.read()

    against_a_node(tmp_path, commands)
