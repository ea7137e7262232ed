"""How the state forgets a finished task: after some epochs its end and its receipt's id make room (last of step 5).

What is left is the root over the receipts of its epoch, which the Ledger fixed at the turn, and the logs.
"""

from vm.system import ledger
from vm.system import market_gas as gas
from vm.system.context import SystemContext
from vm.system.market_state import FINISHED, FORGET


def forget_old(ctx: SystemContext) -> bool:
    """Forget what ended receipts_kept_epochs whole epochs ago, the oldest first. False: stopped for want of gas."""
    for _ in range(ctx.params.prologue_items_max):
        entry = FORGET.peek(ctx, ctx.height)
        if entry is None:
            break
        if ctx.gas_left < gas.FORGET:
            return False
        ctx.charge(gas.FORGET, "forget")
        FORGET.pop(ctx)
        FINISHED.delete(ctx, entry.item)
        ledger.forget_receipt(ctx, entry.item)
    return True
