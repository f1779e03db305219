"""Greedy verification: the rule at temperature 0."""

from collections.abc import Sequence
from types import ModuleType

from minimtp import kernels
from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.matching import (
    highest_scores,
    matching_path,
    matching_rule,
    require_finite,
)
from minimtp.decode.rules.rule import Children, Coupling, PerturbedArgmax, Scores
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import SamplingParams

UNPERTURBED = PerturbedArgmax(SamplingParams(), noise=None)


class Greedy:
    """Accept drafts that equal the target's argmax. Ties go to the lowest id.

    Source: Stern et al. 2018 (1811.03115), "Blockwise parallel decoding", section 3.
    Guarantee: token for token the output of plain greedy decoding.
    """

    coupling = Coupling.SAME_ARGMAX

    def sample(self, logits: Array, index: int) -> tuple[Array, None]:
        return logits.argmax(axis=-1), None

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: Scores | None
    ) -> tuple[int, int]:
        choices = kernels.for_array(logits).choose(logits, 1.0).tolist()
        return require_finite(*matching_rule(choices.__getitem__, drafts))

    def sample_children(self, logits: Array, path: Sequence[int], width: int) -> Children:
        return highest_scores(to_numpy(logits), width)

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]:
        choices = kernels.for_array(logits).choose(logits, 1.0).tolist()
        return require_finite(*matching_path(choices.__getitem__, tree))

    def perturbed_argmax(self, depth: int, xp: ModuleType = np) -> PerturbedArgmax:
        return UNPERTURBED

    def softmax_points(self, depth: int) -> None:
        """Return None: drafts are not sampled from a softmax."""
        return None
