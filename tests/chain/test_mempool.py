"""The mempool's rules, in geth's words."""

from dataclasses import replace

import pytest

from chain.mempool import PROTECTED_MAX, AlreadyKnown, Caps, Mempool, MempoolFull, Underpriced
from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS, devnet_validator
from primitives.address import MARKET
from primitives.keys import address_of
from primitives.transaction import InvalidTransaction, sign_transaction
from vm.system import abi

GWEI = 10**9
COIN = 10**18
A, B, C = ACCOUNT_ADDRESSES[:3]


@pytest.fixture(scope="module")
def chain_of(new_devnet):
    return new_devnet()


@pytest.fixture
def devnet(chain_of):
    """The chain at block 0 with a fresh pool."""
    return replace(chain_of, mempool=Mempool(chain_of.ledger))


def small(devnet, **caps):
    return replace(devnet, mempool=Mempool(devnet.ledger, Caps(**caps)))


REFUSED = [
    ("already known", {"nonce": 0}, AlreadyKnown),
    ("replacement transaction underpriced", {"nonce": 0, "value": 2}, Underpriced),
    (
        "transaction underpriced: gas tip cap 0, minimum needed 1",
        {"tip": 0},
        Underpriced,
    ),
    (
        "transaction underpriced: gas fee cap 999999999, minimum needed 1000000000",
        {"tip": 1, "max_fee": GWEI - 1},
        Underpriced,
    ),
    ("intrinsic gas too low: have 20999, want 21000", {"gas": 20_999}, InvalidTransaction),
    ("exceeds block gas limit", {"gas": 6_000_000}, InvalidTransaction),
    ("insufficient funds for gas \\* price \\+ value", {"nonce": 1, "value": 10_000 * COIN}, InvalidTransaction),
    ("max priority fee per gas higher than max fee per gas", {"tip": 4 * GWEI}, InvalidTransaction),
]


@pytest.mark.parametrize(("text", "fields", "error"), REFUSED, ids=[text[:40] for text, _, _ in REFUSED])
def test_a_transaction_that_breaks_a_rule_is_refused_in_geths_words(devnet, text, fields, error):
    devnet.send(0)
    with pytest.raises(error, match=text):
        devnet.send(0, **fields)
    assert devnet.mempool.counts() == (1, 0)


def test_what_waits_counts_against_the_balance(devnet):
    devnet.send(0, value=6_000 * COIN)
    with pytest.raises(InvalidTransaction, match="balance 10000000000000000000000, queued cost 6000000063000000000000"):
        devnet.send(0, value=6_000 * COIN)
    devnet.send(0, nonce=0, value=9_000 * COIN, tip=2 * GWEI, max_fee=6 * GWEI)


def test_malformed_bytes_are_refused(devnet):
    for raw in (b"", b"\x7e\xc0", b"\x02\xc0", b"\xff" * 40, bytes(128 * 1024 + 1)):
        with pytest.raises(InvalidTransaction):
            devnet.mempool.add(raw, 0)


BUMPS = [
    # old tip, old cap, new tip, new cap, replaces
    (100, 2 * GWEI, 110, 22 * GWEI // 10, True),
    (100, 2 * GWEI, 109, 22 * GWEI // 10, False),
    (100, 2 * GWEI, 110, 22 * GWEI // 10 - 1, False),
    (100, 2 * GWEI, 1000, 2 * GWEI, False),
    (1, 2 * GWEI, 1, 4 * GWEI, False),  # 10 % of 1 rounds to nothing, and equal is not more
    (1, 2 * GWEI, 2, 4 * GWEI, True),
]


@pytest.mark.parametrize(("tip", "cap", "new_tip", "new_cap", "replaces"), BUMPS)
def test_a_replacement_raises_both_fees_by_a_tenth(devnet, tip, cap, new_tip, new_cap, replaces):
    old = devnet.send(0, tip=tip, max_fee=cap)
    if not replaces:
        with pytest.raises(Underpriced, match="replacement transaction underpriced"):
            devnet.send(0, nonce=0, tip=new_tip, max_fee=new_cap)
        assert devnet.mempool.get(old.hash) == old
        return
    new = devnet.send(0, nonce=0, tip=new_tip, max_fee=new_cap)
    assert devnet.mempool.get(old.hash) is None
    assert devnet.mempool.get(new.hash) == new
    assert devnet.mempool.counts() == (1, 0)


def test_a_gap_queues_what_follows_until_it_is_closed(devnet):
    pool = devnet.mempool
    later = [devnet.send(0, nonce=nonce) for nonce in (1, 2, 4)]
    assert pool.counts() == (0, 3)
    assert pool.next_nonce(A) == 0
    assert list(pool.pending(GWEI)) == []
    first = devnet.send(0, nonce=0)
    assert pool.counts() == (3, 1)
    assert pool.next_nonce(A) == 3
    assert [transaction.nonce for transaction in pool.pending(GWEI)] == [0, 1, 2]
    pending, queued = pool.content()
    assert pending == {A: [first, *later[:2]]}
    assert queued == {A: [later[2]]}


def test_pending_is_ordered_by_tip_and_each_senders_by_nonce(devnet):
    devnet.send(0, tip=1 * GWEI, max_fee=9 * GWEI)
    devnet.send(0, tip=9 * GWEI, max_fee=19 * GWEI)
    devnet.send(1, tip=5 * GWEI, max_fee=9 * GWEI)
    devnet.send(1, tip=2 * GWEI, max_fee=9 * GWEI)
    devnet.send(2, tip=8 * GWEI, max_fee=8 * GWEI)
    order = [(transaction.sender, transaction.nonce) for transaction in devnet.mempool.pending(1 * GWEI)]
    assert order == [(C, 0), (B, 0), (B, 1), (A, 0), (A, 1)]
    # The base fee takes from the tip: at 5 gwei C pays 3, and at 9 only A's second would pay, whose first does not.
    order = [(transaction.sender, transaction.nonce) for transaction in devnet.mempool.pending(5 * GWEI)]
    assert order == [(B, 0), (C, 0), (B, 1), (A, 0), (A, 1)]
    assert list(devnet.mempool.pending(10 * GWEI)) == []


def test_an_account_queues_a_bounded_number_of_transactions(devnet):
    devnet = small(devnet, account_queue=3)
    for nonce in (5, 6, 9):
        devnet.send(0, nonce=nonce)
    with pytest.raises(MempoolFull, match=r"account limit exceeded: .* has 3 queued .* behind the gap at nonce 0"):
        devnet.send(0, nonce=12)
    devnet.send(0, nonce=0)


def test_a_full_pool_pushes_out_the_cheapest_for_a_better_paying_one(devnet):
    devnet = small(devnet, global_slots=3, global_queue=1)
    cheap = devnet.send(0, tip=10)
    for account, tip in ((1, 30), (2, 40), (3, 50)):
        devnet.send(account, tip=tip)
    with pytest.raises(Underpriced, match=r"^transaction underpriced$"):
        devnet.send(4, tip=10)
    assert len(devnet.mempool) == 4
    dropped = []
    devnet.mempool.on_drop.append(lambda transaction, reason: dropped.append((transaction.hash, reason)))
    devnet.send(4, tip=60)
    assert [transaction_hash for transaction_hash, _ in dropped] == [cheap.hash]
    assert "pushed out" in dropped[0][1]
    assert len(devnet.mempool) == 4
    with pytest.raises(InvalidTransaction, match="future transaction tries to replace pending"):
        devnet.send(5, nonce=7, tip=500)


def test_accounts_with_many_executable_transactions_lose_first(devnet):
    devnet = small(devnet, account_slots=2, global_slots=4, global_queue=10)
    for _ in range(4):
        devnet.send(0)
    devnet.send(1)
    assert devnet.mempool.counts() == (4, 0)
    pending, _ = devnet.mempool.content()
    assert {sender: len(waiting) for sender, waiting in pending.items()} == {A: 3, B: 1}
    with pytest.raises(MempoolFull):
        devnet.send(0)
    for account in (2, 3, 4, 5):
        devnet.send(account)
    assert len(devnet.mempool.content()[0][A]) == 2, "what an account is guaranteed stays"


def test_the_queue_as_a_whole_is_bounded_and_the_longest_silent_loses(devnet):
    devnet = small(devnet, global_queue=2)
    old = devnet.mempool.add(devnet.transfer(0, nonce=5).raw, now_ms=1)
    devnet.mempool.add(devnet.transfer(1, nonce=5).raw, now_ms=2)
    devnet.mempool.add(devnet.transfer(2, nonce=5).raw, now_ms=3)
    assert devnet.mempool.counts() == (0, 2)
    assert old.hash not in devnet.mempool


def test_queued_transactions_expire_and_executable_ones_do_not(devnet):
    hours = 3_600 * 1_000
    gapped = devnet.mempool.add(devnet.transfer(0, nonce=3).raw, now_ms=0)
    devnet.mempool.add(devnet.transfer(1).raw, now_ms=0)
    later = devnet.mempool.add(devnet.transfer(2, nonce=3).raw, now_ms=2 * hours)
    assert devnet.mempool.expire(3 * hours - 1) == []
    assert devnet.mempool.expire(3 * hours) == [gapped]
    assert devnet.mempool.expire(4 * hours) == []
    assert devnet.mempool.expire(5 * hours) == [later]
    assert devnet.mempool.counts() == (1, 0)


def work_batch(devnet, private_key, nonce=0, tip=1):
    data = abi.WORK.encode_call(b"\xc0")
    return sign_transaction(
        private_key, chain_id=31_337, nonce=nonce, gas=200_000, to=MARKET, data=data,
        max_fee_per_gas=3 * GWEI, max_priority_fee_per_gas=tip,
    )  # fmt: skip


def test_an_operators_work_gets_into_a_full_pool_and_is_not_pushed_out(devnet):
    devnet = small(devnet, global_slots=2, global_queue=0)
    devnet.send(0, tip=100)
    devnet.send(1, tip=100)
    with pytest.raises(Underpriced):
        devnet.mempool.add(work_batch(devnet, ACCOUNT_KEYS[2]).raw, 0)
    work = devnet.mempool.add(work_batch(devnet, devnet_validator(0).hot).raw, 0)
    devnet.send(3, tip=1_000)
    assert work.hash in devnet.mempool


def test_an_operator_cannot_fill_the_pool_with_work_that_stays(devnet):
    """Work that is not pushed out is bounded an operator; what is beyond it pays as anybody's does."""
    devnet = small(devnet, global_slots=12, global_queue=0, account_slots=0)
    hot = devnet_validator(0).hot
    for nonce in range(12):
        devnet.mempool.add(work_batch(devnet, hot, nonce=nonce).raw, 0)
    for account in range(4):
        devnet.send(account, tip=1_000)
    kept = [each.nonce for each in devnet.mempool.executable()[address_of(hot)]]
    assert kept == list(range(PROTECTED_MAX))
    assert len(devnet.mempool) == 12


def test_subscribers_hear_of_what_was_accepted_only(devnet):
    heard = []
    devnet.mempool.on_add.append(heard.append)
    sent = devnet.send(0)
    with pytest.raises(AlreadyKnown):
        devnet.mempool.add(sent.raw, 0)
    assert heard == [sent]


def test_what_was_in_a_block_leaves_and_the_rest_is_looked_at_again(new_devnet):
    devnet = new_devnet()
    pool = devnet.mempool
    devnet.send(0, value=4_000 * COIN)
    rival = devnet.transfer(0, nonce=0, value=9_000 * COIN, tip=2 * GWEI, max_fee=9 * GWEI)
    second = devnet.send(0, value=5_000 * COIN)
    third = devnet.send(0, value=1)
    other = Mempool(devnet.ledger)
    other.add(rival.raw, 0)
    block = devnet.ledger.build(devnet.request(), other)
    devnet.ledger.commit(block, devnet.certificate(block))
    assert devnet.ledger.reader().nonce(A) == 1
    assert len(other) == 0
    # The rival took nonce 0 and the money for the second; the third waits for a new second.
    assert second.hash not in pool
    assert third.hash in pool
    assert pool.counts() == (0, 1)
    assert pool.next_nonce(A) == 1
    with pytest.raises(InvalidTransaction, match="nonce too low: next nonce 1, tx nonce 0"):
        devnet.send(0, nonce=0, value=3)


def test_a_dropped_transaction_queues_its_followers(devnet):
    first, second = devnet.send(0), devnet.send(0)
    devnet.mempool.suspect(first.hash)
    devnet.mempool.suspect(bytes(32))
    assert devnet.mempool.suspects() == {first.hash}
    devnet.mempool.drop(first.hash, "refused by execution")
    assert devnet.mempool.suspects() == frozenset()
    assert devnet.mempool.counts() == (0, 1)
    assert devnet.mempool.get(second.hash) == second
    devnet.mempool.drop(bytes(32), "never seen")


def test_what_has_left_leaves_no_trace_in_memory(devnet, monkeypatch):
    monkeypatch.setattr("chain.mempool.STALE_MAX", 8)
    for tip in range(1, 60):
        sent = devnet.send(0, tip=tip)
        devnet.mempool.drop(sent.hash, "dropped")
    devnet.send(1)
    assert len(devnet.mempool._cheapest) <= 10
