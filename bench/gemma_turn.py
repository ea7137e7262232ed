"""Claim: a real chat model answers on a devnet, checked bit for bit: Gemma 3 270M takes a turn that settles.

    make gemma-turn
    python bench/gemma_turn.py [--question TEXT] [--max-tokens 11] [--folder DIR] [--block-ms 2000]

Imports Gemma if `make real-models` has not left it in the folder (to the nearest, without the search for the cheapest
precision: a minute), starts four validators with the numpy executor, registers the program, gives it to each of them
and has them serve it, asks the question with the model's own tokenizer through `labora task post`, and shows tokens
and story until the task has settled. The packages' Gemma was not taught to chat: it is asked in a form that it knows.
It needs eight GiB of memory, 1.8 a validator.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import platformdirs
import psutil
import real_models

QUESTION = "Why is the sea salty?"
FORM = "Question: {}\nAnswer:"
TOKENS = 11  # its answer to this question; what it goes on with is the question again
BLOCK_MS = 2000  # two of four processes check at once, on the cores of one machine
POSITIONS = 512
STEP_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-tokens", type=int, default=TOKENS)
    parser.add_argument("--folder", type=Path, default=Path(platformdirs.user_cache_dir("labora")) / "real-models")
    parser.add_argument("--block-ms", type=int, default=BLOCK_MS)
    options = parser.parse_args()
    harness.header(__doc__.splitlines()[0])
    turn(program(options.folder), options.question, options.max_tokens, options.block_ms)


def program(folder: Path) -> Path:
    """Gemma as an integer program, found or made. One of another version may fail its check: then remove its folder."""
    found = folder / f"{real_models.GEMMA.name}-labora"
    if (found / "manifest.json").exists():
        return found
    out = folder / f"{real_models.GEMMA.name}-nearest-labora"
    if not (out / "manifest.json").exists():
        source = real_models.fetch(real_models.GEMMA, folder)
        labora("model", "import", source, "--out", out, "--positions", POSITIONS, "--name", real_models.GEMMA.name,
               "--licence", real_models.GEMMA.licence)  # fmt: skip
    return out


def turn(model: Path, question: str, max_tokens: int, block_ms: int) -> dict[str, Any]:
    """Everything from an empty devnet to the settled task; labora_task's answer."""
    with harness.devnet("--engine", "numpy", "--block-ms", str(block_ms)) as net:
        folders = [validator["dataDir"] for validator in net.validators]
        began = time.monotonic()
        made = labora("model", "register", model, "--data-dir", folders[0], "--rpc", net.rpc[0], "--json")
        known = json.loads(made)
        identifier = known["model"]
        print(f"registered {identifier} after {time.monotonic() - began:.0f} s: deadlines count on "
              f"{int(known['referenceMacsPerBlock']):,} multiply-adds a block", flush=True)  # fmt: skip
        for index, folder in enumerate(folders):
            labora("model", "fetch", identifier, "--path", model, "--data-dir", folder)
            # All four share this machine: each declares what it measured for one, a quarter as fast.
            rate = max(1, int(known["referenceMacsPerBlock"]) // len(folders))
            labora("validator", "serve", "--model", identifier, "--macs-per-block", rate, "--data-dir", folder,
                   "--account", net.validators[index]["address"], "--rpc", net.rpc[index])  # fmt: skip
            print(f"validator {index} holds and serves it after {time.monotonic() - began:.0f} s", flush=True)
        asked = time.monotonic()
        posted = subprocess.Popen(
            [*harness.LABORA, "task", "post", FORM.format(question), "--model", identifier, "--rpc", net.rpc[0],
             "--max-tokens", str(max_tokens), "--temperature", "0", "--data-dir", folders[0]],
            stdout=subprocess.PIPE, env=harness.ENVIRONMENT,
        )  # fmt: skip
        task = follow(posted)
        seconds = time.monotonic() - asked
        told: dict[str, Any] = harness.rpc(net.rpc[0], "labora_task", task)
        print(f"asked to settled: {seconds:.1f} s; resident memory of the four validators with their workers: "
              + ", ".join(f"{mebibytes(validator['pid']):.0f}" for validator in net.validators) + " MiB")  # fmt: skip
        return told


def follow(posted: "subprocess.Popen[bytes]") -> str:
    """Pass on what a command prints while it prints it; the task's id, from its first line."""
    assert posted.stdout is not None
    text = b""
    while piece := posted.stdout.read1(4096):  # type: ignore[attr-defined]
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        text += piece
    if posted.wait():
        raise SystemExit(f"labora task post ended with code {posted.returncode}")
    return text.split()[1].decode()


def labora(*arguments: object) -> str:
    """A command's standard output. Ends this program when it fails, with what it said on standard error."""
    command = [*harness.LABORA, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=STEP_SECONDS, check=False, env=harness.ENVIRONMENT)
    if done.returncode:
        raise SystemExit(f"labora {' '.join(map(str, arguments[:3]))}: {done.stderr.decode()}")
    return done.stdout.decode()


def mebibytes(pid: int) -> float:
    """Resident memory of a validator and the processes that it started."""
    node = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (node, *node.children(recursive=True))) / 2**20


if __name__ == "__main__":
    main()
