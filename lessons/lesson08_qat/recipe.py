"""Lesson 8 adds quantization-aware training, starting from the trunk and heads of lesson 5."""

from dataclasses import replace

from lessons.lesson07_quantization.recipe import recipe as previous

INTRODUCES = ("minimtp.training.average",)
STARTS_FROM = 5

recipe = replace(previous, quantization="qat", freeze_trunk=False, learning_rate=3e-4)
