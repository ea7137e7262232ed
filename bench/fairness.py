"""Deals against bonds: are tasks dealt, and checks drawn, in proportion to what is at stake? `make fairness`

Pearson's chi-square of 10,000 tasks (executors) and of their checks (first seats), over bonds from 1 to 144, by the
chain's own rule of drawing; and what somebody is dealt who splits one bond among several operators. The mix is fixed:
the numbers are the same on every machine.
"""

import argparse
from collections import Counter
from collections.abc import Sequence

from consensus.work.deal import Candidate, Purpose, draw
from primitives.hashing import keccak

BONDS = (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)
POINT_999 = {11: 31.26}
"""99.9 % points of chi-square by degrees of freedom: a fair draw is above them once in a thousand mixes."""


def drawn(purpose: Purpose, bonds: Sequence[int], tasks: int) -> list[int]:
    """How often each of these bonds comes first in so many draws."""
    fleet = [Candidate((number + 1).to_bytes(20, "big"), bond) for number, bond in enumerate(bonds)]
    found: Counter[bytes] = Counter()
    for number in range(tasks):
        task = keccak(b"fair" + number.to_bytes(4, "big"))
        found[draw(keccak(b"fairness"), purpose, task, 0, fleet, 1)[0]] += 1
    return [found[candidate.key] for candidate in fleet]


def chi_square(counts: Sequence[int], bonds: Sequence[int]) -> float:
    """Pearson's sum against shares of the bonds."""
    total, drawn_in_all = sum(bonds), sum(counts)
    wanted = [drawn_in_all * bond / total for bond in bonds]
    return sum((count - want) ** 2 / want for count, want in zip(counts, wanted, strict=True))


def main() -> bool:
    """Print the tables; whether every draw was fair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    tasks = parser.parse_args().tasks
    fair = True
    for what, purpose in (("executors", Purpose.DEAL), ("verifiers", Purpose.AUDIT)):
        counts = drawn(purpose, BONDS, tasks)
        found, point = chi_square(counts, BONDS), POINT_999[len(BONDS) - 1]
        fair &= found < point
        print(f"{what} of {tasks:,} tasks: chi-square {found:.2f}; a fair draw stays below {point} (99.9 %)")
        print(f"  {'bond':>6}{'share':>9}{'drawn':>8}{'expected':>10}")
        for bond, count in zip(BONDS, counts, strict=True):
            share = bond / sum(BONDS)
            print(f"  {bond:>6}{100 * share:>8.2f} %{count:>7}{tasks * share:>10.1f}")
    whole = drawn(Purpose.DEAL, (40, 60), tasks)[0]
    split = sum(drawn(Purpose.DEAL, (10, 10, 10, 10, 60), tasks)[:4])
    print(f"a bond of 40 % is dealt {100 * whole / tasks:.2f} %, split among four {100 * split / tasks:.2f} %")
    print("fair" if fair else "NOT FAIR")
    return fair


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
