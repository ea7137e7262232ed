"""What the benches share: a devnet of real processes, JSON-RPC, and a report that says on what it was measured.

Importing it pins the threads of whatever multiplies, so that a bench imports it before numpy and torch.
"""

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
START_SECONDS = 90


def _pinned_threads() -> int:
    """What follows --threads on the command line, else 1: for BLAS, OpenMP and MKL, which read it once, when numpy or
    torch is imported. Unset they take every core, and two of them that wait for each other change a ratio twofold."""
    asked = sys.argv[sys.argv.index("--threads") + 1 :] if "--threads" in sys.argv else []
    threads = int(asked[0]) if asked and asked[0].isdigit() else 1
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    return threads


TOO_LATE = bool({"numpy", "torch"} & set(sys.modules))
THREADS = _pinned_threads()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


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


def header(claim: str, *packages: str) -> None:
    """Say what is measured, and on what; packages: those whose versions matter besides the node's own."""
    assert not TOO_LATE, "a bench imports harness first, so that threads are pinned"
    cpu, flags = _cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    named = ("py-evm", "trio", "numpy", "coincurve", "plyvel", *packages)
    versions = ", ".join(f"{name} {version(name)}" for name in named)
    dot = ", ".join(sorted(flags & INT8_FLAGS)) or "no: int8 products run as float32"
    print(f"# {claim}")
    print(f"machine: {cpu}, {os.cpu_count()} cores, {memory} GiB; {platform.system()} {platform.release()}")
    print(f"int8 dot products (VNNI): {dot}; threads of BLAS and OpenMP: {THREADS}")
    print(f"versions: Python {platform.python_version()}, {versions}", flush=True)


INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


def _cpu() -> tuple[str, set[str]]:
    """The processor's name and what it can do, as far as Linux says."""
    try:
        pairs = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor(), set()
    said = {name.strip(): value.strip() for name, _, value in pairs}
    return said.get("model name", platform.processor()), set(said.get("flags", said.get("Features", "")).split())


def median_of(values: Sequence[float], unit: str, digits: int = 1) -> str:
    """Median and spread on one line."""
    spread = f"({min(values):.{digits}f} to {max(values):.{digits}f})"
    return f"{statistics.median(values):9.{digits}f} {unit} {spread}"


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def row(name: str, values: Sequence[float], unit: str) -> None:
    """Median, p99 and spread of a measurement."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(
        f"{name:<44} median {statistics.median(ordered):10.1f} {unit}  p99 {p99:10.1f}  "
        f"min {ordered[0]:.1f}  max {ordered[-1]:.1f}  n {len(ordered)}",
        flush=True,
    )
