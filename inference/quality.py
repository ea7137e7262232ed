"""What a program loses against the float model it came from, measured on a text: for decoders perplexity, KL divergence
and argmax agreement, for encoders how their embeddings differ, for both how far the residual is off after each layer.

The float model runs once (`Reference`), every candidate program against it. Owns what is measured and on which places
of the text; knows no rounding and no file.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from inference import program as cip
from inference.checkpoint import Checkpoint
from inference.engine import Engine
from inference.float_model import forward, pooled
from inference.kv import Segment, pages_of
from inference.model import Model
from inference.reference import CHUNK_ROWS, NumpyExecutor
from inference.tokenizer import Tokenizer

WINDOW_POSITIONS, POSITIONS_MIN = 512, 16  # of a decoder's text: as long at most; refused below
CALIBRATION_WINDOWS = 32  # of a decoder's text, at most
SENTENCES, SENTENCE_TOKENS = 200, (6, 128)  # of an encoder's text: so many, so long
LAYER_ROWS = 512  # positions whose residual is kept after every layer
NEAREST = 5

Progress = Callable[[str, int, int], None]
"""Told (what, done, total) as the work goes on."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What both models read, as ids: what quality is measured on, and what rounding is calibrated on. A decoder's
    windows have one token more than is fed, the last one's target."""

    measured: list[list[int]]
    calibration: list[list[int]]


@dataclass(frozen=True, slots=True)
class Reference:
    """What the float model says: states before the head or of the last layer [positions, width], and the residual after
    each layer of the first positions."""

    states: np.ndarray
    layers: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class TextQuality:
    """What a decoder loses on a text. Losses and the divergence in nats a token."""

    positions: int
    loss_float: float
    loss_integer: float
    loss_error: float
    """Standard error of loss_integer - loss_float."""
    divergence: float
    agreement: float
    layer_errors: tuple[float, ...]
    """RMS of the residual's error over its own RMS, after each layer."""

    @property
    def lost(self) -> float:
        """By what share perplexity grew; may be negative."""
        return math.expm1(self.loss_integer - self.loss_float)

    def as_integers(self) -> dict[str, int]:
        """For the manifest, in millionths."""
        return _micro({
            "lossFloatMicroNats": self.loss_float, "lossIntegerMicroNats": self.loss_integer,
            "lossErrorMicroNats": self.loss_error, "divergenceMicroNats": self.divergence,
            "argmaxAgreementPpm": self.agreement,
        }, self.layer_errors) | {"positionsMeasured": self.positions}  # fmt: skip

    def as_json(self) -> dict[str, object]:
        """For people's programs."""
        return {
            "perplexityFloat": math.exp(self.loss_float), "perplexityInteger": math.exp(self.loss_integer),
            "perplexityLossPercent": self.lost * 100, "perplexityLossErrorPercent": self.loss_error * 100,
            "divergenceNats": self.divergence, "argmaxAgreement": self.agreement, "positions": self.positions,
            "layerErrors": list(self.layer_errors),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"perplexity       {math.exp(self.loss_float):.4f} float32, {math.exp(self.loss_integer):.4f} integer: "
            f"{self.lost * 100:+.3f} % (standard error {self.loss_error * 100:.3f} %)",
            f"KL to float      {self.divergence:.6f} nats a token",
            f"argmax agreement {self.agreement * 100:.2f} % of {self.positions} positions",
            _layer_line(self.layer_errors),
        ]


@dataclass(frozen=True, slots=True)
class VectorQuality:
    """How an encoder's embeddings of sentences differ from float's. `nearest`: how often float's nearest other sentence
    is the program's too; `nearest_in_five`: how often it is among the program's five nearest."""

    sentences: int
    positions: int
    cosine_mean: float
    cosine_least: float
    nearest: float
    nearest_in_five: float
    layer_errors: tuple[float, ...]

    @property
    def lost(self) -> float:
        """What the mean cosine lacks to 1."""
        return 1 - self.cosine_mean

    def as_integers(self) -> dict[str, int]:
        """For the manifest, in millionths."""
        return _micro({
            "cosineMeanPpm": self.cosine_mean, "cosineLeastPpm": self.cosine_least,
            "nearestAgreementPpm": self.nearest, "nearestInFivePpm": self.nearest_in_five,
        }, self.layer_errors) | {"sentencesMeasured": self.sentences, "positionsMeasured": self.positions}  # fmt: skip

    def as_json(self) -> dict[str, object]:
        """For people's programs."""
        return {
            "cosineMean": self.cosine_mean, "cosineLeast": self.cosine_least, "nearestAgreement": self.nearest,
            "nearestInFive": self.nearest_in_five, "sentences": self.sentences, "positions": self.positions,
            "layerErrors": list(self.layer_errors),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"cosine to float  {self.cosine_mean:.6f} in the mean of {self.sentences} sentences, "
            f"{self.cosine_least:.6f} at least",
            f"nearest sentence {self.nearest * 100:.1f} % the same, {self.nearest_in_five * 100:.1f} % among five",
            _layer_line(self.layer_errors),
        ]


Quality = TextQuality | VectorQuality


def take_samples(text: str, tokenizer: Tokenizer, shape: cip.Shape, positions: int) -> Samples:
    """Places of a text, at most so many positions to measure on, and others to calibrate on where the text is long
    enough. Raises ProgramError when it is too short or its ids are not the model's."""
    return (_windows if shape.causal else _sentences)(text, tokenizer, shape, positions)


def run_reference(checkpoint: Checkpoint, samples: Samples, progress: Progress) -> Reference:
    """The float model over what is measured."""
    layers, causal = checkpoint.shape.layers, checkpoint.shape.causal
    kept: list[np.ndarray] = []

    def on_layer(done: int, residual: np.ndarray) -> None:
        kept.append(residual[:LAYER_ROWS].copy())
        progress("float model", done, layers)

    fed = [ids[:-1] if causal else ids for ids in samples.measured]
    return Reference(forward(checkpoint, fed, on_layer), kept)


def measure(
    checkpoint: Checkpoint, reference: Reference, samples: Samples, model: Model, progress: Progress
) -> Quality:
    """A program against the float model's answers."""
    return (_measure_text if checkpoint.shape.causal else _measure_vectors)(
        checkpoint, reference, samples, model, progress
    )


def _measure_text(
    checkpoint: Checkpoint, reference: Reference, samples: Samples, model: Model, progress: Progress
) -> TextQuality:
    executor = _layer_by_layer(model, max(map(len, samples.measured)))
    head = checkpoint.rows("head.weight")
    sums, differences, begin = np.zeros(4), [], 0
    errors = _LayerErrors(reference.layers)
    for number, window in enumerate(samples.measured):
        progress("integer model", number, len(samples.measured))
        tokens, targets = window[:-1], np.array(window[1:])
        sequence = executor.new_sequence(len(tokens))
        for first in range(0, len(tokens), CHUNK_ROWS):
            chunk = tokens[first : first + CHUNK_ROWS]
            [(logits, payloads)] = executor.feed([Segment(sequence, chunk, 0)])
            errors.add(begin, payloads)
            exact = _log_softmax((reference.states[begin : begin + len(chunk)] @ head.T).astype(np.float64))
            found = _log_softmax(logits / (1 << cip.RESIDUAL_BITS))
            at = (np.arange(len(chunk)), targets[first : first + CHUNK_ROWS])
            differences.append(exact[at] - found[at])
            same = exact.argmax(1) == found.argmax(1)
            sums += [-exact[at].sum(), -found[at].sum(), (np.exp(exact) * (exact - found)).sum(), same.sum()]
            begin += len(chunk)
        sequence.free()
    progress("integer model", len(samples.measured), len(samples.measured))
    error = np.concatenate(differences).std() / math.sqrt(begin)
    means = [float(total) / begin for total in sums]
    return TextQuality(begin, means[0], means[1], float(error), max(means[2], 0.0), means[3], errors.relative())


def _measure_vectors(
    checkpoint: Checkpoint, reference: Reference, samples: Samples, model: Model, progress: Progress
) -> VectorQuality:
    executor = NumpyExecutor(model, pages_of(max(map(len, samples.measured))))
    engine, errors = Engine(executor), _LayerErrors(reference.layers)
    exact, found, begin = [], [], 0
    for number, tokens in enumerate(samples.measured):
        progress("integer model", number, len(samples.measured))
        exact.append(pooled(reference.states[begin : begin + len(tokens)]))
        vector = np.array(engine.embed(tokens, bytes(32)).vector, np.float64)
        found.append(vector / max(float(np.linalg.norm(vector)), 1.0))
        if begin < LAYER_ROWS:
            sequence = executor.new_sequence(len(tokens))
            [(_, payloads)] = executor.feed([Segment(sequence, tokens, len(tokens))])
            sequence.free()
            errors.add(begin, payloads[1:])
        begin += len(tokens)
    progress("integer model", len(samples.measured), len(samples.measured))
    ours, theirs = np.stack(found), np.stack(exact)
    cosines = (ours * theirs).sum(1)
    nearest, order = (_neighbours(vectors) for vectors in (theirs, ours))
    return VectorQuality(
        len(ours), begin, float(cosines.mean()), float(cosines.min()),
        float((nearest[:, 0] == order[:, 0]).mean()), float((nearest[:, :1] == order).any(1).mean()),
        errors.relative(),
    )  # fmt: skip


def _neighbours(vectors: np.ndarray) -> np.ndarray:
    """Indices of each vector's nearest others, the nearest first."""
    near = vectors @ vectors.T
    np.fill_diagonal(near, -2.0)
    return np.argsort(-near, axis=1, kind="stable")[:, :NEAREST]


class _LayerErrors:
    """Sums of squares of the residual and of its error, after each layer, over the first positions."""

    def __init__(self, exact: list[np.ndarray]) -> None:
        self._exact = exact
        self._squares = np.zeros((len(exact), 2))

    def add(self, begin: int, payloads: Sequence[np.ndarray]) -> None:
        """What the executor's trace holds of each layer, at the positions from `begin` on."""
        assert len(payloads) == len(self._exact), "one payload a layer"
        for layer, (payload, exact) in enumerate(zip(payloads, self._exact, strict=True)):
            expected = exact[begin : begin + len(payload)]
            wide = np.ascontiguousarray(payload[: len(expected), : 8 * exact.shape[1]]).view("<i8")
            off = wide / (1 << cip.RESIDUAL_BITS) - expected
            self._squares[layer] += [float((off * off).sum()), float((expected.astype(np.float64) ** 2).sum())]

    def relative(self) -> tuple[float, ...]:
        """RMS of the error over RMS of the residual."""
        error, whole = self._squares.T
        return tuple(np.sqrt(error / np.maximum(whole, 1e-30)).tolist())


def _layer_by_layer(model: Model, positions: int) -> NumpyExecutor:
    """The program with every layer a group of its own, so that its trace has the residual after each: grouping changes
    no arithmetic."""
    shape = dataclasses.replace(model.manifest.shape, layers_per_group=1)
    model = dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, shape=shape))
    return NumpyExecutor(model, pages_of(positions))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def _windows(text: str, tokenizer: Tokenizer, shape: cip.Shape, positions: int) -> Samples:
    """Ids of places spread over the text, each after what the tokenizer puts in front. Those for calibration lie
    between those that are measured, where there is room."""
    start = tokenizer.encode("")
    ids = tokenizer.encode(text)[len(start) :]
    _check_ids([*start, *ids], shape)
    length = min(shape.context, WINDOW_POSITIONS) + 1 - len(start)
    if len(ids) < min(length, POSITIONS_MIN):
        raise cip.ProgramError(f"a text of {len(ids)} tokens is too short to measure on, at least {POSITIONS_MIN}")
    count = max(1, min(positions // min(shape.context, WINDOW_POSITIONS), len(ids) // (2 * length)))
    step = len(ids) // (2 * count)
    places = range(0, 2 * count * step, step) if len(ids) >= 2 * length else [0, max(0, len(ids) - length)]
    windows = [[*start, *ids[i : i + length]] for i in places]
    others = windows[1::2]
    return Samples(windows[::2], others[:: -(-len(others) // CALIBRATION_WINDOWS)])


def _sentences(text: str, tokenizer: Tokenizer, shape: cip.Shape, positions: int) -> Samples:
    least, most = SENTENCE_TOKENS
    found = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        ids = tokenizer.encode(" ".join(sentence.split()))
        _check_ids(ids, shape)
        if least <= len(ids) <= min(most, shape.context):
            found.append(ids)
    if len(found) < 2 * NEAREST + 2:
        raise cip.ProgramError(f"a text with {len(found)} sentences of {least} to {most} tokens is too short to "
                               f"measure on, at least {2 * NEAREST + 2}")  # fmt: skip
    step = max(1, len(found) // (2 * SENTENCES))
    spread = found[::step]
    measured, total = [], 0
    for ids in spread[::2][:SENTENCES]:
        total += len(ids)
        if measured and total > positions:
            break
        measured.append(ids)
    return Samples(measured, spread[1::2][: len(measured)])


def _check_ids(ids: Sequence[int], shape: cip.Shape) -> None:
    if outside := [i for i in ids if not 0 <= i < shape.vocabulary]:
        raise cip.ProgramError(f"the tokenizer gives id {outside[0]}, the vocabulary has {shape.vocabulary}")


def _micro(values: dict[str, float], layer_errors: Sequence[float]) -> dict[str, int]:
    layers = {f"layer{i}ErrorPpm": error for i, error in enumerate(layer_errors)}
    return {name: round(value * 1e6) for name, value in (values | layers).items()}


def _layer_line(errors: Sequence[float]) -> str:
    worst = max(range(len(errors)), key=lambda i: errors[i])
    return (f"residual's error {errors[0] * 100:.2f} % after the first layer, {errors[-1] * 100:.2f} % after the last, "
            f"at most {errors[worst] * 100:.2f} % (layer {worst})")  # fmt: skip
