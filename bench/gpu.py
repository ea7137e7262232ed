"""Claim: a CUDA device gives the reference's bits, and a pass of the integer program takes about the time of bf16.

    make gpu ARGS="--runs 5"
    TRITON_INTERPRET=1 python bench/gpu.py --rehearsal

First equality: every kernel against the reference on random extents and extreme values, then whole programs over at
least 10,000 tokens against the numpy executor and the torch executor of the CPU, in company, in pieces, by recorded
steps and without. It ends with 1 at the first difference, naming operation and element. Then tables: prefill and decode
at batch 1, 16 and 64 of Llama shapes with random weights made on the device, against bf16 torch of the same shape,
eager and compiled, in turns in one process. Without a CUDA device it says what is missing and ends with 69. A rehearsal
does the same on the CPU with tiny shapes, kernels interpreted: it shows that the command works; its times mean nothing.
"""

import argparse
import gc
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import harness

sys.path.insert(0, str(harness.ROOT))

UNAVAILABLE = 69  # EX_UNAVAILABLE
CAPABILITY = (8, 0)  # the oldest that the kernels are compiled for by the tests


class Plan(NamedTuple):
    """How much of everything."""

    device: str
    seeds: int  # of each kernel's check; on a device most of them compile a variant of it
    tokens: int  # of equality, at least
    positions: int  # of one sequence of it
    prompt: int
    steps: int
    batches: tuple[int, ...]
    rows: int  # of one prefill pass


REAL = Plan("cuda", 30, 10_000, 300, 512, 64, (1, 16, 64), 4096)
REHEARSAL = Plan("cpu", 1, 1, 4, 4, 2, (1, 2), 8)


def missing(rehearsal: bool) -> str:
    """What keeps this machine from running, '' if nothing."""
    for package, how in (("torch", "make setup"), ("triton", "it comes with torch's builds for CUDA")):
        if find_spec(package) is None:
            return f"{package} is not installed: {how}"
    import torch

    if rehearsal:
        return "" if os.environ.get("TRITON_INTERPRET") == "1" else "a rehearsal needs TRITON_INTERPRET=1"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install the build for your driver from pytorch.org"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device: nvidia-smi says whether the driver does"
    if (found := torch.cuda.get_device_capability()) < CAPABILITY:
        return f"the device's compute capability is {found}, the kernels need {CAPABILITY}"
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        return "no C compiler: Triton builds each kernel's launcher with one"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=("1b", "8b"), default=["1b", "8b"])
    parser.add_argument("--rehearsal", action="store_true", help="on the CPU, tiny and interpreted")
    parser.add_argument("--equality-only", action="store_true")
    options = parser.parse_args()
    if lacking := missing(options.rehearsal):
        print(f"cannot measure a GPU here: {lacking}", file=sys.stderr)
        sys.exit(UNAVAILABLE)
    plan = REHEARSAL if options.rehearsal else REAL
    header(plan)
    from bench.gpu_checks import Difference

    try:
        kernels(plan)
        programs(plan)
    except Difference as difference:
        print(f"DIFFERENT BITS: {difference}")
        sys.exit(1)
    if not options.equality_only:
        for name in ["tiny"] if options.rehearsal else options.models:
            measure(name, plan, options.runs)


def header(plan: Plan) -> None:
    """What is measured on what."""
    import torch
    import triton

    harness.header(__doc__.split("\n\n")[0].replace("\n", " "))
    print(f"torch {torch.__version__}, triton {triton.__version__}, CUDA {torch.version.cuda}")
    if plan.device == "cpu":
        print("REHEARSAL on the CPU, kernels interpreted: times mean nothing")
        return
    device = torch.cuda.get_device_properties(0)
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"],
                            capture_output=True, text=True, check=False).stdout.strip()  # fmt: skip
    print(f"device: {device.name}, {device.multi_processor_count} multiprocessors, {device.total_memory >> 30} GiB, "
          f"compute capability {device.major}.{device.minor}; driver, power limit: {driver or 'unknown'}")  # fmt: skip


# ------------------------------------------------------------------ equality


def kernels(plan: Plan) -> None:
    """Every kernel by itself. Raises Difference."""
    import numpy as np

    from bench.gpu_checks import CHECKS, exact_products

    print(f"\nproducts that are exact here: {', '.join(product.name for product in exact_products(plan.device))}")
    for number, (name, check) in enumerate(CHECKS.items()):
        began = time.monotonic()
        for seed in range(plan.seeds):
            try:
                check(np.random.default_rng([number, seed]), plan.device)
            except Exception as error:
                error.add_note(f"{name}, seed [{number}, {seed}]")
                raise
        print(f"kernel {name:<16} {plan.seeds} random cases equal ({time.monotonic() - began:.0f} s)", flush=True)


def programs(plan: Plan) -> None:
    """Whole programs, several shapes, until there are tokens enough. Raises Difference."""
    from inference.reference import NumpyExecutor
    from inference.torch_engine import TorchExecutor

    total, seed = 0, 0
    while total < plan.tokens:
        for name, model in models(plan, seed):
            tokens = [(7 * i * i + 3 * seed + 1) % model.manifest.shape.vocabulary for i in range(plan.positions)]
            expected = whole(NumpyExecutor(model), tokens)
            same(f"{name}, torch on the CPU", model, expected, whole(TorchExecutor(model), tokens))
            for way, found in ways(model, tokens, plan):
                same(f"{name}, {way}", model, expected, found)
                total += len(tokens)
            print(f"program {name:<34} {len(tokens)} positions equal in every way", flush=True)
        seed += 1
    print(f"{total} tokens by the device, bit for bit as by numpy and by torch on the CPU")


def models(plan: Plan, seed: int) -> Iterator[tuple[str, Any]]:
    """Programs with awkward extents of every kind that the kernels take, one that saturates, and a larger one."""
    import dataclasses

    from inference import program as cip
    from inference.build import random_model

    context = plan.positions + 8
    plain = cip.Shape(37, context, 72, 2, 6, 2, 12, 12, 88, 42950, 1)
    if plan.device == "cpu":
        plain = dataclasses.replace(plain, layers=1, heads=2, kv_heads=1, width=24)
    for kind, features in sorted(cip.KINDS.items()):
        if not features.encoder and not (plan.device == "cpu" and kind != "llama"):
            windows = {"window": 70, "window_pattern": 2, "score_divisor": 9} if features.windows else {}
            yield f"{kind} {seed}", random_model(dataclasses.replace(plain, kind=kind, **windows), seed, terms=2)
    if plan.device == "cpu":
        return
    yield f"saturating {seed}", random_model(dataclasses.replace(plain, layers=3), seed, spread=20)
    wide = cip.Shape(257, context, 1024, 4, 16, 4, 64, 64, 2816, 42950, 2)
    yield f"width 1024 {seed}", random_model(wide, seed)
    yield f"heads of 128, 6 to a key {seed}", random_model(
        dataclasses.replace(wide, width=1536, heads=12, kv_heads=2, head_width=128, rotary=128), seed, bound=63
    )


def whole(executor: Any, tokens: list[int]) -> tuple[Any, list[Any]]:
    return fed(executor, [tokens], 0)


def fed(executor: Any, pieces: list[list[int]], others: int) -> tuple[Any, list[Any]]:
    """(logits, payloads of each group) of all positions of a sequence fed piece by piece beside others."""
    import numpy as np

    from inference.kv import Segment

    dice = np.random.default_rng(others)
    sequence, logits, payloads = executor.new_sequence(), [], []
    company = [executor.new_sequence() for _ in range(others)]
    vocabulary, context = executor.shape.vocabulary, executor.shape.context
    for piece in pieces:
        segments = [Segment(sequence, piece, 0)]
        for i, other in enumerate(company):
            rows = int(dice.integers(1, 9)) if dice.random() < 0.3 else 1
            if other.length + rows > context:
                other.free()
                other = company[i] = executor.new_sequence()
            segments.append(Segment(other, [int(token) for token in dice.integers(0, vocabulary, rows)], rows))
        one = executor.feed(segments)[0]
        logits.append(one.logits)
        payloads.append(one.payloads)
    for each in (sequence, *company):
        each.free()
    return np.concatenate(logits), [np.concatenate(group) for group in zip(*payloads, strict=True)]


def ways(model: Any, tokens: list[int], plan: Plan) -> Iterator[tuple[str, tuple[Any, list[Any]]]]:
    """What the device gives, fed in different pieces and companies, with recorded steps and without."""
    from inference.cuda_engine import CudaExecutor

    executor = CudaExecutor(model, plan.device, pages=64)
    pieces = [tokens[i : i + 64] for i in range(0, len(tokens), 64)]
    yield "whole", whole(executor, tokens)
    yield "by one, recorded steps", fed(executor, [[token] for token in tokens], 0)
    if executor.graphs_refused:
        print(f"  no CUDA graphs: {executor.graphs_refused}")
    if plan.device == "cpu":
        return
    yield "in pieces of 64", fed(executor, pieces, 0)
    yield "by one, with 5 others", fed(executor, [[token] for token in tokens], 5)
    yield "in pieces of 64, with 11 others", fed(executor, pieces, 11)
    executor.graphs_refused = "left out to compare"
    yield "by one, launched kernel by kernel", fed(executor, [[token] for token in tokens], 0)


def same(where: str, model: Any, expected: tuple[Any, list[Any]], found: tuple[Any, list[Any]]) -> None:
    """Raises Difference at the first value that differs, in the order of the computation."""
    import numpy as np

    from bench.gpu_checks import Difference

    s = model.manifest.shape
    wrong = []
    for group, (one, other) in enumerate(zip(expected[1], found[1], strict=True)):
        for position, column in np.argwhere(one != other)[:1]:
            wrong.append((position, group, f"position {position}: {part(s, group, int(column))}"))
    if wrong:
        raise Difference(f"{where}, {min(wrong)[2]} is another")
    for position, token in np.argwhere(expected[0] != found[0])[:1]:
        raise Difference(f"{where}: logit {token} at position {position} is {found[0][position, token]}, not "
                         f"{expected[0][position, token]}")  # fmt: skip


def part(s: Any, group: int, column: int) -> str:
    """The operation and element that a byte of a state's payload belongs to."""
    if column < 8 * s.width:
        layer = min((group + 1) * s.layers_per_group, s.layers) - 1
        return f"element {column // 8} of the residual after layer {layer}"
    heads = 2 * s.kv_heads
    layer, column = divmod(column - 8 * s.width, heads * (s.head_width + 4))
    layer += group * s.layers_per_group
    if column < heads * s.head_width:
        head, element = divmod(column, s.head_width)
        what = f"element {element}"
    else:
        head, what = (column - heads * s.head_width) // 4, "the scale"
    return f"{what} of {'key' if head < s.kv_heads else 'value'} head {head % s.kv_heads} of layer {layer}"


# ------------------------------------------------------------------ speed


def shape_of(name: str, context: int) -> Any:
    """Llama 3's shapes by size; states of the trace each quarter of the layers."""
    from inference.program import Shape

    if name == "tiny":
        return Shape(16, context, 16, 1, 2, 1, 8, 8, 16, 42950, 1)
    width, layers, head_width, hidden = {"1b": (2048, 16, 64, 8192), "8b": (4096, 32, 128, 14336)}[name]
    return Shape(128256, context, width, layers, 32, 8, head_width, head_width, hidden, 42950, layers // 4)


def random_program(shape: Any, device: str) -> Any:
    """A program whose tensors are made on the device: no file, no roots, as fast as a real one."""
    import torch

    from inference import program as cip
    from inference.build import build_manifest
    from inference.model import Model
    from inference.tables import tables

    made: dict[str, Any] = dict(tables(shape))
    generator = torch.Generator(device).manual_seed(1)
    for name, (dtype, extent) in cip.tensor_table(shape).items():
        if name in made:
            continue
        if dtype == "int8":
            made[name] = torch.randint(-127, 128, extent, dtype=torch.int8, device=device, generator=generator)
        else:  # scales, and gains of one
            made[name] = torch.full(extent, 1 << (15 if dtype == "uint16" else 12), dtype=torch.int32, device=device)
    linears = []
    for name, (outputs, inputs) in cip.linear_shapes(shape).items():
        block = cip.rotation_block(inputs)
        keeps = 28 + block.bit_length() + inputs.bit_length() // 2 + 7 * name.endswith(".out")
        linears.append(cip.Linear(name, outputs, inputs, 127, keeps, block))
    manifest = build_manifest("random", shape, {name: bytes(32) for name in cip.tensor_table(shape)}, linears, 22)
    return Model(manifest, manifest.model_id(), made)


class FloatModel:
    """Llama of a shape in bf16: fused projections, a static cache, torch's own attention. Eager, it attends over the
    positions that there are. Compiled, one layer's code is compiled for all, and a step of decoding is recorded as one
    CUDA graph, which attends over the whole cache with a mask."""

    def __init__(self, shape: Any, device: str, batch: int) -> None:
        import torch

        s = self.shape = shape
        self.device = device
        generator = torch.Generator(device).manual_seed(1)

        def weight(*extent: int) -> Any:
            return torch.randn(extent, generator=generator, device=device, dtype=torch.bfloat16) / math.sqrt(extent[-1])

        self.embedding, self.head = weight(s.vocabulary, s.width), weight(s.vocabulary, s.width)
        self.ones = torch.ones(s.width, dtype=torch.bfloat16, device=device)
        self.layers = [(weight(s.qkv_rows, s.width), weight(s.width, s.heads * s.head_width),
                        weight(2 * s.hidden, s.width), weight(s.width, s.hidden)) for _ in range(s.layers)]  # fmt: skip
        angle = torch.arange(s.context)[:, None] * 500_000 ** (-torch.arange(s.rotary // 2) / (s.rotary // 2))[None]
        self.cos, self.sin = (torch.cat([turn(angle)] * 2, 1)[:, None].to(device, torch.bfloat16)
                              for turn in (torch.cos, torch.sin))  # fmt: skip
        extent = (s.layers, 2, batch, s.kv_heads, s.context, s.head_width)
        self.cache = torch.zeros(extent, dtype=torch.bfloat16, device=device)

    def layer(
        self, x: Any, weights: Any, keys: Any, values: Any, cos: Any, sin: Any, places: Any, end: int, mask: Any
    ) -> Any:  # fmt: skip
        """One layer: x [sequences, rows, width] at positions `places`, over keys before `end`."""
        import torch
        from torch.nn import functional as F

        s, (sequences, rows, _), (qkv, out, gate_up, down) = self.shape, x.shape, weights
        heads = (F.rms_norm(x, (s.width,), self.ones, 1e-5) @ qkv.T).view(sequences, rows, -1, s.head_width)
        turned, v = heads.split([s.heads + s.kv_heads, s.kv_heads], dim=2)
        a, b = turned.chunk(2, -1)
        turned = turned * cos + torch.cat([-b, a], -1) * sin
        q, k = (part.transpose(1, 2) for part in turned.split([s.heads, s.kv_heads], dim=2))
        keys.index_copy_(2, places, k)
        values.index_copy_(2, places, v.transpose(1, 2))
        mixed = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], mask, enable_gqa=True,
                                               is_causal=mask is None and rows > 1)  # fmt: skip
        x = x + mixed.transpose(1, 2).reshape(sequences, rows, -1) @ out.T
        gate, up = (F.rms_norm(x, (s.width,), self.ones, 1e-5) @ gate_up.T).chunk(2, -1)
        return x + (F.silu(gate) * up) @ down.T

    def forward(self, layer: Any, tokens: Any, places: Any, end: int, masked: bool) -> Any:
        """Logits of the last of tokens [sequences, rows]. `layer` is self.layer, or that compiled."""
        import torch
        from torch.nn import functional as F

        sequences, x = tokens.shape[0], self.embedding[tokens]
        cos, sin = self.cos[places], self.sin[places]
        mask = torch.arange(end, device=self.device)[None] <= places[:, None] if masked else None
        for weights, (keys, values) in zip(self.layers, self.cache[:, :, :sequences], strict=True):
            x = layer(x, weights, keys, values, cos, sin, places, end, mask)
        return F.rms_norm(x[:, -1], (self.shape.width,), self.ones, 1e-5) @ self.head.T


class Floats:
    """A float model at one batch, eager or compiled."""

    def __init__(self, model: FloatModel, plan: Plan, batch: int, compiled: bool) -> None:
        import torch

        self.model, self.plan, self.batch, self.compiled = model, plan, batch, compiled
        backend = "eager" if plan.device == "cpu" else "inductor"  # a rehearsal only traces
        self.layer = torch.compile(model.layer, dynamic=False, backend=backend) if compiled else model.layer
        prompt = [(7 * i * i + 3) % model.shape.vocabulary for i in range(plan.prompt)]
        self.together = min(batch, max(1, plan.rows // plan.prompt))
        self.prompts = torch.tensor([prompt] * self.together, device=plan.device)
        self.places = torch.arange(plan.prompt, device=plan.device)
        self.column = self.prompts[:1, :1].expand(batch, 1).contiguous()
        self.place = torch.zeros(1, dtype=torch.int64, device=plan.device)
        self.graph: Any = None

    def run(self) -> "Run":
        """All prompts, then the steps."""
        import torch

        with torch.inference_mode():
            began = clock(self.plan)
            for _ in range(0, self.batch, self.together):
                self.model.forward(self.layer, self.prompts, self.places, self.plan.prompt, False)
            middle = clock(self.plan)
            for step in range(self.plan.steps):
                self.place.fill_(self.plan.prompt + step)
                self.step(self.plan.prompt + step + 1)
            return Run(middle - began, (clock(self.plan) - middle) / self.plan.steps)

    def step(self, end: int) -> None:
        """One token of every sequence."""
        import torch

        if not self.compiled:
            self.model.forward(self.layer, self.column, self.place, end, False)
            return
        whole = partial(self.model.forward, self.layer, self.column, self.place, self.model.shape.context, True)
        if self.plan.device == "cpu":
            whole()
            return
        if self.graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # compiles
                    whole()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.logits = whole()
        self.graph.replay()


class Run(NamedTuple):
    """Seconds of prefilling all prompts, and of each step of decoding."""

    prefill: float
    step: float


def measure(name: str, plan: Plan, runs: int) -> None:
    """The tables of one shape."""
    import torch

    shape = shape_of(name, plan.prompt + plan.steps)
    print(f"\n{name}: {shape.layers} layers, width {shape.width}, {shape.heads} heads of {shape.head_width}, "
          f"{shape.kv_heads} key heads, hidden {shape.hidden}, vocabulary {shape.vocabulary}; "
          f"prompts of {plan.prompt}, then {plan.steps} steps")  # fmt: skip
    before = allocated(plan)
    executor = integer_executor(shape, plan)
    ours = allocated(plan) - before
    model = FloatModel(shape, plan.device, max(plan.batches))
    print(f"weights, tables and the cache of {max(plan.batches)} sequences: integer {ours:.2f} GiB, "
          f"bf16 {allocated(plan) - before - ours:.2f} GiB")  # fmt: skip
    for batch in plan.batches:
        kinds: dict[str, Callable[[], Run]] = {
            "integer, results on the host": partial(integer, executor, plan, batch, True),
            "integer": partial(integer, executor, plan, batch, False),
            "bf16 eager": Floats(model, plan, batch, False).run,
            "bf16 compiled": Floats(model, plan, batch, True).run,
        }
        found: dict[str, list[Run]] = {kind: [] for kind in kinds}
        peaks = {}
        for number in range(runs + 1):
            for kind, action in kinds.items():
                if plan.device != "cpu":
                    torch.cuda.reset_peak_memory_stats()
                one = action()
                if number:  # the first one compiles, records and chooses products
                    found[kind].append(one)
                    peaks[kind] = peak(plan)
        report(batch, plan, found, peaks)
    for key, product in executor.chosen.items():
        print("  product of (outputs, inputs, rows)", key, "by", product.name)
    if executor.graphs_refused:
        print(f"steps were launched kernel by kernel: {executor.graphs_refused}")
    del executor, model, kinds
    gc.collect()
    if plan.device != "cpu":
        torch.cuda.empty_cache()


def integer_executor(shape: Any, plan: Plan) -> Any:
    from inference.cuda_engine import CudaExecutor
    from inference.kv import pages_of

    return CudaExecutor(random_program(shape, plan.device), plan.device, max(plan.batches) * pages_of(shape.context))


def integer(executor: Any, plan: Plan, batch: int, to_host: bool) -> Run:
    """The integer program. With results on the host: what a node's trace and sampling read, of every position."""
    from inference.kv import Segment, extend_all

    vocabulary = executor.shape.vocabulary
    sequences = [executor.new_sequence(plan.prompt + plan.steps) for _ in range(batch)]
    prompt = [(7 * i * i + 3) % vocabulary for i in range(plan.prompt)]

    def feed(segments: list[Any]) -> None:
        if to_host:
            executor.feed(segments)
        else:
            for _ in executor.passes(segments, extend_all(executor.pool, segments)):
                pass

    together = max(1, plan.rows // plan.prompt)
    began = clock(plan)
    for i in range(0, batch, together):
        feed([Segment(sequence, prompt, plan.prompt - 1) for sequence in sequences[i : i + together]])
    middle = clock(plan)
    for step in range(plan.steps):
        feed([Segment(sequence, [prompt[step % plan.prompt]], 0) for sequence in sequences])
    end = clock(plan)
    for sequence in sequences:
        sequence.free()
    return Run(middle - began, (end - middle) / plan.steps)


def report(batch: int, plan: Plan, found: dict[str, list[Run]], peaks: dict[str, float]) -> None:
    """Tokens a second, and each kind's time over bf16's of the same run: median, least, most."""
    print(f"\n  {'batch ' + str(batch):<30} {'prefill tokens/s':>24} {'decode tokens/s':>24} {'peak GiB':>9}")
    for kind, runs in found.items():
        prefill = [batch * plan.prompt / run.prefill for run in runs]
        decode = [batch / run.step for run in runs]
        print(f"  {kind:<30} {spread(prefill, 0):>24} {spread(decode, 0):>24} {peaks[kind]:>9.2f}", flush=True)
    for other in ("bf16 eager", "bf16 compiled"):
        for kind in ("integer, results on the host", "integer"):
            pairs = list(zip(found[kind], found[other], strict=True))
            prefill = [one.prefill / two.prefill for one, two in pairs]
            decode = [one.step / two.step for one, two in pairs]
            print(f"  {kind}, time over {other}: prefill {spread(prefill, 2)}, decode {spread(decode, 2)}")


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def clock(plan: Plan) -> float:
    """Now, when the device has done all it was asked."""
    import torch

    if plan.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def allocated(plan: Plan) -> float:
    import torch

    return 0.0 if plan.device == "cpu" else torch.cuda.memory_allocated() / 2**30


def peak(plan: Plan) -> float:
    import torch

    return 0.0 if plan.device == "cpu" else torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
