"""Every window as a table: first and last block, and how many check."""

import pytest

from consensus.work import audit
from consensus.work.audit import Window

# At 1 s blocks: post h, deal h+1, submit h+2, drawn h+4, verdicts h+5, reveal and agreed h+6, settled h+10 (D = 2).


def test_the_timeline_of_an_undisturbed_task():
    h, delay = 100, 2
    dealt = h + 1
    assert audit.slot_window(dealt, 30, 0).first == h + 2
    drawn = audit.draw_at(h + 2, delay)
    assert drawn == h + 4
    assert audit.verdict_window(drawn, 8, delay).first == h + 5
    assert audit.reveal_window(h + 5, 8, delay, own=True).first == h + 6
    assert audit.matures_at(h + 6, 4, delay) == h + 10


@pytest.mark.parametrize(
    ("deadline", "slot", "window", "missed"),
    [
        (30, 0, Window(11, 40), 21),
        (30, 1, Window(21, 40), 31),
        (30, 2, Window(31, 40), 41),
        (32, 2, Window(31, 42), 41),  # what a third does not divide is the last slot's
        (12, 1, Window(15, 22), 19),
    ],
)
def test_slots(deadline, slot, window, missed):
    dealt = 10
    assert audit.slot_window(dealt, deadline, slot) == window
    assert audit.slot_missed_at(dealt, deadline, slot) == missed


@pytest.mark.parametrize(("parameter", "delay", "last"), [(8, 2, 28), (8, 8, 28), (8, 9, 29), (16, 53, 73)])
def test_windows_are_at_least_the_delay(parameter, delay, last):
    assert audit.verdict_window(20, parameter, delay) == Window(21, last)
    assert audit.reveal_window(20, parameter, delay, own=True) == Window(21, last)
    assert audit.reveal_window(20, parameter, delay, own=False) == Window(23, last)
    assert audit.matures_at(20, parameter, delay) == last


@pytest.mark.parametrize(
    ("cost", "rate", "bounds"),
    [
        (1, 10, (12, 612)),  # a third of at least 4
        (20, 10, (12, 612)),
        (21, 10, (15, 615)),
        (100, 10, (36, 636)),
    ],
)
def test_deadlines(cost, rate, bounds):
    assert audit.deadline_bounds(cost, rate) == bounds


@pytest.mark.parametrize(
    ("deadline", "cost", "rate", "counts"),
    [(12, 20, 10, True), (12, 21, 10, False), (15, 21, 10, True), (30, 1, 0, False)],
)
def test_a_miss_counts_only_where_the_time_was_enough(deadline, cost, rate, counts):
    assert audit.miss_counts(deadline, cost, rate) is counts


@pytest.mark.parametrize(
    ("auditors", "assurance", "others", "seats"),
    [(2, 0, 3, 2), (2, 1, 3, 2), (2, 0, 1, 1), (2, 0, 0, 0), (1, 2, 3, 2), (2, 2, 1, 1)],
)
def test_seats(auditors, assurance, others, seats):
    assert audit.seats_of(audit.seats_wanted(auditors, assurance, 0), others) == seats


def test_nothing_is_redrawn_after_a_reveal_nor_more_than_so_often():
    assert [audit.may_redraw(done, 3, revealed=False) for done in range(5)] == [True, True, True, False, False]
    assert not audit.may_redraw(0, 3, revealed=True)
