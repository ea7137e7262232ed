"""One round of Algorithm 1 of "The latest gossip on BFT consensus" (arXiv 1807.04938), lines 11-67: a pure function.

Knows steps, the lock and the valid value; knows no votes, no weights, no bodies. The core tells it what has come
together as events (each at most as often as its line allows) and carries out the effects.

Two differences from the text, both required by consensus.md or safe by the paper's own argument:

- a value is known by a polka for it and a valid body, without its proposal (a polka holds correct prevotes for it);
- a polka of an earlier round may raise the valid value (never the lock): validRound only says that a polka exists.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

from consensus.bft.timing import TimeoutKind
from primitives.vote import NIL_ROUND, Step


@dataclass(frozen=True, slots=True)
class RoundState:
    """Lines 1-9: round_p, step_p, lockedRound and lockedValue, validRound and validValue (values by hash)."""

    round: int = 0
    step: Step = Step.PROPOSE
    locked_round: int = NIL_ROUND
    locked_hash: bytes | None = None
    valid_round: int = NIL_ROUND
    valid_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """StartRound(round); `proposes`: proposer(h, round) is this node."""

    round: int
    proposes: bool


@dataclass(frozen=True, slots=True)
class Proposed:
    """The round's first proposal. If valid_round >= 0 there is a polka of valid_round for it.

    acceptable: the block is valid and, at valid_round -1, timely and its author's own.
    """

    block_hash: bytes
    valid_round: int
    acceptable: bool


@dataclass(frozen=True, slots=True)
class PolkaAny:
    """Prevotes of more than two thirds in this round, for whatever."""


@dataclass(frozen=True, slots=True)
class PolkaNil:
    """Prevotes of more than two thirds in this round for nil."""


@dataclass(frozen=True, slots=True)
class PolkaValue:
    """Prevotes of more than two thirds in `round`, this one or an earlier one, for a block that is valid."""

    round: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class PrecommitAny:
    """Precommits of more than two thirds in this round, for whatever."""


@dataclass(frozen=True, slots=True)
class PrecommitValue:
    """Precommits of more than two thirds in some round for a block that is valid."""

    block_hash: bytes


@dataclass(frozen=True, slots=True)
class RoundSkip:
    """Votes of more than one third in `round` or later, which is after this one."""

    round: int


@dataclass(frozen=True, slots=True)
class Elapsed:
    """The timer of this kind, armed in `round`, ran out."""

    kind: TimeoutKind
    round: int


Event: TypeAlias = (
    RoundStarted
    | Proposed
    | PolkaAny
    | PolkaNil
    | PolkaValue
    | PrecommitAny
    | PrecommitValue
    | RoundSkip
    | Elapsed
)


@dataclass(frozen=True, slots=True)
class Propose:
    """Propose the valid value if there is one, else a new block."""


@dataclass(frozen=True, slots=True)
class CastPrevote:
    """Broadcast a prevote of this round."""

    block_hash: bytes | None


@dataclass(frozen=True, slots=True)
class CastPrecommit:
    """Broadcast a precommit of this round."""

    block_hash: bytes | None


@dataclass(frozen=True, slots=True)
class Arm:
    """Schedule the timer of this kind for this round."""

    kind: TimeoutKind


@dataclass(frozen=True, slots=True)
class EnterRound:
    """StartRound(round): the core prepares it and answers with RoundStarted."""

    round: int


@dataclass(frozen=True, slots=True)
class DecideValue:
    """decision[h] = the block."""

    block_hash: bytes


Effect: TypeAlias = Propose | CastPrevote | CastPrecommit | Arm | EnterRound | DecideValue


def apply(state: RoundState, event: Event) -> tuple[RoundState, tuple[Effect, ...]]:
    """What the event does in this state; an event that no line answers to changes nothing."""
    match state.step, event:
        # A decided height answers to nothing.
        case Step.DECIDED, _:
            return state, ()

        # Lines 11-21: StartRound.
        case _, RoundStarted(round=round_, proposes=proposes):
            started = replace(state, round=round_, step=Step.PROPOSE)
            return started, (Propose(), Arm(TimeoutKind.PROPOSE)) if proposes else (Arm(TimeoutKind.PROPOSE),)

        # Lines 22-27: a new value; a lock admits only itself.
        case Step.PROPOSE, Proposed(block_hash=block_hash, valid_round=-1, acceptable=acceptable):
            agrees = state.locked_round == NIL_ROUND or state.locked_hash == block_hash
            return _to_prevote(state, block_hash if acceptable and agrees else None)

        # Lines 28-33: a value with a polka of vr; it unlocks whoever locked no later than vr.
        case Step.PROPOSE, Proposed(block_hash=block_hash, valid_round=valid_round, acceptable=acceptable):
            agrees = state.locked_round <= valid_round or state.locked_hash == block_hash
            return _to_prevote(state, block_hash if acceptable and agrees else None)

        # Lines 34-35: for the first time (the core asks once a round).
        case Step.PREVOTE, PolkaAny():
            return state, (Arm(TimeoutKind.PREVOTE),)

        # Lines 36-43, step = prevote: lock and precommit.
        case Step.PREVOTE, PolkaValue(round=round_, block_hash=block_hash) if round_ == state.round:
            locked = replace(
                state,
                step=Step.PRECOMMIT,
                locked_round=round_,
                locked_hash=block_hash,
                valid_round=round_,
                valid_hash=block_hash,
            )
            return locked, (CastPrecommit(block_hash),)

        # Lines 42-43, step > prevote: remember the valid value only. Likewise for a polka of an earlier round, which
        # counts in every step, also in propose.
        case step, PolkaValue(round=round_, block_hash=block_hash) if (
            step is Step.PRECOMMIT or round_ < state.round
        ) and round_ > state.valid_round:
            return replace(state, valid_round=round_, valid_hash=block_hash), ()

        # Lines 44-46.
        case Step.PREVOTE, PolkaNil():
            return replace(state, step=Step.PRECOMMIT), (CastPrecommit(None),)

        # Lines 47-48: for the first time (the core asks once a round).
        case _, PrecommitAny():
            return state, (Arm(TimeoutKind.PRECOMMIT),)

        # Lines 49-54.
        case _, PrecommitValue(block_hash=block_hash):
            return replace(state, step=Step.DECIDED), (DecideValue(block_hash),)

        # Lines 55-56.
        case _, RoundSkip(round=round_) if round_ > state.round:
            return state, (EnterRound(round_),)

        # Lines 57-60: OnTimeoutPropose.
        case Step.PROPOSE, Elapsed(kind=TimeoutKind.PROPOSE, round=round_) if round_ == state.round:
            return _to_prevote(state, None)

        # Lines 61-64: OnTimeoutPrevote.
        case Step.PREVOTE, Elapsed(kind=TimeoutKind.PREVOTE, round=round_) if round_ == state.round:
            return replace(state, step=Step.PRECOMMIT), (CastPrecommit(None),)

        # Lines 65-67: OnTimeoutPrecommit.
        case _, Elapsed(kind=TimeoutKind.PRECOMMIT, round=round_) if round_ == state.round:
            return state, (EnterRound(round_ + 1),)

    return state, ()


def _to_prevote(state: RoundState, block_hash: bytes | None) -> tuple[RoundState, tuple[Effect, ...]]:
    return replace(state, step=Step.PREVOTE), (CastPrevote(block_hash),)
