"""Work that the commissioned fund pays for: batches of public goods, listed in genesis, done while nobody asks.

Owns the batches, their order and the spend of an epoch. A commissioned task is dealt, checked and paid like anybody's,
at the base price; what it does not need returns to the fund. Which batches there are is genesis', until governance
exists.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from consensus.work import audit, fees
from consensus.work.slashing import gain_of
from primitives.address import MARKET
from primitives.genesis import GenesisBatch
from primitives.merkle import pack_tokens, tokens_root, unpack_tokens
from primitives.task import Kind, Status, result_length
from vm.system import abi, ledger, market_parties, models
from vm.system import market_gas as gas
from vm.system.context import ReadContext, SystemContext
from vm.system.layout import Blob, Scalar, Table, raw, u64, uint
from vm.system.market_post import enter
from vm.system.market_state import COMMISSIONED, FRESH, FUND, NOBODY, Task, lock

BATCHES_MAX = 16
PROMPT_BYTES_MAX = 1024
NAME_BYTES_MAX = 64
DEADLINE_MAX = 2**32 - 1


@dataclass
class Batch:
    """A batch in storage. commissioned: tasks of it that were created."""

    model: bytes = raw(32)
    kind: int = uint(8)
    prompts: int = uint(32)
    commissioned: int = uint(32)


@dataclass
class Spending:
    """What an epoch may spend of the fund, and has promised."""

    epoch: int = uint(64)
    most: int = uint(96)
    spent: int = uint(96)


@dataclass(frozen=True)
class BatchView:
    """A batch as the ABI shows it."""

    name: str
    model: bytes
    kind: int
    prompts: int
    commissioned: int

    @property
    def values(self) -> tuple[Any, ...]:
        """The fields in the order of the ABI's struct."""
        return self.name, self.model, self.kind, self.prompts, self.commissioned


_COUNT = Scalar(MARKET, "batches")
_BATCHES = Table(MARKET, "batch", Batch)
_NAMES = Blob(MARKET, "batch.name", NAME_BYTES_MAX)
_PROMPTS = Blob(MARKET, "batch.prompt", PROMPT_BYTES_MAX)
_SPENDING = Table(MARKET, "spending", Spending)


def put_batch(ctx: SystemContext, spec: GenesisBatch) -> None:
    """A batch of genesis. Raises Refused when it is too long."""
    assert any(model == spec.model_id for model in models.listed_ids(ctx))
    index = _COUNT.get(ctx)
    assert index < BATCHES_MAX
    _COUNT.set(ctx, index + 1)
    _BATCHES.put(ctx, Batch(spec.model_id, spec.kind, len(spec.prompts)), u64(index))
    _NAMES.set(ctx, spec.name.encode("utf-8"), u64(index))
    for number, prompt in enumerate(spec.prompts):
        _PROMPTS.set(ctx, pack_tokens(prompt), u64(index), u64(number))


def commission(ctx: SystemContext) -> bool:
    """Step 5, before canaries: the next task of the first batch that can be done, when no user's waits. At most one a
    block, and no more than the epoch may spend. False: stopped for want of gas."""
    if FRESH.pending(ctx):
        return True
    for index, batch in _open(ctx):
        gas_item = gas.commission(market_parties.set_size(ctx))
        if ctx.gas_left < gas_item:
            return False
        ctx.charge(gas_item, "commission")
        if len(market_parties.serving(ctx, batch.model)) > 1:
            _create(ctx, index, batch)
            break
    return True


def batches(ctx: ReadContext) -> list[BatchView]:
    """All of them, in order."""
    found = []
    for index in range(_COUNT.get(ctx)):
        batch = _BATCHES.get(ctx, u64(index))
        assert batch is not None
        name = _NAMES.get(ctx, u64(index)).decode("utf-8")
        found.append(BatchView(name, batch.model, batch.kind, batch.prompts, batch.commissioned))
    return found


def _open(ctx: ReadContext) -> Iterator[tuple[int, Batch]]:
    """Batches that are not all commissioned, in order."""
    for index in range(_COUNT.get(ctx)):
        batch = _BATCHES.get(ctx, u64(index))
        assert batch is not None
        if batch.commissioned < batch.prompts:
            yield index, batch


def _create(ctx: SystemContext, index: int, batch: Batch) -> None:
    """Post the batch's next task, if the epoch's budget holds it: escrow out of the fund, one verifier at least."""
    number, record, kind = batch.commissioned, models.require(ctx, batch.model), Kind(batch.kind)
    prompt = unpack_tokens(_PROMPTS.get(ctx, u64(index), u64(number)))
    longest = result_length(kind, len(prompt), 0, record.width)
    cost, price = record.cost.execution(kind, len(prompt), longest), ledger.base_price(ctx)
    task = Task(
        status=Status.POSTED, kind=kind, commissioned=1, assurance=1, prompt=len(prompt), poster=NOBODY,
        model=batch.model, prompt_hash=tokens_root(prompt), price=price, base_fee=ctx.base_fee,
        paid_auditors=ctx.params.auditors, gain=gain_of(0, cost, price),
    )  # fmt: skip
    least, _ = audit.deadline_bounds(cost, record.reference_macs_per_block)
    needed = fees.escrow_of(task.terms(record), gas.WORK_PAID).total
    if least > DEADLINE_MAX or not _spend(ctx, needed):
        return
    task.deadline = max(ctx.params.deadline_default, least)
    batch.commissioned += 1
    _BATCHES.put(ctx, batch, u64(index))
    FUND.add(ctx, -needed)
    lock(ctx, task, needed)
    identity = enter(ctx, task, pack_tokens(prompt))
    COMMISSIONED.push(ctx, ctx.height + 1, identity)
    abi.emit(ctx, abi.TASK_COMMISSIONED, identity, index, number, _NAMES.get(ctx, u64(index)).decode("utf-8"))


def _spend(ctx: SystemContext, wei: int) -> bool:
    """Promise wei of the fund: at most 1 / fund_spend_div an epoch of what was in it when its first task came, and no
    more than canaries have left in it since."""
    epoch = ctx.params.epoch(ctx.height)
    spending = _SPENDING.get(ctx)
    if spending is None or spending.epoch != epoch or not spending.most:
        spending = Spending(epoch, FUND.get(ctx) // ctx.params.fund_spend_div, 0)
    if spending.spent + wei > spending.most or wei > FUND.get(ctx):
        return False
    spending.spent += wei
    _SPENDING.put(ctx, spending)
    return True
