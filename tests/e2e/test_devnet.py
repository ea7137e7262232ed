"""The whole thing as a user meets it: four processes, web3.py, a contract, tasks, kill -9."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from devnet_process import Devnet, environment, start_devnet, wait_until
from eth_account import Account
from prometheus_client.parser import text_string_to_metric_families
from web3 import AsyncWeb3, Web3, WebSocketProvider
from web3.contract import Contract

from node.client import Client, to_hex
from node.post import Request, post_task
from node.story import Story, read_story
from primitives.address import MARKET
from primitives.task import Status
from vm.system import abi

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("The sea", "It was a dark", "The whale")


def wallet(devnet: Devnet, index: int) -> tuple[Web3, Any]:
    w3 = Web3(Web3.HTTPProvider(devnet.info["rpc"][index]))
    return w3, Account.from_key(devnet.info["accounts"][index]["privateKey"])


def send(w3: Web3, account: Any, transaction: dict[str, Any]) -> Any:
    signed = account.sign_transaction(transaction)
    receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(signed.raw_transaction), timeout=120)
    assert receipt["status"] == 1
    return receipt


def check_transactions(devnet: Devnet) -> None:
    """Legacy, 2930 and 1559."""
    w3, account = wallet(devnet, 0)
    to = Account.create().address
    base = {"to": to, "value": 10**15, "gas": 60_000, "chainId": 31337}
    gas_price = w3.eth.gas_price * 2
    for fields in (
        {"gasPrice": gas_price},
        {"gasPrice": gas_price, "type": 1, "accessList": [{"address": to, "storageKeys": []}]},
        {"maxFeePerGas": gas_price, "maxPriorityFeePerGas": 10**9, "type": 2},
    ):
        nonce = w3.eth.get_transaction_count(account.address, "pending")
        send(w3, account, {**base, **fields, "nonce": nonce})
    assert w3.eth.get_balance(to) == 3 * 10**15


def check_contract(devnet: Devnet) -> None:
    """Deploy, call, and read the event by filter and by subscription (at another node)."""
    w3, account = wallet(devnet, 1)
    artifact = json.loads((ROOT / "tests/clients/Counter.json").read_text())
    factory = w3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
    defaults = {"from": account.address, "chainId": 31337}

    def transact(call: Any) -> Any:
        nonce = w3.eth.get_transaction_count(account.address, "pending")
        return send(w3, account, call.build_transaction({**defaults, "nonce": nonce}))

    address = transact(factory.constructor())["contractAddress"]
    counter: Contract = w3.eth.contract(address=address, abi=artifact["abi"])
    installed = counter.events.Incremented.create_filter(from_block="latest")
    received = asyncio.run(_increment_and_listen(devnet, counter, lambda: transact(counter.functions.increment(7))))
    assert received == 7
    assert counter.functions.count().call() == 7
    by_filter = wait_until("the event by filter", lambda: installed.get_new_entries() or None)
    assert by_filter[0]["args"]["amount"] == 7


async def _increment_and_listen(devnet: Devnet, counter: Contract, increment: Any) -> int:
    async with AsyncWeb3(WebSocketProvider(devnet.info["ws"][2])) as w3:
        await w3.eth.subscribe("logs", {"address": counter.address})
        loop = asyncio.get_running_loop()
        sent = loop.run_in_executor(None, increment)
        async with asyncio.timeout(120):
            async for message in w3.socket.process_subscriptions():
                log = message["result"]
                await sent
                return int(counter.events.Incremented().process_log(log)["args"]["amount"])
    raise AssertionError("the subscription ended")


def post_tasks(devnet: Devnet) -> list[dict[str, Any]]:
    """Three questions through the command line; each settles with agreement."""
    stories = []
    for prompt in PROMPTS:
        done = devnet.labora("task", "post", prompt, "--max-tokens", "12", "--json")
        assert done.returncode == 0, done.stderr
        stories.append(json.loads(done.stdout))
    return stories


def engines_of(devnet: Devnet, story: dict[str, Any]) -> set[str]:
    by_address = {validator["address"]: validator["engine"] for validator in devnet.info["validators"]}
    return {by_address[address] for address in (story["executor"], *story["verifiers"])}


def check_metrics(devnet: Devnet) -> None:
    """What all nodes together show Prometheus of the tasks that were done."""
    shown: dict[str, float] = {}
    for validator in devnet.info["validators"]:
        with urllib.request.urlopen(validator["metrics"], timeout=20) as answer:
            page = answer.read().decode()
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                name = sample.name + "".join(f" {label}" for label in sample.labels.values())
                shown[name] = shown.get(name, 0.0) + sample.value
    assert shown["ethereum_peer_count"] >= 3 * 3 and shown["labora_work_power"] > 0
    assert shown["labora_inference_generation_tokens_total"] > 12
    assert shown["labora_inference_time_to_first_token_seconds_count"] > 0
    assert shown["labora_inference_requests_total"] > shown["labora_inference_time_to_first_token_seconds_count"]
    assert all(shown[f"labora_work_earned_wei_total {role}"] > 0 for role in ("execute", "check", "gas"))
    assert sum(wei for name, wei in shown.items() if name.startswith("labora_work_slashed_wei_total")) == 0


def test_a_users_first_hour(devnet: Devnet, tmp_path: Path) -> None:
    check_transactions(devnet)
    check_contract(devnet)
    stories = post_tasks(devnet)
    fields = {
        "taskId", "lane", "kind", "model", "output", "status", "executor", "verifiers", "postedBlock", "agreedBlock",
        "settledBlock", "feeWei", "cwu", "receiptId",
    }  # fmt: skip
    for story in stories:
        assert set(story) == fields
        assert story["status"] == "settled" and story["output"].strip()
        assert len(story["verifiers"]) == 2 and story["executor"] not in story["verifiers"]
        assert story["postedBlock"] < story["agreedBlock"] < story["settledBlock"]
    engines = {engine for validator in devnet.info["validators"] for engine in [validator["engine"]]}
    if engines == {"torch", "numpy"}:
        assert any(engines_of(devnet, story) == engines for story in stories), "both engines agreed on a task"
    streamed = devnet.labora("task", "post", "The sea", "--max-tokens", "160", "--wait", "answer")
    assert streamed.returncode == 0, streamed.stderr
    before, _, after = streamed.stdout.partition("so far, not final, from 0x")
    assert "dealt to" in before and "done by" in after, "tokens are shown between the deal and the answer's block"
    assert "is not the answer" not in after
    explained = devnet.labora("task", "explain", stories[0]["taskId"])
    assert explained.returncode == 0 and "agreed, bit for bit" in explained.stdout

    # kill -9 of one node: the others go on; started again it catches up and votes.
    before = devnet.height(0)
    devnet.kill(2)
    devnet.wait_height(0, before + 4)
    devnet.revive(2)
    devnet.wait_height(2, devnet.height(0) + 2)
    height = min(devnet.height(index) for index in range(4))
    blocks = [devnet.block(index, height) for index in range(4)]
    assert len({block["hash"] for block in blocks}) == 1
    assert len({block["stateRoot"] for block in blocks}) == 1
    for index in range(4):
        health = devnet.health(index)
        assert health is not None and health["evidence"] == 0, "nobody signed twice"
    check_receipts(devnet, tmp_path)
    check_operators(devnet)
    check_metrics(devnet)
    assert "Traceback" not in devnet.logs()


def test_a_chain_killed_whole_goes_on_from_the_last_block(tmp_path: Path) -> None:
    devnet = start_devnet(tmp_path, "--engine", "numpy")
    try:
        devnet.wait_height(0, 4)
        for index in range(4):
            devnet.kill(index)
        assert devnet.process.wait(60) == 1, "the launcher ends when no node is left, and says so"
    finally:
        devnet.stop()
    text = (tmp_path / "launcher.log").read_text()
    assert "was killed by signal 9" in text and f" run --data-dir {tmp_path}" in text
    again = start_devnet(tmp_path, "--engine", "numpy")
    try:
        again.wait_height(0, 8)
        hashes = {again.block(index, 4)["hash"] for index in range(4) if again.height(index) >= 4}
        assert len(hashes) == 1
    finally:
        again.stop()


def test_a_follower_made_by_init_syncs_and_serves_the_same_chain(tmp_path: Path) -> None:
    devnet = start_devnet(tmp_path, "--validators", "1", "--engine", "numpy", "--block-ms", "300")
    follower = tmp_path / "follower"
    genesis = devnet.folder / "node0" / "genesis.json"
    words = {**environment(), "LABORA_PASSPHRASE": "words"}

    def labora(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "node", *arguments, "--data-dir", str(follower)]
        return subprocess.run(command, env=words, capture_output=True, text=True, timeout=60, check=False)

    try:
        devnet.wait_height(0, 10)
        made = labora("init", "--genesis", str(genesis))
        assert made.returncode == 0, made.stderr
        assert devnet.info["genesisHash"] in made.stdout
        assert labora("init", "--genesis", str(genesis)).returncode == 78, "nothing is overwritten"
        peer = json.loads((devnet.folder / "node0" / "endpoints.json").read_text())["p2p"]
        command = [sys.executable, "-m", "node", "run", "--data-dir", str(follower), "--p2p-peer", peer]
        with (tmp_path / "follower.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--p2p-port", "0", "--rpc-port", "0"], env=words, stdout=log, stderr=log
            )
        devnet.revived.append(process)
        wait_until("the follower's endpoints", (follower / "endpoints.json").exists)
        endpoints = json.loads((follower / "endpoints.json").read_text())
        client = Client(endpoints["rpc"])
        target = devnet.height(0) + 3
        wait_until("the follower at the head", lambda: client.number("eth_blockNumber") >= target)
        block = client.call("eth_getBlockByNumber", hex(target), False)
        assert block["stateRoot"] == devnet.block(0, target)["stateRoot"]
        status = devnet.labora("validator", "status")
        assert status.returncode == 0 and devnet.info["validators"][0]["address"] in status.stdout
    finally:
        devnet.stop()


def check_receipts(devnet: Devnet, folder: Path) -> None:
    """The whole history of receipts, recomputed by the command over JSON-RPC; one of them shown; the bill."""
    verified = devnet.labora("receipts", "verify", "--json")
    assert verified.returncode == 0, verified.stderr
    found = json.loads(verified.stdout)
    assert found["ok"] and found["receipts"] > 0
    listed = devnet.labora("receipts", "list", "--json", "--to", str(found["to"]))
    receipts = [json.loads(line) for line in listed.stdout.splitlines()]
    assert len(receipts) == found["receipts"]
    shown = devnet.labora("receipts", "show", receipts[0]["task"])
    assert json.loads(shown.stdout) == receipts[0]
    bill = folder / "bill.csv"
    assert devnet.labora("receipts", "export", "--csv", str(bill), "--to", str(found["to"])).returncode == 0
    assert len(bill.read_text().splitlines()) == 1 + len(receipts)
    proof = folder / "proof.json"
    assert devnet.labora("receipts", "prove", receipts[-1]["task"], "--out", str(proof)).returncode == 0
    genesis = devnet.client(0).call("eth_getBlockByNumber", "0x0", False)["hash"]
    command = [sys.executable, str(ROOT / "docs" / "verify_receipt.py"), str(proof)]
    checked = subprocess.run([*command, genesis], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(checked.stdout)["receipt"] == receipts[-1]["receipt"]
    refused = subprocess.run([*command, "0x" + "00" * 32], capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1 and "genesis" in refused.stderr


def check_operators(devnet: Devnet) -> None:
    """What an operator sees of itself, what a machine would earn, and what one does not take."""
    operator = devnet.info["validators"][1]["address"]
    rows = json.loads(devnet.labora("validator", "status", "--json").stdout)
    assert {row["operator"] for row in rows} == {validator["address"] for validator in devnet.info["validators"]}
    [mine] = [row for row in rows if row["operator"] == operator]
    assert mine.keys() >= {"operator", "bond", "credit", "power", "misses", "slashes"} and mine["slashes"] == []
    shown = json.loads(devnet.labora("validator", "status", "--operator", operator, "--json").stdout)
    assert shown["operator"] == operator
    told = json.loads(devnet.labora("validator", "estimate", "--macs-per-second", "100000000", "--json").stdout)
    assert 0 < told["dealShare"] < 1 and int(told["weiPerDayFull"]) > 0
    stranger = devnet.labora("validator", "declare", "--hours", "8-18", "--account", "3")
    assert stranger.returncode == 1 and "is no operator" in stranger.stderr


@pytest.mark.slow
def test_an_executor_that_dies_holding_a_task_is_replaced_by_its_backup(tmp_path: Path) -> None:
    """Every executor's node is killed as soon as a task is dealt to it, until one of the tasks was really held."""
    devnet = start_devnet(tmp_path, "--engine", "numpy", "--block-ms", "500")
    try:
        by_address = {v["address"].lower(): index for index, v in enumerate(devnet.info["validators"])}
        client = devnet.client(0)
        key = bytes.fromhex(devnet.info["accounts"][0]["privateKey"][2:])
        for _ in range(6):
            task, block = post_task(client, key, Request("The sea", max_tokens=160))
            dealt = wait_until("the deal", partial(dealt_to, client, task, block))
            index = by_address[dealt]
            if index == 0:
                continue  # the node that this test asks
            devnet.kill(index)
            story = wait_until("the end", partial(finished, client, task), 400)
            devnet.revive(index)
            if (story.told["executor"] or "").lower() == dealt:
                continue  # it had answered before it died
            assert story.status is Status.SETTLED, story.lines
            assert any("missed" in line for line in story.lines)
            return
        raise AssertionError("no executor died in time")
    finally:
        devnet.stop()


def dealt_to(client: Client, task: bytes, block: int) -> str | None:
    query = {"fromBlock": hex(block), "address": to_hex(MARKET), "topics": [to_hex(abi.TASK_DEALT.topic), to_hex(task)]}
    logs = client.call("eth_getLogs", query)
    return "0x" + logs[0]["topics"][2][-40:] if logs else None


def finished(client: Client, task: bytes) -> Story | None:
    story = read_story(client, task)
    return story if story.settled_block is not None or story.status is Status.REFUNDED else None


def test_ctrl_c_ends_every_process_and_says_130(tmp_path: Path) -> None:
    devnet = start_devnet(tmp_path, "--validators", "1", "--engine", "numpy")
    pid = devnet.info["validators"][0]["pid"]
    devnet.process.send_signal(signal.SIGINT)
    assert devnet.process.wait(30) == 130
    assert not Path(f"/proc/{pid}").exists()


def test_a_single_validator_answers_with_assurance_0(tmp_path: Path) -> None:
    devnet = start_devnet(tmp_path, "--validators", "1", "--engine", "numpy", "--block-ms", "500")
    try:
        done = devnet.labora("task", "post", "The sea", "--max-tokens", "8", "--json")
        assert done.returncode == 0, done.stderr
        story = json.loads(done.stdout)
        assert story["status"] == "unverified" and story["verifiers"] == [] and story["settledBlock"]
        refused = devnet.labora("task", "post", "The sea", "--assurance", "1")
        assert refused.returncode == 1 and "--assurance 0" in refused.stderr
    finally:
        devnet.stop()


def test_starting_up_takes_seconds(tmp_path: Path) -> None:
    """First block within 10 s of an empty folder on a free machine; a shared one gets three times that."""
    began = time.monotonic()
    devnet = start_devnet(tmp_path)
    try:
        assert time.monotonic() - began < 30
    finally:
        devnet.stop()
