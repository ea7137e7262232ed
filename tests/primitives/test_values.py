"""Keys, addresses, Merkle trees, parameters, blocks and work batches keep their bytes."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives import address, bls, keys, merkle, rlp
from primitives.block import EMPTY_EVIDENCE_ROOT, EMPTY_LAST_COMMIT, Block, MalformedBlock, decode_block
from primitives.hashing import EMPTY_KECCAK, EMPTY_TRIE_ROOT, keccak
from primitives.header import Header, Sidecar, decode_header
from primitives.merkle import pack_tokens, unpack_tokens
from primitives.params import ChainParams, InvalidParams, params_from_json
from primitives.task import (
    Kind,
    MalformedBatch,
    MalformedItem,
    ModelCost,
    Reveal,
    Submission,
    Verdict,
    decode_batch,
    encode_batch,
    price_of,
    task_id,
    vector_of,
    words_of,
)
from primitives.transaction import decode, sign_transaction, system_transaction

KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")


def transfer(nonce: int = 0) -> bytes:
    return sign_transaction(
        KEY, chain_id=31337, nonce=nonce, gas=21000, to=b"\x11" * 20, max_fee_per_gas=2 * 10**9,
        max_priority_fee_per_gas=10**9, value=5,
    ).raw  # fmt: skip


def block(transactions: int = 2) -> Block:
    system = system_transaction(31337, 7, 6_000_000, b"prologue")
    sidecar = Sidecar(0, b"\x01" * 20, b"\x02" * 32, b"\x03" * 32, b"\x04" * 32, keccak(EMPTY_LAST_COMMIT),
                      EMPTY_EVIDENCE_ROOT, 7_500, b"\x05" * 96)  # fmt: skip
    header = Header(b"\x06" * 32, b"\x07" * 20, b"\x08" * 32, EMPTY_TRIE_ROOT, EMPTY_TRIE_ROOT, b"\x00" * 256, 7,
                    6_000_000, 42_000, 7, sidecar.hash, b"\x09" * 32, 10**9)  # fmt: skip
    return Block(header, sidecar, (system, *(decode(transfer(i)) for i in range(transactions))), EMPTY_LAST_COMMIT)


def test_signatures_recover_to_their_key_and_refuse_every_other_form() -> None:
    digest = keccak(b"message")
    signature = keys.sign(digest, KEY)
    assert address.checksum(keys.recover(digest, signature)) == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    high_s = keys.ORDER - int.from_bytes(signature[32:64], "big")
    for bad in (
        signature[:64],
        signature[:64] + b"\x02",
        signature[:32] + high_s.to_bytes(32, "big") + bytes([1 - signature[64]]),
        b"\x00" * 65,
        b"\xff" * 64 + b"\x00",
    ):
        with pytest.raises(keys.InvalidSignature):
            keys.recover(digest, bad)


def test_addresses_carry_the_checksum_of_eip_55() -> None:
    text = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    assert address.checksum(address.parse(text)) == text
    assert address.parse(text.lower()) == address.parse(text)
    for bad in ("0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0x12", "zz"):
        with pytest.raises(address.InvalidAddress):
            address.parse(bad)


def test_created_contract_addresses_follow_sender_and_nonce() -> None:
    sender = address.parse("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    assert address.created_by(sender, 0).hex() == "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"
    assert address.created_by(sender, 1).hex() == "343c43a37d37dff08ae8c4a11544c718abb4fcf8"


def test_merkle_trees_promote_an_odd_node() -> None:
    leaf = [keccak(b"\x00" + bytes([i])) for i in range(3)]
    assert merkle.root([]) == EMPTY_KECCAK
    assert merkle.root([b"\x00"]) == leaf[0]
    pair = keccak(b"\x01" + leaf[0] + leaf[1])
    assert merkle.root([bytes([i]) for i in range(3)]) == keccak(b"\x01" + pair + leaf[2])


@given(st.lists(st.integers(0, 2**32 - 1), max_size=600))
def test_tokens_pack_and_unpack(tokens: list[int]) -> None:
    assert list(merkle.unpack_tokens(merkle.pack_tokens(tokens))) == tokens


def test_a_token_root_depends_on_every_token(rng: random.Random) -> None:
    tokens = [rng.randrange(2**32) for _ in range(700)]
    root = merkle.tokens_root(tokens)
    for at in (0, 255, 256, 699):
        assert merkle.tokens_root([*tokens[:at], tokens[at] ^ 1, *tokens[at + 1 :]]) != root


def test_bls_signatures_verify_for_their_key_and_message_only() -> None:
    secret, other = b"\x07" * 32, b"\x08" * 32
    message = bls.beacon_message(b"\x01" * 32, b"\x02" * 32, 9)
    signature = bls.sign(secret, message)
    assert bls.verify(bls.public_key(secret), message, signature)
    assert not bls.verify(bls.public_key(other), message, signature)
    assert not bls.verify(bls.public_key(secret), keccak(message), signature)
    proof = bls.prove_possession(secret, b"operator")
    assert bls.verify_possession(bls.public_key(secret), b"operator", proof)
    assert not bls.verify_possession(bls.public_key(secret), b"somebody else", proof)
    assert not bls.verify(bls.public_key(secret), bls.public_key(secret) + b"operator", proof)
    infinity = bytes([0xC0]) + b"\x00" * 95
    for bad in (signature[:95], b"\x00" * 96, infinity):
        with pytest.raises(bls.InvalidBLS):
            bls.verify(bls.public_key(secret), message, bad)


def test_devnet_parameters_hold_every_relation() -> None:
    assert ChainParams().check().hash == params_from_json({}).hash
    assert params_from_json({"block_interval_ms": 500}).hash != ChainParams().hash


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("verdict_window", 7, "verdict_window"),
        ("maturity_blocks", 3, "maturity_blocks"),
        ("unbonding_blocks", 440, "unbonding_blocks"),
        ("block_gas_limit", 5_000_000, "8 dispute messages"),
        ("sample_den", 20, "p = 1"),
        ("devnet", 0, "at most 10 validators"),
        ("dispute_clock_blocks", 21, "2 blocks a move"),
        ("silence_blocks", 7, "silence_blocks"),
        ("nonsense", 1, "unknown parameter"),
        ("epoch_blocks", "32", "integer"),
        ("epoch_blocks", True, "integer"),
        ("block_bytes_max", 10**6, "900 KiB"),
    ],
)
def test_a_broken_relation_is_named(name: str, value: object, said: str) -> None:
    with pytest.raises(InvalidParams, match=said):
        params_from_json({name: value})


def test_epochs_begin_after_their_predecessors_last_block() -> None:
    params = ChainParams()
    assert [params.epoch(h) for h in (0, 1, 32, 33, 64, 65)] == [0, 0, 0, 1, 1, 2]
    assert params.first_height(1) == 33
    assert [h for h in range(70) if params.is_epoch_end(h)] == [32, 64]


def test_a_block_survives_the_wire() -> None:
    sent = block()
    received = decode_block(sent.wire_body)
    assert received == sent
    assert received.hash == sent.hash
    assert rlp.decode_list(sent.stored, 4)[0] == sent.header.fields()
    assert received.parts_root == merkle.parts_root(sent.wire_body)


def test_a_header_with_another_constant_is_refused() -> None:
    fields = block().header.fields()
    for place in (1, 7, 14, 16, 17, 18, 19, 20):
        changed = list(fields)
        changed[place] = b"\x01" * max(1, len(fields[place]))
        with pytest.raises(rlp.RLPError):
            decode_header(changed)


@given(st.binary(max_size=300))
def test_garbage_is_no_block(data: bytes) -> None:
    with pytest.raises(MalformedBlock):
        decode_block(data)


def test_cost_follows_the_formula() -> None:
    cost = ModelCost(a=100, b=3, c=7, audit_weight_num=1, audit_weight_den=4)
    assert cost.prefill(5) == 100 * 5 + 3 * 15
    assert cost.execution(Kind.GENERATE, 5, 4) == 100 * 8 + 3 * 36 + 7 * 4
    assert cost.decode(Kind.GENERATE, 5, 4) == cost.execution(Kind.GENERATE, 5, 4) - cost.prefill(5)
    assert cost.audit(Kind.GENERATE, 5, 4) == cost.execution(Kind.GENERATE, 5, 4) // 4
    assert price_of(1, 1) == 1
    assert price_of(10**9, 10**12) == 10**12


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_a_vector_survives_as_words(vector: list[int]) -> None:
    words = words_of(vector)
    assert all(0 <= word < 2**32 for word in words)
    assert vector_of(words) == tuple(vector)
    assert unpack_tokens(pack_tokens(words)) == words


def test_a_work_batch_survives_and_its_bad_items_stand_alone() -> None:
    items = [
        Submission(task_id(31337, 0), (1, 2, 258), b"\x02" * 32, 5, 6, 7, b"cpu"),
        Verdict(task_id(31337, 7), b"\x04" * 32),
        Reveal(task_id(31337, 2**64 - 1), b"\x06" * 32, 2**32 - 1),
    ]
    assert decode_batch(encode_batch(items), 31337) == items
    assert decode_batch(encode_batch(items), 1) != items
    wrong = [[b"\x02", b"\x03", b"short"], [b"\x09", b"\x03", b""], [b"\x02"], [b"\x02", b"\x00", bytes(32)]]
    mixed = rlp.encode([*wrong, [b"\x02", b"\x03" * 9, bytes(32)]])
    decoded = decode_batch(mixed, 31337)
    assert all(isinstance(item, MalformedItem) for item in decoded)
    for bad in (b"", b"\xc0", rlp.encode([[b"\x02", b"", b""]] * 65), rlp.encode([b"x"]), b"\x80"):
        with pytest.raises(MalformedBatch):
            decode_batch(bad, 31337)


def test_the_system_transaction_is_bound_to_chain_and_height() -> None:
    one = system_transaction(31337, 7, 6_000_000, b"")
    assert one.gas == 750_000
    assert one.hash != system_transaction(31337, 8, 6_000_000, b"").hash
    assert one.hash != system_transaction(1, 7, 6_000_000, b"").hash
    assert replace(one, data=b"x").hash != one.hash


@pytest.mark.parametrize(("prompt", "result"), [(1, 1), (5, 1), (5, 4), (40, 17)])
def test_bytes_moved_are_those_of_a_batch_of_one(prompt: int, result: int) -> None:
    """Pass by pass: every weight, what attention has cached, and of each generated token the head."""
    cost = ModelCost(a=1_000, b=10, c=300, audit_weight_num=1, audit_weight_den=4)
    assert cost.prefill_bytes(prompt) == 1_000 + 10 * prompt
    passes = [1_000 + 10 * (prompt + i) for i in range(1, result)]
    assert cost.decode_bytes(Kind.GENERATE, prompt, result) == sum(passes) + 300 * result
    assert cost.decode_bytes(Kind.EMBED, prompt, 64) == 0
    assert cost.decode_bytes(Kind.SCORE, prompt, prompt - 1) == 300
