"""Runs code as a static call in an EVM that holds nothing else: for contracts whose answer follows from calldata."""

from functools import cache

from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.message import Message

from primitives.hashing import EMPTY_TRIE_ROOT, keccak
from primitives.params import ChainParams
from vm.state import open_state, state_class

CALLER, TARGET = b"\x11" * 20, b"\x22" * 20


@cache
def _state():
    params, genesis = ChainParams(), keccak(b"genesis of a test")
    return open_state(
        state_class(params, genesis), {}, EMPTY_TRIE_ROOT, params=params, number=1, timestamp=1,
        coinbase=b"\x01" * 20, mix_hash=keccak(b"mix"), base_fee_per_gas=10**9,
    )  # fmt: skip


def run(code: bytes, data: bytes, gas: int) -> tuple[bool, bytes, int]:
    """(whether it ended well, what it gave, gas used)."""
    message = Message(gas=gas, to=TARGET, sender=CALLER, value=0, data=data, code=code, is_static=True)
    state = _state()
    context = CancunTransactionContext(gas_price=0, origin=CALLER)
    done = state.computation_class.apply_message(state, message, context)
    return not done.is_error, bytes(done.output), gas - int(done.get_gas_remaining())
