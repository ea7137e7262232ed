"""The system precompiles of a chain, by address."""

from collections.abc import Callable
from typing import Any

from primitives.params import ChainParams


def precompiles(params: ChainParams, genesis_hash: bytes) -> dict[bytes, Callable[[Any], Any]]:
    """Address to the function that runs a message to it; an account without one runs its stub, which fails."""
    return {}
