"""Messages of the agreement: proposals, votes, certificates, status; their sign bytes and their one encoding.

Strict and bounded: a message has one encoding, and decoding never allocates beyond MESSAGE_BYTES_MAX. Knows no
validator set: who signed, and whether that is enough, is consensus.bft's business.

Conventions: nil is None here and the empty string on the wire. A valid round of -1 is 0 on the wire, r is r + 1.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, TypeAlias

from primitives import rlp
from primitives.hashing import keccak
from primitives.keys import SIGNATURE_BYTES, recover
from primitives.validators import VALIDATORS_MAX

DOMAIN: Final = b"labora/consensus/1"
"""First field of the sign bytes of every message here; no other signature of this chain begins with it."""
NIL_ROUND: Final = -1
"""Valid round of a proposal that no earlier round vouches for."""
HEIGHT_BITS: Final = 64
ROUND_MAX: Final = 2**31 - 2
"""Rounds last longer than a second, so no chain gets here; r + 1 still fits 32 bits."""
BODY_BYTES_MAX: Final = 1024 * 1024
"""Announced size of a wire body: the largest message that gossip carries. The 900 KiB of a block are chain's rule."""
MESSAGE_BYTES_MAX: Final = 32 * 1024
"""Longest encoding: a round certificate has VALIDATORS_MAX entries of at most 124 bytes each."""
SIGNERS_CACHED_MAX: Final = 4_096
"""Of recent signatures: 128 members vote twice a round. A certificate of many is checked for a third of a
millisecond instead of nine, however often peers repeat it with other signatures of the same votes."""
BITMAP_BYTES_MAX: Final = (VALIDATORS_MAX + 7) // 8


class InvalidMessage(ValueError):
    """Bytes that are no message of the agreement, or a field outside its bounds."""


class MessageType(IntEnum):
    """Leading field of a message's encoding; of the signed ones also part of the sign bytes."""

    PROPOSAL = 1
    PREVOTE = 2
    PRECOMMIT = 3
    POLKA_CERTIFICATE = 4
    ROUND_CERTIFICATE = 5
    COMMIT_CERTIFICATE = 6
    STATUS = 7
    # 8 and 9 are kept for HaveVote and BlockPart.


class VoteType(IntEnum):
    """The two votes of a round; numbers as in MessageType."""

    PREVOTE = 2
    PRECOMMIT = 3


class Step(IntEnum):
    """Where a node is within a round; the order matters. DECIDED waits for the next height."""

    PROPOSE = 0
    PREVOTE = 1
    PRECOMMIT = 2
    DECIDED = 3


@dataclass(frozen=True, slots=True)
class SignContext:
    """What binds a signature to one chain."""

    chain_id: int
    genesis_hash: bytes


@dataclass(frozen=True, slots=True)
class Proposal:
    """The proposer of (height, round) offers block_hash; valid_round names the round of a polka for it, or -1.

    body_size: bytes of the wire body; parts_root: keccak Merkle root over its 64 KiB parts.
    """

    height: int
    round: int
    block_hash: bytes
    valid_round: int
    body_size: int
    parts_root: bytes


@dataclass(frozen=True, slots=True)
class Vote:
    """A prevote or precommit of (height, round) for block_hash, or for nil (None)."""

    type: VoteType
    height: int
    round: int
    block_hash: bytes | None


@dataclass(frozen=True, slots=True)
class SignedProposal:
    """A proposal and its signer's 65 bytes."""

    proposal: Proposal
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedVote:
    """A vote and its signer's 65 bytes."""

    vote: Vote
    signature: bytes


@dataclass(frozen=True, slots=True)
class PolkaCertificate:
    """Prevotes of more than two thirds for one block (never nil): bitmap in set order, signatures in its order."""

    height: int
    round: int
    block_hash: bytes
    bitmap: bytes
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CommitCertificate:
    """Precommits of more than two thirds for one block: the decision. Stored, served, and last_commit of the next."""

    height: int
    round: int
    block_hash: bytes
    bitmap: bytes
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RoundEntry:
    """One signer's vote inside a round certificate; `index` is its place in set order."""

    index: int
    type: VoteType
    round: int
    block_hash: bytes | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class RoundCertificate:
    """Votes of more than one third, each of `round` or later: a correct member has reached `round` (line 55).

    With precommits of more than two thirds of exactly `round` it also proves that `round` may end (line 47).
    Entries by strictly ascending index, one a signer.
    """

    height: int
    round: int
    entries: tuple[RoundEntry, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Where the sender stands: at work on (height, round, step), holding blocks base..head. Not signed."""

    height: int
    round: int
    step: Step
    base: int
    head: int


Signable: TypeAlias = Proposal | Vote
Signed: TypeAlias = SignedProposal | SignedVote
Certificate: TypeAlias = PolkaCertificate | RoundCertificate | CommitCertificate
ConsensusMessage: TypeAlias = Signed | Certificate | Status


def sign_bytes(context: SignContext, message: Signable) -> bytes:
    """The 32 bytes that are signed: keccak(rlp[domain, chain id, genesis hash, type, fields...])."""
    return keccak(
        rlp.encode([DOMAIN, rlp.from_uint(context.chain_id), context.genesis_hash, *_signed_fields(message)])
    )


@lru_cache(maxsize=SIGNERS_CACHED_MAX)
def signer_of(context: SignContext, message: Signed) -> bytes:
    """Consensus address (20 bytes) of whoever signed. Raises keys.InvalidSignature.

    The latest are remembered: votes come alone, then in certificates, and again in the next block's last commit.
    """
    unsigned = message.proposal if isinstance(message, SignedProposal) else message.vote
    return recover(sign_bytes(context, unsigned), message.signature)


def step_of(message: Signable) -> int:
    """Order of signing within a round: proposal 0, prevote 1, precommit 2 (what the signer guards)."""
    if isinstance(message, Proposal):
        return 0
    return 1 if message.type is VoteType.PREVOTE else 2


def encode_message(message: ConsensusMessage) -> bytes:
    """rlp[type, fields...]; of a signed message the last field is its signature."""
    match message:
        case SignedProposal():
            return rlp.encode([*_signed_fields(message.proposal), message.signature])
        case SignedVote():
            return rlp.encode([*_signed_fields(message.vote), message.signature])
        case PolkaCertificate():
            return rlp.encode([rlp.from_uint(MessageType.POLKA_CERTIFICATE), *_certificate_fields(message)])
        case CommitCertificate():
            return rlp.encode([rlp.from_uint(MessageType.COMMIT_CERTIFICATE), *_certificate_fields(message)])
        case RoundCertificate():
            return rlp.encode(
                [
                    rlp.from_uint(MessageType.ROUND_CERTIFICATE),
                    rlp.from_uint(message.height),
                    rlp.from_uint(message.round),
                    [
                        [
                            rlp.from_uint(entry.index),
                            rlp.from_uint(entry.type),
                            rlp.from_uint(entry.round),
                            entry.block_hash or b"",
                            entry.signature,
                        ]
                        for entry in message.entries
                    ],
                ]
            )
        case Status():
            numbers = (message.height, message.round, int(message.step), message.base, message.head)
            return rlp.encode([rlp.from_uint(MessageType.STATUS), *map(rlp.from_uint, numbers)])


def decode_message(data: bytes) -> ConsensusMessage:
    """The message that `data` is the only encoding of. Raises InvalidMessage."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise InvalidMessage(f"{len(data)} bytes; a message has at most {MESSAGE_BYTES_MAX}")
    try:
        items = rlp.decode_list(data)
        if not items:
            raise InvalidMessage("an empty list is no message")
        kind = rlp.as_uint(items[0], bits=8)
        match kind:
            case MessageType.PROPOSAL:
                rlp.as_list(items, 8)
                proposal = Proposal(
                    height=_height(items[1]),
                    round=_round(items[2]),
                    block_hash=rlp.as_bytes(items[3], length=32),
                    valid_round=rlp.as_uint(items[4], bits=32) - 1,
                    body_size=_body_size(items[5]),
                    parts_root=rlp.as_bytes(items[6], length=32),
                )
                if proposal.valid_round >= proposal.round:
                    raise InvalidMessage(f"valid round {proposal.valid_round} is not before round {proposal.round}")
                return SignedProposal(proposal, _signature(items[7]))
            case MessageType.PREVOTE | MessageType.PRECOMMIT:
                rlp.as_list(items, 5)
                vote = Vote(VoteType(kind), _height(items[1]), _round(items[2]), _hash_or_nil(items[3]))
                return SignedVote(vote, _signature(items[4]))
            case MessageType.POLKA_CERTIFICATE:
                return PolkaCertificate(*_certificate_values(items[1:]))
            case MessageType.COMMIT_CERTIFICATE:
                return CommitCertificate(*_certificate_values(items[1:]))
            case MessageType.ROUND_CERTIFICATE:
                rlp.as_list(items, 4)
                return RoundCertificate(_height(items[1]), _round(items[2]), _entries(items[3], _round(items[2])))
            case MessageType.STATUS:
                rlp.as_list(items, 6)
                step = rlp.as_uint(items[3], bits=8)
                if step > Step.DECIDED:
                    raise InvalidMessage(f"step {step} is above {int(Step.DECIDED)}")
                base, head = rlp.as_uint(items[4], HEIGHT_BITS), rlp.as_uint(items[5], HEIGHT_BITS)
                return Status(_height(items[1]), _round(items[2]), Step(step), base, head)
    except rlp.RLPError as error:
        raise InvalidMessage(f"not a message: {error}") from error
    raise InvalidMessage(f"message type {kind} is not known")


def encode_last_commit(certificate: CommitCertificate | None) -> bytes:
    """What a block carries of its parent's decision: rlp[h, r, hash, bitmap, [signature ...]]; block 1: rlp[]."""
    return rlp.encode([] if certificate is None else _certificate_fields(certificate))


def decode_last_commit(data: bytes) -> CommitCertificate | None:
    """Inverse of encode_last_commit; None for block 1's empty list. Raises InvalidMessage."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise InvalidMessage(f"{len(data)} bytes; a commit has at most {MESSAGE_BYTES_MAX}")
    try:
        items = rlp.decode_list(data)
        return CommitCertificate(*_certificate_values(items)) if items else None
    except rlp.RLPError as error:
        raise InvalidMessage(f"not a commit: {error}") from error


def _signed_fields(message: Signable) -> list[rlp.Item]:
    if isinstance(message, Proposal):
        return [
            rlp.from_uint(MessageType.PROPOSAL),
            rlp.from_uint(message.height),
            rlp.from_uint(message.round),
            message.block_hash,
            rlp.from_uint(message.valid_round + 1),
            rlp.from_uint(message.body_size),
            message.parts_root,
        ]
    return [
        rlp.from_uint(message.type),
        rlp.from_uint(message.height),
        rlp.from_uint(message.round),
        message.block_hash or b"",
    ]


def _certificate_fields(message: PolkaCertificate | CommitCertificate) -> list[rlp.Item]:
    return [
        rlp.from_uint(message.height),
        rlp.from_uint(message.round),
        message.block_hash,
        message.bitmap,
        list(message.signatures),
    ]


def _certificate_values(items: list[rlp.Item]) -> tuple[int, int, bytes, bytes, tuple[bytes, ...]]:
    rlp.as_list(items, 5)
    bitmap = rlp.as_bytes(items[3], most=BITMAP_BYTES_MAX)
    signatures = rlp.as_list(items[4])
    if int.from_bytes(bitmap, "little").bit_count() != len(signatures):
        raise InvalidMessage(f"{len(signatures)} signatures for the bitmap {bitmap.hex()}")
    return (
        _height(items[0]),
        _round(items[1]),
        rlp.as_bytes(items[2], length=32),
        bitmap,
        tuple(_signature(item) for item in signatures),
    )


def _entries(item: rlp.Item, round_: int) -> tuple[RoundEntry, ...]:
    rows = rlp.as_list(item)
    if len(rows) > VALIDATORS_MAX:
        raise InvalidMessage(f"{len(rows)} entries; a round certificate has at most {VALIDATORS_MAX}")
    entries = []
    last = -1
    for row in rows:
        fields = rlp.as_list(row, 5)
        index, kind = rlp.as_uint(fields[0], bits=8), rlp.as_uint(fields[1], bits=8)
        if not last < index < VALIDATORS_MAX:
            raise InvalidMessage(f"entry {index} after {last}: indexes ascend and stay below {VALIDATORS_MAX}")
        if kind not in (VoteType.PREVOTE, VoteType.PRECOMMIT):
            raise InvalidMessage(f"entry {index} has vote type {kind}")
        entry_round = _round(fields[2])
        if entry_round < round_:
            raise InvalidMessage(f"entry {index} is of round {entry_round}, before {round_}")
        entries.append(
            RoundEntry(index, VoteType(kind), entry_round, _hash_or_nil(fields[3]), _signature(fields[4]))
        )
        last = index
    return tuple(entries)


def _height(item: rlp.Item) -> int:
    height = rlp.as_uint(item, HEIGHT_BITS)
    if height == 0:
        raise InvalidMessage("height 0 is genesis: nobody votes on it")
    return height


def _round(item: rlp.Item) -> int:
    value = rlp.as_uint(item, bits=32)
    if value > ROUND_MAX:
        raise InvalidMessage(f"round {value} is above {ROUND_MAX}")
    return value


def _body_size(item: rlp.Item) -> int:
    size = rlp.as_uint(item, bits=32)
    if not 0 < size <= BODY_BYTES_MAX:
        raise InvalidMessage(f"a body of {size} bytes; it has 1 to {BODY_BYTES_MAX}")
    return size


def _hash_or_nil(item: rlp.Item) -> bytes | None:
    data = rlp.as_bytes(item, most=32)
    if not data:
        return None
    return rlp.as_bytes(data, length=32)


def _signature(item: rlp.Item) -> bytes:
    return rlp.as_bytes(item, length=SIGNATURE_BYTES)
