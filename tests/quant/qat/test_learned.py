"""Gradients of learned steps, offsets and bounds are the derivatives of the surrogates that are
written down here.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.engine.tensor import Op, Parameter, Tensor
from minimtp.errors import UserError
from minimtp.quant.grids import grid_named
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.qat.learned import (
    FakeQuantizeLearned,
    encode_learned,
    first_log_steps,
    first_log_steps_and_offsets,
    within_levels,
)
from tests.strategies import weight_matrices

NAMES = "q4_0", "q8_0", "int3-ggml-signed-g32", "int2-restricted-g32", "int4-affine-g32"
GRIDS = [grid_named(name) for name in NAMES]
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)
H = 1e-4  # surrogates are linear in each argument, so a difference is wrong by rounding only, about 1e-16 / H


def slope(function, at, direction):
    return (function(at + H * direction) - function(at - H * direction)) / (2 * H)


def weights_on_levels_and_bounds(grid, shift):
    """Weights (4, 64) in float64, with log steps of `shift`. In each group, two lie exactly on the
    outermost levels.
    """
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    t = np.full(groups_of(grid, x), shift)
    codes, scales = encode_learned(grid, x, t)
    for position, code in ((1, grid.min_code), (2, grid.max_code)):
        level = grid.decode(np.full_like(codes, code), scales)
        at = np.s_[:, position::32]
        keeps_the_extreme = np.abs(level) < np.abs(x).reshape(4, 2, 32).max(axis=-1).repeat(
            32, axis=1
        )
        x[at] = np.where(keeps_the_extreme, level, x)[at]
    return x.astype(np.float64), t


def spread(numbers):
    """One number per group of 32 -> one per weight (4, 64), float64."""
    return np.asarray(numbers, np.float64).reshape(4, 2).repeat(32, axis=1)


def total(values):
    """values (4, 64) -> their sums over groups of 32, (8,)."""
    return values.reshape(8, 32).sum(axis=1)


@each_grid
@pytest.mark.parametrize("shift", [-0.7, -0.2, 0.0, 0.1])
def test_learned_gradients_are_the_derivatives_of_the_lsq_surrogate(own, grid, shift):
    """The surrogate freezes the rounding error, in steps, and which weights are clipped."""
    x, t = weights_on_levels_and_bounds(grid, shift)
    gradient = np.random.default_rng(2).standard_normal(x.shape)
    weight, log_steps = Parameter(x.copy()), Parameter(t.copy())
    output = own(FakeQuantizeLearned)(grid).apply(weight, log_steps)
    output.backward(gradient)
    codes, scales = encode_learned(grid, x, t)
    is_affine = isinstance(scales, tuple)
    step = spread(scales.step if is_affine else scales)
    numbers = codes - spread(scales.zero) if is_affine else codes.astype(np.float64)
    ends = [step * (numbers + end - codes) for end in (grid.min_code, grid.max_code)]
    inside = (x >= np.minimum(*ends)) & (x <= np.maximum(*ends))
    error = numbers - x / step  # frozen

    def surrogate(w, log_step):
        now = step * np.exp(spread(log_step - t))
        return np.where(inside, w + now * error, now * numbers)

    assert np.allclose(output.data, surrogate(x, t), rtol=1e-12, atol=1e-12)
    expected = slope(lambda w: surrogate(w, t), x, np.ones_like(x)) * gradient
    assert np.abs(weight.grad - expected).max() <= 1e-8
    assert np.array_equal(weight.grad != 0, inside)
    expected = total(slope(lambda log_step: surrogate(x, log_step), t, np.ones_like(t)) * gradient)
    assert np.abs(log_steps.grad - expected).max() <= 1e-7 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("shift", [-0.7, -0.2, 0.1])
@pytest.mark.parametrize("offset", [-3.3, 0.4, 2.0])
def test_learned_offset_gradients_are_the_derivatives_of_the_lsq_plus_surrogate(own, shift, offset):
    grid = grid_named("q4_1")
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32).astype(np.float64)
    gradient = np.random.default_rng(2).standard_normal(x.shape)
    own_step, own_minimum = grid.encode(x)[1]
    weight = Parameter(x.copy())
    log_steps, offsets = Parameter(np.full(8, shift)), Parameter(np.full(8, offset))
    output = own(FakeQuantizeLearned)(grid).apply(weight, log_steps, offsets)
    output.backward(gradient)
    stored_step, stored_minimum = encode_learned(grid, x, log_steps.data, offsets.data)[1]
    np.testing.assert_allclose(stored_step, own_step * np.exp(shift), rtol=2**-10)
    np.testing.assert_allclose(stored_minimum, own_minimum + offset * own_step, rtol=2**-10,
                               atol=1e-3 * stored_step.max())  # fmt: skip
    step, minimum = spread(stored_step), spread(stored_minimum)
    levels = (x - minimum) / step
    codes = np.clip(np.rint(levels), 0, 15)
    assert np.allclose(output.data, minimum + step * codes, atol=1e-5)
    inside = (levels >= 0) & (levels <= 15)

    def surrogate(w, log_step, moved):
        now = step * np.exp(spread(log_step - shift))
        lowest = minimum + spread(moved - offset) * spread(own_step)
        return np.where(inside, w + now * (codes - levels), lowest + now * codes)

    at = [weight.data, log_steps.data.copy(), offsets.data.copy()]
    for position, found in enumerate((weight.grad, log_steps.grad, offsets.grad)):

        def of_one(value, position=position):
            return surrogate(*(value if i == position else other for i, other in enumerate(at)))

        expected = slope(of_one, at[position], np.ones_like(at[position])) * gradient
        expected = expected if position == 0 else total(expected)
        assert np.abs(found - expected).max() <= 1e-6 and found.any()


def test_counter_example_the_staircase_has_another_derivative_than_lsq(own):
    """It is the code, wherever in its interval the weight lies. Comparing LSQ with it would fail
    although LSQ is right.
    """
    grid, w = grid_named("int4-full-mid-channel"), np.array([[2.3, 7.5]])  # the step is 1
    staircase = slope(lambda s: s * np.clip(np.rint(w / s), -8, 7), np.ones((1, 1)), 1.0)
    log_step = Parameter(np.zeros(1))
    own(FakeQuantizeLearned)(grid).apply(Tensor(w), log_step).backward(np.array([[1.0, 0.0]]))
    assert staircase[0, 0] == pytest.approx(2.0) and log_step.grad[0] == pytest.approx(-0.3)


@given(x=weight_matrices(largest=100.0))
def test_a_squared_error_shrinks_a_step_if_no_weight_is_clipped(own, x):
    """The gradient is then twice the sum of squared rounding errors: never negative."""
    grid = grid_named("int4-restricted-g32")
    bound = 7 * grid.encode(x)[1].repeat(32, axis=1)  # rounding the step can clip the extreme
    x = np.clip(x, -bound, bound)
    log_steps = Parameter(np.zeros(groups_of(grid, x), np.float32))
    output = own(FakeQuantizeLearned)(grid).apply(Tensor(x), log_steps)
    output.backward(2 * (output.data - x))
    assert (log_steps.grad >= 0).all()


class LearnedBound(Op):
    """PACT as published: activations x and a positive bound -> multiples of bound / levels, from 0
    to the bound.
    """

    straight_through = True

    def __init__(self, levels):
        self.levels = levels

    def forward(self, x, bound):
        self.above = x >= bound
        self.between = (x >= 0) & ~self.above
        step = bound / self.levels
        return np.rint(np.clip(x, 0, bound) / step) * step

    def backward(self, gradient):
        return gradient * self.between, gradient * self.above


@given(
    x=arrays.arrays(np.float64, (4, 6), elements=st.floats(-3, 6)),
    bound=st.floats(0.1, 5),
    levels=st.integers(1, 255),
)
def test_pact_is_the_derivative_of_the_clipped_identity_to_1e9(x, bound, levels):
    inputs, bounds = Parameter(x.copy()), Parameter(np.array([bound]))
    output = LearnedBound(levels).apply(inputs, bounds)
    assert (np.abs(output.data - np.clip(x, 0, bound)) <= bound / levels / 2 * (1 + 1e-12)).all()
    off_kinks = (np.abs(x - bound) > 2 * H) & (np.abs(x) > 2 * H)
    gradient = np.random.default_rng(0).standard_normal(x.shape) * off_kinks
    output.backward(gradient)
    expected = slope(lambda a: np.clip(x, 0, a), np.array([bound]), np.ones(1)) * gradient
    assert abs(bounds.grad[0] - expected.sum()) <= 1e-9 * max(1.0, np.abs(expected).sum())
    assert (
        np.abs(
            inputs.grad - slope(lambda z: np.clip(z, 0, bound), x, np.ones_like(x)) * gradient
        ).max()
        <= 1e-9 * 10
    )


def test_on_the_kinks_of_pact_an_activation_belongs_to_the_bound_or_to_itself_and_never_to_both():
    inputs, bound = Parameter(np.array([-1.0, 0.0, 1.0, 2.0, 3.0])), Parameter(np.array([2.0]))
    LearnedBound(15).apply(inputs, bound).backward(np.ones(5))
    assert inputs.grad.tolist() == [0, 1, 1, 0, 0] and bound.grad.tolist() == [2]


# --------------------------------------------------------------------------------- on a stored grid


def groups_of(grid, x):
    return len(encode_groups(grid, x))


def encode_groups(grid, x):
    scales = grid.encode(x)[1]
    return (scales.step if isinstance(scales, tuple) else scales).reshape(-1)


@each_grid
@given(x=weight_matrices(largest=100.0))
@settings(max_examples=25)
def test_a_logarithm_of_zero_is_the_grid_itself_bit_for_bit(grid, x):
    t = np.zeros(groups_of(grid, x), np.float32)
    assert (
        FakeQuantizeLearned(grid).apply(Parameter(x), Parameter(t)).data.tobytes()
        == grid.fake_quantize(x).tobytes()
    )


@each_grid
@given(x=weight_matrices(largest=100.0), seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_training_sees_what_the_file_will_hold(grid, x, seed):
    t = np.random.default_rng(seed).uniform(-1, 0.5, groups_of(grid, x)).astype(np.float32)
    codes, scales = encode_learned(grid, x, t)
    assert codes.min() >= grid.min_code and codes.max() <= grid.max_code
    step = scales.step if isinstance(scales, tuple) else scales
    assert np.array_equal(step, step.astype(np.float16).astype(np.float32))
    seen = FakeQuantizeLearned(grid).apply(Parameter(x), Parameter(t)).data
    assert seen.tobytes() == grid.decode(codes, scales).tobytes()


@pytest.mark.parametrize("shift", [-1.1, -0.4])
def test_a_learned_bound_has_the_gradients_of_pact_on_each_side(shift):
    """The textbook's operation on what is positive and on the negative of what is not; the bound is
    the outermost level.
    """
    grid = grid_named("int4-restricted-g32")
    x, gradient = (
        np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32) for seed in (1, 2)
    )
    weight, t = Parameter(x.copy()), Parameter(np.full(8, shift, np.float32))
    output = FakeQuantizeLearned(grid, bound=True).apply(weight, t)
    output.backward(gradient)
    bounds = 7 * encode_learned(grid, x, t.data)[1].reshape(8, 1).astype(np.float64)
    sides, values, weights = np.zeros(8), 0.0, 0.0
    for sign in (1, -1):
        side, bound = (
            Parameter(sign * x.reshape(8, 32).astype(np.float64)),
            Parameter(bounds.copy()),
        )
        result = LearnedBound(7).apply(side, bound)
        result.backward(sign * gradient.reshape(8, 32).astype(np.float64))
        values, weights = values + sign * result.data, weights + sign * side.grad
        sides += (bound.grad * bounds).reshape(-1)
    assert np.allclose(output.data.reshape(8, 32), values, atol=1e-5)
    assert np.allclose(weight.grad.reshape(8, 32), weights) and not weights.all()
    assert np.allclose(t.grad, sides, rtol=1e-5, atol=1e-5)


def test_learned_offsets_begin_where_steps_and_minima_have_less_squared_error_and_at_zero_for_zeros():
    grid, x = (
        grid_named("q4_1"),
        np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32),
    )
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


@pytest.mark.parametrize("name", ["q4_0", "int4-affine-g32", "q4_k"])
def test_an_offset_that_a_grid_does_not_store_cannot_be_learned(name):
    with pytest.raises(
        UserError,
        match=f"{name} stores no offset beside the step, so none can be learned: use q4_1",
    ):
        encode_learned(
            grid_named(name), np.ones((1, 256), np.float32), np.ones(8), offsets=np.ones(8)
        )


@each_grid
@pytest.mark.parametrize("shift", [-3.0, -1.1, 2.0])
def test_a_step_keeps_its_sign_however_far_it_is_learned(grid, shift):
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    own, learned = (
        grid.encode(x)[1],
        encode_learned(grid, x, np.full(groups_of(grid, x), shift, np.float32))[1],
    )
    own, learned = (
        scales.step if isinstance(scales, tuple) else scales for scales in (own, learned)
    )
    assert np.array_equal(np.sign(learned), np.sign(own)) and np.sign(own).all()


@each_grid
def test_learning_begins_at_steps_with_less_squared_error_than_the_grids_own(grid):
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    start = first_log_steps(grid, x)
    errors = [
        np.square(grid.decode(*encode_learned(grid, x, t)) - x).mean()
        for t in (start, np.zeros_like(start))
    ]
    assert errors[0] < errors[1] and start.shape == np.zeros(groups_of(grid, x)).shape
    assert not first_log_steps(grid, np.zeros((2, 64), np.float32)).any()


def test_descent_on_the_logarithms_finds_steps_that_are_better_than_the_first_ones():
    grid = grid_named("int2-restricted-g32")
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    t = Parameter(np.zeros(32, np.float32))
    losses = []
    for _ in range(200):
        t.grad = None
        output = FakeQuantizeLearned(grid).apply(Tensor(x), t)
        losses.append(float(np.square(output.data - x).mean()))
        output.backward(2 * (output.data - x) / x.size)
        t.data = t.data - np.float32(10.0) * t.grad
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", ["q4_1", "q4_k"])
def test_a_grid_whose_steps_cannot_be_learned_alone_is_an_error_that_names_others(name):
    with pytest.raises(
        UserError, match=f"{name} has more than a step per group, so it cannot be learned: use q4_0"
    ):
        FakeQuantizeLearned(grid_named(name)).apply(
            Parameter(np.ones((1, 256), np.float32)), Parameter(np.ones(8, np.float32))
        )


def test_weights_that_are_not_finite_are_an_error_that_names_them():
    broken = np.full((1, 32), np.nan, np.float32)
    with pytest.raises(UserError, match="qkv.weight holds values that are not finite"):
        FakeQuantizeLearned(GRIDS[0], "qkv.weight").apply(
            Parameter(broken), Parameter(np.ones(1, np.float32))
        )


def test_a_weight_on_its_outermost_level_is_within_the_levels():
    grid = grid_named("int4-ggml-signed-g32")
    x = np.zeros((1, 32), np.float32)
    x[0, :4] = -8, 7, 7.25, -7.75  # the step is 1
    codes, scales = grid.encode(x)
    assert within_levels(grid, x, codes, scales)[0, :5].tolist() == [True, True, False, True, True]
    barely = x.astype(np.float64)
    barely[0, 1] = 7 + 1e-9  # in single precision, as the forward rounds it, this is 7
    assert within_levels(grid, barely, codes, scales)[0, 1]


def test_gradients_have_the_precision_of_what_they_belong_to():
    for dtype in (np.float32, np.float64):
        weight, t = Parameter(np.ones((1, 32), dtype)), Parameter(np.full(1, 0.1, dtype))
        FakeQuantizeLearned(GRIDS[0]).apply(weight, t).backward(np.ones((1, 32), dtype))
        assert weight.grad.dtype == t.grad.dtype == dtype


def test_groups_of_zeros_begin_with_the_grids_own_step_beside_others_that_do_not():
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    x[0, 32:] = 0
    for grid in GRIDS:
        t = first_log_steps(grid, x)
        assert t.dtype == np.float32 and np.isfinite(t).all() and t[1] == 0
        assert (np.delete(t, 1) != 0).any()


def test_a_step_that_is_one_or_is_found_to_be_one_is_learned_like_any_other():
    grid = grid_named("int2-restricted-g32-f32")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 32)).astype(np.float32)
    x[0] /= np.abs(x[0]).max()  # the grid's own step is 1
    own, found = grid.encode(x)[1], search_scales(grid, x)[1]
    x[1] /= found[1]  # the step that is found is 1, or next to it
    own, found = grid.encode(x)[1], search_scales(grid, x)[1]
    assert own[0, 0] == 1
    np.testing.assert_allclose(first_log_steps(grid, x), np.log(found / own).reshape(-1), rtol=1e-6)


@pytest.mark.parametrize(("name", "sign"), [("q4_0", 1), ("q4_0", -1), ("q8_0", 1)])
def test_a_step_learned_beyond_the_largest_that_can_be_stored_is_that_one(name, sign):
    grid = grid_named(name)
    x = np.full((1, 32), sign * 60000.0, np.float32)
    scales = encode_learned(grid, x, np.full(1, 9.0, np.float32))[1]
    assert np.abs(scales).item() == 65504.0 and np.sign(scales) == np.sign(grid.encode(x)[1])


def test_on_a_grid_with_float32_scales_a_learned_step_is_not_rounded_to_fewer_bits():
    grid = grid_named("int4-restricted-g32-f32")
    x = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    t = np.full(1, -0.3, np.float32)
    assert encode_learned(grid, x, t)[1] == grid.encode(x)[1] * np.exp(t)


@pytest.mark.parametrize("given_name", [None, "gate.weight"])
def test_every_way_in_names_the_weights_that_are_not_finite(given_name):
    broken, said = (
        np.full((1, 32), np.nan, np.float32),
        f"{given_name or 'the weights'} holds values that are not finite",
    )
    name = {} if given_name is None else {"name": given_name}
    ways = [
        lambda: FakeQuantizeLearned(GRIDS[0], **name).apply(
            Parameter(broken), Parameter(np.ones(1, np.float32))
        ),
        lambda: encode_learned(GRIDS[0], broken, np.ones(1), **name),
        lambda: first_log_steps(GRIDS[0], broken, **name),
        lambda: first_log_steps_and_offsets(grid_named("q4_1"), broken, **name),
    ]
    for way in ways:
        with pytest.raises(UserError, match=f"^{said}"):
            way()


@pytest.mark.parametrize("way", [first_log_steps, first_log_steps_and_offsets])
def test_where_nothing_can_be_learned_the_error_names_the_grid(way):
    with pytest.raises(UserError, match="^q4_k "):
        way(grid_named("q4_k"), np.ones((1, 256), np.float32))
