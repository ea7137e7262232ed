"""The model's child process: real answers, a crash that is survived, and an honest refusal to start."""

import os
import signal
from pathlib import Path

import pytest
import trio

from genesis.models import folder as shipped
from inference import tokenizer
from node.worker import Worker, WorkerConfig, WorkerFailed, WorkerUnfit

REQUEST = {
    "op": "generate", "prompt": tokenizer.encode("The sea"), "max_tokens": 3, "temperature_q16": 0, "top_k": 0,
    "seed": bytes(32), "trace_key": bytes(32),
}  # fmt: skip


def config(model_dir: Path) -> WorkerConfig:
    return WorkerConfig(model_dir, "numpy", 1)


def test_a_killed_child_is_started_again_and_gives_the_same_bits() -> None:
    async def scenario() -> None:
        worker = Worker(config(shipped()))
        with trio.fail_after(60):
            first = await worker.ask(REQUEST)
            assert worker.engine == "numpy" and worker.label == "numpy/cpu" and len(first["tokens"]) <= 3
            assert worker._process is not None
            os.kill(worker._process.pid, signal.SIGKILL)
            with pytest.raises(WorkerFailed) as caught:
                await worker.ask(REQUEST)
            assert not caught.value.permanent
            again = await worker.ask(REQUEST)
            assert (again["tokens"], again["root"]) == (first["tokens"], first["root"])
            assert worker.restarts == 1
            with pytest.raises(WorkerFailed, match="prompt") as caught:
                await worker.ask({**REQUEST, "prompt": []})
            assert caught.value.permanent
            await worker.stop()

    trio.run(scenario)


def test_a_child_that_hangs_is_killed_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        worker = Worker(config(shipped()))
        with trio.fail_after(60):
            await worker.start()
            assert worker._process is not None
            os.kill(worker._process.pid, signal.SIGSTOP)
            with monkeypatch.context() as patient:
                patient.setattr("node.worker.ANSWER_SECONDS_MAX", 0.5)
                with pytest.raises(WorkerFailed, match=r"said nothing for 0\.5 s"):
                    await worker.ask(REQUEST)
            assert (await worker.ask(REQUEST))["ok"]
            await worker.stop()

    trio.run(scenario)


def test_the_device_reaches_the_child_which_refuses_one_that_it_cannot_use() -> None:
    async def scenario() -> None:
        worker = Worker(WorkerConfig(shipped(), "numpy", 1, "cuda:3"))
        assert worker.label == "", "nothing is reported before the child has said what it runs"
        with trio.fail_after(60), pytest.raises(WorkerUnfit, match="'numpy' runs on the cpu only, not on 'cuda:3'"):
            await worker.start()

    trio.run(scenario)


def test_a_damaged_model_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    for path in shipped().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = bytearray((tmp_path / "model.safetensors").read_bytes())
    tensors[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(tensors)

    async def scenario() -> None:
        worker = Worker(config(tmp_path))
        with trio.fail_after(60):
            for _ in range(2):
                with pytest.raises(WorkerUnfit, match="hashes to"):
                    await worker.ask(REQUEST)

    trio.run(scenario)
