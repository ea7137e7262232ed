"""Continuous batching: many tasks of one model, a few rows of each in every pass of its executor.

    batch = Batch(executor, Limits())
    batch.add(7, Request("generate", prompt, ...), deadline)
    while not batch.idle:
        for event in batch.step(now): ...

Owns which task runs, what each pass feeds, the page budget, shared prefixes, deadlines and order. What a task gives
(tokens, T) depends on its request alone: the executor promises that no row sees another sequence. Is told the time;
knows no process, no chain and no text.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

import numpy as np

from inference import vectors
from inference.kv import PAGE, Fed, Pool, Segment, page_bytes, pages_of
from inference.kv import Sequence as Handle
from inference.model import Model
from inference.philox import SEED_BYTES
from inference.program import EMBED, GENERATE, NO_BAD_POSITION, SCORE, Shape
from inference.sampling import sample
from inference.trace import KEY_BYTES, Record, Trace

LOGITS_BYTES_MAX = 32 << 20
"""Of one pass, unless a single row per generating task needs more."""
NEVER = float("inf")
"""The deadline of a task that has none."""


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


class RequestError(ValueError):
    """A request that this model cannot serve: the caller's fault, with the offending value."""


class Full(Exception):
    """No room in the queue now; the same request may be taken later. The text says what is full."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one batch. waiting_max: tasks that wait for a place. prefix_bytes_max: trace payloads kept of shared
    prefixes (0: nothing is kept); their pages are at most half of the pool's."""

    running_max: int = 16
    waiting_max: int = 64
    prefill_rows_max: int = 2 * PAGE
    prefix_bytes_max: int = 32 << 20

    def pages(self, shape: Shape, bytes_max: int) -> int:
        """Pages of keys and values in so many bytes, at least one and no more than this batch can use."""
        return max(1, min(self.running_max * pages_of(shape.context), bytes_max // page_bytes(shape)))


ALONE = Limits(running_max=1, waiting_max=1, prefill_rows_max=4 * PAGE, prefix_bytes_max=0)
"""For one task at a time, computed from its first position on."""
DEVICE = Limits(running_max=64, prefill_rows_max=8 * PAGE)
"""For a device that does more at once in the same time."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a model. kind: generate, embed or score. output None: make an answer (of kind generate: at most
    max_tokens), else check this one, tokens or a vector. seed and trace_key: 32 bytes. keeps: the verdict brings all
    that the trace hashes."""

    kind: str
    prompt: Sequence[int]
    seed: bytes
    trace_key: bytes
    max_tokens: int = 0
    output: Sequence[int] | None = None
    temperature_q16: int = 0
    top_k: int = 0
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens (the last is a stop id, or there are max_tokens of them) and T."""

    tokens: list[int]
    root: bytes


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding of unit length (Q15, as many elements as the model is wide), or scores: log2 of the likelihood of
    each token of the prompt but the first (Q16, at most 0); and T."""

    vector: list[int]
    root: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """T of prompt + output, and the absolute position (in prompt + output) of the first output token that differs
    from Sample, or of a vector the first index that differs; 2^32 - 1 for none."""

    root: bytes
    bad: int
    record: Record | None = field(default=None, compare=False)


Result = Generated | Vector | Verdict


@dataclass(frozen=True, slots=True)
class Started:
    """A task has got its place; it is fed from this step on."""

    key: Hashable


@dataclass(frozen=True, slots=True)
class Token:
    """A task's next token; index counts from 0."""

    key: Hashable
    index: int
    token: int


@dataclass(frozen=True, slots=True)
class Done:
    """A task's result. It has left the batch."""

    key: Hashable
    result: Result


@dataclass(frozen=True, slots=True)
class Dropped:
    """A task was given up; the text says why. It has left the batch."""

    key: Hashable
    reason: str


Event = Started | Token | Done | Dropped


class Batch:
    """The tasks of one executor. Nobody else may use the executor's pages while a task is in it."""

    def __init__(self, executor: Executor, limits: Limits) -> None:
        self._executor, self._limits = executor, limits
        self.model: Model = executor.model
        self._waiting: dict[Hashable, _Job] = {}
        self._running: dict[Hashable, _Job] = {}
        self.pages = executor.pool.pages
        """Of keys and values, PAGE positions each."""
        self._prefixes = _Prefixes(limits.prefix_bytes_max, self.pages // 2)
        self._arrivals = 0
        self._turn = False
        """Whether the last chunk was one of a checking task."""
        self.prompt_tokens = 0
        """Positions of prompts and of checked outputs that were fed, since the beginning."""
        self.reused_tokens = 0
        """Positions that were taken from a shared prefix instead."""

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def pages_free(self) -> int:
        """Pages that no task and no kept prefix holds now; a part of them may be promised to running tasks."""
        return self._executor.pool.pages_free

    @property
    def running(self) -> int:
        """Tasks that hold pages."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Tasks that wait for a place or for pages."""
        return len(self._waiting)

    def add(self, key: Hashable, request: Request, deadline: float = NEVER) -> None:
        """Take a task. deadline: a time of the caller's clock, after which the result is of no use. Raises
        RequestError, or Full; then nothing has changed."""
        assert key not in self._waiting and key not in self._running, key
        check(request, self.model, self.pages)
        kind = _TextJob if request.kind == GENERATE else _VectorJob
        job = kind(key, request, self.model, deadline, self._arrivals)
        if len(self._waiting) >= self._limits.waiting_max:
            raise Full(f"{len(self._running)} tasks run and {len(self._waiting)} wait, no more than that")
        self._arrivals += 1
        self._waiting[key] = job

    def cancel(self, key: Hashable) -> bool:
        """Forget a task at whatever step it is; False when there is none."""
        if self._waiting.pop(key, None) is not None:
            return True
        job = self._running.pop(key, None)
        if job is not None:
            self._release(job)
        return job is not None

    def step(self, now: float) -> list[Event]:
        """Drop what is late, let in what fits, and feed the executor once."""
        events: list[Event] = [*self._drop_late(now), *self._admit()]
        chosen = self._choose()
        if not chosen:
            assert self.idle, "a task that fits the pool waits although nothing runs"
            return events
        segments = [job.segment(rows) for job, rows in chosen]
        for (job, rows), fed in zip(chosen, self._executor.feed(segments), strict=True):
            events += self._take(job, rows, fed)
        return events

    # ------------------------------------------------------------------ who runs

    def _drop_late(self, now: float) -> Iterator[Dropped]:
        for job in [*self._waiting.values(), *self._running.values()]:
            if job.deadline <= now:
                self.cancel(job.key)
                yield Dropped(job.key, f"its deadline passed {now - job.deadline:.1f} s ago, {job.progress}")

    def _admit(self) -> Iterator[Started]:
        """Those whose deadline comes first. One that lacks pages is overtaken by nobody, or it might wait for ever; one
        whose kind has its share already, by the other kind alone."""
        blocked: set[bool] = set()
        for job in sorted(self._waiting.values(), key=_urgency):
            if len(self._running) >= self._limits.running_max:
                return
            if job.checks in blocked or self._has_its_share(job):
                blocked.add(job.checks)
                continue
            if not self._reserve(job):
                return
            del self._waiting[job.key]
            self._running[job.key] = job
            yield Started(job.key)

    def _has_its_share(self, job: "_Job") -> bool:
        """Generating and checking leave a quarter of places and pages to each other."""
        same = [other for other in self._running.values() if other.checks == job.checks]
        pages = sum(other.pages for other in same) + job.pages
        return bool(same) and (4 * (len(same) + 1) > 3 * self._limits.running_max or 4 * pages > 3 * self.pages)

    def _reserve(self, job: "_Job") -> bool:
        """Give a task the pages of its longest run, so that whatever runs can finish. False: they are not there."""
        shared = self._prefixes.find(job)
        needed = job.pages - len(shared)
        in_use = sum(other.own_pages for other in self._running.values())
        for entry in shared:
            entry.users += 1
        if not self._prefixes.shrink(self.pages - in_use - needed):
            for entry in shared:
                entry.users -= 1
            return False
        job.begin(self._executor, shared)
        self.reused_tokens += job.fed
        return True

    def _release(self, job: "_Job") -> None:
        job.sequence.free()
        for entry in job.shared:
            entry.users -= 1

    # ------------------------------------------------------------------ what a pass feeds

    def _choose(self) -> list[tuple["_Job", int]]:
        """(task, rows): the next token of all that generate, and chunks of those that have more to feed: of generating
        and checking tasks in turn, in each the first to close first."""
        chosen = [(job, 1) for job in self._running.values() if job.decodes]
        logits_room = max(1, LOGITS_BYTES_MAX // (8 * self.model.manifest.shape.vocabulary) - len(chosen))
        room = self._limits.prefill_rows_max
        queues: dict[bool, list[_Job]] = {True: [], False: []}
        for job in sorted(self._running.values(), key=_urgency):
            if not job.decodes:
                queues[job.checks].append(job)
        while room > 0 and any(queues.values()):
            self._turn = not self._turn if queues[not self._turn] else self._turn
            job = queues[self._turn].pop(0)
            others = sum(map(len, queues.values()))
            rows, logits = job.chunk(min(room, max(PAGE, room // (1 + others))), logits_room)
            if rows:
                chosen.append((job, rows))
                room, logits_room = room - rows, logits_room - logits
        return chosen

    def _take(self, job: "_Job", rows: int, fed: Fed) -> Iterator[Event]:
        """What a pass gave one task."""
        first_new, begin = len(job.tokens), job.fed
        if not job.decodes:
            self.prompt_tokens += rows
        job.take(rows, fed)
        self._prefixes.keep(job, begin, fed.payloads)
        for index in range(first_new, len(job.tokens)):
            yield Token(job.key, index, job.tokens[index])
        if job.finished:
            del self._running[job.key]
            self._release(job)
            yield Done(job.key, job.result())


def check(request: Request, model: Model, pages: int) -> None:
    """Whether a model can serve a request on a pool of so many pages. Raises RequestError."""
    shape = model.manifest.shape
    if request.kind not in shape.tasks():
        raise RequestError(f"a model of kind {shape.kind} can {', '.join(shape.tasks())}, not {request.kind!r}")
    prompt, new = len(request.prompt), 0
    if request.kind == GENERATE:
        new = request.max_tokens if request.output is None else len(request.output)
        if request.output is not None and not new:
            raise RequestError("output of 0 tokens, must have at least 1")
        if not prompt or new < 1 or prompt + new > shape.context:
            raise RequestError(f"{prompt} prompt tokens and {new} to generate; at least 1 of each, "
                               f"at most {shape.context} together")  # fmt: skip
        if not 0 <= request.temperature_q16 < 2**32 or not 0 <= request.top_k < 2**32:
            raise RequestError(f"temperature_q16 {request.temperature_q16} and top_k {request.top_k} must be u32")
        _check_ids("output", request.output or (), shape)
    elif not (2 if request.kind == SCORE else 1) <= prompt <= shape.context:
        raise RequestError(f"{prompt} tokens to {request.kind}, must be {2 if request.kind == SCORE else 1} to "
                           f"{shape.context}")  # fmt: skip
    if pages_of(positions_of(request)) > pages:
        raise RequestError(f"{prompt} prompt tokens and {new} to generate do not fit the pool of "
                           f"{pages} pages of {PAGE} positions")  # fmt: skip
    if len(request.seed) != SEED_BYTES or len(request.trace_key) != KEY_BYTES:
        raise RequestError(f"seed of {len(request.seed)} and trace key of {len(request.trace_key)} bytes, "
                           "must be 32 each")  # fmt: skip
    _check_ids("prompt", request.prompt, shape)


def positions_of(request: Request) -> int:
    """The most positions that a request feeds."""
    if request.kind != GENERATE:
        return len(request.prompt)
    return len(request.prompt) + (request.max_tokens if request.output is None else len(request.output)) - 1


def _check_ids(where: str, ids: Sequence[int], shape: Shape) -> None:
    for position, token in enumerate(ids):
        if not 0 <= token < shape.vocabulary:
            raise RequestError(f"{where}[{position}] is {token}, the vocabulary has {shape.vocabulary}")


def _urgency(job: "_Job") -> tuple[float, int]:
    return job.deadline, job.arrival


class _Job(ABC):
    """One task: what it has fed and what came of it."""

    def __init__(self, key: Hashable, request: Request, model: Model, deadline: float, arrival: int) -> None:
        shape = model.manifest.shape
        self.key, self.deadline, self.arrival = key, deadline, arrival
        self.checks = request.output is not None
        self.ids = list(request.prompt)
        """What is to be fed, as far as it is known."""
        self.fed = 0
        self.positions = positions_of(request)
        self.pages = self.own_pages = pages_of(self.positions)
        """Of its longest run; those of them that no other task shares."""
        self.tokens: list[int] = []
        """Generated so far."""
        self.shared: list[_Prefix] = []
        """The pages of its prompt that others may use too, from the first on without a gap."""
        self.part: list[Sequence[np.ndarray]] = []
        """Payloads of the page of its prompt that is being fed."""
        self.sequence: Handle
        self.logits_begin = 0
        """The first position whose logits are needed."""
        self._request, self._model, self._causal = request, model, shape.causal
        self._trace = (Record if request.keeps else Trace)(request.trace_key, shape.groups, shape.causal)

    @property
    def decodes(self) -> bool:
        """Whether it feeds its own last token next."""
        return bool(self.tokens)

    @property
    def prompt_pages(self) -> int:
        """Full pages of the prompt that may be taken from others: before its last position, which must be fed, and
        before the first whose logits are needed."""
        return min(self.logits_begin, len(self._request.prompt) - 1) // PAGE if self._causal else 0

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        return f"{self.fed} of at most {self.positions} positions done"

    def begin(self, executor: Executor, shared: "list[_Prefix]") -> None:
        """Take pages; what is shared counts as fed."""
        if not shared:
            self.sequence = executor.new_sequence(self.positions)
            return
        self.fed = len(shared) * PAGE
        self.sequence = shared[-1].sequence.fork(self.fed)
        self.shared = list(shared)
        self.own_pages -= len(shared)
        for prefix in shared:
            self._see(prefix.payloads)

    def chunk(self, room: int, logits_room: int) -> tuple[int, int]:
        """(rows to feed next, those of them whose logits are needed), within the room, and up to the end of a page if
        that is in it. What is not causal is fed whole."""
        if not self._causal:
            return len(self.ids), 0
        rows = min(len(self.ids) - self.fed, room)
        past_page = (self.fed + rows) % PAGE
        if past_page < rows < len(self.ids) - self.fed:
            rows -= past_page
        logits = max(0, self.fed + rows - max(self.logits_begin, self.fed))
        spare = max(0, logits - logits_room)
        return rows - spare, logits - spare

    def segment(self, rows: int) -> Segment:
        """The next rows."""
        begin = min(max(self.logits_begin - self.fed, 0), rows)
        return Segment(self.sequence, self.ids[self.fed : self.fed + rows], begin)

    def take(self, rows: int, fed: Fed) -> None:
        """What the executor gave for the next rows."""
        self.fed += rows
        self._see(fed.payloads)
        self._judge(fed.logits)

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is a result."""

    @abstractmethod
    def result(self) -> Result:
        """Of a finished task."""

    @abstractmethod
    def _judge(self, logits: np.ndarray) -> None:
        """The logits of the next positions from logits_begin on."""

    @property
    def record(self) -> Record | None:
        """What the trace kept, if it was asked to."""
        return self._trace if isinstance(self._trace, Record) else None

    def _see(self, payloads: Sequence[np.ndarray]) -> None:
        """The payloads of the next positions."""
        for group, payload in enumerate(payloads):
            self._trace.add_states(group, map(memoryview, payload))


class _TextJob(_Job):
    """Generates, or compares each token of an output with what Sample gives."""

    def __init__(self, key: Hashable, request: Request, model: Model, deadline: float, arrival: int) -> None:
        super().__init__(key, request, model, deadline, arrival)
        self._output = request.output or ()
        self.ids += self._output[:-1]
        self.logits_begin = len(request.prompt) - 1
        self._judged = 0
        self._bad = NO_BAD_POSITION

    @property
    def finished(self) -> bool:
        if self.checks:
            return self._judged == len(self._output)
        stop = self._model.manifest.stop
        return bool(self.tokens) and (self.tokens[-1] in stop or len(self.tokens) == self._request.max_tokens)

    def result(self) -> Result:
        root = self._trace.root()
        return Verdict(root, self._bad, self.record) if self.checks else Generated(self.tokens, root)

    def _judge(self, logits: np.ndarray) -> None:
        for row in logits:
            position = len(self._request.prompt) + self._judged
            if self.checks:
                token = self._output[self._judged]
                if self._bad == NO_BAD_POSITION and self._sample(row, position) != token:
                    self._bad = position
            else:
                token = self._sample(row, position)
                self.tokens.append(token)
                self.ids.append(token)
            self._judged += 1
            self._trace.add_output(row.astype("<i8").tobytes(), token)

    def _sample(self, logits: np.ndarray, position: int) -> int:
        how = self._request
        return sample(logits, how.seed, position, how.temperature_q16, how.top_k, self._model.tensors["table.exp2"])


class _VectorJob(_Job):
    """Embeds or scores a prompt, and compares if there is something to compare with."""

    def __init__(self, key: Hashable, request: Request, model: Model, deadline: float, arrival: int) -> None:
        super().__init__(key, request, model, deadline, arrival)
        self._embedding = vectors.Embedding(model) if request.kind == EMBED else None
        self._scores = vectors.Scores(model, request.prompt) if request.kind == SCORE else None
        self.logits_begin = len(self.ids) if request.kind == EMBED else 0

    @property
    def finished(self) -> bool:
        return self.fed == len(self.ids)

    def result(self) -> Result:
        made = self._embedding or self._scores
        assert made is not None
        vector = made.vector()
        for part in [vector] if self._embedding else [[score] for score in vector]:
            self._trace.add_vector(vectors.vector_bytes(part))
        root, claimed = self._trace.root(), self._request.output
        if claimed is None:
            return Vector(vector, root)
        return Verdict(root, vectors.first_difference(vector, claimed), self.record)

    def _see(self, payloads: Sequence[np.ndarray]) -> None:
        super()._see(payloads)
        if self._embedding is not None:
            self._embedding.add(payloads)

    def _judge(self, logits: np.ndarray) -> None:
        if self._scores is not None:
            self._scores.add(logits)


@dataclass(slots=True)
class _Prefix:
    """One page of a prompt, after all pages before it. payloads: what the trace hashes, uint8 [PAGE, bytes] a group."""

    sequence: Handle
    payloads: list[np.ndarray]
    users: int = 0

    @property
    def bytes(self) -> int:
        return sum(payload.nbytes for payload in self.payloads)


class _Prefixes:
    """Pages of prompts by all ids up to their end, the least recently used first. A page is never used less recently
    than one that follows it, so that what is dropped first never leaves a gap; what a task uses is not dropped."""

    def __init__(self, bytes_max: int, pages_max: int) -> None:
        self._bytes_max, self._pages_max = bytes_max, pages_max
        self._entries: OrderedDict[bytes, _Prefix] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, job: _Job) -> list[_Prefix]:
        """The longest run of pages that a task's prompt begins with."""
        keys: list[bytes] = []
        for key in _page_keys(job.ids, job.prompt_pages if self._entries else 0):
            if key not in self._entries:
                break
            keys.append(key)
        self._touch(keys)
        return [self._entries[key] for key in keys]

    def keep(self, job: _Job, begin: int, payloads: Sequence[np.ndarray]) -> None:
        """Remember the pages of a prompt that are complete with the rows from position `begin` on."""
        while begin < job.fed and self._bytes_max:
            end = min(begin - begin % PAGE + PAGE, job.fed)
            self._keep_in_page(job, end, [payload[: end - begin] for payload in payloads])
            payloads, begin = [payload[end - begin :] for payload in payloads], end

    def _keep_in_page(self, job: _Job, end: int, payloads: Sequence[np.ndarray]) -> None:
        page = (end - 1) // PAGE
        if page >= job.prompt_pages or page != len(job.shared):
            return
        job.part.append(payloads)
        if end % PAGE:
            return
        whole = [np.concatenate(parts) for parts in zip(*job.part, strict=True)]
        job.part.clear()
        keys = list(_page_keys(job.ids, page + 1))
        entry = self._entries.get(keys[-1])
        if entry is None:
            entry = _Prefix(job.sequence.fork(end), whole)
            if not self._make_room(entry.bytes):
                entry.sequence.free()
                return
            self._entries[keys[-1]] = entry
            self._bytes += entry.bytes
            job.own_pages -= 1
        entry.users += 1
        job.shared.append(entry)
        self._touch(keys)

    def shrink(self, pages: int) -> bool:
        """Drop until at most so many pages are kept; False, and nothing is dropped, when more are in use."""
        if sum(1 for entry in self._entries.values() if entry.users) > pages:
            return False
        while len(self._entries) > pages:
            self._drop_one()
        return True

    def _make_room(self, size: int) -> bool:
        while len(self._entries) >= self._pages_max or self._bytes + size > self._bytes_max:
            if not self._drop_one():
                return False
        return True

    def _drop_one(self) -> bool:
        key = next((key for key, entry in self._entries.items() if not entry.users), None)
        if key is None:
            return False
        entry = self._entries.pop(key)
        self._bytes -= entry.bytes
        entry.sequence.free()
        return True

    def _touch(self, keys: list[bytes]) -> None:
        for key in reversed(keys):
            self._entries.move_to_end(key)


def _page_keys(ids: Sequence[int], pages: int) -> Iterator[bytes]:
    """A hash of all ids up to the end of each page."""
    hasher = sha256()
    for page in range(pages):
        hasher.update(np.array(ids[page * PAGE : (page + 1) * PAGE], "<u4").tobytes())
        yield hasher.copy().digest()
