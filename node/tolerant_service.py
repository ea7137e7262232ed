"""The tolerant lane of a node: keeps its operator's offer as configured, has an OpenAI-compatible server answer what is
asked of it, and sends the answers behind all exact work.

What is owed follows from the committed state alone; nothing is kept on disk, since a float answer that was not sent may
be made again. The server is a stranger (node.openai has its bounds), prompts are anybody's texts, and both stay in
threads of their own: no block waits for either. Nothing of it is exact work, a vote or a credit (docs/tolerant.md).
"""

import time
from collections import Counter
from collections.abc import Hashable, Set
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from chain.ledger import Committed, Ledger
from inference.tolerant import ServerError
from node.config import NodeConfig
from node.consensus import Consensus
from node.openai import Server, generate
from node.outbox import Message, Outbox
from node.words import printable
from primitives.address import TOLERANT
from primitives.keys import address_of
from primitives.receipt import Log
from primitives.task import TEMPERATURE_ONE_Q16, MalformedTexts, decode_texts, encode_texts
from vm.system import abi, gas, staking, tolerant, views
from vm.system.tolerant_state import OFFERS, Ask, Offer

JOBS_MAX = 8
"""Tasks that the server is asked about at once; the rest waits."""
TRIES_MAX = 3
"""A task whose answer failed so often, or a message that the chain reverted so often, is given up."""
GAS_MARGIN = 2_000
UNDERWAY_MAX = 2
"""Messages of the lane on their way at once: the outbox has four places, and exact work finds some free."""
LANE, OFFER_KEY = "tolerant", "offer"

FIGURES = ("answered", "failed", "accepted", "unopposed", "refused", "unanswered")

log = structlog.get_logger("tolerant")


@dataclass(frozen=True)
class _Asked:
    """What the log says of a task: enough to answer it."""

    prompt: str
    max_tokens: int
    temperature: float
    candidates: int
    seed: bytes


@dataclass(frozen=True)
class _Owed:
    """What this operator has to do in the lane at the head."""

    tasks: dict[bytes, Ask]
    offer: Message | None
    """A message that makes the offer on the chain what the configuration says; None: it is."""
    open: int


class TolerantService:
    """The service; `run` until cancelled. key: sent to the server as a bearer token when there is one."""

    def __init__(
        self, ledger: Ledger, consensus: Consensus, outbox: Outbox, hot_key: bytes | None, config: NodeConfig, key: str
    ) -> None:
        self._ledger, self._consensus, self._outbox, self._config = ledger, consensus, outbox, config
        self._hot = None if hot_key is None else address_of(hot_key)
        self._operator: bytes | None = None
        self._server = Server(config.tolerant_url, config.tolerant_model, key)
        self._owed = _Owed({}, None, 0)
        self._head = -1
        """At which it was read; what an older head owed is not acted upon."""
        self._answers: dict[bytes, Message] = {}
        self._jobs: dict[bytes, trio.CancelScope] = {}
        self._seen_at: dict[bytes, float] = {}
        self._failures: Counter[Hashable] = Counter()
        """Of a task, or of the offer."""
        self._sent: dict[bytes, Hashable] = {}
        """Calldata that was offered to the outbox -> the task, or OFFER_KEY."""
        self._figures: Counter[str] = Counter()
        self._problem = ""
        self._wake = trio.Event()
        outbox.sources.append(self._next_message)  # after exact work and moves in disputes
        consensus.on_commit.append(self._on_commit)

    def status(self) -> dict[str, Any]:
        """What labora_health shows: counters since the start of the process."""
        figures = {name: self._figures[name] for name in FIGURES}
        offered = self._config.tolerant_model if self._config.tolerant_url else None
        return {"offers": offered, "open": self._owed.open, **figures, "problem": self._problem}

    async def run(self) -> None:
        """Plan after every commit, from the first StartHeight on."""
        await self._consensus.started.wait()
        if self._hot is None:
            if self._config.tolerant_url:
                log.warning("only a validator answers in the tolerant lane; this node has no hot account")
            return
        limiter = trio.CapacityLimiter(JOBS_MAX)
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                await self._plan(nursery, limiter)
                await self._wake.wait()

    # ------------------------------------------------------------------ planning

    async def _plan(self, nursery: trio.Nursery, limiter: trio.CapacityLimiter) -> None:
        head = self._ledger.head.number
        if self._consensus.next_unknown_height > head + 1:
            return  # decided blocks wait to be committed: the state has moved on there
        owed = await trio.to_thread.run_sync(self._read)
        self._owed, self._head = owed, head
        now = trio.current_time()
        self._seen_at = {task: self._seen_at.get(task, now) for task in owed.tasks}
        self._answers = {task: made for task, made in self._answers.items() if task in owed.tasks}
        keys = {*owed.tasks, OFFER_KEY}
        self._sent = {data: key for data, key in self._sent.items() if key in keys}
        self._failures = Counter({key: count for key, count in self._failures.items() if key in keys})
        if owed.offer is None:
            del self._failures[OFFER_KEY]
        for task in self._jobs.keys() - owed.tasks.keys():
            self._jobs[task].cancel()
        for task, ask in sorted(owed.tasks.items(), key=lambda item: item[1].last):
            waits = task not in self._answers and task not in self._jobs and self._failures[task] < TRIES_MAX
            if waits and len(self._jobs) < JOBS_MAX and self._config.tolerant_url:
                self._jobs[task] = trio.CancelScope()
                nursery.start_soon(self._work, task, ask, limiter)
        self._outbox.flush()

    def _read(self) -> _Owed:
        ctx = views.ViewContext(self._ledger.reader(), self._ledger.params, self._ledger.head.number + 1)
        assert self._hot is not None
        self._operator = operator = staking.operator_by_hot(ctx, self._hot)
        if operator is None:
            return _Owed({}, None, 0)
        tasks = tolerant.open_tasks(ctx, operator)
        mine = {task: ask for task, ask in tasks if ask.status == abi.STATE_ASKED and ask.last >= ctx.height}
        offer = _offer_message(self._config, OFFERS.get(ctx, operator), bool(staking.active_bond(ctx, operator)))
        return _Owed(mine, offer, len(tasks))

    # ------------------------------------------------------------------ answering

    async def _work(self, task: bytes, ask: Ask, limiter: trio.CapacityLimiter) -> None:
        """One task from its text to a message for the outbox, unless its time ends on the way."""
        scope = self._jobs[task]
        try:
            with scope:
                asked = await trio.to_thread.run_sync(self._asked, task)
                began = trio.current_time()
                queue_ms = int((began - self._seen_at.get(task, began)) * 1000)
                blocks = ask.last - self._ledger.head.number
                until = time.monotonic() + blocks * self._ledger.params.block_interval_ms / 1000
                data = await trio.to_thread.run_sync(
                    self._answer, asked, until, abandon_on_cancel=True, limiter=limiter
                )
                total_ms = int((trio.current_time() - began) * 1000)
                self._answers[task] = _answer_message(task, data, queue_ms, total_ms)
                self._figures["answered"] += 1
        except (ServerError, MalformedTexts) as error:
            self._failures[task] += 1
            self._figures["failed"] += self._failures[task] == TRIES_MAX
            self._problem = printable(str(error))[:500]
            log.warning("no answer from the server", task=task, tries=self._failures[task], reason=self._problem)
        del self._jobs[task]
        self._outbox.flush()

    def _answer(self, asked: _Asked, until: float) -> bytes:
        """The answer's bytes. Raises ServerError, MalformedTexts."""
        server = Server(self._server.url, self._server.model, self._server.key, until=until)
        made = generate(server, asked.prompt, asked.max_tokens, asked.temperature, asked.candidates, asked.seed)
        data = encode_texts(made.tokens)
        decode_texts(data)
        most = self._ledger.params.result_bytes_max
        if len(data) > most:
            raise ServerError(f"an answer of {len(data)} bytes; the chain takes {most}")
        return data

    def _asked(self, task: bytes) -> _Asked:
        for found in self._ledger.task_logs(task):
            if found.log.topics[0] == abi.TOLERANT_ASKED.topic:
                values = abi.TOLERANT_ASKED.decode(found.log.topics, found.log.data)
                temperature = values["temperatureQ16"] / TEMPERATURE_ONE_Q16
                return _Asked(values["prompt"], values["maxTokens"], temperature, values["topK"], values["seed"])
        raise AssertionError(f"task {task.hex()} is open and was never asked")

    def _next_message(self, underway: Set[Hashable]) -> Message | None:
        """The next answer, or else the offer, for the outbox."""
        on_the_way = sum(isinstance(key, tuple) and key[0] == LANE for key in underway)
        if self._head != self._ledger.head.number or on_the_way >= UNDERWAY_MAX:
            return None
        ready = [(task, self._answers[task]) for task in self._owed.tasks if task in self._answers]
        offer = [(OFFER_KEY, self._owed.offer)] if self._owed.offer is not None else []
        for key, message in (*ready, *offer):
            if not message.covers <= underway and self._failures[key] < TRIES_MAX:
                self._sent[message.data] = key
                return message
        return None

    # ------------------------------------------------------------------ what the chain says

    def _on_commit(self, committed: Committed) -> None:
        for transaction, receipt in zip(committed.block.transactions, committed.receipts, strict=True):
            mine = transaction.to == TOLERANT and transaction.sender == self._hot  # others may repeat what was sent
            if receipt.status == 0 and mine and transaction.data in self._sent:
                key = self._sent[transaction.data]
                self._failures[key] += 1
                if self._failures[key] == TRIES_MAX:
                    self._problem = f"the chain reverted it {TRIES_MAX} times: {key if key == OFFER_KEY else 'answer'}"
                    log.warning("given up", what=key, reason=self._problem)
            for entry in receipt.logs:
                self._follow(entry)
        self._wake.set()

    def _follow(self, entry: Log) -> None:
        """Count how tasks of this operator end."""
        event = abi.event_of(entry)
        if event not in _ENDS or entry.topics[2][12:] != self._operator:
            return
        values = event.decode(entry.topics, entry.data)
        end = "accepted" if values.get("accepted") else _ENDS[event]
        self._figures[end] += 1
        tell = log.info if event is abi.TOLERANT_PAID else log.warning
        tell("task of the tolerant lane ended", task=entry.topics[1], end=end, reason=values.get("reason", ""))


_ENDS = {abi.TOLERANT_PAID: "unopposed", abi.TOLERANT_REFUSED: "refused", abi.TOLERANT_UNANSWERED: "unanswered"}


def _answer_message(task: bytes, tokens: bytes, queue_ms: int, total_ms: int) -> Message:
    data = abi.ANSWER.encode_call(task, tokens, min(queue_ms, 2**32 - 1), min(total_ms, 2**32 - 1))
    return _message(data, gas.TOLERANT_ANSWER + gas.ANSWER_BYTE * len(tokens), (LANE, task))


def _offer_message(config: NodeConfig, found: Offer | None, active: bool) -> Message | None:
    """What makes the chain's offer the configuration's; None when it is, or when none can be made now."""
    if not config.tolerant_url:
        return None if found is None else _message(abi.WITHDRAW_OFFER.encode_call(), gas.OFFER, (LANE, OFFER_KEY))
    wanted = (
        config.tolerant_model, config.tolerant_prompt_wei, config.tolerant_token_wei, config.tolerant_prompt_bytes,
        config.tolerant_tokens, config.tolerant_deadline,
    )  # fmt: skip
    if not active or (found is not None and wanted == found.terms):
        return None
    return _message(abi.MAKE_OFFER.encode_call(*wanted), gas.OFFER, (LANE, OFFER_KEY))


def _message(data: bytes, work: int, covers: Hashable) -> Message:
    """A call with gas by the table, or the floor of its calldata."""
    zeros = data.count(0)
    intrinsic, floor = (21_000 + zero * zeros + other * (len(data) - zeros) for zero, other in ((4, 16), (10, 40)))
    work += gas.CALL + gas.CALLDATA_BYTE * len(data)
    return Message(TOLERANT, data, max(floor, intrinsic + work) + GAS_MARGIN, frozenset({covers}))
