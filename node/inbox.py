"""The one door of the consensus service's owner task: what this node itself produced (timers, checks, own votes) is
never dropped and goes first; what peers sent waits in the network's bounded queue until there is room here.
"""

from collections import deque
from typing import Generic, TypeVar

import trio

PEER_ITEMS_MAX = 64
"""Enough to save switching tasks for each message; the network's queue is the one that drops."""

Local = TypeVar("Local")
FromPeer = TypeVar("FromPeer")


class Inbox(Generic[Local, FromPeer]):
    """Two queues, one reader. Local items are bounded by what the core can have outstanding."""

    def __init__(self) -> None:
        self._local: deque[Local] = deque()
        self._from_peers: deque[FromPeer] = deque()
        self._something = trio.Event()
        self._room = trio.Event()

    def put(self, item: Local) -> None:
        """Something of this node's own; from the event loop's thread."""
        self._local.append(item)
        self._something.set()

    async def give(self, item: FromPeer) -> None:
        """Something from a peer; waits for room. One writer only."""
        while len(self._from_peers) >= PEER_ITEMS_MAX:
            self._room = trio.Event()
            await self._room.wait()
        self._from_peers.append(item)
        self._something.set()

    async def get(self) -> Local | FromPeer:
        """The next item. One reader only."""
        while not self._local and not self._from_peers:
            self._something = trio.Event()
            await self._something.wait()
        if self._local:
            return self._local.popleft()
        self._room.set()
        return self._from_peers.popleft()
