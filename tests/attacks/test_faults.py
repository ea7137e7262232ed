"""Honest validators whose machines fail: offline for a while or for long, results lost, transactions dropped and
reordered. Whatever happens to them, nobody honest is slashed or loses a dispute, and every task comes to its end.

    LABORA_FAULT_TASKS=100000 python -m pytest tests/attacks/test_faults.py -m demand
"""

import os
import random

import pytest

from primitives.transaction import Transaction
from tests.attacks.fleet import Fleet, Said, Validator
from vm.system import abi, views

TASKS, TASKS_ON_DEMAND = 60, int(os.environ.get("LABORA_FAULT_TASKS", "100000"))
POSTS_A_BLOCK = 3
REST_BLOCKS = 400
"""After the last task, for what is late."""
SHORT, LONG = (1, 6), (40, 160)
"""Blocks that a node is away: a restart, a disk that hangs; an outage."""


class Faulty(Fleet):
    """Every block something may go wrong with somebody."""

    def __init__(self, seed: int, validators: int = 5) -> None:
        super().__init__(validators=validators)
        self.rng = random.Random(seed)
        self.away: dict[int, int] = {}
        """Validator -> the block in which it is back."""

    def block(self, *others: Transaction) -> None:
        height, rng = self.chain.height, self.rng
        for index, validator in enumerate(self.validators):
            if rng.random() < 0.02:
                self.away[index] = height + rng.randrange(*(LONG if rng.random() < 0.1 else SHORT))
            if rng.random() < 0.01:
                validator.results.clear()  # a crash before the journal: all is computed again
            validator.is_offline = self.away.get(index, 0) > height
        super().block(*others)

    def _transactions(self, validator: Validator, nonce: int) -> list[tuple[Said | None, Transaction]]:
        """Some never arrive; those of a sender that come after it wait for it."""
        found = super()._transactions(validator, nonce)
        kept = next((i for i in range(len(found)) if self.rng.random() < 0.05), len(found))
        return found[:kept]


def run(tasks: int, seed: int) -> Faulty:
    """Ask for so many, and wait for the last."""
    fleet = Faulty(seed)
    chain, rng, left = fleet.chain, fleet.rng, tasks
    while left:
        count = min(left, rng.randrange(POSTS_A_BLOCK + 1))
        nonce = chain.reader.nonce(chain.poster)
        prompts = [tuple(rng.randrange(36) for _ in range(rng.randrange(1, 9))) for _ in range(count)]
        fleet.block(*(
            chain.post(nonce + i, prompt, rng.randrange(1, 5), 65_536, assurance=rng.randrange(2))
            for i, prompt in enumerate(prompts)
        ))  # fmt: skip
        posted = sum(receipt.status for receipt in chain.receipts[:count])
        left -= posted
    for _ in range(REST_BLOCKS):
        if not views.open_disputes(chain.reader) and not open_tasks(fleet):
            break
        fleet.block()
    return fleet


def open_tasks(fleet: Fleet) -> set[bytes]:
    """Tasks that have no end yet."""
    posted = {event["task"] for _, event in fleet.chain.events(abi.TASK_POSTED)}
    ended = {event["task"] for kind in (abi.TASK_SETTLED, abi.TASK_REFUNDED) for _, event in fleet.chain.events(kind)}
    return posted - ended


def nobody_honest_lost(fleet: Faulty, tasks: int) -> None:
    chain = fleet.chain
    assert not list(chain.events(abi.SLASHED)) and not list(chain.events(abi.LIST_REFUTED))
    assert not list(chain.events(abi.DISPUTE_ENDED_LOG)) and not list(chain.events(abi.ITEM_FAILED))
    assert not open_tasks(fleet)
    settled = len(list(chain.events(abi.TASK_SETTLED)))
    missed = list(chain.events(abi.TASK_MISSED))
    print(f"{settled} of {tasks} settled, {len(missed)} misses, {chain.height} blocks")
    assert settled > tasks * 3 // 4 and missed, "things did go wrong"
    for operator in chain.operators:
        view = views.operator(chain.reader, operator.operator, chain.params, chain.height + 1)
        assert view is not None and view.active and not view.slashes


@pytest.mark.slow
def test_honest_validators_whose_machines_fail_are_never_slashed(seeds: list[int]) -> None:
    seed = int(os.environ.get("LABORA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed} (repeat with LABORA_SEED={seed})")
    seeds.append(seed)
    nobody_honest_lost(run(TASKS, seed), TASKS)


@pytest.mark.demand
def test_a_hundred_thousand_times(seeds: list[int]) -> None:
    seed = int(os.environ.get("LABORA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed} (repeat with LABORA_SEED={seed})")
    seeds.append(seed)
    nobody_honest_lost(run(TASKS_ON_DEMAND, seed), TASKS_ON_DEMAND)
