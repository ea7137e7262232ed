"""The launcher: N real node processes on loopback from an empty folder, watched but never restarted.

Makes the folders, starts `labora run` for each, polls their JSON-RPC, shows one line, and ends them all. Knows nothing
that a node knows; imports no virtual machine, so that the nodes get the machine from the first moment.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS, MNEMONIC, ValidatorKeys, devnet_validator
from genesis.spec import devnet_spec, write_spec
from node.client import Client, RpcFailure, Unreachable
from node.command import as_typed
from node.config import DataFolder, NodeConfig, to_toml
from node.exits import CONFIGURATION, INTERRUPTED, OK, PORT_IN_USE, RUNTIME, Fatal
from node.init import write_keys
from node.keys import PASSPHRASE_FILE, SCRYPT_N_DEVNET, write_private
from primitives.address import checksum

HOST = "127.0.0.1"
P2P_PORT_OFFSET, METRICS_PORT_OFFSET = 1000, 2000
"""Node i listens for peers on BASE + 1000 + i, for JSON-RPC on BASE - i, and for Prometheus on BASE + 2000 + i."""
POLL_SECONDS = 0.5
FIRST_BLOCK_SECONDS = 120.0
STOP_SECONDS = 10.0
LINE_WIDTH = 118
"""Of the status line, where the terminal does not say how wide it is."""
LOG_FILE = "node.log"
SHAPE_FILE = "devnet.json"


@dataclass(frozen=True)
class Options:
    """What the user chose."""

    validators: int
    block_ms: int
    data_dir: Path
    port: int
    engine: str
    reset: bool
    json: Path | None
    cheat: str = ""
    """KIND[:N] of node.cheats."""


@dataclass
class Member:
    """One validator process."""

    index: int
    keys: ValidatorKeys
    folder: DataFolder
    rpc_port: int
    p2p_port: int
    metrics_port: int
    engine: str
    cheat: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    told_dead: bool = False

    @property
    def rpc(self) -> str:
        return f"http://{HOST}:{self.rpc_port}"

    @property
    def metrics(self) -> str:
        return f"{HOST}:{self.metrics_port}"

    @property
    def ws(self) -> str:
        return f"ws://{HOST}:{self.rpc_port}"


def run(options: Options) -> int:
    """Start everything and stay until Ctrl-C, SIGTERM, or until no node is left; the exit code."""
    members = make_folders(options)
    with ExitStack() as stack:
        stack.callback(_stop_all, members)
        signal.signal(signal.SIGTERM, _end)
        for member in members:
            _start(member)
        try:
            return _watch(members, options)
        except KeyboardInterrupt:
            print("\nstopping")
            return INTERRUPTED


def make_folders(options: Options) -> list[Member]:
    """Every node's folder, made or found; nothing is started. Raises Fatal (another shape, a port in use)."""
    root = options.data_dir.absolute()
    members = _members(root, options)  # a devnet that runs has its ports: nothing of it is deleted
    if options.reset and root.exists():
        _reset(root)
    spec = _prepare_root(root, options)
    for member in members:
        if not member.folder.genesis.exists():
            shutil.rmtree(member.folder.root, ignore_errors=True)
            _make_folder(member, spec)
        _write_config(member, members)
    return members


def alternate_engines(engine: str, validators: int) -> list[str]:
    """auto: torch and numpy in turn, so that two implementations check each other; without torch all run numpy."""
    if engine != "auto":
        return [engine] * validators
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return ["numpy"] * validators
    return ["torch" if index % 2 == 0 else "numpy" for index in range(validators)]


def _reset(root: Path) -> None:
    """Delete what a devnet made, and nothing else."""
    if not (root / SHAPE_FILE).exists() and any(root.iterdir()):
        raise Fatal(CONFIGURATION, f"{root} is not the folder of a devnet: --reset deletes nothing there")
    shutil.rmtree(root)


def _prepare_root(root: Path, options: Options) -> dict[str, Any]:
    """The completed specification: of this folder's chain, or a new one. Raises Fatal for another shape."""
    shape = {"validators": options.validators, "block_ms": options.block_ms}
    path = root / SHAPE_FILE
    if path.exists():
        found = json.loads(path.read_text())
        if found["shape"] != shape:
            had = found["shape"]
            raise Fatal(
                CONFIGURATION,
                f"{root} is a devnet of {had['validators']} validators and {had['block_ms']} ms; --reset begins anew",
            )
        spec: dict[str, Any] = found["spec"]
        return spec
    if root.exists() and any(root.iterdir()):
        raise Fatal(CONFIGURATION, f"{root} is not empty and not a devnet's folder; choose another --data-dir")
    root.mkdir(parents=True, exist_ok=True)
    spec = devnet_spec(options.validators, int(time.time() * 1000), options.block_ms)
    path.write_text(json.dumps({"shape": shape, "spec": spec}))
    return spec


def _members(root: Path, options: Options) -> list[Member]:
    count = options.validators
    if options.port == 0:
        ports = free_ports(3 * count)
        rpc_ports, p2p_ports, metrics_ports = ports[:count], ports[count : 2 * count], ports[2 * count :]
    else:
        rpc_ports = [options.port - index for index in range(count)]
        p2p_ports = [options.port + P2P_PORT_OFFSET + index for index in range(count)]
        metrics_ports = [options.port + METRICS_PORT_OFFSET + index for index in range(count)]
        for port in (*rpc_ports, *p2p_ports, *metrics_ports):
            if not _is_free(port):
                raise Fatal(PORT_IN_USE, f"port {port} is in use: another devnet? choose another --port (0: free ones)")
    engines = alternate_engines(options.engine, count)
    cheats = _cheats(options.cheat, count)
    return [
        Member(
            index, devnet_validator(index), DataFolder(root / f"node{index}"), rpc_ports[index], p2p_ports[index],
            metrics_ports[index], engines[index], cheats.get(index, ""),
        )
        for index in range(count)
    ]  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _cheats(text: str, validators: int) -> dict[int, str]:
    """Which validators cheat, and how. Raises Fatal."""
    if not text:
        return {}
    from node.cheats import parse

    return parse(text, validators)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _make_folder(member: Member, spec: dict[str, Any]) -> None:
    """Keys and genesis of a new node; genesis last, for its presence says that the folder is whole."""
    folder, keys = member.folder, member.keys
    folder.root.mkdir(parents=True)
    passphrase = secrets.token_hex(16)
    write_private(folder.keys / PASSPHRASE_FILE, passphrase + "\n")
    by_role = {"consensus": keys.consensus, "beacon": keys.beacon, "node": keys.node, "hot": keys.hot}
    write_keys(folder, by_role, passphrase, SCRYPT_N_DEVNET)
    write_spec(spec, folder.genesis)


def _write_config(member: Member, members: list[Member]) -> None:
    """Ports, peers and engine of this run, so that `labora run` brings a dead node back to the same place."""
    peers = tuple(f"{other.keys.node_public.hex()}@{HOST}:{other.p2p_port}" for other in members if other is not member)
    config = NodeConfig(
        p2p_port=member.p2p_port, p2p_peers=peers, rpc_port=member.rpc_port, metrics=member.metrics,
        engine=member.engine, cheat=member.cheat,
    )  # fmt: skip
    member.folder.config.write_text(to_toml(config))


def _start(member: Member) -> None:
    """As `labora run --data-dir` would, with ports and peers of this run."""
    command = [sys.executable, "-m", "node", "run", "--data-dir", str(member.folder.root)]
    log = (member.folder.root / LOG_FILE).open("ab")
    package_root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    member.process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    log.close()


def _watch(members: list[Member], options: Options) -> int:
    clients = [Client(member.rpc, timeout_seconds=2.0) for member in members]
    deadline = time.monotonic() + FIRST_BLOCK_SECONDS
    banner_shown = False
    told: set[tuple[int, str]] = set()
    while True:
        alive = [member for member in members if not _is_dead(member)]
        if not alive:
            raise Fatal(RUNTIME, f"no node is left; their logs are {options.data_dir}/node*/{LOG_FILE}")
        figures = [_health(client) for client in clients]
        height = max((found["height"] for found in figures if found), default=0)
        # A chain that goes on has blocks as soon as its first node answers: the others may still be starting.
        answering = [client for client, found in zip(clients, figures, strict=True) if found]
        if not banner_shown and height >= 1 and len(answering) >= len(alive):
            genesis = answering[0].call("eth_getBlockByNumber", "0x0", False)["hash"]
            chain_id = answering[0].number("eth_chainId")
            _banner(members, genesis, chain_id)
            if options.json is not None:
                _write_json(options.json, members, genesis, chain_id)
            banner_shown = True
        if not banner_shown and time.monotonic() > deadline:
            raise Fatal(RUNTIME, f"no block in {FIRST_BLOCK_SECONDS:g} s; see {options.data_dir}/node*/{LOG_FILE}")
        if banner_shown:
            _tell_disputes(figures, told)
            _status_line(figures, members)
        time.sleep(POLL_SECONDS)


def _is_dead(member: Member) -> bool:
    process = member.process
    assert process is not None
    code = process.poll()
    if code is None:
        return False
    if not member.told_dead:
        member.told_dead = True
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        print(
            f"\nnode {member.index} {how}; the end of its log:\n{_tail(member.folder.root / LOG_FILE)}"
            f"bring it back with:\n  {as_typed('run', '--data-dir', str(member.folder.root))}",
            flush=True,
        )
    return True


def _tail(path: Path, lines: int = 3) -> str:
    try:
        text = path.read_bytes()[-4096:].decode("utf-8", "replace")
    except OSError:
        return ""
    return "".join(f"  {line}\n" for line in text.splitlines()[-lines:])


def _health(client: Client) -> dict[str, Any] | None:
    try:
        found = client.call("labora_health")
    except (Unreachable, RpcFailure):
        return None
    return found if isinstance(found, dict) else None


def _banner(members: list[Member], genesis: str, chain_id: int) -> None:
    print("\nLabora devnet\n\nAccounts (10,000 units each) and private keys\n")
    for index, (address, key) in enumerate(zip(ACCOUNT_ADDRESSES, ACCOUNT_KEYS, strict=True)):
        print(f"  ({index}) {checksum(address)}  0x{key.hex()}")
    print(f"\nMnemonic   {MNEMONIC}\nChain id   {chain_id}\nGenesis    {genesis}\n\nValidators\n")
    for member in members:
        operator = checksum(member.keys.operator_address)
        cheat = f"  cheats: {member.cheat.partition(':')[0]}" if member.cheat else ""
        print(f"  ({member.index}) {operator}  {member.rpc}  {member.ws}  {member.engine}{cheat}")
    rpc = "" if members[0].rpc_port == 8545 else f" --rpc {members[0].rpc}"
    print(
        f'\nTry\n\n  {as_typed("task", "post")} "The sea"{rpc}\n  {as_typed("validator", "status")}{rpc}\n'
        f"  cast block latest --rpc-url {members[0].rpc}\n"
        f"  curl http://{members[0].metrics}/metrics\n\nCtrl-C ends all of it.\n",
        flush=True,
    )


def _write_json(path: Path, members: list[Member], genesis: str, chain_id: int) -> None:
    accounts = zip(ACCOUNT_ADDRESSES, ACCOUNT_KEYS, strict=True)
    content = {
        "chainId": chain_id,
        "genesisHash": genesis,
        "rpc": [member.rpc for member in members],
        "ws": [member.ws for member in members],
        "accounts": [{"address": checksum(address), "privateKey": "0x" + key.hex()} for address, key in accounts],
        "validators": [
            {
                "address": checksum(member.keys.operator_address),
                "pid": member.process.pid if member.process else None,
                "dataDir": str(member.folder.root),
                "rpc": member.rpc,
                "metrics": f"http://{member.metrics}/metrics",
                "engine": member.engine,
            }
            for member in members
        ],
    }
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def _tell_disputes(figures: list[dict[str, Any] | None], told: set[tuple[int, str]]) -> None:
    """What happened in disputes since the last time, a line each. told: what was said already."""
    for found in figures:
        for block, sentence in (found or {}).get("disputes", {}).get("told", []):
            if (block, sentence) not in told:
                told.add((block, sentence))
                print(f"\r{f'block {block:>5}  {sentence}':<{_width()}}", flush=True)


def _status_line(figures: list[dict[str, Any] | None], members: list[Member]) -> None:
    """Height, round, nodes, peers, tasks, finality, waiting transactions and disputes, of the node that is furthest."""
    known = [found for found in figures if found]
    if not known or not sys.stdout.isatty():
        return
    best = max(known, key=lambda found: found["height"])
    work = best.get("inference", {})
    line = (
        f"height {best['height']}  round {best['round']}  nodes {len(known)}/{len(members)}  peers {best['peers']}  "
        f"tasks {work.get('tasksOpen', 0)} open {work.get('tasksSettled', 0)} settled  "
        f"finality {best['finalityMs']} ms  waiting {best['pendingTransactions']}{_disputes(best, members)}"
    )
    print(f"\r{line[: _width()]:<{_width()}}", end="", flush=True)


def _width() -> int:
    """Of a line that is written over: one that went on in the next row could not be."""
    return shutil.get_terminal_size((LINE_WIDTH + 1, 1)).columns - 1


def _disputes(best: dict[str, Any], members: list[Member]) -> str:
    """Who was told to cheat, and how many were caught; nothing where nobody was."""
    cheats = ", ".join(f"{member.index} {member.cheat.partition(':')[0]}" for member in members if member.cheat)
    found = best.get("disputes", {})
    if not cheats and not found.get("challenged"):
        return ""
    caught = "  ".join(f"{name} {found.get(name, 0)}" for name in ("challenged", "refuted", "slashed"))
    return f"  {caught}{f'  cheats: {cheats}' if cheats else ''}"


def _stop_all(members: list[Member]) -> None:
    processes = [member.process for member in members if member.process is not None]
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(OK)
