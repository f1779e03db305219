"""Grids: the values that a quantized weight may take, and the rule that picks one of them.

Rounding a weight to b bits means choosing, for each group of neighbours in a row, a step d, and for
every weight x of the group a small integer q, its code. The weight becomes q * d. A `Grid` is that
rule. One object serves everything that rounds: the forward pass of quantization-aware training
(`quant/qat/`), rounding a finished model (`quant/ptq/`), and the bytes of a file
(`quant/packing.py`). If training rounded to one grid and the file to another, nobody would have
trained against the second rounding error. Measured on other pairs of int4 grids, it adds 31-74 % to
the error power.

    name                 codes          step d                  bits per weight   max |x - q d|
    q4_0                 -8..7          (signed extreme) / -8   4 + 16/32 = 4.5   |d|, see below
    q8_0                 -127..127      max|x| / 127            8 + 16/32 = 8.5   d / 2
    q4_1                 0..15          (max - min) / 15        4 + 32/32 = 5.0   d / 2
    q4_k, q6_k           0..15, -32..31  searched               4.5, 6.5625       as searched
    f16                  16 bits        none                    16                2**-11 |x|, 2**-25
    int4-restricted-g32  -7..7          max|x| / 7              4 + 16/32 = 4.5   d / 2
    int4-affine-channel  -8..7          (max - min) / 15        4 + (16 + 8)/K    d / 2
    nf4-g64              0..15          max|x|                  4 + 16/64 = 4.25  half a gap
    ternary-tensor       -1..1          mean|x|                 2                 no limit

The error bounds do not include the rounding of d and min to float16. q4_0's bound is |d| / 2 unless
the weight lies opposite to the extreme, where the code +8 is clipped to 7.

The first six are ggml's. The others are grids over any groups. Their names end with `tensor`,
`channel` or `g` COLUMNS, and with `-f32` if scales are stored as float32. Uniform grids begin with
`int` BITS `-` POLICY, where BITS is 2 to 8 and POLICY is the rule for the scale. The files, from
the interface to the formats:

    base.py          Grid, the interface of all grids
    rounding.py      rounding modes
    ggml.py          Q4_0, Q4_1, Q8_0 and f16
    superblocks.py   Q4_K and Q6_K
    groups.py        what grids over any groups share
    uniform.py       int2 to int8, over any groups
    codebook.py      nf4 and ternary, over any groups
    scales.py        operations on scales
    scale_search.py  scales with the smallest weighted error

A scale is stored as a float16 unless the name says otherwise, and it is rounded to one before
anything uses it: `encode` returns float32 numbers that are exactly float16 values. This limits what
can be stored: a weight larger than `max_magnitude` has no finite scale. Steps under 2**-25 become
0, and the whole group becomes zeros.
"""

import re

from minimtp.errors import UserError
from minimtp.quant.grids.base import MASKS, Grid
from minimtp.quant.grids.codebook import NF4Grid, TernaryGrid
from minimtp.quant.grids.ggml import BlockGrid, F16Grid, Q4_0Grid, Q4_1Grid, Q8_0Grid
from minimtp.quant.grids.groups import GroupedGrid
from minimtp.quant.grids.superblocks import Q4_KGrid, Q6_KGrid
from minimtp.quant.grids.uniform import POLICIES, UniformGrid

__all__ = [
    "BLOCK_GRIDS", "F16", "GRIDS", "MASKS", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0",
    "BlockGrid", "Grid", "GroupedGrid", "NF4Grid", "TernaryGrid", "UniformGrid", "grid_named",
]  # fmt: skip

Q4_0, Q4_1, Q8_0, Q4_K, Q6_K = Q4_0Grid(), Q4_1Grid(), Q8_0Grid(), Q4_KGrid(), Q6_KGrid()
F16 = F16Grid()
# Grids whose matmuls the kernels compute in integers.
GRIDS: dict[str, Grid] = {grid.name: grid for grid in (Q4_0, Q8_0)}
# Grids with a block format of ggml.
BLOCK_GRIDS: dict[str, BlockGrid] = {grid.name: grid for grid in (Q4_0, Q4_1, Q8_0, Q4_K, Q6_K)}

_KIND = rf"int(?P<bits>\d)-(?P<policy>{'|'.join(POLICIES)})|nf4|ternary"
_GROUPED = re.compile(rf"(?P<kind>{_KIND})-(?P<over>tensor|channel|g[1-9]\d*)(?P<f32>-f32)?")


def grid_named(name: str) -> Grid:
    """Return the grid of that name. Equal names give equal grids. Raises UserError with the known
    names for another name.
    """
    if name in BLOCK_GRIDS:
        return BLOCK_GRIDS[name]
    if name == F16.name:
        return F16
    match = _GROUPED.fullmatch(name)
    if match is None:
        raise UserError(
            f"unknown grid {name!r}: use {', '.join(BLOCK_GRIDS)}, or {F16.name}, or one over any "
            "groups like "
            "int4-restricted-g32, nf4-g64 or ternary-tensor "
            f"(int with 2 to 8 bits and {', '.join(POLICIES)}; tensor, channel or g and columns)"
        )
    over = match["over"] if match["over"] in ("tensor", "channel") else int(match["over"][1:])
    scale_type = "float32" if match["f32"] else "float16"
    if match["bits"]:
        return UniformGrid(int(match["bits"]), match["policy"], over, scale_type)
    return {"nf4": NF4Grid, "ternary": TernaryGrid}[match["kind"]](over, scale_type)
