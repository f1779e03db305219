"""A function as a drafter."""

from collections.abc import Callable, Sequence

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Rule

Drafts = tuple[Sequence[int] | Array, np.ndarray | None]
DraftFunction = Callable[[list[int], int, Rule], Drafts]


class FunctionDrafter:
    """Drafts with any function of the text so far: function(tokens, depth, rule) -> (drafts, scores
    or None).
    """

    reads_hidden = False
    stops_early = False
    min_confidence = 0.0

    def __init__(self, function: DraftFunction, max_depth: int) -> None:
        self.function = function
        self.max_depth = max_depth
        self.tokens: list[int] = []

    def clone(self) -> "FunctionDrafter":
        return FunctionDrafter(self.function, self.max_depth)

    def reset(self, first_token: int) -> None:
        self.tokens = [first_token]

    def commit(self, hidden: Array | None, tokens: np.ndarray) -> None:
        self.tokens += tokens.tolist()

    def draft(self, depth: int, rule: Rule) -> Drafts:
        return self.function(self.tokens, depth, rule)
