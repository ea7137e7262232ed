"""Reason codes: why a message was refused, a duty missed, a stake slashed. Numbers and names never change.

Owns the one list, with a sentence and what the operator can do about it. State keeps the number, logs and texts the
name. Knows nothing of when a reason applies (vm.system) nor of how it is shown (node).
"""

from dataclasses import dataclass
from enum import IntEnum


class Reason(IntEnum):
    """1 to 31: misses. 32 to 63: slashes. 64 to 127: refusals of work messages. The name in lower case is the code."""

    NO_ANSWER = 1
    NO_VERDICT = 2
    VERDICT_UNOPENED = 3
    ANSWER_UNOPENED = 4
    NO_CHALLENGE = 5
    DECLARED_AWAY = 6
    TRAPPED = 7
    WRONG_WORK = 32
    WRONG_WORK_AGAIN = 33
    DISPUTE_SILENCE = 34
    DISPUTE_CLOCK = 35
    UNDEFENDED_AGAIN = 36
    VERDICT_REFUTED = 37
    COPIED_ROOT = 38
    ROOT_WITHHELD = 39
    CHALLENGE_LOST = 40
    STAND_IN_LOST = 41
    REFEREES_DIVERGED = 42
    MALFORMED = 64
    UNKNOWN_TASK = 65
    FINISHED = 66
    STAGE = 67
    TOO_EARLY = 68
    TOO_LATE = 69
    NOT_DEALT = 70
    LENGTH = 71
    TOKEN = 72
    AFTER_STOP = 73
    INCOMPLETE = 74
    NOT_DRAWN = 75
    GIVEN = 76
    OPENS_NOTHING = 77
    OTHER = 127

    @property
    def code(self) -> str:
        """Its stable name, as logs and JSON have it."""
        return self.name.lower()

    @property
    def text(self) -> str:
        """What happened, in a sentence without a subject."""
        return _MEANING[self].text

    @property
    def harmless(self) -> bool:
        """Whether there is nothing to do: it happens to a healthy validator too."""
        return _MEANING[self].advice.startswith("nothing to do")

    @property
    def advice(self) -> str:
        """What its operator can do about it."""
        return _MEANING[self].advice


@dataclass(frozen=True)
class _Meaning:
    text: str
    advice: str


_SLOW = (
    "unless the node was down: see `engines` and `notServed` in labora_health; a slow machine declares less: "
    "labora validator serve"
)
_ONLINE = "keep the node running and in step: its log says what it waited for"
_BITS = "stop serving the model, test the memory and run `labora model check` before serving it again"
_HARMLESS = "nothing to do: another message of this task came first"
_OWN = "the node that sent this is not this release, or its state is damaged: compare versions, then sync it anew"

_MEANING = {
    Reason.NO_ANSWER: _Meaning("no answer in the slot's time", _SLOW),
    Reason.NO_VERDICT: _Meaning("no verdict in time", _SLOW),
    Reason.VERDICT_UNOPENED: _Meaning(
        "no revealed root opens the verdict", "the machine's bits differ from everyone's, or its reveal came late: "
        "labora model check",
    ),
    Reason.ANSWER_UNOPENED: _Meaning("nobody opened the executor's commitment", _ONLINE),
    Reason.NO_CHALLENGE: _Meaning("a verdict that contradicts was not followed by a challenge", _ONLINE),
    Reason.DECLARED_AWAY: _Meaning("drawn outside its declared hours: no miss", "nothing to do"),
    Reason.TRAPPED: _Meaning("the verdict opens to a trap: the root was copied", "compute every verdict yourself"),
    Reason.WRONG_WORK: _Meaning("the referee recomputed a step, and the answer is wrong", _BITS),
    Reason.WRONG_WORK_AGAIN: _Meaning("wrong work, again within the window of offences", _BITS),
    Reason.DISPUTE_SILENCE: _Meaning("a challenge was never answered", _ONLINE),
    Reason.DISPUTE_CLOCK: _Meaning("the clock of a dispute ran out", _ONLINE),
    Reason.UNDEFENDED_AGAIN: _Meaning("the third challenge that nobody answered", _ONLINE),
    Reason.VERDICT_REFUTED: _Meaning("the verdict vouched for a root that was refuted", _BITS),
    Reason.COPIED_ROOT: _Meaning("the verdict opened to a trap", "compute every verdict yourself"),
    Reason.ROOT_WITHHELD: _Meaning("a verdict contradicted the answer, and nobody revealed its root", _ONLINE),
    Reason.CHALLENGE_LOST: _Meaning("a challenge, its bond in the stake, was lost or never made", _BITS),
    Reason.STAND_IN_LOST: _Meaning("a list posted in somebody's defence, its bond in the stake, was refuted", _BITS),
    Reason.REFEREES_DIVERGED: _Meaning(
        "the two referees disagree about the answer; the stake is held, not burned",
        "keep the execution and the node's log: governance will ask for them",
    ),
    Reason.MALFORMED: _Meaning("the message cannot be read", _OWN),
    Reason.UNKNOWN_TASK: _Meaning("there is no such task", _OWN),
    Reason.FINISHED: _Meaning("the task has ended", _HARMLESS),
    Reason.STAGE: _Meaning("the task takes no such message now", _HARMLESS),
    Reason.TOO_EARLY: _Meaning("before its window", _OWN),
    Reason.TOO_LATE: _Meaning("after its window", _SLOW),
    Reason.NOT_DEALT: _Meaning("the task was dealt to others", _OWN),
    Reason.LENGTH: _Meaning("the answer has not a length that this task takes", _OWN),
    Reason.TOKEN: _Meaning("a token is not in the vocabulary", _OWN),
    Reason.AFTER_STOP: _Meaning("the answer goes on after a stop id", _OWN),
    Reason.INCOMPLETE: _Meaning("the answer ends before it is complete", _OWN),
    Reason.NOT_DRAWN: _Meaning("others were drawn to check the task", _OWN),
    Reason.GIVEN: _Meaning("the verdict was given already", _HARMLESS),
    Reason.OPENS_NOTHING: _Meaning("no commitment that is still closed opens to it", _HARMLESS),
    Reason.OTHER: _Meaning("a reason without a number of its own", "the log of the chain has its text"),
}
assert set(_MEANING) == set(Reason)


def reason_of(code: str) -> Reason:
    """The reason of a name; OTHER where it has no number."""
    return Reason.__members__.get(code.upper(), Reason.OTHER)
