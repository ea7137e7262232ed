"""How a task of the tolerant lane ends: paid because its asker accepted or said nothing, refused, or never answered.

Owns the step of the prologue and every movement of an escrow. Paying mints nothing and counts for nobody's credit, and
a fifth of what is paid is burned, so that paying oneself is a loss; the same fifth is burned when an answer is
refused, so that an answer is never free, and the executor gains nothing by being refused.
"""

from primitives.address import TOLERANT
from primitives.hashing import ZERO_HASH
from primitives.task import Kind
from vm.system import abi, gas, ledger, staking
from vm.system.context import SystemContext
from vm.system.ledger import Burn, ComputeReceipt
from vm.system.market_state import forget_later
from vm.system.tolerant_state import ASKS, DUE, Ask, close, note

LANE_DIV = 6
"""Of the prologue's gas this lane has at most that part a block, but for one task at least: exact work comes first."""


def end_due(ctx: SystemContext) -> bool:
    """End what was accepted, and what nobody said anything about in time, as far as the lane goes; the rest waits.

    False: stopped for want of the prologue's gas.
    """
    lane = ctx.params.prologue_gas // LANE_DIV
    while (entry := DUE.peek(ctx, ctx.height)) is not None:
        if ctx.gas_left < gas.TOLERANT_END:
            return False
        status, last = ASKS.read(ctx, ("status", "last"), entry.item)
        stale = not status or last >= entry.height
        needed = gas.TOLERANT_LOOK if stale else gas.TOLERANT_END
        lane -= needed
        ctx.charge(needed, "tolerant")
        DUE.pop(ctx)
        if not stale:
            ask = ASKS.get(ctx, entry.item)
            assert ask is not None
            if ask.status == abi.STATE_ASKED:
                _give_up(ctx, entry.item, ask)
            else:
                _pay(ctx, entry.item, ask)
        if lane < gas.TOLERANT_END:
            break
    return True


def refuse_answer(ctx: SystemContext, task: bytes, ask: Ask, reason: str) -> None:
    """The asker takes its escrow back, less what an acceptance would have burned."""
    burned = burned_of(ctx, ask)
    ledger.burn(ctx, TOLERANT, burned, Burn.FEE)
    ctx.transfer(TOLERANT, ask.asker, ask.escrow - burned)
    note(ctx, ask, "refused")
    close(ctx, task, ask)
    abi.emit(ctx, abi.TOLERANT_REFUSED, task, ask.executor, ask.asker, reason, burned, ask.escrow - burned)


def burned_of(ctx: SystemContext, ask: Ask) -> int:
    """The part of an answer's fee that nobody gets: rounded down, as of an exact task."""
    return ask.fee * ctx.params.fee_burn_percent // 100


def _pay(ctx: SystemContext, task: bytes, ask: Ask) -> None:
    """The fee to the executor's payout, less the burned part; what the answer did not need to the asker."""
    fee, burned = ask.fee, burned_of(ctx, ask)
    assert fee <= ask.escrow
    accepted = ask.status == abi.STATE_ACCEPTED
    payout = staking.payout_of(ctx, ask.executor)
    receipt = ledger.record_receipt(ctx, _receipt(task, ask, accepted))
    forget_later(ctx, task)
    ledger.burn(ctx, TOLERANT, burned, Burn.FEE)
    ctx.transfer(TOLERANT, payout, fee - burned)
    ctx.transfer(TOLERANT, ask.asker, ask.escrow - fee)
    note(ctx, ask, "accepted" if accepted else "unopposed", fee)
    close(ctx, task, ask)
    abi.emit(
        ctx, abi.TOLERANT_PAID, task, ask.executor, receipt, accepted, payout, fee, fee - burned, burned,
        ask.escrow - fee,
    )  # fmt: skip


def _give_up(ctx: SystemContext, task: bytes, ask: Ask) -> None:
    """Nobody answered in time: the escrow goes back whole."""
    ctx.transfer(TOLERANT, ask.asker, ask.escrow)
    note(ctx, ask, "unanswered")
    close(ctx, task, ask)
    abi.emit(ctx, abi.TOLERANT_UNANSWERED, task, ask.executor, ask.asker, ask.escrow)


def _receipt(task: bytes, ask: Ask, accepted: bool) -> ComputeReceipt:
    """Of this lane: nothing was checked, and a float model has no work in multiply-adds."""
    return ComputeReceipt(
        task=task,
        executor=ask.executor,
        kind_of_payer=abi.CLASS_PAID,
        lane=abi.LANE_TOLERANT,
        kind=Kind.GENERATE,
        model=ask.model,
        prompt_hash=ask.prompt_hash,
        output_hash=ask.output_hash,
        seed=ask.seed,
        prompt_tokens=ask.prompt_bytes,
        output_tokens=ask.tokens,
        prefill_macs=0,
        decode_macs=0,
        prefill_bytes=0,
        decode_bytes=0,
        verifiers=(),
        verification=abi.VERIFIED_ACCEPTED if accepted else abi.VERIFIED_NONE,
        outcome=abi.OUTCOME_UNVERIFIED,
        root=ZERO_HASH,
        price=0,
        fee=ask.fee,
        payer=ask.asker,
        queue_ms=ask.queue_ms,
        first_token_ms=0,
        total_ms=ask.total_ms,
        device=b"",
    )
