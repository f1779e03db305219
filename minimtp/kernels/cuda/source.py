"""From the CUDA sources in `cuda/` to kernels that can be launched.

A source is compiled by NVRTC when one of its kernels is first launched; CuPy keeps the result on the disk. The common header
is put before each source rather than included, so that a change of it is a change of the source and no old result is found.
"""

from functools import cache
from pathlib import Path
from types import ModuleType

from minimtp.backend import array_module, numpy

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17",)
NAMES = ("norms", "pointwise", "attention", "loss", "sampling", "rounding", "products")
NOWHERE = numpy.uintp(0)  # the null pointer, as a kernel's argument


def source(name: str) -> str:
    """The text that is compiled for `cuda/NAME.cu`."""
    common = (FOLDER / "common.cuh").read_text(encoding="utf-8").replace("#pragma once\n", "")
    return common + (FOLDER / f"{name}.cu").read_text(encoding="utf-8").replace(
        '#include "common.cuh"\n', ""
    )


@cache
def compiled(xp: ModuleType, name: str) -> object:
    """`cuda/NAME.cu` as a CuPy RawModule. Raises what CuPy raises where its compiler cannot be used."""
    return xp.RawModule(code=source(name), options=OPTIONS)


@cache
def _kernel(xp: ModuleType, name: str, kernel: str) -> object:
    return compiled(xp, name).get_function(kernel)


def launch(name: str, kernel: str, grid: tuple[int, ...], block: int, *arguments: object) -> None:
    """Run a kernel of `cuda/NAME.cu` on `grid` blocks of `block` threads; an empty grid runs nothing.

    arguments: contiguous arrays on the device, and numbers: whole ones become int, others float, NumPy's stay what they are.
    """
    if 0 in grid:
        return
    converted = [
        numpy.int32(a) if type(a) is int else numpy.float32(a) if type(a) is float else a for a in arguments
    ]  # fmt: skip
    xp = array_module(*arguments)
    _kernel(xp, name, kernel)((*grid, 1, 1)[:3], (block, 1, 1), tuple(converted))


def blocks_for(threads: int, block: int) -> int:
    """How many blocks of `block` make at least so many threads."""
    return -(-threads // block)


def whole(*arrays: object) -> list:
    """The arrays, those copied that are not contiguous."""
    return [array_module(array).ascontiguousarray(array) for array in arrays]


def in_place(array: object) -> object:
    """The array, to be overwritten. Raises ValueError where its elements do not lie side by side."""
    if not array.flags.c_contiguous:
        raise ValueError("an array that is changed in place has to be contiguous")
    return array
