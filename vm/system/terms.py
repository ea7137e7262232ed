"""Declarations ahead: what an operator does not take, kept beside what it serves (Models, 0a02).

Owns from when a declaration counts: the epoch after next, one at a time. What it refuses is consensus.work.terms'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from consensus.work.terms import MODEL_BYTES, MODELS_MAX, Terms, problem
from primitives.address import MODELS
from vm.system import abi, gas, models, staking
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.layout import Table, raw, uint

AHEAD_EPOCHS = 2


@dataclass
class _Declared:
    """One word, and one more with the models' names; epoch: the first in which it counts, plus 1 (0: none)."""

    epoch: int = uint(40)
    hours: int = uint(24)
    refused_kinds: int = uint(8)
    models: int = uint(8)
    reserve_price: int = uint(96)
    macs_max: int = uint(64)
    names: bytes = raw(32)


_FIRST_WORD = ("epoch", "hours", "refused_kinds", "models", "reserve_price", "macs_max")
_NOW = Table(MODELS, "terms", _Declared)
_NEXT = Table(MODELS, "terms_next", _Declared)
"""The latest declaration; it stands for the one in `terms` from its epoch on."""


def of(ctx: ReadContext, operator: bytes) -> Terms:
    """What counts in this block; no refusal at all for who declared nothing."""
    return _terms(_counting(ctx, operator))


def declared(ctx: ReadContext, operator: bytes) -> tuple[Terms, Terms, int]:
    """What counts in this block, what was declared last, and the block from which that counts (0: nothing was)."""
    latest = _NEXT.get(ctx, operator) or _Declared()
    return of(ctx, operator), _terms(latest), ctx.params.first_height(latest.epoch - 1) if latest.epoch else 0


def _counting(ctx: ReadContext, operator: bytes) -> _Declared:
    now = ctx.params.epoch(ctx.height) + 1
    (latest,) = _NEXT.read(ctx, ("epoch",), operator)
    if not latest:
        return _Declared()
    table = _NEXT if latest <= now else _NOW
    record = _Declared(*table.read(ctx, _FIRST_WORD, operator))
    if record.models:
        (record.names,) = table.read(ctx, ("names",), operator)
    return record


def _terms(record: _Declared) -> Terms:
    names = tuple(record.names[i * MODEL_BYTES : (i + 1) * MODEL_BYTES] for i in range(record.models))
    return Terms(record.reserve_price, record.hours, record.refused_kinds, record.macs_max, names)


def _declare(
    ctx: SystemContext,
    call: Call,
    reserve_price: int,
    hours: int,
    refused_kinds: int,
    macs_max: int,
    refused_models: Sequence[bytes],
) -> None:
    ctx.charge(gas.DECLARE, "declare")
    if staking.operator(ctx, call.sender) is None:
        raise Refused("unknown_operator", f"0x{call.sender.hex()} is no operator: register and bond first")
    names = [model[:MODEL_BYTES] for model in refused_models]
    terms = Terms(reserve_price, hours, refused_kinds, macs_max, tuple(names))
    if wrong := problem(terms, names):
        raise Refused("bad_terms", wrong)
    for model in refused_models:
        models.require(ctx, model)
    epoch = ctx.params.epoch(ctx.height)
    pending = _NEXT.get(ctx, call.sender)
    if pending is not None and epoch + 1 < pending.epoch < epoch + AHEAD_EPOCHS + 1:
        waits = f"what was declared last counts from epoch {pending.epoch - 1} on: declare again then"
        raise Refused("declared", waits)
    _NOW.put(ctx, _counting(ctx, call.sender), call.sender)
    packed = b"".join(names).ljust(MODELS_MAX * MODEL_BYTES, b"\x00")
    record = _Declared(
        epoch + AHEAD_EPOCHS + 1, hours, refused_kinds, len(names), reserve_price, macs_max, packed
    )
    _NEXT.put(ctx, record, call.sender)
    first = ctx.params.first_height(epoch + AHEAD_EPOCHS)
    abi.emit(
        ctx, abi.TERMS_DECLARED, call.sender, first, reserve_price, hours, refused_kinds, macs_max,
        list(refused_models),
    )  # fmt: skip


def _get_terms(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge(4 * gas.VIEW_WORD, "getTerms")
    now, latest, from_block = declared(ctx, operator)
    return _row(now), _row(latest), from_block


def _row(terms: Terms) -> tuple[Any, ...]:
    return terms.reserve_price, terms.hours, terms.refused_kinds, terms.macs_max, list(terms.refused_models)


HANDLERS = {abi.DECLARE: _declare, abi.GET_TERMS: _get_terms}
