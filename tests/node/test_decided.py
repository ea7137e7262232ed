"""A decided block from a peer: the body must be the one that its header commits to, or any peer could halt a node."""

from dataclasses import replace
from typing import Any

import pytest

from genesis.build import build_genesis
from genesis.spec import devnet_spec, load_spec
from node.consensus import decode_decided
from node.messages import BadMessage
from primitives.transaction import system_transaction
from primitives.vote import CommitCertificate, PolkaCertificate, encode_message

BLOCK = build_genesis(load_spec(devnet_spec(1, 1))).block
"""Any whole block serves: what is decided is not the question here."""


def certificate(kind: type[CommitCertificate] | type[PolkaCertificate] = CommitCertificate, **changes: Any) -> bytes:
    return encode_message(kind(**{"height": 1, "round": 0, "block_hash": BLOCK.hash, "bitmap": b"\x00",
                                  "signatures": (), **changes}))  # fmt: skip


def test_a_whole_body_and_the_commit_of_its_hash_are_taken() -> None:
    block, commit = decode_decided(BLOCK.wire_body, certificate())
    assert block == BLOCK and commit.block_hash == BLOCK.hash


@pytest.mark.parametrize(
    "forged",
    [
        {"transactions": (system_transaction(31_337, 1, 6_000_000, b""),)},
        {"sidecar": replace(BLOCK.sidecar, time_ms=2)},
        {"last_commit": b"\xc1\x01"},
    ],
    ids=["transactions", "sidecar", "last commit"],
)
def test_other_contents_under_the_decided_header_are_the_peers_fault(forged: dict[str, Any]) -> None:
    other = replace(BLOCK, **forged)
    assert other.hash == BLOCK.hash
    with pytest.raises(BadMessage, match="the contents are not those of the header"):
        decode_decided(other.wire_body, certificate())


def test_a_certificate_that_is_none_of_this_block_is_the_peers_fault() -> None:
    with pytest.raises(BadMessage, match="with the certificate of"):
        decode_decided(BLOCK.wire_body, certificate(block_hash=b"\x01" * 32))
    with pytest.raises(BadMessage, match="commit certificates"):
        decode_decided(BLOCK.wire_body, certificate(PolkaCertificate))
    with pytest.raises(BadMessage):
        decode_decided(BLOCK.wire_body[:-1], certificate())
    with pytest.raises(BadMessage):
        decode_decided(BLOCK.wire_body, b"\xc0")
