"""What lesson 8 adds: training through the rounding. Trunk and heads of lesson 5 train on, together."""

from dataclasses import replace

from lessons.lesson07_quantization.recipe import recipe as previous

INTRODUCES = ("minimtp.training.average",)
STARTS_FROM = 5

recipe = replace(previous, quantization="qat", freeze_trunk=False, learning_rate=3e-4)
