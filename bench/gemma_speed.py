"""Claim: Gemma 3 270M end to end as an integer program, against transformers in float32 and llama.cpp on its own Q4
file: tokens a second of prefill and decode, and memory.

    make gemma-speed
    python bench/gemma_speed.py [--prefill 256] [--decode 32] [--runs 5] [--threads 1] [--folder DIR] [--only NAME ...]

All read the same GGUF file (Q4_K_M, 253 MB): llama.cpp as it is, transformers turned to float32, ours imported (that
of `make real-models` if it is in the folder, else made: a minute). Each is a process of its own that is ready before
anything is measured; every run measures all of them one after the other, on tokens of the shipped text. With one
thread times are those of the process on a CPU. llama.cpp comes with the package xllamacpp (AVX2, no -march=native),
transformers reads the file with the help of accelerate; both go into the folder, at pinned versions and hashes. All
answer one question first, greedily, so that one sees that they are the same model.
"""

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma_turn
import harness
import platformdirs
import real_models

PACKAGES = {
    "xllamacpp==2026.10.11549": "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261",
    "accelerate==1.15.0": "97eacca0b73e45cb867dbf8c5d5d4dc32219544300e0c8992c7334dc2ef33cec",
}
QUESTION = gemma_turn.FORM.format(gemma_turn.QUESTION)
ROWS_MAX = 128  # of a prompt in one pass, as a node feeds them
CONTEXT = 2048
clock = time.process_time if harness.THREADS == 1 else time.perf_counter

Feed = Callable[[list[int], int], list[int] | str]
"""Prompt and number of tokens to its greedy continuation, from an empty cache on, as ids or as text. One token is
prefill alone."""


def integers(engine: str, folder: Path) -> Feed:
    """One of the two executors."""
    from inference.engine import make_executor
    from inference.kv import Segment
    from inference.model import load

    executor: Any = make_executor(engine, load(gemma_turn.program(folder)), harness.THREADS)

    def feed(prompt: list[int], count: int) -> list[int]:
        sequence = executor.new_sequence(len(prompt) + count)
        for first in range(0, len(prompt), ROWS_MAX):
            rows = prompt[first : first + ROWS_MAX]
            [(logits, _)] = executor.feed([Segment(sequence, rows, len(rows) - 1)])
        found = [int(logits[-1].argmax())]
        while len(found) < count:
            [(logits, _)] = executor.feed([Segment(sequence, found[-1:], 0)])
            found.append(int(logits[-1].argmax()))
        sequence.free()
        return found

    return feed


def transformers(folder: Path) -> Feed:
    """Its own Gemma3ForCausalLM in float32, torch's own attention."""
    sys.path.append(str(packages(folder)))
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(harness.THREADS)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=real_models.GEMMA.unpacked, dtype=torch.float32)

    @torch.inference_mode()
    def feed(prompt: list[int], count: int) -> list[int]:
        out = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        found = [int(out.logits[0, -1].argmax())]
        while len(found) < count:
            out = model(torch.tensor([found[-1:]]), past_key_values=out.past_key_values, use_cache=True)
            found.append(int(out.logits[0, -1].argmax()))
        return found

    return feed


def llama_cpp(folder: Path) -> Feed:
    """The server that the package carries, in this process, asked without HTTP."""
    sys.path.append(str(packages(folder)))
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(folder / real_models.GEMMA.unpacked)
    params.n_ctx, params.n_parallel, params.warmup = CONTEXT, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = harness.THREADS
    server = xllamacpp.Server(params)

    def feed(prompt: list[int], count: int) -> str:
        asked = {"prompt": prompt, "n_predict": count, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        return str(server.handle_completions(asked)["choices"][0]["text"])

    return feed


ENGINES: dict[str, Callable[[Path], Feed]] = {
    "llama.cpp Q4_K_M": llama_cpp,
    "transformers float32": transformers,
    "labora numpy": lambda folder: integers("numpy", folder),
    "labora torch": lambda folder: integers("torch", folder),
}


def is_ours(name: str) -> bool:
    return name.startswith("labora")


def packages(folder: Path) -> Path:
    """Where the packages are, which no lock file knows. Installs what is missing."""
    into = folder / "packages"
    if not (into / "done").exists():
        into.mkdir(parents=True, exist_ok=True)
        wanted = into / "packages.txt"
        wanted.write_text("".join(f"{package} --hash=sha256:{digest}\n" for package, digest in PACKAGES.items()))
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--require-hashes", "--target", into, "--requirement", wanted],
            check=True,
        )  # fmt: skip
        (into / "done").touch()
    return into


def serve(name: str, folder: Path) -> None:
    """Load one, then measure whenever a line with prompt and number of tokens comes."""
    feed = ENGINES[name](folder)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        prompt, count = json.loads(line)
        began = clock()
        found = feed(prompt, count)
        answer = {"answer": found, "seconds": clock() - began, "mebibytes": harness.resident_mib()}
        print(json.dumps(answer), flush=True)


class Engine:
    """One of the processes."""

    def __init__(self, name: str, folder: Path, log: Path) -> None:
        command = [sys.executable, __file__, "--serve", name, "--folder", folder, "--threads", harness.THREADS]
        self.name, self.log = name, log
        self._process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"),
            env=harness.ENVIRONMENT, text=True,
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        """The next object that it prints; what libraries print besides is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"{self.name} ended: {self.log.read_text()[-2000:]}")

    def ask(self, prompt: list[int], count: int) -> dict[str, Any]:
        """Have it continue a prompt."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([prompt, count]) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """Let it go."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefill", type=int, default=256)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--folder", type=Path, default=Path(platformdirs.user_cache_dir("labora")) / "real-models")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.folder)
        return
    harness.header(__doc__.split("\n\n")[0].replace("\n", " "), "torch", "transformers")
    program = gemma_turn.program(options.folder)
    source = options.folder / real_models.GEMMA.unpacked
    if not source.exists():
        real_models.fetch(real_models.GEMMA, options.folder)
    packages(options.folder)
    print(f"{', '.join(PACKAGES)}; {source.name}, SHA-256 {hashlib.sha256(source.read_bytes()).hexdigest()[:16]}; "
          f"program {json.loads((program / 'manifest.json').read_text())['name']} in {program}")  # fmt: skip
    engines = [Engine(name, options.folder, options.folder / f"{name.split()[-1]}.log") for name in options.only]
    try:
        for engine in engines:
            engine.answer()
        measure(engines, program, options.prefill, options.decode, options.runs)
    finally:
        for engine in engines:
            engine.end()


def measure(engines: list[Engine], program: Path, prefill: int, decode: int, runs: int) -> None:
    """Answers, rates, ratios of ours to the others, memory."""
    from inference.tokenizer import FromFile

    words = FromFile(program / "tokenizer.json")
    for engine in engines:
        answer = engine.ask(words.encode(QUESTION), gemma_turn.TOKENS)["answer"]
        print(f"  {engine.name:<21} {(answer if isinstance(answer, str) else words.decode(answer))!r}")
    text = lzma.decompress(real_models.TEXT.read_bytes()).split(b"\f")[20].decode()
    prompt = words.encode(text)[:prefill]
    found: dict[str, list[tuple[float, float]]] = {engine.name: [] for engine in engines}
    memory = {}
    for number in range(runs + 1):
        for engine in engines:
            first = engine.ask(prompt, 1)["seconds"]
            whole = engine.ask(prompt, 1 + decode)
            memory[engine.name] = whole["mebibytes"]
            if number:  # the first warms up
                found[engine.name].append((len(prompt) / first, decode / (whole["seconds"] - first)))
    unit = "tokens/cpu-s" if clock is time.process_time else "tokens/s"
    print(f"prefill of {len(prompt)} tokens, {decode} decoded after them, {runs} runs")
    for column, what in enumerate(("prefill", "decode")):
        for name, pairs in found.items():
            rates = [pair[column] for pair in pairs]
            line = f"  {what:<8} {name:<21} {harness.median_of(rates, unit):<46}"
            for other in (each for each in found if is_ours(name) and not is_ours(each)):
                ratios = [pair[column] / rate for pair, rate in zip(found[other], rates, strict=True)]
                line += f"  {harness.median_of(ratios, f'x the time of {other}', 2)}"
            print(line, flush=True)
    print("resident memory  " + ", ".join(f"{name} {mebibytes:.0f} MiB" for name, mebibytes in memory.items()))


if __name__ == "__main__":
    main()
