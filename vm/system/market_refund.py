"""A task's way back: the escrow returns to who posted it, whole or less the expiry charge."""

from consensus.work.fees import callback_part, expiry_charge
from primitives.address import MARKET
from primitives.hashing import ZERO_HASH
from primitives.task import Status
from vm.system import abi, courier, ledger
from vm.system import market_gas as gas
from vm.system.context import SystemContext
from vm.system.courier import Callback
from vm.system.market_state import FUND, TASKS, Task, finish, unlock


def call_back(ctx: SystemContext, task_id: bytes, task: Task, status: Status, receipt: bytes) -> None:
    """At a task's end: hand its prepaid callback on to the Courier, if it asked for one."""
    if not task.callback_gas:
        return
    prepaid = callback_part(task.callback_gas, task.base_fee)
    unlock(ctx, task, prepaid)
    callback = Callback(task.poster, task.callback_gas, status, prepaid, 0, task.output_hash, receipt)
    courier.enqueue(ctx, task_id, task.sequence, task.tip, callback)
    task.callback_gas = 0


def give_back(ctx: SystemContext, task: Task, wei: int) -> None:
    """What a task does not need: to who posted it, or into the fund that commissioned it."""
    if task.commissioned:
        FUND.add(ctx, wei)
    else:
        ctx.transfer(MARKET, task.poster, wei)


def refund(ctx: SystemContext, task_id: bytes, task: Task, reason: str, charged: bool = False) -> None:
    """Return the escrow, less the charge that is burned if `charged`, and end the task; a dispute goes on without it.

    Moves only what this account holds: with gas for it, it cannot fail. The caller keeps gas.refund back.
    """
    ctx.charge(gas.refund(max(task.paid_auditors, task.seats)), "refund")
    call_back(ctx, task_id, task, Status.REFUNDED, ZERO_HASH)
    escrow = unlock(ctx, task)
    burned = expiry_charge(escrow, ctx.params) if charged else 0
    ledger.burn(ctx, MARKET, burned, ledger.Burn.EXPIRY)
    give_back(ctx, task, escrow - burned)
    ledger.count_refund(ctx)
    abi.emit(ctx, abi.TASK_REFUNDED, task_id, task.poster, escrow - burned, burned, reason)
    if task.status == Status.DISPUTED:
        TASKS.put(ctx, task, task_id)
    else:
        finish(ctx, task_id, task, Status.REFUNDED)
