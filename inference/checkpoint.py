"""A float model that can become a program: its shape, how it turns positions, and its weights by the names that the
program gives them. What hugging_face.py and gguf_checkpoint.py make of the files they read, and all that the importer
and the float forward pass know of them.

Owns which weights a shape has and that they are all there, of the sizes that the shape asks for, and finite.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from inference import program as cip
from inference.tables import Rope

LAYERS_PER_GROUP = 2
# How a product of the program stacks the checkpoint's weights, the first above the second.
STACKS = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}


class Weight(Protocol):
    """One weight where it lies, under the name that its file gives it."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, begin: int, end: int) -> np.ndarray:
        """float32 rows [begin, end)."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A float model of a supported kind, complete and of the sizes that its files promise.

    `weights` holds the parts of each tensor, stacked in this order, by the program's names, with three of its own for
    what a program keeps otherwise: `head.weight` is there also where it is the embedding, and `position.weight` and
    `token_type.weight` are an encoder's tables. `embedding_scale` multiplies an embedding as it enters the first layer.
    `tokenizer` is the content of a tokenizer.json, None for bytes.
    """

    source: Path
    shape: cip.Shape
    rope: Rope
    local_rope: Rope
    stop: tuple[int, ...]
    epsilon: float
    embedding_scale: float
    tokenizer: bytes | None
    weights: Mapping[str, tuple[Weight, ...]]
    parameters: int

    def rows(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """float32 rows [begin, end) of the parts of a tensor, stacked. Raises ProgramError when one of them is not a
        finite number."""
        found, above = [], 0
        for weight in self.weights[name]:
            count = weight.shape[0]
            low, high = max(begin - above, 0), count if end is None else min(end - above, count)
            if low < high:
                found.append(self._finite(weight, low, high))
            above += count
        return found[0] if len(found) == 1 else np.concatenate(found)

    def extent(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        parts = self.weights[name]
        return (sum(weight.shape[0] for weight in parts), *parts[0].shape[1:])

    @staticmethod
    def _finite(weight: Weight, begin: int, end: int) -> np.ndarray:
        values = weight.rows(begin, end)
        if not np.isfinite(values).all():
            raise cip.ProgramError(f"{weight.name} holds something that is not a finite number")
        return values


def parts_of(shape: cip.Shape, token_types: int = 0) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a checkpoint, by names that say what it is: the program's, where a product stacks
    several weights each under its own (`layers.0.q.weight`)."""
    width, heads = shape.width, {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}
    rows = {part: count * shape.head_width for part, count in heads.items()} | dict.fromkeys(
        ("gate", "up"), shape.hidden
    )
    parts: dict[str, tuple[int, ...]] = {"embedding.weight": (shape.vocabulary, width)}
    if shape.features.encoder:
        parts |= {"position.weight": (shape.context, width), "token_type.weight": (token_types, width)}
    for name, (_, extent) in cip.tensor_table(shape).items():
        if name.endswith(".gain") or (name.endswith(".bias") and "norm" in name):
            parts[name] = extent
    for product, (outputs, inputs) in cip.linear_shapes(shape).items():
        where, _, last = product.rpartition(".")
        for part in STACKS.get(last, (last,)):
            name = f"{where}.{part}" if where else part
            count = rows[part] if last in STACKS else outputs
            parts[f"{name}.weight"] = (count, inputs)
            if last in shape.features.biases:
                parts[f"{name}.bias"] = (count,)
    return parts


def gather(
    found: Mapping[str, Weight], shape: cip.Shape, tied: bool, name_of: Callable[[str], str], token_types: int = 0
) -> dict[str, tuple[Weight, ...]]:
    """The weights of a checkpoint by the program's names, exactly those that its fields explain. `name_of` gives the
    file's name of a part. Raises ProgramError naming what is missing, too much or of another size."""
    parts: dict[str, Weight] = {}
    used = set()
    for part, extent in parts_of(shape, token_types).items():
        if part == "head.weight" and tied:
            continue
        name = name_of(part)
        if name not in found:
            raise cip.ProgramError(f"the checkpoint has no tensor {name}")
        if found[name].shape != extent:
            raise cip.ProgramError(f"{name} has shape {found[name].shape}, the config asks for {extent}")
        parts[part] = found[name]
        used.add(name)
    if surplus := sorted(set(found) - used):
        raise cip.ProgramError(f"the config does not explain the tensors {shown(surplus)}")
    weights = {name: (weight,) for name, weight in parts.items()}
    if tied and shape.causal:
        weights["head.weight"] = weights["embedding.weight"]
    for product in cip.linear_shapes(shape):
        where, _, last = product.rpartition(".")
        for ending in ("weight", "bias"):
            if last in STACKS and f"{where}.{STACKS[last][0]}.{ending}" in parts:
                weights[f"{product}.{ending}"] = tuple(
                    weights.pop(f"{where}.{part}.{ending}")[0] for part in STACKS[last]
                )
    return weights


def parameters(found: Mapping[str, Weight]) -> int:
    """Number of values in these weights."""
    return sum(math.prod(weight.shape) for weight in found.values())


def shown(value: object) -> str:
    """A value from outside in an error message."""
    return repr(value)[:120]
