"""Matmuls whose operands are rounded to bfloat16."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.plain.bfloat16 import round_to_bfloat16
from tests.helpers.strategies import LAYOUTS, laid_out, matmul_operands
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import HAS_NUMBA, each_kernel, needs_numba, normal

MIN_NORMAL = 2.0**-126
each_layout = pytest.mark.parametrize("transposed", LAYOUTS, ids=str)


INSTRUCTIONS: list[str | None] = [None]  # that this processor has, faster than float32 or not
if HAS_NUMBA:
    from minimtp.kernels.cpu.matrices.bfloat16 import amx, avx512

    INSTRUCTIONS += ["AVX-512 BF16"] * avx512.HAS_INSTRUCTION + ["AMX"] * amx.is_usable()


@pytest.fixture(scope="module", autouse=True, params=INSTRUCTIONS, ids=str)
def instructions(request):
    """Multiply with these instructions."""
    with pytest.MonkeyPatch.context() as patch:
        if HAS_NUMBA:
            patch.setattr(amx, "is_usable", lambda: request.param == "AMX")
            patch.setattr(avx512, "IS_FASTER", request.param == "AVX-512 BF16")
            assert kernels.bfloat16_instructions() == request.param
        yield


def floats(numbers):
    return np.array(numbers, np.float32)


@each_kernel
@settings(max_examples=40)
@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=80),
    transposed=st.sampled_from(LAYOUTS),
)
@example(bits=[0x7F7FFFFF, 0x7F800000, 0x7F800001, 0xFFC00000, 0x3F808000], transposed=LAYOUTS[0])
@example(bits=[0x3F818000, 0x3F800001] * 40, transposed=LAYOUTS[0])
@example(bits=[0xBF818000, 0x3F808001] * 40, transposed=LAYOUTS[3])
def test_operands_are_rounded_to_the_nearest_bfloat16_and_to_the_even_one_of_two_equally_near(
    kernel, bits, transposed
):
    """A product with 1, or with the identity matrix, is the rounded operand."""
    x = np.array(bits, np.uint32).view(np.float32)
    x = x[~(np.abs(x) < MIN_NORMAL) | (x == 0)]
    expected = [nearest(number) for number in x.tolist()]
    column, one = np.ascontiguousarray(x[:, None]), floats([[1.0]])
    found = kernel.matmul_bfloat16(column, one)
    assert np.array_equal(found[:, 0], expected, equal_nan=True)
    assert np.array_equal(kernel.matmul_bfloat16(one, column.T), found.T, equal_nan=True)
    finite, expected = x[np.isfinite(x)], np.array(expected)[np.isfinite(x)]
    diagonal, identity = np.diag(finite), np.eye(len(finite), dtype=np.float32)
    with np.errstate(invalid="ignore"):  # a number may be rounded to infinity
        for pair in ((diagonal, identity), (identity, diagonal)):
            found = kernel.matmul_bfloat16(*laid_out(pair, transposed))
            assert np.array_equal(found.diagonal(), expected)


def nearest(number):
    """Return the nearest of the numbers with 8 bits, computed in float64."""
    if not np.isfinite(number) or number == 0:
        return number
    unit = 2.0 ** (np.floor(np.log2(abs(number))) - 7)  # log2 is exact enough below float32's bits
    rounded = np.round(number / unit) * unit  # NumPy rounds half to even
    return rounded if abs(rounded) < 2.0**128 else np.copysign(np.inf, number)


@each_kernel
@given(factors=matmul_operands())
def test_a_bfloat16_matmul_of_integers_is_exact_for_any_memory_layout(kernel, factors):
    a, b = (factor if factor.ndim == 2 else factor[0] for factor in factors)
    gaps = np.repeat(a, 2, axis=1)[:, ::2], np.repeat(b, 2, axis=0)[::2]
    for pair in ((a, b), gaps):
        found = kernel.matmul_bfloat16(*pair)
        assert found.dtype == np.float32
        assert np.array_equal(found, a.astype(np.int64) @ b.astype(np.int64))


@each_kernel
@each_layout
def test_a_bfloat16_matmul_of_integers_is_exact_beyond_all_sizes_of_blocks(kernel, transposed):
    rng = np.random.default_rng(0)
    for m, k, n in ((300, 1601, 50), (20, 801, 1700), (32, 1600, 64), (9, 0, 5), (1, 1, 1)):
        a, b = rng.integers(-9, 10, (m, k)), rng.integers(-9, 10, (k, n))
        found = kernel.matmul_bfloat16(*laid_out((floats(a), floats(b)), transposed))
        assert np.array_equal(found, a @ b), (m, k, n)


@each_kernel
@each_layout
@settings(max_examples=10)
@given(sizes=st.tuples(*[st.integers(1, 130)] * 3), seed=st.integers(0, 2**32))
def test_the_error_of_a_bfloat16_matmul_is_that_of_its_float32_sums(
    kernel, transposed, sizes, seed
):
    """The products are exact, so a sum of K terms is rounded K times, in any order."""
    (m, k, n), rng = sizes, np.random.default_rng(seed)
    operands = normal(rng, m, k), normal(rng, k, n)
    a, b = (round_to_bfloat16(operand).astype(np.float64) for operand in operands)
    found = kernel.matmul_bfloat16(*laid_out(operands, transposed))
    assert_close(found, a @ b, COMPARISONS["product"], k * (np.abs(a) @ np.abs(b)))


@each_kernel
@each_layout
def test_infinities_and_nan_spread_as_in_float32(kernel, transposed):
    rng = np.random.default_rng(1)
    for k in (1, 2, 3, 31, 64):
        a, b = normal(rng, 19, k), normal(rng, k, 33)
        a[2, k - 1], a[3, 0], a[4, k // 2] = np.inf, -np.inf, np.nan
        b[k - 1, 5], b[0, 6], b[k // 2, 7], b[k - 1, 8] = np.inf, np.inf, np.nan, 0
        with np.errstate(invalid="ignore"):
            expected = round_to_bfloat16(a) @ round_to_bfloat16(b)
            found = kernel.matmul_bfloat16(*laid_out((a, b), transposed))
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        infinite = np.isinf(expected)
        assert infinite.any() and np.array_equal(np.isinf(found), infinite)
        assert np.array_equal(found[infinite], expected[infinite])


@each_kernel
def test_sums_beyond_the_range_of_float32_are_infinite(kernel):
    large = floats([[2.0**127, 2.0**127]])
    assert kernel.matmul_bfloat16(large[:, :1], floats([[1.0]])) == 2.0**127
    with np.errstate(over="ignore"):
        assert kernel.matmul_bfloat16(large, floats([[1.0], [1.0]])) == np.inf
        assert kernel.matmul_bfloat16(large, floats([[-2.0], [-2.0]])) == -np.inf


@each_kernel
def test_subnormal_numbers_may_count_as_zero_and_do_so_where_a_processor_multiplies_bfloat16(
    kernel,
):
    cases = [
        (MIN_NORMAL / 2, 2.0**60),  # an operand
        (2.0**-70, 2.0**-70),  # a product
        (-MIN_NORMAL / 64, 1.0),
    ]
    ignored = kernel is not plain and kernels.bfloat16_instructions()
    for a, b in cases:
        for left, right in ((a, b), (b, a)):
            found = kernel.matmul_bfloat16(floats([[left, 1.0]]), floats([[right], [0.0]]))[0, 0]
            assert found == (0.0 if ignored else np.float32(a * b))
    assert kernel.matmul_bfloat16(floats([[MIN_NORMAL]]), floats([[1.0]])) == MIN_NORMAL


@each_kernel
def test_bfloat16_matrices_with_unequal_inner_sizes_are_an_error(kernel):
    with pytest.raises(ValueError):
        kernel.matmul_bfloat16(np.ones((3, 4), np.float32), np.ones((5, 6), np.float32))


def test_threads_compute_bfloat16_products_of_the_same_bits_together_and_alone():
    rng = np.random.default_rng(2)
    a, b = normal(rng, 70, 900), normal(rng, 900, 1600)
    multiply = kernels.for_array(a).matmul_bfloat16
    expected = multiply(a, b).tobytes()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: multiply(a, b).tobytes(), range(8)))
    assert found == [expected] * 8


@needs_numba
@pytest.mark.parametrize("answer", [0, -1, None])
def test_amx_is_used_only_if_the_system_permits_it(monkeypatch, answer):
    library = SimpleNamespace() if answer is None else SimpleNamespace(syscall=lambda *_: answer)
    monkeypatch.setattr(amx.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(amx.sys, "platform", "linux")
    assert amx.receives_permission() == (answer == 0)
    monkeypatch.setattr(amx.sys, "platform", "win32")
    assert not amx.receives_permission()
