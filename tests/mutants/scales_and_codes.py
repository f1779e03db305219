"""Scales for one range with a clip to another, training that rounds differently from the file, and
wrong groups.
"""

import hashlib

from minimtp.backend import array_module, numpy
from minimtp.kernels.ggml.blocks import GROUP_SIZE
from minimtp.quant.grids import Q4_0
from minimtp.quant.grids.groups import divisor
from tests.mutants import edited, mutant
from tests.mutants.stored import stored_bytes
from tests.quant.grids import test_uniform
from tests.vectors.ggml_cases import large_cases

SAME = "fake_quantization_equals_decoding_the_codes_bit_for_bit_with_any_kernel"
HALF_A_STEP = "rounding_moves_a_weight_by_at_most_half_a_step_or_one_opposite_a_signed_extreme"


# ---------------------------------------------------------------------------------------- the range


@mutant(
    "quant.grids.uniform:UniformGrid.steps_to_the_extreme",
    "distiller #463",
    HALF_A_STEP,
    "int4-full-mid-g32",
)
def the_scale_is_for_the_restricted_range_and_the_clip_for_the_full_range(steps):
    return property(lambda self: self.max_code)


@mutant(
    "quant.grids.uniform:UniformGrid.steps_to_the_extreme",
    "aimet #276, neural-compressor #1083",
    "equal_weights_come_back_equal_finite_and_close",
    "int4-restricted-g32",
)
def the_scale_is_for_the_full_range_and_the_clip_for_the_restricted_range(steps):
    return property(lambda self: self.max_code + 0.5)


@mutant(
    "kernels.ggml.blocks:levels_q4_0",
    "mlx-lm #1646, mlx-swift-lm #507",
    "the_outermost_codes_are_used",
    "q4_0",
)
def the_extreme_loses_its_sign(levels_q4_0):
    def unsigned(x):
        xp = array_module(x)
        groups = x.astype(xp.float32, copy=False).reshape(len(x), -1, GROUP_SIZE)
        step = abs(groups).max(axis=-1, keepdims=True) / xp.float32(8)
        return xp.trunc(groups / xp.where(step == 0, xp.float32(1), step) + xp.float32(8.5)), step

    return unsigned


def check_the_bytes_of_a_million_weights():
    digest = hashlib.sha256(Q4_0.pack(*Q4_0.encode(large_cases()["spread"]))).digest()
    assert digest == stored_bytes()["q4_0/plain/sha256 of large spread"].tobytes()


@mutant(
    "kernels.ggml.blocks:levels_q4_0",
    "llama.cpp #8939, #15111",
    test=check_the_bytes_of_a_million_weights,
)
def a_multiplication_and_an_addition_are_rounded_once(levels_q4_0):
    """A compiler that fuses a*b+c does this, so the bytes depend on the machine."""

    def fused(x):
        _, step = levels_q4_0(x)
        groups = x.astype("float64").reshape(len(x), -1, GROUP_SIZE)
        inverse = numpy.where(
            step == 0, 0, numpy.float32(1) / numpy.where(step == 0, 1, step)
        ).astype("float64")
        return numpy.trunc((groups * inverse + 8.5).astype("float32")), step

    return fused


@mutant(
    "quant.grids.superblocks:Q4_KGrid._encode",
    "torchao, quant_primitives.py at 36027d8",
    "codes_are_integers_of_the_grid_and_scales_have_their_type",
    "q4_k",
)
def nothing_is_rounded_at_all(encode):
    """Codes are floats, so the error is 1e-7. A test with only an upper limit does not notice."""

    def floats(self, x):
        _, scales = encode(self, x)
        return self._in_steps(x, scales), scales

    return floats


@mutant(
    "quant.grids.groups:GroupedGrid._stored",
    "llama.cpp discussion #26788",
    HALF_A_STEP,
    "int8-affine-channel",
)
def scales_are_bfloat16_but_the_file_stores_float16(stored):
    def shorter(self, step):
        rounded = (step.view("uint32") + numpy.uint32(0x8000)) & numpy.uint32(0xFFFF0000)
        return rounded.view("float32")

    return shorter


# ------------------------------------------------------------------------ training against the file


@mutant("quant.grids.base:Grid._fake_quantize", "ao #1964", SAME, "int4-affine-g32")
def training_adds_the_zero_point_before_rounding_but_the_file_after(fake_quantize):
    def before(self, x):
        step, zero = self._per_column(self.scales(x), 0, x.shape[1])
        codes = numpy.clip(
            numpy.rint(x.astype("float32") / divisor(step) + zero), self.min_code, self.max_code
        )
        return ((codes - zero) * step).astype(x.dtype, copy=False)

    return before


@mutant("quant.grids.base:Grid._fake_quantize", "ao #229", SAME, "int8-affine-channel")
def training_multiplies_by_the_reciprocal_but_the_file_divides(fake_quantize):
    def reciprocal(self, x):
        step, zero = self._per_column(self.scales(x), 0, x.shape[1])
        levels = numpy.rint(x.astype("float32") * (numpy.float32(1) / divisor(step))) + zero
        return ((numpy.clip(levels, self.min_code, self.max_code) - zero) * step).astype(
            x.dtype, copy=False
        )

    return reciprocal


@mutant("quant.grids.base:Grid._fake_quantize", "ao #2085, #2937", SAME, "int4-restricted-g32")
def training_does_not_round_scales_but_the_file_does(fake_quantize):
    def precise(self, x):
        exact = type(self)(self.bits, self.policy, self.granularity, "float32")
        return exact.decode(*exact._encode(x)).astype(x.dtype, copy=False)

    return precise


@mutant("quant.grids.base:Grid._fake_quantize", "ao #2060", SAME, "int4-full-mid-g32")
def training_limits_scales_from_below_but_the_file_does_not(fake_quantize):
    def floored(self, x):
        scales = numpy.maximum(self.scales(x), numpy.float32(1e-5))
        return self.decode(self.nearest(x, scales), scales).astype(x.dtype, copy=False)

    return floored


@mutant(
    "quant.grids.base:Grid._fake_quantize",
    "openai/parameter-golf #304",
    SAME,
    "int8-restricted-tensor-f32",
)
def training_clips_at_a_percentile_but_the_file_at_the_extreme(fake_quantize):
    """The defect cost a quarter of a bit per byte."""

    def clipped(self, x):
        limit = numpy.percentile(abs(x), 99)
        return fake_quantize(self, x.clip(-limit, limit))

    return clipped


# ------------------------------------------------------------------------------------------- groups


@mutant(
    "quant.grids.base:per_column",
    "vllm #39705",
    "a_group_is_rounded_the_same_alone_as_in_the_whole_matrix",
    "nf4-g16",
)
def two_groups_in_one_tile_are_multiplied_by_the_scale_of_the_first(per_column):
    def one_for_two(scales, group_size, first, columns):
        return numpy.repeat(scales[:, ::2], 2 * group_size, axis=1)[:, first : first + columns]

    return one_for_two


@mutant(
    "quant.grids.groups:GroupedGrid.check_columns",
    "torchchat #522, flashinfer #3101",
    "a_group_is_rounded_the_same_alone_as_in_the_whole_matrix",
    "int4-affine-g32",
)
def a_shorter_last_group_is_rejected(check):
    def whole_groups_only(self, shape, name):
        if self.group_size and shape[1] % self.group_size:
            raise ValueError(f"{shape[1]} columns do not divide into groups of {self.group_size}")
        check(self, shape, name)

    return whole_groups_only


@mutant("quant.grids.base:Grid._fake_quantize", "torchchat #1362", SAME, "int4-ggml-signed-g32")
def a_shorter_last_group_is_not_rounded(fake_quantize):
    def whole_groups_only(self, x):
        rounded, whole = fake_quantize(self, x), x.shape[1] // self.group_size * self.group_size
        rounded[:, whole:] = x[:, whole:]
        return rounded

    return whole_groups_only


@mutant(
    "quant.grids.groups:GroupedGrid._over_groups",
    "compressed-tensors #447",
    "equal_weights_come_back_equal_finite_and_close",
    "ternary-g8",
)
def a_shorter_last_group_is_padded_with_zeros_that_affect_its_scale(over_groups):
    def filled(self, x, statistic):
        missing = -x.shape[1] % (self.group_size or 1)
        return over_groups(self, numpy.pad(x, ((0, 0), (0, missing))), statistic)

    return filled


# ---------------------------------------------------------------------------------------- gradients

MASKS = test_uniform.test_the_masks_follow_the_table_on_and_around_the_outermost_codes


@mutant("quant.grids.uniform:UniformGrid._inside", "ao #4806, pytorch #191142", test=MASKS)
def weights_on_the_outermost_codes_lose_their_gradient(inside):
    return edited(inside, ("levels >= self", "levels > self"), ("levels <= self", "levels < self"))


@mutant("quant.grids.uniform:UniformGrid._inside", "aimet #2166, tensorflow #22977", test=MASKS)
def gradients_of_weights_below_the_lowest_level_pass(inside):
    return edited(inside, ("(levels >= self.min_code) & ", ""))


@mutant("quant.grids.uniform:UniformGrid._inside", "research/qat.md 5, pitfall 3", test=MASKS)
def the_mask_is_computed_after_clipping(inside):
    return edited(
        inside,
        ("    return ", "    levels = levels.clip(self.min_code, self.max_code)\n    return "),
    )
