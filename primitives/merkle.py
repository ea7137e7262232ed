"""Binary keccak Merkle trees (RFC 6962 prefixes): leaf 0x00, node 0x01, an odd node is promoted unchanged.

Below, a digest is the hash of a leaf; `root` takes the leaves' bytes, the other functions take digests.
"""

from collections.abc import Sequence

from primitives.hashing import EMPTY_KECCAK, keccak

PART_BYTES = 64 * 1024
TOKENS_CHUNK = 256


def root(leaves: Sequence[bytes]) -> bytes:
    """Root over the leaves' bytes; of none: keccak of nothing."""
    return root_of([digest(leaf) for leaf in leaves]) if leaves else EMPTY_KECCAK


def digest(leaf: bytes) -> bytes:
    """Hash of one leaf."""
    return keccak(b"\x00" + leaf)


def node(left: bytes, right: bytes) -> bytes:
    """Hash over two digests."""
    return keccak(b"\x01" + left + right)


def root_of(digests: Sequence[bytes]) -> bytes:
    """Root over at least one digest."""
    return levels(digests)[-1][0]


def levels(digests: Sequence[bytes]) -> list[list[bytes]]:
    """Every level of the tree over at least one digest, from the digests themselves up to the root alone."""
    tree = [list(digests)]
    while len(level := tree[-1]) > 1:
        paired = [node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        tree.append(paired)
    return tree


def path(tree: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """The siblings that lead from digest `index` of a tree (`levels`) to its root, lowest first; none where an odd
    node is promoted."""
    siblings = []
    for level in tree[:-1]:
        if index ^ 1 < len(level):
            siblings.append(level[index ^ 1])
        index //= 2
    return siblings


def root_by_path(found: bytes, index: int, count: int, siblings: Sequence[bytes]) -> bytes | None:
    """The root that a digest at `index` of `count` and its path lead to; None when the path has not the length that
    index and count ask for."""
    remaining = list(reversed(siblings))
    while count > 1:
        if index ^ 1 < count:
            if not remaining:
                return None
            sibling = remaining.pop()
            found = node(sibling, found) if index % 2 else node(found, sibling)
        index //= 2
        count = (count + 1) // 2
    return None if remaining else found


def parts_root(body: bytes) -> bytes:
    """Root over the 64 KiB parts of a block's wire body."""
    return root([body[i : i + PART_BYTES] for i in range(0, len(body), PART_BYTES)])


def tokens_root(tokens: Sequence[int]) -> bytes:
    """Token hash: root over chunks of 256 token ids, each id four bytes big-endian."""
    packed = pack_tokens(tokens)
    return root([packed[i : i + 4 * TOKENS_CHUNK] for i in range(0, len(packed), 4 * TOKENS_CHUNK)])


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as u32 big-endian, one after the other."""
    return b"".join(token.to_bytes(4, "big") for token in tokens)


def unpack_tokens(data: bytes) -> tuple[int, ...]:
    """Inverse of pack_tokens. Raises ValueError when the length is no multiple of four."""
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes of tokens are no multiple of 4")
    return tuple(int.from_bytes(data[i : i + 4], "big") for i in range(0, len(data), 4))
