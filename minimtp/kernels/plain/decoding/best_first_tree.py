"""Best-first growth of a tree: the most promising node next, until the tree is full."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

EXPAND = -1  # the rank of a heap entry whose node has no candidates yet

# (node, its parent, the tokens on its path from the root) -> tokens that may follow it, and the
# probability of each, descending
Candidates = Callable[[int, int, list[int]], tuple[Sequence[int], Sequence[float]]]


def best_first_tree(
    root: int, candidates: Candidates, nodes: int, depth: int, min_probability: float
) -> tuple[list[int], list[int]]:
    """Return the tokens and the parents of the `nodes` most probable paths, at most `depth` deep.

    A node's probability is the product of the probabilities along its path. No node is below
    `min_probability`. Ties go to the older parent, then to the first candidate. Node 0 is `root`,
    with parent -1. `candidates` is called once per node, and only for nodes that may get children.
    """
    tokens, parents, paths = [root], [-1], [[]]
    found = {}  # by node: its probability (negated as in the heap), candidates, their probabilities
    heap = [(-1.0, 0, EXPAND)]
    while heap and len(tokens) <= nodes:
        probability, node, rank = heappop(heap)
        if -probability < min_probability:
            break
        if rank == EXPAND:
            if len(paths[node]) == depth:
                continue
            found[node] = probability, *candidates(node, parents[node], paths[node])
        else:
            heappush(heap, (probability, len(tokens), EXPAND))
            parents.append(node)
            tokens.append(found[node][1][rank])
            paths.append([*paths[node], tokens[-1]])
        of_node, following, probabilities = found[node]
        if rank + 1 < len(following):
            heappush(heap, (of_node * probabilities[rank + 1], node, rank + 1))
    return tokens, parents
