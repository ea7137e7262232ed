"""The tolerant lane's draw and check: what they are, what they let pass, what they refuse to read."""

import hashlib
import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.philox import philox
from inference.tolerant import (
    CANDIDATES_READ_MAX,
    LOGPROB_FLOOR,
    Completion,
    ServerError,
    check,
    choose,
    margin,
    noise,
    read_completion,
    request_body,
)

SEED = bytes(range(32))
MANY = CANDIDATES_READ_MAX + 1
tokens = st.text(max_size=6)
candidates = st.dictionaries(tokens, st.floats(-30, 0), min_size=1, max_size=20)


def test_the_noise_is_philox_on_seed_position_and_token() -> None:
    digest = hashlib.sha256(SEED + b" sea").digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8)]
    word = philox((7, *words), (0x03020100, 0x07060504))[0]
    assert noise(SEED, 7, " sea") == -math.log(-math.log((word + 0.5) / 2**32))
    assert len({noise(SEED, i, t) for i in range(8) for t in ("a", "b", "")}) == 24
    assert noise(SEED, 0, "a") != noise(SEED[:-1] + b"\0", 0, "a"), "all of the seed counts"


@given(candidates, st.floats(0.1, 2), st.integers(0, 2**31))
def test_what_is_drawn_has_no_margin_and_nothing_has_less(listed: Any, heat: float, at: int) -> None:
    drawn = choose(listed, heat, SEED, at)
    assert margin(drawn, listed, heat, SEED, at).nats == 0
    assert all(margin(token, listed, heat, SEED, at).nats >= 0 for token in listed)
    assert choose(listed, 0, SEED, at) == min(listed, key=lambda token: (-listed[token], token))


def test_draws_follow_the_distribution_at_its_temperature() -> None:
    logits = {"a": 2.0, "b": 1.0, "c": 0.0, "d": -1.0}
    total = math.log(sum(math.exp(v) for v in logits.values()))
    listed = {token: v - total for token, v in logits.items()}
    for temperature in (0.7, 1.0, 1.5):
        draws = Counter(choose(listed, temperature, SEED, i) for i in range(4000))
        weights = {token: math.exp(v / temperature) for token, v in logits.items()}
        expected = {token: 4000 * weight / sum(weights.values()) for token, weight in weights.items()}
        chi_square = sum((draws[token] - expected[token]) ** 2 / expected[token] for token in logits)
        assert chi_square < 16.27, "three degrees of freedom, one in a thousand; the seed is fixed"


@given(candidates, st.floats(0.0, 2), st.floats(0, 0.2), st.integers(0, 1000))
def test_small_errors_of_log_probabilities_make_small_margins(listed: Any, heat: float, size: float, at: int) -> None:
    """Two machines that differ by at most `size` in every log-probability differ by at most twice that in a margin."""
    other = {token: logprob + (size if i % 2 else -size) for i, (token, logprob) in enumerate(sorted(listed.items()))}
    drawn = choose(listed, heat, SEED, at)
    assert margin(drawn, other, heat, SEED, at).nats <= 2 * size + 1e-9


def test_a_token_that_is_not_listed_has_at_least_the_margin_of_the_least_candidate() -> None:
    listed = {"a": -0.1, "b": -3.0}
    found = margin("z", listed, 0, SEED, 0)
    assert (found.seen, round(found.nats, 9)) == (False, 2.9)
    report = check(["a", "z"], [listed, listed], 0, SEED, allowed=0.5)
    assert (report.beyond, report.unseen, report.within) == (1, 1, False)
    assert (report.largest, report.mean) == (found.nats, found.nats / 2)
    assert check(["a", "a"], [listed, listed], 0, SEED).within


def test_the_end_says_nothing() -> None:
    assert Completion(("The", " sea", "</s>"), ({}, {}, {}), True).text == "The sea"


def answer(**changes: Any) -> bytes:
    listed = [{" a": -1}, {" b": -2.5, " c": -3}]
    logprobs = {"tokens": [" a", " b"], "token_logprobs": [-1, -2], "top_logprobs": listed}
    logprobs |= changes.pop("logprobs", {})
    choice = {"text": " a b", "index": 0, "finish_reason": "length", "logprobs": logprobs}
    return json.dumps({"choices": [choice | changes.pop("choice", {})], **changes}).encode()


def test_a_completion_is_read() -> None:
    found = read_completion(answer(), 2)
    assert found == Completion((" a", " b"), ({" a": -1.0}, {" b": -2.5, " c": -3.0}), False)
    assert read_completion(answer(choice={"finish_reason": "stop"}), 2).ended
    low = read_completion(answer(logprobs={"tokens": ["x"], "top_logprobs": [{"x": -1e300}]}), 2)
    assert low.candidates[0]["x"] == LOGPROB_FLOOR


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no choices that is a list"),
        (b'{"choices": {}}', "no choices that is a list"),
        (answer(choices=[]), "0 choices"),
        (b'{"choices": [7]}', "no logprobs that is a dict"),
        (answer(choice={"logprobs": None}), "no logprobs that is a dict"),
        (answer(logprobs={"tokens": None}), "no tokens that is a list"),
        (answer(logprobs={"tokens": [" a"]}), "1 tokens and 2 lists"),
        (answer(logprobs={"tokens": [" a"] * 3, "top_logprobs": [{" a": -1}] * 3}), "at most 2 of each"),
        (answer(logprobs={"tokens": [" a", 7]}), r"tokens\[1\] is '7'"),
        (answer(logprobs={"tokens": [" a", "x" * 2000]}), r"tokens\[1\]"),
        (answer(logprobs={"top_logprobs": [{" a": -1}, None]}), r"top_logprobs\[1\] is 'None'"),
        (answer(logprobs={"top_logprobs": [{" a": -1}, {}]}), "no object of 1 to"),
        (answer(logprobs={"top_logprobs": [{" a": -1}, {str(i): -1 for i in range(MANY)}]}), "1 to 64"),
        (answer(logprobs={"top_logprobs": [{" a": "-1"}, {" b": -1}]}), "-1 is no log-probability"),
        (answer(logprobs={"top_logprobs": [{" a": True}, {" b": -1}]}), "True is no log-probability"),
        (answer(logprobs={"top_logprobs": [{" a": 0.5}, {" b": -1}]}), "0.5 is no log-probability"),
        (answer(logprobs={"top_logprobs": [{"x" * 2000: -1}, {" b": -1}]}), "a token of 2000 characters"),
        (b'{"choices": ' + b'{"a": ' * 1000 + b"1" + b"}" * 1001, "found 'a dict of 1'"),
        (answer(logprobs={"tokens": [" a", "X"]}).replace(b'"X"', b"[" * 1000 + b"]" * 1000), "is 'a list of 1'"),
        (answer().replace(b"-2.5", b"NaN"), "no JSON"),
        (answer().replace(b"-2.5", b"-1e999"), "no JSON|no log-probability"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_by_its_place(body: bytes, said: str) -> None:
    with pytest.raises(ServerError, match=said):
        read_completion(body, 2)


@given(st.binary(max_size=400))
def test_garbage_is_no_completion(body: bytes) -> None:
    with pytest.raises(ServerError):
        read_completion(body, 2)


def test_a_request_asks_for_a_greedy_completion_with_candidates() -> None:
    assert json.loads(request_body("m", "The sea", 3, 20)) == {
        "model": "m", "prompt": "The sea", "max_tokens": 3, "temperature": 0, "logprobs": 20,
    }  # fmt: skip
