"""What finished work counts: multiply-adds of an epoch, and their exponential average C (docs/formats.md, Units).

Pure integers. Whether a task may count at all (listed model, enough servers, room) is decided where it is dealt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from primitives.params import ChainParams
from primitives.task import Kind, ModelCost


def fresh_work(cost: ModelCost, kind: Kind, prompt: int, result: int, encoder: bool) -> int:
    """Multiply-adds of a task that no earlier task on a prompt of the same beginning can have left in a cache.

    Generating: everything beyond the prompt. A decoder that embeds or scores: the last position and its logits, for all
    before it depend on their own beginnings alone. An encoder attends both ways: one other token changes every
    position, so that all of it is fresh (docs/decisions/013).
    """
    if kind is Kind.GENERATE:
        return cost.decode(kind, prompt, result)
    whole = cost.execution(kind, prompt, result)
    return whole if encoder else whole - cost.execution(kind, prompt - 1, max(0, result - 1))


def execution_credit(cost: ModelCost, kind: Kind, prompt: int, result: int, encoder: bool) -> int:
    """Multiply-adds that executing a task counts: what is fresh, plus the rest up to the same amount.

    More than that counts for nothing, or long cached prompts would earn without work.
    """
    fresh = fresh_work(cost, kind, prompt, result, encoder)
    return fresh + min(cost.execution(kind, prompt, result) - fresh, fresh)


def audit_credit(cost: ModelCost, kind: Kind, prompt: int, result: int, encoder: bool) -> int:
    """Multiply-adds that checking a task counts, at the audit weight: a whole generation, of a vector what executing
    it counts."""
    if kind is Kind.GENERATE:
        return cost.audit(kind, prompt, result)
    return cost.weighed(execution_credit(cost, kind, prompt, result, encoder))


def epoch_work(executed: int, audited: int) -> int:
    """w: what one executed in an epoch plus audits at their weight, these capped at a third of the first."""
    return executed + min(audited, executed // 3)


def next_credit(params: ChainParams, credit: int, work: int) -> int:
    """C' = (9 C + w) // 10."""
    keep, of = params.credit_keep_num, params.credit_keep_den
    return (keep * credit + (of - keep) * work) // of


@dataclass(frozen=True)
class Server:
    """An operator of the current set, as seen by the rule on which models count."""

    bond: int
    serves: bool


def model_counts(params: ChainParams, members: Sequence[Server]) -> bool:
    """Whether work on a listed model earns credit: enough operators serve it, and they hold half of the bond.

    Enough: 4, on a devnet min(4, set size). Measured over the current set's members that are not jailed, before room.
    """
    needed = min(4, len(members)) if params.devnet else 4
    serving = [member for member in members if member.serves]
    held = sum(member.bond for member in serving)
    return len(serving) >= max(1, needed) and 2 * held >= sum(member.bond for member in members)


def scaled_by_room(credit: int, bond_with_room: int, bond_serving: int) -> int:
    """A task's credit in proportion to the share of the serving bond that had room for it when it was dealt."""
    assert 0 <= bond_with_room <= bond_serving
    return credit * bond_with_room // bond_serving if bond_serving else 0


def canary_of(params: ChainParams, context: int, encoder: bool) -> tuple[Kind, int]:
    """What a canary asks of a model, and the tokens of its prompt (generating: also of its answer).

    canary_tokens in and out, or what the context holds; an encoder embeds.
    """
    return Kind.EMBED if encoder else Kind.GENERATE, min(params.canary_tokens, context // 2)


def least_credit(params: ChainParams, models: Iterable[tuple[ModelCost, int, bool]]) -> int:
    """What one whole canary leaves in C, the least over the listed models; a C below it counts as 0. At least 1.

    models: (cost, context in tokens, whether it is an encoder). The canary's whole credit would be too much to ask:
    without demand C has just reached it after three epochs, so that half of a young chain would have no target.
    """
    credits = []
    for cost, context, encoder in models:
        kind, tokens = canary_of(params, context, encoder)
        credits.append(execution_credit(cost, kind, tokens, tokens, encoder))
    return max(1, next_credit(params, 0, min(credits, default=1)))
