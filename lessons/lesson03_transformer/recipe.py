"""Lesson 3 adds the transformer, and training runs that are saved in a folder."""

from dataclasses import replace

from lessons.lesson02_training.recipe import recipe as previous

INTRODUCES = (
    "minimtp.model.config",
    "minimtp.model.rotary",
    "minimtp.model.transformer",
    "minimtp.model.loaded",
    "minimtp.model.loss",
    "minimtp.model.output_loss",
    "minimtp.model.head_loss",
    "minimtp.training.data.batches",
    "minimtp.training.build",
    "minimtp.training.data.recorded",
    "minimtp.training.evaluate",
    "minimtp.training.loss_scale",
    "minimtp.training.trainer",
    "minimtp.training.run.tensor_file",
    "minimtp.training.run.checkpoint",
    "minimtp.training.run.distributed",
    "minimtp.training.run.mpirun",
    "minimtp.training.run.interrupt",
    "minimtp.training.run.plot",
    "minimtp.training.run.folder",
    "minimtp.training.run.start",
    "minimtp.training.run.loop",
    "minimtp.training.run.quantized_start",
    "minimtp.training.run.teacher",
    "minimtp.training.run.train",
    "minimtp.formats.load",
)

DETAILS = "the loss of each window model at two other learning rates"
recipe = replace(previous, learning_rate=3e-3)
