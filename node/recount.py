"""labora receipts verify: every receipt of a range recomputed from the chain's own data, over JSON-RPC alone.

Owns what must follow from what: hashes from tokens, work and bytes from the model's cost formula, commitments from the
revealed root, the seed from the beacon, every wei from the price, the id from the fields, an epoch's root from its ids.
Nothing that a receipt says is taken for its own proof, but the times and the device, which are self-reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import eth_abi

from consensus.work import fees
from node.client import Client, from_hex, to_hex
from node.exits import RUNTIME, Fatal
from node.receipts import Account, Progress, Seen, accounts, height_of
from primitives import merkle
from primitives.address import LEDGER, MODELS
from primitives.hashing import keccak
from primitives.params import ChainParams, params_from_json
from primitives.rlp import decode_list
from primitives.task import (
    NO_BAD_POSITION,
    Kind,
    ModelCost,
    Status,
    decode_texts,
    execution_commitment,
    sampling_seed,
    trap_root,
    verdict_commitment,
)
from rpc.task_story import cwu_text
from vm.system import abi, market_gas

RECEIPT_TYPES = [param.canonical for param in abi.RECEIPT.params if param.name != "receipt"]
RECEIPT_NAMES = [param.name for param in abi.RECEIPT.params if param.name != "receipt"]
HEADERS_KEPT = 4_096


class Difference(Fatal):
    """A receipt that does not follow from the chain's data: which, in what, what it says and what it should say."""

    def __init__(self, what: str, place: str, claimed: Any, recomputed: Any) -> None:
        super().__init__(RUNTIME, f"{place}: {what} is {claimed}, but {recomputed} follows from the chain")
        self.what, self.place, self.claimed, self.recomputed = what, place, claimed, recomputed

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        same = {"place": self.place, "what": self.what}
        return {**same, "claimed": str(self.claimed), "recomputed": str(self.recomputed)}


@dataclass
class Recount:
    """What was recomputed."""

    first: int
    last: int
    receipts: int = 0
    epochs: int = 0
    macs: int = 0
    fees_wei: int = 0

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "ok": True, "from": self.first, "to": self.last, "receipts": self.receipts, "epochs": self.epochs,
            "cwu": cwu_text(self.macs), "feesWei": str(self.fees_wei),
        }  # fmt: skip


def verify(client: Client, first: int, last: int | None, progress: Progress | None = None) -> Recount:
    """Recompute every receipt of the blocks first..last (None: the head), and the root of every epoch that the range
    holds whole. Raises Difference at the first that does not follow; Fatal when the node lacks something."""
    facts = Facts(client, height_of(client) if last is None else last)
    found = Recount(first, facts.last)
    by_epoch: dict[int, list[bytes]] = {}
    for account in accounts(client, first, facts.last, progress):
        check(account, facts)
        by_epoch.setdefault(facts.params.epoch(account.block), []).append(account.receipt["receipt"])
        found.receipts += 1
        found.macs += account.receipt["prefillMacs"] + account.receipt["decodeMacs"]
        found.fees_wei += account.receipt["fee"]
    for epoch in _whole_epochs(facts.params, first, facts.last):
        _check_epoch(facts, epoch, by_epoch.get(epoch, []))
        found.epochs += 1
    if first <= 1:
        _check_totals(facts, found)
    return found


class Facts:
    """What the chain says beside logs, asked once; of the state after block `last`."""

    def __init__(self, client: Client, last: int) -> None:
        self.client = client
        self.last = last
        self._headers: dict[int, dict[str, Any]] = {}
        self._models: dict[bytes, ModelCost] = {}

    @cached_property
    def params(self) -> ChainParams:
        """The chain's parameters, whose hash stands in the sidecar that the last header commits to. Raises
        Difference."""
        told = self.client.call("labora_parameters")
        params = params_from_json({name: int(value) for name, value in told["parameters"].items()})
        block = self.client.call("labora_certificate", hex(self.last))
        sidecar, header = from_hex(block["sidecar"]), decode_list(from_hex(block["header"]))
        _same("sidecar", f"block {self.last}", header[12], keccak(sidecar))
        _same("parameters", f"block {self.last}", decode_list(sidecar)[6], params.hash)
        return params

    def header(self, number: int) -> dict[str, Any]:
        """A block's header fields as JSON-RPC has them."""
        if number not in self._headers:
            if len(self._headers) >= HEADERS_KEPT:
                self._headers.clear()
            self._headers[number] = self.client.call("eth_getBlockByNumber", hex(number), False)
        return self._headers[number]

    def cost(self, model: bytes) -> ModelCost:
        """A model's cost formula: registered once, never changed."""
        if model not in self._models:
            (values,) = self._view(MODELS, abi.GET_MODEL, model)
            facts = abi.MODEL.named(values)
            self._models[model] = ModelCost(
                facts["a"], facts["b"], facts["c"], facts["auditWeightNum"], facts["auditWeightDen"]
            )
        return self._models[model]

    def receipt_id(self, task: bytes) -> bytes:
        """What the state keeps of a task's receipt; zeros when it is folded into its epoch's root."""
        (found,) = self._view(LEDGER, abi.GET_RECEIPT, task)
        return bytes(found)

    def epoch_root(self, epoch: int) -> tuple[bytes, int]:
        """Root and number of an epoch's receipts."""
        root, count = self._view(LEDGER, abi.RECEIPTS_ROOT, epoch)
        return bytes(root), count

    def totals(self) -> dict[str, Any]:
        """The Ledger's sums since genesis."""
        (values,) = self._view(LEDGER, abi.GET_TOTALS)
        return abi.TOTALS.named(values)

    def _view(self, account: bytes, function: abi.Function, *arguments: Any) -> tuple[Any, ...]:
        call = {"to": to_hex(account), "data": to_hex(function.encode_call(*arguments))}
        return function.decode_result(from_hex(self.client.call("eth_call", call, hex(self.last))))


def check(account: Account, facts: Facts) -> None:
    """One receipt against everything that it follows from. Raises Difference."""
    receipt = account.receipt
    place = f"task {to_hex(account.task)} (receipt in block {account.block})"

    def same(what: str, claimed: Any, recomputed: Any) -> None:
        _same(what, place, claimed, recomputed)

    identity = keccak(eth_abi.encode(RECEIPT_TYPES, [receipt[name] for name in RECEIPT_NAMES]))
    same("receipt", receipt["receipt"], identity)
    if account.all(abi.TOLERANT_PAID):
        _check_tolerant(account, facts.params, same, place)
        return
    posted, first_deal = (_first(account, event, place) for event in (abi.TASK_POSTED, abi.TASK_DEALT))
    answered, dealt, settled = (
        _one(account, event, place) for event in (abi.TASK_ANSWERED, abi.TASK_DEALT, abi.TASK_SETTLED)
    )
    asked, said, end = posted.values, answered.values, settled.values
    commissioned = any(seen.name == abi.TASK_COMMISSIONED.name for seen in account.events)
    paid_by = abi.CLASS_COMMISSIONED if commissioned else abi.CLASS_PAID
    same("class", receipt["class"], abi.CLASS_CANARY if asked["canary"] else paid_by)
    same("lane", receipt["lane"], abi.LANE_EXACT)
    for name, of in (("kind", "kind"), ("model", "model"), ("payer", "poster"), ("pricePerCwu", "pricePerCwu")):
        same(name, receipt[name], asked[of])
    prompt, output = asked["tokens"], said["tokens"]
    same("promptHash", receipt["promptHash"], _tokens_hash(prompt))
    same("promptTokens", receipt["promptTokens"], len(prompt) // 4)
    same("outputHash", receipt["outputHash"], _tokens_hash(output))
    same("outputTokens", receipt["outputTokens"], len(output) // 4)
    for name in ("queueMs", "firstTokenMs", "totalMs", "device"):
        same(f"{name} (self-reported)", receipt[name], said[name])
    mix = from_hex(facts.header(first_deal.block)["mixHash"])
    same("seed", receipt["seed"], sampling_seed(mix, account.task))
    same("executor", receipt["executor"], said["executor"])
    if receipt["executor"] not in dealt.values["slots"]:
        raise Difference("executor", place, receipt["executor"], f"one of {dealt.values['slots']}")
    _check_verification(account, said, same, place)
    _check_work(account, facts, posted, end, same)


def _check_tolerant(account: Account, params: ChainParams, same: Any, place: str) -> None:
    """Of the tolerant lane: what was asked and said, and that it claims no work, no check and no other price."""
    receipt = account.receipt
    asked, said, end = (
        _one(account, event, place).values
        for event in (abi.TOLERANT_ASKED, abi.TOLERANT_ANSWERED, abi.TOLERANT_PAID)
    )
    accepted = account.last(abi.TOLERANT_ACCEPTED) is not None
    texts, prompt = decode_texts(said["tokens"]), asked["prompt"].encode()
    fee = asked["weiPerPromptByte"] * len(prompt) + asked["weiPerToken"] * len(texts)
    nothing = ("prefillMacs", "decodeMacs", "prefillBytes", "decodeBytes", "pricePerCwu", "firstTokenMs")
    expected = {
        **dict.fromkeys(nothing, 0), "class": abi.CLASS_PAID, "lane": abi.LANE_TOLERANT, "kind": Kind.GENERATE,
        "model": keccak(asked["model"].encode()), "promptHash": keccak(prompt),
        "outputHash": keccak("".join(texts).encode()), "seed": asked["seed"], "promptTokens": len(prompt),
        "outputTokens": len(texts), "verifiers": (), "outcome": abi.OUTCOME_UNVERIFIED, "root": bytes(32), "fee": fee,
        "verification": abi.VERIFIED_ACCEPTED if accepted else abi.VERIFIED_NONE, "payer": asked["asker"],
        "executor": asked["executor"], "queueMs": said["queueMs"], "totalMs": said["totalMs"], "device": b"",
    }  # fmt: skip
    for name, value in expected.items():
        same(name, receipt[name], value)
    burned = fee * params.fee_burn_percent // 100
    same("receipt that was paid", end["receipt"], receipt["receipt"])
    same("accepted", end["accepted"], accepted)
    same("paid fee", end["fee"], fee)
    same("executor's pay", end["executorWei"], fee - burned)
    same("burned", end["burnedWei"], burned)
    same("back to the payer", end["refundedWei"], asked["escrow"] - fee)


def _check_verification(account: Account, said: dict[str, Any], same: Any, place: str) -> None:
    """Verifiers were drawn, committed before the reveal, and their commitments open to the receipt's root."""
    receipt = account.receipt
    verifiers = tuple(receipt["verifiers"])
    agreed = account.last(abi.TASK_AGREED)
    expected = tuple(agreed.values["verifiers"]) if agreed is not None and verifiers else ()
    same("verifiers", verifiers, expected)
    same("verification", receipt["verification"], abi.VERIFIED_AUDIT if verifiers else abi.VERIFIED_NONE)
    if not verifiers:
        same("outcome", receipt["outcome"], abi.OUTCOME_UNVERIFIED)
        same("root", receipt["root"], bytes(32))
        return
    contradicted = bool(account.all(abi.TASK_DISPUTED))
    same("outcome", receipt["outcome"], abi.OUTCOME_UPHELD if contradicted else abi.OUTCOME_AGREED)
    root, task = receipt["root"], account.task
    executor = from_hex(receipt["executor"])
    sprung = account.last(abi.TRAP_SPRUNG)
    committed_to = root if sprung is None else trap_root(sprung.values["salt"], root)
    same("executor's commitment", said["commitment"], execution_commitment(task, executor, committed_to))
    drawn = {verifier for seen in account.all(abi.AUDIT_DRAWN) for verifier in seen.values["verifiers"]}
    committed = {
        seen.values["verifier"]: seen.values["commitment"] for seen in account.all(abi.VERDICT_COMMITTED)
    }
    for verifier in verifiers:
        if verifier not in drawn:
            raise Difference("verifier", place, verifier, f"one of {sorted(drawn)}")
        opened = verdict_commitment(task, from_hex(verifier), NO_BAD_POSITION, root)
        same(f"verdict of {verifier}", committed.get(verifier), opened)


def _check_work(account: Account, facts: Facts, posted: Seen, end: dict[str, Any], same: Any) -> None:
    """Work and bytes by the formula, and every wei from the price."""
    receipt, kind, asked = account.receipt, Kind(account.receipt["kind"]), posted.values
    cost = facts.cost(receipt["model"])
    prompt, length = receipt["promptTokens"], receipt["outputTokens"]
    same("prefillMacs", receipt["prefillMacs"], cost.prefill(prompt))
    same("decodeMacs", receipt["decodeMacs"], cost.decode(kind, prompt, length))
    same("prefillBytes", receipt["prefillBytes"], cost.prefill_bytes(prompt))
    same("decodeBytes", receipt["decodeBytes"], cost.decode_bytes(kind, prompt, length))
    verified = bool(receipt["verifiers"])
    same("settled as", end["status"], Status.SETTLED if verified else Status.UNVERIFIED)
    same("settled work", end["macs"], cost.execution(kind, prompt, length))
    base_fee = int(facts.header(posted.block)["baseFeePerGas"], 16)
    canary = asked["canary"]
    longest = 0  # only escrow_of reads it, and the escrow is on record
    prices = asked["pricePerCwu"], base_fee, asked["auditors"], asked["tipPerCwu"]
    terms = fees.Terms(cost, kind, prompt, longest, *prices)
    revealed = any(receipt["executor"] in seen.values["opened"] for seen in account.all(abi.REVEALED))
    escrow = 2**128 if canary else asked["escrow"] - fees.callback_part(asked["callbackGas"], base_fee)
    split = fees.settle(
        terms, market_gas.WORK_PAID, facts.params, escrow, length, len(receipt["verifiers"]), revealed
    )
    same("fee", receipt["fee"], split.fee)
    same("settled fee", end["fee"], split.fee)
    same("executor's pay", end["executorWei"], 0 if canary else split.executor)
    same("burned", end["burnedWei"], split.burned)
    same("back to the payer", end["refundedWei"], 0 if canary else split.refund)
    same("receipt that settled", end["receipt"], receipt["receipt"])
    if not canary:
        same("sum of payments", account.paid_wei, escrow - split.refund)


def _check_epoch(facts: Facts, epoch: int, ids: list[bytes]) -> None:
    """The root that the turn fixed is that of the receipts in order."""
    root, count = facts.epoch_root(epoch)
    _same("number of receipts", f"epoch {epoch}", count, len(ids))
    _same("root of receipts", f"epoch {epoch}", root, merkle.root(ids) if ids else bytes(32))


def _check_totals(facts: Facts, found: Recount) -> None:
    """Over a whole history: the Ledger's own sums."""
    totals = facts.totals()
    place = f"totals at block {facts.last}"
    _same("receipts", place, totals["settled"] + totals["unverified"] + totals["tolerant"], found.receipts)
    macs = totals["macsPaid"] + totals["macsCommissioned"] + totals["macsCanary"]
    _same("work", place, macs, found.macs)


def _whole_epochs(params: ChainParams, first: int, last: int) -> Iterator[int]:
    for epoch in range(params.epoch(max(1, first)), params.epoch(max(1, last)) + 1):
        if params.first_height(epoch) >= first and params.first_height(epoch + 1) - 1 <= last:
            yield epoch


def _one(account: Account, event: abi.Event, place: str) -> Seen:
    """The last event of a kind in the task's last attempt."""
    seen = account.last(event)
    if seen is None:
        raise Difference(event.name, place, "missing", "one event")
    return seen


def _first(account: Account, event: abi.Event, place: str) -> Seen:
    """The first event of a kind in the task's whole story."""
    seen = next((seen for seen in account.events if seen.name == event.name), None)
    if seen is None:
        raise Difference(event.name, place, "missing", "one event")
    return seen


def _tokens_hash(packed: bytes) -> bytes:
    step = 4 * merkle.TOKENS_CHUNK
    return merkle.root([packed[i : i + step] for i in range(0, len(packed), step)])


def _same(what: str, place: str, claimed: Any, recomputed: Any) -> None:
    if claimed != recomputed:
        raise Difference(what, place, _shown(claimed), _shown(recomputed))


def _shown(value: Any) -> Any:
    return to_hex(value) if isinstance(value, bytes) else value
