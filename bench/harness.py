"""What the benches share: a devnet of real processes, JSON-RPC, and a report that says on what it was measured."""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LABORA = (sys.executable, "-m", "node")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
START_SECONDS = 90


class Devnet:
    """A running `labora devnet` and what its --json file says."""

    def __init__(self, process: subprocess.Popen[bytes], info: dict[str, Any], started: float, final: float) -> None:
        self.process = process
        self.rpc: list[str] = info["rpc"]
        self.ws: list[str] = info["ws"]
        self.accounts: list[dict[str, str]] = info["accounts"]
        self.validators: list[dict[str, Any]] = info["validators"]
        self.chain_id: int = info["chainId"]
        self.first_block_seconds = final - started


@contextmanager
def devnet(*arguments: str) -> Iterator[Devnet]:
    """Start a devnet in an empty folder on free ports; end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="labora-bench-") as folder:
        path = Path(folder) / "devnet.json"
        command = [*LABORA, "devnet", "--data-dir", f"{folder}/net", "--port", "0", "--json", str(path), *arguments]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT)
        try:
            while not path.exists() or not path.read_text().strip():
                if process.poll() is not None:
                    raise SystemExit(f"the devnet ended: {process.stderr.read().decode()}")
                if time.monotonic() - started > START_SECONDS:
                    raise SystemExit(f"no final block in {START_SECONDS} s")
                time.sleep(0.02)
            yield Devnet(process, json.loads(path.read_text()), started, time.monotonic())
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def rpc(url: str, method: str, *params: Any) -> Any:
    """One JSON-RPC call; its result."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


def post_task(net: Devnet, prompt: str, tokens: int, wait: str = "settled") -> dict[str, Any]:
    """`labora task post` as a user runs it; its JSON."""
    command = [*LABORA, "task", "post", prompt, "--rpc", net.rpc[0], "--max-tokens", str(tokens), "--wait", wait]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, timeout=180, check=True, env=ENVIRONMENT)
    return json.loads(done.stdout)


def header(claim: str) -> None:
    """Say what is measured, and on what."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("py-evm", "trio", "numpy", "coincurve", "plyvel"))
    print(f"# {claim}")
    print(f"machine: {cpu}, {os.cpu_count()} cores, {memory} GiB; {platform.system()} {platform.release()}")
    print(f"versions: Python {platform.python_version()}, {packages}", flush=True)


def row(name: str, values: Sequence[float], unit: str) -> None:
    """Median, p99 and spread of a measurement."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(
        f"{name:<44} median {statistics.median(ordered):10.1f} {unit}  p99 {p99:10.1f}  "
        f"min {ordered[0]:.1f}  max {ordered[-1]:.1f}  n {len(ordered)}",
        flush=True,
    )
