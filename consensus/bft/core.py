"""The agreement core of one node: inputs in, outputs out (Tendermint, arXiv 1807.04938, weighted by useful work).

It owns what is known of the height being decided: votes, proposals, certificates, which blocks were checked. The lines
of the algorithm are in round.py; this file notices that a line's condition holds and carries out its effects.

It refuses to know clocks, keys, disks, networks and what is inside a block. The same inputs in the same order give the
same outputs, so replaying the log rebuilds it. Whatever peers send, memory is bounded: by the size of the validator
set, by ROUNDS_KEPT rounds, and by POLKAS_KEPT certificates.

Additions to the text (consensus.md): (a) an equivocator counts once in each value's tally (votes.py); (b) two distinct
proposals of a round are kept, the first is prevoted, any is locked and decided on; (c) polka and round certificates
are sent again on entering propose and on the rebroadcast timer; (d) of later rounds only the highest of each signer is
kept, of later heights only the next one's; certificates bypass both.
"""

from dataclasses import dataclass

from consensus.bft import proposer as rotation
from consensus.bft.certificate import commit_certificate, polka_certificate, round_certificate, votes_of
from consensus.bft.inputs import (
    BlockBuilt,
    BlockChecked,
    CertificateReceived,
    Input,
    ProposalReceived,
    StartHeight,
    StatusReceived,
    TimeoutElapsed,
    VoteReceived,
)
from consensus.bft.outputs import (
    Broadcast,
    BuildBlock,
    CheckBlock,
    Decide,
    Dropped,
    Evidence,
    FetchBlock,
    Halt,
    Output,
    Redeliver,
    Resend,
    ScheduleTimeout,
    SendCommit,
    SendStatus,
)
from consensus.bft.round import (
    Arm,
    CastPrecommit,
    CastPrevote,
    DecideValue,
    Effect,
    Elapsed,
    EnterRound,
    Event,
    PolkaAny,
    PolkaNil,
    PolkaValue,
    PrecommitAny,
    PrecommitValue,
    Propose,
    Proposed,
    RoundSkip,
    RoundStarted,
    RoundState,
    apply,
)
from consensus.bft.timing import TimeoutKind, Timing
from consensus.bft.votes import PROPOSALS_MAX, FutureMessages, Outcome, RoundVotes, Tally, highest_round_of_third
from primitives.validators import ValidatorSet
from primitives.vote import (
    NIL_ROUND,
    CommitCertificate,
    PolkaCertificate,
    Proposal,
    RoundCertificate,
    Signed,
    SignedProposal,
    SignedVote,
    Step,
    Vote,
    VoteType,
    step_of,
)

ROUNDS_KEPT = 8
"""Rounds before the current one whose votes are still counted: late precommits may complete a decision."""
POLKAS_KEPT = 16
"""Polka certificates kept beside those of the lock and the valid value: proposals refer to recent rounds."""
ROUNDS_SKIPPED_MAX = 65_536
"""Longest jump to a later round: the rotation walks through every round of it (about a second for 128 members)."""


@dataclass(slots=True)
class _Block:
    """What is known of a block that was named at this height."""

    body_size: int | None
    parts_root: bytes | None
    fetching: bool = False
    checking: bool = False
    result: BlockChecked | None = None


class Core:
    """The agreement of one node, whose consensus address is own_address (None: it only follows)."""

    def __init__(self, own_address: bytes | None, timing: Timing) -> None:
        self.own_address = own_address
        self.timing = timing
        self.height = 0
        self.state = RoundState()
        self.halted = False
        self._outputs: list[Output] = []
        self._early: dict[bytes, FutureMessages] = {}
        self._next_set: ValidatorSet | None = None

    # ------------------------------------------------------------------ the door

    def receive(self, event: Input) -> list[Output]:
        """All that follows from one input, in order."""
        self._outputs = []
        if self.halted:
            self._drop("halted", self.height, self.state.round, b"")
            return self._outputs
        match event:
            case StartHeight():
                self._start_height(event)
            case _ if self.height == 0:
                self._drop("no height has begun", 0, 0, b"")
            case VoteReceived():
                self._on_vote(event)
            case ProposalReceived():
                self._on_proposal(event)
            case BlockChecked():
                self._on_checked(event)
            case BlockBuilt():
                self._on_built(event)
            case CertificateReceived():
                self._on_certificate(event)
            case StatusReceived():
                self._on_status(event)
            case TimeoutElapsed():
                self._on_timeout(event)
        self._settle()
        return self._outputs

    def resume(self) -> list[Output]:
        """After a replay: everything still outstanding, to be carried out again (outputs of the replay were not)."""
        if self.height == 0 or self.halted:
            return []
        self._outputs = [SendStatus(self.height, self.state.round, self.state.step)]
        self._arm(TimeoutKind.REBROADCAST, 0)
        if self.state.step is Step.DECIDED:
            assert self._commit is not None
            self._outputs.append(Decide(self.height, self._commit.block_hash, self._commit))
            return self._outputs
        if self.state.step is Step.PROPOSE:
            self._arm(TimeoutKind.PROPOSE, self.state.round)
        if self._armed_prevote:
            self._arm(TimeoutKind.PREVOTE, self.state.round)
        if self._armed_precommit:
            self._arm(TimeoutKind.PRECOMMIT, self.state.round)
        for block_hash, block in self._blocks.items():
            if block.fetching and block.result is None:
                self._outputs.append(FetchBlock(self.height, block_hash, block.body_size, block.parts_root))
                if block.checking:
                    self._outputs.append(CheckBlock(self.height, block_hash))
        if self._building == self.state.round:
            self._outputs.append(BuildBlock(self.height, self._building))
        self._outputs.extend(Resend(signed) for signed in self._own.values())
        self._outputs.extend(Broadcast(message) for message in self._unsigned.values())
        return self._outputs

    @property
    def round(self) -> int:
        """Round of the height being decided."""
        return self.state.round

    @property
    def decided(self) -> bool:
        """Whether this height is decided and the next has not begun."""
        return self.state.step is Step.DECIDED

    @property
    def is_behind(self) -> bool:
        """Whether members with more than a third of the next height's power have begun it: one of them is correct."""
        following = self._next_set
        if following is None or not self._early:
            return False
        places = [following.index_of(signer) for signer in self._early]
        return following.is_over_third(following.power_of(place for place in places if place is not None))

    def names(self, block_hash: bytes) -> bool:
        """Whether the block can still matter at this height; what no line needs any more is let go of (_forget)."""
        return block_hash in self._blocks or (self._commit is not None and self._commit.block_hash == block_hash)

    # ------------------------------------------------------------------ heights and rounds

    def _start_height(self, event: StartHeight) -> None:
        assert event.height > self.height and len(event.priorities) == len(event.validator_set)
        early = self._early if event.height == self.height + 1 else {}
        self._early = {}
        self._next_set = event.next_validator_set
        self.height = event.height
        self.validator_set = event.validator_set
        self._powers = tuple(member.power for member in event.validator_set.validators)
        self._quorum = event.validator_set.quorum_power
        self._own_index = None if self.own_address is None else event.validator_set.index_of(self.own_address)
        self._priorities = list(event.priorities)
        self._proposers: dict[int, int] = {}
        self._proposers_to = 0
        self._rounds: dict[int, RoundVotes] = {}
        self._futures: dict[int, FutureMessages] = {}
        self._skip_to = -1
        self._polkas: dict[int, PolkaCertificate] = {}
        self._blocks: dict[bytes, _Block] = {}
        self._commit: CommitCertificate | None = None
        self._building = NIL_ROUND
        self._round_certificate: RoundCertificate | None = None
        self._own: dict[tuple[int, int], Signed] = {}
        self._unsigned: dict[tuple[int, int], Proposal | Vote] = {}
        self.state = RoundState()
        self._outputs.append(SendStatus(self.height, 0, Step.PROPOSE))
        self._arm(TimeoutKind.REBROADCAST, 0)
        self._enter_round(0)
        for signer, messages in early.items():
            for signed, received_ms in messages.proposals:
                self._outputs.append(Redeliver(ProposalReceived(signed, signer, received_ms)))
            for vote in messages.votes:
                self._outputs.append(Redeliver(VoteReceived(vote, signer)))

    def _enter_round(self, round_: int) -> None:
        """Lines 11-21, and addition (c)."""
        self._round_certificate = self._proof_of(round_) if round_ > 0 else None
        self._advance_rotation(round_)
        self._votes = self._rounds.setdefault(round_, RoundVotes())
        self._armed_prevote = self._armed_precommit = self._polka_seen = False
        self._polkas_changed = True
        self._building = NIL_ROUND
        proposes = self._own_index is not None and self._proposers[round_] == self._own_index
        if round_ > 0:
            self._outputs.append(SendStatus(self.height, round_, Step.PROPOSE))
        self._apply(RoundStarted(round_, proposes))
        if round_ > 0:
            self._resend_certificates()
        self._forget(round_)
        self._claim_future(round_)

    def _advance_rotation(self, round_: int) -> None:
        """Work out the proposers up to this round; those of the rounds still kept are remembered."""
        while self._proposers_to <= round_:
            self._proposers[self._proposers_to] = rotation.step(self.validator_set, self._priorities)
            self._proposers.pop(self._proposers_to - ROUNDS_KEPT - 1, None)
            self._proposers_to += 1

    def _claim_future(self, round_: int) -> None:
        """Take over what was kept for rounds that are not in the future any more."""
        futures = [(i, f) for i, f in self._futures.items() if min(f.votes_round, f.proposals_round) <= round_]
        for index, future in futures:
            votes, proposals = future.votes, future.proposals
            if future.proposals_round <= round_:
                future.proposals_round, future.proposals = -1, []
                for signed, received_ms in proposals:
                    self._add_proposal(index, signed, received_ms)
            if future.votes_round <= round_:
                future.votes_round, future.votes = -1, []
                for vote in votes:
                    self._add_vote(index, vote, certified=False)
            if not future.votes and not future.proposals:
                del self._futures[index]

    def _forget(self, round_: int) -> None:
        """Let go of what no line can need any more; what is locked or valid stays."""
        self._unsigned = {key: message for key, message in self._unsigned.items() if key[0] >= round_ - 1}
        oldest = round_ - ROUNDS_KEPT
        if oldest <= 0:
            return
        kept_rounds = (self.state.locked_round, self.state.valid_round)
        self._rounds = {r: votes for r, votes in self._rounds.items() if r >= oldest}
        self._own = {key: signed for key, signed in self._own.items() if key[0] >= oldest or key[0] in kept_rounds}
        named = {self.state.locked_hash, self.state.valid_hash, self._commit and self._commit.block_hash}
        named.update(polka.block_hash for polka in self._polkas.values())
        for votes in self._rounds.values():
            named.update(signed.proposal.block_hash for signed, _ in votes.proposals)
        self._blocks = {block_hash: block for block_hash, block in self._blocks.items() if block_hash in named}

    # ------------------------------------------------------------------ inputs

    def _on_vote(self, event: VoteReceived) -> None:
        signed, vote = event.vote, event.vote.vote
        if vote.height != self.height:
            self._keep_early(event.signer, vote.height, vote.round, event)
            return
        if self.state.step is Step.DECIDED:
            self._drop("height is decided", vote.height, vote.round, event.signer)
            return
        index = self.validator_set.index_of(event.signer)
        if index is None:
            self._drop("signer is not in the set", vote.height, vote.round, event.signer)
            return
        if index == self._own_index:
            self._note_own(vote, signed)
        self._add_vote(index, signed, certified=False)

    def _on_proposal(self, event: ProposalReceived) -> None:
        signed, proposal = event.proposal, event.proposal.proposal
        if proposal.height != self.height:
            self._keep_early(event.signer, proposal.height, proposal.round, event)
            return
        if self.state.step is Step.DECIDED:
            self._drop("height is decided", proposal.height, proposal.round, event.signer)
            return
        index = self.validator_set.index_of(event.signer)
        if index is None:
            self._drop("signer is not in the set", proposal.height, proposal.round, event.signer)
            return
        if index == self._own_index:
            self._note_own(proposal, signed)
        self._add_proposal(index, signed, event.received_ms)

    def _on_checked(self, event: BlockChecked) -> None:
        block = self._blocks.get(event.block_hash) if event.height == self.height else None
        if block is None or not block.checking or block.result is not None:
            self._drop("nobody asked for this check", event.height, self.state.round, event.block_hash)
            return
        block.result = event
        self._polkas_changed = True

    def _on_built(self, event: BlockBuilt) -> None:
        """Line 18 with getValue() answered."""
        current = event.height == self.height and event.round == self._building
        if not current or self.state.step is not Step.PROPOSE:
            self._drop("built too late", event.height, event.round, event.block_hash)
            return
        if self.state.valid_hash is not None:
            # A polka of an earlier round came to light meanwhile: line 16 goes first.
            self._propose()
            self._resend_certificates()
            return
        self._building = NIL_ROUND
        block = self._blocks.setdefault(event.block_hash, _Block(event.body_size, event.parts_root))
        block.fetching = block.checking = True
        if block.result is None:
            where = (event.time_ms, event.proposer, event.body_size, event.parts_root)
            block.result = BlockChecked(event.height, event.block_hash, True, "", *where)
        self._offer(event.block_hash, NIL_ROUND, event.body_size, event.parts_root)

    def _on_certificate(self, event: CertificateReceived) -> None:
        certificate = event.certificate
        if certificate.height != self.height or self.state.step is Step.DECIDED:
            self._drop("certificate of another height", certificate.height, certificate.round, b"")
            return
        if isinstance(certificate, CommitCertificate):
            if self._commit is not None and self._commit.block_hash == certificate.block_hash:
                self._drop("duplicate certificate", certificate.height, certificate.round, b"")
            self._add_commit(certificate)
            return
        if certificate.round > self.state.round + ROUNDS_SKIPPED_MAX:
            self._drop("certificate too far ahead", certificate.height, certificate.round, b"")
            return
        if isinstance(certificate, PolkaCertificate):
            if certificate.round in self._polkas:
                self._drop("duplicate certificate", certificate.height, certificate.round, b"")
                return
            self._add_polka(certificate)
        elif certificate.round < self.state.round - ROUNDS_KEPT:
            self._drop("round is long past", certificate.height, certificate.round, b"")
            return
        news = isinstance(certificate, PolkaCertificate)
        if certificate.round > self.state.round:
            # Line 55: it holds votes of more than a third.
            news = True
            self._apply(RoundSkip(certificate.round))
            if isinstance(certificate, RoundCertificate):
                self._round_certificate = certificate
        for index, signed in votes_of(self.validator_set, certificate):
            news = self._add_vote(index, signed, certified=True) or news
        if not news:
            self._drop("duplicate certificate", certificate.height, certificate.round, b"")

    def _on_status(self, event: StatusReceived) -> None:
        height = event.status.height
        if height < self.height or (height == self.height and self.state.step is Step.DECIDED):
            self._outputs.append(SendCommit(event.peer, height))

    def _on_timeout(self, event: TimeoutElapsed) -> None:
        if event.height != self.height:
            return
        if event.kind is not TimeoutKind.REBROADCAST:
            self._apply(Elapsed(event.kind, event.round))
            return
        self._outputs.append(SendStatus(self.height, self.state.round, self.state.step))
        if self.state.step is not Step.DECIDED:
            for (round_, _), signed in self._own.items():
                if round_ >= self.state.round - 1 or round_ == self.state.locked_round:
                    self._outputs.append(Resend(signed))
            self._resend_certificates()
            if self._commit is not None:
                self._outputs.append(Resend(self._commit))
        self._arm(TimeoutKind.REBROADCAST, 0)

    def _note_own(self, message: Proposal | Vote, signed: Signed) -> None:
        """An own message came back signed; it is sent again while its round matters."""
        key = (message.round, step_of(message))
        if message.round <= self.state.round:
            self._own.setdefault(key, signed)
        if self._unsigned.get(key) == message:
            del self._unsigned[key]

    def _keep_early(self, signer: bytes, height: int, round_: int, event: VoteReceived | ProposalReceived) -> None:
        """Addition (d): of later heights only the next one's, and of each signer only the highest round."""
        if height != self.height + 1:
            self._drop("height is past" if height < self.height else "height too far ahead", height, round_, signer)
            return
        if self._next_set is None or self._next_set.index_of(signer) is None:
            self._drop("signer is not in the next height's set", height, round_, signer)
            return
        messages = self._early.setdefault(signer, FutureMessages())
        if isinstance(event, VoteReceived):
            reason = messages.add_vote(event.vote)
        else:
            reason = messages.add_proposal(event.proposal, event.received_ms)
        if reason:
            self._drop(reason, height, round_, signer)

    # ------------------------------------------------------------------ what is known of the height

    def _add_vote(self, index: int, signed: SignedVote, *, certified: bool) -> bool:
        """Count or keep a member's vote; whether it was news. Old news in a certificate goes quietly."""
        vote = signed.vote
        round_, value = vote.round, vote.block_hash
        if round_ > self.state.round:
            return self._add_future_vote(index, signed, certified=certified)
        votes = self._rounds.get(round_)
        if votes is None:
            if round_ < self.state.round - ROUNDS_KEPT:
                if not certified:
                    self._drop("round is long past", vote.height, round_, self._address(index))
                return False
            votes = self._rounds[round_] = RoundVotes()
        prevote = vote.type is VoteType.PREVOTE
        tally = votes.prevotes if prevote else votes.precommits
        # Only a signer's second vote needs to be about something known.
        known = index in tally.first and (value is None or votes.proposes(value) or self._is_certified(value))
        outcome = tally.add(index, self._powers[index], signed, certified=certified, known=known)
        if outcome is Outcome.DUPLICATE:
            if not certified:
                self._drop("duplicate vote", vote.height, round_, self._address(index))
            return False
        if outcome is not Outcome.COUNTED:
            self._note_equivocation(index, tally, signed)
            if outcome is Outcome.EQUIVOCATION_DROPPED:
                self._drop("further vote for an unknown value", vote.height, round_, self._address(index))
                return False
        if value is None or tally.weights[value] < self._quorum:
            return True
        if prevote and round_ not in self._polkas:
            signatures = tally.signatures(value)
            self._add_polka(polka_certificate(self.validator_set, self.height, round_, value, signatures))
        elif not prevote and self._commit is None:
            signatures = tally.signatures(value)
            self._add_commit(commit_certificate(self.validator_set, self.height, round_, value, signatures))
        return True

    def _add_future_vote(self, index: int, signed: SignedVote, *, certified: bool) -> bool:
        vote = signed.vote
        if vote.round > self.state.round + ROUNDS_SKIPPED_MAX:
            self._drop("round too far ahead", vote.height, vote.round, self._address(index))
            return False
        future = self._futures.setdefault(index, FutureMessages())
        before = future.votes_round
        reason = future.add_vote(signed)
        if reason:
            if not certified:
                self._drop(reason, vote.height, vote.round, self._address(index))
            return False
        if before != vote.round:
            over_third = self.validator_set.over_third_power
            self._skip_to = highest_round_of_third(self._futures, self._powers, over_third)
        return True

    def _add_proposal(self, index: int, signed: SignedProposal, received_ms: int) -> None:
        proposal = signed.proposal
        round_ = proposal.round
        signer = self._address(index)
        if round_ > self.state.round:
            future = self._futures.setdefault(index, FutureMessages())
            reason = future.add_proposal(signed, received_ms)
            if reason:
                self._drop(reason, proposal.height, round_, signer)
            return
        if round_ < self.state.round - ROUNDS_KEPT:
            self._drop("round is long past", proposal.height, round_, signer)
            return
        if self._proposers[round_] != index:
            self._drop("signer is not the proposer of the round", proposal.height, round_, signer)
            return
        votes = self._rounds.setdefault(round_, RoundVotes())
        known = votes.proposals
        if any(other.proposal == proposal for other, _ in known):
            self._drop("duplicate proposal", proposal.height, round_, signer)
            return
        if len(known) == 1:
            self._outputs.append(Evidence(signer, known[0][0], signed))
        if len(known) >= PROPOSALS_MAX and (
            votes.proposes(proposal.block_hash) or not self._is_certified(proposal.block_hash)
        ):
            self._drop("third proposal of the round", proposal.height, round_, signer)
            return
        known.append((signed, received_ms))
        if round_ == self.state.round:
            self._want_proposed(proposal, len(known) - 1)

    def _add_polka(self, certificate: PolkaCertificate) -> None:
        if self._polkas.setdefault(certificate.round, certificate) is not certificate:
            return
        self._polkas_changed = True
        if len(self._polkas) > POLKAS_KEPT:
            needed = {self.state.locked_round, self.state.valid_round}
            needed.update(signed.proposal.valid_round for signed, _ in self._votes.proposals[:1])
            spare = min((r for r in self._polkas if r not in needed), default=NIL_ROUND)
            self._polkas.pop(spare, None)

    def _add_commit(self, certificate: CommitCertificate) -> None:
        if self._commit is None:
            self._commit = certificate
        elif self._commit.block_hash != certificate.block_hash:
            other = self._commit.block_hash.hex()
            self._halt(certificate.block_hash, f"it and {other} both have commits: more than a third of the power lied")

    def _is_certified(self, block_hash: bytes) -> bool:
        if self._commit is not None and self._commit.block_hash == block_hash:
            return True
        return any(polka.block_hash == block_hash for polka in self._polkas.values())

    def _note_equivocation(self, index: int, tally: Tally, signed: SignedVote) -> None:
        if tally.accuse(index):
            self._outputs.append(Evidence(self._address(index), tally.first[index], signed))

    def _want_proposed(self, proposal: Proposal, position: int) -> None:
        """Have a proposed block fetched; only the round's first is checked before it has a polka."""
        block = self._blocks.setdefault(proposal.block_hash, _Block(proposal.body_size, proposal.parts_root))
        if block.body_size is None:
            block.body_size, block.parts_root = proposal.body_size, proposal.parts_root
        self._want(proposal.block_hash, block, check=position == 0)

    def _want(self, block_hash: bytes, block: _Block, *, check: bool) -> None:
        if not block.fetching:
            block.fetching = True
            self._outputs.append(FetchBlock(self.height, block_hash, block.body_size, block.parts_root))
        if check and not block.checking:
            block.checking = True
            self._outputs.append(CheckBlock(self.height, block_hash))

    def _is_valid(self, block_hash: bytes) -> bool:
        """Whether a block that more than two thirds stand behind was found valid; has it checked if it was not yet."""
        block = self._blocks.setdefault(block_hash, _Block(None, None))
        self._want(block_hash, block, check=True)
        if block.result is None:
            return False
        if not block.result.valid:
            self._halt(block_hash, f"a quorum stands behind it, but here it is invalid: {block.result.reason}")
        return block.result.valid

    # ------------------------------------------------------------------ which line applies

    def _settle(self) -> None:
        """Apply lines until none applies."""
        while not self.halted and self.state.step is not Step.DECIDED:
            event = self._next_event()
            if event is None or self.halted:
                return
            self._apply(event)

    def _next_event(self) -> Event | None:
        """The next line whose condition holds. Each either changes the state or is marked as seen for this round."""
        if self.height == 0:
            return None
        state, votes = self.state, self._votes
        if self._commit is not None and self._is_valid(self._commit.block_hash):
            return PrecommitValue(self._commit.block_hash)
        if state.step is Step.PROPOSE:
            proposed = self._first_proposal()
            if proposed is not None:
                return proposed
        else:
            polka = self._polkas.get(state.round)
            if polka is not None and not self._polka_seen and self._is_valid(polka.block_hash):
                self._polka_seen = True
                return PolkaValue(state.round, polka.block_hash)
            if state.step is Step.PREVOTE:
                if votes.prevotes.weights.get(None, 0) >= self._quorum:
                    return PolkaNil()
                if not self._armed_prevote and votes.prevotes.weight >= self._quorum:
                    self._armed_prevote = True
                    return PolkaAny()
        if not self._armed_precommit and votes.precommits.weight >= self._quorum:
            self._armed_precommit = True
            return PrecommitAny()
        if self._skip_to > state.round:
            return RoundSkip(self._skip_to)
        return self._earlier_polka() if self._polkas_changed else None

    def _first_proposal(self) -> Proposed | None:
        """Lines 22 and 28 for the round's first proposal, once there is enough to judge it; addition (b)."""
        if not self._votes.proposals:
            return None
        signed, received_ms = self._votes.proposals[0]
        block_hash, valid_round = signed.proposal.block_hash, signed.proposal.valid_round
        state = self.state
        if valid_round != NIL_ROUND:
            polka = self._polkas.get(valid_round)
            if polka is None or polka.block_hash != block_hash:
                return None
            if state.locked_round > valid_round and state.locked_hash != block_hash:
                return Proposed(block_hash, valid_round, False)
            if not self._is_valid(block_hash):
                return None
            return Proposed(block_hash, valid_round, self._describes_body(signed.proposal))
        if state.locked_round != NIL_ROUND and state.locked_hash != block_hash:
            return Proposed(block_hash, valid_round, False)
        result = self._blocks[block_hash].result
        if result is None:
            return None
        author = self.validator_set.validators[self._proposers[state.round]].operator
        timely = self.timing.is_timely(result.time_ms, received_ms, state.round)
        own = result.valid and result.proposer == author and self._describes_body(signed.proposal)
        return Proposed(block_hash, valid_round, own and timely)

    def _describes_body(self, proposal: Proposal) -> bool:
        """Whether size and parts root of the proposal are those of the body that its hash names."""
        result = self._blocks[proposal.block_hash].result
        assert result is not None
        return (result.body_size, result.parts_root) == (proposal.body_size, proposal.parts_root)

    def _earlier_polka(self) -> PolkaValue | None:
        """The latest polka before this round that is news to the valid value, if its block is valid."""
        state = self.state
        for round_ in sorted(self._polkas, reverse=True):
            if state.valid_round < round_ < state.round and self._is_valid(self._polkas[round_].block_hash):
                return PolkaValue(round_, self._polkas[round_].block_hash)
        self._polkas_changed = False
        return None

    # ------------------------------------------------------------------ effects

    def _apply(self, event: Event) -> None:
        self.state, effects = apply(self.state, event)
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Propose():
                self._propose()
            case CastPrevote(block_hash=block_hash):
                self._cast(VoteType.PREVOTE, block_hash)
            case CastPrecommit(block_hash=block_hash):
                self._cast(VoteType.PRECOMMIT, block_hash)
            case Arm(kind=kind):
                self._arm(kind, self.state.round)
            case EnterRound(round=round_):
                self._enter_round(round_)
            case DecideValue(block_hash=block_hash):
                assert self._commit is not None and self._commit.block_hash == block_hash
                self._outputs.append(Decide(self.height, block_hash, self._commit))

    def _propose(self) -> None:
        """Lines 14-19."""
        if self.state.valid_hash is None:
            self._building = self.state.round
            self._outputs.append(BuildBlock(self.height, self.state.round))
            return
        self._building = NIL_ROUND
        result = self._blocks[self.state.valid_hash].result
        assert result is not None and result.valid
        self._offer(self.state.valid_hash, self.state.valid_round, result.body_size, result.parts_root)

    def _offer(self, block_hash: bytes, valid_round: int, body_size: int, parts_root: bytes) -> None:
        proposal = Proposal(self.height, self.state.round, block_hash, valid_round, body_size, parts_root)
        self._broadcast(proposal)

    def _cast(self, kind: VoteType, block_hash: bytes | None) -> None:
        if self._own_index is not None:
            self._broadcast(Vote(kind, self.height, self.state.round, block_hash))

    def _broadcast(self, message: Proposal | Vote) -> None:
        self._unsigned[message.round, step_of(message)] = message
        self._outputs.append(Broadcast(message))

    def _arm(self, kind: TimeoutKind, round_: int) -> None:
        duration_ms = self.timing.duration_ms(kind, round_)
        self._outputs.append(ScheduleTimeout(kind, self.height, round_, duration_ms))

    def _resend_certificates(self) -> None:
        """Addition (c): the polka of the valid value, and the proof that this round has begun."""
        polka = self._polkas.get(self.state.valid_round)
        if polka is not None:
            self._outputs.append(Resend(polka))
        if self.state.round > 0 and self._round_certificate is None:
            self._round_certificate = self._proof_of(self.state.round)
        if self._round_certificate is not None:
            self._outputs.append(Resend(self._round_certificate))

    def _proof_of(self, round_: int) -> RoundCertificate | None:
        """Why this round may begin: precommits that ended the one before, or votes of it or later ones."""
        before = self._rounds.get(round_ - 1)
        if before is not None and before.precommits.weight >= self._quorum:
            return round_certificate(self.height, round_ - 1, before.precommits.first.items())
        votes = {index: f.votes[0] for index, f in self._futures.items() if f.votes and f.votes_round >= round_}
        current = self._rounds.get(round_)
        if current is not None:
            votes.update(current.prevotes.first)
            votes.update(current.precommits.first)
        if not self.validator_set.is_over_third(sum(self._powers[index] for index in votes)):
            return None
        return round_certificate(self.height, round_, votes.items())

    def _halt(self, block_hash: bytes, reason: str) -> None:
        self.halted = True
        self._outputs.append(Halt(self.height, block_hash, reason))

    def _drop(self, reason: str, height: int, round_: int, source: bytes) -> None:
        self._outputs.append(Dropped(reason, height, round_, source))

    def _address(self, index: int) -> bytes:
        return self.validator_set.validators[index].consensus_address
