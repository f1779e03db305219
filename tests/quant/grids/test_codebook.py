"""NF4 and ternary grids: levels, masks and counter-examples."""

import math
from statistics import NormalDist

import pytest

from minimtp.backend import numpy as np
from minimtp.quant.grids import grid_named
from minimtp.quant.grids.codebook import NF4_LEVELS
from tests.vectors.ggml_cases import bell

MEANS = np.array([[3.0, -1.0, 0.0, 0.0, -6.0, 2.0]], np.float32)  # the mean magnitude is 2


def test_the_levels_of_nf4_are_quantiles_of_the_normal_distribution():
    """QLoRA, appendix E: eight levels above zero and seven below, from the same outermost
    probability, scaled to a maximum of 1.
    """
    outermost = (1 - 1 / 30 + 1 - 1 / 32) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(outermost, 0.5, 9)[:-1]]
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(outermost, 0.5, 8)[:-1]]
    quantiles = np.sort([*below, 0.0, *above]) / above[0]
    # The published levels were computed in float32 with a rounded probability (0.9677083).
    assert np.abs(quantiles - NF4_LEVELS).max() < 2e-7
    assert list(NF4_LEVELS) == sorted(NF4_LEVELS) and {-1.0, 0.0, 1.0} <= set(NF4_LEVELS)


def test_normal_weights_use_every_nf4_level_about_equally_often():
    codes = grid_named("nf4-g64").encode(bell(9, (256, 512)))[0]
    share = np.bincount(codes.reshape(-1), minlength=16) / codes.size
    # The two outermost levels are rarer, because a group of 64 weights has only one extreme.
    assert share.min() > 0.015 and share.max() < 0.12


def test_a_weight_halfway_between_two_nf4_levels_is_rounded_to_the_lower_one():
    levels = np.array(NF4_LEVELS, np.float32)
    between = (levels[1:] + levels[:-1]) / np.float32(2)
    x = np.concatenate([between, [1]]).astype(np.float32)[None]
    assert grid_named("nf4-channel").encode(x)[0].tolist() == [[*range(15), 15]]


def test_counter_example_nf4_is_not_symmetric():
    x = np.array([[1, 0.5, -0.5]], np.float32)
    assert not np.array_equal(
        grid_named("nf4-channel").fake_quantize(-x), -grid_named("nf4-channel").fake_quantize(x)
    )


def test_ternary_weights_are_zero_or_plus_or_minus_the_mean_magnitude():
    codes, scales = grid_named("ternary-tensor").encode(MEANS)
    # 3/2 is rounded to the even 2, which is clipped to 1, and -1/2 is rounded to the even 0.
    assert scales == 2 and codes.tolist() == [[1, 0, 0, 0, -1, 1]]


def test_counter_example_ternary_rounding_is_not_idempotent():
    grid = grid_named("ternary-tensor")
    once = grid.fake_quantize(MEANS)
    assert not np.array_equal(grid.fake_quantize(once), once)


@pytest.mark.parametrize("mask", ["round-clip", "clip-round"])
def test_ternary_masks_stop_the_gradient_of_clipped_weights(mask):
    passes = [False, True, True, True, False, True]
    assert grid_named("ternary-tensor").straight_through_mask(MEANS, mask).tolist() == [passes]


def test_the_two_ternary_masks_differ_between_one_and_one_and_a_half_steps():
    x = np.array([[2.5, 1.5]], np.float32)  # the mean is 2
    grid = grid_named("ternary-tensor")
    assert grid.straight_through_mask(x, "round-clip").tolist() == [[True, True]]
    assert grid.straight_through_mask(x, "clip-round").tolist() == [[False, True]]


@pytest.mark.parametrize("name", ["ternary-tensor-f32", "ternary-g4-f32"])
def test_small_ternary_layers_are_not_rounded_to_zero_by_an_epsilon(name):
    x = bell(10, (4, 64))
    small = x * np.float32(2.0**-40)
    assert np.array_equal(
        grid_named(name).fake_quantize(small),
        grid_named(name).fake_quantize(x) * np.float32(2.0**-40),
    )


def test_the_mean_magnitude_of_ternary_weights_is_computed_in_double_precision():
    x = bell(12, (8, 5001))
    means = [math.fsum(abs(float(weight)) for weight in row) / 5001 for row in x]
    assert (
        grid_named("ternary-channel-f32").encode(x)[1][:, 0].tolist()
        == np.array(means, np.float32).tolist()
    )
