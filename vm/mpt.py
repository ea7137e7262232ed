"""Merkle-Patricia tries (yellow paper, appendix D): build one at once, read one node by node, prove what it holds.

Nodes live in a mapping from keccak to bytes that others own. Every node read is hashed again, so that a damaged disk
shows as CorruptState and never as another value. Knows nothing of executing transactions.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from primitives import rlp
from primitives.hashing import EMPTY_KECCAK, EMPTY_TRIE_ROOT, keccak

NIBBLES = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))
DIGITS = bytes.maketrans(bytes(range(16)), b"0123456789abcdef")


class CorruptState(RuntimeError):
    """The state on disk is not what its hashes say: nothing can be executed on it."""


class MissingNode(CorruptState):
    """A node or code that the state needs is not in the database (pruned, or lost)."""

    def __init__(self, node_hash: bytes) -> None:
        super().__init__(f"the state database lacks {node_hash.hex()}")
        self.node_hash = node_hash


@dataclass(frozen=True)
class StorageProof:
    """A slot's value and the nodes from the storage root to it."""

    slot: int
    value: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True)
class AccountProof:
    """What eth_getProof returns (EIP-1186); an absent account has zeros and the hashes of empty things."""

    address: bytes
    nonce: int
    balance: int
    storage_root: bytes
    code_hash: bytes
    proof: tuple[bytes, ...]
    storage: tuple[StorageProof, ...]


def read(db: Mapping[bytes, bytes], key: bytes) -> bytes:
    """The preimage of a keccak. Raises MissingNode, CorruptState."""
    try:
        value = db[key]
    except KeyError:
        raise MissingNode(key) from None
    return verified(key, value)


def verified(key: bytes, value: bytes) -> bytes:
    """`value`, which is the preimage of `key`. Raises CorruptState when it is not."""
    if keccak(value) != key:
        raise CorruptState(f"the state database holds {value[:64].hex()} ({len(value)} bytes) under {key.hex()}")
    return value


def get(db: Mapping[bytes, bytes], root: bytes, key: bytes) -> bytes | None:
    """The value under `key` (plain bytes, hashed by the caller where the trie is a secure one), or None."""
    return _walk(db, root, key, None)


def prove(db: Mapping[bytes, bytes], root: bytes, key: bytes) -> tuple[bytes | None, tuple[bytes, ...]]:
    """The value under `key` and the encoded nodes on the way to it, root first (embedded nodes are in their parent)."""
    path: list[bytes] = []
    value = _walk(db, root, key, path)
    return value, tuple(path)


def build(pairs: Iterable[tuple[bytes, bytes]], sink: MutableMapping[bytes, bytes] | None = None) -> bytes:
    """Root of the trie holding the pairs (distinct keys, no empty value); its nodes are added to `sink` if given."""
    ordered = sorted((nibbles_of(key), value) for key, value in pairs)
    if not ordered:
        return EMPTY_TRIE_ROOT
    keys, values = [key for key, _ in ordered], [value for _, value in ordered]
    assert all(values) and all(a != b for a, b in pairwise(keys))
    encoded = rlp.encode(_node(keys, values, 0, len(keys), 0, sink))
    root = keccak(encoded)
    if sink is not None:
        sink[root] = encoded
    return root


def ordered_trie_root(items: Sequence[bytes]) -> bytes:
    """Root of the trie from rlp(index) to item: the roots of transactions and receipts."""
    return build((rlp.encode(rlp.from_uint(index)), item) for index, item in enumerate(items))


def decode_account(encoded: bytes | None) -> tuple[int, int, bytes, bytes]:
    """(nonce, balance, storage root, code hash) of an account's trie value; None is the absent account."""
    if encoded is None:
        return 0, 0, EMPTY_TRIE_ROOT, EMPTY_KECCAK
    try:
        nonce, balance, storage_root, code_hash = rlp.decode_list(encoded, 4)
        return rlp.as_uint(nonce, 64), rlp.as_uint(balance), rlp.as_bytes(storage_root, 32), rlp.as_bytes(code_hash, 32)
    except rlp.RLPError as error:
        raise CorruptState(f"not an account: {encoded.hex()} ({error})") from error


def encode_account(nonce: int, balance: int, storage_root: bytes, code_hash: bytes) -> bytes:
    """Inverse of decode_account."""
    return rlp.encode([rlp.from_uint(nonce), rlp.from_uint(balance), storage_root, code_hash])


@lru_cache(maxsize=1 << 15)
def storage_key(slot: int) -> bytes:
    """Key of a slot in its account's storage trie."""
    return keccak(slot.to_bytes(32, "big"))


def decode_slot(encoded: bytes | None) -> int:
    """Value of a storage trie's leaf; None is the empty slot."""
    if encoded is None:
        return 0
    try:
        return rlp.as_uint(rlp.decode(encoded))
    except rlp.RLPError as error:
        raise CorruptState(f"not a storage value: {encoded.hex()} ({error})") from error


def prove_account(db: Mapping[bytes, bytes], root: bytes, address: bytes, slots: Sequence[int]) -> AccountProof:
    """The account, the slots, and the nodes that prove both (or their absence). Raises CorruptState."""
    encoded, path = prove(db, root, keccak(address))
    nonce, balance, storage_root, code_hash = decode_account(encoded)
    storage = []
    for slot in slots:
        value, slot_path = prove(db, storage_root, storage_key(slot))
        storage.append(StorageProof(slot, decode_slot(value), slot_path))
    return AccountProof(address, nonce, balance, storage_root, code_hash, path, tuple(storage))


def nibbles_of(key: bytes) -> bytes:
    """Two nibbles a byte."""
    return key.hex().encode("ascii").translate(NIBBLES)


def compact(path: bytes, leaf: bool) -> bytes:
    """Hex-prefix encoding of a path of nibbles."""
    flag = 2 if leaf else 0
    if len(path) % 2:
        padded = bytes((flag + 1,)) + path
    else:
        padded = bytes((flag, 0)) + path
    return bytes.fromhex(padded.translate(DIGITS).decode("ascii"))


def _node(
    keys: list[bytes], values: list[bytes], low: int, high: int, depth: int, sink: MutableMapping[bytes, bytes] | None
) -> list[rlp.Item]:
    """The node over keys[low:high] (sorted, equal up to depth)."""
    first = keys[low]
    if high - low == 1:
        return [compact(first[depth:], True), values[low]]
    last = keys[high - 1]
    fork = depth
    while fork < len(first) and first[fork] == last[fork]:
        fork += 1
    if fork > depth:
        return [compact(first[depth:fork], False), _reference(_node(keys, values, low, high, fork, sink), sink)]
    branch: list[rlp.Item] = [b""] * 17
    if len(first) == depth:
        branch[16] = values[low]
        low += 1
    while low < high:
        nibble = keys[low][depth]
        end = low + 1
        while end < high and keys[end][depth] == nibble:
            end += 1
        branch[nibble] = _reference(_node(keys, values, low, end, depth + 1, sink), sink)
        low = end
    return branch


def _reference(node: list[rlp.Item], sink: MutableMapping[bytes, bytes] | None) -> rlp.Item:
    """How a parent names a child: the child itself when shorter than a hash."""
    encoded = rlp.encode(node)
    if len(encoded) < 32:
        return node
    digest = keccak(encoded)
    if sink is not None:
        sink[digest] = encoded
    return digest


def _walk(db: Mapping[bytes, bytes], root: bytes, key: bytes, path: list[bytes] | None) -> bytes | None:
    if root == EMPTY_TRIE_ROOT:
        return None
    nibbles, at = nibbles_of(key), 0
    reference: rlp.Item = root
    while True:
        if isinstance(reference, bytes):
            if not reference:
                return None
            encoded = read(db, reference)
            if path is not None:
                path.append(encoded)
            try:
                node = rlp.decode_list(encoded)
            except rlp.RLPError as error:
                raise CorruptState(f"not a trie node: {encoded.hex()} ({error})") from error
        else:
            node = list(reference)
        if len(node) == 17:
            if at == len(nibbles):
                return rlp.as_bytes(node[16]) or None
            reference = node[nibbles[at]]
            at += 1
            continue
        if len(node) != 2:
            raise CorruptState(f"a trie node of {len(node)} items")
        prefix = nibbles_of(rlp.as_bytes(node[0]))
        part = prefix[1:] if prefix[0] & 1 else prefix[2:]
        if nibbles[at : at + len(part)] != part:
            return None
        at += len(part)
        if prefix[0] & 2:
            return rlp.as_bytes(node[1]) if at == len(nibbles) else None
        reference = node[1]
