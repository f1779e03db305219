"""Grids: the values that a quantized weight may take, and the rule that picks one of them.

Quantization divides each row into groups of neighbouring weights. Each group gets a step d. Each
weight x of the group gets a small integer q, its code, and becomes q * d. A `Grid` is the rule that
chooses d and q. The same object is used by the forward pass of quantization-aware training
(`quant/qat/`), by the rounding of a trained model (`quant/ptq/`), and by the writer of files
(`quant/packing.py`). If training and files used different grids, packing would add a second
rounding error that the model was not trained for. On other pairs of int4 grids, this second error
was measured to add 31-74 % to the error power.

    name                 codes          step d                  bits per weight   max |x - q d|
    q4_0                 -8..7          (signed extreme) / -8   4 + 16/32 = 4.5   |d|, see below
    q8_0                 -127..127      max|x| / 127            8 + 16/32 = 8.5   d / 2
    q4_1                 0..15          (max - min) / 15        4 + 32/32 = 5.0   d / 2
    q5_0, q5_1           -16..15, 0..31  as q4_0, q4_1          5.5, 6            |d|, d / 2
    q4_k, q6_k           0..15, -32..31  searched               4.5, 6.5625       no formula
    f16                  16 bits        none                    16                2**-11 |x|, 2**-25
    int4-restricted-g32  -7..7          max|x| / 7              4 + 16/32 = 4.5   d / 2
    int4-affine-channel  -8..7          (max - min) / 15        4 + (16 + 8)/K    d / 2
    nf4-g64              0..15          max|x|                  4 + 16/64 = 4.25  half a gap
    ternary-tensor       -1..1          mean|x|                 2                 no limit

The error bounds do not include the rounding of d and min to float16. The bound of q4_0 is |d| / 2,
except for codes of +8, which are clipped to 7. Only a weight with the opposite sign of the extreme
can have the code +8. q5_0 clips +16 in the same way.

The grids in the first six rows are ggml's. The other grids work for groups of any size. Their
names end with `tensor`, `channel` or `g` COLUMNS, and with `-f32` if scales are stored as float32.
Names of uniform grids begin with `int` BITS `-` POLICY, where BITS is 2 to 8 and POLICY is the rule
for the scale. The files:

    base.py          Grid, the interface of all grids
    rounding.py      rounding modes
    ggml.py          Q4_0, Q4_1, Q8_0 and f16
    five_bits.py     Q5_0 and Q5_1
    superblocks.py   Q4_K and Q6_K
    groups.py        the common part of grids for groups of any size
    uniform.py       int2 to int8, for groups of any size
    codebook.py      nf4 and ternary, for groups of any size
    mixture.py       different grids for the matrices of a block
    scales.py        operations on scales
    scale_search.py  scales with the smallest weighted error

A scale is stored as a float16 unless the name says otherwise. It is rounded to float16 before it is
used, so `encode` returns float32 scales that are exact float16 values. Therefore a weight larger
than `max_magnitude` has no finite scale. Steps below 2**-25 become 0, and so does their whole
group.
"""

import copyreg
import re

from minimtp.errors import UserError, shown
from minimtp.quant.grids.base import MASKS, Grid
from minimtp.quant.grids.codebook import NF4Grid, TernaryGrid
from minimtp.quant.grids.five_bits import Q5_0Grid, Q5_1Grid
from minimtp.quant.grids.ggml import BlockGrid, F16Grid, Q4_0Grid, Q4_1Grid, Q8_0Grid
from minimtp.quant.grids.groups import GroupedGrid
from minimtp.quant.grids.superblocks import Q4_KGrid, Q6_KGrid
from minimtp.quant.grids.uniform import POLICIES, UniformGrid

__all__ = [
    "BLOCK_GRIDS", "F16", "GRIDS", "MASKS", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q6_K", "Q8_0",
    "BlockGrid", "Grid", "GroupedGrid", "NF4Grid", "TernaryGrid", "UniformGrid", "grid_named",
]  # fmt: skip

Q4_0, Q4_1, Q8_0, Q4_K, Q6_K = Q4_0Grid(), Q4_1Grid(), Q8_0Grid(), Q4_KGrid(), Q6_KGrid()
Q5_0, Q5_1 = Q5_0Grid(), Q5_1Grid()
F16 = F16Grid()
# Grids whose matmuls the kernels compute in integers.
GRIDS: dict[str, Grid] = {grid.name: grid for grid in (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0)}
# Grids that have a ggml block format.
BLOCK_GRIDS: dict[str, BlockGrid] = {
    grid.name: grid for grid in (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q6_K)
}

MAX_GROUP = 2**20  # columns; the widest matrices have fewer
_KIND = rf"int(?P<bits>[0-9])-(?P<policy>{'|'.join(POLICIES)})|nf4|ternary"
_GROUPED = re.compile(rf"(?P<kind>{_KIND})-(?P<over>tensor|channel|g[1-9][0-9]*)(?P<f32>-f32)?")


def grid_named(name: str) -> Grid:
    """Return the grid called `name`. Equal names give equal grids. Raises UserError if the name is
    unknown.
    """
    if name in BLOCK_GRIDS:
        return BLOCK_GRIDS[name]
    if name == F16.name:
        return F16
    match = _GROUPED.fullmatch(name)
    if match is None:
        raise UserError(
            f"unknown grid {shown(name)!r}: use {', '.join(BLOCK_GRIDS)}, or {F16.name}, or "
            "a name such as int4-restricted-g32, nf4-g64 or ternary-tensor "
            f"(int2 to int8 with {', '.join(POLICIES)}; tensor, channel or g and a group size)"
        )
    over: int | str = match["over"]
    if over not in ("tensor", "channel"):
        if len(over) > 8 or int(over[1:]) > MAX_GROUP:
            raise UserError(
                f"the groups of the grid {shown(name)!r} are too large: use at most g{MAX_GROUP}, "
                "or channel for one group per row"
            )
        over = int(over[1:])
    scale_type = "float32" if match["f32"] else "float16"
    if match["bits"]:
        return UniformGrid(int(match["bits"]), match["policy"], over, scale_type)
    return {"nf4": NF4Grid, "ternary": TernaryGrid}[match["kind"]](over, scale_type)


def _by_name(grid: Grid) -> tuple[object, ...]:
    return grid_named, (grid.name,)


# A copy of a grid, also in another process, is the grid that `grid_named` returns. So a copied
# model is still compared correctly with `is F16`.
for grid in (*BLOCK_GRIDS.values(), F16):
    copyreg.pickle(type(grid), _by_name)
