"""Make a node's folder: configuration, genesis and keys, each in its place, nothing overwritten.

Imports no virtual machine: the devnet's launcher makes its folders with it too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genesis.spec import write_spec
from node.accounts import ask_passphrase
from node.command import as_typed
from node.config import DataFolder, NodeConfig, to_toml
from node.exits import CONFIGURATION, Fatal
from node.keys import ROLES, create_node_keys, find_passphrase, write_keystore


def initialise(folder: DataFolder, genesis: Path, as_validator: bool, passphrase_file: Path | None) -> None:
    """What `labora init` does; prints the genesis hash and, of a validator, the addresses that it registers with."""
    from genesis.build import build_genesis
    from genesis.spec import InvalidSpec, load_spec, parse_json
    from primitives.address import checksum

    try:
        built = build_genesis(load_spec(genesis))
    except InvalidSpec as error:
        raise Fatal(CONFIGURATION, str(error)) from error
    passphrase = find_passphrase(passphrase_file, folder.keys, ask_passphrase)
    config = NodeConfig(passphrase_file=str(passphrase_file.absolute()) if passphrase_file else "")
    write_folder(folder, config, parse_json(genesis.read_bytes(), str(genesis)))
    made = create_node_keys(folder.keys, passphrase, ROLES if as_validator else ("node",))
    print(f"genesis 0x{built.block.hash.hex()}")
    public = public_keys(made)
    print(f"peer id {public['node'].hex()}")
    if as_validator:
        print(f"consensus {checksum(public['consensus'])}")
        print(f"beacon 0x{public['beacon'].hex()}")
        print(f"hot {checksum(public['hot'])}")
    print(f"ready: {as_typed('run', '--data-dir', str(folder.root))}")


def write_folder(folder: DataFolder, config: NodeConfig, spec: Mapping[str, Any]) -> None:
    """The folder with its configuration and genesis. Raises Fatal (78) when there is a node already."""
    if folder.genesis.exists() or folder.config.exists():
        raise Fatal(CONFIGURATION, f"{folder.root} is a node's folder already; choose another --data-dir")
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(to_toml(config))
    write_spec(spec, folder.genesis)


def write_keys(folder: DataFolder, secrets: Mapping[str, bytes], passphrase: str, scrypt_n: int) -> None:
    """Keystores of given secrets, role -> 32 bytes."""
    for role, secret in secrets.items():
        write_keystore(folder.keys / f"{role}.json", secret, passphrase, scrypt_n)


def public_keys(secrets: Mapping[str, bytes]) -> dict[str, bytes]:
    """What others know of these keys: addresses, a BLS point, an Ed25519 key."""
    from primitives import bls
    from primitives.keys import address_of

    public: dict[str, bytes] = {}
    for role, secret in secrets.items():
        if role == "beacon":
            public[role] = bls.public_key(secret)
        elif role == "node":
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            public[role] = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        else:
            public[role] = address_of(secret)
    return public
