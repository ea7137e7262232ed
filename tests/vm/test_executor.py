"""A block's execution: every type of transaction, fees to the wei, order, roots, and what fails how."""

import random
import threading
from dataclasses import replace

import pytest
from eth.exceptions import OutOfGas, VMError

from primitives import transaction as types
from primitives.address import HISTORY_STORAGE, MARKET, STAKING, SYSTEM_ADDRESS, created_by
from primitives.hashing import EMPTY_KECCAK, EMPTY_TRIE_ROOT, keccak
from primitives.receipt import bloom_bits
from primitives.transaction import InvalidTransaction
from tests.vm.world import (
    ADDRESSES,
    AT,
    BURN_ALL,
    CALL_INPUT_DELEGATE,
    COINBASE,
    CONTRACTS,
    CREATE_FROM_INPUT,
    FORWARD,
    GWEI,
    KEYS,
    LOG_CALLER,
    PARAMS,
    READ_HISTORY,
    RETURN_INPUT,
    REVERT_WITH_DATA,
    SELFDESTRUCT_TO_INPUT,
    STORE,
    World,
    authorize,
    code,
    init_code,
    set_code,
    signed,
    word,
)
from vm import executor as executor_module
from vm.executor import BlockExecutor, execute_block
from vm.mpt import CorruptState, MissingNode
from vm.state import State, state_class
from vm.validity import BlockGasExhausted

DEPLOYED = code("602a 5f 52 6020 5f f3")
DEPLOY = init_code(DEPLOYED)


def init_code_after(prefix: bytes, contract: bytes) -> bytes:
    """Deploys `contract` when it runs after `prefix` in the same init code."""
    return code(f"61{len(contract):04x} 80 60{len(prefix) + 10:02x} 5f 39 5f f3") + contract



def test_each_type_of_transaction_moves_coins_and_is_paid_for() -> None:
    world = World()
    before = world.state
    transactions = [
        signed(KEYS[0], types.LEGACY, chain_id=None, value=5, gas=21_000),
        signed(KEYS[1], types.LEGACY, value=5, gas=21_000),
        signed(KEYS[2], types.ACCESS_LIST, value=5, access_list=((b"\x99" * 20, (1, 2)),)),
        signed(KEYS[3], types.DYNAMIC_FEE, value=5, gas=21_000),
        set_code(KEYS[4], authorize(KEYS[5], AT[STORE], 0), value=5),
    ]
    execution = world.block(*transactions)
    after = world.state
    assert [receipt.type_id for receipt in execution.receipts] == [0, 0, 1, 2, 4]
    assert [receipt.status for receipt in execution.receipts] == [1] * 5
    gas = [21_000, 21_000, 21_000 + 2_400 + 2 * 1_900, 21_000, 21_000 + 25_000 - 9_200]
    # EIP-7702 refunds 12,500 for an authority that exists, but a refund is at most a fifth of the gas (EIP-3529).
    assert [receipt.gas_used for receipt in execution.receipts] == gas
    assert [receipt.cumulative_gas_used for receipt in execution.receipts] == [sum(gas[: i + 1]) for i in range(5)]
    assert execution.gas_used == sum(gas)
    assert after.balance(b"\x99" * 20) == 25
    for address, used in zip(ADDRESSES, gas, strict=False):
        assert after.balance(address) == before.balance(address) - 5 - used * 2 * GWEI
        assert after.nonce(address) == 1
    assert after.balance(COINBASE) == sum(gas) * GWEI, "the base fee is burned, the tip is the coinbase's"
    assert after.code(ADDRESSES[5]) == b"\xef\x01\x00" + AT[STORE]
    assert after.nonce(ADDRESSES[5]) == 1


def test_a_creation_and_its_receipt() -> None:
    world = World()
    receipt = world.block(signed(KEYS[0], to=b"", data=DEPLOY, value=9, gas=200_000)).receipts[0]
    address = created_by(ADDRESSES[0], 0)
    assert receipt.status == 1 and receipt.contract_address == address
    assert world.state.code(address) == DEPLOYED
    assert world.state.balance(address) == 9 and world.state.nonce(address) == 1
    assert receipt.gas_used >= signed(KEYS[0], to=b"", data=DEPLOY).intrinsic_gas + 200 * len(DEPLOYED)


def test_init_code_is_charged_once() -> None:
    """Intrinsic gas has the two gas a word of EIP-3860; py-evm would take it again."""
    world = World()
    empty = code("00") * 320
    receipt = world.block(signed(KEYS[0], to=b"", data=empty, gas=200_000)).receipts[0]
    assert receipt.gas_used == 21_000 + 32_000 + 4 * 320 + 2 * 10


def test_a_revert_takes_the_gas_used_and_the_nonce_and_nothing_else() -> None:
    world = World()
    before = world.state.balance(ADDRESSES[0])
    target = AT[REVERT_WITH_DATA]
    receipt = world.block(signed(KEYS[0], to=target, value=77, data=b"\x01" * 4)).receipts[0]
    assert receipt.status == 0 and receipt.logs == ()
    assert 21_000 < receipt.gas_used < 22_000
    assert world.state.balance(ADDRESSES[0]) == before - receipt.gas_used * 2 * GWEI
    assert world.state.nonce(ADDRESSES[0]) == 1
    assert world.state.balance(target) == 10**18


def test_any_other_failure_takes_all_gas() -> None:
    world = World()
    receipt = world.block(signed(KEYS[0], to=AT[BURN_ALL], gas=90_000)).receipts[0]
    assert (receipt.status, receipt.gas_used) == (0, 90_000)


def test_the_calldata_floor_is_charged() -> None:
    world = World()
    transaction = signed(KEYS[0], data=b"\x01" * 1_000, gas=100_000)
    receipt = world.block(transaction).receipts[0]
    assert receipt.gas_used == transaction.floor_gas == 21_000 + 40 * 1_000


@pytest.mark.parametrize("slots", [1, 10])
def test_clearing_storage_is_refunded_up_to_a_fifth(slots: int) -> None:
    world = World()
    clear = code("".join(f"5f 60{slot:02x} 55 " for slot in range(slots)) + "00")
    fill = code("".join(f"6001 60{slot:02x} 55 " for slot in range(slots)))
    address = created_by(ADDRESSES[0], 0)
    world.block(signed(KEYS[0], to=b"", data=fill + init_code_after(fill, clear), gas=900_000))
    receipt = world.block(signed(KEYS[0], nonce=1, to=address)).receipts[0]
    gas = 21_000 + slots * (2 + 3 + 5_000)
    assert receipt.gas_used == gas - min(slots * 4_800, gas // 5)


def test_logs_are_in_receipt_and_bloom() -> None:
    world = World()
    execution = world.block(signed(KEYS[0], to=AT[LOG_CALLER]), signed(KEYS[1], value=1))
    (log,) = execution.receipts[0].logs
    assert log.address == AT[LOG_CALLER] and log.topics == (word(2), word(1)) and log.data == word(ADDRESSES[0])
    bloom, caller = int.from_bytes(execution.logs_bloom, "big"), bloom_bits(AT[LOG_CALLER])
    assert bloom & caller == caller
    assert int.from_bytes(execution.receipts[1].logs_bloom, "big") & caller != caller
    assert bloom & (other := bloom_bits(b"\x55" * 20)) != other


def test_logs_of_failed_calls_are_gone_and_those_of_calls_are_in_order() -> None:
    log, revert = AT[LOG_CALLER], AT[REVERT_WITH_DATA]
    call = "5f 5f 5f 5f 5f 73{} 5a f1 50"
    contract = code("6001 5f 5f a1" + (call.format(log.hex()) * 2) + call.format(revert.hex()) + "6003 5f 5f a1 00")
    world = World()
    address = created_by(ADDRESSES[0], 0)
    world.block(signed(KEYS[0], to=b"", data=init_code(contract), gas=500_000))
    assert world.state.code(address) == contract
    receipt = world.block(signed(KEYS[0], nonce=1, to=address, gas=500_000)).receipts[0]
    assert [entry.address for entry in receipt.logs] == [address, log, log, address]
    assert [int.from_bytes(entry.topics[0], "big") for entry in receipt.logs] == [1, 2, 2, 3]


def test_parent_hash_can_be_read_from_a_contract() -> None:
    world = World()
    for _ in range(3):
        world.block()
    wanted = world.parent_hash
    world.block(signed(KEYS[0], to=AT[READ_HISTORY], data=word(world.number), gas=200_000))
    assert world.state.storage(AT[READ_HISTORY], 0) == int.from_bytes(wanted, "big")
    assert world.state.storage(AT[READ_HISTORY], 1) == int.from_bytes(wanted, "big")
    assert world.state.storage(HISTORY_STORAGE, 3) == int.from_bytes(wanted, "big")
    world.block(signed(KEYS[0], nonce=1, to=AT[READ_HISTORY], data=word(world.number + 1), gas=200_000))
    assert world.state.storage(AT[READ_HISTORY], 1) == 0, "a block does not know its own hash"


def test_a_block_is_prologue_then_transactions() -> None:
    world = World()
    transfer = signed(KEYS[0], value=1, gas=21_000)
    execution = execute_block(world.db, world.root, world.env(), [world.prologue(), transfer])
    assert [receipt.type_id for receipt in execution.receipts] == [types.SYSTEM, types.DYNAMIC_FEE]
    assert execution.gas_used == execution.receipts[0].gas_used + 21_000
    for wrong in ([transfer], [world.prologue(), world.prologue()], [transfer, world.prologue()]):
        with pytest.raises(InvalidTransaction, match="0x7e"):
            execute_block(world.db, world.root, world.env(), wrong)


def prologue_state(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """Market's precompile is `run`."""
    base = state_class(PARAMS, b"\x01" * 32)
    table = {**base.computation_class.get_precompiles(), MARKET: run}
    computation = type("Changed", (base.computation_class,), {"_precompiles": table})
    changed: type[State] = type("ChangedState", (base,), {"computation_class": computation})
    monkeypatch.setattr(executor_module, "state_class", lambda params, genesis_hash: changed)


def test_a_prologue_that_works_pays_no_fee_and_has_no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(computation: object) -> None:
        computation.consume_gas(1_234, "test")
        computation.state.set_storage(MARKET, 3, 4)
        computation.add_log_entry(MARKET, (5,), b"data")
        assert computation.msg.sender == computation.transaction_context.origin == SYSTEM_ADDRESS

    prologue_state(monkeypatch, run)
    world = World()
    world.take(execute_block(world.db, world.root, world.env(), [world.prologue(b"\xff" * 5_000)]))
    execution = execute_block(world.db, world.root, world.env(), [world.prologue(b"\xff" * 5_000)])
    assert execution.receipts[0].gas_used == execution.gas_used == 1_234, "no intrinsic gas, no floor, no refund"
    assert (execution.receipts[0].status, len(execution.receipts[0].logs)) == (1, 1)
    assert world.state.storage(MARKET, 3) == 4
    assert not world.state.exists(SYSTEM_ADDRESS) and not world.state.exists(COINBASE)


def test_a_prologue_that_fails_in_the_evm_leaves_a_valid_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(computation: object) -> None:
        computation.state.set_storage(MARKET, 3, 4)
        raise OutOfGas("test")

    prologue_state(monkeypatch, run)
    world = World()
    transfer = signed(KEYS[0], value=1, gas=21_000)
    execution = world.take(execute_block(world.db, world.root, world.env(), [world.prologue(), transfer]))
    assert (execution.receipts[0].status, execution.receipts[0].gas_used) == (0, PARAMS.prologue_gas)
    assert execution.receipts[1].status == 1
    assert world.state.storage(MARKET, 3) == 0


@pytest.mark.parametrize("error", [ValueError("ours"), ZeroDivisionError("ours"), AssertionError("ours")])
def test_our_own_failure_in_a_prologue_halts(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(computation: object) -> None:
        raise error

    assert not isinstance(error, VMError)
    prologue_state(monkeypatch, run)
    world = World()
    with pytest.raises(type(error), match="ours"):
        execute_block(world.db, world.root, world.env(), [world.prologue()])


def test_what_may_not_be_included_changes_nothing() -> None:
    world = World()
    executor = BlockExecutor(world.db, world.root, world.env())
    executor.apply(signed(KEYS[0], value=1, gas=21_000))
    for bad in (
        signed(KEYS[0], value=1),
        signed(KEYS[0], nonce=5),
        signed(KEYS[1], chain_id=1),
        signed(KEYS[1], value=10**30),
        signed(KEYS[1], gas=20_999),
        signed(KEYS[1], gas_price=1),
        signed(KEYS[1], gas=PARAMS.transaction_gas_max + 1),
    ):
        with pytest.raises(InvalidTransaction):
            executor.apply(bad)
    found = executor.finish()
    again = World().block(signed(KEYS[0], value=1, gas=21_000))
    assert found == again


def test_a_block_has_no_more_gas_than_its_limit() -> None:
    world = World()
    executor = BlockExecutor(world.db, world.root, world.env())
    executor.apply(signed(KEYS[0], to=AT[BURN_ALL], gas=PARAMS.transaction_gas_max))
    left = PARAMS.block_gas_limit - PARAMS.transaction_gas_max
    with pytest.raises(BlockGasExhausted, match=f"gas limit reached: have {left}"):
        executor.apply(signed(KEYS[1], gas=left + 1))
    executor.apply(signed(KEYS[1], to=AT[BURN_ALL], gas=left))
    assert executor.gas_used == PARAMS.block_gas_limit


def test_the_given_database_is_never_written() -> None:
    world = World()
    frozen = dict(world.db)
    execution = execute_block(
        world.db, world.root, world.env(), [world.prologue(), signed(KEYS[0], to=AT[STORE], data=word(1) + word(2))]
    )
    assert world.db == frozen
    assert all(keccak(node) == key for key, node in execution.nodes.items())
    assert execution.state_root in execution.nodes


def test_a_damaged_database_stops_execution_by_name() -> None:
    world = World()
    transaction = signed(KEYS[0], to=AT[STORE], data=word(1) + word(2))
    code_hash = keccak(STORE)
    without = {key: value for key, value in world.db.items() if key != code_hash}
    with pytest.raises(MissingNode, match=code_hash.hex()):
        execute_block(without, world.root, world.env(), [world.prologue(), transaction])
    with pytest.raises(CorruptState, match=code_hash.hex()):
        execute_block({**world.db, code_hash: b"\x00"}, world.root, world.env(), [world.prologue(), transaction])
    with pytest.raises(MissingNode):
        BlockExecutor(world.db, bytes(32), world.env())


@pytest.mark.parametrize("target", [STAKING, MARKET])
def test_a_delegation_to_a_system_account_fails_at_every_depth(target: bytes) -> None:
    world = World()
    world.block(set_code(KEYS[1], authorize(KEYS[0], target, 0)))
    assert world.state.code(ADDRESSES[0]) == b"\xef\x01\x00" + target
    top = world.block(signed(KEYS[1], nonce=1, to=ADDRESSES[0], gas=80_000)).receipts[0]
    assert (top.status, top.gas_used) == (0, 80_000), "the stub 0xfe runs"
    nested = world.block(signed(KEYS[2], to=AT[FORWARD], data=word(ADDRESSES[0]), gas=200_000)).receipts[0]
    assert nested.status == 1 and world.state.storage(AT[FORWARD], 0) == 0, "the inner call failed"
    world.block(signed(KEYS[2], nonce=1, to=AT[CALL_INPUT_DELEGATE], data=word(ADDRESSES[0]), gas=200_000))
    assert world.state.storage(AT[CALL_INPUT_DELEGATE], 0) == 0


def test_a_delegation_to_an_ethereum_precompile_runs_nothing_and_succeeds() -> None:
    world = World()
    world.block(set_code(KEYS[1], authorize(KEYS[0], (2).to_bytes(20, "big"), 0)))
    top = world.block(signed(KEYS[1], nonce=1, to=ADDRESSES[0], gas=80_000)).receipts[0]
    assert (top.status, top.gas_used) == (1, 21_000)
    world.block(signed(KEYS[2], to=AT[FORWARD], data=word(ADDRESSES[0]), gas=200_000))
    assert world.state.storage(AT[FORWARD], 0) == 1


def test_authorizations_that_do_not_hold_are_skipped() -> None:
    world = World()
    target = AT[STORE]
    good = authorize(KEYS[5], target, 0)
    bad = [
        authorize(KEYS[1], target, 7),
        authorize(KEYS[2], target, 0, chain_id=5),
        authorize(KEYS[3], target, 2**64 - 1),
        replace(authorize(KEYS[4], target, 0), y_parity=5),
        replace(authorize(KEYS[4], target, 0), s=types.UINT256_MAX),
    ]
    receipt = world.block(set_code(KEYS[0], *bad, good, authorize(KEYS[0], target, 1), gas=400_000)).receipts[0]
    assert receipt.status == 1
    for address in ADDRESSES[1:5]:
        assert world.state.code_hash(address) == EMPTY_KECCAK and world.state.nonce(address) == 0
    assert world.state.code(ADDRESSES[5]).endswith(target)
    assert world.state.code(ADDRESSES[0]).endswith(target), "the sender's own nonce has been raised before"
    assert world.state.nonce(ADDRESSES[0]) == 2
    world.block(
        signed(KEYS[0], nonce=2, value=1, gas=50_000),
        set_code(KEYS[1], authorize(KEYS[5], bytes(20), 1, chain_id=0)),
    )
    assert world.state.code_hash(ADDRESSES[5]) == EMPTY_KECCAK, "the zero address ends a delegation"


def test_a_contract_destroyed_where_it_was_made_is_gone_and_no_other() -> None:
    world = World()
    heir = b"\x77" * 20
    world.block(signed(KEYS[0], to=AT[SELFDESTRUCT_TO_INPUT], data=word(heir), gas=200_000))
    assert world.state.code(AT[SELFDESTRUCT_TO_INPUT]) == SELFDESTRUCT_TO_INPUT, "EIP-6780"
    assert world.state.balance(heir) == 10**18
    init = code(f"73{heir.hex()} ff")
    world.block(signed(KEYS[0], nonce=1, to=AT[CREATE_FROM_INPUT], value=5, data=init, gas=300_000))
    made = world.state.storage(AT[CREATE_FROM_INPUT], 0).to_bytes(20, "big")
    assert made == created_by(AT[CREATE_FROM_INPUT], 1) and not world.state.exists(made)
    assert world.state.balance(heir) == 10**18 + 5


def test_nothing_is_created_by_touching() -> None:
    world = World()
    world.block(signed(KEYS[0], to=b"\x31" * 20), coinbase=b"\x32" * 20, base_fee_per_gas=2 * GWEI)
    assert not world.state.exists(b"\x31" * 20) and not world.state.exists(b"\x32" * 20)


def test_an_address_with_storage_cannot_be_created_again() -> None:
    """EIP-7610. It takes a genesis to have such an account."""
    world = World()
    kind = state_class(PARAMS, b"\x01" * 32)
    executor = BlockExecutor(world.db, world.root, world.env())
    assert isinstance(executor._state, kind)
    executor._state.set_storage(created_by(ADDRESSES[0], 0), 1, 1)
    executor._state.set_balance(created_by(ADDRESSES[0], 0), 1)
    world.take(executor.finish())
    receipt = world.block(signed(KEYS[0], to=b"", data=DEPLOY, gas=200_000)).receipts[0]
    assert (receipt.status, receipt.gas_used) == (0, 200_000)
    assert world.state.storage(created_by(ADDRESSES[0], 0), 1) == 1


def test_the_deepest_recursion_that_gas_buys_ends_in_any_thread() -> None:
    recurse = code("5f 5f 5f 5f 5f 30 5a f1 00")
    world = World(replace(PARAMS, block_gas_limit=2**40))
    address = created_by(ADDRESSES[0], 0)
    world.block(signed(KEYS[0], to=b"", data=init_code(recurse), gas=500_000))
    results = []

    def work() -> None:
        results.append(world.block(signed(KEYS[0], nonce=1, to=address, gas=2**36, gas_price=GWEI)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].receipts[0].status == 1
    assert results[0].gas_used > 1024 * 100, "1,024 frames deep"


def test_a_loop_of_calls_keeps_no_dead_frames() -> None:
    call = "5f 5f 5f 5f 5f 73" + AT[RETURN_INPUT].hex() + " 5a f1 50"
    loop = code("5b" + call + "5f 56")
    world = World()
    world.block(signed(KEYS[0], to=b"", data=init_code(loop), gas=500_000))
    kept: list[int] = []
    base = state_class(PARAMS, b"\x01" * 32).computation_class

    class Watch(base):
        def add_child_computation(self, child_computation: object) -> None:
            super().add_child_computation(child_computation)
            kept.append(len(self.children))

    state = type("WatchState", (state_class(PARAMS, b"\x01" * 32),), {"computation_class": Watch})
    executor = BlockExecutor(world.db, world.root, world.env())
    executor._state.computation_class = Watch
    assert state.computation_class is Watch
    executor.apply(signed(KEYS[0], nonce=1, to=created_by(ADDRESSES[0], 0), gas=500_000))
    assert len(kept) > 1_000 and set(kept) == {0}


def test_coins_are_conserved_but_for_the_burned_base_fee(seeds: list[int]) -> None:
    """Sum of all balances = before - base fee * gas used, over random transactions that succeed and fail."""
    for seed in range(8):
        seeds.append(seed)
        rng = random.Random(seed)
        world = World()
        nonces = [0] * len(KEYS)
        for _ in range(4):
            before = world.total()
            executor = BlockExecutor(world.db, world.root, world.env())
            for _ in range(12):
                who = rng.randrange(len(KEYS))
                transaction = random_transaction(rng, who, nonces[who])
                executor.apply(transaction)
                nonces[who] += 1
            execution = world.take(executor.finish())
            after = world.total()
            assert before - after == execution.gas_used * world.base_fee, f"seed {seed}"


def random_transaction(rng: random.Random, who: int, nonce: int) -> types.Transaction:
    target = rng.choice([*CONTRACTS, *ADDRESSES, b"\x99" * 20, b""])
    data = rng.choice([b"", word(rng.randrange(4)) + word(rng.randrange(3)), word(rng.choice(ADDRESSES)), DEPLOY])
    return signed(
        KEYS[who],
        rng.choice([types.LEGACY, types.ACCESS_LIST, types.DYNAMIC_FEE]),
        nonce=nonce,
        to=target,
        value=rng.choice([0, 0, 1, 10**15]),
        data=data,
        gas=rng.choice([80_000, 150_000]),
    )


def test_empty_block_roots() -> None:
    execution = World().block()
    assert execution.transactions_root == execution.receipts_root == EMPTY_TRIE_ROOT
    assert execution.gas_used == 0 and execution.logs_bloom == bytes(256)
