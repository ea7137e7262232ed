"""Workers on Ray: two on one machine, two on two nodes; one killed in the middle of its tasks, and nothing lost."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import psutil
import pytest
import trio

from genesis.models import folder as shipped
from inference.engine import Engine
from inference.model import load
from inference.reference import NumpyExecutor
from node.worker import Worker, WorkerConfig
from tests.node.test_worker import make, until

PATIENCE_S = 240
TASKS, MANY_TOKENS = 8, 300

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (extra `ray`)")


def actors() -> list[int]:
    """Processes below this one that are workers of ours on Ray."""
    return [child.pid for child in psutil.Process().children(recursive=True) if child.name().startswith("ray::RayW")]


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
def test_kill_9_of_one_of_two_hosts_workers_loses_no_task(two_nodes: str) -> None:
    """Eight tasks, four on each node, when one worker is killed: its four are computed on the other, or on the one that
    took its place, with the bits of a lone run. The child that speaks for them lives on."""
    answers: dict[int, dict[str, Any]] = {}
    begun: set[int] = set()
    prompts = [f"The sea {number}" for number in range(TASKS)]

    async def ask(worker: Worker, number: int) -> None:
        request = make(prompts[number], MANY_TOKENS)
        answers[number] = await worker.ask(request, on_token=lambda *_: begun.add(number))

    async def scenario() -> None:
        async with running(WorkerConfig(shipped(), "ray", 1, ray_address=two_nodes, ray_workers=2)) as worker:
            assert (worker.unfit, worker.label) == ("", "ray:numpy/cpu")
            await until(lambda: worker.load.workers == 2)
            assert len(hosts()) == 2, "one on each node"
            first, second = actors()
            async with trio.open_nursery() as nursery:
                for number in range(TASKS):
                    nursery.start_soon(ask, worker, number)
                await until(lambda: len(begun) == TASKS)
                assert not answers and worker.load.running == TASKS
                os.kill(first, signal.SIGKILL)
            assert worker.restarts == 0 and worker.in_flight == 0
            await until(lambda: worker.load.workers == 2)
            assert first not in actors() and second in actors()
        await until(lambda: not actors())

    trio.run(scenario)
    for number in range(TASKS):
        assert (answers[number]["tokens"], answers[number]["root"]) == lone_answer(prompts[number], MANY_TOKENS)
