"""Text and ids on the asker's side: the model's own tokenizer, and what is said where it is not."""

import pytest

from genesis.models import folder as shipped
from inference.chunks import read_manifest
from node.client import Client, Unreachable
from node.exits import RUNTIME, USAGE, Fatal
from node.post import Request, post_task
from node.words import Ids, NoWords, printable, tokenizer_of, words_of
from primitives.hashing import keccak

UNKNOWN = b"\x77" * 32
NOBODY = Client("http://127.0.0.1:9")
KNOWS_NOTHING = Client("http://127.0.0.1:9")
KNOWS_NOTHING.call = lambda *_asked: None  # type: ignore[method-assign]


def test_a_shipped_model_speaks_with_its_own_tokenizer() -> None:
    words = tokenizer_of(keccak(read_manifest(shipped())), NOBODY)
    assert words.decode(words.encode("The sea")).strip() == "The sea"


def test_a_model_that_is_not_here_says_how_to_go_on_and_is_shown_as_numbers() -> None:
    with pytest.raises(Unreachable):
        tokenizer_of(UNKNOWN, NOBODY)
    with pytest.raises(NoWords, match=r"0x7777.* neither here nor on the node .* --ids takes token ids"):
        tokenizer_of(UNKNOWN, KNOWS_NOTHING)
    words = words_of(UNKNOWN, NOBODY)
    stream = words.stream()
    assert words.decode([5, 600]) == " 5 600" == stream(5) + stream(600)


@pytest.mark.parametrize(
    ("prompt", "as_ids", "code", "said"),
    [
        ("The sea", False, RUNTIME, "labora model fetch"),
        ("5,x", True, USAGE, "--ids: invalid literal"),
        ("", True, USAGE, "the prompt is empty"),
        ("5,-1", True, USAGE, "-1 is no token id"),
        ("4294967296", True, USAGE, "4294967296 is no token id"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_sent(prompt: str, as_ids: bool, code: int, said: str) -> None:
    with pytest.raises(Fatal, match=said) as caught:
        post_task(KNOWS_NOTHING, bytes(31) + b"\1", Request(prompt, model=UNKNOWN, as_ids=as_ids))
    assert caught.value.code == code


def test_ids_are_read_as_they_are_printed() -> None:
    assert Ids().encode("84, 104 101,32") == [84, 104, 101, 32]
    assert Ids().encode(Ids().decode([7, 8])) == [7, 8]


def test_a_text_does_not_steer_the_terminal() -> None:
    assert printable("a\tb\n\x1b[31m\x07\x9bé\u200d") == "a\tb\n\ufffd[31m\ufffd\ufffdé\u200d"
