"""Linear layers and embeddings with prepared matrices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.ggml.integer_products import group_sums
from tests.helpers.strategies import matmul_sizes
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import (
    FORMATS,
    cpu,
    each_format,
    each_kernel,
    needs_numba,
    normal,
    operation,
    packed,
    prepared,
    rounded,
)

CODES = {
    "q4_0": (-8, 7), "q4_1": (0, 15), "q5_0": (-16, 15), "q5_1": (0, 31), "q8_0": (-127, 127),
}  # fmt: skip
BLOCK_BYTES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34}


@each_kernel
@each_format
def test_embedding_returns_the_rows_that_a_prepared_matrix_was_made_from(kernel, format_):
    weight = normal(np.random.default_rng(8), 70, 96)
    tokens = np.array([69, 0, 31, 32, 32])
    matrix = prepared(kernel, format_, weight)
    stored = weight if format_ == "f32" else rounded(format_, weight)
    assert kernel.embedding(matrix, tokens).tobytes() == stored[tokens].tobytes()
    with pytest.raises(IndexError):
        kernel.embedding(matrix, np.array([3, 70]))


@each_kernel
@each_format
@given(sizes=matmul_sizes())
def test_linear_is_the_matrix_product_of_the_rounded_inputs_and_weights(kernel, format_, sizes):
    rows, outputs, columns, seed = sizes
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, columns), normal(rng, outputs, columns)
    rounded_x, rounded_weight = x, weight
    if format_ != "f32":
        rounded_x, rounded_weight = (plain.fake_quantize_activations(x), rounded(format_, weight))
    matrix = prepared(kernel, format_, weight)
    assert (matrix.rows, matrix.columns) == weight.shape
    expected = rounded_x.astype(np.float64) @ rounded_weight.astype(np.float64).T
    magnitude = np.abs(rounded_x).astype(np.float64) @ np.abs(rounded_weight).astype(np.float64).T
    assert_close(
        kernel.linear(x, matrix), expected, COMPARISONS["product"], (columns + 4) * magnitude
    )


@needs_numba
@each_format
@given(sizes=matmul_sizes(), first=st.integers(0, 19), last=st.integers(1, 20))
def test_a_row_of_linear_has_the_same_bits_alone_and_with_other_rows(format_, sizes, first, last):
    rows, outputs, columns, seed = sizes
    rng = np.random.default_rng(seed)
    x, matrix = normal(rng, rows, columns), prepared(cpu, format_, normal(rng, outputs, columns))
    together = cpu.linear(x, matrix)
    for part in (slice(first, last), slice(first, first + 1)):
        assert cpu.linear(x[part], matrix).tobytes() == together[part].tobytes()


@needs_numba
@given(seed=st.integers(0, 2**32), columns=st.integers(1, 300), rows=st.integers(1, 9))
def test_linear_accepts_any_number_of_columns_in_float32(seed, columns, rows):
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, columns), normal(rng, 45, columns)
    assert_close(
        cpu.linear(x, cpu.prepare_f32(weight)), x @ weight.T, COMPARISONS["product by NumPy"]
    )


@each_kernel
@pytest.mark.parametrize("format_", CODES)
@pytest.mark.parametrize("extreme", [False, True])
def test_sums_of_integer_products_are_exact(kernel, format_, extreme):
    """With integers up to 127 and scales of 1 nothing is rounded, so any wrong product shows."""
    rng = np.random.default_rng(6)
    low, high = CODES[format_]
    x, codes = rng.integers(-127, 128, (7, 64)), rng.integers(low, high + 1, (75, 64))
    if extreme:
        x, codes = np.sign(x - 0.5) * 127, rng.choice([low, high], (75, 64))
    x[:, ::32] = 127  # the largest number of each group, so the scale of the activations is also 1
    ones = np.ones((75, 2), np.float32)
    minima = [-11 * ones] if format_.endswith("_1") else []
    stored = operation(format_, "pack")(codes.astype(np.int8), ones, *minima)
    found = kernel.linear(x.astype(np.float32), getattr(kernel, f"prepare_{format_}")(stored))
    weight = codes.astype(np.int64) - (11 if minima else 0)
    assert np.array_equal(found, x.astype(np.int64) @ weight.T)


@needs_numba
@given(sizes=matmul_sizes())
def test_the_kernel_multiplies_the_exact_sum_of_a_group_by_the_product_of_both_scales(sizes):
    rows, outputs, _, seed = sizes
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, 32), normal(rng, outputs, 32)
    codes, x_scales = plain.quantize_activations(x)
    blocks = packed("q4_0", weight)
    _, scales = operation("q4_0", "unpack")(blocks)
    sums = group_sums(codes, blocks.reshape(outputs, 1, 18)[:, :, 2:])[..., 0]
    expected = sums.astype(np.float32) * (x_scales * scales.T)
    assert np.array_equal(cpu.linear(x, cpu.prepare_q4_0(blocks)), expected)


@each_kernel
@each_format
def test_linear_writes_into_a_given_array(kernel, format_):
    rng = np.random.default_rng(7)
    x, matrix = normal(rng, 3, 64), prepared(kernel, format_, normal(rng, 33, 64))
    out = np.empty((3, 33), np.float32)
    assert kernel.linear(x, matrix, out) is out
    assert np.array_equal(out, kernel.linear(x, matrix))


@each_kernel
@each_format
def test_linear_raises_an_error_if_the_shapes_of_its_arrays_do_not_match(kernel, format_):
    matrix = prepared(kernel, format_, np.ones((33, 64), np.float32))
    for columns in (96, 65):
        with pytest.raises(ValueError):
            kernel.linear(np.ones((2, columns), np.float32), matrix)
    with pytest.raises(ValueError):
        kernel.linear(np.ones((2, 64), np.float32), matrix, np.empty((3, 33), np.float32))


@needs_numba
def test_prepared_weights_have_the_size_of_their_format_rounded_up_to_whole_panels():
    weight = np.ones((64, 128), np.float32)
    sizes = {format_: prepared(cpu, format_, weight).nbytes for format_ in FORMATS}
    blocks_bytes = {name: 64 * 4 * size for name, size in BLOCK_BYTES.items()}
    assert sizes == {"f32": 64 * 128 * 4} | blocks_bytes


@needs_numba
def test_linear_accepts_read_only_activations():
    x, weight = normal(np.random.default_rng(18), 2, 64), normal(np.random.default_rng(19), 33, 64)
    expected = cpu.linear(x, prepared(cpu, "q4_0", weight))
    x.flags.writeable = False
    assert np.array_equal(cpu.linear(x, prepared(cpu, "q4_0", weight)), expected)
