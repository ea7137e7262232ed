"""Prints the table of attacks, `python -m tests.attacks [KIND ...]`, or that of lies by rule, `python -m tests.attacks
ops`."""

import sys

from node.cheats import KINDS
from node.story import REASONS, coins
from tests.attacks import ops
from tests.attacks.attacks import Outcome, play


def main(kinds: list[str]) -> None:
    if kinds == ["ops"]:
        by_rule()
        return
    for kind in kinds or KINDS:
        _, outcome = play(kind)
        print(f"\n{kind}: {KINDS[kind]}\n" + "\n".join(f"    {line}" for line in lines(outcome)), flush=True)


def lines(outcome: Outcome) -> list[str]:
    """What happened, and who paid what."""
    told = [f"task {outcome.status.name.lower()}" + (f" in attempt {outcome.attempt + 1}" if outcome.attempt else "")]
    for reason in outcome.ended:
        told.append(f"dispute: {REASONS[reason]}")
    if outcome.judged:
        told.append(f"decided by one recomputation of {outcome.judged}")
    if outcome.messages:
        told.append(f"{outcome.messages} messages, the largest {outcome.gas_max:,} gas, {outcome.blocks} blocks")
    told += [f"{who} was slashed {coins(wei)}" for who, wei in sorted(outcome.slashed.items())]
    told += [f"{who} missed: no pay, no credit" for who in outcome.missed]
    if outcome.asker_wei or outcome.bounty_wei:
        told.append(f"of that the asker got {coins(outcome.asker_wei)}, the finders {coins(outcome.bounty_wei)}")
    told += [f"{who} was paid {coins(wei)}" for who, wei in sorted(outcome.paid.items())]
    return told


def by_rule() -> None:
    """A line a rule: the operation that was falsified, and what its dispute took."""
    print(f"{'rule':<11} {'model':<7} {'messages':>8} {'blocks':>6} {'gas, all':>9} {'largest':>8}  operation")
    for case in ops.every_case():
        fleet, outcome = ops.play(case)
        (judgement,) = ops.judged(fleet)
        assert not judgement["holds"], case
        gas = sum(said.gas for said in fleet.messages)
        print(f"{case.rule:<11} {case.model:<7} {outcome.messages:>8} {outcome.blocks:>6} {gas:>9,} "
              f"{outcome.gas_max:>8,}  {judgement['op']}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
