"""Compile the CUDA sources of this folder and launch their kernels.

NVRTC compiles a source when one of its kernels is first launched, and CuPy caches the result on
disk. The common header is prepended to each source instead of included, so that CuPy does not find
an old result after the header has changed.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

from minimtp.backend import Array, array_module, numpy

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17",)
NAMES = ("norms", "pointwise", "attention", "loss", "sampling", "rounding", "products")
NOWHERE = numpy.uintp(0)  # the null pointer, as a kernel's argument


def source(name: str) -> str:
    """Return the text that is compiled for NAME.cu."""
    common = (FOLDER / "common.cuh").read_text(encoding="utf-8").replace("#pragma once\n", "")
    return common + (FOLDER / f"{name}.cu").read_text(encoding="utf-8").replace(
        '#include "common.cuh"\n', ""
    )


@cache
def compiled(xp: ModuleType, name: str) -> object:
    """Return NAME.cu as a CuPy RawModule. CuPy's own errors are passed on."""
    return xp.RawModule(code=source(name), options=OPTIONS)


@cache
def _kernel(xp: ModuleType, name: str, kernel: str) -> object:
    return compiled(xp, name).get_function(kernel)


def launch(
    name: str, kernel: str, grid: tuple[int, ...], block: int, *arguments: Array | float
) -> None:
    """Launch a kernel of NAME.cu on `grid` blocks of `block` threads. An empty grid launches
    nothing.

    arguments: contiguous arrays on the device, and numbers. A Python int becomes int32, a Python
    float float32. NumPy numbers keep their types.
    """
    if 0 in grid:
        return
    numbers = {int: numpy.int32, float: numpy.float32}
    converted = [numbers.get(type(a), lambda a: a)(a) for a in arguments]
    xp = array_module(*arguments)
    _kernel(xp, name, kernel)((*grid, 1, 1)[:3], (block, 1, 1), tuple(converted))


def blocks_for(threads: int, block: int) -> int:
    """Return the number of blocks of size `block` that cover `threads` threads."""
    return -(-threads // block)


def whole(*arrays: Array) -> list[Array]:
    """Return the arrays, with copies of those that are not contiguous."""
    return [array_module(array).ascontiguousarray(array) for array in arrays]


def in_place(array: Array) -> Array:
    """Return the array if it can be overwritten in place. Raises ValueError if it is not
    C-contiguous.
    """
    if not array.flags.c_contiguous:
        raise ValueError("an array that is changed in place has to be contiguous")
    return array
