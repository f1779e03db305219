"""Growing a tree of drafts: the most promising token next, until there are as many as one pass should verify.

A drafter says for a path of drafted tokens what it expects to follow; the rule draws candidates from that and says how likely
each is to be accepted (`verify.Children`). The product of these beliefs along a path is the chance that the path stands, and
the sum of the chances of all rows is the number of drafts that will be accepted. So the best tree of N drafts is the N
candidates with the largest chances, and since a child's is never larger than its parent's or its elder sibling's, taking the
largest again and again finds them (as in EAGLE-2, Li et al. 2024, 2406.16858, and OPT-Tree, Wang et al. 2024, 2406.17276).
Where the drafter is sure the tree is a chain; where it is not, it is broad.

The rules stay exact: whether one more child is taken is decided from beliefs, which do not depend on the tokens drawn there,
and a token that was taken stays.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.rules.trees import Tree
from minimtp.decode.rules.verify import Rule

WIDTH = 4  # candidates for one place


def grow(
    pending: int,
    follow: Callable[[int, int, list[int]], Array],
    rule: Rule,
    nodes: int,
    depth: int,
    min_acceptance: float = 0.0,
) -> Tree:
    """A tree of at most `nodes` drafts, none deeper than `depth` or with a smaller chance than `least_chance`.

    follow(node, parent, path) -> logits (1, V): what the drafter expects after the tokens `path`, drafted behind `pending`;
    the last of them is `node`, whose number is new, and the ones before it are `parent`, which has been asked about before.
    Node 0 is the pending token itself, with the empty path and the parent -1.
    """
    tokens, parents, paths = [pending], [-1], [[]]
    candidates, scores = {}, {}
    # The largest chance first, of equals the earliest; rank -1 is a node about which the drafter has not been asked.
    heap = [(-1.0, 0, 0, -1)]
    count = 0
    while heap and len(tokens) <= nodes:
        chance, _, node, rank = heappop(heap)
        if -chance < min_acceptance:
            break
        if rank < 0:
            if len(paths[node]) == depth:
                continue
            drawn = rule.draw_children(follow(node, parents[node], paths[node]), paths[node], WIDTH)
            candidates[node], scores[node] = (chance, drawn), drawn.scores
        else:
            heappush(heap, (chance, count, len(tokens), -1))
            parents.append(node)
            tokens.append(candidates[node][1].tokens[rank])
            paths.append([*paths[node], tokens[-1]])
        count += 1
        before, drawn = candidates[node]
        if rank + 1 < len(drawn.tokens):
            heappush(heap, (before * drawn.beliefs[rank + 1], count, node, rank + 1))
    return depth_first(tokens, parents, None if scores.get(0) is None else scores)


def depth_first(
    tokens: Sequence[int], parents: Sequence[int], scores: Mapping[int, np.ndarray] | None = None
) -> Tree:
    """The tree of N + 1 nodes in any order in which a parent comes before its children, these as they were drawn.

    tokens, parents: by node, -1 is the root's parent. scores: by node (1, V), of those about which the drafter was asked.
    """
    children: list[list[int]] = [[] for _ in tokens]
    for node in range(len(tokens) - 1, 0, -1):
        children[parents[node]].append(node)  # the last first, as a stack wants them
    order, depths, ahead = [], [], [(0, 0)]
    while ahead:
        node, depth = ahead.pop()
        order.append(node)
        depths.append(depth)
        ahead += [(child, depth + 1) for child in children[node]]
    laws = None
    if scores is not None:
        laws = np.zeros((len(tokens), scores[0].shape[1]), scores[0].dtype)
        for row, node in enumerate(order):
            if node in scores:
                laws[row] = scores[node][0]
    return Tree([tokens[node] for node in order], depths, laws)
