"""A chain in dictionaries to which anybody sends anything: true work, lies, nonsense of the right form, at random.

Every block it checks that no item of the prologue failed, that every counter is what the open tasks and disputes add
up to, and that every wei has a place. A call succeeds or is refused: whatever else leaves a rule leaves this too.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from market_world import hot_of, operator_of, payout_of
from referee_world import POSTER, STRANGER, WATCHER, RefereeWorld, forged
from sample import STRANGER as NEWCOMER
from test_hostile_calls import NUMBERS
from test_second_referee import LOOPS, SAYS_TRUE

from inference.defence import NoMove, Party
from inference.ops import op_list
from primitives.address import COURIER, SECOND_REFEREE, SYSTEM_ACCOUNTS
from primitives.genesis import GenesisBatch
from primitives.hashing import keccak
from primitives.merkle import pack_tokens
from primitives.params import COIN
from primitives.task import (
    NO_BAD_POSITION,
    Kind,
    Reveal,
    Status,
    Submission,
    TrapOpening,
    Verdict,
    encode_batch,
    encode_texts,
    execution_commitment,
    result_length,
    task_id,
    tolerant_task_id,
    trap_root,
    verdict_commitment,
)
from vm.system import abi, courier, market_state, market_trap, pools, staking, tolerant_state
from vm.system.context import OutOfGas, Refused
from vm.system.dispatch import handlers
from vm.system.layout import u64
from vm.system.referee_state import (
    AUTHOR_DRAWN,
    COUNT,
    DISPUTES,
    OF_TASK,
    OPEN,
    RUNNING,
    Dispute,
    accused_of,
)

LIVE = handlers()
METHODS = [function for account in abi.FUNCTIONS.values() for function in account.values() if function != abi.PROLOGUE]
PEOPLE = (POSTER, WATCHER, STRANGER, keccak(b"a contract")[12:])
VALIDATORS = 5
SALT = keccak(b"salt")
PARAMS = {
    "epoch_blocks": 16, "receipts_kept_epochs": 1, "silence_blocks": 8, "dispute_clock_blocks": 22,
    "evidence_age_blocks": 1, "unbonding_blocks": 66, "slash_window_epochs": 2, "canaries_per_validator": 1,
    "canary_tokens": 2,
}  # fmt: skip


class AnyProgram(RefereeWorld):
    """Blocks of random calls; `rng` decides everything."""

    def __init__(self, seed: int, kind: str) -> None:
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        bond = self.rng.choice((1_000, 1_001, 20_000)) * COIN
        batch = GenesisBatch("batch", RefereeWorld(kind).model.model_id, Kind.EMBED, ((5, 6, 7), (8, 9)))
        fund = self.rng.choice((0, COIN // 100, 100 * COIN))
        super().__init__(kind, seed, validators=VALIDATORS, bond=bond, batches=(batch,), fund=fund, **PARAMS)
        self.operators = [operator_of(i) for i in range(VALIDATORS)]
        self.newcomer = NEWCOMER.operator
        people = (*PEOPLE, *self.operators, *map(hot_of, self.operators), self.newcomer, NEWCOMER.hot)
        self.senders = people
        for person in people:
            self.ctx.balances[person] = 50_000 * COIN
        self.recount()
        for operator in self.operators[:3]:
            self.try_call(abi.DECLARE_COMMISSION, 500, sender=operator)
            market_state.TRAP_ANSWERS.set(self.ctx, market_trap.TRAP_EVERY, operator)
        self.second = self.pick(None, None, None, LOOPS, SAYS_TRUE)
        self.executions: dict[tuple[bytes, int], tuple[tuple[int, ...], Party, Party]] = {}
        self.roots_of: dict[tuple[bytes, int], bytes] = {}
        self.checked_logs = 0

    # ------------------------------------------------------------------ calls

    def try_call(self, function: abi.Function, *arguments: Any, sender: bytes, value: int = 0) -> Any:
        """A transaction: it succeeds, or it is refused and leaves nothing."""
        self.ctx.gas_used, self.ctx.gas_limit = 0, self.rng.choice((10**9, 10**9, 10**9, 60_000, 300_000))
        try:
            result = self.ctx.call(LIVE, function, *arguments, sender=sender, value=value)
        except Refused as refusal:
            self.refusals[refusal.code] += 1
            return None
        except OutOfGas:
            return None
        finally:
            self.ctx.gas_used, self.ctx.gas_limit = 0, 10**9
        self.done[function.name] += 1
        return result

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def mostly(self, usual: Any, other: Any) -> Any:
        return usual if self.rng.random() < 0.9 else other

    def some_task(self) -> bytes:
        count = market_state.POSTED.get(self.ctx)
        if not count or self.rng.random() < 0.05:
            return self.pick(bytes(32), b"\xff" * 32)
        return task_id(self.params.chain_id, max(0, count - 1 - int(self.rng.expovariate(0.15))))

    def some_dispute(self) -> int:
        items = [int.from_bytes(item, "big") for item in OPEN.items(self.ctx, b"")]
        return self.rng.choice(items) if items and self.rng.random() < 0.9 else self.pick(0, 1, 2, 2**64 - 1)

    def some_operator(self) -> bytes:
        return self.pick(*self.operators, self.newcomer) if self.rng.random() < 0.9 else self.some_address()

    def some_address(self) -> bytes:
        return self.pick(*self.senders, *SYSTEM_ACCOUNTS, bytes(20), payout_of(self.operators[0]))

    def argument(self, param: abi.Param) -> Any:
        """Something of a parameter's type, mostly something that there is."""
        rng = self.rng
        match param.canonical, param.name:
            case "bytes32", "task":
                return self.some_task()
            case "bytes32", "model":
                return self.pick(self.model.model_id, self.model.model_id, bytes(32))
            case "bytes32", _:
                return self.pick(bytes(32), rng.randbytes(32), self.some_task())
            case "address", "operator" | "delegator":
                return self.some_operator()
            case "address", _:
                return self.some_address()
            case "uint64", "dispute":
                return self.some_dispute()
            case "bytes", _:
                return self.pick(b"", rng.randbytes(rng.choice((1, 32, 64, 96, 256))), self.some_batch())
            case "string", _:
                return self.pick("", "a name", "\0" * 300)
            case "bytes32[]", _:
                return [self.pick(bytes(32), rng.randbytes(32)) for _ in range(rng.choice((0, 1, 2, 40)))]
            case "uint32[]", _:
                return [rng.choice((0, 1, 2**32 - 1)) for _ in range(rng.choice((0, 1, 17)))]
            case number, _:
                bits = int(number.removeprefix("uint"))
                if rng.random() < 0.5:
                    return rng.randrange(20)
                return rng.choice((*NUMBERS, COIN, 1_000 * COIN, 10**9)) % 2**bits

    def value(self) -> int:
        return self.pick(0, 0, 0, 1, COIN // 10, COIN, 1_000 * COIN)

    # ------------------------------------------------------------------ what happens

    def anything(self) -> None:
        function = self.rng.choice(METHODS)
        arguments = [self.argument(param) for param in function.inputs]
        value = self.value() if function.mutability == "payable" else 0
        self.try_call(function, *arguments, sender=self.pick(*self.senders), value=value)

    def asks(self) -> None:
        rng, kind = self.rng, self.pick(0, 0, 0, 1, 2)
        prompt = rng.choice((1, 2, 5, 9))
        tokens = pack_tokens(self.prompt(prompt))
        most = 0 if kind else rng.choice((1, 3))
        temperature = 0 if kind else self.pick(0, 65_536, 2**32 - 1)
        arguments = [
            kind, self.model.model_id, tokens, most, temperature, 0 if kind else self.pick(0, 1, 2**32 - 1),
            self.pick(0, 0, 1, 2, 3), self.pick(0, 0, COIN // 4), self.pick(0, 0, 10**9, 2**80),
            self.pick(12, 12, 30, 200), self.pick(0, 50_000, 200_000),
        ]  # fmt: skip
        sender, value = self.pick(*PEOPLE, *self.operators), self.pick(COIN, 10 * COIN)
        self.try_call(abi.POST, *arguments, sender=sender, value=value)

    def works(self) -> None:
        """An operator sends what it owes: truly, falsely, or as somebody else's."""
        for operator in self.operators:
            if self.rng.random() < 0.6:
                self.works_as(operator)

    def works_as(self, operator: bytes) -> None:
        items: list[Any] = []
        for duty in self.duties(operator)[:4]:
            if self.rng.random() < 0.85:
                items += self.items_for(operator, duty)
        items += self.some_items() if not items or self.rng.random() < 0.05 else []
        self.try_call(abi.WORK, encode_batch(items), sender=hot_of(operator))

    def items_for(self, operator: bytes, duty: Any) -> list[Any]:
        task, rng = duty.task, self.rng
        if duty.role == abi.ROLE_EXECUTE:
            output, _, claimed = self.executed(task)
            tokens = output if rng.random() < 0.97 else (1,) * rng.randrange(4)
            root, commitment = claimed.root, None
            if rng.random() < 0.05:
                root = rng.randbytes(32)
            if rng.random() < 0.2:
                commitment = execution_commitment(task, operator, trap_root(SALT, root))
            self.roots_of[task, duty.slot] = root
            commitment = commitment or execution_commitment(task, operator, root)
            return [Submission(task, tokens, commitment, 1, 2**32 - 1, 3, b"any")]
        if duty.role == abi.ROLE_AUDIT:
            root, bad = self.said(task)
            return [Verdict(task, verdict_commitment(task, operator, bad, root))]
        if duty.role == abi.ROLE_REVEAL:
            claimed = self.executed(task)[2].root
            said = self.pick((claimed, NO_BAD_POSITION), self.said(task), (claimed, 0))
            return [self.pick(Reveal(task, *said), Reveal(task, *said), TrapOpening(task, SALT, claimed))]
        self.try_call(abi.CHALLENGE, task, self.pick(abi.NO_LEAF, 0, 1), sender=hot_of(operator))
        return []

    def said(self, task: bytes) -> tuple[bytes, int]:
        """A verdict on an answer."""
        _, honest, claimed = self.executed(task)
        root = self.pick(honest.root, claimed.root, claimed.root, trap_root(SALT, claimed.root), b"\x07" * 32)
        return root, self.pick(NO_BAD_POSITION, NO_BAD_POSITION, NO_BAD_POSITION, 0)

    def executed(self, task: bytes) -> tuple[tuple[int, ...], Party, Party]:
        """Of this attempt: the output, who executed it honestly, and what its executor claims, which may be false."""
        view = self.task(task)
        key = task, view.attempt
        if key not in self.executions:
            output = self.known_output(view)
            honest = Party(self.execution(task, output), self.model)
            claimed = Party(self.execution(task, output), self.model)
            if self.rng.random() < 0.5:
                leaf = self.rng.choice([leaf for leaf in honest.leaves if leaf.domain == "state"])
                ops = op_list(honest.execution.facts, honest.execution.task, leaf)
                wide = [number for number, op in enumerate(ops) if op.width > 2]
                claimed = forged(self.model, leaf, self.rng.choice(wide), by=1 << 20)(claimed.execution)
            self.executions[key] = output, honest, claimed
        return self.executions[key]

    def known_output(self, view: Any) -> tuple[int, ...]:
        try:
            return self.output(view.task)
        except (AssertionError, ValueError):
            width = self.model.manifest.shape.width
            return (2,) * result_length(Kind(view.kind), view.prompt_tokens, view.max_tokens, width)

    def some_items(self) -> list[Any]:
        """A batch that nobody waits for."""
        rng, task = self.rng, self.some_task()
        root = rng.randbytes(32)
        items = [
            Submission(task, (5, 6, 7), root, 0, 0, 0, b""), Submission(task, (), root, 0, 0, 0, bytes(32)),
            Submission(task, (2**32 - 1,), root, 1, 2, 3, b""), Verdict(task, root), Reveal(task, root, 0),
            TrapOpening(task, SALT, root),
        ]  # fmt: skip
        return rng.choices(items, k=rng.choice((1, 2, 64)))

    def some_batch(self) -> bytes:
        return encode_batch(self.some_items())

    def challenges(self) -> None:
        task, sender = self.some_task(), self.pick(*self.senders)
        try:
            bond, from_stake = LIVE[abi.BOND_FOR](self.ctx, Called(sender), task, sender)
        except Refused:
            return
        value = self.pick(0 if from_stake else bond, bond + 1, bond, max(0, bond - 1))
        leaf = self.pick(abi.NO_LEAF, abi.NO_LEAF, 0, 1, 2, 7, 400)
        self.try_call(abi.CHALLENGE, task, leaf, sender=sender, value=value)

    def moves(self) -> None:
        """Somebody's move in a dispute: true, false by a byte, or nonsense of the right length."""
        number = self.some_dispute()
        dispute = DISPUTES.get(self.ctx, u64(number))
        if dispute is None or dispute.state in (abi.DISPUTE_QUEUED, abi.DISPUTE_ENDED):
            return
        _, honest, claimed = self.executed(dispute.task)
        parties = honest, claimed
        if dispute.turn == abi.TURN_DEFENDER:
            self.shows(number, dispute, self.pick(*parties, claimed))
        else:
            self.answers(number, dispute, self.pick(*parties, parties[0]))

    def shows(self, number: int, dispute: Dispute, party: Party) -> None:
        view = self.dispute(number)
        size = dispute.count if dispute.state == abi.DISPUTE_TILE else 32 * dispute.count
        others = self.pick(*self.senders, *map(hot_of, self.task(dispute.task).verifiers))
        sender = self.mostly(self.pick(hot_of(dispute.accused), others), dispute.accused)
        try:
            data = party.show(self.games(number), place_of(view))
        except (NoMove, IndexError, AssertionError):
            data = self.rng.randbytes(size)
        if self.rng.random() < 0.15:
            data = self.pick(self.rng.randbytes(size), data[:-1], b"")
        bond = 0
        if dispute.state == abi.DISPUTE_LIST and not any(dispute.operations):
            bond, from_stake = LIVE[abi.STAND_IN_BOND](self.ctx, Called(sender), number, sender)
            bond = 0 if from_stake else bond
        self.try_call(abi.SHOW, number, data, sender=sender, value=self.pick(bond, bond, bond, bond + 5))

    def answers(self, number: int, dispute: Dispute, party: Party) -> None:
        sender, rng = self.mostly(dispute.challenger, self.pick(*self.senders)), self.rng
        if dispute.state == abi.DISPUTE_OPEN:
            try:
                opening = party.open(self.games(number))
                element, data = opening.element, opening.data
            except (NoMove, IndexError, AssertionError, KeyError, ValueError):
                element, data = self.pick(0, dispute.index, 2**64 - 1), rng.randbytes(200)
            if rng.random() < 0.2:
                place = rng.randrange(len(data))
                data = data[:place] + rng.randbytes(1) + data[place + 1 :]
            self.try_call(abi.OPEN, number, element, data, sender=sender)
            return
        game = self.games(number)
        try:
            choice = party.choose(game) if rng.random() < 0.7 else party.child(game, rng.randrange(dispute.count))
            index = abi.NO_OP if choice.index is None else choice.index
            arguments = index, choice.child, list(choice.path)
        except (NoMove, IndexError, AssertionError, ValueError):
            nonsense = rng.randrange(2**32), rng.randbytes(32), [bytes(32)] * 9
            arguments = self.pick((abi.NO_OP, bytes(32), []), nonsense)
        self.try_call(abi.CHOOSE, number, *arguments, sender=sender)

    def stakes(self) -> None:
        """Bonds, delegations, service: amounts that are mostly possible."""
        operator, person, model = self.some_operator(), self.pick(*PEOPLE), self.model.model_id
        record = staking.operator(self.ctx, operator)
        have, _ = pools.delegation_of(self.ctx, person, operator)
        calls: tuple[tuple[Any, ...], ...] = (
            (abi.BOND, (), operator, self.pick(COIN, 1_000 * COIN)),
            (abi.UNBOND, (record.bond if record else 1,), operator, 0),
            (abi.UNBOND, (self.pick(1, COIN, 10_000 * COIN),), operator, 0),
            (abi.WITHDRAW, (), self.pick(operator, person), 0),
            (abi.DECLARE_COMMISSION, (self.pick(0, 500, 10_000),), operator, 0),
            (abi.DELEGATE, (operator,), person, self.pick(COIN, COIN + 7, 1_000 * COIN, 0, 1)),
            (abi.UNDELEGATE, (operator, self.pick(have, COIN, max(0, have - COIN), 1)), person, 0),
            (abi.CLAIM, (operator,), person, 0),
            (abi.SERVE, (model, self.pick(1, 10**9, 2**64 - 1)), operator, 0),
            (abi.STOP_SERVING, (model,), operator, 0),
            (abi.SET_PAYOUT, (self.some_address(),), operator, 0),
            (abi.DECLARE, (self.pick(0, 10**12), self.pick(0, 1), self.pick(0, 7), self.pick(0, 10), []), operator, 0),
            (abi.CANCEL, (self.some_task(),), self.pick(*PEOPLE), 0),
        )
        if staking.operator(self.ctx, self.newcomer) is None and self.rng.random() < 0.2:
            keys = NEWCOMER.registration(self.params, self.ctx.genesis_hash)
            self.try_call(abi.REGISTER, *keys, sender=self.newcomer, value=1_000 * COIN)
        function, arguments, sender, value = self.rng.choice(calls)
        if function in (abi.STOP_SERVING, abi.UNBOND, abi.DECLARE, abi.SERVE) and self.rng.random() < 0.7:
            return
        self.try_call(function, *arguments, sender=sender, value=value)

    def tolerates(self) -> None:
        """Offers, questions, answers and what askers make of them in the tolerant lane."""
        operator, person, count = self.pick(*self.operators), self.pick(*PEOPLE), tolerant_state.ASKED.get(self.ctx)
        task = tolerant_task_id(self.params.chain_id, max(0, count - 1 - self.rng.randrange(3)))
        ask = tolerant_state.ASKS.get(self.ctx, task)
        executor, asker = (operator, person) if ask is None else (ask.executor, ask.asker)
        price, seed = self.pick(0, 10**9, 2**80), bytes(32)
        answer = encode_texts(("a", "é") * self.pick(1, 2, 3))
        calls: tuple[tuple[Any, ...], ...] = (
            (abi.MAKE_OFFER, ("a model", price, price, 64, 4, self.pick(8, 30)), hot_of(operator), 0),
            (abi.ASK, (operator, keccak(b"a model"), "prompt", self.pick(1, 4), 65_536, 1, seed), person, COIN),
            (abi.ASK, (operator, keccak(b"a model"), "p" * 64, 4, 0, 20, seed), person, 10 * COIN),
            (abi.ANSWER, (task, self.mostly(answer, b"\xff"), 1, 2**32 - 1), hot_of(executor), 0),
            (abi.ANSWER, (task, answer, 0, 0), hot_of(executor), 0),
            (abi.ACCEPT, (task,), asker, 0),
            (abi.REFUSE, (task, self.mostly("no", "")), asker, 0),
        )
        function, arguments, sender, value = self.rng.choice(calls)
        self.try_call(function, *arguments, sender=sender, value=value)

    def next_block(self) -> None:
        """With another base fee and another hour; contracts that are called back do as they please."""
        rng = self.rng
        self.ctx.base_fee = max(10**9, min(self.ctx.base_fee * rng.choice((8, 8, 9, 7)) // 8, 10**11))
        self.ctx.timestamp += rng.choice((1, 3_600))
        if self.second is not None and rng.random() < 0.05:
            self.ctx.codes[SECOND_REFEREE] = self.second
        for person in PEOPLE:
            self.ctx.contracts[person] = (rng.random() < 0.5, rng.choice((0, 30_000, 50_000)))
        self.block()

    # ------------------------------------------------------------------ what holds

    def check(self) -> None:
        super().check()
        failed = self.events(abi.ITEM_FAILED, self.checked_logs)
        assert not failed, failed
        self.checked_logs = len(self.ctx.logs)
        self.check_tasks()
        self.check_disputes()

    @property
    def registered(self) -> list[bytes]:
        return [*self.operators, self.newcomer]

    def open_tasks(self) -> dict[bytes, market_state.Task]:
        ids = (task_id(self.params.chain_id, n) for n in range(market_state.POSTED.get(self.ctx)))
        found = {task: market_state.TASKS.get(self.ctx, task) for task in ids}
        return {task: record for task, record in found.items() if record is not None}

    def check_tasks(self) -> None:
        """Escrows, exposure, what is in flight and duties are those of the open tasks."""
        exposed: Counter[bytes] = Counter()
        flying: Counter[bytes] = Counter()
        duties: dict[bytes, set[bytes]] = {}
        tasks = self.open_tasks()
        for task, record in tasks.items():
            seats = market_state.seats_of(self.ctx, task, record)
            parties = [seat.verifier for seat in seats if seat.state != market_state.SEAT_MISSED]
            parties += [record.executor] if record.answered else []
            if record.held:
                flying[record.parties[record.passed]] += record.held
                parties.append(record.parties[record.passed])
            for party in parties:
                exposed[party] += record.gain
            for party in (*record.parties, *(seat.verifier for seat in seats)):
                duties.setdefault(party, set()).add(task)
        assert market_state.ESCROWED.get(self.ctx) == sum(record.escrow for record in tasks.values())
        contested = {task for task, record in tasks.items() if record.status == Status.DISPUTED}
        assert set(market_state.CONTESTS.items(self.ctx, b"")) <= contested
        for operator in self.registered:
            assert market_state.EXPOSED.get(self.ctx, operator) == exposed[operator]
            assert market_state.IN_FLIGHT.get(self.ctx, operator) == flying[operator]
            assert set(market_state.DUTIES.items(self.ctx, operator)) <= duties.get(operator, set())

    def check_disputes(self) -> None:
        bound: Counter[bytes] = Counter()
        against: Counter[tuple[bytes, int]] = Counter()
        waiting: Counter[bytes] = Counter()
        running: dict[bytes, int] = {}
        for number in range(1, COUNT.get(self.ctx) + 1):
            dispute = DISPUTES.get(self.ctx, u64(number))
            if dispute is None or dispute.state == abi.DISPUTE_ENDED:
                continue
            against[dispute.task, dispute.attempt] += 1
            bound[dispute.accused] += 1
            bound[dispute.operator] += dispute.from_stake
            if dispute.author_kind == AUTHOR_DRAWN:
                bound[dispute.author] += 1
            if dispute.state == abi.DISPUTE_QUEUED:
                waiting[dispute.accused] += 1
            else:
                assert dispute.accused not in running
                running[dispute.accused] = number
        assert RUNNING.get(self.ctx) == len(running)
        for operator in self.registered:
            assert staking._BOUND.get(self.ctx, operator) == bound[operator]
            record = accused_of(self.ctx, operator)
            assert (record.running, record.waiting) == (running.get(operator, 0), waiting[operator])
        for task, record in self.open_tasks().items():
            assert record.disputes == against[task, record.attempt]


class Called:
    """Who asks a view."""

    def __init__(self, sender: bytes) -> None:
        self.sender, self.value = sender, 0


def place_of(view: Any) -> Any:
    from referee_world import TREE_OF, Place

    return Place(TREE_OF[view.state], view.level, view.index)


def run(seed: int, kind: str, steps: int) -> AnyProgram:
    world = AnyProgram(seed, kind)
    happens: tuple[tuple[Callable[[], None], int], ...] = (
        (world.asks, 3), (world.works, 5), (world.moves, 12), (world.challenges, 3), (world.stakes, 3),
        (world.tolerates, 3), (world.anything, 4), (world.next_block, 6),
    )  # fmt: skip
    acts, weights = zip(*happens, strict=True)
    for _ in range(steps):
        world.rng.choices(acts, weights)[0]()
    return world


def drained(world: AnyProgram) -> None:
    """Everybody falls silent: whatever is open comes to its end, and some epochs later the state forgets it."""
    for _ in range(1_500):
        users = [record for record in world.open_tasks().values() if not record.canary]
        if not users and not OPEN.count(world.ctx, b""):
            break
        world.block()
    else:
        raise AssertionError(f"still open: {[(Status(t.status).name, t.disputes, t.due) for t in users]}")
    kept = world.params.receipts_kept_epochs + 1
    for _ in range((kept + 1) * world.params.epoch_blocks):
        world.block()
    tasks = [task_id(world.params.chain_id, n) for n in range(market_state.POSTED.get(world.ctx))]
    horizon = world.params.first_height(world.params.epoch(world.height) - kept + 1)
    ended = [market_state.FINISHED.get(world.ctx, task) for task in tasks]
    assert all(record is None or record.done >= horizon for record in ended), "old ends are forgotten"
    assert not any(DISPUTES.get(world.ctx, u64(number)) for number in range(1, COUNT.get(world.ctx) + 1))
    assert not any(OF_TASK.count(world.ctx, task) for task in tasks)
    assert courier.prepaid(world.ctx) == 0
    assert world.ctx.balance(COURIER) == 0
