"""The float32 forward pass of a checkpoint, in numpy, one layer in memory at a time: what the integer program is
measured against. Nothing that nodes must agree on imports this file.
"""

from collections.abc import Callable

import numpy as np

from inference.checkpoint import Checkpoint


def hidden_states(
    checkpoint: Checkpoint, windows: np.ndarray, on_layer: Callable[[int], None] = lambda _: None
) -> np.ndarray:
    """Normalised float32 states [windows, positions, width] of token ids [windows, positions], before the head."""
    shape = checkpoint.shape
    ids, places = np.unique(windows, return_inverse=True)
    x = np.concatenate([checkpoint.rows("model.embed_tokens.weight", int(i), int(i) + 1) for i in ids])[places]
    x = x.reshape(*windows.shape, shape.width)
    frequencies = np.array([float(frequency) for frequency in checkpoint.rope.frequencies(shape.rotary)])
    angle = np.arange(windows.shape[1])[:, None] * frequencies
    turn = (np.cos(angle).astype(np.float32)[:, None], np.sin(angle).astype(np.float32)[:, None])
    for layer in range(shape.layers):
        x = _layer(checkpoint, f"model.layers.{layer}", x, turn)
        on_layer(layer + 1)
    return _norm(checkpoint, "model.norm", x)


def _layer(checkpoint: Checkpoint, name: str, x: np.ndarray, turn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    shape = checkpoint.shape
    normed = _norm(checkpoint, f"{name}.input_layernorm", x)
    heads = {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}
    parts = {}
    for part, count in heads.items():
        projected = normed @ checkpoint.rows(f"{name}.self_attn.{part}_proj.weight").T
        if shape.qkv_bias:
            projected = projected + checkpoint.rows(f"{name}.self_attn.{part}_proj.bias")
        parts[part] = projected.reshape(*x.shape[:2], count, shape.head_width)
    if shape.qk_norm:
        parts |= {part: _norm(checkpoint, f"{name}.self_attn.{part}_norm", parts[part]) for part in "qk"}
    q, k = (_rope(parts[part], turn) for part in "qk")
    mixed = np.stack([_attend(*window) for window in zip(q, k, parts["v"], strict=True)])
    x = x + mixed @ checkpoint.rows(f"{name}.self_attn.o_proj.weight").T
    normed = _norm(checkpoint, f"{name}.post_attention_layernorm", x)
    gate = normed @ checkpoint.rows(f"{name}.mlp.gate_proj.weight").T
    with np.errstate(over="ignore"):
        gate = gate / (1 + np.exp(-gate))
    gate *= normed @ checkpoint.rows(f"{name}.mlp.up_proj.weight").T
    return x + gate @ checkpoint.rows(f"{name}.mlp.down_proj.weight").T


def _norm(checkpoint: Checkpoint, name: str, x: np.ndarray) -> np.ndarray:
    mean = (x * x).mean(-1, keepdims=True)
    return x / np.sqrt(mean + np.float32(checkpoint.epsilon)) * checkpoint.rows(f"{name}.weight")


def _rope(x: np.ndarray, turn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    cos, sin = turn
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention of one window: [positions, heads * width]."""
    count, heads, width = q.shape
    k, v = (z.repeat(heads // z.shape[1], axis=1).transpose(1, 0, 2) for z in (k, v))
    score = q.transpose(1, 0, 2) @ k.transpose(0, 2, 1) / np.float32(np.sqrt(width))
    score[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
    score = np.exp(score - score.max(-1, keepdims=True))
    mixed = (score / score.sum(-1, keepdims=True)) @ v
    return mixed.transpose(1, 0, 2).reshape(count, -1)
