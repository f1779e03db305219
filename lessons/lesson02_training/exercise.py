"""Exercises of lesson 2. Fill in the bodies, then run:

pytest --mine tests/training/test_learning.py
"""

from minimtp.backend import Array, array_module  # noqa: F401  (array_module returns numpy or cupy)
from minimtp.training.recipe import Recipe


def cross_entropy_backward(logits: Array, targets: Array, log_sum_exp: Array, grad: Array) -> Array:
    """Gradient of `cross_entropy`: (softmax - one-hot) * grad, (N, V); 0 for ignored rows.

    logits (N, V), targets (N,) integers, -1 for ignored rows, log_sum_exp of each row's logits
    (N,), grad of each row's loss (N,). The arguments are not changed.
    """
    raise NotImplementedError("lesson 2: return the gradient with respect to the logits")


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    raise NotImplementedError(
        "lesson 2: warm up, hold, decay; the formula is in the text, under By hand"
    )


def adamw(
    parameters: Array,
    gradients: Array,
    first: Array,
    second: Array,
    decay_mask: Array | float,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    gradient_scale: float,
) -> None:
    """One step of Adam (Kingma & Ba 2015) with decoupled decay (Loshchilov & Hutter 2019), in
    place.

    parameters, gradients, first, second: (P,). The gradients are not changed. `first` and `second`
    are the running moments, stored without bias correction. decay_mask: a number or (P,), the share
    of the weight decay that each parameter gets. step counts from 1. gradient_scale multiplies the
    gradient (clipping).
    """
    raise NotImplementedError(
        "lesson 2: update both moments, correct their bias and make the step, all in place"
    )
