"""A Merkle-Patricia trie that is read and changed node by node in memory and hashed once, when its root is asked for.

What mpt.get, mpt.build and py-evm's own trie say in other ways, byte for byte. Decoded nodes are kept by hash beside
the database that holds them (Nodes), so that a block finds decoded what the blocks before it touched; a trie copies a
node before it changes it, and encodes what changed only at the end. Where nodes go to is the caller's. Knows nothing
of accounts.
"""

from collections.abc import Callable, Iterator, Mapping

from primitives import rlp
from primitives.hashing import EMPTY_TRIE_ROOT, keccak
from vm import mpt
from vm.mpt import CorruptState, compact, nibbles_of

HASH_BYTES = 32
BRANCH_ITEMS, SHORT_ITEMS = 17, 2
LEAF_FLAG, ODD_FLAG = 2, 1
EMPTY_STRING, HASH_LEAD, SHORT_STRING_MAX, BYTE_LENGTH = 0x80, 0xA0, 0xB7, 0xB8
LONG_LIST, LIST_LENGTH = b"\xf8", 0xF7
"""First bytes of RLP's strings (empty, of 32 bytes, up to 55, longer) and of its lists above 55 bytes."""
DECODED_MAX = 32_768
"""Decoded nodes of one generation; there are two. A leaf takes some 300 bytes, a full branch 1.5 KiB: some 40 MB."""


class _Branch:
    """reference: how a parent names the node, a hash or the node itself when that is shorter; None while it changes.
    With a reference it belongs to everybody and is changed no more; its children are then named by their hashes."""

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


class Nodes(Mapping[bytes, bytes]):
    """A database of nodes by hash, with the decoded ones that were used last. Each is hashed once, when it is read.

    Two generations: what is used moves to the younger one, and when that is full the older one goes. Several threads
    may use it: what one loses of another's is only decoded again.
    """

    def __init__(self, db: Mapping[bytes, bytes]) -> None:
        self._db = db
        self._young: dict[bytes, _Node] = {}
        self._old: dict[bytes, _Node] = {}

    @classmethod
    def of(cls, db: Mapping[bytes, bytes]) -> "Nodes":
        """The database itself if it is one, else a new one over it."""
        return db if isinstance(db, Nodes) else cls(db)

    def node(self, digest: bytes) -> _Node:
        """A node, not to be changed. Raises CorruptState, MissingNode."""
        found = self._young.get(digest)
        if found is None:
            found = self._old.get(digest)
            if found is None:
                found = _decoded(mpt.read(self._db, digest), digest)
            self.keep(digest, found)
        return found

    def keep(self, digest: bytes, node: _Node) -> None:
        """Remember a node that will be changed no more."""
        if len(self._young) >= DECODED_MAX:
            self._old, self._young = self._young, {}
        self._young[digest] = node

    def __getitem__(self, digest: bytes) -> bytes:
        return self._db[digest]

    def __contains__(self, digest: object) -> bool:
        return digest in self._db

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._db)

    def __len__(self) -> int:
        return len(self._db)


class Trie:
    """Keys are what the caller hashed; an absent value is empty and an empty value is absent.

    store: takes (hash, bytes) of every changed node when the root is computed. One thread at a time changes it;
    several may read.
    """

    def __init__(
        self,
        nodes: Nodes,
        store: Callable[[bytes, bytes], None] | None = None,
        root: bytes = EMPTY_TRIE_ROOT,
    ) -> None:
        self._nodes, self._store = nodes, store
        self._root: _Link = None if root == EMPTY_TRIE_ROOT else root
        self._root_hash: bytes | None = root

    def get(self, key: bytes) -> bytes:
        """The value under a key. Raises CorruptState, MissingNode."""
        path, at = nibbles_of(key), 0
        node = self._root
        while node is not None:
            if isinstance(node, bytes):
                node = self._nodes.node(node)
            if isinstance(node, _Branch):
                if at == len(path):
                    return node.value
                node = node.children[path[at]]
                at += 1
            elif isinstance(node, _Leaf):
                return node.value if path[at:] == node.path else b""
            else:
                if not path.startswith(node.path, at):
                    return b""
                at += len(node.path)
                node = node.child
        return b""

    def set(self, key: bytes, value: bytes) -> None:
        """Put a value under a key; an empty one removes it. Raises CorruptState, MissingNode."""
        if not value:
            self.delete(key)
            return
        self._root = self._put(self._root, nibbles_of(key), value)
        self._root_hash = None

    def delete(self, key: bytes) -> None:
        """Remove a key, if it is there. Raises CorruptState, MissingNode."""
        self._root = self._removed(self._root, nibbles_of(key))
        self._root_hash = None

    @property
    def root_hash(self) -> bytes:
        """Root; changed nodes are encoded and stored now."""
        if self._root_hash is None:
            self._root_hash = self._hash_root()
        return self._root_hash

    def _hash_root(self) -> bytes:
        root = self._root
        if root is None:
            return EMPTY_TRIE_ROOT
        reference = self._reference(root)
        if isinstance(reference, bytes):
            self._root = reference
            return reference
        encoded = rlp.encode(reference)  # a root is hashed however short it is
        digest = keccak(encoded)
        self._save(digest, encoded)
        return digest

    def _save(self, digest: bytes, encoded: bytes) -> None:
        assert self._store is not None, "a trie that is only read was changed"
        self._store(digest, encoded)

    def _resolved(self, link: _Node | bytes) -> _Node:
        return self._nodes.node(link) if isinstance(link, bytes) else link

    def _put(self, link: _Link, path: bytes, value: bytes) -> _Node:
        """The node that stands in link's place once the value is under path."""
        if link is None:
            return _Leaf(path, value)
        node = self._resolved(link)
        if isinstance(node, _Branch):
            node = _own(node)
            if path:
                node.children[path[0]] = self._put(node.children[path[0]], path[1:], value)
            else:
                node.value = value
            return node
        shared = _shared(node.path, path)
        if isinstance(node, _Leaf):
            if node.path == path:
                return _Leaf(path, value)
            fork = _Branch([None] * 16, b"")
            _hang(fork, node.path[shared:], node.value)
        else:
            if shared == len(node.path):
                return _Extension(node.path, self._put(node.child, path[shared:], value))
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
            return node if child.reference is not None else _prefixed(node.path, child)
        if path:
            left = self._removed(node.children[path[0]], path[1:])
            if left is not None:
                if left.reference is None:
                    node = _own(node)
                    node.children[path[0]] = left
                return node
            if node.children[path[0]] is None:
                return node
            node = _own(node)
            node.children[path[0]] = None
        elif not node.value:
            return node
        else:
            node = _own(node)
            node.value = b""
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
                items: list[rlp.Item] = []
                for nibble, child in enumerate(link.children):
                    reference = self._reference(child)
                    items.append(reference)
                    if child is not None and isinstance(reference, bytes):
                        link.children[nibble] = reference
                item: list[rlp.Item] = [*items, link.value]
            elif isinstance(link, _Leaf):
                item = [compact(link.path, True), link.value]
            else:
                reference = self._reference(link.child)
                if isinstance(reference, bytes):
                    link.child = reference
                item = [compact(link.path, False), reference]
            encoded = rlp.encode(item)
            if len(encoded) < HASH_BYTES:
                link.reference = item
            else:
                digest = keccak(encoded)
                self._save(digest, encoded)
                link.reference = digest
                self._nodes.keep(digest, link)
        return link.reference


def _decoded(data: bytes, digest: bytes) -> _Node:
    """A node from its bytes. Raises CorruptState."""
    try:
        found = _plain(data, digest)
        return found or _node_of(rlp.decode_list(data), digest)
    except rlp.RLPError as error:
        raise CorruptState(f"under {digest.hex()} is no trie node: {error}") from error


def _plain(data: bytes, digest: bytes) -> _Node | None:
    """A branch that names its children by hashes, or a leaf, read where it lies: nearly all nodes are such, and this
    takes a fifth of the time. None for any other node."""
    at = 1 if data[:1] < LONG_LIST else 1 + data[0] - LIST_LENGTH
    try:
        start, path_end = _string(data, at)
        value_start, end = _string(data, path_end)
        if end == len(data):
            prefix = nibbles_of(data[start:path_end])
            if not prefix or not prefix[0] & LEAF_FLAG:
                return None
            return _Leaf(prefix[1:] if prefix[0] & ODD_FLAG else prefix[2:], data[value_start:end], digest)
        children: list[_Link] = []
        for _ in range(16):
            lead = data[at]
            if lead == HASH_LEAD:
                children.append(data[at + 1 : at + 33])
                at += 33
            elif lead == EMPTY_STRING:
                children.append(None)
                at += 1
            else:
                return None
        return _Branch(children, b"", digest) if data[at:] == b"\x80" else None
    except IndexError:
        return None


def _string(data: bytes, at: int) -> tuple[int, int]:
    """Where the RLP string that begins at a place lies; no place that fits for anything else. Raises IndexError."""
    lead = data[at]
    if lead < EMPTY_STRING:
        return at, at + 1
    if lead <= SHORT_STRING_MAX:
        return at + 1, at + 1 + lead - EMPTY_STRING
    if lead == BYTE_LENGTH:
        return at + 2, at + 2 + data[at + 1]
    return at, len(data) + 1


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


def _own(branch: _Branch) -> _Branch:
    """The branch if it is being changed already, else a copy to change."""
    return branch if branch.reference is None else _Branch(list(branch.children), branch.value)


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
