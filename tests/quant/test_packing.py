"""Packed bytes equal those of ggml, and packing and unpacking lose nothing."""

from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant import packing
from minimtp.quant.grids import (
    BLOCK_GRIDS,
    GRIDS,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q8_0,
    TernaryGrid,
    grid_named,
)
from minimtp.quant.grids.codebook import NF4Grid
from tests.helpers.strategies import codes_and_scales, matrices_for, uniform_grids, weight_matrices

each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=str)
each_grid_with_one_scale = pytest.mark.parametrize("grid", [Q4_0, Q5_0, Q8_0], ids=str)
each_block_grid = pytest.mark.parametrize("grid", BLOCK_GRIDS.values(), ids=str)
needs_gguf = pytest.mark.skipif(
    find_spec("gguf") is None,
    reason="compares with the package gguf, which is not installed (extra: interop)",
)

grouped_grids = st.one_of(
    uniform_grids(),
    st.builds(NF4Grid, st.integers(1, 40)),
    st.builds(TernaryGrid, st.sampled_from(["tensor", "channel", 7])),
)


def bits(array):
    return array.dtype, array.shape, array.tobytes()


@each_grid_with_one_scale
@given(data=st.data())
def test_unpacking_undoes_packing_for_any_codes_and_scales(grid, data):
    codes, scales = data.draw(codes_and_scales(grid.min_code, grid.max_code))
    unpacked_codes, unpacked_scales = packing.unpack(grid, packing.pack(grid, codes, scales))
    assert bits(unpacked_codes) == bits(codes) and bits(unpacked_scales) == bits(scales)


@each_block_grid
@given(data=st.data())
def test_packing_undoes_unpacking_for_any_bytes_with_finite_scales(grid, data):
    """Bytes are at most 0x7b, because 0x7bff is the largest finite float16. No format has unused
    bytes.
    """
    blocks = data.draw(
        arrays.arrays(np.uint8, (2, 2 * grid.block_bytes), elements=st.integers(0, 123))
    )
    assert bits(packing.pack(grid, *packing.unpack(grid, blocks))) == bits(blocks)


@each_block_grid
def test_every_bit_of_the_codes_survives_packing(grid):
    """This includes the top bits, which are zero in the bytes of the test above."""
    codes = np.arange(grid.min_code, grid.max_code + 1, dtype=np.int8)
    x = np.zeros((1, 256), np.float32)
    shuffled = np.random.default_rng(0).permutation(np.resize(codes, 256))[None]
    _, scales = grid.encode(x)
    assert np.array_equal(packing.unpack(grid, packing.pack(grid, shuffled, scales))[0], shuffled)


@pytest.mark.parametrize(
    ("name", "columns", "size"),
    [
        ("int4-restricted-g32", 64, 32 + 2 * 2),
        ("int3-affine-g30", 64, 24 + 9),
        ("int2-full-mid-channel-f32", 64, 16 + 4),
        ("int8-restricted-tensor", 64, 64 + 2),
        ("nf4-g64", 64, 32 + 2),
        ("ternary-channel", 64, 16 + 2),
        ("q4_k", 512, 288),
    ],
)
def test_the_size_of_a_row_counts_its_scales_and_zero_points(name, columns, size):
    found = packing.row_bytes(grid_named(name), columns)
    assert found == size and isinstance(found, int)
    packed = packing.quantize(grid_named(name), np.ones((2, columns), np.float32))
    assert packed.shape == (2, size)
    shape = packing.matrix_shape(grid_named(name), packed)
    assert shape == (2, columns) and all(isinstance(number, int) for number in shape)


@pytest.mark.parametrize(
    ("name", "columns"), [("int3-affine-g30", 63), ("nf4-g64", 9), ("q4_k", 128), ("q4_0", 33)]
)
def test_a_number_of_columns_that_cannot_be_packed_is_rejected(name, columns):
    with pytest.raises(UserError, match="multiples of (8|32|256) long"):
        packing.row_bytes(grid_named(name), columns)


def test_a_packing_error_names_the_matrix_if_its_name_is_given():
    with pytest.raises(
        UserError, match=r"^the matrix has shape \(1, 33\), which q4_0 cannot store"
    ):
        packing.row_bytes(Q4_0, 33)
    with pytest.raises(UserError, match="^head 3 has shape"):
        packing.quantize(Q4_0, np.zeros((1, 33), np.float32), "head 3")
    with pytest.raises(UserError, match="^the array has shape"):
        packing.quantize(Q4_0, np.zeros((1, 33), np.float32))


def test_bytes_that_are_not_whole_rows_are_rejected():
    for bad in (np.zeros((2, 19), np.uint8), np.zeros((2, 18), np.int8), np.zeros(18, np.uint8)):
        with pytest.raises(UserError, match="does not hold whole rows of int4-restricted-g32"):
            packing.unpack(grid_named("int4-restricted-g32"), bad)


def test_a_q4_0_block_holds_the_scale_and_then_codes_j_and_j_plus_16_in_byte_j():
    codes = np.arange(32, dtype=np.int8)[None] % 16 - 8
    codes[0, 16:] = codes[0, 16:][::-1]
    block = packing.pack(Q4_0, codes, np.array([[-1.5]], np.float32))
    assert block.tobytes() == b"\x00\xbe" + bytes(j | (15 - j) << 4 for j in range(16))


def test_a_q8_0_block_holds_the_scale_and_then_the_codes_as_signed_bytes():
    codes = np.arange(-16, 16, dtype=np.int8)[None]
    block = packing.pack(Q8_0, codes, np.array([[0.25]], np.float32))
    assert block.tobytes() == b"\x00\x34" + bytes(range(240, 256)) + bytes(range(16))


def test_a_q4_0_block_of_zeros_has_the_scale_minus_zero_like_ggml():
    assert (
        packing.quantize(Q4_0, np.zeros((1, 32), np.float32)).tobytes()
        == b"\x00\x80" + b"\x88" * 16
    )
    assert packing.quantize(Q8_0, np.zeros((1, 32), np.float32)).tobytes() == bytes(34)
    assert packing.quantize(Q4_1, np.zeros((1, 32), np.float32)).tobytes() == bytes(20)


@needs_gguf
@pytest.mark.parametrize("grid", [Q4_0, Q4_1, Q8_0], ids=str)
@given(x=weight_matrices())
def test_packed_bytes_equal_the_bytes_of_the_gguf_package(grid, x):
    import gguf

    kind = gguf.GGMLQuantizationType[grid.name.upper()]
    # For smaller groups, 1 / d overflows and gguf casts a NaN to an integer, which is undefined.
    groups = x.reshape(-1, 32)
    extent = (
        np.ptp(groups, axis=-1, keepdims=True)
        if grid is Q4_1
        else np.abs(groups).max(axis=-1, keepdims=True)
    )
    divisor = {Q4_0: 8, Q4_1: 15, Q8_0: 127}[grid]
    x = np.where(extent / np.float32(divisor) > 2.0**-128, groups, 0).reshape(x.shape)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        expected = gguf.quantize(x, kind)
    assert bits(packing.quantize(grid, x)) == bits(expected)


@needs_gguf
@each_block_grid
@given(data=st.data())
def test_the_gguf_package_reads_the_same_numbers_from_packed_weights(grid, data):
    import gguf

    packed = packing.quantize(grid, data.draw(matrices_for(grid)))
    read = gguf.dequantize(packed, gguf.GGMLQuantizationType[grid.name.upper()])
    assert bits(packing.dequantize(grid, packed)) == bits(read)


@needs_gguf
@each_block_grid
@given(data=st.data())
def test_the_gguf_package_reads_the_same_numbers_from_any_bytes(grid, data):
    """Bytes are chosen as in the test above. -0.0 and 0.0 count as equal, because some formats
    compute a value as a difference.
    """
    import gguf

    blocks = data.draw(
        arrays.arrays(np.uint8, (2, 2 * grid.block_bytes), elements=st.integers(0, 123))
    )
    read = gguf.dequantize(blocks, gguf.GGMLQuantizationType[grid.name.upper()])
    assert np.array_equal(packing.dequantize(grid, blocks), read)


@each_block_grid
def test_bytes_that_are_not_whole_blocks_are_rejected(grid):
    size = grid.block_bytes
    for bad in (
        np.zeros((2, size + 1), np.uint8),
        np.zeros((2, size), np.int8),
        np.zeros(size, np.uint8),
    ):
        with pytest.raises(
            UserError,
            match=f"does not hold {grid.name} blocks: rows must be multiples of {size} bytes",
        ):
            packing.unpack(grid, bad)


def test_codes_that_the_grid_does_not_have_are_rejected():
    scale = np.ones((1, 1), np.float32)
    for grid, code in (
        (Q4_0, 8),
        (Q4_0, -9),
        (Q8_0, -128),
        (grid_named("int3-restricted-channel"), -4),
    ):
        with pytest.raises(ValueError, match="has codes"):
            packing.pack(grid, np.full((1, 32), code, np.int8), scale)


def test_codes_and_scales_of_incompatible_shapes_are_rejected():
    for codes, scales in (((2, 64), (2, 1)), ((2, 64), (1, 2)), ((2, 32), (2, 2))):
        with pytest.raises(ValueError, match="need scales of shape"):
            packing.pack(Q8_0, np.zeros(codes, np.int8), np.ones(scales, np.float32))
    codes, scales = Q4_K.encode(np.ones((1, 512), np.float32))
    with pytest.raises(
        ValueError, match=r"^codes of shape \(1, 256\) need scales of shape \(1, 1\), not \(1, 2\)$"
    ):
        packing.pack(Q4_K, codes[:, :256], scales)
