"""What finished work counts: multiply-adds of an epoch, and their exponential average C (docs/formats.md, Units).

Pure integers. Whether a task may count at all (listed model, enough servers, room) is decided where it is dealt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from primitives.params import ChainParams
from primitives.task import ModelCost


def execution_credit(prefill: int, decode: int) -> int:
    """Multiply-adds that executing a task counts: decode, plus prefill up to the same amount.

    More prefill than decode counts for nothing, or long cached prompts would earn without work.
    """
    assert prefill >= 0
    assert decode >= 0
    return decode + min(prefill, decode)


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


def canary_credit(params: ChainParams, models: Iterable[tuple[ModelCost, int]]) -> int:
    """The least credit that one whole canary brings, over the listed models; a C below it counts as 0. At least 1.

    models: (cost, context in tokens). A canary asks canary_tokens in and out, or what the context holds.
    """
    credits = []
    for cost, context in models:
        tokens = min(params.canary_tokens, context // 2)
        credits.append(execution_credit(cost.prefill(tokens), cost.decode(tokens, tokens)))
    return max(1, min(credits, default=1))
