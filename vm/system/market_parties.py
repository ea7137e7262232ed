"""Who may be given a task now, and how much: the Market's questions to Staking, Models and the Ledger.

Reads only. The draw itself is consensus.work.deal's.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from consensus.work.audit import miss_counts, slot_step
from consensus.work.deal import Candidate, has_room
from consensus.work.incentive import Odds
from consensus.work.slashing import exposure_max
from primitives.params import ChainParams
from primitives.task import Kind
from vm.system import ledger, models, terms
from vm.system.context import ReadContext, SystemContext
from vm.system.market_state import IN_FLIGHT, Task


@dataclass(frozen=True)
class Party:
    """A member of the current set, not jailed, that serves the model. bond: wei at stake now; weight: in draws, units
    at the turn that fixed the set; rate in multiply-adds a block."""

    operator: bytes
    bond: int
    weight: int
    rate: int
    """What it is trusted with: its effective rate, at the share that its misses left of it."""
    since: int
    """Block in which it began to serve the model."""

    def covers(self, params: ChainParams, gain: int, exposed: int = 0) -> bool:
        """Whether its bond is enough for a slash in a task of that G beside what is open."""
        return exposed + gain <= exposure_max(params, self.bond)


@dataclass(frozen=True)
class Look:
    """What a draw of a model's parties sees of the set. parties: who may be drawn, in address order; weight: of all
    members that have something at stake; counts: whether the work earns credit."""

    parties: list[Party]
    weight: int
    counts: bool


def look(ctx: ReadContext, model: bytes) -> Look:
    """The current set as a draw for a model sees it."""
    seen = models.fleet(ctx, model)
    rates = models.effective_rates(ctx, seen.candidates)
    parties = [
        Party(each.operator, each.bond, each.weight, rates[each.operator], each.serving.since)
        for each in seen.candidates
    ]
    return Look(parties, seen.weight, models.counts(ctx, model, seen))


def serving(ctx: ReadContext, model: bytes) -> list[Party]:
    """Who may be drawn for a model now, in address order."""
    return look(ctx, model).parties


def drawable(parties: Iterable[Party], without: Collection[bytes] = ()) -> list[Candidate]:
    """Parties as candidates of a draw."""
    return [Candidate(party.operator, party.weight) for party in parties if party.operator not in without]


def willing(ctx: SystemContext, parties: Iterable[Party], task: Task, cost: int) -> list[Party]:
    """Those who did not declare ahead that they take no such task now; who did still counts as serving it."""
    price = None if task.canary else task.price + task.tip
    asked = ctx.timestamp, Kind(task.kind), task.model, cost, price
    return [party for party in parties if not terms.of(ctx, party.operator).refuses(*asked)]


def excused(parties: Iterable[Party], drawn: Sequence[bytes], deadline: int, cost: int) -> int:
    """Bit i: at its rate now a third of the deadline is too short for drawn[i]. (Later rates are of its own choice.)"""
    rates = {party.operator: party.rate for party in parties}
    return sum(1 << i for i, who in enumerate(drawn) if not miss_counts(deadline, cost, rates.get(who, 0)))


def crowded(ctx: ReadContext, parties: Iterable[Party], task: Task, operator: bytes, cost: int) -> bool:
    """Whether an operator to whom a task comes without a deal, for others failed, has no room for it beside what it
    has. Else who declares a speed that it lacks would have its backups miss what was dealt to itself."""
    rate = next((party.rate for party in parties if party.operator == operator), 0)
    return not has_room(IN_FLIGHT.get(ctx, operator), cost, rate, slot_step(task.deadline))


def odds(ctx: ReadContext, weight: int, parties: Iterable[Party], delay: int) -> Odds:
    """What a draw among these is made from, `weight` being all members' and D `delay`: a third of all bond holds at
    most D - 1 proposers in a row, for D is the smallest window that always holds more than a third."""
    params = ctx.params
    able = sum(party.weight for party in parties)
    return Odds(weight, able, max(0, delay - 1), params.sample_num, params.sample_den)


def set_size(ctx: ReadContext) -> int:
    """Members of the current set, jailed or not."""
    head = ledger.set_head(ctx, ctx.params.epoch(ctx.height))
    return head.members if head is not None else 0
