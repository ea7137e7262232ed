"""The two real models that public packages carry, imported: the quality that the program promises. Minutes, 320 MB to
download: on demand only."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from inference.engine import Engine
from inference.model import load
from inference.reference import NumpyExecutor
from inference.tokenizer import open_tokenizer

BENCH = Path(__file__).resolve().parents[2] / "bench"
pytestmark = pytest.mark.demand


@pytest.fixture(scope="module")
def real_models() -> ModuleType:
    sys.path.insert(0, str(BENCH))
    spec = importlib.util.spec_from_file_location("real_models", BENCH / "real_models.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gemma_3_loses_less_than_half_a_percent_of_perplexity(real_models: ModuleType, tmp_path: Path) -> None:
    report = real_models.bring_in(real_models.GEMMA, tmp_path, 16384)
    assert report["positions"] == 16384 and report["parameters"] == 268_098_176
    assert report["perplexityLossPercent"] < 0.5
    assert report["argmaxAgreement"] > 0.94 and report["divergenceNats"] < 0.01
    assert max(report["layerErrors"]) < 0.04
    model = load(Path(report["folder"]))
    tokenizer, engine = open_tokenizer(Path(report["folder"]), model.manifest.tokenizer), Engine(NumpyExecutor(model))
    prompt = tokenizer.encode("Question: Why is the sea salty?\nAnswer:")
    assert prompt[:3] == [2, 14977, 236787], "begin of text, then 'Question', ':'"
    answer = engine.generate(prompt, 12, 0, 0, bytes(32), bytes(32))
    assert "salt" in tokenizer.decode(answer.tokens)


def test_minilm_s_vectors_point_where_float_s_do(real_models: ModuleType, tmp_path: Path) -> None:
    report = real_models.bring_in(real_models.MINILM, tmp_path, 16384)
    assert report["sentences"] == 200
    assert report["cosineMean"] > 0.9995 and report["cosineLeast"] > 0.998
    assert report["nearestAgreement"] > 0.95 and report["nearestInFive"] > 0.99
    model = load(Path(report["folder"]))
    tokenizer, engine = open_tokenizer(Path(report["folder"]), model.manifest.tokenizer), Engine(NumpyExecutor(model))

    def likeness(*texts: str) -> float:
        a, b = (engine.embed(tokenizer.encode(text), bytes(32)).vector for text in texts)
        return sum(x * y for x, y in zip(a, b, strict=True)) / 2**30

    assert tokenizer.encode("The sea is calm.") == [101, 1996, 2712, 2003, 5475, 1012, 102]
    near = likeness("The sea is calm today.", "Today the ocean is quiet.")
    far = likeness("The sea is calm today.", "The committee approved the budget.")
    assert near > 0.6 > 0.2 > far
