"""Clusters of agreement cores in virtual time: agreement and progress over many seeds; mutants must be caught.

LABORA_SIM_SEED is the first seed (default 0), LABORA_SIM_SEEDS how many the slow test tries (default 1,000). A seed
that ever failed is added to KEPT.
"""

import os
import time
from collections import Counter

import pytest

from consensus.bft.core import Core
from consensus.bft.inputs import Input
from consensus.bft.outputs import Broadcast, Evidence, Output, Redeliver
from consensus.bft.timing import Timing
from primitives.vote import Proposal
from tests.sim.cluster import Cluster, Violation
from tests.sim.mutants import MUTATIONS

FIRST = int(os.environ.get("LABORA_SIM_SEED", "0"))
MANY = int(os.environ.get("LABORA_SIM_SEEDS", "1000"))
FEW = 100
KEPT: tuple[int, ...] = ()
"""Seeds that failed once."""


def run_seeds(first: int, count: int, seeds: list[int]) -> None:
    """Raises Violation, whose message names the seed."""
    started = time.process_time()
    for seed in range(first, first + count):
        seeds.append(seed)
        Cluster(seed).run()
    took = time.process_time() - started
    print(f"seeds {first} to {first + count - 1}: {count / max(took, 1e-9):.0f} seeds a second and core")


def test_clusters_agree_and_get_on(seeds: list[int]) -> None:
    run_seeds(FIRST, FEW, seeds)


@pytest.mark.slow
def test_clusters_agree_and_get_on_over_many_seeds(seeds: list[int]) -> None:
    run_seeds(FIRST + FEW, MANY - FEW, seeds)


def test_seeds_that_failed_once(seeds: list[int]) -> None:
    for seed in KEPT:
        run_seeds(seed, 1, seeds)


def test_a_seed_replays_to_the_same_world(seeds: list[int]) -> None:
    for seed in range(FIRST, FIRST + 5):
        seeds.append(seed)
        one, two = Cluster(seed).run(), Cluster(seed).run()
        assert (one.now, one.sequence, one.decisions, one.statements) == (
            two.now,
            two.sequence,
            two.decisions,
            two.statements,
        )


def test_the_faults_happen(seeds: list[int]) -> None:
    """The simulator would show nothing if its faults never met the code: they all do within 60 seeds."""
    seen: Counter[str] = Counter()

    class Watched(Core):
        def receive(self, event: Input) -> list[Output]:
            outputs = super().receive(event)
            for output in outputs:
                if isinstance(output, Broadcast) and isinstance(output.message, Proposal):
                    seen["proposal again"] += output.message.valid_round >= 0
                seen["evidence"] += isinstance(output, Evidence)
                seen["early message"] += isinstance(output, Redeliver)
            seen["later round"] += self.round > 0
            return outputs

        def resume(self) -> list[Output]:
            seen["replay"] += 1
            seen["replay with a lock"] += self.state.locked_round >= 0
            return super().resume()

    for seed in range(60):
        seeds.append(seed)
        Cluster(seed, Watched).run()
    names = ("proposal again", "evidence", "early message", "later round", "replay", "replay with a lock")
    assert all(seen[name] > 0 for name in names), seen


def killed_by(name: str, first: int, count: int, seeds: list[int]) -> int | None:
    """The first seed that shows the mutant, None if it survives them all."""
    for seed in range(first, first + count):
        seeds.append(seed)
        try:
            with MUTATIONS[name]():
                Cluster(seed).run()
        except AssertionError as caught:
            assert isinstance(caught, Violation) or str(seed) in str(caught)
            return seed
    return None


@pytest.mark.parametrize("name", [name for name in MUTATIONS if "locks" not in name])
def test_mutant_is_caught(name: str, seeds: list[int]) -> None:
    assert killed_by(name, 0, 100, seeds) is not None, f"{name}: survived 100 seeds"


@pytest.mark.demand
@pytest.mark.parametrize("name", [name for name in MUTATIONS if "locks" in name])
def test_mutant_of_the_lock_is_caught(name: str, seeds: list[int]) -> None:
    """Rare: it takes some node that decided alone and a liar that proposes next (the first lies near seed 900)."""
    assert killed_by(name, 0, 10_000, seeds) is not None, f"{name}: survived 10,000 seeds"


def test_timing_is_a_parameter() -> None:
    """Twice as patient everywhere, the cluster still agrees (it only takes longer)."""
    patient = Timing(propose_ms=3000, propose_growth_ms=1000, vote_ms=1000, vote_growth_ms=500, rebroadcast_ms=6000)
    Cluster(1, lambda address, _: Core(address, patient)).run()
