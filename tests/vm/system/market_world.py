"""A small chain without an EVM for the Market's tests: real genesis, prologue and methods, over dictionaries."""

from dataclasses import replace

from memory_context import MemoryContext

from consensus.work.fees import Terms, escrow_of
from inference.opening import shape_record
from inference.program import Shape, cost
from primitives.genesis import GenesisBatch, GenesisModel, GenesisSpec, GenesisValidator
from primitives.hashing import keccak
from primitives.merkle import pack_tokens, tokens_root
from primitives.params import COIN, ChainParams
from primitives.task import (
    NO_BAD_POSITION,
    Kind,
    ModelCost,
    Reveal,
    Status,
    Submission,
    Verdict,
    encode_batch,
    execution_commitment,
    result_length,
    verdict_commitment,
)
from tests.coins import Coins
from vm.system import abi, ledger, market, market_gas, market_state, models, prologue
from vm.system.context import Refused
from vm.system.genesis import genesis_balances, genesis_storage
from vm.system.market_views import Duty, TaskView, open_tasks, task_view

MODEL = keccak(b"a small model")
UNLISTED = keccak(b"a model nobody knows")
STOP = 1
WIDTH = 24
SHAPE = Shape(
    vocabulary=256, context=512, width=WIDTH, layers=1, heads=1, kv_heads=1, head_width=5, rotary=0, hidden=13_882,
    norm_epsilon_q32=1, layers_per_group=1,
)  # fmt: skip
ENCODER_SHAPE = replace(SHAPE, context=128, width=48, head_width=2, hidden=7288, kind="bert")
SMALL, ENCODER = (
    GenesisModel(identity, name, shape_record(shape, 0), keccak(b"program of " + identity), stops, 10**9)
    for identity, name, shape, stops in (
        (MODEL, "small", SHAPE, (STOP,)),
        (keccak(b"an encoder"), "encoder", ENCODER_SHAPE, ()),
    )
)
COST = ModelCost(cost(SHAPE).a, cost(SHAPE).b, cost(SHAPE).c, audit_weight_num=1, audit_weight_den=4)
POSTER = keccak(b"poster")[12:]
FUND = 100 * COIN


def operator_of(i: int) -> bytes:
    return keccak(b"operator %d" % i)[12:]


def hot_of(operator: bytes) -> bytes:
    return keccak(b"hot" + operator)[12:]


def payout_of(operator: bytes) -> bytes:
    return keccak(b"payout" + operator)[12:]


def spec_of(
    validators: int = 4, rate: int = 10**9, serving: int | None = None, bond: int = 10_000 * COIN,
    encoder: bool = False, model: GenesisModel | None = None, batches: tuple[GenesisBatch, ...] = (),
    fund: int = FUND, **params: int,
) -> GenesisSpec:  # fmt: skip
    """`serving` of the validators serve every model (all by default), each declaring `rate`. encoder: one is listed.
    model: what is listed in place of the small one."""
    operators = [operator_of(i) for i in range(validators)]
    serving = validators if serving is None else serving
    listed = (SMALL, ENCODER) if encoder else (model or SMALL,)
    return GenesisSpec(
        params=ChainParams(**params).check(),
        genesis_time_ms=0,
        accounts=(),
        validators=tuple(
            GenesisValidator(
                operator=operator,
                consensus_address=keccak(b"consensus" + operator)[12:],
                beacon_key=keccak(b"beacon" + operator) + bytes(16),
                node_key=keccak(b"node" + operator),
                hot=hot_of(operator),
                payout=payout_of(operator),
                bond=bond,
                serves=tuple((model.model_id, rate) for model in listed) if i < serving else (),
            )
            for i, operator in enumerate(operators)
        ),
        models=listed,
        fund=fund,
        batches=batches,
        spec_hash=keccak(b"spec"),
    )


class World:
    """Blocks one by one. `block` runs the next block's prologue; calls after it are that block's transactions."""

    def __init__(self, seed: int = 0, **spec) -> None:
        self.spec = spec_of(**spec)
        self.params = self.spec.params
        self.ctx = MemoryContext(self.params, height=0)
        for account, slots in genesis_storage(self.spec).items():
            for slot, value in slots.items():
                self.ctx.storage[account, slot] = value
        self.ctx.balances = dict(genesis_balances(self.spec))
        self.ctx.balances[POSTER] = 10_000 * COIN
        self.recount()
        self.seed = seed
        self.roots: dict[bytes, bytes] = {}

    @property
    def height(self) -> int:
        return self.ctx.height

    @property
    def delay(self) -> int:
        return ledger.audit_delay(self.ctx, self.params.epoch(self.height))

    def block(self, count: int = 1) -> None:
        """The next block's prologue; its invariants hold before and after."""
        for _ in range(count):
            self.check()
            mix = keccak(b"mix" + self.seed.to_bytes(8, "big") + (self.height + 1).to_bytes(8, "big"))
            self.ctx.next_block(mix)
            self.ctx.gas_limit = self.params.prologue_gas
            prologue.run(self.ctx, bytes(32), b"")
            self.ctx.gas_used, self.ctx.gas_limit = 0, 10**9
            self.check()

    def block_until(self, height: int) -> None:
        assert height >= self.height
        self.block(height - self.height)

    def check(self) -> None:
        """Every wei has a place (tests.coins)."""
        self.coins.check(self.ctx, self.ctx.total_balance(), 0, self.registered)

    def recount(self) -> None:
        """Coins that a test gave to somebody are counted from here on."""
        self.coins = Coins(self.ctx, self.ctx.total_balance())

    @property
    def registered(self) -> list[bytes]:
        """Who is an operator, or may be."""
        return [validator.operator for validator in self.spec.validators]

    def escrow(
        self, prompt: int = 8, max_tokens: int = 8, assurance: int = 0, kind: int = 0, model=MODEL, tip: int = 0,
        callback_gas: int = 0, auditors: int = 0,
    ) -> int:  # fmt: skip
        """auditors: how many check it; 0: as many as a task without value at risk has in a small set."""
        auditors = auditors or max(self.params.auditors, assurance)
        record = models.model(self.ctx, model)
        cost, width = (COST, WIDTH) if record is None else (record.cost, record.width)
        asked = Kind(kind) if kind in list(Kind) else Kind.GENERATE
        longest = result_length(asked, prompt, max_tokens, width)
        price = ledger.base_price(self.ctx)
        terms = Terms(cost, asked, prompt, longest, price, self.ctx.base_fee, auditors, tip, callback_gas)
        return escrow_of(terms, market_gas.WORK_PAID).total

    def post(self, sender: bytes = POSTER, value: int | None = None, **changes) -> bytes:
        """Post in this block. Raises Refused."""
        asked = {
            "kind": 0, "model": MODEL, "tokens": tuple(range(10, 18)), "max_tokens": 8, "temperature_q16": 0,
            "top_k": 0, "assurance": 0, "value_at_risk": 0, "tip": 0, "deadline": 30, "callback_gas": 0, **changes,
        }  # fmt: skip
        tokens = asked["tokens"]
        raw = tokens if isinstance(tokens, bytes) else pack_tokens(tokens)
        names = "max_tokens", "assurance", "kind", "model", "tip", "callback_gas"
        needed = self.escrow(len(raw) // 4, *(asked[name] for name in names))
        return self.ctx.call(
            market.HANDLERS, abi.POST, asked["kind"], asked["model"], raw, *list(asked.values())[3:],
            sender=sender, value=needed if value is None else value,
        )  # fmt: skip

    def cancel(self, task: bytes, sender: bytes = POSTER) -> None:
        self.ctx.call(market.HANDLERS, abi.CANCEL, task, sender=sender)

    def work(self, operator: bytes, *items) -> list[str]:
        """Send a batch in this block. The codes of the items that were refused."""
        before = len(self.ctx.logs)
        self.ctx.call(market.HANDLERS, abi.WORK, encode_batch(items), sender=hot_of(operator))
        return [event["code"] for event in self.events(abi.WORK_REFUSED, before)]

    def submit(self, operator: bytes, task: bytes, tokens=None, root: bytes | None = None) -> list[str]:
        view = self.task(task)
        if tokens is None:
            width = models.require(self.ctx, view.model).width
            tokens = range(2, 2 + result_length(Kind(view.kind), view.prompt_tokens, view.max_tokens, width))
        tokens = tuple(tokens)
        root = root or self.root(task, tokens)
        commitment = execution_commitment(task, operator, root)
        return self.work(operator, Submission(task, tokens, commitment, 1, 2, 3, b"test"))

    def verdict(self, operator: bytes, task: bytes, root: bytes | None = None, bad: int = NO_BAD_POSITION) -> list[str]:
        return self.work(operator, Verdict(task, verdict_commitment(task, operator, bad, root or self.roots[task])))

    def reveal(self, operator: bytes, task: bytes, root: bytes | None = None, bad: int = NO_BAD_POSITION) -> list[str]:
        return self.work(operator, Reveal(task, root or self.roots[task], bad))

    def root(self, task: bytes, tokens) -> bytes:
        """What an honest trace of this answer would hash to."""
        self.roots[task] = keccak(b"trace" + task + tokens_root(tokens))
        return self.roots[task]

    def task(self, task: bytes) -> TaskView:
        view = task_view(self.ctx, task)
        assert view is not None
        return view

    def status(self, task: bytes) -> Status:
        return Status(self.task(task).status)

    def duties(self, operator: bytes) -> list[Duty]:
        return open_tasks(self.ctx, operator)

    def verdict_raw(self, operator: bytes, task: bytes, commitment: bytes) -> list[str]:
        return self.work(operator, Verdict(task, commitment))

    def finish(self, task: bytes, limit: int = 60) -> None:
        """Everyone honest does what it owes until the task is done."""
        for _ in range(limit):
            if self.task(task).done_block:
                return
            self.block()
            self.everyone_works()
        raise AssertionError(f"the task is still {self.status(task).name}")

    def everyone_works(self) -> None:
        for validator in self.spec.validators:
            operator = validator.operator
            for duty in self.duties(operator):
                if not duty.first_block <= self.height:
                    continue
                if duty.role == abi.ROLE_EXECUTE:
                    assert self.submit(operator, duty.task) == []
                elif duty.role == abi.ROLE_AUDIT:
                    assert self.verdict(operator, duty.task) == []
                elif self.status(duty.task) == Status.REVEALING:
                    assert self.reveal(operator, duty.task) == []

    def serving(self, operator: bytes) -> models.Serving:
        record = models.serving(self.ctx, operator, MODEL)
        assert record is not None
        return record

    def in_flight(self, operator: bytes) -> int:
        return market_state.IN_FLIGHT.get(self.ctx, operator)

    def credit(self, operator: bytes) -> tuple[int, int]:
        """Executed and audited work of this epoch so far, in multiply-adds."""
        standing = ledger.standing(self.ctx, operator)
        return standing.executed, standing.audited

    @staticmethod
    def text(address: bytes) -> str:
        """As decoded logs name an address."""
        return "0x" + address.hex()

    def events(self, event=None, since: int = 0) -> list[dict]:
        logs, self.ctx.logs = self.ctx.logs, self.ctx.logs[since:]
        found = self.ctx.events(event)
        self.ctx.logs = logs
        return found

    def misses(self, task: bytes) -> list[tuple[bytes, int, str]]:
        return [(e["operator"], e["role"], e["code"]) for e in self.of(abi.TASK_MISSED, task)]

    def of(self, event, task: bytes) -> list[dict]:
        return [found for found in self.events(event) if found["task"] == task]

    def refused(self, **changes) -> tuple[str, str]:
        """Code and text with which a post is refused; nothing of it stays."""
        storage, balances = dict(self.ctx.storage), dict(self.ctx.balances)
        try:
            self.post(**changes)
        except Refused as refusal:
            assert (self.ctx.storage, self.ctx.balances) == (storage, balances)
            return refusal.code, refusal.text
        raise AssertionError(f"a post with {changes} was accepted")
