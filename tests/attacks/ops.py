"""A lie in one operation, played to the judgement on real blocks, for every rule of the program. The executor of the
first attempt falsifies one element, goes on from there consistently, and defends it as well as it can.
`python -m tests.attacks ops` prints messages, blocks and gas by rule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inference import program as cip
from inference.build import random_model
from inference.defence import Game, Party, Place
from inference.model import Model
from inference.opening import Working
from inference.ops import Leaf, Op, Task, facts_of, op_list
from inference.reference import NumpyExecutor
from inference.witness import record
from node.duties import Result
from node.moves import Move, message_of
from node.outbox import Message
from primitives.task import Kind, trace_key
from tests.attacks.attacks import Outcome, outcome
from tests.attacks.fleet import Fleet, Validator
from tests.inference.test_openings import lie, shape_of
from vm.system import abi
from vm.system.market_views import Duty

PROMPT = (3, 1, 4, 1, 5)
TOKENS = 3


@dataclass(frozen=True)
class Asked:
    """A task as it is posted, and as its addresses depend on it."""

    kind: Kind
    temperature_q16: int = 0
    top_k: int = 0

    def task(self, seed: bytes = bytes(32), output: int = TOKENS) -> Task:
        tokens = output if self.kind is Kind.GENERATE else 0
        return Task(self.kind.name.lower(), len(PROMPT), tokens, seed, self.temperature_q16, self.top_k)


@dataclass(frozen=True)
class Case:
    """Where a model of some kind lies."""

    model: str
    asked: Asked
    leaf: Leaf
    op: int
    rule: str


SAMPLED = Asked(Kind.GENERATE, 90_000, 5)
ASKED = (SAMPLED, Asked(Kind.GENERATE), Asked(Kind.EMBED), Asked(Kind.SCORE))


def model_of(kind: str) -> Model:
    """Small, its stop id never drawn, so that answers are as long as they may be."""
    return random_model(shape_of(kind), 5)


def cases(kind: str, seen: set[str]) -> Iterator[Case]:
    """One op for each rule that is not among those seen, which are added."""
    shape, facts = shape_of(kind), facts_of(model_of(kind).manifest)
    for asked in ASKED:
        task = asked.task()
        if task.kind not in shape.tasks():
            continue
        leaves = [Leaf("state", task.positions * shape.groups - 1)]
        leaves += [Leaf(domain, count - 1) for domain, count in task.lists.items()]
        for leaf in leaves:
            for number, op in enumerate(op_list(facts, task, leaf)):
                if op.rule not in seen:
                    seen.add(op.rule)
                    yield Case(kind, asked, leaf, number, op.rule)


class Liars(Fleet):
    """Whoever is the first to answer lies in one element of one op."""

    def __init__(self, case: Case) -> None:
        super().__init__(model=model_of(case.model))
        self.case = case
        self.forged: Party | None = None
        self.op: Op | None = None

    def _run(self, validator: Validator, duty: Duty) -> Result:
        made = super()._run(validator, duty)
        if duty.role != abi.ROLE_EXECUTE or duty.trace_key != trace_key(duty.seed, 0):
            return made
        model, case = self.chain.model, self.case
        task = case.asked.task(duty.seed, len(made.tokens))
        execution = record(NumpyExecutor(model), task, duty.trace_key, PROMPT, made.tokens)
        self.op = op_list(execution.facts, task, case.leaf)[case.op]
        working = lie(execution, model, case.leaf, case.op, self.op.length // 2)
        if working.execution.statement.trace == execution.statement.trace:  # what follows from the lie is the truth
            last = lie(execution, model, case.leaf, len(working.ops) - 1, 0)
            working = Working(last.execution, case.leaf, working.vectors)
        self.forged = Party(working.execution, model, lambda *_: working)
        return Result(made.task, made.trace_key, self.forged.root, tokens=made.tokens)

    def _move(self, validator: Validator, move: Move) -> Message | str:
        if move.move != "show" or move.dispute is None or not validator.me.is_(move.dispute.accused):
            return super()._move(validator, move)
        request, party = self._request(move), self.forged
        assert party is not None
        game, tree = Game(request["leaf"], request["list_op"]), request["tree"]
        level = party.height(game, tree) if request["level"] is None else request["level"]
        operations = b"" if game.leaf is None else party.list_root(game.leaf)
        shown = party.show(game, Place(tree, level, request["index"]))
        return message_of(move, {"root": party.root, "operations": operations, "data": shown})


def play(case: Case) -> tuple[Liars, Outcome]:
    """The whole story of one lie."""
    fleet, asked = Liars(case), case.asked
    tokens = TOKENS if asked.kind is Kind.GENERATE else 0
    task = fleet.post(tokens, asked.temperature_q16, top_k=asked.top_k, kind=int(asked.kind), prompt=PROMPT)
    fleet.until_quiet(task)
    return fleet, outcome(case.rule, fleet, task)


def every_case() -> Iterator[Case]:
    """Every rule once, of the first kind of model that has it."""
    seen: set[str] = set()
    for kind in sorted(cip.KINDS, key=lambda kind: kind == "bert"):
        yield from cases(kind, seen)


def judged(fleet: Fleet) -> list[dict[str, Any]]:
    """Values of the logs Judged."""
    return [values for _, values in fleet.chain.events(abi.JUDGED)]
