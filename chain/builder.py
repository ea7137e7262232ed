"""Fills a block within a budget of gas, bytes and time. Everything here is the proposer's policy, nothing is validity.

Order: the prologue, then work batches of operators (one an operator, at most half of the gas: each member of the set
has an equal share of it, and what is left of the shares goes to what is due first), then messages of disputes from
anyone (an eighth of the gas, at least one message; who is to move, and drawn verifiers who have to challenge, before
who stands in, in each part the oldest dispute first), then users' transactions by effective tip and nonce. In round r
users have 1/2**r of the gas and of the bytes, none from round 3 on: a block that was too slow for one round is smaller
in the next. Work batches and dispute messages, up to 64 KiB of each, stay in every round.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import Protocol

from chain.validation import Context, block_env, mix_of, prologue_of
from primitives.address import MARKET, REFEREE
from primitives.block import EMPTY_EVIDENCE_ROOT, Block
from primitives.hashing import ZERO_HASH, keccak
from primitives.header import Header, Sidecar
from primitives.params import DISPUTE_MESSAGE_GAS, ChainParams
from primitives.receipt import BLOOM_BYTES
from primitives.task import (
    MalformedBatch,
    MalformedItem,
    Reveal,
    Submission,
    TrapOpening,
    Verdict,
    WorkItem,
    decode_batch,
)
from primitives.transaction import InvalidTransaction, SystemTransaction, Transaction
from vm.executor import BlockEnv, BlockExecutor, Execution
from vm.system import abi, views
from vm.validity import BlockGasExhausted, next_base_fee

WORK_BYTES_MAX = 64 * 1024
"""Of work batches in a block, in every round."""
WORK_GAS_DIVISOR = 2
"""Work batches get at most this part of the block's gas."""
DISPUTE_BYTES_MAX = 64 * 1024
"""Of dispute messages in a block, in every round."""
OPENING_GAS_MAX = 2 * DISPUTE_MESSAGE_GAS
"""Of an opening, when it is its block's first dispute message: no lane is too small for one whose end pays many."""
DUE_CHALLENGE, NEW_DISPUTE = -1, 2**64
"""Where a challenge stands among dispute messages of senders at the same distance: a drawn verifier's first, anybody
else's after those of disputes that run."""
TO_MOVE, DRAWN, OPERATOR, STRANGER = 0, 1, 2, 3
"""How far the sender of a dispute message is from who is to move: it itself, once a dispute; a drawn verifier that
stands in; an operator; anybody."""
NOT_DUE = 2**64
"""Where a batch stands, among those that are larger than their operator's share, that carries what is not owed."""
ROUND_WITHOUT_USERS = 3
WORD_BYTES = 32
LENGTH_BYTES_MAX = 5
"""RLP header of one transaction inside the list of a block."""
SLOW_GAS_DIVISOR = 16
"""Only a transaction that used more than this part of the block's gas can be what made a build late."""


@dataclass(frozen=True)
class BuildRequest:
    """A block for `round` of the next height, in the name of `proposer` (operator address).

    time_ms: what the sidecar will say (the caller has made it larger than the parent's). last_commit: as
    primitives.vote.encode_last_commit gives it. should_stop: asked between transactions; once true,
    the block is closed.
    """

    round: int
    time_ms: int
    proposer: bytes
    beacon_proof: bytes
    last_commit: bytes
    should_stop: Callable[[], bool]


class TransactionSource(Protocol):
    """Where transactions come from and what becomes of those that cannot be used (chain.mempool)."""

    def executable(self) -> Mapping[bytes, Sequence[Transaction]]:
        """Sender -> transactions with nonces without a gap from the head state on."""

    def drop(self, transaction_hash: bytes, reason: str) -> None:
        """Forget a transaction that execution refused."""

    def suspects(self) -> frozenset[bytes]:
        """Hashes that `suspect` was called with and that still wait."""

    def suspect(self, transaction_hash: bytes) -> None:
        """Note that a build became late in this transaction; the next build tries it first, alone."""


@dataclass(frozen=True)
class Built:
    """The block and what its execution left, so that the builder need not execute it again."""

    block: Block
    execution: Execution


class ByTipAndNonce:
    """Transactions by effective tip, each sender's by nonce (geth's TransactionsByPriceAndNonce)."""

    def __init__(self, executable: Mapping[bytes, Sequence[Transaction]], base_fee: int) -> None:
        self._base_fee = base_fee
        self._queues = {sender: list(reversed(queue)) for sender, queue in executable.items() if queue}
        self._heads = [(-queue[-1].effective_tip(base_fee), sender) for sender, queue in self._queues.items()]
        heapify(self._heads)

    def peek(self) -> Transaction | None:
        """The best that is left; None when nothing is left that covers the base fee."""
        if not self._heads or self._heads[0][0] > 0:
            return None
        return self._queues[self._heads[0][1]][-1]

    def advance(self) -> None:
        """Past the transaction that peek shows, to the next of its sender."""
        sender = self._heads[0][1]
        queue = self._queues[sender]
        queue.pop()
        if queue:
            heapreplace(self._heads, (-queue[-1].effective_tip(self._base_fee), sender))
        else:
            heappop(self._heads)

    def skip_sender(self) -> None:
        """Past everything of the sender of what peek shows."""
        del self._queues[heappop(self._heads)[1]]


def build_block(context: Context, request: BuildRequest, source: TransactionSource) -> Built:
    """A valid block on context.parent. Never fails for lack of transactions, nor because of one."""
    assert request.time_ms > context.parent.sidecar.time_ms
    waiting = dict(source.executable())
    filler = _Filler(context, request, source)
    batches = filler.add_work(waiting)
    for transaction in batches:
        waiting[transaction.sender] = waiting[transaction.sender][1:]
    moves = filler.add_disputes(waiting)
    for transaction in moves:
        waiting[transaction.sender] = waiting[transaction.sender][1:]
    late = filler.add_users(waiting)
    if late is not None:
        # It was executed and cannot be taken back: fill a second block with what came before it.
        kept = [each for each in filler.included[:-1] if isinstance(each, Transaction)]
        if len(kept) == len(batches) + len(moves):
            source.drop(late.hash, "execution exceeded the time limit of a block")
        else:
            source.suspect(late.hash)
        filler = _Filler(context, request, source)
        for transaction in kept:
            filler.executor.apply(transaction)
            filler.included.append(transaction)
    return filler.close()


class _Filler:
    """One block under construction."""

    def __init__(self, context: Context, request: BuildRequest, source: TransactionSource) -> None:
        params, parent = context.params, context.parent
        self.context, self.request, self.source = context, request, source
        mix_hash = mix_of(context, request.proposer, request.beacon_proof)
        base_fee = next_base_fee(parent.header.gas_used, parent.header.base_fee_per_gas, params)
        payout = views.payout(context.reader, request.proposer)
        assert payout is not None, f"{request.proposer.hex()} proposes and is no operator"
        self.env = block_env(context, request.time_ms // 1000, payout, mix_hash, base_fee)
        self.executor = BlockExecutor(context.state, parent.header.state_root, self.env)
        prologue = prologue_of(context, request.beacon_proof)
        with context.prologue_timer():
            self.executor.run_prologue(prologue)
        self.included: list[Transaction | SystemTransaction] = [prologue]
        empty = _assemble(context, request, self.env, self.included, None)
        # The list of transactions grows to at most 2**24 bytes, so that its own length takes at most three more bytes.
        self.bytes_left = params.block_bytes_max - len(empty.wire_body) - 8

    def add_work(self, waiting: Mapping[bytes, Sequence[Transaction]]) -> list[Transaction]:
        """First in line of each operator's hot account, when it is a work batch; those that were included."""
        params, reader = self.context.params, self.context.reader
        gas_left, bytes_left = params.block_gas_limit // WORK_GAS_DIVISOR, min(WORK_BYTES_MAX, self.bytes_left)
        members = {member.operator for member in self.context.sets[0].validators}
        gas_share, bytes_share = gas_left // len(members), bytes_left // len(members)
        firsts = {sender: queue[:1] for sender, queue in waiting.items() if queue and is_work_batch(queue[0])}
        batches = ByTipAndNonce(firsts, self.env.base_fee_per_gas)
        within: list[Transaction] = []
        beyond: list[tuple[bytes, Transaction]] = []
        while (transaction := batches.peek()) is not None:
            batches.advance()
            operator = views.operator_by_hot(reader, transaction.sender)
            if operator is None:
                continue
            if operator in members and transaction.gas <= gas_share and _size(transaction) <= bytes_share:
                within.append(transaction)
            else:
                beyond.append((operator, transaction))
        waiting_gas = sum(transaction.gas for transaction in within) + sum(each.gas for _, each in beyond)
        waiting_bytes = sum(map(_size, within)) + sum(_size(each) for _, each in beyond)
        if waiting_gas > gas_left or waiting_bytes > bytes_left:
            beyond.sort(key=lambda one: due_block(reader, params, self.context.number, *one))
        included = []
        for transaction in (*within, *(transaction for _, transaction in beyond)):
            if self.request.should_stop():
                break
            if transaction.gas > gas_left or _size(transaction) > bytes_left or not self._apply(transaction):
                continue
            gas_left -= self.executor.receipts[-1].gas_used
            bytes_left -= _size(transaction)
            included.append(transaction)
        return included

    def add_disputes(self, waiting: Mapping[bytes, Sequence[Transaction]]) -> list[Transaction]:
        """First in line of anyone, when it is a move that its dispute waits for, the oldest dispute's first, or a new
        challenge; those that were included."""
        params = self.context.params
        gas_left = failures_left = lane = max(params.dispute_lane_gas, DISPUTE_MESSAGE_GAS)
        bytes_left = min(DISPUTE_BYTES_MAX, self.bytes_left)
        firsts = [queue[0] for queue in waiting.values() if queue and queue[0].to == REFEREE]
        base_fee = self.env.base_fee_per_gas
        included: list[Transaction] = []
        moved: set[int] = set()
        order = in_lane(self.context.reader, params, self.context.number, firsts, base_fee)
        for number, distance, transaction in order:
            if self.request.should_stop() or (failures_left < 0 and distance > TO_MOVE):
                break
            opens = transaction.data[:4] == abi.OPEN.selector
            room = max(gas_left, OPENING_GAS_MAX) if opens and gas_left == lane else gas_left
            if transaction.gas > room or _size(transaction) > bytes_left or number in moved:
                continue
            if transaction.effective_tip(base_fee) < 0 or not self._apply(transaction):
                continue
            receipt = self.executor.receipts[-1]
            bytes_left -= _size(transaction)
            included.append(transaction)
            if not receipt.status:
                # What is refused takes nothing from others, up to as much gas again as they have; and nothing from
                # those whose turn it is, of whom there are as many as disputes may run.
                failures_left -= receipt.gas_used
                continue
            gas_left -= receipt.gas_used
            if number not in (DUE_CHALLENGE, NEW_DISPUTE):
                moved.add(number)
        return included

    def add_users(self, waiting: Mapping[bytes, Sequence[Transaction]]) -> Transaction | None:
        """By tip and nonce until a budget is used up; the transaction in which the time ran out, if a slow one."""
        params, round_ = self.context.params, self.request.round
        if round_ >= ROUND_WITHOUT_USERS:
            return None
        gas_left = params.block_gas_limit >> round_
        bytes_left = min(self.bytes_left, params.block_bytes_max >> round_)
        suspects = self.source.suspects()
        first = {sender: queue for sender, queue in waiting.items() if queue and queue[0].hash in suspects}
        rest = {sender: queue for sender, queue in waiting.items() if sender not in first}
        for group in (first, rest):
            candidates = ByTipAndNonce(group, self.env.base_fee_per_gas)
            while (transaction := candidates.peek()) is not None:
                if self.request.should_stop():
                    return None
                if transaction.gas > gas_left or _size(transaction) > bytes_left or not self._apply(transaction):
                    candidates.skip_sender()
                    continue
                gas_used = self.executor.receipts[-1].gas_used
                gas_left -= gas_used
                bytes_left -= _size(transaction)
                candidates.advance()
                if gas_used > params.block_gas_limit // SLOW_GAS_DIVISOR and self.request.should_stop():
                    return transaction
        return None

    def close(self) -> Built:
        """Roots, header and sidecar."""
        execution = self.executor.finish()
        block = _assemble(self.context, self.request, self.env, self.included, execution)
        assert len(block.wire_body) <= self.context.params.block_bytes_max
        return Built(block, execution)

    def _apply(self, transaction: Transaction) -> bool:
        """Whether it is in the block now. What is refused for its own sake is dropped from the source."""
        try:
            self.executor.apply(transaction)
        except BlockGasExhausted:
            return False
        except InvalidTransaction as error:
            self.source.drop(transaction.hash, str(error))
            return False
        self.included.append(transaction)
        self.bytes_left -= _size(transaction)
        return True


def _size(transaction: Transaction) -> int:
    """Bytes that it takes in a block's body, at most."""
    return len(transaction.raw) + LENGTH_BYTES_MAX


def is_work_batch(transaction: Transaction) -> bool:
    """Whether it calls Market.work(bytes)."""
    return transaction.to == MARKET and transaction.data.startswith(abi.WORK.selector)


def _assemble(
    context: Context,
    request: BuildRequest,
    env: BlockEnv,
    transactions: Sequence[Transaction | SystemTransaction],
    execution: Execution | None,
) -> Block:
    """The block around an execution; without one its size is right and its roots are not."""
    params = context.params
    sidecar = Sidecar(
        epoch=params.epoch(context.number),
        proposer=request.proposer,
        validator_set_hash=context.sets[0].hash,
        next_validator_set_hash=context.sets[1].hash,
        params_hash=params.hash,
        last_commit_hash=keccak(request.last_commit),
        evidence_root=EMPTY_EVIDENCE_ROOT,
        time_ms=request.time_ms,
        beacon_proof=request.beacon_proof,
    )
    header = Header(
        parent_hash=context.parent.hash,
        coinbase=env.coinbase,
        state_root=execution.state_root if execution else ZERO_HASH,
        transactions_root=execution.transactions_root if execution else ZERO_HASH,
        receipts_root=execution.receipts_root if execution else ZERO_HASH,
        logs_bloom=execution.logs_bloom if execution else bytes(BLOOM_BYTES),
        number=context.number,
        gas_limit=params.block_gas_limit,
        gas_used=execution.gas_used if execution else params.block_gas_limit,
        timestamp=env.timestamp,
        extra_data=sidecar.hash,
        mix_hash=env.mix_hash,
        base_fee_per_gas=env.base_fee_per_gas,
    )
    return Block(header, sidecar, tuple(transactions), request.last_commit)


def due_block(
    reader: views.Reader, params: ChainParams, height: int, operator: bytes, transaction: Transaction
) -> int:
    """The last block for what a work batch owes first. NOT_DUE when something in it is not owed in block `height`, or
    twice in it: what is certain to be refused has no claim on what others leave."""
    try:
        (batch,) = abi.WORK.decode_arguments(transaction.data[4:])
        items = decode_batch(batch, params.chain_id)
    except (abi.AbiError, MalformedBatch):
        return NOT_DUE
    carried = {(item.task, type(item)) for item in items if not isinstance(item, MalformedItem)}
    if len(carried) < len(items):
        return NOT_DUE
    last = NOT_DUE
    for task, kind in sorted(carried, key=lambda one: one[0]):
        ends = [duty.last_block for duty in views.duties_in(reader, task, operator, params, height)
                if duty.first_block <= height and kind in _FULFILLED_BY.get(duty.role, ())]  # fmt: skip
        if not ends:
            return NOT_DUE
        last = min(last, *ends)
    return last


_FULFILLED_BY: Mapping[int, tuple[type[WorkItem], ...]] = {
    abi.ROLE_EXECUTE: (Submission,),
    abi.ROLE_AUDIT: (Verdict,),
    abi.ROLE_REVEAL: (Reveal, TrapOpening),
    abi.ROLE_TRAP: (TrapOpening,),
}


def in_lane(
    reader: views.Reader, params: ChainParams, height: int, transactions: Iterable[Transaction], base_fee: int
) -> list[tuple[int, int, Transaction]]:
    """Messages that have a place in the lane of disputes, with their dispute (or DUE_CHALLENGE, NEW_DISPUTE) and their
    sender's distance, in order: the nearest, of these the oldest dispute's, then by tip."""
    found = []
    for transaction in transactions:
        number = place_in_lane(reader, params, height, transaction)
        if number is not None:
            distance = _distance(reader, params, height, number, transaction)
            found.append((distance, number, -transaction.effective_tip(base_fee), transaction.hash, transaction))
    ordered = sorted(found, key=lambda one: one[:4])
    return [(number, distance, transaction) for distance, number, *_, transaction in ordered]


def _distance(reader: views.Reader, params: ChainParams, height: int, number: int, transaction: Transaction) -> int:
    """Of the sender from who is to move."""
    operator = views.operator_by_hot(reader, transaction.sender)
    nearest = STRANGER if operator is None else OPERATOR
    if number in (DUE_CHALLENGE, NEW_DISPUTE):
        return TO_MOVE if number == DUE_CHALLENGE else nearest
    view = views.dispute(reader, number, params, height)
    assert view is not None
    if view.turn == abi.TURN_CHALLENGER or operator == view.accused or view.author in (operator, transaction.sender):
        return TO_MOVE
    task = views.task(reader, view.task)
    return DRAWN if task is not None and operator in task.verifiers else nearest


def place_in_lane(reader: views.Reader, params: ChainParams, height: int, transaction: Transaction) -> int | None:
    """The dispute that waits for a message of this kind from its sender; of a challenge DUE_CHALLENGE or NEW_DISPUTE.
    None: nothing waits for it. height: of the block that is built."""
    selector, arguments = transaction.data[:4], transaction.data[4:]
    if len(arguments) < WORD_BYTES:
        return None
    if selector == abi.CHALLENGE.selector:
        operator = views.operator_by_hot(reader, transaction.sender)
        duties = [] if operator is None else views.open_tasks(reader, operator, params, height)
        own = [duty for duty in duties if duty.role == abi.ROLE_CHALLENGE and duty.slot != abi.NO_SLOT]
        return DUE_CHALLENGE if arguments[:WORD_BYTES] in [duty.task for duty in own] else NEW_DISPUTE
    if selector not in (abi.SHOW.selector, abi.CHOOSE.selector, abi.OPEN.selector):
        return None
    number = int.from_bytes(arguments[:WORD_BYTES], "big")
    view = views.dispute(reader, number, params, height)
    if view is None:
        return None
    if selector == abi.SHOW.selector:
        return number if view.turn == abi.TURN_DEFENDER else None
    return number if view.turn == abi.TURN_CHALLENGER and view.challenger == transaction.sender else None
