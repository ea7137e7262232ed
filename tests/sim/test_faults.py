"""Honest validators under faults (tests/sim/faults.py): a bounded share; `make faults` runs 100,000 tasks. LABORA_SEED
fixes the seed."""

import os
import random
from dataclasses import replace

import pytest

from node.duties import Result
from primitives.hashing import keccak
from tests.sim.faults import LIAR, Broken, Node, Place, chain_of, model

pytestmark = pytest.mark.slow
TASKS = 80


@pytest.mark.parametrize(("number", "who"), [(0, "honest"), (1, "one dishonest"), (2, "by bond")])
def test_nobody_honest_is_slashed_and_every_task_ends(number: int, who: str, seeds: list[int]) -> None:
    first = int(os.environ.get("LABORA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {first} (repeat with LABORA_SEED={first}), chain {number}: {who}")
    seeds.append(first)
    found = chain_of(first, number, TASKS, hours=False)
    print(found)
    assert found.tasks == TASKS == found.ends.total()
    assert found.ends["settled"] > TASKS // 2
    for fault in ("transactions lost", "transactions delayed", "transactions delivered twice"):
        assert found.faults[fault], fault
    assert bool(found.faults["garbage committed by the dishonest validator"]) is (number == 1)


def test_a_slash_of_somebody_who_counts_as_honest_is_seen(seeds: list[int]) -> None:
    place = Place(5, model(), 0)
    seeds.append(5)
    truth = place.run

    def run(node: Node, duty: object) -> Result:
        made = truth(node, duty)
        return replace(made, root=keccak(b"no trace")) if node is place.nodes[LIAR] and made.tokens else made

    place.run = run  # type: ignore[method-assign]
    with pytest.raises(Broken, match="validator 4 is honest and was slashed"):
        for _ in place.play(30):
            pass
