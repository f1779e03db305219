"""How ggml searches for scales. It tries twenty to forty scales per group and keeps the one with
the smallest weighted squared error.

The scale that follows from the extreme weight is only a guess. A slightly smaller or larger one
often rounds the other weights better. Each search below starts from that guess and rounds with
scales around it. For every rounding it computes the best scale for those codes in closed form
(weighted least squares). With codes l, error weights w and sums over the group:

    signed      x ~ s l                s = sum(w x l) / sum(w l l)
                                       error = sum(w x x) - sum(w x l)**2 / sum(w l l)
    affine      x ~ s l + m, m <= 0    the two normal equations of (s, m), or m = 0 if m > 0
    positive    as signed, for numbers >= 0, refined code by code; for the scales of scales

Everything is float32 in a fixed order, because ties and last bits decide which trial wins, and
therefore the stored bytes. Sums run over the group from its first element to its last. Products are
multiplied from the left. The arrays have the group along the first axis, (n, M) for M groups of n,
so that such a sum is n additions of whole rows.

Source: `make_qx_quants`, `make_qkx2_quants`, `make_qkx3_quants` and `make_qp_quants` of ggml, built
without contraction of a*b+c. Tests compare with bytes that ggml wrote. As in ggml, the comparisons
of `search_signed` hold sixth powers of weights, if the error weights are squares: they overflow
float32 from |x| = 2**18.3 on, and the first trial wins.
"""

from minimtp.backend import array_module, numpy

TOO_SMALL = numpy.float32(1e-15)  # groups whose largest magnitude is below this are stored as zeros
# 1.5 * 2**23: after it is added to a number, the low bits hold the nearest integer.
MAGIC = numpy.float32(12582912)


def nearest_integer(x):
    """Round float32 to int32, halves to even, for |x| < 2**22.

    For larger numbers, infinities and NaN, return the low 23 bits of x + 1.5 * 2**23 as an integer,
    as ggml does. This happens for groups of subnormal numbers, whose scale has no finite
    reciprocal.
    """
    xp = array_module(x)
    return ((x + MAGIC).view(xp.int32) & 0x7FFFFF) - 0x400000


def in_order(terms):
    """(n, M) -> (M,): the sum from first to last, an order that `sum` does not guarantee."""
    total = terms[0].copy()
    for term in terms[1:]:
        total += term
    return total


def search_signed(x, weights, largest):
    """Return codes -largest..largest-1 and a scale, possibly negative, for groups of numbers of
    either sign.

    x, weights: float32 (n, M) -> codes int32 (n, M), scale float32 (M,). Groups of zeros get the
    lowest code and scale 0.
    """
    xp = array_module(x)
    extreme = xp.take_along_axis(x, xp.argmax(xp.abs(x), axis=0)[None], axis=0)[0]  # (M,)
    wx = weights * x

    def trial(inverse):
        codes = xp.clip(nearest_integer(inverse * x), -largest, largest - 1)
        levels = codes.astype(xp.float32)
        return codes, in_order(wx * levels), in_order(weights * levels * levels)

    codes, sum_lx, sum_l2 = trial(xp.float32(-largest) / extreme)
    scale = xp.where(sum_l2 != 0, sum_lx / sum_l2, xp.float32(0))
    best = scale * sum_lx
    for i in (*range(-9, 0), *range(1, 10)):
        other, sum_lx, sum_l2 = trial(
            -(xp.float32(largest) + xp.float32(0.1) * xp.float32(i)) / extreme
        )
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        codes = xp.where(better, other, codes)
        scale = xp.where(better, sum_lx / sum_l2, scale)
        best = xp.where(better, scale * sum_lx, best)
    empty = xp.abs(extreme) < TOO_SMALL
    return xp.where(empty, -largest, codes), xp.where(empty, xp.float32(0), scale)


def search_affine(x, weights, largest, start, step, trials, guarded):
    """Return codes 0..largest, a scale, and the distance of the lowest level below zero, for x ~
    scale * code - depth, depth >= 0.

    x, weights: float32 (n, M) -> codes int32 (n, M), scale and depth float32 (M,). Trial i of
    0..trials rounds with (largest + start + step * i) / (max - min). guarded: round numbers that
    are out of range to the nearest code. Without it they wrap around, see `nearest_integer`.
    """
    xp = array_module(x)
    wx = weights * x
    low, high = xp.minimum(x.min(axis=0), xp.float32(0)), x.max(axis=0)
    constant = high == low
    depth_of_constant = -low
    sum_w, sum_x = in_order(weights), in_order(wx)

    def error(scale, codes, low):
        difference = scale * codes.astype(xp.float32) + low - x
        return in_order(weights * (difference * difference))

    inverse = xp.float32(largest) / (high - low)
    scale = xp.float32(1) / inverse
    codes = xp.clip(nearest_integer(inverse * (x - low)), 0, largest)
    min_error = error(scale, codes, low)
    for i in range(trials + 1):
        inverse = (xp.float32(start) + xp.float32(step) * xp.float32(i) + xp.float32(largest)) / (
            high - low
        )
        scaled = inverse * (x - low)
        if guarded:
            other = nearest_integer(
                xp.where(scaled > 0, xp.minimum(scaled, xp.float32(largest)), xp.float32(0))
            )
        else:
            other = xp.clip(nearest_integer(scaled), 0, largest)
        levels = other.astype(xp.float32)
        weighted = weights * levels
        sum_l = in_order(weighted)
        sum_l2 = in_order(weighted * levels)
        sum_xl = in_order(weighted * x)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        other_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        other_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = other_low > 0
        other_low = xp.where(above, xp.float32(0), other_low)
        other_scale = xp.where(above, sum_xl / sum_l2, other_scale)
        other_error = error(other_scale, other, other_low)
        better = (determinant > 0) & (other_error < min_error)
        codes = xp.where(better, other, codes)
        scale = xp.where(better, other_scale, scale)
        low = xp.where(better, other_low, low)
        min_error = xp.where(better, other_error, min_error)
    return (
        xp.where(constant, 0, codes),
        xp.where(constant, xp.float32(0), scale),
        xp.where(constant, depth_of_constant, -low),
    )


def search_positive(x, weights, largest):
    """Codes 0..largest and a scale for groups of numbers >= 0.

    x, weights: float32 (n, M) -> codes int32 (n, M), scale float32 (M,).
    """
    xp = array_module(x)
    highest = xp.maximum(x.max(axis=0), xp.float32(0))

    def error(codes, scale):
        difference = x - scale * codes.astype(xp.float32)
        return in_order(weights * difference * difference)

    inverse = xp.float32(largest) / highest
    min_error = error(nearest_integer(inverse * x), xp.float32(1) / inverse)
    for i in (*range(-4, 0), *range(1, 5)):
        other = (xp.float32(0.1) * xp.float32(i) + xp.float32(largest)) / highest
        other_error = error(xp.minimum(nearest_integer(other * x), largest), xp.float32(1) / other)
        better = other_error < min_error
        min_error = xp.where(better, other_error, min_error)
        inverse = xp.where(better, other, inverse)
    codes = xp.minimum(nearest_integer(inverse * x), largest)
    levels = codes.astype(xp.float32)
    sum_lx, sum_l2 = in_order(weights * x * levels), in_order(weights * levels * levels)
    for _ in range(5):
        for i in range(len(x)):
            wx = weights[i] * x[i]
            lx, l2 = sum_lx - wx * levels[i], sum_l2 - weights[i] * levels[i] * levels[i]
            other = xp.minimum(nearest_integer(x[i] * l2 / lx), largest)
            level = other.astype(xp.float32)
            new_lx, new_l2 = lx + wx * level, l2 + weights[i] * level * level
            better = (
                (lx > 0)
                & (l2 > 0)
                & (other != codes[i])
                & (new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2)
            )
            codes[i] = xp.where(better, other, codes[i])
            levels[i] = xp.where(better, level, levels[i])
            sum_lx, sum_l2 = xp.where(better, new_lx, sum_lx), xp.where(better, new_l2, sum_l2)
    scale = xp.where(sum_l2 > 0, sum_lx / sum_l2, xp.float32(0))
    empty = highest < TOO_SMALL
    return xp.where(empty, 0, codes), xp.where(empty, xp.float32(0), scale)
