"""Import from float: the integer program of a float checkpoint says what the float model says, for every shape that is
supported; what is not supported is refused by its field, and what is hostile before anything is allocated."""

import importlib.util
import json
import math
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import checkpoint as checkpoints
from inference import hugging_face
from inference import program as cip
from inference import tokenizer as tokenizers_of_ours
from inference.engine import Engine, make_executor
from inference.float_model import forward
from inference.importer import Imported, import_model, open_checkpoint
from inference.kv import Segment
from inference.model import load
from inference.reference import NumpyExecutor
from inference.tables import Rope, rope

TEXT = "".join(chr(32 + (i * i * 7 + i // 3) % 90) for i in range(600))
CONFIG = {
    "model_type": "llama", "hidden_act": "silu", "vocab_size": 130, "hidden_size": 96, "intermediate_size": 160,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "eos_token_id": 129,
    "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama, llama3 scaling": {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "num_key_value_heads": 1},
    "llama, linear scaling, new names": {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}, "rope_theta": None,
    },
    "llama, head of 10, width of 50": {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5,
                                       "head_dim": None, "intermediate_size": 71},
    "qwen2": {"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False, "rope_theta": 1000000},
    "qwen2 tied": {"model_type": "qwen2", "tie_word_embeddings": True, "num_attention_heads": 6,
                   "num_key_value_heads": 2, "head_dim": 16},
    "qwen3": {"model_type": "qwen3", "layer_types": ["full_attention"] * 3, "attention_bias": False},
    "qwen3 tied": {"model_type": "qwen3", "tie_word_embeddings": True, "head_dim": 32, "num_key_value_heads": 1},
}  # fmt: skip


def make_checkpoint(
    folder: Path, changes: dict[str, Any] | None = None, seed: int = 1, dtype: str = "F32", shards: int = 1
) -> dict[str, np.ndarray]:
    """Write a random float checkpoint with outliers in one channel, as real ones have; its weights as float32."""
    config = CONFIG | (changes or {})
    random = np.random.default_rng(seed)
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config["head_dim"] or d // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    extents: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        extents["lm_head.weight"] = (v, d)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        extents |= {f"{layer}.{n}.weight": (d,) for n in ("input_layernorm", "post_attention_layernorm")}
        extents |= {f"{layer}.self_attn.{n}_proj.weight": e for n, e in zip("qkvo", ((q, d), (kv, d), (kv, d), (d, q)),
                                                                            strict=True)}  # fmt: skip
        extents |= {f"{layer}.mlp.{n}_proj.weight": e for n, e in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f)))}
        if config["model_type"] == "qwen2":
            extents |= {f"{layer}.self_attn.{n}_proj.bias": (rows,) for n, rows in (("q", q), ("k", kv), ("v", kv))}
        if config["model_type"] == "qwen3":
            extents |= {f"{layer}.self_attn.{n}_norm.weight": (head,) for n in "qk"}
    weights = {}
    for name, extent in extents.items():
        noise = random.normal(size=extent)
        if len(extent) == 2:
            noise /= np.sqrt(extent[1])
        elif name.endswith(".weight"):
            noise = 1 + 0.2 * noise
            if "self_attn" not in name:
                noise[3] = 8.0
        weights[name] = noise.astype({"F16": np.float16}.get(dtype, np.float32)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    names = sorted(weights)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights, dtype)
    else:
        files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        for i, file in enumerate(files):
            write_safetensors(folder / file, {n: weights[n] for n in names[i::shards]}, dtype)
        where = {name: files[i % shards] for i, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    if dtype == "BF16":
        weights = {n: ((w.view(np.uint32) >> 16) << 16).view(np.float32) for n, w in weights.items()}
    return weights


def write_safetensors(path: Path, weights: dict[str, np.ndarray], dtype: str) -> None:
    """The format by hand: header size, header, data."""
    header, body = {}, b""
    for name, weight in weights.items():
        if dtype == "BF16":
            data = (weight.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            data = weight.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(weight.shape), "data_offsets": offsets}
        body += data
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def float_logits(config: dict[str, Any], w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """The forward pass in float64, straight from its definition (Hugging Face's modeling files)."""
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    width, count = config["head_dim"] or config["hidden_size"] // heads, len(tokens)
    angle = np.arange(count)[:, None] * frequencies(config, width)[None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[f"{name}.weight"]

    def turn(x: np.ndarray) -> np.ndarray:
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["model.embed_tokens.weight"][tokens].astype(np.float64)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        n = norm(x, f"{layer}.input_layernorm")
        q, k, v = (
            (n @ w[f"{layer}.self_attn.{part}_proj.weight"].T + w.get(f"{layer}.self_attn.{part}_proj.bias", 0.0))
            .reshape(count, h, width)
            for part, h in (("q", heads), ("k", kv), ("v", kv))
        )  # fmt: skip
        if config["model_type"] == "qwen3":
            q, k = norm(q, f"{layer}.self_attn.q_norm"), norm(k, f"{layer}.self_attn.k_norm")
        q, k = turn(q), turn(k)
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


def frequencies(config: dict[str, Any], width: int) -> np.ndarray:
    """Radians a position, as transformers' modeling_rope_utils computes them."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = scaling.get("rope_theta", config["rope_theta"])
    plain = theta ** (-np.arange(width // 2) / (width // 2))
    if scaling.get("rope_type") == "linear":
        return plain / scaling["factor"]
    if scaling.get("rope_type") != "llama3":
        return plain
    old = scaling["original_max_position_embeddings"]
    low, high = old / scaling["low_freq_factor"], old / scaling["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    smooth = (old / wavelength - scaling["low_freq_factor"]) / (
        scaling["high_freq_factor"] - scaling["low_freq_factor"]
    )
    blended = (1 - smooth) * plain / scaling["factor"] + smooth * plain
    return np.where(wavelength > low, plain / scaling["factor"], np.where(wavelength < high, plain, blended))


def bring_in(folder: Path, **options: Any) -> Imported:
    return import_model(folder, folder.parent / f"{folder.name}-out", TEXT, name="tiny", licence="CC0-1.0", **options)


def logits_of(executor: Any, tokens: list[int]) -> np.ndarray:
    return executor.feed([Segment(executor.new_sequence(), tokens, 0)])[0].logits


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_follows_its_float_model_with_the_same_bits_everywhere(tmp_path: Path, shape: str) -> None:
    changes = SHAPES[shape]
    weights = make_checkpoint(tmp_path / "m", changes, seed=3)
    done = bring_in(tmp_path / "m")
    model = load(done.folder)
    assert model.model_id == done.model_id
    tokens = [int(t) for t in np.random.default_rng(3).integers(0, 130, 40)]
    logits = logits_of(NumpyExecutor(model), tokens)
    expected = float_logits(CONFIG | changes, weights, tokens)
    error = np.sqrt(((logits / 65536 - expected) ** 2).mean()) / expected.std()
    assert error < 0.07, f"relative error {error:.4f}"
    assert (logits.argmax(1) == expected.argmax(1)).mean() > 0.85
    states = forward(open_checkpoint(tmp_path / "m"), [tokens])
    ours = states @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T
    assert np.abs(ours - expected).max() < 1e-3, "the float32 pass that quality is measured against"
    executor = NumpyExecutor(model)
    sequence = executor.new_sequence(40)
    one_by_one = [executor.feed([Segment(sequence, [token], 0)])[0].logits for token in tokens]
    assert np.array_equal(np.concatenate(one_by_one), logits)
    if find_spec("torch"):
        engine = Engine(make_executor("torch", model))
        engine.known_answer_test()
        assert np.array_equal(logits_of(make_executor("torch", model), tokens), logits)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_biases_and_head_norms_matter_to_the_float_model_above(tmp_path: Path, kind: str) -> None:
    """The comparison can fail: without them the float model is another."""
    weights = make_checkpoint(tmp_path / "m", {"model_type": kind})
    plain = {n: w * 0 if n.endswith(".bias") else w * 0 + 1 if "_norm" in n else w for n, w in weights.items()}
    tokens = list(range(30))
    full, less = (float_logits(CONFIG | {"model_type": kind}, w, tokens) for w in (weights, plain))
    assert np.abs(full - less).max() > 0.2 * full.std()


@pytest.mark.parametrize(("dtype", "shards"), [("BF16", 3), ("F16", 2), ("F64", 1)])
def test_other_dtypes_and_shards_give_the_model_of_their_values(tmp_path: Path, dtype: str, shards: int) -> None:
    weights = make_checkpoint(tmp_path / "m", {}, 4, dtype, shards)
    (tmp_path / "plain").mkdir()
    write_safetensors(tmp_path / "plain" / "model.safetensors", weights, "F32")
    (tmp_path / "plain" / "config.json").write_bytes((tmp_path / "m" / "config.json").read_bytes())
    assert bring_in(tmp_path / "m").model_id == bring_in(tmp_path / "plain").model_id


def test_rows_are_read_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "m", {"model_type": "qwen3"})
    whole = bring_in(tmp_path / "m")
    whole.folder.rename(tmp_path / "whole")
    monkeypatch.setattr("inference.importer.BLOCK_BYTES", 4 * 96 * 7)
    read = checkpoints.Checkpoint.rows
    sizes: list[int] = []

    def watched(self: Any, name: str, *bounds: Any) -> np.ndarray:
        found = read(self, name, *bounds)
        sizes.append(found.nbytes if bounds and "embed" not in name else 0)
        return found

    monkeypatch.setattr(checkpoints.Checkpoint, "rows", watched)
    assert bring_in(tmp_path / "m").model_id == whole.model_id
    assert 0 < max(sizes) <= 4 * 96 * 7


def test_the_manifest_records_what_was_measured(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    seen: list[tuple[str, int, int]] = []
    done = bring_in(tmp_path / "m", progress=lambda *step: seen.append(step))
    quality = done.manifest.quality
    assert quality["positionsMeasured"] == done.quality.positions == 4 * 64
    assert quality["parameters"] == done.parameters
    assert quality["lossFloatMicroNats"] == round(done.quality.loss_float * 1e6)
    assert abs(quality["lossIntegerMicroNats"] - quality["lossFloatMicroNats"]) < 20_000
    assert 0 < quality["divergenceMicroNats"] < 20_000
    assert 850_000 < quality["argmaxAgreementPpm"] <= 1_000_000
    assert done.manifest.stop == (129,)
    assert [known.task for known in done.manifest.known_answers] == ["generate", "generate", "embed", "score"]
    steps = {step for step, _, _ in seen}
    assert steps == {"tables", "weights", "float model", "integer model", "known answers"}
    assert all((step, total, total) in seen for step, _, total in seen)


def test_every_layer_s_error_is_recorded_however_many_there_are(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m", {"num_hidden_layers": 70, "hidden_size": 16, "intermediate_size": 16,
                                     "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8})  # fmt: skip
    done = bring_in(tmp_path / "m", positions=64)
    quality = load(done.folder).manifest.quality
    errors = [quality[f"layer{i}ErrorPpm"] for i in range(70)]
    assert errors == [round(error * 1e6) for error in done.quality.layer_errors] and 0 < errors[0] < errors[69]


def test_a_worse_rounding_is_seen_by_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "m")
    good = bring_in(tmp_path / "m")
    good.folder.rename(tmp_path / "good")
    real = np.rint
    monkeypatch.setattr(np, "rint", lambda x: np.clip(real(x / 16) * 16, -112, 112) if np.ndim(x) == 2 else real(x))
    bad = bring_in(tmp_path / "m")
    assert bad.quality.divergence > 5 * good.quality.divergence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'"),
        ({"model_type": ["llama"]}, "model_type is"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type is 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type is 'dynamic'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is None"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor is 0"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor is 1.0"),
        ({"rope_scaling": "llama3"}, "rope_scaling is 'llama3'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": 10000.5}, "rope_theta is 10000.5"),
        ({"rope_theta": "big"}, "rope_theta is 'big'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"sliding_window": 32}, "sliding_window is 32"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["sliding_attention"]}, "layer_types"),
        ({"hidden_size": 1 << 30}, "shape.width"),
        ({"hidden_size": 96.0}, "hidden_size is 96.0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 2**70}, "hidden_size is"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 3}, "no multiple"),
        ({"head_dim": 25}, "must be even"),
        ({"max_position_embeddings": 1 << 20}, "shape.context is 1048576"),
        ({"intermediate_size": 161}, "asks for"),
        ({"num_hidden_layers": 4}, r"no tensor model\.layers\.3"),
        ({"num_hidden_layers": 2}, r"does not explain the tensors \['model\.layers\.2"),
        ({"model_type": "qwen2"}, "q_proj.bias"),
        ({"model_type": "qwen3"}, "k_norm.weight"),
        ({"rms_norm_eps": 0.1}, "norm_epsilon"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"eos_token_id": 130}, "eos_token_id is 130"),
        ({"eos_token_id": list(range(65))}, "eos_token_id"),
    ],
)
def test_an_unsupported_checkpoint_is_refused_by_its_field(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    make_checkpoint(tmp_path / "m")
    config = {k: v for k, v in (CONFIG | changes).items() if v is not None}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(cip.ProgramError, match=said):
        bring_in(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"], "nothing half-made stays"


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        change(header)
        encoded = json.dumps(header).encode()
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data[8 + size :])

    return edit


def entry(field: str, value: Any) -> Callable[[Path], None]:
    return with_header(lambda header: header["model.norm.weight"].__setitem__(field, value))


def raw(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return edit


def index(weight_map: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "other.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return edit


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (raw(lambda data: b""), "header of 0 bytes in a file of 0"),
        (raw(lambda data: data[:5]), "in a file of 5"),
        (raw(lambda data: (2**63).to_bytes(8, "little") + data[8:]), "header of 9223372036854775808"),
        (raw(lambda data: data[:-1]), "lies at"),
        (raw(lambda data: data[:8] + b"[" * int.from_bytes(data[:8], "little") + data[-9:]), "no JSON"),
        (raw(lambda data: (2).to_bytes(8, "little") + b"[]"), r"header is \[\]"),
        (entry("dtype", "F8_E4M3"), "dtype 'F8_E4M3'"),
        (entry("dtype", ["F32"]), "dtype"),
        (entry("shape", [97]), "lies at"),
        (entry("shape", [2**62, 2**62]), "lies at"),
        (entry("shape", [-96]), "has shape"),
        (entry("shape", [96.0]), "has shape"),
        (entry("shape", []), "has shape"),
        (entry("shape", [12, 8]), "the config asks for"),
        (entry("data_offsets", [0, 2**62]), "lies at"),
        (entry("data_offsets", [-384, 0]), "has offsets"),
        (entry("data_offsets", [384, 0]), "lies at"),
        (entry("data_offsets", "all"), "has offsets"),
        (with_header(lambda header: header.__setitem__("model.norm.weight", 7)), "dtype None"),
        (with_header(lambda header: header.__setitem__("score.weight", header["model.norm.weight"])), "score.weight"),
        (pickled, "pytorch_model.bin but no model.safetensors: a pickle can run any code"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors"),
        (index({"model.norm.weight": "../m/other.safetensors"}), "must be of this folder"),
        (index({"model.norm.weight": "/etc/passwd"}), "must be of this folder"),
        (index({"model.norm.weight": "model.bin"}), "must be of this folder"),
        (index({"model.norm.weight": 3}), "must name files"),
        (index(["other.safetensors"]), "must name files"),
        (index({f"t{i}": f"{i}.safetensors" for i in range(5000)}), "names 5000 files"),
        (index({"model.norm.weight": "other.safetensors", "extra": "other.safetensors"}), r"lack: \['extra'\]"),
        (index({"model.norm.weight": "other.safetensors"}), "has no tensor"),
        (raw(lambda _: b"[" * 100_000, "config.json"), "is no JSON"),
        (raw(lambda _: b"[]", "config.json"), r"holds \[\]"),
        (raw(lambda _: b" " * (1 << 21), "config.json"), "has 2097152 bytes"),
    ],
)
def test_a_hostile_folder_is_refused_before_a_weight_is_read(
    tmp_path: Path, edit: Callable[[Path], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "m")
    edit(tmp_path / "m")
    monkeypatch.setattr(checkpoints.Checkpoint, "rows", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(cip.ProgramError, match=said):
        bring_in(tmp_path / "m")


NASTY = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6),
    st.lists(st.integers(-3, 2**66), max_size=9), st.dictionaries(st.sampled_from(["rope_type", "factor", "x"]),
                                                                 st.one_of(st.none(), st.integers(), st.text())),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_folder_with_any_value_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Config fields and header entries of every type and size; nothing large is allocated, no other error escapes."""
    folder = tmp_path_factory.getbasetemp() / "any"
    kind = data.draw(st.sampled_from(["llama", "qwen2", "qwen3", "gemma3_text", "bert"]))
    make_checkpoint(folder)
    fields = sorted({*CONFIG, *hugging_face.PLAIN, "rope_scaling", "rope_parameters", "layer_types", "sliding_window",
                     "query_pre_attn_scalar", "type_vocab_size", "rope_local_base_freq", "layer_norm_eps"})  # fmt: skip
    changes = data.draw(st.dictionaries(st.sampled_from(fields), NASTY, max_size=3))
    config = {k: v for k, v in (CONFIG | {"model_type": kind} | changes).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config).replace("NaN", "0").replace("Infinity", "1e999"))
    if data.draw(st.booleans()):
        name, where = data.draw(st.sampled_from(["model.norm.weight", "lm_head.weight"])), data.draw(NASTY)
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        with_header(lambda header: header[name].__setitem__(field, where))(folder)
    tracemalloc.start()
    try:
        checkpoint = open_checkpoint(folder)
        for name in checkpoint.weights:
            checkpoint.rows(name)
    except cip.ProgramError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.layers.0.mlp.up_proj.weight", np.nan, "not a finite number"),
        ("model.embed_tokens.weight", np.inf, "not a finite number"),
        ("model.norm.weight", 1e12, "model.norm.weight reaches"),
        ("model.layers.1.self_attn.k_proj.bias", 1e5, "a bias reaches 100000"),
        ("lm_head.weight", 1e30, "need exponent"),
    ],
)
def test_values_that_no_program_holds_are_refused(tmp_path: Path, name: str, value: float, said: str) -> None:
    weights = make_checkpoint(tmp_path / "m", {"model_type": "qwen2"})
    weights[name].reshape(-1)[1] = value
    write_safetensors(tmp_path / "m" / "model.safetensors", weights, "F32")
    with pytest.raises(cip.ProgramError, match=said):
        bring_in(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    (tmp_path / "m-out").mkdir()
    bring_in(tmp_path / "m")  # an empty one is taken
    before = (tmp_path / "m-out" / "manifest.json").read_bytes()
    with pytest.raises(cip.ProgramError, match="not an empty folder"):
        bring_in(tmp_path / "m")
    assert (tmp_path / "m-out" / "manifest.json").read_bytes() == before


def test_a_text_that_is_too_short_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "m")
    with pytest.raises(cip.ProgramError, match="text of 5 tokens"):
        import_model(tmp_path / "m", tmp_path / "o", "short", name="tiny", licence="")
    with pytest.raises(cip.ProgramError, match="gives id 226, the vocabulary has 130"):
        import_model(tmp_path / "m", tmp_path / "o", "\u20ac" * 100, name="tiny", licence="")


@pytest.mark.skipif(find_spec("tokenizers") is None, reason="tokenizers is not installed")
def test_a_tokenizer_file_travels_with_the_model(tmp_path: Path) -> None:
    import tokenizers

    make_checkpoint(tmp_path / "m")
    vocabulary = {"<s>": 0, "</s>": 129} | {chr(31 + i): i for i in range(1, 97)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    made.decoder = tokenizers.decoders.Fuse()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(tmp_path / "m" / "tokenizer.json"))
    done = bring_in(tmp_path / "m")
    kind = done.manifest.tokenizer
    assert kind == tokenizers_of_ours.fingerprint(done.folder / "tokenizer.json")
    assert all(answer.prompt[0] == 0 for answer in done.manifest.known_answers[:1])
    ours = tokenizers_of_ours.open_tokenizer(done.folder, kind)
    assert ours.encode("sea")[0] == 0
    assert ours.decode(ours.encode("the sea")) == "the sea"
    stream = ours.stream()
    assert "".join(map(stream, ours.encode("the sea"))) == "the sea"
    (done.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(cip.ProgramError, match="the manifest says"):
        tokenizers_of_ours.open_tokenizer(done.folder, kind)
    (tmp_path / "m" / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(cip.ProgramError, match="is no tokenizer"):
        import_model(tmp_path / "m", tmp_path / "again", TEXT, name="tiny", licence="")


def test_bytes_stream_whole_characters() -> None:
    stream = tokenizers_of_ours.Bytes().stream()
    assert [stream(token) for token in "a\u20acb".encode() + bytes([255])] == ["a", "", "", "\u20ac", "b", "\ufffd"]


@pytest.mark.parametrize("scaling", [{}, LLAMA3, {"rope_type": "linear", "factor": 2.5}])
def test_the_tables_are_the_float_formulas(scaling: dict[str, Any]) -> None:
    config = {"rope_theta": 10000, "rope_scaling": scaling}
    how = Rope(10000) if not scaling else Rope(10000, scaling["rope_type"], Decimal(repr(scaling["factor"])),
                                               original_context=32)  # fmt: skip
    cos, sin = rope(200, 32, how)
    angle = np.arange(200)[:, None] * frequencies(config, 32)[None]
    assert np.abs(cos - np.cos(angle) * 16384).max() <= 0.5001
    assert np.abs(sin - np.sin(angle) * 16384).max() <= 0.5001


@pytest.mark.demand
@pytest.mark.parametrize("shape", SHAPES)
def test_the_float_definition_here_is_transformers_own(tmp_path: Path, shape: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    weights = make_checkpoint(tmp_path / "m", SHAPES[shape])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", torch_dtype=torch.float32)
    tokens = list(range(40))
    with torch.no_grad():
        found = model(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(found - float_logits(CONFIG | SHAPES[shape], weights, tokens)).max() < 1e-3


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_the_float_definition_here_is_the_training_script_s_model(tmp_path: Path) -> None:
    import torch

    path = Path(__file__).resolve().parents[2] / "training" / "train_tiny.py"
    spec = importlib.util.spec_from_file_location("train_tiny", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    weights = make_checkpoint(tmp_path / "m")
    model = script.Llama(CONFIG)
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    tokens = list(range(20))
    with torch.no_grad():
        found = model(torch.tensor([tokens]))[0].numpy()
    assert np.abs(found - float_logits(CONFIG, weights, tokens)).max() < 1e-3
