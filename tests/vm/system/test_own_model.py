"""Work on models that few can run is paid by who asks for it, and votes for nobody: it counts only on a listed model
that at least four operators with half of the bond serve."""

import pytest
from market_world import SHAPE, UNLISTED, World, operator_of

from inference.opening import shape_record
from primitives.hashing import keccak
from primitives.task import Status
from vm.system import abi, models

RATE = 10**9
RUNNER = operator_of(0)


def own_model(world: World, *servers: bytes) -> None:
    """A model of one's own, registered by one operator and served by these."""
    fields = UNLISTED, "mine", "", "MIT", shape_record(SHAPE, 0), keccak(b"program of mine"), [1], RATE
    world.ctx.call(models.HANDLERS, abi.REGISTER_MODEL, *fields, sender=RUNNER)
    for server in servers:
        world.ctx.call(models.HANDLERS, abi.SERVE, UNLISTED, RATE, sender=server)


def counted(world: World) -> int:
    """Multiply-adds that this epoch counts so far, of everybody."""
    return sum(sum(world.credit(validator.operator)) for validator in world.spec.validators)


def world_of(**spec: int) -> World:
    world = World(canaries_per_validator=0, epoch_blocks=128, **spec)
    world.block()
    return world


def test_a_model_that_nobody_else_has_sells_no_checked_answer_and_earns_no_credit() -> None:
    world = world_of()
    own_model(world, RUNNER)
    world.block()
    code, text = world.refused(model=UNLISTED, assurance=1)
    assert code == "assurance", text
    task = world.post(model=UNLISTED)
    world.finish(task)
    assert world.status(task) == Status.UNVERIFIED
    (settled,) = world.of(abi.TASK_SETTLED, task)
    assert settled["burnedWei"] * 5 >= settled["fee"], "whoever asks itself burns a fifth of what it pays"
    assert counted(world) == 0


def test_accomplices_who_serve_it_too_make_it_checked_and_paid_and_no_credit_either() -> None:
    world = world_of()
    own_model(world, *(validator.operator for validator in world.spec.validators))
    world.block()
    task = world.post(model=UNLISTED, assurance=2)
    world.finish(task)
    assert world.status(task) == Status.SETTLED
    (receipt,) = world.of(abi.RECEIPT, task)
    assert len(receipt["verifiers"]) == 2
    assert counted(world) == 0, "it is not listed"


@pytest.mark.parametrize(("serving", "counts"), [(3, False), (4, True)])
def test_a_listed_model_that_few_serve_is_paid_and_counts_for_nobody(serving: int, counts: bool) -> None:
    world = world_of(validators=6, serving=serving)
    task = world.post(assurance=2)
    world.finish(task)
    assert world.status(task) == Status.SETTLED
    (settled,) = world.of(abi.TASK_SETTLED, task)
    assert settled["executorWei"] > 0
    assert (counted(world) > 0) is counts
