"""Learned steps with a wrong derivative or a wrong sign."""

from minimtp.quant.grids import grid_named
from tests.mutants import edited, mutant, own
from tests.quant.qat import (
    learned_cases,
    test_learned_gradients,
    test_learned_modules,
    test_learned_steps,
    test_start_steps,
)

GRADIENTS = "kernels.plain.steps:learned_step_gradients"


def check_the_lsq_gradient():
    check = test_learned_gradients.test_learned_gradients_are_the_derivatives_of_the_lsq_surrogate
    for shift in (-0.7, 0.0):
        check(own, learned_cases.GRIDS[0], shift)


@mutant(GRADIENTS, "nncf #50, nni #3160", test=check_the_lsq_gradient)
def weights_below_the_lowest_level_give_the_step_the_gradient_of_the_highest(gradient_of):
    wrong = "abs(levels) * ~inside + inside * (levels - fixed)"
    return edited(gradient_of, ("levels - xp.where(inside, fixed, outside)", wrong))


@mutant(GRADIENTS, "LSQuantization #1", test=check_the_lsq_gradient)
def the_step_gets_the_derivative_of_the_staircase(gradient_of):
    return edited(gradient_of, ("levels - xp.where(inside, fixed, outside)", "levels"))


def check_the_sign_of_steps():
    test_learned_steps.test_a_learned_step_keeps_its_sign_for_any_log_step(
        grid_named("int4-restricted-g32"), -1.1
    )


@mutant("quant.qat.learned:learned_scales", "LSQplus #12", test=check_the_sign_of_steps)
def the_step_instead_of_its_logarithm_is_learned_and_becomes_negative(scales):
    return edited(scales, ("array_module(weight).exp(log_steps)", "(1 + log_steps)"))


@mutant(
    "quant.qat.prepare:_learned_linear",
    "our own: a resumed run searched the first steps again",
    test=test_learned_modules.test_prepare_qat_initializes_learned_steps_unless_they_are_resumed,
)
def learned_steps_of_zero_have_not_begun(learned_linear):
    return edited(learned_linear, ("if not resumed", "if not log_steps.data.any()"))


def check_the_first_steps():
    test_learned_steps.test_initial_log_steps_are_finite_if_the_two_largest_weights_nearly_cancel(
        "q4_0"
    )


@mutant("quant.qat.learned:_log_ratio", "our own", test=check_the_first_steps)
def the_searched_step_has_the_sign_of_the_grids_own(log_ratio):
    return edited(log_ratio, ("own * found > 0", "(own != 0) & (found != 0)"))


Q4_0 = grid_named("q4_0")


def check_the_first_levels():
    check = test_start_steps.test_before_the_first_update_the_levels_are_the_packed_ones
    check.hypothesis.inner_test(own, Q4_0, 0, 0.3)


@mutant("quant.qat.start_steps:masters_and_steps", "our prototype", test=check_the_first_levels)
def training_starts_from_the_weights_and_forgets_the_codes(start_of):
    wrong = "weight, steps.reshape(-1)"
    right = "xp.clip(weight, low, high).astype(weight.dtype, copy=False), steps.reshape(-1)"
    return edited(start_of, (right, wrong))


def check_the_reach():
    check = test_start_steps
    check.test_a_master_is_the_weight_as_far_as_the_reach_and_the_outermost_levels_allow(Q4_0)


@mutant("quant.qat.start_steps:masters_and_steps", "our prototype", test=check_the_reach)
def a_negative_step_moves_masters_away_from_their_codes(start_of):
    return edited(start_of, ("xp.float32(REACH) * xp.abs(step)", "xp.float32(REACH) * step"))


def check_the_stored_steps():
    check = test_start_steps.test_training_sees_the_steps_that_a_file_stores
    check.hypothesis.inner_test(own, Q4_0, 0, 0.3)


@mutant("quant.qat.start_steps:current_steps", "our prototype", test=check_the_stored_steps)
def training_uses_steps_that_are_not_rounded_to_their_stored_type(steps_of):
    right = "stretched(grid, start, factors.reshape(start.shape))"
    return edited(steps_of, (right, "start * factors.reshape(start.shape)"))
