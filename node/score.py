"""What vectors say to people: an embedding's elements, and which of several labels a model finds likeliest.

Owns the arithmetic from a score's log2-likelihoods (Q16, one a token of the prompt but the first) to a verdict over
labels. Knows no chain: node.post asks, one task a label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.story import Story

SCORE_BITS = 16
"""A score's elements are log2-likelihoods times 2^16."""


@dataclass(frozen=True)
class Scored:
    """A text, or a label after one, with what a score says of it."""

    text: str
    tokens: int
    """Tokens whose likelihoods were added up."""
    log2_q16: int
    """Their sum: exact, at most 0."""
    task: str

    @property
    def bits(self) -> float:
        """log2 of the text's likelihood."""
        return self.log2_q16 / (1 << SCORE_BITS)

    def as_json(self, share: float) -> dict[str, Any]:
        """share: of its likelihood in that of all labels."""
        words = {"text": self.text, "taskId": self.task, "tokens": self.tokens}
        return words | {"log2Likelihood": self.bits, "share": share}


def scored(text: str, given: int, story: Story) -> Scored:
    """The likelihood of everything after the first `given` tokens of the prompt; given: at least 1, for the first token
    of a prompt has no likelihood."""
    assert story.vector is not None
    assert given >= 1
    counted = story.vector[given - 1 :]
    return Scored(text, len(counted), sum(counted), story.told["taskId"])


def shares(found: Sequence[Scored]) -> list[float]:
    """Each one's likelihood as a part of the sum of all: what the model would say if it had to say one of them."""
    most = max(each.bits for each in found)
    weights = [2.0 ** (each.bits - most) for each in found]
    return [weight / sum(weights) for weight in weights]


def best(found: Sequence[Scored]) -> Scored:
    """The likeliest, the first of a tie."""
    return max(found, key=lambda each: each.log2_q16)
