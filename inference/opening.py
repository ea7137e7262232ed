"""Commitments to what ops.py lists, and openings of one element: what a dispute posts and what its judge reads. Owns
the bytes of op roots, of a program's records and of openings; docs/openings.md has them.

    an op's root: keccak Merkle root over tiles of 256 elements
    a list's root: over the roots of its ops but the last, which is the leaf of the trace itself
    a program's root: over a record of its shape, of each product and of each tensor
    an opening: those records that the element needs, the element as it is committed, and every value that it reads,
    with their paths, in the order in which ops.py names them, and nothing that follows from the address

Knows no arithmetic (referee.py) and no array library. Bytes from outside are hostile: `judge` raises InvalidOpening, or
says whether the element follows from what it reads.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from inference import program as cip
from inference.ops import (
    TILE,
    TOKEN,
    VECTOR,
    Facts,
    Leaf,
    Op,
    Payload,
    Slice,
    Task,
    Tokens,
    facts_of,
    layers_of,
    leaf_count,
    leaf_number,
    op_list,
    payload_bytes,
)
from inference.program import CHUNK_BYTES, DTYPE_BYTES, PIECE_BYTES, TENSOR_PIECE_BYTES, Linear, Manifest, Shape, Tensor
from inference.referee import InvalidOpening, recompute
from primitives import merkle
from primitives.hashing import keccak

OPENING_BYTES_MAX = 16 * 1024  # of one message in a dispute
PAGE_LEVELS = 8  # a node is shown by its descendants eight levels below: at most 256 hashes
TOKEN_BYTES, TOKEN_CHUNK_BYTES = 4, 4 * merkle.TOKENS_CHUNK
RECORD_BYTES_MAX, RECORD_PATH_MAX = 512, 24
GROUP_LAYERS_MAX = 8  # of one leaf: some 770 operations, whose list a judge builds in 4 ms
SHAPE_FIELDS = tuple(field.name for field in dataclasses.fields(Shape) if field.name != "kind")
TENSOR_DOMAIN = b"labora/tensor"
TENSOR_BYTES_MAX = 1 << 48  # more than any shape has: a record may claim it, and two referees read it alike
Hash = Callable[[bytes], bytes]
Tree = Sequence[Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Statement:
    """What is undisputed when a leaf is disputed: the program's root, the trace's root and key, and the task."""

    program: bytes
    trace: bytes
    trace_key: bytes
    task: Task
    prompt_root: bytes
    output_root: bytes


class Execution:
    """Everything that an execution committed, held by somebody who has redone it: what openings are taken from."""

    def __init__(self, manifest: Manifest, tensors: Mapping[str, bytes | memoryview], task: Task, trace_key: bytes,
                 prompt: Sequence[int], output: Sequence[int],
                 payload: Callable[[Leaf], bytes]) -> None:  # fmt: skip
        self.manifest, self.tensors, self.task, self.trace_key = manifest, tensors, task, trace_key
        self.prompt, self.output, self.payload = prompt, output, payload
        self.facts = facts_of(manifest)
        self._records = _Records(manifest)
        self._pieces: dict[tuple[str, int], list[list[bytes]]] = {}

    @cached_property
    def trace(self) -> list[list[bytes]]:
        """The trace's tree."""
        leaves = [self.leaf_hash(leaf) for leaf in trace_leaves(self.manifest.shape, self.task)]
        return _tree(leaves, sha256)

    @cached_property
    def statement(self) -> Statement:
        """What the chain knows of it."""
        roots = merkle.tokens_root(self.prompt), merkle.tokens_root(self.output)
        return Statement(program_root(self.manifest), self.trace[-1][0], self.trace_key, self.task, *roots)

    def leaf_hash(self, leaf: Leaf) -> bytes:
        """A leaf of the trace."""
        payload = self.payload(leaf)
        content = payload if len(payload) <= PIECE_BYTES else self.pieces(leaf)[-1][0]
        return leaf_hash(self.trace_key, leaf, content)

    def pieces(self, leaf: Leaf) -> list[list[bytes]]:
        """The tree over a payload's pieces."""
        payload = self.payload(leaf)
        return _tree([sha256(b"\2" + part) for part in cut(payload, PIECE_BYTES)], sha256)

    def record(self, sort: str, name: str) -> tuple[bytes, list[bytes], int]:
        """A record, its path, and a number whose bit i says that the i-th sibling is on the left."""
        return self._records.find(sort, name)

    def chunk(self, tensor: Tensor, index: int) -> list[list[bytes]]:
        """The tree over the pieces of a tensor's chunk."""
        key = tensor.name, index
        if key not in self._pieces:
            data = bytes(self.tensors[tensor.name][index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
            self._pieces[key] = merkle.levels([merkle.digest(part) for part in cut(data, TENSOR_PIECE_BYTES)])
        return self._pieces[key]

    def chunks(self, tensor: Tensor) -> list[list[bytes]]:
        """The tree over a tensor's chunks."""
        count = -(-tensor.size_bytes // CHUNK_BYTES)
        return merkle.levels([chunk_hash(tensor, i, self.chunk(tensor, i)[-1][0]) for i in range(count)])


class Working:
    """The ops of one leaf with their results: what a party to a dispute posts from. `vectors` are the elements of every
    op but the last, little-endian."""

    def __init__(self, execution: Execution, leaf: Leaf, vectors: Sequence[bytes]) -> None:
        self.execution, self.leaf, self.vectors = execution, leaf, vectors
        self.ops = op_list(execution.facts, execution.task, leaf)
        self._trees: dict[int, list[list[bytes]]] = {}

    def tree(self, number: int) -> list[list[bytes]]:
        """The tree over an op's tiles."""
        if number not in self._trees:
            self._trees[number] = op_tree(self.vectors[number], self.ops[number].width)
        return self._trees[number]

    @cached_property
    def roots(self) -> list[bytes]:
        """The root of each op but the last."""
        return [self.tree(number)[-1][0] for number in range(len(self.ops) - 1)]

    @cached_property
    def list_tree(self) -> list[list[bytes]]:
        """The tree over the roots."""
        return merkle.levels([merkle.digest(root) for root in self.roots])


class Reading(NamedTuple):
    """A slice that an element read; of an op also how many elements it has, of how many bytes."""

    slice: Slice
    length: int = 0
    width: int = 0


class Judgement(NamedTuple):
    """What a judge found, and the address that it went by: the op as the records have it, and the list's length."""

    holds: bool
    op: Op
    listed: int
    """Ops that the list's root is over."""
    reads: tuple[Reading, ...]


def judge(statement: Statement, operations: bytes, leaf: Leaf, number: int, element: int, opening: bytes) -> bool:
    """Whether an element holds (`examine`). Raises InvalidOpening."""
    return examine(statement, operations, leaf, number, element, opening).holds


def examine(
    statement: Statement, operations: bytes, leaf: Leaf, number: int, element: int, opening: bytes
) -> Judgement:
    """Whether one element of op `number` of a leaf's list, whose root is `operations`, is what its inputs give, and of
    the last op of a token or a vector also what the answer holds. Everything in the opening is checked against the
    statement and that root. Raises InvalidOpening."""
    if len(opening) > OPENING_BYTES_MAX:
        raise InvalidOpening(f"an opening of {len(opening)} bytes exceeds {OPENING_BYTES_MAX}")
    tape = _Reader(opening)
    walk = _Walk(tape, statement, leaf, operations, None)
    op = walk.op(number, element)
    committed = walk.committed(op, number, element)
    computed = recompute(op, element, walk.values(op, element))
    answered = walk.answered(op, element)
    tape.end()
    if answered not in (None, computed):
        return Judgement(False, op, walk.listed, tuple(walk.reads))
    if op.rule == "leaf":
        computed = walk.piece_hash(computed)
    return Judgement(committed == computed, op, walk.listed, tuple(walk.reads))


def open_element(working: Working, number: int, element: int) -> bytes:
    """The opening of one element of op `number`, for `judge`."""
    tape = _Writer()
    _go_through(tape, working.execution.statement, working, number, element)
    return bytes(tape.data)


def opening_sizes(manifest: Manifest, task: Task, leaf: Leaf, addresses: Iterable[tuple[int, int]]) -> list[int]:
    """Bytes of the openings of (op, element) addresses: nothing is computed or read, tables are taken as read at their
    first entry."""
    statement = Statement(b"", b"", b"", task, b"", b"")
    working = Working(Execution(manifest, {}, task, bytes(32), (), (), lambda _: b""), leaf, ())
    sizes = []
    for number, element in addresses:
        tape = _Counter()
        _go_through(tape, statement, working, number, element)
        sizes.append(tape.count)
    return sizes


def _go_through(tape: "_Tape", statement: Statement, working: Working, number: int, element: int) -> None:
    walk = _Walk(tape, statement, working.leaf, b"", working)
    op = walk.op(number, element)
    walk.committed(op, number, element)
    walk.values(op, element)
    walk.answered(op, element)


# Commitments


def leaf_hash(trace_key: bytes, leaf: Leaf, content: bytes) -> bytes:
    """A leaf of a trace, from its payload or, past 4,096 bytes, from the root of the payload's pieces."""
    domain = f"labora/{leaf.domain}".encode().ljust(16, b"\0")
    return sha256(b"\0" + domain + trace_key + leaf.index.to_bytes(8, "big") + content)


def chunk_hash(tensor: Tensor, index: int, root: bytes) -> bytes:
    """The leaf of a tensor's chunk, from the root of its pieces (model.chunk_digest)."""
    extent = ",".join(map(str, tensor.shape))
    head = TENSOR_DOMAIN + f"|{tensor.name}|{tensor.dtype}|{extent}|".encode()
    return merkle.digest(head + index.to_bytes(8, "big") + root)


def op_tree(vector: bytes, width: int) -> list[list[bytes]]:
    """The tree over an op's tiles of 256 elements."""
    return merkle.levels([merkle.digest(tile) for tile in cut(vector, TILE * width)])


def list_root(roots: Sequence[bytes]) -> bytes:
    """Root of a list of ops, from the roots of all but the last."""
    return merkle.root_of([merkle.digest(root) for root in roots])


def program_root(manifest: Manifest) -> bytes:
    """Root over a program's records."""
    return _Records(manifest).tree[-1][0]


def shape_record(shape: Shape, embedding_exponent: int, two_term: Iterable[str] = ()) -> bytes:
    """`shape|kind|`, then the extents in the order of program.Shape, the embedding's exponent, and of how many products
    of each sort (program.PRODUCTS) the weights have two terms, each a u32."""
    numbers = [*(getattr(shape, name) for name in SHAPE_FIELDS), embedding_exponent, *cip.second_terms(two_term)]
    return f"shape|{shape.kind}|".encode() + b"".join(number.to_bytes(4, "big") for number in numbers)


class Claims(NamedTuple):
    """What a chain keeps of a manifest. It follows from the manifest: who serves a model compares."""

    record: bytes
    program_root: bytes
    stop_ids: tuple[int, ...]


def claims_of(manifest: Manifest) -> Claims:
    """What an honest registration says."""
    record = shape_record(manifest.shape, manifest.embedding_exponent, manifest.two_term)
    return Claims(record, program_root(manifest), tuple(manifest.stop))


@dataclass(frozen=True, slots=True)
class Program:
    """What a shape's record says."""

    shape: Shape
    embedding_exponent: int
    second_terms: tuple[int, ...]

    @property
    def facts(self) -> Facts:
        """As addresses depend on them; products are not in the record."""
        return Facts(self.shape, self.embedding_exponent, {})

    @property
    def cost(self) -> cip.Cost:
        """Cost coefficients by the protocol's formula."""
        return cip.counted_cost(self.shape, self.second_terms)


def read_shape_record(record: bytes) -> Program:
    """Inverse of shape_record. Raises ProgramError when no program that can be disputed has it."""
    sort, _, rest = record[:RECORD_BYTES_MAX].partition(b"|")
    kind, _, numbers = rest.partition(b"|")
    fields = (*SHAPE_FIELDS, "embedding_exponent", *cip.PRODUCTS)
    if sort != b"shape" or len(numbers) != 4 * len(fields):
        raise cip.ProgramError(f"a shape's record of {len(record)} bytes that begins with {record[:16]!r}")
    values = [int.from_bytes(number, "big") for number in cut(numbers, 4)]
    extents, exponent, seconds = values[: len(SHAPE_FIELDS)], values[len(SHAPE_FIELDS)], values[len(SHAPE_FIELDS) + 1 :]
    shape = Shape(**dict(zip(SHAPE_FIELDS, extents, strict=True)), kind=kind.decode("ascii", "replace"))
    cip.check_shape(shape)
    if exponent > cip.EXPONENT_MAX:
        raise cip.ProgramError(f"the embedding's exponent is {exponent}, allowed 0..{cip.EXPONENT_MAX}")
    for name, count in zip(cip.PRODUCTS, seconds, strict=True):
        most = int(shape.causal) if name == "head" else shape.layers
        if count > most:
            raise cip.ProgramError(f"{count} products {name} have two terms, there are {most}")
    if len(layers_of(shape, 0)) > GROUP_LAYERS_MAX:
        raise cip.ProgramError(f"{shape.layers_per_group} layers a group, at most {GROUP_LAYERS_MAX} can be disputed")
    return Program(shape, exponent, tuple(seconds))


def linear_record(linear: Linear) -> bytes:
    """`linear|name|`, then bound, exponent, block and terms, each a u8."""
    return f"linear|{linear.name}|".encode() + bytes((linear.bound, linear.exponent, linear.block, linear.terms))


def tensor_record(tensor: Tensor) -> bytes:
    """`tensor|name|dtype|extents|`, then the root."""
    extent = ",".join(map(str, tensor.shape))
    return f"tensor|{tensor.name}|{tensor.dtype}|{extent}|".encode() + tensor.root


class _Records:
    """A program's records, in this order: the shape, the products and the tensors as the manifest has them."""

    def __init__(self, manifest: Manifest) -> None:
        found = {("shape", ""): shape_record(manifest.shape, manifest.embedding_exponent, manifest.two_term)}
        found |= {("linear", linear.name): linear_record(linear) for linear in manifest.linears}
        found |= {("tensor", tensor.name): tensor_record(tensor) for tensor in manifest.tensors}
        self._records, self._index = list(found.values()), {key: i for i, key in enumerate(found)}

    @cached_property
    def tree(self) -> list[list[bytes]]:
        """The tree over the records."""
        return merkle.levels([merkle.digest(record) for record in self._records])

    def find(self, sort: str, name: str) -> tuple[bytes, list[bytes], int]:
        """The record, its path, and which siblings are on the left."""
        index = at = self._index[sort, name]
        lefts = step = 0
        for level in self.tree[:-1]:
            if at ^ 1 < len(level):
                lefts |= (at & 1) << step
                step += 1
            at >>= 1
        return self._records[index], merkle.path(self.tree, index), lefts


# What a dispute goes down by


def trace_leaves(shape: Shape, task: Task) -> list[Leaf]:
    """The leaves of a trace, in its order."""
    groups, positions = range(shape.groups), range(task.positions)
    if shape.causal:
        states = [Leaf("state", position * shape.groups + group) for position in positions for group in groups]
    else:
        states = [Leaf("state", position * shape.groups + group) for group in groups for position in positions]
    if task.kind != cip.GENERATE:
        return states + [Leaf(VECTOR, i) for i in range(task.lists[VECTOR])]
    return states + [Leaf(domain, i) for i in range(task.output) for domain in ("logits", "token")]


def tree_top(size: int) -> int:
    """The level of the root of a tree of so many leaves, leaves being level 0."""
    return (size - 1).bit_length()


def page_extent(size: int, level: int, index: int) -> int:
    """Hashes in the page of a node of a tree of `size` leaves. The node is in the tree."""
    below = max(0, level - PAGE_LEVELS)
    span = 1 << (level - below)
    return min(span, -(-size >> below) - index * span)


def child_place(level: int, index: int, number: int) -> tuple[int, int]:
    """(level, index) of hash `number` of a node's page."""
    below = max(0, level - PAGE_LEVELS)
    return below, (index << (level - below)) + number


def root_by_path(child: bytes, number: int, count: int, path: Sequence[bytes], hash_: Hash = keccak) -> bytes:
    """The node whose page of `count` hashes has `child` in place `number`. Raises InvalidOpening unless the path has
    the length that the place asks for."""
    if not 0 <= number < count:
        raise InvalidOpening(f"no hash {number} in a page of {count}")
    if len(path) != _span_path_length(number, number + 1, count):
        raise InvalidOpening(f"a path of {len(path)} hashes from place {number} of {count}")
    return _root_of_span([child], number, count, path, hash_)


def page(tree: Tree, level: int, index: int) -> list[bytes]:
    """The hashes by which a node of a tree is shown: its descendants eight levels below, or the tree's leaves."""
    below = max(0, level - PAGE_LEVELS)
    span = 1 << (level - below)
    return list(tree[below][index * span : (index + 1) * span])


def page_root(hashes: Sequence[bytes], hash_: Hash = keccak) -> bytes:
    """The node that a page shows. Raises InvalidOpening."""
    if not 1 <= len(hashes) <= 1 << PAGE_LEVELS:
        raise InvalidOpening(f"a page of {len(hashes)} hashes, allowed 1..{1 << PAGE_LEVELS}")
    return _tree(hashes, hash_)[-1][0]


def first_difference(ours: Sequence[bytes], theirs: Sequence[bytes]) -> int | None:
    """Index of the first root of a list, hash of a page or element of a tile that is not ours; None when all agree.
    Lists of different lengths differ at the end of the shorter one."""
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return index
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def cut(data: bytes, size: int) -> list[bytes]:
    """Parts of `size` bytes, the last one shorter: tiles of an op, elements of a tile, pieces of a payload."""
    return [bytes(data[begin : begin + size]) for begin in range(0, len(data), size)]


# Trees of either hash


def sha256(data: bytes) -> bytes:
    """The hash of traces."""
    return hashlib.sha256(data).digest()


def _tree(leaves: Sequence[bytes], hash_: Hash) -> list[list[bytes]]:
    tree = [list(leaves)]
    while len(tree[-1]) > 1:
        tree.append(_paired(tree[-1], hash_))
    return tree


def _paired(level: list[bytes], hash_: Hash) -> list[bytes]:
    """The next level: an odd node is promoted."""
    paired = [hash_(b"\1" + level[i] + level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return paired + level[len(level) & ~1 :]


def _span_path(tree: Tree, begin: int, end: int) -> list[bytes]:
    """The hashes that lead from the leaves begin .. end - 1 to the root: of each level the left neighbour, where the
    first one is a right child, then the right neighbour, where the last one is a left child and has one."""
    path = []
    for level in tree[:-1]:
        if begin & 1:
            path.append(level[begin - 1])
        if end & 1 and end < len(level):
            path.append(level[end])
        begin, end = begin >> 1, (end + 1) >> 1
    return path


def _span_path_length(begin: int, end: int, count: int) -> int:
    length = 0
    while count > 1:
        length += (begin & 1) + (end & 1 if end < count else 0)
        begin, end, count = begin >> 1, (end + 1) >> 1, (count + 1) >> 1
    return length


def _root_of_span(found: Sequence[bytes], begin: int, count: int, path: Sequence[bytes], hash_: Hash) -> bytes:
    """The root that the leaves from `begin` on lead to, over a path of the length that they ask for."""
    level, rest = list(found), list(reversed(path))
    while count > 1:
        if begin & 1:
            level.insert(0, rest.pop())
            begin -= 1
        end = begin + len(level)
        if end & 1 and end < count:
            level.append(rest.pop())
        level = _paired(level, hash_)
        begin, count = begin >> 1, (count + 1) >> 1
    return level[0]


# Openings: one walk over three tapes


class _Tape(Protocol):
    """Where the bytes of an opening go, or come from; `make` gives those that are to be written."""

    def next(self, length: int, make: Callable[[], bytes]) -> bytes: ...


class _Writer:
    def __init__(self) -> None:
        self.data = bytearray()

    def next(self, length: int, make: Callable[[], bytes]) -> bytes:
        made = make()
        assert len(made) == length, f"{len(made)} bytes where an opening has {length}"
        self.data += made
        return made


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def next(self, length: int, make: Callable[[], bytes]) -> bytes:
        del make
        self.count += length
        return bytes(length)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def next(self, length: int, make: Callable[[], bytes]) -> bytes:
        del make
        begin, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise InvalidOpening(f"the opening ends at byte {len(self._data)} of at least {self._at}")
        return self._data[begin : self._at]

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise InvalidOpening(f"{len(self._data) - self._at} bytes follow the opening")


class _Walk:
    """Goes through all that the opening of an element holds: written or counted with somebody's working, else read and
    checked."""

    def __init__(self, tape: _Tape, statement: Statement, leaf: Leaf, operations: bytes,
                 working: Working | None) -> None:  # fmt: skip
        self._tape, self._statement, self._leaf, self._operations = tape, statement, leaf, operations
        self._working, self._checks = working, working is None
        self._shown: dict[object, bytes] = {}
        self._tensors: dict[str, Tensor] = {}
        self.reads: list[Reading] = []

    @property
    def listed(self) -> int:
        """Ops of the list but the last."""
        return len(self._ops) - 1

    def op(self, number: int, element: int) -> Op:
        """The op that is opened. Reads the records of the shape and of the op's product."""
        facts = self._read_shape()
        ops = self._list(facts)
        if not 0 <= number < len(ops):
            raise InvalidOpening(f"{len(ops)} ops in the list of {self._leaf}, not {number}")
        name = ops[number].linear
        if name is not None and (linear := self._read_linear(facts, name)) != facts.linear(name):
            ops = self._list(dataclasses.replace(facts, linears={name: linear}))
        self._shape, self._ops, op = facts.shape, ops, ops[number]
        if not 0 <= element < op.length:
            raise InvalidOpening(f"{op.name} has {op.length} elements, not {element}")
        return op

    def committed(self, op: Op, number: int, element: int) -> bytes:
        """The element as it is committed: in the op's root, or in the trace. Of a leaf it is a piece's hash, or the
        leaf's own where the payload has one piece only."""
        if op.rule != "leaf":
            return self._vector(number, element, 1)
        pieces = op.length
        if pieces == 1:
            found = self._next(32, lambda: self._execution.leaf_hash(self._leaf))
            self._check_leaf(self._leaf, found)
            return found
        found = self._next(32, lambda: self._execution.pieces(self._leaf)[0][element])
        path = self._path(lambda: self._execution.pieces(self._leaf), element, element + 1, pieces)
        if self._checks:
            root = _root_of_span([found], element, pieces, path, sha256)
            self._check_leaf(self._leaf, leaf_hash(self._statement.trace_key, self._leaf, root))
        else:
            self._check_leaf(self._leaf, b"")
        return found

    def piece_hash(self, piece: bytes) -> bytes:
        """How a piece of the disputed leaf is committed."""
        if payload_bytes(self._shape, self._statement.task, self._leaf) > PIECE_BYTES:
            return sha256(b"\2" + piece)
        return leaf_hash(self._statement.trace_key, self._leaf, piece)

    def values(self, op: Op, element: int) -> list[list[int]]:
        """What the element reads."""
        values = [self._read(part) for part in op.reads(element)]
        if op.look is not None:
            values += [self._read(part) for part in op.look(element, values)]
        return values

    def answered(self, op: Op, element: int) -> bytes | None:
        """What the answer has where the last op of a token or a vector is: the trace may hold another than was given.
        None for every other op."""
        domain = self._leaf.domain
        if op.rule != "leaf" or domain not in (TOKEN, VECTOR):
            return None
        begin, most = self._leaf.index, PIECE_BYTES // TOKEN_BYTES
        if self._statement.task.kind == cip.EMBED:
            begin = element * most
        total = payload_bytes(self._shape, self._statement.task, self._leaf) // TOKEN_BYTES
        count = min(most, total - element * most)
        words = cut(self._words(False, begin, count), TOKEN_BYTES)
        return b"".join(word[::-1] for word in words)  # u32 big-endian there, little-endian in a payload

    @property
    def _execution(self) -> Execution:
        assert self._working is not None
        return self._working.execution

    def _next(self, length: int, make: Callable[[], bytes]) -> bytes:
        return self._tape.next(length, make)

    def _hashes(self, count: int, make: Callable[[], Sequence[bytes]]) -> list[bytes]:
        return cut(self._next(32 * count, lambda: b"".join(make())), 32)

    def _path(self, tree: Callable[[], Tree], begin: int, end: int, count: int) -> list[bytes]:
        return self._hashes(_span_path_length(begin, end, count), lambda: _span_path(tree(), begin, end))

    def _list(self, facts: Facts) -> list[Op]:
        if self._working:
            return self._working.ops
        try:
            return op_list(facts, self._statement.task, self._leaf)
        except ValueError as error:
            raise InvalidOpening(str(error)) from error

    # Records

    def _read_shape(self) -> Facts:
        try:
            program = read_shape_record(b"shape|" + self._record("shape", ""))
        except cip.ProgramError as error:
            raise InvalidOpening(f"the program's record: {error}") from error
        if self._statement.task.kind not in program.shape.tasks():
            raise InvalidOpening(f"the program is asked for {program.shape.tasks()}")
        return program.facts

    def _read_linear(self, facts: Facts, name: str) -> Linear:
        numbers = self._record("linear", name)
        if len(numbers) != 4:
            raise InvalidOpening(f"the record of product {name} has {len(numbers)} bytes of numbers")
        bound, exponent, block, terms = numbers
        inputs = facts.linear(name).inputs
        turns = 1 <= block <= cip.ROTATION_BLOCK_MAX and not block & (block - 1) and inputs % block == 0
        if not turns or exponent > cip.EXPONENT_MAX or terms not in (1, 2):
            raise InvalidOpening(f"the record of product {name} holds {list(numbers)}")
        return dataclasses.replace(facts.linear(name), bound=bound, exponent=exponent, block=block, terms=terms)

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            fields = self._record("tensor", name)
            dtype, _, rest = fields[:-32].decode("ascii", "replace").partition("|")
            extents = rest.removesuffix("|").split(",")
            if dtype not in DTYPE_BYTES or not all(extent.isdecimal() and len(extent) < 10 for extent in extents):
                raise InvalidOpening(f"the record of tensor {name} holds {fields[:-32]!r}")
            self._tensors[name] = Tensor(name, dtype, tuple(map(int, extents)), fields[-32:])
            if self._tensors[name].size_bytes > TENSOR_BYTES_MAX:
                raise InvalidOpening(f"the record of tensor {name} is of {self._tensors[name].size_bytes} bytes")
        return self._tensors[name]

    def _record(self, sort: str, name: str) -> bytes:
        """What follows the name in a record. In an opening: its length u16, its bytes, the length of its path u8, a u32
        whose bit i says that the i-th sibling is on the left, the siblings."""
        record, path, lefts = self._execution.record(sort, name) if self._working else (b"", [], 0)
        head = f"{sort}|{name}|".encode() if name else f"{sort}|".encode()
        if not self._checks:
            self._next(7 + len(record) + 32 * len(path), lambda: b"".join((
                len(record).to_bytes(2, "big"), record, bytes((len(path),)), lefts.to_bytes(4, "big"), *path
            )))  # fmt: skip
            return record[len(head) :]
        length = int.from_bytes(self._next(2, bytes), "big")
        record, steps = self._next(length, bytes), self._next(1, bytes)[0]
        if length > RECORD_BYTES_MAX or steps > RECORD_PATH_MAX:
            raise InvalidOpening(f"a record of {length} bytes with a path of {steps}")
        lefts, node = int.from_bytes(self._next(4, bytes), "big"), merkle.digest(record)
        for i, sibling in enumerate(self._hashes(steps, list)):
            node = keccak(b"\1" + (sibling + node if lefts >> i & 1 else node + sibling))
        if node != self._statement.program or not record.startswith(head):
            raise InvalidOpening(f"no record of {sort} {name} in the program")
        return record[len(head) :]

    # Values

    def _read(self, part: Slice) -> list[int]:
        source, begin, count = part
        op = self._ops[source] if isinstance(source, int) else None
        self.reads.append(Reading(part, op.length, op.width) if op else Reading(part))
        if count == 0:
            return []
        if isinstance(source, int):
            return _integers(self._vector(source, begin, count), self._ops[source].width)
        if isinstance(source, str):
            tensor = self._tensor(source)
            width = DTYPE_BYTES[tensor.dtype]
            return _integers(self._pieces_of(tensor, begin * width, count * width), width, tensor.dtype != "uint16")
        if isinstance(source, Payload):
            return _integers(self._payload(source.leaf, begin, count * source.width), source.width)
        assert isinstance(source, Tokens)
        return [self._token(begin)]

    def _vector(self, number: int, begin: int, count: int) -> bytes:
        """Elements of an op: on first use its root and the root's path in the list; the tiles, their path."""
        op, listed, working = self._ops[number], len(self._ops) - 1, self._working
        if begin < 0 or begin + count > op.length:
            raise InvalidOpening(f"{op.name} has {op.length} elements, not {begin} to {begin + count}")
        if number not in self._shown:
            root = self._next(32, lambda: working.roots[number])  # type: ignore[union-attr]
            path = self._path(lambda: working.list_tree, number, number + 1, listed)  # type: ignore[union-attr]
            if self._checks and _root_of_span([merkle.digest(root)], number, listed, path, keccak) != self._operations:
                raise InvalidOpening(f"the root of {op.name} is not in the list")
            self._shown[number] = root
        first, end = begin // TILE, -(-(begin + count) // TILE)
        begin_byte, end_byte = first * TILE * op.width, min(end * TILE, op.length) * op.width
        if (number, first, end) not in self._shown:
            data = self._next(end_byte - begin_byte,
                              lambda: working.vectors[number][begin_byte:end_byte])  # type: ignore[union-attr]  # fmt: skip
            count_tiles = -(-op.length // TILE)
            path = self._path(lambda: working.tree(number), first, end, count_tiles)  # type: ignore[union-attr]
            if self._checks:
                tiles = [merkle.digest(tile) for tile in cut(data, TILE * op.width)]
                if _root_of_span(tiles, first, count_tiles, path, keccak) != self._shown[number]:
                    raise InvalidOpening(f"elements {begin} to {begin + count} are not those of {op.name}")
            self._shown[number, first, end] = data
        at = begin * op.width - begin_byte
        return self._shown[number, first, end][at : at + count * op.width]

    def _payload(self, leaf: Leaf, begin: int, size: int) -> bytes:
        """Bytes of a payload: the whole of it up to 4,096 bytes, else the pieces and their path; the leaf's path."""
        total = payload_bytes(self._shape, self._statement.task, leaf)
        if begin < 0 or begin + size > total:
            raise InvalidOpening(f"the payload of {leaf} has {total} bytes, not {begin} to {begin + size}")
        first, end, pieces = begin // PIECE_BYTES, -(-(begin + size) // PIECE_BYTES), -(-total // PIECE_BYTES)
        if (leaf, first, end) not in self._shown:
            begin_byte, end_byte = first * PIECE_BYTES, min(end * PIECE_BYTES, total)
            data = self._next(end_byte - begin_byte, lambda: self._execution.payload(leaf)[begin_byte:end_byte])
            content = data
            if pieces > 1:
                path = self._path(lambda: self._execution.pieces(leaf), first, end, pieces)
                if self._checks:
                    hashes = [sha256(b"\2" + piece) for piece in cut(data, PIECE_BYTES)]
                    content = _root_of_span(hashes, first, pieces, path, sha256)
            self._check_leaf(leaf, leaf_hash(self._statement.trace_key, leaf, content))
            self._shown[leaf, first, end] = data
        at = begin - first * PIECE_BYTES
        return self._shown[leaf, first, end][at : at + size]

    def _check_leaf(self, leaf: Leaf, found: bytes) -> None:
        """A leaf's path in the trace."""
        task = self._statement.task
        at = leaf_number(self._shape, task, leaf)
        count = leaf_count(self._shape, task)
        path = self._path(lambda: self._execution.trace, at, at + 1, count)
        if self._checks and _root_of_span([found], at, count, path, sha256) != self._statement.trace:
            raise InvalidOpening(f"{leaf} does not lead to the trace's root")

    def _pieces_of(self, tensor: Tensor, begin: int, size: int) -> bytes:
        """Bytes of a tensor: of each chunk that they lie in (two at most) the pieces, their path, the chunk's path."""
        if begin < 0 or begin + size > tensor.size_bytes:
            raise InvalidOpening(f"{tensor.name} has {tensor.size_bytes} bytes, not {begin} to {begin + size}")
        found, end = b"", begin + size
        for index in range(begin // CHUNK_BYTES, -(-end // CHUNK_BYTES)):
            base = index * CHUNK_BYTES
            low, high = max(begin, base) - base, min(end, base + CHUNK_BYTES) - base
            first, last = low // TENSOR_PIECE_BYTES, -(-high // TENSOR_PIECE_BYTES)
            data = self._chunk_part(tensor, index, first, last)
            found += data[low - first * TENSOR_PIECE_BYTES : high - first * TENSOR_PIECE_BYTES]
        return found

    def _chunk_part(self, tensor: Tensor, index: int, first: int, last: int) -> bytes:
        """Pieces first .. last - 1 of a chunk."""
        key = tensor.name, index, first, last
        if key not in self._shown:
            base = index * CHUNK_BYTES
            length, chunks = min(CHUNK_BYTES, tensor.size_bytes - base), -(-tensor.size_bytes // CHUNK_BYTES)
            begin, end = first * TENSOR_PIECE_BYTES, min(last * TENSOR_PIECE_BYTES, length)
            at = slice(base + begin, base + end)
            data = self._next(end - begin, lambda: bytes(self._execution.tensors[tensor.name][at]))
            pieces = -(-length // TENSOR_PIECE_BYTES)
            path = self._path(lambda: self._execution.chunk(tensor, index), first, last, pieces)
            above = self._path(lambda: self._execution.chunks(tensor), index, index + 1, chunks)
            if self._checks:
                hashes = [merkle.digest(piece) for piece in cut(data, TENSOR_PIECE_BYTES)]
                chunk = chunk_hash(tensor, index, _root_of_span(hashes, first, pieces, path, keccak))
                if _root_of_span([chunk], index, chunks, above, keccak) != tensor.root:
                    raise InvalidOpening(f"bytes {base + begin} to {base + end} are not those of {tensor.name}")
            self._shown[key] = data
        return self._shown[key]

    def _token(self, position: int) -> int:
        """A token of prompt or output."""
        task = self._statement.task
        inside = position < task.prompt
        token = int.from_bytes(self._words(inside, position if inside else position - task.prompt, 1), "big")
        if token >= self._shape.vocabulary:
            raise InvalidOpening(f"token {position} is {token} of {self._shape.vocabulary}")
        return token

    def _words(self, inside: bool, at: int, count: int) -> bytes:
        """Words of the prompt (inside) or of the answer, u32 big-endian: the chunks of 256 that they lie in, and the
        path of that run."""
        task = self._statement.task
        total = task.prompt if inside else task.answer(self._shape)
        if not 0 <= at <= total - count:
            where = "the prompt" if inside else "the answer"
            raise InvalidOpening(f"no words {at} to {at + count} in {total} of {where}")
        first, end = at // merkle.TOKENS_CHUNK, -(-(at + count) // merkle.TOKENS_CHUNK)
        chunks = -(-total // merkle.TOKENS_CHUNK)
        begin_byte, end_byte = first * TOKEN_CHUNK_BYTES, min(end * TOKEN_CHUNK_BYTES, TOKEN_BYTES * total)

        def packed() -> bytes:
            return merkle.pack_tokens(self._execution.prompt if inside else self._execution.output)

        data = self._next(end_byte - begin_byte, lambda: packed()[begin_byte:end_byte])
        path = self._path(lambda: merkle.levels([merkle.digest(part) for part in cut(packed(), TOKEN_CHUNK_BYTES)]),
                          first, end, chunks)  # fmt: skip
        root = self._statement.prompt_root if inside else self._statement.output_root
        if self._checks:
            digests = [merkle.digest(part) for part in cut(data, TOKEN_CHUNK_BYTES)]
            if _root_of_span(digests, first, chunks, path, keccak) != root:
                raise InvalidOpening(f"words {at} to {at + count} are not the task's")
        return data[TOKEN_BYTES * at - begin_byte :][: TOKEN_BYTES * count]


def _integers(data: bytes, width: int, signed: bool = True) -> list[int]:
    return [int.from_bytes(part, "little", signed=signed) for part in cut(data, width)]
