"""HQQ (half-quadratic quantization) compared with its equations, group by group."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.ptq.hqq import hqq, power_error, shrink
from tests.helpers.strategies import weight_matrices
from tests.quant.ptq.cases import HQQ_GRIDS, arrays_of, hqq_of_a_group, normal_weights, same, shrunk


@pytest.mark.parametrize("grid", HQQ_GRIDS, ids=str)
@given(x=weight_matrices(max_magnitude=100.0))
@settings(max_examples=20)
def test_hqq_never_increases_the_error(grid, x):
    codes, scales = hqq(grid, x)
    assert codes.min() >= grid.min_code and codes.max() <= grid.max_code
    assert (power_error(grid, x, codes, scales) <= power_error(grid, x, *grid.encode(x))).all()


@given(exponent=st.integers(-6, 6), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_hqq_does_not_depend_on_the_unit_of_the_weights(exponent, seed):
    """The units are powers of two, so scaling is exact, and scales stay normal float16 numbers."""
    x, unit = normal_weights(4, 64, seed, spread=1.0), 2.0**exponent
    codes, scales = hqq(Q4_0, x)
    assert same(hqq(Q4_0, x * np.float32(unit)), (codes, scales * np.float32(unit)))


@given(
    values=st.lists(st.floats(-10, 10), min_size=1, max_size=8),
    step=st.floats(0, 4, width=32),
    beta=st.floats(0.5, 100),
)
def test_shrinking_never_enlarges_a_residual_or_changes_its_sign(values, step, beta):
    residual = np.array(values)
    kept = shrink(residual, np.array(step), beta)
    # The division by the step and the multiplication after it are rounded.
    rounding = 1 + 4 * np.finfo(float).eps
    assert (np.abs(kept) <= rounding * np.abs(residual)).all() and (kept * residual >= 0).all()
    assert np.array_equal(shrink(-residual, np.array(-step), beta), -kept)


@given(
    residual=st.floats(-20, 20),
    step=st.floats(-4, 4).filter(lambda s: s == 0 or abs(s) > 1e-3),
    beta=st.floats(0.5, 100),
)
def test_shrinking_is_the_generalized_soft_threshold(residual, step, beta):
    found = shrink(np.array([residual]), np.array([step]), beta)
    np.testing.assert_allclose(found, [shrunk(residual, step, beta)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "int2-restricted-g32", "int3-ggml-signed-g32"])
def test_hqq_equals_its_equations_evaluated_group_by_group(name):
    grid, x = grid_named(name), normal_weights(8, 32, seed=5, spread=1.0)
    x[6], x[7, :3] = 0, 20.0
    found, improved = hqq(grid, x), 0
    for row in range(8):
        (codes, scales), costs = hqq_of_a_group(grid, x[row])
        own = [part[row : row + 1] for part in [found[0], *arrays_of(found[1])]]
        expected = [codes, *arrays_of(scales)]
        assert all(np.array_equal(a, b) for a, b in zip(own, expected, strict=True)), row
        improved += min(costs) < costs[0]
    assert improved >= 4


def test_hqq_does_not_round_the_largest_offset_to_infinity():
    grid = grid_named("q4_1")
    x = np.full((1, 32), -65504.0, np.float32)
    x[0, ::2] = 65504.0
    with np.errstate(over="ignore"):  # an offset that is tried but not used
        assert all(np.isfinite(part).all() for part in hqq(grid, x)[1])


def test_hqq_rejects_grids_that_it_cannot_fit():
    with pytest.raises(
        UserError, match="int4-affine-g32 has neither by itself: use method rtn, gptq or awq"
    ):
        hqq(grid_named("int4-affine-g32"), normal_weights(2, 64))
