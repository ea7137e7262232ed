"""Text to token ids and back, on the asker's side only: the chain and its verifiers see ids. For manifests whose
tokenizer is 'bytes': ids 0..255 are the bytes of UTF-8, higher ids (stop) carry no text.
"""

from collections.abc import Iterable

KIND = "bytes"


def encode(text: str) -> list[int]:
    """Ids of a text: its UTF-8 bytes."""
    return list(text.encode())


def decode(ids: Iterable[int]) -> str:
    """Text of ids; bytes that are not UTF-8 become the replacement character."""
    return bytes(token for token in ids if token < 256).decode(errors="replace")
