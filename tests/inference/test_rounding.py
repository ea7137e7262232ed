"""How weights become integers: each way stays within its bounds and does what it is chosen for."""

import numpy as np
import pytest

from inference import program as cip
from inference.reference import hadamard
from inference.rounding import Rounded, gptq, hessian, nearest, rotate, two_terms

RANDOM = np.random.default_rng(11)
ROWS = RANDOM.normal(size=(40, 96)) * np.exp(RANDOM.normal(size=(40, 1)) * 3)
DIRECTIONS = RANDOM.normal(size=(12, 96))


def value(rounded: Rounded) -> np.ndarray:
    second = 0 if rounded.second is None else rounded.second / 2**cip.TERM_BITS
    return (rounded.first + second) * rounded.scale[:, None]


def correlated(count: int) -> np.ndarray:
    """Inputs of a few directions, as a model's are."""
    return (RANDOM.normal(size=(count, 12)) @ DIRECTIONS + 0.1 * RANDOM.normal(size=(count, 96))).astype(np.float32)


@pytest.mark.parametrize("bound", [127, 63])
def test_the_nearest_integer_is_off_by_half_a_step_at_most(bound: int) -> None:
    rounded = nearest(bound)(ROWS)
    assert np.abs(rounded.first).max(1).tolist() == [bound] * len(ROWS)
    assert (np.abs(value(rounded) - ROWS) <= 0.5001 * rounded.scale[:, None]).all()


@pytest.mark.parametrize("bound", [127, 63])
def test_two_terms_are_a_hundred_times_nearer(bound: int) -> None:
    rounded, plain = two_terms(bound)(ROWS), nearest(bound)(ROWS)
    assert rounded.second is not None
    assert np.abs(rounded.first).max() <= bound and np.abs(rounded.second).max() <= cip.SECOND_TERM_MAX
    off, plainly_off = (np.abs(value(r) - ROWS).sum() for r in (rounded, plain))
    assert off < plainly_off / 100


@pytest.mark.parametrize("bound", [127, 63])
def test_gptq_leaves_less_error_in_the_output_on_inputs_it_did_not_see(bound: int) -> None:
    seen = correlated(400)
    rows = rotate(ROWS, 32) / 32
    rounded, plain = gptq(bound, hessian(seen, 32))(rows), nearest(bound)(rows)
    assert np.abs(rounded.first).max() <= bound
    fresh = rotate(correlated(200).astype(np.float64), 32)
    off, plainly_off = (((fresh @ (value(r) - rows).T) ** 2).sum() for r in (rounded, plain))
    assert off < plainly_off
    fresh = rotate(seen.astype(np.float64), 32)
    off, plainly_off = (((fresh @ (value(r) - rows).T) ** 2).sum() for r in (rounded, plain))
    assert off < 0.5 * plainly_off


def test_gptq_of_independent_inputs_is_the_nearest_integer() -> None:
    inputs = hessian((np.eye(96) * 5).astype(np.float32), 1)
    assert np.array_equal(gptq(127, inputs)(ROWS).first, nearest(127)(ROWS).first)


def test_inputs_that_are_always_zero_or_alike_do_not_stop_gptq() -> None:
    inputs = correlated(50)
    inputs[:, 7] = 0
    inputs[:, 9] = inputs[:, 8]
    for seen in (inputs, np.zeros((5, 96), np.float32), inputs[:1]):
        rounded = gptq(127, hessian(seen, 1))(ROWS)
        assert np.abs(value(rounded) - ROWS).max(1).tolist() == pytest.approx([0] * 40, abs=np.abs(ROWS).max())
        assert np.isfinite(value(rounded)).all()


def test_the_error_that_is_reported_is_that_of_the_output() -> None:
    seen = correlated(300)
    inputs = hessian(seen, 1)
    exact, off = ROWS.astype(np.float32), value(nearest(63)(ROWS)).astype(np.float32)
    error, whole = inputs.relative_error(exact, off)
    true = ((seen @ (exact - off).T) ** 2).sum() / ((seen @ exact.T) ** 2).sum()
    assert error / whole == pytest.approx(true, rel=0.05)


def test_rotation_is_the_hadamard_matrix_in_blocks_and_its_own_inverse() -> None:
    rotated = rotate(ROWS, 32)
    assert np.allclose(rotated[:, 32:64], ROWS[:, 32:64] @ hadamard(32))
    assert np.allclose(rotate(rotated, 32) / 32, ROWS)
    assert rotate(ROWS, 1) is ROWS
