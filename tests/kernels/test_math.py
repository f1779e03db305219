"""Functions of single floats: exponential, float16 rounding and maximum."""

from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import cpu, needs_numba


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
def test_rounding_to_float16_has_the_bits_of_numpy():
    from minimtp.kernels.cpu import math as cpu_math

    @cpu.numba.njit
    def each(x, y, bits):
        for i in range(y.shape[0]):
            y[i] = cpu_math.as_float16(x[i])
            bits[i] = cpu_math.float16_bits(x[i])

    anything = np.random.default_rng(9).integers(0, 2**32, 300_000, np.uint32).view(np.float32)
    # all finite float16 numbers from 0 up
    halves = np.arange(31 << 10, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = 0.5 * (halves[1:] + halves[:-1])
    edges = np.array([65519.996, 65520, -65520, np.inf], np.float32)  # near the largest float16
    x = [
        anything[np.isfinite(anything)],
        halves,
        ties,
        np.nextafter(ties, np.float32(0)),
        -ties,
        edges,
    ]
    x = np.concatenate(x).astype(np.float32)
    y, bits = np.empty_like(x), np.empty(x.shape, np.uint16)
    each(x, y, bits)
    with np.errstate(over="ignore"):
        assert y.tobytes() == x.astype(np.float16).astype(np.float32).tobytes()
    # The bits that a cache stores are never those of infinity.
    assert bits.tobytes() == x.clip(-65504, 65504).astype(np.float16).tobytes()
    special, y, bits = np.array([np.nan], np.float32), np.empty(1), np.empty(1, np.uint16)
    each(special, y, bits)
    assert np.isnan(bits.view(np.float16)[0])


@needs_numba
@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_the_maximum_of_a_row_without_nan_is_found(values):
    from minimtp.kernels.cpu import math as cpu_math

    row = np.array(values, np.float32)
    assert cpu_math.largest(row) == row.max()
