"""The formulas of rejection sampling, for the target's distribution p and the drafter's
distribution q, both (V,) float64.
"""

from collections.abc import Sequence

from minimtp.backend import numpy as np


def probability_ratio(p: np.ndarray, q: np.ndarray, draft: int) -> float:
    """Return p(d) / q(d). Raises ValueError if q(d) = 0, because then d was not sampled from q."""
    if q[draft] <= 0:
        raise ValueError(
            f"token {draft} was drafted, but its declared draft distribution gives it probability 0"
        )
    return float(p[draft]) / float(q[draft])


def residual_distribution(p: np.ndarray, q: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """Return norm(max(weight p - q, 0)), (V,), or p if rounding leaves no mass."""
    rest = np.maximum(weight * p - q, 0.0)
    mass = rest.sum()
    return rest / mass if mass > 0 else p


def block_acceptance(p: np.ndarray, q: np.ndarray, weight: float) -> float:
    """Return S / (S + 1 - weight) with S = sum max(weight p - q, 0) (Sun et al. 2024, 2403.10444).

    If S = 0 and weight = 1 (p = q, so nothing is ever rejected), the result is 1.
    """
    mass = float(np.maximum(weight * p - q, 0.0).sum())
    total = mass + (1.0 - weight)  # in this order, weight 1 gives exactly 1 even for a tiny mass
    return mass / total if total > 0 else 1.0


def without_token(q: np.ndarray, token: int) -> np.ndarray:
    """Return q without `token`, renormalized: the distribution of the next distinct sample.

    All zeros if no mass is left.
    """
    rest = q.copy()
    rest[token] = 0.0
    mass = rest.sum()
    return rest / mass if mass > 0 else rest


def one_hot(drafts: Sequence[int], vocabulary_size: int) -> np.ndarray:
    """Return the distributions (K, V) of drafts that were not sampled."""
    distributions = np.zeros((len(drafts), vocabulary_size))
    distributions[np.arange(len(drafts)), list(drafts)] = 1.0
    return distributions
