"""Lesson 5's exercises. Fill in the bodies, then:  pytest --mine tests/test_heads.py"""

from minimtp.backend import numpy as np
from minimtp.training.recipe import Recipe


def active_heads(recipe: Recipe, step: int) -> int:
    """How many heads, nearest first, the curriculum trains in step `step`."""
    raise NotImplementedError("lesson 5: recipe.draft_depth + 1 equal shares of recipe.steps; which of them is this step in?")


def head_weights(recipe: Recipe, step: int) -> list[float]:
    """Weight of the loss at each extra depth 1..draft_depth in step `step`; 0 while the curriculum leaves it out."""
    raise NotImplementedError("lesson 5: together, then apart by the decay, then 0 for those that are not active")


def teacher_forced_acceptance(predicted: np.ndarray) -> list[float | None]:
    """Acceptance at depth 1..K from (W, T, 1 + K) most probable tokens; see the module's text."""
    raise NotImplementedError("lesson 5: for each depth, the drafts that got there and those that stood")
