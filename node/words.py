"""Which tokenizer speaks for a model: its files on this machine, or those that the node that is asked gives. The chain
knows ids only: who asks and who reads turn them into text here.
"""

import base64
import binascii
import hashlib
import shutil
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

from inference.chunks import read_manifest
from inference.model import MANIFEST_NAME
from inference.program import ProgramError, decode_manifest
from inference.tokenizer import (
    KIND,
    TOKENIZER_BYTES_MAX,
    TOKENIZER_NAME,
    Tokenizer,
    TokenizerUnavailable,
    open_tokenizer,
)
from node.client import Client, RpcFailure, Unreachable, to_hex
from node.config import DataFolder, default_data_dir
from node.store import ModelStore, write_whole
from primitives.hashing import keccak

KEPT_MAX = 32
"""Models whose tokenizers were asked for, at most TOKENIZER_BYTES_MAX each."""


class NoWords(Exception):
    """This machine cannot turn a model's ids into text and back; the text says why, and what to do."""


@cache
def tokenizer_of(model: bytes, node: Client) -> Tokenizer:
    """The tokenizer of a model that ships, lies whole in the data folder (LABORA_DATA_DIR), or is held by the node that
    is asked. Raises NoWords, Unreachable."""
    try:
        folder = ModelStore(DataFolder(default_data_dir()).models, 0).folder_of(model) or _asked_for(model, node)
        return open_tokenizer(folder, decode_manifest(read_manifest(folder)).tokenizer)
    except (ProgramError, TokenizerUnavailable, OSError) as error:
        raise NoWords(f"the tokenizer of model 0x{model.hex()} is of no use: {error}; --ids takes token ids") from error


def _asked_for(model: bytes, node: Client) -> Path:
    """A folder with the manifest and the tokenizer.json that the node has of a model. They are kept, and need no trust:
    the model's id is the manifest's hash, and the manifest names the tokenizer's. Raises NoWords, ProgramError,
    OSError."""
    kept = user_cache_path("labora") / "words"
    folder = kept / model.hex()
    if (folder / MANIFEST_NAME).exists() and keccak(read_manifest(folder)) == model:  # it is written last
        return folder
    try:
        manifest = node.call("labora_modelManifest", to_hex(model))
        if not isinstance(manifest, str):
            raise NoWords(
                f"the tokenizer of model 0x{model.hex()} is neither here nor on the node at {node.url}: --rpc names a "
                f"node that holds the model, `labora model fetch` brings it, or --ids takes token ids"
            )
        if keccak(manifest.encode()) != model:
            raise ProgramError(f"what {node.url} gives is not its manifest")
        kind = decode_manifest(manifest.encode()).tokenizer
        folder.mkdir(parents=True, exist_ok=True)
        if kind != KIND:
            write_whole(folder / TOKENIZER_NAME, _tokenizer_from(model, kind, node))
    except RpcFailure as failure:
        raise NoWords(f"the node at {node.url} gives no tokenizers ({failure.message}): --ids takes ids") from failure
    write_whole(folder / MANIFEST_NAME, manifest.encode())
    _forget(kept)
    return folder


def _forget(kept: Path) -> None:
    """Of what is kept the oldest goes: whoever reads many chains' stories fills no disk."""
    folders = sorted((path for path in kept.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in folders[:-KEPT_MAX]:
        shutil.rmtree(path, ignore_errors=True)  # another command may be at it, too


def _tokenizer_from(model: bytes, sha256: str, node: Client) -> bytes:
    """A tokenizer.json, piece by piece. Raises ProgramError, RpcFailure."""
    data = b""
    total = 1
    while len(data) < total:
        answer = node.call("labora_modelTokenizer", to_hex(model), hex(len(data)))
        try:
            total, piece = int(answer["bytes"]), base64.b64decode(answer["data"], validate=True)
        except (TypeError, KeyError, ValueError, binascii.Error) as error:
            raise ProgramError(f"{node.url} gives no piece of it: {error}") from error
        if not piece or max(total, len(data) + len(piece)) > TOKENIZER_BYTES_MAX:
            raise ProgramError(f"{node.url} gives {len(piece)} bytes of {total}, at most {TOKENIZER_BYTES_MAX}")
        data += piece
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ProgramError(f"what {node.url} gives hashes to {found}, the manifest says {sha256}")
    return data


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


def words_of(model: bytes, node: Client) -> Tokenizer:
    """The tokenizer of a model, or else numbers."""
    try:
        return tokenizer_of(model, node)
    except (NoWords, Unreachable):
        return Ids()
