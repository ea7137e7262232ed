"""Configuration: file, then environment, then flags; every error names its source and exits with 78."""

from dataclasses import fields
from pathlib import Path

import pytest

from node.config import DESCRIPTIONS, NodeConfig, load, to_toml
from node.exits import CONFIGURATION, Fatal


def test_every_key_is_described_and_survives_the_file(tmp_path: Path) -> None:
    assert set(DESCRIPTIONS) == {field.name for field in fields(NodeConfig)}
    chosen = NodeConfig(p2p_port=0, p2p_peers=("a@b:1", "c@d:2"), engine="numpy", log_format="json")
    path = tmp_path / "config.toml"
    path.write_text(to_toml(chosen))
    assert load(path, {}, {}) == chosen


def test_flags_beat_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('rpc_port = 1\np2p_port = 1\nengine = "torch"\n')
    environment = {"LABORA_RPC_PORT": "2", "LABORA_P2P_PORT": "2", "LABORA_P2P_PEERS": "x@h:1, y@h:2"}
    config = load(path, environment, {"rpc_port": 3, "engine": None})
    assert (config.rpc_port, config.p2p_port, config.engine) == (3, 2, "torch")
    assert config.p2p_peers == ("x@h:1", "y@h:2")


def test_the_device_is_a_key_a_variable_and_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load(path, {}, {}).engine_device == "cpu"
    path.write_text('engine_device = "cuda"\n')
    assert load(path, {}, {}).engine_device == "cuda"
    assert load(path, {"LABORA_ENGINE_DEVICE": "cuda:1"}, {}).engine_device == "cuda:1"
    assert load(path, {"LABORA_ENGINE_DEVICE": "cuda:1"}, {"engine_device": "cpu"}).engine_device == "cpu"


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml", {}, {}) == NodeConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rpc_prot = 1", "unknown key 'rpc_prot'"),
        ("rpc_port = 70000", "between 0 and 65535"),
        ('rpc_port = "x"', "must be a whole number"),
        ("rpc_port = true", "must be a whole number"),
        ('engine = "gpu"', "must be one of auto, torch, numpy, ray, none"),
        ('p2p_peers = "a"', "must be a list of texts"),
        ("log_level = 3", "must be a text"),
        ("engine_threads = 0", "between 1 and 1024"),
        ('engine_device = "gpu"', "must be cpu, cuda or cuda:N"),
        ("engine_split = 0", "between 1 and 64"),
        ('ray_address = "ray://10.0.0.5:10001"', "must be host:port"),
        ("ray_workers = 0", "between 1 and 1024"),
        ('engine_device = "cuda:"', "must be cpu, cuda or cuda:N"),
        ("[", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(Fatal, match=words) as caught:
        load(path, {}, {})
    assert caught.value.code == CONFIGURATION and "config.toml" in str(caught.value)


def test_a_bad_environment_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="LABORA_RPC_PORT='many'"):
        load(tmp_path / "none", {"LABORA_RPC_PORT": "many"}, {})
