"""What an engine promises its caller: limits, stops, cancelling, no work on a machine that computes otherwise."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest

from inference import engine as engines
from inference.batch import RequestError
from inference.build import random_model, request, with_known_answers
from inference.engine import Cancelled, Engine, EngineUnavailable, ExactnessError, open_engine
from inference.model import Model, save
from inference.reference import NumpyExecutor, Wide

SEED, KEY = bytes(range(32)), bytes(range(100, 132))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": []}, "0 prompt tokens"),
        ({"max_tokens": 0}, "0 to generate"),
        ({"prompt": [1] * 90, "max_tokens": 7}, "at most 96 together"),
        ({"prompt": [1, 37]}, r"prompt\[1\] is 37"),
        ({"prompt": [-1]}, r"prompt\[0\] is -1"),
        ({"seed": bytes(31)}, "seed of 31"),
        ({"trace_key": bytes(33)}, "trace key of 33"),
        ({"temperature_q16": 2**32}, "temperature_q16 4294967296"),
        ({"top_k": -1}, "top_k -1"),
    ],
)
def test_a_request_out_of_bounds_is_refused_with_its_value(small: Model, fields: dict, said: str) -> None:
    ask = {"prompt": [1], "max_tokens": 2, "temperature_q16": 0, "top_k": 0, "seed": SEED, "trace_key": KEY} | fields
    with pytest.raises(RequestError, match=said):
        Engine(NumpyExecutor(small)).generate(**ask)


def test_verify_refuses_no_output_and_unknown_ids(small: Model) -> None:
    engine = Engine(NumpyExecutor(small))
    for output, said in (([], "0 tokens"), ([1, 99], r"output\[1\] is 99")):
        with pytest.raises(RequestError, match=said):
            engine.verify([1], output, 0, 0, SEED, KEY)


def test_an_answer_ends_at_a_stop_id_or_at_its_length(small: Model) -> None:
    """Hot sampling meets the stop id of the small vocabulary soon; nothing follows it."""
    engine, ends = Engine(NumpyExecutor(small)), set()
    for first in range(30):
        heard: list[int] = []
        answer = engine.generate([first], 20, 1 << 19, 0, bytes([first]) * 32, KEY, on_token=heard.append)
        assert heard == answer.tokens
        assert 36 not in answer.tokens[:-1]
        assert len(answer.tokens) == 20 or answer.tokens[-1] == 36
        assert 0 <= answer.first_token_ms <= answer.total_ms
        ends.add(answer.tokens[-1] == 36)
    assert ends == {True, False}


def test_cancelling_stops_between_two_tokens(small: Model) -> None:
    heard: list[int] = []
    with pytest.raises(Cancelled):
        Engine(NumpyExecutor(small)).generate(
            [1], 50, 0, 0, SEED, KEY, on_token=heard.append, cancelled=lambda: len(heard) >= 3
        )
    assert len(heard) == 3


def test_an_engine_that_computes_something_else_refuses_to_start(
    small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_known_answers(small, [request([5, 6, 7], 5), request([1], 9, 1 << 16, 4)])
    save(tmp_path, model.manifest, model.tensors)
    assert open_engine("numpy", tmp_path).model_id == model.model_id

    class Rounds(NumpyExecutor):
        def _mlp(self, x: Wide, layer: int) -> float:
            bound = super()._mlp(x, layer)
            x.values[:] += layer == 2
            return bound + 1

    class Saturates(NumpyExecutor):
        def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
            found, expected = super().product_extremes(name, weight_sign, input_sign)
            return max(found, -(2**15)), expected

    for broken, said in ((Rounds, "known answer 0"), (Saturates, "on extremes gives -32768")):
        monkeypatch.setattr(engines, "NumpyExecutor", broken)
        with pytest.raises(ExactnessError, match=said):
            open_engine("numpy", tmp_path)


def test_known_answers_that_lie_are_refused(small: Model) -> None:
    model = with_known_answers(small, [request([5, 6, 7], 5)])
    lie = dataclasses.replace(model.manifest.known_answers[0], root=bytes(32))
    forged = dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, known_answers=(lie,)))
    with pytest.raises(ExactnessError, match="gives root"):
        Engine(NumpyExecutor(forged)).known_answer_test()


@pytest.mark.parametrize(
    ("width", "threads", "device", "int8", "torch"),
    [
        (4096, 1, "cpu", False, False),
        (512, 3, "cpu", True, False),
        (1024, 1, "cpu", True, True),
        (64, 4, "cpu", False, True),
        (64, 1, "cuda", False, True),
    ],
)
def test_auto_is_numpy_on_a_cpu_unless_torch_has_more_of_it(
    monkeypatch: pytest.MonkeyPatch, small: Model, width: int, threads: int, device: str, int8: bool, torch: bool
) -> None:
    monkeypatch.setattr(engines, "_multiplies_int8", lambda: int8)
    shape = dataclasses.replace(small.manifest.shape, width=width)
    assert engines.prefers_torch(shape, threads, device) == torch


def test_numpy_runs_on_the_cpu_only(small: Model) -> None:
    with pytest.raises(EngineUnavailable, match="cpu only, not on 'cuda'"):
        engines.make_executor("numpy", small, device="cuda")


def test_an_unknown_engine_is_refused_by_name(small: Model) -> None:
    with pytest.raises(EngineUnavailable, match="'tpu'"):
        engines.make_executor("tpu", small)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_device_that_is_not_there_is_refused_by_name(small: Model) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(EngineUnavailable, match="device 'cuda'"):
        engines.make_executor("torch", small, device="cuda")


def test_a_random_model_is_its_seed_alone() -> None:
    """Made by integers, so the id is the same on every machine."""
    from inference.program import Shape

    shape = Shape(16, 8, 8, 1, 2, 1, 4, 4, 8, 42950, 1)
    model = random_model(shape, 1)
    assert model.model_id.hex() == "940b6f7db127979af715bf9a263d8a92c7444d31a858fa3de2e8bbd21ea54d8b"
    assert random_model(shape, 2).model_id != model.model_id
