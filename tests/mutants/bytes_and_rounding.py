"""Codes in the wrong half of a byte, weights saved as zeros, and biased stochastic rounding."""

from minimtp.backend import array_module
from minimtp.kernels import plain
from minimtp.quant.bit_packing import pack4
from tests.kernels.rounding import test_quantize
from tests.mutants import mutant
from tests.quant import test_bit_packing, test_packing
from tests.quant.grids import test_rounding

DECODED = "packed_bytes_decode_to_the_fake_quantized_weights"
Q4_0_LAYOUT = (
    test_packing.test_a_q4_0_block_holds_the_scale_and_then_codes_j_and_j_plus_16_in_byte_j
)


@mutant("kernels.ggml.blocks:nibbles", "llama.cpp #17083", test=Q4_0_LAYOUT)
def neighbours_share_a_byte(nibbles):
    """Other formats use this order. The converter could read its own files, but ggml could not."""
    return lambda codes: pack4(codes.astype("uint8"), "adjacent-lo-first").reshape(
        len(codes), -1, 16
    )


@mutant(
    "quant.bit_packing:_filled",
    "tilelang-ascend #1731",
    test=test_bit_packing.test_an_odd_number_of_codes_is_padded_with_the_code_of_zero,
)
def the_last_code_of_an_odd_number_is_dropped(filled):
    return lambda codes, unit, fill: codes[..., : codes.shape[-1] // unit * unit]


@mutant("quant.packing:pack", "GPTQModel #1294", DECODED, "int8-affine-channel")
def rows_with_one_scale_are_saved_as_zeros(pack):
    def zeros(grid, codes, scales):
        packed = pack(grid, codes, scales)
        return packed * 0 if getattr(grid, "granularity", "") == "channel" else packed

    return zeros


@mutant(
    "quant.packing:pack", "AutoGPTQ's first format: research/qat.md 2.5", DECODED, "int4-affine-g32"
)
def stored_zero_points_are_too_small_by_one(pack):
    def less_one(grid, codes, scales):
        return pack(
            grid,
            codes,
            scales._replace(zero=scales.zero - 1) if hasattr(scales, "zero") else scales,
        )

    return less_one


def check_unbiased(values=(-2.999, -0.25, 0.001, 0.5, 3.7, 1000.0625)):
    for value in values:
        test_rounding.test_the_mean_of_stochastic_roundings_is_the_unrounded_number(value)


@mutant("quant.grids.rounding:stochastic", "gfloat #36", test=check_unbiased)
def stochastic_rounding_uses_only_two_random_bits(stochastic):
    def coarse(rng):
        def rounded(x):
            whole = array_module(x).floor(x)
            return whole + (rng.integers(0, 4, x.shape) / 4 < x - whole)

        return rounded

    return coarse


@mutant("quant.grids.rounding:stochastic", "oneDNN #2903", test=check_unbiased)
def the_random_bits_are_too_low_to_round_up(stochastic):
    def low(rng):
        return lambda x: array_module(x).floor(x + rng.random(x.shape) / 16)

    return low


@mutant(
    "kernels.plain:quantize_activations",
    "ao #4326",
    test=lambda: test_quantize.test_a_rounded_activation_is_within_half_a_step(plain),
)
def the_scale_of_activations_is_computed_in_bfloat16(quantize):
    def short(x):
        codes, scales = quantize(x)
        return codes, (scales.view("uint32") & 0xFFFF0000).view("float32")

    return short
