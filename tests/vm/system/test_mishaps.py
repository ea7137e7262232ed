"""What went wrong with an operator stays readable: the last misses, refusals and slashes, each in a ring of its own."""

from market_world import World, hot_of
from memory_context import MemoryContext

from primitives.hashing import keccak
from primitives.params import ChainParams
from primitives.reasons import Reason, reason_of
from primitives.task import Reveal, Status, Verdict, encode_batch, task_id
from vm.system import abi, market, mishaps
from vm.system.mishaps import MISSES_KEPT

ME, OTHER = b"\x01" * 20, b"\x02" * 20


def test_the_newest_come_first_and_the_oldest_go() -> None:
    ctx = MemoryContext(ChainParams())
    for number in range(MISSES_KEPT + 5):
        mishaps.note_miss(ctx, ME, keccak(bytes([number])), Reason.NO_ANSWER, 1, True)
    tasks = [mishap.task for mishap in mishaps.misses(ctx, ME)]
    assert tasks == [keccak(bytes([number])) for number in reversed(range(5, MISSES_KEPT + 5))]
    assert mishaps.misses(ctx, OTHER) == []


def test_refusals_push_no_miss_out() -> None:
    ctx = MemoryContext(ChainParams())
    mishaps.note_miss(ctx, ME, bytes(32), Reason.NO_VERDICT, 2, True)
    mishaps.note_slash(ctx, ME, bytes(32), Reason.WRONG_WORK, 77)
    for _ in range(100):
        mishaps.note_refusal(ctx, ME, bytes(32), Reason.STAGE, 3)
    [miss], [slash] = mishaps.misses(ctx, ME), mishaps.slashes(ctx, ME)
    assert (miss.reason, miss.role, slash.reason, slash.wei) == (Reason.NO_VERDICT, 2, Reason.WRONG_WORK, 77)


def test_a_slot_without_an_answer_and_a_seat_without_a_verdict_are_on_record() -> None:
    world = World(canaries_per_validator=0)
    world.block()
    task = world.post()
    world.block()
    slots = world.task(task).slots
    world.block(11)
    missed_at = world.height
    assert world.submit(slots[1], task) == []
    world.block(world.delay)
    seats = world.task(task).verifiers
    world.block(9)
    [miss] = [m for m in mishaps.misses(world.ctx, slots[0]) if m.role == abi.ROLE_EXECUTE]
    assert (miss.task, miss.block, miss.reason, miss.counted) == (task, missed_at, Reason.NO_ANSWER, 1)
    for seat in seats:
        [miss] = [m for m in mishaps.misses(world.ctx, seat) if m.role == abi.ROLE_AUDIT]
        assert (miss.task, miss.reason) == (task, Reason.NO_VERDICT)
    (misses, refusals, slashes) = world.ctx.call(mishaps.HANDLERS, abi.MISHAPS, slots[0], sender=ME)
    assert misses[0][:3] in [(task, missed_at, Reason.NO_ANSWER), (task, world.height, Reason.NO_VERDICT)]
    assert (refusals, slashes) == ([], [])


def test_a_refused_message_is_on_record_with_the_number_of_its_code() -> None:
    world = World(canaries_per_validator=0)
    world.block()
    task = world.post()
    operator = world.spec.validators[0].operator
    unknown = task_id(world.params.chain_id, 99)
    batch = encode_batch([Verdict(task, bytes(32)), Reveal(unknown, bytes(32), 0)])
    world.ctx.call(market.HANDLERS, abi.WORK, batch, sender=hot_of(operator))
    assert world.status(task) == Status.POSTED
    found = [(m.task, Reason(m.reason), m.role) for m in mishaps.refusals(world.ctx, operator)]
    assert found == [(unknown, Reason.UNKNOWN_TASK, 3), (task, Reason.STAGE, 2)]
    codes = [event["code"] for event in world.events(abi.WORK_REFUSED)]
    assert [reason_of(code) for code in codes] == [Reason.STAGE, Reason.UNKNOWN_TASK]
