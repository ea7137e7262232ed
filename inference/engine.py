"""Runs tasks on an executor: generate an answer, verify somebody's, prove at start that this machine gives the right
bits. What node and tests use.

    engine = open_engine("auto", model_dir)
    answer = engine.generate(prompt, 64, 0, 0, seed, trace_key)
    verdict = engine.verify(prompt, answer.tokens, 0, 0, seed, trace_key)
    embedded = engine.embed(tokens, trace_key)
    verdict = engine.verify_vector("embed", tokens, embedded.vector, trace_key)

Knows no chain, no process and no text.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from inference import model as model_files
from inference.batch import (
    ALONE,
    Batch,
    Done,
    Event,
    Executor,
    Generated,
    Request,
    RequestError,
    Result,
    Token,
    Vector,
    Verdict,
)
from inference.kv import default_pages
from inference.model import Model
from inference.philox import SEED_BYTES
from inference.program import EMBED, GENERATE, SCORE, KnownAnswer, Shape
from inference.reference import NumpyExecutor

if TYPE_CHECKING:
    from inference.split import Split

ENGINES = ("numpy", "torch", "auto")
THREADS_OF_TORCH, WIDTH_OF_TORCH = 4, 1024
NO_SEED = bytes(SEED_BYTES)
"""Vectors draw nothing."""


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


def open_engine(
    name: str, model_dir: Path, threads: int = 1, device: str = "cpu", pages: Callable[[Shape], int] = default_pages,
    split: int = 1,
) -> "Engine":  # fmt: skip
    """Load and verify a model folder, build the executor and pass its known answers.

    'auto' is the faster one here (prefers_torch). `threads` sets torch's threads; numpy's BLAS reads OMP_NUM_THREADS
    when the process starts. `pages`: the size of the pool, for a shape. `split`: devices that hold the model together,
    one process each (torch only). Raises ProgramError, OSError, EngineUnavailable or ExactnessError.
    """
    if split > 1:
        engine = Engine(_split_executor(name, model_dir, threads, device, pages, split))
    else:
        model = model_files.load(model_dir)
        engine = Engine(make_executor(name, model, threads, device, pages(model.manifest.shape)))
    engine.known_answer_test()
    return engine


def make_executor(
    name: str, model: Model, threads: int = 1, device: str = "cpu", pages: int | None = None,
    split: "Split | None" = None,
) -> Executor:  # fmt: skip
    """The named implementation over a loaded model, with a pool of `pages` (without it: kv.default_pages). `split`: of
    torch, this process's place among those that hold the model together."""
    if name not in ENGINES:
        raise EngineUnavailable(f"no engine {name!r}, there are {', '.join(ENGINES)}")
    if name == "numpy" or (name == "auto" and not prefers_torch(model.manifest.shape, threads, device)):
        return _numpy(model, device, pages)
    try:
        from inference.torch_engine import TorchExecutor
    except ImportError as error:
        if name == "auto" and device == "cpu":
            return _numpy(model, device, pages)
        raise EngineUnavailable(f"engine 'torch' is not installed: {error}") from error
    if device != "cpu" and find_spec("triton") is not None:  # which torch's builds for CUDA bring along
        from inference.cuda_engine import CudaExecutor, takes

        if takes(model.manifest.shape, device):
            return CudaExecutor(model, device, pages, split)
    return TorchExecutor(model, threads, device, pages, split)


def _split_executor(
    name: str, model_dir: Path, threads: int, device: str, pages: Callable[[Shape], int], count: int
) -> Executor:
    """A model over several processes of this host, this one leading."""
    if name not in ("auto", "torch"):
        raise EngineUnavailable(f"engine {name!r} runs a model in one process; torch splits it over {count}")
    try:
        from inference.split import LeadingExecutor, Others
    except ImportError as error:
        raise EngineUnavailable(f"engine 'torch' is not installed: {error}") from error
    others = Others(model_dir, count, threads, device)
    try:
        model = model_files.load(model_dir)
        return LeadingExecutor(model, others, threads, device, pages(model.manifest.shape))
    except BaseException:
        others.close()
        raise


def prefers_torch(shape: Shape, threads: int, device: str) -> bool:
    """Which executor is faster on this machine, by what docs/inference.md measured: numpy on a CPU, since it does the
    work between two products with fewer and shorter calls; torch on any other device, from THREADS_OF_TORCH threads on,
    since numpy's part of the work stays on one, and for models of WIDTH_OF_TORCH where the CPU multiplies int8."""
    if device != "cpu" or threads >= THREADS_OF_TORCH:
        return True
    return shape.width >= WIDTH_OF_TORCH and _multiplies_int8()


def _multiplies_int8() -> bool:
    """Whether the CPU has instructions for sums of int8 products that do not saturate, as far as Linux says."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}.isdisjoint(flags)


def _numpy(model: Model, device: str, pages: int | None) -> Executor:
    if device != "cpu":
        raise EngineUnavailable(f"engine 'numpy' runs on the cpu only, not on {device!r}; torch runs on both")
    return NumpyExecutor(model, pages)


class Engine:
    """One model on one executor, one task at a time. Not shared between threads."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
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
        request = Request(GENERATE, prompt, seed, trace_key, max_tokens, None, temperature_q16, top_k)
        began = time.monotonic()
        first_token_ms = 0
        for event in self._run(request, cancelled):
            if isinstance(event, Token):
                if event.index == 0:
                    first_token_ms = _elapsed_ms(began)
                if on_token is not None:
                    on_token(event.token)
            elif isinstance(event, Done) and isinstance(event.result, Generated):
                return Answer(event.result.tokens, event.result.root, first_token_ms, _elapsed_ms(began))
        raise AssertionError("a batch gives every task that has no deadline a result")

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
        return self._verdict(Request(GENERATE, prompt, seed, trace_key, 0, output, temperature_q16, top_k))

    def embed(self, tokens: Sequence[int], trace_key: bytes) -> Vector:
        """Embed a prompt. Raises RequestError."""
        return self._vector(Request(EMBED, tokens, NO_SEED, trace_key))

    def score(self, tokens: Sequence[int], trace_key: bytes) -> Vector:
        """Score a prompt of at least two tokens. Raises RequestError, also where the model is no language model."""
        return self._vector(Request(SCORE, tokens, NO_SEED, trace_key))

    def verify_vector(self, task: str, tokens: Sequence[int], vector: Sequence[int], trace_key: bytes) -> Verdict:
        """T of embedding or scoring a prompt, and the first index at which the vector is not the right one."""
        if task == GENERATE:
            raise RequestError(f"{task!r} asks for no vector")
        return self._verdict(Request(task, tokens, NO_SEED, trace_key, output=vector))

    def _vector(self, request: Request) -> Vector:
        found = self._result(request)
        assert isinstance(found, Vector)
        return found

    def _verdict(self, request: Request) -> Verdict:
        found = self._result(request)
        assert isinstance(found, Verdict)
        return found

    def _result(self, request: Request) -> Result:
        return next(event.result for event in self._run(request) if isinstance(event, Done))

    def _run(self, request: Request, cancelled: Callable[[], bool] | None = None) -> Iterator[Event]:
        """A batch of this task alone. Raises RequestError, Cancelled."""
        batch = Batch(self.executor, ALONE)
        batch.add(0, request)
        try:
            while not batch.idle:
                if cancelled is not None and cancelled():
                    raise Cancelled
                yield from batch.step(0.0)
        finally:
            batch.cancel(0)

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
                    found, expected = self.executor.product_extremes(linear.name, weight_sign, input_sign)
                    if found != expected:
                        raise ExactnessError(f"{self.name}: {linear.name} on extremes gives {found}, not {expected}")
        for number, answer in enumerate(self.model.manifest.known_answers):
            self._known_answer(number, answer)

    def _known_answer(self, number: int, known: KnownAnswer) -> None:
        if known.task != GENERATE:
            made = self._vector(Request(known.task, known.prompt, NO_SEED, known.trace_key))
            self._known_root(number, known, f"to {known.task}", made.root)
            return
        how = (known.temperature_q16, known.top_k, known.seed, known.trace_key)
        answer = self.generate(known.prompt, known.max_tokens, *how)
        if tuple(answer.tokens) != known.tokens:
            raise ExactnessError(
                f"{self.name}: known answer {number} gives tokens {answer.tokens}, not {list(known.tokens)}"
            )
        verdict = self.verify(known.prompt, known.tokens, *how)
        for what, root in (("generating", answer.root), ("verifying", verdict.root)):
            self._known_root(number, known, what, root)

    def _known_root(self, number: int, known: KnownAnswer, what: str, root: bytes) -> None:
        if root != known.root:
            raise ExactnessError(
                f"{self.name}: known answer {number}, {what}, gives root {root.hex()}, not {known.root.hex()}"
            )


def _elapsed_ms(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
