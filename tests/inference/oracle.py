"""The canonical integer program a third time: from docs/inference.md, one row and one number at a time, in Python's
unbounded integers, for every kind and task. Every product is asserted to fit int64, every value that an executor may
carry in float64 or float32 to be exact there. Slow, plain, and independent of numpy's and torch's arithmetic.

    oracle = Oracle(model)
    tokens, root = oracle.generate(prompt, max_tokens, temperature_q16, top_k, seed, trace_key)
    vector, root = oracle.embed(tokens, trace_key)
    vector, root = oracle.score(tokens, trace_key)
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from inference.model import Model

Row = list[int]

KINDS = {
    # biased products, norms of heads, norms after sub-layers, encoder, gate table, step of the gate's table
    "llama": ((), False, False, False, "table.sigmoid", 7),
    "qwen2": (("qkv",), False, False, False, "table.sigmoid", 7),
    "qwen3": ((), True, False, False, "table.sigmoid", 7),
    "gemma3": ((), True, True, False, "table.gelu_tanh", 6),
    "bert": (("qkv", "out", "up", "down"), False, False, True, "table.gelu", 6),
}
LOG2E_Q16 = 94548  # floor(log2(e) * 2^16)


@dataclass
class Head:
    """A quantised row: int8 values, the mantissa of their scale and its bit length."""

    q: Row
    top: int
    bits: int


class Oracle:
    """One model. A sequence starts with `restart` and goes on with `feed`, a position at a time where the kind has an
    order, as a whole where it has none."""

    def __init__(self, model: Model) -> None:
        self.m, self.s = model.manifest, model.manifest.shape
        self.t = {name: tensor.tolist() for name, tensor in model.tensors.items()}
        self.linears = {linear.name: linear for linear in self.m.linears}
        self.biased, self.qk_norm, self.post_norms, self.encoder, self.gate_table, self.gate_step = KINDS[self.s.kind]
        self.restart()

    def restart(self) -> None:
        """Forget the sequence."""
        self.length = 0
        self.keys: list[list[list[Head]]] = [[] for _ in range(self.s.layers)]  # by layer, position, head
        self.values: list[list[list[Head]]] = [[] for _ in range(self.s.layers)]

    def feed(self, tokens: list[int]) -> tuple[list[Row], list[list[bytes]]]:
        """The residual of each position after the last layer, and each position's payloads by group."""
        if self.encoder:
            assert self.length == 0, "an encoder reads a sequence whole"
            return self._encode(tokens)
        residuals, payloads = [], []
        for token in tokens:
            x, states = self.embedding(token), []
            for first in range(0, self.s.layers, self.s.layers_per_group):
                tiles = b""
                for layer in range(first, min(first + self.s.layers_per_group, self.s.layers)):
                    heads = self.heads(self.norm(x, f"layers.{layer}.attention_norm"), 26, layer, self.length)
                    tiles += self.remember(heads, layer)
                    x = self.after(x, self.attention(heads, layer, self.length), f"layers.{layer}.post_attention_norm")
                    mixed = self.mlp(self.norm(x, f"layers.{layer}.mlp_norm"), layer)
                    x = self.after(x, mixed, f"layers.{layer}.post_mlp_norm")
                states.append(wide_bytes(x) + tiles)
            residuals.append(x)
            payloads.append(states)
            self.length += 1
        return residuals, payloads

    def _encode(self, tokens: list[int]) -> tuple[list[Row], list[list[bytes]]]:
        xs, payloads = [], [[] for _ in tokens]
        for position, token in enumerate(tokens):
            place = self.t["position.embedding"][position]
            summed = [bounded(a + b, 40) for a, b in zip(self.embedding(token), place, strict=True)]
            xs.append(self.layer_norm(summed, "embedding_norm"))
        for layer in range(self.s.layers):
            queries = []
            for position, x in enumerate(xs):
                heads = self.heads(x, 16, layer, position)
                payloads[position].append(wide_bytes(x) + self.remember(heads, layer))
                queries.append(heads)
            for position, heads in enumerate(queries):
                x = add(xs[position], self.attention(heads, layer, len(tokens) - 1))
                x = self.layer_norm(x, f"layers.{layer}.attention_norm")
                xs[position] = self.layer_norm(add(x, self.encoder_mlp(x, layer)), f"layers.{layer}.mlp_norm")
        for position, x in enumerate(xs):
            payloads[position].append(wide_bytes(x))
        self.length = len(tokens)
        return xs, payloads

    # The operations, in the order of docs/inference.md.

    def embedding(self, token: int) -> Row:
        scale = self.t["embedding.scale"][token]
        return [fits(q * scale << 16) >> self.m.embedding_exponent for q in self.t["embedding.weight"][token]]

    def norm(self, x: Row, name: str) -> Row:
        """Q26."""
        y, bits = window(x)
        mean = fits(sum(v * v for v in y)) // len(x)
        epsilon, up = self.s.norm_epsilon_q32, 2 * (22 - bits)
        mean = fits(mean + (epsilon << up if up >= 0 else epsilon >> -up))
        reciprocal = (1 << 40) // max(1, math.isqrt(mean))
        gains = self.t[f"{name}.gain"]
        return [bounded((fits(v * reciprocal) >> 26) * g, 46) for v, g in zip(y, gains, strict=True)]

    def wide_norm(self, x: Row, name: str) -> Row:
        """Q16."""
        return [v >> 10 for v in self.norm(x, name)]

    def layer_norm(self, x: Row, name: str) -> Row:
        mean = fits(sum(x)) // len(x)
        normed = self.wide_norm([v - mean for v in x], name)
        return [bounded(v + b, 40) for v, b in zip(normed, self.t[f"{name}.bias"], strict=True)]

    def after(self, x: Row, update: Row, norm: str) -> Row:
        """The residual with what a sub-layer gave."""
        return add(x, self.wide_norm(update, norm) if self.post_norms else update)

    def linear(self, name: str, wide: Row, fraction: int) -> Row:
        linear = self.linears[name]
        head = quantise(rotate(wide, linear.block))
        shift = min(max(fraction + linear.exponent - 1 - head.bits, 0), 63)
        out = []
        for o, row in enumerate(self.t[f"{name}.weight"]):
            total = dot(head.q, row)
            if linear.terms == 2:
                total = (total * 128 + dot(head.q, self.t[f"{name}.weight2"][o])) >> 7
            assert abs(total) < 2**31
            out.append(clamp(fits(total * head.top * self.t[f"{name}.scale"][o]) >> shift, 1 << 40))
        if name.rpartition(".")[2] in self.biased:
            out = add(out, self.t[f"{name}.bias"])
        return out

    def heads(self, wide: Row, fraction: int, layer: int, position: int) -> list[Head]:
        """Quantised query, key and value heads of a position."""
        s = self.s
        flat = self.linear(f"layers.{layer}.qkv", wide, fraction)
        heads = [flat[i : i + s.head_width] for i in range(0, len(flat), s.head_width)]
        for h in range(s.heads + s.kv_heads):
            if self.qk_norm:
                heads[h] = self.wide_norm(heads[h], f"layers.{layer}.{'q' if h < s.heads else 'k'}_norm")
            heads[h] = rotate(self.rope(heads[h], layer, position), power_of_two(s.head_width))
        return [quantise(head) for head in heads]

    def rope(self, head: Row, layer: int, position: int) -> Row:
        half, out = self.s.rotary // 2, list(head)
        prefix = "table.local_" if self.local(layer) else "table."
        for i in range(half):
            c, s = self.t[f"{prefix}cos"][position][i], self.t[f"{prefix}sin"][position][i]
            a, b = head[i], head[i + half]
            out[i], out[i + half] = fits(a * c - b * s) >> 14, fits(b * c + a * s) >> 14
        return out

    def local(self, layer: int) -> bool:
        return self.s.window > 0 and (layer + 1) % self.s.window_pattern != 0

    def remember(self, heads: list[Head], layer: int) -> bytes:
        """Keep a position's keys and values; their bytes in the trace."""
        stored = heads[self.s.heads :]
        self.keys[layer].append(stored[: self.s.kv_heads])
        self.values[layer].append(stored[self.s.kv_heads :])
        values = b"".join(v.to_bytes(1, "little", signed=True) for head in stored for v in head.q)
        return values + b"".join((head.top + 65536 * head.bits).to_bytes(4, "little") for head in stored)

    def attention(self, heads: list[Head], layer: int, last: int) -> Row:
        """What a layer adds: the heads' mixtures of the values up to position `last`, through `out`."""
        first = max(0, last - self.s.window + 1) if self.local(layer) else 0
        wide: Row = []
        for h in range(self.s.heads):
            shared = h // (self.s.heads // self.s.kv_heads)
            keys, values = ([heads_of[shared] for heads_of in cache[layer][first : last + 1]]
                            for cache in (self.keys, self.values))  # fmt: skip
            wide += self.mix(heads[h], keys, values)
        return self.linear(f"layers.{layer}.out", wide, 14)

    def mix(self, query: Head, keys: list[Head], values: list[Head]) -> Row:
        mantissa, exponent = self.score_scale()
        scores = []
        for key in keys:
            shift = min(max(38 + exponent - query.bits - key.bits, 0), 63)
            scores.append(fits(dot(query.q, key.q) * key.top * ((query.top * mantissa) >> 8)) >> shift)
        e = [self.power(max(scores) - score) for score in scores]
        bits = max(value.bits for value in values)
        weights = [fits(p * value.top) >> min(bits - value.bits, 63) for p, value in zip(e, values, strict=True)]
        narrow = max(max(weights).bit_length() - 15, 0)
        mass = sum(e)
        reciprocal = (1 << 43) // (mass >> (mass.bit_length() - 22))
        shift = min(max(38 + mass.bit_length() - narrow - bits, 0), 63)
        totals = [bounded(sum((w >> narrow) * value.q[i] for w, value in zip(weights, values, strict=True)), 39)
                  for i in range(self.s.head_width)]  # fmt: skip
        return [fits(total * reciprocal) >> shift for total in totals]

    def score_scale(self) -> tuple[int, int]:
        """log2(e) / (sqrt(divisor) * block * 127^2) as a mantissa of 15 bits and an exponent."""
        below = (self.s.score_divisor or self.s.head_width) * power_of_two(self.s.head_width) ** 2 * 127**4
        for exponent in range(64):
            mantissa = math.isqrt((2399655057223005246 << 2 * exponent) // (below << 60))
            if mantissa >= 1 << 14:
                return mantissa, exponent
        raise AssertionError("no exponent")

    def power(self, below: int) -> int:
        """2^-below in Q30, below in Q16."""
        return self.t["table.exp2"][(fits(below) & 0xFFFF) >> 4] >> min(below >> 16, 31)

    def gated(self, value: int) -> int:
        share = self.t[self.gate_table][min(max((value >> self.gate_step) + 8192, 0), 16383)]
        return clamp(fits(value * share) >> 16, 1 << 31)

    def mlp(self, wide: Row, layer: int) -> Row:
        both = self.linear(f"layers.{layer}.gate_up", wide, 26)
        gates, ups = both[: self.s.hidden], both[self.s.hidden :]
        mixed = [fits(self.gated(gate) * clamp(up, 1 << 31)) >> 16 for gate, up in zip(gates, ups, strict=True)]
        return self.linear(f"layers.{layer}.down", mixed, 16)

    def encoder_mlp(self, x: Row, layer: int) -> Row:
        hidden = [self.gated(value) for value in self.linear(f"layers.{layer}.up", x, 16)]
        return self.linear(f"layers.{layer}.down", hidden, 16)

    def logits(self, x: Row) -> Row:
        return self.linear("head", self.norm(x, "norm"), 26)

    # The tasks.

    def generate(
        self, prompt: list[int], max_tokens: int, temperature_q16: int, top_k: int, seed: bytes, key: bytes
    ) -> tuple[list[int], bytes]:
        self.restart()
        residuals, payloads = self.feed(prompt)
        leaves = self.states(payloads, key, 0)
        outputs: list[bytes] = []
        tokens: list[int] = []
        while True:
            logits = self.logits(residuals[-1])
            token = self.sample(logits, seed, len(prompt) + len(tokens), temperature_q16, top_k)
            outputs.append(leaf("labora/logits", key, len(tokens), wide_bytes(logits)))
            outputs.append(leaf("labora/token", key, len(tokens), token.to_bytes(4, "little")))
            tokens.append(token)
            if token in self.m.stop or len(tokens) == max_tokens:
                return tokens, merkle(leaves + outputs)
            position = self.length
            residuals, payloads = self.feed([token])
            leaves += self.states(payloads, key, position)

    def embed(self, tokens: list[int], key: bytes) -> tuple[list[int], bytes]:
        self.restart()
        rows, payloads = self.feed(tokens)
        if not self.encoder:
            rows = [self.wide_norm(x, "norm") for x in rows]
        vector = self.unit_mean(rows)
        return vector, self.vector_root(payloads, key, [vector])

    def score(self, tokens: list[int], key: bytes) -> tuple[list[int], bytes]:
        self.restart()
        rows, payloads = self.feed(tokens)
        vector = []
        for x, token in zip(rows, tokens[1:], strict=False):
            vector.append(self.log2_likelihood(self.logits(x), token))
        return vector, self.vector_root(payloads, key, [[score] for score in vector])

    def unit_mean(self, rows: list[Row]) -> Row:
        """Q15, of unit length."""
        pooled = [fits(sum(column)) // len(rows) for column in zip(*rows, strict=True)]
        y, _ = window(pooled)
        root = max(1, math.isqrt(fits(sum(v * v for v in y))))
        return [(v << 15) // root for v in y]

    def log2_likelihood(self, logits: Row, token: int) -> int:
        """Q16."""
        powers = [fits(min(max(logits) - logit, 1 << 28) * LOG2E_Q16) >> 16 for logit in logits]
        return -powers[token] - log2(sum(self.power(power) for power in powers))

    def sample(self, logits: Row, seed: bytes, position: int, temperature_q16: int, top_k: int) -> int:
        if temperature_q16 == 0:
            return logits.index(max(logits))
        order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
        kept = sorted(order[:top_k] if top_k else order)
        speed, highest = 6196328018 // temperature_q16, max(logits)
        masses = [self.power(fits(min(highest - logits[i], 1 << 28) * speed) >> 16) for i in kept]
        down = max(0, sum(masses).bit_length() - 31)
        masses = [mass >> down for mass in masses]
        target, passed = fits(philox(seed, position) * sum(masses)) >> 32, 0
        for i, mass in zip(kept, masses, strict=True):
            passed += mass
            if passed > target:
                return i
        raise AssertionError("the target lies below the sum")

    # The trace.

    def states(self, payloads: list[list[bytes]], key: bytes, first: int) -> list[bytes]:
        groups = len(payloads[0])
        rows = [[leaf("labora/state", key, (first + p) * groups + g, payload) for g, payload in enumerate(states)]
                for p, states in enumerate(payloads)]  # fmt: skip
        ordered = zip(*rows, strict=True) if self.encoder else rows
        return [each for row in ordered for each in row]

    def vector_root(self, payloads: list[list[bytes]], key: bytes, vectors: list[list[int]]) -> bytes:
        data = [b"".join(v.to_bytes(4, "little", signed=True) for v in vector) for vector in vectors]
        leaves = [leaf("labora/vector", key, i, part) for i, part in enumerate(data)]
        return merkle([*self.states(payloads, key, 0), *leaves])


def leaf(domain: str, key: bytes, index: int, payload: bytes) -> bytes:
    if len(payload) > 4096:
        payload = merkle([sha(b"\2" + payload[i : i + 4096]) for i in range(0, len(payload), 4096)])
    return sha(b"\0" + domain.encode().ljust(16, b"\0") + key + index.to_bytes(8, "big") + payload)


def merkle(leaves: list[bytes]) -> bytes:
    while len(leaves) > 1:
        paired = [sha(b"\1" + a + b) for a, b in zip(leaves[::2], leaves[1::2], strict=False)]
        leaves = paired + leaves[2 * len(paired) :]
    return leaves[0]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def wide_bytes(row: Row) -> bytes:
    return b"".join(v.to_bytes(8, "little", signed=True) for v in row)


def fits(value: int) -> int:
    assert -(2**63) <= value < 2**63, f"{value} overflows int64"
    return value


def bounded(value: int, bits: int) -> int:
    assert abs(value) <= 1 << bits, f"{value} passes 2^{bits}"
    return value


def clamp(value: int, limit: int) -> int:
    return min(max(value, -limit), limit)


def add(x: Row, y: Row) -> Row:
    """Saturating sum of Q16 rows."""
    return [clamp(a + b, 1 << 40) for a, b in zip(x, y, strict=True)]


def dot(q: Row, w: Row) -> int:
    return sum(a * b for a, b in zip(q, w, strict=True))


def window(row: Row) -> tuple[Row, int]:
    bits = max(abs(v) for v in row).bit_length()
    assert bits <= 53
    return [v << (22 - bits) if bits < 22 else v >> (bits - 22) for v in row], bits


def quantise(row: Row) -> Head:
    y, bits = window(row)
    largest = max(abs(v) for v in row)
    top = ((largest << (22 - bits) if bits < 22 else largest >> (bits - 22)) >> 7) + 1
    q = [(fits(v * ((127 << 23) // top) + (1 << 29))) >> 30 for v in y]
    assert all(-127 <= v <= 127 for v in q)
    return Head(q, top, bits)


def rotate(row: Row, block: int) -> Row:
    out = []
    for start in range(0, len(row), block):
        part = row[start : start + block]
        for i in range(block):
            signed = (-v if (i & j).bit_count() % 2 else v for j, v in enumerate(part))
            out.append(sum(signed))
        assert sum(abs(v) for v in part) < 2**53, "float64 would round"
    return out


def power_of_two(width: int) -> int:
    """The largest that divides the width, at most 64."""
    return max(block for block in (1, 2, 4, 8, 16, 32, 64) if width % block == 0)


def log2(total: int) -> int:
    """log2 of a total of at least 2^30 over 2^30, in Q16, bit by bit."""
    bits = total.bit_length()
    m, result = total >> (bits - 31), bits - 31
    for _ in range(16):
        m = fits(m * m) >> 30
        result = 2 * result + (m >> 31)
        m >>= m >> 31
    return result


def philox(seed: bytes, position: int) -> int:
    """Word 0 of Philox4x32-10."""
    words = [int.from_bytes(seed[i : i + 4], "little") for i in range(0, 20, 4)]
    c, k = [position, words[2], words[3], words[4]], [words[0], words[1]]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c[0]


def run(model: Model, tokens: list[int]) -> tuple[list[Row], list[bytes]]:
    """Logits of all positions (none of an encoder) and each group's payload bytes."""
    oracle: Any = Oracle(model)
    residuals, payloads = oracle.feed(tokens)
    logits = [] if oracle.encoder else [oracle.logits(x) for x in residuals]
    return logits, [b"".join(states) for states in zip(*payloads, strict=True)]
