"""The committed chain of this node: check, build and commit the next block, and answer questions about the past.

One owner writes (`commit`); `check` and `build` may run in threads beside it, and every query from any thread: a query
sees the chain before or after a commit, never half of one, because a commit is one batch and `head` is replaced last.
Nothing is ever undone: a committed block is final. Knows no network, no clock and no keys.
"""

import threading
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

from chain.builder import BuildRequest, TransactionSource, build_block
from chain.fees import FeeHistory, rewards
from chain.kv import KV, KVCorrupt
from chain.store import Store, block_batch, genesis_batch
from chain.validation import Context, InvalidBlock, validate_block
from consensus.bft.proposer import ProposerSchedule
from genesis.build import build_genesis
from primitives.block import Block
from primitives.genesis import GenesisSpec
from primitives.hashing import keccak
from primitives.header import Header, Sidecar
from primitives.params import ChainParams
from primitives.receipt import Log, Receipt, bloom_bits
from primitives.validators import ValidatorSet
from primitives.vote import CommitCertificate, SignContext
from vm.executor import BlockEnv, Execution, Timer
from vm.state import StateReader
from vm.system import views
from vm.validity import next_base_fee

Value = TypeVar("Value")

EXECUTIONS_MAX = 8
"""Checked blocks of the next height whose execution is kept: at most two proposals a round are checked, and the own."""
REFUSALS_MAX = 64
"""Blocks of the next height that were found invalid: the answer is remembered, not the work."""
BLOCKS_CACHED_MAX = 128
"""Decoded recent blocks, for queries."""
SETS_CACHED_MAX = 64
"""Validator sets by epoch; once fixed, a set never changes."""
FEE_HISTORY_MAX = 1_024
LOG_RANGE_MAX = 10_000
"""Blocks that one logs query may span."""
LOGS_MAX = 10_000
"""Logs that one query may find."""
LOGS_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of data in them: a block's gas pays for most of a megabyte."""


class WrongGenesis(Exception):
    """The data folder holds another chain than the specification describes."""

    def __init__(self, stored: bytes, expected: bytes) -> None:
        super().__init__(
            f"this data folder belongs to the chain with genesis 0x{stored.hex()}, but the genesis file describes "
            f"0x{expected.hex()}: use the genesis file of that chain, another data folder, or --reset"
        )
        self.stored = stored
        self.expected = expected


class UnknownBlock(LookupError):
    """A height that this chain has not reached."""


class NotNext(Exception):
    """A block to commit that does not follow the head: a mistake of the caller's, not of the block."""


class QueryTooLarge(ValueError):
    """A query beyond its bounds; the text names them."""


@dataclass(frozen=True)
class Committed:
    """A block that has just become final, with what its execution left."""

    block: Block
    certificate: CommitCertificate
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True)
class FoundLog:
    """A log with its place in the chain. log_index counts through the block."""

    log: Log
    block_number: int
    block_hash: bytes
    timestamp: int
    transaction_hash: bytes
    transaction_index: int
    log_index: int


class Ledger:
    """Open one with `Ledger.open`."""

    def __init__(self, store: Store, params: ChainParams, genesis_hash: bytes, head: Block) -> None:
        self.params = params
        self.genesis_hash = genesis_hash
        self.sign_context = SignContext(params.chain_id, genesis_hash)
        self.on_commit: list[Callable[[Committed], None]] = []
        """Called in order, in the thread that commits, after a block is on disk."""
        self.prologue_timer: Timer = nullcontext
        """Around each execution of a prologue, in the thread that builds or checks."""
        self._store = store
        self._head = head
        self._lock = threading.Lock()
        """Guards the caches below; never held while a block is executed."""
        self._executions: OrderedDict[bytes, Execution] = OrderedDict()
        self._refusals: OrderedDict[bytes, InvalidBlock] = OrderedDict()
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._sets: OrderedDict[int, ValidatorSet] = OrderedDict()
        self._schedule: tuple[int, ProposerSchedule] | None = None
        """Of the epoch of the last height that was built or checked."""

    @classmethod
    def open(cls, kv: KV, spec: GenesisSpec) -> "Ledger":
        """The chain in `kv`; an empty store becomes the chain of `spec` at block 0.

        Raises WrongGenesis, KVCorrupt (the head, its state or its sets are missing), KVFull, KVError.
        """
        store = Store(kv)
        stored = store.genesis()
        if stored is None:
            built = build_genesis(spec)
            store.write(genesis_batch(spec.spec_hash, built.block, built.nodes, built.sets))
            return cls(store, spec.params, built.block.hash, built.block)
        if stored.spec_hash != spec.spec_hash:
            raise WrongGenesis(stored.genesis_hash, build_genesis(spec).block.hash)
        ledger = cls(store, spec.params, stored.genesis_hash, _recovered_head(store))
        genesis = ledger.block(0)
        if genesis is None or genesis.hash != stored.genesis_hash:
            raise KVCorrupt("block 0 in the database is not the genesis block that it names")
        ledger.validator_set(ledger.head.number + 1)
        return ledger

    # ---------------------------------------------------------------- the next block

    @property
    def head(self) -> Block:
        """The last committed block."""
        return self._head

    def check(self, block: Block) -> None:
        """Whether the block may follow the head; its execution is kept for the commit.

        Raises InvalidBlock; the answer depends on the block and the head only. A block that does not follow the head
        fails in `number` or `parent_hash`.
        """
        self._checked(block)

    def build(self, request: BuildRequest, source: TransactionSource) -> Block:
        """The next block, filled from `source` (the mempool); valid by construction. See chain.builder.

        Raises NotNext when the head has moved on since the request was made, so that its time is not above the head's.
        """
        context = self._context()
        if request.time_ms <= context.parent.sidecar.time_ms:
            raise NotNext(f"a block of {request.time_ms} ms cannot follow {context.parent.sidecar.time_ms} ms")
        built = build_block(context, request, source)
        self._remember(self._executions, _identity(built.block), built.execution, EXECUTIONS_MAX, context)
        return built.block

    def commit(self, block: Block, certificate: CommitCertificate) -> Committed:
        """Write the block and all that follows from it in one synced batch, then tell the subscribers.

        The certificate was verified by the caller. A block that was not checked is checked now. Raises InvalidBlock
        (more than two thirds decided a block that is invalid here: the caller halts), NotNext, KVFull, KVError.
        """
        head = self._head
        if block.header.parent_hash != head.hash or block.number != head.number + 1:
            raise NotNext(f"block {block.number} {block.hash.hex()} does not follow {head.number} {head.hash.hex()}")
        if certificate.block_hash != block.hash or certificate.height != block.number:
            raise NotNext(
                f"block {block.number} {block.hash.hex()} with the certificate of height {certificate.height} "
                f"{certificate.block_hash.hex()}"
            )
        execution = self._checked(block)
        new_sets = self._sets_fixed_by(block, execution)
        self._store.write(block_batch(block, execution.receipts, execution.nodes, new_sets.values(), certificate))
        with self._lock:
            self._executions.clear()
            self._refusals.clear()
            self._head = block
        for epoch, members in new_sets.items():
            self._keep_set(epoch, members)
        committed = Committed(block, certificate, execution.receipts)
        for callback in self.on_commit:
            callback(committed)
        return committed

    def validator_set(self, height: int) -> ValidatorSet:
        """The set that decides a height: any up to the end of the epoch after the next block's.

        Raises UnknownBlock for a height whose set is not fixed yet.
        """
        epoch = self.params.epoch(height)
        with self._lock:
            known = self._sets.get(epoch)
        if known is not None:
            return known
        if height <= self._head.number:
            envelope = self._store.envelope(height)
            found = None if envelope is None else self._store.validator_set(envelope[1].validator_set_hash)
            if found is None:
                raise KVCorrupt(f"the validator set of height {height} is not in the database")
        else:
            if epoch > self.params.epoch(self._head.number + 1) + 1:
                raise UnknownBlock(f"the validator set of height {height} is not fixed at head {self._head.number}")
            found = views.validator_set(self.reader(), epoch)
        self._keep_set(epoch, found)
        return found

    def proposer_seed(self, height: int) -> tuple[bytes, int]:
        """(mix that seeds the priorities of the height's epoch, the epoch's first height): for ProposerSchedule."""
        epoch = self.params.epoch(height)
        return views.seed_mix(self.reader(), epoch), self.params.first_height(epoch)

    # ---------------------------------------------------------------- the past

    def block(self, number: int) -> Block | None:
        """The block at a height. Raises KVCorrupt."""
        if number == self._head.number:
            return self._head
        with self._lock:
            cached = self._blocks.get(number)
            if cached is not None:
                self._blocks.move_to_end(number)
                return cached
        block = self._store.block(number) if number >= 0 else None
        if block is not None:
            with self._lock:
                self._blocks[number] = block
                if len(self._blocks) > BLOCKS_CACHED_MAX:
                    self._blocks.popitem(last=False)
        return block

    def block_by_hash(self, block_hash: bytes) -> Block | None:
        """The committed block with that hash."""
        number = self._store.number_of(block_hash)
        return None if number is None else self.block(number)

    def body(self, number: int) -> bytes | None:
        """The wire body at a height, as peers that sync get it; not decoded."""
        return self._store.body(number)

    def body_by_hash(self, block_hash: bytes) -> bytes | None:
        """The wire body of a committed block."""
        number = self._store.number_of(block_hash)
        return None if number is None else self._store.body(number)

    def header(self, number: int) -> Header | None:
        """The header at a height, without its transactions."""
        envelope = self._store.envelope(number) if number >= 0 else None
        return None if envelope is None else envelope[0]

    def sidecar(self, number: int) -> Sidecar | None:
        """The sidecar at a height."""
        envelope = self._store.envelope(number) if number >= 0 else None
        return None if envelope is None else envelope[1]

    def receipts(self, number: int) -> tuple[Receipt, ...] | None:
        """The receipts at a height, one a transaction (none in block 0)."""
        return self._store.receipts(number) if number >= 0 else None

    def certificate(self, number: int) -> CommitCertificate | None:
        """The certificate by which this node committed a block; None for block 0 and the future."""
        return self._store.certificate(number) if number > 0 else None

    def validator_set_by_hash(self, set_hash: bytes) -> ValidatorSet | None:
        """A set that a committed header names."""
        return self._store.validator_set(set_hash)

    def find_transaction(self, transaction_hash: bytes) -> tuple[Block, int] | None:
        """(block, index) of a committed transaction."""
        location = self._store.location(transaction_hash)
        if location is None:
            return None
        block = self.block(location.number)
        if block is None:
            raise KVCorrupt(f"block {location.number} is missing, which holds transaction {transaction_hash.hex()}")
        return block, location.index

    def has_transaction(self, transaction_hash: bytes) -> bool:
        """Whether it is in a committed block; reads the index alone."""
        return self._store.location(transaction_hash) is not None

    def task_logs(self, task: bytes) -> list[FoundLog]:
        """Everything that was ever logged about a task, its disputes and slashes among it, in order: its whole story.
        Of a model's id: the log of its registration."""
        found: list[FoundLog] = []
        for number, indices in self._store.task_logs(task):
            logs = list(self._logs_of(number))
            found.extend(logs[index] for index in indices)
        return found

    def logs(
        self,
        first: int,
        last: int,
        addresses: Collection[bytes],
        topics: Sequence[Collection[bytes] | None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[FoundLog]:
        """Logs of the blocks first..last (both included) that match, in order.

        addresses: any of these, or all when empty. topics: per position any of these, None (or empty) for anything.
        Blocks whose bloom excludes a match are not read. should_stop: asked at each block. Raises QueryTooLarge.
        """
        if last - first >= LOG_RANGE_MAX:
            raise QueryTooLarge(f"block range too large: {last - first + 1} blocks, at most {LOG_RANGE_MAX}")
        addresses, topics = frozenset(addresses), [None if not wanted else frozenset(wanted) for wanted in topics]
        blooms = [[bloom_bits(value) for value in wanted] for wanted in (addresses, *topics) if wanted]
        found: list[FoundLog] = []
        size = 0
        for number in range(max(first, 0), min(last, self._head.number) + 1):
            if should_stop():
                raise QueryTooLarge(f"query took too long: {number - first} of {last - first + 1} blocks; narrow it")
            header = self.header(number)
            if header is None:
                raise KVCorrupt(f"header {number} is missing below the head")
            bloom = int.from_bytes(header.logs_bloom, "big")
            if not all(any(bloom & bits == bits for bits in one_of) for one_of in blooms):
                continue
            matching = [entry for entry in self._logs_of(number) if log_matches(entry.log, addresses, topics)]
            found += matching
            size += sum(len(entry.log.data) for entry in matching)
            if len(found) > LOGS_MAX or size > LOGS_BYTES_MAX:
                raise QueryTooLarge(
                    f"query returned more than {LOGS_MAX} results or {LOGS_BYTES_MAX} bytes; narrow the block range"
                )
        return found

    def fee_history(self, count: int, newest: int, percentiles: Sequence[int] = ()) -> FeeHistory:
        """Fees of `count` blocks up to `newest`. percentiles: ascending, in hundredths of a per cent.

        Raises QueryTooLarge, UnknownBlock.
        """
        if not 1 <= count <= FEE_HISTORY_MAX:
            raise QueryTooLarge(f"{count} blocks of fee history; 1 to {FEE_HISTORY_MAX} are served")
        if newest > self._head.number:
            raise UnknownBlock(f"block {newest} is above the head {self._head.number}")
        oldest = max(0, newest - count + 1)
        headers = [self._header(number) for number in range(oldest, newest + 1)]
        following = next_base_fee(headers[-1].gas_used, headers[-1].base_fee_per_gas, self.params)
        tips = []
        for number in range(oldest, newest + 1) if percentiles else ():
            block, receipts = self.block(number), self.receipts(number)
            if block is None or receipts is None:
                raise KVCorrupt(f"block {number} is missing below the head")
            tips.append(rewards(block, receipts, percentiles))
        return FeeHistory(
            oldest=oldest,
            base_fees=(*(header.base_fee_per_gas for header in headers), following),
            gas_used=tuple(header.gas_used for header in headers),
            gas_limit=self.params.block_gas_limit,
            rewards=tuple(tips),
        )

    # ---------------------------------------------------------------- state

    @property
    def state(self) -> Mapping[bytes, bytes]:
        """Trie nodes and code by keccak, of every committed block (vm.call and proofs read it)."""
        return self._store.state

    def reader(self, number: int | None = None) -> StateReader:
        """The state after a block, the head's by default. Raises UnknownBlock."""
        header = self._head.header if number is None else self._header(number)
        return StateReader(self._store.state, header.state_root)

    def env_for_call(self, number: int | None = None) -> BlockEnv:
        """What a call on the state after a block sees of its block (as geth: the block itself). Raises UnknownBlock."""
        header = self._head.header if number is None else self._header(number)
        return BlockEnv(
            params=self.params,
            genesis_hash=self.genesis_hash,
            number=header.number,
            timestamp=header.timestamp,
            coinbase=header.coinbase,
            mix_hash=header.mix_hash,
            base_fee_per_gas=header.base_fee_per_gas,
            parent_hash=header.parent_hash,
        )

    def next_base_fee(self) -> int:
        """Base fee of the block after the head, wei per gas."""
        header = self._head.header
        return next_base_fee(header.gas_used, header.base_fee_per_gas, self.params)

    # ---------------------------------------------------------------- inside

    def _context(self) -> Context:
        head = self._head
        number, after = head.number + 1, head.number + 1 + self.params.epoch_blocks
        return Context(
            params=self.params,
            genesis_hash=self.genesis_hash,
            parent=head,
            state=self._store.state,
            parent_set=self.validator_set(head.number),
            sets=(self.validator_set(number), self.validator_set(after)),
            turn=self._turn(number),
            prologue_timer=self.prologue_timer,
        )

    def _turn(self, number: int) -> bytes:
        """Whose turn round 0 of the head's next height is."""
        epoch, members = self.params.epoch(number), self.validator_set(number)
        seed_mix, first = self.proposer_seed(number)
        with self._lock:
            if self._schedule is None or self._schedule[0] != epoch:
                self._schedule = epoch, ProposerSchedule(members, seed_mix, first)
            return self._schedule[1].proposer(number, 0)

    def _checked(self, block: Block) -> Execution:
        """Its execution, from the cache or made now. Raises InvalidBlock.

        The caches are keyed by the whole body: a forged body under a good header must neither pass for the good one nor
        make it refused.
        """
        identity, context = _identity(block), self._context()
        with self._lock:
            execution, refusal = self._executions.get(identity), self._refusals.get(identity)
        if execution is not None and block.header.parent_hash == context.parent.hash:
            return execution
        if refusal is not None:
            raise InvalidBlock(refusal.field, refusal.expected, refusal.found)
        try:
            execution = validate_block(context, block)
        except InvalidBlock as error:
            self._remember(self._refusals, identity, error, REFUSALS_MAX, context)
            raise
        self._remember(self._executions, identity, execution, EXECUTIONS_MAX, context)
        return execution

    def _remember(
        self, cache: OrderedDict[bytes, Value], key: bytes, value: Value, most: int, context: Context
    ) -> None:
        """Unless the head has moved on meanwhile: the answer would be about the past."""
        with self._lock:
            if context.parent is not self._head:
                return
            cache[key] = value
            if len(cache) > most:
                cache.popitem(last=False)

    def _sets_fixed_by(self, block: Block, execution: Execution) -> dict[int, ValidatorSet]:
        """The set that the last block of an epoch e fixes: that of e + 2."""
        if not self.params.is_epoch_end(block.number):
            return {}
        epoch = self.params.epoch(block.number) + 2
        after = StateReader(ChainMap(execution.nodes, self._store.state), execution.state_root)  # type: ignore[arg-type]
        return {epoch: views.validator_set(after, epoch)}

    def _keep_set(self, epoch: int, members: ValidatorSet) -> None:
        with self._lock:
            self._sets[epoch] = members
            if len(self._sets) > SETS_CACHED_MAX:
                self._sets.popitem(last=False)

    def _header(self, number: int) -> Header:
        header = self.header(number)
        if header is None:
            raise UnknownBlock(f"there is no block {number}; the head is {self._head.number}")
        return header

    def _logs_of(self, number: int) -> Iterator[FoundLog]:
        block, receipts = self.block(number), self.receipts(number)
        if block is None or receipts is None:
            raise KVCorrupt(f"block {number} or its receipts are missing below the head")
        return logs_of_block(block, receipts)


def logs_of_block(block: Block, receipts: Sequence[Receipt]) -> Iterator[FoundLog]:
    """Every log of a block, in order."""
    log_index = 0
    for index, receipt in enumerate(receipts):
        for log in receipt.logs:
            yield FoundLog(
                log=log,
                block_number=block.number,
                block_hash=block.hash,
                timestamp=block.header.timestamp,
                transaction_hash=block.transactions[index].hash,
                transaction_index=index,
                log_index=log_index,
            )
            log_index += 1


def log_matches(log: Log, addresses: Collection[bytes], topics: Sequence[Collection[bytes] | None]) -> bool:
    """Whether eth_getLogs' filter lets the log through (see Ledger.logs)."""
    if addresses and log.address not in addresses:
        return False
    if len(topics) > len(log.topics):
        return False
    return all(not wanted or topic in wanted for wanted, topic in zip(topics, log.topics, strict=False))


def _identity(block: Block) -> bytes:
    return keccak(block.wire_body)


def _recovered_head(store: Store) -> Block:
    """The block that the head pointer names, with its state's root present. Raises KVCorrupt."""
    number, block_hash = store.head()
    block = store.block(number)
    if block is None or block.hash != block_hash:
        raise KVCorrupt(f"the head pointer names block {number} {block_hash.hex()}, which is not in the database")
    if keccak(store.state.get(block.header.state_root, b"")) != block.header.state_root:
        raise KVCorrupt(f"the state of the head, block {number}, is not in the database")
    return block
