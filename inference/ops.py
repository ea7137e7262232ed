"""What stands between two leaves of a trace: for every leaf the list of operations that computes it, by address. Owns
their order, their lengths and which elements each element reads; docs/openings.md is this file in words.

An op is a vector of results. Every element of it is one bounded computation (referee.py) over a few slices of earlier
ops of the list, of earlier leaves' payloads, of the model's tensors and of the task's tokens. The slices follow from
the element's index; only a table is read at an index that a value gives, and the rule says which. A reduction is
annotated: partial results over at most 256 inputs, then levels of at most 16, each level an op of its own.

Knows no value, no hash and no array library.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from inference import program as cip
from inference.program import Linear, Shape
from primitives.task import TEMPERATURE_ONE_Q16

TILE = 256  # inputs of a partial result; elements of an op that are hashed together
FAN_IN = 16  # partial results that one result of the next level takes in
DIGIT_BITS = 7  # the k-th largest logit is found digit by digit
DIGITS = -(-((2 * cip.RESIDUAL_MAX).bit_length()) // DIGIT_BITS)
ID_BITS = 20  # of a token id: VOCABULARY_MAX is 2^20

STATE, LOGITS, TOKEN, VECTOR = "state", "logits", "token", "vector"


class Leaf(NamedTuple):
    """A leaf of a trace: its domain, and its index within the domain (docs/inference.md, Trace)."""

    domain: str
    index: int  # type: ignore[assignment]  # a tuple's method is not missed


class Payload(NamedTuple):
    """A leaf's payload as integers of `width` bytes. Slices of it begin at a byte, not at an element."""

    leaf: Leaf
    width: int


class Tokens(NamedTuple):
    """The tokens of prompt and output, as the task has them."""


Source = int | str | Payload | Tokens  # an earlier op of the list by number, a tensor by name, ...


class Slice(NamedTuple):
    """`count` consecutive elements of a source, from `begin` on."""

    source: Source
    begin: int
    count: int  # type: ignore[assignment]


Read = Callable[[int], Slice]  # which slice an element reads, by the element's index
Look = Callable[[int, Sequence[Sequence[int]]], tuple[Slice, ...]]  # what it reads in a table, by the values read


@dataclass(frozen=True, slots=True)
class Op:
    """A vector of `length` results of `width` bytes each, little-endian and signed. `rule` names the referee's
    arithmetic, `constants` are its parameters, `linear` is the product whose record the addresses or constants come
    from. The last op of a list is the leaf itself: its elements are the payload's pieces."""

    name: str
    rule: str
    length: int
    width: int
    read: tuple[Read, ...]
    constants: tuple[int, ...] = ()
    linear: str | None = None
    look: Look | None = None

    def reads(self, element: int) -> tuple[Slice, ...]:
        """The slices that an element takes in, those of tables excepted."""
        return tuple(read(element) for read in self.read)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the addresses of a program depend on. `linears` may lack products that the op at hand has nothing to do
    with: a referee knows one."""

    shape: Shape
    embedding_exponent: int
    linears: Mapping[str, Linear]

    def linear(self, name: str) -> Linear:
        """The declaration of a product, or one that stands in its place."""
        if name in self.linears:
            return self.linears[name]
        return Linear(name, *_extents(self.shape)[name.rpartition(".")[2]], cip.ACTIVATION_MAX, 0, 1)


@lru_cache(maxsize=8)
def _extents(shape: Shape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every product of a layer, and of the head."""
    return {name.rpartition(".")[2]: extent for name, extent in cip.linear_shapes(replace(shape, layers=1)).items()}


def facts_of(manifest: cip.Manifest) -> Facts:
    """The facts of a whole manifest."""
    return Facts(manifest.shape, manifest.embedding_exponent, {linear.name: linear for linear in manifest.linears})


@dataclass(frozen=True, slots=True)
class Task:
    """What was asked and how long prompt and answer are: all that addresses and sampling depend on beside the program.
    `output` counts generated tokens, 0 for embed and score."""

    kind: str
    prompt: int
    output: int = 0
    seed: bytes = bytes(32)
    temperature_q16: int = 0
    top_k: int = 0

    @property
    def positions(self) -> int:
        """Positions that were fed."""
        return self.prompt + max(self.output - 1, 0)

    def answer(self, shape: Shape) -> int:
        """Words of the answer: tokens, or elements of the vector."""
        return {cip.GENERATE: self.output, cip.EMBED: shape.width, cip.SCORE: self.prompt - 1}[self.kind]

    @property
    def lists(self) -> dict[str, int]:
        """How many leaves there are beside the states', by domain."""
        if self.kind == cip.GENERATE:
            return {LOGITS: self.output, TOKEN: self.output}
        return {VECTOR: self.prompt - 1 if self.kind == cip.SCORE else 1}


def leaf_number(shape: Shape, task: Task, leaf: Leaf) -> int:
    """Where a leaf stands in the trace. Raises ValueError when there is no such leaf."""
    states = task.positions * shape.groups
    if not 0 <= leaf.index < (states if leaf.domain == STATE else task.lists.get(leaf.domain, 0)):
        raise ValueError(f"no leaf {leaf.domain[:16]!r} {leaf.index} in a trace of {task.positions} positions")
    if leaf.domain == STATE:
        position, group = divmod(leaf.index, shape.groups)
        return leaf.index if shape.causal else group * task.positions + position
    if leaf.domain == VECTOR:
        return states + leaf.index
    return states + 2 * leaf.index + (leaf.domain == TOKEN)


def leaf_at(shape: Shape, task: Task, number: int) -> Leaf:
    """Inverse of leaf_number. Raises ValueError when the trace has no such leaf."""
    if not 0 <= number < leaf_count(shape, task):
        raise ValueError(f"no leaf {number} in a trace of {leaf_count(shape, task)}")
    states = task.positions * shape.groups
    if number < states:
        group, position = divmod(number, task.positions)
        return Leaf(STATE, number if shape.causal else position * shape.groups + group)
    if task.kind != cip.GENERATE:
        return Leaf(VECTOR, number - states)
    index, is_token = divmod(number - states, 2)
    return Leaf(TOKEN if is_token else LOGITS, index)


def leaf_count(shape: Shape, task: Task) -> int:
    """Leaves of the trace."""
    return task.positions * shape.groups + sum(task.lists.values())


def payload_bytes(shape: Shape, task: Task, leaf: Leaf) -> int:
    """Size of a leaf's payload."""
    if leaf.domain == TOKEN:
        return 4
    if leaf.domain == LOGITS:
        return 8 * shape.vocabulary
    if leaf.domain == VECTOR:
        return 4 * (shape.width if task.kind == cip.EMBED else 1)
    return 8 * shape.width + len(layers_of(shape, leaf.index % shape.groups)) * _layer_bytes(shape)


def layers_of(shape: Shape, group: int) -> range:
    """The layers whose keys and values are in a group's leaf."""
    first = group * shape.layers_per_group
    return range(first, min(first + shape.layers_per_group, shape.layers))


def op_list(facts: Facts, task: Task, leaf: Leaf) -> list[Op]:
    """The ops that compute a leaf from what is before it, in order. Raises ValueError when there is no such leaf."""
    leaf_number(facts.shape, task, leaf)
    build = _Builder(facts)
    if leaf.domain == STATE:
        place = divmod(leaf.index, facts.shape.groups)
        _state(build, *place) if facts.shape.causal else _encoder_state(build, task, *place)
    elif leaf.domain == LOGITS:
        build.leaf([(_logits(build, task.prompt - 1 + leaf.index), 0, facts.shape.vocabulary)])
    elif leaf.domain == TOKEN:
        build.leaf([(_token(build, task, leaf.index), 0, 1)])
    elif task.kind == cip.EMBED:
        build.leaf([(_pooled(build, task.prompt), 0, facts.shape.width)])
    else:
        build.leaf([(_likelihood(build, leaf.index), 0, 1)])
    return build.ops


def _layer_bytes(shape: Shape) -> int:
    return 2 * shape.kv_heads * (shape.head_width + 4)


class _Builder:
    """A list of ops in the making. Its methods append ops and return the number of the one that holds the result."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.shape = facts, facts.shape
        self.ops: list[Op] = []

    def add(self, name: str, rule: str, length: int, width: int, *read: Read, constants: tuple[int, ...] = (),
            linear: str | None = None, look: Look | None = None) -> int:  # fmt: skip
        """One op."""
        self.ops.append(Op(name, rule, length, width, read, constants, linear, look))
        return len(self.ops) - 1

    def copy(self, name: str, rows: int, extent: int, width: int, read: Read, column_first: int = 0) -> int:
        """Rows of consecutive elements of payloads or earlier ops, kept row by row or column by column."""
        return self.add(name, "copy", rows * extent, width, read, constants=(rows, extent, column_first))

    def tree(self, name: str, rule: str, then: str, rows: int, extent: int, width: int, source: Source, *more: Read,
             constants: tuple[int, ...] = ()) -> int:  # fmt: skip
        """One result a row of [rows, extent]: `rule` over tiles of 256, `then` over 16 results at a time."""
        last = self.add(name, rule, rows * tiles(extent), width, blocks(source, extent, TILE), *more,
                        constants=constants)  # fmt: skip
        return self.rise(name, then, rows, tiles(extent), width, last)

    def rise(self, name: str, rule: str, rows: int, extent: int, width: int, last: int,
             linear: str | None = None) -> int:  # fmt: skip
        """The levels of fan-in 16 over `extent` partial results a row, until one is left."""
        level = 0
        while extent > 1:
            level += 1
            last = self.add(f"{name}.{level}", rule, rows * -(-extent // FAN_IN), width, blocks(last, extent, FAN_IN),
                            linear=linear)  # fmt: skip
            extent = -(-extent // FAN_IN)
        return last

    def largest(self, name: str, rows: int, extent: int, source: Source) -> int:
        """The largest magnitude of each row."""
        return self.tree(f"{name}.largest", "largest", "most", rows, extent, 8, source)

    def norm(self, name: str, source: int, rows: int, extent: int, gain: Read, shift: int = 0,
             bias: Read | None = None, column_first: bool = False) -> int:  # fmt: skip
        """RMS norm of each row, times the gain, shifted right, and the bias if there is one; the result's elements row
        by row, or column by column."""
        largest = self.largest(name, rows, extent, source)
        squares = self.tree(f"{name}.squares", "squares", "sum", rows, extent, 8, source,
                            row(largest, tiles(extent)))  # fmt: skip
        constants = (extent, self.shape.norm_epsilon_q32)
        inverse = self.add(f"{name}.inverse", "inverse", rows, 8, each(squares), each(largest), constants=constants)
        reads = [each(source), row(largest, extent), row(inverse, extent), gain, *([bias] if bias else [])]
        if column_first:
            reads = [turned_over(read, rows, extent) for read in reads]
        return self.add(f"{name}.normed", "normed", rows * extent, 8, *reads, constants=(shift,))

    def wide_norm(self, name: str, source: int) -> int:
        """A norm of the residual's width whose result goes on in Q16."""
        return self.norm(name, source, 1, self.shape.width, each(f"{name}.gain"), cip.HEAD_NORM_SHIFT)

    def layer_norm(self, name: str, source: int) -> int:
        """The mean is taken away before the norm, a bias is added after."""
        width = self.shape.width
        total = self.tree(f"{name}.total", "sum", "sum", 1, width, 8, source)
        centred = self.add(f"{name}.centred", "centre", width, 8, each(source), one(total), constants=(width,))
        return self.norm(name, centred, 1, width, each(f"{name}.gain"), cip.HEAD_NORM_SHIFT, each(f"{name}.bias"))

    def linear(self, name: str, source: int, fraction_bits: int) -> int:
        """A product: rotate, quantise, multiply, rescale, add the bias."""
        linear = self.facts.linear(name)
        outputs, inputs, count = linear.outputs, linear.inputs, tiles(linear.inputs)
        rotated = self.add(f"{name}.rotated", "rotate", inputs, 8, whole_block(source, linear.block), linear=name)
        largest = self.largest(name, 1, inputs, rotated)
        q = self.add(f"{name}.q", "quantise", inputs, 1, each(rotated), one(largest))
        sums = []
        for term, tensor in enumerate(("weight", "weight2")):
            # As long without a second term as with one: lengths do not depend on a record that is yet to be shown.
            part = f"{name}.sums{term + 1}"
            if term < linear.terms:
                partial = self.add(part, "dot", outputs * count, 4, blocks(q, inputs, TILE, rows=1),
                                   blocks(f"{name}.{tensor}", inputs, TILE), linear=name)  # fmt: skip
            else:
                partial = self.add(part, "nothing", outputs * count, 4, linear=name)
            sums.append(self.rise(part, "sum", outputs, count, 4, partial, name))
        reads = [each(part) for part in sums[: linear.terms]] + [each(f"{name}.scale"), one(largest)]
        biased = name.rpartition(".")[2] in self.shape.features.biases
        if biased:
            reads.append(each(f"{name}.bias"))
        return self.add(f"{name}.out", "rescale", outputs, 8, *reads, linear=name,
                        constants=(fraction_bits, linear.exponent, linear.terms, int(biased)))  # fmt: skip

    def sum_of(self, name: str, one_: int, other: int) -> int:
        """The residual after an addition."""
        return self.add(name, "add", self.shape.width, 8, each(one_), each(other))

    def leaf(self, parts: Sequence[tuple[int, int, int]]) -> None:
        """The payload's bytes from (op, first element, elements), and the leaf that they are hashed into."""
        spans, total = [], 0
        for op, first, count in parts:
            width = self.ops[op].width
            spans.append((total, op, first, width))
            total += count * width

        def source(element: int) -> Slice:
            begin, op, first, width = next(span for span in reversed(spans) if span[0] <= element)
            return Slice(op, first + (element - begin) // width, 1)

        constants = tuple(number for begin, _, _, width in spans for number in (begin, width))
        payload = self.add("payload", "byte", total, 1, source, constants=constants)
        pieces = -(-total // cip.PIECE_BYTES)
        self.add("leaf", "leaf", pieces, 32, blocks(payload, total, cip.PIECE_BYTES))


def _state(build: _Builder, position: int, group: int) -> None:
    """Residual, keys and values after a layer group."""
    s = build.shape
    x = _residual(build, position, group - 1) if group else _embedding(build, position)
    stored: list[tuple[int, int, int]] = []
    for layer in layers_of(s, group):
        name = f"layers.{layer}"
        normed = build.norm(f"{name}.attention_norm", x, 1, s.width, each(f"{name}.attention_norm.gain"))
        heads, words = _heads(build, normed, cip.NORM_BITS + cip.GAIN_BITS, layer, position)
        stored += _stored(s, heads, words)
        first = max(0, position + 1 - s.window) if s.local(layer) else 0
        out = _mix(build, heads, words, layer, range(first, position + 1), position, group)
        if s.features.post_norms:
            out = build.wide_norm(f"{name}.post_attention_norm", out)
        x = build.sum_of(f"{name}.attended", x, out)
        normed = build.norm(f"{name}.mlp_norm", x, 1, s.width, each(f"{name}.mlp_norm.gain"))
        both = build.linear(f"{name}.gate_up", normed, cip.NORM_BITS + cip.GAIN_BITS)
        gated = build.add(f"{name}.gated", "gate", s.hidden, 8, each(both), second_half(both, s.hidden),
                          look=_gate(s))  # fmt: skip
        down = build.linear(f"{name}.down", gated, cip.RESIDUAL_BITS)
        if s.features.post_norms:
            down = build.wide_norm(f"{name}.post_mlp_norm", down)
        x = build.sum_of(f"{name}.fed", x, down)
    build.leaf([(x, 0, s.width), *stored])


def _encoder_state(build: _Builder, task: Task, position: int, group: int) -> None:
    """The residual before layer `group` (after the last one) and the keys and values that this layer makes of it: what
    a position takes from the others is then in leaves of the group before."""
    s = build.shape
    if group == 0:
        place = build.add("placed", "add", s.width, 8, each(_embedding(build, position)),
                          lambda e: Slice("position.embedding", position * s.width + e, 1))  # fmt: skip
        x = build.layer_norm("embedding_norm", place)
    else:
        layer = group - 1
        name = f"layers.{layer}"
        before = _residual(build, position, layer)
        heads, words = _heads(build, before, cip.RESIDUAL_BITS, layer, position)
        out = _mix(build, heads, words, layer, range(task.prompt), None, layer)
        x = build.layer_norm(f"{name}.attention_norm", build.sum_of(f"{name}.attended", before, out))
        up = build.linear(f"{name}.up", x, cip.RESIDUAL_BITS)
        gated = build.add(f"{name}.gated", "gate", s.hidden, 8, each(up), look=_gate(s))
        down = build.linear(f"{name}.down", gated, cip.RESIDUAL_BITS)
        x = build.layer_norm(f"{name}.mlp_norm", build.sum_of(f"{name}.fed", x, down))
    stored = []
    for layer in layers_of(s, group):
        stored = _stored(s, *_heads(build, x, cip.RESIDUAL_BITS, layer, position))
    build.leaf([(x, 0, s.width), *stored])


def _stored(shape: Shape, heads: int, words: int) -> list[tuple[int, int, int]]:
    """What of a position's heads the leaf holds: those of keys and values, then their scale words."""
    pair = 2 * shape.kv_heads
    return [(heads, shape.heads * shape.head_width, pair * shape.head_width), (words, shape.heads, pair)]


def _residual(build: _Builder, position: int, group: int) -> int:
    """The residual that a group's leaf begins with."""
    s = build.shape
    payload = Payload(Leaf(STATE, position * s.groups + group), 8)
    return build.copy("residual", 1, s.width, 8, lambda e: Slice(payload, 8 * e, 1))


def _embedding(build: _Builder, position: int) -> int:
    s = build.shape

    def look(element: int, values: Sequence[Sequence[int]]) -> tuple[Slice, ...]:
        token = values[0][0]
        return Slice("embedding.weight", token * s.width + element, 1), Slice("embedding.scale", token, 1)

    return build.add("embedding", "embed", s.width, 8, lambda _: Slice(Tokens(), position, 1),
                     constants=(build.facts.embedding_exponent,), look=look)  # fmt: skip


def _heads(build: _Builder, source: int, fraction_bits: int, layer: int, position: int) -> tuple[int, int]:
    """A position's heads (queries, keys, values) as int8, and a scale word for each."""
    s, name = build.shape, f"layers.{layer}"
    width, heads, pair = s.head_width, s.heads + 2 * s.kv_heads, s.heads + s.kv_heads
    qkv = build.linear(f"{name}.qkv", source, fraction_bits)
    turning = qkv
    if s.qk_norm:
        q_gain, k_gain = f"{name}.q_norm.gain", f"{name}.k_norm.gain"

        def gain(e: int) -> Slice:
            return Slice(q_gain if e < s.heads * width else k_gain, e % width, 1)

        turning = build.norm(f"{name}.qk_norm", qkv, pair, width, gain, cip.HEAD_NORM_SHIFT)
    turned = _turn(build, f"{name}.turned", layer, turning, qkv, position)
    block = cip.rotation_block(width)

    def block_of(e: int) -> Slice:
        return Slice(turned, e // block * block, block) if e < pair * width else Slice(turned, e, 1)

    mixed = build.add(f"{name}.heads", "rotate", heads * width, 8, block_of)
    largest = build.largest(f"{name}.heads", heads, width, mixed)
    q = build.add(f"{name}.heads.q", "quantise", heads * width, 1, each(mixed), row(largest, width))
    words = build.add(f"{name}.heads.words", "word", heads, 4, each(largest))
    return q, words


def _turn(build: _Builder, name: str, layer: int, turning: int, qkv: int, position: int) -> int:
    """RoPE on queries and keys; values, and what is beyond the rotary part, pass."""
    s = build.shape
    width, half, turns = s.head_width, s.rotary // 2, (s.heads + s.kv_heads) * s.head_width
    tables = ("table.local_cos", "table.local_sin") if s.local(layer) else ("table.cos", "table.sin")

    def passes(e: int) -> bool:
        return e >= turns or e % width >= 2 * half

    def first(e: int) -> Slice:
        if passes(e):
            return Slice(turning if e < turns else qkv, e, 1)
        return Slice(turning, e - e % width + e % width % half, 1)

    def second(e: int) -> Slice:
        return Slice(turning, 0, 0) if passes(e) else Slice(turning, first(e).begin + half, 1)

    def angle(table: str) -> Read:
        def read(e: int) -> Slice:
            return Slice(table, 0, 0) if passes(e) else Slice(table, position * half + e % width % half, 1)

        return read

    length = (s.heads + 2 * s.kv_heads) * width
    return build.add(name, "turn", length, 8, first, second, *map(angle, tables), constants=(width, half))


def _mix(build: _Builder, q: int, words: int, layer: int, seen: range, own: int | None, group: int) -> int:
    """What a layer's attention adds: softmax attention of a position's queries over the keys and values at positions
    `seen`, from the leaves of a group, those of position `own` from this list; then the product `out`."""
    s, name = build.shape, f"layers.{layer}"
    width, shared, count, keys = s.head_width, s.heads // s.kv_heads, tiles(s.head_width), len(seen)
    offset = 8 * s.width + (layer - layers_of(s, group).start) * _layer_bytes(s)

    def cached(at: Callable[[int], tuple[int, int]], made: int, byte: int, size: int, skipped: int) -> Read:
        """An element of a cached vector: (which key, which element of its key and value heads) by `at`."""

        def read(e: int) -> Slice:
            key, element = at(e)
            if seen[key] == own:
                return Slice(made, skipped + element, 1)
            leaf = Leaf(STATE, seen[key] * s.groups + group)
            return Slice(Payload(leaf, size), offset + byte + size * element, 1)

        return read

    per_key, scales = s.kv_heads * width, 2 * s.kv_heads * width
    k = build.copy(f"{name}.keys", keys, per_key, 1,
                   cached(lambda e: divmod(e, per_key), q, 0, 1, s.heads * width))  # fmt: skip
    v = build.copy(f"{name}.values", keys, per_key, 1,
                   cached(lambda e: (e % keys, per_key + e // keys), q, 0, 1, s.heads * width), 1)  # fmt: skip
    k_words = build.copy(f"{name}.key_words", keys, s.kv_heads, 4,
                         cached(lambda e: divmod(e, s.kv_heads), words, scales, 4, s.heads))  # fmt: skip
    v_words = build.copy(
        f"{name}.value_words", keys, s.kv_heads, 4,
        cached(lambda e: (e % keys, s.kv_heads + e // keys), words, scales, 4, s.heads), 1,
    )  # fmt: skip

    def query(e: int) -> Slice:
        head, tile = e // (keys * count), e % count
        return Slice(q, head * width + tile * TILE, min(TILE, width - tile * TILE))

    def key(e: int) -> Slice:
        head, at, tile = e // (keys * count), e // count % keys, e % count
        return Slice(k, (at * s.kv_heads + head // shared) * width + tile * TILE, min(TILE, width - tile * TILE))

    dots = build.add(f"{name}.dots", "dot", s.heads * keys * count, 4, query, key)
    dots = build.rise(f"{name}.dots", "sum", s.heads * keys, count, 4, dots)
    scores = build.add(
        f"{name}.scores", "score", s.heads * keys, 8, each(dots), row(words, keys),
        lambda e: Slice(k_words, e % keys * s.kv_heads + e // keys // shared, 1),
        constants=cip.score_scale(width, s.score_divisor),
    )  # fmt: skip
    best = build.tree(f"{name}.best", "most", "most", s.heads, keys, 8, scores)
    e = build.add(f"{name}.exp", "exp", s.heads * keys, 4, each(scores), row(best, keys), look=_exp2_of_score)
    mass = build.tree(f"{name}.mass", "sum", "sum", s.heads, keys, 8, e)
    bits = build.tree(f"{name}.value_bits", "bits", "most", s.kv_heads, keys, 4, v_words)
    heavy = build.add(f"{name}.heavy", "weigh", s.heads * keys, 8, each(e), shared_row(v_words, keys, shared),
                      row(bits, keys * shared))  # fmt: skip
    heaviest = build.tree(f"{name}.heaviest", "most", "most", s.heads, keys, 8, heavy)
    weights = build.add(f"{name}.weights", "narrow", s.heads * keys, 2, each(heavy), row(heaviest, keys))
    along = tiles(keys)

    def weight(e: int) -> Slice:
        head, tile = e // (width * along), e % along
        return Slice(weights, head * keys + tile * TILE, min(TILE, keys - tile * TILE))

    def value(e: int) -> Slice:
        head, i, tile = e // (width * along), e // along % width, e % along
        return Slice(v, (head // shared * width + i) * keys + tile * TILE, min(TILE, keys - tile * TILE))

    sums = build.add(f"{name}.mixed", "dot", s.heads * width * along, 8, weight, value)
    sums = build.rise(f"{name}.mixed", "sum", s.heads * width, along, 8, sums)
    wide = build.add(f"{name}.attention", "attend", s.heads * width, 8, each(sums), row(mass, width),
                     row(heaviest, width), row(bits, width * shared))  # fmt: skip
    return build.linear(f"{name}.out", wide, cip.ATTENTION_BITS)


def _exp2_of_score(_: int, values: Sequence[Sequence[int]]) -> tuple[Slice, ...]:
    below = values[1][0] - values[0][0]
    return (Slice("table.exp2", exp2_index(below), 1),)


def exp2_index(power: int) -> int:
    """Entry of the table for 2^-power, power in Q16."""
    return (power & 0xFFFF) >> (16 - cip.EXP2_INDEX_BITS)


def _gate(shape: Shape) -> Look:
    """Which entry of the activation's table a value reads."""
    table, step = shape.features.gate_table, shape.features.gate_step_bits
    half = 1 << (cip.SIGMOID_INDEX_BITS - 1)

    def look(_: int, values: Sequence[Sequence[int]]) -> tuple[Slice, ...]:
        return (Slice(table, min(max((values[0][0] >> step) + half, 0), 2 * half - 1), 1),)

    return look


def _logits(build: _Builder, position: int) -> int:
    """The head's product after a position."""
    s = build.shape
    normed = build.norm("norm", _residual(build, position, s.groups - 1), 1, s.width, each("norm.gain"))
    return build.linear("head", normed, cip.NORM_BITS + cip.GAIN_BITS)


def _token(build: _Builder, task: Task, number: int) -> int:
    """Sample: the token of these logits."""
    size = build.shape.vocabulary
    payload = Payload(Leaf(LOGITS, number), 8)
    logits = build.copy("logits", 1, size, 8, lambda e: Slice(payload, 8 * e, 1))
    if task.temperature_q16:
        return _drawn(build, task, task.prompt + number, logits)
    best = build.tree("best", "rank", "most", 1, size, 8, logits)
    return build.add("token", "ranked", 1, 4, each(best))


def _pooled(build: _Builder, positions: int) -> int:
    """An embedding: the mean over all positions, at unit length."""
    s = build.shape
    width, last = s.width, s.groups - 1

    def state(position: int, element: int) -> Slice:
        return Slice(Payload(Leaf(STATE, position * s.groups + last), 8), 8 * element, 1)

    if s.causal:
        states = build.copy("states", positions, width, 8, lambda e: state(*divmod(e, width)))
        columns = build.norm("norm", states, positions, width, lambda e: Slice("norm.gain", e % width, 1),
                             cip.HEAD_NORM_SHIFT, column_first=True)  # fmt: skip
    else:
        columns = build.copy("states", positions, width, 8, lambda e: state(e % positions, e // positions), 1)
    sums = build.tree("pooled", "sum", "sum", width, positions, 8, columns)
    mean = build.add("mean", "mean", width, 8, each(sums), constants=(positions,))
    largest = build.largest("mean", 1, width, mean)
    squares = build.tree("mean.squares", "squares", "sum", 1, width, 8, mean, one(largest))
    return build.add("vector", "unit", width, 4, each(mean), one(largest), one(squares), constants=(width,))


def _likelihood(build: _Builder, position: int) -> int:
    """A score: log2 of the likelihood of the token after a position."""
    size = build.shape.vocabulary
    logits = _logits(build, position)
    best = build.tree("best", "most", "most", 1, size, 8, logits)
    powers = build.add("powers", "power", size, 4, each(logits), one(best), constants=(TEMPERATURE_ONE_Q16,))

    def look(_: int, values: Sequence[Sequence[int]]) -> tuple[Slice, ...]:
        return (Slice("table.exp2", exp2_index(values[0][0]), 1),)

    mass = build.add("mass", "halve", size, 4, each(powers), look=look)
    total = build.tree("total", "sum", "sum", 1, size, 8, mass)
    return build.add("likelihood", "likelihood", 1, 4, one(total), lambda _: Slice(Tokens(), position + 1, 1),
                     look=lambda _, values: (Slice(powers, values[1][0], 1),))  # fmt: skip


def _drawn(build: _Builder, task: Task, position: int, logits: int) -> int:
    """Inverse-CDF sampling among the top k."""
    size = build.shape.vocabulary
    count = tiles(size)
    threshold, ties = None, None
    if 0 < task.top_k < size:
        threshold = _threshold(build, task.top_k, logits)
        equal = build.add("ties", "equal", count, 4, blocks(logits, size, TILE), pair(threshold))
        ties = _before(build, "ties", equal, count)
    best = build.tree("best", "most", "most", 1, size, 8, logits)

    def look(_: int, values: Sequence[Sequence[int]]) -> tuple[Slice, ...]:
        return (Slice("table.exp2", exp2_index(power(values[0][-1], values[1][0], task.temperature_q16)), 1),)

    reads: list[Read] = [lambda e: Slice(logits, e // TILE * TILE, e % TILE + 1), one(best)]
    if threshold is not None and ties is not None:
        reads += [pair(threshold), lambda e: Slice(ties, e // TILE, 1)]
    kept = int(threshold is not None)
    mass = build.add("mass", "mass", size, 4, *reads, constants=(task.temperature_q16, kept), look=look)
    total = build.tree("total", "sum", "sum", 1, size, 8, mass)
    scaled = build.add("scaled", "scale", size, 4, each(mass), one(total))
    sums = build.add("cumulative", "sum", count, 8, blocks(scaled, size, TILE))
    before = _before(build, "cumulative", sums, count)
    whole = build.rise("whole", "sum", 1, count, 8, sums)
    words = tuple(int.from_bytes(task.seed[i : i + 4], "little") for i in range(0, 20, 4))
    target = build.add("target", "target", 1, 8, one(whole), constants=(position, *words))
    hits = build.add("hits", "hit", count, 4, blocks(scaled, size, TILE), each(before), one(target))
    hit = build.rise("hits", "most", 1, count, 4, hits)
    return build.add("token", "found", 1, 4, each(hit))


def power(logit: int, best: int, temperature_q16: int) -> int:
    """How many halvings a logit lies below the best, in Q16."""
    return (min(best - logit, cip.DIFFERENCE_MAX) * (cip.LOG2E_Q32 // temperature_q16)) >> 16


def _threshold(build: _Builder, top_k: int, logits: int) -> int:
    """The k-th largest logit, digit by digit from the top: (digits so far, how many are still to be kept of those that
    share them). At the end the digits are the logit and the rest counts its equals, of which the lowest ids stay."""
    size, bins = build.shape.vocabulary, 1 << DIGIT_BITS
    count = tiles(size)
    state: int | None = None
    for digit in range(DIGITS):
        so_far = [] if state is None else [pair(state)]
        counts = build.add(f"digit{digit}", "digit", bins * count, 4,
                           lambda e: blocks(logits, size, TILE)(e % count), *so_far,
                           constants=(digit, count))  # fmt: skip
        totals = build.rise(f"digit{digit}", "sum", bins, count, 4, counts)
        state = build.add(f"digit{digit}.state", "choose", 2, 8, whole(totals, bins), *so_far,
                          constants=(digit, top_k))  # fmt: skip
    assert state is not None
    return state


def _before(build: _Builder, name: str, source: int, count: int) -> int:
    """For each of `count` elements the sum of those before it."""
    groups = build.add(f"{name}.groups", "sum", tiles(count), 8, blocks(source, count, TILE))
    return build.add(f"{name}.before", "sums", count, 8, lambda e: Slice(groups, 0, e // TILE),
                     lambda e: Slice(source, e // TILE * TILE, e % TILE))  # fmt: skip


def tiles(extent: int) -> int:
    """Tiles of 256 that hold so many elements."""
    return -(-extent // TILE)


def each(source: Source) -> Read:
    """The element of the same index."""
    return lambda e: Slice(source, e, 1)


def one(source: Source) -> Read:
    """The only element."""
    return lambda _: Slice(source, 0, 1)


def pair(source: Source) -> Read:
    """The only two elements."""
    return lambda _: Slice(source, 0, 2)


def whole(source: Source, extent: int) -> Read:
    """All elements of a short vector."""
    return lambda _: Slice(source, 0, extent)


def row(source: Source, extent: int) -> Read:
    """The element that belongs to the row of this one, rows having `extent` elements."""
    return lambda e: Slice(source, e // extent, 1)


def shared_row(source: Source, extent: int, shared: int) -> Read:
    """The element of the same column, `shared` rows reading one."""
    return lambda e: Slice(source, e // extent // shared * extent + e % extent, 1)


def second_half(source: Source, extent: int) -> Read:
    """The element of the same index in the second half of a vector."""
    return lambda e: Slice(source, extent + e, 1)


def turned_over(read: Read, rows: int, extent: int) -> Read:
    """What the element of [rows, extent] reads, by the index of its place in [extent, rows]."""
    return lambda e: read(e % rows * extent + e // rows)


def whole_block(source: Source, size: int) -> Read:
    """The block of this size that the element lies in."""
    return lambda e: Slice(source, e // size * size, size)


def blocks(source: Source, extent: int, size: int, rows: int = 0) -> Read:
    """The e-th block of `size` elements of rows of `extent`, each row's last block shorter; with rows=1 all elements
    read the one row that there is."""
    count = -(-extent // size)

    def read(e: int) -> Slice:
        line, at = (0, e % count) if rows == 1 else divmod(e, count)
        return Slice(source, line * extent + at * size, min(size, extent - at * size))

    return read
