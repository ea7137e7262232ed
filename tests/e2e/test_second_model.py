"""A second model on a running chain: registered from a folder, fetched by other validators from the first over p2p,
served, asked, settled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from devnet_process import Devnet, environment, start_devnet, wait_until

from genesis.keys import devnet_validator
from inference import program as cip
from inference.build import random_model, request, with_known_answers
from inference.model import load, save

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BLOCK_MS = 400
RATE = "50000000"


def labora(*arguments: str, fails: bool = False) -> str:
    """What a command prints; `fails`: what it says when it is refused."""
    command = [sys.executable, "-m", "node", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode != 0) is fails, (arguments, done.stdout, done.stderr)
    return done.stderr if fails else done.stdout


def test_a_model_is_registered_travels_is_served_and_settles_a_task(tmp_path: Path) -> None:
    shape = cip.Shape(
        vocabulary=300, context=64, width=256, layers=6, heads=4, kv_heads=2, head_width=64, rotary=64, hidden=512,
        norm_epsilon_q32=42950, layers_per_group=2,
    )  # fmt: skip
    model = with_known_answers(random_model(shape, 77), [request((84, 104, 101), 4)])
    source, identifier = tmp_path / "second", "0x" + model.model_id.hex()
    save(source, model.manifest, model.tensors)
    devnet = start_devnet(tmp_path, "--block-ms", str(BLOCK_MS), "--engine", "numpy")
    try:
        travel(devnet, source, identifier)
    finally:
        devnet.stop()
        print(devnet.logs()[-20_000:])


def travel(devnet: Devnet, source: Path, model: str) -> None:
    folders = [member["dataDir"] for member in devnet.info["validators"]]
    own = [("--data-dir", folder, "--rpc", rpc) for folder, rpc in zip(folders, devnet.info["rpc"], strict=True)]
    keys = ["0x" + devnet_validator(index).operator.hex() for index in range(4)]

    registered = json.loads(labora("model", "register", str(source), "--macs-per-block", RATE, "--json", *own[0]))
    assert registered["model"] == model
    refused = labora("validator", "serve", "--model", model, "--key", keys[1], *own[1], fails=True)
    assert "does not hold" in refused and "labora model fetch" in refused

    taken = json.loads(labora("model", "fetch", model, "--path", str(source), "--data-dir", folders[0], "--json"))
    assert taken["state"] == "ready"
    # Node 1 is killed while it fetches, and goes on by itself when it is back; node 2 fetches meanwhile. Who of them is
    # faster than the kill is a matter of luck; that it ends with a whole model is not.
    fetching = subprocess.Popen(
        [sys.executable, "-m", "node", "model", "fetch", model, *own[1]], env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    begun = Path(folders[1]) / "models"
    wait_until("node 1 begins", lambda: begun.exists() and any(begun.glob("*")))
    devnet.kill(1)
    fetching.wait(60)
    second = json.loads(labora("model", "fetch", model, "--json", *own[2]))
    assert second["state"] == "ready" and second["bytes"] == taken["bytes"] > 2_000_000
    devnet.revive(1)
    whole = Path(folders[1]) / "models" / model[2:]
    wait_until("node 1 has fetched it", whole.is_dir)
    assert load(whole).model_id.hex() == model[2:]

    wait_until("node 1 in step", lambda: devnet.height(1) >= devnet.height(0) - 1)
    for index in range(3):
        labora("validator", "serve", "--model", model, "--macs-per-block", RATE, "--key", keys[index], *own[index])
    names = {row["model"]: row for row in devnet.client(3).call("labora_models")}
    assert names[model]["servedBy"] == 3 and not names[model]["listed"]
    assert "random-77 (unlisted)" in labora("model", "list", "--rpc", devnet.info["rpc"][3])

    asked = ("task", "post", "84 104 101", "--ids", "--model", model, "--max-tokens", "4", "--json")
    story = json.loads(labora(*asked, "--rpc", devnet.info["rpc"][3]))
    assert story["status"] == "settled" and story["model"] == model
    assert len(story["verifiers"]) == 2 and int(story["feeWei"]) > 0
    operators = {devnet.info["validators"][index]["address"] for index in range(3)}
    assert {story["executor"], *story["verifiers"]} == operators, "node 3 does not serve it"
    assert os.listdir(folders[3]).count("models") == 0
