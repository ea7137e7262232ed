"""Catching up: hand decided blocks of peers that are ahead to the consensus service, which checks and commits them.

The core always runs at head + 1; this only feeds it. A claimed height is a hint whom to ask and never a reason to wait.
"""

import structlog
import trio

from chain.ledger import Committed, Ledger
from node.consensus import SYNCED_BLOCKS_MAX, Consensus, decode_decided
from node.messages import BadMessage
from p2p.network import Network, SyncStream

BEHIND_BLOCKS = 2
"""One block behind is the ordinary race of a commit; the core gets that block's commit from its neighbours."""
AHEAD_BLOCKS_MAX = SYNCED_BLOCKS_MAX // 2
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 8.0
"""After each time that nobody gave anything the wait doubles."""
PATIENCE_SECONDS = 10.0
"""Blocks that were handed over and not committed for so long are asked for again."""

log = structlog.get_logger("sync")


class Sync:
    """The service; `run` until cancelled."""

    def __init__(self, network: Network, consensus: Consensus, ledger: Ledger) -> None:
        self.starting_height = ledger.head.number
        self._network = network
        self._consensus = consensus
        self._ledger = ledger
        self._fruitless = 0
        """How often in a row nobody gave anything."""
        self._committed = trio.Event()
        consensus.on_commit.append(self._on_commit)

    @property
    def highest_claimed(self) -> int:
        """The highest block that a connected peer says it has."""
        return self._network.best_claimed_height()

    @property
    def behind(self) -> bool:
        """Whether peers claim to be well ahead of this node."""
        return self.highest_claimed >= self._ledger.head.number + BEHIND_BLOCKS

    @property
    def catching_up(self) -> bool:
        """Whether peers are ahead and give what they claim: one that lies does not make this node look outdated."""
        return self.behind and not self._fruitless

    async def run(self) -> None:
        """Follow whoever is ahead."""
        while True:
            if not self.behind:
                self._fruitless = 0
                await self._network.wait_peers_changed()
                continue
            self.starting_height = self._ledger.head.number
            first = self._consensus.next_unknown_height
            level = log.debug if self._fruitless else log.info
            level("catching up", head=self.starting_height, claimed=self.highest_claimed)
            async with self._network.sync_blocks(first) as stream:
                given = await self._feed(stream, first)
            await self._wait_until_used()
            level("caught up as far as peers gave", head=self._ledger.head.number)
            if given and self._ledger.head.number > self.starting_height:
                self._fruitless = 0
            else:
                await trio.sleep(min(RETRY_SECONDS_MAX, RETRY_SECONDS * 2**self._fruitless))
                self._fruitless = min(self._fruitless + 1, 10)

    async def _feed(self, stream: SyncStream, expected: int) -> bool:
        """Hand over what comes; whether anything did."""
        first = expected
        async for given in stream:
            try:
                block, certificate = await trio.to_thread.run_sync(decode_decided, given.body, given.certificate)
            except BadMessage as error:
                stream.reject(given, str(error))
                continue
            if certificate.height != expected or block.number != expected:
                stream.reject(given, f"block {block.number} with certificate {certificate.height} for {expected}")
                continue
            self._consensus.offer_decided(given.peer, block, certificate)
            expected += 1
            if expected > self.highest_claimed or not await self._wait_for_room(expected):
                break
        return expected > first

    async def _wait_for_room(self, expected: int) -> bool:
        """Until the core has worked off enough; False when it refuses what it was given."""
        while expected > self._ledger.head.number + AHEAD_BLOCKS_MAX:
            if not await self._next_commit():
                return False
        return True

    async def _wait_until_used(self) -> None:
        """Until everything that was handed over is committed, or refused."""
        while self._consensus.next_unknown_height > self._ledger.head.number + 1 and await self._next_commit():
            pass

    async def _next_commit(self) -> bool:
        """False when none comes within the patience."""
        with trio.move_on_after(PATIENCE_SECONDS) as patience:
            self._committed = trio.Event()
            await self._committed.wait()
        return not patience.cancelled_caught

    def _on_commit(self, _committed: Committed) -> None:
        self._committed.set()
