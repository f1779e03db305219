"""Bytes: the same that ggml writes, and nothing is lost on the way there and back."""

from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant import packing
from minimtp.quant.grids import GRIDS, Q4_0, Q8_0
from tests.strategies import codes_and_scales, weight_matrices

each_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=str)
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="compares with the package gguf (extra: interop)")


def bits(array):
    return array.dtype, array.shape, array.tobytes()


@each_grid
@given(data=st.data())
def test_unpacking_undoes_packing_for_any_codes_and_scales(grid, data):
    codes, scales = data.draw(codes_and_scales(grid.smallest_code, grid.largest_code))
    unpacked_codes, unpacked_scales = packing.unpack(grid, packing.pack(grid, codes, scales))
    assert bits(unpacked_codes) == bits(codes) and bits(unpacked_scales) == bits(scales)


@given(blocks=arrays.arrays(np.uint8, (2, 3 * 18), elements=st.integers(0, 123)))  # 0x7b__ is the last finite float16
def test_packing_undoes_unpacking_for_any_q4_0_bytes_with_finite_scales(blocks):
    assert bits(packing.pack(Q4_0, *packing.unpack(Q4_0, blocks))) == bits(blocks)


def test_a_q4_0_block_is_the_scale_and_then_codes_j_and_j_plus_16_in_the_low_and_high_half_of_byte_j():
    codes = np.arange(32, dtype=np.int8)[None] % 16 - 8
    codes[0, 16:] = codes[0, 16:][::-1]
    block = packing.pack(Q4_0, codes, np.array([[-1.5]], np.float32))
    assert block.tobytes() == b"\x00\xbe" + bytes(j | (15 - j) << 4 for j in range(16))


def test_a_q8_0_block_is_the_scale_and_then_the_codes_as_signed_bytes():
    codes = np.arange(-16, 16, dtype=np.int8)[None]
    block = packing.pack(Q8_0, codes, np.array([[0.25]], np.float32))
    assert block.tobytes() == b"\x00\x34" + bytes(range(240, 256)) + bytes(range(16))


def test_a_zero_q4_0_block_has_the_negative_zero_scale_of_ggml():
    assert packing.quantize(Q4_0, np.zeros((1, 32), np.float32)).tobytes() == b"\x00\x80" + b"\x88" * 16
    assert packing.quantize(Q8_0, np.zeros((1, 32), np.float32)).tobytes() == bytes(34)


@each_grid
@given(x=weight_matrices())
def test_what_is_read_back_is_what_fake_quantization_computed_with(grid, x):
    packed = packing.quantize(grid, x)
    assert bits(packing.dequantize(grid, packed)) == bits(grid.fake_quantize(x))
    assert packed.nbytes * 8 == x.size * grid.bits_per_weight
    assert packing.matrix_shape(grid, packed) == x.shape


@needs_gguf
@each_grid
@given(x=weight_matrices())
def test_the_bytes_are_those_of_gguf_and_gguf_reads_the_same_numbers(grid, x):
    import gguf

    kind = gguf.GGMLQuantizationType[grid.name.upper()]
    # At and below this size 1 / d overflows, and gguf casts a NaN to an integer: whatever comes out is an accident.
    groups = x.reshape(-1, 32)
    divisor = 8 if grid is Q4_0 else 127
    x = np.where(np.abs(groups).max(axis=-1, keepdims=True) / np.float32(divisor) > 2.0**-128, groups, 0).reshape(x.shape)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        expected = gguf.quantize(x, kind)
    packed = packing.quantize(grid, x)
    assert bits(packed) == bits(expected)
    assert bits(packing.dequantize(grid, packed)) == bits(gguf.dequantize(expected, kind))


@each_grid
def test_bytes_that_are_not_whole_blocks_are_refused(grid):
    size = packing.BLOCK_BYTES[grid.name]
    for bad in (np.zeros((2, size + 1), np.uint8), np.zeros((2, size), np.int8), np.zeros(size, np.uint8)):
        with pytest.raises(UserError, match=f"does not hold {grid.name} blocks: rows must be multiples of {size} bytes"):
            packing.unpack(grid, bad)


def test_codes_that_the_grid_does_not_have_are_refused():
    scale = np.ones((1, 1), np.float32)
    for grid, code in ((Q4_0, 8), (Q4_0, -9), (Q8_0, -128)):
        with pytest.raises(ValueError, match="has codes"):
            packing.pack(grid, np.full((1, 32), code, np.int8), scale)


def test_codes_and_scales_that_do_not_belong_together_are_refused():
    for codes, scales in (((2, 64), (2, 1)), ((2, 64), (1, 2)), ((2, 40), (2, 1))):
        with pytest.raises(ValueError, match="need one scale per 32"):
            packing.pack(Q8_0, np.zeros(codes, np.int8), np.ones(scales, np.float32))
