"""Which files on this machine belong to a model, and through them which tokenizer speaks for it. The chain knows ids
only: who asks and who reads turn them into text here.
"""

from functools import cache

from inference.chunks import read_manifest
from inference.program import decode_manifest
from inference.tokenizer import Bytes, Tokenizer, open_tokenizer
from node.config import DataFolder, default_data_dir
from node.store import ModelStore


@cache
def tokenizer_of(model: bytes) -> Tokenizer:
    """The tokenizer of a model that ships or lies whole in the data folder (LABORA_DATA_DIR); any other model is taken
    to speak bytes. Raises ProgramError when the files are damaged, TokenizerUnavailable without the package that runs
    them."""
    folder = ModelStore(DataFolder(default_data_dir()).models, 0).folder_of(model)
    if folder is None:
        return Bytes()
    return open_tokenizer(folder, decode_manifest(read_manifest(folder)).tokenizer)
