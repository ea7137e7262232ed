"""The Courier: calls a task's poster back when the task has come to its end, from an account that may do nothing else.

Owns the queue of callbacks, their prepaid gas and the lane that they have in a block. A callback is somebody's code
inside the prologue, so it is given nothing but its own gas: one fixed method of who posted, no value, no return data,
no writing to a system account (vm.system.dispatch sees to that). Whatever it does, the settlement that it reports
stands.
"""

from dataclasses import dataclass
from typing import Any

from primitives.address import COURIER, MARKET, SYSTEM_ACCOUNTS
from vm.system import abi, ledger
from vm.system import market_gas as gas
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.gas import VIEW_WORD
from vm.system.layout import Queue, Scalar, Table, raw, uint
from vm.system.market_state import ByTip

LANE_DIV = 16
"""Callbacks have at most a sixteenth of a block's gas."""
OPEN_MAX = 256
"""Tasks that are to be called back and were not, and places in the order by tip that those called out of turn have
left behind; one more post that asks for a callback is refused, so that no task's end ever finds the order full."""
WAIT_BLOCKS_MAX = 64
"""Who has waited so long comes before everyone who tips more, the longest wait first."""


@dataclass
class Callback:
    """One that waits: whom to call, what to say, and what was paid for it."""

    target: bytes = raw(20)
    gas: int = uint(32)
    status: int = uint(8)
    prepaid: int = uint(128)
    queued: int = uint(64)
    output_hash: bytes = raw(32)
    receipt: bytes = raw(32)


_CALLBACKS = Table(COURIER, "callback", Callback)
_BY_TIP = ByTip(COURIER, "by_tip", OPEN_MAX)
_OVERDUE = Queue(COURIER, "overdue")
_OPEN = Scalar(COURIER, "open")
_PREPAID = Scalar(COURIER, "prepaid")


def reserve(ctx: SystemContext) -> None:
    """A post asks to be called back. Raises Refused("backlog")."""
    waiting = _OPEN.get(ctx)
    if waiting >= OPEN_MAX:
        raise Refused("backlog", f"{waiting} tasks are to be called back already; try again later")
    _OPEN.set(ctx, waiting + 1)


def enqueue(ctx: SystemContext, task_id: bytes, sequence: int, tip: int, callback: Callback) -> None:
    """A task that reserved has ended: its callback comes when it is its turn. Takes the prepaid wei from the Market."""
    ctx.charge(gas.QUEUE_CALLBACK, "callback")
    callback.queued = ctx.height
    _CALLBACKS.put(ctx, callback, task_id)
    _BY_TIP.push(ctx, tip, sequence)
    _OVERDUE.push(ctx, ctx.height + WAIT_BLOCKS_MAX, task_id)
    ctx.transfer(MARKET, COURIER, callback.prepaid)
    _PREPAID.add(ctx, callback.prepaid)


def deliver(ctx: SystemContext) -> bool:
    """Step 3, after the settlements: those that waited too long, then by tip and then age, as far as the lane goes.

    Always True: callbacks that do not fit wait, and hold up nothing else.
    """
    left = ctx.params.block_gas_limit // LANE_DIV
    while (task_id := _next(ctx)) is not None:
        callback = _CALLBACKS.get(ctx, task_id)
        assert callback is not None
        needed = gas.CALLBACK + callback.gas
        if needed > min(left, ctx.gas_left):
            break
        ctx.charge(gas.CALLBACK, "callback")
        _CALLBACKS.delete(ctx, task_id)
        left -= gas.CALLBACK + _call(ctx, task_id, callback)
    return True


def _next(ctx: SystemContext) -> bytes | None:
    """The task whose callback comes next; entries of those that were made are dropped on the way."""
    for source in (_OVERDUE, _BY_TIP):
        while ctx.gas_left >= gas.LOOK and (entry := source.peek(ctx, ctx.height)) is not None:
            if _CALLBACKS.read(ctx, ("queued",), entry.item)[0]:
                return entry.item
            ctx.charge(gas.LOOK, "callback")
            source.pop(ctx)
            if source is _BY_TIP:
                _OPEN.add(ctx, -1)
    return None


def _call(ctx: SystemContext, task_id: bytes, callback: Callback) -> int:
    """Make it: burn the gas that it took at this block's base fee, give the rest of what was paid back. The gas."""
    assert callback.target not in SYSTEM_ACCOUNTS, "no system account posts"
    data = abi.CALLBACK.encode_call(task_id, callback.status, callback.output_hash, callback.receipt)
    succeeded, used = ctx.call_out(COURIER, callback.target, data, callback.gas)
    burned = min(callback.prepaid, used * ctx.base_fee)
    ledger.burn(ctx, COURIER, burned, ledger.Burn.CALLBACK)
    ctx.transfer(COURIER, callback.target, callback.prepaid - burned)
    _PREPAID.add(ctx, -callback.prepaid)
    abi.emit(
        ctx, abi.CALLED_BACK, task_id, callback.target, callback.status, succeeded, used, burned,
        callback.prepaid - burned,
    )  # fmt: skip
    return used


def prepaid(ctx: ReadContext) -> int:
    """Wei that this account holds for callbacks that wait."""
    return _PREPAID.get(ctx)


# Methods


def _pending(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(3 * VIEW_WORD, "pending")
    return _OPEN.get(ctx), _BY_TIP.pending(ctx), _PREPAID.get(ctx)


def _get_callback(ctx: SystemContext, call: Call, task_id: bytes) -> tuple[Any, ...]:
    ctx.charge(6 * VIEW_WORD, "getCallback")
    callback = _CALLBACKS.get(ctx, task_id)
    if callback is None:
        raise Refused("unknown_callback", f"no callback of task 0x{task_id.hex()} waits")
    return callback.target, callback.status, callback.gas, callback.prepaid, callback.queued


HANDLERS = {abi.PENDING: _pending, abi.GET_CALLBACK: _get_callback}
