"""A worker as a Ray actor: the loop of inference.worker between two queues instead of the ends of a pipe, on whatever
host Ray has room. The model's files come from the host's own disk where they lie at the same path, else over Ray, once,
into the user's cache.

The class is plain Python; inference.ray_cluster makes an actor of it. Knows no task.
"""

import os
import queue
import shutil
import tempfile
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from inference.model import MANIFEST_NAME, TENSORS_NAME
from inference.worker import Setup, serve

FILES = (MANIFEST_NAME, TENSORS_NAME)
EVENTS_MAX = 4096
"""A worker that is so far ahead of who hears it waits."""
HEAR_SECONDS = 2.0
"""Who asks for events is answered after so long even when there are none."""


class Queues:
    """The ends of a worker within one process."""

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._events: queue.Queue[Any] = queue.Queue(EVENTS_MAX)

    def send(self, value: Any) -> None:
        """As Ends.send; waits while too much is unheard."""
        self._events.put(value)

    def receive(self, wait: bool) -> list[Any] | None:
        """As Ends.receive; the stream never ends, since the process does."""
        return _all_of(self._frames, None if wait else 0.0)

    def put(self, frames: list[Any]) -> None:
        """What the worker is to receive."""
        for frame in frames:
            self._frames.put(frame)

    def events(self) -> list[Any]:
        """What the worker has sent since, waiting a little for the first."""
        return _all_of(self._events, HEAR_SECONDS)


def _all_of(source: "queue.SimpleQueue[Any] | queue.Queue[Any]", seconds: float | None) -> list[Any]:
    """Everything there is, waiting so long (None: for ever) for the first."""
    found: list[Any] = []
    try:
        found.append(source.get(seconds != 0.0, seconds))
        while len(found) < EVENTS_MAX:
            found.append(source.get_nowait())
    except queue.Empty:
        pass
    return found


class RayWorker:
    """One worker. `holds`, then `take` for each piece if it does not, then `start`; from then on `tell` and `hear`."""

    def __init__(self, setup: Setup, model_id: str) -> None:
        self._setup, self._model_id = setup, model_id
        self._queues = Queues()
        self._part: Path | None = None

    def holds(self, manifest: bytes) -> bool:
        """Whether the model of this manifest lies on this host; its files are proved when they are loaded."""
        for folder in (self._setup.model_dir, self._cached):
            path = folder / MANIFEST_NAME
            if (folder / TENSORS_NAME).is_file() and path.is_file() and path.read_bytes() == manifest:
                self._setup = replace(self._setup, model_dir=folder)
                return True
        return False

    def take(self, name: str, offset: int, data: bytes) -> None:
        """A piece of one of the model's files, in order."""
        assert name in FILES, name
        if self._part is None:
            self._cached.parent.mkdir(parents=True, exist_ok=True)
            self._part = Path(tempfile.mkdtemp(".part", f"{self._model_id}-", self._cached.parent))
        with (self._part / name).open("ab") as file:
            assert file.tell() == offset, (name, file.tell(), offset)
            file.write(data)

    def start(self) -> None:
        """Begin to load and to work; what comes of it is heard."""
        if self._part is not None:
            try:
                self._part.rename(self._cached)
            except OSError:
                shutil.rmtree(self._part)  # another actor of this host was first
            self._setup = replace(self._setup, model_dir=self._cached)
        threading.Thread(target=self._run, daemon=True).start()

    def tell(self, frames: list[Any]) -> None:
        """Frames for the worker."""
        self._queues.put(frames)

    def hear(self) -> list[Any]:
        """Its events since the last call; after HEAR_SECONDS none."""
        return self._queues.events()

    @property
    def _cached(self) -> Path:
        from platformdirs import user_cache_path

        return user_cache_path("labora") / "models" / self._model_id

    def _run(self) -> None:
        ended = False
        try:
            serve(self._setup, self._queues)  # returns only when it has said that it is not ready
            ended = True
        finally:
            if not ended:
                traceback.print_exc()
                os._exit(1)  # as a process that runs a worker alone would end
