"""Attacks on the chain's randomness by those who make blocks: withheld reveals, skipped rounds, the last word before a
draw, long runs of a coalition's blocks, and blocks that leave somebody's messages out."""

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft.inputs import BlockBuilt, Input
from consensus.bft.proposer import ProposerSchedule, smallest_window
from consensus.work import audit
from consensus.work.deal import Candidate, Purpose, draw
from consensus.work.incentive import ONE, Odds, caught
from primitives.hashing import keccak
from primitives.params import ChainParams
from primitives.task import Status
from primitives.validators import Validator, ValidatorSet
from tests.attacks.attacks import CHEAT, hit
from tests.attacks.fleet import Fleet
from tests.chain.conftest import make_devnet
from tests.sim.cluster import Cluster, Node
from vm.system import abi, views

EPOCH = ChainParams().epoch_blocks


def address(index: int) -> bytes:
    return (index + 1).to_bytes(20, "big")


def set_of(powers: Sequence[int]) -> ValidatorSet:
    return ValidatorSet.of(Validator(address(i), address(i), power, bytes(48)) for i, power in enumerate(powers))


# ---------------------------------------------------------------- withheld reveals


def test_a_proposer_chooses_nothing_of_its_blocks_randomness() -> None:
    """Whatever it puts into its block, and whenever it dates it: the reveal is unique."""
    devnet = make_devnet()
    mixes = set()
    for time_ms in (1_000, 1_001, 9_999):
        devnet.send(time_ms % 7)
        at = devnet.ledger.head.sidecar.time_ms + time_ms
        mixes.add(devnet.ledger.build(devnet.request(0, at), devnet.mempool).header.mix_hash)
    assert len(mixes) == 1


def test_who_withholds_its_reveal_loses_its_block_and_has_one_other_draw_however_many_rounds_its_friends_have() -> None:
    """A height has two randomnesses: with the reveal of whose turn it was, and without. Who makes the block in a later
    round adds nothing, or a coalition with the next turns too could try the reveals of all its members."""
    devnet = make_devnet(validators=7)
    devnet.advance(3)
    devnet.send(0, tip=10**9)
    blocks = [devnet.ledger.build(devnet.request(round_), devnet.mempool) for round_ in range(3)]
    assert len({block.sidecar.proposer for block in blocks}) == 3
    first, *later = [block.header.mix_hash for block in blocks]
    assert later == [keccak(devnet.ledger.head.header.mix_hash)] * 2 and first not in later
    assert blocks[1].header.coinbase != blocks[0].header.coinbase, "the tips are another's"
    withheld = devnet.ledger.head.number + 1
    devnet.advance(1, round_=1)
    seed_mix, first_height = devnet.ledger.proposer_seed(withheld + 1)
    schedule = ProposerSchedule(devnet.ledger.validator_set(withheld + 1), seed_mix, first_height)
    assert devnet.proposer() == schedule.proposer(withheld + 1, 0), "turns go on as if nothing had been skipped"


class Withholding(Cluster):
    """A network whose liar makes no block of its own, whoever's turn it is, and lies as it did before."""

    withheld = 0

    def later(self, delay_ms: int, node: Node, event: Input) -> None:
        if isinstance(event, BlockBuilt) and node.index == self.liar:
            self.withheld += 1
        else:
            super().later(delay_ms, node, event)


def test_a_proposer_that_withholds_all_its_blocks_stops_nobody_and_has_none_in_the_chain() -> None:
    withheld = 0
    for seed in range(40):
        cluster = Withholding(seed)
        if cluster.liar is None:
            continue
        cluster.run()  # raises when correct nodes disagree or stall
        withheld += cluster.withheld
        authors = {cluster.blocks[block_hash].author for block_hash in cluster.decisions.values()}
        assert cluster.set_of(1).validators[cluster.liar].operator not in authors, seed
    assert withheld > 40


@pytest.mark.parametrize("withheld", [0, 1, 2])
@pytest.mark.parametrize("auditors", [1, 2, 3])
def test_the_last_revealers_choose_the_committee_no_more_often_than_the_value_at_risk_reckons_with(
    withheld: int, auditors: int
) -> None:
    """A third of the bond, in many names, made the answer and has the last blocks before the draw: of its 2^j draws one
    with all verifiers its own would do. It comes no more often than q of incentive.caught says."""
    names, tries = 60, 1_500
    coalition = {address(i) for i in range(names // 3)}
    fleet = [Candidate(address(i), 10**6) for i in range(1, names)]  # number 0, of the coalition, is the executor
    won = 0
    for number in range(tries):
        task = keccak(number.to_bytes(4, "big"))
        choices = [keccak(task + bytes([choice])) for choice in range(2**withheld)]
        won += any(coalition.issuperset(draw(mix, Purpose.AUDIT, task, 0, fleet, auditors)) for mix in choices)
    let_through = 1 - Fraction(caught(Odds(3, 3, withheld), auditors), ONE)
    expected = tries * let_through
    assert won <= expected + 4 * float(expected) ** 0.5
    assert won >= float(expected) / 3, "the bound is no idle one"


# ---------------------------------------------------------------- long runs


@st.composite
def sets_with_a_coalition(draw):
    powers = draw(st.lists(st.integers(1, 1_000), min_size=4, max_size=20))
    order = draw(st.permutations(range(len(powers))))
    coalition, held = set(), 0
    for index in order:
        if 3 * (held + powers[index]) < sum(powers):
            coalition.add(address(index))
            held += powers[index]
    return powers, coalition, draw(st.integers(0, 2**32))


@settings(max_examples=60)
@given(sets_with_a_coalition())
def test_no_coalition_under_a_third_proposes_as_many_blocks_in_a_row_as_an_answer_waits_for_its_draw(case) -> None:
    """Nor as many as a window is open: one block that is not its own lies in each, with a reveal that it did not know
    and with the messages that it would leave out."""
    powers, coalition, seed = case
    members, seeds = set_of(powers), (keccak(b"a%d" % seed), keccak(b"b%d" % seed))
    schedule = []
    for epoch, mix in enumerate(seeds):
        schedule += ProposerSchedule(members, mix, epoch * EPOCH + 1).round_zero(EPOCH)
    delay = smallest_window(schedule)
    longest = run = 0
    for operator, *_ in schedule:
        run = run + 1 if operator in coalition else 0
        longest = max(longest, run)
    assert longest < delay
    params = ChainParams()
    for window in (
        audit.verdict_window(10, params.verdict_window, delay),
        audit.reveal_window(10, params.reveal_window, delay, own=True),
    ):
        assert window.last - window.first + 1 >= max(8, delay)


def test_long_runs_are_as_rare_as_turns_are_even() -> None:
    """Priorities begin at random, and turns come round: of equal members nobody proposes three in a row, and a third of
    them at most twice as long as by turns."""
    dice = random.Random(7)
    for size in (4, 7, 10, 16):
        members = set_of([100] * size)
        for _ in range(20):
            mix = dice.randbytes(32)
            picks = [operator for operator, *_ in ProposerSchedule(members, mix, 1).round_zero(EPOCH)]
            assert all(len(set(picks[at : at + 3])) > 1 for at in range(EPOCH - 2))
            third = set(sorted({*picks})[: (size - 1) // 3])
            outside = [at for at, operator in enumerate(picks) if operator not in third]
            assert max(b - a - 1 for a, b in pairwise(outside)) <= 2 * len(third)


# ---------------------------------------------------------------- censoring


@pytest.mark.parametrize("role", ["executor", "verifier"])
def test_censored_in_all_blocks_of_a_coalition_an_operators_work_is_in_time(role: str) -> None:
    """The worst that a third can do: all blocks but every D-th are its own, and none of them takes a message of the
    victim. It answers and checks in the others; it is paid, and misses nothing."""
    fleet = Fleet()
    chain, victim = fleet.chain, fleet.validators[CHEAT]
    task = hit(fleet, by_executor=role == "executor")
    for _ in range(60):
        if chain.task(task).done_block:
            break
        delay = views.audit_delay(chain.reader, chain.params.epoch(chain.height + 1))
        victim.is_offline = (chain.height + 1) % max(2, delay) != 0
        fleet.block()
    assert chain.task(task).status == Status.SETTLED
    name = "0x" + victim.keys.operator.hex()
    assert [event for _, event in chain.events(abi.TASK_MISSED) if event["operator"] == name] == []
    paid = [event["role"] for _, event in chain.events(abi.PAID) if event["operator"] == name and event["task"] == task]
    assert (abi.ROLE_EXECUTE if role == "executor" else abi.ROLE_AUDIT) in paid
