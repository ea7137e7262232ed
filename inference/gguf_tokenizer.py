"""The tokenizer in a GGUF file's metadata as a tokenizer.json that encodes as llama.cpp does: 'llama' (SentencePiece's
BPE: of all neighbours whose union is a token, the one with the best score merges first, and what is no token falls back
to bytes) and 'gpt2' (byte-level BPE with merges). Other kinds are refused by the name of the field.

Writes text, reads metadata that gguf_file.py has bounded, and needs no package.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from inference import program as cip

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"
# Splitting every token in two at each place is the work of turning scores into merges: 16 million for Gemma 3.
SPLIT_WORK_MAX = 1 << 28
_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# By tokenizer.ggml.pre: the patterns that cut a text into words, one after the other; whether a word that is a token
# needs no merges; whether a text begins with the begin-of-text token unless the file says otherwise.
BPE_KINDS: Mapping[str, tuple[tuple[str, ...], bool, bool]] = {
    "llama-bpe": ((_CONTRACTIONS + _WORDS % r"\p{N}{1,3}",), True, True),
    "qwen2": ((_CONTRACTIONS + _WORDS % r"\p{N}",), False, False),
    "gpt-2": ((_GPT2,), False, False),
    "smollm": ((r"\p{N}", _GPT2), False, False),
}
# Tokens that end an answer beside the end-of-text token, by their texts, as llama.cpp takes them.
END_TEXTS = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>"}


def tokenizer_json(metadata: Mapping[str, Any], vocabulary: int) -> bytes:
    """The tokenizer.json of a file's metadata. Raises ProgramError naming the field that is not supported."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens, types = _tokens(metadata, vocabulary)
    if kind == "llama":
        parts = _sentencepiece(metadata, tokens, types)
        begins = True
    elif kind == "gpt2":
        parts, begins = _byte_level(metadata, tokens)
    else:
        raise cip.ProgramError(f"tokenizer.ggml.model is {str(kind)[:80]!r}, supported are 'llama' and 'gpt2'")
    added = [
        {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": bool(types[i] != USER_DEFINED)}
        for i in np.flatnonzero((types == CONTROL) | (types == USER_DEFINED) | (types == UNKNOWN)).tolist()
    ]  # fmt: skip
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
             "post_processor": _template(metadata, tokens, begins)} | parts  # fmt: skip
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def stop_ids(metadata: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Ids that end an answer: what the file names, and the ends of a turn by their texts. Raises ProgramError."""
    tokens, types = _tokens(metadata, vocabulary)
    named = [_id(metadata, f"tokenizer.ggml.{field}", vocabulary) for field in ("eos_token_id", "eot_token_id")]
    ends = [i for i in np.flatnonzero(types == CONTROL).tolist() if tokens[i] in END_TEXTS]
    ids = dict.fromkeys([*(i for i in named if i is not None), *ends])
    return tuple(sorted(ids)[: cip.STOP_IDS_MAX])


def _tokens(metadata: Mapping[str, Any], vocabulary: int) -> tuple[list[str], np.ndarray]:
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or len(tokens) != vocabulary or not all(type(token) is str for token in tokens):
        count = len(tokens) if isinstance(tokens, list) else "no list of"
        raise cip.ProgramError(f"tokenizer.ggml.tokens has {count} texts, the model {vocabulary} tokens")
    if types is None:
        types = np.full(vocabulary, NORMAL)
    if not isinstance(types, np.ndarray) or types.shape != (vocabulary,) or types.dtype.kind not in "iu":
        raise cip.ProgramError(f"tokenizer.ggml.token_type must be {vocabulary} integers")
    if types.min() < NORMAL or types.max() > BYTE:
        raise cip.ProgramError(f"tokenizer.ggml.token_type spans {types.min()}..{types.max()}, allowed 1..6")
    if len(set(tokens)) != vocabulary:
        raise cip.ProgramError(f"tokenizer.ggml.tokens has {vocabulary - len(set(tokens))} texts twice")
    return tokens, types


def _id(metadata: Mapping[str, Any], field: str, vocabulary: int) -> int | None:
    value = metadata.get(field)
    if value is not None and (type(value) is not int or not 0 <= value < vocabulary):
        raise cip.ProgramError(f"{field} is {str(value)[:80]}, must be a token id below {vocabulary}")
    return value


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: np.ndarray) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or scores.shape != (len(tokens),) or not np.isfinite(scores).all():
        raise cip.ProgramError(f"tokenizer.ggml.scores must be {len(tokens)} numbers")
    unknown = _id(metadata, "tokenizer.ggml.unknown_token_id", len(tokens))
    normalizer: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if _flag(metadata, "tokenizer.ggml.add_space_prefix", True):
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, normalizer]}
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": normalizer, "pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(tokens, _merges(tokens, types, scores)) | {
            "unk_token": None if unknown is None else tokens[unknown], "fuse_unk": True,
            "byte_fallback": bool((types == BYTE).any()),
        },
    }  # fmt: skip


def _merges(tokens: list[str], types: np.ndarray, scores: np.ndarray) -> list[tuple[str, str]]:
    """Every pair of tokens whose union is a token, the best score of the union first: then a pair's rank orders merges
    as the union's score does. Of one token's pairs the one with the shortest left side comes first."""
    if (work := sum(len(token) ** 2 for token in tokens)) > SPLIT_WORK_MAX:
        raise cip.ProgramError(f"tokenizer.ggml.tokens: texts so long that merging them takes {work} steps, "
                               f"allowed {SPLIT_WORK_MAX}")  # fmt: skip
    known = {token for token, kind in zip(tokens, types.tolist(), strict=True) if kind in (NORMAL, USER_DEFINED)}
    merges: list[tuple[str, str]] = []
    for i in np.lexsort((np.arange(len(tokens)), -scores)).tolist():
        token = tokens[i]
        if types[i] == NORMAL:
            merges += [(token[:cut], token[cut:]) for cut in range(1, len(token))
                       if token[:cut] in known and token[cut:] in known]  # fmt: skip
    return merges


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> tuple[dict[str, Any], bool]:
    kind = metadata.get("tokenizer.ggml.pre")
    if not isinstance(kind, str) or kind not in BPE_KINDS:
        raise cip.ProgramError(f"tokenizer.ggml.pre is {str(kind)[:80]!r}, supported are {', '.join(BPE_KINDS)}")
    patterns, ignore_merges, begins = BPE_KINDS[kind]
    merges = metadata.get("tokenizer.ggml.merges")
    known = set(tokens)
    pairs = []
    for merge in merges if isinstance(merges, list) else [None]:
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else ()
        if len(pair) != 2 or not {*pair, "".join(pair)} <= known:
            raise cip.ProgramError(f"tokenizer.ggml.merges has {str(merge)[:80]!r}, must be two tokens whose union "
                                   "is one")  # fmt: skip
        pairs.append(pair)
    split = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
             for pattern in patterns]  # fmt: skip
    octets = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    parts = {
        "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*split, octets]},
        "decoder": octets, "model": _bpe(tokens, pairs) | {"ignore_merges": ignore_merges},
    }  # fmt: skip
    return parts, begins


def _bpe(tokens: list[str], merges: list[Any]) -> dict[str, Any]:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges,
    }  # fmt: skip


def _template(metadata: Mapping[str, Any], tokens: list[str], begins: bool) -> dict[str, Any] | None:
    """What is put before and after a text."""
    ends = {}
    for field, wanted in (("bos", begins), ("eos", False)):
        if _flag(metadata, f"tokenizer.ggml.add_{field}_token", wanted):
            token = _id(metadata, f"tokenizer.ggml.{field}_token_id", len(tokens))
            if token is None:
                raise cip.ProgramError(f"tokenizer.ggml.{field}_token_id is missing, the tokenizer adds it to texts")
            ends[field] = token
    if not ends:
        return None

    def template(*sequences: str) -> list[dict[str, Any]]:
        single: list[dict[str, Any]] = []
        for number, sequence in enumerate(sequences):
            around = [{"SpecialToken": {"id": tokens[ends[end]], "type_id": number}} for end in ends]
            text = {"Sequence": {"id": sequence, "type_id": number}}
            single += [*around[: "bos" in ends], text, *around["bos" in ends :]]
        return single

    special = {tokens[i]: {"id": tokens[i], "ids": [i], "tokens": [tokens[i]]} for i in ends.values()}
    return {"type": "TemplateProcessing", "single": template("A"), "pair": template("A", "B"),
            "special_tokens": special}  # fmt: skip


def _flag(metadata: Mapping[str, Any], field: str, default: bool) -> bool:
    value = metadata.get(field, default)
    if type(value) is not bool:
        raise cip.ProgramError(f"{field} is {str(value)[:80]}, must be true or false")
    return value
