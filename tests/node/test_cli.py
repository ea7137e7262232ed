"""The command line: answers at once, loads nothing heavy, and ends with the documented exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node import exits

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"eth", "trie", "torch", "numpy", "trio", "plyvel", "structlog", "coincurve", "cryptography", "rich"}


def labora(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    base = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**base, **(env or {})}, cwd="/",
    )  # fmt: skip


def test_help_loads_no_heavy_module() -> None:
    code = (
        "import sys\nfrom node.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "devnet" in done.stdout and "task" in done.stdout
    assert not loaded & HEAVY, loaded & HEAVY


@pytest.mark.parametrize("command", [[], ["account"], ["task"], ["tolerant"], ["model"], ["validator"], ["receipts"]])
def test_a_group_alone_shows_its_help(command: list[str]) -> None:
    done = labora(*command, "--help")
    assert done.returncode == exits.OK and "Commands:" in done.stdout


def test_version_and_config() -> None:
    assert labora("version").stdout.startswith("labora ")
    done = labora("config", env={"LABORA_DATA_DIR": "/nowhere/labora", "LABORA_RPC_PORT": "1234"})
    assert done.returncode == exits.OK
    assert "rpc_port = 1234" in done.stdout and "/nowhere/labora/wal" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--frob"], exits.USAGE, "No such option"),
        (["frob"], exits.USAGE, "No such command"),
        (["devnet", "--validators", "17"], exits.USAGE, "less than or equal to 16"),
        (["task", "explain", "0x12"], exits.USAGE, "no task id"),
        (["run", "--data-dir", "/nonexistent/folder"], exits.CONFIGURATION, "labora init"),
        (["run", "--rpc-port", "70000"], exits.CONFIGURATION, "rpc_port must be between"),
        (["task", "post", "hello", "--rpc", "http://127.0.0.1:9"], exits.RUNTIME, "no node answers"),
        (["task", "post", "hello", "--rpc", "localhost"], exits.RUNTIME, "is no http"),
    ],
)
def test_errors_are_one_line_with_the_documented_code(arguments: list[str], code: int, words: str) -> None:
    done = labora(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "operators.md").read_text()
    codes = {name: value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert len(set(codes.values())) == len(codes)
    for name, value in codes.items():
        assert f"| {value} |" in text, (name, value)


def test_accounts_are_made_and_listed(tmp_path: Path) -> None:
    made = labora("account", "new", "--data-dir", str(tmp_path), env={"LABORA_PASSPHRASE": "words"})
    assert made.returncode == exits.OK, made.stderr
    address = made.stdout.strip()
    assert labora("account", "list", "--data-dir", str(tmp_path)).stdout.split() == [address]
    content = json.loads(next((tmp_path / "keystore").glob("*.json")).read_text())
    assert content["address"].lower() == address[2:].lower()


def test_a_passphrase_is_never_asked_without_a_terminal(tmp_path: Path) -> None:
    done = labora("account", "new", "--data-dir", str(tmp_path))
    assert done.returncode == exits.CONFIGURATION and "LABORA_PASSPHRASE" in done.stderr
