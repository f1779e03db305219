"""Rounding to bfloat16, and matmuls of bfloat16 numbers, which are stored as uint16."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.kernels import plain
from tests.kernels.both import each_kernel, normal
from tests.strategies import matmul_operands
from tests.tolerances import COMPARISONS, assert_close

MIN_NORMAL = 2.0**-126
LAYOUTS = [(a, b) for a in (False, True) for b in (False, True)]
each_layout = pytest.mark.parametrize("transposed", LAYOUTS, ids=str)


def bits_of(x):
    """Return float32 numbers that bfloat16 holds exactly as their upper halves."""
    x = np.asarray(x, np.float32)
    assert not (x.view(np.uint32) & 0xFFFF).any()
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def laid_out(matrices, transposed):
    return [
        np.ascontiguousarray(matrix.T).T if flip else matrix
        for matrix, flip in zip(matrices, transposed, strict=True)
    ]


def every_second(matrix):
    """Return the bits of a matrix in its memory layout, but with gaps between the numbers."""
    by_row = matrix.strides[0] >= matrix.strides[1]
    bits = bits_of(matrix if by_row else matrix.T)
    view = np.repeat(bits, 2, axis=1)[:, ::2]
    return view if by_row else view.T


@each_kernel
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=80))
@example(bits=[0x7F7FFFFF, 0x7F800000, 0x7F800001, 0xFFC00000, 0x3F808000, 0x3F818000])
@example(bits=[0, 0x80000000, 1, 0x8000, 0x8001, 0x18000, 0x80008001, 0x7FFFFF])
def test_bfloat16_is_the_nearest_of_its_two_neighbours_and_the_even_one_of_equally_near_ones(
    kernel, bits
):
    x = np.array(bits, np.uint32).view(np.float32)
    found = kernel.to_bfloat16(x)
    assert found.dtype == np.uint16 and found.shape == x.shape
    for number, result in zip(x, found.tolist(), strict=True):
        below = int(number.view(np.uint32)) >> 16
        if np.isnan(number):
            assert result == below | 0x40
            continue
        # The lower half of the bits is the distance from the neighbour with a smaller magnitude.
        rest = int(number.view(np.uint32)) & 0xFFFF
        up = rest > 0x8000 or (rest == 0x8000 and below % 2 == 1)
        assert result == below + up


@each_kernel
def test_every_bfloat16_number_survives_the_way_to_float32_and_back(kernel):
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    wide = kernel.from_bfloat16(bits)
    assert wide.dtype == np.float32 and np.array_equal(wide.view(np.uint32) >> 16, bits)
    quiet = np.where(np.isnan(wide), bits | 0x40, bits)
    assert np.array_equal(kernel.to_bfloat16(wide), quiet)
    assert np.array_equal(kernel.to_bfloat16(wide[::3].T), quiet[::3].T)


@each_kernel
@given(factors=matmul_operands())
def test_a_bfloat16_matmul_of_integers_is_exact_for_any_memory_layout(kernel, factors):
    a, b = (factor if factor.ndim == 2 else factor[0] for factor in factors)
    found = kernel.matmul_bfloat16(every_second(a), every_second(b))
    assert found.dtype == np.float32
    assert np.array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


@each_layout
def test_a_bfloat16_matmul_of_integers_is_exact_beyond_all_sizes_of_blocks(transposed):
    rng = np.random.default_rng(0)
    for sizes in ((300, 1601, 50), (20, 801, 1700), (9, 0, 5), (1, 1, 1)):
        m, k, n = sizes
        a, b = rng.integers(-9, 10, (m, k)), rng.integers(-9, 10, (k, n))
        mine = laid_out([bits_of(a), bits_of(b)], transposed)
        for kernel in (plain, kernels.for_array(mine[0])):
            assert np.array_equal(kernel.matmul_bfloat16(*mine), a @ b), sizes


@each_kernel
@each_layout
@settings(max_examples=10)
@given(sizes=st.tuples(*[st.integers(1, 130)] * 3), seed=st.integers(0, 2**32))
def test_the_error_of_a_bfloat16_matmul_is_that_of_its_float32_sums(
    kernel, transposed, sizes, seed
):
    """The products are exact, so a sum of K terms is rounded K times, in any order."""
    (m, k, n), rng = sizes, np.random.default_rng(seed)
    rounded = [kernel.to_bfloat16(normal(rng, *shape)) for shape in ((m, k), (k, n))]
    a, b = (plain.from_bfloat16(bits).astype(np.float64) for bits in rounded)
    found = kernel.matmul_bfloat16(*laid_out(rounded, transposed))
    assert_close(found, a @ b, COMPARISONS["product"], k * (np.abs(a) @ np.abs(b)))


@each_kernel
def test_infinities_and_nan_spread_as_in_float32(kernel):
    rng = np.random.default_rng(1)
    for k in (1, 2, 3, 31, 64):
        a, b = normal(rng, 19, k), normal(rng, k, 33)
        a[2, k - 1], a[3, 0], a[4, k // 2] = np.inf, -np.inf, np.nan
        b[k - 1, 5], b[0, 6], b[k // 2, 7], b[k - 1, 8] = np.inf, np.inf, np.nan, 0
        mine = kernel.to_bfloat16(a), kernel.to_bfloat16(b)
        with np.errstate(invalid="ignore"):
            expected = plain.from_bfloat16(mine[0]) @ plain.from_bfloat16(mine[1])
            found = kernel.matmul_bfloat16(*mine)
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        infinite = np.isinf(expected)
        assert infinite.any() and np.array_equal(np.isinf(found), infinite)
        assert np.array_equal(found[infinite], expected[infinite])


@each_kernel
def test_sums_beyond_the_range_of_float32_are_infinite(kernel):
    large = bits_of(np.full((1, 2), 2.0**127))
    assert kernel.matmul_bfloat16(large[:, :1], bits_of([[1.0]])) == 2.0**127
    with np.errstate(over="ignore"):
        assert kernel.matmul_bfloat16(large, bits_of([[1.0], [1.0]])) == np.inf
        assert kernel.matmul_bfloat16(large, bits_of([[-2.0], [-2.0]])) == -np.inf


@each_kernel
def test_subnormal_numbers_may_count_as_zero_and_do_so_where_a_processor_multiplies_bfloat16(
    kernel,
):
    cases = [
        (MIN_NORMAL / 2, 2.0**60),  # an operand
        (2.0**-70, 2.0**-70),  # a product
        (-MIN_NORMAL / 64, 1.0),
    ]
    for a, b in cases:
        found = kernel.matmul_bfloat16(bits_of([[a, 1.0]]), bits_of([[b], [0.0]]))[0, 0]
        ignored = kernel is not plain and kernels.multiplies_bfloat16()
        assert found == (0.0 if ignored else np.float32(a * b))
    smallest = kernel.matmul_bfloat16(bits_of([[MIN_NORMAL]]), bits_of([[1.0]]))
    assert smallest == MIN_NORMAL


@each_kernel
def test_bfloat16_matrices_with_unequal_inner_sizes_are_an_error(kernel):
    with pytest.raises(ValueError):
        kernel.matmul_bfloat16(np.ones((3, 4), np.uint16), np.ones((5, 6), np.uint16))


def test_threads_compute_bfloat16_products_of_the_same_bits_together_and_alone():
    rng = np.random.default_rng(2)
    a, b = (plain.to_bfloat16(normal(rng, *shape)) for shape in ((70, 900), (900, 1600)))
    multiply = kernels.for_array(a).matmul_bfloat16
    expected = multiply(a, b).tobytes()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: multiply(a, b).tobytes(), range(8)))
    assert found == [expected] * 8
