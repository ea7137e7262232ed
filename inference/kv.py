"""Which pages of a bounded pool hold the keys and values of which sequence, and what goes into and comes out of one
pass of an executor. Owns allocation, reference counts and the numbers of pages; the executors own the bytes.

    pool of pages, each PAGE positions of every layer; a sequence is a list of pages and a length; a full page never
    changes again, so that sequences with one beginning share it. What a page holds: int8 heads, a u16 and a u8 a head.

Knows no array library.
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, NamedTuple

from inference.program import Shape

PAGE = 64  # positions
POOL_BYTES_DEFAULT = 1 << 30  # where nobody says how much, and never more than two contexts
SCALE_BYTES = 3  # of one head of one position: its mantissa u16, its bit length u8


class PoolExhausted(RuntimeError):
    """The pool has fewer free pages than were asked for. Nothing was taken; free a sequence or build a larger pool."""


class Pool:
    """Pages 0 .. pages - 1, each free or held by one or more sequences. `copy_page(source, target, positions)` copies
    the first positions of a page's bytes."""

    def __init__(self, pages: int, copy_page: Callable[[int, int, int], None]) -> None:
        if pages < 1:
            raise ValueError(f"a pool of {pages} pages, must be at least 1")
        self.pages = pages
        self._holders = [0] * pages
        self._free = list(range(pages - 1, -1, -1))
        self._copy_page = copy_page

    @property
    def pages_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` free pages, held once. Raises PoolExhausted."""
        if count > len(self._free):
            raise PoolExhausted(f"{count} pages of {PAGE} positions asked for, {len(self._free)} of {self.pages} free")
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._holders[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """One more holder of each."""
        for page in pages:
            assert self._holders[page] > 0, "only held pages are shared"
            self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One holder less of each; the last one frees it."""
        for page in pages:
            self._holders[page] -= 1
            assert self._holders[page] >= 0, "a page is freed twice"
            if self._holders[page] == 0:
                self._free.append(page)

    def copy_page(self, source: int, target: int, positions: int) -> None:
        """Copy the first positions of a page."""
        self._copy_page(source, target, positions)


class Sequence:
    """The handle of one sequence: `length` positions, in pages of a pool. Free it when done."""

    def __init__(self, pool: Pool, capacity: int = 0) -> None:
        self.length = 0
        self._pool = pool
        self._pages: list[int] | None = pool.take(pages_of(capacity))

    @property
    def pages(self) -> list[int]:
        """Its pages, in order of positions."""
        assert self._pages is not None, "the sequence was freed"
        return self._pages

    def missing_pages(self, positions: int) -> int:
        """Pages that appending so many positions would take from the pool."""
        return max(0, pages_of(self.length + positions) - len(self.pages))

    def extend(self, positions: int) -> int:
        """Make room for more positions and count them in; returns the first one's number. Raises PoolExhausted."""
        self.pages.extend(self._pool.take(self.missing_pages(positions)))
        start, self.length = self.length, self.length + positions
        return start

    def fork(self, positions: int) -> "Sequence":
        """A sequence with the same first positions: full pages are shared, a part of a page is copied. Raises
        PoolExhausted."""
        assert 0 <= positions <= self.length, f"fork at {positions} of {self.length} positions"
        full, part = divmod(positions, PAGE)
        child = Sequence(self._pool, part)
        child.length = positions
        if part:
            self._pool.copy_page(self.pages[full], child.pages[0], part)
        shared = self.pages[:full]
        self._pool.share(shared)
        child.pages[:0] = shared
        return child

    def free(self) -> None:
        """Give the pages back. The handle is of no use afterwards."""
        self._pool.release(self.pages)
        self._pages = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens to append to one sequence in a pass, and from which of them on logits are wanted (len: none)."""

    sequence: Sequence
    tokens: Items[int]
    logits_from: int


class Fed(NamedTuple):
    """What a pass gives for one segment: int64 logits [rows wanted, vocabulary] and for each layer group the trace
    payloads, uint8 [tokens, bytes]. numpy arrays."""

    logits: Any
    payloads: list[Any]


def extend_all(pool: Pool, segments: Items[Segment]) -> list[int]:
    """Extend every segment's sequence, or none: the first new position of each. Raises PoolExhausted."""
    assert len({id(segment.sequence) for segment in segments}) == len(segments), "a sequence comes twice in a pass"
    missing = sum(segment.sequence.missing_pages(len(segment.tokens)) for segment in segments)
    if missing > pool.pages_free:
        raise PoolExhausted(f"{missing} pages of {PAGE} positions asked for, {pool.pages_free} of {pool.pages} free")
    return [segment.sequence.extend(len(segment.tokens)) for segment in segments]


def pages_of(positions: int) -> int:
    """Pages that hold so many positions."""
    return -(-positions // PAGE)


def page_bytes(shape: Shape) -> int:
    """Bytes of one page over all layers."""
    return shape.layers * 2 * shape.kv_heads * PAGE * (shape.head_width + SCALE_BYTES)


def default_pages(shape: Shape) -> int:
    """Two contexts, but no more than POOL_BYTES_DEFAULT of pages and at least one."""
    return max(1, min(2 * pages_of(shape.context), POOL_BYTES_DEFAULT // page_bytes(shape)))
