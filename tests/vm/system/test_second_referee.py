"""Two referees: where they say the same a dispute ends as it always did; where they differ nobody wins, the stake of
the accused is held, the asker gets everything back and nothing more is asked of the model."""

from dataclasses import dataclass

import pytest
from evm_sample import Evm
from referee_world import POSTER, STRANGER, WATCHER, Answered, RefereeWorld, forged, hot_of
from test_referee import LIE, agreed

from inference.defence import Party
from inference.opening import open_element
from inference.ops import op_list
from inference.witness import work
from primitives import merkle
from primitives.address import REFEREE, SECOND_REFEREE
from primitives.hashing import keccak
from primitives.reasons import Reason
from primitives.task import Status
from vm.system import abi, mishaps, models, second_referee
from vm.system.context import Refused
from vm.system.referee_state import HELD

SAYS_TRUE = bytes.fromhex("60015f5260205ff3")  # mstore(0, 1); return(0, 32)
LOOPS = bytes.fromhex("5b5f56")  # jumpdest; push0; jump
REVERTS = bytes.fromhex("5f5ffd")
NOT_MINE = b"\x63" + keccak(b"NotMine()")[:4] + bytes.fromhex("5f526004601cfd")


@dataclass
class Played:
    world: RefereeWorld
    case: Answered
    number: int
    escrow: int
    lost: dict[bytes, int]
    """Of their stakes."""


def target_of(world: RefereeWorld, case_rule: str) -> int:
    """The first op of LIE that has a rule."""
    task = world.asked()
    execution = world.execution(task, world.output(task))
    ops = op_list(execution.facts, execution.task, LIE)
    return next(number for number, op in enumerate(ops) if op.rule == case_rule)


def lied(world: RefereeWorld, number: int) -> Answered:
    """A task whose executor falsified an element of that op by enough to be seen in its trace."""
    case = world.answered(world.asked(), forged(world.model, LIE, number, by=1 << 20))
    world.revealed(case, [world.honest_says(case)] * 2)
    assert world.status(case.task) == Status.DISPUTED
    return case


def played(code: bytes | None, rule: str = "dot", sender: bytes | None = None) -> Played:
    """An element is false, in an op of that rule; the code stands in the place of the second referee."""
    world = RefereeWorld()
    number = target_of(world, rule)
    if code is not None:
        world.ctx.codes[SECOND_REFEREE] = code
    case = lied(world, number)
    escrow = world.task(case.task).escrow
    before = {who: world.bond(who) for who in (case.executor, *case.verifiers)}
    dispute = world.challenge(case.task, sender=sender or hot_of(case.verifiers[0]))
    world.block()
    world.play(dispute, world.honest_party(case), case.claimed)
    return Played(world, case, dispute, escrow, {who: before[who] - world.bond(who) for who in before})


@pytest.mark.parametrize("code", [None, NOT_MINE], ids=["its own", "not mine"])
def test_a_second_referee_that_says_the_same_or_nothing_changes_nothing(code):
    game = played(code)
    assert game.world.dispute(game.number).reason == abi.ENDED_REFUTED
    assert game.world.of(abi.REFEREES_DIVERGED, game.case.task) == []
    assert not models.is_suspended(game.world.ctx, game.world.model.model_id) and HELD.get(game.world.ctx) == 0


@pytest.mark.parametrize(
    ("code", "said"),
    [(SAYS_TRUE, "says the opposite"), (LOOPS, "failed with 0x"), (REVERTS, "failed with 0x"),
     (b"", "answered 0 bytes that are no truth value")],
    ids=["opposite", "out of gas", "reverts", "no code"],
)  # fmt: skip
def test_a_planted_divergence_ends_without_a_winner(code, said):
    game = played(code)
    world, case, task = game.world, game.case, game.case.task
    assert world.dispute(game.number).reason == abi.ENDED_DIVERGED == 10
    (event,) = world.of(abi.REFEREES_DIVERGED, task)
    assert (event["nativeHolds"], event["second"], event["rule"]) == (False, said, "dot")
    assert event["model"] == world.model.model_id and event["accused"] == world.text(case.executor)
    # The stake is taken, and stays in the Referee's account; nothing of it is paid or burned.
    held = game.lost[case.executor]
    assert held == event["heldWei"] == HELD.get(world.ctx) == world.ctx.balance(REFEREE) > 0
    assert [game.lost[verifier] for verifier in case.verifiers] == [0, 0]
    assert [m.reason for m in mishaps.slashes(world.ctx, case.executor)] == [Reason.REFEREES_DIVERGED]
    end = world.ended(game.number)
    assert (end["lostWei"], end["costsWei"], end["askerWei"], end["bountyWei"], end["burnedWei"]) == (held, 0, 0, 0, 0)
    assert int(end["winner"], 16) == 0
    # The task goes back whole, with no pay, no credit, no receipt, no other attempt.
    assert world.status(task) == Status.REFUNDED
    (refund,) = world.of(abi.TASK_REFUNDED, task)
    assert (refund["amount"], refund["burnedWei"]) == (game.escrow, 0)
    assert world.credit(case.executor) == (0, 0) and world.of(abi.RECEIPT, task) == []
    world.block(3)
    world.check()


def opened_by_watcher(world: RefereeWorld, dispute: int, honest: Party, case: Answered) -> None:
    """The watcher opens a product of the honest list that was shown."""
    working = work(case.honest, world.model, honest.leaves[2])
    number = next(i for i, op in enumerate(working.ops) if op.rule == "dot")
    path = merkle.path(working.list_tree, number)
    world.block()
    world.send(abi.CHOOSE, dispute, number, working.roots[number], path, sender=WATCHER)
    world.block()
    if world.dispute(dispute).state == abi.DISPUTE_TILE:
        world.show(dispute, honest, hot_of(case.executor))
    world.send(abi.OPEN, dispute, 0, open_element(working, number, 0), sender=WATCHER)


def test_a_watchers_bond_returns_and_counts_for_nothing():
    world = RefereeWorld()
    case = agreed(world)
    first, _ = world.send(abi.BOND_FOR, case.task, WATCHER, sender=WATCHER)
    world.ctx.codes[SECOND_REFEREE] = LOOPS
    before = world.ctx.balance(WATCHER)
    dispute = world.challenge(case.task, 2)
    world.block()
    # An honest list: the watcher opens a product of it, which the native referee finds to hold.
    honest = world.honest_party(case)
    world.show(dispute, honest, hot_of(case.executor))
    opened_by_watcher(world, dispute, honest, case)
    assert world.dispute(dispute).reason == abi.ENDED_DIVERGED
    (event,) = world.of(abi.REFEREES_DIVERGED, case.task)
    assert event["nativeHolds"] is True
    assert world.ctx.balance(WATCHER) == before
    assert world.send(abi.HELD_WEI, sender=WATCHER) == HELD.get(world.ctx) > 0
    assert first > 0


def test_a_stand_in_answers_with_its_bond_for_a_list_that_the_referees_disagree_about_and_the_accused_with_nothing():
    world = RefereeWorld()
    case = agreed(world, callback_gas=50_000)
    world.ctx.codes[SECOND_REFEREE] = LOOPS
    stakes = {who: world.bond(who) for who in (case.executor, *case.verifiers)}
    before = world.ctx.balance(STRANGER)
    dispute = world.challenge(case.task, 2)
    world.block()
    honest = world.honest_party(case)
    bond, _ = world.send(abi.STAND_IN_BOND, dispute, STRANGER, sender=STRANGER)
    world.show(dispute, honest, STRANGER, bond)
    opened_by_watcher(world, dispute, honest, case)
    assert world.dispute(dispute).reason == abi.ENDED_DIVERGED
    assert {who: world.bond(who) for who in stakes} == stakes
    assert before - world.ctx.balance(STRANGER) == bond == HELD.get(world.ctx)
    world.block(2)
    (called,) = world.of(abi.CALLED_BACK, case.task)
    assert called["status"] == Status.REFUNDED, "nothing was refuted"
    world.check()


def test_nothing_more_is_asked_of_a_suspended_model():
    world = RefereeWorld()
    waiting = []
    world.ctx.codes[SECOND_REFEREE] = LOOPS
    case = lied(world, target_of(world, "dot"))
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.block()
    honest = world.honest_party(case)
    while world.dispute(number).state != abi.DISPUTE_OPEN:
        if world.dispute(number).turn == abi.TURN_DEFENDER:
            world.show(number, case.claimed, hot_of(case.executor))
        else:
            world.answer(number, honest)
        if world.dispute(number).state != abi.DISPUTE_OPEN:
            world.block()
    model = world.model.model_id
    waiting.append(world.post(model=model, tokens=tuple(world.prompt(5)), max_tokens=3))
    escrow = world.task(waiting[0]).escrow
    before = world.ctx.balance(POSTER)
    world.answer(number, honest)
    (event,) = world.events(abi.MODEL_SUSPENDED)
    assert (event["model"], event["dispute"]) == (model, number)
    assert world.ctx.call(models.HANDLERS, abi.IS_SUSPENDED, model, sender=WATCHER) is True
    with pytest.raises(Refused) as refusal:
        world.post(model=model, tokens=tuple(world.prompt(5)), max_tokens=3)
    assert refusal.value.code == "suspended" and "referees disagreed" in refusal.value.text
    world.block()
    assert world.status(waiting[0]) == Status.REFUNDED, "posted before, not dealt: it goes back whole"
    assert world.ctx.balance(POSTER) - before >= escrow
    created = len(world.events(abi.TASK_POSTED))
    world.block(world.params.epoch_blocks + 1)
    assert len(world.events(abi.TASK_POSTED)) == created, "no canaries"
    assert not models.counts(world.ctx, model) and models.candidates(world.ctx, model) == []


def test_the_second_referee_is_there_from_block_0_and_is_an_ordinary_contract():
    evm = Evm()
    assert evm.state.get_code(SECOND_REFEREE) == second_referee.code()
    asked = evm.send(SECOND_REFEREE, b"\x01\x02\x03\x04", is_static=True)
    assert asked.is_error, "it knows one method"
