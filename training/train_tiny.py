"""Trains the byte-level Llama-shaped model that every devnet serves: about 1.2 million parameters, one CPU thread.

    python training/train_tiny.py OUT_DIR [--minutes 40]

Writes OUT_DIR/model.safetensors (float32, Hugging Face's Llama names) and OUT_DIR/config.json every two minutes, so
it can be stopped at any time; `labora model import OUT_DIR` makes the integer program of it.
The saved weights are a running average of the trained ones, which stands in for the learning rate's decay when the
run is cut short. Floats live here and stop here: nothing that nodes must agree on imports this file.
"""

import argparse
import json
import lzma
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

TEXT = Path(__file__).resolve().parent / "text" / "corpus.txt.xz"
STOP = 256  # ends a document; ids 0..255 are bytes
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": STOP,
}
TOKENS_PER_STEP = 2048
MATRIX_RATE, OTHER_RATE = 0.02, 0.004


class Attention(nn.Module):
    def __init__(self, c: dict) -> None:
        super().__init__()
        d, self.heads, self.kv, self.head = (
            c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"],
        )
        self.q_proj = nn.Linear(d, self.heads * self.head, bias=False)
        self.k_proj = nn.Linear(d, self.kv * self.head, bias=False)
        self.v_proj = nn.Linear(d, self.kv * self.head, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head, d, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv, self.head).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv, self.head).transpose(1, 2)
        q, k = rope(q, cos, sin), rope(k, cos, sin)
        k, v = (z.repeat_interleave(self.heads // self.kv, 1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class Mlp(nn.Module):
    def __init__(self, c: dict) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c: dict) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.mlp = Mlp(c)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, c: dict) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])


class Llama(nn.Module):
    """The plain Llama shape with Hugging Face's parameter names."""

    def __init__(self, c: dict) -> None:
        super().__init__()
        self.c = c
        self.model = Trunk(c)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        for name, p in self.named_parameters():
            if "embed" in name:
                nn.init.normal_(p, std=0.5)
            elif "o_proj" in name or "down_proj" in name or "lm_head" in name:
                nn.init.zeros_(p)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        half = self.c["head_dim"] // 2
        angle = torch.arange(ids.shape[1])[:, None] * self.c["rope_theta"] ** (-torch.arange(half) / half)[None]
        cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix (Jordan et al., Muon, 2024)."""
    x = g.mT if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if g.shape[0] > g.shape[1] else x


def documents() -> tuple[torch.Tensor, torch.Tensor]:
    """Training and validation ids: every fortieth document is held out."""
    parts = lzma.decompress(TEXT.read_bytes()).split(b"\f")
    held = [p for i, p in enumerate(parts) if i % 40 == 20]
    kept = [p for i, p in enumerate(parts) if i % 40 != 20]
    return tuple(torch.tensor([t for p in group for t in [STOP, *p]]) for group in (kept, held))


@torch.no_grad()
def validation_loss(model: nn.Module, held: torch.Tensor) -> float:
    """Mean natural-log loss per byte over 32 fixed windows of 512."""
    step = (len(held) - 513) // 32
    losses = []
    for i in range(0, 32, 4):
        rows = torch.stack([held[j * step : j * step + 513] for j in range(i, i + 4)])
        losses.append(F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item())
    return sum(losses) / len(losses)


@torch.no_grad()
def sample(model: nn.Module, prompt: str, count: int, temperature: float = 0.7) -> str:
    ids = list(prompt.encode())
    for _ in range(count):
        logits = model(torch.tensor([ids[-512:]]))[0, -1] / temperature
        ids.append(int(torch.multinomial(logits.softmax(-1), 1)))
    return bytes(i for i in ids if i < 256).decode("ascii", "replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    torch.set_flush_denormal(True)
    options.out.mkdir(parents=True, exist_ok=True)
    kept, held = documents()
    model, average = Llama(CONFIG), Llama(CONFIG)
    average.load_state_dict(model.state_dict())
    matrices = [p for n, p in model.named_parameters() if "proj" in n]
    others = [p for n, p in model.named_parameters() if "proj" not in n]
    adam = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    momentum = [torch.zeros_like(p) for p in matrices]
    began = saved = time.monotonic()
    step, running = 0, 0.0
    while (done := (time.monotonic() - began) / (options.minutes * 60)) < 1:
        rate = min(1, (step + 1) / 50) * (1 if done < 0.4 else 0.03 + 0.97 * (1 - done) / 0.6)
        length = 256 if done < 0.75 else 512  # the last quarter teaches the far positions
        rows = torch.stack([kept[i : i + length + 1]
                            for i in torch.randint(len(kept) - length - 1, (TOKENS_PER_STEP // length,)).tolist()])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = OTHER_RATE * rate
        adam.step()
        with torch.no_grad():
            for p, m in zip(matrices, momentum, strict=True):
                m.lerp_(p.grad, 0.05)
                update = orthogonalised(p.grad.lerp(m, 0.95))
                p.mul_(1 - MATRIX_RATE * rate * 0.1)
                p.sub_(update, alpha=MATRIX_RATE * rate * math.sqrt(max(1, p.shape[0] / p.shape[1])))
            decay = min(0.99, step / (step + 10))
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - decay)
        step += 1
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0:
            print(f"step {step} {time.monotonic() - began:.0f} s loss {running:.4f}", flush=True)
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            save(average, held, options.out, step)
    save(average, held, options.out, step)


def save(model: nn.Module, held: torch.Tensor, out: Path, step: int) -> None:
    loss = validation_loss(model, held)
    save_file({n: p.detach().clone().contiguous() for n, p in model.named_parameters()}, out / "model.safetensors.part")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (out / "model.safetensors.part").replace(out / "model.safetensors")
    print(f"step {step} validation {loss:.4f} nats a byte | {sample(model, 'The sea', 100)!r}", flush=True)


if __name__ == "__main__":
    main()
