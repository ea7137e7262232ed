"""A SystemContext in dictionaries, with a journal: the rules run on it without an EVM."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from primitives.address import SECOND_REFEREE
from primitives.hashing import keccak
from primitives.params import ChainParams
from tests.vm import pure_evm
from vm.system import second_referee
from vm.system.abi import EVENTS
from vm.system.context import Call, OutOfGas, Refused


class MemoryContext:
    """`height`, `mix` and `base_fee` are set by the test; `next_block` moves on. Gas is metered against `gas_limit`."""

    def __init__(self, params: ChainParams, height: int = 1, gas_limit: int = 10**9) -> None:
        self.params = params
        self.genesis_hash = keccak(b"genesis of a test")
        self.height = height
        self.mix = keccak(b"mix" + height.to_bytes(8, "big"))
        self.base_fee = params.base_fee_initial
        self.timestamp = 0
        self.storage: dict[tuple[bytes, int], int] = {}
        self.balances: dict[bytes, int] = {}
        self.logs: list[tuple[bytes, tuple[int, ...], bytes]] = []
        self.gas_used = 0
        self.gas_limit = gas_limit
        self.minted = 0
        self.burned = 0
        self.read_only = False
        self.contracts: dict[bytes, tuple[bool, int]] = {}
        self.codes = {SECOND_REFEREE: second_referee.code()}
        self.calls: list[tuple[bytes, bytes, bytes, int]] = []
        self._limits: list[int] = []
        self._undo: list[list[tuple[dict[Any, int], Any, int | None]]] = []
        """A list a frame: where, which key, what stood there."""

    def next_block(self, mix: bytes | None = None) -> None:
        """The next height, with a mix of its own and fresh gas; logs of earlier blocks stay."""
        self.height += 1
        self.mix = mix if mix is not None else keccak(b"mix" + self.height.to_bytes(8, "big"))
        self.gas_used = 0

    @property
    def gas_left(self) -> int:
        return min([self.gas_limit, *self._limits]) - self.gas_used

    def get(self, account: bytes, slot: int) -> int:
        assert 0 <= slot < 2**256
        return self.storage.get((account, slot), 0)

    def set(self, account: bytes, slot: int, value: int) -> None:
        self._refuse_in_view()
        assert len(account) == 20
        assert 0 <= slot < 2**256
        assert 0 <= value < 2**256
        self._note(self.storage, (account, slot))
        if value:
            self.storage[account, slot] = value
        else:
            self.storage.pop((account, slot), None)

    def balance(self, account: bytes) -> int:
        return self.balances.get(account, 0)

    def transfer(self, source: bytes, target: bytes, wei: int) -> None:
        self._take(source, wei)
        self._give(target, wei)

    def mint(self, target: bytes, wei: int) -> None:
        self._refuse_in_view()
        self._give(target, wei)
        self.minted += wei

    def burn(self, source: bytes, wei: int) -> None:
        self._take(source, wei)
        self.burned += wei

    def log(self, account: bytes, topics: Sequence[int], data: bytes) -> None:
        self._refuse_in_view()
        self.logs.append((account, tuple(topics), data))

    def call_out(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, int]:
        """There is no EVM here: `contracts` says of a target whether it succeeds and what gas it takes."""
        self.charge(gas, "call")
        succeeded, used = self.contracts.get(target, (False, 0))
        self.gas_used -= gas - used
        self.calls.append((sender, target, data, gas))
        return succeeded, used

    def call_static(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, bytes]:
        """Run code of `codes` in an EVM of its own: a pure function of its data."""
        self.charge(gas, "call")
        succeeded, output, used = pure_evm.run(self.codes.get(target, b""), data, gas)
        self.gas_used -= gas - used
        return succeeded, output

    def charge(self, gas: int, what: str) -> None:
        if gas > self.gas_left:
            raise OutOfGas(what, gas, self.gas_left)
        self.gas_used += gas

    @contextmanager
    def frame(self, gas_max: int | None = None) -> Iterator[None]:
        undo: list[tuple[dict[Any, int], Any, int | None]] = []
        self._undo.append(undo)
        logged, totals = len(self.logs), (self.minted, self.burned)
        if gas_max is not None:
            self._limits.append(self.gas_used + gas_max)
        try:
            yield
        except BaseException:
            for written, key, before in reversed(undo):
                if before is None:
                    written.pop(key, None)
                else:
                    written[key] = before
            undo.clear()
            self.minted, self.burned = totals
            del self.logs[logged:]
            raise
        finally:
            self._undo.pop()
            if self._undo:
                self._undo[-1].extend(undo)
            if gas_max is not None:
                self._limits.pop()

    def call(self, handlers, function, *arguments, sender: bytes, value: int = 0):
        """Call a method as the dispatcher does: value moved first, everything undone when it is refused.

        handlers: a module's HANDLERS. Gives the outputs as a tuple (a single one alone).
        """
        with self.frame():
            if value:
                self.transfer(sender, function.account, value)
            result = handlers[function](self, Call(sender, value), *arguments) or ()
            function.encode_result(result)
        return result[0] if len(result) == 1 else result

    def events(self, event=None) -> list[dict]:
        """Logs so far, decoded: {"event": name, parameter: value, ...}; of one event, or of all."""
        decoded = []
        for account, topics, data in self.logs:
            found = EVENTS[topics[0].to_bytes(32, "big")]
            assert found.account == account
            if event is None or found is event:
                values = found.decode([topic.to_bytes(32, "big") for topic in topics], data)
                decoded.append({"event": found.name, **values})
        return decoded

    def total_balance(self) -> int:
        """Sum of all balances."""
        return sum(self.balances.values())

    def _take(self, source: bytes, wei: int) -> None:
        self._refuse_in_view()
        assert wei >= 0
        if self.balance(source) < wei:
            raise Refused("insufficient_balance", f"0x{source.hex()} holds {self.balance(source)} wei, not {wei}")
        self._note(self.balances, source)
        self.balances[source] = self.balance(source) - wei

    def _give(self, target: bytes, wei: int) -> None:
        self._note(self.balances, target)
        self.balances[target] = self.balance(target) + wei

    def _note(self, written: dict[Any, int], key: Any) -> None:
        """What a frame that fails puts back."""
        if self._undo:
            self._undo[-1].append((written, key, written.get(key)))

    def _refuse_in_view(self) -> None:
        if self.read_only:
            raise Refused("read_only", "a static call may not write")
