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
from inference.defence import LIST, Game, Party, Place, Shown
from inference.engine import Engine
from inference.frames import FRAME_BYTES_MAX
from inference.model import Model, save
from inference.ops import Task
from inference.reference import NumpyExecutor
from inference.witness import record

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
KEY = bytes(range(100, 132))
HOW = {"temperature_q16": 45875, "top_k": 7, "seed": bytes(range(32)), "trace_key": KEY}


class Child:
    """The node's side of the pipe, every wait bounded."""

    def __init__(self, folder: Path, engine: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference.worker", "--model-dir", str(folder), "--engine", engine, *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip

    def send(self, *values: Any) -> None:
        """All at once: the child reads them before it does anything."""
        bodies = [msgpack.packb(value) for value in values]
        self.raw(b"".join(len(body).to_bytes(4, "big") + body for body in bodies))

    def raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> Any:
        return msgpack.unpackb(self._read(int.from_bytes(self._read(4), "big")))

    def answer(self) -> Any:
        """The next event that ends a request."""
        while (event := self.receive())["event"] not in ("done", "error"):
            pass
        return event

    def ask(self, **fields: Any) -> Any:
        self.send(fields)
        return self.answer()

    def heard_until_silent(self) -> list[Any]:
        """Events that end a request among what is on its way; a last, bad request marks the end."""
        self.send({"id": 99, "op": "end"})
        heard = []
        while (event := self.answer())["id"] != 99:
            heard.append(event)
        return heard

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


def test_making_and_checking_over_the_pipe(served: tuple[Model, Path], child: Child) -> None:
    ready = child.receive()
    assert 0 <= ready.pop("load_ms") < PATIENCE_S * 1000
    expected_ready = {"ready": True, "model_id": served[0].model_id, "engine": "numpy", "known_answer": "ok"}
    assert ready == {**expected_ready, "positions_max": 16 * 2 * 64}
    engine = Engine(NumpyExecutor(served[0]))
    expected = engine.generate([1, 2, 3], 9, *HOW.values())
    answer = child.ask(id=7, op="make", kind="generate", prompt=[1, 2, 3], max_tokens=9, **HOW)
    assert (answer["id"], answer["event"]) == (7, "done")
    assert (answer["tokens"], answer["root"]) == (expected.tokens, expected.root)
    assert 0 <= answer["first_token_ms"] <= answer["total_ms"]
    verdict = child.ask(id=8, op="check", kind="generate", prompt=[1, 2, 3], output=expected.tokens, **HOW)
    assert (verdict["id"], verdict["root"], verdict["bad"]) == (8, expected.root, 2**32 - 1)
    embedded, made = engine.embed([1, 2, 3], KEY), dict(kind="embed", prompt=[1, 2, 3], **HOW)
    vector = child.ask(id=9, op="make", max_tokens=0, **made)
    assert (vector["vector"], vector["root"]) == (embedded.vector, embedded.root)
    assert child.ask(id=9, op="check", output=[*embedded.vector[:-1], 5], **made)["bad"] == len(embedded.vector) - 1
    assert child.end() == 0


def test_moves_of_a_dispute_over_the_pipe(served: tuple[Model, Path], child: Child) -> None:
    """As a party in this process makes them; the execution is computed once and asked many times."""
    child.receive()
    model, answer = served[0], Engine(NumpyExecutor(served[0])).generate([1, 2, 3], 4, *HOW.values())
    task = Task("generate", 3, len(answer.tokens), HOW["seed"], HOW["temperature_q16"], HOW["top_k"])
    party = Party(record(NumpyExecutor(model), task, KEY, [1, 2, 3], answer.tokens), model)
    base = {"op": "argue", "kind": "generate", "prompt": [1, 2, 3], "output": answer.tokens, **HOW}

    def asks(**fields: Any) -> Any:
        return child.ask(id=5, **base, **fields)

    assert asks(move="root") == {"id": 5, "event": "done", "root": answer.root}
    leaf = asks(move="leaf", bad=4)["leaf"]
    assert leaf == party.bad_leaf(4)
    place = Place(LIST, len(party.working(leaf).list_tree) - 1, 0)
    shown = asks(move="show", leaf=leaf, tree=LIST, level=place.level, index=0)
    assert shown["data"] == party.show(Game(leaf), place) and shown["operations"] == party.list_root(leaf)
    told = [[LIST, place.level, 0, shown["data"]]]
    choice = asks(move="choose", leaf=leaf, shown=told)
    assert (choice["index"], choice["path"]) == (None, [])
    last = len(party.working(leaf).ops) - 1
    opening = asks(move="open", leaf=leaf, list_op=last, shown=told)
    assert opening["data"] == party.open(Game(leaf, last, (Shown(place, shown["data"]),))).data
    forged = bytes((shown["data"][0] ^ 1,)) + shown["data"][1:]
    choice = asks(move="choose", leaf=leaf, shown=[[LIST, place.level, 0, forged]])
    assert (choice["index"], choice["child"]) == (0, forged[:32]) and len(choice["path"]) == place.level
    wrong = {
        "move": ({"move": "guess"}, "move must be one of"), "tree": ({"move": "show", "level": 0, "index": 0}, "tree"),
        "shown": ({"move": "choose", "leaf": 0, "shown": [[LIST, 0, "x", b""]]}, "shown must be"),
        "none": ({"move": "choose", "leaf": 0}, "shown is empty"), "leaf": ({"move": "leaf"}, "request.bad"),
    }  # fmt: skip
    for fields, said in wrong.values():
        refused = asks(**fields)
        assert refused["code"] == "request" and said in refused["error"]
    none = asks(move="show", leaf=10**6, tree=LIST, level=0, index=0)
    assert (none["code"], none["event"]) == ("move", "error") and "no leaf" in none["error"]


def test_requests_are_worked_on_together_and_tell_their_tokens(served: tuple[Model, Path], child: Child) -> None:
    """A short one that comes later is done first; the load says how many run; of a cancelled one nothing is heard."""
    child.receive()
    make = {"op": "make", "kind": "generate", **HOW, "temperature_q16": 0, "stream": True}
    most = {1: 90, 2: 12, 3: 9}
    frames = [{**make, "id": number, "prompt": [number], "max_tokens": most[number]} for number in most]
    child.send(*frames, {"id": 3, "op": "cancel"})
    told: dict[int, list[int]] = {1: [], 2: []}
    done: dict[int, Any] = {}
    loads = []
    while len(done) < 2:
        event = child.receive()
        match event["event"]:
            case "token":
                assert event["index"] == len(told[event["id"]])
                told[event["id"]].append(event["token"])
            case "done":
                done[event["id"]] = event
            case "load":
                loads.append((event["running"], event["waiting"], event["pages"] - event["pages_free"]))
    assert list(done) == [2, 1] and {number: answer["tokens"] for number, answer in done.items()} == told
    assert loads == [(2, 0, 3), (1, 0, 2)]
    assert child.heard_until_silent() == []


def test_a_bad_request_is_answered_and_the_next_one_served(child: Child) -> None:
    child.receive()
    make, check = {"op": "make", "kind": "generate", **HOW}, {"op": "check", "kind": "generate", **HOW}
    for fields, said in (
        ({**make, "prompt": [], "max_tokens": 3}, "0 prompt tokens"),
        ({**make, "prompt": [1]}, "request.max_tokens must be int"),
        ({**make, "prompt": [1, "a"], "max_tokens": 3}, "request.prompt must be list of int"),
        ({**make, "prompt": [1], "max_tokens": True}, "request.max_tokens must be int"),
        ({**make, "kind": "dream", "prompt": [1], "max_tokens": 1}, "not 'dream'"),
        ({**make, "kind": ["generate"], "prompt": [1], "max_tokens": 1}, "request.kind must be str"),
        ({**check, "prompt": [1], "output": [99]}, "output[0] is 99"),
        ({**make, "prompt": [1], "max_tokens": 3, "seed": b"short"}, "seed of 5"),
        ({**make, "prompt": [1], "max_tokens": 3, "within_ms": -1}, "request.within_ms must be"),
        ({**make, "prompt": [1], "max_tokens": 3, "stream": 1}, "request.stream must be bool"),
        ({"op": "reboot"}, "request.op must be make, check, argue or cancel"),
    ):
        reply = child.ask(id=1, **fields)
        assert (reply["id"], reply["event"], reply["code"]) == (1, "error", "request")
        assert said in reply["error"]
    for frame in ([1, 2], {"id": "x", "op": "cancel"}, {"id": True}, {"op": "make"}, {"id": 1 << 53}, 7, None):
        child.send(frame)
        reply = child.receive()
        assert (reply["id"], reply["code"]) == (None, "request")
    child.send({"id": 77, "op": "cancel"})  # unknown: nothing is said
    child.send({**make, "id": 4, "prompt": [1], "max_tokens": 90}, {**make, "id": 4, "prompt": [1], "max_tokens": 1})
    assert "is being worked on" in child.answer()["error"] and child.answer()["event"] == "done"
    assert child.ask(id=5, **make, prompt=[1], max_tokens=1)["event"] == "done"


def test_a_late_request_and_a_full_queue_say_so(child: Child) -> None:
    child.receive()
    make = {"op": "make", "kind": "generate", "max_tokens": 9, **HOW}
    assert child.ask(**make, id=1, prompt=[1], within_ms=0)["code"] == "deadline"
    child.send(*({**make, "id": number, "prompt": [1]} for number in range(200)))
    answers = [child.answer() for _ in range(200)]
    refused = [answer for answer in answers if answer["event"] == "error"]
    assert refused and len(answers) - len(refused) >= 64, "so many wait at least"
    assert all(answer["code"] == "full" and "tasks run and" in answer["error"] for answer in refused)


def test_ctrl_c_in_the_terminal_is_the_nodes_business(child: Child) -> None:
    """The signal reaches the whole group; the worker goes on until its stdin closes."""
    child.receive()
    child.process.send_signal(signal.SIGINT)
    assert child.ask(id=1, op="make", kind="generate", prompt=[1], max_tokens=2, **HOW)["event"] == "done"
    assert child.end() == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "00800001"),
        (b"\0\0\0\2\xc1\xc1", "no msgpack"),
        (b"\0\0\0\x09abc", "ends 7 bytes into a frame"),
        (b"\0\0", "ends 2 bytes into a frame"),
        (b"\0\0\1\0" + b"\x91" * 256, "no msgpack"),
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
        make = {"op": "make", "kind": "generate", "prompt": [9, 8], "max_tokens": 12, **HOW}
        one, other = (each.ask(id=1, **make) for each in (child, torch))
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
