"""Writes docs/vectors/: known answers of every operation and of small whole programs, from the oracle's unbounded
integers.

    python -m tests.inference.make_vectors

operations.json: for each operation a list of cases, inputs and "result" by name. KIND.json: programs with every tensor
but the tables that all share, what a sequence gives, and what tasks answer.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from inference import program as cip
from inference.build import random_model, request, vector_request
from inference.model import Model
from inference.tables import GATES, exp2
from primitives.hashing import sha256
from tests.inference import oracle
from tests.inference.oracle import Head, Oracle

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "vectors"
SHARED = {"table.exp2": exp2, **GATES}
TOKENS = [3, 1, 4, 1, 5, 9]
SEED, KEY = sha256(b"labora/vectors/seed"), sha256(b"labora/vectors/key")
EXTREMES = [(1 << 40) - 1, -(1 << 40), 1 << 36, -(1 << 33), 104_061 << 16, -1, 0, 1]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)


def files() -> dict[str, str]:
    """Name and content of every file."""
    made: dict[str, Any] = {"operations.json": operations()}
    made |= {f"{kind}.json": [program(kind, 3, 0), program(kind, 4, 14)] for kind in sorted(cip.KINDS)}
    return {name: json.dumps(value, separators=(",", ":")).replace('{"', '\n{"') + "\n" for name, value in made.items()}


def shape_of(kind: str) -> cip.Shape:
    """Tiny; llama's with an incomplete last group."""
    features, layers = cip.KINDS[kind], 3 if kind == "llama" else 2
    plain = cip.Shape(
        vocabulary=11, context=16, width=6, layers=layers, heads=2, kv_heads=1, head_width=6,
        rotary=0 if features.encoder else 4, hidden=8, norm_epsilon_q32=4295,
        layers_per_group=layers - 1, kind=kind,
    )  # fmt: skip
    return dataclasses.replace(plain, window=3, window_pattern=2, score_divisor=9) if features.windows else plain


def program(kind: str, seed: int, spread: int) -> dict[str, Any]:
    """A program, ordinary or with scales so wide that it saturates, and what it computes."""
    model = random_model(shape_of(kind), seed, spread=spread, terms=2, stop=(7,))
    runs = Oracle(model)
    residuals, payloads = runs.feed(TOKENS)
    tasks = []
    for ask in asks(model):
        known = {"task": ask.task, "tokens": list(ask.prompt), "traceKey": ask.trace_key.hex()}
        if ask.task == cip.GENERATE:
            how = (ask.temperature_q16, ask.top_k, ask.seed, ask.trace_key)
            answer, root = runs.generate(list(ask.prompt), ask.max_tokens, *how)
            known |= {"maxTokens": ask.max_tokens, "temperatureQ16": ask.temperature_q16, "topK": ask.top_k,
                      "seed": ask.seed.hex()}  # fmt: skip
        else:
            answer, root = getattr(runs, ask.task)(list(ask.prompt), ask.trace_key)
        tasks.append(known | {"answer": answer, "root": root.hex()})
    return {
        "manifest": json.loads(model.manifest.encode()),
        "modelId": model.model_id.hex(),
        "tensors": {name: hexadecimal(t) for name, t in model.tensors.items() if name not in SHARED},
        "sequence": {
            "tokens": TOKENS,
            "payloads": [[payload.hex() for payload in states] for states in payloads],
            "logits": [] if runs.encoder else [runs.logits(x) for x in residuals],
        },
        "tasks": tasks,
    }


def asks(model: Model) -> list[cip.KnownAnswer]:
    """The tasks of a program: embed; score, greedy and sampled text where the kind has them."""
    found = [vector_request(cip.EMBED, TOKENS), vector_request(cip.EMBED, TOKENS[:1])]
    if model.manifest.shape.causal:
        found += [vector_request(cip.SCORE, TOKENS), request(TOKENS, 6)]
        found += [request(TOKENS[:3], 9, temperature, top_k) for temperature, top_k in ((1 << 16, 0), (45875, 4))]
    return found


def operations() -> dict[str, Any]:
    """Cases of every operation."""
    draws = _Draws(7)
    small = random_model(shape_of("llama"), 5)
    runs = Oracle(small)
    rows = {
        "zeros": [0] * 8, "ones": [1] * 8, "small": draws.row(8, 3), "residual": draws.row(8, 22),
        "ofARealModel": [*draws.row(7, 22), 104_061 << 16], "extremes": EXTREMES,
        "oneOutlier": [*draws.row(7, 9), 1 << 40],
        "atTheEdgeOfTheWindow": [(1 << 22) - 1, 1 << 21, -(1 << 22) + 1, 127, -128, 64, 63, 0],
        "wide": draws.row(8, 52),
    }  # fmt: skip
    cases: dict[str, Any] = {"tables": tables()}
    cases["window"] = [case({"row": row}, dict(zip("yb", oracle.window(row), strict=True))) for row in rows.values()]
    cases["quantise"] = [case({"row": row}, quantised(oracle.quantise(row))) for row in rows.values()]
    cases["rotate"] = [
        case({"row": row, "block": block}, oracle.rotate(row, block))
        for row in (rows["residual"], EXTREMES) for block in (1, 2, 4, 8)
    ]  # fmt: skip
    cases["embedding"] = [
        case({"q": q, "scale": scale, "exponent": exponent}, [(v * scale << 16) >> exponent for v in q])
        for q, scale, exponent in (([127, -127, 0, 1, -1], 65535, 0), ([127, -127, 64, 1, -1], 17000, 22))
    ]
    cases["norm"] = norms(runs, rows)
    cases["linear"] = linears(draws)
    cases["activate"] = activations(draws)
    cases["rope"] = ropes(draws)
    cases["scoreScale"] = scales()
    cases["attention"] = attentions(draws)
    cases["draw"] = [
        case({"seed": SEED.hex(), "position": position}, oracle.philox(SEED, position))
        for position in (0, 1, 2**32 - 1)
    ]
    cases["sample"] = samples(runs, draws)
    cases["log2Likelihood"] = likelihoods(draws)
    cases["pool"] = [
        case({"rows": pooled}, runs.unit_mean(pooled))
        for pooled in ([rows["residual"]], [rows["residual"], EXTREMES, rows["ones"]], [rows["zeros"]] * 2)
    ]
    cases["leaf"] = [
        case({"domain": "labora/state", "traceKey": KEY.hex(), "index": index, "payload": payload.hex(),
              "times": times},
             oracle.leaf("labora/state", KEY, index, payload * times).hex())
        for index, payload, times in ((0, b"", 1), (2**40, b"payload", 1), (1, b"\1", 4096), (1, b"\1", 4097))
    ]  # fmt: skip
    leaves = [sha256(bytes([i])) for i in range(7)]
    cases["root"] = [
        case({"leaves": [each.hex() for each in leaves[:n]]}, oracle.merkle(leaves[:n]).hex()) for n in (1, 2, 3, 7)
    ]
    return cases


def tables() -> list[dict[str, Any]]:
    """SHA-256 of the little-endian bytes, and some entries."""
    return [
        {"name": name, "sha256": sha256(hexbytes(make())).hex(), "first": make()[:4].tolist(),
         "middle": make()[len(make()) // 2 - 2 :][:4].tolist(), "last": make()[-4:].tolist()}
        for name, make in SHARED.items()
    ]  # fmt: skip


def norms(runs: Oracle, rows: dict[str, list[int]]) -> list[dict[str, Any]]:
    found = []
    for number, row in enumerate(list(rows.values())[:-1]):
        gain = [4096, -4096, 1 << 14, 1, 0, 8191, -(1 << 17), 4097]
        runs.t["case.gain"], runs.t["case.bias"] = gain, [5, -5, 1 << 20, -(1 << 31), 2**31 - 1, 0, 1, -1]
        runs.s = dataclasses.replace(runs.s, norm_epsilon_q32=(1, 4295, cip.EPSILON_MAX)[number % 3])
        given = {"row": row, "gain": gain, "epsilonQ32": runs.s.norm_epsilon_q32}
        found.append(case(given, {"norm": runs.norm(row, "case"), "wideNorm": runs.wide_norm(row, "case")}))
        found.append(case(given | {"bias": runs.t["case.bias"]}, {"layerNorm": runs.layer_norm(row, "case")}))
    return found


def linears(draws: "_Draws") -> list[dict[str, Any]]:
    """Products of 6 outputs over 12 inputs: both terms, biases, fractions, exponents, operands at their bounds."""
    found = []
    for number, (fraction, exponent, block, terms, biased) in enumerate((
        (26, 33, 4, 1, False), (16, 30, 4, 2, True), (14, 40, 2, 1, True), (26, 0, 1, 1, False), (26, 63, 4, 2, False),
    )):  # fmt: skip
        model = random_model(dataclasses.replace(shape_of("qwen2"), width=12, heads=1, head_width=2, rotary=2), number)
        row = draws.row(12, 40 - 7 * number) if number else [1 << 39, -(1 << 39)] * 6
        bound = cip.ACTIVATION_MAX
        weight = [[bound if number == 3 else v for v in draws.row(12, 7)] for _ in range(6)]
        name = "layers.0.qkv" if biased else "layers.0.out"
        inputs = {"weight": [[max(-bound, v) for v in line] for line in weight], "scale": draws.positive(6, 16)}
        if terms == 2:
            inputs["weight2"] = [[max(-63, v) for v in draws.row(12, 6)] for _ in range(6)]
        if biased:
            inputs["bias"] = draws.row(6, 31)
        runs = Oracle(model)
        runs.t |= {f"{name}.{part}": value for part, value in inputs.items()}
        runs.linears[name] = cip.Linear(name, 6, 12, bound, exponent, block, terms)
        given = {"row": row, "fraction": fraction, "exponent": exponent, "block": block, "terms": terms} | inputs
        found.append(case(given, runs.linear(name, row, fraction)))
    return found


def activations(draws: "_Draws") -> list[dict[str, Any]]:
    found = []
    for kind, gate in (("llama", "table.sigmoid"), ("gemma3", "table.gelu_tanh"), ("bert", "table.gelu")):
        runs = Oracle(random_model(shape_of(kind), 1))
        ends = [1 << 31, -(1 << 31), 8 << 16, -8 << 16, (8 << 16) - 1, 16 << 16, -16 << 16]
        values = [*EXTREMES, *ends, *draws.row(9, 19)]
        found.append(case({"gate": gate, "values": values}, [runs.gated(value) for value in values]))
    return found


def ropes(draws: "_Draws") -> list[dict[str, Any]]:
    runs, found = Oracle(random_model(shape_of("llama"), 1)), []
    for position, head in ((0, draws.row(6, 20)), (3, draws.row(6, 20)), (15, [1 << 40, -(1 << 40)] * 3)):
        cos, sin = (runs.t[f"table.{name}"][position] for name in ("cos", "sin"))
        found.append(case({"head": head, "cos": cos, "sin": sin}, runs.rope(head, 0, position)))
    return found


def scales() -> list[dict[str, Any]]:
    found = []
    for head_width, divisor in ((1, 0), (6, 0), (64, 0), (128, 168), (256, 256), (1040, 1 << 20)):
        runs = Oracle(random_model(dataclasses.replace(shape_of("gemma3"), score_divisor=1), 1))
        runs.s = dataclasses.replace(runs.s, head_width=head_width, score_divisor=divisor)
        found.append(case({"headWidth": head_width, "divisor": divisor or head_width}, list(runs.score_scale())))
    return found


def attentions(draws: "_Draws") -> list[dict[str, Any]]:
    """Heads of 6 over one key, over several of like and unlike magnitude, and over values of zeros."""
    runs, found = Oracle(random_model(shape_of("llama"), 1)), []
    plans = [([20], [20]), ([20, 20, 20], [20, 20, 20]), ([18, 21, 20], [3, 40, 12]), ([41, 40, 30], [41, 1, 20])]
    for key_bits, value_bits in plans:
        query = oracle.quantise(draws.row(6, max(key_bits)))
        keys = [oracle.quantise(draws.row(6, bits)) for bits in key_bits]
        values = [oracle.quantise(draws.row(6, bits)) for bits in value_bits]
        if len(found) == 1:
            values[1] = oracle.quantise([0] * 6)
        given = {"headWidth": 6, "query": quantised(query), "keys": [quantised(k) for k in keys],
                 "values": [quantised(v) for v in values]}  # fmt: skip
        found.append(case(given, runs.mix(query, keys, values)))
    return found


def samples(runs: Oracle, draws: "_Draws") -> list[dict[str, Any]]:
    flat, near = [7, 7, 7, 7], draws.row(12, 18)
    plans = [(flat, 0, 0), (near, 0, 5), (near, 1 << 16, 0), (near, 45875, 3), (flat, 1 << 16, 2), (near, 1, 0),
             (EXTREMES, 1 << 16, 0), (near, 2**32 - 1, 11), (EXTREMES, 2**32 - 1, 0)]  # fmt: skip
    return [
        case({"logits": logits, "temperatureQ16": temperature, "topK": top_k, "seed": SEED.hex(), "position": position},
             runs.sample(logits, SEED, position, temperature, top_k))
        for position, (logits, temperature, top_k) in enumerate(plans)
    ]  # fmt: skip


def likelihoods(draws: "_Draws") -> list[dict[str, Any]]:
    plans = [([5], 0), ([0] * 100, 3), (draws.row(12, 18), 4), (EXTREMES, 1), (EXTREMES, 0)]
    runs = Oracle(random_model(shape_of("llama"), 1))
    return [case({"logits": row, "token": token}, runs.log2_likelihood(row, token)) for row, token in plans]


def case(given: dict[str, Any], result: Any) -> dict[str, Any]:
    return given | {"result": result}


def quantised(head: Head) -> dict[str, Any]:
    return {"q": head.q, "top": head.top, "b": head.bits}


def hexbytes(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def hexadecimal(array: np.ndarray) -> str:
    return hexbytes(array).hex()


class _Draws:
    """Numbers from SHA-256 of a counter."""

    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def positive(self, count: int, bits: int) -> list[int]:
        """Below 2^bits."""
        found = []
        for _ in range(count):
            self._count += 1
            digest = sha256(f"labora/vectors/{self._seed}/{self._count}".encode())
            found.append(int.from_bytes(digest[:16], "big") % (1 << bits))
        return found

    def row(self, count: int, bits: int) -> list[int]:
        """Of that magnitude, either sign."""
        return [v - (1 << bits) for v in self.positive(count, bits + 1)]


if __name__ == "__main__":
    main()
