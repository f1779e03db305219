"""The token rule, which is the rejection sampling of the first papers on speculative decoding, and
its extension to trees.
"""

from collections.abc import Sequence

from minimtp.backend import numpy as np
from minimtp.decode.rules.rejection import RejectionRule
from minimtp.decode.rules.residual import (
    one_hot,
    probability_ratio,
    residual_distribution,
    without_token,
)
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.random_source import RandomSource
from minimtp.kernels.plain.decoding.verification import COMPILED_RULES


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
    q = one_hot(drafts, p.shape[1]) if q is None else q
    for j, draft in enumerate(drafts):
        if not rng.happens(probability_ratio(p[j], q[j], draft)):
            return j, rng.choose(residual_distribution(p[j], q[j]))
    return len(drafts), rng.choose(p[len(drafts)])


def recursive_rejection(
    p: np.ndarray, q: np.ndarray, tree: Tree, rng: RandomSource
) -> tuple[list[int], int]:
    """The token rule at every row of a tree, with another chance for each child.

    Rule: at a row, for its children c in the order sampled: accept c with probability min(1, p'(c)
    / q'(c)) and continue at c. Otherwise p' becomes norm(max(p' - q', 0)), and q' becomes q'
    without c, renormalized, because children are sampled without replacement. If no child is left,
    sample the token from p'.
    Source: Jeon et al. 2024 (2402.14160) and Yang et al. 2024 (2401.06706). SpecInfer, Miao et al.
    2023 (2305.09781), samples with replacement, and so keeps q'.
    Guarantee: the output has the target's distribution, provided each row's children were sampled
    one after another from exactly its q. A first child is accepted as often as in a chain, and the
    other children can be accepted in addition. So a tree never accepts fewer drafts than the chain
    of its first children.

    p: (N+1, V) float64, the target's distributions. q: (N+1, V) float64, the distributions that the
    rows' children were sampled from. Returns (path, token). Raises ValueError if q gives a child
    probability 0.
    """
    path, row = [], 0
    while True:
        accepted, target, draft = None, p[row], q[row]
        for child in tree.children[row]:
            token = tree.tokens[child]
            if rng.happens(probability_ratio(target, draft, token)):
                accepted = child
                break
            target = residual_distribution(target, draft)
            draft = without_token(draft, token)
        if accepted is None:
            return path, rng.choose(target)
        path.append(accepted)
        row = accepted


COMPILED_RULES[token_rule] = "token"


class TokenRule(RejectionRule):
    """`token_rule` for chains, `recursive_rejection` for trees."""

    chain = staticmethod(token_rule)
    tree = staticmethod(recursive_rejection)
