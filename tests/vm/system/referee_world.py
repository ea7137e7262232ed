"""A chain in dictionaries whose model is a real one: its tasks are executed, falsified and disputed in earnest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from market_world import POSTER, World, hot_of, payout_of

from inference import program as cip
from inference.build import random_model
from inference.defence import LIST, OP, TILE, TRACE, Game, Party, Place, Shown
from inference.engine import Engine
from inference.model import Model
from inference.opening import Execution, Working, claims_of
from inference.ops import Leaf, Task
from inference.reference import NumpyExecutor
from inference.witness import Worker, record
from primitives.genesis import GenesisModel
from primitives.hashing import keccak
from primitives.params import COIN
from primitives.task import NO_BAD_POSITION, Kind, Status, trace_key, words_of
from tests.inference.test_openings import lie, shape_of
from vm.system import abi, models, referee, staking
from vm.system.context import Refused
from vm.system.referee_views import DisputeView, dispute_view

TREE_OF = {abi.DISPUTE_TRACE: TRACE, abi.DISPUTE_LIST: LIST, abi.DISPUTE_OP: OP, abi.DISPUTE_TILE: TILE}
WATCHER = keccak(b"watcher")[12:]
STRANGER = keccak(b"stranger")[12:]
STOP = 1


@cache
def model_of(kind: str, **extents: int) -> Model:
    """A tiny program of that kind."""
    return random_model(shape_of(kind, **extents), 5, stop=(STOP,))


@dataclass
class Answered:
    """A task that was answered: by whom, with which output, from which execution."""

    task: bytes
    executor: bytes
    verifiers: list[bytes]
    honest: Execution
    claimed: Party
    """What the executor committed."""


@dataclass
class Played:
    """How a dispute went: its end, and the gas of the messages as each was sent."""

    number: int
    reason: int = 0
    rule: str = ""
    shown: list[Shown] = field(default_factory=list)
    moves: int = 0


class RefereeWorld(World):
    """Four validators, one of which may lie."""

    def __init__(self, kind: str = "llama", seed: int = 0, extents: tuple[tuple[str, int], ...] = (), **spec) -> None:
        self.model = model_of(kind, **dict(extents))
        listed = GenesisModel(self.model.model_id, kind, *claims_of(self.model.manifest), 10**9)
        super().__init__(seed, model=listed, **spec)
        for address in (WATCHER, STRANGER, *(validator.hot for validator in self.spec.validators)):
            self.ctx.balances[address] = 100_000 * COIN
        self.recount()

    # A task's life

    def execution(self, task: bytes, output: Sequence[int]) -> Execution:
        """The honest execution of a dealt task with this output, teacher-forced."""
        view = self.task(task)
        kind = Kind(view.kind)
        asked = Task(
            kind.name.lower(), view.prompt_tokens, 0 if kind.is_vector else len(output), view.seed,
            view.temperature_q16, view.top_k,
        )  # fmt: skip
        return record(NumpyExecutor(self.model), asked, self.key(task), self.prompt(view.prompt_tokens), output)

    def key(self, task: bytes) -> bytes:
        view = self.task(task)
        return trace_key(view.seed, view.attempt)

    def prompt(self, length: int) -> list[int]:
        return [(7 * i * i + 3) % self.model.manifest.shape.vocabulary for i in range(length)]

    def output(self, task: bytes) -> tuple[int, ...]:
        """What the model answers."""
        view = self.task(task)
        engine, prompt = Engine(NumpyExecutor(self.model)), self.prompt(view.prompt_tokens)
        match Kind(view.kind):
            case Kind.GENERATE:
                sampling = view.temperature_q16, view.top_k, view.seed, self.key(task)
                return tuple(engine.generate(prompt, view.max_tokens, *sampling).tokens)
            case Kind.EMBED:
                return words_of(engine.embed(prompt, self.key(task)).vector)
            case Kind.SCORE:
                return words_of(engine.score(prompt, self.key(task)).vector)

    def asked(self, prompt: int = 5, **changes) -> bytes:
        """Post a task of the real model and have it dealt."""
        values = {"max_tokens": 3, "temperature_q16": 65_536, "top_k": 0, "assurance": 2, **changes}
        task = self.post(model=self.model.model_id, tokens=tuple(self.prompt(prompt)), **values)
        self.block(2)
        return task

    def answered(
        self, task: bytes, forge: Callable[[Execution], Party] | None = None,
        output: Sequence[int] | None = None, answered: Sequence[int] | None = None,
    ) -> Answered:  # fmt: skip
        """The executor answers, from an execution that `forge` has falsified. output: what it is forced through;
        answered: what it submits, if that is something else. Verifiers are drawn."""
        view = self.task(task)
        executor = view.slots[0]
        output = self.output(task) if output is None else output
        honest = self.execution(task, output if answered is None else answered)
        claimed = forge(self.execution(task, output)) if forge else Party(self.execution(task, output), self.model)
        assert self.submit(executor, task, output if answered is None else answered, claimed.root) == []
        self.block(self.delay + 1)
        assert self.status(task) == Status.DRAWN
        return Answered(task, executor, list(self.task(task).verifiers), honest, claimed)

    def revealed(self, case: Answered, says: Sequence[tuple[bytes, int] | None], own: bool = True) -> None:
        """Each drawn verifier says a (root, bad), or nothing; the executor's root is revealed, then theirs."""
        for verifier, said in zip(case.verifiers, says, strict=True):
            if said is not None:
                assert self.verdict(verifier, case.task, *said) == []
        if None in says:
            self.block(self.params.verdict_window + 2)
            while self.status(case.task) != Status.REVEALING:
                self.block()
        self.block()
        if own:
            assert self.reveal(case.executor, case.task, case.claimed.root) == []
        self.block(2)
        for verifier, said in zip(case.verifiers, says, strict=True):
            if said is not None and self.status(case.task) in (Status.REVEALING, Status.DISPUTED):
                self.reveal(verifier, case.task, *said)
        if not own and self.status(case.task) == Status.DISPUTED:
            self.reveal(case.executor, case.task, case.claimed.root)

    def honest_says(self, case: Answered, bad: int = NO_BAD_POSITION) -> tuple[bytes, int]:
        """What an honest verifier's verdict is."""
        return case.honest.trace[-1][0], bad

    # Disputes

    def send(self, function: abi.Function, *arguments, sender: bytes, value: int = 0):
        return self.ctx.call(referee.HANDLERS, function, *arguments, sender=sender, value=value)

    def refusal(self, function: abi.Function, *arguments, sender: bytes, value: int = 0) -> str:
        """The code with which a call is refused; nothing of it stays."""
        storage, balances = dict(self.ctx.storage), dict(self.ctx.balances)
        try:
            self.send(function, *arguments, sender=sender, value=value)
        except Refused as refusal:
            assert (self.ctx.storage, self.ctx.balances) == (storage, balances)
            return refusal.code
        raise AssertionError(f"{function.name} was accepted")

    def challenge(self, task: bytes, leaf: int = abi.NO_LEAF, sender: bytes = WATCHER, value: int | None = None) -> int:
        if value is None:
            bond, from_stake = self.send(abi.BOND_FOR, task, sender, sender=sender)
            value = 0 if from_stake else bond
        return self.send(abi.CHALLENGE, task, leaf, sender=sender, value=value)

    def dispute(self, number: int) -> DisputeView:
        view = dispute_view(self.ctx, number)
        assert view is not None
        return view

    def games(self, number: int) -> Game:
        """How far a dispute has come, from the chain's logs alone."""
        view, shown = self.dispute(number), []
        for event in self.events():
            if event["event"] == "Shown" and event["dispute"] == number:
                place = Place(TREE_OF[event["state"]], event["level"], event["index"])
                shown.append(Shown(place, event["data"]))
            elif event["event"] == "ListRefuted" and event["dispute"] == number:
                shown = [each for each in shown if each.place.tree == TRACE]
        leaf = None if view.leaf == abi.NO_LEAF else view.leaf
        op = None if view.op == abi.NO_OP else view.op
        return Game(leaf, op, tuple(shown))

    def show(self, number: int, party: Party, sender: bytes, value: int = 0) -> None:
        """The page or tile that is due, as a party has it."""
        view = self.dispute(number)
        place = Place(TREE_OF[view.state], view.level, view.index)
        self.send(abi.SHOW, number, party.show(self.games(number), place), sender=sender, value=value)

    def answer(self, number: int, party: Party) -> None:
        """The challenger's next move."""
        view, game = self.dispute(number), self.games(number)
        if view.state == abi.DISPUTE_OPEN:
            opening = party.open(game)
            self.send(abi.OPEN, number, opening.element, opening.data, sender=view.challenger)
            return
        choice = party.choose(game)
        index = abi.NO_OP if choice.index is None else choice.index
        self.send(abi.CHOOSE, number, index, choice.child, list(choice.path), sender=view.challenger)

    def play(
        self, number: int, challenger: Party, defence: Party, author: bytes | None = None, value: int = 0
    ) -> DisputeView:
        """To the end, a move a block; the defence is sent by `author`, else by the accused."""
        for _ in range(60):
            view = self.dispute(number)
            if view.state == abi.DISPUTE_ENDED:
                return view
            if view.turn == abi.TURN_DEFENDER:
                first = view.state == abi.DISPUTE_LIST and not any(view.operations)
                sender = author or hot_of(view.accused)
                self.show(number, defence, sender, value if first else 0)
            elif view.turn == abi.TURN_CHALLENGER:
                self.answer(number, challenger)
            self.block()
        raise AssertionError(f"dispute {number} does not end: {self.dispute(number)}")

    def honest_party(self, case: Answered) -> Party:
        return Party(case.honest, self.model)

    def bond(self, operator: bytes) -> int:
        record = staking.operator(self.ctx, operator)
        assert record is not None
        return record.bond + record.unbonding

    def ended(self, number: int) -> dict:
        (event,) = [e for e in self.events(abi.DISPUTE_ENDED_LOG) if e["dispute"] == number]
        return event


def forged(model: Model, leaf: Leaf, target: int, at: int = 0, by: int = 1) -> Callable[[Execution], Party]:
    """An executor that falsifies one element of an op of a leaf and goes on from there; target one past the last op's
    number is the leaf itself."""

    def forge(execution: Execution) -> Party:
        working = lie(execution, model, leaf, target, at, by)

        def known(_: Execution, __: Model, asked: Leaf) -> Working:
            if asked == leaf:
                return working
            return Working(working.execution, asked, Worker(execution, model, asked).run())

        return Party(working.execution, model, known)

    return forge


__all__ = [
    "POSTER", "STRANGER", "WATCHER", "Answered", "RefereeWorld", "cip", "forged", "hot_of", "model_of", "models",
    "payout_of",
]  # fmt: skip
