"""ethers, viem and cast against a devnet of real processes (`make clients` installs them)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from devnet_process import Devnet

CLIENTS = Path(__file__).resolve().parent.parent / "clients"
CAST = CLIENTS / "node_modules" / ".bin" / "cast"
SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.skipif(not CAST.exists(), reason="the JavaScript clients are not installed (make clients)"),
]


def script(name: str, devnet: Devnet, account: int) -> dict[str, Any]:
    """What a client program prints."""
    key = devnet.info["accounts"][account]["privateKey"]
    command = ["node", name, devnet.info["rpc"][0], devnet.info["ws"][1], key]
    done = subprocess.run(command, cwd=CLIENTS, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def cast(devnet: Devnet, subcommand: str, *arguments: str) -> str:
    command = [str(CAST), subcommand, "--rpc-url", devnet.info["rpc"][2], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_ethers_viem_and_cast_do_what_a_dapp_does(devnet: Devnet) -> None:
    expected = {"balance": str(15 * 10**17), "count": 7, "custom": "TooMuch", "reason": "amount is zero", "logs": 1}
    expected |= {"event": 7, "head": True}
    found = script("ethers.mjs", devnet, 2)
    assert found.pop("sent") == {"legacy": 1, "accessList": 1, "dynamicFee": 1}
    assert found == expected
    found = script("viem.mjs", devnet, 3)
    assert found.pop("sent") == {"legacy": "success", "eip2930": "success", "eip1559": "success"}
    assert found == expected

    account = devnet.info["accounts"][4]
    to = "0x" + "44" * 20
    sent = cast(devnet, "send", to, "--value", "1ether", "--private-key", account["privateKey"], "--json")
    assert json.loads(sent)["status"] == "0x1"
    assert cast(devnet, "balance", to, "--ether").startswith("1.0")
    assert int(cast(devnet, "nonce", account["address"])) == 1
    assert int(cast(devnet, "block-number")) > 0
    bytecode = json.loads((CLIENTS / "Counter.json").read_text())["bytecode"]
    made = json.loads(cast(devnet, "send", "--private-key", account["privateKey"], "--json", "--create", bytecode))
    address = made["contractAddress"]
    done = cast(devnet, "send", address, "increment(uint256)", "5", "--private-key", account["privateKey"], "--json")
    assert len(json.loads(done)["logs"]) == 1
    assert cast(devnet, "call", address, "count()(uint256)") == "5"
    assert int(cast(devnet, "estimate", address, "increment(uint256)", "1", "--from", account["address"])) > 21_000
