"""A float checkpoint becomes a program folder, and says what that cost in quality:

    done = import_model(Path("Qwen3-0.6B"), Path("qwen3"), text, name="qwen3-0.6b", licence="Apache-2.0")

Rotates the input side of every weight, rounds to int8 per output channel (127), ships the tables, measures perplexity,
KL divergence and argmax agreement against the float32 forward pass, and records known answers of the reference
executor. Weights go through memory some rows at a time. The folder appears whole or not at all. Floats are allowed
here because only the result, not the way to it, must agree. Owns no arithmetic of execution.
"""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference import model as files
from inference import program as cip
from inference.build import build_manifest, request, with_known_answers
from inference.checkpoint import Checkpoint, open_checkpoint
from inference.float_model import hidden_states
from inference.kv import Segment
from inference.model import TensorWriter
from inference.reference import CHUNK_ROWS, NumpyExecutor, hadamard
from inference.tables import tables
from inference.tokenizer import KIND, TOKENIZER_NAME, Tokenizer, fingerprint, open_tokenizer

BLOCK_BYTES = 32 << 20  # of float32 rows that are quantised at once
WINDOWS, WINDOW_POSITIONS, POSITIONS_MIN = 8, 512, 16  # measured at most; refused below
KNOWN_PROMPT_TOKENS, KNOWN_ANSWER_TOKENS, KNOWN_TEMPERATURE_Q16, KNOWN_TOP_K = 8, 12, 45875, 40

Progress = Callable[[str, int, int], None]
"""Told (what, done, total) as the work goes on."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What the program loses against the float model on a text. Losses and the divergence in nats a token."""

    positions: int
    loss_float: float
    loss_integer: float
    loss_error: float
    """Standard error of loss_integer - loss_float."""
    divergence: float
    agreement: float

    def as_integers(self) -> dict[str, int]:
        """For the manifest."""
        micro = {
            "lossFloatMicroNats": self.loss_float, "lossIntegerMicroNats": self.loss_integer,
            "lossErrorMicroNats": self.loss_error, "divergenceMicroNats": self.divergence,
            "argmaxAgreementPpm": self.agreement,
        }  # fmt: skip
        return {name: round(value * 1e6) for name, value in micro.items()} | {"positionsMeasured": self.positions}


@dataclass(frozen=True, slots=True)
class Imported:
    """A finished import."""

    folder: Path
    model_id: bytes
    manifest: cip.Manifest
    quality: Quality
    parameters: int


def import_model(
    source: Path, out: Path, text: str, *, name: str, licence: str, progress: Progress = lambda *_: None
) -> Imported:
    """Convert, measure, record. Raises ProgramError (naming the field that is not supported), TokenizerUnavailable or
    OSError; `out` must not exist, or be empty."""
    checkpoint = open_checkpoint(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise cip.ProgramError(f"{out} exists and is not an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        tokenizer_kind = _take_tokenizer(source, part)
        windows = _windows(text, open_tokenizer(part, tokenizer_kind), checkpoint.shape)
        linears, exponent, roots = _convert(checkpoint, part / files.TENSORS_NAME, progress)
        manifest = build_manifest(
            name, checkpoint.shape, roots, linears, exponent, tokenizer=tokenizer_kind, stop=checkpoint.stop,
            licence=licence,
        )  # fmt: skip
        manifest_path = part / files.MANIFEST_NAME
        manifest_path.write_bytes(manifest.encode())
        model = files.load(part)
        executor = NumpyExecutor(model)
        quality = measure(checkpoint, executor, windows, progress)
        progress("known answers", 0, 1)
        recorded = quality.as_integers() | {"parameters": checkpoint.parameters}
        model = dataclasses.replace(model, manifest=dataclasses.replace(manifest, quality=recorded))
        model = with_known_answers(model, _requests(windows, checkpoint.shape), executor)
        manifest_path.write_bytes(model.manifest.encode())
        part.chmod(0o755)
        os.replace(part, out)
        progress("known answers", 1, 1)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Imported(out, model.model_id, model.manifest, quality, checkpoint.parameters)


def measure(checkpoint: Checkpoint, executor: NumpyExecutor, windows: np.ndarray, progress: Progress) -> Quality:
    """Both models on the same windows of ids [windows, positions + 1], every position of them."""
    inputs, targets = windows[:, :-1], windows[:, 1:]
    layers = checkpoint.shape.layers
    states = hidden_states(checkpoint, inputs, lambda done: progress("float model", done, layers))
    head = checkpoint.rows(checkpoint.head)
    sums, differences = np.zeros(4), []
    for number, (tokens, expected, state) in enumerate(zip(inputs, targets, states, strict=True)):
        progress("integer model", number, len(windows))
        sequence = executor.new_sequence(len(tokens))
        for begin in range(0, len(tokens), CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            [(logits, _)] = executor.feed([Segment(sequence, tokens[rows].tolist(), 0)])
            exact = _log_softmax((state[rows] @ head.T).astype(np.float64))
            found = _log_softmax(logits / (1 << cip.RESIDUAL_BITS))
            at = (np.arange(len(exact)), expected[rows])
            differences.append(exact[at] - found[at])
            same = exact.argmax(1) == found.argmax(1)
            sums += [-exact[at].sum(), -found[at].sum(), (np.exp(exact) * (exact - found)).sum(), same.sum()]
        sequence.free()
    progress("integer model", len(windows), len(windows))
    count = inputs.size
    error = np.concatenate(differences).std() / math.sqrt(count)
    means = [float(total) / count for total in sums]
    return Quality(count, means[0], means[1], float(error), max(means[2], 0.0), means[3])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def _convert(
    checkpoint: Checkpoint, path: Path, progress: Progress
) -> tuple[list[cip.Linear], int, dict[str, bytes]]:
    """Write the tensors. Returns the linears, the embedding's exponent and every tensor's root."""
    shape = checkpoint.shape
    table = cip.tensor_table(shape)
    total = sum(math.prod(extent) for name, (_, extent) in table.items() if name.endswith(".weight"))
    progress("tables", 0, 1)
    with TensorWriter(path, table) as writer:
        for name, values in tables(shape, checkpoint.rope).items():
            writer.put(name, values)
        progress("tables", 1, 1)
        done = 0

        def wrote(count: int) -> None:
            nonlocal done
            done += count
            progress("weights", done, total)

        exponent = _quantise(checkpoint, ["model.embed_tokens.weight"], 1, 1.0, "embedding", writer, wrote)
        writer.put("norm.gain", _gain(checkpoint, "model.norm", shape.width))
        exponents = {"head": _quantise(checkpoint, [checkpoint.head], cip.rotation_block(shape.width), 127.0, "head",
                                       writer, wrote)}  # fmt: skip
        for i in range(shape.layers):
            theirs, ours = f"model.layers.{i}", f"layers.{i}"
            writer.put(f"{ours}.attention_norm.gain", _gain(checkpoint, f"{theirs}.input_layernorm", shape.width))
            writer.put(f"{ours}.mlp_norm.gain", _gain(checkpoint, f"{theirs}.post_attention_layernorm", shape.width))
            if shape.qk_norm:
                for part in "qk":
                    gain = _gain(checkpoint, f"{theirs}.self_attn.{part}_norm", shape.head_width)
                    writer.put(f"{ours}.{part}_norm.gain", gain)
            if shape.qkv_bias:
                parts = [checkpoint.rows(f"{theirs}.self_attn.{part}_proj.bias") for part in "qkv"]
                writer.put(f"{ours}.qkv.bias", _bias(np.concatenate(parts), f"{theirs}.self_attn"))
            sources = {
                "qkv": [f"self_attn.{part}_proj" for part in "qkv"], "out": ["self_attn.o_proj"],
                "gate_up": ["mlp.gate_proj", "mlp.up_proj"], "down": ["mlp.down_proj"],
            }  # fmt: skip
            for product, names in sources.items():
                weights = [f"{theirs}.{name}.weight" for name in names]
                # Activations count in 127ths, and attention's output once more (its values are int8 too).
                unit = 127.0 * 127.0 if product == "out" else 127.0
                block = cip.rotation_block(checkpoint.entries[weights[0]].shape[1])
                exponents[f"{ours}.{product}"] = _quantise(
                    checkpoint, weights, block, unit, f"{ours}.{product}", writer, wrote
                )
        linears = [
            cip.Linear(name, outputs, inputs, cip.ACTIVATION_MAX, exponents[name], cip.rotation_block(inputs))
            for name, (outputs, inputs) in cip.linear_shapes(shape).items()
        ]
        return linears, exponent, {name: writer.root(name) for name in table}


def _quantise(
    checkpoint: Checkpoint, sources: list[str], block: int, unit: float, target: str, writer: TensorWriter,
    wrote: Callable[[int], None],
) -> int:  # fmt: skip
    """Write `target`.weight and .scale from the rows of the sources, one below the other, each input rotated in blocks.
    Returns the exponent: weight / unit ~ q * scale * 2^-exponent."""
    scales, row = [], 0
    for rows in _row_blocks(checkpoint, sources):
        rotated = (rows.reshape(-1, block) @ hadamard(block)).reshape(rows.shape) / block
        scale = np.maximum(np.abs(rotated).max(axis=1), 1e-30) / cip.ACTIVATION_MAX
        q = np.rint(rotated / scale[:, None]).astype(np.int8)
        writer.put(f"{target}.weight", q, row)
        scales.append(scale)
        row += len(q)
        wrote(q.size)
    scale = np.concatenate(scales)
    exponent = 15 - math.floor(math.log2(scale.max() / unit))
    if not 0 <= exponent <= cip.EXPONENT_MAX:
        raise cip.ProgramError(
            f"{sources[0]}: weights of magnitude {scale.max() * cip.ACTIVATION_MAX:g} need exponent {exponent}, "
            f"allowed 0..{cip.EXPONENT_MAX}"
        )
    mantissa = np.clip(np.rint(scale / unit * 2.0**exponent), 0, 65535)
    writer.put(f"{target}.scale", mantissa.astype(np.uint16))
    return exponent


def _row_blocks(checkpoint: Checkpoint, sources: list[str]) -> Iterator[np.ndarray]:
    """float64 rows of weights, a bounded number at a time."""
    for name in sources:
        count, width = checkpoint.entries[name].shape
        step = max(1, BLOCK_BYTES // (4 * width))
        for begin in range(0, count, step):
            yield checkpoint.rows(name, begin, min(begin + step, count)).astype(np.float64)


def _gain(checkpoint: Checkpoint, name: str, width: int) -> np.ndarray:
    gain = np.rint(checkpoint.rows(f"{name}.weight").astype(np.float64) * (1 << cip.GAIN_BITS))
    limit = files.gain_limit(width)
    if np.abs(gain).max() > limit:
        raise cip.ProgramError(
            f"{name}.weight reaches {np.abs(gain).max() / (1 << cip.GAIN_BITS):g}, allowed {limit >> cip.GAIN_BITS}"
        )
    return gain.astype(np.int32)


def _bias(values: np.ndarray, name: str) -> np.ndarray:
    bias = np.rint(values.astype(np.float64) * (1 << cip.RESIDUAL_BITS))
    if np.abs(bias).max() >= 2**31:
        raise cip.ProgramError(f"{name}: a bias reaches {np.abs(values).max():g}, allowed 32767")
    return bias.astype(np.int32)


def _take_tokenizer(source: Path, part: Path) -> str:
    """Copy tokenizer.json if there is one; what the manifest calls the tokenizer."""
    if not (source / TOKENIZER_NAME).exists():
        return KIND
    kind = fingerprint(source / TOKENIZER_NAME)
    shutil.copyfile(source / TOKENIZER_NAME, part / TOKENIZER_NAME)
    return kind


def _windows(text: str, tokenizer: Tokenizer, shape: cip.Shape) -> np.ndarray:
    """Ids [windows, positions + 1] from places spread over the text, each after what the tokenizer puts in front."""
    start = tokenizer.encode("")
    ids = tokenizer.encode(text)[len(start) :]
    if outside := [i for i in (*start, *ids) if not 0 <= i < shape.vocabulary]:
        raise cip.ProgramError(f"the tokenizer gives id {outside[0]}, the vocabulary has {shape.vocabulary}")
    length = min(shape.context, WINDOW_POSITIONS) + 1 - len(start)
    if len(ids) < min(length, POSITIONS_MIN):
        raise cip.ProgramError(f"a text of {len(ids)} tokens is too short to measure on, at least {POSITIONS_MIN}")
    count = min(WINDOWS, max(1, len(ids) // length))
    step = len(ids) // count
    return np.array([[*start, *ids[i * step : i * step + length]] for i in range(count)])


def _requests(windows: np.ndarray, shape: cip.Shape) -> list[cip.KnownAnswer]:
    """One greedy request and one sampled, from the measured text."""
    prompt = min(KNOWN_PROMPT_TOKENS, windows.shape[1], max(1, shape.context // 2))
    count = min(KNOWN_ANSWER_TOKENS, shape.context - prompt)
    first, last = windows[0, :prompt].tolist(), windows[-1, -prompt:].tolist()
    return [request(first, count), request(last, count, KNOWN_TEMPERATURE_Q16, KNOWN_TOP_K)]
