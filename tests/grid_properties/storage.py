"""Gradient masks, packed bytes, and the size of the rounding error."""

from minimtp.backend import numpy as np
from minimtp.quant import packing
from minimtp.quant.grids import BlockGrid
from tests.grid_properties.catalogue import arrays_of, bits, given_that, grid_property


@grid_property()
def masks_stop_only_gradients_of_clipped_weights(grid, x, rng):
    """clip-round passes a subset of the gradients that round-clip passes. If round-clip stops a
    weight's gradient, the weight has an outermost code.
    """
    assert grid.straight_through_mask(x, "pass") is None
    rounded = grid.straight_through_mask(x, "round-clip")
    clipped = grid.straight_through_mask(x, "clip-round")
    if rounded is None:
        assert clipped is None
        return
    codes = grid.encode(x)[0]
    assert rounded.dtype == clipped.dtype == bool and rounded.shape == clipped.shape == x.shape
    assert (rounded | ~clipped).all()
    assert np.isin(codes[~rounded], (grid.min_code, grid.max_code)).all()


@grid_property()
def packed_bytes_decode_to_the_fake_quantized_weights(grid, x, rng):
    x = (
        x
        if isinstance(grid, BlockGrid)
        else np.ascontiguousarray(np.resize(x, (len(x), -(-x.shape[1] // 8) * 8)))
    )
    codes, scales = grid.encode(x)
    packed = packing.pack(grid, codes, scales)
    assert packed.dtype == np.uint8 and packed.shape == (
        len(x),
        packing.row_bytes(grid, x.shape[1]),
    )
    assert packing.matrix_shape(grid, packed) == x.shape
    read_codes, read_scales = packing.unpack(grid, packed)
    assert bits(read_codes) == bits(codes) and type(read_scales) is type(scales)
    assert [bits(a) for a in arrays_of(read_scales)] == [bits(a) for a in arrays_of(scales)]
    assert bits(packing.dequantize(grid, packed)) == bits(grid.fake_quantize(x))
    rows = [packing.dequantize(grid, row[None]) for row in packed]
    assert bits(np.concatenate(rows)) == bits(grid.fake_quantize(x))


# Signal-to-noise ratio in decibels on normal weights. Other implementations agree to two digits.
NOISE = {
    "q4_0": 21.3,
    "q4_1": 22.1,
    "q5_0": 27.4,
    "q5_1": 28.4,
    "q8_0": 45.4,
    "q4_k": 22.9,
    "q6_k": 35.0,
    "int4-full-mid-g32": 20.5,
    "int4-restricted-g32": 20.3,
    "int4-ggml-signed-g32": 21.3,
    "int4-affine-g32": 21.9,
}


@grid_property()
def the_noise_on_normal_weights_is_within_a_fifth_of_a_decibel_of_the_known_level(grid, x, rng):
    """The limit is two-sided: a quantizer that does not round at all fails like a bad one."""
    given_that(grid.name in NOISE)
    y = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32) * np.float32(0.02)
    noise = np.square(grid.fake_quantize(y) - y, dtype=np.float64).mean()
    signal = np.square(y, dtype=np.float64).mean()
    assert abs(10 * np.log10(signal / noise) - NOISE[grid.name]) <= 0.2
