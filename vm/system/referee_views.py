"""A dispute as the state knows it, for nodes, wallets and the ABI's views. Reads only, and needs no EVM."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from vm.system import abi
from vm.system.context import ReadContext
from vm.system.layout import u64
from vm.system.referee_state import DISPUTES, OF_TASK, OPEN, item_number
from vm.system.referee_turns import left_of, stood_still


@dataclass(frozen=True)
class DisputeView:
    """A dispute; of one that is over only who, what and why are left. Names are those of docs/formats.md, Disputes."""

    dispute: int
    task: bytes
    attempt: int
    state: int
    turn: int
    reason: int
    accused: bytes
    challenger: bytes
    operator: bytes
    from_stake: bool
    bond: int
    leaf: int
    leaf_hash: bytes
    operations: bytes
    author: bytes
    author_bond: int
    op: int
    node: bytes
    level: int
    index: int
    count: int
    filed_block: int
    begun_block: int
    last_block: int
    defender_left: int
    challenger_left: int
    defender_spoke: bool
    challenger_spoke: bool

    @property
    def values(self) -> tuple[Any, ...]:
        """The fields in the order of the ABI's struct."""
        return tuple(getattr(self, field.name) for field in fields(self))


def dispute_view(ctx: ReadContext, number: int) -> DisputeView | None:
    """A dispute; None when there is none of that number."""
    found = DISPUTES.get(ctx, u64(number)) if number < 2**64 else None
    if found is None:
        return None
    running = found.state not in (abi.DISPUTE_QUEUED, abi.DISPUTE_ENDED)
    last = found.due + (stood_still(ctx, found) if running else 0)
    left = left_of(ctx, found) if found.state != abi.DISPUTE_ENDED else (0, 0)
    return DisputeView(
        number, found.task, found.attempt, found.state, found.turn, found.reason, found.accused, found.challenger,
        found.operator, bool(found.from_stake), found.bond, found.leaf, found.leaf_hash, found.operations,
        found.author, found.author_bond, found.op, found.node, found.level, found.index, found.count, found.filed,
        found.begun, last, *left, bool(found.defender_spoke), bool(found.challenger_spoke),
    )  # fmt: skip


def disputes_of(ctx: ReadContext, task: bytes) -> list[int]:
    """Numbers of all disputes about a task, in order of filing."""
    return sorted(item_number(item) for item in OF_TASK.items(ctx, task))


def open_disputes(ctx: ReadContext) -> list[int]:
    """Numbers of those that wait or run, ascending."""
    return sorted(_open(ctx))


def _open(ctx: ReadContext) -> Iterator[int]:
    for item in OPEN.items(ctx, b""):
        yield item_number(item)


assert len(fields(DisputeView)) == len(abi.DISPUTE.members)
