"""Subscriptions: what WebSocket clients are told when a block is committed or a transaction becomes pending.

The node calls the hub, which only notes what happened: a block may hold as many logs as its gas pays for, and clients
as many subscriptions as they may have, so that each client's notifications are made where they are sent, a few at a
time, one client's after the other's. Queues are bounded; a client that lets its own fill up is disconnected.
"""

import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
import trio

from chain.ledger import Committed, log_matches, logs_of_block
from primitives.transaction import Transaction
from rpc.codec import data
from rpc.errors import LIMIT_EXCEEDED, RpcError
from rpc.format import header_json, log_json, transaction_json
from rpc.logs import Criteria

TRANSACTIONS_WAITING_MAX = 2_048
BLOCKS_WAITING_MAX = 64
"""News that wait for one client. What they are about all clients share."""
SUBSCRIPTIONS_MAX = 64
VALUES_MAX = 5_000
"""Addresses and topics in one connection's subscriptions, as many as the largest filter has: each takes a tenth of a
kilobyte for as long as the connection lasts."""
LOGS_AT_ONCE = 64
"""Logs looked at, and notifications made, before somebody else has a turn."""


@dataclass(frozen=True)
class Subscription:
    """One eth_subscribe: newHeads, logs (with criteria), newPendingTransactions (full or hashes) or syncing."""

    kind: str
    criteria: Criteria | None = None
    full: bool = False


Batch = Sequence[tuple[str, Any]]
"""(subscription id, result of its notification)."""


@dataclass(frozen=True)
class _Block:
    """A new head."""

    number: int
    """Of the news, counted by the hub."""
    committed: Committed
    kinds = frozenset(("newHeads", "logs"))

    @cached_property
    def head(self) -> orjson.Fragment:
        return orjson.Fragment(orjson.dumps(header_json(self.committed.block.header)))

    def batches(self, subscriptions: dict[str, Subscription]) -> Iterator[Batch]:
        """Notifications of one client, its heads first."""
        yield [(each, self.head) for each, wanted in subscriptions.items() if wanted.kind == "newHeads"]
        listening = [(each, wanted.criteria) for each, wanted in subscriptions.items() if wanted.criteria is not None]
        batch: list[tuple[str, Any]] = []
        logs = logs_of_block(self.committed.block, self.committed.receipts) if listening else ()
        for looked_at, found in enumerate(logs, 1):
            to = [each for each, wanted in listening if log_matches(found.log, wanted.addresses, wanted.topics)]
            if to:
                shown = log_json(found)
                batch += [(each, shown) for each in to]
            if looked_at % LOGS_AT_ONCE == 0 or len(batch) >= LOGS_AT_ONCE:
                yield batch
                batch = []
        yield batch


@dataclass(frozen=True)
class _Pending:
    """A transaction that entered the mempool."""

    number: int
    transaction: Transaction
    kinds = frozenset(("newPendingTransactions",))

    @cached_property
    def full(self) -> orjson.Fragment:
        return orjson.Fragment(orjson.dumps(transaction_json(self.transaction)))

    def batches(self, subscriptions: dict[str, Subscription]) -> Iterator[Batch]:
        """Notifications of one client."""
        shown = data(self.transaction.hash)
        wanted = [(each, wanted.full) for each, wanted in subscriptions.items() if wanted.kind in self.kinds]
        yield [(each, self.full if full else shown) for each, full in wanted]


class Session:
    """One WebSocket connection's subscriptions."""

    def __init__(self, hub: "Hub") -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self._new: dict[str, Subscription] = {}
        self._hub = hub
        self._since: dict[str, int] = {}
        """Subscription -> the last news from before it."""
        self._kinds: frozenset[str] = frozenset()
        self._news: deque[_Block | _Pending] = deque()
        self._waiting = {_Block: 0, _Pending: 0}
        self._batches: Iterator[Batch] = iter(())
        self._something = trio.Event()
        self._closed = False

    def subscribe(self, subscription: Subscription) -> str:
        """A new id; its notifications start after release, when the id has been sent. Raises RpcError."""
        if len(self.subscriptions) + len(self._new) >= SUBSCRIPTIONS_MAX:
            raise RpcError(LIMIT_EXCEEDED, f"too many subscriptions on this connection: at most {SUBSCRIPTIONS_MAX}")
        held = (*self.subscriptions.values(), *self._new.values(), subscription)
        if sum(each.criteria.size for each in held if each.criteria is not None) > VALUES_MAX:
            raise RpcError(LIMIT_EXCEEDED, f"more than {VALUES_MAX} addresses and topics on this connection")
        identifier = "0x" + secrets.token_hex(16)
        self._new[identifier] = subscription
        return identifier

    def unsubscribe(self, identifier: str) -> bool:
        """Whether there was such a subscription."""
        self._since.pop(identifier, None)
        known = self.subscriptions.pop(identifier, None) is not None
        self._kinds = frozenset(each.kind for each in self.subscriptions.values())
        return self._new.pop(identifier, None) is not None or known

    def release(self) -> None:
        """The answers so far are on their way: new subscriptions may speak."""
        if self._new and not self._closed:
            self._since |= dict.fromkeys(self._new, self._hub.count)
            self.subscriptions.update(self._new)
            self._kinds = frozenset(each.kind for each in self.subscriptions.values())
        self._new.clear()

    def tell(self, news: _Block | _Pending) -> None:
        """Queue it for whoever it concerns; a full queue ends the session."""
        if not self._kinds & news.kinds:
            return
        most = BLOCKS_WAITING_MAX if isinstance(news, _Block) else TRANSACTIONS_WAITING_MAX
        if self._waiting[type(news)] >= most:
            self.close()
            return
        self._waiting[type(news)] += 1
        self._news.append(news)
        self._something.set()

    async def next(self) -> Batch | None:
        """The next notifications; None when there are no more: the server then hangs up."""
        while not self._closed:
            async with self._hub.turn:
                batch = next(self._batches, None)
            if batch:
                return batch
            if batch is None and self._news:
                news = self._news.popleft()
                self._waiting[type(news)] -= 1
                concerned = {each: it for each, it in self.subscriptions.items() if self._since[each] < news.number}
                self._batches = news.batches(concerned)
            elif batch is None:
                self._something = trio.Event()
                await self._something.wait()
        return None

    def close(self) -> None:
        """No more notifications."""
        self.subscriptions.clear()
        self._since.clear()
        self._news.clear()
        self._kinds = frozenset()
        self._closed = True
        self._something.set()


class Hub:
    """All sessions. Called from the trio thread only."""

    def __init__(self) -> None:
        self.count = 0
        """News so far."""
        self.turn = trio.Lock()
        """Held by the session that makes notifications."""
        self._sessions: set[Session] = set()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session for as long as its connection lives."""
        session = Session(self)
        self._sessions.add(session)
        try:
            yield session
        finally:
            self._sessions.discard(session)
            session.close()

    def committed(self, committed: Committed) -> None:
        """Tell everyone about a new head."""
        self._tell(_Block(self.count + 1, committed))

    def pending(self, transaction: Transaction) -> None:
        """Tell everyone about a transaction that entered the mempool."""
        self._tell(_Pending(self.count + 1, transaction))

    def _tell(self, news: _Block | _Pending) -> None:
        self.count = news.number
        for session in self._sessions:
            session.tell(news)
