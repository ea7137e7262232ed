"""Soft answers: tokens of an answer while it is being made, signed by the operator that makes it; their sign bytes and
their one encoding.

They travel between nodes for the asker's eyes. They are no vote, count for nothing and are stored in no block: what a
task's answer is, its transaction says. Knows no task's state: who may speak about it now is node's business.
"""

from dataclasses import dataclass
from typing import Final

from primitives import rlp
from primitives.hashing import keccak
from primitives.keys import SIGNATURE_BYTES, recover, sign
from primitives.merkle import pack_tokens, unpack_tokens
from primitives.vote import SignContext

DOMAIN: Final = b"labora/soft/1"
"""First field of the sign bytes; no other signature of this chain begins with it."""
SOFT_TOKENS_MAX: Final = 512
"""Each message carries the latest tokens, so many at most: one that is lost is made up for by the next."""
SOFT_BYTES_MAX: Final = 4 * SOFT_TOKENS_MAX + 256
FIRST_BITS: Final = 32


class InvalidSoftAnswer(ValueError):
    """Bytes that are no soft answer, or a field outside its bounds."""


@dataclass(frozen=True, slots=True)
class SoftAnswer:
    """Tokens of an answer from number `first` on. trace_key follows from task and attempt, and names them."""

    task: bytes
    trace_key: bytes
    first: int
    tokens: tuple[int, ...]

    def digest(self, context: SignContext) -> bytes:
        """What the operator's hot key signs."""
        fields: list[rlp.Item] = [DOMAIN, rlp.from_uint(context.chain_id), context.genesis_hash, *_fields(self)]
        return keccak(rlp.encode(fields))


def sign_soft_answer(answer: SoftAnswer, context: SignContext, hot_key: bytes) -> bytes:
    """The encoding of an answer with its signature."""
    assert 0 < len(answer.tokens) <= SOFT_TOKENS_MAX
    return rlp.encode([*_fields(answer), sign(answer.digest(context), hot_key)])


def open_soft_answer(data: bytes, context: SignContext) -> tuple[SoftAnswer, bytes]:
    """(answer, address that signed it). Raises InvalidSoftAnswer, InvalidSignature."""
    if len(data) > SOFT_BYTES_MAX:
        raise InvalidSoftAnswer(f"a soft answer of {len(data)} bytes, at most {SOFT_BYTES_MAX}")
    try:
        one, two, three, four, five = rlp.decode_list(data, 5)
        task, trace_key, signature = rlp.as_bytes(one, 32), rlp.as_bytes(two, 32), rlp.as_bytes(five, SIGNATURE_BYTES)
        first, packed = rlp.as_uint(three, FIRST_BITS), rlp.as_bytes(four)
    except rlp.RLPError as error:
        raise InvalidSoftAnswer(f"no soft answer: {error}") from error
    if not 4 <= len(packed) <= 4 * SOFT_TOKENS_MAX or len(packed) % 4:
        raise InvalidSoftAnswer(f"tokens in {len(packed)} bytes, not 1 to {SOFT_TOKENS_MAX} of 4 bytes each")
    answer = SoftAnswer(task, trace_key, first, unpack_tokens(packed))
    return answer, recover(answer.digest(context), signature)


def _fields(answer: SoftAnswer) -> list[rlp.Item]:
    return [answer.task, answer.trace_key, rlp.from_uint(answer.first), pack_tokens(answer.tokens)]
