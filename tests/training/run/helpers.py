"""Small checkpoints for the tests of a run folder."""

import dataclasses

from minimtp.backend import numpy as np
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.recipe import Recipe
from minimtp.training.run.checkpoint import Checkpoint


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes() for name in one
    )  # fmt: skip


def small(step: int = 3, **changes: object) -> Checkpoint:
    values = np.arange(40, dtype=np.float32).reshape(5, 8) + step
    return Checkpoint(
        preset("tiny"),
        {"a.weight": values},
        {"first.a.weight": values * 2},
        step=step,
        tokens=step * 128,
        **changes,
    )


def model_checkpoint(recipe: Recipe, **changes: object) -> Checkpoint:
    model = build_model(recipe, np.random.default_rng(1))
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    return dataclasses.replace(Checkpoint(recipe, parameters, step=recipe.steps), **changes)
