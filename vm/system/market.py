"""The Market: the life of a task, from its post to its receipt (docs/formats.md, Market, Windows, Units and money).

This file is its front: the methods of the account, and its steps of the prologue. Rules are in consensus.work; posts in
market_post, deals and canaries in market_deal, messages in market_work, the clock in market_windows, the end in
market_settle, storage in market_state.
"""

from typing import Any

from vm.system import abi, courier, standby
from vm.system import market_gas as gas
from vm.system.context import Call, Refused, SystemContext
from vm.system.gas import VIEW_WORD
from vm.system.market_commission import batches, commission
from vm.system.market_deal import create_canaries, deal_tasks
from vm.system.market_forget import forget_old
from vm.system.market_post import cancel, fill_fund, post, quote
from vm.system.market_settle import settle_mature
from vm.system.market_state import AUDIT_RESERVE, DUTIES, FUND, POSTED
from vm.system.market_views import task_view
from vm.system.market_windows import close_windows, draw_audits
from vm.system.market_work import work

STEPS = (
    ("close_windows", close_windows),
    ("draw_audits", draw_audits),
    ("settle", settle_mature),
    ("call_back", courier.deliver),
    ("deal", deal_tasks),
    ("commission", commission),
    ("create_canaries", create_canaries),
    ("forget", forget_old),
)
"""Steps 1 to 5 of the prologue, in order."""


def _get_task(ctx: SystemContext, call: Call, task_id: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.TASK_WORDS * VIEW_WORD, "getTask")
    view = task_view(ctx, task_id)
    if view is None:
        raise Refused("unknown_task", f"there is no task 0x{task_id.hex()}")
    return (view.values,)


def _open_tasks(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge(3 * VIEW_WORD, "openTasks")
    ctx.charge((DUTIES.count(ctx, operator) + standby.looks(ctx)) * gas.TASK_WORDS * VIEW_WORD, "openTasks")
    return ([duty.values for duty in standby.all_duties(ctx, operator)],)


def _fund(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(2 * VIEW_WORD, "fund")
    return FUND.get(ctx), AUDIT_RESERVE.get(ctx)


def _task_count(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(VIEW_WORD, "taskCount")
    return (POSTED.get(ctx),)


def _batches(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(VIEW_WORD * 5 * 16, "batches")
    return ([batch.values for batch in batches(ctx)],)


HANDLERS = {
    abi.POST: post,
    abi.CANCEL: cancel,
    abi.WORK: work,
    abi.FILL_FUND: fill_fund,
    abi.QUOTE: quote,
    abi.GET_TASK: _get_task,
    abi.OPEN_TASKS: _open_tasks,
    abi.FUND: _fund,
    abi.BATCHES: _batches,
    abi.TASK_COUNT: _task_count,
}
