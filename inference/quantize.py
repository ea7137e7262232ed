"""A Hugging Face Llama folder (config.json, model.safetensors, any float) becomes a program folder:

    python -m inference.quantize CHECKPOINT_DIR MODEL_DIR --name NAME --licence LICENCE --prompt TEXT

Rotates the input side of every weight, rounds to int8 per output channel, ships the tables, and records known answers
of the reference executor. Floats are allowed here because only the result, not the way to it, must agree. Owns no
arithmetic of execution. Shapes other than plain Llama are refused by the field that differs.
"""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inference import program as cip
from inference.build import build_model, request, with_known_answers
from inference.model import HEADER_BYTES_MAX, Model, save
from inference.reference import hadamard
from inference.tables import tables

CONFIG_BYTES_MAX = 1 << 20
REQUIRED = {"model_type": "llama", "hidden_act": "silu"}
REFUSED = ("rope_scaling", "attention_bias", "mlp_bias", "sliding_window")


def main() -> None:
    """Command line: convert one checkpoint."""
    parser = argparse.ArgumentParser(description="Turn a float Llama checkpoint into a canonical integer program")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--licence", required=True)
    parser.add_argument("--prompt", action="append", default=[], help="a known answer's prompt (bytes); repeatable")
    parser.add_argument("--layers-per-group", type=int, default=2)
    parser.add_argument("--quality", default="{}", help="JSON object of integers for the manifest")
    options = parser.parse_args()
    model = convert(options.checkpoint, options.name, options.licence, options.layers_per_group,
                    json.loads(options.quality))  # fmt: skip
    asks = [request(list(p.encode()), 12, 45875 * (i % 2), 40 * (i % 2)) for i, p in enumerate(options.prompt)]
    model = with_known_answers(model, asks)
    save(options.out, model.manifest, model.tensors)
    size = sum(path.stat().st_size for path in options.out.iterdir() if path.suffix in (".json", ".safetensors"))
    print(f"{options.out}: {size} bytes, model id {model.model_id.hex()}")


def convert(
    checkpoint: Path, name: str, licence: str, layers_per_group: int, quality: Mapping[str, int] | None = None
) -> Model:
    """The program of a checkpoint folder. Raises ProgramError naming the field that is not supported."""
    config = _read_config(checkpoint / "config.json")
    shape, stop = _shape(config, layers_per_group)
    weights = _read_weights(checkpoint / "model.safetensors")
    return from_floats(shape, weights, name, licence, stop, _rope_theta(config), quality)


def from_floats(
    shape: cip.Shape, weights: Mapping[str, np.ndarray], name: str, licence: str, stop: list[int],
    rope_theta: int, quality: Mapping[str, int] | None = None,
) -> Model:  # fmt: skip
    """The program of float weights by their Hugging Face names; lm_head missing means tied to the embedding."""
    tensors = dict(tables(shape, rope_theta))
    embedding, scale, embedding_exponent = _per_row(_take(weights, "model.embed_tokens.weight"), 127, 1.0)
    tensors |= {"embedding.weight": embedding, "embedding.scale": scale, "norm.gain": _gain(weights, "model.norm")}
    products = {"head": weights.get("lm_head.weight", weights["model.embed_tokens.weight"])}
    for i in range(shape.layers):
        theirs, ours = f"model.layers.{i}", f"layers.{i}"
        tensors[f"{ours}.attention_norm.gain"] = _gain(weights, f"{theirs}.input_layernorm")
        tensors[f"{ours}.mlp_norm.gain"] = _gain(weights, f"{theirs}.post_attention_layernorm")
        attention = [_take(weights, f"{theirs}.self_attn.{part}_proj.weight") for part in "qkv"]
        products[f"{ours}.qkv"] = np.concatenate(attention)
        products[f"{ours}.out"] = _take(weights, f"{theirs}.self_attn.o_proj.weight")
        both = [_take(weights, f"{theirs}.mlp.{part}_proj.weight") for part in ("gate", "up")]
        products[f"{ours}.gate_up"] = np.concatenate(both)
        products[f"{ours}.down"] = _take(weights, f"{theirs}.mlp.down_proj.weight")
    linears = []
    for linear_name, (outputs, inputs) in cip.linear_shapes(shape).items():
        block = cip.rotation_block(inputs)
        weight = products[linear_name].astype(np.float64)
        if weight.shape != (outputs, inputs):
            raise cip.ProgramError(f"{linear_name} has shape {weight.shape}, the config asks for {(outputs, inputs)}")
        rotated = (weight.reshape(-1, block) @ hadamard(block)).reshape(weight.shape) / block
        # Activations count in 127ths, and attention's output once more (its values are int8 too).
        unit = 127.0 * 127.0 if linear_name.endswith(".out") else 127.0
        q, scale, exponent = _per_row(rotated, cip.ACTIVATION_MAX, unit)
        tensors |= {f"{linear_name}.weight": q, f"{linear_name}.scale": scale}
        linears.append(cip.Linear(linear_name, outputs, inputs, cip.ACTIVATION_MAX, exponent, block))
    return build_model(name, shape, tensors, linears, embedding_exponent,
                       stop=stop, licence=licence, quality=quality)  # fmt: skip


def _per_row(weight: np.ndarray, bound: int, unit: float) -> tuple[np.ndarray, np.ndarray, int]:
    """(int8 rows, u16 mantissas, exponent) with weight / unit ~ q * mantissa * 2^-exponent."""
    weight = weight.astype(np.float64)
    if not np.isfinite(weight).all():
        raise cip.ProgramError("a weight is not a finite number")
    scale = np.maximum(np.abs(weight).max(axis=1), 1e-30) / bound
    q = np.rint(weight / scale[:, None]).astype(np.int8)
    exponent = 15 - math.floor(math.log2(scale.max() / unit))
    if not 0 <= exponent <= cip.EXPONENT_MAX:
        raise cip.ProgramError(f"weights of magnitude {scale.max() * bound:g} need exponent {exponent}")
    mantissa = np.rint(scale / unit * 2.0**exponent)
    return q, np.clip(mantissa, 0, 65535).astype(np.uint16), exponent


def _gain(weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    gain = np.rint(_take(weights, f"{name}.weight").astype(np.float64) * (1 << cip.GAIN_BITS))
    if np.abs(gain).max() >= 2**31:
        raise cip.ProgramError(f"{name}: gain of {np.abs(gain).max() / (1 << cip.GAIN_BITS):g}")
    return gain.astype(np.int32)


def _take(weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in weights:
        raise cip.ProgramError(f"the checkpoint has no tensor {name}")
    return weights[name]


def _read_config(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > CONFIG_BYTES_MAX:
        raise cip.ProgramError(f"{path} has {size} bytes, allowed {CONFIG_BYTES_MAX}")
    config = json.loads(path.read_bytes())
    if not isinstance(config, dict):
        raise cip.ProgramError(f"{path} is a {type(config).__name__}, not an object")
    for field, value in REQUIRED.items():
        if config.get(field) != value:
            raise cip.ProgramError(f"config.{field} is {config.get(field)!r}, only {value!r} is supported")
    for field in REFUSED:
        if config.get(field):
            raise cip.ProgramError(f"config.{field} is {config[field]!r}, which is not supported")
    return config


def _rope_theta(config: Mapping[str, Any]) -> int:
    """theta, where older configs (rope_theta) or newer ones (rope_parameters) keep it."""
    parameters = config.get("rope_parameters") or {}
    if parameters.get("rope_type", "default") != "default":
        raise cip.ProgramError(f"config.rope_parameters.rope_type is {parameters['rope_type']!r}, only 'default'")
    theta = parameters.get("rope_theta", config.get("rope_theta", 10_000))
    if theta != int(theta) or not 1 <= theta <= 2**53:
        raise cip.ProgramError(f"config.rope_theta is {theta!r}, must be a whole number")
    return int(theta)


def _shape(config: Mapping[str, Any], layers_per_group: int) -> tuple[cip.Shape, list[int]]:
    try:
        heads = config["num_attention_heads"]
        head_width = config.get("head_dim") or config["hidden_size"] // heads
        shape = cip.Shape(
            vocabulary=config["vocab_size"], context=config["max_position_embeddings"], width=config["hidden_size"],
            layers=config["num_hidden_layers"], heads=heads, kv_heads=config.get("num_key_value_heads") or heads,
            head_width=head_width, rotary=head_width, hidden=config["intermediate_size"],
            norm_epsilon_q32=max(1, round(config["rms_norm_eps"] * 2**32)), layers_per_group=layers_per_group,
        )  # fmt: skip
    except KeyError as error:
        raise cip.ProgramError(f"config has no {error.args[0]}") from error
    cip.check_shape(shape)
    stop = config.get("eos_token_id")
    return shape, [] if stop is None else [stop] if isinstance(stop, int) else list(stop)


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    """All tensors of one safetensors file as float32 (bfloat16 widened: numpy has none)."""
    dtypes = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
    size = path.stat().st_size
    weights = {}
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > min(HEADER_BYTES_MAX, size - 8):
            raise cip.ProgramError(f"{path}: header of {header_size} bytes in a file of {size}")
        header = json.loads(file.read(header_size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] not in dtypes:
                raise cip.ProgramError(f"{path}: {name} is {entry['dtype']}, supported are {sorted(dtypes)}")
            dtype = np.dtype(dtypes[entry["dtype"]])
            begin, end = entry["data_offsets"]
            expected = math.prod(entry["shape"]) * dtype.itemsize
            if min([0, *entry["shape"]]) < 0 or begin < 0 or end - begin != expected or 8 + header_size + end > size:
                raise cip.ProgramError(f"{path}: {name} lies at {begin}..{end} of {size} bytes, needs {expected}")
            file.seek(8 + header_size + begin)
            array = np.frombuffer(file.read(expected), dtype).reshape(entry["shape"])
            if entry["dtype"] == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            weights[name] = array.astype(np.float32)
    return weights


if __name__ == "__main__":
    main()
