"""What a program of each kind consists of: extents, tensors, tables, cost, and the manifests that are refused."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from inference import program as cip
from inference import tables
from inference.build import build_model, random_model
from inference.model import check_values

GEMMA = cip.Shape(37, 96, 24, 7, 4, 2, 6, 6, 40, 4295, 2, "gemma3", 16, 3, 168)
BERT = cip.Shape(37, 96, 24, 3, 4, 4, 6, 0, 40, 4295, 1, "bert")


@pytest.mark.parametrize(
    ("shape", "changes", "said"),
    [
        (GEMMA, {"window": 0}, "shape.window is 0, kind gemma3 allows 1"),
        (GEMMA, {"window": cip.CONTEXT_MAX + 1}, "shape.window"),
        (GEMMA, {"window_pattern": 0}, "shape.window_pattern is 0"),
        (GEMMA, {"score_divisor": 1 << 21}, "shape.score_divisor"),
        (GEMMA, {"kind": "llama"}, "shape.window is 16, kind llama allows 0..0"),
        (BERT, {"rotary": 2}, "shape.rotary 2 must be 0"),
        (BERT, {"layers_per_group": 2}, "layers_per_group 2"),
        (BERT, {"context": cip.BIDIRECTIONAL_CONTEXT_MAX + 1}, "shape.context is 8193"),
        (BERT, {"score_divisor": 3}, "shape.score_divisor is 3, kind bert allows 0..0"),
        (BERT, {"kind": "roberta"}, "'roberta' is not supported"),
    ],
)
def test_a_shape_has_the_extents_of_its_kind_alone(shape: cip.Shape, changes: dict[str, Any], said: str) -> None:
    cip.check_shape(shape)
    with pytest.raises(cip.ProgramError, match=said):
        cip.check_shape(dataclasses.replace(shape, **changes))


def test_every_third_layer_sees_everything() -> None:
    assert [GEMMA.local(layer) for layer in range(7)] == [True, True, False, True, True, False, True]
    assert not any(dataclasses.replace(GEMMA, window_pattern=1).local(layer) for layer in range(7))
    assert not any(BERT.local(layer) for layer in range(3))


def test_groups_and_tasks() -> None:
    assert (GEMMA.groups, BERT.groups) == (4, 4)
    assert (GEMMA.tasks(), BERT.tasks()) == (("generate", "embed", "score"), ("embed",))


@pytest.mark.parametrize("kind", sorted(cip.KINDS))
@pytest.mark.parametrize("terms", [1, 2])
def test_a_manifest_of_every_kind_is_canonical(kind: str, terms: int) -> None:
    shape = {"gemma3": GEMMA, "bert": BERT}.get(kind) or cip.Shape(37, 96, 24, 3, 4, 2, 6, 6, 40, 4295, 2, kind)
    model = random_model(shape, 3, terms=terms)
    encoded = model.manifest.encode()
    assert cip.decode_manifest(encoded) == model.manifest
    assert bool(model.manifest.two_term) == (terms == 2)
    assert set(model.tensors) == set(cip.tensor_table(shape, model.manifest.two_term))


@pytest.mark.parametrize(
    ("shape", "path", "value", "said"),
    [
        (GEMMA, ("architecture", "window"), 0, "shape.window is 0"),
        (BERT, ("architecture", "window"), 16, "architecture must have exactly the keys"),
        (GEMMA, ("architecture", "kind"), ["gemma3"], "is not supported"),
        (GEMMA, ("linears", "head", "terms"), 3, "linears.head.terms is 3"),
        (GEMMA, ("linears", "head", "terms"), 2, "tensors must have exactly the keys"),
        (GEMMA, ("knownAnswers",), [{"task": "embed"}], "must have exactly the keys"),
        (BERT, ("knownAnswers",), [{"task": "generate"}], "'generate', kind bert has embed"),
        (GEMMA, ("knownAnswers",), [7], "'None', kind gemma3"),
    ],
)
def test_a_hostile_manifest_is_refused_by_its_field(shape: cip.Shape, path: tuple, value: Any, said: str) -> None:
    manifest = cip.parse_json(random_model(shape, 3).manifest.encode())
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(cip.ProgramError, match=said):
        cip.decode_manifest(cip.canonical_json(manifest))


def test_two_terms_need_a_bound_of_63_and_stay_within_theirs() -> None:
    model = random_model(GEMMA, 3, terms=2)
    manifest = cip.parse_json(model.manifest.encode())
    name = sorted(model.manifest.two_term)[0]
    manifest["linears"][name]["bound"] = 62
    with pytest.raises(cip.ProgramError, match="bound is 62, allowed 63"):
        cip.decode_manifest(cip.canonical_json(manifest))
    tensors = dict(model.tensors)
    tensors[f"{name}.weight2"] = np.full_like(tensors[f"{name}.weight2"], 64)
    with pytest.raises(cip.ProgramError, match=r"weight2 spans 64\.\.64, its bound is 63"):
        build_model("x", GEMMA, tensors, model.manifest.linears, 22)


def test_cost_counts_windows_as_full_and_both_directions_of_an_encoder() -> None:
    """By hand: width 24, 4 + 2 + 2 heads of 6, hidden 40, vocabulary 37; seven layers, five of them local."""
    products = 24 * 48 + 24 * 24 + 3 * 24 * 40
    seen = 2 * 4 * 6
    assert cip.cost(GEMMA) == cip.Cost(7 * products + 5 * seen * 16, 2 * seen, 24 * 37)
    assert cip.cost(dataclasses.replace(GEMMA, context=10)).a == 7 * products + 5 * seen * 10
    encoder = 24 * 72 + 24 * 24 + 2 * 24 * 40
    assert cip.cost(BERT) == cip.Cost(3 * encoder, 3 * 2 * seen, 0)
    twice = cip.cost(GEMMA, {"head", "layers.0.down", "layers.6.qkv"})
    assert twice == cip.Cost(7 * products + 5 * seen * 16 + 24 * 40 + 24 * 48, 2 * seen, 2 * 24 * 37)


def test_gates_are_their_functions_and_end_exactly() -> None:
    x = (np.arange(16384) - 8192 + 0.5) * 64 / 65536
    exact = {
        tables.gelu: [(1 + math.erf(v / math.sqrt(2))) / 2 for v in x],
        tables.gelu_tanh: [(1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2 for v in x],
        tables.sigmoid: [1 / (1 + math.exp(-2 * v)) for v in x],
    }
    for make, values in exact.items():
        assert np.abs(make() - np.array(values) * 65536).max() < 0.5001
        assert (make()[0], make()[-1]) == (0, 65536)
        assert (np.diff(make()) >= 0).all()


def test_local_layers_turn_by_their_own_angles() -> None:
    made = tables.tables(GEMMA, tables.Rope(1_000_000, "linear", tables.Decimal(8)), tables.Rope(10_000))
    for name, theta, factor in (("", 1e6, 8), ("local_", 1e4, 1)):
        angle = np.arange(96)[:, None] * theta ** (-np.arange(3) * 2 / 6) / factor
        assert np.abs(made[f"table.{name}cos"] - np.cos(angle) * (1 << 14)).max() < 0.51
        assert np.abs(made[f"table.{name}sin"] - np.sin(angle) * (1 << 14)).max() < 0.51


def test_a_gate_that_lets_more_through_than_there_is_breaks_a_proof() -> None:
    model = random_model(BERT, 3)
    gate = model.tensors["table.gelu"].copy()
    gate[9000] = 65537
    with pytest.raises(cip.ProgramError, match=r"table\.gelu spans"):
        check_values(dataclasses.replace(model, tensors={**model.tensors, "table.gelu": gate}))
