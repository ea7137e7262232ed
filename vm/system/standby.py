"""What anybody who can run the model may do where those who should act are silent: reveal a root, make a contradiction
good, defend an accused. So nobody honest loses anything by being away, while one honest operator is there.

Reads only. Each operator's turn comes some blocks after the silent one's, at a place of its own, so that few do the
same work; what the messages then do is market_work's and the Referee's.
"""

from collections.abc import Iterator
from itertools import islice

from consensus.work.audit import Window
from primitives.hashing import keccak
from vm.system import abi, market_contest, market_parties, models, staking
from vm.system.context import ReadContext
from vm.system.layout import u64
from vm.system.market_state import CONTESTS, SEAT_AGAINST, SEAT_OPENED, TASKS, Task, seats_of
from vm.system.market_views import DUTIES_SHOWN_MAX, Duty, duty_of, open_tasks
from vm.system.referee_state import DISPUTES, MOVES, OPEN, Dispute, item_number
from vm.system.referee_turns import left_of, stood_still

CONTESTS_LOOKED_AT_MAX = 64
"""Contested tasks that one look goes through; later ones come when these are decided."""


def all_duties(ctx: ReadContext, operator: bytes) -> list[Duty]:
    """What an operator owes in ctx's block (a view's: the next one) or soon, and after that what it may do for others;
    each part the first to close first, bounded."""
    own = open_tasks(ctx, operator)
    if not CONTESTS.count(ctx, b"") and not OPEN.count(ctx, b""):
        return own
    known = {(duty.task, duty.role) for duty in own}
    others = [duty for duty in _for_others(ctx, operator) if (duty.task, duty.role) not in known]
    return (own + sorted(others, key=lambda duty: (duty.last_block, duty.task)))[:DUTIES_SHOWN_MAX]


def looks(ctx: ReadContext) -> int:
    """Tasks and disputes that all_duties reads beside those in which the operator has a part."""
    return min(CONTESTS.count(ctx, b""), CONTESTS_LOOKED_AT_MAX) + OPEN.count(ctx, b"")


def _for_others(ctx: ReadContext, operator: bytes) -> Iterator[Duty]:
    for task_id in islice(CONTESTS.items(ctx, b""), CONTESTS_LOOKED_AT_MAX):
        task = TASKS.get(ctx, task_id)
        if task is not None and operator != task.executor and models.serving(ctx, operator, task.model) is not None:
            yield from _contested(ctx, task_id, task, operator)
    for item in OPEN.items(ctx, b""):
        number = item_number(item)
        dispute = DISPUTES.get(ctx, u64(number))
        if dispute is not None and dispute.turn == abi.TURN_DEFENDER and operator != dispute.accused:
            yield from _silent_defence(ctx, number, dispute, operator)


def _contested(ctx: ReadContext, task_id: bytes, task: Task, operator: bytes) -> Iterator[Duty]:
    """The root that an executor has not revealed; then contradictions that are no challenges yet."""
    later = _place(ctx, task_id, operator, ctx.params.silence_blocks // 2)
    if not task.executor_opened:
        closed = task.reveal_window(ctx.params, task.executor).last
        window = Window(closed + 1 + later, task.root_window(ctx.params, operator).last)
        yield duty_of(task_id, task, abi.ROLE_REVEAL, abi.NO_SLOT, window)
    elif not task.disputes and any(seat.state == SEAT_AGAINST for seat in seats_of(ctx, task_id, task)):
        first = task.contest_began + max(ctx.params.verdict_window, task.delay) + 1 + later
        window = Window(first, market_contest.challenge_last(ctx, task))
        yield duty_of(task_id, task, abi.ROLE_CHALLENGE, abi.NO_SLOT, window)


def _silent_defence(ctx: ReadContext, number: int, dispute: Dispute, operator: bytes) -> Iterator[Duty]:
    """When half of its time is gone, drawn verifiers of the same root defend an accused; others when a third is left;
    who has shown something already goes on at once."""
    task = TASKS.get(ctx, dispute.task)
    record = staking.operator(ctx, operator)
    if task is None or record is None or models.serving(ctx, operator, task.model) is None:
        return
    last, left = dispute.due + stood_still(ctx, dispute), left_of(ctx, dispute)[0]
    drawn = any(s.verifier == operator and s.state == SEAT_OPENED for s in seats_of(ctx, dispute.task, task))
    first = last - left // 2 if drawn else last - left // 3 + _place(ctx, dispute.task, operator, left // 6)
    shown = MOVES.length(ctx, u64(number))
    if shown and (MOVES.at(ctx, shown - 1, u64(number)) >> 96).to_bytes(20, "big") == record.hot:
        first = dispute.turn_block + 1
    yield duty_of(dispute.task, task, abi.ROLE_DEFEND, abi.NO_SLOT, Window(first, last))


def _place(ctx: ReadContext, task_id: bytes, operator: bytes, most: int) -> int:
    """Blocks that this operator waits longer than the first may, below `most`, spread over twice as many as there are
    members."""
    among = min(2 * market_parties.set_size(ctx), most)
    return int.from_bytes(keccak(b"standby" + task_id + operator), "big") % among if among else 0
