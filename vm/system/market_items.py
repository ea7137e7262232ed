"""How the prologue works off a queue: one item after another, each in a frame of its own, as far as gas and caps reach.

Knows queues, gas and failures; what an item means is its step's business.
"""

from collections.abc import Callable
from typing import Protocol

from vm.system import abi
from vm.system import market_gas as gas
from vm.system.context import Refused, SystemContext
from vm.system.layout import Due
from vm.system.market_refund import refund
from vm.system.market_state import QUEUES, TASKS, Task


class Source(Protocol):
    """Where items come from: a Queue, or tasks by tip."""

    def peek(self, ctx: SystemContext, through: int) -> Due | None: ...
    def pop(self, ctx: SystemContext) -> None: ...


Item = Callable[[SystemContext, bytes, Task], None]
"""(ctx, task id, task)."""
GasOf = Callable[[int, int, int], int]
"""(task's status, verifiers that it pays for, seats drawn or to be) -> the most gas that the item may take."""
Wanted = Callable[[int, int, int, Source, int], bool]
"""(task's status, queue that it awaits, due, queue, height of the entry) -> whether the entry still means something."""


def expected(status: int, awaits: int, due: int, queue: Source, height: int) -> bool:
    """Whether an entry is the one that its task waits for."""
    return bool(status) and QUEUES[awaits] is queue and due <= height


def run_queue(
    ctx: SystemContext, queue: Source, step: str, gas_of: GasOf, item: Item, most: int, wanted: Wanted = expected,
    look: int = 0, looks: Callable[[int], bool] = lambda status: True,
) -> tuple[int, bool]:  # fmt: skip
    """Handle at most `most` entries due by this block. How many, and False when gas for the next did not remain.

    look: what the first item pays besides that looks at the set, by its task's status.

    An entry starts while its fixed gas remains and, beside it, that of the refund it may end in. It is taken out before
    it is handled, so that one that fails is never tried again; its task is refunded. Stale entries cost a look and do
    not count.
    """
    done, looked = 0, False
    while done < most:
        entry = queue.peek(ctx, ctx.height)
        if entry is None:
            break
        if ctx.gas_left < gas.LOOK:
            return done, False
        names = ("status", "awaits", "due", "paid_auditors", "seats", "callback_gas")
        status, awaits, due, auditors, seats, callback = TASKS.read(ctx, names, entry.item)
        if not wanted(status, awaits, due, queue, entry.height):
            ctx.charge(gas.LOOK, step)
            queue.pop(ctx)
            continue
        looking = not looked and looks(status)
        gas_item = gas_of(status, auditors, max(auditors, seats)) + (look if looking else 0)
        if ctx.gas_left < gas_item + gas.way_back(max(auditors, seats), bool(callback)):
            return done, False
        task = TASKS.get(ctx, entry.item)
        assert task is not None
        ctx.charge(gas_item, step)
        looked = looked or looking
        queue.pop(ctx)
        done += 1
        try:
            with ctx.frame():
                item(ctx, entry.item, task)
        except Refused as refusal:
            abi.emit(ctx, abi.ITEM_FAILED, entry.item, step, refusal.code, refusal.text)
            task = TASKS.get(ctx, entry.item)
            if task is not None:
                refund(ctx, entry.item, task, f"{step} failed: {refusal.text}")
    return done, True
