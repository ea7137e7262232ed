"""Attacks on the work itself, each played on an in-process chain against three honest validators: what happened, and
who paid what. `python -m tests.attacks` prints the table; test_attacks.py holds every line of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from primitives.task import Status
from tests.attacks.fleet import BLOCKS_MAX, Fleet, name_of
from vm.system import abi

CHEAT = 1
"""Which validator cheats."""
EXECUTORS = (
    "wrong-token", "wrong-token-true-trace", "wrong-layer", "small-model", "altered-prompt", "cached-prefix",
    "wrong-seed", "stale-kv", "cached-replay", "withheld-reveal", "withheld-list", "withheld-opening", "late-reveal",
    "garbage-reveal", "colluding",
)  # fmt: skip
"""Kinds that cheat when a task is dealt to them; the others when they are drawn to check one."""


@dataclass
class Outcome:
    """What came of an attack."""

    name: str
    status: Status
    attempt: int
    """0: the cheat's own answer stands, else how often the task was dealt anew."""
    ended: list[int] = field(default_factory=list)
    """Reasons of the disputes' ends, in order."""
    slashed: dict[str, int] = field(default_factory=dict)
    """Wei by who lost them."""
    paid: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    asker_wei: int = 0
    """From slashes, to whoever had asked."""
    bounty_wei: int = 0
    messages: int = 0
    gas_max: int = 0
    blocks: int = 0
    """From a challenge to its end, the longest; 0 without one."""
    judged: str = ""


def play(kind: str, prepare: Callable[[Fleet], None] = lambda fleet: None) -> tuple[Fleet, Outcome]:
    """One attack, from the deal to the end of everything."""
    fleet = Fleet({CHEAT: kind, CHEAT + 1: kind} if kind == "colluding" else {CHEAT: kind})
    prepare(fleet)
    task = hit(fleet, by_executor=kind in EXECUTORS)
    if kind == "cached-replay":  # the first answer is an honest one
        fleet.until(task, Status.SETTLED)
        task = hit(fleet, by_executor=True)
    fleet.until_quiet(task)
    return fleet, outcome(kind, fleet, task)


def hit(fleet: Fleet, by_executor: bool) -> bytes:
    """Ask until a task is dealt to the cheat, or the cheat is drawn to check one."""
    cheat = "0x" + fleet.chain.operators[CHEAT].operator.hex()
    for _ in range(BLOCKS_MAX // 8):
        task = fleet.post()
        while not fleet.chain.task(task).done_block and not fleet.chain.task(task).dealt_block:
            fleet.block()
        dealt = next(event for _, event in fleet.chain.events(abi.TASK_DEALT) if event["task"] == task)
        if by_executor and dealt["executor"] == cheat:
            return task
        while not by_executor and not fleet.chain.task(task).drawn_block:
            fleet.block()
        verifiers = fleet.chain.task(task).verifiers
        if not by_executor and fleet.chain.operators[CHEAT].operator in verifiers:
            return task
        fleet.until(task, Status.SETTLED)
    raise AssertionError("the cheat was never chosen")


def outcome(name: str, fleet: Fleet, task: bytes) -> Outcome:
    """Read from the chain's logs alone."""
    chain = fleet.chain
    found = Outcome(name, Status(chain.task(task).status), 0)

    def of_task(event: abi.Event) -> list[tuple[int, dict]]:
        return [(height, values) for height, values in chain.events(event) if values["task"] == task]

    found.attempt = len(of_task(abi.TASK_REFUTED))
    began = {values["dispute"]: height for height, values in of_task(abi.CHALLENGED)}
    for height, values in of_task(abi.DISPUTE_ENDED_LOG):
        found.ended.append(values["reason"])
        found.asker_wei += values["askerWei"]
        found.bounty_wei += values["bountyWei"]
        if values["reason"] != abi.ENDED_MOOT:
            found.blocks = max(found.blocks, height - began.get(values["dispute"], height))
    for _, values in of_task(abi.SLASHED):
        who = name_of(fleet, values["operator"])
        found.slashed[who] = found.slashed.get(who, 0) + values["amount"]
    for _, values in of_task(abi.PAID):
        who = name_of(fleet, values["operator"])
        found.paid[who] = found.paid.get(who, 0) + values["amount"]
    found.missed = sorted({name_of(fleet, values["operator"]) for _, values in of_task(abi.TASK_MISSED)})
    for _, values in of_task(abi.JUDGED):
        found.judged = f"{values['op']} ({values['rule']})"
    about = {task, *(values["dispute"] for _, values in of_task(abi.CHALLENGED))}
    messages = [said for said in fleet.messages if said.about in about]
    found.messages, found.gas_max = len(messages), max((said.gas for said in messages), default=0)
    return found
