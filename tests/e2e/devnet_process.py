"""Real node processes: a devnet started by its own launcher on free ports, and what one waits for, with deadlines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from node.client import Client, RpcFailure, Unreachable

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
"""Generous: the machine of a test run is shared."""
WAIT_SECONDS = 180.0
POLL_SECONDS = 0.2

Value = TypeVar("Value")


def wait_until(what: str, probe: Callable[[], Value | None], seconds: float = WAIT_SECONDS) -> Value:
    """The probe's first answer that is not None (or False), asked again and again until the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(POLL_SECONDS)  # between two questions to another process; nothing is asserted about it


@dataclass
class Devnet:
    """A running devnet: the launcher's process and what its --json file says."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    info: dict[str, Any]
    revived: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def client(self, index: int) -> Client:
        return Client(self.info["rpc"][index])

    def health(self, index: int) -> dict[str, Any] | None:
        """None while the node does not answer."""
        try:
            found = self.client(index).call("labora_health")
        except (Unreachable, RpcFailure):
            return None
        return found if isinstance(found, dict) else None

    def height(self, index: int) -> int:
        health = self.health(index)
        return -1 if health is None else int(health["height"])

    def wait_height(self, index: int, height: int) -> None:
        wait_until(f"node {index} at height {height}", lambda: self.height(index) >= height)

    def block(self, index: int, height: int) -> dict[str, Any]:
        return dict(self.client(index).call("eth_getBlockByNumber", hex(height), False))

    def kill(self, index: int) -> None:
        """kill -9."""
        os.kill(self.info["validators"][index]["pid"], signal.SIGKILL)
        wait_until(f"node {index} gone", lambda: self.health(index) is None)

    def revive(self, index: int) -> None:
        """What the launcher tells its user to do."""
        folder = self.info["validators"][index]["dataDir"]
        log = (Path(folder) / "node.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "run", "--data-dir", folder], env=environment(), stdout=log, stderr=log
        )
        log.close()
        self.revived.append(process)
        self.info["validators"][index]["pid"] = process.pid

    def labora(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """One command of the command line against node 0."""
        return subprocess.run(
            [sys.executable, "-m", "node", *arguments, "--rpc", self.info["rpc"][0]], env=environment(),
            capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
        )  # fmt: skip

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("node*/node.log")))

    def stop(self) -> None:
        for process in (self.process, *self.revived):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (self.process, *self.revived):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    """Where a checkout's own packages are found, whatever folder a test runs in."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start_devnet(folder: Path, *options: str) -> Devnet:
    """`labora devnet` on free ports; returns when the first block is final."""
    info = folder / "devnet-info.json"
    info.unlink(missing_ok=True)
    data = folder / "devnet"
    output = (folder / "launcher.log").open("ab")
    command = [sys.executable, "-m", "node", "devnet", "--port", "0", "--data-dir", str(data), "--json", str(info)]
    process = subprocess.Popen([*command, *options], env=environment(), stdout=output, stderr=output)
    output.close()
    devnet = Devnet(data, process, {})
    try:
        wait_until("the first block", lambda: info.exists() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, (folder / "launcher.log").read_text()
        devnet.info = json.loads(info.read_text())
    except BaseException:
        devnet.stop()
        raise
    return devnet
