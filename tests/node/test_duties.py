"""What a validator runs and sends next, as tables over duties and results."""

from dataclasses import replace

import pytest

from consensus.work.incentive import AUDITORS_MAX
from node.duties import (
    Result,
    items_to_send,
    jobs,
    result_for,
    work_message,
)
from node.journal import Journal
from node.outbox import is_stale, signed
from node.traps import Traps
from primitives.keys import address_of
from primitives.task import (
    NO_BAD_POSITION,
    Reveal,
    Submission,
    TrapOpening,
    Verdict,
    decode_batch,
    execution_commitment,
    task_id,
    trap_root,
    verdict_commitment,
)
from primitives.transaction import decode
from vm.system import abi, market_gas
from vm.system.market_views import Duty

OPERATOR, EXECUTOR = b"\x0a" * 20, b"\x0e" * 20
HOT = b"\x44" * 32
MODEL, OTHER_MODEL = b"\x01" * 32, b"\x02" * 32
ROOT = b"\x77" * 32


def duty(role: int, number: int = 1, first: int = 10, last: int = 19, model: bytes = MODEL) -> Duty:
    task = number.to_bytes(32, "big")
    asked = b"p" * 32, b"o" * 32, b"s" * 32, b"k" * 32, 16, 0, 0
    answered = 0, EXECUTOR, execution_commitment(task, EXECUTOR, ROOT)
    return Duty(role, 0, task, model, *asked, 0, first, last, 5, *answered)


def for_others(role: int, first: int = 10) -> Duty:
    return replace(duty(role, first=first), slot=abi.NO_SLOT)


def answer(number: int = 1) -> Result:
    return Result(number.to_bytes(32, "big"), b"k" * 32, ROOT, tokens=(1, 2, 3), total_ms=9, device="numpy/cpu")


def check(number: int = 1, bad: int = NO_BAD_POSITION) -> Result:
    return Result(number.to_bytes(32, "big"), b"k" * 32, ROOT, bad=bad)


def by_key(*results: Result) -> dict:
    return {result.key: result for result in results}


EXECUTE, AUDIT, REVEAL = abi.ROLE_EXECUTE, abi.ROLE_AUDIT, abi.ROLE_REVEAL


@pytest.mark.parametrize(
    ("role", "results", "found"),
    [
        (EXECUTE, [], None),
        (EXECUTE, [check()], None),
        (EXECUTE, [answer()], answer()),
        (AUDIT, [answer()], None),
        (AUDIT, [check()], check()),
        (REVEAL, [check()], check()),
        (REVEAL, [answer()], answer()),
        (REVEAL, [answer(2)], None),
    ],
)
def test_the_result_that_fulfils_a_duty(role: int, results: list[Result], found: Result | None) -> None:
    assert result_for(duty(role), by_key(*results)) == found


def test_the_first_to_close_is_run_first_and_what_is_done_or_too_late_is_not() -> None:
    duties = [duty(EXECUTE, 1, last=30), duty(AUDIT, 2, last=15), duty(AUDIT, 3, last=12), duty(AUDIT, 4, last=9)]
    assert jobs(duties, {}, 10, MODEL) == [duties[2], duties[1], duties[0]]
    assert jobs(duties, by_key(check(3)), 10, MODEL) == [duties[1], duties[0]]
    assert jobs(duties, by_key(check(3), check(2), answer(1)), 10, MODEL) == []
    assert jobs([duty(EXECUTE, model=OTHER_MODEL)], {}, 10, MODEL) == []


def test_a_backup_begins_when_its_own_slot_does() -> None:
    backup = duty(EXECUTE, first=20, last=29)
    assert jobs([backup], {}, 18, MODEL) == []
    assert jobs([backup], {}, 19, MODEL) == [backup]


def test_items_carry_commitments_in_the_operators_name() -> None:
    duties = [duty(EXECUTE, 1), duty(AUDIT, 2), duty(REVEAL, 3)]
    items = items_to_send(OPERATOR, duties, by_key(answer(1), check(2, bad=4), check(3)), set(), 10)
    one, two, three = (number.to_bytes(32, "big") for number in (1, 2, 3))
    assert items == [
        Submission(one, (1, 2, 3), execution_commitment(one, OPERATOR, ROOT), 0, 0, 9, b"numpy/cpu"),
        Verdict(two, verdict_commitment(two, OPERATOR, 4, ROOT)),
        Reveal(three, ROOT, NO_BAD_POSITION),
    ]


def test_a_trap_is_committed_behind_its_salt_and_opened_with_it() -> None:
    traps = Traps.of(HOT)
    trap = traps.hidden(answer())
    (sent,) = items_to_send(OPERATOR, [duty(EXECUTE)], by_key(trap), set(), 10)
    assert isinstance(sent, Submission)
    assert sent.commitment == execution_commitment(trap.task, OPERATOR, trap_root(trap.salt, ROOT))
    opening = TrapOpening(trap.task, trap.salt, ROOT)
    for role in (REVEAL, abi.ROLE_TRAP):
        assert items_to_send(OPERATOR, [duty(role)], by_key(trap), {(trap.task, 3)}, 10) == [opening]
        assert items_to_send(OPERATOR, [duty(role)], by_key(trap), {(trap.task, 4)}, 10) == []
    assert items_to_send(OPERATOR, [duty(abi.ROLE_TRAP)], by_key(answer()), set(), 10) == [], "somebody opened its root"
    lost = traps.recognised(check(), OPERATOR, sent.commitment)
    assert items_to_send(OPERATOR, [duty(REVEAL)], by_key(lost), set(), 10) == [opening], "the work was done again"
    assert traps.recognised(check(), OPERATOR, execution_commitment(trap.task, OPERATOR, ROOT)) == check()


def test_a_verifiers_own_verdict_is_revealed_and_not_an_answer_that_came_too_late() -> None:
    hidden = Traps.of(HOT).hidden(answer())
    items = items_to_send(OPERATOR, [duty(REVEAL)], by_key(hidden, check(bad=2)), set(), 10)
    assert items == [Reveal(hidden.task, ROOT, 2)]


def test_a_trap_has_gas_for_all_whom_it_may_catch() -> None:
    """Without it the opening fails where it matters, and its executor is slashed."""
    opening = TrapOpening(b"\1" * 32, b"\2" * 32, ROOT)
    caught = market_gas.TRAP + AUDITORS_MAX * market_gas.TRAPPED
    assert work_message([opening]).gas > work_message([Reveal(b"\1" * 32, ROOT, 0)]).gas + caught - market_gas.REVEAL


@pytest.mark.parametrize("role", [REVEAL, abi.ROLE_CHALLENGE, abi.ROLE_DEFEND])
def test_what_others_should_do_is_looked_into_when_its_time_comes_and_not_before(role: int) -> None:
    assert jobs([for_others(role, first=20)], {}, 18, MODEL) == []
    assert jobs([for_others(role, first=20)], {}, 19, MODEL) == [for_others(role, first=20)]
    assert jobs([for_others(role, first=20)], by_key(check()), 19, MODEL) == []


def test_somebodys_root_is_revealed_if_this_node_found_it_too() -> None:
    task = for_others(REVEAL).task
    assert items_to_send(OPERATOR, [for_others(REVEAL)], by_key(check()), set(), 10) == [
        Reveal(task, ROOT, NO_BAD_POSITION)
    ]
    for other in (check(bad=2), replace(check(), root=b"\x78" * 32)):
        assert items_to_send(OPERATOR, [for_others(REVEAL)], by_key(other), set(), 10) == []


@pytest.mark.parametrize("height", [9, 20])
def test_nothing_is_sent_outside_its_window(height: int) -> None:
    assert items_to_send(OPERATOR, [duty(AUDIT)], by_key(check()), set(), height) == []


def test_what_the_chain_refused_is_not_sent_again() -> None:
    duties = [duty(AUDIT, 1), duty(AUDIT, 2)]
    refused = {(duties[0].task, 2), (duties[1].task, 3)}
    items = items_to_send(OPERATOR, duties, by_key(check(1), check(2)), refused, 10)
    assert [item.task for item in items] == [duties[1].task]


def test_a_batch_has_at_most_64_items() -> None:
    duties = [duty(AUDIT, number) for number in range(1, 101)]
    results = by_key(*(check(number) for number in range(1, 101)))
    assert len(items_to_send(OPERATOR, duties, results, set(), 10)) == 64


def test_a_work_transaction_decodes_and_its_replacement_pays_an_eighth_more() -> None:
    items = items_to_send(OPERATOR, [duty(EXECUTE)], by_key(answer()), set(), 10)
    message = work_message(items)
    assert message.covers == {(items[0].task, 1)}
    sent = signed(HOT, 31337, 7, message, 10**9, 5_000_000, 10, None)
    transaction = decode(sent.transaction.raw)
    assert transaction.sender == address_of(HOT) and transaction.nonce == 7
    assert transaction.max_fee_per_gas >= 2 * 10**9
    assert transaction.gas >= max(transaction.intrinsic_gas, transaction.floor_gas)
    (batch,) = abi.WORK.decode_arguments(transaction.data[4:])
    assert decode_batch(batch, 31337) == [replace(items[0], task=task_id(31337, 1))]
    assert not is_stale(sent, 11) and is_stale(sent, 12)
    again = signed(HOT, 31337, 7, message, 10**9, 5_000_000, 12, sent).transaction
    assert again.max_fee_per_gas * 8 >= transaction.max_fee_per_gas * 9
    assert again.max_priority_fee_per_gas * 8 >= transaction.max_priority_fee_per_gas * 9


def test_results_survive_in_the_journal(tmp_path) -> None:
    journal = Journal(tmp_path)
    kept = [answer(1), check(1, bad=3), check(2), Traps.of(HOT).hidden(answer(3))]
    for result in kept:
        journal.add(result)
    (tmp_path / "broken.json").write_text('{"task": 1')
    (tmp_path / "odd.json").write_text("[]")
    assert sorted(Journal(tmp_path).load(), key=repr) == sorted(kept, key=repr)
    assert not (tmp_path / "broken.json").exists()
    journal.remove(kept[0])
    assert sorted(Journal(tmp_path).load(), key=repr) == sorted(kept[1:], key=repr)


def test_another_attempt_is_another_result() -> None:
    again = replace(duty(EXECUTE), trace_key=b"q" * 32)
    assert result_for(again, by_key(answer())) is None
