"""Ways to multiply: only an exact one is used, and which one it is changes no bit."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.build import random_model
from inference.engine import Engine, ExactnessError
from inference.kv import Segment
from inference.program import Shape
from inference.reference import NumpyExecutor, exact_product, product_tiles

torch = pytest.importorskip("torch")
from inference import torch_engine as engine  # noqa: E402 - imports torch

SHAPE = Shape(40, 16, 1096, 1, 4, 2, 16, 16, 1304, 42950, 1)
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def outcome(executor: Any) -> tuple[bytes, bytes]:
    [(logits, payloads)] = executor.feed([Segment(executor.new_sequence(), TOKENS, 0)])
    return logits.tobytes(), payloads[0].tobytes()


def saturating(q: Any, weight: Any) -> Any:
    """What int8 instructions without VNNI give: sums of two products, the one operand made unsigned, kept in int16."""
    pairs = (q.long() + 128).unsqueeze(2) * weight.long()
    sums = pairs.view(q.shape[0], -1, 2, weight.shape[1]).sum(2).clamp(-(2**15), 2**15 - 1).sum(1)
    return sums - 128 * weight.long().sum(0)


SATURATING = engine.Backend("saturating", lambda weight, _: weight.t(), saturating)
HALF = engine.Backend("bfloat16", lambda w, _: w.t().bfloat16(), lambda q, w: (q.bfloat16() @ w).float())
MISSING = engine.Backend("missing", lambda weight, _: weight, lambda q, weight: torch.mm(q, q))


@pytest.mark.parametrize("backend", engine.BACKENDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("bound", [127, 63])
def test_every_exact_backend_gives_the_same_bits(
    backend: engine.Backend, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K past the limit of one float32 tile, one and two terms."""
    if not engine.is_exact(backend, "cpu"):
        pytest.skip(f"{backend.name} is not exact on this machine")
    monkeypatch.setattr(engine, "fastest_backend", lambda *_: backend)
    for terms in (1, 2):
        model = random_model(SHAPE, 3, bound=bound, terms=terms)
        executor = engine.TorchExecutor(model)
        assert executor.backend is backend
        assert outcome(executor) == outcome(NumpyExecutor(model))
        Engine(executor).known_answer_test()


@pytest.mark.parametrize("backend", [SATURATING, HALF, MISSING], ids=lambda backend: backend.name)
def test_a_backend_that_saturates_rounds_or_is_not_there_is_never_chosen(
    backend: engine.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not engine.is_exact(backend, "cpu")
    monkeypatch.setattr(engine, "BACKENDS", (backend, engine.FLOAT32))
    monkeypatch.setattr(engine, "_seconds", lambda weights, _: 0.0 if weights.backend is backend else 1.0)
    assert engine.fastest_backend.__wrapped__("cpu", 1) is engine.FLOAT32


@pytest.mark.parametrize("backend", [SATURATING, HALF], ids=lambda backend: backend.name)
def test_an_executor_that_got_such_a_backend_anyway_refuses_to_start(
    backend: engine.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "fastest_backend", lambda *_: backend)
    with pytest.raises(ExactnessError, match="on extremes gives"):
        Engine(engine.TorchExecutor(random_model(SHAPE, 3))).known_answer_test()


CAPPED = """
import hashlib, json, sys
import torch
from inference import torch_engine as engine
from tests.inference.test_backends import SHAPE, outcome, random_model
q = torch.full((20, 512), 127, dtype=torch.int8)
wrong = bool((torch._int_mm(q, q[:1].t().expand(512, 24).contiguous()) != 127 * 127 * 512).any())
chosen = engine.fastest_backend("cpu", 1)
found = outcome(engine.TorchExecutor(random_model(SHAPE, 3)))
print(json.dumps({"wrong": wrong, "exact": engine.is_exact(engine.BACKENDS[1], "cpu"), "chosen": chosen.name,
                  "outcome": [hashlib.sha256(part).hexdigest() for part in found]}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("cap", ["AVX2", "AVX512_CORE"])
def test_int8_without_vnni_is_noticed_and_the_result_stays_right(cap: str) -> None:
    """The library is told that the CPU has less than it has. Where its int8 product then saturates, it is not used."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": cap, "OMP_NUM_THREADS": "1"}
    if cap == "AVX2":
        environment["ATEN_CPU_CAPABILITY"] = "avx2"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", CAPPED]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(done.stdout)
    print(said)
    assert not (said["wrong"] and said["exact"])
    assert said["chosen"] != "int8" or said["exact"]
    right = outcome(NumpyExecutor(random_model(SHAPE, 3)))
    assert said["outcome"] == [hashlib.sha256(part).hexdigest() for part in right]


def test_products_of_random_operands_are_those_of_numpys_integers() -> None:
    dice = np.random.default_rng(5)
    q, weight = (dice.integers(-127, 128, (rows, 2100)) for rows in (7, 24))
    for backend in engine.BACKENDS:
        if engine.is_exact(backend, "cpu"):
            packed = backend.pack(torch.from_numpy(weight.astype(np.int8)), 127)
            found = packed.multiply(torch.from_numpy(q.astype(np.float32)))
            assert np.array_equal(found.long().numpy(), q @ weight.T), backend.name


@pytest.mark.parametrize("inputs, magnitude, tiles", [(1040, 127, 1), (1041, 127, 2), (2080, 63, 1), (2100, 127, 3)])
def test_float32_tiles_are_as_few_as_the_weights_magnitudes_allow(inputs: int, magnitude: int, tiles: int) -> None:
    """Of both executors, whatever the format's bound; inputs of the weights' own signs reach the largest sum there is.
    One row and a few are multiplied in other ways than many."""
    dice = np.random.default_rng(inputs)
    weight = (magnitude * dice.choice([-1, 1], (5, inputs))).astype(np.int8)
    ours, others = product_tiles(weight), engine.FLOAT32.pack_weight(torch.from_numpy(weight), 127)
    assert len(ours) == len(others) == tiles
    worst = 127 * np.sign(weight).astype(np.int64)
    for q in (worst[:1], worst[:2], worst[:3], worst, -worst, dice.integers(-127, 128, (9, inputs))):
        exact = q @ weight.T.astype(np.int64)
        assert np.array_equal(exact_product(q.astype(np.float32), ours), exact)
        assert np.array_equal(engine.FLOAT32.multiply(torch.from_numpy(q).float(), others).numpy(), exact)
