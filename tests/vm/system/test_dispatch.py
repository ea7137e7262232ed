"""How the system accounts answer the EVM: who may call what in which way, and what a failure leaves."""

import random

import eth_abi
import pytest
from evm_sample import CALL, CALLCODE, DELEGATECALL, GAS, GENESIS_HASH, SPEC, STATICCALL, Evm, forwarder
from sample import BOND, MODEL, PEOPLE, STRANGER, WEALTH, sample_spec, started

from primitives.address import (
    BEACON,
    LEDGER,
    MARKET,
    MODELS,
    STAKING,
    SYSTEM_ACCOUNTS,
    SYSTEM_ADDRESS,
)
from primitives.genesis import GenesisAccount
from primitives.hashing import ZERO_HASH, keccak
from vm.genesis import build_state
from vm.state import StateReader
from vm.system import abi, dispatch, staking
from vm.system.dispatch import handlers


@pytest.fixture
def evm():
    return Evm()


def refusal(computation) -> str | None:
    assert computation.is_error
    return abi.revert_text(computation.output)


def registration(person=STRANGER) -> bytes:
    return abi.REGISTER.encode_call(*person.registration(SPEC.params, GENESIS_HASH))


def test_every_declared_method_has_a_handler():
    live = handlers()
    declared = {function for account in abi.FUNCTIONS.values() for function in account.values()}
    assert set(live) == declared


def test_a_registration_moves_the_bond_and_logs_it(evm):
    done = evm.send(STAKING, registration(), value=BOND)
    assert not done.is_error
    assert evm.state.get_balance(STAKING) == 5 * BOND
    assert evm.state.get_balance(STRANGER.operator) == WEALTH - BOND
    logs = done.get_log_entries()
    assert [abi.EVENTS[topics[0].to_bytes(32, "big")].name for _, topics, _ in logs] == [
        "Registered", "Bonded", "Activated",
    ]  # fmt: skip
    assert {account for account, _, _ in logs} == {STAKING}


def test_the_evm_and_the_test_context_leave_the_same_storage_and_use_the_same_gas_for_the_same_calls(evm):
    ctx = started(SPEC)
    before = dict(ctx.storage)
    calls = [
        (abi.REGISTER, STRANGER.registration(SPEC.params, GENESIS_HASH), STRANGER.operator, BOND),
        (abi.UNBOND, [BOND // 2], PEOPLE[0].operator, 0),
        (abi.UNBOND, [BOND], PEOPLE[1].operator, 0),
    ]
    for function, arguments, sender, value in calls:
        ctx.gas_used = 0
        ctx.call(staking.HANDLERS, function, *arguments, sender=sender, value=value)
        data = function.encode_call(*arguments)
        done = evm.send(STAKING, data, sender=sender, value=value)
        assert not done.is_error
        assert done.get_gas_used() == ctx.gas_used + 600 + len(data)
    for account, slot in before.keys() | ctx.storage.keys():
        assert evm.state.get_storage(account, slot) == ctx.get(account, slot)


def test_a_refusal_reverts_with_its_reason_and_returns_the_gas_that_is_left(evm):
    root = evm.state.make_state_root()
    done = evm.send(STAKING, registration(), value=1)
    assert "below the minimum" in refusal(done)
    assert 0 < done.get_gas_remaining() < GAS
    assert not done.get_log_entries()
    assert evm.state.make_state_root() == root


@pytest.mark.parametrize(
    "data",
    [
        abi.UNBOND.selector,
        abi.UNBOND.selector + bytes(31),
        abi.GET_OPERATOR.selector + b"\xff" * 32,
        abi.REGISTER.selector + b"\xff" * 256,
        abi.REGISTER.selector + bytes(256),
    ],
    ids=lambda data: data[:8].hex(),
)
def test_malformed_arguments_revert_and_say_so(evm, data):
    assert "malformed arguments" in refusal(evm.send(STAKING, data))


def test_text_that_is_no_utf8_reverts(evm):
    values = [ZERO_HASH, "a", "b", "c", b"", ZERO_HASH, [], 1]
    data = abi.REGISTER_MODEL.encode_call(*values)
    broken = data.replace(b"a".ljust(32, b"\0"), b"\xff".ljust(32, b"\0"))
    assert broken != data
    assert "malformed arguments" in refusal(evm.send(MODELS, broken))


@pytest.mark.parametrize("account", SYSTEM_ACCOUNTS, ids=abi.NAMES.get)
@pytest.mark.parametrize("data", [b"", b"\x01", b"\xde\xad\xbe\xef"], ids=["empty", "short", "unknown"])
def test_what_is_no_method_reverts_and_keeps_no_wei(evm, account, data):
    before = evm.state.get_balance(account)
    reason = refusal(evm.send(account, data, value=5))
    assert "has no method" in reason
    assert evm.state.get_balance(account) == before


def test_value_is_refused_where_a_method_takes_none(evm):
    assert "takes no value" in refusal(evm.send(STAKING, abi.UNBOND.encode_call(1), PEOPLE[0].operator, value=1))
    assert "takes no value" in refusal(evm.send(LEDGER, abi.GET_TOTALS.encode_call(), value=1))


def test_a_static_call_may_read_and_not_write(evm):
    done = evm.send(STAKING, abi.OPERATORS.encode_call(), is_static=True)
    assert len(abi.OPERATORS.decode_result(done.output)[0]) == 4
    done = evm.send(STAKING, abi.UNBOND.encode_call(1), PEOPLE[0].operator, is_static=True)
    assert type(done.error).__name__ == "WriteProtection"


@pytest.mark.parametrize("opcode", [DELEGATECALL, CALLCODE], ids=["delegatecall", "callcode"])
@pytest.mark.parametrize("account", SYSTEM_ACCOUNTS, ids=abi.NAMES.get)
def test_no_contract_borrows_a_system_account_for_its_own_storage(evm, account, opcode):
    proxy = evm.install(forwarder(account, opcode))
    output = evm.send(proxy, next(iter(abi.FUNCTIONS[account]), b"abcd") + bytes(64)).output
    assert int.from_bytes(output[:32], "big") == 0
    assert "cannot run in another account's storage" in abi.revert_text(output[32:])


def test_a_contract_calls_and_static_calls(evm):
    for opcode in (CALL, STATICCALL):
        proxy = evm.install(forwarder(BEACON, opcode))
        output = evm.send(proxy, abi.LATEST_MIX.encode_call()).output
        assert int.from_bytes(output[:32], "big") == 1
        assert abi.LATEST_MIX.decode_result(output[32:]) == (0, keccak(b"spec"))


def test_a_callers_revert_takes_back_what_a_system_account_wrote(evm):
    """The contract calls Market.fillFund with a wei and then reverts."""
    code = forwarder(MARKET, CALL, value=1)[:-1] + b"\xfd"
    proxy = evm.install(code)
    evm.state.lock_changes()
    before = evm.state.make_state_root()
    done = evm.send(proxy, abi.FILL_FUND.encode_call())
    assert int.from_bytes(done.output[:32], "big") == 1
    assert done.is_error
    assert not done.get_log_entries()
    assert evm.state.make_state_root() == before


def test_a_call_without_enough_gas_runs_out_and_leaves_nothing(evm):
    root = evm.state.make_state_root()
    for gas in (0, 599, 1_000, 20_000):
        done = evm.send(STAKING, registration(), value=BOND, gas=gas)
        assert type(done.error).__name__ == "OutOfGas"
        assert evm.state.make_state_root() == root


@pytest.mark.parametrize(("sender", "depth"), [(STRANGER.operator, 0), (SYSTEM_ADDRESS, 1)])
def test_only_the_system_transaction_runs_the_prologue(evm, sender, depth):
    data = abi.PROLOGUE.encode_call(ZERO_HASH, b"")
    evm.state.delta_balance(sender, 1)
    assert "first transaction" in refusal(evm.send(MARKET, data, sender, depth=depth))


def test_the_prologue_stores_the_mix_of_its_block(evm):
    done = evm.send(MARKET, abi.PROLOGUE.encode_call(ZERO_HASH, b"\x01" * 96), SYSTEM_ADDRESS)
    assert not done.is_error
    assert abi.LATEST_MIX.decode_result(evm.send(BEACON, abi.LATEST_MIX.encode_call()).output) == (1, keccak(b"mix"))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (abi.GET_OPERATOR, [PEOPLE[0].operator]),
        (abi.GET_MODEL, [MODEL]),
        (abi.GET_SERVING, [PEOPLE[0].operator]),
        (abi.GET_SET, [1]),
        (abi.GET_TOTALS, []),
        (abi.BASE_PRICE, []),
        (abi.AUDIT_DELAY, [0]),
        (abi.RHO, []),
        (abi.GET_CREDIT, [PEOPLE[0].operator]),
        (abi.GET_RECEIPT, [ZERO_HASH]),
        (abi.MIX_AT, [0]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_view_answers_by_its_abi(evm, function, arguments):
    done = evm.send(function.account, function.encode_call(*arguments))
    assert not done.is_error, refusal(done)
    assert len(function.decode_result(done.output)) == len(function.outputs)


def test_a_view_that_would_answer_too_much_reverts(evm, monkeypatch):
    """A list that grows with what people do must not stop a block by its length."""
    monkeypatch.setattr(dispatch, "RESULT_BYTES_MAX", 95)
    assert "would answer" in refusal(evm.send(STAKING, abi.OPERATORS.encode_call()))


def test_an_account_that_delegates_to_a_system_account_gets_nothing_from_it(evm):
    """EIP-7702: through the pointer only the one-byte stub would run, which fails at every depth."""
    pointer = evm.install(b"\xef\x01\x00" + STAKING)
    proxy = evm.install(forwarder(pointer, CALL))
    output = evm.send(proxy, abi.OPERATORS.encode_call()).output
    assert int.from_bytes(output[:32], "big") == 0


def test_genesis_allocations_to_a_system_account_add_to_what_it_holds():
    spec = sample_spec()
    extra = GenesisAccount(MARKET, 7, 0, b"")
    root, nodes = build_state(type(spec)(**{**spec.__dict__, "accounts": (*spec.accounts, extra)}))
    assert StateReader(nodes, root).balance(MARKET) == spec.fund + 7


def test_logs_are_encoded_as_eth_abi_encodes_them():
    rng = random.Random(20_261_125)
    made = {
        "address": lambda: rng.randbytes(20), "bytes32": lambda: rng.randbytes(32), "bool": lambda: rng.random() < 0.5,
        "bytes": lambda: rng.randbytes(rng.choice((0, 1, 31, 32, 33, 300))),
        "string": lambda: "\u00e4\u4e00x" * rng.randrange(30),
    }  # fmt: skip

    def value(kind: str):
        if kind.endswith("[]"):
            return [value(kind[:-2]) for _ in range(rng.randrange(4))]
        if kind.startswith("uint"):
            return rng.choice((0, 1, 2 ** int(kind[4:]) - 1, rng.getrandbits(int(kind[4:]))))
        return made[kind]()

    for event in [*abi.EVENTS.values()] * 5:
        kinds = [param.canonical for param in event.params]
        values = [value(kind) for kind in kinds]
        assert abi.encode(kinds, values) == eth_abi.encode(kinds, values), event.name
        topics, data = event.encode(*values)
        decoded = event.decode([topic.to_bytes(32, "big") for topic in topics], data)
        assert [*decoded] == [param.name for param in event.params]
    for kind, wrong in (("uint8", 256), ("uint256", -1), ("address", bytes(21)), ("bytes32", b"")):
        with pytest.raises(AssertionError):
            abi.encode([kind], [wrong])
