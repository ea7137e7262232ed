"""Which files on this machine belong to a model, and through them which tokenizer speaks for it. The chain knows ids
only: who asks and who reads turn them into text here.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from inference.program import decode_manifest
from inference.tokenizer import Bytes, Tokenizer, open_tokenizer
from primitives.hashing import keccak

MANIFEST = "manifest.json"


def find_models(model_dir: str) -> Mapping[bytes, Path]:
    """Model id -> folder, of a folder's models or of those that ship: the id is the hash of the manifest's bytes."""
    root = Path(model_dir) if model_dir else Path(str(files("genesis.models")))
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    return {keccak((path / MANIFEST).read_bytes()): path for path in candidates if (path / MANIFEST).exists()}


@cache
def tokenizer_of(model: bytes) -> Tokenizer:
    """The tokenizer of a shipped model; any other model is taken to speak bytes. Raises ProgramError when the files
    are damaged, TokenizerUnavailable without the package that runs them."""
    folder = find_models("").get(model)
    if folder is None:
        return Bytes()
    return open_tokenizer(folder, decode_manifest((folder / MANIFEST).read_bytes()).tokenizer)
