"""Trees of drafts: several continuations verified in one pass, and the rules that choose a path through them.

A chain that fails at its first token has brought nothing. A tree drafts several candidates where the drafter is unsure,
and one pass of the target over all of them says which path stands. Rows of a tree, its root included, are numbered in
depth-first order, so that the depths alone say everything about its form:

    row      0        1     2     3     4     5            pending --- a --- b
    token    pending  a     b     c     d     e                     |    `-- c
    depth    0        1     2     2     1     2                     `- d --- e
    parent   -        0     1     1     0     4

Row 0 is the pending token. The children of a row are the tokens drafted to follow it, in the order in which they were drawn.
A rule returns a path, the accepted rows from the root down without the root, and the token that follows it.

    rule                  children                                 in a chain it is
    matching_path         any                                      matching_rule
    recursive_rejection   drawn from q, with or without            token_rule
                          replacement
    traversal             the same                                 block_rule

The form of a tree may depend on everything that was drawn before, but never on a token after it was drawn: a drawn token that
is left out because it looks unlikely makes the rules that compare p with q wrong (only matching stays right).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minimtp.backend import numpy as np
from minimtp.decode.rules.chains import block_chance, ratio, residual
from minimtp.decode.sampling import RandomSource


@dataclass(frozen=True)
class Tree:
    """N drafts behind the pending token, in depth-first order.

    tokens, depths: N + 1 each, those of row 0 are the pending token and 0. scores: (N+1, V) logarithms of the laws that each
    row's children were drawn from, up to a constant a row (rows without children: anything), or None where the children
    were not drawn. replacement: whether a token that was drawn could be drawn again for the same row.
    Raises ValueError for depths that are no depth-first walk.
    """

    tokens: Sequence[int]
    depths: Sequence[int]
    scores: np.ndarray | None = None
    replacement: bool = False
    parents: list[int] = field(init=False)  # -1 for the root
    children: list[list[int]] = field(init=False)  # rows, in the order in which they were drawn

    def __post_init__(self) -> None:
        parents, children, path = [-1], [[] for _ in self.tokens], [0]
        for row, depth in enumerate(self.depths):
            if row and not 1 <= depth <= len(path) or not row and depth:
                raise ValueError(
                    f"row {row} cannot have depth {depth} in a depth-first walk: {list(self.depths)}"
                )
            if row:
                del path[depth:]
                parents.append(path[-1])
                children[path[-1]].append(row)
                path.append(row)
        object.__setattr__(self, "parents", parents)
        object.__setattr__(self, "children", children)

    def path_to(self, row: int) -> list[int]:
        """The rows from the root, which is left out, down to this one."""
        path = []
        while row:
            path.append(row)
            row = self.parents[row]
        return path[::-1]

    def along(self, path: Sequence[int]) -> list[int]:
        """The tokens on a path from the root, and behind it those of the first children: what the drafter believed most."""
        rows = list(path)
        while ahead := self.children[rows[-1] if rows else 0]:
            rows.append(ahead[0])
        return [self.tokens[row] for row in rows]

    def __len__(self) -> int:
        """Drafted tokens."""
        return len(self.tokens) - 1


def matching_path(choose: Callable[[int], int], tree: Tree) -> tuple[list[int], int]:
    """Descend for as long as the target's own choice is a child; the first choice that is none is the token.

    Rule: y = choose(row) is the target's choice after `row`, a draw from its p; go to the child y, else emit y.
    Source: Medusa's and SpecInfer's greedy trees (2401.10774, 2305.09781), with the argmax; with sampled choices it is the
    exact rule for children that were not drawn, such as the k most probable ones.
    Guarantee: as `matching_rule`, of which it is the tree. No exact rule accepts more where children were not drawn: a path
    is taken with the probability that the target gives it.
    """
    path, row = [], 0
    while True:
        token = choose(row)
        row = next((child for child in tree.children[row] if tree.tokens[child] == token), None)
        if row is None:
            return path, token
        path.append(row)


def recursive_rejection(
    p: np.ndarray, q: np.ndarray, tree: Tree, rng: RandomSource
) -> tuple[list[int], int]:
    """The token rule at every row, with another chance for each child.

    Rule: at a row, for its children c in the order drawn: accept c with probability min(1, p'(c) / q'(c)) and go on there;
    else p' becomes norm(max(p' - q', 0)), and, if children are drawn without replacement, q' becomes q' without c,
    renormalised. With no child left, draw the token from p'.
    Source: SpecInfer, Miao et al. 2023 (2305.09781), with replacement; without: Jeon et al. 2024 (2402.14160) and Yang et al.
    2024 (2401.06706).
    Guarantee: the text has the target's law, provided each row's children were drawn from exactly its q, one after another.
    Without replacement no chance is wasted on a token that was rejected already. A first child stands as often as in a
    chain, and the others come on top, so a tree is never behind the chain of its first children.

    p: (N+1, V) float64 final laws of the target. q: (N+1, V) float64, of rows with children the law they were drawn from.
    Returns (path, token). Raises ValueError for a child that its law excludes.
    """
    path, row = [], 0
    while True:
        accepted, wanted, drawn_from = None, p[row], q[row]
        for child in tree.children[row]:
            token = tree.tokens[child]
            if rng.happens(ratio(wanted, drawn_from, token)):
                accepted = child
                break
            wanted = residual(wanted, drawn_from)
            drawn_from = drawn_from if tree.replacement else without(drawn_from, token)
        if accepted is None:
            return path, rng.choose(wanted)
        path.append(accepted)
        row = accepted


def traversal(p: np.ndarray, q: np.ndarray, tree: Tree, rng: RandomSource) -> tuple[list[int], int]:
    """The block rule for trees: judge from the leaves up, so that a path is taken as a whole.

    Rule: a row has a weight, 1 for the root and w(c) = min(1, w p'(c) / q'(c)) for a child c of a row with weight w. Judge the
    first child's own subtree; if nothing in it stands,

        S = sum max(w p' - q', 0),   p' becomes norm(max(w p' - q', 0)),   w becomes S / (S + 1 - w)

    and q' loses c as in `recursive_rejection`; then the next child. With no child left the row itself stands with probability
    w: then the path ends there and the token is drawn from p'.
    Source: Weng et al. 2025, "Traversal verification for speculative tree decoding" (2505.12398).
    Guarantee: the text has the target's law, on the terms of `recursive_rejection`, which it accepts at least as much as; the
    root always stands. In a chain it is the block rule.

    Arguments, result and errors are those of `recursive_rejection`.
    """

    def judge(row: int, weight: float) -> tuple[list[int], int] | None:
        wanted, drawn_from = p[row], q[row]
        for child in tree.children[row]:
            token = tree.tokens[child]
            found = judge(child, min(1.0, weight * ratio(wanted, drawn_from, token)))
            if found:
                return [child, *found[0]], found[1]
            weight, wanted = (
                block_chance(wanted, drawn_from, weight),
                residual(wanted, drawn_from, weight),
            )
            drawn_from = drawn_from if tree.replacement else without(drawn_from, token)
        return ([], rng.choose(wanted)) if rng.happens(weight) else None

    return judge(0, 1.0)


def without(q: np.ndarray, token: int) -> np.ndarray:
    """q with `token` removed, renormalised: the law of the next draw without replacement. Zeros where nothing is left."""
    rest = q.copy()
    rest[token] = 0.0
    mass = rest.sum()
    return rest / mass if mass > 0 else rest
