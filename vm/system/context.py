"""The window through which the system's rules see a chain: storage, balances, logs, gas, and the block they run in.

Every module of vm.system is written against SystemContext and knows nothing of py-evm. Three implementations: evm.py
(over a py-evm computation, journalled), views.py (read only, over a committed state) and a dict-backed one for tests.

What the rules may rely on:

- `get` and `set` are free of gas: work is charged by `charge` in the fixed amounts of gas.py, before it is done.
- An amount that an account does not hold, a write in a read-only call or a broken rule raises `Refused`; running out of
  gas raises `OutOfGas`. Nothing else leaves a rule: anything else is our bug and halts the node.
- `frame` runs one item whose failure must not undo its neighbours: if an exception leaves it, storage, balances and
  logs are as they were when it began; gas stays spent.
- No iteration order may depend on anything but addresses, sequence numbers and heights.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from primitives.params import ChainParams


class Refused(Exception):
    """A caller or an item broke a rule. `code` is a stable snake_case word (WorkRefused, ItemFailed); `text` is prose.

    A method call that ends in it reverts with Error(string) carrying the text.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class OutOfGas(Exception):
    """A charge was above what remains (or above a frame's own limit)."""

    def __init__(self, what: str, gas: int, left: int) -> None:
        super().__init__(f"{what} needs {gas} gas, {left} remain")
        self.what = what


@dataclass(frozen=True)
class Call:
    """One call of a method of a system account: who called, what wei came with it (already moved to the account)."""

    sender: bytes
    value: int


class SystemContext(Protocol):
    """State, journal and block of one execution. Addresses are 20 bytes, words are integers below 2^256."""

    @property
    def params(self) -> ChainParams:
        """Parameters of the chain."""

    @property
    def genesis_hash(self) -> bytes:
        """Hash of block 0: what signatures and proofs are bound to."""

    @property
    def height(self) -> int:
        """Number of the block being executed; in a view: of the block whose state is read, plus one."""

    @property
    def timestamp(self) -> int:
        """Seconds of the block being executed: by these the hours of operators are told."""

    @property
    def mix(self) -> bytes:
        """mix_hash of the block being executed (32 bytes): the beacon's value that its draws use."""

    @property
    def base_fee(self) -> int:
        """Base fee of the block, wei a gas."""

    @property
    def gas_left(self) -> int:
        """Gas that may still be charged (within the frame's limit, if there is one)."""

    def get(self, account: bytes, slot: int) -> int:
        """Word of an account's storage; 0 when never written."""

    def set(self, account: bytes, slot: int, value: int) -> None:
        """Write a word. Raises Refused("read_only") in a view."""

    def balance(self, account: bytes) -> int:
        """Wei of an account."""

    def transfer(self, source: bytes, target: bytes, wei: int) -> None:
        """Move wei; runs no code. Raises Refused("insufficient_balance")."""

    def mint(self, target: bytes, wei: int) -> None:
        """Create wei. Only ledger.mint calls it, which keeps the totals."""

    def burn(self, source: bytes, wei: int) -> None:
        """Destroy wei. Only ledger.burn calls it. Raises Refused("insufficient_balance")."""

    def log(self, account: bytes, topics: Sequence[int], data: bytes) -> None:
        """Append a log entry of an account. Modules call abi.emit."""

    def call_out(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, int]:
        """Run another account's code with so much gas, no value, from `sender`: (whether it ended well, gas used).

        The gas is charged. What the code did is undone if it failed; nothing that it returns is read. Only the Courier.
        """

    def call_static(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, bytes]:
        """Ask another account's code, which can write nothing, with so much gas: (whether it ended well, what it gave).

        The gas is charged, what is left of it given back. Only the Referee, of the second one.
        """

    def charge(self, gas: int, what: str) -> None:
        """Spend gas for what comes next. Raises OutOfGas, nothing spent of this charge."""

    def frame(self, gas_max: int | None = None) -> AbstractContextManager[None]:
        """Run one item; an exception that leaves the block rolls storage, balances and logs back and is re-raised.

        gas_max: the item may charge at most this much (OutOfGas otherwise).
        """


class ReadContext(Protocol):
    """The part of SystemContext that views need."""

    @property
    def params(self) -> ChainParams:
        """Parameters of the chain."""

    @property
    def height(self) -> int:
        """Number of the next block."""

    def get(self, account: bytes, slot: int) -> int:
        """Word of an account's storage."""

    def balance(self, account: bytes) -> int:
        """Wei of an account."""
