"""From a peer's bytes to an input of the agreement core: decode, then recover who signed. Translated once, here.

Knows no sockets and no state beyond a cache: a message is decoded for relaying and again for the core.
"""

from dataclasses import dataclass

from consensus.bft.certificate import InvalidCertificate, verify
from consensus.bft.inputs import (
    CertificateReceived,
    Input,
    ProposalReceived,
    StatusReceived,
    VoteReceived,
)
from primitives.keys import InvalidSignature
from primitives.validators import ValidatorSet
from primitives.vote import (
    ConsensusMessage,
    InvalidMessage,
    SignContext,
    SignedProposal,
    SignedVote,
    Status,
    decode_message,
    sign_bytes,
    signer_of,
)

CACHE_MESSAGES_MAX = 2048
CACHED_BYTES_MAX = 512
"""Votes and proposals; certificates are longer and are decoded again."""


class BadMessage(ValueError):
    """What a peer sent is no message, or nobody's signature: the peer's fault."""


class OtherHeight(ValueError):
    """A certificate that cannot be judged here now; nobody's fault."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A message and, of a signed one, the consensus address that its signature recovers to."""

    message: ConsensusMessage
    signer: bytes | None


class Decoder:
    """Decodes the messages of one chain."""

    def __init__(self, context: SignContext) -> None:
        self._context = context
        self._cache: dict[bytes, Decoded] = {}

    def decode(self, payload: bytes) -> Decoded:
        """Raises BadMessage."""
        if (known := self._cache.get(payload)) is not None:
            return known
        try:
            message = decode_message(payload)
            signer = signer_of(self._context, message) if isinstance(message, SignedProposal | SignedVote) else None
            decoded = Decoded(message, signer)
        except (InvalidMessage, InvalidSignature) as error:
            raise BadMessage(str(error)) from error
        if len(payload) <= CACHED_BYTES_MAX:
            while len(self._cache) >= CACHE_MESSAGES_MAX:
                del self._cache[next(iter(self._cache))]
            self._cache[payload] = decoded
        return decoded

    def identity(self, payload: bytes) -> bytes | None:
        """Sign bytes and signer: two signatures over the same vote by the same key are the same vote.

        None for what is not signed, or is no message.
        """
        try:
            decoded = self.decode(payload)
        except BadMessage:
            return None
        match decoded.message:
            case SignedProposal(proposal=unsigned) | SignedVote(vote=unsigned):
                assert decoded.signer is not None
                return sign_bytes(self._context, unsigned) + decoded.signer
        return None

    def to_input(
        self, payload: bytes, peer: bytes, received_ms: int, height: int, validator_set: ValidatorSet | None
    ) -> Input:
        """The input that the core is given. height and validator_set: those of the core, for certificates.

        Raises BadMessage, OtherHeight.
        """
        decoded = self.decode(payload)
        match decoded.message:
            case SignedProposal() as proposal:
                assert decoded.signer is not None
                return ProposalReceived(proposal, decoded.signer, received_ms)
            case SignedVote() as vote:
                assert decoded.signer is not None
                return VoteReceived(vote, decoded.signer)
            case Status() as status:
                return StatusReceived(peer, status)
            case certificate:
                if certificate.height != height or validator_set is None:
                    raise OtherHeight(f"certificate of height {certificate.height} at height {height}")
                try:
                    verify(self._context, validator_set, certificate)
                except InvalidCertificate as error:
                    raise BadMessage(str(error)) from error
                return CertificateReceived(certificate)
