"""Certificates with real signatures: what verifies, and each way in which one does not."""

from dataclasses import replace

import pytest

from consensus.bft.certificate import (
    InvalidCertificate,
    commit_certificate,
    polka_certificate,
    round_certificate,
    verify,
    votes_of,
)
from primitives.keys import address_of, sign
from primitives.validators import Validator, ValidatorSet
from primitives.vote import (
    CommitCertificate,
    PolkaCertificate,
    RoundCertificate,
    SignContext,
    SignedVote,
    Vote,
    VoteType,
    sign_bytes,
    signer_of,
)

CONTEXT = SignContext(31337, b"g" * 32)
BLOCK = b"b" * 32
KEYS = {address_of(bytes([i + 1]) * 32): bytes([i + 1]) * 32 for i in range(4)}
WEIGHTS = (10, 20, 30, 40)
MEMBERS = ValidatorSet.of(
    Validator(bytes([i + 1]) * 20, address, weight, bytes(48))
    for i, (address, weight) in enumerate(zip(KEYS, WEIGHTS, strict=True))
)


def signature(index: int, vote: Vote, context: SignContext = CONTEXT) -> bytes:
    return sign(sign_bytes(context, vote), KEYS[MEMBERS.validators[index].consensus_address])


def signed(index: int, vote: Vote) -> SignedVote:
    return SignedVote(vote, signature(index, vote))


def commit_of(*indexes: int, context: SignContext = CONTEXT) -> CommitCertificate:
    vote = Vote(VoteType.PRECOMMIT, 5, 2, BLOCK)
    return commit_certificate(MEMBERS, 5, 2, BLOCK, {index: signature(index, vote, context) for index in indexes})


def polka_of(*indexes: int) -> PolkaCertificate:
    vote = Vote(VoteType.PREVOTE, 5, 2, BLOCK)
    return polka_certificate(MEMBERS, 5, 2, BLOCK, {index: signature(index, vote) for index in indexes})


def round_of(*indexes: int) -> RoundCertificate:
    votes = [Vote(VoteType.PREVOTE, 5, 2, None), Vote(VoteType.PRECOMMIT, 5, 3, BLOCK)]
    return round_certificate(5, 2, [(index, signed(index, votes[index % 2])) for index in indexes])


@pytest.mark.parametrize(
    "certificate", [commit_of(2, 3), polka_of(0, 1, 3), commit_of(0, 1, 2, 3), round_of(3), round_of(0, 2)]
)
def test_enough_weight_with_good_signatures_verifies(certificate: CommitCertificate) -> None:
    verify(CONTEXT, MEMBERS, certificate)


@pytest.mark.parametrize("certificate", [commit_of(), commit_of(0, 1, 2), polka_of(1, 3), round_of(2), round_of(0, 1)])
def test_too_little_weight(certificate: CommitCertificate) -> None:
    with pytest.raises(InvalidCertificate, match="not enough"):
        verify(CONTEXT, MEMBERS, certificate)


def test_exactly_two_thirds_are_too_little() -> None:
    equal = ValidatorSet.of(replace(member, power=1) for member in MEMBERS.validators[:3])
    with pytest.raises(InvalidCertificate, match="power 2 of 3 is not enough"):
        verify(CONTEXT, equal, replace(commit_of(0, 1), bitmap=b"\x03"))


def test_another_chain_s_signatures_do_not_count() -> None:
    for other in (SignContext(1, CONTEXT.genesis_hash), SignContext(31337, b"h" * 32)):
        with pytest.raises(InvalidCertificate, match="signed"):
            verify(CONTEXT, MEMBERS, commit_of(2, 3, context=other))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(commit_of(2, 3), round=3), "signed"),
        (replace(commit_of(2, 3), height=6), "signed"),
        (replace(commit_of(2, 3), block_hash=b"c" * 32), "signed"),
        (replace(commit_of(2, 3), signatures=commit_of(2, 3).signatures[::-1]), "signed"),
        (replace(commit_of(2, 3), bitmap=b"\x0a"), "not enough|signed"),
        (replace(commit_of(2, 3), bitmap=b"\x1c"), "bit at or above 4"),
        (replace(commit_of(2, 3), bitmap=b"\x0c\x00"), "2 bytes of bitmap"),
        (replace(commit_of(2, 3), signatures=commit_of(2, 3).signatures[:1]), "1 signatures for 2 bits"),
        (replace(commit_of(2, 3), signatures=(bytes(65), bytes(65))), "signature of member 2"),
    ],
)
def test_a_changed_certificate_does_not_verify(changed: CommitCertificate, message: str) -> None:
    with pytest.raises(InvalidCertificate, match=message):
        verify(CONTEXT, MEMBERS, changed)


def test_precommits_are_no_prevotes() -> None:
    commit = commit_of(2, 3)
    with pytest.raises(InvalidCertificate, match="signed"):
        verify(CONTEXT, MEMBERS, PolkaCertificate(5, 2, BLOCK, commit.bitmap, commit.signatures))


def test_a_round_certificate_names_each_signer_once_and_no_earlier_round() -> None:
    good = round_of(2, 3)
    for entries in ((good.entries[1], good.entries[0]), (good.entries[0], good.entries[0])):
        with pytest.raises(InvalidCertificate, match="after"):
            votes_of(MEMBERS, replace(good, entries=entries))
    with pytest.raises(InvalidCertificate, match="in a set of 4"):
        votes_of(MEMBERS, replace(good, entries=(replace(good.entries[0], index=4),)))
    with pytest.raises(InvalidCertificate, match="entry of round 2 for round 3"):
        votes_of(MEMBERS, replace(good, round=3))


def test_the_votes_inside_come_out_as_they_went_in() -> None:
    vote = Vote(VoteType.PRECOMMIT, 5, 2, BLOCK)
    assert votes_of(MEMBERS, commit_of(1, 3)) == [(1, signed(1, vote)), (3, signed(3, vote))]


def test_votes_that_came_before_cost_nothing_again_in_any_certificate_of_them() -> None:
    verify(CONTEXT, MEMBERS, commit_of(0, 1, 2, 3))
    known = signer_of.cache_info().misses
    for others in ((0, 2, 3), (1, 2, 3), (2, 3)):
        verify(CONTEXT, MEMBERS, commit_of(*others))
    assert signer_of.cache_info().misses == known
