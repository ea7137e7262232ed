"""The child process of a node whose workers are Ray actors:

    python -m inference.ray_cluster --model-dir DIR --engine NAME ... [--address HOST:PORT] [--workers 2]

To the node it is a worker like any other: the frames of inference.worker over stdin and stdout. It hands each request
to the actor that has least to do, and passes on what they say. Ray decides where an actor runs and says when one is
dead; its requests then come back to the node as errors of the code `lost`, with `alone`: whether the actor had nothing
else, and another actor takes its place. The node asks them again. Not ready because the cluster is not there yet comes
with `again`: true: the node tries later. Ends, and Ray's actors with it, when stdin closes.
Owns the actors and who works on what; knows no chain.
"""

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inference.chunks import read_manifest
from inference.engine import EngineUnavailable
from inference.frames import FrameError
from inference.pipe import Pipe
from inference.program import ProgramError, decode_manifest
from inference.ray_actor import FILES, RayWorker
from inference.worker import EXIT_BAD_FRAME, EXIT_NOT_READY, EXIT_OK, Setup, add_options, setup_of

PIECE_BYTES = 8 << 20
OBJECT_STORE_BYTES = 128 << 20
"""Of a cluster that is started here: frames and pieces of a model go through it, never tensors."""
CONNECT_SECONDS = 10.0
PLACE_SECONDS = 60.0
"""How often it is said that an actor has no place yet."""
SILENT_SECONDS_MAX = 240.0
"""An actor that does not answer, or has work and says nothing of it, for so long (a driver that hangs) is killed:
sooner than the node would kill all of them."""
REASON_CHARACTERS = 400
BACKOFF_SECONDS = (0.5, 2.0, 5.0, 10.0, 30.0)
LOAD = ("running", "waiting", "pages", "pages_free", "prompt_tokens", "reused_tokens")
EXIT_BROKEN = 3
NOT_INSTALLED = "engine 'ray' is not installed: pip install 'labora[ray]'"


def main(arguments: list[str] | None = None) -> int:
    """Serve until stdin closes; the exit status."""
    parser = argparse.ArgumentParser(prog="inference.ray_cluster", description="Runs one model for a node, on Ray")
    add_options(parser)
    parser.add_argument("--address", default="", help="of a running cluster; without it one is started here")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the node ends us by closing stdin
    threading.excepthook = _end
    pipe = Pipe()
    setup, workers = setup_of(options), max(1, options.workers)
    if setup.device != "cpu":
        setup = replace(setup, device="cuda")  # an actor sees only the GPUs that Ray gave it
    try:
        manifest = read_manifest(setup.model_dir)
        model_id = decode_manifest(manifest).model_id().hex()
        start = join(options.address, setup, workers, model_id)
    except (ProgramError, OSError, EngineUnavailable) as error:
        again = isinstance(error, ConnectionError)  # the cluster may be started later
        pipe.send({"ready": False, "error": f"{type(error).__name__}: {error}", "again": again})
        return EXIT_NOT_READY
    cluster = Cluster(pipe, lambda: Actor(start(), manifest, setup.model_dir), workers)
    try:
        return cluster.run()
    except FrameError as error:
        print(f"inference.ray_cluster: {error}", file=sys.stderr)
        return EXIT_BAD_FRAME
    except BrokenPipeError:
        return EXIT_OK  # the node is gone


def join(address: str, setup: Setup, workers: int, model_id: str) -> Callable[[], Any]:
    """Connect to a cluster, or start one; what starts an actor in it. Raises EngineUnavailable, ConnectionError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        os.environ.setdefault("RAY_worker_niceness", "0")  # beside what the node chose
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # whoever reaches a cluster without one can run code on it
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise EngineUnavailable(f"{NOT_INSTALLED} ({error})") from error
    cpus = setup.threads * setup.split
    try:
        if address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()  # Ray itself tries for minutes
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local", num_cpus=cpus * workers, object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False, logging_level=logging.WARNING, _node_ip_address="127.0.0.1",
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        raise ConnectionError(f"{where} cannot be reached: {error}") from error
    actor_class = ray.remote(
        num_cpus=cpus, num_gpus=setup.split if setup.device.startswith("cuda") else 0, max_restarts=0,
        max_task_retries=0, scheduling_strategy="SPREAD", concurrency_groups={"hear": 1},
        runtime_env={"env_vars": setup.environment()},
    )(RayWorker)  # fmt: skip
    return lambda: actor_class.remote(setup, model_id)


def _end(told: threading.ExceptHookArgs) -> None:
    """A thread's end is the process's: without it nobody would look after an actor."""
    if not issubclass(told.exc_type, BrokenPipeError):  # which says that the node is gone
        sys.excepthook(told.exc_type, told.exc_value or told.exc_type(), told.exc_traceback)
    os._exit(EXIT_BROKEN)


class Lost(Exception):
    """An actor is dead or out of reach."""


class Actor:
    """One actor: its calls, made plain."""

    def __init__(self, handle: Any, manifest: bytes, model_dir: Path) -> None:
        self._handle, self._manifest, self._model_dir = handle, manifest, model_dir

    def begin(self) -> None:
        """Wait for its place, and see to it that it has the model. Raises Lost."""
        import ray

        answer = self._handle.holds.remote(self._manifest)
        while not ray.wait([answer], timeout=PLACE_SECONDS)[0]:
            print("inference.ray_cluster: a worker waits for room in the cluster", file=sys.stderr)
        if not self._get(answer):
            for name in FILES:
                with (self._model_dir / name).open("rb") as file:
                    for offset in range(0, os.fstat(file.fileno()).st_size, PIECE_BYTES):
                        self._get(self._handle.take.remote(name, offset, file.read(PIECE_BYTES)))
        self._get(self._handle.start.remote())

    def tell(self, frame: Any) -> None:
        """Hand over a frame; in order, and without waiting."""
        self._handle.tell.remote([frame])

    def hear(self) -> list[Any]:
        """Its events, after a while none. Raises Lost."""
        return self._get(self._handle.hear.options(concurrency_group="hear").remote(), SILENT_SECONDS_MAX)

    def kill(self) -> None:
        """Make sure that it is dead."""
        import ray

        ray.kill(self._handle)

    @staticmethod
    def _get(reference: Any, seconds: float | None = None) -> Any:
        import ray

        try:
            return ray.get(reference, timeout=seconds)
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise Lost(lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"[:REASON_CHARACTERS]) from error


@dataclass
class _Member:
    """A place in the cluster, and the actor that has it now."""

    actor: Actor | None = None
    ready: bool = False
    asked: set[int] = field(default_factory=set)
    load: dict[str, Any] = field(default_factory=dict)
    failures: int = 0
    heard_at: float = 0.0


class Cluster:
    """The actors behind one pipe; a thread for each, and one that reads."""

    def __init__(self, pipe: Pipe, start: Callable[[], Actor], workers: int) -> None:
        self._pipe, self._start = pipe, start
        self._members = [_Member() for _ in range(workers)]
        self._unfit: list[str] = []
        """Why members are given up."""
        self._greeted = False
        self._lock = threading.RLock()
        """Of everything above and of writing to the pipe."""

    def run(self) -> int:
        """Until stdin closes; the exit status. Raises FrameError, BrokenPipeError."""
        for member in self._members:
            threading.Thread(target=self._keep, args=(member,), daemon=True).start()
        while (frames := self._pipe.receive(wait=True)) is not None:
            for frame in frames:
                self._hand_over(frame)
        return EXIT_OK

    def _hand_over(self, frame: Any) -> None:
        """A request to the member with least to do; a withdrawal to who has it."""
        number = frame.get("id") if isinstance(frame, dict) else None
        known = type(number) is int
        with self._lock:
            owner = next((member for member in self._members if number in member.asked), None) if known else None
            if known and frame.get("op") == "cancel":
                if owner is None:
                    return
                owner.asked.discard(number)
            elif owner is None:
                able = [member for member in self._members if member.ready and member.actor is not None]
                if not able:
                    text = "no worker of the cluster is ready"
                    self._pipe.send({"id": number, "event": "error", "code": "full", "error": text})
                    return
                # Moves of one dispute go to one worker, which keeps what it has computed for them.
                key = frame.get("trace_key") if known and frame.get("op") == "argue" else None
                place = int.from_bytes(key[:4], "big") if type(key) is bytes else None
                owner = (min(able, key=lambda member: len(member.asked)) if place is None
                         else able[place % len(able)])  # fmt: skip
                if known:
                    if not owner.asked:
                        owner.heard_at = time.monotonic()
                    owner.asked.add(number)
            assert owner is not None and owner.actor is not None
            owner.actor.tell(frame)

    # ------------------------------------------------------------------ one member's thread

    def _keep(self, member: _Member) -> None:
        """Keep an actor in a member's place, waiting longer after each that dies without having done anything."""
        while (reason := self._live(member)) is not None:
            self._lose(member, reason)
            time.sleep(BACKOFF_SECONDS[min(member.failures, len(BACKOFF_SECONDS)) - 1])

    def _live(self, member: _Member) -> str | None:
        """One actor, from its start to its end: why it ended, None where it is unfit."""
        actor = self._start()
        member.actor = actor
        try:
            actor.begin()
            while True:
                events = actor.hear()
                with self._lock:
                    for event in events:
                        if not self._heard(member, event):
                            return None
                    if events:
                        member.heard_at = time.monotonic()
                    elif member.asked and time.monotonic() - member.heard_at > SILENT_SECONDS_MAX:
                        return f"it was silent for {SILENT_SECONDS_MAX:g} s while it had work"
        except Lost as error:
            return str(error)
        finally:
            actor.kill()

    def _heard(self, member: _Member, event: dict[str, Any]) -> bool:
        """Pass on what an actor says; False when it can do no exact work."""
        if "ready" in event:
            return self._greet(member, event)
        if event.get("event") == "load":
            member.load = event
            self._tell_load()
            return True
        number = event.get("id")
        if type(number) is int and number not in member.asked:
            return True  # withdrawn meanwhile
        if event.get("event") != "token":
            member.asked.discard(number)
            member.failures = 0
        self._pipe.send(event)
        return True

    def _tell_load(self) -> None:
        """What all members that are up say of themselves, added up."""
        ready = [member for member in self._members if member.ready]
        total = {name: sum(member.load.get(name, 0) for member in ready) for name in LOAD}
        self._pipe.send({"event": "load", "workers": len(ready), **total})

    def _greet(self, member: _Member, hello: dict[str, Any]) -> bool:
        member.ready = hello["ready"]
        if member.ready:
            if not self._greeted:
                self._pipe.send({**hello, "engine": f"ray:{hello['engine']}"})
            self._greeted = True
            self._tell_load()
            return True
        print(f"inference.ray_cluster: a worker is given up: {hello['error']}", file=sys.stderr)
        self._unfit.append(hello["error"])
        if len(self._unfit) == len(self._members):
            if not self._greeted:
                self._pipe.send(hello)
            os._exit(EXIT_NOT_READY)  # the thread that reads may wait for ever
        return False

    def _lose(self, member: _Member, reason: str) -> None:
        """Give back what a dead actor was asked."""
        with self._lock:
            print(f"inference.ray_cluster: a worker died: {reason}", file=sys.stderr)
            alone = len(member.asked) == 1
            for number in sorted(member.asked):
                self._pipe.send({"id": number, "event": "error", "code": "lost", "error": reason, "alone": alone})
            member.asked.clear()
            member.load.clear()
            member.ready, member.actor = False, None
            member.failures += 1
            if self._greeted:
                self._tell_load()


if __name__ == "__main__":
    sys.exit(main())
