"""The dispute service: sees in the state where this node has a move, has the model's process make it, sends it.

Challenges what this node's own verdict contradicts, and, if told to watch, whatever answer it recomputed and found
false; answers for itself, and for those whose root it found too when they are silent (node.moves). Everything follows
from the committed state and from work that can be done again: nothing is kept on disk, and no block waits for a model.
"""

from collections import Counter, deque
from collections.abc import Hashable, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog
import trio

from chain.ledger import Committed, Ledger
from node.consensus import Consensus
from node.duties import Result
from node.inference import InferenceService, NotServed
from node.moves import Me, Move, challenge_of_a_watcher, message_of, moves_now, request_of
from node.outbox import Message, Outbox
from node.story import dispute_sentences
from node.worker import WorkerFailed, WorkerUnfit
from primitives.address import REFEREE
from primitives.hashing import ZERO_HASH
from primitives.keys import address_of
from primitives.receipt import Log
from primitives.task import trace_key
from rpc.task_story import as_json, beside
from vm.call import CallRequest, call
from vm.system import abi, views
from vm.system.market_views import TaskView

TRIES_MAX = 3
"""A move that the chain reverted so often is given up."""
WATCHED_MAX = 64
"""Answers that wait to be recomputed by a watcher; later ones are let go."""
BOND_MARGIN_PERCENT = 125
"""Bonds follow the base fee, which moves until the transaction is in a block; what is too much comes back."""
TOLD_MAX = 64
"""Sentences about disputes that are kept for who asks."""
WATCHING_MAX = 2
"""Of them at once."""

log = structlog.get_logger("disputes")


@dataclass
class _Job:
    """A move that the model's process is asked for."""

    move: Move
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class DisputeService:
    """The service; `run` until cancelled."""

    def __init__(self, ledger: Ledger, consensus: Consensus, outbox: Outbox, hot_key: bytes | None,
                 inference: InferenceService, watches: bool) -> None:  # fmt: skip
        self._ledger, self._consensus, self._outbox, self._inference = ledger, consensus, outbox, inference
        self._me = None if hot_key is None else Me(address_of(hot_key), None)
        self._watches = watches
        self._moves: dict[Hashable, Move] = {}
        """What is to be done at the head."""
        self._jobs: dict[Hashable, _Job] = {}
        self._ready: dict[Hashable, Message] = {}
        self._idle: set[Hashable] = set()
        """Moves that this node cannot make; why was said."""
        self._key_of: dict[bytes, Hashable] = {}
        """Calldata that was offered -> the move that it makes."""
        self._tries: Counter[Hashable] = Counter()
        self._watched: dict[bytes, Result | None] = {}
        """Tasks to recompute as a watcher, and what came of it."""
        self._figures: Counter[str] = Counter()
        self._told: deque[tuple[int, str]] = deque(maxlen=TOLD_MAX)
        """What happened in disputes lately, in words: block and sentence."""
        self._wake = trio.Event()
        outbox.sources.insert(0, self._next_message)  # a clock runs
        consensus.on_commit.append(self._on_commit)

    def status(self) -> dict[str, Any]:
        """What labora_health shows: events since the start of the process, and what this node has to do now."""
        names = ("challenged", "refuted", "held", "slashed")
        told = [list(each) for each in self._told]
        return {**{name: self._figures[name] for name in names}, "moves": len(self._moves), "told": told}

    async def run(self) -> None:
        """Plan after every commit, from the first StartHeight on."""
        await self._consensus.started.wait()
        if self._me is None:
            return
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                await self._plan(nursery)
                await self._wake.wait()

    # ------------------------------------------------------------------ planning

    async def _plan(self, nursery: trio.Nursery) -> None:
        if self._consensus.next_unknown_height > self._ledger.head.number + 1:
            return  # decided blocks wait to be committed: disputes have moved on there
        self._moves = {move.key: move for move in await trio.to_thread.run_sync(self._read, dict(self._watched))}
        for known in (self._ready, self._tries):
            for key in known.keys() - self._moves.keys():
                del known[key]
        self._idle &= self._moves.keys()
        self._key_of = {data: key for data, key in self._key_of.items() if key in self._moves}
        for key in self._jobs.keys() - self._moves.keys():
            self._jobs[key].scope.cancel()
        for key, move in self._moves.items():
            if key not in self._ready and key not in self._jobs and key not in self._idle:
                self._jobs[key] = _Job(move)
                nursery.start_soon(self._make, self._jobs[key])
        if self._watches:
            self._watch(nursery)
        self._outbox.flush()

    def _read(self, watched: dict[bytes, Result | None]) -> list[Move]:
        """Every move that is this node's at the head. watched: a copy, since the next block may add to it meanwhile."""
        reader, params, height = self._ledger.reader(), self._ledger.params, self._ledger.head.number + 1
        assert self._me is not None
        if self._me.operator is None:
            self._me = replace(self._me, operator=views.operator_by_hot(reader, self._me.hot))
        owed = [] if self._me.operator is None else views.open_tasks(reader, self._me.operator, params, height)
        moves = moves_now(reader, params, height, self._me, owed, self._inference.result, self._bond)
        return moves + self._challenges_of_a_watcher(self._me, watched)

    def _bond(self, function: abi.Function, of: bytes | int, account: bytes) -> int:
        request = CallRequest(to=function.account, data=function.encode_call(of, account))
        head = self._ledger.head
        found = call(self._ledger.state, head.header.state_root, self._ledger.env_for_call(head.number), request)
        if found.error is not None:
            return 0  # it cannot be moved like that now: the move says so itself
        amount, from_stake = function.decode_result(found.output)
        return 0 if from_stake else amount * BOND_MARGIN_PERCENT // 100

    # ------------------------------------------------------------------ moving

    async def _make(self, job: _Job) -> None:
        """One move from the logs to its message, unless the dispute goes on without it."""
        move = job.move
        try:
            with job.scope:
                request = await trio.to_thread.run_sync(self._request_of, move)
                made = self._message_of(move, await self._inference.ask(move.task.model, request))
                if isinstance(made, str):
                    self._give_up(move, made)
                else:
                    self._ready[move.key], self._key_of[made.data] = made, move.key
                    number = None if move.dispute is None else move.dispute.dispute
                    log.info("a move is ready", dispute=number, task=move.task.task, move=_name(move), because=move.why,
                             bytes=len(made.data))  # fmt: skip
                    self._outbox.flush()
        except (NotServed, WorkerFailed, WorkerUnfit) as error:
            self._give_up(move, str(error))
        del self._jobs[move.key]

    def _give_up(self, move: Move, reason: str) -> None:
        self._idle.add(move.key)
        log.warning("no move", task=move.task.task, move=_name(move), would=move.why, reason=reason)

    def _message_of(self, move: Move, reply: dict[str, Any]) -> Message | str:
        return message_of(move, reply)

    def _request_of(self, move: Move) -> dict[str, Any]:
        """What the model's process is asked."""
        prompt, output = self._inference.texts(move.task.task)
        logs = []
        for found in self._ledger.task_logs(move.task.task) if move.dispute is not None else ():
            event = abi.EVENTS.get(found.log.topics[0])
            if event is abi.SHOWN or event is abi.LIST_REFUTED:
                values = event.decode(found.log.topics, found.log.data)
                if values["dispute"] == move.dispute.dispute:
                    logs.append({**values, "event": event.name})
        return request_of(move, prompt, output, logs)

    def _next_message(self, underway: Set[Hashable]) -> Message | None:
        ready = (message for key, message in self._ready.items() if key not in underway and key in self._moves)
        return next(ready, None)

    # ------------------------------------------------------------------ watching

    def _watch(self, nursery: trio.Nursery) -> None:
        """Recompute answers whose root is known, a few at once, the oldest first."""
        reader, running = self._ledger.reader(), 0
        for task in list(self._watched):
            view = views.task(reader, task)
            if view is None or view.done_block or self._is_party(view):
                del self._watched[task]
            elif view.executor_root != ZERO_HASH and self._watched[task] is None:
                key = ("watch", task, view.attempt)
                running += 1
                if key not in self._jobs and key not in self._idle and running <= WATCHING_MAX:
                    self._jobs[key] = _Job(Move(key, "check", "this node watches", view))
                    nursery.start_soon(self._check, self._jobs[key])

    def _is_party(self, task: TaskView) -> bool:
        assert self._me is not None
        return self._me.operator is not None and self._me.operator in (task.executor, *task.verifiers)

    async def _check(self, job: _Job) -> None:
        move, task = job.move, job.move.task
        try:
            with job.scope:
                request = await trio.to_thread.run_sync(self._request_of, move)
                found = await self._inference.ask(task.model, {**request, "op": "check"})
                key = trace_key(task.seed, task.attempt)
                self._watched[task.task] = Result(task.task, key, found["root"], bad=found["bad"])
                self._wake.set()
        except (NotServed, WorkerFailed, WorkerUnfit) as error:
            self._watched.pop(task.task, None)
            log.warning("an answer is not watched", task=task.task, reason=str(error))
        del self._jobs[move.key]

    def _challenges_of_a_watcher(self, me: Me, watched: dict[bytes, Result | None]) -> list[Move]:
        reader, moves = self._ledger.reader(), []
        for task, mine in watched.items():
            view = views.task(reader, task)
            if mine is not None and view is not None:
                bond = partial(self._bond, abi.BOND_FOR, task, me.hot)
                moves += filter(None, [challenge_of_a_watcher(view, mine, bond)])
        return moves

    # ------------------------------------------------------------------ what the chain says

    def _on_commit(self, committed: Committed) -> None:
        for transaction, receipt in zip(committed.block.transactions, committed.receipts, strict=True):
            # Anybody may send the same words, who knows the same trace, and be refused: that says nothing of this move.
            mine = transaction.to == REFEREE and self._me is not None and transaction.sender == self._me.hot
            if receipt.status == 0 and mine and transaction.data in self._key_of:
                self._reverted(self._key_of[transaction.data])
            for entry in receipt.logs:
                self._hear(entry, committed.block.header.number)
        self._wake.set()

    def _reverted(self, key: Hashable) -> None:
        self._tries[key] += 1
        if self._tries[key] >= TRIES_MAX and key in self._moves:
            self._ready.pop(key, None)
            self._give_up(self._moves[key], f"the chain reverted it {TRIES_MAX} times")

    def _hear(self, entry: Log, height: int) -> None:
        """Count what happens in disputes, and say it in words."""
        event = abi.event_of(entry)
        if event is None:
            return
        if event is abi.REVEALED and self._watches and len(self._watched) < WATCHED_MAX:
            self._watched.setdefault(entry.topics[1], None)
        figure = {abi.CHALLENGED: "challenged", abi.TASK_REFUTED: "refuted", abi.SLASHED: "slashed"}.get(event)
        values = event.decode(entry.topics, entry.data)
        if event is abi.DISPUTE_ENDED_LOG and values["reason"] in (abi.ENDED_HELD, abi.ENDED_ABANDONED):
            figure = "held"
        self._figures[figure or ""] += figure is not None
        if entry.address == REFEREE or event in (abi.TASK_REFUTED, abi.SLASHED):
            more = beside(event, values, partial(views.operator_by_hot, self._ledger.reader()))
            for sentence in dispute_sentences({"event": event.name, **as_json(event, values), **more}):
                log.info(sentence, task=values["task"])
                self._told.append((height, sentence))


def _name(move: Move) -> str:
    return move.move if move.dispute is not None else "challenge"
