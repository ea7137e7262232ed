"""Workers on Ray, in real clusters on this machine: a worker, or its host, is killed in the middle of its tasks, and
nothing is lost; split workers; hosts without the model; no cluster, no Ray."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from genesis.models import folder as shipped
from inference.engine import Engine
from inference.model import MANIFEST_NAME, load
from inference.ray_actor import FILES, RayWorker
from inference.reference import NumpyExecutor
from inference.worker import Setup
from node import worker as worker_module
from node.worker import Worker, WorkerConfig, WorkerFailed
from tests.node.test_worker import make, until

PATIENCE_S = 240
TASKS, MANY_TOKENS = 8, 300
SILENT_SECONDS = 10.0
PROMPTS = [f"The sea {number}" for number in range(TASKS)]

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (extra `ray`)")
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def named(*beginnings: str) -> list[int]:
    """Processes below this one by the beginning of their name, the oldest first."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.name().startswith(beginnings):
                found.append((child.create_time(), child.pid))
        except psutil.NoSuchProcess:
            pass  # ended meanwhile
    return [pid for _, pid in sorted(found)]


def actors() -> list[int]:
    """Workers of ours on Ray."""
    return named("ray::RayW")


def hosts() -> set[int]:
    """The raylets, one a node of a cluster, that they belong to."""
    return {psutil.Process(pid).ppid() for pid in actors()}


@asynccontextmanager
async def running(settings: WorkerConfig) -> AsyncIterator[Worker]:
    """A child that is ready, as a node keeps it."""
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            worker = Worker(settings)
            nursery.start_soon(worker.run)
            await until(lambda: worker.engine or worker.unfit)
            yield worker
            nursery.cancel_scope.cancel()


def lone_answer(prompt: str, max_tokens: int) -> tuple[list[int], bytes]:
    """What the reference gives."""
    asked = make(prompt, max_tokens)
    how = (asked["temperature_q16"], asked["top_k"], asked["seed"], asked["trace_key"])
    answer = Engine(NumpyExecutor(load(shipped()))).generate(asked["prompt"], max_tokens, *how)
    return answer.tokens, answer.root


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster of two nodes on this machine, room for one worker on each; its address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "5e" * 32)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


@needs_ray
@pytest.mark.slow
def test_kill_9_of_a_worker_and_then_of_its_host_loses_no_task(two_nodes: str) -> None:
    """Eight tasks, four on each of two nodes, when one worker is killed: its four are computed by the other, or by the
    one that takes its place, with the bits of a lone run. Then the same with a whole node. The child that speaks for
    them lives on."""

    async def ask_all(worker: Worker, victim: int) -> list[dict[str, Any]]:
        """The answers to TASKS requests; the victim is killed when all are in work and none is done."""
        answers: dict[int, dict[str, Any]] = {}
        begun: set[int] = set()

        async def ask(number: int) -> None:
            request = make(PROMPTS[number], MANY_TOKENS)
            answers[number] = await worker.ask(request, on_token=lambda *_: begun.add(number))

        async with trio.open_nursery() as nursery:
            for number in range(TASKS):
                nursery.start_soon(ask, number)
            await until(lambda: len(begun) == TASKS)
            assert not answers and worker.load.running == TASKS
            os.kill(victim, signal.SIGKILL)
        assert worker.restarts == 0 and worker.in_flight == 0
        return [answers[number] for number in range(TASKS)]

    async def scenario() -> list[list[dict[str, Any]]]:
        async with running(WorkerConfig(shipped(), "ray", 1, ray_address=two_nodes, ray_workers=2)) as worker:
            assert (worker.unfit, worker.label) == ("", "ray:numpy/cpu")
            await until(lambda: worker.load.workers == 2)
            assert len(hosts()) == 2, "one on each node"
            first, second = actors()
            rounds = [await ask_all(worker, first)]
            await until(lambda: worker.load.workers == 2)
            assert first not in actors() and second in actors()
            rounds.append(await ask_all(worker, named("raylet")[-1]))
            await until(lambda: worker.load.workers == 1 and len(actors()) == 1)
        await until(lambda: not actors())
        return rounds

    alone = [lone_answer(prompt, MANY_TOKENS) for prompt in PROMPTS]
    for answers in trio.run(scenario):
        assert [(answer["tokens"], answer["root"]) for answer in answers] == alone


@needs_ray
@needs_torch
@pytest.mark.slow
def test_a_worker_on_ray_may_be_split_and_neither_its_parts_nor_its_silence_lose_a_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A cluster of this machine's own, started with the model and ended with it; in it a worker of two processes. First
    the second process is killed, then the worker hangs (it is stopped): both times another one answers."""
    script = tmp_path / "impatient.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(worker_module.__file__).parents[1])!r})\n"
        "from inference import ray_cluster\n"
        f"ray_cluster.SILENT_SECONDS_MAX = {SILENT_SECONDS}\n"
        "sys.exit(ray_cluster.main(sys.argv[1:]))\n"
    )

    async def opened(self: Worker) -> trio.Process:
        command = [sys.executable, str(script), "--model-dir", str(self.config.model_dir), "--split", "2"]
        return await trio.lowlevel.open_process(command, stdin=-1, stdout=-1)

    monkeypatch.setattr(Worker, "_open", opened)

    async def ask_and_signal(worker: Worker, victim: int, what: signal.Signals) -> tuple[list[int], bytes]:
        """An answer to a request; the victim is told something when work on it has begun."""
        told = False

        def tell(*_: int) -> None:
            nonlocal told
            if not told:
                os.kill(victim, what)
            told = True

        answer = await worker.ask(make(PROMPTS[0], MANY_TOKENS), on_token=tell)
        assert told and worker.restarts == 0
        return answer["tokens"], answer["root"]

    async def scenario() -> list[tuple[list[int], bytes]]:
        async with running(WorkerConfig(shipped(), "ray", 1, split=2)) as worker:
            assert (worker.unfit, worker.label) == ("", "ray:torch/cpu")
            [first] = actors()
            [part] = psutil.Process(first).children()
            assert "inference.split" in part.cmdline()
            answers = [await ask_and_signal(worker, part.pid, signal.SIGKILL)]
            [second] = actors()
            assert second != first
            answers.append(await ask_and_signal(worker, second, signal.SIGSTOP))
            assert second not in actors()
        await until(lambda: not actors() and not named("raylet", "gcs_server"))
        return answers

    assert trio.run(scenario) == [lone_answer(PROMPTS[0], MANY_TOKENS)] * 2


@needs_ray
def test_a_cluster_that_is_not_there_yet_is_looked_for_again() -> None:
    """It may be started after the node, so this is no reason to give a model up."""
    worker = Worker(WorkerConfig(shipped(), "ray", 1, ray_address="127.0.0.1:9"))

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run, 2)
            with pytest.raises(WorkerFailed, match=r"the Ray cluster at 127.0.0.1:9 cannot be reached"):
                await worker.ask(make("The sea"))

    trio.run(scenario)
    assert worker.restarts == 1 and not worker.unfit


def test_without_the_extra_the_reason_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder before all others in which ray is something else."""
    (tmp_path / "ray.py").write_text("raise ImportError('No module named ray')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def scenario() -> str:
        async with running(WorkerConfig(shipped(), "ray", 1)) as worker:
            return worker.unfit

    assert "engine 'ray' is not installed: pip install 'labora[ray]'" in trio.run(scenario)


def test_a_host_without_the_model_is_given_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, into the cache of the host, where the next worker finds it; what comes is proved as any model is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    manifest = (shipped() / MANIFEST_NAME).read_bytes()
    model = load(shipped())
    setup = Setup(tmp_path / "not here", "numpy")
    workers = [RayWorker(setup, model.model_id.hex()) for _ in range(2)]
    for worker in workers:  # both at once: the second comes too late and uses what the first has brought
        assert not worker.holds(manifest)
        for name in FILES:
            data = (shipped() / name).read_bytes()
            for offset in range(0, len(data), 1 << 18):
                worker.take(name, offset, data[offset : offset + (1 << 18)])
    for worker in workers:
        worker.start()
        assert next(said(worker))["model_id"] == model.model_id
    assert RayWorker(setup, model.model_id.hex()).holds(manifest)
    assert not RayWorker(setup, model.model_id.hex()).holds(manifest + b" "), "another model"
    assert [path.name for path in (tmp_path / "labora" / "models").iterdir()] == [model.model_id.hex()]
    workers[0].tell([{**make(PROMPTS[0], 5), "id": 3}])
    event = next(event for event in said(workers[0]) if event["event"] == "done")
    assert (event["tokens"], event["root"]) == lone_answer(PROMPTS[0], 5)


def said(worker: RayWorker) -> Iterator[dict[str, Any]]:
    """What a worker says."""
    for _ in range(PATIENCE_S):
        yield from worker.hear()
    raise AssertionError("the worker is silent")
