"""Cores and nodes with one guard taken away, to show that the simulator notices. Each is a rule someone might drop."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from unittest.mock import patch

from consensus.bft import core as core_module
from consensus.bft import round as round_module
from consensus.bft.core import Core
from consensus.bft.round import Effect, Event, PolkaAny, RoundState
from consensus.bft.timing import TimeoutKind, Timing
from consensus.bft.votes import Outcome, Tally
from primitives.validators import ValidatorSet
from primitives.vote import NIL_ROUND, SignedVote
from tests.sim.cluster import Node, Signer

Mutation = Callable[[], AbstractContextManager[object]]

_apply = round_module.apply
_add = Tally.add
_start = Node.start


def quorum_one_member_short() -> AbstractContextManager[object]:
    """A quorum that is short of the lightest member's weight."""
    short = property(lambda s: 2 * s.total_power // 3 + 1 - min(v.power for v in s.validators))
    return patch.object(ValidatorSet, "quorum_power", short)


def quorum_is_a_majority() -> AbstractContextManager[object]:
    """More than a half instead of two thirds."""
    return patch.object(ValidatorSet, "quorum_power", property(lambda s: s.total_power // 2 + 1))


def _with_apply(changed: Callable[[RoundState, Event], tuple[RoundState, tuple[Effect, ...]]]) -> Mutation:
    return lambda: patch.object(core_module, "apply", changed)


def _never_locks(state: RoundState, event: Event) -> tuple[RoundState, tuple[Effect, ...]]:
    state, effects = _apply(state, event)
    return replace(state, locked_round=NIL_ROUND, locked_hash=None), effects


def _no_prevote_timer(state: RoundState, event: Event) -> tuple[RoundState, tuple[Effect, ...]]:
    return (state, ()) if isinstance(event, PolkaAny) else _apply(state, event)


@contextmanager
def valid_value_is_forgotten() -> Iterator[None]:
    """Whoever proposes always proposes something new."""

    def forgets(state: RoundState, event: Event) -> tuple[RoundState, tuple[Effect, ...]]:
        changed, effects = _apply(state, event)
        return replace(changed, valid_round=state.valid_round, valid_hash=state.valid_hash), effects

    with patch.object(core_module, "apply", forgets), patch.object(Core, "_earlier_polka", lambda core: None):
        yield


def duplicates_count() -> AbstractContextManager[object]:
    """A vote that comes twice weighs twice."""

    def add(tally: Tally, index: int, power: int, signed: SignedVote, *, certified: bool, known: bool) -> Outcome:
        outcome = _add(tally, index, power, signed, certified=certified, known=known)
        if outcome is Outcome.DUPLICATE:
            tally.weights[signed.vote.block_hash] += power
        return outcome

    return patch.object(Tally, "add", add)


def log_is_lost() -> AbstractContextManager[object]:
    """Nothing was synced: after a crash the node begins its height anew, with neither lock nor memory of its votes."""

    def start(node: Node) -> None:
        node.log = []
        node.signer = Signer()
        _start(node)

    return patch.object(Node, "start", start)


@contextmanager
def nothing_is_sent_again() -> Iterator[None]:
    """No rebroadcast of anything."""
    with (
        patch.object(Core, "_resend_certificates", lambda core: None),
        patch.object(Core, "_on_timeout", _quiet(Core._on_timeout)),
    ):
        yield


def _quiet(handler: Callable[..., None]) -> Callable[..., None]:
    def on_timeout(core: Core, event: object) -> None:
        if getattr(event, "kind", None) is not TimeoutKind.REBROADCAST:
            handler(core, event)

    return on_timeout


MUTATIONS: dict[str, Mutation] = {
    "quorum one member short": quorum_one_member_short,
    "quorum is a majority": quorum_is_a_majority,
    "never locks": _with_apply(_never_locks),
    "no prevote timer": _with_apply(_no_prevote_timer),
    "valid value forgotten": valid_value_is_forgotten,
    "duplicates count": duplicates_count,
    "log is lost": log_is_lost,
    "nothing is sent again": nothing_is_sent_again,
    "every block is late": lambda: patch.object(Timing, "is_timely", lambda *_: False),
}
