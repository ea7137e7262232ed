"""One model's child process: start it, ask it many things at once, start it again when it dies. Knows its protocol and
no task.

The process is inference.worker, or inference.ray_cluster, which speaks for workers on several hosts; a crash of a model
or a driver ends the child, not the node, and loses nothing: what was being worked on is asked again, with the same bits
in the end. A request that was there at several crashes is asked alone, so that one that kills the child is told apart
from those that were merely near.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from inference.frames import FrameError, FrameReader, encode_frame
from node.config import NodeConfig

START_SECONDS_MAX = 1800.0
"""For loading a model, proving its hashes and passing its known answers."""
SILENT_SECONDS_MAX = 300.0
"""A child that works and says nothing for so long (a driver that hangs) is killed; it reports every few seconds."""
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CRASHES_SHARED_MAX = 2
"""A request that was there at so many crashes is asked alone from then on."""
CRASHES_ALONE_MAX = 3
"""One that kills the child so often on its own is given up."""
FULL_SECONDS = 1.0
"""When the child's queue is full it is asked again after so long."""
READ_BYTES = 65_536
NICENESS = 5
"""Votes go before models when they share a CPU."""

log = structlog.get_logger("worker")


class WorkerFailed(Exception):
    """This request gets no answer, and would get none if it were asked again; the text says why."""


class TooLate(WorkerFailed):
    """Its deadline passed."""


class WorkerUnfit(Exception):
    """The child says that it cannot do exact work here; starting it again would not help."""


@dataclass(frozen=True)
class WorkerConfig:
    """How to start a child."""

    model_dir: Path
    engine: str
    threads: int
    device: str = "cpu"
    """cpu, cuda or cuda:N; an engine that cannot run there says so and ends."""
    kv_mib: int = 512
    """Memory for keys and values."""
    split: int = 1
    """Devices of one host that hold the model together."""
    ray_address: str = ""
    """Of the cluster that engine `ray` uses; empty: one on this machine, of its own."""
    ray_workers: int = 1
    """Workers on it."""
    program: tuple[str, ...] = ()
    """Another program than the engine's own, and its first arguments (node.cheats)."""


def worker_config(folder: Path, config: NodeConfig) -> WorkerConfig:
    """How this node runs the model of a folder."""
    return WorkerConfig(folder, config.engine, config.engine_threads, config.engine_device, config.engine_kv_mib,
                        config.engine_split, config.ray_address, config.ray_workers)  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What the child last said of itself: workers that are up, tasks that run and wait, tokens of prompts computed and
    taken from shared beginnings since it started."""

    workers: int = 1
    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0


@dataclass
class _Asked:
    """A request in flight."""

    fields: dict[str, Any]
    deadline: float
    """By trio's clock."""
    on_token: Callable[[int, int], None] | None
    done: trio.Event = field(default_factory=trio.Event)
    result: dict[str, Any] | None = None
    failure: Exception | None = None
    crashes: int = 0
    crashes_alone: int = 0
    not_before: float = 0.0
    """When it may be sent (again)."""


class Worker:
    """A child and what it is asked. `run` keeps it alive; `ask` may be called by many at once."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.engine = ""
        """What the child runs, once it has said so."""
        self.unfit = ""
        """Why no exact work is possible here."""
        self.restarts = 0
        self.load = Load()
        self._asked: dict[int, _Asked] = {}
        self._unsent: list[int] = []
        """Asked and not sent to the child that runs now, in order."""
        self._sent: set[int] = set()
        self._withdrawn: list[int] = []
        self._busy_since = 0.0
        self._next_id = 0
        self._process: trio.Process | None = None
        self._wake = trio.Event()
        self._failures = 0

    @property
    def label(self) -> str:
        """What runs the model and where, as answers report it: `torch/cuda`, `numpy/cpu`; empty before it runs."""
        return f"{self.engine}/{self.config.device}" if self.engine else ""

    @property
    def in_flight(self) -> int:
        """Requests that were asked and not answered."""
        return len(self._asked)

    async def ask(
        self,
        request: dict[str, Any],
        deadline: float = float("inf"),
        on_token: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """The answer to one request. deadline: by trio's clock. on_token(index, token) is called for each token, for
        some again after a crash. Cancelling withdraws the request. Raises WorkerFailed, TooLate, WorkerUnfit."""
        if self.unfit:
            raise WorkerUnfit(self.unfit)
        self._next_id += 1
        number, asked = self._next_id, _Asked({**request, "stream": on_token is not None}, deadline, on_token)
        self._asked[number] = asked
        self._unsent.append(number)
        self._wake.set()
        try:
            await asked.done.wait()
        finally:
            del self._asked[number]
            if number in self._unsent:
                self._unsent.remove(number)
            elif not asked.done.is_set():
                self._withdraw(number)
        if asked.failure is not None:
            raise asked.failure
        assert asked.result is not None
        return asked.result

    async def run(self, deaths_max: int | None = None) -> None:
        """Keep a child alive, waiting longer after each failure, until cancelled or until it says that it is unfit, or
        has died so often. What is asked then fails."""
        deaths = 0
        failure: Exception | None = None
        while failure is None:
            if self._failures:
                self.restarts += 1
                await trio.sleep(BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1])
            self._process = await self._open()
            try:
                reason = await self._live(self._process)
            finally:
                with trio.CancelScope(shield=True):
                    await self._end()
            if self.unfit:
                failure = WorkerUnfit(self.unfit)
                continue
            deaths += 1
            self._failures += 1
            log.warning("the model's process died", model_dir=str(self.config.model_dir), reason=reason,
                        times=self._failures, in_flight=len(self._sent))  # fmt: skip
            self._blame(reason)
            if deaths == deaths_max:
                failure = WorkerFailed(f"the model's process died: {reason}")
        for asked in self._asked.values():
            _finish(asked, failure=failure)

    async def prove(self) -> None:
        """Have a child load the model and pass its known answers, and end it. Raises WorkerUnfit, WorkerFailed."""
        self._process = await self._open()
        assert self._process.stdout is not None
        try:
            reason = await self._greet(_Incoming(self._process.stdout))
        except _Ended as error:
            reason = str(error)
        finally:
            with trio.CancelScope(shield=True):
                await self._end()
        if self.unfit:
            raise WorkerUnfit(self.unfit)
        if reason is not None:
            raise WorkerFailed(f"the model's process died: {reason}")

    async def _open(self) -> trio.Process:
        config = self.config
        on_ray = config.engine == "ray"
        own = ("inference.ray_cluster" if on_ray else "inference.worker",)
        command = [
            sys.executable, "-m", *(config.program or own),
            "--model-dir", str(config.model_dir), "--engine", "auto" if on_ray else config.engine,
            "--threads", str(config.threads), "--device", config.device, "--kv-mib", str(config.kv_mib),
            "--split", str(config.split),
        ]  # fmt: skip
        if on_ray:
            command += ["--address", config.ray_address, "--workers", str(config.ray_workers)]
        if (nice := shutil.which("nice")) is not None:
            command = [nice, "-n", str(NICENESS), *command]
        opened = partial(trio.lowlevel.open_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return await opened(command)

    async def _end(self) -> None:
        """Kill the child, if it still lives, and wait for it."""
        process, self._process = self._process, None
        assert process is not None
        if process.returncode is None:
            process.kill()
        await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()

    async def _live(self, process: trio.Process) -> str:
        """One child, from its first word to its end; why it ended."""
        assert process.stdin is not None and process.stdout is not None
        reason = f"it was silent for {SILENT_SECONDS_MAX:g} s while it had work"
        try:
            incoming = _Incoming(process.stdout)
            if (not_ready := await self._greet(incoming)) is not None:
                return not_ready
            self._unsent = [number for number, asked in self._asked.items() if not asked.done.is_set()]
            self._sent.clear()
            self._withdrawn.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, process.stdin)
                await self._read(incoming)
                nursery.cancel_scope.cancel()
        except* _Ended as group:
            reason = str(group.exceptions[0])
        return reason

    async def _greet(self, incoming: "_Incoming") -> str | None:
        """The child's first word: None when it is ready, else why not. Raises _Ended."""
        hello = None
        with trio.move_on_after(START_SECONDS_MAX):
            hello = await incoming.next()
        if hello is None:
            return f"not ready after {START_SECONDS_MAX:g} s"
        if hello.get("ready") is not True:
            reason = str(hello.get("error", "no reason given"))
            if hello.get("again") is not True:
                self.unfit = reason
            return reason
        self.engine = str(hello.get("engine"))
        self.load = Load()
        log.info("model ready", engine=self.label, load_ms=hello.get("load_ms"), model=hello.get("model_id"),
                 positions_max=hello.get("positions_max"))  # fmt: skip
        return None

    def _blame(self, reason: str) -> None:
        """What was being worked on when the child died is asked again, unless it killed the child all alone."""
        for number in self._sent:
            if number in self._asked:
                self._survived(self._asked[number], len(self._sent) == 1, reason)
        self._sent.clear()

    def _survived(self, asked: _Asked, alone: bool, reason: str) -> None:
        """Count a death of what worked on a request, which is given up after several that it died of alone."""
        asked.crashes += 1
        asked.crashes_alone += alone
        if asked.crashes_alone >= CRASHES_ALONE_MAX:
            text = f"the model's process died {asked.crashes} times while it worked on this: {reason}"
            _finish(asked, failure=WorkerFailed(text))

    # ------------------------------------------------------------------ to the child

    async def _write(self, stdin: trio.abc.SendStream) -> None:
        while True:
            self._wake = trio.Event()
            frame = self._next_frame()
            if frame is None:
                with trio.move_on_after(FULL_SECONDS):
                    await self._wake.wait()
                continue
            try:
                await stdin.send_all(encode_frame(frame))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise _Ended(f"its pipe broke: {error}") from error

    def _next_frame(self) -> dict[str, Any] | None:
        """The next thing to tell the child, if there is one now."""
        if self._withdrawn:
            return {"id": self._withdrawn.pop(0), "op": "cancel"}
        number = self._next_number(trio.current_time())
        if number is None:
            return None
        asked = self._asked[number]
        self._unsent.remove(number)
        if not self._sent:
            self._busy_since = trio.current_time()
        self._sent.add(number)
        left = asked.deadline - trio.current_time()
        within = {} if left == float("inf") else {"within_ms": max(0, int(left * 1000))}
        return {**asked.fields, **within, "id": number}

    def _next_number(self, now: float) -> int | None:
        """The first that may be sent now. Those that were there at crashes go after all others, and alone."""
        ready = [number for number in self._unsent if self._asked[number].not_before <= now]
        if any(self._suspect(number) for number in self._sent):
            return None
        first = next((number for number in ready if not self._suspect(number)), None)
        if first is not None or self._sent or not ready:
            return first
        return ready[0]

    def _suspect(self, number: int) -> bool:
        return number in self._asked and self._asked[number].crashes >= CRASHES_SHARED_MAX

    def _withdraw(self, number: int) -> None:
        if number in self._sent:
            self._sent.discard(number)
            self._withdrawn.append(number)
        self._wake.set()

    # ------------------------------------------------------------------ from the child

    async def _read(self, incoming: "_Incoming") -> None:
        """Hand over what the child says until it is silent for too long. Raises _Ended."""
        while True:
            message = None
            with trio.move_on_after(SILENT_SECONDS_MAX):
                message = await incoming.next()
            if message is not None:
                self._heard(message)
            elif self._sent and trio.current_time() - self._busy_since >= SILENT_SECONDS_MAX:
                return

    def _heard(self, message: dict[str, Any]) -> None:
        event, number = message.get("event"), message.get("id")
        if event == "load":
            self.load = Load(*(_integer(message, name) for name in Load.__dataclass_fields__))
            return
        asked = self._asked.get(number) if type(number) is int else None
        if asked is None or number not in self._sent:
            return  # withdrawn meanwhile
        if event == "token" and asked.on_token is not None:
            asked.on_token(_integer(message, "index"), _integer(message, "token"))
            return
        self._sent.discard(number)
        self._wake.set()
        if event == "done":
            result = _result(asked.fields, message)
            self._failures = 0
            _finish(asked, result=result)
        elif event == "error" and message.get("code") == "full":
            asked.not_before = trio.current_time() + FULL_SECONDS
            self._unsent.append(number)
        elif event == "error" and message.get("code") == "lost":
            self._survived(asked, message.get("alone") is True, str(message.get("error")))
            if not asked.done.is_set():
                self._unsent.append(number)
        elif event == "error":
            kind = TooLate if message.get("code") == "deadline" else WorkerFailed
            _finish(asked, failure=kind(str(message.get("error"))))
        else:
            raise _Ended(f"it said something that makes no sense: {str(message)[:200]}")


class _Ended(Exception):
    """The child is gone or cannot be trusted any more; the text says why."""


class _Incoming:
    """Maps from the child, one by one."""

    def __init__(self, stdout: trio.abc.ReceiveStream) -> None:
        self._stdout, self._reader = stdout, FrameReader()
        self._values: list[Any] = []

    async def next(self) -> dict[str, Any]:
        """The next one. Raises _Ended."""
        while not self._values:
            try:
                data = await self._stdout.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise _Ended(f"its pipe broke: {error}") from error
            if not data:
                raise _Ended("it ended")
            try:
                self._values.extend(self._reader.feed(data))
            except FrameError as error:
                raise _Ended(str(error)) from error
        value = self._values.pop(0)
        if not isinstance(value, dict):
            raise _Ended(f"it sent no map: {str(value)[:80]}")
        return value


def _finish(asked: _Asked, result: dict[str, Any] | None = None, failure: Exception | None = None) -> None:
    asked.result, asked.failure = result, failure
    asked.done.set()


def _result(asked: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """The fields of a done event, typed. Raises _Ended."""
    root = message.get("root")
    if type(root) is not bytes or len(root) != 32:
        raise _Ended(f"it answered with the root {str(root)[:80]}")
    if asked["op"] == "argue":
        return _move(asked["move"], message)
    names = ("queue_ms", "first_token_ms", "total_ms", *(("bad",) if asked["op"] == "check" else ()))
    result: dict[str, Any] = {"root": root, **{name: _integer(message, name) for name in names}}
    if asked["op"] == "make":
        name, low, high = ("tokens", 0, 1 << 32) if asked["kind"] == "generate" else ("vector", -(1 << 31), 1 << 31)
        items = message.get(name)
        if type(items) is not list or not items or any(type(i) is not int or not low <= i < high for i in items):
            raise _Ended(f"it answered with the {name} {str(items)[:80]}")
        result[name] = items
    return result


def _move(move: str, message: dict[str, Any]) -> dict[str, Any]:
    """A move in a dispute, and the root that it is made for. Raises _Ended."""
    made: dict[str, Any] = {"root": message["root"]}
    integers, texts = {
        "root": ((), ()), "leaf": (("leaf",), ()), "show": ((), ("data", "operations")),
        "choose": ((), ("child",)), "open": (("element",), ("data",)),
    }[move]  # fmt: skip
    made |= {name: _integer(message, name) for name in integers}
    for name in texts:
        if type(message.get(name)) is not bytes:
            raise _Ended(f"it said {name} = {str(message.get(name))[:80]} of a move")
        made[name] = message[name]
    if move == "choose":
        path = message.get("path")
        if type(path) is not list or any(type(node) is not bytes or len(node) != 32 for node in path):
            raise _Ended(f"it said path = {str(path)[:80]} of a move")
        made |= {"path": path, "index": None if message.get("index") is None else _integer(message, "index")}
    return made


def _integer(message: dict[str, Any], name: str) -> int:
    """A field that is an integer of at most 63 bits. Raises _Ended."""
    value = message.get(name)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _Ended(f"it said {name} = {str(value)[:80]} in {str(message)[:80]}")
    return value
