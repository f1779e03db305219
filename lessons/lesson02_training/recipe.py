"""Lesson 2 adds the corpus, parameters, an optimizer, a schedule, and several cores."""

from dataclasses import replace

from lessons.lesson01_autograd.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels",
    "minimtp.kernels.plain.gated_drafts",
    "minimtp.kernels.plain",
    "minimtp.kernels.ggml.blocks",
    "minimtp.engine.fused",
    "minimtp.engine.precision",
    "minimtp.engine.module",
    "minimtp.engine.flat",
    "minimtp.engine.optim",
    "minimtp.engine.replicas",
    "minimtp.model.layers",
    "minimtp.files",
    "minimtp.machine",
    "minimtp.training.data.texts",
    "minimtp.training.data.tokenizer",
    "minimtp.training.data.corpus",
    "minimtp.training.schedule",
)

recipe = replace(previous, learning_rate=1e-2)
