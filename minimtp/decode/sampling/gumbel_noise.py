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

# Positions to generate together, fewer if they have more than BLOCK_NUMBERS numbers: those stay in
# the processor's cache.
BLOCK, BLOCK_NUMBERS = 64, 1 << 15
WINDOW, WINDOW_BLOCKS = 64, 4  # positions and blocks to make room for, at least


def block_rows(vocabulary_size: int) -> int:
    """Return the number of positions to generate together."""
    return max(1, min(BLOCK, BLOCK_NUMBERS // vocabulary_size))


def gumbel_noise(
    generator: np.random.Generator, shape: tuple[int, int], out: np.ndarray | None = None
) -> np.ndarray:
    """Return finite standard Gumbel noise G (Gumbel 1954), float64, in `out` if it is given.

    argmax(log p + G) over the tokens is a sample from p.
    """
    exponential = generator.standard_exponential(shape, out=out)
    smallest = np.finfo(np.float64).tiny
    np.maximum(exponential, smallest, out=exponential)  # -log(0) + a score of -inf would be NaN
    np.log(exponential, out=exponential)
    return np.negative(exponential, out=exponential)


class GumbelNoise:
    """Gumbel noise G for every (seed, position, token): argmax(log p + G) is a sample from p.

    Counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the noise of
    a position is computed from the position, not from earlier random numbers. So a sampled token
    depends on the seed, its position and p only.

    Positions are generated in blocks, because setting up a generator takes as long as 1000 numbers.
    The noise of a window of positions is kept, for drafter and target and for drafts that are
    rejected. With 49,152 tokens, a block is one position and the window has 25 MB.
    """

    def __init__(self, seed: int, vocabulary_size: int) -> None:
        self._seed = seed
        self._shape = (block_rows(vocabulary_size), vocabulary_size)
        self._windows: dict[ModuleType, _Window] = {}  # by array library

    def rows(self, position: int, count: int, xp: ModuleType = np) -> Array:
        """Return the noise (count, V), float64, of the positions from `position` on.

        They are an array of `xp`: a block is copied to the GPU once, when its first position is
        requested.
        """
        size = self._shape[0]
        window = self._windows.get(xp)
        if window is None or not window.has_room_for(position, count):
            first = position // size * size
            room = max(position + count - first, WINDOW, WINDOW_BLOCKS * size)
            room = -(-room // size) * size  # whole blocks
            window = _Window(xp.empty((room, self._shape[1])), first)
            self._windows[xp] = window
        while window.stop < position + count:
            place, number = window.next_rows(size), window.stop // size
            if xp is np:
                self._generate(number, place)
            else:
                place[:] = xp.asarray(self._generate(number))
            window.stop += size
        return window.noise[position - window.first : position - window.first + count]

    def _generate(self, number: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return the noise of block `number`, in `out` if it is given."""
        counter = [0, number, 0, 0]
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=counter))
        return gumbel_noise(generator, self._shape, out)


class _Window:
    """The noise of the positions from `first` up to `stop`, and room for more."""

    def __init__(self, noise: Array, first: int) -> None:
        self.noise, self.first, self.stop = noise, first, first

    def has_room_for(self, position: int, count: int) -> bool:
        return self.first <= position and position + count <= self.first + len(self.noise)

    def next_rows(self, count: int) -> Array:
        start = self.stop - self.first
        return self.noise[start : start + count]
