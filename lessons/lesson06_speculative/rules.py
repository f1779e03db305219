"""Two wrong rules, and the exact distribution of a drafted byte under any rule."""

from collections.abc import Callable, Sequence

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.residual import probability_ratio, residual_distribution
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling.params import softmax
from minimtp.decode.sampling.random_source import RandomSource
from minimtp.engine.tensor import no_grad
from minimtp.model.heads import MultiTokenModel


def accept_everything(
    p: np.ndarray, q: np.ndarray, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """Wrong: accept every draft."""
    return len(drafts), rng.choose(p[-1])


def resample_from_p(
    p: np.ndarray, q: np.ndarray, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """Wrong: the token rule, but a rejected draft is replaced with a sample from p."""
    for j, draft in enumerate(drafts):
        if not rng.happens(probability_ratio(p[j], q[j], draft)):
            return j, rng.choose(p[j])
    return len(drafts), rng.choose(p[-1])


# The library's class, with a wrong function in the place of the token rule.
class AcceptEverything(TokenRule):
    chain = staticmethod(accept_everything)


class ResampleFromP(TokenRule):
    chain = staticmethod(resample_from_p)


def output_distribution(
    p: np.ndarray, q: np.ndarray, replacement: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the distribution of a drafted byte, for each row of p and q (R, V).

    The draft is sampled from q and accepted with probability min(1, p / q). Otherwise a byte is
    sampled from replacement(p, q).
    """
    accepted = np.minimum(p, q)  # q min(1, p / q)
    rejected = 1 - accepted.sum(axis=-1, keepdims=True)
    return accepted + rejected * np.array([replacement(*row) for row in zip(p, q, strict=True)])


# The distribution of a drafted byte under each rule, by the name that the run prints.
DRAFTED_BYTE = {
    "accept every draft": lambda p, q: q,
    "resample from the model's distribution": lambda p, q: output_distribution(
        p, q, lambda p, q: p
    ),
    "resample from the residual distribution": lambda p, q: output_distribution(
        p, q, residual_distribution
    ),
}


def total_variation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the total variation distance of two distributions (R, V), as a mean over the rows."""
    return float(np.abs(one - other).sum(axis=-1).mean() / 2)


def next_byte(model: MultiTokenModel, texts: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the distributions p and q (P, V) of the byte after each of (P, T) texts.

    p is the model's distribution. q is the distribution of the first head, which starts from the
    state one position earlier.
    """
    with no_grad():
        hidden = model.hidden(texts)  # (P, T, D)
        states = model.heads.states(hidden[:, -2:-1], texts[:, -1:, None], model.trunk)
        logits = model.logits(hidden[:, -1]), model.logits(next(states)[:, 0])
    return tuple(softmax(to_numpy(rows.data).astype(np.float64)) for rows in logits)
