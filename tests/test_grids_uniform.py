"""The catalogue for uniform grids: every property at its true value, and counter-examples where one is false."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import MASKS, UniformGrid, grid_named
from minimtp.quant.grids_uniform import POLICIES, AffineScales
from tests.strategies import ragged_matrices, uniform_grids

HALF_ULP_OF_FLOAT16 = 2.0**-11  # relative, of normal numbers
HALF_SUBNORMAL_FLOAT16 = 2.0**-25  # absolute
SMALLEST_NORMAL_FLOAT16 = 2.0**-14
ROUNDINGS_OF_FLOAT32 = 4 * 2.0**-24  # a division, a product and the scale's own: each half an ulp


def by_column(grid, scales, shape):
    """(steps, zero points) of each element in float64, (N, K) each."""
    step, zero = scales if grid.policy == "affine" else (scales, np.zeros_like(scales))
    group = grid.group_size or shape[1]
    return [np.broadcast_to(np.repeat(a.astype(np.float64), group, axis=1)[:, : shape[1]], shape) for a in (step, zero)]


def bits(array):
    return array.dtype, array.shape, array.tobytes()


@given(grid=uniform_grids(), x=ragged_matrices())
def test_codes_are_integers_of_the_grid_and_scales_are_numbers_of_their_type(grid, x):
    codes, scales = grid.encode(x)
    assert codes.dtype == np.int8 and codes.shape == x.shape
    assert grid.smallest_code <= codes.min() and codes.max() <= grid.largest_code
    step = scales.step if grid.policy == "affine" else scales
    groups = {"tensor": (1, 1), "channel": (len(x), 1)}
    assert step.shape == groups.get(grid.granularity, (len(x), -(-x.shape[1] // (grid.group_size or 1))))
    assert step.dtype == np.float32 and np.array_equal(step, step.astype(grid.scale_type).astype(np.float32))
    if grid.policy == "affine":
        assert np.array_equal(scales.zero, np.rint(scales.zero))
        assert grid.smallest_code <= scales.zero.min() and scales.zero.max() <= grid.largest_code


@given(grid=uniform_grids(), x=ragged_matrices())
def test_fake_quantization_is_decoding_the_code(grid, x):
    assert bits(grid.fake_quantize(x)) == bits(grid.decode(*grid.encode(x)))
    assert bits(grid.fake_quantize(x.astype(np.float64))) == bits(grid.fake_quantize(x).astype(np.float64))


@given(grid=uniform_grids(), x=ragged_matrices())
def test_the_codes_are_the_nearest_levels(grid, x):
    """No other code of the grid comes closer, but for the rounding of the quotient."""
    codes, scales = grid.encode(x)
    step, zero = by_column(grid, scales, x.shape)
    chosen = np.abs((codes - zero) * step - x)
    for code in range(grid.smallest_code, grid.largest_code + 1):
        assert (chosen <= np.abs((code - zero) * step - x) + np.abs(x) * ROUNDINGS_OF_FLOAT32).all() or not step.all()


@given(grid=uniform_grids(scale_type="float32"), x=ragged_matrices())
def test_a_weight_moves_by_at_most_half_a_step_unless_it_lies_opposite_to_a_signed_extreme(grid, x):
    """Opposite to a signed extreme, by at most a whole step."""
    step, _ = by_column(grid, grid.encode(x)[1], x.shape)
    error = np.abs(grid.fake_quantize(x) - x.astype(np.float64))
    limit = 1.0 if grid.policy == "ggml-signed" else 0.5
    slack = np.abs(x).max() * ROUNDINGS_OF_FLOAT32 * 2 + 2.0**-126 * 2 ** (grid.bits - 1)  # steps below are treated as 0
    assert (error <= np.abs(step) * limit + slack).all()
    if grid.policy == "ggml-signed":
        kept = grid.straight_through_mask(x, "round-clip")
        assert (error <= np.abs(step) / 2 + slack)[kept].all()


@given(grid=uniform_grids(scale_type="float16"), x=ragged_matrices())
def test_rounding_the_scale_to_float16_adds_at_most_its_error_times_the_largest_code(grid, x):
    exact = UniformGrid(grid.bits, grid.policy, grid.granularity, scale_type="float32")
    step = np.abs(by_column(grid, exact.encode(x)[1], x.shape)[0])
    error = np.abs(grid.fake_quantize(x) - x.astype(np.float64))
    of_the_scale = np.maximum(step * HALF_ULP_OF_FLOAT16, HALF_SUBNORMAL_FLOAT16)
    limit = 1.0 if grid.policy == "ggml-signed" else 0.5
    codes = 2**grid.bits  # as far as a value lies from zero in steps; affine: from the zero point
    assert (error <= step * limit + of_the_scale * (codes + 1) + np.abs(x).max() * ROUNDINGS_OF_FLOAT32).all()


def test_counter_example_a_signed_extreme_leaves_its_opposite_a_whole_step_away():
    assert grid_named("int4-ggml-signed-g32").fake_quantize(np.array([[-8, 8]], np.float32)).tolist() == [[-8, 7]]


# ------------------------------------------------------------------------------------------------------------ idempotence


@given(grid=uniform_grids(), x=ragged_matrices())
def test_with_the_scale_kept_rounding_twice_is_rounding_once(grid, x):
    codes, scales = grid.encode(x)
    again = grid.nearest(grid.decode(codes, scales), scales)
    step, _ = by_column(grid, scales, x.shape)
    assert np.array_equal(again, codes) or (step == 0)[again != codes].all()


@given(grid=uniform_grids(policy="restricted"), x=ragged_matrices())
def test_with_the_scale_chosen_again_rounding_twice_is_rounding_once_for_restricted_scales(grid, x):
    once = grid.fake_quantize(x)
    assert np.array_equal(grid.fake_quantize(once), once)


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(2, 9))
def test_a_scale_that_was_divided_by_the_largest_code_survives_the_way_there_and_back_for_every_mantissa(bits):
    """Why rounding twice is rounding once also for float32 scales: s = a / q gives (q s) / q = s."""
    largest_code = np.float32(2 ** (bits - 1) - 1)
    scales = (np.arange(2**23, dtype=np.uint32) | np.uint32(0x3F800000)).view(np.float32) / largest_code
    assert np.array_equal(largest_code * scales / largest_code, scales)


def test_counter_example_full_mid_shrinks_every_group_each_time_it_is_applied():
    grid = grid_named("int4-full-mid-g32")
    x = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    once = grid.fake_quantize(x)
    changed = (grid.fake_quantize(once) != once).any(axis=1)
    assert changed.all()


@given(grid=uniform_grids(policy="ggml-signed"), x=ragged_matrices())
def test_with_the_scale_chosen_again_rounding_twice_is_rounding_once_for_signed_scales(grid, x):
    """The extreme stays the extreme, and its division by a power of two is exact."""
    once = grid.fake_quantize(x)
    assert np.array_equal(grid.fake_quantize(once), once)


# -------------------------------------------------------------------------------------------------------------- symmetries


@given(grid=uniform_grids(policy="restricted"), x=ragged_matrices())
def test_the_negative_is_rounded_to_the_negative_by_restricted_scales(grid, x):
    assert np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@given(grid=uniform_grids(policy="ggml-signed"), x=ragged_matrices())
def test_the_negative_is_rounded_to_the_negative_by_signed_scales(grid, x):
    assert np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@pytest.mark.parametrize("policy", ["full-mid", "affine"])
def test_counter_example_the_negative_is_not_rounded_to_the_negative(policy):
    grid = grid_named(f"int4-{policy}-g32")
    x = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    assert not np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@given(grid=uniform_grids(), x=ragged_matrices(largest=1e3), exponent=st.integers(-8, 8))
def test_scaling_by_a_power_of_two_scales_the_result_while_the_scale_stays_a_normal_number(grid, x, exponent):
    factor = np.float32(2.0**exponent)
    exact = UniformGrid(grid.bits, grid.policy, grid.granularity, scale_type="float32")
    step = np.abs(by_column(exact, exact.encode(x)[1], x.shape)[0])
    smallest = SMALLEST_NORMAL_FLOAT16 if grid.scale_type == "float16" else 2.0**-100
    assume((step[step > 0] * min(factor, 1) >= smallest).all())
    assume((np.abs(x[x != 0]) * min(factor, 1) >= 2.0**-126).all())
    assert np.array_equal(grid.fake_quantize(factor * x), factor * grid.fake_quantize(x))


@pytest.mark.parametrize("scale", [1e-5, 1e-8, 1e-12, 1e-30])
@pytest.mark.parametrize("policy", POLICIES)
def test_small_weights_are_rounded_as_large_ones_are_where_the_scale_is_a_float32(policy, scale):
    """No floor under the scale: a floor at machine epsilon silences small layers."""
    grid, factor = grid_named(f"int4-{policy}-g32-f32"), np.float32(2.0 ** np.floor(np.log2(scale)))
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    assert np.array_equal(grid.fake_quantize(factor * x), factor * grid.fake_quantize(x))


@given(grid=uniform_grids(), x=ragged_matrices())
def test_rounding_keeps_the_order_within_a_group(grid, x):
    rounded = grid.fake_quantize(x)
    groups = [(x.ravel(), rounded.ravel())] if grid.granularity == "tensor" else [
        (x[i, j : j + (grid.group_size or 70)], rounded[i, j : j + (grid.group_size or 70)])
        for i in range(len(x)) for j in range(0, x.shape[1], grid.group_size or 70)
    ]  # fmt: skip
    for before, after in groups:
        assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()


# ------------------------------------------------------------------------------------------------------------- granularity


@given(grid=uniform_grids(granularity="channel"), x=ragged_matrices())
def test_per_channel_is_a_stack_of_per_tensor(grid, x):
    single = UniformGrid(grid.bits, grid.policy, "tensor", scale_type=grid.scale_type)
    assert bits(grid.fake_quantize(x)) == bits(np.concatenate([single.fake_quantize(row[None]) for row in x]))


@given(group=st.integers(1, 40), grid=uniform_grids(), x=ragged_matrices())
def test_groups_are_per_channel_pieces_side_by_side_and_the_ragged_one_is_a_piece_of_its_own(group, grid, x):
    grouped = UniformGrid(grid.bits, grid.policy, group, scale_type=grid.scale_type)
    alone = UniformGrid(grid.bits, grid.policy, "channel", scale_type=grid.scale_type)
    pieces = [alone.fake_quantize(x[:, j : j + group]) for j in range(0, x.shape[1], group)]
    assert bits(grouped.fake_quantize(x)) == bits(np.concatenate(pieces, axis=1))


@given(grid=uniform_grids(), x=ragged_matrices(), data=st.data())
def test_columns_on_their_own_get_the_codes_they_get_among_the_others(grid, x, data):
    first = data.draw(st.integers(0, x.shape[1] - 1))
    last = data.draw(st.integers(first + 1, x.shape[1]))
    codes, scales = grid.encode(x)
    part = grid.nearest(x[:, first:last], scales, first)
    assert np.array_equal(part, codes[:, first:last])
    assert np.array_equal(grid.decode(part, scales, first), grid.decode(codes, scales)[:, first:last])


# ------------------------------------------------------------------------------------------------------------- odd groups


@given(grid=uniform_grids())
def test_zeros_stay_zeros(grid):
    assert not grid.fake_quantize(np.zeros((2, 33), np.float32)).any()


@given(grid=uniform_grids(), x=ragged_matrices(), data=st.data())
def test_zero_is_exact_among_any_weights(grid, x, data):
    x[data.draw(st.integers(0, len(x) - 1)), data.draw(st.integers(0, x.shape[1] - 1))] = 0
    assert not grid.fake_quantize(x)[x == 0].any()


@given(grid=uniform_grids(), value=st.floats(2.0**-6, 1e4, width=32), negative=st.booleans())
def test_a_constant_group_comes_back_within_half_a_step_and_finite(grid, value, negative):
    x = np.full((1, 20), -value if negative else value, np.float32)
    step = 0.5 / grid.steps_to_the_extreme if grid.policy == "full-mid" else 0
    assert np.abs(grid.fake_quantize(x) - x).max() <= value * (step + HALF_ULP_OF_FLOAT16 * (1 + 1e-3))


@given(grid=uniform_grids(), size=st.sampled_from([1e-45, 1e-42, 5e-39]))
def test_a_group_without_a_normal_scale_becomes_zeros(grid, size):
    x = np.linspace(-size, size, 20, dtype=np.float32)[None]
    assert not grid.fake_quantize(x).any()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("suffix", ["", "-f32"])
def test_the_largest_magnitude_is_finite_and_what_lies_above_is_refused_by_name(policy, suffix):
    grid = grid_named(f"int4-{policy}-g32{suffix}")
    limit = np.float32(grid.largest_magnitude)
    for values in ([limit, -limit], [limit, 0], [-limit, 0]):
        assert np.isfinite(grid.fake_quantize(np.array([values], np.float32))).all()
    with pytest.raises(UserError, match="blocks.0.down.weight holds a value of magnitude"):
        grid.encode(np.array([[np.nextafter(limit, np.float32(np.inf))]]), "blocks.0.down.weight")


@given(grid=uniform_grids(), x=ragged_matrices(), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_value_that_is_not_finite_is_refused_by_name(grid, x, bad):
    x[-1, -1] = bad
    for rounding in (grid.encode, grid.fake_quantize):
        with pytest.raises(UserError, match="head 3 holds values that are not finite"):
            rounding(x, "head 3")


@pytest.mark.parametrize("shape", [(32,), (1, 2, 32), (0, 4), (4, 0)])
def test_what_is_no_matrix_is_refused_by_name(shape):
    with pytest.raises(UserError, match="the table has shape"):
        grid_named("int4-affine-tensor").encode(np.zeros(shape, np.float32), "the table")


# ---------------------------------------------------------------------------------------- what the policies mean, in numbers


def test_each_policy_makes_its_scale_from_the_group_as_its_name_says():
    x = np.array([[-15.0, 6.0, 0.0]], np.float32)
    expected = {"restricted": 15 / 7, "full-mid": 2.0, "ggml-signed": 15 / 8}
    for policy, step in expected.items():
        assert grid_named(f"int4-{policy}-channel-f32").encode(x)[1] == np.float32(step)
    assert grid_named("int4-ggml-signed-channel-f32").encode(-x)[1] == np.float32(-15 / 8)
    codes, scales = grid_named("int4-affine-channel-f32").encode(x)
    assert scales == AffineScales(np.float32(21 / 15), np.float32(-8 + 11)) and codes.tolist() == [[-8, 7, 3]]


@given(grid=uniform_grids(scale_type="float32"), x=ragged_matrices())
def test_the_outermost_codes_of_every_policy_are_used(grid, x):
    """A scale made for one range of codes and a clip made for another would leave levels unused."""
    steps = np.abs(by_column(grid, grid.encode(x)[1], x.shape)[0])
    assume(grid.granularity == "tensor" and (steps > 1e-30).all())
    codes = grid.encode(x)[0]
    if grid.policy == "restricted":
        assert np.abs(codes).max() == grid.largest_code
    elif grid.policy == "ggml-signed":
        assert codes.min() == grid.smallest_code
    elif grid.policy == "full-mid":
        assert codes.max() == grid.largest_code or codes.min() <= -grid.largest_code
    elif x.min() < 0 < x.max():
        assert codes.max() == grid.largest_code and codes.min() == grid.smallest_code


@pytest.mark.parametrize(
    ("name", "decibels"), [("int4-full-mid-g32", 20.5), ("int4-full-mid-g128", 19.1), ("int4-restricted-g32", 20.3),
                           ("int4-ggml-signed-g32", 21.3), ("int4-affine-g32", 21.9)],
)  # fmt: skip
def test_the_noise_on_bell_shaped_weights_is_neither_more_nor_less_than_known(name, decibels):
    x = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32) * np.float32(0.02)
    noise = np.square(grid_named(name).fake_quantize(x) - x, dtype=np.float64).mean()
    assert 10 * np.log10(np.square(x, dtype=np.float64).mean() / noise) == pytest.approx(decibels, abs=0.2)


# --------------------------------------------------------------------------------------------------- straight-through masks

MASK_TABLE = [
    # value in steps, of a grid with codes -8..7   pass  round-clip  clip-round
    (-9.0, True, False, False), (-8.75, True, False, False), (-8.5, True, True, False), (-8.25, True, True, False),
    (-8.0, True, True, True), (-7.5, True, True, True), (0.0, True, True, True), (6.5, True, True, True),
    (7.0, True, True, True), (7.25, True, True, False), (7.5, True, False, False), (7.75, True, False, False),
    (8.0, True, False, False),
]  # fmt: skip


def test_the_masks_follow_the_table_on_and_around_the_outermost_codes():
    """7.5 rounds to the even 8, which is no code, and -8.5 to the even -8, which is one."""
    grid = FixedScale(4, "full-mid", "tensor")
    for value, *expected in MASK_TABLE:
        found = [grid.straight_through_mask(np.array([[value]], np.float32), mask) for mask in MASKS]
        assert [mask is None or bool(mask[0, 0]) for mask in found] == expected, value


class FixedScale(UniformGrid):
    """A grid whose step is 1 whatever the weights are."""

    def scales(self, x):
        return np.ones((1, 1), np.float32)


def test_an_unknown_mask_is_an_error():
    with pytest.raises(ValueError, match="unknown straight-through mask 'none'"):
        grid_named("int4-affine-tensor").straight_through_mask(np.zeros((1, 1), np.float32), "none")


# ------------------------------------------------------------------------------------------------------------------- names


@given(grid=uniform_grids())
def test_a_grid_is_found_by_its_name(grid):
    assert grid_named(grid.name) == grid and repr(grid) == grid.name


@pytest.mark.parametrize(
    "name",
    ["int9-affine-g32", "int1-affine-g32", "int4-affine", "int4-affine-g0", "int4-minmax-g32", "int4-affine-g32-f8", "int4"],
)
def test_a_name_that_is_no_grid_is_refused(name):
    with pytest.raises(UserError, match="unknown grid|2 to 8 bits"):
        grid_named(name)


@pytest.mark.parametrize(
    "settings", [(4, "minmax", "tensor"), (4, "affine", "row"), (4, "affine", 0), (9, "affine", 32), (4.5, "affine", 32)]
)
def test_settings_that_do_not_exist_are_refused(settings):
    with pytest.raises(UserError, match="unknown|2 to 8 bits"):
        UniformGrid(*settings)
