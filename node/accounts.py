"""Accounts at hand: the public ones of a devnet (ten with coins, and its validators' operators), and keystores made by
`labora account new`."""

from pathlib import Path

from genesis.keys import ACCOUNT_KEYS, devnet_validator
from genesis.spec import DEVNET_VALIDATORS_MAX
from node.exits import CONFIGURATION, Fatal
from node.keys import find_passphrase, read_keystore
from primitives.address import checksum
from primitives.keys import address_of

DEVNET_CHAIN_ID = 31_337


def choose_key(key: str | None, account: str | None, chain_id: int, keystore: Path) -> bytes:
    """The key to sign with: given in hex, or of an account (its place on a devnet, an operator's address there, or an
    address in the keystore).

    Neither given: account 0 on chain 31337. Raises Fatal (78).
    """
    if key is not None and account is not None:
        raise Fatal(CONFIGURATION, "give --key or --account, not both")
    if key is not None:
        return _parse_key(key)
    if account is None or account.isdigit():
        if chain_id != DEVNET_CHAIN_ID:
            raise Fatal(CONFIGURATION, f"chain {chain_id} is no devnet: give --key, or an address as --account")
        number = int(account or "0")
        if number >= len(ACCOUNT_KEYS):
            raise Fatal(CONFIGURATION, f"a devnet has accounts 0 to {len(ACCOUNT_KEYS) - 1}, not {number}")
        return ACCOUNT_KEYS[number]
    if chain_id == DEVNET_CHAIN_ID and (operator := _operator_key(account)) is not None:
        return operator
    path = keystore / f"{account.lower().removeprefix('0x')}.json"
    if not path.exists():
        raise Fatal(CONFIGURATION, f"no account {account} in {keystore}; `labora account list` shows those there are")
    return read_keystore(path, find_passphrase(None, keystore, ask_passphrase))


def stored_accounts(keystore: Path) -> list[str]:
    """Addresses with a keystore, checksummed."""
    names = sorted(path.stem for path in keystore.glob("*.json"))
    return [checksum(bytes.fromhex(name)) for name in names if len(name) == 40]


def ask_passphrase() -> str:
    """From the terminal, not shown. Raises Fatal (78) when there is none."""
    import getpass
    import sys

    if not sys.stdin.isatty():
        raise Fatal(CONFIGURATION, "a passphrase is needed and there is no terminal: set LABORA_PASSPHRASE")
    return getpass.getpass("passphrase: ")


def _operator_key(address: str) -> bytes | None:
    """Of a devnet's validator, by its operator's address."""
    keys = (devnet_validator(index) for index in range(DEVNET_VALIDATORS_MAX))
    same = (each.operator for each in keys if each.operator_address.hex() == address.lower().removeprefix("0x"))
    return next(same, None)


def _parse_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
        address_of(key)
    except ValueError as error:
        raise Fatal(CONFIGURATION, "--key is no private key (32 bytes in hex)") from error
    if len(key) != 32:
        raise Fatal(CONFIGURATION, "--key is no private key (32 bytes in hex)")
    return key
