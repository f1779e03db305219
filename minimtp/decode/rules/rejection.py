"""Rejection sampling: the common part of the token rule and the block rule."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType

from minimtp import kernels
from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.matching import matching_path, require_finite
from minimtp.decode.rules.rule import Children, Coupling, Scores, SoftmaxPoints, VocabularyScores
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import SamplingParams, softmax
from minimtp.decode.sampling.random_source import RandomSource


class RejectionRule(ABC):
    """Accept sampled drafts with probabilities that depend on p and q.

    Guarantee: the output has the target's distribution. The same seed gives the same text only with
    the same drafter and the same draft length, because every step consumes random numbers. On a
    GPU, p and q are computed there and copied to the host, where the random numbers are.

    `chain` is the readable rule. If there is a compiled version of it, kernels for float32 run that
    (kernels/plain/decoding/verification.py).
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
        points = self.rng.points(len(scores))
        if points is None:
            return self.rng.sample(scores), scores
        temperatures = np.ones(len(scores), scores.dtype)
        tokens = kernels.for_array(scores).sample(scores, temperatures, points)
        # -1 stands for scores that are not finite. They fail in verification, so take any token.
        return np.maximum(tokens, 0), scores

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: Scores | None
    ) -> tuple[int, int]:
        tokens, temperature = None, self.sampling.temperature
        if isinstance(scores, VocabularyScores):
            scores, tokens = scores.scores, scores.tokens
        if self.sampling.truncates:
            logits, temperature = self.sampling.scores(logits), 1.0
        verified = kernels.for_array(logits).verify_chain(
            self.chain, logits, temperature, drafts, scores, tokens, self.rng
        )
        return require_finite(*verified)

    def sample_children(self, logits: Array, path: Sequence[int], width: int) -> Children:
        scores = to_numpy(self.sampling.scores(logits))
        return Children(self.rng.sample_distinct(scores[0], width), scores)

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]:
        p = to_numpy(self.sampling.probabilities(logits))
        if tree.scores is None:  # the children were not sampled
            return matching_path(lambda row: self.rng.choose(p[row]), tree)
        return self.tree(p, softmax(np.asarray(tree.scores, np.float64)), tree, self.rng)

    def perturbed_argmax(self, depth: int, xp: ModuleType = np) -> None:
        """Return None: drafts are sampled independently of the target's tokens."""
        return None

    def softmax_points(self, depth: int) -> SoftmaxPoints | None:
        points = self.rng.points(depth)
        return None if points is None else SoftmaxPoints(self.sampling, points)
