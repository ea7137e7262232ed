"""Random blocks through BlockExecutor and through py-evm's own Prague chain (the slow oracle): the same headers."""

import hashlib
import random
from dataclasses import replace
from typing import Any

import pytest
from eth.chains.base import MiningChain
from eth.consensus import NoProofConsensus
from eth.db.atomic import AtomicDB
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.constants import HISTORY_STORAGE_CONTRACT_CODE

from primitives import transaction as types
from primitives.address import HISTORY_STORAGE, ZERO_ADDRESS
from primitives.genesis import GenesisAccount, GenesisSpec
from primitives.hashing import EMPTY_KECCAK, keccak
from primitives.params import ChainParams
from primitives.receipt import bloom_or
from primitives.transaction import Transaction
from tests.vm.world import (
    ADDRESSES,
    CONTRACTS,
    GENESIS_HASH,
    GWEI,
    KEYS,
    PARAMS,
    authorize,
    code,
    init_code,
    set_code,
    signed,
    spec,
    word,
)
from vm import mpt
from vm.executor import BlockEnv, BlockExecutor
from vm.state import StateReader
from vm.validity import next_base_fee

SEEDS = 4
BLOCKS = 3
RUNTIME = code("602a 5f 52 6020 5f f3")


def with_history(genesis: GenesisSpec) -> GenesisSpec:
    history = GenesisAccount(HISTORY_STORAGE, 0, 1, HISTORY_STORAGE_CONTRACT_CODE)
    return replace(genesis, accounts=(*genesis.accounts, history))


class MiningPragueVM(PragueVM):
    """py-evm writes the EIP-2935 slot when it imports a block and forgets it when it mines one."""

    def apply_all_transactions(self, transactions: Any, base_header: Any) -> Any:
        self.block_preprocessing(self.get_block())
        return super().apply_all_transactions(transactions, base_header)


def oracle_chain(genesis: GenesisSpec) -> Any:
    machine = MiningPragueVM.configure(consensus_class=NoProofConsensus)
    kind = MiningChain.configure(__name__="Oracle", vm_configuration=((0, machine),), chain_id=PARAMS.chain_id)
    header = {
        "difficulty": 0, "nonce": bytes(8), "gas_limit": PARAMS.block_gas_limit, "timestamp": 1, "extra_data": b"",
        "coinbase": ZERO_ADDRESS, "mix_hash": bytes(32), "base_fee_per_gas": GWEI, "excess_blob_gas": 0,
        "blob_gas_used": 0, "parent_beacon_block_root": bytes(32), "requests_hash": hashlib.sha256().digest(),
    }  # fmt: skip
    accounts = {
        account.address: {"balance": account.balance, "nonce": account.nonce, "code": account.code, "storage": {}}
        for account in genesis.accounts
    }
    return kind.from_genesis(AtomicDB(), header, accounts)


def plain_state(genesis: GenesisSpec) -> tuple[bytes, dict[bytes, bytes]]:
    """The same accounts and no others: py-evm's chain has no system accounts."""
    nodes: dict[bytes, bytes] = {keccak(account.code): account.code for account in genesis.accounts if account.code}
    accounts = []
    for account in genesis.accounts:
        code_hash = keccak(account.code) if account.code else EMPTY_KECCAK
        encoded = mpt.encode_account(account.nonce, account.balance, mpt.EMPTY_TRIE_ROOT, code_hash)
        accounts.append((keccak(account.address), encoded))
    return mpt.build(accounts, nodes), nodes


def random_transaction(rng: random.Random, state: StateReader, nonces: dict[int, int]) -> Transaction:
    who = rng.randrange(len(KEYS))
    nonce = nonces.setdefault(who, state.nonce(ADDRESSES[who]))
    nonces[who] += 1
    plain = {
        "nonce": nonce,
        "to": rng.choice([*CONTRACTS, *ADDRESSES, rng.randbytes(20)]),
        "value": rng.choice([0, 1, 10**12]),
        "gas": rng.choice([90_000, 200_000, 400_000]),
        "data": rng.choice(
            [b"", word(rng.randrange(3)) + word(rng.randrange(3)), word(rng.choice(ADDRESSES)), init_code(RUNTIME)]
        ),
    }
    match rng.randrange(6):
        case 0:
            return signed(KEYS[who], types.LEGACY, chain_id=rng.choice([None, PARAMS.chain_id]), **plain)
        case 1:
            access = ((rng.choice([*CONTRACTS]), (0, rng.randrange(3))),)
            return signed(KEYS[who], types.ACCESS_LIST, access_list=access, **plain)
        case 2:
            return signed(KEYS[who], **{**plain, "to": b"", "data": init_code(rng.randbytes(rng.randrange(1, 60)))})
        case 3:
            other = rng.randrange(len(KEYS))
            current = nonces.get(other, state.nonce(ADDRESSES[other]))
            claimed = current + rng.choice([0, 0, 0, 1])
            authorization = authorize(KEYS[other], rng.choice([*CONTRACTS, ZERO_ADDRESS]), claimed)
            if claimed == current:
                nonces[other] = current + 1
            return set_code(KEYS[who], authorization, **plain)
        case _:
            return signed(KEYS[who], max_priority_fee_per_gas=rng.randrange(GWEI), **plain)


@pytest.mark.slow
def test_random_blocks_get_the_same_header(seeds: list[int]) -> None:
    statuses: list[int] = []
    for seed in range(SEEDS):
        seeds.append(seed)
        rng = random.Random(seed)
        genesis = with_history(spec())
        chain = oracle_chain(genesis)
        root, db = plain_state(genesis)
        parent = chain.get_canonical_head()
        assert parent.state_root == root
        for _ in range(BLOCKS):
            nonces: dict[int, int] = {}
            state = StateReader(db, root)
            transactions = [random_transaction(rng, state, nonces) for _ in range(rng.randrange(0, 15))]
            coinbase = rng.choice([rng.randbytes(20), ADDRESSES[0]])
            builder = chain.get_vm().get_transaction_builder()
            result, receipts, _ = chain.mine_all([builder.decode(tx.raw) for tx in transactions], coinbase=coinbase)
            header = result.imported_block.header
            params = ChainParams(block_gas_limit=header.gas_limit)
            assert header.base_fee_per_gas == next_base_fee(
                parent.gas_used, parent.base_fee_per_gas, ChainParams(block_gas_limit=parent.gas_limit, base_fee_min=1)
            )
            executor = BlockExecutor(
                db,
                root,
                BlockEnv(
                    params, GENESIS_HASH, header.block_number, header.timestamp, header.coinbase, header.mix_hash,
                    header.base_fee_per_gas, header.parent_hash,
                ),
            )  # fmt: skip
            found = [executor.apply(transaction) for transaction in transactions]
            execution = executor.finish()
            for transaction, mine, theirs in zip(transactions, found, receipts, strict=True):
                assert mine.encode() == theirs.encode(), f"seed {seed}: {transaction}"
            assert execution.gas_used == header.gas_used, f"seed {seed}"
            assert execution.transactions_root == header.transaction_root, f"seed {seed}"
            assert execution.receipts_root == header.receipt_root, f"seed {seed}"
            assert int.from_bytes(execution.logs_bloom, "big") == header.bloom, f"seed {seed}"
            assert execution.logs_bloom == bloom_or(receipt.logs_bloom for receipt in found)
            assert execution.state_root == header.state_root, f"seed {seed}"
            statuses += [receipt.status for receipt in found]
            db.update(execution.nodes)
            root, parent = execution.state_root, header
    print(f"{len(statuses)} transactions, {statuses.count(0)} of them failed")
    assert 0 < statuses.count(0) < len(statuses)
