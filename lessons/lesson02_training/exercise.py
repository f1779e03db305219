"""Exercises of lesson 2. Fill in the bodies, then run:

pytest --mine tests/training/test_learning.py
"""

from minimtp.backend import array_module  # noqa: F401  (returns numpy or cupy)
from minimtp.training.recipe import Recipe


def cross_entropy_backward(logits, targets, log_sum_exp, grad):
    """Gradient of `cross_entropy`: grad (N,) of the losses -> (N, V), (softmax - one-hot) * grad, 0 where ignored."""
    raise NotImplementedError("lesson 2: return the gradient with respect to the logits")


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of step `step` (counted from 0)."""
    raise NotImplementedError(
        "lesson 2: warm up, hold, decay; the formula is at the top of training/schedule.py"
    )


def adamw(
    parameters,
    gradients,
    first,
    second,
    decay_mask,
    learning_rate,
    beta1,
    beta2,
    eps,
    weight_decay,
    step,
    gradient_scale,
):
    """One step of Adam (Kingma & Ba 2015) with decoupled decay (Loshchilov & Hutter 2019), in place on flat (P,).

    `first` and `second` are the running moments, corrected here for their start at zero; `step` counts from 1;
    `gradient_scale` multiplies the gradient (clipping); `decay_mask`, a scalar or (P,), says how much of the decay each
    parameter gets. The gradients are left as they are.
    """
    raise NotImplementedError(
        "lesson 2: update both moments, correct their bias and make the step, all in place"
    )
