"""Validators that cheat on demand, so that anybody can watch them being caught: `labora devnet --cheat KIND[:N]`. Only
on a chain whose parameters say devnet.

An honest node's services with a few methods replaced; the honest code knows nothing of this file. What a cheat needs of
a model beyond the truth comes from a second child process, which this module also is (`python -m node.cheats KIND`):
a worker (inference.worker) whose program, or whose conduct in a dispute, is not as it should be.
"""

import sys
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog
import trio

from genesis.keys import devnet_validator
from inference.batch import Batch
from inference.defence import Choice, Game, NoMove, Opening, Party
from inference.model import Model
from inference.opening import Execution, Working, open_element
from inference.ops import STATE, Leaf, Op
from inference.ops import TILE as TILE_ELEMENTS
from inference.reference import NumpyExecutor, Wide
from inference.witness import Worker as Witness
from inference.witness import work
from inference.worker import Service
from inference.worker import main as worker_main
from node.disputes import DisputeService
from node.duties import Result
from node.exits import CONFIGURATION, Fatal
from node.inference import InferenceService
from node.moves import Me, Move, message_of
from node.outbox import Message
from node.worker import Worker
from primitives.hashing import keccak
from primitives.params import DISPUTE_MESSAGE_GAS, ChainParams
from primitives.task import Kind, Reveal, Verdict, WorkItem, vector_of
from vm.system import abi, views
from vm.system.market_views import Duty

KINDS = {
    "wrong-token": "changes a token of its answer and commits the true trace of what it gives",
    "wrong-token-true-trace": "changes a token of its answer and commits the trace of the true answer",
    "wrong-layer": "skips a layer's feed-forward part at a quarter of all (position, layer group), to save work",
    "stale-kv": "reads keys and values of nothing at a quarter of all positions, as from a cache that was not filled",
    "cached-replay": "gives the answer, with its root, that it once gave to the same prompt",
    "small-model": "runs the model with the lower half of each weight cut off",
    "altered-prompt": "answers another prompt of the same length",
    "cached-prefix": "reads the first half of the prompt from what it cached for another prompt",
    "wrong-seed": "draws its tokens with a seed of its own choice",
    "withheld-reveal": "cheats as wrong-layer, and never says what root it committed",
    "withheld-list": "cheats as wrong-layer, and says nothing when it is challenged",
    "withheld-opening": "cheats as wrong-layer, shows its trace and list, and then says nothing more",
    "late-reveal": "reveals two blocks later than it could; nothing else is wrong with it",
    "garbage-reveal": "commits and reveals a root that is no trace's",
    "copied-verdict": "as a verifier sends a copy of what another verifier committed",
    "lazy-agree": "as a verifier commits to agreement without doing the work, with a root that it cannot know",
    "false-challenge": "as a verifier contradicts whatever it checks, and challenges it",
    "contradict-and-run": "as a verifier contradicts whatever it checks, and does not challenge",
    "colluding": "with the next validator: both skip what wrong-layer skips, and confirm each other",
}
LAYER_SKIPPERS = ("wrong-layer", "withheld-reveal", "withheld-list", "withheld-opening", "colluding")
OTHER_PROGRAMS = (*LAYER_SKIPPERS, "stale-kv", "small-model")
"""Kinds whose answers come from another program than the task asks for."""
ONE_IN = 4
LATE_BLOCKS = 2

Behind = Mapping[tuple[bytes, bytes], dict[str, Any]]

log = structlog.get_logger("cheat")


def parse(text: str, validators: int) -> dict[int, str]:
    """KIND[:N] as --cheat has it -> the configuration of each validator that cheats. Raises Fatal."""
    kind, _, number = text.partition(":")
    if kind not in KINDS:
        raise Fatal(CONFIGURATION, f"no cheat {kind!r}; `--cheat list` names them")
    first = int(number) if number.isdecimal() else 1
    members = [first, first + 1] if kind == "colluding" else [first]
    if (number and not number.isdecimal()) or members[-1] >= validators:
        raise Fatal(CONFIGURATION, f"--cheat {text}: validators are 0 to {validators - 1}")
    return dict.fromkeys(members, f"{kind}:{first}")


def services(cheat: str, params: ChainParams) -> tuple[type[InferenceService], type[DisputeService]]:
    """The services of a node whose configuration has `cheat`. Raises Fatal where that is not allowed."""
    if params.devnet != 1:
        raise Fatal(CONFIGURATION, f"cheat = {cheat!r}: only a node of a devnet may be told to cheat")
    kind, _, first = cheat.partition(":")
    if kind not in KINDS:
        raise Fatal(CONFIGURATION, f"cheat = {cheat!r}: known are {', '.join(KINDS)}")
    friends = frozenset(devnet_validator(int(first or 1) + i).operator_address for i in range(2))
    log.warning("this validator cheats, as it was told to", kind=kind, what=KINDS[kind])
    conduct = {"conduct": Conduct(kind, friends)}
    return type("CheatingInference", (Cheating,), conduct), type("CheatingDisputes", (CheatingInDisputes,), conduct)


@dataclass(frozen=True)
class Conduct:
    """What a kind does otherwise than an honest validator, decision by decision. friends: with whom it colludes."""

    kind: str
    friends: frozenset[bytes] = frozenset()

    def guess(self, duty: Duty) -> Result | None:
        """The result of a check that it does not make; None where it works."""
        if duty.role != abi.ROLE_AUDIT:
            return None
        if self.kind == "lazy-agree":
            return Result(duty.task, duty.trace_key, keccak(b"a guess" + duty.task))
        if self.kind in ("false-challenge", "contradict-and-run"):
            return Result(duty.task, duty.trace_key, keccak(b"no trace" + duty.task))
        return None

    def runs_other_program(self, role: int, executor: bytes) -> bool:
        """Whether its own program is asked instead of the model. executor: of the task that is checked."""
        if role == abi.ROLE_EXECUTE:
            return self.kind in OTHER_PROGRAMS
        return self.kind == "colluding" and executor in self.friends

    def asked(self, role: int, request: dict[str, Any]) -> dict[str, Any]:
        """What a model is asked instead."""
        if role != abi.ROLE_EXECUTE or self.kind not in ("altered-prompt", "cached-prefix", "wrong-seed"):
            return request
        if self.kind == "wrong-seed":
            return {**request, "seed": keccak(b"mine" + request["seed"])}
        prompt = list(request["prompt"])
        half = (len(prompt) + 1) // 2
        if self.kind == "cached-prefix":
            return {**request, "prompt": [*(token ^ 1 for token in prompt[:half]), *prompt[half:]]}
        return {**request, "prompt": [*prompt[:-1], prompt[-1] ^ 1]}

    def committed(self, made: Result, before: Result | None) -> Result:
        """What it says of an answer that it made. before: its answer to the same prompt, if it gave one."""
        if self.kind == "cached-replay" and before is not None:
            return replace(made, tokens=before.tokens, root=before.root)
        return replace(made, root=keccak(b"no trace" + made.task)) if self.kind == "garbage-reveal" else made

    def behind(self, kind: Kind, made: Result, before: Result | None) -> dict[str, Any]:
        """Fields of the request whose trace's root it commits, where they are not those of its answer. made: what its
        model gave."""
        shown = made
        if self.kind == "cached-replay" and before is not None:
            shown = before
        elif self.kind != "wrong-token-true-trace":
            return {}
        words = list(vector_of(shown.tokens) if kind.is_vector else shown.tokens)
        return {"output": words, "trace_key": shown.trace_key}

    def tokens(self, tokens: tuple[int, ...], vocabulary: int, stops: tuple[int, ...]) -> tuple[int, ...] | None:
        """The answer with its first token changed for one that is no stop id, as complete as it was; None where the
        answer stays."""
        if self.kind not in ("wrong-token", "wrong-token-true-trace"):
            return None
        token = (tokens[0] + 1) % vocabulary
        while token in stops:
            token = (token + 1) % vocabulary
        return (token, *tokens[1:])

    def says(self, item: WorkItem, height: int, first_block: int, commitments: Sequence[bytes]) -> WorkItem | None:
        """What it sends instead of a message; None: nothing, now. commitments: of verdicts given so far."""
        if isinstance(item, Reveal):
            late = self.kind == "late-reveal" and height < first_block + LATE_BLOCKS
            return None if late or self.kind in ("withheld-reveal", "lazy-agree") else item
        if isinstance(item, Verdict) and self.kind == "copied-verdict":
            return replace(item, commitment=commitments[0]) if commitments else None
        return item

    def argues(self, move: Move, request: dict[str, Any], me: Me, behind: Behind) -> dict[str, Any]:
        """What is asked for a move in a dispute; "cheats": of its own program. behind: what its roots are of."""
        own = move.dispute is not None and (self.kind == "colluding" or me.is_(move.dispute.accused))
        if own and move.move == "show":
            shown = behind.get((move.task.task, request["trace_key"]), {})
            return {**self.asked(abi.ROLE_EXECUTE, request), **shown, "cheats": self.kind in OTHER_PROGRAMS}
        return {**request, "cheats": self.kind == "false-challenge"}

    def moves(self, move: Move, reply: dict[str, Any]) -> Message | str:
        """The move that it makes; a text: none."""
        if self.kind in ("withheld-list", "contradict-and-run"):
            return "this validator is silent in disputes, as it was told to be"
        if self.kind == "withheld-opening" and move.dispute is not None and move.dispute.state >= abi.DISPUTE_OP:
            return "this validator shows nothing below its list, as it was told to"
        if self.kind == "false-challenge" and move.dispute is None:
            data = abi.CHALLENGE.encode_call(move.task.task, abi.NO_LEAF)
            return Message(abi.CHALLENGE.account, data, DISPUTE_MESSAGE_GAS, frozenset([move.key]))
        return message_of(move, reply)


class Cheating(InferenceService):
    """Does a validator's work as its kind does."""

    conduct: Conduct

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._false: dict[bytes, Worker] = {}
        """The second process of a model."""
        self._given: dict[bytes, Result] = {}
        """The first answer to each prompt."""
        self.behind: dict[tuple[bytes, bytes], dict[str, Any]] = {}
        """(task, trace key) -> what the root that was committed is the trace of, where that is not the answer."""

    async def _keep(self, model: bytes, worker: Worker) -> None:
        config = replace(worker.config, program=("node.cheats", self.conduct.kind))
        async with trio.open_nursery() as nursery:
            self._false[model] = Worker(config)
            nursery.start_soon(self._false[model].run)
            await super()._keep(model, worker)
            nursery.cancel_scope.cancel()

    async def ask(self, model: bytes, request: dict[str, Any]) -> dict[str, Any]:
        if request.pop("cheats", False):
            return await self._false[model].ask(request)
        return await super().ask(model, request)

    async def _ask(self, duty: Duty, worker: Worker) -> Result:
        if (guess := self.conduct.guess(duty)) is not None:
            return guess
        task = views.task(self._ledger.reader(), duty.task)
        if task is not None and self.conduct.runs_other_program(duty.role, task.executor):
            worker = self._false[duty.model]
        made = await super()._ask(duty, worker)
        if duty.role != abi.ROLE_EXECUTE:
            return made
        before, height = self._given.get(duty.prompt_hash), self._ledger.head.number + 1
        self.behind[made.key[:2]] = self.conduct.behind(Kind(duty.kind), made, before)
        made = self.conduct.committed(made, before)
        self._given.setdefault(duty.prompt_hash, made)
        models = views.models(self._ledger.reader(), self._ledger.params, height)
        model = next(model for model in models if model.model_id == duty.model)
        tokens = self.conduct.tokens(made.tokens, model.vocabulary, model.stop_ids)
        if tokens is None or self.conduct.kind == "wrong-token-true-trace":
            return made if tokens is None else replace(made, tokens=tokens)
        prompt, _ = await trio.to_thread.run_sync(self.texts, duty.task)
        request = {**self._request(duty, prompt), "op": "check", "output": list(tokens)}
        return replace(made, tokens=tokens, root=(await worker.ask(request))["root"])

    def _request(self, duty: Duty, prompt: tuple[int, ...]) -> dict[str, Any]:
        return self.conduct.asked(duty.role, super()._request(duty, prompt))

    def _items(self, operator: bytes, known: Set[Hashable], height: int) -> list[WorkItem]:
        changed = []
        for item in super()._items(operator, known, height):
            first = min(duty.first_block for duty in self._duties if duty.task == item.task)
            changed.append(self.conduct.says(item, height, first, self._commitments(item.task)))
        return [item for item in changed if item is not None]

    def _commitments(self, task: bytes) -> list[bytes]:
        logs = (found.log for found in self._ledger.task_logs(task))
        return [abi.VERDICT_COMMITTED.decode(entry.topics, entry.data)["commitment"]
                for entry in logs if entry.topics[0] == abi.VERDICT_COMMITTED.topic]  # fmt: skip


class CheatingInDisputes(DisputeService):
    """Moves in disputes as its kind does."""

    conduct: Conduct

    def _request_of(self, move: Move) -> dict[str, Any]:
        assert self._me is not None and isinstance(self._inference, Cheating)
        return self.conduct.argues(move, super()._request_of(move), self._me, self._inference.behind)

    def _message_of(self, move: Move, reply: dict[str, Any]) -> Message | str:
        return self.conduct.moves(move, reply)


# The second process


class LayerSkipper(NumpyExecutor):
    """Leaves out the feed-forward part of a group's last layer where `skips` says."""

    def _attention(self, x: Wide, layer: int, batch: Any, tiles: list[np.ndarray]) -> float:
        self._positions = batch.positions
        return super()._attention(x, layer, batch, tiles)

    def _mlp(self, x: Wide, layer: int) -> float:
        before = x.values.copy()
        bound = super()._mlp(x, layer)
        group = layer // self.shape.layers_per_group
        if layer == last_layer(self.shape, group):
            rows = [row for row, position in enumerate(self._positions) if skips(int(position), group)]
            x.values[rows] = before[rows]
        return max(bound, x.bound)


class SkippedWork(Witness):
    """The lists of operations that a LayerSkipper's trace follows from: what was left out is zero."""

    leaf = Leaf(STATE, 0)

    def result(self, number: int, op: Op) -> list[int]:
        shape = self._execution.manifest.shape
        position, group = divmod(self.leaf.index, shape.groups)
        left_out = f"layers.{last_layer(shape, group)}.down.out"
        if self.leaf.domain == STATE and op.name == left_out and skips(position, group):
            return [0] * op.length
        return super().result(number, op)


class Stubborn(Party):
    """Goes on although nothing differs."""

    def choose(self, game: Game) -> Choice:
        try:
            choice = super().choose(game)
        except NoMove:
            choice = Choice(None)
        return self.child(game, 0) if choice.index is None else choice

    def open(self, game: Game) -> Opening:
        try:
            return super().open(game)
        except NoMove:
            assert game.leaf is not None and game.op is not None
            element = game.shown[-1].place.index * TILE_ELEMENTS
            return Opening(element, open_element(self.working(game.leaf), game.op, element))


class StaleReader(NumpyExecutor):
    """Keeps what was in the cache before where `skips` says, and commits what it should have written."""

    def __init__(self, model: Model, pages: int | None = None) -> None:
        super().__init__(model, pages)
        store, self._filled = self._store, self._store.write

        def write(layer: int, batch: Any, values: np.ndarray, top: np.ndarray, bits: np.ndarray) -> None:
            stale = np.array([skips(int(position), 0) for position in batch.positions])[:, None, None]
            self._filled(layer, batch, np.where(stale, 0, values), np.where(stale, 1, top), np.where(stale, 0, bits))

        store.write = write  # type: ignore[method-assign]


def skips(position: int, group: int) -> bool:
    """Whether work is left out there: one place in four."""
    return keccak(position.to_bytes(8, "big") + group.to_bytes(8, "big"))[0] % ONE_IN == 0


def last_layer(shape: Any, group: int) -> int:
    """Of a group."""
    return min((group + 1) * shape.layers_per_group, shape.layers) - 1


def coarse(model: Model) -> Model:
    """The model with the lower half of every weight's bits gone, under the same id."""
    weights = {name: (tensor >> 4) << 4 for name, tensor in model.tensors.items()
               if name.endswith(".weight") and name != "embedding.weight"}  # fmt: skip
    return Model(model.manifest, model.model_id, {**model.tensors, **weights})


def skipped_work(execution: Execution, model: Model, leaf: Leaf) -> Working:
    """As inference.witness.work, of a LayerSkipper."""
    worker = SkippedWork(execution, model, leaf)
    worker.leaf = leaf
    return Working(execution, leaf, worker.run())


def executor_of(kind: str, model: Model, pages: int) -> NumpyExecutor:
    """What runs the model as a kind does."""
    if kind in LAYER_SKIPPERS:
        return LayerSkipper(model, pages)
    if kind == "stale-kv":
        return StaleReader(model, pages)
    return NumpyExecutor(coarse(model) if kind == "small-model" else model, pages)


class CheatingService(Service):
    """A worker of a kind."""

    kind = ""

    def party(self, argument: Any, record: Any) -> Party:
        honest = super().party(argument, record)
        model = self._batch.model
        if self.kind == "false-challenge":
            return Stubborn(honest.execution, model)
        return Party(honest.execution, model, skipped_work if self.kind in LAYER_SKIPPERS else work)


def main(arguments: list[str]) -> int:
    """A worker: KIND, then inference.worker's arguments."""
    kind, *rest = arguments

    def make_service(engine: Any, limits: Any, pipe: Any) -> Service:
        executor = executor_of(kind, engine.model, engine.executor.pool.pages)
        service = CheatingService(Batch(executor, limits), pipe)
        service.kind = kind
        return service

    return worker_main(rest, make_service)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
