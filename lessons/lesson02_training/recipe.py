"""What lesson 2 adds: text, parameters, an optimizer, a schedule, several cores."""

from dataclasses import replace

from lessons.lesson01_autograd.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels",
    "minimtp.kernels.gated_drafts",
    "minimtp.kernels.plain",
    "minimtp.kernels.blocks",
    "minimtp.engine.fused",
    "minimtp.engine.precision",
    "minimtp.engine.module",
    "minimtp.engine.flat",
    "minimtp.engine.optim",
    "minimtp.engine.replicas",
    "minimtp.model.layers",
    "minimtp.training.paths",
    "minimtp.training.texts",
    "minimtp.training.tokenizer",
    "minimtp.training.corpus",
    "minimtp.training.schedule",
)

recipe = replace(previous, learning_rate=1e-2)
