"""One model over two processes (gloo on the CPU): the bits of one, whatever the program, and an end together."""

import hashlib
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference import program as cip
from inference.build import random_model, request, with_known_answers
from inference.engine import Engine, EngineUnavailable, open_engine
from inference.kv import Segment
from inference.model import Model, save
from inference.reference import NumpyExecutor
from tests.inference.test_worker import PATIENCE_S, ROOT, Child

torch = pytest.importorskip("torch")
from inference.split import Others, Split, device_of, extremes  # noqa: E402 - imports torch
from inference.torch_engine import TorchExecutor  # noqa: E402

SEED, KEY = bytes(range(32)), bytes(range(100, 132))
DICE_SEED, PROGRAMS = 20_261_125, 18
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def programs() -> Iterator[Model]:
    """Random programs, the same in every process: each kind, grouped queries, odd heads and widths (also fewer outputs
    than processes), biases, K past one tile, two terms, saturation."""
    dice = random.Random(DICE_SEED)
    for number in range(PROGRAMS):
        kind = sorted(cip.KINDS)[number % len(cip.KINDS)]
        encoder, windows = cip.KINDS[kind].encoder, cip.KINDS[kind].windows
        kv_heads, head_width = dice.randint(1, 3), dice.choice([1, 2, 5, 6, 20, 33, 64])
        shape = cip.Shape(
            vocabulary=dice.randint(2, 70),
            context=20,
            width=dice.choice([1, 3, 24, 50, 64, 1100]),
            layers=dice.randint(1, 2),
            heads=kv_heads * dice.randint(1, 3),
            kv_heads=kv_heads,
            head_width=head_width,
            rotary=0 if encoder else 2 * dice.randint(0, head_width // 2),
            hidden=dice.choice([1, 7, 40, 1041]),
            norm_epsilon_q32=42950,
            layers_per_group=1 if encoder else dice.randint(1, 2),
            kind=kind,
            window=dice.randint(1, 9) if windows else 0,
            window_pattern=dice.randint(1, 4) if windows else 0,
            score_divisor=dice.randint(1, 300) if windows else 0,
        )
        bound, terms = dice.choice([(127, 1), (63, 1), (127, 2), (63, 2)])
        yield random_model(shape, number, bound=bound, terms=terms, spread=dice.choice([-6, 0, 0, 14, 30]))


def outcomes(executor: Any) -> list[tuple[bytes, ...]]:
    """Logits and payloads of a prompt whole, and in pieces beside another sequence with a page copied between."""
    model = executor.model
    tokens = [(7 * i * i + 3) % model.manifest.shape.vocabulary for i in range(9)]
    if not model.manifest.shape.causal:
        fed = executor.feed([Segment(executor.new_sequence(), tokens, 0)])
        return [tuple(part.tobytes() for part in fed[0].payloads)]
    one, other = executor.new_sequence(), executor.new_sequence()
    passes = [executor.feed([Segment(one, tokens[:5], 0), Segment(other, tokens[4:], 2)])]
    passes.append(executor.feed([Segment(one, tokens[5:6], 0), Segment(other, tokens[:1], 0)]))
    other.free()
    fork = one.fork(3)
    passes.append(executor.feed([Segment(fork, tokens[3:], 6)]))
    return [(fed.logits.tobytes(), *(part.tobytes() for part in fed.payloads)) for each in passes for fed in each]


def all_outcomes(rank: int, meeting: Path) -> tuple[list[list[tuple[bytes, ...]]], tuple[int, int]]:
    """Of all programs; and of a product at its bounds that is wrong in the second process alone."""
    split = Split(rank, 2, meeting, "cpu")
    try:
        found = [outcomes(TorchExecutor(model, split=split)) for model in programs()]
        return found, extremes(SimpleNamespace(product_extremes=lambda *_: (5 - rank, 5)), split, "head", 1, 1)
    finally:
        torch.distributed.destroy_process_group()


PEER = """
import sys
from pathlib import Path
from tests.inference import test_split
getattr(test_split, sys.argv[1])(int(sys.argv[2]), Path(sys.argv[3]))
"""


def start(what: str, rank: int, meeting: Path, **options: Any) -> subprocess.Popen[str]:
    """One of the functions above in a process of its own."""
    command = [sys.executable, "-c", PEER, what, str(rank), str(meeting)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **{"env": ENVIRONMENT, **options})


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    print(f"programs from seed {DICE_SEED}")
    meeting = tmp_path / "meeting"
    peer = start("all_outcomes", 1, meeting)
    try:
        found, wrong = all_outcomes(0, meeting)
        assert wrong == (4, 5), "a process that multiplies wrong is noticed by the one that decides"
        assert peer.wait(PATIENCE_S) == 0
    finally:
        peer.kill()
        peer.wait()
    for model, here in zip(programs(), found, strict=True):
        assert here == outcomes(NumpyExecutor(model)), model.manifest.shape


def interpreted(rank: int, meeting: Path) -> None:
    """A program by the kernels of CUDA devices; prints what it gives."""
    from inference import cuda_engine

    cuda_engine.PRODUCTS = (cuda_engine.PRODUCTS[-1],)  # one that needs no interpreting
    cuda_engine.RECORDED_ROWS_LEAST, cuda_engine.SPLITS = 1, ()
    split = Split(rank, 2, meeting, "cpu")
    print("outcome", digest(cuda_engine.CudaExecutor(tiny(), "cpu", split=split)), flush=True)
    torch.distributed.destroy_process_group()


def tiny() -> Model:
    """A token takes seconds where kernels are interpreted."""
    shape = cip.Shape(11, 20, 24, 1, 2, 1, 12, 12, 40, 42950, 1, "gemma3", 3, 2, 9)
    return random_model(shape, 6, terms=2, spread=8)


def digest(executor: Any) -> str:
    """Of all logits and payloads of a pass of several rows and one of a single row."""
    sequence, said = executor.new_sequence(), hashlib.sha256()
    for chunk in ([3, 1, 4], [1]):
        [(logits, payloads)] = executor.feed([Segment(sequence, chunk, 0)])
        for part in (logits, *payloads):
            said.update(part.tobytes())
    return said.hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_of_cuda_devices_over_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    """By Triton's interpreter, in two processes of their own."""
    environment = {**ENVIRONMENT, "TRITON_INTERPRET": "1"}
    both = [start("interpreted", rank, tmp_path / "meeting", env=environment, stdout=subprocess.PIPE)
            for rank in range(2)]  # fmt: skip
    try:
        said = [peer.communicate(timeout=4 * PATIENCE_S)[0] for peer in both]
    finally:
        for peer in both:
            peer.kill()
            peer.wait()
    assert said == [f"outcome {digest(NumpyExecutor(tiny()))}\n"] * 2


@pytest.fixture(scope="module")
def served(small: Model) -> Iterator[tuple[Model, Path]]:
    model = with_known_answers(small, [request([5, 6, 7], 5)])
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), model.manifest, model.tensors)
        yield model, Path(folder)


HOW = {"kind": "generate", "prompt": [1, 2, 3], "temperature_q16": 45875, "top_k": 7, "seed": SEED, "trace_key": KEY}


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_first_process_tells_the_other_all_it_needs(served: tuple[Model, Path], device: str) -> None:
    """Products at their bounds, passes in company, a page copied: over the pipe, not from a list that both know."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("this machine has no two CUDA devices")
    engine = open_engine("auto", served[1], device=device, split=2)
    try:
        assert outcomes(engine.executor) == outcomes(NumpyExecutor(served[0]))
    finally:
        engine.executor.close()


@pytest.mark.slow
def test_a_worker_over_two_processes_answers_alike_and_both_end_together(served: tuple[Model, Path]) -> None:
    model, folder = served
    expected = Engine(NumpyExecutor(model)).generate([1, 2, 3], 90, 45875, 7, SEED, KEY)
    worker = Child(folder, "torch", "--split", "2")
    try:
        assert worker.receive()["ready"]
        answer = worker.ask(id=1, op="make", max_tokens=90, **HOW)
        assert (answer["tokens"], answer["root"]) == (expected.tokens, expected.root)
        assert worker.ask(id=2, op="check", output=answer["tokens"], **HOW)["bad"] == cip.NO_BAD_POSITION
        [other] = children_of(worker.process.pid)
        worker.send({"id": 3, "op": "make", "max_tokens": 90, "stream": True, **HOW})
        assert worker.receive()["event"] in ("token", "load")
        os.kill(other, signal.SIGKILL)
        assert worker.process.wait(PATIENCE_S) != 0
    finally:
        worker.process.kill()
        worker.process.wait(PATIENCE_S)


@pytest.mark.slow
def test_the_others_end_with_the_first_even_by_kill_9(served: tuple[Model, Path]) -> None:
    worker = Child(served[1], "torch", "--split", "2")
    try:
        assert worker.receive()["ready"]
        [other] = children_of(worker.process.pid)
        handle = os.pidfd_open(other)
    finally:
        worker.process.kill()
        worker.process.wait(PATIENCE_S)
    assert select.select([handle], [], [], PATIENCE_S)[0], f"process {other} lives on"
    os.close(handle)


@pytest.mark.slow
def test_a_split_is_of_torch_alone_and_says_what_went_wrong_elsewhere(
    served: tuple[Model, Path], tmp_path: Path
) -> None:
    with pytest.raises(EngineUnavailable, match="torch splits it over 2"):
        open_engine("numpy", served[1], split=2)
    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(EngineUnavailable, match=r"up to device 'cuda:\d+' asked for, but torch .* sees \d+ CUDA"):
        open_engine("torch", served[1], device=beyond, split=2)
    others = Others(tmp_path, 2, 1, "cpu")  # no model there
    with pytest.raises(EngineUnavailable, match="process 1 of a split model: FileNotFoundError"):
        others.meet(1, "cpu")
    others.close()


@pytest.mark.parametrize(
    ("device", "devices"),
    [("cpu", ["cpu", "cpu"]), ("cuda", ["cuda:0", "cuda:1"]), ("cuda:6", ["cuda:6", "cuda:7"])],
)
def test_devices_count_up(device: str, devices: list[str]) -> None:
    assert [device_of(device, rank) for rank in range(2)] == devices


def test_shares_are_all_of_a_weight_and_some_may_be_empty() -> None:
    """Nineteen outputs over five processes: eights, the last two shares nothing but zeros."""
    weight = torch.arange(1, 39).view(19, 2)
    shares = []
    for rank in range(5):
        split = Split.__new__(Split)
        split.rank, split.count = rank, 5
        shares.append(split.share(weight))
    assert [len(share) for share in shares] == [8] * 5
    whole = torch.cat(shares)
    assert torch.equal(whole[:19], weight) and not whole[19:].any()


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]
