"""A model file that differs from its root in one weight, by one: what it computes is contradicted, and the weight
itself convicts it, because the chain knows the root that every weight must lead to."""

from dataclasses import replace

import numpy as np

from inference.defence import Party
from inference.model import Model
from inference.reference import NumpyExecutor
from primitives.task import Status
from tests.attacks.attacks import CHEAT, hit, outcome
from tests.attacks.fleet import Fleet, Program
from vm.system import abi

WEIGHT = "layers.1.gate_up.weight"


def changed(model: Model) -> Model:
    """The model with its heaviest used weight one lighter, under the same id."""
    weight = model.tensors[WEIGHT].copy()
    place = np.unravel_index(np.abs(weight.astype(np.int32)).argmax(), weight.shape)
    weight[place] -= np.sign(weight[place])
    return replace(model, tensors={**model.tensors, WEIGHT: weight})


def test_one_weight_of_another_file_is_found_and_judged() -> None:
    fleet = Fleet({CHEAT: "small-model"})  # asks its second program, which is another one here
    liar = fleet.validators[CHEAT]
    liar.other = Program(NumpyExecutor(changed(fleet.chain.model)), Party)
    task = hit(fleet, by_executor=True)
    assert fleet.until_quiet(task) == Status.SETTLED
    found = outcome("a model file that differs", fleet, task)
    assert (found.attempt, found.ended[0]) == (1, abi.ENDED_REFUTED)
    assert found.judged == "layers.1.gate_up.sums1 (dot)"
    assert set(found.slashed) == {f"validator {CHEAT}"}
