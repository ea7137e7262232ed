"""Filters of eth_newFilter and its kin: polled over HTTP, forgotten after five idle minutes."""

import secrets
from dataclasses import dataclass, field

from primitives.transaction import Transaction
from rpc.errors import LIMIT_EXCEEDED, SERVER_ERROR, RpcError
from rpc.logs import Criteria

FILTERS_MAX = 1_024
VALUES_MAX = 100_000
"""Addresses and topics in all of them together: ten megabytes."""
IDLE_MS = 5 * 60 * 1000
PENDING_HASHES_MAX = 10_000


@dataclass
class Filter:
    """kind is `logs`, `blocks` or `pending`; `next_number` is the first block not yet reported."""

    kind: str
    next_number: int
    used_ms: int
    criteria: Criteria | None = None
    from_number: int = 0
    to_number: int | None = None
    hashes: list[bytes] = field(default_factory=list)


class Filters:
    """All installed filters."""

    def __init__(self) -> None:
        self._filters: dict[str, Filter] = {}

    def install(self, made: Filter) -> str:
        """Its id. Raises RpcError when too many are installed."""
        self._expire(made.used_ms)
        if len(self._filters) >= FILTERS_MAX:
            raise RpcError(LIMIT_EXCEEDED, f"too many filters: at most {FILTERS_MAX}; uninstall some")
        held = sum(each.criteria.size for each in (made, *self._filters.values()) if each.criteria is not None)
        if held > VALUES_MAX:
            raise RpcError(LIMIT_EXCEEDED, f"too many addresses and topics in filters: {held}, at most {VALUES_MAX}")
        identifier = "0x" + secrets.token_hex(16)
        self._filters[identifier] = made
        return identifier

    def get(self, identifier: str, now_ms: int) -> Filter:
        """Raises RpcError `filter not found`."""
        self._expire(now_ms)
        found = self._filters.get(identifier)
        if found is None:
            raise RpcError(SERVER_ERROR, "filter not found")
        found.used_ms = now_ms
        return found

    def uninstall(self, identifier: str) -> bool:
        """Whether there was one."""
        return self._filters.pop(identifier, None) is not None

    def pending(self, transaction: Transaction) -> None:
        """Remember a new pending transaction for the filters that want it; the oldest fall out."""
        for made in tuple(self._filters.values()):
            if made.kind == "pending":
                made.hashes.append(transaction.hash)
                del made.hashes[:-PENDING_HASHES_MAX]

    def _expire(self, now_ms: int) -> None:
        for identifier, made in tuple(self._filters.items()):
            if now_ms - made.used_ms > IDLE_MS:
                self._filters.pop(identifier, None)  # filters are polled in several threads
