"""Growing a tree of drafts: the draft that is most likely to be accepted next, until the tree is
full.

For each path of drafted tokens, the drafter predicts the next token. The rule chooses candidates
from this prediction, and acceptance.py estimates how likely each is to be accepted. The product of
the estimates along a path is the probability that the path is accepted, and the sum of these
probabilities over all rows is the expected number of accepted drafts. So the best tree of N drafts
consists of the N candidates with the highest probabilities. A child's probability is never higher
than that of its parent or of the child before it, so repeatedly taking the highest one finds these
N (as in EAGLE-2, Li et al. 2024, 2406.16858, and OPT-Tree, Wang et al. 2024, 2406.17276). If the
drafter is sure, the tree is a chain. If not, it is broad.

The rules stay exact. Whether one more child is taken depends only on estimates, which do not depend
on the sampled tokens. And a token that was taken is never removed.
"""

from collections.abc import Callable, Mapping, Sequence

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.drafters.acceptance import estimated_acceptance
from minimtp.decode.rules.rule import Coupling, Rule
from minimtp.decode.rules.tree import Tree
from minimtp.kernels.plain.decoding.best_first_tree import best_first_tree

WIDTH = 4  # maximum number of children of a node

Follow = Callable[[int, int, list[int]], Array]


def grow(
    pending: int, follow: Follow, rule: Rule, nodes: int, depth: int, min_acceptance: float = 0.0
) -> Tree:
    """Return a tree of up to `nodes` drafts, at most `depth` deep, each with an estimate of at
    least `min_acceptance`.

    follow(node, parent, path) -> logits (1, V): the drafter's prediction after the drafted tokens
    `path`. `node` is the number of the last of these tokens, and was never passed before. `parent`
    is the number of the token before it, which was passed before. Node 0 is the pending token, with
    an empty path and the parent -1.
    """
    scores = {}

    def candidates(node: int, parent: int, path: list[int]) -> tuple[list[int], list[float]]:
        children = rule.sample_children(follow(node, parent, path), path, WIDTH)
        if rule.coupling is Coupling.REJECTION_SAMPLING:
            scores[node] = children.scores
        return children.tokens, estimated_acceptance(children, rule.coupling)

    tokens, parents = best_first_tree(pending, candidates, nodes, depth, min_acceptance)
    return depth_first(tokens, parents, scores or None)


def depth_first(
    tokens: Sequence[int], parents: Sequence[int], scores: Mapping[int, np.ndarray] | None = None
) -> Tree:
    """Return the tree of these N + 1 nodes. Parents must come before their children, and siblings
    in the order in which they were sampled.

    tokens, parents: by node; the root's parent is -1. scores: by node, the scores (1, V) from which
    its children were sampled.
    """
    children: list[list[int]] = [[] for _ in tokens]
    for node in range(len(tokens) - 1, 0, -1):
        children[parents[node]].append(node)  # the last child first, because a stack reverses them
    order, depths, stack = [], [], [(0, 0)]
    while stack:
        node, depth = stack.pop()
        order.append(node)
        depths.append(depth)
        stack += [(child, depth + 1) for child in children[node]]
    rows = None
    if scores is not None:
        rows = np.zeros((len(tokens), scores[0].shape[1]), scores[0].dtype)
        for row, node in enumerate(order):
            if node in scores:
                rows[row] = scores[node][0]
    return Tree([tokens[node] for node in order], depths, rows)
