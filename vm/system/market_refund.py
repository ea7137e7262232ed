"""A task's way back: the escrow returns to who posted it, whole or less the expiry charge."""

from consensus.work.fees import expiry_charge
from primitives.address import MARKET
from primitives.hashing import ZERO_HASH
from primitives.task import Status
from vm.system import abi, ledger
from vm.system import market_gas as gas
from vm.system.context import SystemContext
from vm.system.market_state import TASKS, Task, finish, unlock


def refund(ctx: SystemContext, task_id: bytes, task: Task, reason: str, charged: bool = False) -> None:
    """Return the escrow, less the charge that is burned if `charged`, and end the task; a dispute goes on without it.

    Moves only what this account holds: with gas for it, it cannot fail. The caller keeps gas.refund back.
    """
    ctx.charge(gas.refund(max(task.paid_auditors, task.seats)), "refund")
    escrow = unlock(ctx, task)
    burned = expiry_charge(escrow, ctx.params) if charged else 0
    ledger.burn(ctx, MARKET, burned, ledger.Burn.EXPIRY)
    ctx.transfer(MARKET, task.poster, escrow - burned)
    ledger.count_refund(ctx)
    abi.emit(ctx, abi.TASK_REFUNDED, task_id, task.poster, escrow - burned, burned, reason)
    if task.status == Status.DISPUTED:
        TASKS.put(ctx, task, task_id)
    else:
        finish(ctx, task_id, task, Status.REFUNDED, ZERO_HASH)
