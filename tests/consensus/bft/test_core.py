"""The agreement core as tables: what was known, what happens, what follows, and the state afterwards.

Four members of equal weight; with priorities of zero the proposer of round r is member r % 4. The node under test is
member 3 unless a case says otherwise. Cases name the lines of Algorithm 1 of arXiv 1807.04938.
"""

from dataclasses import dataclass

import pytest

from consensus.bft.certificate import commit_certificate, polka_certificate, round_certificate
from consensus.bft.core import POLKAS_KEPT, ROUNDS_KEPT, Core
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
    decode_input,
    encode_input,
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
from consensus.bft.round import RoundState
from consensus.bft.timing import TimeoutKind, Timing
from primitives.validators import Validator, ValidatorSet
from primitives.vote import Proposal, SignedProposal, SignedVote, Status, Step, Vote, VoteType

NOW = 1_000_000
PREVOTE, PRECOMMIT = VoteType.PREVOTE, VoteType.PRECOMMIT
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
ROOT = b"r" * 32
MEMBERS = ValidatorSet.of(Validator(bytes([i + 101]) * 20, bytes([i + 1]) * 20, 10, bytes(48)) for i in range(4))
ADDRESSES = [member.consensus_address for member in MEMBERS.validators]
OPERATORS = [member.operator for member in MEMBERS.validators]


def start(height: int = 1) -> StartHeight:
    return StartHeight(height, MEMBERS, MEMBERS, (0, 0, 0, 0))


def proposal(
    block: bytes, round_: int = 0, valid_round: int = -1, *, signer: int | None = None, at: int = NOW, height: int = 1
) -> ProposalReceived:
    index = round_ % 4 if signer is None else signer
    signed = SignedProposal(Proposal(height, round_, block, valid_round, 100, ROOT), bytes([index]) * 65)
    return ProposalReceived(signed, ADDRESSES[index], at)


def signed_vote(kind: VoteType, index: int, block: bytes | None, round_: int = 0, height: int = 1) -> SignedVote:
    return SignedVote(Vote(kind, height, round_, block), bytes([index]) * 65)


def vote(kind: VoteType, index: int, block: bytes | None, round_: int = 0, height: int = 1) -> VoteReceived:
    return VoteReceived(signed_vote(kind, index, block, round_, height), ADDRESSES[index])


def votes(kind: VoteType, indexes: str, block: bytes | None, round_: int = 0) -> list[Input]:
    return [vote(kind, int(index), block, round_) for index in indexes]


def checked(block: bytes, *, valid: bool = True, author: int = 0, time_ms: int = NOW) -> BlockChecked:
    return BlockChecked(1, block, valid, "" if valid else "bad root", time_ms, OPERATORS[author], 100, ROOT)


def elapsed(kind: TimeoutKind, round_: int = 0) -> TimeoutElapsed:
    return TimeoutElapsed(kind, 1, round_)


def signatures(indexes: str) -> dict[int, bytes]:
    return {int(index): bytes([int(index)]) * 65 for index in indexes}


def polka(block: bytes, round_: int = 0, indexes: str = "012"):  # type: ignore[no-untyped-def]
    return polka_certificate(MEMBERS, 1, round_, block, signatures(indexes))


def commit(block: bytes, round_: int = 0, indexes: str = "012"):  # type: ignore[no-untyped-def]
    return commit_certificate(MEMBERS, 1, round_, block, signatures(indexes))


def cast(kind: VoteType, block: bytes | None, round_: int = 0) -> Broadcast:
    return Broadcast(Vote(kind, 1, round_, block))


def timer(kind: TimeoutKind, round_: int = 0) -> ScheduleTimeout:
    return ScheduleTimeout(kind, 1, round_, Timing().duration_ms(kind, round_))


def to_round(round_: int) -> list[Input]:
    """Enter a round by its predecessors' timers alone."""
    return [elapsed(TimeoutKind.PRECOMMIT, r) for r in range(round_)]


PREVOTED_A: list[Input] = [proposal(A), checked(A)]
LOCKED_A: list[Input] = [*PREVOTED_A, *votes(PREVOTE, "012", A)]
LOCK_A = RoundState(0, Step.PRECOMMIT, 0, A, 0, A)
FETCH_A, CHECK_A = FetchBlock(1, A, 100, ROOT), CheckBlock(1, A)
FETCH_B, CHECK_B = FetchBlock(1, B, 100, ROOT), CheckBlock(1, B)


@dataclass(frozen=True)
class Case:
    name: str
    given: list[Input]
    when: Input
    then: list[Output]
    state: RoundState
    own: int = 3


def in_round(round_: int, step: Step = Step.PROPOSE) -> RoundState:
    return RoundState(round_, step)


def locked_in_round(round_: int, step: Step = Step.PROPOSE) -> RoundState:
    return RoundState(round_, step, 0, A, 0, A)


CASES = [
    Case("22: a proposal is fetched and checked first", [], proposal(A), [FETCH_A, CHECK_A], in_round(0)),
    Case(
        "22: valid, timely, its author's: prevote it",
        [proposal(A)],
        checked(A),
        [cast(PREVOTE, A)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "22: invalid: prevote nil",
        [proposal(A)],
        checked(A, valid=False),
        [cast(PREVOTE, None)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "22: the sidecar names another author: nil",
        [proposal(A)],
        checked(A, author=1),
        [cast(PREVOTE, None)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "22: the proposal gives another size than the body has: nil",
        [ProposalReceived(SignedProposal(Proposal(1, 0, A, -1, 101, ROOT), bytes(65)), ADDRESSES[0], NOW)],
        checked(A),
        [cast(PREVOTE, None)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "28: or another parts root",
        [
            *to_round(1),
            CertificateReceived(polka(A)),
            ProposalReceived(SignedProposal(Proposal(1, 1, A, 0, 100, A), bytes(65)), ADDRESSES[1], NOW),
        ],
        checked(A),
        [cast(PREVOTE, None, 1)],
        RoundState(1, Step.PREVOTE, -1, None, 0, A),
    ),
    Case(
        "22: 501 ms before its time: nil",
        [proposal(A)],
        checked(A, time_ms=NOW + 501),
        [cast(PREVOTE, None)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "22: 500 ms before its time: timely",
        [proposal(A)],
        checked(A, time_ms=NOW + 500),
        [cast(PREVOTE, A)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "22: 2501 ms late: nil",
        [proposal(A)],
        checked(A, time_ms=NOW - 2501),
        [cast(PREVOTE, None)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "22: 2500 ms late: timely",
        [proposal(A)],
        checked(A, time_ms=NOW - 2500),
        [cast(PREVOTE, A)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "22: in round 1 the delay has grown by a tenth",
        [*to_round(1), proposal(A, 1)],
        checked(A, author=1, time_ms=NOW - 2700),
        [cast(PREVOTE, A, 1)],
        in_round(1, Step.PREVOTE),
    ),
    Case(
        "22: not the proposer: dropped",
        [],
        proposal(A, signer=1),
        [Dropped("signer is not the proposer of the round", 1, 0, ADDRESSES[1])],
        in_round(0),
    ),
    Case(
        "22: locked on another value: nil, without waiting for the check",
        [*LOCKED_A, *to_round(1)],
        proposal(B, 1),
        [FETCH_B, CHECK_B, cast(PREVOTE, None, 1)],
        locked_in_round(1, Step.PREVOTE),
    ),
    Case(
        "22: a second proposal is fetched, not checked, and is evidence; the first alone is prevoted",
        [proposal(A)],
        proposal(B),
        [Evidence(ADDRESSES[0], proposal(A).proposal, proposal(B).proposal), FETCH_B],
        in_round(0),
    ),
    Case(
        "22: a third proposal of the round is dropped",
        [proposal(A), proposal(B)],
        proposal(C),
        [Dropped("third proposal of the round", 1, 0, ADDRESSES[0])],
        in_round(0),
    ),
    Case(
        "28: without the polka of its valid round a proposal waits",
        [*to_round(1), proposal(A, 1, 0)],
        checked(A),
        [],
        in_round(1),
    ),
    Case(
        "28: with the polka: prevote it, whoever its author and however old",
        [*to_round(1), proposal(A, 1, 0), checked(A, author=2, time_ms=1)],
        CertificateReceived(polka(A)),
        [cast(PREVOTE, A, 1)],
        RoundState(1, Step.PREVOTE, -1, None, 0, A),
    ),
    Case(
        "28: a polka of a later round than the lock's unlocks",
        [*LOCKED_A, *to_round(2), *votes(PREVOTE, "012", B, 1), proposal(B, 2, 1)],
        checked(B),
        [cast(PREVOTE, B, 2)],
        RoundState(2, Step.PREVOTE, 0, A, 1, B),
    ),
    Case(
        "28: a polka of an earlier round than the lock's does not",
        [
            *to_round(1),
            proposal(A, 1),
            checked(A, author=1),
            *votes(PREVOTE, "012", A, 1),
            *to_round(2)[1:],
            CertificateReceived(polka(B)),
        ],
        proposal(B, 2, 0),
        [FETCH_B, CHECK_B, cast(PREVOTE, None, 2)],
        RoundState(2, Step.PREVOTE, 1, A, 1, A),
    ),
    Case(
        "34: more than two thirds of prevotes for anything: the timer, once",
        [*PREVOTED_A, *votes(PREVOTE, "01", A)],
        vote(PREVOTE, 2, None),
        [timer(TimeoutKind.PREVOTE)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "34: not a second time",
        [*PREVOTED_A, *votes(PREVOTE, "01", None), vote(PREVOTE, 2, A)],
        vote(PREVOTE, 3, A),
        [],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "34: exactly two thirds are not enough",
        [*PREVOTED_A, vote(PREVOTE, 0, A)],
        vote(PREVOTE, 1, A),
        [],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "36: a polka: lock and precommit",
        [*PREVOTED_A, *votes(PREVOTE, "01", A)],
        vote(PREVOTE, 2, A),
        [cast(PRECOMMIT, A)],
        LOCK_A,
    ),
    Case(
        "36: a polka for a body that is not here yet: fetch, check, and the timer meanwhile",
        [elapsed(TimeoutKind.PROPOSE), *votes(PREVOTE, "01", A)],
        vote(PREVOTE, 2, A),
        [FetchBlock(1, A, None, None), CHECK_A, timer(TimeoutKind.PREVOTE)],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "36: in step precommit it raises the valid value only",
        [*PREVOTED_A, *votes(PREVOTE, "01", A), vote(PREVOTE, 3, None), elapsed(TimeoutKind.PREVOTE)],
        vote(PREVOTE, 2, A),
        [],
        RoundState(0, Step.PRECOMMIT, -1, None, 0, A),
    ),
    Case(
        "36: in step propose it waits",
        [*votes(PREVOTE, "01", A)],
        vote(PREVOTE, 2, A),
        [],
        in_round(0),
    ),
    Case(
        "36: any proposal of the round is locked on, the second too (b)",
        [*PREVOTED_A, proposal(B), checked(B), *votes(PREVOTE, "012", B)],
        checked(B),
        [cast(PRECOMMIT, B)],
        RoundState(0, Step.PRECOMMIT, 0, B, 0, B),
    ),
    Case(
        "36: invalid in spite of a polka: halt",
        [elapsed(TimeoutKind.PROPOSE), *votes(PREVOTE, "012", A)],
        checked(A, valid=False),
        [Halt(1, A, "a quorum stands behind it, but here it is invalid: bad root")],
        in_round(0, Step.PREVOTE),
    ),
    Case(
        "a polka of an earlier round raises the valid value, not the lock",
        [*to_round(1), CertificateReceived(polka(A))],
        checked(A),
        [],
        RoundState(1, Step.PROPOSE, -1, None, 0, A),
    ),
    Case(
        "44: a polka for nil: precommit nil",
        [elapsed(TimeoutKind.PROPOSE), *votes(PREVOTE, "01", None)],
        vote(PREVOTE, 2, None),
        [cast(PRECOMMIT, None)],
        in_round(0, Step.PRECOMMIT),
    ),
    Case(
        "47: more than two thirds of precommits for anything: the timer, in whatever step",
        [*votes(PRECOMMIT, "0", None), *votes(PRECOMMIT, "1", A)],
        vote(PRECOMMIT, 2, B),
        [timer(TimeoutKind.PRECOMMIT)],
        in_round(0),
    ),
    Case(
        "49: precommits of more than two thirds for a valid block decide",
        [*LOCKED_A, *votes(PRECOMMIT, "02", A)],
        vote(PRECOMMIT, 1, A),
        [Decide(1, A, commit(A))],
        RoundState(0, Step.DECIDED, 0, A, 0, A),
    ),
    Case(
        "49: of an earlier round too",
        [*LOCKED_A, *to_round(2), *votes(PRECOMMIT, "02", A)],
        vote(PRECOMMIT, 1, A),
        [Decide(1, A, commit(A))],
        RoundState(2, Step.DECIDED, 0, A, 0, A),
    ),
    Case(
        "49: without the body: fetch, check and go on",
        [*votes(PRECOMMIT, "01", A)],
        vote(PRECOMMIT, 2, A),
        [FetchBlock(1, A, None, None), CHECK_A, timer(TimeoutKind.PRECOMMIT)],
        in_round(0),
    ),
    Case(
        "49: and decide when it was found valid",
        [*votes(PRECOMMIT, "012", A)],
        checked(A),
        [Decide(1, A, commit(A))],
        in_round(0, Step.DECIDED),
    ),
    Case(
        "49: a commit certificate decides",
        PREVOTED_A,
        CertificateReceived(commit(A, 7)),
        [Decide(1, A, commit(A, 7))],
        in_round(0, Step.DECIDED),
    ),
    Case(
        "49: a precommit for nil is no precommit for the block",
        [*LOCKED_A, *votes(PRECOMMIT, "02", A)],
        vote(PRECOMMIT, 1, None),
        [timer(TimeoutKind.PRECOMMIT)],
        LOCK_A,
    ),
    Case("55: one third in a later round is not enough", [], vote(PREVOTE, 0, None, 5), [], in_round(0)),
    Case(
        "55: more than one third in a later round: enter it, and prove it (c)",
        [vote(PREVOTE, 0, None, 5)],
        vote(PRECOMMIT, 1, None, 5),
        [
            SendStatus(1, 5, Step.PROPOSE),
            timer(TimeoutKind.PROPOSE, 5),
            Resend(
                round_certificate(
                    1, 5, [(0, signed_vote(PREVOTE, 0, None, 5)), (1, signed_vote(PRECOMMIT, 1, None, 5))]
                )
            ),
        ],
        in_round(5),
    ),
    Case(
        "55: reaching or passing counts: rounds 6 and 9 together prove 6",
        [vote(PREVOTE, 0, None, 9)],
        vote(PREVOTE, 1, None, 6),
        [
            SendStatus(1, 6, Step.PROPOSE),
            timer(TimeoutKind.PROPOSE, 6),
            Resend(
                round_certificate(1, 6, [(0, signed_vote(PREVOTE, 0, None, 9)), (1, signed_vote(PREVOTE, 1, None, 6))])
            ),
        ],
        in_round(6),
    ),
    Case(
        "55: both votes of one signer are one signer",
        [vote(PREVOTE, 0, None, 5)],
        vote(PRECOMMIT, 0, None, 5),
        [],
        in_round(0),
    ),
    Case(
        "55: a polka certificate of a later round brings its round with it",
        [],
        CertificateReceived(polka(A, 2)),
        [SendStatus(1, 2, Step.PROPOSE), timer(TimeoutKind.PROPOSE, 2)],
        in_round(2),
    ),
    Case(
        "57: propose timer: prevote nil",
        [],
        elapsed(TimeoutKind.PROPOSE),
        [cast(PREVOTE, None)],
        in_round(0, Step.PREVOTE),
    ),
    Case("57: not after prevoting", PREVOTED_A, elapsed(TimeoutKind.PROPOSE), [], in_round(0, Step.PREVOTE)),
    Case("57: not of another round", to_round(1), elapsed(TimeoutKind.PROPOSE), [], in_round(1)),
    Case(
        "61: prevote timer: precommit nil",
        PREVOTED_A,
        elapsed(TimeoutKind.PREVOTE),
        [cast(PRECOMMIT, None)],
        in_round(0, Step.PRECOMMIT),
    ),
    Case("61: not after precommitting", LOCKED_A, elapsed(TimeoutKind.PREVOTE), [], LOCK_A),
    Case(
        "65: precommit timer: the next round, the lock stays, its polka goes out again (c)",
        LOCKED_A,
        elapsed(TimeoutKind.PRECOMMIT),
        [SendStatus(1, 1, Step.PROPOSE), timer(TimeoutKind.PROPOSE, 1), Resend(polka(A))],
        locked_in_round(1),
    ),
    Case("65: not of another round", to_round(2), elapsed(TimeoutKind.PRECOMMIT, 1), [], in_round(2)),
    Case(
        "14-18: the proposer of a later round with nothing valid builds",
        to_round(2),
        elapsed(TimeoutKind.PRECOMMIT, 2),
        [SendStatus(1, 3, Step.PROPOSE), BuildBlock(1, 3), timer(TimeoutKind.PROPOSE, 3)],
        in_round(3),
    ),
    Case(
        "19: and proposes what was built",
        [],
        BlockBuilt(1, 0, A, NOW, OPERATORS[0], 100, ROOT),
        [Broadcast(Proposal(1, 0, A, -1, 100, ROOT))],
        in_round(0),
        own=0,
    ),
    Case(
        "19: too late once it has prevoted",
        [elapsed(TimeoutKind.PROPOSE)],
        BlockBuilt(1, 0, A, NOW, OPERATORS[0], 100, ROOT),
        [Dropped("built too late", 1, 0, A)],
        in_round(0, Step.PREVOTE),
        own=0,
    ),
    Case(
        "19: an own block is not checked again",
        [BlockBuilt(1, 0, A, NOW, OPERATORS[0], 100, ROOT)],
        proposal(A),
        [cast(PREVOTE, A)],
        in_round(0, Step.PREVOTE),
        own=0,
    ),
    Case(
        "16: the proposer of a later round proposes the valid value, with its polka",
        [*LOCKED_A, *to_round(2)],
        elapsed(TimeoutKind.PRECOMMIT, 2),
        [
            SendStatus(1, 3, Step.PROPOSE),
            Broadcast(Proposal(1, 3, A, 0, 100, ROOT)),
            timer(TimeoutKind.PROPOSE, 3),
            Resend(polka(A)),
        ],
        locked_in_round(3),
    ),
    Case(
        "(a) a second vote for a known value counts in that value's tally, and is evidence",
        [*PREVOTED_A, vote(PREVOTE, 0, B), vote(PREVOTE, 1, A), vote(PREVOTE, 2, A)],
        vote(PREVOTE, 0, A),
        [Evidence(ADDRESSES[0], signed_vote(PREVOTE, 0, B), signed_vote(PREVOTE, 0, A)), cast(PRECOMMIT, A)],
        LOCK_A,
    ),
    Case(
        "(a) a second vote for an unknown value does not count, and may come again",
        [vote(PREVOTE, 0, A)],
        vote(PREVOTE, 0, B),
        [
            Evidence(ADDRESSES[0], signed_vote(PREVOTE, 0, A), signed_vote(PREVOTE, 0, B)),
            Dropped("further vote for an unknown value", 1, 0, ADDRESSES[0]),
        ],
        in_round(0),
    ),
    Case(
        "a vote again is dropped",
        [vote(PREVOTE, 0, A)],
        vote(PREVOTE, 0, A),
        [Dropped("duplicate vote", 1, 0, ADDRESSES[0])],
        in_round(0),
    ),
    Case(
        "a vote again under another signature is the same vote",
        [vote(PREVOTE, 0, A)],
        VoteReceived(SignedVote(Vote(PREVOTE, 1, 0, A), b"z" * 65), ADDRESSES[0]),
        [Dropped("duplicate vote", 1, 0, ADDRESSES[0])],
        in_round(0),
    ),
    Case(
        "(d) of one signer only the highest later round is kept",
        [vote(PREVOTE, 0, None, 5)],
        vote(PREVOTE, 0, None, 4),
        [Dropped("signer already voted in a later round", 1, 4, ADDRESSES[0])],
        in_round(0),
    ),
    Case(
        "(d) a round beyond any jump is dropped",
        [],
        vote(PREVOTE, 0, None, 70_000),
        [Dropped("round too far ahead", 1, 70_000, ADDRESSES[0])],
        in_round(0),
    ),
    Case(
        "(d) of later heights only the next one's",
        [],
        vote(PREVOTE, 0, A, 0, 3),
        [Dropped("height too far ahead", 3, 0, ADDRESSES[0])],
        in_round(0),
    ),
    Case(
        "a stranger's vote",
        [],
        VoteReceived(signed_vote(PREVOTE, 0, A), b"x" * 20),
        [Dropped("signer is not in the set", 1, 0, b"x" * 20)],
        in_round(0),
    ),
    Case(
        "a check that nobody asked for",
        [],
        checked(A),
        [Dropped("nobody asked for this check", 1, 0, A)],
        in_round(0),
    ),
    Case(
        "a status of an earlier height is answered with that height's commit",
        [start(2)],
        StatusReceived(b"peer", Status(1, 3, Step.PREVOTE, 0, 0)),
        [SendCommit(b"peer", 1)],
        in_round(0),
    ),
    Case(
        "a status of this height is not", [], StatusReceived(b"peer", Status(1, 0, Step.PROPOSE, 0, 0)), [], in_round(0)
    ),
    Case(
        "unless it is decided",
        [*PREVOTED_A, CertificateReceived(commit(A))],
        StatusReceived(b"peer", Status(1, 0, Step.PROPOSE, 0, 0)),
        [SendCommit(b"peer", 1)],
        in_round(0, Step.DECIDED),
    ),
    Case(
        "the rebroadcast timer sends own messages and certificates again, and itself",
        [*LOCKED_A, vote(PREVOTE, 3, A), vote(PRECOMMIT, 3, A)],
        elapsed(TimeoutKind.REBROADCAST),
        [
            SendStatus(1, 0, Step.PRECOMMIT),
            Resend(signed_vote(PREVOTE, 3, A)),
            Resend(signed_vote(PRECOMMIT, 3, A)),
            Resend(polka(A)),
            timer(TimeoutKind.REBROADCAST),
        ],
        LOCK_A,
    ),
    Case(
        "a certificate that holds nothing new is dropped",
        [*to_round(1), CertificateReceived(round_certificate(1, 0, [(0, signed_vote(PRECOMMIT, 0, None))]))],
        CertificateReceived(round_certificate(1, 0, [(0, signed_vote(PRECOMMIT, 0, None))])),
        [Dropped("duplicate certificate", 1, 0, b"")],
        in_round(1),
    ),
    Case(
        "a polka known already is dropped",
        votes(PREVOTE, "012", A),
        CertificateReceived(polka(A, 0, "123")),
        [Dropped("duplicate certificate", 1, 0, b"")],
        in_round(0),
    ),
    Case(
        "two commits of one height: halt",
        [CertificateReceived(commit(A))],
        CertificateReceived(commit(B)),
        [Halt(1, B, f"it and {A.hex()} both have commits: more than a third of the power lied")],
        in_round(0),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_line(case: Case) -> None:
    core = Core(ADDRESSES[case.own], Timing())
    for event in [start(), *case.given]:
        core.receive(event)
    assert core.receive(case.when) == case.then
    assert core.state == case.state
    assert decode_input(encode_input(case.when)) == case.when


def test_a_height_begins_with_its_status_and_timers() -> None:
    assert Core(ADDRESSES[3], Timing()).receive(start()) == [
        SendStatus(1, 0, Step.PROPOSE),
        timer(TimeoutKind.REBROADCAST),
        timer(TimeoutKind.PROPOSE),
    ]
    assert BuildBlock(1, 0) in Core(ADDRESSES[0], Timing()).receive(start())


def test_nothing_happens_before_the_first_height() -> None:
    core = Core(ADDRESSES[3], Timing())
    assert core.receive(vote(PREVOTE, 0, A)) == [Dropped("no height has begun", 0, 0, b"")]
    assert core.resume() == []


def test_a_follower_says_nothing_and_decides() -> None:
    core = Core(None, Timing())
    outputs = [output for event in [start(), *LOCKED_A, *votes(PRECOMMIT, "012", A)] for output in core.receive(event)]
    assert not [output for output in outputs if isinstance(output, Broadcast)]
    assert Decide(1, A, commit(A)) in outputs


def test_messages_of_the_next_height_come_back_when_it_begins() -> None:
    core = Core(ADDRESSES[3], Timing())
    early = [proposal(A, height=2), vote(PREVOTE, 0, A, height=2), vote(PRECOMMIT, 0, None, height=2)]
    for event in [start(), *early]:
        core.receive(event)
    assert [output.event for output in core.receive(start(2)) if isinstance(output, Redeliver)] == early


def test_a_node_is_behind_when_more_than_a_third_have_begun_the_next_height() -> None:
    core = Core(ADDRESSES[3], Timing())
    assert not core.is_behind, "no height has begun"
    core.receive(start())
    core.receive(proposal(A, height=2))
    core.receive(vote(PREVOTE, 0, A, height=2))
    assert not core.is_behind, "one of four, and the same one again, may be faulty"
    core.receive(vote(PREVOTE, 2, None, height=2))
    assert core.is_behind
    core.receive(start(2))
    assert not core.is_behind


def test_early_messages_of_strangers_are_not_kept() -> None:
    core = Core(ADDRESSES[3], Timing())
    core.receive(start())
    stranger = VoteReceived(signed_vote(PREVOTE, 0, A, height=2), b"x" * 20)
    assert core.receive(stranger) == [Dropped("signer is not in the next height's set", 2, 0, b"x" * 20)]


def test_a_replayed_log_gives_the_same_outputs_and_state() -> None:
    log: list[Input] = [start(), *LOCKED_A, *to_round(3), proposal(A, 3, 0), *votes(PRECOMMIT, "012", A)]
    first, second = Core(ADDRESSES[3], Timing()), Core(ADDRESSES[3], Timing())
    for event in log:
        assert first.receive(event) == second.receive(decode_input(encode_input(event)))
    assert first.state == second.state and first.decided


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], [timer(TimeoutKind.PROPOSE)]),
        ([proposal(A)], [timer(TimeoutKind.PROPOSE), FETCH_A, CHECK_A]),
        (PREVOTED_A, [cast(PREVOTE, A)]),
        ([*PREVOTED_A, vote(PREVOTE, 3, A)], [Resend(signed_vote(PREVOTE, 3, A))]),
        (
            [*PREVOTED_A, *votes(PREVOTE, "01", A), vote(PREVOTE, 2, None)],
            [timer(TimeoutKind.PREVOTE), cast(PREVOTE, A)],
        ),
        ([*LOCKED_A, *votes(PRECOMMIT, "012", A)], [Decide(1, A, commit(A))]),
    ],
)
def test_resuming_issues_what_is_outstanding(given: list[Input], expected: list[Output]) -> None:
    core = Core(ADDRESSES[3], Timing())
    for event in [start(), *given]:
        core.receive(event)
    step = core.state.step
    assert core.resume() == [SendStatus(1, 0, step), timer(TimeoutKind.REBROADCAST), *expected]


def test_memory_is_bounded_whatever_members_send() -> None:
    core = Core(ADDRESSES[3], Timing())
    core.receive(start())
    for round_ in range(60):
        for index in range(3):
            for n in range(12):
                block = bytes([round_, index, n, 0]) * 8
                for kind in (PREVOTE, PRECOMMIT):
                    core.receive(vote(kind, index, block, round_))
                    core.receive(vote(kind, index, block, round_ + (1000 if index == 2 else 0)))
                core.receive(proposal(block, round_))
                core.receive(proposal(block, round_, height=2))
                core.receive(vote(PREVOTE, index, block, round_, 2))
        core.receive(CertificateReceived(polka(bytes([round_]) * 32, round_)))
        core.receive(elapsed(TimeoutKind.PRECOMMIT, round_))
    assert core.round == 60
    assert len(core._rounds) <= ROUNDS_KEPT + 1
    assert len(core._polkas) <= POLKAS_KEPT
    assert len(core._blocks) <= 2 * (ROUNDS_KEPT + 1) + POLKAS_KEPT + 3
    assert len(core._futures) <= 4 and len(core._early) <= 4 and len(core._proposers) <= ROUNDS_KEPT + 1
    for votes_ in core._rounds.values():
        assert len(votes_.proposals) <= 3
        for tally in (votes_.prevotes, votes_.precommits):
            assert len(tally.weights) <= 4 * 5 and all(len(further) <= 4 for further in tally.further.values())
