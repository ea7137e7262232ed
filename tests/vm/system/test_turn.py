"""The prologue's frame, the beacon's ring and the epoch turn."""

from dataclasses import replace
from itertools import pairwise

import pytest
from sample import BOND, COST, MODEL, PEOPLE, RATE, STRANGER, sample_spec, started

from consensus.bft.proposer import ProposerSchedule, smallest_window
from consensus.work.credit import execution_credit
from primitives.hashing import ZERO_HASH, keccak
from primitives.params import ChainParams
from primitives.task import Kind
from vm.system import abi, beacon, ledger, models, prologue, staking, turn
from vm.system.context import OutOfGas, Refused

OPERATORS = sorted(person.operator for person in PEOPLE)
UNITS = BOND // 10**15
WORK = execution_credit(COST, Kind.GENERATE, 16, 16, False) * 100


@pytest.fixture
def ctx(monkeypatch):
    """The sample chain without the Market's steps: what they call is called by the tests."""
    monkeypatch.setattr(prologue, "STEPS", ())
    ctx = started()
    ctx.gas_limit = ctx.params.prologue_gas
    return ctx


def run_blocks(ctx, count, on_block=lambda ctx: None):
    for _ in range(count):
        on_block(ctx)
        prologue.run(ctx, ZERO_HASH, b"")
        ctx.next_block()


def end_of_epoch(ctx, on_last=lambda ctx: None):
    while not ctx.params.is_epoch_end(ctx.height):
        run_blocks(ctx, 1)
    on_last(ctx)
    run_blocks(ctx, 1)


def everyone_works(ctx, share=lambda operator: WORK):
    for operator in OPERATORS:
        ledger.add_work(ctx, operator, share(operator), WORK)


def test_genesis_fixes_the_sets_of_epochs_zero_and_one(ctx):
    for epoch in (0, 1):
        fixed = ledger.validator_set(ctx, epoch)
        assert [member.operator for member in fixed.validators] == OPERATORS
        assert {member.power for member in fixed.validators} == {UNITS}
        assert ledger.set_head(ctx, epoch).seed_mix == keccak(b"spec")
        assert ledger.set_head(ctx, epoch).set_hash == fixed.hash
        assert 2 <= ledger.audit_delay(ctx, epoch) <= 3
    assert ledger.validator_set(ctx, 2) is None
    assert beacon.latest(ctx) == (0, keccak(b"spec"))


def test_a_turn_fixes_the_set_after_the_next_with_its_own_mix_as_seed(ctx):
    mixes = {}
    end_of_epoch(ctx, lambda ctx: mixes.update(turn=ctx.mix))
    head = ledger.set_head(ctx, 2)
    assert head.seed_mix == mixes["turn"]
    assert ledger.validator_set(ctx, 2).hash == head.set_hash
    assert ledger.set_head(ctx, 3) is None
    [turned] = ctx.events(abi.EPOCH_TURNED)
    assert (turned["epoch"], turned["fixes"], turned["members"], turned["frozen"]) == (0, 2, 4, False)


def test_sets_of_four_epochs_are_kept_and_older_ones_forgotten(ctx):
    for _ in range(4):
        end_of_epoch(ctx)
    assert [epoch for epoch in range(8) if ledger.set_head(ctx, epoch)] == [2, 3, 4, 5]


def test_the_audit_delay_covers_the_schedules_of_an_epoch_and_the_next_joined(ctx):
    end_of_epoch(ctx)
    schedule = []
    for epoch in (1, 2):
        seed = ledger.set_head(ctx, epoch).seed_mix
        schedule += ProposerSchedule(ledger.validator_set(ctx, epoch), seed, 1).round_zero(ctx.params.epoch_blocks)
    assert ledger.audit_delay(ctx, 1) == smallest_window(schedule)


def test_finished_work_becomes_credit_and_the_epochs_counters_start_anew(ctx):
    everyone_works(ctx)
    end_of_epoch(ctx)
    for operator in OPERATORS:
        assert ledger.standing(ctx, operator) == ledger.Standing((WORK + WORK // 3) // 10, 0, 0)
    end_of_epoch(ctx)
    assert ledger.standing(ctx, OPERATORS[0]).credit == (WORK + WORK // 3) // 10 * 9 // 10


def test_below_four_servers_credit_neither_grows_nor_decays(ctx):
    ctx.call(models.HANDLERS, abi.STOP_SERVING, MODEL, sender=OPERATORS[3])
    everyone_works(ctx)
    end_of_epoch(ctx)
    everyone_works(ctx)
    end_of_epoch(ctx)
    before = ledger.standing(ctx, OPERATORS[0]).credit
    assert before > WORK // 10, "announced two epochs ahead, it counted until now"
    everyone_works(ctx)
    end_of_epoch(ctx)
    assert ledger.standing(ctx, OPERATORS[0]) == ledger.Standing(before, 0, 0)


def test_after_the_bootstrap_power_follows_work_and_a_worker_less_operator_votes_no_more(monkeypatch):
    monkeypatch.setattr(prologue, "STEPS", ())
    ctx = started(sample_spec(people=[*PEOPLE, STRANGER]))
    for _ in range(6):
        everyone_works(ctx)
        end_of_epoch(ctx)
    assert ledger.powers(ctx, 7) == dict.fromkeys(OPERATORS, UNITS)
    assert STRANGER.operator in ledger.powers(started(sample_spec(people=[*PEOPLE, STRANGER])), 1)
    turned = ctx.events(abi.EPOCH_TURNED)
    assert [event["rho"] > 0 for event in turned[:4]] == [False, False, True, True]
    for before, after in pairwise(turned[2:]):
        assert after["rho"] <= before["rho"] * 21 // 20
    powers = [event for event in ctx.events(abi.POWER_SET) if event["epoch"] == 7]
    assert {event["credit"] for event in powers} == {ledger.standing(ctx, OPERATORS[0]).credit}


def test_four_of_whom_one_never_works_keep_their_set(ctx):
    """Three alone would be a chain that one fault stops."""
    for _ in range(4):
        everyone_works(ctx, lambda operator: 0 if operator == OPERATORS[0] else WORK)
        end_of_epoch(ctx)
    assert ctx.events(abi.EPOCH_TURNED)[-1]["frozen"] is True
    assert ledger.powers(ctx, 5) == dict.fromkeys(OPERATORS, UNITS)


def test_who_left_votes_until_the_pipeline_ends_and_loses_its_credit(ctx):
    everyone_works(ctx)
    end_of_epoch(ctx)
    gone = OPERATORS[1]
    ctx.call(staking.HANDLERS, abi.UNBOND, BOND, sender=gone)
    ledger.add_work(ctx, gone, WORK, 0)
    end_of_epoch(ctx)
    assert ledger.standing(ctx, gone) == ledger.Standing()
    assert gone in ledger.powers(ctx, 2)
    # Four members would become three: the set stays as it is, and the log says so.
    assert ctx.events(abi.EPOCH_TURNED)[-1]["frozen"] is True
    assert gone in ledger.powers(ctx, 3)


def test_a_newcomer_grows_by_a_sixty_fourth_of_its_bond(ctx):
    arguments = STRANGER.registration(ctx.params, ctx.genesis_hash)
    ctx.call(staking.HANDLERS, abi.REGISTER, *arguments, sender=STRANGER.operator, value=BOND)
    end_of_epoch(ctx)
    assert ledger.powers(ctx, 2)[STRANGER.operator] == UNITS // 64
    assert ledger.powers(ctx, 1).get(STRANGER.operator) is None


def test_long_after_the_bootstrap_too_a_newcomer_gets_in_and_work_or_a_new_declaration_keeps_it_in(ctx):
    def epochs(count):
        for _ in range(count):
            everyone_works(ctx)
            end_of_epoch(ctx)

    epochs(5)
    arguments = STRANGER.registration(ctx.params, ctx.genesis_hash)
    ctx.call(staking.HANDLERS, abi.REGISTER, *arguments, sender=STRANGER.operator, value=BOND)
    epochs(8)
    assert [STRANGER.operator in ledger.powers(ctx, epoch) for epoch in (11, 12, 13, 14)] == [True] * 4
    assert ledger.powers(ctx, 14)[STRANGER.operator] == UNITS // 64, "without credit it stays a foothold"
    ctx.call(models.HANDLERS, abi.SERVE, MODEL, RATE, sender=STRANGER.operator)
    epochs(8)
    assert STRANGER.operator in ledger.powers(ctx, 22)
    epochs(1)
    assert STRANGER.operator not in ledger.powers(ctx, 23), "and ends when no work follows"
    assert {*ledger.powers(ctx, 23)} == {*OPERATORS}


def test_the_mix_of_a_block_is_kept_for_8192_heights(ctx):
    run_blocks(ctx, 3)
    assert beacon.mix_at(ctx, 2) == keccak(b"mix" + (2).to_bytes(8, "big"))
    assert beacon.mix_at(ctx, 4) is None
    ctx.height = 2 + beacon.RING
    beacon.store(ctx)
    assert beacon.mix_at(ctx, 2) is None
    assert beacon.mix_at(ctx, ctx.height) == ctx.mix


def test_a_step_that_fails_undoes_itself_and_neither_the_mix_nor_the_turn(ctx, monkeypatch):
    def broken(ctx):
        ctx.set(OPERATORS[0], 1, 1)
        raise Refused("broken", "by a test")

    def greedy(ctx):
        ctx.charge(10**9, "greedy")

    ran = []
    steps = (("broken", broken), ("greedy", greedy), ("good", lambda ctx: ran.append(ctx.height) or True))
    monkeypatch.setattr(prologue, "STEPS", steps)
    end_of_epoch(ctx)
    assert beacon.latest(ctx)[0] == 32
    assert ctx.events(abi.EPOCH_TURNED)
    assert ctx.get(OPERATORS[0], 1) == 0
    assert ran == list(range(1, 33))
    failed = ctx.events(abi.ITEM_FAILED)
    assert {(event["step"], event["code"]) for event in failed} == {("broken", "broken"), ("greedy", "out_of_gas")}


def test_steps_see_only_the_gas_beside_the_turns_and_stop_the_rest_when_it_is_used(ctx, monkeypatch):
    seen = []

    def hungry(ctx):
        seen.append(ctx.gas_left)
        ctx.charge(ctx.gas_left, "everything")
        return False

    def never(ctx):
        raise AssertionError("a step after one that stopped")

    monkeypatch.setattr(prologue, "STEPS", (("hungry", hungry), ("never", never)))
    end_of_epoch(ctx)
    assert ctx.events(abi.EPOCH_TURNED)
    assert seen[-1] == seen[0] - turn.gas_needed(started())


def test_a_turn_always_fits_the_prologue():
    for params in (ChainParams(), replace(ChainParams(), epoch_blocks=256)):
        assert turn.gas_most(params) <= params.prologue_gas


def test_gas_runs_out_as_such(ctx):
    ctx.gas_limit = 1
    with pytest.raises(OutOfGas):
        prologue.run(ctx, ZERO_HASH, b"")


def test_the_same_blocks_give_the_same_storage(monkeypatch):
    monkeypatch.setattr(prologue, "STEPS", ())
    runs = []
    for people in (PEOPLE, PEOPLE[::-1]):
        ctx = started(sample_spec(people=people))
        for _ in range(4):
            everyone_works(ctx)
            end_of_epoch(ctx)
        runs.append((ctx.storage, ctx.logs))
    assert runs[0][1] == runs[1][1]
    assert runs[0][0] == runs[1][0]
