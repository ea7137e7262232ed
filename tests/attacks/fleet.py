"""Validators on an in-process chain: real blocks, real engines, the nodes' own decisions (node.duties, node.moves), and
the cheats' (node.cheats). What a child process does in a node is done here by calls. Used by tests and by the table."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from inference.batch import Request
from inference.defence import NoMove, Party
from inference.engine import Engine
from inference.model import Model
from inference.reference import NumpyExecutor
from inference.trace import Record
from inference.witness import execution_of, work
from inference.worker import Argument
from node.cheats import LAYER_SKIPPERS, Conduct, Stubborn, executor_of, skipped_work
from node.duties import Result, items_to_send, job_key, jobs, work_message
from node.moves import Me, Move, challenge_of_a_watcher, message_of, moves_now, request_of
from node.outbox import Message
from node.traps import Traps, allowed
from primitives.hashing import ZERO_HASH
from primitives.merkle import unpack_tokens
from primitives.task import Kind, Status, WorkItem, trace_key, vector_of, words_of
from primitives.transaction import Transaction, sign_transaction
from tests.e2e_in_process.chain_in_process import Chain, Engines, Operator
from vm.call import CallRequest, call
from vm.system import abi, views
from vm.system.market_views import Duty, trap_answers

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)
BLOCKS_MAX = 400
HONEST = Conduct("honest")


class Program:
    """An executor as a child process would serve it."""

    def __init__(self, executor: NumpyExecutor, party: Callable[[Any, Model], Party]) -> None:
        self._engine, self._party = Engine(executor), party
        self._parties: dict[bytes, Party] = {}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """make, check and argue of inference.worker. Raises NoMove."""
        how = request["temperature_q16"], request["top_k"], request["seed"], request["trace_key"]
        engine, kind, prompt = self._engine, request["kind"], request["prompt"]
        if request["op"] == "make":
            if kind == "generate":
                made: Any = engine.generate(prompt, request["max_tokens"], *how)
                return {"root": made.root, "tokens": made.tokens}
            made = (engine.embed if kind == "embed" else engine.score)(prompt, request["trace_key"])
            return {"root": made.root, "vector": made.vector}
        if request["op"] == "check":
            if kind == "generate":
                found = engine.verify(prompt, request["output"], *how)
            else:
                found = engine.verify_vector(kind, prompt, request["output"], request["trace_key"])
            return {"root": found.root, "bad": found.bad}
        fields = {name: request[name] for name in ("kind", "prompt", "output", "seed", "trace_key")}
        sampling = {"temperature_q16": how[0], "top_k": how[1]}
        argument = Argument.of(request, Request(**fields, **sampling, keeps=True))
        if argument.key not in self._parties:
            self._parties[argument.key] = self._party(self._recorded(argument), engine.model)
        party = self._parties[argument.key]
        return {"root": party.root, **argument.move(party)}

    def _recorded(self, argument: Any) -> Any:
        verdict = self._engine._verdict(argument.request)
        assert isinstance(verdict.record, Record)
        words = argument.request.output if argument.task.kind == "generate" else words_of(argument.request.output)
        task, request = argument.task, argument.request
        return execution_of(self._engine.model, task, request.trace_key, request.prompt, words, verdict.record)


def programs(kind: str, model: Model) -> tuple[Program, Program]:
    """The honest program, and the one that a cheat of this kind has beside it."""
    def party(execution: Any, of: Model) -> Party:
        if kind == "false-challenge":
            return Stubborn(execution, of)
        return Party(execution, of, skipped_work if kind in LAYER_SKIPPERS else work)

    return Program(NumpyExecutor(model), Party), Program(executor_of(kind, model, 16), party)


@dataclass
class Validator:
    """One validator's node."""

    keys: Operator
    conduct: Conduct
    honest: Program
    other: Program
    is_offline: bool = False
    traps: Traps | None = None
    """Set where it sets traps."""
    results: dict[Any, Result] = field(default_factory=dict)
    given: dict[bytes, Result] = field(default_factory=dict)
    behind: dict[tuple[bytes, bytes], dict[str, Any]] = field(default_factory=dict)
    idle: set[Hashable] = field(default_factory=set)

    @property
    def me(self) -> Me:
        return Me(self.keys.hot, self.keys.operator)

    def result(self, task: bytes, trace_key: bytes) -> Result | None:
        return self.results.get((task, trace_key, False)) or self.results.get((task, trace_key, True))


class Watcher(Validator):
    """The asker's account as somebody who watches: no stake, no part in the work."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.operators[0], HONEST, *programs("honest", chain.model))
        self._hot = chain.poster

    @property
    def me(self) -> Me:
        return Me(self._hot, None)


@dataclass
class Said:
    """A message of a dispute, and what the block made of it."""

    call: str
    about: Hashable
    """The task, of a challenge; else the dispute's number."""
    bytes: int
    gas: int = 0
    status: int = 0


class Fleet:
    """A chain with its validators, each of which does after every block what its node would."""

    def __init__(
        self, cheats: dict[int, str] | None = None, validators: int = 4, model: Model | None = None, **params: int
    ) -> None:
        engines = Engines.make() if model is None else Engines.of(model)
        self.chain = Chain(engines, validators, canaries_per_validator=0, **params)
        kinds = cheats or {}
        friends = frozenset(self.chain.operators[i].operator for i, kind in kinds.items() if kind == "colluding")
        self.validators = []
        for index, operator in enumerate(self.chain.operators):
            kind = kinds.get(index, "honest")
            self.validators.append(Validator(operator, Conduct(kind, friends), *programs(kind, self.chain.model)))
        self.watcher: Watcher | None = None
        self._read = 0
        self._prompts: dict[bytes, tuple[int, ...]] = {}
        self._outputs: dict[bytes, tuple[int, ...]] = {}
        self._commitments: dict[bytes, list[bytes]] = {}
        self._shown: dict[int, list[dict[str, Any]]] = {}
        self.messages: list[Said] = []
        """All messages of disputes so far."""
        self.spoil: Callable[[Validator, WorkItem], WorkItem | None] = lambda _, item: item

    def post(self, max_tokens: int = 6, temperature_q16: int = 45_000, **asked: Any) -> bytes:
        """A task in a block of its own; its id."""
        chain, prompt = self.chain, asked.pop("prompt", PROMPT)
        chain.block([chain.post(chain.reader.nonce(chain.poster), prompt, max_tokens, temperature_q16, **asked)])
        (receipt,) = chain.receipts
        assert receipt.status == 1, "the post reverted"
        return abi.TASK_POSTED.decode(receipt.logs[0].topics, receipt.logs[0].data)["task"]

    def until(self, task: bytes, *statuses: Status) -> Status:
        """Go on until the task stands there."""
        for _ in range(BLOCKS_MAX):
            status = Status(self.chain.task(task).status)
            if status in statuses:
                return status
            self.block()
        raise AssertionError(f"after {BLOCKS_MAX} blocks the task is still {status.name}")

    def until_quiet(self, task: bytes) -> Status:
        """Go on until the task is done and no dispute of it waits or runs."""
        for _ in range(BLOCKS_MAX):
            view = self.chain.task(task)
            if view.done_block and not views.open_disputes(self.chain.reader):
                return Status(view.status)
            self.block()
        raise AssertionError(f"after {BLOCKS_MAX} blocks the task is still {Status(view.status).name}")

    def block(self, *others: Transaction) -> None:
        """One block with all that everybody has to say."""
        transactions: list[Transaction] = list(others)
        said: list[Said | None] = [None] * len(others)
        for validator in self.validators:
            if validator.is_offline:
                continue
            self._work(validator)
            nonce = self.chain.reader.nonce(validator.keys.hot)
            for what, transaction in self._transactions(validator, nonce):
                transactions.append(transaction)
                said.append(what)
        for what, transaction in self._watched(len(others)):
            transactions.append(transaction)
            said.append(what)
        self.chain.block(transactions)
        for each, receipt in zip(said, self.chain.receipts, strict=True):
            if each is not None:
                each.gas, each.status = receipt.gas_used, receipt.status
                self.messages.append(each)

    def texts(self, task: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt and latest answer."""
        self._read_logs()
        return self._prompts[task], self._outputs.get(task, ())

    def _read_logs(self) -> None:
        """Of the blocks since the last time, what nodes look up in their index."""
        for _, entry in self.chain.logs[self._read :]:
            event = abi.EVENTS.get(entry.topics[0])
            if event in (abi.TASK_POSTED, abi.TASK_ANSWERED, abi.VERDICT_COMMITTED, abi.SHOWN, abi.LIST_REFUTED):
                values = event.decode(entry.topics, entry.data)
                if event is abi.TASK_POSTED:
                    self._prompts[values["task"]] = unpack_tokens(values["tokens"])
                elif event is abi.TASK_ANSWERED:
                    self._outputs[values["task"]] = unpack_tokens(values["tokens"])
                elif event is abi.VERDICT_COMMITTED:
                    self._commitments.setdefault(values["task"], []).append(values["commitment"])
                else:
                    self._shown.setdefault(values["dispute"], []).append({**values, "event": event.name})
        self._read = len(self.chain.logs)

    def bond(self, function: abi.Function, of: bytes | int, account: bytes) -> int:
        """Wei that a challenge, or a stand-in's list, must bring; 0 where a stake holds it."""
        chain, env = self.chain, self.chain.env(self.chain.height)
        request = CallRequest(to=function.account, data=function.encode_call(of, account))
        found = call(chain.db, chain.root, env, request)
        found.raise_for_error()
        amount, from_stake = function.decode_result(found.output)
        return 0 if from_stake else amount

    def _watched(self, sent: int) -> list[tuple[Said, Transaction]]:
        """What somebody without a stake does who recomputes every answer. sent: of its account in this block."""
        watcher, chain = self.watcher, self.chain
        if watcher is None:
            return []
        for _, event in chain.events(abi.REVEALED):
            view = chain.task(event["task"])
            key = (view.task, trace_key(view.seed, view.attempt), False)
            if view.executor_root != ZERO_HASH and not view.done_block and key not in watcher.results:
                prompt, output = self.texts(view.task)
                request = request_of(Move("", "check", "", view), prompt, output, [])
                found = watcher.honest.ask({**request, "op": "check"})
                watcher.results[key] = Result(*key[:2], found["root"], bad=found["bad"])
        messages = self._moves(watcher)
        for (task, _, _), mine in watcher.results.items():
            move = challenge_of_a_watcher(chain.task(task), mine, partial(self.bond, abi.BOND_FOR, task, chain.poster))
            made = "" if move is None else self._move(watcher, move)
            messages += [] if isinstance(made, str) else [made]
        nonce = chain.reader.nonce(chain.poster) + sent
        return [(self.call_of(message), self.signed(chain.poster_key, nonce + i, message))
                for i, message in enumerate(messages)]  # fmt: skip

    def call_of(self, message: Message) -> Said:
        """Which method of the Referee a message calls, and about what."""
        name = next(function.name for function in (abi.CHALLENGE, abi.SHOW, abi.CHOOSE, abi.OPEN)
                    if message.data.startswith(function.selector))  # fmt: skip
        ((_, about, *_),) = message.covers
        return Said(name, about, len(message.data))

    # ------------------------------------------------------------------ what a node does

    def _work(self, validator: Validator) -> None:
        duties = self.chain.duties(validator.keys)
        for duty in jobs(duties, validator.results, self.chain.height + 1, self.chain.model.model_id):
            validator.results[job_key(duty)] = self._as_committed(validator, duty, self._run(validator, duty))

    def _as_committed(self, validator: Validator, duty: Duty, made: Result) -> Result:
        """As node.inference has it."""
        ctx = views.ViewContext(self.chain.reader, self.chain.params, self.chain.height + 1)
        operator, traps = validator.keys.operator, validator.traps
        if traps is not None and duty.role in (abi.ROLE_REVEAL, abi.ROLE_TRAP):
            return traps.recognised(made, operator, duty.commitment)
        if traps is None or duty.role != abi.ROLE_EXECUTE or not traps.chooses(duty.task, duty.trace_key):
            return made
        return traps.hidden(made) if allowed(*trap_answers(ctx, operator), validator.results) > 0 else made

    def _run(self, validator: Validator, duty: Duty) -> Result:
        conduct = validator.conduct
        if (guess := conduct.guess(duty)) is not None:
            return guess
        prompt, output = self.texts(duty.task)
        executor = self.chain.task(duty.task).executor
        program = validator.other if conduct.runs_other_program(duty.role, executor) else validator.honest
        kind = Kind(duty.kind)
        request = conduct.asked(duty.role, {
            "kind": kind.name.lower(), "prompt": list(prompt), "temperature_q16": duty.temperature_q16,
            "top_k": duty.top_k, "seed": duty.seed, "trace_key": duty.trace_key,
        })  # fmt: skip
        if duty.role != abi.ROLE_EXECUTE:
            claimed = list(vector_of(output) if kind.is_vector else output)
            found = program.ask({**request, "op": "check", "output": claimed})
            return Result(duty.task, duty.trace_key, found["root"], bad=found["bad"])
        answer = program.ask({**request, "op": "make", "max_tokens": duty.max_tokens})
        tokens = words_of(answer["vector"]) if kind.is_vector else tuple(answer["tokens"])
        found = Result(duty.task, duty.trace_key, answer["root"], tokens=tokens)
        before = validator.given.get(duty.prompt_hash)
        validator.behind[found.key[:2]] = conduct.behind(kind, found, before)
        made = conduct.committed(found, before)
        validator.given.setdefault(duty.prompt_hash, made)
        manifest = self.chain.model.manifest
        other = conduct.tokens(made.tokens, manifest.shape.vocabulary, manifest.stop)
        if other is None:
            return made
        root = made.root
        if conduct.kind != "wrong-token-true-trace":
            root = program.ask({**request, "op": "check", "output": list(other)})["root"]
        return Result(duty.task, duty.trace_key, root, tokens=other)

    def _transactions(self, validator: Validator, nonce: int) -> list[tuple[Said | None, Transaction]]:
        found: list[tuple[Said | None, Transaction]] = []
        for message in self._moves(validator):
            found.append((self.call_of(message), self.signed(validator.keys.hot_key, nonce + len(found), message)))
        if items := self._items(validator):
            found.append((None, self.signed(validator.keys.hot_key, nonce + len(found), work_message(items))))
        return found

    def signed(self, key: bytes, nonce: int, message: Message) -> Transaction:
        """A message of any account."""
        return sign_transaction(
            key, chain_id=self.chain.params.chain_id, nonce=nonce, gas=message.gas, to=message.to,
            max_fee_per_gas=4 * self.chain.base_fee, max_priority_fee_per_gas=10**6, value=message.value,
            data=message.data,
        )  # fmt: skip

    def _items(self, validator: Validator) -> list[WorkItem]:
        duties, height = self.chain.duties(validator.keys), self.chain.height + 1
        self._read_logs()
        items = []
        for item in items_to_send(validator.keys.operator, duties, validator.results, set(), height):
            first = min(duty.first_block for duty in duties if duty.task == item.task)
            said = validator.conduct.says(item, height, first, self._commitments.get(item.task, []))
            said = None if said is None else self.spoil(validator, said)
            items += [] if said is None else [said]
        return items

    def _moves(self, validator: Validator) -> list[Message]:
        chain, messages = self.chain, list[Message]()
        height, me = chain.height + 1, validator.me
        owed = [] if me.operator is None else views.open_tasks(chain.reader, me.operator, chain.params, height)
        for move in moves_now(chain.reader, chain.params, height, me, owed, validator.result, self.bond):
            if move.key in validator.idle:
                continue
            made = self._move(validator, move)
            if isinstance(made, str):
                validator.idle.add(move.key)
            else:
                messages.append(made)
        return messages

    def _move(self, validator: Validator, move: Move) -> Message | str:
        conduct = validator.conduct
        request = conduct.argues(move, self._request(move), validator.me, validator.behind)
        try:
            reply = (validator.other if request["cheats"] else validator.honest).ask(request)
        except NoMove as error:
            return str(error)
        return conduct.moves(move, reply) if conduct is not HONEST else message_of(move, reply)

    def _request(self, move: Move) -> dict[str, Any]:
        prompt, output = self.texts(move.task.task)
        shown = [] if move.dispute is None else self._shown.get(move.dispute.dispute, [])
        return request_of(move, prompt, output, shown)


def name_of(fleet: Fleet, address: str) -> str:
    """Who an address of a log is, in words."""
    for index, operator in enumerate(fleet.chain.operators):
        if bytes.fromhex(address[2:]) in (operator.operator, operator.hot, operator.payout):
            return f"validator {index}"
    return "the asker" if bytes.fromhex(address[2:]) == fleet.chain.poster else address[:10]



