"""Embed and score on real blocks with a real engine: what settles is what anybody computes at home, and a vector with
one wrong element is disputed at that element."""

import pytest
from chain_in_process import SHAPE, Chain, Engines, Library, Operator, answer, reveal, verdict

from inference.engine import Engine
from primitives.task import NO_BAD_POSITION, Kind, Status, WorkItem, vector_of, words_of
from vm.system import abi
from vm.system.market_views import Duty

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
KEY = bytes(32)


def made(engine: Engine, kind: Kind, prompt: tuple[int, ...], trace_key: bytes) -> tuple[list[int], bytes]:
    """(vector, T)."""
    result = engine.embed(prompt, trace_key) if kind is Kind.EMBED else engine.score(prompt, trace_key)
    return result.vector, result.root


class Fleet:
    """Honest validators; the executor of a task adds to one element of its vector if told so."""

    def __init__(self, spoiled: int | None = None) -> None:
        engines = Engines.make()
        self.engine = engines.honest
        self.chain = Chain(engines, validators=4, canaries_per_validator=0)
        self.library = Library(self.chain)
        self.spoiled = spoiled
        self.known: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}

    def item(self, operator: Operator, duty: Duty) -> WorkItem | None:
        if duty.first_block > self.chain.height + 1:
            return None
        story, kind = self.library.stories[duty.task], Kind(duty.kind)
        if duty.role == abi.ROLE_EXECUTE and duty.slot == 0:
            vector, root = made(self.engine, kind, story.prompt, duty.trace_key)
            if self.spoiled is not None:
                vector[self.spoiled] -= 1
            self.known[operator.operator, duty.task] = root, NO_BAD_POSITION
            return answer(operator, duty, words_of(vector), root)
        if duty.role == abi.ROLE_AUDIT:
            claimed = vector_of(story.output)
            found = self.engine.verify_vector(kind.name.lower(), story.prompt, claimed, duty.trace_key)
            self.known[operator.operator, duty.task] = found.root, found.bad
            return verdict(operator, duty, found.root, found.bad)
        known = self.known.get((operator.operator, duty.task))
        return reveal(duty, *known) if duty.role == abi.ROLE_REVEAL and known is not None else None

    def run(self, kind: Kind, until: Status) -> bytes:
        """Post one task and go on until it has come so far."""
        self.chain.block([self.chain.post(self.chain.reader.nonce(self.chain.poster), PROMPT, 0, 0, kind=int(kind))])
        (receipt,) = self.chain.receipts
        assert receipt.status == 1
        task: bytes = abi.TASK_POSTED.decode(receipt.logs[0].topics, receipt.logs[0].data)["task"]
        for _ in range(30):
            if self.chain.task(task).status == until:
                return task
            self.library.update()
            batches = []
            for operator in self.chain.operators:
                duties = self.chain.duties(operator)
                items = [item for duty in duties if (item := self.item(operator, duty)) is not None]
                batches += [self.chain.work(operator, items)] if items else []
            self.chain.block(batches)
        raise AssertionError(f"the task is still {Status(self.chain.task(task).status).name}")


@pytest.mark.parametrize("kind", [Kind.EMBED, Kind.SCORE])
def test_a_vector_settles_and_is_what_a_local_run_gives(kind: Kind) -> None:
    fleet = Fleet()
    task = fleet.run(kind, Status.SETTLED)
    local, _ = made(fleet.engine, kind, PROMPT, KEY)
    assert len(local) == (SHAPE.width if kind is Kind.EMBED else len(PROMPT) - 1)
    assert vector_of(fleet.library.stories[task].output) == tuple(local)
    (receipt,) = [event for _, event in fleet.chain.events(abi.RECEIPT)]
    assert (receipt["task"], receipt["kind"], receipt["outputTokens"]) == (task, kind, len(local))
    assert receipt["verification"] == abi.VERIFIED_AUDIT and len(receipt["verifiers"]) == 2


@pytest.mark.parametrize(("kind", "spoiled"), [(Kind.EMBED, SHAPE.width - 1), (Kind.SCORE, 0)])
def test_a_wrong_element_is_disputed_where_it_stands(kind: Kind, spoiled: int) -> None:
    """The executor's trace is honest: only the vector that it shows is not."""
    fleet = Fleet(spoiled)
    task = fleet.run(kind, Status.DISPUTED)
    (event,) = [event for _, event in fleet.chain.events(abi.TASK_DISPUTED)]
    assert (event["task"], event["verifierBad"]) == (task, spoiled)
    assert not list(fleet.chain.events(abi.PAID))
