"""A block, executed: parent state in; state root, receipts, bloom and the new nodes out.

Order (docs/formats.md): the EIP-2935 slot, the prologue, the transactions. Roots and blooms are made once, at the end.
Nothing is stored here: `Execution.nodes` is what the caller must write with the block.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from primitives.address import HISTORY_STORAGE
from primitives.params import ChainParams
from primitives.receipt import Receipt, bloom_of, bloom_or
from primitives.transaction import InvalidTransaction, SystemTransaction, Transaction
from vm.mpt import ordered_trie_root
from vm.state import HISTORY_WINDOW, open_state, state_class
from vm.transition import Outcome, apply_system_message, apply_transaction
from vm.validity import BlockGasExhausted, check_account, check_static

Timer = Callable[[], AbstractContextManager[object]]
"""Around a piece of work, for who measures it: nothing here depends on it."""


@dataclass(frozen=True)
class BlockEnv:
    """What a block's code can see of it; the gas limit is the parameters'. timestamp in seconds, base fee in wei."""

    params: ChainParams
    genesis_hash: bytes
    number: int
    timestamp: int
    coinbase: bytes
    mix_hash: bytes
    base_fee_per_gas: int
    parent_hash: bytes


@dataclass(frozen=True)
class Execution:
    """What the header must say, and what must be stored. `nodes`: keccak to trie node or code, new in this block."""

    state_root: bytes
    transactions_root: bytes
    receipts_root: bytes
    logs_bloom: bytes
    gas_used: int
    receipts: tuple[Receipt, ...]
    nodes: dict[bytes, bytes]


def execute_block(
    db: Mapping[bytes, bytes],
    parent_state_root: bytes,
    env: BlockEnv,
    transactions: Sequence[Transaction | SystemTransaction],
    prologue_timer: Timer = nullcontext,
) -> Execution:
    """The whole block. Raises InvalidTransaction when one of them may not stand in it, or stands in the wrong place."""
    executor = BlockExecutor(db, parent_state_root, env)
    for index, transaction in enumerate(transactions):
        if isinstance(transaction, SystemTransaction) != (index == 0):
            raise InvalidTransaction(f"transaction {index} is of type {transaction.type_id:#04x}; 0x7e is first, alone")
        if isinstance(transaction, SystemTransaction):
            with prologue_timer():
                executor.run_prologue(transaction)
        else:
            executor.apply(transaction)
    return executor.finish()


class BlockExecutor:
    """A block being filled: transactions one by one, then `finish`. Not to be used again after an exception other
    than InvalidTransaction."""

    def __init__(self, db: Mapping[bytes, bytes], parent_state_root: bytes, env: BlockEnv) -> None:
        self.env = env
        self.gas_used = 0
        self.receipts: list[Receipt] = []
        self._raw: list[bytes] = []
        self._state = open_state(
            state_class(env.params, env.genesis_hash), db, parent_state_root,
            params=env.params, number=env.number, timestamp=env.timestamp, coinbase=env.coinbase,
            mix_hash=env.mix_hash, base_fee_per_gas=env.base_fee_per_gas,
        )  # fmt: skip
        self._keep_parent_hash()

    def run_prologue(self, transaction: SystemTransaction) -> Receipt:
        """The system transaction, which is the first. Failing inside the EVM gives status 0 and a valid block."""
        assert not self.receipts
        outcome = apply_system_message(self._state, transaction.data, self.env.params.prologue_gas)
        return self._receipt(transaction, outcome)

    def apply(self, transaction: Transaction) -> Receipt:
        """One transaction. Raises InvalidTransaction, the state untouched, when it may not be included here."""
        check_static(transaction, self.env.params)
        left = self.env.params.block_gas_limit - self.gas_used
        if transaction.gas > left:
            raise BlockGasExhausted(f"gas limit reached: have {left}, want {transaction.gas}")
        state, sender = self._state, transaction.sender
        base_fee = self.env.base_fee_per_gas
        nonce, balance, code = state.get_nonce(sender), state.get_balance(sender), state.get_code(sender)
        check_account(transaction, nonce, balance, code, base_fee)
        return self._receipt(transaction, apply_transaction(state, transaction, base_fee))

    def finish(self) -> Execution:
        """Roots, bloom and nodes of the block as it stands."""
        self._state.persist()
        return Execution(
            state_root=self._state.state_root,
            transactions_root=ordered_trie_root(self._raw),
            receipts_root=ordered_trie_root([receipt.encode() for receipt in self.receipts]),
            logs_bloom=bloom_or(receipt.logs_bloom for receipt in self.receipts),
            gas_used=self.gas_used,
            receipts=tuple(self.receipts),
            nodes=self._state.written,
        )

    def _keep_parent_hash(self) -> None:
        """EIP-2935: the parent's hash into the ring of the history contract, where a chain has it."""
        if self.env.number == 0 or not self._state.get_code(HISTORY_STORAGE):
            return
        slot = (self.env.number - 1) % HISTORY_WINDOW
        self._state.set_storage(HISTORY_STORAGE, slot, int.from_bytes(self.env.parent_hash, "big"))
        self._state.lock_changes()

    def _receipt(self, transaction: Transaction | SystemTransaction, outcome: Outcome) -> Receipt:
        self.gas_used += outcome.gas_used
        self._raw.append(transaction.raw)
        receipt = Receipt(
            type_id=transaction.type_id,
            status=0 if outcome.error else 1,
            cumulative_gas_used=self.gas_used,
            logs_bloom=bloom_of(outcome.logs),
            logs=outcome.logs,
            gas_used=outcome.gas_used,
            contract_address=outcome.created,
        )
        self.receipts.append(receipt)
        return receipt
