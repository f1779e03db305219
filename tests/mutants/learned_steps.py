"""Learned steps with another derivative than the surrogate's, or with a step that changes its sign."""

from minimtp.quant.grids import grid_named
from tests.mutants import edited, mutant, own
from tests.quant.qat import test_learned


def lsq():
    for case in (test_learned.GRIDS[0], -0.7), (test_learned.GRIDS[0], 0.0):
        test_learned.test_learned_gradients_are_the_derivatives_of_the_lsq_surrogate(own, *case)


@mutant("quant.qat.learned:FakeQuantizeLearned.log_step_gradient", "nncf #50, nni #3160", test=lsq)
def below_the_lowest_level_the_step_has_the_gradient_of_the_highest(gradient_of):
    wrong = "abs(value) * ~inside + inside * (value - self.weight)"
    right = "value - array_module(value).where(inside, fixed, lowest)"
    return edited(gradient_of, (right, wrong))


@mutant("quant.qat.learned:FakeQuantizeLearned.log_step_gradient", "LSQuantization #1", test=lsq)
def the_step_has_the_derivative_of_the_staircase(gradient_of):
    return edited(
        gradient_of, ("value - array_module(value).where(inside, fixed, lowest)", "value")
    )


def steps_keep_their_sign():
    test_learned.test_a_step_keeps_its_sign_however_far_it_is_learned(
        grid_named("int4-restricted-g32"), -1.1
    )


@mutant("quant.qat.learned:encode_learned", "LSQplus #12", test=steps_keep_their_sign)
def a_step_is_learned_as_it_is_and_becomes_negative(encode):
    return edited(encode, ("array_module(weight).exp(log_steps)", "(1 + log_steps)"))
