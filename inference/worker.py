"""The child process that runs an engine, so that a crash of a model or a driver cannot take the node down:

    python -m inference.worker --model-dir DIR --engine NAME --threads 1 [--device cpu] [--kv-mib 512] [--split 1]

Speaks frames (inference.frames) over stdin and stdout. The first is {"ready": true, "model_id", "engine",
"known_answer": "ok", "load_ms", "positions_max"} or {"ready": false, "error"}. Then requests come at any time, and many
are worked on together (inference.batch):

    {"id", "op": "make" | "check", "kind": "generate" | "embed" | "score", "prompt", "max_tokens" | "output",
     "temperature_q16", "top_k", "seed", "trace_key", "within_ms", "stream"}
                          the last two may be missing: no deadline, no token events; max_tokens is 0 for a vector
    {"id", "op": "argue", as of "check", "move", "bad" | "leaf", "list_op", "tree", "level", "index", "shown"}
                          a party's move in a dispute over that answer (inference.defence): "root"; "leaf", of the
                          position "bad"; "show", at the place tree, level, index; "choose" and "open", after what was
                          shown, [[tree, level, index, data] ...]. leaf and list_op are nil where not known yet,
                          a level that is nil means the tree's root
    {"id", "op": "cancel"}                       nothing more is said about that id

and what becomes of each is told as it happens:

    {"id", "event": "token", "index", "token"}
    {"id", "event": "done", "queue_ms", "first_token_ms", "total_ms", "root", and "tokens", "vector" or "bad"}
                          of a move: "root"; "leaf"; "operations", "data"; "index", "child", "path"; "element", "data"
    {"id", "event": "error", "code": "request" | "full" | "deadline" | "move", "error"}
    {"event": "load", "workers", "running", "waiting", "pages", "pages_free", "prompt_tokens", "reused_tokens"}
                                                 when the first two change, and every few seconds while there is work

Ends when stdin closes. Owns the pipe and the clock; knows no chain.
"""

import argparse
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inference.frames import FrameError
from inference.pipe import Pipe
from primitives.hashing import sha256
from primitives.task import words_of

EXIT_OK, EXIT_NOT_READY, EXIT_BAD_FRAME = 0, 1, 2
ID_MAX = (1 << 53) - 1
WITHIN_MS_MAX = 1 << 40
PARTIES_BYTES_MAX = 256 << 20
"""Of executions kept for disputes, beside the latest one; an older one is computed again when it is asked for."""
ALIVE_SECONDS = 5.0
"""A node that hears nothing for much longer, while it waits, takes the process for hung."""


@dataclass(frozen=True)
class Setup:
    """What a worker runs. split: devices that hold the model together (inference.split)."""

    model_dir: Path
    engine: str = "auto"
    threads: int = 1
    device: str = "cpu"
    kv_mib: int = 512
    split: int = 1

    def environment(self) -> dict[str, str]:
        """Variables that BLAS reads once, when numpy is first imported."""
        return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))


class Ends(Protocol):
    """Where a worker hears and answers; pipe.Pipe of a process of its own, ray_actor.Queues of a Ray actor."""

    def send(self, value: Any) -> None:
        """Raises BrokenPipeError."""
        ...

    def receive(self, wait: bool) -> list[Any] | None:
        """Frames, at least one or some if told to wait; None at the end. Raises FrameError."""
        ...


def main(arguments: list[str] | None = None, make_service: "MakeService | None" = None) -> int:
    """Serve until stdin closes; the exit status."""
    parser = argparse.ArgumentParser(prog="inference.worker", description="Runs one model for a node")
    add_options(parser)
    setup = setup_of(parser.parse_args(arguments))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the node ends us by closing stdin
    pipe = Pipe()
    os.environ.update(setup.environment())
    return serve(setup, pipe, make_service)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that a Setup has."""
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--engine", choices=("numpy", "torch", "auto"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kv-mib", type=int, default=512)
    parser.add_argument("--split", type=int, default=1, help="devices that hold the model together")


def setup_of(options: argparse.Namespace) -> Setup:
    """What the options say."""
    return Setup(options.model_dir, options.engine, max(1, options.threads), options.device, options.kv_mib,
                 max(1, options.split))  # fmt: skip


def serve(setup: Setup, ends: Ends, make_service: "MakeService | None" = None) -> int:
    """Load the model, prove it, work until the stream ends; the exit status. make_service(engine, limits, ends): what
    serves the engine."""
    began = time.monotonic()
    from inference.batch import DEVICE, Batch, Limits, RequestError
    from inference.engine import EngineUnavailable, ExactnessError, open_engine
    from inference.kv import PAGE
    from inference.program import ProgramError

    limits = Limits() if setup.device == "cpu" else DEVICE
    try:
        engine = open_engine(
            setup.engine, setup.model_dir, setup.threads, setup.device,
            lambda shape: limits.pages(shape, setup.kv_mib << 20), setup.split,
        )  # fmt: skip
    except (ProgramError, OSError, EngineUnavailable, ExactnessError, RequestError, RuntimeError) as error:
        ends.send({"ready": False, "error": f"{type(error).__name__}: {error}"})
        return EXIT_NOT_READY
    ends.send({
        "ready": True, "model_id": engine.model_id, "engine": engine.name, "known_answer": "ok",
        "load_ms": int((time.monotonic() - began) * 1000),
        "positions_max": engine.executor.pool.pages * PAGE,
    })  # fmt: skip
    try:
        service = make_service(engine, limits, ends) if make_service else Service(Batch(engine.executor, limits), ends)
        service.run()
    except FrameError as error:
        print(f"inference.worker: {error}", file=sys.stderr)
        return EXIT_BAD_FRAME
    except BrokenPipeError:
        return EXIT_OK  # the node is gone
    return EXIT_OK


MakeService = Callable[[Any, Any, Ends], "Service"]


class Service:
    """Requests in, one step of the batch, events out; again."""

    def __init__(self, batch: Any, ends: Ends) -> None:
        self._batch, self._ends = batch, ends
        self._tasks: dict[int, _Task] = {}
        self._parties: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        """Executions kept for disputes with their bytes, the one used least recently first."""
        self._load = (0, 0)
        self._load_at = 0.0

    def run(self) -> None:
        """Until stdin closes. Raises FrameError, BrokenPipeError."""
        while (frames := self._ends.receive(wait=self._batch.idle)) is not None:
            for frame in frames:
                self._handle(frame)
            if not self._batch.idle:
                self._step()
            self._tell_load()

    def _handle(self, frame: Any) -> None:
        from inference.batch import NEVER, Full, RequestError
        from inference.defence import NoMove

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
            argument = Argument.of(frame, request) if frame["op"] == "argue" else None
            if argument is not None and argument.key in self._parties:
                self._argue(number, argument)
                return
            self._batch.add(number, request, NEVER if within_ms is None else now + within_ms / 1000)
            self._tasks[number] = _Task(now, streams, argument)
        except NoMove as error:
            self._ends.send({"id": number, "event": "error", "code": "move", "error": str(error)})
        except RequestError as error:
            self._ends.send({"id": _plain(number), "event": "error", "code": "request", "error": str(error)})
        except Full as error:
            self._ends.send({"id": number, "event": "error", "code": "full", "error": str(error)})

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
                        self._ends.send({"id": number, "event": "token", "index": index, "token": token})
                case Done(number, result):
                    del self._tasks[event.key]
                    if task.argument is not None:
                        self._recorded(number, task.argument, result)
                        continue
                    self._ends.send({"id": number, "event": "done", **task.times(), **_result(result)})
                case Dropped(number, reason):
                    del self._tasks[event.key]
                    self._ends.send({"id": number, "event": "error", "code": "deadline", "error": reason})

    def _recorded(self, number: int, argument: "Argument", result: Any) -> None:
        """An execution that was asked for is there: keep it, and make the move."""
        from inference.defence import NoMove

        self._parties[argument.key] = self.party(argument, result.record), result.record.size_bytes
        while len(self._parties) > 1 and sum(size for _, size in self._parties.values()) > PARTIES_BYTES_MAX:
            self._parties.popitem(last=False)
        try:
            self._argue(number, argument)
        except NoMove as error:
            self._ends.send({"id": number, "event": "error", "code": "move", "error": str(error)})

    def party(self, argument: "Argument", record: Any) -> Any:
        """The side that a recorded execution takes."""
        from inference.defence import Party
        from inference.witness import execution_of

        model, request = self._batch.model, argument.request
        words = tuple(request.output) if argument.task.kind == "generate" else words_of(request.output)
        execution = execution_of(model, argument.task, request.trace_key, request.prompt, words, record)
        return Party(execution, model)

    def _argue(self, number: int, argument: "Argument") -> None:
        """Make a move from an execution that is kept. Raises NoMove."""
        self._parties.move_to_end(argument.key)
        party, _ = self._parties[argument.key]
        self._ends.send({"id": number, "event": "done", "root": party.root, **argument.move(party)})

    def _tell_load(self) -> None:
        batch, now = self._batch, time.monotonic()
        load = (batch.running, batch.waiting)
        if load == self._load and (batch.idle or now - self._load_at < ALIVE_SECONDS):
            return
        self._load, self._load_at = load, now
        self._ends.send({
            "event": "load", "workers": 1, "running": load[0], "waiting": load[1], "pages": batch.pages,
            "pages_free": batch.pages_free, "prompt_tokens": batch.prompt_tokens, "reused_tokens": batch.reused_tokens,
        })  # fmt: skip


class _Task:
    """When what happened to a request, by this process's clock."""

    def __init__(self, received: float, streams: bool, argument: "Argument | None") -> None:
        self.received, self.streams, self.argument = received, streams, argument
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


class Argument:
    """A move that is asked for, and the execution that it is made from."""

    def __init__(self, request: Any, frame: dict[Any, Any]) -> None:
        from inference.defence import Game, Place, Shown
        from inference.ops import Task

        self.request, self._move, self._bad = request, frame["move"], frame.get("bad")
        text = request.kind == "generate"
        how = request.temperature_q16, request.top_k
        self.task = Task(request.kind, len(request.prompt), len(request.output) if text else 0, request.seed, *how)
        self.key = sha256(repr((request.kind, list(request.prompt), list(request.output), request.seed,
                                request.trace_key, *how)).encode())  # fmt: skip
        shown = tuple(Shown(Place(*place), data) for *place, data in frame.get("shown", ()))
        self._game = Game(frame.get("leaf"), frame.get("list_op"), shown)
        self._tree, self._level, self._index = (frame.get(name) for name in ("tree", "level", "index"))

    @classmethod
    def of(cls, frame: dict[Any, Any], request: Any) -> "Argument":
        """Raises RequestError naming the field."""
        from inference.batch import RequestError
        from inference.defence import TREES

        def is_place(*place: Any) -> bool:
            return len(place) == 3 and place[0] in TREES and all(_is_count(number) for number in place[1:])

        move, shown = frame.get("move"), frame.get("shown", [])
        needed = {"root": (), "leaf": ("bad",), "show": ("index",), "choose": (), "open": ("leaf", "list_op")}
        if move not in needed:
            raise RequestError(f"request.move must be one of {', '.join(needed)}, is {str(move)[:80]}")
        maybe = (name for name in ("leaf", "list_op", "level") if frame.get(name) is not None)
        for name in (*needed[move], *maybe):
            if not _is_count(frame.get(name)):
                raise RequestError(f"request.{name} must be an integer of at most 53 bits")
        if type(shown) is not list or not all(
            type(each) is list and len(each) == 4 and is_place(*each[:3]) and type(each[3]) is bytes for each in shown
        ):
            raise RequestError("request.shown must be a list of [tree, level, index, data]")
        if move == "show" and frame.get("tree") not in TREES:
            raise RequestError(f"request.tree must be one of {', '.join(TREES)}, is {str(frame.get('tree'))[:80]}")
        if move in ("choose", "open") and not shown:
            raise RequestError("request.shown is empty: nothing was shown to choose from")
        if any(not -(1 << 31) <= word < 1 << 32 for word in request.output):
            raise RequestError("request.output holds what is no word of 32 bits")
        return cls(request, frame)

    def move(self, party: Any) -> dict[str, Any]:
        """What an answer says of it. Raises NoMove."""
        from inference.defence import Place

        game = self._game
        match self._move:
            case "leaf":
                return {"leaf": party.bad_leaf(self._bad)}
            case "show":
                operations = b"" if game.leaf is None else party.list_root(game.leaf)
                level = party.height(game, self._tree) if self._level is None else self._level
                return {"operations": operations, "data": party.show(game, Place(self._tree, level, self._index))}
            case "choose":
                choice = party.choose(game)
                return {"index": choice.index, "child": choice.child, "path": list(choice.path)}
            case "open":
                opening = party.open(game)
                return {"element": opening.element, "data": opening.data}
        return {}


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number <= ID_MAX


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
    if op not in ("make", "check", "argue"):
        raise RequestError(f"request.op must be make, check, argue or cancel, is {str(op)[:80]}")
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
    return Request(**{field: frame[field] for field in types}, keeps=op == "argue"), within_ms, streams


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
