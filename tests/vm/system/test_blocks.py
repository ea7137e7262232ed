"""The system accounts in real blocks: prologues and transactions through the executor, over an epoch's turn."""

import pytest
from sample import BOND, PEOPLE, STRANGER, sample_spec

from primitives.address import STAKING, SYSTEM_ACCOUNTS
from primitives.hashing import keccak
from primitives.transaction import SYSTEM, sign_transaction, system_transaction
from vm.executor import BlockEnv, BlockExecutor
from vm.genesis import build_state
from vm.state import StateReader
from vm.system import abi, views
from vm.system.prologue import prologue_data

SPEC = sample_spec()
GENESIS_HASH = keccak(b"genesis of a test")
HOLDERS = [*SYSTEM_ACCOUNTS, *(person.operator for person in [*PEOPLE, STRANGER]), *(p.payout for p in PEOPLE)]


class Chain:
    def __init__(self) -> None:
        self.root, self.nodes = build_state(SPEC)
        self.height = 0

    @property
    def reader(self) -> StateReader:
        return StateReader(self.nodes, self.root)

    def block(self, *transactions):
        """Receipts of the next block."""
        self.height += 1
        parent = keccak(b"block %d" % (self.height - 1))
        env = BlockEnv(
            SPEC.params, GENESIS_HASH, self.height, self.height, PEOPLE[0].payout, keccak(b"mix %d" % self.height),
            SPEC.params.base_fee_initial, parent,
        )  # fmt: skip
        executor = BlockExecutor(self.nodes, self.root, env)
        data = prologue_data(parent, b"\x01" * 96)
        prologue = system_transaction(SPEC.params.chain_id, self.height, SPEC.params.block_gas_limit, data)
        receipts = [executor.run_prologue(prologue)]
        receipts += [executor.apply(transaction) for transaction in transactions]
        execution = executor.finish()
        self.nodes.update(execution.nodes)
        self.root = execution.state_root
        return receipts

    def total(self) -> int:
        return sum(self.reader.balance(holder) for holder in HOLDERS)


def test_an_epoch_turns_in_its_last_block_and_every_wei_is_accounted_for():
    chain = Chain()
    start = chain.total()
    for height in range(1, SPEC.params.epoch_blocks + 2):
        [receipt] = chain.block()
        assert receipt.status == 1
        assert receipt.type_id == SYSTEM
        topics = {log.topics[0] for log in receipt.logs}
        assert (abi.EPOCH_TURNED.topic in topics) == (height == SPEC.params.epoch_blocks)
        assert views.mix(chain.reader) == keccak(b"mix %d" % height)
        totals = views.totals(chain.reader)
        assert chain.total() == start + totals.minted - totals.burned
    fixed = views.validator_set(chain.reader, 2)
    assert fixed.hash == views.validator_set(chain.reader, 1).hash
    assert views.seed_mix(chain.reader, 2) == keccak(b"mix %d" % SPEC.params.epoch_blocks)


@pytest.mark.parametrize(("value", "status"), [(BOND, 1), (1, 0)])
def test_a_transaction_registers_an_operator_or_reverts(value, status):
    chain = Chain()
    data = abi.REGISTER.encode_call(*STRANGER.registration(SPEC.params, GENESIS_HASH))
    transaction = sign_transaction(
        STRANGER.operator_key, chain_id=SPEC.params.chain_id, nonce=0, max_priority_fee_per_gas=1,
        max_fee_per_gas=10**10, gas=400_000, to=STAKING, value=value, data=data,
    )  # fmt: skip
    _, receipt = chain.block(transaction)
    assert receipt.status == status
    assert len(receipt.logs) == (3 if status else 0)
    assert (views.operator_by_hot(chain.reader, STRANGER.hot) is not None) == bool(status)
    assert len(views.operators(chain.reader, SPEC.params, 2)) == 4 + status
