"""A GGUF file as a checkpoint: which architectures and fields can become a program, and where llama.cpp's converter
puts each weight. What is not supported is refused by the name of the field, a field that is not known too.

The converter changes two things that are changed back here: it pairs the rows of Llama's query and key heads for a
rotation of neighbours (this program turns i and i + half), and it keeps Gemma's gains with their 1 added already.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from inference import program as cip
from inference.checkpoint import LAYERS_PER_GROUP, Checkpoint, Weight, gather, parameters, shown
from inference.gguf_file import read_gguf
from inference.gguf_tokenizer import stop_ids, tokenizer_json
from inference.tables import Rope

KINDS = ("gemma3", "llama", "qwen2", "qwen3")
# Fields of an architecture that are read below, and those that say nothing of the arithmetic.
READ = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base", "rope.freq_base_swa",
    "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
}  # fmt: skip
SILENT = {"rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout"}
# Fields that change the arithmetic in a way that no program has, unless they hold this.
PLAIN: Mapping[str, Any] = {
    "expert_count": 0, "expert_used_count": 0, "use_parallel_residual": False, "attention.causal": True,
    "attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0, "attention.scale": 0.0, "logit_scale": 0.0,
    "attention.clamp_kqv": 0.0, "rope.scaling.attn_factor": 1.0,
}  # fmt: skip
NAMES = {
    "attention_norm.gain": "attn_norm.weight", "mlp_norm.gain": "ffn_norm.weight",
    "post_attention_norm.gain": "post_attention_norm.weight", "post_mlp_norm.gain": "post_ffw_norm.weight",
    "q_norm.gain": "attn_q_norm.weight", "k_norm.gain": "attn_k_norm.weight", "out.weight": "attn_output.weight",
    **{f"{part}.{end}": f"attn_{part}.{end}" for part in "qkv" for end in ("weight", "bias")},
    **{f"{part}.weight": f"ffn_{part}.weight" for part in ("gate", "up", "down")},
}  # fmt: skip
ENDS = {"embedding.weight": "token_embd.weight", "norm.gain": "output_norm.weight", "head.weight": "output.weight"}
FACTORS = "rope_freqs.weight"  # what Llama 3's rule divides each pair's frequency by
GEMMA_27B_LAYERS = 62  # the one Gemma 3 whose scores are divided by the root of width / heads


@dataclass(frozen=True, slots=True)
class _Unpaired:
    """Rows of query or key heads, of which the file has rows 2j and 2j + 1 where the program has j and j + half."""

    inner: Weight
    head_width: int

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    def rows(self, begin: int, end: int) -> np.ndarray:
        width = self.head_width
        first, last = begin // width * width, -(-end // width) * width
        stored = self.inner.rows(first, last)
        rows = stored.reshape(-1, width // 2, 2, *stored.shape[1:]).swapaxes(1, 2).reshape(stored.shape)
        return rows[begin - first : end - first]


def open_file(path: Path) -> Checkpoint:
    """Look a file over. Raises ProgramError (what cannot become a program, and why), FormatUnavailable or OSError."""
    gguf = read_gguf(path)
    metadata = gguf.metadata
    kind = metadata.get("general.architecture")
    if kind not in KINDS:
        raise cip.ProgramError(f"general.architecture is {shown(kind)}, supported are {', '.join(KINDS)}")
    fields = _Fields(metadata, kind)
    fields.check()
    weights: dict[str, Weight] = dict(gguf.tensors)
    if "token_embd.weight" not in weights or len(weights["token_embd.weight"].shape) != 2:
        raise cip.ProgramError("the checkpoint has no tensor token_embd.weight of two dimensions")
    shape, epsilon = _shape(fields, weights["token_embd.weight"].shape[0])
    factors = weights.pop(FACTORS, None)
    if kind == "llama":
        for name in [name for name in weights if re.search(r"\.attn_[qk]\.weight$", name)]:
            if weights[name].shape[0] % shape.head_width:
                raise cip.ProgramError(f"{name} has {weights[name].shape[0]} rows, heads have {shape.head_width}")
            weights[name] = _Unpaired(weights[name], shape.head_width)
    tied = "output.weight" not in weights
    rope, local_rope = _ropes(fields, shape, factors)
    return Checkpoint(
        path, shape, rope, local_rope, stop_ids(metadata, shape.vocabulary), epsilon,
        math.sqrt(shape.width) if kind == "gemma3" else 1.0, tokenizer_json(metadata, shape.vocabulary),
        gather(weights, shape, tied, file_name), parameters(weights),
    )  # fmt: skip


def file_name(part: str) -> str:
    """The name in a GGUF file of a part of checkpoint.parts_of."""
    if not part.startswith("layers."):
        return ENDS[part]
    _, layer, rest = part.split(".", 2)
    return f"blk.{layer}.{NAMES[rest]}"


class _Fields:
    """The fields of one architecture."""

    def __init__(self, metadata: Mapping[str, Any], kind: str) -> None:
        self.kind, self._metadata = kind, metadata

    def check(self) -> None:
        """Refuse what is not known, and what no program does."""
        for key, value in self._metadata.items():
            field = key.removeprefix(f"{self.kind}.")
            if field == key or field in READ or field in SILENT:
                continue
            if field not in PLAIN or isinstance(value, np.ndarray) or value != PLAIN[field]:
                raise cip.ProgramError(f"{key} is {shown(value)}, which is not supported")

    def integer(self, field: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._metadata.get(f"{self.kind}.{field}", default)
        if type(value) is not int or not 0 < value <= 1 << 40:
            raise cip.ProgramError(f"{self.kind}.{field} is {shown(value)}, must be a positive integer")
        return value

    def number(self, field: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._metadata.get(f"{self.kind}.{field}", default)
        if type(value) not in (int, float) or not 0 < value <= 2**53:
            raise cip.ProgramError(f"{self.kind}.{field} is {shown(value)}, must be a positive number")
        return value

    def get(self, field: str) -> Any:
        """Whatever is there, or None."""
        return self._metadata.get(f"{self.kind}.{field}")


def _shape(fields: _Fields, vocabulary: int) -> tuple[cip.Shape, float]:
    kind, gemma = fields.kind, fields.kind == "gemma3"
    width, layers = fields.integer("embedding_length"), fields.integer("block_count")
    heads = fields.integer("attention.head_count")
    head_width = fields.integer("attention.key_length", width // heads or 1)
    for field in ("attention.value_length", "rope.dimension_count"):
        if fields.integer(field, head_width) != head_width:
            raise cip.ProgramError(f"{kind}.{field} is {fields.get(field)}, heads are {head_width} wide: not supported")
    if fields.integer("vocab_size", vocabulary) != vocabulary:
        raise cip.ProgramError(f"{kind}.vocab_size is {fields.get('vocab_size')}, the embedding has {vocabulary} rows")
    if not gemma and fields.get("attention.sliding_window"):
        raise cip.ProgramError(f"{kind}.attention.sliding_window is {fields.get('attention.sliding_window')}, "
                               "which is not supported")  # fmt: skip
    epsilon = fields.number("attention.layer_norm_rms_epsilon")
    divisor = width // heads if layers == GEMMA_27B_LAYERS else head_width
    shape = cip.Shape(
        vocabulary=vocabulary, context=fields.integer("context_length"), width=width, layers=layers, heads=heads,
        kv_heads=fields.integer("attention.head_count_kv", heads), head_width=head_width, rotary=head_width,
        hidden=fields.integer("feed_forward_length"), norm_epsilon_q32=max(1, round(epsilon * 2**32)),
        layers_per_group=LAYERS_PER_GROUP, kind=kind,
        window=fields.integer("attention.sliding_window") if gemma else 0,
        window_pattern=fields.integer("attention.sliding_window_pattern", 6) if gemma else 0,
        score_divisor=divisor if gemma else 0,
    )  # fmt: skip
    cip.check_shape(shape)
    return shape, epsilon


def _ropes(fields: _Fields, shape: cip.Shape, factors: Weight | None) -> tuple[Rope, Rope]:
    """How positions turn in layers that see all, and in those that see a window."""
    theta = _theta(fields, "rope.freq_base", 1e6 if fields.kind == "gemma3" else 1e4)
    scaling, local = fields.get("rope.scaling.type"), Rope(_theta(fields, "rope.freq_base_swa", 1e4))
    if factors is not None:
        if factors.shape != (shape.rotary // 2,) or scaling not in (None, "none"):
            raise cip.ProgramError(f"{FACTORS} has shape {factors.shape} beside {fields.kind}.rope.scaling.type "
                                   f"{shown(scaling)}, must have {shape.rotary // 2} values and be alone")  # fmt: skip
        values = factors.rows(0, shape.rotary // 2)
        if not (values >= 1).all() or not (values <= 1e9).all():
            raise cip.ProgramError(f"{FACTORS} spans {values.min()}..{values.max()}, must be at least 1")
        return Rope(theta, "divided", divisors=tuple(Decimal(float(value)) for value in values)), local
    if scaling in (None, "none"):
        return Rope(theta), local
    if scaling != "linear":
        raise cip.ProgramError(f"{fields.kind}.rope.scaling.type is {shown(scaling)}, supported are none and linear")
    factor = fields.number("rope.scaling.factor")
    if factor < 1:
        raise cip.ProgramError(f"{fields.kind}.rope.scaling.factor is {factor}, must be at least 1")
    return Rope(theta, "linear", Decimal(repr(factor))), local


def _theta(fields: _Fields, field: str, default: float) -> int:
    theta = fields.number(field, default)
    if theta < 1 or theta != int(theta):
        raise cip.ProgramError(f"{fields.kind}.{field} is {theta}, must be a whole number")
    return int(theta)
