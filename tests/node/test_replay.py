"""The log's meaning: from every prefix of a height's log the core goes on, and never says anything else."""

import pytest

from consensus.bft.core import Core
from consensus.bft.inputs import BlockBuilt, Input, ProposalReceived, StartHeight, VoteReceived, encode_input
from consensus.bft.outputs import Broadcast, BuildBlock, Decide, ScheduleTimeout
from consensus.bft.proposer import ProposerSchedule
from consensus.bft.timing import Timing
from node.replay import RecordKind, recover
from node.wal import LostLog, Record
from primitives.keys import address_of, sign
from primitives.validators import Validator, ValidatorSet
from primitives.vote import SignContext, SignedProposal, SignedVote, Vote, sign_bytes

CONTEXT = SignContext(31337, b"\x22" * 32)
KEY = b"\x11" * 32
OWN = address_of(KEY)
ALONE = ValidatorSet.of([Validator(b"\x0a" * 20, OWN, 10, bytes(48))])
BUILT = BlockBuilt(7, 0, b"\xaa" * 32, 1_000, b"\x0a" * 20, 100, b"\x33" * 32)


def start(height: int) -> StartHeight:
    return StartHeight(height, ALONE, ALONE, ProposerSchedule(ALONE, bytes(32), 1).priorities(height))


def one_height() -> tuple[list[Input], list[Broadcast]]:
    """Inputs of a single validator's height 7 from start to decision, and all that it asked to be signed."""
    core = Core(OWN, Timing())
    inputs: list[Input] = []
    asked: list[Broadcast] = []
    pending: list[Input] = [start(7)]
    while pending:
        event = pending.pop(0)
        inputs.append(event)
        for output in core.receive(event):
            match output:
                case BuildBlock():
                    pending.append(BUILT)
                case Broadcast(message=Vote() as vote):
                    asked.append(output)
                    signed = SignedVote(vote, sign(sign_bytes(CONTEXT, vote), KEY))
                    pending.append(VoteReceived(signed, OWN))
                case Broadcast(message=proposal):
                    asked.append(output)
                    signed_proposal = SignedProposal(proposal, sign(sign_bytes(CONTEXT, proposal), KEY))
                    pending.append(ProposalReceived(signed_proposal, OWN, 1_000))
    assert core.decided
    return inputs, asked


def records(inputs: list[Input]) -> list[Record]:
    return [Record(n, RecordKind.INPUT, encode_input(event)) for n, event in enumerate(inputs, 1)]


def test_every_prefix_resumes_with_what_is_outstanding_and_says_nothing_new() -> None:
    inputs, asked = one_height()
    for length in range(1, len(inputs) + 1):
        core = Core(OWN, Timing())
        recovered = recover(core, records(inputs[:length]), head=6)
        assert recovered.height == 7
        for output in recovered.outputs:
            if isinstance(output, Broadcast):
                assert output in asked, "the same bytes as before, so the signer gives the same signature"
        if length < len(inputs):
            assert any(isinstance(output, Broadcast | BuildBlock | Decide) for output in recovered.outputs), length
        else:
            assert any(isinstance(output, Decide) for output in recovered.outputs)
        assert any(isinstance(output, ScheduleTimeout) for output in recovered.outputs)


def test_a_height_that_is_committed_already_is_skipped() -> None:
    inputs, _ = one_height()
    core = Core(OWN, Timing())
    assert recover(core, records(inputs), head=7).height == 0
    assert core.height == 0
    assert recover(Core(OWN, Timing()), [], head=7).height == 0


def test_only_the_last_height_is_replayed() -> None:
    inputs, _ = one_height()
    core = Core(OWN, Timing())
    recovered = recover(core, records([*inputs, start(8)]), head=7)
    assert recovered.height == 8 and core.height == 8
    assert any(isinstance(output, BuildBlock) for output in recovered.outputs)


def test_a_log_above_the_chain_is_a_lost_log() -> None:
    inputs, _ = one_height()
    with pytest.raises(LostLog, match="at height 7, but the chain's last block is 3"):
        recover(Core(OWN, Timing()), records(inputs), head=3)


def test_unreadable_records_are_a_lost_log() -> None:
    with pytest.raises(LostLog, match="record 1"):
        recover(Core(OWN, Timing()), [Record(1, RecordKind.INPUT, b"\xc1\x63")], head=0)
    inputs, _ = one_height()
    broken = [*records(inputs), Record(99, RecordKind.BODY, b"junk")]
    with pytest.raises(LostLog, match="record 99"):
        recover(Core(OWN, Timing()), broken, head=6)
