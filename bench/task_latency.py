"""Claim: milliseconds from `labora task post` (64 tokens) to answered, agreed and settled on the four-validator devnet.

    python bench/task_latency.py [TASKS]
"""

import json
import subprocess
import sys
import time

import harness

TOKENS = 64


def one(net: harness.Devnet, prompt: str) -> dict[str, float]:
    """Blocks from the post to each step, and seconds of the whole command."""
    command = [*harness.LABORA, "task", "post", prompt, "--rpc", net.rpc[0], "--max-tokens", str(TOKENS)]
    begun = time.time()
    client = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=harness.ENVIRONMENT)
    output, _ = client.communicate(timeout=180)
    story = harness.rpc(net.rpc[0], "labora_task", json.loads(output)["taskId"])
    assert story["status"] == "settled", story
    posted = story["postedBlock"]
    return {
        "answered": story["answeredBlock"] - posted,
        "agreed": story["agreedBlock"] - posted,
        "settled": story["settledBlock"] - posted,
        "whole": time.time() - begun,
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    harness.header(__doc__.splitlines()[0])
    with harness.devnet() as net:
        found = [one(net, f"The sea, and number {i}") for i in range(count)]
    for step in ("answered", "agreed", "settled"):
        harness.row(f"blocks from post to {step} (1 s each)", [steps[step] for steps in found], "blocks")
    harness.row("command start to settled story printed", [steps["whole"] * 1000 for steps in found], "ms")


if __name__ == "__main__":
    main()
