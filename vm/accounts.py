"""Accounts and their storage as a block changes them: what py-evm's State asks of its account database.

Owns the values read and written so far, the journal that takes writes back, what is warm in a transaction (EIP-2929),
transient storage (EIP-1153), and the roots at the end. Nodes come decoded from vm.trie; new ones are handed out. Knows
neither blocks nor fees.
"""

from typing import Any

from primitives import rlp
from primitives.hashing import EMPTY_KECCAK, EMPTY_TRIE_ROOT, keccak
from vm import mpt
from vm.trie import Nodes, Trie

WORD = 1 << 256
NONCE_MAX = 2**64 - 1

Account = tuple[int, int, bytes, bytes]
"""(nonce, balance in wei, storage root at the last root of the state, code hash)."""
EMPTY_ACCOUNT: Account = (0, 0, EMPTY_TRIE_ROOT, EMPTY_KECCAK)
_ABSENT: Any = object()


class _Storage:
    """Slots of one account. slots: as they are now; stored: of those that were written, what the trie still says;
    original: of those written in this transaction, what they were before it."""

    __slots__ = ("original", "slots", "stored", "trie")

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.slots: dict[int, int] = {}
        self.stored: dict[int, int] = {}
        self.original: dict[int, int] = {}

    def get(self, slot: int) -> int:
        value = self.slots.get(slot)
        if value is None:
            value = self.slots[slot] = mpt.decode_slot(self.trie.get(mpt.storage_key(slot)) or None)
        return value

    def root(self) -> bytes:
        for slot, before in self.stored.items():
            value = self.slots[slot]
            if value != before:
                self.trie.set(mpt.storage_key(slot), rlp.encode(rlp.from_uint(value)) if value else b"")
        self.stored.clear()
        return self.trie.root_hash


class Accounts:
    """One state, changed in place. written: where new nodes and codes go, for the caller to keep.

    Any node that is not there raises MissingNode, one that is not what its hash says CorruptState.
    """

    def __init__(self, nodes: Nodes, written: dict[bytes, bytes], state_root: bytes = EMPTY_TRIE_ROOT) -> None:
        self._nodes, self._written = nodes, written
        self._trie = Trie(nodes, written.__setitem__, state_root)
        self._accounts: dict[bytes, Account | None] = {}
        self._stored: dict[bytes, Account | None] = {}
        """Of the accounts that were written: what the trie still says."""
        self._storages: dict[bytes, _Storage] = {}
        self._codes: dict[bytes, bytes] = {}
        self._new_codes: dict[bytes, bytes] = {}
        self._warm: dict[Any, bool] = {}
        self._transient: dict[tuple[bytes, int], bytes] = {}
        self._journal: list[tuple[dict[Any, Any], Any, Any]] = []
        """Which mapping, which key, what stood there (_ABSENT: nothing): undone from the end."""

    # The journal

    def record(self) -> int:
        """A place to go back to, until lock_changes."""
        return len(self._journal)

    def discard(self, place: int) -> None:
        """Undo everything since a place."""
        journal = self._journal
        while len(journal) > place:
            mapping, key, before = journal.pop()
            if before is _ABSENT:
                del mapping[key]
            else:
                mapping[key] = before

    def lock_changes(self) -> None:
        """A transaction is over: nothing before this is undone any more, nothing is warm."""
        self._journal.clear()
        self._warm.clear()
        for storage in self._storages.values():
            storage.original.clear()

    def _put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        self._journal.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    # Storage

    def get_storage(self, address: bytes, slot: int, from_journal: bool = True) -> int:
        """A word; what it was before this transaction if not from_journal."""
        storage = self._storages.get(address) or self._storage(address)
        if not from_journal and slot in storage.original:
            return storage.original[slot]
        value = storage.slots.get(slot)
        return storage.get(slot) if value is None else value

    def set_storage(self, address: bytes, slot: int, value: int) -> None:
        """Write a word."""
        assert 0 <= value < WORD, value
        storage = self._storages.get(address) or self._storage(address)
        before = storage.get(slot)
        if before != value:
            storage.stored.setdefault(slot, before)
            storage.original.setdefault(slot, before)
            self._journal.append((storage.slots, slot, before))
            storage.slots[slot] = value

    def delete_storage(self, address: bytes) -> None:
        """Zero every word."""
        self._storage(address)
        self._put(self._storages, address, _Storage(Trie(self._nodes, self._written.__setitem__)))

    def storage_root(self, address: bytes) -> bytes:
        """Root of an account's storage when the state's root was last made."""
        account = self._account(address)
        return account[2] if account else EMPTY_TRIE_ROOT

    def _storage(self, address: bytes) -> _Storage:
        storage = self._storages.get(address)
        if storage is None:
            trie = Trie(self._nodes, self._written.__setitem__, self.storage_root(address))
            storage = self._storages[address] = _Storage(trie)
        return storage

    # Accounts

    def get_balance(self, address: bytes) -> int:
        """Wei."""
        account = self._account(address)
        return account[1] if account else 0

    def set_balance(self, address: bytes, balance: int) -> None:
        """Wei."""
        assert 0 <= balance < WORD, (address, balance)
        nonce, _, root, code = self._account(address) or EMPTY_ACCOUNT
        self._set(address, (nonce, balance, root, code))

    def get_nonce(self, address: bytes) -> int:
        """Transactions sent (or contracts created, plus one, for a contract)."""
        account = self._account(address)
        return account[0] if account else 0

    def set_nonce(self, address: bytes, nonce: int) -> None:
        """At most 2^64 - 1 (EIP-2681)."""
        assert 0 <= nonce <= NONCE_MAX, (address, nonce)
        _, balance, root, code = self._account(address) or EMPTY_ACCOUNT
        self._set(address, (nonce, balance, root, code))

    def increment_nonce(self, address: bytes) -> None:
        """One more."""
        self.set_nonce(address, self.get_nonce(address) + 1)

    def get_code_hash(self, address: bytes) -> bytes:
        """keccak of the code; that of nothing for an account without code or an absent one."""
        account = self._account(address)
        return account[3] if account else EMPTY_KECCAK

    def get_code(self, address: bytes) -> bytes:
        """The code."""
        digest = self.get_code_hash(address)
        if digest == EMPTY_KECCAK:
            return b""
        code = self._new_codes.get(digest)
        if code is None:
            code = self._codes.get(digest)
        if code is None:
            code = self._codes[digest] = mpt.read(self._nodes, digest)
        return code

    def set_code(self, address: bytes, code: bytes) -> None:
        """Give an account code."""
        digest = keccak(code)
        if code and digest not in self._new_codes:
            self._put(self._new_codes, digest, code)
        nonce, balance, root, _ = self._account(address) or EMPTY_ACCOUNT
        self._set(address, (nonce, balance, root, digest))

    def delete_code(self, address: bytes) -> None:
        """Take it away."""
        nonce, balance, root, _ = self._account(address) or EMPTY_ACCOUNT
        self._set(address, (nonce, balance, root, EMPTY_KECCAK))

    def account_exists(self, address: bytes) -> bool:
        """Whether it is in the state, empty or not."""
        return self._account(address) is not None

    def account_has_code_or_nonce(self, address: bytes) -> bool:
        """Whether something was done with it that money alone does not do."""
        account = self._account(address)
        return account is not None and (account[0] != 0 or account[3] != EMPTY_KECCAK)

    def account_is_empty(self, address: bytes) -> bool:
        """As EIP-161 says it: no nonce, no balance, no code."""
        account = self._account(address)
        return account is None or (account[0] == 0 and account[1] == 0 and account[3] == EMPTY_KECCAK)

    def touch_account(self, address: bytes) -> None:
        """Make sure that it exists."""
        self._set(address, self._account(address) or EMPTY_ACCOUNT)

    def delete_account(self, address: bytes) -> None:
        """Out of the state, its storage with it."""
        self.delete_storage(address)
        self._set(address, None)

    def _account(self, address: bytes) -> Account | None:
        try:
            return self._accounts[address]
        except KeyError:
            encoded = self._trie.get(keccak(address))
            account = self._accounts[address] = mpt.decode_account(encoded) if encoded else None
            return account

    def _set(self, address: bytes, account: Account | None) -> None:
        before = self._account(address)
        if before != account:
            self._stored.setdefault(address, before)
            self._journal.append((self._accounts, address, before))
            self._accounts[address] = account

    # What lives for one transaction

    def is_address_warm(self, address: bytes) -> bool:
        """Whether this transaction looked at an account before."""
        return address in self._warm

    def mark_address_warm(self, address: bytes) -> None:
        """It did."""
        if address not in self._warm:
            self._put(self._warm, address, True)

    def is_storage_warm(self, address: bytes, slot: int) -> bool:
        """Whether this transaction looked at a slot before."""
        return (address, slot) in self._warm

    def mark_storage_warm(self, address: bytes, slot: int) -> None:
        """It did."""
        if (address, slot) not in self._warm:
            self._put(self._warm, (address, slot), True)

    def get_transient(self, address: bytes, slot: int) -> bytes:
        """A word that this transaction keeps; empty when it was not set."""
        return self._transient.get((address, slot), b"")

    def set_transient(self, address: bytes, slot: int, value: bytes) -> None:
        """Keep it until the transaction ends."""
        self._put(self._transient, (address, slot), value)

    def clear_transient(self) -> None:
        """The transaction ended."""
        self._transient = {}

    # Roots

    @property
    def state_root(self) -> bytes:
        """Root as it was made last."""
        return self._trie.root_hash

    def make_state_root(self) -> bytes:
        """Root of the state as it stands; nothing before it is undone any more."""
        self.lock_changes()
        for address, storage in self._storages.items():
            root = storage.root()
            if root != self.storage_root(address):
                nonce, balance, _, code = self._account(address) or EMPTY_ACCOUNT
                self._set(address, (nonce, balance, root, code))
        for address, before in self._stored.items():
            account = self._accounts[address]
            if account != before:
                self._trie.set(keccak(address), mpt.encode_account(*account) if account else b"")
        self._stored.clear()
        self._journal.clear()
        return self._trie.root_hash

    def persist(self) -> None:
        """Make the root, and hand out every new node and code."""
        self.make_state_root()
        self._written.update(self._new_codes)
        self._new_codes.clear()
