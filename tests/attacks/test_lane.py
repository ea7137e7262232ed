"""Places in the lanes of work and of disputes: what is owed within few blocks waits behind nothing, least of all behind
what somebody sends only to fill the lane."""

from chain.builder import DUE_CHALLENGE, NEW_DISPUTE, NOT_DUE, due_block, in_lane, place_in_lane
from primitives.address import REFEREE
from primitives.params import DISPUTE_MESSAGE_GAS
from primitives.task import Reveal, Status, Verdict, WorkItem
from primitives.transaction import Transaction, sign_transaction
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


def due(fleet: Fleet, validator: Validator, *items: WorkItem) -> int:
    chain = fleet.chain
    batch = chain.work(validator.keys, list(items))
    return due_block(chain.reader, chain.params, chain.height + 1, validator.keys.operator, batch)


def test_a_batch_that_carries_what_is_not_owed_has_no_claim_on_what_others_leave_of_the_lane():
    fleet = Fleet()
    task = fleet.post()
    fleet.until(task, Status.DRAWN)
    duties = {validator.keys.name: [duty for duty in fleet.chain.duties(validator.keys) if duty.task == task]
              for validator in fleet.validators}  # fmt: skip
    owing = [validator for validator in fleet.validators if duties[validator.keys.name]]
    assert len(owing) == 2
    for validator in owing:
        ((duty,), verdict) = duties[validator.keys.name], Verdict(task, bytes(32))
        assert duty.last_block - 7 == fleet.chain.height + 1
        assert due(fleet, validator, verdict) == duty.last_block
        for junk in (verdict, Verdict(bytes(32), bytes(32)), Reveal(task, bytes(32), 0)):
            assert due(fleet, validator, verdict, junk) == NOT_DUE
    idle = next(each for each in fleet.validators if each not in owing)
    assert due(fleet, idle, Verdict(task, bytes(32))) == NOT_DUE


def test_a_flood_in_somebodys_defence_keeps_its_own_move_from_no_block():
    """Anybody may answer for an accused, so anybody may send garbage in its name, at any tip: it stands behind."""
    fleet = Fleet({CHEAT: "wrong-layer"})
    task = hit(fleet, by_executor=True)
    chain = fleet.chain
    while not (running := views.open_disputes(chain.reader)):
        fleet.block()
    while (view := views.dispute(chain.reader, running[0], chain.params, 0)) and view.turn != abi.TURN_DEFENDER:
        fleet.block()
    assert view is not None and view.task == task

    def shown(key: bytes, tip: int) -> Transaction:
        return sign_transaction(
            key, chain_id=chain.params.chain_id, nonce=0, gas=DISPUTE_MESSAGE_GAS, to=REFEREE, max_fee_per_gas=2**60,
            max_priority_fee_per_gas=tip, data=abi.SHOW.encode_call(view.dispute, b"garbage"),
        )  # fmt: skip

    by_operator = {validator.keys.operator: validator.keys.hot_key for validator in fleet.validators}
    accused = shown(by_operator[view.accused], 1)
    drawn = [shown(by_operator[verifier], 5) for verifier in chain.task(task).verifiers]
    strangers = [shown(bytes([i + 1]) * 32, 10**9 + i) for i in range(8)]
    parties = view.accused, *chain.task(task).verifiers
    operators = [shown(key, 3) for operator, key in by_operator.items() if operator not in parties]
    new = challenge(fleet, bytes([99]) * 32, task)
    order = in_lane(
        chain.reader, chain.params, chain.height + 1, [*strangers, new, *operators, *drawn, accused], 0
    )
    assert {number for number, _, _ in order} == {view.dispute, NEW_DISPUTE}
    sent = [transaction for _, _, transaction in order]
    assert sent[0] == accused and set(sent[1:3]) == set(drawn)
    assert sent[3 : 3 + len(operators)] == operators and sent[3 + len(operators) :] == [*strangers[::-1], new]
