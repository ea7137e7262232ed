"""What nodes, wallets and the chain read of the system accounts, over a committed state and without an EVM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from consensus.work.terms import Terms
from inference.opening import Claims
from primitives.params import ChainParams
from primitives.task import Kind, ModelCost
from primitives.validators import ValidatorSet
from vm.system import beacon, delegation, ledger, market_views, mishaps, referee_views, staking, standby
from vm.system import models as model_room
from vm.system import terms as terms_room
from vm.system.ledger import Member, Totals
from vm.system.market_views import Duty, TaskView
from vm.system.mishaps import Mishap
from vm.system.referee_views import DisputeView


class Reader(Protocol):
    """The part of vm.state.StateReader that views use."""

    def storage(self, address: bytes, slot: int) -> int:
        """Word of an account's storage."""

    def balance(self, address: bytes) -> int:
        """Wei of an account."""


class ViewContext:
    """ReadContext over a state. height: number of the block after the one whose state is read.

    Params are the chain's; views that depend on none may be asked without.
    """

    def __init__(self, reader: Reader, params: ChainParams | None = None, height: int = 0) -> None:
        self._reader = reader
        self._params = params
        self.height = height

    @property
    def params(self) -> ChainParams:
        assert self._params is not None, "this view depends on the chain's parameters"
        return self._params

    def get(self, account: bytes, slot: int) -> int:
        return self._reader.storage(account, slot)

    def balance(self, account: bytes) -> int:
        return self._reader.balance(account)


class UnknownEpoch(LookupError):
    """The set of an epoch that this state does not keep (it holds the epoch's, one before and two after)."""


@dataclass(frozen=True)
class OperatorView:
    """An operator as the state knows it; bonds in wei, credit in multiply-adds."""

    operator: bytes
    consensus_address: bytes
    beacon_key: bytes
    node_key: bytes
    hot: bytes
    payout: bytes
    bond: int
    delegated: int
    commission: int | None
    """Basis points of its delegators' fees; None: it takes no delegations."""
    unbonding: int
    active: bool
    jailed: bool
    registered: int
    credit: int
    executed: int
    audited: int
    serves: tuple[tuple[bytes, int, int], ...]
    """(model, declared, effective) of each model served, in multiply-adds a block; effective 0 outside the set."""
    services: tuple["ServingView", ...]
    misses: tuple[Mishap, ...]
    """The last ones, the newest first; so are refusals of its messages and slashes."""
    refusals: tuple[Mishap, ...]
    slashes: tuple[Mishap, ...]
    terms: Terms
    """What it does not take now."""
    next_terms: tuple[Terms, int] | None
    """What it declared and from which block that counts, while it does not yet."""


@dataclass(frozen=True)
class ServingView:
    """An operator's service of one model; rates in multiply-adds a block, counters of the current epoch."""

    model: bytes
    declared: int
    best: int
    scale_q16: int
    dealt: int
    missed: int


@dataclass(frozen=True)
class ModelView:
    """A registered model."""

    model_id: bytes
    name: str
    listed: bool
    cost: ModelCost
    vocabulary: int
    context: int
    width: int
    kinds: tuple[Kind, ...]
    """Kinds of task that it offers."""
    reference_macs_per_block: int
    stop_ids: tuple[int, ...]
    served_by: int
    """Members of the current set that serve it."""
    servers: tuple[bytes, ...]
    """Operators that declared to serve it, in the set or not."""
    registrant: bytes | None
    """None: it is of genesis."""
    earns_credit: bool
    record: bytes
    """Of its shape, as registered."""
    program_root: bytes


def validator_set(reader: Reader, epoch: int) -> ValidatorSet:
    """set(epoch) with its keys. Raises UnknownEpoch."""
    found = ledger.validator_set(ViewContext(reader), epoch)
    if found is None:
        raise UnknownEpoch(f"the set of epoch {epoch} is not kept in this state, or not yet fixed")
    return found


def seed_mix(reader: Reader, epoch: int) -> bytes:
    """The mix that seeds the proposer priorities of an epoch. Raises UnknownEpoch."""
    head = ledger.set_head(ViewContext(reader), epoch)
    if head is None:
        raise UnknownEpoch(f"the seed of epoch {epoch} is not kept in this state, or not yet fixed")
    return head.seed_mix


def members(reader: Reader, epoch: int) -> Sequence[Member]:
    """Members of set(epoch) with power, target, bond (10^15 wei) and credit at its turn; empty when not kept."""
    return ledger.members(ViewContext(reader), epoch)


def mix(reader: Reader, height: int | None = None) -> bytes:
    """Mix of a height, or of this state's block. Raises LookupError when it is not kept."""
    ctx = ViewContext(reader)
    if height is None:
        return beacon.latest(ctx)[1]
    found = beacon.mix_at(ctx, height)
    if found is None:
        raise LookupError(f"the mix of height {height} is not kept in this state")
    return found


def payout(reader: Reader, operator: bytes) -> bytes | None:
    """Where an operator's fees and tips go: the coinbase of its blocks. None for a stranger."""
    record = staking.operator(ViewContext(reader), operator)
    return None if record is None else record.payout


def operator_by_hot(reader: Reader, hot: bytes) -> bytes | None:
    """Whose work batches an account signs."""
    return staking.operator_by_hot(ViewContext(reader), hot)


def operator(reader: Reader, address: bytes, params: ChainParams, height: int) -> OperatorView | None:
    """One operator. height: number of the next block."""
    ctx = ViewContext(reader, params, height)
    record = staking.operator(ctx, address)
    if record is None:
        return None
    standing = ledger.standing(ctx, address)
    services: list[ServingView] = []
    serves: list[tuple[bytes, int, int]] = []
    for model_id in model_room.served_by(ctx, address):
        serving = model_room.serving(ctx, address, model_id)
        if serving is not None:
            counters = (serving.scale_q16, serving.dealt, serving.missed)
            services.append(ServingView(model_id, serving.declared, serving.best, *counters))
            rates = model_room.effective_rates(ctx, model_room.candidates(ctx, model_id))
            serves.append((model_id, serving.declared, rates.get(address, 0)))
    now, latest, from_block = terms_room.declared(ctx, address)
    return OperatorView(
        address, record.consensus_address, record.beacon_key, record.node_key, record.hot, record.payout, record.bond,
        record.delegated, delegation.commission_of(ctx, address), record.unbonding, bool(record.active),
        bool(record.jailed), record.registered, standing.credit, standing.executed, standing.audited, tuple(serves),
        tuple(services), tuple(mishaps.misses(ctx, address)), tuple(mishaps.refusals(ctx, address)),
        tuple(mishaps.slashes(ctx, address)), now, (latest, from_block) if from_block > height else None,
    )  # fmt: skip


def operators(reader: Reader, params: ChainParams, height: int) -> list[OperatorView]:
    """Active operators in address order."""
    found = [operator(reader, address, params, height) for address in staking.active_operators(ViewContext(reader))]
    return [view for view in found if view is not None]


def models(reader: Reader, params: ChainParams, height: int) -> list[ModelView]:
    """Every model, those of genesis first. height: number of the next block."""
    ctx = ViewContext(reader, params, height)
    views: list[ModelView] = []
    for model_id in model_room.model_ids(ctx):
        record = model_room.require(ctx, model_id)
        views.append(
            ModelView(
                model_id, model_room.name_of(ctx, model_id), bool(record.listed), record.cost, record.vocabulary,
                record.context, record.width, record.kinds, record.reference_macs_per_block,
                tuple(model_room.stop_ids(ctx, model_id)), len(model_room.candidates(ctx, model_id)),
                tuple(model_room.servers(ctx, model_id)), record.registrant if any(record.registrant) else None,
                model_room.counts(ctx, model_id), model_room.record_of(ctx, model_id), record.program_root,
            )
        )
    return views


def model_claims(reader: Reader, model_id: bytes) -> Claims | None:
    """What was registered of a model's manifest; None when it is not registered."""
    ctx = ViewContext(reader)
    record = model_room.model(ctx, model_id)
    if record is None:
        return None
    stops = tuple(model_room.stop_ids(ctx, model_id))
    return Claims(model_room.record_of(ctx, model_id), record.program_root, stops)


def totals(reader: Reader) -> Totals:
    """Minted, burned by kind, tasks and work since genesis."""
    return ledger.get_totals(ViewContext(reader))


def base_price(reader: Reader) -> int:
    """Wei a CWU of a task posted now."""
    return ledger.base_price(ViewContext(reader))


def receipt_id(reader: Reader, task: bytes) -> bytes | None:
    """Id of a task's compute receipt; None while it has none."""
    found = ledger.receipt_of(ViewContext(reader), task)
    return found if any(found) else None


def audit_delay(reader: Reader, epoch: int) -> int:
    """D of an epoch whose set this state keeps."""
    return ledger.audit_delay(ViewContext(reader), epoch)


def task(reader: Reader, task_id: bytes) -> TaskView | None:
    """A task as the state knows it; None when it was never posted."""
    return market_views.task_view(ViewContext(reader), task_id)


def dispute(reader: Reader, number: int, params: ChainParams, height: int) -> DisputeView | None:
    """A dispute by its number; None when there is none. height: number of the next block."""
    return referee_views.dispute_view(ViewContext(reader, params, height), number)


def duties_in(reader: Reader, task_id: bytes, operator: bytes, params: ChainParams, height: int) -> list[Duty]:
    """What an operator owes one task. height: number of the next block."""
    return market_views.duties_in(ViewContext(reader, params, height), task_id, operator)


def disputes_of(reader: Reader, task_id: bytes) -> list[int]:
    """Numbers of all disputes about a task, in order of filing."""
    return referee_views.disputes_of(ViewContext(reader), task_id)


def open_disputes(reader: Reader) -> list[int]:
    """Numbers of the disputes that wait or run."""
    return referee_views.open_disputes(ViewContext(reader))


def open_tasks(reader: Reader, operator: bytes, params: ChainParams, height: int) -> list[Duty]:
    """What an operator owes, and may do for who is silent. height: number of the next block; duties whose windows are
    over are left out."""
    return standby.all_duties(ViewContext(reader, params, height), operator)
