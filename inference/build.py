"""Makes a program from its tensors: manifest, roots and known answers. Also the random program of a seed, made by
integers alone, which tests and newcomers use where no trained model is needed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from inference import program as cip
from inference.engine import Engine
from inference.model import Model, check_values, tensor_root
from inference.philox import philox
from inference.reference import NumpyExecutor
from inference.tables import Rope, tables
from primitives.hashing import sha256


def build_model(
    name: str,
    shape: cip.Shape,
    tensors: Mapping[str, np.ndarray],
    linears: Sequence[cip.Linear],
    embedding_exponent: int,
    *,
    tokenizer: str = "bytes",
    stop: Sequence[int] = (),
    licence: str = "",
    quality: Mapping[str, int] | None = None,
) -> Model:
    """A model of these tensors, without known answers. Raises ProgramError when they do not fit the shape."""
    cip.check_shape(shape)
    table = cip.tensor_table(shape, cip.two_term(linears))
    if set(table) != set(tensors):
        raise cip.ProgramError(f"tensors differ from the shape's in {sorted(set(table) ^ set(tensors))[:4]}")
    roots = {}
    for tensor_name, (dtype, extent) in table.items():
        array = tensors[tensor_name]
        if array.dtype != np.dtype(dtype) or array.shape != extent:
            raise cip.ProgramError(f"{tensor_name} is {array.dtype}{array.shape}, must be {dtype}{extent}")
        roots[tensor_name] = tensor_root(cip.Tensor(tensor_name, dtype, extent, b""), array)
    manifest = build_manifest(name, shape, roots, linears, embedding_exponent, tokenizer=tokenizer, stop=stop,
                              licence=licence, quality=quality)  # fmt: skip
    model = Model(manifest, manifest.model_id(), dict(tensors))
    check_values(model)
    return model


def build_manifest(
    name: str,
    shape: cip.Shape,
    roots: Mapping[str, bytes],
    linears: Sequence[cip.Linear],
    embedding_exponent: int,
    *,
    tokenizer: str = "bytes",
    stop: Sequence[int] = (),
    licence: str = "",
    quality: Mapping[str, int] | None = None,
) -> cip.Manifest:
    """The manifest of tensors with these roots, without known answers. Raises ProgramError when it would be refused."""
    table = cip.tensor_table(shape, cip.two_term(linears))
    entries = tuple(cip.Tensor(n, dtype, extent, roots[n]) for n, (dtype, extent) in table.items())
    manifest = cip.Manifest(
        name=name, shape=shape, tokenizer=tokenizer, stop=tuple(stop),
        linears=tuple(sorted(linears, key=lambda linear: linear.name)), embedding_exponent=embedding_exponent,
        tensors=entries, known_answers=(), licence=licence, quality=quality or {},
    )  # fmt: skip
    return cip.decode_manifest(manifest.encode())


def with_known_answers(
    model: Model, requests: Sequence[cip.KnownAnswer], executor: NumpyExecutor | None = None
) -> Model:
    """The model whose manifest holds the reference executor's answers to these requests (tokens and root ignored)."""
    engine = Engine(executor or NumpyExecutor(model))
    answers = []
    for ask in requests:
        if ask.task != cip.GENERATE:
            made = engine.embed if ask.task == cip.EMBED else engine.score
            answers.append(dataclasses.replace(ask, root=made(ask.prompt, ask.trace_key).root))
            continue
        answer = engine.generate(
            ask.prompt, ask.max_tokens, ask.temperature_q16, ask.top_k, ask.seed, ask.trace_key
        )
        answers.append(dataclasses.replace(ask, tokens=tuple(answer.tokens), root=answer.root))
    manifest = dataclasses.replace(model.manifest, known_answers=tuple(answers))
    return Model(manifest, manifest.model_id(), model.tensors)


def request(prompt: Sequence[int], max_tokens: int, temperature_q16: int = 0, top_k: int = 0) -> cip.KnownAnswer:
    """A request for with_known_answers, its seed and key derived from the prompt."""
    digest = _digest(prompt)
    return cip.KnownAnswer(
        tuple(prompt), max_tokens, temperature_q16, top_k, digest, sha256(digest), tokens=(), root=b""
    )


def vector_request(task: str, prompt: Sequence[int]) -> cip.KnownAnswer:
    """A request to EMBED or to SCORE for with_known_answers, its key derived from the prompt."""
    return cip.vector_answer(task, tuple(prompt), sha256(_digest(prompt)))


def _digest(prompt: Sequence[int]) -> bytes:
    return sha256(b"labora/known-answer" + b"".join(token.to_bytes(4, "big") for token in prompt))


def random_model(
    shape: cip.Shape, seed: int, *, bound: int = 127, stop: Sequence[int] = (), spread: int = 0, terms: int = 1
) -> Model:
    """A model of random weights. `spread` widens every scale by that many powers of two (tests of saturation); with
    `terms` 2 every second product has two-term weights."""
    draws = _Draws(seed)
    tensors = dict(tables(shape, local=Rope(theta=500)))
    linears = []
    for i, (name, (outputs, inputs)) in enumerate(cip.linear_shapes(shape).items()):
        tensors[f"{name}.weight"] = draws.between(-bound, bound, (outputs, inputs)).astype(np.int8)
        tensors[f"{name}.scale"] = draws.between(1 << 14, (1 << 16) - 1, (outputs,)).astype(np.uint16)
        block = cip.rotation_block(inputs)
        # Keeps a row's scale: |output| ~ |input| when the weight counts as bound * sqrt(inputs) / 2.
        exponent = 22 + bound.bit_length() + block.bit_length() - 1 + inputs.bit_length() // 2 - spread
        if name.endswith(".out"):
            exponent += 7
        both = terms if i % 2 == 0 else 1
        if both == 2:
            second = draws.between(-cip.SECOND_TERM_MAX, cip.SECOND_TERM_MAX, (outputs, inputs))
            tensors[f"{name}.weight2"] = second.astype(np.int8)
        linears.append(cip.Linear(name, outputs, inputs, bound, max(exponent, 0), block, both))
    tensors["embedding.weight"] = draws.between(-127, 127, (shape.vocabulary, shape.width)).astype(np.int8)
    tensors["embedding.scale"] = draws.between(1 << 14, (1 << 16) - 1, (shape.vocabulary,)).astype(np.uint16)
    for name, (_, extent) in cip.tensor_table(shape).items():
        if name.endswith(".gain"):
            tensors[name] = draws.between(-(1 << 13), 1 << 13, extent).astype(np.int32)
        elif name.endswith((".bias", "position.embedding")):
            tensors[name] = draws.between(-(1 << 18), 1 << 18, extent).astype(np.int32)
    return build_model(f"random-{seed}", shape, tensors, linears, 22, stop=stop, licence="CC0-1.0")


class _Draws:
    """A stream of Philox words: the same on every machine."""

    def __init__(self, seed: int) -> None:
        self._seed, self._counter = seed, 0

    def between(self, low: int, high: int, extent: tuple[int, ...]) -> np.ndarray:
        """int64 in [low, high]."""
        count = int(np.prod(extent))
        counters = self._counter + np.arange(-(-count // 4), dtype=np.uint64)
        self._counter += len(counters)
        key = (self._seed & 0xFFFFFFFF, self._seed >> 32)
        words = np.stack(philox((counters, 0, 0, 0), key), axis=1).reshape(-1)[:count].astype(np.int64)
        return low + (words * (high - low + 1) >> 32).reshape(extent)
