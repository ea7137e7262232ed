"""Every rule of block validity: a valid block with one thing changed is refused, and the error names that thing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chain.validation import InvalidBlock, is_whole
from genesis.keys import ACCOUNT_KEYS, devnet_validator
from primitives import bls
from primitives.block import Block, decode_block
from primitives.hashing import keccak
from primitives.transaction import sign_transaction, system_transaction
from primitives.vote import decode_last_commit, encode_last_commit
from vm.mpt import ordered_trie_root
from vm.system.prologue import prologue_data

GWEI = 10**9


def changed(
    block: Block, header: dict[str, Any] | None = None, sidecar: dict[str, Any] | None = None, **block_fields: Any
) -> Block:
    """The block with these fields, the hashes that bind sidecar, last commit and transactions made right again."""
    sidecar = sidecar or {}
    if "last_commit" in block_fields:
        sidecar = {"last_commit_hash": keccak(block_fields["last_commit"])} | sidecar
    new_sidecar = replace(block.sidecar, **sidecar)
    bound = {"extra_data": new_sidecar.hash}
    if "transactions" in block_fields:
        bound["transactions_root"] = ordered_trie_root([each.raw for each in block_fields["transactions"]])
    new_header = replace(block.header, **(bound | (header or {})))
    return replace(block, header=new_header, sidecar=new_sidecar, **block_fields)


@pytest.fixture(scope="module")
def case(new_devnet):
    """A devnet at height 2, whose head has a certificate, and a valid block 3 with one transfer."""
    devnet = new_devnet()
    devnet.advance(2)
    devnet.send(0)
    block = decode_block(devnet.ledger.build(devnet.request(), devnet.mempool).wire_body)
    assert len(block.transactions) == 2
    return devnet, block


def author(case: Any) -> Any:
    devnet, block = case
    return devnet.keys[block.sidecar.proposer]


def with_transactions(case: Any, *transactions: Any) -> Block:
    return changed(case[1], transactions=transactions)


def transfer(case: Any, **fields: Any) -> Any:
    values: dict[str, Any] = {"chain_id": 31_337, "nonce": 0, "gas": 21_000, "to": bytes(20), "value": 1}
    values |= {"max_fee_per_gas": 3 * GWEI, "max_priority_fee_per_gas": GWEI}
    return sign_transaction(ACCOUNT_KEYS[0], **(values | fields))


def other_prologue(case: Any, height: int = 3, parent: bytes | None = None) -> Any:
    _, block = case
    data = prologue_data(block.header.parent_hash if parent is None else parent, block.sidecar.beacon_proof)
    return system_transaction(31_337, height, block.header.gas_limit, data)


def last_commit(case: Any, **fields: Any) -> Block:
    """The block with a changed certificate of its parent."""
    certificate = decode_last_commit(case[1].last_commit)
    return changed(case[1], last_commit=encode_last_commit(replace(certificate, **fields)))


def by_some(case: Any, signers: tuple[int, ...]) -> Block:
    """The block with a certificate of its parent by these members only."""
    devnet, block = case
    return changed(block, last_commit=encode_last_commit(devnet.certificate(devnet.ledger.head, signers)))


def proof(case: Any, secret: bytes, mix: bytes | None = None, height: int = 3) -> Block:
    """The block with another beacon proof, and the mix that follows from it."""
    devnet, block = case
    previous = devnet.ledger.head.header.mix_hash
    message = bls.beacon_message(devnet.ledger.genesis_hash, previous if mix is None else mix, height)
    reveal = bls.sign(secret, message)
    mix_hash = bls.next_mix(previous, reveal)
    return changed(block, sidecar={"beacon_proof": reveal}, header={"mix_hash": mix_hash})


RULES: list[tuple[str, str, Callable[[Any], Block]]] = [
    ("number", "skips a height", lambda c: changed(c[1], header={"number": 4})),
    ("parent_hash", "another parent", lambda c: changed(c[1], header={"parent_hash": bytes(32)})),
    ("gas_limit", "a limit of its own", lambda c: changed(c[1], header={"gas_limit": 6_000_001})),
    ("base_fee_per_gas", "a cheaper base fee", lambda c: changed(c[1], header={"base_fee_per_gas": GWEI - 1})),
    ("base_fee_per_gas", "a dearer base fee", lambda c: changed(c[1], header={"base_fee_per_gas": GWEI + 1})),
    ("size", "too many bytes", lambda c: changed(c[1], last_commit=bytes(900 * 1024))),
    ("extra_data", "another sidecar", lambda c: changed(c[1], header={"extra_data": bytes(32)})),
    ("epoch", "the next epoch", lambda c: changed(c[1], sidecar={"epoch": 1})),
    ("validator_set_hash", "another set", lambda c: changed(c[1], sidecar={"validator_set_hash": bytes(32)})),
    ("next_validator_set_hash", "another", lambda c: changed(c[1], sidecar={"next_validator_set_hash": bytes(32)})),
    ("params_hash", "other parameters", lambda c: changed(c[1], sidecar={"params_hash": bytes(32)})),
    ("evidence_root", "evidence", lambda c: changed(c[1], sidecar={"evidence_root": bytes(32)})),
    (
        "time_ms",
        "the parent's time",
        lambda c: changed(c[1], sidecar={"time_ms": c[0].ledger.head.sidecar.time_ms}),
    ),
    ("timestamp", "a second early", lambda c: changed(c[1], header={"timestamp": c[1].header.timestamp - 1})),
    (
        "timestamp",
        "the same second in the sidecar only",
        lambda c: changed(c[1], sidecar={"time_ms": c[1].sidecar.time_ms + 1_000}),
    ),
    ("proposer", "a stranger", lambda c: changed(c[1], sidecar={"proposer": devnet_validator(9).operator_address})),
    ("proposer", "nobody", lambda c: changed(c[1], sidecar={"proposer": bytes(20)})),
    ("coinbase", "somebody else's pocket", lambda c: changed(c[1], header={"coinbase": bytes(20)})),
    ("last_commit_hash", "another hash", lambda c: changed(c[1], sidecar={"last_commit_hash": bytes(32)})),
    ("last_commit", "none", lambda c: changed(c[1], last_commit=b"\xc0")),
    ("last_commit", "no certificate", lambda c: changed(c[1], last_commit=b"\x00\x01")),
    ("last_commit.height", "of another height", lambda c: last_commit(c, height=1)),
    ("last_commit.block_hash", "for another block", lambda c: last_commit(c, block_hash=bytes(32))),
    ("last_commit", "of another round than was signed", lambda c: last_commit(c, round=1)),
    ("last_commit", "exactly half of the power", lambda c: by_some(c, (0, 1))),
    ("last_commit", "signatures in the wrong seats", lambda c: last_commit(c, bitmap=b"\x0d")),
    ("mix_hash", "a mix of its own choice", lambda c: changed(c[1], header={"mix_hash": bytes(32)})),
    ("beacon_proof", "somebody else's key", lambda c: proof(c, devnet_validator(9).beacon)),
    ("beacon_proof", "over another mix", lambda c: proof(c, author(c).beacon, mix=bytes(32))),
    ("beacon_proof", "over another height", lambda c: proof(c, author(c).beacon, height=4)),
    (
        "beacon_proof",
        "no point of the curve",
        lambda c: changed(
            c[1],
            sidecar={"beacon_proof": b"\x01" * 96},
            header={"mix_hash": bls.next_mix(c[0].ledger.head.header.mix_hash, b"\x01" * 96)},
        ),
    ),
    (
        "beacon_proof",
        "empty",
        lambda c: changed(
            c[1],
            sidecar={"beacon_proof": b""},
            header={"mix_hash": bls.next_mix(c[0].ledger.head.header.mix_hash, b"")},
        ),
    ),
    ("transactions", "empty", lambda c: with_transactions(c)),
    ("transactions[0]", "no prologue", lambda c: with_transactions(c, c[1].transactions[1])),
    ("transactions[0]", "of another height", lambda c: with_transactions(c, other_prologue(c, height=4))),
    ("transactions[0]", "of another parent", lambda c: with_transactions(c, other_prologue(c, parent=bytes(32)))),
    ("transactions[1]", "a second prologue", lambda c: with_transactions(c, *c[1].transactions[:1] * 2)),
    ("transactions[1]", "another chain", lambda c: with_transactions(c, c[1].transactions[0], transfer(c, chain_id=1))),
    ("transactions[1]", "too little gas", lambda c: with_transactions(c, other_prologue(c), transfer(c, gas=20_999))),
    (
        "transactions[1]",
        "more than 7/8 of the gas",
        lambda c: with_transactions(c, c[1].transactions[0], transfer(c, gas=5_250_001)),
    ),
    ("transactions", "a nonce ahead", lambda c: with_transactions(c, c[1].transactions[0], transfer(c, nonce=1))),
    ("transactions", "twice the same", lambda c: with_transactions(c, *c[1].transactions, c[1].transactions[1])),
    (
        "transactions",
        "unpayable",
        lambda c: with_transactions(c, c[1].transactions[0], transfer(c, value=10_000 * 10**18)),
    ),
    (
        "transactions",
        "below the base fee",
        lambda c: with_transactions(
            c, c[1].transactions[0], transfer(c, max_fee_per_gas=1, max_priority_fee_per_gas=1)
        ),
    ),
    ("gas_used", "one more", lambda c: changed(c[1], header={"gas_used": c[1].header.gas_used + 1})),
    ("transactions_root", "another root", lambda c: changed(c[1], header={"transactions_root": bytes(32)})),
    ("transactions_root", "one left out", lambda c: replace(c[1], transactions=c[1].transactions[:1])),
    ("gas_used", "one left out", lambda c: with_transactions(c, c[1].transactions[0])),
    ("receipts_root", "another root", lambda c: changed(c[1], header={"receipts_root": bytes(32)})),
    ("logs_bloom", "another bloom", lambda c: changed(c[1], header={"logs_bloom": b"\x01" * 256})),
    ("state_root", "another state", lambda c: changed(c[1], header={"state_root": bytes(32)})),
]


@pytest.mark.parametrize(("field", "what", "mutate"), RULES, ids=[f"{field}: {what}" for field, what, _ in RULES])
def test_a_block_that_breaks_one_rule_is_refused_by_the_name_of_the_field(case, field, what, mutate):
    devnet, _ = case
    with pytest.raises(InvalidBlock) as refused:
        devnet.ledger.check(mutate(case))
    assert refused.value.field == field, str(refused.value)
    assert f"{field}: expected" in str(refused.value)


def test_the_block_itself_is_valid(case):
    devnet, block = case
    devnet.ledger.check(block)
    assert is_whole(block)


def test_a_certificate_of_three_of_four_is_enough_whoever_they_are(case):
    devnet, _ = case
    for absent in range(4):
        devnet.ledger.check(reproposed(devnet, tuple(index for index in range(4) if index != absent)))


def reproposed(devnet: Any, signers: tuple[int, ...]) -> Block:
    commit = encode_last_commit(devnet.certificate(devnet.ledger.head, signers))
    return devnet.ledger.build(replace(devnet.request(), last_commit=commit), devnet.mempool)


def test_block_one_carries_the_empty_commit_and_no_other(new_devnet):
    devnet = new_devnet()
    block = devnet.ledger.build(devnet.request(), devnet.mempool)
    assert block.last_commit == b"\xc0"
    forged = encode_last_commit(devnet.certificate(replace(block, header=replace(block.header, number=1))))
    with pytest.raises(InvalidBlock, match="last_commit: expected 0xc0"):
        devnet.ledger.check(changed(block, last_commit=forged))


def test_a_forged_body_under_a_good_header_is_refused_and_does_not_spoil_the_good_one(case):
    devnet, block = case
    forged = replace(block, transactions=block.transactions[:1])
    assert forged.hash == block.hash
    assert not is_whole(forged)
    with pytest.raises(InvalidBlock):
        devnet.ledger.check(forged)
    devnet.ledger.check(block)
    with pytest.raises(InvalidBlock):
        devnet.ledger.check(forged)


def test_any_member_may_be_the_author_whose_turn_it_was_is_not_asked_here(case):
    devnet, _ = case
    authors = {devnet.ledger.build(devnet.request(round_), devnet.mempool).sidecar.proposer for round_ in range(8)}
    assert authors == set(devnet.keys)
