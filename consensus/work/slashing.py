"""What a lie costs: the amounts of a slash, in wei, integers (docs/formats.md, Units and money; docs/useful-work.md).

Pure: takes nothing from anybody. Whether somebody lied is the Referee's question, whether these amounts are enough to
make lying a loss is incentive.py's.
"""

from primitives.params import DISPUTE_WORST_GAS, ChainParams
from primitives.task import price_of


def gain_of(fee: int, macs: int, base_price: int) -> int:
    """G of a task: its fee (tip included), or what its work costs at the base price if that is more (a canary's)."""
    return max(fee, price_of(macs, base_price))


def first_offence(params: ChainParams, gain: int, base_fee: int) -> int:
    """Sigma of the first offence in the window: max(64 G, twice the worst dispute's gas, bond_min / 1000).

    A flipped bit is not a crime: it costs more than any cheat brings, and little of a bond.
    """
    return max(
        params.slash_first_fees * gain, 2 * DISPUTE_WORST_GAS * base_fee, params.bond_min // params.slash_bond_div
    )


def repeated_offence(params: ChainParams, gain: int, base_fee: int, bond: int) -> int:
    """Sigma of a further offence within slash_window_epochs: that of the first, at least 10 % of the bond."""
    return max(first_offence(params, gain, base_fee), bond * params.slash_repeat_percent // 100)


def bounty_of(params: ChainParams, slashed: int) -> int:
    """The part of what was slashed that goes to those who proved the lie; the rest pays costs and burns."""
    return slashed * params.slash_bounty_percent // 100


def exposure_max(params: ChainParams, slashable: int) -> int:
    """The most that the open G of one operator may sum to: a first offence in all of it is covered by its bond."""
    return slashable // params.exposure_div
