"""A real child process over real pipes: the protocol, its limits, and a stdout that carries frames alone."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgpack
import pytest

from inference.build import request, with_known_answers
from inference.engine import Engine
from inference.model import Model, save
from inference.reference import NumpyExecutor
from inference.worker import FRAME_BYTES_MAX

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
HOW = {"temperature_q16": 45875, "top_k": 7, "seed": bytes(range(32)), "trace_key": bytes(range(100, 132))}


class Child:
    """The node's side of the pipe, every wait bounded."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference.worker", "--model-dir", str(folder), "--engine", engine],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip

    def send(self, value: Any) -> None:
        body = msgpack.packb(value)
        self.raw(len(body).to_bytes(4, "big") + body)

    def raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> Any:
        return msgpack.unpackb(self._read(int.from_bytes(self._read(4), "big")))

    def ask(self, **fields: Any) -> Any:
        self.send(fields)
        return self.receive()

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        descriptor, data = self.process.stdout.fileno(), b""
        while len(data) < size:
            assert select.select([descriptor], [], [], PATIENCE_S)[0], "the worker is silent"
            part = os.read(descriptor, size - len(data))
            assert part, f"the worker closed its pipe: {self.process.stderr.read().decode()}"
            data += part
        return data

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def served(small: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = with_known_answers(small, [request([5, 6, 7], 5)])
    folder = tmp_path_factory.mktemp("model")
    save(folder, model.manifest, model.tensors)
    return model, folder


@pytest.fixture
def child(served: tuple[Model, Path]) -> Iterator[Child]:
    worker = Child(served[1], "numpy")
    yield worker
    worker.process.kill()
    worker.process.wait(PATIENCE_S)


def test_generate_and_verify_over_the_pipe(served: tuple[Model, Path], child: Child) -> None:
    ready = child.receive()
    assert 0 <= ready.pop("load_ms") < PATIENCE_S * 1000
    assert ready == {"ready": True, "model_id": served[0].model_id, "engine": "numpy", "known_answer": "ok"}
    expected = Engine(NumpyExecutor(served[0])).generate([1, 2, 3], 9, *HOW.values())
    answer = child.ask(id=7, op="generate", prompt=[1, 2, 3], max_tokens=9, **HOW)
    assert (answer["id"], answer["ok"], answer["tokens"], answer["root"]) == (7, True, expected.tokens, expected.root)
    assert 0 <= answer["first_token_ms"] <= answer["total_ms"]
    verdict = child.ask(id=8, op="verify", prompt=[1, 2, 3], output=expected.tokens, **HOW)
    assert verdict == {"id": 8, "ok": True, "root": expected.root, "bad": 2**32 - 1}
    assert child.end() == 0


def test_a_bad_request_is_answered_and_the_next_one_served(child: Child) -> None:
    child.receive()
    for fields, said in (
        ({"op": "generate", "prompt": [], "max_tokens": 3, **HOW}, "0 prompt tokens"),
        ({"op": "generate", "prompt": [1], **HOW}, "request.max_tokens must be int"),
        ({"op": "generate", "prompt": [1, "a"], "max_tokens": 3, **HOW}, "request.prompt must be list of int"),
        ({"op": "generate", "prompt": [1], "max_tokens": True, **HOW}, "request.max_tokens must be int"),
        ({"op": "verify", "prompt": [1], "output": [99], **HOW}, "output[0] is 99"),
        ({"op": "generate", "prompt": [1], "max_tokens": 3, **HOW, "seed": b"short"}, "seed of 5"),
        ({"op": "reboot"}, "op 'generate' or 'verify'"),
    ):
        reply = child.ask(id=1, **fields)
        assert (reply["id"], reply["ok"]) == (1, False)
        assert said in reply["error"]
    child.send([1, 2])
    assert child.receive()["ok"] is False
    assert child.ask(id=2, op="generate", prompt=[1], max_tokens=1, **HOW)["ok"] is True


def test_ctrl_c_in_the_terminal_is_the_nodes_business(child: Child) -> None:
    """The signal reaches the whole group; the worker goes on until its stdin closes."""
    child.receive()
    child.process.send_signal(signal.SIGINT)
    assert child.ask(id=1, op="generate", prompt=[1], max_tokens=2, **HOW)["ok"] is True
    assert child.end() == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "00800001"),
        (b"\0\0\0\2\xc1\xc1", "no msgpack"),
        (b"\0\0\0\x09abc", "ends after 3"),
        (b"\0\0", "frame header 0000"),
    ],
)
def test_what_is_no_frame_ends_the_worker_with_its_reason(child: Child, data: bytes, said: str) -> None:
    child.receive()
    child.raw(data)
    assert child.end() == 2
    assert child.process.stderr is not None
    assert said in child.process.stderr.read().decode()


def test_a_damaged_model_is_not_ready_and_says_why(served: tuple[Model, Path], tmp_path: Path) -> None:
    for name in ("manifest.json", "model.safetensors"):
        (tmp_path / name).write_bytes((served[1] / name).read_bytes())
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    for folder, said in ((tmp_path, "hashes to"), (tmp_path / "nowhere", "No such file")):
        worker = Child(folder, "numpy")
        reply = worker.receive()
        assert reply["ready"] is False
        assert said in reply["error"]
        assert worker.end() == 1


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_both_engines_answer_alike(served: tuple[Model, Path], child: Child) -> None:
    torch = Child(served[1], "torch")
    try:
        assert (child.receive()["engine"], torch.receive()["engine"]) == ("numpy", "torch")
        one, other = (c.ask(id=1, op="generate", prompt=[9, 8], max_tokens=12, **HOW) for c in (child, torch))
        assert (one["tokens"], one["root"]) == (other["tokens"], other["root"])
        assert torch.end() == 0
    finally:
        torch.process.kill()
        torch.process.wait(PATIENCE_S)


def test_a_numpy_worker_loads_nothing_heavy() -> None:
    """Validators start four of these at once: no torch, no py-evm, no trio."""
    code = (
        "import sys, inference.worker, inference.engine, inference.reference\n"
        "print(*({'torch', 'eth', 'trio', 'coincurve', 'plyvel', 'web3'} & set(sys.modules)))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "", done.stderr
    assert time.monotonic() - began < 10
