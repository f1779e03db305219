"""Rounding to levels with given steps, and the gradients of steps that are learned, in plain array
code.

The levels of a group are equally spaced:

    level = (code - zero) * step + minimum        min_code <= code <= max_code

`minimtp.quant.qat.learned` derives the gradients. The grids (`minimtp.quant.grids`) choose the
steps of their own rules from the largest or from the smallest and the largest weight of a group.

Every operation on a weight is float32 arithmetic, even for float64 weights. In another precision,
training would see other values than the exported ones.
"""

from minimtp.backend import Array, array_module, numpy

MIN_STEP = 2.0**-126  # the smallest normal float32 number


def signed_extremes(groups: Array) -> Array:
    """groups (..., n) -> the first element of largest magnitude of each group, with its sign (...).

    A NaN counts as larger than infinity.
    """
    xp = array_module(groups)
    first = xp.argmax(xp.abs(groups), axis=-1)[..., None]
    return xp.take_along_axis(groups, first, axis=-1)[..., 0]


def ranges(groups: Array) -> Array:
    """groups (..., n) -> the smallest and the largest element of each group, (..., 2).

    At least one of them is NaN if an element is.
    """
    xp = array_module(groups)
    return xp.stack([groups.min(axis=-1), groups.max(axis=-1)], axis=-1)


def float16_values(x: Array) -> Array:
    """Numbers of any shape -> the nearest float16 numbers, as float32."""
    return x.astype("float16").astype("float32")


def fake_quantize_with_steps(
    w: Array,
    steps: Array,
    group_size: int,
    min_code: int,
    max_code: int,
    zeros: Array | None = None,
    minima: Array | None = None,
) -> Array:
    """Return the levels nearest to w (N, K): (N, K) in w's dtype.

    steps: float32 (N, groups), signed; K / group_size groups, the last of which may be shorter.
    zeros: float32 (N, groups), whole numbers; None: 0. minima: float32 (N, groups); None: 0. Ties
    go to the even distance from the zero. Groups whose step is smaller than a normal float32 number
    get the level of the code `zero`.
    """
    xp = array_module(w)
    step = _per_weight(steps, group_size, w.shape[1])  # (N, K)
    divisor = xp.where(xp.abs(step) >= xp.float32(MIN_STEP), step, xp.float32("inf"))
    exact = w.astype(xp.float32, copy=False)
    if minima is not None:
        minimum = _per_weight(minima, group_size, w.shape[1])
        exact = exact - minimum
    with numpy.errstate(over="ignore"):  # the code of an infinite quotient is the outermost one
        distance = xp.rint(exact / divisor)
    low, high = xp.float32(min_code), xp.float32(max_code)
    if zeros is not None:
        zero = _per_weight(zeros, group_size, w.shape[1])
        low, high = low - zero, high - zero
    distance = xp.clip(distance, low, high) + xp.float32(0)  # no negative zeros
    level = distance * step
    if minima is not None:
        level = level + minimum
    return level.astype(w.dtype, copy=False)


def learned_step_gradients(
    grad: Array,
    w: Array,
    levels: Array,
    first: Array,
    last: Array,
    group_size: int,
    minima: Array | None = None,
    bound: bool = False,
) -> tuple[Array, Array]:
    """Return the gradient of the weights (N, K), and that of the logarithms of the steps (N,
    groups).

    A weight is inside if it lies between the outermost levels of its group, inclusive. Its gradient
    is that of its level inside and 0 outside. The gradient of a step is the sum over its group of

        grad * (level - w)          inside; 0 with `bound`
        grad * (level - minimum)    outside

    grad (N, K): the gradient of the levels (N, K) of w (N, K). first, last: float32 (N, groups),
    the outermost levels, in either order. minima: float32 (N, groups); None: 0.
    """
    xp = array_module(w)
    rows, columns = w.shape
    low = _per_weight(xp.minimum(first, last), group_size, columns)  # (N, K)
    high = _per_weight(xp.maximum(first, last), group_size, columns)
    exact = w.astype(xp.float32, copy=False)  # as in the forward pass
    inside = (exact >= low) & (exact <= high)
    zero = grad.dtype.type(0)
    fixed = levels if bound else w
    outside = zero if minima is None else _per_weight(minima, group_size, columns)
    slope = levels - xp.where(inside, fixed, outside)
    groups = -(-columns // group_size)
    terms = xp.zeros((rows, groups * group_size), slope.dtype)
    terms[:, :columns] = grad * slope
    totals = terms.reshape(rows, groups, group_size).sum(axis=-1)
    return xp.where(inside, grad, zero), totals


def _per_weight(groups: Array, group_size: int, columns: int) -> Array:
    """(N, groups) -> (N, columns)."""
    return array_module(groups).repeat(groups, group_size, axis=1)[:, :columns]
