"""A task's story in words: asked, dealt, done, checked, agreed, paid.

What happened is told by labora_task, from the chain's logs alone (rpc.task_story); here it becomes sentences.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inference.tokenizer import Tokenizer
from node.client import Client, from_hex, to_hex
from node.exits import RUNTIME, Fatal
from node.words import words_of
from primitives.reasons import Reason
from primitives.task import Kind, Status
from rpc.task_story import cwu_text
from vm.system import abi

ROLES = {abi.ROLE_EXECUTE: "for executing", abi.ROLE_AUDIT: "for checking", abi.ROLE_REVEAL: "for revealing"}
MESSAGES = {abi.ROLE_EXECUTE: "answer", abi.ROLE_AUDIT: "verdict", abi.ROLE_REVEAL: "reveal"}
SMALL_WEI = 10**12
"""Of less than a millionth of a coin wei are shown."""
SHOWN = {
    abi.DISPUTE_TRACE: "a page of its trace",
    abi.DISPUTE_LIST: "the leaf's list of operations",
    abi.DISPUTE_OP: "a page of the operation",
    abi.DISPUTE_TILE: "the tile's elements",
}
REASONS = {
    abi.ENDED_REFUTED: "an element does not follow",
    abi.ENDED_UNDEFENDED: "nobody answered in time",
    abi.ENDED_WITHHELD: "its root was contradicted and never revealed",
    abi.ENDED_HELD: "the element follows: the challenge was wrong",
    abi.ENDED_ABANDONED: "the challenger did not go on in time",
    abi.ENDED_UNCHALLENGED: "it contradicted and did not challenge",
    abi.ENDED_MOOT: "the answer was refuted before, or its task is gone",
    abi.ENDED_LIST_REFUTED: "a stand-in's list does not follow",
    abi.ENDED_LIST_UNDEFENDED: "a stand-in did not answer in time",
    abi.ENDED_DIVERGED: "the two referees disagree: nobody wins, the task is refunded",
}
WANTED = {
    Kind.GENERATE: "at most {most} out",
    Kind.EMBED: "to embed",
    Kind.SCORE: "to score",
}


@dataclass(frozen=True)
class Story:
    """labora_task's answer with its sentences."""

    told: dict[str, Any]
    lines: tuple[str, ...]
    """One sentence an event, in order."""
    client: Client
    """Of the node that told it; it may hold the model's tokenizer."""

    @property
    def status(self) -> Status:
        return Status[self.told["status"].upper()]

    @property
    def is_tolerant(self) -> bool:
        """Of the tolerant lane: texts instead of ids, and nothing was verified."""
        return self.told["lane"] == "tolerant"

    @property
    def settled_block(self) -> int | None:
        return self.told["settledBlock"]

    @property
    def words(self) -> Tokenizer:
        return words_of(from_hex(self.told["model"]), self.client)

    @property
    def prompt(self) -> str:
        return self.told["prompt"] if self.is_tolerant else self.words.decode(self.told["prompt"])

    @property
    def kind(self) -> Kind:
        return Kind[self.told["kind"].upper()]

    @property
    def output(self) -> str:
        """The answer as text; of a vector nothing."""
        if self.is_tolerant:
            return self.told["output"] or ""
        return "" if self.kind.is_vector else self.words.decode(self.told["output"] or [])

    @property
    def vector(self) -> list[int] | None:
        """An embedding in Q15, or log2-likelihoods in Q16; None before the answer, and of kind generate."""
        return self.told["output"] if self.kind.is_vector else None

    @property
    def receipt(self) -> str | None:
        return self.told["receiptId"]

    def as_json(self) -> dict[str, Any]:
        """The object that `labora task post --json` prints; `cwu` is a decimal text with nine digits."""
        blocks = ("postedBlock", "agreedBlock", "settledBlock")
        marks = ("verified", "end") if self.is_tolerant else ()
        same = ("taskId", "lane", *marks, "kind", "model", "executor", "verifiers", *blocks, "feeWei")
        answer = {"vector": self.vector} if self.kind.is_vector else {"output": self.output}
        words = {**answer, "status": self.told["status"]}
        return words | {name: self.told[name] for name in (*same, "cwu", "receiptId")}


def read_story(client: Client, task: bytes) -> Story:
    """Everything that the chain has logged about a task. Raises Fatal when it knows none."""
    told = client.call("labora_task", to_hex(task))
    if told is None:
        raise Fatal(RUNTIME, f"the chain at {client.url} knows no task {to_hex(task)}")
    return story_of(told, client)


def story_of(told: dict[str, Any], client: Client) -> Story:
    """The sentences of a labora_task answer."""
    kind = Kind[told["kind"].upper()]
    lines = (f"block {event['block']:>5}  {line}" for event in told["events"] for line in _sentences(event, kind))
    return Story(told, tuple(lines), client)


def _sentences(e: dict[str, Any], kind: Kind) -> Iterator[str]:
    match e["event"]:
        case "TaskPosted":
            origin = "canary: made by the chain" if e["canary"] else f"asked by {short(e['poster'])}"
            if not e["canary"] and not int(e["poster"], 16):
                origin = "asked by the commissioned fund"
            escrow = coins(e["escrow"])
            out = WANTED[kind].format(most=e["maxTokens"])
            yield f"{origin}, {len(e['tokens'])} tokens in, {out}, escrow {escrow}"
        case "TaskDealt":
            backups = ", ".join(map(short, e["slots"][1:])) or "nobody"
            attempt = f" (attempt {e['attempt'] + 1})" if e["attempt"] else ""
            yield f"dealt to {short(e['executor'])} by this block's randomness{attempt}; backups {backups}"
        case "DealDelayed":
            yield f"not dealt: {e['reason']}; tried again in block {e['againBlock']}"
        case "TaskMissed":
            yield f"{short(e['operator'])} missed: {e['text']}{'' if e['counted'] else ' (not counted against it)'}"
        case "TaskAnswered":
            device = e["device"] or "an unnamed device"
            first = "" if kind.is_vector else f"first token {e['firstTokenMs']} ms, "
            times = f"({first}queued {e['queueMs']} ms; as it reports)"
            what = f"{len(e['tokens'])} {'elements' if kind.is_vector else 'tokens'}"
            yield f"done by {short(e['executor'])}: {what} in {e['totalMs']} ms on {device} {times}"
        case "AuditDrawn":
            again = f" (redraw {e['round']})" if e["round"] else ""
            yield f"to be checked by {', '.join(map(short, e['verifiers'])) or 'nobody'}, drawn by randomness{again}"
        case "VerdictCommitted":
            yield f"{short(e['verifier'])} did the work again and committed its verdict"
        case "RevealBegan":
            yield f"{e['verdicts']} verdicts are in: reveal"
        case "Revealed":
            what = "element" if kind.is_vector else "position"
            bad = "" if e["bad"] is None else f", first bad {what} {e['bad']}"
            opened = ", ".join(map(short, e["opened"])) or "nothing"
            yield f"root {e['root'][2:18]} revealed by {short(e['sender'])}{bad}; it opens {opened}"
        case "TrapSprung":
            caught = ", ".join(map(short, e["caught"]))
            found = f"{caught} sent what was let out instead of computing" if caught else "nobody had copied it"
            yield f"what {short(e['executor'])} had committed was a trap: {found}"
        case "TrapPaid":
            yield f"paid {coins(e['amount'])} to {short(e['to'])} of what the trap took"
        case "TaskAgreed":
            who = ", ".join(map(short, e["verifiers"])) or "not sampled"
            yield f"agreed, bit for bit: {who}; settles in {e['settlesBlock']}"
        case "TaskUnverified":
            yield f"not verified: {e['reason']}; settles in {e['settlesBlock']}"
        case "TaskDisputed":
            roots = f"{short(e['executor'])} says {e['executorRoot'][2:18]}, {short(e['verifier'])} says "
            yield f"DISPUTED: {roots}{e['verifierRoot'][2:18]}; the fee is frozen until one of them is refuted"
        case "VerdictVoid":
            yield f"the verdict of {short(e['verifier'])} is void: {e['reason']}"
        case "Paid":
            yield _payment(e)
        case "TaskSettled":
            yield (
                f"settled: fee {money(e['fee'])} for {cwu_text(int(e['macs']))} CWU, executor "
                f"{money(e['executorWei'])}, burned {money(e['burnedWei'])}, back to the asker "
                f"{money(e['refundedWei'])}; receipt {e['receipt'][2:18]}"
            )
        case "TaskCommissioned":
            yield f"commissioned: number {e['number']} of {e['name']!r}, paid by the fund"
        case "CalledBack":
            ended = "took it" if e["succeeded"] else "failed"
            yield (
                f"called {short(e['target'])} back, which {ended}: {e['gasUsed']} gas, burned {coins(e['burnedWei'])}, "
                f"back {coins(e['refundedWei'])}"
            )
        case "TaskRefunded":
            yield f"refunded {coins(e['amount'])} to the asker: {e['reason']}"
        case "WorkRefused":
            yield f"refused a message of {short(e['operator'])}: {e['text']} ({e['code']})"
        case "ItemFailed":
            yield f"failed in {e['step']}: {e['text']} ({e['code']})"
        case _:
            yield from tolerant_sentences(e)
            yield from dispute_sentences(e)


def tolerant_sentences(e: dict[str, Any]) -> Iterator[str]:
    """What happened to a task of the tolerant lane."""
    match e["event"]:
        case "TolerantAsked":
            yield (
                f"tolerant lane: asked by {short(e['asker'])} of {short(e['executor'])}, {e['model']!r}, at most "
                f"{e['maxTokens']} tokens out, escrow {coins(e['escrow'])}; it may answer until block {e['lastBlock']}"
            )
        case "TolerantAnswered":
            yield (
                f"answered by {short(e['executor'])}: {len(e['tokens'])} tokens in {e['totalMs']} ms (as it reports), "
                f"fee {coins(e['fee'])}; nothing checks it, and silence pays after block {e['lastBlock']}"
            )
        case "TolerantAccepted":
            yield f"accepted by {short(e['asker'])}"
        case "TolerantPaid":
            why = "accepted" if e["accepted"] else "its asker said nothing"
            yield (
                f"paid ({why}): {coins(e['executorWei'])} to {short(e['to'])}, burned {coins(e['burnedWei'])}, back "
                f"{coins(e['refundedWei'])}; receipt {e['receipt'][2:18]}, unverified"
            )
        case "TolerantRefused":
            yield (
                f"refused by {short(e['asker'])}: {e['reason']!r}; burned {coins(e['burnedWei'])}, back "
                f"{coins(e['refundedWei'])}"
            )
        case "TolerantUnanswered":
            yield f"{short(e['executor'])} did not answer in time; back {coins(e['refundedWei'])}"


def dispute_sentences(e: dict[str, Any]) -> Iterator[str]:
    """What happened in a dispute and came of it, of a log as JSON with its "event"."""
    number = e.get("dispute")
    match e["event"]:
        case "Challenged":
            where = "at the first leaf that differs" if e["leaf"] == abi.NO_LEAF else f"at leaf {e['leaf']}"
            who = e["challenger"] if int(e["operator"], 16) == 0 else e["operator"]
            bond = f"bond {coins(e['bond'])}"
            yield f"{short(who)} challenges the answer of {short(e['accused'])} {where}: dispute {number}, {bond}"
        case "DisputeBegan":
            yield f"dispute {number} begins; the accused may answer until block {e['lastBlock']}"
        case "Shown":
            what = SHOWN.get(e["state"], "something")
            yield f"dispute {number}: {short(e['operator'] or e['sender'])} shows {what}, {e['data']:,} bytes"
        case "Chosen":
            what = f"goes on with number {e['chosen']}" if e["chosen"] != abi.NO_OP else "finds all operations alike"
            yield f"dispute {number}: the challenger {what}"
        case "Judged":
            holds = "follows" if e["holds"] else "does NOT follow"
            what = f"element {e['element']} of {e['op']} ({e['rule']}) at leaf {e['leaf']}"
            yield f"dispute {number}: judged by one recomputation: {what} {holds}"
        case "RefereesDiverged":
            holds = "follows" if e["nativeHolds"] else "does not follow"
            yield (
                f"dispute {number}: element {e['element']} of {e['op']} ({e['rule']}) {holds}, the second referee "
                f"{e['second']}; {coins(e['heldWei'])} of {short(e['accused'])} are held, the model is suspended"
            )
        case "ListRefuted":
            why = REASONS.get(e["reason"], f"reason {e['reason']}")
            yield f"dispute {number}: the list of {short(e['author'])} falls, {why}; bond lost {coins(e['bond'])}"
        case "DisputeEnded":
            why = REASONS.get(e["reason"], f"reason {e['reason']}")
            paid = "" if e["reason"] in (abi.ENDED_MOOT, abi.ENDED_DIVERGED) else (
                f". {short(e['winner'])} wins, {short(e['loser'])} loses {coins(e['lostWei'])}: costs "
                f"{coins(e['costsWei'])}, asker {coins(e['askerWei'])}, bounty {coins(e['bountyWei'])}, burned "
                f"{coins(e['burnedWei'])}"
            )  # fmt: skip
            yield f"dispute {number} ends: {why}{paid}"
        case "TaskRefuted":
            after = "nobody is left" if int(e["next"], 16) == 0 else f"{short(e['next'])} takes over"
            yield f"the answer of {short(e['executor'])} is refuted; {after}"
        case "Slashed":
            why = Reason(e["reason"]).text
            yield f"slashed {short(e['operator'])}: {coins(e['amount'])} of its bond, {why}; left {coins(e['bond'])}"


def _payment(e: dict[str, Any]) -> str:
    """A fee goes to whoever the operator named; what its messages cost goes back to the account that sent them."""
    amount, operator = money(e["amount"]), short(e["operator"])
    match e["for"]:
        case "gas":
            return f"paid back {amount} to {operator}: gas of its {MESSAGES.get(e['role'], 'message')}"
        case "delegators":
            return f"paid {amount} to the delegators of {operator} {ROLES.get(e['role'], '')}".rstrip()
    away = "" if e["to"] == e["operator"] else f" (at {short(e['to'])})"
    return f"paid {amount} to {operator}{away} {ROLES.get(e['role'], '')}".rstrip()


def short(address: str) -> str:
    """The beginning of an address, enough to tell validators apart."""
    return f"{address[:8].lower()}…"


def money(wei: str | int) -> str:
    """An amount for people: in coins, or in wei where coins would be mostly zeros."""
    return f"{int(wei):,} wei" if 0 < int(wei) < SMALL_WEI else coins(wei)


def coins(wei: str | int) -> str:
    """An amount in whole units, exact to 10^-12."""
    micro = int(wei) // 10**6
    return f"{micro // 10**12}.{micro % 10**12:012d}".rstrip("0").rstrip(".")
