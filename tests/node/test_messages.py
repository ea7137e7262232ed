"""From a peer's bytes to an input: who signed is known, and a peer's fault is told from nobody's."""

import pytest

from consensus.bft.certificate import commit_certificate
from consensus.bft.inputs import CertificateReceived, ProposalReceived, StatusReceived, VoteReceived
from node.messages import BadMessage, Decoder, OtherHeight
from primitives.keys import address_of, sign
from primitives.validators import Validator, ValidatorSet
from primitives.vote import (
    Proposal,
    Signable,
    SignContext,
    SignedProposal,
    SignedVote,
    Status,
    Step,
    Vote,
    VoteType,
    encode_message,
    sign_bytes,
)

CONTEXT = SignContext(31337, b"\x22" * 32)
KEYS = [bytes([number]) * 32 for number in range(1, 5)]
MEMBERS = ValidatorSet.of(Validator(bytes([n]) * 20, address_of(key), 10, bytes(48)) for n, key in enumerate(KEYS))
BLOCK = b"\xaa" * 32
VOTE = Vote(VoteType.PRECOMMIT, 5, 0, BLOCK)


def signature(message: Signable, key: bytes = KEYS[0]) -> bytes:
    return sign(sign_bytes(CONTEXT, message), key)


def test_signed_messages_come_with_their_signer() -> None:
    decoder = Decoder(CONTEXT)
    vote = SignedVote(VOTE, signature(VOTE))
    assert decoder.to_input(encode_message(vote), b"peer", 7, 5, MEMBERS) == VoteReceived(vote, address_of(KEYS[0]))
    unsigned = Proposal(5, 0, BLOCK, -1, 10, b"\x01" * 32)
    proposal = SignedProposal(unsigned, signature(unsigned))
    event = decoder.to_input(encode_message(proposal), b"peer", 7, 5, MEMBERS)
    assert event == ProposalReceived(proposal, address_of(KEYS[0]), 7)
    status = Status(5, 0, Step.PROPOSE, 1, 4)
    assert decoder.to_input(encode_message(status), b"peer", 7, 5, MEMBERS) == StatusReceived(b"peer", status)


def certificate(keys: list[bytes]):
    signatures = {MEMBERS.index_of(address_of(key)): signature(VOTE, key) for key in keys}
    return commit_certificate(MEMBERS, 5, 0, BLOCK, signatures)


def test_a_certificate_is_verified_against_the_set_of_its_height() -> None:
    decoder = Decoder(CONTEXT)
    good = certificate(KEYS[:3])
    assert decoder.to_input(encode_message(good), b"", 0, 5, MEMBERS) == CertificateReceived(good)
    with pytest.raises(BadMessage, match="not enough"):
        decoder.to_input(encode_message(certificate(KEYS[:2])), b"", 0, 5, MEMBERS)
    with pytest.raises(OtherHeight):
        decoder.to_input(encode_message(good), b"", 0, 6, MEMBERS)
    with pytest.raises(OtherHeight):
        decoder.to_input(encode_message(good), b"", 0, 5, None)


@pytest.mark.parametrize("payload", [b"", b"\xc0", b"\xff" * 50, b"\xc1\x63", bytes(100_000)])
def test_garbage_is_the_peers_fault(payload: bytes) -> None:
    decoder = Decoder(CONTEXT)
    with pytest.raises(BadMessage):
        decoder.decode(payload)
    assert decoder.identity(payload) is None


def test_two_messages_are_the_same_when_key_and_vote_are() -> None:
    decoder = Decoder(CONTEXT)
    first = encode_message(SignedVote(VOTE, signature(VOTE)))
    other_signer = encode_message(SignedVote(VOTE, signature(VOTE, KEYS[1])))
    other_value = Vote(VoteType.PRECOMMIT, 5, 0, None)
    nil = encode_message(SignedVote(other_value, signature(other_value)))
    assert len({decoder.identity(payload) for payload in (first, other_signer, nil)}) == 3
    assert decoder.identity(first) == Decoder(CONTEXT).identity(first)
    assert decoder.identity(encode_message(certificate(KEYS))) is None


def test_the_cache_is_bounded() -> None:
    decoder = Decoder(CONTEXT)
    for round_ in range(2_100):
        decoder.decode(encode_message(Status(5, round_, Step.PROPOSE, 1, 4)))
    assert len(decoder._cache) <= 2_048
