"""Gradients of learned steps, offsets and bounds are the derivatives of the surrogates below."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.engine.tensor import Parameter, Tensor
from minimtp.quant.grids import grid_named
from minimtp.quant.qat.learned import FakeQuantizeLearned, encode_learned
from tests.helpers.strategies import weight_matrices
from tests.quant.qat.learned_cases import GRIDS, LearnedBound, each_grid, step_count

# Surrogates are linear in each argument, so a difference has only rounding errors, about 1e-16 / H.
H = 1e-4

CHANGED = "the rounded weights are wrong: does the backward pass change `value` in place?"


def slope(function, at, direction):
    """Return the derivative of `function` at `at` in `direction`, by central differences."""
    return (function(at + H * direction) - function(at - H * direction)) / (2 * H)


def assert_close(found, expected, tolerance, what):
    """Compare arrays, and name the first place with the largest difference."""
    difference = np.abs(found - expected)
    at = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    assert difference[at] <= tolerance, (
        f"{what} at {at}: expected {expected[at]:.6g}, got {found[at]:.6g}"
    )


def weights_on_levels_and_bounds(grid, shift):
    """Return weights (4, 64) in float64, and log steps of `shift`.

    Two weights of each group lie exactly on the outermost levels.
    """
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    t = np.full(step_count(grid, x), shift)
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
    """Repeat one number per group of 32 for each weight: float64 (4, 64)."""
    return np.asarray(numbers, np.float64).reshape(4, 2).repeat(32, axis=1)


def total(values):
    """Sum values (4, 64) over groups of 32: (8,)."""
    return values.reshape(8, 32).sum(axis=1)


def test_the_gradient_of_the_log_steps_has_one_number_per_group(own):
    x, log_steps = np.ones((4, 64), np.float32), np.zeros(8, np.float32)
    operation = own(FakeQuantizeLearned)(grid_named("q4_0"))
    operation.forward(x, log_steps)
    found = np.shape(operation.backward(np.ones_like(x))[1])
    assert found == (8,), (
        f"weights (4, 64) have 8 groups: expected a gradient of the shape (8,), got {found}"
    )


@each_grid
@pytest.mark.parametrize("shift", [-0.7, -0.2, 0.0, 0.1])
def test_learned_gradients_are_the_derivatives_of_the_lsq_surrogate(own, grid, shift):
    """The surrogate holds constant the rounding errors in steps and the set of clipped weights."""
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
    error = numbers - x / step  # held constant

    def surrogate(w, log_step):
        now = step * np.exp(spread(log_step - t))
        return np.where(inside, w + now * error, now * numbers)

    assert np.allclose(output.data, surrogate(x, t), rtol=1e-12, atol=1e-12), CHANGED
    expected = slope(lambda w: surrogate(w, t), x, np.ones_like(x)) * gradient
    assert_close(weight.grad, expected, 1e-8, "the gradient of the weights")
    assert np.array_equal(weight.grad != 0, inside), (
        "the gradient of a weight must be 0 if the weight is clipped, and only then"
    )
    expected = total(slope(lambda log_step: surrogate(x, log_step), t, np.ones_like(t)) * gradient)
    tolerance = 1e-7 * max(1.0, np.abs(expected).max())
    assert_close(log_steps.grad, expected, tolerance, "the gradient of the log steps")


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
    tolerance = {"rtol": 2**-10, "atol": 1e-3 * stored_step.max()}
    np.testing.assert_allclose(stored_minimum, own_minimum + offset * own_step, **tolerance)
    step, minimum = spread(stored_step), spread(stored_minimum)
    levels = (x - minimum) / step
    codes = np.clip(np.rint(levels), 0, 15)
    assert np.allclose(output.data, minimum + step * codes, atol=1e-5), CHANGED
    inside = (levels >= 0) & (levels <= 15)

    def surrogate(w, log_step, moved):
        now = step * np.exp(spread(log_step - shift))
        lowest = minimum + spread(moved - offset) * spread(own_step)
        return np.where(inside, w + now * (codes - levels), lowest + now * codes)

    at = [weight.data, log_steps.data.copy(), offsets.data.copy()]
    found = {"weights": weight.grad, "log steps": log_steps.grad, "offsets": offsets.grad}
    for position, (name, each) in enumerate(found.items()):

        def of_one(value, position=position):
            return surrogate(*(value if i == position else other for i, other in enumerate(at)))

        expected = slope(of_one, at[position], np.ones_like(at[position])) * gradient
        expected = expected if position == 0 else total(expected)
        assert_close(each, expected, 1e-6, f"the gradient of the {name}, with offsets")
        assert each.any(), f"the gradient of the {name}, with offsets, is 0 everywhere"


def test_counter_example_the_derivative_of_the_staircase_differs_from_lsq(own):
    """The staircase's derivative is the code, for any weight in the code's interval. LSQ is correct
    although it differs.
    """
    grid, w = grid_named("int4-full-mid-channel"), np.array([[2.3, 7.5]])  # the step is 1
    staircase = slope(lambda s: s * np.clip(np.rint(w / s), -8, 7), np.ones((1, 1)), 1.0)
    log_step = Parameter(np.zeros(1))
    own(FakeQuantizeLearned)(grid).apply(Tensor(w), log_step).backward(np.array([[1.0, 0.0]]))
    assert staircase[0, 0] == pytest.approx(2.0)
    assert log_step.grad[0] == pytest.approx(-0.3), (
        f"w = 2.3 with scale 1 and code 2: expected dq/dt = 2 - 2.3 = -0.3, got "
        f"{log_step.grad[0]:.6g} (the step function's derivative is 2)"
    )


@given(x=weight_matrices(max_magnitude=100.0))
def test_a_squared_error_never_enlarges_a_step_if_no_weight_is_clipped(own, x):
    """The gradient is then twice the sum of squared rounding errors, which is never negative."""
    grid = grid_named("int4-restricted-g32")
    # The rounded step can be too small for the extreme, so clip it.
    bound = 7 * grid.encode(x)[1].repeat(32, axis=1)
    x = np.clip(x, -bound, bound)
    log_steps = Parameter(np.zeros(step_count(grid, x), np.float32))
    output = own(FakeQuantizeLearned)(grid).apply(Tensor(x), log_steps)
    output.backward(2 * (output.data - x))
    assert (log_steps.grad >= 0).all(), (
        "the loss is the squared error and no weight is clipped, so no log step may have a "
        f"negative gradient: got {log_steps.grad.min():.6g}"
    )


@given(
    x=arrays.arrays(np.float64, (4, 6), elements=st.floats(-3, 6)),
    bound=st.floats(0.1, 5),
    levels=st.integers(1, 255),
)
def test_pact_gradients_are_the_derivatives_of_the_clipped_identity(x, bound, levels):
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


def test_at_the_kinks_of_pact_the_gradient_goes_either_to_the_activation_or_to_the_bound():
    inputs, bound = Parameter(np.array([-1.0, 0.0, 1.0, 2.0, 3.0])), Parameter(np.array([2.0]))
    LearnedBound(15).apply(inputs, bound).backward(np.ones(5))
    assert inputs.grad.tolist() == [0, 1, 1, 0, 0] and bound.grad.tolist() == [2]


@pytest.mark.parametrize("shift", [-1.1, -0.4])
def test_a_learned_bound_has_the_gradients_of_pact_for_both_signs(own, shift):
    """The reference is PACT with the outermost level as its bound, applied to the weights for the
    positive ones and to the negated weights for the negative ones.
    """
    grid = grid_named("int4-restricted-g32")
    x, gradient = (
        np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32) for seed in (1, 2)
    )
    weight, t = Parameter(x.copy()), Parameter(np.full(8, shift, np.float32))
    output = own(FakeQuantizeLearned)(grid, bound=True).apply(weight, t)
    output.backward(gradient)
    bounds = 7 * encode_learned(grid, x, t.data)[1].reshape(8, 1).astype(np.float64)
    sides, values, weights = np.zeros(8), 0.0, 0.0
    for sign in (1, -1):
        side = Parameter(sign * x.reshape(8, 32).astype(np.float64))
        bound = Parameter(bounds.copy())
        result = LearnedBound(7).apply(side, bound)
        result.backward(sign * gradient.reshape(8, 32).astype(np.float64))
        values, weights = values + sign * result.data, weights + sign * side.grad
        sides += (bound.grad * bounds).reshape(-1)
    assert np.allclose(output.data.reshape(8, 32), values, atol=1e-5), CHANGED
    assert np.allclose(weight.grad.reshape(8, 32), weights) and not weights.all(), (
        "the gradient of the weights, with a bound, must be 0 for clipped weights only"
    )
    tolerance = 1e-5 * (1 + np.abs(sides)).min()
    assert_close(t.grad, sides, tolerance, "the gradient of the log steps, with `self.bound` set")


def test_gradient_descent_on_log_steps_reduces_the_squared_error():
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


def test_gradients_have_the_dtype_of_their_parameter():
    for dtype in (np.float32, np.float64):
        weight, t = Parameter(np.ones((1, 32), dtype)), Parameter(np.full(1, 0.1, dtype))
        FakeQuantizeLearned(GRIDS[0]).apply(weight, t).backward(np.ones((1, 32), dtype))
        assert weight.grad.dtype == t.grad.dtype == dtype
