"""Shows an answer while it is being made: asks the node for its soft answers, prints what is new, and says so when the
answer of the chain is another one in the end. What it shows is never final."""

from collections.abc import Callable
from typing import Any

from node.client import Client, RpcFailure, to_hex
from node.story import Story, short
from node.words import printable
from primitives.task import Status


class Watcher:
    """Of one task, on one screen. `write` prints a text as it is, without an end of line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._tokens: list[int] = []
        self._stream: Callable[[int], str] | None = None
        self._open_line = False
        self._over = False

    def look(self, client: Client, task: bytes) -> None:
        """Ask for what is new and show it, once the task is dealt as far as the story has been told."""
        if self._stream is None or self._over:
            return
        try:
            answers = client.call("labora_softAnswers", to_hex(task), hex(len(self._tokens)))
        except RpcFailure:  # a node that knows no such method shows nothing
            self._over = True
            return
        for answer in answers:
            # One operator is followed; another only continues where it stopped, and honest ones do not differ.
            self._take(answer)

    def line(self, text: str) -> None:
        """Print a line of the story, beginning at the left."""
        self._close_line()
        self._write(text + "\n")

    def story(self, story: Story) -> None:
        """The story so far: begins to show, and when there is an answer compares it with what was shown."""
        if story.kind.is_vector or story.is_tolerant or self._over:
            self._over = True
            return
        if self._stream is None and story.status is not Status.POSTED:
            self._stream = story.words.stream()
        output = story.told["output"]
        if output is None:
            return
        self._over = True
        self._close_line()
        shown = self._tokens
        differs = next((i for i, (a, b) in enumerate(zip(shown, output, strict=False)) if a != b), None)
        if differs is None and len(shown) > len(output):
            differs = len(output)
        if differs is not None:
            self._write(f"what was shown so far is not the answer: it differs from token {differs + 1} on\n")

    def _take(self, answer: dict[str, Any]) -> None:
        assert self._stream is not None
        first, tokens = answer["first"], answer["tokens"]
        if first != len(self._tokens) or not tokens:
            return
        if not self._open_line:
            self._write(f"so far, not final, from {short(answer['operator'])}: ")
            self._open_line = True
        self._tokens += tokens
        self._write(printable("".join(map(self._stream, tokens))))

    def _close_line(self) -> None:
        if self._open_line:
            self._write("\n")
            self._open_line = False
