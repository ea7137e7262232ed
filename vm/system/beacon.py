"""The beacon's values by height: a ring of the last 8,192 mixes, and the mixes that seeded the sets' priorities.

Knows nothing of signatures: the chain checks a proof before a block is executed.
"""

from typing import Any

from primitives.address import BEACON
from vm.system import abi, gas
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.layout import Scalar, Words, u64

RING = 8_192
"""Heights whose mix is kept."""

_MIXES = Words(BEACON, "mix")
_LATEST = Scalar(BEACON, "latest")


def store(ctx: SystemContext) -> None:
    """Step 0 of the prologue: keep the mix of this block."""
    _put(ctx, ctx.height, ctx.mix)


def store_genesis(ctx: SystemContext, mix: bytes) -> None:
    """The mix of block 0, which also seeds epochs 0 and 1."""
    _put(ctx, 0, mix)


def mix_at(ctx: ReadContext, height: int) -> bytes | None:
    """Mix of a block; None when it has left the ring or is to come."""
    latest = _LATEST.get(ctx)
    if not max(0, latest - RING + 1) <= height <= latest:
        return None
    return _MIXES.get_bytes(ctx, 32, u64(height % RING))


def latest(ctx: ReadContext) -> tuple[int, bytes]:
    """Height and mix of the last block whose prologue ran."""
    height = _LATEST.get(ctx)
    return height, _MIXES.get_bytes(ctx, 32, u64(height % RING))


def _put(ctx: SystemContext, height: int, mix: bytes) -> None:
    _MIXES.set_bytes(ctx, mix, u64(height % RING))
    _LATEST.set(ctx, height)


def _mix_at(ctx: SystemContext, call: Call, height: int) -> tuple[Any, ...]:
    ctx.charge(2 * gas.VIEW_WORD, "mixAt")
    mix = mix_at(ctx, height)
    if mix is None:
        raise Refused("unknown_height", f"the mix of height {height} is not kept: the latest is {_LATEST.get(ctx)}")
    return (mix,)


def _latest(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(2 * gas.VIEW_WORD, "latest")
    return latest(ctx)


HANDLERS = {abi.MIX_AT: _mix_at, abi.LATEST_MIX: _latest}
