"""A Merkle-Patricia trie that is read and changed node by node in memory and hashed once, when its root is asked for.

What mpt.get, mpt.build and py-evm's own trie say in other ways, byte for byte: a node is decoded once, the nodes of a
path stay decoded while the trie lives, and those that changed are encoded only at the end. Where nodes come from and
go to is the caller's. Knows nothing of accounts, and trusts that what it is given was verified against its hash.
"""

from collections.abc import Callable

from primitives import rlp
from primitives.hashing import EMPTY_TRIE_ROOT, keccak
from vm.mpt import CorruptState, compact, nibbles_of

HASH_BYTES = 32
BRANCH_ITEMS, SHORT_ITEMS = 17, 2
LEAF_FLAG, ODD_FLAG = 2, 1


class _Branch:
    """reference: how a parent names the node, a hash or the node itself when that is shorter; None once changed."""

    __slots__ = ("children", "reference", "value")

    def __init__(self, children: "list[_Link]", value: bytes, reference: "rlp.Item | None" = None) -> None:
        self.children, self.value, self.reference = children, value, reference


class _Leaf:
    __slots__ = ("path", "reference", "value")

    def __init__(self, path: bytes, value: bytes, reference: "rlp.Item | None" = None) -> None:
        self.path, self.value, self.reference = path, value, reference


class _Extension:
    __slots__ = ("child", "path", "reference")

    def __init__(self, path: bytes, child: "_Link", reference: "rlp.Item | None" = None) -> None:
        self.path, self.child, self.reference = path, child, reference


_Node = _Branch | _Leaf | _Extension
_Link = _Node | bytes | None
"""A node, the hash of one that was not needed yet, or nothing."""


class Trie:
    """Keys are what the caller hashed; an absent value is empty and an empty value is absent.

    load: hash to the bytes of a node (raises what the caller wants to see raised); store: takes (hash, bytes) of every
    changed node when the root is computed. One thread at a time changes it; several may read.
    """

    def __init__(
        self,
        load: Callable[[bytes], bytes],
        store: Callable[[bytes, bytes], None] | None = None,
        root: bytes = EMPTY_TRIE_ROOT,
    ) -> None:
        self._load, self._store = load, store
        self._root: _Link = None if root == EMPTY_TRIE_ROOT else root
        self._root_hash: bytes | None = root

    def get(self, key: bytes) -> bytes:
        """The value under a key. Raises CorruptState and what load raises."""
        path, at = nibbles_of(key), 0
        if isinstance(self._root, bytes):
            self._root = self._loaded(self._root)
        node = self._root
        while node is not None:
            if isinstance(node, _Branch):
                if at == len(path):
                    return node.value
                child = node.children[path[at]]
                if isinstance(child, bytes):
                    child = node.children[path[at]] = self._loaded(child)
                node = child
                at += 1
            elif isinstance(node, _Leaf):
                return node.value if path[at:] == node.path else b""
            else:
                if not path.startswith(node.path, at):
                    return b""
                if isinstance(node.child, bytes):
                    node.child = self._loaded(node.child)
                at += len(node.path)
                node = node.child
        return b""

    def set(self, key: bytes, value: bytes) -> None:
        """Put a value under a key; an empty one removes it. Raises CorruptState and what load raises."""
        if not value:
            self.delete(key)
            return
        self._root = self._put(self._root, nibbles_of(key), value)
        self._root_hash = None

    def delete(self, key: bytes) -> None:
        """Remove a key, if it is there. Raises CorruptState and what load raises."""
        self._root = self._removed(self._root, nibbles_of(key))
        self._root_hash = None

    @property
    def root_hash(self) -> bytes:
        """Root; changed nodes are encoded and stored now."""
        if self._root_hash is None:
            self._root_hash = self._hash_root()
        return self._root_hash

    def share(self, store: Callable[[bytes, bytes], None], load: Callable[[bytes], bytes]) -> "Trie":
        """The same trie with the nodes that it holds, to be changed: this one must not be used any more."""
        other = Trie(load, store)
        other._root, other._root_hash = self._root, self._root_hash
        return other

    def _hash_root(self) -> bytes:
        root = self._root
        if root is None:
            return EMPTY_TRIE_ROOT
        reference = self._reference(root)
        if isinstance(reference, bytes):
            return reference
        encoded = rlp.encode(reference)  # a root is hashed however short it is
        digest = keccak(encoded)
        self._save(digest, encoded)
        return digest

    def _save(self, digest: bytes, encoded: bytes) -> None:
        assert self._store is not None, "a trie that is only read was changed"
        self._store(digest, encoded)

    def _loaded(self, digest: bytes) -> _Node:
        try:
            return _node_of(rlp.decode_list(self._load(digest)), digest)
        except rlp.RLPError as error:
            raise CorruptState(f"under {digest.hex()} is no trie node: {error}") from error

    def _resolved(self, link: _Node | bytes) -> _Node:
        return self._loaded(link) if isinstance(link, bytes) else link

    def _put(self, link: _Link, path: bytes, value: bytes) -> _Node:
        """The node that stands in link's place once the value is under path."""
        if link is None:
            return _Leaf(path, value)
        node = self._resolved(link)
        if isinstance(node, _Branch):
            if path:
                node.children[path[0]] = self._put(node.children[path[0]], path[1:], value)
            else:
                node.value = value
            node.reference = None
            return node
        shared = _shared(node.path, path)
        if isinstance(node, _Leaf):
            if node.path == path:
                node.value, node.reference = value, None
                return node
            fork = _Branch([None] * 16, b"")
            _hang(fork, node.path[shared:], node.value)
        else:
            if shared == len(node.path):
                node.child = self._put(node.child, path[shared:], value)
                node.reference = None
                return node
            fork = _Branch([None] * 16, b"")
            rest = node.path[shared:]
            fork.children[rest[0]] = node.child if len(rest) == 1 else _Extension(rest[1:], node.child)
        _hang(fork, path[shared:], value)
        return fork if shared == 0 else _Extension(path[:shared], fork)

    def _removed(self, link: _Link, path: bytes) -> _Node | None:
        """The node that stands in link's place without path; one with its reference when nothing was there."""
        if link is None:
            return None
        node = self._resolved(link)
        if isinstance(node, _Leaf):
            return None if node.path == path else node
        if isinstance(node, _Extension):
            if not path.startswith(node.path):
                return node
            child = self._removed(node.child, path[len(node.path) :])
            assert child is not None, "an extension leads to a branch, and a branch holds two things"
            if child.reference is None:
                return _prefixed(node.path, child)
            node.child = child
            return node
        if path:
            below = node.children[path[0]]
            if below is None:
                return node
            node.children[path[0]] = left = self._removed(below, path[1:])
            if left is not None:
                if left.reference is None:
                    node.reference = None
                return node
        elif not node.value:
            return node
        else:
            node.value = b""
        node.reference = None
        return self._folded(node)

    def _folded(self, node: _Branch) -> _Node:
        """A branch that lost something, as a shorter node when one thing is left."""
        used = [nibble for nibble, child in enumerate(node.children) if child is not None]
        if len(used) + bool(node.value) > 1:
            return node
        if not used:
            return _Leaf(b"", node.value)
        child = node.children[used[0]]
        assert child is not None
        return _prefixed(bytes(used), self._resolved(child))

    def _reference(self, link: _Link) -> rlp.Item:
        if link is None:
            return b""
        if isinstance(link, bytes):
            return link
        if link.reference is None:
            if isinstance(link, _Branch):
                item: list[rlp.Item] = [*map(self._reference, link.children), link.value]
            elif isinstance(link, _Leaf):
                item = [compact(link.path, True), link.value]
            else:
                item = [compact(link.path, False), self._reference(link.child)]
            encoded = rlp.encode(item)
            if len(encoded) < HASH_BYTES:
                link.reference = item
            else:
                digest = keccak(encoded)
                self._save(digest, encoded)
                link.reference = digest
        return link.reference


def _node_of(items: list[rlp.Item], reference: rlp.Item) -> _Node:
    """Raises RLPError, CorruptState."""
    if len(items) == BRANCH_ITEMS:
        return _Branch([_link_of(item) for item in items[:16]], rlp.as_bytes(items[16]), reference)
    if len(items) != SHORT_ITEMS:
        raise CorruptState(f"a trie node of {len(items)} items")
    prefix = nibbles_of(rlp.as_bytes(items[0]))
    if not prefix:
        raise CorruptState("a trie node without a path")
    path = prefix[1:] if prefix[0] & ODD_FLAG else prefix[2:]
    if prefix[0] & LEAF_FLAG:
        return _Leaf(path, rlp.as_bytes(items[1]), reference)
    return _Extension(path, _link_of(items[1]), reference)


def _link_of(item: rlp.Item) -> _Link:
    if isinstance(item, bytes):
        return item or None
    return _node_of(list(item), item)


def _shared(a: bytes, b: bytes) -> int:
    """How many nibbles two paths begin with alike."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _hang(branch: _Branch, path: bytes, value: bytes) -> None:
    """A value into a new branch."""
    if path:
        branch.children[path[0]] = _Leaf(path[1:], value)
    else:
        branch.value = value


def _prefixed(path: bytes, node: _Node) -> _Node:
    """A node below a path that nothing else shares."""
    if isinstance(node, _Branch):
        return _Extension(path, node)
    if isinstance(node, _Leaf):
        return _Leaf(path + node.path, node.value)
    return _Extension(path + node.path, node.child)
