"""Claim: CPU time of verifiers over the executor's at k = 2, with the shipped model, in batches of 1 and 16.

    python bench/verification.py [--runs 5] [--batch 1 16]

Everything audited is measured; one task in twenty is arithmetic on that. Sixteen tasks of 64 tokens in, and out until a
stop id or 64, through the node's own batches: first all answers, then all checks, as an executor and a verifier that
are asked for so many at once. On one thread, in CPU time: it holds on a busy machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import harness

sys.path.insert(0, str(harness.ROOT))

from inference.batch import Batch, Done, Generated, Limits, Request
from inference.engine import make_executor
from inference.model import Model, load
from inference.program import GENERATE

FOLDER = harness.ROOT / "genesis" / "models" / "sea-and-sensibility"
TASKS, PROMPT, ANSWER = 16, 64, 64
K, SAMPLED = 2, 1 / 20


def work(model: Model, requests: Sequence[Request], batch: int) -> tuple[float, list[Done]]:
    """CPU seconds of so many requests, at most `batch` at once, and what came of them."""
    executor = make_executor("numpy", model)
    line = Batch(executor, Limits(running_max=batch, waiting_max=len(requests), prefix_bytes_max=0))
    for number, request in enumerate(requests):
        line.add(number, request, float("inf"))
    done: list[Done] = []
    began = time.process_time()
    while not line.idle:
        done += [event for event in line.step(0.0) if isinstance(event, Done)]
    return time.process_time() - began, sorted(done, key=lambda event: event.key)


def measure(model: Model, batch: int, run: int) -> tuple[float, float]:
    """CPU seconds a task: of an answer, and of one check of it."""
    vocabulary = model.manifest.shape.vocabulary
    asked = []
    for number in range(TASKS):
        prompt = [(7 * i * i + 31 * number + run) % vocabulary for i in range(PROMPT)]
        seed = bytes([number, run]) + bytes(30)
        asked.append(Request(GENERATE, prompt, seed, seed, ANSWER, temperature_q16=65_536))
    made, answers = work(model, asked, batch)
    checks, tokens = [], 0
    for request, answer in zip(asked, answers, strict=True):
        assert isinstance(answer.result, Generated)
        tokens += len(answer.result.tokens)
        checks.append(Request(GENERATE, request.prompt, request.seed, request.trace_key,
                              output=answer.result.tokens, temperature_q16=request.temperature_q16))  # fmt: skip
    checked, verdicts = work(model, checks, batch)
    for answer, verdict in zip(answers, verdicts, strict=True):
        assert answer.result.root == verdict.result.root, "an honest check found another root"
    print(f"  batch {batch}, run {run}: {tokens / TASKS:.0f} tokens an answer, {1000 * made / TASKS:.1f} ms an answer, "
          f"{1000 * checked / TASKS:.1f} ms a check", flush=True)  # fmt: skip
    return made / TASKS, checked / TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    asked = parser.parse_args()
    harness.header(__doc__.splitlines()[0])
    model = load(FOLDER)
    found = {batch: [measure(model, batch, run) for run in range(asked.runs)] for batch in asked.batch}
    for batch, times in found.items():
        shares = [100 * K * check / answer for answer, check in times]
        print(f"p = 1, both in batches of {batch:<3} {harness.median_of(shares, '% of the executor')}")
    first, last = min(found), max(found)
    alone = statistics.median(answer for answer, _ in found[first])
    for batch, times in found.items():
        shares = [100 * K * SAMPLED * check / alone for _, check in times]
        print(f"p = 1/20, checks in batches of {batch:<3} against an executor at {first}: "
              f"{harness.median_of(shares, '%', 2)}")  # fmt: skip
    mixed = [100 * K * check / alone for _, check in found[last]]
    print(f"p = 1, checks in batches of {last} against an executor at {first}: {harness.median_of(mixed, '%')}")


if __name__ == "__main__":
    main()
