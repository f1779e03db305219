"""What lesson 4 adds: decoding with a cache, and drawing from a law. The model is lesson 3's, as it is."""

from lessons.lesson03_transformer.recipe import recipe as previous

INTRODUCES = ("minimtp.decode.cache", "minimtp.decode.sampling", "minimtp.decode.runtime")

recipe = previous
