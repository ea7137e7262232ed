"""The state between blocks (StateReader) and within one (py-evm's State and Computation of Prague, subclassed).

The one place that says how accounts are held, journaled and hashed into a root. What is written stays in an overlay
until the caller stores it; the mapping that it is given is only read. Knows neither blocks nor fees.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

from eth.abc import ComputationAPI, MessageAPI, StateAPI, TransactionContextAPI
from eth.db.backends.base import BaseAtomicDB
from eth.exceptions import Halt
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.forks.prague.opcodes import PRAGUE_OPCODES
from eth.vm.forks.prague.state import PragueState
from eth.vm.interrupt import MissingBytecode
from eth.vm.logic.invalid import InvalidOpcode
from eth.vm.opcode_values import SELFDESTRUCT
from trie.exceptions import MissingTrieNode

from primitives.address import HISTORY_STORAGE
from primitives.hashing import EMPTY_KECCAK, EMPTY_TRIE_ROOT, keccak
from primitives.params import ChainParams
from vm import mpt
from vm.mpt import CorruptState, MissingNode
from vm.precompiles import native_precompiles
from vm.system import dispatch

__all__ = ["CorruptState", "MissingNode", "Overlay", "State", "StateReader", "open_state", "state_class"]

HISTORY_WINDOW = 8_191
"""EIP-2935: slots of the contract that keeps parent hashes."""
BLOCKHASH_WINDOW = 256
RIPEMD160 = (3).to_bytes(20, "big")


class StateReader:
    """One state, read only; accounts that were read are remembered. Raises CorruptState."""

    def __init__(self, db: Mapping[bytes, bytes], root: bytes) -> None:
        self.db = db
        self.root = root
        self._accounts: dict[bytes, tuple[int, int, bytes, bytes] | None] = {}

    def exists(self, address: bytes) -> bool:
        """Whether the account is in the trie."""
        return self._account(address) is not None

    def balance(self, address: bytes) -> int:
        """Wei."""
        account = self._account(address)
        return account[1] if account else 0

    def nonce(self, address: bytes) -> int:
        """Transactions sent (or contracts created, plus one, for a contract)."""
        account = self._account(address)
        return account[0] if account else 0

    def code_hash(self, address: bytes) -> bytes:
        """keccak of the code; that of nothing for an account without code or an absent one."""
        account = self._account(address)
        return account[3] if account else EMPTY_KECCAK

    def code(self, address: bytes) -> bytes:
        """The account's code."""
        digest = self.code_hash(address)
        return b"" if digest == EMPTY_KECCAK else mpt.read(self.db, digest)

    def storage_root(self, address: bytes) -> bytes:
        """Root of the account's storage trie."""
        account = self._account(address)
        return account[2] if account else EMPTY_TRIE_ROOT

    def storage(self, address: bytes, slot: int) -> int:
        """Value of a slot."""
        root = self.storage_root(address)
        return 0 if root == EMPTY_TRIE_ROOT else mpt.decode_slot(mpt.get(self.db, root, mpt.storage_key(slot)))

    def _account(self, address: bytes) -> tuple[int, int, bytes, bytes] | None:
        if address not in self._accounts:
            encoded = mpt.get(self.db, self.root, keccak(address))
            self._accounts[address] = None if encoded is None else mpt.decode_account(encoded)
        return self._accounts[address]


class Overlay(BaseAtomicDB):
    """The given mapping, verified as it is read, under the nodes and codes written since."""

    def __init__(self, db: Mapping[bytes, bytes]) -> None:
        self._db = db
        self.written: dict[bytes, bytes] = {}

    def __getitem__(self, key: bytes) -> bytes:
        written = self.written.get(key)
        return mpt.verified(key, self._db[key]) if written is None else written

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.written[key] = value

    def __delitem__(self, key: bytes) -> None:
        self.written.pop(key, None)

    def _exists(self, key: bytes) -> bool:
        return key in self.written or key in self._db

    @contextmanager
    def atomic_batch(self) -> Iterator["Overlay"]:
        """Nothing is on disk yet, so that there is nothing to make atomic."""
        yield self


@contextmanager
def missing_data_named() -> Iterator[None]:
    """Raises MissingNode for what py-evm and trie raise, each with its own type, when the database lacks something."""
    try:
        yield
    except MissingTrieNode as error:
        raise MissingNode(error.missing_node_hash) from error
    except MissingBytecode as error:
        raise MissingNode(error.missing_code_hash) from error


class Computation(PragueComputation):
    """One message call. What finished children leave (logs, refunds, deletions) is folded into the parent at once."""

    opcodes: ClassVar[dict[int, Any]] = {
        **PRAGUE_OPCODES,
        # Without py-evm's wrapper, which prints a deprecation warning whenever a contract uses it.
        SELFDESTRUCT: PRAGUE_OPCODES[SELFDESTRUCT].__wrapped__,
    }

    def __init__(
        self, state: StateAPI, message: MessageAPI, transaction_context: TransactionContextAPI
    ) -> None:
        super().__init__(state, message, transaction_context)
        self.contracts_created: list[bytes] = []
        self.folded_deletions: set[bytes] = set()
        self.folded_touched: set[bytes] = set()
        self.failed_touch_of_ripemd160 = False

    @classmethod
    def apply_computation(
        cls,
        state: StateAPI,
        message: MessageAPI,
        transaction_context: TransactionContextAPI,
        parent_computation: ComputationAPI | None = None,
    ) -> ComputationAPI:
        """Run the message's code, or its precompile.

        Differs from py-evm in three points: a message through an EIP-7702 delegation always runs the target's code
        (empty for Ethereum's precompiles, the 0xfe stub for ours: refused at every depth); the price of init code is
        in the intrinsic gas or the opcode, never charged here again; no debug output.
        """
        with cls(state, message, transaction_context) as computation:
            if parent_computation is not None:
                computation.contracts_created = parent_computation.contracts_created
            if message.is_create:
                computation.contracts_created.append(message.storage_address)
            precompile = None if message.is_delegation else cls._precompiles.get(message.code_address)
            if precompile is not None and not message.is_create:
                precompile(computation)
            else:
                _interpret(computation)
        return computation

    def add_child_computation(self, child_computation: ComputationAPI) -> None:
        """Keep what outlives the child, not the child: a loop of calls must not fill the memory with dead frames."""
        child: Any = child_computation
        super().add_child_computation(child)
        self.children.clear()
        if child.is_error:
            self.failed_touch_of_ripemd160 |= child.failed_touch_of_ripemd160 or RIPEMD160 in child.touched()
            return
        self.failed_touch_of_ripemd160 |= child.failed_touch_of_ripemd160
        self._log_entries.extend(child._log_entries)
        self._gas_meter.gas_refunded += child._gas_meter.gas_refunded
        self.folded_deletions |= child.folded_deletions.union(child.accounts_to_delete)
        self.folded_touched |= child.touched()

    def touched(self) -> set[bytes]:
        """Accounts that EIP-161 may have to clear."""
        own = self.folded_touched.union(self.beneficiaries)
        return own if self.msg.is_create else own | {self.msg.to}

    def get_accounts_for_deletion(self) -> list[bytes]:
        """Contracts created and destroyed in this transaction (EIP-6780), in address order."""
        return [] if self.is_error else sorted(self.folded_deletions.union(self.accounts_to_delete))

    def touched_in_the_end(self) -> set[bytes]:
        """As touched, after success or failure (EIP-716: a failed touch of 0x03 counts, by an old mistake)."""
        if self.is_error:
            lost = self.failed_touch_of_ripemd160 or RIPEMD160 in self.touched()
            return {RIPEMD160} if lost else set()
        return self.touched() | ({RIPEMD160} if self.failed_touch_of_ripemd160 else set())


def _interpret(computation: Any) -> None:
    opcodes = computation.opcodes
    for opcode in computation.code:
        try:
            operation = opcodes[opcode]
        except KeyError:
            operation = InvalidOpcode(opcode)
        try:
            operation(computation=computation)
        except Halt:
            return


class State(PragueState):
    """py-evm's Prague state with this chain's rules where they differ."""

    computation_class = Computation

    def set_system_contracts(self) -> None:
        """Genesis installs what this chain has; a state that is opened is not changed."""

    def delta_balance(self, address: bytes, delta: int) -> None:
        """Moving nothing creates no account."""
        if delta:
            super().delta_balance(address, delta)

    def has_code_or_nonce(self, address: bytes) -> bool:
        """Whether nothing may be created here (EIP-684; EIP-7610 adds storage)."""
        return super().has_code_or_nonce(address) or self._account_db._get_storage_root(address) != EMPTY_TRIE_ROOT

    def get_ancestor_hash(self, block_number: int) -> bytes:
        """BLOCKHASH, from the history that EIP-2935 keeps in the state."""
        if not 0 < self.block_number - block_number <= BLOCKHASH_WINDOW:
            return b""
        return self.get_storage(HISTORY_STORAGE, block_number % HISTORY_WINDOW).to_bytes(32, "big")


@cache
def state_class(params: ChainParams, genesis_hash: bytes) -> type[State]:
    """State with the system precompiles of one chain and native code where py-evm's is slow."""
    table: dict[bytes, Callable[[Any], Any]] = {
        **Computation.get_precompiles(),
        **native_precompiles(),
        **dispatch.precompiles(params, genesis_hash),
    }
    computation = type("ChainComputation", (Computation,), {"_precompiles": table})
    return type("ChainState", (State,), {"computation_class": computation})


def open_state(
    kind: type[State], overlay: Overlay, root: bytes, *, params: ChainParams, number: int, timestamp: int,
    coinbase: bytes, mix_hash: bytes, base_fee_per_gas: int,
) -> State:  # fmt: skip
    """A state of that kind at `root`, as seen from within one block. Raises MissingNode when the root is not there."""
    if root != EMPTY_TRIE_ROOT and root not in overlay:
        raise MissingNode(root)
    context = ExecutionContext(
        coinbase, timestamp, number, 0, mix_hash, params.block_gas_limit, (), params.chain_id, base_fee_per_gas, 0
    )
    return kind(overlay, context, root)
