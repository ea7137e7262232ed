"""How records, lists and queues lie in words."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_context import MemoryContext

from primitives.address import MARKET
from primitives.params import ChainParams
from vm.system.context import OutOfGas, Refused
from vm.system.layout import AddressList, Blob, Heap, Queue, Table, WordList, raw, uint


@dataclass
class Sample:
    owner: bytes = raw(20)
    amount: int = uint(128)
    count: int = uint(64)
    long: bytes = raw(48)
    last: int = uint(8)


@pytest.fixture
def ctx() -> MemoryContext:
    return MemoryContext(ChainParams())


def test_a_record_comes_back_as_it_was_put(ctx):
    table = Table(MARKET, "sample", Sample)
    record = Sample(b"\x07" * 20, 2**128 - 1, 5, bytes(range(48)), 255)
    table.put(ctx, record, b"key")
    assert table.get(ctx, b"key") == record
    assert table.get(ctx, b"kez") is None
    table.delete(ctx, b"key")
    assert table.get(ctx, b"key") is None
    assert not ctx.storage


def test_no_field_of_32_bytes_or_less_straddles_two_words():
    table = Table(MARKET, "sample", Sample)
    assert table.words == 4
    assert table.pack(Sample(amount=1))[1] == 1


def test_a_value_too_wide_for_its_field_is_our_bug(ctx):
    with pytest.raises(AssertionError):
        Table(MARKET, "sample", Sample).put(ctx, Sample(count=2**64), b"")


def test_writing_an_unchanged_record_writes_nothing(ctx):
    table = Table(MARKET, "sample", Sample)
    table.put(ctx, Sample(count=1), b"")
    ctx.read_only = True
    table.put(ctx, Sample(count=1), b"")
    with pytest.raises(Refused):
        table.put(ctx, Sample(count=2), b"")


def test_a_shortened_list_leaves_no_words_behind(ctx):
    words = WordList(MARKET, "list", 4)
    words.replace(ctx, [1, 2, 3, 4])
    with pytest.raises(Refused, match="at most 4"):
        words.append(ctx, 5)
    words.remove(ctx, 2)
    assert words.all(ctx) == [1, 3, 4]
    words.replace(ctx, [])
    assert not ctx.storage


def test_an_address_list_is_sorted_and_holds_each_once(ctx):
    addresses = AddressList(MARKET, "addresses", 8)
    for byte in (5, 1, 3, 5):
        addresses.insert(ctx, bytes([byte]) * 20)
    assert addresses.addresses(ctx) == [bytes([byte]) * 20 for byte in (1, 3, 5)]
    addresses.discard(ctx, b"\x03" * 20)
    assert addresses.length(ctx) == 2


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64, 70])
def test_a_blob_of_any_length_comes_back(ctx, length):
    blob = Blob(MARKET, "blob", 70)
    blob.set(ctx, b"\xff" * 70, b"k")
    blob.set(ctx, bytes(range(length)), b"k")
    assert blob.get(ctx, b"k") == bytes(range(length))
    with pytest.raises(Refused):
        blob.set(ctx, b"x" * 71, b"k")


def test_a_queue_gives_by_due_height_and_then_by_order_of_pushing(ctx):
    queue = Queue(MARKET, "queue")
    for due, item in ((5, b"a"), (3, b"b"), (5, b"c"), (4, b"d")):
        queue.push(ctx, due, item.rjust(32, b"\x00"))
    got = [(due.height, due.item[-1:]) for due in queue.drain(ctx, 4, 10)]
    assert got == [(3, b"b"), (4, b"d")]
    assert queue.behind(ctx, 6) == 1
    assert [due.item[-1:] for due in queue.drain(ctx, 9, 1)] == [b"a"]
    assert queue.pending(ctx) == 1
    queue.push(ctx, 1, b"late")  # due before the cursor: joins the bucket at the cursor, after what is there
    assert [due.item.lstrip(b"\x00") for due in queue.drain(ctx, 9, 10)] == [b"c", b"late"]
    assert queue.pending(ctx) == 0
    assert queue.peek(ctx, 20) is None


def test_a_drained_queue_leaves_only_its_cursor(ctx):
    queue = Queue(MARKET, "queue")
    for due in range(1, 10):
        queue.push(ctx, due, bytes(31) + b"\x01")
    assert len(list(queue.drain(ctx, 20, 100))) == 9
    queue.peek(ctx, 20)
    assert len(ctx.storage) == 1


@given(st.lists(st.one_of(st.integers(1, 2**160), st.none()), max_size=80))
def test_a_heap_gives_its_words_in_order_whatever_was_put_in_between(steps):
    ctx = MemoryContext(ChainParams())
    heap, model = Heap(MARKET, "heap", 64), []
    for word in steps:
        if word is None and model:
            assert heap.least(ctx) == min(model)
            heap.pop(ctx)
            model.remove(min(model))
        elif word is not None and len(model) < 64:
            heap.push(ctx, word)
            model.append(word)
    assert heap.size(ctx) == len(model)
    for word in sorted(model):
        assert heap.least(ctx) == word
        heap.pop(ctx)
    assert heap.least(ctx) is None
    assert not ctx.storage


def test_a_heap_touches_a_word_a_level_and_refuses_more_than_it_may_hold(ctx):
    heap = Heap(MARKET, "heap", 255)
    for word in range(255, 0, -1):
        heap.push(ctx, word)
    touched = []
    read, written = ctx.get, ctx.set
    ctx.get = lambda *at: touched.append(at) or read(*at)
    ctx.set = lambda *at: touched.append(at) or written(*at)
    heap.pop(ctx)
    assert len(touched) <= 3 * 8 + 6
    heap.push(ctx, 1)
    with pytest.raises(Refused, match="holds at most 255"):
        heap.push(ctx, 1)


def test_a_frame_that_fails_undoes_everything_but_gas(ctx):
    ctx.mint(MARKET, 10)
    with pytest.raises(Refused), ctx.frame():
        ctx.set(MARKET, 1, 2)
        ctx.transfer(MARKET, b"\x01" * 20, 4)
        ctx.charge(7, "x")
        raise Refused("no", "no")
    assert (ctx.storage, ctx.balance(MARKET), ctx.gas_used) == ({}, 10, 7)
    with pytest.raises(OutOfGas), ctx.frame(5):
        ctx.charge(6, "x")
