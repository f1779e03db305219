r"""Exercises of lesson 7. Fill in the bodies, then run:

pytest --mine tests/kernels/rounding/test_encode_q8_0.py \
    tests/quant/test_bit_packing.py \
    tests/quant/ptq/test_gptq.py
"""

from minimtp.backend import Array, array_module  # noqa: F401  (array_module returns numpy or cupy)
from minimtp.backend import numpy as np  # noqa: F401  (for your functions)
from minimtp.kernels.ggml.blocks import as_stored, groups_float32, reciprocal  # noqa: F401
from minimtp.quant.bit_packing import _check_codes, packed_size  # noqa: F401
from minimtp.quant.grids import Grid
from minimtp.quant.grids.base import Scales
from minimtp.quant.grids.scales import put_group  # noqa: F401  (overwrites one group's scales)
from minimtp.quant.ptq.gptq import GROUPS_AT_ONCE, _inverse_factor  # noqa: F401


def encode_q8_0(x):
    """x (N, K), K a multiple of 32 -> codes int8 (N, K) in -127..127, scales float32 (N, K/32).

    Each scale equals a float16.
    """
    raise NotImplementedError(
        "lesson 7: d = max|x| / 127 of each group; round x * reciprocal(d), halves away from zero"
    )


def pack_bits(codes: Array, bits: int) -> Array:
    """Unsigned codes uint8 (..., n) of 1..8 bits -> bytes uint8 (..., ceil(n * bits / 8)).

    Raises ValueError if a code is too large.
    """
    raise NotImplementedError(
        "lesson 7: write the bits of each code after the bits of the code before it"
    )


def gptq(
    grid: Grid,
    weight: Array,
    second_moment: Array,
    name: str = "the array",
    *,
    beforehand: tuple[Array, Scales] | None = None,
    largest_first: bool = False,
    groups_at_once: int = GROUPS_AT_ONCE,
) -> tuple[Array, Scales]:
    """weight (N, K), second_moment E[x xᵀ] (K, K) -> codes and scales, as from `grid.encode`.

    beforehand: codes and scales of the original weight. The scales are kept. With `largest_first`,
    the default is `grid.encode(weight)`.
    largest_first: take the columns in the order of decreasing E[x_j²].
    name: the name of the weight in error messages.
    Raises the errors of `grid.encode`, and UserError if `second_moment` is not finite.
    """
    raise NotImplementedError(
        "lesson 7: round one column, and change the later columns to compensate for its error"
    )
