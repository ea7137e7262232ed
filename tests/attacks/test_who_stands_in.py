"""An honest root is defended by whoever found it too, and by nobody's lies; a false one that everybody drawn agreed on
is challenged by who has no stake."""

from node.outbox import Message
from primitives.hashing import ZERO_HASH, keccak
from primitives.params import DISPUTE_MESSAGE_GAS
from primitives.task import Status
from tests.attacks.attacks import CHEAT, hit, outcome
from tests.attacks.fleet import Fleet, Watcher
from vm.system import abi, views


def challenged_falsely() -> tuple[Fleet, bytes]:
    """A fleet and a task at whose answer a false challenge is being filed."""
    fleet = Fleet({CHEAT: "false-challenge"})
    task = hit(fleet, by_executor=False)
    while not views.open_disputes(fleet.chain.reader):
        fleet.block()
    return fleet, task


def test_who_is_offline_is_defended_by_a_verifier_of_the_same_root() -> None:
    fleet, task = challenged_falsely()
    executor = fleet.chain.task(task).executor
    for validator in fleet.validators:
        validator.is_offline = validator.keys.operator == executor
    fleet.until_quiet(task)
    found = outcome("offline", fleet, task)
    assert found.status == Status.SETTLED and found.ended == [abi.ENDED_HELD]
    assert set(found.slashed) == {f"validator {CHEAT}"}
    authors = {event["sender"] for _, event in fleet.chain.events(abi.SHOWN)}
    offline = next(v.keys.hot for v in fleet.validators if v.is_offline)
    assert authors and "0x" + offline.hex() not in authors
    assert found.blocks > fleet.chain.params.silence_blocks // 2, "the accused had half of its time for itself"


def test_a_false_list_in_somebodys_defence_costs_its_author_alone() -> None:
    """A challenger's accomplice posts garbage before the accused answers, and says nothing more."""
    fleet, task = challenged_falsely()
    chain = fleet.chain

    def running() -> views.DisputeView:
        found = views.dispute(chain.reader, views.open_disputes(chain.reader)[0], chain.params, chain.height + 1)
        assert found is not None
        return found

    while (dispute := running()).state != abi.DISPUTE_LIST or dispute.turn != abi.TURN_DEFENDER:
        fleet.block()
    accused = next(v for v in fleet.validators if v.keys.operator == dispute.accused)
    party = next(iter(accused.honest._parties.values()))
    roots = len(party.working(dispute.leaf).roots)
    garbage = b"".join(keccak(bytes([i % 256])) for i in range(roots))
    bond = fleet.bond(abi.STAND_IN_BOND, dispute.dispute, chain.poster)
    data = abi.SHOW.encode_call(dispute.dispute, garbage)
    message = Message(abi.SHOW.account, data, DISPUTE_MESSAGE_GAS, frozenset(), bond)
    fleet.block(fleet.signed(chain.poster_key, chain.reader.nonce(chain.poster), message))
    assert chain.receipts[0].status == 1 and running().author == chain.poster
    fleet.until_quiet(task)
    found = outcome("false list", fleet, task)
    assert found.status == Status.SETTLED and found.ended == [abi.ENDED_HELD]
    assert set(found.slashed) == {f"validator {CHEAT}"}
    (lost,) = [event for _, event in chain.events(abi.LIST_REFUTED)]
    assert (lost["author"], lost["bond"]) == ("0x" + chain.poster.hex(), bond)
    assert lost["reason"] == abi.ENDED_LIST_UNDEFENDED


def test_when_all_who_were_drawn_lie_a_watcher_without_stake_ends_it() -> None:
    fleet = Fleet(dict.fromkeys(range(3), "colluding"), validators=3)
    fleet.watcher = Watcher(fleet.chain)
    task = fleet.post()
    fleet.until_quiet(task)
    found = outcome("all collude", fleet, task)
    assert found.status == Status.REFUNDED, "nobody is left who would answer truly"
    assert found.attempt == 3 and found.ended == [abi.ENDED_REFUTED] * 3
    assert set(found.slashed) == {"validator 0", "validator 1", "validator 2"}
    assert not found.paid
    agreed = [event for _, event in fleet.chain.events(abi.TASK_AGREED) if event["task"] == task]
    assert len(agreed) == 3, "they confirmed each other every time"
    challengers = {event["challenger"] for _, event in fleet.chain.events(abi.CHALLENGED)}
    assert challengers == {"0x" + fleet.chain.poster.hex()}


def test_a_watcher_challenges_nothing_true() -> None:
    fleet = Fleet()
    fleet.watcher = Watcher(fleet.chain)
    for _ in range(3):
        assert fleet.until_quiet(fleet.post()) == Status.SETTLED
    assert fleet.watcher.results and not list(fleet.chain.events(abi.CHALLENGED))
    assert ZERO_HASH not in {result.root for result in fleet.watcher.results.values()}
