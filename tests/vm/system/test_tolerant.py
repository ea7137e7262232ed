"""The tolerant lane on chain: who may offer, ask, answer and decide, who pays what, and that it counts for nothing."""

import random
from typing import Any

import pytest
from market_world import POSTER, World, hot_of, operator_of, payout_of

from primitives import merkle, rlp
from primitives.address import TOLERANT
from primitives.hashing import keccak
from primitives.task import MalformedTexts, decode_texts, encode_texts, tolerant_task_id
from vm.system import abi, gas, ledger, market_forget, staking, tolerant, tolerant_end, tolerant_state
from vm.system.context import OutOfGas, Refused
from vm.system.gas import READ, WRITE
from vm.system.layout import slot_of

NAME = "somebody/A-Model-8B"
MODEL = keccak(NAME.encode())
BYTE_WEI, TOKEN_WEI = 10**11, 10**13
EXECUTOR, OTHER = operator_of(0), operator_of(1)
PROMPT = "The sea, café"
PROMPT_BYTES = len(PROMPT.encode())
SEED = keccak(b"a seed")
ANSWER = (" was", " calm", ".")
WINDOW, DEADLINE = 60, 20


class Lane(World):
    """A chain without canaries whose operator 0 offers a model."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**{"canaries_per_validator": 0, **spec})
        self.block()
        self.offer()

    def call_tolerant(self, function: abi.Function, *arguments: Any, sender: bytes, value: int = 0) -> Any:
        return self.ctx.call(tolerant.HANDLERS, function, *arguments, sender=sender, value=value)

    def offer(self, operator: bytes = EXECUTOR, sender: bytes | None = None, **changes: Any) -> None:
        asked = {"model": NAME, "byte": BYTE_WEI, "token": TOKEN_WEI, "prompt": 1_000, "tokens": 64,
                 "deadline": DEADLINE, **changes}  # fmt: skip
        self.call_tolerant(abi.MAKE_OFFER, *asked.values(), sender=sender or hot_of(operator))

    def ask(self, sender: bytes = POSTER, value: int | None = None, **changes: Any) -> bytes:
        asked = {"executor": EXECUTOR, "model": MODEL, "prompt": PROMPT, "tokens": 8, "temperature": 65_536, "k": 20,
                 "seed": SEED, **changes}  # fmt: skip
        needed = len(asked["prompt"].encode()) * BYTE_WEI + asked["tokens"] * TOKEN_WEI
        value = needed if value is None else value
        return self.call_tolerant(abi.ASK, *asked.values(), sender=sender, value=value)

    def answer(self, task: bytes, tokens: Any = ANSWER, sender: bytes | None = None) -> None:
        data = tokens if isinstance(tokens, bytes) else encode_texts(tokens)
        self.call_tolerant(abi.ANSWER, task, data, 5, 7, sender=sender or hot_of(EXECUTOR))

    def accept(self, task: bytes, sender: bytes = POSTER) -> None:
        self.call_tolerant(abi.ACCEPT, task, sender=sender)

    def refuse(self, task: bytes, reason: str = "margins", sender: bytes = POSTER) -> None:
        self.call_tolerant(abi.REFUSE, task, reason, sender=sender)

    def records(self, account: bytes) -> tuple[Any, Any]:
        return self.call_tolerant(abi.RECORDS_OF, account, sender=POSTER)

    def refusal(self, call: Any, *arguments: Any, **changes: Any) -> str:
        """The code with which a call is refused; nothing of it stays."""
        before = dict(self.ctx.storage), dict(self.ctx.balances), len(self.ctx.logs)
        with pytest.raises(Refused) as caught:
            call(*arguments, **changes)
        assert (self.ctx.storage, self.ctx.balances, len(self.ctx.logs)) == before
        return caught.value.code

    def ask_and_answer(self) -> bytes:
        task = self.ask()
        self.answer(task)
        return task

    def is_open(self, task: bytes) -> bool:
        return tolerant_state.ASKS.get(self.ctx, task) is not None


@pytest.fixture
def lane() -> Lane:
    return Lane()


FEE = PROMPT_BYTES * BYTE_WEI + len(ANSWER) * TOKEN_WEI
ESCROW = PROMPT_BYTES * BYTE_WEI + 8 * TOKEN_WEI


def test_an_accepted_answer_is_paid_in_the_next_prologue_less_a_fifth_that_burns(lane: Lane) -> None:
    poster, payout = lane.ctx.balance(POSTER), lane.ctx.balance(payout_of(EXECUTOR))
    task = lane.ask(value=ESCROW + 12_345)
    assert task == tolerant_task_id(lane.params.chain_id, 0)
    assert lane.ctx.balance(POSTER) == poster - ESCROW
    assert lane.ctx.balance(TOLERANT) == ESCROW
    lane.block()
    lane.answer(task)
    lane.block(3)
    lane.accept(task)
    assert lane.ctx.balance(payout_of(EXECUTOR)) == payout
    lane.block()
    burned = FEE * 20 // 100
    assert lane.ctx.balance(payout_of(EXECUTOR)) == payout + FEE - burned
    assert lane.ctx.balance(POSTER) == poster - FEE
    assert lane.ctx.balance(TOLERANT) == 0
    totals = ledger.get_totals(lane.ctx)
    assert (totals.burned_fees, totals.minted) == (burned, 0)
    (paid,) = lane.events(abi.TOLERANT_PAID)
    assert (paid["accepted"], paid["fee"], paid["executorWei"], paid["burnedWei"], paid["refundedWei"]) == (
        True, FEE, FEE - burned, burned, ESCROW - FEE,
    )  # fmt: skip
    assert not lane.is_open(task)


def test_silence_pays_when_the_window_has_passed_and_not_before(lane: Lane) -> None:
    task = lane.ask()
    lane.answer(task)
    answered = lane.height
    lane.block(WINDOW)
    assert lane.height == answered + WINDOW
    assert lane.is_open(task)
    lane.block()
    (paid,) = lane.events(abi.TOLERANT_PAID)
    assert (paid["accepted"], paid["fee"]) == (False, FEE)
    assert not lane.is_open(task)


def test_the_last_block_of_the_window_still_refuses_and_accepts(lane: Lane) -> None:
    refused, accepted, late = (lane.ask() for _ in range(3))
    for task in (refused, accepted, late):
        lane.answer(task)
    lane.block(WINDOW)
    lane.refuse(refused)
    lane.accept(accepted)
    assert lane.refusal(lane.refuse, accepted) == "stage"
    lane.block(2)
    (found,) = lane.events(abi.TOLERANT_REFUSED)
    assert found["task"] == refused
    assert {event["task"]: event["accepted"] for event in lane.events(abi.TOLERANT_PAID)} == {
        accepted: True, late: False,
    }  # fmt: skip
    assert lane.refusal(lane.refuse, late) == "unknown_task"


def test_a_refusal_returns_the_escrow_less_what_an_acceptance_would_have_burned(lane: Lane) -> None:
    poster = lane.ctx.balance(POSTER)
    task = lane.ask()
    lane.answer(task)
    lane.refuse(task, "é" * 80)
    burned = FEE * 20 // 100
    assert lane.ctx.balance(POSTER) == poster - burned
    assert lane.ctx.balance(payout_of(EXECUTOR)) == 0
    (refused,) = lane.events(abi.TOLERANT_REFUSED)
    assert (refused["reason"], refused["burnedWei"], refused["refundedWei"]) == ("é" * 80, burned, ESCROW - burned)
    lane.block(WINDOW + 2)
    assert not lane.events(abi.TOLERANT_PAID) and not lane.events(abi.RECEIPT)


def test_nobody_who_answers_in_time_gives_the_escrow_back_whole(lane: Lane) -> None:
    poster = lane.ctx.balance(POSTER)
    task = lane.ask()
    lane.block(DEADLINE)
    assert lane.is_open(task)
    lane.block()
    assert lane.ctx.balance(POSTER) == poster
    (found,) = lane.events(abi.TOLERANT_UNANSWERED)
    assert (found["task"], found["refundedWei"]) == (task, ESCROW)
    assert lane.refusal(lane.answer, task) == "unknown_task"
    assert ledger.get_totals(lane.ctx).burned == 0


def test_an_answer_in_the_last_block_counts_and_the_first_entry_of_the_queue_is_stale(lane: Lane) -> None:
    task = lane.ask()
    lane.block(DEADLINE)
    lane.answer(task)
    lane.block(WINDOW)
    assert lane.is_open(task) and not lane.events(abi.TOLERANT_UNANSWERED)
    lane.block()
    assert lane.events(abi.TOLERANT_PAID)


def test_both_records_keep_every_end_and_what_was_paid(lane: Lane) -> None:
    tasks = [lane.ask() for _ in range(4)]
    for task in tasks[:3]:
        lane.answer(task)
    lane.accept(tasks[0])
    lane.refuse(tasks[1])
    lane.block(WINDOW + 1)
    nothing = (0, 0, 0, 0, 0)
    assert lane.records(EXECUTOR) == ((1, 1, 1, 1, 2 * FEE), nothing)
    assert lane.records(POSTER) == (nothing, (1, 1, 1, 1, 2 * FEE))
    assert lane.records(OTHER) == (nothing, nothing)


def test_the_lane_counts_for_no_credit_no_power_no_price_and_no_totals_but_its_own(lane: Lane) -> None:
    """The same chain with and without it: what the Ledger, Staking and the Market keep is the same."""
    plain = World(canaries_per_validator=0)
    plain.block()
    for _ in range(3):
        task = lane.ask()
        lane.answer(task)
        lane.accept(task)
        lane.answer(lane.ask())
        lane.refuse(lane.ask_and_answer())
        lane.ask()
        lane.block(40)
        plain.block(40)
    assert lane.params.epoch(lane.height) >= 3
    totals = ledger.get_totals(lane.ctx)
    assert totals.tolerant == len(lane.events(abi.TOLERANT_PAID)) > 3
    assert (totals.settled, totals.unverified, totals.refunded, totals.macs_paid, totals.minted) == (0, 0, 0, 0, 0)
    for validator in lane.spec.validators:
        assert ledger.standing(lane.ctx, validator.operator) == ledger.standing(plain.ctx, validator.operator)
        assert staking.operator(lane.ctx, validator.operator) == staking.operator(plain.ctx, validator.operator)
    for epoch in range(2, lane.params.epoch(lane.height) + 2):
        assert ledger.members(lane.ctx, epoch) == ledger.members(plain.ctx, epoch)
    assert ledger.base_price(lane.ctx) == ledger.base_price(plain.ctx)
    assert ledger.backlog(lane.ctx) == ledger.backlog(plain.ctx) == 0
    assert not lane.events(abi.SLASHED) and not lane.events(abi.TASK_MISSED)
    for event in (abi.CREDITED, abi.POWER_SET, abi.EPOCH_TURNED):
        assert lane.events(event) == plain.events(event)


def test_paying_oneself_is_a_loss(lane: Lane) -> None:
    """An operator that asks itself from an account that is also its payout ends with less, at any price of a wei on."""
    payout = payout_of(EXECUTOR)
    lane.ctx.transfer(POSTER, payout, 10**18)
    for price in (5, 10**9, 10**14):
        lane.offer(byte=0, token=price)
        before = lane.ctx.balance(payout)
        task = lane.ask(sender=payout, value=8 * price)
        lane.answer(task, ("a",) * 8)
        lane.accept(task, sender=payout)
        lane.block()
        assert lane.ctx.balance(payout) == before - 8 * price * 20 // 100 < before


def test_a_receipt_is_marked_as_of_this_lane_and_unverified_whoever_accepted(lane: Lane) -> None:
    accepted, silent = lane.ask(), lane.ask()
    for task in (accepted, silent):
        lane.answer(task)
    lane.accept(accepted)
    lane.block(WINDOW + 1)
    receipts = {event["task"]: event for event in lane.events(abi.RECEIPT)}
    assert {task: receipts[task]["verification"] for task in (accepted, silent)} == {
        accepted: abi.VERIFIED_ACCEPTED, silent: abi.VERIFIED_NONE,
    }  # fmt: skip
    for task, event in receipts.items():
        assert event["lane"] == abi.LANE_TOLERANT and event["outcome"] == abi.OUTCOME_UNVERIFIED
        assert event["verifiers"] == () and not any(event["root"]) and event["class"] == abi.CLASS_PAID
        assert (event["model"], event["seed"], event["fee"]) == (MODEL, SEED, FEE)
        assert event["promptHash"] == keccak(PROMPT.encode())
        assert event["outputHash"] == keccak("".join(ANSWER).encode())
        assert (event["promptTokens"], event["outputTokens"]) == (PROMPT_BYTES, len(ANSWER))
        assert ledger.receipt_of(lane.ctx, task) == event["receipt"]
        work = ("prefillMacs", "decodeMacs", "prefillBytes", "decodeBytes", "pricePerCwu")
        assert not any(event[name] for name in work)


def test_receipts_come_in_prologues_alone_so_that_their_epochs_root_holds_them_all() -> None:
    lane = Lane(epoch_blocks=16)
    ids: dict[int, list[bytes]] = {}
    while lane.height < 64:
        lane.accept(lane.ask_and_answer())  # in an epoch's last block too, after its turn
        lane.block()
        found = lane.events(abi.RECEIPT)[-1]["receipt"]
        ids.setdefault(lane.params.epoch(lane.height), []).append(found)
    for epoch in range(1, 4):
        record = ledger.epoch_receipts(lane.ctx, epoch)
        assert record.count == len(ids[epoch]) == 16
        assert record.root == merkle.root(ids[epoch])


def test_a_receipt_is_forgotten_with_those_of_its_epoch_and_nothing_else_is_left() -> None:
    lane = Lane(epoch_blocks=16, receipts_kept_epochs=1)
    before = {key for key in lane.ctx.storage if key[0] == TOLERANT}
    task = lane.ask()
    lane.answer(task)
    lane.accept(task)
    lane.refuse(lane.ask_and_answer())
    lane.block(WINDOW + DEADLINE)
    assert not any(ledger.receipt_of(lane.ctx, task)), "two epochs are over"
    assert market_forget.FORGET.pending(lane.ctx) == 0
    left = {key for key in lane.ctx.storage if key[0] == TOLERANT} - before
    records = {slot_of(TOLERANT, name, who) for name, who in (("record_executor", EXECUTOR), ("record_asker", POSTER))}
    cursor = {slot_of(TOLERANT, "due.cursor", part) for part in (b"height", b"index")}
    assert {slot for _, slot in left} <= records | cursor | {tolerant_state.ASKED.slot}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sender": EXECUTOR}, "not_hot"),
        ({"sender": POSTER}, "not_hot"),
        ({"model": ""}, "name"),
        ({"model": "a" * 97}, "name"),
        ({"byte": 2**96}, "offer"),
        ({"token": 2**96}, "offer"),
        ({"byte": 2**96 - 1}, "offer"),
        ({"prompt": 0}, "offer"),
        ({"prompt": 32 * 1024 + 1}, "offer"),
        ({"tokens": 0}, "offer"),
        ({"tokens": 4097}, "offer"),
        ({"deadline": 7}, "offer"),
        ({"deadline": 601}, "offer"),
    ],
)
def test_an_offer_is_an_operators_and_bounded(lane: Lane, changes: dict[str, Any], code: str) -> None:
    assert lane.refusal(lane.offer, **changes) == code


def test_offers_are_those_of_active_operators_and_may_be_withdrawn(lane: Lane) -> None:
    lane.offer(OTHER, model="b" * 96)
    names = {row[0]: row[1] for row in lane.call_tolerant(abi.OFFERS, sender=POSTER)}
    assert names == {EXECUTOR: NAME, OTHER: "b" * 96}
    lane.call_tolerant(abi.WITHDRAW_OFFER, sender=hot_of(OTHER))
    assert lane.refusal(lane.call_tolerant, abi.WITHDRAW_OFFER, sender=hot_of(OTHER)) == "no_offer"
    assert lane.refusal(lane.ask, executor=OTHER) == "no_offer"
    lane.ctx.call(staking.HANDLERS, abi.UNBOND, 10_000 * 10**18, sender=EXECUTOR)
    assert lane.call_tolerant(abi.OFFERS, sender=POSTER) == []
    assert lane.refusal(lane.ask) == "no_offer"
    assert lane.refusal(lane.offer) == "not_active"


def test_who_left_still_answers_and_is_paid_for_what_was_asked_before(lane: Lane) -> None:
    task = lane.ask()
    lane.ctx.call(staking.HANDLERS, abi.UNBOND, 10_000 * 10**18, sender=EXECUTOR)
    lane.answer(task)
    lane.accept(task)
    lane.block()
    assert lane.ctx.balance(payout_of(EXECUTOR)) == FEE - FEE * 20 // 100


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"executor": POSTER}, "no_offer"),
        ({"executor": OTHER}, "no_offer"),
        ({"model": keccak(b"another")}, "model"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a" * 1_001}, "prompt"),
        ({"prompt": "é" * 501}, "prompt"),
        ({"tokens": 0}, "max_tokens"),
        ({"tokens": 65}, "max_tokens"),
        ({"k": 0}, "sampling"),
        ({"k": 21}, "sampling"),
        ({"value": ESCROW - 1}, "fee_too_low"),
    ],
)
def test_what_an_ask_must_satisfy(lane: Lane, changes: dict[str, Any], code: str) -> None:
    assert lane.refusal(lane.ask, **changes) == code


def test_a_changed_offer_leaves_open_tasks_at_their_prices(lane: Lane) -> None:
    task = lane.ask()
    lane.offer(byte=0, token=2 * TOKEN_WEI, model="another")
    assert lane.refusal(lane.ask, value=10**18) == "model"
    lane.answer(task)
    lane.accept(task)
    lane.block()
    assert lane.events(abi.TOLERANT_PAID)[0]["fee"] == FEE


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        (("a",) * 9, "length"),
        (b"", "malformed"),
        (b"\x80", "malformed"),
        (b"\xff" * 40, "malformed"),
        (rlp.encode([[b"a"]]), "malformed"),
        (rlp.encode([b"\xff"]), "malformed"),
        (rlp.encode([b"\xed\xa0\x80"]), "malformed"),
        (rlp.encode([b"", b"a"]), "malformed"),
        (rlp.encode([b"a" * 4_097]), "malformed"),
        (rlp.encode([b"a"]) + b"\x00", "malformed"),
        (rlp.encode([b"a" * 4_096] * 8), "length"),
    ],
)
def test_an_answer_that_is_none_is_refused(lane: Lane, tokens: Any, code: str) -> None:
    task = lane.ask()
    assert lane.refusal(lane.answer, task, tokens) == code
    lane.answer(task)


@pytest.mark.parametrize("tokens", [(), ("",), ("a", ""), ("é" * 2_048,), ("\x00", "\U0001f40b")])
def test_an_answer_may_be_short_and_end_in_a_nameless_token(lane: Lane, tokens: tuple[str, ...]) -> None:
    task = lane.ask()
    lane.answer(task, tokens)
    (found,) = lane.events(abi.TOLERANT_ANSWERED)
    assert decode_texts(found["tokens"]) == tokens
    assert found["fee"] == PROMPT_BYTES * BYTE_WEI + len(tokens) * TOKEN_WEI


def test_random_bytes_are_texts_or_malformed_and_nothing_else() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(500):
        tokens = [rng.choice(("a", "é", "\U0001f40b", "long " * 20)) for _ in range(rng.randrange(6))]
        data = bytearray(encode_texts(tokens))
        assert decode_texts(bytes(data)) == tuple(tokens)
        data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = decode_texts(bytes(data))
        except MalformedTexts:
            continue
        assert encode_texts(found) == bytes(data)


def test_only_the_executors_hot_account_answers_once_and_only_the_asker_decides(lane: Lane) -> None:
    task = lane.ask()
    for sender in (POSTER, EXECUTOR, payout_of(EXECUTOR), hot_of(OTHER)):
        assert lane.refusal(lane.answer, task, sender=sender) == "not_executor"
    for call in (lane.accept, lane.refuse):
        assert lane.refusal(call, task) == "stage"
    lane.answer(task)
    assert lane.refusal(lane.answer, task) == "stage"
    for call in (lane.accept, lane.refuse):
        assert lane.refusal(call, task, sender=hot_of(EXECUTOR)) == "not_asker"
        assert lane.refusal(call, keccak(b"no task")) == "unknown_task"
    for reason in ("", "a" * 161):
        assert lane.refusal(lane.refuse, task, reason) == "reason"
    lane.accept(task)
    assert lane.refusal(lane.accept, task) == "stage"


def test_time_that_is_over_is_over_though_the_prologue_is_behind(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that waits for a prologue's gas gives nobody more time."""
    monkeypatch.setattr(gas, "TOLERANT_END", 10**9)
    unanswered, answered = lane.ask(), lane.ask()
    lane.answer(answered)
    lane.block(WINDOW + 5)
    assert lane.is_open(unanswered) and lane.is_open(answered)
    assert lane.refusal(lane.answer, unanswered) == "too_late"
    assert lane.refusal(lane.refuse, answered) == "too_late"
    assert lane.refusal(lane.accept, answered) == "too_late"
    assert lane.refusal(lane.ask) == "backlog"
    monkeypatch.undo()
    lane.block(2)
    assert not lane.is_open(unanswered) and not lane.is_open(answered)


def test_an_executor_has_so_many_open_tasks_at_most(lane: Lane) -> None:
    tasks = [lane.ask() for _ in range(tolerant_state.OPEN_MAX)]
    assert lane.refusal(lane.ask) == "busy"
    assert len(lane.call_tolerant(abi.OPEN_TOLERANT_TASKS, EXECUTOR, sender=POSTER)) == len(tasks)
    lane.answer(tasks[5])
    lane.refuse(tasks[5])
    tasks[5] = lane.ask()
    rows = lane.call_tolerant(abi.OPEN_TOLERANT_TASKS, EXECUTOR, sender=POSTER)
    assert {row[0] for row in rows} == set(tasks)
    row = lane.call_tolerant(abi.GET_TOLERANT_TASK, tasks[5], sender=POSTER)
    facts = abi.TOLERANT_TASK.named(row)
    assert (facts["status"], facts["asker"], facts["lastBlock"]) == (1, POSTER, lane.height + DEADLINE)


def test_a_prologue_ends_as_many_as_the_lane_has_gas_for_and_the_rest_waits() -> None:
    lane = Lane()
    tasks = [lane.ask() for _ in range(12)]
    for task in tasks:
        lane.answer(task)
        lane.accept(task)
    each = max(1, lane.params.prologue_gas // tolerant_end.LANE_DIV // gas.TOLERANT_END)
    assert each == 6
    for ended in range(1, 12 // each + 1):
        lane.block()
        assert [event["task"] for event in lane.events(abi.TOLERANT_PAID)] == tasks[: ended * each]


def test_each_method_and_each_end_is_charged_more_than_the_words_it_touches(lane: Lane) -> None:
    """Reads and writes of words that the block had not touched, at the table's prices."""
    touched: set[tuple[str, bytes, int]] = set()
    get, put = lane.ctx.get, lane.ctx.set

    def seen_get(account: bytes, slot: int) -> int:
        touched.add(("read", account, slot))
        return get(account, slot)

    def seen_put(account: bytes, slot: int, value: int) -> None:
        touched.add(("write", account, slot))
        put(account, slot, value)

    lane.ctx.get, lane.ctx.set = seen_get, seen_put  # type: ignore[method-assign]

    def cost(act: Any, *arguments: Any) -> tuple[Any, int]:
        touched.clear()
        result = act(*arguments)
        kinds = [kind for kind, _, _ in touched]
        return result, kinds.count("read") * READ + kinds.count("write") * WRITE

    assert cost(lane.offer, OTHER)[1] < gas.OFFER
    caused = gas.TOLERANT_END + 2 * gas.TOLERANT_LOOK
    task, spent = cost(lane.ask)
    assert spent < gas.ASK - caused
    assert cost(lane.answer, task)[1] < gas.TOLERANT_ANSWER
    other = lane.ask_and_answer()
    assert cost(lane.accept, task)[1] < gas.ACCEPT
    assert cost(lane.refuse, other)[1] < gas.REFUSE
    lane.ctx.next_block()
    assert cost(tolerant_end.end_due, lane.ctx)[1] < gas.TOLERANT_END
    assert lane.events(abi.TOLERANT_PAID)
    lane.ctx.height += WINDOW + 1
    stale = tolerant_state.DUE.pending(lane.ctx)
    _, spent = cost(tolerant_end.end_due, lane.ctx)
    assert stale == 4 and tolerant_state.DUE.pending(lane.ctx) == 0, "deadlines and windows of tasks that had ended"
    assert spent < stale * gas.TOLERANT_LOOK + (WINDOW + 1) * READ, "and a look a block that passed"


def test_a_flood_of_the_lane_delays_no_exact_task() -> None:
    """Fifty ends wait while a task is dealt, checked and settled: in the same blocks as where nothing waits."""
    stories = []
    for flood in (0, 50):
        lane = Lane()
        for _ in range(flood):
            lane.accept(lane.ask_and_answer())
        task = lane.post(temperature_q16=65_536)
        lane.finish(task)
        logs = [(event["event"], event.get("settlesBlock")) for event in lane.events() if event.get("task") == task]
        stories.append((lane.height, logs, lane.task(task).done_block))
        assert not lane.events(abi.ITEM_FAILED)
        assert bool(tolerant_state.DUE.pending(lane.ctx)) is bool(flood), "they still wait"
    assert stories[0] == stories[1]


def test_a_call_with_too_little_gas_changes_nothing(lane: Lane) -> None:
    lane.ctx.gas_used, lane.ctx.gas_limit = 0, gas.ASK
    before = dict(lane.ctx.storage)
    with pytest.raises(OutOfGas):
        lane.ask()
    assert lane.ctx.storage == before
