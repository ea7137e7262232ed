"""Honest validators under faults, on real blocks: whatever is lost, late, twice, out of order, slow, dead or challenged
without reason, nobody honest is slashed, every coin has its place and every task ends.

    python -m tests.sim.faults --tasks 100000 [--seed N] [--workers N]

Real: genesis, blocks, the EVM with the system contracts, signatures, what a node owes and sends (node.duties,
node.moves), its line of transactions (node.outbox) and the model, a random program of one layer. Only two things are
not as on a network: blocks are made by this file, without agreement; and what the model gives for the same request is
computed once and handed to every operator, for honest machines compute the same bits (tests/inference).

A run is made of chains of TASKS_A_CHAIN tasks, each of its own seed, which is printed with any failure. On every fifth
one validator is offline for 3,600 blocks. On every second a fifth validator is dishonest: its verdicts and sometimes
its answers are garbage. On every third, power follows bonds alone, so that whoever was away is dealt work as before.

The dishonest one is always there; everybody honest may be away, as long as those who are there hold two thirds of the
bond. What a liar answered may wait long in the line of its disputes, of which one runs at a time: their bound counts
from there.
"""

import argparse
import logging
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Set
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import structlog

from chain.builder import TO_MOVE, in_lane
from inference.build import random_model
from inference.defence import NoMove
from inference.model import Model
from node.duties import KIND_OF_ITEM, Result, items_to_send, job_key, jobs, work_message
from node.moves import Me, Move, message_of, moves_now, request_of
from node.outbox import Message, Outbox
from primitives.address import REFEREE
from primitives.genesis import GenesisAccount
from primitives.hashing import ZERO_HASH, keccak
from primitives.keys import address_of
from primitives.merkle import unpack_tokens
from primitives.params import COIN, DISPUTE_MESSAGE_GAS
from primitives.task import Kind, Status
from primitives.transaction import InvalidTransaction, Transaction, decode
from tests.attacks.fleet import Program, programs
from tests.e2e_in_process.chain_in_process import CachedReader, Chain, Engines, Operator, key_of
from tests.inference.test_openings import shape_of
from vm.call import CallRequest, call
from vm.system import abi, views

TASKS_A_CHAIN = 1_000
HOUR = 3_600
VALIDATORS = 5
LIAR = 4
WATCHERS = 4
"""Accounts without a stake that challenge honest answers."""
BLOCKS_TO_END = 900
"""From the post to the end of any task, whatever happens to it: three deadlines, four draws of verifiers, and the
disputes of one accused, one after the other, each 180 blocks and those in which the lane is full."""
PENDING_BLOCKS_MAX = 40
"""A transaction is delayed by at most so many."""


@dataclass(frozen=True)
class Rates:
    """Chances, in a thousand: of a transaction, a job, a message, a root, or an operator in a block."""

    lost: int = 60
    delayed: int = 60
    twice: int = 60
    reordered: int = 300
    slow_model: int = 80
    slow_disk: int = 40
    late_message: int = 40
    crash: int = 6
    outage: int = 3
    lag: int = 10
    false_challenge: int = 25
    garbage: int = 300
    """Of what the dishonest validator commits."""


class Broken(AssertionError):
    """A rule did not hold; the text names the chain's seed."""


@dataclass
class Texts:
    """What the logs say, read once."""

    prompts: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    shown: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))


class Head:
    """The chain as one node sees it, which may be some blocks behind; what node.outbox needs of chain.ledger."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.behind = 0

    @property
    def params(self) -> Any:
        return self._chain.params

    @property
    def head(self) -> SimpleNamespace:
        return SimpleNamespace(number=max(0, self._chain.height - self.behind))

    def reader(self) -> CachedReader:
        if not self.behind:
            return self._chain.reader
        return CachedReader(self._chain.db, self._chain.roots[self.head.number])

    def next_base_fee(self) -> int:
        return self._chain.base_fee


class Node:
    """One honest validator: what its services would do after every block, and what befalls it."""

    def __init__(self, place: "Place", keys: Operator, lies: bool) -> None:
        self.place, self.keys, self.lies = place, keys, lies
        self.me = Me(keys.hot, keys.operator)
        self.head = Head(place.chain)
        self.results: dict[Any, Result] = {}
        self.off_until = self.lag_until = self.seen = 0
        self.start()

    def start(self) -> None:
        """A process begins: what was only in memory is gone."""
        self.running: dict[Any, tuple[int, Result]] = {}
        """What its model or its disk is at, and until when."""
        self.refused: set[Hashable] = set()
        self.held: dict[Hashable, int] = {}
        self.idle: set[Hashable] = set()
        self.outbox = Outbox(self.head, self.place.submit, self.keys.hot_key)  # type: ignore[arg-type]
        self.outbox.sources = [self.next_move, self.next_work]

    def is_off(self) -> bool:
        return self.place.chain.height < self.off_until

    def crash(self, blocks: int, loses_journal: bool) -> None:
        """Off for so many blocks; what was not on its disk is lost, and with some luck nothing else."""
        self.off_until = self.place.chain.height + blocks
        if loses_journal:
            self.results.clear()
        self.start()

    def step(self) -> None:
        """After a block: run what is due, send what is ready."""
        height = self.place.chain.height
        if height >= self.lag_until:
            self.seen = height
        else:  # a head stands still, or comes nearer; it never goes back
            self.seen = max(self.seen, height - self.place.rng.randrange(1, 6))
        self.head.behind = height - self.seen
        self.height = self.seen + 1
        reader = self.head.reader()
        for key in [key for key, (ready, _) in self.running.items() if ready <= height]:
            self.results[key] = self.running.pop(key)[1]
        duties = views.open_tasks(reader, self.keys.operator, self.head.params, self.height)
        known = self.results | {key: result for key, (_, result) in self.running.items()}
        for duty in jobs(duties, known, self.height, self.place.chain.model.model_id):
            result, wait = self.place.run(self, duty), self.place.delay_of_a_job()
            if wait:
                self.running[job_key(duty)] = height + wait, result
            else:
                self.results[job_key(duty)] = result
        self.duties, self.reader = duties, reader
        asked = self.reader, self.head.params, self.height, self.me, duties, self.result, self.place.bond
        self.moves = {move.key: move for move in moves_now(*asked)}
        self.outbox.flush()

    def result(self, task: bytes, trace_key: bytes) -> Result | None:
        return self.results.get((task, trace_key, False)) or self.results.get((task, trace_key, True))

    def next_move(self, underway: Set[Hashable]) -> Message | None:
        for key, move in self.moves.items():
            if key not in underway and key not in self.idle:
                made = self.place.argue(self.place.honest, move)
                if not isinstance(made, str):
                    return made
                self.idle.add(key)
        return None

    def next_work(self, underway: Set[Hashable]) -> Message | None:
        height = self.place.chain.height
        items = items_to_send(self.keys.operator, self.duties, self.results, self.refused | underway, self.height)
        ready = []
        for item in items:
            covered = item.task, KIND_OF_ITEM[type(item)]
            if covered not in self.held:
                self.held[covered] = height + self.place.delay_of_a_message()
            if self.held[covered] <= height:
                ready.append(item)
        return work_message(ready) if ready else None


@dataclass
class Pending:
    """A transaction on its way to a block."""

    transaction: Transaction
    due: int


class Watcher:
    """Somebody without a stake who challenges honest answers: and is then silent, or opens garbage, or insists."""

    def __init__(self, place: "Place", number: int) -> None:
        self.place, self.key = place, key_of(f"watcher {number}")
        self.hot = address_of(self.key)
        self.how = ("silent", "garbage", "stubborn", "late")[number % 4]
        self.me = Me(self.hot, None)
        self.wanted: list[bytes] = []
        self.waits: dict[Hashable, int] = {}

    def message(self) -> Message | None:
        """What it says in the next block."""
        place, chain = self.place, self.place.chain
        if views.open_disputes(chain.reader) and self.how != "silent":
            where = chain.reader, chain.params, chain.height + 1
            for move in moves_now(*where, self.me, (), lambda *_: None, place.bond):
                since = self.waits.setdefault(move.key, chain.height)
                if self.how == "late" and chain.height < since + 12:
                    continue
                if self.how == "garbage" and move.move == "open" and move.dispute is not None:
                    data = abi.OPEN.encode_call(move.dispute.dispute, 0, keccak(move.task.task))
                    return Message(REFEREE, data, DISPUTE_MESSAGE_GAS, frozenset())
                made = place.argue(place.stubborn, move)
                if not isinstance(made, str):
                    return made
        while self.wanted:
            task = self.wanted.pop()
            view = chain.task(task)
            bond = 0 if view.done_block or view.executor_root == ZERO_HASH else place.bond(abi.BOND_FOR, task, self.hot)
            if 0 < bond < 100 * COIN:
                place.faults[f"honest roots challenged by a {self.how} watcher"] += 1
                data = abi.CHALLENGE.encode_call(task, abi.NO_LEAF)
                return Message(REFEREE, data, DISPUTE_MESSAGE_GAS, frozenset(), 2 * bond)
        return None


class Place:
    """A chain, its validators, and a network between them that does everything but lie."""

    def __init__(self, seed: int, model: Model, number: int, rates: Rates = Rates()) -> None:
        self.seed, self.rates = seed, rates
        self.rng = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.watchers = [Watcher(self, i) for i in range(WATCHERS)]
        rich = [GenesisAccount(watcher.hot, 100_000 * COIN, 0, b"") for watcher in self.watchers]
        self.chain = Chain(Engines.of(model), VALIDATORS, rich, canaries_per_validator=0,
                           power_from_credit=int(number % 3 != 2), slash_window_epochs=8)  # fmt: skip
        self.honest, self.stubborn = programs("honest", model)[0], programs("false-challenge", model)[1]
        lies = number % 2 == 1
        self.nodes = [Node(self, keys, lies and i == LIAR) for i, keys in enumerate(self.chain.operators)]
        self.truths: dict[Any, Result] = {}
        self.texts, self.read = Texts(), 0
        self.pending: list[Pending] = []
        self.open: dict[bytes, int] = {}
        """Tasks that have not ended, and the blocks of their posts."""
        self.ends: Counter[str] = Counter()
        self.longest = self.posted = 0
        self.hour = number % 5 == 0
        self.judgements: Counter[int] = Counter()

    @cached_property
    def names(self) -> dict[str, Node]:
        return {"0x" + node.keys.operator.hex(): node for node in self.nodes}

    # ------------------------------------------------------------------ the model

    def run(self, node: Node, duty: Any) -> Result:
        """What a model gives: the truth, once for all; the dishonest validator's garbage instead."""
        answers = duty.role == abi.ROLE_EXECUTE
        output = () if answers else self.texts.outputs[duty.task]
        key = duty.task, duty.trace_key, answers, output
        if key not in self.truths:
            request = {
                "kind": Kind(duty.kind).name.lower(), "prompt": list(self.texts.prompts[duty.task]),
                "temperature_q16": duty.temperature_q16, "top_k": duty.top_k, "seed": duty.seed,
                "trace_key": duty.trace_key,
            }  # fmt: skip
            if answers:
                made = self.honest.ask({**request, "op": "make", "max_tokens": duty.max_tokens})
                self.truths[key] = Result(duty.task, duty.trace_key, made["root"], tokens=tuple(made["tokens"]))
            else:
                found = self.honest.ask({**request, "op": "check", "output": list(output)})
                self.truths[key] = Result(duty.task, duty.trace_key, found["root"], bad=found["bad"])
        truth = self.truths[key]
        if node.lies and self.befalls(self.rates.garbage // 3 if answers else self.rates.garbage):
            self.faults["garbage committed by the dishonest validator"] += 1
            return replace(truth, root=keccak(b"no trace" + duty.task))
        return truth

    def argue(self, program: Program, move: Move) -> Message | str:
        """A move in a dispute as a node's model process makes it."""
        task = move.task.task
        logs = self.texts.shown[move.dispute.dispute] if move.dispute is not None else []
        request = request_of(move, self.texts.prompts[task], self.texts.outputs[task], logs)
        try:
            return message_of(move, program.ask(request))
        except NoMove as error:
            return str(error)

    def bond(self, function: abi.Function, of: bytes | int, account: bytes) -> int:
        """What a challenge or a stand-in's list must bring; 0 where it cannot be moved so now."""
        request = CallRequest(to=function.account, data=function.encode_call(of, account))
        found = call(self.chain.db, self.chain.root, self.chain.env(self.chain.height), request)
        if found.error is not None:
            return 0
        amount, from_stake = function.decode_result(found.output)
        return 0 if from_stake else amount

    # ------------------------------------------------------------------ what goes wrong

    def befalls(self, in_a_thousand: int) -> bool:
        return self.rng.randrange(1000) < in_a_thousand

    def delay_of_a_job(self) -> int:
        """Blocks that a result takes to be computed and on disk."""
        wait = 0
        if self.befalls(self.rates.slow_model):
            self.faults["answers and checks slowed"] += 1
            wait += self.rng.randrange(1, 10)
        if self.befalls(self.rates.slow_disk):
            self.faults["writes to disk slowed"] += 1
            wait += self.rng.randrange(1, 10)
        return wait

    def delay_of_a_message(self) -> int:
        if not self.befalls(self.rates.late_message):
            return 0
        self.faults["answers, verdicts and reveals held back"] += 1
        return self.rng.randrange(1, 12)

    def submit(self, raw: bytes) -> Transaction:
        """A node's transaction leaves for the network."""
        transaction = decode(raw)
        height, most = self.chain.height + 1, transaction.gas * transaction.max_fee_per_gas + transaction.value
        if most > (held := self.chain.reader.balance(transaction.sender)):
            raise InvalidTransaction(f"costs up to {most} wei, its sender has {held}")
        if self.befalls(self.rates.lost):
            self.faults["transactions lost"] += 1
            return transaction
        due = height
        if self.befalls(self.rates.delayed):
            self.faults["transactions delayed"] += 1
            due += self.rng.randrange(1, PENDING_BLOCKS_MAX)
        self.pending.append(Pending(transaction, due))
        if self.befalls(self.rates.twice):
            self.faults["transactions delivered twice"] += 1
            self.pending.append(Pending(transaction, height + self.rng.randrange(4)))
        return transaction

    def mishaps(self) -> None:
        """What befalls the nodes between two blocks. Those that are off hold less than a third of the bond together."""
        height = self.chain.height
        if self.hour and height == 40:
            self.off(self.rng.randrange(LIAR), HOUR, "validators offline for 3,600 blocks")
        for number, node in enumerate(self.nodes):
            if node.is_off() or node.lies:
                continue
            if self.befalls(self.rates.crash):
                loses = self.rng.randrange(3) == 0
                name = "crashes, the whole journal lost" if loses else "crashes"
                if self.off(number, self.rng.randrange(1, 6), name):
                    node.crash(node.off_until - height, loses)
            elif self.befalls(self.rates.outage):
                self.off(number, self.rng.randrange(8, 100), "validators offline for 8 to 100 blocks")
            elif self.befalls(self.rates.lag) and height >= node.lag_until:
                self.faults["validators some blocks behind"] += 1
                node.lag_until = height + self.rng.randrange(2, 12)

    def off(self, number: int, blocks: int, name: str) -> bool:
        bonds = [i + 2 for i, node in enumerate(self.nodes) if node.is_off() or i == number]
        if 3 * sum(bonds) >= sum(range(2, VALIDATORS + 2)):
            return False
        self.faults[name] += 1
        self.nodes[number].off_until = self.chain.height + blocks
        return True

    # ------------------------------------------------------------------ blocks

    def block(self, posts: int) -> None:
        """One block, with every rule looked at."""
        self.mishaps()
        for node in self.nodes:
            if not node.is_off():
                node.step()
        chain = self.chain
        nonce = chain.reader.nonce(chain.poster)
        own = [self.post(nonce + i) for i in range(posts)]
        chosen = self.choose(sum(transaction.gas for transaction in own))
        chain.block([*chosen, *own])
        for receipt in chain.receipts[len(chosen) :]:
            self.posted += receipt.status
        self.listen()

    def post(self, nonce: int) -> Transaction:
        rng, vocabulary = self.rng, self.chain.model.manifest.shape.vocabulary
        prompt = tuple(rng.randrange(vocabulary) for _ in range(rng.randrange(1, 6)))
        asked = {"assurance": rng.randrange(3), "deadline": rng.choice((12, 24, 60))}
        return self.chain.post(nonce, prompt, rng.randrange(1, 4), rng.choice((0, 65_536)), **asked)

    def choose(self, taken: int) -> list[Transaction]:
        """What of the pending fits the next block: each account's in order of nonce, accounts in any order."""
        chain, height = self.chain, self.chain.height + 1
        room, nonce_of = chain.params.transaction_gas_max - taken, chain.reader.nonce
        by_account: dict[bytes, dict[int, Transaction]] = defaultdict(dict)
        waiting = [each for each in self.pending if each.transaction.nonce >= nonce_of(each.transaction.sender)]
        self.pending = waiting
        for each in waiting:
            transaction = each.transaction
            if each.due <= height and transaction.max_fee_per_gas >= chain.base_fee:
                line = by_account[transaction.sender]
                held = line.get(transaction.nonce)
                if held is None or held.max_fee_per_gas < transaction.max_fee_per_gas:
                    line[transaction.nonce] = transaction
        lines = [[line[nonce] for nonce in sorted(line)] for line in by_account.values()]
        for watcher in self.watchers:
            if (message := watcher.message()) is not None:
                what = message.gas, message.value, message.data, message.to
                lines.append([chain.transaction(watcher.key, nonce_of(watcher.hot), *what)])
        if self.befalls(self.rates.reordered):
            self.faults["blocks whose messages were reordered"] += 1
            self.rng.shuffle(lines)
        in_lane = self.in_lane([line[0] for line in lines if line[0].nonce == nonce_of(line[0].sender)])
        chosen = []
        for line in lines:
            nonce = nonce_of(line[0].sender)
            for transaction in line:
                outside = transaction.to == REFEREE and transaction not in in_lane
                if transaction.nonce != nonce or transaction.gas > room or outside:
                    break
                chosen.append(transaction)
                nonce, room = nonce + 1, room - transaction.gas
        return chosen

    def in_lane(self, firsts: list[Transaction]) -> list[Transaction]:
        """Of messages of disputes, what a builder has room for: all whose turn it is; of the others one, as if the rest
        of the lane were full."""
        chain = self.chain
        asked = [each for each in firsts if each.to == REFEREE]
        order = in_lane(chain.reader, chain.params, chain.height + 1, asked, chain.base_fee)
        others = [each for _, distance, each in order if distance > TO_MOVE]
        return [each for _, distance, each in order if distance == TO_MOVE] + others[:1]

    def listen(self) -> None:
        """The logs of the block, and the rules."""
        logs, self.read = self.chain.logs[self.read :], len(self.chain.logs)
        height = self.chain.height
        for _, log in logs:
            event = abi.EVENTS.get(log.topics[0])
            if event is None:
                continue
            values = event.decode(log.topics, log.data)
            if event is abi.SLASHED:
                node = self.names[values["operator"]]
                if node.lies:
                    self.faults["dishonest validator slashed"] += 1
                else:
                    name = node.keys.name
                    raise Broken(f"seed {self.seed}, block {height}: {name} is honest and was slashed: {values}")
            elif event is abi.ITEM_FAILED:
                raise Broken(f"seed {self.seed}, block {height}: an item of the prologue failed: {values}")
            elif event is abi.TASK_POSTED:
                self.texts.prompts[values["task"]] = unpack_tokens(values["tokens"])
                self.open[values["task"]] = height
            elif event is abi.TASK_ANSWERED:
                self.texts.outputs[values["task"]] = unpack_tokens(values["tokens"])
            elif event is abi.REVEALED:
                if self.befalls(self.rates.false_challenge):
                    self.rng.choice(self.watchers).wanted.append(values["task"])
            elif event in (abi.SHOWN, abi.LIST_REFUTED):
                self.texts.shown[values["dispute"]].append({**values, "event": event.name})
            elif event is abi.DISPUTE_ENDED_LOG:
                self.judgements[values["reason"]] += 1
            elif event is abi.TASK_MISSED:
                self.faults["misses charged"] += 1
            elif event is abi.WORK_REFUSED:
                self.names[values["operator"]].refused.add((values["task"], values["kind"]))
        if height % 8 == 0:
            self.look_at_ends()

    def look_at_ends(self) -> None:
        for task, since in list(self.open.items()):
            view, height = self.chain.task(task), self.chain.height
            if view.done_block:
                self.ends[Status(view.status).name.lower()] += 1
                self.longest = max(self.longest, view.done_block - since)
                self.forget(task)
            elif view.disputes and self.lies(view.executor):
                self.open[task] = height  # it waits in a liar's line: counted from there
            elif height - since > BLOCKS_TO_END:
                raise Broken(f"seed {self.seed}, block {height}: the task of block {since} is still {view}")

    def lies(self, operator: bytes) -> bool:
        return self.names["0x" + operator.hex()].lies

    def forget(self, task: bytes) -> None:
        del self.open[task]
        for node in self.nodes:
            node.results = {key: result for key, result in node.results.items() if key[0] != task}
            node.held = {key: until for key, until in node.held.items() if key[0] != task}
        self.truths = {key: truth for key, truth in self.truths.items() if key[0] != task}

    def play(self, tasks: int) -> Iterator[None]:
        """The whole story of a chain: `tasks` posted, and all of them ended."""
        hour = HOUR if self.hour and tasks >= TASKS_A_CHAIN else 0
        while self.posted < tasks or self.open:
            left = tasks - self.posted
            posts = min(left, self.rng.choice((0, 1, 2, 3)))
            if hour and self.rng.randrange(HOUR) >= tasks // 2:
                posts = 0
            self.block(posts)
            yield


@dataclass
class Account:
    """What came of one chain."""

    number: int
    seed: int
    tasks: int
    blocks: int
    longest: int
    seconds: float
    ends: Counter[str]
    faults: Counter[str]
    judgements: Counter[int]


def model() -> Model:
    """The smallest program: one layer, 19 ids."""
    return random_model(shape_of("llama", layers=1, layers_per_group=1), 5)


def chain_of(first_seed: int, number: int, tasks: int, hours: bool = True) -> Account:
    """One chain, played to its end. Raises Broken."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    began = time.process_time()
    seed = (first_seed + number * 0x9E3779B1) % 2**32
    place = Place(seed, model(), number)
    place.hour = place.hour and hours
    for _ in place.play(tasks):
        pass
    return Account(number, seed, sum(place.ends.values()), place.chain.height, place.longest,
                   time.process_time() - began, place.ends, place.faults, place.judgements)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Runs chains until so many tasks have ended; says what befell whom."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first chain, to go on from there")
    asked = parser.parse_args(arguments)
    print(f"seed {asked.seed}", flush=True)
    faults: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    judgements: Counter[int] = Counter()
    blocks, longest, broken = 0, 0, list[str]()
    numbers = range(asked.first, asked.first + -(-asked.tasks // TASKS_A_CHAIN))
    with ProcessPoolExecutor(asked.workers) as pool:
        runs = [pool.submit(chain_of, asked.seed, number, min(TASKS_A_CHAIN, asked.tasks)) for number in numbers]
        for done in as_completed(runs):
            if (error := done.exception()) is not None:
                broken.append(str(error))
                print(f"BROKEN: {error}", flush=True)
                continue
            found = done.result()
            faults, ends, judgements = faults + found.faults, ends + found.ends, judgements + found.judgements
            blocks, longest = blocks + found.blocks, max(longest, found.longest)
            print(f"chain {found.number} (seed {found.seed}): {found.tasks} tasks in {found.blocks} blocks, "
                  f"{found.seconds:.0f} s of CPU; so far {ends.total()} tasks, {dict(ends)}, {len(broken)} broken, "
                  f"{faults.total()} faults, the longest task {longest} blocks", flush=True)  # fmt: skip
    print(f"{ends.total()} tasks in {blocks} blocks: {dict(ends)}; the longest took {longest} blocks")
    for name, count in sorted(faults.items()):
        print(f"{count:>9,} {name}")
    print(f"disputes by reason: {dict(sorted(judgements.items()))}")
    print(f"{len(broken)} chains broke a rule", *broken, sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
