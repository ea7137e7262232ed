"""Tries: the public vectors, py-trie as the oracle, proofs that py-trie accepts, damage that is noticed."""

import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from trie import HexaryTrie

from primitives import rlp
from primitives.hashing import EMPTY_TRIE_ROOT, keccak
from vm import mpt
from vm.mpt import CorruptState, MissingNode


def to_bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("name", ["trietest", "trieanyorder", "hex_encoded_securetrie_test"])
def test_public_vectors(name: str, secure: bool, vectors: Path) -> None:
    suffix = "_secureTrie" if secure and not name.startswith("hex") else ""
    hashed = secure or name.startswith("hex")
    cases = orjson.loads((vectors / "ethereum-tests/TrieTests" / f"{name}{suffix}.json").read_bytes())
    assert cases
    for case in cases.values():
        entries = case["in"].items() if isinstance(case["in"], dict) else case["in"]
        held: dict[bytes, bytes] = {}
        for key, value in entries:
            path = keccak(to_bytes(key)) if hashed else to_bytes(key)
            held.pop(path, None)
            if value is not None:
                held[path] = to_bytes(value)
        assert mpt.build(held.items()).hex() == case["root"].removeprefix("0x")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 17, 127, 128, 129, 300])
def test_ordered_root_is_py_tries(count: int, rng: random.Random) -> None:
    items = [rng.randbytes(rng.randrange(1, 200)) for _ in range(count)]
    oracle = HexaryTrie({})
    for index, item in enumerate(items):
        oracle[rlp.encode(rlp.from_uint(index))] = item
    assert mpt.ordered_trie_root(items) == oracle.root_hash


def random_pairs(rng: random.Random, count: int) -> dict[bytes, bytes]:
    """Keys of mixed lengths with shared beginnings, values short enough to be embedded and long ones."""
    alphabet = [rng.randbytes(1) for _ in range(3)]
    keys = {b"".join(rng.choices(alphabet, k=rng.randrange(1, 9))) for _ in range(count)}
    return {key: rng.randbytes(rng.choice((1, 2, 31, 32, 33, 100))) for key in sorted(keys)}


def test_root_nodes_reads_and_proofs_against_py_trie(seeds: list[int]) -> None:
    for seed in range(60):
        seeds.append(seed)
        rng = random.Random(seed)
        pairs = random_pairs(rng, rng.randrange(1, 120))
        oracle = HexaryTrie({})
        for key, value in pairs.items():
            oracle[key] = value
        nodes: dict[bytes, bytes] = {}
        root = mpt.build(pairs.items(), nodes)
        assert root == oracle.root_hash, f"seed {seed}"
        assert all(keccak(node) == key for key, node in nodes.items())
        for key in [*pairs, *(rng.randbytes(rng.randrange(0, 5)) for _ in range(20))]:
            value, proof = mpt.prove(nodes, root, key)
            assert value == pairs.get(key) == mpt.get(nodes, root, key), f"seed {seed}, key {key.hex()}"
            decoded: list[Any] = [rlp.decode(node) for node in proof]
            assert HexaryTrie.get_from_proof(root, key, decoded) == (value or b""), f"seed {seed}, key {key.hex()}"


def test_the_empty_trie() -> None:
    assert mpt.build([]) == EMPTY_TRIE_ROOT == mpt.ordered_trie_root([])
    assert mpt.get({}, EMPTY_TRIE_ROOT, b"key") is None
    assert mpt.prove({}, EMPTY_TRIE_ROOT, b"key") == (None, ())


def test_damage_is_noticed_never_read() -> None:
    nodes: dict[bytes, bytes] = {}
    root = mpt.build([(keccak(bytes((i,))), bytes(40)) for i in range(20)], nodes)
    key = keccak(b"\x07")
    _, proof = mpt.prove(nodes, root, key)
    leaf = keccak(proof[-1])
    flipped = {**nodes, leaf: proof[-1][:-1] + b"\x01"}
    with pytest.raises(CorruptState, match=leaf.hex()):
        mpt.get(flipped, root, key)
    with pytest.raises(MissingNode, match=leaf.hex()):
        mpt.get({name: node for name, node in nodes.items() if name != leaf}, root, key)
    with pytest.raises(MissingNode):
        mpt.get(nodes, bytes(32), key)


def test_account_proof_of_present_and_absent() -> None:
    nodes: dict[bytes, bytes] = {}
    slots = {0: 1, 1: 2**255, 77: 5}
    storage_root = mpt.build(
        [(mpt.storage_key(slot), rlp.encode(rlp.from_uint(value))) for slot, value in slots.items()], nodes
    )
    here, absent = b"\x11" * 20, b"\x22" * 20
    root = mpt.build([(keccak(here), mpt.encode_account(3, 10**18, storage_root, keccak(b"code")))], nodes)
    proof = mpt.prove_account(nodes, root, here, [0, 1, 2])
    assert (proof.nonce, proof.balance, proof.storage_root) == (3, 10**18, storage_root)
    assert [(entry.slot, entry.value) for entry in proof.storage] == [(0, 1), (1, 2**255), (2, 0)]
    for entry in proof.storage:
        encoded = HexaryTrie.get_from_proof(
            storage_root, mpt.storage_key(entry.slot), [rlp.decode(node) for node in entry.proof]
        )
        assert mpt.decode_slot(encoded or None) == entry.value
    nothing = mpt.prove_account(nodes, root, absent, [9])
    assert (nothing.nonce, nothing.balance, nothing.storage_root) == (0, 0, EMPTY_TRIE_ROOT)
    assert nothing.proof and nothing.storage[0].value == 0 and nothing.storage[0].proof == ()
