"""Claim: what a task costs the chain: bytes beside prompt and output, prologue gas and CPU time, share of useful work.

    python bench/task_on_chain.py [--tasks 120] [--runs 3]

Real blocks in one process, four honest validators and the devnet's canaries (tests/e2e_in_process); a random program of
three layers, for the chain's cost does not depend on the model. Bytes are those of signed transactions, less four for
every token of prompt and output; the bytes of a batch are shared by the tasks in it. The prologue's gas and time are
those of all blocks, less as many empty ones without a task.
"""

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import harness

sys.path.insert(0, str(harness.ROOT))

from primitives.params import ChainParams
from primitives.task import Submission, decode_batch
from primitives.transaction import SystemTransaction, Transaction
from tests.e2e_in_process.chain_in_process import Chain, Engines, HonestFleet, Library
from vm.executor import BlockExecutor
from vm.system import abi, views

TOKEN_BYTES = 4


@dataclass
class Spent:
    """Of one run."""

    seconds: list[float] = field(default_factory=list)
    """CPU time of each prologue."""
    gas: list[int] = field(default_factory=list)
    post_bytes: int = 0
    work_bytes: int = 0
    prompts: int = 0
    tasks: int = 0


def timed(spent: Spent) -> Any:
    """BlockExecutor.run_prologue, measured."""
    plain = BlockExecutor.run_prologue

    def run(self: BlockExecutor, transaction: SystemTransaction) -> Any:
        began = time.process_time()
        receipt = plain(self, transaction)
        spent.seconds.append(time.process_time() - began)
        spent.gas.append(receipt.gas_used)
        return receipt

    return plain, run


def play(engines: Engines, tasks: int, a_block: int, seed: int) -> tuple[Chain, Spent]:
    """So many tasks, at most `a_block` of them in a block, until all have settled. Canaries go on beside them."""
    rng, spent = random.Random(seed), Spent()
    chain = Chain(engines, validators=4, canaries_per_validator=ChainParams().canaries_per_validator if tasks else 0)
    fleet = HonestFleet(chain, engines.honest, Library(chain))
    plain, BlockExecutor.run_prologue = timed(spent)  # type: ignore[method-assign]
    try:
        left, rest = tasks, 24
        while left or rest:
            posts = []
            nonce = chain.reader.nonce(chain.poster)
            for _ in range(min(left, a_block)):
                prompt = tuple(rng.randrange(36) for _ in range(32))
                posts.append(chain.post(nonce + len(posts), prompt, 16, 65_536))
                spent.prompts += len(prompt)
            rest -= not left
            left -= len(posts)
            work = fleet.transactions()
            chain.block([*work, *posts])
            spent.post_bytes += sum(len(each.raw) for each in posts)
            spent.work_bytes += sum(bytes_of(each) for each in work)
    finally:
        BlockExecutor.run_prologue = plain  # type: ignore[method-assign]
    totals = views.totals(chain.reader)
    spent.tasks = totals.settled + totals.unverified
    return chain, spent


def bytes_of(transaction: Transaction) -> int:
    """Of a work batch, beside the answers in it."""
    batch = abi.WORK.decode_arguments(transaction.data[4:])[0]
    items = decode_batch(batch, ChainParams().chain_id)
    answers = sum(len(item.tokens) for item in items if isinstance(item, Submission))
    return len(transaction.raw) - TOKEN_BYTES * answers


def useful(chain: Chain) -> float:
    """Share of executed multiply-adds that somebody paid for, audits apart."""
    found: Counter[int] = Counter()
    for _, event in chain.events(abi.RECEIPT):
        found[event["class"]] += event["prefillMacs"] + event["decodeMacs"]
    return (found[abi.CLASS_PAID] + found[abi.CLASS_COMMISSIONED]) / found.total()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=120)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    harness.header(__doc__.splitlines()[0])
    engines = Engines.make()
    _, empty = play(engines, 0, 1, 0)
    base_gas, base_seconds = sum(empty.gas) / len(empty.gas), sum(empty.seconds) / len(empty.seconds)
    print(f"a prologue without tasks: {base_gas:,.0f} gas, {1000 * base_seconds:.2f} ms")
    for a_block in (1, 3):
        rows: dict[str, list[float]] = {}
        for run in range(asked.runs):
            chain, spent = play(engines, asked.tasks, a_block, run)
            blocks = len(spent.gas)
            found = {
                "bytes of work messages a task": spent.work_bytes / spent.tasks,
                "bytes of the post": (spent.post_bytes - TOKEN_BYTES * spent.prompts) / asked.tasks,
                "prologue gas a task": (sum(spent.gas) - blocks * base_gas) / spent.tasks,
                "prologue ms a task": 1000 * (sum(spent.seconds) - blocks * base_seconds) / spent.tasks,
                "useful work, %": 100 * useful(chain),
            }
            for name, value in found.items():
                rows.setdefault(name, []).append(value)
        print(f"at most {a_block} posts a block ({asked.tasks} tasks and the canaries beside them, {blocks} blocks)")
        for name, values in rows.items():
            print(f"  {name:<32}{harness.median_of(values, '')}")


if __name__ == "__main__":
    main()
