"""Whoever knows the next block's randomness (its own, after a run of its own blocks) chooses nothing by what it does
now: stakes, declarations and withdrawals of this block change no draw of the next ones."""

import pytest
from market_world import MODEL, World, operator_of

from primitives.hashing import keccak
from primitives.params import COIN
from primitives.task import Status
from vm.system import abi, delegation, models, staking

ATTACKER = operator_of(0)
RICH = keccak(b"rich")[12:]


def call(world: World, function, *arguments, sender=ATTACKER, value=0):
    handlers = {**staking.HANDLERS, **delegation.HANDLERS, **models.HANDLERS}
    return world.ctx.call(handlers, function, *arguments, sender=sender, value=value)


def drawn_after(change, seed: int, serving: int = 8) -> tuple[bytes, ...]:
    """Verifiers of an answer whose draw comes in the block after `change` was made."""
    world = World(validators=8, serving=serving, canaries_per_validator=0, seed=seed)
    world.ctx.balances[RICH] = world.ctx.balances[ATTACKER] = 10**6 * COIN
    world.recount()
    world.block()
    call(world, abi.DECLARE_COMMISSION, 0)
    task = world.post(temperature_q16=1 << 16)
    world.block(2)
    world.submit(world.task(task).slots[0], task)
    world.block(world.delay - 1)
    change(world)
    world.check = lambda: None  # type: ignore[method-assign]  # delegations are not this world's to count
    world.block()
    assert world.status(task) == Status.DRAWN
    return world.task(task).verifiers


CHANGES = {
    "bond": lambda world: call(world, abi.BOND, value=12_345 * COIN),
    "unbond a part": lambda world: call(world, abi.UNBOND, 4_321 * COIN),
    "delegate": lambda world: call(world, abi.DELEGATE, ATTACKER, sender=RICH, value=77_777 * COIN),
    "declare another rate": lambda world: call(world, abi.SERVE, MODEL, 1),
    "stop serving": lambda world: call(world, abi.STOP_SERVING, MODEL),
    "stop and serve again": lambda world: (call(world, abi.STOP_SERVING, MODEL), call(world, abi.SERVE, MODEL, 10**9)),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_is_done_after_an_answer_changes_nothing_in_who_checks_it(change: str) -> None:
    changed = [seed for seed in range(12)
               if drawn_after(CHANGES[change], seed) != drawn_after(lambda world: None, seed)]  # fmt: skip
    assert not changed, f"seeds in which an operator chose its verifiers by: {change}"


def test_who_begins_to_serve_after_an_answer_does_not_check_it() -> None:
    def begin(world: World) -> None:
        call(world, abi.SERVE, MODEL, 10**9, sender=operator_of(7))

    for seed in range(12):
        assert drawn_after(begin, seed, serving=7) == drawn_after(lambda world: None, seed, serving=7)
