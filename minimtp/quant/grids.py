"""Grids: the numbers that a quantized weight may take, and the rule that picks one of them.

Rounding a weight to b bits means choosing, for each group of neighbours in a row, a step d and for every weight x of the
group a small integer q, its code; the weight becomes q * d. A `Grid` is that rule. One object serves everything that rounds:
the forward pass of quantization-aware training (`fake.py`), rounding a finished model (`ptq.py`), conversion (`qat.py`) and
the bytes of a file (`packing.py`). If training rounded to one grid and the file to another, the second rounding would be an
error that nobody trained against; measured on other pairs of int4 grids, it adds 31-74 % to the error power.

    name                  codes      step d                      bits per weight    |x - q d| at most
    q4_0                  -8..7      (signed extreme) / -8       4 + 16/32 = 4.5    |d|     (half of it, unless +8 is clipped)
    q8_0                  -127..127  max|x| / 127                8 + 16/32 = 8.5    d / 2   (both: plus the rounding of d)
    int4-restricted-g32   -7..7      max|x| / 7                  4 + 16/32 = 4.5    d / 2   and so on for 2-8 bits, other
    int4-affine-channel   -8..7      (max - min) / 15            4 + (16 + 4)/K     d / 2   policies, groups, rows, matrices

The name of a uniform grid says all of it: `int` BITS `-` POLICY `-` `tensor`, `channel` or `g` COLUMNS, and `-f32` if its
scales are stored as float32. The policies are explained in `grids_uniform.py`, ggml's formats in `kernels/blocks.py`, and
what all grids promise in `grids_base.py`.

A scale is stored as a float16 unless the name says otherwise, and it is rounded to one before anyone sees it: `encode`
returns float32 numbers that are exactly float16 values. That bounds what can be stored: a weight of more than
`largest_magnitude` has no finite scale. Steps under 2**-25 become 0, and with them the whole group.
"""

import re

from minimtp.errors import UserError
from minimtp.quant.grids_base import MASKS, Grid
from minimtp.quant.grids_ggml import Q4_0Grid, Q8_0Grid
from minimtp.quant.grids_uniform import POLICIES, UniformGrid

__all__ = ["GRIDS", "MASKS", "Q4_0", "Q8_0", "Grid", "UniformGrid", "grid_named"]

Q4_0 = Q4_0Grid()
Q8_0 = Q8_0Grid()
GRIDS: dict[str, Grid] = {grid.name: grid for grid in (Q4_0, Q8_0)}  # those that kernels multiply by

_UNIFORM = re.compile(rf"int(?P<bits>\d)-(?P<policy>{'|'.join(POLICIES)})-(?P<over>tensor|channel|g[1-9]\d*)(?P<f32>-f32)?")


def grid_named(name: str) -> Grid:
    """The grid of that name; the same name gives equal grids. Raises UserError that lists the known names."""
    if name in GRIDS:
        return GRIDS[name]
    uniform = _UNIFORM.fullmatch(name)
    if uniform is None:
        raise UserError(
            f"unknown grid {name!r}: use {', '.join(GRIDS)} or a uniform one like int4-restricted-g32, "
            f"with 2 to 8 bits, {', '.join(POLICIES)}, and tensor, channel or g and a number of columns"
        )
    over = uniform["over"] if uniform["over"] in ("tensor", "channel") else int(uniform["over"][1:])
    return UniformGrid(int(uniform["bits"]), uniform["policy"], over, scale_type="float32" if uniform["f32"] else "float16")
