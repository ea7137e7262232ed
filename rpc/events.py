"""Subscriptions: what WebSocket clients are told when a block is committed or a transaction becomes pending.

The node calls the hub; each session has a bounded queue, and a client that lets it fill up is disconnected.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from chain.ledger import Committed, log_matches, logs_of_block
from primitives.transaction import Transaction
from rpc.codec import data
from rpc.dispatch import notification
from rpc.errors import LIMIT_EXCEEDED, RpcError
from rpc.format import header_json, log_json, transaction_json
from rpc.logs import Criteria

QUEUE_MAX = 2_048
SUBSCRIPTIONS_MAX = 64


@dataclass(frozen=True)
class Subscription:
    """One eth_subscribe: newHeads, logs (with criteria), newPendingTransactions (full or hashes) or syncing."""

    kind: str
    criteria: Criteria | None = None
    full: bool = False


class Session:
    """One WebSocket connection's subscriptions."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self._new: dict[str, Subscription] = {}
        self._send, self.notifications = trio.open_memory_channel[bytes](QUEUE_MAX)

    def subscribe(self, subscription: Subscription) -> str:
        """A new id; its notifications start after release, when the id has been sent. Raises RpcError."""
        if len(self.subscriptions) + len(self._new) >= SUBSCRIPTIONS_MAX:
            raise RpcError(LIMIT_EXCEEDED, f"too many subscriptions on this connection: at most {SUBSCRIPTIONS_MAX}")
        identifier = "0x" + secrets.token_hex(16)
        self._new[identifier] = subscription
        return identifier

    def unsubscribe(self, identifier: str) -> bool:
        """Whether there was such a subscription."""
        return self.subscriptions.pop(identifier, None) is not None or self._new.pop(identifier, None) is not None

    def release(self) -> None:
        """The answers so far are on their way: new subscriptions may speak."""
        self.subscriptions.update(self._new)
        self._new.clear()

    def notify(self, message: bytes) -> None:
        """Queue a notification; a full queue ends the session."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.close()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass  # it is going down: it overflowed, or its writer found the client gone while a call of it still runs

    def close(self) -> None:
        """No more notifications; the server then hangs up."""
        self.subscriptions.clear()
        self._send.close()


class Hub:
    """All sessions. Called from the trio thread only."""

    def __init__(self) -> None:
        self._sessions: set[Session] = set()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session for as long as its connection lives."""
        session = Session()
        self._sessions.add(session)
        try:
            yield session
        finally:
            self._sessions.discard(session)
            session.close()

    def committed(self, committed: Committed) -> None:
        """Tell everyone about a new head."""
        if not self._sessions:
            return
        head, logs = header_json(committed.block.header), list(logs_of_block(committed.block, committed.receipts))
        for session in tuple(self._sessions):
            for identifier, subscription in tuple(session.subscriptions.items()):
                if subscription.kind == "newHeads":
                    session.notify(notification(identifier, head))
                elif subscription.kind == "logs":
                    criteria = subscription.criteria
                    assert criteria is not None
                    for found in logs:
                        if log_matches(found.log, criteria.addresses, criteria.topics):
                            session.notify(notification(identifier, log_json(found)))

    def pending(self, transaction: Transaction) -> None:
        """Tell everyone about a transaction that entered the mempool."""
        for session in tuple(self._sessions):
            for identifier, subscription in tuple(session.subscriptions.items()):
                if subscription.kind == "newPendingTransactions":
                    shown = transaction_json(transaction) if subscription.full else data(transaction.hash)
                    session.notify(notification(identifier, shown))
