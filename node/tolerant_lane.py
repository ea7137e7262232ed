"""labora tolerant: the tolerant lane of a chain as an asker uses it: who offers what with which record, ask, check the
answer against a server of one's own, accept or refuse.

The chain keeps escrows and records (vm.system.tolerant) and can check nothing; what a check by margins is worth says
docs/tolerant.md. Everything that others wrote is printed without control characters.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Any

from inference.tolerant import CANDIDATES_MAX, Report, ServerError, check
from node.client import Client, RpcFailure, to_hex
from node.exits import RUNTIME, USAGE, Fatal
from node.openai import Server, candidates_after, check_url
from node.send import POLL_SECONDS, WAIT_SECONDS_MAX
from node.story import Story, coins, read_story
from node.tolerant import MARK, report_as_json, report_sentence
from node.validator import Done, Operator
from node.validator import Report as Printed
from node.words import printable
from primitives.address import TOLERANT, InvalidAddress, checksum, parse
from primitives.hashing import keccak
from primitives.task import TEMPERATURE_ONE_Q16, Status
from vm.system import abi

TEMPERATURE_MAX = 16.0
RECORD = ("accepted", "unopposed", "refused", "unanswered")


@dataclass(frozen=True)
class Question:
    """What is asked of an executor; seed: of the draw."""

    prompt: str
    max_tokens: int
    temperature: float
    top_k: int
    seed: bytes


@dataclass(frozen=True)
class Judge:
    """A server of the asker's own, to check an answer by. model: its name there; key: a bearer token, if it has one."""

    url: str
    model: str
    key: str


def offers(client: Client) -> list[dict[str, Any]]:
    """Every offer with its operator's record, as `--json` prints them; wei are decimal strings."""
    (rows,) = abi.OFFERS.decode_result(client.read_contract(TOLERANT, abi.OFFERS.encode_call()))
    found = []
    for row in rows:
        offer = abi.TOLERANT_OFFER.named(row)
        found.append({
            "operator": checksum(parse(offer["operator"])), "model": offer["model"],
            "weiPerPromptByte": str(offer["weiPerPromptByte"]), "weiPerToken": str(offer["weiPerToken"]),
            "promptBytesMax": offer["promptBytesMax"], "tokensMax": offer["tokensMax"],
            "deadlineBlocks": offer["deadlineBlocks"], "record": record_of(client, offer["operator"]),
        })  # fmt: skip
    return found


def record_of(client: Client, operator: str) -> dict[str, Any]:
    """How an operator's tasks of the lane ended."""
    data = abi.RECORDS_OF.encode_call(_address(operator))
    as_executor, _ = abi.RECORDS_OF.decode_result(client.read_contract(TOLERANT, data))
    record = abi.TOLERANT_RECORD.named(as_executor)
    return {**record, "paidWei": str(record["paidWei"])}


def offer_lines(found: list[dict[str, Any]]) -> list[str]:
    """The same for people."""
    if not found:
        return ["nobody offers anything in the tolerant lane"]
    said = [MARK]
    for offer in found:
        record = offer["record"]
        ends = ", ".join(f"{record[name]} {name}" for name in RECORD)
        said += [
            "",
            f"{offer['operator']}  {printable(offer['model'])}",
            f"  {coins(offer['weiPerToken'])} a token, {coins(offer['weiPerPromptByte'])} a byte of prompt; at most "
            f"{offer['tokensMax']} tokens, {offer['promptBytesMax']} bytes; answers within {offer['deadlineBlocks']} "
            "blocks",
            f"  its record: {ends}; {coins(record['paidWei'])} paid in all",
        ]
    return said


def ask(asker: Operator, executor: str, question: Question) -> Done:
    """Tolerant.ask at the executor's offer. Raises Fatal with the reason."""
    if not 0 <= question.temperature <= TEMPERATURE_MAX:
        raise Fatal(USAGE, f"temperature must be between 0 and {TEMPERATURE_MAX:g}, not {question.temperature:g}")
    if not 1 <= question.top_k <= CANDIDATES_MAX:
        raise Fatal(USAGE, f"--top-k must be between 1 and {CANDIDATES_MAX}, not {question.top_k}")
    address = _address(executor)
    try:
        answer = asker.client.read_contract(TOLERANT, abi.GET_OFFER.encode_call(address))
    except RpcFailure as failure:
        raise Fatal(RUNTIME, f"{executor} cannot be asked: {failure.message}") from failure
    (row,) = abi.GET_OFFER.decode_result(answer)
    offer = abi.TOLERANT_OFFER.named(row)
    text = question.prompt.encode()
    escrow = offer["weiPerPromptByte"] * len(text) + offer["weiPerToken"] * question.max_tokens
    temperature = round(question.temperature * TEMPERATURE_ONE_Q16)
    return asker.send(
        abi.ASK, address, keccak(offer["model"].encode()), question.prompt, question.max_tokens, temperature,
        question.top_k, question.seed, value=escrow,
    )  # fmt: skip


def wait_for_answer(client: Client, task: bytes) -> Story:
    """The task's story once it is answered, or ended. Raises Fatal after ten minutes."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while (story := tolerant_story(client, task)).status is Status.POSTED:
        if time.monotonic() > deadline:
            raise Fatal(RUNTIME, f"task {to_hex(task)} has no answer after {WAIT_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)
    return story


def tolerant_story(client: Client, task: bytes) -> Story:
    """A task of this lane. Raises Fatal when it is of the other."""
    story = read_story(client, task)
    if not story.is_tolerant:
        raise Fatal(USAGE, f"task {to_hex(task)} is of the exact lane: it is checked and paid by the chain")
    return story


def judged(story: Story, judge: Judge) -> Report:
    """The margins of an answer by the asker's own server. Raises Fatal when that one cannot tell."""
    if (wrong := check_url(judge.url)) is not None:
        raise Fatal(USAGE, f"--check-url {judge.url!r:.200}: {wrong}")
    told = story.told
    server = Server(judge.url, judge.model or told["model"], judge.key)
    temperature = told["temperatureQ16"] / TEMPERATURE_ONE_Q16
    try:
        listed = candidates_after(server, told["prompt"], told["tokens"], told["topK"])
    except ServerError as error:
        until = f"until block {told['lastBlock']} it may be refused, then silence pays"
        raise Fatal(RUNTIME, f"the answer of task {told['taskId']} could not be checked: {error}; {until}") from error
    return check(told["tokens"], listed, temperature, bytes.fromhex(told["seed"][2:]))


def decide(asker: Operator, task: bytes, refusal: str | None) -> Done:
    """Tolerant.accept, or refuse with a reason. Raises Fatal."""
    if refusal is None:
        return asker.send(abi.ACCEPT, task)
    return asker.send(abi.REFUSE, task, refusal)


def decided(done: Done, task: bytes, refusal: str | None) -> Printed:
    """What to print of it."""
    if refusal is None:
        line = f"accepted {to_hex(task)}: it is paid in the next block"
        return done.told((line,), taskId=to_hex(task), end="accepted")
    values = done.event(abi.TOLERANT_REFUSED)
    line = f"refused {to_hex(task)}: {coins(values['refundedWei'])} back, {coins(values['burnedWei'])} burned"
    return done.told((line,), taskId=to_hex(task), end="refused", refundedWei=str(values["refundedWei"]))


def why_refused(report: Report) -> str:
    """The reason of a refusal that follows from a check."""
    found = f"{report.beyond} of {len(report.margins)} margins beyond {report.allowed:g} nats"
    return f"{found}, largest {report.largest:.3f}"


def new_seed() -> bytes:
    """Of a draw that nobody knew before."""
    return secrets.token_bytes(32)


def answer_lines(story: Story, report: Report | None, url: str | None) -> list[str]:
    """What an asker is told of an answer, and what it may do now."""
    told, task = story.told, story.told["taskId"]
    if told["tokens"] is None:
        return [f"{told['executor']} did not answer in time; the escrow is back"]
    said = [printable(story.prompt + story.output), "", MARK]
    if report is not None:
        said.append(report_sentence(report, str(url)))
    if story.status is Status.ANSWERED:
        said += [
            f"it costs {coins(told['feeWei'])}; you may refuse it until block {told['lastBlock']}, then silence pays:",
            f"  labora tolerant accept {task}",
            f"  labora tolerant refuse {task} --reason TEXT",
        ]
    return said


def answer_json(story: Story, report: Report | None, url: str | None) -> dict[str, Any]:
    """The same as one object."""
    same = ("tokens", "prompt", "poster", "temperatureQ16", "topK", "seed", "escrowWei", "lastBlock", "answeredBlock")
    found = {name: story.told[name] for name in same}
    return story.as_json() | found | {"check": None if report is None else report_as_json(report, str(url))}


def _address(text: str) -> bytes:
    try:
        return parse(text)
    except InvalidAddress as error:
        raise Fatal(USAGE, str(error)) from error
