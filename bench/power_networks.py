"""Can work buy votes? Random networks under attack, played by the chain's own rules (consensus/work), epoch by epoch:

    python -m bench.power_networks [--networks 1000] [--seed 1] [--write docs/power-networks.md]

Each network has Pareto bonds, mixed hardware and one coalition that holds 1 to 40 % of the bond and 1 to 1,000 times
the fleet's compute for its bond, with one way to attack. Tasks are dealt by bond with room and effective rates,
credited by the share of bond that had room, and every epoch turns with `power.turn`. Owns the story of an epoch; every
number that a chain would compute comes from the chain's own functions. Deterministic for a seed; no clock, no files
read.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consensus.work import deal, power
from consensus.work.credit import epoch_work, next_credit, scaled_by_room
from primitives.params import ChainParams

PARAMS = ChainParams()
EPOCHS, ATTACK_FROM, ATTACK_UNTIL = 72, 16, 48
TASK_MACS = 10**9
CANARY_MACS = 10**7
LEAST_CREDIT = next_credit(PARAMS, 0, CANARY_MACS)
TASKS_AN_EPOCH = 24
AUDITORS = 2
STEP_BLOCKS = 10
LATE_EPOCHS = 6
"""A challenge that goes through both silences and clocks (180 blocks) holds a task's credit for so long."""
BOND_UNITS_MIN = 10**6  # 1,000 coins in units of 10^15 wei
ATTACKS = {
    "race": "much compute, nothing else: whatever is dealt is done at once",
    "saturate": "the coalition posts ten times the usual demand, so that only it has room left",
    "own tasks": "the coalition pays for tasks of its own, sized for itself, as many as the fleet's",
    "idle, then burst": "no work until the attack begins, then all of it",
    "burst at epoch ends": "a quarter of the epochs carry four times the demand, paid by the coalition",
    "others fail": "half to all of the honest operators miss everything during the attack",
    "others challenged": "every honest task is challenged, its credit comes six epochs late",
    "others idle": "the honest operators lose their models one after the other and never come back",
}


@dataclass
class Operator:
    """One validator: address, bond in units of 10^15 wei, what its machine does in a block."""

    key: bytes
    bond: int
    rate: int
    attacks: bool
    credit: int = 0
    scale: int = 1 << 16
    best: list[int] = field(default_factory=list)
    dealt: int = 0
    missed: int = 0
    late: list[tuple[int, int]] = field(default_factory=list)

    @property
    def trusted(self) -> int:
        """Effective rate, after misses."""
        floor = deal.capacity_floor(True, self.rate, self.bond, ())
        shown = max(self.best[-deal.RATE_EPOCHS :], default=0)
        return deal.effective_rate(self.rate, floor, shown) * self.scale >> 16


@dataclass(frozen=True)
class Outcome:
    """What an attack reached: the coalition's highest share of votes, of all bond, and the bound that was promised."""

    attack: str
    stake_share: float
    compute: float
    highest: float
    bound_broken: bool
    final: float


def play(seed: int, attack: str) -> Outcome:
    """One network from genesis to its last epoch."""
    dice = random.Random(f"{seed}/{attack}")
    fleet, share, compute = _fleet(dice)
    order = sorted(fleet, key=lambda operator: operator.key)
    sets = {0: {o.key: o.bond for o in order}, 1: {o.key: o.bond for o in order}}
    rho, highest, broken, last = 0, 0.0, False, 0.0
    failing = {o.key for o in order if not o.attacks and dice.random() < dice.uniform(0.5, 1)}
    for epoch in range(EPOCHS):
        done = _work(dice, order, sets[epoch], attack, epoch, failing)
        stakes = []
        for operator in order:
            executed, audited = done[operator.key]
            operator.credit = next_credit(PARAMS, operator.credit, epoch_work(executed, audited))
            entering = operator.key not in sets[epoch + 1]  # who fell out declares its rate anew: decision 012
            stakes.append(power.Stake(operator.key, operator.bond, operator.credit, entering=entering))
        turned = power.turn(PARAMS, epoch, stakes, sets[epoch + 1], rho, LEAST_CREDIT)
        sets[epoch + 2], rho = turned.powers, turned.rho
        if epoch < PARAMS.bootstrap_epochs:
            continue
        last = _coalition(order, turned.powers)
        highest = max(highest, last)
        broken = broken or _above_bound(order, turned, sets[epoch + 1])
    return Outcome(attack, share, compute, highest, broken, last)


def _fleet(dice: random.Random) -> tuple[list[Operator], float, float]:
    """Honest operators and a coalition of one to three identities; its share of bond and its compute for its bond."""
    honest = [
        Operator(dice.randbytes(20), int(BOND_UNITS_MIN * min(dice.paretovariate(1.16), 50)), 0, False)
        for _ in range(dice.randint(3, 20))
    ]
    total = sum(o.bond for o in honest)
    for operator in honest:
        operator.rate = max(1, int(TASK_MACS * dice.lognormvariate(0, 0.7)))
    share = dice.uniform(0.01, 0.40)
    compute = 10 ** dice.uniform(0, 3)
    names = dice.randint(1, 3)
    bond = int(total * share / (1 - share)) // names
    fair = sum(o.rate for o in honest) * bond // total
    coalition = [Operator(dice.randbytes(20), max(1, bond), max(1, int(fair * compute)), True) for _ in range(names)]
    held = sum(o.bond for o in coalition)
    return honest + coalition, held / (held + total), compute


def _work(
    dice: random.Random, order: Sequence[Operator], members: dict[bytes, int], attack: str, epoch: int,
    failing: set[bytes],
) -> dict[bytes, tuple[int, int]]:  # fmt: skip
    """(executed, audited) multiply-adds that every operator's epoch counts."""
    during = ATTACK_FROM <= epoch < ATTACK_UNTIL
    executed = {o.key: 0 for o in order}
    audited = dict(executed)
    shown = dict(executed)
    busy: dict[bytes, list[tuple[int, int]]] = {o.key: [] for o in order}  # (ends in block, macs)
    serving = [o for o in order if members.get(o.key)]
    bond_serving = sum(o.bond for o in serving)
    tasks = TASKS_AN_EPOCH * _demand(attack, during, epoch)
    for number in range(tasks):
        now = number * PARAMS.epoch_blocks // tasks
        room = [o for o in serving if _has_room(o, busy[o.key], now)]
        if not room:
            continue
        chosen = dice.choices(room, [o.bond for o in room])[0]
        chosen.dealt += 1
        if _misses(chosen, attack, during, epoch, failing):
            chosen.missed += 1
            continue
        blocks = max(1, -(-TASK_MACS // chosen.rate))
        busy[chosen.key].append((now + blocks, TASK_MACS))
        shown[chosen.key] = max(shown[chosen.key], deal.finalised_rate(TASK_MACS, now, now + blocks - 1))
        counted = scaled_by_room(TASK_MACS, sum(o.bond for o in room), bond_serving)
        if attack == "others challenged" and during and not chosen.attacks:
            chosen.late.append((epoch + LATE_EPOCHS, counted))
        else:
            executed[chosen.key] += counted
        for auditor in _auditors(dice, serving, chosen):
            if not _misses(auditor, attack, during, epoch, failing):
                audited[auditor.key] += TASK_MACS // 4
    for operator in order:
        due = [macs for at, macs in operator.late if at == epoch]
        executed[operator.key] += sum(due)
        if members.get(operator.key) and not _misses(operator, attack, during, epoch, failing):
            executed[operator.key] += PARAMS.canaries_per_validator * CANARY_MACS
        operator.best.append(shown[operator.key])
        operator.scale = deal.scaled_after(operator.scale, operator.dealt, operator.missed)
        operator.dealt = operator.missed = 0
    return {key: (executed[key], audited[key]) for key in executed}


def _demand(attack: str, during: bool, epoch: int) -> int:
    """Tasks of this epoch over the usual number. Whoever pays, they are dealt by the same draw."""
    if not during:
        return 1
    if attack == "saturate":
        return 10
    if attack == "own tasks":
        return 2
    return 4 if attack == "burst at epoch ends" and epoch % 4 == 0 else 1


def _misses(operator: Operator, attack: str, during: bool, epoch: int, failing: set[bytes]) -> bool:
    if operator.attacks:
        return attack == "idle, then burst" and epoch < ATTACK_FROM
    if attack == "others fail":
        return during and operator.key in failing
    return attack == "others idle" and epoch >= ATTACK_FROM + operator.key[0] % (ATTACK_UNTIL - ATTACK_FROM)


def _has_room(operator: Operator, busy: list[tuple[int, int]], now: int) -> bool:
    busy[:] = [entry for entry in busy if entry[0] > now]
    return deal.has_room(sum(macs for _, macs in busy), TASK_MACS, operator.trusted, STEP_BLOCKS)


def _auditors(dice: random.Random, serving: Sequence[Operator], executor: Operator) -> list[Operator]:
    others = [o for o in serving if o is not executor]
    picks: list[Operator] = []
    while others and len(picks) < AUDITORS:
        pick = dice.choices(others, [o.bond for o in others])[0]
        others.remove(pick)
        picks.append(pick)
    return picks


def _coalition(order: Sequence[Operator], powers: dict[bytes, int]) -> float:
    return sum(powers.get(o.key, 0) for o in order if o.attacks) / sum(powers.values())


def _above_bound(order: Sequence[Operator], turned: power.Turn, old: dict[bytes, int]) -> bool:
    """Whether the coalition's targets, footholds of newcomers (S/64) aside, exceed alpha / (9/10) of all targets, alpha
    its share of the bond that has credit: what the rules promise, in integers."""
    counted = [o for o in order if o.credit >= LEAST_CREDIT]
    bonds, mine = sum(o.bond for o in counted), sum(o.bond for o in counted if o.attacks)
    targets = sum(turned.targets[o.key] for o in order)
    ours = sum(turned.targets[o.key] for o in order if o.attacks)
    ours -= sum(power.growth_limit(PARAMS, 0, o.bond) for o in order if o.attacks and o.key not in old)
    return bool(counted) and 9 * ours * bonds > 10 * targets * mine


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: one line an attack, then one a band of bond."""
    lines = [
        "| attack | networks | share of votes over share of bond, median | highest | bound broken | "
        "a third reached below 30 % of bond |",
        "|---|---|---|---|---|---|",
    ]
    for attack in ATTACKS:
        rows = [o for o in outcomes if o.attack == attack]
        if rows:
            lines.append(f"| {attack} | {_row(rows)} |")
    lines += [f"| **all** | {_row(outcomes)} |", ""]
    lines += [
        "| coalition's share of bond | networks | highest share of votes, median | worst | at the end, worst |",
        "|---|---|---|---|---|",
    ]
    for low in range(0, 40, 5):
        rows = [o for o in outcomes if low <= 100 * o.stake_share < low + 5]
        if rows:
            lines.append(
                f"| {low} to {low + 5} % | {len(rows)} | {statistics.median(o.highest for o in rows):.3f} | "
                f"{max(o.highest for o in rows):.3f} | {max(o.final for o in rows):.3f} |"
            )
    return "\n".join(lines)


def _row(rows: Sequence[Outcome]) -> str:
    ratios = [o.highest / o.stake_share for o in rows]
    third = sum(o.stake_share < 0.30 and o.highest >= 1 / 3 for o in rows)
    return (f"{len(rows)} | {statistics.median(ratios):.2f} | {max(ratios):.2f} | "
            f"{sum(o.bound_broken for o in rows)} | {third}")  # fmt: skip


def main() -> int:
    """Play, print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(prog="bench.power_networks", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    names = list(ATTACKS)
    outcomes = []
    for number in range(options.networks):
        outcomes.append(play(options.seed * 1_000_003 + number, names[number % len(names)]))
        if number % 50 == 49:
            print(f"{number + 1} of {options.networks} networks", file=sys.stderr, flush=True)
    text = table(outcomes)
    print(text)
    by_compute = [o for o in outcomes if o.compute >= 10**2]
    print(f"\nwith 100 to 1,000 times the compute ({len(by_compute)} networks): share of votes over share of bond, "
          f"highest {max((o.highest / o.stake_share for o in by_compute), default=math.nan):.2f}")  # fmt: skip
    if options.write:
        options.write.write_text(f"{HEAD.format(networks=options.networks, seed=options.seed)}\n{text}\n")
    return 0


HEAD = f"""# Power under attack: {{networks}} random networks

Made by `python -m bench.power_networks --networks {{networks}} --seed {{seed}} --write docs/power-networks.md`; the
script says what each attack does. Three to twenty honest operators with Pareto bonds and mixed hardware, a coalition of
one to three identities; {EPOCHS} epochs, the attack from epoch {ATTACK_FROM} to {ATTACK_UNTIL}. Shares of votes are of
what was in force, shares of bond of everything bonded.

The *bound* is what the rules promise: the coalition's targets, footholds of newcomers aside, are at most alpha / 0.9 of
all targets, alpha being its share of the bond that has credit. Where the others lose their models ("others idle") alpha
itself grows when their credit counts no more, and so does the share: nobody else works any more. That is mostly later
than these networks last, for what counts is a tenth of one canary's credit.
"""

if __name__ == "__main__":
    sys.exit(main())
