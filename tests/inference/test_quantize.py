"""Conversion from float: the integer program of a float checkpoint says what the float model says."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference import program as cip
from inference.quantize import convert
from inference.reference import NumpyExecutor

CONFIG = {
    "model_type": "llama", "hidden_act": "silu", "vocab_size": 61, "hidden_size": 96, "intermediate_size": 160,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "eos_token_id": 60,
    "tie_word_embeddings": False,
}  # fmt: skip


def checkpoint(folder: Path, config: dict[str, Any], seed: int = 1, dtype: str = "F32") -> dict[str, np.ndarray]:
    """A random float checkpoint with outliers in one channel, as real ones have; its weights."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(seed)
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    extents: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (v, d), "model.norm.weight": (d,), "lm_head.weight": (v, d),
    }  # fmt: skip
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        extents |= {f"{layer}.{n}.weight": (d,) for n in ("input_layernorm", "post_attention_layernorm")}
        extents |= {f"{layer}.self_attn.{n}_proj.weight": e for n, e in zip("qkvo", ((q, d), (kv, d), (kv, d), (d, q)),
                                                                            strict=True)}  # fmt: skip
        extents |= {f"{layer}.mlp.{n}_proj.weight": e for n, e in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f)))}
    weights = {}
    for name, extent in extents.items():
        noise = random.normal(size=extent)
        weights[name] = (1 + 0.2 * noise if len(extent) == 1 else noise / np.sqrt(extent[1])).astype(np.float32)
        if len(extent) == 1:
            weights[name][3] = 8.0
    folder.mkdir(parents=True, exist_ok=True)
    stored = {n: (w.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else w for n, w in weights.items()}
    path = folder / "model.safetensors"
    save_file(stored, path)
    if dtype == "BF16":
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + size].replace(b'"U16"', b'"BF16"')
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def float_logits(config: dict[str, Any], w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """The Llama forward pass in float64, straight from its definition."""
    heads, kv, width = (config[n] for n in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    count = len(tokens)
    angle = np.arange(count)[:, None] * config["rope_theta"] ** (-np.arange(width // 2) / (width // 2))[None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[f"{name}.weight"]

    def rope(x: np.ndarray) -> np.ndarray:
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["model.embed_tokens.weight"][tokens].astype(np.float64)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        n = norm(x, f"{layer}.input_layernorm")
        q, k, v = (
            (n @ w[f"{layer}.self_attn.{part}_proj.weight"].T).reshape(count, h, width)
            for part, h in (("q", heads), ("k", kv), ("v", kv))
        )
        q, k = rope(q), rope(k)
        k, v = (np.repeat(z, heads // kv, axis=1) for z in (k, v))
        score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
        score[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
        p = np.exp(score - score.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(count, -1)
        x = x + mixed @ w[f"{layer}.self_attn.o_proj.weight"].T
        n = norm(x, f"{layer}.post_attention_layernorm")
        gate = n @ w[f"{layer}.mlp.gate_proj.weight"].T
        product = gate / (1 + np.exp(-gate)) * (n @ w[f"{layer}.mlp.up_proj.weight"].T)
        x = x + product @ w[f"{layer}.mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_integer_logits_follow_the_float_ones(tmp_path: Path, seed: int, dtype: str) -> None:
    weights = checkpoint(tmp_path, CONFIG, seed, dtype)
    model = convert(tmp_path, "tiny", "CC0-1.0", 1)
    assert model.manifest.stop == (60,)
    tokens = [int(t) for t in np.random.default_rng(seed).integers(0, 61, 40)]
    executor = NumpyExecutor(model)
    logits, _ = executor.feed(executor.new_cache(40), tokens, 0)
    if dtype == "BF16":
        weights = {n: ((w.view(np.uint32) >> 16) << 16).view(np.float32) for n, w in weights.items()}
    expected = float_logits(CONFIG, weights, tokens)
    error = np.sqrt(((logits / 65536 - expected) ** 2).mean()) / expected.std()
    assert error < 0.05, f"relative error {error:.4f}"
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.85


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model_type", "mamba", "model_type is 'mamba'"),
        ("hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("rope_scaling", {"rope_type": "yarn"}, "rope_scaling"),
        ("attention_bias", True, "attention_bias"),
        ("hidden_size", 1 << 30, "shape.width"),
        ("num_key_value_heads", 3, "no multiple"),
        ("intermediate_size", 161, "asks for"),
    ],
)
def test_an_unsupported_checkpoint_is_refused_by_its_field(tmp_path: Path, field: str, value: Any, said: str) -> None:
    checkpoint(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {field: value}))
    with pytest.raises(cip.ProgramError, match=said):
        convert(tmp_path, "tiny", "CC0-1.0", 1)


def test_a_missing_tensor_and_a_missing_field_are_named(tmp_path: Path) -> None:
    checkpoint(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 3}))
    with pytest.raises(cip.ProgramError, match=r"no tensor model\.layers\.2"):
        convert(tmp_path, "tiny", "CC0-1.0", 1)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "hidden_size"}))
    with pytest.raises(cip.ProgramError, match="no hidden_size"):
        convert(tmp_path, "tiny", "CC0-1.0", 1)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_the_float_definition_here_is_the_training_script_s_model(tmp_path: Path) -> None:
    import torch

    path = Path(__file__).resolve().parents[2] / "training" / "train_tiny.py"
    spec = importlib.util.spec_from_file_location("train_tiny", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    weights = checkpoint(tmp_path, CONFIG)
    model = script.Llama(CONFIG)
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    tokens = list(range(20))
    with torch.no_grad():
        found = model(torch.tensor([tokens]))[0].numpy()
    assert np.abs(found - float_logits(CONFIG, weights, tokens)).max() < 1e-3
