"""Whatever people, operators and contracts send, in whatever order, over whatever blocks: a call succeeds or is
refused, no item of a prologue fails, every counter is what the open tasks and disputes add up to, every wei has a
place, and when everybody falls silent everything comes to its end and is forgotten.

An assertion that a message can reach would stop every node of a chain at the same block.
"""

import random

import pytest
from any_program import drained, run

PROGRAMS = 100


def test_nothing_that_is_sent_stops_a_block_and_everything_comes_to_an_end(seed: int) -> None:
    drained(run(seed, "llama", 200))


@pytest.mark.demand
def test_a_hundred_programs(seed: int, seeds: list[int]) -> None:
    rng = random.Random(seed)
    for _ in range(PROGRAMS):
        seeds.append(rng.randrange(2**32))
        print(f"program {seeds[-1]}")
        drained(run(seeds[-1], rng.choice(("llama", "bert")), 500))
