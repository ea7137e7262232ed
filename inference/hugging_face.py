"""A Hugging Face folder, read without trust: config.json, one model.safetensors or shards with an index, tokenizer.json
if there is one. Owns which of them can become a program and where each weight lies. Every size, offset and dtype is
checked against the files before anything is allocated; what is not supported is refused by the name of its field.

Never unpickles: a folder that only has .bin files is refused. Knows no integer program beyond its shape.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from inference import program as cip
from inference.checkpoint import LAYERS_PER_GROUP, Checkpoint, gather, parameters, shown
from inference.model import HEADER_BYTES_MAX
from inference.tables import Rope
from inference.tokenizer import TOKENIZER_NAME, read_tokenizer

CONFIG_NAME, SINGLE_NAME, INDEX_NAME = "config.json", "model.safetensors", "model.safetensors.index.json"
POOLING_NAME = "1_Pooling/config.json"  # how sentence-transformers makes one vector of an encoder's positions
CONFIG_BYTES_MAX, INDEX_BYTES_MAX = 1 << 20, 64 << 20
SHARDS_MAX, DIMENSIONS_MAX = 4096, 8
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# By model_type: the kind of program.
KINDS = {"bert": "bert", "gemma3_text": "gemma3", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# The activation of each kind and the config's field for it.
ACTIVATIONS = {"bert": ("hidden_act", "gelu"), "gemma3": ("hidden_activation", "gelu_pytorch_tanh")}
# Fields that change the arithmetic in a way that no program has, unless they are absent, null, false, or as here.
PLAIN: Mapping[str, Any] = {
    "attention_bias": False, "mlp_bias": False, "quantization_config": None, "use_sliding_window": False,
    "partial_rotary_factor": 1.0, "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "use_bidirectional_attention": False, "is_decoder": False, "add_cross_attention": False,
    "position_embedding_type": "absolute",
}  # fmt: skip
# Where a decoder's layer keeps its parts; kinds with norms around each sub-layer name two of them otherwise.
DECODER = {
    "attention_norm.gain": "input_layernorm.weight", "mlp_norm.gain": "post_attention_layernorm.weight",
    "q_norm.gain": "self_attn.q_norm.weight", "k_norm.gain": "self_attn.k_norm.weight",
    "out.weight": "self_attn.o_proj.weight",
    **{f"{part}.{end}": f"self_attn.{part}_proj.{end}" for part in "qkv" for end in ("weight", "bias")},
    **{f"{part}.weight": f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")},
}  # fmt: skip
SANDWICH = {
    "post_attention_norm.gain": "post_attention_layernorm.weight", "mlp_norm.gain": "pre_feedforward_layernorm.weight",
    "post_mlp_norm.gain": "post_feedforward_layernorm.weight",
}  # fmt: skip
DECODER_ENDS = {
    "embedding.weight": "model.embed_tokens.weight", "norm.gain": "model.norm.weight", "head.weight": "lm_head.weight",
}  # fmt: skip
ENCODER = {
    **{f"{short}.{end}": f"attention.self.{name}.{end}"
       for short, name in (("q", "query"), ("k", "key"), ("v", "value")) for end in ("weight", "bias")},
    **{f"{ours}.{end}": f"{theirs}.{end}" for ours, theirs in
       (("out", "attention.output.dense"), ("up", "intermediate.dense"), ("down", "output.dense"))
       for end in ("weight", "bias")},
    **{f"{ours}_norm.{end}": f"{theirs}.LayerNorm.{their_end}"
       for ours, theirs in (("attention", "attention.output"), ("mlp", "output"))
       for end, their_end in (("gain", "weight"), ("bias", "bias"))},
}  # fmt: skip
ENCODER_ENDS = {
    "embedding.weight": "embeddings.word_embeddings.weight", "position.weight": "embeddings.position_embeddings.weight",
    "token_type.weight": "embeddings.token_type_embeddings.weight",
    "embedding_norm.gain": "embeddings.LayerNorm.weight", "embedding_norm.bias": "embeddings.LayerNorm.bias",
}  # fmt: skip
# Tensors that only repeat what the config says.
BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")
# An encoder's tensors that no embedding by the mean of its positions needs.
ENCODER_UNUSED = ("pooler.", "cls.", "bert.pooler.")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one weight lies: the file, its dtype there, its shape, the offset of its first byte; `plus` is added to
    every value (gains that are kept as their distance from 1)."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    plus: float = 0.0

    def rows(self, begin: int, end: int) -> np.ndarray:
        """float32 rows [begin, end) (bfloat16 widened: numpy has none)."""
        dtype = np.dtype(DTYPES[self.dtype])
        row_bytes = math.prod(self.shape[1:]) * dtype.itemsize
        with self.path.open("rb") as file:
            file.seek(self.begin + begin * row_bytes)
            data = file.read((end - begin) * row_bytes)
        if len(data) != (end - begin) * row_bytes:
            raise cip.ProgramError(f"{self.path} shrank while it was read")
        array = np.frombuffer(data, dtype)
        if self.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False).reshape(end - begin, *self.shape[1:])
        return array + np.float32(self.plus) if self.plus else array


def open_folder(folder: Path) -> Checkpoint:
    """Look a folder over. Raises ProgramError (what cannot become a program, and why) or OSError."""
    config = _object_file(folder / CONFIG_NAME, CONFIG_BYTES_MAX)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in KINDS:
        raise cip.ProgramError(f"config.model_type is {shown(model_type)}, supported are {', '.join(KINDS)}")
    kind = KINDS[model_type]
    field, activation = ACTIVATIONS.get(kind, ("hidden_act", "silu"))
    if config.get(field, activation) != activation:
        raise cip.ProgramError(f"config.{field} is {shown(config[field])}, only {activation!r} is supported")
    for field, plain in PLAIN.items():
        if config.get(field) is not None and config[field] != plain:
            raise cip.ProgramError(f"config.{field} is {shown(config[field])}, which is not supported")
    shape, epsilon = _shape(config, kind)
    tied = config.get("tie_word_embeddings", kind == "gemma3")
    if type(tied) is not bool:
        raise cip.ProgramError(f"config.tie_word_embeddings is {shown(tied)}, must be true or false")
    if kind == "bert":
        _check_pooling(folder)
    found = _weights(_entries(folder), kind, tied)
    token_types = _integer(config, "type_vocab_size", 2) if kind == "bert" else 0
    tokenizer = folder / TOKENIZER_NAME
    rope, local_rope = _ropes(config, kind)
    return Checkpoint(
        folder, shape, rope, local_rope, _stop(config, shape), epsilon,
        math.sqrt(shape.width) if kind == "gemma3" else 1.0,
        read_tokenizer(tokenizer) if tokenizer.exists() else None,
        gather(found, shape, tied, lambda part: file_name(part, kind), token_types), parameters(found),
    )  # fmt: skip


def file_name(part: str, kind: str) -> str:
    """The name in a Hugging Face file of a part of checkpoint.parts_of."""
    if not part.startswith("layers."):
        return (ENCODER_ENDS if kind == "bert" else DECODER_ENDS)[part]
    _, layer, rest = part.split(".", 2)
    if kind == "bert":
        return f"encoder.layer.{layer}.{ENCODER[rest]}"
    return f"model.layers.{layer}.{(DECODER | SANDWICH if kind == 'gemma3' else DECODER)[rest]}"


def _weights(entries: dict[str, Entry], kind: str, tied: bool) -> dict[str, Entry]:
    """The entries that carry something of their own, under their plain names."""
    found = {}
    for name, entry in entries.items():
        if tied and name == "lm_head.weight":
            continue
        if kind == "bert":
            if name.startswith(ENCODER_UNUSED):
                continue
            name = name.removeprefix("bert.")
        if kind == "gemma3" and name.endswith("norm.weight"):
            entry = replace(entry, plus=1.0)
        found[name] = entry
    return found


def _shape(config: Mapping[str, Any], kind: str) -> tuple[cip.Shape, float]:
    heads = _integer(config, "num_attention_heads")
    width = _integer(config, "hidden_size")
    encoder = kind == "bert"
    head_width = _integer(config, "head_dim", 256 if kind == "gemma3" else width // max(heads, 1))
    field = "layer_norm_eps" if encoder else "rms_norm_eps"
    epsilon = config.get(field, 1e-12 if encoder else 1e-6)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise cip.ProgramError(f"config.{field} is {shown(epsilon)}, must be between 0 and 1")
    layers = _integer(config, "num_hidden_layers")
    window, pattern = _window(config, kind, layers)
    shape = cip.Shape(
        vocabulary=_integer(config, "vocab_size"), context=_integer(config, "max_position_embeddings"), width=width,
        layers=layers, heads=heads, kv_heads=heads if encoder else _integer(config, "num_key_value_heads", heads),
        head_width=head_width, rotary=0 if encoder else head_width, hidden=_integer(config, "intermediate_size"),
        norm_epsilon_q32=max(1, round(epsilon * 2**32)), layers_per_group=1 if encoder else LAYERS_PER_GROUP,
        kind=kind, window=window, window_pattern=pattern,
        score_divisor=_integer(config, "query_pre_attn_scalar", 256) if kind == "gemma3" else 0,
    )  # fmt: skip
    cip.check_shape(shape)
    return shape, float(epsilon)


def _window(config: Mapping[str, Any], kind: str, layers: int) -> tuple[int, int]:
    """How many positions a local layer sees, and every how many layers one sees all: (0, 0) for all layers alike."""
    layer_types = config.get("layer_types") or []
    if not isinstance(layer_types, list):
        raise cip.ProgramError(f"config.layer_types is {shown(layer_types)}, must be a list")
    if kind != "gemma3":
        if config.get("sliding_window") and config.get("use_sliding_window") is not False:
            raise cip.ProgramError(f"config.sliding_window is {shown(config['sliding_window'])}, "
                                   "which is not supported")  # fmt: skip
        if any(layer != "full_attention" for layer in layer_types):
            raise cip.ProgramError(f"config.layer_types is {shown(layer_types)}, only 'full_attention' is supported")
        return 0, 0
    window = _integer(config, "sliding_window")
    pattern = _integer(config, "sliding_window_pattern", _integer(config, "_sliding_window_pattern", 6))
    if layer_types:
        pattern = 1 + (layer_types.index("full_attention") if "full_attention" in layer_types else layers)
        if len(layer_types) != layers or any(
            layer != ("sliding_attention" if (i + 1) % pattern else "full_attention")
            for i, layer in enumerate(layer_types)
        ):
            raise cip.ProgramError(f"config.layer_types is {shown(layer_types)}, must repeat one pattern of "
                                   f"'sliding_attention' before a 'full_attention' over {layers} layers")  # fmt: skip
    return window, min(pattern, cip.LAYERS_MAX)


def _check_pooling(folder: Path) -> None:
    """Where sentence-transformers says how positions become one vector, it must be their mean."""
    if not (folder / POOLING_NAME).exists():
        return
    pooling = _object_file(folder / POOLING_NAME, CONFIG_BYTES_MAX)
    modes = sorted(name for name, value in pooling.items() if name.startswith("pooling_mode") and value is True)
    if modes != ["pooling_mode_mean_tokens"]:
        raise cip.ProgramError(f"{POOLING_NAME} has {shown(modes)}, only pooling_mode_mean_tokens is supported")


def _integer(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        if default is None:
            raise cip.ProgramError(f"config has no {field}")
        return default
    if type(value) is not int or not 0 < value <= 1 << 40:
        raise cip.ProgramError(f"config.{field} is {shown(value)}, must be a positive integer")
    return value


def _ropes(config: Mapping[str, Any], kind: str) -> tuple[Rope, Rope]:
    """How positions turn in layers that see all, and in those that see a window: the same but in Gemma 3."""
    if kind == "bert":
        return Rope(), Rope()
    where = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    fields = config.get(where) or {}
    if not isinstance(fields, dict):
        raise cip.ProgramError(f"config.{where} is {shown(fields)}, must be an object")
    if kind != "gemma3":
        rope = _rope(fields, where, config.get("rope_theta", 10_000))
        return rope, rope
    local_theta = config.get("rope_local_base_freq", 10_000)
    if where == "rope_scaling":
        return _rope(fields, where, config.get("rope_theta", 1_000_000)), _rope({}, "rope_local", local_theta)
    both = {layer: fields.get(layer) or {} for layer in ("full_attention", "sliding_attention")}
    if set(fields) - set(both) or not all(isinstance(rope, dict) for rope in both.values()):
        raise cip.ProgramError(f"config.rope_parameters is {shown(fields)}, must have an object for each of "
                               f"{', '.join(both)}")  # fmt: skip
    full, local = (
        _rope(both[layer], f"rope_parameters.{layer}", theta)
        for layer, theta in (("full_attention", config.get("rope_theta", 1_000_000)),
                             ("sliding_attention", local_theta))
    )  # fmt: skip
    return full, local


def _rope(fields: Mapping[str, Any], where: str, theta: Any) -> Rope:
    """Theta and scaling, where older configs (rope_theta, rope_scaling) or newer ones (rope_parameters) keep them."""
    theta = fields.get("rope_theta", theta)
    if type(theta) not in (int, float) or not 1 <= theta <= 2**53 or theta != int(theta):
        raise cip.ProgramError(f"config.rope_theta is {shown(theta)}, must be a whole number")
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise cip.ProgramError(f"config.{where}.partial_rotary_factor is {shown(fields['partial_rotary_factor'])}")
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
        return Rope(int(theta))

    def number(field: str, low: float) -> Decimal:
        value = fields.get(field)
        if type(value) not in (int, float) or not low <= value <= 1e9:
            raise cip.ProgramError(f"config.{where}.{field} is {shown(value)}, must be a number of at least {low}")
        return Decimal(repr(value))

    if kind == "linear":
        return Rope(int(theta), kind, number("factor", 1))
    if kind != "llama3":
        raise cip.ProgramError(f"config.{where}.rope_type is {shown(kind)}, supported are default, linear, llama3")
    low, high = number("low_freq_factor", 1e-9), number("high_freq_factor", 1e-9)
    if high <= low:
        raise cip.ProgramError(f"config.{where}.high_freq_factor is {high}, must be more than low_freq_factor {low}")
    context = int(number("original_max_position_embeddings", 1))
    return Rope(int(theta), kind, number("factor", 1), low, high, context)


def _stop(config: Mapping[str, Any], shape: cip.Shape) -> tuple[int, ...]:
    stop = config.get("eos_token_id") if shape.causal else None
    ids = [] if stop is None else stop if isinstance(stop, list) else [stop]
    if len(ids) > cip.STOP_IDS_MAX or any(type(i) is not int or not 0 <= i < shape.vocabulary for i in ids):
        raise cip.ProgramError(f"config.eos_token_id is {shown(stop)}, must be token ids below {shape.vocabulary}")
    return tuple(ids)


def _entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors files."""
    if (folder / SINGLE_NAME).exists():
        return _header(folder / SINGLE_NAME)
    if not (folder / INDEX_NAME).exists():
        if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
            raise cip.ProgramError(f"{folder} has {pickles[0]} but no {SINGLE_NAME}: a pickle can run any code and is "
                                   "never opened; save the model as safetensors")  # fmt: skip
        raise cip.ProgramError(f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}")
    weight_map = _object_file(folder / INDEX_NAME, INDEX_BYTES_MAX).get("weight_map")
    if not isinstance(weight_map, dict) or any(type(shard) is not str for shard in weight_map.values()):
        raise cip.ProgramError(f"{folder / INDEX_NAME}: weight_map is {shown(weight_map)}, must name files")
    shards = sorted(set(weight_map.values()))
    if len(shards) > SHARDS_MAX:
        raise cip.ProgramError(f"{folder / INDEX_NAME} names {len(shards)} files, allowed {SHARDS_MAX}")
    entries: dict[str, Entry] = {}
    for shard in shards:
        if Path(shard).name != shard or "\0" in shard or not shard.endswith(".safetensors"):
            raise cip.ProgramError(f"{folder / INDEX_NAME} names the file {shown(shard)}, must be of this folder")
        entries |= {name: entry for name, entry in _header(folder / shard).items() if weight_map.get(name) == shard}
    if lost := sorted(set(weight_map) - set(entries)):
        raise cip.ProgramError(f"{folder / INDEX_NAME} names tensors that their files lack: {shown(lost)}")
    return entries


def _header(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_BYTES_MAX, size - 8):
            raise cip.ProgramError(f"{path}: header of {length} bytes in a file of {size}")
        try:
            header = cip.parse_json(file.read(length))
        except ValueError as error:
            raise cip.ProgramError(f"{path}: header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise cip.ProgramError(f"{path}: header is {shown(header)}, not an object")
    header.pop("__metadata__", None)
    return {name: _entry(path, name, value, 8 + length, size) for name, value in header.items()
            if not name.endswith(BUFFERS)}  # fmt: skip


def _entry(path: Path, name: str, value: object, data: int, size: int) -> Entry:
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise cip.ProgramError(f"{path}: {name[:200]} has dtype {shown(dtype)}, supported are {', '.join(DTYPES)}")
    if not _naturals(shape) or not 1 <= len(shape) <= DIMENSIONS_MAX:
        raise cip.ProgramError(f"{path}: {name[:200]} has shape {shown(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise cip.ProgramError(f"{path}: {name[:200]} has offsets {shown(offsets)}")
    needed = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != needed or data + offsets[1] > size:
        raise cip.ProgramError(f"{path}: {name[:200]} lies at {offsets} of {size - data} bytes, needs {needed}")
    return Entry(path, name, dtype, tuple(shape), data + offsets[0])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _object_file(path: Path, size_max: int) -> dict[str, Any]:
    if (size := path.stat().st_size) > size_max:
        raise cip.ProgramError(f"{path} has {size} bytes, allowed {size_max}")
    try:
        value = cip.parse_json(path.read_bytes())
    except ValueError as error:
        raise cip.ProgramError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise cip.ProgramError(f"{path} holds {shown(value)}, not an object")
    return value
