"""Shared-noise verification: the same seed gives the same text for any drafts."""

from collections.abc import Sequence
from types import ModuleType

from minimtp import kernels
from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.matching import (
    highest_scores,
    matching_path,
    matching_rule,
    require_finite,
)
from minimtp.decode.rules.rule import Children, Coupling, PerturbedArgmax, Scores
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.gumbel_noise import GumbelNoise
from minimtp.decode.sampling.params import SamplingParams


class SharedNoise:
    """Drafter and target sample with the same Gumbel noise.

    Rule: the Gumbel noise G of every position is fixed by the seed. The target's token is
    argmax(log p + G), a sample from p. The draft is argmax(log q + G), a sample from q. Accept
    while they are equal, and emit the target's token where they differ. In a tree, the children of
    a row have the highest log q + G: they are sampled from q without replacement.
    Source: Daliri et al. 2024 (2408.07978), "Coupling without communication and drafter-invariant
    speculative decoding"; Gumbel-max: Maddison et al. 2014 (1411.0030); the k highest: Kool et al.
    2019 (1903.06059).
    Guarantee: token for token the text of plain decoding with the same seed, for any drafter and
    any draft length, provided a row's logits do not depend on the number of rows (compiled kernels;
    float64 up to rounding). Similar distributions have similar maxima: a draft is accepted with
    probability at least (1 - TV) / (1 + TV), a little less than the token rule's 1 - TV.
    """

    coupling = Coupling.SAME_ARGMAX

    def __init__(self, sampling: SamplingParams, noise: GumbelNoise, position: int) -> None:
        self.sampling = sampling
        self.noise = noise
        self.position = position  # position of the next token to be emitted

    def sample(self, logits: Array, index: int) -> tuple[Array, None]:
        xp = array_module(logits)
        noise = self.noise.rows(self.position + index, len(logits), xp)
        # Of -1, a logit that is not finite, no draft can be right, so any token will do.
        return xp.maximum(self._choose(logits, noise), 0), None

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: Scores | None
    ) -> tuple[int, int]:
        noise = self.noise.rows(self.position, len(logits), array_module(logits))
        choices = self._choose(logits, noise).tolist()
        accepted, token = require_finite(*matching_rule(choices.__getitem__, drafts))
        self.position += accepted + 1
        return accepted, token

    def sample_children(self, logits: Array, path: Sequence[int], width: int) -> Children:
        scores = to_numpy(self.sampling.scores(logits))
        return highest_scores(scores + self.noise.rows(self.position + len(path), 1), width)

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]:
        xp, depths = array_module(logits), tree.depths
        noise = self.noise.rows(self.position, max(depths) + 1, xp)[xp.asarray(depths)]  # (N+1, V)
        choices = self._choose(logits, noise).tolist()
        path, token = require_finite(*matching_path(choices.__getitem__, tree))
        self.position += len(path) + 1
        return path, token

    def perturbed_argmax(self, depth: int, xp: ModuleType = np) -> PerturbedArgmax:
        return PerturbedArgmax(self.sampling, self.noise.rows(self.position, depth, xp))

    def softmax_points(self, depth: int) -> None:
        """Return None: drafts are not sampled from a softmax."""
        return None

    def _choose(self, logits: Array, noise: Array) -> Array:
        """Return the argmax (R,) of score + noise per row, -1 if its logit is not finite. Does not
        wait for the GPU.
        """
        kernel = kernels.for_array(logits)
        if self.sampling.truncates:
            return kernel.choose(self.sampling.scores(logits), 1.0, noise)
        return kernel.choose(logits, self.sampling.temperature, noise)
