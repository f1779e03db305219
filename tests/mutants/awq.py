"""AWQ that does not undo a scale everywhere, so that the model computes another function."""

from tests.mutants import edited, mutant
from tests.quant.ptq import test_awq


def check_models_with_biases():
    test_awq.test_scaling_columns_does_not_change_the_outputs_before_rounding("none", 2, "qwen2")


@mutant("quant.ptq.awq:_of_block", "minimtp, before 2026-12-01", test=check_models_with_biases)
def the_values_are_divided_by_the_scales_and_their_bias_is_not(fold_block):
    """With 8-bit weights, AWQ was up to 175 times worse than rounding to nearest."""
    return edited(
        fold_block,
        ("    if attention.qkv_bias is not None:\n        values.append(attention.qkv_bias)\n", ""),
    )
