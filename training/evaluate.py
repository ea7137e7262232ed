"""Measures what the integer program loses against the float model it was made from, on the held-out text:

    python training/evaluate.py CHECKPOINT_DIR [--windows 16]

Prints one JSON object of integers, as the manifest's `quality` wants it (`python -m inference.quantize --quality`).
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from train_tiny import CONFIG, Llama, documents

from inference.quantize import convert
from inference.reference import CHUNK_ROWS, NumpyExecutor

LENGTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--windows", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Llama(CONFIG)
    model.load_state_dict(load_file(options.checkpoint / "model.safetensors"))
    executor = NumpyExecutor(convert(options.checkpoint, "measured", "", 2))
    _, held = documents()
    step = (len(held) - LENGTH - 1) // options.windows
    sums = np.zeros(4)
    for start in range(0, step * options.windows, step):
        ids = held[start : start + LENGTH + 1]
        with torch.no_grad():
            exact = model(ids[None, :-1])[0]
        cache, tokens = executor.new_cache(LENGTH), ids[:-1].tolist()
        rows = [executor.feed(cache, tokens[i : i + CHUNK_ROWS], 0)[0] for i in range(0, LENGTH, CHUNK_ROWS)]
        integer = torch.from_numpy(np.concatenate(rows) / 65536).float()
        divergence = F.kl_div(integer.log_softmax(1), exact.log_softmax(1), log_target=True, reduction="batchmean")
        sums += [
            F.cross_entropy(exact, ids[1:]).item(),
            F.cross_entropy(integer, ids[1:]).item(),
            divergence.item(),
            (exact.argmax(1) == integer.argmax(1)).float().mean().item(),
        ]
    names = ("lossFloatMicroNats", "lossIntegerMicroNats", "divergenceMicroNats", "argmaxAgreementPpm")
    quality = {name: round(total / options.windows * 1e6) for name, total in zip(names, sums, strict=True)}
    quality["bytesMeasured"] = LENGTH * options.windows
    quality["parameters"] = sum(p.numel() for p in model.parameters())
    print(json.dumps(quality))


if __name__ == "__main__":
    main()
