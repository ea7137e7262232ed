"""Merkle trees: what a digest and its path lead to is the root, and nothing else is."""

import pytest

from primitives import merkle
from primitives.hashing import EMPTY_KECCAK


@pytest.mark.parametrize("count", [*range(1, 20), 33, 64, 100])
def test_every_digest_and_its_path_lead_to_the_root(count: int) -> None:
    leaves = [bytes([i]) for i in range(count)]
    digests = [merkle.digest(leaf) for leaf in leaves]
    tree = merkle.levels(digests)
    root = merkle.root(leaves)
    assert tree[-1] == [root] == [merkle.root_of(digests)]
    for index, found in enumerate(digests):
        siblings = merkle.path(tree, index)
        assert merkle.root_by_path(found, index, count, siblings) == root
        assert merkle.root_by_path(bytes(32), index, count, siblings) != root
        assert merkle.root_by_path(found, index, count, [*siblings, bytes(32)]) is None
        if siblings:
            assert merkle.root_by_path(found, index, count, siblings[1:]) is None
            assert merkle.root_by_path(found, index, count, [bytes(32), *siblings[1:]]) != root
        if count > 1:
            other = (index + 1) % count
            assert merkle.root_by_path(found, other, count, siblings) != root


def test_no_leaves() -> None:
    assert merkle.root([]) == EMPTY_KECCAK
