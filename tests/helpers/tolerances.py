"""How far apart two computations of the same result may be: one table for all tests that compare
kernels, devices or precisions.

Most comparisons need no tolerance. Rounded, packed, chosen and drafted values have the same bits,
and so do rows computed alone or together. Tests compare those bits. Tolerances are for sums in
another order and for functions that differ in the last bit. Each is listed here with its reason.

A number is within a tolerance if its error is at most absolute + relative * scale. By default the
scale is the magnitude of the expected number. A test may give another scale: the largest magnitude
in the result, or in the terms whose sum the result is.
"""

from typing import NamedTuple

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy

UNIT = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
ROUNDING = UNIT["float32"]  # the maximum relative error of a rounded number


class Tolerance(NamedTuple):
    relative: float
    reason: str
    absolute: float = 0.0


# A kernel in float32 against the plain version in float64, relative to the largest magnitude in the
# result or in the terms whose difference it is (`terms` in tests/kernels/samples.py).
KERNELS = {
    "rms_norm": Tolerance(8 * ROUNDING, "a sum of squares, a root, two products"),
    "rms_norm_backward": Tolerance(32 * ROUNDING, "sums over rows and columns"),
    "swiglu": Tolerance(8 * ROUNDING, "an exponential (2 roundings), a quotient, two products"),
    "swiglu_backward": Tolerance(16 * ROUNDING, "as swiglu, and a difference of terms"),
    "gated_update": Tolerance(8 * ROUNDING, "as swiglu"),
    "gated_update_backward": Tolerance(16 * ROUNDING, "as swiglu_backward"),
    "rotate": Tolerance(4 * ROUNDING, "two products and a sum"),
    "causal_softmax": Tolerance(
        32 * ROUNDING, "the exponent's absolute rounding (scores up to 16) is the relative error"
    ),
    "causal_softmax_backward": Tolerance(16 * ROUNDING, "a sum over a row, two products"),
    "cross_entropy": Tolerance(
        8 * ROUNDING, "a sum of exponentials, a logarithm, a difference of logits"
    ),
    "cross_entropy_backward": Tolerance(
        64 * ROUNDING, "exp(logit - log_sum_exp): as in the softmax"
    ),
    "mixed_cross_entropy": Tolerance(
        64 * ROUNDING, "as cross_entropy, and an expectation of differences of logarithms"
    ),
    "embedding_backward": Tolerance(8 * ROUNDING, "several gradients added into one row"),
    "adamw": Tolerance(8 * ROUNDING, "a dozen operations on numbers that are not far apart"),
    "cached_attention": Tolerance(64 * ROUNDING, "a softmax, and the sum of the values by it"),
}

COMPARISONS = {
    # A kernel in float32 against a formula.
    "exp": Tolerance(2 * ROUNDING, "a polynomial made for it"),
    "rows of a softmax": Tolerance(0.0, "37 rounded shares add up to 1", absolute=40 * ROUNDING),
    "huge logits": Tolerance(0.0, "the last bit of 300", absolute=1e-4),
    "large gates": Tolerance(
        8 * ROUNDING, "an exponential that ends a little above 0", absolute=1e-30
    ),
    "rotated": Tolerance(
        0.0, "two products and a sum of numbers below ten, and back", absolute=1e-5
    ),
    "attention": Tolerance(0.0, "scores of 12 products, sums of at most 14 values", absolute=1e-5),
    "five steps of adamw": Tolerance(
        0.0, "parameters below ten are rounded five times", absolute=2e-6
    ),
    "derivative, float64": Tolerance(5e-7, "a difference quotient", absolute=5e-7),
    "product": Tolerance(
        ROUNDING, "one rounding for each term, relative to the sum of their magnitudes"
    ),
    "product by NumPy": Tolerance(
        0.0, "a sum of at most 300 products, rounded on both sides", absolute=1e-4
    ),
    "block": Tolerance(
        0.0,
        "four products, attention and two norms, of weights as large as the inputs",
        absolute=1e-3,
    ),
    "largest probability": Tolerance(
        ROUNDING, "each exponential added; relative to itself, times their number and 8"
    ),
    "largest probability, compiled": Tolerance(
        64 * ROUNDING, "the same logits, another exponential"
    ),
    "largest probability, float64": Tolerance(1e-5, "50 exponentials and their sum"),
    # A device against the host, relative to the largest magnitude in the result, or to 1.
    "operation, float64": Tolerance(1e-12, "sums of at most a few dozen terms in another order"),
    "loss, float32": Tolerance(
        2e-5, "a few layers with another order of addition in every product; errors of steps add up"
    ),
    "loss through rounding, float32": Tolerance(
        2e-4,
        "a weight close to the middle of two levels may round to either: 5e-5 was seen for one",
    ),
    "logits, float32": Tolerance(5e-4, "as for a loss, for the worst of many numbers"),
    "bits per byte, float32": Tolerance(1e-3, "as for a loss, after four steps of training"),
    "quantization, float32": Tolerance(
        1e-6, "sums over a group or a matrix in another order", absolute=1e-7
    ),
    # Training in lower precision against float32: losses in nats over six steps.
    **{
        f"loss, {precision}": Tolerance(
            0.0,
            "the rounding error of an operand, once per step and once for the first rounded "
            "weights; seen: 3.1 of them with QAT, where a weight may round to the other level, "
            "0.1 without heads",
            absolute=7 * UNIT[precision],
        )
        for precision in ("tf32", "bfloat16", "float16")
    },
}


def allowed(tolerance: Tolerance, scale: object) -> object:
    """Return the maximum error of a number of this scale."""
    return tolerance.absolute + tolerance.relative * scale


def matmul_bound(precision: str, terms: int, magnitude: object) -> object:
    """Return the maximum error of a matmul in lower precision.

    Both operands are rounded, and their products are added in float32.

    terms: number of products per sum.
    magnitude: the matmul of the absolute values of the operands.
    """
    unit = UNIT[precision]
    relative = Tolerance(
        2 * unit + unit**2 + terms * ROUNDING,
        "two rounded operands, and one rounding per term of the sum",
        absolute=2.0**-22,
    )
    return allowed(relative, magnitude)


def assert_close(
    found: object, expected: object, tolerance: Tolerance, scale: object = None
) -> None:
    """Check that every number of `found` is within the tolerance of `expected`. A NaN never is.

    found: an array of any device.
    """
    found, expected = to_numpy(found), np.asarray(expected)
    assert found.shape == expected.shape
    apart = np.abs(found - expected)
    limit = allowed(tolerance, np.abs(expected) if scale is None else scale)
    assert (apart <= limit).all(), (
        f"off by {apart.max()}, allowed are {np.max(limit)}: {tolerance.reason}"
    )
