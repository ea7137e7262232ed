"""The store's layout: what a block adds to the database, and that all of it is read back as it was."""

import pytest

from chain.kv import KVCorrupt, MemoryKV
from chain.store import BODY, ENVELOPE, GENESIS, RECEIPTS, SET, Store, block_batch, genesis_batch
from primitives.address import MARKET, REFEREE, STAKING
from primitives.hashing import keccak
from primitives.receipt import Log, Receipt, bloom_of

TASK_A, TASK_B = b"\xaa" * 32, b"\xbb" * 32


def receipt(*logs: Log, gas_used: int = 21_000, cumulative: int = 21_000) -> Receipt:
    return Receipt(2, 1, cumulative, bloom_of(logs), logs, gas_used, None)


@pytest.fixture
def block(new_devnet):
    devnet = new_devnet()
    devnet.send(0)
    devnet.send(1)
    return devnet.advance().block


def test_a_tasks_logs_are_found_by_their_place_in_the_block_whatever_else_is_logged(block):
    other = Log(b"\x01" * 20, (keccak(b"Transfer"), TASK_A), b"")
    receipts = (
        receipt(Log(MARKET, (keccak(b"Posted"), TASK_A), b"prompt"), other),
        receipt(Log(MARKET, (keccak(b"Dealt"), TASK_B, TASK_A), b""), Log(MARKET, (keccak(b"Anonymous"),), b"")),
        receipt(Log(MARKET, (keccak(b"Answered"), TASK_A), b"tokens")),
        receipt(Log(REFEREE, (keccak(b"Shown"), TASK_A, TASK_B), b""), Log(STAKING, (keccak(b"x"), TASK_A), b"")),
    )
    store = Store(MemoryKV())
    store.write(block_batch(block, receipts, {}, (), None))
    assert store.task_logs(TASK_A) == [(1, (0, 4))]
    assert store.task_logs(TASK_B) == [(1, (2, 5))], "a dispute's number comes before its task"
    assert store.task_logs(b"\xcc" * 32) == []


def test_receipts_come_back_whole_blooms_and_sums_included(block):
    log = Log(b"\x05" * 20, (b"\x06" * 32, b"\x07" * 32), b"data")
    receipts = (
        Receipt(0x7E, 0, 5, bloom_of(()), (), 5, None),
        Receipt(0, 1, 100_005, bloom_of((log,)), (log,), 100_000, b"\x08" * 20),
        Receipt(4, 1, 200_005, bloom_of((log, log)), (log, log), 100_000, None),
    )
    store = Store(MemoryKV())
    store.write(block_batch(block, receipts, {}, (), None))
    assert store.receipts(1) == receipts


def test_transactions_and_hashes_are_indexed(block):
    store = Store(MemoryKV())
    store.write(block_batch(block, (), {keccak(b"node"): b"node"}, (), None))
    assert store.head() == (1, block.hash)
    assert store.number_of(block.hash) == 1
    places = [store.location(transaction.hash) for transaction in block.transactions]
    assert [(place.number, place.index) for place in places] == [(1, 0), (1, 1), (1, 2)]
    assert store.block(1) == block
    assert store.envelope(1) == (block.header, block.sidecar)
    assert store.state[keccak(b"node")] == b"node"
    assert keccak(b"node") in store.state
    assert list(store.state) == [keccak(b"node")]
    assert len(store.state) == 1
    with pytest.raises(KeyError):
        store.state[keccak(b"other")]


def test_an_empty_store_holds_no_chain():
    assert Store(MemoryKV()).genesis() is None


def test_a_store_of_another_layout_is_not_read(block):
    kv = MemoryKV()
    store = Store(kv)
    store.write(genesis_batch(bytes(32), block, {}, ()))
    assert store.genesis().genesis_hash == block.hash
    kv.write([(GENESIS, b"\x00\x00\x00\x02" + bytes(64))])
    with pytest.raises(KVCorrupt, match="layout is 00000002, this version reads 00000001"):
        store.genesis()


@pytest.mark.parametrize("prefix", [BODY, ENVELOPE, RECEIPTS], ids=["body", "header", "receipts"])
def test_bytes_that_are_not_what_was_written_are_this_nodes_fault(block, prefix):
    kv = MemoryKV()
    store = Store(kv)
    store.write(block_batch(block, (), {}, (), None))
    kv.write([(prefix + (1).to_bytes(8, "big"), b"\xc1")])
    read = {BODY: store.block, ENVELOPE: store.envelope, RECEIPTS: store.receipts}[prefix]
    with pytest.raises(KVCorrupt, match="cannot be read"):
        read(1)


def test_a_damaged_validator_set_is_this_nodes_fault():
    kv = MemoryKV()
    kv.write([(SET + bytes(32), b"\x01")])
    with pytest.raises(KVCorrupt, match="validator set"):
        Store(kv).validator_set(bytes(32))
