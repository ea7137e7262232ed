"""How a task ends: settled and paid (step 3 of the prologue).

Owns the movement of a task's money and what it leaves behind: the receipt, credit, the shown rate. How much goes to
whom is consensus.work.fees' question.
"""

from consensus.work import credit, fees
from consensus.work.deal import finalised_rate
from primitives.address import MARKET, STAKING
from primitives.hashing import ZERO_HASH
from primitives.task import Kind, Status
from vm.system import abi, delegation, ledger, models, staking
from vm.system import market_gas as gas
from vm.system.context import SystemContext
from vm.system.ledger import Burn, ComputeReceipt
from vm.system.market_items import run_queue
from vm.system.market_refund import call_back, give_back
from vm.system.market_state import (
    CREDIT_AGAIN_EPOCHS,
    CREDITED,
    CREDITED_BEFORE,
    FUND,
    MATURE,
    NOBODY,
    SEAT_OPENED,
    TASKS,
    Seat,
    Task,
    finish,
    prompt_key,
    seats_of,
    unlock,
)


def settle_mature(ctx: SystemContext) -> bool:
    """Step 3: settle what matures by this block. False: stopped for want of gas."""
    return run_queue(ctx, MATURE, "settle", _gas_of, settle, ctx.params.prologue_items_max)[1]


def _gas_of(status: int, auditors: int, seats: int) -> int:
    return gas.settle(auditors, seats)


def settle(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """Pay everyone, count the work, leave the receipt."""
    assert task.status in (Status.AGREED, Status.UNVERIFIED), task.status
    if task.disputes:
        task.due = 0  # settled in the prologue after the last challenge of it is lost
        TASKS.put(ctx, task, task_id)
        return
    model = models.require(ctx, task.model)
    verified = task.status == Status.AGREED
    end = Status.SETTLED if verified else Status.UNVERIFIED
    verifiers = [seat for seat in seats_of(ctx, task_id, task) if verified and seat.state == SEAT_OPENED]
    terms = task.terms(model)
    split = fees.settle(
        terms, gas.WORK_PAID, ctx.params, _canary_escrow(terms) if task.canary else _escrow(task), task.output,
        len(verifiers), task.revealer != NOBODY,
    )  # fmt: skip
    macs = model.cost.execution(terms.kind, task.prompt, task.output)
    receipt = _receipt(task_id, task, terms, verifiers, split.fee)
    identity = ledger.record_receipt(ctx, receipt)
    call_back(ctx, task_id, task, end, identity)
    executor_wei = _pay(ctx, task_id, task, split, verifiers)
    if verified:
        _count(ctx, task, model, verifiers)
    abi.emit(
        ctx, abi.TASK_SETTLED, task_id, task.executor, identity, end, macs, split.fee, executor_wei,
        split.burned, 0 if task.canary else split.refund,
    )  # fmt: skip
    finish(ctx, task_id, task, end)


def _escrow(task: Task) -> int:
    """What the task has for its work: the callback's part is the Courier's."""
    return task.escrow - fees.callback_part(task.callback_gas, task.base_fee)


def _canary_escrow(terms: fees.Terms) -> int:
    """A canary locks nothing; its price is 0, so that this is the work part that the fund pays while it lasts."""
    return fees.escrow_of(terms, gas.WORK_PAID).total


def _pay(ctx: SystemContext, task_id: bytes, task: Task, split: fees.Settlement, verifiers: list[Seat]) -> int:
    """Move the escrow (a canary: the work part out of the fund). What the executor got for its work, wei."""
    payments = [(task.executor, abi.ROLE_EXECUTE, split.executor, split.submission_work)]
    payments += [(seat.verifier, abi.ROLE_AUDIT, split.audit, split.verdict_work) for seat in verifiers]
    if task.revealer != NOBODY:
        payments.append((task.revealer, abi.ROLE_REVEAL, 0, split.reveal_work))
    if task.canary:
        for operator, role, _, work in payments:
            if work <= FUND.get(ctx):
                FUND.add(ctx, -work)
                _move(ctx, task_id, operator, role, 0, work)
        return 0
    unlock(ctx, task)
    for operator, role, fee, work in payments:
        _move(ctx, task_id, operator, role, fee, work)
    ledger.burn(ctx, MARKET, split.burned, Burn.FEE)
    give_back(ctx, task, split.refund)
    if split.minted:
        ledger.mint(ctx, MARKET, split.minted)
        FUND.add(ctx, split.minted)
    return split.executor


def _move(ctx: SystemContext, task_id: bytes, operator: bytes, role: int, fee: int, work: int) -> None:
    """Pay an operator: fees to its payout address and its delegators, its messages' gas back to its hot account."""
    record = staking.operator(ctx, operator)
    assert record is not None, operator
    shared = delegation.share_fee(ctx, operator, record, fee)
    for target, wei in ((record.payout, fee - shared), (STAKING, shared), (record.hot, work)):
        if wei:
            ctx.transfer(MARKET, target, wei)
            abi.emit(ctx, abi.PAID, task_id, operator, target, role, wei)


def _receipt(task_id: bytes, task: Task, terms: fees.Terms, verifiers: list[Seat], fee: int) -> ComputeReceipt:
    return ComputeReceipt(
        task=task_id,
        executor=task.executor,
        kind_of_payer=_class(task),
        lane=abi.LANE_EXACT,
        kind=task.kind,
        model=task.model,
        prompt_hash=task.prompt_hash,
        output_hash=task.output_hash,
        seed=task.seed,
        prompt_tokens=task.prompt,
        output_tokens=task.output,
        prefill_macs=terms.cost.prefill(task.prompt),
        decode_macs=terms.cost.decode(terms.kind, task.prompt, task.output),
        prefill_bytes=terms.cost.prefill_bytes(task.prompt),
        decode_bytes=terms.cost.decode_bytes(terms.kind, task.prompt, task.output),
        verifiers=tuple(seat.verifier for seat in verifiers),
        verification=abi.VERIFIED_AUDIT if verifiers else abi.VERIFIED_NONE,
        outcome=_outcome(task, verifiers),
        root=task.root if verifiers else ZERO_HASH,
        price=task.price,
        fee=fee,
        payer=task.poster,
        queue_ms=task.queue_ms,
        first_token_ms=task.first_token_ms,
        total_ms=task.total_ms,
        device=task.device[: task.device_bytes],
    )


def _class(task: Task) -> int:
    """Who paid for the work."""
    if task.canary:
        return abi.CLASS_CANARY
    return abi.CLASS_COMMISSIONED if task.commissioned else abi.CLASS_PAID


def _outcome(task: Task, verifiers: list[Seat]) -> int:
    if not verifiers:
        return abi.OUTCOME_UNVERIFIED
    return abi.OUTCOME_UPHELD if task.contradicted else abi.OUTCOME_AGREED


def _count(ctx: SystemContext, task: Task, model: models.Model, verifiers: list[Seat]) -> None:
    """Credit and shown rate of an agreed task."""
    kind = Kind(task.kind)
    macs = model.cost.execution(kind, task.prompt, task.output)
    shown = finalised_rate(macs, task.slot_window(task.slot).first, task.answered)
    models.note_rate(ctx, task.executor, task.model, shown)
    if not task.serving_bond or not _first_time(ctx, task):
        return
    done = model.cost, kind, task.prompt, task.output, bool(model.encoder)
    executed, audited = credit.execution_credit(*done), credit.audit_credit(*done)
    ledger.add_work(ctx, task.executor, credit.scaled_by_room(executed, task.room_bond, task.serving_bond), 0)
    for seat in verifiers:
        ledger.add_work(ctx, seat.verifier, 0, credit.scaled_by_room(audited, task.room_bond, task.serving_bond))


def _first_time(ctx: SystemContext, task: Task) -> bool:
    """Whether work on this prompt may earn credit: greedy work (top-k 1 is, at any temperature) and vectors once in a
    while."""
    if task.temperature_q16 and task.top_k != 1:
        return True
    epoch, key = ctx.params.epoch(ctx.height), prompt_key(task.model, task.prompt_hash, task.kind)
    last = CREDITED.get(ctx, key)
    if last and epoch + 1 - last < CREDIT_AGAIN_EPOCHS:
        return False
    CREDITED.set(ctx, epoch + 1, key)
    CREDITED_BEFORE.push(ctx, ctx.params.first_height(epoch + CREDIT_AGAIN_EPOCHS), key)
    return True
