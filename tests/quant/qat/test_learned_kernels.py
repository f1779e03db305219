"""Learned steps give the same levels and the same gradients with both kinds of kernels, for every
grid whose steps can be learned.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.quant.grids import grid_named
from minimtp.quant.grids.scales import group_total
from minimtp.quant.qat.learned import FakeQuantizeLearned, encode_learned
from tests.helpers.strategies import matrices_for
from tests.helpers.tolerances import ROUNDING
from tests.kernels.both import needs_numba

WITH_STEPS = (
    "q4_0", "q5_0", "q8_0", "nf4-g16", "nf4-channel", "ternary-g8", "ternary-tensor",
    "int4-restricted-g32", "int3-full-mid-g24", "int4-ggml-signed-channel",
    "int2-restricted-tensor-f32", "int4-affine-g32", "int8-affine-channel", "int3-affine-g30-f32",
)  # fmt: skip
WITH_OFFSETS = "q4_1", "q5_1"
each_grid = pytest.mark.parametrize("name", WITH_STEPS + WITH_OFFSETS)


def drawn(data, name):
    """Return weights (N, K), a gradient, and the learned numbers of each group."""
    grid = grid_named(name)
    x = data.draw(matrices_for(grid, 1000.0))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x[:, : x.shape[1] // 3] *= data.draw(st.sampled_from([0.0, 1.0]))  # perhaps groups of zeros
    rows, groups = grid.scales_shape(*x.shape)
    log_steps = rng.uniform(-2, 0.5, rows * groups).astype(np.float32)
    learned = [log_steps]
    if name in WITH_OFFSETS:
        learned.append(rng.uniform(-3, 3, rows * groups).astype(np.float32))
    return grid, x, rng.standard_normal(x.shape).astype(np.float32), learned


def results(kernel, grid, x, gradient, learned, bound):
    """Return the levels and the gradients that a kind of kernels computes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_choice", kernel)
        operation = FakeQuantizeLearned(grid, bound=bound)
        levels = operation.forward(x, *learned)
        return levels, operation.backward(gradient)


@needs_numba
@each_grid
@given(data=st.data(), bound=st.booleans())
@settings(max_examples=12)
def test_both_kernels_learn_the_same_steps_from_the_same_levels(name, data, bound):
    grid, x, gradient, learned = drawn(data, name)
    (levels, found), (expected_levels, expected) = (
        results(kernel, grid, x, gradient, learned, bound) for kernel in ("auto", "plain")
    )
    codes, scales = encode_learned(grid, x, *learned)
    assert levels.tobytes() == expected_levels.tobytes() == grid.decode(codes, scales).tobytes()
    assert found[0].tobytes() == expected[0].tobytes()
    assert all(np.isfinite(array).all() for array in (levels, *found))
    # Sums in another order: see `test_gradients_of_log_steps_are_the_exact_sums_up_to_...`.
    inside = found[0] == gradient
    fixed = np.float64(levels if bound else x)
    lowest = 0.0
    if name in WITH_OFFSETS:
        lowest = np.float64(scales.minimum).repeat(32, axis=1)
    terms = gradient * (np.float64(levels) - np.where(inside, fixed, lowest))
    exact, sizes = (
        group_total(grid, scales, array).reshape(-1) for array in (terms, np.abs(terms))
    )
    n = grid.group_size or x.size // exact.size
    for gradients in (found, expected):
        assert gradients[1].dtype == np.float32 and gradients[1].shape == exact.shape
        assert (np.abs(gradients[1] - exact) <= (n + 2) * ROUNDING * sizes + n * 2.0**-149).all()
    for one, other in zip(found[2:], expected[2:], strict=True):
        assert one.tobytes() == other.tobytes() and one.shape == exact.shape


@each_grid
def test_zeros_get_levels_of_zero_and_finite_gradients(name):
    grid = grid_named(name)
    rows, groups = grid.scales_shape(2, 64)
    learned = [np.full(rows * groups, 0.3, np.float32)] * (1 + (name in WITH_OFFSETS))
    operation = FakeQuantizeLearned(grid)
    levels = operation.forward(np.zeros((2, 64), np.float32), *learned)
    gradients = operation.backward(np.ones((2, 64), np.float32))
    assert not levels.any() and (gradients[0] == 1).all()
    assert not any(array.any() for array in gradients[1:])
