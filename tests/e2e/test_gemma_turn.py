"""A real chat model on a devnet of real processes: minutes, eight GiB of memory and 235 MB to download: on demand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import gemma_turn

pytestmark = [pytest.mark.e2e, pytest.mark.demand]


def test_gemma_s_turn_is_dealt_checked_and_settled(tmp_path: Path) -> None:
    told = gemma_turn.turn(gemma_turn.program(tmp_path), gemma_turn.QUESTION, gemma_turn.TOKENS, gemma_turn.BLOCK_MS)
    assert told["status"] == "settled" and len(told["verifiers"]) == 2
    assert int(told["feeWei"]) > 0 and len(told["output"]) == gemma_turn.TOKENS
