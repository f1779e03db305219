"""Uniform grids: names, policies, masks and groups, and counter-examples to untrue properties."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import MASKS, UniformGrid, grid_named
from minimtp.quant.grids.rounding import half_away, half_up, stochastic
from minimtp.quant.grids.scales import group_total, map_scales, put_group
from minimtp.quant.grids.uniform import POLICIES, AffineScales
from tests.helpers.strategies import ragged_matrices, uniform_grids
from tests.vectors.ggml_cases import bell


def bits(array):
    return array.dtype, array.shape, array.tobytes()


def test_counter_example_ggml_signed_moves_the_opposite_of_the_extreme_by_a_whole_step():
    assert grid_named("int4-ggml-signed-g32").fake_quantize(
        np.array([[-8, 8]], np.float32)
    ).tolist() == [[-8, 7]]


# ----------------------------------------------------------------------------------- rounding again


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(2, 9))
def test_multiplying_and_dividing_a_scale_by_the_largest_code_restores_it(bits):
    """So rounding is idempotent for float32 scales, too: s = a / q gives (q s) / q = s.

    All 2**23 mantissas are checked.
    """
    max_code = np.float32(2 ** (bits - 1) - 1)
    scales = (np.arange(2**23, dtype=np.uint32) | np.uint32(0x3F800000)).view(np.float32) / max_code
    assert np.array_equal(max_code * scales / max_code, scales)


def test_counter_example_full_mid_changes_every_group_when_it_is_applied_again():
    grid = grid_named("int4-full-mid-g32")
    x = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    once = grid.fake_quantize(x)
    changed = (grid.fake_quantize(once) != once).any(axis=1)
    assert changed.all()


def test_counter_example_an_affine_zero_point_halfway_between_two_codes_shrinks_the_group():
    """The step is 1, and zero is halfway between two codes. Neither end is a level, and both are
    rounded inwards.
    """
    grid = grid_named("int4-affine-channel")
    once = grid.fake_quantize(np.array([[-2.5, 12.5]], np.float32))
    assert once.tolist() == [[-2, 12]] and grid.fake_quantize(once)[0, 1] != 12


# --------------------------------------------------------------------------------------- symmetries


@pytest.mark.parametrize("policy", ["full-mid", "affine"])
def test_counter_example_negated_weights_are_not_rounded_to_negated_values(policy):
    grid = grid_named(f"int4-{policy}-g32")
    x = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    assert not np.array_equal(grid.fake_quantize(-x), -grid.fake_quantize(x))


@pytest.mark.parametrize("scale", [1e-5, 1e-8, 1e-12, 1e-30])
@pytest.mark.parametrize("policy", POLICIES)
def test_small_weights_are_rounded_like_large_ones_if_scales_are_float32(policy, scale):
    """The scale has no lower limit: a limit at machine epsilon would round small layers to zero."""
    grid, factor = grid_named(f"int4-{policy}-g32-f32"), np.float32(2.0 ** np.floor(np.log2(scale)))
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    assert np.array_equal(grid.fake_quantize(factor * x), factor * grid.fake_quantize(x))


# -------------------------------------------------------------------------------------- granularity


@given(grid=uniform_grids(granularity="channel"), x=ragged_matrices())
def test_per_channel_rounding_equals_per_tensor_rounding_of_each_row(grid, x):
    single = UniformGrid(grid.bits, grid.policy, "tensor", scale_type=grid.scale_type)
    assert bits(grid.fake_quantize(x)) == bits(
        np.concatenate([single.fake_quantize(row[None]) for row in x])
    )


@given(group=st.integers(1, 40), grid=uniform_grids(), x=ragged_matrices())
def test_every_group_even_a_shorter_last_one_is_rounded_like_a_separate_matrix(group, grid, x):
    grouped = UniformGrid(grid.bits, grid.policy, group, scale_type=grid.scale_type)
    alone = UniformGrid(grid.bits, grid.policy, "channel", scale_type=grid.scale_type)
    pieces = [alone.fake_quantize(x[:, j : j + group]) for j in range(0, x.shape[1], group)]
    assert bits(grouped.fake_quantize(x)) == bits(np.concatenate(pieces, axis=1))


# ------------------------------------------------------------------ numbers of each policy and mode


def test_each_policy_computes_its_scale_from_the_group_as_documented():
    x = np.array([[-15.0, 6.0, 0.0]], np.float32)
    expected = {"restricted": 15 / 7, "full-mid": 2.0, "ggml-signed": 15 / 8}
    for policy, step in expected.items():
        assert grid_named(f"int4-{policy}-channel-f32").encode(x)[1] == np.float32(step)
    assert grid_named("int4-ggml-signed-channel-f32").encode(-x)[1] == np.float32(-15 / 8)
    codes, scales = grid_named("int4-affine-channel-f32").encode(x)
    assert scales == AffineScales(np.float32(21 / 15), np.float32(-8 + 11)) and codes.tolist() == [
        [-8, 7, 3]
    ]


@pytest.mark.parametrize("rounding", [half_away, half_up])
def test_rounding_modes_differ_only_at_halves(rounding):
    usual = grid_named("int4-ggml-signed-channel-f32")
    x = np.array([[-8, 0.5, 1.5, 2.5, -0.5, -1.5, 0.25, 3.75]], np.float32)  # the step is 1
    other = replace(usual, rounding=rounding)
    assert usual.encode(x)[0].tolist() == [[-8, 0, 2, 2, 0, -2, 0, 4]]
    below = {half_away: [-1, -2], half_up: [0, -1]}[rounding]
    assert other.encode(x)[0].tolist() == [[-8, 1, 2, 3, *below, 0, 4]]


def test_stochastic_rounding_keeps_the_mean_of_a_matrix():
    """The tolerance is four standard errors. Each weight is halfway between two levels, so its
    rounded value has variance 1/4.
    """
    x = np.full((64, 64), 0.5, np.float32)
    x[:, 0] = -8  # the step is 1
    grid = replace(
        grid_named("int4-ggml-signed-channel"), rounding=stochastic(np.random.default_rng(0))
    )
    values = grid.fake_quantize(x)[:, 1:]
    assert set(np.unique(values)) == {0, 1} and abs(values.mean() - 0.5) <= 4 * 0.5 / np.sqrt(
        values.size
    )


# --------------------------------------------------------------------------- straight-through masks

MASK_TABLE = [
    # weight in steps (codes are -8..7); do pass, round-clip and clip-round pass its gradient?
    (-9.0, True, False, False),
    (-8.75, True, False, False),
    (-8.5, True, True, False),
    (-8.25, True, True, False),
    (-8.0, True, True, True),
    (-7.5, True, True, True),
    (0.0, True, True, True),
    (6.5, True, True, True),
    (7.0, True, True, True),
    (7.25, True, True, False),
    (7.5, True, False, False),
    (7.75, True, False, False),
    (8.0, True, False, False),
]


def test_the_masks_follow_the_table_on_and_around_the_outermost_codes():
    """7.5 is rounded to the even 8, which is not a code, and -8.5 to the even -8, which is one."""
    grid = FixedScale(4, "full-mid", "tensor")
    for value, *expected in MASK_TABLE:
        found = [
            grid.straight_through_mask(np.array([[value]], np.float32), mask) for mask in MASKS
        ]
        assert [mask is None or bool(mask[0, 0]) for mask in found] == expected, value


class FixedScale(UniformGrid):
    """A grid whose step is 1 for all weights."""

    def scales(self, x):
        return np.ones((1, 1), np.float32)


def test_an_unknown_mask_is_an_error():
    with pytest.raises(ValueError, match="unknown straight-through mask 'none'"):
        grid_named("int4-affine-tensor").straight_through_mask(np.zeros((1, 1), np.float32), "none")


# -------------------------------------------------------------------------------------------- names


@given(grid=uniform_grids())
def test_grid_named_returns_the_grid_with_that_name(grid):
    assert grid_named(grid.name) == grid and repr(grid) == grid.name


@pytest.mark.parametrize(
    "name",
    [
        "int9-affine-g32",
        "int1-affine-g32",
        "int4-affine",
        "int4-affine-g0",
        "int4-minmax-g32",
        "int4-affine-g32-f8",
        "int4",
    ],
)
def test_an_unknown_grid_name_is_rejected(name):
    with pytest.raises(UserError, match="unknown grid|2 to 8 bits"):
        grid_named(name)


@pytest.mark.parametrize(
    "name", ["q4_k", "q6_k", "int4-affine-g32", "int3-ggml-signed-g32", "int4-full-mid-channel"]
)
def test_a_mask_passes_weights_between_the_outermost_levels_or_up_to_half_a_step_beyond(name):
    """The expected mask is computed from the levels. Weights within a thousandth of a step of a
    bound are left to other tests.
    """
    grid, x = grid_named(name), bell(13, (16, 512))
    codes, scales = grid.encode(x)
    lowest, second, highest = (
        grid.decode(np.full_like(codes, code), scales).astype(np.float64)
        for code in (grid.min_code, grid.min_code + 1, grid.max_code)
    )
    step = second - lowest  # negative if the scale is negative
    given = step != 0
    relative = (x - lowest) / np.where(given, step, 1)
    top = (highest - lowest) / np.where(given, step, 1)
    for mask, slack in (("round-clip", 0.5), ("clip-round", 0.0)):
        found = grid.straight_through_mask(x, mask)
        clear = given & (np.abs(relative + slack) > 1e-3) & (np.abs(relative - top - slack) > 1e-3)
        expected = (relative > -slack) & (relative < top + slack)
        assert np.array_equal(found[clear], expected[clear])
        assert found.mean() > 0.9 and clear.mean() > 0.8


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "int4-affine-g32"])
def test_putting_the_scales_of_one_group_does_not_change_other_groups(name):
    grid = grid_named(name)
    scales, other = grid.encode(bell(1, (3, 128)))[1], grid.encode(bell(2, (3, 32)))[1]
    before = map_scales(np.copy, scales)
    put_group(scales, 1, other)

    def check(now, then, new):
        assert np.array_equal(now[:, 1:2], new) and np.array_equal(
            np.delete(now, 1, axis=1), np.delete(then, 1, axis=1)
        )
        return now

    map_scales(check, scales, before, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((4, "restricted", 32, "float64"), "unknown scale type 'float64': use float16 or float32"),
        (
            (4, "restricted", "row"),
            "unknown granularity 'row': use tensor, channel or a group's number of columns",
        ),
        ((4, "restricted", 0), "unknown granularity 0: use tensor"),
        (
            (4, "signed", 32),
            "unknown scale policy 'signed': use restricted, full-mid, ggml-signed, affine",
        ),
        ((9, "restricted", 32), "a uniform grid has 2 to 8 bits, not 9"),
        ((4.5, "restricted", 32), "a uniform grid has 2 to 8 bits, not 4.5"),
    ],
)
def test_an_unknown_setting_is_rejected_with_the_known_ones(settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        UniformGrid(*settings)


@pytest.mark.parametrize(
    "name", ["q4_0", "q4_1", "int4-restricted-g24", "int4-affine-channel", "ternary-tensor"]
)
def test_group_totals_have_the_shape_of_the_scales_and_sum_to_the_total(name):
    grid, x = grid_named(name), bell(3, (3, 96))
    scales = grid.encode(x)[1]
    totals = group_total(grid, scales, x.astype(np.float64))
    assert totals.shape == (scales[0] if isinstance(scales, tuple) else scales).shape
    assert totals.sum() == pytest.approx(x.astype(np.float64).sum(), rel=1e-12)
