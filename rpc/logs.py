"""Which logs a caller asked for: the filter object of eth_getLogs, eth_newFilter and eth_subscribe."""

from dataclasses import dataclass
from typing import Any

from rpc.codec import read_address, read_hash
from rpc.errors import invalid_params

ADDRESSES_MAX = 1_000
TOPICS_MAX = 4
TOPIC_CHOICES_MAX = 1_000


@dataclass(frozen=True)
class Criteria:
    """Addresses (any when empty) and, per topic position, the accepted values (None: any)."""

    addresses: frozenset[bytes]
    topics: tuple[frozenset[bytes] | None, ...]

    @property
    def size(self) -> int:
        """Addresses and topics in it."""
        return len(self.addresses) + sum(len(choices) for choices in self.topics if choices is not None)


def read_criteria(value: Any) -> Criteria:
    """From a filter object's address and topics. Raises RpcError."""
    addresses = value.get("address")
    if addresses is None:
        addresses = []
    elif isinstance(addresses, str):
        addresses = [addresses]
    if not isinstance(addresses, list) or len(addresses) > ADDRESSES_MAX:
        raise invalid_params(f"invalid address filter: a list of at most {ADDRESSES_MAX} addresses is wanted")
    topics = value.get("topics") or []
    if not isinstance(topics, list) or len(topics) > TOPICS_MAX:
        raise invalid_params("exceed max topics")
    return Criteria(frozenset(read_address(a, "address") for a in addresses), tuple(_choices(t) for t in topics))


def _choices(value: Any) -> frozenset[bytes] | None:
    if value is None:
        return None
    choices = value if isinstance(value, list) else [value]
    if len(choices) > TOPIC_CHOICES_MAX:
        raise invalid_params("exceed max topics")
    if not choices or None in choices:
        return None
    return frozenset(read_hash(choice, "topic") for choice in choices)
