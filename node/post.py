"""Ask a question of the chain: sign and send `Market.post`, then wait for as much of the answer as was asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from inference.tokenizer import Bytes, Tokenizer
from node.client import Client, RpcFailure, from_hex, to_hex
from node.exits import RUNTIME, USAGE, Fatal
from node.send import POLL_SECONDS, WAIT_SECONDS_MAX, current_prices, send
from node.story import Story, read_story
from node.words import tokenizer_of
from primitives.address import MARKET, MODELS, STAKING
from primitives.keys import address_of
from primitives.merkle import pack_tokens
from primitives.task import TEMPERATURE_ONE_Q16, Kind, Status
from vm.system import abi

QUOTE_GAS = 1_000_000
ESCROW_MARGIN_PERCENT = 150
"""The base fee may rise before the post is in a block; what is not needed returns at once."""
TEMPERATURE_MAX = 16.0


class Wait(StrEnum):
    """How long `task post` waits: for the output, for its verification, or for the payment."""

    ANSWER = "answer"
    AGREED = "agreed"
    SETTLED = "settled"


REACHED = {
    Wait.ANSWER: {Status.ANSWERED, Status.DRAWN, Status.REVEALING, Status.AGREED, Status.SETTLED},
    Wait.AGREED: {Status.AGREED, Status.SETTLED},
    Wait.SETTLED: {Status.SETTLED},
}
ENDED = {Status.REFUNDED, Status.DISPUTED}


@dataclass(frozen=True)
class Request:
    """What is asked. temperature 0 is greedy; assurance None lets the command choose by the number of validators.
    Embed and score make no tokens: max_tokens, temperature and top_k are 0. label: text after the prompt, with ids
    of its own, so that a score's elements from the prompt's end on are the label's."""

    prompt: str
    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    assurance: int | None = None
    model: bytes | None = None
    kind: Kind = Kind.GENERATE
    label: str = ""

    @property
    def words(self) -> Tokenizer:
        """The model's tokenizer; without a model ids are bytes."""
        return Bytes() if self.model is None else tokenizer_of(self.model)

    @property
    def given(self) -> list[int]:
        """Ids of the prompt."""
        return self.words.encode(self.prompt)

    @property
    def tokens(self) -> list[int]:
        """Ids of prompt and label."""
        start = len(self.words.encode(""))  # what the model wants in front stands there once
        return self.given + self.words.encode(self.label)[start:]


def post_task(client: Client, key: bytes, request: Request) -> tuple[bytes, int]:
    """Post, wait for the transaction's receipt, and return (task id, block). Raises Fatal with the chain's reason."""
    model = request.model or first_model(client)
    tokens = replace(request, model=model).tokens
    if not request.prompt:
        raise Fatal(USAGE, "the prompt is empty")
    if not 0 <= request.temperature <= TEMPERATURE_MAX:
        raise Fatal(USAGE, f"temperature must be between 0 and {TEMPERATURE_MAX:g}, not {request.temperature:g}")
    assurance = request.assurance
    if assurance is None:
        (operators,) = abi.OPERATORS.decode_result(client.read_contract(STAKING, abi.OPERATORS.encode_call()))
        assurance = 1 if len(operators) > 1 else 0
    # Without a price the EVM sees a base fee of 0, and the quote would leave out what the validators' gas costs.
    prices = current_prices(client)
    priced = {"from": to_hex(address_of(key)), "to": to_hex(MARKET), **prices.fields()}
    quote = abi.QUOTE.encode_call(request.kind, model, len(tokens), request.max_tokens, assurance)
    temperature = round(request.temperature * TEMPERATURE_ONE_Q16)
    try:
        answer = client.call("eth_call", {**priced, "data": to_hex(quote), "gas": hex(QUOTE_GAS)}, "latest")
        escrow, least, most = abi.QUOTE.decode_result(from_hex(answer))
        deadline = min(max(30, least), most)
        call = abi.POST.encode_call(
            request.kind, model, pack_tokens(tokens), request.max_tokens, temperature, request.top_k, assurance, 0, 0,
            deadline, 0,
        )  # fmt: skip
        receipt = send(client, key, prices, MARKET, call, escrow * ESCROW_MARGIN_PERCENT // 100)
    except RpcFailure as failure:
        hint = "; --assurance 0 accepts an answer that nobody checks" if "assurance" in failure.message else ""
        raise Fatal(RUNTIME, f"the task was refused: {failure.message}{hint}") from failure
    for log in receipt["logs"]:
        if from_hex(log["topics"][0]) == abi.TASK_POSTED.topic:
            return from_hex(log["topics"][1]), int(receipt["blockNumber"], 16)
    raise Fatal(RUNTIME, f"transaction {receipt['transactionHash']} posted no task")


def wait_for(client: Client, task: bytes, wait: Wait, on_line: Callable[[str], None]) -> Story:
    """Follow the task until it has gone as far as `wait`; each new line of its story is handed over as it happens."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    told = 0
    seen_block = -1
    while True:
        block = client.number("eth_blockNumber")
        if block != seen_block:
            seen_block = block
            story = read_story(client, task)
            for line in story.lines[told:]:
                on_line(line)
            told = len(story.lines)
            ended = story.status in ENDED or (story.status is Status.UNVERIFIED and wait is not Wait.SETTLED)
            if story.status in REACHED[wait] or ended or story.settled_block is not None:
                return story
        if time.monotonic() > deadline:
            raise Fatal(RUNTIME, f"task {to_hex(task)} is {story.status.name.lower()} after {WAIT_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)


def first_model(client: Client) -> bytes:
    """The first model that the chain lists. Raises Fatal when there is none."""
    (models,) = abi.MODEL_LIST.decode_result(client.read_contract(MODELS, abi.MODEL_LIST.encode_call()))
    if not models:
        raise Fatal(RUNTIME, "this chain lists no model")
    return bytes(models[0])
