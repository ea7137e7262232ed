"""Compute receipts read from a chain: the settled tasks of a range of blocks, with the logs of how each came about.

Knows JSON-RPC's eth_getLogs and the events of the Market, Tolerant and the Ledger; what a receipt must say is recount's
question, what its fields mean docs/receipts.md's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from node.client import Client, RpcFailure, from_hex, to_hex
from node.exits import RUNTIME, Fatal
from primitives.address import LEDGER, MARKET, TOLERANT
from primitives.task import Kind
from rpc.codec import address
from rpc.task_story import cwu_text
from vm.system import abi

BLOCKS_A_QUERY = 500
LOOK_BACK_BLOCKS = 10_000
"""Of one query for the beginning of a task that was posted before the range."""
TOO_MUCH = -32005
"""JSON-RPC code of a query that finds more than a node gives at once."""
VERSION = "labora-receipt-1"
CLASSES = ("paid", "commissioned", "canary")
LANES = ("exact", "tolerant")
METHODS = ("none", "recomputed", "unsampled", "accepted")
OUTCOMES = ("unverified", "agreed", "upheld")
BEGAN = (abi.TASK_POSTED.name, abi.TOLERANT_ASKED.name)
ENDED = (abi.TASK_SETTLED, abi.TOLERANT_PAID)
"""The last log of a task that leaves a receipt."""
RETURNED = (abi.TASK_REFUNDED, abi.TOLERANT_REFUSED, abi.TOLERANT_UNANSWERED)
"""The last log of one that leaves none."""

Progress = Callable[[int, int], None]
"""(blocks read, of so many)."""


@dataclass(frozen=True)
class Seen:
    """One event and its block."""

    name: str
    block: int
    values: dict[str, Any]


@dataclass
class Account:
    """A settled task: its receipt's fields by name, where they stand, and everything logged of it before."""

    receipt: dict[str, Any]
    block: int
    events: list[Seen] = field(default_factory=list)

    @property
    def task(self) -> bytes:
        return bytes(self.receipt["task"])

    @property
    def is_tolerant(self) -> bool:
        """Of the tolerant lane: nothing of it was verified."""
        return bool(self.receipt["lane"] == abi.LANE_TOLERANT)

    @property
    def attempt(self) -> list[Seen]:
        """What happened from the deal on that led to the answer: what was refuted before is another story."""
        dealt = [place for place, seen in enumerate(self.events) if seen.name == abi.TASK_DEALT.name]
        return self.events[dealt[-1] if dealt else 0 :]

    @property
    def paid_wei(self) -> int:
        """What left the payer for good when the task settled (a callback's gas is apart); 0 of a canary."""
        if self.receipt["class"] == abi.CLASS_CANARY:
            return 0
        if self.is_tolerant:
            return sum(seen.values["executorWei"] + seen.values["burnedWei"] for seen in self.all(abi.TOLERANT_PAID))
        payments = [seen for seen in self.all(abi.PAID) if seen.block == self.block]
        burned = sum(seen.values["burnedWei"] for seen in self.all(abi.TASK_SETTLED))
        return burned + sum(seen.values["amount"] for seen in payments)

    def all(self, event: abi.Event) -> list[Seen]:
        """Events of one kind in its last attempt, in order; its post and first deal stand in `events`."""
        return [seen for seen in self.attempt if seen.name == event.name]

    def last(self, event: abi.Event) -> Seen | None:
        """The last one of a kind."""
        found = self.all(event)
        return found[-1] if found else None


def accounts(client: Client, first: int, last: int, progress: Progress | None = None) -> Iterator[Account]:
    """Every task that settled in the blocks first..last, in the order of their receipts."""
    open_tasks: dict[bytes, list[Seen]] = {}
    done: dict[bytes, Account] = {}
    for block, event, values in _logs(client, first, last, progress):
        task = values.get("task")
        if task is None:
            continue
        events = open_tasks.setdefault(task, [])
        events.append(Seen(event.name, block, values))
        if event is abi.RECEIPT:
            done[task] = Account(values, block, events)
        elif event in ENDED:
            account = done.pop(task, None)
            del open_tasks[task]
            if account is None:
                raise Fatal(RUNTIME, f"task {to_hex(task)} settled in block {block} and left no receipt")
            if not any(seen.name in BEGAN for seen in account.events):
                account.events[:0] = _before(client, task, first - 1)
            yield account
        elif event in RETURNED:
            del open_tasks[task]
    for account in done.values():
        raise Fatal(RUNTIME, f"task {to_hex(account.task)} has a receipt in block {account.block} and did not settle")


def account_of(client: Client, task: bytes) -> Account:
    """One settled task. Raises Fatal when it is unknown or has no receipt."""
    story = client.call("labora_task", to_hex(task))
    if story is None:
        raise Fatal(RUNTIME, f"the chain at {client.url} knows no task {to_hex(task)}")
    if not story["receiptId"]:
        raise Fatal(RUNTIME, f"task {to_hex(task)} is {story['status']}: only settled tasks leave a receipt")
    settled = story["settledBlock"]
    found = [account for account in accounts(client, settled, settled) if account.task == task]
    if len(found) != 1:
        raise Fatal(RUNTIME, f"block {settled} has no receipt of task {to_hex(task)}")
    return found[0]


def height_of(client: Client) -> int:
    """Number of the head."""
    return client.number("eth_blockNumber")


def time_of(client: Client, block: int) -> int:
    """A block's timestamp, seconds."""
    return int(client.call("eth_getBlockByNumber", hex(block), False)["timestamp"], 16)


def as_json(account: Account) -> dict[str, Any]:
    """The receipt as docs/receipt.schema.json has it: big numbers are decimal strings, hashes and addresses hex."""
    r = account.receipt
    prefill, decode = r["prefillMacs"], r["decodeMacs"]
    return {
        "version": VERSION,
        "receipt": to_hex(r["receipt"]),
        "task": to_hex(r["task"]),
        "block": account.block,
        "class": CLASSES[r["class"]],
        "lane": LANES[r["lane"]],
        "kind": Kind(r["kind"]).name.lower(),
        "model": to_hex(r["model"]),
        "promptHash": to_hex(r["promptHash"]),
        "outputHash": to_hex(r["outputHash"]),
        "seed": to_hex(r["seed"]),
        "promptTokens": r["promptTokens"],
        "outputTokens": r["outputTokens"],
        "cwu": {"prefill": cwu_text(prefill), "decode": cwu_text(decode), "total": cwu_text(prefill + decode)},
        "macs": {"prefill": str(prefill), "decode": str(decode)},
        "bytesMoved": {"prefill": str(r["prefillBytes"]), "decode": str(r["decodeBytes"])},
        "executor": _checksummed(r["executor"]),
        "verifiers": [_checksummed(verifier) for verifier in r["verifiers"]],
        "verification": {
            "method": METHODS[r["verification"]], "outcome": OUTCOMES[r["outcome"]], "traceRoot": to_hex(r["root"]),
        },
        "price": {"weiPerCwu": str(r["pricePerCwu"]), "feeWei": str(r["fee"])},
        "payer": _checksummed(r["payer"]),
        "selfReported": {
            "queueMs": r["queueMs"], "firstTokenMs": r["firstTokenMs"], "totalMs": r["totalMs"],
            "device": to_hex(r["device"]),
        },
    }  # fmt: skip


def line(account: Account) -> str:
    """A receipt in a line."""
    r = account.receipt
    cwu = cwu_text(r["prefillMacs"] + r["decodeMacs"])
    kind = Kind(r["kind"]).name.lower()
    return (
        f"{account.block:>8}  {to_hex(r['task'])}  {CLASSES[r['class']]:<12}{LANES[r['lane']]:<9}{kind:<9}{cwu:>16}"
        f"{OUTCOMES[r['outcome']]:>12}  {r['fee']} wei"
    )


def _checksummed(text: str) -> str:
    return address(from_hex(text))


def _logs(
    client: Client, first: int, last: int, progress: Progress | None
) -> Iterator[tuple[int, abi.Event, dict[str, Any]]]:
    """Events of the Market, Tolerant and the Ledger, in order; a query that finds too much is halved."""
    at, step = first, BLOCKS_A_QUERY
    while at <= last:
        end = min(last, at + step - 1)
        sources = [to_hex(each) for each in (MARKET, LEDGER, TOLERANT)]
        wanted = {"address": sources, "fromBlock": hex(at), "toBlock": hex(end)}
        try:
            found = client.call("eth_getLogs", wanted)
        except RpcFailure as failure:
            if failure.rpc_code != TOO_MUCH or step == 1:
                raise
            step = max(1, step // 2)
            continue
        yield from map(_decoded, found)
        if progress is not None:
            progress(end - first + 1, last - first + 1)
        at = end + 1


def _before(client: Client, task: bytes, last: int) -> list[Seen]:
    """What was logged of a task up to a block, back to its post. Raises Fatal when there is none."""
    found: list[Seen] = []
    while last >= 0:
        start = max(0, last - LOOK_BACK_BLOCKS + 1)
        wanted = {"address": [to_hex(MARKET), to_hex(TOLERANT)], "fromBlock": hex(start), "toBlock": hex(last)}
        logs = client.call("eth_getLogs", {**wanted, "topics": [None, to_hex(task)]})
        earlier = [Seen(event.name, block, values) for block, event, values in map(_decoded, logs)]
        found = earlier + found
        if any(seen.name in BEGAN for seen in earlier):
            return found
        last = start - 1
    raise Fatal(RUNTIME, f"no block holds the post of task {to_hex(task)}")


def _decoded(log: dict[str, Any]) -> tuple[int, abi.Event, dict[str, Any]]:
    topics = [from_hex(topic) for topic in log["topics"]]
    event = abi.EVENTS.get(topics[0]) if topics else None
    if event is None or to_hex(event.account) != log["address"].lower():
        raise Fatal(RUNTIME, f"block {log['blockNumber']}: {log['address']} logged what is no event of this release")
    try:
        values = event.decode(topics, from_hex(log["data"]))
    except abi.AbiError as error:
        raise Fatal(RUNTIME, f"block {log['blockNumber']}: a {event.name} that cannot be read: {error}") from error
    return int(log["blockNumber"], 16), event, values
