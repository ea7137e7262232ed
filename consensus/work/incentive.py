"""How many must check a task so that cheating in it is a loss: k from the value at risk.

Cheating is a loss iff q (Sigma + G) > c + (1 - q) X: q the chance of being caught, Sigma what the slash takes, G what
the task pays, c the cost that a cheat saves, X what a wrong answer may bring beyond it. Pure integers. Chances are
Q128 and every rounding goes down for q, so that what is accepted here holds in the rationals too.
"""

from dataclasses import dataclass

from consensus.work import slashing
from primitives.params import DISPUTE_WORST_GAS, ChainParams

ONE = 1 << 128
COALITION_DEN = 3
"""The coalition that is reckoned with holds a third of the active bond."""
AUDITORS_MAX = 8
"""More verifiers than that never check one task: its end, with all seats drawn four times, fits a small prologue."""
TRAILING_MAX = 128
"""A longer run of proposers makes the chance of being caught 0 in any case that matters."""


@dataclass(frozen=True)
class Odds:
    """What the draw of verifiers is made from. Bonds in one unit; trailing: the longest run of proposers before a draw
    that the coalition may hold, each of whom may withhold its part of the randomness and so choose between two draws
    (the beacon's first form; 0 under a threshold beacon). sample: p, the share of tasks that is audited."""

    active_bond: int
    serving_bond: int
    trailing: int
    sample_num: int = 1
    sample_den: int = 1


@dataclass(frozen=True)
class Stakes:
    """What is won and lost with a wrong answer, in wei."""

    slash: int
    """Sigma, net of what comes back to whoever is slashed."""
    gain: int
    """G."""
    cost: int
    """c."""


def caught(odds: Odds, auditors: int) -> int:
    """q, Q128, rounded down: p (1 - a^k)^(2^j), a = min(1, a third of the active bond / the bond serving the model).

    A committee lies only if all k collude; a coalition that may draw 2^j times has its way unless every draw fails it.
    """
    if not odds.serving_bond or not auditors:
        return 0
    colluding = min(ONE, -(-odds.active_bond * ONE // (COALITION_DEN * odds.serving_bond)))
    every = ONE
    for _ in range(auditors):
        every = -(-every * colluding // ONE)
    chance = ONE - every
    for _ in range(min(odds.trailing, TRAILING_MAX)):
        chance = chance * chance // ONE
    return chance * odds.sample_num // odds.sample_den


def deters(chance: int, stakes: Stakes, value_at_risk: int) -> bool:
    """Whether cheating is a loss: q (Sigma + G) > c + (1 - q) X, and the slash exceeds what is at risk."""
    won = stakes.cost * ONE + (ONE - chance) * value_at_risk
    return chance * (stakes.slash + stakes.gain) > won and value_at_risk < max(1, stakes.slash)


def least_auditors(odds: Odds, stakes: Stakes, value_at_risk: int, most: int) -> int | None:
    """The smallest k up to `most` that deters; None: not even that many do."""
    for auditors in range(1, most + 1):
        if deters(caught(odds, auditors), stakes, value_at_risk):
            return auditors
    return None


def value_at_risk_max(odds: Odds, stakes: Stakes, auditors: int) -> int | None:
    """The most that may be at risk with so many verifiers; None: not even nothing."""
    chance = caught(odds, auditors)
    if not deters(chance, stakes, 0):
        return None
    if chance == ONE:
        return stakes.slash - 1
    spare = chance * (stakes.slash + stakes.gain) - stakes.cost * ONE
    return min(max(0, stakes.slash - 1), (spare - 1) // (ONE - chance))


def stakes_of(params: ChainParams, gain: int, cost: int) -> Stakes:
    """Of a task: the slash of a first offence at the lowest base fee, less what may return to the culprit's friends:
    the bounty to its own challenger, the gas of the dispute, and G to its own asker."""
    slash = slashing.first_offence(params, gain, params.base_fee_min)
    returned = slashing.bounty_of(params, slash) + DISPUTE_WORST_GAS * params.base_fee_min + gain
    return Stakes(max(0, slash - returned), gain, cost)
