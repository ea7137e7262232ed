"""Claim: a checkpoint of every shape that transformers makes becomes an integer program that follows it, and how fast.

    make import-shapes
    python bench/import_shapes.py [--only llama ...] [--width 512] [--positions 512] [--max-loss 0.5] [--folder DIR]

Makes a fresh checkpoint of each shape with transformers (random weights, gains and biases moved away from 1 and 0, a
tokenizer of bytes), imports it as `labora model import` does, measures it against its floats on the shipped text,
loads the program again and proves this machine by its known answers. Random weights have learnt nothing: perplexity
is that of a guess, what counts is how little it moves. Times are this process's on a CPU, on one thread.
"""

import argparse
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import real_models
import torch
import transformers

from inference.engine import Engine, make_executor
from inference.model import load
from node.model import TEXT

LAYERS, GEMMA_LAYERS, HEADS, CONTEXT, VOCABULARY = 4, 6, 8, 512, 512
SEED = 1


def sizes(width: int) -> dict[str, int]:
    """Fields that all configurations share."""
    return {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT, "eos_token_id": VOCABULARY - 1,
    }  # fmt: skip


def grouped(width: int) -> dict[str, int]:
    return sizes(width) | {"num_key_value_heads": HEADS // 2}


def gemma3(width: int) -> Any:
    """Every sixth layer sees everything, the others a window."""
    rope = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}  # fmt: skip
    config = transformers.Gemma3TextConfig(
        **grouped(width) | {"num_hidden_layers": GEMMA_LAYERS}, head_dim=width // HEADS, sliding_window=64,
        query_pre_attn_scalar=width // HEADS, rope_parameters=rope,
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config)


MAKE: dict[str, Callable[[int], Any]] = {
    "llama": lambda width: transformers.LlamaForCausalLM(transformers.LlamaConfig(**grouped(width))),
    "qwen2": lambda width: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**grouped(width), tie_word_embeddings=True)
    ),
    "qwen3": lambda width: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**grouped(width), head_dim=width // HEADS)
    ),
    "gemma3": gemma3,
    "bert": lambda width: transformers.BertModel(transformers.BertConfig(**sizes(width))),
}


def checkpoint(kind: str, width: int, folder: Path) -> Path:
    """A folder as save_pretrained writes it."""
    torch.manual_seed(SEED)
    model = MAKE[kind](width).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn_like(weight)
            weight.copy_(weight + 0.2 * noise if weight.ndim == 1 else noise / weight.shape[1] ** 0.5)
    model.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MAKE, default=list(MAKE))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--max-loss", type=float, help="percent; without it plain int8")
    parser.add_argument("--folder", type=Path, help="keeps checkpoints and programs (default: they are deleted)")
    options = parser.parse_args()
    harness.header(__doc__.splitlines()[0], "torch", "transformers")
    text = lzma.decompress(TEXT.read_bytes()).split(b"\f")[20].decode()
    loss = None if options.max_loss is None else options.max_loss / 100
    rates = []
    with tempfile.TemporaryDirectory(prefix="labora-shapes-") as scratch:
        folder = options.folder or Path(scratch)
        for kind in options.only:
            source = checkpoint(kind, options.width, folder / kind)
            out = folder / f"{kind}-labora"
            report = real_models.measured(source, out, text, f"random-{kind}", "CC0-1.0", loss, options.positions)
            real_models.show(report)
            for name in ("numpy", "torch"):
                Engine(make_executor(name, load(out))).known_answer_test()
            print("known answers    the same bits by numpy and torch", flush=True)
            rates.append(report["megabytesPerSecond"])
    print(f"\nimport, {len(rates)} shapes: {harness.median_of(rates, 'MB/s')}")


if __name__ == "__main__":
    main()
