"""One model over several processes of a host, a GPU each, where it does not fit one (on a CPU: processes, for tests).

    python -m inference.split --model-dir DIR --rank 1 --count 2 --meeting FILE --threads 1 --device cuda:1

Each process holds a share of every product's outputs and of the embedding's rows; what it computes is gathered by
torch.distributed (nccl on CUDA, gloo on the CPU), everything else is done by all alike. Nothing but integers goes
over, so the bits are those of one process. The first process leads: it has the pool of pages and the tasks, and tells
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

import numpy as np
import torch
import torch.distributed as dist

from inference import model as model_files
from inference import program as cip
from inference.engine import EngineUnavailable
from inference.frames import FrameError, FrameReader, encode_frame
from inference.kv import Fed, Segment
from inference.model import Model
from inference.pipe import READ_BYTES, Pipe
from inference.torch_engine import FLOAT32, Backend, TorchExecutor

COLLECTIVE_SECONDS_MAX = 120
"""A process that waits so long for another takes it for dead."""
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
        self.rank, self.count = rank, count
        dist.init_process_group(
            "gloo" if device == "cpu" else "nccl", store=dist.FileStore(str(meeting), count), rank=rank,
            world_size=count, timeout=timedelta(seconds=COLLECTIVE_SECONDS_MAX),
        )  # fmt: skip

    def over(self, inner: Backend) -> Backend:
        """A backend whose weights are shared out: each process multiplies with its own by `inner`."""

        def pack(weight: torch.Tensor, bound: int) -> _Share:
            outputs, inputs = weight.shape
            share = -(-outputs // (self.count * OUTPUTS_MULTIPLE)) * OUTPUTS_MULTIPLE
            own = torch.zeros((share, inputs), dtype=weight.dtype, device=weight.device)
            part = weight[self.rank * share : (self.rank + 1) * share]
            own[: len(part)] = part
            backend = inner if inner.takes(own) else FLOAT32
            fits = inputs * cip.ACTIVATION_MAX * bound < 1 << 31
            return _Share(backend.pack(own, bound), share, outputs, torch.int32 if fits else torch.int64)

        def multiply(q: torch.Tensor, packed: _Share) -> torch.Tensor:
            own = packed.weights.multiply(q).t().to(packed.wire).contiguous()
            everyone = torch.empty((self.count * packed.share, len(q)), dtype=packed.wire, device=q.device)
            dist.all_gather_single(everyone, own)
            return everyone[: packed.outputs].t().contiguous()

        return Backend(f"{inner.name} over {self.count}", pack, multiply)

    def table(self, weight: np.ndarray, device: torch.device) -> "Table":
        """Rows to look up, shared out."""
        share = -(-len(weight) // self.count)
        own = np.zeros((share, weight.shape[1]), weight.dtype)
        part = weight[self.rank * share : (self.rank + 1) * share]
        own[: len(part)] = part
        return Table(torch.from_numpy(own).to(device), self.rank * share)


class _Share(NamedTuple):
    """A process's outputs of a product, `share` of them with fillers, and the integers that hold any result."""

    weights: Any
    share: int
    outputs: int
    wire: torch.dtype


class Table:
    """A process's rows of a table that all look up together."""

    def __init__(self, rows: torch.Tensor, first: int) -> None:
        self._rows, self._first = rows, first

    def __getitem__(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.own(ids)
        dist.all_reduce(rows)  # one process has the row, the others zeros
        return rows

    def own(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows that are here, zeros for the others."""
        at = ids - self._first
        here = (at >= 0) & (at < len(self._rows))
        return self._rows[at.clamp(0, len(self._rows) - 1)] * here.unsqueeze(1)


# ---------------------------------------------------------------------- the process that leads


class LeadingExecutor(TorchExecutor):
    """The executor of the first process. What touches weights or pages is told to the others before it is done."""

    def __init__(self, model: Model, others: "Others", threads: int, device: str, pages: int) -> None:
        """Raises EngineUnavailable."""
        self._others = others
        super().__init__(model, threads, device_of(device, 0), pages, others.meet(pages, device_of(device, 0)))
        others.hear("ready")

    def run_pass(self, segments: Sequence[Segment], starts: Sequence[int]) -> list[Fed]:
        """As TorchExecutor's, by all."""
        self._others.tell("pass", segments=[
            [segment.sequence.pages, segment.sequence.length, list(segment.tokens), segment.logits_from, start]
            for segment, start in zip(segments, starts, strict=True)
        ])  # fmt: skip
        return super().run_pass(segments, starts)

    def copy_page(self, source: int, target: int, positions: int) -> None:
        """As TorchExecutor's, by all."""
        self._others.tell("copy", source=source, target=target, positions=positions)
        super().copy_page(source, target, positions)

    def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
        """As TorchExecutor's, by all."""
        self._others.tell("extremes", name=name, weight_sign=weight_sign, input_sign=input_sign)
        return super().product_extremes(name, weight_sign, input_sign)

    def close(self) -> None:
        """End the others; the executor is of no use afterwards. Without it they end with this process."""
        self._others.close()


class Others:
    """The processes that follow, as the first one sees them: it starts them, tells them what it does, and ends when one
    of them does. They load the model at once, while it does the same."""

    def __init__(self, model_dir: Path, count: int, threads: int, device: str) -> None:
        """`count` processes, the first one included."""
        assert count >= 2, count
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
        """What is about to be done. Raises BrokenPipeError when one of them is gone."""
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
        """Raises BrokenPipeError when it is gone."""
        assert self.process.stdin is not None
        self.process.stdin.write(frame)
        self.process.stdin.flush()

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
        executor = TorchExecutor(model, options.threads, options.device, pages, split)
        pipe.send("ready")
    except (cip.ProgramError, OSError, EngineUnavailable, RuntimeError) as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return EXIT_NOT_READY
    while True:
        follow(executor, frames.get())


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


def follow(executor: TorchExecutor, frame: dict[str, Any]) -> None:
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
        executor.product_extremes(**frame)


if __name__ == "__main__":
    sys.exit(main())
