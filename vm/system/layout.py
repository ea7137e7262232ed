"""Typed storage of the system accounts: how records, lists and queues lie in 32-byte words.

Knows nothing of what is stored. A thing called `name` begins at slot keccak(account | name | key parts); its words
follow one another. Key parts are byte strings of fixed width for one thing, so that no two keys run together. Slots
are far apart by keccak, so things never overlap. All of it shows in eth_getProof like any contract's storage.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Generic, TypeVar

from primitives.hashing import keccak
from vm.system.context import ReadContext, Refused, SystemContext

WORD_BITS = 256
WORD = 1 << WORD_BITS

Record = TypeVar("Record")


@lru_cache(maxsize=1 << 15)
def slot_of(account: bytes, name: str, *key: bytes) -> int:
    """First slot of a thing. (Members, queues and the tasks of the last blocks are asked for again and again.)"""
    return int.from_bytes(keccak(b"|".join((account, name.encode("ascii"), *key))), "big")


def u64(value: int) -> bytes:
    """A number as a key part."""
    return value.to_bytes(8, "big")


def uint(bits: int) -> Any:
    """Record field: an integer of so many bits, 0 when unset."""
    assert 0 < bits <= WORD_BITS
    return field(default=0, metadata={"bits": bits, "bytes": 0})


def raw(size: int) -> Any:
    """Record field: exactly so many bytes, zeros when unset. Above 32 it fills words of its own."""
    return field(default=bytes(size), metadata={"bits": 8 * size, "bytes": size})


@dataclass(frozen=True)
class _Place:
    name: str
    word: int
    shift: int
    bits: int
    size: int


def _places(record: type) -> tuple[list[_Place], int]:
    """Where each field lies: packed in order from the low bits up; only fields above 32 bytes straddle words."""
    places: list[_Place] = []
    word, shift = 0, 0
    for item in fields(record):
        bits, size = item.metadata["bits"], item.metadata["bytes"]
        if shift and shift + bits > WORD_BITS:
            word, shift = word + 1, 0
        places.append(_Place(item.name, word, shift, bits, size))
        shift += bits
        while shift >= WORD_BITS:
            word, shift = word + 1, shift - WORD_BITS
    return places, word + (1 if shift else 0)


class Scalar:
    """One word under a name."""

    def __init__(self, account: bytes, name: str) -> None:
        self.account = account
        self.slot = slot_of(account, name)

    def get(self, ctx: ReadContext) -> int:
        return ctx.get(self.account, self.slot)

    def set(self, ctx: SystemContext, value: int) -> None:
        assert 0 <= value < WORD
        ctx.set(self.account, self.slot, value)

    def add(self, ctx: SystemContext, amount: int) -> int:
        """The new value."""
        value = self.get(ctx) + amount
        self.set(ctx, value)
        return value


class Words:
    """One word a key."""

    def __init__(self, account: bytes, name: str) -> None:
        self.account = account
        self.name = name

    def slot(self, *key: bytes) -> int:
        return slot_of(self.account, self.name, *key)

    def get(self, ctx: ReadContext, *key: bytes) -> int:
        return ctx.get(self.account, self.slot(*key))

    def set(self, ctx: SystemContext, value: int, *key: bytes) -> None:
        assert 0 <= value < WORD
        ctx.set(self.account, self.slot(*key), value)

    def add(self, ctx: SystemContext, amount: int, *key: bytes) -> int:
        """The new value."""
        value = self.get(ctx, *key) + amount
        self.set(ctx, value, *key)
        return value

    def get_bytes(self, ctx: ReadContext, size: int, *key: bytes) -> bytes:
        """The word's low `size` bytes (an address: 20, a hash: 32)."""
        return self.get(ctx, *key).to_bytes(32, "big")[32 - size :]

    def set_bytes(self, ctx: SystemContext, value: bytes, *key: bytes) -> None:
        self.set(ctx, int.from_bytes(value, "big"), *key)


class Table(Generic[Record]):
    """Records (dataclasses whose fields are declared with `uint` and `raw`) by key.

    `get` gives a fresh record to change and `put` back; a key whose words are all zero holds none.
    """

    def __init__(self, account: bytes, name: str, record: type[Record]) -> None:
        self.account = account
        self.name = name
        self.record = record
        self._fields, self.words = _places(record)
        self._by_name = {place.name: place for place in self._fields}
        self._reads = [
            (place.name, place.word, place.shift, (1 << place.bits) - 1, place.size,
             -(-(place.shift + place.bits) // WORD_BITS))
            for place in self._fields
        ]  # fmt: skip
        """Of each field: name, first word, bits to its right there, mask, bytes (0: a number), words."""
        self._plans: dict[tuple[str, ...], list[tuple[int, int, int, int]]] = {}

    def get(self, ctx: ReadContext, *key: bytes) -> Record | None:
        first = slot_of(self.account, self.name, *key)
        words = [ctx.get(self.account, (first + i) % WORD) for i in range(self.words)]
        if not any(words):
            return None
        return self.unpack(words)

    def read(self, ctx: ReadContext, names: tuple[str, ...], *key: bytes) -> tuple[Any, ...]:
        """Some fields of a record, reading only the words that hold them; zeros when there is none."""
        first = slot_of(self.account, self.name, *key)
        words: dict[int, int] = {}
        values: list[int | bytes] = []
        for number, shift, bits, size in self._plans.get(names) or self._plan(names):
            word = words.get(number)
            if word is None:
                word = words[number] = ctx.get(self.account, (first + number) % WORD)
            if shift + bits > WORD_BITS:
                for i in range(1, -(-(shift + bits) // WORD_BITS)):
                    if number + i not in words:
                        words[number + i] = ctx.get(self.account, (first + number + i) % WORD)
                    word |= words[number + i] << (i * WORD_BITS)
            value = word >> shift & ((1 << bits) - 1)
            values.append(value.to_bytes(size, "big") if size else value)
        return tuple(values)

    def write(self, ctx: SystemContext, name: str, value: int, *key: bytes) -> None:
        """One number of a record, which lies in one word; the others stay."""
        ((number, shift, bits, _),) = self._plan((name,))
        assert 0 <= value < 1 << bits, (self.name, name, value)
        assert shift + bits <= WORD_BITS
        slot = (slot_of(self.account, self.name, *key) + number) % WORD
        word = ctx.get(self.account, slot)
        ctx.set(self.account, slot, word & ~(((1 << bits) - 1) << shift) | value << shift)

    def put(self, ctx: SystemContext, record: Record, *key: bytes) -> None:
        """Write a record; words that do not change are not written."""
        first = slot_of(self.account, self.name, *key)
        for i, word in enumerate(self.pack(record)):
            slot = (first + i) % WORD
            if ctx.get(self.account, slot) != word:
                ctx.set(self.account, slot, word)

    def delete(self, ctx: SystemContext, *key: bytes) -> None:
        """Zero every word."""
        first = slot_of(self.account, self.name, *key)
        for i in range(self.words):
            slot = (first + i) % WORD
            if ctx.get(self.account, slot):
                ctx.set(self.account, slot, 0)

    def _plan(self, names: tuple[str, ...]) -> list[tuple[int, int, int, int]]:
        """Word, shift, bits and bytes of fields."""
        plan = self._plans.get(names)
        if plan is None:
            places = [self._by_name[name] for name in names]
            plan = self._plans[names] = [(place.word, place.shift, place.bits, place.size) for place in places]
        return plan

    def pack(self, record: Record) -> list[int]:
        """The record's words. Asserts that every value fits its field."""
        words = [0] * self.words
        for name, word, shift, mask, size, wide in self._reads:
            value = getattr(record, name)
            if size:
                assert len(value) == size, (self.name, name, value)
                value = int.from_bytes(value, "big")
            assert 0 <= value <= mask, (self.name, name, value)
            if wide == 1:
                words[word] |= value << shift
            else:
                for i in range(wide):
                    words[word + i] |= (value << shift) >> (i * WORD_BITS) & (WORD - 1)
        return words

    def unpack(self, words: list[int]) -> Record:
        """The record that these words hold."""
        values: dict[str, int | bytes] = {}
        for name, word, shift, mask, size, wide in self._reads:
            value = words[word] >> shift
            for i in range(1, wide):
                value |= words[word + i] << (i * WORD_BITS - shift)
            value &= mask
            values[name] = value.to_bytes(size, "big") if size else value
        record = object.__new__(self.record)  # a tenth of a block's reads would be spent in __init__
        record.__dict__.update(values)
        return record


class Number:
    """One field of a table's records, for who wants it alone."""

    def __init__(self, table: Table[Any], name: str) -> None:
        self._table = table
        self._name = name

    def get(self, ctx: ReadContext, *key: bytes) -> int:
        value: int = self._table.read(ctx, (self._name,), *key)[0]
        return value

    def set(self, ctx: SystemContext, value: int, *key: bytes) -> None:
        self._table.write(ctx, self._name, value, *key)

    def add(self, ctx: SystemContext, amount: int, *key: bytes) -> int:
        """The new value."""
        value = self.get(ctx, *key) + amount
        self.set(ctx, value, *key)
        return value


class Ring(Generic[Record]):
    """The last `most` records a key: how many there ever were, then their places in turn."""

    def __init__(self, account: bytes, name: str, record: type[Record], most: int) -> None:
        self.most = most
        self._count = Words(account, name + ".count")
        self._records = Table(account, name, record)

    def add(self, ctx: SystemContext, record: Record, key: bytes) -> None:
        """The newest; it takes the place of the oldest when there are `most`."""
        count = self._count.get(ctx, key)
        self._records.put(ctx, record, key, u64(count % self.most))
        self._count.set(ctx, count + 1, key)

    def newest(self, ctx: ReadContext, key: bytes) -> list[Record]:
        """Those that are kept, the newest first."""
        count = self._count.get(ctx, key)
        places = range(count - 1, max(0, count - self.most) - 1, -1)
        found = [self._records.get(ctx, key, u64(place % self.most)) for place in places]
        return [record for record in found if record is not None]


class WordList:
    """A list of words a key: the length, then the elements. Bounded by `most`."""

    def __init__(self, account: bytes, name: str, most: int) -> None:
        self.account = account
        self.name = name
        self.most = most

    def length(self, ctx: ReadContext, *key: bytes) -> int:
        return ctx.get(self.account, slot_of(self.account, self.name, *key))

    def all(self, ctx: ReadContext, *key: bytes) -> list[int]:
        first = slot_of(self.account, self.name, *key)
        length = ctx.get(self.account, first)
        return [ctx.get(self.account, (first + 1 + i) % WORD) for i in range(length)]

    def at(self, ctx: ReadContext, index: int, *key: bytes) -> int:
        return ctx.get(self.account, (slot_of(self.account, self.name, *key) + 1 + index) % WORD)

    def append(self, ctx: SystemContext, value: int, *key: bytes) -> int:
        """Index of the new element. Raises Refused("list_full")."""
        first = slot_of(self.account, self.name, *key)
        length = ctx.get(self.account, first)
        if length >= self.most:
            raise Refused("list_full", f"{self.name} holds at most {self.most}")
        ctx.set(self.account, (first + 1 + length) % WORD, value)
        ctx.set(self.account, first, length + 1)
        return length

    def replace(self, ctx: SystemContext, values: Iterable[int], *key: bytes) -> None:
        """Make the list these values; freed words are zeroed. Raises Refused("list_full")."""
        first = slot_of(self.account, self.name, *key)
        new = list(values)
        if len(new) > self.most:
            raise Refused("list_full", f"{self.name} holds at most {self.most}, not {len(new)}")
        old = ctx.get(self.account, first)
        for i in range(max(old, len(new))):
            slot, value = (first + 1 + i) % WORD, new[i] if i < len(new) else 0
            if ctx.get(self.account, slot) != value:
                ctx.set(self.account, slot, value)
        if old != len(new):
            ctx.set(self.account, first, len(new))

    def remove(self, ctx: SystemContext, value: int, *key: bytes) -> bool:
        """Take the first element equal to `value` out, keeping the order of the others. Whether it was there."""
        values = self.all(ctx, *key)
        if value not in values:
            return False
        values.remove(value)
        self.replace(ctx, values, *key)
        return True


class AddressList(WordList):
    """A list of addresses in ascending order, each once."""

    def addresses(self, ctx: ReadContext, *key: bytes) -> list[bytes]:
        return [value.to_bytes(20, "big") for value in self.all(ctx, *key)]

    def insert(self, ctx: SystemContext, address: bytes, *key: bytes) -> None:
        """Raises Refused("list_full")."""
        values = self.all(ctx, *key)
        value = int.from_bytes(address, "big")
        if value not in values:
            self.replace(ctx, sorted([*values, value]), *key)

    def discard(self, ctx: SystemContext, address: bytes, *key: bytes) -> None:
        self.remove(ctx, int.from_bytes(address, "big"), *key)


class Blob:
    """Bytes of any length up to `most` a key: the length, then 32 bytes a word, zero padded."""

    def __init__(self, account: bytes, name: str, most: int) -> None:
        self.account = account
        self.name = name
        self.most = most

    def get(self, ctx: ReadContext, *key: bytes) -> bytes:
        first = slot_of(self.account, self.name, *key)
        length = ctx.get(self.account, first)
        words = [ctx.get(self.account, (first + 1 + i) % WORD) for i in range(-(-length // 32))]
        return b"".join(word.to_bytes(32, "big") for word in words)[:length]

    def set(self, ctx: SystemContext, value: bytes, *key: bytes) -> None:
        """Raises Refused("too_long")."""
        if len(value) > self.most:
            raise Refused("too_long", f"{self.name} of {len(value)} bytes; at most {self.most}")
        first = slot_of(self.account, self.name, *key)
        old = ctx.get(self.account, first)
        count = -(-len(value) // 32)
        for i in range(max(count, -(-old // 32))):
            chunk = value[32 * i : 32 * i + 32]
            ctx.set(self.account, (first + 1 + i) % WORD, int.from_bytes(chunk.ljust(32, b"\x00"), "big"))
        ctx.set(self.account, first, len(value))


class Heap:
    """Words in ascending order, the smallest first: a binary heap of at most `most`, log2(most) words touched a change.

    A word may be in it twice. What no longer matters is recognised by its reader and dropped, as with a Queue.
    """

    def __init__(self, account: bytes, name: str, most: int) -> None:
        self.most = most
        self._size = Scalar(account, name + ".size")
        self._items = Words(account, name)

    def size(self, ctx: ReadContext) -> int:
        """Words in it."""
        return self._size.get(ctx)

    def least(self, ctx: ReadContext) -> int | None:
        """The smallest word; None when there is none."""
        return self._at(ctx, 0) if self.size(ctx) else None

    def push(self, ctx: SystemContext, word: int) -> None:
        """Put a word in. Raises Refused("queue_full")."""
        place = self.size(ctx)
        if place >= self.most:
            raise Refused("queue_full", f"{self._items.name} holds at most {self.most}")
        self._size.set(ctx, place + 1)
        while place:
            above = (place - 1) // 2
            other = self._at(ctx, above)
            if other <= word:
                break
            self._put(ctx, place, other)
            place = above
        self._put(ctx, place, word)

    def pop(self, ctx: SystemContext) -> None:
        """Take the smallest word out."""
        size = self.size(ctx) - 1
        assert size >= 0
        moved = self._at(ctx, size)
        self._put(ctx, size, 0)
        self._size.set(ctx, size)
        place = 0
        while size:
            below = 2 * place + 1
            if below >= size:
                break
            word = self._at(ctx, below)
            if below + 1 < size and (other := self._at(ctx, below + 1)) < word:
                below, word = below + 1, other
            if moved <= word:
                break
            self._put(ctx, place, word)
            place = below
        if size:
            self._put(ctx, place, moved)

    def _at(self, ctx: ReadContext, place: int) -> int:
        return self._items.get(ctx, u64(place))

    def _put(self, ctx: SystemContext, place: int, word: int) -> None:
        self._items.set(ctx, word, u64(place))


@dataclass(frozen=True)
class Due:
    """An element of a queue: when it was due, and the 32 bytes that were pushed."""

    height: int
    item: bytes


@dataclass
class _Cursor:
    """Where a queue is read next, and how many elements there are."""

    height: int = uint(64)
    index: int = uint(64)
    pending: int = uint(64)


class Queue:
    """Words ordered by (due height, order of pushing): a bucket a height, and a cursor at the first unread element.

    Nothing is removed but at the front: an element that no longer matters is recognised by its reader and dropped. What
    is not popped stays for later blocks (the backlog). A push that is due before the cursor joins the cursor's bucket.
    """

    def __init__(self, account: bytes, name: str) -> None:
        self.account = account
        self.name = name
        self._cursor = Table(account, name + ".cursor", _Cursor)
        self._length = Words(account, name + ".length")

    def push(self, ctx: SystemContext, due: int, item: bytes) -> None:
        """Append to the bucket of height `due`."""
        assert len(item) <= 32
        cursor = self._at(ctx)
        due = max(due, cursor.height)
        index = self._length.get(ctx, u64(due))
        ctx.set(self.account, self._slot(due, index), int.from_bytes(item.rjust(32, b"\x00"), "big"))
        self._length.set(ctx, index + 1, u64(due))
        cursor.pending += 1
        self._cursor.put(ctx, cursor)

    def peek(self, ctx: SystemContext, through: int) -> Due | None:
        """First element due at or before `through`; None when there is none. Moves the cursor over empty buckets."""
        cursor = self._at(ctx)
        start = cursor.height
        found = None
        while cursor.height <= through:
            length = self._length.get(ctx, u64(cursor.height))
            if cursor.index < length:
                slot = self._slot(cursor.height, cursor.index)
                found = Due(cursor.height, ctx.get(self.account, slot).to_bytes(32, "big"))
                break
            if length:
                self._length.set(ctx, 0, u64(cursor.height))
            cursor.height, cursor.index = cursor.height + 1, 0
        if cursor.height != start:
            self._cursor.put(ctx, cursor)
        return found

    def pop(self, ctx: SystemContext) -> None:
        """Take out the element that `peek` just gave."""
        cursor = self._at(ctx)
        assert cursor.index < self._length.get(ctx, u64(cursor.height))
        ctx.set(self.account, self._slot(cursor.height, cursor.index), 0)
        cursor.index += 1
        cursor.pending -= 1
        self._cursor.put(ctx, cursor)

    def drain(self, ctx: SystemContext, through: int, most: int) -> Iterator[Due]:
        """Pop at most `most` elements due at or before `through`, one before each is handled by the caller."""
        for _ in range(most):
            due = self.peek(ctx, through)
            if due is None:
                return
            self.pop(ctx)
            yield due

    def pending(self, ctx: ReadContext) -> int:
        """Elements in the queue."""
        return self._at(ctx).pending

    def behind(self, ctx: ReadContext, height: int) -> int:
        """Blocks that the oldest unread element is overdue at `height` (0: none is)."""
        due = self.peek_only(ctx, height)
        return 0 if due is None else height - due.height

    def peek_only(self, ctx: ReadContext, through: int) -> Due | None:
        """As `peek`, writing nothing (for views)."""
        cursor = self._at(ctx)
        if not cursor.pending:
            return None
        height, index = cursor.height, cursor.index
        while height <= through:
            if index < self._length.get(ctx, u64(height)):
                return Due(height, ctx.get(self.account, self._slot(height, index)).to_bytes(32, "big"))
            height, index = height + 1, 0
        return None

    def _at(self, ctx: ReadContext) -> _Cursor:
        return self._cursor.get(ctx) or _Cursor()

    def _slot(self, height: int, index: int) -> int:
        return slot_of(self.account, self.name, u64(height), u64(index))
