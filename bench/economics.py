"""Is cheating a loss? By model and value at risk: how many check, q, what a lie costs, what it brings, and the net.

    python bench/economics.py [--write docs/economics.md]        (make economics)

By the chain's own functions (consensus/work/incentive.py, slashing.py) in integers: the same on every machine. Owns
the choice of models, networks and rows, and the words; every amount is what a chain would compute.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this folder has files of the packages' names

from consensus.work import incentive, slashing
from consensus.work.incentive import AUDITORS_MAX, ONE, Odds
from inference import program as cip
from primitives.params import COIN, DISPUTE_WORST_GAS, ChainParams
from primitives.task import Kind, ModelCost, price_of

PARAMS = ChainParams()
SHIPPED = Path(__file__).resolve().parent.parent / "genesis" / "models" / "sea-and-sensibility"
PROMPT, TOKENS = 64, 64
DEARER = 1_000_000
"""Times the first price of a multiply-add: where 64 G is what a lie costs, and no longer the least amount."""
SHAPES = {
    "MiniLM L6": cip.Shape(30_522, 512, 384, 6, 12, 12, 32, 0, 1536, 4295, 1, "bert"),
    "Gemma 3 270M": cip.Shape(262_144, 1 << 15, 640, 18, 4, 1, 256, 256, 2048, 4295, 6, "gemma3", 512, 6, 256),
    "Qwen3 0.6B": cip.Shape(151_936, 40_960, 1024, 28, 16, 8, 128, 128, 3072, 4295, 7, "qwen3"),
    "Qwen3 8B": cip.Shape(151_936, 40_960, 4096, 36, 32, 8, 128, 128, 12_288, 4295, 6, "qwen3"),
}


@dataclass(frozen=True)
class Network:
    """Where a task is asked: odds of the draw, and how many could check."""

    name: str
    odds: Odds
    others: int


NETWORKS = (
    Network("four equal validators, everything audited, D = 3", Odds(4, 4, 2), 3),
    Network("ten equal validators, everything audited, D = 6", Odds(10, 10, 5), 8),
    Network("ten, half of the bond serves the model", Odds(10, 5, 5), 4),
    Network("a threshold beacon, one task in twenty audited", Odds(100, 100, 0, 1, 20), 8),
)


@dataclass(frozen=True)
class Row:
    """A task, and what a lie in it comes to; amounts in wei, signed where they are nets."""

    model: str
    price: int
    gain: int
    at_risk: int
    auditors: int | None
    """None: refused, for no number of verifiers would be enough."""
    chance: int
    first: int
    repeated: int
    brings: int
    net_first: int
    net_repeated: int


def models() -> dict[str, tuple[ModelCost, Kind]]:
    """Name -> cost and the kind of task that is looked at."""
    found = {"sea-and-sensibility": cip.decode_manifest((SHIPPED / "manifest.json").read_bytes()).cost} | {
        name: cip.cost(shape) for name, shape in SHAPES.items()
    }
    weight = PARAMS.audit_weight_num, PARAMS.audit_weight_den
    return {
        name: (ModelCost(cost.a, cost.b, cost.c, *weight), Kind.GENERATE if cost.c else Kind.EMBED)
        for name, cost in found.items()
    }


def row(name: str, network: Network, macs: int, price: int, at_risk: int | None) -> Row:
    """at_risk None: the most that is accepted."""
    fee = price_of(macs, price)
    gain = slashing.gain_of(fee, macs, price)
    stakes = incentive.stakes_of(PARAMS, gain, fee)
    most = min(network.others, AUDITORS_MAX)
    if at_risk is None:
        at_risk = incentive.value_at_risk_max(network.odds, stakes, most) or 0
    least = incentive.least_auditors(network.odds, stakes, at_risk, most)
    auditors = None if least is None else max(least, min(PARAMS.auditors, network.others))
    chance = incentive.caught(network.odds, auditors or most)
    first = slashing.first_offence(PARAMS, gain, PARAMS.base_fee_min)
    repeated = slashing.repeated_offence(PARAMS, gain, PARAMS.base_fee_min, PARAMS.bond_min)
    brings = fee * ONE + (ONE - chance) * at_risk

    def net(slash: int) -> int:
        """Less what comes back to the culprit's friends: the bounty, the gas of a dispute, G to its own asker. Rounded
        down, so that it is below zero exactly where it is in the rationals."""
        back = slashing.bounty_of(PARAMS, slash) + DISPUTE_WORST_GAS * PARAMS.base_fee_min + gain
        return (brings - chance * (slash - back + gain)) // ONE

    nets = net(first), net(repeated)
    return Row(name, price, gain, at_risk, auditors, chance, first, repeated, brings // ONE, *nets)


def rows(network: Network) -> Iterator[Row]:
    """Every model at two prices, with nothing, sixteen times the fee and the most that is accepted at risk."""
    for name, (cost, kind) in models().items():
        macs = cost.execution(kind, PROMPT, TOKENS)
        for price in (PARAMS.base_price_start, DEARER * PARAMS.base_price_start):
            for at_risk in (0, 16 * price_of(macs, price), None):
                yield row(name, network, macs, price, at_risk)


def coins(wei: int) -> str:
    """Four digits that count."""
    return f"{wei / COIN:.4g}"


def lines() -> Iterator[str]:
    """The page. Raises AssertionError where cheating in an accepted task would pay."""
    yield from __doc__.splitlines()[:1]
    yield ""
    least, most, window = PARAMS.auditors, AUDITORS_MAX, PARAMS.slash_window_epochs
    yield f"""Made by `python bench/economics.py --write docs/economics.md` (`make economics` prints it). The task has
{PROMPT} tokens in and {TOKENS} out (an encoder's is embedded). Amounts in coins; the base fee is the floor, the bond
the least.

- **price**: coins a CWU, 10^9 multiply-adds: the first one, and a million times that. **G**: what the task pays.
- **k**: verifiers that are drawn, at least {least} where there are as many; *refused*: no number up to {most} that
  could be drawn makes cheating a loss, and such a post is refused (with assurance 0 and nothing at risk it is taken,
  and promises nothing). **q**: chance of being caught with so many, of a coalition of a third of all bond that may also
  withhold its part of the randomness in the D - 1 blocks before the draw.
- **slash**: of a first offence, and of one within {window} epochs of another.
- **brings**: the work that is saved, and with 1 - q what is at risk. **net**: that, less q times the slash, of which
  the culprit's friends had the bounty, the gas of the longest dispute and G. Below zero, or the post is refused."""
    for network in NETWORKS:
        yield ""
        yield f"## {network.name[0].upper()}{network.name[1:]}"
        yield ""
        yield "| model | price | G | at risk | k | q | slash first | repeated | brings | net first | net repeated |"
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        for each in rows(network):
            if each.auditors is not None:
                assert each.net_first < 0 and each.net_repeated < 0, each
            nets = [coins(each.net_first), coins(each.net_repeated)] if each.auditors is not None else ["", ""]
            cells = [
                each.model, coins(each.price), coins(each.gain), coins(each.at_risk), each.auditors or "*refused*",
                f"{each.chance / ONE:.4f}", coins(each.first), coins(each.repeated), coins(each.brings), *nets,
            ]  # fmt: skip
            yield "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    target = parser.parse_args().write
    page = "\n".join(["# " + line if number == 0 else line for number, line in enumerate(lines())]) + "\n"
    if target is None:
        print(page, end="")
    else:
        target.write_text(page)
        print(f"{target}: in every task that is accepted cheating is a loss")


if __name__ == "__main__":
    main()
