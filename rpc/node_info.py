"""net_, web3_, txpool_ and rpc_ methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from primitives.hashing import keccak
from primitives.transaction import Transaction
from rpc.codec import address, data, quantity, read_data
from rpc.context import Context
from rpc.errors import RESPONSE_TOO_LARGE, RpcError
from rpc.format import transaction_json

CONTENT_BYTES_MAX = 8 * 1024 * 1024
"""Of transactions, as they were sent, in one answer; a full pool holds twenty times as many."""


def net_version(context: Context) -> str:
    """Chain id as a decimal string."""
    return str(context.ledger.params.chain_id)


def net_listening(context: Context) -> bool:
    """The node accepts peers."""
    return True


def net_peer_count(context: Context) -> str:
    """Connected peers."""
    return quantity(context.backend.peer_count())


def client_version(context: Context) -> str:
    """Name, version, platform."""
    return context.backend.client_version


def sha3(context: Context, value: Any) -> str:
    """Keccak-256 of the data."""
    return data(keccak(read_data(value, "data")))


def txpool_status(context: Context) -> dict[str, str]:
    """How many transactions wait, executable and with a nonce gap."""
    pending, queued = context.backend.mempool.counts()
    return {"pending": quantity(pending), "queued": quantity(queued)}


def txpool_content(context: Context) -> dict[str, Any]:
    """Every waiting transaction by sender and nonce. Raises RpcError when they are too many bytes for one answer."""
    pending, queued = context.backend.mempool.content()
    size = sum(len(each.raw) for senders in (pending, queued) for waiting in senders.values() for each in waiting)
    if size > CONTENT_BYTES_MAX:
        raise RpcError(RESPONSE_TOO_LARGE, f"the pool holds {size} bytes of transactions; {CONTENT_BYTES_MAX} are told")
    return {"pending": _by_sender(pending), "queued": _by_sender(queued)}


def rpc_modules(context: Context) -> dict[str, str]:
    """Namespaces that this node serves."""
    return dict.fromkeys(context.namespaces(), "1.0")


def _by_sender(transactions: Mapping[bytes, Sequence[Transaction]]) -> dict[str, dict[str, Any]]:
    return {
        address(sender): {str(transaction.nonce): transaction_json(transaction) for transaction in of_sender}
        for sender, of_sender in transactions.items()
    }
