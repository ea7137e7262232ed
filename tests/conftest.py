"""What every test may use: the public vectors, seeds that are printed and counted, and the closing counts."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

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
