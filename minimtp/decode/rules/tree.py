"""A tree of drafts: several continuations that one forward pass of the target verifies together.

A chain whose first token is rejected gains nothing. A tree drafts several candidates where the
drafter is unsure, and one forward pass over all of them finds the path to accept. Rows, including
the root, are numbered in depth-first order, so the depths alone determine the shape:

    row      0        1     2     3     4     5            pending --- a --- b
    token    pending  a     b     c     d     e                     |    `-- c
    depth    0        1     2     2     1     2                     `- d --- e
    parent   -        0     1     1     0     4

Row 0 is the pending token: it is committed, but not yet fed to the target. The children of a row
are the tokens drafted to follow it, in the order in which they were sampled.

The shape may depend on everything sampled before a token, but never on the token itself: leaving
out a sampled token because it looks unlikely makes rejection sampling wrong. Only the matching
rules stay exact in that case.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from minimtp.backend import numpy as np


@dataclass(frozen=True)
class Tree:
    """N drafts that follow the pending token, in depth-first order.

    tokens, depths: N + 1 of each; row 0 is the pending token and has depth 0. scores: None if the
    children were not sampled, otherwise (N+1, V). Each row is the logarithm of the distribution
    from which the row's children were sampled, up to a constant. Rows without children have any
    values. The children of a row are distinct tokens.
    Raises ValueError if `depths` are not the depths of a depth-first walk.
    """

    tokens: Sequence[int]
    depths: Sequence[int]
    scores: np.ndarray | None = None
    parents: list[int] = field(init=False)  # by row, -1 for the root
    children: list[list[int]] = field(init=False)  # rows, in the order in which they were sampled

    def __post_init__(self) -> None:
        parents, children, path = [-1], [[] for _ in self.tokens], [0]
        for row, depth in enumerate(self.depths):
            if row and not 1 <= depth <= len(path) or not row and depth:
                depths = list(self.depths)
                raise ValueError(
                    f"row {row} cannot have depth {depth} in a depth-first walk: {depths}"
                )
            if row:
                del path[depth:]
                parents.append(path[-1])
                children[path[-1]].append(row)
                path.append(row)
        object.__setattr__(self, "parents", parents)
        object.__setattr__(self, "children", children)

    def path_to(self, row: int) -> list[int]:
        """Return the rows from the root, which is not included, down to this row."""
        path = []
        while row:
            path.append(row)
            row = self.parents[row]
        return path[::-1]

    def along(self, path: Sequence[int]) -> list[int]:
        """Return the tokens of a path from the root, followed by the tokens of the first children
        that continue it.
        """
        rows = list(path)
        while ahead := self.children[rows[-1] if rows else 0]:
            rows.append(ahead[0])
        return [self.tokens[row] for row in rows]

    def __len__(self) -> int:
        """Return the number of drafts."""
        return len(self.tokens) - 1
