"""Time, in the one place that asks for it; and whether this machine's clock agrees with the other validators'."""

import statistics
import time
from collections import deque

SKEW_LIMIT_MS = 5_000
PROPOSALS_WATCHED = 16
PROPOSALS_NEEDED = 4
"""Fewer say too little: one proposer's wrong clock must not look like ours."""


def now_ms() -> int:
    """Wall clock, Unix time in ms."""
    return time.time_ns() // 1_000_000


class ClockWatch:
    """Compares the wall clock with the times that others' proposals carry when they arrive."""

    def __init__(self) -> None:
        self._offsets: deque[int] = deque(maxlen=PROPOSALS_WATCHED)
        self._told = False

    @property
    def offset_ms(self) -> int:
        """Median of (own clock at arrival - proposal's time); network delay included. 0 while too little is known."""
        return int(statistics.median(self._offsets)) if len(self._offsets) >= PROPOSALS_NEEDED else 0

    def proposal(self, time_ms: int, received_ms: int) -> str | None:
        """Take one in. A line to log when the clock has just become more than 5 s wrong, or right again."""
        self._offsets.append(received_ms - time_ms)
        wrong = abs(self.offset_ms) > SKEW_LIMIT_MS
        if wrong == self._told:
            return None
        self._told = wrong
        if not wrong:
            return "this machine's clock agrees with the other validators' again"
        way = "ahead of" if self.offset_ms > 0 else "behind"
        seconds = f"{abs(self.offset_ms) / 1000:.1f} s"
        return f"this machine's clock is {seconds} {way} the median of recent proposals: set it"
