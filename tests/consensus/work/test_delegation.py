"""Pools of delegated stake: shares, rewards and slashes, to the wei, in whatever order they come."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from consensus.work.delegation import (
    BASIS_POINTS,
    Pool,
    earned,
    issue,
    redeem,
    reward,
    shares_for,
    slash,
    split_fee,
    split_slash,
    worth,
)

COIN = 10**18
wei = st.integers(1, 10**27)


def test_a_share_is_a_wei_until_something_is_slashed():
    pool, shares = issue(Pool(), 100)
    assert shares == 100
    pool = slash(pool, 50)
    pool, more = issue(pool, 100)
    assert more == 200  # the newcomer did not lie
    assert (worth(pool, shares), worth(pool, more)) == (50, 100)


def test_rewards_are_shared_by_stake_and_later_ones_do_not_touch_earlier_ones():
    pool, first = issue(Pool(), 384)
    pool = reward(pool, 90)
    since = pool.per_share
    pool, second = issue(pool, 128)
    pool = reward(pool, 40)
    assert earned(pool, first, 0) == 90 + 30
    assert earned(pool, second, since) == 10


def test_what_a_division_leaves_is_carried_to_the_next_reward():
    pool, shares = issue(Pool(), 3)
    for _ in range(3):
        pool = reward(pool, 1)
    assert earned(pool, shares, 0) == 3


def test_fees_and_slashes_are_split_in_proportion_to_stake():
    assert split_fee(1_000, 300, 700, 1_000) == (300 + 70, 630)  # 10 % commission
    assert split_fee(1_000, 300, 0, 0) == (1_000, 0)
    assert split_fee(1_000, 0, 700, BASIS_POINTS) == (1_000, 0)
    assert split_slash(100, 300, 700) == (30, 70)
    assert split_slash(2_000, 300, 700) == (300, 700)
    assert split_slash(5, 0, 0) == (0, 0)


@given(st.integers(0, 10**27), st.integers(0, 10**27), st.integers(0, 10**27), st.integers(0, BASIS_POINTS))
def test_no_wei_of_a_split_is_lost_and_nobody_gives_more_than_it_has(amount, own, delegated, commission):
    assert sum(split_fee(amount, own, delegated, commission)) == amount
    mine, theirs = split_slash(amount, own, delegated)
    assert mine + theirs == min(amount, own + delegated)
    assert 0 <= mine <= own and 0 <= theirs <= delegated


@dataclass
class Delegator:
    shares: int = 0
    since: int = 0
    put_in: int = 0
    taken_out: int = 0
    claimed: int = 0


@dataclass
class Model:
    """A pool with three delegators, and what went in and came out of it all."""

    pool: Pool = field(default_factory=Pool)
    people: list[Delegator] = field(default_factory=lambda: [Delegator() for _ in range(3)])
    rewards: int = 0
    slashed: int = 0

    def claim(self, who: Delegator) -> None:
        who.claimed += earned(self.pool, who.shares, who.since)
        who.since = self.pool.per_share


step = st.tuples(st.sampled_from(("issue", "redeem", "reward", "slash")), st.integers(0, 2), wei)


@given(st.lists(step, max_size=40))
def test_whatever_happens_no_more_comes_out_than_went_in(steps):
    model = Model()
    for what, index, amount in steps:
        who = model.people[index]
        if what == "issue" and not model.pool.spent:
            model.claim(who)
            model.pool, shares = issue(model.pool, amount)
            assert worth(model.pool, shares) <= amount
            who.shares += shares
            who.put_in += amount
        elif what == "redeem" and who.shares:
            model.claim(who)
            shares = min(who.shares, shares_for(model.pool, min(amount, worth(model.pool, who.shares))) or who.shares)
            before = worth(model.pool, shares)
            model.pool, out = redeem(model.pool, shares)
            assert out == before
            who.shares -= shares
            who.taken_out += out
        elif what == "reward" and model.pool.shares:
            model.pool = reward(model.pool, amount)
            model.rewards += amount
        elif what == "slash":
            part = min(amount, model.pool.stake)
            model.pool = slash(model.pool, part)
            model.slashed += part
    for who in model.people:
        model.claim(who)
    put_in = sum(who.put_in for who in model.people)
    assert sum(who.taken_out for who in model.people) + model.pool.stake + model.slashed == put_in
    claimed = sum(who.claimed for who in model.people)
    assert claimed <= model.rewards
    assert model.rewards - claimed <= 2 * len(steps) + 3  # dust: below a wei a claim, and the carry
    assert sum(who.shares for who in model.people) == model.pool.shares
