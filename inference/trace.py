"""The trace of one execution: Merkle root T over what a model computed, keyed so that it cannot be known before the
work is done. Owns leaf and node hashing; knows no arithmetic.

Leaves in order: one per (position, layer group), position by position, or, where every position depends on all others
(not causal), group by group; then for each generated token the logits it was drawn from and the token itself, or the
vector that answers, or each score. leaf = sha256(0x00 | domain | trace key | index u64 big-endian | payload),
node = sha256(0x01 | left | right), an odd node is promoted. Domains are 16 bytes, zero-padded; the index counts within
its domain (position * groups + group; the generated token's or the score's number; 0), so that leaves can be hashed
while generating. A payload of more than 4,096 bytes is hashed as its root: that of the same tree over piece =
sha256(0x02 | 4,096 bytes), so that a dispute can open a part of it.
"""

import hashlib
from collections.abc import Iterable, Sequence

from inference.program import PIECE_BYTES

STATE_DOMAIN = b"labora/state".ljust(16, b"\0")
LOGITS_DOMAIN = b"labora/logits".ljust(16, b"\0")
TOKEN_DOMAIN = b"labora/token".ljust(16, b"\0")
VECTOR_DOMAIN = b"labora/vector".ljust(16, b"\0")
KEY_BYTES = 32


class Trace:
    """Collects leaves in any chunking and gives T. One per execution."""

    def __init__(self, key: bytes, groups: int, causal: bool = True) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"trace key of {len(key)} bytes, must be {KEY_BYTES}")
        self._groups, self._causal = groups, causal
        self._state, self._logits, self._token, self._vector = (
            hashlib.sha256(b"\0" + domain + key)
            for domain in (STATE_DOMAIN, LOGITS_DOMAIN, TOKEN_DOMAIN, VECTOR_DOMAIN)
        )
        self._states: list[list[bytes]] = [[] for _ in range(groups)]
        self._outputs: list[bytes] = []

    def add_states(self, group: int, payloads: Iterable[bytes | memoryview]) -> None:
        """The payloads of one group at the next positions, in order: wide outputs and K, V tiles, little-endian."""
        leaves = self._states[group]
        for payload in payloads:
            leaves.append(_leaf(self._state, len(leaves) * self._groups + group, payload))

    def add_output(self, logits: bytes, token: int) -> None:
        """The next generated token and the int64 little-endian logits that it was drawn from."""
        index = len(self._outputs) // 2
        self._outputs.append(_leaf(self._logits, index, logits))
        self._outputs.append(_leaf(self._token, index, token.to_bytes(4, "little")))

    def add_vector(self, payload: bytes) -> None:
        """The vector that answers, or the next score, int32 little-endian: the last leaves."""
        self._outputs.append(_leaf(self._vector, len(self._outputs), payload))

    def leaves(self) -> list[bytes]:
        """All leaf hashes in order. Every group must have seen the same number of positions."""
        assert len({len(group) for group in self._states}) == 1, "a group's states are missing"
        ordered = zip(*self._states, strict=True) if self._causal else self._states
        return [leaf for leaves in ordered for leaf in leaves] + self._outputs

    def root(self) -> bytes:
        """T over everything added so far."""
        return root(self.leaves())


class Record(Trace):
    """A trace that keeps what it hashes, for a dispute."""

    def __init__(self, key: bytes, groups: int, causal: bool = True) -> None:
        super().__init__(key, groups, causal)
        self.states: list[list[bytes]] = [[] for _ in range(groups)]
        """Payloads by group and position."""
        self.logits: list[bytes] = []
        self.vectors: list[bytes] = []
        self.size_bytes = 0

    def add_states(self, group: int, payloads: Iterable[bytes | memoryview]) -> None:
        """As a trace."""
        kept = [bytes(payload) for payload in payloads]
        self.states[group] += kept
        self.size_bytes += sum(map(len, kept))
        super().add_states(group, kept)

    def add_output(self, logits: bytes, token: int) -> None:
        """As a trace."""
        self.logits.append(logits)
        self.size_bytes += len(logits)
        super().add_output(logits, token)

    def add_vector(self, payload: bytes) -> None:
        """As a trace."""
        self.vectors.append(payload)
        super().add_vector(payload)


def root(leaves: Sequence[bytes]) -> bytes:
    """Merkle root over leaf hashes, or a payload's pieces (at least one)."""
    assert leaves, "a tree has at least one leaf"
    level = list(leaves)
    while len(level) > 1:
        paired = [hashlib.sha256(b"\1" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def pieces(payload: bytes | memoryview) -> list[bytes]:
    """Hashes of a payload's pieces of 4 KiB."""
    return [
        hashlib.sha256(b"\2" + payload[begin : begin + PIECE_BYTES]).digest()
        for begin in range(0, len(payload), PIECE_BYTES)
    ]


def _leaf(prefix: "hashlib._Hash", index: int, payload: bytes | memoryview) -> bytes:
    hasher = prefix.copy()
    hasher.update(index.to_bytes(8, "big"))
    hasher.update(payload if len(payload) <= PIECE_BYTES else root(pieces(payload)))
    return hasher.digest()
