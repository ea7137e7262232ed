"""A devnet for the tests of this folder, and their helpers by name (there are no packages under tests)."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from devnet_process import Devnet, start_devnet


@pytest.fixture
def devnet(tmp_path: Path) -> Iterator[Devnet]:
    """Four validators, as a user starts them."""
    running = start_devnet(tmp_path)
    try:
        yield running
    finally:
        running.stop()
        print(running.logs()[-20_000:])
