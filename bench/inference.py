"""Claim: tokens a second and memory of both integer executors against float32 torch of the same shape, and what the
trace and an audit cost.

    python bench/inference.py [--runs 5] [--width 128 512] [--threads 1]

Every run measures all three one after the other. With one thread times are those of the process on a CPU, so that they
hold on a machine that is busy with other things. Weights are random: speed does not depend on them. The float model is
a plain eager Llama with fused projections, a key-value cache and torch's own attention.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import torch
from torch.nn import functional as F

sys.path.insert(0, str(harness.ROOT))

from inference.build import random_model
from inference.engine import Engine, make_executor
from inference.kv import Segment
from inference.program import Shape
from inference.sampling import sample

PREFILL, DECODE = 256, 32
PROMPT, ANSWER = 64, 64  # of the task that is traced and audited
SEED, KEY = bytes(range(32)), bytes(32)
KINDS = ("float32", "torch", "numpy")
clock = time.process_time  # of this process's threads; main() takes the wall's where there are several


def shape_of(width: int) -> Shape:
    """Six layers of heads of 32 (64 from 512 on), half as many key heads, three times the width inside."""
    head = 32 if width < 512 else 64
    heads = width // head
    return Shape(257, 512, width, 6, heads, heads // 2, head, head, 3 * width, 42950, 2)


class FloatModel:
    """Float32 Llama of a shape, with the executors' interface: feed ids, get logits of the last rows."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(1)
        s = self.shape = shape

        def weight(*extent: int) -> torch.Tensor:
            return torch.randn(extent, generator=generator) / extent[-1] ** 0.5

        self.embedding, self.head = weight(s.vocabulary, s.width), weight(s.vocabulary, s.width)
        self.layers = [
            (weight(s.qkv_rows, s.width), weight(s.width, s.heads * s.head_width), weight(2 * s.hidden, s.width),
             weight(s.width, s.hidden), torch.ones(s.width), torch.ones(s.width))
            for _ in range(s.layers)
        ]  # fmt: skip
        angle = torch.arange(s.context)[:, None] * 10_000 ** (-torch.arange(s.rotary // 2) / (s.rotary // 2))[None]
        self.cos, self.sin = (torch.cat([turn(angle)] * 2, 1)[:, None] for turn in (torch.cos, torch.sin))
        self.norm = torch.ones(s.width)

    def new_sequence(self, capacity: int) -> Any:
        s = self.shape
        extent = (s.layers, 2, s.kv_heads, capacity, s.head_width)
        return SimpleNamespace(kv=torch.zeros(extent), length=0, free=lambda: None)

    @torch.inference_mode()
    def feed(self, segments: list[Segment]) -> Any:
        [segment] = segments
        cache, tokens = segment.sequence, segment.tokens
        s, start, rows = self.shape, cache.length, len(tokens)
        end = cache.length = start + rows
        x = self.embedding[torch.tensor(tokens)]
        cos, sin = self.cos[start:end], self.sin[start:end]
        mask = None if rows == 1 else torch.ones(rows, end, dtype=torch.bool).tril(start)
        for layer, (qkv, out, gate_up, down, first, second) in enumerate(self.layers):
            heads = (F.rms_norm(x, (s.width,), first, 1e-5) @ qkv.T).view(rows, -1, s.head_width)
            turned, v = heads.split([s.heads + s.kv_heads, s.kv_heads], dim=1)
            a, b = turned.chunk(2, -1)
            turned = turned * cos + torch.cat([-b, a], -1) * sin
            q, k = turned.split([s.heads, s.kv_heads], dim=1)
            kv = cache.kv[layer]
            kv[0, :, start:end], kv[1, :, start:end] = k.transpose(0, 1), v.transpose(0, 1)
            mixed = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None], kv[0, None, :, :end], kv[1, None, :, :end], mask, enable_gqa=True
            )
            x = x + mixed[0].transpose(0, 1).reshape(rows, -1) @ out.T
            gate, up = (F.rms_norm(x, (s.width,), second, 1e-5) @ gate_up.T).chunk(2, 1)
            x = x + (F.silu(gate) * up) @ down.T
        return [(F.rms_norm(x[segment.logits_from :], (s.width,), self.norm, 1e-5) @ self.head.T, [])]


def speed(model: Any, chunk: int) -> tuple[float, float]:
    """Milliseconds a token of prefill and of decode."""
    tokens = [(7 * i * i + 3) % model.shape.vocabulary for i in range(PREFILL)]
    sequence = model.new_sequence(PREFILL + DECODE)
    began = clock()
    for i in range(0, PREFILL, chunk):
        model.feed([Segment(sequence, tokens[i : i + chunk], chunk - 1)])
    fed = clock()
    for token in tokens[:DECODE]:
        model.feed([Segment(sequence, [token], 0)])
    sequence.free()
    return (fed - began) * 1000 / PREFILL, (clock() - fed) * 1000 / DECODE


def untraced(engine: Engine, executor: Any) -> Callable[[], None]:
    """What generating computes, without the trace."""
    tokens = [(7 * i * i + 3) % executor.shape.vocabulary for i in range(PROMPT)]

    def run() -> None:
        sequence = executor.new_sequence(PROMPT + ANSWER)
        [(logits, _)] = executor.feed([Segment(sequence, tokens, PROMPT - 1)])
        for i in range(ANSWER):
            token = sample(logits[-1], SEED, PROMPT + i, 0, 0, engine.model.tensors["table.exp2"])
            if i + 1 < ANSWER:
                [(logits, _)] = executor.feed([Segment(sequence, [token], 0)])
        sequence.free()

    return run


def timed(action: Callable[[], object]) -> float:
    began = clock()
    action()
    return (clock() - began) * 1000


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def report(name: str, unit: str, values: list[float]) -> None:
    spread = f"min {min(values):9.2f}  max {max(values):9.2f}"
    print(f"  {name:<34} median {statistics.median(values):9.2f} {unit:<12} {spread}", flush=True)


def measure(width: int, runs: int, threads: int) -> None:
    """All numbers of one shape."""
    shape = shape_of(width)
    model = random_model(shape, 1)
    models: dict[str, Any] = {}
    weights = sum(tensor.size for name, tensor in model.tensors.items() if name.endswith("weight"))
    print(f"\nwidth {width}: {shape.layers} layers, {weights:,} weights; prefill {PREFILL}, decode {DECODE}")
    for kind in KINDS:
        gc.collect()
        before = resident_mib()
        models[kind] = FloatModel(shape) if kind == "float32" else make_executor(kind, model, threads)
        speed(models[kind], 64)
        print(f"  {kind:<34} resident memory +{resident_mib() - before:.0f} MiB", flush=True)
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind, executor in models.items():
            found[kind].append(speed(executor, PREFILL if kind == "float32" else 64))
    rate = "tokens/s" if clock is time.perf_counter else "tokens/cpu-s"
    for column, what in enumerate(("prefill", "decode")):
        for kind in KINDS:
            report(f"{kind} {what}", rate, [1000 / pair[column] for pair in found[kind]])
        for kind in KINDS[1:]:
            pairs = zip(found[kind], found["float32"], strict=True)
            report(f"{kind} {what} over float32", "x time", [one[column] / other[column] for one, other in pairs])
    for kind in KINDS[1:]:
        engine, plain = Engine(models[kind]), untraced(Engine(models[kind]), models[kind])
        prompt = [(7 * i * i + 3) % shape.vocabulary for i in range(PROMPT)]
        answer = engine.generate(prompt, ANSWER, 0, 0, SEED, KEY)
        trace, audit = [], []
        for _ in range(runs):
            bare, full = timed(plain), timed(partial(engine.generate, prompt, ANSWER, 0, 0, SEED, KEY))
            checked = timed(partial(engine.verify, prompt, answer.tokens, 0, 0, SEED, KEY))
            trace.append((full / bare - 1) * 100)
            audit.append(checked / full)
        report(f"{kind} trace, {PROMPT} + {ANSWER} tokens", "% of time", trace)
        report(f"{kind} audit over execution", "x time", audit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--width", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.threads > 1:
        global clock
        clock = time.perf_counter
    torch.set_num_threads(options.threads)
    harness.header(__doc__.split("\n\n")[0].replace("\n", " "))
    print(f"torch {torch.__version__}, {options.threads} thread(s); numpy's BLAS by OMP_NUM_THREADS="
          f"{os.environ.get('OMP_NUM_THREADS', 'unset')}")  # fmt: skip
    for width in options.width:
        measure(width, options.runs, options.threads)


if __name__ == "__main__":
    main()
