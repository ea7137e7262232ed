"""The canonical integer program: what a model IS, bit for bit. Owns the manifest (shape, tensors, tables, known
answers), its canonical bytes and id, the constants of every operation, and the cost formula.

Knows no executor, no file and no clock. Floats never appear here. The operations themselves are written out in
docs/inference.md and executed by reference.py; the numbers below are the ones that page names.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from primitives.hashing import keccak
from primitives.task import STOP_IDS_MAX

FORMAT = "labora-cip-1"

# Fixed point. Every carried integer stays below 2^53 and every product below 2^63; docs/inference.md has the proofs.
RESIDUAL_BITS = 16  # Q16: residual, linear outputs, logits
RESIDUAL_MAX = 1 << 40  # linear outputs and residual saturate at +-2^40 (2^24 in real numbers)
WINDOW_BITS = 22  # rows are normalised to |y| <= 2^22 before anything is divided
NORM_BITS = 14  # Q14: a normalised row before its gain
GAIN_BITS = 12  # Q12: norm gains
HEAD_NORM_SHIFT = NORM_BITS + GAIN_BITS - RESIDUAL_BITS  # a wide norm (of a head, of a sub-layer) goes on in Q16
ATTENTION_BITS = 14  # Q14, times 127: attention output
GATE_MAX = 1 << 31  # both factors of the gated product saturate here, so that it fits 2^62
ROPE_BITS = 14  # Q14 cosines and sines
EXP2_INDEX_BITS, EXP2_VALUE_BITS = 12, 30  # table of 2^-f, f in [0, 1)
SIGMOID_INDEX_BITS, SIGMOID_STEP_BITS, SIGMOID_VALUE_BITS = 14, 7, 16  # [-16, 16) in steps of 2^7 / 2^16
GELU_STEP_BITS = 6  # GELU's gates: as many entries over [-8, 8)
ROTATION_BLOCK_MAX = 64
ACTIVATION_MAX = 127
EXACT_FLOAT32 = 1 << 24  # integers of smaller magnitude are exact in float32, in any order of summation
PV_TILE_KEYS = 512  # 255 * 127 * 512 < 2^24
TERM_BITS = 7  # two-term weights are weight * 2^7 + weight2
SECOND_TERM_MAX = 63  # bound of weight2, and the least bound of the weight beside it
VECTOR_BITS = 15  # Q15: an embedding of unit length
DIFFERENCE_MAX = 1 << 28  # sampling, 4,096 nats: nothing that far below the maximum is ever drawn unless it is hot
MASS_BITS = 31  # sampling: the total mass is shifted below 2^31, so that u32 * mass fits 63 bits
NO_BAD_POSITION = 2**32 - 1

# Local bounds on what a manifest may ask for, checked before anything is allocated.
MANIFEST_BYTES_MAX = 1 << 20
VOCABULARY_MAX, CONTEXT_MAX, WIDTH_MAX, HIDDEN_MAX = 1 << 20, 1 << 17, 1 << 16, 1 << 17
LAYERS_MAX, HEADS_MAX, HEAD_WIDTH_MAX = 1024, 1024, 1040  # 1040 * 127 * 127 < 2^24: scores are one float32 tile
BIDIRECTIONAL_CONTEXT_MAX = 1 << 13  # a sequence without order is fed whole
SCORE_DIVISOR_MAX = 1 << 20
QUALITY_MAX = LAYERS_MAX + 64  # measures of the whole, and one of each layer
EPSILON_MAX = 1 << 18
EXPONENT_MAX = 63
KNOWN_ANSWERS_MAX, KNOWN_ANSWER_TOKENS_MAX = 16, 512
CHUNK_BYTES = 256 * 1024  # a tensor travels and is hashed in chunks,
TENSOR_PIECE_BYTES = 2048  # each of them a tree over pieces: what a dispute opens,
PIECE_BYTES = 4096  # as it does those of a trace's payloads
DTYPE_BYTES = {"int8": 1, "int16": 2, "uint16": 2, "int32": 4}
GENERATE, EMBED, SCORE = "generate", "embed", "score"  # what a program can be asked for


class ProgramError(ValueError):
    """A manifest or a model folder is not a program that this node can run; the message names the field."""


@dataclass(frozen=True, slots=True)
class Kind:
    """In what an architecture differs from Llama's; docs/inference.md (One layer) says what each difference does."""

    biases: tuple[str, ...] = ()
    """Products of a layer that add a bias."""
    qk_norm: bool = False
    """Every query and key head is normalised before it is turned."""
    post_norms: bool = False
    """What attention and the MLP give is normalised before it is added to the residual (sandwich norms)."""
    windows: bool = False
    """Some layers see only the last `window` positions and turn by tables of their own; scores have a divisor."""
    encoder: bool = False
    """BERT's plan: every position sees all others, a table of positions in RoPE's place, LayerNorm after each
    addition, an MLP without a gating branch, no head."""
    gate_table: str = "table.sigmoid"
    """Share of a value that the activation lets through, by the value."""
    gate_step_bits: int = SIGMOID_STEP_BITS


KINDS = {
    "bert": Kind(biases=("qkv", "out", "up", "down"), encoder=True, gate_table="table.gelu",
                 gate_step_bits=GELU_STEP_BITS),
    "gemma3": Kind(qk_norm=True, post_norms=True, windows=True, gate_table="table.gelu_tanh",
                   gate_step_bits=GELU_STEP_BITS),
    "llama": Kind(),
    "qwen2": Kind(biases=("qkv",)),
    "qwen3": Kind(qk_norm=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """Architecture of a program of one of the KINDS. Widths in elements; epsilon is real epsilon * 2^32.

    Kinds with windows: a layer i with (i + 1) % window_pattern != 0 is local, its positions see the last `window`
    ones, their own among them; scores are divided by sqrt(score_divisor). Other kinds have 0 in all three.
    """

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    rotary: int
    hidden: int
    norm_epsilon_q32: int
    layers_per_group: int
    kind: str = "llama"
    window: int = 0
    window_pattern: int = 0
    score_divisor: int = 0

    @property
    def features(self) -> Kind:
        """What the kind adds to Llama's layer."""
        return KINDS[self.kind]

    @property
    def qkv_bias(self) -> bool:
        """Whether query, key and value have biases."""
        return "qkv" in self.features.biases

    @property
    def qk_norm(self) -> bool:
        """Whether every query and key head is normalised before it is turned."""
        return self.features.qk_norm

    @property
    def causal(self) -> bool:
        """Whether a position sees only itself and those before it; only then is there a head, and text to generate."""
        return not self.features.encoder

    @property
    def groups(self) -> int:
        """State leaves of the trace a position: one a layer group; an encoder's are before each layer and after all."""
        return -(-self.layers // self.layers_per_group) if self.causal else self.layers + 1

    @property
    def qkv_rows(self) -> int:
        """Output rows of the fused query, key and value product."""
        return (self.heads + 2 * self.kv_heads) * self.head_width

    def local(self, layer: int) -> bool:
        """Whether this layer's positions see only the last `window` ones."""
        return self.window > 0 and (layer + 1) % self.window_pattern != 0

    def tasks(self) -> tuple[str, ...]:
        """What a program of this shape can be asked for."""
        return (GENERATE, EMBED, SCORE) if self.causal else (EMBED,)


@dataclass(frozen=True, slots=True)
class Cost:
    """macs = a * positions + b * sum(position + 1) + c * generated: multiply-adds by formula, never by claim."""

    a: int
    b: int
    c: int

    def prefill(self, prompt: int) -> int:
        """Multiply-adds of feeding a prompt."""
        return self.a * prompt + self.b * (prompt * (prompt + 1) // 2)

    def execution(self, prompt: int, generated: int) -> int:
        """Multiply-adds of generating: prompt + generated - 1 positions are fed."""
        return self.prefill(prompt + generated - 1) + self.c * generated


@dataclass(frozen=True, slots=True)
class Linear:
    """One product: int8 weights [outputs, inputs] with |w| <= bound, per-output scales, input rotated in blocks.
    With two terms there is a second tensor, `weight2`, and a weight is (w * 128 + w2) / 128."""

    name: str
    outputs: int
    inputs: int
    bound: int
    exponent: int
    block: int
    terms: int = 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """One artefact tensor: dtype, shape and the Merkle root over its 256 KiB chunks (model.chunk_digest)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    root: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's data, little-endian, row-major."""
        count = DTYPE_BYTES[self.dtype]
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A request and the tokens and trace root that every executor must give for it. To embed or to score there is
    only a prompt and a key, and the root binds the vector."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature_q16: int
    top_k: int
    seed: bytes
    trace_key: bytes
    tokens: tuple[int, ...]
    root: bytes
    task: str = GENERATE


@dataclass(frozen=True, slots=True)
class Manifest:
    """A program's public description; `encode` gives its canonical bytes and `model_id` its name on the chain."""

    name: str
    shape: Shape
    tokenizer: str
    stop: tuple[int, ...]
    linears: tuple[Linear, ...]
    embedding_exponent: int
    tensors: tuple[Tensor, ...]
    known_answers: tuple[KnownAnswer, ...]
    licence: str
    quality: Mapping[str, int]

    @property
    def cost(self) -> Cost:
        """Cost coefficients by the protocol's formula."""
        return cost(self.shape, self.two_term)

    @property
    def two_term(self) -> frozenset[str]:
        """Names of the products whose weights have two terms."""
        return two_term(self.linears)

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, ASCII, integers only."""
        return canonical_json(_to_json(self))

    def model_id(self) -> bytes:
        """Keccak of the canonical bytes."""
        return keccak(self.encode())


PRODUCTS = ("qkv", "out", "up", "down", "head")
"""The products of a layer (`up`: or gate_up) and the head, in the order in which a program's record counts them."""


def cost(shape: Shape, two_term: Collection[str] = ()) -> Cost:
    """a: all products of the layers, once a term, and the windows of local layers as if always full; b: scores and
    weighted values of the others, twice where every position sees all; c: the head, needed at scored or generated
    positions only."""
    return counted_cost(shape, second_terms(two_term))


def counted_cost(shape: Shape, seconds: Sequence[int]) -> Cost:
    """The cost from how many products of each sort have a second term (PRODUCTS): a chain knows no more of them."""
    (qkv, out, up, down, *head) = linear_shapes(replace(shape, layers=1)).values()
    layer = [outputs * inputs for outputs, inputs in (qkv, out, up, down)]
    seen = 2 * shape.heads * shape.head_width  # multiply-adds a layer and a key
    local = sum(shape.local(layer) for layer in range(shape.layers))
    return Cost(
        a=sum(macs * (shape.layers + more) for macs, more in zip(layer, seconds[:-1], strict=True))
        + local * seen * min(shape.window, shape.context),
        b=(shape.layers - local) * seen * (1 if shape.causal else 2),
        c=sum(outputs * inputs * (1 + seconds[-1]) for outputs, inputs in head),
    )


def second_terms(two_term: Iterable[str]) -> tuple[int, ...]:
    """How many of these products there are of each sort, in the order of PRODUCTS."""
    sorts = [name.rpartition(".")[2].removeprefix("gate_") for name in two_term]
    return tuple(sorts.count(sort) for sort in PRODUCTS)


def two_term(linears: Iterable[Linear]) -> frozenset[str]:
    """Names of the products whose weights have two terms."""
    return frozenset(linear.name for linear in linears if linear.terms == 2)


def rotation_block(width: int, block_max: int = ROTATION_BLOCK_MAX) -> int:
    """Largest power of two that divides the width, at most block_max; 1 means no rotation."""
    return min(width & -width, block_max)


def score_scale(head_width: int, divisor: int = 0) -> tuple[int, int]:
    """(mantissa in [2^14, 2^15), exponent) of log2(e) / (sqrt(divisor) * block * 127^2), by integers alone. The
    divisor is the head's width unless the shape has its own.

    The mantissa is the floor of sqrt(LOG2E_SQUARED_Q60 * 4^k / (divisor * block^2 * 127^4)).
    """
    block = rotation_block(head_width)
    exponent = 0
    while True:
        below = (divisor or head_width) * block**2 * 127**4
        mantissa = integer_sqrt((LOG2E_SQUARED_Q60 << (2 * exponent)) // (below << 60))
        if mantissa >= 1 << 14:
            return mantissa, exponent
        exponent += 1


LOG2E_Q32 = 6196328018  # floor(log2(e) * 2^32)
LOG2E_SQUARED_Q60 = 2399655057223005246  # floor(log2(e)^2 * 2^60)


def integer_sqrt(value: int) -> int:
    """Floor of the square root of a non-negative integer (Newton)."""
    if value < 2:
        return value
    guess = 1 << ((value.bit_length() + 1) // 2)
    while (better := (guess + value // guess) // 2) < guess:
        guess = better
    return guess


def linear_shapes(shape: Shape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every product by name."""
    attention_width = shape.heads * shape.head_width
    layer = {
        "qkv": (shape.qkv_rows, shape.width),
        "out": (shape.width, attention_width),
        **({"gate_up": (2 * shape.hidden, shape.width)} if shape.causal else {"up": (shape.hidden, shape.width)}),
        "down": (shape.width, shape.hidden),
    }
    shapes = {f"layers.{i}.{name}": extent for i in range(shape.layers) for name, extent in layer.items()}
    return shapes | ({"head": (shape.vocabulary, shape.width)} if shape.causal else {})


def tensor_table(shape: Shape, two_term: Collection[str] = ()) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of every tensor that a program of this shape has, by name: exactly these, no more."""
    features, width = shape.features, shape.width
    table: dict[str, tuple[str, tuple[int, ...]]] = {
        "embedding.weight": ("int8", (shape.vocabulary, width)),
        "embedding.scale": ("uint16", (shape.vocabulary,)),
        "table.exp2": ("int32", (1 << EXP2_INDEX_BITS,)),
        features.gate_table: ("int32", (1 << SIGMOID_INDEX_BITS,)),
    }
    norms = ["attention_norm", "mlp_norm"]
    if features.post_norms:
        norms += ["post_attention_norm", "post_mlp_norm"]
    norms = [f"layers.{i}.{norm}" for i in range(shape.layers) for norm in norms]
    norms.append("norm" if shape.causal else "embedding_norm")
    for norm in norms:
        table[f"{norm}.gain"] = ("int32", (width,))
        if features.encoder:
            table[f"{norm}.bias"] = ("int32", (width,))
    if features.encoder:
        table["position.embedding"] = ("int32", (shape.context, width))
    else:
        angles = ["cos", "sin", *(["local_cos", "local_sin"] if features.windows else [])]
        table |= {f"table.{name}": ("int16", (shape.context, shape.rotary // 2)) for name in angles}
    if features.qk_norm:
        heads = [f"layers.{i}.{part}_norm.gain" for i in range(shape.layers) for part in "qk"]
        table |= dict.fromkeys(heads, ("int32", (shape.head_width,)))
    for name, (outputs, inputs) in linear_shapes(shape).items():
        table[f"{name}.weight"] = ("int8", (outputs, inputs))
        table[f"{name}.scale"] = ("uint16", (outputs,))
        if name in two_term:
            table[f"{name}.weight2"] = ("int8", (outputs, inputs))
        if name.rpartition(".")[2] in features.biases:
            table[f"{name}.bias"] = ("int32", (outputs,))
    return dict(sorted(table.items()))


def check_shape(shape: Shape) -> None:
    """Raises ProgramError when an extent is out of bounds or two extents do not fit each other."""
    bounds = {
        "vocabulary": (2, VOCABULARY_MAX),
        "context": (2, CONTEXT_MAX),
        "width": (1, WIDTH_MAX),
        "layers": (1, LAYERS_MAX),
        "heads": (1, HEADS_MAX),
        "kv_heads": (1, HEADS_MAX),
        "head_width": (1, HEAD_WIDTH_MAX),
        "rotary": (0, HEAD_WIDTH_MAX),
        "hidden": (1, HIDDEN_MAX),
        "norm_epsilon_q32": (1, EPSILON_MAX),
        "layers_per_group": (1, LAYERS_MAX),
    }
    for name, (low, high) in bounds.items():
        if not low <= getattr(shape, name) <= high:
            raise ProgramError(f"shape.{name} is {getattr(shape, name)}, allowed {low}..{high}")
    if shape.kind not in KINDS:
        raise ProgramError(f"architecture.kind {shape.kind[:40]!r} is not supported, there are {sorted(KINDS)}")
    _check_kind(shape)
    if shape.heads % shape.kv_heads:
        raise ProgramError(f"shape.heads {shape.heads} is no multiple of kv_heads {shape.kv_heads}")
    if shape.rotary % 2 or shape.rotary > shape.head_width:
        raise ProgramError(f"shape.rotary {shape.rotary} must be even and at most head_width {shape.head_width}")
    if shape.heads * shape.head_width > WIDTH_MAX:
        raise ProgramError(f"heads * head_width {shape.heads * shape.head_width} exceeds {WIDTH_MAX}")


def _check_kind(shape: Shape) -> None:
    """The extents that only some kinds have, and those that some kinds fix."""
    features, extents = shape.features, {"window": CONTEXT_MAX, "window_pattern": LAYERS_MAX,
                                         "score_divisor": SCORE_DIVISOR_MAX}  # fmt: skip
    for name, most in extents.items():
        low, high = (1, most) if features.windows else (0, 0)
        if not low <= getattr(shape, name) <= high:
            raise ProgramError(f"shape.{name} is {getattr(shape, name)}, kind {shape.kind} allows {low}..{high}")
    if features.encoder and (shape.rotary, shape.layers_per_group) != (0, 1):
        raise ProgramError(f"shape.rotary {shape.rotary} must be 0 and shape.layers_per_group "
                           f"{shape.layers_per_group} 1 in kind {shape.kind}")  # fmt: skip
    if features.encoder and shape.context > BIDIRECTIONAL_CONTEXT_MAX:
        raise ProgramError(f"shape.context is {shape.context}, kind {shape.kind} allows {BIDIRECTIONAL_CONTEXT_MAX}")


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def parse_json(data: bytes) -> Any:
    """JSON from outside. Raises ValueError.

    Not the json module: it recurses as deep as the recursion limit allows, which py-evm raises beyond what the C stack
    holds, so that 100,000 brackets would kill the process; orjson stops at 1,024.
    """
    return orjson.loads(data)


def decode_manifest(data: bytes) -> Manifest:
    """The manifest of these bytes. Raises ProgramError unless they are canonical, complete and within bounds."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ProgramError(f"manifest of {len(data)} bytes exceeds {MANIFEST_BYTES_MAX}")
    try:
        value = parse_json(data)
    except ValueError as error:
        raise ProgramError(f"manifest is not canonical JSON: {error}") from error
    fields = _object(value, "manifest", {
        "format", "name", "architecture", "tokenizer", "stop", "linears", "embeddingExponent", "tensors",
        "knownAnswers", "licence", "quality",
    })  # fmt: skip
    if fields["format"] != FORMAT:
        raise ProgramError(f"manifest.format is {fields['format']!r}, this node runs {FORMAT!r}")
    shape = _shape(fields["architecture"])
    linears = _linears(fields["linears"], shape)
    manifest = Manifest(
        name=_text(fields["name"], "name", 64),
        shape=shape,
        tokenizer=_text(fields["tokenizer"], "tokenizer", 64),
        stop=tuple(_ids(fields["stop"], "stop", shape.vocabulary, STOP_IDS_MAX)),
        linears=linears,
        embedding_exponent=_integer(fields["embeddingExponent"], "embeddingExponent", 0, EXPONENT_MAX),
        tensors=_tensors(fields["tensors"], shape, two_term(linears)),
        known_answers=_known_answers(fields["knownAnswers"], shape),
        licence=_text(fields["licence"], "licence", 256),
        quality=_quality(fields["quality"]),
    )
    if manifest.encode() != data:
        raise ProgramError("manifest bytes are not in canonical form (sorted keys, no spaces, ASCII)")
    return manifest


def _to_json(m: Manifest) -> dict[str, Any]:
    s = m.shape
    return {
        "format": FORMAT,
        "name": m.name,
        "architecture": {"kind": s.kind}
        | {theirs: getattr(s, ours) for theirs, ours in _architecture_fields(s.features).items()},
        "tokenizer": m.tokenizer,
        "stop": list(m.stop),
        "linears": {
            linear.name: {
                "bound": linear.bound, "exponent": linear.exponent, "block": linear.block, "terms": linear.terms,
            }
            for linear in m.linears
        },
        "embeddingExponent": m.embedding_exponent,
        "tensors": {t.name: {"dtype": t.dtype, "shape": list(t.shape), "root": t.root.hex()} for t in m.tensors},
        "knownAnswers": [_known_answer_json(known) for known in m.known_answers],
        "licence": m.licence,
        "quality": dict(m.quality),
    }


def _known_answer_json(known: KnownAnswer) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "task": known.task, "prompt": list(known.prompt), "traceKey": known.trace_key.hex(), "root": known.root.hex(),
    }  # fmt: skip
    if known.task == GENERATE:
        fields |= {
            "maxTokens": known.max_tokens, "temperatureQ16": known.temperature_q16, "topK": known.top_k,
            "seed": known.seed.hex(), "tokens": list(known.tokens),
        }  # fmt: skip
    return fields


def _object(value: Any, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != keys:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ProgramError(f"{where} must have exactly the keys {sorted(keys)}, has {str(found)[:400]}")
    return value


def _integer(value: Any, where: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ProgramError(f"{where} is {str(value)[:80]}, allowed {low}..{high}")
    return value


def _text(value: Any, where: str, length_max: int) -> str:
    if not isinstance(value, str) or len(value) > length_max or not value.isascii() or not value.isprintable():
        raise ProgramError(f"{where} must be printable ASCII of at most {length_max} characters")
    return value


def _hex32(value: Any, where: str) -> bytes:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ProgramError(f"{where} must be 64 lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _ids(value: Any, where: str, vocabulary: int, count_max: int) -> list[int]:
    if not isinstance(value, list) or len(value) > count_max:
        raise ProgramError(f"{where} must be a list of at most {count_max} token ids{_found(value)}")
    return [_integer(item, f"{where}[{i}]", 0, vocabulary - 1) for i, item in enumerate(value)]


def _found(value: Any) -> str:
    return f", not {len(value)}" if isinstance(value, list) else ""


def _architecture_fields(features: Kind) -> dict[str, str]:
    """The manifest's name of every extent of a shape of this kind."""
    names = {
        "vocabulary": "vocabulary", "context": "context", "width": "width", "layers": "layers", "heads": "heads",
        "kvHeads": "kv_heads", "headWidth": "head_width", "rotary": "rotary", "hidden": "hidden",
        "normEpsilonQ32": "norm_epsilon_q32", "layersPerGroup": "layers_per_group",
    }  # fmt: skip
    windows = {"window": "window", "windowPattern": "window_pattern", "scoreDivisor": "score_divisor"}
    return names | (windows if features.windows else {})


def _shape(value: Any) -> Shape:
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ProgramError(f"architecture.kind {str(kind)[:40]!r} is not supported, there are {sorted(KINDS)}")
    names = _architecture_fields(KINDS[kind])
    fields = _object(value, "architecture", {"kind", *names})
    shape = Shape(**{ours: _integer(fields[theirs], f"architecture.{theirs}", 0, 1 << 30)
                     for theirs, ours in names.items()}, kind=kind)  # fmt: skip
    check_shape(shape)
    return shape


def _linears(value: Any, shape: Shape) -> tuple[Linear, ...]:
    extents = linear_shapes(shape)
    fields = _object(value, "linears", set(extents))
    linears = []
    for name, (outputs, inputs) in sorted(extents.items()):
        item = _object(fields[name], f"linears.{name}", {"bound", "exponent", "block", "terms"})
        block = _integer(item["block"], f"linears.{name}.block", 1, ROTATION_BLOCK_MAX)
        if block & (block - 1) or inputs % block:
            raise ProgramError(f"linears.{name}.block {block} must be a power of two that divides {inputs}")
        terms = _integer(item["terms"], f"linears.{name}.terms", 1, 2)
        least = SECOND_TERM_MAX if terms == 2 else 1
        bound = _integer(item["bound"], f"linears.{name}.bound", least, ACTIVATION_MAX)
        exponent = _integer(item["exponent"], f"linears.{name}.exponent", 0, EXPONENT_MAX)
        linears.append(Linear(name, outputs, inputs, bound, exponent, block, terms))
    return tuple(linears)


def _tensors(value: Any, shape: Shape, two_term: Collection[str]) -> tuple[Tensor, ...]:
    table = tensor_table(shape, two_term)
    fields = _object(value, "tensors", set(table))
    tensors = []
    for name, (dtype, extent) in table.items():
        item = _object(fields[name], f"tensors.{name}", {"dtype", "shape", "root"})
        if item["dtype"] != dtype or item["shape"] != list(extent):
            raise ProgramError(
                f"tensors.{name} is {str(item['dtype'])[:16]}{str(item['shape'])[:80]}, "
                f"the shape asks for {dtype}{list(extent)}"
            )
        tensors.append(Tensor(name, dtype, extent, _hex32(item["root"], f"tensors.{name}.root")))
    return tuple(tensors)


def _known_answers(value: Any, shape: Shape) -> tuple[KnownAnswer, ...]:
    if not isinstance(value, list) or len(value) > KNOWN_ANSWERS_MAX:
        raise ProgramError(f"knownAnswers must be a list of at most {KNOWN_ANSWERS_MAX}")
    return tuple(_known_answer(entry, f"knownAnswers[{i}]", shape) for i, entry in enumerate(value))


def _known_answer(value: Any, where: str, shape: Shape) -> KnownAnswer:
    task = value.get("task") if isinstance(value, dict) else None
    if task not in shape.tasks():
        raise ProgramError(f"{where}.task is {str(task)[:40]!r}, kind {shape.kind} has {', '.join(shape.tasks())}")
    request = {"maxTokens", "temperatureQ16", "topK", "seed", "tokens"} if task == GENERATE else set()
    item = _object(value, where, {"task", "prompt", "traceKey", "root"} | request)
    prompt = tuple(_ids(item["prompt"], f"{where}.prompt", shape.vocabulary, KNOWN_ANSWER_TOKENS_MAX))
    if not (2 if task == SCORE else 1) <= len(prompt) <= shape.context:
        raise ProgramError(f"{where}: a prompt of {len(prompt)} tokens to {task} with a context of {shape.context}")
    trace_key, root = (_hex32(item[field], f"{where}.{field}") for field in ("traceKey", "root"))
    if task != GENERATE:
        return vector_answer(task, prompt, trace_key, root)
    tokens = tuple(_ids(item["tokens"], f"{where}.tokens", shape.vocabulary, KNOWN_ANSWER_TOKENS_MAX))
    limit = _integer(item["maxTokens"], f"{where}.maxTokens", 1, KNOWN_ANSWER_TOKENS_MAX)
    if not 1 <= len(tokens) <= limit or len(prompt) + limit > shape.context:
        raise ProgramError(f"{where}: {len(prompt)} + {len(tokens)} tokens do not fit the request or the context")
    return KnownAnswer(
        prompt=prompt,
        max_tokens=limit,
        temperature_q16=_integer(item["temperatureQ16"], f"{where}.temperatureQ16", 0, 2**32 - 1),
        top_k=_integer(item["topK"], f"{where}.topK", 0, 2**32 - 1),
        seed=_hex32(item["seed"], f"{where}.seed"),
        trace_key=trace_key,
        tokens=tokens,
        root=root,
    )


def vector_answer(task: str, prompt: tuple[int, ...], trace_key: bytes, root: bytes = b"") -> KnownAnswer:
    """A known answer to EMBED or SCORE."""
    return KnownAnswer(prompt, 0, 0, 0, b"", trace_key, (), root, task)


def _quality(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > QUALITY_MAX:
        raise ProgramError(f"quality must be an object of at most {QUALITY_MAX} integers")
    return {_text(k, "quality", 64): _integer(v, f"quality.{k[:64]}", -(2**63), 2**63 - 1) for k, v in value.items()}
