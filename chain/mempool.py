"""Transactions that wait for a block: who may wait, who replaces whom, who leaves (geth's legacy pool, in its words).

Executable means: nonces without a gap from the account's nonce in the head state on; the others are queued. Knows no
clock (the caller says what time it is) and no network (subscribers hear of every new transaction). Any thread may call.
"""

import heapq
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chain.builder import ByTipAndNonce, is_work_batch
from chain.ledger import Committed, Ledger
from primitives.address import checksum
from primitives.keys import InvalidSignature
from primitives.transaction import InvalidTransaction, Transaction, decode
from vm.system import views
from vm.validity import check_account, check_static

STALE_MAX = 1_024
"""Entries of transactions that have left, kept in the heap of prices before it is made anew."""
PROTECTED_MAX = 8
"""Work batches of one operator, from its account's nonce on, that a full pool takes and keeps: a node has a few on
their way; without a bound one hot account could fill the pool for good."""
SLOT_BYTES = 32 * 1024
"""Pool capacity is counted in slots; a transaction of 128 KiB takes four."""


@dataclass(frozen=True)
class Caps:
    """Bounds of the pool, geth's numbers."""

    account_slots: int = 16
    """Executable slots that every account keeps; what is above loses first when the pool is full."""
    global_slots: int = 5_120
    account_queue: int = 64
    global_queue: int = 1_024
    lifetime_ms: int = 3 * 3_600 * 1_000
    """Queued transactions of an account that sent nothing for so long are dropped."""
    price_bump_percent: int = 10
    tip_min_wei: int = 1
    suspects_max: int = 64


class AlreadyKnown(InvalidTransaction):
    """The same transaction waits here already."""


class Underpriced(InvalidTransaction):
    """Its fees are below the pool's minimum, or below what it would have to push out."""


class MempoolFull(InvalidTransaction):
    """No room, and nothing cheaper to push out."""


@dataclass
class _Account:
    """What one sender has here. nonce: of the head state, as last read; pending: how many of its are executable."""

    nonce: int
    transactions: dict[int, Transaction] = field(default_factory=dict)
    pending: int = 0
    seen_ms: int = 0

    def executable(self) -> list[Transaction]:
        """From the state's nonce on, without a gap."""
        return [self.transactions[nonce] for nonce in range(self.nonce, self.nonce + self.pending)]

    def queued(self) -> list[Transaction]:
        """The others, by nonce."""
        first = self.nonce + self.pending
        return [self.transactions[nonce] for nonce in sorted(self.transactions) if nonce >= first]

    def recount(self) -> None:
        """Set `pending` anew."""
        nonce = self.nonce
        while nonce in self.transactions:
            nonce += 1
        self.pending = nonce - self.nonce


class Mempool:
    """The pool over one ledger; it follows the ledger's commits by itself."""

    def __init__(self, ledger: Ledger, caps: Caps | None = None) -> None:
        self.caps = caps or Caps()
        self.on_add: list[Callable[[Transaction], None]] = []
        """Called after a transaction was accepted, in the thread that added it (gossip, subscriptions)."""
        self.on_drop: list[Callable[[Transaction, str], None]] = []
        """Called with whatever leaves without having been in a block, and why; with the pool's lock held: be short."""
        self._ledger = ledger
        self._lock = threading.RLock()
        self._accounts: dict[bytes, _Account] = {}
        self._by_hash: dict[bytes, Transaction] = {}
        self._cheapest: list[tuple[tuple[int, int], bytes]] = []
        """Heap of (price, hash); entries whose transaction has left are skipped when they surface."""
        self._suspects: dict[bytes, None] = {}
        self._slots = 0
        self._pending_count = 0
        ledger.on_commit.append(self.committed)

    def add(self, raw: bytes, now_ms: int) -> Transaction:
        """Take a signed transaction in. Raises InvalidTransaction, AlreadyKnown, Underpriced, MempoolFull."""
        transaction = decode(raw)
        with self._lock:
            if transaction.hash in self._by_hash:
                raise AlreadyKnown("already known")
        sender = transaction.sender
        check_static(transaction, self._ledger.params)
        self._check_price(transaction)
        with self._lock:
            if transaction.hash in self._by_hash:
                raise AlreadyKnown("already known")
            self._refresh(sender)
            account = self._accounts.get(sender) or _Account(self._ledger.reader().nonce(sender))
            self._check_account(transaction, account)
            protected = self._is_operators_work(transaction, account)
            replaced = account.transactions.get(transaction.nonce)
            if replaced is None:
                self._make_room(transaction, account, protected)
            else:
                self._check_replacement(transaction, replaced)
                self._forget(replaced, "replaced by a transaction of the same nonce")
            self._insert(transaction, account, now_ms, protected)
            self._truncate()
            if transaction.hash not in self._by_hash:
                raise MempoolFull(f"txpool is full: {self._pending_count} executable of {self.caps.global_slots}")
        for callback in self.on_add:
            callback(transaction)
        return transaction

    def get(self, transaction_hash: bytes) -> Transaction | None:
        """A waiting transaction."""
        return self._by_hash.get(transaction_hash)

    def __contains__(self, transaction_hash: bytes) -> bool:
        return transaction_hash in self._by_hash

    def __len__(self) -> int:
        return len(self._by_hash)

    def next_nonce(self, address: bytes) -> int:
        """The nonce for the account's next transaction, what waits here without a gap counted."""
        with self._lock:
            account = self._accounts.get(address)
            if account is not None:
                return account.nonce + account.pending
            return self._ledger.reader().nonce(address)

    def counts(self) -> tuple[int, int]:
        """(executable, queued) transactions."""
        with self._lock:
            return self._pending_count, len(self._by_hash) - self._pending_count

    def content(self) -> tuple[dict[bytes, list[Transaction]], dict[bytes, list[Transaction]]]:
        """(executable, queued) by sender, in nonce order."""
        with self._lock:
            pending = {sender: account.executable() for sender, account in self._accounts.items() if account.pending}
            queued = {sender: waiting for sender, account in self._accounts.items() if (waiting := account.queued())}
            return pending, queued

    def pending(self, base_fee: int) -> Iterator[Transaction]:
        """Executable transactions that cover the base fee, in the order in which a builder takes them."""
        candidates = ByTipAndNonce(self.executable(), base_fee)
        while (transaction := candidates.peek()) is not None:
            candidates.advance()
            yield transaction

    def expire(self, now_ms: int) -> list[Transaction]:
        """Drop queued transactions of accounts that sent nothing for the lifetime; those that left."""
        with self._lock:
            expired = [
                transaction
                for account in self._accounts.values()
                if account.seen_ms + self.caps.lifetime_ms <= now_ms
                for transaction in account.queued()
            ]
            for transaction in expired:
                self._forget(transaction, "its nonce gap was not closed in time")
            return expired

    def committed(self, committed: Committed) -> None:
        """What stands in the block leaves; accounts that it touched are looked at again."""
        with self._lock:
            touched: set[bytes] = set()
            for transaction in committed.block.transactions:
                if not isinstance(transaction, Transaction):
                    continue
                touched.add(transaction.sender)
                for authorization in transaction.authorization_list:
                    try:
                        touched.add(authorization.signer)
                    except InvalidSignature:
                        continue  # the chain skips such an authorization too (EIP-7702)
                if transaction.hash in self._by_hash:
                    self._forget(transaction, None)
            for address in sorted(touched):
                self._refresh(address)

    # ---------------------------------------------------------------- for the builder (TransactionSource)

    def executable(self) -> Mapping[bytes, Sequence[Transaction]]:
        """Sender -> transactions with nonces without a gap from the head state on."""
        with self._lock:
            return {sender: account.executable() for sender, account in self._accounts.items() if account.pending}

    def drop(self, transaction_hash: bytes, reason: str) -> None:
        """Forget a transaction; later ones of its sender become queued."""
        with self._lock:
            transaction = self._by_hash.get(transaction_hash)
            if transaction is not None:
                self._forget(transaction, reason)

    def suspects(self) -> frozenset[bytes]:
        """Transactions that a build became late in, to be tried first."""
        with self._lock:
            return frozenset(self._suspects)

    def suspect(self, transaction_hash: bytes) -> None:
        """Note that a build became late in it."""
        with self._lock:
            if transaction_hash in self._by_hash and len(self._suspects) < self.caps.suspects_max:
                self._suspects[transaction_hash] = None

    # ---------------------------------------------------------------- rules

    def _check_price(self, transaction: Transaction) -> None:
        params, caps = self._ledger.params, self.caps
        if transaction.max_priority_fee_per_gas < caps.tip_min_wei:
            raise Underpriced(
                f"transaction underpriced: gas tip cap {transaction.max_priority_fee_per_gas}, "
                f"minimum needed {caps.tip_min_wei}"
            )
        if transaction.max_fee_per_gas < params.base_fee_min:
            raise Underpriced(
                f"transaction underpriced: gas fee cap {transaction.max_fee_per_gas}, "
                f"minimum needed {params.base_fee_min}"
            )

    def _check_account(self, transaction: Transaction, account: _Account) -> None:
        """Nonce, code, and funds for this and everything else of the sender that waits."""
        reader, sender = self._ledger.reader(), transaction.sender
        balance = reader.balance(sender)
        # A nonce ahead of the account's is no fault here: it waits. So does a fee below today's base fee.
        check_account(transaction, max(transaction.nonce, account.nonce), balance, reader.code(sender), 0)
        cost = cost_of(transaction)
        others = sum(cost_of(other) for nonce, other in account.transactions.items() if nonce != transaction.nonce)
        if others + cost > balance:
            raise InvalidTransaction(
                f"insufficient funds for gas * price + value: balance {balance}, queued cost {others}, tx cost {cost}, "
                f"overshot {others + cost - balance}"
            )

    def _check_replacement(self, transaction: Transaction, replaced: Transaction) -> None:
        """Both fees higher by the bump (geth: the threshold rounds down, and equality with the old fee never does)."""
        bump = 100 + self.caps.price_bump_percent
        for new, old in (
            (transaction.max_fee_per_gas, replaced.max_fee_per_gas),
            (transaction.max_priority_fee_per_gas, replaced.max_priority_fee_per_gas),
        ):
            if new <= old or new < old * bump // 100:
                raise Underpriced("replacement transaction underpriced")

    def _make_room(self, transaction: Transaction, account: _Account, protected: bool) -> None:
        """Refuse it, or push out what is cheaper until it fits. An operator's next work batches always fit."""
        caps = self.caps
        gapped = transaction.nonce > account.nonce + account.pending
        if gapped and len(account.transactions) - account.pending >= caps.account_queue:
            raise MempoolFull(
                f"account limit exceeded: {checksum(transaction.sender)} has {caps.account_queue} queued transactions "
                f"behind the gap at nonce {account.nonce + account.pending}"
            )
        excess = self._slots + slots_of(transaction) - caps.global_slots - caps.global_queue
        victims: list[Transaction] = []
        try:
            while excess > 0 and not protected:
                victim = self._pop_cheapest()
                if victim is None:
                    raise MempoolFull("txpool is full")
                victims.append(victim)
                if self._price(transaction) <= self._price(victim):
                    raise Underpriced("transaction underpriced")
                if gapped and self._is_executable(victim):
                    raise InvalidTransaction("future transaction tries to replace pending")
                excess -= slots_of(victim)
        except InvalidTransaction:
            for victim in victims:
                heapq.heappush(self._cheapest, (self._price(victim), victim.hash))
            raise
        for victim in victims:
            self._forget(victim, "pushed out of the full pool by a better paying one")

    def _truncate(self) -> None:
        """Bring executable and queued ones back under their global bounds (geth's truncatePending, truncateQueue)."""
        caps = self.caps
        while self._pending_count > caps.global_slots:
            longest = max(self._accounts.values(), key=lambda account: account.pending)
            if longest.pending <= caps.account_slots:
                break
            self._forget(longest.executable()[-1], "the pool is full and its sender has the most transactions in it")
        while len(self._by_hash) - self._pending_count > caps.global_queue:
            waiting = (account for account in self._accounts.values() if len(account.transactions) > account.pending)
            oldest = min(waiting, key=lambda account: account.seen_ms)
            self._forget(oldest.queued()[-1], "the queue is full and its sender has been silent the longest")

    def _is_operators_work(self, transaction: Transaction, account: _Account) -> bool:
        """The next few work batches of an operator must reach blocks: they are not pushed out."""
        if not is_work_batch(transaction) or transaction.nonce >= account.nonce + PROTECTED_MAX:
            return False
        return views.operator_by_hot(self._ledger.reader(), transaction.sender) is not None

    # ---------------------------------------------------------------- bookkeeping

    def _insert(self, transaction: Transaction, account: _Account, now_ms: int, protected: bool) -> None:
        account = self._accounts.setdefault(transaction.sender, account)
        account.transactions[transaction.nonce] = transaction
        account.seen_ms = now_ms
        self._recount(account)
        self._by_hash[transaction.hash] = transaction
        self._slots += slots_of(transaction)
        if not protected:
            heapq.heappush(self._cheapest, (self._price(transaction), transaction.hash))
            if len(self._cheapest) > 2 * len(self._by_hash) + STALE_MAX:
                self._cheapest = [entry for entry in self._cheapest if entry[1] in self._by_hash]
                heapq.heapify(self._cheapest)

    def _forget(self, transaction: Transaction, reason: str | None) -> None:
        """Take it out; with a reason it is reported as dropped."""
        account = self._accounts[transaction.sender]
        del account.transactions[transaction.nonce]
        del self._by_hash[transaction.hash]
        self._suspects.pop(transaction.hash, None)
        self._slots -= slots_of(transaction)
        self._recount(account)
        if not account.transactions:
            del self._accounts[transaction.sender]
        if reason is not None:
            for callback in self.on_drop:
                callback(transaction, reason)

    def _refresh(self, address: bytes) -> None:
        """Read the account again; what it can no longer send or pay leaves."""
        account = self._accounts.get(address)
        if account is None:
            return
        reader = self._ledger.reader()
        nonce, balance = reader.nonce(address), reader.balance(address)
        account.nonce = nonce
        self._recount(account)
        for transaction in list(account.transactions.values()):
            if transaction.nonce < nonce:
                self._forget(transaction, f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
            elif cost_of(transaction) > balance:
                self._forget(transaction, f"insufficient funds: balance {balance}, tx cost {cost_of(transaction)}")

    def _recount(self, account: _Account) -> None:
        before = account.pending
        account.recount()
        self._pending_count += account.pending - before

    def _is_executable(self, transaction: Transaction) -> bool:
        account = self._accounts[transaction.sender]
        return transaction.nonce < account.nonce + account.pending

    def _price(self, transaction: Transaction) -> tuple[int, int]:
        """What it pays the proposer at the least base fee, then its fee cap: does not move with the base fee."""
        return transaction.effective_tip(self._ledger.params.base_fee_min), transaction.max_fee_per_gas

    def _pop_cheapest(self) -> Transaction | None:
        while self._cheapest:
            _, transaction_hash = heapq.heappop(self._cheapest)
            transaction = self._by_hash.get(transaction_hash)
            if transaction is not None:
                return transaction
        return None


def cost_of(transaction: Transaction) -> int:
    """The most that it can take from its sender, wei."""
    return transaction.gas * transaction.max_fee_per_gas + transaction.value


def slots_of(transaction: Transaction) -> int:
    """Capacity that it takes, at least 1."""
    return -(-len(transaction.raw) // SLOT_BYTES)
