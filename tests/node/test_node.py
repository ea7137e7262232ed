"""A node's folder and what is wrong with it: one clear line and the documented exit code each."""

import fcntl
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.config import DataFolder, NodeConfig, load
from node.devnet import Member, Options, alternate_engines, free_ports, make_folders
from node.exits import CONFIGURATION, DISK, LOCKED, PORT_IN_USE, SIGNER, WRONG_CHAIN, Fatal
from node.node import open_node, run_node


def options(folder: Path, **changes: object) -> Options:
    return replace(Options(1, 200, folder, 0, "numpy", False, None), **changes)


def single(folder: Path) -> tuple[DataFolder, NodeConfig]:
    (member,) = make_folders(options(folder))
    return member.folder, config_of(member)


def config_of(member: Member) -> NodeConfig:
    return replace(load(member.folder.config, {}, {}), engine="none", log_level="error")


def run_until(folder: DataFolder, config: NodeConfig, height: int) -> int:
    """Run the node in process until it has committed a height; its head."""

    async def bounded() -> int:
        node = open_node(folder, config, new_signer=False)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(node.run)
                reached = trio.Event()
                node.ledger.on_commit.append(
                    lambda committed: committed.block.number >= height and trio.from_thread.run_sync(reached.set)
                )
                await reached.wait()
                nursery.cancel_scope.cancel()
        return node.ledger.head.number

    return trio.run(bounded)


def refused(folder: DataFolder, config: NodeConfig, new_signer: bool = False) -> Fatal:
    with pytest.raises(Fatal) as caught:
        run_node(folder, config, new_signer)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_node_runs_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder, config = single(tmp_path / "devnet")
    first = run_until(folder, config, 2)
    assert run_until(folder, config, first + 2) >= first + 2
    endpoints = json.loads(folder.endpoints.read_text())
    assert endpoints["rpc"] == f"http://127.0.0.1:{config.rpc_port}" and endpoints["p2p"].endswith(str(config.p2p_port))


def test_no_folder_or_a_bad_genesis_file(tmp_path: Path) -> None:
    error = refused(DataFolder(tmp_path / "none"), NodeConfig())
    assert error.code == CONFIGURATION and "labora init" in str(error)
    folder, config = single(tmp_path / "devnet")
    folder.genesis.write_text('{"format": 1}')
    assert refused(folder, config).code == CONFIGURATION


def test_a_locked_folder(tmp_path: Path) -> None:
    folder, config = single(tmp_path / "devnet")
    with folder.lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        error = refused(folder, config)
    assert error.code == LOCKED and str(folder.root) in str(error)


def test_the_genesis_of_another_chain(tmp_path: Path) -> None:
    folder, config = single(tmp_path / "devnet")
    run_until(folder, config, 1)
    other, _ = single(tmp_path / "other")
    shutil.copy(other.genesis, folder.genesis)
    error = refused(folder, config)
    assert error.code == WRONG_CHAIN and "another data folder" in str(error)


@pytest.mark.parametrize("which", ["rpc_port", "p2p_port"])
def test_a_port_in_use(tmp_path: Path, which: str) -> None:
    folder, config = single(tmp_path / "devnet")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refused(folder, replace(config, **{which: port}))
    assert error.code == PORT_IN_USE and str(port) in str(error)


def test_a_missing_key_and_a_bad_peer(tmp_path: Path) -> None:
    folder, config = single(tmp_path / "devnet")
    assert refused(folder, replace(config, p2p_peers=("nobody",))).code == CONFIGURATION
    (folder.keys / "beacon.json").unlink()
    error = refused(folder, config)
    assert error.code == CONFIGURATION and "beacon.json" in str(error)


def test_a_missing_signer_on_a_running_chain(tmp_path: Path) -> None:
    folder, config = single(tmp_path / "devnet")
    run_until(folder, config, 2)
    folder.signer.unlink()
    error = refused(folder, config)
    assert error.code == SIGNER and "--new-signer" in str(error)


def test_a_damaged_database(tmp_path: Path) -> None:
    folder, config = single(tmp_path / "devnet")
    run_until(folder, config, 2)
    for path in folder.chain.glob("*.log"):
        path.write_bytes(b"")
    for path in folder.chain.glob("MANIFEST-*"):
        path.write_bytes(b"\xff" * 100)
    assert refused(folder, config).code == DISK


def test_a_devnet_of_another_shape_is_refused_and_reset_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "devnet"
    (before,) = make_folders(options(folder))
    genesis = before.folder.genesis.read_text()
    (again,) = make_folders(options(folder))
    assert again.folder.genesis.read_text() == genesis, "the same chain goes on"
    for changed in ({"validators": 2}, {"block_ms": 300}):
        with pytest.raises(Fatal, match="--reset begins anew") as caught:
            make_folders(options(folder, **changed))
        assert caught.value.code == CONFIGURATION
    first, second = make_folders(options(folder, validators=2, reset=True))
    assert first.folder.genesis.read_text() == second.folder.genesis.read_text() != genesis
    assert second.p2p_port != first.p2p_port and f":{first.p2p_port}" in second.folder.config.read_text()


def test_reset_deletes_nothing_that_is_no_devnet(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    for reset in (True, False):
        with pytest.raises(Fatal):
            make_folders(options(tmp_path, reset=reset))
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Fatal, match=str(port)) as caught:
            make_folders(options(tmp_path / "devnet", port=port))
        assert caught.value.code == PORT_IN_USE and not (tmp_path / "devnet").exists()
        (running,) = make_folders(options(tmp_path / "devnet"))
        with pytest.raises(Fatal, match=str(port)):
            make_folders(options(tmp_path / "devnet", port=port, reset=True))
        assert running.folder.genesis.exists(), "--reset deletes nothing of a devnet that still has its ports"


def test_engines_alternate_and_ports_differ() -> None:
    assert alternate_engines("numpy", 3) == ["numpy"] * 3
    assert set(alternate_engines("auto", 4)) <= {"torch", "numpy"}
    assert len(set(free_ports(20))) == 20
