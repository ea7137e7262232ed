"""The child process that runs an engine, so that a crash of a model or a driver cannot take the node down:

    python -m inference.worker --model-dir DIR --engine NAME --threads 1 [--device cpu]

Speaks length-prefixed msgpack over stdin and stdout (u32 big-endian length, at most 8 MiB a frame). The first frame
is {"ready": true, "model_id", "engine", "known_answer": "ok", "load_ms"} or {"ready": false, "error"}. Then one
request at a time: {"id", "op": "generate" | "verify", "prompt", "max_tokens", "output", "temperature_q16", "top_k",
"seed", "trace_key"} is answered by {"id", "ok": true, ...} or {"id", "ok": false, "error"}. Ends when stdin closes.
Owns the pipe; knows no chain.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgpack

FRAME_BYTES_MAX = 8 << 20  # a prompt and an output of 2^17 ids each need 1.3 MB
EXIT_OK, EXIT_NOT_READY, EXIT_BAD_FRAME = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Serve until stdin closes; the exit status."""
    parser = argparse.ArgumentParser(prog="inference.worker", description="Runs one model for a node")
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--engine", choices=("numpy", "torch", "auto"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the node ends us by closing stdin
    requests, replies = _claim_stdio()
    # BLAS reads these once, when numpy is first imported below.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(max(1, options.threads))
    began = time.monotonic()
    from inference.engine import EngineUnavailable, ExactnessError, open_engine
    from inference.program import ProgramError

    try:
        engine = open_engine(options.engine, options.model_dir, max(1, options.threads), options.device)
    except (ProgramError, OSError, EngineUnavailable, ExactnessError, RuntimeError) as error:
        write_frame(replies, {"ready": False, "error": f"{type(error).__name__}: {error}"})
        return EXIT_NOT_READY
    write_frame(replies, {
        "ready": True, "model_id": engine.model_id, "engine": engine.name, "known_answer": "ok",
        "load_ms": int((time.monotonic() - began) * 1000),
    })  # fmt: skip
    try:
        while (request := read_frame(requests)) is not None:
            write_frame(replies, answer(engine, request))
    except FrameError as error:
        print(f"inference.worker: {error}", file=sys.stderr)
        return EXIT_BAD_FRAME
    except BrokenPipeError:
        return EXIT_OK  # the node is gone
    return EXIT_OK


def answer(engine: Any, request: Any) -> dict[str, Any]:
    """The reply to one request. A request that cannot be served gets ok = false and why."""
    from inference.batch import RequestError

    number = request.get("id") if isinstance(request, dict) else None
    try:
        fields = _fields(request)
        how = (fields["temperature_q16"], fields["top_k"], fields["seed"], fields["trace_key"])
        if request["op"] == "generate":
            result = engine.generate(fields["prompt"], fields["max_tokens"], *how)
            return {
                "id": number, "ok": True, "tokens": result.tokens, "root": result.root,
                "first_token_ms": result.first_token_ms, "total_ms": result.total_ms,
            }  # fmt: skip
        verdict = engine.verify(fields["prompt"], fields["output"], *how)
        return {"id": number, "ok": True, "root": verdict.root, "bad": verdict.bad}
    except RequestError as error:
        return {"id": number, "ok": False, "error": str(error)}


class FrameError(ValueError):
    """The pipe carries something that is no frame; nothing after it can be trusted."""


def read_frame(stream: BinaryIO) -> Any:
    """The next frame's value, or None at the end of the stream. Raises FrameError."""
    head = stream.read(4)
    if not head:
        return None
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > FRAME_BYTES_MAX:
        raise FrameError(f"frame header {head.hex()} (allowed {FRAME_BYTES_MAX} bytes)")
    body = stream.read(size)
    if len(body) < size:
        raise FrameError(f"frame of {size} bytes ends after {len(body)}")
    try:
        return msgpack.unpackb(body)
    except ValueError as error:
        raise FrameError(f"frame of {size} bytes is no msgpack: {error}") from error


def write_frame(stream: BinaryIO, value: Any) -> None:
    """Send one value."""
    body = msgpack.packb(value)
    assert len(body) <= FRAME_BYTES_MAX
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def _fields(request: Any) -> dict[str, Any]:
    """Typed fields of a request. Raises RequestError naming the field."""
    from inference.batch import RequestError

    kinds: dict[str, type] = {"temperature_q16": int, "top_k": int, "seed": bytes, "trace_key": bytes, "prompt": list}
    if not isinstance(request, dict) or request.get("op") not in ("generate", "verify"):
        raise RequestError(f"request must be a map with op 'generate' or 'verify', is {str(request)[:80]}")
    kinds |= {"max_tokens": int} if request["op"] == "generate" else {"output": list}
    for field, kind in kinds.items():
        value: Any = request.get(field)
        if type(value) is not kind or (kind is list and any(type(item) is not int for item in value)):
            raise RequestError(f"request.{field} must be {kind.__name__}{' of int' * (kind is list)}")
    return request


def _claim_stdio() -> tuple[BinaryIO, BinaryIO]:
    """The pipe's two ends for frames alone: whatever any library prints goes to stderr, at descriptor level."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return sys.stdin.buffer, replies


if __name__ == "__main__":
    sys.exit(main())
