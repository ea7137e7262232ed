"""How the prologue works off a queue: one item after another, each in a frame of its own, as far as gas and caps reach.

Knows queues, gas and failures; what an item means is its step's business.
"""

from collections.abc import Callable

from vm.system import abi
from vm.system import market_gas as gas
from vm.system.context import Refused, SystemContext
from vm.system.layout import Queue
from vm.system.market_refund import refund
from vm.system.market_state import TASKS, Task, expected

Item = Callable[[SystemContext, bytes, Task], None]
"""(ctx, task id, task)."""
Wanted = Callable[[Task, Queue, int], bool]
"""(task, queue, height of the entry) -> whether the entry still means something."""


def run_queue(
    ctx: SystemContext, queue: Queue, step: str, gas_item: int, item: Item, most: int, wanted: Wanted = expected
) -> tuple[int, bool]:
    """Handle at most `most` entries due by this block. How many, and False when gas for the next did not remain.

    An entry is taken out before it is handled, so that one that fails is never tried again; its task is refunded. Stale
    entries cost a look and do not count.
    """
    done = 0
    while done < most:
        due = queue.peek(ctx, ctx.height)
        if due is None:
            break
        if ctx.gas_left < gas_item:
            return done, False
        task = TASKS.get(ctx, due.item)
        if task is None or not wanted(task, queue, due.height):
            ctx.charge(gas.LOOK, step)
            queue.pop(ctx)
            continue
        ctx.charge(gas_item, step)
        queue.pop(ctx)
        done += 1
        try:
            with ctx.frame():
                item(ctx, due.item, task)
        except Refused as refusal:
            abi.emit(ctx, abi.ITEM_FAILED, due.item, step, refusal.code, refusal.text)
            task = TASKS.get(ctx, due.item)
            if task is not None:
                refund(ctx, due.item, task, f"{step} failed: {refusal.text}")
    return done, True
