"""Q4_0 and Q4_1 as ggml encodes them if the importance of each column is known.

`importance` is one number per column, the mean square of its inputs. Instead of deriving a group's
scale from its extremes, ggml then searches for the scale with the smallest error
(`scale_search.py`). An error in weight x counts

    importance * sqrt(mean square of the row + x**2)

The codes come from the search, before the scale is rounded to float16. Source:
`quantize_row_q4_0_impl` and `quantize_row_q4_1_impl` of ggml. The formats are defined in
`blocks.py`.
"""

from minimtp.backend import array_module, numpy
from minimtp.kernels.ggml.blocks import GROUP_SIZE, as_stored
from minimtp.kernels.ggml.scale_search import in_order, search_affine, search_signed


def encode_q4_0_by_importance(x, importance):
    """`blocks.encode_q4_0` with searched scales: x (N, K), importance float32 (K,) -> the same
    shapes.
    """
    with numpy.errstate(all="ignore"):  # groups of zeros divide by zero; the search handles them
        codes, scale = search_signed(*weighted_groups(x, importance), 8)
    return codes.T.astype("int8").reshape(x.shape), as_stored(scale.reshape(x.shape[0], -1, 1))


def encode_q4_1_by_importance(x, importance):
    """`blocks.encode_q4_1` with searched scales: x (N, K), importance float32 (K,) -> the same
    shapes.
    """
    with numpy.errstate(all="ignore"):
        codes, scale, depth = search_affine(
            *weighted_groups(x, importance), 15, -0.9, 0.05, 36, guarded=True
        )
    shape = x.shape[0], -1, 1
    return (
        codes.T.astype("int8").reshape(x.shape),
        as_stored(scale.reshape(shape)),
        as_stored(-depth.reshape(shape)),
    )


def weighted_groups(x, importance):
    """x (N, K), importance (K,) -> groups and the weights of their errors, float32 (32, N * K/32)
    each.
    """
    xp = array_module(x)
    x = x.astype(xp.float32, copy=False)
    square = in_order((x * x).T) / xp.float32(x.shape[1])  # (N,)
    weights = importance * xp.sqrt(square[:, None] + x * x)
    return [xp.ascontiguousarray(a.reshape(-1, GROUP_SIZE).T) for a in (x, weights)]
