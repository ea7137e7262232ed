"""Secrets at rest: encrypted, private, never printed."""

from pathlib import Path

import pytest

from node.exits import CONFIGURATION, Fatal
from node.keys import ROLES, SCRYPT_N_DEVNET, create_node_keys, find_passphrase, read_keystore, read_node_keys


def test_keys_come_back_and_their_files_are_private(tmp_path: Path) -> None:
    made = create_node_keys(tmp_path / "keys", "secret words", ROLES, SCRYPT_N_DEVNET)
    keys = read_node_keys(tmp_path / "keys", "secret words")
    assert [keys.consensus, keys.beacon, keys.node, keys.hot] == [made[role] for role in ROLES]
    for role in ROLES:
        path = tmp_path / "keys" / f"{role}.json"
        assert path.stat().st_mode & 0o777 == 0o600
        assert made[role].hex() not in path.read_text()
    assert made["consensus"].hex() not in repr(keys)
    assert repr(keys) == "NodeKeys()"


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    create_node_keys(tmp_path, "x", ("node",), SCRYPT_N_DEVNET)
    with pytest.raises(FileExistsError):
        create_node_keys(tmp_path, "x", ("node",), SCRYPT_N_DEVNET)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"crypto": {}}', '{"version": 3, "crypto": {"kdf": "x"}}'])
def test_a_missing_or_damaged_keystore_is_a_configuration_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "consensus.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Fatal) as caught:
        read_keystore(path, "x")
    assert caught.value.code == CONFIGURATION and str(path) in str(caught.value)


def test_a_wrong_passphrase_is_said_without_the_secret(tmp_path: Path) -> None:
    create_node_keys(tmp_path, "right", ("hot",), SCRYPT_N_DEVNET)
    with pytest.raises(Fatal, match="does not open with this passphrase"):
        read_keystore(tmp_path / "hot.json", "wrong")


def test_the_passphrase_comes_from_file_environment_folder_or_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABORA_PASSPHRASE", raising=False)
    with pytest.raises(Fatal, match="no passphrase"):
        find_passphrase(None, tmp_path, None)
    assert find_passphrase(None, tmp_path, lambda: "asked") == "asked"
    own = tmp_path / "passphrase"
    own.write_text("folder\n")
    own.chmod(0o600)
    assert find_passphrase(None, tmp_path, None) == "folder"
    monkeypatch.setenv("LABORA_PASSPHRASE", "environment")
    assert find_passphrase(None, tmp_path, None) == "environment"
    given = tmp_path / "given"
    given.write_text("file\n")
    given.chmod(0o600)
    assert find_passphrase(given, tmp_path, None) == "file"
    given.chmod(0o644)
    with pytest.raises(Fatal, match="others can read"):
        find_passphrase(given, tmp_path, None)
