"""Every kernel that a pass launches, compiled for devices that are not here: run by test_cuda_engine.py in a process
that does not interpret. Argument types and extents are those of real launches, whose execution alone is left out.

    python -m tests.inference.triton_compiled
"""

import dataclasses
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from inference import cuda_engine
from inference import program as cip
from inference import triton_kernels as kernels
from inference.build import random_model
from inference.kv import Segment

TYPES = {torch.int8: "*i8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64"}
OPTIONS = ("num_warps", "num_stages")


class Compiled:
    """Stands where a kernel stands, and compiles it for a device in place of launching it."""

    def __init__(self, kernel: Any, architecture: int, done: set[str]) -> None:
        self._kernel, self._architecture, self._done = kernel, architecture, done

    def __getitem__(self, grid: Any) -> Any:
        return self._compile

    def _compile(self, *arguments: Any, **named: Any) -> None:
        options = {name: named.pop(name) for name in OPTIONS if name in named}
        given = dict(zip(self._kernel.arg_names, arguments, strict=False)) | named
        types, constants, attributes = {}, {}, {}
        for index, name in enumerate(self._kernel.arg_names):
            value = given[name]
            # As a launch does: what is 1 is a constant, besides what is declared as one; multiples of 16 are known.
            if not isinstance(value, torch.Tensor) and (name in named or value == 1):
                types[name], constants[(index,)] = "constexpr", value
            else:
                types[name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
                if isinstance(value, torch.Tensor) or value % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
        key = f"{self._kernel.fn.__name__} sm_{self._architecture} {types} {constants} {options}"
        if key not in self._done:
            target = GPUTarget("cuda", self._architecture, 32)
            made = triton.compile(ASTSource(self._kernel, types, constants, attributes), target=target, options=options)
            assert len(made.asm["cubin"]) > 0
            self._done.add(key)
            print(key, made.metadata.shared, flush=True)


def main() -> None:
    """Compile for the oldest architecture that multiplies int8 as the kernels do, and for the H100's."""
    originals = {name: kernel for name, kernel in vars(kernels).items() if name.endswith("_kernel")}
    done: set[str] = set()
    llama = cip.Shape(64, 128, 64, 1, 2, 1, 64, 64, 128, 42950, 1)
    gemma = dataclasses.replace(llama, kind="gemma3", heads=1, window=70, window_pattern=2, score_divisor=9)
    for architecture in (80, 90):
        for name, kernel in originals.items():
            setattr(kernels, name, Compiled(kernel, architecture, done))
        for product in cuda_engine.PRODUCTS[1:-1]:
            product.multiply(torch.zeros((32, 64), dtype=torch.int8), torch.zeros((64, 64), dtype=torch.int8), 32)
        cuda_engine.PRODUCTS = cuda_engine.PRODUCTS[-1:]
        for shape, terms in ((llama, 1), (gemma, 2)):
            executor = cuda_engine.CudaExecutor(random_model(shape, 1, terms=terms), "cpu")
            sequence = executor.new_sequence()
            executor.feed([Segment(sequence, [1, 2, 3], 0)])
            executor.feed([Segment(sequence, [4], 0)])
    names = {key.split()[0] for key in done}
    assert names == set(originals), set(originals) - names


if __name__ == "__main__":
    main()
