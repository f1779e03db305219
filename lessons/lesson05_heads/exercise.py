"""Exercises of lesson 5. Fill in the bodies, then run:

pytest --mine tests/model/test_heads.py
"""

from minimtp.backend import numpy as np
from minimtp.training.recipe import Recipe


def active_heads(recipe: Recipe, step: int) -> int:
    """Return the number of heads that the curriculum trains in this step, nearest first."""
    raise NotImplementedError(
        "lesson 5: recipe.steps has recipe.draft_depth + 1 equal parts; in which part is this step?"
    )


def head_weights(recipe: Recipe, step: int) -> list[float]:
    """Return the weight of the loss at each extra depth 1..draft_depth.

    The weight is 0 for a head that the curriculum does not train in this step.
    """
    raise NotImplementedError(
        "lesson 5: divide the sum for this step among the heads; inactive heads get 0"
    )


def teacher_forced_acceptance(predicted: np.ndarray) -> list[float | None]:
    """Return the acceptance at depth 1..K, None for a depth that no draft reached.

    predicted: the most probable tokens (W, T, 1 + K) of the model and then of each head.

    The draft of head j at t is accepted if predicted[w, t, j] equals predicted[w, t + j, 0], the
    model's own choice there. Acceptance at depth k is counted over the positions t < T - k where
    the drafts of heads 1..k-1 are accepted.
    """
    raise NotImplementedError(
        "lesson 5: for each depth, count the drafts that reach it and those accepted there"
    )
