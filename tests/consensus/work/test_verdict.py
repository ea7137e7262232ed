"""What reveals open, and what becomes of a task."""

import pytest

from consensus.work.verdict import Opened, Outcome, contradicts, open_commitments, outcome
from primitives.hashing import keccak
from primitives.task import NO_BAD_POSITION, execution_commitment, verdict_commitment

TASK = keccak(b"task")
EXECUTOR, A, B = (bytes([i]) * 20 for i in (1, 2, 3))
T, OTHER = keccak(b"T"), keccak(b"other")
EXECUTION = (EXECUTOR, execution_commitment(TASK, EXECUTOR, T))


def said(verifier: bytes, root: bytes = T, bad: int = NO_BAD_POSITION) -> tuple[bytes, bytes]:
    return verifier, verdict_commitment(TASK, verifier, bad, root)


def test_one_reveal_opens_everyone_who_committed_to_it():
    opening = open_commitments(TASK, T, NO_BAD_POSITION, EXECUTION, [said(A), said(B, OTHER), said(B)])
    assert opening.executor
    assert opening.verifiers == (0, 2)


def test_a_copied_commitment_opens_to_nothing():
    copied = (B, said(A)[1])
    assert open_commitments(TASK, T, NO_BAD_POSITION, EXECUTION, [said(A), copied]).verifiers == (0,)
    assert not open_commitments(TASK, T, NO_BAD_POSITION, (B, EXECUTION[1]), []).executor


def test_a_root_that_nobody_committed_to_opens_nothing():
    assert open_commitments(TASK, keccak(b"?"), NO_BAD_POSITION, EXECUTION, [said(A), said(B)]).nothing


def test_a_bad_position_is_part_of_a_verdict():
    opening = open_commitments(TASK, T, 5, EXECUTION, [said(A), said(B, T, 5), said(B, T, 6)])
    assert opening.verifiers == (1,)
    assert opening.executor


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Opened(T, NO_BAD_POSITION), False),
        (Opened(T, 0), True),
        (Opened(OTHER, NO_BAD_POSITION), True),
        (Opened(OTHER, 3), True),
    ],
)
def test_contradiction(verdict, expected):
    assert contradicts(TASK, EXECUTION, verdict) is expected


@pytest.mark.parametrize(
    ("executor", "opened", "contradicted", "closed", "expected"),
    [
        (True, [True, True], False, False, Outcome.AGREED),  # at once when everything has opened
        (True, [True, False], False, False, Outcome.OPEN),
        (True, [True, False], False, True, Outcome.AGREED),  # else when the window closes, with who opened
        (True, [False, False], False, False, Outcome.OPEN),
        (True, [False, False], False, True, Outcome.UNVERIFIED),
        (False, [False, False], False, False, Outcome.OPEN),
        (False, [False, False], False, True, Outcome.UNOPENED),
        (True, [True, True], True, False, Outcome.DISPUTED),
        (False, [True], True, True, Outcome.DISPUTED),
        (True, [False, True], True, True, Outcome.DISPUTED),
    ],
)
def test_outcomes(executor, opened, contradicted, closed, expected):
    assert outcome(executor, opened, contradicted, closed) is expected
