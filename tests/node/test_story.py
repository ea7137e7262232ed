"""A task's story from its logs: words for people, the issue's JSON for programs."""

from typing import Any

from node.story import Story, coins, cwu_text, tell
from primitives.merkle import pack_tokens
from primitives.task import NO_BAD_POSITION, Status
from vm.system import abi

TASK = b"\x01" * 32
MODEL = b"\x02" * 32
A, B, C = ("0x" + letter * 40 for letter in "abc")


def log(event: abi.Event, block: int, *values: Any) -> dict[str, Any]:
    topics, data = event.encode(*values)
    return {
        "topics": ["0x" + topic.to_bytes(32, "big").hex() for topic in topics],
        "data": "0x" + data.hex(),
        "blockNumber": hex(block),
    }


def told(*logs: dict[str, Any]) -> Story:
    story = Story(TASK)
    for entry in logs:
        tell(story, entry)
    return story


POSTED = log(
    abi.TASK_POSTED, 5, TASK, A, MODEL, False, 0, pack_tokens(list(b"Hi")), 8, 0, 0, 1, 30, 0, 10**15, 10**12
)
DEALT = log(abi.TASK_DEALT, 6, TASK, B, 0, [B, C], b"s" * 32, b"k" * 32, 10, 36)
ANSWERED = log(
    abi.TASK_ANSWERED, 7, TASK, B, 0, pack_tokens([*b" you", 256]), b"o" * 32, b"c" * 32, 1, 20, 90, b"torch/cpu"
)
REVEALED = log(abi.REVEALED, 10, TASK, B, b"r" * 32, NO_BAD_POSITION, [B, C])
AGREED = log(abi.TASK_AGREED, 10, TASK, B, b"r" * 32, [C], 14)
SETTLED = log(abi.TASK_SETTLED, 14, TASK, B, b"t" * 32, Status.AGREED, 67_560_960, 10**9, 7 * 10**8, 2 * 10**8, 5)


def test_the_whole_life_of_a_task() -> None:
    story = told(POSTED, DEALT, ANSWERED, REVEALED, AGREED, SETTLED)
    assert story.prompt + story.output == "Hi you", "a stop id has no text"
    text = "\n".join(story.lines)
    for words in ("asked by 0xaaaaaa", "dealt to 0xbbbbbb", "in 90 ms on torch/cpu", "agreed, bit for bit: 0xcccccc"):
        assert words in text
    assert story.as_json() == {
        "taskId": "0x" + TASK.hex(), "model": "0x" + MODEL.hex(), "output": " you", "status": "settled",
        "executor": story.as_json()["executor"], "verifiers": story.as_json()["verifiers"], "postedBlock": 5,
        "agreedBlock": 10, "settledBlock": 14, "feeWei": "1000000000", "cwu": "0.067560960",
        "receiptId": "0x" + (b"t" * 32).hex(),
    }  # fmt: skip
    assert story.as_json()["executor"].lower() == B and [v.lower() for v in story.as_json()["verifiers"]] == [C]


def test_disputes_and_refunds_are_told() -> None:
    disputed = log(abi.TASK_DISPUTED, 9, TASK, B, C, b"x" * 32, b"y" * 32, NO_BAD_POSITION, 3)
    assert told(POSTED, DEALT, ANSWERED, disputed).status is Status.DISPUTED
    refunded = log(abi.TASK_REFUNDED, 9, TASK, A, 10**18, 0, "nobody answered")
    story = told(POSTED, refunded)
    assert story.status is Status.REFUNDED and "refunded 1 to the asker: nobody answered" in story.lines[-1]


def test_amounts() -> None:
    assert coins(0) == "0" and coins(10**18) == "1" and coins(1_500_000 * 10**12) == "1.5"
    assert cwu_text(1) == "0.000000001" and cwu_text(12 * 10**9) == "12.000000000"


def test_an_unknown_event_says_nothing() -> None:
    assert told({"topics": ["0x" + "00" * 32], "data": "0x", "blockNumber": "0x1"}).lines == []
