"""ggml's Q5_0 and Q5_1 as grids: Q4_0 and Q4_1 with 32 levels instead of 16.

    name   block  bits     value         scales
    q5_0   32     5.5      code * d      d (N, K/32)
    q5_1   32     6.0      code * d + m  Q4_1Scales(step, minimum)

They suit a token table whose rows are not multiples of 256, the block of Q6_K. The arithmetic is in
`kernels/ggml/five_bits.py`.
"""

from types import ModuleType

from minimtp.backend import MAX_FLOAT16, Array
from minimtp.kernels.ggml import five_bits
from minimtp.kernels.plain.packed_linear import PreparedMatrix
from minimtp.quant.grids.ggml import Q4_0Grid, Q4_1Grid, Q4_1Scales, SteppedGrid


class Q5_0Grid(Q4_0Grid):
    """ggml's Q5_0: 32 levels. The lowest is the group's element of largest magnitude, with its
    sign.
    """

    name = "q5_0"
    min_code, max_code = -16, 15
    block_bytes = five_bits.Q5_0_BLOCK_BYTES
    max_magnitude = 16 * MAX_FLOAT16

    def prepare(self, packed: Array, kernel: ModuleType) -> PreparedMatrix:
        return kernel.prepare_q5_0(packed)

    def pack(self, codes: Array, scales: Array) -> Array:
        return five_bits.pack_q5_0(codes, scales)

    def unpack(self, packed: Array) -> tuple[Array, Array]:
        return five_bits.unpack_q5_0(packed)

    def _encode(self, x: Array) -> tuple[Array, Array]:
        return five_bits.encode_q5_0(x)

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Array]:
        return five_bits.encode_q5_0_by_importance(x, importance)

    def _levels(self, x: Array) -> tuple[Array, Array]:
        return five_bits.levels_q5_0(x)

    def _fake_quantize(self, x: Array) -> Array:
        return SteppedGrid._fake_quantize(self, x)


class Q5_1Grid(Q4_1Grid):
    """ggml's Q5_1: 32 levels from the group's smallest to its largest weight. Zero need not be a
    level.
    """

    name = "q5_1"
    min_code, max_code = 0, 31
    block_bytes = five_bits.Q5_1_BLOCK_BYTES

    def prepare(self, packed: Array, kernel: ModuleType) -> PreparedMatrix:
        return kernel.prepare_q5_1(packed)

    def pack(self, codes: Array, scales: Q4_1Scales) -> Array:
        return five_bits.pack_q5_1(codes, *scales)

    def unpack(self, packed: Array) -> tuple[Array, Q4_1Scales]:
        codes, *scales = five_bits.unpack_q5_1(packed)
        return codes, Q4_1Scales(*scales)

    def _encode(self, x: Array) -> tuple[Array, Q4_1Scales]:
        codes, *scales = five_bits.encode_q5_1(x)
        return codes, Q4_1Scales(*scales)

    def _encode_by_importance(self, x: Array, importance: Array) -> tuple[Array, Q4_1Scales]:
        codes, *scales = five_bits.encode_q5_1_by_importance(x, importance)
        return codes, Q4_1Scales(*scales)
