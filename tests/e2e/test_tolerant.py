"""The tolerant lane on real processes: validators that offer a float model over HTTP, asked from the command line,
beside an exact task; every receipt of both lanes recounted."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from devnet_process import Devnet, start_devnet, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "node"))

from openai_peer import FloatModel, bfloat16, exact, serving

from genesis.models import folder
from inference.model import load
from inference.tokenizer import open_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = "sea/float"
PROMPT = "The sea was calm"


def labora(devnet: Devnet, *arguments: str) -> Any:
    done = devnet.labora(*arguments, "--json")
    assert done.returncode == 0, (arguments, done.stderr)
    return json.loads(done.stdout)


def test_two_validators_sell_answers_of_a_float_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder())
    tokenizer = open_tokenizer(folder(), model.manifest.tokenizer)
    served, judge = (FloatModel(model, tokenizer, rounding) for rounding in (bfloat16, exact))
    with serving(served) as url, serving(judge) as check_url:
        for key, value in {"URL": url, "MODEL": NAME, "TOKEN_WEI": str(10**14), "DEADLINE": "60"}.items():
            monkeypatch.setenv(f"LABORA_TOLERANT_{key}", value)
        devnet = start_devnet(tmp_path, "--validators", "2", "--block-ms", "400", "--engine", "numpy")
        try:
            sell(devnet, check_url)
        finally:
            devnet.stop()
            print(devnet.logs()[-20_000:])


def sell(devnet: Devnet, check_url: str) -> None:
    operators = {row["address"] for row in devnet.info["validators"]}
    wait_until("both offers", lambda: {row["operator"] for row in labora(devnet, "tolerant", "offers")} == operators)
    first, second = sorted(operators)
    ask = ("tolerant", "ask", PROMPT, "--max-tokens", "8", "--temperature", "0.8")
    bought = labora(devnet, *ask, "--executor", first, "--check-url", check_url, "--then", "check")
    assert (bought["lane"], bought["verified"], bought["end"]) == ("tolerant", False, "accepted")
    assert bought["executor"] == first and bought["check"]["within"] and len(bought["tokens"]) == 8
    assert bought["model"] == NAME and bought["output"] == "".join(bought["tokens"])

    left = labora(devnet, *ask, "--executor", second)
    assert left["status"] == "answered" and left["end"] is None and left["check"] is None
    refused = labora(devnet, "tolerant", "refuse", left["taskId"], "--reason", "not to my taste")
    assert int(refused["refundedWei"]) == int(left["escrowWei"]) - int(left["feeWei"]) // 5
    late = devnet.labora("tolerant", "accept", left["taskId"])
    assert late.returncode == 1 and "accept was refused" in late.stderr

    posted = labora(devnet, "task", "post", PROMPT, "--max-tokens", "8")
    assert (posted["status"], posted["lane"]) == ("settled", "exact")
    told = labora(devnet, "task", "explain", bought["taskId"])
    assert (told["status"], told["end"], told["verifiers"]) == ("settled", "accepted", []) and told["receiptId"]
    assert labora(devnet, "task", "explain", left["taskId"])["end"] == "refused"
    words = devnet.labora("task", "explain", bought["taskId"]).stdout
    assert "tolerant lane: asked by" in words and "no vote, no credit" in words

    receipt = json.loads(devnet.labora("receipts", "show", bought["taskId"]).stdout)
    assert receipt["lane"] == "tolerant" and receipt["verification"]["method"] == "accepted"
    counted = labora(devnet, "receipts", "verify")
    assert counted["ok"] and counted["receipts"] >= 2
    records = {row["operator"]: row["record"] for row in labora(devnet, "tolerant", "offers")}
    assert (records[first]["accepted"], records[second]["refused"]) == (1, 1)
