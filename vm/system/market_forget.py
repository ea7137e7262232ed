"""How the state forgets: after some epochs a finished task's end and its receipt's id make room, and that a prompt was
answered without a seed (last of step 5).

What is left is the root over the receipts of its epoch, which the Ledger fixed at the turn, and the logs.
"""

from collections.abc import Callable

from vm.system import ledger
from vm.system import market_gas as gas
from vm.system.context import SystemContext
from vm.system.layout import Queue
from vm.system.market_state import CREDIT_AGAIN_EPOCHS, CREDITED, CREDITED_BEFORE, FINISHED, FORGET


def forget_old(ctx: SystemContext) -> bool:
    """Forget what ended receipts_kept_epochs whole epochs ago, and which prompts may earn credit again, the oldest
    first. False: stopped for want of gas."""
    return _forget(ctx, FORGET, gas.FORGET, _task) and _forget(ctx, CREDITED_BEFORE, gas.FORGET_PROMPT, _prompt)


def _forget(ctx: SystemContext, queue: Queue, gas_item: int, item: Callable[[SystemContext, bytes], None]) -> bool:
    for _ in range(ctx.params.prologue_items_max):
        entry = queue.peek(ctx, ctx.height)
        if entry is None:
            break
        if ctx.gas_left < gas_item:
            return False
        ctx.charge(gas_item, "forget")
        queue.pop(ctx)
        item(ctx, entry.item)
    return True


def _task(ctx: SystemContext, task_id: bytes) -> None:
    FINISHED.delete(ctx, task_id)
    ledger.forget_receipt(ctx, task_id)


def _prompt(ctx: SystemContext, key: bytes) -> None:
    """Unless it earned credit anew since this was due."""
    if ctx.params.epoch(ctx.height) + 1 - CREDITED.get(ctx, key) >= CREDIT_AGAIN_EPOCHS:
        CREDITED.set(ctx, 0, key)
