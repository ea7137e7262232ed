"""Which files on this machine belong to a model, and through them which tokenizer speaks for it. The chain knows ids
only: who asks and who reads turn them into text here.
"""

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache

from inference.chunks import read_manifest
from inference.program import ProgramError, decode_manifest
from inference.tokenizer import Tokenizer, TokenizerUnavailable, open_tokenizer
from node.config import DataFolder, default_data_dir
from node.store import ModelStore


class NoWords(Exception):
    """This machine cannot turn a model's ids into text and back; the text says why, and what to do."""


@cache
def tokenizer_of(model: bytes) -> Tokenizer:
    """The tokenizer of a model that ships or lies whole in the data folder (LABORA_DATA_DIR). Raises NoWords."""
    folder = ModelStore(DataFolder(default_data_dir()).models, 0).folder_of(model)
    if folder is None:
        raise NoWords(
            f"the tokenizer of model 0x{model.hex()} is not here: `labora model fetch` brings it into the folder "
            f"that LABORA_DATA_DIR names, or --ids takes token ids"
        )
    try:
        return open_tokenizer(folder, decode_manifest(read_manifest(folder)).tokenizer)
    except (ProgramError, TokenizerUnavailable, OSError) as error:
        raise NoWords(f"the tokenizer of model 0x{model.hex()} is of no use: {error}; --ids takes token ids") from error


class Ids:
    """Stands in where there is no tokenizer: ids as numbers."""

    def encode(self, text: str) -> list[int]:
        """Ids in decimal, with commas or spaces between them. Raises ValueError."""
        return [int(word) for word in text.replace(",", " ").split()]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids in decimal, each after a space."""
        return "".join(f" {token}" for token in ids)

    def stream(self) -> Callable[[int], str]:
        """One id after the other."""
        return lambda token: f" {token}"


def printable(text: str) -> str:
    """A text of a model without what would steer a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in text)


def words_of(model: bytes) -> Tokenizer:
    """The tokenizer of a model, or else numbers."""
    try:
        return tokenizer_of(model)
    except NoWords:
        return Ids()
