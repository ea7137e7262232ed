"""A task's whole story, told from the chain's logs alone: asked, dealt, done, checked, agreed, paid.

Reads logs through eth_getLogs and knows the events of vm.system.abi; any Ethereum library could do the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from inference import tokenizer
from node.client import Client, from_hex, to_hex
from node.exits import RUNTIME, Fatal
from primitives.address import LEDGER, MARKET
from primitives.merkle import unpack_tokens
from primitives.task import NO_BAD_POSITION, Status
from vm.system import abi

RANGE_BLOCKS = 10_000
"""Most blocks that a node searches in one eth_getLogs."""

FINAL = (Status.SETTLED, Status.REFUNDED, Status.UNVERIFIED, Status.DISPUTED)


@dataclass
class Story:
    """What the logs say. Blocks are None until they happened; addresses are bytes."""

    task: bytes
    model: bytes = b""
    poster: bytes = b""
    prompt: str = ""
    output: str = ""
    status: Status = Status.POSTED
    executor: bytes | None = None
    verifiers: list[bytes] = field(default_factory=list)
    posted_block: int | None = None
    answered_block: int | None = None
    agreed_block: int | None = None
    settled_block: int | None = None
    fee_wei: int | None = None
    macs: int | None = None
    receipt: bytes | None = None
    lines: list[str] = field(default_factory=list)
    """One sentence an event, in order."""
    devices: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, Any]:
        """The object that `labora task post --json` prints; `cwu` is a decimal text with nine digits."""
        return {
            "taskId": to_hex(self.task),
            "model": to_hex(self.model),
            "output": self.output,
            "status": self.status.name.lower(),
            "executor": address_text(self.executor),
            "verifiers": [address_text(verifier) for verifier in self.verifiers],
            "postedBlock": self.posted_block,
            "agreedBlock": self.agreed_block,
            "settledBlock": self.settled_block,
            "feeWei": None if self.fee_wei is None else str(self.fee_wei),
            "cwu": None if self.macs is None else cwu_text(self.macs),
            "receiptId": None if self.receipt is None else to_hex(self.receipt),
        }


def read_story(client: Client, task: bytes, posted_block: int | None = None) -> Story:
    """Everything that the chain has logged about a task. Raises Fatal when it knows none.

    posted_block: where the search begins, if known; else the chain is searched backwards.
    """
    head = client.number("eth_blockNumber")
    topic = to_hex(task)
    end = head
    logs: list[dict[str, Any]] = []
    while end >= 0:
        begin = max(0, end - RANGE_BLOCKS + 1) if posted_block is None else max(posted_block, end - RANGE_BLOCKS + 1)
        query = {"fromBlock": hex(begin), "toBlock": hex(end), "address": to_hex(MARKET), "topics": [None, topic]}
        found = client.call("eth_getLogs", query)
        logs = found + logs
        if any(from_hex(log["topics"][0]) == abi.TASK_POSTED.topic for log in found) or begin == (posted_block or 0):
            break
        end = begin - 1
    if not logs:
        raise Fatal(RUNTIME, f"the chain at {client.url} knows no task {topic}")
    story = Story(task)
    for log in logs:
        tell(story, log)
    if story.settled_block is not None:
        _add_receipt(client, story)
    return story


def tell(story: Story, log: dict[str, Any]) -> None:
    """Take one log of the Market into the story."""
    event = abi.EVENTS.get(from_hex(log["topics"][0]))
    if event is None:
        return
    values = event.decode([from_hex(topic) for topic in log["topics"]], from_hex(log["data"]))
    block = int(log["blockNumber"], 16)
    story.lines.extend(f"block {block:>5}  {line}" for line in _apply(story, event, values, block))


def _apply(story: Story, event: abi.Event, v: dict[str, Any], block: int) -> Iterator[str]:
    if event is abi.TASK_POSTED:
        story.posted_block, story.model = block, v["model"]
        story.poster = from_hex(v["poster"])
        story.prompt = tokenizer.decode(unpack_tokens(v["tokens"]))
        origin = "canary: made by the chain" if v["canary"] else f"asked by {short(v['poster'])}"
        yield f"{origin}, {len(v['tokens']) // 4} tokens in, at most {v['maxTokens']} out, escrow {coins(v['escrow'])}"
    elif event is abi.TASK_DEALT:
        story.status = Status.DEALT
        backups = ", ".join(short(slot) for slot in v["slots"][1:]) or "nobody"
        attempt = f" (attempt {v['attempt'] + 1})" if v["attempt"] else ""
        yield f"dealt to {short(v['executor'])} by this block's randomness{attempt}; backups {backups}"
    elif event is abi.DEAL_DELAYED:
        yield f"not dealt: {v['reason']}; tried again in block {v['againBlock']}"
    elif event is abi.TASK_MISSED:
        yield f"{short(v['operator'])} missed: {v['reason']}{'' if v['counted'] else ' (not counted against it)'}"
    elif event is abi.TASK_ANSWERED:
        story.status, story.answered_block = Status.ANSWERED, block
        story.executor = from_hex(v["executor"])
        tokens = unpack_tokens(v["tokens"])
        story.output = tokenizer.decode(tokens)
        device = v["device"].decode("utf-8", "replace") or "an unnamed device"
        story.devices.add(device)
        yield (
            f"done by {short(v['executor'])}: {len(tokens)} tokens in {v['totalMs']} ms on {device}"
            f" (first token {v['firstTokenMs']} ms, queued {v['queueMs']} ms; as it reports)"
        )
    elif event is abi.AUDIT_DRAWN:
        story.status = Status.DRAWN
        again = f" (redraw {v['round']})" if v["round"] else ""
        yield f"to be checked by {', '.join(map(short, v['verifiers'])) or 'nobody'}, drawn by randomness{again}"
    elif event is abi.VERDICT_COMMITTED:
        yield f"{short(v['verifier'])} did the work again and committed its verdict"
    elif event is abi.REVEAL_BEGAN:
        story.status = Status.REVEALING
        yield f"{v['verdicts']} verdicts are in: reveal"
    elif event is abi.REVEALED:
        bad = "" if v["bad"] == NO_BAD_POSITION else f", first bad position {v['bad']}"
        opened = ", ".join(map(short, v["opened"])) or "nothing"
        yield f"root {v['root'].hex()[:16]} revealed by {short(v['sender'])}{bad}; it opens {opened}"
    elif event is abi.TASK_AGREED:
        story.status, story.agreed_block = Status.AGREED, block
        story.verifiers = [from_hex(verifier) for verifier in v["verifiers"]]
        who = ", ".join(map(short, v["verifiers"])) or "not sampled"
        yield f"agreed, bit for bit: {who}; settles in {v['settlesBlock']}"
    elif event is abi.TASK_UNVERIFIED:
        story.status = Status.UNVERIFIED
        yield f"not verified: {v['reason']}; settles in {v['settlesBlock']}"
    elif event is abi.TASK_DISPUTED:
        story.status = Status.DISPUTED
        yield (
            f"DISPUTED: {short(v['executor'])} says {v['executorRoot'].hex()[:16]}, {short(v['verifier'])} says "
            f"{v['verifierRoot'].hex()[:16]}; the fee is frozen (the referee is not built yet)"
        )
    elif event is abi.PAID:
        roles = {abi.ROLE_EXECUTE: "for executing", abi.ROLE_AUDIT: "for checking", abi.ROLE_REVEAL: "for revealing"}
        yield f"paid {coins(v['amount'])} to {short(v['to'])} {roles.get(v['role'], 'back')}"
    elif event is abi.TASK_SETTLED:
        story.settled_block, story.receipt = block, v["receipt"]
        story.status = Status.UNVERIFIED if v["status"] == Status.UNVERIFIED else Status.SETTLED
        story.fee_wei, story.macs = v["fee"], v["macs"]
        story.executor = from_hex(v["executor"])
        yield (
            f"settled: fee {coins(v['fee'])} for {cwu_text(v['macs'])} CWU, executor {coins(v['executorWei'])}, burned "
            f"{coins(v['burnedWei'])}, back to the asker {coins(v['refundedWei'])}; receipt {v['receipt'].hex()[:16]}"
        )
    elif event is abi.TASK_REFUNDED:
        story.status, story.settled_block = Status.REFUNDED, None
        yield f"refunded {coins(v['amount'])} to the asker: {v['reason']}"
    elif event is abi.WORK_REFUSED:
        yield f"refused a message of {short(v['operator'])}: {v['text']} ({v['code']})"
    elif event is abi.ITEM_FAILED:
        yield f"failed in {v['step']}: {v['text']} ({v['code']})"


def _add_receipt(client: Client, story: Story) -> None:
    """Verifiers as the compute receipt names them."""
    block = hex(story.settled_block or 0)
    topics = [to_hex(abi.RECEIPT.topic), None, to_hex(story.task)]
    query = {"fromBlock": block, "toBlock": block, "address": to_hex(LEDGER), "topics": topics}
    for log in client.call("eth_getLogs", query):
        values = abi.RECEIPT.decode([from_hex(topic) for topic in log["topics"]], from_hex(log["data"]))
        story.verifiers = [from_hex(verifier) for verifier in values["verifiers"]]
        story.receipt = values["receipt"]


def address_text(address: bytes | None) -> str | None:
    """EIP-55 form."""
    from primitives.address import checksum

    return None if address is None else checksum(address)


def short(address: str) -> str:
    """The beginning of an address, enough to tell validators apart."""
    return f"{address[:8]}…"


def coins(wei: int) -> str:
    """An amount in whole units, exact to 10^-12."""
    micro = wei // 10**6
    return f"{micro // 10**12}.{micro % 10**12:012d}".rstrip("0").rstrip(".")


def cwu_text(macs: int) -> str:
    """Canonical work units with nine digits after the point."""
    return f"{macs // 10**9}.{macs % 10**9:09d}"
