"""GPTQ that mixes up its columns, reads stale ones, or cannot be inverted."""

from minimtp.quant.grids import Q4_0
from tests.mutants import edited, mutant, own
from tests.quant.ptq import test_gptq


def blocks_do_not_matter():
    test_gptq.test_gptq_does_not_depend_on_how_many_groups_it_updates_at_once(own, Q4_0)


def as_column_by_column(largest_first=False):
    test_gptq.test_gptq_equals_updating_the_inverse_column_by_column(own, Q4_0, largest_first)


@mutant("quant.ptq.gptq:gptq", "mlx-lm #1878, #1880", test=blocks_do_not_matter)
def errors_are_kept_by_the_column_of_the_matrix_and_not_of_the_block(gptq):
    """After the first block the write misses, silently."""
    return edited(gptq, ("errors[:, j - first] = ", "errors[:, j : j + 1].T[:] = "))


@mutant("quant.ptq.gptq:gptq", "mlx-lm #1878, #1880", test=blocks_do_not_matter)
def updates_inside_a_block_spill_into_the_next_one(gptq):
    return edited(
        gptq,
        ("now[:, j + 1 : last] -= errors[:, j - first, None] * factor[j, j + 1 : last]",
         "now[:, j + 1 : last + first] -= errors[:, j - first, None] * factor[j, j + 1 : last + first]"),
    )  # fmt: skip


@mutant("quant.ptq.gptq:gptq", "sparseml #2290", test=lambda: as_column_by_column(True))
def scales_are_looked_up_by_the_position_and_not_by_the_column(gptq):
    return edited(
        gptq,
        (
            "grid.nearest(now[:, j : j + 1], scales, column)",
            "grid.nearest(now[:, j : j + 1], scales, j)",
        ),
    )


@mutant("quant.ptq.gptq:gptq", "IST-DASLab/gptq: research/qat.md 2.7", test=as_column_by_column)
def the_scale_of_a_group_is_of_weights_before_the_updates(gptq):
    return edited(gptq, ("grid.encode(now[:, group], name)", "grid.encode(weight[:, group], name)"))


@mutant("quant.ptq.gptq:_inverse_factor", "llm-compressor #142, AutoGPTQ #572",
        test=lambda: test_gptq.test_gptq_without_any_inputs_is_round_to_nearest(own, Q4_0))  # fmt: skip
def an_input_that_never_fires_is_not_looked_for(factor):
    return edited(
        factor,
        ("    diagonal[dead] = 1.0\n", ""),
        ("        damping *= 10", "        raise xp.linalg.LinAlgError('not positive definite')"),
    )


@mutant("quant.ptq.gptq:_inverse_factor", "AutoGPTQ #708, keras #23532",
        test=lambda: test_gptq.test_gptq_with_fewer_inputs_than_columns_is_finite_and_better_than_round_to_nearest(own, 1))  # fmt: skip
def a_singular_moment_is_not_damped(factor):
    return edited(
        factor,
        ("DAMPING * float(diagonal.mean())", "0.0"),
        ("        damping *= 10", "        raise xp.linalg.LinAlgError('not positive definite')"),
    )
