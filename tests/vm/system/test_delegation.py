"""Stake that is delegated: it weighs, earns, is slashed, and comes back, to the wei."""

import random

import pytest
from market_world import POSTER, World, operator_of, payout_of

from primitives.address import REFEREE, STAKING
from primitives.hashing import keccak
from primitives.params import COIN
from primitives.reasons import Reason
from vm.system import abi, delegation, ledger, market_parties, pools, staking
from vm.system.context import Refused

ANN, BOB = keccak(b"ann")[12:], keccak(b"bob")[12:]
HEAD = operator_of(0)


class Delegating(World):
    """The small chain with people who delegate."""

    def __init__(self, commission: int | None = 1_000, **spec: int) -> None:
        super().__init__(canaries_per_validator=0, **spec)
        for person in (ANN, BOB):
            self.ctx.balances[person] = 100_000 * COIN
        self.recount()
        self.block()
        if commission is not None:
            self.call(abi.DECLARE_COMMISSION, commission, sender=HEAD)

    def call(self, function, *arguments, sender=ANN, value=0):
        handlers = {**staking.HANDLERS, **delegation.HANDLERS}
        return self.ctx.call(handlers, function, *arguments, sender=sender, value=value)

    def delegate(self, wei: int, sender: bytes = ANN, operator: bytes = HEAD) -> None:
        self.call(abi.DELEGATE, operator, sender=sender, value=wei)

    def undelegate(self, wei: int, sender: bytes = ANN, operator: bytes = HEAD) -> None:
        self.call(abi.UNDELEGATE, operator, wei, sender=sender)

    def stake(self, who: bytes = ANN, operator: bytes = HEAD) -> int:
        return self.call(abi.GET_DELEGATION, who, operator)[0]

    def rewards(self, who: bytes = ANN, operator: bytes = HEAD) -> int:
        return self.call(abi.GET_DELEGATION, who, operator)[1]

    def record(self, operator: bytes = HEAD) -> staking.Operator:
        return staking.require(self.ctx, operator)

    def slash(self, wei: int, operator: bytes = HEAD) -> int:
        """Take stake and burn it: as for a lie that nobody gets anything for."""
        taken = staking.slash(self.ctx, operator, wei, bytes(32), Reason.WRONG_WORK)
        ledger.burn(self.ctx, REFEREE, taken, ledger.Burn.SLASH)
        return taken


@pytest.fixture
def world() -> Delegating:
    return Delegating()


def test_delegated_stake_answers_at_once_and_weighs_in_draws_and_powers_from_the_set_after_next_on(world):
    def party() -> market_parties.Party:
        found = market_parties.serving(world.ctx, world.spec.models[0].model_id)
        return next(each for each in found if each.operator == HEAD)

    world.delegate(5_000 * COIN)
    assert (party().bond, party().weight) == (15_000 * COIN, 10_000 * 1_000)
    world.block_until(32)
    members = {m.operator: m for m in ledger.members(world.ctx, 2)}
    assert members[HEAD].bond == 15_000 * 1_000
    assert members[HEAD].power > members[operator_of(1)].power
    world.block_until(64)
    assert party().weight == 10_000 * 1_000
    world.block()
    assert (party().bond, party().weight) == (15_000 * COIN, 15_000 * 1_000)


def test_a_fee_is_shared_in_proportion_to_stake_less_the_commission_and_claimed(world):
    world.delegate(30_000 * COIN)
    world.delegate(10_000 * COIN, sender=BOB)
    before = world.ctx.balance(payout_of(HEAD))
    tasks = [world.post() for _ in range(6)]
    for task in tasks:
        world.finish(task)
    fees = [e for e in world.events(abi.PAID) if e["operator"] == world.text(HEAD)]
    shared = sum(e["amount"] for e in fees if e["to"] == world.text(STAKING))
    kept = sum(e["amount"] for e in fees if e["to"] == world.text(payout_of(HEAD)))
    assert kept == world.ctx.balance(payout_of(HEAD)) - before > 0
    assert abs(shared - (shared + kept) * 4 * 9 // 50) <= 2 * len(fees)  # 4/5 of the stake, a tenth of that kept
    assert abs(world.rewards() - 3 * world.rewards(BOB)) <= 4
    for person in (ANN, BOB):
        owed, had = world.rewards(person), world.ctx.balance(person)
        assert world.call(abi.CLAIM, HEAD, sender=person) == owed
        assert world.ctx.balance(person) == had + owed
    assert pools.rewards_held(world.ctx) <= 2
    with pytest.raises(Refused, match="earned you nothing"):
        world.call(abi.CLAIM, HEAD)


def test_gas_of_messages_is_the_operators_alone(world):
    world.delegate(30_000 * COIN)
    world.finish(world.post())
    hot = {e["to"] for e in world.events(abi.PAID)} - {world.text(STAKING)}
    assert world.text(STAKING) not in hot
    gas_back = [e for e in world.events(abi.PAID) if e["role"] == abi.ROLE_REVEAL]
    assert all(e["to"] != world.text(STAKING) for e in gas_back)


def test_a_commission_is_declared_ahead_and_stands_until_then(world):
    (declared, now, later, epoch) = world.call(abi.COMMISSION, HEAD)
    assert (declared, now, later, epoch) == (True, 1_000, 1_000, 0)
    world.call(abi.DECLARE_COMMISSION, 9_000, sender=HEAD)
    assert world.call(abi.COMMISSION, HEAD) == (True, 1_000, 9_000, 2)
    world.block_until(world.params.first_height(2) - 1)
    assert delegation.commission_of(world.ctx, HEAD) == 1_000
    world.block()
    assert delegation.commission_of(world.ctx, HEAD) == 9_000
    with pytest.raises(Refused, match="at most 10000"):
        world.call(abi.DECLARE_COMMISSION, 10_001, sender=HEAD)


def test_what_cannot_be_delegated_is_refused_with_the_reason(world):
    with pytest.raises(Refused, match="at least"):
        world.delegate(COIN - 1)
    with pytest.raises(Refused, match="declared no commission"):
        world.delegate(COIN, operator=operator_of(1))
    with pytest.raises(Refused, match="is no operator"):
        world.delegate(COIN, operator=BOB)
    with pytest.raises(Refused, match="bonds its own"):
        world.ctx.balances[HEAD] = COIN
        world.recount()
        world.delegate(COIN, sender=HEAD)
    world.delegate(3 * COIN)
    with pytest.raises(Refused, match="cannot take back"):
        world.undelegate(4 * COIN)
    with pytest.raises(Refused, match="would stay"):
        world.undelegate(3 * COIN - 1)


def test_nothing_is_not_delegated_by_who_has_delegated_already_either(world):
    world.delegate(2 * COIN)
    with pytest.raises(Refused, match="a delegation of 0 wei"):
        world.delegate(0)
    assert world.stake() == 2 * COIN


def test_what_is_taken_back_leaves_through_the_queue_and_can_be_slashed_until_then(world):
    world.delegate(10 * COIN)
    world.undelegate(10 * COIN)
    assert (world.stake(), world.record().delegated) == (0, 0)
    release = world.height + world.params.unbonding_blocks
    assert world.call(abi.UNBONDINGS, ANN) == [(10 * COIN, release, HEAD)]
    with pytest.raises(Refused, match="no unbonding has ended"):
        world.call(abi.WITHDRAW)
    bond = world.record().bond
    taken = world.slash(bond + 5 * COIN)
    assert taken == bond + 5 * COIN == ledger.get_totals(world.ctx).burned_slashes
    world.ctx.height = release
    assert world.call(abi.WITHDRAW) == 5 * COIN
    world.check()


def test_a_slash_takes_from_everyone_in_proportion_and_a_newcomer_pays_for_nothing_old(world):
    world.delegate(10_000 * COIN)  # half of the operator's stake
    world.slash(2_000 * COIN)
    assert (world.record().bond, world.stake()) == (9_000 * COIN, 9_000 * COIN)
    world.delegate(9_000 * COIN, sender=BOB)
    assert world.stake(BOB) == 9_000 * COIN
    world.slash(27 * COIN)
    assert [world.stake(who) for who in (ANN, BOB)] == [8_991 * COIN] * 2
    world.check()


def test_stake_that_answers_for_a_dispute_is_not_paid_out(world):
    world.delegate(10 * COIN)
    world.undelegate(10 * COIN)
    world.ctx.height += world.params.unbonding_blocks
    staking.bind(world.ctx, HEAD)
    with pytest.raises(Refused, match="answers for 1 disputes"):
        world.call(abi.WITHDRAW)
    staking.unbind(world.ctx, HEAD)
    assert world.call(abi.WITHDRAW) == 10 * COIN


def test_slashed_to_nothing_a_pool_takes_no_more_and_those_who_leave_later_begin_anew(world):
    world.delegate(10 * COIN)
    world.undelegate(5 * COIN)
    everything = world.record().stake + 5 * COIN
    assert world.slash(everything + 7) == everything
    assert (world.stake(), pools.leaving(world.ctx, HEAD)) == (0, 0)
    with pytest.raises(Refused, match="cannot take back"):
        world.undelegate(1)
    world.ctx.balances[HEAD] = 2_000 * COIN
    world.recount()
    world.call(abi.BOND, sender=HEAD, value=2_000 * COIN)
    with pytest.raises(Refused, match="slashes left nothing"):
        world.delegate(2 * COIN)
    world.ctx.height += world.params.unbonding_blocks
    assert world.call(abi.WITHDRAW) == 0  # cleared away
    world.check()


def test_whatever_is_done_in_whatever_order_every_wei_has_a_place(world):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    spent = dict.fromkeys((ANN, BOB), 0)
    for _ in range(120):
        who = rng.choice((ANN, BOB))
        try:
            match rng.randrange(7):
                case 0 | 1:
                    world.delegate(rng.randrange(1, 50) * COIN + rng.randrange(1_000), sender=who)
                case 2:
                    world.undelegate(rng.randrange(1, world.stake(who) + 2), sender=who)
                case 3:
                    world.undelegate(world.stake(who), sender=who)
                case 4:
                    spent[who] -= world.call(abi.CLAIM, HEAD, sender=who)
                case 5:
                    world.call(abi.WITHDRAW, sender=who)
                case 6:
                    world.slash(rng.randrange(40 * COIN))
        except Refused as refusal:
            assert refusal.code in {
                "too_small", "bad_amount", "nothing_due", "too_many_unbondings", "pool_spent", "not_active"
            }  # fmt: skip
        record = world.record()
        if record.delegated and rng.random() < 0.5:
            fee = rng.randrange(10**12)
            part = delegation.share_fee(world.ctx, HEAD, record, fee)
            world.ctx.transfer(POSTER, STAKING, part)
        if rng.random() < 0.1:
            world.ctx.height += world.params.unbonding_blocks
        world.check()
