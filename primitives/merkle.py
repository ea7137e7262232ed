"""Binary keccak Merkle trees (RFC 6962 prefixes): leaf 0x00, node 0x01, an odd node is promoted unchanged."""

from collections.abc import Sequence

from primitives.hashing import EMPTY_KECCAK, keccak

PART_BYTES = 64 * 1024
TOKENS_CHUNK = 256


def root(leaves: Sequence[bytes]) -> bytes:
    """Root over the leaves' bytes; of none: keccak of nothing."""
    if not leaves:
        return EMPTY_KECCAK
    level = [keccak(b"\x00" + leaf) for leaf in leaves]
    while len(level) > 1:
        paired = [keccak(b"\x01" + level[i] + level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


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
