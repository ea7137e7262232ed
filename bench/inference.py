"""Claim: tokens a second and memory of both integer executors against float32 and bf16 torch of the same shape, alone
and in batches, and what the trace and an audit cost.

    python bench/inference.py [--runs 3] [--width 128 512] [--batch 1 8 32] [--threads 1]
    python bench/inference.py --full      # width 1536 too, five runs: most of an hour on one core

Every run measures all of them one after the other. With one thread times are those of the process on a CPU, so that
they hold on a machine that is busy with other things. Weights are random: speed does not depend on them. The float
model is a plain eager Llama with fused projections, a key-value cache and torch's own attention. The executors are
fed as a node feeds them, at most 128 rows of prompts in a pass; the float model gets a batch's prompts at once.
Executions and audits go through the node's own batches: so many tasks at once, 64 tokens in and 64 out, then all of
their audits.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import harness
import torch
from torch.nn import functional as F

sys.path.insert(0, str(harness.ROOT))

from inference.batch import Batch, Done, Generated, Limits, Request
from inference.build import random_model
from inference.engine import make_executor
from inference.kv import Segment
from inference.program import GENERATE, Shape
from inference.sampling import sample

WIDTHS, WIDTHS_FULL, BATCHES = [128, 512], [128, 512, 1536], [1, 8, 32]
RUNS, RUNS_FULL = 3, 5
LENGTHS = {1: (256, 32), 8: (64, 16), 32: (32, 8)}  # tokens of each prompt, and decoded after it, by batch
PROMPT, ANSWER = 64, 64  # of a task that is traced and audited
ROWS_MAX = Limits().prefill_rows_max
PAGES = 32 * 2 + 64  # of the executors' pools: 32 tasks of 128 positions
SEED, KEY = bytes(range(32)), bytes(32)
FLOATS, INTEGERS = ("float32", "bfloat16"), ("torch", "numpy")
clock = time.process_time if harness.THREADS == 1 else time.perf_counter  # a process's threads add up


def shape_of(width: int) -> Shape:
    """Six layers of heads of 32 (64 from 512 on), half as many key heads, three times the width inside."""
    head = 32 if width < 512 else 64
    heads = width // head
    return Shape(257, 512, width, 6, heads, heads // 2, head, head, 3 * width, 42950, 2)


class FloatModel:
    """Llama of a shape in a float type: many sequences of one length at a time."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(1)
        s = self.shape = shape

        def weight(*extent: int) -> torch.Tensor:
            return (torch.randn(extent, generator=generator) / extent[-1] ** 0.5).to(dtype)

        ones = torch.ones(s.width, dtype=dtype)
        self.embedding, self.head = weight(s.vocabulary, s.width), weight(s.vocabulary, s.width)
        self.layers = [
            (weight(s.qkv_rows, s.width), weight(s.width, s.heads * s.head_width), weight(2 * s.hidden, s.width),
             weight(s.width, s.hidden), ones, ones)
            for _ in range(s.layers)
        ]  # fmt: skip
        angle = torch.arange(s.context)[:, None] * 10_000 ** (-torch.arange(s.rotary // 2) / (s.rotary // 2))[None]
        turns = (torch.cat([turn(angle)] * 2, 1)[:, None].to(dtype) for turn in (torch.cos, torch.sin))
        (self.cos, self.sin), self.norm, self.dtype = turns, ones, dtype

    def begin(self, count: int, capacity: int) -> None:
        """Empty sequences."""
        s = self.shape
        self.kv = torch.zeros((s.layers, 2, count, s.kv_heads, capacity, s.head_width), dtype=self.dtype)
        self.length = 0

    def prefill(self, prompts: list[list[int]]) -> None:
        self.feed(torch.tensor(prompts))

    def decode(self, tokens: list[int]) -> None:
        self.feed(torch.tensor(tokens)[:, None])

    @torch.inference_mode()
    def feed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each sequence's last row."""
        s, start, (count, rows) = self.shape, self.length, tokens.shape
        end = self.length = start + rows
        x = self.embedding[tokens]
        cos, sin = self.cos[start:end], self.sin[start:end]
        mask = None if rows == 1 else torch.ones(rows, end, dtype=torch.bool).tril(start)
        for layer, (qkv, out, gate_up, down, first, second) in enumerate(self.layers):
            heads = (F.rms_norm(x, (s.width,), first, 1e-5) @ qkv.T).view(count, rows, -1, s.head_width)
            turned, v = heads.split([s.heads + s.kv_heads, s.kv_heads], dim=2)
            a, b = turned.chunk(2, -1)
            turned = turned * cos + torch.cat([-b, a], -1) * sin
            q, k = turned.split([s.heads, s.kv_heads], dim=2)
            kv = self.kv[layer]
            kv[0, :, :, start:end], kv[1, :, :, start:end] = k.transpose(1, 2), v.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2), kv[0, :, :, :end], kv[1, :, :, :end], mask, enable_gqa=True
            )
            x = x + mixed.transpose(1, 2).reshape(count, rows, -1) @ out.T
            gate, up = (F.rms_norm(x, (s.width,), second, 1e-5) @ gate_up.T).chunk(2, 2)
            x = x + (F.silu(gate) * up) @ down.T
        return F.rms_norm(x[:, -1], (s.width,), self.norm, 1e-5) @ self.head.T


class IntegerModel:
    """An executor, with the same interface."""

    def __init__(self, name: str, model: Any) -> None:
        self.executor: Any = make_executor(name, model, harness.THREADS, pages=PAGES)
        self.sequences: list[Any] = []

    def begin(self, count: int, capacity: int) -> None:
        """Empty sequences; those before are forgotten."""
        for sequence in self.sequences:
            sequence.free()
        self.sequences = [self.executor.new_sequence(capacity) for _ in range(count)]

    def prefill(self, prompts: list[list[int]]) -> None:
        rows = min(len(prompts[0]), ROWS_MAX)
        together = ROWS_MAX // rows
        for first in range(0, len(prompts), together):
            pairs = list(zip(self.sequences, prompts, strict=True))[first : first + together]
            for start in range(0, len(prompts[0]), rows):
                self.executor.feed([Segment(s, prompt[start : start + rows], rows - 1) for s, prompt in pairs])

    def decode(self, tokens: list[int]) -> None:
        self.executor.feed([Segment(s, [token], 0) for s, token in zip(self.sequences, tokens, strict=True)])


def made_up(number: int, count: int, vocabulary: int) -> list[int]:
    """Tokens of a prompt."""
    return [(7 * i * i + 3 + number) % vocabulary for i in range(count)]


def speed(model: Any, count: int, vocabulary: int) -> tuple[float, float]:
    """Tokens a second of prefill and of decode."""
    prefill, decode = LENGTHS[count]
    prompts = [made_up(number, prefill, vocabulary) for number in range(count)]
    model.begin(count, prefill + decode)
    began = clock()
    model.prefill(prompts)
    fed = clock()
    for i in range(decode):
        model.decode([prompt[i] for prompt in prompts])
    ended = clock()
    model.begin(0, 0)
    return count * prefill / (fed - began), count * decode / (ended - fed)


def through(executor: Any, requests: Sequence[Request]) -> list[Any]:
    """Results of tasks that a node's batch runs together, in their order."""
    batch = Batch(executor, Limits(running_max=len(requests), waiting_max=len(requests), prefix_bytes_max=0))
    for number, request in enumerate(requests):
        batch.add(number, request)
    found: dict[Any, Any] = {}
    while not batch.idle:
        found.update({event.key: event.result for event in batch.step(0.0) if isinstance(event, Done)})
    return [found[number] for number in range(len(requests))]


def executions(count: int, vocabulary: int) -> list[Request]:
    return [Request(GENERATE, made_up(n, PROMPT, vocabulary), SEED, KEY, ANSWER) for n in range(count)]


def audits(asked: Sequence[Request], made: Sequence[Generated]) -> list[Request]:
    return [Request(GENERATE, one.prompt, SEED, KEY, 0, each.tokens) for one, each in zip(asked, made, strict=True)]


def untraced(executor: Any) -> None:
    """What executing one task computes, without the trace."""
    model = executor.model
    tokens = made_up(0, PROMPT, model.manifest.shape.vocabulary)
    sequence = executor.new_sequence(PROMPT + ANSWER)
    [(logits, _)] = executor.feed([Segment(sequence, tokens, PROMPT - 1)])
    for i in range(ANSWER):
        token = sample(logits[-1], SEED, PROMPT + i, 0, 0, model.tensors["table.exp2"])
        if i + 1 < ANSWER:
            [(logits, _)] = executor.feed([Segment(sequence, [token], 0)])
    sequence.free()


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = clock()
    result = action()
    return clock() - began, result


def measure(width: int, batches: Sequence[int], runs: int) -> None:
    """All numbers of one shape."""
    shape = shape_of(width)
    model = random_model(shape, 1)
    weights = sum(tensor.size for name, tensor in model.tensors.items() if name.endswith("weight"))
    print(f"\n## width {width}: {shape.layers} layers, {weights:,} weights")
    models: dict[str, Any] = {}
    for kind in (*FLOATS, *INTEGERS):
        gc.collect()
        before = harness.resident_mib()
        models[kind] = FloatModel(shape, getattr(torch, kind)) if kind in FLOATS else IntegerModel(kind, model)
        speed(models[kind], 1, shape.vocabulary)
        print(f"{kind:<9} resident memory {harness.resident_mib() - before:+6.0f} MiB", flush=True)
    for count in batches:
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in models}
        for _ in range(runs):
            for kind, each in models.items():
                found[kind].append(speed(each, count, shape.vocabulary))
        print(f"batch {count}: prompts of {LENGTHS[count][0]} tokens, {LENGTHS[count][1]} decoded after each")
        for column, what in enumerate(("prefill", "decode")):
            for kind in models:
                show_speed(found, kind, column, what)
    for kind in INTEGERS:
        for count in batches:
            show_audit(kind, models[kind].executor, count, runs)


def show_speed(found: dict[str, list[tuple[float, float]]], kind: str, column: int, what: str) -> None:
    """A line: its rate, and its time over that of each float type in the same run."""
    rates = [pair[column] for pair in found[kind]]
    line = harness.median_of(rates, "tokens/cpu-s" if clock is time.process_time else "tokens/s")
    for other in FLOATS if kind in INTEGERS else ():
        ratios = [pair[column] / rate for pair, rate in zip(found[other], rates, strict=True)]
        line = f"{line:<46}  {harness.median_of(ratios, f'x the time of {other}', 2)}"
    print(f"  {what:<8} {kind:<9} {line}", flush=True)


def show_audit(kind: str, executor: Any, count: int, runs: int) -> None:
    """Audits of so many tasks over their execution, both in one batch; of a single one what its trace takes, too."""
    vocabulary = executor.shape.vocabulary
    asked = executions(count, vocabulary)
    through(executor, asked[:1])
    shares, traces = [], []
    for _ in range(runs):
        spent, made = timed(partial(through, executor, asked))
        shares.append(timed(partial(through, executor, audits(asked, made)))[0] / spent)
        if count == 1:
            traces.append((spent / timed(partial(untraced, executor))[0] - 1) * 100)
    print(f"batch {count:<3} {kind:<9} audits over executions {harness.median_of(shares, 'x the time', 3)}", flush=True)
    if traces:
        print(f"          {kind:<9} trace of an execution   {harness.median_of(traces, '% of its time')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--width", type=int, nargs="+")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES, choices=BATCHES)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(harness.THREADS)
    harness.header(__doc__.split("\n\n")[0].replace("\n", " "), "torch")
    for width in options.width or (WIDTHS_FULL if options.full else WIDTHS):
        measure(width, options.batch, options.runs or (RUNS_FULL if options.full else RUNS))


if __name__ == "__main__":
    main()
