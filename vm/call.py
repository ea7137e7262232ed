"""Execution without a block: eth_call, eth_estimateGas and eth_createAccessList, with geth's meaning and words.

Everything happens on a throwaway state. Bounded by the caller's gas cap, and stopped between jumps and calls when
`should_stop` says so. Fees are charged only if the request names a price.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

from eth.exceptions import (
    ContractCreationCollision,
    InvalidInstruction,
    InvalidJumpDestination,
    OutOfGas,
    Revert,
    WriteProtection,
)
from eth.vm.opcode_values import JUMP, JUMPI

from primitives.address import SYSTEM_ACCOUNTS, SYSTEM_ADDRESS, ZERO_ADDRESS, checksum
from primitives.params import ChainParams
from primitives.receipt import Log
from primitives.transaction import AccessList, Authorization, InvalidTransaction, Transaction
from vm.executor import BlockEnv
from vm.state import State, StateReader, open_state, state_class
from vm.transition import Outcome, apply_transaction
from vm.validity import INITCODE_BYTES_MAX

TRANSFER_GAS = 21_000
CALL_STIPEND = 2_300
ESTIMATE_ERROR_NUM, ESTIMATE_ERROR_DEN = 15, 1_000
"""geth's estimateGasErrorRatio: a search ends when the gap is 1.5 % of the upper end."""
ACCESS_LIST_ROUNDS_MAX = 8
ERROR_SELECTOR, PANIC_SELECTOR = bytes.fromhex("08c379a0"), bytes.fromhex("4e487b71")
REASON_BYTES_MAX = 8_192
PANICS = {
    0x00: "generic panic",
    0x01: "assert(false)",
    0x11: "arithmetic underflow or overflow",
    0x12: "division or modulo by zero",
    0x21: "enum overflow",
    0x22: "invalid encoded storage byte array accessed",
    0x31: "out-of-bounds array access; popping on an empty array",
    0x32: "out-of-bounds access of an array or bytesN",
    0x41: "out of memory",
    0x51: "uninitialized function",
}
ERRORS = (
    (OutOfGas, "out of gas"),
    (InvalidInstruction, "invalid opcode"),
    (InvalidJumpDestination, "invalid jump destination"),
    (WriteProtection, "write protection"),
    (ContractCreationCollision, "contract address collision"),
)
"""geth's texts for the ways to fail."""


class CallReverted(Exception):
    """The message reverts; `output` is its data, `reason` what it says if it is Error(string) or Panic(uint256)."""

    def __init__(self, output: bytes, reason: str | None) -> None:
        super().__init__("execution reverted" if reason is None else f"execution reverted: {reason}")
        self.output = output
        self.reason = reason


class CallFailed(Exception):
    """The message fails otherwise (out of gas, invalid opcode); the text is geth's where it has one."""


class CallStopped(Exception):
    """The caller's should_stop asked for the end."""


@dataclass(frozen=True)
class CallRequest:
    """A message as JSON-RPC describes it. `gas` None: the cap. Prices in wei per gas; 0 charges nothing."""

    sender: bytes = ZERO_ADDRESS
    to: bytes = b""
    data: bytes = b""
    value: int = 0
    gas: int | None = None
    max_fee_per_gas: int = 0
    max_priority_fee_per_gas: int = 0
    access_list: AccessList = ()
    authorization_list: tuple[Authorization, ...] = ()


@dataclass(frozen=True)
class Override:
    """What an account is made to be for one call. `state` replaces the whole storage, `state_diff` single slots.

    The storage of system accounts stays what it is: native code trusts what it wrote there (the length of a list, say).
    """

    balance: int | None = None
    nonce: int | None = None
    code: bytes | None = None
    state: Mapping[int, int] | None = None
    state_diff: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CallResult:
    """What the message would do. `error` is geth's short text ("execution reverted", "out of gas"), None on success."""

    success: bool
    output: bytes
    gas_used: int
    gas_refunded: int
    logs: tuple[Log, ...]
    error: str | None
    created: bytes | None

    @property
    def reverted(self) -> bool:
        """Whether it ended by REVERT (then `output` is the data)."""
        return self.error == "execution reverted"

    def raise_for_error(self) -> None:
        """Raises CallReverted or CallFailed unless it succeeded."""
        if self.reverted:
            raise CallReverted(self.output, revert_reason(self.output))
        if self.error is not None:
            raise CallFailed(self.error)


Overrides = Mapping[bytes, Override]


def never() -> bool:
    """The should_stop of a call that only gas bounds."""
    return False


def call(
    db: Mapping[bytes, bytes],
    root: bytes,
    env: BlockEnv,
    request: CallRequest,
    overrides: Overrides | None = None,
    *,
    gas_cap: int | None = None,
    should_stop: Callable[[], bool] = never,
) -> CallResult:
    """Run the message on the state at `root`, as if in the block of `env`, and forget it.

    gas_cap: most gas (the block's limit if None). Raises InvalidTransaction when it could not even start (funds,
    intrinsic gas), CallFailed (an override or a sender that is refused), CallStopped, CorruptState.
    """
    cap = env.params.block_gas_limit if gas_cap is None else gas_cap
    gas = cap if request.gas is None else min(request.gas, cap)
    return _execute(db, root, env, request, gas, overrides or {}, should_stop, None)


def estimate_gas(
    db: Mapping[bytes, bytes],
    root: bytes,
    env: BlockEnv,
    request: CallRequest,
    overrides: Overrides | None = None,
    *,
    gas_cap: int | None = None,
    should_stop: Callable[[], bool] = never,
) -> int:
    """A gas limit with which the message succeeds, at most 1.5 % too high (geth's search).

    Raises CallReverted, CallFailed, InvalidTransaction, CallStopped.
    """
    overrides = overrides or {}
    high = env.params.transaction_gas_max
    if request.gas is not None and request.gas >= TRANSFER_GAS:
        high = min(high, request.gas)
    if gas_cap is not None:
        high = min(high, gas_cap)
    high = min(high, _affordable_gas(db, root, request, overrides, high))

    def attempt(gas: int) -> CallResult:
        return _execute(db, root, env, request, gas, overrides, should_stop, None)

    def succeeds(gas: int) -> bool:
        return gas >= _least_gas(request) and attempt(gas).success

    if request.to and not request.data and not request.authorization_list and succeeds(TRANSFER_GAS):
        return TRANSFER_GAS
    if high < _least_gas(request):
        raise CallFailed(f"gas required exceeds allowance ({high})")
    result = attempt(high)
    if not result.success:
        if result.error == "out of gas":
            raise CallFailed(f"gas required exceeds allowance ({high})")
        result.raise_for_error()
    low = result.gas_used - 1
    likely = (result.gas_used + result.gas_refunded + CALL_STIPEND) * 64 // 63
    if likely < high:
        if succeeds(likely):
            high = likely
        else:
            low = likely
    while low + 1 < high and (high - low) * ESTIMATE_ERROR_DEN >= high * ESTIMATE_ERROR_NUM:
        # Most need little more than they use: the middle is kept near the lower end.
        middle = min((high + low) // 2, low * 2)
        if succeeds(middle):
            high = middle
        else:
            low = middle
    return high


def access_list(
    db: Mapping[bytes, bytes],
    root: bytes,
    env: BlockEnv,
    request: CallRequest,
    *,
    gas_cap: int | None = None,
    should_stop: Callable[[], bool] = never,
) -> tuple[AccessList, CallResult]:
    """The addresses and slots that the message touches beyond what is warm anyway, and its result with that list."""
    cap = env.params.block_gas_limit if gas_cap is None else gas_cap
    gas = cap if request.gas is None else min(request.gas, cap)
    known = request.access_list
    for _ in range(ACCESS_LIST_ROUNDS_MAX):
        seen: dict[bytes, set[int]] = {}
        result = _execute(db, root, env, replace(request, access_list=known), gas, {}, should_stop, seen)
        warm = {request.sender, request.to or result.created, env.coinbase}
        warm.update(state_class(env.params, env.genesis_hash).computation_class.get_precompiles())
        found = tuple(
            (address, tuple(sorted(slots))) for address, slots in sorted(seen.items()) if slots or address not in warm
        )
        if found == known:
            break
        known = found
    return known, result


def revert_reason(output: bytes) -> str | None:
    """What revert data says, if it is Error(string) or Panic(uint256) (Solidity); else None."""
    selector, arguments = output[:4], output[4:]
    if selector == PANIC_SELECTOR and len(arguments) == 32:
        code = int.from_bytes(arguments, "big")
        return PANICS.get(code, f"unknown panic code: {code:#x}")
    if selector != ERROR_SELECTOR or len(arguments) < 64:
        return None
    start = int.from_bytes(arguments[:32], "big")
    if start > len(arguments) - 32:
        return None
    size = int.from_bytes(arguments[start : start + 32], "big")
    text = arguments[start + 32 : start + 32 + size]
    if len(text) != size or size > REASON_BYTES_MAX:
        return None
    return text.decode("utf-8", "replace")


def _unsigned(request: CallRequest, gas: int) -> Transaction:
    """The request as a transaction whose sender is taken on trust."""
    transaction = Transaction(
        4 if request.authorization_list else 2, 0, 0, gas, request.to, request.value, request.data,
        request.max_fee_per_gas, min(request.max_priority_fee_per_gas, request.max_fee_per_gas),
        request.access_list, request.authorization_list, 0, (), 0, 0, 0,
    )  # fmt: skip
    transaction.__dict__["sender"] = request.sender  # the cached property, set instead of recovered
    return transaction


def _least_gas(request: CallRequest) -> int:
    transaction = _unsigned(request, 0)
    return max(transaction.intrinsic_gas, transaction.floor_gas)


def _affordable_gas(
    db: Mapping[bytes, bytes], root: bytes, request: CallRequest, overrides: Overrides, most: int
) -> int:
    """The gas that the sender's balance pays at the request's price; `most` when it names none."""
    if not request.max_fee_per_gas:
        return most
    override = overrides.get(request.sender)
    balance = StateReader(db, root).balance(request.sender)
    if override is not None and override.balance is not None:
        balance = override.balance
    if request.value > balance:
        raise InvalidTransaction(f"insufficient funds for transfer: address {checksum(request.sender)}")
    return (balance - request.value) // request.max_fee_per_gas


def _execute(
    db: Mapping[bytes, bytes],
    root: bytes,
    env: BlockEnv,
    request: CallRequest,
    gas: int,
    overrides: Overrides,
    should_stop: Callable[[], bool],
    seen: dict[bytes, set[int]] | None,
) -> CallResult:
    if should_stop():
        raise CallStopped
    if request.sender == SYSTEM_ADDRESS:
        raise CallFailed("nobody calls from the system address: a block's own prologue does, with gas that is its own")
    transaction = _unsigned(request, gas)
    base_fee = env.base_fee_per_gas if request.max_fee_per_gas else 0
    if request.max_fee_per_gas and request.max_fee_per_gas < base_fee:
        raise InvalidTransaction(
            f"max fee per gas less than block base fee: address {checksum(request.sender)}, "
            f"maxFeePerGas: {request.max_fee_per_gas}, baseFee: {base_fee}"
        )
    size = len(request.data)
    if not request.to and size > INITCODE_BYTES_MAX:
        raise InvalidTransaction(f"max initcode size exceeded: code size {size}, limit {INITCODE_BYTES_MAX}")
    least = max(transaction.intrinsic_gas, transaction.floor_gas)
    if gas < least:
        raise InvalidTransaction(f"intrinsic gas too low: have {gas}, want {least}")
    state = _open(db, root, env, should_stop, seen)
    _override(state, overrides)
    balance, cost = state.get_balance(request.sender), gas * request.max_fee_per_gas + request.value
    if balance < cost:
        raise InvalidTransaction(
            f"insufficient funds for gas * price + value: address {checksum(request.sender)} "
            f"have {balance} want {cost}"
        )
    return _result(apply_transaction(state, transaction, base_fee))


def _open(
    db: Mapping[bytes, bytes],
    root: bytes,
    env: BlockEnv,
    should_stop: Callable[[], bool],
    seen: dict[bytes, set[int]] | None,
) -> State:
    # BASEFEE shows the block's fee even to a call that pays none (geth: zero): the Market's prices depend on it.
    state = open_state(
        _call_state_class(env.params, env.genesis_hash), db, root,
        params=env.params, number=env.number, timestamp=env.timestamp, coinbase=env.coinbase,
        mix_hash=env.mix_hash, base_fee_per_gas=env.base_fee_per_gas,
    )  # fmt: skip
    state.should_stop = should_stop
    state.seen = seen
    return state


@cache
def _call_state_class(params: ChainParams, genesis_hash: bytes) -> type[State]:
    """The chain's state, whose code can be stopped at every call and jump, and which notes what it touches."""
    chain_state = state_class(params, genesis_hash)
    chain_computation = chain_state.computation_class

    class CallComputation(chain_computation):
        opcodes: ClassVar[dict[int, Any]] = {
            **chain_computation.opcodes,
            **{number: _stoppable(chain_computation.opcodes[number]) for number in (JUMP, JUMPI)},
        }

        @classmethod
        def apply_computation(cls, state: Any, *args: Any, **kwargs: Any) -> Any:
            if state.should_stop():
                raise CallStopped
            return super().apply_computation(state, *args, **kwargs)

    class CallState(chain_state):
        computation_class = CallComputation
        should_stop: Callable[[], bool] = staticmethod(never)
        seen: dict[bytes, set[int]] | None = None

        def mark_address_warm(self, address: bytes) -> None:
            if self.seen is not None:
                self.seen.setdefault(address, set())
            super().mark_address_warm(address)

        def mark_storage_warm(self, address: bytes, slot: int) -> None:
            if self.seen is not None:
                self.seen.setdefault(address, set()).add(slot)
            super().mark_storage_warm(address, slot)

    return CallState


def _stoppable(operation: Callable[..., None]) -> Callable[..., None]:
    def run(computation: Any) -> None:
        if computation.state.should_stop():
            raise CallStopped
        operation(computation=computation)

    return run


def _override(state: State, overrides: Overrides) -> None:
    for address, override in overrides.items():
        if address in SYSTEM_ACCOUNTS and (override.state is not None or override.state_diff):
            raise CallFailed(f"the storage of system account {checksum(address)} cannot be overridden")
        if override.balance is not None:
            state.set_balance(address, override.balance)
        if override.nonce is not None:
            state.set_nonce(address, override.nonce)
        if override.code is not None:
            state.set_code(address, override.code)
        if override.state is not None:
            state.delete_storage(address)
        for slot, value in {**(override.state or {}), **override.state_diff}.items():
            state.set_storage(address, slot, value)
    state.lock_changes()


def _result(outcome: Outcome) -> CallResult:
    error = None
    if isinstance(outcome.error, Revert):
        error = "execution reverted"
    elif outcome.error is not None:
        error = next((text for kind, text in ERRORS if isinstance(outcome.error, kind)), str(outcome.error))
    return CallResult(
        success=outcome.error is None,
        output=outcome.output,
        gas_used=outcome.gas_used,
        gas_refunded=outcome.gas_refunded,
        logs=outcome.logs,
        error=error,
        created=outcome.created,
    )
