"""The state of block 0, and reading states."""

from dataclasses import replace

import pytest
from eth.vm.forks.prague.constants import HISTORY_STORAGE_CONTRACT_CODE

from primitives.address import HISTORY_STORAGE, MARKET, STAKING, SYSTEM_ACCOUNTS
from primitives.genesis import GenesisAccount
from primitives.hashing import EMPTY_KECCAK, EMPTY_TRIE_ROOT, keccak
from primitives.params import COIN
from tests.vm.world import ADDRESSES, AT, CONTRACTS, STORE, World, leaves, spec
from vm.genesis import build_state
from vm.mpt import CorruptState
from vm.state import StateReader


def test_the_spec_decides_every_byte() -> None:
    root, nodes = build_state(spec())
    again, same = build_state(spec())
    assert (root, nodes) == (again, same)
    assert all(keccak(node) == key for key, node in nodes.items())
    turned = replace(spec(), accounts=spec().accounts[::-1])
    assert build_state(turned)[0] == root, "the order of accounts is nothing"
    richer = replace(spec(), accounts=(*spec().accounts, GenesisAccount(b"\x42" * 20, 1, 0, b"")))
    assert build_state(richer)[0] != root


def test_what_block_0_holds() -> None:
    root, nodes = build_state(spec())
    state = StateReader(nodes, root)
    for address in ADDRESSES:
        assert state.balance(address) == 1_000 * COIN and state.nonce(address) == 0
    for address, code in CONTRACTS.items():
        assert state.code(address) == code
    for address in SYSTEM_ACCOUNTS:
        assert state.code(address) == b"\xfe" and state.nonce(address) == 1
    assert state.code(HISTORY_STORAGE) == HISTORY_STORAGE_CONTRACT_CODE
    assert state.balance(STAKING) == spec().params.bond_min
    assert state.balance(MARKET) == spec().fund


def test_an_empty_account_is_no_account() -> None:
    empty = replace(spec(), accounts=(*spec().accounts, GenesisAccount(b"\x42" * 20, 0, 0, b"")))
    root, nodes = build_state(empty)
    assert root == build_state(spec())[0]
    assert not StateReader(nodes, root).exists(b"\x42" * 20)


def test_a_reader_of_what_is_not_there() -> None:
    world = World()
    state = world.state
    nobody = b"\x42" * 20
    assert not state.exists(nobody)
    assert (state.balance(nobody), state.nonce(nobody), state.code(nobody)) == (0, 0, b"")
    assert (state.code_hash(nobody), state.storage_root(nobody)) == (EMPTY_KECCAK, EMPTY_TRIE_ROOT)
    assert state.storage(nobody, 5) == state.storage(AT[STORE], 5) == 0
    assert not StateReader({}, EMPTY_TRIE_ROOT).exists(nobody)


def test_a_reader_refuses_damage() -> None:
    world = World()
    damaged = {**world.db, world.root: world.db[world.root][:-1] + b"\x00"}
    with pytest.raises(CorruptState):
        StateReader(damaged, world.root).balance(ADDRESSES[0])


def test_the_total_is_what_the_spec_gives() -> None:
    world = World()
    given = sum(account.balance for account in spec().accounts) + spec().params.bond_min + spec().fund
    assert world.total() == given
    assert len(list(leaves(world.db, world.root))) == len(ADDRESSES) + len(CONTRACTS) + len(SYSTEM_ACCOUNTS) + 2, (
        "the history contract and the second referee beside them"
    )
