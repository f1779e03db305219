"""The twins agree, a row's bits do not depend on its neighbours, and the derivatives are derivatives."""

import importlib.util
import os
import subprocess
import sys
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.decode.model_runner import stretches
from minimtp.decode.rules.tree import Tree
from minimtp.errors import UserError
from minimtp.kernels import plain
from minimtp.kernels.ggml import blocks
from tests.strategies import product_sizes, tree_forms, weight_matrices
from tests.tolerances import COMPARISONS, KERNELS, ROUNDING, assert_close

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(
    not HAS_NUMBA, reason="Numba is missing: there are no compiled kernels to test"
)
if HAS_NUMBA:
    from minimtp.kernels import cpu
else:
    cpu = None
each_twin = pytest.mark.parametrize(
    "kernel", [pytest.param(plain, id="plain"), pytest.param(cpu, id="cpu", marks=needs_numba)]
)


def normal(rng, *shape, spread=1.0):
    return (spread * rng.standard_normal(shape)).astype(np.float32)


def samples(rng):
    """Arguments for every training kernel: ragged sizes that no vector register divides, a row of one, ignored targets."""
    rows, width = int(rng.integers(1, 9)), 2 * int(rng.integers(1, 40))
    x, weight, grad = normal(rng, rows, width), normal(rng, width), normal(rng, rows, width)
    gate_up = normal(rng, rows, 2 * width, spread=8)
    before = int(rng.integers(0, 5))
    scores = normal(rng, 3, rows, before + rows, spread=4)
    targets = rng.integers(-1, width, rows)
    log_sum_exp = plain.cross_entropy(4 * x, targets)[1]
    angles = normal(rng, rows, width // 2)
    moments = normal(rng, width, spread=0.1), normal(rng, width) ** 2
    mask = (rng.random(width) < 0.5).astype(np.float32)
    cache = rows + int(rng.integers(0, 20))
    return {
        "rms_norm": (x, weight, 1e-5),
        "rms_norm_backward": (grad, x, weight, plain.rms_norm(x, weight, 1e-5)[1]),
        "swiglu": (gate_up,),
        "swiglu_backward": (grad, gate_up),
        "gated_update": (x, gate_up),
        "gated_update_backward": (grad, x, gate_up),
        "rotate": (normal(rng, 2, rows, 3, width), np.cos(angles), np.sin(angles)),
        "causal_softmax": (scores, 0.5),
        "causal_softmax_backward": (normal(rng, *scores.shape), plain.causal_softmax(scores.copy(), 0.5), 0.5),
        "cross_entropy": (4 * x, targets),
        "cross_entropy_backward": (4 * x, targets, log_sum_exp, grad[:, 0].copy()),
        "embedding_backward": (grad, rng.integers(0, 3, rows), normal(rng, 3, width)),
        "adamw": (*normal(rng, 2, width), *moments, mask, 1e-2, 0.9, 0.95, 1e-8, 0.1, 3, 0.7),
        "cached_attention": (
            normal(rng, rows, 4, width), normal(rng, 2, width, cache), normal(rng, cache, 2, width),
            int(rng.integers(0, cache - rows + 1)), 0.5,
        ),
    }  # fmt: skip


def terms(name, arguments):
    """The largest magnitude of the terms that a backward subtracts from one another; 0 for a forward."""
    if name == "rms_norm_backward":
        grad, _, weight, inverse_rms = (np.abs(a).max() for a in arguments)
        return grad * weight * inverse_rms
    grad = {"causal_softmax_backward": 0, "cross_entropy_backward": 3}.get(name)
    return 0 if grad is None else np.abs(arguments[grad]).max()


def results(function, arguments, kind):
    """What the function returns or, where it returns nothing, its array arguments afterwards; arguments are copied."""
    arguments = [
        a.astype(kind if a.dtype == np.float32 else a.dtype, copy=True)
        if isinstance(a, np.ndarray)
        else a
        for a in arguments
    ]
    result = function(*arguments)
    if result is None:
        result = tuple(a for a in arguments if isinstance(a, np.ndarray))
    return result if isinstance(result, tuple) else (result,)


# -------------------------------------------------------------------------------------------------- the twins' results


@each_twin
@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_float32_results_are_those_of_float64_up_to_rounding(kernel, name, seed):
    arguments = samples(np.random.default_rng(seed))[name]
    exact = results(getattr(plain, name), arguments, np.float64)
    found = results(getattr(kernel, name), arguments, np.float32)
    for true, result in zip(exact, found, strict=True):
        assert result.shape == true.shape
        if result.dtype.kind == "f":
            assert result.dtype == np.float32
            scale = max(np.abs(true).max(initial=1e-30), terms(name, arguments))
            assert_close(result, true, KERNELS[name], scale)


def test_every_function_has_a_twin_with_the_same_parameters():
    import inspect

    public = {
        name
        for name, f in vars(plain).items()
        if inspect.isfunction(f) and f.__module__.startswith(plain.__name__)
    }
    public -= {name for name in public if name.startswith(("_", "require"))}
    assert KERNELS.keys() < public
    if cpu is not None:
        assert public == {name for name in cpu.__all__}
        for name in public:
            theirs, ours = (
                inspect.signature(getattr(cpu, name)),
                inspect.signature(getattr(plain, name)),
            )
            assert [*theirs.parameters] == [*ours.parameters] or name.startswith("prepare"), name


@each_twin
def test_activations_whose_reciprocal_overflows_become_zero_which_is_more_than_half_a_step_away(
    kernel,
):
    x = np.full((1, 32), 7.4e-42, np.float32)
    codes, scales = kernel.quantize_activations(x)
    assert not codes.any()
    assert x[0, 0] > scales[0, 0] / 2


@needs_numba
@pytest.mark.parametrize(
    "name", ["fake_quantize_q4_0", "fake_quantize_q8_0", "fake_quantize_activations"]
)
@given(x=weight_matrices())
def test_rounding_to_a_grid_is_the_same_bit_for_bit_in_both_twins(name, x):
    assert getattr(cpu, name)(x).tobytes() == getattr(plain, name)(x).tobytes()


@needs_numba
@pytest.mark.parametrize(
    "name", ["fake_quantize_q4_0", "fake_quantize_q8_0", "fake_quantize_activations"]
)
@given(x=weight_matrices(), place=st.integers(0, 31), sign=st.sampled_from([1.0, -1.0]))
def test_a_group_with_a_nan_is_all_nan_in_both_twins_and_its_neighbours_are_as_they_were(
    name, x, place, sign
):
    """No value equals a NaN, so whoever looks for the largest one must not run past the group: numbers lie behind it."""
    expected = getattr(plain, name)(x)
    expected[-1, -32:] = np.nan
    whole = np.ones(x.size + 64, np.float32)
    broken = whole[: x.size].reshape(x.shape)
    broken[...] = x
    broken[-1, place - 32] = np.copysign(np.nan, sign)
    for kernel in (cpu, plain):
        with np.errstate(
            invalid="ignore"
        ):  # of a NaN no code can be made, and none is needed: its step is a NaN
            np.testing.assert_array_equal(getattr(kernel, name)(broken), expected)


@needs_numba
@given(x=weight_matrices(largest=3e38))
def test_rounded_activations_are_the_same_bit_for_bit_in_both_twins(x):
    for ours, theirs in zip(
        cpu.quantize_activations(x), plain.quantize_activations(x), strict=True
    ):
        assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()


@each_twin
def test_activations_too_small_for_a_reciprocal_become_zeros(kernel):
    codes, scales = kernel.quantize_activations(np.full((1, 32), 3e-37, np.float32))
    assert not codes.any() and np.isfinite(scales).all()


@each_twin
@given(x=weight_matrices())
def test_a_rounded_activation_is_within_half_a_step(kernel, x):
    largest = np.abs(x).reshape(len(x), -1, 32).max(axis=2)
    assume(not ((0 < largest) & (largest < 1e-36)).any())
    codes, scales = kernel.quantize_activations(x)
    steps = np.repeat(scales, 32, axis=1).astype(np.float64)
    assert np.abs(codes).max() <= 127
    assert (np.abs(codes * steps - x) <= steps * (0.5 + 128 * ROUNDING)).all()
    assert np.array_equal(
        kernel.fake_quantize_activations(x), codes * np.repeat(scales, 32, axis=1)
    )


@pytest.mark.parametrize(
    "name", ["fake_quantize_q4_0", "fake_quantize_q8_0", "fake_quantize_activations"]
)
def test_float64_values_are_rounded_by_float32_arithmetic(name):
    x = np.random.default_rng(0).standard_normal((4, 64))
    result = getattr(plain, name)(x)
    assert result.dtype == np.float64
    assert np.array_equal(result, getattr(plain, name)(x.astype(np.float32)))


# ------------------------------------------------------------------------------------- meanings, in a few lines each


@each_twin
def test_softmax_is_zero_above_the_diagonal_and_sums_to_one_below(kernel):
    scores = normal(np.random.default_rng(1), 5, 37, 37, spread=100)
    scores[0, 3, 5:] = np.nan  # the future must not be looked at
    p = kernel.causal_softmax(scores, 3.0)
    assert not np.triu(p, 1).any() and (p >= 0).all()
    assert_close(p.sum(axis=-1), np.ones((5, 37)), COMPARISONS["rows of a softmax"])


@each_twin
def test_an_ignored_target_costs_nothing_and_has_no_gradient(kernel):
    logits, targets = normal(np.random.default_rng(2), 4, 9), np.array([-1, 3, -1, 8])
    losses, log_sum_exp = kernel.cross_entropy(logits, targets)
    gradient = kernel.cross_entropy_backward(logits, targets, log_sum_exp, np.ones(4, np.float32))
    assert losses[[0, 2]].tolist() == [0, 0] and (losses[[1, 3]] > 0).all()
    assert not gradient[[0, 2]].any() and gradient[[1, 3]].all()


@each_twin
def test_huge_logits_give_finite_losses(kernel):
    logits = np.array([[1e30, -1e30, 0], [-300, -300, -300], [300, -300, 299]], np.float32)
    losses, _ = kernel.cross_entropy(logits, np.array([0, 1, 2]))
    assert_close(losses, [0, np.log(3), np.log1p(np.exp(1.0))], COMPARISONS["huge logits"])


@each_twin
def test_a_target_or_token_that_does_not_exist_is_an_error(kernel):
    with pytest.raises(IndexError):
        kernel.cross_entropy(np.zeros((1, 3), np.float32), np.array([3]))
    with pytest.raises(IndexError):
        kernel.embedding_backward(
            np.zeros((1, 3), np.float32), np.array([5]), np.zeros((5, 3), np.float32)
        )


@each_twin
def test_swiglu_of_large_gates_is_the_gate_or_nothing(kernel):
    result = kernel.swiglu(np.array([[1e4, -1e4, 200, -200, 0, 1, 2, 3, 4, 5]], np.float32))
    assert_close(result, [[1e4, 0, 600, 0, 0]], COMPARISONS["large gates"])


@each_twin
def test_rotating_back_undoes_a_rotation(kernel):
    rng = np.random.default_rng(3)
    x, angles = normal(rng, 2, 5, 3, 14), rng.uniform(-9, 9, (5, 7))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    rotated = kernel.rotate(x, cos, sin)
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    assert_close(rotated[..., 0::2] + 1j * rotated[..., 1::2], pairs, COMPARISONS["rotated"])
    assert_close(kernel.rotate(rotated, cos, -sin), x, COMPARISONS["rotated"])


@each_twin
def test_attention_over_the_cache_is_a_loop_over_rows_and_heads(kernel):
    rng = np.random.default_rng(4)
    rows, heads, groups, head_dim, start = 5, 6, 2, 12, 9
    q, keys, values = (
        normal(rng, rows, heads, head_dim),
        normal(rng, groups, head_dim, 20),
        normal(rng, 20, groups, head_dim),
    )
    keys[:, :, start + rows :] = values[start + rows :] = (
        np.nan
    )  # what the cache has not been given yet
    found = kernel.cached_attention(q, keys, values, start, 0.3)
    for t in range(rows):
        for head in range(heads):
            group, past = head // (heads // groups), start + t + 1
            weights = np.exp(0.3 * q[t, head].astype(np.float64) @ keys[group, :, :past])
            expected = weights @ values[:past, group] / weights.sum()
            assert_close(found[t, head], expected, COMPARISONS["attention"])


@each_twin
@pytest.mark.parametrize("decay_mask", [1.0, "per parameter"])
def test_adamw_is_the_published_update(kernel, decay_mask):
    rng = np.random.default_rng(5)
    p, m, v = rng.standard_normal(5000), np.zeros(5000), np.zeros(5000)
    mask = 1.0 if decay_mask == 1.0 else (rng.random(5000) < 0.5).astype(np.float32)
    kept = [p.astype(np.float32), np.zeros(5000, np.float32), np.zeros(5000, np.float32)]
    for step in range(1, 6):
        gradient = normal(rng, 5000)
        kernel.adamw(
            kept[0], gradient, kept[1], kept[2], mask, 1e-2, 0.9, 0.95, 1e-8, 0.1, step, 0.5
        )
        g = 0.5 * gradient.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        p = p - 1e-2 * (
            m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8) + 0.1 * mask * p
        )
    assert_close(kept[0], p, COMPARISONS["five steps of adamw"])


# --------------------------------------------------------------------------------------------------------- derivatives


def slope(function, x, direction, step=1e-6):
    """The derivative of a scalar function at x along a direction, by a central difference in float64."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


DERIVATIVES = {
    # name: (function of x and the other arguments, gradient for x given the result's)
    "rms_norm for x": (
        lambda x, c: plain.rms_norm(x, c[0], 1e-3)[0],
        lambda g, x, c: plain.rms_norm_backward(g, x, c[0], plain.rms_norm(x, c[0], 1e-3)[1])[0],
    ),
    "rms_norm for the weight": (
        lambda w, c: plain.rms_norm(c, w[0], 1e-3)[0],
        lambda g, w, c: plain.rms_norm_backward(g, c, w[0], plain.rms_norm(c, w[0], 1e-3)[1])[1],
    ),
    "swiglu": (lambda x, c: plain.swiglu(x), lambda g, x, c: plain.swiglu_backward(g, x)),
    "gated_update for the state": (
        lambda x, c: plain.gated_update(x, np.hstack([c, 2 * c])),
        lambda g, x, c: plain.gated_update_backward(g, x, np.hstack([c, 2 * c]))[0],
    ),
    "gated_update for gate and candidate": (
        lambda x, c: plain.gated_update(c[:, :4], x),
        lambda g, x, c: plain.gated_update_backward(g, c[:, :4], x)[1],
    ),
    "rotate": (
        lambda x, c: plain.rotate(x.reshape(1, 6, 1, 8), np.cos(c[:, :4]), np.sin(c[:, :4])),
        lambda g, x, c: plain.rotate(g, np.cos(c[:, :4]), -np.sin(c[:, :4])).reshape(6, 8),
    ),
    "causal_softmax": (
        lambda x, c: plain.causal_softmax(x[None, :, :6].copy(), 0.7),
        lambda g, x, c: np.pad(
            plain.causal_softmax_backward(
                g.copy(), plain.causal_softmax(x[None, :, :6].copy(), 0.7), 0.7
            )[0],
            ((0, 0), (0, 2)),
        ),
    ),
    "cross_entropy": (
        lambda x, c: plain.cross_entropy(x, np.array([0, 7, -1, 3, 3, 2]))[0],
        lambda g, x, c: plain.cross_entropy_backward(
            x,
            np.array([0, 7, -1, 3, 3, 2]),
            plain.cross_entropy(x, np.array([0, 7, -1, 3, 3, 2]))[1],
            g,
        ),
    ),
}


@pytest.mark.parametrize("name", DERIVATIVES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_each_backward_is_the_derivative_of_its_forward(name, seed):
    forward, backward = DERIVATIVES[name]
    rng = np.random.default_rng(seed)
    x, other, direction = rng.standard_normal((3, 6, 8))
    g = rng.standard_normal(forward(x, other).shape)
    expected = slope(lambda x: float((g * forward(x, other)).sum()), x, direction)
    gradient = backward(g, x, other)
    found = (
        float((gradient * direction).sum())
        if gradient.shape == x.shape
        else float(gradient @ direction[0])
    )
    assert_close(found, expected, COMPARISONS["derivative, float64"])


# ------------------------------------------------------------------------------------------------------------ products


FORMATS = ["f32", "q4_0", "q8_0"]
each_format = pytest.mark.parametrize("format_", FORMATS)


def prepared(kernel, format_, weight):
    if format_ == "f32":
        return kernel.prepare_f32(weight)
    encode, pack = getattr(blocks, f"encode_{format_}"), getattr(blocks, f"pack_{format_}")
    return getattr(kernel, f"prepare_{format_}")(pack(*encode(weight)))


@each_twin
@each_format
def test_the_rows_of_a_prepared_matrix_are_those_that_it_was_made_of(kernel, format_):
    weight = normal(np.random.default_rng(8), 70, 96)
    tokens = np.array([69, 0, 31, 32, 32])
    matrix = prepared(kernel, format_, weight)
    stored = weight if format_ == "f32" else getattr(plain, f"fake_quantize_{format_}")(weight)
    assert kernel.embedding(matrix, tokens).tobytes() == stored[tokens].tobytes()
    with pytest.raises(IndexError):
        kernel.embedding(matrix, np.array([3, 70]))


@each_twin
@each_format
@given(sizes=product_sizes())
def test_a_product_is_the_matrix_product_of_what_was_rounded(kernel, format_, sizes):
    rows, outputs, columns, seed = sizes
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, columns), normal(rng, outputs, columns)
    rounded_x, rounded_weight = x, weight
    if format_ != "f32":
        rounded_x, rounded_weight = (
            plain.fake_quantize_activations(x),
            getattr(plain, f"fake_quantize_{format_}")(weight),
        )
    matrix = prepared(kernel, format_, weight)
    assert (matrix.rows, matrix.columns) == weight.shape
    expected = rounded_x.astype(np.float64) @ rounded_weight.astype(np.float64).T
    magnitude = np.abs(rounded_x).astype(np.float64) @ np.abs(rounded_weight).astype(np.float64).T
    assert_close(
        kernel.linear(x, matrix), expected, COMPARISONS["product"], (columns + 4) * magnitude
    )


@needs_numba
@each_format
@given(sizes=product_sizes(), first=st.integers(0, 19), last=st.integers(1, 20))
def test_a_row_of_a_product_has_the_same_bits_alone_and_in_company(format_, sizes, first, last):
    rows, outputs, columns, seed = sizes
    rng = np.random.default_rng(seed)
    x, matrix = normal(rng, rows, columns), prepared(cpu, format_, normal(rng, outputs, columns))
    together = cpu.linear(x, matrix)
    for part in (slice(first, last), slice(first, first + 1)):
        assert cpu.linear(x[part], matrix).tobytes() == together[part].tobytes()


@needs_numba
@given(seed=st.integers(0, 2**32), columns=st.integers(1, 300), rows=st.integers(1, 9))
def test_a_float_product_takes_any_number_of_columns(seed, columns, rows):
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, columns), normal(rng, 45, columns)
    assert_close(
        cpu.linear(x, cpu.prepare_f32(weight)), x @ weight.T, COMPARISONS["product by NumPy"]
    )


@each_twin
@pytest.mark.parametrize("format_", ["q4_0", "q8_0"])
@pytest.mark.parametrize("extreme", [False, True])
def test_integer_sums_are_exact(kernel, format_, extreme):
    """Integers up to 127 and scales of 1 leave nothing to round, so any wrong or saturated product shows."""
    rng = np.random.default_rng(6)
    low, high = (-8, 7) if format_ == "q4_0" else (-127, 127)
    x, codes = rng.integers(-127, 128, (7, 64)), rng.integers(low, high + 1, (75, 64))
    if extreme:
        x, codes = np.sign(x - 0.5) * 127, rng.choice([low, high], (75, 64))
    x[:, ::32] = 127  # the largest of each group: the activations' scale is 1, too
    packed = getattr(blocks, f"pack_{format_}")(codes.astype(np.int8), np.ones((75, 2), np.float32))
    found = kernel.linear(x.astype(np.float32), getattr(kernel, f"prepare_{format_}")(packed))
    assert np.array_equal(found, x.astype(np.int64) @ codes.astype(np.int64).T)


@each_twin
@each_format
def test_a_product_can_be_written_into_a_given_array(kernel, format_):
    rng = np.random.default_rng(7)
    x, matrix = normal(rng, 3, 64), prepared(kernel, format_, normal(rng, 33, 64))
    out = np.empty((3, 33), np.float32)
    assert kernel.linear(x, matrix, out) is out
    assert np.array_equal(out, kernel.linear(x, matrix))


@each_twin
@each_format
def test_a_product_of_arrays_that_do_not_fit_is_an_error(kernel, format_):
    matrix = prepared(kernel, format_, np.ones((33, 64), np.float32))
    for columns in (96, 65):
        with pytest.raises(ValueError):
            kernel.linear(np.ones((2, columns), np.float32), matrix)
    with pytest.raises(ValueError):
        kernel.linear(np.ones((2, 64), np.float32), matrix, np.empty((3, 33), np.float32))


@each_twin
def test_rows_that_do_not_divide_into_groups_are_an_error(kernel):
    for function in (
        kernel.quantize_activations,
        kernel.fake_quantize_q4_0,
        kernel.fake_quantize_q8_0,
    ):
        with pytest.raises(ValueError, match="groups of 32"):
            function(np.ones((2, 33), np.float32))


@needs_numba
def test_packed_weights_take_their_formats_bytes_up_to_whole_panels():
    weight = np.ones((64, 128), np.float32)
    sizes = {format_: prepared(cpu, format_, weight).nbytes for format_ in FORMATS}
    assert sizes == {"f32": 64 * 128 * 4, "q4_0": 64 * 4 * 18, "q8_0": 64 * 4 * 34}


@needs_numba
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 12),
    start=st.integers(0, 30),
    row=st.integers(0, 11),
)
@settings(max_examples=40)
def test_a_row_of_every_other_decoding_kernel_has_the_same_bits_alone_and_in_company(
    seed, rows, start, row
):
    rng, row = np.random.default_rng(seed), row % rows
    heads, groups, head_dim = [(4, 2, 8), (2, 2, 12), (3, 1, 32)][seed % 3]
    x, weight = normal(rng, rows, 50), normal(rng, 50)
    one = slice(row, row + 1)
    assert (
        cpu.rms_norm(x[one], weight, 1e-5)[0].tobytes()
        == cpu.rms_norm(x, weight, 1e-5)[0][one].tobytes()
    )
    gates = np.hstack([x, x])
    assert (
        cpu.gated_update(x[one], gates[one]).tobytes() == cpu.gated_update(x, gates)[one].tobytes()
    )
    assert cpu.swiglu(8 * x[one]).tobytes() == cpu.swiglu(8 * x)[one].tobytes()
    q, angles = normal(rng, rows, heads, head_dim), normal(rng, 2, rows, head_dim // 2)
    alone = cpu.rotate(q[None, one], angles[0, one], angles[1, one])
    assert alone.tobytes() == cpu.rotate(q[None], *angles)[:, one].tobytes()
    room = start + rows + int(rng.integers(0, 40))
    keys, values = normal(rng, groups, head_dim, room), normal(rng, room, groups, head_dim)
    alone = cpu.cached_attention(q[one], keys, values, start + row, 0.4)
    assert alone.tobytes() == cpu.cached_attention(q, keys, values, start, 0.4)[one].tobytes()


# ---------------------------------------------------------------------------------------------------- a block in one call

WIDTH, HEADS, GROUPS, CHANNELS, INNER, ROOM = 64, 4, 2, 16, 96, 40


def random_block(kernel, format_, matrices=None, head_dim=CHANNELS):
    """A block for `kernel`; its matrices prepared by the kernel `matrices`, if that is another one."""
    rng = np.random.default_rng(10)
    joined = (HEADS + 2 * GROUPS) * head_dim
    shapes = (joined, WIDTH), (WIDTH, HEADS * head_dim), (2 * INNER, WIDTH), (WIDTH, INNER)
    qkv, output, gate_up, down = (
        prepared(matrices or kernel, format_, normal(rng, *s, spread=0.3)) for s in shapes
    )
    return kernel.prepare_block(
        normal(rng, WIDTH), qkv, output, normal(rng, WIDTH), gate_up, down, HEADS, 1e-5
    )


def random_cache(rng, head_dim=CHANNELS):
    return normal(rng, GROUPS, head_dim, ROOM), normal(rng, ROOM, GROUPS, head_dim)


def run_block(kernel, block, x, start, head_dim=CHANNELS):
    """x after the block and the cache's keys and values, which begin as random numbers."""
    rng = np.random.default_rng(11)
    x, (keys, values) = x.copy(), random_cache(rng, head_dim)
    angles = rng.uniform(-9, 9, (ROOM, head_dim // 2))[start : start + len(x)]
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    kernel.transformer_block(x, block, keys, values, start, cosine, sine)
    return x, keys, values


@needs_numba
@each_format
@pytest.mark.parametrize("rows, head_dim", [(1, 16), (3, 16), (8, 16), (3, 24), (5, 40)])
def test_a_block_in_one_call_has_the_bits_of_its_kernels_called_one_by_one(
    format_, rows, head_dim, monkeypatch
):
    x = normal(np.random.default_rng(rows), rows, WIDTH)
    in_one_call = run_block(cpu, random_block(cpu, format_, head_dim=head_dim), x, 7, head_dim)
    block = random_block(plain, format_, cpu, head_dim)
    for name in ("rms_norm", "linear", "rotate", "cached_attention", "swiglu"):
        monkeypatch.setattr(
            plain, name, getattr(cpu, name)
        )  # now plain.transformer_block calls the compiled ones
    for found, expected in zip(in_one_call, run_block(plain, block, x, 7, head_dim), strict=True):
        assert found.tobytes() == expected.tobytes()


@needs_numba
@each_format
def test_rows_through_a_block_together_have_the_bits_of_one_after_the_other(format_):
    x, block = normal(np.random.default_rng(12), 9, WIDTH), random_block(cpu, format_)
    together, keys, values = run_block(cpu, block, x, start=5)
    angles = np.random.default_rng(11)
    cache = random_cache(angles)
    angles = angles.uniform(-9, 9, (ROOM, CHANNELS // 2))
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for t in range(9):
        row, at = x[t : t + 1].copy(), slice(5 + t, 6 + t)
        cpu.transformer_block(row, block, *cache, 5 + t, cosine[at], sine[at])
        assert row.tobytes() == together[t].tobytes()
    assert (keys.tobytes(), values.tobytes()) == (cache[0].tobytes(), cache[1].tobytes())


def random_trunk(kernel, formats, matrices=None):
    """Arguments of `prepare_trunk`: one block for each format, all different, and the output."""
    rng = np.random.default_rng(23)
    joined = (HEADS + 2 * GROUPS) * CHANNELS
    shapes = (joined, WIDTH), (WIDTH, HEADS * CHANNELS), (2 * INNER, WIDTH), (WIDTH, INNER)

    def make(format_):
        qkv, output, gate_up, down = (
            prepared(matrices or kernel, format_, normal(rng, *s, spread=0.3)) for s in shapes
        )
        return normal(rng, WIDTH), qkv, output, normal(rng, WIDTH), gate_up, down

    blocks = [partial(lambda made: made, make(format_)) for format_ in formats]
    return (
        blocks,
        normal(rng, WIDTH),
        prepared(matrices or kernel, "q8_0", normal(rng, 70, WIDTH)),
        HEADS,
        1e-5,
    )


def trunk_step_input(rows):
    rng = np.random.default_rng(29)
    caches = [random_cache(rng) for _ in range(3)]
    angles = rng.uniform(-9, 9, (rows, CHANNELS // 2))
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return (
        normal(rng, rows, WIDTH),
        *(np.stack(part) for part in zip(*caches, strict=True)),
        7,
        cosine,
        sine,
    )


@needs_numba
@each_format
@pytest.mark.parametrize("rows", [1, 6])
def test_a_trunk_in_one_call_has_the_bits_of_its_blocks_norm_and_output_one_by_one(
    format_, rows, monkeypatch
):
    found, expected = trunk_step_input(rows), trunk_step_input(rows)
    arguments = random_trunk(cpu, [format_] * 3)
    logits, hidden = cpu.trunk_step(found[0], cpu.prepare_trunk(*arguments), *found[1:])
    for name in ("prepare_block", "transformer_block", "rms_norm", "linear"):
        monkeypatch.setattr(plain, name, getattr(cpu, name))
    wanted = plain.trunk_step(expected[0], plain.prepare_trunk(*arguments), *expected[1:])
    for a, b in zip((logits, hidden, *found[:3]), (*wanted, *expected[:3]), strict=True):
        assert a.tobytes() == b.tobytes()


@needs_numba
def test_a_compiled_trunk_refuses_blocks_of_different_formats_and_a_wrong_number_of_caches():
    with pytest.raises(ValueError, match="same sizes and formats"):
        cpu.prepare_trunk(*random_trunk(cpu, ["q4_0", "q8_0"]))
    trunk, given = cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 2)), trunk_step_input(1)
    with pytest.raises(ValueError, match="one for each block"):
        cpu.trunk_step(given[0], trunk, *given[1:])


@each_twin
@each_format
@given(form=tree_forms())
@settings(max_examples=15)
def test_a_row_of_a_tree_through_a_block_is_what_it_would_be_at_the_end_of_its_own_path(
    kernel, format_, form
):
    """To the last bit with the compiled kernels; BLAS rounds products of one row and of many differently."""
    start, block = 5, random_block(kernel, format_)
    x, tree = normal(np.random.default_rng(12), len(form), WIDTH), Tree([0] * len(form), form)
    angles = np.random.default_rng(11).uniform(-9, 9, (ROOM, CHANNELS // 2))
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    kept = [np.empty((len(form), GROUPS, CHANNELS), np.float32) for _ in range(2)]
    cache, found, at = random_cache(np.random.default_rng(11)), x.copy(), start + np.array(form)
    kernel.transformer_block(
        found, block, *cache, start, cosine[at], sine[at], (stretches(form, start), *kept)
    )
    for row in range(len(form)):
        path = [0, *tree.path_to(row)]
        keys, values = random_cache(np.random.default_rng(11))
        chain, at = x[path].copy(), slice(start, start + len(path))
        kernel.transformer_block(chain, block, keys, values, start, cosine[at], sine[at])
        last = start + len(path) - 1
        for a, b in (
            (found[row], chain[-1]),
            (kept[0][row], keys[:, :, last]),
            (kept[1][row], values[last]),
        ):
            if kernel is plain:
                assert_close(a, b, COMPARISONS["block"])
            else:
                assert a.tobytes() == b.tobytes()


def run_gated_step(kernel, format_, matrices=None):
    rng = np.random.default_rng(17)
    norms, part = normal(rng, 2, WIDTH), normal(rng, 1, 2 * WIDTH)
    weights = [
        prepared(matrices or kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, 50)
    ]
    state = normal(rng, 1, WIDTH)
    step = kernel.prepare_gated_step(norms[0], weights[0], norms[1], weights[1], 1e-5)
    logits, largest = kernel.gated_step(state, part, step)
    return state, logits, largest


@needs_numba
@each_format
def test_a_drafted_token_in_one_call_has_the_bits_of_its_kernels_called_one_by_one(
    format_, monkeypatch
):
    state, logits, largest = run_gated_step(cpu, format_)
    for name in ("rms_norm", "linear", "gated_update"):
        monkeypatch.setattr(
            plain, name, getattr(cpu, name)
        )  # now plain.gated_step calls the compiled ones
    expected_state, expected_logits, expected_largest = run_gated_step(plain, format_, matrices=cpu)
    assert state.tobytes() == expected_state.tobytes()
    assert logits.tobytes() == expected_logits.tobytes()
    assert_close(largest, expected_largest, COMPARISONS["largest probability, compiled"])


@each_twin
@each_format
def test_token_parts_computed_when_asked_for_draft_what_a_table_of_them_drafts(kernel, format_):
    rng = np.random.default_rng(19)
    norms, state, noise = normal(rng, 3, WIDTH), normal(rng, 1, WIDTH), rng.gumbel(size=(6, 50))
    sizes = 2 * WIDTH, 50, 2 * WIDTH
    from_state, output, from_token = (
        prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in sizes
    )
    step = kernel.prepare_gated_step(norms[0], from_state, norms[1], output, 1e-5)
    computed = kernel.prepare_token_parts(output, norms[2], from_token, 1e-5)
    table = np.concatenate([computed[token : token + 1] for token in range(50)])

    def drafts(parts):
        yield kernel.gated_greedy_draft(state.copy(), 3, parts, 6, 0.0, step)
        yield kernel.gated_sampled_draft(state.copy(), 3, parts, noise, 0.7, 0.0, step)
        yield from kernel.gated_tree(state.copy(), 3, parts, (9, 4, 3), 0.0, 1.5, step, noise, 0.7)

    for one, other in zip(drafts(computed), drafts(table), strict=True):
        assert one.tolist() == other.tolist()


@each_twin
@each_format
@given(least=st.sampled_from([0.0, 1e-4, 1e-2, 0.2]), token=st.integers(0, 49))
@settings(max_examples=12)
def test_a_greedy_draft_is_its_drafted_tokens_one_by_one(kernel, format_, least, token):
    rng = np.random.default_rng(17)
    norms, parts, state = normal(rng, 2, WIDTH), normal(rng, 50, 2 * WIDTH), normal(rng, 1, WIDTH)
    weights = [prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, 50)]
    step = kernel.prepare_gated_step(norms[0], weights[0], norms[1], weights[1], 1e-5)
    drafts = kernel.gated_greedy_draft(state.copy(), token, parts, 6, least, step)
    confidence, expected = 1.0, []
    for _ in range(6):
        logits, largest = kernel.gated_step(state, parts[token : token + 1], step)
        confidence *= largest
        if confidence < least:
            break
        token = int(logits.argmax())
        expected.append(token)
    assert drafts.tolist() == expected


@each_twin
@each_format
@given(
    least=st.sampled_from([0.0, 1e-4, 1e-2]),
    token=st.integers(0, 49),
    temperature=st.sampled_from([0.5, 1.0]),
)
@settings(max_examples=12)
def test_a_sampled_draft_and_a_tree_are_their_drafted_tokens_one_by_one(
    kernel, format_, least, token, temperature
):
    """A tree that is one token wide is the chain, and every other node is the likeliest of those that are left."""
    rng = np.random.default_rng(18)
    norms, parts, state = normal(rng, 2, WIDTH), normal(rng, 50, 2 * WIDTH), normal(rng, 1, WIDTH)
    weights = [prepared(kernel, format_, normal(rng, rows, WIDTH)) for rows in (2 * WIDTH, 50)]
    noise = rng.gumbel(size=(6, 50))
    step = kernel.prepare_gated_step(norms[0], weights[0], norms[1], weights[1], 1e-5)
    drafts = kernel.gated_sampled_draft(state.copy(), token, parts, noise, temperature, least, step)

    def follow(state, token, depth):
        logits, largest = kernel.gated_step(state, parts[token : token + 1], step)
        return logits[0] / np.float32(temperature) + noise[depth], float(largest)

    confidence, expected, own, last = 1.0, [], state.copy(), token
    for index in range(6):
        scores, largest = follow(own, last, index)
        confidence *= largest
        if confidence < least:
            break
        last = int(scores.argmax())
        expected.append(last)
    assert drafts.tolist() == expected

    tokens, parents = kernel.gated_tree(
        state.copy(), token, parts, (6, 6, 1), 0.0, 1.5, step, noise, temperature
    )
    assert tokens[1 : len(drafts) + 1].tolist() == drafts.tolist() and parents.tolist() == list(
        range(-1, 6)
    )
    tokens, parents = kernel.gated_tree(
        state.copy(), token, parts, (9, 4, 3), least, 1.5, step, noise, temperature
    )
    states, chances, depths, left = [state], [1.0], [0], {}
    for node in range(len(tokens)):
        if node:
            assert left[parents[node], tokens[node]] == max(left.values()) >= least
            chances.append(left.pop((parents[node], tokens[node])))
            states.append(states[parents[node]])
            depths.append(depths[parents[node]] + 1)
        if depths[node] < 4:
            states[node] = states[node].copy()
            scores, _ = follow(states[node], int(tokens[node]), depths[node])
            beliefs = np.exp(1.5 * (scores - scores.max()))
            likeliest = np.argsort(-scores, kind="stable")[:3]
            left |= {
                (node, int(i)): chances[node] * float(beliefs[i] / beliefs.sum()) for i in likeliest
            }
    assert len(tokens) == 10 or max(left.values(), default=0) < least


@each_twin
def test_the_largest_probability_of_a_drafted_token_is_that_of_its_logits(kernel):
    _, logits, largest = run_gated_step(kernel, "f32")
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    assert_close(largest, 1 / exponentials.sum(), COMPARISONS["largest probability, float64"])


@each_twin
@pytest.mark.parametrize("head_dim", [4, 12, 16])
def test_a_block_of_any_width_of_heads_is_that_of_float64(kernel, head_dim):
    x = normal(np.random.default_rng(16), 5, WIDTH)
    exact = random_block(plain, "f32", head_dim=head_dim)
    expected, _, _ = run_block(plain, exact, x.astype(np.float64), 7, head_dim)
    found, _, _ = run_block(kernel, random_block(kernel, "f32", head_dim=head_dim), x, 7, head_dim)
    assert_close(found, expected, COMPARISONS["block"])


@each_twin
@given(seed=st.integers(0, 2**32), temperature=st.sampled_from([1.0, 0.5, 2.5]))
def test_the_token_chosen_has_the_largest_score_and_of_equals_the_lowest_id(
    kernel, seed, temperature
):
    rng = np.random.default_rng(seed)
    logits, noise = (
        rng.integers(0, 5, (6, 9)).astype(np.float32),
        rng.integers(0, 3, (6, 9)).astype(np.float64),
    )
    for given_noise in (noise, None):
        scores = logits / np.float32(temperature) + (0 if given_noise is None else noise)
        for row, token in enumerate(kernel.choose(logits, temperature, given_noise).tolist()):
            assert all(score < scores[row, token] for score in scores[row, :token])
            assert all(score <= scores[row, token] for score in scores[row, token:])


@each_twin
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_token_whose_logit_is_no_finite_number_is_not_chosen_silently(kernel, value):
    logits = np.zeros((3, 5), np.float32)
    logits[1, 3] = value
    assert kernel.choose(logits, 0.8, np.zeros((3, 5))).tolist() == [0, -1, 0]


@needs_numba
def test_activations_that_cannot_be_written_to_are_read_all_the_same():
    x, weight = normal(np.random.default_rng(18), 2, 64), normal(np.random.default_rng(19), 33, 64)
    expected = cpu.linear(x, prepared(cpu, "q4_0", weight))
    x.flags.writeable = False
    assert np.array_equal(cpu.linear(x, prepared(cpu, "q4_0", weight)), expected)


@each_twin
def test_a_block_writes_its_own_rows_of_the_cache_only_and_refuses_rows_without_room(kernel):
    x, block = normal(np.random.default_rng(13), 3, WIDTH), random_block(kernel, "f32")
    before = random_cache(np.random.default_rng(11))
    _, *after = run_block(kernel, block, x, start=ROOM - 3)
    for old, new in zip(before, after, strict=True):
        old, new = (
            array if array.shape[0] == ROOM else array.transpose(2, 0, 1) for array in (old, new)
        )
        assert np.array_equal(old[:-3], new[:-3]) and (old[-3:] != new[-3:]).all()
    with pytest.raises(ValueError, match="fit"):
        angles = np.ones((3, CHANNELS // 2), np.float32)
        kernel.transformer_block(x, block, *before, ROOM - 2, angles, angles)


@needs_numba
@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("name", ["Q4Shorts", "Q4Dots", "Q8Shorts", "Q8Dots"])
def test_every_way_to_multiply_codes_gives_the_same_bits(name, portable, monkeypatch):
    from minimtp.kernels.cpu.matrices import code_products
    from minimtp.kernels.cpu.matrices import packed_linear as cpu_products
    from minimtp.kernels.cpu.matrices import tiles as cpu_tiles
    from minimtp.kernels.cpu.matrices import vectors as cpu_vectors

    kind, format_ = getattr(code_products, name), f"{name[:2].lower()}_0"
    rng = np.random.default_rng(8)
    x, weight = normal(rng, 3, 96), normal(rng, 32, 96)
    weight[:, :32] *= 1e-5  # scales that are subnormal float16
    expected = cpu.linear(x, prepared(cpu, format_, weight))
    if portable:
        monkeypatch.setattr(cpu_vectors, "special_instructions", lambda context_length: set())
    monkeypatch.setattr(
        cpu_products, "Q8", kind
    )  # how the codes of q8_0 are stored depends on how they are multiplied
    panels = prepared(cpu, format_, weight).panels
    rounding, tile = kind.round_rows, cpu_tiles.quantized_tile({0: kind}, 3)

    @cpu.numba.njit
    def multiply(x, panels, codes, scales, starts, y, fetches):
        rounding(x, codes, scales, starts)
        tile(0, codes, scales, starts, 0, panels, 0, y, 0, 0, fetches)

    codes = np.empty((3, 96), np.int8 if kind.code_size == 1 else np.int16)
    y = np.empty((3, 32), np.float32)
    multiply(x, panels, codes, np.empty((3, 3), np.float32), np.empty((3, 3), np.int32), y, 1)
    assert y.tobytes() == expected.tobytes()


@needs_numba
@pytest.mark.parametrize(
    "totals", [4, 8, 16]
)  # 1, 2 or 4 vectors a part, as far as a panel has so many
@pytest.mark.parametrize("of_columns", [False, True])
def test_a_tile_that_is_done_in_parts_gives_the_bits_of_a_whole_one(
    totals, of_columns, monkeypatch
):
    from minimtp.kernels.cpu.matrices import tiles as cpu_tiles

    monkeypatch.setattr(cpu_tiles, "FLOAT_TOTALS", totals)
    tile = cpu_tiles.float_tile(4, of_columns)

    @cpu.numba.njit
    def multiply(x, weights, start, stride, depth, y, fetches):
        tile(x, 1, weights, start, stride, depth, y, 2, 5, fetches)

    rng, stretch = np.random.default_rng(9), cpu_tiles.STRETCH
    for depth in (1, stretch - 1, stretch, stretch + 1, 2 * stretch, 2 * stretch + 44):
        x, weight = normal(rng, 5, depth), normal(rng, 32, depth)
        whole = cpu.linear(x[1:], cpu.prepare_f32(weight))
        for fetches, stride, start in ((0, 32, 0), (1, 32, 0), (0, 40, 3)):
            lines = np.full(start + depth * stride, np.nan, np.float32)
            lines[start:].reshape(depth, stride)[:, :32] = weight.T
            found = np.full((7, 40), np.nan, np.float32)
            multiply(
                np.ascontiguousarray(x.T) if of_columns else x,
                lines,
                start,
                stride,
                depth,
                found,
                fetches,
            )
            assert found[2:6, 5:37].tobytes() == whole.tobytes()
            found[2:6, 5:37] = np.nan
            assert np.isnan(found).all()
    nothing = np.full((7, 40), np.nan, np.float32)
    multiply(
        np.empty((0, 5) if of_columns else (5, 0), np.float32),
        np.empty(0, np.float32),
        0,
        32,
        0,
        nothing,
        0,
    )
    assert not nothing[2:6, 5:37].any()


# ----------------------------------------------------------------------------------------- functions of single floats


@needs_numba
def test_the_exponential_is_accurate_to_two_roundings_and_never_negative():
    from minimtp.kernels.cpu import math as cpu_math

    @cpu.numba.njit
    def each(x, y):
        for i in range(y.shape[0]):
            y[i] = cpu_math.exponential(x[i])

    x = np.concatenate(
        [np.linspace(-87.3, 88.3, 400_001), np.linspace(-1e-3, 1e-3, 10_001)]
    ).astype(np.float32)
    y = np.empty_like(x)
    each(x, y)
    assert_close(y, np.exp(x.astype(np.float64)), COMPARISONS["exp"])
    special, y = (
        np.array([0, -87.4, -200, -1e30, -np.inf, 1e30, np.nan], np.float32),
        np.empty(7, np.float32),
    )
    each(special, y)
    assert y[:5].tolist() == [1, 0, 0, 0, 0] and 2e38 < y[5] < np.inf and np.isnan(y[6])


@needs_numba
def test_rounding_to_float16_is_numpys():
    from minimtp.kernels.cpu import math as cpu_math

    @cpu.numba.njit
    def each(x, y):
        for i in range(y.shape[0]):
            y[i] = cpu_math.as_float16(x[i])

    anything = np.random.default_rng(9).integers(0, 2**32, 300_000, np.uint32).view(np.float32)
    halves = (
        np.arange(31 << 10, dtype=np.uint16).view(np.float16).astype(np.float32)
    )  # all that are finite, from 0 up
    ties = 0.5 * (halves[1:] + halves[:-1])
    edges = np.array([65519.996, 65520, -65520, np.inf], np.float32)  # where float16 ends
    x = [
        anything[np.isfinite(anything)],
        halves,
        ties,
        np.nextafter(ties, np.float32(0)),
        -ties,
        edges,
    ]
    x = np.concatenate(x).astype(np.float32)
    y = np.empty_like(x)
    each(x, y)
    with np.errstate(over="ignore"):
        assert y.tobytes() == x.astype(np.float16).astype(np.float32).tobytes()


@needs_numba
@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_the_largest_of_a_row_is_found_among_any_floats(values):
    from minimtp.kernels.cpu import math as cpu_math

    row = np.array(values, np.float32)
    assert cpu_math.largest(row) == row.max()


# --------------------------------------------------------------------------------------------------- choosing the twin


def run_python(code, **environment):
    """stdout and stderr of a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def test_the_array_decides_which_twin_fits():
    assert kernels.for_array(np.zeros(1)) is plain  # float64 is for proofs
    assert kernels.for_array(np.zeros(1, np.float32)) is (plain if cpu is None else cpu)
    assert kernels.for_array(np.zeros(1, np.uint8)) is (plain if cpu is None else cpu)
    kernels.use("plain")
    try:
        assert kernels.for_array(np.zeros(1, np.float32)) is plain
        assert kernels.describe()[0] == "plain"
    finally:
        kernels.use("auto")
    assert kernels.describe()[0] == ("plain" if cpu is None else "cpu")


def test_unknown_kernels_are_refused_by_name():
    with pytest.raises(UserError, match="auto or plain"):
        kernels.use("fastest")


def test_the_environment_can_ask_for_plain_kernels_and_numba_is_then_never_imported():
    code = (
        "import sys, minimtp.kernels as k; from minimtp.backend import numpy as np\n"
        "print(k.for_array(np.zeros(1, np.float32)).__name__, 'numba' in sys.modules)"
    )
    assert run_python(code, MINIMTP_KERNELS="plain") == ("minimtp.kernels.plain False\n", "")


def test_without_numba_everything_works_and_says_once_how_to_be_faster():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import minimtp.kernels as k; from minimtp.backend import numpy as np\n"
        "for _ in range(3): print(k.for_array(np.zeros(1, np.float32)).__name__)\n"
        "print(k.describe())"
    )
    out, errors = run_python(code, MINIMTP_KERNELS="auto")
    assert out.splitlines()[:3] == ["minimtp.kernels.plain"] * 3
    assert errors.count("\n") == 1 and 'pip install "minimtp[fast]"' in errors
    assert 'pip install "minimtp[fast]"' in out.splitlines()[3]


@needs_numba
def test_compiling_is_announced_once_and_happens_once(tmp_path):
    code = (
        "import minimtp.kernels as k; from minimtp.backend import numpy as np\n"
        "x = np.ones((2, 4), np.float32); f = k.for_array(x)\n"
        "print(f.quantize_activations(np.ones((1, 32), np.float32))[0][0, 0])\n"
        "f.embedding_backward(x, np.array([0, 1]), x.copy())"
    )
    first = run_python(code, NUMBA_CACHE_DIR=str(tmp_path), MINIMTP_KERNELS="auto")
    again = run_python(code, NUMBA_CACHE_DIR=str(tmp_path), MINIMTP_KERNELS="auto")
    assert first[0] == again[0] == "127\n"
    assert first[1].count("compiling kernels") == 1 and again[1] == ""
