"""What the Market keeps in storage: tasks, seats of their verifiers, queues, duties, what is in flight.

Owns the layout and nothing of the rules. Bulk bytes (prompts, outputs) stand in logs; a task keeps their hashes, and
once finished only its status and receipt.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from consensus.work.audit import Window, reveal_window, slot_window, verdict_window
from consensus.work.deal import EXECUTOR_SLOTS
from consensus.work.fees import Terms
from primitives.address import MARKET, STAKING
from primitives.hashing import keccak
from primitives.params import ChainParams
from primitives.task import Kind, Status, result_length, task_id
from vm.system.context import ReadContext, Refused, SystemContext
from vm.system.layout import Due, Heap, Number, Queue, Scalar, Table, Words, raw, u64, uint
from vm.system.models import Model

NOBODY = bytes(20)
TIP_MAX = 2**96 - 1
"""Wei a CWU."""
FRESH_MAX = 4096
"""User tasks that wait for their first deal; a post beyond is refused. 12 words on the way to the first."""
SEAT_DRAWN, SEAT_GIVEN, SEAT_OPENED, SEAT_MISSED, SEAT_AGAINST, SEAT_CHALLENGING = 1, 2, 3, 4, 5, 6
"""A verifier's seat: drawn and silent, verdict in, verdict opened and for the answer, lost, verdict opened and against
the answer, the same and followed by a challenge."""
CREDIT_AGAIN_EPOCHS = 64
"""Work without a seed (greedy, embed, score) on the same model and prompt earns credit once in so many epochs: its
answer is known."""
DEALT_STAGES = (Status.DEALT, Status.REFUTED)
"""The task waits for an answer; REFUTED: of the next attempt."""


@dataclass
class Task:
    """A task that is not finished. Heights are blocks; 0 where it has not come so far."""

    status: int = uint(8)
    kind: int = uint(3)
    excused: int = uint(3)
    """Bit i: the silence of slot i is no miss, for at the rate that it had at the deal a third of the deadline is too
    short, or it had no room when its turn came without a deal."""
    canary: int = uint(1)
    commissioned: int = uint(1)
    """1: the fund pays it, and what is not needed returns there."""
    executor_opened: int = uint(1)
    contradicted: int = uint(1)
    awaits: int = uint(8)
    """Place in QUEUES of the queue that looks at the task next."""
    due: int = uint(48)
    """Block whose prologue looks at the task next; entries of other queues and of later blocks are stale."""
    callback_gas: int = uint(32)
    paid_auditors: int = uint(8)
    """Verifiers that the escrow pays for."""
    seats: int = uint(8)
    """Verifiers drawn so far, the lost ones with them."""
    attempt: int = uint(8)
    assurance: int = uint(8)
    auditors: int = uint(8)
    """k, fixed at the first draw."""
    redraws: int = uint(8)
    slot: int = uint(4)
    """Whose answer was taken."""
    slots: int = uint(4)
    """Executor and backups that were dealt."""
    passed: int = uint(4)
    """Slots whose own time has passed."""
    tries: int = uint(8)
    """Deals that found nobody."""
    device_bytes: int = uint(8)
    disputes: int = uint(8)
    """Challenges of this attempt's answer that wait or run; while there is one, nothing is settled."""
    delay: int = uint(32)
    """D of the answer's block."""
    deadline: int = uint(32)

    sequence: int = uint(56)
    posted: int = uint(40)
    dealt: int = uint(40)
    answered: int = uint(40)
    drawn: int = uint(40)
    """The last draw of verifiers."""
    revealing: int = uint(40)

    agreed: int = uint(40)
    contest_began: int = uint(40)
    """When contradictions had their time from: the last root of a verdict or of the executor on record, or the last
    challenge that was lost."""
    contest_stopped: int = uint(40)
    """Blocks in which all clocks stood until then (referee_state.STOPPED)."""
    other_bad: int = uint(32)
    prompt: int = uint(32)
    """Tokens."""
    output: int = uint(32)
    """Tokens or elements."""
    max_tokens: int = uint(32)

    temperature_q16: int = uint(32)
    top_k: int = uint(32)
    queue_ms: int = uint(32)
    first_token_ms: int = uint(32)
    gain: int = uint(128)
    """G at the post: what each party of the task exposes of its bond, 1 of exposure_div."""

    poster: bytes = raw(20)
    price: int = uint(96)
    """Wei a CWU at the post."""
    slot0: bytes = raw(20)
    base_fee: int = uint(96)
    slot1: bytes = raw(20)
    escrow: int = uint(96)
    slot2: bytes = raw(20)
    serving_bond: int = uint(96)
    """Bond of the members that served the model at the deal, in units of STAKE_UNIT; 0: the work earns no credit."""
    revealer: bytes = raw(20)
    """Who opened the executor's commitment."""
    room_bond: int = uint(96)
    """The part of serving_bond that had room."""
    contradictor: bytes = raw(20)
    held: int = uint(96)
    """Multiply-adds that the task counts in flight for whose turn it is (its deadline bounds its cost below 2^95)."""
    tip: int = uint(96)
    """Wei a CWU beyond the price."""
    value_at_risk: int = uint(128)
    """X: what a wrong answer may cost the asker, in wei."""
    total_ms: int = uint(32)

    model: bytes = raw(32)
    prompt_hash: bytes = raw(32)
    output_hash: bytes = raw(32)
    seed: bytes = raw(32)
    commitment: bytes = raw(32)
    root: bytes = raw(32)
    other_root: bytes = raw(32)
    device: bytes = raw(32)

    @property
    def parties(self) -> tuple[bytes, ...]:
        """The executor and its backups, in order."""
        return (self.slot0, self.slot1, self.slot2)[: self.slots]

    @property
    def executor(self) -> bytes:
        """Whose answer was taken."""
        return self.parties[self.slot] if self.answered else NOBODY

    def set_parties(self, parties: tuple[bytes, ...]) -> None:
        """Fill the slots."""
        assert len(parties) <= EXECUTOR_SLOTS
        self.slots = len(parties)
        self.slot0, self.slot1, self.slot2 = (*parties, NOBODY, NOBODY, NOBODY)[:EXECUTOR_SLOTS]

    def terms(self, model: Model) -> Terms:
        """What it was posted under."""
        return Terms(
            model.cost, Kind(self.kind), self.prompt, self.longest(model), self.price, self.base_fee,
            self.paid_auditors, self.tip, self.callback_gas,
        )  # fmt: skip

    def longest(self, model: Model) -> int:
        """Tokens or elements that its answer may have."""
        return result_length(Kind(self.kind), self.prompt, self.max_tokens, model.width)

    def cost(self, model: Model) -> int:
        """Multiply-adds that it may take, by the length of the longest answer."""
        return model.cost.execution(Kind(self.kind), self.prompt, self.longest(model))

    def slot_window(self, slot: int) -> Window:
        """When that slot may submit."""
        return slot_window(self.dealt, self.deadline, slot)

    def verdict_window(self, params: ChainParams) -> Window:
        """When the verifiers drawn last may give their verdicts."""
        return verdict_window(self.drawn, params.verdict_window, self.delay)

    @property
    def cancelled(self) -> bool:
        """Whether the poster has taken its escrow back while the answer is disputed."""
        return not self.canary and not self.escrow

    def reveal_window(self, params: ChainParams, operator: bytes) -> Window:
        """When that operator may reveal."""
        return reveal_window(self.revealing, params.reveal_window, self.delay, operator == self.executor)

    def root_window(self, params: ChainParams, operator: bytes) -> Window:
        """When that operator may reveal the root of a contradicted answer: who is accused has a silence more."""
        window = self.reveal_window(params, operator)
        return Window(window.first, window.last + params.silence_blocks)


@dataclass
class Seat:
    """One verifier of a task."""

    verifier: bytes = raw(20)
    state: int = uint(8)
    round: int = uint(8)
    abandoned: int = uint(40)
    """The dispute that it began from its stake and then left to the clock; it begins no other. 0: none."""
    bad: int = uint(32)
    commitment: bytes = raw(32)
    """Once it was opened: the root that it says."""


@dataclass
class Finished:
    """What is left of a task, beside its receipt's id in the Ledger."""

    status: int = uint(8)
    done: int = uint(64)


@dataclass
class Load:
    """What an operator has open. in_flight: multiply-adds that it is to execute now; exposed: the sum of the G, in wei,
    of the open tasks in which it executes or gave or owes a verdict. (A task counts below 2^96 in either.)"""

    in_flight: int = uint(128)
    exposed: int = uint(128)


TASKS = Table(MARKET, "task", Task)
SEATS = Table(MARKET, "seat", Seat)
FINISHED = Table(MARKET, "finished", Finished)

POSTED = Scalar(MARKET, "posted")
"""Tasks ever posted, canaries with them: the next sequence number."""
ESCROWED = Scalar(MARKET, "escrowed")
"""Wei locked by open tasks, held by this account beside the fund and the audit reserve."""
FUND = Scalar(MARKET, "fund")
"""Wei of the commissioned fund."""
AUDIT_RESERVE = Scalar(MARKET, "audit_reserve")
"""Wei that pays verifiers of sampled tasks; 0 while every task is checked (p = 1)."""
CREATED = Scalar(MARKET, "canaries_created")
"""Canaries of the current epoch that were created or passed over: epoch << 32 | number."""
CREDITED = Words(MARKET, "credited")
"""Epoch + 1 in which work without a seed on a prompt (prompt_key) last earned credit; forgotten when it may again."""
TRAP_ANSWERS = Words(STAKING, "trap_answers")
"""Answers of an operator that are left to set traps against (with its record: they outlive tasks)."""
LOADS = Table(MARKET, "load", Load)
IN_FLIGHT, EXPOSED = Number(LOADS, "in_flight"), Number(LOADS, "exposed")

WINDOWS = Queue(MARKET, "windows")
"""Step 1: tasks whose window or deadline ends. Here and below an entry is a task's id."""
DRAWS = Queue(MARKET, "draws")
"""Step 2: tasks whose audit is to be drawn."""
CONTESTED = Queue(MARKET, "contested")
"""Step 1, the Referee's part: disputed tasks whose reveals end, or whose contradictions are to be challenges by now."""
MATURE = Queue(MARKET, "mature")
"""Step 3: tasks that settle."""
RETRIES = Queue(MARKET, "retries")
"""Step 4: tasks that nobody could hold."""
COMMISSIONED = Queue(MARKET, "commissioned")
"""Step 4: tasks of commissioned batches."""
CANARIES = Queue(MARKET, "canaries")
"""Step 4: canaries."""
FORGET = Queue(MARKET, "forget")
"""End of step 5: finished tasks, due in the first block after the epochs for which the state remembers them."""
CREDITED_BEFORE = Queue(MARKET, "credited_before")
"""End of step 5: keys of prompts on which work without a seed may earn credit again from that block's epoch on."""
QUEUES = (WINDOWS, DRAWS, MATURE, RETRIES, CANARIES, CONTESTED, COMMISSIONED)


def prompt_key(model: bytes, prompt_hash: bytes, kind: int) -> bytes:
    """What work without a seed is known by: whoever does it, its result is the same."""
    return keccak(model + prompt_hash + bytes([kind]))


class ByTip:
    """Tasks by tip per CWU, the highest first, then by sequence: what a heap's word says in this order."""

    def __init__(self, account: bytes, name: str, most: int) -> None:
        self._heap = Heap(account, name, most)

    def push(self, ctx: SystemContext, tip: int, sequence: int) -> None:
        """Raises Refused("queue_full")."""
        self._heap.push(ctx, (TIP_MAX - tip) << 64 | sequence)

    def peek(self, ctx: ReadContext, through: int) -> Due | None:
        """The task that comes first (all that were posted are due); None when none waits."""
        word = self._heap.least(ctx)
        return None if word is None else Due(through, task_id(ctx.params.chain_id, word % 2**64))

    def pop(self, ctx: SystemContext) -> None:
        """Take out the task that `peek` just gave."""
        self._heap.pop(ctx)

    def pending(self, ctx: ReadContext) -> int:
        """Tasks in it, those that were cancelled meanwhile with them."""
        return self._heap.size(ctx)


FRESH = ByTip(MARKET, "fresh", FRESH_MAX)
"""Step 4: user tasks that were not tried yet."""


class Bag:
    """A set of 32-byte items a key, cheap to add to and take from: a list whose last element fills a gap."""

    def __init__(self, account: bytes, name: str) -> None:
        self._count = Words(account, name + ".count")
        self._items = Words(account, name + ".items")
        self._places = Words(account, name + ".places")

    def add(self, ctx: SystemContext, item: bytes, key: bytes) -> None:
        """No effect when it is in."""
        if self._places.get(ctx, key, item):
            return
        count = self._count.get(ctx, key)
        self._items.set_bytes(ctx, item, key, u64(count))
        self._places.set(ctx, count + 1, key, item)
        self._count.set(ctx, count + 1, key)

    def remove(self, ctx: SystemContext, item: bytes, key: bytes) -> None:
        """No effect when it is not in."""
        place = self._places.get(ctx, key, item)
        if not place:
            return
        last = self._count.get(ctx, key) - 1
        if place - 1 != last:
            moved = self._items.get_bytes(ctx, 32, key, u64(last))
            self._items.set_bytes(ctx, moved, key, u64(place - 1))
            self._places.set(ctx, place, key, moved)
        self._items.set(ctx, 0, key, u64(last))
        self._places.set(ctx, 0, key, item)
        self._count.set(ctx, last, key)

    def count(self, ctx: ReadContext, key: bytes) -> int:
        """How many there are."""
        return self._count.get(ctx, key)

    def items(self, ctx: ReadContext, key: bytes) -> Iterator[bytes]:
        """All of them, in no order that matters."""
        for index in range(self._count.get(ctx, key)):
            yield self._items.get_bytes(ctx, 32, key, u64(index))


DUTIES = Bag(MARKET, "duties")
"""Open tasks in which an operator holds a slot or a seat."""
CONTESTS = Bag(MARKET, "contests")
"""Tasks whose reveals are over and that stand contradicted, under the empty key: for whoever can run the model, where
those who should act are away."""


def load(ctx: ReadContext, task_id: bytes) -> Task:
    """An open task. Raises Refused("unknown_task") or ("finished")."""
    task = TASKS.get(ctx, task_id)
    if task is None:
        finished = FINISHED.get(ctx, task_id)
        if finished is None:
            raise Refused("unknown_task", f"there is no task 0x{task_id.hex()}")
        raise Refused("finished", f"task 0x{task_id.hex()} is {Status(finished.status).name.lower()}")
    return task


def seats_of(ctx: ReadContext, task_id: bytes, task: Task) -> list[Seat]:
    """Seats in the order drawn, the lost ones with them."""
    seats: list[Seat] = []
    for index in range(task.seats):
        seat = SEATS.get(ctx, task_id, bytes([index]))
        assert seat is not None
        seats.append(seat)
    return seats


def put_seat(ctx: SystemContext, task_id: bytes, index: int, seat: Seat) -> None:
    """Write a seat."""
    SEATS.put(ctx, seat, task_id, bytes([index]))


def schedule(ctx: SystemContext, queue: Queue, task_id: bytes, task: Task, due: int) -> None:
    """Have the prologue of block `due` look at the task; what was scheduled is stale. The caller puts the task."""
    task.due, task.awaits = due, QUEUES.index(queue)
    queue.push(ctx, due, task_id)


def lock(ctx: SystemContext, task: Task, wei: int) -> None:
    """Count wei that this account holds as the task's escrow."""
    task.escrow += wei
    ESCROWED.add(ctx, wei)


def unlock(ctx: SystemContext, task: Task, wei: int | None = None) -> int:
    """So much of the task's escrow, or all that is left of it, which the caller now pays out of this account."""
    wei = task.escrow if wei is None else wei
    assert wei <= task.escrow
    task.escrow -= wei
    ESCROWED.add(ctx, -wei)
    return wei


def finish(ctx: SystemContext, task_id: bytes, task: Task, status: Status) -> None:
    """Prune a task to its end; its receipt's id, if it has one, is the Ledger's."""
    assert task.escrow == 0
    release(ctx, task)
    uncover(ctx, task_id, task)
    leave(ctx, task_id, task)
    for index in range(task.seats):
        SEATS.delete(ctx, task_id, bytes([index]))
    TASKS.delete(ctx, task_id)
    FINISHED.put(ctx, Finished(status, ctx.height), task_id)
    forget_later(ctx, task_id)


def forget_later(ctx: SystemContext, task_id: bytes) -> None:
    """Have the prologue forget, some whole epochs from now, what is left of a task that ends."""
    FORGET.push(ctx, forgotten_from(ctx), task_id)


def forgotten_from(ctx: ReadContext) -> int:
    """The first block whose prologue forgets what ends in this one."""
    kept_through = ctx.params.epoch(ctx.height) + ctx.params.receipts_kept_epochs
    return ctx.params.first_height(kept_through + 1)


def hold(ctx: SystemContext, task: Task, macs: int) -> None:
    """Count the task in flight for the slot whose turn begins, and what it exposes of its bond."""
    assert not task.held
    task.held = macs
    IN_FLIGHT.add(ctx, macs, task.parties[task.passed])
    expose(ctx, task, task.parties[task.passed])


def release(ctx: SystemContext, task: Task) -> None:
    """The slot whose turn it was has answered, or its time has passed."""
    if task.held:
        IN_FLIGHT.add(ctx, -task.held, task.parties[task.passed])
        unexpose(ctx, task, task.parties[task.passed])
        task.held = 0


def expose(ctx: SystemContext, task: Task, operator: bytes) -> None:
    """An operator has given the task its answer or a verdict, or is to."""
    EXPOSED.add(ctx, task.gain, operator)


def unexpose(ctx: SystemContext, task: Task, operator: bytes) -> None:
    """It has no part in the task any more."""
    EXPOSED.add(ctx, -task.gain, operator)


def uncover(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """Nothing of the task can be proven wrong any more, or it was: its executor's and verifiers' exposure ends."""
    if task.answered:
        unexpose(ctx, task, task.executor)
    for seat in seats_of(ctx, task_id, task):
        if seat.state != SEAT_MISSED:
            unexpose(ctx, task, seat.verifier)


def leave(ctx: SystemContext, task_id: bytes, task: Task) -> None:
    """Nobody owes the task anything any more."""
    for operator in (*task.parties, *(seat.verifier for seat in seats_of(ctx, task_id, task))):
        DUTIES.remove(ctx, task_id, operator)
