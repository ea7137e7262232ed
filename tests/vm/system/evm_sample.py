"""The sample chain inside a real EVM state: messages go straight to it."""

from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.message import Message
from sample import STRANGER, sample_spec

from primitives.hashing import keccak
from vm.genesis import build_state
from vm.state import open_state, state_class

SPEC = sample_spec()
GENESIS_HASH = keccak(b"genesis of a test")
ROOT, NODES = build_state(SPEC)
GAS = 2_000_000
CALL, CALLCODE, DELEGATECALL, STATICCALL = 0xF1, 0xF2, 0xF4, 0xFA


def forwarder(target: bytes, opcode: int, value: int = 0) -> bytes:
    """Code that passes its calldata on and returns the success flag and what came back."""
    pushed_value = b"\x60" + bytes([value]) if opcode in (CALL, CALLCODE) else b""
    return (
        bytes.fromhex("365f5f37")  # calldatacopy(0, 0, calldatasize)
        + bytes.fromhex("5f5f365f") + pushed_value + b"\x73" + target + b"\x5a" + bytes([opcode])
        + bytes.fromhex("5f52")  # mstore(0, success)
        + bytes.fromhex("3d5f60203e")  # returndatacopy(32, 0, returndatasize)
        + bytes.fromhex("6020") + bytes.fromhex("3d01") + bytes.fromhex("5ff3")
    )  # fmt: skip


class Evm:
    """One block's state of the sample chain; messages straight to the EVM."""

    def __init__(self, height: int = 1) -> None:
        self.state = open_state(
            state_class(SPEC.params, GENESIS_HASH), dict(NODES), ROOT, params=SPEC.params, number=height,
            timestamp=1, coinbase=b"\x01" * 20, mix_hash=keccak(b"mix"), base_fee_per_gas=10**9,
        )  # fmt: skip

    def send(self, to, data, sender=STRANGER.operator, value=0, gas=GAS, is_static=False, depth=0):
        message = Message(
            gas=gas, to=to, sender=sender, value=value, data=data, code=self.state.get_code(to), depth=depth,
            is_static=is_static,
        )  # fmt: skip
        context = CancunTransactionContext(gas_price=0, origin=sender)
        return self.state.computation_class.apply_message(self.state, message, context)

    def install(self, code: bytes) -> bytes:
        address = keccak(code)[12:]
        self.state.set_code(address, code)
        self.state.delta_balance(address, 10**18)
        return address
