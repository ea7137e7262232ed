"""Text to token ids and back, on the asker's side only: the chain and its verifiers see ids. A manifest's tokenizer is
'bytes' (ids 0..255 are the bytes of UTF-8, higher ids carry no text) or the SHA-256 of the tokenizer.json that lies
beside it, which the `tokenizers` package runs.
"""

import codecs
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from inference.program import ProgramError

KIND = "bytes"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_BYTES_MAX = 64 << 20


class TokenizerUnavailable(RuntimeError):
    """The package that runs a tokenizer.json is not installed."""


class Tokenizer(Protocol):
    """One model's text."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with what the model wants before and after it."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids."""

    def stream(self) -> Callable[[int], str]:
        """A function that is given one id after the other and returns the text that has become certain."""


def encode(text: str) -> list[int]:
    """Ids of a text: its UTF-8 bytes."""
    return list(text.encode())


def decode(ids: Iterable[int]) -> str:
    """Text of ids; bytes that are not UTF-8 become the replacement character."""
    return bytes(token for token in ids if token < 256).decode(errors="replace")


def open_tokenizer(folder: Path, kind: str) -> Tokenizer:
    """The tokenizer that a manifest names. Raises ProgramError, OSError or TokenizerUnavailable."""
    if kind == KIND:
        return Bytes()
    path = folder / TOKENIZER_NAME
    if (found := fingerprint(path)) != kind:
        raise ProgramError(f"{path} hashes to {found}, the manifest says {kind}")
    return FromFile(path)


def fingerprint(path: Path) -> str:
    """SHA-256 of a tokenizer.json in hex."""
    return hashlib.sha256(read_tokenizer(path)).hexdigest()


def read_tokenizer(path: Path) -> bytes:
    """The bytes of a tokenizer.json, if they are not too many."""
    if (size := path.stat().st_size) > TOKENIZER_BYTES_MAX:
        raise ProgramError(f"{path} has {size} bytes, allowed {TOKENIZER_BYTES_MAX}")
    return path.read_bytes()


class Bytes:
    """Ids are bytes."""

    def encode(self, text: str) -> list[int]:
        """Its UTF-8 bytes."""
        return encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids above 255 are left out."""
        return decode(ids)

    def stream(self) -> Callable[[int], str]:
        """Holds back the beginning of a character until its last byte is there."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return lambda token: decoder.decode(bytes([token])) if token < 256 else ""


class FromFile:
    """A tokenizer.json run by the `tokenizers` package."""

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise TokenizerUnavailable(
                f"this model's text needs the package 'tokenizers' (pip install tokenizers): {error}"
            ) from error
        self._decode_stream: Any = tokenizers.decoders.DecodeStream
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing more specific
            raise ProgramError(f"{path} is no tokenizer: {str(error)[:200]}") from error
        # Some files fill up or cut every text to one length, for batches: here a text has the length it has.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, text: str) -> list[int]:
        """With the special tokens of the file's post-processor."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(list(ids)))

    def stream(self) -> Callable[[int], str]:
        """Holds back incomplete characters."""
        stream = self._decode_stream(skip_special_tokens=True)
        return lambda token: stream.step(self._tokenizer, token) or ""
