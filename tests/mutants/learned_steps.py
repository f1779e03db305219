"""Learned steps with a wrong derivative or a wrong sign."""

from minimtp.quant.grids import grid_named
from tests.mutants import edited, mutant, own
from tests.quant.qat import learned_cases, test_learned_gradients, test_learned_steps


def check_the_lsq_gradient():
    check = test_learned_gradients.test_learned_gradients_are_the_derivatives_of_the_lsq_surrogate
    for shift in (-0.7, 0.0):
        check(own, learned_cases.GRIDS[0], shift)


@mutant(
    "quant.qat.learned:FakeQuantizeLearned.log_step_gradient",
    "nncf #50, nni #3160",
    test=check_the_lsq_gradient,
)
def weights_below_the_lowest_level_give_the_step_the_gradient_of_the_highest(gradient_of):
    wrong = "abs(value) * ~inside + inside * (value - self.weight)"
    right = "value - array_module(value).where(inside, fixed, lowest)"
    return edited(gradient_of, (right, wrong))


@mutant(
    "quant.qat.learned:FakeQuantizeLearned.log_step_gradient",
    "LSQuantization #1",
    test=check_the_lsq_gradient,
)
def the_step_gets_the_derivative_of_the_staircase(gradient_of):
    return edited(
        gradient_of, ("value - array_module(value).where(inside, fixed, lowest)", "value")
    )


def check_the_sign_of_steps():
    test_learned_steps.test_a_learned_step_keeps_its_sign_for_any_log_step(
        grid_named("int4-restricted-g32"), -1.1
    )


@mutant("quant.qat.learned:encode_learned", "LSQplus #12", test=check_the_sign_of_steps)
def the_step_instead_of_its_logarithm_is_learned_and_becomes_negative(encode):
    return edited(encode, ("array_module(weight).exp(log_steps)", "(1 + log_steps)"))
