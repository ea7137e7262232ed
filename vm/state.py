"""The state between blocks (StateReader) and within one (py-evm's State and Computation of Prague, subclassed).

How accounts are held, journaled and hashed is vm.accounts'; this file puts that in the place of py-evm's own. What is
written stays in the state until the caller stores it; the mapping that it is given is only read. Knows neither blocks
nor fees.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

from eth.abc import ComputationAPI, MessageAPI, StateAPI, TransactionContextAPI
from eth.exceptions import Halt
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.forks.prague.opcodes import PRAGUE_OPCODES
from eth.vm.forks.prague.state import PragueState
from eth.vm.logic.invalid import InvalidOpcode
from eth.vm.opcode_values import SELFDESTRUCT

from primitives.address import HISTORY_STORAGE
from primitives.hashing import EMPTY_KECCAK, EMPTY_TRIE_ROOT, keccak
from primitives.params import ChainParams
from vm import mpt
from vm.accounts import Accounts
from vm.mpt import CorruptState, MissingNode
from vm.precompiles import native_precompiles
from vm.system import dispatch
from vm.trie import Nodes, Trie

__all__ = ["CorruptState", "MissingNode", "State", "StateReader", "open_state", "state_class"]

HISTORY_WINDOW = 8_191
"""EIP-2935: slots of the contract that keeps parent hashes."""
BLOCKHASH_WINDOW = 256
RIPEMD160 = (3).to_bytes(20, "big")


class StateReader:
    """One state, read only; what was read is remembered, so that it lives no longer than a question or a block.

    Raises CorruptState.
    """

    def __init__(self, db: Mapping[bytes, bytes], root: bytes) -> None:
        self.db = db
        self.root = root
        self._nodes = Nodes.of(db)
        self._accounts: dict[bytes, tuple[int, int, bytes, bytes] | None] = {}
        self._trie = Trie(self._nodes, root=root)
        self._storage: dict[bytes, Trie] = {}

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
        trie = self._storage.get(address)
        if trie is None:
            trie = self._storage[address] = Trie(self._nodes, root=self.storage_root(address))
        return mpt.decode_slot(trie.get(mpt.storage_key(slot)) or None)

    def _account(self, address: bytes) -> tuple[int, int, bytes, bytes] | None:
        if address not in self._accounts:
            encoded = self._trie.get(keccak(address))
            self._accounts[address] = mpt.decode_account(encoded) if encoded else None
        return self._accounts[address]


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

    def __init__(self, nodes: Nodes, execution_context: ExecutionContext, root: bytes) -> None:
        self.written: dict[bytes, bytes] = {}
        """New nodes and codes, once persisted."""
        self.execution_context = execution_context
        self._account_db = Accounts(nodes, self.written, root)

    def snapshot(self) -> int:
        return self._account_db.record()

    def revert(self, snapshot: int) -> None:
        self._account_db.discard(snapshot)

    def commit(self, snapshot: int) -> None:
        """What was written stays in the journal of whoever is above."""

    def get_transient_storage(self, address: bytes, slot: int) -> bytes:
        return self._account_db.get_transient(address, slot)

    def set_transient_storage(self, address: bytes, slot: int, value: bytes) -> None:
        self._account_db.set_transient(address, slot, value)

    def clear_transient_storage(self) -> None:
        self._account_db.clear_transient()

    def delta_balance(self, address: bytes, delta: int) -> None:
        """Moving nothing creates no account."""
        if delta:
            super().delta_balance(address, delta)

    def has_code_or_nonce(self, address: bytes) -> bool:
        """Whether nothing may be created here (EIP-684; EIP-7610 adds storage)."""
        return super().has_code_or_nonce(address) or self._account_db.storage_root(address) != EMPTY_TRIE_ROOT

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
    kind: type[State], db: Mapping[bytes, bytes], root: bytes, *, params: ChainParams, number: int, timestamp: int,
    coinbase: bytes, mix_hash: bytes, base_fee_per_gas: int,
) -> State:  # fmt: skip
    """A state of that kind at `root`, as seen from within one block. Raises MissingNode when the root is not there."""
    if root != EMPTY_TRIE_ROOT and root not in db:
        raise MissingNode(root)
    context = ExecutionContext(
        coinbase, timestamp, number, 0, mix_hash, params.block_gas_limit, (), params.chain_id, base_fee_per_gas, 0
    )
    return kind(Nodes.of(db), context, root)
