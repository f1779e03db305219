"""What lesson 10 adds: the comparison. Everything is trained from the beginning, at the rate that lesson 3 began with."""

from dataclasses import replace

from lessons.lesson09_int4.recipe import recipe as previous

INTRODUCES = (
    "minimtp.decode.cost",
    "minimtp.decode.estimates",
    "minimtp.decode.adaptive",
    "minimtp.decode.ngram",
    "minimtp.decode.model_drafter",
    "minimtp.decode.batch",
    "minimtp.decode.sources",
    "minimtp.decode.deploy",
    "minimtp.decode.measure",
    "minimtp.training.quantize",
    "minimtp.doctor",
    "minimtp.bench.machine",
    "minimtp.claims",
    "minimtp.pictures",
    "minimtp.compare",
)

recipe = replace(previous, learning_rate=3e-3)
