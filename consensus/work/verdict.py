"""What verdicts and reveals say about an answer (docs/formats.md, Windows and backups; docs/useful-work.md).

Pure: commitments are checked with hashes by the caller's reveal; here the outcome is read off who opened to what.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from primitives.task import NO_BAD_POSITION, execution_commitment, verdict_commitment


class Outcome(Enum):
    """Where the reveals leave a task."""

    OPEN = "open"
    """Nothing decided; more reveals may come."""
    AGREED = "agreed"
    DISPUTED = "disputed"
    UNVERIFIED = "unverified"
    """The answer's root is open, and no verdict opened to anything."""
    UNOPENED = "unopened"
    """Nobody opened the executor's commitment."""


@dataclass(frozen=True)
class Opened:
    """A verdict that a reveal opened."""

    root: bytes
    bad: int


@dataclass(frozen=True)
class Opening:
    """What one reveal opens: the executor's commitment, and the verifiers (by index) whose verdicts say just that."""

    executor: bool
    verifiers: tuple[int, ...]

    @property
    def nothing(self) -> bool:
        """Whether the reveal opens no drawn party's commitment, and so does not count."""
        return not self.executor and not self.verifiers


def open_commitments(
    task: bytes, root: bytes, bad: int, executor: tuple[bytes, bytes], verifiers: Sequence[tuple[bytes, bytes]]
) -> Opening:
    """What a revealed (root, bad) opens. Parties are pairs of (operator, commitment).

    A commitment binds its own party: one copied from another opens to nothing. The executor's holds no position.
    """
    operator, commitment = executor
    return Opening(
        execution_commitment(task, operator, root) == commitment,
        tuple(i for i, (who, said) in enumerate(verifiers) if verdict_commitment(task, who, bad, root) == said),
    )


def contradicts(task: bytes, executor: tuple[bytes, bytes], verdict: Opened) -> bool:
    """Whether an opened verdict contradicts the answer: a bad position, or a root that is not the one committed to."""
    operator, commitment = executor
    return verdict.bad != NO_BAD_POSITION or execution_commitment(task, operator, verdict.root) != commitment


def outcome(executor_opened: bool, opened: Sequence[bool], contradicted: bool, closed: bool) -> Outcome:
    """Where the reveals leave a task.

    opened: for each verdict in, whether a reveal opened it. contradicted: one of them contradicts. closed: the reveal
    window is over. A contradiction stands from its reveal on; agreement comes at once when
    everything has opened, else when the window closes; what nothing opened counts for nothing.
    """
    if contradicted:
        return Outcome.DISPUTED
    if executor_opened and opened and all(opened):
        return Outcome.AGREED
    if not closed:
        return Outcome.OPEN
    if any(opened):
        assert executor_opened, "a verdict that does not contradict opens the executor's root with it"
        return Outcome.AGREED
    return Outcome.UNVERIFIED if executor_opened else Outcome.UNOPENED
