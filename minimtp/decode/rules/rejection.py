"""Rejection sampling: the common part of the token rule and the block rule."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.matching import matching_path, require_finite, sample_token
from minimtp.decode.rules.rule import Children, Coupling
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import SamplingParams, softmax
from minimtp.decode.sampling.random_source import RandomSource


class RejectionRule(ABC):
    """Accept sampled drafts with probabilities that depend on p and q.

    Guarantee: the output has the target's distribution. The same seed gives the same text only with
    the same drafter and the same draft length, because every step consumes random numbers. On a
    GPU, p and q are computed there and copied to the host, where the random numbers are.
    """

    coupling = Coupling.REJECTION_SAMPLING

    def __init__(self, sampling: SamplingParams, rng: RandomSource) -> None:
        self.sampling = sampling
        self.rng = rng

    @staticmethod
    @abstractmethod
    def chain(
        p: np.ndarray, q: np.ndarray | None, drafts: Sequence[int], rng: RandomSource
    ) -> tuple[int, int]:
        """Verify a chain of K drafts: p (K+1, V), q (K, V) -> (accepted, token)."""

    @staticmethod
    @abstractmethod
    def tree(p: np.ndarray, q: np.ndarray, tree: Tree, rng: RandomSource) -> tuple[list[int], int]:
        """Verify a tree of N drafts: p (N+1, V), q (N+1, V) -> (path, token)."""

    def sample(self, logits: Array, index: int) -> tuple[np.ndarray, np.ndarray]:
        scores = to_numpy(self.sampling.scores(logits))
        return self.rng.sample(scores), scores

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: np.ndarray | None
    ) -> tuple[int, int]:
        if not len(drafts):  # plain sampling needs no probabilities
            return require_finite(0, sample_token(self.rng, to_numpy(self.sampling.scores(logits))))
        # The drafts were sampled from these scores, so q is their softmax in float64, not a float32
        # neighbour of it.
        q = None if scores is None else softmax(np.asarray(scores, np.float64))
        return self.chain(to_numpy(self.sampling.probabilities(logits)), q, drafts, self.rng)

    def sample_children(self, logits: Array, path: Sequence[int], width: int) -> Children:
        scores = to_numpy(self.sampling.scores(logits))
        return Children(self.rng.sample_distinct(scores[0], width), scores)

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]:
        p = to_numpy(self.sampling.probabilities(logits))
        if tree.scores is None:  # the children were not sampled
            return matching_path(lambda row: self.rng.choose(p[row]), tree)
        return self.tree(p, softmax(np.asarray(tree.scores, np.float64)), tree, self.rng)

    def perturbed_argmax(self, depth: int, xp: ModuleType = np) -> None:
        """Return None: drafts need fresh random numbers, so `sample` has to be called."""
        return None
