"""The catalogue of grid properties: what is true of which grids.

A property is a function of a grid, weights that the grid accepts, and a random generator. It raises
AssertionError if the grid breaks it, and `given_that` skips weights that it does not apply to.
`@grid_property(holds=..., about=...)` states for which grids it is true. It is false for the other
grids that it is about, and `examples` contains a counter-example. So the catalogue can test any
object with a grid's methods: the library's grids, a wrong one (`tests/mutants`), or your own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant import packing
from minimtp.quant.grids import (
    Q4_0,
    Q4_1,
    Q4_K,
    Q6_K,
    Q8_0,
    BlockGrid,
    NF4Grid,
    UniformGrid,
    grid_named,
)

HALF_ULP_OF_FLOAT16 = 2.0**-11  # relative, of normal numbers
HALF_SUBNORMAL_FLOAT16 = 2.0**-25  # absolute
SMALLEST_NORMAL_FLOAT16 = 2.0**-14
OF_FLOAT32 = 8 * 2.0**-24  # a handful of operations, half an ulp each

NAMES = [
    "q4_0", "q4_1", "q8_0", "q4_k", "q6_k", "nf4-g16", "nf4-channel-f32", "ternary-tensor", "ternary-g8",
    "int4-restricted-g32", "int4-full-mid-g32", "int4-ggml-signed-g32", "int4-affine-g32", "int8-affine-channel",
    "int8-restricted-tensor-f32", "int2-ggml-signed-g8-f32", "int3-affine-g30-f32", "int2-restricted-g5",
]  # fmt: skip


@dataclass(frozen=True)
class GridProperty:
    """A check, the grids that satisfy it, and the grids that it is about."""

    check: Callable  # (grid, x, random)
    holds: Callable[[object], bool]
    about: Callable[[object], bool]

    @property
    def name(self) -> str:
        return self.check.__name__


PROPERTIES: list[GridProperty] = []


def grid_property(holds=lambda grid: True, about=lambda grid: True):
    def add(function):
        PROPERTIES.append(GridProperty(function, holds, about))
        return function

    return add


class NotApplicable(Exception):
    """The property does not apply to these weights."""


def given_that(condition):
    if not condition:
        raise NotApplicable


def policy(grid):
    """The rule that a grid's scale follows."""
    fixed = {
        "q4_0": "ggml-signed",
        "q8_0": "restricted",
        "q4_1": "min-max",
        "q4_k": "searched",
        "q6_k": "searched",
    }
    return fixed.get(grid.name) or getattr(
        grid, "policy", grid.kind if not isinstance(grid, UniformGrid) else ""
    )


def searched(grid):
    return policy(grid) == "searched"


# ------------------------------------------------------------------------------ what properties use


def arrays_of(scales):
    return list(scales) if isinstance(scales, tuple) else [scales]


def bits(array):
    return array.dtype, array.shape, array.tobytes()


def columns_per_scale(grid, x):
    return getattr(grid, "columns_per_step", None) or grid.group_size or x.shape[1]


def groups_of(grid, x):
    """Index pairs (rows, columns) of the pieces of x that share a scale."""
    if getattr(grid, "granularity", "") == "tensor":
        return [(slice(None), slice(None))]
    size = columns_per_scale(grid, x)
    return [
        (slice(i, i + 1), slice(j, j + size))
        for i in range(len(x))
        for j in range(0, x.shape[1], size)
    ]


def alone(grid, x):
    """Index pairs of the pieces of x that are rounded without looking at anything else."""
    if getattr(grid, "granularity", "") == "tensor":
        return [(slice(None), slice(None))]
    size = grid.group_size or x.shape[1]
    return [
        (slice(i, i + 1), slice(j, j + size))
        for i in range(len(x))
        for j in range(0, x.shape[1], size)
    ]


def exact_steps(grid, x):
    """The step of each weight's group as the policy defines it, in float64 and not rounded: (N, K)."""
    steps = np.empty(x.shape)
    for group in groups_of(grid, x):
        piece = x[group].astype(np.float64)
        low, high, largest = piece.min(), piece.max(), np.abs(piece).max()
        span = {"min-max": high - low, "affine": max(high, 0) - min(low, 0)}.get(policy(grid))
        if span is not None:
            steps[group] = span / (grid.max_code - grid.min_code)
        else:
            b = getattr(grid, "bits", None) or {"q4_0": 4, "q8_0": 8}[grid.name]
            parts = {
                "restricted": 2 ** (b - 1) - 1,
                "full-mid": (2**b - 1) / 2,
                "ggml-signed": 2 ** (b - 1),
            }
            steps[group] = largest / parts[policy(grid)]
    return steps


def is_normal(scales, scale_type):
    """Whether no number among the scales is so small that it has fewer bits than others."""
    smallest = SMALLEST_NORMAL_FLOAT16 if scale_type == "float16" else 2.0**-100
    return all(
        (np.abs(a[a != 0]) >= smallest).all() for a in arrays_of(scales) if a.dtype == np.float32
    )


def opposite_extremes(x):
    """Whether the first extreme has an equal of the other sign."""
    return (np.abs(x).max() == x.max()) and (np.abs(x).max() == -x.min()) and x.any()


# ---------------------------------------------------------------------------- codes, scales, values


@grid_property()
def codes_are_integers_of_the_grid_and_scales_have_their_type(grid, x, random):
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
def fake_quantization_equals_decoding_the_codes_bit_for_bit_with_any_kernel(grid, x, random):
    expected = grid.decode(*grid.encode(x))
    for kernel in ("plain", "auto"):
        kernels.use(kernel)
        try:
            assert bits(grid.fake_quantize(x)) == bits(expected), kernel
        finally:
            kernels.use("auto")


@grid_property()
def float64_weights_are_rounded_like_their_float32_values(grid, x, random):
    precise = x.astype(np.float64)
    assert bits(grid.fake_quantize(precise)) == bits(grid.fake_quantize(x).astype(np.float64))
    assert bits(grid.encode(precise)[0]) == bits(grid.encode(x)[0])


@grid_property()
def float64_weights_within_float32_rounding_of_a_tie_are_rounded_like_the_tie(grid, x, random):
    """Half way between two levels, and next to it by less than half a float32: one number to the
    format, so one code.
    """
    codes, scales = grid.encode(x)
    lower = random.integers(grid.min_code, grid.max_code, codes.shape, dtype=np.int8)
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
        found, expected = (
            grid.straight_through_mask(precise, mask),
            grid.straight_through_mask(with_extremes, mask),
        )
        assert found is expected is None or bits(found) == bits(expected)


@grid_property(about=lambda grid: isinstance(grid, UniformGrid) or grid in (Q4_0, Q4_1, Q8_0))
def rounding_moves_a_weight_by_at_most_half_a_step_or_one_step_opposite_a_signed_extreme(
    grid, x, random
):
    """And by the rounding of what is stored: of the step, times the codes between zero and the
    value, and of a minimum.
    """
    step = exact_steps(grid, x)
    error = np.abs(grid.fake_quantize(x) - x.astype(np.float64))
    bits_of_code = getattr(grid, "bits", None) or {"q4_0": 4, "q4_1": 4, "q8_0": 8}[grid.name]
    reach = (
        2.0**bits_of_code if policy(grid) in ("affine", "min-max") else 2.0 ** (bits_of_code - 1)
    )
    slack = np.abs(x).max() * OF_FLOAT32 + 2.0**-126 * reach
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
def rounding_moves_a_weight_by_at_most_half_the_widest_gap_between_nf4_levels(grid, x, random):
    largest = np.empty(x.shape)
    for group in groups_of(grid, x):
        largest[group] = np.abs(x[group]).max()
    error = np.abs(grid.fake_quantize(x) - x.astype(np.float64))
    half_a_gap = (1 - 0.6961928009986877) / 2
    of_the_scale = HALF_ULP_OF_FLOAT16 * 1.01 if grid.scale_type == "float16" else OF_FLOAT32
    assert (error <= largest * (half_a_gap + of_the_scale) + HALF_SUBNORMAL_FLOAT16).all()


@grid_property(about=lambda grid: not searched(grid))
def the_outermost_codes_are_used(grid, x, random):
    """A scale made for one range of codes and a clip made for another would leave levels unused."""
    codes, scales = grid.encode(x)
    for group in groups_of(grid, x):
        piece, used = x[group], codes[group].astype(int)  # -128 has no magnitude among bytes
        if np.abs(piece).max() < 0.1 or (policy(grid) == "min-max" and np.ptp(piece) < 0.1):
            continue  # its scale has fewer bits
        if policy(grid) in ("restricted", "ternary", "full-mid"):
            assert np.abs(used).max() >= grid.max_code
        elif policy(grid) == "ggml-signed":
            assert used.reshape(-1)[np.abs(piece).argmax()] == grid.min_code
        elif policy(grid) == "nf4":
            assert used.max() == 15 or used.min() == 0
        elif policy(grid) == "min-max":
            assert used.max() == 15 and used.min() == 0
        else:  # the zero point's own rounding can leave one of them unused, not both
            assert used.max() == grid.max_code or used.min() == grid.min_code


@grid_property()
def nearest_chooses_the_nearest_level_of_the_given_scales(grid, x, random):
    scales = grid.encode(x)[1]
    codes = grid.nearest(x, scales)
    assert codes.dtype == np.int8 and grid.min_code <= codes.min() and codes.max() <= grid.max_code
    error = np.abs(grid.decode(codes, scales) - x.astype(np.float64))
    for other in range(grid.min_code, grid.max_code + 1):
        rival = np.abs(grid.decode(np.full_like(codes, other), scales) - x.astype(np.float64))
        assert (
            error <= rival + np.abs(x).max() * OF_FLOAT32 + 2.0**-125 * 2**8
        ).all()  # ties; steps treated as 0


@grid_property(holds=lambda grid: not isinstance(grid, BlockGrid) or searched(grid))
def encoded_codes_are_the_nearest_for_the_stored_scales(grid, x, random):
    """The other formats choose them with the step before it is rounded."""
    codes, scales = grid.encode(x)
    assert np.array_equal(grid.decode(codes, scales), grid.decode(grid.nearest(x, scales), scales))


@grid_property()
def a_range_of_columns_gets_the_same_codes_alone_as_in_the_whole_matrix(grid, x, random):
    first = int(random.integers(x.shape[1]))
    last = int(random.integers(first, x.shape[1])) + 1
    scales = grid.encode(x)[1]
    codes = grid.nearest(x, scales)
    part = grid.nearest(x[:, first:last], scales, first)
    assert np.array_equal(part, codes[:, first:last])
    assert bits(grid.decode(part, scales, first)) == bits(
        np.ascontiguousarray(grid.decode(codes, scales)[:, first:last])
    )


# -------------------------------------------------------------------------------------- idempotence


@grid_property()
def rounding_again_with_the_same_scales_changes_nothing(grid, x, random):
    codes, scales = grid.encode(x)
    values = grid.decode(codes, scales)
    assert np.array_equal(grid.decode(grid.nearest(values, scales), scales), values)


@grid_property(holds=lambda grid: policy(grid) in ("restricted", "ggml-signed", "min-max", "nf4"))
def rounding_again_with_new_scales_changes_nothing(grid, x, random):
    given_that(isinstance(grid, BlockGrid) or is_normal(grid.encode(x)[1], grid.scale_type))
    once = grid.fake_quantize(x)
    assert np.array_equal(grid.fake_quantize(once), once)


# --------------------------------------------------------------------------------------- symmetries


@grid_property(
    holds=lambda grid: policy(grid) in ("restricted", "ggml-signed", "ternary") or grid is Q6_K
)
def negated_weights_are_rounded_to_negated_values(grid, x, random):
    assert np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@grid_property()
def scaling_by_a_power_of_two_scales_the_result_if_scales_are_normal_numbers(grid, x, random):
    factor = np.float32(2.0 ** int(random.integers(-8, 9)))
    scale_type = getattr(grid, "scale_type", "float16")
    if scale_type == "float32":  # no floor under the scale, wherever a float32 itself is fine
        factor = factor ** np.float32(6)
    given_that(np.abs(x).max() * max(factor, 1) <= grid.max_magnitude)
    given_that((np.abs(x[x != 0]) * min(factor, 1) >= 2.0**-90).all())
    given_that(
        is_normal(grid.encode(x)[1], scale_type)
        and is_normal(grid.encode(factor * x)[1], scale_type)
    )
    assert np.array_equal(grid.fake_quantize(factor * x), factor * grid.fake_quantize(x))


@grid_property(
    holds=lambda grid: False, about=lambda grid: getattr(grid, "scale_type", "float16") == "float16"
)
def scaling_by_three_scales_the_result(grid, x, random):
    assert np.array_equal(grid.fake_quantize(3 * x), 3 * grid.fake_quantize(x))


@grid_property()
def rounding_keeps_the_order_of_weights_that_share_a_scale(grid, x, random):
    rounded = grid.fake_quantize(x)
    for group in groups_of(grid, x):
        order = np.argsort(x[group], axis=None, kind="stable")
        assert (np.diff(rounded[group].reshape(-1)[order]) >= 0).all()


@grid_property(holds=lambda grid: not isinstance(grid, BlockGrid) and grid.granularity == "tensor")
def rounding_keeps_the_order_of_all_weights(grid, x, random):
    order = np.argsort(x, axis=None, kind="stable")
    assert (np.diff(grid.fake_quantize(x).reshape(-1)[order]) >= 0).all()


@grid_property(about=lambda grid: not searched(grid))
def shuffling_weights_that_share_a_scale_shuffles_the_result(grid, x, random):
    """The search of K-quants adds in the order of the weights: the last bit of a sum can decide,
    and seldom does.
    """
    rounded = grid.fake_quantize(x)
    for group in groups_of(grid, x):
        given_that(policy(grid) != "ggml-signed" or not opposite_extremes(x[group]))
    for group in alone(grid, x):
        piece, pieces = x[group], groups_of(grid, x[group])
        order = np.arange(piece.size).reshape(piece.shape)
        for inner in pieces:
            order[inner] = random.permutation(order[inner].reshape(-1)).reshape(order[inner].shape)
        shuffled = grid.fake_quantize(np.ascontiguousarray(piece.reshape(-1)[order]))
        assert np.array_equal(shuffled, rounded[group].reshape(-1)[order])


@grid_property()
def a_group_is_rounded_the_same_alone_as_in_the_whole_matrix(grid, x, random):
    rounded = grid.fake_quantize(x)
    for group in alone(grid, x):
        assert bits(grid.fake_quantize(np.ascontiguousarray(x[group]))) == bits(
            np.ascontiguousarray(rounded[group])
        )


# --------------------------------------------------------------------------------------- odd groups


@grid_property()
def no_undefined_operation_occurs(grid, x, random):
    """No 0 / 0 and no cast of what is no number, whose result depends on the machine."""
    for y in (x, np.zeros_like(x), np.full_like(x, 1e-45), np.full_like(x, x[0, 0])):
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            codes, scales = grid.encode(y)
            grid.nearest(y, scales)
            grid.decode(codes, scales)
            grid.fake_quantize(y)


@grid_property()
def zeros_stay_zeros(grid, x, random):
    assert not grid.fake_quantize(np.zeros_like(x)).any()
    y = x.copy()
    for group in alone(grid, x)[:1]:
        y[group] = 0
        assert not grid.fake_quantize(y)[group].any()


@grid_property(holds=lambda grid: grid not in (Q4_1, Q4_K))
def zero_is_exact_among_any_weights(grid, x, random):
    y = x.copy()
    y[int(random.integers(len(x))), int(random.integers(x.shape[1]))] = 0
    assert not grid.fake_quantize(y)[y == 0].any()


@grid_property()
def equal_weights_come_back_equal_finite_and_close(grid, x, random):
    """Half a step where no level is the extreme itself; the searches stop within a hundredth."""
    value = np.float32(random.choice([-1, 1]) * 2.0 ** random.uniform(-6, 8))
    back = grid.fake_quantize(np.full_like(x, value))
    slack = 0.01 if searched(grid) else HALF_ULP_OF_FLOAT16 * 1.01
    if policy(grid) == "full-mid":
        slack += 0.5 / grid.steps_to_the_extreme
    assert np.isfinite(back).all() and (np.abs(back / value - 1) <= slack).all()


@grid_property()
def groups_too_small_for_a_normal_scale_become_zeros(grid, x, random):
    for size in (1e-45, 1e-42, 5e-39):
        tiny = np.linspace(-size, size, x.size, dtype=np.float32).reshape(x.shape)
        codes, scales = grid.encode(tiny)
        assert grid.min_code <= codes.min() and codes.max() <= grid.max_code
        assert not grid.decode(codes, scales).any() and not grid.fake_quantize(tiny).any()


@grid_property()
def max_magnitude_stays_finite_and_larger_weights_are_rejected_by_name(grid, x, random):
    limit = np.float32(grid.max_magnitude)
    for sign in (1, -1):
        y = np.clip(x, -1, 1) * 0
        y.flat[0], y.flat[-1] = limit, sign * limit
        assert np.isfinite(grid.fake_quantize(y)).all()
        assert np.isfinite(grid.fake_quantize(np.full_like(x, sign * limit))).all()
    y.flat[0] = np.nextafter(limit, np.float32(np.inf))
    for rounding in (grid.encode, grid.fake_quantize):
        with pytest.raises(UserError, match="blocks.0.down.weight holds a value of magnitude"):
            rounding(y, "blocks.0.down.weight")


@grid_property()
def a_non_finite_value_is_rejected_by_name(grid, x, random):
    for bad in (np.nan, np.inf, -np.inf):
        y = x.copy()
        y.flat[int(random.integers(x.size))] = bad
        for rounding in (grid.encode, grid.fake_quantize):
            with pytest.raises(UserError, match="head 3 holds values that are not finite"):
                rounding(y, "head 3")


@grid_property()
def a_shape_that_cannot_be_stored_is_rejected_by_name(grid, x, random):
    shapes = (
        [(32,), (1, 2, 256), (2, 33), (2, 16)]
        if isinstance(grid, BlockGrid)
        else [(32,), (1, 2, 256), (0, 4), (4, 0)]
    )
    for shape in shapes:
        for rounding in (grid.encode, grid.fake_quantize):
            with pytest.raises(UserError, match="the table has shape"):
                rounding(np.zeros(shape, np.float32), "the table")


# ------------------------------------------------------------------------------ gradients and bytes


@grid_property()
def masks_stop_only_gradients_of_clipped_weights(grid, x, random):
    """clip-round keeps a part of what round-clip keeps, and what round-clip drops stands on an
    outermost code.
    """
    assert grid.straight_through_mask(x, "pass") is None
    rounded, clipped = (
        grid.straight_through_mask(x, "round-clip"),
        grid.straight_through_mask(x, "clip-round"),
    )
    if rounded is None:
        assert clipped is None
        return
    codes = grid.encode(x)[0]
    assert rounded.dtype == clipped.dtype == bool and rounded.shape == clipped.shape == x.shape
    assert (rounded | ~clipped).all()
    assert np.isin(codes[~rounded], (grid.min_code, grid.max_code)).all()


@grid_property()
def packed_bytes_decode_to_the_fake_quantized_weights(grid, x, random):
    x = (
        x
        if isinstance(grid, BlockGrid)
        else np.ascontiguousarray(np.resize(x, (len(x), -(-x.shape[1] // 8) * 8)))
    )
    codes, scales = grid.encode(x)
    packed = packing.pack(grid, codes, scales)
    assert packed.dtype == np.uint8 and packed.shape == (
        len(x),
        packing.row_bytes(grid, x.shape[1]),
    )
    assert packing.matrix_shape(grid, packed) == x.shape
    read_codes, read_scales = packing.unpack(grid, packed)
    assert bits(read_codes) == bits(codes) and type(read_scales) is type(scales)
    assert [bits(a) for a in arrays_of(read_scales)] == [bits(a) for a in arrays_of(scales)]
    assert bits(packing.dequantize(grid, packed)) == bits(grid.fake_quantize(x))
    rows = [packing.dequantize(grid, row[None]) for row in packed]
    assert bits(np.concatenate(rows)) == bits(grid.fake_quantize(x))


NOISE = {  # decibels, on a bell-shaped matrix; research on other implementations found the same (two digits)
    "q4_0": 21.3, "q4_1": 22.1, "q8_0": 45.4, "q4_k": 22.9, "q6_k": 35.0,
    "int4-full-mid-g32": 20.5, "int4-restricted-g32": 20.3, "int4-ggml-signed-g32": 21.3, "int4-affine-g32": 21.9,
}  # fmt: skip


@grid_property()
def the_noise_on_normal_weights_is_within_a_fifth_of_a_decibel_of_the_known_level(grid, x, random):
    """Two-sided: a quantizer that rounds nothing fails as one that rounds badly does."""
    given_that(grid.name in NOISE)
    y = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32) * np.float32(0.02)
    noise = np.square(grid.fake_quantize(y) - y, dtype=np.float64).mean()
    assert (
        abs(10 * np.log10(np.square(y, dtype=np.float64).mean() / noise) - NOISE[grid.name]) <= 0.2
    )


# -------------------------------------------------------------- a fixed set of weights to try it on


def examples(grid):
    """Weights of every kind that a grid treats differently, the same in each run: (name, x) pairs."""
    random = np.random.default_rng(7)
    block = isinstance(grid, BlockGrid)
    for columns in (512,) if searched(grid) else (64, 96) if block else (1, 33, 64, 70):
        bell = random.standard_normal((2, columns)).astype(np.float32)
        halves = random.integers(-16, 17, bell.shape).astype(np.float32) / np.float32(2)
        halves[:, 0] = -8  # a step of one for the four-bit grids: the halves are ties
        odd = random.integers(-5, 26, bell.shape).astype(np.float32) / np.float32(2)
        odd[:, :2] = np.float32([-2.5, 12.5])[
            :columns
        ]  # a step of one from minimum to maximum, both half way
        blocks = np.repeat(random.standard_normal((2, -(-columns // 8))), 8, axis=1)[:, :columns]
        step = random.uniform(1, 2, (2, 1)).astype(np.float16).astype(np.float32)
        ties = random.integers(2 * grid.min_code, 2 * grid.max_code + 1, bell.shape).astype(
            np.float32
        ) / np.float32(2)
        ties[:, :2] = np.float32([grid.min_code, grid.max_code])[:columns]
        yield f"bell {columns}", bell
        yield f"ties of some step {columns}", ties * step
        yield f"bell, tiny {columns}", bell * np.float32(1e-6)
        yield f"bell, large {columns}", bell * np.float32(1e3)
        yield (
            f"truncated {columns}",
            (bell.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
        )
        yield f"halves {columns}", halves
        yield f"halves on both sides {columns}", odd
        yield f"lattice {columns}", random.integers(-254, 255, bell.shape).astype(np.float32)
        yield f"positive {columns}", np.abs(bell) + np.float32(1)
        yield f"negative {columns}", -np.abs(bell) - np.float32(1)
        yield f"constant in eights {columns}", blocks.astype(np.float32)
        yield f"sizes {columns}", (bell * 10.0 ** (3 * blocks)).astype(np.float32).clip(-1e4, 1e4)
        yield f"some zeros {columns}", bell * (random.random(bell.shape) < 0.3)
        yield (
            f"one group of zeros {columns}",
            np.where(np.arange(columns) < columns // 2, np.float32(0), bell),
        )


def broken_properties(grid, among=PROPERTIES):
    """Return {name: what happened} of the properties that the grid breaks on the examples.

    Any error counts.
    """
    broken = {}
    for one in among:
        if not one.about(grid):
            continue
        for name, x in examples(grid):
            try:
                with np.errstate(all="ignore"):
                    one.check(grid, x, np.random.default_rng(3))
            except NotApplicable:
                continue
            except (Exception, pytest.fail.Exception) as error:
                broken[one.name] = f"{name}: {type(error).__name__}: {error}"
                break
    return broken


GRIDS = [grid_named(name) for name in NAMES]
