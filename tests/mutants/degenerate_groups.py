"""Groups of zeros, of equal weights, of tiny or huge weights, and non-finite values."""

from minimtp.backend import array_module, numpy
from tests.mutants import edited, mutant
from tests.mutants.stored import stored_bytes
from tests.quant import test_packing
from tests.quant.grids import test_ggml

NO_UNDEFINED_OPERATION = "no_undefined_operation_occurs"


@mutant(
    "quant.grids.groups:divisor", "GPTQModel #1531", NO_UNDEFINED_OPERATION, "int4-restricted-g32"
)
def weights_are_divided_by_a_scale_of_zero(divisor):
    return lambda step: step


@mutant(
    "quant.grids.codebook:TernaryGrid._in_steps",
    "kyegomez/BitNet #123",
    NO_UNDEFINED_OPERATION,
    "ternary-tensor",
)
def ternary_zeros_are_divided_by_their_mean(in_steps):
    def unguarded(self, x, scales, first=0):
        return x.astype("float32", copy=False) / self._spread(scales, first, x.shape[1])

    return unguarded


@mutant(
    "kernels.ggml.blocks:reciprocal",
    "ao #4713, #4762; aiter #4289",
    test=test_packing.test_a_q4_0_block_of_zeros_has_the_scale_minus_zero_like_ggml,
)
def the_reciprocal_of_a_step_of_zero_is_infinite(reciprocal):
    def unguarded(step):
        with numpy.errstate(all="ignore"):
            return array_module(step).float32(1) / step

    return unguarded


@mutant(
    "kernels.ggml.scale_search:search_signed", "auto-round #1908, #1909", "zeros_stay_zeros", "q6_k"
)
def a_super_block_of_zeros_gets_a_nan_scale(search):
    """A rewrite of the search in chunks dropped the guard against 0 / 0.

    One NaN in a file of 2.9 million blocks is enough to break the model.
    """
    return edited(
        search,
        ("xp.where(sum_l2 != 0, sum_lx / sum_l2, xp.float32(0))", "sum_lx / sum_l2"),
        (
            "    empty = xp.abs(extreme) < TOO_SMALL\n",
            "    empty = xp.zeros(extreme.shape, bool)\n",
        ),
    )


@mutant(
    "kernels.ggml.scale_search:search_positive",
    "llama.cpp #15379, #20460",
    test=lambda: test_ggml.test_packed_bytes_equal_the_bytes_of_ggml(
        test_ggml.Q4_K, "zero", "importance", stored_bytes()
    ),
)
def the_scale_of_scales_is_zero_over_zero(search):
    return edited(
        search,
        ("xp.where(sum_l2 > 0, sum_lx / sum_l2, xp.float32(0))", "sum_lx / sum_l2"),
        ("    empty = highest < TOO_SMALL\n", "    empty = xp.zeros(highest.shape, bool)\n"),
    )


@mutant(
    "kernels.ggml.scale_search:search_signed",
    "llama.cpp #7313, #3010",
    "groups_too_small_for_a_normal_scale_become_zeros",
    "q6_k",
)
def a_group_is_divided_by_its_extreme_even_if_that_is_almost_zero(search):
    return edited(
        search,
        ("    empty = xp.abs(extreme) < TOO_SMALL\n", "    empty = extreme == 0\n"),
        ("xp.where(sum_l2 != 0, sum_lx / sum_l2, xp.float32(0))", "sum_lx / sum_l2"),
    )


@mutant(
    "quant.grids.uniform:UniformGrid.scales",
    "hqq #159",
    "equal_weights_come_back_equal_finite_and_close",
    "int4-affine-g32",
)
def equal_weights_have_an_empty_range(scales):
    """The range from minimum to maximum does not include zero."""
    return edited(
        scales,
        ("xp.minimum(ends[..., 0], zero)", "ends[..., 0]"),
        ("xp.maximum(ends[..., 1], zero)", "ends[..., 1] + zero"),
    )


@mutant(
    "quant.grids.groups:GroupedGrid._stored",
    "ao #4534",
    "scaling_by_a_power_of_two_scales_the_result_if_scales_are_normal_numbers",
    "int2-ggml-signed-g8-f32",
)
def a_scale_is_at_least_the_epsilon_of_bfloat16(stored):
    """The defect raised a model's perplexity from 29.9 to 40.5."""

    def floored(self, step):
        return array_module(step).maximum(stored(self, step), array_module(step).float32(2.0**-7))

    return floored


@mutant(
    "quant.grids.base:Grid.check_values",
    "pytorch #171777",
    "a_non_finite_value_is_rejected_by_name",
    "q8_0",
)
def infinities_are_cast_to_an_integer(check):
    """The cast is undefined: it can give 0, the smallest integer or any other number."""
    return lambda self, x, name: None


@mutant(
    "quant.grids.base:Grid.check_values",
    "ggml, every format: research/qat.md 3",
    "a_non_finite_value_is_rejected_by_name",
    "int4-full-mid-g32",
)
def a_comparison_does_not_notice_nan(check):
    def only_larger(self, x, name):
        if abs(x).max() > self.max_magnitude:
            check(self, x, name)

    return only_larger


@mutant(
    "quant.grids.codebook:TernaryGrid.scales",
    "llama.cpp #21652, ik_llama.cpp #1659",
    "codes_are_integers_of_the_grid_and_scales_have_their_type",
    "ternary-tensor",
)
def magnitudes_are_summed_in_float16(scales):
    def overflowing(self, x):
        with numpy.errstate(all="ignore"):
            return self._stored(
                self._over_groups(x, lambda group: abs(group).mean(axis=-1, dtype="float16"))
            )

    return overflowing
