"""From a score's vector to the likeliest label, and what the command refuses before it asks."""

import pytest

from node.cli import app
from node.client import Client
from node.exits import USAGE, Fatal
from node.post import Request
from node.score import best, scored, shares
from node.story import Story
from primitives.task import Kind

NODE = Client("http://127.0.0.1:9")


def story(vector: list[int], task: str = "0x01") -> Story:
    return Story({"kind": "score", "output": vector, "taskId": task}, (), NODE)


def test_only_the_elements_of_a_labels_own_tokens_count() -> None:
    request = Request("1 " * 13, 0, 0.0, 0, model=bytes(32), kind=Kind.SCORE, label="7,8", as_ids=True)
    assert request.tokens(NODE) == [1] * 13 + [7, 8]
    vector = [-1_000_000] * 12 + [-65_536, -32_768]
    found = scored("ok", len(request.given(NODE)), story(vector))
    assert (found.tokens, found.log2_q16, found.bits) == (2, -98_304, -1.5)
    whole = scored("all", 1, story(vector))
    assert (whole.tokens, whole.log2_q16) == (14, sum(vector))


def test_the_likeliest_label_is_the_best_and_shares_add_up() -> None:
    found = [scored(text, 1, story([log2])) for text, log2 in (("a", -131_072), ("b", -65_536), ("c", -65_536))]
    assert best(found).text == "b", "the first of a tie"
    assert shares(found) == [0.2, 0.4, 0.4]
    far = [scored("x", 1, story([-(2**31)])), scored("y", 1, story([-1]))]
    assert shares(far)[1] == 1.0, "no likelihood is too small to compare"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--kind embed --temperature 0.5", "--kind embed makes no tokens"),
        ("--kind score --max-tokens 4", "--kind score makes no tokens"),
        ("--kind embed --label a", "--label is for --kind score"),
        ("--label a", "--label is for --kind score"),
    ],
)
def test_options_that_mean_nothing_for_a_kind_are_refused(options: str, said: str) -> None:
    with pytest.raises(Fatal, match=said) as caught:
        app(["task", "post", "text", *options.split()], standalone_mode=False)
    assert caught.value.code == USAGE
