"""Disputes: what a task, its executor, its verifiers and its watchers get and lose by them."""

import pytest
from referee_world import POSTER, STRANGER, WATCHER, RefereeWorld, forged, hot_of, payout_of

from chain.builder import OPENING_GAS_MAX
from consensus.work import slashing
from consensus.work.incentive import AUDITORS_MAX
from inference.opening import open_element
from inference.ops import Leaf
from primitives.address import REFEREE
from primitives.hashing import ZERO_HASH
from primitives.params import (
    COIN,
    DISPUTE_CHALLENGE_GAS,
    DISPUTE_DEFENCE_GAS,
    DISPUTE_MESSAGE_GAS,
    ChainParams,
)
from primitives.reasons import Reason
from primitives.task import NO_BAD_POSITION, Status, trace_key
from vm.system import (
    abi,
    gas,
    ledger,
    market_gas,
    mishaps,
    prologue,
    referee_end,
    referee_gas,
    referee_turns,
    second_referee,
    staking,
)
from vm.system.context import Refused
from vm.system.market_state import SEAT_MISSED, SEATS, TASKS

LIE = Leaf("state", 2)


def caught(world, leaf=LIE, target=3, **changes):
    """A task answered with one false element; both verifiers say otherwise."""
    task = world.asked(**changes)
    case = world.answered(task, forged(world.model, leaf, target))
    world.revealed(case, [world.honest_says(case)] * 2)
    assert world.status(task) == Status.DISPUTED
    return case


def agreed(world, **changes):
    """An honest task that both verifiers vouched for."""
    task = world.asked(**changes)
    case = world.answered(task)
    world.revealed(case, [world.honest_says(case)] * 2)
    assert world.status(task) == Status.AGREED
    return case


def slandered(world, own=True):
    """An honest task that its first verifier contradicts with a root of nothing; the second vouches for it."""
    task = world.asked()
    case = world.answered(task)
    world.revealed(case, [(b"\x07" * 32, NO_BAD_POSITION), world.honest_says(case)], own)
    assert world.status(task) == Status.DISPUTED
    return case


@pytest.fixture
def world():
    return RefereeWorld()


# The whole way


def test_a_false_element_is_found_from_the_root_down_and_everybody_gets_what_is_due(world):
    case = caught(world)
    task, (first, second) = case.task, case.verifiers
    gain, escrow = TASKS.get(world.ctx, task).gain, world.task(task).escrow
    ledger.add_work(world.ctx, case.executor, 1000, 0)
    bonds = {who: world.bond(who) for who in (case.executor, first, second)}
    held = {who: world.ctx.balance(who) for who in (POSTER, hot_of(first), payout_of(first), payout_of(second))}
    number = world.challenge(task, sender=hot_of(first))
    assert [e["leaf"] for e in world.of(abi.CHALLENGED, task)] == [abi.NO_LEAF]
    world.block()
    view = world.play(number, world.honest_party(case), case.claimed)
    assert (view.state, view.reason) == (abi.DISPUTE_ENDED, abi.ENDED_REFUTED)
    (judged,) = world.of(abi.JUDGED, task)
    assert judged["holds"] is False
    end = world.ended(number)
    taken = slashing.first_offence(world.params, gain, world.ctx.base_fee)
    assert bonds[case.executor] - world.bond(case.executor) == taken == end["lostWei"]
    assert [world.bond(who) for who in (first, second)] == [bonds[first], bonds[second]]
    assert end["askerWei"] == gain == world.ctx.balance(POSTER) - held[POSTER]
    assert end["bountyWei"] == taken // 10
    for verifier in (first, second):  # both said what proved right: each half of the bounty, and the audit
        assert world.ctx.balance(payout_of(verifier)) - held[payout_of(verifier)] > taken // 20
    assert world.ctx.balance(hot_of(first)) > held[hot_of(first)], "its messages are paid"
    assert sum(end[name] for name in ("costsWei", "askerWei", "bountyWei", "burnedWei")) == taken
    assert world.credit(case.executor) == (0, 0)
    assert [m.reason for m in mishaps.slashes(world.ctx, case.executor)] == [Reason.WRONG_WORK]
    # The same task, the same escrow and sampling seed, another key of the trace, the next one's turn at once.
    again = world.task(task)
    (refuted,) = world.of(abi.TASK_REFUTED, task)
    assert refuted["next"] == world.text(again.slots[0]) and refuted["dispute"] == number
    assert (again.status, again.attempt, again.disputes, again.escrow) == (Status.REFUTED, 1, 0, escrow)
    dealt = world.of(abi.TASK_DEALT, task)
    assert dealt[0]["seed"] == dealt[1]["seed"] == again.seed
    assert dealt[1]["traceKey"] == trace_key(again.seed, 1) != dealt[0]["traceKey"]
    assert again.dealt_block == world.height - 1
    world.block()
    fresh = world.answered(task)
    assert fresh.executor == again.slots[0] != case.executor
    world.revealed(fresh, [world.honest_says(fresh)] * len(fresh.verifiers))
    world.block(world.params.maturity_blocks + world.delay)
    assert world.status(task) == Status.SETTLED
    assert world.ctx.balance(REFEREE) == 0


def test_with_nobody_left_the_asker_gets_everything_back():
    world = RefereeWorld(validators=3)
    task = world.asked()
    escrow = world.task(task).escrow
    slots = world.task(task).slots
    assert len(slots) == 3
    before = world.ctx.balance(POSTER)
    for attempt in range(3):
        case = world.answered(task, forged(world.model, LIE, 3))
        assert case.executor == slots[attempt]
        world.revealed(case, [world.honest_says(case)] * 2)
        number = world.challenge(task, sender=hot_of(case.verifiers[0]))
        world.block()
        world.play(number, world.honest_party(case), case.claimed)
        world.block(0 if attempt == 2 else 1)
    assert world.status(task) == Status.REFUNDED
    (refund,) = world.of(abi.TASK_REFUNDED, task)
    assert (refund["amount"], refund["burnedWei"]) == (escrow, 0)
    gains = sum(e["askerWei"] for e in world.of(abi.DISPUTE_ENDED_LOG, task))
    assert world.ctx.balance(POSTER) - before == escrow + gains


def test_a_verdict_that_equals_a_refuted_root_pays_the_same(world):
    task = world.asked()
    case = world.answered(task, forged(world.model, LIE, 3))
    first, accomplice = case.verifiers
    world.revealed(case, [world.honest_says(case), (case.claimed.root, NO_BAD_POSITION)])
    assert world.status(task) == Status.DISPUTED
    before = {who: world.bond(who) for who in (case.executor, accomplice, first)}
    number = world.challenge(task, sender=hot_of(first))
    world.block()
    world.play(number, world.honest_party(case), case.claimed)
    lost = {who: before[who] - world.bond(who) for who in before}
    assert lost[case.executor] == lost[accomplice] > 0 == lost[first]
    assert mishaps.slashes(world.ctx, accomplice)[0].reason == Reason.VERDICT_REFUTED
    assert world.ctx.events(abi.DISPUTE_ENDED_LOG)[-1]["lostWei"] == 2 * lost[accomplice]


def test_a_repeated_lie_costs_a_tenth_of_the_bond(world):
    for _ in range(40):
        case = caught(world)
        again = any(m.reason == Reason.WRONG_WORK for m in mishaps.slashes(world.ctx, case.executor))
        before = world.bond(case.executor)
        number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
        world.block()
        world.play(number, world.honest_party(case), case.claimed)
        lost = before - world.bond(case.executor)
        if again:
            assert lost == before // 10
            assert mishaps.slashes(world.ctx, case.executor)[0].reason == Reason.WRONG_WORK_AGAIN
            return
        assert lost == COIN
    raise AssertionError("nobody was dealt two tasks")


def test_a_bad_position_is_challenged_at_its_own_leaf():
    world = RefereeWorld()
    task = world.asked(max_tokens=4)
    truth = world.output(task)
    wrong = (*truth[:-1], (truth[-1] + 3) % 19)
    wrong = wrong if len(wrong) == 4 or wrong[-1] == 1 else (*wrong, *[5] * (4 - len(wrong)))
    case = world.answered(task, output=wrong)
    bad = 5 + len(truth) - 1
    world.revealed(case, [world.honest_says(case, bad)] * 2)
    assert world.task(task).executor_root == case.honest.trace[-1][0], "a true trace of a false answer"
    leaf = world.honest_party(case).bad_leaf(bad)
    number = world.challenge(task, leaf, sender=hot_of(case.verifiers[1]))
    world.block()
    assert world.dispute(number).state == abi.DISPUTE_LIST
    assert world.play(number, world.honest_party(case), case.claimed).reason == abi.ENDED_REFUTED


def test_an_honest_trace_under_another_answer_is_refuted_too():
    """The token of the trace is what was sampled, the one that was submitted is not; nothing after it would tell."""
    world = RefereeWorld()
    task = world.asked(max_tokens=1)
    truth = world.output(task)
    case = world.answered(task, output=truth, answered=((truth[0] + 2) % 19,))
    assert case.claimed.root != case.honest.trace[-1][0]
    world.revealed(case, [world.honest_says(case, 5)] * 2)
    number = world.challenge(task, sender=hot_of(case.verifiers[0]))
    world.block()
    assert world.play(number, world.honest_party(case), case.claimed).reason == abi.ENDED_REFUTED
    (judged,) = world.of(abi.JUDGED, task)
    assert (judged["rule"], judged["holds"]) == ("leaf", False)


# Honest executors


def test_an_honest_root_survives_a_slanderer_who_then_pays_and_the_task_settles(world):
    case = slandered(world)
    liar, honest = case.verifiers
    before, bonds = world.bond(liar), {who: world.bond(who) for who in (case.executor, honest)}
    number = world.challenge(case.task, sender=hot_of(liar))
    world.block()
    world.show(number, case.claimed, hot_of(case.executor))
    held = world.ctx.balance(hot_of(case.executor))
    world.block(world.params.silence_blocks + 2)
    view = world.dispute(number)
    assert (view.state, view.reason) == (abi.DISPUTE_ENDED, abi.ENDED_ABANDONED)
    assert (world.status(case.task), world.bond(liar)) == (Status.DISPUTED, before), "somebody may take it up"
    assert world.refusal(abi.CHALLENGE, case.task, abi.NO_LEAF, sender=hot_of(liar)) == "bond_too_low"
    world.block(world.params.silence_blocks + 1)
    lost = before - world.bond(liar)
    assert lost == referee_end.bond_at(TASKS.get(world.ctx, case.task).gain, world.ctx.base_fee)
    assert world.ctx.balance(hot_of(case.executor)) > held, "the defence's messages are paid from it"
    assert [e["verifier"] for e in world.of(abi.VERDICT_VOID, case.task)] == [world.text(liar)]
    assert world.status(case.task) == Status.AGREED, "as if that verdict never was"
    world.block(world.params.maturity_blocks + world.delay)
    assert world.status(case.task) == Status.SETTLED
    paid = {e["operator"] for e in world.of(abi.PAID, case.task)}
    assert world.text(honest) in paid and world.text(liar) not in paid
    assert {who: world.bond(who) for who in bonds} == bonds


def test_whatever_is_opened_an_honest_list_holds(world):
    """A watcher names any leaf and any op, and opens what it likes."""
    case = agreed(world)
    party = world.honest_party(case)
    filed = 0
    for leaf, op in ((0, 0), (2, 41), (len(party.leaves) - 1, 3)):
        number = world.challenge(case.task, leaf)
        filed += 1
        world.block()
        working = party.working(leaf)
        world.show(number, party, hot_of(case.executor))
        roots = [bytes(root) for root in working.roots]
        path = path_in(working.list_tree, op)
        world.send(abi.CHOOSE, number, op, roots[op], path, sender=WATCHER)
        while world.dispute(number).state != abi.DISPUTE_OPEN:
            view = world.dispute(number)
            if view.turn == abi.TURN_DEFENDER:
                world.show(number, party, STRANGER)  # anybody may
            else:
                world.send(abi.CHOOSE, number, 0, working.tree(op)[0][0], path_in(working.tree(op), 0), sender=WATCHER)
        held = world.ctx.balance(WATCHER)
        world.send(abi.OPEN, number, 0, open_element(working, op, 0), sender=WATCHER)
        assert world.dispute(number).reason == abi.ENDED_HELD
        assert world.ctx.balance(WATCHER) == held, "its bond is gone"
        end = world.ended(number)
        assert end["winner"] == world.text(case.executor) and end["loser"] == world.text(WATCHER)
        assert end["lostWei"] == end["costsWei"] + end["burnedWei"]
    assert filed == 3 and world.bond(case.executor) == 10_000 * COIN
    assert world.status(case.task) == Status.AGREED
    world.block(world.params.maturity_blocks + world.delay + 1)
    assert world.status(case.task) == Status.SETTLED


def path_in(tree, index):
    """Siblings from a leaf of a small tree to its root."""
    path = []
    for level in tree[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index >>= 1
    return path


def test_a_challenge_holds_the_settlement_and_a_lost_one_lets_it_go(world):
    case = agreed(world)
    number = world.challenge(case.task)
    world.block(world.params.maturity_blocks + world.delay + 5)
    view = world.task(case.task)
    assert (view.status, view.disputes) == (Status.AGREED, 1)
    with pytest.raises(Refused, match="may be cancelled"):
        world.cancel(case.task)
    world.show(number, case.claimed, hot_of(case.executor))
    world.block(world.params.silence_blocks + 3)
    assert world.dispute(number).reason == abi.ENDED_ABANDONED
    assert world.status(case.task) == Status.SETTLED


def test_a_challenge_while_reveals_are_still_open_waits_for_them_and_they_for_it(world):
    """One verifier never opens its verdict: the task is agreed with the other only when the challenge is lost."""
    task = world.asked()
    case = world.answered(task)
    silent, honest = case.verifiers
    assert world.verdict(silent, task, b"\x08" * 32) == []
    assert world.verdict(honest, task, *world.honest_says(case)) == []
    world.block()
    assert world.reveal(case.executor, task, case.claimed.root) == []
    assert world.status(task) == Status.REVEALING
    number = world.challenge(task)
    world.block(world.params.reveal_window + 1)
    assert (world.status(task), world.task(task).disputes) == (Status.REVEALING, 1)
    assert {e["operator"] for e in world.of(abi.TASK_MISSED, task)} == {world.text(silent)}
    world.show(number, case.claimed, hot_of(case.executor))
    world.block(world.params.silence_blocks + 2)
    assert world.dispute(number).reason == abi.ENDED_ABANDONED
    assert world.status(task) == Status.AGREED
    world.block(world.params.maturity_blocks + world.delay)
    assert world.status(task) == Status.SETTLED


def test_of_two_who_contradict_only_what_proved_right_is_rewarded(world):
    task = world.asked()
    case = world.answered(task, forged(world.model, LIE, 3))
    right, guessing = case.verifiers
    world.revealed(case, [world.honest_says(case), (b"\x05" * 32, NO_BAD_POSITION)])
    number = world.challenge(task, sender=hot_of(right))
    other = world.challenge(task, sender=hot_of(guessing))
    before = {who: world.bond(who) for who in (right, guessing)}
    held = world.ctx.balance(payout_of(guessing))
    world.block()
    world.play(number, world.honest_party(case), case.claimed)
    world.block()
    assert world.dispute(other).reason == abi.ENDED_MOOT
    assert {who: world.bond(who) for who in before} == before
    assert world.ctx.balance(payout_of(guessing)) == held
    assert world.ended(number)["bountyWei"] == COIN // 10


def test_with_every_verdict_void_and_an_asker_who_wanted_some_everything_goes_back(world):
    task = world.asked(assurance=1)
    escrow, before = world.task(task).escrow, world.ctx.balance(POSTER)
    case = world.answered(task)
    world.revealed(case, [(b"\x07" * 32, NO_BAD_POSITION)] * 2)
    world.block(world.params.silence_blocks + 2)
    assert len(world.of(abi.VERDICT_VOID, task)) == 2
    assert world.status(task) == Status.REFUNDED
    assert world.ctx.balance(POSTER) - before == escrow
    assert world.bond(case.executor) == 10_000 * COIN


# Silence


def test_an_undefended_root_costs_the_first_offence_and_no_credit(world):
    case = caught(world)
    ledger.add_work(world.ctx, case.executor, 1000, 10)
    before = world.bond(case.executor)
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.block()
    last = world.dispute(number).last_block
    assert last == world.height + world.params.silence_blocks
    world.block_until(last)
    assert world.dispute(number).state == abi.DISPUTE_TRACE
    world.block()
    assert world.dispute(number).reason == abi.ENDED_UNDEFENDED
    assert before - world.bond(case.executor) == COIN
    assert world.credit(case.executor)[0] >= 0
    assert mishaps.slashes(world.ctx, case.executor)[0].reason == Reason.DISPUTE_SILENCE
    assert world.task(case.task).attempt == 1


def test_the_third_loss_by_time_counts_as_a_repeat_and_a_proven_lie_does_not_wait_for_it(world):
    who, ctx = world.spec.validators[0].operator, world.ctx
    assert [referee_end.offence(ctx, who, True) for _ in range(3)] == [False, False, True]
    assert referee_end.offence(ctx, who, False) is False, "the first that was proved"
    assert referee_end.offence(ctx, who, False) is True
    ctx.height += world.params.slash_window_epochs * world.params.epoch_blocks + 1
    assert referee_end.offence(ctx, who, False) is False, "long ago"
    assert [referee_end.offence(ctx, who, True) for _ in range(2)] == [False, False]


def test_later_moves_share_a_clock(world):
    case = caught(world)
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.block()
    world.block(10)
    world.show(number, case.claimed, hot_of(case.executor))  # the first answer: silence, not the clock
    view = world.dispute(number)
    assert (view.turn, view.defender_left, view.challenger_left) == (
        abi.TURN_CHALLENGER, world.params.dispute_clock_blocks, world.params.silence_blocks,
    )  # fmt: skip
    world.block(7)
    world.answer(number, world.honest_party(case))
    view = world.dispute(number)
    assert view.turn == abi.TURN_DEFENDER and view.challenger_left == world.params.dispute_clock_blocks
    stopped = view.last_block - world.height - world.params.dispute_clock_blocks
    assert stopped == 0
    world.block(4)
    world.show(number, case.claimed, hot_of(case.executor))
    assert world.dispute(number).defender_left <= world.params.dispute_clock_blocks - 3
    world.block(world.params.dispute_clock_blocks + 3)
    assert world.dispute(number).reason == abi.ENDED_ABANDONED
    assert world.refusal(abi.SHOW, number, b"", sender=STRANGER) == "not_running"


def test_a_root_that_is_withheld_when_contradicted_counts_as_undefended(world):
    task = world.asked()
    case = world.answered(task, forged(world.model, LIE, 3))
    for verifier in case.verifiers:
        assert world.verdict(verifier, task, *world.honest_says(case)) == []
    world.block(3)
    world.reveal(case.verifiers[0], task, *world.honest_says(case))
    assert world.status(task) == Status.DISPUTED
    assert world.refusal(abi.CHALLENGE, task, abi.NO_LEAF, sender=hot_of(case.verifiers[0])) == "not_accusable"
    before = world.bond(case.executor)
    world.block_until(world.task(task).revealing_block + world.params.reveal_window + world.params.silence_blocks)
    assert (world.bond(case.executor), world.status(task)) == (before, Status.DISPUTED), "its silence is not over"
    world.block()
    assert before - world.bond(case.executor) == COIN
    (refuted,) = world.of(abi.TASK_REFUTED, task)
    assert (refuted["reason"], refuted["dispute"]) == (abi.ENDED_WITHHELD, 0)
    assert world.task(task).attempt == 1
    assert mishaps.slashes(world.ctx, case.executor)[0].reason == Reason.ROOT_WITHHELD


def test_a_contradiction_that_becomes_no_challenge_is_void_and_costs_one(world):
    case = slandered(world)
    liar = case.verifiers[0]
    before = world.bond(liar)
    (duty,) = [duty for duty in world.duties(liar) if duty.role == abi.ROLE_CHALLENGE]
    world.block_until(duty.last_block + 1)
    assert world.bond(liar) < before
    assert mishaps.slashes(world.ctx, liar)[0].reason == Reason.NO_CHALLENGE
    assert world.status(case.task) == Status.AGREED
    assert SEATS.get(world.ctx, case.task, b"\x00").state == SEAT_MISSED
    assert world.refusal(abi.CHALLENGE, case.task, abi.NO_LEAF, sender=hot_of(liar), value=0) == "bond_too_low"


# Those who answer for others


def test_a_stand_ins_false_list_costs_only_the_stand_in(world):
    case = slandered(world)
    liar = case.verifiers[0]
    number = world.challenge(case.task, 2, sender=hot_of(liar))
    world.block()
    wrong = forged(world.model, LIE, 3)(case.honest)
    bond, from_stake = world.send(abi.STAND_IN_BOND, number, STRANGER, sender=STRANGER)
    assert not from_stake
    assert world.refusal(abi.SHOW, number, b"", sender=STRANGER, value=bond) == "bad_page"
    bonds = {who: world.bond(who) for who in (case.executor, liar, case.verifiers[1])}
    held = world.ctx.balance(STRANGER)
    world.show(number, wrong, STRANGER, bond + 5)
    assert held - world.ctx.balance(STRANGER) == bond, "the rest came back"
    world.block()
    for _ in range(20):
        view = world.dispute(number)
        if view.state == abi.DISPUTE_LIST and not any(view.operations):
            break
        if view.turn == abi.TURN_DEFENDER:
            world.show(number, wrong, STRANGER)
        else:
            world.answer(number, world.honest_party(case))
        world.block()
    (lost,) = world.of(abi.LIST_REFUTED, case.task)
    assert (lost["author"], lost["reason"], lost["bond"]) == (world.text(STRANGER), abi.ENDED_LIST_REFUTED, bond)
    assert {who: world.bond(who) for who in bonds} == bonds, "nobody else lost anything"
    view = world.dispute(number)
    assert (view.turn, view.author, view.defender_spoke) == (abi.TURN_DEFENDER, bytes(20), False)
    assert view.defender_left == world.params.silence_blocks
    assert world.send(abi.STAND_IN_BOND, number, STRANGER, sender=STRANGER)[0] == 2 * bond
    # The list is asked for again, and the accused's own holds.
    world.show(number, case.claimed, hot_of(case.executor))
    assert world.dispute(number).author == case.executor


def test_a_co_defendant_answers_from_its_stake_and_once(world):
    case = slandered(world)
    liar, honest = case.verifiers
    number = world.challenge(case.task, 2, sender=hot_of(liar))
    world.block()
    assert world.send(abi.STAND_IN_BOND, number, hot_of(honest), sender=STRANGER)[1]
    assert world.refusal(abi.SHOW, number, bytes(32 * world.dispute(number).count), sender=hot_of(honest),
                         value=1) == "not_payable"  # fmt: skip
    wrong = forged(world.model, LIE, 3)(case.honest)
    world.show(number, wrong, hot_of(honest))
    unbonding = world.params.unbonding_blocks
    world.ctx.call(staking.HANDLERS, abi.UNBOND, COIN, sender=honest)
    world.ctx.height += unbonding
    with pytest.raises(Refused, match="answers for 1 disputes"):
        world.ctx.call(staking.HANDLERS, abi.WITHDRAW, sender=honest)
    world.ctx.height -= unbonding
    before = world.bond(honest)
    world.block()
    while world.dispute(number).author != bytes(20):
        if world.dispute(number).turn == abi.TURN_DEFENDER:
            world.show(number, wrong, STRANGER)
        else:
            world.answer(number, world.honest_party(case))
        world.block()
    assert world.bond(honest) < before
    assert world.bond(case.executor) == 10_000 * COIN
    view = world.dispute(number)
    page = b"".join(world.honest_party(case).working(2).roots[:: 1])
    assert len(page) == 32 * view.count
    assert world.refusal(abi.SHOW, number, page, sender=hot_of(honest)) == "stood"


def test_a_stand_in_who_goes_silent_loses_its_bond_and_the_list_is_asked_for_again(world):
    case = caught(world)
    number = world.challenge(case.task, 2, sender=hot_of(case.verifiers[0]))
    world.block()
    bond, _ = world.send(abi.STAND_IN_BOND, number, STRANGER, sender=STRANGER)
    world.show(number, case.claimed, STRANGER, bond)
    world.block()
    world.answer(number, world.honest_party(case))
    assert world.dispute(number).turn == abi.TURN_DEFENDER
    world.block(world.params.dispute_clock_blocks + 3)
    assert [e["reason"] for e in world.of(abi.LIST_REFUTED, case.task)] == [abi.ENDED_LIST_UNDEFENDED]
    world.block(world.params.silence_blocks + 3)
    assert world.dispute(number).reason == abi.ENDED_UNDEFENDED, "nobody stood for it in the end"


# Lines


def test_one_dispute_of_an_accused_runs_and_drawn_verifiers_come_first(world):
    case = caught(world)
    by_watcher = [world.challenge(case.task) for _ in range(2)]
    by_verifier = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    assert world.task(case.task).disputes == 3
    assert world.send(abi.OPEN_DISPUTES, sender=STRANGER) == [1, 2, 3]
    world.block()
    running = [n for n in (1, 2, 3) if world.dispute(n).state != abi.DISPUTE_QUEUED]
    assert running == [by_verifier]
    assert world.refusal(abi.SHOW, by_watcher[0], b"", sender=STRANGER) == "not_running"
    held = world.ctx.balance(WATCHER)
    bonds = [world.dispute(n).bond for n in by_watcher]
    assert bonds[1] == 2 * bonds[0], "each further one bonds twice as much"
    world.play(by_verifier, world.honest_party(case), case.claimed)
    world.block()
    assert [world.dispute(n).reason for n in by_watcher] == [abi.ENDED_MOOT] * 2
    assert world.ctx.balance(WATCHER) - held == sum(bonds)
    assert world.send(abi.OPEN_DISPUTES, sender=STRANGER) == []
    assert world.send(abi.DISPUTES_OF, case.task, sender=STRANGER) == [1, 2, 3]


def test_no_more_disputes_run_at_once_than_the_lane_carries(world):
    most = referee_gas.running_max(world.params)
    cases = []
    while len({case.executor for case in cases}) < 3:
        cases.append(agreed(world))
        world.challenge(cases[-1].task)
    assert most == 4
    world.block(2)
    states = [world.dispute(n).state for n in world.send(abi.OPEN_DISPUTES, sender=STRANGER)]
    assert sum(state != abi.DISPUTE_QUEUED for state in states) == 3


def test_a_watcher_who_is_right_gets_the_bounty_and_its_bond(world):
    """Both verifiers collude: the answer is agreed, and a watcher shows that it is false."""
    task = world.asked()
    case = world.answered(task, forged(world.model, LIE, 3))
    world.revealed(case, [(case.claimed.root, NO_BAD_POSITION)] * 2)
    assert world.status(task) == Status.AGREED
    held = world.ctx.balance(WATCHER)
    number = world.challenge(task)
    bond = world.dispute(number).bond
    assert held - world.ctx.balance(WATCHER) == bond
    world.block()
    world.play(number, world.honest_party(case), case.claimed)
    end = world.ended(number)
    assert end["winner"] == world.text(WATCHER)
    assert end["lostWei"] == 3 * COIN, "the executor and both that vouched for it"
    assert world.ctx.balance(WATCHER) - held == end["bountyWei"] + end["costsWei"] > 3 * COIN // 10
    assert world.task(task).attempt == 1


def test_nothing_of_an_accused_is_paid_out_while_it_is_accused(world):
    case = caught(world)
    who = case.executor
    world.ctx.call(staking.HANDLERS, abi.UNBOND, 100 * COIN, sender=who)
    world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.ctx.height += world.params.unbonding_blocks
    with pytest.raises(Refused, match="answers for 1 disputes"):
        world.ctx.call(staking.HANDLERS, abi.WITHDRAW, sender=who)


def test_the_asker_may_cancel_a_disputed_task_and_the_dispute_goes_on(world):
    case = caught(world)
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    escrow = world.task(case.task).escrow
    before = world.ctx.balance(POSTER)
    world.cancel(case.task)
    assert world.ctx.balance(POSTER) - before == escrow
    world.block()
    world.play(number, world.honest_party(case), case.claimed)
    assert world.ended(number)["reason"] == abi.ENDED_REFUTED
    view = world.task(case.task)
    assert view.status == Status.REFUNDED and view.done_block
    assert [e["attempt"] for e in world.of(abi.TASK_DEALT, case.task)] == [0], "nobody is dealt it again"


def test_an_executor_whose_task_was_cancelled_is_paid_by_the_slanderer(world):
    case = slandered(world)
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.cancel(case.task)
    world.block()
    world.show(number, case.claimed, hot_of(case.executor))
    held = world.ctx.balance(payout_of(case.executor))
    world.block(world.params.silence_blocks + 2)
    assert world.dispute(number).reason == abi.ENDED_ABANDONED
    assert world.status(case.task) == Status.DISPUTED
    world.block(world.params.silence_blocks + 1)
    assert world.ctx.balance(payout_of(case.executor)) > held
    assert world.status(case.task) == Status.REFUNDED


def test_clocks_stand_while_the_lane_is_full(world):
    case = caught(world)
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.block()
    last = world.dispute(number).last_block
    world.block()  # the block in which the turn began is not counted
    for _ in range(5):
        referee_turns.note_message(world.ctx, world.params.dispute_lane_gas)
        world.block()
    assert world.dispute(number).last_block == last + 5
    world.block_until(last + 5)
    assert world.dispute(number).state == abi.DISPUTE_TRACE
    world.block()
    assert world.dispute(number).reason == abi.ENDED_UNDEFENDED


def test_the_slowest_dispute_takes_two_silences_and_two_clocks(world):
    """Each side waits as long as it may; no message of its own stops a clock."""
    case = caught(world)
    number = world.challenge(case.task, sender=hot_of(case.verifiers[0]))
    world.block()
    began, moves = world.height, 0
    while (view := world.dispute(number)).state != abi.DISPUTE_ENDED:
        left = view.defender_left if view.turn == abi.TURN_DEFENDER else view.challenger_left
        spoke = view.defender_spoke if view.turn == abi.TURN_DEFENDER else view.challenger_spoke
        world.block(min(left, 4) if spoke else left)
        assert world.height <= world.dispute(number).last_block
        if view.turn == abi.TURN_DEFENDER:
            world.show(number, case.claimed, hot_of(case.executor))
        else:
            world.answer(number, world.honest_party(case))
        moves += 1
    assert moves > 5
    longest = 2 * (world.params.silence_blocks + world.params.dispute_clock_blocks)
    assert 2 * world.params.silence_blocks < world.height - began <= longest == 180


# What is refused


def test_who_may_not_challenge_what(world):
    other = world.asked()
    case = agreed(world)
    refused = [
        (abi.CHALLENGE, (other, abi.NO_LEAF), "not_accusable"),
        (abi.CHALLENGE, (ZERO_HASH, abi.NO_LEAF), "unknown_task"),
        (abi.CHALLENGE, (case.task, 2**32 - 2), "no_leaf"),
        (abi.CHALLENGE, (case.task, 0), "bond_too_low"),
        (abi.SHOW, (1, b""), "unknown_dispute"),
        (abi.SHOW, (2**64 - 1, b""), "unknown_dispute"),
        (abi.CHOOSE, (0, 0, ZERO_HASH, []), "unknown_dispute"),
        (abi.OPEN, (7, 0, b""), "unknown_dispute"),
        (abi.GET_DISPUTE, (1,), "unknown_dispute"),
        (abi.BOND_FOR, (other[:-1] + b"\x01", WATCHER), "unknown_task"),
    ]
    for function, arguments, code in refused:
        assert world.refusal(function, *arguments, sender=WATCHER) == code, function.name


def test_malformed_moves_are_refused_and_change_nothing(world):
    case = caught(world)
    challenger = hot_of(case.verifiers[0])
    number = world.challenge(case.task, sender=challenger)
    assert world.refusal(abi.CHALLENGE, case.task, abi.NO_LEAF, sender=challenger) == "given"
    world.block()
    accused, ours = hot_of(case.executor), world.honest_party(case)
    count = world.dispute(number).count
    for page in (b"", bytes(31), bytes(32 * count), bytes(32 * (count + 1)), bytes(32 * 257), bytes(16_000)):
        assert world.refusal(abi.SHOW, number, page, sender=accused) == "bad_page"
    assert world.refusal(abi.CHOOSE, number, 0, ZERO_HASH, [], sender=challenger) == "not_your_turn"
    assert world.refusal(abi.SHOW, number, bytes(32 * count), sender=accused, value=1) in ("bad_page", "not_payable")
    world.show(number, case.claimed, accused)
    choice = ours.choose(world.games(number))
    good = (choice.index, choice.child, list(choice.path))
    assert world.refusal(abi.CHOOSE, number, *good, sender=accused) == "not_challenger"
    bad = [
        (count, choice.child, good[2]), (2**32 - 1, choice.child, good[2]), (choice.index, bytes(32), good[2]),
        (choice.index, choice.child, good[2][:-1]), (choice.index, choice.child, [*good[2], bytes(32)]),
        (choice.index, choice.child, [bytes(32)] * 5_000), (choice.index ^ 1, choice.child, good[2]),
    ]  # fmt: skip
    for move in bad:
        assert world.refusal(abi.CHOOSE, number, *move, sender=challenger) == "bad_path"
    assert world.refusal(abi.OPEN, number, 0, b"", sender=challenger) == "stage"
    world.send(abi.CHOOSE, number, *good, sender=challenger)
    while world.dispute(number).state != abi.DISPUTE_OPEN:
        if world.dispute(number).turn == abi.TURN_DEFENDER:
            if world.dispute(number).state == abi.DISPUTE_TILE:
                size = world.dispute(number).count
                for tile in (b"", bytes(size), bytes(size + 1)):
                    assert world.refusal(abi.SHOW, number, tile, sender=accused) == "bad_tile"
            world.show(number, case.claimed, accused)
        else:
            if world.dispute(number).state == abi.DISPUTE_LIST:
                wrong = abi.NO_OP, b"\x01" * 32, []
                assert world.refusal(abi.CHOOSE, number, *wrong, sender=challenger) == "bad_choice"
            world.answer(number, ours)
    opening = ours.open(world.games(number))
    for data in (b"", opening.data[:-1], opening.data + b"\0", bytes(len(opening.data)), b"\xff" * 20_000):
        assert world.refusal(abi.OPEN, number, opening.element, data, sender=challenger) == "invalid_opening"
    for element in (256, 2**32, 2**64 - 1):
        assert world.refusal(abi.OPEN, number, element, opening.data, sender=challenger) == "element"
    assert world.refusal(abi.OPEN, number, opening.element, opening.data, sender=STRANGER) == "not_challenger"
    world.send(abi.OPEN, number, opening.element, opening.data, sender=challenger)
    assert world.dispute(number).reason == abi.ENDED_REFUTED


def test_no_bytes_of_an_opening_leave_the_referee(world, rng):
    """Whatever is opened: a verdict, or a refusal; anything else would halt every node."""
    case = caught(world)
    challenger = hot_of(case.verifiers[0])
    number = world.challenge(case.task, sender=challenger)
    world.block()
    ours = world.honest_party(case)
    while world.dispute(number).state != abi.DISPUTE_OPEN:
        if world.dispute(number).turn == abi.TURN_DEFENDER:
            world.show(number, case.claimed, hot_of(case.executor))
        else:
            world.answer(number, ours)
    opening = ours.open(world.games(number))
    storage, balances = dict(world.ctx.storage), dict(world.ctx.balances)
    for _ in range(150):
        data = bytearray(opening.data)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        try:
            world.send(abi.OPEN, number, opening.element, bytes(data), sender=challenger)
        except Refused as refusal:
            assert refusal.code == "invalid_opening"
        else:
            world.ctx.storage, world.ctx.balances = dict(storage), dict(balances)


# Gas


def message_gas(data: bytes, executed: int) -> int:
    """What the EVM charges for a message to the Referee: EIP-7623's floor, or calldata and execution."""
    tokens = sum(1 if byte == 0 else 4 for byte in data)
    return 21_000 + max(10 * tokens, 4 * tokens + executed + gas.CALL + gas.CALLDATA_BYTE * len(data))


def test_every_message_takes_less_than_a_dispute_message_may_and_a_whole_dispute_fits_its_bounds():
    """The largest of each: a page of 256 hashes, a tile of 256 elements of 8 bytes, an opening of 16 KiB, one of a rule
    that the second referee is asked about too."""
    end = referee_gas.end(2, 2)
    page = message_gas(abi.SHOW.encode_call(1, b"\x01" * 8192), referee_gas.SHOW + 8192 * referee_gas.SHOW_BYTE)
    tile = message_gas(abi.SHOW.encode_call(1, b"\x01" * 2048), referee_gas.SHOW + 2048 * referee_gas.SHOW_BYTE)
    choice = message_gas(abi.CHOOSE.encode_call(1, 255, b"\x01" * 32, [b"\x01" * 32] * 8), referee_gas.CHOOSE)
    longest = message_gas(abi.OPEN.encode_call(1, 2**33, b"\x01" * 13_907), referee_gas.OPEN + end)
    most = message_gas(abi.OPEN.encode_call(1, 2**33, b"\x01" * 16_384), referee_gas.OPEN + end)
    twice = message_gas(abi.OPEN.encode_call(1, 2**33, b"\x01" * 9_500), referee_gas.OPEN + second_referee.GAS + end)
    filing = message_gas(abi.CHALLENGE.encode_call(b"\x01" * 32, 2**32 - 1), referee_gas.CHALLENGE + end)
    print({"page": page, "tile": tile, "choice": choice, "longest opening": longest, "most": most, "twice": twice})
    assert max(page, tile, choice, longest, most, twice, filing) < DISPUTE_MESSAGE_GAS
    assert 10 * page + tile < DISPUTE_DEFENCE_GAS
    assert filing + 10 * choice + most < DISPUTE_CHALLENGE_GAS


def test_a_node_asks_for_the_gas_that_a_message_may_take_by_its_kind():
    seats = AUDITORS_MAX, AUDITORS_MAX * (1 + ChainParams().redraws_max)
    page = abi.SHOW.encode_call(1, b"\x01" * 8192)
    choice = abi.CHOOSE.encode_call(1, 255, b"\x01" * 32, [b"\x01" * 32] * 8)
    filing = abi.CHALLENGE.encode_call(b"\x01" * 32, 2**32 - 1)
    for data, asked, executed in (
        (page, referee_gas.showing(page), referee_gas.SHOW + len(page) * referee_gas.SHOW_BYTE),
        (page[:100], referee_gas.showing(page[:100]), referee_gas.SHOW + 100 * referee_gas.SHOW_BYTE),
        (choice, referee_gas.choosing(choice), referee_gas.CHOOSE),
        (filing, referee_gas.challenging(filing, *seats), referee_gas.CHALLENGE + referee_gas.end(*seats)),
    ):
        assert message_gas(data, executed) <= asked < DISPUTE_MESSAGE_GAS


def test_a_node_gives_an_opening_gas_for_the_dearest_end_and_every_builder_has_room_for_it():
    seats = AUDITORS_MAX * (1 + ChainParams().redraws_max)
    data = abi.OPEN.encode_call(1, 2**33, b"\x01" * 9_500)
    end = referee_gas.end(AUDITORS_MAX, seats) + market_gas.way_back(seats, callback=True)
    limit = referee_gas.opening(data, AUDITORS_MAX, seats)
    print(limit)
    assert message_gas(data, referee_gas.OPEN + second_referee.GAS + end) <= limit <= OPENING_GAS_MAX


def test_whatever_gas_a_prologue_has_left_an_end_by_time_is_done_whole_or_waits():
    """With nobody left the task goes back to its asker, and its callback into the queue: room for both is kept."""
    world = RefereeWorld(validators=3, canaries_per_validator=0)
    case = agreed(world, assurance=0, callback_gas=50_000)
    world.challenge(case.task)
    world.block()
    task = TASKS.get(world.ctx, case.task)
    task.set_parties(task.parties[:1])
    TASKS.put(world.ctx, task, case.task)
    world.block_until(world.dispute(1).last_block)
    dispute, before = world.dispute(1), (dict(world.ctx.storage), dict(world.ctx.balances), world.height)
    assert dispute.turn == abi.TURN_DEFENDER
    dearest = referee_gas.end(2, 2) + market_gas.way_back(2, callback=True) + 40_000
    done = set()
    for limit in range(dearest - 80_000, dearest + 40_000, 1_000):
        world.ctx.storage, world.ctx.balances, world.ctx.height = dict(before[0]), dict(before[1]), before[2]
        world.ctx.next_block()
        world.ctx.gas_limit, logged = limit, len(world.ctx.logs)
        prologue.run(world.ctx, bytes(32), b"")
        world.recount()
        world.check()
        assert not [event for event in world.events(abi.ITEM_FAILED, logged) if event["code"] == "out_of_gas"], limit
        done.add(world.dispute(1).state == abi.DISPUTE_ENDED)
    assert done == {False, True}


def test_the_dearest_end_of_a_dispute_fits_the_smallest_prologue():
    """Eight verifiers, their seats drawn anew three times."""
    seats = AUDITORS_MAX * (1 + ChainParams().redraws_max)
    back = market_gas.way_back(seats, callback=True)
    needed = referee_gas.end(AUDITORS_MAX, seats) + back + gas.MIX + gas.PRICE + referee_gas.LANE
    assert needed < ChainParams().prologue_gas
