"""Learned steps: values in training and in the file, initial steps, and errors."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.engine.tensor import Parameter
from minimtp.errors import UserError
from minimtp.quant.grids import grid_named
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.qat.learned import (
    FakeQuantizeLearned,
    encode_learned,
    first_log_steps,
    first_log_steps_and_offsets,
    learned_gradients,
)
from tests.helpers.strategies import weight_matrices
from tests.quant.qat.learned_cases import GRIDS, each_grid, step_count


@each_grid
@given(x=weight_matrices(max_magnitude=100.0))
@settings(max_examples=25)
def test_log_steps_of_zero_give_the_values_of_the_grid_bit_for_bit(grid, x):
    t = np.zeros(step_count(grid, x), np.float32)
    assert (
        FakeQuantizeLearned(grid).apply(Parameter(x), Parameter(t)).data.tobytes()
        == grid.fake_quantize(x).tobytes()
    )


@each_grid
@given(x=weight_matrices(max_magnitude=100.0), seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_training_uses_the_values_that_the_file_will_store(grid, x, seed):
    t = np.random.default_rng(seed).uniform(-1, 0.5, step_count(grid, x)).astype(np.float32)
    codes, scales = encode_learned(grid, x, t)
    assert codes.min() >= grid.min_code and codes.max() <= grid.max_code
    step = scales.step if isinstance(scales, tuple) else scales
    assert np.array_equal(step, step.astype(np.float16).astype(np.float32))
    seen = FakeQuantizeLearned(grid).apply(Parameter(x), Parameter(t)).data
    assert seen.tobytes() == grid.decode(codes, scales).tobytes()


@each_grid
@pytest.mark.parametrize("shift", [-3.0, -1.1, 2.0])
def test_a_learned_step_keeps_its_sign_for_any_log_step(grid, shift):
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    own = grid.encode(x)[1]
    learned = encode_learned(grid, x, np.full(step_count(grid, x), shift, np.float32))[1]
    own, learned = (
        scales.step if isinstance(scales, tuple) else scales for scales in (own, learned)
    )
    assert np.array_equal(np.sign(learned), np.sign(own)) and np.sign(own).all()


@pytest.mark.parametrize(("name", "sign"), [("q4_0", 1), ("q4_0", -1), ("q8_0", 1)])
def test_a_learned_step_is_limited_to_the_largest_that_can_be_stored(name, sign):
    grid = grid_named(name)
    x = np.full((1, 32), sign * 60000.0, np.float32)
    scales = encode_learned(grid, x, np.full(1, 9.0, np.float32))[1]
    assert np.abs(scales).item() == 65504.0 and np.sign(scales) == np.sign(grid.encode(x)[1])


def test_a_learned_step_is_not_rounded_if_the_grid_stores_float32_scales():
    grid = grid_named("int4-restricted-g32-f32")
    x = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    t = np.full(1, -0.3, np.float32)
    assert encode_learned(grid, x, t)[1] == grid.encode(x)[1] * np.exp(t)


def test_a_weight_on_its_outermost_level_is_within_the_levels():
    grid = grid_named("int4-ggml-signed-g32")
    x = np.zeros((1, 32), np.float32)
    x[0, :4] = -8, 7, 7.25, -7.75  # the step is 1
    scales, gradient = grid.encode(x)[1], np.ones((1, 32), np.float32)
    expected = [True, True, False, True, True]
    passed, _ = learned_gradients(grid, scales, gradient, x, x)
    assert passed[0, :5].tolist() == expected
    barely = x.astype(np.float64)
    barely[0, 1] = 7 + 1e-9  # the forward pass rounds in float32, in which this is 7
    gradient = gradient.astype(np.float64)
    assert learned_gradients(grid, scales, gradient, barely, barely)[0][0, 1] == 1


# ------------------------------------------------------------------------------------ initial steps


@each_grid
def test_initial_learned_steps_have_a_smaller_squared_error_than_the_grids_own(grid):
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    start = first_log_steps(grid, x)
    errors = [
        np.square(grid.decode(*encode_learned(grid, x, t)) - x).mean()
        for t in (start, np.zeros_like(start))
    ]
    assert errors[0] < errors[1] and start.shape == np.zeros(step_count(grid, x)).shape
    assert not first_log_steps(grid, np.zeros((2, 64), np.float32)).any()


def test_initial_learned_offsets_reduce_the_squared_error_and_are_zero_for_zeros():
    grid = grid_named("q4_1")
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    start = first_log_steps_and_offsets(grid, x)
    zeros = [np.zeros_like(part) for part in start]
    errors = [
        np.square(grid.decode(*encode_learned(grid, x, t, offsets=b)) - x).mean()
        for t, b in (start, zeros)
    ]
    assert errors[0] < 0.99 * errors[1] and [part.shape for part in start] == [(32,), (32,)]
    assert not any(
        part.any() for part in first_log_steps_and_offsets(grid, np.zeros((2, 64), np.float32))
    )


def test_groups_of_zeros_start_with_the_grids_own_step_next_to_groups_that_do_not():
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    x[0, 32:] = 0
    for grid in GRIDS:
        t = first_log_steps(grid, x)
        assert t.dtype == np.float32 and np.isfinite(t).all() and t[1] == 0
        assert (np.delete(t, 1) != 0).any()


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "int3-ggml-signed-g32"])
def test_initial_log_steps_are_finite_if_the_two_largest_weights_nearly_cancel(name):
    """The sign of the step is that of the largest weight, which rounding can exchange."""
    x = (np.random.default_rng(0).standard_normal((300, 32)) * 0.02).astype(np.float32)
    x[:, 3] = 1.3 * np.abs(x).max(axis=1)
    x[:, 20] = -np.nextafter(x[:, 3], np.float32(9))
    assert np.isfinite(first_log_steps(grid_named(name), x)).all()


def test_initial_log_steps_are_correct_even_if_an_own_or_searched_step_is_one():
    grid = grid_named("int2-restricted-g32-f32")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 32)).astype(np.float32)
    x[0] /= np.abs(x[0]).max()  # the grid's own step is 1
    own, found = grid.encode(x)[1], search_scales(grid, x)[1]
    x[1] /= found[1]  # the searched step is 1, or next to 1
    own, found = grid.encode(x)[1], search_scales(grid, x)[1]
    assert own[0, 0] == 1
    np.testing.assert_allclose(first_log_steps(grid, x), np.log(found / own).reshape(-1), rtol=1e-6)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", ["q4_0", "int4-affine-g32", "q4_k"])
def test_an_offset_that_a_grid_does_not_store_cannot_be_learned(name):
    with pytest.raises(
        UserError, match=f"{name} has no offset, so none can be learned: use q4_1 or q5_1"
    ):
        encode_learned(
            grid_named(name), np.ones((1, 256), np.float32), np.ones(8), offsets=np.ones(8)
        )


@pytest.mark.parametrize("name", ["q4_1", "q4_k"])
def test_a_grid_whose_steps_cannot_be_learned_alone_is_an_error_that_suggests_another(name):
    with pytest.raises(
        UserError, match=f"{name} has more than a step per group, so it cannot be learned: use q4_0"
    ):
        FakeQuantizeLearned(grid_named(name)).apply(
            Parameter(np.ones((1, 256), np.float32)), Parameter(np.ones(8, np.float32))
        )


def test_non_finite_weights_are_an_error_that_names_them():
    broken = np.full((1, 32), np.nan, np.float32)
    with pytest.raises(UserError, match="qkv.weight holds values that are not finite"):
        FakeQuantizeLearned(GRIDS[0], "qkv.weight").apply(
            Parameter(broken), Parameter(np.ones(1, np.float32))
        )


@pytest.mark.parametrize("given_name", [None, "gate.weight"])
def test_every_entry_point_rejects_non_finite_weights_by_name(given_name):
    broken = np.full((1, 32), np.nan, np.float32)
    message = f"{given_name or 'the weights'} holds values that are not finite"
    name = {} if given_name is None else {"name": given_name}
    entry_points = [
        lambda: FakeQuantizeLearned(GRIDS[0], **name).apply(
            Parameter(broken), Parameter(np.ones(1, np.float32))
        ),
        lambda: encode_learned(GRIDS[0], broken, np.ones(1), **name),
        lambda: first_log_steps(GRIDS[0], broken, **name),
        lambda: first_log_steps_and_offsets(grid_named("q4_1"), broken, **name),
    ]
    for call in entry_points:
        with pytest.raises(UserError, match=f"^{message}"):
            call()


@pytest.mark.parametrize("first", [first_log_steps, first_log_steps_and_offsets])
def test_initial_steps_of_a_grid_without_learnable_steps_are_an_error_that_names_the_grid(first):
    with pytest.raises(UserError, match="^q4_k "):
        first(grid_named("q4_k"), np.ones((1, 256), np.float32))
