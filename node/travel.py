"""Models to and from peers: what this node gives away of those it holds, and the fetches that its operator asked for.

A fetch lives as long as it takes: it waits while no peer holds the model, goes on after a restart, and ends when it was
refused, or the model is whole and its check has passed in a process of its own: every hash, every known answer.
Owns no folder (node.store) and no scheduling of chunks (p2p.models).
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from inference.chunks import ChunkReader
from inference.program import MANIFEST_BYTES_MAX, ProgramError
from inference.tokenizer import KIND, TOKENIZER_BYTES_MAX, TOKENIZER_NAME
from node.config import NodeConfig
from node.store import Incoming, ModelStore, StoreRefused
from node.worker import Worker, WorkerConfig, WorkerFailed, WorkerUnfit
from p2p.network import (
    PART_CHUNK,
    PART_MANIFEST,
    PART_TOKENIZER,
    AddressError,
    HandshakeError,
    ModelPiece,
    Network,
    NobodyHolds,
)
from primitives.hashing import keccak

READERS_MAX = 4
"""Models that are open for peers at once."""
FETCHES_MAX = 16
RETRY_SECONDS = 10.0
"""After nobody gave what was asked for."""
PIECE_BYTES = 256 * 1024
SPEED_SECONDS = 5.0
"""Over how long a fetch's rate is taken."""

log = structlog.get_logger("models")

Check = Callable[[Path], Awaitable[None]]


class CheckFailed(Exception):
    """A whole model that is not what it says, or that this machine does not compute right."""


async def check_model(folder: Path, config: NodeConfig) -> None:
    """Every hash, bound and known answer, by the configured engine in a child process. Raises CheckFailed."""
    if config.engine == "ray":  # whose workers prove the model again, each on its host
        setup = WorkerConfig(folder, "auto", config.engine_threads)
    else:
        engine = "numpy" if config.engine == "none" else config.engine
        device = "cpu" if engine == "numpy" else config.engine_device
        setup = WorkerConfig(folder, engine, config.engine_threads, device, split=config.engine_split)
    worker = Worker(setup)
    try:
        await worker.prove()
    except (WorkerFailed, WorkerUnfit) as error:
        raise CheckFailed(str(error)) from error


class Shelf:
    """Whole and checked models, in pieces for peers."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._readers: OrderedDict[bytes, ChunkReader] = OrderedDict()
        self._one_at_a_time = trio.CapacityLimiter(1)
        """Peers' reads: they must not take the disk and the threads of the chain's own work."""

    def holds(self, model: bytes) -> bool:
        """Whether peers may ask for its parts."""
        return self._store.folder_of(model) is not None

    async def piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
        """As p2p.host.Host.get_model_piece."""
        return await trio.to_thread.run_sync(self._piece, model, part, number, limiter=self._one_at_a_time)

    def _piece(self, model: bytes, part: int, number: int) -> ModelPiece | None:
        folder = self._store.folder_of(model)
        if folder is None:
            self._close(model)
            return None
        try:
            reader = self._reader(model, folder)
            if part == PART_CHUNK:
                return ModelPiece(0, *reader.chunk(number)) if number < reader.chunks.count else None
            if part == PART_MANIFEST:
                data = reader.manifest_bytes[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
                return ModelPiece(len(reader.manifest_bytes), data) if data else None
            return None if reader.manifest.tokenizer == KIND else _file_piece(folder / TOKENIZER_NAME, number)
        except (ProgramError, OSError) as error:
            log.error("a model on the disk cannot be given away", model=model, reason=str(error))
            self._close(model)
            return None

    def _reader(self, model: bytes, folder: Path) -> ChunkReader:
        reader = self._readers.get(model)
        if reader is None:
            reader = self._readers[model] = ChunkReader(folder)
            if len(self._readers) > READERS_MAX:
                self._readers.popitem(last=False)[1].__exit__()
        self._readers.move_to_end(model)
        return reader

    def _close(self, model: bytes) -> None:
        if (reader := self._readers.pop(model, None)) is not None:
            reader.__exit__()


def _file_piece(path: Path, number: int) -> ModelPiece | None:
    with path.open("rb") as file:
        size = path.stat().st_size
        if number * PIECE_BYTES >= min(size, TOKENIZER_BYTES_MAX):
            return None
        file.seek(number * PIECE_BYTES)
        return ModelPiece(size, file.read(PIECE_BYTES))


@dataclass
class Fetch:
    """One model on its way. state: asking, fetching, checking, waiting; then refused or failed, with the reason."""

    model: bytes
    addresses: list[str]
    """Peers to connect to first."""
    state: str = "asking"
    reason: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    _mark: tuple[float, int] | None = None

    @property
    def active(self) -> bool:
        return not self.ended.is_set()

    def moved(self, done_bytes: int) -> None:
        """So much is here now."""
        self.done_bytes = done_bytes
        now = trio.current_time()
        if self._mark is None:
            self._mark = now, done_bytes
        elif (elapsed := now - self._mark[0]) > 0:
            self.bytes_per_s = (done_bytes - self._mark[1]) / elapsed
            if elapsed > SPEED_SECONDS:
                self._mark = now, done_bytes


class Fetches:
    """The service; `run` until cancelled."""

    def __init__(self, network: Network, store: ModelStore, check: Check) -> None:
        self._network, self._store, self._check = network, store, check
        self._fetches: dict[bytes, Fetch] = {}
        self._nursery: trio.Nursery | None = None
        self.on_ready: list[Callable[[bytes], None]] = []
        """Told of each model that has become whole."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on with what was begun, then do what is asked."""
        unfinished = await trio.to_thread.run_sync(self._store.unfinished)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for model in unfinished[:FETCHES_MAX]:
                self.fetch(model, None)
            task_status.started()
            await trio.sleep_forever()

    def fetch(self, model: bytes, address: str | None) -> None:
        """Begin a fetch, or go on with one that ended without the model; a peer to ask first may be named. Raises
        StoreRefused."""
        assert self._nursery is not None, "the service is not running"
        if self._store.folder_of(model) is not None:
            raise StoreRefused(f"model 0x{model.hex()} is here already")
        known = self._fetches.get(model)
        if known is not None and known.active:
            known.addresses += [address] if address else []
            return
        if sum(fetch.active for fetch in self._fetches.values()) >= FETCHES_MAX:
            raise StoreRefused(f"{FETCHES_MAX} models are on their way already")
        fetch = self._fetches[model] = Fetch(model, [address] if address else [])
        self._nursery.start_soon(self._live, fetch)

    async def remove(self, model: bytes) -> int:
        """End a fetch of it and delete what is here; the bytes freed. Raises StoreRefused."""
        fetch = self._fetches.pop(model, None)
        if fetch is not None:
            fetch.scope.cancel()
            await fetch.ended.wait()
        return await trio.to_thread.run_sync(self._store.remove, model)

    def of(self, model: bytes) -> Fetch | None:
        """The last fetch of a model, whether it goes on or was refused; None when there was none or it succeeded."""
        return self._fetches.get(model)

    def models(self) -> list[bytes]:
        """Models that have a last fetch (`of`)."""
        return list(self._fetches)

    async def _live(self, fetch: Fetch) -> None:
        try:
            with fetch.scope:
                await self._until_done(fetch)
        finally:
            fetch.ended.set()

    async def _until_done(self, fetch: Fetch) -> None:
        """Tries until the model is here or the reason why not is no matter of who is connected."""
        while True:
            try:
                await self._attempt(fetch)
            except* NobodyHolds as group:
                fetch.state, fetch.reason = "waiting", _words(group)
            except* (StoreRefused, ProgramError, OSError) as group:
                self._end(fetch, "refused", _words(group))
            except* CheckFailed as group:
                self._end(fetch, "failed", _words(group))
            else:
                log.info("model fetched and checked", model=fetch.model, bytes=fetch.total_bytes)
                del self._fetches[fetch.model]
                for told in self.on_ready:
                    told(fetch.model)
                return
            if fetch.state != "waiting":
                return
            await trio.sleep(RETRY_SECONDS)

    def _end(self, fetch: Fetch, state: str, reason: str) -> None:
        fetch.state, fetch.reason = state, reason
        log.warning(f"a model's fetch was {state}" if state == "refused" else "a model's check failed",
                    model=fetch.model, reason=reason)  # fmt: skip

    async def _attempt(self, fetch: Fetch) -> None:
        fetch.state, fetch.reason = "asking", ""
        for address in fetch.addresses:
            await self._connect(address)
        incoming = await trio.to_thread.run_sync(self._store.open, fetch.model)
        try:
            await self._fill(fetch, incoming)
            fetch.state = "checking"
            try:
                await self._check(incoming.folder)
            except CheckFailed as error:
                await trio.to_thread.run_sync(incoming.fail, str(error))
                raise
            await trio.to_thread.run_sync(incoming.publish)
        finally:
            incoming.close()

    async def _fill(self, fetch: Fetch, incoming: Incoming) -> None:
        ask, in_thread = self._network.models, trio.to_thread.run_sync
        if incoming.manifest is None:
            data = await ask.blob(fetch.model, PART_MANIFEST, MANIFEST_BYTES_MAX, lambda d: keccak(d) == fetch.model)
            await in_thread(incoming.put_manifest, data)
        writer = incoming.writer
        fetch.total_bytes = writer.chunks.size_bytes
        fetch.moved(writer.done_bytes)
        if incoming.wants_tokenizer:
            data = await ask.blob(fetch.model, PART_TOKENIZER, TOKENIZER_BYTES_MAX, incoming.is_tokenizer)
            await in_thread(incoming.put_tokenizer, data)
        fetch.state = "fetching"
        one_at_a_time = trio.CapacityLimiter(1)  # a writer belongs to one thread

        async def take(number: int, chunk: bytes, siblings: Sequence[bytes]) -> None:
            await in_thread(partial(writer.put, number, chunk, siblings), limiter=one_at_a_time)
            fetch.moved(writer.done_bytes)

        await ask.chunks(fetch.model, writer.missing(), take)

    async def _connect(self, address: str) -> None:
        """To a peer that is said to hold it; when that fails, others may hold it too."""
        peer_id = address.partition("@")[0]
        if any(peer.id == peer_id for peer in self._network.peers()):
            return
        try:
            await self._network.dial(address)
        except (AddressError, HandshakeError, OSError, trio.TooSlowError) as error:
            log.warning("cannot connect to a holder", address=address, reason=str(error) or type(error).__name__)


def _words(group: BaseExceptionGroup[Any]) -> str:
    """The first reason in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
