"""A real node of one validator in this process, for commands that run beside it as another process would."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from genesis.spec import parse_json
from node.client import Client
from node.config import DataFolder, NodeConfig, load
from node.devnet import Options, make_folders
from node.exits import Fatal
from node.init import write_folder
from node.keys import PASSPHRASE_FILE, ROLES, SCRYPT_N_DEVNET, create_node_keys, write_private
from node.node import open_node

BLOCK_MS = 200


def devnet_of_one(folder: Path) -> tuple[DataFolder, NodeConfig, str]:
    (member,) = make_folders(Options(1, BLOCK_MS, folder, 0, "numpy", False, None))
    return member.folder, replace(load(member.folder.config, {}, {}), engine="none", log_level="error"), member.rpc


def newcomer(root: Path, genesis: Path, roles: tuple[str, ...] = ROLES) -> DataFolder:
    """What `labora init` makes."""
    folder = DataFolder(root)
    write_folder(folder, NodeConfig(), parse_json(genesis.read_bytes(), str(genesis)))
    write_private(folder.keys / PASSPHRASE_FILE, "words\n")
    create_node_keys(folder.keys, "words", roles, SCRYPT_N_DEVNET)
    return folder


def refused(code: int, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(Fatal, match=words) as caught:
        call()
    assert caught.value.code == code and "\n" not in str(caught.value)


def against_a_node(tmp_path: Path, commands: Callable[[Client, DataFolder], None], **choices: Any) -> None:
    """Run commands in a thread beside the node, as another process would. choices: of its configuration."""
    folder, config, url = devnet_of_one(tmp_path / "devnet")
    config = replace(config, **choices)

    async def scenario() -> None:
        node = open_node(folder, config, new_signer=False)
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run)
                await trio.to_thread.run_sync(commands, Client(url), folder)
                nursery.cancel_scope.cancel()

    trio.run(scenario)
