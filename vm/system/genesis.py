"""What the system accounts hold in block 0."""

from primitives.address import MARKET, STAKING
from primitives.genesis import GenesisSpec


def genesis_storage(spec: GenesisSpec) -> dict[bytes, dict[int, int]]:
    """Storage of the system accounts: address to slot to value."""
    return {}


def genesis_balances(spec: GenesisSpec) -> dict[bytes, int]:
    """Wei of the system accounts: the bonds in Staking, the commissioned fund in Market."""
    return {STAKING: sum(validator.bond for validator in spec.validators), MARKET: spec.fund}
