"""The Referee's part of the prologue's step 1: contradictions that became no challenge, clocks that ran out, disputes
that begin.

Owns when. What an end costs is referee_end's question. Each item has a frame of its own and a fixed most of gas.
"""

from collections.abc import Callable

from vm.system import abi, market_contest, market_gas, referee_end
from vm.system import referee_gas as gas
from vm.system.context import Refused, SystemContext
from vm.system.layout import Queue, u64
from vm.system.market_items import expected
from vm.system.market_state import CONTESTED, TASKS, Task, seats_of
from vm.system.market_windows import miss_unopened
from vm.system.referee_state import (
    ACCUSED,
    AUTHOR_ANYONE,
    AUTHOR_DRAWN,
    CALLED,
    CLOCKS,
    DISPUTES,
    LINE_ANYONE,
    LINE_DRAWN,
    LINE_ITEMS,
    LINES,
    RUNNING,
    Accused,
    Dispute,
    accused_of,
    item_number,
    item_of,
    load,
)
from vm.system.referee_turns import Case, ask_for_list, begin_turn, catch_up, note_full_lane, set_tree

Item = Callable[[SystemContext, bytes], None]
GasOf = Callable[[SystemContext, bytes], tuple[int, int]]
"""(most gas of an item, what must remain beside it: for the refund of its task that it may end in)."""
ACCUSED_BYTES = 20


def close_disputes(ctx: SystemContext) -> bool:
    """What is overdue, then what may begin. False: stopped for want of gas."""
    if ctx.gas_left < gas.LANE:
        return False
    ctx.charge(gas.LANE, "dispute lane")
    note_full_lane(ctx)
    return (
        _work_off(ctx, CONTESTED, "contested", _contested_gas, _contested)
        and _work_off(ctx, CLOCKS, "dispute clock", _clock_gas, _clock)
        and _begin_those_called(ctx)
    )


def _work_off(
    ctx: SystemContext, queue: Queue, step: str, gas_of: GasOf, item: Item
) -> bool:
    """Items due by this block, each in a frame; one that fails is logged and taken out. False: gas ran short."""
    for _ in range(ctx.params.prologue_items_max):
        entry = queue.peek(ctx, ctx.height)
        if entry is None:
            return True
        if ctx.gas_left < gas.LATE:
            return False
        most, beside = gas_of(ctx, entry.item)
        if ctx.gas_left < most + beside:
            return False
        ctx.charge(most, step)
        queue.pop(ctx)
        try:
            with ctx.frame():
                item(ctx, entry.item)
        except Refused as refusal:
            abi.emit(ctx, abi.ITEM_FAILED, entry.item, step, refusal.code, refusal.text)
    return True


def _contested_gas(ctx: SystemContext, task_id: bytes) -> tuple[int, int]:
    names = ("status", "awaits", "due", "paid_auditors", "seats", "callback_gas")
    status, awaits, due, auditors, seats, callback = TASKS.read(ctx, names, task_id)
    if not expected(status, awaits, due, CONTESTED, ctx.height):
        return gas.LATE, 0
    all_seats = max(auditors, seats)  # those lost and drawn again among them, as the refund counts them
    return gas.end(auditors, all_seats), market_gas.way_back(all_seats, bool(callback))


def _contested(ctx: SystemContext, task_id: bytes) -> None:
    """A disputed task whose reveals are over, or whose root or challenge has to be there by now."""
    task = TASKS.get(ctx, task_id)
    if task is None or not expected(task.status, task.awaits, task.due, CONTESTED, ctx.height):
        return
    seats = seats_of(ctx, task_id, task)
    miss_unopened(ctx, task_id, task, seats)
    until = task.root_window(ctx.params, task.executor).last
    if not task.executor_opened and ctx.height <= until:
        market_contest.await_root(ctx, task_id, task, until)
        return
    if not task.executor_opened:
        referee_end.withheld(ctx, task_id, task)
        return
    for index in market_contest.late(ctx, task, seats):
        referee_end.unchallenged(ctx, task_id, task, index, seats[index])
    market_contest.look_again(ctx, task_id, task)


def _clock_gas(ctx: SystemContext, item: bytes) -> tuple[int, int]:
    dispute, task = _overdue(ctx, item)
    if dispute is None or task is None:
        return gas.LATE, 0
    beside = market_gas.way_back(max(task.paid_auditors, task.seats), bool(task.callback_gas))
    return referee_end.gas_of_end(task), beside


def _overdue(ctx: SystemContext, item: bytes) -> tuple[Dispute | None, Task | None]:
    """The running dispute of an entry whose move is overdue; (None, None) when the entry means nothing any more."""
    dispute = DISPUTES.get(ctx, u64(item_number(item)))
    if dispute is None:
        return None, None
    running = dispute.state not in (abi.DISPUTE_QUEUED, abi.DISPUTE_ENDED)
    if not running or dispute.due >= ctx.height:
        return None, None
    return dispute, TASKS.get(ctx, dispute.task)


def _clock(ctx: SystemContext, item: bytes) -> None:
    """The side whose turn it is has not moved in time; unless all clocks stood meanwhile."""
    number = item_number(item)
    dispute, _ = _overdue(ctx, item)
    if dispute is None:
        return
    if catch_up(ctx, dispute) and dispute.due >= ctx.height:
        DISPUTES.put(ctx, dispute, u64(number))
        CLOCKS.push(ctx, dispute.due + 1, item)
    elif dispute.turn == abi.TURN_CHALLENGER:
        referee_end.end(ctx, number, dispute, abi.ENDED_ABANDONED)
    elif dispute.author_kind in (AUTHOR_DRAWN, AUTHOR_ANYONE):
        referee_end.list_lost(ctx, number, dispute, abi.ENDED_LIST_UNDEFENDED)
    else:
        referee_end.end(ctx, number, dispute, abi.ENDED_UNDEFENDED)


def _begin_those_called(ctx: SystemContext) -> bool:
    """The next dispute of each accused that was called, as many as the lane carries. False: gas ran short."""
    room = gas.running_max(ctx.params) - RUNNING.get(ctx)
    for _ in range(ctx.params.prologue_items_max):
        entry = CALLED.peek(ctx, ctx.height)
        if entry is None or room <= 0:
            return True
        if ctx.gas_left < gas.BEGIN + gas.MOOT:
            return False
        ctx.charge(gas.BEGIN + gas.MOOT, "beginning of a dispute")
        CALLED.pop(ctx)
        operator = entry.item[-ACCUSED_BYTES:]
        record = accused_of(ctx, operator)
        record.called = 0
        number = _next_of(ctx, operator, record)
        ACCUSED.put(ctx, record, operator)
        if not number:
            continue
        try:
            with ctx.frame():
                room -= _begin(ctx, number)
        except Refused as refusal:
            abi.emit(ctx, abi.ITEM_FAILED, item_of(number), "beginning of a dispute", refusal.code, refusal.text)
    return True


def _next_of(ctx: SystemContext, operator: bytes, record: Accused) -> int:
    """Take the first of an accused's lines, drawn verifiers' first; 0 when none waits."""
    for sort in (LINE_DRAWN, LINE_ANYONE):
        key = operator, bytes([sort])
        line = LINES.get(ctx, *key)
        if line is not None and line.length:
            number = LINE_ITEMS.get(ctx, *key, u64(line.first))
            LINE_ITEMS.set(ctx, 0, *key, u64(line.first))
            line.first, line.length = line.first + 1, line.length - 1
            LINES.put(ctx, line, *key)
            record.waiting -= 1
            return number
    return 0


def _begin(ctx: SystemContext, number: int) -> int:
    """Begin a dispute, or end it as moot where its attempt is over. How many run more."""
    dispute = load(ctx, number)
    task = TASKS.get(ctx, dispute.task)
    if task is None or task.attempt != dispute.attempt:
        referee_end.moot(ctx, number, dispute)
        return 0
    record = accused_of(ctx, dispute.accused)
    record.running = number
    ACCUSED.put(ctx, record, dispute.accused)
    RUNNING.add(ctx, 1)
    dispute.begun = ctx.height
    case = Case(ctx, task)
    if dispute.leaf == abi.NO_LEAF:
        dispute.state = abi.DISPUTE_TRACE
        set_tree(dispute, case.leaves, task.root)
    else:
        ask_for_list(dispute, case)
    begin_turn(ctx, number, dispute, abi.TURN_DEFENDER)
    abi.emit(ctx, abi.DISPUTE_BEGAN, number, dispute.task, dispute.state, dispute.due)
    return 1
