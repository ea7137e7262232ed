"""Who signs a command: a key in hex, an account of a devnet by its place, or an address."""

from pathlib import Path

import pytest

from genesis.keys import ACCOUNT_KEYS, devnet_validator
from node.accounts import DEVNET_CHAIN_ID, choose_key
from node.exits import CONFIGURATION, Fatal
from primitives.address import checksum

OPERATOR = checksum(devnet_validator(3).operator_address)


def test_a_devnet_s_accounts_go_by_their_place_and_its_operators_by_the_address_that_it_prints(tmp_path: Path) -> None:
    assert choose_key(None, None, DEVNET_CHAIN_ID, tmp_path) == ACCOUNT_KEYS[0]
    assert choose_key(None, "7", DEVNET_CHAIN_ID, tmp_path) == ACCOUNT_KEYS[7]
    assert choose_key(None, OPERATOR, DEVNET_CHAIN_ID, tmp_path) == devnet_validator(3).operator
    assert choose_key("0x" + "11" * 32, None, DEVNET_CHAIN_ID, tmp_path) == b"\x11" * 32


@pytest.mark.parametrize(
    ("key", "account", "chain", "said"),
    [
        ("0x12", None, DEVNET_CHAIN_ID, "no private key"),
        ("0x" + "11" * 32, "1", DEVNET_CHAIN_ID, "not both"),
        (None, "10", DEVNET_CHAIN_ID, "accounts 0 to 9"),
        (None, "0", 1, "chain 1 is no devnet"),
        (None, None, 1, "chain 1 is no devnet"),
        (None, OPERATOR, 1, "no account 0x"),
        (None, "0x" + "22" * 20, DEVNET_CHAIN_ID, "no account 0x2222"),
    ],
)
def test_public_keys_are_never_taken_for_another_chain(
    tmp_path: Path, key: str | None, account: str | None, chain: int, said: str
) -> None:
    with pytest.raises(Fatal, match=said) as caught:
        choose_key(key, account, chain, tmp_path)
    assert caught.value.code == CONFIGURATION
