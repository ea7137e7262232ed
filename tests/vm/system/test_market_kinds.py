"""Kinds of task beside generate: what a post may ask, what an answer must be, what is paid and counted."""

import dataclasses

import pytest
from market_world import ENCODER, MODEL, POSTER, SHAPE, WIDTH, World

from inference.opening import shape_record
from primitives.merkle import tokens_root
from primitives.params import RESULT_BYTES_CAP
from primitives.task import NO_BAD_POSITION, Kind, Status, Submission, vector_of, words_of
from vm.system import abi, gas, market, market_gas, models
from vm.system.market_gas import WORK_PAID

EMBED, SCORE = int(Kind.EMBED), int(Kind.SCORE)
VECTOR = {"max_tokens": 0}
FROM_ENCODER = {"model": ENCODER.model_id, "kind": EMBED, **VECTOR}


@pytest.fixture
def world() -> World:
    world = World(encoder=True, canaries_per_validator=0, epoch_blocks=256)
    world.block()
    return world


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"kind": 3}, "kind", "kind 3 is none"),
        ({"kind": 255}, "kind", "kind 255 is none"),
        ({"kind": EMBED}, "max_tokens", "maxTokens 8: kind embed makes no tokens; it must be 0"),
        ({"kind": SCORE}, "max_tokens", "maxTokens 8: kind score"),
        ({"kind": EMBED, **VECTOR, "temperature_q16": 1}, "sampling", "temperature 1, topK 0: kind embed"),
        ({"kind": SCORE, **VECTOR, "top_k": 40}, "sampling", "topK 40: kind score samples nothing"),
        ({"kind": SCORE, **VECTOR, "tokens": (5,)}, "prompt_too_short", "nothing comes before it"),
        ({"kind": SCORE, **VECTOR, "tokens": ()}, "prompt_empty", "at least 1 token"),
        ({"kind": EMBED, **VECTOR, "tokens": (5,) * 513}, "context", "context holds 512"),
        ({"kind": SCORE, **VECTOR, "tokens": (5, 256)}, "token", "token 1 is 256"),
        ({**FROM_ENCODER, "kind": 0, "max_tokens": 8}, "kind", "kind generate: this model is an encoder"),
        ({**FROM_ENCODER, "kind": SCORE}, "kind", "kind score: this model is an encoder"),
        ({**FROM_ENCODER, "tokens": (5,) * 129}, "context", "context holds 128"),
    ],
)
def test_a_post_that_breaks_a_rule_of_its_kind_is_refused_with_its_reason(world, changes, code, text):
    found = world.refused(**changes)
    assert found[0] == code
    assert text in found[1]


@pytest.mark.parametrize("model", [MODEL, ENCODER.model_id], ids=["decoder", "encoder"])
def test_what_a_model_offers_stands_in_its_record(world, model):
    info = abi.MODEL.named(world.ctx.call(models.HANDLERS, abi.GET_MODEL, model, sender=POSTER))
    assert (info["width"], info["encoder"]) == ((WIDTH, False) if model == MODEL else (48, True))
    record = models.require(world.ctx, model)
    assert record.kinds == ((Kind.EMBED,) if info["encoder"] else (Kind.GENERATE, Kind.EMBED, Kind.SCORE))


@pytest.mark.parametrize(
    ("changes", "length"),
    [({"kind": EMBED, **VECTOR}, WIDTH), ({"kind": SCORE, **VECTOR}, 7), (FROM_ENCODER, 48)],
    ids=["embed", "score", "encoder"],
)
def test_a_vector_is_posted_checked_settled_and_paid(world, changes, length):
    task = world.post(**changes)
    kind = Kind(changes["kind"])
    world.block()
    slots = world.task(task).slots
    assert {duty.kind for duty in world.duties(slots[0])} == {kind}
    vector = tuple((-1) ** i * (i + 2**31 - 1 - length) for i in range(length))
    world.block()
    assert world.submit(slots[0], task, words_of(vector)) == []
    view = world.task(task)
    assert (view.output_tokens, view.output_hash) == (length, tokens_root(words_of(vector)))
    world.finish(task)
    assert world.status(task) == Status.SETTLED
    receipt = world.of(abi.RECEIPT, task)[0]
    cost = models.require(world.ctx, changes.get("model", MODEL)).cost
    assert (receipt["kind"], receipt["outputTokens"], receipt["promptTokens"]) == (kind, length, 8)
    assert receipt["prefillMacs"] == cost.prefill(8)
    assert receipt["decodeMacs"] == (cost.c * 7 if kind is Kind.SCORE else 0)
    settled = world.of(abi.TASK_SETTLED, task)[0]
    assert settled["macs"] == cost.execution(kind, 8, length)
    assert settled["refundedWei"] == 0, "the length of a vector is known when it is posted"


@pytest.mark.parametrize(
    ("changes", "length"),
    [({"kind": EMBED, **VECTOR}, WIDTH), ({"kind": SCORE, **VECTOR}, 7), (FROM_ENCODER, 48)],
    ids=["embed", "score", "encoder"],
)
def test_a_vector_of_another_length_is_refused(world, changes, length):
    task = world.post(**changes)
    world.block(2)
    executor = world.task(task).slots[0]
    for wrong in (0, 1, length - 1, length + 1):
        assert world.submit(executor, task, (5,) * wrong) == ["length"]
    said = world.of(abi.WORK_REFUSED, task)[-1]["text"]
    assert said == f"a vector of {length + 1}; this task's has {length} elements"
    stop_first = (1, 2**32 - 1, *(300,) * (length - 2))  # a stop id, and ids past any vocabulary: elements all the same
    assert world.submit(executor, task, stop_first) == []


@pytest.mark.parametrize("bad", [0, 6])
def test_a_wrong_element_is_disputed(world, bad):
    task = world.post(kind=SCORE, **VECTOR)
    world.block(2)
    executor = world.task(task).slots[0]
    assert world.submit(executor, task) == []
    world.block(world.delay)
    world.block()
    first, second = world.task(task).verifiers
    assert world.verdict(first, task, bad=bad) == []
    assert world.verdict(second, task) == []
    world.block()
    assert world.reveal(executor, task) == []
    assert world.reveal(first, task, bad=bad) == ["too_early"]
    world.block(2)
    assert world.reveal(first, task, bad=bad) == []
    assert world.status(task) == Status.DISPUTED
    event = world.of(abi.TASK_DISPUTED, task)[0]
    assert (event["executorBad"], event["verifierBad"]) == (NO_BAD_POSITION, bad)


def test_what_a_decoders_vector_earns_is_its_last_position_and_an_encoders_all_of_it(world):
    def earned(**asked) -> tuple[int, int]:
        before = {v.operator: world.credit(v.operator) for v in world.spec.validators}
        world.finish(world.post(**asked))
        gained = [
            tuple(now - then for now, then in zip(world.credit(operator), before[operator], strict=True))
            for operator in before
        ]
        return sum(executed for executed, _ in gained), sum(audited for _, audited in gained)

    cost, encoder = models.require(world.ctx, MODEL).cost, models.require(world.ctx, ENCODER.model_id).cost
    last = cost.a + 8 * cost.b
    assert earned(kind=EMBED, **VECTOR) == (2 * last, 2 * (2 * last // 4))
    assert earned(kind=EMBED, **VECTOR) == (0, 0), "the same prompt within 64 epochs"
    assert earned(kind=SCORE, **VECTOR) == (2 * (last + cost.c), 2 * (2 * (last + cost.c) // 4)), "another kind of work"
    assert earned(kind=SCORE, **VECTOR) == (0, 0)
    assert earned(**FROM_ENCODER) == (encoder.prefill(8), 2 * (encoder.prefill(8) // 4))
    assert earned(**FROM_ENCODER) == (0, 0)
    assert earned(**FROM_ENCODER, tokens=(3, 4, 5)) == (encoder.prefill(3), 2 * (encoder.prefill(3) // 4))


def test_a_quote_of_each_kind_is_what_a_post_then_needs(world):
    for changes in ({"kind": 0, "max_tokens": 8}, {"kind": EMBED, **VECTOR}, {"kind": SCORE, **VECTOR}, FROM_ENCODER):
        model = changes.get("model", MODEL)
        asked = (changes["kind"], model, 8, changes["max_tokens"], 0)
        escrow, least, *_ = world.ctx.call(market.HANDLERS, abi.QUOTE, *asked, 0, 0, 0, sender=POSTER)
        assert str(escrow) in world.refused(value=escrow - 1, **changes)[1]
        world.post(value=escrow, deadline=least, **changes)


def test_a_canary_of_an_encoder_embeds():
    world = World(encoder=True, canaries_per_validator=4)
    world.block_until(32)
    posted = world.events(abi.TASK_POSTED)
    asked = {(e["model"], e["kind"], e["maxTokens"], e["temperatureQ16"], len(e["tokens"]) // 4) for e in posted}
    assert asked == {(MODEL, 0, 16, 65_536, 16), (ENCODER.model_id, EMBED, 0, 0, 16)}
    encoded = next(e["task"] for e in reversed(posted) if e["kind"] == EMBED)
    world.finish(encoded)
    assert world.status(encoded) == Status.SETTLED


@pytest.mark.parametrize(("width", "fits"), [(RESULT_BYTES_CAP // 4, True), (RESULT_BYTES_CAP // 4 + 1, False)])
def test_a_result_that_fits_no_batch_is_refused_at_the_post(world, width, fits):
    name = b"w" * 32
    record = shape_record(dataclasses.replace(SHAPE, context=20_000, width=width), 0)
    world.ctx.call(models.HANDLERS, abi.REGISTER_MODEL, name, "wide", "", "", record, name, [], 10**13, sender=POSTER)
    changes = {"kind": EMBED, "model": name, **VECTOR}
    if fits:
        world.post(**changes)
        world.post(model=name, max_tokens=width)
    else:
        assert world.refused(**changes)[0] == "result_too_long"
        code, text = world.refused(model=name, max_tokens=width)
        assert (code, text) == ("result_too_long", "an answer may have 8193 tokens here; at most 8192 fit a submission")


def test_the_longest_vector_fits_the_batch_and_the_gas_that_its_escrow_pays():
    """Whatever its bytes are: EIP-7623 charges 40 gas for one that is not zero, above what executing costs."""
    from node.duties import BATCH_BYTES_MAX, work_message
    from primitives.task import encode_batch

    vector = tuple(range(-(2**31), -(2**31) + RESULT_BYTES_CAP // 4))
    item = Submission(b"t" * 32, words_of(v ^ 0x01010101 for v in vector), b"c" * 32, 2**31, 2**31, 2**31, b"d" * 32)
    assert vector_of(words_of(vector)) == vector
    assert len(encode_batch([item])) <= BATCH_BYTES_MAX
    message = work_message([item])
    used = 21_000 + sum(10 if byte == 0 else 40 for byte in message.data)
    executed = market_gas.WORK + market_gas.SUBMIT + market_gas.SUBMIT_TOKEN * len(vector) + gas.CALL
    assert executed + len(message.data) * 17 + 21_000 < used, "the floor is what a long vector pays"
    assert used <= message.gas <= 3_000_000, "half of a block's gas is for batches"
    assert used <= WORK_PAID.submission(Kind.EMBED, len(vector))
