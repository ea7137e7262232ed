"""net_, web3_, txpool_ and rpc_ methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from primitives.hashing import keccak
from primitives.transaction import Transaction
from rpc.codec import address, data, quantity, read_data
from rpc.context import Context
from rpc.format import transaction_json


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
    """Every waiting transaction by sender and nonce."""
    pending, queued = context.backend.mempool.content()
    return {"pending": _by_sender(pending), "queued": _by_sender(queued)}


def rpc_modules(context: Context) -> dict[str, str]:
    """Namespaces that this node serves."""
    return dict.fromkeys(context.namespaces(), "1.0")


def _by_sender(transactions: Mapping[bytes, Sequence[Transaction]]) -> dict[str, dict[str, Any]]:
    return {
        address(sender): {str(transaction.nonce): transaction_json(transaction) for transaction in of_sender}
        for sender, of_sender in transactions.items()
    }
