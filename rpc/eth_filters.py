"""eth_ filters (polled) and subscriptions (pushed over WebSocket)."""

from typing import Any

from chain.ledger import LOG_RANGE_MAX
from rpc.codec import data
from rpc.context import Context
from rpc.errors import METHOD_NOT_FOUND, SERVER_ERROR, RpcError, invalid_params
from rpc.eth_chain import logs_between
from rpc.events import Session, Subscription
from rpc.filters import Filter
from rpc.logs import read_criteria


def new_filter(context: Context, wanted: Any) -> str:
    """A log filter over new blocks, or over the stated range."""
    if not isinstance(wanted, dict):
        raise invalid_params("invalid argument 0: a filter object is wanted")
    criteria = read_criteria(wanted)
    head = context.ledger.head.number
    from_block, to_block = wanted.get("fromBlock"), wanted.get("toBlock")
    first = head + 1 if from_block in (None, "latest", "pending") else context.number(from_block)
    last = None if to_block in (None, "latest", "pending", "safe", "finalized") else context.number(to_block)
    # The first poll reports what lies between fromBlock and the head, as geth and anvil do.
    made = Filter("logs", first, context.backend.now_ms(), criteria, min(first, head), last)
    return context.filters.install(made)


def new_block_filter(context: Context) -> str:
    """A filter for hashes of new blocks."""
    return context.filters.install(Filter("blocks", context.ledger.head.number + 1, context.backend.now_ms()))


def new_pending_filter(context: Context, full: Any = False) -> str:
    """A filter for hashes of new pending transactions."""
    return context.filters.install(Filter("pending", 0, context.backend.now_ms()))


def uninstall_filter(context: Context, identifier: Any) -> bool:
    """Whether there was such a filter."""
    return context.filters.uninstall(str(identifier))


def filter_changes(context: Context, identifier: Any) -> list[Any]:
    """What is new since the last poll."""
    made = context.filters.get(str(identifier), context.backend.now_ms())
    if made.kind == "pending":
        hashes, made.hashes = made.hashes, []
        return [data(transaction_hash) for transaction_hash in hashes]
    first, head = made.next_number, context.ledger.head.number
    last = min(head, first + LOG_RANGE_MAX - 1)
    if made.to_number is not None:
        last = min(last, made.to_number)
    if first > last:
        return []
    made.next_number = last + 1
    if made.kind == "blocks":
        return [data(_block_hash(context, number)) for number in range(first, last + 1)]
    return logs_between(context, first, last, made.criteria)


def filter_logs(context: Context, identifier: Any) -> list[dict[str, Any]]:
    """Every log of a log filter's range."""
    made = context.filters.get(str(identifier), context.backend.now_ms())
    if made.kind != "logs":
        raise RpcError(SERVER_ERROR, "filter not found")
    last = context.ledger.head.number if made.to_number is None else made.to_number
    return logs_between(context, made.from_number, last, made.criteria) if made.from_number <= last else []


def subscribe(context: Context, kind: Any, options: Any = None) -> str:
    """newHeads, logs, newPendingTransactions or syncing, on a WebSocket."""
    session = _session(context)
    if kind == "logs":
        if options is not None and not isinstance(options, dict):
            raise invalid_params("invalid argument 1: a filter object is wanted")
        return session.subscribe(Subscription("logs", read_criteria(options or {})))
    if kind == "newPendingTransactions":
        return session.subscribe(Subscription(kind, full=options is True))
    if kind in ("newHeads", "syncing"):
        return session.subscribe(Subscription(kind))
    raise invalid_params(f'no "{kind}" subscription in eth namespace')


def unsubscribe(context: Context, identifier: Any) -> bool:
    """Whether there was such a subscription."""
    return _session(context).unsubscribe(str(identifier))


def _session(context: Context) -> Session:
    if context.session is None:
        raise RpcError(METHOD_NOT_FOUND, "notifications not supported: subscribe over a WebSocket")
    return context.session


def _block_hash(context: Context, number: int) -> bytes:
    block = context.ledger.block(number)
    assert block is not None
    return block.hash
