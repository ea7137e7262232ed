"""Becoming and being a validator, from the command line: register, bond, unbond, withdraw, serve, stop serving.

Each command sends one transaction of the operator's account and says what came of it. The proofs of a registration are
made here, from the keystores of the node's folder; what they must say is vm.system.staking's. What is refused is
refused by the chain, with its reason; what can be known before is said before, with what to do.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genesis.build import build_genesis
from genesis.spec import InvalidSpec, load_spec
from inference.opening import Claims, claims_of
from inference.program import decode_manifest
from node.accounts import ask_passphrase
from node.client import Client, RpcFailure, from_hex, to_hex
from node.config import DataFolder, NodeConfig
from node.exits import CONFIGURATION, RUNTIME, USAGE, WRONG_CHAIN, Fatal
from node.init import public_keys
from node.keys import ROLES, NodeKeys, find_passphrase, read_node_keys
from node.post import find_model
from node.send import current_prices, logged, refusal, send, short_of
from node.story import coins
from primitives import bls, keys
from primitives.address import MODELS, STAKING, InvalidAddress, checksum, parse
from primitives.params import COIN, ChainParams
from primitives.task import Kind, ModelCost
from vm.system import abi
from vm.system.staking import Role, statement

AMOUNT = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?")
REVERTED = 3
"""JSON-RPC code of a call that the chain refused."""
MEASURE_SECONDS = 2.0
MEASURE_RUNS_MAX = 20
MEASURE_TOKENS = 32
"""In and out, of a run that measures; less where the context is shorter."""
NEXT_SERVE = "`labora validator serve` says how fast you compute"


@dataclass(frozen=True)
class Operator:
    """Who sends, and through which node."""

    client: Client
    key: bytes

    @property
    def address(self) -> bytes:
        return keys.address_of(self.key)

    @property
    def name(self) -> str:
        return checksum(self.address)

    def record(self) -> dict[str, Any] | None:
        """What Staking knows of it; None for a stranger."""
        try:
            answer = self.client.read_contract(STAKING, abi.GET_OPERATOR.encode_call(self.address))
        except RpcFailure as failure:
            if failure.rpc_code != REVERTED:
                raise
            return None
        (values,) = abi.GET_OPERATOR.decode_result(answer)
        return abi.OPERATOR.named(values)

    def require(self) -> dict[str, Any]:
        """Its record. Raises Fatal for a stranger."""
        record = self.record()
        if record is None:
            raise Fatal(RUNTIME, f"{self.name} is no operator: `labora validator register` comes first")
        return record

    def serving(self) -> dict[bytes, int]:
        """Model -> declared multiply-adds a block."""
        (rows,) = abi.GET_SERVING.decode_result(
            self.client.read_contract(MODELS, abi.GET_SERVING.encode_call(self.address))
        )
        return {bytes(row[0]): int(row[1]) for row in rows}

    def send(self, function: abi.Function, *arguments: Any, value: int = 0) -> "Done":
        """Call a system contract and wait. Raises Fatal with the chain's reason."""
        try:
            receipt = send(
                self.client, self.key, current_prices(self.client), function.account,
                function.encode_call(*arguments), value,
            )  # fmt: skip
        except RpcFailure as failure:
            raise Fatal(RUNTIME, f"{function.name} was refused: {refusal(failure)}") from failure
        return Done(function.name, self.name, receipt)


@dataclass(frozen=True)
class Done:
    """A transaction that succeeded."""

    action: str
    operator: str
    receipt: dict[str, Any]

    @property
    def block(self) -> int:
        return int(self.receipt["blockNumber"], 16)

    def event(self, wanted: abi.Event) -> dict[str, Any]:
        """The values of the event that it logged."""
        return logged(self.receipt, wanted)

    def told(self, lines: Sequence[str], **values: Any) -> "Report":
        """What to print of it."""
        transaction = self.receipt["transactionHash"]
        same = {
            "action": self.action, "operator": self.operator, "transaction": transaction, "block": self.block,
            "gasUsed": int(self.receipt["gasUsed"], 16),
        }  # fmt: skip
        return Report((f"{self.action} in block {self.block}, transaction {transaction}", *lines), same | values)


@dataclass(frozen=True)
class Report:
    """What a command says: in lines, and as one object."""

    lines: tuple[str, ...]
    values: dict[str, Any]


def register(
    operator: Operator, folder: DataFolder, config: NodeConfig, bond: str | None, payout: str | None
) -> Report:
    """Staking.register with the bond (None: the least) and proofs of the folder's keys. Raises Fatal."""
    if missing := [f"{role}.json" for role in ROLES if not (folder.keys / f"{role}.json").exists()]:
        raise Fatal(
            CONFIGURATION,
            f"{folder.keys} has no {', '.join(missing)}: `labora init --validator` makes a folder with all keys "
            "(--data-dir names it)",
        )
    params, genesis_hash = own_chain(operator.client, folder)
    wei = params.bond_min if bond is None else parse_coins(bond)
    if wei < params.bond_min:
        raise Fatal(USAGE, f"a bond of {coins(wei)} coins is below this chain's least, {coins(params.bond_min)}")
    payout_address = _address(payout) if payout else operator.address
    if (known := operator.record()) is not None:
        raise Fatal(
            RUNTIME,
            f"{operator.name} is an operator already, with {coins(known['bond'])} coins: "
            f"`labora validator bond` adds to it; {NEXT_SERVE}",
        )
    have = operator.client.number("eth_getBalance", to_hex(operator.address), "latest")
    if have < wei:
        raise Fatal(RUNTIME, short_of(operator.name, have, wei))
    file = Path(config.passphrase_file) if config.passphrase_file else None
    secrets = read_node_keys(folder.keys, find_passphrase(file, folder.keys, ask_passphrase))
    arguments = registration(secrets, params, genesis_hash, operator.address, payout_address)
    done = operator.send(abi.REGISTER, *arguments, value=wei)
    epoch = params.epoch(done.block + 1) + 2  # an epoch turns before the transactions of its last block
    hot = keys.address_of(secrets.hot)
    hot_wei = operator.client.number("eth_getBalance", to_hex(hot), "latest")
    lines = [
        f"operator {operator.name}, bond {coins(wei)} coins, fees to {checksum(payout_address)}",
        f"it may vote from block {params.first_height(epoch)} on (epoch {epoch}), when its node runs",
    ]
    if not hot_wei:
        lines.append(f"the hot account {checksum(hot)} has no coins for gas: send it some (1 lasts long)")
    lines.append(f"next: {NEXT_SERVE}")
    return done.told(
        lines, bondWei=str(wei), consensusAddress=checksum(keys.address_of(secrets.consensus)), hot=checksum(hot),
        hotBalanceWei=str(hot_wei), payout=checksum(payout_address), votesFromEpoch=epoch,
        votesFromBlock=params.first_height(epoch),
    )  # fmt: skip


def registration(
    secrets: NodeKeys, params: ChainParams, genesis_hash: bytes, operator: bytes, payout: bytes
) -> tuple[Any, ...]:
    """Arguments of Staking.register: every key with its proof over the operator's statement (docs/formats.md)."""
    by_role = {"consensus": secrets.consensus, "beacon": secrets.beacon, "node": secrets.node, "hot": secrets.hot}
    public = public_keys(by_role)

    def said(role: Role) -> bytes:
        return statement(params, genesis_hash, operator, role)

    return (
        public["consensus"],
        keys.sign(said(Role.CONSENSUS), secrets.consensus),
        public["beacon"],
        bls.prove_possession(secrets.beacon, said(Role.BEACON)),
        public["node"],
        public["hot"],
        keys.sign(said(Role.HOT), secrets.hot),
        payout,
    )


def bond(operator: Operator, amount: str) -> Report:
    """Add to the bond."""
    wei = parse_coins(amount)
    operator.require()
    done = operator.send(abi.BOND, value=wei)
    total = done.event(abi.BONDED)["bond"]
    return done.told([f"the bond is now {coins(total)} coins"], amountWei=str(wei), bondWei=str(total))


def unbond(operator: Operator, amount: str | None) -> Report:
    """Begin to take back a part of the bond, or all of it (None)."""
    record = operator.require()
    wei = record["bond"] if amount is None else parse_coins(amount)
    if not record["bond"]:
        raise Fatal(RUNTIME, f"{operator.name} has no bond: nothing to unbond")
    if wei > record["bond"]:
        raise Fatal(RUNTIME, f"{operator.name} has a bond of {coins(record['bond'])} coins, not {coins(wei)}")
    done = operator.send(abi.UNBOND, wei)
    event = done.event(abi.UNBONDED)
    release = event["releaseBlock"]
    lines = [f"{coins(wei)} coins leave in block {release}; {coins(event['bond'])} stay bonded"]
    if not event["bond"]:
        lines.append("it votes until the sets that are fixed already have ended: keep its node running for two epochs")
    lines.append(f"`labora validator withdraw` fetches them from block {release} on")
    return done.told(lines, amountWei=str(wei), bondWei=str(event["bond"]), releaseBlock=release)


def withdraw(operator: Operator) -> Report:
    """Fetch what has finished unbonding."""
    operator.require()
    (queue,) = abi.UNBONDINGS.decode_result(
        operator.client.read_contract(STAKING, abi.UNBONDINGS.encode_call(operator.address))
    )
    if not queue:
        raise Fatal(RUNTIME, f"{operator.name} is unbonding nothing: `labora validator unbond` begins it")
    head = operator.client.number("eth_blockNumber")
    amount, release, _ = queue[0]
    if release > head + 1:
        raise Fatal(RUNTIME, f"nothing to withdraw yet: {coins(amount)} coins leave in block {release}, now is {head}")
    done = operator.send(abi.WITHDRAW)
    wei = done.event(abi.WITHDRAWN)["amount"]
    return done.told([f"{coins(wei)} coins are back in {operator.name}"], amountWei=str(wei))


def serve(operator: Operator, folder: DataFolder, config: NodeConfig, model: str | None, rate: int | None) -> Report:
    """Models.serve at a rate in multiply-adds a block; None: what a short run on this machine shows. Raises Fatal."""
    operator.require()
    name, identifier = find_model(operator.client, model)
    declared = operator.serving().get(identifier)
    if declared is not None and rate in (None, declared):
        raise Fatal(
            RUNTIME,
            f"{operator.name} serves {name} already, at {declared} multiply-adds a block: --macs-per-block N changes "
            f"the rate, `labora validator stop-serving` ends it",
        )
    _require_checked(operator.client, identifier, name)
    lines, values = [f"{operator.name} serves {name} (0x{identifier.hex()})"], {}
    if rate is None:
        params, _ = own_chain(operator.client, folder)
        per_second = measure(operator.client, identifier, folder, config)
        rate = declared_rate(params, per_second)
        lines.append(
            f"this machine does {per_second:,} multiply-adds a second; declared is a part in {1 + params.auditors}, "
            f"for {params.auditors} others check each task"
        )
        values["measuredMacsPerSecond"] = str(per_second)
    done = operator.send(abi.SERVE, identifier, rate)
    lines.append(f"declared {rate:,} multiply-adds a block")
    return done.told(lines, model=to_hex(identifier), name=name, macsPerBlock=str(rate), **values)


def stop_serving(operator: Operator, model: str | None) -> Report:
    """Models.stopServing; the model may be left out when only one is served."""
    operator.require()
    served = operator.serving()
    if not served:
        raise Fatal(RUNTIME, f"{operator.name} serves no model")
    if model is None and len(served) > 1:
        listed = ", ".join(to_hex(identifier) for identifier in served)
        raise Fatal(USAGE, f"{operator.name} serves {len(served)} models: choose one with --model: {listed}")
    name, identifier = find_model(operator.client, to_hex(next(iter(served))) if model is None else model)
    if identifier not in served:
        raise Fatal(RUNTIME, f"{operator.name} does not serve {name}")
    done = operator.send(abi.STOP_SERVING, identifier)
    line = f"{operator.name} serves {name} until the epoch after next; what it is dealt and drawn for till then is owed"
    return done.told([line], model=to_hex(identifier), name=name)


def _require_checked(client: Client, model: bytes, name: str) -> None:
    """Who declares a model must hold it: the node that is asked says whether it is there and its check has passed.
    Raises Fatal."""
    rows = {row["model"]: row for row in client.call("labora_localModels")}
    row = rows.get(to_hex(model))
    if row is None:
        hint = f"`labora model fetch {to_hex(model)}` brings it"
        raise Fatal(RUNTIME, f"the node at {client.url} does not hold {name}: {hint}")
    if row["state"] != "ready":
        why = f" ({row['reason']})" if row["reason"] else ""
        raise Fatal(RUNTIME, f"on the node at {client.url} {name} is {row['state']}{why}: only ready ones are served")
    registered = next(each for each in client.call("labora_models") if each["model"] == to_hex(model))
    manifest = decode_manifest(client.call("labora_modelManifest", to_hex(model)).encode("ascii"))
    record, root = from_hex(registered["record"]), from_hex(registered["programRoot"])
    if Claims(record, root, tuple(registered["stopIds"])) != claims_of(manifest):
        said = "its record, program root or stop ids on the chain are not those of its manifest"
        raise Fatal(RUNTIME, f"{name} cannot be served: {said}, so that no dispute about it could be won")


def own_chain(client: Client, folder: DataFolder) -> tuple[ChainParams, bytes]:
    """Parameters and genesis hash of the folder's chain, which is the node's. Raises Fatal when it is another."""
    try:
        spec = load_spec(folder.genesis)
        genesis_hash = build_genesis(spec).block.hash
    except InvalidSpec as error:
        raise Fatal(CONFIGURATION, f"{error}; `labora init` makes a node's folder (--data-dir names it)") from error
    found = from_hex(client.call("eth_getBlockByNumber", "0x0", False)["hash"])
    if found != genesis_hash:
        raise Fatal(
            WRONG_CHAIN,
            f"{client.url} is on the chain 0x{found.hex()}, {folder.root} on 0x{genesis_hash.hex()}: --rpc or "
            f"--data-dir names the wrong one",
        )
    return spec.params, genesis_hash


def declared_rate(params: ChainParams, per_second: int) -> int:
    """Multiply-adds a block of a machine that does so many a second. A task that is executed once is checked k times:
    of a machine's time 1 part in k + 1 goes to executing."""
    return max(1, per_second * params.block_interval_ms // 1000 // (1 + params.auditors))


def measure(
    client: Client, model: bytes, folder: DataFolder, config: NodeConfig, option: str = "--macs-per-block"
) -> int:
    """Multiply-adds a second of the configured engine on a model that this node holds. option: of the command, which
    says the speed instead."""
    from node.store import ModelStore

    hint = f"or say {option}"
    path = ModelStore(folder.models, config.model_quota_mib).folder_of(model)
    if path is None:
        where = f"model {to_hex(model)} is not in {folder.models}"
        raise Fatal(CONFIGURATION, f"{where}: --data-dir names the node's folder, {hint}")
    (values,) = abi.GET_MODEL.decode_result(client.read_contract(MODELS, abi.GET_MODEL.encode_call(model)))
    facts = abi.MODEL.named(values)
    if facts["encoder"]:
        raise Fatal(USAGE, f"{facts['name']} writes no text, by which speed is measured: say {option}")
    cost = ModelCost(facts["a"], facts["b"], facts["c"], facts["auditWeightNum"], facts["auditWeightDen"])
    return measure_folder(path, cost, facts["vocabulary"], facts["context"], facts["stopIds"], config, hint)


def measure_folder(
    path: Path, cost: ModelCost, vocabulary: int, context: int, stops: Sequence[int], config: NodeConfig, hint: str
) -> int:
    """Multiply-adds a second of the configured engine on this machine, the process started as the node starts it."""
    import trio

    from node import logs
    from node.worker import WorkerFailed, WorkerUnfit, worker_config

    if config.engine == "none":
        raise Fatal(CONFIGURATION, f"engine = none: this node runs no models; choose another engine, {hint}")
    tokens = min(MEASURE_TOKENS, context // 2)
    allowed = [token for token in range(min(vocabulary, 256)) if token not in stops]
    prompt = [allowed[i % len(allowed)] for i in range(tokens)]
    one = replace(worker_config(path, config), ray_workers=1)
    logs.set_up("error", config.log_format)
    try:
        return trio.run(_measure, one, cost, prompt, tokens)
    except (WorkerFailed, WorkerUnfit) as error:
        raise Fatal(RUNTIME, f"the model does not run on this machine: {error}") from error


async def _measure(config: Any, cost: ModelCost, prompt: list[int], tokens: int) -> int:
    """Runs until enough time was spent on the model; the first warms up and is not counted."""
    import trio

    from node.worker import Worker, WorkerFailed, WorkerUnfit

    worker = Worker(config)
    spent_ms = macs = 0
    failure: WorkerFailed | WorkerUnfit | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, 1)
        try:
            for number in range(MEASURE_RUNS_MAX + 1):
                # Another prompt each time: a beginning that was seen before costs nothing.
                answer = await worker.ask({
                    "op": "make", "kind": "generate", "prompt": prompt[number:] + prompt[:number],
                    "max_tokens": tokens, "temperature_q16": 1 << 16, "top_k": 0,
                    "seed": number.to_bytes(32, "big"), "trace_key": bytes(32),
                })  # fmt: skip
                if number:
                    spent_ms += max(1, answer["total_ms"])
                    macs += cost.execution(Kind.GENERATE, len(prompt), len(answer["tokens"]))
                if spent_ms >= MEASURE_SECONDS * 1000:
                    break
        except (WorkerFailed, WorkerUnfit) as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return macs * 1000 // spent_ms


def parse_coins(text: str) -> int:
    """Wei of an amount in coins, exact. Raises Fatal (2)."""
    match = AMOUNT.fullmatch(text)
    wei = 0 if match is None else int(match[1]) * COIN + int((match[2] or "").ljust(18, "0"))
    if not wei:
        raise Fatal(USAGE, f"{text!r} is no amount in coins: digits, at most 18 after the point, more than 0")
    return wei


def _address(text: str) -> bytes:
    try:
        return parse(text)
    except InvalidAddress as error:
        raise Fatal(USAGE, f"--payout: {error}") from error
