"""Giving work out: deals of posted tasks, and the canaries that stand in for demand (steps 4 and 5 of the prologue).

Owns the order of deals, retries, room, and what a canary asks. The draw is consensus.work.deal's.
"""

from collections.abc import Sequence

from consensus.work import audit, credit, deal
from consensus.work.slashing import gain_of
from primitives.hashing import keccak
from primitives.merkle import pack_tokens, tokens_root
from primitives.task import TEMPERATURE_ONE_Q16, Kind, Status, sampling_seed, task_id, trace_key
from vm.system import abi, ledger, market_parties, models
from vm.system import market_gas as gas
from vm.system.context import SystemContext
from vm.system.market_items import Source, run_queue
from vm.system.market_post import enter
from vm.system.market_refund import refund
from vm.system.market_state import (
    CANARIES,
    COMMISSIONED,
    CREATED,
    DUTIES,
    FRESH,
    LOADS,
    NOBODY,
    POSTED,
    RETRIES,
    TASKS,
    WINDOWS,
    Task,
    hold,
    schedule,
)

RETRIES_A_BLOCK = 8
DEADLINE_MAX = 2**32 - 1
TRIES_COUNTED = 255
"""Long after the pause between tries stopped growing."""
CANARY_SHARE_PERCENT = 1
"""Of the declared capacity of an epoch, on a public chain, canaries take at most this much."""


def deal_tasks(ctx: SystemContext) -> bool:
    """Step 4: fresh tasks by tip and then sequence, then a few retries, then what the fund commissioned, then canaries.
    False: stopped for want of gas. (A refuted task goes to its next backup at once, without a deal.)
    """
    left = most_of_all = ctx.params.prologue_items_max
    members = market_parties.set_size(ctx)
    look, gas_deal = gas.look(members), gas.deal(members)

    def gas_item(status: int, auditors: int, seats: int) -> int:
        return gas_deal

    queues: tuple[tuple[Source, int], ...] = (
        (FRESH, left), (RETRIES, RETRIES_A_BLOCK), (COMMISSIONED, left), (CANARIES, left),
    )  # fmt: skip
    for queue, most in queues:
        now = look if left == most_of_all else 0
        done, go_on = run_queue(ctx, queue, "deal", gas_item, _deal, min(most, left), _undealt, now)
        left -= done
        if not go_on:
            return False
    return True


def _undealt(status: int, awaits: int, due: int, queue: Source, height: int) -> bool:
    return status == Status.POSTED


def _deal(ctx: SystemContext, identity: bytes, task: Task) -> None:
    """Draw an executor and two backups among those with room, or try again later."""
    if models.is_suspended(ctx, task.model):
        refund(ctx, identity, task, "the model is suspended")
        return
    cost = task.cost(models.require(ctx, task.model))
    step = audit.slot_step(task.deadline)
    seen = market_parties.look(ctx, task.model)
    room = [
        p for p in seen.parties for in_flight, exposed in [LOADS.read(ctx, ("in_flight", "exposed"), p.operator)]
        if deal.has_room(in_flight, cost, p.rate, step) and p.covers(ctx.params, task.gain, exposed)
    ]  # fmt: skip
    room = market_parties.willing(ctx, room, task, cost)
    if not room:
        _later(ctx, identity, task, bool(seen.parties))
        return
    candidates = market_parties.drawable(room)
    drawn = deal.draw(ctx.mix, deal.Purpose.DEAL, identity, task.attempt, candidates, deal.EXECUTOR_SLOTS)
    task.set_parties(drawn)
    task.status = Status.DEALT
    task.dealt = ctx.height
    task.passed = 0
    task.excused = market_parties.excused(room, drawn, task.deadline, cost)
    if not task.attempt:
        task.seed = sampling_seed(ctx.mix, identity)
    if seen.counts:
        task.serving_bond = sum(party.weight for party in seen.parties)
        task.room_bond = sum(party.weight for party in room)
    for operator in drawn:
        DUTIES.add(ctx, identity, operator)
    hold(ctx, task, cost)
    if not task.canary and not task.commissioned:
        ledger.add_backlog(ctx, cost)
    models.note_dealt(ctx, drawn[0], task.model)
    schedule(ctx, WINDOWS, identity, task, audit.slot_missed_at(task.dealt, task.deadline, 0))
    TASKS.put(ctx, task, identity)
    abi.emit(
        ctx, abi.TASK_DEALT, identity, drawn[0], task.attempt, drawn, task.seed, trace_key(task.seed, task.attempt),
        step, task.dealt + task.deadline,
    )  # fmt: skip


def _later(ctx: SystemContext, identity: bytes, task: Task, served: bool) -> None:
    """Nobody can hold it: again after 1, 2, 4 .. 32 blocks. Its deadline from the post ends that."""
    task.tries = min(task.tries + 1, TRIES_COUNTED)
    again = ctx.height + deal.retry_after(task.tries)
    RETRIES.push(ctx, again, identity)
    TASKS.put(ctx, task, identity)
    who = "with room for it serves the model" if served else "serves the model"
    reason = f"no member of the current set {who}"
    abi.emit(ctx, abi.DEAL_DELAYED, identity, again, reason)


def create_canaries(ctx: SystemContext) -> bool:
    """Step 5: canary j of 4n is created in block f + j * epoch_blocks // 4n, later in its epoch where gas was short.

    False: stopped for want of gas.
    """
    params = ctx.params
    epoch = params.epoch(ctx.height)
    members = market_parties.set_size(ctx)
    count = params.canaries_per_validator * members
    position = ctx.height - params.first_height(epoch)
    counted_epoch, created = divmod(CREATED.get(ctx), 1 << 32)
    for number in range(created if counted_epoch == epoch else 0, count):
        if number * params.epoch_blocks // count > position:
            break
        listed = models.listed_ids(ctx)
        gas_item = gas.canary(members, len(listed))
        if ctx.gas_left < gas_item:
            return False
        ctx.charge(gas_item, "canary")
        CREATED.set(ctx, epoch << 32 | number + 1)
        _create_canary(ctx, number, listed)
    return True


def _create_canary(ctx: SystemContext, number: int, listed: Sequence[bytes]) -> None:
    """Post a canary, if anyone serves a listed model: prompt from the mix, nothing escrowed."""
    sequence = POSTED.get(ctx)
    identity = task_id(ctx.params.chain_id, sequence)
    bonds = {model: sum(p.weight for p in market_parties.serving(ctx, model)) for model in listed}
    picks = deal.draw(
        ctx.mix, deal.Purpose.CANARY_MODEL, identity, 0, [deal.Candidate(*item) for item in bonds.items()], 1
    )
    if not picks:
        return
    (model,) = picks
    record = models.require(ctx, model)
    kind, tokens = credit.canary_of(ctx.params, record.context, bool(record.encoder))
    cost = record.cost.execution(kind, tokens, tokens)
    if not ctx.params.devnet and (number + 1) * cost * 100 > CANARY_SHARE_PERCENT * _declared(ctx, model):
        return
    least, _ = audit.deadline_bounds(cost, record.reference_macs_per_block)
    if least > DEADLINE_MAX:
        return
    prompt = canary_prompt(ctx.mix, sequence, tokens, record.vocabulary, models.stop_ids(ctx, model))
    generates = kind is Kind.GENERATE
    task = Task(
        status=Status.POSTED, kind=kind, canary=1, deadline=max(ctx.params.deadline_default, least), prompt=tokens,
        max_tokens=tokens if generates else 0, temperature_q16=TEMPERATURE_ONE_Q16 if generates else 0, poster=NOBODY,
        model=model, prompt_hash=tokens_root(prompt), base_fee=ctx.base_fee, paid_auditors=ctx.params.auditors,
        gain=gain_of(0, cost, ledger.base_price(ctx)),
    )  # fmt: skip
    CANARIES.push(ctx, ctx.height + 1, enter(ctx, task, pack_tokens(prompt)))


def _declared(ctx: SystemContext, model: bytes) -> int:
    """Multiply-adds that the members serving a model declare for an epoch."""
    return sum(c.serving.declared for c in models.candidates(ctx, model)) * ctx.params.epoch_blocks


def canary_prompt(mix: bytes, sequence: int, tokens: int, vocabulary: int, stops: list[int]) -> tuple[int, ...]:
    """Token i = keccak(mix | "canary" | sequence u64 | i u32) mod vocabulary; an i that gives a stop id is skipped."""
    assert len(stops) < vocabulary
    prompt: list[int] = []
    i = 0
    while len(prompt) < tokens:
        digest = keccak(mix + b"canary" + sequence.to_bytes(8, "big") + i.to_bytes(4, "big"))
        token = int.from_bytes(digest, "big") % vocabulary
        if token not in stops:
            prompt.append(token)
        i += 1
    return tuple(prompt)
