"""The trie that changes in memory says what the reference trie and the builder say, whatever is done to it."""

import random

import pytest
from trie import HexaryTrie

from primitives.hashing import EMPTY_TRIE_ROOT, keccak
from vm import mpt
from vm import trie as trie_module
from vm.mpt import CorruptState, MissingNode
from vm.trie import Nodes, Trie

SEED = 20_260_711


def some_keys(rng: random.Random, count: int) -> list[bytes]:
    """Keys that share long and short beginnings, and hashed ones."""
    stems = [bytes(rng.randrange(4) for _ in range(rng.randrange(3))) for _ in range(4)]
    near = [(rng.choice(stems) + bytes([rng.choice((0, 1, 16, 17, 255))]) * 6)[:5] for _ in range(count // 2)]
    return [*near, *(keccak(rng.randbytes(8)) for _ in range(count // 2))]


@pytest.mark.parametrize("round_", range(12))
def test_any_order_of_writes_and_removals_has_the_root_of_the_reference(round_: int) -> None:
    seed = SEED + round_
    print("seed", seed)
    rng = random.Random(seed)
    keys = some_keys(rng, 40)
    nodes: dict[bytes, bytes] = {}
    oracle, held, root = HexaryTrie({}), {}, EMPTY_TRIE_ROOT
    for _ in range(25):  # one pass is one block: the trie opens at a root, changes, and is hashed once
        trie = Trie(Nodes(nodes), nodes.__setitem__, root)
        for _ in range(rng.randrange(1, 12)):
            key = rng.choice(keys)
            if rng.random() < 0.4:
                trie.delete(key)
                oracle.delete(key)
                held.pop(key, None)
            else:
                value = rng.randbytes(rng.choice((1, 3, 33, 70)))
                trie.set(key, value)
                oracle.set(key, value)
                held[key] = value
            probe = rng.choice(keys)
            assert trie.get(probe) == held.get(probe, b"")
        root = trie.root_hash
        assert root == oracle.root_hash == mpt.build(held.items())
        fresh = Trie(Nodes(nodes), None, root)
        assert all(fresh.get(key) == held.get(key, b"") for key in keys)
        assert all(keccak(encoded) == digest for digest, encoded in nodes.items())


def test_removing_everything_leaves_the_empty_trie() -> None:
    nodes: dict[bytes, bytes] = {}
    trie = Trie(Nodes(nodes), nodes.__setitem__)
    for number in range(50):
        trie.set(keccak(bytes([number])), b"v" * number)
    trie = Trie(Nodes(nodes), nodes.__setitem__, trie.root_hash)
    for number in range(50):
        trie.set(keccak(bytes([number])), b"")  # an empty value is a removal
    assert trie.root_hash == EMPTY_TRIE_ROOT


def test_an_absent_key_removed_changes_no_node() -> None:
    nodes: dict[bytes, bytes] = {}
    trie = Trie(Nodes(nodes), nodes.__setitem__)
    for number in range(50):
        trie.set(keccak(bytes([number])), b"value")
    root = trie.root_hash
    stored: list[bytes] = []
    again = Trie(Nodes(nodes), lambda digest, _encoded: stored.append(digest), root)
    for number in range(50, 200):
        again.delete(keccak(bytes([number])))
    assert again.root_hash == root
    assert not stored


def test_only_changed_nodes_are_stored_and_only_the_last_of_them() -> None:
    nodes: dict[bytes, bytes] = {}
    trie = Trie(Nodes(nodes), nodes.__setitem__)
    keys = [keccak(bytes([number])) for number in range(100)]
    for key in keys:
        trie.set(key, b"value")
    root = trie.root_hash
    stored: dict[bytes, bytes] = {}
    again = Trie(Nodes(nodes), stored.__setitem__, root)
    for turn in range(20):
        again.set(keys[7], bytes([turn + 1]) * 40)
    root = again.root_hash
    _, path = mpt.prove(nodes | stored, root, keys[7])
    assert set(stored.values()) == set(path)


def test_a_lost_node_and_a_foreign_one_are_named() -> None:
    nodes: dict[bytes, bytes] = {}
    trie = Trie(Nodes(nodes), nodes.__setitem__)
    for number in range(100):
        trie.set(keccak(bytes([number])), b"v" * 40)
    root = trie.root_hash
    kept = nodes.pop(next(digest for digest in nodes if digest != root))
    with pytest.raises(MissingNode):
        for number in range(100):
            Trie(Nodes(nodes), None, root).get(keccak(bytes([number])))
    nodes[keccak(kept)] = kept
    for foreign, said in ((b"\xc3\x01\x02\x03", "3 items"), (b"\x01\x02", "no trie node")):
        with pytest.raises(CorruptState, match=said):
            Trie(Nodes({keccak(foreign): foreign}), None, keccak(foreign)).get(keccak(b""))
    with pytest.raises(CorruptState, match="the state database holds"):
        Trie(Nodes({root: b"something else"}), None, root).get(keccak(b""))


@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_tries_that_share_decoded_nodes_never_see_each_others_changes(monkeypatch, most: int) -> None:
    monkeypatch.setattr(trie_module, "DECODED_MAX", most)
    rng = random.Random(SEED + most)
    print("seed", SEED + most)
    keys = some_keys(rng, 40)
    stored: dict[bytes, bytes] = {}
    nodes = Nodes(stored)
    states: list[tuple[bytes, dict[bytes, bytes]]] = [(EMPTY_TRIE_ROOT, {})]
    for _ in range(60):  # a block on any state there was, as of another round or another chain's head
        root, held = rng.choice(states)
        held, trie = dict(held), Trie(nodes, stored.__setitem__, root)
        for _ in range(rng.randrange(1, 8)):
            key, value = rng.choice(keys), rng.choice((b"", b"", b"\x01", rng.randbytes(40)))
            trie.set(key, value)
            held[key] = value
        held = {key: value for key, value in held.items() if value}
        states.append((trie.root_hash, held))
        assert trie.root_hash == mpt.build(held.items())
        assert all(trie.get(key) == held.get(key, b"") for key in keys)
    for root, held in states:
        again = Trie(nodes, None, root)
        assert all(again.get(key) == held.get(key, b"") for key in keys)
