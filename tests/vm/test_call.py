"""eth_call, eth_estimateGas, eth_createAccessList: results, reasons, bounds, and nothing left behind."""

import pytest
from eth_abi import encode

from primitives.address import MARKET, MODELS, SYSTEM_ADDRESS, created_by
from primitives.transaction import InvalidTransaction
from tests.vm.world import (
    ADDRESSES,
    AT,
    BURN_ALL,
    COINBASE,
    CREATE_FROM_INPUT,
    FORWARD,
    GWEI,
    KEYS,
    LOG_CALLER,
    LOOP,
    PARAMS,
    READ_HISTORY,
    RETURN_INPUT,
    REVERT_WITH_DATA,
    STORE,
    World,
    authorize,
    code,
    init_code,
    signed,
    word,
)
from vm.call import (
    CallFailed,
    CallRequest,
    CallReverted,
    CallStopped,
    Override,
    access_list,
    call,
    estimate_gas,
    revert_reason,
)
from vm.system.prologue import prologue_data

ME = ADDRESSES[0]
ERROR = bytes.fromhex("08c379a0") + encode(["string"], ["too little"])
PANIC = bytes.fromhex("4e487b71") + word(0x11)
BALANCE_OF_CALLER = code("33 31 5f 52 3a 6020 52 48 6040 52 6060 5f f3")
"""Returns the caller's balance, GASPRICE, BASEFEE."""
NEEDS_GAS = code("620186a0 5a 11 600c 57 5f 5f fd 5b 00")
"""Reverts unless more than 100,000 gas is left; uses little."""


@pytest.fixture
def world() -> World:
    return World()


def test_a_call_returns_logs_and_leaves_nothing(world: World) -> None:
    before = dict(world.db)
    result = call(world.db, world.root, world.env(), CallRequest(ME, AT[RETURN_INPUT], b"abc", value=3))
    assert result.success and result.output == b"abc" and result.error is None
    result = call(world.db, world.root, world.env(), CallRequest(ME, AT[LOG_CALLER]))
    assert result.logs[0].data == word(ME)
    result = call(world.db, world.root, world.env(), CallRequest(ME, AT[STORE], word(1) + word(2)))
    assert result.success and world.db == before
    assert world.state.storage(AT[STORE], 1) == 0


def test_a_revert_says_why(world: World) -> None:
    reasons = {ERROR: "too little", PANIC: "arithmetic underflow or overflow", b"": None, b"abc": None}
    for data, reason in reasons.items():
        result = call(world.db, world.root, world.env(), CallRequest(ME, AT[REVERT_WITH_DATA], data))
        assert not result.success and result.output == data and result.reverted
        with pytest.raises(CallReverted) as caught:
            result.raise_for_error()
        assert caught.value.reason == reason and caught.value.output == data
    with pytest.raises(CallReverted, match=r"^execution reverted: too little$"):
        estimate_gas(world.db, world.root, world.env(), CallRequest(ME, AT[REVERT_WITH_DATA], ERROR))


def test_reasons_from_hostile_data() -> None:
    selector = ERROR[:4]
    assert revert_reason(ERROR) == "too little"
    assert revert_reason(PANIC[:4] + word(0x77)) == "unknown panic code: 0x77"
    assert revert_reason(selector + word(32) + word(3) + b"\xff\xfe\xfd".ljust(32, b"\0")) == "\ufffd" * 3
    for data in (
        b"", selector, selector + word(32), selector + word(2**255) + word(1), selector + word(32) + word(2**255),
        selector + word(32) + word(33) + bytes(32), PANIC[:-1], PANIC + b"\0",
    ):  # fmt: skip
        assert revert_reason(data) is None


def test_other_failures_are_named(world: World) -> None:
    result = call(world.db, world.root, world.env(), CallRequest(ME, AT[BURN_ALL], gas=50_000))
    assert (result.error, result.gas_used, result.output) == ("invalid opcode", 50_000, b"")
    result = call(world.db, world.root, world.env(), CallRequest(ME, AT[LOOP], gas=50_000))
    assert result.error == "out of gas"
    with pytest.raises(CallFailed, match="out of gas"):
        result.raise_for_error()


def test_fees_are_charged_only_when_a_price_is_named(world: World) -> None:
    override = {b"\xaa" * 20: Override(code=BALANCE_OF_CALLER)}
    free = call(world.db, world.root, world.env(), CallRequest(ME, b"\xaa" * 20), override)
    assert free.output == word(1_000 * 10**18) + word(0) + word(GWEI), "BASEFEE is the block's, whoever pays"
    request = CallRequest(ME, b"\xaa" * 20, gas=100_000, max_fee_per_gas=3 * GWEI, max_priority_fee_per_gas=1)
    paid = call(world.db, world.root, world.env(), request, override)
    assert paid.output == word(1_000 * 10**18 - 100_000 * (GWEI + 1)) + word(GWEI + 1) + word(GWEI)
    with pytest.raises(InvalidTransaction, match="max fee per gas less than block base fee"):
        call(world.db, world.root, world.env(), CallRequest(ME, AT[STORE], max_fee_per_gas=1))
    poor = CallRequest(b"\x55" * 20, AT[STORE], max_fee_per_gas=2 * GWEI)
    with pytest.raises(InvalidTransaction, match=r"insufficient funds for gas \* price \+ value"):
        call(world.db, world.root, world.env(), poor)
    with pytest.raises(InvalidTransaction, match="insufficient funds"):
        call(world.db, world.root, world.env(), CallRequest(b"\x55" * 20, ME, value=1))
    with pytest.raises(InvalidTransaction, match="intrinsic gas too low: have 20000, want 21000"):
        call(world.db, world.root, world.env(), CallRequest(ME, AT[STORE], gas=20_000))


def test_the_gas_cap_holds(world: World) -> None:
    result = call(world.db, world.root, world.env(), CallRequest(ME, AT[LOOP], gas=10**9), gas_cap=70_000)
    assert result.gas_used == 70_000


def test_a_contract_may_be_the_sender_of_a_call(world: World) -> None:
    assert call(world.db, world.root, world.env(), CallRequest(AT[STORE], AT[RETURN_INPUT], b"x")).output == b"x"


def test_nobody_plays_the_prologue_in_a_call(world: World) -> None:
    """Its gas is a block's: with any other amount it could run into what no block may run into."""
    prologue = CallRequest(SYSTEM_ADDRESS, MARKET, prologue_data(bytes(32), b""), gas=60_000)
    for ask in (call, estimate_gas):
        with pytest.raises(CallFailed, match="the system address"):
            ask(world.db, world.root, world.env(), prologue)


def test_overrides(world: World) -> None:
    get = code("5f35 54 5f 52 6020 5f f3")
    world.block(
        signed(KEYS[0], to=AT[STORE], data=word(1) + word(11)), signed(KEYS[1], to=AT[STORE], data=word(2) + word(22))
    )
    for override, expected in [
        (Override(code=get), (11, 22)),
        (Override(code=get, state_diff={1: 5}), (5, 22)),
        (Override(code=get, state={1: 5}), (5, 0)),
        (Override(code=get, state={}), (0, 0)),
    ]:
        for slot, value in zip((1, 2), expected, strict=True):
            request = CallRequest(ME, AT[STORE], word(slot))
            result = call(world.db, world.root, world.env(), request, {AT[STORE]: override})
            assert int.from_bytes(result.output, "big") == value, override
    rich = {b"\x55" * 20: Override(balance=10, nonce=4)}
    result = call(world.db, world.root, world.env(), CallRequest(b"\x55" * 20, b"", init_code(get), value=10), rich)
    assert result.success and result.created == created_by(b"\x55" * 20, 4)


def test_a_delegation_can_be_tried_out(world: World) -> None:
    request = CallRequest(ADDRESSES[1], ME, b"hello", authorization_list=(authorize(KEYS[0], AT[RETURN_INPUT], 0),))
    assert call(world.db, world.root, world.env(), request).output == b"hello"


def test_should_stop_ends_an_endless_loop(world: World) -> None:
    asked = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) > 500

    endless = CallRequest(ME, AT[LOOP])
    with pytest.raises(CallStopped):
        call(world.db, world.root, world.env(), endless, gas_cap=10**8, should_stop=should_stop)
    assert len(asked) == 501


def test_estimates_suffice_and_are_not_far_off(world: World) -> None:
    requests = [
        CallRequest(ME, b"\x42" * 20, value=1),
        CallRequest(ME, AT[STORE], word(1) + word(2)),
        CallRequest(ME, AT[LOG_CALLER]),
        CallRequest(ME, AT[FORWARD], word(ADDRESSES[3]), value=1),
        CallRequest(ME, AT[CREATE_FROM_INPUT], init_code(bytes(100))),
        CallRequest(ME, b"", init_code(bytes(500))),
        CallRequest(ME, b"\x42" * 20, b"\x01" * 1_000),
        CallRequest(ME, AT[READ_HISTORY], word(0)),
    ]
    for request in requests:
        gas = estimate_gas(world.db, world.root, world.env(), request)
        fields = {"to": request.to, "data": request.data, "value": request.value}
        used = World().block(signed(KEYS[0], gas=gas, **fields)).receipts[0]
        assert used.status == 1, request
        assert gas <= used.gas_used * 64 // 63 * 1_030 // 1_000 + 2_300 * 64 // 63 + 6_000, request
    assert estimate_gas(world.db, world.root, world.env(), requests[0]) == 21_000


def test_an_estimate_finds_gas_that_is_needed_and_not_used(world: World) -> None:
    override = {b"\xaa" * 20: Override(code=NEEDS_GAS)}
    gas = estimate_gas(world.db, world.root, world.env(), CallRequest(ME, b"\xaa" * 20), override)
    need = 21_000 + 3 + 2 + 100_001
    assert need <= gas <= need * 1_015 // 1_000 + 1


def test_estimates_that_fail_say_what_was_missing(world: World) -> None:
    with pytest.raises(CallFailed, match=r"gas required exceeds allowance \(100000\)"):
        estimate_gas(world.db, world.root, world.env(), CallRequest(ME, AT[LOOP]), gas_cap=100_000)
    with pytest.raises(CallFailed, match=r"gas required exceeds allowance \(22000\)"):
        estimate_gas(world.db, world.root, world.env(), CallRequest(ME, AT[STORE], word(1) + word(1), gas=22_000))
    with pytest.raises(CallFailed, match="invalid opcode"):
        estimate_gas(world.db, world.root, world.env(), CallRequest(ME, AT[BURN_ALL]), gas_cap=50_000)
    with pytest.raises(InvalidTransaction, match="insufficient funds"):
        estimate_gas(world.db, world.root, world.env(), CallRequest(b"\x55" * 20, ME, value=1))
    poor = {b"\x55" * 20: Override(balance=21_500 * 2 * GWEI)}
    request = CallRequest(b"\x55" * 20, AT[STORE], word(1) + word(1), max_fee_per_gas=2 * GWEI)
    with pytest.raises(CallFailed, match=r"gas required exceeds allowance \(21500\)"):
        estimate_gas(world.db, world.root, world.env(), request, poor)
    with pytest.raises(CallStopped):
        estimate_gas(world.db, world.root, world.env(), CallRequest(ME, AT[STORE]), should_stop=lambda: True)


def test_an_estimate_tries_a_transactions_share_of_a_block_at_most(world: World) -> None:
    override = {b"\xaa" * 20: Override(code=code("5a 5f 52 6020 5f fd"))}
    with pytest.raises(CallReverted) as caught:
        estimate_gas(world.db, world.root, world.env(), CallRequest(ME, b"\xaa" * 20, gas=10**9), override)
    assert int.from_bytes(caught.value.output, "big") == PARAMS.transaction_gas_max - 21_000 - 2


def test_access_list_holds_what_was_touched(world: World) -> None:
    request = CallRequest(ME, AT[STORE], word(7) + word(1))
    listed, result = access_list(world.db, world.root, world.env(), request)
    assert listed == ((AT[STORE], (7,)),) and result.success
    listed, _ = access_list(world.db, world.root, world.env(), CallRequest(ME, AT[FORWARD], word(ADDRESSES[2])))
    assert listed == tuple(sorted([(AT[FORWARD], (0,)), (ADDRESSES[2], ())]))
    for unlisted in (ME, COINBASE, (2).to_bytes(20, "big")):
        listed, _ = access_list(world.db, world.root, world.env(), CallRequest(ME, AT[FORWARD], word(unlisted)))
        assert [address for address, _ in listed] == [AT[FORWARD]]


@pytest.mark.parametrize("override", [Override(state_diff={0: 2**255}), Override(state={})], ids=["slot", "all"])
def test_the_storage_of_system_accounts_cannot_be_overridden(world: World, override: Override) -> None:
    # Native code reads as many words as a list's length says: one that a caller made up would fill the memory.
    with pytest.raises(CallFailed, match="cannot be overridden"):
        call(world.db, world.root, world.env(), CallRequest(ME, AT[STORE]), {MODELS: override})
