"""Tiny models that transformers makes, of every shape, as folders and as GGUF files: the float pass that quality is
measured against says what transformers says, the two files of one model are one model, and its program follows it."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.checkpoint import Checkpoint
from inference.engine import Engine, make_executor
from inference.float_model import forward, pooled
from inference.importer import import_model, open_checkpoint
from inference.kv import Segment
from inference.model import load
from inference.program import ProgramError
from inference.quality import TextQuality, VectorQuality
from inference.reference import NumpyExecutor

if not all(map(find_spec, ("torch", "transformers", "gguf"))):
    pytest.skip("torch, transformers and gguf make the models of these tests", allow_module_level=True)

import torch
import transformers

VOCABULARY, TOKENS = 300, [int(token) for token in np.random.default_rng(1).integers(0, 256, 40)]
WORDS = ["sea", "ship", "whale", "wind", "sail", "rope", "deck", "storm", "calm", "shore", "gull", "star"]
TEXT = " ".join(
    " ".join(WORDS[(i * j + i // 5) % len(WORDS)] for j in range(2, 5 + i % 3)).capitalize() + "." for i in range(120)
)
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 64, "eos_token_id": 299,
}  # fmt: skip
GROUPED = COMMON | {"num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
MAKE: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED, rope_parameters=LLAMA3)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED, head_dim=32)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(
        **GROUPED | {"num_hidden_layers": 7}, head_dim=32, sliding_window=8, query_pre_attn_scalar=32,
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    )),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**COMMON)),
}  # fmt: skip
DECODERS = [kind for kind in MAKE if kind != "bert"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Every kind's folder and its model."""
    root = tmp_path_factory.mktemp("made")
    found = {}
    for seed, (kind, make) in enumerate(MAKE.items()):
        torch.manual_seed(seed)
        model = make().float().eval()
        with torch.no_grad():
            for weight in model.parameters():
                noise = torch.randn_like(weight)
                weight.copy_(weight + 0.2 * noise if weight.ndim == 1 else noise / weight.shape[1] ** 0.5)
        model.save_pretrained(root / kind)
        found[kind] = (root / kind, model)
    return found


def outputs(model: Any, tokens: list[int]) -> np.ndarray:
    """Logits, or an encoder's last states."""
    with torch.no_grad():
        found = model(torch.tensor([tokens]))
    return np.asarray(found.logits[0] if "logits" in found else found.last_hidden_state[0])


def ours(checkpoint: Checkpoint, sequences: list[list[int]]) -> np.ndarray:
    states = forward(checkpoint, sequences)
    return states @ checkpoint.rows("head.weight").T if checkpoint.shape.causal else states


@pytest.mark.parametrize("kind", MAKE)
def test_the_float_pass_says_what_transformers_says(made: dict[str, tuple[Path, Any]], kind: str) -> None:
    folder, model = made[kind]
    checkpoint = open_checkpoint(folder)
    assert checkpoint.shape.kind == kind
    found = ours(checkpoint, [TOKENS, TOKENS[5:30]])
    for rows, tokens in ((slice(0, 40), TOKENS), (slice(40, 65), TOKENS[5:30])):
        assert np.abs(found[rows] - outputs(model, tokens)).max() < 5e-5


@pytest.mark.parametrize("kind", MAKE)
def test_the_program_follows_and_every_engine_gives_its_bits(
    made: dict[str, tuple[Path, Any]], kind: str, tmp_path: Path
) -> None:
    folder, model = made[kind]
    done = import_model(folder, tmp_path / "out", TEXT, name=kind, licence="", positions=256)
    program = load(done.folder)
    executors = [make_executor(name, program) for name in ("numpy", "torch")]
    for executor in executors:
        Engine(executor).known_answer_test()
    if kind == "bert":
        found = np.array(Engine(executors[0]).embed(TOKENS, bytes(32)).vector) / 2**15
        expected = pooled(outputs(model, TOKENS))
        assert isinstance(done.quality, VectorQuality)
        assert found @ expected > 0.998 and done.quality.cosine_least > 0.99
    else:
        expected = outputs(model, TOKENS)
        found = executors[0].feed([Segment(executors[0].new_sequence(), TOKENS, 0)])[0].logits / 65536
        assert isinstance(done.quality, TextQuality)
        assert np.sqrt(((found - expected) ** 2).mean()) / expected.std() < 0.07
    assert len(done.quality.layer_errors) == program.manifest.shape.layers
    assert 0 < done.quality.layer_errors[0] < max(done.quality.layer_errors) < 0.1


@pytest.mark.parametrize("kind", DECODERS)
def test_a_gguf_file_is_the_checkpoint_it_was_made_from(
    made: dict[str, tuple[Path, Any]], kind: str, tmp_path: Path
) -> None:
    folder, model = made[kind]
    write_gguf(tmp_path / "m.gguf", open_checkpoint(folder), model)
    theirs, found = open_checkpoint(folder), open_checkpoint(tmp_path / "m.gguf")
    assert found.stop == (299,)
    assert dataclasses.replace(found.shape, norm_epsilon_q32=0) == dataclasses.replace(theirs.shape, norm_epsilon_q32=0)
    assert found.parameters == theirs.parameters
    for name, parts in theirs.weights.items():
        assert np.allclose(found.rows(name), theirs.rows(name), rtol=0, atol=1e-6), parts[0].name
        assert np.array_equal(found.rows(name, 3, 20), found.rows(name)[3:20])
    assert np.abs(ours(found, [TOKENS]) - outputs(model, TOKENS)).max() < 2e-4


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_quantised_gguf_is_imported_as_the_floats_it_stands_for(
    made: dict[str, tuple[Path, Any]], kind: str, tmp_path: Path
) -> None:
    folder, model = made[kind]
    write_gguf(tmp_path / "m.gguf", open_checkpoint(folder), model, quantised=True)
    found = open_checkpoint(tmp_path / "m.gguf")
    exact = outputs(model, TOKENS)
    off = np.sqrt(((ours(found, [TOKENS]) - exact) ** 2).mean()) / exact.std()
    assert 0.001 < off < 0.1, "Q8_0 is near the floats, and is not they"
    done = import_model(tmp_path / "m.gguf", tmp_path / "out", TEXT, name=kind, licence="", positions=256)
    assert isinstance(done.quality, TextQuality) and done.quality.divergence < 0.01
    assert done.manifest.tokenizer != "bytes"
    Engine(NumpyExecutor(load(done.folder))).known_answer_test()


def write_gguf(path: Path, checkpoint: Checkpoint, model: Any, quantised: bool = False) -> None:
    """The model as llama.cpp's converter writes it: its names, Llama's query and key rows in pairs, Gemma's gains with
    their 1, Llama 3's rule as divisors, a SentencePiece vocabulary of bytes and printable characters."""
    import gguf

    shape, config = checkpoint.shape, model.config
    writer = gguf.GGUFWriter(path, shape.kind)
    for field, value in {
        "context_length": shape.context, "embedding_length": shape.width, "block_count": shape.layers,
        "feed_forward_length": shape.hidden, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
    }.items():  # fmt: skip
        writer.add_uint32(f"{shape.kind}.{field}", value)
    writer.add_float32(f"{shape.kind}.attention.layer_norm_rms_epsilon", checkpoint.epsilon)
    writer.add_float32(f"{shape.kind}.rope.freq_base", float(checkpoint.rope.theta))
    if shape.kind == "gemma3":
        writer.add_uint32("gemma3.attention.sliding_window", shape.window)
        writer.add_string("gemma3.rope.scaling.type", "linear")
        writer.add_float32("gemma3.rope.scaling.factor", float(checkpoint.rope.factor))
    pieces = [f"<0x{i:02X}>" for i in range(256)] + ["<unk>", "<s>"]
    pieces += [chr(32 + i) if i else "\u2581" for i in range(VOCABULARY - len(pieces) - 1)] + ["</s>"]
    types = [6] * 256 + [2, 3] + [1] * (VOCABULARY - 259) + [3]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(types)
    for field, value in {"bos": 257, "eos": 299, "unknown": 256}.items():
        writer.add_uint32(f"tokenizer.ggml.{field}_token_id", value)
    if config.rope_parameters.get("rope_type") == "llama3":
        plain = config.rope_parameters["rope_theta"] ** (-np.arange(shape.rotary // 2) * 2 / shape.rotary)
        turned = np.array([float(frequency) for frequency in checkpoint.rope.frequencies(shape.rotary)])
        writer.add_tensor("rope_freqs.weight", (plain / turned).astype(np.float32))
    names = gguf.get_tensor_name_map(
        {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[shape.kind], shape.layers
    )
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        base, _, ending = name.rpartition(".")
        value = tensor.numpy()
        if shape.kind == "llama" and base.endswith(("q_proj", "k_proj")):
            pairs = value.reshape(-1, 2, shape.head_width // 2, value.shape[1])
            value = pairs.swapaxes(1, 2).reshape(value.shape)
        if shape.kind == "gemma3" and base.endswith("norm"):
            value = value + 1
        stored = f"{names.get_name(base)}.{ending}"
        if quantised and value.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(stored, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tried(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], max_loss: float) -> Any:
    """An import whose schemes are said to lose these shares, one after the other."""
    from inference import importer

    told, real = iter(losses), importer.measure

    def measured(*arguments: Any) -> Any:
        quality = real(*arguments)
        assert isinstance(quality, TextQuality)
        return dataclasses.replace(quality, loss_integer=quality.loss_float + float(np.log1p(next(told))))

    monkeypatch.setattr(importer, "measure", measured)
    return import_model(folder, out, TEXT, name="m", licence="", positions=512, max_loss=max_loss)


def test_the_cheapest_precision_that_gives_the_quality_is_kept(
    made: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divergences, kept = [], []
    for count in range(1, 6):
        done = tried(made["gemma3"][0], tmp_path / str(count), monkeypatch, [0.02] * (count - 1) + [0.004], 0.005)
        monkeypatch.undo()
        assert round(done.quality.lost, 6) == 0.004 and len(done.tried) == count
        program = load(done.folder)
        Engine(make_executor("torch", program)).known_answer_test()
        linears = program.manifest.linears
        kept.append((done.tried[-1][0], sum(linear.terms == 2 for linear in linears), len(linears)))
        recorded = program.manifest.quality
        assert recorded["maxLossPpm"] == 5000 and recorded["linearsOfTwoTerms"] == kept[-1][1]
        assert recorded["linearsByGptq"] == (0 if count == 1 else len(linears) - kept[-1][1])
        divergences.append(done.quality.divergence)
    assert [(name, two) for name, two, _ in kept] == [
        ("127", 0), ("127, GPTQ", 0), ("two terms in the worst quarter, GPTQ", 8),
        ("two terms in the worse half, GPTQ", 15), ("two terms", 29),
    ]  # fmt: skip
    assert divergences == sorted(divergences, reverse=True), "what costs more is nearer to float"


def test_a_wide_product_is_first_tried_with_the_bound_that_saves_a_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.LlamaConfig(**GROUPED | {"intermediate_size": 1100, "num_hidden_layers": 1})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    done = tried(tmp_path / "m", tmp_path / "out", monkeypatch, [0.0], 0.001)
    assert done.tried[0][0] == "63 where it saves a tile, GPTQ"
    assert {linear.bound for linear in done.manifest.linears if not linear.name.endswith(".down")} == {127}
    assert [linear.bound for linear in done.manifest.linears if linear.name.endswith(".down")] == [63]


def test_a_quality_that_nothing_gives_is_refused_and_leaves_nothing(
    made: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProgramError, match=r"at most 0.1 %; measured 127: 2.000 %, .* two terms: 2.000 %"):
        tried(made["llama"][0], tmp_path / "out", monkeypatch, [0.02] * 9, 0.001)
    assert not list(tmp_path.iterdir())
