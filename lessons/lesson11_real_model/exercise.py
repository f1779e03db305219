r"""Exercises of lesson 11. Fill in the bodies, then run:

pytest --mine tests/model/test_divergence.py \
    tests/compare/pretrained/test_repetition.py \
    tests/compare/pretrained/test_claims.py
"""

from collections.abc import Sequence

from minimtp.backend import Array, array_module  # noqa: F401  (for your answers)
from minimtp.backend import numpy as np
from minimtp.compare.pretrained.measurement import NGRAM  # noqa: F401
from minimtp.compare.result_cache import Figures


def kl_divergence(expected: Array, logits: Array) -> Array:
    """Return KL(softmax(expected) || softmax(logits)) of each row: two (M, V) -> (M,), in nats."""
    raise NotImplementedError(
        "lesson 11: the mean of log p - log q, where p itself says how often each token comes"
    )


def repetition(texts: Sequence[Sequence[int]], prompts: Sequence[np.ndarray]) -> float:
    """Return the share of the new tokens' n-grams that occurred earlier in the same new text.

    Small models repeat themselves when they decode greedily, and repetitions are easy to draft.
    """
    raise NotImplementedError(
        "lesson 11: how many n-grams has the new part of each text, and how many different ones?"
    )


def recovered(
    standard: Figures, rounded: Figures, better: Figures, measure: str, kind: str
) -> float:
    """Return how much of the loss of `rounded` does not occur in `better`, in percent."""
    raise NotImplementedError(
        "lesson 11: what has rounding lost, and how much of that is still lost in `better`?"
    )
