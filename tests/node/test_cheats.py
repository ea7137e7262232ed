"""What the cheats on demand compute, and how far it takes them in a dispute."""

from pathlib import Path

import pytest

from inference import program as cip
from inference.build import random_model
from inference.defence import Party
from inference.engine import Engine
from inference.model import Model
from inference.opening import Execution
from inference.ops import Task
from inference.reference import NumpyExecutor
from inference.witness import record, work
from node.cheats import KINDS, LAYER_SKIPPERS, Stubborn, executor_of, parse, services, skipped_work
from node.exits import Fatal
from primitives.params import ChainParams
from tests.inference import game

SHAPE = cip.Shape(
    vocabulary=37, context=96, width=24, layers=3, heads=4, kv_heads=2, head_width=6, rotary=6, hidden=40,
    norm_epsilon_q32=42950, layers_per_group=2,
)  # fmt: skip
PROMPT, SEED, KEY = [3, 1, 4, 1, 5, 9, 2, 6], bytes(range(32)), bytes(range(32, 64))


@pytest.fixture(scope="module")
def model() -> Model:
    return random_model(SHAPE, 5, stop=(36,))


def answered(kind: str, model: Model) -> tuple[Task, Execution, bytes]:
    """The task, the execution as the cheat has it, and the root that it committed."""
    executor = executor_of(kind, model, 16)
    answer = Engine(executor).generate(PROMPT, 6, 45_000, 0, SEED, KEY)
    task = Task(cip.GENERATE, len(PROMPT), len(answer.tokens), SEED, 45_000, 0)
    return task, record(executor, task, KEY, PROMPT, answer.tokens), answer.root


@pytest.mark.parametrize("kind", ["wrong-layer", "stale-kv", "small-model"])
def test_another_program_is_consistent_in_its_lies_and_convicted(model: Model, kind: str) -> None:
    task, theirs, root = answered(kind, model)
    assert theirs.statement.trace == root, "checking its own answer it finds the root that it committed"
    accused = Party(theirs, executor_of(kind, model, 1).model, skipped_work if kind in LAYER_SKIPPERS else work)
    honest = Party(record(NumpyExecutor(model), task, KEY, PROMPT, theirs.output), model)
    assert honest.root != root
    played = game.play(honest, accused, None)
    assert played.convicted
    assert played.rule == {"wrong-layer": "rescale", "stale-kv": "leaf", "small-model": "dot"}[kind]


def test_whoever_challenges_the_truth_can_go_to_the_end_and_loses(model: Model) -> None:
    _, execution, _ = answered("false-challenge", model)
    played = game.play(Stubborn(execution, model), Party(execution, model), None)
    assert not played.convicted


def test_who_cheats_is_told_by_kind_and_number() -> None:
    assert parse("wrong-layer", 4) == {1: "wrong-layer:1"}
    assert parse("small-model:3", 4) == {3: "small-model:3"}
    assert parse("colluding:2", 4) == {2: "colluding:2", 3: "colluding:2"}
    for text, said in (("lies", "no cheat 'lies'"), ("small-model:4", "validators are 0 to 3"),
                       ("colluding:3", "0 to 3"), ("small-model:x", "0 to 3")):  # fmt: skip
        with pytest.raises(Fatal, match=said):
            parse(text, 4)


def test_nobody_cheats_on_another_chain_than_a_devnet() -> None:
    for kind in KINDS:
        inference, disputes = services(f"{kind}:1", ChainParams())
        assert (inference.conduct.kind, disputes.conduct.kind) == (kind, kind)
        with pytest.raises(Fatal, match="only a node of a devnet"):
            services(f"{kind}:1", ChainParams(devnet=0))
    with pytest.raises(Fatal, match="known are wrong-token"):
        services("guess", ChainParams())


def test_honest_code_does_not_know_the_cheats() -> None:
    """They are reached from the configuration alone."""
    root = Path(__file__).parents[2]
    known = {path.name for folder in ("node", "inference", "rpc", "p2p", "chain", "vm") for path in
             (root / folder).rglob("*.py") if "node.cheats" in path.read_text()}  # fmt: skip
    assert known <= {"cheats.py", "node.py", "devnet.py", "cli.py", "worker.py", "config.py"}
