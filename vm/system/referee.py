"""The Referee: disputes about answers, decided by recomputing one bounded operation (docs/formats.md, Disputes).

This file is its front: the methods of the account. Filing is in referee_file, moves in referee_game, clocks in
referee_turns and referee_clock, the end in referee_end, storage in referee_state; lists, pages and openings are
inference.opening's.
"""

from typing import Any

from vm.system import abi
from vm.system import referee_gas as gas
from vm.system.context import Call, SystemContext
from vm.system.gas import VIEW_WORD
from vm.system.market_gas import TASK_WORDS
from vm.system.market_state import load as load_task
from vm.system.referee_clock import close_disputes
from vm.system.referee_file import challenge, quote
from vm.system.referee_forget import forget_ended
from vm.system.referee_game import choose, open_, show, stand_in_bond
from vm.system.referee_state import AUTHOR_ANYONE, HELD, OF_TASK, OPEN, load, unknown
from vm.system.referee_views import dispute_view, disputes_of, open_disputes

STEP = ("disputes", close_disputes)
"""Its part of step 1 of the prologue."""
LAST_STEP = ("forget_disputes", forget_ended)
"""Its part of the end of step 5."""


def _get_dispute(ctx: SystemContext, call: Call, number: int) -> tuple[Any, ...]:
    ctx.charge(gas.DISPUTE_VIEW * VIEW_WORD, "getDispute")
    view = dispute_view(ctx, number)
    if view is None:
        raise unknown(ctx, number)
    return (view.values,)


def _disputes_of(ctx: SystemContext, call: Call, task: bytes) -> tuple[Any, ...]:
    ctx.charge(VIEW_WORD, "disputesOf")
    ctx.charge(VIEW_WORD * OF_TASK.count(ctx, task), "disputesOf")
    return (disputes_of(ctx, task),)


def _open_disputes(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(VIEW_WORD, "openDisputes")
    ctx.charge(VIEW_WORD * OPEN.count(ctx, b""), "openDisputes")
    return (open_disputes(ctx),)


def _bond_for(ctx: SystemContext, call: Call, task: bytes, challenger: bytes) -> tuple[Any, ...]:
    ctx.charge((TASK_WORDS + 4) * VIEW_WORD, "bondFor")
    return quote(ctx, task, challenger)


def _stand_in_bond(ctx: SystemContext, call: Call, number: int, author: bytes) -> tuple[Any, ...]:
    ctx.charge((TASK_WORDS + gas.DISPUTE_VIEW) * VIEW_WORD, "standInBond")
    dispute = load(ctx, number)
    wei, kind = stand_in_bond(ctx, dispute, load_task(ctx, dispute.task), author)
    return wei, kind != AUTHOR_ANYONE


def _held_wei(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(VIEW_WORD, "heldWei")
    return (HELD.get(ctx),)


HANDLERS = {
    abi.CHALLENGE: challenge,
    abi.SHOW: show,
    abi.CHOOSE: choose,
    abi.OPEN: open_,
    abi.GET_DISPUTE: _get_dispute,
    abi.DISPUTES_OF: _disputes_of,
    abi.OPEN_DISPUTES: _open_disputes,
    abi.BOND_FOR: _bond_for,
    abi.STAND_IN_BOND: _stand_in_bond,
    abi.HELD_WEI: _held_wei,
}
