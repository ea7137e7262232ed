"""When a task's messages are accepted and how many check it (docs/formats.md, Windows and backups).

A window of w opened in block b accepts messages in b+1 .. b+w. Pure integers: heights and counts in, heights and counts
out. Who is drawn is deal.py's question, what the verdicts mean verdict.py's.
"""

from dataclasses import dataclass

STEP_BLOCKS_MIN = 4
"""Least third of a deadline."""
OVERHEAD_BLOCKS = 2
"""Blocks that a slot needs beside the computation: to see the deal and to have the answer included."""
DEADLINE_SLACK_BLOCKS = 600
OTHERS_REVEAL_AFTER_BLOCKS = 2
"""The executor reveals first; anyone else this many blocks later."""


@dataclass(frozen=True)
class Window:
    """Heights, both inclusive, at which a message is accepted."""

    first: int
    last: int

    def holds(self, height: int) -> bool:
        """Whether a message in that block is in time."""
        return self.first <= height <= self.last


def opened(block: int, blocks: int) -> Window:
    """The window of `blocks` that opens in `block`."""
    return Window(block + 1, block + blocks)


def step_needed(cost: int, rate: int) -> int:
    """Blocks that a slot needs for a task of `cost` multiply-adds at `rate` of them a block: 2 + ceil(cost / rate)."""
    assert rate > 0
    return OVERHEAD_BLOCKS - (-cost // rate)


def deadline_bounds(cost: int, reference_rate: int) -> tuple[int, int]:
    """Least and greatest deadline, in blocks, of a task of that cost at the model's reference rate."""
    least = 3 * max(STEP_BLOCKS_MIN, step_needed(cost, reference_rate))
    return least, least + DEADLINE_SLACK_BLOCKS


def slot_step(deadline: int) -> int:
    """Blocks of one slot's own time."""
    return deadline // 3


def slot_window(dealt: int, deadline: int, slot: int) -> Window:
    """When the party in slot 0, 1 or 2 may submit: from its own start to the end of the deadline."""
    return Window(dealt + slot * slot_step(deadline) + 1, dealt + deadline)


def slot_missed_at(dealt: int, deadline: int, slot: int) -> int:
    """The block whose prologue records that a slot's own time has passed."""
    return dealt + (slot + 1) * slot_step(deadline) + 1


def miss_counts(deadline: int, cost: int, rate: int) -> bool:
    """Whether a slot's miss counts against a validator of effective `rate`: its third left it the time it needs."""
    return rate > 0 and slot_step(deadline) >= step_needed(cost, rate)


def draw_at(submitted: int, delay: int) -> int:
    """The block whose prologue draws the audit of an answer submitted in `submitted`, D = `delay`."""
    return submitted + delay


def verdict_window(opened_in: int, parameter: int, delay: int) -> Window:
    """When verdicts are accepted after seats were drawn in a block."""
    return opened(opened_in, max(parameter, delay))


def reveal_window(opened_in: int, parameter: int, delay: int, own: bool) -> Window:
    """When a reveal is accepted after the block that closed the verdicts; `own`: it is the executor's."""
    window = opened(opened_in, max(parameter, delay))
    return window if own else Window(window.first + OTHERS_REVEAL_AFTER_BLOCKS, window.last)


def matures_at(agreed: int, maturity: int, delay: int) -> int:
    """The block whose prologue settles what was agreed (or found unverified) in `agreed`."""
    return agreed + max(maturity, delay)


def seats_wanted(auditors: int, assurance: int, least: int) -> int:
    """Verifiers that a task pays for: k of the chain, what the asker wants, what makes cheating a loss: the most."""
    return max(auditors, assurance, least)


def seats_of(wanted: int, others: int) -> int:
    """k of a task: as many as wanted, of the `others`, the serving operators less the executor."""
    return min(wanted, others)


def may_redraw(redraws: int, redraws_max: int, revealed: bool) -> bool:
    """Whether empty seats may be drawn again: at most so often, and never after a reveal, because T is public then."""
    return not revealed and redraws < redraws_max
