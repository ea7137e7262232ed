"""The tolerant lane: answers of float models, which no two machines compute alike to the bit.

Owns the seeded draw of a token from log-probabilities (Gumbel-max), the check of an answer against another run's
log-probabilities by its margins, and reading what an OpenAI-compatible server says of a completion. Nothing here is
exact work: it reaches no hash, no vote and no credit (docs/tolerant.md says what the check cannot detect). Knows no
socket.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from inference.philox import SEED_BYTES, philox

CANDIDATES_MAX = 20
"""Log-probabilities asked for at a position: the most that vLLM gives unless told otherwise."""
CANDIDATES_READ_MAX = 64
"""Read at a position; some servers add the token they drew, or ignore the number."""
TOKEN_CHARACTERS_MAX = 1024
MARGIN_NATS = 0.5
"""Largest margin that a check lets pass: bfloat16 moves a log-probability of a 1 to 8 billion parameter model by some
0.05 to 0.2 nats, and two of them make a margin."""
LOGPROB_FLOOR = -10_000.0
"""Below what any float model gives; some servers write their minus infinity as a number like this."""
END_TOKENS = frozenset({
    "", "</s>", "<|endoftext|>", "<|im_end|>", "<eos>", "<end_of_turn>", "<|eot_id|>", "<|end_of_text|>",
})  # fmt: skip
"""Names under which servers list the token that ends an answer."""

Candidates = Mapping[str, float]
"""Token, as the server names it, -> natural log-probability."""


class ServerError(RuntimeError):
    """A server that is no party to anything: it refused, broke off, or said what makes no sense. The text says what."""


@dataclass(frozen=True)
class Completion:
    """What a server made of a prompt: tokens, the likeliest candidates at each, and whether it ended by itself."""

    tokens: tuple[str, ...]
    candidates: tuple[Candidates, ...]
    ended: bool

    @property
    def text(self) -> str:
        """What the tokens say."""
        return text_of(self.tokens)


def text_of(tokens: Sequence[str]) -> str:
    """What tokens say, one after the other; the end says nothing."""
    return "".join(token for token in tokens if token not in END_TOKENS)


def noise(seed: bytes, position: int, token: str) -> float:
    """Standard Gumbel noise of a candidate for the generated token number `position`: -ln(-ln(u)) with u from word 0 of
    Philox4x32-10, keyed by the seed's first two words, on counter (position, three words of sha256(seed | token))."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"seed of {len(seed)} bytes, must be {SEED_BYTES}")
    digest = hashlib.sha256(seed + token.encode("utf-8", "surrogatepass")).digest()
    key = [int.from_bytes(seed[i : i + 4], "little") for i in (0, 4)]
    words = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8)]
    word = philox((position, words[0], words[1], words[2]), (key[0], key[1]))[0]
    return -math.log(-math.log((word + 0.5) / 2**32))


def choose(candidates: Candidates, temperature: float, seed: bytes, position: int) -> str:
    """The candidate of the highest perturbed score: a draw from softmax(log-probability / temperature) that whoever
    has the seed can repeat. Ties to the first in the order of strings. Temperature 0 is greedy."""
    scores = _scores(candidates, temperature, seed, position)
    return min(scores, key=lambda token: (-scores[token], token))


@dataclass(frozen=True)
class Margin:
    """How far a token's perturbed score lies below the best one, in nats of log-probability; seen: it is among the
    candidates. If not, its log-probability is at most the least of them, and nats is what the margin is at least."""

    nats: float
    seen: bool


def margin(token: str, candidates: Candidates, temperature: float, seed: bytes, position: int) -> Margin:
    """The margin of the token that an answer has at a position, by another run's candidates there."""
    scores = _scores(candidates, temperature, seed, position)
    best = max(scores.values())
    if token in scores:
        return Margin(best - scores[token], seen=True)
    most = min(candidates.values()) + (temperature * noise(seed, position, token) if temperature else 0.0)
    return Margin(max(0.0, best - most), seen=False)


@dataclass(frozen=True)
class Report:
    """A check of a whole answer. It convicts nobody: two honest machines differ as well, by less."""

    margins: tuple[Margin, ...]
    allowed: float

    @property
    def beyond(self) -> int:
        """Positions whose margin is larger than allowed."""
        return sum(each.nats > self.allowed for each in self.margins)

    @property
    def unseen(self) -> int:
        """Positions whose token was not among the candidates; their margins are lower bounds."""
        return sum(not each.seen for each in self.margins)

    @property
    def largest(self) -> float:
        return max((each.nats for each in self.margins), default=0.0)

    @property
    def mean(self) -> float:
        return sum(each.nats for each in self.margins) / max(1, len(self.margins))

    @property
    def within(self) -> bool:
        """Whether no margin is larger than allowed."""
        return self.beyond == 0


def check(
    tokens: Sequence[str],
    candidates: Sequence[Candidates],
    temperature: float,
    seed: bytes,
    allowed: float = MARGIN_NATS,
) -> Report:
    """The margins of an answer's tokens by another run's candidates after the same beginnings, one a token."""
    assert len(tokens) == len(candidates)
    found = (margin(token, listed, temperature, seed, i)
             for i, (token, listed) in enumerate(zip(tokens, candidates, strict=True)))  # fmt: skip
    return Report(tuple(found), allowed)


def request_body(model: str, prompt: str, max_tokens: int, candidates: int) -> bytes:
    """A request of POST /completions: greedy, with log-probabilities; every draw is the asker's own."""
    return orjson.dumps({
        "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": candidates,
    })  # fmt: skip


def read_completion(body: bytes, max_tokens: int) -> Completion:
    """The completion in a response of POST /completions. Raises ServerError naming what is wrong with it."""
    try:
        value = orjson.loads(body)
    except ValueError as error:
        raise ServerError(f"the server's answer is no JSON: {error}") from error
    choices = _field(value, "choices", list, "the answer")
    if len(choices) != 1:
        raise ServerError(f"the answer has {len(choices)} choices; one was asked for")
    logprobs = _field(choices[0], "logprobs", dict, "choices[0]")
    tokens = _field(logprobs, "tokens", list, "logprobs")
    listed = _field(logprobs, "top_logprobs", list, "logprobs")
    if len(tokens) != len(listed) or len(tokens) > max_tokens:
        raise ServerError(
            f"{len(tokens)} tokens and {len(listed)} lists of candidates; at most {max_tokens} of each, as many of both"
        )
    for i, token in enumerate(tokens):
        if not isinstance(token, str) or len(token) > TOKEN_CHARACTERS_MAX:
            found = f"logprobs.tokens[{i}] is {_shown(token)!r}"
            raise ServerError(f"{found}; expected a text of at most {TOKEN_CHARACTERS_MAX} characters")
    ended = choices[0].get("finish_reason") == "stop"
    return Completion(tuple(tokens), tuple(_candidates(item, i) for i, item in enumerate(listed)), ended)


def _candidates(value: Any, place: int) -> Candidates:
    where = f"logprobs.top_logprobs[{place}]"
    if not isinstance(value, dict) or not 1 <= len(value) <= CANDIDATES_READ_MAX:
        raise ServerError(f"{where} is {_shown(value)!r}, no object of 1 to {CANDIDATES_READ_MAX} log-probabilities")
    found = {}
    for token, logprob in value.items():
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise ServerError(f"{where} names a token of {len(token)} characters; at most {TOKEN_CHARACTERS_MAX}")
        if type(logprob) not in (int, float) or not math.isfinite(logprob) or logprob > 1e-3:
            raise ServerError(f"{where}: {_shown(logprob)} is no log-probability")
        found[token] = max(LOGPROB_FLOOR, float(logprob))
    return found


def _field(value: Any, name: str, kind: type, where: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise ServerError(f"{where} has no {name} that is a {kind.__name__} (found {_shown(found)!r})")
    return found


def _shown(value: Any) -> str:
    """A value of a stranger's JSON in a few characters. Of a list or an object only how much is in it: nested as deep
    as JSON may be, writing it out would exceed Python's stack."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return str(value)[:80]


def _scores(candidates: Candidates, temperature: float, seed: bytes, position: int) -> dict[str, float]:
    """log-probability + temperature * noise: the order of log-probability / temperature + noise, in nats."""
    if not temperature:
        return dict(candidates)
    return {token: logprob + temperature * noise(seed, position, token) for token, logprob in candidates.items()}
