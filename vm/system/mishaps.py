"""What went wrong with an operator, kept readable in state: its last misses, refusals and slashes, with reasons.

Owns three rings an operator, each bounded, each of its own so that cheap refusals push no miss out. Logs hold
everything for ever; what a mishap costs is decided where it happens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from primitives.address import STAKING
from primitives.reasons import Reason
from vm.system import abi, gas
from vm.system.context import Call, ReadContext, SystemContext
from vm.system.layout import Ring, raw, uint

MISSES_KEPT = 32
REFUSALS_KEPT = 16
SLASHES_KEPT = 16


@dataclass
class Mishap:
    """One of them. reason: primitives.reasons; role: abi.ROLE_* of a miss, kind of the message of a refusal; counted:
    it lowers the rate that the operator is trusted with; wei: what a slash took."""

    task: bytes = raw(32)
    block: int = uint(64)
    reason: int = uint(8)
    role: int = uint(8)
    counted: int = uint(8)
    wei: int = uint(128)

    @property
    def values(self) -> tuple[Any, ...]:
        """As the views' struct has them."""
        return self.task, self.block, self.reason, self.role, bool(self.counted), self.wei


_MISSES = Ring(STAKING, "misses", Mishap, MISSES_KEPT)
_REFUSALS = Ring(STAKING, "refusals", Mishap, REFUSALS_KEPT)
_SLASHES = Ring(STAKING, "slashes", Mishap, SLASHES_KEPT)


def note_miss(ctx: SystemContext, operator: bytes, task: bytes, reason: Reason, role: int, counted: bool) -> None:
    """A duty that was not done, or not in time."""
    _MISSES.add(ctx, Mishap(task, ctx.height, reason, role, int(counted)), operator)


def note_refusal(ctx: SystemContext, operator: bytes, task: bytes, reason: Reason, kind: int) -> None:
    """A work message that was refused."""
    _REFUSALS.add(ctx, Mishap(task, ctx.height, reason, kind), operator)


def note_slash(ctx: SystemContext, operator: bytes, task: bytes, reason: Reason, wei: int) -> None:
    """Stake that was taken."""
    _SLASHES.add(ctx, Mishap(task, ctx.height, reason, counted=1, wei=wei), operator)


def misses(ctx: ReadContext, operator: bytes) -> Sequence[Mishap]:
    """The last ones, the newest first."""
    return _MISSES.newest(ctx, operator)


def refusals(ctx: ReadContext, operator: bytes) -> Sequence[Mishap]:
    """The last ones, the newest first."""
    return _REFUSALS.newest(ctx, operator)


def slashes(ctx: ReadContext, operator: bytes) -> Sequence[Mishap]:
    """The last ones, the newest first."""
    return _SLASHES.newest(ctx, operator)


def _mishaps(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD * (3 + 2 * (MISSES_KEPT + REFUSALS_KEPT + SLASHES_KEPT)), "mishaps")
    return tuple([mishap.values for mishap in found(ctx, operator)] for found in (misses, refusals, slashes))


HANDLERS = {abi.MISHAPS: _mishaps}
