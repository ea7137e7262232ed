"""Certificates: verify what others send, build what this node has gathered.

Verification is what node does before a certificate becomes an input of the core, and what chain does with a block's
last_commit. The caller picks the validator set: that of the certificate's height.
"""

from collections.abc import Iterable, Mapping

from primitives.keys import InvalidSignature
from primitives.validators import InvalidBitmap, ValidatorSet, bitmap_of, indexes_of
from primitives.vote import (
    Certificate,
    CommitCertificate,
    PolkaCertificate,
    RoundCertificate,
    RoundEntry,
    SignContext,
    SignedVote,
    Vote,
    VoteType,
    signer_of,
)


class InvalidCertificate(ValueError):
    """A certificate that does not prove what it says; whoever sent it is at fault."""


def verify(context: SignContext, validator_set: ValidatorSet, certificate: Certificate) -> None:
    """Check signers, bitmap, weight and every signature. Raises InvalidCertificate.

    Polka and commit: more than two thirds. Round: more than one third. Weight is checked before any signature, so
    that a light certificate costs nothing.
    """
    votes = votes_of(validator_set, certificate)
    power = validator_set.power_of(index for index, _ in votes)
    enough = (
        validator_set.is_over_third(power)
        if isinstance(certificate, RoundCertificate)
        else validator_set.is_quorum(power)
    )
    where = f"{type(certificate).__name__} of height {certificate.height} round {certificate.round}"
    if not enough:
        raise InvalidCertificate(f"{where}: power {power} of {validator_set.total_power} is not enough")
    for index, signed in votes:
        expected = validator_set.validators[index].consensus_address
        try:
            signer = signer_of(context, signed)
        except InvalidSignature as error:
            raise InvalidCertificate(f"{where}: signature of member {index}: {error}") from error
        if signer != expected:
            raise InvalidCertificate(f"{where}: member {index} is {expected.hex()}, but {signer.hex()} signed")


def votes_of(validator_set: ValidatorSet, certificate: Certificate) -> list[tuple[int, SignedVote]]:
    """The votes inside, with their signers' places in set order, ascending and distinct. Raises InvalidCertificate."""
    height = certificate.height
    if isinstance(certificate, RoundCertificate):
        votes = []
        last = -1
        for entry in certificate.entries:
            if not last < entry.index < len(validator_set):
                raise InvalidCertificate(f"entry {entry.index} after {last} in a set of {len(validator_set)}")
            if entry.round < certificate.round:
                raise InvalidCertificate(f"entry of round {entry.round} for round {certificate.round}")
            last = entry.index
            vote = Vote(entry.type, height, entry.round, entry.block_hash)
            votes.append((entry.index, SignedVote(vote, entry.signature)))
        return votes
    kind = VoteType.PREVOTE if isinstance(certificate, PolkaCertificate) else VoteType.PRECOMMIT
    vote = Vote(kind, height, certificate.round, certificate.block_hash)
    try:
        indexes = indexes_of(certificate.bitmap, len(validator_set))
    except InvalidBitmap as error:
        raise InvalidCertificate(f"height {height} round {certificate.round}: {error}") from error
    if len(indexes) != len(certificate.signatures):
        raise InvalidCertificate(f"{len(certificate.signatures)} signatures for {len(indexes)} bits")
    return [
        (index, SignedVote(vote, signature))
        for index, signature in zip(indexes, certificate.signatures, strict=True)
    ]


def polka_certificate(
    validator_set: ValidatorSet, height: int, round_: int, block_hash: bytes, signatures: Mapping[int, bytes]
) -> PolkaCertificate:
    """From the prevotes for block_hash: place in set order -> signature."""
    indexes = sorted(signatures)
    bitmap = bitmap_of(indexes, len(validator_set))
    return PolkaCertificate(height, round_, block_hash, bitmap, tuple(signatures[index] for index in indexes))


def commit_certificate(
    validator_set: ValidatorSet, height: int, round_: int, block_hash: bytes, signatures: Mapping[int, bytes]
) -> CommitCertificate:
    """From the precommits for block_hash: place in set order -> signature."""
    indexes = sorted(signatures)
    bitmap = bitmap_of(indexes, len(validator_set))
    return CommitCertificate(height, round_, block_hash, bitmap, tuple(signatures[index] for index in indexes))


def round_certificate(height: int, round_: int, votes: Iterable[tuple[int, SignedVote]]) -> RoundCertificate:
    """From one vote a signer, each of `round_` or later."""
    entries = (
        RoundEntry(index, signed.vote.type, signed.vote.round, signed.vote.block_hash, signed.signature)
        for index, signed in votes
    )
    return RoundCertificate(height, round_, tuple(sorted(entries, key=lambda entry: entry.index)))
