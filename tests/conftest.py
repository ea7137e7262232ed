"""What every test may use: the public vectors, seeds that are printed and counted, and the closing counts."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from inference.model import Model

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

_SEEDS = pytest.StashKey[list[int]]()


def vectors_dir() -> Path | None:
    """Where the public Ethereum test vectors lie, if they are here."""
    path = Path(os.environ.get("LABORA_VECTORS", ROOT.parent / "shared" / "vectors"))
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The public test vectors; tests that need them say that they skip without."""
    path = vectors_dir()
    if path is None:
        pytest.skip("public test vectors are not here (set LABORA_VECTORS to their folder)")
    return path


@pytest.fixture(scope="session")
def wide() -> "Model":
    """A program of 2.9 MB: some tensors have several chunks, the last of each not full."""
    from inference import program as cip
    from inference.build import random_model

    shape = cip.Shape(
        vocabulary=2100, context=16, width=320, layers=1, heads=2, kv_heads=1, head_width=8, rotary=8, hidden=1500,
        norm_epsilon_q32=42950, layers_per_group=1,
    )  # fmt: skip
    return random_model(shape, 3)


@pytest.fixture
def source(wide: "Model", tmp_path: Path) -> Path:
    """Its folder."""
    from inference.model import save

    save(tmp_path / "source", wide.manifest, wide.tensors)
    return tmp_path / "source"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed a run, printed on failure; LABORA_SEED fixes it."""
    value = int(os.environ.get("LABORA_SEED", random.SystemRandom().randrange(2**32)))
    count_seeds(request.config, 1)
    print(f"seed {value} (repeat with LABORA_SEED={value})")
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    """A generator of the printed seed."""
    return random.Random(seed)


def count_seeds(config: pytest.Config, count: int) -> None:
    """Add to the number of seeds that the closing line shows."""
    config.stash.setdefault(_SEEDS, [0])[0] += count


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Append every seed that a test tries; they are counted in the closing line."""
    tried: list[int] = []
    yield tried
    count_seeds(request.config, len(tried))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    stats = terminalreporter.stats
    passed, skipped = len(stats.get("passed", [])), len(stats.get("skipped", []))
    tried = config.stash.get(_SEEDS, [0])[0]
    terminalreporter.write_line(f"tests run: {passed}, random seeds tried: {tried}, skipped: {skipped}")
