"""The executor of CUDA devices where there is none: its kernels by Triton's interpreter. `make gpu` repeats the
comparisons on a real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[2]


def run(environment: dict[str, str], *command: str, code: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=900, check=False)  # fmt: skip
    print(done.stdout[-4000:], done.stderr[-4000:])
    assert done.returncode == code
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_interpreted_kernels_give_the_references_bits() -> None:
    """Every test of triton_interpreted.py, in a process that interprets."""
    said = run({"TRITON_INTERPRET": "1"}, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5",
               "tests/inference/triton_interpreted.py")  # fmt: skip
    assert not re.search(r"\d+ skipped", said)


@pytest.mark.slow
def test_every_kernel_compiles_for_devices_that_are_not_here(tmp_path: Path) -> None:
    run({"TRITON_CACHE_DIR": str(tmp_path)}, "-m", "tests.inference.triton_compiled")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: make gpu")
def test_make_gpu_says_what_is_missing() -> None:
    said = run({}, "bench/gpu.py", code=69)
    assert re.search("cannot measure a GPU here: torch .* (without CUDA|no CUDA device)", said)


@pytest.mark.demand
def test_a_rehearsal_of_make_gpu_goes_all_the_way() -> None:
    said = run({"TRITON_INTERPRET": "1"}, "bench/gpu.py", "--rehearsal", "--runs", "1")
    assert "bit for bit" in said and "bf16 compiled" in said
