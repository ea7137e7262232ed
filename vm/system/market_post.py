"""Asking for work: what a post must satisfy, what it locks, and its way back before the deal or from a dispute on.

Owns every refusal of a post, each with its reason, so that eth_estimateGas tells an asker what is wrong before
anything is sent. Who gets the task is market_deal's question.
"""

from typing import Any, NoReturn

from consensus.work import audit, fees, incentive
from consensus.work.incentive import AUDITORS_MAX
from consensus.work.slashing import exposure_max, gain_of
from primitives.address import MARKET
from primitives.merkle import tokens_root, unpack_tokens
from primitives.task import Kind, Status, price_of, result_length, task_id
from vm.system import abi, courier, ledger, market_parties, models
from vm.system import market_gas as gas
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.gas import VIEW_WORD
from vm.system.market_refund import refund
from vm.system.market_state import (
    FRESH,
    FRESH_MAX,
    FUND,
    POSTED,
    QUEUES,
    TASKS,
    TIP_MAX,
    WINDOWS,
    Task,
    load,
    lock,
    schedule,
)

BACKLOG_BLOCKS_MAX = 4
AMOUNT_MAX = 2**96 - 1
RISK_MAX = 2**128 - 1


def post(
    ctx: SystemContext,
    call: Call,
    kind: int,
    model: bytes,
    tokens: bytes,
    max_tokens: int,
    temperature_q16: int,
    top_k: int,
    assurance: int,
    value_at_risk: int,
    tip_per_cwu: int,
    deadline: int,
    callback_gas: int,
) -> tuple[Any, ...]:
    """Market.post: lock the escrow, give back what is beyond it, queue the task for the next block's deal."""
    members = market_parties.set_size(ctx)
    ctx.charge(gas.POST + gas.POST_BYTE * len(tokens) + gas.POST_MEMBER * members, "post")
    _check_extras(ctx, value_at_risk, tip_per_cwu, callback_gas)
    record = models.require_open(ctx, model)
    asked = _kind_of(record, kind)
    prompt = _prompt_of(ctx, record, asked, tokens, max_tokens)
    _check_sampling(asked, temperature_q16, top_k)
    waiting = FRESH.pending(ctx)
    if waiting >= FRESH_MAX:
        raise Refused("backlog", f"{waiting} tasks wait for their first deal; try again in some blocks")
    behind = max(queue.behind(ctx, ctx.height) for queue in QUEUES)
    if behind > BACKLOG_BLOCKS_MAX:
        raise Refused("backlog", f"the market is {behind} blocks behind with its work; try again in some blocks")
    task = Task(
        status=Status.POSTED, kind=kind, assurance=assurance, deadline=deadline, max_tokens=max_tokens,
        prompt=len(prompt), temperature_q16=temperature_q16, top_k=top_k, poster=call.sender, model=model,
        prompt_hash=tokens_root(prompt), price=ledger.base_price(ctx), base_fee=ctx.base_fee,
        tip=tip_per_cwu, value_at_risk=value_at_risk, callback_gas=callback_gas,
    )  # fmt: skip
    cost = task.cost(record)
    task.gain = _gain(cost, task.price, tip_per_cwu)
    task.paid_auditors = _auditors(ctx, model, task.gain, price_of(cost, task.price), assurance, value_at_risk)
    least, most = audit.deadline_bounds(cost, record.reference_macs_per_block)
    if not least <= deadline <= most:
        raise Refused("deadline", f"a deadline of {deadline} blocks; this task's must be {least} to {most}")
    caused = gas.caused_by_post(ctx.params, members, deadline, task.paid_auditors, callback_gas > 0)
    ctx.charge(caused, "what a post causes")
    needed = fees.escrow_of(task.terms(record), gas.WORK_PAID).total
    if needed > AMOUNT_MAX:
        raise Refused("fee_too_high", f"the task would cost {needed} wei, more than there can be")
    if call.value < needed:
        raise Refused("fee_too_low", f"fee too low: this task needs {needed} wei in escrow, {call.value} were sent")
    if callback_gas:
        courier.reserve(ctx)
    lock(ctx, task, needed)
    ctx.transfer(MARKET, call.sender, call.value - needed)
    identity = enter(ctx, task, tokens)
    FRESH.push(ctx, tip_per_cwu, task.sequence)
    return (identity,)


def enter(ctx: SystemContext, task: Task, tokens: bytes) -> bytes:
    """Give a task its id and its first deadline, keep and log it. The id. (Canaries come this way too.)"""
    task.sequence = POSTED.get(ctx)
    POSTED.set(ctx, task.sequence + 1)
    task.posted = ctx.height
    identity = task_id(ctx.params.chain_id, task.sequence)
    schedule(ctx, WINDOWS, identity, task, ctx.height + task.deadline + 1)
    TASKS.put(ctx, task, identity)
    abi.emit(
        ctx, abi.TASK_POSTED, identity, task.poster, task.model, bool(task.canary), task.kind, tokens, task.max_tokens,
        task.temperature_q16, task.top_k, task.assurance, task.deadline, task.tip, task.escrow, task.price,
        task.value_at_risk, task.callback_gas, task.paid_auditors,
    )  # fmt: skip
    return identity


def cancel(ctx: SystemContext, call: Call, identity: bytes) -> None:
    """Market.cancel: by the poster, before the deal or from `disputed` on; everything locked goes back."""
    ctx.charge(gas.CANCEL, "cancel")
    task = load(ctx, identity)
    if task.canary or task.commissioned or call.sender != task.poster:
        raise Refused("not_poster", f"only its poster 0x{task.poster.hex()} may cancel the task")
    if task.status not in (Status.POSTED, Status.DISPUTED):
        stage = Status(task.status).name.lower()
        raise Refused("dealt", f"the task is {stage}: it may be cancelled before its deal or from a dispute on")
    if task.status == Status.DISPUTED and not task.escrow:
        raise Refused("cancelled", "the task's escrow was returned already")
    refund(ctx, identity, task, "cancelled by its poster")


def fill_fund(ctx: SystemContext, call: Call) -> None:
    """Market.fillFund: anyone adds to the commissioned fund."""
    ctx.charge(gas.FILL_FUND, "fillFund")
    if not call.value:
        raise Refused("nothing", "0 wei were sent to the fund")
    abi.emit(ctx, abi.FUND_FILLED, call.sender, call.value, FUND.add(ctx, call.value))


def quote(
    ctx: SystemContext,
    call: Call,
    kind: int,
    model: bytes,
    prompt: int,
    max_tokens: int,
    assurance: int,
    value_at_risk: int,
    tip_per_cwu: int,
    callback_gas: int,
) -> tuple[Any, ...]:
    """Market.quote: the escrow that a post in this block or the next would need, the bounds of its deadline, and how
    many would check it."""
    ctx.charge(VIEW_WORD * 14, "quote")
    _check_extras(ctx, value_at_risk, tip_per_cwu, callback_gas)
    record = models.require_open(ctx, model)
    asked = _kind_of(record, kind)
    _check_lengths(ctx, record, asked, prompt, max_tokens)
    longest = result_length(asked, prompt, max_tokens, record.width)
    cost = record.cost.execution(asked, prompt, longest)
    price = ledger.price_ahead(ctx)
    ctx.charge(gas.POST_MEMBER * market_parties.set_size(ctx), "quote")
    seats = _auditors(ctx, model, _gain(cost, price, tip_per_cwu), price_of(cost, price), assurance, value_at_risk)
    terms = fees.Terms(record.cost, asked, prompt, longest, price, ctx.base_fee, seats, tip_per_cwu, callback_gas)
    least, most = audit.deadline_bounds(cost, record.reference_macs_per_block)
    return fees.escrow_of(terms, gas.WORK_PAID).total, min(least, 2**32 - 1), min(most, 2**32 - 1), seats


def _check_extras(ctx: ReadContext, value_at_risk: int, tip_per_cwu: int, callback_gas: int) -> None:
    if value_at_risk > RISK_MAX:
        raise Refused("value_at_risk", f"{value_at_risk} wei at risk, more than there can be")
    if tip_per_cwu > TIP_MAX:
        raise Refused("fee_too_high", f"a tip of {tip_per_cwu} wei a CWU, more than there can be")
    most = ctx.params.callback_gas_max
    if callback_gas > most:
        raise Refused("callback_gas", f"callbackGas {callback_gas}: a callback may have {most} gas")


def _kind_of(record: models.Model, kind: int) -> Kind:
    """The kind asked for. Raises Refused unless the model offers it."""
    if kind not in list(Kind):
        raise Refused("kind", f"kind {kind} is none; 0 is generate, 1 embed, 2 score")
    if kind not in record.kinds:
        raise Refused("kind", f"kind {Kind(kind).name.lower()}: this model is an encoder and embeds only (kind 1)")
    return Kind(kind)


def _prompt_of(
    ctx: SystemContext, record: models.Model, kind: Kind, tokens: bytes, max_tokens: int
) -> tuple[int, ...]:
    """The prompt's token ids. Raises Refused with what is wrong with the prompt or with what is asked of it."""
    if not tokens:
        raise Refused("prompt_empty", "the prompt is empty; it needs at least 1 token")
    most = ctx.params.prompt_bytes_max
    if len(tokens) > most:
        raise Refused("prompt_too_long", f"a prompt of {len(tokens)} bytes; at most {most} ({most // 4} tokens)")
    if len(tokens) % 4:
        raise Refused("malformed", f"tokens are 4 bytes each; {len(tokens)} bytes are no multiple of 4")
    prompt = unpack_tokens(tokens)
    _check_lengths(ctx, record, kind, len(prompt), max_tokens)
    highest = max(prompt)
    if highest >= record.vocabulary:
        place = prompt.index(highest)
        raise Refused("token", f"token {place} is {highest}; the model's vocabulary ends at {record.vocabulary - 1}")
    return prompt


def _check_lengths(ctx: ReadContext, record: models.Model, kind: Kind, prompt: int, max_tokens: int) -> None:
    if prompt < 1:
        raise Refused("prompt_empty", "the prompt is empty; it needs at least 1 token")
    if kind.is_vector and max_tokens:
        raise Refused("max_tokens", f"maxTokens {max_tokens}: kind {kind.name.lower()} makes no tokens; it must be 0")
    if not kind.is_vector and max_tokens < 1:
        raise Refused("max_tokens", "maxTokens is 0; at least 1 token must be asked for")
    if kind is Kind.SCORE and prompt < 2:
        raise Refused("prompt_too_short", "a prompt of 1 token; nothing comes before it that it could be scored by")
    if prompt + max_tokens > record.context:
        raise Refused(
            "context",
            f"a prompt of {prompt} and {max_tokens} new tokens; the model's context holds {record.context} together",
        )
    longest, most = result_length(kind, prompt, max_tokens, record.width), ctx.params.result_bytes_max // 4
    if longest > most:
        what = "elements" if kind.is_vector else "tokens"
        raise Refused("result_too_long", f"an answer may have {longest} {what} here; at most {most} fit a submission")


def _check_sampling(kind: Kind, temperature_q16: int, top_k: int) -> None:
    """A vector is not sampled."""
    if kind.is_vector and (temperature_q16 or top_k):
        raise Refused(
            "sampling",
            f"temperature {temperature_q16}, topK {top_k}: kind {kind.name.lower()} samples nothing; both must be 0",
        )


def _gain(cost: int, price: int, tip: int) -> int:
    """G of a post: what it pays for its work at most. (The base price is its own.)"""
    return gain_of(price_of(cost, price) + price_of(cost, tip), cost, price)


def _auditors(ctx: SystemContext, model: bytes, gain: int, saved: int, assurance: int, value_at_risk: int) -> int:
    """k: the chain's, what the asker wants, and what makes cheating a loss. Raises Refused with what would do."""
    seen = market_parties.look(ctx, model)
    serving = seen.parties
    able = [party for party in serving if party.covers(ctx.params, gain)]
    others = max(0, len(able) - 1)
    if serving and not able:
        covered = max(exposure_max(ctx.params, party.bond) for party in serving)
        raise Refused(
            "exposure", f"the task pays {gain} wei: more than the {covered} that the largest bond serving it covers"
        )
    if assurance > AUDITORS_MAX:
        raise Refused("assurance", f"assurance {assurance}: at most {AUDITORS_MAX} verifiers check a task")
    if assurance > others:
        raise Refused(
            "assurance",
            f"assurance {assurance}: {others} others could check an answer of this model; "
            + (f"post with assurance {others}" if others else "post with assurance 0 to accept an unverified answer"),
        )
    odds = market_parties.odds(ctx, seen.weight, able, ledger.audit_delay(ctx, ctx.params.epoch(ctx.height)))
    stakes = incentive.stakes_of(ctx.params, gain, saved)
    most = min(others, AUDITORS_MAX)
    least = incentive.least_auditors(odds, stakes, value_at_risk, most)
    if least is None and (value_at_risk or assurance):
        _refuse_risk(odds, stakes, value_at_risk, most)
    return audit.seats_wanted(ctx.params.auditors, assurance, least or 0)


def _refuse_risk(odds: incentive.Odds, stakes: incentive.Stakes, value_at_risk: int, most: int) -> NoReturn:
    """Why no number of verifiers makes cheating a loss here, and what would be accepted."""
    percent = incentive.caught(odds, most) * 100 // incentive.ONE
    found = f"{most} verifiers can be drawn; they catch a lie in {percent} of 100 cases, which costs {stakes.slash} wei"
    accepted = incentive.value_at_risk_max(odds, stakes, most)
    if accepted is None:
        advice = "too little for any answer that must be safe: post with assurance 0 and nothing at risk"
    else:
        advice = f"at most {accepted} wei may be at risk"
    raise Refused("value_at_risk", f"valueAtRisk {value_at_risk}: {found}; {advice}")
