"""Addresses: their text form (EIP-55), those of created contracts, and the fixed ones of this chain."""

from primitives import rlp
from primitives.hashing import keccak

ADDRESS_BYTES = 20
ZERO_ADDRESS = b"\x00" * 20
SYSTEM_ADDRESS = bytes.fromhex("fffffffffffffffffffffffffffffffffffffffe")
"""Sender of the system prologue (the same address as EIP-4788's system caller); it has no key and no account."""


def _system(number: int) -> bytes:
    return number.to_bytes(20, "big")


STAKING = _system(0x0A01)
MODELS = _system(0x0A02)
MARKET = _system(0x0A03)
LEDGER = _system(0x0A04)
REFEREE = _system(0x0A05)
BEACON = _system(0x0A06)
COURIER = _system(0x0A07)
SECOND_REFEREE = _system(0x0A08)
"""The referee in Solidity: an ordinary contract, there from block 0."""
TOLERANT = _system(0x0A09)
SYSTEM_ACCOUNTS = (STAKING, MODELS, MARKET, LEDGER, REFEREE, BEACON, COURIER, TOLERANT)

HISTORY_STORAGE = bytes.fromhex("0000f90827f1c53a10cb7a02335b175320002935")
"""EIP-2935: the contract that serves parent hashes from its storage."""
CREATE2_DEPLOYER = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")


class InvalidAddress(ValueError):
    """Text that names no address."""


def checksum(address: bytes) -> str:
    """0x text with the mixed-case checksum of EIP-55."""
    text = address.hex()
    digest = keccak(text.encode("ascii")).hex()
    return "0x" + "".join(c.upper() if int(d, 16) >= 8 else c for c, d in zip(text, digest, strict=False))


def parse(text: str) -> bytes:
    """The 20 bytes that `text` names; a mixed-case text must carry a right checksum. Raises InvalidAddress."""
    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise InvalidAddress(f"{text!r} is not hexadecimal") from error
    if len(address) != ADDRESS_BYTES:
        raise InvalidAddress(f"{text!r} has {len(address)} bytes; an address has {ADDRESS_BYTES}")
    digits = text.removeprefix("0x")
    if digits not in (digits.lower(), digits.upper()) and checksum(address)[2:] != digits:
        raise InvalidAddress(f"{text!r} does not match its checksum; it would be {checksum(address)}")
    return address


def created_by(sender: bytes, nonce: int) -> bytes:
    """Address of the contract that `sender` creates by a transaction or CREATE at `nonce`."""
    return keccak(rlp.encode([sender, rlp.from_uint(nonce)]))[12:]
