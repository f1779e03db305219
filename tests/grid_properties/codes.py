"""Codes and values: which code a weight gets, how far rounding moves it, and rounding again."""

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.quant.grids import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, BlockGrid, NF4Grid, UniformGrid
from tests.grid_properties.catalogue import (
    FLOAT32_ERROR,
    HALF_SUBNORMAL_FLOAT16,
    HALF_ULP_OF_FLOAT16,
    arrays_of,
    bits,
    given_that,
    grid_property,
    groups_of,
    is_normal,
    policy,
    searched,
)

EVENLY_SPACED = (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0)


def bits_of(grid):
    """Return the bits of a code of an evenly spaced grid."""
    return getattr(grid, "bits", None) or int(grid.name[1])


def exact_steps(grid, x):
    """Return the unrounded step of each weight's group, defined by its policy: float64 (N, K)."""
    steps = np.empty(x.shape)
    for group in groups_of(grid, x):
        piece = x[group].astype(np.float64)
        low, high, largest = piece.min(), piece.max(), np.abs(piece).max()
        span = {"min-max": high - low, "affine": max(high, 0) - min(low, 0)}.get(policy(grid))
        if span is not None:
            steps[group] = span / (grid.max_code - grid.min_code)
        else:
            b = bits_of(grid)
            parts = {
                "restricted": 2 ** (b - 1) - 1,
                "full-mid": (2**b - 1) / 2,
                "ggml-signed": 2 ** (b - 1),
            }
            steps[group] = largest / parts[policy(grid)]
    return steps


@grid_property()
def codes_are_integers_of_the_grid_and_scales_have_their_type(grid, x, rng):
    codes, scales = grid.encode(x)
    assert codes.dtype == np.int8 and codes.shape == x.shape
    assert grid.min_code <= codes.min() and codes.max() <= grid.max_code
    for numbers in arrays_of(scales):
        assert numbers.shape[:2] == grid.scales_shape(*x.shape)
        if numbers.dtype == np.float32:
            stored = numbers.astype(getattr(grid, "scale_type", "float16")).astype(np.float32)
            assert np.array_equal(stored, numbers) and np.isfinite(numbers).all()
        else:
            assert numbers.dtype in (np.int8, np.uint8)


@grid_property()
def fake_quantization_equals_decoding_the_codes_bit_for_bit_with_any_kernel(grid, x, rng):
    expected = grid.decode(*grid.encode(x))
    for kernel in ("plain", "auto"):
        kernels.use(kernel)
        try:
            assert bits(grid.fake_quantize(x)) == bits(expected), kernel
        finally:
            kernels.use("auto")


@grid_property()
def float64_weights_are_rounded_like_their_float32_values(grid, x, rng):
    precise = x.astype(np.float64)
    assert bits(grid.fake_quantize(precise)) == bits(grid.fake_quantize(x).astype(np.float64))
    assert bits(grid.encode(precise)[0]) == bits(grid.encode(x)[0])


@grid_property()
def float64_weights_within_float32_rounding_of_a_tie_are_rounded_like_the_tie(grid, x, rng):
    """A float64 number closer to a tie than half a float32 ulp becomes the tie itself in float32.
    So it must get the code of the tie.
    """
    codes, scales = grid.encode(x)
    lower = rng.integers(grid.min_code, grid.max_code, codes.shape, dtype=np.int8)
    with np.errstate(over="ignore"):
        levels = [
            grid.decode(code, scales).astype(np.float64) for code in (lower, lower + np.int8(1))
        ]
    between = sum(levels) / 2
    single = between.astype(np.float32)
    given_that(np.isfinite(single).all() and (np.abs(between) <= grid.max_magnitude).all())
    for nudge in (-1e-9, 1e-9):
        precise = single * (1 + np.float64(nudge))
        assert bits(grid.nearest(precise, scales)) == bits(grid.nearest(single, scales))
    with_extremes = np.where(np.abs(x) == np.abs(x).max(), x, single)
    given_that((np.abs(with_extremes) <= grid.max_magnitude / 2).all())
    precise = with_extremes * (1 + np.float64(1e-9))
    for found, expected in zip(grid.encode(precise), grid.encode(with_extremes), strict=True):
        assert all(
            bits(one) == bits(other)
            for one, other in zip(arrays_of(found), arrays_of(expected), strict=True)
        )
    for mask in ("round-clip", "clip-round"):
        found = grid.straight_through_mask(precise, mask)
        expected = grid.straight_through_mask(with_extremes, mask)
        assert found is expected is None or bits(found) == bits(expected)


@grid_property(about=lambda grid: isinstance(grid, UniformGrid) or grid in EVENLY_SPACED)
def rounding_moves_a_weight_by_at_most_half_a_step_or_one_opposite_a_signed_extreme(grid, x, rng):
    """Rounding of the stored numbers adds to this: the step's rounding error, times the number of
    codes between zero and the value, and the rounding error of a minimum.
    """
    step = exact_steps(grid, x)
    error = np.abs(grid.fake_quantize(x) - x.astype(np.float64))
    bits_of_code = bits_of(grid)
    reach = (
        2.0**bits_of_code if policy(grid) in ("affine", "min-max") else 2.0 ** (bits_of_code - 1)
    )
    slack = np.abs(x).max() * FLOAT32_ERROR + 2.0**-126 * reach
    if getattr(grid, "scale_type", "float16") == "float16":
        slack = slack + reach * np.maximum(
            step * HALF_ULP_OF_FLOAT16 * (1 + 1e-3), HALF_SUBNORMAL_FLOAT16
        )
    if policy(grid) == "min-max":
        slack = slack + np.maximum(np.abs(x).max() * HALF_ULP_OF_FLOAT16, HALF_SUBNORMAL_FLOAT16)
    opposite = np.zeros(x.shape, bool)
    if policy(grid) == "ggml-signed":
        opposite = ~grid.straight_through_mask(x, "round-clip")
    assert (error <= step * np.where(opposite, 1.0, 0.5) + slack).all()


@grid_property(about=lambda grid: isinstance(grid, NF4Grid))
def rounding_moves_a_weight_by_at_most_half_the_widest_gap_between_nf4_levels(grid, x, rng):
    largest = np.empty(x.shape)
    for group in groups_of(grid, x):
        largest[group] = np.abs(x[group]).max()
    error = np.abs(grid.fake_quantize(x) - x.astype(np.float64))
    half_a_gap = (1 - 0.6961928009986877) / 2
    scale_error = HALF_ULP_OF_FLOAT16 * 1.01 if grid.scale_type == "float16" else FLOAT32_ERROR
    assert (error <= largest * (half_a_gap + scale_error) + HALF_SUBNORMAL_FLOAT16).all()


@grid_property(about=lambda grid: not searched(grid))
def the_outermost_codes_are_used(grid, x, rng):
    """Levels would be unused if the scale assumed one range of codes and the clip another."""
    codes, scales = grid.encode(x)
    for group in groups_of(grid, x):
        piece = x[group]
        used = codes[group].astype(int)  # abs(-128) does not fit in int8
        if np.abs(piece).max() < 0.1 or (policy(grid) == "min-max" and np.ptp(piece) < 0.1):
            continue  # the scale is imprecise: it is a subnormal float16
        if policy(grid) in ("restricted", "ternary", "full-mid"):
            assert np.abs(used).max() >= grid.max_code
        elif policy(grid) == "ggml-signed":
            assert used.reshape(-1)[np.abs(piece).argmax()] == grid.min_code
        elif policy(grid) == "nf4":
            assert used.max() == 15 or used.min() == 0
        elif policy(grid) == "min-max":
            assert used.max() == grid.max_code and used.min() == 0
        else:  # rounding the zero point can leave one of the two unused, but not both
            assert used.max() == grid.max_code or used.min() == grid.min_code


@grid_property()
def nearest_chooses_the_nearest_level_of_the_given_scales(grid, x, rng):
    scales = grid.encode(x)[1]
    codes = grid.nearest(x, scales)
    assert codes.dtype == np.int8 and grid.min_code <= codes.min() and codes.max() <= grid.max_code
    error = np.abs(grid.decode(codes, scales) - x.astype(np.float64))
    for other in range(grid.min_code, grid.max_code + 1):
        other_error = np.abs(grid.decode(np.full_like(codes, other), scales) - x.astype(np.float64))
        ties = np.abs(x).max() * FLOAT32_ERROR
        steps_treated_as_zero = 2.0**-125 * 2**8
        assert (error <= other_error + ties + steps_treated_as_zero).all()


@grid_property(holds=lambda grid: not isinstance(grid, BlockGrid) or searched(grid))
def encoded_codes_are_the_nearest_for_the_stored_scales(grid, x, rng):
    """The other block formats choose codes with the step before it is rounded for storage."""
    codes, scales = grid.encode(x)
    assert np.array_equal(grid.decode(codes, scales), grid.decode(grid.nearest(x, scales), scales))


@grid_property()
def a_range_of_columns_gets_the_same_codes_alone_as_in_the_whole_matrix(grid, x, rng):
    first = int(rng.integers(x.shape[1]))
    last = int(rng.integers(first, x.shape[1])) + 1
    scales = grid.encode(x)[1]
    codes = grid.nearest(x, scales)
    part = grid.nearest(x[:, first:last], scales, first)
    assert np.array_equal(part, codes[:, first:last])
    assert bits(grid.decode(part, scales, first)) == bits(
        np.ascontiguousarray(grid.decode(codes, scales)[:, first:last])
    )


# ----------------------------------------------------------------------------------- rounding again


@grid_property()
def rounding_again_with_the_same_scales_changes_nothing(grid, x, rng):
    codes, scales = grid.encode(x)
    values = grid.decode(codes, scales)
    assert np.array_equal(grid.decode(grid.nearest(values, scales), scales), values)


@grid_property(holds=lambda grid: policy(grid) in ("restricted", "ggml-signed", "min-max", "nf4"))
def rounding_again_with_new_scales_changes_nothing(grid, x, rng):
    given_that(isinstance(grid, BlockGrid) or is_normal(grid.encode(x)[1], grid.scale_type))
    once = grid.fake_quantize(x)
    assert np.array_equal(grid.fake_quantize(once), once)
