"""From a message to a rule and back: what happens when anything calls 0a01-0a07 or 0a09.

Owns selector dispatch, the rules on how a system account may be called, the gas of dispatch and the translation of our
exceptions to the EVM's. Only VMErrors leave it, or our own bugs. No method runs code of another account (payments are
balance moves) but for Referee.open, which asks the second referee by a static call. The prologue does, for callbacks;
while it runs, methods that write are refused, so that nothing can call back into one that is writing.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from eth.abc import ComputationAPI
from eth.exceptions import OutOfGas as EvmOutOfGas
from eth.exceptions import Revert, WriteProtection

from primitives.address import SYSTEM_ACCOUNTS, SYSTEM_ADDRESS
from primitives.params import ChainParams
from vm.system import (
    abi,
    beacon,
    courier,
    delegation,
    gas,
    ledger,
    market,
    mishaps,
    models,
    prologue,
    referee,
    staking,
    terms,
    tolerant,
)
from vm.system.context import Call, OutOfGas, Refused
from vm.system.evm import EvmContext

Handler = Callable[..., tuple[Any, ...] | None]
"""(ctx, call, *arguments) -> outputs in the order of the declaration, or None when there are none.

Addresses arrive and leave as 20 bytes; eth-abi's text form is translated here.
"""

ROOMS: tuple[ModuleType, ...] = (
    staking, mishaps, models, terms, market, ledger, referee, beacon, courier, delegation, tolerant,
)  # fmt: skip
"""Modules with HANDLERS: a mapping from abi.Function to Handler."""

RESULT_BYTES_MAX = 256 * 1024
"""Longest return data of a view. Lists that grow with what people do (openDisputes) end with it, as with gas."""


def handlers() -> dict[abi.Function, Handler]:
    """Every method that is live on this chain."""
    found: dict[abi.Function, Handler] = {abi.PROLOGUE: prologue.handle}
    for room in ROOMS:
        own: Mapping[abi.Function, Handler] = room.HANDLERS
        found.update(own)
    return found


def precompiles(params: ChainParams, genesis_hash: bytes) -> dict[bytes, Callable[[ComputationAPI], ComputationAPI]]:
    """Address -> native code, for the state class's table."""
    live = handlers()
    return {account: _precompile(account, params, genesis_hash, live) for account in SYSTEM_ACCOUNTS}


def _precompile(
    account: bytes, params: ChainParams, genesis_hash: bytes, live: Mapping[abi.Function, Handler]
) -> Callable[[ComputationAPI], ComputationAPI]:
    def run(computation: ComputationAPI) -> ComputationAPI:
        try:
            computation.output = _call(computation, account, params, genesis_hash, live)
        except Refused as refusal:
            if refusal.code == "read_only":
                raise WriteProtection(refusal.text) from refusal
            computation.output = abi.revert_data(refusal.text)
            raise Revert(computation.output) from refusal
        except OutOfGas as error:
            raise EvmOutOfGas(str(error)) from error
        return computation

    return run


def _call(
    computation: ComputationAPI,
    account: bytes,
    params: ChainParams,
    genesis_hash: bytes,
    live: Mapping[abi.Function, Handler],
) -> bytes:
    message = computation.msg
    if message.storage_address != message.code_address or message.is_delegation:
        raise Refused("delegated", f"{abi.NAMES[account]} cannot run in another account's storage")
    data = bytes(message.data)
    ctx = EvmContext(computation, params, genesis_hash)
    ctx.charge(gas.CALL + gas.CALLDATA_BYTE * len(data), "call of a system account")
    function = abi.FUNCTIONS[account].get(data[:4])
    handler = None if function is None else live.get(function)
    if function is None or handler is None:
        raise Refused("unknown_method", f"{abi.NAMES[account]} has no method 0x{data[:4].hex()}")
    if function is abi.PROLOGUE and (message.sender != SYSTEM_ADDRESS or message.depth != 0):
        raise Refused("not_system", "only a block's first transaction runs the prologue")
    if function.mutability != "view" and message.depth and computation.transaction_context.origin == SYSTEM_ADDRESS:
        raise Refused("in_callback", f"{abi.NAMES[account]}.{function.name}: a callback may not write here")
    if message.value and function.mutability != "payable":
        raise Refused("not_payable", f"{abi.NAMES[account]}.{function.name} takes no value")
    if message.is_static and function.mutability != "view":
        raise WriteProtection(f"{function.name} writes, which a static call may not")
    try:
        arguments = function.decode_arguments(data[4:])
    except abi.AbiError as error:
        raise Refused("malformed", f"{abi.NAMES[account]}.{function.name}: {error}") from error
    values = [_inward(param, value) for param, value in zip(function.inputs, arguments, strict=True)]
    result = handler(ctx, Call(bytes(message.sender), message.value), *values)
    encoded = function.encode_result(result or ())
    if len(encoded) > RESULT_BYTES_MAX:
        raise Refused("too_long", f"{function.name} would answer {len(encoded)} bytes; at most {RESULT_BYTES_MAX}")
    return encoded


def _inward(param: abi.Param, value: Any) -> Any:
    return bytes.fromhex(value[2:]) if param.type == "address" else value
