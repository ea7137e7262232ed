"""What the network asks of the node that hosts it, and what it tells about its peers.

Owns the `Host` protocol, `NetworkConfig`, `PeerAddress` and `PeerInfo`. Refuses to know sockets, and what the bytes
of votes, blocks, transactions and models mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

ID_HEX_CHARS = 64


class AddressError(ValueError):
    """A peer address that is not `id@host:port`; carries the text."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a node listens and who must answer there: `id` is its Ed25519 public key, 64 lower-case hex digits."""

    id: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> PeerAddress:
        """Read `id@host:port` (an IPv6 host in brackets). Raises AddressError with the text."""
        peer_id, at, rest = text.partition("@")
        host, colon, port = rest.rpartition(":")
        if not at or not colon or not host:
            raise AddressError(f"peer address {text!r} is not id@host:port")
        if len(peer_id) != ID_HEX_CHARS or any(c not in "0123456789abcdef" for c in peer_id):
            raise AddressError(f"peer address {text!r}: the id is not {ID_HEX_CHARS} lower-case hex digits")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
            raise AddressError(f"peer address {text!r}: port {port!r} is not between 1 and 65535")
        host = host.removeprefix("[").removesuffix("]")
        try:
            host.encode("idna")  # as the system's resolver does, which says it to whoever dials
        except UnicodeError as error:
            raise AddressError(f"peer address {text!r}: {host!r} is no host name: {error}") from error
        if not host or not host.isprintable():
            raise AddressError(f"peer address {text!r}: {host!r} is no host name")
        return cls(peer_id, host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.id}@{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What the operator chose, and the chain that the node is on.

    node_key: Ed25519 private key, 32 bytes; apart from the validator's key. Its public key in hex is the peer id.
    chain_id: 0 <= chain_id < 2**64. genesis_hash: 32 bytes. Both are in the hello: strangers are told why.
    listen_port: 0 lets the system choose; `Network.listen_port` then tells which.
    persistent_peers: `id@host:port` each; dialled for ever, and outside every limit on numbers.
    """

    node_key: bytes
    chain_id: int
    genesis_hash: bytes
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    persistent_peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.node_key) != 32:
            raise ValueError(f"node key has {len(self.node_key)} bytes, not 32")
        if len(self.genesis_hash) != 32:
            raise ValueError(f"genesis hash has {len(self.genesis_hash)} bytes, not 32")
        if not 0 <= self.chain_id < 1 << 64:
            raise ValueError(f"chain id {self.chain_id} does not fit 64 bits")
        for text in self.persistent_peers:
            PeerAddress.parse(text)


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One connected peer, as it is now.

    address: `host:port` of the other end of the socket. inbound: the peer dialled us. head_height and base_height: as
    the peer claims. since: Unix seconds of the connection. bytes_in and bytes_out: on the wire. rtt_ms: of the last
    ping, None before the first. score: 0 at first, lowered by every offence that this process has seen.
    """

    id: str
    address: str
    inbound: bool
    head_height: int
    base_height: int
    since: float
    bytes_in: int
    bytes_out: int
    rtt_ms: float | None
    score: int


@dataclass(frozen=True, slots=True)
class ModelPiece:
    """A part of a model. size: bytes of the whole manifest or tokenizer.json, 0 for a chunk of the tensors. siblings: a
    chunk's path to its tensor's root."""

    size: int
    data: bytes
    siblings: Sequence[bytes] = ()


class Host(Protocol):
    """The node, as the network sees it. Plain methods run on the event loop and must be quick (no large reads).

    An exception that leaves a host's method is taken for the node's own bug and ends `Network.run`, except where a
    method's docstring names the error. Peers are named by their id in hex.
    """

    def consensus_key(self, payload: bytes) -> bytes | None:
        """What makes two consensus payloads the same message: the sign bytes together with the signer, so that a
        second signature over the same vote is the same vote. Called once for each payload that is relayed or
        broadcast. None: the payload has no sign bytes (or makes no sense) and is the same only as its own bytes."""

    def on_peer_connected(self, peer: str) -> None:
        """The peer has just become reachable: `send` to it works."""

    def get_body(self, block_hash: bytes) -> bytes | None:
        """Wire body of a block that peers may pull; asked only for what `announce_block` did not keep. None when
        unknown. Called in a worker thread."""

    def body_hash(self, body: bytes) -> bytes:
        """The hash of the block whose wire body this is, 32 bytes, everything that the header commits to included in
        the check. Raises ValueError for a malformed body. Pure: it is called in a worker thread."""

    def tx_hash(self, raw: bytes) -> bytes:
        """The hash of a raw transaction, 32 bytes (keccak of the raw bytes). Never raises."""

    def has_tx(self, tx_hash: bytes) -> bool:
        """Whether the transaction need not be pulled: in the pool, committed, or refused lately."""

    def get_tx(self, tx_hash: bytes) -> bytes | None:
        """The raw transaction from the pool, for a peer that pulls it; None when gone."""

    async def on_transactions(self, peer: str, raws: Sequence[bytes]) -> None:
        """Transactions that we asked `peer` for. Those accepted into the pool the host hands on with
        `Network.announce_transactions`. While this runs no further transactions are handed over (back-pressure)."""

    async def get_range(self, from_height: int, count: int, max_bytes: int) -> Sequence[tuple[bytes, bytes]]:
        """(wire body, commit certificate) of the blocks from_height, from_height + 1, ..., at most `count` of them and
        at most `max_bytes` bytes in all (always at least one if there is one); empty when from_height is not stored."""

    def holds_model(self, model: bytes) -> bool:
        """Whether parts of this model can be asked for here: it is whole and was checked."""

    async def get_model_piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
        """Piece `number` (256 KiB each) of the manifest or the tokenizer.json, or chunk `number` of the tensors
        (messages.PART_*), at most 256 KiB; None when it is not here, or there is no such number."""
