"""A validator that cheats, among four real processes: what it answers is challenged, judged, refuted and answered again
by its backup, and the story of it is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devnet_process import Devnet, start_devnet, wait_until

from genesis.keys import devnet_validator

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TASKS_MAX = 24


@pytest.fixture
def devnet(tmp_path: Path) -> Iterator[Devnet]:
    running = start_devnet(tmp_path, "--cheat", "wrong-layer", "--engine", "numpy")
    try:
        yield running
    finally:
        running.stop()
        print((tmp_path / "launcher.log").read_text()[-4_000:], running.logs()[-20_000:])


def test_a_skipped_layer_is_refuted_and_the_backup_settles(devnet: Devnet, tmp_path: Path) -> None:
    cheat = "0x" + devnet_validator(1).operator_address.hex()
    told = wait_for_a_refuted_answer(devnet, cheat)
    assert told["status"] == "settled" and told["executor"].lower() != cheat
    assert [slash["operator"].lower() for slash in told["slashed"]] == [cheat] and int(told["slashed"][0]["wei"]) > 0
    times = {event["event"]: event["timestamp"] for event in reversed(told["events"])}
    seconds = times["DisputeEnded"] - times["Challenged"]
    print(f"from the challenge to the conviction: {seconds} s")
    explained = devnet.labora("task", "explain", told["taskId"]).stdout
    for words in ("DISPUTED", "challenges the answer", "shows the leaf's list of operations", "does NOT follow",
                  "slashed", "is refuted", "takes over", "agreed, bit for bit", "settled"):  # fmt: skip
        assert words in explained, f"{words!r} is not in\n{explained}"
    wait_until("the launcher tells it", lambda: "does NOT follow" in (tmp_path / "launcher.log").read_text())
    assert "cheats: wrong-layer" in (tmp_path / "launcher.log").read_text()


def wait_for_a_refuted_answer(devnet: Devnet, cheat: str) -> dict[str, Any]:
    """Ask until the cheat answers; its story when it has settled all the same."""

    def story(task: str) -> dict[str, Any]:
        return dict(devnet.client(0).call("labora_task", task))

    for _ in range(TASKS_MAX):
        posted = devnet.labora("task", "post", "The sea", "--max-tokens", "12", "--wait", "answer", "--json")
        assert posted.returncode == 0, posted.stderr
        task = json.loads(posted.stdout)["taskId"]
        if (story(task)["executor"] or "").lower() == cheat:
            wait_until("it is settled", lambda task=task: story(task)["settledBlock"])
            return story(task)
    raise AssertionError(f"{TASKS_MAX} tasks and none was the cheat's")
