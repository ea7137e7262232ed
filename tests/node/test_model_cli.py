"""`labora model`, as a user runs it: real processes, results on standard output, one line and a code on errors."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from genesis import models
from node import exits

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = models.folder()
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def labora(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "node", *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False,
        env=environment, cwd="/",
    )  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A Qwen3 folder of bytes, random."""
    folder, random = tmp_path / "tiny qwen", np.random.default_rng(7)
    folder.mkdir()
    config = {
        "model_type": "qwen3", "hidden_act": "silu", "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "max_position_embeddings": 48, "rms_norm_eps": 1e-6, "rope_theta": 10000, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0"
    extents = {
        "model.embed_tokens.weight": (260, 32), "model.norm.weight": (32,), f"{layer}.input_layernorm.weight": (32,),
        f"{layer}.post_attention_layernorm.weight": (32,), f"{layer}.self_attn.q_proj.weight": (32, 32),
        f"{layer}.self_attn.k_proj.weight": (16, 32), f"{layer}.self_attn.v_proj.weight": (16, 32),
        f"{layer}.self_attn.o_proj.weight": (32, 32), f"{layer}.self_attn.q_norm.weight": (16,),
        f"{layer}.self_attn.k_norm.weight": (16,), f"{layer}.mlp.gate_proj.weight": (48, 32),
        f"{layer}.mlp.up_proj.weight": (48, 32), f"{layer}.mlp.down_proj.weight": (32, 48),
    }  # fmt: skip
    header, body = {}, b""
    for name, extent in extents.items():
        data = random.normal(size=extent).astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(extent), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    return folder


def test_a_checkpoint_is_imported_checked_and_run(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = labora("model", "import", checkpoint, "--out", out, "--text", ROOT / "README.md", "--json")
    assert done.returncode == exits.OK, done.stderr
    report = json.loads(done.stdout)
    assert report["folder"] == str(out)
    assert abs(report["perplexityInteger"] / report["perplexityFloat"] - 1) < 0.1
    assert abs(report["perplexityLossPercent"]) < 10
    assert 0 <= report["divergenceNats"] < 0.1 and report["argmaxAgreement"] > 0.8
    assert report["positions"] == 4096 // 48 * 48 and len(report["layerErrors"]) == 1
    for step in ("tables", "weights", "float model", "integer model", "known answers"):
        assert f"{step} ..." in done.stderr and f"{step}: done in" in done.stderr
    checked = labora("model", "check", out)
    assert checked.returncode == exits.OK, checked.stderr
    assert report["modelId"] in checked.stdout and "numpy: every product on extreme values, 4 known" in checked.stdout
    ran = labora("model", "run", out, "--prompt", "the sea", "--max-tokens", "5", "--engine", "numpy", "--json")
    assert len(json.loads(ran.stdout)["tokens"]) == 5
    vector = labora("model", "embed", out, "--text", "the sea", "--engine", "numpy", "--json")
    embedded = json.loads(vector.stdout)
    assert set(embedded) == {"vector", "traceRoot"} and len(embedded["vector"]) == 32
    assert abs(sum(value * value for value in embedded["vector"]) ** 0.5 / 2**15 - 1) < 0.001
    shown = labora("model", "embed", out, "--text", "the sea")
    assert shown.stdout.split() == list(map(str, embedded["vector"])) and embedded["traceRoot"] in shown.stderr
    again = labora("model", "import", checkpoint, "--out", out, "--text", ROOT / "README.md")
    assert again.returncode == exits.RUNTIME and "not an empty folder" in again.stderr


def test_the_shipped_model_says_the_same_streamed_and_as_json() -> None:
    request = ("model", "run", SHIPPED, "--prompt", "The sea", "--max-tokens", "24", "--temperature", "0.7",
               "--top-k", "40", "--seed", "0x05", "--engine", "numpy")  # fmt: skip
    streamed, answer = labora(*request), labora(*request, "--json")
    assert streamed.returncode == answer.returncode == exits.OK, streamed.stderr
    report = json.loads(answer.stdout)
    assert set(report) == {"tokens", "text", "traceRoot", "tokensPerSecond"}
    assert streamed.stdout == report["text"] + "\n" and 1 < len(report["tokens"]) <= 24
    assert report["traceRoot"] in streamed.stderr and report["tokensPerSecond"] > 0
    other = json.loads(labora(*request[:-3], "6", "--engine", "numpy", "--json").stdout)
    assert other["tokens"] != report["tokens"]
    if find_spec("torch"):
        torch = json.loads(labora(*request[:-1], "torch", "--threads", "2", "--json").stdout)
        assert (torch["tokens"], torch["traceRoot"]) == (report["tokens"], report["traceRoot"])


def test_bench_measures_every_installed_engine() -> None:
    done = labora("model", "bench", SHIPPED, "--repeats", "1", "--json")
    assert done.returncode == exits.OK, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == ({"numpy", "torch"} if find_spec("torch") else {"numpy"})
    for rates in report.values():
        assert all(rates[what]["min"] > 0 for what in ("prefill", "decode"))


def test_a_changed_byte_fails_the_check(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "m")
    data = bytearray((tmp_path / "m" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m" / "model.safetensors").write_bytes(data)
    done = labora("model", "check", tmp_path / "m")
    assert done.returncode == exits.RUNTIME
    assert "hashes to" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "/nonexistent"], exits.RUNTIME, "/nonexistent/manifest.json: No such file"),
        (["import", "/nonexistent", "--text", ROOT / "README.md"], exits.RUNTIME, "/nonexistent/config.json: No such"),
        (["import", ROOT, "--text", "/nonexistent"], exits.USAGE, "--text /nonexistent"),
        (["import", ROOT, "--max-loss", "little"], exits.USAGE, "--max-loss 'little'"),
        (["import", ROOT, "--max-loss", "-1%"], exits.USAGE, "--max-loss '-1%'"),
        (["import", ROOT / "README.md"], exits.RUNTIME, "README.md/config.json"),
        (["embed", "/nonexistent", "--text", "x"], exits.RUNTIME, "/nonexistent/manifest.json: No such file"),
        (["run", SHIPPED, "--prompt", "x", "--seed", "sea"], exits.USAGE, "--seed 'sea'"),
        (["run", SHIPPED, "--prompt", "x", "--seed", "0" * 65], exits.USAGE, "64 hexadecimal digits"),
        (["run", SHIPPED, "--prompt", "x", "--engine", "numpy", "--max-tokens", "512"], exits.RUNTIME, "at most 512"),
        (["run", SHIPPED, "--prompt", "x", "--engine", "tpu"], exits.USAGE, "'tpu'"),
        (["run", SHIPPED, "--prompt", "x", "--device", "tpu"], exits.USAGE, "'tpu'"),
    ],
)
def test_errors_are_one_line_with_the_documented_code(arguments: list[str | Path], code: int, words: str) -> None:
    done = labora("model", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


@needs_torch
def test_a_device_that_is_not_there_is_named() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    done = labora("model", "run", SHIPPED, "--prompt", "x", "--engine", "torch", "--device", "cuda")
    assert done.returncode == exits.RUNTIME and "device 'cuda'" in done.stderr
