"""Claim: openings of a dispute by the referee's rule: the largest that any shape within the program's limits has, and
the CPU time of the referee's arithmetic and of a whole `judge`, proofs included, on programs that fill tiles of 256.

    python bench/openings.py [--json]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import harness

sys.path.insert(0, str(harness.ROOT))

from inference import program as cip
from inference.build import random_model
from inference.engine import Engine
from inference.opening import OPENING_BYTES_MAX, Working, judge, open_element, opening_sizes
from inference.ops import STATE, Leaf, Op, Task, facts_of, op_list
from inference.referee import recompute
from inference.reference import NumpyExecutor
from inference.witness import Worker, record
from primitives.task import words_of

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
REPEATS = 20
LARGE = [
    cip.Shape(128_256, 1 << 17, 4096, 32, 32, 8, 128, 128, 14_336, 42950, 4),
    cip.Shape(262_144, 1 << 17, 5376, 62, 32, 16, 168, 168, 21_504, 4295, 6, "gemma3", 1024, 6, 168),
    cip.Shape(151_936, 1 << 17, 8192, 40, 64, 8, 128, 128, 49_152, 4295, 8, "qwen3"),
    cip.Shape(30_522, 512, 384, 6, 12, 12, 32, 0, 1536, 4, 1, "bert"),
    cip.Shape(1 << 20, 1 << 17, 65_535, 3, 63, 21, 1040, 1040, 1 << 17, 42950, 3, "qwen2"),
]
TIMED = [
    cip.Shape(600, 320, 512, 2, 4, 2, 64, 64, 700, 42950, 2, "qwen3"),
    cip.Shape(300, 320, 264, 2, 4, 4, 64, 0, 300, 42950, 1, "bert"),
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    largest: dict[str, tuple[int, str]] = {}
    for shape in LARGE:
        for rule, size, where in sizes(shape):
            if size > largest.get(rule, (0, ""))[0]:
                largest[rule] = size, f"{shape.kind}, width {shape.width}: {where}"
    times: dict[str, list[tuple[Spent, Spent]]] = {}
    for shape in TIMED:
        for rule, arithmetic, whole in timings(shape):
            times.setdefault(rule, []).append((arithmetic, whole))
    rows = [
        {"rule": rule, "largestBytes": size, "where": where,
         "refereeMicroseconds": max(times[rule])[0], "judgeMicroseconds": max(pair[1] for pair in times[rule])}
        for rule, (size, where) in sorted(largest.items(), key=lambda item: -item[1][0])
    ]  # fmt: skip
    if asked.json:
        print(json.dumps(rows))
        return
    harness.header(__doc__.split("\n\n")[0].replace("\n", " "))
    print(f"{'rule':<11} {'bytes':>6} {'referee us, median (min to max)':>33} {'judge us':>24}  largest opening")
    for row in rows:
        print(f"{row['rule']:<11} {row['largestBytes']:>6} {_spread(row['refereeMicroseconds'], 1):>33} "
              f"{_spread(row['judgeMicroseconds'], 0):>24}  {row['where']}")  # fmt: skip
    worst = max(row["largestBytes"] for row in rows)
    print(f"allowed {OPENING_BYTES_MAX}, largest {worst}; CPU time, the slowest op of each rule, {REPEATS} runs")


Spent = tuple[float, float, float]
"""CPU microseconds of a call: median, least and most of some runs."""


def _spread(spent: Spent, digits: int) -> str:
    median, least, most = spent
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def tasks(shape: cip.Shape, prompt: int, output: int) -> list[Task]:
    """Of every sort that a shape has."""
    found = [Task(cip.EMBED, prompt)]
    if shape.causal:
        hot = [Task(cip.GENERATE, prompt, output, SEED, temperature, k) for temperature, k in ((0, 0), (90_000, 50))]
        found += [*hot, Task(cip.SCORE, prompt)]
    return found


def sizes(shape: cip.Shape) -> Iterator[tuple[str, int, str]]:
    """(rule, bytes, op) of openings at the end of a whole context, products with two terms and the longest paths."""
    linears = tuple(cip.Linear(n, o, i, 63, 40, cip.rotation_block(i), 2)
                    for n, (o, i) in sorted(cip.linear_shapes(shape).items()))  # fmt: skip
    table = cip.tensor_table(shape, cip.two_term(linears))
    tensors = tuple(cip.Tensor(name, dtype, extent, bytes(32)) for name, (dtype, extent) in table.items())
    manifest = cip.Manifest("blank", shape, "bytes", (), linears, 20, tensors, (), "", {})
    for number, task in enumerate(tasks(shape, shape.context - 40, 40)):
        leaves = [Leaf(domain, count - 1) for domain, count in task.lists.items()]
        if number == 0:
            last = task.positions * shape.groups
            leaves += [Leaf(STATE, last - 1), Leaf(STATE, last - shape.groups)]
        for leaf in leaves:
            ops = op_list(facts_of(manifest), task, leaf)
            parts = {op.name.removeprefix("layers.").lstrip("0123456789"): number for number, op in enumerate(ops)}
            addresses = [(number, e) for number in parts.values() for e in probes(ops[number])]
            for (at, _), size in zip(addresses, opening_sizes(manifest, task, leaf, addresses), strict=True):
                yield ops[at].rule, size, ops[at].name


def probes(op: Op) -> list[int]:
    """Elements whose slices lie in different ways across tiles and pieces."""
    n = op.length
    return sorted({e for e in (0, 255, 256, n // 2, n // 3, n // 7 * 5, n - 300, n - 1) if 0 <= e < n})


def timings(shape: cip.Shape) -> Iterator[tuple[str, Spent, Spent]]:
    """(rule, time of the arithmetic, of a judgement) of every op of a task's last leaves."""
    model = random_model(shape, 3)
    for number, task in enumerate(tasks(shape, 300, 2)):
        prompt = [(7 * i * i + 3) % shape.vocabulary for i in range(task.prompt)]
        engine = Engine(NumpyExecutor(model))
        if task.kind == cip.GENERATE:
            how = task.temperature_q16, task.top_k, task.seed, KEY
            output: Sequence[int] = engine.generate(prompt, task.output, *how).tokens
        else:
            made = engine.embed(prompt, KEY) if task.kind == cip.EMBED else engine.score(prompt, KEY)
            output = words_of(made.vector)
        execution = record(NumpyExecutor(model), task, KEY, prompt, output)
        leaves = [Leaf(domain, count - 1) for domain, count in task.lists.items()]
        if number == 0:
            leaves += [Leaf(STATE, (task.positions - 1) * shape.groups), Leaf(STATE, task.positions * shape.groups - 1)]
        for leaf in leaves:
            worker = Worker(execution, model, leaf)
            working = Working(execution, leaf, worker.run())
            root = working.list_tree[-1][0]
            for at, op in enumerate(working.ops):
                element = op.length // 2
                values = [worker.read(part) for part in op.reads(element)]
                if op.look is not None:
                    values += [worker.read(part) for part in op.look(element, values)]
                opening = open_element(working, at, element)
                whole = partial(judge, execution.statement, root, leaf, at, element, opening)
                yield op.rule, spent_on(partial(recompute, op, element, values)), spent_on(whole)


def spent_on(call: Callable[[], object]) -> Spent:
    """Of REPEATS runs."""
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        found.append(1e6 * (time.process_time() - began))
    return statistics.median(found), min(found), max(found)


if __name__ == "__main__":
    main()
