"""The builder's policy: work first, then users by tip and nonce, within budgets of gas, bytes and time."""

from dataclasses import replace

import pytest

from chain.builder import WORK_BYTES_MAX, is_work_batch
from chain.mempool import Mempool
from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS, devnet_validator
from primitives.address import MARKET, REFEREE, created_by
from primitives.block import decode_block
from primitives.keys import address_of
from primitives.transaction import Transaction, sign_transaction
from vm.system import abi

GWEI = 10**9
LIMIT = 6_000_000
SPENDER = b"\xfe"
"""Runtime code that uses up all the gas it is given (INVALID)."""


def users(block) -> list[tuple[bytes, int]]:
    return [(each.sender, each.nonce) for each in block.transactions if isinstance(each, Transaction)]


def build(devnet, round_=0, should_stop=lambda: False):
    """The block that a builder makes, checked as others would check it."""
    block = devnet.ledger.build(devnet.request(round_, should_stop=should_stop), devnet.mempool)
    other = type(devnet.ledger).open(type(devnet.kv)(), devnet.spec)
    for height in range(1, block.number):
        other.commit(devnet.ledger.block(height), devnet.ledger.certificate(height))
    other.check(decode_block(block.wire_body))
    return block


def work_batch(private_key, size=0, nonce=0, tip=1, gas=400_000):
    data = abi.WORK.encode_call(b"\x81" * size)
    return sign_transaction(
        private_key, chain_id=31_337, nonce=nonce, gas=gas, to=MARKET, data=data,
        max_fee_per_gas=3 * GWEI, max_priority_fee_per_gas=tip,
    )  # fmt: skip


@pytest.fixture
def burner(devnet):
    """A devnet at height 1 with a contract that burns all gas it is given; its address."""
    init = bytes([0x60, len(SPENDER), 0x60, 0x0C, 0x60, 0x00, 0x39, 0x60, len(SPENDER), 0x60, 0x00, 0xF3]) + SPENDER
    devnet.send(9, to=b"", value=0, gas=300_000, data=init)
    assert devnet.advance().receipts[1].status == 1
    return devnet, created_by(ACCOUNT_ADDRESSES[9], 0)


def test_users_stand_by_tip_and_nonce(devnet):
    devnet.send(0, tip=1)
    devnet.send(0, tip=900)
    devnet.send(1, tip=500)
    devnet.send(2, tip=700)
    a, b, c = ACCOUNT_ADDRESSES[:3]
    assert users(build(devnet)) == [(c, 0), (b, 0), (a, 0), (a, 1)]


def test_work_of_operators_stands_first_one_batch_each(devnet):
    devnet.send(0, tip=GWEI)
    hot = [devnet_validator(index).hot for index in range(3)]
    for key in hot:
        devnet.mempool.add(work_batch(key, tip=1).raw, 0)
    devnet.mempool.add(work_batch(hot[0], nonce=1, tip=1).raw, 0)
    devnet.mempool.add(work_batch(ACCOUNT_KEYS[1], tip=2 * GWEI).raw, 0)
    block = build(devnet)
    order = users(block)
    assert set(order[:3]) == {(address_of(key), 0) for key in hot}
    # Who is no operator waits among the users, and so does an operator's second batch.
    assert order[3:] == [(ACCOUNT_ADDRESSES[1], 0), (ACCOUNT_ADDRESSES[0], 0), (address_of(hot[0]), 1)]
    assert [is_work_batch(each) for each in block.transactions[1:5]] == [True, True, True, True]


def test_work_takes_at_most_half_of_the_gas(new_devnet):
    devnet = new_devnet(validators=8)
    for index in range(8):
        devnet.mempool.add(work_batch(devnet_validator(index).hot, gas=3_100_000 if index < 4 else 400_000).raw, 0)
    block = devnet.ledger.build(devnet.request(round_=3), devnet.mempool)
    assert sorted(sender for sender, _ in users(block)) == sorted(
        devnet_validator(index).hot_address for index in range(4, 8)
    )


@pytest.mark.parametrize(
    "hog",
    [{"size": 62_000, "gas": 3_000_000}, {"size": 10, "gas": 2_999_999}, {"size": 17_000, "gas": 800_000}],
    ids=["all the bytes", "all the gas", "a little more than a share"],
)
@pytest.mark.parametrize("hogs", [1, 3])
def test_nobody_hogs_the_lane_of_work(devnet, hog, hogs):
    """Junk at any tip, as much as the lane holds: the others have their shares of it, in every round."""
    for index in range(4):
        key = devnet_validator(index).hot
        made = work_batch(key, tip=GWEI, **hog) if index < hogs else work_batch(key, 1_000, tip=1)
        devnet.mempool.add(made.raw, 0)
    block = devnet.ledger.build(devnet.request(round_=3), devnet.mempool)
    honest = {devnet_validator(index).hot_address for index in range(hogs, 4)}
    assert honest <= {sender for sender, _ in users(block)}
    assert [sender in honest for sender, _ in users(block)][: len(honest)] == [True] * len(honest)


def test_with_all_lanes_flooded_at_once_each_keeps_to_its_part_and_the_honest_have_theirs(burner):
    """Three operators' junk, refused challenges and gas burners, all at tips that nobody honest pays."""
    devnet, contract = burner
    for index in range(3):
        devnet.mempool.add(work_batch(devnet_validator(index).hot, 30_000, tip=2 * GWEI, gas=1_900_000).raw, 0)
    honest = work_batch(devnet_validator(3).hot, 1_000, tip=1)
    devnet.mempool.add(honest.raw, 0)
    for account in range(4):
        devnet.mempool.add(referee_call(account, abi.CHALLENGE, b"t" * 32, 0, tip=2 * GWEI, gas=700_000).raw, 0)
    for account in range(4, 9):
        devnet.send(account, to=contract, gas=1_500_000, tip=2 * GWEI)
    block = build(devnet)
    devnet.ledger.commit(block, devnet.certificate(block))
    receipts = devnet.ledger.receipts(block.number)[1:]
    assert block.transactions[1].hash == honest.hash
    used = {MARKET: 0, REFEREE: 0, contract: 0}
    for transaction, receipt in zip(block.transactions[1:], receipts, strict=True):
        used[transaction.to] += receipt.gas_used
    assert 0 < used[MARKET] <= LIMIT // 2 and 0 < used[REFEREE] <= LIMIT // 4
    assert used[contract] == 2 * 1_500_000, "users have what is left"


@pytest.mark.parametrize(("round_", "limit"), [(0, LIMIT), (1, LIMIT // 2), (2, LIMIT // 4), (3, 0), (9, 0)])
def test_users_gas_is_halved_by_every_round_and_gone_in_the_fourth(burner, round_, limit):
    devnet, contract = burner
    for account in range(9):
        devnet.send(account, to=contract, gas=700_000)
    block = build(devnet, round_)
    spent = sum(each.gas for each in block.transactions[1:])
    assert spent <= limit
    assert len(block.transactions) - 1 == min(limit, block.header.gas_limit - 10_000) // 700_000
    assert len(devnet.mempool) == 9, "what does not fit waits for the next block"


def test_work_stays_in_every_round_within_its_bytes(new_devnet):
    devnet = new_devnet(validators=8)
    size = 12_000
    for index in range(8):
        devnet.mempool.add(work_batch(devnet_validator(index).hot, size, gas=600_000).raw, 0)
    devnet.send(0)
    block = build(devnet, round_=4)
    sizes = [len(each.raw) for each in block.transactions[1:]]
    assert len(sizes) == 3_000_000 // 600_000 == 5
    assert sum(sizes) <= WORK_BYTES_MAX
    assert all(is_work_batch(each) for each in block.transactions[1:])


def test_bytes_are_a_budget_too(new_devnet):
    devnet = new_devnet(block_bytes_max=20_000)
    for account in range(6):
        devnet.send(account, data=b"\x01" * 5_000, gas=300_000)
    block = build(devnet)
    assert len(block.transactions) - 1 == 3
    assert len(block.wire_body) <= 20_000
    assert len(build(devnet, round_=1).transactions) - 1 == 1


def test_one_that_does_not_fit_does_not_keep_out_others(burner):
    devnet, contract = burner
    devnet.send(0, to=contract, gas=5_000_000, tip=9 * GWEI, max_fee=99 * GWEI)
    devnet.send(1, to=contract, gas=5_000_000, tip=8 * GWEI, max_fee=99 * GWEI)
    devnet.send(2, tip=1)
    assert users(build(devnet)) == [(ACCOUNT_ADDRESSES[0], 0), (ACCOUNT_ADDRESSES[2], 0)]


def test_what_execution_refuses_is_dropped_with_its_reason(devnet):
    """A replacement in a rival's block, or a 7702 account, can make a waiting transaction invalid unseen."""
    first, second, third = (devnet.send(0) for _ in range(3))
    stale = Mempool(devnet.ledger)
    for transaction in (first, second, third):
        stale.add(transaction.raw, 0)
    devnet.ledger.on_commit.remove(stale.committed)
    devnet.advance()
    reasons = []
    stale.on_drop.append(lambda transaction, reason: reasons.append((transaction.hash, reason)))
    block = devnet.ledger.build(devnet.request(), stale)
    assert users(block) == []
    assert reasons == [(first.hash, "nonce too low: next nonce 3, tx nonce 0")]


def after(calls):
    """A clock that says stop from its n-th call on."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_the_clock_closes_the_block(devnet):
    for account in range(5):
        devnet.send(account, tip=5 - account)
    assert users(build(devnet, should_stop=after(3))) == [(ACCOUNT_ADDRESSES[each], 0) for each in range(3)]
    assert users(build(devnet, should_stop=lambda: True)) == []
    assert len(devnet.mempool) == 5
    assert devnet.mempool.suspects() == frozenset()


def test_one_transaction_that_alone_takes_too_long_is_evicted(burner):
    devnet, contract = burner
    slow = devnet.send(0, to=contract, gas=2_000_000, tip=9 * GWEI, max_fee=99 * GWEI)
    fast = devnet.send(1)
    reasons = []
    devnet.mempool.on_drop.append(lambda transaction, reason: reasons.append((transaction, reason)))
    assert users(build(devnet, should_stop=after(1))) == []
    assert reasons == [(slow, "execution exceeded the time limit of a block")]
    assert users(build(devnet)) == [(fast.sender, 0)]


def test_one_that_came_late_is_left_out_and_tried_first_and_alone_next_time(burner):
    devnet, contract = burner
    quick = devnet.send(1, tip=9 * GWEI, max_fee=99 * GWEI)
    slow = devnet.send(0, to=contract, gas=2_000_000)
    # Asked: before quick, before slow, and late after slow.
    assert users(build(devnet, should_stop=after(2))) == [(quick.sender, 0)]
    assert devnet.mempool.suspects() == {slow.hash}
    # Innocent this time: it stands first, and stays.
    assert users(build(devnet)) == [(slow.sender, 0), (quick.sender, 0)]
    # Late again, and alone: it leaves.
    assert users(build(devnet, should_stop=after(1))) == []
    assert slow.hash not in devnet.mempool
    assert quick.hash in devnet.mempool


def test_a_small_transaction_that_happens_to_be_the_last_is_kept(devnet):
    sent = [devnet.send(account, tip=9 - account) for account in range(3)]
    block = build(devnet, should_stop=after(2))
    assert users(block) == [(sent[0].sender, 0), (sent[1].sender, 0)]


def referee_call(account, function, *arguments, nonce=0, tip=1, gas=400_000):
    return sign_transaction(
        ACCOUNT_KEYS[account], chain_id=31_337, nonce=nonce, gas=gas, to=REFEREE, data=function.encode_call(*arguments),
        max_fee_per_gas=3 * GWEI, max_priority_fee_per_gas=tip,
    )  # fmt: skip


@pytest.mark.parametrize("round_", [0, 3])
def test_challenges_from_anyone_stand_before_users_in_every_round(devnet, round_):
    devnet.send(0, tip=900)
    devnet.mempool.add(referee_call(1, abi.CHALLENGE, b"t" * 32, 0).raw, 0)
    devnet.mempool.add(referee_call(2, abi.CHALLENGE, b"t" * 32, 1, tip=7).raw, 0)
    b, c, a = ACCOUNT_ADDRESSES[1], ACCOUNT_ADDRESSES[2], ACCOUNT_ADDRESSES[0]
    assert users(build(devnet, round_)) == [(c, 0), (b, 0), *([(a, 0)] if round_ == 0 else [])]


def test_only_moves_that_a_dispute_waits_for_have_room_of_their_own(devnet):
    calls = (abi.SHOW, 1, b"x"), (abi.CHOOSE, 2**64 - 1, 0, b"c" * 32, []), (abi.OPEN, 3, 0, b"")
    for account, call in enumerate(calls):
        devnet.mempool.add(referee_call(account, *call).raw, 0)
    assert users(build(devnet, 3)) == []
    assert len(users(build(devnet, 0))) == 3, "as anybody's transactions"


def test_a_message_that_the_dispute_lane_does_not_hold_waits_among_users(devnet):
    devnet.mempool.add(referee_call(0, abi.CHALLENGE, b"t" * 32, 0, gas=LIMIT // 8 + 1).raw, 0)
    assert users(build(devnet, 3)) == []


def test_work_is_kept_when_a_users_transaction_comes_late(burner):
    devnet, contract = burner
    work = devnet.mempool.add(work_batch(devnet_validator(0).hot).raw, 0)
    slow = devnet.send(0, to=contract, gas=2_000_000)
    assert users(build(devnet, should_stop=after(2))) == [(work.sender, 0)]
    assert slow.hash not in devnet.mempool


def test_the_same_request_and_transactions_make_the_same_bytes(devnet):
    for account in range(4):
        devnet.send(account)
    request = devnet.request()
    first, second = (devnet.ledger.build(replace(request), devnet.mempool) for _ in range(2))
    assert first.wire_body == second.wire_body
