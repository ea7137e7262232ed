"""docs/attacks.md names every attack, and a test that plays it."""

import ast
import re
from pathlib import Path

from node.cheats import KINDS

ROOT = Path(__file__).parents[2]
ATTACKS = (
    "wrong token", "wrong token with a true trace", "one skipped layer on 25 % of (position, layer group)",
    "quantised or smaller model", "altered prompt", "another seed", "cached replay", "cached prefix", "stale KV",
    "withheld output", "withheld leaf list", "withheld opening", "late reveal", "garbage reveal", "copied verdict",
    "leaked root", 'lazy "agreed"', "colluding executor and verifier", "contradict and run", "griefing", "flooding",
    "serial challenges", "challenges of an executor that is offline", "self-posted tasks for credit",
    "a model nobody else has", "a model that few serve", "refuting oneself for a re-roll",
    "garbage and silence, repeated", "self-disputes before unbonding", "a model file that differs from its root",
    "stop id passed", "oversized outputs", "callback bombs (gas, reentrancy, revert, huge return)",
    "callback starvation", "disputes at every op kind", "a referee input made to overflow",
    "a planted referee divergence",
    "sybil splitting", "burst of compute", "burst at epoch end", "saturation of the median", "idle stake",
    "fake capacity", "short deadline and withheld blob", "minimum deadlines", "picking among what is dealt",
    "audit-only operator",
    "busy bond that switches credit off", "refusals that shape the draw", "stake moved before a draw", "unfair draws",
    "proposer withholding beacon reveals", "skipped rounds", "last revealers choosing the committee",
    "long proposer runs", "proposer censoring work batches", "work-lane hogging", "dispute-lane flooding",
    "block-space flooding", "forged events", "prologue flooding", "hundreds of open tasks", "no demand",
)  # fmt: skip
TEST = re.compile(r"`([\w/]+\.py)::(\w+)(?:\[([^\]]+)\])?`")


def rows() -> list[list[str]]:
    """The cells of every attack's line."""
    lines = (ROOT / "docs/attacks.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "attack"]


def test_every_attack_has_a_line_of_its_own() -> None:
    names = [row[0] for row in rows()]
    assert [name for name in ATTACKS if names.count(name) != 1] == []
    assert set(names) <= set(ATTACKS)


def test_every_line_says_what_happens_and_names_a_test_that_exists() -> None:
    for name, gain, happens, tests in rows():
        assert gain and happens, name
        found = TEST.findall(tests)
        assert found and not TEST.sub("", tests).strip(), f"{name}: {tests}"
        for file, function, case in found:
            source = (ROOT / "tests" / file).read_text()
            known = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
            assert function in known, f"{name}: no {function} in {file}"
            assert not case or case in KINDS or f'"{case}"' in source, f"{name}: no case {case} of {function}"


def test_every_cheat_on_demand_stands_in_the_table() -> None:
    named = {case for row in rows() for _, _, case in TEST.findall(row[3])}
    assert set(KINDS) <= named
