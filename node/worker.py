"""One model's child process: start it, ask it, start it again when it dies. Knows its protocol and no task.

The process is inference.worker; a crash of a model or a driver ends the child, not the node. Requests go one at a time.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import structlog
import trio

FRAME_BYTES_MAX = 8 << 20
ANSWER_SECONDS_MAX = 1800.0
"""A child that says nothing for so long (a driver that hangs) is killed: no task's window is longer."""
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
NICENESS = 5
"""Votes go before models when they share a CPU."""

log = structlog.get_logger("worker")


class WorkerFailed(Exception):
    """This request got no answer: the child died, or says that it cannot serve the request."""

    def __init__(self, reason: str, permanent: bool) -> None:
        super().__init__(reason)
        self.permanent = permanent
        """The same request would fail again."""


class WorkerUnfit(Exception):
    """The child started and says that it cannot do exact work here; starting it again would not help."""


@dataclass(frozen=True)
class WorkerConfig:
    """How to start a child."""

    model_dir: Path
    engine: str
    threads: int
    device: str = "cpu"
    """cpu, cuda or cuda:N; an engine that cannot run there says so and ends."""


class Worker:
    """A child that is started when first asked; not shared between tasks."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.engine = ""
        """What the child runs, once it has said so."""
        self.unfit = ""
        """Why no exact work is possible here."""
        self.restarts = 0
        self._process: trio.Process | None = None
        self._buffer = bytearray()
        self._next_id = 0
        self._failures = 0

    @property
    def label(self) -> str:
        """What runs the model and where, as answers report it: `torch/cuda`, `numpy/cpu`; empty before it runs."""
        return f"{self.engine}/{self.config.device}" if self.engine else ""

    async def start(self) -> None:
        """Start the child unless it runs, waiting longer after each failure. Raises WorkerUnfit, WorkerFailed."""
        if self.unfit:
            raise WorkerUnfit(self.unfit)
        if self._process is not None and self._process.returncode is None:
            return
        if self._failures:
            self.restarts += 1
            await trio.sleep(BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1])
        config = self.config
        command = [
            sys.executable, "-m", "inference.worker", "--model-dir", str(config.model_dir), "--engine", config.engine,
            "--threads", str(config.threads), "--device", config.device,
        ]  # fmt: skip
        if (nice := shutil.which("nice")) is not None:
            command = [nice, "-n", str(NICENESS), *command]
        opened = partial(trio.lowlevel.open_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = await opened(command)
        self._buffer.clear()
        hello = await self._read()
        if not hello.get("ready"):
            self.unfit = str(hello.get("error", "no reason given"))
            await self.stop()
            raise WorkerUnfit(self.unfit)
        self.engine = str(hello["engine"])
        self._failures = 0
        log.info("model ready", model=hello["model_id"], engine=self.label, load_ms=hello["load_ms"])

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises WorkerFailed, WorkerUnfit."""
        await self.start()
        assert self._process is not None and self._process.stdin is not None
        self._next_id += 1
        body = msgpack.packb({**request, "id": self._next_id})
        try:
            await self._process.stdin.send_all(len(body).to_bytes(4, "big") + body)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            await self._died()
            raise WorkerFailed("the model's process is gone", permanent=False) from error
        answer = await self._read()
        if answer.get("id") != self._next_id:
            await self._died()
            raise WorkerFailed("the model's process answered another request", permanent=False)
        if not answer.get("ok"):
            raise WorkerFailed(str(answer.get("error", "no reason given")), permanent=True)
        return answer

    async def stop(self) -> None:
        """End the child and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()

    async def _read(self) -> dict[str, Any]:
        with trio.move_on_after(ANSWER_SECONDS_MAX):
            return await self._message()
        await self._died()
        raise WorkerFailed(f"the model's process said nothing for {ANSWER_SECONDS_MAX} s", permanent=False)

    async def _message(self) -> dict[str, Any]:
        size = int.from_bytes(await self._exactly(4), "big")
        if size > FRAME_BYTES_MAX:
            await self._died()
            raise WorkerFailed(f"a frame of {size} bytes from the model's process", permanent=False)
        message = msgpack.unpackb(await self._exactly(size))
        if not isinstance(message, dict):
            await self._died()
            raise WorkerFailed("the model's process sent no map", permanent=False)
        return message

    async def _exactly(self, count: int) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        while len(self._buffer) < count:
            try:
                chunk = await self._process.stdout.receive_some(65_536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                chunk = b""
            if not chunk:
                await self._died()
                raise WorkerFailed("the model's process ended", permanent=False)
            self._buffer += chunk
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _died(self) -> None:
        self._failures += 1
        code = None if self._process is None else self._process.returncode
        await self.stop()
        log.warning("the model's process died", model_dir=str(self.config.model_dir), code=code, times=self._failures)
