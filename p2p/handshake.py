"""Who is at the other end, and the keys to talk to it: clear hello, then Noise_XX_25519_ChaChaPoly_SHA256, sans-IO.

Owns the hello, the Noise state machine and the binding of a node's Ed25519 key to its Noise key. Refuses to know
sockets, clocks and what happens after. The bytes in order, dialler on the left:

    hello            ->   <-  hello             magic 6 | length u8 | version u16 | chain id u64 | genesis hash 32
    verdict          ->   <-  verdict           one byte: 0, or the code of the reason (REASONS), and then it closes
    e                ->                         32 bytes
                          <-  e, ee, s, es      192 bytes
    s, se            ->                         160 bytes

The payload of the second and third message is node public key 32 | Ed25519 signature 64 over ("labora/noise/1" |
role | handshake hash just before this payload is encrypted | own Noise static key), so a node key cannot be borrowed
from another connection. The prologue is both hellos, the dialler's first. Source: The Noise Protocol Framework,
revision 34, sections 5 and 7.5.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.errors import HandshakeError, NonceExhausted, shown

NOISE_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
SIGNATURE_DOMAIN = b"labora/noise/1"
ROLE_INITIATOR = b"initiator"
ROLE_RESPONDER = b"responder"

MAGIC = b"LABORA"
PROTOCOL_VERSION = 1
HELLO_BYTES_MAX = 128
HELLO_FIXED = struct.Struct(">6sB")
HELLO_BODY = struct.Struct(">HQ32s")

KEY_BYTES = 32
TAG_BYTES = 16
SIGNATURE_BYTES = 64
PAYLOAD_BYTES = KEY_BYTES + SIGNATURE_BYTES
MESSAGE_1_BYTES = KEY_BYTES
MESSAGE_2_BYTES = KEY_BYTES + KEY_BYTES + TAG_BYTES + PAYLOAD_BYTES + TAG_BYTES
MESSAGE_3_BYTES = KEY_BYTES + TAG_BYTES + PAYLOAD_BYTES + TAG_BYTES
NONCE_MAX = (1 << 64) - 1  # reserved by the Noise specification, section 5.1

VERDICT_OK = 0
REFUSED_MAGIC = 1
REFUSED_VERSION = 2
REFUSED_CHAIN_ID = 3
REFUSED_GENESIS = 4
REFUSED_FULL = 5
REFUSED_ADDRESS = 6
REASONS = {
    REFUSED_MAGIC: "this is not a Labora hello",
    REFUSED_VERSION: "another protocol version",
    REFUSED_CHAIN_ID: "another chain id",
    REFUSED_GENESIS: "another genesis block",
    REFUSED_FULL: "no room for more peers",
    REFUSED_ADDRESS: "too many connections from your address",
}


class CipherState:
    """One direction's key and record counter (Noise, 5.1). Without a key it passes bytes through."""

    def __init__(self, key: bytes | None = None) -> None:
        self._aead = ChaCha20Poly1305(key) if key is not None else None
        self.nonce = 0

    @property
    def has_key(self) -> bool:
        return self._aead is not None

    def encrypt(self, associated: bytes, plain: bytes) -> bytes:
        if self._aead is None:
            return plain
        return self._aead.encrypt(self._next_nonce(), plain, associated)

    def decrypt(self, associated: bytes, sealed: bytes) -> bytes:
        """Raises InvalidTag when the bytes were not sealed by the other side as its next record."""
        if self._aead is None:
            return sealed
        return self._aead.decrypt(self._next_nonce(), sealed, associated)

    def _next_nonce(self) -> bytes:
        if self.nonce >= NONCE_MAX:
            raise NonceExhausted("all 2**64 - 1 nonces of this key are used")
        nonce = b"\x00\x00\x00\x00" + self.nonce.to_bytes(8, "little")  # Noise, 12.3
        self.nonce += 1
        return nonce


class NoiseXX:
    """The XX pattern with both symmetric states inside: three messages, then two cipher states.

    `payload` of each write may be any bytes; the node's own handshake fixes them. Keys are raw 32 bytes; `ephemeral`
    is given only by tests with published vectors.
    """

    def __init__(self, initiator: bool, static: bytes, prologue: bytes, ephemeral: bytes | None = None) -> None:
        self.initiator = initiator
        self._static = X25519PrivateKey.from_private_bytes(static)
        self._ephemeral = (
            X25519PrivateKey.generate() if ephemeral is None else X25519PrivateKey.from_private_bytes(ephemeral)
        )
        self.static_public = self._static.public_key().public_bytes_raw()
        self.remote_static: bytes | None = None
        self._remote_ephemeral: bytes | None = None
        self.hash = NOISE_NAME  # exactly 32 bytes, so it is its own first hash (Noise, 5.2)
        self._chaining_key = NOISE_NAME
        self._cipher = CipherState()
        self._mix_hash(prologue)

    # -- writing: the payload is sealed last, so that the caller can sign `self.hash` just before

    def write_1(self, payload: bytes = b"") -> bytes:
        return self._write_e() + self.seal(payload)

    def write_2_head(self) -> bytes:
        """e, ee, s, es; the caller appends seal(payload)."""
        e = self._write_e()
        self._mix_key(self._dh(self._ephemeral, self._remote_ephemeral))
        s = self.seal(self.static_public)
        self._mix_key(self._dh(self._static, self._remote_ephemeral))
        return e + s

    def write_3_head(self) -> bytes:
        """s, se; the caller appends seal(payload)."""
        s = self.seal(self.static_public)
        self._mix_key(self._dh(self._static, self._remote_ephemeral))
        return s

    def seal(self, plain: bytes) -> bytes:
        sealed = self._cipher.encrypt(self.hash, plain)
        self._mix_hash(sealed)
        return sealed

    # -- reading: the heads return what remains, the sealed payload; open it after noting `self.hash`

    def read_1(self, message: bytes) -> bytes:
        self._read_e(message[:KEY_BYTES])
        return self.open(message[KEY_BYTES:])

    def read_2_head(self, message: bytes) -> bytes:
        self._read_e(message[:KEY_BYTES])
        self._mix_key(self._dh(self._ephemeral, self._remote_ephemeral))
        end = KEY_BYTES + KEY_BYTES + TAG_BYTES
        self.remote_static = self.open(message[KEY_BYTES:end])
        self._mix_key(self._dh(self._ephemeral, self.remote_static))
        return message[end:]

    def read_3_head(self, message: bytes) -> bytes:
        end = KEY_BYTES + TAG_BYTES
        self.remote_static = self.open(message[:end])
        self._mix_key(self._dh(self._ephemeral, self.remote_static))
        return message[end:]

    def open(self, sealed: bytes) -> bytes:
        plain = self._cipher.decrypt(self.hash, sealed)
        self._mix_hash(sealed)
        return plain

    def split(self) -> tuple[CipherState, CipherState]:
        """(sending, receiving) for this side."""
        first, second = _hkdf(self._chaining_key, b"")
        to_responder, to_initiator = CipherState(first), CipherState(second)
        return (to_responder, to_initiator) if self.initiator else (to_initiator, to_responder)

    def _write_e(self) -> bytes:
        public = self._ephemeral.public_key().public_bytes_raw()
        self._mix_hash(public)
        return public

    def _read_e(self, public: bytes) -> None:
        self._remote_ephemeral = public
        self._mix_hash(public)

    def _mix_hash(self, data: bytes) -> None:
        self.hash = sha256(self.hash + data).digest()

    def _mix_key(self, secret: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, secret)
        self._cipher = CipherState(key)

    @staticmethod
    def _dh(private: X25519PrivateKey, public: bytes | None) -> bytes:
        assert public is not None, "the pattern reads e before it mixes it"
        try:
            return private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:  # cryptography refuses a result of all zeros, RFC 7748 section 6.1
            raise HandshakeError(f"the Diffie-Hellman key {shown(public)} has a low order")


def _hkdf(chaining_key: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """HKDF with two outputs (Noise, 4.3)."""
    temporary = hmac.digest(chaining_key, secret, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")


@dataclass(frozen=True, slots=True)
class Session:
    """What a finished handshake leaves: who, the two directions' keys, and bytes that came behind it."""

    peer_id: str
    sending: CipherState
    receiving: CipherState
    trailing: bytes


def encode_hello(chain_id: int, genesis_hash: bytes) -> bytes:
    body = HELLO_BODY.pack(PROTOCOL_VERSION, chain_id, genesis_hash)
    hello = HELLO_FIXED.pack(MAGIC, len(body)) + body
    assert len(hello) <= HELLO_BYTES_MAX
    return hello


def node_id(node_key: bytes) -> str:
    """The public id, in hex, of a node's Ed25519 private key (32 bytes)."""
    return Ed25519PrivateKey.from_private_bytes(node_key).public_key().public_bytes_raw().hex()


class Handshake:
    """One handshake, fed with bytes: `start()` gives the first bytes to send, `receive(data)` the next ones, and
    `session` is set when it is done. HandshakeError ends it; its `farewell` is to be sent before closing.

    refuse: a code of REASONS for a stranger whom we have no room for; it gets our hello and the code, no cryptography.
    """

    def __init__(
        self,
        node_key: bytes,
        hello: bytes,
        *,
        initiator: bool,
        expected_id: str | None = None,
        refuse: int = VERDICT_OK,
    ) -> None:
        self._node_key = Ed25519PrivateKey.from_private_bytes(node_key)
        self._own_id = self._node_key.public_key().public_bytes_raw()
        self._hello = hello
        self._initiator = initiator
        self._expected_id = expected_id
        self._refuse = refuse
        self._buffer = bytearray()
        self._outgoing = bytearray(hello)
        self._peer_id = b""
        self._noise: NoiseXX | None = None
        self.session: Session | None = None
        self._steps = self._run()
        self._needed = next(self._steps)

    def start(self) -> bytes:
        return self._take_outgoing()

    def receive(self, data: bytes) -> bytes:
        """Feed bytes as they come (never after `session` is set); returns bytes to send, perhaps none."""
        assert self.session is None, "the handshake is over"
        self._buffer += data
        try:
            while len(self._buffer) >= self._needed:
                chunk = bytes(self._buffer[: self._needed])
                del self._buffer[: self._needed]
                self._needed = self._steps.send(chunk)
        except StopIteration:
            noise = self._noise
            assert noise is not None
            sending, receiving = noise.split()
            self.session = Session(self._peer_id.hex(), sending, receiving, bytes(self._buffer))
        except HandshakeError as error:
            error.farewell = self._take_outgoing() + error.farewell
            raise
        except InvalidTag:
            raise HandshakeError("a handshake message does not open: other keys, another prologue, or tampering")
        return self._take_outgoing()

    def _take_outgoing(self) -> bytes:
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def _run(self) -> Generator[int, bytes, None]:
        """The handshake as a script: yields how many bytes it needs next, is sent exactly those."""
        magic_and_length = yield HELLO_FIXED.size
        magic, length = HELLO_FIXED.unpack(magic_and_length)
        if magic != MAGIC:
            raise _refusal(REFUSED_MAGIC, f"they sent {shown(magic_and_length)}")
        if not 2 <= length <= HELLO_BYTES_MAX - HELLO_FIXED.size:
            raise _refusal(REFUSED_MAGIC, f"a hello of {length + HELLO_FIXED.size} bytes, at most {HELLO_BYTES_MAX}")
        body = yield length
        if self._refuse != VERDICT_OK:
            raise _refusal(self._refuse, "refused before any cryptography")
        _check_hello(body, self._hello)
        self._outgoing.append(VERDICT_OK)
        verdict = (yield 1)[0]
        if verdict != VERDICT_OK:
            raise HandshakeError(f"refused by the other side: {REASONS.get(verdict, f'code {verdict}')}")

        theirs = magic_and_length + body
        prologue = self._hello + theirs if self._initiator else theirs + self._hello
        static = X25519PrivateKey.generate().private_bytes_raw()
        self._noise = noise = NoiseXX(self._initiator, static, prologue)
        if self._initiator:
            self._outgoing += noise.write_1()
            message = yield MESSAGE_2_BYTES
            self._open_payload(noise, noise.read_2_head(message), ROLE_RESPONDER)
            self._outgoing += noise.write_3_head()
            self._outgoing += self._sealed_payload(noise, ROLE_INITIATOR)
        else:
            message = yield MESSAGE_1_BYTES
            noise.read_1(message)
            self._outgoing += noise.write_2_head()
            self._outgoing += self._sealed_payload(noise, ROLE_RESPONDER)
            message = yield MESSAGE_3_BYTES
            self._open_payload(noise, noise.read_3_head(message), ROLE_INITIATOR)

    def _sealed_payload(self, noise: NoiseXX, role: bytes) -> bytes:
        signature = self._node_key.sign(SIGNATURE_DOMAIN + role + noise.hash + noise.static_public)
        return noise.seal(self._own_id + signature)

    def _open_payload(self, noise: NoiseXX, sealed: bytes, role: bytes) -> None:
        assert noise.remote_static is not None
        signed = SIGNATURE_DOMAIN + role + noise.hash + noise.remote_static
        payload = noise.open(sealed)
        peer_id, signature = payload[:KEY_BYTES], payload[KEY_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(peer_id).verify(signature, signed)
        except InvalidSignature:
            raise HandshakeError(f"node key {shown(peer_id)} did not sign this handshake")
        if peer_id == self._own_id:
            raise HandshakeError(f"connected to ourselves, node key {shown(peer_id)}")
        if self._expected_id is not None and peer_id.hex() != self._expected_id:
            raise HandshakeError(f"expected node {self._expected_id}, but {peer_id.hex()} answered")
        self._peer_id = peer_id


def _check_hello(body: bytes, own_hello: bytes) -> None:
    own_version, own_chain_id, own_genesis = HELLO_BODY.unpack(own_hello[HELLO_FIXED.size :])
    version = int.from_bytes(body[:2], "big")
    if version != own_version:
        raise _refusal(REFUSED_VERSION, f"theirs is {version}, ours {own_version}")
    if len(body) != HELLO_BODY.size:
        raise _refusal(REFUSED_MAGIC, f"a hello body of {len(body)} bytes, not {HELLO_BODY.size}")
    _, chain_id, genesis = HELLO_BODY.unpack(body)
    if chain_id != own_chain_id:
        raise _refusal(REFUSED_CHAIN_ID, f"theirs is {chain_id}, ours {own_chain_id}")
    if genesis != own_genesis:
        raise _refusal(REFUSED_GENESIS, f"theirs is 0x{genesis.hex()}, ours 0x{own_genesis.hex()}")


def _refusal(code: int, detail: str) -> HandshakeError:
    return HandshakeError(f"{REASONS[code]}: {detail}", bytes([code]))
