"""labora validator status: what the chain keeps of every operator, for people and for programs."""

from typing import Any

import pytest

from node.exits import Fatal
from node.standing import lines, status

ADA, BOB = "0x57B5d580B9c1Cb45650a732836852ae2024e1F29", "0xc7d2742e3D36FF26203c082794b0AB12c67A059a"
TASK = "0x" + "ab" * 32


class Chain:
    """Answers labora_validators as rpc.labora does."""

    url = "http://here"

    def call(self, method: str) -> dict[str, Any]:
        assert method == "labora_validators"
        terms = {"reservePriceWei": "0", "hoursUtc": [], "refusedKinds": [], "refusedModels": [], "macsMax": "0"}
        row = {
            "bondWei": str(10**21), "delegatedWei": "0", "commission": None, "credit": "1.500000000", "power": 75,
            "active": True, "jailed": False, "serves": [],
            "thisEpoch": {"dealt": 4, "missed": 1}, "misses": [], "refusals": [], "slashes": [],
            "terms": terms, "nextTerms": None,
        }  # fmt: skip
        miss = {"task": TASK, "block": 12, "reason": "no_answer", "counted": True}
        slash = {"task": TASK, "block": 40, "reason": "wrong_work", "amountWei": str(5 * 10**18)}
        rows = [{"operator": ADA, **row, "delegatedWei": str(5 * 10**18), "commission": 1_250}, {
            "operator": BOB, **row, "power": 25, "misses": [miss] * 9, "slashes": [slash],
            "refusals": [
                {"task": TASK, "block": 42, "reason": "stage"}, {"task": TASK, "block": 41, "reason": "too_late"},
            ],
            "terms": {**terms, "reservePriceWei": "5000000000"}, "nextTerms": {**terms, "fromBlock": 96},
        }]  # fmt: skip
        return {"height": 50, "epoch": 1, "totalPower": 100, "validators": rows}


def test_programs_get_one_object_an_operator() -> None:
    [row] = status(Chain(), BOB.lower())  # type: ignore[arg-type]
    assert {name: row[name] for name in ("operator", "bond", "credit", "power")} == {
        "operator": BOB, "bond": str(10**21), "credit": "1.500000000", "power": 25,
    }  # fmt: skip
    assert row["misses"] == [{"task": TASK, "block": 12, "reason": "no_answer", "counted": True}] * 9
    assert row["slashes"] == [{"task": TASK, "block": 40, "reason": "wrong_work", "amountWei": str(5 * 10**18)}]
    assert len(status(Chain(), None)) == 2  # type: ignore[arg-type]


def test_people_get_reasons_and_what_to_do() -> None:
    said = lines(Chain(), status(Chain(), None))  # type: ignore[arg-type]
    assert any("75.0 %" in line and ADA in line for line in said)
    assert "  5 coins of delegators stand behind it: 12.5 % of their fees are its own" in said
    shown = [line for line in said if line.startswith("  block")]
    assert "message refused of" in shown[0] and "slashed for" in shown[1] and "5 of its bond" in shown[1]
    assert len(shown) == 8 and "  and 3 before that the chain keeps: --json has all" in said
    assert "  another message came before 1 of its last ones (stage): nothing to do" in said
    assert "  takes no task below 5,000,000,000 wei a CWU, tip included" in said
    assert "  from block 96 on: takes every task of what it serves" in said
    assert any("missed" in line and "no_answer" in line for line in said)
    assert any("validator serve" in line for line in said), "the advice of no_answer"


def test_who_is_no_operator_is_told_so() -> None:
    for wrong in ("0x" + "11" * 20, "nonsense"):
        with pytest.raises(Fatal):
            status(Chain(), wrong)  # type: ignore[arg-type]
