"""Traps: who copies a root that was let out pays for it, and who computes is paid double."""

import pytest
from market_world import COST, World, hot_of, payout_of

from primitives.hashing import keccak
from primitives.reasons import Reason
from primitives.task import (
    NO_BAD_POSITION,
    Kind,
    Status,
    Submission,
    TrapOpening,
    Verdict,
    execution_commitment,
    price_of,
    trap_root,
    verdict_commitment,
)
from vm.system import abi, market_state, market_trap, referee, staking
from vm.system.context import Refused

SALT = keccak(b"salt")
TOKENS = tuple(range(2, 10))


class Trapped(World):
    """A chain on which an executor may trap, and stake may be taken."""

    def __init__(self, **spec: int) -> None:
        super().__init__(canaries_per_validator=0, **spec)
        self.block()

    def committed(self, *, entitled: bool = True) -> tuple[bytes, bytes, bytes]:
        """(task, executor, T) of a task whose executor committed to a trap."""
        task = self.post()
        self.block()
        executor = self.task(task).slots[0]
        if entitled:
            market_state.TRAP_ANSWERS.set(self.ctx, market_trap.TRAP_EVERY - 1, executor)
        self.block()
        root = self.root(task, TOKENS)
        commitment = execution_commitment(task, executor, trap_root(SALT, root))
        assert self.work(executor, Submission(task, TOKENS, commitment, 1, 2, 3, b"trap")) == []
        self.block(self.delay + 1)
        return task, executor, root

    def say(self, operator: bytes, task: bytes, root: bytes) -> None:
        assert self.work(operator, Verdict(task, verdict_commitment(task, operator, NO_BAD_POSITION, root))) == []

    def spring(self, operator: bytes, task: bytes, root: bytes, salt: bytes = SALT) -> list[str]:
        return self.work(operator, TrapOpening(task, salt, root))


@pytest.fixture
def world() -> Trapped:
    return Trapped()


def test_who_copied_pays_who_computed_is_paid_double_and_the_task_is_settled(world):
    task, executor, root = world.committed()
    copier, honest = world.task(task).verifiers
    world.say(copier, task, trap_root(SALT, root))
    world.say(honest, task, root)
    world.block()
    payouts = {operator: world.ctx.balance(payout_of(operator)) for operator in (executor, honest, copier)}
    bond = staking.require(world.ctx, copier).bond
    price = world.task(task).price_per_cwu
    assert world.spring(executor, task, root) == []
    audit = price_of(COST.audit(Kind.GENERATE, 8, 8), price)
    lost = bond - staking.require(world.ctx, copier).bond
    assert lost == 256 * audit
    assert world.ctx.balance(payout_of(executor)) - payouts[executor] == lost // 2
    assert world.ctx.balance(payout_of(honest)) - payouts[honest] == audit
    (sprung,) = world.events(abi.TRAP_SPRUNG)
    assert sprung["caught"] == (world.text(copier),) and sprung["trapRoot"] == trap_root(SALT, root)
    assert world.status(task) == Status.AGREED
    world.finish(task)
    (receipt,) = world.of(abi.RECEIPT, task)
    assert receipt["verifiers"] == (world.text(honest),) and receipt["root"] == root
    assert world.ctx.balance(payout_of(copier)) == payouts[copier]
    burned = sum(e["amount"] for e in world.events(abi.SLASHED)) - sum(e["amount"] for e in world.events(abi.TRAP_PAID))
    assert burned > 0
    assert not market_state.EXPOSED.get(world.ctx, copier)


def test_the_copiers_work_of_this_epoch_counts_for_nothing_and_earlier_credit_stays(world):
    from vm.system import ledger

    task, executor, root = world.committed()
    copier, honest = world.task(task).verifiers
    record = ledger.standing(world.ctx, copier)
    record.credit, record.executed, record.audited = 10**12, 5, 7
    ledger.put_standing(world.ctx, copier, record)
    world.say(copier, task, trap_root(SALT, root))
    world.say(honest, task, root)
    world.block()
    world.spring(executor, task, root)
    record = ledger.standing(world.ctx, copier)
    assert (record.credit, record.executed, record.audited) == (10**12, 0, 0)
    (slashed,) = world.events(abi.SLASHED)
    assert slashed["reason"] == Reason.COPIED_ROOT


def test_a_trap_that_catches_nobody_is_a_reveal_like_any_other(world):
    task, executor, root = world.committed()
    for verifier in world.task(task).verifiers:
        world.say(verifier, task, root)
    world.block()
    assert world.spring(executor, task, root) == []
    assert world.status(task) == Status.AGREED
    assert not world.events(abi.SLASHED)
    assert market_state.TRAP_ANSWERS.get(world.ctx, executor) == 0


def test_when_all_copied_nobody_vouches_for_the_answer(world):
    task, executor, root = world.committed()
    for verifier in world.task(task).verifiers:
        world.say(verifier, task, trap_root(SALT, root))
    world.block()
    assert world.spring(executor, task, root) == []
    assert len(world.events(abi.TRAP_SPRUNG)[0]["caught"]) == 2
    world.block(30)
    assert world.status(task) == Status.UNVERIFIED


@pytest.mark.parametrize(
    ("who", "salt", "code"),
    [("executor", bytes(32), "opens_nothing"), ("other", SALT, "not_dealt")],
    ids=["another salt", "another operator"],
)
def test_only_the_executor_opens_its_trap_and_only_with_what_it_hid(world, who, salt, code):
    task, executor, root = world.committed()
    other = next(v.operator for v in world.spec.validators if v.operator != executor)
    for verifier in world.task(task).verifiers:
        world.say(verifier, task, root)
    world.block(4)  # others may reveal too by now
    assert world.spring(executor if who == "executor" else other, task, root, salt) == [code]


def test_one_answer_in_sixteen_may_be_a_trap(world):
    task, executor, root = world.committed(entitled=False)
    for verifier in world.task(task).verifiers:
        world.say(verifier, task, root)
    world.block()
    assert world.spring(executor, task, root) == ["trap_allowance"]
    assert market_state.TRAP_ANSWERS.get(world.ctx, executor) == 1
    for _ in range(80):
        market_trap.note_answer(world.ctx, executor)
    assert market_state.TRAP_ANSWERS.get(world.ctx, executor) == 4 * market_trap.TRAP_EVERY
    assert world.spring(executor, task, root) == []
    left = market_state.TRAP_ANSWERS.get(world.ctx, executor)
    assert left == 3 * market_trap.TRAP_EVERY, "nobody can read that the next ones are none"
    assert world.spring(executor, task, root) == ["stage"]


def test_when_others_revealed_the_truth_first_what_is_hidden_is_contradicted_until_it_is_opened(world):
    task, executor, root = world.committed()
    for verifier in world.task(task).verifiers:
        world.say(verifier, task, root)
    world.block(3)
    verifier = world.task(task).verifiers[0]
    assert world.reveal(verifier, task, root) == []
    assert world.status(task) == Status.DISPUTED
    world.block(world.params.reveal_window + world.params.silence_blocks - 3)
    assert world.spring(executor, task, root) == []
    world.block(2)
    assert world.status(task) == Status.AGREED and not world.events(abi.SLASHED)


@pytest.mark.parametrize("late", [False, True])
def test_a_false_root_behind_a_trap_is_contradicted_and_challenged_whenever_it_is_opened(world, late):
    """Opening a trap as late as it goes takes nobody's time to challenge away."""
    task, executor, root = world.committed()
    truth = keccak(b"what an honest trace hashes to")
    verifiers = world.task(task).verifiers
    for verifier in verifiers:
        world.say(verifier, task, truth)
    world.block(3)
    assert world.reveal(verifiers[0], task, truth) == []
    longest = world.params.reveal_window + world.params.silence_blocks
    world.block(longest - 3 if late else 1)
    assert world.spring(executor, task, root) == []
    assert world.status(task) == Status.DISPUTED
    for _ in range(world.params.silence_blocks):
        world.block()
        assert world.status(task) == Status.DISPUTED and not world.events(abi.SLASHED)
    (challenge,) = [duty for duty in world.duties(verifiers[0]) if duty.role == abi.ROLE_CHALLENGE]
    assert challenge.last_block == world.height
    world.ctx.call(referee.HANDLERS, abi.CHALLENGE, task, abi.NO_LEAF, sender=hot_of(verifiers[0]))
    world.block(world.params.silence_blocks + 2)
    assert world.text(executor) in {e["operator"] for e in world.events(abi.SLASHED)}
    assert world.status(task) == Status.REFUTED


def test_who_opens_none_until_its_time_is_over_has_withheld_its_root(world):
    task, executor, root = world.committed()
    for verifier in world.task(task).verifiers:
        world.say(verifier, task, root)
    world.block(3)
    assert world.reveal(world.task(task).verifiers[0], task, root) == []
    world.block(world.params.reveal_window + world.params.silence_blocks)
    assert [e["operator"] for e in world.events(abi.SLASHED)] == [world.text(executor)]
    assert world.status(task) == Status.REFUTED


def test_a_copier_who_reveals_what_was_let_out_convicts_nobody(world):
    """The executor is kept silent for the two blocks that are its own. Nobody challenges what somebody else opened
    before the executor's window is over, and it opens its trap in time."""
    task, executor, root = world.committed()
    copier, honest = world.task(task).verifiers
    star = trap_root(SALT, root)
    world.say(copier, task, star)
    world.say(honest, task, root)
    world.block(3)
    assert world.reveal(copier, task, star) == [] == world.reveal(honest, task, root)
    assert world.status(task) == Status.DISPUTED and world.task(task).executor_root == star
    for _ in range(world.params.reveal_window - 3):
        with pytest.raises(Refused, match="somebody else opened it"):
            world.ctx.call(referee.HANDLERS, abi.CHALLENGE, task, 0, sender=hot_of(honest))
        assert not [duty for duty in world.duties(honest) if duty.first_block <= world.height]
        world.block()
    assert world.spring(executor, task, root) == []
    assert world.events(abi.TRAP_SPRUNG)[0]["caught"] == (world.text(copier),)
    assert {e["operator"] for e in world.events(abi.SLASHED)} == {world.text(copier)}
    world.block(2)
    assert world.status(task) == Status.AGREED and world.task(task).executor_root == root
    world.finish(task)
    (receipt,) = world.of(abi.RECEIPT, task)
    assert receipt["verifiers"] == (world.text(honest),)
