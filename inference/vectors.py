"""What embed and score answer: vectors of int32, from what an executor gives for the positions of a prompt. One
implementation for every executor and every checker, as with Sample; docs/inference.md (Vectors) defines it.

    pooled = Embedding(model)               scores = Scores(model, tokens)
    pooled.add(fed.payloads), ...           scores.add(fed.logits), ...
    pooled.vector()                         scores.vector()

Owns pooling, the unit length and log-likelihoods; knows no executor, no trace and no chain.
"""

from collections.abc import Sequence

import numpy as np

from inference.model import Model
from inference.program import HEAD_NORM_SHIFT, NO_BAD_POSITION, NORM_BITS, VECTOR_BITS
from inference.reference import integer_sqrt, normalise
from inference.sampling import log2_likelihood


class Embedding:
    """The mean of the final states of all positions, at unit length: Q15, as many elements as the model is wide."""

    def __init__(self, model: Model) -> None:
        self._shape = model.manifest.shape
        self._gain = model.tensors["norm.gain"].astype(np.int64) if self._shape.causal else None
        self._sum = np.zeros(self._shape.width, np.int64)
        self._positions = 0

    def add(self, payloads: Sequence[np.ndarray]) -> None:
        """The trace payloads of the next positions, uint8 [positions, bytes] a group; the last begins with the state
        after the last layer."""
        state = payloads[-1][:, : 8 * self._shape.width]
        rows = np.ascontiguousarray(state).view("<i8").astype(np.int64, copy=False)
        if self._gain is not None:
            rows = self._norm(rows)
        self._sum += rows.sum(axis=0)
        self._positions += len(rows)

    def vector(self) -> list[int]:
        """Of everything added so far, at least one position."""
        assert self._positions
        y, _ = normalise((self._sum // self._positions)[None])
        root = max(1, int(integer_sqrt(np.dot(y[0], y[0])[None])[0]))
        return ((y[0] << VECTOR_BITS) // root).tolist()

    def _norm(self, rows: np.ndarray) -> np.ndarray:
        """The model's last norm, wide, in Q16."""
        y, bits = normalise(rows)
        mean = np.einsum("ij,ij->i", y, y) // rows.shape[1]
        up = 2 * (22 - bits)
        mean += (np.int64(self._shape.norm_epsilon_q32) << np.maximum(up, 0)) >> np.maximum(-up, 0)
        reciprocal = (1 << 40) // np.maximum(integer_sqrt(mean), 1)
        return (((y * reciprocal[:, None]) >> (40 - NORM_BITS)) * self._gain) >> HEAD_NORM_SHIFT


class Scores:
    """For each token of a prompt but the first, the log2 of its likelihood after those before it: Q16, at most 0."""

    def __init__(self, model: Model, tokens: Sequence[int]) -> None:
        self._table = model.tensors["table.exp2"]
        self._expected = tokens[1:]
        self._found: list[int] = []

    def add(self, logits: np.ndarray) -> None:
        """int64 logits [positions, vocabulary] of the next positions; those of the last position say nothing here."""
        for row in logits[: len(self._expected) - len(self._found)]:
            self._found.append(log2_likelihood(row, self._expected[len(self._found)], self._table))

    def vector(self) -> list[int]:
        """One element fewer than there are tokens."""
        assert len(self._found) == len(self._expected), "logits are missing"
        return self._found


def vector_bytes(vector: Sequence[int]) -> bytes:
    """A vector as the trace hashes it: int32, little-endian."""
    return np.array(vector, "<i4").tobytes()


def first_difference(vector: Sequence[int], claimed: Sequence[int]) -> int:
    """The first index at which a claimed vector is not this one, by value or by its end; 2^32 - 1 when it is."""
    for index, (one, other) in enumerate(zip(vector, claimed, strict=False)):
        if one != other:
            return index
    return NO_BAD_POSITION if len(vector) == len(claimed) else min(len(vector), len(claimed))
