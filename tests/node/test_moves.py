"""Which move in a dispute is a node's, by the state alone, and what message it becomes."""

from dataclasses import replace
from typing import Any

import pytest

from node.duties import Result
from node.moves import Me, Move, challenge_of, message_of, move_in, position, request_of, shown_in
from primitives.task import NO_BAD_POSITION, Status, trace_key
from vm.system import abi
from vm.system.market_views import TaskView
from vm.system.referee_views import DisputeView

ACCUSED, VERIFIER, STRANGER = b"\x0a" * 20, b"\x0b" * 20, b"\x0c" * 20
HOT = b"\x11" * 20
T, OTHER = b"\x77" * 32, b"\x78" * 32
TASK = TaskView(
    b"t" * 32, Status.DISPUTED, seed=b"s" * 32, prompt_tokens=4, output_tokens=2, executor=ACCUSED,
    verifiers=(VERIFIER,), executor_root=T, temperature_q16=7, top_k=3,
)  # fmt: skip
WAITING = DisputeView(
    state=abi.DISPUTE_QUEUED, turn=0, dispute=5, task=TASK.task, attempt=0, reason=0, accused=ACCUSED,
    challenger=STRANGER, operator=bytes(20),
    from_stake=False, bond=1, leaf=abi.NO_LEAF, leaf_hash=bytes(32), operations=bytes(32), author=bytes(20),
    author_bond=0, op=abi.NO_OP, node=T, level=4, index=0, count=12, filed_block=10, begun_block=11, last_block=71,
    defender_left=60, challenger_left=60, defender_spoke=False, challenger_spoke=False,
)  # fmt: skip


def dispute(state: int, turn: int, **changes: Any) -> DisputeView:
    return replace(WAITING, state=state, turn=turn, **changes)


TRACE = dispute(abi.DISPUTE_TRACE, abi.TURN_DEFENDER)
LIST = dispute(abi.DISPUTE_LIST, abi.TURN_DEFENDER, leaf=6, level=0)
POSTED = dispute(abi.DISPUTE_OP, abi.TURN_DEFENDER, leaf=6, op=9, operations=b"l" * 32, author=ACCUSED)
OPEN = dispute(abi.DISPUTE_OPEN, abi.TURN_CHALLENGER, leaf=6, op=9, operations=b"l" * 32, author=ACCUSED)


@pytest.mark.parametrize(
    ("state", "me", "own_root", "silent", "expected"),
    [
        (TRACE, Me(HOT, ACCUSED), None, False, "show"),
        (TRACE, Me(ACCUSED, None), None, False, "show"),
        (TRACE, Me(HOT, VERIFIER), T, False, None),  # the accused may answer for itself
        (TRACE, Me(HOT, VERIFIER), T, True, "show"),
        (TRACE, Me(HOT, STRANGER), T, True, "show"),  # it was not drawn, and found the root all the same
        (TRACE, Me(HOT, VERIFIER), OTHER, True, None),
        (TRACE, Me(HOT, VERIFIER), None, True, None),
        (POSTED, Me(HOT, VERIFIER), T, True, "show"),
        (replace(POSTED, author=HOT), Me(HOT, None), None, False, "show"),  # it stands for its list
        (replace(TRACE, turn=abi.TURN_CHALLENGER), Me(STRANGER, None), None, False, "choose"),
        (replace(TRACE, turn=abi.TURN_CHALLENGER), Me(HOT, ACCUSED), T, True, None),
        (OPEN, Me(STRANGER, None), None, False, "open"),
        (replace(OPEN, operator=VERIFIER), Me(HOT, VERIFIER), None, False, "open"),
        (dispute(abi.DISPUTE_QUEUED, 0), Me(HOT, ACCUSED), None, False, None),
        (dispute(abi.DISPUTE_ENDED, 0), Me(HOT, ACCUSED), None, False, None),
    ],
)
def test_whose_move_it_is(
    state: DisputeView, me: Me, own_root: bytes | None, silent: bool, expected: str | None
) -> None:
    found = move_in(state, TASK, me, own_root, silent)
    assert (found.move if found else None) == expected


def test_what_contradicts_becomes_a_challenge() -> None:
    def mine(root: bytes, bad: int = NO_BAD_POSITION) -> Result:
        return Result(TASK.task, trace_key(TASK.seed, 0), root, bad=bad)

    assert challenge_of(TASK, mine(T)) is None
    assert challenge_of(TASK, None) is None
    assert challenge_of(replace(TASK, executor_root=bytes(32)), mine(OTHER)) is None, "there is nothing to accuse yet"
    elsewhere, false = challenge_of(TASK, mine(OTHER, 5)), challenge_of(TASK, mine(T, 5), value=9)
    assert elsewhere and (elsewhere.move, elsewhere.value) == ("root", 0)
    assert false and (false.move, false.bad, false.value) == ("leaf", 5, 9)
    sent = message_of(elsewhere, {"root": OTHER})
    assert not isinstance(sent, str)
    assert abi.CHALLENGE.decode_arguments(sent.data[4:]) == (TASK.task, abi.NO_LEAF)
    sent = message_of(false, {"root": T, "leaf": 17})
    assert not isinstance(sent, str) and sent.value == 9
    assert abi.CHALLENGE.decode_arguments(sent.data[4:]) == (TASK.task, 17)
    assert "has the root" in str(message_of(elsewhere, {"root": T})), "a bit flipped here: no challenge"


def test_every_position_is_told_from_the_next() -> None:
    places = [TRACE, replace(TRACE, turn=2), replace(TRACE, node=OTHER, level=0, index=3), LIST,
              replace(LIST, author=HOT), POSTED, OPEN]  # fmt: skip
    assert len({position(each) for each in places}) == len(places)
    assert position(replace(TRACE, last_block=90)) == position(TRACE), "clocks that stood change nothing"


def test_what_the_process_is_asked() -> None:
    def asked(state: DisputeView, move: str, logs: list[dict[str, Any]] = []) -> dict[str, Any]:  # noqa: B006
        return request_of(Move("k", move, "", TASK, state), (1, 2, 3, 4), (5, 6), logs)

    show = asked(TRACE, "show")
    assert (show["tree"], show["level"], show["index"], show["leaf"], show["list_op"]) == ("trace", 4, 0, None, None)
    assert (show["op"], show["kind"], show["prompt"], show["output"]) == ("argue", "generate", [1, 2, 3, 4], [5, 6])
    assert show["trace_key"] == trace_key(TASK.seed, 0)
    first = asked(LIST, "show")
    assert (first["tree"], first["level"], first["index"], first["leaf"]) == ("list", None, 0, 6), "its root's page"
    assert asked(POSTED, "show")["list_op"] == 9
    logs = [
        {"event": "Shown", "state": abi.DISPUTE_TRACE, "level": 4, "index": 0, "data": b"a"},
        {"event": "Shown", "state": abi.DISPUTE_LIST, "level": 3, "index": 0, "data": b"false"},
        {"event": "ListRefuted"},
        {"event": "Shown", "state": abi.DISPUTE_LIST, "level": 3, "index": 0, "data": b"true"},
        {"event": "Shown", "state": abi.DISPUTE_TILE, "level": 0, "index": 2, "data": b"t"},
    ]
    assert shown_in(logs) == [["trace", 4, 0, b"a"], ["list", 3, 0, b"true"], ["tile", 0, 2, b"t"]]
    opening = asked(OPEN, "open", logs)
    assert (opening["leaf"], opening["list_op"], opening["shown"]) == (6, 9, shown_in(logs))
    vector = request_of(Move("k", "root", "", replace(TASK, kind=1)), (1, 2), (2**32 - 1, 7), [])
    assert (vector["kind"], vector["output"]) == ("embed", [-1, 7])


def test_replies_become_messages_and_what_cannot_be_said_is_not() -> None:
    def sent(state: DisputeView, move: str, reply: dict[str, Any]) -> Any:
        return message_of(Move("k", move, "", TASK, state), reply)

    shown = sent(POSTED, "show", {"root": T, "operations": b"l" * 32, "data": b"page"})
    assert abi.SHOW.decode_arguments(shown.data[4:]) == (5, b"page") and shown.covers == {"k"}
    assert "nothing to show" in sent(POSTED, "show", {"root": OTHER, "operations": b"l" * 32, "data": b""})
    assert "another's" in sent(POSTED, "show", {"root": T, "operations": b"m" * 32, "data": b""})
    assert not isinstance(sent(LIST, "show", {"root": T, "operations": b"m" * 32, "data": b"page"}), str)
    chosen = sent(TRACE, "choose", {"root": OTHER, "index": 3, "child": OTHER, "path": [T, T]})
    assert abi.CHOOSE.decode_arguments(chosen.data[4:]) == (5, 3, OTHER, (T, T))
    alike = sent(LIST, "choose", {"root": OTHER, "index": None, "child": bytes(32), "path": []})
    assert abi.CHOOSE.decode_arguments(alike.data[4:]) == (5, abi.NO_OP, bytes(32), ())
    opened = sent(OPEN, "open", {"root": OTHER, "element": 300, "data": b"opening"})
    assert abi.OPEN.decode_arguments(opened.data[4:]) == (5, 300, b"opening")
