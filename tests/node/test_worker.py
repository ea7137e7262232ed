"""The model's child process: real answers, many at once, crashes that lose nothing, and an honest refusal to start."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from genesis.models import folder as shipped
from inference import tokenizer
from node import worker as worker_module
from node.worker import TooLate, Worker, WorkerConfig, WorkerFailed, WorkerUnfit

PATIENCE_S = 60
HOT = 16 << 16  # so that an answer meets no stop id and is as long as it may be


def make(prompt: str, max_tokens: int = 3, **fields: Any) -> dict[str, Any]:
    return {
        "op": "make", "kind": "generate", "prompt": tokenizer.encode(prompt), "max_tokens": max_tokens,
        "temperature_q16": HOT, "top_k": 0, "seed": bytes(32), "trace_key": bytes(32), **fields,
    }  # fmt: skip


def config(model_dir: Path) -> WorkerConfig:
    return WorkerConfig(model_dir, "numpy", 1)


@asynccontextmanager
async def running(settings: WorkerConfig) -> AsyncIterator[Worker]:
    """A worker that lives inside."""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            worker = Worker(settings)
            nursery.start_soon(worker.run)
            yield worker
            nursery.cancel_scope.cancel()


def pid_of(worker: Worker) -> int:
    assert worker._process is not None
    return worker._process.pid


async def until(condition: Any) -> None:
    """What the child does is seen by asking again; every test has its own limit of time."""
    while not condition():
        await trio.sleep(0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "BACKOFF_SECONDS", (0.01,))


def test_kill_9_in_the_middle_of_a_batch_loses_no_task(impatient: None) -> None:
    """Eight tasks generate together when the child is killed; all are asked again and end with the bits of a lone run.
    Tokens come again from the first on, and are the same ones."""
    prompts = [f"The sea {number}" for number in range(8)]

    async def scenario() -> None:
        answers: dict[str, dict[str, Any]] = {}
        heard: dict[str, list[list[int]]] = {prompt: [[]] for prompt in prompts}

        def listen(prompt: str, index: int, token: int) -> None:
            if index == 0 and heard[prompt][-1]:
                heard[prompt].append([])
            assert index == len(heard[prompt][-1])
            heard[prompt][-1].append(token)

        async def ask(worker: Worker, prompt: str) -> None:
            answers[prompt] = await worker.ask(make(prompt, 60), on_token=lambda i, t: listen(prompt, i, t))

        async with running(config(shipped())) as worker:
            async with trio.open_nursery() as nursery:
                for prompt in prompts:
                    nursery.start_soon(ask, worker, prompt)
                await until(lambda: all(len(lists[0]) >= 3 for lists in heard.values()))
                assert worker.load.running == 8
                os.kill(pid_of(worker), signal.SIGKILL)
            assert worker.restarts == 1 and worker.engine == "numpy" and worker.label == "numpy/cpu"
            for prompt in prompts:
                alone = await worker.ask(make(prompt, 60))
                assert (alone["tokens"], alone["root"]) == (answers[prompt]["tokens"], answers[prompt]["root"])
                assert heard[prompt][-1] == alone["tokens"]
                assert all(alone["tokens"][: len(part)] == part for part in heard[prompt])
            assert any(len(lists) == 2 for lists in heard.values())

    trio.run(scenario)


def beside_a_poison(monkeypatch: pytest.MonkeyPatch, script: Path, why: str) -> int:
    """Three requests are answered beside one that the script's child does not survive, and the worker goes on; how
    often a child was started again."""

    async def opened(self: Worker) -> trio.Process:
        command = [sys.executable, str(script), "--model-dir", str(self.config.model_dir), "--engine", "numpy"]
        return await trio.lowlevel.open_process(command, stdin=-1, stdout=-1)

    monkeypatch.setattr(Worker, "_open", opened)
    restarts = 0

    async def scenario() -> None:
        nonlocal restarts
        done: list[str] = []

        async def ask(worker: Worker, prompt: str) -> None:
            await worker.ask(make(prompt, 30))
            done.append(prompt)

        async with running(config(shipped())) as worker:
            async with trio.open_nursery() as nursery:
                for prompt in ("The sea", "The whale", "It was"):
                    nursery.start_soon(ask, worker, prompt)
                with pytest.raises(WorkerFailed, match=rf"died \d times while it worked on this.*{why}"):
                    await worker.ask(make("B"))
            assert sorted(done) == ["It was", "The sea", "The whale"] and worker.in_flight == 0
            assert (await worker.ask(make("The sea")))["tokens"]
            restarts = worker.restarts

    trio.run(scenario)
    return restarts


def test_a_request_that_kills_one_worker_after_another_behind_the_child_is_told_too(
    impatient: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A child that speaks for several workers says `lost` of what a dead one worked on. Prompt [66] kills every worker,
    together with whatever is beside it: the others are answered all the same, by the same child."""
    script = tmp_path / "speaker.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(worker_module.__file__).parents[1])!r})\n"
        "from inference.worker import Service, main\n"
        "step = Service._step\n"
        "def dies(self):\n"
        "    jobs = {key: job.ids[0] for key, job in [*self._batch._running.items(), *self._batch._waiting.items()]}\n"
        "    if 66 not in jobs.values():\n"
        "        return step(self)\n"
        "    for key in jobs:\n"
        "        self._batch.cancel(key)\n"
        "        del self._tasks[key]\n"
        "        told = {'id': key, 'event': 'error', 'code': 'lost', 'error': 'it died', 'alone': len(jobs) == 1}\n"
        "        self._ends.send(told)\n"
        "Service._step = dies\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    assert beside_a_poison(monkeypatch, script, "it died") == 0


def test_a_request_that_kills_the_child_is_told_from_those_beside_it(
    impatient: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A child that ends whenever it works on prompt [66]: the others are answered all the same."""
    script = tmp_path / "poisoned.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(worker_module.__file__).parents[1])!r})\n"
        "from inference.batch import Batch\n"
        "step = Batch.step\n"
        "def poisoned(self, now):\n"
        "    if any(job.ids[0] == 66 for job in self._running.values()):\n"
        "        os._exit(9)\n"
        "    return step(self, now)\n"
        "Batch.step = poisoned\n"
        "from inference.worker import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    assert beside_a_poison(monkeypatch, script, "") > 0


def test_what_is_cancelled_leaves_the_batch_and_what_is_late_says_so() -> None:
    async def scenario() -> None:
        async with running(config(shipped())) as worker:
            began = trio.Event()
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    await worker.ask(make("The sea", 400), on_token=lambda index, token: began.set())

                nursery.start_soon(ask)
                await began.wait()
                nursery.cancel_scope.cancel()
            await until(lambda: worker.load.running == 0)
            assert worker.in_flight == 0
            with pytest.raises(TooLate, match="deadline"):
                await worker.ask(make("The sea", 400), trio.current_time() + 0.05)
            with pytest.raises(WorkerFailed, match="0 prompt tokens"):
                await worker.ask({**make("x"), "prompt": []})
            assert worker.restarts == 0, "none of this is a crash"

    trio.run(scenario)


def test_a_child_that_hangs_is_killed_and_its_work_done_by_the_next(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "SILENT_SECONDS_MAX", 2.0)

    async def scenario() -> None:
        async with running(config(shipped())) as worker:
            first = await worker.ask(make("The sea"))
            os.kill(pid_of(worker), signal.SIGSTOP)
            assert (await worker.ask(make("The sea")))["root"] == first["root"]
            assert worker.restarts >= 1

    trio.run(scenario)


@pytest.mark.parametrize(
    "says",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        b"\0\0\0\2\x91\1",
        b"\0\0\0\1",
        # {"id": 1, "event": "done"} without its fields, a token index that is no number, an event nobody knows
        b"\0\0\0\x10\x82\xa2id\x01\xa5event\xa4done",
        b"\0\0\0\x23\x84\xa2id\x01\xa5event\xa5token\xa5index\xa1x\xa5token\x01",
        b"\0\0\0\x10\x82\xa2id\x01\xa5event\xa4what",
    ],
)
def test_a_child_that_talks_nonsense_is_replaced_and_the_task_goes_on(
    impatient: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: bytes
) -> None:
    """The first child is ready, reads one request and answers with these bytes; the second is honest."""
    script = tmp_path / "liar.py"
    script.write_text(
        "import msgpack, os, sys\n"
        "body = msgpack.packb({'ready': True, 'engine': 'numpy', 'load_ms': 1})\n"
        "os.write(1, len(body).to_bytes(4, 'big') + body)\n"
        "os.read(0, 4)\n"
        f"os.write(1, {says!r})\n"
        "os.close(1)\n"
    )
    honest = Worker._open
    opened: list[int] = []

    async def open_liar_first(self: Worker) -> trio.Process:
        opened.append(1)
        if len(opened) > 1:
            return await honest(self)
        return await trio.lowlevel.open_process([sys.executable, str(script)], stdin=-1, stdout=-1)

    monkeypatch.setattr(Worker, "_open", open_liar_first)

    async def scenario() -> None:
        async with running(config(shipped())) as worker:
            answer = await worker.ask(make("The sea"), on_token=lambda index, token: None)
            assert len(answer["root"]) == 32 and worker.restarts == 1

    trio.run(scenario)


def test_the_device_reaches_the_child_which_refuses_one_that_it_cannot_use() -> None:
    async def scenario() -> None:
        worker = Worker(WorkerConfig(shipped(), "numpy", 1, "cuda:3"))
        assert worker.label == "", "nothing is reported before the child has said what it runs"
        with trio.fail_after(PATIENCE_S):
            await worker.run()
        assert "'numpy' runs on the cpu only, not on 'cuda:3'" in worker.unfit

    trio.run(scenario)


def test_a_damaged_model_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    for path in shipped().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = bytearray((tmp_path / "model.safetensors").read_bytes())
    tensors[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(tensors)

    async def scenario() -> None:
        worker = Worker(config(tmp_path))
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run)
                for _ in range(2):
                    with pytest.raises(WorkerUnfit, match="hashes to"):
                        await worker.ask(make("The sea"))
        assert worker.restarts == 0

    trio.run(scenario)
