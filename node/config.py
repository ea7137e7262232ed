"""What an operator chooses: one TOML file, every key also an environment variable and a flag of `labora run`.

Owns the list of choices, their bounds and their errors, and the layout of a data folder. Protocol numbers are not here
(primitives.params): they are the chain's.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from node.exits import CONFIGURATION, Fatal

ENV_PREFIX = "LABORA_"
ENGINES = ("auto", "torch", "numpy", "ray", "none")
DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
ADDRESS = re.compile(r"[^\s/]+:[0-9]{1,5}")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("terminal", "logfmt", "json")
FILE_BYTES_MAX = 256 * 1024
MODEL_NAME_BYTES_MAX = 96
TOLERANT_BOUNDS = {
    "tolerant_prompt_wei": (0, 10**24), "tolerant_token_wei": (0, 10**24), "tolerant_prompt_bytes": (1, 32_768),
    "tolerant_tokens": (1, 4_096), "tolerant_deadline": (8, 600),
}  # fmt: skip
"""What the chain takes of an offer (vm.system.tolerant)."""


@dataclass(frozen=True)
class NodeConfig:
    """Every choice, with its default. Lists are written as lists in TOML and with commas in the environment."""

    p2p_host: str = "127.0.0.1"
    p2p_port: int = 30_900
    """0: any free port."""
    p2p_peers: tuple[str, ...] = ()
    """Nodes to stay connected to, `id@host:port` each."""
    rpc_host: str = "127.0.0.1"
    rpc_port: int = 8_545
    """0: any free port."""
    rpc_cors: tuple[str, ...] = ("*",)
    """Origins that a browser page may call from."""
    rpc_vhosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Host names that requests may carry; `*` for any."""
    metrics: str = ""
    """Where Prometheus scrapes, host:port (port 0: any free one); empty: nowhere."""
    engine: str = "auto"
    """What runs the models: torch, numpy, auto (the faster one), ray (a Ray cluster), none (validate only)."""
    model_quota_mib: int = 102_400
    """MiB that models may take in the data folder; those that ship do not count."""
    engine_threads: int = 1
    """CPU threads of the model's process."""
    engine_device: str = "cpu"
    """Where the models run: cpu, cuda or cuda:N (torch only)."""
    engine_kv_mib: int = 512
    """Memory for the keys and values of what a model works on; longer tasks than fit are refused."""
    engine_split: int = 1
    """Devices of one host that hold a model together, where it does not fit one (torch only)."""
    ray_address: str = ""
    """Of the Ray cluster that engine = ray uses, host:port; empty: one on this machine, started with the model."""
    ray_workers: int = 1
    """Workers of each model on it."""
    tolerant_url: str = ""
    """Of an OpenAI-compatible server, up to /v1, whose model is offered in the tolerant lane; empty: nothing is."""
    tolerant_model: str = ""
    """Its name there."""
    tolerant_prompt_wei: int = 10**11
    """Asked for a byte of a prompt."""
    tolerant_token_wei: int = 10**13
    """Asked for a token of an answer; together they should be worth the gas of answering."""
    tolerant_prompt_bytes: int = 8_192
    """Of the longest prompt that is taken."""
    tolerant_tokens: int = 256
    """Of the longest answer."""
    tolerant_deadline: int = 60
    """Blocks in which it answers."""
    watch: bool = False
    """Recompute answers that this node has no part in, and challenge what is false; a bond, no stake, is needed."""
    traps: bool = False
    """Hide the root of some answers behind a salt, to catch who copies it; who is then away to reveal it is slashed."""
    cheat: str = ""
    """On a devnet: how this validator cheats (node.cheats)."""
    passphrase_file: str = ""
    """File with the keystores' passphrase, mode 600; empty: LABORA_PASSPHRASE, the keys' folder, or a prompt."""
    log_level: str = "info"
    log_format: str = "logfmt"


UNSAID = ("cheat",)
"""Keys that no file has unless they are set."""
DESCRIPTIONS = {
    "p2p_host": "address that peers connect to",
    "p2p_port": "port that peers connect to (0: any free one)",
    "p2p_peers": "nodes to stay connected to: id@host:port",
    "rpc_host": "address of JSON-RPC (HTTP and WebSocket)",
    "rpc_port": "port of JSON-RPC (0: any free one)",
    "rpc_cors": "origins that browser pages may call from",
    "rpc_vhosts": "host names that requests may carry",
    "metrics": "host:port where Prometheus scrapes (port 0: any free one; empty: nowhere)",
    "engine": "what runs the models: auto, torch, numpy, ray or none",
    "model_quota_mib": "MiB that models may take in the data folder",
    "engine_threads": "CPU threads of the model's process",
    "engine_device": "where the models run: cpu, cuda or cuda:N (torch only)",
    "engine_kv_mib": "MiB of keys and values of what a model works on at once",
    "engine_split": "devices of one host that hold a model together (torch only)",
    "ray_address": "host:port of the Ray cluster of engine = ray (empty: one on this machine)",
    "ray_workers": "workers of each model on the Ray cluster",
    "tolerant_url": "OpenAI-compatible server, up to /v1, offered in the tolerant lane (empty: none)",
    "tolerant_model": "the model's name on that server",
    "tolerant_prompt_wei": "wei for a byte of a prompt in the tolerant lane",
    "tolerant_token_wei": "wei for a token of an answer in the tolerant lane",
    "tolerant_prompt_bytes": "bytes of the longest prompt taken in the tolerant lane",
    "tolerant_tokens": "tokens of the longest answer in the tolerant lane",
    "tolerant_deadline": "blocks in which the tolerant lane is answered",
    "watch": "recompute answers of others, challenge what is false",
    "traps": "hide some roots, so that copying one is paid for; being away is then a risk",
    "cheat": "how this validator of a devnet cheats",
    "passphrase_file": "file with the keystores' passphrase (mode 600)",
    "log_level": "least level of the log: debug, info, warning or error",
    "log_format": "form of the log: terminal, logfmt or json",
}


@dataclass(frozen=True)
class DataFolder:
    """Where things are in a node's folder."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def genesis(self) -> Path:
        return self.root / "genesis.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def keystore(self) -> Path:
        """Accounts made by `labora account new`; a running node does not read it."""
        return self.root / "keystore"

    @property
    def chain(self) -> Path:
        return self.root / "chain"

    @property
    def wal(self) -> Path:
        return self.root / "wal"

    @property
    def signer(self) -> Path:
        return self.root / "signer.state"

    @property
    def journal(self) -> Path:
        """Results of models, kept until their work has settled."""
        return self.root / "journal"

    @property
    def models(self) -> Path:
        """Models that were fetched (node.store)."""
        return self.root / "models"

    @property
    def token(self) -> Path:
        """The secret that admin_ methods of JSON-RPC ask for, made by a running node, mode 600."""
        return self.root / "admin.secret"

    @property
    def lock(self) -> Path:
        return self.root / "LOCK"

    @property
    def endpoints(self) -> Path:
        """Written by a running node: its process id and the ports it really listens on, as JSON."""
        return self.root / "endpoints.json"


def default_data_dir() -> Path:
    """LABORA_DATA_DIR, else the XDG data folder of `labora`."""
    if chosen := os.environ.get(ENV_PREFIX + "DATA_DIR"):
        return Path(chosen)
    from platformdirs import user_data_path

    return user_data_path("labora")


def load(path: Path, environment: Mapping[str, str], flags: Mapping[str, Any]) -> NodeConfig:
    """Defaults, then the file (if it exists), then LABORA_<KEY>, then flags that are not None. Raises Fatal (78)."""
    config = NodeConfig()
    if path.exists():
        config = _with(config, _read_toml(path), str(path))
    names = {field.name for field in fields(NodeConfig)}
    from_environment: dict[str, Any] = {}
    for name in names:
        variable = ENV_PREFIX + name.upper()
        if variable in environment:
            from_environment[name] = _from_text(name, environment[variable], variable)
    config = _with(config, from_environment, "the environment")
    config = _with(config, {name: value for name, value in flags.items() if value is not None}, "the command line")
    if config.tolerant_url and not config.tolerant_model:
        raise Fatal(CONFIGURATION, f"tolerant_url is {config.tolerant_url}: tolerant_model must name its model there")
    return config


def to_toml(config: NodeConfig) -> str:
    """The file that `load` reads back to the same configuration, each key with its meaning."""
    import tomlkit

    document = tomlkit.document()
    for field in fields(NodeConfig):
        if field.name in UNSAID and not getattr(config, field.name):
            continue
        document.add(tomlkit.comment(f"{DESCRIPTIONS[field.name]} ({ENV_PREFIX}{field.name.upper()})"))
        value = getattr(config, field.name)
        document.add(field.name, list(value) if isinstance(value, tuple) else value)
    return tomlkit.dumps(document)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise Fatal(CONFIGURATION, f"{path} is larger than {FILE_BYTES_MAX} bytes")
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Fatal(CONFIGURATION, f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise Fatal(CONFIGURATION, f"{path} is not TOML: {error}") from error


def _from_text(name: str, text: str, source: str) -> Any:
    default = getattr(NodeConfig(), name)
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise Fatal(CONFIGURATION, f"{source}={text!r} is neither true nor false")
        return text == "true"
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError as error:
            raise Fatal(CONFIGURATION, f"{source}={text!r} is no whole number") from error
    return text


def _with(config: NodeConfig, values: Mapping[str, Any], source: str) -> NodeConfig:
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in DESCRIPTIONS:
            known = ", ".join(sorted(DESCRIPTIONS))
            raise Fatal(CONFIGURATION, f"{source}: unknown key {name!r}; known are {known}")
        default = getattr(config, name)
        if isinstance(default, tuple):
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise Fatal(CONFIGURATION, f"{source}: {name} must be a list of texts, not {value!r}")
            checked[name] = tuple(value)
        elif type(value) is not type(default):
            kind = {bool: "true or false", int: "a whole number", str: "a text"}[type(default)]
            raise Fatal(CONFIGURATION, f"{source}: {name} must be {kind}, not {value!r}")
        else:
            checked[name] = value
        _check(name, checked[name], source)
    return replace(config, **checked)


def _check(name: str, value: Any, source: str) -> None:
    allowed = {"engine": ENGINES, "log_level": LOG_LEVELS, "log_format": LOG_FORMATS}.get(name)
    if allowed is not None and value not in allowed:
        raise Fatal(CONFIGURATION, f"{source}: {name} must be one of {', '.join(allowed)}, not {value!r}")
    if name.endswith("_port") and not 0 <= value <= 65_535:
        raise Fatal(CONFIGURATION, f"{source}: {name} must be between 0 and 65535, not {value}")
    if name == "engine_threads" and not 1 <= value <= 1024:
        raise Fatal(CONFIGURATION, f"{source}: engine_threads must be between 1 and 1024, not {value}")
    if name == "engine_split" and not 1 <= value <= 64:
        raise Fatal(CONFIGURATION, f"{source}: engine_split must be between 1 and 64, not {value}")
    if name in ("ray_address", "metrics") and value and not ADDRESS.fullmatch(value):
        raise Fatal(CONFIGURATION, f"{source}: {name} must be host:port, not {value!r}")
    if name == "metrics" and value and int(value.rpartition(":")[2]) > 65_535:
        raise Fatal(CONFIGURATION, f"{source}: the port of metrics must be between 0 and 65535, not {value!r}")
    if name == "ray_workers" and not 1 <= value <= 1024:
        raise Fatal(CONFIGURATION, f"{source}: ray_workers must be between 1 and 1024, not {value}")
    if name == "model_quota_mib" and not 0 <= value <= 1 << 30:
        raise Fatal(CONFIGURATION, f"{source}: model_quota_mib must be between 0 and {1 << 30}, not {value}")
    if name == "engine_kv_mib" and not 1 <= value <= 1 << 20:
        raise Fatal(CONFIGURATION, f"{source}: engine_kv_mib must be between 1 and 1048576, not {value}")
    if name in TOLERANT_BOUNDS and not TOLERANT_BOUNDS[name][0] <= value <= TOLERANT_BOUNDS[name][1]:
        least, most = TOLERANT_BOUNDS[name]
        raise Fatal(CONFIGURATION, f"{source}: {name} must be between {least} and {most}, not {value}")
    if name == "tolerant_model" and len(value.encode()) > MODEL_NAME_BYTES_MAX:
        size = len(value.encode())
        raise Fatal(CONFIGURATION, f"{source}: tolerant_model of {size} bytes; at most {MODEL_NAME_BYTES_MAX}")
    if name == "tolerant_url" and value:
        from node.openai import check_url

        if (wrong := check_url(value)) is not None:
            raise Fatal(CONFIGURATION, f"{source}: tolerant_url {value!r:.200}: {wrong}")
    if name == "engine_device" and not DEVICE.fullmatch(value):
        raise Fatal(CONFIGURATION, f"{source}: engine_device must be cpu, cuda or cuda:N, not {value!r}")
