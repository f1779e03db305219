"""Gumbel noise: argmax(log p + G) is a sample from p (Gumbel 1954; Maddison et al. 2014,
1411.0030).

Why: let W_x be independent exponential waiting times, one per token, with rates p(x). The rates sum
to 1, and token x is the first one with probability p(x), its share of the rates. Such a time is E_x
/ p(x), where E_x has rate 1. So the token with the smallest E_x / p(x) is a sample from p. It also
has the largest log p(x) - log E_x, and G_x = -log E_x.
"""

from types import ModuleType

from minimtp.backend import Array
from minimtp.backend import numpy as np


def gumbel_noise(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return finite standard Gumbel noise G (Gumbel 1954).

    argmax(log p + G) over the tokens is a sample from p.
    """
    exponential = generator.standard_exponential(shape)
    smallest = np.finfo(np.float64).tiny
    np.maximum(exponential, smallest, out=exponential)  # -log(0) + a score of -inf would be NaN
    np.log(exponential, out=exponential)
    return np.negative(exponential, out=exponential)


class GumbelNoise:
    """Gumbel noise G for every (seed, position, token): argmax(log p + G) is a sample from p.

    Counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the noise of
    a position is computed from the position, not from earlier random numbers. So a sampled token
    depends on the seed, its position and p only.
    """

    # Positions to generate together: setting up a generator takes as long as 1000 numbers.
    BLOCK = 64
    CACHED_BLOCKS = 3  # per device

    def __init__(self, seed: int, vocabulary_size: int) -> None:
        self._seed = seed
        self._shape = (self.BLOCK, vocabulary_size)
        self._blocks: dict[ModuleType, dict[int, Array]] = {}  # by array library and number

    def rows(self, position: int, count: int, xp: ModuleType = np) -> Array:
        """Return the noise (count, V), float64, of the positions from `position` on.

        They are an array of `xp`: a block is copied to the GPU once, when its first position is
        requested.
        """
        number, offset = divmod(position, self.BLOCK)
        rows = self._block(number, xp)[offset : offset + count]
        while len(rows) < count:
            number += 1
            rows = xp.concatenate([rows, self._block(number, xp)[: count - len(rows)]])
        return rows

    def _block(self, number: int, xp: ModuleType) -> Array:
        blocks = self._blocks.setdefault(xp, {})
        if number not in blocks:
            block = self._generate(number) if xp is np else xp.asarray(self._block(number, np))
            if len(blocks) >= self.CACHED_BLOCKS:
                blocks.clear()
            blocks[number] = block
        return blocks[number]

    def _generate(self, number: int) -> np.ndarray:
        counter = [0, number, 0, 0]
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=counter))
        return gumbel_noise(generator, self._shape)
