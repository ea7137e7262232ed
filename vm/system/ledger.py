"""The Ledger: credits, compute receipts, powers by epoch, base price, and the totals that the invariant of coins needs.

Owns what is counted; who counts when is the Market's and the epoch turn's business. Minting and burning pass through
here alone: sum of balances = genesis + minted - burned - base fees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from consensus.work.price import load_of, next_price
from primitives import merkle
from primitives.address import LEDGER
from primitives.hashing import keccak
from primitives.validators import Validator, ValidatorSet
from vm.system import abi, gas, staking
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.layout import AddressList, Scalar, Table, Words, raw, u64, uint

SETS_KEPT = 4
"""Validator sets in state: of an epoch, the one before and the two after."""


class Burn(Enum):
    """Why wei were destroyed; the value is the field of Totals that counts it."""

    FEE = "burned_fees"
    CALLBACK = "burned_callbacks"
    EXPIRY = "burned_expiry"
    SLASH = "burned_slashes"


@dataclass
class Standing:
    """An operator's record of work. credit is C; executed and audited are the epoch's so far, in multiply-adds."""

    credit: int = uint(128)
    executed: int = uint(128)
    audited: int = uint(128)


@dataclass
class Totals:
    """Sums since genesis, in wei, tasks and multiply-adds."""

    minted: int = uint(128)
    burned_fees: int = uint(128)
    burned_callbacks: int = uint(128)
    burned_expiry: int = uint(128)
    burned_slashes: int = uint(128)
    settled: int = uint(64)
    unverified: int = uint(64)
    canaries: int = uint(64)
    refunded: int = uint(64)
    macs_paid: int = uint(128)
    macs_commissioned: int = uint(128)
    macs_canary: int = uint(128)
    tolerant: int = uint(64)
    """Receipts of the tolerant lane, which count nowhere else."""

    @property
    def burned(self) -> int:
        """Everything that was ever destroyed through the Ledger (base fees are not)."""
        return self.burned_fees + self.burned_callbacks + self.burned_expiry + self.burned_slashes


@dataclass
class Member:
    """A member of a set: what it weighs, and what the turn that fixed the set knew of it. Draws ask its first word."""

    operator: bytes = raw(20)
    bond: int = uint(64)
    power: int = uint(64)
    target: int = uint(64)
    credit: int = uint(128)


@dataclass
class SetHead:
    """The head of a set: its size, power, the mix that seeds its proposers' priorities, its hash."""

    members: int = uint(32)
    total_power: int = uint(64)
    epoch: int = uint(64)
    seed_mix: bytes = raw(32)
    set_hash: bytes = raw(32)


@dataclass
class EpochReceipts:
    """The receipts of an epoch: how many, and since its turn the root over their ids in order."""

    count: int = uint(32)
    root: bytes = raw(32)


@dataclass(frozen=True)
class ComputeReceipt:
    """What a settled task leaves: `id` is keccak of the ABI encoding of all fields in order; times are self-reported.

    kind_of_payer: abi.CLASS_*; lane: abi.LANE_*; verification: abi.VERIFIED_*; outcome: abi.OUTCOME_*; root: of the
    trace that was agreed on, zeros where nobody checked. output_tokens counts the elements of a vector. price: wei a
    CWU at the post. docs/receipts.md says what each field means to others.
    """

    task: bytes
    executor: bytes
    kind_of_payer: int
    lane: int
    kind: int
    model: bytes
    prompt_hash: bytes
    output_hash: bytes
    seed: bytes
    prompt_tokens: int
    output_tokens: int
    prefill_macs: int
    decode_macs: int
    prefill_bytes: int
    decode_bytes: int
    verifiers: tuple[bytes, ...]
    verification: int
    outcome: int
    root: bytes
    price: int
    fee: int
    payer: bytes
    queue_ms: int
    first_token_ms: int
    total_ms: int
    device: bytes

    @property
    def values(self) -> tuple[Any, ...]:
        """The fields in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def id(self) -> bytes:
        """The receipt's id, which anyone recomputes from its log."""
        types = [param.canonical for param in abi.RECEIPT.params if param.name != "receipt"]
        return keccak(abi.encode(types, self.values))


_STANDINGS = Table(LEDGER, "standing", Standing)
_CREDITED = AddressList(LEDGER, "credited", staking.OPERATORS_MAX)
"""Operators that were active at the last turn: those whose credit may be above zero."""
_TOTALS = Table(LEDGER, "totals", Totals)
_RECEIPTS = Words(LEDGER, "receipt")
_EPOCHS = Table(LEDGER, "epoch_receipts", EpochReceipts)
_PEAKS = Words(LEDGER, "receipt_peak")
"""By level: root over the last 2^level receipts of this epoch that stand complete; bit `level` of the count says
whether it is in use."""
_SET_HEADS = Table(LEDGER, "set", SetHead)
_MEMBERS = Table(LEDGER, "member", Member)
_AUDIT_DELAYS = Words(LEDGER, "audit_delay")
_BASE_PRICE = Scalar(LEDGER, "base_price")
_BACKLOG = Scalar(LEDGER, "backlog")
_CAPACITY = Scalar(LEDGER, "capacity")
_RHO = Scalar(LEDGER, "rho")


# Work and credit


def standing(ctx: ReadContext, operator: bytes) -> Standing:
    """An operator's record (zeros for a stranger)."""
    return _STANDINGS.get(ctx, operator) or Standing()


def put_standing(ctx: SystemContext, operator: bytes, record: Standing) -> None:
    """For the epoch turn."""
    _STANDINGS.put(ctx, record, operator)


def add_work(ctx: SystemContext, operator: bytes, executed: int, audited: int) -> None:
    """Count finished work of this epoch: execution credit (scaled by room) and audits at their weight.

    An operator that is no longer active earns nothing.
    """
    if not staking.is_active(ctx, operator):
        return
    record = standing(ctx, operator)
    record.executed += executed
    record.audited += audited
    _STANDINGS.put(ctx, record, operator)


def forget_work(ctx: SystemContext, operator: bytes) -> None:
    """Credit to nothing: on a proven lie."""
    _STANDINGS.delete(ctx, operator)


def forget_epoch(ctx: SystemContext, operator: bytes) -> None:
    """The work of this epoch to nothing: on a copied root."""
    record = standing(ctx, operator)
    record.executed = record.audited = 0
    _STANDINGS.put(ctx, record, operator)


def keep_credited(ctx: SystemContext, active: Sequence[bytes]) -> None:
    """At a turn: who left the active operators since the last one loses its credit."""
    for operator in _CREDITED.addresses(ctx):
        if operator not in active:
            _STANDINGS.delete(ctx, operator)
    _CREDITED.replace(ctx, [int.from_bytes(operator, "big") for operator in active])


# Receipts


def record_receipt(ctx: SystemContext, receipt: ComputeReceipt) -> bytes:
    """Keep a settled task's receipt (its id in state, the whole in a log) and count its work. The id."""
    identity = receipt.id
    _RECEIPTS.set_bytes(ctx, identity, receipt.task)
    _append_receipt(ctx, identity)
    macs = receipt.prefill_macs + receipt.decode_macs
    totals = get_totals(ctx)
    match receipt.kind_of_payer:
        case _ if receipt.lane == abi.LANE_TOLERANT:
            totals.tolerant += 1
        case abi.CLASS_PAID:
            totals.macs_paid += macs
        case abi.CLASS_COMMISSIONED:
            totals.macs_commissioned += macs
        case abi.CLASS_CANARY:
            totals.macs_canary += macs
            totals.canaries += 1
    if receipt.lane == abi.LANE_EXACT:
        totals.unverified += receipt.verification == abi.VERIFIED_NONE
        totals.settled += receipt.verification != abi.VERIFIED_NONE
    _TOTALS.put(ctx, totals)
    task, executor, *rest = receipt.values
    abi.emit(ctx, abi.RECEIPT, identity, task, executor, *rest)
    return identity


def receipt_of(ctx: ReadContext, task: bytes) -> bytes:
    """Id of a task's receipt; zeros while it has none, and when it is forgotten."""
    return _RECEIPTS.get_bytes(ctx, 32, task)


def epoch_receipts(ctx: ReadContext, epoch: int) -> EpochReceipts:
    """How many receipts an epoch left, and their root (primitives.merkle, zeros before its turn or without any)."""
    return _EPOCHS.get(ctx, u64(epoch)) or EpochReceipts()


def close_receipts(ctx: SystemContext, epoch: int) -> None:
    """At the turn: fix the root over an epoch's receipts."""
    record = epoch_receipts(ctx, epoch)
    root = b""
    for level in range(record.count.bit_length()):
        if record.count >> level & 1:
            peak = _PEAKS.get_bytes(ctx, 32, u64(level))
            root = merkle.node(peak, root) if root else peak
    if root:
        record.root = root
        _EPOCHS.put(ctx, record, u64(epoch))


def forget_receipt(ctx: SystemContext, task: bytes) -> None:
    """A task's receipt is known by its epoch's root alone from now on."""
    _RECEIPTS.set(ctx, 0, task)


def _append_receipt(ctx: SystemContext, identity: bytes) -> None:
    """One more leaf of this epoch: trees of equal size join, so that at most one of each size is left."""
    epoch = u64(ctx.params.epoch(ctx.height))
    record = _EPOCHS.get(ctx, epoch) or EpochReceipts()
    found, level = merkle.digest(identity), 0
    while record.count >> level & 1:
        found = merkle.node(_PEAKS.get_bytes(ctx, 32, u64(level)), found)
        level += 1
    assert level < gas.RECEIPT_LEVELS
    _PEAKS.set_bytes(ctx, found, u64(level))
    record.count += 1
    _EPOCHS.put(ctx, record, epoch)


def count_refund(ctx: SystemContext) -> None:
    """One more task was refunded."""
    totals = get_totals(ctx)
    totals.refunded += 1
    _TOTALS.put(ctx, totals)


# Money


def mint(ctx: SystemContext, target: bytes, wei: int) -> None:
    """Create wei: emission into the commissioned fund, and nothing else."""
    if wei:
        ctx.mint(target, wei)
        totals = get_totals(ctx)
        totals.minted += wei
        _TOTALS.put(ctx, totals)


def burn(ctx: SystemContext, source: bytes, wei: int, why: Burn) -> None:
    """Destroy wei that an account holds. Raises Refused("insufficient_balance")."""
    if wei:
        ctx.burn(source, wei)
        totals = get_totals(ctx)
        setattr(totals, why.value, getattr(totals, why.value) + wei)
        _TOTALS.put(ctx, totals)


def get_totals(ctx: ReadContext) -> Totals:
    """Sums since genesis."""
    return _TOTALS.get(ctx) or Totals()


def base_price(ctx: ReadContext) -> int:
    """Wei a CWU that a task posted now pays."""
    return _BASE_PRICE.get(ctx)


def price_ahead(ctx: ReadContext) -> int:
    """The base price or, if that is more, what the next block makes of it: enough for a post in this block or there."""
    able = capacity(ctx)
    ahead = next_price(base_price(ctx), load_of(backlog(ctx), able), able, ctx.params.base_price_floor)
    return max(base_price(ctx), ahead)


def put_base_price(ctx: SystemContext, wei: int) -> None:
    """For genesis; from block 1 on it moves by itself."""
    _BASE_PRICE.set(ctx, wei)


def backlog(ctx: ReadContext) -> int:
    """Multiply-adds of asked work that were dealt and, at the set's capacity, not worked off yet."""
    return _BACKLOG.get(ctx)


def add_backlog(ctx: SystemContext, macs: int) -> None:
    """A task that somebody pays for was dealt. (Canaries and commissioned work are no demand.)"""
    _BACKLOG.add(ctx, macs)


def capacity(ctx: ReadContext) -> int:
    """What the set can work in a block, in multiply-adds, as the last turn found it."""
    return _CAPACITY.get(ctx)


def put_capacity(ctx: SystemContext, macs_per_block: int) -> None:
    """For the epoch turn and genesis."""
    _CAPACITY.set(ctx, macs_per_block)


def move_price(ctx: SystemContext) -> None:
    """Step 0 of the prologue: the price follows the load of the block before."""
    waiting, able, price = backlog(ctx), capacity(ctx), base_price(ctx)
    load = load_of(waiting, able)
    moved = next_price(price, load, able, ctx.params.base_price_floor)
    if load:
        _BACKLOG.set(ctx, waiting - load)
    if moved != price:
        _BASE_PRICE.set(ctx, moved)


# Powers


def set_head(ctx: ReadContext, epoch: int) -> SetHead | None:
    """Head of set(epoch); None when it is not kept or not yet fixed."""
    head = _SET_HEADS.get(ctx, u64(epoch % SETS_KEPT))
    return head if head is not None and head.epoch == epoch else None


def members(ctx: ReadContext, epoch: int) -> list[Member]:
    """Members of set(epoch) in address order; none when the set is not kept."""
    head = set_head(ctx, epoch)
    if head is None:
        return []
    found = [_MEMBERS.get(ctx, u64(epoch % SETS_KEPT), u64(index)) for index in range(head.members)]
    return [member for member in found if member is not None]


def powers(ctx: ReadContext, epoch: int) -> dict[bytes, int]:
    """Operator -> power of set(epoch), in address order."""
    head = set_head(ctx, epoch)
    place = u64(epoch % SETS_KEPT)
    count = 0 if head is None else head.members
    return dict(_MEMBERS.read(ctx, ("operator", "power"), place, u64(index)) for index in range(count))


def weights(ctx: ReadContext, epoch: int) -> dict[bytes, int]:
    """Operator -> bond, in units, that stood behind it at the turn that fixed set(epoch): what it weighs in the draws
    of that epoch. In address order."""
    head = set_head(ctx, epoch)
    place = u64(epoch % SETS_KEPT)
    count = 0 if head is None else head.members
    return dict(_MEMBERS.read(ctx, ("operator", "bond"), place, u64(index)) for index in range(count))


def validator_set(ctx: ReadContext, epoch: int) -> ValidatorSet | None:
    """set(epoch) with the keys of its members; None when it is not kept."""
    found = powers(ctx, epoch)
    return keyed_set(ctx, found) if found else None


def keyed_set(ctx: ReadContext, power: dict[bytes, int]) -> ValidatorSet:
    """The validator set of these powers. Keys never change, so the operators' records hold those of any set."""
    validators: list[Validator] = []
    for operator, weight in power.items():
        consensus_address, beacon_key = staking.voting_keys(ctx, operator)
        validators.append(Validator(operator, consensus_address, weight, beacon_key))
    return ValidatorSet.of(validators)


def put_set(ctx: SystemContext, epoch: int, found: Sequence[Member], seed_mix: bytes) -> ValidatorSet:
    """Fix set(epoch): members in address order, with the mix that seeds its priorities."""
    fixed = keyed_set(ctx, {member.operator: member.power for member in found})
    place = u64(epoch % SETS_KEPT)
    before = _SET_HEADS.get(ctx, place)
    for index, member in enumerate(found):
        _MEMBERS.put(ctx, member, place, u64(index))
    for index in range(len(found), before.members if before else 0):
        _MEMBERS.delete(ctx, place, u64(index))
    head = SetHead(len(found), fixed.total_power, epoch, seed_mix, fixed.hash)
    _SET_HEADS.put(ctx, head, place)
    return fixed


def audit_delay(ctx: ReadContext, epoch: int) -> int:
    """D of the submissions in blocks of an epoch."""
    return _AUDIT_DELAYS.get(ctx, u64(epoch % SETS_KEPT))


def put_audit_delay(ctx: SystemContext, epoch: int, blocks: int) -> None:
    """For the epoch turn and genesis."""
    _AUDIT_DELAYS.set(ctx, blocks, u64(epoch % SETS_KEPT))


def rho(ctx: ReadContext) -> int:
    """Q64 credit for a unit of bond; 0 before the first turn that uses it."""
    return _RHO.get(ctx)


def put_rho(ctx: SystemContext, value: int) -> None:
    """For the epoch turn."""
    _RHO.set(ctx, value)


# Methods


def _get_credit(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    ctx.charge(2 * gas.VIEW_WORD, "getCredit")
    return (standing(ctx, operator).credit,)


def _get_receipt(ctx: SystemContext, call: Call, task: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "getReceipt")
    return (receipt_of(ctx, task),)


def _receipts_root(ctx: SystemContext, call: Call, epoch: int) -> tuple[Any, ...]:
    ctx.charge(2 * gas.VIEW_WORD, "receiptsRoot")
    record = epoch_receipts(ctx, epoch)
    return record.root, record.count


def _get_set(ctx: SystemContext, call: Call, epoch: int) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD * 4, "getSet")
    head = set_head(ctx, epoch)
    if head is None:
        raise Refused("unknown_epoch", f"the set of epoch {epoch} is not kept or not yet fixed")
    ctx.charge(gas.VIEW_WORD * 2 * head.members, "getSet")
    rows = [(m.operator, m.power, m.target, m.credit, m.bond) for m in members(ctx, epoch)]
    return head.set_hash, head.total_power, head.seed_mix, rows


def _get_totals(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(8 * gas.VIEW_WORD, "getTotals")
    totals = get_totals(ctx)
    return (tuple(getattr(totals, field.name) for field in fields(totals)),)


def _base_price(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "basePrice")
    return (base_price(ctx),)


def _load(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(2 * gas.VIEW_WORD, "load")
    return backlog(ctx), capacity(ctx)


def _audit_delay(ctx: SystemContext, call: Call, epoch: int) -> tuple[Any, ...]:
    ctx.charge(4 * gas.VIEW_WORD, "auditDelay")
    if set_head(ctx, epoch) is None:
        raise Refused("unknown_epoch", f"the audit delay of epoch {epoch} is not kept or not yet fixed")
    return (audit_delay(ctx, epoch),)


def _rho(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "rho")
    return (rho(ctx),)


HANDLERS = {
    abi.GET_CREDIT: _get_credit,
    abi.GET_RECEIPT: _get_receipt,
    abi.RECEIPTS_ROOT: _receipts_root,
    abi.GET_SET: _get_set,
    abi.GET_TOTALS: _get_totals,
    abi.BASE_PRICE: _base_price,
    abi.LOAD: _load,
    abi.AUDIT_DELAY: _audit_delay,
    abi.RHO: _rho,
}
assert len(ComputeReceipt.__dataclass_fields__) == len(abi.RECEIPT.params) - 1
