"""The random numbers of sampling and verification."""

from typing import Protocol

from minimtp.backend import numpy as np
from minimtp.decode.sampling.gumbel_noise import block_rows, gumbel_noise


class RandomSource(Protocol):
    """All the randomness of sampling and verification.

    Verification rules use no other randomness. So a test can return every possible result of the
    calls and add up the exact probability of each outcome.
    """

    def points(self, count: int) -> np.ndarray | None:
        """Return (count,) float64, uniform from 0 up to 1, but not 1, for compiled code that makes
        several decisions.

        None if there are no such numbers. Then each decision has to be asked for.
        """

    def happens(self, probability: float) -> bool:
        """Return True with this probability (1 or more: always)."""

    def choose(self, probabilities: np.ndarray) -> int:
        """Sample a token from probabilities (V,) float64."""

    def sample(self, scores: np.ndarray) -> np.ndarray:
        """Sample a token (R,) from the softmax of each row of scores (R, V)."""

    def sample_distinct(self, scores: np.ndarray, count: int) -> list[int]:
        """Sample up to `count` tokens from the softmax of scores (V,), without replacement.

        Fewer if fewer tokens have a probability above 0.
        """


class SeededRandomSource:
    """A `RandomSource` whose results depend only on the seed and the earlier calls."""

    ROWS = 32  # rows of noise to generate at once, fewer if they are long

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._random = self._generator.random
        self._noise = np.empty((0, 0))

    def points(self, count: int) -> np.ndarray:
        return self._random(count)

    def happens(self, probability: float) -> bool:
        return self._random() < probability

    def choose(self, probabilities: np.ndarray) -> int:
        """Inverse transform sampling. Never returns a token with probability 0."""
        cumulative = probabilities.cumsum()
        total = cumulative[-1]
        point = self._random() * total
        if point >= total:  # caused by rounding: take the last token with a probability above 0
            return int(cumulative.searchsorted(total, side="left"))
        return int(cumulative.searchsorted(point, side="right"))

    def sample(self, scores: np.ndarray) -> np.ndarray:
        """Gumbel-max: the argmax of score + Gumbel noise.

        Needs no exponentials and no normalization, and two passes over a row.
        """
        rows = len(scores)
        if len(self._noise) < rows:
            ahead = max(rows, min(self.ROWS, block_rows(scores.shape[1])))
            self._noise = gumbel_noise(self._generator, (ahead, scores.shape[1]))
        noise, self._noise = self._noise[:rows], self._noise[rows:]
        return (scores + noise).argmax(axis=-1)

    def sample_distinct(self, scores: np.ndarray, count: int) -> list[int]:
        """Gumbel-top-k (Kool et al. 2019, 1903.06059): the highest of score + Gumbel noise.

        A token whose probability underflows to 0 counts as impossible, as it does in verification.
        """
        perturbed = scores + gumbel_noise(self._generator, (1, len(scores)))[0]
        tokens = np.argsort(-perturbed)[:count]
        return tokens[np.exp(scores[tokens] - scores.max()) > 0].tolist()
