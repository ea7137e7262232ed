"""Operators, their keys and their bonds."""

from dataclasses import replace

import pytest
from sample import BOND, PEOPLE, STRANGER, WEALTH, Person, sample_spec, started

from primitives import bls, keys
from primitives.address import LEDGER, REFEREE, STAKING, ZERO_ADDRESS
from primitives.params import COIN, ChainParams
from primitives.reasons import Reason
from vm.system import abi, mishaps, staking
from vm.system.context import Refused
from vm.system.staking import HANDLERS, Role

MINIMUM = ChainParams().bond_min


@pytest.fixture
def ctx():
    return started()


def register(ctx, person=STRANGER, value=MINIMUM, sender=None, **changes):
    names = [param.name for param in abi.REGISTER.inputs]
    arguments = dict(zip(names, person.registration(ctx.params, ctx.genesis_hash, sender), strict=True))
    assert changes.keys() <= arguments.keys()
    arguments.update(changes)
    ctx.balances.setdefault(sender or person.operator, WEALTH)
    return ctx.call(HANDLERS, abi.REGISTER, *arguments.values(), sender=sender or person.operator, value=value)


def test_an_operator_registers_with_proofs_of_every_key_and_is_active(ctx):
    register(ctx)
    record = staking.operator(ctx, STRANGER.operator)
    assert record.bond == MINIMUM
    assert record.beacon_key == STRANGER.beacon_key
    assert staking.operator_by_hot(ctx, STRANGER.hot) == STRANGER.operator
    assert staking.operator_by_hot(ctx, STRANGER.consensus_address) is None
    assert staking.payout_of(ctx, STRANGER.operator) == STRANGER.payout
    assert staking.active_operators(ctx) == sorted([*(p.operator for p in PEOPLE), STRANGER.operator])
    assert ctx.balance(STAKING) == 4 * BOND + MINIMUM
    assert [event["event"] for event in ctx.events()] == ["Registered", "Bonded", "Activated"]


def wrong_role(ctx, person=STRANGER):
    return keys.sign(staking.statement(ctx.params, ctx.genesis_hash, person.operator, Role.HOT), person.consensus_key)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"consensusSignature": b"\x00" * 64}, "bad_signature"),
        ({"consensusSignature": b"\x00" * 65}, "bad_signature"),
        ({"consensusAddress": Person("other").consensus_address}, "bad_signature"),
        ({"hot": Person("other").hot}, "bad_signature"),
        ({"hot": ZERO_ADDRESS}, "zero_address"),
        ({"payout": ZERO_ADDRESS}, "zero_address"),
        ({"payout": LEDGER}, "system_address"),
        ({"nodeKey": bytes(32)}, "zero_key"),
        ({"beaconKey": b"\x01" * 48}, "bad_beacon_key"),
        ({"beaconKey": b""}, "bad_beacon_key"),
        ({"beaconKey": Person("other").beacon_key}, "bad_beacon_key"),
        ({"beaconProof": b"\xc0" + bytes(95)}, "bad_beacon_key"),
        ({"nodeKey": PEOPLE[0].node_key}, "key_taken"),
    ],
)
def test_a_registration_with_a_wrong_part_is_refused_and_leaves_nothing(ctx, changes, code):
    before = dict(ctx.storage)
    with pytest.raises(Refused) as refusal:
        register(ctx, **changes)
    assert refusal.value.code == code
    assert ctx.storage == before
    assert ctx.balance(STRANGER.operator) == WEALTH


def test_a_signature_for_another_role_operator_or_chain_is_refused(ctx):
    with pytest.raises(Refused, match="consensus signature"):
        register(ctx, consensusSignature=wrong_role(ctx))
    thief = Person("thief")
    arguments = STRANGER.registration(ctx.params, ctx.genesis_hash)
    ctx.balances[thief.operator] = WEALTH
    with pytest.raises(Refused, match="signature"):
        ctx.call(HANDLERS, abi.REGISTER, *arguments, sender=thief.operator, value=MINIMUM)
    with pytest.raises(Refused, match="signature"):
        ctx.call(
            HANDLERS,
            abi.REGISTER,
            *STRANGER.registration(replace(ctx.params, chain_id=1), ctx.genesis_hash),
            sender=STRANGER.operator,
            value=MINIMUM,
        )
    copied = bls.prove_possession(
        STRANGER.beacon_secret, staking.statement(ctx.params, ctx.genesis_hash, PEOPLE[0].operator, Role.BEACON)
    )
    with pytest.raises(Refused, match="beacon key"):
        register(ctx, beaconProof=copied)


@pytest.mark.parametrize("key", ["consensus", "hot"])
def test_a_key_belongs_to_one_operator_for_ever(ctx, key):
    register(ctx)
    ctx.call(HANDLERS, abi.UNBOND, MINIMUM, sender=STRANGER.operator)
    second = Person("second")
    for name in (["consensus_key", "consensus_address"], ["hot_key", "hot"])[key == "hot"]:
        setattr(second, name, getattr(STRANGER, name))
    with pytest.raises(Refused) as refusal:
        register(ctx, second)
    assert refusal.value.code == "key_taken"


def test_the_hot_account_is_never_the_consensus_key(ctx):
    lazy = Person("lazy")
    lazy.hot, lazy.hot_key = lazy.consensus_address, lazy.consensus_key
    with pytest.raises(Refused, match="belongs to"):
        register(ctx, lazy)


def test_nobody_registers_twice_or_under_the_minimum(ctx):
    with pytest.raises(Refused, match="below the minimum"):
        register(ctx, value=MINIMUM - 1)
    register(ctx)
    with pytest.raises(Refused, match="already"):
        register(ctx)


def test_an_unbonded_amount_leaves_after_its_blocks_and_not_before(ctx):
    me = PEOPLE[0].operator
    ctx.call(HANDLERS, abi.UNBOND, 5_000 * COIN, sender=me)
    record = staking.operator(ctx, me)
    assert (record.bond, record.unbonding) == (BOND - 5_000 * COIN, 5_000 * COIN)
    ctx.height += ctx.params.unbonding_blocks - 1
    with pytest.raises(Refused) as refusal:
        ctx.call(HANDLERS, abi.WITHDRAW, sender=me)
    assert refusal.value.code == "nothing_due"
    ctx.height += 1
    assert ctx.call(HANDLERS, abi.WITHDRAW, sender=me) == 5_000 * COIN
    assert ctx.balance(me) == WEALTH + 5_000 * COIN
    assert ctx.balance(STAKING) == 4 * BOND - 5_000 * COIN
    assert staking.operator(ctx, me).unbonding == 0


def test_withdrawals_take_all_that_ended_and_leave_the_rest(ctx):
    me = PEOPLE[0].operator
    for _ in range(3):
        ctx.call(HANDLERS, abi.UNBOND, COIN, sender=me)
        ctx.height += 10
    ctx.height += ctx.params.unbonding_blocks - 20
    assert ctx.call(HANDLERS, abi.WITHDRAW, sender=me) == 2 * COIN
    assert [due.amount for due in staking.open_unbondings(ctx, me)] == [COIN]


def test_the_open_unbondings_of_an_operator_are_bounded(ctx):
    me = PEOPLE[0].operator
    for _ in range(staking.UNBONDINGS_MAX):
        ctx.call(HANDLERS, abi.UNBOND, COIN, sender=me)
    with pytest.raises(Refused, match="withdraw first"):
        ctx.call(HANDLERS, abi.UNBOND, COIN, sender=me)


@pytest.mark.parametrize("amount", [0, BOND + 1])
def test_no_more_than_the_bond_and_no_nothing_unbonds(ctx, amount):
    with pytest.raises(Refused, match="cannot unbond"):
        ctx.call(HANDLERS, abi.UNBOND, amount, sender=PEOPLE[0].operator)


def test_a_bond_is_nothing_or_at_least_the_minimum(ctx):
    me = PEOPLE[0].operator
    with pytest.raises(Refused, match="unbond all"):
        ctx.call(HANDLERS, abi.UNBOND, BOND - MINIMUM + 1, sender=me)
    ctx.call(HANDLERS, abi.UNBOND, BOND, sender=me)
    assert me not in staking.active_operators(ctx)
    assert staking.active_bond(ctx, me) == 0
    with pytest.raises(Refused, match="below"):
        ctx.call(HANDLERS, abi.BOND, sender=me, value=MINIMUM - 1)
    ctx.call(HANDLERS, abi.BOND, sender=me, value=MINIMUM)
    assert me in staking.active_operators(ctx)


def test_a_full_list_lets_a_larger_bond_displace_the_smallest():
    params = replace(ChainParams(), validators_max=4)
    ctx = started(sample_spec(params))
    with pytest.raises(Refused) as refusal:
        register(ctx, value=BOND)
    assert refusal.value.code == "operators_full"
    register(ctx, value=BOND + 1)
    smallest = min(person.operator for person in PEOPLE)
    active = staking.active_operators(ctx)
    assert len(active) == 4
    assert smallest not in active
    assert STRANGER.operator in active
    assert staking.operator(ctx, smallest).bond == BOND
    ctx.call(HANDLERS, abi.BOND, sender=smallest, value=1)
    assert smallest in staking.active_operators(ctx)


def test_the_sum_of_bonds_stays_below_what_powers_can_count(ctx):
    ctx.balances[PEOPLE[0].operator] = 2**53 * 10**15
    with pytest.raises(Refused, match="sum of all bonds"):
        ctx.call(HANDLERS, abi.BOND, sender=PEOPLE[0].operator, value=2**52 * 10**15)


def test_fees_go_where_the_operator_says(ctx):
    ctx.call(HANDLERS, abi.SET_PAYOUT, b"\x09" * 20, sender=PEOPLE[0].operator)
    assert staking.payout_of(ctx, PEOPLE[0].operator) == b"\x09" * 20


@pytest.mark.parametrize("function", [abi.BOND, abi.GET_OPERATOR], ids=lambda f: f.name)
def test_a_stranger_is_told_that_it_is_one(ctx, function):
    arguments = [STRANGER.operator] * len(function.inputs)
    with pytest.raises(Refused, match="is no operator"):
        ctx.call(HANDLERS, function, *arguments, sender=STRANGER.operator)


def test_views_answer_what_the_state_holds(ctx):
    person = PEOPLE[0]
    info = abi.OPERATOR.named(ctx.call(HANDLERS, abi.GET_OPERATOR, person.operator, sender=STRANGER.operator))
    assert info["bond"] == BOND
    assert info["active"] is True
    assert info["hot"] == person.hot
    assert ctx.call(HANDLERS, abi.OPERATOR_BY_HOT, person.hot, sender=STRANGER.operator) == person.operator
    assert ctx.call(HANDLERS, abi.OPERATOR_BY_HOT, STRANGER.hot, sender=STRANGER.operator) == ZERO_ADDRESS
    assert len(ctx.call(HANDLERS, abi.OPERATORS, sender=STRANGER.operator)) == 4
    ctx.call(HANDLERS, abi.UNBOND, COIN, sender=person.operator)
    release = ctx.height + ctx.params.unbonding_blocks
    assert ctx.call(HANDLERS, abi.UNBONDINGS, person.operator, sender=STRANGER.operator) == [(COIN, release, bytes(20))]


def unbond(ctx, who, amount):
    ctx.call(HANDLERS, abi.UNBOND, amount, sender=who)


def test_a_slash_takes_the_bond_first_then_what_is_unbonding_the_newest_first(ctx):
    who, task = PEOPLE[0].operator, b"t" * 32
    unbond(ctx, who, 3_000 * COIN)
    unbond(ctx, who, 2_000 * COIN)
    staked = ctx.balance(STAKING)
    assert staking.slash(ctx, who, 100 * COIN, task, Reason.WRONG_WORK) == 100 * COIN
    assert (staking.operator(ctx, who).bond, staking.operator(ctx, who).unbonding) == (4_900 * COIN, 5_000 * COIN)
    assert staking.is_active(ctx, who)
    assert staking.slash(ctx, who, 6_000 * COIN, task, Reason.WRONG_WORK_AGAIN) == 6_000 * COIN
    left = [due.amount for due in staking.open_unbondings(ctx, who)]
    assert left == [3_000 * COIN, 900 * COIN], "the newest went first"
    assert not staking.is_active(ctx, who), "nothing is bonded any more"
    assert staking.slash(ctx, who, 10**30, task, Reason.WRONG_WORK) == 3_900 * COIN, "all there is"
    assert staking.slash(ctx, who, 10**30, task, Reason.WRONG_WORK) == 0
    assert (ctx.balance(STAKING), ctx.balance(REFEREE)) == (staked - 10_000 * COIN, 10_000 * COIN)
    slashes = ctx.events(abi.SLASHED)
    assert [(e["amount"], e["bond"], e["unbonding"]) for e in slashes[:2]] == [
        (100 * COIN, 4_900 * COIN, 5_000 * COIN), (6_000 * COIN, 0, 3_900 * COIN),
    ]  # fmt: skip
    assert [m.wei for m in mishaps.slashes(ctx, who)] == [0, 3_900 * COIN, 6_000 * COIN, 100 * COIN]


def test_what_a_slash_used_up_is_cleared_away_by_a_withdrawal(ctx):
    who = PEOPLE[0].operator
    unbond(ctx, who, 5_000 * COIN)
    unbond(ctx, who, 1_000 * COIN)
    staking.slash(ctx, who, 4_500 * COIN, b"t" * 32, Reason.WRONG_WORK)
    assert [due.amount for due in staking.open_unbondings(ctx, who)] == [5_000 * COIN, 500 * COIN]
    staking.slash(ctx, who, 10**30, b"t" * 32, Reason.WRONG_WORK)
    ctx.height += ctx.params.unbonding_blocks
    assert ctx.call(HANDLERS, abi.WITHDRAW, sender=who) == 0
    assert staking.open_unbondings(ctx, who) == []


def test_a_bond_below_the_minimum_votes_no_more_and_leaves_whole(ctx):
    who = PEOPLE[0].operator
    staking.slash(ctx, who, 9_000 * COIN + 1, b"t" * 32, Reason.WRONG_WORK)
    assert not staking.is_active(ctx, who)
    assert ctx.events(abi.DEACTIVATED)[-1]["reason"] == "slashed below the minimum bond"
    with pytest.raises(Refused, match="unbond all"):
        unbond(ctx, who, 1)
    unbond(ctx, who, 1_000 * COIN - 1)
    assert staking.operator(ctx, who).bond == 0


def test_nothing_is_paid_out_while_the_stake_answers_for_a_dispute(ctx):
    who = PEOPLE[0].operator
    unbond(ctx, who, 5_000 * COIN)
    ctx.height += ctx.params.unbonding_blocks
    staking.bind(ctx, who)
    staking.bind(ctx, who)
    for left in (2, 1):
        with pytest.raises(Refused, match=f"answers for {left} disputes"):
            ctx.call(HANDLERS, abi.WITHDRAW, sender=who)
        staking.unbind(ctx, who)
    assert ctx.call(HANDLERS, abi.WITHDRAW, sender=who) == 5_000 * COIN
