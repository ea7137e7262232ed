"""Inference tasks as bytes: ids, seeds, commitments, the cost formula, and the items of a work batch (docs/formats.md).

What may happen to a task when is the Market's question (vm.system.market, consensus.work).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from primitives import rlp
from primitives.hashing import keccak
from primitives.merkle import pack_tokens, unpack_tokens
from primitives.params import CWU

NO_BAD_POSITION = 2**32 - 1
SEQUENCE_BYTES = 8
BATCH_ITEMS_MAX = 64
DEVICE_BYTES_MAX = 32
STOP_IDS_MAX = 16
"""Token ids that end an answer, of one model: Models keeps them all in state."""
TEMPERATURE_ONE_Q16 = 1 << 16
TEXT_BYTES_MAX = 4_096
"""Of one token of the tolerant lane, UTF-8."""


class Status(IntEnum):
    """Where a task stands (docs/formats.md, Market)."""

    POSTED = 1
    DEALT = 2
    ANSWERED = 3
    DRAWN = 4
    REVEALING = 5
    AGREED = 6
    SETTLED = 7
    REFUNDED = 8
    DISPUTED = 9
    UNVERIFIED = 10
    REFUTED = 11


class Kind(IntEnum):
    """What a task asks for. An answer of kind generate is token ids, of the others a vector of int32."""

    GENERATE = 0
    EMBED = 1
    """The prompt's embedding: as many elements as the model is wide."""
    SCORE = 2
    """Log-likelihood of each token of the prompt but the first, given those before it."""

    @property
    def is_vector(self) -> bool:
        """Whether the answer is a vector, whose length follows from the task."""
        return self is not Kind.GENERATE


class MalformedBatch(ValueError):
    """Bytes that are no work batch."""


class MalformedTexts(ValueError):
    """Bytes that are no answer of the tolerant lane."""


@dataclass(frozen=True)
class ModelCost:
    """Cost coefficients of a model, in multiply-adds, from its manifest's shapes.

    macs = a * positions + b * sum(position + 1) + c * logits. Generating m tokens after a prompt of p feeds p + m - 1
    positions and needs m logits; embedding feeds p and needs none; scoring feeds p and needs p - 1. An audit is the
    same. Below, `result` is the length of the answer: tokens generated, or elements of the vector.
    """

    a: int
    b: int
    c: int
    audit_weight_num: int
    audit_weight_den: int

    def prefill(self, prompt: int) -> int:
        """Multiply-adds of reading a prompt."""
        return self.a * prompt + self.b * (prompt * (prompt + 1) // 2)

    def execution(self, kind: Kind, prompt: int, result: int) -> int:
        """Multiply-adds of the whole task."""
        match kind:
            case Kind.GENERATE:
                return self.prefill(prompt + result - 1) + self.c * result
            case Kind.EMBED:
                return self.prefill(prompt)
            case Kind.SCORE:
                return self.prefill(prompt) + self.c * result

    def decode(self, kind: Kind, prompt: int, result: int) -> int:
        """Multiply-adds beyond the prompt's."""
        return self.execution(kind, prompt, result) - self.prefill(prompt)

    def prefill_bytes(self, prompt: int) -> int:
        """Bytes that reading a prompt moves: every weight once, one byte a multiply-add of a position, and what
        attention caches of each position once."""
        return self.a + self.b * prompt

    def decode_bytes(self, kind: Kind, prompt: int, result: int) -> int:
        """Bytes moved beyond the prompt's at a batch of one: of each further pass the weights and the whole cache, of
        each generated token the head; of a score the head once."""
        match kind:
            case Kind.GENERATE:
                last = prompt + result - 1
                cached = last * (last + 1) // 2 - prompt * (prompt + 1) // 2
                return self.a * (result - 1) + self.b * cached + self.c * result
            case Kind.EMBED:
                return 0
            case Kind.SCORE:
                return self.c

    def audit(self, kind: Kind, prompt: int, result: int) -> int:
        """What checking the task counts, in multiply-adds."""
        return self.weighed(self.execution(kind, prompt, result))

    def weighed(self, macs: int) -> int:
        """Multiply-adds at the audit weight."""
        return macs * self.audit_weight_num // self.audit_weight_den


def result_length(kind: Kind, prompt: int, max_tokens: int, width: int) -> int:
    """Elements of the answer to a prompt of so many tokens: at most, when generating; else exactly."""
    match kind:
        case Kind.GENERATE:
            return max_tokens
        case Kind.EMBED:
            return width
        case Kind.SCORE:
            return prompt - 1


def words_of(vector: Iterable[int]) -> tuple[int, ...]:
    """A vector of int32 as the u32 that a submission carries, two's complement."""
    return tuple(int.from_bytes(value.to_bytes(4, "big", signed=True), "big") for value in vector)


def vector_of(words: Iterable[int]) -> tuple[int, ...]:
    """Inverse of words_of."""
    return tuple(int.from_bytes(word.to_bytes(4, "big"), "big", signed=True) for word in words)


def price_of(macs: int, wei_per_cwu: int) -> int:
    """Wei for that much work, rounded up."""
    return -(-macs * wei_per_cwu // CWU)


def task_id(chain_id: int, sequence: int) -> bytes:
    """The first 24 bytes of keccak("task" | chain id u64 | sequence u64), then the sequence, u64: who knows the chain
    knows the id by its end alone, and a work batch names a task so."""
    number = sequence.to_bytes(SEQUENCE_BYTES, "big")
    return keccak(b"task" + chain_id.to_bytes(8, "big") + number)[:-SEQUENCE_BYTES] + number


def sequence_of(task: bytes) -> int:
    """The sequence that an id of the exact lane ends in."""
    return int.from_bytes(task[-SEQUENCE_BYTES:], "big")


def tolerant_task_id(chain_id: int, sequence: int) -> bytes:
    """keccak("tolerant" | chain id u64 | sequence u64): of a task of the tolerant lane."""
    return keccak(b"tolerant" + chain_id.to_bytes(8, "big") + sequence.to_bytes(8, "big"))


def encode_texts(tokens: Sequence[str]) -> bytes:
    """Tokens of an answer of the tolerant lane, as their server names them: rlp of their UTF-8."""
    return rlp.encode([token.encode() for token in tokens])


def decode_texts(data: bytes) -> tuple[str, ...]:
    """Inverse of encode_texts. Raises MalformedTexts; only the last token, which ends the answer, may be empty."""
    try:
        tokens = tuple(rlp.as_bytes(item, most=TEXT_BYTES_MAX).decode() for item in rlp.decode_list(data))
    except ValueError as error:
        raise MalformedTexts(f"malformed tokens: {error}") from error
    if (empty := next((place for place, token in enumerate(tokens[:-1]) if not token), None)) is not None:
        raise MalformedTexts(f"token {empty} is empty; only the last one may be")
    return tokens


def sampling_seed(mix: bytes, task: bytes) -> bytes:
    """keccak("seed" | mix of the first deal | task): never changes for a task."""
    return keccak(b"seed" + mix + task)


def trace_key(seed: bytes, attempt: int) -> bytes:
    """keccak(seed | attempt u32): a refuted attempt's root is useless to the next executor."""
    return keccak(seed + attempt.to_bytes(4, "big"))


def execution_commitment(task: bytes, executor: bytes, root: bytes) -> bytes:
    """keccak("x" | task | executor | T)."""
    return keccak(b"x" + task + executor + root)


def verdict_commitment(task: bytes, verifier: bytes, bad: int, root: bytes) -> bytes:
    """keccak("v" | task | verifier | bad u32 | T). bad: the position of the first token, or the index of the first
    element of a vector, that the computation does not give; 2^32 - 1 for none."""
    return keccak(b"v" + task + verifier + bad.to_bytes(4, "big") + root)


def trap_root(salt: bytes, root: bytes) -> bytes:
    """T* = keccak("trap" | salt | T): what an executor may commit to instead of T, to catch who copies it."""
    return keccak(b"trap" + salt + root)


@dataclass(frozen=True)
class Submission:
    """Item 1: the executor's output and commitment; times and device are self-reported."""

    task: bytes
    tokens: tuple[int, ...]
    """Token ids, or the words of a vector (words_of)."""
    commitment: bytes
    queue_ms: int
    first_token_ms: int
    total_ms: int
    device: bytes


@dataclass(frozen=True)
class Verdict:
    """Item 2: a verifier's commitment."""

    task: bytes
    commitment: bytes


@dataclass(frozen=True)
class Reveal:
    """Item 3: a root and the first bad position, opening commitments."""

    task: bytes
    root: bytes
    bad: int


@dataclass(frozen=True)
class TrapOpening:
    """Item 4: what an executor's commitment to a trap hides: keccak("trap" | salt | root)."""

    task: bytes
    salt: bytes
    root: bytes


WorkItem = Submission | Verdict | Reveal | TrapOpening


@dataclass(frozen=True)
class MalformedItem:
    """An item of a sound batch that cannot be read: refused alone, the others stand."""

    kind: int
    task: bytes
    reason: str


def encode_batch(items: Iterable[WorkItem]) -> bytes:
    """rlp of the items, as `Market.work(bytes)` takes it; tasks by their sequence."""
    uint = rlp.from_uint
    encoded: list[rlp.Item] = []
    for item in items:
        match item:
            case Submission():
                sequence = uint(sequence_of(item.task))
                times = [uint(item.queue_ms), uint(item.first_token_ms), uint(item.total_ms)]
                encoded.append([b"\x01", sequence, pack_tokens(item.tokens), item.commitment, *times, item.device])
            case Verdict():
                encoded.append([b"\x02", uint(sequence_of(item.task)), item.commitment])
            case Reveal():
                encoded.append([b"\x03", uint(sequence_of(item.task)), item.root, uint(item.bad)])
            case TrapOpening():
                encoded.append([b"\x04", uint(sequence_of(item.task)), item.salt, item.root])
    return rlp.encode(encoded)


def decode_batch(data: bytes, chain_id: int) -> list[WorkItem | MalformedItem]:
    """Raises MalformedBatch when it is no RLP list of 1 to 64 lists; an unreadable item becomes a MalformedItem."""
    try:
        items = [rlp.as_list(item) for item in rlp.decode_list(data)]
    except rlp.RLPError as error:
        raise MalformedBatch(f"malformed work batch: {error}") from error
    if not 1 <= len(items) <= BATCH_ITEMS_MAX:
        raise MalformedBatch(f"a work batch holds 1 to {BATCH_ITEMS_MAX} items, not {len(items)}")
    return [_decode_item(item, chain_id) for item in items]


def _decode_item(fields: Sequence[rlp.Item], chain_id: int) -> WorkItem | MalformedItem:
    kind, task = 0, b""
    try:
        if len(fields) < 3:
            raise rlp.RLPError(f"an item of {len(fields)} fields")
        kind = rlp.as_uint(fields[0], 32)
        task = task_id(chain_id, rlp.as_uint(fields[1], 8 * SEQUENCE_BYTES))
        if kind == 1:
            _, _, tokens, commitment, queue, first, total, device = rlp.as_list(fields, 8)
            return Submission(
                task, unpack_tokens(rlp.as_bytes(tokens)), rlp.as_bytes(commitment, 32), rlp.as_uint(queue, 32),
                rlp.as_uint(first, 32), rlp.as_uint(total, 32), rlp.as_bytes(device, most=DEVICE_BYTES_MAX),
            )  # fmt: skip
        if kind == 2:
            _, _, commitment = rlp.as_list(fields, 3)
            return Verdict(task, rlp.as_bytes(commitment, 32))
        if kind == 3:
            _, _, root, bad = rlp.as_list(fields, 4)
            return Reveal(task, rlp.as_bytes(root, 32), rlp.as_uint(bad, 32))
        if kind == 4:
            _, _, salt, root = rlp.as_list(fields, 4)
            return TrapOpening(task, rlp.as_bytes(salt, 32), rlp.as_bytes(root, 32))
        raise rlp.RLPError(f"unknown kind of work item {kind}")
    except ValueError as error:
        return MalformedItem(kind, task, str(error))
