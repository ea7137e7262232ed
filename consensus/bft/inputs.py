"""Everything that can happen to the agreement core: all its inputs, and their encoding for the write-ahead log.

What node has done before an input is given to the core:

- a proposal's or vote's signature was recovered (primitives.vote.signer_of) and the recovered address is passed as
  `signer`; the core itself checks that the signer belongs to the set of that height and whose turn it is;
- a certificate was verified against the validator set of its height (certificate.verify);
- the input was appended to the log (encode_input); the log is synced before anything that follows is signed
  (docs/decisions/003).

The node's own messages come back as inputs too: once a Broadcast was signed and sent, the signed message is given to
the core as ProposalReceived (received_ms = now) or VoteReceived like anybody else's. The core counts nothing before.

After a crash a new core is given the log from its last StartHeight on, in order, its outputs held back; then the
outputs of Core.resume() are carried out: whatever is still outstanding (checks, builds, timers, own messages; the
signer gives the same signature for the same bytes and refuses what it has gone past).
"""

from dataclasses import dataclass
from typing import TypeAlias

from consensus.bft.timing import TimeoutKind
from primitives import rlp
from primitives.validators import InvalidValidatorSet, ValidatorSet
from primitives.vote import (
    Certificate,
    CommitCertificate,
    InvalidMessage,
    PolkaCertificate,
    RoundCertificate,
    SignedProposal,
    SignedVote,
    Status,
    decode_message,
    encode_message,
)

REASON_BYTES_MAX = 1024
"""Why a block was refused, in the log; longer reasons are cut."""
PEER_BYTES_MAX = 64


@dataclass(frozen=True, slots=True)
class StartHeight:
    """Begin to agree on `height`: its parent is committed, and its pace (formats.md) allows it.

    validator_set: set of this height; next_validator_set: set of height + 1 (whose early messages are kept).
    priorities: of the proposer rotation before this height's round 0, in set order (ProposerSchedule.priorities).
    """

    height: int
    validator_set: ValidatorSet
    next_validator_set: ValidatorSet
    priorities: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProposalReceived:
    """A proposal, whose signature recovers to `signer`, first seen at received_ms of the node's wall clock."""

    proposal: SignedProposal
    signer: bytes
    received_ms: int


@dataclass(frozen=True, slots=True)
class VoteReceived:
    """A vote whose signature recovers to `signer`."""

    vote: SignedVote
    signer: bytes


@dataclass(frozen=True, slots=True)
class CertificateReceived:
    """A certificate, verified against the set of its height."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class StatusReceived:
    """Where a peer says it stands; `peer` is only handed back in outputs."""

    peer: bytes
    status: Status


@dataclass(frozen=True, slots=True)
class BlockChecked:
    """Answer to CheckBlock: the body of block_hash was found, and is valid on its parent or not, and why.

    time_ms and proposer (operator address) are the sidecar's; body_size and parts_root are those of the body found,
    so that a block known by its certificate alone can be proposed again. Of an invalid block they are not read.
    Bytes whose parts are not those that the hash commits to are not the body, and no answer: fetching goes on. (An
    invalid block behind which a quorum stands halts the node.)
    """

    height: int
    block_hash: bytes
    valid: bool
    reason: str
    time_ms: int
    proposer: bytes
    body_size: int
    parts_root: bytes


@dataclass(frozen=True, slots=True)
class BlockBuilt:
    """Answer to BuildBlock(height, round): the node's own block, taken as valid; its body is kept by the node."""

    height: int
    round: int
    block_hash: bytes
    time_ms: int
    proposer: bytes
    body_size: int
    parts_root: bytes


@dataclass(frozen=True, slots=True)
class TimeoutElapsed:
    """A timer that ScheduleTimeout asked for has run out; stale ones are harmless."""

    kind: TimeoutKind
    height: int
    round: int


Input: TypeAlias = (
    StartHeight
    | ProposalReceived
    | VoteReceived
    | CertificateReceived
    | StatusReceived
    | BlockChecked
    | BlockBuilt
    | TimeoutElapsed
)


class InvalidInput(ValueError):
    """Bytes that are no logged input."""


def encode_input(event: Input) -> bytes:
    """rlp[kind, fields...]: what the write-ahead log keeps of an input; decode_input gives the same input back."""
    u = rlp.from_uint
    match event:
        case StartHeight():
            offset = [[b"\x01" if p < 0 else b"", u(abs(p))] for p in event.priorities]
            sets = [event.validator_set.encoded, event.next_validator_set.encoded]
            return rlp.encode([u(1), u(event.height), *sets, offset])
        case ProposalReceived():
            return rlp.encode([u(2), encode_message(event.proposal), event.signer, u(event.received_ms)])
        case VoteReceived():
            return rlp.encode([u(3), encode_message(event.vote), event.signer])
        case CertificateReceived():
            return rlp.encode([u(4), encode_message(event.certificate)])
        case StatusReceived():
            return rlp.encode([u(5), event.peer, encode_message(event.status)])
        case BlockChecked():
            reason = event.reason.encode("utf-8")[:REASON_BYTES_MAX]
            flags = [b"\x01" if event.valid else b"", reason]
            block = [u(event.time_ms), event.proposer, u(event.body_size), event.parts_root]
            return rlp.encode([u(6), u(event.height), event.block_hash, *flags, *block])
        case BlockBuilt():
            block = [u(event.time_ms), event.proposer, u(event.body_size), event.parts_root]
            return rlp.encode([u(7), u(event.height), u(event.round), event.block_hash, *block])
        case TimeoutElapsed():
            return rlp.encode([u(8), u(event.kind), u(event.height), u(event.round)])


def decode_input(data: bytes) -> Input:
    """Inverse of encode_input. Raises InvalidInput."""
    try:
        items = rlp.decode_list(data)
        kind = rlp.as_uint(items[0], bits=8) if items else 0
        return _decode(kind, items[1:])
    except (rlp.RLPError, InvalidMessage, InvalidValidatorSet) as error:
        raise InvalidInput(f"not a logged input: {error}") from error


def _decode(kind: int, items: list[rlp.Item]) -> Input:
    match kind:
        case 1:
            rlp.as_list(items, 4)
            validator_set = ValidatorSet.decode(rlp.as_bytes(items[1]))
            priorities = tuple(_signed(rlp.as_list(pair, 2)) for pair in rlp.as_list(items[3], len(validator_set)))
            next_set = ValidatorSet.decode(rlp.as_bytes(items[2]))
            return StartHeight(rlp.as_uint(items[0], 64), validator_set, next_set, priorities)
        case 2:
            rlp.as_list(items, 3)
            proposal = decode_message(rlp.as_bytes(items[0]))
            if isinstance(proposal, SignedProposal):
                return ProposalReceived(proposal, rlp.as_bytes(items[1], length=20), rlp.as_uint(items[2], 64))
        case 3:
            rlp.as_list(items, 2)
            vote = decode_message(rlp.as_bytes(items[0]))
            if isinstance(vote, SignedVote):
                return VoteReceived(vote, rlp.as_bytes(items[1], length=20))
        case 4:
            rlp.as_list(items, 1)
            certificate = decode_message(rlp.as_bytes(items[0]))
            if isinstance(certificate, PolkaCertificate | RoundCertificate | CommitCertificate):
                return CertificateReceived(certificate)
        case 5:
            rlp.as_list(items, 2)
            status = decode_message(rlp.as_bytes(items[1]))
            if isinstance(status, Status):
                return StatusReceived(rlp.as_bytes(items[0], most=PEER_BYTES_MAX), status)
        case 6:
            rlp.as_list(items, 8)
            return BlockChecked(
                height=rlp.as_uint(items[0], 64),
                block_hash=rlp.as_bytes(items[1], length=32),
                valid=_flag(items[2]),
                reason=rlp.as_bytes(items[3], most=REASON_BYTES_MAX).decode("utf-8", "replace"),
                time_ms=rlp.as_uint(items[4], 64),
                proposer=rlp.as_bytes(items[5], most=20),
                body_size=rlp.as_uint(items[6], 32),
                parts_root=rlp.as_bytes(items[7], most=32),
            )
        case 7:
            rlp.as_list(items, 7)
            return BlockBuilt(
                height=rlp.as_uint(items[0], 64),
                round=rlp.as_uint(items[1], 32),
                block_hash=rlp.as_bytes(items[2], length=32),
                time_ms=rlp.as_uint(items[3], 64),
                proposer=rlp.as_bytes(items[4], length=20),
                body_size=rlp.as_uint(items[5], 32),
                parts_root=rlp.as_bytes(items[6], length=32),
            )
        case 8:
            rlp.as_list(items, 3)
            timer = rlp.as_uint(items[0], 8)
            if timer <= TimeoutKind.REBROADCAST:
                return TimeoutElapsed(TimeoutKind(timer), rlp.as_uint(items[1], 64), rlp.as_uint(items[2], 32))
    raise InvalidInput(f"kind {kind} with {len(items)} fields is no logged input")


def _flag(item: rlp.Item) -> bool:
    value = rlp.as_uint(item, bits=8)
    if value > 1:
        raise InvalidInput(f"{value} is neither true nor false")
    return value == 1


def _signed(pair: list[rlp.Item]) -> int:
    magnitude = rlp.as_uint(pair[1], 64)
    return -magnitude if _flag(pair[0]) else magnitude
