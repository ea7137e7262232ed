"""What may enter a block, said in geth's words; and the base fee."""

import re
from dataclasses import replace

import pytest

from primitives import transaction as types
from primitives.address import checksum
from primitives.params import ChainParams
from primitives.transaction import InvalidTransaction, Transaction
from tests.vm.world import ADDRESSES, GWEI, KEYS, PARAMS, authorize, set_code, signed
from vm.validity import INITCODE_BYTES_MAX, check_account, check_static, is_delegation, next_base_fee

WHO = checksum(ADDRESSES[0])
AUTHORIZATION = authorize(KEYS[1], b"\x01" * 20, 0)


def blob() -> Transaction:
    return signed(KEYS[0], types.BLOB, blob_versioned_hashes=(b"\x01" * 32,))


@pytest.mark.parametrize(
    ("transaction", "text"),
    [
        (blob(), "transaction type not supported"),
        (signed(KEYS[0], chain_id=1), "invalid chain id for signer: have 1 want 31337"),
        (signed(KEYS[0], types.ACCESS_LIST, chain_id=1), "invalid chain id for signer: have 1 want 31337"),
        (signed(KEYS[0], types.LEGACY, chain_id=1), "invalid chain id for signer: have 1 want 31337"),
        (set_code(KEYS[0], AUTHORIZATION, chain_id=1), "invalid chain id for signer: have 1 want 31337"),
        (signed(KEYS[0], chain_id=0), "invalid chain id for signer: have 0 want 31337"),
        (signed(KEYS[0], gas=PARAMS.transaction_gas_max + 1), "exceeds block gas limit"),
        (signed(KEYS[0], nonce=2**64 - 1), f"nonce has max value: address {WHO}, nonce: {2**64 - 1}"),
        (
            signed(KEYS[0], max_priority_fee_per_gas=3 * GWEI),
            f"max priority fee per gas higher than max fee per gas: address {WHO}, "
            f"maxPriorityFeePerGas: {3 * GWEI}, maxFeePerGas: {2 * GWEI}",
        ),
        (signed(KEYS[0], gas_price=2**256 - 1), "insufficient funds for gas * price + value"),
        (set_code(KEYS[0]), "EIP-7702 transaction with empty auth list"),
        (set_code(KEYS[0], AUTHORIZATION, to=b""), "EIP-7702 transaction cannot be used to create contract"),
        (
            signed(KEYS[0], to=b"", data=bytes(INITCODE_BYTES_MAX + 1), gas=10**6),
            f"max initcode size exceeded: code size {INITCODE_BYTES_MAX + 1}, limit {INITCODE_BYTES_MAX}",
        ),
        (signed(KEYS[0], gas=20_999), "intrinsic gas too low: have 20999, want 21000"),
        (signed(KEYS[0], to=b"", gas=52_999), "intrinsic gas too low: have 52999, want 53000"),
        (
            signed(KEYS[0], types.ACCESS_LIST, gas=25_299, access_list=((b"\x01" * 20, (1,)),)),
            "intrinsic gas too low: have 25299, want 25300",
        ),
        (set_code(KEYS[0], AUTHORIZATION, gas=45_999), "intrinsic gas too low: have 45999, want 46000"),
        (
            signed(KEYS[0], data=b"\x01" * 100, gas=24_999),
            "insufficient gas for floor data gas cost: have 24999, want 25000",
        ),
        (replace(signed(KEYS[0]), r=0), "invalid sender"),
        (replace(signed(KEYS[0]), s=types.UINT256_MAX // 2), "invalid sender"),
    ],
)
def test_refused_without_the_state(transaction: Transaction, text: str) -> None:
    with pytest.raises(InvalidTransaction, match=re.escape(text)):
        check_static(transaction, PARAMS)
        assert transaction.sender


@pytest.mark.parametrize(
    "transaction",
    [
        signed(KEYS[0], types.LEGACY, chain_id=None),
        signed(KEYS[0], types.LEGACY),
        signed(KEYS[0], gas=PARAMS.transaction_gas_max),
        signed(KEYS[0], gas=21_000),
        signed(KEYS[0], nonce=2**64 - 2),
        signed(KEYS[0], data=b"\x01" * 100, gas=25_000),
        signed(KEYS[0], to=b"", data=bytes(INITCODE_BYTES_MAX), gas=10**6),
        set_code(KEYS[0], AUTHORIZATION, gas=46_000),
    ],
)
def test_at_the_edge_and_accepted(transaction: Transaction) -> None:
    check_static(transaction, PARAMS)


def test_against_the_account() -> None:
    transaction = signed(KEYS[0], nonce=5, value=7, gas=21_000)
    cost = 21_000 * 2 * GWEI + 7
    check_account(transaction, 5, cost, b"", 2 * GWEI)
    check_account(transaction, 5, cost, b"\xef\x01\x00" + b"\x01" * 20, GWEI)
    for nonce, balance, code, base_fee, text in [
        (6, cost, b"", GWEI, "nonce too low: next nonce 6, tx nonce 5"),
        (4, cost, b"", GWEI, "nonce too high: next nonce 4, tx nonce 5"),
        (5, cost, b"\x00", GWEI, f"sender not an eoa: address {WHO}, codehash: 0xbc36789e"),
        (5, cost, b"\xef\x01\x00" + b"\x01" * 21, GWEI, "sender not an eoa"),
        (
            5, cost, b"", 2 * GWEI + 1,
            f"max fee per gas less than block base fee: address {WHO}, "
            f"maxFeePerGas: {2 * GWEI}, baseFee: {2 * GWEI + 1}",
        ),
        (
            5, cost - 1, b"", GWEI,
            f"insufficient funds for gas * price + value: address {WHO} have {cost - 1} want {cost}",
        ),
    ]:  # fmt: skip
        with pytest.raises(InvalidTransaction, match=re.escape(text)):
            check_account(transaction, nonce, balance, code, base_fee)


def test_what_a_delegation_is() -> None:
    assert is_delegation(b"\xef\x01\x00" + bytes(20))
    for code in (b"", b"\xef\x01\x00", b"\xef\x01\x00" + bytes(19), b"\xef\x01\x01" + bytes(20), bytes(23)):
        assert not is_delegation(code)


@pytest.mark.parametrize(
    ("gas_used", "base_fee", "expected"),
    [
        (5_000_000, 8 * GWEI, 8 * GWEI),  # at the target
        (10_000_000, 8 * GWEI, 9 * GWEI),  # full: an eighth up
        (0, 8 * GWEI, 7 * GWEI),  # empty: an eighth down
        (7_500_000, 8 * GWEI, 8 * GWEI + GWEI // 2),
        (5_000_001, 5 * GWEI, 5 * GWEI + 125),
        (5_000_001, 1_000, 1_000 + 1),  # up by one at least
        (4_999_999, GWEI, GWEI),  # never below the floor
        (0, GWEI, GWEI),
    ],
)
def test_base_fee(gas_used: int, base_fee: int, expected: int) -> None:
    floor = min(GWEI, base_fee)
    params = ChainParams(block_gas_limit=10_000_000, base_fee_min=floor, base_fee_initial=floor)
    assert next_base_fee(gas_used, base_fee, params) == expected
