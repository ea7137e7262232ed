"""Attacks by what the rules allow everybody: silence, repetition, challenges without end, messages that are not in
order, a bond taken back before the judgement. None of them pays, and none hurts the honest."""

from dataclasses import replace
from itertools import pairwise

import pytest

from node.outbox import Message
from primitives.address import REFEREE
from primitives.hashing import ZERO_HASH
from primitives.keys import address_of
from primitives.params import COIN, DISPUTE_MESSAGE_GAS
from primitives.reasons import Reason
from primitives.task import Status, Submission, WorkItem
from primitives.transaction import Transaction
from tests.attacks.attacks import CHEAT, hit, outcome
from tests.attacks.fleet import Fleet, Validator
from tests.e2e_in_process.chain_in_process import STOP, key_of
from vm.system import abi, views


def slashes(fleet: Fleet, index: int) -> list[tuple[int, int]]:
    """(reason, wei) of a validator's slashes, in order."""
    operator = "0x" + fleet.chain.operators[index].operator.hex()
    return [(event["reason"], event["amount"]) for _, event in fleet.chain.events(abi.SLASHED)
            if event["operator"] == operator]  # fmt: skip


def test_an_answer_that_is_withheld_is_given_by_the_backup_and_costs_no_stake() -> None:
    fleet = Fleet()
    fleet.spoil = lambda validator, item: (
        None if isinstance(item, Submission) and validator is fleet.validators[CHEAT] else item
    )
    task = hit(fleet, by_executor=True)
    assert fleet.until_quiet(task) == Status.SETTLED
    found = outcome("withheld output", fleet, task)
    assert found.missed == [f"validator {CHEAT}"] and not found.slashed


def test_garbage_and_silence_repeated_is_a_lie() -> None:
    """One loss by silence is what a broken machine can have; the third within the window costs as a repeated lie."""
    fleet = Fleet({CHEAT: "garbage-reveal"})
    for _ in range(3):
        fleet.until_quiet(hit(fleet, by_executor=True))
    found = slashes(fleet, CHEAT)
    assert [reason for reason, _ in found][-1] == Reason.UNDEFENDED_AGAIN
    assert Reason.UNDEFENDED_AGAIN not in [reason for reason, _ in found[:2]]
    assert found[2][1] > 50 * found[0][1], "a tenth of the bond, not a thousandth of the least"


def test_challenges_without_end_cost_more_each_and_the_accused_nothing() -> None:
    """Somebody without a stake challenges one honest executor again and again and plays none of it."""
    fleet = Fleet()
    chain, bonds = fleet.chain, list[int]()
    before = chain.reader.balance(chain.poster)
    while len(bonds) < 4:
        task = hit(fleet, by_executor=True)
        while not chain.task(task).agreed_block:
            fleet.block()
        bonds.append(fleet.bond(abi.BOND_FOR, task, chain.poster))
        data = abi.CHALLENGE.encode_call(task, abi.NO_LEAF)
        message = Message(abi.CHALLENGE.account, data, DISPUTE_MESSAGE_GAS, frozenset(), bonds[-1])
        fleet.block(fleet.signed(chain.poster_key, chain.reader.nonce(chain.poster), message))
        assert chain.receipts[0].status == 1
        assert fleet.until_quiet(task) == Status.SETTLED
        found = outcome("griefing", fleet, task)
        assert found.ended == [abi.ENDED_ABANDONED] and not found.slashed
        assert found.blocks <= 2 * chain.params.silence_blocks, "what it delays has an end"
        assert f"validator {CHEAT}" in found.paid
    assert [round(after / bond, 1) for bond, after in pairwise(bonds)] == [2.0, 2.0, 2.0]
    assert before - chain.reader.balance(chain.poster) > sum(bonds)
    assert not any(slashes(fleet, index) for index in range(4))


STOPS = {
    "after_stop": lambda tokens: (STOP, *tokens[1:]),
    "incomplete": lambda tokens: tokens[:-1],
    "length": lambda tokens: (*tokens, 1),
    "token": lambda tokens: (2**32 - 1, *tokens[1:]),
}


@pytest.mark.parametrize("code", list(STOPS))
def test_an_answer_that_nobody_could_give_is_refused_at_once(code: str) -> None:
    """A stop id passed, an answer too long or too short, a token that does not exist: the slot is the backup's."""
    fleet = Fleet()

    def spoil(validator: Validator, item: WorkItem) -> WorkItem:
        if isinstance(item, Submission) and validator is fleet.validators[CHEAT]:
            return replace(item, tokens=STOPS[code](item.tokens))
        return item

    fleet.spoil = spoil
    task = hit(fleet, by_executor=True)
    assert fleet.until_quiet(task) == Status.SETTLED
    refused = {event["code"] for _, event in fleet.chain.events(abi.WORK_REFUSED) if event["task"] == task}
    assert code in refused
    assert outcome(code, fleet, task).missed == [f"validator {CHEAT}"]


def test_a_task_refuted_by_its_own_executors_friend_is_answered_with_the_same_seed() -> None:
    """Refuting oneself is no new throw of the dice: whoever answers next draws the same tokens."""
    fleet = Fleet({CHEAT: "wrong-layer"})
    task = hit(fleet, by_executor=True)
    seed = fleet.chain.task(task).seed
    fleet.until(task, Status.REFUTED)
    assert fleet.chain.task(task).seed == seed and fleet.chain.task(task).attempt == 1
    assert fleet.until_quiet(task) == Status.SETTLED


def funded(fleet: Fleet, name: str, wei: int) -> bytes:
    """The key of an account of that name, to which the asker has given so much."""
    key, chain = key_of(name), fleet.chain
    nonce = chain.reader.nonce(chain.poster)
    fleet.block(chain.transaction(chain.poster_key, nonce, 21_000, wei, b"", address_of(key)))
    return key


def test_a_flood_of_challenges_of_one_answer_holds_that_answer_alone_and_is_paid_for() -> None:
    """Four strangers challenge an honest answer in one block, and none of them plays."""
    fleet = Fleet(silence_blocks=8)
    chain = fleet.chain
    keys = [funded(fleet, f"flood {i}", 10 * COIN) for i in range(4)]
    task = hit(fleet, by_executor=True)
    while not chain.task(task).agreed_block:
        fleet.block()
    bond = fleet.bond(abi.BOND_FOR, task, chain.poster)
    data = abi.CHALLENGE.encode_call(task, abi.NO_LEAF)
    flood = [chain.transaction(key, 0, DISPUTE_MESSAGE_GAS, bond << i, data, REFEREE) for i, key in enumerate(keys)]
    fleet.block(*flood)
    assert [receipt.status for receipt in chain.receipts[:4]] == [1] * 4
    others = {index: fleet.post() for index in range(3)}
    began = chain.height
    for other in others.values():
        assert fleet.until(other, Status.SETTLED)
    assert chain.height - began < 24 and not chain.task(task).done_block, "all other work goes on meanwhile"
    assert fleet.until_quiet(task) == Status.SETTLED
    found = outcome("flood", fleet, task)
    assert found.ended == [abi.ENDED_ABANDONED] * 4 and not found.slashed
    assert f"validator {CHEAT}" in found.paid
    lost = sum(event["lostWei"] for _, event in chain.events(abi.DISPUTE_ENDED_LOG))
    assert lost == 15 * bond, "each further one bonds twice as much"
    assert not any(slashes(fleet, index) for index in range(4))


def test_a_challenge_by_ones_own_friend_gains_no_time_to_take_the_bond_away() -> None:
    """The liar takes all of its stake back, and a friend challenges first, to lose by silence: what is unbonding stays
    until every dispute is over, the verifiers' challenge comes next, and the whole slash is taken from it."""
    fleet = Fleet({CHEAT: "wrong-layer"}, silence_blocks=8)
    chain, liar = fleet.chain, fleet.chain.operators[CHEAT]
    key = funded(fleet, liar.name + " operator", COIN)
    task = hit(fleet, by_executor=True)
    while chain.task(task).executor_root == ZERO_HASH:
        fleet.block()

    def own(function: abi.Function, *arguments: int) -> Transaction:
        data = function.encode_call(*arguments)
        return chain.transaction(key, chain.reader.nonce(liar.operator), 600_000, 0, data, function.account)

    def stake() -> tuple[int, int]:
        view = views.operator(chain.reader, liar.operator, chain.params, chain.height + 1)
        assert view is not None
        return view.bond, view.unbonding

    whole = stake()[0]
    bond = fleet.bond(abi.BOND_FOR, task, chain.poster)
    message = Message(REFEREE, abi.CHALLENGE.encode_call(task, abi.NO_LEAF), DISPUTE_MESSAGE_GAS, frozenset(), bond)
    friend = fleet.signed(chain.poster_key, chain.reader.nonce(chain.poster), message)
    fleet.block(friend, own(abi.UNBOND, whole))
    assert [receipt.status for receipt in chain.receipts[:2]] == [1, 1] and stake() == (0, whole)
    fleet.block(own(abi.WITHDRAW))
    assert chain.receipts[0].status == 0, "it answers for a dispute"
    assert fleet.until_quiet(task) == Status.SETTLED
    found = outcome("self-dispute", fleet, task)
    assert found.attempt == 1 and abi.ENDED_REFUTED in found.ended
    assert found.slashed[f"validator {CHEAT}"] == whole - sum(stake()) > 0
    winners = {event["winner"] for _, event in chain.events(abi.DISPUTE_ENDED_LOG) if event["bountyWei"]}
    assert winners and "0x" + chain.poster.hex() not in winners, "the finder's part is no friend's"
