"""Learned steps, offsets and bounds: their gradients are the derivatives of surrogates that are written down here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.engine.tensor import Op, Parameter, Tensor
from minimtp.errors import UserError
from minimtp.quant.grids.registry import grid_named
from minimtp.quant.ptq.importance import search_scales
from minimtp.quant.qat.learned import (
    FakeQuantizeLearned,
    LearnedStep,
    LearnedStepAndOffset,
    encode_learned,
    first_logarithms,
    first_logarithms_and_offsets,
    within_levels,
)
from tests.strategies import weight_matrices

NAMES = "q4_0", "q8_0", "int3-ggml-signed-g32", "int2-restricted-g32", "int4-affine-g32"
GRIDS = [grid_named(name) for name in NAMES]
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)
ranges = st.sampled_from([(-8, 7), (-128, 127), (0, 15), (-1, 1), (-2, 1)])
H = 1e-4  # the surrogates are linear in each argument, so a difference is wrong by rounding alone, some 1e-16 / H


def slope(function, at, direction):
    return (function(at + H * direction) - function(at - H * direction)) / (2 * H)


@st.composite
def cases(draw):
    """(w (3, 8), steps (3, 1), range): of all sizes, many on the bounds of the range, on levels and between two."""
    low, high = draw(ranges)
    steps = draw(arrays.arrays(np.float64, (3, 1), elements=st.floats(0.01, 10)))
    special = st.sampled_from(
        [low - 1.0, low - 0.5, low, low + 0.25, 0.0, 0.5, high, high + 0.5, high + 1.0]
    )
    levels = draw(
        arrays.arrays(np.float64, (3, 8), elements=st.one_of(special, st.floats(low - 3, high + 3)))
    )
    return levels * steps, steps, (low, high)


def surrogate(w, steps, frozen):
    """frozen: (what is inside the range, the rounding errors, the bounds outside) at the point of differentiation."""
    inside, errors, bounds = frozen
    return np.where(inside, w + steps * errors, bounds * steps)


def freeze(w, steps, low, high):
    levels = w / steps
    return (
        (levels >= low) & (levels <= high),
        np.rint(levels) - levels,
        np.where(levels > high, high, low),
    )


@given(case=cases(), seed=st.integers(0, 2**32))
def test_lsq_is_the_derivative_of_its_surrogate_to_1e9(own, case, seed):
    w, steps, (low, high) = case
    frozen, gradient = (
        freeze(w, steps, low, high),
        np.random.default_rng(seed).standard_normal(w.shape),
    )
    weight, step = Parameter(w.copy()), Parameter(steps.copy())
    output = own(LearnedStep)(low, high).apply(weight, step)
    assert np.allclose(output.data, surrogate(w, steps, frozen), rtol=1e-12, atol=1e-12)
    output.backward(gradient)
    scale = 1 / np.sqrt(8 * high)
    expected = (
        slope(lambda s: surrogate(w, s, frozen), steps, np.ones_like(steps)) * gradient * scale
    )
    bound = 1e-9 * max(1.0, np.abs(expected).max() * np.sqrt(8))
    assert np.abs(step.grad - expected.sum(axis=1, keepdims=True)).max() <= bound
    expected = slope(lambda x: surrogate(x, steps, frozen), w, np.ones_like(w)) * gradient
    assert np.abs(weight.grad - expected).max() <= 1e-9 * max(1.0, np.abs(expected).max())


@given(case=cases(), offset=st.floats(-5, 5), seed=st.integers(0, 2**32))
def test_lsq_with_an_offset_is_the_derivative_of_its_surrogate_to_1e9(own, case, offset, seed):
    w, steps, (low, high) = case
    offsets = np.full_like(steps, offset)
    w = w + offsets
    frozen, gradient = (
        freeze(w - offsets, steps, low, high),
        np.random.default_rng(seed).standard_normal(w.shape),
    )

    def whole(x, s, b):
        return surrogate(x - b, s, frozen) + b

    inputs = [Parameter(array.copy()) for array in (w, steps, offsets)]
    own(LearnedStepAndOffset)(low, high).apply(*inputs).backward(gradient)
    for position, scale in ((0, 1.0), (1, 1 / np.sqrt(8 * high)), (2, 1 / np.sqrt(8 * high))):
        at = [array.data.copy() for array in inputs]

        def moved(value, position=position, at=at):
            return whole(*(value if i == position else other for i, other in enumerate(at)))

        expected = slope(moved, at[position], np.ones_like(at[position])) * gradient * scale
        expected = expected if position == 0 else expected.sum(axis=1, keepdims=True)
        assert np.abs(inputs[position].grad - expected).max() <= 1e-9 * max(
            1.0, 8 * np.abs(gradient).max() * 130
        )


class LearnedBound(Op):
    """PACT as published: activations x and a positive bound -> multiples of bound / levels, from 0 to the bound."""

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


def test_counter_example_the_staircase_itself_has_another_derivative(own):
    """It is the code, wherever in its interval the weight lies: comparing LSQ with it would fail where LSQ is right."""
    w, step = np.array([[2.3]]), np.array([[1.0]])
    staircase = slope(lambda s: s * np.clip(np.rint(w / s), -8, 7), step, np.ones_like(step))
    learned = Parameter(step.copy())
    own(LearnedStep)(-8, 7).apply(Tensor(w), learned).backward(np.ones((1, 1)))
    assert staircase[0, 0] == pytest.approx(2.0) and learned.grad[0, 0] * np.sqrt(
        7
    ) == pytest.approx(-0.3)


@given(case=cases())
def test_under_a_squared_error_a_step_without_clipped_weights_wants_to_shrink(own, case):
    """The gradient is then the sum of squared rounding errors, in steps: never negative."""
    w, steps, (low, high) = case
    w = np.clip(w / steps, low, high) * steps
    step = Parameter(steps.copy())
    output = own(LearnedStep)(low, high).apply(Tensor(w), step)
    output.backward(2 * (output.data - w))
    assert (step.grad >= -1e-12 * np.abs(w).max() ** 2).all()


# ---------------------------------------------------------------------------------------------------------- on a stored grid


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
    assert codes.min() >= grid.smallest_code and codes.max() <= grid.largest_code
    step = scales.step if isinstance(scales, tuple) else scales
    assert np.array_equal(step, step.astype(np.float16).astype(np.float32))
    seen = FakeQuantizeLearned(grid).apply(Parameter(x), Parameter(t)).data
    assert seen.tobytes() == grid.decode(codes, scales).tobytes()


@each_grid
@pytest.mark.parametrize("shift", [-0.7, -0.2, 0.1])
def test_on_a_grid_the_gradients_are_those_of_lsq_with_the_grids_own_step_held_fixed(grid, shift):
    """In float64 but for the stored scales, so the step is taken as stored; 1e-5 is a float16 scale's worth of kinks."""
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    t = np.full(groups_of(grid, x), shift, np.float32)
    gradient = np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)
    weight, logarithms = Parameter(x.copy()), Parameter(t)
    FakeQuantizeLearned(grid).apply(weight, logarithms).backward(gradient)
    codes, scales = encode_learned(grid, x, t)
    affine = isinstance(scales, tuple)
    step = np.repeat((scales.step if affine else scales).astype(np.float64), 32, axis=1)
    zero = np.repeat(scales.zero.astype(np.float64), 32, axis=1) if affine else 0.0
    levels = x / step
    inside = (levels >= grid.smallest_code - zero) & (levels <= grid.largest_code - zero)
    per_step = np.where(inside, codes - zero - levels, codes - zero)
    assert np.array_equal(weight.grad != 0, inside)
    expected = (gradient * per_step * step).reshape(4, 2, 32).sum(axis=-1).reshape(-1)
    assert np.allclose(logarithms.grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [-0.7, -0.2, 0.1])
@pytest.mark.parametrize("offset", [-3.3, 0.4, 2.0])
def test_learned_offsets_have_the_gradients_of_lsq_with_an_offset(shift, offset):
    """1e-5 as above. The textbook's operation, whose step and offset are the group's as they are stored."""
    grid, low, high = grid_named("q4_1"), 0, 15
    x, gradient = (
        np.random.default_rng(seed).standard_normal((4, 64)).astype(np.float32) for seed in (1, 2)
    )
    own_step = grid.encode(x)[1].step
    weight, t, moves = (
        Parameter(x.copy()),
        Parameter(np.full(8, shift, np.float32)),
        Parameter(np.full(8, offset, np.float32)),
    )
    output = FakeQuantizeLearned(grid).apply(weight, t, moves)
    output.backward(gradient)
    step, minimum = encode_learned(grid, x, t.data, offsets=moves.data)[1]
    np.testing.assert_allclose(step, own_step * np.exp(shift), rtol=2**-10)
    np.testing.assert_allclose(
        minimum, grid.encode(x)[1].minimum + offset * own_step, rtol=2**-10, atol=1e-3 * step.max()
    )
    groups = [Parameter(array.astype(np.float64).reshape(8, 1)) for array in (step, minimum)]
    expected_weight = Parameter(x.reshape(8, 32).astype(np.float64))
    expected = LearnedStepAndOffset(low, high).apply(expected_weight, *groups)
    expected.backward(gradient.reshape(8, 32).astype(np.float64))
    scale = (32 * high) ** -0.5
    assert np.allclose(output.data.reshape(8, 32), expected.data, atol=1e-5)
    assert np.allclose(weight.grad.reshape(8, 32), expected_weight.grad)
    assert np.allclose(
        t.grad, (groups[0].grad * groups[0].data).reshape(-1) / scale, rtol=1e-5, atol=1e-5
    )
    assert np.allclose(
        moves.grad, groups[1].grad.reshape(-1) / scale * own_step.reshape(-1), rtol=1e-5, atol=1e-5
    )
    assert moves.grad.any()


@pytest.mark.parametrize("shift", [-1.1, -0.4])
def test_a_learned_bound_has_the_gradients_of_pact_on_each_side(shift):
    """The textbook's operation on what is positive and on the negative of what is not; the bound is the outermost level."""
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
    start = first_logarithms_and_offsets(grid, x)
    zeros = [np.zeros_like(part) for part in start]
    errors = [
        np.square(grid.decode(*encode_learned(grid, x, t, offsets=b)) - x).mean()
        for t, b in (start, zeros)
    ]
    assert errors[0] < 0.99 * errors[1] and [part.shape for part in start] == [(32,), (32,)]
    assert not any(
        part.any() for part in first_logarithms_and_offsets(grid, np.zeros((2, 64), np.float32))
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
    start = first_logarithms(grid, x)
    errors = [
        np.square(grid.decode(*encode_learned(grid, x, t)) - x).mean()
        for t in (start, np.zeros_like(start))
    ]
    assert errors[0] < errors[1] and start.shape == np.zeros(groups_of(grid, x)).shape
    assert not first_logarithms(grid, np.zeros((2, 64), np.float32)).any()


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


@given(case=cases(), offset=st.floats(-5, 5))
def test_lsq_with_an_offset_gives_the_levels_around_it(case, offset):
    w, steps, (low, high) = case
    inputs = [Tensor(array) for array in (w, steps, np.full_like(steps, offset))]
    expected = steps * np.clip(np.rint((w - offset) / steps), low, high) + offset
    np.testing.assert_allclose(
        LearnedStepAndOffset(low, high).apply(*inputs).data, expected, rtol=1e-12, atol=1e-12
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
        t = first_logarithms(grid, x)
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
    np.testing.assert_allclose(
        first_logarithms(grid, x), np.log(found / own).reshape(-1), rtol=1e-6
    )


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
        lambda: first_logarithms(GRIDS[0], broken, **name),
        lambda: first_logarithms_and_offsets(grid_named("q4_1"), broken, **name),
    ]
    for way in ways:
        with pytest.raises(UserError, match=f"^{said}"):
            way()


@pytest.mark.parametrize("way", [first_logarithms, first_logarithms_and_offsets])
def test_where_nothing_can_be_learned_the_error_names_the_grid(way):
    with pytest.raises(UserError, match="^q4_k "):
        way(grid_named("q4_k"), np.ones((1, 256), np.float32))
