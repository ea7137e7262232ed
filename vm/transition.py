"""What one valid transaction does to a state: fees, nonce, authorizations, its message, refunds, clearing.

The order is that of the Prague specification (execution-specs, fork.process_transaction). Whether it may run at all is
vm.validity's question; blocks, receipts and roots are vm.executor's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eth.exceptions import ContractCreationCollision, VMError
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.message import Message

from primitives.address import MARKET, SYSTEM_ADDRESS, ZERO_ADDRESS, created_by
from primitives.keys import InvalidSignature
from primitives.receipt import Log
from primitives.transaction import UINT64_MAX, AccessList, Authorization
from vm.state import State
from vm.validity import DELEGATION_PREFIX, is_delegation

REFUND_QUOTIENT = 5
"""EIP-3529."""
AUTHORIZATION_REFUND = 12_500
"""EIP-7702: back of the 25,000 when the authority's account exists."""


class Executable(Protocol):
    """What a transition reads of a transaction."""

    @property
    def sender(self) -> bytes: ...
    @property
    def to(self) -> bytes: ...
    @property
    def value(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def gas(self) -> int: ...
    @property
    def max_fee_per_gas(self) -> int: ...
    @property
    def max_priority_fee_per_gas(self) -> int: ...
    @property
    def access_list(self) -> AccessList: ...
    @property
    def authorization_list(self) -> Sequence[Authorization]: ...
    @property
    def intrinsic_gas(self) -> int: ...
    @property
    def floor_gas(self) -> int: ...


@dataclass(frozen=True)
class Outcome:
    """The end of one transaction or message."""

    error: VMError | None
    output: bytes
    """What it returned, or the data of its revert."""
    gas_used: int
    gas_refunded: int
    """Part of the refund counter that was paid back (gas_used is less by it, save where the floor rules)."""
    logs: tuple[Log, ...]
    created: bytes | None
    """Address of the contract of a creation, whether it succeeded or not."""


def apply_transaction(state: State, tx: Executable, base_fee: int) -> Outcome:
    """Run the transaction to its end on the state. It has been found valid; any exception is the node's own failure."""
    sender = tx.sender
    price = min(tx.max_fee_per_gas, tx.max_priority_fee_per_gas + base_fee)
    nonce = state.get_nonce(sender)
    state.delta_balance(sender, -tx.gas * price)
    state.set_nonce(sender, nonce + 1)
    refund = _authorize(state, tx.authorization_list)

    created = None
    is_delegated = False
    if tx.to:
        code, data = state.get_code(tx.to), tx.data
        if is_delegation(code):
            is_delegated = True
            target = code[len(DELEGATION_PREFIX) :]
            state.mark_address_warm(target)
            code = state.get_code(target)
    else:
        created = created_by(sender, nonce)
        code, data = tx.data, b""
    message = Message(
        gas=tx.gas - tx.intrinsic_gas, to=tx.to, sender=sender, value=tx.value, data=data, code=code,
        create_address=created, refund=refund, is_delegation=is_delegated,
    )  # fmt: skip
    state.mark_address_warm(sender)
    state.mark_address_warm(message.storage_address)
    for address, slots in tx.access_list:
        state.mark_address_warm(address)
        for slot in slots:
            state.mark_storage_warm(address, slot)

    computation = _run(state, message, CancunTransactionContext(gas_price=price, origin=sender))
    gas_used = tx.gas - computation.get_gas_remaining()
    gas_refunded = min(computation.get_gas_refund(), gas_used // REFUND_QUOTIENT)
    gas_used = max(gas_used - gas_refunded, tx.floor_gas)
    state.delta_balance(sender, (tx.gas - gas_used) * price)
    state.delta_balance(state.coinbase, gas_used * (price - base_fee))
    _clear(state, computation)
    return _outcome(computation, gas_used, gas_refunded, created)


def apply_system_message(state: State, data: bytes, gas: int) -> Outcome:
    """The prologue's message from SYSTEM_ADDRESS to Market: no fee, no nonce, no refund, no floor."""
    message = Message(
        gas=gas, to=MARKET, sender=SYSTEM_ADDRESS, value=0, data=data, code=state.get_code(MARKET)
    )
    computation = _run(state, message, CancunTransactionContext(gas_price=0, origin=SYSTEM_ADDRESS))
    _clear(state, computation)
    return _outcome(computation, gas - computation.get_gas_remaining(), 0, None)


def _run(state: State, message: Message, context: CancunTransactionContext) -> Any:
    kind = state.computation_class
    if not message.is_create:
        return kind.apply_message(state, message, context)
    if state.has_code_or_nonce(message.storage_address):
        computation = kind(state, message, context)
        computation.error = ContractCreationCollision(f"contract address collision: {message.storage_address.hex()}")
        return computation
    return kind.apply_create_message(state, message, context)


def _clear(state: State, computation: Any) -> None:
    """EIP-6780 deletions, EIP-161 clearing, and the end of what lives for one transaction only."""
    for address in computation.get_accounts_for_deletion():
        state.delete_account(address)
    for address in computation.touched_in_the_end() | {state.coinbase}:
        if state.account_exists(address) and state.account_is_empty(address):
            state.delete_account(address)
    state.clear_transient_storage()
    state.lock_changes()


def _outcome(computation: Any, gas_used: int, gas_refunded: int, created: bytes | None) -> Outcome:
    return Outcome(
        error=computation.error if computation.is_error else None,
        output=computation.output,
        gas_used=gas_used,
        gas_refunded=gas_refunded,
        logs=tuple(
            Log(address, tuple(topic.to_bytes(32, "big") for topic in topics), data)
            for address, topics, data in computation.get_log_entries()
        ),
        created=created,
    )


def _authorize(state: State, authorizations: Sequence[Authorization]) -> int:
    """Set or clear delegations (EIP-7702); one that does not hold is skipped. Returns the gas to refund."""
    refund = 0
    for authorization in authorizations:
        if authorization.chain_id not in (0, state.execution_context.chain_id) or authorization.nonce >= UINT64_MAX:
            continue
        try:
            authority = authorization.signer
        except InvalidSignature:
            continue
        state.mark_address_warm(authority)
        code = state.get_code(authority)
        if (code and not is_delegation(code)) or state.get_nonce(authority) != authorization.nonce:
            continue
        if state.account_exists(authority):
            refund += AUTHORIZATION_REFUND
        if authorization.address == ZERO_ADDRESS:
            state.delete_code(authority)
        else:
            state.set_code(authority, DELEGATION_PREFIX + authorization.address)
        state.increment_nonce(authority)
    return refund
