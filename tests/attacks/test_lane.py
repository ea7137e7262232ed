"""Places in the lane of disputes: what a drawn verifier has to challenge within few blocks waits behind nothing."""

from chain.builder import DUE_CHALLENGE, NEW_DISPUTE, place_in_lane
from primitives.params import DISPUTE_MESSAGE_GAS
from primitives.transaction import Transaction
from tests.attacks.attacks import CHEAT, hit
from tests.attacks.fleet import Fleet, Validator
from vm.system import abi, views


def challenge(fleet: Fleet, key: bytes, task: bytes) -> Transaction:
    data = abi.CHALLENGE.encode_call(task, abi.NO_LEAF)
    return fleet.chain.transaction(key, 0, DISPUTE_MESSAGE_GAS, 0, data, abi.CHALLENGE.account)


def place(fleet: Fleet, transaction: Transaction) -> int | None:
    chain = fleet.chain
    return place_in_lane(chain.reader, chain.params, chain.height + 1, transaction)


def has_to_challenge(fleet: Fleet, validator: Validator) -> bool:
    return any(duty.role == abi.ROLE_CHALLENGE for duty in fleet.chain.duties(validator.keys))


def test_a_due_challenge_stands_before_running_disputes_and_anybody_elses_behind_them():
    fleet = Fleet({CHEAT: "wrong-layer"})
    task = hit(fleet, by_executor=True)
    key = fleet.chain.poster_key
    while not (due := [each for each in fleet.validators if has_to_challenge(fleet, each)]):
        fleet.block()
    assert place(fleet, challenge(fleet, due[0].keys.hot_key, task)) == DUE_CHALLENGE
    assert place(fleet, challenge(fleet, due[0].keys.hot_key, bytes(32))) == NEW_DISPUTE, "of another task it is none"
    assert place(fleet, challenge(fleet, key, task)) == NEW_DISPUTE
    while not (running := views.open_disputes(fleet.chain.reader)):
        fleet.block()
    while (view := views.dispute(fleet.chain.reader, running[0], fleet.chain.params, 0)) and view.state == 1:
        fleet.block()
    shown = fleet.chain.transaction(key, 0, DISPUTE_MESSAGE_GAS, 0, abi.SHOW.encode_call(running[0], b""), b"")
    assert DUE_CHALLENGE < place(fleet, shown) == running[0] < NEW_DISPUTE
    assert place(fleet, challenge(fleet, due[0].keys.hot_key, task)) == NEW_DISPUTE, "it was made"
