"""A Hugging Face folder, read without trust: config.json, one model.safetensors or shards with an index. Owns which
checkpoints can become a program (Llama, Qwen2, Qwen3), where each weight lies in the files, and reading its rows as
float32. Every size, offset and dtype is checked against the files before anything is allocated; what is not
supported is refused by the name of its field.

Never unpickles: a folder that only has .bin files is refused. Knows no integer program.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from inference import program as cip
from inference.model import HEADER_BYTES_MAX
from inference.tables import Rope

CONFIG_NAME, SINGLE_NAME, INDEX_NAME = "config.json", "model.safetensors", "model.safetensors.index.json"
CONFIG_BYTES_MAX, INDEX_BYTES_MAX = 1 << 20, 64 << 20
SHARDS_MAX, DIMENSIONS_MAX = 4096, 8
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LAYERS_PER_GROUP = 2
KINDS = ("llama", "qwen2", "qwen3")
# Fields that change the arithmetic in a way that no program has, unless they are absent, null, false, or as here.
PLAIN: Mapping[str, Any] = {
    "attention_bias": False, "mlp_bias": False, "quantization_config": None, "use_sliding_window": False,
    "partial_rotary_factor": 1.0, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one weight lies: the file, its dtype there, its shape, and the offset of its first byte."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A float model of a supported kind, complete and of the sizes that its config promises."""

    folder: Path
    shape: cip.Shape
    rope: Rope
    tied: bool
    stop: tuple[int, ...]
    epsilon: float
    entries: Mapping[str, Entry]

    @property
    def head(self) -> str:
        """The weight of the logits' product."""
        return "model.embed_tokens.weight" if self.tied else "lm_head.weight"

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(entry.shape) for entry in self.entries.values())

    def rows(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """float32 rows [begin, end) of a weight (bfloat16 widened: numpy has none). Raises ProgramError when one is
        not a finite number."""
        entry = self.entries[name]
        count = (entry.shape[0] if end is None else end) - begin
        dtype = np.dtype(DTYPES[entry.dtype])
        row_bytes = math.prod(entry.shape[1:]) * dtype.itemsize
        with entry.path.open("rb") as file:
            file.seek(entry.begin + begin * row_bytes)
            data = file.read(count * row_bytes)
        if len(data) != count * row_bytes:
            raise cip.ProgramError(f"{entry.path} shrank while it was read")
        array = np.frombuffer(data, dtype)
        if entry.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False).reshape(count, *entry.shape[1:])
        if not np.isfinite(array).all():
            raise cip.ProgramError(f"{name} holds something that is not a finite number")
        return array


def open_checkpoint(folder: Path) -> Checkpoint:
    """Look a folder over. Raises ProgramError (what cannot become a program, and why) or OSError."""
    config = _object_file(folder / CONFIG_NAME, CONFIG_BYTES_MAX)
    kind = config.get("model_type")
    if kind not in KINDS:
        raise cip.ProgramError(f"config.model_type is {_shown(kind)}, supported are {', '.join(KINDS)}")
    if config.get("hidden_act", "silu") != "silu":
        raise cip.ProgramError(f"config.hidden_act is {_shown(config['hidden_act'])}, only 'silu' is supported")
    for field, plain in PLAIN.items():
        if config.get(field) is not None and config[field] != plain:
            raise cip.ProgramError(f"config.{field} is {_shown(config[field])}, which is not supported")
    if config.get("sliding_window") and config.get("use_sliding_window") is not False:
        raise cip.ProgramError(f"config.sliding_window is {_shown(config['sliding_window'])}, which is not supported")
    layer_types = config.get("layer_types") or []
    if not isinstance(layer_types, list) or any(layer != "full_attention" for layer in layer_types):
        raise cip.ProgramError(f"config.layer_types is {_shown(layer_types)}, only 'full_attention' is supported")
    shape, epsilon = _shape(config, kind)
    tied = config.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        raise cip.ProgramError(f"config.tie_word_embeddings is {_shown(tied)}, must be true or false")
    entries = _entries(folder)
    _check_entries(entries, shape, tied)
    return Checkpoint(folder, shape, _rope(config), tied, _stop(config, shape), epsilon, entries)


def expected_shapes(shape: cip.Shape, tied: bool) -> dict[str, tuple[int, ...]]:
    """Shape of every weight, by its Hugging Face name."""
    d, q, kv = shape.width, shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape.vocabulary, d), "model.norm.weight": (d,),
    }  # fmt: skip
    if not tied:
        expected["lm_head.weight"] = (shape.vocabulary, d)
    for i in range(shape.layers):
        layer, rows = f"model.layers.{i}", {"q": q, "k": kv, "v": kv}
        expected |= {f"{layer}.{norm}.weight": (d,) for norm in ("input_layernorm", "post_attention_layernorm")}
        expected |= {f"{layer}.self_attn.{part}_proj.weight": (count, d) for part, count in rows.items()}
        expected[f"{layer}.self_attn.o_proj.weight"] = (d, q)
        expected |= {f"{layer}.mlp.{part}_proj.weight": (shape.hidden, d) for part in ("gate", "up")}
        expected[f"{layer}.mlp.down_proj.weight"] = (d, shape.hidden)
        if shape.qkv_bias:
            expected |= {f"{layer}.self_attn.{part}_proj.bias": (count,) for part, count in rows.items()}
        if shape.qk_norm:
            expected |= {f"{layer}.self_attn.{part}_norm.weight": (shape.head_width,) for part in "qk"}
    return expected


def _check_entries(entries: dict[str, Entry], shape: cip.Shape, tied: bool) -> None:
    """Exactly the weights that the config explains; those that carry nothing of their own are dropped."""
    for name in [n for n in entries if n.endswith("rotary_emb.inv_freq") or (tied and n == "lm_head.weight")]:
        del entries[name]
    expected = expected_shapes(shape, tied)
    for name, extent in expected.items():
        if name not in entries:
            raise cip.ProgramError(f"the checkpoint has no tensor {name}")
        if entries[name].shape != extent:
            raise cip.ProgramError(f"{name} has shape {entries[name].shape}, the config asks for {extent}")
    if surplus := sorted(set(entries) - set(expected)):
        raise cip.ProgramError(f"the config does not explain the tensors {_shown(surplus)}")


def _shape(config: Mapping[str, Any], kind: str) -> tuple[cip.Shape, float]:
    heads = _integer(config, "num_attention_heads")
    width = _integer(config, "hidden_size")
    head_width = _integer(config, "head_dim", width // max(heads, 1))
    epsilon = config.get("rms_norm_eps", 1e-6)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise cip.ProgramError(f"config.rms_norm_eps is {_shown(epsilon)}, must be between 0 and 1")
    shape = cip.Shape(
        vocabulary=_integer(config, "vocab_size"), context=_integer(config, "max_position_embeddings"), width=width,
        layers=_integer(config, "num_hidden_layers"), heads=heads,
        kv_heads=_integer(config, "num_key_value_heads", heads), head_width=head_width, rotary=head_width,
        hidden=_integer(config, "intermediate_size"), norm_epsilon_q32=max(1, round(epsilon * 2**32)),
        layers_per_group=LAYERS_PER_GROUP, kind=kind,
    )  # fmt: skip
    cip.check_shape(shape)
    return shape, float(epsilon)


def _integer(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        if default is None:
            raise cip.ProgramError(f"config has no {field}")
        return default
    if type(value) is not int or not 0 < value <= 1 << 40:
        raise cip.ProgramError(f"config.{field} is {_shown(value)}, must be a positive integer")
    return value


def _rope(config: Mapping[str, Any]) -> Rope:
    """Theta and scaling, where older configs (rope_theta, rope_scaling) or newer ones (rope_parameters) keep them."""
    where = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    fields = config.get(where) or {}
    if not isinstance(fields, dict):
        raise cip.ProgramError(f"config.{where} is {_shown(fields)}, must be an object")
    theta = fields.get("rope_theta", config.get("rope_theta", 10_000))
    if type(theta) not in (int, float) or not 1 <= theta <= 2**53 or theta != int(theta):
        raise cip.ProgramError(f"config.rope_theta is {_shown(theta)}, must be a whole number")
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise cip.ProgramError(f"config.{where}.partial_rotary_factor is {_shown(fields['partial_rotary_factor'])}")
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
        return Rope(int(theta))

    def number(field: str, low: float) -> Decimal:
        value = fields.get(field)
        if type(value) not in (int, float) or not low <= value <= 1e9:
            raise cip.ProgramError(f"config.{where}.{field} is {_shown(value)}, must be a number of at least {low}")
        return Decimal(repr(value))

    if kind == "linear":
        return Rope(int(theta), kind, number("factor", 1))
    if kind != "llama3":
        raise cip.ProgramError(f"config.{where}.rope_type is {_shown(kind)}, supported are default, linear, llama3")
    low, high = number("low_freq_factor", 1e-9), number("high_freq_factor", 1e-9)
    if high <= low:
        raise cip.ProgramError(f"config.{where}.high_freq_factor is {high}, must be more than low_freq_factor {low}")
    context = int(number("original_max_position_embeddings", 1))
    return Rope(int(theta), kind, number("factor", 1), low, high, context)


def _stop(config: Mapping[str, Any], shape: cip.Shape) -> tuple[int, ...]:
    stop = config.get("eos_token_id")
    ids = [] if stop is None else stop if isinstance(stop, list) else [stop]
    if len(ids) > cip.STOP_IDS_MAX or any(type(i) is not int or not 0 <= i < shape.vocabulary for i in ids):
        raise cip.ProgramError(f"config.eos_token_id is {_shown(stop)}, must be token ids below {shape.vocabulary}")
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
        raise cip.ProgramError(f"{folder / INDEX_NAME}: weight_map is {_shown(weight_map)}, must name files")
    shards = sorted(set(weight_map.values()))
    if len(shards) > SHARDS_MAX:
        raise cip.ProgramError(f"{folder / INDEX_NAME} names {len(shards)} files, allowed {SHARDS_MAX}")
    entries: dict[str, Entry] = {}
    for shard in shards:
        if Path(shard).name != shard or "\0" in shard or not shard.endswith(".safetensors"):
            raise cip.ProgramError(f"{folder / INDEX_NAME} names the file {_shown(shard)}, must be of this folder")
        entries |= {name: entry for name, entry in _header(folder / shard).items() if weight_map.get(name) == shard}
    if lost := sorted(set(weight_map) - set(entries)):
        raise cip.ProgramError(f"{folder / INDEX_NAME} names tensors that their files lack: {_shown(lost)}")
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
        raise cip.ProgramError(f"{path}: header is {_shown(header)}, not an object")
    header.pop("__metadata__", None)
    return {name: _entry(path, name, value, 8 + length, size) for name, value in header.items()}


def _entry(path: Path, name: str, value: object, data: int, size: int) -> Entry:
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise cip.ProgramError(f"{path}: {name[:200]} has dtype {_shown(dtype)}, supported are {', '.join(DTYPES)}")
    if not _naturals(shape) or not 1 <= len(shape) <= DIMENSIONS_MAX:
        raise cip.ProgramError(f"{path}: {name[:200]} has shape {_shown(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise cip.ProgramError(f"{path}: {name[:200]} has offsets {_shown(offsets)}")
    needed = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != needed or data + offsets[1] > size:
        raise cip.ProgramError(f"{path}: {name[:200]} lies at {offsets} of {size - data} bytes, needs {needed}")
    return Entry(path, dtype, tuple(shape), data + offsets[0])


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
        raise cip.ProgramError(f"{path} holds {_shown(value)}, not an object")
    return value


def _shown(value: object) -> str:
    return repr(value)[:120]
