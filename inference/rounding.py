"""How float weights become integers: to the nearest, by GPTQ, or in two terms. What the program computes with them is
in docs/inference.md; here is only which integers stand for a row of weights.

    rounding = nearest(bound)  or  two_terms(bound)  or  gptq(bound, hessian(inputs, block))
    q, second, scale = rounding(rotated rows)

GPTQ (Frantar et al. 2022, arXiv:2210.17323) rounds a row's weights one after the other and moves each rounding error to
the weights that are not rounded yet, as far as the inputs of a calibration text let them make it up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from inference import program as cip
from inference.reference import hadamard

DAMPING = 0.01  # of the Hessian's mean diagonal, as in the paper
COLUMNS = 64  # weights of a row that are rounded before what is left of the row is corrected at once
SCALE_LEAST = 1e-30


class Rounded(NamedTuple):
    """Rows of int8 weights, of their second terms if there are two, and the float64 scale of each row: a weight is
    about (first + second / 128) * scale."""

    first: np.ndarray
    second: np.ndarray | None
    scale: np.ndarray


Rounding = Callable[[np.ndarray], Rounded]
"""From float64 rows, already rotated."""


@dataclass(frozen=True, slots=True)
class Hessian:
    """What a product's inputs say of its roundings: the mean of x x^T over calibration rows, as the executor sees them
    (rotated, int8), and the upper Cholesky factor of its damped inverse."""

    second_moment: np.ndarray
    inverse_root: np.ndarray

    def relative_error(self, exact: np.ndarray, rounded: np.ndarray) -> tuple[float, float]:
        """Energy of these rows' error in the product's output, and of the output itself."""
        error = exact - rounded
        return (
            float(np.einsum("ij,ij->", error @ self.second_moment, error)),
            float(np.einsum("ij,ij->", exact @ self.second_moment, exact)),
        )


def rotate(rows: np.ndarray, block: int) -> np.ndarray:
    """Rows times the +-1 Hadamard matrix in blocks."""
    if block == 1:
        return rows
    return (rows.reshape(-1, block) @ hadamard(block).astype(rows.dtype)).reshape(rows.shape)


def hessian(inputs: np.ndarray, block: int) -> Hessian:
    """Of float32 inputs [rows, width], rotated and quantised as an executor does it, a row at a time."""
    rotated = rotate(inputs, block)
    unit = np.maximum(np.abs(rotated).max(1, keepdims=True), np.float32(SCALE_LEAST)) / cip.ACTIVATION_MAX
    seen = np.rint(rotated / unit) * unit
    moment = (seen.T @ seen).astype(np.float64) / len(seen)
    idle = np.diag(moment) <= 0
    moment[idle, idle] = 1.0  # an input that is always 0 neither errs nor corrects
    damped = moment + np.eye(len(moment)) * DAMPING * np.diag(moment).mean()
    root = np.linalg.cholesky(np.linalg.inv(damped)).T
    return Hessian(moment.astype(np.float32), np.ascontiguousarray(root, np.float32))


def nearest(bound: int) -> Rounding:
    """Each weight to the nearest integer; the largest of a row is the bound."""

    def round_rows(rows: np.ndarray) -> Rounded:
        scale = _scale(rows, bound)
        return Rounded(np.rint(rows / scale[:, None]).astype(np.int8), None, scale)

    return round_rows


def two_terms(bound: int) -> Rounding:
    """first * 128 + second: 14 bits of a weight for two products."""
    one = 1 << cip.TERM_BITS

    def round_rows(rows: np.ndarray) -> Rounded:
        scale = _scale(rows, bound)
        both = np.rint(rows / scale[:, None] * one)
        first = np.clip(np.rint(both / one), -bound, bound)
        second = np.clip(both - first * one, -cip.SECOND_TERM_MAX, cip.SECOND_TERM_MAX)
        return Rounded(first.astype(np.int8), second.astype(np.int8), scale)

    return round_rows


def gptq(bound: int, inputs: Hessian) -> Rounding:
    """One term, each error made up for by the weights of its row that come after it."""
    root = inputs.inverse_root

    def round_rows(rows: np.ndarray) -> Rounded:
        scale = _scale(rows, bound)
        left = np.ascontiguousarray((rows / scale[:, None]).T, np.float32)  # [inputs, rows]: a column is contiguous
        rounded = np.empty(left.shape, np.int8)
        for begin in range(0, len(left), COLUMNS):
            end = min(begin + COLUMNS, len(left))
            errors = np.empty((end - begin, left.shape[1]), np.float32)
            for i in range(begin, end):
                q = np.clip(np.rint(left[i]), -bound, bound)
                rounded[i] = q
                errors[i - begin] = (left[i] - q) / root[i, i]
                left[i + 1 : end] -= root[i, i + 1 : end, None] * errors[i - begin]
            left[end:] -= root[begin:end, end:].T @ errors
        return Rounded(np.ascontiguousarray(rounded.T), None, scale)

    return round_rows


def _scale(rows: np.ndarray, bound: int) -> np.ndarray:
    return np.maximum(np.abs(rows).max(axis=1), SCALE_LEAST) / bound
