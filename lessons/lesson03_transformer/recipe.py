"""Lesson 3 adds the transformer, and training runs that are saved in a folder."""

from dataclasses import replace

from lessons.lesson02_training.recipe import recipe as previous

INTRODUCES = (
    "minimtp.model.rotary",
    "minimtp.model.transformer",
    "minimtp.model.loaded",
    "minimtp.model.loss",
    "minimtp.training.data.batches",
    "minimtp.training.build",
    "minimtp.training.checkpoint",
    "minimtp.training.distributed",
    "minimtp.training.evaluate",
    "minimtp.training.interrupt",
    "minimtp.training.log",
    "minimtp.training.run",
    "minimtp.training.plot",
    "minimtp.training.loss_scale",
    "minimtp.training.trainer",
)

recipe = replace(previous, learning_rate=3e-3)
