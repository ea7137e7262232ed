"""eth_ methods that read or try the state: balances, storage, proofs, calls and estimates."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from primitives.transaction import AccessList, Authorization
from rpc.codec import address, data, quantity, read_address, read_data, read_hash, read_quantity
from rpc.context import Context
from rpc.errors import EXECUTION_REVERTED, SERVER_ERROR, RpcError, invalid_params
from rpc.format import access_list_json
from vm.call import (
    CallFailed,
    CallRequest,
    CallReverted,
    CallStopped,
    Override,
    Overrides,
    access_list,
    call,
    estimate_gas,
)
from vm.mpt import prove_account
from vm.state import StateReader

CALL_GAS_MAX = 50_000_000
CALL_SECONDS_MAX = 5
OVERRIDES_MAX = 256
OVERRIDE_SLOTS_MAX = 4_096
PROOF_SLOTS_MAX = 1_024

T = TypeVar("T")


def get_balance(context: Context, account: Any, block: Any = "latest") -> str:
    """Wei of an account."""
    return quantity(_reader(context, block).balance(read_address(account, "address")))


def get_code(context: Context, account: Any, block: Any = "latest") -> str:
    """Code of an account."""
    return data(_reader(context, block).code(read_address(account, "address")))


def get_transaction_count(context: Context, account: Any, block: Any = "latest") -> str:
    """Nonce of an account; with `pending`, after everything in the mempool that can follow it."""
    wanted = read_address(account, "address")
    if block == "pending":
        return quantity(context.backend.mempool.next_nonce(wanted))
    return quantity(_reader(context, block).nonce(wanted))


def get_storage_at(context: Context, account: Any, slot: Any, block: Any = "latest") -> str:
    """Word of an account's storage."""
    value = _reader(context, block).storage(read_address(account, "address"), _slot(slot))
    return data(value.to_bytes(32, "big"))


def get_proof(context: Context, account: Any, slots: Any, block: Any = "latest") -> dict[str, Any]:
    """Merkle proof of an account and of slots of its storage (EIP-1186)."""
    if not isinstance(slots, list) or len(slots) > PROOF_SLOTS_MAX:
        raise invalid_params(f"invalid argument 1: a list of at most {PROOF_SLOTS_MAX} storage keys is wanted")
    wanted, keys = read_address(account, "address"), [_slot(slot) for slot in slots]
    reader = _reader(context, block)
    proof = prove_account(reader.db, reader.root, wanted, keys)
    return {
        "address": address(wanted),
        "balance": quantity(proof.balance),
        "nonce": quantity(proof.nonce),
        "codeHash": data(proof.code_hash),
        "storageHash": data(proof.storage_root),
        "accountProof": [data(node) for node in proof.proof],
        "storageProof": [
            {"key": shown, "value": quantity(slot.value), "proof": [data(node) for node in slot.proof]}
            for shown, slot in zip(slots, proof.storage, strict=True)
        ],
    }


def eth_call(context: Context, request: Any, block: Any = "latest", overrides: Any = None) -> str:
    """Return data of a message that leaves no trace."""
    number = context.number(block)
    wanted, changes = read_request(request), _overrides(overrides)
    root, env = context.block_at(number).header.state_root, context.ledger.env_for_call(number)

    def run() -> bytes:
        cap = {"gas_cap": CALL_GAS_MAX, "should_stop": _deadline()}
        result = call(context.ledger.state, root, env, wanted, changes, **cap)
        result.raise_for_error()
        return result.output

    return data(_translate(run))


def eth_estimate_gas(context: Context, request: Any, block: Any = "latest", overrides: Any = None) -> str:
    """A gas limit with which the message succeeds."""
    number = context.number(block)
    wanted, changes = read_request(request), _overrides(overrides)
    root, env = context.block_at(number).header.state_root, context.ledger.env_for_call(number)
    stop = _deadline()
    return quantity(
        _translate(lambda: estimate_gas(context.ledger.state, root, env, wanted, changes, should_stop=stop))
    )


def create_access_list(context: Context, request: Any, block: Any = "latest") -> dict[str, Any]:
    """Addresses and slots that the message touches (EIP-2930)."""
    number = context.number(block)
    wanted = read_request(request)
    root, env = context.block_at(number).header.state_root, context.ledger.env_for_call(number)
    stop = _deadline()
    found, result = _translate(lambda: access_list(context.ledger.state, root, env, wanted, should_stop=stop))
    shown: dict[str, Any] = {"accessList": access_list_json(found), "gasUsed": quantity(result.gas_used)}
    if result.error is not None:
        shown["error"] = result.error
    return shown


def read_request(request: Any) -> CallRequest:
    """A transaction object as eth_call takes it. Raises RpcError."""
    if not isinstance(request, dict):
        raise invalid_params("invalid argument 0: a transaction object is wanted")
    if request.get("data") is not None and request.get("input") not in (None, request["data"]):
        raise invalid_params('both "data" and "input" are set and not equal. Please use "input" to pass call data')
    if request.get("gasPrice") is not None and request.get("maxFeePerGas") is not None:
        raise invalid_params("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified")
    payload = request.get("input") if request.get("input") is not None else request.get("data")
    price = _optional(request, "gasPrice", read_quantity)
    if price is None:
        most = _optional(request, "maxFeePerGas", read_quantity) or 0
        tip = _optional(request, "maxPriorityFeePerGas", read_quantity) or 0
    else:
        most = tip = price
    if tip > most > 0:
        raise invalid_params(f"maxFeePerGas ({most:#x}) < maxPriorityFeePerGas ({tip:#x})")
    gas = request.get("gas")
    return CallRequest(
        sender=_optional(request, "from", read_address) or b"\x00" * 20,
        to=_optional(request, "to", read_address) or b"",
        data=b"" if payload is None else read_data(payload, "input"),
        value=_optional(request, "value", read_quantity) or 0,
        gas=None if gas is None else read_quantity(gas, "gas", 64),
        max_fee_per_gas=most,
        max_priority_fee_per_gas=tip,
        access_list=_access_list(request.get("accessList")),
        authorization_list=_authorizations(request.get("authorizationList")),
    )


def _reader(context: Context, block: Any) -> StateReader:
    return context.ledger.reader(context.number(block))


def _deadline() -> Callable[[], bool]:
    end = time.monotonic() + CALL_SECONDS_MAX
    return lambda: time.monotonic() > end


def _translate(run: Callable[[], T]) -> T:
    """The vm's exceptions as geth's errors."""
    try:
        return run()
    except CallReverted as error:
        raise RpcError(EXECUTION_REVERTED, str(error), data(error.output)) from error
    except CallStopped as error:
        raise RpcError(SERVER_ERROR, f"execution aborted (timeout = {CALL_SECONDS_MAX}s)") from error
    except CallFailed as error:
        raise RpcError(SERVER_ERROR, str(error)) from error


def _optional(request: dict[str, Any], name: str, read: Callable[[Any, str], T]) -> T | None:
    value = request.get(name)
    return None if value is None else read(value, name)


def _slot(value: Any) -> int:
    """A storage key: a quantity or 32 bytes."""
    if not isinstance(value, str) or not value.startswith("0x") or len(value) > 66:
        raise invalid_params(f"unable to decode storage key: {value!r}")
    return read_quantity(value if len(value) > 2 else "0x0", "storage key")


def _access_list(value: Any) -> AccessList:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid_params("invalid argument accessList: a list is wanted")
    entries = []
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("storageKeys", []), list):
            raise invalid_params("invalid argument accessList: objects of address and storageKeys are wanted")
        keys = entry.get("storageKeys", [])
        slots = tuple(int.from_bytes(read_hash(key, "storageKeys"), "big") for key in keys)
        entries.append((read_address(entry.get("address"), "address"), slots))
    return tuple(entries)


def _authorizations(value: Any) -> tuple[Authorization, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid_params("invalid argument authorizationList: a list is wanted")
    entries = []
    for entry in value:
        if not isinstance(entry, dict):
            raise invalid_params("invalid argument authorizationList: objects are wanted")
        number = {name: read_quantity(entry.get(name), name) for name in ("chainId", "nonce", "yParity", "r", "s")}
        target = read_address(entry.get("address"), "address")
        entries.append(
            Authorization(number["chainId"], target, number["nonce"], number["yParity"], number["r"], number["s"])
        )
    return tuple(entries)


def _overrides(value: Any) -> Overrides:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > OVERRIDES_MAX:
        raise invalid_params(f"invalid argument 2: an object of at most {OVERRIDES_MAX} accounts is wanted")
    return {read_address(account, "address"): _override(entry) for account, entry in value.items()}


def _override(entry: Any) -> Override:
    if not isinstance(entry, dict):
        raise invalid_params("invalid state override: an object is wanted")
    if entry.get("state") is not None and entry.get("stateDiff") is not None:
        raise invalid_params("account has both 'state' and 'stateDiff'")
    return Override(
        balance=_optional(entry, "balance", read_quantity),
        nonce=_optional(entry, "nonce", read_quantity),
        code=_optional(entry, "code", read_data),
        state=_optional(entry, "state", _slots),
        state_diff=_optional(entry, "stateDiff", _slots) or {},
    )


def _slots(value: Any, name: str) -> dict[int, int]:
    if not isinstance(value, dict) or len(value) > OVERRIDE_SLOTS_MAX:
        raise invalid_params(f"invalid argument {name}: an object of at most {OVERRIDE_SLOTS_MAX} slots is wanted")
    return {_slot(slot): _slot(word) for slot, word in value.items()}
