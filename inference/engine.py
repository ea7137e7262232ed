"""Runs tasks on an executor: generate an answer, verify somebody's, prove at start that this machine gives the right
bits. What node and tests use.

    engine = open_engine("auto", model_dir)
    answer = engine.generate(prompt, 64, 0, 0, seed, trace_key)
    verdict = engine.verify(prompt, answer.tokens, 0, 0, seed, trace_key)

Knows no chain, no process and no text.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from inference import model as model_files
from inference.kv import PAGE, Fed, Pool, Segment, pages_of
from inference.kv import Sequence as Handle
from inference.model import Model
from inference.program import NO_BAD_POSITION, KnownAnswer
from inference.reference import CHUNK_ROWS, NumpyExecutor
from inference.sampling import SEED_BYTES, sample
from inference.trace import KEY_BYTES, Trace

ENGINES = ("numpy", "torch", "auto")


class RequestError(ValueError):
    """A request that this model cannot serve: the caller's fault, with the offending value."""


class ExactnessError(RuntimeError):
    """This machine does not give the program's bits; the message says where they differ. No exact work is possible."""


class EngineUnavailable(RuntimeError):
    """The engine asked for is not installed or its device is not there."""


class Cancelled(Exception):
    """The caller asked to stop between two tokens."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Generated tokens (the last is a stop id, or there are max_tokens of them), T, and the time taken."""

    tokens: list[int]
    root: bytes
    first_token_ms: int
    total_ms: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """T of prompt + output, and the absolute position (in prompt + output) of the first output token that differs
    from Sample, or 2^32 - 1."""

    root: bytes
    bad: int


class Executor(Protocol):
    """What an implementation of the program offers; reference.py defines the meaning."""

    name: str
    model: Model
    pool: Pool

    def new_sequence(self, capacity: int = 0) -> Handle:
        """An empty sequence; pages for `capacity` positions are taken at once. Raises PoolExhausted."""
        ...

    def feed(self, segments: Sequence[Segment]) -> list[Fed]:
        """One pass over many sequences. What else is in the pass changes no bit of a segment. Raises PoolExhausted
        before anything is changed."""
        ...

    def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
        """(computed, expected) of one product with every operand at its bound."""
        ...


def open_engine(name: str, model_dir: Path, threads: int = 1, device: str = "cpu") -> "Engine":
    """Load and verify a model folder, build the executor and pass its known answers.

    'auto' is torch where it is installed, else numpy. `threads` sets torch's threads; numpy's BLAS reads
    OMP_NUM_THREADS when the process starts. Raises ProgramError, OSError, EngineUnavailable or ExactnessError.
    """
    engine = Engine(make_executor(name, model_files.load(model_dir), threads, device))
    engine.known_answer_test()
    return engine


def make_executor(
    name: str, model: Model, threads: int = 1, device: str = "cpu", pages: int | None = None
) -> Executor:
    """The named implementation over a loaded model, with a pool of `pages` (without it: kv.default_pages)."""
    if name not in ENGINES:
        raise EngineUnavailable(f"no engine {name!r}, there are {', '.join(ENGINES)}")
    if name == "numpy":
        return _numpy(model, device, pages)
    try:
        from inference.torch_engine import TorchExecutor
    except ImportError as error:
        if name == "auto":
            return _numpy(model, device, pages)
        raise EngineUnavailable(f"engine 'torch' is not installed: {error}") from error
    return TorchExecutor(model, threads, device, pages)


def _numpy(model: Model, device: str, pages: int | None) -> Executor:
    if device != "cpu":
        raise EngineUnavailable(f"engine 'numpy' runs on the cpu only, not on {device!r}; torch runs on both")
    return NumpyExecutor(model, pages)


class Engine:
    """One model on one executor. Not shared between threads."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.model = executor.model
        self.model_id: bytes = executor.model.model_id
        self.name: str = executor.name

    def generate(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        temperature_q16: int,
        top_k: int,
        seed: bytes,
        trace_key: bytes,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Answer:
        """Answer a prompt. Raises RequestError, or Cancelled when `cancelled()` turns true between two steps."""
        self._check(prompt, max_tokens, temperature_q16, top_k, seed, trace_key)
        began = time.monotonic()
        manifest = self.model.manifest
        trace = Trace(trace_key, manifest.shape.groups)
        sequence = self._executor.new_sequence(len(prompt) + max_tokens - 1)
        try:
            logits = self._feed_all(sequence, list(prompt), len(prompt) - 1, trace, cancelled)
            tokens: list[int] = []
            first_token_ms = 0
            while True:
                token = self._sample(logits[-1], seed, len(prompt) + len(tokens), temperature_q16, top_k)
                trace.add_output(logits[-1].astype("<i8").tobytes(), token)
                tokens.append(token)
                if len(tokens) == 1:
                    first_token_ms = _elapsed_ms(began)
                if on_token is not None:
                    on_token(token)
                if token in manifest.stop or len(tokens) == max_tokens:
                    return Answer(tokens, trace.root(), first_token_ms, _elapsed_ms(began))
                logits = self._feed_all(sequence, [token], 0, trace, cancelled)
        finally:
            sequence.free()

    def verify(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        temperature_q16: int,
        top_k: int,
        seed: bytes,
        trace_key: bytes,
    ) -> Verdict:
        """One teacher-forced pass over prompt + output: its T, and the first output token that Sample does not give.
        Whether the output may end where it does (stop id or max_tokens) is the chain's rule, not asked here."""
        if not output:
            raise RequestError("output of 0 tokens, must have at least 1")
        self._check(prompt, len(output), temperature_q16, top_k, seed, trace_key)
        self._check_ids(output, "output")
        trace = Trace(trace_key, self.model.manifest.shape.groups)
        fed = [*prompt, *output[:-1]]
        sequence = self._executor.new_sequence(len(fed))
        try:
            logits = self._feed_all(sequence, fed, len(prompt) - 1, trace, None)
        finally:
            sequence.free()
        bad = NO_BAD_POSITION
        for i, token in enumerate(output):
            position = len(prompt) + i
            if bad == NO_BAD_POSITION and self._sample(logits[i], seed, position, temperature_q16, top_k) != token:
                bad = position
            trace.add_output(logits[i].astype("<i8").tobytes(), token)
        return Verdict(trace.root(), bad)

    def known_answer_test(self) -> None:
        """Every product on extreme operands, and every known answer of the manifest, generated and verified.
        Raises ExactnessError on the first difference."""
        shapes = set()
        for linear in self.model.manifest.linears:
            if (linear.inputs, linear.bound) in shapes:
                continue
            shapes.add((linear.inputs, linear.bound))
            for weight_sign in (1, -1):
                for input_sign in (1, -1):
                    found, expected = self._executor.product_extremes(linear.name, weight_sign, input_sign)
                    if found != expected:
                        raise ExactnessError(f"{self.name}: {linear.name} on extremes gives {found}, not {expected}")
        for number, answer in enumerate(self.model.manifest.known_answers):
            self._known_answer(number, answer)

    def _known_answer(self, number: int, known: KnownAnswer) -> None:
        how = (known.temperature_q16, known.top_k, known.seed, known.trace_key)
        answer = self.generate(known.prompt, known.max_tokens, *how)
        if tuple(answer.tokens) != known.tokens:
            raise ExactnessError(
                f"{self.name}: known answer {number} gives tokens {answer.tokens}, not {list(known.tokens)}"
            )
        verdict = self.verify(known.prompt, known.tokens, *how)
        for what, root in (("generating", answer.root), ("verifying", verdict.root)):
            if root != known.root:
                raise ExactnessError(
                    f"{self.name}: known answer {number}, {what}, gives root {root.hex()}, not {known.root.hex()}"
                )

    def _feed_all(
        self, sequence: Handle, tokens: list[int], logits_from: int, trace: Trace, cancelled: Callable[[], bool] | None
    ) -> np.ndarray:
        """Feed in chunks; int64 logits of the rows from `logits_from` on."""
        logits = []
        for begin in range(0, len(tokens), CHUNK_ROWS):
            if cancelled is not None and cancelled():
                raise Cancelled
            chunk = tokens[begin : begin + CHUNK_ROWS]
            wanted = min(max(logits_from - begin, 0), len(chunk))
            [(rows, payloads)] = self._executor.feed([Segment(sequence, chunk, wanted)])
            logits.append(rows)
            for group, payload in enumerate(payloads):
                trace.add_states(group, map(memoryview, payload))
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _sample(self, logits: np.ndarray, seed: bytes, position: int, temperature_q16: int, top_k: int) -> int:
        return sample(logits, seed, position, temperature_q16, top_k, self.model.tensors["table.exp2"])

    def _check(
        self, prompt: Sequence[int], max_tokens: int, temperature_q16: int, top_k: int, seed: bytes, trace_key: bytes
    ) -> None:
        context = self.model.manifest.shape.context
        if not prompt or max_tokens < 1 or len(prompt) + max_tokens > context:
            raise RequestError(f"{len(prompt)} prompt tokens and {max_tokens} to generate; at least 1 of each, "
                               f"at most {context} together")  # fmt: skip
        pool = self._executor.pool
        if pages_of(len(prompt) + max_tokens - 1) > pool.pages:
            raise RequestError(f"{len(prompt)} prompt tokens and {max_tokens} to generate do not fit the pool of "
                               f"{pool.pages} pages of {PAGE} positions")  # fmt: skip
        if not 0 <= temperature_q16 < 2**32 or not 0 <= top_k < 2**32:
            raise RequestError(f"temperature_q16 {temperature_q16} and top_k {top_k} must be u32")
        if len(seed) != SEED_BYTES or len(trace_key) != KEY_BYTES:
            raise RequestError(f"seed of {len(seed)} and trace key of {len(trace_key)} bytes, must be 32 each")
        self._check_ids(prompt, "prompt")

    def _check_ids(self, ids: Sequence[int], where: str) -> None:
        vocabulary = self.model.manifest.shape.vocabulary
        for position, token in enumerate(ids):
            if not 0 <= token < vocabulary:
                raise RequestError(f"{where}[{position}] is {token}, the vocabulary has {vocabulary}")


def _elapsed_ms(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
