"""The clock against the other validators': one line when it becomes wrong, one when it is right again."""

from node.clock import ClockWatch


def test_one_wrong_proposer_says_nothing_and_a_wrong_own_clock_is_told_once() -> None:
    watch = ClockWatch()
    lines = [watch.proposal(100_000 * n, 100_000 * n + (60_000 if n % 4 == 0 else 20)) for n in range(1, 17)]
    assert lines == [None] * 16 and watch.offset_ms == 20
    lines = [watch.proposal(100_000 * n, 100_000 * n - 7_000) for n in range(17, 33)]
    told = [line for line in lines if line]
    assert len(told) == 1 and "7.0 s behind" in told[0]
    lines = [watch.proposal(100_000 * n, 100_000 * n + 5) for n in range(33, 49)]
    assert [line for line in lines if line] == ["this machine's clock agrees with the other validators' again"]


def test_too_few_proposals_say_nothing() -> None:
    watch = ClockWatch()
    assert [watch.proposal(0, 90_000) for _ in range(3)] == [None] * 3
    assert watch.offset_ms == 0
    assert "90.0 s ahead of" in (watch.proposal(0, 90_000) or "")
