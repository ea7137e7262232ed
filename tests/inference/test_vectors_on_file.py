"""docs/vectors/: what a stranger's executor is held to holds numpy, torch and the oracle too."""

import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from inference import program as cip
from inference.engine import Engine, make_executor
from inference.kv import Segment
from inference.model import Model, check_values, tensor_root
from inference.reference import NumpyExecutor, hadamard, normalise, quantise
from inference.sampling import log2_likelihood, sample
from inference.tables import exp2
from inference.trace import root
from tests.inference import make_vectors
from tests.inference.make_vectors import FOLDER, SHARED

ENGINES = ["numpy", pytest.param("torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="no torch"))]


def test_the_files_are_what_the_oracle_gives() -> None:
    """After a change of the program: python -m tests.inference.make_vectors; once it shipped, another format name."""
    found = {path.name: path.read_text() for path in FOLDER.iterdir() if path.name != "receipts.json"}
    assert found == make_vectors.files()
    assert sum(map(len, found.values())) < 200_000


def load(case: dict[str, Any]) -> Model:
    """The model of a case, from the file alone but for the tables that all programs share."""
    manifest = cip.decode_manifest(cip.canonical_json(case["manifest"]))
    tensors = {name: make() for name, make in SHARED.items() if name in case["manifest"]["tensors"]}
    for tensor in manifest.tensors:
        if tensor.name not in tensors:
            flat = np.frombuffer(bytes.fromhex(case["tensors"][tensor.name]), np.dtype(tensor.dtype).newbyteorder("<"))
            tensors[tensor.name] = flat.reshape(tensor.shape)
        assert tensor_root(tensor, tensors[tensor.name]) == tensor.root
    model = Model(manifest, manifest.model_id(), tensors)
    check_values(model)
    return model


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", sorted(cip.KINDS))
def test_programs(kind: str, engine: str) -> None:
    for case in json.loads((FOLDER / f"{kind}.json").read_text()):
        model = load(case)
        assert model.model_id.hex() == case["modelId"]
        executor, expected = make_executor(engine, model), case["sequence"]
        sequence = executor.new_sequence()
        [fed] = executor.feed([Segment(sequence, expected["tokens"], 0)])
        assert fed.logits.tolist() == expected["logits"]
        by_position = zip(*([row.tobytes().hex() for row in group] for group in fed.payloads), strict=True)
        assert [list(states) for states in by_position] == expected["payloads"]
        for task in case["tasks"]:
            assert answer(Engine(executor), task) == (task["answer"], task["root"])


def answer(engine: Engine, task: dict[str, Any]) -> tuple[list[int], str]:
    key = bytes.fromhex(task["traceKey"])
    if task["task"] != cip.GENERATE:
        made = getattr(engine, task["task"])(task["tokens"], key)
        return made.vector, made.root.hex()
    how = (task["maxTokens"], task["temperatureQ16"], task["topK"], bytes.fromhex(task["seed"]), key)
    made = engine.generate(task["tokens"], *how)
    return made.tokens, made.root.hex()


def test_operations_of_the_reference_that_stand_alone() -> None:
    """The others are parts of larger functions; whole programs hold them."""
    cases = json.loads((FOLDER / "operations.json").read_text())

    def wide(row: list[int]) -> np.ndarray:
        return np.array([row], np.int64)

    for case in cases["window"]:
        y, bits = normalise(wide(case["row"]))
        assert (y[0].tolist(), int(bits[0])) == (case["result"]["y"], case["result"]["b"])
    for case in cases["quantise"]:
        q, top, bits = quantise(wide(case["row"]).astype(np.float64))
        assert {"q": q[0].astype(int).tolist(), "top": int(top[0, 0]), "b": int(bits[0, 0])} == case["result"]
    for case in cases["rotate"]:
        turned = np.array(case["row"], np.float64).reshape(-1, case["block"]) @ hadamard(case["block"])
        assert turned.reshape(-1).astype(np.int64).tolist() == case["result"]
    for case in cases["scoreScale"]:
        assert list(cip.score_scale(case["headWidth"], case["divisor"])) == case["result"]
    for case in cases["sample"]:
        how = (bytes.fromhex(case["seed"]), case["position"], case["temperatureQ16"], case["topK"])
        assert sample(np.array(case["logits"], np.int64), *how, exp2()) == case["result"]
    for case in cases["log2Likelihood"]:
        assert log2_likelihood(np.array(case["logits"], np.int64), case["token"], exp2()) == case["result"]
    for case in cases["root"]:
        assert root([bytes.fromhex(leaf) for leaf in case["leaves"]]).hex() == case["result"]


def test_a_file_that_lies_is_seen() -> None:
    [case, _] = json.loads((FOLDER / "llama.json").read_text())
    model, task = load(case), case["tasks"][0]
    changed = model.tensors["layers.2.down.weight"].copy()
    changed[0, 0] ^= 1
    forged = Model(model.manifest, b"", {**model.tensors, "layers.2.down.weight": changed})
    assert answer(Engine(NumpyExecutor(model)), task)[1] == task["root"]
    assert answer(Engine(NumpyExecutor(forged)), task)[1] != task["root"]
