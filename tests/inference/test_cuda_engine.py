"""The executor of CUDA devices where there is none: its kernels by Triton's interpreter. `make gpu` repeats the
comparisons on a real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[2]


def run(environment: dict[str, str], *command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=900, check=False)  # fmt: skip
    print(done.stdout[-4000:], done.stderr[-4000:])
    assert done.returncode == 0
    return done.stdout


@pytest.mark.slow
def test_the_interpreted_kernels_give_the_references_bits() -> None:
    """Every test of triton_interpreted.py, in a process that interprets."""
    said = run({"TRITON_INTERPRET": "1"}, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5",
               "tests/inference/triton_interpreted.py")  # fmt: skip
    assert not re.search(r"\d+ skipped", said)


@pytest.mark.slow
def test_every_kernel_compiles_for_devices_that_are_not_here(tmp_path: Path) -> None:
    run({"TRITON_CACHE_DIR": str(tmp_path)}, "-m", "tests.inference.triton_compiled")
