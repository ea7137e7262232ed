"""The handshake: published vector, an independent implementation, and every reason to refuse."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from p2p import handshake
from p2p.errors import HandshakeError, NonceExhausted
from p2p.handshake import CipherState, Handshake, NoiseXX, encode_hello, node_id

KEY_A, KEY_B = bytes([1]) * 32, bytes([2]) * 32
GENESIS = hashlib.sha256(b"genesis").digest()
HELLO = encode_hello(31337, GENESIS)

# Noise_XX_25519_ChaChaPoly_SHA256 of the test vectors of cacophony, a Haskell implementation of Noise
# (github.com/haskell-cryptography/cacophony, vectors/cacophony.txt).
PROLOGUE = "4a6f686e2047616c74"
INIT_STATIC = "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"
INIT_EPHEMERAL = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"
RESP_STATIC = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"
RESP_EPHEMERAL = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"
HANDSHAKE_HASH = "c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e"
VECTOR = [
    (
        "4c756477696720766f6e204d69736573",
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573",
    ),
    (
        "4d757272617920526f746862617264",
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884381cbad1f276e038c48378ffce2b65285e08d6b68aaa3"
        "629a5a8639392490e5b9bd5269c2f1e4f488ed8831161f19b7815528f8982ffe09be9b5c412f8a0db50f8814c7194e83f23dbd8d162c"
        "9326ad",
    ),
    (
        "462e20412e20486179656b",
        "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a80ae475b9df0f169ae80a89be0865b57f58c9fea0d4ec"
        "82a286427402f113e4b6ae769a1d95941d49b25030",
    ),
    ("4361726c204d656e676572", "96763ed773f8e47bb3712f0e29b3060ffc956ffc146cee53d5e1df"),
    ("4a65616e2d426170746973746520536179", "3e40f15f6f3a46ae446b253bf8b1d9ffb6ed9b174d272328ff91a7e2e5c79c07f5"),
    (
        "457567656e2042f6686d20766f6e2042617765726b",
        "eb3f3515110702e047a6c9da4478b6ead94873c11c0f2d710ddb3f09fce024b3a58502ae3f",
    ),
]


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def talk(dialler: Handshake, listener: Handshake, chunk: int = 10_000) -> None:
    """Carry bytes both ways in pieces of `chunk` until nothing moves; errors pass."""
    to_listener, to_dialler = bytearray(dialler.start()), bytearray(listener.start())
    while (to_listener and not listener.session) or (to_dialler and not dialler.session):
        if to_listener and not listener.session:
            data = bytes(to_listener[:chunk])
            del to_listener[:chunk]
            to_dialler += listener.receive(data)
        if to_dialler and not dialler.session:
            data = bytes(to_dialler[:chunk])
            del to_dialler[:chunk]
            to_listener += dialler.receive(data)


def pair(**listener: object) -> tuple[Handshake, Handshake]:
    return (
        Handshake(KEY_A, HELLO, initiator=True, expected_id=node_id(KEY_B)),
        Handshake(KEY_B, HELLO, initiator=False, **listener),  # type: ignore[arg-type]
    )


def test_published_vector() -> None:
    initiator = NoiseXX(True, unhex(INIT_STATIC), unhex(PROLOGUE), unhex(INIT_EPHEMERAL))
    responder = NoiseXX(False, unhex(RESP_STATIC), unhex(PROLOGUE), unhex(RESP_EPHEMERAL))
    (p1, c1), (p2, c2), (p3, c3), *transport = [(unhex(p), unhex(c)) for p, c in VECTOR]

    assert initiator.write_1(p1) == c1
    assert responder.read_1(c1) == p1
    assert responder.write_2_head() + responder.seal(p2) == c2
    assert initiator.open(initiator.read_2_head(c2)) == p2
    assert initiator.write_3_head() + initiator.seal(p3) == c3
    assert responder.open(responder.read_3_head(c3)) == p3

    assert initiator.hash == responder.hash == unhex(HANDSHAKE_HASH)
    sending = {True: initiator.split()[0], False: responder.split()[0]}
    for index, (plain, sealed) in enumerate(transport):
        assert sending[index % 2 == 1].encrypt(b"", plain) == sealed, index


@pytest.mark.parametrize("we_dial", [True, False])
def test_the_package_noiseprotocol_understands_us(we_dial: bool) -> None:
    """Our side by Handshake, with hello and identity; the other by an independent Noise implementation."""
    ours = Handshake(KEY_A, HELLO, initiator=we_dial)
    other = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
    (other.set_as_responder if we_dial else other.set_as_initiator)()
    static = b"\x07" * 32
    other.set_keypair_from_private_bytes(Keypair.STATIC, static)
    other.set_prologue(HELLO + HELLO)
    other.start_handshake()
    state = other.noise_protocol.handshake_state

    assert ours.start() == HELLO
    answer = ours.receive(HELLO + b"\x00")

    def identity(role: bytes) -> bytes:
        signed = handshake.SIGNATURE_DOMAIN + role + state.symmetric_state.h + state.s.public_bytes
        node = Ed25519PrivateKey.from_private_bytes(KEY_B)
        return node.public_key().public_bytes_raw() + node.sign(signed)

    class LateIdentity(bytes):
        """noiseprotocol seals the payload last; it must be computed when the hash is there, just before."""

    def write(role: bytes) -> bytes:
        symmetric = state.symmetric_state
        seal = symmetric.encrypt_and_hash
        symmetric.encrypt_and_hash = lambda plain: seal(
            identity(role) if isinstance(plain, LateIdentity) else plain
        )
        return bytes(other.write_message(LateIdentity(b"?")))

    if we_dial:
        assert answer[:1] == b"\x00"
        other.read_message(answer[1:])
        answer = ours.receive(write(b"responder"))
        payload = bytes(other.read_message(answer))
    else:
        assert answer == b"\x00"
        answer = ours.receive(bytes(other.write_message(b"")))
        payload = bytes(other.read_message(answer))
        ours.receive(write(b"initiator"))
    assert payload[:32].hex() == node_id(KEY_A)
    assert ours.session is not None
    assert ours.session.peer_id == node_id(KEY_B)
    for number in range(3):
        text = b"to them %d" % number
        assert other.decrypt(ours.session.sending.encrypt(b"", text)) == text
        assert ours.session.receiving.decrypt(b"", bytes(other.encrypt(text))) == text


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_both_sides_agree_whatever_the_pieces(chunk: int) -> None:
    dialler, listener = pair()
    talk(dialler, listener, chunk)
    assert dialler.session is not None and listener.session is not None
    assert (dialler.session.peer_id, listener.session.peer_id) == (node_id(KEY_B), node_id(KEY_A))
    sealed = dialler.session.sending.encrypt(b"", b"hello")
    assert listener.session.receiving.decrypt(b"", sealed) == b"hello"
    with pytest.raises(InvalidTag):
        dialler.session.receiving.decrypt(b"", sealed)  # the two directions have two keys


def test_bytes_behind_the_handshake_are_kept() -> None:
    dialler, listener = pair()
    hello, verdict_and_e = dialler.start(), dialler.receive(listener.start() + b"\x00")
    answer = listener.receive(hello + verdict_and_e)
    last = dialler.receive(answer[1:])
    listener.receive(last + b"first record")
    assert listener.session is not None and listener.session.trailing == b"first record"


def test_the_hello_fits_its_bound_and_starts_with_the_magic() -> None:
    assert len(HELLO) <= handshake.HELLO_BYTES_MAX
    assert HELLO.startswith(b"LABORA")


@pytest.mark.parametrize(
    ("hello", "code", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1, "not a Labora hello.*0x474554202f"),
        (b"LABORA\xff" + bytes(255), 1, "a hello of 262 bytes, at most 128"),
        (b"LABORA\x03\x00\x01\x00", 1, "a hello body of 3 bytes"),
        (b"LABORA\x02\x00\x09", 2, "another protocol version: theirs is 9, ours 1"),
        (encode_hello(1, GENESIS), 3, "another chain id: theirs is 1, ours 31337"),
        (encode_hello(31337, bytes(32)), 4, "another genesis block: theirs is 0x0{64}, ours 0x"),
    ],
)
def test_a_wrong_hello_gets_a_code_and_a_readable_reason(hello: bytes, code: int, reason: str) -> None:
    listener = Handshake(KEY_B, HELLO, initiator=False)
    listener.start()
    with pytest.raises(HandshakeError, match=reason) as caught:
        listener.receive(hello)
    assert caught.value.farewell == bytes([code])

    dialler = Handshake(KEY_A, HELLO, initiator=True)
    with pytest.raises(HandshakeError, match=f"refused by the other side: {handshake.REASONS[code]}"):
        dialler.receive(HELLO + caught.value.farewell)


def test_a_full_node_refuses_before_any_cryptography() -> None:
    dialler, listener = pair(refuse=handshake.REFUSED_FULL)
    with pytest.raises(HandshakeError, match="no room for more peers"):
        talk(dialler, listener)
    assert listener.session is None


def test_a_dialler_checks_whom_it_reached() -> None:
    dialler = Handshake(KEY_A, HELLO, initiator=True, expected_id="ab" * 32)
    with pytest.raises(HandshakeError, match=f"expected node {'ab' * 32}, but {node_id(KEY_B)} answered"):
        talk(dialler, Handshake(KEY_B, HELLO, initiator=False))


def test_self_is_refused() -> None:
    with pytest.raises(HandshakeError, match="connected to ourselves"):
        talk(Handshake(KEY_A, HELLO, initiator=True), Handshake(KEY_A, HELLO, initiator=False))


def test_a_node_key_cannot_be_borrowed_from_another_connection() -> None:
    """A man in the middle passes on an honest node's payload inside his own Noise session."""
    honest_dialler, middle = Handshake(KEY_A, HELLO, initiator=True), Handshake(KEY_B, HELLO, initiator=False)
    stolen: list[bytes] = []
    original = NoiseXX.open
    try:
        NoiseXX.open = lambda self, sealed: stolen.append(original(self, sealed)) or stolen[-1]  # type: ignore
        talk(honest_dialler, middle)
    finally:
        NoiseXX.open = original  # type: ignore[method-assign]
    payload = stolen[-1]
    assert payload[:32].hex() == node_id(KEY_A)

    thief, victim = Handshake(bytes([3]) * 32, HELLO, initiator=True), Handshake(KEY_B, HELLO, initiator=False)
    thief._sealed_payload = lambda noise, role: noise.seal(payload)  # type: ignore[method-assign]
    with pytest.raises(HandshakeError, match="did not sign this handshake"):
        talk(thief, victim)


@pytest.mark.parametrize("position", range(0, handshake.MESSAGE_2_BYTES, 5))
def test_tampering_shows(position: int) -> None:
    """A flipped bit anywhere in the listener's noise message ends the handshake."""
    dialler, listener = pair()
    verdict = listener.start() + listener.receive(dialler.start() + b"\x00")
    answer = bytearray(listener.receive(dialler.receive(verdict)[1:]))
    answer[position] ^= 1
    with pytest.raises(HandshakeError):
        dialler.receive(bytes(answer))


def test_the_hellos_are_part_of_what_is_agreed() -> None:
    """A hello altered on its way so that both still accept it (none is today) would change the prologue."""
    dialler, listener = pair()
    dialler.start()
    verdict_and_e = dialler.receive(HELLO + b"\x00")
    listener._hello = encode_hello(31337, GENESIS)[:-1] + b"?"
    listener.start()
    listener._hello, own = HELLO, listener._hello
    listener.receive(HELLO)
    listener._hello = own
    answer = listener.receive(verdict_and_e)
    with pytest.raises(HandshakeError, match="does not open"):
        dialler.receive(answer)


def test_a_low_order_key_is_refused() -> None:
    listener = Handshake(KEY_B, HELLO, initiator=False)
    listener.start()
    with pytest.raises(HandshakeError, match="low order"):
        listener.receive(HELLO + b"\x00" + bytes(32))


def test_nonces_end_with_an_error_not_with_a_repetition() -> None:
    cipher = CipherState(bytes(32))
    cipher.nonce = handshake.NONCE_MAX - 1
    cipher.encrypt(b"", b"last")
    with pytest.raises(NonceExhausted):
        cipher.encrypt(b"", b"one too many")


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_raise_only_our_error(data: bytes, initiator: bool) -> None:
    for prefix in (b"", HELLO, HELLO + b"\x00"):
        side = Handshake(KEY_A, HELLO, initiator=initiator)
        side.start()
        try:
            side.receive(prefix + data)
        except HandshakeError:
            continue
        assert side.session is None
