"""SystemContext over a py-evm computation: the EVM's own journal, balances, logs and gas meter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eth.abc import ComputationAPI
from eth.constants import STACK_DEPTH_LIMIT
from eth.vm.message import Message

from primitives.params import ChainParams
from vm.system.context import OutOfGas, Refused
from vm.validity import DELEGATION_PREFIX, is_delegation


class EvmContext:
    """One call into a system account. What it writes is undone with the computation, if that fails."""

    def __init__(self, computation: ComputationAPI, params: ChainParams, genesis_hash: bytes) -> None:
        self.params = params
        self.genesis_hash = genesis_hash
        self._computation = computation
        self._state = computation.state
        self._read_only = bool(computation.msg.is_static)
        self._limits: list[int] = []

    @property
    def height(self) -> int:
        return int(self._state.block_number)

    @property
    def timestamp(self) -> int:
        return int(self._state.timestamp)

    @property
    def mix(self) -> bytes:
        return bytes(self._state.mix_hash)

    @property
    def base_fee(self) -> int:
        return int(self._state.base_fee)

    @property
    def gas_left(self) -> int:
        remaining = self._remaining()
        return min([remaining, *(remaining - limit for limit in self._limits)])

    def get(self, account: bytes, slot: int) -> int:
        return int(self._state.get_storage(account, slot))

    def set(self, account: bytes, slot: int, value: int) -> None:
        self._refuse_in_view()
        self._state.set_storage(account, slot, value)

    def balance(self, account: bytes) -> int:
        return int(self._state.get_balance(account))

    def transfer(self, source: bytes, target: bytes, wei: int) -> None:
        self.burn(source, wei)
        self.mint(target, wei)

    def mint(self, target: bytes, wei: int) -> None:
        self._refuse_in_view()
        assert wei >= 0
        if wei:
            self._state.delta_balance(target, wei)

    def burn(self, source: bytes, wei: int) -> None:
        self._refuse_in_view()
        assert wei >= 0
        held = self.balance(source)
        if held < wei:
            raise Refused("insufficient_balance", f"0x{source.hex()} holds {held} wei, {wei} are needed")
        if wei:
            self._state.delta_balance(source, -wei)

    def log(self, account: bytes, topics: Sequence[int], data: bytes) -> None:
        self._refuse_in_view()
        self._computation.add_log_entry(account, tuple(topics), data)

    def call_out(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, int]:
        self._refuse_in_view()
        self.charge(gas, "call")
        code = self._state.get_code(target)
        delegated = is_delegation(code)
        if delegated:
            code = self._state.get_code(code[len(DELEGATION_PREFIX) :])
        if not code:
            self._computation.return_gas(gas)
            return False, 0
        child = self._child(
            gas=gas, to=target, sender=sender, value=0, data=data, code=code, is_delegation=delegated
        )
        return not child.is_error, gas - int(child.get_gas_remaining())

    def call_static(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, bytes]:
        self.charge(gas, "call")
        code = self._state.get_code(target)
        child = self._child(gas=gas, to=target, sender=sender, value=0, data=data, code=code, is_static=True)
        return not child.is_error, bytes(child.output)

    def charge(self, gas: int, what: str) -> None:
        left = self.gas_left
        if gas > left:
            raise OutOfGas(what, gas, left)
        self._computation.consume_gas(gas, what)

    @contextmanager
    def frame(self, gas_max: int | None = None) -> Iterator[None]:
        snapshot = self._state.snapshot()
        logs: list[object] = self._computation._log_entries
        logged = len(logs)
        if gas_max is not None:
            self._limits.append(self._remaining() - gas_max)
        try:
            yield
        except BaseException:
            self._state.revert(snapshot)
            del logs[logged:]
            raise
        else:
            self._state.commit(snapshot)
        finally:
            if gas_max is not None:
                self._limits.pop()

    def _child(self, **message: Any) -> ComputationAPI:
        """Run a message one level deeper; the gas that it leaves comes back."""
        parent: Any = self._computation
        if parent.msg.depth >= STACK_DEPTH_LIMIT:
            # Or a caller could choose how a call ends by how deep it stands. Gas runs out long before (EIP-150).
            raise Refused("too_deep", f"called {parent.msg.depth} levels deep: nothing further can be called")
        child: ComputationAPI = parent.generate_child_computation(Message(**message, depth=parent.msg.depth + 1))
        parent.add_child_computation(child)
        parent.return_data = b""
        parent.return_gas(int(child.get_gas_remaining()))
        return child

    def _remaining(self) -> int:
        return int(self._computation.get_gas_remaining())

    def _refuse_in_view(self) -> None:
        if self._read_only:
            raise Refused("read_only", "a static call may not write")
