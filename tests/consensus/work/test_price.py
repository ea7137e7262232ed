"""The base price: EIP-1559's rule over work."""

from hypothesis import given
from hypothesis import strategies as st

from consensus.work.price import PRICE_MAX, load_of, next_price

FLOOR = 10**9
START = 10**12
CAPACITY = 4 * 10**9


def after(price: int, *loads: int, capacity: int = CAPACITY) -> int:
    for load in loads:
        price = next_price(price, load, capacity, FLOOR)
    return price


def test_the_price_stays_at_half_load_and_moves_by_an_eighth_at_the_ends():
    assert after(START, CAPACITY // 2) == START
    assert after(START, CAPACITY) == START + START // 8
    assert after(START, 0) == START - START // 8
    assert after(START, CAPACITY // 4) == START - START // 16


def test_idle_it_sinks_to_its_floor_and_under_load_it_rises_from_there():
    assert after(START, *[0] * 60) == FLOOR
    assert after(FLOOR, CAPACITY) == FLOOR + FLOOR // 8
    assert next_price(1, CAPACITY, CAPACITY, 1) == 2  # by at least 1, so that it can leave a floor below 8


def test_a_set_that_can_do_nothing_moves_nothing():
    assert next_price(START, 0, 0, FLOOR) == START
    assert next_price(START, 1, 1, FLOOR) == START


def test_work_that_takes_ten_blocks_is_the_load_of_ten_blocks():
    backlog, loads = 10 * CAPACITY, []
    for _ in range(12):
        loads.append(load_of(backlog, CAPACITY))
        backlog -= loads[-1]
    assert loads == [CAPACITY] * 10 + [0, 0]


@given(
    st.integers(FLOOR, PRICE_MAX), st.integers(0, 2**80), st.integers(0, 2**80), st.integers(1, FLOOR)
)
def test_it_moves_by_at_most_an_eighth_within_its_bounds_and_with_the_load(price, backlog, capacity, floor):
    load = load_of(backlog, capacity)
    moved = next_price(price, load, capacity, floor)
    assert floor <= moved <= PRICE_MAX
    assert abs(moved - price) <= max(1, price // 8)
    target = capacity // 2
    if target and load > target:
        assert moved > price or moved == PRICE_MAX
    elif target and load < target:
        assert moved <= price
    less = load_of(backlog // 2, capacity)
    assert next_price(price, less, capacity, floor) <= moved or not target
