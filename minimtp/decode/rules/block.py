"""The block rule, and its extension to trees. The drafts of a chain are verified together, so more
of them are accepted.
"""

from collections.abc import Sequence

from minimtp.backend import numpy as np
from minimtp.decode.rules.rejection import RejectionRule
from minimtp.decode.rules.residual import (
    block_acceptance,
    one_hot,
    probability_ratio,
    residual_distribution,
    without_token,
)
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.random_source import RandomSource
from minimtp.kernels.plain.decoding.verification import COMPILED_RULES


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
    q = one_hot(drafts, p.shape[1]) if q is None else q
    accepted, accepted_weight, weight = 0, 1.0, 1.0
    for i, draft in enumerate(drafts, start=1):
        weight = min(1.0, weight * probability_ratio(p[i - 1], q[i - 1], draft))
        probability = weight if i == len(drafts) else block_acceptance(p[i], q[i], weight)
        if rng.happens(probability):
            accepted, accepted_weight = i, weight
    if accepted == len(drafts):
        return accepted, rng.choose(p[accepted])
    return accepted, rng.choose(residual_distribution(p[accepted], q[accepted], accepted_weight))


def traversal(p: np.ndarray, q: np.ndarray, tree: Tree, rng: RandomSource) -> tuple[list[int], int]:
    """The block rule for trees: verify from the leaves up, so that a path is accepted as a whole.

    Rule: a row has a weight, 1 for the root and w(c) = min(1, w p'(c) / q'(c)) for a child c of a
    row with weight w. Verify the subtree of the first child. If nothing in it is accepted,

        S = sum max(w p' - q', 0),   p' becomes norm(max(w p' - q', 0)),   w becomes S / (S + 1 - w)

    and q' loses c as in `recursive_rejection`. Then verify the next child. If no child is left, the
    row itself is accepted with probability w: then the path ends there, and the token is sampled
    from p'.
    Source: Weng et al. 2025, "Traversal verification for speculative tree decoding" (2505.12398).
    Guarantee: the output has the target's distribution, under the condition of
    `recursive_rejection`, and at least as many drafts are accepted on average. The root is always
    accepted. In a chain it is the block rule.

    Arguments, result and errors are the same as for `recursive_rejection`.
    """

    def verify(row: int, weight: float) -> tuple[list[int], int] | None:
        target, draft = p[row], q[row]
        for child in tree.children[row]:
            token = tree.tokens[child]
            found = verify(child, min(1.0, weight * probability_ratio(target, draft, token)))
            if found:
                return [child, *found[0]], found[1]
            rest = residual_distribution(target, draft, weight)
            weight = block_acceptance(target, draft, weight)
            target = rest
            draft = without_token(draft, token)
        return ([], rng.choose(target)) if rng.happens(weight) else None

    return verify(0, 1.0)


COMPILED_RULES[block_rule] = "block"


class BlockRule(RejectionRule):
    """`block_rule` for chains, `traversal` for trees."""

    chain = staticmethod(block_rule)
    tree = staticmethod(traversal)
