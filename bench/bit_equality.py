"""Claim: the same bits whatever multiplies, on however many threads, in whatever company and pieces.

    python bench/bit_equality.py [--positions 150]

Programs of every kind, one with products past a float32 tile's limit and one that saturates everywhere, are computed
by each executor with each of its products that is exact here, on one thread and on two, each in a process of its own.
Every cell compares logits and trace payloads of all positions with the numpy executor's, fed alone, whole, on one
thread. Exits with 1 if a cell differs.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(harness.ROOT))

import numpy as np

from inference import program as cip
from inference.build import random_model
from inference.kv import PAGE, Segment
from inference.model import Model
from inference.reference import NumpyExecutor

MADE = "whole", "by one", "pieces", "after a fork"
COMPANIES = {"alone": 0, "with 3": 3, "with 11": 11}
COLUMNS = [f"{company}, {made}" for company in COMPANIES for made in MADE]


def programs(positions: int) -> Iterator[tuple[str, Model]]:
    """Small, and awkward: no extent is a power of two, groups share queries, windows are short."""
    context = positions + 8
    for kind, features in sorted(cip.KINDS.items()):
        shape = cip.Shape(37, context, 72, 2, 6, 2, 12, 0 if features.encoder else 12, 88, 42950, 1, kind)
        if features.windows:
            shape = dataclasses.replace(shape, window=70, window_pattern=2, score_divisor=9)
        yield kind, random_model(shape, 5, terms=2)
    plain = cip.Shape(37, context, 1096, 1, 4, 2, 16, 16, 1304, 42950, 1)
    yield "K past a tile", random_model(plain, 6)
    yield "saturating", random_model(dataclasses.replace(plain, width=72, layers=3), 7, spread=20)


def executors(model: Model, kind: str, threads: int) -> Any:
    """numpy, or torch/BACKEND."""
    if kind == "numpy":
        return NumpyExecutor(model, pages=64)
    from inference import torch_engine

    backend = next(backend for backend in torch_engine.BACKENDS if backend.name == kind.partition("/")[2])
    torch_engine.fastest_backend = lambda *_: backend
    return torch_engine.TorchExecutor(model, threads, pages=64)


def pieces(made: str, tokens: list[int], dice: np.random.Generator) -> list[list[int]]:
    if made == "whole":
        return [tokens]
    sizes = np.ones(len(tokens), int) if made == "by one" else dice.integers(1, 50, len(tokens))
    ends = [int(end) for end in np.cumsum(sizes) if end < len(tokens)]
    return [tokens[begin:end] for begin, end in zip([0, *ends], [*ends, len(tokens)], strict=True)]


def digest(executor: Any, tokens: list[int], made: str, others: int) -> str:
    """Hash of everything that a sequence gives, fed in pieces beside others that come, go and differ in length."""
    dice = np.random.default_rng(others)
    causal = executor.shape.causal
    parts = pieces(made if causal else "whole", tokens, dice)
    sequence, logits, payloads = executor.new_sequence(), [], []
    company = [executor.new_sequence() for _ in range(others)]
    for part in parts:
        segments = [Segment(sequence, part, 0)]
        for i, other in enumerate(company):
            rows = int(dice.integers(1, 9)) if dice.random() < 0.5 else 1
            if not causal or other.length + rows > len(tokens):
                other.free()
                other = company[i] = executor.new_sequence()
            said = Segment(other, [int(token) for token in dice.integers(0, 37, rows)], rows)
            segments.insert(int(dice.integers(0, 2)) * len(segments), said)
        fed = executor.feed(segments)[[segment.sequence for segment in segments].index(sequence)]
        logits.append(fed.logits)
        payloads.append(fed.payloads)
        if made == "after a fork" and causal:
            left = sequence
            sequence = left.fork(left.length)
            executor.feed([Segment(left, part[:3], 0)])  # what the original writes now is not the fork's
            left.free()
    for each in [sequence, *company]:
        each.free()
    hasher = hashlib.sha256(np.concatenate(logits).tobytes())
    for group in zip(*payloads, strict=True):
        hasher.update(np.concatenate(group).tobytes())
    return hasher.hexdigest()


def child(kind: str, threads: int, positions: int) -> None:
    """Print every column's digest of every program."""
    found = {}
    for name, model in programs(positions):
        executor = executors(model, kind, threads)
        tokens = [(7 * i * i + 3) % 37 for i in range(positions)]
        for column in COLUMNS:
            company, made = column.split(", ")
            found[f"{name}: {column}"] = digest(executor, tokens, made, COMPANIES[company])
    print(json.dumps(found))


def kinds() -> list[str]:
    """Executors and products that this machine has."""
    try:
        from inference import torch_engine
    except ImportError:
        return ["numpy"]
    return ["numpy", *(f"torch/{backend.name}" for backend in torch_engine.BACKENDS
                       if torch_engine.is_exact(backend, "cpu"))]  # fmt: skip


def run(kind: str, threads: int, positions: int) -> dict[str, str]:
    command = [sys.executable, str(Path(__file__)), "--positions", str(positions), "--child", kind, str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=2 * PAGE + 22)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], int(options.child[1]), options.positions)
    harness.header(__doc__.split("\n\n")[0])
    names = [name for name, _ in programs(options.positions)]
    print(f"{options.positions} positions of {len(names)} programs: {', '.join(names)}\n")
    reference: dict[str, str] = {}
    different = 0
    width = max(map(len, COLUMNS))
    rows = {}
    for kind in kinds():
        for threads in (1, 2):
            print(f"{kind}, {threads} of 2 threads ...", file=sys.stderr, flush=True)  # minutes each
            found = run(kind, threads, options.positions)
            reference = reference or found
            rows[f"{kind}, {threads} thread{'s' * (threads > 1)}"] = [
                sum(found[f"{name}: {column}"] == reference[f"{name}: {COLUMNS[0]}"] for name in names)
                for column in COLUMNS
            ]
    heads = list(rows)
    print(f"{'programs equal of ' + str(len(names)):<{width}}  " + "  ".join(heads))
    for i, column in enumerate(COLUMNS):
        counts = [rows[head][i] for head in heads]
        different += sum(count != len(names) for count in counts)
        cells = (f"{count:>{len(head)}}" for count, head in zip(counts, heads, strict=True))
        print(f"{column:<{width}}  " + "  ".join(cells), flush=True)
    outcome = f"{different} cells DIFFER" if different else "all the same bits"
    print(f"\n{len(COLUMNS) * len(heads) * len(names)} results: {outcome}")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
