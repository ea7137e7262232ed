"""The tolerant lane: float models on any engine, whose answers nothing here can check (docs/tolerant.md).

An operator offers a model at a price, an asker picks one and escrows, the operator answers from its hot account, and
the asker accepts, refuses or is silent: acceptance and silence pay. No verdict, no dispute, no slash, no credit, no
emission; what is left is a receipt of this lane and one more in both parties' records. The methods of the account
stand here, what it keeps in tolerant_state, how a task ends in tolerant_end.
"""

from typing import Any

from primitives.address import TOLERANT
from primitives.hashing import keccak
from primitives.task import MalformedTexts, decode_texts, tolerant_task_id
from vm.system import abi, gas, market_gas, staking
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.gas import VIEW_WORD
from vm.system.tolerant_end import end_due, refuse_answer
from vm.system.tolerant_state import (
    AS_ASKER,
    AS_EXECUTOR,
    ASKED,
    ASKS,
    DUE,
    ESCROWED,
    NAME_BYTES_MAX,
    OFFERS,
    OPEN,
    OPEN_MAX,
    Ask,
    Offer,
    Record,
    load,
    offer_of,
    wait_until,
)

STEP = ("tolerant", end_due)
"""Its step of the prologue, after the callbacks."""
PRICE_MAX = 2**96 - 1
ESCROW_MAX = 2**96 - 1
DEADLINE_BLOCKS_LEAST = 8
"""So that no run of one coalition's proposers can censor an answer."""
DEADLINE_BLOCKS_MOST = 600
TOKENS_MAX = 4_096
CANDIDATES_MAX = 20
"""Likeliest tokens that a draw is among: the most that servers list (inference.tolerant)."""
REASON_BYTES_MAX = 160
BACKLOG_BLOCKS_MAX = 4


def _offer(
    ctx: SystemContext, call: Call, model: str, wei_per_prompt_byte: int, wei_per_token: int, prompt_bytes_max: int,
    tokens_max: int, deadline: int,
) -> None:  # fmt: skip
    """offer: by a hot account, for its operator; it takes the place of an earlier one and touches no open task."""
    ctx.charge(gas.OFFER, "offer")
    operator = _operator_of(ctx, call)
    if not staking.active_bond(ctx, operator):
        raise Refused("not_active", f"0x{operator.hex()} is no active operator")
    name = model.encode()
    if not 0 < len(name) <= NAME_BYTES_MAX:
        raise Refused("name", f"a model's name of {len(name)} bytes; it must have 1 to {NAME_BYTES_MAX}")
    for what, value, least, most in (
        ("weiPerPromptByte", wei_per_prompt_byte, 0, PRICE_MAX), ("weiPerToken", wei_per_token, 0, PRICE_MAX),
        ("promptBytesMax", prompt_bytes_max, 1, ctx.params.prompt_bytes_max), ("tokensMax", tokens_max, 1, TOKENS_MAX),
        ("deadlineBlocks", deadline, DEADLINE_BLOCKS_LEAST, DEADLINE_BLOCKS_MOST),
    ):  # fmt: skip
        if not least <= value <= most:
            raise Refused("offer", f"{what} is {value}; it must be {least} to {most}")
    padded = name.ljust(NAME_BYTES_MAX, b"\x00")
    offer = Offer(
        padded, len(name), prompt_bytes_max, tokens_max, deadline, ctx.height, wei_per_prompt_byte, wei_per_token
    )
    if offer.fee(prompt_bytes_max, tokens_max) > ESCROW_MAX:
        raise Refused("offer", f"the longest task would cost more than {ESCROW_MAX} wei")
    OFFERS.put(ctx, offer, operator)
    abi.emit(
        ctx, abi.OFFERED, operator, model, wei_per_prompt_byte, wei_per_token, prompt_bytes_max, tokens_max, deadline
    )


def _withdraw_offer(ctx: SystemContext, call: Call) -> None:
    ctx.charge(gas.OFFER, "withdrawOffer")
    operator = _operator_of(ctx, call)
    if OFFERS.get(ctx, operator) is None:
        raise Refused("no_offer", f"0x{operator.hex()} offers nothing")
    OFFERS.delete(ctx, operator)
    abi.emit(ctx, abi.OFFER_WITHDRAWN, operator)


def _ask(
    ctx: SystemContext, call: Call, executor: bytes, model: bytes, prompt: str, max_tokens: int, temperature_q16: int,
    top_k: int, seed: bytes,
) -> tuple[Any, ...]:  # fmt: skip
    """ask: lock the escrow of the longest answer, give back what is beyond it. model: keccak of the name that the asker
    read in the offer, which may have changed since."""
    text = prompt.encode()
    ctx.charge(gas.ASK + market_gas.FORGET + gas.ASK_BYTE * len(text), "ask")
    offer = offer_of(ctx, executor)
    if offer is None:
        raise Refused("no_offer", f"0x{executor.hex()} offers no model in the tolerant lane")
    if keccak(offer.model) != model:
        raise Refused("model", f"0x{executor.hex()} offers another model: {offer.model.decode()}")
    if not 0 < len(text) <= offer.prompt_bytes_max:
        raise Refused("prompt", f"a prompt of {len(text)} bytes; it must have 1 to {offer.prompt_bytes_max}")
    if not 0 < max_tokens <= offer.tokens_max:
        raise Refused("max_tokens", f"maxTokens is {max_tokens}; it must be 1 to {offer.tokens_max}")
    if not 0 < top_k <= CANDIDATES_MAX:
        raise Refused("sampling", f"topK is {top_k}; it must be 1 to {CANDIDATES_MAX}")
    if OPEN.count(ctx, executor) >= OPEN_MAX:
        raise Refused("busy", f"0x{executor.hex()} has {OPEN_MAX} open tasks already; try again later")
    behind = DUE.behind(ctx, ctx.height)
    if behind > BACKLOG_BLOCKS_MAX:
        raise Refused("backlog", f"the lane is {behind} blocks behind with its payments; try again in some blocks")
    escrow = offer.fee(len(text), max_tokens)
    if call.value < escrow:
        raise Refused("fee_too_low", f"fee too low: this task needs {escrow} wei in escrow, {call.value} were sent")
    ctx.transfer(TOLERANT, call.sender, call.value - escrow)
    sequence = ASKED.get(ctx)
    ASKED.set(ctx, sequence + 1)
    ESCROWED.add(ctx, escrow)
    task = tolerant_task_id(ctx.params.chain_id, sequence)
    ask = Ask(
        status=abi.STATE_ASKED, prompt_bytes=len(text), max_tokens=max_tokens, asked=ctx.height, asker=call.sender,
        escrow=escrow, executor=executor, wei_per_prompt_byte=offer.wei_per_prompt_byte,
        wei_per_token=offer.wei_per_token, model=model, prompt_hash=keccak(text), seed=seed,
    )  # fmt: skip
    OPEN.add(ctx, task, executor)
    wait_until(ctx, task, ask, ctx.height + offer.deadline)
    abi.emit(
        ctx, abi.TOLERANT_ASKED, task, call.sender, executor, offer.model.decode(), prompt, max_tokens,
        temperature_q16, top_k, seed, offer.wei_per_prompt_byte, offer.wei_per_token, escrow, ask.last,
    )  # fmt: skip
    return (task,)


def _answer(ctx: SystemContext, call: Call, task: bytes, tokens: bytes, queue_ms: int, total_ms: int) -> None:
    """answer: by the executor's hot account, once, in time. tokens: primitives.task.encode_texts."""
    ctx.charge(gas.TOLERANT_ANSWER + gas.ANSWER_BYTE * len(tokens), "answer")
    ask = load(ctx, task)
    if staking.operator_by_hot(ctx, call.sender) != ask.executor:
        raise Refused("not_executor", f"only the hot account of 0x{ask.executor.hex()} answers this task")
    if ask.status != abi.STATE_ASKED:
        raise Refused("stage", "the task was answered already")
    if ctx.height > ask.last:
        raise Refused("too_late", f"the task could be answered until block {ask.last}")
    if len(tokens) > ctx.params.result_bytes_max:
        most = ctx.params.result_bytes_max
        raise Refused("length", f"an answer of {len(tokens)} bytes; at most {most} are taken")
    try:
        texts = decode_texts(tokens)
    except MalformedTexts as error:
        raise Refused("malformed", str(error)) from error
    if len(texts) > ask.max_tokens:
        raise Refused("length", f"an answer of {len(texts)} tokens; at most {ask.max_tokens} were asked for")
    ask.status, ask.tokens = abi.STATE_ANSWERED, len(texts)
    ask.output_hash = keccak("".join(texts).encode())
    ask.queue_ms, ask.total_ms = queue_ms, total_ms
    wait_until(ctx, task, ask, ctx.height + ctx.params.acceptance_window)
    abi.emit(ctx, abi.TOLERANT_ANSWERED, task, ask.executor, tokens, ask.fee, queue_ms, total_ms, ask.last)


def _accept(ctx: SystemContext, call: Call, task: bytes) -> None:
    """accept: by the asker; the next prologue pays, for receipts are made in prologues alone."""
    ctx.charge(gas.ACCEPT, "accept")
    ask = _answered(ctx, call, task)
    ask.status = abi.STATE_ACCEPTED
    wait_until(ctx, task, ask, ctx.height)
    abi.emit(ctx, abi.TOLERANT_ACCEPTED, task, ask.asker)


def _refuse(ctx: SystemContext, call: Call, task: bytes, reason: str) -> None:
    """refuse: by the asker, with a reason for the record; at once."""
    ctx.charge(gas.REFUSE, "refuse")
    ask = _answered(ctx, call, task)
    if not 0 < len(reason.encode()) <= REASON_BYTES_MAX:
        raise Refused("reason", f"a reason of {len(reason.encode())} bytes; it must have 1 to {REASON_BYTES_MAX}")
    refuse_answer(ctx, task, ask, reason)


def _answered(ctx: SystemContext, call: Call, task: bytes) -> Ask:
    """A task whose asker may decide now. Raises Refused."""
    ask = load(ctx, task)
    if call.sender != ask.asker:
        raise Refused("not_asker", f"only its asker 0x{ask.asker.hex()} decides about the task")
    if ask.status != abi.STATE_ANSWERED:
        decided = ask.status == abi.STATE_ACCEPTED
        raise Refused("stage", "the answer was accepted" if decided else "the task has no answer yet")
    if ctx.height > ask.last:
        raise Refused("too_late", f"its asker could decide until block {ask.last}; its silence pays")
    return ask


def _operator_of(ctx: SystemContext, call: Call) -> bytes:
    operator = staking.operator_by_hot(ctx, call.sender)
    if operator is None:
        raise Refused("not_hot", f"0x{call.sender.hex()} is no operator's hot account")
    return operator


# Views


def _get_offer(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge((OFFERS.words + 8) * VIEW_WORD, "getOffer")
    offer = offer_of(ctx, operator)
    if offer is None:
        raise Refused("no_offer", f"0x{operator.hex()} offers no model in the tolerant lane")
    return (_offer_values(operator, offer),)


def _offers(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    operators = staking.active_operators(ctx)
    ctx.charge((1 + len(operators) * (OFFERS.words + 9)) * VIEW_WORD, "offers")
    found = [(operator, offer_of(ctx, operator)) for operator in operators]
    return ([_offer_values(operator, offer) for operator, offer in found if offer is not None],)


def _get_task(ctx: SystemContext, call: Call, task: bytes) -> tuple[Any, ...]:
    ctx.charge(ASKS.words * VIEW_WORD, "getTask")
    return (_task_values(task, load(ctx, task)),)


def _open_tasks(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge((1 + OPEN.count(ctx, operator) * (ASKS.words + 1)) * VIEW_WORD, "openTasks")
    return ([_task_values(task, ask) for task, ask in open_tasks(ctx, operator)],)


def _records_of(ctx: SystemContext, call: Call, account: bytes) -> tuple[Any, ...]:
    ctx.charge(2 * VIEW_WORD, "recordsOf")
    return tuple((table.get(ctx, account) or Record()).values for table in (AS_EXECUTOR, AS_ASKER))


def open_tasks(ctx: ReadContext, operator: bytes) -> list[tuple[bytes, Ask]]:
    """(id, task) of everything that an executor has open, whoever's turn it is."""
    return [(task, load(ctx, task)) for task in OPEN.items(ctx, operator)]


def _offer_values(operator: bytes, offer: Offer) -> tuple[Any, ...]:
    return (operator, *offer.terms, offer.offered)


def _task_values(task: bytes, ask: Ask) -> tuple[Any, ...]:
    return (
        task, ask.status, ask.asker, ask.executor, ask.model, ask.prompt_hash, ask.output_hash, ask.seed,
        ask.prompt_bytes, ask.max_tokens, ask.tokens, ask.wei_per_prompt_byte, ask.wei_per_token, ask.escrow,
        ask.asked, ask.last,
    )  # fmt: skip


HANDLERS = {
    abi.MAKE_OFFER: _offer,
    abi.WITHDRAW_OFFER: _withdraw_offer,
    abi.ASK: _ask,
    abi.ANSWER: _answer,
    abi.ACCEPT: _accept,
    abi.REFUSE: _refuse,
    abi.GET_OFFER: _get_offer,
    abi.OFFERS: _offers,
    abi.GET_TOLERANT_TASK: _get_task,
    abi.OPEN_TOLERANT_TASKS: _open_tasks,
    abi.RECORDS_OF: _records_of,
}
