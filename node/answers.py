"""Soft answers: what is known of answers while they are being made. Signs and spreads those of this node's models,
judges those of peers by the committed state, and keeps the latest for whoever watches here.

Nothing of this is a vote or is stored: the answer of a task is the one in its block. Only the operator in whose slot a
task lies may speak about it, in its own time; how often and how much is bounded for everybody.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog
import trio

from chain.ledger import Committed, Ledger
from consensus.work.audit import slot_window
from p2p.network import Network
from p2p.peer import TokenBucket
from primitives.address import checksum
from primitives.keys import InvalidSignature
from primitives.soft import SOFT_TOKENS_MAX, InvalidSoftAnswer, SoftAnswer, open_soft_answer, sign_soft_answer
from primitives.task import Kind, Status, trace_key
from vm.system import views
from vm.system.market_views import TaskView, task_view

SPREAD_SECONDS = 0.25
"""How often the tokens of one answer are sent."""
TASKS_MAX = 256
"""Tasks whose soft answers are kept, the latest."""
TOKENS_KEPT_MAX = 8_192
"""Of one answer, the latest: 32 KiB."""
OPERATOR_PER_S, OPERATOR_BURST = 100, 200
"""Messages of one operator, about all of its tasks."""
OPERATORS_MAX = 512
EARLY_MAX = 64
"""Messages about tasks that the state here does not know as dealt: judged again after the next block."""
SKEW_BLOCKS = 2
"""The sender may know so many blocks more."""

log = structlog.get_logger("answers")


class Judgement(Enum):
    """What a soft answer of a peer is worth."""

    NEW = auto()
    """Says something that was not known: it is passed on."""
    KNOWN = auto()
    EARLY = auto()
    """The state here does not know the task as dealt, or the slot as open."""
    LATE = auto()
    """The task has its answer, or another attempt."""
    NOBODY = auto()
    """Of one who has no part in the task, or about what cannot be: no honest node passes it on."""


@dataclass
class Known:
    """The latest tokens of one operator's answer, from number `first` on."""

    trace_key: bytes
    slot: int
    first: int = 0
    tokens: "array[int]" = field(default_factory=lambda: array("I"))

    @property
    def end(self) -> int:
        return self.first + len(self.tokens)

    def take(self, first: int, tokens: Iterable[int]) -> bool:
        """Whether something was new. What was known stays: an operator that contradicts itself is not listened to."""
        given = array("I", tokens)
        if first > self.end:  # some were lost: begin again from here
            self.first, self.tokens = first, given
        else:
            fresh = given[max(0, self.end - first) :]
            overlap = given[: len(given) - len(fresh)]
            begin = max(first, self.first)
            if overlap[begin - first :] != self.tokens[begin - self.first :][: len(overlap[begin - first :])]:
                return False
            if not fresh:
                return False
            self.tokens += fresh
        if (over := len(self.tokens) - TOKENS_KEPT_MAX) > 0:
            del self.tokens[:over]
            self.first += over
        return True


class Book:
    """What is known of whose answers. Pure but for its contents: state, height and time are given."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[bytes, dict[bytes, Known]] = OrderedDict()

    def of(self, task: bytes) -> list[tuple[bytes, Known]]:
        """(operator, what it said) of one task, the executor before its backups."""
        return sorted(self._tasks.get(task, {}).items(), key=lambda entry: entry[1].slot)

    def take(self, answer: SoftAnswer, operator: bytes | None, view: TaskView | None, height: int) -> Judgement:
        """Judge a soft answer by the task as the state knows it and, if it is good, remember it. operator: whose hot
        key signed; height: of the next block."""
        if view is None or view.status == Status.POSTED:
            return Judgement.EARLY
        if view.status != Status.DEALT or trace_key(view.seed, view.attempt) != answer.trace_key:
            return Judgement.LATE if view.status != Status.REFUTED else Judgement.EARLY
        if operator not in view.slots or view.kind != Kind.GENERATE:
            return Judgement.NOBODY
        if answer.first + len(answer.tokens) > view.max_tokens:
            return Judgement.NOBODY
        slot = view.slots.index(operator)
        if slot_window(view.dealt_block, view.deadline_blocks, slot).first > height + SKEW_BLOCKS:
            return Judgement.EARLY
        new = self.add(answer.task, operator, slot, answer.trace_key, answer.first, answer.tokens)
        return Judgement.NEW if new else Judgement.KNOWN

    def add(
        self, task: bytes, operator: bytes, slot: int, key: bytes, first: int, tokens: Iterable[int]
    ) -> bool:
        """Remember tokens; whether something was new."""
        known = self._tasks.setdefault(task, {})
        self._tasks.move_to_end(task)
        if len(self._tasks) > TASKS_MAX:
            self._tasks.popitem(last=False)
        if operator not in known or known[operator].trace_key != key:
            known[operator] = Known(key, slot)
        return known[operator].take(first, tokens)


class SoftAnswers:
    """The service: `run` until cancelled. All methods belong to the trio thread."""

    def __init__(self, ledger: Ledger, network: Network, hot_key: bytes | None) -> None:
        self._ledger, self._network, self._hot_key = ledger, network, hot_key
        self._book = Book()
        self._own: dict[tuple[bytes, bytes], list[int]] = {}
        """(task, trace key) -> tokens that this node's models have made and not spread yet, with those before them."""
        self._sent: dict[tuple[bytes, bytes], int] = {}
        self._early: deque[tuple[str, bytes]] = deque(maxlen=EARLY_MAX)
        self._budgets: OrderedDict[bytes, TokenBucket] = OrderedDict()
        self._made = trio.Event()

    def produced(self, task: bytes, key: bytes, operator: bytes, slot: int, index: int, token: int) -> None:
        """A model of this node made a token; one that it made before (its process died in between) is the same."""
        tokens = self._own.setdefault((task, key), [])
        if index != len(tokens):
            return
        tokens.append(token)
        self._book.add(task, operator, slot, key, index, [token])
        self._made.set()

    def finished(self, task: bytes, key: bytes) -> None:
        """The answer is whole, or was given up: what was not spread is spread once more, and forgotten."""
        self._spread(task, key)
        self._own.pop((task, key), None)
        self._sent.pop((task, key), None)

    def shown(self, task: bytes, start: int) -> list[dict[str, object]]:
        """What JSON-RPC shows of a task: each operator's tokens from number `start` on."""
        return [
            {
                "operator": checksum(operator),
                "slot": known.slot,
                "first": (first := max(known.first, start)),
                "tokens": known.tokens[first - known.first :].tolist(),
            }
            for operator, known in self._book.of(task)
        ]

    async def run(self) -> None:
        """Spread what is made here, judge what comes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._spread_all)
            async for peer, payload in self._network.answers:
                await self._receive(peer, payload)

    def on_commit(self, _committed: Committed) -> None:
        """Judge again what came before its block."""
        early, self._early = self._early, deque(maxlen=EARLY_MAX)
        for peer, payload in early:
            self._network.answers.put(peer, payload)

    async def _spread_all(self) -> None:
        while True:
            await self._made.wait()
            self._made = trio.Event()
            for task, key in list(self._own):
                self._spread(task, key)
            await trio.sleep(SPREAD_SECONDS)

    def _spread(self, task: bytes, key: bytes) -> None:
        tokens = self._own.get((task, key), [])
        if self._hot_key is None or len(tokens) == self._sent.get((task, key), 0):
            return
        self._sent[task, key] = len(tokens)
        first = max(0, len(tokens) - SOFT_TOKENS_MAX)
        answer = SoftAnswer(task, key, first, tuple(tokens[first:]))
        self._network.answers.spread(sign_soft_answer(answer, self._ledger.sign_context, self._hot_key))

    async def _receive(self, peer: str, payload: bytes) -> None:
        try:
            answer, signer = open_soft_answer(payload, self._ledger.sign_context)
        except (InvalidSoftAnswer, InvalidSignature) as error:
            self._network.misbehaved(peer, f"a soft answer that is none: {error}")
            return
        operator, view, height = await trio.to_thread.run_sync(self._look_up, answer.task, signer)
        if operator is not None and not self._budget(operator).take():
            log.debug("soft answer dropped", peer=peer[:16], operator=operator, reason="its operator sends too many")
            return
        judgement = self._book.take(answer, operator, view, height)
        match judgement:
            case Judgement.NEW:
                self._network.answers.spread(payload, giver=peer)
            case Judgement.EARLY:
                self._early.append((peer, payload))
            case Judgement.NOBODY:
                self._network.misbehaved(peer, f"a soft answer of 0x{signer.hex()}, who has no part in that task")
            case _:
                log.debug("soft answer dropped", peer=peer[:16], task=answer.task, reason=judgement.name.lower())

    def _look_up(self, task: bytes, signer: bytes) -> tuple[bytes | None, TaskView | None, int]:
        reader, height = self._ledger.reader(), self._ledger.head.number + 1
        view = task_view(views.ViewContext(reader, self._ledger.params, height), task)
        return views.operator_by_hot(reader, signer), view, height

    def _budget(self, operator: bytes) -> TokenBucket:
        budget = self._budgets.get(operator)
        if budget is None:
            budget = self._budgets[operator] = TokenBucket(OPERATOR_PER_S, OPERATOR_BURST)
            if len(self._budgets) > OPERATORS_MAX:
                self._budgets.popitem(last=False)
        return budget
