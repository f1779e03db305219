"""GPTQ that confuses columns, uses outdated weights, or fails on a singular moment matrix."""

from minimtp.quant.grids import Q4_0
from tests.mutants import edited, mutant, own
from tests.quant.ptq import test_gptq


def check_any_number_of_groups_at_once():
    test_gptq.test_gptq_does_not_depend_on_how_many_groups_it_updates_at_once(own, Q4_0)


def check_column_by_column(largest_first=False):
    test_gptq.test_gptq_equals_updating_the_inverse_column_by_column(own, Q4_0, largest_first)


@mutant("quant.ptq.gptq:gptq", "mlx-lm #1878, #1880", test=check_any_number_of_groups_at_once)
def errors_are_stored_at_the_column_of_the_matrix_instead_of_the_block(gptq):
    """From the second block on, the slice is out of range, and nothing is written or reported."""
    return edited(gptq, ("errors[j - first] = ", "errors[j : j + 1][:] = "))


@mutant("quant.ptq.gptq:gptq", "mlx-lm #1878, #1880", test=check_any_number_of_groups_at_once)
def updates_within_a_block_reach_into_the_next_one(gptq):
    right = "now[end:last] -= factor[begin:end, end:last].T @ errors[begin - first : end - first]"
    return edited(gptq, (right, right.replace("end:last]", "end : last + first]")))


@mutant("quant.ptq.gptq:gptq", "sparseml #2290", test=lambda: check_column_by_column(True))
def scales_are_looked_up_by_position_instead_of_column(gptq):
    return edited(
        gptq,
        (
            "grid.nearest(now[j][:, None], scales, column)",
            "grid.nearest(now[j][:, None], scales, j)",
        ),
    )


@mutant("quant.ptq.gptq:gptq", "IST-DASLab/gptq: research/qat.md 2.7", test=check_column_by_column)
def the_scales_of_a_group_are_computed_from_weights_before_the_updates(gptq):
    return edited(gptq, ("grid.encode(now[group].T, name)", "grid.encode(weight[:, group], name)"))


@mutant(
    "quant.ptq.gptq:_inverse_factor",
    "llm-compressor #142, AutoGPTQ #572",
    test=lambda: test_gptq.test_gptq_without_any_inputs_is_round_to_nearest(own, Q4_0),
)
def inputs_that_are_always_zero_are_not_handled(factor):
    return edited(
        factor,
        ("    diagonal[dead] = 1.0 if dead.all() else diagonal[~dead].mean()\n", ""),
        ("        damping *= 10", "        raise xp.linalg.LinAlgError('not positive definite')"),
    )


FEW_INPUTS = (
    test_gptq.test_gptq_with_fewer_inputs_than_columns_is_finite_and_better_than_round_to_nearest
)


@mutant(
    "quant.ptq.gptq:_inverse_factor", "AutoGPTQ #708, keras #23532", test=lambda: FEW_INPUTS(own, 1)
)
def a_singular_moment_matrix_is_not_damped(factor):
    return edited(
        factor,
        ("DAMPING * float(diagonal.mean())", "0.0"),
        ("        damping *= 10", "        raise xp.linalg.LinAlgError('not positive definite')"),
    )
