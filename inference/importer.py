"""A float checkpoint becomes a program folder, and says what that cost in quality:

    done = import_model(Path("Qwen3-0.6B"), Path("qwen3"), text, name="qwen3-0.6b", licence="Apache-2.0")

Rotates the input side of every weight, rounds to int8 per output channel, ships the tables, measures against the float
forward pass, and records known answers of the reference executor. Asked for a quality (`max_loss`), it tries the
choices of precision from the cheapest to run to the dearest and keeps the first that gives it. Weights go through
memory some rows at a time. The folder appears whole or not at all. Floats are allowed here because only the result,
not the way to it, must agree. Owns no arithmetic of execution.
"""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference import model as files
from inference import program as cip
from inference.build import build_manifest, request, vector_request, with_known_answers
from inference.checkpoint import Checkpoint
from inference.float_model import forward
from inference.gguf_checkpoint import open_file
from inference.gguf_file import SUFFIX
from inference.hugging_face import open_folder
from inference.kv import pages_of
from inference.model import Model, TensorWriter
from inference.quality import (
    SENTENCE_TOKENS,
    Progress,
    Quality,
    Samples,
    measure,
    run_reference,
    take_samples,
)
from inference.reference import NumpyExecutor, tile_width
from inference.rounding import Hessian, Rounding, gptq, hessian, nearest, rotate, two_terms
from inference.tables import tables
from inference.tokenizer import KIND, TOKENIZER_NAME, fingerprint, open_tokenizer

BLOCK_BYTES = 32 << 20  # of float32 rows that are quantised at once
POSITIONS = 4096  # of a text that quality is measured on, unless told
KNOWN_PROMPT_TOKENS, KNOWN_ANSWER_TOKENS, KNOWN_TEMPERATURE_Q16, KNOWN_TOP_K = 8, 12, 45875, 40
PLAIN_BOUND, SMALL_BOUND = 127, 63


@dataclass(frozen=True, slots=True)
class Choice:
    """The precision of one product: its bound, its terms, and whether GPTQ rounds it (one term only)."""

    bound: int = PLAIN_BOUND
    terms: int = 1
    by_gptq: bool = False


@dataclass(frozen=True, slots=True)
class Scheme:
    """A choice for every product, and its name for people."""

    name: str
    choices: Mapping[str, Choice]


@dataclass(frozen=True, slots=True)
class Imported:
    """A finished import. `tried` are the schemes that were measured, in order; the last is the one that was kept."""

    folder: Path
    model_id: bytes
    manifest: cip.Manifest
    quality: Quality
    parameters: int
    tried: tuple[tuple[str, Quality], ...]


@dataclass(frozen=True, slots=True)
class _Converted:
    """One scheme's program, and the error of each product that GPTQ rounded, over the product's output."""

    scheme: Scheme
    model: Model
    errors: Mapping[str, float]


def open_checkpoint(source: Path) -> Checkpoint:
    """A Hugging Face folder or a GGUF file. Raises ProgramError (what cannot become a program, and why),
    FormatUnavailable or OSError."""
    return open_file(source) if source.suffix == SUFFIX else open_folder(source)


def import_model(
    source: Path,
    out: Path,
    text: str,
    *,
    name: str,
    licence: str,
    max_loss: float | None = None,
    positions: int = POSITIONS,
    progress: Progress = lambda *_: None,
) -> Imported:
    """Convert, measure, record. `max_loss`: the share by which a decoder's perplexity may grow, or that an encoder's
    mean cosine may lack; without it every product is plain int8. Raises ProgramError (naming the field that is not
    supported, or when nothing loses so little), TokenizerUnavailable, FormatUnavailable or OSError; `out` must not
    exist, or be empty."""
    checkpoint = open_checkpoint(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise cip.ProgramError(f"{out} exists and is not an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        tokenizer_kind = _put_tokenizer(checkpoint, part)
        samples = take_samples(text, open_tokenizer(part, tokenizer_kind), checkpoint.shape, positions)
        reference = run_reference(checkpoint, samples, progress)
        tried: list[tuple[str, Quality]] = []
        converted: _Converted | None = None
        for make_scheme in _schemes(checkpoint.shape, max_loss is not None):
            scheme = make_scheme(converted.errors if converted else {})
            step = _named(progress, scheme.name if max_loss is not None else "")
            converted = _Conversion(checkpoint, scheme, samples, step, converted).run(
                part, lambda roots, linears, exponent: build_manifest(
                    name, checkpoint.shape, roots, linears, exponent, tokenizer=tokenizer_kind, stop=checkpoint.stop,
                    licence=licence,
                )
            )  # fmt: skip
            tried.append((scheme.name, measure(checkpoint, reference, samples, converted.model, step)))
            if max_loss is None or tried[-1][1].lost <= max_loss:
                break
        else:
            found = ", ".join(f"{scheme}: {quality.lost * 100:.3f} %" for scheme, quality in tried)
            raise cip.ProgramError(f"no choice of precision loses at most {max_loss * 100:g} %; measured {found}")
        assert converted is not None, "there is at least one scheme"
        progress("known answers", 0, 1)
        quality = tried[-1][1]
        model = _with_quality(converted, quality, checkpoint.parameters, max_loss)
        model = with_known_answers(model, _requests(samples, checkpoint.shape), _small_executor(model))
        (part / files.MANIFEST_NAME).write_bytes(model.manifest.encode())
        part.chmod(0o755)
        os.replace(part, out)
        progress("known answers", 1, 1)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Imported(out, model.model_id, model.manifest, quality, checkpoint.parameters, tuple(tried))


def _schemes(shape: cip.Shape, search: bool) -> Iterator[Callable[[Mapping[str, float]], Scheme]]:
    """Choices of precision by what they cost to run, then to import. Each is made from the errors of the products in
    the one before, since two terms go where they help most."""
    products = cip.linear_shapes(shape)

    def one_term(name: str, small: bool, by_gptq: bool) -> Callable[[Mapping[str, float]], Scheme]:
        def bound(inputs: int) -> int:
            return SMALL_BOUND if small and _tiles(inputs, SMALL_BOUND) < _tiles(inputs, PLAIN_BOUND) else PLAIN_BOUND

        choices = {product: Choice(bound(inputs), 1, by_gptq) for product, (_, inputs) in products.items()}
        return lambda _: Scheme(name, choices)

    def two_term(name: str, share: float) -> Callable[[Mapping[str, float]], Scheme]:
        def make(errors: Mapping[str, float]) -> Scheme:
            worst = sorted(products, key=lambda product: -errors.get(product, math.inf))
            chosen = set(worst[: math.ceil(len(worst) * share)])
            return Scheme(name, {product: Choice(terms=2) if product in chosen else Choice(by_gptq=True)
                                 for product in products})  # fmt: skip

        return make

    if search and any(_tiles(inputs, SMALL_BOUND) < _tiles(inputs, PLAIN_BOUND) for _, inputs in products.values()):
        yield one_term("63 where it saves a tile, GPTQ", True, True)
    yield one_term("127", False, False)
    if search:
        yield one_term("127, GPTQ", False, True)
        yield two_term("two terms in the worst quarter, GPTQ", 0.25)
        yield two_term("two terms in the worse half, GPTQ", 0.5)
        yield two_term("two terms", 1.0)


def _tiles(inputs: int, bound: int) -> int:
    """Float32 products that one needs (docs/inference.md, linear)."""
    return -(-inputs // tile_width(bound))


class _Conversion:
    """One scheme's tensors written to a file. What the program before it has of the same choice is taken over."""

    def __init__(
        self, checkpoint: Checkpoint, scheme: Scheme, samples: Samples, progress: Progress, before: _Converted | None
    ) -> None:
        self._checkpoint, self._scheme, self._samples = checkpoint, scheme, samples
        self._progress, self._before = progress, before
        self._errors: dict[str, float] = dict(before.errors) if before else {}
        self._linears: list[cip.Linear] = []
        self._done, self._total = 0, 0

    def run(
        self, part: Path, describe: Callable[[dict[str, bytes], list[cip.Linear], int], cip.Manifest]
    ) -> _Converted:
        """Write manifest and tensors into the folder, in place of those that are there."""
        shape, choices = self._checkpoint.shape, self._scheme.choices
        table = cip.tensor_table(shape, {name for name, choice in choices.items() if choice.terms == 2})
        products = cip.linear_shapes(shape)
        self._total = sum(outputs * inputs for outputs, inputs in products.values()) + shape.vocabulary * shape.width
        with TensorWriter(part / files.TENSORS_NAME, table) as writer:
            self._writer = writer
            exponent = self._shared()
            todo = [name for name in products if not self._taken_over(name)]
            for name in todo:
                if not choices[name].by_gptq:
                    self._product(name, None)
            if by_gptq := [name for name in todo if choices[name].by_gptq]:
                self._calibrated(by_gptq)
            roots = {name: writer.root(name) for name in table}
        manifest = describe(roots, self._linears, exponent)
        (part / files.MANIFEST_NAME).write_bytes(manifest.encode())
        return _Converted(self._scheme, files.load(part), self._errors)

    def _shared(self) -> int:
        """All but the products: tables, gains, biases, the embedding. Returns the embedding's exponent."""
        checkpoint, writer = self._checkpoint, self._writer
        if self._before is not None:
            model = self._before.model
            products = tuple(f"{name}." for name in self._scheme.choices)
            for name, values in model.tensors.items():
                if not name.startswith(products) or name.endswith(".bias"):
                    writer.put(name, values)
            self._wrote(checkpoint.shape.vocabulary * checkpoint.shape.width)
            return model.manifest.embedding_exponent
        self._progress("tables", 0, 1)
        for name, values in tables(checkpoint.shape, checkpoint.rope, checkpoint.local_rope).items():
            writer.put(name, values)
        self._progress("tables", 1, 1)
        for name, (_, extent) in cip.tensor_table(checkpoint.shape).items():
            if name.endswith(".gain"):
                writer.put(name, _gain(checkpoint, name, extent[0]))
            elif name.endswith(".bias"):
                writer.put(name, _fixed(checkpoint.rows(name), checkpoint, name))
            elif name == "position.embedding":
                added = checkpoint.rows("position.weight") + checkpoint.rows("token_type.weight", 0, 1)
                writer.put(name, _fixed(added, checkpoint, "position.weight"))
        return self._quantise("embedding", nearest(PLAIN_BOUND), 1, 1.0, checkpoint.embedding_scale, None)

    def _taken_over(self, name: str) -> bool:
        """Copy a product that the program before has in the same choice."""
        if self._before is None or self._before.scheme.choices[name] != self._scheme.choices[name]:
            return False
        model = self._before.model
        for ending in ("weight", "weight2", "scale"):
            if f"{name}.{ending}" in model.tensors:
                self._writer.put(f"{name}.{ending}", model.tensors[f"{name}.{ending}"])
        linear = model.linear(name)
        self._linears.append(linear)
        self._wrote(linear.outputs * linear.inputs)
        return True

    def _calibrated(self, names: list[str]) -> None:
        """Products rounded by GPTQ, each when the float model comes to it with the calibration text."""
        block_of = {name: cip.rotation_block(inputs) for name, (_, inputs) in cip.linear_shapes(self._shape).items()}

        def on_product(name: str, inputs: np.ndarray) -> None:
            if name in names:
                self._product(name, hessian(inputs, block_of[name]))

        causal = self._shape.causal
        fed = [ids[:-1] if causal else ids for ids in self._samples.calibration]
        states = forward(self._checkpoint, fed, on_product=on_product)
        if "head" in names:
            on_product("head", states)

    @property
    def _shape(self) -> cip.Shape:
        return self._checkpoint.shape

    def _product(self, name: str, inputs: Hessian | None) -> None:
        choice = self._scheme.choices[name]
        rounding = two_terms(choice.bound) if choice.terms == 2 else nearest(choice.bound)
        if inputs is not None:
            rounding = gptq(choice.bound, inputs)
        outputs, width = cip.linear_shapes(self._shape)[name]
        block = cip.rotation_block(width)
        # Activations count in 127ths, and attention's output once more (its values are int8 too).
        unit = 127.0 * 127.0 if name.endswith(".out") else 127.0
        exponent = self._quantise(name, rounding, block, unit, 1.0, inputs)
        self._linears.append(cip.Linear(name, outputs, width, choice.bound, exponent, block, choice.terms))

    def _quantise(
        self, name: str, rounding: Rounding, block: int, unit: float, factor: float, inputs: Hessian | None
    ) -> int:
        """Write a tensor's weight and scale, rows of the checkpoint times `factor`, each rotated in blocks. Returns the
        exponent: weight / unit ~ q * scale * 2^-exponent."""
        scales, row, energy = [], 0, np.zeros(2)
        for rows in self._row_blocks(f"{name}.weight"):
            rotated = rotate(rows.astype(np.float64) * factor, block) / block
            first, second, scale = rounding(rotated)
            self._writer.put(f"{name}.weight", first, row)
            if second is not None:
                self._writer.put(f"{name}.weight2", second, row)
            if inputs is not None:
                energy += inputs.relative_error(rotated.astype(np.float32), (first * scale[:, None]).astype(np.float32))
            scales.append(scale)
            row += len(first)
            self._wrote(first.size)
        if inputs is not None:
            self._errors[name] = float(energy[0] / max(energy[1], 1e-30))
        scale = np.concatenate(scales)
        source, largest = self._checkpoint.weights[f"{name}.weight"][0].name, float(scale.max())
        exponent = 15 - math.floor(math.log2(largest / unit))
        if not 0 <= exponent <= cip.EXPONENT_MAX:
            raise cip.ProgramError(f"{source}: weights of magnitude {largest * PLAIN_BOUND:g} need exponent "
                                   f"{exponent}, allowed 0..{cip.EXPONENT_MAX}")  # fmt: skip
        mantissa = np.clip(np.rint(scale / unit * 2.0**exponent), 0, 65535)
        self._writer.put(f"{name}.scale", mantissa.astype(np.uint16))
        return exponent

    def _row_blocks(self, name: str) -> Iterator[np.ndarray]:
        """float32 rows of a tensor, a bounded number at a time."""
        count, *rest = self._checkpoint.extent(name)
        step = max(1, BLOCK_BYTES // (4 * math.prod(rest)))
        for begin in range(0, count, step):
            yield self._checkpoint.rows(name, begin, min(begin + step, count))

    def _wrote(self, count: int) -> None:
        self._done += count
        self._progress("weights", self._done, self._total)


def _gain(checkpoint: Checkpoint, name: str, width: int) -> np.ndarray:
    gain = np.rint(checkpoint.rows(name).astype(np.float64) * (1 << cip.GAIN_BITS))
    limit = files.gain_limit(width)
    if np.abs(gain).max() > limit:
        raise cip.ProgramError(f"{checkpoint.weights[name][0].name} reaches "
                               f"{np.abs(gain).max() / (1 << cip.GAIN_BITS):g}, "
                               f"allowed {limit >> cip.GAIN_BITS}")  # fmt: skip
    return gain.astype(np.int32)


def _fixed(values: np.ndarray, checkpoint: Checkpoint, name: str) -> np.ndarray:
    """Q16."""
    fixed = np.rint(values.astype(np.float64) * (1 << cip.RESIDUAL_BITS))
    if np.abs(fixed).max() >= 2**31:
        raise cip.ProgramError(f"{checkpoint.weights[name][0].name}: a bias reaches {np.abs(values).max():g}, "
                               "allowed 32767")  # fmt: skip
    return fixed.astype(np.int32)


def _put_tokenizer(checkpoint: Checkpoint, part: Path) -> str:
    """Write tokenizer.json if there is one; what the manifest calls the tokenizer."""
    if checkpoint.tokenizer is None:
        return KIND
    (part / TOKENIZER_NAME).write_bytes(checkpoint.tokenizer)
    return fingerprint(part / TOKENIZER_NAME)


def _named(progress: Progress, scheme: str) -> Progress:
    return (lambda step, done, total: progress(f"{scheme}: {step}", done, total)) if scheme else progress


def _with_quality(converted: _Converted, quality: Quality, parameters: int, max_loss: float | None) -> Model:
    """The model whose manifest says what was measured and chosen, in integers."""
    choices = converted.scheme.choices.values()
    recorded = quality.as_integers() | {
        "parameters": parameters, "linearsByGptq": sum(choice.by_gptq for choice in choices),
        "linearsOfTwoTerms": sum(choice.terms == 2 for choice in choices),
    }  # fmt: skip
    if max_loss is not None:
        recorded["maxLossPpm"] = round(max_loss * 1e6)
    manifest = dataclasses.replace(converted.model.manifest, quality=recorded)
    return dataclasses.replace(converted.model, manifest=manifest)


def _small_executor(model: Model) -> NumpyExecutor:
    return NumpyExecutor(model, pages_of(max(KNOWN_PROMPT_TOKENS + KNOWN_ANSWER_TOKENS, SENTENCE_TOKENS[1])))


def _requests(samples: Samples, shape: cip.Shape) -> list[cip.KnownAnswer]:
    """From the measured text, an answer greedy and one sampled, an embedding and scores; of an encoder, embeddings of
    two sentences."""
    first, last = samples.measured[0], samples.measured[-1]
    prompt = min(KNOWN_PROMPT_TOKENS, len(first), max(1, shape.context // 2))
    if not shape.causal:
        return [vector_request(cip.EMBED, first[:prompt]), vector_request(cip.EMBED, last)]
    count = min(KNOWN_ANSWER_TOKENS, shape.context - prompt)
    vectors = [vector_request(task, first[: prompt + 1]) for task in (cip.EMBED, cip.SCORE)]
    sampled = request(last[-prompt:], count, KNOWN_TEMPERATURE_Q16, KNOWN_TOP_K)
    return [request(first[:prompt], count), sampled, *vectors]
