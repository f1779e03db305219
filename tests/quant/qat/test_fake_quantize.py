"""Fake quantization: the forward pass rounds, and gradients are the derivatives of a surrogate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Parameter
from minimtp.errors import UserError
from minimtp.quant.activations import round_activations
from minimtp.quant.grids import GRIDS, MASKS, Q4_0, Q5_0, Q8_0
from minimtp.quant.qat.fake_quantize import FakeQuantize
from tests.helpers.strategies import weight_matrices

each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=str)
LEVELS_BELOW_ZERO = {Q4_0: -8, Q5_0: -16}  # the extreme of a group is stored as this code
each_grid_without_minimum = pytest.mark.parametrize("grid", [*LEVELS_BELOW_ZERO, Q8_0], ids=str)
each_mask = pytest.mark.parametrize("mask", MASKS)

# For a group whose extreme is -8, so that the step is 1: the rounded value of a weight, and which
# masks pass its gradient.
ABOVE = float(np.nextafter(np.float32(7), np.float32(8)))
BOUNDARY_TABLE = [
    # weight  rounded  pass   round-clip  clip-round
    (-8.0, -8, True, True, True),  # the extreme itself, on the smallest code
    (-7.6, -8, True, True, True),
    (-7.5, -7, True, True, True),
    (0.0, 0, True, True, True),
    (6.5, 7, True, True, True),
    (7.0, 7, True, True, True),  # on the largest code
    (ABOVE, 7, True, True, False),
    (7.25, 7, True, True, False),
    (7.49, 7, True, True, False),
    (7.5, 7, True, False, False),  # rounded to 8, then clipped
    (7.75, 7, True, False, False),
    (8.0, 7, True, False, False),  # opposite the extreme
]


def first_difference(name, differ, expected, got):
    """Return a message with the first number that differs, or with both dtypes."""
    if got.dtype != expected.dtype:
        return f"{name}: expected {expected.dtype}, got {got.dtype}"
    if not np.any(differ):
        return f"{name}: expected 0.0 and got -0.0, or the other way round"
    place = tuple(int(index) for index in np.argwhere(differ)[0])
    return f"{name} {place}: expected {expected[place]:.6g}, got {got[place]:.6g}"


@pytest.mark.parametrize("scale", [1.0, -1.0, 2.0**-12, -3.0])
@pytest.mark.parametrize(
    ("weight", "rounded", "passes"), [(w, r, masks) for w, r, *masks in BOUNDARY_TABLE]
)
def test_weights_on_the_bounds_of_q4_0_pass_their_gradient_as_the_table_says(
    own, weight, rounded, passes, scale
):
    group = np.zeros((1, 32), np.float32)
    group[0, :2] = -8 * scale, weight * scale
    assert Q4_0.fake_quantize(group)[0, 1] == np.float32(rounded * scale)
    for mask, expected in zip(("pass", "round-clip", "clip-round"), passes, strict=True):
        master = Parameter(group.copy())
        own(FakeQuantize)(Q4_0, mask).apply(master).backward(np.full((1, 32), 5, np.float32))
        wanted = np.array([[5, 5 if expected else 0] + [5] * 30], np.float32)
        differ = master.grad != wanted
        assert not differ.any(), (
            f"mask {mask}, weights {-8 * scale}, {weight * scale}, 0, 0, ...: "
            + first_difference("gradient", differ, wanted, master.grad)
        )


@each_mask
def test_the_backward_pass_does_not_change_the_gradient_that_it_receives(own, mask):
    """Other operations may receive the same array."""
    group = np.zeros((1, 32), np.float32)
    group[0, :2] = -8, 7.75  # the second weight is clipped
    operation = own(FakeQuantize)(Q4_0, mask)
    operation.forward(group)
    gradient = np.full((1, 32), 5, np.float32)
    operation.backward(gradient)
    assert (gradient == 5).all(), "do not change the gradient in place: others may use it"


def test_the_mask_follows_the_float32_rounding_of_the_forward_pass_just_below_the_bound():
    steps = np.random.default_rng(0).uniform(0.1, 1, 4096).astype(np.float32)
    groups = np.zeros((4096, 32), np.float32)
    groups[:, 0] = -8 * steps
    groups[:, 1] = np.nextafter(np.float32(7.5) * steps, np.float32(0))
    passes = Q4_0.straight_through_mask(groups, "round-clip")[:, 1]
    # As in the forward pass, in float32:
    reaches_16 = groups[:, 1] * (np.float32(1) / steps) + np.float32(8.5) >= 16
    assert np.array_equal(passes, ~reaches_16) and 0 < passes.mean() < 1


@each_mask
@given(x=weight_matrices())
def test_q8_0_clips_no_weight_so_every_gradient_passes(own, x, mask):
    master = Parameter(x)
    gradient = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    own(FakeQuantize)(Q8_0, mask).apply(master).backward(gradient)
    differ = master.grad != gradient
    assert not differ.any(), "q8_0 clips no weight: " + first_difference(
        "gradient", differ, gradient, master.grad
    )


@each_mask
@each_grid_without_minimum
@given(x=weight_matrices(max_magnitude=100.0))
def test_the_gradient_is_the_derivative_of_the_surrogate(own, grid, mask, x):
    """The surrogate is d * clip(w / d, low, high) with d held constant. It is differentiated
    numerically, except at its kinks.
    """
    step = np.repeat(_signed_steps(grid, x), 32, axis=-1)
    slack = {"pass": np.inf, "round-clip": 0.5, "clip-round": 0.0}[mask]
    low, high = grid.min_code - slack, grid.max_code + slack
    usable = np.abs(step) > 1e-12
    weight, step = x.astype(np.float64), np.where(usable, step, 1.0)

    def surrogate(w):
        return step * np.clip(w / step, low, high)

    h = 1e-4 * np.abs(step)
    slope = (surrogate(weight + h) - surrogate(weight - h)) / (2 * h)
    off_kinks = (
        usable & (np.abs(weight / step - low) > 2e-4) & (np.abs(weight / step - high) > 2e-4)
    )
    master, gradient = Parameter(weight), np.random.default_rng(0).standard_normal(x.shape)
    own(FakeQuantize)(grid, mask).apply(master).backward(gradient)
    expected = slope * gradient
    differ = off_kinks & ~np.isclose(master.grad, expected, rtol=1e-6, atol=1e-12)
    assert not differ.any(), first_difference("gradient", differ, expected, master.grad)


def _signed_steps(grid, x):
    groups = x.reshape(x.shape[0], -1, 32).astype(np.float64)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return np.abs(extreme) / 127 if grid is Q8_0 else extreme / LEVELS_BELOW_ZERO[grid]


@each_mask
@each_grid
@given(x=weight_matrices())
def test_the_extreme_of_every_group_passes_its_gradient(grid, mask, x):
    """Absmax scaling puts the extreme exactly on the bound. A mask with a strict inequality would
    freeze the largest weights.
    """
    inside = grid.straight_through_mask(x, mask)
    inside = np.ones(x.shape, bool) if inside is None else inside
    extreme = np.abs(x.reshape(-1, 32)).argmax(axis=-1)[:, None]
    assert np.take_along_axis(inside.reshape(-1, 32), extreme, axis=-1).all()


@given(x=weight_matrices())
def test_clip_round_stops_every_gradient_that_round_clip_stops(x):
    round_clip, clip_round = (
        Q4_0.straight_through_mask(x, mask) for mask in ("round-clip", "clip-round")
    )
    assert (round_clip | ~clip_round).all()


@each_grid
def test_groups_of_zeros_pass_every_gradient(grid):
    for mask in MASKS:
        inside = grid.straight_through_mask(np.zeros((2, 64), np.float32), mask)
        assert inside is None or inside.all()


@each_grid
@given(x=weight_matrices())
def test_the_forward_pass_rounds_to_the_grid_and_does_not_change_the_master_weights(own, grid, x):
    master, expected = Parameter(x.copy()), grid.fake_quantize(x)
    rounded = own(FakeQuantize)(grid).apply(master).data
    same = rounded.tobytes() == expected.tobytes()
    assert same, first_difference("rounded weight", rounded != expected, expected, rounded)
    assert master.data.tobytes() == x.tobytes(), "the master weights changed: " + first_difference(
        "weight", master.data != x, x, master.data
    )


@each_grid
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rounded_weights_have_the_dtype_of_the_weights(own, grid, dtype):
    rounded = own(FakeQuantize)(grid).apply(Parameter(np.ones((2, 32), dtype))).data
    assert rounded.dtype == dtype, f"expected {np.dtype(dtype)}, got {rounded.dtype}"


@each_grid
def test_weights_that_are_not_finite_are_an_error_that_names_them(own, grid):
    weight = np.ones((2, 32), np.float32)
    weight[1, 7] = np.nan
    with pytest.raises(
        UserError, match="blocks.1.attention.qkv.weight holds values that are not finite"
    ):
        own(FakeQuantize)(grid, name="blocks.1.attention.qkv.weight").apply(Parameter(weight))


def test_an_unknown_mask_is_an_error_that_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="unknown straight-through mask 'clamp': use pass, round-clip, clip-round"
    ):
        FakeQuantize(Q4_0, "clamp")
    with pytest.raises(ValueError, match="unknown straight-through mask 'clamp'"):
        Q4_0.straight_through_mask(np.zeros((1, 32), np.float32), "clamp")


@given(x=weight_matrices())
def test_fake_quantized_activations_are_the_codes_times_the_scales_of_the_kernels(x):
    rows, columns = x.shape
    seen = round_activations(x.reshape(rows, 1, columns), "int8")
    codes, scales = kernels.for_array(x).quantize_activations(x)
    assert np.array_equal(
        seen, (codes.reshape(rows, -1, 32) * scales[..., None]).reshape(rows, 1, columns)
    )
    half_a_step = (
        np.repeat(np.abs(x.reshape(rows, -1, 32)).max(axis=-1), 32, axis=-1).astype(np.float64)
        / 254
    )
    assert (np.abs(seen[:, 0] - x) <= half_a_step * (1 + 1e-4) + 1e-36).all()


TINY = np.float32(127 * 2.0**-128)  # the largest magnitude without a finite 127 / magnitude


def rounded_by_the_rule(row):
    """Round one token's numbers (float32) by the rule of `kernels.plain`."""
    largest = np.abs(row).max()
    if largest <= TINY:
        return np.zeros_like(row)
    return np.rint(row * (np.float32(127) / largest)) * (largest / np.float32(127))


@given(
    rows=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 40)),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    unit=st.sampled_from([1.0, 1e-6, 1e30]),
)
def test_with_one_scale_per_token_each_row_is_scaled_by_its_own_largest_number(rows, unit):
    rows = rows * np.float32(unit)
    found = round_activations(rows, "int8-token")
    assert found.dtype == np.float32 and np.array_equal(
        found, [rounded_by_the_rule(row) for row in rows]
    )


def test_per_token_and_per_group_rounding_agree_on_rows_of_32_numbers():
    rows = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    per_token, per_group = (round_activations(rows, how) for how in ("int8-token", "int8"))
    assert np.array_equal(per_token, per_group)


@pytest.mark.parametrize("size", [0.0, 1e-45, TINY, np.nextafter(TINY, np.float32(1)), 1e-30])
def test_a_row_too_small_for_a_finite_scale_becomes_zeros_and_the_next_larger_one_does_not(size):
    row = np.array([[size, -size, size / 2]], np.float32)
    found = round_activations(row, "int8-token")
    assert np.isfinite(found).all() and found.any() == (size > TINY)


def test_float64_rows_are_rounded_in_float32_and_returned_as_float64():
    """1.5 + 1e-9 becomes 1.5 in float32, and this half is rounded to the even code."""
    row = np.array([[127.0, 1.5 + 1e-9, -0.5 - 1e-9]])
    found = round_activations(row, "int8-token")
    assert found.dtype == np.float64 and found.tolist() == [[127.0, 2.0, 0.0]]


def test_a_float64_weight_is_on_the_outermost_level_if_its_float32_value_is():
    group = np.zeros((1, 32))
    group[0, :3] = -8, 7 * (1 + 1e-10), 7.25
    assert Q4_0.straight_through_mask(group, "clip-round")[0, :3].tolist() == [True, True, False]
