"""The ledger: blocks that validators decide one after the other, what is found of them, what survives a restart."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import chain.ledger
from chain.kv import KVCorrupt, KVError, LevelKV, MemoryKV
from chain.ledger import Ledger, NotNext, QueryTooLarge, UnknownBlock, WrongGenesis, log_matches
from chain.store import HEAD, NODE
from chain.validation import InvalidBlock
from genesis.keys import ACCOUNT_ADDRESSES
from primitives.address import created_by
from primitives.block import decode_block
from primitives.receipt import Log

GWEI = 10**9
ROOT = Path(__file__).resolve().parents[2]


def logging_code(*topics: int) -> bytes:
    """Init code that logs 32 zero bytes under these topics and creates an empty contract."""
    pushed = b"".join(b"\x7f" + topic.to_bytes(32, "big") for topic in reversed(topics))
    return pushed + bytes([0x60, 0x20, 0x60, 0x00, 0xA0 + len(topics), 0x00])


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_twenty_blocks_of_transfers_by_four_proposers(devnet):
    proposers = set()
    for height in range(1, 21):
        for account in range(3):
            devnet.send(account, value=height)
        committed = devnet.advance()
        proposers.add(committed.block.sidecar.proposer)
        assert [receipt.status for receipt in committed.receipts] == [1, 1, 1, 1]
    ledger = devnet.ledger
    assert ledger.head.number == 20
    assert proposers == set(devnet.keys)
    received = 10_000 * 10**18 + 3 * sum(range(1, 21))
    assert ledger.reader().balance(ACCOUNT_ADDRESSES[9]) == received
    assert ledger.reader().nonce(ACCOUNT_ADDRESSES[0]) == 20
    assert ledger.reader(10).nonce(ACCOUNT_ADDRESSES[0]) == 10
    assert len(devnet.mempool) == 0


def test_the_proposer_gets_the_tips_and_the_base_fee_is_burned(devnet):
    before = {operator: devnet.ledger.reader().balance(operator) for operator in devnet.keys}
    devnet.send(0, tip=7)
    block = devnet.advance().block
    proposer = block.sidecar.proposer
    assert devnet.ledger.reader().balance(proposer) == before[proposer] + 21_000 * 7
    spent = 10_000 * 10**18 - devnet.ledger.reader().balance(ACCOUNT_ADDRESSES[0])
    assert spent == 1 + 21_000 * (block.header.base_fee_per_gas + 7)


def test_a_single_validator_decides_alone(new_devnet):
    devnet = new_devnet(validators=1)
    devnet.send(0)
    assert devnet.advance(3).block.number == 3


def test_epochs_turn_and_every_set_is_found_again(new_devnet):
    devnet = new_devnet(epoch_blocks=16)
    devnet.advance(40)
    reopened = Ledger.open(devnet.kv, devnet.spec)
    for height in range(1, 65):
        epoch = (height - 1) // 16
        assert reopened.validator_set(height) == devnet.ledger.validator_set(height)
        if height <= 40:
            sidecar = reopened.sidecar(height)
            assert sidecar.epoch == epoch
            assert sidecar.validator_set_hash == reopened.validator_set(height).hash
            assert reopened.validator_set_by_hash(sidecar.next_validator_set_hash) is not None
    with pytest.raises(UnknownBlock, match="not fixed"):
        reopened.validator_set(65)
    assert reopened.proposer_seed(33)[1] == 33
    assert reopened.proposer_seed(33)[0] == reopened.header(16).mix_hash


def test_a_follower_that_is_given_bodies_and_certificates_gets_the_same_chain(devnet):
    follower = Ledger.open(MemoryKV(), devnet.spec)
    for height in range(1, 7):
        devnet.send(height % 3)
        devnet.advance()
    for height in range(1, 7):
        block = decode_block(devnet.ledger.body(height))
        follower.commit(block, devnet.ledger.certificate(height))
    assert follower.head.hash == devnet.ledger.head.hash
    assert dict(follower.state) == dict(devnet.ledger.state)


def test_the_chain_goes_on_where_it_was_after_a_restart(tmp_path, new_devnet):
    kv = LevelKV(tmp_path / "db")
    devnet = new_devnet(kv=kv)
    for _ in range(3):
        devnet.send(0)
        devnet.advance()
    head, certificate = devnet.ledger.head.hash, devnet.ledger.certificate(3)
    kv.close()
    again = new_devnet(kv=LevelKV(tmp_path / "db"))
    assert again.ledger.head.hash == head
    assert again.ledger.certificate(3) == certificate
    again.send(0)
    assert again.advance().block.number == 4
    assert again.ledger.reader().nonce(ACCOUNT_ADDRESSES[0]) == 4
    again.kv.close()


COMMITTER = """
import sys
sys.path.insert(0, "tests/chain")
from conftest import make_devnet
from chain.kv import LevelKV
devnet = make_devnet(kv=LevelKV(sys.argv[1]))
while True:
    devnet.send(0)
    print(devnet.advance().block.number, flush=True)
"""


def test_kill_minus_nine_loses_no_committed_block(tmp_path, new_devnet):
    run = subprocess.Popen([sys.executable, "-c", COMMITTER, str(tmp_path / "db")], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    confirmed = 0
    for line in run.stdout:
        confirmed = int(line)
        if confirmed == 12:
            os.kill(run.pid, signal.SIGKILL)
    run.wait()
    again = new_devnet(kv=LevelKV(tmp_path / "db"))
    head = again.ledger.head.number
    assert confirmed <= head <= confirmed + 1
    assert again.ledger.reader().nonce(ACCOUNT_ADDRESSES[0]) == head
    assert all(again.ledger.certificate(height) is not None for height in range(1, head + 1))
    again.send(0)
    assert again.advance().block.number == head + 1
    again.kv.close()


def test_a_folder_of_another_chain_is_refused_with_both_hashes(new_devnet):
    devnet = new_devnet(validators=4)
    other = new_devnet(validators=2)
    with pytest.raises(WrongGenesis) as refused:
        Ledger.open(devnet.kv, other.spec)
    assert devnet.ledger.genesis_hash.hex() in str(refused.value)
    assert other.ledger.genesis_hash.hex() in str(refused.value)
    assert "--reset" in str(refused.value)


@pytest.mark.parametrize("what", ["no head", "head of a missing block", "no state", "damaged state"])
def test_a_store_that_lost_something_is_not_opened(new_devnet, what):
    devnet = new_devnet()
    devnet.advance(2)
    root = NODE + devnet.ledger.head.header.state_root
    damage = {
        "no head": (HEAD, None),
        "head of a missing block": (HEAD, (3).to_bytes(8, "big") + bytes(32)),
        "no state": (root, None),
        "damaged state": (root, b"damaged"),
    }
    devnet.kv.write([damage[what]])
    with pytest.raises(KVCorrupt):
        Ledger.open(devnet.kv, devnet.spec)


class FailingKV(MemoryKV):
    """Refuses to write once told to."""

    failing = False

    def write(self, batch, sync=True):
        if self.failing:
            raise KVError("the disk is gone")
        super().write(batch, sync)


def test_a_commit_that_cannot_be_written_did_not_happen(new_devnet):
    kv = FailingKV()
    devnet = new_devnet(kv=kv)
    devnet.send(0)
    devnet.advance()
    told = []
    devnet.ledger.on_commit.append(told.append)
    block = devnet.ledger.build(devnet.request(), devnet.mempool)
    kv.failing = True
    with pytest.raises(KVError, match="the disk is gone"):
        devnet.ledger.commit(block, devnet.certificate(block))
    assert devnet.ledger.head.number == 1
    assert told == []
    assert Ledger.open(kv, devnet.spec).head.number == 1
    kv.failing = False
    assert devnet.ledger.commit(block, devnet.certificate(block)).block == devnet.ledger.head
    assert [committed.block.number for committed in told] == [2]


def test_only_the_next_block_with_its_own_certificate_is_committed(devnet):
    block = devnet.ledger.build(devnet.request(), devnet.mempool)
    other = devnet.ledger.build(devnet.request(time_ms=block.sidecar.time_ms + 1), devnet.mempool)
    with pytest.raises(NotNext, match="certificate"):
        devnet.ledger.commit(block, devnet.certificate(other))
    devnet.ledger.commit(block, devnet.certificate(block))
    with pytest.raises(NotNext, match="does not follow"):
        devnet.ledger.commit(other, devnet.certificate(other))
    with pytest.raises(InvalidBlock, match="number: expected 2, found 1"):
        devnet.ledger.check(other)


def test_a_block_is_executed_once_and_a_refusal_is_remembered(devnet, monkeypatch):
    checked = []
    validate = chain.ledger.validate_block

    def counting(context, block):
        checked.append(block.hash)
        return validate(context, block)

    monkeypatch.setattr(chain.ledger, "validate_block", counting)
    own = devnet.ledger.build(devnet.request(), devnet.mempool)
    devnet.ledger.check(own)
    assert checked == [], "the builder has executed it already"
    follower = Ledger.open(MemoryKV(), devnet.spec)
    for _ in range(3):
        follower.check(own)
    bad = decode_block(own.wire_body.replace(own.header.state_root, bytes(32)))
    for _ in range(3):
        with pytest.raises(InvalidBlock, match="state_root"):
            follower.check(bad)
    follower.commit(own, devnet.certificate(own))
    assert checked == [own.hash, bad.hash]


def test_everything_of_a_committed_block_is_found(devnet):
    sent = devnet.send(0)
    committed = devnet.advance()
    devnet.advance()
    ledger, block = devnet.ledger, committed.block
    assert ledger.block(1) == ledger.block_by_hash(block.hash) == block
    assert ledger.body(1) == ledger.body_by_hash(block.hash) == block.wire_body
    assert (ledger.header(1), ledger.sidecar(1)) == (block.header, block.sidecar)
    assert ledger.receipts(1) == committed.receipts
    assert ledger.certificate(1) == committed.certificate
    assert ledger.find_transaction(sent.hash) == (block, 1)
    assert ledger.find_transaction(block.transactions[0].hash) == (block, 0)
    assert ledger.env_for_call(1).number == 1
    assert ledger.block(0).hash == ledger.genesis_hash
    assert ledger.receipts(0) == ()
    unknown = (ledger.block(3), ledger.block_by_hash(bytes(32)), ledger.find_transaction(bytes(32)), ledger.block(-1))
    assert unknown == (None,) * 4
    assert (ledger.body(3), ledger.header(3), ledger.receipts(3), ledger.certificate(3)) == (None,) * 4
    for question in (ledger.reader, ledger.env_for_call):
        with pytest.raises(UnknownBlock):
            question(3)


def test_logs_are_found_by_address_and_topic_and_nothing_else_is(devnet):
    places = []
    for height in range(1, 6):
        transaction = devnet.send(0, to=b"", value=0, gas=200_000, data=logging_code(0xA0 + height % 2, height))
        committed = devnet.advance()
        assert committed.receipts[1].status == 1
        places.append((created_by(ACCOUNT_ADDRESSES[0], height - 1), transaction.hash))
    ledger = devnet.ledger
    by_parity = ledger.logs(0, 99, [], [[word(0xA1)]])
    assert [found.block_number for found in by_parity] == [1, 3, 5]
    assert [(found.log.address, found.transaction_hash) for found in by_parity] == places[::2]
    assert all(found.transaction_index == 1 for found in by_parity)
    assert {found.block_hash for found in by_parity} == {ledger.block(number).hash for number in (1, 3, 5)}
    contracts = [address for address, _ in places]
    assert [found.block_number for found in ledger.logs(2, 4, contracts, [])] == [2, 3, 4]
    everything = ledger.logs(0, 5, [], [])
    assert [found for found in everything if found.log.address in contracts] == ledger.logs(0, 5, contracts, [])
    assert [found.block_number for found in ledger.logs(0, 5, [], [None, [word(2), word(5)]])] == [2, 5]
    assert [found.block_number for found in ledger.logs(0, 5, [places[3][0], places[0][0]], [])] == [1, 4]
    assert ledger.logs(0, 5, [ACCOUNT_ADDRESSES[0]], []) == []
    assert ledger.logs(0, 5, [], [[word(0xA1)], [word(2)]]) == []
    with pytest.raises(QueryTooLarge, match="10000"):
        ledger.logs(0, 10_000, [], [])
    with pytest.raises(QueryTooLarge, match="took too long: 0 of 6 blocks"):
        ledger.logs(0, 5, [], [], should_stop=lambda: True)


def test_a_log_with_fewer_topics_than_the_filter_does_not_match():
    log = Log(bytes(20), (word(1),), b"")
    assert log_matches(log, [], [])
    assert log_matches(log, [], [None])
    assert log_matches(log, [], [[word(2), word(1)]])
    assert not log_matches(log, [], [None, None])


def test_fee_history_is_that_of_the_blocks(devnet):
    devnet.send(0, tip=1 * GWEI)
    devnet.send(1, tip=2 * GWEI)
    devnet.send(2, tip=4 * GWEI, max_fee=9 * GWEI)
    devnet.advance(2)
    history = devnet.ledger.fee_history(10, 2, [0, 2_500, 5_000, 10_000])
    assert history.oldest == 0
    headers = [devnet.ledger.header(number) for number in range(3)]
    assert history.base_fees == (*(header.base_fee_per_gas for header in headers), devnet.ledger.next_base_fee())
    assert history.gas_used == tuple(header.gas_used for header in headers)
    assert history.rewards == ((0,) * 4, (1 * GWEI, 1 * GWEI, 2 * GWEI, 4 * GWEI), (0,) * 4)
    assert devnet.ledger.fee_history(1, 1).oldest == 1
    for count in (0, 1_025):
        with pytest.raises(QueryTooLarge):
            devnet.ledger.fee_history(count, 2)
    with pytest.raises(UnknownBlock):
        devnet.ledger.fee_history(1, 3)


def test_readers_in_other_threads_see_whole_blocks_while_the_owner_commits(devnet):
    wrong = []
    done = threading.Event()

    def read():
        while not done.is_set():
            head = devnet.ledger.head
            nonce = devnet.ledger.reader(head.number).nonce(ACCOUNT_ADDRESSES[0])
            found = devnet.ledger.find_transaction(head.transactions[-1].hash) if head.number else None
            if nonce != head.number or (head.number and found[0].hash != head.hash):
                wrong.append((head.number, nonce, found))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(10):
        devnet.send(0)
        devnet.advance()
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
