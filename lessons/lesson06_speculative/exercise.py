"""Exercises of lesson 6. Fill in the bodies, then run:

pytest --mine tests/decode/rules/test_verify.py
"""

from collections.abc import Callable, Sequence

from minimtp.backend import numpy as np
from minimtp.decode.rules.chains import block_chance, one_hot, ratio, residual  # noqa: F401  (for your rules)
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
    raise NotImplementedError(
        "lesson 6: ask for one choice after the other, for as long as the drafts are what was chosen"
    )


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
    raise NotImplementedError(
        "lesson 6: a coin for each draft; what is left of p for the first that fails"
    )


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
    raise NotImplementedError(
        "lesson 6: a coin for each block, every one of them; the longest that stands"
    )
