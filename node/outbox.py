"""What leaves a validator's hot account: one line of transactions by nonce, in which work and moves in disputes share
the places. Nothing that is ready waits for what was sent before it; the oldest is made again when it missed its
blocks, at higher fees and with everything that those after it do not carry.

Owns nonces, fees and what is on its way. What is to be sent, and how urgent it is, its sources say.
"""

from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass

import structlog

from chain.ledger import Ledger
from chain.mempool import AlreadyKnown
from primitives.keys import address_of
from primitives.transaction import InvalidTransaction, Transaction, sign_transaction

UNDERWAY_MAX = 4
"""Transactions on their way at once: what is ready just after one was sent need not wait for its block."""
STALE_BLOCKS = 2
"""A transaction that is in no block after so many is made again."""
BUMP_NUM, BUMP_DEN = 9, 8
"""Times 1.125: what replaces a transaction must pay at least 10 % more."""
TIP_WEI_PER_GAS = 10**9

log = structlog.get_logger("outbox")


@dataclass(frozen=True)
class Message:
    """A call to be sent. covers: what it says, by any keys, so that nothing is said twice."""

    to: bytes
    data: bytes
    gas: int
    covers: frozenset[Hashable]
    value: int = 0


@dataclass(frozen=True)
class Sent:
    """A transaction that is on its way."""

    transaction: Transaction
    height: int
    """Of the block that it was made for."""
    covers: frozenset[Hashable]


Source = Callable[[Set[Hashable]], Message | None]
"""The next message to send, given what is on its way."""


class Outbox:
    """One account's transactions. `flush` after every commit and whenever something is ready."""

    def __init__(self, ledger: Ledger, submit: Callable[[bytes], Transaction], hot_key: bytes | None) -> None:
        self.sources: list[Source] = []
        """Asked in order; the first that has something is heard."""
        self._ledger, self._submit, self._hot_key = ledger, submit, hot_key
        self._sent: list[Sent] = []
        """By nonce."""
        self._not_accepted = ""
        """Why the last one was refused; said once."""

    def flush(self) -> None:
        """Send what is ready and not on its way."""
        if self._hot_key is None:
            return
        height = self._ledger.head.number + 1
        nonce = self._ledger.reader().nonce(address_of(self._hot_key))
        self._sent = [sent for sent in self._sent if sent.transaction.nonce >= nonce]
        if self._sent and is_stale(self._sent[0], height) and not self._replace_oldest(self._hot_key, height):
            return
        while len(self._sent) < UNDERWAY_MAX:
            message = self._next(self._sent)
            if message is None or not self._send(self._hot_key, message, nonce + len(self._sent), height, None):
                return

    def _replace_oldest(self, hot_key: bytes, height: int) -> bool:
        """Make the oldest again; False when it was not accepted."""
        oldest, waiting = self._sent[0], self._sent[1:]
        # If nothing else is due, those behind it still wait for its nonce.
        message = self._next(waiting) or (self._next([]) if waiting else None)
        if message is None:
            return False
        return self._send(hot_key, message, oldest.transaction.nonce, height, oldest)

    def _next(self, underway: list[Sent]) -> Message | None:
        known = frozenset[Hashable]().union(*(sent.covers for sent in underway))
        return next((message for source in self.sources if (message := source(known)) is not None), None)

    def _send(self, hot_key: bytes, message: Message, nonce: int, height: int, replaced: Sent | None) -> bool:
        base_fee, params = self._ledger.next_base_fee(), self._ledger.params
        sent = signed(hot_key, params.chain_id, nonce, message, base_fee, params.transaction_gas_max, height, replaced)
        try:
            self._submit(sent.transaction.raw)
        except AlreadyKnown:
            pass  # it waits here, made the same way before
        except InvalidTransaction as error:
            # Begin again at today's fees: what was to be replaced may be gone, and raised fees more than there is.
            if replaced is not None:
                self._sent = []
            if self._not_accepted != str(error):
                log.warning("transaction not accepted", reason=str(error), says=len(message.covers))
            self._not_accepted = str(error)
            return False
        self._not_accepted = ""
        self._sent = [sent, *self._sent[1:]] if replaced is not None else [*self._sent, sent]
        log.debug("sent", says=len(message.covers), nonce=nonce, height=height)
        return True


def signed(
    hot_key: bytes, chain_id: int, nonce: int, message: Message, base_fee: int, gas_max: int, height: int,
    replaced: Sent | None,
) -> Sent:  # fmt: skip
    """The transaction of a message. replaced: the one of the same nonce that was not included."""
    tip, max_fee = TIP_WEI_PER_GAS, 2 * base_fee + TIP_WEI_PER_GAS
    if replaced is not None:
        tip = max(tip, -(-replaced.transaction.max_priority_fee_per_gas * BUMP_NUM // BUMP_DEN))
        max_fee = max(max_fee, -(-replaced.transaction.max_fee_per_gas * BUMP_NUM // BUMP_DEN))
    transaction = sign_transaction(
        hot_key, chain_id=chain_id, nonce=nonce, gas=min(gas_max, message.gas), to=message.to,
        max_fee_per_gas=max_fee, max_priority_fee_per_gas=tip, value=message.value, data=message.data,
    )  # fmt: skip
    return Sent(transaction, height, message.covers)


def is_stale(sent: Sent, height: int) -> bool:
    """Whether it has missed its blocks. height: of the next block."""
    return height - sent.height >= STALE_BLOCKS
