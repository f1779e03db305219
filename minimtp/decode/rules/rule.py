"""The interface of a verification rule: how the drafter samples, and how the target verifies.

A rule couples two distributions: p of the target and q of the drafter. So one object says how
drafts are sampled and how they are verified, both for a chain of drafts and for a tree:

    sample(logits (R, V), index)                 -> draft tokens (R,), number `index` and following,
                                                    and their scores (R, V) or None
    verify(logits (K+1, V), drafts, scores)      -> (accepted, token)

    sample_children(logits (1, V), path, width)  -> up to `width` different tokens that may follow
                                                    the drafted tokens `path`
    verify_tree(logits (N+1, V), tree)           -> (path, token); the path has the accepted rows
                                                    from the root down, without the root

    perturbed_argmax(depth, xp)                  -> how compiled code can choose a whole draft by
                                                    argmax, and
    softmax_points(depth)                        -> how it can sample one; both are None if it has
                                                    to call `sample`

Row j of the target's logits is about the token that follows the first j drafts. Scores (R, V) are
the logarithms of the distributions q that drafts were sampled from, up to a constant per row: the
drafter's logits divided by the temperature. They are None if the rule does not need them, or if a
draft was not sampled. A drafter that knows only some tokens may give only their scores
(`VocabularyScores`): the other tokens have probability 0. A drafter may ignore `sample` and propose
anything, such as n-grams. Drafts without scores count as one-hot: q(d) = 1.

Logits may live on the GPU. Greedy and shared-noise verification choose tokens there, and only the
chosen tokens are copied to the host. The other rules copy rows of scores or probabilities and
verify on the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import NamedTuple, Protocol

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import SamplingParams


class Coupling(Enum):
    """How the choices of a draft token and of the target's token at the same position are related.

    The probability of acceptance depends on it, so the growth of trees uses it
    (drafters/acceptance.py).
    """

    SAME_ARGMAX = "both are an argmax, with the same noise or with none"
    INDEPENDENT = "the draft is the drafter's argmax, the target samples"
    REJECTION_SAMPLING = "the draft is sampled, and accepted with a probability from p and q"


class Children(NamedTuple):
    """Candidate tokens for one place of a tree, the first one to verify first."""

    tokens: list[int]
    scores: np.ndarray  # (1, V), on the host; the children have the highest or were sampled


class PerturbedArgmax(NamedTuple):
    """Each draft is the argmax of the logits, or of their scores (`SamplingParams.scores`) + noise;
    ties go to the lowest id.
    """

    sampling: SamplingParams
    noise: Array | None  # (depth, V) float64, one row per draft; None means no noise


class SoftmaxPoints(NamedTuple):
    """Each draft is sampled from the softmax of its scores (`SamplingParams.scores`): it is the
    token at which the cumulative probability exceeds the draft's point (inverse transform
    sampling).
    """

    sampling: SamplingParams
    points: np.ndarray  # (depth,) float64, from 0 up to 1, but not 1


@dataclass(frozen=True, slots=True)
class VocabularyScores:
    """Scores (K, V') of some tokens. A slice has the scores of these rows."""

    scores: np.ndarray  # (K, V')
    tokens: np.ndarray  # (V',) int64, increasing

    def __getitem__(self, rows: slice) -> "VocabularyScores":
        return VocabularyScores(self.scores[rows], self.tokens)


Scores = np.ndarray | VocabularyScores  # (K, V), of all tokens or of some


class Rule(Protocol):
    """See the module's docstring. A rule serves one sequence: it may count emitted tokens."""

    @property
    def coupling(self) -> Coupling: ...

    def sample(self, logits: Array, index: int) -> tuple[Array, np.ndarray | None]: ...

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: Scores | None
    ) -> tuple[int, int]: ...

    def sample_children(self, logits: Array, path: Sequence[int], width: int) -> Children: ...

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]: ...

    def perturbed_argmax(self, depth: int, xp: ModuleType = np) -> PerturbedArgmax | None: ...

    def softmax_points(self, depth: int) -> SoftmaxPoints | None: ...
