"""Rules that look right and are wrong, and what any rule does to the law of a byte, added up exactly."""

from collections.abc import Callable, Sequence

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.residual import probability_ratio, residual_distribution
from minimtp.decode.rules.token import TokenRule
from minimtp.decode.sampling import RandomSource, softmax
from minimtp.engine.tensor import no_grad
from minimtp.model.heads import MultiTokenModel


def trusting_rule(
    p: np.ndarray, q: np.ndarray, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """Wrong: every draft stands."""
    return len(drafts), rng.choose(p[-1])


def forgetful_rule(
    p: np.ndarray, q: np.ndarray, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """Wrong: the token rule, but what replaces a rejected draft is drawn from the model's whole law."""
    for j, draft in enumerate(drafts):
        if not rng.happens(probability_ratio(p[j], q[j], draft)):
            return j, rng.choose(p[j])
    return len(drafts), rng.choose(p[-1])


class Trusting(TokenRule):
    chain = staticmethod(trusting_rule)


class Forgetful(TokenRule):
    chain = staticmethod(forgetful_rule)


def emitted(
    p: np.ndarray, q: np.ndarray, instead: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """The laws (R, V) of a byte drafted from q (R, V) and kept with probability min(1, p / q), or else from instead(p, q)."""
    kept = np.minimum(p, q)  # q min(1, p / q)
    rejected = 1 - kept.sum(axis=-1, keepdims=True)
    return kept + rejected * np.array([instead(*pair) for pair in zip(p, q, strict=True)])


# What becomes of one drafted byte's law under each rule, by the names that the run prints.
ONE_BYTE = {
    "every draft stands": lambda p, q: q,
    "replaced by the model's law": lambda p, q: emitted(p, q, lambda p, q: p),
    "replaced by what is left": lambda p, q: emitted(p, q, residual_distribution),
}


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation of two laws (R, V), averaged over the rows: the share of draws in which they differ at best."""
    return float(np.abs(one - other).sum(axis=-1).mean() / 2)


def next_byte(model: MultiTokenModel, texts: Array) -> tuple[np.ndarray, np.ndarray]:
    """The laws p and q (P, V) of the byte after (P, T) texts: the model's, and its first head's, which sees a state less."""
    with no_grad():
        hidden = model.hidden(texts)  # (P, T, D)
        state = next(
            model.heads.states(hidden[:, -2:-1], texts[:, -1:, None], model.trunk)
        )  # (P, 1, D)
        logits = model.logits(hidden[:, -1]), model.logits(state[:, 0])
    return tuple(softmax(to_numpy(rows.data).astype(np.float64)) for rows in logits)
