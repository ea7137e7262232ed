"""Ask a question of the chain: sign and send `Market.post`, then wait for as much of the answer as was asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from inference.tokenizer import Tokenizer
from node.client import Client, RpcFailure, from_hex, to_hex
from node.exits import RUNTIME, USAGE, Fatal
from node.send import POLL_SECONDS, WAIT_SECONDS_MAX, current_prices, logged, send
from node.story import Story, read_story
from node.watch import Watcher
from node.words import Ids, NoWords, tokenizer_of
from primitives.address import MARKET, STAKING
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
ENDED = {Status.REFUNDED}


@dataclass(frozen=True)
class Request:
    """What is asked. temperature 0 is greedy; assurance None lets the command choose by the number of validators.
    Embed and score make no tokens: max_tokens, temperature and top_k are 0. label: text after the prompt, with ids
    of its own, so that a score's elements from the prompt's end on are the label's. as_ids: prompt and label are token
    ids in decimal. tip_per_cwu: wei beyond the price; tasks that tip more are dealt first.
    value_at_risk: wei that a wrong answer may cost the asker."""

    prompt: str
    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    assurance: int | None = None
    model: bytes | None = None
    kind: Kind = Kind.GENERATE
    label: str = ""
    as_ids: bool = False
    tip_per_cwu: int = 0
    value_at_risk: int = 0

    def words(self, node: Client) -> Tokenizer:
        """What makes ids of the prompt. Raises NoWords."""
        assert self.model is not None, "find_model says which, where the asker does not"
        return Ids() if self.as_ids else tokenizer_of(self.model, node)

    def given(self, node: Client) -> list[int]:
        """Ids of the prompt."""
        return self.words(node).encode(self.prompt)

    def tokens(self, node: Client) -> list[int]:
        """Ids of prompt and label."""
        words = self.words(node)
        start = len(words.encode(""))  # what the model wants in front stands there once
        return words.encode(self.prompt) + words.encode(self.label)[start:]


def post_task(client: Client, key: bytes, request: Request) -> tuple[bytes, int]:
    """Post, wait for the transaction's receipt, and return (task id, block). Raises Fatal with the chain's reason."""
    model = request.model or find_model(client, None)[1]
    try:
        tokens = replace(request, model=model).tokens(client)
    except NoWords as error:
        raise Fatal(RUNTIME, str(error)) from error
    except ValueError as error:
        raise Fatal(USAGE, f"--ids: {error}") from error
    if not tokens or not request.prompt:
        raise Fatal(USAGE, "the prompt is empty")
    if (wrong := next((token for token in tokens if not 0 <= token < 1 << 32), None)) is not None:
        raise Fatal(USAGE, f"{wrong} is no token id")
    if not 0 <= request.temperature <= TEMPERATURE_MAX:
        raise Fatal(USAGE, f"temperature must be between 0 and {TEMPERATURE_MAX:g}, not {request.temperature:g}")
    assurance = request.assurance
    if assurance is None:
        (operators,) = abi.OPERATORS.decode_result(client.read_contract(STAKING, abi.OPERATORS.encode_call()))
        assurance = 1 if len(operators) > 1 else 0
    # Without a price the EVM sees a base fee of 0, and the quote would leave out what the validators' gas costs.
    prices = current_prices(client)
    priced = {"from": to_hex(address_of(key)), "to": to_hex(MARKET), **prices.fields()}
    asked = (request.kind, model, len(tokens), request.max_tokens, assurance, request.value_at_risk,
             request.tip_per_cwu, 0)  # fmt: skip
    quote = abi.QUOTE.encode_call(*asked)
    temperature = round(request.temperature * TEMPERATURE_ONE_Q16)
    try:
        answer = client.call("eth_call", {**priced, "data": to_hex(quote), "gas": hex(QUOTE_GAS)}, "latest")
        escrow, least, most, _ = abi.QUOTE.decode_result(from_hex(answer))
        deadline = min(max(30, least), most)
        call = abi.POST.encode_call(
            request.kind, model, pack_tokens(tokens), request.max_tokens, temperature, request.top_k, assurance,
            request.value_at_risk, request.tip_per_cwu, deadline, 0,
        )  # fmt: skip
        receipt = send(client, key, prices, MARKET, call, escrow * ESCROW_MARGIN_PERCENT // 100)
    except RpcFailure as failure:
        hint = "; --assurance 0 accepts an answer that nobody checks" if "assurance" in failure.message else ""
        raise Fatal(RUNTIME, f"the task was refused: {failure.message}{hint}") from failure
    return bytes(logged(receipt, abi.TASK_POSTED)["task"]), int(receipt["blockNumber"], 16)


def wait_for(
    client: Client, task: bytes, wait: Wait, on_line: Callable[[str], None], watcher: Watcher | None = None
) -> Story:
    """Follow the task until it has gone as far as `wait`; each new line of its story is handed over as it happens, and
    the watcher is shown the tokens of its answer while it is made."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    told = 0
    seen_block = -1
    while True:
        block = client.number("eth_blockNumber")
        if block != seen_block:
            seen_block = block
            story = read_story(client, task)
            if watcher is not None:
                watcher.look(client, task)  # the last tokens go before the line that says that all are made
            for line in story.lines[told:]:
                on_line(line)
            told = len(story.lines)
            if watcher is not None:
                watcher.story(story)
            ended = story.status in ENDED or (story.status is Status.UNVERIFIED and wait is not Wait.SETTLED)
            if story.status in REACHED[wait] or ended or story.settled_block is not None:
                return story
        if watcher is not None:
            watcher.look(client, task)
        if time.monotonic() > deadline:
            raise Fatal(RUNTIME, f"task {to_hex(task)} is {story.status.name.lower()} after {WAIT_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)


def find_model(client: Client, wanted: str | None) -> tuple[str, bytes]:
    """(name, id) of a model on the chain, by name or id; None: the first. Raises Fatal with those there are."""
    models = client.call("labora_models")
    if not models:
        raise Fatal(RUNTIME, "this chain lists no model")
    same = [found for found in models if wanted is None or wanted.lower() in (found["name"].lower(), found["model"])]
    if len(same) > 1 and wanted is not None and not same[0]["listed"]:
        ids = ", ".join(found["model"] for found in same)
        raise Fatal(USAGE, f"{len(same)} models are called {wanted!r}, by anybody's choice: name one by its id: {ids}")
    if same:
        return same[0]["name"], from_hex(same[0]["model"])
    known = ", ".join(f"{found['name']} ({found['model']})" for found in models)
    raise Fatal(USAGE, f"the chain knows no model {wanted!r}; it knows {known}")
