"""A chain in one process: real genesis, real EVM blocks, real signatures, real engines. No network, no agreement."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from inference import program
from inference.build import random_model
from inference.engine import Engine
from inference.model import Model
from inference.opening import program_root, shape_record
from inference.reference import NumpyExecutor
from primitives.address import MARKET, REFEREE
from primitives.genesis import GenesisAccount, GenesisModel, GenesisSpec, GenesisValidator
from primitives.hashing import keccak
from primitives.keys import address_of
from primitives.merkle import pack_tokens, unpack_tokens
from primitives.params import COIN, DISPUTE_MESSAGE_GAS, ChainParams
from primitives.receipt import Log, Receipt
from primitives.task import (
    NO_BAD_POSITION,
    Kind,
    ModelCost,
    Reveal,
    Submission,
    Verdict,
    WorkItem,
    encode_batch,
    execution_commitment,
    verdict_commitment,
)
from primitives.transaction import Transaction, sign_transaction, system_transaction
from tests.coins import Coins, supply_of
from vm.executor import BlockEnv, BlockExecutor, Execution
from vm.genesis import build_state
from vm.state import StateReader
from vm.system import abi, market_gas, views
from vm.system.market_views import Duty, TaskView
from vm.system.prologue import prologue_data
from vm.trie import Nodes
from vm.validity import next_base_fee

STOP = 36
SHAPE = program.Shape(
    vocabulary=37, context=96, width=24, layers=3, heads=4, kv_heads=2, head_width=6, rotary=6, hidden=40,
    norm_epsilon_q32=42950, layers_per_group=2,
)  # fmt: skip


def key_of(name: str) -> bytes:
    return keccak(name.encode())


@dataclass
class Engines:
    """The model, and the same model with its middle layer skipped (its outputs into the residual are zero)."""

    honest: Engine
    lazy: Engine

    @classmethod
    def make(cls) -> "Engines":
        model = random_model(SHAPE, 5, stop=(STOP,))
        out = "layers.1.out.weight", "layers.1.down.weight"
        skipped = {**model.tensors, **{name: np.zeros_like(model.tensors[name]) for name in out}}
        lazy = Model(model.manifest, model.model_id, skipped)
        return cls(Engine(NumpyExecutor(model)), Engine(NumpyExecutor(lazy)))

    @classmethod
    def of(cls, model: Model) -> "Engines":
        """Of another model, honest alone."""
        engine = Engine(NumpyExecutor(model))
        return cls(engine, engine)


@dataclass
class Operator:
    """A validator's keys; its behaviour is the test's."""

    name: str
    operator: bytes = field(init=False)
    hot_key: bytes = field(init=False)
    hot: bytes = field(init=False)
    payout: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.operator = address_of(key_of(self.name + " operator"))
        self.hot_key = key_of(self.name + " hot")
        self.hot = address_of(self.hot_key)
        self.payout = address_of(key_of(self.name + " payout"))


class CachedReader(StateReader):
    """One state; slots that were read are remembered, for all operators look at the same tasks."""

    def __init__(self, db: Nodes, root: bytes) -> None:
        super().__init__(db, root)
        self._slots: dict[tuple[bytes, int], int] = {}

    def storage(self, address: bytes, slot: int) -> int:
        key = address, slot
        if key not in self._slots:
            self._slots[key] = super().storage(address, slot)
        return self._slots[key]


class Chain:
    """Blocks one by one over an in-memory state, with the invariant of coins checked after each."""

    def __init__(
        self, engines: Engines, validators: int, contracts: Sequence[GenesisAccount] = (), **params: int
    ) -> None:
        self.model = engines.honest.model
        self.operators = [Operator(f"validator {i}") for i in range(validators)]
        self.poster_key = key_of("poster")
        self.poster = address_of(self.poster_key)
        manifest = self.model.manifest
        shape = manifest.cost
        cost = ModelCost(shape.a, shape.b, shape.c, 1, 4)
        rate = cost.execution(Kind.GENERATE, 48, 48)
        self.params = replace(ChainParams(), **params).check()
        self.spec = GenesisSpec(
            params=self.params,
            genesis_time_ms=0,
            accounts=tuple(
                GenesisAccount(address, 1_000 * COIN, 0, b"")
                for address in (self.poster, *(operator.hot for operator in self.operators))
            ) + tuple(contracts),
            validators=tuple(
                GenesisValidator(
                    operator.operator, address_of(key_of(operator.name + " consensus")),
                    keccak(operator.operator) + bytes(16), keccak(operator.hot), operator.hot, operator.payout,
                    bond=(i + 2) * 1_000 * COIN, serves=((self.model.model_id, rate),),
                )
                for i, operator in enumerate(self.operators)
            ),
            models=(
                GenesisModel(
                    self.model.model_id, "random", shape_record(manifest.shape, manifest.embedding_exponent),
                    program_root(manifest), manifest.stop, rate,
                ),
            ),
            fund=10 * COIN,
            spec_hash=keccak(b"a spec"),
        )  # fmt: skip
        self._reader: CachedReader | None = None
        self.root, self.stored = build_state(self.spec)
        self.db = Nodes(self.stored)
        self.height = 0
        self.hash = keccak(b"genesis")
        self.genesis_hash = self.hash
        self.base_fee = self.params.base_fee_initial
        self.roots = [self.root]
        self.dispute_receipts: list[Receipt] = []
        self.logs: list[tuple[int, Log]] = []
        self.coins = Coins(views.ViewContext(self.reader), supply_of(self.db, self.root))

    @property
    def reader(self) -> "CachedReader":
        """The state after the last block."""
        if self._reader is None or self._reader.root != self.root:
            self._reader = CachedReader(self.db, self.root)
        return self._reader

    def block(self, transactions: Iterable[Transaction]) -> Execution:
        """Execute the next block. Every transaction must fit and be valid."""
        height = self.height + 1
        executor = BlockExecutor(self.db, self.root, self.env(height))
        prologue = executor.run_prologue(
            system_transaction(
                self.params.chain_id, height, self.params.block_gas_limit, prologue_data(self.hash, b"")
            )
        )
        assert prologue.status == 1, f"the prologue of block {height} failed"
        sent = list(transactions)
        self.receipts: list[Receipt] = [executor.apply(transaction) for transaction in sent]
        moved = zip(sent, self.receipts, strict=True)
        self.dispute_receipts += [receipt for transaction, receipt in moved if transaction.to == REFEREE]
        execution = executor.finish()
        self.stored.update(execution.nodes)
        self.root, self.height = execution.state_root, height
        self.hash = keccak(self.hash + execution.state_root)
        burned = self.base_fee * (execution.gas_used - prologue.gas_used)
        self.base_fee = next_base_fee(execution.gas_used, self.base_fee, self.params)
        self.logs += [(height, log) for receipt in execution.receipts for log in receipt.logs]
        self.roots.append(self.root)
        self.check_coins(burned)
        return execution

    def env(self, height: int) -> BlockEnv:
        """What a block of that height, or a call on the last one, sees of its block."""
        proposer = self.operators[height % len(self.operators)]
        return BlockEnv(
            self.params, self.genesis_hash, height, height, proposer.payout, keccak(self.hash + b"mix"),
            self.base_fee, self.hash,
        )  # fmt: skip

    def check_coins(self, base_fees: int) -> None:
        """Every wei has a place (tests.coins)."""
        ctx = views.ViewContext(self.reader, self.params, self.height + 1)
        operators = [operator.operator for operator in self.operators]
        self.coins.check(ctx, supply_of(self.db, self.root), base_fees, operators)

    def transaction(
        self, key: bytes, nonce: int, gas: int, value: int, data: bytes, to: bytes = MARKET
    ) -> Transaction:
        return sign_transaction(
            key, chain_id=self.params.chain_id, nonce=nonce, gas=gas, to=to, max_fee_per_gas=4 * self.base_fee,
            max_priority_fee_per_gas=10**6, value=value, data=data,
        )  # fmt: skip

    def work(self, operator: Operator, items: list[WorkItem], nonce: int | None = None) -> Transaction:
        """One batch, signed by the hot account, with gas by the table."""
        batch = encode_batch(items)
        data = abi.WORK.encode_call(batch)
        tokens = sum(len(item.tokens) for item in items if isinstance(item, Submission))
        gas = 25_000 + 40 * len(data) + market_gas.WORK + len(items) * market_gas.SUBMIT
        gas += tokens * market_gas.SUBMIT_TOKEN
        nonce = self.reader.nonce(operator.hot) if nonce is None else nonce
        return self.transaction(operator.hot_key, nonce, gas, 0, data)

    def move(self, operator: Operator, nonce: int, function: abi.Function, *arguments: Any) -> Transaction:
        """A message to the Referee, by a hot account."""
        data = function.encode_call(*arguments)
        return self.transaction(operator.hot_key, nonce, DISPUTE_MESSAGE_GAS, 0, data, REFEREE)

    def post(
        self, nonce: int, prompt: tuple[int, ...], max_tokens: int, temperature_q16: int, **asked: int
    ) -> Transaction:
        data = abi.POST.encode_call(
            asked.get("kind", 0), self.model.model_id, pack_tokens(prompt), max_tokens, temperature_q16,
            asked.get("top_k", 0),
            asked.get("assurance", 0), 0, 0, asked.get("deadline", 12), 0,
        )  # fmt: skip
        return self.transaction(self.poster_key, nonce, 1_400_000, COIN // 100, data)

    def duties(self, operator: Operator) -> list[Duty]:
        return views.open_tasks(self.reader, operator.operator, self.params, self.height + 1)

    def task(self, task: bytes) -> TaskView:
        view = views.task(self.reader, task)
        assert view is not None
        return view

    def events(self, event: abi.Event, since: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(height, values) of an event's logs from a height on."""
        for height, log in self.logs:
            if height >= since and log.topics[0] == event.topic:
                yield height, event.decode(log.topics, log.data)


@dataclass
class Story:
    """What the chain's logs say of a task: prompt and answer."""

    prompt: tuple[int, ...]
    max_tokens: int
    output: tuple[int, ...] = ()


class Library:
    """Prompts and answers by task, read from the logs alone, as a node reads them."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._read = 0
        self.stories: dict[bytes, Story] = {}
        self.verdicts: dict[bytes, list[tuple[str, bytes]]] = {}
        self.posted: list[bytes] = []

    def update(self) -> None:
        since, self._read = self._read, self._chain.height + 1
        for _, event in self._chain.events(abi.TASK_POSTED, since):
            self.stories[event["task"]] = Story(unpack_tokens(event["tokens"]), event["maxTokens"])
            self.posted.append(event["task"])
        for _, event in self._chain.events(abi.TASK_ANSWERED, since):
            self.stories[event["task"]].output = unpack_tokens(event["tokens"])
        for _, event in self._chain.events(abi.TASK_REFUTED, since):
            self.verdicts.pop(event["task"], None)
        for _, event in self._chain.events(abi.VERDICT_COMMITTED, since):
            self.verdicts.setdefault(event["task"], []).append((event["verifier"], event["commitment"]))


def answer(operator: Operator, duty: Duty, tokens: tuple[int, ...], root: bytes) -> Submission:
    commitment = execution_commitment(duty.task, operator.operator, root)
    return Submission(duty.task, tokens, commitment, 0, 1, 2, b"numpy")


def verdict(operator: Operator, duty: Duty, root: bytes, bad: int) -> Verdict:
    return Verdict(duty.task, verdict_commitment(duty.task, operator.operator, bad, root))


def reveal(duty: Duty, root: bytes, bad: int) -> Reveal:
    return Reveal(duty.task, root, bad)


@dataclass
class HonestFleet:
    """Every validator's node, doing what the state says that it owes (tasks of kind generate)."""

    chain: Chain
    engine: Engine
    library: Library
    known: dict[tuple[bytes, bytes], tuple[bytes, int]] = field(default_factory=dict)
    """(operator, task) -> the root and bad position that its commitment binds."""

    def transactions(self) -> list[Transaction]:
        """The batches of the next block."""
        self.library.update()
        batches: list[Transaction] = []
        for operator in self.chain.operators:
            duties = [duty for duty in self.chain.duties(operator) if duty.first_block <= self.chain.height + 1]
            items = [item for duty in duties if (item := self._item(operator, duty)) is not None]
            if items:
                batches.append(self.chain.work(operator, items[:16]))
        return batches

    def _item(self, operator: Operator, duty: Duty) -> WorkItem | None:
        story = self.library.stories[duty.task]
        sampling = (duty.temperature_q16, duty.top_k, duty.seed, duty.trace_key)
        if duty.role == abi.ROLE_EXECUTE:
            if duty.slot:
                return None
            made = self.engine.generate(story.prompt, duty.max_tokens, *sampling)
            self.known[operator.operator, duty.task] = made.root, NO_BAD_POSITION
            return answer(operator, duty, tuple(made.tokens), made.root)
        if duty.role == abi.ROLE_AUDIT:
            found = self.engine.verify(story.prompt, story.output, *sampling)
            self.known[operator.operator, duty.task] = found.root, found.bad
            return verdict(operator, duty, found.root, found.bad)
        known = self.known.get((operator.operator, duty.task))
        return None if known is None else reveal(duty, *known)
