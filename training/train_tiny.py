"""Trains the Llama-shaped model that every devnet serves: about 1.7 million parameters on a CPU, from an hour of it.

    python -m training.train_tiny OUT_DIR [--minutes 60 | --steps N] [--processes 1]

OUT_DIR gets tokenizer.json (byte-level BPE, learnt from the training text), and every few minutes model.safetensors
(float32, Hugging Face's Llama names), config.json and state.pt, from which the same command goes on. It can be stopped
at any time; `python -m training.issue OUT_DIR` makes the shipped program of it. The learning rate is constant, then
falls to nothing over the last part; the saved weights are a running average. Floats live here and stop here: nothing
that nodes must agree on imports this file.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from training.passages import STOP, VOCABULARY, Stream, bytes_of, documents, make_tokenizer, passages

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": STOP,
    "bos_token_id": STOP,
}
TOKENS_PER_STEP = 2560  # of each process
MATRIX_RATE, OTHER_RATE, DECAY = 0.02, 0.004, 0.3
SAVE_SECONDS = 420
EARLY_DOCUMENTS = 4  # held-out ones of the text that the first shipped model learnt from


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
        fused = F.linear(x, torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight]))
        q, k, v = fused.view(b, t, -1, self.head).transpose(1, 2).split([self.heads, self.kv, self.kv], 1)
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
        gate, up = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight])).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


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


def load(run: Path) -> Llama:
    """The model that a run saved."""
    model = Llama(json.loads((run / "config.json").read_text()))
    model.load_state_dict(load_file(run / "model.safetensors"))
    return model


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrices (Jordan et al., Muon, 2024)."""
    x = g.mT if g.shape[-2] > g.shape[-1] else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if g.shape[-2] > g.shape[-1] else x


class Muon:
    """Momentum, orthogonalised; matrices of one shape go together."""

    def __init__(self, matrices: list[nn.Parameter]) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in matrices:
            by_shape.setdefault(tuple(p.shape), []).append(p)
        self.groups = list(by_shape.values())
        self.momentum = [torch.zeros(len(group), *group[0].shape) for group in self.groups]

    def step(self, rate: float) -> None:
        for group, m in zip(self.groups, self.momentum, strict=True):
            grad = torch.stack([p.grad for p in group])
            m.lerp_(grad, 0.05)
            update = orthogonalised(grad.lerp(m, 0.95))
            rows, columns = group[0].shape
            for p, u in zip(group, update, strict=True):
                p.mul_(1 - rate * 0.1).sub_(u, alpha=rate * math.sqrt(max(1, rows / columns)))


@torch.no_grad()
def loss_per_byte(model: nn.Module, held: Stream, sizes: torch.Tensor, windows: int = 48) -> float:
    """Nats a byte over windows spread over the held-out text; a stop counts as the one byte it stands for."""
    nats = count = 0.0
    for rows in held.spread(windows, 512).split(4):
        targets = rows[:, 1:].flatten()
        nats += F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), targets, reduction="sum").item()
        count += sizes[targets].sum().item()
    return nats / count


@torch.no_grad()
def sample(model: nn.Module, ids: list[int], count: int, temperature: float = 0.7, top_k: int = 40) -> list[int]:
    begin = len(ids)
    for _ in range(count):
        logits = model(torch.tensor([ids]))[0, -1] / temperature
        best = logits.topk(top_k)
        ids = [*ids, int(best.indices[torch.multinomial(best.values.softmax(-1), 1)])]
        if ids[-1] == STOP:
            break
    return ids[begin:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, help="exactly so many, however long they take")
    parser.add_argument("--processes", type=int, default=1, help="cores to use; a step sees so many times the tokens")
    parser.add_argument("--config", default="{}", help="what differs from CONFIG, as JSON")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config = CONFIG | json.loads(options.config)
    make_tokenizer(documents()[0], options.out / "tokenizer.json", config["vocab_size"])
    if options.processes == 1:
        train(0, options, config)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.meeting = f"file://{folder}/meeting"
        torch.multiprocessing.spawn(train, (options, config), options.processes)


def train(rank: int, options: argparse.Namespace, config: dict) -> None:
    """One process of the run; all compute the same, each on its share of a step's windows."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    torch.set_flush_denormal(True)
    processes, first = options.processes, rank == 0
    if processes > 1:
        torch.distributed.init_process_group("gloo", init_method=options.meeting, rank=rank, world_size=processes)
    kept, held = documents()
    tokenizer = Tokenizer.from_file(str(options.out / "tokenizer.json"))
    sizes = bytes_of(tokenizer)
    text, held, early = (Stream(tokenizer, passages(part)) for part in (kept, held, held[:EARLY_DOCUMENTS]))
    model, average = Llama(config), Llama(config)
    average.load_state_dict(model.state_dict())
    adam = torch.optim.AdamW([p for n, p in model.named_parameters() if "proj" not in n], lr=OTHER_RATE,
                             betas=(0.9, 0.98), weight_decay=0.0)
    muon = Muon([p for n, p in model.named_parameters() if "proj" in n])
    if first:
        print(f"{len(text.ids):,} training tokens, {sizes[text.ids].sum() / len(text.ids):.2f} bytes each; "
              f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    step, seen, spent, running, total = 0, 0, 0.0, 0.0, options.steps
    state_path = options.out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        adam.load_state_dict(state["adam"])
        muon.momentum = state["muon"]
        step, seen, spent, running = state["step"], state["seen"], state["spent"], state["running"]
        total = options.steps or state["total"]
        torch.set_rng_state(state["rng"])
        text.load(state["order"])

    def save() -> None:
        rng = torch.get_rng_state()
        scored = [loss_per_byte(average, part, sizes, 12) for part in (held, early)]
        write(average, config, options.out)
        state = {"model": model.state_dict(), "average": average.state_dict(), "adam": adam.state_dict(),
                 "muon": muon.momentum, "step": step, "seen": seen, "spent": spent, "running": running,
                 "total": total, "rng": rng, "order": text.state()}
        torch.save(state, state_path.with_suffix(".part"))
        state_path.with_suffix(".part").replace(state_path)
        words = tokenizer.decode(sample(average, tokenizer.encode("The sea").ids, 80))
        torch.set_rng_state(rng)
        print(f"step {step}, {seen / 1e6:.2f} million tokens: held out {scored[0]:.4f} nats a byte, of it the first "
              f"{EARLY_DOCUMENTS} documents {scored[1]:.4f} | The sea{words}", flush=True)

    saved = time.monotonic()
    budget = options.minutes * 60
    while total is None or step < total:
        began = time.monotonic()
        falling = 1.0 if total is None else min(1.0, max(0.0, (total - step) / (total * DECAY)))
        rate = min(1, (step + 1) / 100) * (0.02 + 0.98 * falling)
        length = 512 if falling < 0.3 else 256  # the end teaches the far positions
        share = TOKENS_PER_STEP // length
        rows = text.batch(share * processes, length)[share * rank : share * (rank + 1)]
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        if processes > 1:
            flat = torch.cat([p.grad.flatten() for p in model.parameters()] + [torch.tensor([loss.item(), spent])])
            torch.distributed.all_reduce(flat)
            flat /= processes
            parts = flat[:-2].split([p.numel() for p in model.parameters()])
            for p, part in zip(model.parameters(), parts, strict=True):
                p.grad.copy_(part.view_as(p))
            loss, spent = flat[-2], flat[-1].item()
        for group in adam.param_groups:
            group["lr"] = OTHER_RATE * rate
        adam.step()
        with torch.no_grad():
            muon.step(MATRIX_RATE * rate)
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - min(0.99, step / (step + 10)))
        step += 1
        seen += TOKENS_PER_STEP * processes
        running = loss.item() if running == 0 else 0.98 * running + 0.02 * loss.item()
        if total is None and spent > budget * (1 - DECAY):  # every process has the same sum
            total = round(step / (1 - DECAY))  # the rest falls; --steps with this number repeats the run
        spent += time.monotonic() - began
        if step % 50 == 0 and first:
            left = (total - step) * spent / step if total else budget - spent
            print(f"step {step} of {total or 'as many as time allows'}, {spent:.0f} s, loss {running:.4f} a token, "
                  f"about {left / 60:.0f} minutes left", flush=True)
        if first and time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    if first:
        save()


def write(model: nn.Module, config: dict, out: Path) -> None:
    part = out / "model.safetensors.part"
    save_file({n: p.detach().clone().contiguous() for n, p in model.named_parameters()}, part)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    part.replace(out / "model.safetensors")


if __name__ == "__main__":
    main()
