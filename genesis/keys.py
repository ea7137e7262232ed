"""Keys of a devnet: known to everybody, made from an index, worth nothing. Never use them on another chain.

The ten accounts are those of the mnemonic that every development node uses; a validator's keys are keccak hashes of
labels, so that any node's folder and any specification of a devnet can be made again from its number of validators.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from primitives import bls
from primitives.hashing import keccak
from primitives.keys import address_of

MNEMONIC = "test test test test test test test test test test test junk"
ACCOUNT_KEYS = tuple(
    bytes.fromhex(key)
    for key in (
        "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
        "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
        "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
        "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
        "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
        "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
        "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
        "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
        "dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
        "2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
    )
)
"""Private keys of the mnemonic's first ten accounts, path m/44'/60'/0'/0/i (a test derives them again)."""
ACCOUNT_ADDRESSES = tuple(address_of(key) for key in ACCOUNT_KEYS)


@dataclass(frozen=True)
class ValidatorKeys:
    """The private keys of one devnet validator, 32 bytes each."""

    operator: bytes
    """Registers, bonds and receives fees."""
    consensus: bytes
    """Signs proposals and votes."""
    beacon: bytes
    """BLS12-381."""
    node: bytes
    """Ed25519 seed: the identity on the network."""
    hot: bytes
    """Signs work batches."""

    @property
    def operator_address(self) -> bytes:
        return address_of(self.operator)

    @property
    def consensus_address(self) -> bytes:
        return address_of(self.consensus)

    @property
    def hot_address(self) -> bytes:
        return address_of(self.hot)

    @property
    def beacon_public(self) -> bytes:
        """48 bytes of G1."""
        return bls.public_key(self.beacon)

    @property
    def node_public(self) -> bytes:
        """32 bytes, Ed25519."""
        return Ed25519PrivateKey.from_private_bytes(self.node).public_key().public_bytes_raw()


def devnet_validator(index: int) -> ValidatorKeys:
    """Keys of the devnet's validator at an index from 0: keccak("labora/devnet/validator/<index>/<role>")."""

    def key(role: str) -> bytes:
        return keccak(f"labora/devnet/validator/{index}/{role}".encode("ascii"))

    return ValidatorKeys(key("operator"), key("consensus"), key("beacon"), key("node"), key("hot"))
