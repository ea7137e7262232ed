"""A task's story in words: what each event of labora_task becomes."""

from typing import Any

from node.client import Client
from node.story import Story, coins, story_of
from primitives.merkle import pack_tokens
from primitives.receipt import Log
from primitives.task import NO_BAD_POSITION, Kind, Status, encode_texts, words_of
from rpc import tolerant_story
from rpc.task_story import PlacedLog, cwu_text, tell
from vm.system import abi

TASK = b"\x01" * 32
MODEL = b"\x02" * 32
A, B, C = ("0x" + letter * 40 for letter in "abc")


def log(event: abi.Event, block: int, *values: Any) -> PlacedLog:
    topics, data = event.encode(*values)
    entry = Log(event.account, tuple(topic.to_bytes(32, "big") for topic in topics), data)
    return PlacedLog(block, 1_700_000_000 + block, b"\x09" * 32, entry)


def told(*logs: PlacedLog) -> Story:
    return story_of(tell(TASK, logs), Client("http://127.0.0.1:9"))


POSTED = log(
    abi.TASK_POSTED, 5, TASK, A, MODEL, False, 0, pack_tokens(list(b"Hi")), 8, 0, 0, 1, 30, 0, 10**15, 10**12, 0, 0, 2
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
    assert (story.prompt, story.output) == (" 72 105", " 32 121 111 117 256"), "its tokenizer is not here: numbers"
    text = "\n".join(story.lines)
    for words in ("asked by 0xaaaaaa", "dealt to 0xbbbbbb", "in 90 ms on torch/cpu", "agreed, bit for bit: 0xcccccc"):
        assert words in text
    shown = story.as_json()
    assert shown.pop("executor").lower() == B and [v.lower() for v in shown.pop("verifiers")] == [C]
    assert shown == {
        "taskId": "0x" + TASK.hex(), "lane": "exact", "kind": "generate", "model": "0x" + MODEL.hex(),
        "output": story.output, "status": "settled",
        "postedBlock": 5, "agreedBlock": 10, "settledBlock": 14, "feeWei": "1000000000", "cwu": "0.067560960",
        "receiptId": "0x" + (b"t" * 32).hex(),
    }  # fmt: skip


def test_a_trap_is_told_with_whom_it_caught() -> None:
    def sprung(*caught: str) -> PlacedLog:
        return log(abi.TRAP_SPRUNG, 10, TASK, B, b"s" * 32, b"*" * 32, list(caught))

    paid = log(abi.TRAP_PAID, 10, TASK, B, B, abi.ROLE_EXECUTE, 10**15)
    lines = told(POSTED, DEALT, ANSWERED, sprung(C), paid, REVEALED).lines[3:]
    assert "had committed was a trap: 0xcccccc… sent what was let out" in lines[0]
    assert "paid 0.001 to 0xbbbbbb" in lines[1]
    assert "was a trap: nobody had copied it" in told(POSTED, DEALT, ANSWERED, sprung()).lines[3]


def test_a_vector_is_told_with_its_sign() -> None:
    tokens = pack_tokens(list(b"Hi!"))
    posted = log(abi.TASK_POSTED, 5, TASK, A, MODEL, False, 2, tokens, 0, 0, 0, 1, 30, 0, 10**15, 1, 0, 0, 2)
    words = pack_tokens(words_of((-65_536, 0)))
    answered = log(abi.TASK_ANSWERED, 7, TASK, B, 0, words, b"o" * 32, b"c" * 32, 1, 0, 9, b"numpy/cpu")
    differs = log(abi.REVEALED, 10, TASK, C, b"r" * 32, 1, [C])
    story = told(posted, DEALT, answered, differs)
    assert (story.kind, story.vector, story.output) == (Kind.SCORE, [-65_536, 0], "")
    assert story.told["output"] == story.told["events"][2]["tokens"] == [-65_536, 0]
    assert story.as_json()["vector"] == [-65_536, 0] and "output" not in story.as_json()
    text = "\n".join(story.lines)
    for words in ("3 tokens in, to score", "2 elements in 9 ms on numpy/cpu (queued 1 ms", "first bad element 1"):
        assert words in text


def test_disputes_and_refunds_are_told() -> None:
    disputed = told(POSTED, DEALT, ANSWERED, log(abi.TASK_DISPUTED, 9, TASK, B, C, b"x" * 32, b"y" * 32, 2**32 - 1, 3))
    assert disputed.status is Status.DISPUTED and "may cancel" in disputed.told["note"]
    story = told(POSTED, log(abi.TASK_REFUNDED, 9, TASK, A, 10**18, 0, "nobody answered"))
    assert story.status is Status.REFUNDED and "refunded 1 to the asker: nobody answered" in story.lines[-1]


def test_an_unverified_settlement_says_so() -> None:
    settled = log(abi.TASK_SETTLED, 14, TASK, B, b"t" * 32, Status.UNVERIFIED, 10**9, 10**9, 7 * 10**8, 0, 5)
    assert told(POSTED, settled).status is Status.UNVERIFIED
    story = told(POSTED, log(abi.TASK_UNVERIFIED, 10, TASK, "nobody else serves the model", 14), settled)
    assert (story.told["agreedBlock"], story.told["unverifiedBlock"], story.settled_block) == (None, 10, 14)
    assert story.as_json()["agreedBlock"] is None


def test_amounts() -> None:
    assert coins(0) == "0" and coins(10**18) == "1" and coins("1500000000000000000") == "1.5"
    assert cwu_text(1) == "0.000000001" and cwu_text(12 * 10**9) == "12.000000000"


def test_logs_of_other_accounts_and_unknown_events_say_nothing() -> None:
    strange = PlacedLog(1, 1, b"", Log(b"\x77" * 20, POSTED.log.topics, POSTED.log.data))
    unknown = PlacedLog(1, 1, b"", Log(POSTED.log.address, (b"\x00" * 32,), b""))
    assert told(POSTED, strange, unknown).lines == told(POSTED).lines


def test_callbacks_and_commissions_are_told() -> None:
    nobody = "0x" + "00" * 20
    posted = log(abi.TASK_POSTED, 5, TASK, nobody, MODEL, False, 2, bytes(8), 0, 0, 0, 1, 30, 0, 10**15, 1, 0, 0, 2)
    commissioned = log(abi.TASK_COMMISSIONED, 5, TASK, 0, 3, "evaluation")
    called = log(abi.CALLED_BACK, 15, TASK, A, 7, True, 50_000, 5 * 10**13, 10**14)
    text = "\n".join(told(posted, commissioned, called).lines)
    for words in (
        "asked by the commissioned fund", "number 3 of 'evaluation', paid by the fund",
        "called 0xaaaaaa… back, which took it: 50000 gas, burned 0.00005, back 0.0001",
    ):  # fmt: skip
        assert words in text


ASKED = log(abi.TOLERANT_ASKED, 5, TASK, A, B, "a/model", "0x" + "z" * 40, 8, 65_536, 20, b"s" * 32, 1, 10, 94, 25)
SAID = log(abi.TOLERANT_ANSWERED, 7, TASK, B, encode_texts((" no", "t", "</s>")), 72, 1, 90, 67)


def test_a_task_of_the_tolerant_lane_is_told_as_such_to_every_end() -> None:
    accepted = log(abi.TOLERANT_ACCEPTED, 9, TASK, A)
    paid = log(abi.TOLERANT_PAID, 10, TASK, B, b"t" * 32, True, C, 72, 58, 14, 22)
    story = told_tolerant(ASKED, SAID, accepted, paid)
    assert (story.prompt, story.output, story.status) == ("0x" + "z" * 40, " not", Status.SETTLED)
    shown = story.as_json()
    assert (shown["lane"], shown["verified"], shown["end"], shown["verifiers"]) == ("tolerant", False, "accepted", [])
    assert story.told["tokens"] == [" no", "t", "</s>"] and story.receipt == "0x" + (b"t" * 32).hex()
    assert "tolerant lane" in story.lines[0] and "nothing checks it" in story.lines[1] and len(story.lines) == 4


def test_its_other_ends_are_told_too() -> None:
    silent = log(abi.TOLERANT_PAID, 68, TASK, B, b"t" * 32, False, C, 72, 58, 14, 22)
    refused = log(abi.TOLERANT_REFUSED, 9, TASK, B, A, "no\x1b[2J", 14, 80)
    nothing = log(abi.TOLERANT_UNANSWERED, 26, TASK, B, A, 94)
    ends = {told_tolerant(ASKED, *rest).as_json()["end"]: told_tolerant(ASKED, *rest).lines[-1]
            for rest in ((SAID, silent), (SAID, refused), (nothing,))}  # fmt: skip
    assert set(ends) == {"unopposed", "refused", "unanswered"}
    assert "\x1b" not in ends["refused"]


def told_tolerant(*logs: PlacedLog) -> Story:
    return story_of(tolerant_story.tell(TASK, logs), Client("http://127.0.0.1:9"))
