"""Models, who serves them, and how fast they are believed to be."""

from dataclasses import replace

import pytest
from sample import (
    COST,
    MODEL,
    OTHER_MODEL,
    PEOPLE,
    PROGRAM_ROOT,
    RATE,
    RECORD,
    SHAPE,
    STRANGER,
    sample_spec,
    started,
)

from inference.opening import shape_record
from inference.program import cost
from primitives.params import ChainParams
from vm.system import abi, models, staking, turn
from vm.system.context import Refused
from vm.system.models import HANDLERS


@pytest.fixture
def ctx():
    return started()


def changed(**extents: int) -> bytes:
    return shape_record(replace(SHAPE, **extents), 0)


def register(ctx, **changes):
    values = {
        "model": OTHER_MODEL, "name": "mine", "uri": "", "licence": "MIT", "record": RECORD, "root": PROGRAM_ROOT,
        "stopIds": [1, 2], "referenceMacsPerBlock": 10**6,
    }  # fmt: skip
    assert changes.keys() <= values.keys()
    values.update(changes)
    return ctx.call(HANDLERS, abi.REGISTER_MODEL, *values.values(), sender=STRANGER.operator)


def test_a_model_of_genesis_is_listed_and_served(ctx):
    assert models.require(ctx, MODEL).cost == COST
    assert (models.record_of(ctx, MODEL), models.require(ctx, MODEL).program_root) == (RECORD, PROGRAM_ROOT)
    assert models.name_of(ctx, MODEL) == "tiny"
    assert models.stop_ids(ctx, MODEL) == [0]
    assert models.listed_ids(ctx) == [MODEL]
    assert models.counts(ctx, MODEL)
    candidates = models.candidates(ctx, MODEL)
    assert [c.operator for c in candidates] == sorted(person.operator for person in PEOPLE)
    assert set(models.effective_rates(ctx, candidates).values()) == {RATE}


def test_anyone_registers_a_model_which_then_earns_no_credit(ctx):
    register(ctx)
    for person in PEOPLE:
        ctx.call(HANDLERS, abi.SERVE, OTHER_MODEL, 5, sender=person.operator)
    record = models.require(ctx, OTHER_MODEL)
    assert not record.listed
    assert record.registrant == STRANGER.operator
    assert record.audit_weight_den == ctx.params.audit_weight_den
    assert not models.counts(ctx, OTHER_MODEL)
    assert models.listed_ids(ctx) == [MODEL]
    assert len(models.candidates(ctx, OTHER_MODEL)) == 4
    assert ctx.call(HANDLERS, abi.MODEL_LIST, sender=STRANGER.operator) == [MODEL, OTHER_MODEL]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": MODEL},
        {"name": ""},
        {"name": "x" * 65},
        {"uri": "x" * 257},
        {"record": b""},
        {"record": RECORD[:-1]},
        {"record": RECORD + bytes(4)},
        {"record": b"shape|gpt|" + RECORD[12:]},
        {"record": b"shape|\xff\xff|" + RECORD[12:]},
        {"record": b"linear" + RECORD[5:]},
        {"record": bytes(100_000)},
        {"record": changed(vocabulary=0)},
        {"record": changed(vocabulary=2**20 + 1)},
        {"record": changed(context=1)},
        {"record": changed(width=0)},
        {"record": changed(width=2**16 + 1)},
        {"record": changed(heads=2**32 - 1)},
        {"record": changed(layers=1024, layers_per_group=9)},
        {"record": shape_record(SHAPE, 64)},
        {"record": shape_record(SHAPE, 0, ["head", "head"])},
        {"record": shape_record(SHAPE, 0, ["qkv"] * 3)},
        {"root": bytes(32)},
        {"stopIds": [300]},
        {"stopIds": [1, 1]},
        {"stopIds": list(range(17))},
        {"record": changed(vocabulary=2), "stopIds": [0, 1]},
        {"referenceMacsPerBlock": 0},
        {"referenceMacsPerBlock": 2**64},
    ],
    ids=str,
)
def test_a_model_with_a_number_out_of_bounds_is_refused(ctx, changes):
    before = dict(ctx.storage)
    with pytest.raises(Refused):
        register(ctx, **changes)
    assert ctx.storage == before


def test_what_a_model_costs_follows_from_its_record(ctx):
    """Nobody says what work costs: extents do, and how many products have two terms."""
    two = ["layers.0.qkv", "layers.1.gate_up", "head"]
    register(ctx, record=shape_record(SHAPE, 0, two))
    record, expected = models.require(ctx, OTHER_MODEL), cost(SHAPE, two)
    assert (record.a, record.b, record.c) == (expected.a, expected.b, expected.c)
    assert record.c == 2 * COST.c and record.a > COST.a
    assert (record.vocabulary, record.context, record.width, record.encoder) == (256, 512, 16, 0)


def test_only_active_operators_serve_only_registered_models(ctx):
    with pytest.raises(Refused, match="is no operator"):
        ctx.call(HANDLERS, abi.SERVE, MODEL, 5, sender=STRANGER.operator)
    with pytest.raises(Refused, match="is not registered"):
        ctx.call(HANDLERS, abi.SERVE, OTHER_MODEL, 5, sender=PEOPLE[0].operator)
    with pytest.raises(Refused, match="rate"):
        ctx.call(HANDLERS, abi.SERVE, MODEL, 0, sender=PEOPLE[0].operator)
    ctx.call(staking.HANDLERS, abi.UNBOND, staking.operator(ctx, PEOPLE[0].operator).bond, sender=PEOPLE[0].operator)
    with pytest.raises(Refused, match="not an active operator"):
        ctx.call(HANDLERS, abi.SERVE, MODEL, 5, sender=PEOPLE[0].operator)


def turns(ctx, count):
    """To the first block so many epochs on."""
    for _ in range(count):
        ctx.height = ctx.params.first_height(ctx.params.epoch(ctx.height) + 1) - 1
        turn.run(ctx)
        ctx.height += 1


def drawn(ctx):
    return [candidate.operator for candidate in models.candidates(ctx, MODEL)]


def test_who_unbonds_is_drawn_no_more_and_who_stops_serving_from_the_epoch_after_next_on(ctx):
    first, second = PEOPLE[0].operator, PEOPLE[1].operator
    ctx.call(HANDLERS, abi.STOP_SERVING, MODEL, sender=first)
    ctx.call(staking.HANDLERS, abi.UNBOND, staking.operator(ctx, second).bond, sender=second)
    assert drawn(ctx) == sorted(p.operator for p in PEOPLE if p.operator != second)
    with pytest.raises(Refused, match="does not serve"):
        ctx.call(HANDLERS, abi.STOP_SERVING, MODEL, sender=first)
    turns(ctx, 1)
    assert first in drawn(ctx) and models.served_by(ctx, first) == [MODEL]
    turns(ctx, 1)
    assert drawn(ctx) == sorted(p.operator for p in PEOPLE[2:])
    assert models.served_by(ctx, first) == [] and first not in models.servers(ctx, MODEL)


def test_who_declares_again_before_its_service_ended_goes_on_as_if_it_never_stopped(ctx):
    me = PEOPLE[0].operator
    ctx.height = 5
    ctx.call(HANDLERS, abi.STOP_SERVING, MODEL, sender=me)
    ctx.call(HANDLERS, abi.SERVE, MODEL, RATE, sender=me)
    turns(ctx, 3)
    assert me in drawn(ctx) and models.serving(ctx, me, MODEL).since == 0
    ctx.call(HANDLERS, abi.STOP_SERVING, MODEL, sender=me)
    turns(ctx, 2)
    ctx.call(HANDLERS, abi.SERVE, MODEL, RATE, sender=me)
    assert models.serving(ctx, me, MODEL).since == ctx.height, "else it began anew"


def test_too_few_servers_or_too_little_bond_and_work_counts_for_nobody(ctx):
    ctx.call(HANDLERS, abi.STOP_SERVING, MODEL, sender=PEOPLE[0].operator)
    assert models.counts(ctx, MODEL), "announced, and not yet so"
    turns(ctx, 2)
    assert not models.counts(ctx, MODEL)
    ctx.call(HANDLERS, abi.SERVE, MODEL, 5, sender=PEOPLE[0].operator)
    assert models.counts(ctx, MODEL)


def test_one_missed_task_in_ten_is_forgiven_and_two_halve_the_rate(ctx):
    me = PEOPLE[0].operator
    for _ in range(10):
        models.note_dealt(ctx, me, MODEL)
    models.note_missed(ctx, me, MODEL)
    models.turn_epoch(ctx, me)
    assert models.serving(ctx, me, MODEL).scale_q16 == models.SCALE_ONE
    ctx.height += ctx.params.epoch_blocks
    for _ in range(10):
        models.note_dealt(ctx, me, MODEL)
    for _ in range(2):
        models.note_missed(ctx, me, MODEL)
    models.turn_epoch(ctx, me)
    assert models.serving(ctx, me, MODEL).scale_q16 == models.SCALE_ONE // 2
    rates = models.effective_rates(ctx, models.candidates(ctx, MODEL))
    assert rates[me] == RATE // 2
    ctx.height += ctx.params.epoch_blocks
    models.turn_epoch(ctx, me)
    assert models.serving(ctx, me, MODEL).scale_q16 == models.SCALE_ONE * 5 // 8


def test_misses_are_not_shed_by_declaring_anew(ctx):
    me = PEOPLE[0].operator
    models.note_dealt(ctx, me, MODEL)
    models.note_missed(ctx, me, MODEL)
    ctx.call(HANDLERS, abi.STOP_SERVING, MODEL, sender=me)
    ctx.call(HANDLERS, abi.SERVE, MODEL, RATE, sender=me)
    assert models.serving(ctx, me, MODEL).missed == 1
    ctx.call(HANDLERS, abi.STOP_SERVING, MODEL, sender=me)
    turns(ctx, 2)
    assert models.serving(ctx, me, MODEL) is None
    ctx.call(HANDLERS, abi.SERVE, MODEL, RATE, sender=me)
    assert models.serving(ctx, me, MODEL).scale_q16 == models.SCALE_ONE * 5 // 8, "halved, and an epoch regrown"


def test_the_best_rate_of_eight_epochs_counts(ctx):
    me = PEOPLE[0].operator
    models.note_rate(ctx, me, MODEL, 700)
    models.note_rate(ctx, me, MODEL, 300)
    ctx.height += ctx.params.epoch_blocks
    models.note_rate(ctx, me, MODEL, 500)
    for later, best in ((0, 700), (6, 700), (7, 500), (8, 0), (40, 0)):
        ctx.height = (1 + later) * ctx.params.epoch_blocks + 1
        assert models.serving(ctx, me, MODEL).best == best, later


def test_on_a_public_chain_a_rate_never_shown_is_the_fleets_median_by_bond():
    params = replace(ChainParams(), devnet=0, power_from_credit=0)
    ctx = started(sample_spec(params))
    shown = sorted(person.operator for person in PEOPLE)
    for operator, rate in zip(shown, (10**9, 2 * 10**9, 3 * 10**9), strict=False):
        models.note_rate(ctx, operator, MODEL, rate)
    rates = models.effective_rates(ctx, models.candidates(ctx, MODEL))
    assert rates[shown[2]] == 3_750_000_000
    assert 1_999_000_000 < rates[shown[3]] <= 2_000_000_000


def test_views_answer_what_the_state_holds(ctx):
    info = abi.MODEL.named(ctx.call(HANDLERS, abi.GET_MODEL, MODEL, sender=STRANGER.operator))
    assert (info["name"], info["listed"], info["servedBy"], info["stopIds"]) == ("tiny", True, 4, [0])
    assert len(ctx.call(HANDLERS, abi.SERVERS, MODEL, sender=STRANGER.operator)) == 4
    rows = ctx.call(HANDLERS, abi.GET_SERVING, PEOPLE[0].operator, sender=STRANGER.operator)
    assert abi.SERVING.named(rows[0])["declaredMacsPerBlock"] == RATE
    with pytest.raises(Refused, match="is not registered"):
        ctx.call(HANDLERS, abi.GET_MODEL, OTHER_MODEL, sender=STRANGER.operator)


def test_an_operator_serves_a_bounded_number_of_models(ctx):
    for i in range(models.SERVED_MAX - 1):
        register(ctx, model=bytes([i]) * 32)
        ctx.call(HANDLERS, abi.SERVE, bytes([i]) * 32, 5, sender=PEOPLE[0].operator)
    register(ctx)
    with pytest.raises(Refused, match="at most 16"):
        ctx.call(HANDLERS, abi.SERVE, OTHER_MODEL, 5, sender=PEOPLE[0].operator)
