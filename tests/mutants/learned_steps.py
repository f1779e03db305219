"""Learned steps with another derivative than the surrogate's, or with a step that changes its sign."""

from minimtp.quant.grids.registry import grid_named
from tests.mutants import edited, mutant, own
from tests.quant.qat import test_learned


def lsq():
    test_learned.test_lsq_is_the_derivative_of_its_surrogate_to_1e9(own)


@mutant("quant.qat.learned:LearnedStep.backward", "nncf #50, nni #3160", test=lsq)
def below_the_lowest_level_the_step_has_the_gradient_of_the_highest(backward):
    wrong = "(abs(self.codes) * ~inside + inside * (self.codes - self.levels))"
    return edited(backward, ("(self.codes - inside * self.levels)", wrong))


@mutant("quant.qat.learned:LearnedStep.backward", "LSQuantization #1", test=lsq)
def the_step_has_the_derivative_of_the_staircase(backward):
    return edited(backward, ("(self.codes - inside * self.levels)", "self.codes"))


def steps_keep_their_sign():
    test_learned.test_a_step_keeps_its_sign_however_far_it_is_learned(
        grid_named("int4-restricted-g32"), -1.1
    )


@mutant("quant.qat.learned:encode_learned", "LSQplus #12", test=steps_keep_their_sign)
def a_step_is_learned_as_it_is_and_becomes_negative(encode):
    return edited(encode, ("array_module(weight).exp(logarithms)", "(1 + logarithms)"))
