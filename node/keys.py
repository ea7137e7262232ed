"""Secrets at rest: password-encrypted keystores (Web3 Secret Storage, version 3), one file a key, in one folder.

Owns the folder's layout and where the passphrase comes from. Never logs a secret, and no secret has a printable form
here. What the keys are used for is the business of the signer, the network and the work service.
"""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from node.exits import CONFIGURATION, Fatal

ROLES = ("consensus", "beacon", "node", "hot")
"""consensus signs votes, beacon the randomness, node the connections, hot the work transactions. The operator's own
key is not among them: it is cold, and no running node needs it."""
PASSPHRASE_FILE = "passphrase"
PASSPHRASE_ENV = "LABORA_PASSPHRASE"
SCRYPT_N = 2**18
"""Geth's standard work factor: about a second a key."""
SCRYPT_N_DEVNET = 2
"""A devnet's passphrase lies beside its keys; stretching it would only delay the start."""
KEYSTORE_BYTES_MAX = 16 * 1024


@dataclass(frozen=True)
class NodeKeys:
    """The secrets of a validator, 32 bytes each; repr shows none of them."""

    consensus: bytes = field(repr=False)
    beacon: bytes = field(repr=False)
    node: bytes = field(repr=False)
    hot: bytes = field(repr=False)


def new_secret() -> bytes:
    """32 bytes below every group order in use here, and not zero."""
    return b"\x00" + secrets.token_bytes(30) + b"\x01"


def write_keystore(path: Path, secret: bytes, passphrase: str, scrypt_n: int = SCRYPT_N) -> None:
    """Encrypt into a new file of mode 0600. Raises FileExistsError, OSError."""
    from eth_keyfile.keyfile import create_keyfile_json

    content = create_keyfile_json(secret, passphrase.encode(), kdf="scrypt", iterations=scrypt_n)
    write_private(path, json.dumps(content, indent=1) + "\n")


def read_keystore(path: Path, passphrase: str) -> bytes:
    """The secret, 32 bytes. Raises Fatal (78) for a missing or damaged file or a wrong passphrase."""
    from eth_keyfile.keyfile import decode_keyfile_json

    try:
        if path.stat().st_size > KEYSTORE_BYTES_MAX:
            raise Fatal(CONFIGURATION, f"{path} is too large to be a keystore")
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise Fatal(CONFIGURATION, f"key file {path} is missing") from error
    except (OSError, ValueError) as error:
        raise Fatal(CONFIGURATION, f"key file {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("crypto"), dict):
        raise Fatal(CONFIGURATION, f"key file {path} is no keystore")
    try:
        secret = bytes(decode_keyfile_json(content, passphrase.encode()))
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise Fatal(CONFIGURATION, f"key file {path} does not open with this passphrase") from error
    if len(secret) != 32:
        raise Fatal(CONFIGURATION, f"key file {path} holds {len(secret)} bytes, not 32")
    return secret


def create_node_keys(
    folder: Path, passphrase: str, roles: tuple[str, ...], scrypt_n: int = SCRYPT_N
) -> dict[str, bytes]:
    """New keystores for these roles; role -> secret. Raises FileExistsError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = {role: new_secret() for role in roles}
    for role, secret in made.items():
        write_keystore(folder / f"{role}.json", secret, passphrase, scrypt_n)
    return made


def has_validator_keys(folder: Path) -> bool:
    """Whether this folder makes its node a validator; a node that only follows has `node.json` alone."""
    return (folder / "consensus.json").exists()


def read_node_keys(folder: Path, passphrase: str) -> NodeKeys:
    """All keys of a validator. Raises Fatal (78)."""
    return NodeKeys(*(read_keystore(folder / f"{role}.json", passphrase) for role in ROLES))


def write_private(path: Path, text: str) -> None:
    """A new file that only its owner can read, synced. Raises FileExistsError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def find_passphrase(file: Path | None, keys_folder: Path, ask: Callable[[], str] | None) -> str:
    """The passphrase, from a file, the environment (LABORA_PASSPHRASE), the folder's own file (devnets) or a prompt.

    Raises Fatal (78), also for a file that others can read.
    """
    if file is not None:
        return _read_passphrase(file)
    if PASSPHRASE_ENV in os.environ:
        return os.environ[PASSPHRASE_ENV]
    if (keys_folder / PASSPHRASE_FILE).exists():
        return _read_passphrase(keys_folder / PASSPHRASE_FILE)
    if ask is None:
        raise Fatal(
            CONFIGURATION, f"no passphrase for {keys_folder}: give --passphrase-file or set {PASSPHRASE_ENV}"
        )
    return ask()


def _read_passphrase(path: Path) -> str:
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise Fatal(CONFIGURATION, f"passphrase file {path} has mode {mode:o}: make it 600, for others can read it")
        return path.read_text().rstrip("\n")
    except OSError as error:
        raise Fatal(CONFIGURATION, f"passphrase file {path} cannot be read: {error}") from error


def admin_secret(path: Path) -> bytes:
    """What tokens for admin_ methods are signed with: 32 bytes in hex in a file of mode 600, made when it is missing.
    Raises Fatal (78)."""
    if not path.exists():
        write_private(path, secrets.token_hex(32) + "\n")
    return read_admin_secret(path)


def read_admin_secret(path: Path) -> bytes:
    """The secret of a node that has run. Raises Fatal (78)."""
    try:
        secret = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise Fatal(CONFIGURATION, f"{path} cannot be read: {error}; a running node makes it anew") from error
    if len(secret) != 32:
        raise Fatal(CONFIGURATION, f"{path} holds {len(secret)} bytes, not 32; a running node makes it anew")
    return secret
