"""The state between blocks (StateReader) and within one (py-evm's State and Computation of Prague, subclassed).

The one place that says how accounts are held, journaled and hashed into a root. What is written stays in an overlay
until the caller stores it; the mapping that it is given is only read. Knows neither blocks nor fees.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, ClassVar

from eth.abc import ComputationAPI, MessageAPI, StateAPI, TransactionContextAPI
from eth.db.accesslog import KeyAccessLoggerDB
from eth.db.account import AccountDB as PyEvmAccountDB
from eth.db.backends.base import BaseAtomicDB, BaseDB
from eth.db.batch import BatchDB
from eth.db.cache import CacheDB
from eth.db.journal import JournalDB
from eth.db.storage import AccountStorageDB, StorageLookup
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
from vm.trie import Trie

__all__ = ["CorruptState", "MissingNode", "Overlay", "State", "StateReader", "open_state", "state_class"]

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
        self._accounts: dict[bytes, tuple[int, int, bytes, bytes] | None] = {}
        self._trie = Trie(partial(mpt.read, db), root=root)
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
            trie = self._storage[address] = Trie(partial(mpt.read, self.db), root=self.storage_root(address))
        return mpt.decode_slot(trie.get(mpt.storage_key(slot)) or None)

    def _account(self, address: bytes) -> tuple[int, int, bytes, bytes] | None:
        if address not in self._accounts:
            encoded = self._trie.get(keccak(address))
            self._accounts[address] = mpt.decode_account(encoded) if encoded else None
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


class AccountTrie(BaseDB):
    """Accounts by the hash of their address, as py-evm's HashTrie over its HexaryTrie: absent is empty."""

    def __init__(self, nodes: BatchDB, root: bytes) -> None:
        self._nodes = nodes
        self._trie = Trie(_reader(nodes), nodes.__setitem__, root)

    @property
    def root_hash(self) -> bytes:
        return self._trie.root_hash

    @root_hash.setter
    def root_hash(self, root: bytes) -> None:
        self._trie = Trie(_reader(self._nodes), self._nodes.__setitem__, root)

    def __getitem__(self, address: bytes) -> bytes:
        return self._trie.get(keccak(address))

    def __setitem__(self, address: bytes, account: bytes) -> None:
        self._trie.set(keccak(address), account)

    def __delitem__(self, address: bytes) -> None:
        self._trie.delete(keccak(address))

    def _exists(self, address: bytes) -> bool:
        return bool(self[address])

    @contextmanager
    def squash_changes(self) -> Iterator["AccountTrie"]:
        """Nothing is hashed until the root is asked for; a failure ends the block's execution."""
        yield self


class SlotTrie(StorageLookup):
    """One account's storage over one Trie, read and then written, where py-evm makes a trie for every read."""

    _write_trie: "_Slots | None"
    _reading: tuple[bytes, Trie] | None = None

    def _get_read_trie(self) -> "_Slots":
        if self._write_trie is not None:
            return self._write_trie
        root = self._starting_root_hash
        if self._reading is None or self._reading[0] != root:
            self._reading = (root, Trie(_reader(self._db), None, root))
        return _Slots(self._reading[1])

    def _get_write_trie(self) -> "_Slots":
        if self._write_trie is None:
            read = self._get_read_trie().trie
            self._reading = None
            self._trie_nodes_batch = BatchDB(self._db, read_through_deletes=True)
            self._write_trie = _Slots(read.share(self._trie_nodes_batch.__setitem__, _reader(self._trie_nodes_batch)))
        return self._write_trie

    def commit_to(self, db: Any) -> None:
        """The nodes exist once the root is computed."""
        assert self._write_trie is not None and self._write_trie.root_hash
        super().commit_to(db)


class _Slots:
    """A Trie with the face that StorageLookup knows."""

    __slots__ = ("trie",)

    def __init__(self, trie: Trie) -> None:
        self.trie = trie

    @property
    def root_hash(self) -> bytes:
        return self.trie.root_hash

    def __getitem__(self, key: bytes) -> bytes:
        return self.trie.get(key)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.trie.set(key, value)

    def __delitem__(self, key: bytes) -> None:
        self.trie.delete(key)

    def __contains__(self, key: bytes) -> bool:
        return bool(self.trie.get(key))


def _reader(db: Any) -> Callable[[bytes], bytes]:
    """Nodes of a py-evm database. Raises MissingNode."""

    def read(digest: bytes) -> bytes:
        try:
            return bytes(db[digest])
        except KeyError:
            raise MissingNode(digest) from None

    return read


class AccountDB(PyEvmAccountDB):
    """py-evm's journal and caches over this package's trie: its own takes three quarters of a block's time, and keeps
    the nodes of old blocks alive in a cache of the class."""

    def __init__(self, db: Any, state_root: bytes = EMPTY_TRIE_ROOT) -> None:
        super().__init__(db, state_root)
        self._trie = AccountTrie(self._batchtrie, state_root)
        self._trie_logger = KeyAccessLoggerDB(self._trie, log_missing_keys=False)
        self._trie_cache = CacheDB(self._trie_logger)
        self._journaltrie = JournalDB(self._trie_cache)

    def _get_address_store(self, address: Any) -> Any:
        if address not in self._account_stores:
            root = self._get_storage_root(address)
            store = AccountStorageDB(self._raw_store_db, root, address)
            store._storage_lookup = SlotTrie(self._raw_store_db, root, address)
            store._storage_cache._db = store._storage_lookup
            self._account_stores[address] = store
        return self._account_stores[address]


class State(PragueState):
    """py-evm's Prague state with this chain's rules where they differ."""

    computation_class = Computation
    account_db_class = AccountDB

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
