"""The base price of work, which follows load as Ethereum's base fee follows gas (EIP-1559, docs/formats.md).

Pure integers. Capacity is the set's, in multiply-adds a block; load is what the set was kept busy with in one block.
Work is dealt in lumps that take many blocks, so what was dealt stands in a backlog that is worked off at capacity, and
a block's load is what it took off.
"""

STEP_DEN = 8
"""The price moves by at most an eighth a block."""
TARGET_DEN = 2
"""Half of capacity is where the price stays."""
PRICE_MAX = 2**95
"""Fits a task's field; more than all coins for one unit of work."""


def load_of(backlog: int, capacity: int) -> int:
    """Multiply-adds of one block: what is waiting, as far as the set can work in a block."""
    return min(backlog, capacity)


def next_price(price: int, load: int, capacity: int, floor: int) -> int:
    """The base price after a block of that load, between `floor` and PRICE_MAX.

    Up or down by price * |load - target| // target // 8, up by at least 1, with target = capacity // 2: EIP-1559's
    rule. A set that can do nothing moves nothing.
    """
    assert 0 <= load <= capacity
    target = capacity // TARGET_DEN
    if not target:
        return price
    if load > target:
        moved = price + max(1, price * min(load - target, target) // target // STEP_DEN)
    else:
        moved = price - price * (target - load) // target // STEP_DEN
    return min(PRICE_MAX, max(floor, moved))
