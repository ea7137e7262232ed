"""Redoes one leaf of a trace op by op, on demand: what a party to a dispute posts and opens from. Owns recording an
execution's payloads and computing the vectors of a leaf's ops; the arithmetic of an element is the referee's, and
numpy does the few rules that most elements follow (products, copies, counts), in the same numbers.

    execution = record(executor, task, trace_key, prompt, output)
    working = work(execution, model, leaf)        # every op's elements, the trees over them, the root of the list

Knows no chain and no opponent.
"""

from collections.abc import Callable, Sequence

import numpy as np

from inference import program as cip
from inference.batch import ALONE, Batch, Done, Executor, Request, Verdict
from inference.model import Model
from inference.opening import Execution, Working
from inference.ops import (
    DIGIT_BITS,
    DIGITS,
    LOGITS,
    STATE,
    TILE,
    TOKEN,
    Leaf,
    Op,
    Payload,
    Slice,
    Task,
    Tokens,
    op_list,
)
from inference.referee import recompute
from inference.trace import Record
from primitives.task import vector_of


def record(executor: Executor, task: Task, trace_key: bytes, prompt: Sequence[int], output: Sequence[int]) -> Execution:
    """Runs a task once more, teacher-forced, and keeps every payload. output: the answer's words. Raises RequestError,
    PoolExhausted."""
    batch = Batch(executor, ALONE)
    batch.add(0, request_of(task, trace_key, prompt, output))
    while not batch.idle:
        for event in batch.step(0.0):
            if isinstance(event, Done):
                assert isinstance(event.result, Verdict) and event.result.record is not None
                return execution_of(executor.model, task, trace_key, prompt, output, event.result.record)
    raise AssertionError("a batch gives every task that has no deadline a result")


def request_of(task: Task, trace_key: bytes, prompt: Sequence[int], output: Sequence[int]) -> Request:
    """What a batch is asked for: to check the answer, keeping what the trace hashes."""
    claimed = output if task.kind == cip.GENERATE else vector_of(output)
    how = task.temperature_q16, task.top_k
    return Request(task.kind, prompt, task.seed, trace_key, 0, claimed, *how, keeps=True)


def execution_of(model: Model, task: Task, trace_key: bytes, prompt: Sequence[int], output: Sequence[int],
                 kept: Record) -> Execution:  # fmt: skip
    """The execution that was recorded."""
    groups = model.manifest.shape.groups

    def payload(leaf: Leaf) -> bytes:
        if leaf.domain == STATE:
            position, group = divmod(leaf.index, groups)
            return kept.states[group][position]
        if leaf.domain == TOKEN:
            return output[leaf.index].to_bytes(4, "little")
        return (kept.logits if leaf.domain == LOGITS else kept.vectors)[leaf.index]

    tensors = {name: memoryview(np.ascontiguousarray(array)).cast("B") for name, array in model.tensors.items()
               if array.size}  # fmt: skip
    return Execution(model.manifest, tensors, task, trace_key, prompt, output, payload)


def work(execution: Execution, model: Model, leaf: Leaf) -> Working:
    """Every op of a leaf, computed from what the execution committed before it."""
    worker = Worker(execution, model, leaf)
    return Working(execution, leaf, worker.run())


class Worker:
    """Computes a leaf's ops in order."""

    def __init__(self, execution: Execution, model: Model, leaf: Leaf) -> None:
        self._execution, self._model = execution, model
        self.ops = op_list(execution.facts, execution.task, leaf)
        self.results: list[list[int]] = []
        self._tokens = [*execution.prompt, *execution.output]
        self._flat: dict[str, list[int] | np.ndarray] = {}

    def run(self) -> list[bytes]:
        """The elements of every op but the last, little-endian."""
        vectors = []
        for number, op in enumerate(self.ops[:-1]):
            self.results.append(self.result(number, op))
            vectors.append(np.array(self.results[-1], f"<i{op.width}").tobytes())
        return vectors

    def result(self, number: int, op: Op) -> list[int]:
        """The elements of one op."""
        del number
        together = _TOGETHER.get(op.rule)
        return together(self, op) if together else [self.element(op, e) for e in range(op.length)]

    def element(self, op: Op, element: int) -> int:
        """One element, as the referee computes it."""
        values = [self.read(part) for part in op.reads(element)]
        if op.look is not None:
            values += [self.read(part) for part in op.look(element, values)]
        return int.from_bytes(recompute(op, element, values), "little", signed=True)

    def read(self, part: Slice) -> Sequence[int]:
        """The values of a slice."""
        source, begin, count = part
        if count == 0:
            return []
        if isinstance(source, int):
            return self.results[source][begin : begin + count]
        if isinstance(source, str):
            return [int(value) for value in self._tensor(source)[begin : begin + count]]
        if isinstance(source, Tokens):
            return [self._tokens[begin]]
        return self._row(source, begin, count).tolist()

    def _tensor(self, name: str) -> np.ndarray:
        return self._model.tensors[name].reshape(-1)

    def _row(self, source: Payload, begin: int, count: int) -> np.ndarray:
        return np.frombuffer(self._execution.payload(source.leaf), f"<i{source.width}", count, begin)

    def _array(self, number: int) -> np.ndarray:
        return np.array(self.results[number], np.int64)

    # Rules that most elements follow

    def _copies(self, op: Op) -> list[int]:
        rows, extent, column_first = op.constants
        found = np.empty((rows, extent), np.int64)
        for i in range(rows):
            (source, begin, _), = op.reads(i if column_first else i * extent)
            if isinstance(source, int):
                found[i] = self.results[source][begin : begin + extent]
            else:
                assert isinstance(source, Payload)
                found[i] = self._row(source, begin, extent)
        return (found.T if column_first else found).reshape(-1).tolist()

    def _dots(self, op: Op) -> list[int]:
        first = op.reads(0)
        if isinstance(first[1].source, int):
            left, right = (self._array(part.source) for part in first if isinstance(part.source, int))
            return [
                int(left[a.begin : a.begin + a.count] @ right[b.begin : b.begin + b.count])
                for a, b in map(op.reads, range(op.length))
            ]
        assert isinstance(first[0].source, int) and isinstance(first[1].source, str)
        weight, q = self._model.tensors[first[1].source], self._array(first[0].source)
        parts = [
            weight[:, i : i + TILE].astype(np.float32) @ q[i : i + TILE].astype(np.float32)
            for i in range(0, len(q), TILE)
        ]  # 256 * 127 * 127 < 2^24
        return np.stack(parts, axis=1).reshape(-1).astype(np.int64).tolist()

    def _zeros(self, op: Op) -> list[int]:
        return [0] * op.length

    def _digits(self, op: Op) -> list[int]:
        digit, count = op.constants
        source = op.reads(0)[0].source
        assert isinstance(source, int)
        prefixes = (self._array(source) + cip.RESIDUAL_MAX) >> (DIGIT_BITS * (DIGITS - 1 - digit))
        if digit:
            before = op.reads(0)[1].source
            assert isinstance(before, int)
            prefixes = prefixes - (self.results[before][0] << DIGIT_BITS)
        bins = 1 << DIGIT_BITS
        inside = np.nonzero((prefixes >= 0) & (prefixes < bins))[0]
        found = np.zeros((bins, count), np.int64)
        np.add.at(found, (prefixes[inside], inside // TILE), 1)
        return found.reshape(-1).tolist()


_TOGETHER: dict[str, Callable[[Worker, Op], list[int]]] = {
    "copy": Worker._copies, "dot": Worker._dots, "digit": Worker._digits, "nothing": Worker._zeros,
}  # fmt: skip
