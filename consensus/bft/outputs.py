"""Everything that the agreement core can do: all its outputs. Node carries them out in the order given.

Before the message of a Broadcast is signed, every input so far is synced to the write-ahead log: a signature is what
others may hold against this validator. Whatever else a lost input caused is done again (docs/decisions/003).
"""

from dataclasses import dataclass
from typing import TypeAlias

from consensus.bft.inputs import ProposalReceived, VoteReceived
from consensus.bft.timing import TimeoutKind
from primitives.vote import CommitCertificate, ConsensusMessage, Proposal, Signed, Step, Vote


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Sign this, send it to everyone, and give the signed message back to the core as an input.

    The core never signs and never counts an own vote before it comes back. A signer that refuses (double-sign
    protection, a new signer's silence) simply gives nothing back; the core goes on as an observer of that step.
    """

    message: Proposal | Vote


@dataclass(frozen=True, slots=True)
class Resend:
    """Send this complete message (an own signed one again, or a certificate) to everyone, past any seen-cache."""

    message: ConsensusMessage


@dataclass(frozen=True, slots=True)
class Redeliver:
    """Give this input to the core again, logged like a new one: it came before its height began.

    Emitted at StartHeight. Because it is logged after StartHeight, replaying the log from the last StartHeight alone
    rebuilds the core; without that a replay could miss votes that the core had locked on.
    """

    event: ProposalReceived | VoteReceived


@dataclass(frozen=True, slots=True)
class SendStatus:
    """Send everyone a Status of this height, round and step; node fills in base and head from its ledger."""

    height: int
    round: int
    step: Step


@dataclass(frozen=True, slots=True)
class SendCommit:
    """Peer works on `height`, which is decided here: send it that height's commit certificate and body.

    Node reads both from the ledger; if the block is not stored yet or no longer, it sends nothing. How often one peer
    may ask is node's to limit: a body is much larger than a Status.
    """

    peer: bytes
    height: int


@dataclass(frozen=True, slots=True)
class ScheduleTimeout:
    """Give back TimeoutElapsed(kind, height, round) after duration_ms. Timers need no cancelling."""

    kind: TimeoutKind
    height: int
    round: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """This node proposes at (height, round) and nothing valid is known: build a block, answer with BlockBuilt."""

    height: int
    round: int


@dataclass(frozen=True, slots=True)
class FetchBlock:
    """Obtain the body of block_hash (unless it is at hand), trying until Decide. No answer is expected.

    body_size and parts_root come from the proposal; None when only a certificate names the block.
    """

    height: int
    block_hash: bytes
    body_size: int | None
    parts_root: bytes | None


@dataclass(frozen=True, slots=True)
class CheckBlock:
    """As soon as the body of block_hash is at hand, check it and answer with one BlockChecked.

    Never withdrawn, by a change of round either; node drops it at Decide. The core may ask again for a hash that it
    had let go of (eight rounds later), and node may then answer from its cache.
    """

    height: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Decide:
    """block_hash is final: commit it with this certificate, then give StartHeight(height + 1) at its pace."""

    height: int
    block_hash: bytes
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class Evidence:
    """One key signed two different messages of one (height, round, step). Logged and counted."""

    signer: bytes
    first: Signed
    second: Signed


@dataclass(frozen=True, slots=True)
class Dropped:
    """An input had no effect, and why. Never an error: what was dropped may be sent again."""

    reason: str
    height: int
    round: int
    source: bytes


@dataclass(frozen=True, slots=True)
class Halt:
    """More than two thirds stand behind a block that is invalid here: a bug somewhere. Stop the node with a dump."""

    height: int
    block_hash: bytes
    reason: str


Output: TypeAlias = (
    Broadcast
    | Resend
    | Redeliver
    | SendStatus
    | SendCommit
    | ScheduleTimeout
    | BuildBlock
    | FetchBlock
    | CheckBlock
    | Decide
    | Evidence
    | Dropped
    | Halt
)
