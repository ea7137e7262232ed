"""One model over several processes of a host, a GPU each, where it does not fit one (on a CPU: processes, for tests).

    python -m inference.split --model-dir DIR --rank 1 --count 2 --meeting FILE --threads 1 --device cuda:1

Each process holds a share of every product's outputs; what it computes is gathered by torch.distributed (nccl on CUDA,
gloo on the CPU), everything else is done by all alike. Nothing but integers goes over, and nobody adds up what others
have, so the bits are those of one process. The first process leads: it has the pool of pages and the tasks, and tells
the others over their pipes what each pass feeds. They end with it, and it ends with them, so that whoever started it
sees one process that lives or dies. Knows no task and no chain.
"""

import argparse
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from inference import kv
from inference import model as model_files
from inference import program as cip
from inference.engine import EngineUnavailable, make_executor
from inference.frames import FrameError, FrameReader, encode_frame
from inference.kv import Fed, Pool, Segment, extend_all
from inference.model import Model
from inference.pipe import READ_BYTES, Pipe
from inference.torch_engine import FLOAT32, Backend

COLLECTIVE_SECONDS_MAX = 240
"""A process that waits so long for another, which lives, takes it for hung. A first pass may compile for a minute."""
EXIT_OK, EXIT_LOST, EXIT_NOT_READY = 0, 3, 1
OUTPUTS_MULTIPLE = 8  # of a share: what int8 products take on CUDA


class Split:
    """One process's place among those that hold a model together."""

    def __init__(self, rank: int, count: int, meeting: Path, device: str) -> None:
        """Meets the others, who are told the same file. Only one at a time in a process."""
        if device != "cpu":
            torch.cuda.set_device(device)
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, "lo0" if sys.platform == "darwin" else "lo")
        self.rank, self.count, self.device = rank, count, device
        dist.init_process_group(
            "gloo" if device == "cpu" else "nccl", store=dist.FileStore(str(meeting), count), rank=rank,
            world_size=count, timeout=timedelta(seconds=COLLECTIVE_SECONDS_MAX),
        )  # fmt: skip

    def share(self, weight: torch.Tensor) -> torch.Tensor:
        """This process's rows of a weight [outputs, inputs], zeros where there are too few for all."""
        extent = -(-len(weight) // (self.count * OUTPUTS_MULTIPLE)) * OUTPUTS_MULTIPLE
        own = torch.zeros((extent, weight.shape[1]), dtype=weight.dtype, device=weight.device)
        part = weight[self.rank * extent : (self.rank + 1) * extent]
        own[: len(part)] = part
        return own

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """All outputs [rows, outputs of all shares] of a product of which each process has those of its share."""
        rows, outputs = own.shape
        everyone = torch.empty((self.count * rows, outputs), dtype=own.dtype, device=own.device)
        dist.all_gather_single(everyone, own.contiguous())
        return everyone.view(self.count, rows, outputs).transpose(0, 1).reshape(rows, -1)

    def over(self, inner: Backend) -> Backend:
        """A backend of TorchExecutor whose weights are shared out: each process multiplies with its own by `inner`."""

        def pack(weight: torch.Tensor, bound: int) -> _Share:
            own = self.share(weight)
            backend = inner if inner.takes(own) else FLOAT32
            fits = weight.shape[1] * cip.ACTIVATION_MAX * bound < 1 << 31
            return _Share(backend.pack(own, bound), len(weight), torch.int32 if fits else torch.int64)

        def multiply(q: torch.Tensor, packed: _Share) -> torch.Tensor:
            own = packed.weights.multiply(q).to(packed.wire)
            return self.gather(own)[:, : packed.outputs].contiguous()

        return Backend(f"{inner.name} over {self.count}", pack, multiply)


class _Share(NamedTuple):
    """A process's share of a product, how many outputs there are in all, and the integers that hold any result."""

    weights: Any
    outputs: int
    wire: torch.dtype


# ---------------------------------------------------------------------- the process that leads


class LeadingExecutor:
    """The executor of the first process: its pool of pages, and one executor of each process, which do the same. What
    touches weights or pages is told to the others before it is done."""

    def __init__(self, model: Model, others: "Others", threads: int, device: str, pages: int) -> None:
        """Raises EngineUnavailable."""
        self._others = others
        self._split = others.meet(pages, device_of(device, 0))
        self.inner = _executor(model, threads, device_of(device, 0), pages, self._split)
        others.hear("ready")
        self.name, self.model = self.inner.name, model
        self.pool = Pool(pages, self._copy_page)

    def new_sequence(self, capacity: int = 0) -> kv.Sequence:
        """An empty sequence with pages for `capacity` positions. Raises PoolExhausted."""
        return kv.Sequence(self.pool, capacity)

    def feed(self, segments: Sequence[Segment]) -> list[Fed]:
        """Append tokens to sequences, all in one pass. Raises PoolExhausted before anything is changed."""
        starts = extend_all(self.pool, segments)
        self._others.tell("pass", segments=[
            [segment.sequence.pages, segment.sequence.length, list(segment.tokens), segment.logits_from, start]
            for segment, start in zip(segments, starts, strict=True)
        ])  # fmt: skip
        return self.inner.run_pass(segments, starts)

    def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
        """(computed, expected) of one product with every operand at its bound, of all processes the first that is
        wrong."""
        self._others.tell("extremes", name=name, weight_sign=weight_sign, input_sign=input_sign)
        return extremes(self.inner, self._split, name, weight_sign, input_sign)

    def close(self) -> None:
        """End the others; the executor is of no use afterwards. Without it they end with this process."""
        self._others.close()

    def _copy_page(self, source: int, target: int, positions: int) -> None:
        self._others.tell("copy", source=source, target=target, positions=positions)
        self.inner.copy_page(source, target, positions)


def _executor(model: Model, threads: int, device: str, pages: int, split: Split) -> Any:
    """One process's executor. Raises EngineUnavailable."""
    return make_executor("torch", model, threads, device, pages, split)


def extremes(executor: Any, split: Split, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
    """product_extremes of all processes at once: of them the first that is wrong."""
    found, expected = executor.product_extremes(name, weight_sign, input_sign)
    everyone = split.gather(torch.tensor([[found]], device=split.device))[0].tolist()
    return next((each for each in everyone if each != expected), expected), expected


class Others:
    """The processes that follow, as the first one sees them: it starts them, tells them what it does, and ends when one
    of them does. They load the model at once, while it does the same."""

    def __init__(self, model_dir: Path, count: int, threads: int, device: str) -> None:
        """`count` processes, the first one included. Raises EngineUnavailable."""
        assert count >= 2, count
        seen, last = torch.cuda.device_count(), device_of(device, count - 1)
        if device != "cpu" and int(last.removeprefix("cuda:")) >= seen:
            raise EngineUnavailable(f"a model split up to device {last!r} asked for, but torch {torch.__version__} "
                                    f"sees {seen} CUDA devices")  # fmt: skip
        self._count, self._closing = count, False
        self._folder = tempfile.TemporaryDirectory(prefix="labora-split-")
        self._meeting = Path(self._folder.name, "meeting")
        self._others = [_Other(rank, [
            sys.executable, "-m", "inference.split", "--model-dir", str(model_dir), "--rank", str(rank), "--count",
            str(count), "--meeting", str(self._meeting), "--threads", str(threads), "--device", device_of(device, rank),
        ]) for rank in range(1, count)]  # fmt: skip

    def meet(self, pages: int, device: str) -> Split:
        """Wait until the others have the model, and join them. Raises EngineUnavailable."""
        self.hear("loaded")
        self.tell("begin", pages=pages)
        return Split(0, self._count, self._meeting, device)

    def hear(self, word: str) -> None:
        """The next word of each, which must be this one. Raises EngineUnavailable."""
        for other in self._others:
            other.hear(word)
            if word == "ready":
                threading.Thread(target=self._end_with, args=(other,), daemon=True).start()

    def tell(self, op: str, **fields: Any) -> None:
        """What is about to be done. Raises RuntimeError when one of them is gone."""
        frame = encode_frame({"op": op, **fields})
        for other in self._others:
            other.send(frame)

    def close(self) -> None:
        """End them."""
        self._closing = True
        for other in self._others:
            other.end()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._folder.cleanup()

    def _end_with(self, other: "_Other") -> None:
        """A collective whose partner is gone may never return: this process ends at once."""
        status = other.process.wait()
        if not self._closing:
            print(f"inference.split: process {other.rank} of {self._count} ended with {status}", file=sys.stderr)
            self._folder.cleanup()
            os._exit(EXIT_LOST)


class _Other:
    """One of them."""

    def __init__(self, rank: int, command: list[str]) -> None:
        self.rank = rank
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._reader = FrameReader()

    def send(self, frame: bytes) -> None:
        """Raises RuntimeError when it is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(frame)
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise RuntimeError(f"process {self.rank} of a split model is gone") from error

    def hear(self, word: str) -> None:
        """Its next word, which must be this one. Raises EngineUnavailable."""
        assert self.process.stdout is not None
        heard: list[Any] = []
        while not heard:
            data = os.read(self.process.stdout.fileno(), READ_BYTES)
            if not data:
                raise EngineUnavailable(f"process {self.rank} of a split model ended before it was {word}")
            heard = list(self._reader.feed(data))
        if heard != [word]:
            raise EngineUnavailable(f"process {self.rank} of a split model: {str(heard[0])[:300]}")

    def end(self) -> None:
        """Closing its pipe ends it."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait()


def device_of(device: str, rank: int) -> str:
    """The device of one process: cuda and cuda:N count up from the first one's."""
    if device == "cpu":
        return device
    _, _, first = device.partition(":")
    return f"cuda:{int(first or 0) + rank}"


# ---------------------------------------------------------------------- a process that follows


class _Placed(NamedTuple):
    """A sequence as the pool of the process that leads has placed it."""

    pages: list[int]
    length: int


def main(arguments: list[str] | None = None) -> int:
    """Follow until stdin closes; the exit status."""
    parser = argparse.ArgumentParser(prog="inference.split", description="Holds a share of a model for a worker")
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--meeting", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; closing stdin ends us
    pipe = Pipe()
    frames: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, frames), daemon=True).start()
    try:
        model = model_files.load(options.model_dir)
        pipe.send("loaded")
        pages = frames.get()["pages"]
        split = Split(options.rank, options.count, options.meeting, options.device)
        executor = _executor(model, options.threads, options.device, pages, split)
        pipe.send("ready")
    except (cip.ProgramError, OSError, EngineUnavailable, RuntimeError) as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return EXIT_NOT_READY
    while True:
        follow(executor, split, frames.get())


def _listen(pipe: Pipe, frames: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """The first process is gone when the pipe closes, and then no collective ends: not even one that runs."""
    try:
        while (heard := pipe.receive(wait=True)) is not None:
            for frame in heard:
                frames.put(frame)
    except FrameError as error:
        print(f"inference.split: {error}", file=sys.stderr)
        os._exit(EXIT_LOST)
    os._exit(EXIT_OK)


def follow(executor: Any, split: Split, frame: dict[str, Any]) -> None:
    """Do what the first process does."""
    op = frame.pop("op")
    if op == "pass":
        segments = [Segment(_Placed(pages, length), tokens, logits_from)  # type: ignore[arg-type]
                    for pages, length, tokens, logits_from, _ in frame["segments"]]  # fmt: skip
        executor.run_pass(segments, [start for *_, start in frame["segments"]])
    elif op == "copy":
        executor.copy_page(**frame)
    else:
        assert op == "extremes", op
        extremes(executor, split, **frame)


if __name__ == "__main__":
    sys.exit(main())
