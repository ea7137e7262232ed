"""The executor of CUDA devices: whole passes of fused integer kernels between int8 products, recorded once as
CUDA graphs. Owns what runs when: which rows go together, the buffers, the bytes of the pool, the choice of
products. The arithmetic is inference/triton_kernels.py's; a shape that these kernels do not take, and a device without
Triton, are torch_engine.py's.

Knows no trace, no sampling and no other process. Batch composition cannot change a bit: nothing mixes rows but
attention, which reads one sequence's own pages; rows that only fill a recorded pass up write to a page that nobody
holds.

    segments of one token -> passes of 1, 2, 4 .. 64 rows
    longer segments       -> one pass, in which neighbouring positions attend together
    both                  -> static inputs, recorded at first use, replayed; only very large ones are launched anew
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from contextlib import AbstractContextManager, nullcontext
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from triton.runtime.errors import OutOfResources

from inference import program as cip
from inference import torch_engine
from inference import triton_kernels as kernels
from inference.engine import EngineUnavailable
from inference.kv import PAGE, Fed, Pool, Segment, Sequence, default_pages, extend_all, pages_of
from inference.model import Model

if TYPE_CHECKING:
    from inference.split import Split

CAPABILITY_LEAST = 8, 0  # what the kernels are compiled for by the tests
STEP_ROWS_MAX = 64  # sequences of one recorded pass; more that go on by one token take several
RECORDED_ROWS_LEAST = 16  # of a pass of longer segments: fewer take no less time
RECORDED_ROWS_MAX = 512  # rows of the largest recorded pass: with more, a device is busy longer than launches take
WIDTH_MAX, HEAD_WIDTH_MAX, SHARED_MAX = 1 << 14, 256, 64  # a row, a head, and the heads that share a key fit registers
TILE = 1024  # elements of a row that one program takes where a row needs several
ITEM_ROWS = 32  # rows of a product of queries and keys where positions attend together: more do not fit registers
ITEM_ROWS_LEAST = 16  # the least that tensor cores multiply
SPLITS = ((16, 16), (64, 4))  # (programs, shares): up to so many programs, each one's keys are shared out like that
EVERYTHING = 1 << 30  # window of a layer that sees all keys
NORMED_BITS = cip.NORM_BITS + cip.GAIN_BITS
CACHE_BYTES = 128 << 20  # more than a device's cache holds
LAUNCH_CYCLES = 2_000_000  # a device idles so long while the host launches what it then times: about a millisecond
PRODUCT_ROWS = 32  # CUDA's int8 product takes more than 16 rows; inputs by 16 and outputs by 8, zeros where they lack
log = logging.getLogger(__name__)


def takes(shape: cip.Shape, device: str) -> bool:
    """Whether the kernels are made for this shape and device."""
    if device != "cpu" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < CAPABILITY_LEAST:
        return False
    return (shape.causal and shape.width <= WIDTH_MAX and shape.head_width <= HEAD_WIDTH_MAX
            and shape.heads // shape.kv_heads <= SHARED_MAX)  # fmt: skip


class CudaExecutor:
    """Runs one model on one device over a pool of `pages` pages. Tensors of the model may lie on the device already.
    Raises EngineUnavailable. (On a CPU, Triton interprets the same kernels: for tests.)"""

    name = "torch"

    def __init__(
        self, model: Model, device: str = "cuda", pages: int | None = None, split: "Split | None" = None
    ) -> None:
        if device != "cpu" and not torch.cuda.is_available():
            raise EngineUnavailable(f"device {device!r} asked for, but torch {torch.__version__} sees no CUDA device")
        self.model, self.shape = model, model.manifest.shape
        s = self.shape
        assert takes(s, device), f"the kernels are not made for {s}"
        self._device, self._split = torch.device(device), split
        self._try_to_compile()
        with self._current():
            self.products = [product for product in PRODUCTS if torch_engine.is_exact(product.backend, device)]
        if not self.products:
            raise EngineUnavailable(f"no product of {', '.join(p.name for p in PRODUCTS)} is exact on {device!r}")
        self.chosen: dict[tuple[int, int, int], Product] = {}
        """The product of each (outputs, inputs, rows to the next power of two)."""
        self._put = lambda name, dtype: _on(model.tensors[name], self._device, dtype)
        self._weights = {linear.name: self._weights_of(linear) for linear in model.manifest.linears}
        self._embedding = self._put("embedding.weight", torch.int8), self._put("embedding.scale", torch.int32)
        self._gains = {name: self._put(name, torch.int32) for name in model.tensors if name.endswith(".gain")}
        self._exp2, self._gate = (self._put(name, torch.int32) for name in ("table.exp2", s.features.gate_table))
        self._angles = {local: [self._put(f"table.{prefix}{name}", torch.int16) for name in ("cos", "sin")]
                        for local, prefix in ((False, ""), (True, "local_"))
                        if s.rotary and f"table.{prefix}cos" in model.tensors}  # fmt: skip
        self._score_scale = cip.score_scale(s.head_width, s.score_divisor)
        self._store = _Store(s, default_pages(s) if pages is None else pages, self._device)
        self.copy_page = self._store.copy_page
        self.pool = Pool(self._store.pages, self.copy_page)
        self._recordings: dict[_Form, _Recording] = {}
        self.graph_pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None
        """Memory of all recordings: what lies between two kernels of one is of no use to it when another runs."""
        self.graphs_refused = ""
        """Why kernels are launched one by one, where recording a pass failed."""

    def new_sequence(self, capacity: int = 0) -> Sequence:
        """An empty sequence with pages for `capacity` positions. Raises PoolExhausted."""
        return Sequence(self.pool, capacity)

    def feed(self, segments: Items[Segment]) -> list[Fed]:
        """Append tokens to sequences. Raises PoolExhausted before anything is changed."""
        return self.run_pass(segments, extend_all(self.pool, segments))

    @torch.inference_mode()
    def run_pass(self, segments: Items[Segment], starts: Items[int]) -> list[Fed]:
        """One pass over sequences that have room for their tokens from positions `starts` on."""
        found: dict[int, Fed] = {}
        for some, given in self.passes(segments, starts):
            found |= zip(some, self._feds(given, [segments[i] for i in some]), strict=True)
        return [found[i] for i in range(len(segments))]

    @torch.inference_mode()
    def passes(self, segments: Items[Segment], starts: Items[int]) -> Iterator[tuple[list[int], "_Given"]]:
        """The same, all results left on the device: each launch with the segments that it feeds. A later one may
        overwrite what an earlier one gave."""
        single = [i for i, segment in enumerate(segments) if len(segment.tokens) == 1]
        rest = [i for i, segment in enumerate(segments) if len(segment.tokens) > 1]
        with self._current():
            for begin in range(0, len(single), STEP_ROWS_MAX):
                some = single[begin : begin + STEP_ROWS_MAX]
                yield some, self._run([segments[i] for i in some], [starts[i] for i in some], 1)
            if rest:
                item_rows = max(1, ITEM_ROWS // (self.shape.heads // self.shape.kv_heads))
                yield rest, self._run([segments[i] for i in rest], [starts[i] for i in rest], item_rows)

    @torch.inference_mode()
    def product_extremes(self, name: str, weight_sign: int, input_sign: int) -> tuple[int, int]:
        """(computed, expected) of one product with every operand at its bound, for the startup test: of all products
        that may be chosen, the first that is wrong."""
        linear, columns = self._weights[name].linear, self._weights[name].columns
        exact = weight_sign * input_sign * cip.ACTIVATION_MAX * linear.bound * linear.inputs
        q, weight = (torch.zeros((PRODUCT_ROWS, columns), dtype=torch.int8, device=self._device) for _ in range(2))
        q[:, : linear.inputs] = input_sign * cip.ACTIVATION_MAX
        weight[:, : linear.inputs] = weight_sign * linear.bound
        with self._current():
            for product in self.products:
                found = product.multiply(q, weight, PRODUCT_ROWS)[:PRODUCT_ROWS]
                wrong = found[found != exact]
                if len(wrong):
                    return int(wrong[0]), exact
        return exact, exact

    def forward(self, at: "_Pass") -> "_Given":
        """Launch one pass. Waits for nothing and looks at no value, so that it can be recorded."""
        s, rows = self.shape, at.tokens.shape[0]
        scratch = self._new((rows, s.width), torch.int64)
        states = self._new((s.groups, rows, s.width), torch.int64)
        kv = self._new((s.layers, rows, 2 * s.kv_heads, s.head_width), torch.int8)
        kv_scale = self._new((s.layers, rows, 2 * s.kv_heads), torch.int32)
        weight, scale = self._embedding
        tile = tile_of(s.width)
        kernels.embed_kernel[(rows, -(-s.width // tile))](
            at.tokens, weight, scale, scratch, s.width, self.model.manifest.embedding_exponent, N=tile
        )
        x = scratch
        everyone = torch.arange(rows, dtype=torch.int32, device=self._device)
        q = self._norm(x, everyone, "layers.0.attention_norm", "layers.0.qkv")
        for layer in range(s.layers):
            name, ends = f"layers.{layer}", (layer + 1) % s.layers_per_group == 0 or layer + 1 == s.layers
            q = self._attention(layer, q, at, kv[layer], kv_scale[layer])
            q = self._merge(name, "attention", x, scratch, q, (f"{name}.mlp_norm", f"{name}.gate_up"))
            x = states[layer // s.layers_per_group] if ends else scratch
            after = f"layers.{layer + 1}"
            following = None if layer + 1 == s.layers else (f"{after}.attention_norm", f"{after}.qkv")
            q = self._merge(name, "mlp", scratch, x, self._gated(layer, q), following)
        logits = self._new((at.picks.shape[0], s.vocabulary), torch.int64)
        if at.picks.shape[0]:
            self._logits(self._norm(x, at.picks, "norm", "head"), logits)
        return _Given(states, kv, kv_scale, logits)

    # ------------------------------------------------------------------ parts of a pass

    def _norm(self, x: torch.Tensor, picks: torch.Tensor, norm: str, product: str) -> "_Rows":
        """What a product reads of some rows of the residual."""
        s, weights = self.shape, self._weights[product]
        made = self._rows(picks.shape[0], weights.columns)
        kernels.norm_kernel[(made.rows,)](
            x, picks, self._gains[f"{norm}.gain"], made.q, made.scale, s.width, weights.columns, s.norm_epsilon_q32,
            N=lanes(s.width), STAGES=stages(weights.linear.block), num_warps=warps_of(s.width),
        )  # fmt: skip
        return made

    def _merge(
        self, name: str, part: str, x: torch.Tensor, out: torch.Tensor, q: "_Rows", following: tuple[str, str] | None
    ) -> "_Rows":
        """out = x with what a layer's attention or MLP gives; its last product is made here. Then what comes next
        reads, by the name of its norm and product."""
        s, weights = self.shape, self._weights[f"{name}.{'out' if part == 'attention' else 'down'}"]
        bits = cip.ATTENTION_BITS if part == "attention" else cip.RESIDUAL_BITS
        outputs = self._outputs(q, weights, bits)
        post = self._gains.get(f"{name}.post_{part}_norm.gain", self._exp2)
        norm, after = ("norm", weights) if following is None else (following[0], self._weights[following[1]])
        made = self._rows(q.rows, after.columns)
        kernels.merge_kernel[(q.rows,)](
            x, out, *outputs, post, self._gains[f"{norm}.gain"], made.q, made.scale, s.width, after.columns,
            s.norm_epsilon_q32, N=lanes(s.width), STAGES=stages(after.linear.block), POST=s.features.post_norms,
            NEXT=following is not None, num_warps=warps_of(s.width), **weights.form,
        )  # fmt: skip
        return made

    def _attention(
        self, layer: int, rows: "_Rows", at: "_Pass", kv: torch.Tensor, kv_scale: torch.Tensor
    ) -> "_Rows":  # fmt: skip
        """Heads, and attention over all keys and values of a row's sequence, its own among them."""
        s, weights = self.shape, self._weights[f"layers.{layer}.qkv"]
        outputs = self._outputs(rows, weights, NORMED_BITS)
        q = self._new((rows.rows, s.heads, s.head_width), torch.int8)
        q_scale = self._new((rows.rows, s.heads), torch.int32)
        cosines, sines = self._angles.get(s.local(layer), (self._exp2, self._exp2))
        gains = [self._gains.get(f"layers.{layer}.{part}_norm.gain", self._exp2) for part in "qk"]
        kernels.heads_kernel[(rows.rows, s.heads + 2 * s.kv_heads)](
            *outputs, *gains, s.norm_epsilon_q32, at.positions, cosines, sines, at.pages, q, q_scale,
            self._store.values[layer], self._store.scales[layer], kv, kv_scale, s.heads, s.kv_heads, s.head_width,
            s.rotary // 2, N=lanes(s.head_width), STAGES=stages(cip.rotation_block(s.head_width)), NORM=s.qk_norm,
            TURN=s.rotary > 0, num_warps=1, **weights.form,
        )  # fmt: skip
        return self._mix(layer, q, q_scale, at)

    def _mix(self, layer: int, q: torch.Tensor, q_scale: torch.Tensor, at: "_Pass") -> "_Rows":
        s, rows, splits, shared = self.shape, q.shape[0], self._splits(at), self.shape.heads // self.shape.kv_heads
        highest, mass, heaviest = (self._new((splits, rows, s.heads), torch.int64) for _ in range(3))
        bits = self._new((splits, rows, s.heads), torch.int32)
        total = self._new((splits, rows, s.heads, s.head_width), torch.int64)
        mantissa, exponent = self._score_scale
        seen = (at.items, at.positions, q, q_scale, self._store.values[layer], self._store.scales[layer], at.tables,
                at.tables.shape[1])  # fmt: skip
        how = (rows * s.heads, s.heads, s.kv_heads, s.head_width, mantissa, 38 + exponent,
               s.window if s.local(layer) else EVERYTHING)  # fmt: skip
        extents = {"ROWS": at.item_rows, "M": max(ITEM_ROWS_LEAST, power_of_two(at.item_rows * shared)),
                   "WIDE": max(32, power_of_two(s.head_width)), "SPLITS": splits, "num_warps": 8}  # fmt: skip
        grid = (at.items.shape[0], s.kv_heads, splits)
        kernels.highest_kernel[grid](*seen, highest, bits, *how, **extents)
        kernels.mass_kernel[grid](*seen, self._exp2, highest, bits, mass, heaviest, *how, **extents)
        kernels.mix_kernel[grid](*seen, self._exp2, highest, bits, heaviest, total, *how, **extents)
        after = self._weights[f"layers.{layer}.out"]
        wide, largest, tile = self._tiles(rows, s.heads * s.head_width)
        kernels.close_kernel[largest.shape](
            total, mass, heaviest, bits, rows * s.heads, wide, largest, s.heads, s.head_width, N=tile,
            STAGES=stages(after.linear.block), SPLITS=splits, num_warps=8,
        )  # fmt: skip
        return self._quantise(wide, largest, after)

    def _gated(self, layer: int, rows: "_Rows") -> "_Rows":
        s, weights = self.shape, self._weights[f"layers.{layer}.gate_up"]
        outputs = self._outputs(rows, weights, NORMED_BITS)
        after = self._weights[f"layers.{layer}.down"]
        wide, largest, tile = self._tiles(rows.rows, s.hidden)
        kernels.gate_kernel[largest.shape](
            *outputs, self._gate, s.features.gate_step_bits, wide, largest, s.hidden, N=tile,
            STAGES=stages(after.linear.block), **weights.form,
        )  # fmt: skip
        return self._quantise(wide, largest, after)

    def _quantise(self, wide: torch.Tensor, largest: torch.Tensor, after: "_Weights") -> "_Rows":
        """What the product `after` reads, of rotated rows of which every tile's largest magnitude is known."""
        (rows, width), tiles = wide.shape, largest.shape[1]
        made, tile = self._rows(rows, after.columns), tile_of(width)
        kernels.quantise_kernel[(rows, -(-after.columns // tile))](
            wide, largest, tiles, made.q, made.scale, width, after.columns, N=tile, TILES=power_of_two(tiles)
        )
        return made

    def _logits(self, rows: "_Rows", out: torch.Tensor) -> None:
        vocabulary, weights = self.shape.vocabulary, self._weights["head"]
        tile = tile_of(vocabulary)
        kernels.logits_kernel[(rows.rows, -(-vocabulary // tile))](
            *self._outputs(rows, weights, NORMED_BITS), out, vocabulary, N=tile, **weights.form
        )

    # ------------------------------------------------------------------ products

    def _outputs(self, rows: "_Rows", weights: "_Weights", bits: int) -> tuple[Any, ...]:
        """What a kernel needs for the Q16 outputs of a product of Q`bits` rows."""
        outputs, columns = weights.weight.shape
        key = outputs, columns, power_of_two(rows.rows)
        if key not in self.chosen:
            self.chosen[key] = self._fastest(rows, weights.weight)
        acc = self.chosen[key].multiply(rows.q, weights.weight, rows.rows)
        if self._split is not None:
            acc = self._split.gather(acc[: rows.rows])
        bias = weights.scale if weights.bias is None else weights.bias
        return (acc, acc.shape[1], weights.scale, bias, rows.scale, weights.linear.outputs,
                bits + weights.linear.exponent - 1)  # fmt: skip

    def _fastest(self, rows: "_Rows", weight: torch.Tensor) -> "Product":
        """Of the exact products, by a trial on these operands."""
        seconds = {}
        for product in self.products:
            try:
                product.multiply(rows.q, weight, rows.rows)  # compiles it
            except RuntimeError as error:  # exact, but this shape is not for it
                log.info("product %s of %d rows by %s: %s", product.name, rows.rows, tuple(weight.shape), error)
                continue
            seconds[product] = min(self._seconds(product, rows, weight) for _ in range(5))
        return min(seconds, key=lambda product: seconds[product])

    def _seconds(self, product: "Product", rows: "_Rows", weight: torch.Tensor) -> float:
        """Time on the device, without the launch, which a recorded step does not pay; weights not in its cache."""
        if self._device.type != "cuda":
            began = time.perf_counter()
            product.multiply(rows.q, weight, rows.rows)
            return time.perf_counter() - began
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.empty(CACHE_BYTES, dtype=torch.int8, device=self._device).zero_()
        torch.cuda._sleep(LAUNCH_CYCLES)
        begin.record()
        product.multiply(rows.q, weight, rows.rows)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    def _weights_of(self, linear: cip.Linear) -> "_Weights":
        terms = [self._put(f"{linear.name}.weight{suffix}", torch.int8) for suffix in ("", "2")[: linear.terms]]
        weight = torch.cat(terms) if len(terms) > 1 else terms[0]
        outputs, inputs = weight.shape
        weight = torch.nn.functional.pad(weight, (0, -inputs % 16, 0, -outputs % 8)).contiguous()
        weight = weight if self._split is None else self._split.share(weight)
        bias = f"{linear.name}.bias"
        return _Weights(linear, weight, self._put(f"{linear.name}.scale", torch.int32),
                        self._put(bias, torch.int32) if bias in self.model.tensors else None)  # fmt: skip

    # ------------------------------------------------------------------ rows, pages and results

    def _run(self, segments: Items[Segment], starts: Items[int], item_rows: int) -> "_Given":
        """One launch of everything, recorded where it is small."""
        form = _Form.of(segments, item_rows, pages_of(self.shape.context))
        if form.rows > RECORDED_ROWS_MAX or form.sequences > STEP_ROWS_MAX:
            at = _Inputs(form, self._store.pages, self._device)
            at.fill(segments, starts)
            return self.forward(at.passed)
        if form not in self._recordings:
            self._recordings[form] = _Recording(self, form, self._store.pages, self._device)
        return self._recordings[form].run(segments, starts)

    def _feds(self, given: "_Given", segments: Items[Segment]) -> list[Fed]:
        """What a pass gives each segment."""
        s, rows = self.shape, sum(len(segment.tokens) for segment in segments)
        picks = sum(len(segment.tokens) - segment.logits_from for segment in segments)
        states, kv, kv_scale, logits = self._host(given, rows, picks)
        payloads = []
        for group in range(s.groups):
            parts = [_octets(states[group], "<i8")]
            for layer in range(group * s.layers_per_group, min((group + 1) * s.layers_per_group, s.layers)):
                parts += [_octets(kv[layer], "<i1"), _octets(kv_scale[layer], "<i4")]
            payloads.append(np.concatenate(parts, axis=1))
        feds, row, taken = [], 0, 0
        for segment in segments:
            count = len(segment.tokens)
            wanted = count - segment.logits_from
            feds.append(Fed(logits[taken : taken + wanted], [payload[row : row + count] for payload in payloads]))
            row, taken = row + count, taken + wanted
        return feds

    def _host(self, given: "_Given", rows: int, logits: int) -> list[np.ndarray]:
        """Copies of a pass's first rows, on the host."""
        parts = [part[:, :rows] for part in (given.states, given.kv, given.kv_scale)] + [given.logits[:logits]]
        if self._device.type != "cuda":
            return [part.clone().numpy() for part in parts]
        copies = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in parts]
        for copy, part in zip(copies, parts, strict=True):
            copy.copy_(part, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return [copy.numpy() for copy in copies]

    def _splits(self, at: "_Pass") -> int:
        """Shares of the keys that keep the device busy. Few numbers: kernels are compiled for each."""
        programs = at.items.shape[0] * self.shape.kv_heads
        return next((shares for most, shares in SPLITS if programs <= most), 1)

    def _rows(self, rows: int, columns: int) -> "_Rows":
        """Room for quantised rows, at least as many as a product takes; those that nobody writes change no other."""
        q = self._new((max(rows, PRODUCT_ROWS), columns), torch.int8)
        return _Rows(q, self._new((rows,), torch.int32), rows)

    def _tiles(self, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Room for wide rows, for the largest magnitude of each of their tiles, and a tile's extent."""
        tile = tile_of(width)
        tiles = self._new((rows, -(-width // tile)), torch.int64)
        return self._new((rows, width), torch.int64), tiles, tile

    def _new(self, extent: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(extent, dtype=dtype, device=self._device)

    def _try_to_compile(self) -> None:
        """Triton needs a C compiler and Python's headers when it first launches."""
        values = torch.zeros((1, TILE), dtype=torch.int64, device=self._device)
        found = self._new((1, TILE), torch.int8), self._new((1,), torch.int32)
        try:
            with self._current():
                kernels.quantise_kernel[(1, 1)](values, values, 1, *found, TILE, TILE, N=TILE, TILES=1)
        except (RuntimeError, OSError, CalledProcessError) as error:
            raise EngineUnavailable(f"Triton compiles no kernels here: {error}") from error

    def _current(self) -> AbstractContextManager[Any]:
        """Triton launches on the current device."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


class _Form(NamedTuple):
    """Extents of a pass: what a recording is made for. Rows, items and picks are filled up to few different numbers."""

    rows: int
    item_rows: int
    items: int
    picks: int
    sequences: int
    table_width: int

    @classmethod
    def of(cls, segments: Items[Segment], item_rows: int, table_width: int) -> "_Form":
        """The form that takes these segments."""
        count = sum(len(segment.tokens) for segment in segments)
        if item_rows == 1:
            rows = power_of_two(count)
            return cls(rows, 1, rows, rows, power_of_two(len(segments)), table_width)
        rows, sequences = max(RECORDED_ROWS_LEAST, power_of_two(count)), max(4, power_of_two(len(segments)))
        wanted = sum(len(segment.tokens) - segment.logits_from for segment in segments)
        picks = next(most for most in (0, sequences, rows) if wanted <= most)
        return cls(rows, item_rows, rows // item_rows + sequences + 1, picks, sequences, table_width)


class _Inputs:
    """Where rows lie, in one tensor that stays where it is. Rows that fill up are one more sequence's, of token 0 at
    the first positions of the page `spare`; items that fill up have no rows."""

    def __init__(self, form: _Form, spare: int, device: torch.device) -> None:
        self._form, self._spare = form, spare
        extents = [(form.rows,)] * 3 + [(form.picks,), (form.items, 3), (form.sequences + 1, form.table_width)]
        # Every part begins at a multiple of 16 bytes: kernels are compiled for it.
        ends = np.cumsum([-(-math.prod(extent) // 4) * 4 for extent in extents])
        self._device = torch.zeros(int(ends[-1]), dtype=torch.int32, device=device)
        self._staged = torch.zeros(self._device.shape, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._copied: Any = torch.cuda.Event() if device.type == "cuda" else None

        def parts(whole: torch.Tensor) -> list[torch.Tensor]:
            return [whole[end - (-(-math.prod(extent) // 4) * 4) :][: math.prod(extent)].view(extent)
                    for end, extent in zip(ends.tolist(), extents, strict=True)]  # fmt: skip

        self._parts = [part.numpy() for part in parts(self._staged)]
        tokens, positions, pages, picks, items, tables = parts(self._device)
        self.passed = _Pass(tokens, positions, pages, tables, items, picks, form.item_rows)

    def fill(self, segments: Items[Segment], starts: Items[int]) -> None:
        """These segments, each from its position on, and what fills them up."""
        if self._copied is not None:
            self._copied.synchronize()
        form = self._form
        tokens, positions, pages, picks, items, tables = self._parts
        row = item = pick = 0
        for number, (segment, start) in enumerate(zip(segments, starts, strict=True)):
            count, own = len(segment.tokens), np.array(segment.sequence.pages, np.int32)
            end = row + count
            tokens[row:end], positions[row:end] = segment.tokens, range(start, start + count)
            pages[row:end] = own[positions[row:end] // PAGE]
            tables[number, : len(own)] = own
            for first in range(row, end, form.item_rows):
                items[item] = first, min(form.item_rows, end - first), number
                item += 1
            wanted = count - segment.logits_from
            picks[pick : pick + wanted] = range(end - wanted, end)
            row, pick = end, pick + wanted
        tokens[row:], pages[row:], picks[pick:], tables[form.sequences] = 0, self._spare, 0, self._spare
        for first in range(row, form.rows, form.item_rows):
            end = min(first + form.item_rows, form.rows)
            positions[first:end] = range(end - first)
            items[item] = first, end - first, form.sequences
            item += 1
        items[item:] = 0, 0, form.sequences
        self._device.copy_(self._staged, non_blocking=True)
        if self._copied is not None:
            self._copied.record()


class _Recording:
    """A pass of one form: on a CUDA device recorded as a graph at first use, and launched kernel by kernel where that
    fails, as on a CPU."""

    def __init__(self, executor: CudaExecutor, form: _Form, spare: int, device: torch.device) -> None:
        self._executor, self._form, self._inputs = executor, form, _Inputs(form, spare, device)
        self._records, self._graph, self._given = device.type == "cuda", None, None

    def run(self, segments: Items[Segment], starts: Items[int]) -> "_Given":
        """Feed segments of this form. What it gives may be overwritten by the next pass."""
        self._inputs.fill(segments, starts)
        if self._records and not self._executor.graphs_refused:
            if self._graph is None:
                self._record()
            if self._graph is not None:
                self._graph.replay()
                return self._given
        return self._executor.forward(self._inputs.passed)

    def _record(self) -> None:
        """A first run on these inputs compiles kernels and chooses products; to run twice writes the same again."""
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._executor.forward(self._inputs.passed)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._executor.graph_pool):
                self._given = self._executor.forward(self._inputs.passed)
            self._graph = graph
        except RuntimeError as error:
            self._executor.graphs_refused = f"a pass of {self._form} cannot be recorded: {error}"
            log.warning("no CUDA graphs, every kernel is launched: %s", self._executor.graphs_refused)


class _Weights(NamedTuple):
    """int8 [outputs of all terms, inputs], zeros up to what a product takes, of a split model this process's share;
    int32 scales and biases by output."""

    linear: cip.Linear
    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    @property
    def columns(self) -> int:
        """Inputs with what fills them up."""
        return self.weight.shape[1]

    @property
    def form(self) -> dict[str, Any]:
        """What kernels are compiled for."""
        return {"TERMS": self.linear.terms, "BIAS": self.bias is not None}


class _Rows(NamedTuple):
    """Quantised rows: int8 [at least rows, columns], int32 scales."""

    q: torch.Tensor
    scale: torch.Tensor
    rows: int


class _Pass(NamedTuple):
    """Where rows lie, all int32: token, position and page of each; pages of each sequence; items (first row, count,
    sequence) of at most item_rows rows that attend together; rows whose logits are wanted."""

    tokens: torch.Tensor
    positions: torch.Tensor
    pages: torch.Tensor
    tables: torch.Tensor
    items: torch.Tensor
    picks: torch.Tensor
    item_rows: int


class _Given(NamedTuple):
    """Results on the device: residual of each group [groups, rows, width] and logits [picked rows, vocabulary] in
    int64, int8 keys and values [layers, rows, heads, width] and their scales."""

    states: torch.Tensor
    kv: torch.Tensor
    kv_scale: torch.Tensor
    logits: torch.Tensor


class _Store:
    """A pool's bytes, and one page more for rows that fill up: by layer and page, int8 heads (keys', then values') and
    their scales."""

    def __init__(self, shape: cip.Shape, pages: int, device: torch.device) -> None:
        self.pages = pages
        extent = (shape.layers, pages + 1, 2 * shape.kv_heads, PAGE)
        self.values = torch.zeros((*extent, shape.head_width), dtype=torch.int8, device=device)
        self.scales = torch.zeros(extent, dtype=torch.int32, device=device)

    def copy_page(self, source: int, target: int, positions: int) -> None:
        """Copy a page's first positions."""
        for part in (self.values, self.scales):
            part[:, target, :, :positions] = part[:, source, :, :positions]


class Product(NamedTuple):
    """One way to multiply: multiply(q [at least rows, inputs], weight [outputs, inputs], rows), int8 to int32."""

    name: str
    multiply: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]

    @property
    def backend(self) -> torch_engine.Backend:
        """The same as a backend of the other executor: it is tested for exactness in the same way."""
        return torch_engine.Backend(self.name, lambda weight, _: weight.contiguous(),
                                    lambda q, weight: self.multiply(q.to(torch.int8), weight, len(q)))  # fmt: skip


def _int8(q: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    return torch._int_mm(q, weight.t())


def _triton(
    m: int, n: int, k: int, warps: int, parts: int = 1
) -> Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]:  # fmt: skip
    def multiply(q: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
        outputs, inputs = weight.shape
        out = (torch.empty if parts == 1 else torch.zeros)((rows, outputs), dtype=torch.int32, device=q.device)
        try:
            kernels.product_kernel[(-(-outputs // n), -(-rows // m), parts)](
                q, weight, out, rows, outputs, inputs, M=m, N=n, K=k, PARTS=parts, num_warps=warps
            )
        except OutOfResources as error:
            raise RuntimeError(f"tiles of {m} x {n} do not fit this device: {error}") from error
        return out

    return multiply


def _float64(q: torch.Tensor, weight: torch.Tensor, rows: int) -> torch.Tensor:
    return (q[:rows].double() @ weight.t().double()).to(torch.int32)


PRODUCTS = (
    Product("int8", _int8),
    Product("triton 16x32", _triton(16, 32, 256, 4)),
    Product("triton 16x64", _triton(16, 64, 256, 4)),
    Product("triton 16x64 in 4 parts", _triton(16, 64, 256, 4, parts=4)),
    Product("triton 64x64", _triton(64, 64, 128, 4)),
    Product("triton 128x128", _triton(128, 128, 128, 8)),
    Product("triton 128x256", _triton(128, 256, 128, 8)),
    Product("float64", _float64),
)


def _on(tensor: Any, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A model's tensor on a device; torch has no arithmetic on uint16."""
    if not isinstance(tensor, torch.Tensor):
        tensor = torch.from_numpy(tensor.astype(np.int32) if tensor.dtype == np.uint16 else tensor.copy())
    return tensor.to(device, dtype).contiguous()


def _octets(array: np.ndarray, dtype: str) -> np.ndarray:
    """Little-endian bytes of each row, uint8 [rows, bytes]."""
    return np.ascontiguousarray(array.astype(dtype, copy=False)).reshape(len(array), -1).view(np.uint8)


def power_of_two(least: int) -> int:
    """The least power of two that is not below it."""
    return 1 << max(least - 1, 0).bit_length()


def lanes(width: int) -> int:
    """Lanes of a program that holds a whole row: whole blocks of a rotation."""
    return max(cip.ROTATION_BLOCK_MAX, power_of_two(width))


def tile_of(width: int) -> int:
    return min(TILE, lanes(width))


def stages(block: int) -> int:
    return block.bit_length() - 1


def warps_of(width: int) -> int:
    return max(1, min(16, lanes(width) // 256))
