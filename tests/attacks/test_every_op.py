"""Every rule of the program is adjudicable on chain: a lie in it, on real blocks, is judged at that very operation,
within the gas of a message and in few blocks."""

import pytest

from inference.referee import RULES
from primitives.params import DISPUTE_MESSAGE_GAS
from primitives.task import Status
from tests.attacks.ops import Case, every_case, judged, play
from vm.system import abi

pytestmark = pytest.mark.slow
CASES = list(every_case())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_lie_in_it_is_convicted_where_it_is(case: Case) -> None:
    fleet, outcome = play(case)
    (judgement,) = judged(fleet)
    assert (judgement["rule"], judgement["holds"]) == (case.rule, False)
    assert fleet.op is not None and judgement["op"] == fleet.op.name
    assert (outcome.status, outcome.attempt, outcome.ended[0]) == (Status.SETTLED, 1, abi.ENDED_REFUTED)
    assert outcome.gas_max <= DISPUTE_MESSAGE_GAS and outcome.messages <= 14 and outcome.blocks <= 12
    assert all(said.status for said in fleet.messages)


def test_no_rule_is_left_out() -> None:
    assert {case.rule for case in CASES} == {*RULES, "leaf"}
