"""Rounding to levels with given steps: the nearest level, and equal results of both kernels."""

from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.helpers.strategies import weight_matrices
from tests.helpers.tolerances import ROUNDING
from tests.kernels.both import cpu, each_kernel, needs_numba


@st.composite
def rounded_with_steps(draw):
    """Return gradients and weights (N, K), and the further arguments of the rounding with steps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    size = draw(st.integers(1, 70))
    shape = rows, -(-columns // size)
    steps = rng.standard_normal(shape).astype(np.float16).astype(np.float32)
    steps[rng.random(shape) < 0.2] = draw(st.sampled_from([0.0, 1e-40, 65504.0]))
    low, high = draw(st.sampled_from([(-8, 7), (-127, 127), (-1, 1)]))
    zeros = rng.integers(low, high + 1, shape).astype(np.float32) if draw(st.booleans()) else None
    minima = rng.standard_normal(shape).astype(np.float32) if draw(st.booleans()) else None
    w = 10.0 ** draw(st.floats(-3, 3)) * rng.standard_normal((rows, columns))
    spread = np.repeat(steps, size, axis=1)[:, :columns]
    on_ties = rng.random(w.shape) < 0.3  # halves of steps, and the outermost levels
    w = np.where(on_ties, spread * rng.integers(2 * low - 2, 2 * high + 3, w.shape) / 2, w)
    w[rng.random(w.shape) < 0.1] = -0.0
    grad = rng.standard_normal((rows, columns)).astype(np.float32)
    return grad, w.astype(np.float32), steps, size, low, high, zeros, minima


def of_weights(groups, size, columns):
    """Repeat one number per group for each weight, float64 (N, columns); None: 0."""
    return 0.0 if groups is None else np.float64(groups).repeat(size, axis=1)[:, :columns]


@needs_numba
@given(arguments=rounded_with_steps())
def test_plain_and_compiled_levels_with_given_steps_have_the_same_bits(arguments):
    _, *rounding = arguments
    found, expected = (kernel.fake_quantize_with_steps(*rounding) for kernel in (cpu, plain))
    assert found.shape == expected.shape and found.tobytes() == expected.tobytes()


@needs_numba
@given(x=weight_matrices(max_magnitude=3e38), power=st.integers(-45, 40))
def test_plain_and_compiled_float16_values_have_the_same_bits(x, power):
    with np.errstate(over="ignore"):
        x = x * np.float32(2.0**power)
        assert cpu.float16_values(x).tobytes() == plain.float16_values(x).tobytes()


@needs_numba
@given(x=weight_matrices(max_magnitude=3e38), size=st.integers(1, 32))
def test_plain_and_compiled_extremes_and_ranges_have_the_same_bits(x, size):
    x = np.ascontiguousarray(x[:, : x.shape[1] // size * size]).reshape(len(x), -1, size)
    assert cpu.signed_extremes(x).tobytes() == plain.signed_extremes(x).tobytes()
    found, expected = cpu.ranges(x), plain.ranges(x)  # the order of 0.0 and -0.0 is not defined
    assert found.shape == expected.shape and np.array_equal(found, expected)


@each_kernel
@given(x=weight_matrices(), place=st.integers(0, 31), sign=st.sampled_from([1.0, -1.0]))
def test_a_nan_is_the_extreme_and_an_end_of_the_range_of_its_group_only(kernel, x, place, sign):
    groups = x.reshape(len(x), -1, 32).copy()
    groups[-1, -1, place] = np.copysign(np.nan, sign)
    extremes, ends = kernel.signed_extremes(groups), kernel.ranges(groups)
    assert np.isnan(extremes[-1, -1]) and np.isnan(ends[-1, -1]).any()
    assert np.isfinite(np.delete(extremes.reshape(-1), -1)).all()
    assert np.isfinite(np.delete(ends.reshape(-1, 2), -1, axis=0)).all()


def step_gradients(kernel, arguments, is_bound):
    """Return the gradients of `learned_step_gradients` for rounded weights, and their levels."""
    grad, w, steps, size, low, high, _, minima = arguments
    levels = plain.fake_quantize_with_steps(*arguments[1:])
    ends = np.float32(low) * steps, np.float32(high) * steps
    return *kernel.learned_step_gradients(grad, w, levels, *ends, size, minima, is_bound), levels


@needs_numba
@given(arguments=rounded_with_steps(), is_bound=st.booleans())
def test_plain_and_compiled_gradients_pass_at_the_same_weights(arguments, is_bound):
    (found, *_), (expected, *_) = (step_gradients(k, arguments, is_bound) for k in (cpu, plain))
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@each_kernel
@given(arguments=rounded_with_steps(), is_bound=st.booleans())
def test_the_gradient_passes_between_the_outermost_levels_inclusive_and_nowhere_else(
    kernel, arguments, is_bound
):
    grad, w, steps, size, low, high, *_ = arguments
    before = grad.copy(), w.copy()
    found, _, _ = step_gradients(kernel, arguments, is_bound)
    first, last = (of_weights(np.float32(code) * steps, size, w.shape[1]) for code in (low, high))
    inside = (w >= np.minimum(first, last)) & (w <= np.maximum(first, last))
    assert found.tobytes() == np.where(inside, grad, np.float32(0)).tobytes()
    assert np.array_equal(found != 0, inside)  # no drawn gradient is 0
    assert before[0].tobytes() == grad.tobytes() and before[1].tobytes() == w.tobytes()


@each_kernel
@given(arguments=rounded_with_steps(), is_bound=st.booleans())
def test_gradients_of_log_steps_are_the_exact_sums_up_to_their_roundings(
    kernel, arguments, is_bound
):
    """A term has 2 roundings, of a difference and of a product, and a sum of n terms n - 1 more."""
    grad, w, steps, size, *_, minima = arguments
    passed, found, levels = step_gradients(kernel, arguments, is_bound)
    inside = passed != 0
    fixed = np.float64(levels if is_bound else w)
    lowest = of_weights(minima, size, w.shape[1])
    terms = np.float64(grad) * (np.float64(levels) - np.where(inside, fixed, lowest))
    assert found.dtype == np.float32 and found.shape == steps.shape
    for group in range(steps.shape[1]):
        of_group = terms[:, group * size : (group + 1) * size]
        roundings = (of_group.shape[1] + 2) * ROUNDING  # (1 + u)^(n + 1) <= 1 + (n + 2) u
        bound = roundings * np.abs(of_group).sum(axis=1) + size * 2.0**-149
        assert (np.abs(found[:, group] - of_group.sum(axis=1)) <= bound).all()


@each_kernel
@given(arguments=rounded_with_steps())
def test_rounding_with_given_steps_picks_the_nearest_of_all_levels(kernel, arguments):
    _, w, steps, size, low, high, zeros, minima = arguments
    found = kernel.fake_quantize_with_steps(w, steps, size, low, high, zeros, minima)
    step, zero, minimum = (of_weights(a, size, w.shape[1]) for a in (steps, zeros, minima))
    codes = np.arange(low, high + 1) - np.broadcast_to(zero, w.shape)[..., None]
    levels = step[..., None] * codes + np.broadcast_to(minimum, w.shape)[..., None]
    least = np.abs(levels - w[..., None]).min(axis=-1)
    usable = np.abs(step) > 1e-38
    rounding = 4 * ROUNDING * (np.abs(w) + np.abs(found) + 2 * np.abs(minimum))
    assert (np.abs(found - w) <= least + rounding)[usable].all()
    assert np.array_equal(found[~usable], np.broadcast_to(minimum, w.shape)[~usable])


@each_kernel
def test_a_nan_stays_a_nan_with_given_steps(kernel):
    w, steps = np.ones((1, 64), np.float32), np.ones((1, 2), np.float32)
    w[0, 3] = np.nan
    found = kernel.fake_quantize_with_steps(w, steps, 32, -8, 7)
    assert np.isnan(found[0, 3]) and (np.delete(found, 3) == 1).all()
