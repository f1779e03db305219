"""Lesson 4 adds decoding with a KV cache, and sampling. The model is lesson 3's, unchanged."""

from lessons.lesson03_transformer.recipe import recipe as previous

INTRODUCES = (
    "minimtp.decode.cache",
    "minimtp.decode.sampling.gumbel_noise",
    "minimtp.decode.sampling.random_source",
    "minimtp.decode.sampling.params",
    "minimtp.decode.target",
    "minimtp.decode.model_runner",
)

recipe = previous
