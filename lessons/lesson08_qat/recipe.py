"""Lesson 8 adds quantization-aware training, of trunk and heads together."""

from dataclasses import replace

from lessons.lesson07_quantization.recipe import recipe as previous

INTRODUCES = ("minimtp.training.average",)

recipe = replace(previous, quantization="qat", freeze_trunk=False, learning_rate=3e-4)
