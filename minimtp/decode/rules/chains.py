"""Rules for a chain of drafts d_1 .. d_K: how many of them stand, and which token follows those.

In all of them p (K+1, V) are the target's final laws, p_j that of the next token given d_1 .. d_j, and q (K, V) the laws
that the drafts were drawn from. Tokens are emitted with the law p given the ones before, whatever q is:

    rule       a draft's fate                                                   accepted on average
    matching   it is what the target itself chose                               depends on how the target chooses
    token      a coin of its own: min(1, p(d) / q(d))                           most, for one token at a time
    block      a coin of its own, for the whole chain up to it; the last        most, for chains: never less than the
               one that succeeds decides, so a poor token may be outvoted       token rule

One-hot drafts (the most probable token, an n-gram) are drafts with a one-hot q. Then d is accepted with probability p(d),
p without d is what is left, and the three rules accept equally often.
"""

from collections.abc import Callable, Sequence

from minimtp.backend import numpy as np
from minimtp.decode.sampling import RandomSource


def matching_rule(choose: Callable[[int], int], drafts: Sequence[int]) -> tuple[int, int]:
    """Accept drafts for as long as they are what the target itself chose; the first choice that differs is the token.

    Rule: y_j = choose(j) is the target's own choice, a draw from p_j; go on while y_j = d_{j+1}; emit every y_j.
    Source: Stern et al. 2018 (1811.03115) for the argmax; sampled choices are what llama.cpp verifies with.
    Guarantee: only the target's own choices are ever emitted, so any draft at all is safe, even one that was picked among
    several or dropped halfway. `choose` is asked once for each token that is emitted and in order, so randomness is used up
    exactly as plain decoding uses it up. Drafts drawn independently from q are accepted with probability sum p q only.

    Returns (accepted, token).
    """
    for j, draft in enumerate(drafts):
        choice = choose(j)
        if choice != draft:
            return j, choice
    return len(drafts), choose(len(drafts))


def token_rule(
    p: np.ndarray, q: np.ndarray | None, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """The token rule of speculative sampling: judge the drafts one at a time, stop at the first that fails.

    Rule: accept d with probability min(1, p(d) / q(d)); at the first rejection draw from norm(max(p - q, 0)); when all
    are accepted draw one more from p_K.
    Source: Leviathan et al. 2023 (2211.17192), Chen et al. 2023 (2302.01318).
    Guarantee: every emitted token has the law p given the ones before it, provided d_j was drawn from exactly q_{j-1}.
    Draft j + 1 is accepted with probability sum min(p_j, q_j), the most that any rule judging one token at a time can
    reach.

    p: (K+1, V) float64. q: (K, V) float64, or None for one-hot drafts. drafts: K tokens.
    Returns (accepted, token). Raises ValueError for a draft that its own law excludes, since then q is not its law.
    """
    q = one_hot(drafts, p.shape[1]) if q is None else q
    for j, draft in enumerate(drafts):
        if not rng.happens(ratio(p[j], q[j], draft)):
            return j, rng.choose(residual(p[j], q[j]))
    return len(drafts), rng.choose(p[len(drafts)])


def block_rule(
    p: np.ndarray, q: np.ndarray | None, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """The block rule: judge d_1 .. d_i as one block for every i, and keep the longest block that stands.

    Rule: with the weights pi_0 = 1 and pi_i = min(1, pi_{i-1} p_{i-1}(d_i) / q_{i-1}(d_i)), block i stands with probability

        h_i = S_i / (S_i + 1 - pi_i),  S_i = sum max(pi_i p_i - q_i, 0),     and h_K = pi_K

    independently of the others. Accept a = the largest i whose block stands, 0 if none does. Draw the token from p_K when
    a = K, else from norm(max(pi_a p_a - q_a, 0)). Every block is tried: a coin that fails does not end it, which is where
    this rule is easily turned into a wrong one.
    Source: Sun et al. 2024, "Block verification accelerates speculative decoding" (2403.10444).
    Guarantee: the text has the target's law, provided d_j was drawn from exactly q_{j-1}. No rule for chains accepts more
    tokens on average; the token rule accepts fewer wherever an unlikely token is followed by ones that make up for it.

    Arguments, result and errors are those of `token_rule`.
    """
    q = one_hot(drafts, p.shape[1]) if q is None else q
    accepted, accepted_weight, weight = 0, 1.0, 1.0
    for i, draft in enumerate(drafts, start=1):
        weight = min(1.0, weight * ratio(p[i - 1], q[i - 1], draft))
        stands = weight if i == len(drafts) else block_chance(p[i], q[i], weight)
        if rng.happens(stands):
            accepted, accepted_weight = i, weight
    if accepted == len(drafts):
        return accepted, rng.choose(p[accepted])
    return accepted, rng.choose(residual(p[accepted], q[accepted], accepted_weight))


def ratio(p: np.ndarray, q: np.ndarray, draft: int) -> float:
    """p(d) / q(d) of a drawn draft. Raises ValueError where q(d) = 0: then q is not the law it was drawn from."""
    if q[draft] <= 0:
        raise ValueError(
            f"token {draft} was drafted, but the law it is said to be drawn from excludes it"
        )
    return float(p[draft]) / float(q[draft])


def block_chance(p: np.ndarray, q: np.ndarray, weight: float) -> float:
    """S / (S + 1 - weight), S = sum max(weight p - q, 0): of the target's mass that drafts will not bring, the share that
    this block has to bring itself. 1 where there is none (0 / 0): p = q and weight 1, so nothing is ever rejected."""
    mass = float(np.maximum(weight * p - q, 0.0).sum())
    missing = mass + (
        1.0 - weight
    )  # in this order a weight of 1 gives exactly 1, however small the mass
    return mass / missing if missing > 0 else 1.0


def residual(p: np.ndarray, q: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """norm(max(weight p - q, 0)), (V,): what p still owes after q's proposals; p itself where rounding leaves no mass."""
    rest = np.maximum(weight * p - q, 0.0)
    mass = rest.sum()
    return rest / mass if mass > 0 else p


def one_hot(drafts: Sequence[int], vocabulary_size: int) -> np.ndarray:
    """(K, V) laws of drafts that were not drawn at all."""
    laws = np.zeros((len(drafts), vocabulary_size))
    laws[np.arange(len(drafts)), list(drafts)] = 1.0
    return laws
