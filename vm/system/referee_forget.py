"""How the state forgets a dispute that is over: with the tasks that ended in its epoch (last of step 5).

What is left of it are the logs. What of a dispute has to outlive it, offences and what was held, is kept elsewhere.
"""

from vm.system import referee_gas as gas
from vm.system.context import SystemContext
from vm.system.layout import u64
from vm.system.referee_state import DISPUTES, FORGET, OF_TASK, item_number


def forget_ended(ctx: SystemContext) -> bool:
    """Forget what ended receipts_kept_epochs whole epochs ago, the oldest first. False: stopped for want of gas."""
    for _ in range(ctx.params.prologue_items_max):
        entry = FORGET.peek(ctx, ctx.height)
        if entry is None:
            break
        if ctx.gas_left < gas.FORGET:
            return False
        ctx.charge(gas.FORGET, "forget")
        FORGET.pop(ctx)
        number = u64(item_number(entry.item))
        (task,) = DISPUTES.read(ctx, ("task",), number)
        OF_TASK.remove(ctx, entry.item, task)
        DISPUTES.delete(ctx, number)
    return True
