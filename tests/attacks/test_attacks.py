"""Every attack on the work fails, at the attacker's cost: the asker gets the true answer, who found the lie is paid,
and nobody honest loses anything."""

import pytest

from inference.engine import Engine
from inference.reference import NumpyExecutor
from node.cheats import KINDS
from primitives.params import DISPUTE_MESSAGE_GAS
from primitives.task import Status
from tests.attacks.attacks import CHEAT, Outcome, play
from tests.attacks.fleet import PROMPT, Fleet
from vm.system import abi, views

PROVEN = {
    "wrong-token": ("target", "hit", "found", "leaf"), "wrong-layer": ("rescale",),
    "small-model": ("dot",), "stale-kv": ("leaf",), "altered-prompt": ("embed",), "cached-prefix": ("embed",),
    "wrong-seed": ("target",), "colluding": ("rescale",), "wrong-token-true-trace": ("embed",),
    "cached-replay": ("leaf",),
}  # fmt: skip
"""Kinds that a recomputation convicts."""
BY_TIME = {
    "withheld-list": abi.ENDED_UNDEFENDED, "withheld-opening": abi.ENDED_UNDEFENDED,
    "garbage-reveal": abi.ENDED_UNDEFENDED, "withheld-reveal": abi.ENDED_WITHHELD,
}  # fmt: skip
"""Kinds that are silent sooner or later: they do not want to be recomputed, or of their root there is no trace."""
FALSE_VERDICTS = {"false-challenge": abi.ENDED_HELD, "contradict-and-run": abi.ENDED_UNCHALLENGED}
HARMLESS = ("late-reveal", "copied-verdict", "lazy-agree")


@pytest.fixture(scope="module", params=list(KINDS))
def played(request) -> tuple[str, Fleet, Outcome]:
    return (request.param, *play(request.param))


def test_the_asker_gets_the_true_answer(played) -> None:
    kind, fleet, outcome = played
    assert outcome.status == Status.SETTLED
    if kind == "colluding":
        assert outcome.attempt in (1, 2), "the next to be dealt it may be the accomplice"
    else:
        assert outcome.attempt == (1 if kind in PROVEN or kind in BY_TIME else 0)
    task = [event["task"] for _, event in fleet.chain.events(abi.TASK_POSTED)][-1]
    dealt = next(event for _, event in fleet.chain.events(abi.TASK_DEALT) if event["task"] == task)
    true = Engine(NumpyExecutor(fleet.chain.model)).generate(PROMPT, 6, 45_000, 0, dealt["seed"], bytes(32))
    assert fleet.texts(task)[1] == tuple(true.tokens), "by the seed of the first deal, whoever answers"


def test_who_lied_pays_and_nobody_else(played) -> None:
    kind, _, outcome = played
    liars = {f"validator {CHEAT}"} | ({f"validator {CHEAT + 1}"} if kind == "colluding" else set())
    if kind in HARMLESS:
        assert not outcome.slashed and not outcome.ended
        assert outcome.missed == ([] if kind == "late-reveal" else [f"validator {CHEAT}"])
        return
    assert set(outcome.slashed) <= liars and f"validator {CHEAT}" in outcome.slashed
    assert all(wei > 0 for wei in outcome.slashed.values())


def test_how_it_ended(played) -> None:
    kind, fleet, outcome = played
    if kind in PROVEN:
        assert outcome.ended[0] == abi.ENDED_REFUTED and outcome.judged
        assert outcome.judged.split("(")[1].rstrip(")") in PROVEN[kind]
        assert outcome.asker_wei > 0 and outcome.bounty_wei > 0
        for index in (CHEAT, *([CHEAT + 1] if kind == "colluding" else [])):
            if f"validator {index}" in outcome.slashed:
                operator = views.operator(fleet.chain.reader, fleet.chain.operators[index].operator,
                                          fleet.chain.params, fleet.chain.height + 1)  # fmt: skip
                assert operator is not None and operator.slashes
    elif kind in BY_TIME:
        assert outcome.ended[0] == BY_TIME[kind] and not outcome.judged
        shown = {event["state"] for _, event in fleet.chain.events(abi.SHOWN)}
        pages = {abi.DISPUTE_TRACE, abi.DISPUTE_LIST} if kind == "withheld-opening" else set()
        assert shown == pages, "as far as it goes"
    elif kind in FALSE_VERDICTS:
        assert outcome.ended == [FALSE_VERDICTS[kind]]
    after = {abi.ENDED_MOOT, abi.ENDED_REFUTED} if kind == "colluding" else {abi.ENDED_MOOT}
    assert set(outcome.ended[1:]) <= after


def test_every_move_was_accepted_and_small_enough(played) -> None:
    _, fleet, outcome = played
    assert [said for said in fleet.messages if not said.status] == []
    assert outcome.gas_max <= DISPUTE_MESSAGE_GAS
    assert outcome.messages <= 14 * max(1, outcome.attempt)


def test_a_cooperative_dispute_takes_few_blocks(played) -> None:
    kind, fleet, outcome = played
    if (kind in PROVEN and kind != "colluding") or kind == "false-challenge":
        assert 0 < outcome.blocks <= 12, "a minute at a block a second is far"
    elif outcome.blocks:
        silences = 2 * (fleet.chain.params.silence_blocks + fleet.chain.params.dispute_clock_blocks)
        assert outcome.blocks <= silences
