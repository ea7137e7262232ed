"""What a draw reads of the set in three words a member is what the whole records say, whatever happened to them."""

import random
from dataclasses import replace

import pytest
from sample import BOND, MODEL, PEOPLE, RATE, STRANGER, Person, sample_spec, started

from consensus.work.credit import Server
from consensus.work.deal import RATE_EPOCHS
from primitives.params import COIN, ChainParams
from primitives.reasons import Reason
from vm.system import abi, delegation, ledger, models, staking, turn
from vm.system.context import Refused

SEED = 20_261_125
NEWCOMERS = [STRANGER, Person("newcomer")]
STEPS = 160


def slowly(ctx) -> tuple[list[Server], list[tuple]]:
    """The same from whole records: members with something at stake, and those of them that serve the model with the
    bond, the weight, the declared rate, the best of eight epochs, the share believed, and since when."""
    epoch = ctx.params.epoch(ctx.height)
    members, found = [], []
    for member in ledger.members(ctx, epoch):
        record = staking.operator(ctx, member.operator)
        if not record.active or record.jailed or not record.stake or not member.bond:
            continue
        service = models._SERVING.get(ctx, member.operator, MODEL)
        serves = service is not None and service.declared > 0 and (not service.until or epoch < service.until)
        members.append(Server(member.bond, serves))
        if serves:
            last = min(service.epoch, epoch)
            best = max(
                getattr(service, f"best{each % RATE_EPOCHS}")
                for each in range(epoch - RATE_EPOCHS + 1, epoch + 1) if last - RATE_EPOCHS < each <= last
            )  # fmt: skip
            found.append(
                (member.operator, record.stake, member.bond, service.declared, best, service.scale_q16, service.since)
            )
    return members, found


def check(ctx) -> None:
    seen = models.fleet(ctx, MODEL)
    members, found = slowly(ctx)
    assert list(seen.members) == members
    assert [
        (c.operator, c.bond, c.weight, c.serving.declared, c.serving.best, c.serving.scale_q16, c.serving.since)
        for c in seen.candidates
    ] == found
    for candidate in seen.candidates:  # what the turn owes: nobody of the set is looked up twice
        assert models._SERVING.read(ctx, ("epoch",), candidate.operator, MODEL)[0] >= ctx.params.epoch(ctx.height)


def happen(ctx, rng: random.Random) -> str:
    """One thing, by somebody, if the rules allow it."""
    who = rng.choice([*PEOPLE, *NEWCOMERS])
    me, what = who.operator, rng.randrange(12)
    record = staking.operator(ctx, me)

    def call(room, function, *arguments, sender=me, value=0) -> None:
        ctx.call(room.HANDLERS, function, *arguments, sender=sender, value=value)

    match what:
        case 0 if record is None:
            signed = who.registration(ctx.params, ctx.genesis_hash)
            call(staking, abi.REGISTER, *signed, value=rng.randrange(1, 3) * BOND)
        case 0 | 1:
            call(staking, abi.BOND, value=rng.choice((1, 500, 2000)) * COIN)
        case 2:
            call(staking, abi.UNBOND, rng.choice((record.bond, record.bond // 2)) if record else 1)
        case 3:
            staking.slash(ctx, me, rng.choice((1, 50, 9_500)) * COIN, bytes(32), Reason.WRONG_WORK)
        case 4 | 5:
            call(models, abi.SERVE, MODEL, rng.randrange(1, 2 * RATE))
        case 6:
            call(models, abi.STOP_SERVING, MODEL)
        case 7 if record is not None:
            record.jailed = rng.randrange(2)
            staking._OPERATORS.put(ctx, record, me)
        case 8:
            call(delegation, abi.DECLARE_COMMISSION, rng.randrange(2_000))
            call(delegation, abi.DELEGATE, me, sender=STRANGER.operator, value=rng.randrange(1, 300) * COIN)
        case 9:
            for _ in range(rng.randrange(1, 4)):
                models.note_dealt(ctx, me, MODEL)
            models.note_missed(ctx, me, MODEL)
        case _:
            models.note_rate(ctx, me, MODEL, rng.randrange(3 * RATE))
    return str(what)


@pytest.mark.parametrize("seed", range(2))
def test_the_fleet_is_what_the_whole_records_say_after_anything(seed: int) -> None:
    print("seed", SEED + seed)
    rng = random.Random(SEED + seed)
    params = replace(ChainParams(), devnet=seed % 2, power_from_credit=0)
    ctx = started(sample_spec(params))
    for newcomer in NEWCOMERS:
        ctx.balances[newcomer.operator] = 10**6 * COIN
    check(ctx)
    refused = 0
    for _ in range(STEPS):
        if rng.random() < 0.35:
            epochs = rng.choice((1, 1, 1, 2, 9))
            for _ in range(epochs):
                ctx.height = ctx.params.first_height(ctx.params.epoch(ctx.height) + 1) - 1
                turn.run(ctx)
                check(ctx)  # in the rest of the turn's own block
                ctx.height += 1
        else:
            try:
                with ctx.frame():
                    happen(ctx, rng)
            except Refused:
                refused += 1
        check(ctx)
    assert refused < STEPS // 2
    assert ctx.params.epoch(ctx.height) > 25
