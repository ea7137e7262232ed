"""Models: what can be asked for, what it costs, who serves it and how fast.

Owns what is registered of a manifest (the record of its shape, from which cost and extents follow, and its program's
root), serving declarations, and what is known of an operator's speed. Which draw uses them is the
Market's. Only models in genesis (later: listed by governance) earn credit; anyone may register another, which is then
served and paid for, and marked unlisted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from consensus.work.credit import Server, model_counts
from consensus.work.deal import RATE_EPOCHS, capacity_floor, effective_rate, scaled_after
from inference.opening import RECORD_BYTES_MAX, read_shape_record
from inference.program import ProgramError
from primitives.address import MODELS
from primitives.genesis import GenesisModel
from primitives.hashing import ZERO_HASH
from primitives.task import STOP_IDS_MAX, Kind, ModelCost
from vm.system import abi, gas, ledger, staking
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.layout import AddressList, Blob, Table, WordList, raw, uint

MODELS_MAX = 256
"""Models on a chain; registering is open, so the list has an end."""
SERVED_MAX = 16
"""Models that one operator serves."""
AHEAD_EPOCHS = 2
"""Who stops serving is drawn until the epoch after next, as whatever is refused is refused ahead (vm.system.terms)."""
NAME_BYTES_MAX = 64
TEXT_BYTES_MAX = 256
SCALE_ONE = 1 << 16
RATE_BITS = 64
RATE_MAX = 2**RATE_BITS - 1
"""Multiply-adds a block."""


@dataclass
class Model:
    """What follows from a record (macs = a * positions + b * sum(position + 1) + c * logits), the program's root,
    and the registrant."""

    registrant: bytes = raw(20)
    listed: int = uint(8)
    known: int = uint(8)
    encoder: int = uint(8)
    """It embeds and nothing else; a decoder generates, embeds and scores."""
    suspended: int = uint(8)
    """1: the two referees disagreed about it, and nothing on this chain lifts that yet."""
    vocabulary: int = uint(32)
    context: int = uint(32)
    width: int = uint(32)
    """Elements of an embedding."""
    a: int = uint(64)
    b: int = uint(64)
    c: int = uint(64)
    audit_weight_num: int = uint(32)
    audit_weight_den: int = uint(32)
    reference_macs_per_block: int = uint(RATE_BITS)
    program_root: bytes = raw(32)

    @property
    def cost(self) -> ModelCost:
        """The cost formula."""
        return ModelCost(self.a, self.b, self.c, self.audit_weight_num, self.audit_weight_den)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of task that it offers."""
        return (Kind.EMBED,) if self.encoder else tuple(Kind)


@dataclass
class Serving:
    """An operator's service of one model, rates in multiply-adds a block.

    scale_q16: share of its rate that is believed, halved by misses. dealt and missed: of this epoch. best0..7: best
    finalised rate by epoch % 8; epoch: the one that dealt, missed and its slot of the ring are of. since: block in
    which it began; until: epoch with which it ends (0: none is declared).
    """

    declared: int = uint(RATE_BITS)
    best: int = uint(RATE_BITS)
    """The best of the ring: best finalised rate of the last 8 epochs, 0 when nothing was finished."""
    scale_q16: int = uint(24)
    epoch: int = uint(32)
    since: int = uint(40)
    until: int = uint(32)
    best0: int = uint(RATE_BITS)
    best1: int = uint(RATE_BITS)
    best2: int = uint(RATE_BITS)
    best3: int = uint(RATE_BITS)
    best4: int = uint(RATE_BITS)
    best5: int = uint(RATE_BITS)
    best6: int = uint(RATE_BITS)
    best7: int = uint(RATE_BITS)
    dealt: int = uint(24)
    missed: int = uint(24)

    def show(self, macs_per_block: int) -> None:
        """A rate that was shown in the record's epoch."""
        name = f"best{self.epoch % RATE_EPOCHS}"
        setattr(self, name, max(getattr(self, name), min(macs_per_block, RATE_MAX)))
        self.best = max(self.best, getattr(self, name))

    def move_to(self, epoch: int) -> None:
        """Counters and the ring's slots of the epochs in between start at zero; nothing to do once it is there."""
        if self.epoch >= epoch:
            return
        for skipped in range(max(self.epoch + 1, epoch - RATE_EPOCHS + 1), epoch + 1):
            setattr(self, f"best{skipped % RATE_EPOCHS}", 0)
        self.best = max(getattr(self, f"best{i}") for i in range(RATE_EPOCHS))
        self.dealt = self.missed = 0
        self.epoch = epoch


_IN_DRAWS = ("declared", "best", "scale_q16", "epoch", "since", "until")
"""What a draw asks of a service: its first word."""


@dataclass(frozen=True)
class Candidate:
    """A member of the current set, not jailed, that serves a model. bond: wei at stake now; weight: what it weighs in
    draws, the bond in units at the turn that fixed the set. Nobody who knows the randomness of the next blocks chooses
    among their draws by moving stake."""

    operator: bytes
    bond: int
    weight: int
    serving: Serving


@dataclass(frozen=True)
class Fleet:
    """The members of the current set that have something at stake and are not jailed, as one model sees them."""

    members: tuple[Server, ...]
    candidates: tuple[Candidate, ...]
    """Those that serve it, in address order; nobody of one that is suspended."""

    @property
    def weight(self) -> int:
        """What all of them weigh in draws, in units."""
        return sum(member.bond for member in self.members)


_MODELS = Table(MODELS, "model", Model)
_NAMES = Blob(MODELS, "name", NAME_BYTES_MAX)
_RECORDS = Blob(MODELS, "record", RECORD_BYTES_MAX)
_STOP_IDS = WordList(MODELS, "stop", STOP_IDS_MAX)
_LIST = WordList(MODELS, "models", MODELS_MAX)
_SERVERS = AddressList(MODELS, "servers", staking.OPERATORS_MAX)
_SERVED = WordList(MODELS, "served", SERVED_MAX)
_SERVING = Table(MODELS, "serving", Serving)


# What other rooms ask


def model(ctx: ReadContext, model_id: bytes) -> Model | None:
    """A model's numbers; None when it is not registered."""
    return _MODELS.get(ctx, model_id)


def require(ctx: ReadContext, model_id: bytes) -> Model:
    """A model's numbers. Raises Refused("unknown_model")."""
    record = _MODELS.get(ctx, model_id)
    if record is None:
        raise Refused("unknown_model", f"model 0x{model_id.hex()} is not registered")
    return record


def require_open(ctx: ReadContext, model_id: bytes) -> Model:
    """A model that may be asked for. Raises Refused("unknown_model" or "suspended")."""
    record = require(ctx, model_id)
    if record.suspended:
        raise Refused(
            "suspended", f"model 0x{model_id.hex()} is suspended: the two referees disagreed about one of its answers"
        )
    return record


def is_suspended(ctx: ReadContext, model_id: bytes) -> bool:
    """Whether nothing of a model is posted, dealt or checked any more."""
    return bool(_MODELS.read(ctx, ("suspended",), model_id)[0])


def suspend(ctx: SystemContext, model_id: bytes, dispute: int) -> None:
    """The referees disagreed in this dispute about the model."""
    record = require(ctx, model_id)
    if not record.suspended:
        record.suspended = 1
        _MODELS.put(ctx, record, model_id)
        abi.emit(ctx, abi.MODEL_SUSPENDED, model_id, dispute)


def model_ids(ctx: ReadContext) -> list[bytes]:
    """Every model in order of registration, those of genesis first."""
    return [value.to_bytes(32, "big") for value in _LIST.all(ctx)]


def name_of(ctx: ReadContext, model_id: bytes) -> str:
    """Its name, UTF-8."""
    return _NAMES.get(ctx, model_id).decode("utf-8")


def record_of(ctx: ReadContext, model_id: bytes) -> bytes:
    """The record of its shape, as registered."""
    return _RECORDS.get(ctx, model_id)


def stop_ids(ctx: ReadContext, model_id: bytes) -> list[int]:
    """Token ids that end an answer."""
    return _STOP_IDS.all(ctx, model_id)


def servers(ctx: ReadContext, model_id: bytes) -> list[bytes]:
    """Operators that declared to serve a model, in address order, whether in the set or not."""
    return _SERVERS.addresses(ctx, model_id)


def served_by(ctx: ReadContext, operator: bytes) -> list[bytes]:
    """Models that an operator serves, in the order of declaring."""
    return [value.to_bytes(32, "big") for value in _SERVED.all(ctx, operator)]


def serving(ctx: ReadContext, operator: bytes, model_id: bytes) -> Serving | None:
    """An operator's service of a model as of the current epoch; None when it does not serve it."""
    record, epoch = _SERVING.get(ctx, operator, model_id), ctx.params.epoch(ctx.height)
    if record is None or not _serves(record, epoch):
        return None
    record.move_to(epoch)
    return record


def fleet(ctx: ReadContext, model_id: bytes) -> Fleet:
    """Who may be drawn for a model now, and among whom: set(epoch of this block). Three words a member."""
    epoch, suspended = ctx.params.epoch(ctx.height), is_suspended(ctx, model_id)
    members: list[Server] = []
    found: list[Candidate] = []
    for operator, weight in ledger.weights(ctx, epoch).items():
        bond = staking.active_bond(ctx, operator)
        if not weight or not bond:
            continue
        record: Serving | None = Serving(*_SERVING.read(ctx, _IN_DRAWS, operator, model_id))
        if record is not None and record.epoch < epoch:
            record = serving(ctx, operator, model_id)  # the turn moves those of the set on: it has not served here yet
        if record is None or not _serves(record, epoch):
            members.append(Server(weight, False))
            continue
        members.append(Server(weight, True))
        if not suspended:
            found.append(Candidate(operator, bond, weight, record))
    return Fleet(tuple(members), tuple(found))


def candidates(ctx: ReadContext, model_id: bytes) -> list[Candidate]:
    """Who may be drawn for a model now."""
    return list(fleet(ctx, model_id).candidates)


def effective_rates(ctx: ReadContext, able: Sequence[Candidate]) -> dict[bytes, int]:
    """Multiply-adds a block that each candidate of one model is trusted with now."""
    fleet = [(candidate.serving.best, candidate.weight) for candidate in able]
    rates: dict[bytes, int] = {}
    for candidate in able:
        service = candidate.serving
        floor = capacity_floor(bool(ctx.params.devnet), service.declared, candidate.weight, fleet)
        rate = effective_rate(service.declared, floor, service.best)
        rates[candidate.operator] = rate * service.scale_q16 // SCALE_ONE
    return rates


def set_capacity(ctx: ReadContext) -> int:
    """Multiply-adds a block that the members of the current set can work together: each at the best of its effective
    rates, for one machine serves one task's model at a time."""
    served = {model_id for operator in ledger.powers(ctx, ctx.params.epoch(ctx.height))
              for model_id in served_by(ctx, operator)}  # fmt: skip
    best: dict[bytes, int] = {}
    for model_id in sorted(served):
        for operator, rate in effective_rates(ctx, candidates(ctx, model_id)).items():
            best[operator] = max(best.get(operator, 0), rate)
    return sum(best.values())


def counts(ctx: ReadContext, model_id: bytes, seen: Fleet | None = None) -> bool:
    """Whether work on a model earns credit now: listed, and served by enough of the set (consensus.work.credit). seen:
    its fleet, by who has looked already."""
    listed, suspended = _MODELS.read(ctx, ("listed", "suspended"), model_id)
    if not listed or suspended:
        return False
    return model_counts(ctx.params, (seen or fleet(ctx, model_id)).members)


def listed_ids(ctx: ReadContext) -> list[bytes]:
    """Models of genesis: those whose work may earn credit."""
    found: list[bytes] = []
    for place in range(_LIST.length(ctx)):
        model_id = _LIST.at(ctx, place).to_bytes(32, "big")
        if not _MODELS.read(ctx, ("listed",), model_id)[0]:
            break
        found.append(model_id)
    return found


def note_dealt(ctx: SystemContext, operator: bytes, model_id: bytes) -> None:
    """A task was dealt to an operator (in slot 0, or its turn as a backup came)."""
    record = serving(ctx, operator, model_id)
    if record is not None:
        record.dealt += 1
        _SERVING.put(ctx, record, operator, model_id)


def note_missed(ctx: SystemContext, operator: bytes, model_id: bytes) -> None:
    """A slot that counts passed without an answer."""
    record = serving(ctx, operator, model_id)
    if record is not None:
        record.missed += 1
        _SERVING.put(ctx, record, operator, model_id)


def note_rate(ctx: SystemContext, operator: bytes, model_id: bytes, macs_per_block: int) -> None:
    """A task was settled at this rate: macs // (submit block - slot's first block + 1)."""
    record = serving(ctx, operator, model_id)
    if record is not None:
        record.show(macs_per_block)
        _SERVING.put(ctx, record, operator, model_id)


def turn_epoch(ctx: SystemContext, operator: bytes) -> None:
    """At a turn: an operator that missed more than one in ten dealt tasks is believed half as much, else 25 % more.
    What ends with the next epoch leaves the lists."""
    epoch = ctx.params.epoch(ctx.height)
    for model_id in served_by(ctx, operator):
        record = _SERVING.get(ctx, operator, model_id)
        assert record is not None and record.declared
        record.move_to(epoch)
        record.scale_q16 = scaled_after(record.scale_q16, record.dealt, record.missed)
        record.move_to(epoch + 1)
        if record.until and record.until <= epoch + 1:
            _stop(ctx, operator, model_id, record)
        else:
            _SERVING.put(ctx, record, operator, model_id)


def keep_pace(ctx: SystemContext, operator: bytes) -> None:
    """At a turn: what is known of a member of the next set that is not active moves on, as everybody's does."""
    for model_id in served_by(ctx, operator):
        record = _SERVING.get(ctx, operator, model_id)
        assert record is not None
        record.move_to(ctx.params.epoch(ctx.height) + 1)
        _SERVING.put(ctx, record, operator, model_id)


def put_genesis_model(ctx: SystemContext, spec: GenesisModel) -> None:
    """A listed model of the genesis spec. Raises Refused when something is out of bounds."""
    record = _model_of(ctx, spec.record, spec.program_root)
    record.listed, record.reference_macs_per_block = 1, spec.reference_macs_per_block
    _put_model(ctx, spec.model_id, record, spec.name, spec.record, spec.stop_ids)


def put_serving(ctx: SystemContext, operator: bytes, model_id: bytes, macs_per_block: int) -> None:
    """Declare a rate, or change it. Raises Refused."""
    require(ctx, model_id)
    if not 0 < macs_per_block <= RATE_MAX:
        raise Refused("bad_rate", f"a rate of {macs_per_block} multiply-adds a block is not in 1 .. {RATE_MAX}")
    record, epoch = _SERVING.get(ctx, operator, model_id), ctx.params.epoch(ctx.height)
    if record is None or not record.declared:
        _SERVED.append(ctx, int.from_bytes(model_id, "big"), operator)
        if len(servers(ctx, model_id)) >= staking.OPERATORS_MAX:
            _make_room(ctx, model_id)
        _SERVERS.insert(ctx, operator, model_id)
    if record is None:
        record = Serving(scale_q16=SCALE_ONE, epoch=epoch)
    if not _serves(record, epoch):
        record.since = ctx.height
    record.move_to(epoch)
    record.declared, record.until = macs_per_block, 0
    _SERVING.put(ctx, record, operator, model_id)
    abi.emit(ctx, abi.SERVING_STARTED, operator, model_id, macs_per_block)


# Methods


def _register(
    ctx: SystemContext,
    call: Call,
    model_id: bytes,
    name: str,
    uri: str,
    licence: str,
    shape: bytes,
    program_root: bytes,
    stops: Sequence[int],
    reference: int,
) -> None:
    ctx.charge(gas.REGISTER_MODEL, "register")
    for what, text in (("uri", uri), ("licence", licence)):
        if len(text.encode("utf-8")) > TEXT_BYTES_MAX:
            raise Refused("too_long", f"the {what} has more than {TEXT_BYTES_MAX} bytes")
    if _MODELS.get(ctx, model_id) is not None:
        raise Refused("known_model", f"model 0x{model_id.hex()} is registered already")
    record = _model_of(ctx, shape, program_root)
    record.registrant, record.reference_macs_per_block = call.sender, reference
    _put_model(ctx, model_id, record, name, shape, stops)
    abi.emit(ctx, abi.MODEL_REGISTERED, model_id, call.sender, name, uri, licence)


def _serve(ctx: SystemContext, call: Call, model_id: bytes, macs_per_block: int) -> None:
    ctx.charge(gas.SERVE + _list_gas(ctx, model_id), "serve")
    record = staking.operator(ctx, call.sender)
    if record is None:
        raise Refused("unknown_operator", f"0x{call.sender.hex()} is no operator: register and bond first")
    if not record.active:
        raise Refused("not_active", f"0x{call.sender.hex()} is not an active operator: bond first")
    put_serving(ctx, call.sender, model_id, macs_per_block)
    staking.note_entry(ctx, call.sender)


def _stop_serving(ctx: SystemContext, call: Call, model_id: bytes) -> None:
    ctx.charge(gas.SERVE + _list_gas(ctx, model_id), "stopServing")
    record = _SERVING.get(ctx, call.sender, model_id)
    if record is None or not record.declared or record.until:
        raise Refused("not_serving", f"0x{call.sender.hex()} does not serve model 0x{model_id.hex()}")
    record.until = ctx.params.epoch(ctx.height) + AHEAD_EPOCHS
    _SERVING.put(ctx, record, call.sender, model_id)
    abi.emit(ctx, abi.SERVING_STOPPED, call.sender, model_id)


def _get_model(ctx: SystemContext, call: Call, model_id: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD * (30 + STOP_IDS_MAX), "getModel")
    members = ledger.powers(ctx, ctx.params.epoch(ctx.height))
    ctx.charge(gas.VIEW_WORD * 6 * len(members), "getModel")
    record = require(ctx, model_id)
    able = candidates(ctx, model_id)
    return (
        (
            model_id, name_of(ctx, model_id), bool(record.listed), record.a, record.b, record.c, record.vocabulary,
            record.context, record.width, bool(record.encoder), record.audit_weight_num, record.audit_weight_den,
            record.reference_macs_per_block, stop_ids(ctx, model_id), record.registrant, len(able),
            sum(candidate.bond for candidate in able), record_of(ctx, model_id), record.program_root,
        ),
    )  # fmt: skip


def _is_suspended(ctx: SystemContext, call: Call, model_id: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "isSuspended")
    return (bool(require(ctx, model_id).suspended),)


def _models(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "models")
    ctx.charge(gas.VIEW_WORD * _LIST.length(ctx), "models")
    return (model_ids(ctx),)


def _servers(ctx: SystemContext, call: Call, model_id: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "servers")
    ctx.charge(gas.VIEW_WORD * _SERVERS.length(ctx, model_id), "servers")
    return (servers(ctx, model_id),)


def _get_serving(ctx: SystemContext, call: Call, operator: bytes) -> tuple[Any, ...]:
    """What it serves, without what it has declared the end of."""
    ctx.charge(gas.VIEW_WORD * (1 + 4 * SERVED_MAX), "getServing")
    rows = []
    for model_id in served_by(ctx, operator):
        record = serving(ctx, operator, model_id)
        if record is not None and not record.until:
            rows.append((model_id, record.declared, record.best, record.scale_q16, record.dealt, record.missed))
    return (rows,)


# Inside


def _list_gas(ctx: ReadContext, model_id: bytes) -> int:
    """Of the move of a model's servers and an operator's models; all may be looked at to make room."""
    return gas.LIST_MEMBER * (1 + 2 * _SERVERS.length(ctx, model_id) + SERVED_MAX)


def _model_of(ctx: SystemContext, shape: bytes, program_root: bytes) -> Model:
    """The numbers that follow from the record of a shape. Raises Refused when it is not one."""
    try:
        program = read_shape_record(shape)
    except ProgramError as error:
        raise Refused("bad_record", f"the record of the model's shape: {error}") from error
    extents, cost = program.shape, program.cost
    return Model(
        known=1, encoder=int(not extents.causal), vocabulary=extents.vocabulary, context=extents.context,
        width=extents.width, a=cost.a, b=cost.b, c=cost.c, audit_weight_num=ctx.params.audit_weight_num,
        audit_weight_den=ctx.params.audit_weight_den, program_root=program_root,
    )  # fmt: skip


def _put_model(
    ctx: SystemContext, model_id: bytes, record: Model, name: str, shape: bytes, stops: Sequence[int]
) -> None:
    """Check what does not follow from the record, and keep the model."""
    bounds = {
        "reference rate": 0 < record.reference_macs_per_block <= RATE_MAX,
        f"number of stop ids ({len(stops)}, at most {STOP_IDS_MAX})": len(stops) <= STOP_IDS_MAX,
        "stop ids": all(0 <= stop < record.vocabulary for stop in stops) and len(set(stops)) == len(stops),
        "part of the vocabulary that ends no answer": len(stops) < record.vocabulary,
        "name": 0 < len(name.encode("utf-8")) <= NAME_BYTES_MAX,
        "audit weight": 0 < record.audit_weight_num <= record.audit_weight_den < 2**32,
        "program root": record.program_root != ZERO_HASH,
    }
    # put would assert on what is out of bounds
    for what, holds in bounds.items():
        if not holds:
            raise Refused("bad_model", f"the {what} of model 0x{model_id.hex()} is out of bounds")
    _MODELS.put(ctx, record, model_id)
    _NAMES.set(ctx, name.encode("utf-8"), model_id)
    _RECORDS.set(ctx, shape, model_id)
    _STOP_IDS.replace(ctx, stops, model_id)
    _LIST.append(ctx, int.from_bytes(model_id, "big"))


def _make_room(ctx: SystemContext, model_id: bytes) -> None:
    """The list of a model's servers is full: one that is no active operator any more stops serving."""
    for other in servers(ctx, model_id):
        owner = staking.operator(ctx, other)
        record = _SERVING.get(ctx, other, model_id)
        if record is not None and (owner is None or not owner.active):
            _stop(ctx, other, model_id, record)
            return


def _stop(ctx: SystemContext, operator: bytes, model_id: bytes, record: Serving) -> None:
    """The record stays with declared = 0: what is known of misses cannot be shed by declaring anew."""
    record.declared = record.until = 0
    _SERVING.put(ctx, record, operator, model_id)
    _SERVED.remove(ctx, int.from_bytes(model_id, "big"), operator)
    _SERVERS.discard(ctx, operator, model_id)


def _serves(record: Serving, epoch: int) -> bool:
    """Whether a service is declared and has not ended."""
    return bool(record.declared) and (not record.until or epoch < record.until)


HANDLERS = {
    abi.REGISTER_MODEL: _register,
    abi.SERVE: _serve,
    abi.STOP_SERVING: _stop_serving,
    abi.GET_MODEL: _get_model,
    abi.IS_SUSPENDED: _is_suspended,
    abi.MODEL_LIST: _models,
    abi.SERVERS: _servers,
    abi.GET_SERVING: _get_serving,
}
