"""What a validator does about what it owes: which models to run next, which messages to send.

Pure functions over duties (vm.system.market_views) and results; node.inference runs models and sends.
"""

from collections.abc import Hashable, Iterable, Mapping, Set
from dataclasses import dataclass

from consensus.work.deal import EXECUTOR_SLOTS
from consensus.work.incentive import AUDITORS_MAX
from node.outbox import Message
from primitives.params import ChainParams
from primitives.task import (
    BATCH_ITEMS_MAX,
    NO_BAD_POSITION,
    Reveal,
    Submission,
    TrapOpening,
    Verdict,
    WorkItem,
    encode_batch,
    execution_commitment,
    trap_root,
    verdict_commitment,
)
from vm.system import abi, market_gas
from vm.system import gas as system_gas
from vm.system.market_views import Duty

BATCH_BYTES_MAX = 48 * 1024
"""Of one batch: below what the builder gives all work batches together."""
GAS_MARGIN = 20_000
SEATS_MAX = AUDITORS_MAX * (1 + ChainParams().redraws_max)
"""Of a task: all verifiers that may be drawn for it. Each that is still there may be caught by a trap."""

ITEM_ROLES = (abi.ROLE_EXECUTE, abi.ROLE_AUDIT, abi.ROLE_REVEAL, abi.ROLE_TRAP)
"""Roles whose duties an item of a batch fulfils. What is done in disputes is none (node.disputes)."""
KIND_OF_ITEM: Mapping[type[WorkItem], int] = {Submission: 1, Verdict: 2, Reveal: 3, TrapOpening: 4}


@dataclass(frozen=True)
class Result:
    """What running a model gave: an answer (tokens, bad = 2^32 - 1) or a check of somebody's answer (no tokens)."""

    task: bytes
    trace_key: bytes
    root: bytes
    bad: int = NO_BAD_POSITION
    tokens: tuple[int, ...] = ()
    queue_ms: int = 0
    first_token_ms: int = 0
    total_ms: int = 0
    device: str = ""
    salt: bytes = b""
    """Of a trap (node.traps): the root is not what is committed. Empty: it is."""

    @property
    def key(self) -> "ResultKey":
        return (self.task, self.trace_key, bool(self.tokens))


ResultKey = tuple[bytes, bytes, bool]
"""(task, trace key, whether it is an answer)."""


def result_for(duty: Duty, results: Mapping[ResultKey, Result]) -> Result | None:
    """The result that fulfils a duty; for a reveal whichever of the two this validator has, its verdict rather than an
    answer that another's came before."""
    answer = results.get((duty.task, duty.trace_key, True))
    check = results.get((duty.task, duty.trace_key, False))
    if duty.role == abi.ROLE_EXECUTE:
        return answer
    if duty.role in (abi.ROLE_AUDIT, abi.ROLE_CHALLENGE):
        return check
    return check or answer


def jobs(duties: Iterable[Duty], results: Mapping[ResultKey, Result], height: int, model: bytes) -> list[Duty]:
    """The duties to run a model for now, the first to close first (of those to answer: whose own third ends first, so
    that what others missed does not come before what was dealt here). height: of the next block.

    A backup begins only when its own slot does, and nobody does others' duties before they were silent for long. A
    result that was lost and is to be revealed, or to become a challenge, is computed again, with the same bits.
    """
    wanted = [
        duty
        for duty in duties
        if duty.model == model
        and result_for(duty, results) is None
        and duty.last_block >= height
        and (duty.first_block <= height + 1 or (duty.role != abi.ROLE_EXECUTE and duty.slot != abi.NO_SLOT))
    ]
    return sorted(wanted, key=lambda duty: (_own_last_block(duty), duty.task))


def _own_last_block(duty: Duty) -> int:
    """The end of a slot's own third; of other duties the last block."""
    if duty.role != abi.ROLE_EXECUTE or duty.slot >= EXECUTOR_SLOTS:
        return duty.last_block
    return duty.first_block - 1 + (duty.last_block - duty.first_block + 1) // (EXECUTOR_SLOTS - duty.slot)


def job_key(duty: Duty) -> ResultKey:
    """The key of the result that running a duty's job gives."""
    return (duty.task, duty.trace_key, duty.role == abi.ROLE_EXECUTE)


def items_to_send(
    operator: bytes,
    duties: Iterable[Duty],
    results: Mapping[ResultKey, Result],
    refused: Set[Hashable],
    height: int,
) -> list[WorkItem]:
    """Messages that block `height` accepts and that are ready, within the bounds of one batch.

    refused: (task, kind) that the chain has refused already, or that are on their way; sent again they would be
    refused again.
    """
    items: list[WorkItem] = []
    size = 0
    for duty in sorted(duties, key=lambda duty: (duty.last_block, duty.task)):
        result = result_for(duty, results)
        open_now = duty.first_block <= height <= duty.last_block
        if result is None or not open_now or duty.role not in ITEM_ROLES:
            continue
        if duty.slot == abi.NO_SLOT and not _opens(duty, result):
            continue
        if duty.role == abi.ROLE_TRAP and not result.salt:
            continue
        item = _item(operator, duty, result)
        if (duty.task, KIND_OF_ITEM[type(item)]) in refused:
            continue
        size += len(encode_batch([item]))
        if len(items) == BATCH_ITEMS_MAX or size > BATCH_BYTES_MAX:
            break
        items.append(item)
    return items


def _opens(duty: Duty, result: Result) -> bool:
    """Whether somebody's silent commitment is to the root that this node found too, for an answer without fault."""
    found = execution_commitment(duty.task, duty.executor, result.root)
    return found == duty.commitment and result.bad == NO_BAD_POSITION


def _item(operator: bytes, duty: Duty, result: Result) -> WorkItem:
    if duty.role == abi.ROLE_EXECUTE:
        root = trap_root(result.salt, result.root) if result.salt else result.root
        commitment = execution_commitment(duty.task, operator, root)
        times = (result.queue_ms, result.first_token_ms, result.total_ms)
        return Submission(duty.task, result.tokens, commitment, *times, result.device.encode()[:32])
    if duty.role == abi.ROLE_AUDIT:
        return Verdict(duty.task, verdict_commitment(duty.task, operator, result.bad, result.root))
    if result.salt:
        return TrapOpening(duty.task, result.salt, result.root)
    return Reveal(duty.task, result.root, result.bad)


def work_message(items: list[WorkItem]) -> Message:
    """`Market.work` with these items; it covers (task, kind) of each."""
    data = abi.WORK.encode_call(encode_batch(items))
    zeros = data.count(0)
    intrinsic = 21_000 + 4 * zeros + 16 * (len(data) - zeros)
    floor = 21_000 + 10 * zeros + 40 * (len(data) - zeros)
    work = market_gas.WORK + system_gas.CALL + system_gas.CALLDATA_BYTE * len(data) + sum(map(_item_gas, items))
    covers = frozenset((item.task, KIND_OF_ITEM[type(item)]) for item in items)
    return Message(abi.WORK.account, data, max(floor, intrinsic + work) + GAS_MARGIN, covers)


def _item_gas(item: WorkItem) -> int:
    match item:
        case Submission():
            return market_gas.SUBMIT + market_gas.SUBMIT_TOKEN * len(item.tokens)
        case Verdict():
            return market_gas.VERDICT
        case Reveal():
            return market_gas.REVEAL
        case TrapOpening():
            return market_gas.TRAP + AUDITORS_MAX * market_gas.TRAPPED + SEATS_MAX * market_gas.SEAT_SEEN
