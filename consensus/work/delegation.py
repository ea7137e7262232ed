"""Stake of others behind an operator: shares in a pool, rewards by share, commission, slashes in proportion.

Pure integers over frozen values; who may delegate, and when what leaves is paid out, is vm.system.delegation's. Every
step is O(1), however many delegate. Roundings stay in the pool: a share is never worth more than it can be paid.
"""

from dataclasses import dataclass, replace

Q96 = 96
BASIS_POINTS = 10_000
SPENT_BITS = 32
"""A pool whose shares were slashed to less than 1 / 2^32 of what they were takes nothing more."""


@dataclass(frozen=True)
class Pool:
    """stake: wei of all delegators, less slashes. per_share: Q96 wei that one share ever earned; carry: what the last
    division left of rewards, in Q96 wei, which the next reward takes along."""

    stake: int = 0
    shares: int = 0
    per_share: int = 0
    carry: int = 0

    @property
    def spent(self) -> bool:
        """Whether slashes left so little that no sensible number of shares could be given for a wei."""
        return self.shares > self.stake << SPENT_BITS


def issue(pool: Pool, wei: int) -> tuple[Pool, int]:
    """Put wei in: the pool after, and the shares given for it, at what a share is worth now."""
    assert wei > 0 and not pool.spent
    shares = wei * pool.shares // pool.stake if pool.shares else wei
    return replace(pool, stake=pool.stake + wei, shares=pool.shares + shares), shares


def redeem(pool: Pool, shares: int) -> tuple[Pool, int]:
    """Take shares out: the pool after, and the wei that they are worth."""
    assert 0 <= shares <= pool.shares
    wei = worth(pool, shares)
    return replace(pool, stake=pool.stake - wei, shares=pool.shares - shares), wei


def worth(pool: Pool, shares: int) -> int:
    """Wei of stake that shares stand for."""
    return pool.stake * shares // pool.shares if shares else 0


def shares_for(pool: Pool, wei: int) -> int:
    """The fewest shares that are worth so many wei."""
    assert 0 <= wei <= pool.stake
    return -(-wei * pool.shares // pool.stake) if wei else 0


def reward(pool: Pool, wei: int) -> Pool:
    """Earn: every share the same. Raises AssertionError when there is no share."""
    assert pool.shares
    each, carry = divmod((wei << Q96) + pool.carry, pool.shares)
    return replace(pool, per_share=pool.per_share + each, carry=carry)


def earned(pool: Pool, shares: int, since: int) -> int:
    """Wei that shares have earned since per_share was `since`."""
    return shares * (pool.per_share - since) >> Q96


def slash(pool: Pool, wei: int) -> Pool:
    """Take stake from all, in proportion. Rewards already earned are not stake."""
    assert 0 <= wei <= pool.stake
    return replace(pool, stake=pool.stake - wei)


def split_fee(fee: int, own: int, delegated: int, commission: int) -> tuple[int, int]:
    """(operator's, delegators') part of a fee: in proportion to stake, less the commission, in basis points."""
    if not delegated:
        return fee, 0
    theirs = fee * delegated // (own + delegated)
    theirs -= theirs * commission // BASIS_POINTS
    return fee - theirs, theirs


def split_slash(wei: int, own: int, delegated: int) -> tuple[int, int]:
    """(operator's, delegators') part of what is slashed, at most all that both have, in proportion."""
    taken = min(wei, own + delegated)
    theirs = taken * delegated // (own + delegated) if taken else 0
    return taken - theirs, theirs
