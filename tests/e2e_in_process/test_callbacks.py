"""Callbacks on real blocks with a real EVM and engine: a Solidity consumer is told what became of its task, and
whatever a hostile one does, the settlement stands, nothing else waits, and it pays for its own gas alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chain_in_process import Chain, Engines, HonestFleet, Library, Operator, answer
from eth_abi import decode, encode

from primitives.address import COURIER
from primitives.genesis import GenesisAccount
from primitives.hashing import keccak
from primitives.merkle import pack_tokens
from primitives.params import COIN
from primitives.receipt import Receipt
from primitives.task import NO_BAD_POSITION, Status, Submission, WorkItem
from primitives.transaction import Transaction
from vm.system import abi, courier, views
from vm.system.market_views import Duty

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
STORYTELLER, HOSTILE, SECOND = b"\xc0" * 20, b"\xc1" * 20, b"\xc2" * 20
DEAD = bytes.fromhex("dead").rjust(20, b"\0")
PROMPT = (3, 1, 4, 1, 5)
(NOTHING, BURN, REVERT, HUGE_RETURN, HUGE_REVERT, POST, CANCEL, FILL, BOND, EMPTY, RECURSE, LOGS) = range(12)


@pytest.fixture(scope="module")
def engines() -> Engines:
    return Engines.make()


class Place:
    """A chain with the contracts in its genesis, and calls of them."""

    def __init__(self, engines: Engines, accounts: Sequence[GenesisAccount] = (), **params: int) -> None:
        def code(name: str) -> bytes:
            return bytes.fromhex(json.loads((CLIENTS / f"{name}.json").read_text())["runtime"][2:])

        model = engines.honest.model.model_id
        told = code("Storyteller").replace(bytes(32), model)  # its immutable, set as its constructor would
        contracts = [GenesisAccount(address, 10 * COIN, 1, text) for address, text in (
            (STORYTELLER, told), (HOSTILE, code("Hostile")), (SECOND, code("Hostile")),
        )]  # fmt: skip
        contracts += [GenesisAccount(DEAD, 1, 0, b""), *accounts]
        self.chain = Chain(engines, validators=4, contracts=contracts, canaries_per_validator=0, **params)
        self.fleet = HonestFleet(self.chain, engines.honest, Library(self.chain))
        self.model = model

    def call(self, to: bytes, signature: str, *arguments: Any, gas: int = 2_000_000, value: int = 0, after: int = 0
    ) -> Transaction:  # fmt: skip
        types = signature.partition("(")[2][:-1]
        data = keccak(signature.encode())[:4] + encode([kind for kind in types.split(",") if kind], arguments)
        nonce = self.chain.reader.nonce(self.chain.poster) + after
        return self.chain.transaction(self.chain.poster_key, nonce, gas, value, data, to)

    def ask(self, deed: int, gas: int = 100_000, tip: int = 0, to: bytes = HOSTILE, after: int = 0, assurance: int = 0
    ) -> Transaction:  # fmt: skip
        return self.call(
            to, "ask(uint8,bytes32,bytes,uint256,uint32,uint8)", deed, self.model, pack_tokens(PROMPT), tip, gas,
            assurance, gas=1_700_000, after=after,
        )  # fmt: skip

    def block(self, *transactions: Transaction) -> list[Receipt]:
        """The next block: these, then what every validator owes."""
        self.chain.block([*transactions, *self.fleet.transactions()])
        assert all(receipt.status == 1 for receipt in self.chain.receipts)
        return self.chain.receipts

    def post(self, transaction: Transaction) -> bytes:
        (log,) = [x for x in self.block(transaction)[0].logs if x.topics[0] == abi.TASK_POSTED.topic]
        return abi.TASK_POSTED.decode(log.topics, log.data)["task"]

    def until_called(self, task: bytes, limit: int = 40) -> dict[str, Any]:
        for _ in range(limit):
            found = [event for _, event in self.chain.events(abi.CALLED_BACK) if event["task"] == task]
            if found:
                return found[0]
            self.block()
        raise AssertionError("no callback came")

    def word(self, of: bytes, slot: int) -> int:
        return self.chain.reader.storage(of, slot)


@pytest.fixture
def place(engines: Engines) -> Place:
    return Place(engines)


def test_a_contract_asks_is_called_back_and_proves_the_answer(place):
    signature = "begin(bytes,uint32)"
    task = place.post(place.call(STORYTELLER, signature, pack_tokens(PROMPT), 8, value=COIN // 10))
    called = place.until_called(task)
    assert (called["status"], called["succeeded"]) == (Status.SETTLED, True)
    view = place.chain.task(task)
    (ended,) = [
        decode(["uint8", "bytes32", "bytes32"], log.data) for _, log in place.chain.logs
        if log.address == STORYTELLER and log.topics[0] == keccak(b"Ended(bytes32,uint8,bytes32,bytes32)")
    ]  # fmt: skip
    (answered,) = [event for _, event in place.chain.events(abi.TASK_ANSWERED)]
    assert ended == (Status.SETTLED, answered["outputHash"], view.receipt)
    wrong = place.call(STORYTELLER, "tell(bytes32,bytes)", task, answered["tokens"][:-1] + b"\x07", gas=500_000)
    place.chain.block([wrong])
    assert place.chain.receipts[0].status == 0
    place.block(place.call(STORYTELLER, "tell(bytes32,bytes)", task, answered["tokens"], gas=500_000))
    place.block(place.call(STORYTELLER, "close()", gas=200_000))
    place.block()
    before = place.chain.reader.balance(place.chain.poster)
    place.block(place.call(STORYTELLER, "draw()", gas=300_000))
    assert place.chain.reader.balance(STORYTELLER) == 0
    assert place.chain.reader.balance(place.chain.poster) > before + 9 * COIN  # the only listener wins


def test_what_a_callback_does_not_use_comes_back_and_what_it_uses_is_burned(place):
    before = place.chain.reader.balance(HOSTILE)
    task = place.post(place.ask(NOTHING, gas=150_000))
    burned = views.totals(place.chain.reader).burned_callbacks
    locked = before - place.chain.reader.balance(HOSTILE)
    called = place.until_called(task)
    (settled,) = [event for _, event in place.chain.events(abi.TASK_SETTLED)]
    prepaid = 150_000 * 2 * place.chain.params.base_fee_min
    assert called["burnedWei"] + called["refundedWei"] == prepaid
    assert 20_000 < called["gasUsed"] < 150_000
    assert views.totals(place.chain.reader).burned_callbacks - burned == called["burnedWei"]
    spent = before - place.chain.reader.balance(HOSTILE)
    assert spent == locked - settled["refundedWei"] - called["refundedWei"]
    assert place.chain.reader.balance(COURIER) == 0
    assert place.word(HOSTILE, 2) == 1  # calls


DEEDS = [BURN, REVERT, HUGE_RETURN, HUGE_REVERT, POST, CANCEL, FILL, BOND, RECURSE, LOGS]


@pytest.mark.parametrize("deed", DEEDS)
def test_whatever_a_callback_does_its_task_is_settled_and_it_pays_for_its_gas_alone(place, deed):
    task = place.post(place.ask(deed))
    fund = views.totals(place.chain.reader).minted
    called = place.until_called(task)
    view = place.chain.task(task)
    assert view.status == Status.SETTLED and view.done_block
    assert called["gasUsed"] <= 100_000
    assert called["succeeded"] is (deed == HUGE_RETURN)
    assert called["succeeded"] or place.word(HOSTILE, 2) == 0  # what failed left nothing behind
    assert place.chain.reader.balance(COURIER) == 0
    posted = [event["task"] for _, event in place.chain.events(abi.TASK_POSTED)]
    assert posted == [task], "a callback posts nothing"
    assert views.totals(place.chain.reader).minted >= fund
    place.block()  # the chain goes on, and the coins add up
    again = place.post(place.ask(NOTHING))
    assert place.until_called(again)["succeeded"]


def test_a_callback_may_move_its_own_coins_and_no_others(place):
    task = place.post(place.ask(EMPTY, gas=200_000))
    held = place.chain.reader.balance(HOSTILE)
    called = place.until_called(task)
    assert called["succeeded"]
    assert place.chain.reader.balance(DEAD) >= held  # coins add up in every block
    assert place.chain.reader.balance(HOSTILE) == called["refundedWei"]


def test_a_task_that_nobody_answers_calls_back_with_its_status(place):
    place.fleet.transactions = list  # everybody is silent from here on
    task = place.post(place.ask(NOTHING))
    called = place.until_called(task)
    assert (called["status"], called["succeeded"]) == (Status.REFUNDED, True)
    assert place.word(HOSTILE, 5) & 0xFF == Status.REFUNDED
    (refunded,) = [event for _, event in place.chain.events(abi.TASK_REFUNDED)]
    assert refunded["burnedWei"] * 99 <= refunded["amount"] + 99


def test_an_account_without_code_gets_its_callback_gas_back(place):
    data = abi.POST.encode_call(0, place.model, pack_tokens(PROMPT), 8, 0, 0, 0, 0, 0, 12, 100_000)
    nonce = place.chain.reader.nonce(place.chain.poster)
    task = place.post(place.chain.transaction(place.chain.poster_key, nonce, 2_000_000, COIN, data))
    called = place.until_called(task)
    assert (called["succeeded"], called["gasUsed"], called["burnedWei"]) == (False, 0, 0)
    assert called["target"] == "0x" + place.chain.poster.hex()


def test_only_the_courier_calls_a_consumer_back(place):
    task = place.post(place.ask(NOTHING))
    forged = place.call(HOSTILE, "onLaboraTask(bytes32,uint8,bytes32,bytes32)", task, 7, bytes(32), bytes(32))
    place.chain.block([forged])
    assert place.chain.receipts[0].status == 0
    assert place.until_called(task)["succeeded"]


def test_bombs_have_a_lane_of_their_own_and_neither_settlements_nor_the_patient_starve(engines):
    """Two hundred thousand gas each, more than the lane takes a block: by tip, and everyone else's tasks go on."""
    place = Place(engines, block_gas_limit=6_000_000)
    lane = place.chain.params.block_gas_limit // courier.LANE_DIV
    asks = [place.ask(BURN, gas=200_000, tip=tip, after=i) for i, tip in enumerate((10, 30, 20))]
    place.block(*asks)
    bombs = [event["task"] for _, event in place.chain.events(abi.TASK_POSTED)]
    quiet = place.post(place.ask(NOTHING, gas=100_000, to=SECOND))
    seen: dict[bytes, int] = {}
    for _ in range(60):
        since = len(place.chain.logs)
        place.block()
        used = 0
        for height, log in place.chain.logs[since:]:
            if log.topics[0] == abi.CALLED_BACK.topic:
                event = abi.CALLED_BACK.decode(log.topics, log.data)
                seen[event["task"]] = height
                used += event["gasUsed"]
        assert used <= lane
        if len(seen) == 4:
            break
    assert set(seen) == {*bombs, quiet}
    settled = {event["task"]: height for height, event in place.chain.events(abi.TASK_SETTLED)}
    assert max(settled.values()) - min(settled.values()) <= 2  # none waited for a callback
    assert seen[bombs[1]] < seen[bombs[2]] < seen[bombs[0]]



# Callbacks of tasks whose answers are refuted: one call a task, at its end, with what became of it


class Doubted(HonestFleet):
    """In attempts below `false` the executor commits to a root that nobody can defend; the
    verifiers challenge it, and nobody answers. Other attempts are honest, unless everybody is `tired` of them."""

    false, tired = 0, False

    def transactions(self) -> list[Transaction]:
        batches, sent = super().transactions(), []
        for operator in self.chain.operators:
            nonce = self.chain.reader.nonce(operator.hot) + sum(batch.sender == operator.hot for batch in batches)
            due = [duty for duty in self.chain.duties(operator) if duty.role == abi.ROLE_CHALLENGE]
            mine = (duty for duty in due if (operator.operator, duty.task) in self.known and duty.slot != abi.NO_SLOT)
            sent += [self.chain.move(operator, nonce, abi.CHALLENGE, duty.task, abi.NO_LEAF) for duty in list(mine)[:1]]
        return batches + sent

    def _item(self, operator: Operator, duty: Duty) -> WorkItem | None:
        attempt = self.chain.task(duty.task).attempt
        if duty.role not in (abi.ROLE_EXECUTE, abi.ROLE_AUDIT, abi.ROLE_REVEAL) or duty.slot == abi.NO_SLOT:
            return None
        if duty.role == abi.ROLE_EXECUTE and self.tired and attempt >= self.false:
            return None
        item = super()._item(operator, duty)
        if isinstance(item, Submission) and attempt < self.false:
            root = keccak(b"no trace" + duty.trace_key)
            self.known[operator.operator, duty.task] = root, NO_BAD_POSITION
            return answer(operator, duty, item.tokens, root)
        return item


def doubted(engines: Engines, false: int, tired: bool = False) -> tuple[Place, bytes]:
    place = Place(engines, silence_blocks=8, dispute_clock_blocks=22)
    place.fleet = Doubted(place.chain, engines.honest, place.fleet.library)
    place.fleet.false, place.fleet.tired = false, tired
    return place, place.post(place.ask(NOTHING, gas=100_000, assurance=2))


def ended(place: Place, task: bytes, status: Status, refuted: int) -> dict[str, Any]:
    """How the only callback of the task went; the chain goes on for a while, and no other comes."""
    for _ in range(200):
        if place.chain.task(task).done_block:
            break
        place.block()
    for _ in range(30):
        place.block()
    (called,) = [event for _, event in place.chain.events(abi.CALLED_BACK) if event["task"] == task]
    assert (called["status"], called["succeeded"]) == (status, True)
    assert (place.word(HOSTILE, 2), place.word(HOSTILE, 5) & 0xFF) == (1, status)
    assert len(list(place.chain.events(abi.TASK_REFUTED))) == refuted
    assert not list(place.chain.events(abi.ITEM_FAILED))
    assert place.chain.reader.balance(COURIER) == 0
    return called


def test_a_task_that_a_backup_did_again_calls_back_when_it_is_settled(engines):
    place, task = doubted(engines, false=1)
    ended(place, task, Status.SETTLED, refuted=1)
    assert place.chain.task(task).status == Status.SETTLED


def test_a_task_of_which_every_answer_was_refuted_calls_back_as_refuted(engines):
    place, task = doubted(engines, false=3)
    held = place.chain.reader.balance(HOSTILE)
    called = ended(place, task, Status.REFUTED, refuted=3)
    assert place.chain.task(task).status == Status.REFUNDED
    (refund,) = [event for _, event in place.chain.events(abi.TASK_REFUNDED) if event["task"] == task]
    assert refund["burnedWei"] == 0
    gains = sum(event["askerWei"] for _, event in place.chain.events(abi.DISPUTE_ENDED_LOG))
    assert place.chain.reader.balance(HOSTILE) == held + refund["amount"] + called["refundedWei"] + gains


def test_after_a_refutation_silence_calls_back_as_refunded_whole(engines):
    place, task = doubted(engines, false=1, tired=True)
    ended(place, task, Status.REFUNDED, refuted=1)
    (refund,) = [event for _, event in place.chain.events(abi.TASK_REFUNDED) if event["task"] == task]
    assert refund["burnedWei"] == 0, "an asker whose first answer was false pays nothing for the silence after it"


def test_who_cancels_a_disputed_task_is_called_back_at_once_and_not_again(engines):
    place, task = doubted(engines, false=1)
    while place.chain.task(task).status != Status.DISPUTED:
        place.block()
    place.block(place.call(HOSTILE, "cancel(bytes32)", task, gas=500_000))
    cancelled = place.chain.height
    place.until_called(task, limit=2)
    assert not place.chain.task(task).done_block, "the dispute goes on"
    ended(place, task, Status.REFUNDED, refuted=1)
    assert place.chain.height > cancelled + 30
