"""Many sequences in one pass over a bounded pool: nothing that shares a pass, a page or a history changes a bit, and a
pool that is full says so and takes nothing."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from inference.batch import RequestError
from inference.build import random_model
from inference.engine import Engine, make_executor
from inference.kv import PAGE, Pool, PoolExhausted, Segment, Sequence
from inference.model import Model
from inference.program import Shape
from inference.reference import NumpyExecutor

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
KINDS = [pytest.param("numpy"), pytest.param("torch", marks=needs_torch)]


@pytest.fixture(scope="module")
def model() -> Model:
    """Two pages of context and more, grouped queries."""
    return random_model(Shape(37, 3 * PAGE, 24, 2, 4, 2, 6, 6, 40, 42950, 2), 5)


def words(count: int, start: int) -> list[int]:
    return [(7 * i * i + 3 * start) % 37 for i in range(start, start + count)]


def alone(model: Model, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and payloads of one sequence by the reference, in one pass."""
    executor = NumpyExecutor(model)
    [(logits, payloads)] = executor.feed([Segment(executor.new_sequence(), tokens, 0)])
    return logits, payloads[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_no_company_in_a_pass_changes_a_bit(kind: str, seed: int, model: Model) -> None:
    """Sequences of many lengths, fed in random pieces in random company, give what each gives alone."""
    dice = np.random.default_rng(seed)
    print(f"seed {seed}")
    executor = make_executor(kind, model, pages=18)
    texts = [words(int(dice.integers(1, 150)), start) for start in range(6)]
    expected = [alone(model, text) for text in texts]
    handles = [executor.new_sequence() for _ in texts]
    done = [0] * len(texts)
    while any(at < len(text) for at, text in zip(done, texts, strict=True)):
        waiting = [i for i, text in enumerate(texts) if done[i] < len(text)]
        chosen = [i for i in waiting if dice.random() < 0.7] or waiting[:1]
        takes = [1 if dice.random() < 0.5 else int(dice.integers(1, 64)) for _ in chosen]
        pieces = [texts[i][done[i] : done[i] + take] for i, take in zip(chosen, takes, strict=True)]
        froms = [int(dice.integers(0, len(piece) + 1)) for piece in pieces]
        fed = executor.feed([Segment(handles[i], p, f) for i, p, f in zip(chosen, pieces, froms, strict=True)])
        for i, piece, first, (logits, payloads) in zip(chosen, pieces, froms, fed, strict=True):
            rows = slice(done[i] + first, done[i] + len(piece))
            assert np.array_equal(logits, expected[i][0][rows])
            assert np.array_equal(payloads[0], expected[i][1][done[i] : done[i] + len(piece)])
            done[i] += len(piece)
    for handle in handles:
        handle.free()
    assert executor.pool.pages_free == executor.pool.pages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
def test_a_fork_continues_as_if_it_had_read_the_beginning_itself(kind: str, at: int, model: Model) -> None:
    """And the original goes on unharmed by what the fork writes."""
    executor = make_executor(kind, model, pages=7)
    text, other = words(2 * PAGE + 9, 0), words(20, 40)
    first = executor.new_sequence()
    executor.feed([Segment(first, text[: 2 * PAGE], 2 * PAGE)])
    fork = first.fork(at)
    assert executor.pool.pages_free == 7 - 2 - (at % PAGE > 0), "full pages are shared"
    first_fed, fork_fed = executor.feed([Segment(first, text[2 * PAGE :], 0), Segment(fork, other, 0)])
    assert np.array_equal(first_fed.logits, alone(model, text)[0][2 * PAGE :])
    assert np.array_equal(fork_fed.logits, alone(model, text[:at] + other)[0][at:])
    first.free()
    [again] = executor.feed([Segment(fork, [3], 0)])
    assert np.array_equal(again.logits, alone(model, [*text[:at], *other, 3])[0][-1:])
    fork.free()
    assert executor.pool.pages_free == 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_pool_refuses_a_pass_and_changes_nothing(kind: str, model: Model) -> None:
    executor = make_executor(kind, model, pages=3)
    one, two = executor.new_sequence(), executor.new_sequence()
    executor.feed([Segment(one, words(PAGE, 0), PAGE), Segment(two, words(5, 9), 5)])
    with pytest.raises(PoolExhausted, match="2 pages of 64 positions asked for, 1 of 3 free"):
        executor.feed([Segment(one, [1], 0), Segment(two, words(PAGE, 9), 0)])
    assert (one.length, two.length, executor.pool.pages_free) == (PAGE, 5, 1)
    [fed] = executor.feed([Segment(one, [1], 0)])
    assert np.array_equal(fed.logits, alone(model, [*words(PAGE, 0), 1])[0][-1:])
    with pytest.raises(PoolExhausted, match="1 pages of 64 positions asked for, 0 of 3 free"):
        two.fork(5)
    one.free()
    assert two.fork(5).length == 5


def test_an_engine_refuses_what_its_pool_cannot_hold(model: Model) -> None:
    engine = Engine(NumpyExecutor(model, pages=1))
    how = (0, 0, bytes(32), bytes(32))
    assert len(engine.generate([1] * 60, 5, *how).tokens) == 5
    with pytest.raises(RequestError, match="60 prompt tokens and 6 to generate do not fit the pool of 1 pages"):
        engine.generate([1] * 60, 6, *how)
    assert len(engine.generate([1] * 60, 5, *how).tokens) == 5, "pages come back"


def test_a_pool_counts_its_holders() -> None:
    copied: list[Any] = []
    pool = Pool(4, lambda *page: copied.append(page))
    one = Sequence(pool, PAGE + 1)
    assert one.extend(PAGE + 1) == 0
    two = one.fork(PAGE)
    assert (copied, two.pages, pool.pages_free) == ([], one.pages[:1], 2)
    three = one.fork(PAGE + 1)
    assert (len(copied), copied[0][2], pool.pages_free) == (1, 1, 1)
    one.free()
    assert pool.pages_free == 2
    two.free()
    assert pool.pages_free == 2, "the third still reads the first page"
    three.free()
    assert pool.pages_free == 4
    with pytest.raises(AssertionError, match="freed"):
        three.fork(0)
