"""What a post must satisfy, what it locks, who is dealt it, and canaries."""

import pytest
from market_world import COST, FUND, MODEL, POSTER, STOP, UNLISTED, World, hot_of, operator_of, payout_of

from consensus.work.incentive import AUDITORS_MAX
from primitives.address import MARKET
from primitives.hashing import keccak
from primitives.merkle import tokens_root
from primitives.params import COIN, STAKE_UNIT, ChainParams
from primitives.task import Kind, Status, sampling_seed, sequence_of, task_id
from vm.system import abi, gas, ledger, market, market_gas, market_state, prologue, referee_gas
from vm.system.context import Refused
from vm.system.market_deal import canary_prompt


@pytest.fixture
def world() -> World:
    world = World(canaries_per_validator=0)
    world.block()
    return world


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"kind": 3}, "kind", "kind 3 is none; 0 is generate, 1 embed, 2 score"),
        ({"value_at_risk": 2 * COIN, "value": 1}, "value_at_risk", "wei may be at risk"),
        ({"tip": 2**96, "value": 1}, "fee_too_high", "a tip of 79228162514264337593543950336 wei a CWU"),
        ({"callback_gas": 200_001}, "callback_gas", "callbackGas 200001: a callback may have 200000 gas"),
        ({"assurance": 4}, "assurance", "3 others could check an answer of this model; post with assurance 3"),
        ({"assurance": 9}, "assurance", "at most 8 verifiers check a task"),
        ({"model": UNLISTED}, "unknown_model", UNLISTED.hex()),
        ({"tokens": ()}, "prompt_empty", "at least 1 token"),
        ({"tokens": b"\x00\x00\x01"}, "malformed", "3 bytes"),
        ({"tokens": (2, 255, 256, 3)}, "token", "token 2 is 256; the model's vocabulary ends at 255"),
        ({"tokens": (2,) * 8193}, "prompt_too_long", "32772 bytes; at most 32768"),
        ({"max_tokens": 0}, "max_tokens", "maxTokens is 0"),
        ({"max_tokens": 505}, "context", "a prompt of 8 and 505 new tokens; the model's context holds 512"),
        ({"deadline": 11}, "deadline", "must be 12 to 612"),
        ({"deadline": 613}, "deadline", "must be 12 to 612"),
        ({"value": 0}, "fee_too_low", "fee too low: this task needs"),
    ],
)
def test_a_post_that_breaks_a_rule_is_refused_with_its_reason(world, changes, code, text):
    found = world.refused(**changes)
    assert found[0] == code
    assert text in found[1]


def test_one_wei_less_than_the_escrow_is_too_little_and_the_reason_names_it(world):
    needed = world.escrow()
    assert str(needed) in world.refused(value=needed - 1)[1]
    world.post(value=needed)


def test_what_was_sent_beyond_the_escrow_returns_at_once(world):
    before = world.ctx.balance(POSTER)
    task = world.post(value=world.escrow() + 12_345)
    assert before - world.ctx.balance(POSTER) == world.escrow() == world.task(task).escrow


@pytest.mark.parametrize(("validators", "most"), [(1, 0), (2, 1), (3, 2)])
def test_more_assurance_than_others_can_give_is_refused_with_advice(validators, most):
    world = World(validators=validators, canaries_per_validator=0)
    world.block()
    for assurance in range(most + 1):
        world.post(assurance=assurance)
    if most < 2:
        code, text = world.refused(assurance=most + 1)
        assert code == "assurance"
        assert f"post with assurance {most}" in text


def test_a_post_is_refused_while_the_market_is_more_than_four_blocks_behind(world):
    market_state.DRAWS.push(world.ctx, world.height + 1, keccak(b"an entry"))
    world.ctx.next_block()
    for behind in range(7):
        assert market_state.DRAWS.behind(world.ctx, world.height) == behind
        if behind > 4:
            assert world.refused()[0] == "backlog"
        else:
            world.post()
        world.ctx.next_block()  # no prologue: nothing is worked off


def test_post_charges_what_it_can_cause(world):
    before = world.ctx.gas_used
    world.post(deadline=30)
    caused = market_gas.caused_by_post(world.params, 4, 30, 2, False)
    assert world.ctx.gas_used - before > caused
    assert caused > market_gas.deal(4) + market_gas.draw(4, 2) + market_gas.settle(2, 2) + market_gas.close(2)


@pytest.mark.parametrize(("members", "most"), [(4, 410_000), (16, 500_000), (128, 1_400_000)])
def test_a_post_fits_a_transaction_comfortably_whatever_the_size_of_the_set(members, most):
    """With a prompt of 256 tokens, a minute's deadline, two verifiers."""
    caused = market_gas.caused_by_post(ChainParams(), members, 60, 2, False)
    data = 16 * (4 + 13 * 32 + 4 * 256) // 2  # half of the bytes are zeros or more
    own = market_gas.POST + market_gas.POST_BYTE * 1024 + market_gas.POST_MEMBER * members
    assert 21_000 + data + gas.CALL + own + caused < most < ChainParams().transaction_gas_max // 3


def test_a_deal_and_a_draw_of_the_largest_set_fit_the_smallest_prologue():
    most = AUDITORS_MAX * (1 + ChainParams().redraws_max)
    for item in (market_gas.deal(128), market_gas.draw(128, AUDITORS_MAX), market_gas.pass_slot(128)):
        assert market_gas.look(128) + item + market_gas.refund(most) < ChainParams().prologue_gas * 3 // 4


def test_the_dearest_end_of_a_task_fits_the_smallest_prologue():
    most = AUDITORS_MAX * (1 + ChainParams().redraws_max)
    assert market_gas.settle(AUDITORS_MAX, most) + market_gas.refund(most) < ChainParams().prologue_gas * 9 // 10


def test_a_quote_is_what_a_post_then_needs(world):
    quoted = world.ctx.call(market.HANDLERS, abi.QUOTE, 0, MODEL, 8, 8, 0, 0, 0, 0, sender=POSTER)
    assert quoted == (world.escrow(), 12, 612, 2)
    with pytest.raises(Refused, match="context"):
        world.ctx.call(market.HANDLERS, abi.QUOTE, 0, MODEL, 500, 13, 0, 0, 0, 0, sender=POSTER)


def test_ids_hashes_and_seed_are_the_written_ones(world):
    first, second = world.post(), world.post()
    assert (first, second) == (task_id(31337, 0), task_id(31337, 1))
    assert world.task(first).prompt_hash == tokens_root(range(10, 18))
    world.block()
    assert world.task(first).seed == sampling_seed(world.ctx.mix, first)


def test_only_the_poster_cancels_and_only_before_the_deal(world):
    task = world.post()
    with pytest.raises(Refused, match="only its poster"):
        world.cancel(task, sender=operator_of(1))
    before = world.ctx.balance(POSTER)
    world.cancel(task)
    assert world.ctx.balance(POSTER) - before == world.escrow()
    assert world.status(task) == Status.REFUNDED
    with pytest.raises(Refused, match="refunded"):
        world.cancel(task)
    task = world.post()
    world.block()
    with pytest.raises(Refused, match="dealt"):
        world.cancel(task)


def test_one_busy_validator_is_passed_over_and_a_task_without_room_waits():
    # two validators of which each can hold one task of 15.4M at 1M a block and a step of 10
    world = World(validators=2, rate=10**6, canaries_per_validator=0)
    world.block()
    tasks = [world.post() for _ in range(3)]
    world.block()
    executors = [world.task(task).slots[:1] for task in tasks]
    assert {executors[0], executors[1]} == {(operator_of(0),), (operator_of(1),)}
    assert world.status(tasks[2]) == Status.POSTED
    waits = [e["againBlock"] - world.height for e in world.of(abi.DEAL_DELAYED, tasks[2])]
    assert waits == [1]


def test_tasks_are_dealt_by_tip_and_then_in_the_order_of_their_posts(world):
    tips = [5, 0, 9, 5, 2**96 - 1 >> 40, 0, 9]
    tasks = [world.post(tip=tip) for tip in tips]
    world.block()
    order = [task for e in world.events(abi.TASK_DEALT) for task in tasks if task == e["task"]]
    assert order == [tasks[i] for i in (4, 2, 6, 0, 3, 1, 5)]


def test_whoever_tips_more_passes_the_others_when_gas_is_short(world):
    tasks = [world.post(tip=tip) for tip in (0, 0, 7)]
    world.cancel(world.post(tip=9))  # its entry is dropped on the way
    world.ctx.next_block()
    fixed = gas.MIX + gas.PRICE + referee_gas.LANE
    gas_needed = fixed + market_gas.LOOK + market_gas.look(4) + market_gas.deal(4) * 2 + market_gas.refund(2)
    world.ctx.gas_limit = gas_needed
    prologue.run(world.ctx, bytes(32), b"")
    assert [world.status(task) for task in tasks] == [Status.DEALT, Status.POSTED, Status.DEALT]


def test_a_tip_is_the_executors_and_the_asker_pays_it_for_the_work_that_was_done(world):
    before, tip = world.ctx.balance(POSTER), 10**13
    task = world.post(tip=tip)
    assert world.of(abi.TASK_POSTED, task)[0]["tipPerCwu"] == tip
    locked = world.task(task).escrow
    world.block()
    executor = world.task(task).slots[0]
    world.block()
    assert world.submit(executor, task, (2, 3, STOP)) == []
    world.finish(task)
    (settled,) = world.of(abi.TASK_SETTLED, task)
    extra = -(-COST.execution(Kind.GENERATE, 8, 3) * tip // 10**9)
    fee, params = settled["fee"], world.params
    base = fee - fee * params.fee_burn_percent // 100 - fee * params.fee_pool_percent // 100
    assert settled["executorWei"] == base + extra
    assert before - world.ctx.balance(POSTER) == locked - settled["refundedWei"]


def test_two_hundred_open_tasks_are_dealt_in_order_and_block_by_block_as_far_as_gas_goes():
    world = World(validators=16, rate=10**12, canaries_per_validator=0, block_gas_limit=12_000_000)
    world.block()
    tasks = {world.post(tip=i * 7919 % 211): i * 7919 % 211 for i in range(220)}
    dealt: list[int] = []
    spent = []
    while len(dealt) < len(tasks):
        since = len(world.ctx.logs)
        world.ctx.next_block()
        world.ctx.gas_limit = world.params.prologue_gas
        prologue.run(world.ctx, bytes(32), b"")
        spent.append(world.ctx.gas_used)
        dealt += [tasks[e["task"]] for e in world.events(abi.TASK_DEALT, since)]
    assert dealt == sorted(dealt, reverse=True)
    assert max(spent) <= world.params.prologue_gas


def test_more_fresh_tasks_than_may_wait_are_refused(world, monkeypatch):
    from vm.system import market_post

    monkeypatch.setattr(market_post, "FRESH_MAX", 3)
    for _ in range(3):
        world.post()
    assert world.refused() == ("backlog", "3 tasks wait for their first deal; try again in some blocks")


def test_retries_come_after_1_2_4_8_blocks_until_the_deadline_from_the_post():
    world = World(validators=2, serving=0, canaries_per_validator=0)
    world.block()
    task = world.post(deadline=30)
    posted, before = world.height, world.ctx.balance(POSTER)
    world.block(30)
    tried = [e["againBlock"] - posted for e in world.of(abi.DEAL_DELAYED, task)]
    assert tried == [2, 4, 8, 16, 32]
    assert world.status(task) == Status.POSTED
    world.block()
    assert world.status(task) == Status.REFUNDED
    escrow = world.escrow()
    assert world.ctx.balance(POSTER) - before == escrow - escrow // 100


def test_a_block_retries_at_most_eight():
    world = World(validators=2, serving=0, canaries_per_validator=0)
    world.block()
    tasks = [world.post() for _ in range(12)]
    world.block()
    world.block()
    tries = [len(world.of(abi.DEAL_DELAYED, task)) for task in tasks]
    assert tries == [2] * 8 + [1] * 4
    world.block()
    tries = [len(world.of(abi.DEAL_DELAYED, task)) for task in tasks]
    assert tries == [2] * 12


def test_a_prologue_short_of_gas_carries_over_in_order(world):
    tasks = [world.post() for _ in range(3)]
    world.ctx.next_block()
    fixed = gas.MIX + gas.PRICE + referee_gas.LANE + market_gas.look(4)
    world.ctx.gas_limit = fixed + market_gas.deal(4) * 2 + market_gas.refund(2)
    prologue.run(world.ctx, bytes(32), b"")
    assert [world.status(task) for task in tasks] == [Status.DEALT, Status.DEALT, Status.POSTED]
    world.ctx.gas_limit, world.ctx.gas_used = 10**9, 0
    world.block()
    assert world.status(tasks[2]) == Status.DEALT
    assert world.task(tasks[2]).dealt_block == world.height
    assert world.task(tasks[2]).seed == sampling_seed(world.ctx.mix, tasks[2])  # of the block that dealt it


def test_an_item_that_fails_is_logged_refunded_and_never_tried_again(world, monkeypatch):
    task, other = world.post(), world.post()
    from vm.system import market_deal

    real = market_deal.sampling_seed

    def failing(mix: bytes, identity: bytes) -> bytes:
        if identity == task:
            raise Refused("broken", "this one cannot be dealt")
        return real(mix, identity)

    monkeypatch.setattr(market_deal, "sampling_seed", failing)
    before, escrow = world.ctx.balance(POSTER), world.escrow()
    world.block()
    assert world.status(task) == Status.REFUNDED
    assert world.ctx.balance(POSTER) - before == escrow
    assert [e["code"] for e in world.of(abi.ITEM_FAILED, task)] == ["broken"]
    assert world.status(other) == Status.DEALT
    world.block(5)
    assert len(world.events(abi.ITEM_FAILED)) == 1


def test_a_batch_reverts_whole_only_for_a_stranger_or_bad_rlp(world):
    with pytest.raises(Refused, match="no operator's hot account"):
        world.ctx.call(market.HANDLERS, abi.WORK, b"\xc0", sender=POSTER)
    with pytest.raises(Refused, match="malformed work batch"):
        world.ctx.call(market.HANDLERS, abi.WORK, b"\xff", sender=hot_of(operator_of(0)))
    with pytest.raises(Refused, match="1 to 64 items"):
        world.ctx.call(market.HANDLERS, abi.WORK, b"\xc0", sender=hot_of(operator_of(0)))
    from primitives import rlp

    task = world.post()
    world.block()
    number = rlp.from_uint(sequence_of(task))
    items = [[b"\x05", number, b"\x01" * 32, b"\x02" * 32], [b"\x01", number], [b"\x02", b"\x05" * 8, b"\x06" * 32]]
    items.append([b"\x04", number, b"\x01" * 32, b"\x02" * 32])
    before = len(world.ctx.logs)
    world.ctx.call(market.HANDLERS, abi.WORK, rlp.encode(items), sender=hot_of(operator_of(0)))
    refused = world.events(abi.WORK_REFUSED, before)
    assert [(e["kind"], e["code"]) for e in refused] == [
        (5, "malformed"), (0, "malformed"), (2, "unknown_task"), (4, "stage")
    ]  # fmt: skip


def test_anyone_fills_the_fund(world):
    world.ctx.call(market.HANDLERS, abi.FILL_FUND, sender=POSTER, value=77)
    assert world.ctx.call(market.HANDLERS, abi.FUND, sender=POSTER) == (FUND + 77, 0)
    world.check()


def test_the_money_of_a_settled_task(world):
    price, params = ledger.base_price(world.ctx), world.params
    balances = {v.operator: world.ctx.balance(payout_of(v.operator)) for v in world.spec.validators}
    before = world.ctx.balance(POSTER)
    task = world.post()
    world.block()
    slots = world.task(task).slots
    world.block()
    assert world.submit(slots[0], task, (2, 3, STOP)) == []
    world.finish(task)
    fee = -(-COST.execution(Kind.GENERATE, 8, 3) * price // 10**9)
    audit = -(-COST.audit(Kind.GENERATE, 8, 3) * price // 10**9)
    burn, pool = fee * params.fee_burn_percent // 100, fee * params.fee_pool_percent // 100
    receipt = world.of(abi.RECEIPT, task)[0]
    earned = {operator: world.ctx.balance(payout_of(operator)) - balances[operator] for operator in balances}
    assert earned[slots[0]] == fee - burn - pool
    for operator in earned:
        if world.text(operator) in receipt["verifiers"]:
            assert earned[operator] == audit + pool // 2
    paid = market_gas.WORK_PAID
    said = 2 * paid.saying(paid.verdict, 2) + paid.saying(paid.reveal, 2)
    work = (paid.submission(Kind.GENERATE, 3) + said) * 2 * world.ctx.base_fee
    assert before - world.ctx.balance(POSTER) == fee + 2 * audit + work
    assert world.ctx.call(market.HANDLERS, abi.FUND, sender=POSTER)[0] == FUND + burn // 2
    assert (receipt["fee"], receipt["pricePerCwu"], receipt["root"]) == (fee, price, world.roots[task])
    assert (receipt["lane"], receipt["outcome"]) == (abi.LANE_EXACT, abi.OUTCOME_AGREED)
    moved = COST.prefill_bytes(8), COST.decode_bytes(Kind.GENERATE, 8, 3)
    assert (receipt["prefillBytes"], receipt["decodeBytes"]) == moved


def test_the_largest_bonds_there_can_be_fit_in_a_task():
    world = World(bond=2**49 * STAKE_UNIT, canaries_per_validator=0)
    world.block()
    task = world.post()
    world.finish(task)
    assert world.status(task) == Status.SETTLED


def test_a_task_that_waits_for_ages_goes_on_waiting():
    world = World(serving=0, canaries_per_validator=0)
    world.block()
    task = world.post(deadline=600)
    stored = market_state.TASKS.get(world.ctx, task)
    stored.tries = 255
    market_state.TASKS.put(world.ctx, stored, task)
    world.block(40)
    assert world.status(task) == Status.POSTED


def test_an_epochs_canaries_are_spread_over_it_and_paid_from_the_fund():
    world = World(canaries_per_validator=4)
    seen = {}
    while world.height < 32:
        world.block()
        for event in world.events(abi.TASK_POSTED)[len(seen) :]:
            seen[event["task"]] = world.height
    posted = world.events(abi.TASK_POSTED)
    assert len(posted) == 16
    assert all(e["canary"] and e["escrow"] == 0 for e in posted)
    assert list(seen.values()) == list(range(1, 33, 2))


def test_a_canary_is_worked_agreed_credited_and_mints_nothing():
    world = World(canaries_per_validator=1)
    world.block()
    task = world.events(abi.TASK_POSTED)[0]["task"]
    world.finish(task)
    assert world.status(task) == Status.SETTLED
    receipt = world.of(abi.RECEIPT, task)[0]
    assert (receipt["class"], receipt["fee"]) == (abi.CLASS_CANARY, 0)
    executor = bytes.fromhex(receipt["executor"][2:])
    assert world.credit(executor)[0] > 0
    spent = sum(e["amount"] for e in world.of(abi.PAID, task))
    fund, _ = world.ctx.call(market.HANDLERS, abi.FUND, sender=POSTER)
    assert fund == FUND - spent < FUND
    hot = {world.text(hot_of(validator.operator)) for validator in world.spec.validators}
    assert {e["to"] for e in world.of(abi.PAID, task)} <= hot


def test_a_canary_for_which_gas_was_short_is_created_later_in_its_epoch():
    world = World(canaries_per_validator=1)
    world.ctx.next_block()
    world.ctx.gas_limit = gas.MIX + gas.PRICE + referee_gas.LANE + market_gas.CANARY  # not its members
    prologue.run(world.ctx, bytes(32), b"")
    assert not world.events(abi.TASK_POSTED)
    world.block()
    assert len(world.events(abi.TASK_POSTED)) == 1
    world.block_until(32)
    assert len(world.events(abi.TASK_POSTED)) == 4


def test_greedy_work_on_the_same_prompt_earns_credit_once():
    world = World(canaries_per_validator=0, epoch_blocks=128)
    world.block()

    def earned(**asked) -> int:
        before = {v.operator: world.credit(v.operator) for v in world.spec.validators}
        world.finish(world.post(**asked))
        return sum(world.credit(operator)[0] - before[operator][0] for operator in before)

    assert earned() > 0
    assert earned() == 0
    assert earned(temperature_q16=65_536, top_k=1) == 0
    assert earned(temperature_q16=65_536) > 0
    assert earned(tokens=(3, 4, 5)) > 0


def test_canary_prompts_are_drawn_from_the_mix_without_stop_ids():
    stops = list(range(200))
    prompt = canary_prompt(keccak(b"mix"), 7, 16, 256, stops)
    assert len(prompt) == 16
    assert not set(prompt) & set(stops)
    assert prompt == canary_prompt(keccak(b"mix"), 7, 16, 256, stops)
    assert prompt != canary_prompt(keccak(b"mix"), 8, 16, 256, stops)


def test_without_a_served_model_there_are_no_canaries():
    world = World(serving=0)
    world.block(8)
    assert not world.events(abi.TASK_POSTED)


def test_same_inputs_same_storage_logs_and_balances():
    def run() -> World:
        world = World(seed=5)
        world.block()
        for _ in range(40):
            if world.height % 3 == 0:
                world.post()
            world.everyone_works()
            world.block()
        return world

    first, second = run(), run()
    assert first.ctx.storage == second.ctx.storage
    assert first.ctx.logs == second.ctx.logs
    assert first.ctx.balances == second.ctx.balances


def test_a_finished_task_leaves_only_its_end(world):
    task = world.post()
    before = dict(world.ctx.storage)
    world.finish(task)
    assert market_state.TASKS.get(world.ctx, task) is None
    world.block(40)  # the queues pass its stale entries
    left = [key for key in world.ctx.storage.keys() - before.keys() if key[0] == MARKET]
    # Its end, that its prompt earned credit; for both a place in a queue until they are forgotten.
    assert len(left) == 2 + 2 * 2, left
    assert world.ctx.call(market.HANDLERS, abi.GET_TASK, task, sender=POSTER)[1] == Status.SETTLED
    with pytest.raises(Refused, match="there is no task"):
        world.ctx.call(market.HANDLERS, abi.GET_TASK, b"\x01" * 32, sender=POSTER)


def test_a_set_of_128_serves_tasks_in_the_smallest_prologue():
    world = World(validators=128, canaries_per_validator=0)
    world.block()
    before = world.ctx.gas_used
    tasks = [world.post() for _ in range(3)]
    assert (world.ctx.gas_used - before) // 3 < world.params.transaction_gas_max // 3
    for task in tasks:
        world.finish(task, limit=140)
    assert {world.status(task) for task in tasks} == {Status.SETTLED}
