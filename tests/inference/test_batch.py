"""Continuous batching: whatever comes together, whatever leaves, each task gives what it gives alone."""

import random

import pytest

from inference import program as cip
from inference.batch import (
    ALONE,
    NEVER,
    Batch,
    Done,
    Dropped,
    Event,
    Full,
    Generated,
    Limits,
    Request,
    RequestError,
    Started,
    Token,
)
from inference.build import random_model
from inference.kv import PAGE
from inference.model import Model
from inference.reference import NumpyExecutor

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
PATIENCE_STEPS = 20_000


@pytest.fixture(scope="module")
def wide() -> Model:
    """A context of several pages."""
    shape = cip.Shape(
        vocabulary=37, context=400, width=24, layers=3, heads=4, kv_heads=2, head_width=6, rotary=6, hidden=40,
        norm_epsilon_q32=42950, layers_per_group=2,
    )  # fmt: skip
    return random_model(shape, 11, stop=(36,))


def generate(prompt: list[int], max_tokens: int = 5, number: int = 1, **how: int) -> Request:
    return Request("generate", prompt, SEED, number.to_bytes(32, "big"), max_tokens=max_tokens, **how)


def verify(prompt: list[int], output: list[int], number: int = 1, **how: int) -> Request:
    return Request("generate", prompt, SEED, number.to_bytes(32, "big"), output=output, **how)


def vector(kind: str, prompt: list[int], output: list[int] | None = None, number: int = 1) -> Request:
    return Request(kind, prompt, SEED, number.to_bytes(32, "big"), output=output)


def run(batch: Batch, now: float = 0.0) -> list[Event]:
    """Everything that happens until the batch is idle."""
    events: list[Event] = []
    for _ in range(PATIENCE_STEPS):
        if batch.idle:
            return events
        events += batch.step(now)
    raise AssertionError("the batch does not come to an end")


def results(events: list[Event]) -> dict:
    return {event.key: event.result for event in events if isinstance(event, Done)}


def alone(model: Model, request: Request) -> object:
    batch = Batch(NumpyExecutor(model), ALONE)
    batch.add(0, request)
    return results(run(batch))[0]


def numbers(source: random.Random, count: int) -> list[int]:
    return [source.randrange(36) for _ in range(count)]


def some_request(source: random.Random, model: Model, beginnings: list[list[int]], number: int) -> Request:
    """Of either kind, often with a beginning that others have too; a checked output is right or wrong somewhere."""
    prompt = source.choice(beginnings)[: source.choice((1, 63, 64, 65, 130))] + numbers(source, source.randrange(1, 70))
    how = {"temperature_q16": source.choice((0, 1 << 16, 1 << 18)), "top_k": source.choice((0, 3))}
    if source.random() < 0.3:
        kind = source.choice((cip.EMBED, cip.SCORE))
        return vector(kind, prompt, source.choice((None, [1, 2])), number)
    if source.random() < 0.5:
        return generate(prompt, source.randrange(1, 40), number, **how)
    return verify(prompt, numbers(source, source.randrange(1, 130)), number, **how)


@pytest.mark.parametrize("seed", range(2))
def test_what_runs_together_changes_no_bit(wide: Model, seed: int) -> None:
    """Random arrivals, cancellations, late tasks and a pool that holds a few tasks: each answer is that of a lone
    run, every page comes back, and nothing waits for ever."""
    print("seed", seed)
    source = random.Random(seed)
    beginnings = [numbers(source, 200) for _ in range(2)]
    executor = NumpyExecutor(wide, pages=source.choice((8, 14)))
    batch = Batch(executor, Limits(running_max=5, waiting_max=8, prefill_rows_max=100, prefix_bytes_max=1 << 20))
    asked: dict[int, Request] = {}
    told: dict[int, list[int]] = {}
    gone: set[int] = set()
    done: dict[int, object] = {}
    now, number = 0.0, 0
    while number < 24 or not batch.idle:
        now += 1
        if number < 24 and source.random() < 0.4:
            number += 1
            request = some_request(source, wide, beginnings, number)
            asked[number], told[number] = request, []
            try:
                batch.add(number, request, source.choice((NEVER, now + source.randrange(5, 200))))
            except Full:
                assert batch.waiting == 8
                gone.add(number)
        if asked and source.random() < 0.05:
            key = source.choice(list(asked))
            if batch.cancel(key):
                gone.add(key)
            assert not batch.cancel(key)
        for event in batch.step(now):
            assert event.key not in gone, "what was cancelled or dropped says nothing any more"
            match event:
                case Token(key, index, token):
                    assert index == len(told[key])
                    told[key].append(token)
                case Done(key, result):
                    done[key] = result
                case Dropped(key, reason):
                    assert "deadline" in reason
                    gone.add(key)
        assert batch.running <= 5 and now < PATIENCE_STEPS
    assert done.keys() | gone == asked.keys() and not done.keys() & gone
    assert len(done) > 8 and batch.reused_tokens > 0
    for key, result in done.items():
        assert result == alone(wide, asked[key]), key
        if isinstance(result, Generated):
            assert told[key] == result.tokens
    assert batch.pages_free == batch.pages - len(batch._prefixes), "only kept prefixes hold pages"


def test_a_shared_beginning_is_fed_once_and_hashed_for_each(wide: Model) -> None:
    """Full pages before the last position of the prompt; another trace key gives another root of the same work."""
    batch = Batch(NumpyExecutor(wide), Limits())
    beginning = numbers(random.Random(1), 3 * PAGE)
    requests = {1: generate([*beginning, 1], 3, 1), 2: generate([*beginning, 2], 3, 2), 3: verify(beginning, [1, 2], 3)}
    requests[4] = vector(cip.EMBED, [*beginning, 4], number=4)
    for key, request in requests.items():
        fed, reused = batch.prompt_tokens, batch.reused_tokens
        batch.add(key, request)
        assert results(run(batch))[key] == alone(wide, request)
        if key > 1:
            shared = (2 if key == 3 else 3) * PAGE
            assert batch.reused_tokens - reused == shared
            assert batch.prompt_tokens - fed == len(request.prompt) + len((request.output or [0])[1:]) - shared


def test_kept_prefixes_are_bounded_and_give_way_to_tasks(wide: Model) -> None:
    executor = NumpyExecutor(wide, pages=7)
    batch = Batch(executor, Limits(prefix_bytes_max=1 << 20))
    for number in range(4):
        batch.add(number, generate([*numbers(random.Random(number), 2 * PAGE), 1], 1))
        run(batch)
        assert len(batch._prefixes) == min(2 * number + 2, 3), "half of the pool at most"
    first = [*numbers(random.Random(3), 2 * PAGE), 1]
    batch.add(8, generate(first, 1))
    assert results(run(batch))[8] == alone(wide, generate(first, 1))
    assert batch.reused_tokens == 2 * PAGE, "the latest was kept whole, the pages of older ones from the end on dropped"
    batch.add(9, generate(numbers(random.Random(9), 300), 100))
    assert len(results(run(batch))[9].tokens) > 0, "a task that needs every page gets it"
    small_budget = Batch(NumpyExecutor(wide), Limits(prefix_bytes_max=3 * 64 * 2 * 300))
    for number in range(5):
        small_budget.add(number, generate([*numbers(random.Random(number), 2 * PAGE), 1], 1))
        run(small_budget)
        assert small_budget._prefixes._bytes <= 3 * 64 * 2 * 300


def test_the_first_to_close_runs_first_and_lacking_pages_it_is_not_overtaken(wide: Model) -> None:
    """Six pages: a small task runs, then a large one waits for its pages although a later, small one would fit."""
    batch = Batch(NumpyExecutor(wide, pages=6), Limits(running_max=8, prefix_bytes_max=0))
    batch.add("running", verify([1] * 60, [2] * 100), 50.0)
    assert Started("running") in batch.step(0.0)
    batch.add("late", verify([1], [2]), 90.0)
    batch.add("large", generate([1] * 200, 150), 70.0)
    batch.add("soon", verify([1] * 60, [2] * 5), 60.0)
    starts = [event.key for event in run(batch) if isinstance(event, Started)]
    assert starts == ["soon", "large", "late"]


def test_generating_and_checking_leave_each_other_a_share(wide: Model) -> None:
    """However many of one kind wait, the other's first task gets a place and rows at once."""
    batch = Batch(NumpyExecutor(wide, pages=100), Limits(running_max=8, prefill_rows_max=PAGE))
    for number in range(20):
        batch.add(number, generate([1] * 200, 100, number), 10.0)
    assert sum(isinstance(event, Started) for event in batch.step(0.0)) == 6, "three quarters"
    batch.add("check", verify([1, 2, 3], [4, 5]), 1000.0)
    events = batch.step(0.0) + batch.step(0.0)
    assert Started("check") in events and "check" in results(events)


def test_a_full_queue_refuses_with_what_is_full_and_takes_again(wide: Model) -> None:
    batch = Batch(NumpyExecutor(wide), Limits(running_max=1, waiting_max=2))
    batch.add(0, generate([1], 3))
    batch.step(0.0)
    batch.add(1, generate([1], 1))
    batch.add(2, generate([1], 1))
    with pytest.raises(Full, match="1 tasks run and 2 wait"):
        batch.add(3, generate([1], 1))
    assert results(run(batch)).keys() == {0, 1, 2}
    batch.add(3, generate([1], 1))
    assert results(run(batch)).keys() == {3}


def test_what_fits_no_pool_or_model_is_refused_at_once(wide: Model) -> None:
    batch = Batch(NumpyExecutor(wide, pages=2), Limits())
    for request, said in (
        (generate([1] * 100, 30), "100 prompt tokens and 30 to generate do not fit the pool of 2 pages"),
        (generate([1], 400), "at most 400 together"),
        (Request("dream", [1], SEED, KEY, 3), "of kind llama can generate, embed, score, not 'dream'"),
    ):
        with pytest.raises(RequestError, match=said):
            batch.add(1, request)
    assert batch.idle


def test_a_late_task_is_dropped_with_its_reason_wherever_it_is(wide: Model) -> None:
    batch = Batch(NumpyExecutor(wide), Limits(running_max=1, prefix_bytes_max=0))
    batch.add("runs", generate([1, 2], 300), 5.0)
    batch.step(0.0)
    batch.add("waits", generate([1, 2], 300), 6.0)
    events = batch.step(7.5)
    reasons = {event.key: event.reason for event in events if isinstance(event, Dropped)}
    assert reasons == {
        "runs": "its deadline passed 2.5 s ago, 2 of at most 301 positions done",
        "waits": "its deadline passed 1.5 s ago, 0 of at most 301 positions done",
    }
    assert batch.idle and batch.pages_free == batch.pages


def test_an_encoder_is_fed_whole_beside_others() -> None:
    """What attends both ways has no chunks; a request as long as the context goes in one pass whatever its room."""
    shape = cip.Shape(
        vocabulary=37, context=160, width=24, layers=2, heads=4, kv_heads=4, head_width=6, rotary=0, hidden=40,
        norm_epsilon_q32=42950, layers_per_group=1, kind="bert",
    )  # fmt: skip
    model = random_model(shape, 3)
    batch = Batch(NumpyExecutor(model, pages=9), Limits(prefill_rows_max=PAGE))
    requests = {number: vector(cip.EMBED, [number] * length, None) for number, length in enumerate((150, 3, 70, 160))}
    for number, request in requests.items():
        batch.add(number, request)
    assert results(run(batch)) == {number: alone(model, request) for number, request in requests.items()}


def test_a_batch_of_one_kind_is_one_pass_a_token(wide: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that generate share each pass: twelve cost as many passes as the longest alone."""
    executor = NumpyExecutor(wide, pages=20)
    passes: list[int] = []
    feed = executor.feed
    monkeypatch.setattr(executor, "feed", lambda segments: passes.append(len(segments)) or feed(segments))
    batch = Batch(executor, Limits(running_max=16, prefix_bytes_max=0))
    for number in range(12):
        batch.add(number, generate([number], 10, number))
    run(batch)
    assert len(passes) == 10 and passes[0] == 12


def test_an_audit_gets_logits_in_portions_when_a_vocabulary_is_large(
    wide: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.batch.LOGITS_BYTES_MAX", 3 * 8 * 37)
    request = verify([1] * 70, numbers(random.Random(2), 20))
    batch = Batch(NumpyExecutor(wide), Limits())
    batch.add(0, request)
    found = results(run(batch))[0]
    monkeypatch.undo()
    assert found == alone(wide, request)


def test_a_lone_prompt_takes_the_whole_room_and_several_share_it_by_pages(
    wide: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large products cost less a row. Chunks end with a page where they can, and each page of a prompt is kept."""
    executor = NumpyExecutor(wide, pages=30)
    fed: list[list[int]] = []
    feed = executor.feed
    monkeypatch.setattr(
        executor, "feed", lambda segments: fed.append([len(each.tokens) for each in segments]) or feed(segments)
    )
    batch = Batch(executor, Limits(running_max=3, prefill_rows_max=2 * PAGE + 5))
    batch.add(0, generate([1] * (4 * PAGE), 1))
    run(batch)
    assert fed == [[2 * PAGE], [2 * PAGE]]
    fed.clear()
    for number, length in enumerate((3 * PAGE, 2 * PAGE)):
        batch.add(number, generate([2 + number] * length, 1))
    batch.step(0.0)
    assert sorted(fed[0]) == [PAGE, PAGE], "a page each; five rows more would not reach the end of another"
    run(batch)
    batch.add(0, generate([1] * (4 * PAGE), 1))
    run(batch)
    assert batch.reused_tokens == 3 * PAGE, "all pages before the one with the prompt's last position"
