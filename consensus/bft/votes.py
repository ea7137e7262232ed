"""Counting votes: the tallies of a round, and what is kept of rounds that have not begun.

Members are named by their place in set order; who they are, and whether a signature is good, was settled before.
Everything here is bounded by the size of the set, whatever peers send.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from primitives.vote import SignedProposal, SignedVote, VoteType

FURTHER_VALUES_MAX = 4
"""Values of one signer, round and type beyond its first: enough for every value that a round can have (two proposals,
nil and one with a certificate), so that an equivocator cannot hide a quorum by voting for something else first."""
FUTURE_VOTES_MAX = 4
"""Votes of one signer kept for a round that has not begun: two of each type."""
PROPOSALS_MAX = 2
"""Distinct proposals of one round kept without a certificate for their block."""


class Outcome(IntEnum):
    """What became of a vote."""

    COUNTED = 0
    DUPLICATE = 1
    EQUIVOCATION_COUNTED = 2
    EQUIVOCATION_DROPPED = 3


class Tally:
    """The votes of one type in one round. A signer counts once in `weight` and once in each of its values' weight."""

    __slots__ = ("accused", "first", "further", "weight", "weights")

    def __init__(self) -> None:
        self.first: dict[int, SignedVote] = {}
        self.further: dict[int, list[SignedVote]] = {}
        self.weight = 0
        self.weights: dict[bytes | None, int] = {}
        self.accused: set[int] = set()

    def add(self, index: int, power: int, signed: SignedVote, *, certified: bool, known: bool) -> Outcome:
        """Count the vote of the member at `index`.

        known: its value has a proposal or a certificate, or is nil. A second value of one signer is counted only if
        known, and at most FURTHER_VALUES_MAX of them; certified (it came inside a certificate) lifts both limits.
        """
        value = signed.vote.block_hash
        first = self.first.get(index)
        if first is None:
            self.first[index] = signed
            self.weight += power
            self.weights[value] = self.weights.get(value, 0) + power
            return Outcome.COUNTED
        if first.vote.block_hash == value:
            return Outcome.DUPLICATE
        further = self.further.get(index, [])
        if any(other.vote.block_hash == value for other in further):
            return Outcome.DUPLICATE
        if not certified and (not known or len(further) >= FURTHER_VALUES_MAX):
            return Outcome.EQUIVOCATION_DROPPED
        self.further[index] = [*further, signed]
        self.weights[value] = self.weights.get(value, 0) + power
        return Outcome.EQUIVOCATION_COUNTED

    def accuse(self, index: int) -> bool:
        """Whether the member's equivocation is news here; it is not the next time."""
        if index in self.accused:
            return False
        self.accused.add(index)
        return True

    def signatures(self, value: bytes | None) -> dict[int, bytes]:
        """Place in set order -> signature, of everyone who voted for the value."""
        found = {index: signed.signature for index, signed in self.first.items() if signed.vote.block_hash == value}
        for index, further in self.further.items():
            for signed in further:
                if signed.vote.block_hash == value:
                    found[index] = signed.signature
        return found


class RoundVotes:
    """Both tallies of a round, and its proposals in order of arrival."""

    __slots__ = ("precommits", "prevotes", "proposals")

    def __init__(self) -> None:
        self.prevotes = Tally()
        self.precommits = Tally()
        self.proposals: list[tuple[SignedProposal, int]] = []
        """With received_ms."""

    def of(self, kind: VoteType) -> Tally:
        """The tally of this type."""
        return self.prevotes if kind is VoteType.PREVOTE else self.precommits

    def proposes(self, block_hash: bytes) -> bool:
        """Whether a proposal of the round names the block."""
        return any(signed.proposal.block_hash == block_hash for signed, _ in self.proposals)


@dataclass(slots=True)
class FutureMessages:
    """What is kept of one signer for later: votes of the highest round it voted in, proposals of the highest it
    proposed in. Apart, so that a proposer's new proposal does not wipe out the votes that prove where it is."""

    votes_round: int = -1
    votes: list[SignedVote] = field(default_factory=list)
    proposals_round: int = -1
    proposals: list[tuple[SignedProposal, int]] = field(default_factory=list)

    def add_vote(self, signed: SignedVote) -> str:
        """Keep a vote; the reason if it was dropped, or an empty string."""
        round_ = signed.vote.round
        if round_ < self.votes_round:
            return "signer already voted in a later round"
        if round_ > self.votes_round:
            self.votes_round = round_
            self.votes.clear()
        if any(signed.vote == other.vote for other in self.votes):
            return "duplicate vote"
        if len(self.votes) >= FUTURE_VOTES_MAX:
            return "too many votes of one signer for a later round"
        self.votes.append(signed)
        return ""

    def add_proposal(self, signed: SignedProposal, received_ms: int) -> str:
        """Keep a proposal; the reason if it was dropped, or an empty string."""
        round_ = signed.proposal.round
        if round_ < self.proposals_round:
            return "signer already proposed in a later round"
        if round_ > self.proposals_round:
            self.proposals_round = round_
            self.proposals.clear()
        if any(signed.proposal == other.proposal for other, _ in self.proposals):
            return "duplicate proposal"
        if len(self.proposals) >= PROPOSALS_MAX:
            return "too many proposals of one signer for a later round"
        self.proposals.append((signed, received_ms))
        return ""


def highest_round_of_third(futures: dict[int, FutureMessages], powers: tuple[int, ...], over_third_power: int) -> int:
    """The highest round that signers of more than one third have reached or passed; -1 if there is none.

    The textbook asks for one and the same round; with only the highest kept of each signer, reaching or passing is
    what can be counted, and it proves the same: a correct member is there.
    """
    weight = 0
    reached = [(future.votes_round, index) for index, future in futures.items() if future.votes]
    for round_, index in sorted(reached, reverse=True):
        weight += powers[index]
        if weight >= over_third_power:
            return round_
    return -1
