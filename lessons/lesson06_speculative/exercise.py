"""Exercises of lesson 6. Fill in the bodies, then run:

pytest --mine tests/decode/rules/test_chains.py
"""

from collections.abc import Callable, Sequence

from minimtp.backend import numpy as np
from minimtp.decode.rules.residual import (  # noqa: F401  (for your rules)
    block_acceptance,
    one_hot,
    probability_ratio,
    residual_distribution,
)
from minimtp.decode.sampling.random_source import RandomSource


def matching_rule(choose: Callable[[int], int], drafts: Sequence[int]) -> tuple[int, int]:
    """Accept drafts while they equal the target's own choices, then emit the first that differs.

    Rule: y_j = choose(j) is the target's choice after j drafts, a sample from p_j. Continue while
    y_j = d_{j+1}. Emit every y_j.
    Source: Stern et al. 2018 (1811.03115) with the argmax. llama.cpp verifies with sampled choices.
    Guarantee: the output is the output of plain decoding. `choose` is called once per emitted
    token, in order, so random numbers are consumed exactly as in plain decoding. Drafts sampled
    independently from q are accepted with probability sum p q.

    Returns (accepted, token).
    """
    raise NotImplementedError(
        "lesson 6: ask for one choice after the other, as long as they equal the drafts"
    )


def token_rule(
    p: np.ndarray, q: np.ndarray | None, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """Verify drafts one at a time and stop at the first rejection.

    Rule: accept d with probability min(1, p(d) / q(d)). At the first rejection, sample from the
    residual distribution norm(max(p - q, 0)). If all K drafts are accepted, sample one more token
    from p_K.
    Source: Leviathan et al. 2023 (2211.17192), section 2.3 and algorithm 1; Chen et al. 2023
    (2302.01318), algorithm 2.
    Guarantee: every emitted token has the distribution p given the tokens before it, provided d_j
    was sampled from exactly q_{j-1}. Draft j + 1 is accepted with probability sum min(p_j, q_j) = 1
    - TV(p_j, q_j), the maximum for any exact rule that verifies one token at a time.

    p: (K+1, V) float64, p[j] is the target's distribution after j drafts. q: (K, V) float64, or
    None for one-hot drafts. drafts: K tokens. Returns (accepted, token).
    Raises ValueError if q gives a draft probability 0, because then it was not sampled from q.
    """
    raise NotImplementedError(
        "lesson 6: a coin for each draft; at the first rejection, sample from the residual"
    )


def block_rule(
    p: np.ndarray, q: np.ndarray | None, drafts: Sequence[int], rng: RandomSource
) -> tuple[int, int]:
    """Verify d_1 .. d_i as one block for every i, and accept the longest block whose coin succeeds.

    Rule: with the weights w_0 = 1 and w_i = min(1, w_{i-1} p_{i-1}(d_i) / q_{i-1}(d_i)), the coin
    of block i succeeds with probability

        h_i = S_i / (S_i + 1 - w_i),  S_i = sum max(w_i p_i - q_i, 0),     and h_K = w_K

    independently of the others. Accept a drafts, where a is the largest i whose coin succeeds, or 0
    if none does. Sample the token from p_K if a = K, otherwise from norm(max(w_a p_a - q_a, 0)).
    Every block is tried. It would be wrong to stop at the first failure, as the token rule does.
    Source: Sun et al. 2024, "Block verification accelerates speculative decoding" (2403.10444),
    algorithm 2.
    Guarantee: the output has the target's distribution, provided d_j was sampled from exactly
    q_{j-1}. No exact rule for chains accepts more tokens on average. The token rule accepts fewer
    drafts if likely tokens after an unlikely one raise the probability of the block again.

    Arguments, result and errors are the same as for `token_rule`.
    """
    raise NotImplementedError(
        "lesson 6: a coin for every block; accept the longest block whose coin succeeds"
    )
