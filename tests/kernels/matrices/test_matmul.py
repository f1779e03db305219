"""The matmuls of training, compiled and by NumPy."""

import pytest
from hypothesis import given

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.cpu.matrices.gemm import FAR
from tests.helpers.strategies import LAYOUTS, laid_out, matmul_operands
from tests.helpers.tolerances import COMPARISONS, assert_close

cpu = kernels.for_array(np.zeros(1, np.float32))


@given(factors=matmul_operands())
def test_a_matmul_of_integers_is_exact_for_any_memory_layout(factors):
    a, b = factors
    expected = a.astype(np.int64) @ b.astype(np.int64)
    for kernel in (plain, cpu):
        found = kernel.matmul(a, b)
        assert found.dtype == np.float32 and np.array_equal(found, expected)


@pytest.mark.parametrize("transposed", LAYOUTS, ids=str)
def test_a_matmul_of_integers_is_exact_where_neighbours_are_far_apart_in_memory(transposed):
    rng = np.random.default_rng(0)
    for m, k, n in ((2 * FAR + 9, 21, FAR + 5), (2 * FAR, 2, 33), (3, FAR + 1, FAR), (FAR, 0, FAR)):
        a, b = rng.integers(-9, 10, (m, k)), rng.integers(-9, 10, (k, n))
        found = cpu.matmul(*laid_out((a.astype(np.float32), b.astype(np.float32)), transposed))
        assert np.array_equal(found, a @ b), (m, k, n)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_error_of_a_matmul_is_within_the_rounding_error_of_its_terms(transposed):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((65, 130), (130, 97)))
    if transposed:
        a, b = (np.ascontiguousarray(matrix.T).T for matrix in (a, b))
    exact, magnitude = (
        f(a.astype(np.float64)) @ f(b.astype(np.float64)) for f in (np.asarray, np.abs)
    )
    assert_close(cpu.matmul(a, b), exact, COMPARISONS["product"], (130 + 4) * magnitude)


def test_a_matmul_of_matrices_with_unequal_inner_sizes_is_an_error():
    for a, b in (((3, 4), (5, 6)), ((2, 3, 4), (2, 5, 6)), ((2, 3, 4), (3, 4, 5))):
        with pytest.raises(ValueError):
            cpu.matmul(np.ones(a, np.float32), np.ones(b, np.float32))
