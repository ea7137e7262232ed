"""The inference service: sees in the state what this validator owes, has child processes run models, sends results.

Everything is derived from the committed state; a restart loses nothing that cannot be computed again with the same
bits. Nothing that is ready waits for what was sent before it. A validator without a model's files
still validates every block and says what it cannot serve. Replaying or syncing blocks never runs a model.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import structlog
import trio

from chain.ledger import Committed, Ledger
from inference.chunks import read_manifest
from inference.opening import claims_of
from inference.program import decode_manifest
from node.answers import SoftAnswers
from node.config import NodeConfig
from node.consensus import Consensus
from node.duties import Result, ResultKey, items_to_send, job_key, jobs, work_message
from node.journal import Journal
from node.outbox import Message, Outbox
from node.store import ModelStore
from node.traps import Traps, allowed
from node.worker import TooLate, Worker, WorkerFailed, WorkerUnfit, worker_config
from primitives.keys import address_of
from primitives.merkle import tokens_root, unpack_tokens
from primitives.reasons import Reason, reason_of
from primitives.receipt import Log
from primitives.task import Kind, Status, WorkItem, trap_root, vector_of, words_of
from rpc.task_story import STATUS_OF
from vm.system import abi, views
from vm.system.market_trap import TRAP_EVERY
from vm.system.market_views import Duty, task_view, trap_answers

PRUNE_BLOCKS = 16
"""How often results of finished tasks are looked for."""
JOBS_MAX = 64
"""Tasks that one model's process is asked about at once; the rest waits here."""
LATE_BLOCKS = 2
"""Blocks may come so much later than their interval says before a task in work is given up by the clock."""

log = structlog.get_logger("inference")


class NotServed(Exception):
    """No process of this node runs that model; the text says why."""


@dataclass
class Figures:
    """Counters since the start of the process."""

    done: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_token_ms: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    """Of the latest answers, from the task's place in a batch on."""

    missed: Counter[str] = field(default_factory=Counter)
    """Duties of this operator, by reason; so are the refused messages."""
    refused: Counter[str] = field(default_factory=Counter)
    slashed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Job:
    """A duty that a model's process has been asked about."""

    model: bytes
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class InferenceService:
    """The service; `run` until cancelled."""

    def __init__(
        self,
        ledger: Ledger,
        consensus: Consensus,
        outbox: Outbox,
        hot_key: bytes | None,
        config: NodeConfig,
        journal_folder: Path,
        models: ModelStore,
        answers: SoftAnswers,
    ) -> None:
        self._ledger = ledger
        self._consensus = consensus
        self._outbox = outbox
        outbox.sources.append(self._next_message)
        self._hot_key = hot_key
        self._config = config
        self._journal = Journal(journal_folder)
        self._models = models
        self._answers = answers
        self.on_answer: list[Callable[[int, int, int], None]] = []
        """Called with tokens, ms to the first of them, and ms of each answer that was made here."""
        self._operator: bytes | None = None
        self._duties: list[Duty] = []
        self._duties_head = -1
        """The head at which they were read; those of an older head must not be acted upon."""
        self._results: dict[ResultKey, Result] = {}
        self._refused: set[tuple[bytes, int]] = set()
        self._traps = None if hot_key is None else Traps.of(hot_key)
        self._trap_answers: tuple[int, list[tuple[bytes, bytes]]] = (0, [])
        """What traps may be set against at the head (market_views.trap_answers)."""
        self._setting: set[ResultKey] = set()
        """Traps on their way to the journal."""
        self._jobs: dict[ResultKey, _Job] = {}
        self._impossible: set[tuple[bytes, bytes]] = set()
        """(task, trace key) that a model's process refused or did not survive."""
        self._seen_at: dict[tuple[bytes, int], float] = {}
        self._workers: dict[bytes, Worker] = {}
        self._not_served: dict[bytes, str] = {}
        self._wanted: set[bytes] = set()
        """Models that were asked for without a duty."""
        self._planned = trio.Event()
        """The next planning is done."""
        self._missing: set[bytes] = set()
        """Models of these that are not here; looked for after every commit."""
        self._open_tasks: dict[bytes, Status] = {}
        self._settled_tasks = 0
        self._figures = Figures()
        self._wake_planner = trio.Event()
        consensus.on_commit.append(self._on_commit)

    def status(self) -> dict[str, Any]:
        """What labora_health shows."""
        figures, workers = self._figures, self._workers.values()
        running = sum(worker.load.running for worker in workers)
        return {
            "engines": {model.hex()[:16]: worker.label or "starting" for model, worker in self._workers.items()},
            "notServed": {model.hex()[:16]: reason for model, reason in self._not_served.items()},
            "duties": len(self._duties),
            "tasksOpen": len(self._open_tasks),
            "tasksSettled": self._settled_tasks,
            "tasksRun": figures.done,
            "running": running,
            "waiting": max(0, len(self._jobs) - running),
            "promptTokens": figures.prompt_tokens,
            "generatedTokens": figures.generated_tokens,
            "firstTokenMs": round(fmean(figures.first_token_ms)) if figures.first_token_ms else None,
            "workers": sum(worker.load.workers for worker in workers if worker.engine),
            "workerRestarts": sum(worker.restarts for worker in workers),
            "missed": dict(figures.missed),
            "refused": dict(figures.refused),
            "slashed": dict(figures.slashed),
        }

    def why_not(self, model: bytes) -> str:
        """What is wrong with a model that is here: it was to be run and could not. Empty when nothing is."""
        if self._config.engine == "none" or model in self._missing:
            return ""
        return self._not_served.get(model, "")

    @property
    def operator(self) -> bytes | None:
        """Whose messages this node sends; None before the first look at the state, and of a node that only follows."""
        return self._operator

    @property
    def hot(self) -> bytes | None:
        """The account that sends them; None of a node that only follows."""
        return None if self._hot_key is None else address_of(self._hot_key)

    def open_tasks(self) -> Counter[Status]:
        """Open tasks of the chain, by status, of which there was an event since the start of the process."""
        return Counter(self._open_tasks.values())

    def result(self, task: bytes, trace: bytes) -> Result | None:
        """What this node's work on a task gave, as executor or as verifier. trace: its key."""
        return self._results.get((task, trace, False)) or self._results.get((task, trace, True))

    async def ask(self, model: bytes, request: dict[str, Any]) -> dict[str, Any]:
        """An answer of a model's process to a request that is no duty's, as inference.worker has them. Raises
        NotServed, WorkerFailed, WorkerUnfit."""
        if model not in self._workers and model not in self._not_served:
            self._wanted.add(model)
            self.wake()
            await self._planned.wait()
        if model not in self._workers:
            raise NotServed(self._not_served.get(model, "its process ended"))
        return await self._workers[model].ask(request)

    async def run(self) -> None:
        """Plan after every commit, from the first StartHeight on."""
        await self._consensus.started.wait()
        if self._hot_key is None:
            return
        for result in self._journal.load():
            self._results[result.key] = result
        async with trio.open_nursery() as nursery:
            while True:
                self._wake_planner = trio.Event()
                await self._plan(nursery)
                await self._wake_planner.wait()

    def wake(self) -> None:
        """Plan again: something is different that no block says."""
        self._wake_planner.set()

    # ------------------------------------------------------------------ planning

    async def _plan(self, nursery: trio.Nursery) -> None:
        """Read what is owed at the head, have it run, send what is ready."""
        head = self._ledger.head.number
        if self._consensus.next_unknown_height > head + 1:
            return  # decided blocks wait to be committed: what the state says is owed is not owed any more
        self._duties, served, self._trap_answers = await trio.to_thread.run_sync(self._read_duties)
        self._duties_head = head
        now = trio.current_time()
        keys = {(duty.task, duty.role) for duty in self._duties}
        self._seen_at = {key: self._seen_at.get(key, now) for key in keys}
        tasks = {duty.task for duty in self._duties}
        self._refused = {key for key in self._refused if key[0] in tasks}
        self._impossible = {key for key in self._impossible if key[0] in tasks}
        for model in [model for model in self._missing if self._models.folder_of(model) is not None]:
            self._missing.discard(model)
            self._not_served.pop(model, None)
        for model in (served | self._wanted) - self._workers.keys() - self._not_served.keys():
            self._start_worker(model, nursery)
        self._planned.set()
        self._planned = trio.Event()
        self._run_jobs(nursery)
        self._outbox.flush()
        if head % PRUNE_BLOCKS == 0 and self._results:
            for result in await trio.to_thread.run_sync(self._prune, list(self._results.values())):
                del self._results[result.key]

    def _read_duties(self) -> tuple[list[Duty], set[bytes], tuple[int, list[tuple[bytes, bytes]]]]:
        """What is owed, the models that this operator declared to serve, and what traps may be set against."""
        reader, params, height = self._ledger.reader(), self._ledger.params, self._ledger.head.number + 1
        if self._operator is None:
            assert self._hot_key is not None
            self._operator = views.operator_by_hot(reader, address_of(self._hot_key))
            if self._operator is None:
                return [], set(), (0, [])
        operator = views.operator(reader, self._operator, params, height)
        duties = views.open_tasks(reader, self._operator, params, height)
        ctx = views.ViewContext(reader, params, height)
        traps = trap_answers(ctx, self._operator) if self._config.traps else (0, [])
        declared = set() if operator is None else {model for model, _, _ in operator.serves}
        return duties, declared | {duty.model for duty in duties}, traps

    def _prune(self, results: list[Result]) -> list[Result]:
        """Those of finished tasks, gone from the disk. In a thread: what the event loop reads it must not change."""
        ctx = views.ViewContext(self._ledger.reader(), self._ledger.params, self._ledger.head.number + 1)
        finished = []
        for result in results:
            view = task_view(ctx, result.task)
            if view is None or view.done_block:
                self._journal.remove(result)
                finished.append(result)
        return finished

    def _on_commit(self, committed: Committed) -> None:
        for receipt in committed.receipts:
            for entry in receipt.logs:
                self._follow(entry)
        self._wake_planner.set()

    def _follow(self, entry: Log) -> None:
        """Count tasks for the status line, and note what was refused."""
        event = abi.event_of(entry)
        if event is abi.TASK_SETTLED or event is abi.TASK_REFUNDED:
            self._open_tasks.pop(entry.topics[1], None)
            self._settled_tasks += event is abi.TASK_SETTLED
        elif event is not None and event.name in STATUS_OF:
            self._open_tasks[entry.topics[1]] = STATUS_OF[event.name]
        elif event is abi.WORK_REFUSED and self._is_mine(entry):
            values = event.decode(entry.topics, entry.data)
            self._refused.add((entry.topics[1], values["kind"]))
            code = values["code"]
            self._figures.refused[code] += 1
            # Others are often faster, for example when a reveal of theirs opened this node's commitment too.
            tell = log.info if reason_of(code).harmless else log.warning
            advice = reason_of(code).advice
            tell("work refused", task=entry.topics[1], code=code, reason=values["text"], advice=advice)
        elif event is abi.TASK_MISSED and self._is_mine(entry):
            values = event.decode(entry.topics, entry.data)
            code = values["code"]
            self._figures.missed[code] += 1
            advice = reason_of(code).advice
            log.warning("duty missed", task=entry.topics[1], code=code, reason=values["text"], advice=advice)
        elif event is abi.SLASHED and self._operator is not None and entry.topics[1][12:] == self._operator:
            values = event.decode(entry.topics, entry.data)
            reason = Reason(values["reason"])
            self._figures.slashed[reason.code] += 1
            told = {"code": reason.code, "reason": reason.text, "advice": reason.advice}
            log.error("slashed", task=entry.topics[2], wei=values["amount"], **told)

    def _is_mine(self, entry: Log) -> bool:
        """Whether the event's second indexed value is this operator."""
        return self._operator is not None and entry.topics[2][12:] == self._operator

    # ------------------------------------------------------------------ running models

    def _start_worker(self, model: bytes, nursery: trio.Nursery) -> None:
        config = self._config
        if config.engine == "none":
            self._not_serving(model, "this node runs no models (engine = none)")
            return
        folder = self._models.folder_of(model)
        if folder is None:
            self._missing.add(model)
            self._not_serving(model, "it is not here, whole and checked: `labora model fetch` brings it")
            return
        if claims_of(decode_manifest(read_manifest(folder))) != views.model_claims(self._ledger.reader(), model):
            self._not_serving(model, "its record, program root or stop ids on the chain are not those of its manifest")
            return
        worker = Worker(worker_config(folder, config))
        self._workers[model] = worker
        nursery.start_soon(self._keep, model, worker)

    def _not_serving(self, model: bytes, reason: str) -> None:
        self._not_served[model] = reason
        log.error("cannot serve a model; every block is still validated", model=model, reason=reason)

    async def _keep(self, model: bytes, worker: Worker) -> None:
        """One model's process, for as long as it can do exact work."""
        await worker.run()
        del self._workers[model]
        self._not_serving(model, worker.unfit)

    def _run_jobs(self, nursery: trio.Nursery) -> None:
        """Withdraw what is owed no more, and ask for what is, the first to close first."""
        owed = {job_key(duty) for duty in self._duties}
        for key, job in self._jobs.items():
            if key not in owed:
                job.scope.cancel()
        able = [duty for duty in self._duties if (duty.task, duty.trace_key) not in self._impossible]
        for model, worker in self._workers.items():
            room = JOBS_MAX - sum(job.model == model for job in self._jobs.values())
            wanted = jobs(able, self._results, self._ledger.head.number + 1, model)
            for duty in [duty for duty in wanted if job_key(duty) not in self._jobs][:room]:
                self._jobs[job_key(duty)] = _Job(model)
                nursery.start_soon(self._run_job, duty, worker, nursery)

    async def _run_job(self, duty: Duty, worker: Worker, nursery: trio.Nursery) -> None:
        """One duty from its texts to its result in the journal, unless it is withdrawn or dropped on the way."""
        key = job_key(duty)
        try:
            with self._jobs[key].scope:
                result = self._as_committed(duty, await self._ask(duty, worker))
                await trio.to_thread.run_sync(self._journal.add, result)
                self._results[result.key] = result
                self._figures.done += 1
                self._outbox.flush()
        except WorkerUnfit:
            pass  # _keep says so
        except TooLate as error:
            log.warning("a task was dropped", task=duty.task, reason=str(error))
        except WorkerFailed as error:
            self._impossible.add((duty.task, duty.trace_key))
            log.warning("a task could not be run", task=duty.task, reason=str(error))
        self._setting.discard(key)
        del self._jobs[key]
        self._run_jobs(nursery)

    def _as_committed(self, duty: Duty, made: Result) -> Result:
        """An answer, as a trap if it is to be one; a root that was lost and is to be revealed, as it was hidden."""
        assert self._operator is not None and self._traps is not None
        if duty.role in (abi.ROLE_REVEAL, abi.ROLE_TRAP):
            return self._traps.recognised(made, self._operator, duty.commitment)
        if duty.role != abi.ROLE_EXECUTE or not self._traps.chooses(duty.task, duty.trace_key):
            return made
        answers, unopened = self._trap_answers
        if allowed(answers - TRAP_EVERY * len(self._setting), unopened, self._results) <= 0:
            return made
        trap = self._traps.hidden(made)
        self._setting.add(made.key)
        log.info("this answer is a trap: the root may be let out", task=duty.task, root=trap_root(trap.salt, trap.root))
        return trap

    async def _ask(self, duty: Duty, worker: Worker) -> Result:
        prompt, output = await trio.to_thread.run_sync(self.texts, duty.task)
        assert tokens_root(prompt) == duty.prompt_hash, duty.task
        if duty.role != abi.ROLE_EXECUTE and tokens_root(output) != duty.output_hash:
            # The logs are those of the head, the duty may be of a block before it.
            raise TooLate("the answer to check was refuted, and another is there")
        now = trio.current_time()
        queued_ms = int((now - self._seen_at.get((duty.task, duty.role), now)) * 1000)
        blocks = duty.last_block - self._ledger.head.number + LATE_BLOCKS
        deadline = now + blocks * self._ledger.params.block_interval_ms / 1000
        request = self._request(duty, prompt)
        self._figures.prompt_tokens += len(prompt)
        is_vector = Kind(duty.kind).is_vector
        if duty.role != abi.ROLE_EXECUTE:
            claimed = list(vector_of(output) if is_vector else output)
            verdict = await worker.ask({**request, "op": "check", "output": claimed}, deadline)
            queue_ms = queued_ms + verdict["queue_ms"]
            return Result(duty.task, duty.trace_key, verdict["root"], bad=verdict["bad"], queue_ms=queue_ms)
        request |= {"op": "make", "max_tokens": duty.max_tokens}
        if is_vector:
            answer = await worker.ask(request, deadline)
        else:
            answer = await self._generate(duty, worker, request, deadline)
            self._answered(len(answer["tokens"]), answer["first_token_ms"], answer["total_ms"])
        return Result(
            duty.task, duty.trace_key, answer["root"],
            tokens=words_of(answer["vector"]) if is_vector else tuple(answer["tokens"]),
            queue_ms=queued_ms + answer["queue_ms"], first_token_ms=answer["first_token_ms"],
            total_ms=answer["total_ms"], device=worker.label,
        )  # fmt: skip

    def _request(self, duty: Duty, prompt: tuple[int, ...]) -> dict[str, Any]:
        """What is asked of the model in either role."""
        return {
            "kind": Kind(duty.kind).name.lower(), "prompt": list(prompt), "temperature_q16": duty.temperature_q16,
            "top_k": duty.top_k, "seed": duty.seed, "trace_key": duty.trace_key,
        }  # fmt: skip

    def _answered(self, tokens: int, first_token_ms: int, total_ms: int) -> None:
        """An answer was made."""
        self._figures.generated_tokens += tokens
        self._figures.first_token_ms.append(first_token_ms)
        for told in self.on_answer:
            told(tokens, first_token_ms, total_ms)

    async def _generate(self, duty: Duty, worker: Worker, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        """As `ask`, each token being shown to whoever watches the task."""
        assert self._operator is not None
        maker, answers = (duty.task, duty.trace_key, self._operator, duty.slot), self._answers
        try:
            return await worker.ask(request, deadline, lambda index, token: answers.produced(*maker, index, token))
        finally:
            answers.finished(duty.task, duty.trace_key)

    def texts(self, task: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt and, of an answered task, the words of the answer to its latest attempt, as the chain's logs have
        them."""
        prompt: tuple[int, ...] = ()
        output: tuple[int, ...] = ()
        for found in self._ledger.task_logs(task):
            event = abi.EVENTS.get(found.log.topics[0])
            if event is abi.TASK_POSTED:
                prompt = unpack_tokens(event.decode(found.log.topics, found.log.data)["tokens"])
            elif event is abi.TASK_ANSWERED:
                output = unpack_tokens(event.decode(found.log.topics, found.log.data)["tokens"])
        return prompt, output

    def _next_message(self, underway: Set[Hashable]) -> Message | None:
        """The batch of what is ready, for the outbox."""
        if self._operator is None or self._duties_head != self._ledger.head.number:
            return None
        items = self._items(self._operator, {*self._refused, *underway}, self._ledger.head.number + 1)
        return work_message(items) if items else None

    def _items(self, operator: bytes, known: Set[Hashable], height: int) -> list[WorkItem]:
        """What is ready, within one batch."""
        return items_to_send(operator, self._duties, self._results, known, height)
