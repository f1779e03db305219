"""ggml's K-quants as grids: groups in super-blocks of 256 weights, which share the scale of their
scales.

    name   block  bits     value                               scales
    q4_k   256    4.5      code * d scale - dmin depth         Q4_KScales
    q6_k   256    6.5625   code * d scale                      Q6_KScales

The arithmetic, with its sources, is in `kernels/ggml/superblocks.py`.
"""

from typing import NamedTuple

from minimtp.backend import MAX_FLOAT16, Array
from minimtp.kernels.ggml import superblocks
from minimtp.quant.grids.ggml import SteppedGrid


class Q4_KScales(NamedTuple):
    """step, depth_step: float32 (N, K/256), the float16 numbers d and dmin. scales, depths: uint8
    (N, K/256, 8), 0..63.
    """

    step: Array
    depth_step: Array
    scales: Array
    depths: Array


class Q6_KScales(NamedTuple):
    """step: float32 (N, K/256), the float16 number d. scales: int8 (N, K/256, 16)."""

    step: Array
    scales: Array


class Q4_KGrid(SteppedGrid):
    """ggml's Q4_K: groups of 32 with a 6-bit scale and a 6-bit depth, searched for the smallest
    error.
    """

    name = "q4_k"
    group_size = superblocks.SUPER_SIZE
    columns_per_step = superblocks.Q4_K_GROUP
    min_code, max_code = 0, 15
    block_bytes = superblocks.Q4_K_BLOCK_BYTES
    float16_at = (0, 2)
    max_magnitude = 32 * MAX_FLOAT16  # 63 for the extreme, but a fitted minimum may lie beyond it

    def pack(self, codes: Array, scales: Q4_KScales) -> Array:
        return superblocks.pack_q4_k(codes, *scales)

    def unpack(self, packed: Array) -> tuple[Array, Q4_KScales]:
        codes, *scales = superblocks.unpack_q4_k(packed)
        return codes, Q4_KScales(*scales)

    def _encode(self, x: Array) -> tuple[Array, Q4_KScales]:
        codes, *scales = superblocks.encode_q4_k(x)
        return codes, Q4_KScales(*scales)

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Q4_KScales]:
        codes, *scales = superblocks.encode_q4_k(x, importance)
        return codes, Q4_KScales(*scales)

    def _steps(self, scales: Q4_KScales) -> tuple[Array, Array]:
        rows = len(scales.step)
        steps = scales.step[..., None] * scales.scales.astype("float32")
        offsets = -(scales.depth_step[..., None] * scales.depths.astype("float32"))
        return steps.reshape(rows, -1), offsets.reshape(rows, -1)


class Q6_KGrid(SteppedGrid):
    """ggml's Q6_K: groups of 16 with a signed 8-bit scale, searched for the smallest error."""

    name = "q6_k"
    group_size = superblocks.SUPER_SIZE
    columns_per_step = superblocks.Q6_K_GROUP
    min_code, max_code = -32, 31
    block_bytes = superblocks.Q6_K_BLOCK_BYTES
    float16_at = (208,)
    max_magnitude = 2048 * MAX_FLOAT16  # 4096 for the extreme, but a fitted scale may be larger

    def pack(self, codes: Array, scales: Q6_KScales) -> Array:
        return superblocks.pack_q6_k(codes, *scales)

    def unpack(self, packed: Array) -> tuple[Array, Q6_KScales]:
        codes, *scales = superblocks.unpack_q6_k(packed)
        return codes, Q6_KScales(*scales)

    def _encode(self, x: Array) -> tuple[Array, Q6_KScales]:
        codes, *scales = superblocks.encode_q6_k(x)
        return codes, Q6_KScales(*scales)

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Q6_KScales]:
        codes, *scales = superblocks.encode_q6_k(x, importance)
        return codes, Q6_KScales(*scales)

    def _steps(self, scales: Q6_KScales) -> tuple[Array, None]:
        steps = scales.step[..., None] * scales.scales.astype("float32")  # (N, K/256, 16)
        return steps.reshape(len(scales.step), -1), None
