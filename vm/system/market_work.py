"""Work messages: answers, verdicts and reveals, each item of a batch in a frame of its own.

Owns who may say what when, and the code of every refusal. Messages are checked with integers and hashes; nothing here
runs a model.
"""

from collections.abc import Sequence

from consensus.work import audit
from consensus.work.audit import Window
from consensus.work.verdict import Opened, Outcome, contradicts, open_commitments
from primitives.merkle import pack_tokens, tokens_root
from primitives.reasons import reason_of
from primitives.task import (
    Kind,
    MalformedBatch,
    MalformedItem,
    Reveal,
    Status,
    Submission,
    TrapOpening,
    Verdict,
    WorkItem,
    decode_batch,
)
from vm.system import abi, ledger, market_contest, market_trap, mishaps, models, staking
from vm.system import market_gas as gas
from vm.system.context import Call, Refused, SystemContext
from vm.system.market_state import (
    CONTESTED,
    DEALT_STAGES,
    DRAWS,
    SEAT_AGAINST,
    SEAT_DRAWN,
    SEAT_GIVEN,
    SEAT_OPENED,
    TASKS,
    Task,
    expose,
    load,
    put_seat,
    release,
    schedule,
    seats_of,
)
from vm.system.market_verdict import agree, outcome_of
from vm.system.market_windows import begin_reveals

KINDS = {Submission: 1, Verdict: 2, Reveal: 3, TrapOpening: 4}


def work(ctx: SystemContext, call: Call, batch: bytes) -> None:
    """Market.work: a batch of an operator's hot account. Reverts whole only for a stranger or for bad RLP."""
    ctx.charge(gas.WORK, "work")
    operator = staking.operator_by_hot(ctx, call.sender)
    if operator is None:
        raise Refused("unknown_sender", f"0x{call.sender.hex()} is no operator's hot account")
    try:
        items = decode_batch(batch, ctx.params.chain_id)
    except MalformedBatch as error:
        raise Refused("malformed", str(error)) from error
    for item in items:
        ctx.charge(_gas_of(item), "work item")
        try:
            with ctx.frame():
                _item(ctx, operator, item)
        except Refused as refusal:
            kind = item.kind if isinstance(item, MalformedItem) else KINDS[type(item)]
            task = item.task if len(item.task) == 32 else bytes(32)
            mishaps.note_refusal(ctx, operator, task, reason_of(refusal.code), min(kind, 255))
            abi.emit(ctx, abi.WORK_REFUSED, task, operator, min(kind, 255), refusal.code, refusal.text)


def _gas_of(item: WorkItem | MalformedItem) -> int:
    match item:
        case Submission():
            return gas.SUBMIT + gas.SUBMIT_TOKEN * len(item.tokens)
        case Verdict():
            return gas.VERDICT
        case Reveal():
            return gas.REVEAL
        case TrapOpening():
            return gas.TRAP
        case MalformedItem():
            return gas.VERDICT


def _item(ctx: SystemContext, operator: bytes, item: WorkItem | MalformedItem) -> None:
    match item:
        case Submission():
            _submit(ctx, operator, item)
        case Verdict():
            _verdict(ctx, operator, item)
        case Reveal():
            _reveal(ctx, operator, item)
        case TrapOpening():
            _trap(ctx, operator, item)
        case MalformedItem():
            raise Refused("malformed", item.reason)


def _submit(ctx: SystemContext, operator: bytes, item: Submission) -> None:
    """An answer: the first valid one of a dealt party whose start has come is taken."""
    task = load(ctx, item.task)
    _require_stage(task, "answer", *DEALT_STAGES)
    if operator not in task.parties:
        raise Refused("not_dealt", "the task was dealt to others")
    slot = task.parties.index(operator)
    _require_window(ctx, task.slot_window(slot))
    _check_answer(ctx, task, item.tokens)
    release(ctx, task)
    expose(ctx, task, operator)
    market_trap.note_answer(ctx, operator)
    task.status, task.slot, task.answered = Status.ANSWERED, slot, ctx.height
    task.output, task.output_hash, task.commitment = len(item.tokens), tokens_root(item.tokens), item.commitment
    task.queue_ms, task.first_token_ms, task.total_ms = item.queue_ms, item.first_token_ms, item.total_ms
    task.device, task.device_bytes = item.device.ljust(32, b"\x00"), len(item.device)
    task.delay = max(1, ledger.audit_delay(ctx, ctx.params.epoch(ctx.height)))
    schedule(ctx, DRAWS, item.task, task, audit.draw_at(ctx.height, task.delay))
    TASKS.put(ctx, task, item.task)
    abi.emit(
        ctx, abi.TASK_ANSWERED, item.task, operator, slot, pack_tokens(item.tokens), task.output_hash, item.commitment,
        item.queue_ms, item.first_token_ms, item.total_ms, item.device,
    )  # fmt: skip


def _check_answer(ctx: SystemContext, task: Task, tokens: Sequence[int]) -> None:
    """1 to maxTokens tokens of the vocabulary; complete: it ends in a stop id or is as long as it may be. Of a vector
    only the length can be seen."""
    record = models.require(ctx, task.model)
    if Kind(task.kind).is_vector:
        if len(tokens) != task.longest(record):
            what = f"a vector of {len(tokens)}; this task's has {task.longest(record)} elements"
            raise Refused("length", what)
        return
    stops = models.stop_ids(ctx, task.model)
    if not 1 <= len(tokens) <= task.max_tokens:
        raise Refused("length", f"{len(tokens)} tokens; this task takes 1 to {task.max_tokens}")
    for place, token in enumerate(tokens):
        if token >= record.vocabulary:
            raise Refused("token", f"token {place} is {token}; the vocabulary ends at {record.vocabulary - 1}")
        if token in stops and place != len(tokens) - 1:
            raise Refused("after_stop", f"token {place} of {len(tokens)} is the stop id {token}; nothing follows one")
    if len(tokens) < task.max_tokens and tokens[-1] not in stops:
        raise Refused("incomplete", f"{len(tokens)} of {task.max_tokens} tokens, and the last is no stop id")


def _verdict(ctx: SystemContext, operator: bytes, item: Verdict) -> None:
    """A drawn verifier's commitment; the last one that is waited for opens the reveals."""
    task = load(ctx, item.task)
    _require_stage(task, "verdict", Status.DRAWN)
    ctx.charge(gas.SEAT_SEEN * task.seats, "seats")
    seats = seats_of(ctx, item.task, task)
    index = next((i for i, seat in enumerate(seats) if seat.verifier == operator), None)
    if index is None:
        raise Refused("not_drawn", "others were drawn to check this task")
    seat = seats[index]
    if seat.state == SEAT_GIVEN:
        raise Refused("given", "the verdict was given already; the first one stands")
    if seat.state != SEAT_DRAWN:
        raise Refused("too_late", "the seat was lost when its window closed")
    _require_window(ctx, task.verdict_window(ctx.params))
    seat.state, seat.commitment = SEAT_GIVEN, item.commitment
    put_seat(ctx, item.task, index, seat)
    abi.emit(ctx, abi.VERDICT_COMMITTED, item.task, operator, item.commitment)
    if not any(other.state == SEAT_DRAWN for other in seats):
        begin_reveals(ctx, item.task, task, seats)


def _reveal(ctx: SystemContext, operator: bytes, item: Reveal) -> None:
    """A root and a first bad position: counts for whatever drawn parties' commitments it opens."""
    task = load(ctx, item.task)
    _require_stage(task, "reveal", Status.REVEALING, Status.DISPUTED)
    _require_window(ctx, _reveals_until(ctx, task, operator))
    ctx.charge(gas.SEAT_SEEN * task.seats, "seats")
    seats = seats_of(ctx, item.task, task)
    waiting = [index for index, seat in enumerate(seats) if seat.state == SEAT_GIVEN]
    party = (task.executor, task.commitment)
    verdicts = [(seats[index].verifier, seats[index].commitment) for index in waiting]
    opening = open_commitments(item.task, item.root, item.bad, party, verdicts)
    first = opening.executor and not task.executor_opened
    opened = [waiting[place] for place in opening.verifiers]
    if not first and not opened:
        raise Refused("opens_nothing", "no commitment that is still closed opens to this root and position")
    if first:
        task.executor_opened, task.root, task.revealer = 1, item.root, operator
    verdict = Opened(item.root, item.bad)
    last = task.reveal_window(ctx.params, task.executor).last
    against = contradicts(item.task, party, verdict)
    for index in opened:
        seat = seats[index]
        seat.state = SEAT_AGAINST if against else SEAT_OPENED
        seat.commitment, seat.bad = item.root, item.bad
        put_seat(ctx, item.task, index, seat)
    if first or against:
        market_contest.note_ground(ctx, task)
    if task.executor_opened and task.revealer != task.executor and ctx.height <= last:
        task.contest_began = last  # what somebody else opened may be a trap, which its executor has until then to open
    if first and ctx.height > last:
        schedule(ctx, CONTESTED, item.task, task, ctx.height + 1)
    TASKS.put(ctx, task, item.task)
    parties = ([task.executor] if first else []) + [seats[index].verifier for index in opened]
    abi.emit(ctx, abi.REVEALED, item.task, operator, item.root, item.bad, parties)
    if task.status == Status.DISPUTED:
        return
    if opened and against:
        market_contest.contradicted(ctx, item.task, task, seats[opened[0]].verifier, verdict)
    elif outcome_of(task, seats, closed=False) is Outcome.AGREED:
        agree(ctx, item.task, task, seats)


def _reveals_until(ctx: SystemContext, task: Task, operator: bytes) -> Window:
    """When a root is taken: one that is contradicted and withheld may come a silence later."""
    withheld = task.status == Status.DISPUTED and not task.executor_opened
    return task.root_window(ctx.params, operator) if withheld else task.reveal_window(ctx.params, operator)


def _trap(ctx: SystemContext, operator: bytes, item: TrapOpening) -> None:
    """The executor's own reveal, of a commitment that was a trap."""
    task = load(ctx, item.task)
    _require_stage(task, "trap", Status.REVEALING, Status.DISPUTED)
    _require_window(ctx, _reveals_until(ctx, task, operator))
    market_trap.spring(ctx, operator, task, item)


def _require_stage(task: Task, what: str, *stages: Status) -> None:
    if task.status not in stages:
        raise Refused("stage", f"the task is {Status(task.status).name.lower()}: it takes no {what} now")


def _require_window(ctx: SystemContext, window: Window) -> None:
    if ctx.height < window.first:
        raise Refused("too_early", f"accepted from block {window.first} on, this is {ctx.height}")
    if ctx.height > window.last:
        raise Refused("too_late", f"accepted until block {window.last}, this is {ctx.height}")
