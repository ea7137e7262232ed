"""Two hundred random tasks on real blocks with a real engine: cheats are caught and convicted by the Referee, copies
earn nothing, nobody honest is blamed, and not a coin is lost. Replaying the blocks gives the same states."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from chain_in_process import Chain, Engines, Library, Operator, Story, answer, reveal, verdict

from inference import program as cip
from inference.defence import LIST, OP, TILE, TRACE, Game, Party, Place, Shown
from inference.ops import Task
from inference.witness import record
from primitives.params import DISPUTE_MESSAGE_GAS
from primitives.task import NO_BAD_POSITION, Status, Verdict, WorkItem, trace_key
from primitives.transaction import Transaction
from vm.system import abi, ledger, views
from vm.system.market_views import Duty

pytestmark = pytest.mark.slow

TASKS = 200
POSTS_A_BLOCK = 2
MOVES_A_BLOCK = 3
DISPUTES_MAX = 8
"""With more of them open nothing is posted: the chain is a small one."""
HONEST, WRONG_TOKEN, SKIPPED_LAYER, SILENT, COPIES = "honest", "wrong token", "skipped layer", "silent", "copies"


@dataclass
class Plan:
    """What goes wrong in a task: what its first executor does, and what the verifier in the seat does."""

    executor: str = HONEST
    verifier: str = HONEST
    seat: int = 0


@dataclass
class Fleet:
    """Every validator's node: answers, checks and reveals what the state says it owes, but for what the plan spoils."""

    chain: Chain
    engines: Engines
    library: Library
    rng: random.Random
    plans: dict[bytes, Plan] = field(default_factory=dict)
    known: dict[tuple[bytes, bytes], tuple[bytes, int]] = field(default_factory=dict)
    """(operator, task) -> the root and bad position that its commitment binds."""
    dishonest: set[tuple[str, bytes]] = field(default_factory=set)
    """(operator, task) of everyone who did not do as it should."""
    parties: dict[tuple[bytes, bytes, bool], Party] = field(default_factory=dict)
    shown: dict[int, list[Shown]] = field(default_factory=dict)
    seen: int = 0

    def transactions(self) -> list[Transaction]:
        self.library.update()
        self.follow()
        batches: list[Transaction] = []
        calls: list[tuple[int, Operator, int, tuple[Any, ...]]] = []
        for operator in self.chain.operators:
            duties = self.chain.duties(operator)
            items = [item for duty in duties if (item := self.item(operator, duty)) is not None]
            if items:
                batches.append(self.chain.work(operator, items[:16]))
            nonce = self.chain.reader.nonce(operator.hot) + bool(items)
            due = [d for d in duties if d.role == abi.ROLE_CHALLENGE and d.first_block <= self.chain.height + 1]
            if due:  # its window is short
                calls.append((0, operator, nonce, (abi.CHALLENGE, due[0].task, self.leaf(operator, due[0]))))
            else:
                calls += [(1, operator, nonce, move) for move in list(self.moves(operator))[:1]]
        calls.sort(key=lambda call: call[0])
        return batches + [self.chain.move(operator, nonce, *call) for _, operator, nonce, call in calls[:MOVES_A_BLOCK]]

    # Disputes: cheats defend what they committed, honest verifiers make good what they said

    def follow(self) -> None:
        """What was shown in the disputes, from the logs."""
        since, self.seen = self.seen, self.chain.height + 1
        for _, event in self.chain.events(abi.SHOWN, since):
            tree = {2: TRACE, 3: LIST, 4: OP, 5: TILE}[event["state"]]
            place = Place(tree, event["level"], event["index"])
            self.shown.setdefault(event["dispute"], []).append(Shown(place, event["data"]))

    def moves(self, operator: Operator) -> Iterator[tuple[Any, ...]]:
        for number in views.open_disputes(self.chain.reader):
            view = views.dispute(self.chain.reader, number, self.chain.params, self.chain.height + 1)
            assert view is not None
            leaf, op = (None if n == abi.NO_LEAF else n for n in (view.leaf, view.op))
            game = Game(leaf, op, tuple(self.shown.get(number, ())))
            if view.turn == abi.TURN_DEFENDER and view.accused == operator.operator:
                tree = {2: TRACE, 3: LIST, 4: OP, 5: TILE}[view.state]
                data = self.party(view.task, lies=True).show(game, Place(tree, view.level, view.index))
                yield abi.SHOW, number, data
            elif view.turn == abi.TURN_CHALLENGER and view.operator == operator.operator:
                party = self.party(view.task)
                if view.state == abi.DISPUTE_OPEN:
                    opening = party.open(game)
                    yield abi.OPEN, number, opening.element, opening.data
                else:
                    choice = party.choose(game)
                    index = abi.NO_OP if choice.index is None else choice.index
                    yield abi.CHOOSE, number, index, choice.child, list(choice.path)

    def leaf(self, operator: Operator, duty: Duty) -> int:
        root, bad = self.known[operator.operator, duty.task]
        return self.party(duty.task).bad_leaf(bad) if root == self.chain.task(duty.task).executor_root else abi.NO_LEAF

    def party(self, task: bytes, lies: bool = False) -> Party:
        """An execution of the answer of a task, by an honest engine or by the one that the cheat used."""
        view, story = self.chain.task(task), self.library.stories[task]
        key = task, view.executor_root, lies
        if key not in self.parties:
            lazy = lies and self.plans[task].executor == SKIPPED_LAYER
            executor = (self.engines.lazy if lazy else self.engines.honest).executor
            lengths, sampling = (len(story.prompt), len(story.output)), (view.seed, view.temperature_q16, view.top_k)
            asked, key_ = Task(cip.GENERATE, *lengths, *sampling), trace_key(view.seed, view.attempt)
            own = record(executor, asked, key_, story.prompt, story.output)
            self.parties[key] = Party(own, executor.model)
        return self.parties[key]

    def item(self, operator: Operator, duty: Duty) -> WorkItem | None:
        if duty.first_block > self.chain.height + 1:
            return None
        plan = self.plans.setdefault(duty.task, Plan())
        story = self.library.stories[duty.task]
        match duty.role:
            case abi.ROLE_EXECUTE:
                first = duty.slot == 0 and not self.chain.task(duty.task).attempt
                return self.execute(operator, duty, story, plan.executor if first else HONEST)
            case abi.ROLE_AUDIT:
                return self.audit(operator, duty, story, plan.verifier if duty.slot == plan.seat else HONEST)
            case abi.ROLE_CHALLENGE:
                return None
            case _:
                return self.tell(operator, duty)

    def execute(self, operator: Operator, duty: Duty, story: Story, how: str) -> WorkItem | None:
        sampling = (duty.temperature_q16, duty.top_k, duty.seed, duty.trace_key)
        if how != HONEST:
            self.dishonest.add(("0x" + operator.operator.hex(), duty.task))
        if how == SILENT:
            return None
        engine = self.engines.lazy if how == SKIPPED_LAYER else self.engines.honest
        made = engine.generate(story.prompt, duty.max_tokens, *sampling)
        tokens, root = tuple(made.tokens), made.root
        if how == WRONG_TOKEN:
            place = self.rng.randrange(len(tokens))
            tokens = (*tokens[:place], (tokens[place] + 1) % 36, *tokens[place + 1 :])
            if len(tokens) < duty.max_tokens and tokens[-1] != 36:
                tokens = (*tokens, *[7] * (duty.max_tokens - len(tokens)))
            root = engine.verify(story.prompt, tokens, *sampling).root  # the trace of exactly what it claims
        self.known[operator.operator, duty.task] = root, NO_BAD_POSITION
        return answer(operator, duty, tokens, root)

    def audit(self, operator: Operator, duty: Duty, story: Story, how: str) -> WorkItem | None:
        if how != HONEST:
            self.dishonest.add(("0x" + operator.operator.hex(), duty.task))
        if how == SILENT:
            return None
        if how == COPIES:
            others = self.library.verdicts.get(duty.task)
            return Verdict(duty.task, others[0][1]) if others else None
        sampling = (duty.temperature_q16, duty.top_k, duty.seed, duty.trace_key)
        found = self.engines.honest.verify(story.prompt, story.output, *sampling)
        self.known[operator.operator, duty.task] = found.root, found.bad
        return verdict(operator, duty, found.root, found.bad)

    def tell(self, operator: Operator, duty: Duty) -> WorkItem | None:
        known = self.known.get((operator.operator, duty.task))
        return None if known is None else reveal(duty, *known)


def run(seed: int, tasks: int = TASKS) -> tuple[Chain, Fleet]:
    """Post `tasks`, each with a plan drawn from the seed, and go on until all are done or disputed for good."""
    rng = random.Random(seed)
    engines = Engines.make()
    # Each of the four cheats a dozen times: a tenth of the bond for each would leave nobody.
    chain = Chain(engines, validators=4, canaries_per_validator=1, slash_repeat_percent=0)
    library = Library(chain)
    fleet = Fleet(chain, engines, library, rng)
    posted: list[bytes] = []
    for _ in range(60 + 2 * tasks):
        posts: list[Transaction] = []
        nonce = chain.reader.nonce(chain.poster)
        busy = len(views.open_disputes(chain.reader)) > DISPUTES_MAX
        for _ in range(0 if busy else min(rng.randrange(POSTS_A_BLOCK + 1), tasks - len(posted))):
            prompt = tuple(rng.randrange(36) for _ in range(rng.randrange(1, 24)))
            asked = {"assurance": rng.randrange(3), "top_k": rng.choice((0, 5)), "deadline": rng.choice((12, 18))}
            temperature = rng.choice((0, 32_768, 65_536))
            posts.append(chain.post(nonce + len(posts), prompt, rng.randrange(1, 13), temperature, **asked))
        batches = fleet.transactions()
        chain.block([*batches, *posts])
        # A challenge fails where the answer is refuted in the same block, a post where the market is too far behind.
        sent = zip([*batches, *posts], chain.receipts, strict=True)
        failed = [transaction.data[:4] for transaction, receipt in sent if not receipt.status]
        assert set(failed) <= {abi.CHALLENGE.selector, abi.POST.selector}, "a transaction failed"
        for receipt in (receipt for receipt in chain.receipts[len(batches) :] if receipt.status):
            event = abi.TASK_POSTED.decode(receipt.logs[0].topics, receipt.logs[0].data)
            posted.append(event["task"])
            fleet.plans[event["task"]] = plan_of(rng)
        if len(posted) == tasks and all(at_rest(chain, task) for task in posted):
            break
    return chain, fleet


def plan_of(rng: random.Random) -> Plan:
    executor = rng.choices((HONEST, WRONG_TOKEN, SKIPPED_LAYER, SILENT), (70, 10, 10, 10))[0]
    verifier = rng.choices((HONEST, COPIES, SILENT), (70, 15, 15))[0]
    return Plan(executor, verifier, rng.randrange(2))


def at_rest(chain: Chain, task: bytes) -> bool:
    return chain.task(task).done_block != 0


@pytest.fixture(scope="module")
def ran() -> tuple[int, Chain, Fleet]:
    seed = int(os.environ.get("LABORA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed} (repeat with LABORA_SEED={seed})")
    chain, fleet = run(seed)
    return seed, chain, fleet


@pytest.fixture
def chain(ran) -> Chain:
    print(f"seed {ran[0]} (repeat with LABORA_SEED={ran[0]})")
    return ran[1]


@pytest.fixture
def fleet(ran) -> Fleet:
    return ran[2]


def user_tasks(chain: Chain) -> list[bytes]:
    return [event["task"] for _, event in chain.events(abi.TASK_POSTED) if not event["canary"]]


def test_every_task_comes_to_its_end(ran, chain, seeds):
    seeds.append(ran[0])
    tasks = user_tasks(chain)
    assert len(tasks) == TASKS
    ends = Counter(Status(chain.task(task).status) for task in tasks)
    assert set(ends) == {Status.SETTLED}, ends


@pytest.mark.parametrize("cheat", [WRONG_TOKEN, SKIPPED_LAYER])
def test_every_cheat_is_convicted_and_unpaid_and_a_backup_settles_the_task(chain, fleet, cheat):
    cheated = [task for task in user_tasks(chain) if fleet.plans[task].executor == cheat]
    assert cheated
    executed = (event for _, event in chain.events(abi.PAID) if event["role"] == abi.ROLE_EXECUTE)
    paid = {(event["task"], event["operator"]) for event in executed}
    disputes = {event["task"]: event for _, event in chain.events(abi.TASK_DISPUTED)}
    refuted = {event["task"]: event for _, event in chain.events(abi.TASK_REFUTED)}
    slashed = {(event["operator"], event["task"]) for _, event in chain.events(abi.SLASHED)}
    settled = {event["task"]: event["executor"] for _, event in chain.events(abi.TASK_SETTLED)}
    for task in cheated:
        event, executor = disputes[task], disputes[task]["executor"]
        assert (executor, task) in fleet.dishonest
        if cheat == WRONG_TOKEN:
            prompt = fleet.library.stories[task].prompt
            assert len(prompt) <= event["verifierBad"] < NO_BAD_POSITION
        else:
            assert event["verifierRoot"] != event["executorRoot"]
        end = refuted[task]
        assert (end["executor"], end["reason"], end["attempt"]) == (executor, abi.ENDED_REFUTED, 0)
        assert (executor, task) in slashed and (task, executor) not in paid
        assert settled[task] == end["next"] != executor
    assert all(event["holds"] is False for _, event in chain.events(abi.JUDGED))
    assert not any(view for view in views.open_disputes(chain.reader))


def test_a_dispute_message_takes_less_gas_than_its_lane_has(chain):
    """Counted by the EVM, floor of calldata and all."""
    most = max(receipt.gas_used for receipt in chain.dispute_receipts)
    assert most < DISPUTE_MESSAGE_GAS


def test_nobody_honest_is_disputed_or_charged_with_a_miss(chain, fleet):
    for _, event in chain.events(abi.TASK_DISPUTED):
        assert (event["executor"], event["task"]) in fleet.dishonest
    for _, event in chain.events(abi.TASK_MISSED):
        assert (event["operator"], event["task"]) in fleet.dishonest, event
    for _, event in chain.events(abi.SLASHED):
        assert (event["operator"], event["task"]) in fleet.dishonest, event


def test_a_copier_is_never_paid_and_its_verdict_is_a_miss(chain, fleet):
    copied = 0
    for task in user_tasks(chain):
        view_paid = {e["operator"] for _, e in chain.events(abi.PAID) if e["task"] == task}
        missed = {e["operator"] for _, e in chain.events(abi.TASK_MISSED) if e["task"] == task and e["role"] == 2}
        if fleet.plans[task].verifier == COPIES and fleet.plans[task].executor == HONEST:
            copiers = {operator for operator, of in fleet.dishonest if of == task}
            assert copiers
            assert copiers <= missed
            assert not copiers & view_paid
            copied += 1
    assert copied


def test_a_silent_executors_backup_is_paid_instead(chain, fleet):
    silent = [task for task in user_tasks(chain) if fleet.plans[task].executor == SILENT]
    assert silent
    for task in silent:
        dealt = next(e for _, e in chain.events(abi.TASK_DEALT) if e["task"] == task)
        settled = next(e for _, e in chain.events(abi.TASK_SETTLED) if e["task"] == task)
        assert settled["executor"] == dealt["slots"][1]


def test_no_item_failed_and_only_reveals_that_came_second_were_refused(chain):
    assert not list(chain.events(abi.ITEM_FAILED))
    refused = {(event["kind"], event["code"]) for _, event in chain.events(abi.WORK_REFUSED)}
    assert refused <= {(3, "opens_nothing"), (3, "stage")}


def test_receipts_credit_and_totals_agree_with_the_logs(chain):
    receipts = [event for _, event in chain.events(abi.RECEIPT)]
    totals = views.totals(chain.reader)
    assert totals.settled + totals.unverified == len(receipts)
    assert totals.canaries == sum(event["class"] == abi.CLASS_CANARY for event in receipts) > 0
    burned = sum(e["burnedWei"] for _, e in chain.events(abi.TASK_SETTLED))
    assert totals.burned_fees == burned > 0
    assert totals.minted > 0
    for event in receipts:
        values = [event[param.name] for param in abi.RECEIPT.params if param.name != "receipt"]
        fields = ledger.ComputeReceipt.__dataclass_fields__
        raw = [bytes.fromhex(v[2:]) if isinstance(v, str) else v for v in values]
        raw = [tuple(bytes.fromhex(x[2:]) for x in v) if isinstance(v, tuple) else v for v in raw]
        assert ledger.ComputeReceipt(**dict(zip(fields, raw, strict=True))).id == event["receipt"]


def test_epochs_turned_and_everyone_was_credited(chain):
    turned = [event for _, event in chain.events(abi.EPOCH_TURNED)]
    assert len(turned) == chain.height // chain.params.epoch_blocks
    credited = {event["operator"] for _, event in chain.events(abi.CREDITED) if event["credit"]}
    assert credited == {"0x" + operator.operator.hex() for operator in chain.operators}


def test_the_same_inputs_give_the_same_states():
    first, _ = run(7, tasks=12)
    second, _ = run(7, tasks=12)
    assert first.roots == second.roots
