"""How long a step may take and which blocks are timely: numbers in, numbers out.

Asks no clock: durations go out in ScheduleTimeout, moments come in with the inputs.
"""

from dataclasses import dataclass
from enum import IntEnum

TIMELY_ROUND_MAX = 30
"""Growth of the message delay stops here (2000 * 1.1^30 ms is 35 s): the power stays a small integer."""


class TimeoutKind(IntEnum):
    """The four timers of the core; REBROADCAST belongs to the height, the others to one round of it."""

    PROPOSE = 0
    PREVOTE = 1
    PRECOMMIT = 2
    REBROADCAST = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Genesis parameters of time, all in ms: base and growth a round of each timeout, the cap, timeliness."""

    propose_ms: int = 1500
    propose_growth_ms: int = 500
    vote_ms: int = 500
    vote_growth_ms: int = 250
    rebroadcast_ms: int = 3000
    cap_ms: int = 60_000
    precision_ms: int = 500
    message_delay_ms: int = 2000

    def duration_ms(self, kind: TimeoutKind, round_: int) -> int:
        """Length of this timer in this round, capped."""
        if kind is TimeoutKind.REBROADCAST:
            return min(self.rebroadcast_ms, self.cap_ms)
        if kind is TimeoutKind.PROPOSE:
            return min(self.propose_ms + self.propose_growth_ms * round_, self.cap_ms)
        return min(self.vote_ms + self.vote_growth_ms * round_, self.cap_ms)

    def is_timely(self, time_ms: int, received_ms: int, round_: int) -> bool:
        """Whether a block of time_ms, proposed in this round, may arrive at received_ms (proposer-based timestamps).

        time_ms - precision <= received_ms <= time_ms + delay + precision, delay = 2000 * 11^r // 10^r, r at most 30.
        """
        power = min(round_, TIMELY_ROUND_MAX)
        delay_ms: int = self.message_delay_ms * 11**power // 10**power
        return time_ms - self.precision_ms <= received_ms <= time_ms + delay_ms + self.precision_ms
