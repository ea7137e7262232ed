"""Messages of the agreement: one encoding each, sign bytes as written, and everything else refused."""

import random

import pytest

from primitives import rlp
from primitives.hashing import keccak
from primitives.keys import InvalidSignature, address_of, sign
from primitives.vote import (
    BODY_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    ROUND_MAX,
    CommitCertificate,
    ConsensusMessage,
    InvalidMessage,
    PolkaCertificate,
    Proposal,
    RoundCertificate,
    RoundEntry,
    SignContext,
    SignedProposal,
    SignedVote,
    Status,
    Step,
    Vote,
    VoteType,
    decode_last_commit,
    decode_message,
    encode_last_commit,
    encode_message,
    sign_bytes,
    signer_of,
    step_of,
)

CONTEXT = SignContext(31337, b"g" * 32)
HASH, ROOT, SIGNATURE = b"h" * 32, b"r" * 32, b"s" * 65
KEY = b"\x01" * 32
FULL = tuple(RoundEntry(i, VoteType.PREVOTE, ROUND_MAX, HASH, SIGNATURE) for i in range(128))

MESSAGES: list[ConsensusMessage] = [
    SignedProposal(Proposal(1, 0, HASH, -1, 1, ROOT), SIGNATURE),
    SignedProposal(Proposal(2**64 - 1, ROUND_MAX, HASH, ROUND_MAX - 1, BODY_BYTES_MAX, ROOT), SIGNATURE),
    SignedVote(Vote(VoteType.PREVOTE, 7, 3, HASH), SIGNATURE),
    SignedVote(Vote(VoteType.PRECOMMIT, 7, 3, None), SIGNATURE),
    PolkaCertificate(7, 3, HASH, b"\x05", (SIGNATURE, SIGNATURE)),
    CommitCertificate(7, 3, HASH, b"\xff" * 16, (SIGNATURE,) * 128),
    RoundCertificate(7, 3, (RoundEntry(2, VoteType.PRECOMMIT, 3, None, SIGNATURE),)),
    RoundCertificate(2**64 - 1, ROUND_MAX, FULL),
    Status(7, 3, Step.PRECOMMIT, 0, 6),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back(message: ConsensusMessage) -> None:
    data = encode_message(message)
    assert len(data) <= MESSAGE_BYTES_MAX
    assert decode_message(data) == message


def test_sign_bytes_are_as_written() -> None:
    """formats.md: keccak(rlp[domain, chain id, genesis hash, type, fields...]), nil = empty string."""
    head = [b"labora/consensus/1", b"\x7a\x69", b"g" * 32]
    vote = Vote(VoteType.PRECOMMIT, 7, 0, None)
    assert sign_bytes(CONTEXT, vote) == keccak(rlp.encode([*head, b"\x03", b"\x07", b"", b""]))
    proposal = Proposal(7, 2, HASH, -1, 258, ROOT)
    assert sign_bytes(CONTEXT, proposal) == keccak(
        rlp.encode([*head, b"\x01", b"\x07", b"\x02", HASH, b"", b"\x01\x02", ROOT])
    )


def test_every_field_is_signed() -> None:
    variants = [
        Vote(VoteType.PREVOTE, 7, 3, HASH),
        Vote(VoteType.PRECOMMIT, 7, 3, HASH),
        Vote(VoteType.PREVOTE, 8, 3, HASH),
        Vote(VoteType.PREVOTE, 7, 4, HASH),
        Vote(VoteType.PREVOTE, 7, 3, None),
        Proposal(7, 3, HASH, -1, 1, ROOT),
        Proposal(7, 3, HASH, 0, 1, ROOT),
        Proposal(7, 3, HASH, -1, 2, ROOT),
        Proposal(7, 3, HASH, -1, 1, HASH),
    ]
    contexts = [CONTEXT, SignContext(1, b"g" * 32), SignContext(31337, b"h" * 32)]
    digests = {sign_bytes(context, message) for context in contexts for message in variants}
    assert len(digests) == len(contexts) * len(variants)


def test_the_signer_is_recovered() -> None:
    for message, wrapped in (
        (Vote(VoteType.PREVOTE, 7, 3, HASH), SignedVote),
        (Proposal(7, 3, HASH, -1, 1, ROOT), SignedProposal),
    ):
        signature = sign(sign_bytes(CONTEXT, message), KEY)
        assert signer_of(CONTEXT, wrapped(message, signature)) == address_of(KEY)
        with pytest.raises(InvalidSignature):
            signer_of(CONTEXT, wrapped(message, signature[:64] + b"\x02"))


def test_steps_are_in_the_order_of_signing() -> None:
    votes = [Vote(VoteType.PREVOTE, 1, 0, None), Vote(VoteType.PRECOMMIT, 1, 0, None)]
    assert [step_of(message) for message in (Proposal(1, 0, HASH, -1, 1, ROOT), *votes)] == [0, 1, 2]


def raw(*items: rlp.Item) -> bytes:
    return rlp.encode(list(items))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a message"),
        (b"\xc0", "empty list"),
        (b"\x01", "expected a list"),
        (raw(b"\x08"), "type 8 is not known"),
        (raw(b"\x02", b"", b"", HASH, SIGNATURE), "height 0"),
        (raw(b"\x02", b"\x00\x07", b"", HASH, SIGNATURE), "leading zero"),
        (raw(b"\x02", b"\x01" * 9, b"", HASH, SIGNATURE), "at most 8 bytes"),
        (raw(b"\x02", b"\x07", b"\xff" * 4, HASH, SIGNATURE), "round 4294967295 is above"),
        (raw(b"\x02", b"\x07", b"", HASH[:31], SIGNATURE), "expected 32 bytes"),
        (raw(b"\x02", b"\x07", b"", HASH, SIGNATURE[:64]), "expected 65 bytes"),
        (raw(b"\x02", b"\x07", b"", HASH, SIGNATURE, b""), "list of 5 items"),
        (raw(b"\x02", b"\x07", b"", [HASH], SIGNATURE), "found a list"),
        (raw(b"\x01", b"\x07", b"", b"", b"", b"\x01", ROOT, SIGNATURE), "expected 32 bytes"),
        (raw(b"\x01", b"\x07", b"", HASH, b"", b"", ROOT, SIGNATURE), "a body of 0 bytes"),
        (raw(b"\x01", b"\x07", b"", HASH, b"", b"\x10\x00\x01", ROOT, SIGNATURE), "a body of 1048577 bytes"),
        (
            raw(b"\x01", b"\x07", b"\x01", HASH, b"\x02", b"\x01", ROOT, SIGNATURE),
            "valid round 1 is not before round 1",
        ),
        (raw(b"\x04", b"\x07", b"", HASH, b"\x03", [SIGNATURE]), "1 signatures for the bitmap 03"),
        (raw(b"\x04", b"\x07", b"", b"", b"\x01", [SIGNATURE]), "expected 32 bytes"),
        (raw(b"\x06", b"\x07", b"", HASH, b"\x01" * 17, [SIGNATURE] * 17), "at most 16 bytes"),
        (raw(b"\x05", b"\x07", b"", [[b"", b"\x04", b"", HASH, SIGNATURE]]), "vote type 4"),
        (raw(b"\x05", b"\x07", b"", [[b"\x80", b"\x02", b"", HASH, SIGNATURE]]), "entry 128"),
        (raw(b"\x05", b"\x07", b"", [[b"\x01", b"\x02", b"", HASH, SIGNATURE]] * 2), "entry 1 after 1"),
        (raw(b"\x05", b"\x07", b"\x02", [[b"\x01", b"\x02", b"\x01", HASH, SIGNATURE]]), "before 2"),
        (raw(b"\x05", b"\x07", b"", [[b"", b"\x02", b"", HASH, SIGNATURE]] * 129), "129 entries"),
        (raw(b"\x07", b"\x07", b"", b"\x04", b"", b""), "step 4"),
        (b"\xff" * (MESSAGE_BYTES_MAX + 1), "at most 32768"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        decode_message(data)


def test_a_flipped_bit_is_another_message_or_none(rng: random.Random) -> None:
    for message in MESSAGES[:7]:
        data = bytearray(encode_message(message))
        for _ in range(200):
            place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
            data[place] ^= bit
            try:
                other = decode_message(bytes(data))
            except InvalidMessage:
                pass
            else:
                assert other != message and encode_message(other) == bytes(data)
            data[place] ^= bit


def test_last_commit() -> None:
    commit = CommitCertificate(7, 3, HASH, b"\x05", (SIGNATURE, SIGNATURE))
    assert decode_last_commit(encode_last_commit(commit)) == commit
    assert encode_last_commit(None) == b"\xc0" and decode_last_commit(b"\xc0") is None
    for bad in (b"", b"\x80", encode_message(commit), b"\xc1\x80", bytes(MESSAGE_BYTES_MAX + 1)):
        with pytest.raises(InvalidMessage):
            decode_last_commit(bad)
