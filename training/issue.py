"""Makes the shipped model of a training run: imports its checkpoint, checks it on every engine, puts it in place.

    python -m training.issue OUT_DIR

The last step whenever the weights or the program's arithmetic changed. Replaces genesis/models/NAME and
docs/samples.md; nothing is touched when the model is too large, loses too much or fails a check.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer

from genesis.models import DEFAULT_MODEL
from inference.importer import import_model
from node.model import check
from training.passages import STOP_TEXT, Stream, bytes_of, documents, passages
from training.samples import samples
from training.train_tiny import EARLY_DOCUMENTS, load, loss_per_byte

ROOT = Path(__file__).resolve().parents[1]
LICENCE = "CC0-1.0"
BYTES_MAX, LOSS_MAX = 2_000_000, 0.005
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="what training.train_tiny wrote")
    run = parser.parse_args().run
    torch.set_num_threads(1)
    _, held = documents()
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "source"), Path(folder, DEFAULT_MODEL)
        source.mkdir()
        for name in FILES:
            shutil.copyfile(run / name, source / name)
        done = import_model(
            source, made, STOP_TEXT.join(passages(held)), name=DEFAULT_MODEL, licence=LICENCE,
        )  # fmt: skip
        check(made)
        size = sum(path.stat().st_size for path in made.iterdir())
        loss = done.quality.loss_integer - done.quality.loss_float
        if size > BYTES_MAX or loss > LOSS_MAX:
            raise SystemExit(f"{size:,} bytes, allowed {BYTES_MAX:,}; perplexity {loss:+.2%}, allowed {LOSS_MAX:.2%}")
        text = samples(made)
        place = ROOT / "genesis" / "models" / DEFAULT_MODEL
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(made, place)
    (ROOT / "docs" / "samples.md").write_text(text)
    model, tokenizer = load(run), Tokenizer.from_file(str(run / "tokenizer.json"))
    for count in (len(held), EARLY_DOCUMENTS):
        loss_float = loss_per_byte(model, Stream(tokenizer, passages(held[:count])), bytes_of(tokenizer))
        print(f"the first {count} held-out documents: {loss_float:.4f} nats a byte")
    print(f"integers {loss:+.3%} perplexity, KL {done.quality.divergence:.5f}, argmax {done.quality.agreement:.2%}")
    print(f"{size:,} bytes in {place}\n\n{text}")


if __name__ == "__main__":
    main()
