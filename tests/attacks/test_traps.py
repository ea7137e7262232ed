"""A root that was let out: an executor that sets traps (node.traps) lets out what its commitment opens to, and whoever
commits to that instead of computing pays. What becomes of one that is away when its trap is to be opened."""

from dataclasses import dataclass

import pytest

from node import traps
from node.duties import Result
from node.traps import Traps
from primitives.hashing import ZERO_HASH, keccak
from primitives.reasons import Reason
from primitives.task import Kind, ModelCost, Status, price_of, trap_root
from tests.attacks.attacks import CHEAT, hit, outcome
from tests.attacks.fleet import PROMPT, Fleet, Validator
from vm.system import abi, market_trap, views
from vm.system.market_views import Duty

COPIER = 2


@dataclass(frozen=True)
class Every(Traps):
    """Chooses every answer."""

    def chooses(self, task: bytes, trace_key: bytes) -> bool:
        return True


class Leaky(Fleet):
    """Validator CHEAT sets traps wherever the chain allows it, and lets out what it committed to; COPIER sends that as
    its verdict of what CHEAT answered, and computes nothing."""

    def __init__(self, copies: bool = True) -> None:
        super().__init__()
        self.copies = copies
        self.trapper.traps = Every(keccak(b"a secret"))

    @property
    def trapper(self) -> Validator:
        return self.validators[CHEAT]

    def let_out(self, duty: Duty) -> bytes:
        made = self.trapper.results[duty.task, duty.trace_key, True]
        return trap_root(made.salt, made.root) if made.salt else made.root

    def _run(self, validator: Validator, duty: Duty) -> Result:
        copies = self.copies and validator is self.validators[COPIER] and duty.role == abi.ROLE_AUDIT
        if copies and self.chain.task(duty.task).executor == self.trapper.keys.operator:
            return Result(duty.task, duty.trace_key, self.let_out(duty))
        return super()._run(validator, duty)

    def trapped(self) -> bytes:
        """A task that CHEAT answered with a trap, and COPIER is drawn to check."""
        while True:
            task = hit(self, by_executor=True)
            while not self.chain.task(task).drawn_block:
                self.block()
            drawn = self.validators[COPIER].keys.operator in self.chain.task(task).verifiers
            if drawn and any(key[0] == task and made.salt for key, made in self.trapper.results.items()):
                return task
            self.until_quiet(task)


@pytest.fixture(autouse=True)
def every_answer_allows_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_trap, "TRAP_EVERY", 1)
    monkeypatch.setattr(traps, "TRAP_EVERY", 1)


def bond(fleet: Fleet, index: int) -> int:
    view = views.operator(fleet.chain.reader, fleet.chain.operators[index].operator, fleet.chain.params, 1)
    assert view is not None
    return view.bond


def truth(fleet: Fleet, task: bytes) -> tuple[int, ...]:
    request = {
        "op": "make", "kind": "generate", "prompt": list(PROMPT), "max_tokens": 6, "temperature_q16": 45_000,
        "top_k": 0, "seed": next(e["seed"] for _, e in fleet.chain.events(abi.TASK_DEALT) if e["task"] == task),
        "trace_key": bytes(32),
    }  # fmt: skip
    return tuple(fleet.trapper.honest.ask(request)["tokens"])


def settled(fleet: Leaky, task: bytes) -> None:
    """The task ends well: the asker has the true answer, the trapper its pay."""
    assert fleet.until_quiet(task) == Status.SETTLED
    assert fleet.texts(task)[1] == truth(fleet, task)
    assert f"validator {CHEAT}" in outcome("trap", fleet, task).paid


def test_who_copies_a_root_that_was_let_out_pays_and_who_computed_is_paid_double() -> None:
    fleet = Leaky()
    chain, task = fleet.chain, fleet.trapped()
    bonds = [bond(fleet, index) for index in range(4)]
    settled(fleet, task)
    (sprung,) = [event for _, event in chain.events(abi.TRAP_SPRUNG) if event["task"] == task]
    assert sprung["caught"] == ("0x" + chain.operators[COPIER].operator.hex(),)
    found, shape = outcome("leaked root", fleet, task), chain.model.manifest.cost
    macs = ModelCost(shape.a, shape.b, shape.c, 1, 4).audit(Kind.GENERATE, len(PROMPT), len(fleet.texts(task)[1]))
    posted = next(event for _, event in chain.events(abi.TASK_POSTED) if event["task"] == task)
    audit = price_of(macs, posted["pricePerCwu"])
    lost = [before - bond(fleet, index) for index, before in enumerate(bonds)]
    assert lost == [256 * audit if index == COPIER else 0 for index in range(4)]
    assert found.slashed == {f"validator {COPIER}": 256 * audit} and not found.ended
    assert f"validator {COPIER}" not in found.paid
    paid = {event["role"]: event["amount"] for _, event in chain.events(abi.TRAP_PAID) if event["task"] == task}
    assert paid == {abi.ROLE_EXECUTE: 128 * audit, abi.ROLE_AUDIT: audit}
    view = views.operator(chain.reader, chain.operators[COPIER].operator, chain.params, chain.height + 1)
    assert view is not None and (view.misses[0].reason, view.slashes[0].reason) == (Reason.TRAPPED, Reason.COPIED_ROOT)


def test_a_crash_between_answer_and_reveal_loses_nothing() -> None:
    """It comes back without its journal, does the work again and recognises what it had committed."""
    fleet = Leaky(copies=False)
    task, trapper = fleet.trapped(), fleet.trapper
    trapper.is_offline = True
    trapper.results.clear()
    fleet.until(task, Status.REVEALING)
    trapper.is_offline = False
    settled(fleet, task)
    assert not outcome("crash", fleet, task).slashed
    assert [event["caught"] for _, event in fleet.chain.events(abi.TRAP_SPRUNG) if event["task"] == task] == [()]


@pytest.mark.parametrize("copies", [False, True])
def test_who_comes_back_when_others_have_revealed_their_roots_still_opens_its_trap(copies: bool) -> None:
    """What they revealed contradicts what is hidden until then; from then on it agrees. That a copier has revealed what
    was let out, as if the executor had meant it, changes nothing."""
    fleet = Leaky(copies)
    task = fleet.trapped()
    fleet.trapper.is_offline = True
    fleet.until(task, Status.DISPUTED)
    assert (fleet.chain.task(task).executor_root != ZERO_HASH) is copies
    fleet.trapper.is_offline = False
    settled(fleet, task)
    found = outcome("late", fleet, task)
    assert set(found.slashed) == ({f"validator {COPIER}"} if copies else set())
    assert not found.ended and not found.missed


def test_who_stays_away_is_slashed_as_one_who_withholds_its_root() -> None:
    """The risk of setting traps, and why no node does by itself: nobody else can open what is hidden."""
    fleet = Leaky(copies=False)
    task = fleet.trapped()
    fleet.trapper.is_offline = True
    assert fleet.until_quiet(task) == Status.SETTLED
    found = outcome("away", fleet, task)
    assert (found.attempt, found.ended[0]) == (1, abi.ENDED_WITHHELD)
    assert set(found.slashed) == {f"validator {CHEAT}"}


def test_no_more_traps_are_set_than_can_be_opened() -> None:
    def made(number: int, salt: bytes = b"") -> Result:
        return Result(bytes([number]) * 32, bytes(32), bytes(32), tokens=(1,), salt=salt)

    def results(*found: Result) -> dict:
        return {result.key: result for result in found}

    def keys(*found: Result) -> list:
        return [result.key[:2] for result in found]

    assert traps.allowed(4, [], {}) == 4
    assert traps.allowed(4, keys(made(1)), results(made(1))) == 4
    assert traps.allowed(4, keys(made(1)), results(made(1, b"salt"))) == 3
    assert traps.allowed(4, keys(made(1), made(2)), results(made(1, b"salt"))) == 2, "what is not known may be one"
    assert traps.allowed(4, [], results(made(3, b"salt"))) == 3, "it is on its way"


def test_the_choice_is_the_keys_and_about_one_in_so_many() -> None:
    mine, other = Traps.of(b"a key"), Traps.of(b"another key")
    tasks = [keccak(bytes([number % 256, number >> 8])) for number in range(3_200)]
    chosen = [task for task in tasks if mine.chooses(task, bytes(32))]
    assert 60 < len(chosen) < 140
    assert chosen != [task for task in tasks if other.chooses(task, bytes(32))]
    made = Result(tasks[0], bytes(32), keccak(b"root"), tokens=(1,))
    assert mine.hidden(made).salt != other.hidden(made).salt
    assert mine.hidden(made) == Traps.of(b"a key").hidden(made), "a restart finds it again"
