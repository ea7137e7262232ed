"""Reason codes: what was once written in a block means the same for ever."""

from pathlib import Path

from primitives.reasons import Reason, reason_of

KEPT = {
    "no_answer": 1, "no_verdict": 2, "verdict_unopened": 3, "answer_unopened": 4, "no_challenge": 5,
    "declared_away": 6, "trapped": 7, "wrong_work": 32, "wrong_work_again": 33, "dispute_silence": 34,
    "dispute_clock": 35, "undefended_again": 36, "verdict_refuted": 37, "copied_root": 38,
    "root_withheld": 39, "challenge_lost": 40, "stand_in_lost": 41, "referees_diverged": 42, "malformed": 64,
    "unknown_task": 65, "finished": 66, "stage": 67, "too_early": 68, "too_late": 69, "not_dealt": 70, "length": 71,
    "token": 72, "after_stop": 73, "incomplete": 74, "not_drawn": 75, "given": 76, "opens_nothing": 77, "other": 127,
}  # fmt: skip


def test_numbers_and_names_stay_what_they_were() -> None:
    now = {reason.code: reason.value for reason in Reason}
    assert {code: now.get(code) for code in KEPT} == KEPT


def test_every_reason_says_what_happened_and_what_to_do() -> None:
    for reason in Reason:
        assert reason.text and reason.advice
        assert 0 < reason.value < 128
        assert reason_of(reason.code) is reason


def test_a_code_without_a_number_is_other() -> None:
    assert reason_of("no such code") is Reason.OTHER


def test_the_operators_page_lists_them_as_they_are() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text()
    missing = [reason.code for reason in Reason if f"| {reason.value} | {reason.code} | {reason.text} |" not in page]
    assert not missing
