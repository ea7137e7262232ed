"""Models from the command line, no chain needed: bring one in, check it, let it speak or embed, measure it. Owns what
is printed; the work is inference's. Text and numbers of a command go to standard output, progress to standard error.
"""

import json
import lzma
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from node.exits import RUNTIME, USAGE, Fatal

TEXT = Path(__file__).resolve().parents[1] / "training" / "text" / "corpus.txt.xz"
TEXT_BYTES_MAX = 4 << 20
BENCH_PREFILL, BENCH_DECODE = 256, 32  # positions, tokens; less where the context is shorter
TRACE_KEY = bytes(32)  # nothing is at stake without a chain, so anybody can compute the root again


def import_checkpoint(
    source: Path, out: Path | None, text: Path | None, max_loss: str | None, positions: int, name: str | None,
    licence: str, threads: int, as_json: bool,
) -> None:  # fmt: skip
    """Convert a Hugging Face folder or a GGUF file, print what came out."""
    _limit_threads(threads)
    from inference.gguf_file import SUFFIX
    from inference.importer import import_model

    base = re.sub(r"[^!-~]", "-", source.resolve().name).removesuffix(SUFFIX)
    out = out or Path(f"{base}-labora")
    share = None if max_loss is None else _percent(max_loss)
    words = _text(text)
    with _refusals(), _progress() as progress:
        done = import_model(source, out, words, name=name or base[:64], licence=licence, max_loss=share,
                            positions=positions, progress=progress)  # fmt: skip
    if as_json:
        tried = [{"precision": scheme, "lossPercent": quality.lost * 100} for scheme, quality in done.tried]
        print(json.dumps({
            "folder": str(done.folder), "modelId": f"0x{done.model_id.hex()}", "kind": done.manifest.shape.kind,
            "parameters": done.parameters, "precision": done.tried[-1][0], "tried": tried, **done.quality.as_json(),
        }))  # fmt: skip
        return
    print(f"{done.folder}  {done.manifest.shape.kind}, {done.parameters:,} parameters")
    print(f"model id         0x{done.model_id.hex()}")
    for line in done.quality.lines():
        print(line)
    for scheme, quality in done.tried[:-1]:
        print(f"too lossy        {scheme}: {quality.lost * 100:.3f} %")
    kept = done.tried[-1][0]
    why = "plain; no --max-loss was asked for" if share is None else f"the cheapest to run of at most {share * 100:g} %"
    print(f"precision        {kept} ({why})")


def check(folder: Path) -> None:
    """Every hash, every bound, and the known answers on each engine that is installed."""
    _limit_threads(1)
    from inference import model as files
    from inference.engine import Engine, make_executor
    from inference.tokenizer import open_tokenizer

    with _refusals():
        model = files.load(folder)
        print(f"{len(model.tensors)} tensors hash to their roots; model id 0x{model.model_id.hex()}")
        open_tokenizer(folder, model.manifest.tokenizer)
        print(f"tokenizer {model.manifest.tokenizer}")
        for name in _engines():
            Engine(make_executor(name, model)).known_answer_test()
            print(f"{name}: every product on extreme values, {len(model.manifest.known_answers)} known answers")


def run(
    folder: Path, prompt: str, max_tokens: int, temperature: float, top_k: int, seed: str, engine_name: str,
    device: str, threads: int, as_json: bool,
) -> None:  # fmt: skip
    """Continue a text, printing it as it comes."""
    _limit_threads(threads)
    from inference.engine import open_engine
    from inference.tokenizer import open_tokenizer

    seed_bytes = seed_of(seed)
    with _refusals():
        engine = open_engine(engine_name, folder, threads, device)
        tokenizer = open_tokenizer(folder, engine.model.manifest.tokenizer)
        stream, stop = tokenizer.stream(), engine.model.manifest.stop

        def show(token: int) -> None:
            if not as_json and token not in stop:
                print(stream(token), end="", flush=True)

        answer = engine.generate(
            tokenizer.encode(prompt), max_tokens, round(temperature * 65536), top_k, seed_bytes, TRACE_KEY, show
        )
    rate = len(answer.tokens) * 1000 / max(answer.total_ms, 1)
    if as_json:
        text = tokenizer.decode(token for token in answer.tokens if token not in stop)
        print(json.dumps({"tokens": answer.tokens, "text": text, "traceRoot": f"0x{answer.root.hex()}",
                          "tokensPerSecond": round(rate, 2)}))  # fmt: skip
        return
    print()
    summary = f"{len(answer.tokens)} tokens, {rate:.1f} a second on {engine.name}; trace root 0x{answer.root.hex()}"
    print(summary, file=sys.stderr)


def embed(folder: Path, text: str, engine_name: str, device: str, threads: int, as_json: bool) -> None:
    """A text's vector, of unit length 2^15, and the trace root that binds it."""
    _limit_threads(threads)
    from inference.engine import open_engine
    from inference.tokenizer import open_tokenizer

    with _refusals():
        engine = open_engine(engine_name, folder, threads, device)
        tokenizer = open_tokenizer(folder, engine.model.manifest.tokenizer)
        found = engine.embed(tokenizer.encode(text), TRACE_KEY)
    if as_json:
        print(json.dumps({"vector": list(found.vector), "traceRoot": f"0x{found.root.hex()}"}))
        return
    print(" ".join(map(str, found.vector)))
    print(f"{len(found.vector)} values on {engine.name}; trace root 0x{found.root.hex()}", file=sys.stderr)


def bench(folder: Path, repeats: int, threads: int, as_json: bool) -> None:
    """Prefill and decode speed of each installed engine on this model."""
    _limit_threads(threads)
    from inference import model as files
    from inference.engine import make_executor

    with _refusals():
        model = files.load(folder)
        report: dict[str, Any] = {}
        for name in _engines():
            executor = make_executor(name, model, threads)
            report[name] = {what: _spread(values) for what, values in _rates(executor, repeats).items()}
    if as_json:
        print(json.dumps(report))
        return
    for name, rates in report.items():
        for what, rate in rates.items():
            print(f"{name:<6} {what:<8} {rate['median']:10.1f} tokens/s   "
                  f"({rate['min']:.1f} to {rate['max']:.1f}, {repeats} runs)")  # fmt: skip


def _rates(executor: Any, repeats: int) -> dict[str, list[float]]:
    """Tokens a second; the first run warms up and is not counted."""
    from inference.kv import Segment

    shape = executor.shape
    decode = min(BENCH_DECODE, shape.context // 2)
    prefill = min(BENCH_PREFILL, shape.context - decode)
    prompt = [(7 * i * i + 3) % shape.vocabulary for i in range(prefill)]
    rates: dict[str, list[float]] = {"prefill": [], "decode": []}
    for _ in range(repeats + 1):
        sequence = executor.new_sequence(prefill + decode)
        began = time.perf_counter()
        for i in range(0, prefill, 64):
            executor.feed([Segment(sequence, prompt[i : i + 64], min(prefill - i, 64) - 1)])
        fed = time.perf_counter()
        for i in range(decode):
            executor.feed([Segment(sequence, [prompt[i % prefill]], 0)])
        rates["prefill"].append(prefill / (fed - began))
        rates["decode"].append(decode / (time.perf_counter() - fed))
        sequence.free()
    return {what: values[1:] for what, values in rates.items()}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _engines() -> list[str]:
    return ["numpy", "torch"] if find_spec("torch") else ["numpy"]


def _limit_threads(threads: int) -> None:
    """BLAS reads these once, when numpy is first imported. On a busy machine its threads wait for each other: a small
    model became fifty times slower with two of them, so that one is the default everywhere."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)


def seed_of(text: str) -> bytes:
    """Up to 32 bytes, the missing ones zero on the right: sampling draws from the first twenty."""
    digits = text.removeprefix("0x")
    if not re.fullmatch("[0-9a-fA-F]{1,64}", digits):
        raise Fatal(USAGE, f"--seed {text[:80]!r} is not 1 to 64 hexadecimal digits")
    return bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2)).ljust(32, b"\0")


def _percent(text: str) -> float:
    """A share from '0.5%' or '0.5'."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise Fatal(USAGE, f"--max-loss {text[:80]!r} is not a percentage, such as 0.5%")
    return share


def _text(path: Path | None) -> str:
    """What quality is measured on: the file, or the part of the shipped text that no training saw."""
    if path is not None:
        try:
            with path.open("rb") as file:
                return file.read(TEXT_BYTES_MAX).decode(errors="replace")
        except OSError as error:
            raise Fatal(USAGE, f"--text {path}: {error.strerror}") from error
    if not TEXT.exists():
        raise Fatal(USAGE, "the text to measure quality on comes with the source tree, not here: give --text FILE")
    documents = lzma.decompress(TEXT.read_bytes()).split(b"\f")
    return "\n".join(part.decode("ascii") for i, part in enumerate(documents) if i % 40 == 20)


@contextmanager
def _refusals() -> Iterator[None]:
    """What is wrong with a model, a request or this machine, as one line."""
    from inference.batch import RequestError
    from inference.engine import EngineUnavailable, ExactnessError
    from inference.gguf_file import FormatUnavailable
    from inference.program import ProgramError
    from inference.tokenizer import TokenizerUnavailable

    try:
        yield
    except (
        ProgramError, RequestError, EngineUnavailable, ExactnessError, TokenizerUnavailable, FormatUnavailable,
    ) as error:  # fmt: skip
        raise Fatal(RUNTIME, str(error)) from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise Fatal(RUNTIME, f"{error.filename}: {error.strerror}") from error


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for every step on a terminal; elsewhere a line when a step begins and ends."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        bars = Progress(TextColumn("{task.description:<14}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                        TimeElapsedColumn(), console=Console(stderr=True))  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def move(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        with bars:
            yield move
        return
    begun: dict[str, float] = {}

    def say(step: str, done: int, total: int) -> None:
        if step not in begun:
            begun[step] = time.monotonic()
            print(f"{step} ...", file=sys.stderr, flush=True)
        if done >= total:
            print(f"{step}: done in {time.monotonic() - begun[step]:.1f} s", file=sys.stderr, flush=True)

    yield say
