"""A fifth node that nobody planned for: follows a running chain, registers, serves, and votes two epochs later."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from devnet_process import Devnet, environment, start_devnet, wait_until

from chain.kv import LevelKV
from chain.ledger import Ledger
from genesis.spec import load_spec
from node.client import Client, from_hex
from node.send import current_prices, send
from node.signer import create_or_open
from primitives.params import COIN
from primitives.validators import indexes_of
from primitives.vote import SignContext, decode_last_commit

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BLOCK_MS = 300
ACCOUNT = 5
BOND = 9_000
PASSPHRASE = {"LABORA_PASSPHRASE": "correct horse"}
SET_SECONDS = 300.0
"""Two to three epochs of 32 blocks, on a shared machine."""
VOTES_BLOCKS = 64


def labora(*arguments: str) -> str:
    command = [sys.executable, "-m", "node", *arguments]
    done = subprocess.run(
        command, env={**environment(), **PASSPHRASE}, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def follow(devnet: Devnet, folder: Path) -> "subprocess.Popen[bytes]":
    """`labora run` with the four as peers."""
    peers: list[str] = []
    for member in devnet.info["validators"]:
        peers += ["--p2p-peer", json.loads((Path(member["dataDir"]) / "endpoints.json").read_text())["p2p"]]
    command = [sys.executable, "-m", "node", "run", "--data-dir", str(folder), "--p2p-port", "0", "--rpc-port", "0"]
    with (folder / "node.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *peers], env={**environment(), **PASSPHRASE}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def check_votes(folder: Path, operator: bytes, first: int) -> list[int]:
    """In the set from `first` on and not before; heights whose certificate, as the next block carries it, has its
    vote."""
    kv = LevelKV(folder / "chain")
    try:
        ledger = Ledger.open(kv, load_spec(folder / "genesis.json"))
        powers = [
            {member.operator: member.power for member in ledger.validator_set(height).validators}.get(operator)
            for height in (first - 1, first)
        ]
        before, at_first = powers
        # A sixty-fourth of the bond for a start; less where the draws left a member without work, since one turn moves
        # at most a third of all power and what it moves is shared out.
        assert before is None and at_first is not None and 0 < at_first <= BOND * 1000 // 64, powers
        found = []
        for height in range(first, ledger.head.number):
            block, members = ledger.block(height + 1), ledger.validator_set(height)
            place = next((i for i, member in enumerate(members.validators) if member.operator == operator), None)
            certificate = None if block is None else decode_last_commit(block.last_commit)
            if place is not None and certificate and place in indexes_of(certificate.bitmap, len(members)):
                found.append(height)
        return found
    finally:
        kv.close()


def in_set(client: Client, operator: str) -> bool:
    return any(row["operator"] == operator and row["power"] for row in client.call("labora_validators")["validators"])


def test_a_newcomer_registers_serves_and_votes_two_epochs_later(tmp_path: Path) -> None:
    devnet = start_devnet(tmp_path, "--block-ms", str(BLOCK_MS))
    folder = tmp_path / "fifth"
    process: subprocess.Popen[bytes] | None = None
    try:
        genesis = Path(devnet.info["validators"][0]["dataDir"]) / "genesis.json"
        made = labora("init", "--genesis", str(genesis), "--validator", "--data-dir", str(folder))
        assert devnet.info["genesisHash"] in made
        process = follow(devnet, folder)
        endpoints = wait_until(
            "the fifth node's endpoints",
            lambda: json.loads(found.read_text()) if (found := folder / "endpoints.json").exists() else None,
        )
        own = Client(endpoints["rpc"])
        wait_until("the fifth node in step", lambda: own.call("labora_health")["height"] >= devnet.height(0) - 1)

        # Everything goes through the newcomer's own node.
        where = ("--rpc", endpoints["rpc"], "--data-dir", str(folder), "--account", str(ACCOUNT), "--json")
        registered = json.loads(labora("validator", "register", "--bond", str(BOND), *where))
        key = from_hex(devnet.info["accounts"][6]["privateKey"])
        send(own, key, current_prices(own), from_hex(registered["hot"]), b"", COIN)
        served = json.loads(labora("validator", "serve", *where))
        assert int(served["macsPerBlock"]) > 0
        operator, first = registered["operator"], registered["votesFromBlock"]
        assert operator == devnet.info["accounts"][ACCOUNT]["address"]
        wait_until("the fifth in the set", lambda: in_set(devnet.client(0), operator), SET_SECONDS)
        devnet.wait_height(0, first + VOTES_BLOCKS)
        health = own.call("labora_health")
        assert health["height"] >= first + VOTES_BLOCKS - 5 and health["refusedSignatures"] == 0
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
        devnet.stop()
        votes = check_votes(Path(devnet.info["validators"][0]["dataDir"]), from_hex(operator), first)
        # A certificate keeps the first two thirds that came: with a small vote, being in one is a matter of luck.
        print(f"votes of its own in {len(votes)} of {VOTES_BLOCKS} certificates")
        context = SignContext(devnet.info["chainId"], from_hex(devnet.info["genesisHash"]))
        signer = create_or_open(folder / "signer.state", b"\x01" * 32, context, health["height"], 5)
        assert signer.state.height >= first + VOTES_BLOCKS - 5, "it signs at the head"
        signer.close()
    finally:
        if process is not None and process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(30)
        devnet.stop()
        if (folder / "node.log").exists():
            print((folder / "node.log").read_text()[-10_000:])
