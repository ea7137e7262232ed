"""GGUF files from outside: what they promise is checked before anything is allocated for it, every refusal names the
field, and their tokenizers encode as llama.cpp does."""

import heapq
import json
import struct
import tracemalloc
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import gguf_file
from inference.gguf_checkpoint import open_file
from inference.gguf_file import read_gguf
from inference.gguf_tokenizer import stop_ids, tokenizer_json
from inference.program import ProgramError
from inference.tokenizer import FromFile

FIELDS: dict[str, Any] = {
    "general.architecture": "llama", "llama.context_length": 32, "llama.embedding_length": 16, "llama.block_count": 1,
    "llama.feed_forward_length": 24, "llama.attention.head_count": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "a", "b", "ab", "\u2581", "</s>"],
    "tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1, 3], "tokenizer.ggml.scores": [0.0] * 7,
    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 6, "tokenizer.ggml.unknown_token_id": 0,
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (7, 16), "output_norm.weight": (16,), "blk.0.attn_norm.weight": (16,),
    "blk.0.ffn_norm.weight": (16,), "blk.0.attn_q.weight": (16, 16), "blk.0.attn_k.weight": (16, 16),
    "blk.0.attn_v.weight": (16, 16), "blk.0.attn_output.weight": (16, 16), "blk.0.ffn_gate.weight": (24, 16),
    "blk.0.ffn_up.weight": (24, 16), "blk.0.ffn_down.weight": (16, 24),
}  # fmt: skip


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value_bytes(value: Any) -> bytes:
    """A metadata value with its type: bool 7, string 8, array 9, uint32 4, float32 6."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kinds = {str: 8, float: 6, int: 5}
    kind = kinds[type(value[0])]
    items = b"".join(text(v) if kind == 8 else struct.pack("<f" if kind == 6 else "<i", v) for v in value)
    return struct.pack("<IIQ", 9, kind, len(value)) + items


def file_bytes(
    fields: dict[str, Any] | None = None, tensors: dict[str, tuple[int, ...]] | None = None, **how: Any
) -> bytes:
    """A whole file, float32, in ggml's layout (docs/gguf.md of ggml)."""
    fields, tensors = FIELDS if fields is None else fields, SHAPES if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", how.get("version", 3), len(tensors), len(fields))
    for key, value in fields.items():
        head += text(key) + value_bytes(value)
    body, alignment = b"", fields.get("general.alignment", 32) or 32
    for name, shape in tensors.items():
        body += b"\0" * (-len(body) % alignment)
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", how.get("type_id", 0), len(body))
        body += np.arange(int(np.prod(shape)), dtype="<f4").tobytes()
    return head + b"\0" * (-len(head) % alignment) + body


def test_a_file_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(file_bytes({**FIELDS, "general.alignment": 64}))
    found = read_gguf(tmp_path / "m.gguf")
    assert found.metadata["tokenizer.ggml.tokens"] == FIELDS["tokenizer.ggml.tokens"]
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == SHAPES
    for name, shape in SHAPES.items():
        assert np.array_equal(found.tensors[name].rows(0, shape[0]), np.arange(np.prod(shape)).reshape(shape))
    assert np.array_equal(found.tensors["token_embd.weight"].rows(2, 4)[0], np.arange(32, 48))
    checkpoint = open_file(tmp_path / "m.gguf")
    assert checkpoint.stop == (6,) and checkpoint.parameters == sum(int(np.prod(s)) for s in SHAPES.values())
    paired = np.arange(256).reshape(2, 4, 2, 16).swapaxes(1, 2).reshape(16, 16)
    assert np.array_equal(checkpoint.rows("layers.0.qkv.weight", 0, 16), paired)
    assert np.array_equal(checkpoint.rows("layers.0.qkv.weight", 5, 19)[:11], paired[5:])


@pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")
def test_the_table_of_types_is_the_package_s() -> None:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    for type_id, (name, block, block_bytes) in gguf_file.TYPES.items():
        kind = GGMLQuantizationType(type_id)
        assert (kind.name, GGML_QUANT_SIZES[kind]) == (name, (block, block_bytes))
        if name not in gguf_file.PLAIN:
            assert dequantize(np.zeros((2, block_bytes), np.uint8), kind).shape == (2, block)


def changed(**changes: Any) -> bytes:
    return file_bytes({k: v for k, v in (FIELDS | changes).items() if v is not None})


def field(name: str, value: Any) -> bytes:
    return changed(**{name: value})


def tensors(**changes: Any) -> bytes:
    return file_bytes(tensors={k: v for k, v in (SHAPES | changes).items() if v is not None})


def patched(old: bytes, new: bytes) -> bytes:
    data = file_bytes()
    assert old in data
    return data.replace(old, new, 1)


LAST_SHAPE = text("blk.0.ffn_down.weight") + struct.pack("<I2Q", 2, 24, 16)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the magic needs 4 bytes"),
        (b"GGML" + bytes(40), "begins with b'GGML'"),
        (file_bytes(version=1), "GGUF version 1"),
        (file_bytes(version=3 << 24), "GGUF version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "promises 9223372036854775808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1000, 0), "promises 1000 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40) + bytes(99), "promises 1099511627776 metadata keys"),
        (patched(text("llama.block_count"), struct.pack("<Q", 2**60)), "a metadata key has 1152921504606846976 bytes"),
        (patched(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 7 << 20) + b"llama"), "needs 7340032 bytes"),
        (patched(struct.pack("<IIQ", 9, 8, 7), struct.pack("<IIQ", 9, 8, 2**31)), "promises 2147483648"),
        (patched(struct.pack("<IIQ", 9, 6, 7), struct.pack("<IIQ", 9, 6, 2**22)), "promises 4194304"),
        (patched(struct.pack("<IIQ", 9, 5, 7), struct.pack("<IIQ", 9, 9, 7)), "array of metadata type 9"),
        (patched(text("llama.block_count") + b"\4", text("llama.block_count") + b"\15"), "metadata type 13"),
        (patched(b"llama.block_count", b"llama.block_c\xffunt"), "no UTF-8"),
        (patched(text("llama.feed_forward_length"), text("llama.context_length") + b"\4\0\0\0\0\0\0\0"), "twice"),
        (field("general.alignment", 48), "alignment is 48"),
        (field("general.alignment", 0), "alignment is 0"),
        (field("general.alignment", 1 << 20), "alignment is 1048576"),
        (file_bytes(type_id=16), "ggml type 16, supported are F32"),
        (file_bytes(type_id=12), "a row of Q4_K is a multiple of 256"),
        (patched(LAST_SHAPE, LAST_SHAPE[:-20] + struct.pack("<I2Q", 5, 24, 16)), "5 dimensions"),
        (patched(LAST_SHAPE, LAST_SHAPE[:-20] + struct.pack("<I2Q", 2, 24, 0)), "has shape"),
        (patched(LAST_SHAPE, LAST_SHAPE[:-20] + struct.pack("<I2Q", 2, 24, 2**62)), "has shape"),
        (patched(LAST_SHAPE, LAST_SHAPE[:-20] + struct.pack("<I2Q", 2, 24, 1000)), "needs 96000 bytes"),
        (file_bytes()[:-1], "needs 1536 bytes"),
        (patched(b"blk.0.ffn_up.weight", b"blk.0.ffn_up.weighs"), "no tensor blk.0.ffn_up.weight"),
        (tensors(**{"blk.0.ffn_up.weight": (23, 16)}), r"ffn_up.weight has shape \(23, 16\)"),
        (tensors(**{"blk.1.ffn_up.weight": (24, 16)}), r"does not explain the tensors \['blk.1.ffn_up.weight'\]"),
        (tensors(**{"rope_freqs.weight": (3,)}), r"rope_freqs.weight has shape \(3,\)"),
        (tensors(**{"rope_freqs.weight": (4,)}), "rope_freqs.weight spans 0.0..3.0"),
        (tensors(**{"token_embd.weight": None}), "no tensor token_embd.weight"),
        (field("general.architecture", "mamba"), "general.architecture is 'mamba'"),
        (field("general.architecture", 3), "general.architecture is 3"),
        (field("llama.embedding_length", 17), "shape"),
        (field("llama.embedding_length", "16"), "embedding_length is '16'"),
        (field("llama.embedding_length", None), "embedding_length is None"),
        (field("llama.expert_count", 8), "llama.expert_count is 8"),
        (field("llama.rope.scaling.type", "yarn"), "llama.rope.scaling.type is 'yarn'"),
        (field("llama.rope.dimension_count", 4), "llama.rope.dimension_count is 4"),
        (field("llama.rope.freq_base", 0.5), "llama.rope.freq_base is 0.5"),
        (field("llama.attention.sliding_window", 64), "llama.attention.sliding_window is 64"),
        (field("llama.final_logit_softcapping", 30.0), "final_logit_softcapping is 30.0"),
        (field("llama.attention.something_new", 1), "llama.attention.something_new is 1"),
        (field("llama.vocab_size", 8), "llama.vocab_size is 8"),
        (field("tokenizer.ggml.model", "rwkv"), "tokenizer.ggml.model is 'rwkv'"),
        (field("tokenizer.ggml.tokens", ["a"]), "has 1 texts, the model 7 tokens"),
        (field("tokenizer.ggml.tokens", ["a", *"aabcde"]), "texts twice"),
        (field("tokenizer.ggml.tokens", ["x" * 20_000, *"abcdef"]), "steps, allowed"),
        (field("tokenizer.ggml.token_type", [1] * 6), "must be 7 integers"),
        (field("tokenizer.ggml.token_type", [7] * 7), "spans 7..7"),
        (field("tokenizer.ggml.scores", [0.0] * 3), "scores must be 7 numbers"),
        (field("tokenizer.ggml.scores", [float("nan")] * 7), "scores must be 7 numbers"),
        (field("tokenizer.ggml.eos_token_id", 7), "eos_token_id is 7"),
        (field("tokenizer.ggml.bos_token_id", None), "bos_token_id is missing"),
        (field("tokenizer.ggml.add_bos_token", 1), "add_bos_token is 1"),
        (changed(**{"tokenizer.ggml.model": "gpt2"}), "tokenizer.ggml.pre is 'None'"),
        (changed(**{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}), "merges has 'None'"),
        (changed(**{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
                    "tokenizer.ggml.merges": ["a b", "b a"]}), "merges has 'b a'"),
    ],
)  # fmt: skip
def test_a_hostile_or_unsupported_file_is_refused_by_what_is_wrong(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ProgramError, match=said):
        open_file(tmp_path / "m.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20, "nothing large was allocated"


@settings(max_examples=300, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)), min_size=1,
                  max_size=4),
    length=st.floats(0, 1),
)  # fmt: skip
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[float, bytes]], length: float
) -> None:
    data = bytearray(file_bytes())
    header = data.index(b"blk.0.ffn_down.weight") + 80
    for place, octets in cuts:
        begin = int(place * header)
        data[begin : begin + len(octets)] = octets
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data[: max(1, int(length * 4 * len(data)))])
    tracemalloc.start()
    try:
        checkpoint = open_file(path)
        assert all(np.isfinite(checkpoint.rows(name)).all() for name in checkpoint.weights)
    except ProgramError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


SPM = [
    "<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", *"abcdeghilnorstuw",
    "er", "he", "in", "an", "\u2581th", "\u2581the", "th", "the", "\u2581the\u2581", "st", "ing", "ring", "string",
    "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "  ",
]  # fmt: skip
SPM_TYPES = [2, 3, 3, *[6] * 256, *[1] * (len(SPM) - 259 - 5), 3, 3, 4, 4, 4]


def spm_metadata(**changes: Any) -> dict[str, Any]:
    scores = [-float(i % 17) - i / 1000 for i in range(len(SPM))]
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": SPM, "tokenizer.ggml.scores": np.array(scores),
        "tokenizer.ggml.token_type": np.array(SPM_TYPES), "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    } | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}  # fmt: skip


def opened(folder: Path, metadata: dict[str, Any]) -> FromFile:
    (folder / "tokenizer.json").write_bytes(tokenizer_json(metadata, len(metadata["tokenizer.ggml.tokens"])))
    return FromFile(folder / "tokenizer.json")


def spm(piece: str, metadata: dict[str, Any]) -> list[int]:
    """llama.cpp's rule by its definition: of all neighbours whose union is a token, the best score merges first, the
    leftmost of equals; what is no token at the end is its bytes."""
    ids = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    scores = metadata["tokenizer.ggml.scores"]
    symbols: list[str] = list(piece)
    while True:
        pairs = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(pairwise(symbols))
                 if a + b in ids]  # fmt: skip
        if not pairs:
            break
        i = heapq.nsmallest(1, pairs)[0][1]
        symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
    return [j for s in symbols for j in ([ids[s]] if s in ids else [ids[f"<0x{b:02X}>"] for b in s.encode()])]


@settings(max_examples=200, deadline=None)
@given(words=st.text(alphabet="aehinrstgx \u00e9\u20ac", max_size=40))
def test_sentencepiece_merges_as_llama_cpp_does(tmp_path_factory: pytest.TempPathFactory, words: str) -> None:
    words = words.replace("  ", " ")
    metadata = spm_metadata(add_space_prefix=False)
    tokenizer = opened(tmp_path_factory.getbasetemp(), metadata)
    words = words.replace("  ", "a")  # two spaces are a user-defined token, found before anything merges
    assert tokenizer.encode(words) == [1, *spm(words.replace(" ", "\u2581"), metadata)]
    assert tokenizer.decode(tokenizer.encode(words)) == words


def test_special_tokens_are_found_first_and_a_space_stands_in_front_where_the_file_wants_it(tmp_path: Path) -> None:
    ids = {token: i for i, token in enumerate(SPM)}
    plain = opened(tmp_path, spm_metadata(add_space_prefix=False))
    assert plain.encode("") == [1]
    found = plain.encode("<start_of_turn>the\n\n\n  x")
    assert found == [1, ids["<start_of_turn>"], ids["the"], ids["\n\n"], ids["\n"], ids["  "], ids["<0x78>"]]
    assert plain.decode(found) == "the\n\n\n  x"
    spaced = opened(tmp_path, spm_metadata())
    assert spaced.encode("the") == [1, ids["\u2581the"]]
    assert spaced.decode([ids["\u2581the"], ids["\u2581the"]]) == "the the"
    bare = opened(tmp_path, spm_metadata(add_bos_token=False, add_eos_token=True, add_space_prefix=False))
    assert bare.encode("the") == [ids["the"], 2]
    assert stop_ids(spm_metadata(), len(SPM)) == (2, ids["<end_of_turn>"])


def bpe_metadata(pre: str) -> dict[str, Any]:
    """Byte-level BPE over the 256 characters that stand for bytes, with a few merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    octets = [chr(i) if i in printable else chr(next(rest)) for i in range(256)]
    merges = ["t h", "th e", "\u0120 the", "1 2", "12 3", "o n"]
    tokens = [*octets, *("".join(merge.split(" ")) for merge in merges), "<|im_end|>"]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * (len(tokens) - 1) + [3]), "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pre", "begins", "digits"),
    [("llama-bpe", True, ["123", "4"]), ("qwen2", False, ["1", "2", "3", "4"]), ("gpt-2", False, ["123", "4"]),
     ("smollm", False, ["1", "2", "3", "4"])],
)  # fmt: skip
def test_byte_level_bpe_cuts_words_as_its_kind_does(
    tmp_path: Path, pre: str, begins: bool, digits: list[str]
) -> None:
    metadata = bpe_metadata(pre)
    tokenizer, tokens = opened(tmp_path, metadata), metadata["tokenizer.ggml.tokens"]
    found = tokenizer.encode("the the1234<|im_end|>")
    assert [tokens[i] for i in found[begins:]] == ["the", "\u0120the", *digits, "<|im_end|>"]
    assert (found[0] == 0) is begins
    words = "ring\u00e9 \u20ac  the\n"
    assert tokenizer.decode(tokenizer.encode(words)[begins:]) == words
    assert stop_ids(metadata, len(tokens)) == (len(tokens) - 1,)


def test_padding_and_truncation_of_a_file_do_not_touch_a_text(tmp_path: Path) -> None:
    whole = json.loads(tokenizer_json(spm_metadata(), len(SPM)))
    whole["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    whole["padding"] = {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                        "pad_type_id": 0, "pad_token": "<unk>"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    plain = opened(tmp_path, spm_metadata())
    expected = plain.encode("the string in the string")
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    assert FromFile(tmp_path / "tokenizer.json").encode("the string in the string") == expected
    assert 4 < len(expected) < 20
