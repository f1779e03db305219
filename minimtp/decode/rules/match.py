"""Sample and match: the target samples as in plain decoding, and drafts are accepted if they equal
its samples.
"""

from collections.abc import Callable, Sequence
from types import ModuleType

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.matching import (
    highest_scores,
    matching_path,
    matching_rule,
    require_finite,
    sample_token,
)
from minimtp.decode.rules.rule import Children, Coupling, PerturbedArgmax, Scores
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.sampling.random_source import RandomSource


class Match:
    """Accept drafts that equal the target's own samples.

    Rule: drafts are the most probable tokens of the drafter, and the target samples y from p.
    Accept a draft d if d = y, which has probability p(d). Sampling d could only lower that
    probability.
    Source: the default of llama.cpp (examples/speculative-simple).
    Guarantee: the same as for `matching_rule` and `matching_path`. It consumes one random number
    per emitted token and none for drafts, so the same seed gives the text of plain decoding, as
    long as the drafter uses no random numbers.
    """

    coupling = Coupling.INDEPENDENT

    def __init__(self, sampling: SamplingParams, rng: RandomSource) -> None:
        self.sampling = sampling
        self.rng = rng

    def sample(self, logits: Array, index: int) -> tuple[Array, None]:
        return logits.argmax(axis=-1), None

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: Scores | None
    ) -> tuple[int, int]:
        return require_finite(*matching_rule(self._sampler(logits), drafts))

    def sample_children(self, logits: Array, path: Sequence[int], width: int) -> Children:
        return highest_scores(to_numpy(self.sampling.scores(logits)), width)

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]:
        return require_finite(*matching_path(self._sampler(logits), tree))

    def perturbed_argmax(self, depth: int, xp: ModuleType = np) -> PerturbedArgmax:
        return PerturbedArgmax(self.sampling, noise=None)

    def softmax_points(self, depth: int) -> None:
        """Return None: drafts are not sampled from a softmax."""
        return None

    def _sampler(self, logits: Array) -> Callable[[int], int]:
        """Return a function row -> the target's sample in that row, -1 if its score is not finite.

        It consumes random numbers only for the rows it is called with, whose tokens are emitted.
        """
        scores = to_numpy(self.sampling.scores(logits))
        return lambda row: sample_token(self.rng, scores[row : row + 1])
