"""One node, from its folder to its last task. Begin reading here.

    folder -> genesis, database, keys -> ledger -> log, signer, core -> network, consensus, sync, work, JSON-RPC

`open_node` puts the rooms together and says in one line what is wrong when they do not fit; `Node.run` holds one
nursery in which every service lives. When one of them fails, all end: a half-alive validator helps nobody.
"""

import errno
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from chain.kv import KVCorrupt, KVError, KVFull, KVLocked, LevelKV
from chain.ledger import Ledger, WrongGenesis
from chain.mempool import Mempool
from consensus.bft.core import Core
from genesis.spec import InvalidSpec, load_spec
from node import logs
from node.accounts import ask_passphrase
from node.answers import SoftAnswers
from node.backend import NodeBackend
from node.cli import program_version
from node.clock import now_ms
from node.config import DataFolder, NodeConfig
from node.consensus import Consensus, timing_of
from node.disputes import DisputeService
from node.exits import CONFIGURATION, DISK, INTERRUPTED, LOCKED, OK, PORT_IN_USE, SIGNER, WRONG_CHAIN, Fatal
from node.host import NodeHost
from node.inference import InferenceService
from node.keys import NodeKeys, admin_secret, find_passphrase, has_validator_keys, read_keystore, read_node_keys
from node.messages import Decoder
from node.outbox import Outbox
from node.replay import Recovered, recover
from node.scrape import PATH as METRICS_PATH
from node.scrape import serve as serve_metrics
from node.signer import FileSigner, SignerError, SignerLocked, create_or_open
from node.store import ModelStore
from node.sync import Sync
from node.tolerant_service import TolerantService
from node.travel import Fetches, Shelf, check_model
from node.wal import LostLog, WriteAheadLog, begin_log, open_log, set_aside
from p2p.network import AddressError, Network, NetworkConfig
from rpc.context import Context
from rpc.dispatch import Dispatcher
from rpc.events import Hub
from rpc.filters import Filters
from rpc.registry import registry
from rpc.server import PortInUse, ServerConfig, serve

API_KEY = "LABORA_API_KEY"
"""What the server of the tolerant lane asks for; a secret, and so no key of the configuration."""
EXPIRY_SECONDS = 60.0
"""How often the mempool is asked to let old transactions go."""

log = structlog.get_logger("node")


def run_node(folder: DataFolder, config: NodeConfig, new_signer: bool) -> int:
    """Run until a signal or a failure; the exit code. Raises Fatal."""
    logs.set_up(config.log_level, config.log_format)
    stopped_by: list[int] = []
    failure: Fatal | None = None
    with _locked(folder):
        try:
            trio.run(_run_until_signal, folder, config, new_signer, stopped_by)
        except* (Fatal, KVError, OSError) as group:
            failure = _as_fatal(_first(group), folder)
            if failure is None:
                raise
    if failure is not None:
        raise failure
    return INTERRUPTED if signal.SIGINT in stopped_by else OK


async def _run_until_signal(folder: DataFolder, config: NodeConfig, new_signer: bool, stopped_by: list[int]) -> None:
    node = await trio.to_thread.run_sync(open_node, folder, config, new_signer)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.run)
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                stopped_by.append(number)
                nursery.cancel_scope.cancel()


@dataclass
class Node:
    """The rooms of one node, put together and not yet running."""

    folder: DataFolder
    config: NodeConfig
    kv: LevelKV
    ledger: Ledger
    mempool: Mempool
    network: Network
    host: NodeHost
    store: ModelStore
    consensus_parts: tuple[WriteAheadLog, Core, Recovered, FileSigner | None]
    keys: NodeKeys | None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Every service in one nursery, until cancelled or one of them fails."""
        config, ledger, host = self.config, self.ledger, self.host
        wal, core, recovered, signer = self.consensus_parts
        beacon_key = None if self.keys is None else self.keys.beacon
        consensus = Consensus(
            ledger, self.mempool, self.network, wal, core, recovered, signer, beacon_key, self.folder.root
        )
        sync = Sync(self.network, consensus, ledger)
        hot_key = None if self.keys is None else self.keys.hot
        store = self.store
        answers = SoftAnswers(ledger, self.network, hot_key)
        consensus.on_commit.append(answers.on_commit)
        outbox = Outbox(ledger, host.submit, hot_key)
        make_inference, make_disputes = InferenceService, DisputeService
        if config.cheat:
            from node.cheats import services

            make_inference, make_disputes = services(config.cheat, ledger.params)
        inference = make_inference(ledger, consensus, outbox, hot_key, config, self.folder.journal, store, answers)
        disputes = make_disputes(ledger, consensus, outbox, hot_key, inference, config.watch)
        tolerant = TolerantService(ledger, consensus, outbox, hot_key, config, os.environ.get(API_KEY, ""))
        fetches = Fetches(self.network, store, partial(check_model, config=config))
        fetches.on_ready.append(lambda _model: inference.wake())
        version = program_version()
        backend = NodeBackend(
            version, ledger, self.mempool, host, self.network, consensus, sync, inference, disputes, tolerant,
            store, fetches, answers,
        )
        hub, filters = Hub(), Filters()
        consensus.on_commit.append(hub.committed)
        host.announce = self.network.announce_transactions
        host.on_pending += [hub.pending, filters.pending]
        methods = registry()
        context = Context(backend, filters, methods.namespaces)
        server = ServerConfig(
            config.rpc_host, config.rpc_port, config.rpc_cors, config.rpc_vhosts, admin_secret(self.folder.token)
        )
        try:
            async with trio.open_nursery() as nursery:
                p2p_port = await nursery.start(_network, self.network, config)
                await nursery.start(fetches.run)
                rpc_port = await nursery.start(_serve, server, Dispatcher(methods), hub, context, backend)
                nursery.start_soon(consensus.run)
                nursery.start_soon(sync.run)
                nursery.start_soon(inference.run)
                nursery.start_soon(disputes.run)
                nursery.start_soon(answers.run)
                nursery.start_soon(tolerant.run)
                nursery.start_soon(self._expire)
                metrics = ""
                if config.metrics:
                    from node.metrics import Metrics

                    rooms = (ledger, self.mempool, self.network, consensus, sync, inference, disputes)
                    metrics = await nursery.start(serve_metrics, config.metrics, Metrics(version, *rooms).page)
                    log.info("metrics", url=f"http://{metrics}{METRICS_PATH}")
                self._write_endpoints(rpc_port, p2p_port, metrics)
                log.info(
                    "node running", version=version, chain_id=ledger.params.chain_id, genesis=ledger.genesis_hash,
                    head=ledger.head.number, peer_id=self.network.id, p2p_port=p2p_port, rpc_port=rpc_port,
                    validator=signer is not None,
                )  # fmt: skip
                task_status.started()
        finally:
            if signer is not None:
                signer.close()
            self.kv.close()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(EXPIRY_SECONDS)
            self.mempool.expire(now_ms())

    def _write_endpoints(self, rpc_port: int, p2p_port: int, metrics: str) -> None:
        """Where this node is to be found, for scripts; whole or not at all."""
        host = self.config.rpc_host
        endpoints = {
            "pid": os.getpid(),
            "rpc": f"http://{host}:{rpc_port}",
            "ws": f"ws://{host}:{rpc_port}",
            "p2p": f"{self.network.id}@{self.config.p2p_host}:{p2p_port}",
            **({"metrics": f"http://{metrics}{METRICS_PATH}"} if metrics else {}),
        }
        part = self.folder.endpoints.with_suffix(".part")
        part.write_text(json.dumps(endpoints) + "\n")
        part.replace(self.folder.endpoints)


def open_node(folder: DataFolder, config: NodeConfig, new_signer: bool) -> Node:
    """Read the folder and put the rooms together. Raises Fatal with what to do."""
    try:
        spec = load_spec(folder.genesis)
        kv = LevelKV(folder.chain)
    except InvalidSpec as error:
        raise Fatal(CONFIGURATION, f"{error}; `labora init` makes a node's folder") from error
    except KVLocked as error:
        raise Fatal(LOCKED, str(error)) from error
    except (KVFull, KVCorrupt) as error:
        raise Fatal(DISK, str(error)) from error
    with ExitStack() as undo:
        undo.callback(kv.close)
        try:
            ledger = Ledger.open(kv, spec)
        except WrongGenesis as error:
            raise Fatal(WRONG_CHAIN, str(error)) from error
        except InvalidSpec as error:
            raise Fatal(CONFIGURATION, str(error)) from error
        head = ledger.head
        log.info("ledger open", genesis=ledger.genesis_hash, head=head.number, state_root=head.header.state_root)
        keys, node_key = _read_keys(folder, config)
        mempool = Mempool(ledger)
        store = ModelStore(folder.models, config.model_quota_mib)
        host = NodeHost(ledger, mempool, Decoder(ledger.sign_context), Shelf(store))
        listen, peers = (config.p2p_host, config.p2p_port), config.p2p_peers
        try:
            chain = (ledger.params.chain_id, ledger.genesis_hash)
            network = Network(NetworkConfig(node_key, *chain, *listen, peers), host)
        except (AddressError, ValueError) as error:
            raise Fatal(CONFIGURATION, f"p2p: {error}") from error
        signer = None if keys is None else _open_signer(folder, ledger, keys.consensus, new_signer)
        if signer is not None:
            undo.callback(signer.close)
        parts = (*recover_log(folder.wal, ledger, signer), signer)
        undo.pop_all()
    return Node(folder, config, kv, ledger, mempool, network, host, store, parts, keys)


def _read_keys(folder: DataFolder, config: NodeConfig) -> tuple[NodeKeys | None, bytes]:
    """A validator's keys (None: this node only follows), and the key of the node's connections."""
    file = Path(config.passphrase_file) if config.passphrase_file else None
    passphrase = find_passphrase(file, folder.keys, ask_passphrase)
    if not has_validator_keys(folder.keys):
        return None, read_keystore(folder.keys / "node.json", passphrase)
    keys = read_node_keys(folder.keys, passphrase)
    return keys, keys.node


def _open_signer(folder: DataFolder, ledger: Ledger, key: bytes, new_signer: bool) -> FileSigner:
    head = ledger.head.number
    members = len(ledger.validator_set(head + 1))
    try:
        return create_or_open(folder.signer, key, ledger.sign_context, head, members, new_signer)
    except SignerLocked as error:
        raise Fatal(LOCKED, str(error)) from error
    except SignerError as error:
        raise Fatal(SIGNER, str(error)) from error


def recover_log(folder: Path, ledger: Ledger, signer: FileSigner | None) -> tuple[WriteAheadLog, Core, Recovered]:
    """The log, and a core that remembers what the log knows; a lost log costs the height at which the signer stands."""
    timing = timing_of(ledger.params)
    own_address = None if signer is None else signer.address
    known = 0 if signer is None else signer.state.log_sequence
    try:
        wal, records = open_log(folder, known)
        core = Core(own_address, timing)
        return wal, core, recover(core, records, ledger.head.number)
    except LostLog as error:
        if signer is not None:
            signer.abandon_height()
        aside = set_aside(folder)
        height = 0 if signer is None else signer.state.height
        log.error("write-ahead log lost", reason=str(error), kept_as=str(aside), silent_through=height)
        return begin_log(folder, known + 1), Core(own_address, timing), Recovered()


async def _serve(
    config: ServerConfig,
    dispatcher: Dispatcher,
    hub: Hub,
    context: Context,
    backend: NodeBackend,
    *,
    task_status: trio.TaskStatus[int],
) -> None:
    try:
        await serve(config, dispatcher, hub, context, partial(_health_page, backend), task_status=task_status)
    except PortInUse as error:
        raise Fatal(PORT_IN_USE, f"{error.strerror}: stop the other program, or choose another --rpc-port") from error


def _health_page(backend: NodeBackend, path: str) -> tuple[int, bytes] | None:
    """/health as the Beacon API: 200 ready, 206 syncing, 503 down; /livez answers while the process lives."""
    if path == "/livez":
        return 200, b'{"status":"alive"}'
    if path not in ("/health", "/readyz"):
        return None
    health = backend.health()
    return {"ok": 200, "syncing": 206}.get(health["status"], 503), json.dumps(health).encode()


async def _network(network: Network, config: NodeConfig, *, task_status: trio.TaskStatus[int]) -> None:
    try:
        await network.run(task_status=task_status)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            raise
        where = f"{config.p2p_host}:{config.p2p_port}"
        text = f"cannot listen for peers on {where}: {error.strerror}; choose another --p2p-port"
        raise Fatal(PORT_IN_USE, text) from error


@contextmanager
def _locked(folder: DataFolder) -> Iterator[None]:
    """One process a folder. Raises Fatal (75)."""
    if not folder.genesis.exists():
        raise Fatal(CONFIGURATION, f"{folder.root} is no node's folder (no genesis.json); `labora init` makes one")
    fd = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Fatal(LOCKED, f"{folder.root} is in use by another process") from error
        yield
    finally:
        os.close(fd)


def _as_fatal(error: BaseException, folder: DataFolder) -> Fatal | None:
    """What ended the services, as one line and a code; None for what is no fault of the machine or its operator."""
    if isinstance(error, Fatal):
        return error
    if isinstance(error, KVError):
        return Fatal(DISK, str(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Fatal(DISK, f"no space left for {folder.root}: free some; what was committed is intact")
    return None


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first exception in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
