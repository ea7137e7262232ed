"""The child process that runs an engine, so that a crash of a model or a driver cannot take the node down:

    python -m inference.worker --model-dir DIR --engine NAME --threads 1 [--device cpu] [--kv-mib 512] [--split 1]

Speaks frames (inference.frames) over stdin and stdout. The first is {"ready": true, "model_id", "engine",
"known_answer": "ok", "load_ms", "positions_max"} or {"ready": false, "error"}. Then requests come at any time, and many
are worked on together (inference.batch):

    {"id", "op": "make" | "check", "kind": "generate" | "embed" | "score", "prompt", "max_tokens" | "output",
     "temperature_q16", "top_k", "seed", "trace_key", "within_ms", "stream"}
                          the last two may be missing: no deadline, no token events; max_tokens is 0 for a vector
    {"id", "op": "cancel"}                       nothing more is said about that id

and what becomes of each is told as it happens:

    {"id", "event": "token", "index", "token"}
    {"id", "event": "done", "queue_ms", "first_token_ms", "total_ms", "root", and "tokens", "vector" or "bad"}
    {"id", "event": "error", "code": "request" | "full" | "deadline", "error"}
    {"event": "load", "running", "waiting", "pages", "pages_free", "prompt_tokens", "reused_tokens"}
                                                 when the first two change, and every few seconds while there is work

Ends when stdin closes. Owns the pipe and the clock; knows no chain.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from inference.frames import FrameError
from inference.pipe import Pipe

EXIT_OK, EXIT_NOT_READY, EXIT_BAD_FRAME = 0, 1, 2
ID_MAX = (1 << 53) - 1
WITHIN_MS_MAX = 1 << 40
ALIVE_SECONDS = 5.0
"""A node that hears nothing for much longer, while it waits, takes the process for hung."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until stdin closes; the exit status."""
    parser = argparse.ArgumentParser(prog="inference.worker", description="Runs one model for a node")
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--engine", choices=("numpy", "torch", "auto"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kv-mib", type=int, default=512)
    parser.add_argument("--split", type=int, default=1, help="devices that hold the model together")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the node ends us by closing stdin
    pipe = Pipe()
    # BLAS reads these once, when numpy is first imported below.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(max(1, options.threads))
    began = time.monotonic()
    from inference.batch import Batch, Limits, RequestError
    from inference.engine import EngineUnavailable, ExactnessError, open_engine
    from inference.kv import PAGE
    from inference.program import ProgramError

    limits = Limits()
    try:
        engine = open_engine(
            options.engine, options.model_dir, max(1, options.threads), options.device,
            lambda shape: limits.pages(shape, options.kv_mib << 20), options.split,
        )  # fmt: skip
    except (ProgramError, OSError, EngineUnavailable, ExactnessError, RequestError, RuntimeError) as error:
        pipe.send({"ready": False, "error": f"{type(error).__name__}: {error}"})
        return EXIT_NOT_READY
    pipe.send({
        "ready": True, "model_id": engine.model_id, "engine": engine.name, "known_answer": "ok",
        "load_ms": int((time.monotonic() - began) * 1000),
        "positions_max": engine.executor.pool.pages * PAGE,
    })  # fmt: skip
    try:
        Service(Batch(engine.executor, limits), pipe).run()
    except FrameError as error:
        print(f"inference.worker: {error}", file=sys.stderr)
        return EXIT_BAD_FRAME
    except BrokenPipeError:
        return EXIT_OK  # the node is gone
    return EXIT_OK


class Service:
    """Requests in, one step of the batch, events out; again."""

    def __init__(self, batch: Any, pipe: Pipe) -> None:
        self._batch, self._pipe = batch, pipe
        self._tasks: dict[int, _Task] = {}
        self._load = (0, 0)
        self._load_at = 0.0

    def run(self) -> None:
        """Until stdin closes. Raises FrameError, BrokenPipeError."""
        while (frames := self._pipe.receive(wait=self._batch.idle)) is not None:
            for frame in frames:
                self._handle(frame)
            if not self._batch.idle:
                self._step()
            self._tell_load()

    def _handle(self, frame: Any) -> None:
        from inference.batch import NEVER, Full, RequestError

        number = frame.get("id") if isinstance(frame, dict) else None
        try:
            number = _identifier(frame)
            if frame.get("op") == "cancel":
                if self._tasks.pop(number, None) is not None:
                    self._batch.cancel(number)
                return
            if number in self._tasks:
                raise RequestError(f"request {number} is being worked on")
            request, within_ms, streams = _request(frame)
            now = time.monotonic()
            self._batch.add(number, request, NEVER if within_ms is None else now + within_ms / 1000)
            self._tasks[number] = _Task(now, streams)
        except RequestError as error:
            self._pipe.send({"id": _plain(number), "event": "error", "code": "request", "error": str(error)})
        except Full as error:
            self._pipe.send({"id": number, "event": "error", "code": "full", "error": str(error)})

    def _step(self) -> None:
        from inference.batch import Done, Dropped, Started, Token

        began = time.monotonic()
        for event in self._batch.step(began):
            assert isinstance(event.key, int)
            task = self._tasks[event.key]
            match event:
                case Started():
                    task.started = began
                case Token(number, index, token):
                    if index == 0:
                        task.first_token = time.monotonic()
                    if task.streams:
                        self._pipe.send({"id": number, "event": "token", "index": index, "token": token})
                case Done(number, result):
                    del self._tasks[event.key]
                    self._pipe.send({"id": number, "event": "done", **task.times(), **_result(result)})
                case Dropped(number, reason):
                    del self._tasks[event.key]
                    self._pipe.send({"id": number, "event": "error", "code": "deadline", "error": reason})

    def _tell_load(self) -> None:
        batch, now = self._batch, time.monotonic()
        load = (batch.running, batch.waiting)
        if load == self._load and (batch.idle or now - self._load_at < ALIVE_SECONDS):
            return
        self._load, self._load_at = load, now
        self._pipe.send({
            "event": "load", "running": load[0], "waiting": load[1], "pages": batch.pages,
            "pages_free": batch.pages_free, "prompt_tokens": batch.prompt_tokens, "reused_tokens": batch.reused_tokens,
        })  # fmt: skip


class _Task:
    """When what happened to a request, by this process's clock."""

    def __init__(self, received: float, streams: bool) -> None:
        self.received, self.streams = received, streams
        self.started = self.first_token = received

    def times(self) -> dict[str, int]:
        """Milliseconds: waiting for a place, then to the first token (0 without one), and to the end."""
        now = time.monotonic()
        spans = {
            "queue_ms": self.started - self.received,
            "first_token_ms": max(self.first_token - self.started, 0.0),
            "total_ms": now - self.started,
        }
        return {name: int(span * 1000) for name, span in spans.items()}


def _identifier(frame: Any) -> int:
    """The id of a frame. Raises RequestError."""
    from inference.batch import RequestError

    if not isinstance(frame, dict):
        raise RequestError(f"a request is a map, not {str(frame)[:80]}")
    number = frame.get("id")
    if type(number) is not int or not 0 <= number <= ID_MAX:
        raise RequestError(f"request.id must be an integer of at most 53 bits, is {str(number)[:80]}")
    return number


def _request(frame: dict[Any, Any]) -> tuple[Any, int | None, bool]:
    """(request, milliseconds until its deadline, whether tokens are told). Raises RequestError naming the field."""
    from inference.batch import Request, RequestError

    op = frame.get("op")
    if op not in ("make", "check"):
        raise RequestError(f"request.op must be make, check or cancel, is {str(op)[:80]}")
    types: dict[str, type] = {
        "temperature_q16": int, "top_k": int, "seed": bytes, "trace_key": bytes, "prompt": list, "kind": str,
    }  # fmt: skip
    types |= {"max_tokens": int} if op == "make" else {"output": list}
    for field, wanted in types.items():
        value: Any = frame.get(field)
        if type(value) is not wanted or (wanted is list and any(type(item) is not int for item in value)):
            raise RequestError(f"request.{field} must be {wanted.__name__}{' of int' * (wanted is list)}")
    within_ms, streams = frame.get("within_ms"), frame.get("stream", False)
    if within_ms is not None and (type(within_ms) is not int or not 0 <= within_ms <= WITHIN_MS_MAX):
        raise RequestError(f"request.within_ms must be an integer up to {WITHIN_MS_MAX}, is {str(within_ms)[:80]}")
    if type(streams) is not bool:
        raise RequestError(f"request.stream must be bool, is {str(streams)[:80]}")
    return Request(**{field: frame[field] for field in types}), within_ms, streams


def _result(result: Any) -> dict[str, Any]:
    from inference.batch import Generated, Vector

    match result:
        case Generated(tokens, root):
            return {"tokens": tokens, "root": root}
        case Vector(vector, root):
            return {"vector": vector, "root": root}
    return {"root": result.root, "bad": result.bad}


def _plain(number: Any) -> int | None:
    """An id as it is given back: what is none comes back as nil."""
    return number if type(number) is int and 0 <= number <= ID_MAX else None


if __name__ == "__main__":
    sys.exit(main())
